/**
 * A world in the hands of a test: clock, random numbers, WebSocket, `fetch`, and the browser's belief about its network.
 */

import { Janus } from "./janus.js";
import { report } from "./report.js";

const later = setTimeout.bind(globalThis);
/** Resolves when all work that waits only for promises is done. */
export const settled = () => new Promise((resolve) => later(resolve));

let now = 0;
export let timers = [];
let dice = 1;
/** The random number from now on. */
export const roll = (number) => (dice = number);
export const sockets = [];
export const clients = [];

Date.now = () => now;
Math.random = () => dice;
globalThis.setTimeout = (act, ms) => {
  const timer = { act, at: now + ms };
  timers.push(timer);
  return timer;
};
globalThis.clearTimeout = (timer) => (timers = timers.filter((other) => other !== timer));

export function pass(ms) {
  const end = now + ms;
  for (;;) {
    const next = timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
    if (!next) break;
    clearTimeout(next);
    now = next.at;
    next.act();
  }
  now = end;
}

globalThis.WebSocket = class {
  sent = [];
  closed = false;

  constructor(url, protocol) {
    Object.assign(this, { url, protocol });
    sockets.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  says(...frames) {
    frames.forEach((frame) => this.onmessage({ data: JSON.stringify(frame) }));
  }

  drops(code = 1006) {
    this.onclose({ code, reason: "" });
  }

  /** Opens, and welcomes. */
  welcomes(session = "s", expires_ms) {
    this.onopen({});
    const limits = { max_frame_bytes: 1_000 };
    this.says({ type: "welcome", session, resumed: false, limits, heartbeat_ms: 30_000, expires_ms });
  }

  /** Says that the token has expired. */
  expires() {
    this.says({ type: "bye", code: 4418, error: "token_expired", message: "" });
  }

  /** The tokens of all refreshes. */
  refreshes() {
    return this.sent.filter(({ type }) => type === "refresh").map(({ auth }) => auth);
  }

  /** Answers the last refresh. */
  answers(more) {
    const { id } = this.sent.findLast(({ type }) => type === "refresh");
    this.says({ type: "refreshed", id, ...more });
  }

  /** Answers the last subscribe. */
  subscribes(seq, more = { resumed: false }) {
    const { id, topic } = this.sent.findLast(({ type }) => type === "subscribe");
    this.says({ type: "subscribed", id, topic, epoch: "a", seq, ...more });
  }

  message(...seqs) {
    const rest = { time: 0, event: "e", message_id: 1, data: {} };
    seqs.forEach((seq) => this.says({ type: "message", topic: "t", seq, ...rest }));
  }
};

export const last = () => sockets.at(-1);

/** The requests for event streams, each answered by the test. */
export const streams = [];

globalThis.fetch = (url, { headers, signal, body, method, credentials }) => {
  const { promise, resolve, reject } = Promise.withResolvers();
  const query = [...new URL(url).searchParams];
  const stream = {
    url: String(url),
    headers,
    credentials,
    method,
    body,
    signal,
    all: (name) => query.filter(([key]) => key === name).map(([, value]) => value),
    fails: () => reject(new TypeError("Failed to fetch")),
    refuses(status, code, more) {
      resolve(new Response(JSON.stringify(code && { error: { code, message: "why" } }), { status, headers: more }));
    },
    answers: (value) => resolve(new Response(JSON.stringify(value))),
    opens(type = "text/event-stream; charset=utf-8") {
      const source = (controller) => (stream.controller = controller);
      resolve(new Response(new ReadableStream({ start: source }), { headers: { "content-type": type } }));
    },
    /** Any bytes. */
    says: (text) => stream.controller.enqueue(typeof text === "string" ? new TextEncoder().encode(text) : text),
    event(type, data, id) {
      stream.says(`${type ? `event: ${type}\n` : ""}${id ? `id: ${id}\n` : ""}data: ${JSON.stringify(data)}\n\n`);
    },
    subscribes(topic, seq, more = { resumed: false }) {
      stream.event("subscribed", { topic, epoch: "a", seq, ...more }, `a.${seq}.1`);
    },
    message(topic, ...seqs) {
      seqs.forEach((seq) => stream.event("", { topic, seq, time: 0, event: "e", message_id: 1, data: {} }, `a.${seq}.1`));
    },
    ends: () => stream.controller.close(),
  };
  signal?.addEventListener("abort", () => reject(signal.reason));
  streams.push(stream);
  return promise;
};

export const flow = () => streams.at(-1);

/** The browser's belief about its network. */
let isOnline = true;

/** A change of the network, of which the browser tells the page. */
export function network(online) {
  isOnline = online;
  dispatchEvent(new Event(online ? "online" : "offline"));
}
Object.defineProperty(navigator, "onLine", { get: () => isOnline, configurable: true });

export function equal(actual, expected) {
  const [is, should] = [actual, expected].map((value) => JSON.stringify(value));
  if (is !== should) throw new Error(`${is} instead of ${should}`);
}

/** A client with a subscription to `t`, and all its events. */
export function client(options = {}, since = undefined) {
  const heard = [];
  const janus = new Janus("ws://test/ws", { events: null, state: (...state) => heard.push(state), ...options });
  clients.push(janus);
  const subscription = janus.subscribe("t", {
    since,
    message: ({ seq }) => heard.push(seq),
    gap: ({ from, to, unknown }) => heard.push(unknown ? "unknown" : [from, to]),
    error: ({ reason }) => heard.push(reason),
  });
  const messages = () => heard.filter((entry) => !Array.isArray(entry) || typeof entry[0] === "number");
  return { janus, heard, subscription, messages };
}

export async function rejection(promise) {
  return promise.then(
    () => "resolved",
    ({ reason }) => reason,
  );
}

/** Runs tests, and reports `["passed" | "failed", name, why]` for each, and in the end `["end", number]`. */
export async function run(tests) {
  for (const [name, test] of Object.entries(tests)) {
    [sockets, streams].forEach((list) => list.splice(0));
    [now, timers, dice, isOnline] = [0, [], 1, true];
    try {
      await test();
      report("passed", name);
    } catch (error) {
      report("failed", name, error.message);
    }
    // An event of the window reaches every client.
    clients.splice(0).forEach((janus) => janus.close());
  }
  report("end", Object.keys(tests).length);
}
