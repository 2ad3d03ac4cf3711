"""A client of Janus (docs/PROTOCOL.md) for asyncio, in one file. Needs Python 3.9 and `pip install websockets`.

    import asyncio
    from janus import Gap, Janus

    async def main():
        async with Janus("ws://localhost:8080/ws") as janus:
            news = await janus.subscribe("news")
            receipt = await janus.publish("news", {"headline": "It works"})
            print("number", receipt.seq, "for", receipt.subscribers, "subscriber")
            async for item in news:
                print("messages are missing" if isinstance(item, Gap) else item.data)

    asyncio.run(main())

Each message comes once and in order, or a `Gap` in its place. After a lost connection the client returns by itself, after a
random time of up to 1, 2, 4 … 30 s or after the time that the server names, and continues after the last message.

A subscription holds `max_unread` messages. If the program reads more slowly than messages come, the client leaves the topic,
and returns after the last held message once half of the held messages are read. Messages that the server still keeps for this
client then follow without a hole; otherwise a `Gap` says so. Under `resume = "session"` there is always a `Gap`.
"""
import asyncio
import contextlib
import json
import logging
import random
import time
from typing import Any, NamedTuple, Optional

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

log = logging.getLogger("janus")  # Lost connections, refused tokens, and errors of the server about no request.

WAIT, WAIT_MAX, STABLE = 1, 30, 10  # Seconds. Waits are random parts of WAIT, doubled until a connection lasts for STABLE.
PENDING_MAX = 256  # Requests without an answer. A further publication is refused with `too_many_pending`.
FINAL, EXPIRED = 4400, 4418  # Codes from FINAL on are final, but for EXPIRED with `get_token`.
OPTIONS = {"max_size": 2**25, "compression": None, "close_timeout": 1}  # No server's `max_frame_bytes` is above 16 MiB.

Message = NamedTuple("Message", [("topic", str), ("seq", int), ("time", int), ("event", Any), ("message_id", Any), ("data", Any)])
Receipt = NamedTuple("Receipt", [("topic", str), ("epoch", str), ("seq", int), ("subscribers", int), ("again", bool)])
# The messages `first` to `last` are missing. If both are None, the number is unknown: load the state anew.
Gap = NamedTuple("Gap", [("topic", str), ("first", Optional[int]), ("last", Optional[int])])


class JanusError(Exception):
    """`reason` is the server's name of an error, with the server's `code`. Reasons of the client have the code 0: `connection_lost`
    (a message may have been published), `too_many_pending`, `already_subscribed`, `closed`."""

    def __init__(self, reason, message="", code=0, wait=0.0):
        super().__init__(f"{reason}: {message}" if message else reason)
        self.reason, self.code, self.wait = reason, code, wait


class Subscription:
    """Iterates over the messages and gaps of a topic. A final `JanusError` of the topic or of the client is raised at the end."""

    def __init__(self, janus, topic, since):
        self.topic, self._janus, self._since, self._position = topic, janus, since, None
        self._unread, self._begun = asyncio.Queue(), asyncio.get_running_loop().create_future()
        self._asking, self._full, self._timer = True, False, None

    def __aiter__(self):
        return self

    async def __anext__(self):
        item = await self._unread.get()
        if self._full and self._unread.qsize() <= self._janus._max_unread // 2:
            self._full = False
            self._ask()
        if isinstance(item, Exception):
            self._unread.put_nowait(item)
            raise item
        return item

    def unsubscribe(self):
        """Ends the iteration, after the messages that have come."""
        if self._end(StopAsyncIteration()):
            self._janus._request({"type": "unsubscribe", "topic": self.topic})

    def _ask(self):
        self._asking = True  # Messages before the answer are of an earlier subscription.
        if self._timer:
            self._timer.cancel()
        if not self._full and self._janus._feeds.get(self.topic) is self:
            since = dict(zip(("epoch", "seq"), self._position)) if self._position else self._since
            self._janus._request({"type": "subscribe", "topic": self.topic, "since": since}, self._answered)

    def _answered(self, frame, error):
        if error and error.code >= FINAL:
            self._end(error)
        elif error and error.code:  # A lost connection has no code: the next connection asks again.
            log.warning("%s: %s", self.topic, error)
            self._timer = asyncio.get_running_loop().call_later(random.random() * WAIT_MAX, self._ask)
        elif frame and self._asking:
            self._asking, before = False, self._position
            if not frame["resumed"] or not before or before[0] != frame["epoch"]:
                self._position = frame["epoch"], frame["seq"]
                if before:
                    self._unread.put_nowait(Gap(self.topic, None, None))
            if not self._begun.done():
                self._begun.set_result(None)

    def _receive(self, frame):
        if frame["type"] == "gap":
            item, position = Gap(self.topic, frame["from"], frame["to"]), (frame["epoch"], frame["to"])
        else:
            item, position = Message(*map(frame.get, Message._fields)), (self._position and self._position[0], frame["seq"])
        if self._asking or (position[0] == self._position[0] and position[1] <= self._position[1]):
            return
        if self._unread.qsize() < self._janus._max_unread:
            self._position = position
            self._unread.put_nowait(item)
        else:
            self._full = self._asking = True
            self._janus._request({"type": "unsubscribe", "topic": self.topic})

    def _end(self, error):
        if self._janus._feeds.get(self.topic) is self:
            del self._janus._feeds[self.topic]
            self._unread.put_nowait(error)
            if not self._begun.done():
                self._begun.set_exception(JanusError("closed") if isinstance(error, StopAsyncIteration) else error)
            return True


