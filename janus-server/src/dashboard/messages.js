/** The view "Messages": a box that publishes, a box that subscribes, and the messages received. */

import { ApiError, post, readEvents, request } from "./api.js";
import { count, counted, short, show, timeOfDay, visible } from "./text.js";

/** Messages on the page; later messages replace the earliest. */
const MAX_MESSAGES = 200;

/** Characters shown of one message. */
const MAX_SHOWN = 4_000;

/** Messages are drawn together, this often: a busy topic would draw without a pause. */
const DRAW_MS = 150;

const MAX_TOPICS = 16;
const RETURN_MS = 2_000;

/** The server sends a heartbeat every five seconds. After a silence of this length the connection is taken for dead. */
const SILENCE_MS = 20_000;

export class Messages {
  views = [];
  #stream = null;
  #waiting = [];
  #received = 0;
  #isHeld = false;
  #timer = null;
  #list = document.getElementById("message-list");
  #subscribeForm = document.getElementById("subscribe");
  #publishForm = document.getElementById("publish");
  #outcome = document.getElementById("subscribe-outcome");
  #stop = document.getElementById("unsubscribe");

  constructor(page) {
    this.#subscribeForm.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#subscribe();
    });
    this.#stop.addEventListener("click", () => this.#end("Not subscribed."));
    this.#publishForm.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#publish();
    });
    this.#publishForm.elements.data.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#publishForm.requestSubmit();
    });
    document.getElementById("clear-messages").addEventListener("click", () => this.#clear());
    page.holding(document.getElementById("hold-messages"), (isHeld) => {
      this.#isHeld = isHeld;
      if (!isHeld) this.#draw();
    });
  }

  open(parameters) {
    const topic = parameters.get("topic");
    if (!topic) return;
    this.#subscribeForm.elements.topics.value = topic;
    this.#publishForm.elements.topic.value = topic;
  }

  answer() {}

  refused() {}

  /** Ends the stream: the key is forgotten, for instance. */
  close(words) {
    if (this.#stream) this.#end(words);
  }

  async #publish() {
    const { topic, event, data } = this.#publishForm.elements;
    const outcome = document.getElementById("publish-outcome");
    const tell = (words, isBad) => {
      show(outcome, words);
      outcome.classList.toggle("bad", isBad);
    };
    try {
      JSON.parse(data.value);
    } catch {
      tell('The data is no JSON value. A text needs quotes: "hello"', true);
      data.focus();
      return;
    }
    // The text is sent as it is written: a number with many digits would change on its way through JavaScript.
    const head = `"topic":${JSON.stringify(topic.value)},"event":${JSON.stringify(event.value)}`;
    try {
      const receipt = await post("/api/publish", `{${head},"data":${data.value}}`);
      const { seq, subscribers, epoch } = receipt;
      if (seq === 0) tell(`The topic does not exist: without a subscriber, the message went nowhere. (seq 0, epoch ${epoch})`, false);
      else tell(`Published to ${topic.value} as number ${count(seq)}, to ${counted(subscribers, "subscriber")}. (epoch ${epoch})`, false);
    } catch (error) {
      tell(`Not published: ${error.message}`, true);
    }
  }

  async #subscribe() {
    const text = this.#subscribeForm.elements.topics.value;
    const topics = [...new Set(text.split("\n").map((line) => line.replace(/\r$/, "")).filter((line) => line !== ""))];
    if (topics.length === 0 || topics.length > MAX_TOPICS) {
      this.#tell(`Enter 1 to ${MAX_TOPICS} topics, one on each line.`, true);
      return;
    }
    this.#stream?.abort();
    const stream = new AbortController();
    this.#stream = stream;
    this.#stop.disabled = false;
    const path = `/api/subscribe?${new URLSearchParams(topics.map((topic) => ["topic", topic]))}`;
    this.#tell("Subscribing …");
    while (this.#stream === stream) {
      const error = await this.#follow(path, topics, stream);
      if (this.#stream !== stream) return;
      if (error?.status >= 400 && error.status < 500) {
        this.#end(`Not subscribed: ${error.message}`, true);
        return;
      }
      this.#tell(`${error?.status > 0 ? error.message : "The stream has ended"}; trying again …`, true);
      await new Promise((resolve) => setTimeout(resolve, RETURN_MS));
    }
  }

  /** Reads one stream to its end, and returns the error if there is one. */
  async #follow(path, topics, stream) {
    const silence = new AbortController();
    let watch;
    const heard = () => {
      clearTimeout(watch);
      watch = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      heard();
      const signal = AbortSignal.any([stream.signal, silence.signal]);
      const response = await request(path, { accept: "text/event-stream", signal });
      const take = (type, data) => {
        if (this.#stream === stream) this.#take(type, data, topics);
      };
      await readEvents(response, take, heard);
      return null;
    } catch (error) {
      return error instanceof ApiError ? error : new ApiError(0, "connection_lost", "The connection is lost");
    } finally {
      clearTimeout(watch);
    }
  }

  #take(type, data, topics) {
    if (type === "heartbeat") return;
    if (type === "subscribed") {
      this.#tell(`Subscribed to ${topics.length === 1 ? topics[0] : counted(topics.length, "topic")}.`);
      return;
    }
    this.#received += type === "message" ? 1 : 0;
    this.#waiting.push({ type, data, time: Date.now() });
    // Older messages would be gone before they are drawn.
    if (this.#waiting.length > MAX_MESSAGES) this.#waiting.shift();
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      if (!this.#isHeld) this.#draw();
    }, DRAW_MS);
  }

  #draw() {
    const items = this.#waiting.reverse().map(({ type, data, time }) => (type === "message" ? message(data) : notice(type, data, time)));
    this.#waiting = [];
    this.#list.prepend(...items);
    while (this.#list.children.length > MAX_MESSAGES) this.#list.lastChild.remove();
    this.#sum();
  }

  #sum() {
    const kept = this.#list.querySelectorAll(".message").length;
    const words = this.#received > kept ? `${counted(this.#received, "message")} received, the latest ${count(kept)} shown` : this.#received > 0 ? `${counted(kept, "message")}` : "";
    document.getElementById("messages-shown").textContent = words;
    document.getElementById("count-messages").textContent = this.#received > 0 ? short(this.#received) : "";
    document.getElementById("no-messages").hidden = this.#list.children.length > 0;
  }

  #clear() {
    this.#waiting = [];
    this.#received = 0;
    this.#list.replaceChildren();
    this.#sum();
  }

  #tell(words, isBad = false) {
    show(this.#outcome, words);
    this.#outcome.classList.toggle("bad", isBad);
  }

  #end(words, isBad) {
    this.#stream?.abort();
    this.#stream = null;
    this.#stop.disabled = true;
    this.#tell(words, isBad);
  }
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  show(made, text);
  return made;
}

