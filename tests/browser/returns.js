/**
 * Holds event streams and WebSockets, and reports when each is subscribed and when each is lost:
 * `[kind, number, "open" | "subscribed" | "lost" | "final" | "bye" | "gap" | "message", milliseconds since 1970, …]`.
 */

import { Janus } from "./janus.js";
import { parameters, report } from "./report.js";

// Short waits between attempts for a test; a measurement uses the waits of the client.
if (parameters.hurried) Math.random = () => 0.05;

/** `http://…` or `https://…`; WebSockets use the same origin with `ws`. */
const origin = parameters.server ?? location.origin;

function stream(number) {
  const tell = (what, ...values) => report("stream", number, what, Date.now(), ...values);
  const events = new EventSource(`${origin}/events?topic=news`);
  events.onopen = () => tell("open");
  events.addEventListener("subscribed", ({ data }) => tell("subscribed", JSON.parse(data).resumed));
  events.addEventListener("bye", ({ data }) => tell("bye", JSON.parse(data).message));
  events.addEventListener("gap", () => tell("gap"));
  events.onmessage = ({ data }) => tell("message", JSON.parse(data).data);
  events.onerror = () => tell(events.readyState === EventSource.CLOSED ? "final" : "lost");
}

function socket(number) {
  const tell = (what, ...values) => report("socket", number, what, Date.now(), ...values);
  const state = (state) => {
    if (state === "waiting") tell("lost");
    if (state === "closed") tell("final");
  };
  const janus = new Janus(`${origin.replace("http", "ws")}/ws`, { state });
  janus.subscribe("news", {
    subscribed: ({ resumed }) => tell("subscribed", resumed),
    gap: () => tell("gap"),
    message: ({ data }) => tell("message", data),
  });
}

for (let number = 0; number < Number(parameters.streams ?? 4); number++) stream(number);
for (let number = 0; number < Number(parameters.sockets ?? 4); number++) socket(number);
