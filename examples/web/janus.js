/**
 * A client of Janus (docs/PROTOCOL.md).
 *
 *     const janus = new Janus("ws://localhost:8080/ws");
 *     janus.subscribe("news", { message: (m) => show(m.data), gap: () => loadAllAnew() });
 *     await janus.publish("news", { headline: "It works" });
 *
 * After a lost connection each message comes once and in order, or a gap in its place.
 */

// Random, and doubled until stable.
const WAIT_MS = 1_000;
const WAIT_MAX_MS = 30_000;
const STABLE_MS = 10_000;
const PENDING_MAX = 256;
const FINAL = 4400;
const EXPIRED = 4418; // not final with `getToken`

/**
 * `reason` is the server's name of an error, with its `code`, or `not_connected`, `too_many_pending`, `connection_lost`
 * (the message may have been published), `already_subscribed`, `closed`.
 */
export class JanusError extends Error {
  constructor(reason, message, code) {
    super(message || reason);
    Object.assign(this, { name: "JanusError", reason, code });
  }
}

/**
 * @typedef {object} Handlers of a topic; their exceptions are reported
 * @property {"start" | "last"} [since] all kept messages first, or the last
 * @property {({topic, seq, time, event, messageId, data}) => void} [message] bytes as a Uint8Array
 * @property {({topic, from, to, unknown}) => void} [gap] missing, both included; null if `unknown`
 * @property {({topic, epoch, seq, resumed, missed}) => void} [subscribed] on each connection
 * @property {({type, count, members}) => void} [presence] all members, then who `joined` or `left`
 * @property {(error: JanusError) => void} [error] final from code 4400 on
 *
 * @typedef {object} Options
 * @property {string | function} [auth] for the server's hook; a function is called each time
 * @property {() => Promise<string>} [getToken] for `auth`: called once for each token
 * @property {(topic) => Handlers} [assigned] for topics not asked for
 * @property {(state, {retryInMs, error}) => void} [state] `connected`, `waiting`, `connecting`, or `closed`: by `close()` or
 *   from code 4400 on; `error.cause` is the exception of `auth`
 * @property {(error: JanusError) => void} [error] errors about no request
 * @property {number} [heartbeatMs] silence before a ping (20 s)
 * @property {number} [timeoutMs] for pongs, `auth` and connecting (10 s)
 */

export class Janus {
  #options;
  #state = "connecting";
  #attempt;
  #socket;
  #stableAt = Infinity;
  #session;
  #frameMax = 25_000;
  #feeds = new Map();
  #requests = new Map();
  #lastId = 0;
  #attempts = 0;
  #sentAway;
  #timer;
  #token;
  #expired;
  #asking;
  #renewal;
  #renewals = 0;