function message(line) {
  const item = document.createElement("li");
  item.className = "message";
  const { topic, seq, time, event, message_id: id, data_base64: base64 } = JSON.parse(line);
  const head = document.createElement("p");
  head.append(element("time", "", timeOfDay(time)), " ", element("bdi", "topic", topic), " ", element("span", "seq", `#${seq}`));
  // A publisher may give any JSON value.
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  if (event !== "") head.append(" ", element("bdi", "event", `event ${text(event)}`));
  if (id !== "") head.append(" ", element("bdi", "event", `id ${text(id)}`));
  const data = base64 === undefined ? rawData(line) : base64;
  if (base64 !== undefined) head.append(" ", element("span", "event", `${counted(atob(base64).length, "byte")}, as base64`));
  const cut = data.length > MAX_SHOWN;
  item.append(head, element("pre", "", cut ? data.slice(0, MAX_SHOWN) : data));
  if (cut) item.append(element("p", "hint", `The first ${count(MAX_SHOWN)} of ${counted(data.length, "character")}.`));
  return item;
}

/** Something else than a message: a gap, a refusal, an end. */
function notice(type, data, time) {
  const item = document.createElement("li");
  item.className = "notice";
  let words = `${type}: ${data}`;
  try {
    const { topic, from, to, message } = JSON.parse(data);
    if (type === "gap" && from) words = `${topic}: messages ${from} to ${to} are missing, because this page did not keep up`;
    else if (type === "gap") words = `${topic}: messages may be missing`;
    else if (message) words = `${topic ? `${topic}: ` : ""}${message}`;
  } catch {
    // The words above show the data as it came.
  }
  item.append(element("time", "", timeOfDay(time)), " ", element("span", "", words));
  return item;
}

/** The text of `data` in a message, byte for byte: JavaScript would round long numbers. `data` is a key of the object itself. */
export function rawData(line) {
  let depth = 0;
  for (let place = 0; place < line.length; place += 1) {
    const character = line[place];
    if (character === "{" || character === "[") depth += 1;
    else if (character === "}" || character === "]") depth -= 1;
    else if (character === '"') {
      const from = place;
      for (place += 1; line[place] !== '"'; place += 1) if (line[place] === "\\") place += 1;
      const isKey = depth === 1 && line[place + 1] === ":";
      // The server writes the data last.
      if (isKey && line.slice(from, place + 1) === '"data"') return line.slice(place + 2, line.lastIndexOf("}")).trim();
    }
  }
  return "";
}
