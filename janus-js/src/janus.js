import { JanusError, lost } from "./error.js";
import { Feed, call } from "./feed.js";
import { decode, encode } from "./payload.js";
import { post, readStream } from "./stream.js";

// Random, and doubled until stable.
const WAIT_MS = 1_000;
const WAIT_MAX_MS = 30_000;
const STABLE_MS = 10_000;
/** Between attempts to leave an event stream for a WebSocket; doubled after each. */
const PROBE_MAX_MS = 600_000;
/** Subscriptions within this time share one request for an event stream. */
const GATHER_MS = 20;
/** Heartbeats of the client without a word from an event stream, which a page cannot ask. */
const STREAM_SILENCE = 3;
const PENDING_MAX = 256;
const FINAL = 4400;
const EXPIRED = 4418; // not final with `getToken`
const world = globalThis;

/** A client of Janus. types/janus.d.ts documents every option, handler and method. */
export class Janus {
  #options;
  #state = "connecting";
  /** The connection of now, or the attempt: `auth`, and `socket` or `abort`. Events of earlier attempts are ignored. */
  #attempt;
  #socket;
  #stableAt = Infinity;
  #session;
  #client;
  #frameMax = 25_000;
  #feeds = new Map();
  #requests = new Map();
  #lastId = 0;
  #attempts = 0;
  #sentAway;
  /** By name. All of them end with their attempt. */
  #timers = {};
  #token;
  #expired;
  #asking;
  #renewals = 0;
  /** Openings of a WebSocket in a row without a welcome. */
  #failures = 0;
  /** Whether a stream has opened where a WebSocket did not. */
  #isBlocked = false;
  #probes = 0;
  #waiting = [];
  #ended = new AbortController();

