/** The client where WebSockets are blocked, the network is away, or the program reads by itself. */

import { client, equal, flow, last, network, pass, rejection, roll, run, settled, sockets, streams, timers } from "./world.js";

/** The parts of a stream pass through several promises. */
const told = async () => {
  for (let turn = 0; turn < 5; turn++) await settled();
};

const EVENTS = { events: "http://test/events" };

/** A client whose WebSockets do not open, and whose stream has opened. */
async function blocked(options = {}, since = undefined) {
  const all = client({ ...EVENTS, ...options }, since);
  await told();
  last().drops();
  pass(1_000);
  await told();
  last().drops();
  await told();
  return all;
}

async function streaming(options) {
  const all = await blocked(options);
  flow().opens();
  flow().subscribes("t", 5);
  await told();
  return all;
}

/** Reads an iteration until its end, into a list that the test looks at. */
function read(messages) {
  const items = [];
  const show = (item) => (item.type === "gap" ? [item.from, item.to] : item.seq);
  (async () => {
    for await (const item of messages) items.push(show(item));
    items.push("end");
  })().catch(({ reason }) => items.push(reason));
  return items;
}

const asked = () => last().sent.filter(({ type }) => type === "subscribe");

await run({
  "an event stream takes over where WebSockets do not open": async () => {
    const { janus, heard, messages } = await streaming();
    const { url, headers } = flow();
    equal([sockets.length, url], [2, "http://test/events?topic=t&since=&presence=false"]);
    equal(headers.accept, "text/event-stream");
    equal([heard.at(-1)[0], janus.transport, janus.client], ["connected", "events", null]);
    flow().message("t", 6, 7);
    flow().event("gap", { topic: "t", epoch: "a", from: 8, to: 9 });
    flow().event("heartbeat", {});
    flow().event("news of the future", {});
    flow().message("t", 9, 10);
    await told();
    equal(messages(), [6, 7, [8, 9], 10]);
  },

  "a stream in any pieces gives the same messages": async () => {
    const { messages } = await streaming();
    const bytes = new TextEncoder().encode('id: a.6.1\ndata: {"topic":"t","seq":6,"data":"ü\u2028\\n: "}\n\ndata: {"topic":"t","seq":7}\n\n');
    for (const byte of bytes) flow().says(new Uint8Array([byte]));
    await told();
    for (let turn = 0; turn < 50; turn++) await settled();
    equal(messages(), [6, 7]);
  },

  "each topic continues at its own place, over a stream and back over a WebSocket": async () => {
    const { janus, messages, heard } = client(EVENTS);
    const others = [];
    janus.subscribe("u", { since: "start", message: ({ seq }) => others.push(seq), presence() {} });
    last().welcomes();
    last().says({ type: "subscribed", id: 1, topic: "t", epoch: "a", seq: 5, resumed: false });
    last().says({ type: "subscribed", id: 2, topic: "u", epoch: "b", seq: 1, resumed: true, missed: 1 });
    last().message(6);
    last().says({ type: "message", topic: "u", seq: 2, data: 1 });
    roll(0.5);
    last().drops();
    for (let attempt = 0; attempt < 2; attempt++) {
      pass(1_000);
      last().drops();
    }
    await told();
    equal([flow().all("topic"), flow().all("since"), flow().all("presence")], [["t", "u"], ["a.6", "b.2"], ["false", "true"]]);
    flow().opens();
    flow().subscribes("t", 6, { resumed: true, missed: 1 });
    flow().message("t", 7);
    flow().event("subscribed", { topic: "u", epoch: "b", seq: 2, resumed: true, missed: 0 });
    await told();
    flow().event("", { topic: "u", seq: 3, data: 1 });
    await told();
    // A WebSocket is tried while the stream continues, and takes over once it is open.
    const before = sockets.length;
    pass(22_500);
    equal([sockets.length, flow().signal.aborted], [before + 1, false]);
    flow().message("t", 8);
    await told();
    last().welcomes();
    equal([flow().signal.aborted, last().closed], [true, false]);
    equal([flow().signal.aborted, asked().map(({ since }) => since)], [true, [{ epoch: "a", seq: 8 }, { epoch: "b", seq: 3 }]]);
    equal([janus.state, janus.transport, streams.length], ["connected", "websocket", 1]);
    last().subscribes(3, { resumed: true, missed: 0, epoch: "b" });
    last().says({ type: "subscribed", id: asked()[0].id, topic: "t", epoch: "a", seq: 8, resumed: true, missed: 1 });
    last().message(9);
    equal([messages(), others], [[6, 7, 8, 9], [2, 3]]);
    // The next network is a new one: WebSockets first, and the first probe after half a minute.
    const openings = sockets.length;
    last().drops();
    for (let attempt = 0; attempt < 2; attempt++) {
      pass(heard.at(-1)[1].retryInMs);
      last().drops();
    }
    await told();
    equal([sockets.length, streams.length], [openings + 2, 2]);
    flow().opens();
    flow().subscribes("t", 9, { resumed: true, missed: 0 });
    await told();
    pass(22_500);
    equal(sockets.length, openings + 3);
  },

  "what a stream cannot resume is told once, as a gap without numbers": async () => {
    const { heard, messages } = await streaming();
    flow().message("t", 6);
    await told();
    flow().ends();
    await told();
    pass(2_000);
    await told();
    const before = heard.length;
    equal([flow().all("since"), sockets.length], [["a.6"], 2]);
    flow().opens();
    flow().event("gap", { topic: "t", epoch: "c", resumed: false });
    flow().subscribes("t", 3, { epoch: "c", resumed: false });
    flow().message("t", 4);
    await told();
    equal([messages(), heard.length - before], [[6, "unknown", 4], 3]);
  },

  "a stream that cannot be opened again makes way for a WebSocket": async () => {
    const { heard } = await streaming();
    flow().ends();
    await told();
    pass(heard.at(-1)[1].retryInMs);
    await told();
    equal([sockets.length, streams.length], [2, 2]);
    flow().fails();
    await told();
    pass(heard.at(-1)[1].retryInMs);
    equal([sockets.length, streams.length], [3, 2]);
  },

  "a failed probe leaves the stream alone, and the next probe is later": async () => {
    const { heard } = await streaming();
    const before = [];
    for (const wait of [30_000, 60_000, 120_000]) {
      for (let at = 0; at < wait; at += 10_000) {
        flow().event("heartbeat", {});
        await told();
        before.push(sockets.length);
        pass(10_000);
      }
      equal(sockets.length, before.at(-1) + 1);
      last().drops();
    }
    equal([heard.at(-1)[0], streams.length, flow().signal.aborted], ["connected", 1, false]);
  },

  "a server that is away is tried by both ways, and a WebSocket goes first": async () => {
    const { heard } = client(EVENTS);
    await told();
    last().drops();
    for (let round = 0; round < 3; round++) {
      pass(heard.at(-1)[1].retryInMs);
      const before = [sockets.length, streams.length];
      last().drops();
      await told();
      equal([sockets.length, streams.length], [before[0], before[1] + 1]);
      flow().fails();
      await told();
      equal(heard.at(-1)[0], "waiting");
    }
    pass(heard.at(-1)[1].retryInMs);
    last().welcomes();
    equal([heard.at(-1)[0], streams.length], ["connected", 3]);
  },

  "a WebSocket that opens and says nothing counts as blocked": async () => {
    client(EVENTS);
    for (let attempt = 0; attempt < 2; attempt++) {
      last().onopen({});
      pass(10_000);
      pass(1_000 * attempt ? 0 : 1_000);
    }
    await told();
    equal([sockets.length, streams.length], [2, 1]);
  },

  "an opening that fails by an error alone is a failed opening": () => {
    const { heard } = client();
    last().onerror({ message: "refused" });
    equal([heard.at(-1)[0], heard.at(-1)[1].error.message], ["waiting", "refused"]);
    last().drops();
    pass(1_000);
    equal(sockets.length, 2);
  },

  "without topics, or without an address for streams, only WebSockets are tried": async () => {
    for (const options of [{ events: null }, EVENTS]) {
      const { subscription, heard } = client(options);
      if (options === EVENTS) subscription.unsubscribe();
      for (let attempt = 0; attempt < 4; attempt++) {
        last().drops();
        pass(heard.at(-1)[1].retryInMs);
      }
      await told();
      equal([streams.length, sockets.length], [0, 5]);
      sockets.splice(0);
    }
  },

  "topics that come and go share a new stream, and miss nothing": async () => {
    const { janus, subscription, messages } = await streaming();
    flow().message("t", 6);
    await told();
    for (const topic of ["u", "v"]) janus.subscribe(topic);
    pass(20);
    await told();
    equal([streams.length, streams[0].signal.aborted], [2, true]);
    equal([flow().all("topic"), flow().all("since")], [["t", "u", "v"], ["a.6", "", ""]]);
    flow().opens();
    flow().subscribes("t", 6, { resumed: true, missed: 1 });
    flow().message("t", 7);
    await told();
    subscription.unsubscribe();
    pass(20);
    await told();
    equal([streams.length, flow().all("topic")], [3, ["u", "v"]]);
    flow().opens();
    flow().subscribes("u", 0);
    await told();
    pass(30_000);
    equal(sockets.length, 3);
    equal(messages(), [6, 7]);
  },

  "a silent stream is given up": async () => {
    const { heard } = await streaming();
    pass(60_000);
    flow().event("heartbeat", {});
    await told();
    pass(69_999);
    equal(heard.at(-1)[0], "connected");
    pass(1);
    equal([heard.at(-1)[0], flow().signal.aborted], ["waiting", true]);
  },

  "a bye of a stream is heeded": async () => {
    const { heard } = await streaming();
    flow().event("bye", { code: 4002, error: "server_draining", message: "", reconnect_after_ms: 5_000 });
    await told();
    equal([heard.at(-1)[0], heard.at(-1)[1].error.reason, heard.at(-1)[1].retryInMs], ["waiting", "server_draining", 5_000]);
    pass(4_999);
    equal(streams.length, 1);
    pass(1);
    await told();
    flow().opens();
    flow().event("bye", { code: 4413, error: "unauthorized", message: "" });
    await told();
    equal([heard.at(-1)[0], heard.at(-1)[1].error.code, timers], ["closed", 4413, []]);
  },

  "a stream shows the token, and an expired token is replaced": async () => {
    let number = 0;
    const { heard } = await blocked({ getToken: () => `token ${++number}` });
    const shown = ({ headers, url }) => headers.authorization ?? new URL(url).searchParams.get("access_token");
    equal(shown(flow()).endsWith("token 1"), true);
    flow().refuses(401, "token_expired");
    await told();
    equal([heard.at(-1)[0], heard.at(-1)[1].error.code], ["waiting", 4418]);
    pass(heard.at(-1)[1].retryInMs);
    await told();
    last().drops();
    await told();
    equal([shown(flow()).endsWith("token 2"), number], [true, 2]);
    flow().refuses(401, "unauthorized");
    await told();
    equal([heard.at(-1)[0], heard.at(-1)[1].error.reason], ["closed", "unauthorized"]);
  },

  "a topic refused in a stream ends, or is asked for again": async () => {
    const { heard } = await streaming();
    flow().event("refused", { topic: "t", code: 4001, error: "topic_unavailable", message: "" });
    await told();
    equal(heard.at(-1), "topic_unavailable");
    pass(30_020);
    await told();
    equal(streams.length, 2);
    flow().refuses(403, "forbidden");
    await told();
    equal([heard.at(-1), heard.at(-2)], ["forbidden", "topic_unavailable"]);
    pass(29_000);
    await told();
    equal(streams.length, 2);
  },

  "answers of others than Janus are no stream": async () => {
    for (const answer of [
      (stream) => stream.opens("text/html"),
      (stream) => stream.refuses(404),
      (stream) => stream.refuses(502),
      (stream) => stream.refuses(503, "too_many_connections", { "retry-after": "20" }),
    ]) {
      const { heard, janus } = await blocked();
      answer(flow());
      await told();
      equal([heard.at(-1)[0], timers.length], ["waiting", 1]);
      if (answer.toString().includes("20")) equal(heard.at(-1)[1].retryInMs, 20_000);
      janus.close();
    }
  },

  "over a stream, publications need an address of their own": async () => {
    const { janus } = await streaming();
    equal(await rejection(janus.publish("t", 1)), "needs_websocket");
    equal(await rejection(janus.presence("t")), "needs_websocket");
    janus.close();
    const { janus: other } = await streaming({ publishUrl: "http://test/api/publish", auth: "key" });
    const receipt = other.publish("t", new Uint8Array([0, 255]), { event: "e", messageId: "m", idempotencyKey: "k" });
    const { method, body, headers, url } = flow();
    equal([method, url], ["POST", "http://test/api/publish"]);
    equal([headers["idempotency-key"], headers.authorization], ["k", "Bearer key"]);
    equal(JSON.parse(body), { topic: "t", event: "e", message_id: "m", data_base64: "AP8=" });
    flow().answers({ epoch: "a", seq: 7, subscribers: 2 });
    const { topic, seq, subscribers } = await receipt;
    equal([topic, seq, subscribers], ["t", 7, 2]);
    const refused = rejection(other.publish("t", 1));
    flow().refuses(403, "forbidden");
    equal(await refused, "forbidden");
    const unanswered = rejection(other.publish("t", 1));
    flow().fails();
    equal(await unanswered, "connection_lost");
  },

  "when a client is closed, its stream, timers and probe end": async () => {
    const { janus, heard } = await streaming();
    pass(30_000);
    janus.close();
    equal([heard.at(-1)[0], flow().signal.aborted, last().closed, timers], ["closed", true, true, []]);
    await told();
    equal(heard.at(-1)[0], "closed");
  },

  "nothing is tried while the browser is offline, and all at once when it is online": async () => {
    const { heard } = client(EVENTS);
    last().welcomes();
    network(false);
    equal(last().sent.at(-1), { type: "ping" });
    pass(10_000);
    equal([heard.at(-1)[0], heard.at(-1)[1].retryInMs], ["waiting", null]);
    pass(1_000_000);
    await told();
    equal([sockets.length, streams.length], [1, 0]);
    network(true);
    equal(sockets.length, 2);
    last().welcomes();
    equal(heard.at(-1)[0], "connected");
  },

  "a client made offline waits for the network, and a server on the same machine needs none": () => {
    network(false);
    const { heard } = client();
    pass(0);
    equal([heard.at(-1)[0], heard.at(-1)[1].retryInMs, sockets.length], ["waiting", null, 0]);
    network(true);
    equal(sockets.length, 1);
    network(false);
    for (const url of ["ws://localhost:8080/ws", "ws://127.0.0.1/ws", "ws://[::1]:1/ws"]) client({ url });
    equal(sockets.length, 4);
  },

  "a page that is seen again does not wait, and asks whether its connection is alive": () => {
    const see = () => document.dispatchEvent(new Event("visibilitychange"));
    client();
    last().drops();
    see();
    equal(sockets.length, 2);
    last().welcomes();
    see();
    equal(last().sent.at(-1), { type: "ping" });
    Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
    last().drops();
    see();
    equal(sockets.length, 2);
    Object.defineProperty(document, "visibilityState", { value: "visible", configurable: true });
  },

  "a signal ends a client, a subscription, and the wait for a receipt": async () => {
    const [ofClient, ofTopic, ofAnswer] = [1, 2, 3].map(() => new AbortController());
    const { janus, heard } = client({ signal: ofClient.signal });
    last().welcomes();
    const published = janus.publish("t", 1, { signal: ofAnswer.signal }).catch((reason) => reason);
    ofAnswer.abort("no time");
    equal(await published, "no time");
    janus.subscribe("u", { signal: ofTopic.signal });
    ofTopic.abort();
    equal(last().sent.at(-1), { type: "unsubscribe", topic: "u" });
    ofClient.abort();
    equal([heard.at(-1)[0], timers], ["closed", []]);
    const { heard: late } = client({ signal: AbortSignal.abort() });
    await settled();
    equal(late.at(-1)[0], "closed");
  },

  "connected resolves with a connection, and is rejected by the end": async () => {
    const { janus } = client();
    const events = [];
    const wait = () => janus.connected().then(() => events.push("connected"), ({ reason }) => events.push(reason));
    wait();
    await settled();
    equal(events, []);
    last().welcomes();
    wait();
    await settled();
    last().drops();
    wait();
    last().drops(4413);
    janus.close();
    wait();
    await settled();
    equal(events, ["connected", "connected", "closed", "closed"]);
  },

  "an iteration gives messages and gaps, and ends with its subscription": async () => {
    const { janus, subscription } = client();
    subscription.unsubscribe();
    const stop = new AbortController();
    const items = read(janus.messages("t", { since: "start", signal: stop.signal }));
    last().welcomes();
    last().subscribes(0, { resumed: true, missed: 2 });
    last().message(1, 2);
    last().says({ type: "gap", topic: "t", epoch: "a", from: 3, to: 4 });
    last().message(5);
    await settled();
    equal(items, [1, 2, [3, 4], 5]);
    stop.abort();
    await settled();
    equal([items.at(-1), last().sent.at(-1)], ["end", { type: "unsubscribe", topic: "t" }]);
    const second = read(janus.messages("t"));
    await settled();
    last().says({ type: "error", id: asked().at(-1).id, topic: "t", code: 4414, error: "forbidden", message: "" });
    const third = read(janus.messages("u"));
    await settled();
    janus.close();
    await settled();
    equal([second, third], [["forbidden"], ["end"]]);
  },

  "an iteration that is read slowly leaves the topic, and continues after the last held message": async () => {
    const { janus, subscription } = client();
    subscription.unsubscribe();
    const messages = janus.messages("t", { maxUnread: 4 });
    const first = messages.next();
    last().welcomes();
    last().subscribes(0);
    last().message(1);
    equal((await first).value.seq, 1);
    last().message(2, 3, 4, 5, 6, 7);
    equal(last().sent.at(-1), { type: "unsubscribe", topic: "t" });
    for (const expected of [2, 3]) equal((await messages.next()).value.seq, expected);
    const before = asked().length;
    equal((await messages.next()).value.seq, 4);
    equal([asked().length, asked().at(-1).since], [before + 1, { epoch: "a", seq: 5 }]);
    last().subscribes(5, { resumed: true, missed: 2 });
    last().message(6, 7);
    for (const expected of [5, 6, 7]) equal((await messages.next()).value.seq, expected);
    await messages.return();
    equal(last().sent.at(-1), { type: "unsubscribe", topic: "t" });
  },

  "a topic that waits for its reader is asked for by no connection": async () => {
    const { janus, subscription } = client(EVENTS);
    const messages = janus.messages("u", { maxUnread: 2 });
    const first = messages.next();
    subscription.unsubscribe();
    last().welcomes();
    last().subscribes(0, { epoch: "a", resumed: false });
    for (const seq of [1, 2, 3]) last().says({ type: "message", topic: "u", seq, data: 1 });
    equal((await first).value.seq, 1);
    last().drops();
    pass(1_000);
    last().welcomes();
    equal(asked(), []);
    equal((await messages.next()).value.seq, 2);
    equal([asked().length, asked()[0]?.since], [1, { epoch: "a", seq: 2 }]);
    const third = messages.next();
    last().subscribes(2, { resumed: true, missed: 1 });
    last().says({ type: "message", topic: "u", seq: 3, data: 1 });
    equal((await third).value.seq, 3);
  },

  "a position given by the program is where a topic continues, and what is missing is told": () => {
    const { janus, messages, subscription } = client({}, { epoch: "a", seq: 3 });
    last().welcomes();
    equal([last().sent.at(-1).since, subscription.position], [{ epoch: "a", seq: 3 }, { epoch: "a", seq: 3 }]);
    last().subscribes(3, { resumed: true, missed: 1 });
    last().message(4);
    equal(subscription.position, { epoch: "a", seq: 4 });
    const gaps = [];
    janus.subscribe("u", { since: { epoch: "b", seq: 9 }, gap: ({ unknown }) => gaps.push(unknown) });
    last().subscribes(20);
    equal([messages(), gaps], [[4], [true]]);
  },

  "the members of a topic are kept as a list": async () => {
    const { janus } = client();
    const heard = [];
    janus.subscribe("u", { presence: ({ type, count, members, all }) => heard.push([type, count, members?.length, all?.map(({ user }) => user)]) });
    last().welcomes();
    equal(last().sent.at(-1).presence, true);
    last().subscribes(0);
    const [alice, bob] = ["alice", "bob"].map((user) => ({ user }));
    last().says({ type: "presence", topic: "u", count: 2, members: [alice] });
    last().says({ type: "joined", topic: "u", count: 3, members: [bob, alice] });
    last().says({ type: "left", topic: "u", count: 2, members: [alice, { user: "carol" }] });
    last().says({ type: "presence", topic: "u", count: 1_001 });
    last().says({ type: "presence", topic: "u", count: 1, members: [bob] });
    equal(heard, [
      ["presence", 2, 1, ["alice"]],
      ["joined", 3, 2, ["alice", "bob"]],
      ["left", 2, 2, ["bob"]],
      ["presence", 1_001, undefined, undefined],
      ["presence", 1, 1, ["bob"]],
    ]);
    const list = janus.presence("u");
    last().says({ type: "presence", id: last().sent.at(-1).id, topic: "u", count: 1, members: [bob] });
    equal([(await list).count, (await list).members, heard.length], [1, [bob], 5]);
  },

  "the history is read in parts, with bytes as bytes": async () => {
    const { janus } = client();
    last().welcomes();
    const asked = janus.history("u", { since: { epoch: "a", seq: 9 }, limit: 2, reverse: true });
    const { id, ...frame } = last().sent.at(-1);
    equal(frame, { type: "history", topic: "u", since: { epoch: "a", seq: 9 }, limit: 2, reverse: true });
    const message = { seq: 8, time: 1, event: "e", message_id: "m" };
    const messages = [{ ...message, data: 1 }, { ...message, seq: 7, data_base64: "AP8=" }];
    last().says({ type: "history", id, topic: "u", epoch: "a", seq: 7, complete: true, more: true, top: 10, messages });
    const { seq, more, top, messages: [first, second] } = await asked;
    equal([seq, more, top, first], [7, true, 10, { topic: "u", seq: 8, time: 1, event: "e", data: 1, messageId: "m" }]);
    equal([second.data instanceof Uint8Array, [...second.data]], [true, [0, 255]]);
    const refused = rejection(janus.history("u"));
    last().says({ type: "error", id: id + 1, topic: "u", code: 4422, error: "no_history", message: "" });
    equal(await refused, "no_history");
  },

  "a publication may have a key, bytes, and a client that does not get it": async () => {
    const { janus } = client();
    last().welcomes();
    last().says({ type: "pong" });
    janus.publish("t", new Uint8Array([0, 255]).buffer, { idempotencyKey: "k", exclude: "1.2" }).catch(() => {});
    const { id, ...frame } = last().sent.at(-1);
    equal(frame, { type: "publish", topic: "t", idempotency_key: "k", exclude: "1.2", data_base64: "AP8=" });
  },

  "a program without a WebSocket is told, and reads an event stream": async () => {
    const { heard, messages } = client({ ...EVENTS, WebSocket: null });
    pass(0);
    equal(/no WebSocket here/.test(heard.at(-1)[1].error.message), true);
    pass(1_000);
    pass(0);
    await told();
    flow().opens();
    flow().subscribes("t", 0);
    flow().message("t", 1);
    await told();
    equal(messages(), [1]);
  },
});
