/**
 * Live data: one stream of `/api/events` for the views that are looked at. Owns the stream, its return after a loss, and
 * the age of the data.
 *
 * `EventSource` cannot send the key, so `fetch` reads the stream.
 */

import { readEvents, request } from "./api.js";

/** The wait before a return: a random part of this time, doubled with each failure. */
const WAIT_MS = 1_000;
const WAIT_MAX_MS = 15_000;

/** The server sends each second. After a silence of this length the connection is taken for dead. */
const SILENCE_MS = 8_000;

/** A hidden page gives up its stream after this time: the server has 16 streams for all pages. */
const HIDDEN_MS = 30_000;

export class Live {
  /** `idle`, `connecting`, `live`, `waiting`, `paused` (the page is hidden) or `locked` (the key is missing). */
  phase = "idle";
  /** When the last event came, as `performance.now()`; null before the first. */
  lastAt = null;
  /** When the next attempt begins. */
  nextAt = null;
  /** Why the last attempt failed. */
  error = null;
  #views = [];
  #attempt = null;
  #failures = 0;
  #farewell = null;
  #timer = null;
  #hiddenTimer = null;
  #handlers;

  /** `answer(view, answer)`, `refused(view, error)`, `opened()`, `locked(error)`, `changed()` */
  constructor(handlers) {
    this.#handlers = handlers;
    document.addEventListener("visibilitychange", () => this.#visibility());
    addEventListener("online", () => this.retry());
  }

  /** Looks at these views from now on. */
  look(views) {
    if (views.join("\n") === this.#views.join("\n") && this.phase !== "idle") return;
    this.#views = views;
    if (this.phase !== "locked" && this.phase !== "paused") this.#open();
  }

  /** Tries at once. */
  retry() {
    if (this.phase === "waiting" || this.phase === "locked" || this.phase === "paused") this.#open();
  }

  /** Begins anew, with another key. */
  restart() {
    this.#failures = 0;
    this.#open();
  }

  async #open() {
    this.#attempt?.abort();
    clearTimeout(this.#timer);
    const attempt = new AbortController();
    this.#attempt = attempt;
    // Another view of a server that is there is no trouble to speak of.
    if (this.phase !== "live") this.#set("connecting");
    let watch;
    const heard = () => {
      if (attempt !== this.#attempt) return;
      clearTimeout(watch);
      watch = setTimeout(() => attempt.abort(), SILENCE_MS);
    };
    let ended = null;
    try {
      heard();
      const query = this.#views.map((view) => `view=${encodeURIComponent(view)}`).join("&");
      const response = await request(`/api/events?${query}`, { accept: "text/event-stream", signal: attempt.signal });
      this.#handlers.opened();
      await readEvents(response, (type, data) => {
        if (attempt !== this.#attempt) return;
        this.#take(type, JSON.parse(data));
      }, heard);
    } catch (error) {
      ended = error;
    }
    clearTimeout(watch);
    // A later attempt has taken over.
    if (attempt !== this.#attempt) return;
    if (ended?.status === 401 || ended?.status === 403) {
      this.error = ended;
      this.#set("locked");
      this.#handlers.locked(ended);
      return;
    }
    this.#wait(ended);
  }

  #take(type, { view, answer, error, message }) {
    // The last event of a stream that the server ends.
    if (type === "bye") this.#farewell = { status: 503, message };
    if (view === undefined) return;
    this.#failures = 0;
    this.error = null;
    this.lastAt = performance.now();
    if (error) this.#handlers.refused(view, error);
    else this.#handlers.answer(view, answer);
    if (this.phase !== "live") this.#set("live");
  }

  #wait(error) {
    const longest = Math.min(WAIT_MAX_MS, WAIT_MS * 2 ** this.#failures);
    this.#failures += 1;
    const wait = longest * (0.5 + Math.random() / 2);
    // The server's own words say more than a lost connection.
    this.error = error?.status > 0 ? error : this.#farewell;
    this.#farewell = null;
    this.nextAt = performance.now() + wait;
    this.#timer = setTimeout(() => this.#open(), wait);
    this.#set("waiting");
  }

  #visibility() {
    clearTimeout(this.#hiddenTimer);
    if (!document.hidden) {
      this.retry();
      return;
    }
    this.#hiddenTimer = setTimeout(() => {
      if (this.phase === "locked") return;
      this.#attempt?.abort();
      this.#attempt = null;
      clearTimeout(this.#timer);
      this.#set("paused");
    }, HIDDEN_MS);
  }

  #set(phase) {
    this.phase = phase;
    this.#handlers.changed();
  }
}