  constructor(url, options = {}) {
    const { location, document, WebSocket } = world;
    url ??= location?.protocol === "https:" ? "/ws" : `ws://${location?.hostname || "localhost"}:8080/ws`;
    url = absolute(url).replace(/^http/, "ws");
    const events = url.replace(/^ws(.*)\/ws(?=\?|$)/, "http$1/events");
    const fallback = events !== url && { events };
    this.#options = { heartbeatMs: 20_000, timeoutMs: 10_000, fallbackAfter: 2, WebSocket, url, ...fallback, ...options };
    this.#connect();
    const listen = (target, event, act) => target?.addEventListener?.(event, act, { signal: this.#ended.signal });
    listen(world, "online", () => this.#wake(true));
    listen(world, "offline", () => this.#wake());
    listen(document, "visibilitychange", () => document.visibilityState === "visible" && this.#wake());
    this.#onAbort(options, () => this.#end());
  }

  get state() {
    return this.#state;
  }

  get transport() {
    return this.#isLive ? (this.#socket ? "websocket" : "events") : null;
  }

  get client() {
    return this.#socket && this.#client;
  }

  get #isLive() {
    return this.#state === "connected";
  }

  connected() {
    return new Promise((done, failed) => {
      this.#waiting.push({ done, failed });
      this.#answerWaiting();
    });
  }

  subscribe(topic, handlers = {}) {
    const { feed, unsubscribe } = this.#subscribe(topic, handlers);
    return {
      topic,
      unsubscribe,
      get position() {
        return feed.position && { ...feed.position };
      },
    };
  }

  async *messages(topic, { maxUnread = 1_000, ...handlers } = {}) {
    const items = [];
    let failure;
    let wake;
    const add = (type) => (item) => {
      items.push({ ...item, type });
      // The topic continues after the last held item once half of the items are read.
      if (items.length >= maxUnread) this.#pause(feed);
      wake?.();
    };
    const error = (error) => {
      if (feed._ended) failure = error;
      call(handlers, "error", error);
    };
    const reading = { ...handlers, message: add("message"), gap: add("gap"), error, ended: () => wake?.() };
    const { feed, unsubscribe } = this.#subscribe(topic, reading);
    try {
      for (;;) {
        if (items.length > 0) yield items.shift();
        else if (failure) throw failure;
        else if (feed._ended) return;
        else await new Promise((resolve) => (wake = resolve));
        if (feed._paused && items.length <= maxUnread / 2) this.#ask(feed, (feed._paused = false));
      }
    } finally {
      unsubscribe();
    }
  }

  async publish(topic, data, options = {}) {
    const { event, messageId: message_id, idempotencyKey: idempotency_key, exclude } = options;
    const publication = { topic, event, message_id, idempotency_key, exclude, ...encode(data) };
    const { publishUrl } = this.#options;
    if (publishUrl && this.transport === "events") return post(absolute(publishUrl), publication, this.#attempt.auth);
    return this.#question({ type: "publish", ...publication }, options);
  }

  presence(topic, options) {
    return this.#question({ type: "presence", topic }, options);
  }

  async history(topic, { since, limit, reverse, signal } = {}) {
    const answer = await this.#question({ type: "history", topic, since, limit, reverse }, { signal });
    return { ...answer, messages: answer.messages.map((message) => decode({ topic, ...message })) };
  }

  close() {
    this.#end();
  }

  // A connection given up may say more.
  #ifCurrent(act) {
    const attempt = this.#attempt;
    return (value) => attempt === this.#attempt && act(value);
  }

  #connect() {
    const attempt = (this.#attempt = {});
    if (this.#isOffline()) return this.#after(0, () => this.#lost(lost("offline")));
    const open = this.#ifCurrent((auth) => {
      attempt.auth = auth ?? undefined;
      if (this.#isBlocked) this.#openStream();
      else this.#openSocket();
    });
    const { auth, getToken } = this.#options;
    if (this.#token) open(this.#token);
    else if (getToken || typeof auth === "function") {
      this.#expectAnswer();
      const failed = this.#ifCurrent((cause) => this.#lost(lost(String(cause), undefined, cause)));
      const told = getToken ? this.#newToken().then((token) => (this.#token = token)) : Promise.resolve().then(auth);
      told.then(open).catch(failed);
    } else open(auth);
    this.#become("connecting");
  }

  #openSocket() {
    this.#expectAnswer();
    this.#attempt.socket = this.#newSocket();
    if (!this.#attempt.socket) this.#after(0, () => this.#lost(lost("no WebSocket here: give the class as an option")));
  }

  #newSocket() {
    const { WebSocket, url } = this.#options;
    if (!WebSocket) return;
    const socket = new WebSocket(url, "janus.v1.json");
    socket.onopen = this.#ifCurrent(() => this.#use(socket));
    // A failed probe leaves the event stream as it is.
    this.#onEnd(socket, (error) => this.#attempt._abort || this.#lost(error));
    return socket;
  }

  /** Node tells a failed opening by an error alone, and a library of Node throws errors without a handler. */
  #onEnd(socket, act) {
    const ended = this.#ifCurrent(({ code, reason, message }) => act(lost(reason || message, code)));
    Object.assign(socket, { onclose: ended, onerror: ended });
  }

  /** Says hello over an open socket, which replaces an event stream. */
  #use(socket) {
    const { auth, _abort: abort } = this.#attempt;
    if (abort) {
      this.#attempt.socket = null;
      this.#leave();
      this.#attempt = { auth, socket };
      this.#isBlocked = false;
      this.#expectAnswer();
      this.#onEnd(socket, (error) => this.#lost(error));
    }
    socket.onmessage = this.#ifCurrent(({ data }) => this.#receive(JSON.parse(data)));
    this.#socket = socket;
    this.#send({ type: "hello", session: this.#session, auth });
    this.#feeds.forEach((feed) => this.#ask(feed));
  }

  /** Subscribes to all topics by an event stream, which replaces the socket or stream of now. */
  #openStream() {
    const { auth, _works } = this.#attempt;
    this.#leave();
    const abort = new AbortController();
    const attempt = (this.#attempt = { auth, _abort: abort, _works });
    const feeds = [...this.#feeds.values()].filter((feed) => !feed._paused);
    if (_works) this.#probe();
    if (feeds.length === 0) return;
    this.#expectAnswer();
    const tell = this.#ifCurrent((frame) => {
      if (!attempt._works && frame.type !== "bye") this.#streamWorks();
      this.#receive(frame);
    });
    const failed = this.#ifCurrent((error) => {
      if (!(error instanceof JanusError)) this.#lost(lost(error.message, undefined, error));
      else if (error.ofTopics) this.#refused(feeds, error);
      else this.#lost(error, error.waitMs);
    });
    const { events, withCredentials } = this.#options;
    readStream(absolute(events), { feeds, auth, withCredentials, signal: abort.signal }, tell).catch(failed);
  }

  #streamWorks() {
    this.#attempt._works = this.#isBlocked = true;
    this.#stableAt = Date.now() + STABLE_MS;
    this.#probe();
    this.#become("connected");
  }

  /** The server has refused all topics of a request for an event stream. */
  #refused(feeds, error) {
    clearTimeout(this.#timers.wait);
    feeds.forEach((feed) => this.#refuse(feed, error));
  }

  /** Tries a WebSocket later, while the event stream continues. */
  #probe() {
    const probe = () => {
      this.#probes++;
      this.#attempt.socket?.close();
      this.#attempt.socket = !this.#isOffline() && this.#newSocket();
      this.#probe();
    };
    const ms = Math.min(PROBE_MAX_MS, WAIT_MAX_MS * 2 ** this.#probes);
    this.#after(ms * (0.5 + Math.random() / 2), probe, "renew");
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
    this.#after(Math.max(WAIT_MS, Math.min(ms, 2e9)), this.#renew, "renew");
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
    const { heartbeatMs, timeoutMs } = this.#options;
    if (this.#socket) this.#after(heartbeatMs, this.#ping);
    else this.#after(STREAM_SILENCE * heartbeatMs + timeoutMs, () => this.#lost(lost("no heartbeat")));
    const { type, id, code } = frame;
    const error = code && new JanusError(frame.error, frame.message, code);
    const feed = this.#feeds.get(frame.topic);
    const request = this.#requests.get(id);
    this.#requests.delete(id);
    if (type === "welcome") {
      this.#welcomed(frame);
    } else if (type === "message" || type === "gap") {
      if (feed?.position && !feed._asking) feed[type](frame);
    } else if (type === "bye") {
      this.#lost(error, frame.reconnect_after_ms);
    } else if (request) {
      if (error) request.failed(error);
      else request.done(frame);
    } else if (/^(presence|joined|left)$/.test(type)) {
      feed?.presence(frame);
    } else if (type === "subscribed") {
      if (feed && !this.#socket) feed.subscribed(frame);
      const handlers = !feed && this.#options.assigned?.(frame.topic);
      if (handlers) this.#add(frame.topic, handlers).subscribed(frame);
    } else if (error) {
      if (feed && !this.#socket) return this.#refuse(feed, error);
      if (feed && code >= FINAL) this.#drop(feed);
      call(feed?._handlers ?? this.#options, "error", error);
    }
  }

  #welcomed({ session, client, limits, ...frame }) {
    this.#session = session;
    this.#client = client;
    this.#frameMax = limits.max_frame_bytes;
    this.#stableAt = Date.now() + STABLE_MS;
    this.#failures = this.#probes = 0;
    this.#attempt._works = true;
    this.#expires(frame);
    this.#become("connected");
  }

  #subscribe(topic, handlers) {
    if (this.#state === "closed") throw new JanusError("closed");
    if (this.#feeds.has(topic)) throw new JanusError("already_subscribed", topic);
    const feed = this.#add(topic, handlers);
    this.#ask(feed);
    const unsubscribe = () => this.#drop(feed) && this.#abandon(topic);
    this.#onAbort(handlers, unsubscribe);
    return { feed, unsubscribe };
  }

  #add(topic, handlers) {
    const feed = new Feed(topic, handlers);
    this.#feeds.set(topic, feed);
    return feed;
  }

  #ask(feed) {
    clearTimeout(feed._timer);
    if (feed._paused) return;
    if (!this.#socket) return this.#gather();
    feed._asking = true;
    const failed = (error) => error.code && this.#refuse(feed, error);
    const { topic, _handlers: handlers, since } = feed;
    const frame = { type: "subscribe", topic, since, presence: handlers.presence && true };
    this.#request(frame, (answer) => feed.subscribed(answer), failed);
  }

  #refuse(feed, error) {
    if (feed._ended) return;
    if (error.code >= FINAL) this.#drop(feed); // The handler may subscribe anew.
    else feed._timer = setTimeout(() => this.#ask(feed), Math.random() * WAIT_MAX_MS);
    call(feed._handlers, "error", error);
  }

  #pause(feed) {
    if (feed._paused || feed._ended) return;
    feed._paused = feed._asking = true;
    this.#abandon(feed.topic);
  }

  #drop(feed) {
    clearTimeout(feed._timer);
    if (feed._ended) return false;
    this.#feeds.delete(feed.topic);
    feed._ended = true;
    call(feed._handlers, "ended");
    return true;
  }

  #abandon(topic) {
    if (this.#socket) this.#send({ type: "unsubscribe", topic });
    else this.#gather();
  }

  /** Opens a stream of the topics of now, if an event stream is in use. */
  #gather() {
    if (this.#attempt?._works) this.#after(GATHER_MS, () => this.#openStream(), "gather");
  }

  #question(frame, options) {
    return new Promise((done, failed) => {
      if (!this.#isLive) throw new JanusError("not_connected");
      if (!this.#socket) throw new JanusError("needs_websocket", `${frame.type} needs a WebSocket (or publishUrl, to publish)`);
      if (this.#requests.size >= PENDING_MAX) throw new JanusError("too_many_pending");
      const stop = this.#onAbort(options, failed);
      this.#request(
        frame,
        (answer) => stop(done(answer)),
        (error) => stop(failed(error)),
      );
    });
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

  #after(ms, act, name = "wait") {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(act, ms);
  }

  /** Acts when the signal among these options is aborted, or at once. Returns the end of listening. */
  #onAbort(options, act) {
    const signal = options?.signal;
    const aborted = () => act(signal.reason);
    if (signal?.aborted) queueMicrotask(aborted);
    else signal?.addEventListener("abort", aborted, { signal: this.#ended.signal });
    return () => signal?.removeEventListener("abort", aborted);
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

  /** A server on the same machine needs no network. */
  #isOffline() {
    return world.navigator?.onLine === false && !/^wss?:..(localhost|127\.|\[::1])/.test(this.#options.url);
  }

  /** The network may have changed, or the page has slept. */
  #wake(isOnline) {
    if (this.#isLive && this.#socket) this.#ping();
    else if (this.#isLive) isOnline && this.#lost(lost("another network"), 0, (this.#isBlocked = false));
    else if (this.#state === "waiting" && !this.#sentAway && !this.#isOffline()) this.#connect();
  }

  #lost(error, waitMs = 0) {
    if (error.code === EXPIRED && this.#token) [this.#expired, this.#token] = [this.#token];
    else if (error.code >= FINAL) return this.#end(error);
    else if (!(error.code >= 4000) && this.#fallsBack()) return this.#openStream();
    this.#leave();
    if (Date.now() > this.#stableAt) this.#attempts = 0;
    this.#stableAt = Infinity;
    this.#sentAway = waitMs > 0;
    const retryInMs = Math.max(waitMs, backOff(this.#attempts++));
    this.#after(retryInMs, () => this.#connect());
    this.#become("waiting", { retryInMs: this.#isOffline() ? null : retryInMs, error });
  }

  /** Whether the lost attempt was one WebSocket too many: an event stream is tried at once. */
  #fallsBack() {
    const { socket, _abort: abort, _works: works } = this.#attempt;
    const { fallbackAfter, events, WebSocket } = this.#options;
    // A stream that does not open is no proof against WebSockets.
    if (abort && !works) this.#isBlocked = false;
    if (abort || works || this.#isOffline() || (WebSocket && !socket)) return false;
    return ++this.#failures >= fallbackAfter && events && this.#feeds.size > 0;
  }

  #end(error) {
    this.#leave();
    this.#ended.abort();
    this.#feeds.forEach((feed) => this.#drop(feed));
    this.#become("closed", { error });
  }

  #leave() {
    Object.values(this.#timers).forEach((timer) => clearTimeout(timer));
    const { socket, _abort: abort } = this.#attempt ?? {};
    this.#attempt = this.#socket = null;
    socket?.close();
    abort?.abort();
    this.#requests.forEach(({ failed }) => failed(lost()));
    this.#requests.clear();
  }

  #become(state, detail = {}) {
    if (state === this.#state) return;
    this.#state = state;
    this.#answerWaiting(detail.error);
    call(this.#options, "state", state, detail);
  }

  #answerWaiting(error = new JanusError("closed")) {
    const isClosed = this.#state === "closed";
    if (isClosed || this.#isLive) this.#waiting.splice(0).forEach(({ done, failed }) => (isClosed ? failed(error) : done()));
  }
}

const absolute = (url) => new URL(url, world.location?.href).href;

const backOff = (attempts) => Math.random() * Math.min(WAIT_MAX_MS, WAIT_MS * 2 ** attempts);
