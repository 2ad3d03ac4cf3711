/**
 * examples/web/janus.js in a program of Node: `node program.mjs URL OPTION…`, for tests/clients/passes.py.
 *
 * Options, commands and reports are those of program.py. run.sh has put janus.js beside this file.
 */

import { createInterface } from "node:readline";
import { WebSocket } from "ws";
import { Janus } from "./janus.js";

globalThis.WebSocket = class extends WebSocket {
  constructor(...values) {
    super(...values);
    // Unlike a browser, the library throws errors that no handler takes. A close follows in either case.
    this.onerror = () => {};
  }
};
// Short waits, which still grow.
Math.random = () => 0.05;

const [url, ...words] = process.argv.slice(2);
let asked = [];

const report = (...values) => console.log(JSON.stringify(values));

const getToken = () => {
  report("token");
  return new Promise((resolve) => asked.push(resolve)).finally(() => report("given"));
};

const janus = new Janus(url, {
  getToken: words.includes("token") ? getToken : undefined,
  ...(words.includes("impatient") ? { heartbeatMs: 300, timeoutMs: 2_000 } : { timeoutMs: 60_000 }),
});

const commands = {
  subscribe(topic, since) {
    janus.subscribe(topic, {
      since: since ?? undefined,
      subscribed: () => report("subscribed", topic),
      message: ({ seq, data }) => report("message", topic, seq, data),
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

  token(token) {
    asked.splice(0).forEach((resolve) => resolve(token));
  },
};

createInterface(process.stdin).on("line", (line) => {
  const [command, ...values] = JSON.parse(line);
  commands[command](...values);
});
