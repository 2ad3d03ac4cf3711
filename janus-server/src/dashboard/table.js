/** Tables that follow a list: a row for each entry, kept while the entry is listed, so that focus and text marks stay. */

/**
 * A column: `{ name, title, fill(cell, entry) }`, and at will `sort` (the name by which the server sorts; "up" in `order`
 * if the list rises), `className`, and `make(cell, entryOf)`, which puts elements into a new cell.
 */
export class Table {
  #body = document.createElement("tbody");
  #heads = new Map();
  #rows = new Map();
  #columns;
  #keyOf;
  #empty;
  #decorate;

  /** `onSort` is called with the `sort` of a column. `decorate(row, entry)` may mark a row. */
  constructor(element, { columns, keyOf, empty, onSort, decorate }) {
    Object.assign(this, { element });
    this.#columns = columns;
    this.#keyOf = keyOf;
    this.#empty = empty;
    this.#decorate = decorate;
    const head = document.createElement("tr");
    for (const column of columns) head.append(this.#head(column, onSort));
    const section = document.createElement("thead");
    section.append(head);
    element.replaceChildren(section, this.#body);
    this.say("Waiting for the server …");
  }

  #head({ name, title, sort, className }, onSort) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = className ?? "";
    if (!sort) {
      cell.textContent = name;
      cell.title = title ?? "";
      return cell;
    }
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: name, title: title ?? "" });
    button.addEventListener("click", () => onSort(sort));
    cell.append(button);
    this.#heads.set(sort, cell);
    return cell;
  }

  /** Marks the column by which the list is sorted. */
  sortedBy(sort, isRising) {
    for (const [of, cell] of this.#heads) {
      if (of === sort) cell.ariaSort = isRising ? "ascending" : "descending";
      else cell.removeAttribute("aria-sort");
    }
  }

  /** Says why there are no rows. */
  say(words) {
    const [row, cell] = [document.createElement("tr"), document.createElement("td")];
    cell.colSpan = this.#columns.length;
    cell.className = "empty";
    cell.textContent = words;
    row.append(cell);
    this.#rows.clear();
    this.#body.replaceChildren(row);
  }

  update(list) {
    if (list.length === 0) {
      this.say(this.#empty());
      return;
    }
    const focused = this.#body.contains(document.activeElement) ? document.activeElement : null;
    const rows = new Map();
    for (const entry of list) {
      const key = this.#keyOf(entry);
      const row = this.#rows.get(key) ?? this.#row();
      row.entry = entry;
      this.#columns.forEach((column, place) => column.fill?.(row.cells[place], entry));
      this.#decorate?.(row.element, entry);
      rows.set(key, row);
    }
    this.#rows = rows;
    this.#arrange([...rows.values()].map((row) => row.element));
    // Moving an element takes its focus away.
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  /** Brings the rows into this order, and moves only rows that are out of place. */
  #arrange(elements) {
    const wanted = new Set(elements);
    for (const child of [...this.#body.children]) if (!wanted.has(child)) child.remove();
    let next = this.#body.firstChild;
    for (const element of elements) {
      if (element === next) next = next.nextSibling;
      else this.#body.insertBefore(element, next);
    }
  }

  #row() {
    const row = { entry: null, element: document.createElement("tr"), cells: [] };
    for (const { name, className, make } of this.#columns) {
      const cell = document.createElement("td");
      cell.className = className ?? "";
      // A narrow screen shows the cells below each other, each with the name of its column.
      cell.dataset.label = name;
      make?.(cell, () => row.entry);
      row.cells.push(cell);
      row.element.append(cell);
    }
    return row;
  }
}

/** Sets the text of a cell whose text is the server's own; strangers' texts take `show`. */
export function put(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

/** Sets a number's text, and makes a zero pale, so that the eye finds the others. */
export function putNumber(cell, number, words) {
  put(cell, words(number));
  cell.classList.toggle("dim", !(number > 0));
}

export function button(label, action) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", textContent: label });
  element.addEventListener("click", action);
  return element;
}

/** Calls a function once the calls have paused: an operator who types does not ask the server for each letter. */
export function later(ms, action) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, ms);
  };
}
