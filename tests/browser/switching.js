/** Subscribes to `news` over the ways that the network allows, and reports the way of each connection. */

import { Janus } from "./janus.js";
import { parameters, report } from "./report.js";

// Short waits, which still grow.
Math.random = () => 0.05;

const janus = new Janus(parameters.server, {
  timeoutMs: 60_000,
  state: (state) => state === "connected" && report("connected", janus.transport),
});
janus.subscribe("news", {
  subscribed: ({ resumed }) => report("subscribed", resumed),
  gap: (gap) => report("gap", gap),
  message({ data }) {
    // The last message of the old network.
    if (data === 20) dispatchEvent(new Event("online"));
    else report("message", data);
    if (data === 14) janus.publish("news", "blocked").catch(({ reason }) => report("refused", reason));
  },
  error: ({ message }) => report("error", message),
});
