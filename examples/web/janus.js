/**
 * A client of Janus (docs/PROTOCOL.md) for browsers and whatever else has `WebSocket`.
 *
 *     const janus = new Janus("ws://localhost:8080/ws");
 *     janus.subscribe("news", { message: (m) => show(m.data), gap: () => loadAllAnew() });
 *     await janus.publish("news", { headline: "It works" });
 *
 * When its connection is lost it goes on where it was: each message comes once and in order, or a gap is told in its
 * place. A page that is loaded again begins anew.
 */

// Before another attempt it waits for a random part of this, doubled each time until a connection is stable.
const WAIT_MS = 1_000;
const WAIT_MAX_MS = 30_000;
const STABLE_MS = 10_000;
/** Requests without an answer; another publish is rejected. */
const PENDING_MAX = 256;
/** Codes from here on say: do not try again. */
const FINAL = 4400;

/**
 * `reason` is the server's name of an error, with its `code`, or `not_connected`, `too_many_pending`, `frame_too_large`
 * (these were not sent), `connection_lost` (nobody knows), `already_subscribed`, `closed`.
 */
export class JanusError extends Error {
  constructor(reason, message = reason, code) {
    super(message);
    Object.assign(this, { name: "JanusError", reason, code });
  }
}

/**
 * What handlers throw is reported as uncaught, and stops nothing.
 *
 * @typedef {object} Handlers of a topic
 * @property {({topic, seq, time, event, messageId, data}) => void} [message]
 * @property {({topic, from, to, unknown}) => void} [gap] `from` to `to` do not come; both are null if `unknown`
 * @property {({topic, epoch, seq, resumed, missed}) => void} [subscribed] on each connection
 * @property {(error: JanusError) => void} [error] it is tried again, or over if the code is 4400 or more
 *
 * @typedef {object} Options
 * @property {string | function} [auth] for the server's hook; a function, also async, is asked each time
 * @property {(state, {retryInMs, error}) => void} [state] `connected`, `waiting`, `connecting` again, or `closed` for
 *   good: by `close()` or an error of 4400 or more
 * @property {(error: JanusError) => void} [error] of the server, about nothing else
 * @property {number} [heartbeatMs] silence before the server is asked for a sign of life (20 s)
 * @property {number} [timeoutMs] and how long it may take (10 s)
 */

export class Janus {
  #options;
  #state = "connecting";
  #socket;
  /** Whether requests may follow. */
  #greeted;
  #connectedAt = Infinity;
  #session;
  #frameMax;
  #feeds = new Map();
  /** By id: one of `done` and `failed` is called. */
  #requests = new Map();
  #lastId = 0;
  #attempts = 0;
  /** Whether the server wants it to wait. */
  #sentAway;
  /** Until a ping, giving up, or another attempt. */
  #timer;

