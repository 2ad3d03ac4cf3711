/** Publishes valid and invalid messages, and reports the outcomes. */

import { Janus } from "./janus.js";
import { parameters, report } from "./report.js";

const connected = Promise.withResolvers();
const janus = new Janus(parameters.server, { state: connected.resolve });
const publish = (...publication) =>
  janus.publish(...publication).then(
    ({ topic, epoch, seq, subscribers }) => report("published", topic, epoch.length, seq, subscribers),
    ({ reason, code }) => report("refused", reason, code ?? null),
  );

await publish("news", "too early");
await connected.promise;
await publish("nobody", "is there");
const subscribed = Promise.withResolvers();
const arrived = Promise.withResolvers();
janus.subscribe("news", { subscribed: subscribed.resolve, message: arrived.resolve });
await subscribed.promise;
await publish("news", { price: 1.5 }, { event: "quote", messageId: 7 });
// The order of receipt and message is not specified.
const { seq, event, messageId, data } = await arrived.promise;
report("message", seq, event, messageId, data);
// Bytes come back as bytes.
const bytes = Uint8Array.from({ length: 256 }, (_, byte) => byte);
const [listening, echo] = [Promise.withResolvers(), Promise.withResolvers()];
janus.subscribe("bytes", { subscribed: listening.resolve, message: echo.resolve });
await listening.promise;
await publish("bytes", bytes);
const { data: payload } = await echo.promise;
report("bytes", payload instanceof Uint8Array, payload.every((byte, place) => byte === place), payload.length);
await publish("", "what topic");
await publish("news", "x".repeat(70_000));
janus.close();
await publish("news", "too late");
