/**
 * A client library of Node in a program: `node client.mjs LIBRARY ORIGIN TOPIC…`, with a connection for each topic.
 *
 * Every report is a line of JSON for tests/clients/run.py: `[topic, kind, …]`. A library that reconnects does so by itself;
 * for the others (`ws`, `undici-ws`) this file has the few lines that PROTOCOL.md asks of a client.
 */

const [library, origin, ...topics] = process.argv.slice(2);
const RETRY_MS = 300;

const report = (topic, kind, ...values) => console.log(JSON.stringify([topic, kind, ...values]));
const stream = (topic) => `${origin}/events?topic=${encodeURIComponent(topic)}`;

/** Reports an event of a stream. `JSON.parse` throws at an event without data, as it would in a program. */
function heard(topic, type, text) {
  const data = JSON.parse(text);
  if (type === "message" || !type) report(topic, "message", data.data);
  else if (type === "heartbeat") return;
  else if (type === "subscribed") report(topic, "subscribed", data.resumed);
  else report(topic, type, data.code ?? null);
}

/** A class with the interface of the browsers' EventSource. */
function like(EventSource) {
  return (topic) => {
    const events = new EventSource(stream(topic));
    events.onopen = () => report(topic, "open");
    events.onerror = (error) => {
      const state = events.readyState === 2 ? "closed" : "error";
      report(topic, state, String(error?.message ?? error?.error ?? error?.type));
    };
    for (const type of ["message", "subscribed", "gap", "refused", "bye"]) {
      events.addEventListener(type, ({ data }) => heard(topic, type, data));
    }
  };
}

/** The modern protocol over a class with the interface of the browsers' WebSocket. */
function over(WebSocket) {
  return (topic) => {
    let session;
    let since;
    const connect = () => {
      let waitMs = RETRY_MS;
      let ended = false;
      const socket = new WebSocket(`${origin.replace("http", "ws")}/ws`, "janus.v1.json");
      const send = (frame) => socket.send(JSON.stringify(frame));
      socket.onopen = () => {
        send({ type: "hello", session });
        send({ type: "subscribe", id: 1, topic, since });
      };
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === "welcome") session = frame.session;
        else if (frame.type === "bye") {
          waitMs = frame.reconnect_after_ms ?? waitMs;
          report(topic, "bye", frame.code);
        } else if (frame.type === "subscribed") {
          if (since && !frame.resumed) report(topic, "gap", null);
          if (!frame.resumed) since = { epoch: frame.epoch, seq: frame.seq };
          report(topic, "open");
          report(topic, "subscribed", frame.resumed);
        } else if (frame.type === "message") {
          since.seq = frame.seq;
          report(topic, "message", frame.data);
        } else report(topic, frame.type, frame.code ?? null);
      };
      socket.onerror = (error) => report(topic, "error", String(error.message ?? error.type));
      // Some libraries report a failed connection only by an error, others only by a close, most by both.
      socket.onclose = () => {
        if (ended) return;
        ended = true;
        setTimeout(connect, waitMs);
      };
    };
    connect();
  };
}

const libraries = {
  async eventsource() {
    return like((await import("eventsource")).EventSource);
  },

  async "eventsource-client"() {
    const { createEventSource } = await import("eventsource-client");
    return (topic) =>
      createEventSource({
        url: stream(topic),
        onConnect: () => report(topic, "open"),
        onDisconnect: () => report(topic, "error", "disconnected"),
        onMessage: ({ event, data }) => heard(topic, event, data),
      });
  },

  async "event-source-polyfill"() {
    return like((await import("event-source-polyfill")).default.EventSourcePolyfill);
  },

  async "reconnecting-eventsource"() {
    const { EventSource } = await import("eventsource");
    const Reconnecting = (await import("reconnecting-eventsource")).default;
    const Class = Reconnecting.default ?? Reconnecting;
    return like(
      class extends Class {
        constructor(url) {
          super(url, { eventSourceClass: EventSource, max_retry_time: RETRY_MS });
        }
      },
    );
  },

  async "fetch-event-source"() {
    // The library is made for pages: it checks whether a page is hidden, and uses the window's clock.
    globalThis.window = globalThis;
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = (await import("@microsoft/fetch-event-source")).default;
    return (topic) => {
      const failed = (error) => report(topic, "closed", String(error));
      fetchEventSource(stream(topic), {
        onopen: async ({ status }) => {
          if (status !== 200) throw new Error(`status ${status}`);
          report(topic, "open");
        },
        onmessage: ({ event, data }) => heard(topic, event, data),
        // As its README says: the end of a stream does not end the subscription.
        onclose: () => {
          throw new Error("the stream ended");
        },
        onerror: (error) => report(topic, "error", String(error)),
      }).catch(failed);
    };
  },

  async "undici-eventsource"() {
    return like((await import("undici")).EventSource);
  },

  async ws() {
    return over((await import("ws")).WebSocket);
  },

  async "undici-ws"() {
    return over((await import("undici")).WebSocket);
  },
};

const subscribe = await libraries[library]();
topics.forEach((topic) => subscribe(topic));
// The timer of undici's EventSource does not keep a process alive; a real program does more than listen.
setInterval(() => {}, 60_000);