class Janus:
    """A client, within `async with`. `get_token` is a coroutine function whose result is shown to the server (`auth`): called once
    for each token, and again before the token's end. `timeout` (seconds) is for connecting and for `get_token`. `options` are those
    of `websockets.connect`, such as `ssl` for an authority of your own."""

    def __init__(self, url="ws://localhost:8080/ws", *, get_token=None, timeout=10, max_unread=1000, **options):
        self._url, self._get_token, self._timeout, self._max_unread = url, get_token, timeout, max_unread
        self._options = {**OPTIONS, "open_timeout": timeout, **options}
        self._feeds, self._requests, self._last_id, self._frame_max = {}, {}, 0, 0
        self._session = self._token = self._expired = self._error = None

    async def __aenter__(self):
        self._ready, self._runner = asyncio.Event(), asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self._runner.cancel()
        await asyncio.wait([self._runner])
        self._end(JanusError("closed"), StopAsyncIteration())

    async def subscribe(self, topic, since=None):
        """Returns the `Subscription` once the server has subscribed the client, however long that takes. With a `since` of "start"
        or "last", the messages that the topic keeps come first, or the last message. Raises final errors, such as `forbidden`."""
        topic.encode()  # Half a surrogate pair would end the connection.
        if self._error or topic in self._feeds:
            raise self._error or JanusError("already_subscribed", topic)
        feed = self._feeds[topic] = Subscription(self, topic, since)
        feed._ask()
        try:
            await feed._begun
        except asyncio.CancelledError:
            feed.unsubscribe()
            raise
        return feed

    async def publish(self, topic, data, *, event="", message_id="", idempotency_key=None):
        """Returns the `Receipt`, or raises `JanusError`. Waits for a connection, however long that takes. After `connection_lost`, a
        program may repeat the message with the same `idempotency_key`, and the message is published once."""
        await self._ready.wait()
        if len(self._requests) >= PENDING_MAX:
            raise JanusError("too_many_pending")
        frame = {"type": "publish", "topic": topic, "event": event, "message_id": message_id, "data": data}
        answer = await self._answer({**frame, "idempotency_key": idempotency_key})
        return Receipt(*(answer.get(name, False) for name in Receipt._fields))

    async def _answer(self, frame):
        answer = asyncio.get_running_loop().create_future()
        self._request(frame, lambda *result: answer.done() or answer.set_result(result))
        frame, error = await answer
        if error:
            raise error
        return frame

    def _request(self, frame, done=lambda frame, error: None):
        self._last_id += 1
        text = encode({"id": self._last_id, **frame})
        if self._error or not self._ready.is_set():
            done(None, self._error or JanusError("connection_lost"))
        elif len(text.encode()) > self._frame_max:
            done(None, JanusError("frame_too_large", f"the server takes {self._frame_max} bytes", 4402))
        else:
            self._requests[self._last_id] = done
            self._outgoing.put_nowait(text)

    async def _run(self):
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._converse()
            except JanusError as error:
                lost = error
            except InvalidStatus as error:  # Of a full server, or of a proxy without one.
                after = error.response.headers.get("Retry-After", "")
                lost = JanusError("connection_lost", str(error), wait=int(after) if after.isdecimal() else 0)
            except Exception as error:  # Of the network, or of `get_token`.
                lost = JanusError("connection_lost", str(error) or repr(error))
            failures = 1 if self._ready.is_set() and time.monotonic() - began > STABLE else failures + 1
            self._leave()
            if lost.code == EXPIRED and self._token:
                self._expired, self._token = self._token, None
            elif lost.code >= FINAL:
                return self._end(lost, lost)
            wait = max(lost.wait, back_off(failures))
            log.warning("%s; next attempt at %s in %.1f s", lost, self._url, wait)
            await asyncio.sleep(wait)

    async def _converse(self):
        self._token = self._token or await self._new_token()
        async with connect(self._url, subprotocols=["janus.v1.json"], **self._options) as socket:
            await socket.send(encode({"type": "hello", "session": self._session, "auth": self._token}))
            welcome = self._receive(await asyncio.wait_for(socket.recv(), self._timeout))
            self._session, self._frame_max = welcome["session"], welcome["limits"]["max_frame_bytes"]
            self._outgoing = asyncio.Queue()  # Limited by PENDING_MAX and the number of topics.
            tasks = [asyncio.create_task(task) for task in (self._write(socket), self._renew(welcome.get("expires_ms")))]
            self._ready.set()
            for feed in list(self._feeds.values()):
                feed._ask()
            try:
                while True:
                    feed = self._feeds.get(self._receive(await socket.recv()).get("topic"))
                    if feed and feed._unread.qsize() > self._max_unread // 2:
                        await asyncio.sleep(0)  # The program's turn to read: `recv` does not wait while frames are there.
            finally:
                for task in tasks:
                    task.cancel()

    async def _write(self, socket):
        with contextlib.suppress(ConnectionClosed):  # The reader is told, too.
            while True:
                await socket.send(await self._outgoing.get())

    def _receive(self, text):
        frame = json.loads(text)
        code, feed, done = frame.get("code"), self._feeds.get(frame.get("topic")), self._requests.pop(frame.get("id"), None)
        error = code and JanusError(frame["error"], frame["message"], code, frame.get("reconnect_after_ms", 0) / 1000)
        if frame["type"] == "bye":
            raise error
        if frame["type"] in ("message", "gap"):
            if feed:
                feed._receive(frame)
        elif done:
            done(frame, error)
        elif error and feed and code >= FINAL:
            feed._end(error)  # The topic is granted no longer.
        elif error:
            log.warning("%s", error)
        return frame

    def _leave(self):
        self._ready.clear()
        requests, self._requests = self._requests, {}
        for done in requests.values():
            done(None, JanusError("connection_lost"))

    def _end(self, error, of_feeds):
        self._error = error
        self._leave()
        self._ready.set()  # Waiting publications raise the error.
        for feed in list(self._feeds.values()):
            feed._end(of_feeds)

    async def _new_token(self):
        token = await asyncio.wait_for(self._get_token(), self._timeout) if self._get_token else None
        if token and token == self._expired:
            raise ValueError("get_token has returned the expired token again")
        return token

    async def _renew(self, expires_ms):
        failures = 0
        while self._token and expires_ms:
            pause = back_off(failures) if failures else expires_ms / 1000 * (0.9 - random.random() / 5)
            await asyncio.sleep(max(WAIT, pause))
            try:
                token = await self._new_token()
                expires_ms = (await self._answer({"type": "refresh", "auth": token})).get("expires_ms")
                self._token, failures = token, 0
            except Exception as error:  # Of `get_token`, or a refusal.
                failures += 1
                log.warning("the token is not renewed: %s", error)


def back_off(failures):
    return random.random() * min(WAIT_MAX, WAIT * 2 ** min(failures - 1, 10))


def encode(frame):
    return json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
