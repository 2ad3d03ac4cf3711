/** The view "Clients": the connections, sorted and filtered by the server, and the dialog that closes a client. */

import { post } from "./api.js";
import { Table, button, later, put, putNumber } from "./table.js";
import { bytes, count, counted, duration, show, visible } from "./text.js";

const SORTS = ["lag", "queued_bytes", "number"];

export class Clients {
  #page;
  #table;
  #form = document.getElementById("client-filters");
  #pages = document.getElementById("client-pages");
  #sort = SORTS[0];
  #after = "";
  #next = null;

  constructor(page) {
    this.#page = page;
    this.#table = new Table(document.getElementById("client-table"), {
      keyOf: ({ connection }) => connection,
      empty: () => this.#empty(),
      onSort: (sort) => this.#change({ sort, after: "" }),
      decorate: (row, { lagging_for_ms }) => row.classList.toggle("warn", lagging_for_ms > 0),
      columns: [
        { name: "Number", sort: "number", className: "id", fill: (cell, { connection }) => put(cell, `#${connection}`) },
        { name: "Peer", className: "name", fill: (cell, { peer }) => show(cell, peer ?? "") },
        { name: "User", className: "user", make: (cell) => cell.append(document.createElement("bdi")), fill: (cell, { user }) => show(cell.firstChild, user ?? "") },
        { name: "Transport", fill: (cell, { transport }) => put(cell, transport) },
        { name: "Topics", className: "number", fill: (cell, { topics }) => putNumber(cell, topics, count) },
        { name: "Lags for", sort: "lag", title: "How long the client's queue has not been empty", className: "number", fill: (cell, { lagging_for_ms }) => putNumber(cell, lagging_for_ms, (ms) => (ms > 0 ? duration(ms) : "no lag")) },
        { name: "Queue", sort: "queued_bytes", title: "Bytes that wait for the client", className: "number", fill: (cell, { queued_bytes }) => putNumber(cell, queued_bytes, bytes) },
        { name: "Frames", title: "Frames that wait for the client", className: "number", fill: (cell, { queued_frames }) => putNumber(cell, queued_frames, count) },
        { name: "", className: "actions", make: (cell, entry) => cell.append(page.closeButton(entry)) },
      ],
    });
    const changed = later(300, () => this.#change({ after: "" }));
    this.#form.addEventListener("input", changed);
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("first-clients").addEventListener("click", () => this.#change({ after: "" }));
    document.getElementById("next-clients").addEventListener("click", () => this.#change({ after: this.#next }));
  }

  get views() {
    const { limit, ...filters } = this.#filters();
    const query = new URLSearchParams({ sort: this.#sort, limit });
    for (const [name, value] of Object.entries(filters)) if (value) query.set(name, value);
    if (this.#sort === "number" && this.#after) query.set("after", this.#after);
    return [`connections?${query}`];
  }

  #filters() {
    const filters = Object.fromEntries(new FormData(this.#form));
    filters.peer = filters.peer.trim();
    return filters;
  }

  open(parameters) {
    this.#sort = SORTS.includes(parameters.get("sort")) ? parameters.get("sort") : SORTS[0];
    this.#after = parameters.get("after") ?? "";
    this.#page.fill(this.#form, parameters);
    this.#table.sortedBy(this.#sort, this.#sort === "number");
    this.#pages.hidden = this.#sort !== "number";
  }

  #change({ sort = this.#sort, after = this.#after }) {
    this.#page.remember("clients", { ...this.#filters(), sort: sort === SORTS[0] ? "" : sort, after });
  }

  answer(_view, { connections, total, next }) {
    this.#next = next ?? null;
    document.getElementById("next-clients").disabled = this.#next === null;
    document.getElementById("first-clients").disabled = !this.#after;
    const lagging = connections.filter(({ lagging_for_ms }) => lagging_for_ms > 0).length;
    const all = total === undefined ? `${counted(connections.length, "client")}${next ? "; there are more" : ""}` : `${count(connections.length)} of ${counted(total, "client")}`;
    const lag = lagging > 0 ? ` ${count(lagging)} of the clients shown ${lagging === 1 ? "lags" : "lag"}.` : "";
    put(document.getElementById("clients-shown"), connections.length === 0 ? "" : `${all}, by ${ORDERS[this.#sort]}.${lag}`);
    this.#table.update(connections);
  }

  refused(_view, { message }) {
    this.#table.say(`The server refuses this list: ${message}`);
  }

  #empty() {
    const { user, peer, topic } = this.#filters();
    if (user || peer || topic) return "No client matches all filters. User and topic are compared letter by letter, with case.";
    return "No clients are connected. A client connects to /ws or /events of the HTTP port.";
  }
}

const ORDERS = { lag: "lag, the longest first", queued_bytes: "bytes in the queue, most first", number: "number, the oldest first" };

/** The dialog that closes a client. Returns a function that makes the button of a row. */
export function closing(page) {
  const dialog = document.getElementById("close-dialog");
  const form = document.getElementById("close-form");
  let connection = null;

  const ask = (entry) => {
    connection = entry.connection;
    const facts = [
      ["Client", `#${entry.connection}`],
      ["Peer", entry.peer ?? ""],
      ["User", entry.user ?? ""],
      ["Transport", entry.transport ?? ""],
      ["Queue", bytes(entry.queued_bytes ?? NaN)],
    ];
    const lines = facts.filter(([, value]) => value !== "").flatMap(([name, value]) => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      show(text, value);
      return [term, text];
    });
    document.getElementById("close-facts").replaceChildren(...lines);
    form.reset();
    dialog.showModal();
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const reconnect = form.elements.reconnect.checked;
    dialog.close();
    try {
      await post("/api/disconnect", JSON.stringify({ connection, reconnect }));
      page.say(`Closing client #${connection}${reconnect ? ", which may reconnect" : ""}.`);
    } catch (error) {
      page.say(`Client #${connection} was not closed: ${visible(error.message)}`);
    }
  });

  return (entryOf) => {
    const element = button("Close…", () => ask(entryOf()));
    element.classList.add("quiet");
    // Readers that jump from button to button hear which client each button closes.
    element.addEventListener("focus", () => (element.ariaLabel = `Close client ${entryOf().connection} …`));
    return element;
  };
}
