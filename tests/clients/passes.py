#!/usr/bin/env python3
"""What every client of Janus passes, over real sockets and with the real server: passes.py BINARY [TEST...]

A client is a program that takes commands and reports everything that a user would see (program.py has the list), so that
the same tests run with each client. docs/CLIENTS.md is the table of these tests; `Table` holds the page against the tests.
`OfPython` and `OfJavaScript` have the tests of one client alone. tests/clients/run.sh installs the libraries of the programs.
"""

import asyncio
import base64
import concurrent.futures
import hashlib
import hmac
import json
import logging
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE.parent), str(ROOT / "examples" / "python")]
import authority
import janus
from harness import Network, Server
from janus import Janus, JanusError
from websockets.asyncio.server import serve

TARGET = Path(os.environ.get("CLIENTS_TARGET", ROOT / "target" / "clients"))
BINARY = None

# Seconds. No wait is longer, and each ends as soon as its condition holds.
PATIENCE = 30
DRAIN = {"drain-period": "100 ms", "drain-timeout": "5 s", "restart-time": "1 s"}
SECRET = b"a secret of at least 32 bytes, for a test"


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what}")
        # A pause between two looks, and not a wait for an event.
        time.sleep(0.01)


def token(seconds, topics=("news",), user="alice"):
    """A token of a user that may subscribe and publish to these topics until then."""
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    grants = {"subscribe": topics, "publish": topics}
    claims = {"sub": user, "exp": int(time.time()) + seconds, "janus": grants, "jti": os.urandom(4).hex()}
    signed = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256", "typ": "JWT"}, claims))
    return (signed + b"." + part(hmac.digest(SECRET, signed, hashlib.sha256))).decode()


