/** The view "Topics": every topic, sorted and filtered by the server. */

import { Table, button, later, put, putNumber } from "./table.js";
import { count, counted, rate, show } from "./text.js";

/** The first is the order if the address says nothing. */
const SORTS = ["rate", "subscribers", "in_flight", "name"];

export class Topics {
  #page;
  #table;
  #form = document.getElementById("topic-filters");
  #pages = document.getElementById("topic-pages");
  #sort = SORTS[0];
  #after = "";
  #next = null;

  constructor(page) {
    this.#page = page;
    this.#table = new Table(document.getElementById("topic-table"), {
      keyOf: ({ topic }) => topic,
      empty: () => this.#empty(),
      onSort: (sort) => this.#change({ sort, after: "" }),
      decorate: (row, { available }) => row.classList.toggle("bad", !available),
      columns: [
        { name: "Topic", sort: "name", className: "name", make: (cell) => cell.append(document.createElement("bdi")), fill: (cell, { topic }) => show(cell.firstChild, topic) },
        { name: "Messages per second", sort: "rate", className: "number", fill: (cell, { messages_per_second }) => putNumber(cell, messages_per_second ?? NaN, rate) },
        { name: "Subscribers", sort: "subscribers", className: "number", fill: (cell, { subscribers }) => putNumber(cell, subscribers, count) },
        { name: "In flight", sort: "in_flight", title: "Messages accepted and not yet handed to every subscriber", className: "number", fill: (cell, { in_flight }) => putNumber(cell, in_flight, count) },
        { name: "Members", title: "Users, and connections without a user; empty where the namespace has no presence", className: "number", fill: (cell, { members }) => put(cell, members === undefined ? "" : count(members)) },
        { name: "State", className: "state", fill: (cell, { available }) => put(cell, available ? "available" : "unavailable") },
        { name: "", className: "actions", make: (cell, entry) => this.#actions(cell, entry) },
      ],
    });
    const changed = later(300, () => this.#change({ after: "" }));
    this.#form.addEventListener("input", changed);
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("first-page").addEventListener("click", () => this.#change({ after: "" }));
    document.getElementById("next-page").addEventListener("click", () => this.#change({ after: this.#next }));
  }

  #actions(cell, entry) {
    const go = (view, name) => () => (location.hash = `#${view}?${new URLSearchParams({ [name]: entry().topic })}`);
    const [clients, watch] = [button("Clients", go("clients", "topic")), button("Messages", go("messages", "topic"))];
    clients.title = "The clients subscribed to this topic";
    watch.title = "Subscribe to this topic, and publish to it";
    cell.append(clients, " ", watch);
  }

  get views() {
    const { prefix, limit } = this.#filters();
    const query = new URLSearchParams({ sort: this.#sort, limit });
    if (prefix) query.set("prefix", prefix);
    if (this.#sort === "name" && this.#after) query.set("after", this.#after);
    return [`topics?${query}`];
  }

  #filters() {
    return Object.fromEntries(new FormData(this.#form));
  }

  open(parameters) {
    this.#sort = SORTS.includes(parameters.get("sort")) ? parameters.get("sort") : SORTS[0];
    this.#after = parameters.get("after") ?? "";
    this.#page.fill(this.#form, parameters);
    this.#table.sortedBy(this.#sort, this.#sort === "name");
    this.#pages.hidden = this.#sort !== "name";
  }

  #change({ sort = this.#sort, after = this.#after }) {
    this.#page.remember("topics", { ...this.#filters(), sort: sort === SORTS[0] ? "" : sort, after });
  }

  answer(_view, { topics, total, next }) {
    this.#next = next ?? null;
    document.getElementById("next-page").disabled = this.#next === null;
    document.getElementById("first-page").disabled = !this.#after;
    const shown = total === undefined ? `${counted(topics.length, "topic")}${next ? "; there are more" : ""}` : `${count(topics.length)} of ${counted(total, "topic")}`;
    const silent = this.#sort === "rate" && topics.length > 0 && !topics.some((topic) => topic.messages_per_second !== null);
    const wait = silent ? " Rates are known after two seconds." : "";
    put(document.getElementById("topics-shown"), topics.length === 0 ? "" : `${shown}, by ${ORDERS[this.#sort]}.${wait}`);
    this.#table.update(topics);
  }

  refused(_view, { message }) {
    this.#table.say(`The server refuses this list: ${message}`);
  }

  #empty() {
    if (this.#filters().prefix) return "No topic has a name that begins so. Names are compared letter by letter, with case.";
    return "No topics yet. A topic exists from its first subscriber on: subscribe in the view Messages to make one.";
  }
}

const ORDERS = {
  rate: "messages per second, the busiest first",
  subscribers: "subscribers, most first",
  in_flight: "messages in flight, most first",
  name: "name",
};
