/** Subscribes to `news` and reports every event. */

import { Janus } from "./janus.js";
import { parameters, report } from "./report.js";

// Short waits, which still grow: during a long wait more could be published than the server keeps.
Math.random = () => 0.05;

const janus = new Janus(parameters.server, {
  heartbeatMs: Number(parameters.heartbeat_ms ?? 20_000),
  timeoutMs: Number(parameters.timeout_ms ?? 10_000),
  state: (state, { error }) => report("state", state, error?.reason ?? null),
  error: (error) => report("error", error.message),
});
janus.subscribe("news", {
  message: ({ data }) => report("message", data),
  gap: (gap) => report("gap", gap),
  subscribed: ({ resumed }) => report("subscribed", resumed),
  error: (error) => report("error", error.message),
});