class Program:
    """A client in a program of its own."""

    def __init__(self, command, url, *arguments):
        self.changed = threading.Condition()
        self.reports = []
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([*command, url, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.reports.append(json.loads(line))
                self.changed.notify_all()
        self.process.stdout.close()

    def tell(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def of(self, *kinds):
        return [report for report in self.reports if report[0] in kinds]

    def wait(self, what, condition):
        with self.changed:
            if not self.changed.wait_for(condition, PATIENCE):
                self.log.seek(0)
                raise AssertionError(f"not in time: {what}; reports: {str(self.reports)[-2000:]}; log:\n{self.log.read()[-2000:]}")

    def wait_for(self, count, kind):
        self.wait(f"{count} reports of {kind}", lambda: len(self.of(kind)) >= count)

    def subscribe(self, topic="news", since=None):
        self.tell("subscribe", topic, since)
        self.wait_for(1, "subscribed")

    def data(self):
        return [report[3] for report in self.of("message")]

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.log.close()


class Passes:
    """The tests of every client. `command` starts the client's program."""

    command = None

    def serve(self, settings=None):
        self.server = Server(BINARY, settings or {})
        self.addCleanup(self.server.wait)
        self.addCleanup(lambda: self.server.end(signal.SIGKILL))
        self.network = Network(self.server, next(Server.hosts))

    def folder(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return folder.name

    def url(self, way):
        return f"ws://{way.host}:{way.ports['http']}/ws"

    def client(self, *arguments, directly=False):
        client = Program(self.command, self.url(self.server if directly else self.network), *arguments)
        self.addCleanup(client.end)
        return client

    def publish(self, data):
        for value in data:
            self.assertTrue(self.server.publish("news", value))

    def connections(self):
        return json.loads(self.server.ask("GET", "/api/connections?transport=websocket")[1])["connections"]

    def assert_told(self, client):
        """Messages come once and in order, and a gap stands wherever messages are missing."""
        last, gap_of_any_size = None, False
        for kind, _, first, end in client.of("message", "gap"):
            if kind == "gap":
                gap_of_any_size |= first is None
                if first is not None:
                    self.assertEqual(first, last + 1)
                    last = end
                continue
            if last is not None and not gap_of_any_size:
                self.assertEqual(first, last + 1)
            last, gap_of_any_size = first, False

    def test_a_message_comes_once_with_its_number_and_data(self):
        self.serve()
        client = self.client()
        client.subscribe()
        data = [None, 0, 2**53, 1.5, "", "Grüße, 世界 \u2028 🙂\r\n\"", [], {"a": {"": [True]}}, "x" * 50_000]
        self.publish(data)
        for number, value in enumerate(data):
            client.tell("publish", number, "news", value)
        client.wait_for(2 * len(data), "message")
        client.wait_for(len(data), "published")
        self.assertEqual(client.of("message"), [["message", "news", number + 1, value] for number, value in enumerate(data * 2)])
        self.assertEqual(client.of("published"), [["published", number, len(data) + number + 1] for number in range(len(data))])

    def test_a_cut_costs_no_message(self):
        self.serve()
        client = self.client()
        client.subscribe()
        for first in range(0, 240, 60):
            # Some of the first messages are on their way when the connection is reset, and the last come during the return.
            self.publish(range(first, first + 20))
            self.network.cut()
            self.publish(range(first + 20, first + 40))
            self.network.open()
            self.publish(range(first + 40, first + 60))
            client.wait_for(first + 60, "message")
        self.assertEqual(client.data(), list(range(240)))
        self.assertEqual(client.of("gap", "failed"), [])

    def test_a_silent_connection_is_given_up(self):
        self.serve()
        client = self.client("impatient")
        client.subscribe()
        self.network.stall()
        self.publish(range(5))
        client.wait_for(5, "message")
        self.assertEqual(client.data(), list(range(5)))
        self.assertEqual(client.of("gap", "failed"), [])
        self.assertEqual(len(self.network.opened), 2)

    def test_a_client_cut_before_its_first_message_resumes_by_its_session(self):
        self.serve({"resume": "session"})
        client = self.client()
        client.subscribe()
        self.network.cut()
        self.publish(range(5))
        self.network.open()
        client.wait_for(5, "message")
        self.assertEqual(client.data(), list(range(5)))
        self.assertEqual(client.of("gap"), [])

    def test_the_start_of_a_topic_comes_once(self):
        self.serve({"history": "true"})
        self.publish(range(5))
        client = self.client()
        client.subscribe(since="start")
        client.wait_for(5, "message")
        self.network.cut()
        self.publish(range(5, 10))
        self.network.open()
        client.wait_for(10, "message")
        self.assertEqual(client.data(), list(range(10)))
        self.assertEqual(client.of("gap"), [])

    def test_the_last_message_of_a_topic_comes_first(self):
        self.serve({"history": "true"})
        self.publish(range(5))
        client = self.client()
        client.subscribe(since="last")
        client.wait_for(1, "message")
        self.publish([5])
        client.wait_for(2, "message")
        self.assertEqual(client.data(), [4, 5])
        self.assertEqual(client.of("gap"), [])

    def test_messages_no_longer_kept_are_told_as_a_gap_in_their_place(self):
        self.serve({"resume-messages": "5"})
        client = self.client()
        client.subscribe()
        self.publish(range(3))
        client.wait_for(3, "message")
        self.network.cut()
        self.publish(range(3, 50))
        self.network.open()
        client.wait_for(1, "gap")
        self.publish(range(50, 53))
        client.wait_for(6, "message")
        kinds = [report[0] for report in client.of("message", "gap")]
        self.assertEqual(kinds, ["message"] * 3 + ["gap"] + ["message"] * 3)
        self.assertEqual(client.of("gap"), [["gap", "news", None, None]])
        self.assertEqual(client.data(), [0, 1, 2, 50, 51, 52])

    def test_a_drain_delivers_and_the_client_returns_when_it_was_told_to(self):
        self.serve(DRAIN)
        client = self.client()
        client.subscribe()
        self.publish(range(20))
        drained = time.monotonic()
        self.server.end(signal.SIGTERM)
        self.assertEqual(self.server.wait(), 0)
        client.wait_for(20, "message")
        self.server.start()
        client.wait_for(1, "gap")
        self.publish(range(20, 25))
        client.wait_for(25, "message")
        self.assertEqual(client.data(), list(range(25)))
        # The client's own waits would begin with 50 ms.
        self.assertGreater(self.network.opened[1] - drained, 1)
        self.assertEqual(len(self.network.opened), 2)

    def test_a_restart_with_the_state_of_topics_leaves_no_hole(self):
        folder = self.folder()
        self.serve({**DRAIN, "state-file": f"{folder}/state"})
        client = self.client()
        client.subscribe()
        self.publish(range(3))
        client.wait_for(3, "message")
        self.server.end(signal.SIGTERM)
        self.server.wait()
        self.server.start()
        self.publish(range(3, 8))
        client.wait_for(8, "message")
        self.assertEqual(client.data(), list(range(8)))
        self.assertEqual(client.of("gap"), [])

    def test_a_crash_of_the_server_is_told_as_a_gap(self, *options):
        self.serve()
        client = self.client(*options)
        client.subscribe()
        self.publish(range(3))
        client.wait_for(3, "message")
        self.server.end(signal.SIGKILL)
        self.server.wait()
        self.server.start()
        client.wait_for(1, "gap")
        self.publish(range(3, 6))
        client.wait_for(6, "message")
        self.assertEqual(client.data(), list(range(6)))
        self.assertEqual(client.of("gap"), [["gap", "news", None, None]])

    def test_a_client_cut_off_for_not_reading_returns_and_is_told_of_the_gap(self):
        self.serve({"max-queue-bytes": "256 KiB", "resume-messages": "5"})
        client = self.client(directly=True)
        client.subscribe()
        self.publish(["first"])
        client.wait_for(1, "message")
        client.process.send_signal(signal.SIGSTOP)

        def is_cut_off():
            self.publish(["x" * 60_000] * 20)
            return not self.connections()

        until("the server cuts off the client", is_cut_off)
        client.process.send_signal(signal.SIGCONT)
        client.wait_for(1, "gap")
        self.publish(["last"])
        client.wait("the last message", lambda: "last" in client.data())
        self.assert_told(client)

    def test_messages_dropped_for_a_slow_client_are_told_by_their_numbers(self):
        self.serve({"max-queue-bytes": "256 KiB", "slow-consumer": "drop_oldest"})
        client = self.client(directly=True)
        client.subscribe()
        self.publish(["first"])
        client.wait_for(1, "message")
        connection, = self.connections()
        client.process.send_signal(signal.SIGSTOP)
        until("the client lags", lambda: self.publish(["x" * 60_000] * 20) or self.connections()[0]["lagging_for_ms"] > 0)
        # More than the queue takes.
        self.publish(["x" * 60_000] * 20)
        client.process.send_signal(signal.SIGCONT)
        self.publish(["last"])
        client.wait("the last message", lambda: "last" in client.data())
        self.assert_told(client)
        self.assertTrue(client.of("gap"))
        self.assertNotIn(["gap", "news", None, None], client.of("gap"))
        self.assertEqual([other["connection"] for other in self.connections()], [connection["connection"]])

    def tokens(self, grace, settings=None):
        """Starts a server that demands tokens."""
        folder = self.folder()
        keys = Path(folder, "keys")
        keys.touch(mode=0o600)
        keys.write_text(f"HS256 {base64.b64encode(SECRET).decode()}\n")
        self.serve({"token-keys": str(keys), "token-grace": grace, **(settings or {})})

    def test_a_token_is_renewed_over_the_open_connection(self):
        self.tokens("1 s")
        client = self.client("token")
        client.wait_for(1, "token")
        client.tell("token", token(3))
        client.subscribe()
        client.wait_for(2, "token")
        client.tell("token", token(4))
        # The next question comes after the end of the first token, and of the grace.
        client.wait_for(3, "token")
        self.publish(range(3))
        client.wait_for(3, "message")
        self.assertEqual(len(self.network.opened), 1)
        self.assertEqual(client.of("gap", "failed"), [])

    def test_a_client_whose_token_has_expired_returns_with_another_and_resumes(self):
        self.tokens("0 s")
        client = self.client("token")
        client.wait_for(1, "token")
        first = token(3)
        client.tell("token", first)
        client.subscribe()
        client.wait_for(2, "token")
        until("the server closes the connection", lambda: not self.network.received())
        self.publish(range(3))
        # The expired token is not shown again: the client asks for another.
        until("the client has the token again", lambda: client.tell("token", first) or len(client.of("given")) > 1)
        client.wait("a further question", lambda: client.of("token", "given")[-1] == ["token"])
        self.assertEqual(len(self.network.opened), 1)
        # The expired token may have been told once more than asked for, and have answered the further question.
        last = token(60)
        until("the client returns", lambda: client.tell("token", last) or len(self.network.opened) > 1)
        client.wait_for(3, "message")
        self.assertEqual(client.data(), list(range(3)))
        self.assertEqual(client.of("gap", "failed"), [])
        self.assertEqual(len(self.network.opened), 2)


    def test_the_members_of_a_topic_are_told_and_listed(self):
        self.tokens("0 s", {"presence": "members", "presence-linger": "0 s"})

        def client(user):
            client = self.client("token")
            client.wait_for(1, "token")
            client.tell("token", token(60, user=user))
            return client

        alice, bob = client("alice"), client("bob")
        alice.tell("subscribe", "news", None, True)
        alice.wait("the list", lambda: ["presence", "news", "presence", 1, ["alice"]] in alice.reports)
        bob.subscribe()
        alice.wait("bob comes", lambda: ["presence", "news", "joined", 2, ["alice", "bob"]] in alice.reports)
        bob.tell("members", "news")
        bob.wait("the answer", lambda: ["members", "news", 2, ["alice", "bob"]] in bob.reports)
        # The list is right after a lost connection as well.
        self.network.cut()
        self.network.open()
        bob.end()
        alice.wait("the list without bob", lambda: alice.of("presence")[-1][3:] == [1, ["alice"]] and len(alice.of("subscribed")) == 2)

    def test_the_history_is_read_in_parts(self):
        self.serve({"history": "true"})
        client = self.client()
        self.publish(range(1, 6))
        client.tell("history", "news", None, 2, True)
        client.wait_for(1, "history")
        _, position, complete, more, messages = client.of("history")[0]
        self.assertEqual((complete, more, messages), (True, True, [[5, 5], [4, 4]]))
        client.tell("history", "news", position, 2, True)
        client.wait_for(2, "history")
        self.assertEqual(client.of("history")[1][4], [[3, 3], [2, 2]])
        client.tell("history", "news", "start", 100, None)
        client.wait_for(3, "history")
        _, position, complete, more, messages = client.of("history")[2]
        self.assertEqual((complete, more, messages), (True, False, [[number, number] for number in range(1, 6)]))
        # What is new continues after the history without a hole.
        self.publish([6])
        client.subscribe(since=position)
        self.publish([7])
        client.wait_for(2, "message")
        self.assertEqual(client.data(), [6, 7])
        self.assertEqual(client.of("gap", "failed"), [])

    def test_a_topic_without_history_has_none_to_read(self):
        self.serve()
        client = self.client()
        client.tell("history", "news", None, 2, None)
        client.wait_for(1, "failed")
        self.assertEqual(client.of("failed"), [["failed", "news", "no_history"]])

    def test_bytes_come_as_they_were_published(self):
        self.serve({"history": "true"})
        client = self.client()
        client.subscribe()
        text = base64.b64encode(bytes(range(256))).decode()
        client.tell("bytes", 0, "news", text)
        client.wait_for(1, "message")
        client.tell("bytes", 1, "news", "")
        client.wait_for(2, "message")
        self.assertEqual(client.data(), [text, ""])
        client.tell("history", "news", None, 1, True)
        client.wait_for(1, "history")
        self.assertEqual(client.of("history")[0][4], [[2, ""]])


class JanusJs(Passes, unittest.TestCase):
    command = ["node", str(TARGET / "program.mjs")]


class OfJavaScript(Passes, unittest.TestCase):
    """What the JavaScript client alone has, in Node."""

    command = JanusJs.command

    def test_the_quick_start_works(self):
        self.serve()
        text = (ROOT / "janus-js" / "README.md").read_text()
        start = text.split("```js\n")[1].split("```")[0]
        self.assertLessEqual(len(start.splitlines()), 15)
        self.assertIn("ws://localhost:8080/ws", start)
        # Node 22 has the class.
        program = 'import { WebSocket } from "ws";\nglobalThis.WebSocket ??= WebSocket;\n' + start.replace("ws://localhost:8080/ws", self.url(self.network))
        file = TARGET / "quick-start.mjs"
        file.write_text(program)
        process = subprocess.Popen(["node", str(file)], text=True, stdout=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        with process.stdout:
            lines = {process.stdout.readline() for _ in range(2)}
            self.assertEqual(lines, {"1 { headline: 'It works' }\n", "number 1 for 1 subscriber\n"})
            self.publish([7])
            self.assertEqual(process.stdout.readline(), "2 7\n")

    def test_the_websocket_of_node_serves_as_well(self):
        if subprocess.run(["node", "-p", "typeof WebSocket"], capture_output=True, text=True, check=True).stdout != "function\n":
            self.skipTest("this Node has no WebSocket")
        self.serve()
        client = self.client("native")
        client.subscribe()
        self.network.cut()
        self.publish(range(5))
        self.network.open()
        client.wait_for(5, "message")
        self.assertEqual(client.data(), list(range(5)))
        self.assertEqual(client.of("gap", "failed"), [])

    def test_without_websockets_event_streams_miss_nothing(self):
        self.serve({"resume-messages": "1000"})
        client = self.client("blocked")
        client.subscribe()
        client.tell("subscribe", "other", None)
        client.wait_for(2, "subscribed")
        for first in range(0, 90, 30):
            self.publish(range(first, first + 10))
            self.network.cut()
            self.publish(range(first + 10, first + 20))
            self.network.open()
            self.publish(range(first + 20, first + 30))
            client.wait_for(first + 30, "message")
        self.assertEqual(client.data(), list(range(90)))
        client.tell("publish", 1, "news", 1)
        client.wait_for(1, "refused")
        self.assertEqual(client.of("refused", "gap", "failed"), [["refused", 1, "needs_websocket"]])

    def test_without_websockets_a_crash_of_the_server_is_told_as_a_gap(self):
        self.test_a_crash_of_the_server_is_told_as_a_gap("blocked")

    def test_without_websockets_a_token_is_shown_and_replaced_when_it_has_expired(self):
        self.tokens("0 s", {"resume-messages": "1000"})
        client = self.client("blocked", "token")
        client.wait_for(1, "token")
        client.tell("token", token(3))
        client.subscribe()
        client.wait_for(2, "token")
        self.publish(range(3))
        client.tell("token", token(60))
        client.wait_for(3, "message")
        self.assertEqual(client.data(), list(range(3)))
        self.assertEqual(client.of("gap", "failed"), [])


class JanusPy(Passes, unittest.TestCase):
    command = [sys.executable, str(HERE / "program.py")]


class JanusRs(Passes, unittest.TestCase):
    """`tests/clients/program.rs`, which is built beside the server."""


class OfPython(Passes, unittest.IsolatedAsyncioTestCase):
    """What `janus.py` alone has. Its client lives in this process."""

    def janus(self, **options):
        return Janus(self.url(self.network), **options)

    async def refused(self, awaitable):
        with self.assertRaises(JanusError) as raised:
            await asyncio.wait_for(awaitable, PATIENCE)
        return raised.exception.reason, raised.exception.code

    async def subscribed(self, client, topic="news", **keys):
        """An iteration after the answer of the server."""
        frames = client.subscribe(topic, **keys)
        answer, = await self.read(frames, 1)
        self.assertEqual(answer["type"], "subscribed")
        return frames

    async def read(self, frames, count):
        return [await asyncio.wait_for(frames.__anext__(), PATIENCE) for _ in range(count)]

    async def data(self, frames, count):
        """The data of the next messages, with None for a gap of unknown size."""
        read = []
        while len(read) < count:
            frame, = await self.read(frames, 1)
            if frame["type"] == "gap":
                self.assertEqual((frame["from"], frame["to"]), (None, None))
            if frame["type"] != "subscribed":
                read.append(frame.get("data"))
        return read

    async def returned(self, client):
        """Cuts the connection, and waits for the next."""
        before = len(self.network.opened)
        self.network.cut()
        self.network.open()
        while len(self.network.opened) == before:
            await asyncio.sleep(0.01)
        await client.publish("other", "connected")

    async def held(self, client, count):
        while client._feeds["news"].unread.qsize() < count:
            await asyncio.sleep(0.01)

    async def test_the_example_works(self):
        self.serve()
        text = (ROOT / "docs" / "CLIENTS.md").read_text()
        example = text.split("```python\n")[1].split("```")[0]
        self.assertLessEqual(len(example.splitlines()), 15)
        self.assertIn("ws://localhost:8080/ws", example)
        process = subprocess.Popen([sys.executable, "-Bu", "-c", example.replace("ws://localhost:8080/ws", self.url(self.network))], text=True,
                                   stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT / "examples" / "python")})
        with process:
            self.assertEqual(process.stdout.readline(), "number 1 for 1 subscriber\n")
            self.assertEqual(process.stdout.readline(), "{'headline': 'It works'}\n")
            self.publish([7])
            self.assertEqual(process.stdout.readline(), "7\n")
            process.kill()

    async def test_the_file_stays_below_200_lines(self):
        lines = (ROOT / "examples" / "python" / "janus.py").read_text().splitlines()
        self.assertLess(len(lines), 200)
        self.assertLessEqual(max(map(len, lines)), 100)

    async def test_a_publication_has_a_receipt_or_the_reason_of_the_refusal(self):
        self.serve()
        async with self.janus() as client:
            receipt = await client.publish("empty", 1)
            self.assertEqual((receipt["epoch"], receipt["seq"], receipt["subscribers"]), ("0" * 16, 0, 0))
            news = await self.subscribed(client)
            first = await client.publish("news", None, event="e", message_id=7, idempotency_key="key")
            self.assertEqual((first["topic"], first["seq"], first["subscribers"], first.get("again")), ("news", 1, 1, None))
            again = await client.publish("news", 2, idempotency_key="key")
            self.assertEqual((again["seq"], again["again"]), (1, True))
            message, = await self.read(news, 1)
            self.assertEqual([message[key] for key in ("topic", "seq", "event", "message_id", "data")], ["news", 1, "e", 7, None])
            self.assertEqual(await self.refused(client.publish("", 1)), ("bad_topic", 4407))
            self.assertEqual(await self.refused(client.publish("news", "x" * 70_000)), ("frame_too_large", 4402))
            self.assertEqual(await self.refused(self.subscribed(client, "x" * 300)), ("bad_topic", 4407))
            self.assertEqual(await self.refused(self.subscribed(client, "x" * 70_000)), ("bad_topic", 4407))
            self.assertEqual(await self.refused(self.subscribed(client, "news")), ("already_subscribed", 0))
            for data in (float("nan"), "\ud800", {1}):
                with self.assertRaises((ValueError, TypeError)):
                    await client.publish("news", data)
            with self.assertRaises(ValueError):
                client.subscribe("\ud800")
            self.assertEqual((await client.publish("news", 2))["seq"], 2)
        self.assertEqual(len(self.network.opened), 1)

    async def test_bytes_and_members_come_as_frames(self):
        self.serve({"presence": "members"})
        async with self.janus() as client:
            news = await self.subscribed(client, presence=True)
            members, = await self.read(news, 1)
            self.assertEqual((members["type"], members["count"]), ("presence", 1))
            await client.publish("news", None, data_base64="AP8=")
            message, = await self.read(news, 1)
            self.assertEqual((message["seq"], message["data_base64"]), (1, "AP8="))
            self.assertEqual((await client.request("presence", topic="news"))["count"], 1)

    async def test_after_a_lost_answer_a_message_with_a_key_is_published_once(self):
        self.serve({"resume-messages": "1000"})
        async with self.janus() as client:
            news = await self.subscribed(client)
            self.server.end(signal.SIGSTOP)
            lost = asyncio.create_task(self.refused(client.publish("news", "once", idempotency_key="key")))
            pending = [asyncio.create_task(self.refused(client.publish("news", 1))) for _ in range(janus.PENDING_MAX - 1)]
            await asyncio.sleep(0)
            self.assertEqual(await self.refused(client.publish("news", 1)), ("too_many_pending", 0))
            for task in pending:
                task.cancel()
            self.network.cut()
            self.assertEqual(await lost, ("connection_lost", 0))
            self.server.end(signal.SIGCONT)
            self.network.open()
            await client.publish("news", "once", idempotency_key="key")
            last = await client.publish("news", "last")
            read = await self.data(news, last["seq"])
            self.assertEqual(read.count("once"), 1)
            self.assertEqual(read[-1], "last")

    async def test_a_program_that_reads_slowly_misses_nothing_that_the_server_keeps(self):
        self.serve({"resume-messages": "1000"})
        async with self.janus(max_unread=10) as client:
            news = await self.subscribed(client)
            await asyncio.to_thread(self.publish, range(200))
            await self.held(client, 10)
            await self.returned(client)
            for number in range(200):
                self.assertEqual(await self.data(news, 1), [number])
                self.assertLessEqual(client._feeds["news"].unread.qsize(), 10)
                # The receipt does not wait for room.
                await client.publish("other", number)
        self.assertEqual(len(self.network.opened), 2)

    async def test_a_program_that_reads_too_slowly_is_told_of_the_gap(self):
        self.serve({"resume-messages": "5"})
        async with self.janus(max_unread=10) as client:
            news = await self.subscribed(client)
            await asyncio.to_thread(self.publish, range(200))
            await self.held(client, 10)
            await self.returned(client)
            self.assertEqual(await self.data(news, 11), [*range(10), None])
            await self.read(news, 1)
            self.publish(["last"])
            self.assertEqual(await self.data(news, 1), ["last"])
        self.assertEqual(len(self.network.opened), 2)

    async def test_a_gap_with_a_new_epoch_moves_the_position(self):
        """Against a server of the test, because no client can have a topic start afresh."""
        asked = []

        async def answer(socket):
            asked.append([json.loads(await socket.recv()).get("session")])
            limits = {"max_frame_bytes": 65536, "max_topic_bytes": 255, "max_topics": 128}
            frames = [{"type": "welcome", "session": f"session {len(asked)}", "resumed": False, "limits": limits, "heartbeat_ms": 30000}]
            await socket.send(json.dumps(frames.pop()))
            request = json.loads(await socket.recv())
            asked[-1].append(request["since"])
            frames.append({"type": "subscribed", "id": request["id"], "topic": "news", "epoch": "a", "seq": 5, "resumed": False})
            frames.append({"type": "message", "topic": "news", "seq": 6})
            frames.append({"type": "gap", "topic": "news", "epoch": "b", "from": 1, "to": 2})
            frames.append({"type": "message", "topic": "news", "seq": 3})
            if len(asked) > 1:
                frames = [{**frames[0], "epoch": "b", "seq": 3, "resumed": True}, {"type": "message", "topic": "news", "seq": 4}]
            for frame in frames:
                await socket.send(json.dumps(frame))
            # A frame of a later protocol.
            await socket.send('{"type":"news of the future"}')
            if len(asked) > 1:
                await socket.wait_closed()

        async with serve(answer, "127.0.0.1", 0, subprotocols=["janus.v1.json"]) as server:
            async with Janus(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws") as client:
                read = await self.read(client.subscribe("news"), 6)
                kinds = ["subscribed", "message", "gap", "message", "subscribed", "message"]
                self.assertEqual([frame["type"] for frame in read], kinds)
                self.assertEqual([frame.get("seq", frame.get("to")) for frame in read], [5, 6, 2, 3, 3, 4])
        self.assertEqual(asked, [[None, None], ["session 1", {"epoch": "b", "seq": 3}]])

    async def test_an_iteration_ends_with_its_subscription_or_the_client(self):
        self.serve()
        async with self.janus() as client:
            news = await self.subscribed(client)
            self.publish([1, 2])
            await self.held(client, 2)
            client.unsubscribe("news")
            self.assertEqual([frame["data"] async for frame in news], [1, 2])
            again = await self.subscribed(client)
            self.publish([3])
            self.assertEqual(await self.data(again, 1), [3])
            client.unsubscribe("unknown")
        self.assertEqual([frame async for frame in again], [])
        self.assertEqual(await self.refused(client.publish("news", 1)), ("closed", 0))
        with self.assertRaises(JanusError) as raised:
            client.subscribe("news")
        self.assertEqual(raised.exception.reason, "closed")

    async def test_a_final_refusal_ends_the_client_or_the_topic_alone(self):
        self.tokens("0 s")
        async with self.janus() as client:
            self.assertEqual(await self.refused(self.subscribed(client)), ("unauthorized", 4413))
            self.assertEqual(await self.refused(client.publish("news", 1)), ("unauthorized", 4413))
        grants = iter([["news", "other"], ["other"]])

        async def get_token():
            return token(2, next(grants, ["other"]))

        async with self.janus(get_token=get_token) as client:
            news, other = await self.subscribed(client), await self.subscribed(client, "other")
            self.assertEqual(await self.refused(self.subscribed(client, "secret")), ("forbidden", 4414))
            # The second token grants less.
            self.assertEqual(await self.refused(self.data(news, 1)), ("forbidden", 4414))
            await client.publish("other", 1)
            self.assertEqual(await self.data(other, 1), [1])

    async def test_get_token_is_asked_again_after_a_failure_and_may_end_the_client(self):
        self.tokens("0 s")
        answers = iter([OSError("offline"), token(60), JanusError("logged_out", code=janus.FINAL)])

        async def get_token():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        async with self.janus(get_token=get_token) as client:
            self.assertEqual((await asyncio.wait_for(client.publish("news", 1), PATIENCE))["seq"], 0)
            self.assertEqual(len(self.network.opened), 1)
            client._token = None
            self.network.cut()
            self.network.open()
            self.assertEqual(await self.refused(self.subscribed(client)), ("logged_out", janus.FINAL))

    async def test_a_client_of_a_full_server_waits_as_long_as_the_server_says(self):
        self.serve({"max-connections": "1"})
        async with self.janus() as first:
            await self.subscribed(first)
            with self.assertLogs("janus") as logs:
                second = await self.janus().__aenter__()
                self.addAsyncCleanup(second.__aexit__)
                while not (own := [line for line in logs.output if "HTTP 503" in line and self.url(self.network) in line]):
                    await asyncio.sleep(0.01)
        # The client's own first wait is at most 1 s.
        self.assertGreater(float(re.search(r"in ([\d.]+) s", own[0])[1]), 3)

    async def test_tls_trusts_an_authority_of_the_caller_only(self):
        self.serve({"tls-cert": str(TARGET / "certificate.pem"), "tls-key": str(TARGET / "key.pem")})
        # The address in the certificate.
        url = f"wss://127.0.0.1:{Network(self.server).ports['https']}/ws"
        async with Janus(url, ssl=ssl.create_default_context(cafile=TARGET / "authority.pem")) as client:
            self.assertEqual((await asyncio.wait_for(client.publish("news", 1), PATIENCE))["seq"], 0)
        with self.assertLogs("janus") as logs:
            async with Janus(url) as client:
                own = []
                while not own:
                    await asyncio.sleep(0.01)
                    own = [line for line in logs.output if url in line]
        self.assertIn("CERTIFICATE_VERIFY_FAILED", own[0])


class Table(unittest.TestCase):
    """docs/CLIENTS.md names tests that exist."""

    def test_each_client_has_a_test_of_each_row(self):
        text = (ROOT / "docs" / "CLIENTS.md").read_text()
        head, _, *rows = text[text.index("| row |"):].split("\n\n")[0].splitlines()
        self.assertEqual(head, "| row | `janus-client` | `janus.py` | `janus_core::client` |")
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        found = [row[0].split(":")[0] for row in rows]
        self.assertEqual(found, ["message", "cut", "resume without a hole", "gap", "drain", "restart", "slow consumer", "token expiry", "presence", "history", "bytes"])
        named = set()
        for name, *cells in rows:
            for client, cell in zip((JanusJs, JanusPy, JanusRs), cells):
                tests = re.findall(r"`([^`]+)`", cell)
                self.assertTrue(tests, f"{name}: {client.__name__} has no test")
                for test in tests:
                    self.assertTrue(exists(client, test), f"{name}: no test {test}")
                    named.add(test)
        missing = {name for name in dir(Passes) if name.startswith("test_")} - {name.split(".")[-1] for name in named}
        self.assertFalse(missing, "tests that no row names")


def exists(client, test):
    module, _, function = test.rpartition("::")
    if module:
        files = [file for folder in ("tests", "janus-core/tests") for form in (f"{module}.rs", f"{module}/*.rs")
                 for file in (ROOT / folder).glob(form)]
        return any(f"fn {function}(" in file.read_text() for file in files)
    alone = {"OfJavaScript": OfJavaScript, "OfPython": OfPython}.get(test.split(".")[0])
    return hasattr(alone, function.split(".")[-1]) if alone else hasattr(client, test)


def run(tests):
    """Runs tests, a few at a time because most of them wait, and prints the failures and the number of tests."""
    def one(test):
        result = unittest.TestResult()
        test.run(result)
        return result

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = list(threads.map(one, tests))
    failures = [failure for result in results for failure in result.failures + result.errors]
    for test, trace in failures:
        print(f"\n== {test.id()}\n{trace}")
    print(f"{len(tests) - len(failures)} passed, {len(failures)} failed")
    return not failures


def main():
    global BINARY
    BINARY, *names = sys.argv[1:]
    TARGET.mkdir(parents=True, exist_ok=True)
    authority.make(TARGET)
    logging.getLogger("janus").addHandler(logging.NullHandler())
    # Which says that a test has looked at the server for long.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    loader = unittest.TestLoader()
    JanusRs.command = [str(Path(BINARY).resolve().parent / "examples" / "client_program")]
    cases = (JanusJs, JanusPy, JanusRs, OfJavaScript, OfPython, Table)
    tests = [case(name) for case in cases for name in loader.getTestCaseNames(case) if case not in (OfJavaScript, OfPython) or name not in dir(Passes)]
    chosen = [test for test in tests if not names or any(name in test.id() for name in names)]
    sys.exit(not (chosen and run(chosen)))


main()
