/** The behaviour of the client at times and in cases that a real server cannot produce at will. */

import { client, equal, last, pass, rejection, roll, run, settled, sockets, timers } from "./world.js";

await run({
  "it asks for the start of a topic once, and then for what comes after its last message": () => {
    const { messages } = client({}, "start");
    last().welcomes();
    equal(last().sent.at(-1).since, "start");
    last().subscribes(4, { resumed: true, missed: 2 });
    last().message(5, 6);
    last().drops();
    pass(30_000);
    last().welcomes();
    equal(last().sent.at(-1).since, { epoch: "a", seq: 6 });
    last().subscribes(6, { resumed: true, missed: 0 });
    last().message(7);
    equal(messages().filter(Number.isInteger), [5, 6, 7]);
  },

  "it says hello, and asks for its topics without waiting for the welcome": () => {
    client({ auth: "key" });
    equal([last().url, last().protocol, last().sent], ["ws://test/ws", "janus.v1.json", []]);
    last().onopen({});
    equal(last().sent, [
      { type: "hello", auth: "key" },
      { id: 1, type: "subscribe", topic: "t" },
    ]);
  },

  "it asks a function for its key before each connection, and connects when it has it": async () => {
    let asked = 0;
    let answer;
    client({ auth: () => new Promise((resolve) => (answer = () => resolve(`key ${++asked}`))) });
    for (const auth of ["key 1", "key 2"]) {
      const before = sockets.length;
      await settled();
      equal(sockets.length, before);
      pass(9_999);
      answer();
      await settled();
      equal(sockets.length, before + 1);
      // The connection has a separate timeout.
      pass(9_999);
      last().onopen({});
      equal(last().sent[0].auth, auth);
      last().drops();
      pass(1_000);
    }
  },

  "without a key it says none": async () => {
    for (const auth of [null, undefined, () => null, async () => undefined]) {
      client({ auth });
      await settled();
      last().onopen({});
      equal(last().sent[0], { type: "hello" });
    }
  },

  "a function that fails to give a key is asked again, after longer each time, and its error is told": async () => {
    const offline = new Error("offline");
    for (const fail of [
      () => Promise.reject(offline),
      () => {
        throw offline;
      },
    ]) {
      let asked = 0;
      const before = sockets.length;
      const { heard } = client({ auth: () => (++asked < 4 ? fail() : "key") });
      for (const wait of [1_000, 2_000, 4_000]) {
        await settled();
        const [state, { retryInMs, error }] = heard.at(-1);
        equal([state, retryInMs, error.reason, error.message], ["waiting", wait, "connection_lost", "Error: offline"]);
        equal(error.cause === offline, true);
        pass(wait);
      }
      equal([asked, sockets.length], [3, before]);
      await settled();
      last().onopen({});
      equal(last().sent[0].auth, "key");
    }
  },

  "a function that gives its key too late, or never, is asked again": async () => {
    const answers = [];
    const { heard } = client({ auth: () => new Promise((resolve, reject) => answers.push({ resolve, reject })) });
    await settled();
    pass(10_000);
    equal(heard.at(-1)[0], "waiting");
    pass(1_000);
    await settled();
    pass(10_000);
    pass(2_000);
    await settled();
    equal(answers.length, 3);
    answers[0].resolve("too late");
    answers[1].reject(new Error("too late"));
    await settled();
    equal([heard.at(-1)[0], sockets.length], ["connecting", 0]);
    answers[2].resolve("key");
    await settled();
    last().onopen({});
    equal(last().sent[0].auth, "key");
  },

  "a token is asked for once, and used until it has expired": async () => {
    let asked = 0;
    const { heard } = client({ getToken: async () => `token ${++asked}` });
    await settled();
    for (let round = 0; round < 3; round++) {
      last().welcomes();
      equal(last().sent[0].auth, "token 1");
      last().drops();
      pass(heard.at(-1)[1].retryInMs);
      await settled();
    }
    equal(asked, 1);
    last().welcomes();
    last().expires();
    equal([heard.at(-1)[0], heard.at(-1)[1].error.code], ["waiting", 4418]);
    pass(heard.at(-1)[1].retryInMs);
    await settled();
    last().welcomes();
    equal([last().sent[0].auth, asked], ["token 2", 2]);
  },

  "a token is renewed in band before its end, and again before the end of the next": async () => {
    let asked = 0;
    roll(0.5);
    client({ getToken: () => `token ${++asked}` });
    await settled();
    last().welcomes("s", 20_000);
    for (const token of ["token 2", "token 3"]) {
      pass(15_999);
      await settled();
      equal(asked, Number(token.at(-1)) - 1);
      pass(1);
      await settled();
      equal(last().refreshes().at(-1), token);
      last().answers({ expires_ms: 20_000 });
    }
    // Nothing is renewed without a connection.
    last().drops();
    equal(timers.length, 1);
    pass(1_000);
    await settled();
    last().onopen({});
    equal([last().sent[0].auth, asked], ["token 3", 3]);
  },

  "a new token whose refresh was not answered in time has not expired": async () => {
    let asked = 0;
    roll(0.5);
    // Like a program that keeps a token until its end.
    client({ getToken: () => `token ${Math.min(++asked, 2)}` });
    await settled();
    last().welcomes("s", 20_000);
    pass(16_000);
    await settled();
    equal(last().refreshes(), ["token 2"]);
    last().expires();
    pass(1_000);
    await settled();
    last().welcomes();
    equal([sockets.length, last().sent[0].auth], [2, "token 2"]);
  },

  "a token without an end is not renewed, and none is renewed without getToken": async () => {
    client({ getToken: () => "token" });
    await settled();
    last().welcomes();
    const socket = last();
    client({ auth: "key" });
    last().welcomes("s", 1_000);
    for (const each of [socket, last()]) {
      for (let at = 0; at < 100; at++) {
        pass(10_000);
        each.says({ type: "pong" });
        await settled();
      }
      equal(each.refreshes(), []);
    }
  },

  "a refresh that is refused, or has no token, is tried again after longer each time": async () => {
    let asked = 0;
    roll(1);
    client({
      getToken: () => {
        if (++asked === 2) throw new Error("offline");
        return `token ${asked}`;
      },
    });
    await settled();
    last().welcomes("s", 20_000);
    pass(14_000);
    await settled();
    equal([asked, last().refreshes()], [2, []]);
    for (const [wait, token] of [[2_000, "token 3"], [4_000, "token 4"], [8_000, "token 5"]]) {
      last().says({ type: "pong" });
      pass(wait - 1);
      await settled();
      equal(last().refreshes().includes(token), false);
      pass(1);
      await settled();
      equal(last().refreshes().at(-1), token);
      const { id } = last().sent.at(-1);
      last().says({ type: "error", id, code: 4414, error: "forbidden", message: "" });
    }
  },

  "a token that lasts for months is not renewed at once": async () => {
    client({ getToken: () => "token" });
    await settled();
    last().welcomes("s", 90 * 24 * 3_600_000);
    // A browser's timer with more runs at once.
    equal(
      timers.every(({ at }) => at < 2 ** 31),
      true,
    );
  },

  "tokens that are nearly over are not renewed in a loop": async () => {
    let asked = 0;
    client({ getToken: () => `token ${++asked}` });
    await settled();
    last().welcomes("s", 1);
    let answered = 0;
    for (let at = 0; at < 5_000; at += 50) {
      pass(50);
      await settled();
      if (last().refreshes().length > answered) {
        answered = last().refreshes().length;
        last().answers({ expires_ms: 1 });
      }
    }
    // Once a second.
    equal([asked, answered], [6, 5]);
  },

  "a token that has expired is never shown again, and getToken is asked after longer each time": async () => {
    let asked = 0;
    const { heard } = client({ getToken: () => (asked++, "always the same") });
    await settled();
    last().welcomes();
    last().expires();
    const before = sockets.length;
    for (const wait of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
      equal([heard.at(-1)[0], heard.at(-1)[1].retryInMs], ["waiting", wait]);
      pass(wait);
      await settled();
    }
    equal([asked, sockets.length], [8, before]);
  },

  "expired tokens, each of them new, lead to no loop": async () => {
    let asked = 0;
    const { heard } = client({ getToken: () => `token ${++asked}` });
    await settled();
    for (const wait of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
      last().onopen({});
      last().expires();
      equal(heard.at(-1)[1].retryInMs, wait);
      pass(wait);
      await settled();
    }
    equal([asked, sockets.length], [8, 8]);
  },

  "getToken is never called twice at a time": async () => {
    const calls = [];
    client({ getToken: () => new Promise((resolve) => calls.push(resolve)) });
    await settled();
    equal(calls.length, 1);
    calls[0]("first");
    await settled();
    last().welcomes("s", 10_000);
    pass(9_000);
    await settled();
    equal(calls.length, 2, "to renew");
    last().expires();
    pass(1_000);
    await settled();
    equal(calls.length, 2, "the connection waits for the same call");
    calls[1]("second");
    await settled();
    last().onopen({});
    equal(last().sent[0].auth, "second");
  },

  "a call of getToken without an answer is given up": async () => {
    let asked = 0;
    client({ getToken: () => (++asked < 3 ? new Promise(() => {}) : "token") });
    await settled();
    for (const wait of [1_000, 2_000]) {
      pass(10_000);
      pass(wait);
      await settled();
    }
    last().onopen({});
    equal([asked, last().sent[0].auth], [3, "token"]);
  },

  "with a key in place of getToken, an expired token is final": () => {
    const { heard } = client({ auth: "key" });
    last().welcomes();
    last().expires();
    equal([heard.at(-1)[0], heard.at(-1)[1].error.code], ["closed", 4418]);
  },

  "a client that is closed renews no token": async () => {
    const { janus } = client({ getToken: () => "token" });
    await settled();
    last().welcomes("s", 100_000);
    janus.close();
    equal(timers, []);
  },

  "topics that the server subscribes have handlers, and resume": () => {
    const heard = [];
    const assigned = (topic) => topic === "inbox" && { message: ({ seq }) => heard.push(seq) };
    client({ assigned });
    last().welcomes();
    const tell = (...seqs) =>
      seqs.forEach((seq) => last().says({ type: "message", topic: "inbox", seq, time: 0, data: {} }));
    for (const topic of ["inbox", "unknown"]) {
      last().says({ type: "subscribed", topic, epoch: "a", seq: 3, resumed: false });
    }
    tell(4, 5);
    last().drops();
    pass(1_000);
    last().welcomes();
    const { id, since } = last().sent.find(({ topic }) => topic === "inbox");
    equal(since, { epoch: "a", seq: 5 });
    equal(last().sent.some(({ topic }) => topic === "unknown"), false);
    // The server has begun by itself. These messages come again after the answer.
    last().says({ type: "subscribed", topic: "inbox", epoch: "a", seq: 7, resumed: false });
    tell(8);
    last().says({ type: "subscribed", id, topic: "inbox", epoch: "a", seq: 5, resumed: true, missed: 3 });
    tell(6, 7, 8, 9);
    equal(heard, [4, 5, 6, 7, 8, 9]);
  },

  "a topic that is granted no longer ends with its error": () => {
    const { heard } = client();
    last().welcomes();
    last().subscribes(5);
    last().says({ type: "error", topic: "t", code: 4414, error: "forbidden", message: "" });
    equal(heard.at(-1), "forbidden");
    last().message(6);
    equal(heard.at(-1), "forbidden");
    last().drops();
    pass(1_000);
    last().onopen({});
    equal(last().sent, [{ type: "hello", session: "s" }]);
  },

  "it comes back with its session and its place": () => {
    client();
    last().welcomes("first");
    last().subscribes(5);
    last().message(6, 7);
    last().drops();
    pass(1_000);
    last().onopen({});
    equal(last().sent[0], { type: "hello", session: "first" });
    equal(last().sent[1].since, { epoch: "a", seq: 7 });
  },

  "it waits for a random part of twice as long each time, and never more than 30 seconds": () => {
    const { heard } = client();
    for (const wait of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
      last().drops();
      equal(heard.at(-1)[1].retryInMs, wait);
      const before = sockets.length;
      pass(wait - 1);
      equal(sockets.length, before);
      pass(1);
      equal(sockets.length, before + 1);
    }
    roll(0.25);
    last().drops();
    equal(heard.at(-1)[1].retryInMs, 7_500);
  },

  "a connection that lasted lets the waits begin anew, and one that did not does not": () => {
    const { heard } = client();
    for (const [lasts, wait] of [
      [0, 1_000],
      [1_000, 2_000],
      [10_001, 1_000],
    ]) {
      last().welcomes();
      pass(lasts);
      last().drops();
      equal(heard.pop()[1].retryInMs, wait);
      pass(wait);
    }
  },

  "it does not come back sooner than the server wants": () => {
    client();
    last().welcomes();
    last().says({ type: "bye", code: 4002, error: "server_draining", message: "", reconnect_after_ms: 5_000 });
    equal(last().closed, true);
    dispatchEvent(new Event("online"));
    pass(4_999);
    equal(sockets.length, 1);
    pass(1);
    equal(sockets.length, 2);
  },

  "it does not wait any longer when the browser is online again": () => {
    client();
    last().drops();
    equal(sockets.length, 1);
    dispatchEvent(new Event("online"));
    equal(sockets.length, 2);
    pass(5_000);
    equal(sockets.length, 2);
  },

  "a code that says not to come back ends it, in a bye or in a close": () => {
    for (const refuse of [
      (socket) => socket.says({ type: "bye", code: 4413, error: "unauthorized", message: "who are you" }),
      (socket) => socket.drops(4413),
    ]) {
      const { janus, heard } = client();
      last().welcomes();
      refuse(last());
      const [state, { error }] = heard.at(-1);
      equal([state, error.code], ["closed", 4413]);
      const before = sockets.length;
      pass(100_000);
      dispatchEvent(new Event("online"));
      equal(sockets.length, before);
      let reason;
      try {
        janus.subscribe("u", {});
      } catch (error) {
        reason = error.reason;
      }
      equal(reason, "closed");
    }
  },

  "a code that says to try again does not end it": () => {
    const { heard } = client();
    for (const [code, error, wait] of [[4009, "frame_timeout", 1_000], [4011, "ping_timeout", 2_000]]) {
      const before = sockets.length;
      last().welcomes();
      last().says({ type: "bye", code, error, message: "", reconnect_after_ms: 100 });
      equal([heard.at(-1)[0], heard.at(-1)[1].retryInMs], ["waiting", wait]);
      pass(wait);
      equal(sockets.length, before + 1);
    }
  },

  "when it is closed, nothing is left behind and nothing more is told": async () => {
    for (const reach of [
      () => {},
      () => last().onopen({}),
      () => last().welcomes(),
      () => last().drops(),
      () => {
        last().welcomes();
        const { id } = last().sent.at(-1);
        last().says({ type: "error", id, topic: "t", code: 4001, error: "topic_unavailable", message: "" });
      },
    ]) {
      const { janus, heard } = client();
      reach();
      janus.close();
      const told = heard.length;
      const socket = last();
      equal([heard.at(-1)[0], socket.closed, timers], ["closed", true, []]);
      janus.close();
      socket.onopen({});
      socket.drops();
      dispatchEvent(new Event("online"));
      equal([heard.length, timers, last() === socket], [told, [], true]);
    }
    const before = sockets.length;
    const { janus, heard } = client({ auth: () => "key" });
    janus.close();
    await settled();
    equal([heard.at(-1)[0], sockets.length, timers], ["closed", before, []]);
  },

  "a function that is told its state may close it": async () => {
    for (const [when, reach] of [
      ["connected", () => last().welcomes()],
      ["waiting", () => last().drops()],
      ["connecting", () => (last().drops(), pass(1_000))],
    ]) {
      for (const auth of ["key", () => "key"]) {
        const states = [];
        const { janus } = client({
          auth,
          state(state) {
            states.push(state);
            if (state === when) janus.close();
          },
        });
        await settled();
        reach();
        await settled();
        equal([states.slice(-2), timers, sockets.every(({ closed }) => closed)], [[when, "closed"], [], true]);
        sockets.splice(0);
      }
    }
  },

  "a server that says nothing is asked, and left if it does not answer": () => {
    const { heard } = client();
    last().welcomes();
    pass(20_000);
    equal(last().sent.at(-1), { type: "ping" });
    pass(9_999);
    last().says({ type: "pong" });
    pass(29_999);
    equal(heard.at(-1)[0], "connected");
    pass(1);
    equal([heard.at(-1)[0], sockets[0].closed], ["waiting", true]);
    // Later messages of this socket would be duplicates, or out of order.
    sockets[0].drops();
    equal(heard.length, 2);
  },

  "a connection that does not open in time is given up": () => {
    const { heard } = client();
    pass(10_000);
    equal([heard.at(-1)[0], sockets[0].closed], ["waiting", true]);
  },

  "no message comes twice or out of order": () => {
    const { messages } = client();
    last().welcomes();
    last().subscribes(5);
    last().message(5, 6, 6, 7, 5, 8);
    equal(messages(), [6, 7, 8]);
  },

  "a gap is told, and a number left out for the sender of its message is none": () => {
    const { messages } = client();
    last().welcomes();
    last().subscribes(5);
    last().message(6);
    last().says({ type: "gap", topic: "t", epoch: "a", from: 7, to: 7 });
    last().message(9);
    last().says({ type: "gap", topic: "t", epoch: "a", from: 10, to: 12 });
    last().message(12, 13);
    last().says({ type: "gap", topic: "t", epoch: "b", from: 1, to: 2 });
    last().message(2, 3);
    equal(messages(), [6, [7, 7], 9, [10, 12], 13, [1, 2], 3]);
    last().drops();
    pass(1_000);
    last().onopen({});
    equal(last().sent[1].since, { epoch: "b", seq: 3 });
  },

  "what could not be resumed is told, and what could is not": () => {
    const { messages } = client();
    last().welcomes();
    last().subscribes(5);
    roll(0);
    for (const [seq, answer] of [
      [5, { resumed: true, missed: 1 }],
      [40, { resumed: false }],
      [1, { epoch: "b", resumed: true }],
    ]) {
      last().drops();
      pass(1_000);
      last().welcomes();
      last().subscribes(seq, answer);
      last().message(seq + 1);
    }
    equal(messages(), [6, "unknown", 41, "unknown", 2]);
  },

  "a subscription that ended tells nothing, also not to the next one of its topic": () => {
    const { janus, messages, subscription } = client();
    last().welcomes();
    last().subscribes(5);
    subscription.unsubscribe();
    const second = [];
    janus.subscribe("t", { message: ({ seq }) => second.push(seq) });
    last().message(6);
    last().says({ type: "unsubscribed", topic: "t" });
    last().subscribes(7);
    last().message(8);
    subscription.unsubscribe();
    last().message(9);
    equal([messages(), second], [[], [8, 9]]);
  },

  "a subscription that ended without a connection, or while it was to be asked for again, is not asked for": () => {
    const asked = () => last().sent.filter(({ type }) => type === "subscribe").length;
    const first = client();
    last().drops();
    first.subscription.unsubscribe();
    pass(1_000);
    last().welcomes();
    equal(asked(), 0);
    const second = client();
    last().welcomes();
    const { id } = last().sent.at(-1);
    last().says({ type: "error", id, topic: "t", code: 4001, error: "topic_unavailable", message: "" });
    second.subscription.unsubscribe();
    pass(29_000);
    equal(asked(), 1);
  },

  "a handler that is told the end of its subscription may subscribe again": () => {
    const { janus } = client();
    const heard = [];
    const error = ({ reason }) => {
      heard.push(reason);
      janus.subscribe("u", { message: ({ seq }) => heard.push(seq) });
    };
    janus.subscribe("u", { error });
    last().welcomes();
    const { id } = last().sent.at(-1);
    last().says({ type: "error", id, topic: "u", code: 4414, error: "forbidden", message: "" });
    last().subscribes(1);
    last().says({ type: "message", topic: "u", seq: 2 });
    equal(heard, ["forbidden", 2]);
  },

  "a topic that no frame can hold is refused without a word to the server": async () => {
    const { janus, messages } = client();
    const errors = [];
    const ask = (topic) => janus.subscribe(topic, { error: ({ reason, code }) => errors.push(reason, code) });
    // Before and after the server has told the longest frame.
    ask("x".repeat(70_000));
    last().welcomes();
    ask("ä".repeat(500));
    equal(errors, []);
    await settled();
    equal(errors, ["frame_too_large", 4402, "frame_too_large", 4402]);
    equal(
      last().sent.map(({ topic }) => topic),
      [undefined, "t"],
    );
    last().subscribes(5);
    last().message(6);
    equal(messages(), [6]);
    // The subscription is over, and not repeated on the next connection.
    last().drops();
    pass(1_000);
    last().welcomes();
    await settled();
    equal([errors.length, last().sent.length], [4, 2]);
  },

  "a handler that ends its subscription, or throws, has its way and stops nothing": () => {
    const { janus, subscription: other } = client();
    other.unsubscribe();
    const heard = [];
    const uncaught = [];
    globalThis.reportError = (error) => uncaught.push(error.message);
    const subscription = janus.subscribe("t", {
      gap: () => subscription.unsubscribe(),
      message({ seq }) {
        heard.push(seq);
        throw new Error(`at ${seq}`);
      },
    });
    last().welcomes();
    last().subscribes(0);
    last().message(1, 2);
    last().says({ type: "gap", topic: "t", epoch: "a", from: 3, to: 3 });
    last().message(4, 5);
    equal(
      [heard, uncaught],
      [
        [1, 2],
        ["at 1", "at 2"],
      ],
    );
    equal(last().sent.at(-1), { type: "unsubscribe", topic: "t" });
  },

  "a topic that cannot be had now is asked for again, and one that never can is not": () => {
    const { heard } = client();
    const asked = () => last().sent.filter(({ type }) => type === "subscribe").length;
    last().welcomes();
    const refuse = (code, error) =>
      last().says({ type: "error", id: last().sent.at(-1).id, topic: "t", code, error, message: "" });
    refuse(4001, "topic_unavailable");
    equal([heard.at(-1), asked()], ["topic_unavailable", 1]);
    pass(20_000);
    last().says({ type: "pong" });
    pass(10_000);
    equal(asked(), 2);
    refuse(4414, "forbidden");
    equal(heard.at(-1), "forbidden");
    last().drops();
    pass(1_000);
    last().welcomes();
    equal(asked(), 0);
  },

  "an error about no request goes to its topic, or to the client": () => {
    const errors = [];
    const { heard } = client({ error: ({ reason }) => errors.push(reason) });
    last().welcomes();
    last().says({ type: "error", topic: "t", code: 4001, error: "topic_unavailable", message: "" });
    last().says({ type: "error", code: 4405, error: "unknown_action", message: "" });
    equal([heard.at(-1), errors], ["topic_unavailable", ["unknown_action"]]);
  },

  "a publication has a receipt, an error, or an unknown end": async () => {
    const { janus } = client();
    equal(await rejection(janus.publish("t", 1)), "not_connected");
    last().welcomes();
    const answered = janus.publish("t", { price: 1.5 }, { event: "e", messageId: "m" });
    const { id, ...frame } = last().sent.at(-1);
    equal(frame, { type: "publish", topic: "t", event: "e", message_id: "m", data: { price: 1.5 } });
    last().says({ type: "published", id, topic: "t", epoch: "a", seq: 42, subscribers: 3 });
    equal([(await answered).seq, (await answered).subscribers], [42, 3]);
    const refused = janus.publish("t", 1);
    last().says({ type: "error", id: id + 1, topic: "t", code: 4414, error: "forbidden", message: "" });
    equal(await rejection(refused), "forbidden");
    const lost = janus.publish("t", 1);
    last().drops();
    equal(await rejection(lost), "connection_lost");
    janus.close();
    equal(await rejection(janus.publish("t", 1)), "not_connected");
  },

  "a publication that is too much is not sent": async () => {
    const { janus } = client();
    last().welcomes();
    const before = last().sent.length;
    equal(await rejection(janus.publish("t", "ä".repeat(500))), "frame_too_large");
    equal(last().sent.length, before);
    // The subscribe is one of the 256 requests that may wait.
    const pending = Array.from({ length: 255 }, () => rejection(janus.publish("t", 1)));
    equal(await rejection(janus.publish("t", 1)), "too_many_pending");
    equal(last().sent.length, before + 255);
    janus.close();
    equal(new Set(await Promise.all(pending)).size, 1);
  },
});
