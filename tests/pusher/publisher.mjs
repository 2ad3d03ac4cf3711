/** The package `pusher` of npm: takes calls of its methods as lines of JSON, and reports the answers. */

import { createInterface } from "node:readline";
import Pusher from "pusher";

const [appId, key, secret, host, port] = process.argv.slice(2);
const pusher = new Pusher({ appId, key, secret, host, port, useTLS: false });

createInterface(process.stdin).on("line", async (line) => {
  const [method, ...values] = JSON.parse(line);
  try {
    const answer = await pusher[method](...values);
    const text = await answer.text();
    console.log(JSON.stringify(["answer", answer.status, text && JSON.parse(text)]));
  } catch (error) {
    console.log(JSON.stringify(["answer", error.status ?? null, String(error.body ?? error)]));
  }
});
