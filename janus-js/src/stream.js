import { JanusError, lost } from "./error.js";

/**
 * Event streams of `/events`, for networks without WebSockets.
 *
 * Read with `fetch`, because `EventSource` tells no status, sends no token and is missing in Node.
 */

/** The longest event: a payload of `max_frame_bytes` in base64. */
const EVENT_MAX = 2 ** 25;
/** The numbers of refusals by a status. Others have the first number of their class. */
const CODES = { unauthorized: 4413, token_expired: 4418, banned: 4417, forbidden: 4414, bad_topic: 4407, no_presence: 4421 };

/**
 * Reads a stream of topics to its end, and tells each event as a frame of `janus.v1.json`. Each topic resumes at its own place.
 *
 * Throws the refusal, or the end of the stream. A temporary refusal by Janus is no status, but a `bye`.
 */
export async function readStream(address, { feeds, auth, withCredentials, signal }, tell) {
  const url = new URL(address);
  const { location } = globalThis;
  const headers = { accept: "text/event-stream" };
  const query = url.searchParams;
  for (const { topic, since, _handlers: handlers } of feeds) {
    query.append("topic", topic);
    query.append("since", since?.epoch ? `${since.epoch}.${since.seq}` : (since ?? ""));
    query.append("presence", !!handlers.presence);
  }
  // A server of another origin would be asked first whether the header is allowed.
  if (auth && location && location.origin !== url.origin) query.set("access_token", auth);
  else if (auth) headers.authorization = `Bearer ${auth}`;
  const credentials = withCredentials ? "include" : "same-origin";
  const response = await fetch(url, { headers, credentials, signal, cache: "no-store" });
  if (response.status !== 200) throw await refusal(response);
  if (!/^text\/event-stream/.test(response.headers.get("content-type"))) throw lost("no event stream");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let searched = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw lost("the event stream has ended");
    text += value;
    for (let end; (end = text.indexOf("\n\n", searched)) >= 0; searched = 0) {
      const frame = read(text.slice(0, end));
      text = text.slice(end + 2);
      if (frame) tell(frame);
    }
    searched = Math.max(0, text.length - 1);
    if (text.length > EVENT_MAX) throw lost("an event without an end");
  }
}

/** Janus writes each field as `name: value`, and the data of an event on one line. */
function read(block) {
  const { event = "message", data } = Object.fromEntries(block.split("\n").map((line) => line.split(/: ([^]*)/, 2)));
  return data && { ...JSON.parse(data), type: event === "refused" ? "error" : event };
}

async function refusal(response) {
  const { status, headers } = response;
  const { code: name = "connection_lost", message = `HTTP status ${status}` } = (await response.json().catch(() => ({}))).error ?? {};
  const isFinal = name !== "connection_lost" && status < 500 && status !== 429;
  const error = new JanusError(name, message, isFinal ? (CODES[name] ?? 4400) : undefined);
  const waitMs = Number(headers.get("retry-after")) * 1_000 || 0;
  return Object.assign(error, { waitMs, ofTopics: isFinal && status !== 401 });
}

/**
 * Publishes by a request of the form of `POST /api/publish`. Without an answer the error is `connection_lost`, and the
 * message may have been published.
 */
export async function post(url, { idempotency_key: key, ...publication }, auth) {
  const headers = { "content-type": "application/json" };
  if (auth) headers.authorization = `Bearer ${auth}`;
  if (key) headers["idempotency-key"] = key;
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(publication) }).catch((error) => {
    throw lost(error.message, undefined, error);
  });
  if (response.status !== 200) throw await refusal(response);
  return { topic: publication.topic, ...(await response.json()) };
}
