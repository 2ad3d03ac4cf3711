/** The view "Overview": charts of the last ten minutes, the busiest topics, the slowest clients, and every figure. */

import { Charts } from "./charts.js";
import { Samples } from "./samples.js";
import { Table, put } from "./table.js";
import { UNKNOWN, bytes, count, counted, duration, rate, short, show } from "./text.js";

const gauge = (name, label) => ({ name, label, isRate: false });
const rateOf = (name, label) => ({ name, label, isRate: true });

/** A chart is a row. The names are those of `/api/stats`. */
const CHARTS = [
  {
    title: "Connections",
    text: "Connections open now, of the places of max_connections",
    unit: "count",
    series: [gauge("connections", "open")],
    limit: "connections_limit",
  },
  {
    title: "Deliveries",
    text: "Messages handed to subscribers: a message counts once for each subscriber",
    unit: "rate",
    series: [rateOf("deliveries", "deliveries")],
  },
  {
    title: "Publications",
    text: "Messages published to topics",
    unit: "rate",
    series: [rateOf("published", "messages")],
  },
  {
    title: "Memory",
    text: "Bytes taken, by the server's own account, of memory_budget_bytes",
    unit: "bytes",
    series: [gauge("memory_used", "used"), gauge("message_bytes", "messages")],
    limit: "memory_budget",
  },
  {
    title: "Network out",
    text: "Bytes of messages handed to subscribers, without the headers of TCP and TLS",
    unit: "byteRate",
    series: [rateOf("delivered_bytes", "messages")],
  },
  {
    title: "Slow clients",
    text: "Clients whose messages wait for two seconds or more",
    unit: "count",
    series: [gauge("slow_clients", "slow")],
  },
  {
    title: "Slow clients: losses",
    text: "Messages dropped by the policy of the topic, and slow clients cut off",
    unit: "rate",
    series: [rateOf("messages_dropped", "messages dropped"), rateOf("slow_consumers", "clients cut off")],
  },
  {
    title: "Arrivals and refusals",
    text: "Connections accepted, connections refused, and frames answered with an error",
    unit: "rate",
    series: [
      rateOf("connections_accepted", "accepted"),
      rateOf("connections_refused", "refused"),
      rateOf("frames_refused", "bad frames"),
    ],
  },
];

/** Figures in one line above the charts, each with the view that says more about a figure above zero. */
const FIGURES = [
  ["topics", "Topics", "#topics"],
  ["subscriptions", "Subscriptions", "#topics?sort=subscribers"],
  ["sessions", "Sessions", null],
  ["actor_restarts", "Restarts of actors", "#tree?trouble=yes"],
  ["memory_pressure", "Memory pressure", null],
];

const TOPICS = "topics?sort=rate&limit=8";
const SLOW = "slow?limit=8";

export class Overview {
  samples = new Samples(CHARTS.flatMap(({ series }) => series.map(({ name }) => name)));
  views = [TOPICS, SLOW];
  #charts;
  #figures;
  #stats;
  #busiest;
  #slowest;

