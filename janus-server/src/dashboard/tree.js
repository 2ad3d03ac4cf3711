/** The view "Supervision": the tree of supervisors and actors, with all trouble in sight. */

import { Table, button, later, put } from "./table.js";
import { count, counted, duration, show } from "./text.js";

/** Children that the server lists of each supervisor. */
const LIMIT = 200;

const isTroubled = ({ state, restarts }) => state !== "running" || restarts > 0;
const isDown = ({ state }) => state === "quarantined" || state === "restarting" || state === "stopped";

export class Tree {
  views = [`tree?limit=${LIMIT}`];
  #page;
  #table;
  #form = document.getElementById("tree-filters");
  #closed = new Set();
  #last = null;

  constructor(page) {
    this.#page = page;
    this.#table = new Table(document.getElementById("tree-table"), {
      keyOf: ({ path }) => path,
      empty: () => (this.#last ? "Nothing matches. Without trouble every part runs, and none was restarted." : "The server has sent no tree."),
      decorate: (row, { node }) => {
        row.classList.toggle("bad", isDown(node));
        row.classList.toggle("warn", !isDown(node) && isTroubled(node));
      },
      columns: [
        { name: "Part", className: "name part", make: (cell, entry) => this.#part(cell, entry), fill: (cell, entry) => this.#fillPart(cell, entry) },
        { name: "State", className: "state", fill: (cell, { node }) => this.#fillState(cell, node) },
        { name: "Restarts", title: "Since the supervisor of this part started", className: "number", fill: (cell, { node }) => put(cell, node.restarts > 0 ? count(node.restarts) : "") },
        { name: "Last end", className: "wide", fill: (cell, { node }) => show(cell, node.last_reason ?? "") },
      ],
    });
    this.#form.addEventListener("input", later(200, () => this.#page.remember("tree", this.#filters())));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
  }

  #filters() {
    const { trouble, name } = Object.fromEntries(new FormData(this.#form));
    return { trouble: trouble ? "yes" : "", name };
  }

  open(parameters) {
    this.#page.fill(this.#form, parameters);
    if (this.#last) this.#draw();
  }

  #part(cell, entry) {
    const fold = button("▾", () => {
      const { path } = entry();
      if (!this.#closed.delete(path)) this.#closed.add(path);
      this.#draw();
    });
    fold.className = "fold";
    cell.append(fold, document.createElement("bdi"), document.createElement("small"));
  }

  #fillPart(cell, { node, path, depth }) {
    const [fold, name, note] = cell.children;
    cell.style.setProperty("--depth", depth);
    const isOpen = !this.#closed.has(path);
    fold.hidden = node.kind === "worker";
    fold.disabled = !node.children?.length;
    fold.ariaExpanded = isOpen;
    put(fold, isOpen ? "▾" : "▸");
    show(name, node.name);
    fold.ariaLabel = `Parts of ${name.textContent}`;
    const children = node.children?.length ?? 0;
    put(note, node.numbered > 0 ? counted(node.numbered, "numbered part") : !isOpen || children >= 10 ? counted(children, "part") : "");
  }

  #fillState(cell, node) {
    const wait = node.due_in_ms ?? null;
    put(cell, wait === null ? node.state : `${node.state}, starts in ${duration(wait)}`);
  }

  answer(_view, answer) {
    this.#last = answer;
    this.#draw();
  }

  #draw() {
    const { trouble, name } = this.#filters();
    const rows = [];
    const sums = { parts: 0, restarted: 0, down: 0 };
    // The order of a depth-first walk; parts above a match stay, to show where the match is.
    const walk = (node, path, depth, isFolded) => {
      sums.parts += 1 + (node.numbered ?? 0);
      if (node.restarts > 0) sums.restarted += 1;
      if (isDown(node)) sums.down += 1;
      const row = { node, path, depth };
      const place = rows.length;
      if (!isFolded) rows.push(row);
      let matches = (!trouble || isTroubled(node)) && (!name || node.name.includes(name));
      // Of thousands of topics, those in trouble would be out of sight in their own order. The sort keeps that order otherwise.
      for (const child of (node.children ?? []).toSorted((a, b) => isTroubled(b) - isTroubled(a))) {
        const folded = isFolded || this.#closed.has(path);
        matches = walk(child, `${path}\u0000${child.name}`, depth + 1, folded) || matches;
      }
      if (!matches && !isFolded) rows.splice(place, rows.length - place);
      return matches;
    };
    walk(this.#last.tree, this.#last.tree.name, 0, false);
    const unlisted = this.#last.unlisted;
    sums.parts += unlisted;
    const states = [
      counted(sums.parts, "part"),
      sums.down > 0 ? `${count(sums.down)} down` : "none is down",
      sums.restarted > 0 ? `${count(sums.restarted)} restarted` : "none was restarted",
    ];
    const more = unlisted > 0 ? ` ${count(unlisted)} more are not listed: the server lists ${LIMIT} parts of each supervisor.` : "";
    put(document.getElementById("tree-shown"), `${states.join(", ")}.${more}`);
    this.#table.update(rows);
  }

  refused(_view, { message }) {
    this.#table.say(`The server refuses the tree: ${message}`);
  }
}