  /** @param {string} [url] port 8080 of the page's host unless given @param {Options} [options] */
  constructor(url = `ws://${globalThis.location?.hostname || "localhost"}:8080/ws`, options = {}) {
    this.#options = { url, heartbeatMs: 20_000, timeoutMs: 10_000, ...options };
    globalThis.addEventListener?.("online", this.#online);
    this.#connect();
  }

  /** Delivers a topic until `unsubscribe()` of the result. @param {Handlers} handlers */
  subscribe(topic, handlers) {
    if (this.#state === "closed") throw new JanusError("closed", "make another client");
    if (this.#feeds.has(topic)) throw new JanusError("already_subscribed", topic);
    const feed = new Feed(topic, handlers);
    this.#feeds.set(topic, feed);
    this.#ask(feed);
    return { unsubscribe: () => this.#drop(feed) && this.#greeted && this.#send({ type: "unsubscribe", topic }) };
  }

  /**
   * Rejected without a connection, not queued: only the caller knows whether it is worth saying later.
   *
   * @returns {Promise<{topic, epoch, seq, subscribers}>}
   */
  publish(topic, data, { event, messageId } = {}) {
    return new Promise((resolve, reject) => {
      const refuse = (reason) => reject(new JanusError(reason, `not sent: ${reason}`));
      if (this.#state !== "connected") return refuse("not_connected");
      if (this.#requests.size >= PENDING_MAX) return refuse("too_many_pending");
      const frame = { type: "publish", topic, event, message_id: messageId, data };
      const bytes = new Blob([JSON.stringify(frame)]).size + 24; // its id
      if (bytes > this.#frameMax) return refuse("frame_too_large");
      this.#request(frame, resolve, reject);
    });
  }

  /** Ends it for good. */
  close() {
    this.#end();
  }

  #connect() {
    const socket = new WebSocket(this.#options.url, "janus.v1.json");
    // One that was given up may say more.
    const ifCurrent = (act) => (event) => socket === this.#socket && act(event);
    socket.onopen = ifCurrent(async () => {
      const { auth } = this.#options;
      const value = typeof auth === "function" ? await auth() : auth;
      if (socket !== this.#socket) return;
      this.#send({ type: "hello", session: this.#session, auth: value });
      this.#greeted = true;
      this.#feeds.forEach((feed) => this.#ask(feed));
    });
    socket.onmessage = ifCurrent(({ data }) => this.#receive(JSON.parse(data)));
    socket.onclose = ifCurrent(({ code, reason }) => this.#lost(new JanusError("connection_lost", reason, code)));
    this.#socket = socket;
    this.#expectAnswer();
    if (this.#state !== "connecting") this.#become("connecting");
  }

  #receive(frame) {
    this.#after(this.#options.heartbeatMs, this.#ping);
    const { type, id, code } = frame;
    const error = code && new JanusError(frame.error, frame.message, code);
    const feed = this.#feeds.get(frame.topic);
    if (type === "welcome") {
      this.#session = frame.session;
      this.#frameMax = frame.limits.max_frame_bytes;
      this.#connectedAt = Date.now();
      this.#become("connected");
    } else if (type === "message" || type === "gap") {
      if (feed?.position) feed[type](frame);
    } else if (type === "bye") {
      this.#lost(error, frame.reconnect_after_ms);
    } else {
      const request = this.#requests.get(id);
      this.#requests.delete(id);
      if (!error) request?.done(frame);
      else if (request) request.failed(error);
      else call(feed?.handlers ?? this.#options, "error", error);
    }
  }

  #ask(feed) {
    if (!this.#greeted || feed.ended) return;
    const socket = this.#socket;
    const failed = (error) => {
      if (!error.code) return; // Lost: the next connection is asked.
      feed.tell("error", error);
      if (error.code >= FINAL) this.#drop(feed);
      else setTimeout(() => socket === this.#socket && this.#ask(feed), Math.random() * WAIT_MAX_MS);
    };
    const { topic, position: since } = feed;
    this.#request({ type: "subscribe", topic, since }, (frame) => feed.subscribed(frame), failed);
  }

  #drop(feed) {
    return !feed.ended && (feed.ended = this.#feeds.delete(feed.topic));
  }

  #request(frame, done, failed) {
    this.#requests.set(++this.#lastId, { done, failed });
    this.#send({ id: this.#lastId, ...frame });
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  #after(ms, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, ms);
  }

  #expectAnswer() {
    this.#after(this.#options.timeoutMs, () => this.#lost(new JanusError("connection_lost")));
  }

  #ping = () => {
    this.#send({ type: "ping" });
    this.#expectAnswer();
  };

  #online = () => {
    if (this.#state === "connected") this.#ping();
    else if (this.#state === "waiting" && !this.#sentAway) this.#connect();
  };

  #lost(error, waitMs = 0) {
    if (error.code >= FINAL) return this.#end(error);
    this.#leave();
    if (Date.now() - this.#connectedAt > STABLE_MS) this.#attempts = 0;
    this.#connectedAt = Infinity;
    this.#sentAway = waitMs > 0;
    const backOff = Math.random() * Math.min(WAIT_MAX_MS, WAIT_MS * 2 ** this.#attempts++);
    const retryInMs = Math.max(waitMs, backOff);
    this.#after(retryInMs, () => this.#connect());
    this.#become("waiting", { retryInMs, error });
  }

  #end(error) {
    if (this.#state === "closed") return;
    this.#leave();
    globalThis.removeEventListener?.("online", this.#online);
    this.#feeds.forEach((feed) => this.#drop(feed));
    this.#become("closed", { error });
  }

  #leave() {
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#socket = null;
    this.#greeted = false;
    this.#requests.forEach(({ failed }) => failed(new JanusError("connection_lost")));
    this.#requests.clear();
  }

  #become(state, detail = {}) {
    this.#state = state;
    call(this.#options, "state", state, detail);
  }
}

/** A topic as it arrives. */
class Feed {
  /** Of the last message or gap. */
  position;
  ended = false;

  constructor(topic, handlers) {
    Object.assign(this, { topic, handlers });
  }

  tell(name, value) {
    if (!this.ended) call(this.handlers, name, value);
  }

  subscribed(frame) {
    const { position } = this;
    const { topic, epoch, seq, resumed } = frame;
    if (!resumed || epoch !== position?.epoch) {
      this.position = { epoch, seq };
      if (position) this.tell("gap", { topic, from: null, to: null, unknown: true });
    }
    this.tell("subscribed", frame);
  }

  message({ topic, seq, time, event, message_id: messageId, data }) {
    const { epoch, seq: last } = this.position;
    if (seq <= last) return;
    if (seq > last + 1) this.gap({ epoch, to: seq - 1 }); // Nobody told of this hole.
    this.position.seq = seq;
    this.tell("message", { topic, seq, time, event, messageId, data });
  }

  gap({ epoch, from, to }) {
    const { topic, position } = this;
    if (epoch === position.epoch) {
      if (to <= position.seq) return;
      from = position.seq + 1;
    }
    this.position = { epoch, seq: to };
    this.tell("gap", { topic, from, to, unknown: false });
  }
}

function call(handlers, name, ...values) {
  try {
    handlers[name]?.(...values);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}
