"""A client of Janus for asyncio and `websockets` 13 or later; docs/CLIENTS.md has an example."""
import asyncio
import json
import logging
import random
from types import SimpleNamespace

from websockets.asyncio.client import connect

log = logging.getLogger("janus")
dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
WAIT, WAIT_MAX, STABLE = 1, 30, 10  # Seconds. Waits double until a connection is stable.
PENDING_MAX = 256  # Requests without an answer.
FINAL, EXPIRED = 4400, 4418  # Codes from FINAL on are final, but for EXPIRED with `get_token`.
AWAY, SUBSCRIBED = -1, 0  # In place of the number of a subscribe without an answer.


class JanusError(Exception):
    """`reason` and `code` are those of PROTOCOL.md, or a name of the client's own and 0."""
    def __init__(self, reason, message="", code=0, wait=0):
        super().__init__(f"{reason}: {message}")
        self.reason, self.code, self.wait = reason, code, wait


class Janus:
    """A client, within `async with`. `options` are those of `websockets.connect`, such as `ssl`."""
    def __init__(self, url, *, get_token=None, timeout=10, max_unread=1000, **options):
        self._url, self._get_token, self._timeout, self._last_id = url, get_token, timeout, 0
        self._options = {"open_timeout": timeout, "close_timeout": 1, "max_size": 2**25, **options}
        self._max_unread, self._feeds, self._asks, self._answers = max_unread, {}, {}, {}
        self._session = self._token = self._expired = self._error = self._socket = None

    async def __aenter__(self):
        self._ready, self._runner = asyncio.Event(), asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self._runner.cancel()
        await asyncio.wait([self._runner])
        self._leave(JanusError("closed"))

    def subscribe(self, topic, since=None, **keys):
        """Iterates over the frames of a topic. A gap from None to None: load the state anew."""
        if self._error or topic in self._feeds:
            raise self._error or JanusError("already_subscribed", topic)
        if len(topic.encode()) > 4096:
            raise JanusError("bad_topic", "more than 4096 bytes", 4407)
        feed = SimpleNamespace(topic=topic, position=since, keys=keys, asked=AWAY)
        feed.unread, self._feeds[topic] = asyncio.Queue(), feed
        self._ask(feed)
        return self._read(feed)

    async def _read(self, feed):
        while isinstance(frame := await feed.unread.get(), dict):
            if feed.asked == AWAY:
                self._ask(feed)
            yield frame
        if frame:
            raise frame

    def unsubscribe(self, topic):
        """Ends the iteration, after the frames that have come."""
        if topic in self._feeds:
            self._feeds.pop(topic).unread.put_nowait(None)
            self._socket and self._send("unsubscribe", topic=topic)

    async def publish(self, topic, data, **keys):
        """The receipt, or a `JanusError`: `connection_lost` if the message may be published."""
        return await self.request("publish", topic=topic, data=data, **keys)

    async def request(self, kind, **keys):
        """The answer to a request of PROTOCOL.md, such as `history`. Waits for a connection."""
        await self._ready.wait()
        is_full = len(self._answers) >= PENDING_MAX
        if is_full or not self._socket:
            raise self._error or JanusError("too_many_pending" if is_full else "connection_lost")
        answer = asyncio.get_running_loop().create_future()
        self._answers[self._send(kind, **keys)] = answer
        return await answer

    def _send(self, kind, **keys):
        self._last_id += 1
        text = dumps({"type": kind, "id": self._last_id, **keys})
        if len(text.encode()) > self._frame_max:
            raise JanusError("frame_too_large", f"more than {self._frame_max} bytes", 4402)
        sending = asyncio.ensure_future(self._socket.send(text))
        sending.add_done_callback(lambda task: task.cancelled() or task.exception())  # As `recv`.
        return self._last_id

    def _ask(self, feed):
        feed.asked, has_room = AWAY, feed.unread.qsize() <= self._max_unread // 2
        if has_room and self._socket and self._feeds.get(feed.topic) is feed:
            feed.asked = self._send("subscribe", topic=feed.topic, since=feed.position, **feed.keys)
            self._asks[feed.asked] = feed.topic  # Not every refusal names the topic.

    def _take(self, feed, frame, error):
        kind, is_answer = frame["type"], frame.get("id") == feed.asked
        if error and error.code >= FINAL and (is_answer or "id" not in frame):
            self._feeds.pop(feed.topic).unread.put_nowait(error)
        elif error and is_answer:
            again = lambda asked=feed.asked: asked == feed.asked and self._ask(feed)
            asyncio.get_running_loop().call_later(random.random() * WAIT_MAX, again)
        elif kind == "subscribed" and is_answer:
            returns, feed.asked = isinstance(feed.position, dict), SUBSCRIBED
            if not returns or not frame["resumed"]:
                feed.position = {"epoch": frame["epoch"], "seq": frame["seq"]}
                returns and feed.unread.put_nowait({"type": "gap", "from": None, "to": None})
            feed.unread.put_nowait(frame)
        elif "id" not in frame and kind != "subscribed" and feed.asked == SUBSCRIBED:
            if kind in ("message", "gap"):
                epoch = frame.get("epoch", feed.position["epoch"])
                feed.position = {"epoch": epoch, "seq": frame.get("to", frame.get("seq"))}
            feed.unread.put_nowait(frame)
            if feed.unread.qsize() >= self._max_unread:  # Continues here once there is room.
                feed.asked = AWAY
                self._send("unsubscribe", topic=feed.topic)

    async def _run(self):
        failures, clock = -1, asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                await self._converse()
            except JanusError as error:
                lost = error
            except Exception as error:  # Of the network, of a full server, or of `get_token`.
                headers = error.response.headers if hasattr(error, "response") else {}
                after = headers.get("Retry-After", "")
                lost = JanusError("connection_lost", str(error) or repr(error))
                lost.wait = int(after) if after.isdecimal() else 0
            failures = 0 if self._socket and clock() - began > STABLE else failures + 1
            if lost.code == EXPIRED and self._token:
                self._expired, self._token = self._token, None
            elif lost.code >= FINAL:
                return self._leave(lost, lost)
            self._leave()
            wait = max(lost.wait, random.random() * min(WAIT_MAX, WAIT * 2 ** min(failures, 10)))
            log.warning("%s; next attempt at %s in %.1f s", lost, self._url, wait)
            await asyncio.sleep(wait)

    async def _converse(self):
        self._token = self._token or await self._new_token()
        async with connect(self._url, subprotocols=["janus.v1.json"], **self._options) as socket:
            await socket.send(dumps(dict(type="hello", session=self._session, auth=self._token)))
            welcome = self._receive(await asyncio.wait_for(socket.recv(), self._timeout))
            self._socket, self._session = socket, welcome["session"]
            self._frame_max = welcome["limits"]["max_frame_bytes"]
            self._ready.set()
            for feed in list(self._feeds.values()):
                self._ask(feed)
            renewal = asyncio.create_task(self._renew(welcome.get("expires_ms")))
            try:
                while True:
                    self._receive(await socket.recv())
                    await asyncio.sleep(0)  # The program's turn: `recv` may not wait.
            finally:
                renewal.cancel()

    def _receive(self, text):
        frame = json.loads(text)
        code, answer = frame.get("code"), self._answers.pop(frame.get("id"), None)
        feed = self._feeds.get(self._asks.pop(frame.get("id"), frame.get("topic")))
        wait = frame.get("reconnect_after_ms", 0) / 1000
        error = code and JanusError(frame["error"], frame["message"], code, wait)
        if frame["type"] == "bye":
            raise error
        if error and not answer:
            log.warning("%s", error)
        if answer and not answer.done():
            answer.set_exception(error) if error else answer.set_result(frame)
        elif feed and not answer:
            self._take(feed, frame, error)
        return frame

    def _leave(self, error=None, of_feeds=None):
        self._error, self._socket = error, None
        self._ready.set() if error else self._ready.clear()  # Waiting requests raise the error.
        answers, self._answers, self._asks = self._answers.values(), {}, {}
        for answer in answers:
            answer.done() or answer.set_exception(JanusError("connection_lost"))
        while error and self._feeds:
            self._feeds.popitem()[1].unread.put_nowait(of_feeds)

    async def _new_token(self):
        token = self._get_token and await asyncio.wait_for(self._get_token(), self._timeout)
        if token and token == self._expired:
            raise ValueError("get_token has returned the expired token again")
        return token

    async def _renew(self, expires_ms):
        while self._token and expires_ms:
            await asyncio.sleep(max(WAIT, expires_ms / 1000 * random.uniform(0.7, 0.9)))
            try:
                token = await self._new_token()
                answer = await self.request("refresh", auth=token)
                self._token, expires_ms = token, answer.get("expires_ms")
            except Exception as error:  # Of `get_token`, or a refusal.
                expires_ms = WAIT_MAX * 1000
                log.warning("the token is not renewed: %s", error)
