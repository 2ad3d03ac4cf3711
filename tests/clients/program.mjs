/**
 * The packed janus-client in a program of Node: `node program.mjs URL OPTION…`, for tests/clients/passes.py.
 *
 * Options, commands and reports are those of program.py, and two options more: `native` for the WebSocket of Node 22, and
 * `blocked` for a network in which no WebSocket opens.
 */

import { createInterface } from "node:readline";
import { WebSocket } from "ws";
import { Janus } from "janus-client";

// Short waits, which still grow.
Math.random = () => 0.05;

const [url, ...words] = process.argv.slice(2);
let asked = [];

const report = (...values) => console.log(JSON.stringify(values));

const getToken = () => {
  report("token");
  return new Promise((resolve) => asked.push(resolve)).finally(() => report("given"));
};

/** A WebSocket that never opens. */
class Blocked {
  constructor() {
    queueMicrotask(() => this.onclose({ code: 1006, reason: "blocked" }));
  }

  close() {}
}

const janus = new Janus(url, {
  WebSocket: words.includes("blocked") ? Blocked : words.includes("native") ? globalThis.WebSocket : WebSocket,
  getToken: words.includes("token") ? getToken : undefined,
  // A test may take its time to answer `getToken`. Otherwise the client's own time has to do: a `fetch` of Node 20 whose connection
  // is reset while it is made may never end.
  ...(words.includes("impatient") && { heartbeatMs: 300, timeoutMs: 2_000 }),
  ...(words.includes("token") && { timeoutMs: 60_000 }),
});

const base64 = (data) => (data instanceof Uint8Array ? Buffer.from(data).toString("base64") : null);

const commands = {
  subscribe(topic, since, presence) {
    const watch = ({ type, count, all }) => report("presence", topic, type, count, all?.map(({ user }) => user).sort());
    janus.subscribe(topic, {
      since: since ?? undefined,
      presence: presence ? watch : undefined,
      subscribed: () => report("subscribed", topic),
      message: ({ seq, data }) => report("message", topic, seq, base64(data) ?? data),
      gap: ({ from, to }) => report("gap", topic, from, to),
      error: ({ reason }) => report("failed", topic, reason),
    });
  },

  publish(number, topic, data) {
    janus.publish(topic, data).then(
      ({ seq }) => report("published", number, seq),
      ({ reason }) => report("refused", number, reason),
    );
  },

  bytes(number, topic, text) {
    commands.publish(number, topic, Uint8Array.from(Buffer.from(text, "base64")));
  },

  members(topic) {
    janus.connected().then(() => janus.presence(topic)).then(
      ({ count, members }) => report("members", topic, count, members.map(({ user }) => user).sort()),
      ({ reason }) => report("failed", topic, reason),
    );
  },

  history(topic, since, limit, reverse) {
    janus.connected().then(() => janus.history(topic, { since: since ?? undefined, limit, reverse })).then(
      ({ epoch, seq, complete, more, messages }) =>
        report("history", { epoch, seq }, complete, more, messages.map(({ seq, data }) => [seq, base64(data) ?? data])),
      ({ reason }) => report("failed", topic, reason),
    );
  },

  token(token) {
    asked.splice(0).forEach((resolve) => resolve(token));
  },
};

createInterface(process.stdin).on("line", (line) => {
  const [command, ...values] = JSON.parse(line);
  commands[command](...values);
});
