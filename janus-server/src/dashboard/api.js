/** Requests to the server, with the key if there is one. Owns the key. */

const KEY = "janus-key";

/** Without storage the key lasts as long as the page. */
let kept = null;

function storage(action) {
  try {
    return action(sessionStorage);
  } catch {
    return null;
  }
}

export const key = () => kept ?? storage((session) => session.getItem(KEY));

export function setKey(text) {
  kept = text;
  storage((session) => session.setItem(KEY, text));
}

export function forgetKey() {
  kept = null;
  storage((session) => session.removeItem(KEY));
}

/** Whether a key can be a header: anything else would fail as if the server were away. */
export const isPossibleKey = (text) => /^[\x21-\x7e]+$/.test(text);

/** An answer that is no success, or no answer: then `status` is 0. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { name: "ApiError", status, code });
  }
}

/** Sends a request, and returns the response once its head says success. */
export async function request(path, { method = "GET", body, accept, signal } = {}) {
  const headers = {};
  if (key()) headers.Authorization = `Bearer ${key()}`;
  if (accept) headers.Accept = accept;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "no_answer", "the server does not answer");
  }
  if (response.ok) return response;
  const error = (await response.json().catch(() => null))?.error;
  throw new ApiError(response.status, error?.code ?? "unknown", error?.message ?? `the server answered with status ${response.status}`);
}

/** The JSON of a `GET`. */
export async function get(path, options) {
  return (await request(path, options)).json();
}

/** The JSON of a `POST`; `body` is JSON as text, so that numbers pass through unchanged. */
export async function post(path, body) {
  return (await request(path, { method: "POST", body })).json();
}

/** Characters of one event: beyond any answer of the server, whose largest answers have 8 MiB each. */
const MAX_BLOCK = 64 << 20;

/**
 * Reads server-sent events up to the end of a response. `take` gets the type and the data of each event. Resolves at the
 * end of the stream, and rejects if the connection is lost. `heard` is called with each part that comes, complete or not.
 */
export async function readEvents(response, take, heard = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  // Lines that may not be complete yet, as parts: appending to one long text for each part would take quadratic time.
  let parts = [];
  let size = 0;
  let [type, data] = ["message", []];
  const takeLine = (line) => {
    if (line === "") {
      if (data.length > 0) take(type, data.join("\n"));
      [type, data] = ["message", []];
    } else if (line.startsWith("data:")) {
      data.push(line.slice(line[5] === " " ? 6 : 5));
    } else if (line.startsWith("event:")) {
      type = line.slice(6).trim();
    }
  };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    size += value.length;
    if (size > MAX_BLOCK) throw new ApiError(0, "event_too_large", "the server sent an event without an end");
    parts.push(value);
    if (!value.includes("\n")) continue;
    const lines = parts.join("").split("\n");
    parts = [lines.pop()];
    size = parts[0].length + data.reduce((sum, line) => sum + line.length, 0);
    for (const line of lines) takeLine(line.endsWith("\r") ? line.slice(0, -1) : line);
  }
}