  /** @param {string} [url] port 8080 of the page's host @param {Options} [options] */
  constructor(url = `ws://${globalThis.location?.hostname || "localhost"}:8080/ws`, options = {}) {
    this.#options = { url, heartbeatMs: 20_000, timeoutMs: 10_000, ...options };
    this.#connect();
    globalThis.addEventListener?.("online", this.#online);
  }

  /** Delivers a topic until `unsubscribe()` of the result. @param {Handlers} handlers */
  subscribe(topic, handlers = {}) {
    if (this.#state === "closed") throw new JanusError("closed");
    if (this.#feeds.has(topic)) throw new JanusError("already_subscribed", topic);
    const feed = this.#add(topic, handlers);
    this.#ask(feed);
    return { unsubscribe: () => this.#drop(feed) && this.#send({ type: "unsubscribe", topic }) };
  }

  /** JSON or a Uint8Array. Rejected without a connection. @returns {Promise<{topic, epoch, seq, subscribers}>} */
  async publish(topic, data, { event, messageId } = {}) {
    if (this.#state !== "connected") throw new JanusError("not_connected");
    if (this.#requests.size >= PENDING_MAX) throw new JanusError("too_many_pending");
    const frame = { type: "publish", topic, event, message_id: messageId };
    if (data instanceof Uint8Array) frame.data_base64 = btoa(data.reduce((text, b) => text + String.fromCharCode(b), ""));
    else frame.data = data;
    return new Promise((done, failed) => this.#request(frame, done, failed));
  }

  close() {
    this.#end();
  }

  // A socket given up may say more.
  #ifCurrent(act) {
    const attempt = this.#attempt;
    return (value) => attempt === this.#attempt && act(value);
  }

  #connect() {
    const attempt = (this.#attempt = {});
    const open = this.#ifCurrent((auth) => {
      const socket = new WebSocket(this.#options.url, "janus.v1.json");
      socket.onopen = this.#ifCurrent(() => {
        this.#socket = socket;
        this.#send({ type: "hello", session: this.#session, auth: auth ?? undefined });
        this.#feeds.forEach((feed) => this.#ask(feed));
      });
      socket.onmessage = this.#ifCurrent(({ data }) => this.#receive(JSON.parse(data)));
      socket.onclose = this.#ifCurrent(({ code, reason }) => this.#lost(lost(reason, code)));
      attempt.socket = socket;
      this.#expectAnswer();
    });
    const { auth, getToken } = this.#options;
    if (this.#token) open(this.#token);
    else if (getToken || typeof auth === "function") {
      this.#expectAnswer();
      const failed = this.#ifCurrent((cause) => this.#lost(Object.assign(lost(String(cause)), { cause })));
      const told = getToken ? this.#newToken().then((token) => (this.#token = token)) : Promise.resolve().then(auth);
      told.then(open).catch(failed);
    } else open(auth);
    this.#become("connecting");
  }

  #newToken() {
    const asking = (this.#asking ??= Promise.resolve().then(this.#options.getToken));
    const checked = asking.then((token) => {
      if (token && token === this.#expired) throw new Error("expired token");
      return token;
    });
    return checked.finally(() => asking === this.#asking && (this.#asking = null));
  }

  #renewIn(ms) {
    this.#renewal = setTimeout(this.#renew, Math.max(WAIT_MS, Math.min(ms, 2e9)));
  }

  #expires({ expires_ms: ms }, token = this.#token) {
    this.#token = token;
    this.#renewals = 0;
    if (this.#token && ms) this.#renewIn(ms * (0.9 - Math.random() / 5));
  }

  #renew = () => {
    const again = this.#ifCurrent(() => this.#renewIn(backOff(++this.#renewals)));
    const send = (auth) => {
      const renewed = (frame) => this.#expires(frame, auth);
      if (auth) this.#request({ type: "refresh", auth }, renewed, again);
    };
    this.#newToken().then(this.#ifCurrent(send)).catch(again);
  };

  #receive(frame) {
    this.#after(this.#options.heartbeatMs, this.#ping);
    const { type, id, code } = frame;
    const error = code && new JanusError(frame.error, frame.message, code);
    const feed = this.#feeds.get(frame.topic);
    if (type === "welcome") {
      this.#session = frame.session;
      this.#frameMax = frame.limits.max_frame_bytes;
      this.#stableAt = Date.now() + STABLE_MS;
      this.#expires(frame);
      this.#become("connected");
    } else if (type === "message" || type === "gap") {
      if (feed?.position && !feed.asking) feed[type](frame);
    } else if (/^(presence|joined|left)$/.test(type)) {
      feed?.tell("presence", frame);
    } else if (type === "bye") {
      this.#lost(error, frame.reconnect_after_ms);
    } else if (type === "subscribed" && id === undefined) {
      const handlers = !feed && this.#options.assigned?.(frame.topic);
      if (handlers) this.#add(frame.topic, handlers).subscribed(frame);
    } else {
      const request = this.#requests.get(id);
      this.#requests.delete(id);
      if (!error) request?.done(frame);
      else if (request) request.failed(error);
      else {
        if (feed && code >= FINAL) this.#drop(feed);
        call(feed?.handlers ?? this.#options, "error", error);
      }
    }
  }

  #add(topic, handlers) {
    const feed = new Feed(topic, handlers);
    this.#feeds.set(topic, feed);
    return feed;
  }

  #ask(feed) {
    clearTimeout(feed.timer);
    if (!this.#socket) return;
    feed.asking = true;
    const failed = (error) => {
      if (!error.code || feed.ended) return;
      if (error.code >= FINAL) this.#drop(feed); // The handler may subscribe anew.
      else feed.timer = setTimeout(() => this.#ask(feed), Math.random() * WAIT_MAX_MS);
      call(feed.handlers, "error", error);
    };
    const { topic, handlers, position: since = handlers.since } = feed;
    const frame = { type: "subscribe", topic, since, presence: handlers.presence && true };
    this.#request(frame, (answer) => feed.subscribed(answer), failed);
  }

  #drop(feed) {
    clearTimeout(feed.timer);
    return !feed.ended && (feed.ended = this.#feeds.delete(feed.topic));
  }

  #request(frame, done, failed) {
    const id = ++this.#lastId;
    const text = JSON.stringify({ id, ...frame });
    if (new Blob([text]).size > this.#frameMax) {
      return queueMicrotask(() => failed(new JanusError("frame_too_large", "not sent", 4402)));
    }
    this.#requests.set(id, { done, failed });
    this.#socket.send(text);
  }

  #send(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  #after(ms, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, ms);
  }

  #expectAnswer() {
    this.#after(this.#options.timeoutMs, () => {
      this.#asking = null;
      this.#lost(lost("no answer"));
    });
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
    if (error.code === EXPIRED && this.#token) [this.#expired, this.#token] = [this.#token];
    else if (error.code >= FINAL) return this.#end(error);
    this.#leave();
    if (Date.now() > this.#stableAt) this.#attempts = 0;
    this.#stableAt = Infinity;
    this.#sentAway = waitMs > 0;
    const retryInMs = Math.max(waitMs, backOff(this.#attempts++));
    this.#after(retryInMs, () => this.#connect());
    this.#become("waiting", { retryInMs, error });
  }

  #end(error) {
    this.#leave();
    globalThis.removeEventListener?.("online", this.#online);
    this.#feeds.forEach((feed) => this.#drop(feed));
    this.#become("closed", { error });
  }

  #leave() {
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    this.#attempt?.socket?.close();
    this.#attempt = this.#socket = null;
    this.#requests.forEach(({ failed }) => failed(lost()));
    this.#requests.clear();
  }

  #become(state, detail = {}) {
    if (state === this.#state) return;
    this.#state = state;
    call(this.#options, "state", state, detail);
  }
}

class Feed {
  position; // Of the last message or gap.

  constructor(topic, handlers) {
    Object.assign(this, { topic, handlers });
  }

  tell(name, value) {
    if (!this.ended) call(this.handlers, name, value);
  }

  subscribed(frame) {
    const { position } = this;
    const { topic, epoch, seq, resumed } = frame;
    this.asking = false;
    if (!resumed || epoch !== position?.epoch) {
      this.position = { epoch, seq };
      if (position) this.tell("gap", { topic, from: null, to: null, unknown: true });
    }
    this.tell("subscribed", frame);
  }

  message({ message_id: messageId, data_base64: text, ...message }) {
    if (message.seq <= this.position.seq) return;
    this.position.seq = message.seq;
    if (text !== undefined) message.data = Uint8Array.from(atob(text), (b) => b.charCodeAt());
    this.tell("message", { ...message, messageId });
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

const backOff = (attempts) => Math.random() * Math.min(WAIT_MAX_MS, WAIT_MS * 2 ** attempts);
const lost = (message, code) => new JanusError("connection_lost", message, code);

function call(handlers, name, ...values) {
  try {
    handlers[name]?.(...values);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}