  constructor(page) {
    const by = (id) => document.getElementById(id);
    this.#charts = new Charts(by("charts"), this.samples, CHARTS, page.say);
    this.#figures = FIGURES.map(([name, label, view]) => {
      const [term, value, link] = ["dt", "dd", "a"].map((kind) => document.createElement(kind));
      term.textContent = label;
      link.textContent = UNKNOWN;
      value.append(link);
      const pair = document.createElement("div");
      pair.append(term, value);
      by("figures").append(pair);
      return (figures) => {
        const figure = figures[name]?.value;
        put(link, count(figure));
        value.title = figures[name]?.text ?? "";
        if (view && figure > 0) link.href = view;
        else link.removeAttribute("href");
      };
    });
    by("range").addEventListener("change", (event) => {
      by("mean").textContent = `${Math.floor(this.#charts.setRange(event.target.value * 1_000))} s`;
    });
    by("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
    this.#stats = new Table(by("stats"), {
      keyOf: ([name]) => name,
      empty: () => "The server has sent no figures.",
      columns: [
        { name: "Figure", className: "name", fill: (cell, [name, { text }]) => (put(cell, name), (cell.title = text)) },
        { name: "Value", className: "number", fill: (cell, [name, { value }]) => put(cell, inUnit(name, value)) },
        ...["1s", "10s", "60s"].map((window) => ({
          name: `per second, ${window}`,
          className: "number",
          fill: (cell, [, { per_second }]) => put(cell, per_second ? rate(per_second[window] ?? NaN) : ""),
        })),
        { name: "Meaning", className: "wide", fill: (cell, [, { text }]) => put(cell, text) },
      ],
    });
    this.#busiest = new Table(by("busiest"), {
      keyOf: ({ topic }) => topic,
      empty: () => "No topics. A topic exists from its first subscriber or kept message on.",
      columns: [
        { name: "Topic", className: "name", make: (cell) => cell.append(document.createElement("a")), fill: (cell, { topic }) => fillLink(cell.firstChild, topic) },
        { name: "Messages", className: "number", fill: (cell, { messages_per_second }) => put(cell, rate(messages_per_second ?? NaN)) },
        { name: "Subscribers", className: "number", fill: (cell, { subscribers }) => put(cell, count(subscribers)) },
      ],
    });
    this.#slowest = new Table(by("slowest"), {
      keyOf: ({ connection }) => connection,
      empty: () => "No client lags: every queue is empty.",
      columns: [
        { name: "Client", className: "name", fill: (cell, entry) => show(cell, clientName(entry)) },
        { name: "Queue", className: "number", fill: (cell, { queued_bytes }) => put(cell, bytes(queued_bytes)) },
        { name: "Lags for", className: "number", fill: (cell, { lagging_for_ms }) => put(cell, duration(lagging_for_ms)) },
        { name: "Topics", className: "wide", fill: (cell, entry) => show(cell, topicsOf(entry)) },
        { name: "", className: "actions", make: (cell, entry) => cell.append(page.closeButton(entry)) },
      ],
    });
  }

  open() {
    this.#charts.draw();
  }

  /** Every second, whichever view is shown; `isShown` tells whether to draw. */
  stats(answer, isShown) {
    this.samples.add(answer.time, answer.stats);
    if (!isShown) return;
    this.#charts.draw(answer.stats);
    for (const figure of this.#figures) figure(answer.stats);
    if (document.getElementById("all-figures").open) this.#stats.update(Object.entries(answer.stats));
  }

  /** The nodes of the cluster; none without an engine. */
  nodes(nodes) {
    const line = document.getElementById("nodes");
    line.hidden = nodes.length === 0;
    const words = nodes.map(({ name, ready, uptime, connections }) => `${name}${ready ? "" : " (not ready)"}, up ${duration(uptime * 1_000)}, ${counted(connections, "client")}`);
    show(line, `${counted(nodes.length, "node")}: ${words.join("; ")}`);
  }

  answer(view, answer) {
    if (view === TOPICS) this.#busiest.update(answer.topics);
    if (view === SLOW) this.#slowest.update(answer.clients);
  }

  refused(view, { message }) {
    (view === TOPICS ? this.#busiest : this.#slowest).say(`The server refuses this list: ${message}`);
  }
}

function fillLink(link, topic) {
  show(link, topic);
  link.hash = `topics?${new URLSearchParams({ prefix: topic })}`;
}

const clientName = ({ connection, peer, user }) => `#${connection}${user ? ` ${user}` : ""}${peer ? ` ${peer}` : ""}`;

/** The topics of a slow client with the policy for its queue, if the server tells them. */
function topicsOf({ topics, topics_total, policy }) {
  const names = (topics ?? []).slice(0, 3);
  const more = (topics_total ?? names.length) - names.length;
  const policies = [policy ?? []].flat();
  return `${names.join(", ")}${more > 0 ? ` and ${short(more)} more` : ""}${policies.length > 0 ? `; policy ${policies.join(", ")}` : ""}`;
}

const inUnit = (name, value) => (/bytes|memory_(used|budget)$/.test(name) ? `${bytes(value)}` : count(value));
