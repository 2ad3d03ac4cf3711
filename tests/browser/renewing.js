/** Subscribes with tokens that end: `["token", number]` for each token asked for, states, subscriptions and messages. */

import { Janus } from "./janus.js";
import { parameters, report } from "./report.js";

let tokens = 0;

const janus = new Janus(parameters.server, {
  getToken: async () => {
    report("token", ++tokens);
    return String(tokens);
  },
  state: (state, { error } = {}) => report("state", state, error?.reason ?? null),
  assigned: (topic) => ({ message: ({ data }) => report("assigned", topic, data) }),
});

janus.subscribe("news", {
  subscribed: ({ resumed }) => report("subscribed", resumed),
  message: ({ data }) => report("message", data),
  gap: (gap) => report("gap", gap),
  error: ({ reason }) => report("failed", reason),
});
