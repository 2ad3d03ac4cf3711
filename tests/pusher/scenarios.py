#!/usr/bin/env python3
"""The official clients and publishers of Pusher Channels against Janus: scenarios.py BINARY [TEST...]

pusher-js and Laravel Echo run unmodified in Node and in Chromium, each with the same scenarios; the packages `pusher` of npm
and PyPI publish and ask. run.sh installs all of them. Signatures of channels and users are made by the package of PyPI, as
an application's backend makes them.
"""

import collections
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent / "clients"))
import pusher
from harness import Server

TARGET = Path(os.environ.get("PUSHER_TARGET", HERE.parents[1] / "target" / "pusher"))
BINARY = None

# Seconds. No wait is longer, and each ends as soon as its condition holds.
PATIENCE = 30
APP, KEY, SECRET = "3", "278d425bdf160c739803", "7ad3773142a6692b25b8"
SETTINGS = {"pusher-app-id": APP, "pusher-key": KEY, "pusher-client-events": "true", "presence-linger": "0 s",
            "drain-period": "100 ms", "drain-timeout": "2 s", "allowed-origins": "*"}
ENDED = "pusher:subscription_succeeded"


class Backend(http.server.ThreadingHTTPServer):
    """An application's backend, which signs, and the site of the pages."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        # A backend with the wrong secret signs what the server refuses.
        self.secret = SECRET
        self.users = collections.defaultdict(lambda: {"id": "alice", "name": "Alice", "price": 1.5})
        self.pages = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        # A page that ends leaves its requests.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def library(self):
        return pusher.Pusher(app_id=APP, key=KEY, secret=self.secret, host="127.0.0.1", ssl=False)


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    FILES = {"/page.html": HERE / "page.html", "/client.js": HERE / "client.js",
             "/pusher.js": TARGET / "node_modules/pusher-js/dist/web/pusher.js",
             "/echo.iife.js": TARGET / "node_modules/laravel-echo/dist/echo.iife.js"}

    def log_message(self, *_):
        pass

    def answer(self, body, kind="application/json", status=200):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/commands":
            return self.answer(self.server.pages[query].take())
        if path not in self.FILES:
            return self.answer(b"", "text/plain", 404)
        kind = "text/html" if path.endswith("html") else "text/javascript"
        self.answer(self.FILES[path].read_bytes(), kind)

    def do_POST(self):
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        if path == "/reports":
            self.server.pages[query].add(json.loads(body))
            return self.answer({})
        asked = dict(urllib.parse.parse_qsl(body))
        # The library of PyPI makes no signature for a name of a connection that it does not accept.
        library, socket = self.server.library(), asked["socket_id"]
        user = self.server.users[socket]
        if path == "/user":
            return self.answer(library.authenticate_user(socket, user))
        channel = asked["channel_name"]
        data = {"user_id": user["id"], "user_info": user} if channel.startswith("presence-") else None
        self.answer(library.authenticate(channel, socket, data))


class Program:
    """A client in a program of its own, or in a page."""

    def __init__(self):
        self.changed = threading.Condition()
        self.reports = []

    def add(self, report):
        with self.changed:
            self.reports.append(report)
            self.changed.notify_all()

    def of(self, *beginning):
        return [report for report in self.reports if report[:len(beginning)] == list(beginning)]

    def wait(self, *beginning, count=1):
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.of(*beginning)) >= count, PATIENCE):
                raise AssertionError(f"not in time: {beginning} × {count}; reports: {str(self.reports)[-3000:]}")
        return self.of(*beginning)[count - 1]

    def socket(self):
        return [report[2] for report in self.of("state", "connected")][-1]


class Node(Program):
    def __init__(self, _backend):
        super().__init__()
        command = ["node", str(TARGET / "program.mjs")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.add(json.loads(line))
        self.process.stdout.close()

    def tell(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


class Page(Program):
    number = 0

    def __init__(self, backend):
        super().__init__()
        Page.number += 1
        self.commands = []
        self.name = f"page={Page.number}"
        backend.pages[self.name] = self
        self.folder = tempfile.mkdtemp()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", f"--user-data-dir={self.folder}"]
        command = ["chromium", *options, f"{backend.url}/page.html?{self.name}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)

    def take(self):
        """The commands, as soon as there is any."""
        with self.changed:
            self.changed.wait_for(lambda: self.commands, 1)
            commands, self.commands = self.commands, []
            return commands

    def tell(self, *command):
        with self.changed:
            self.commands.append(command)
            self.changed.notify_all()

    def end(self):
        # The browser and its helpers, which are a group of their own.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Npm:
    """The publisher of npm, with the names of PyPI's."""

    def __init__(self, server):
        command = ["node", str(TARGET / "publisher.mjs"), APP, KEY, SECRET, server.host, str(server.ports["http"])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, *call):
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        _, status, answer = json.loads(self.process.stdout.readline())
        if status != 200:
            raise ValueError(status, answer)
        return answer

    def trigger(self, channels, event, data, socket_id=None):
        return self.call("trigger", channels, event, data, {"socket_id": socket_id} if socket_id else {})

    def trigger_batch(self, batch):
        return self.call("triggerBatch", batch)

    def send_to_user(self, user, event, data):
        return self.call("sendToUser", user, event, data)

    def terminate_user_connections(self, user):
        return self.call("terminateUserConnections", user)

    def channels_info(self, prefix, attributes):
        return self.call("get", {"path": "/channels", "params": {"filter_by_prefix": prefix, "info": ",".join(attributes)}})

    def channel_info(self, channel, attributes):
        return self.call("get", {"path": f"/channels/{channel}", "params": {"info": ",".join(attributes)}})

    def users_info(self, channel):
        return self.call("get", {"path": f"/channels/{channel}/users"})

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Scenarios:
    """What every client passes. `client` starts its program."""

    client = None

    def setUp(self):
        self.backend = Backend()
        self.addCleanup(self.backend.server_close)
        self.addCleanup(self.backend.shutdown)

    def serve(self, **settings):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        secret = Path(folder.name, "secret")
        secret.write_text(SECRET + "\n")
        self.server = Server(BINARY, SETTINGS | {"pusher-secret-file": str(secret)} | settings)
        self.addCleanup(self.server.wait)
        self.addCleanup(lambda: self.server.end(signal.SIGKILL))
        self.npm = Npm(self.server)
        self.addCleanup(self.npm.end)
        self.pypi = pusher.Pusher(app_id=APP, key=KEY, secret=SECRET, host=self.server.host, port=self.server.ports["http"],
                                  ssl=False)

    def connect(self, how="connect", key=KEY, user=None):
        client = self.client(self.backend)
        self.addCleanup(client.end)
        settings = {"key": key, "host": self.server.host, "port": self.server.ports["http"], "auth": self.backend.url}
        client.tell(how, settings)
        if key == KEY:
            client.wait("state", "connected")
            if user:
                self.backend.users[client.socket()] = {"id": user, "name": user.title(), "price": 1.5}
        return client

    def subscribe(self, client, *channels):
        for channel in channels:
            client.tell("subscribe", channel)
            client.wait("event", channel, ENDED)

    def test_a_message_comes_from_every_publisher_with_its_data(self):
        self.serve()
        line = f"serving application {APP} of Pusher, channels as topics pusher:CHANNEL, 1 secret"
        self.assertTrue(any(line in logged for logged in list(self.server.log)), self.server.log)
        client = self.connect()
        self.subscribe(client, "news")
        data = [{"price": 1.5, "text": "Grüße, 世界 \u2028 🙂\r\n\""}, [1, [None]], "hello", "1", "", {"nested": "{\"a\":1}"}]
        for publisher in (self.pypi, self.npm):
            for value in data:
                publisher.trigger("news", "greeting", value)
        client.wait("event", "news", "greeting", count=2 * len(data))
        # Each publisher sends a text as it is, so that "1" is a number to every reader.
        seen = [1 if value == "1" else value for value in data]
        self.assertEqual([report[3] for report in client.of("event", "news", "greeting")], seen * 2)
        self.server.ask("POST", "/api/publish", {"topic": "pusher:news", "event": "native", "data": {"price": 2.5}})
        self.assertEqual(client.wait("event", "news", "native")[3], {"price": 2.5})

    def test_an_event_leaves_out_the_connection_of_its_sender(self):
        self.serve()
        alice, bob = self.connect(), self.connect()
        for client in (alice, bob):
            self.subscribe(client, "news", "sport")
        for publisher in (self.pypi, self.npm):
            publisher.trigger(["news", "sport"], "score", {}, alice.socket())
        self.pypi.trigger_batch([{"channel": "news", "name": "batched", "data": number} for number in range(3)])
        self.npm.trigger_batch([{"channel": "news", "name": "batched", "data": number} for number in range(3, 6)])
        for client in (alice, bob):
            client.wait("event", "news", "batched", count=6)
            self.assertEqual([report[3] for report in client.of("event", "news", "batched")], list(range(6)))
        self.assertEqual([len(client.of("event", name, "score")) for client in (alice, bob) for name in ("news", "sport")],
                         [0, 0, 2, 2])

    def test_a_private_channel_is_for_clients_with_a_signature(self):
        self.serve()
        client = self.connect()
        self.subscribe(client, "private-room")
        self.backend.secret = "7ad3773142a6692b25b9"
        client.tell("subscribe", "private-other")
        self.assertEqual(client.wait("event", "private-other", "pusher:subscription_error")[3]["status"], 401)
        self.pypi.trigger(["private-other", "private-room"], "secret", {})
        client.wait("event", "private-room", "secret")
        self.assertEqual(client.of("event", "private-other", "secret"), [])

    def test_the_members_of_a_presence_channel_are_told(self):
        self.serve()
        alice, bob = self.connect(user="alice"), self.connect(user="bob")
        self.subscribe(alice, "presence-room")
        here = alice.wait("event", "presence-room", ENDED)[3]
        self.assertEqual((here["count"], here["me"]["id"], here["me"]["info"]["price"]), (1, "alice", 1.5))
        self.subscribe(bob, "presence-room")
        self.assertEqual(sorted(bob.wait("event", "presence-room", ENDED)[3]["members"]), ["alice", "bob"])
        came = alice.wait("event", "presence-room", "pusher:member_added")[3]
        self.assertEqual((came["id"], came["info"]["name"]), ("bob", "Bob"))
        for publisher in (self.pypi, self.npm):
            users = publisher.users_info("presence-room")["users"]
            self.assertEqual(sorted(user["id"] for user in users), ["alice", "bob"])
        # A user with two connections is one member.
        second = self.connect(user="bob")
        self.subscribe(second, "presence-room")
        self.assertEqual(self.pypi.channel_info("presence-room", ["user_count", "subscription_count"]),
                         {"occupied": True, "user_count": 2, "subscription_count": 3})
        second.tell("unsubscribe", "presence-room")
        bob.tell("disconnect")
        self.assertEqual(alice.wait("event", "presence-room", "pusher:member_removed")[3]["id"], "bob")
        self.assertEqual([report[3]["id"] for report in alice.of("event", "presence-room", "pusher:member_added")
                          if report[3]["id"] != "alice"], ["bob"])

    def test_client_events_reach_the_other_clients_of_the_channel(self):
        self.serve()
        alice, bob = self.connect(user="alice"), self.connect(user="bob")
        for client in (alice, bob):
            self.subscribe(client, "presence-room", "private-room")
            client.tell("sender", "presence-room", "client-typed")
        alice.tell("trigger", "presence-room", "client-typed", {"at": 1.5})
        alice.tell("trigger", "private-room", "client-moved", 1)
        self.assertEqual(bob.wait("event", "presence-room", "client-typed")[3], {"at": 1.5})
        self.assertEqual(bob.wait("event", "private-room", "client-moved")[3], 1)
        self.assertEqual(bob.wait("sender")[1], "alice")
        for _ in range(20):
            alice.tell("trigger", "private-room", "client-moved", 1)
        self.assertEqual(alice.wait("error")[1], 4301)
        self.pypi.trigger("private-room", "still", {})
        alice.wait("event", "private-room", "still")
        self.assertEqual(alice.of("event", "presence-room", "client-typed"), [])

    def test_channels_are_listed_with_their_counts(self):
        self.serve()
        alice, bob = self.connect(user="alice"), self.connect(user="bob")
        self.subscribe(alice, "news", "presence-a", "presence-b", "cache-rate")
        self.subscribe(bob, "presence-b")
        for publisher in (self.pypi, self.npm):
            self.assertEqual(publisher.channels_info("presence-", ["user_count"])["channels"],
                             {"presence-a": {"user_count": 1}, "presence-b": {"user_count": 2}})
            self.assertEqual(sorted(publisher.channels_info("", [])["channels"]),
                             ["cache-rate", "news", "presence-a", "presence-b"])
            self.assertEqual(publisher.channel_info("none", []), {"occupied": False})

    def test_a_cache_channel_gives_its_last_message_to_a_newcomer(self):
        self.serve()
        early = self.connect()
        self.subscribe(early, "cache-rate", "private-cache-rate")
        for channel in ("cache-rate", "private-cache-rate"):
            early.wait("event", channel, "pusher:cache_miss")
            self.pypi.trigger(channel, "rate", 1)
            self.pypi.trigger(channel, "rate", 2)
        late = self.connect()
        for channel in ("cache-rate", "private-cache-rate"):
            self.subscribe(late, channel)
            self.assertEqual(late.wait("event", channel, "rate")[3], 2)
            self.assertEqual(late.of("event", channel, "pusher:cache_miss"), [])

    def test_a_user_signs_in_gets_messages_and_is_sent_away(self):
        self.serve()
        alice, bob = self.connect(user="alice"), self.connect(user="bob")
        for client in (alice, bob):
            self.subscribe(client, "news")
            client.tell("signin")
        for user in ("alice", "bob"):
            deadline = time.monotonic() + PATIENCE
            while not self.npm.channel_info(f"%23server-to-user-{user}", [])["occupied"]:
                self.assertLess(time.monotonic(), deadline)
        self.npm.send_to_user("alice", "note", {"text": "for alice"})
        self.assertEqual(alice.wait("user", "note")[2], {"text": "for alice"})
        self.npm.terminate_user_connections("alice")
        self.assertEqual(alice.wait("error")[1], 4009)
        alice.wait("state", "disconnected")
        self.pypi.trigger("news", "still", {})
        bob.wait("event", "news", "still")
        self.assertEqual((bob.of("user", "note"), len(alice.of("state", "connected"))), ([], 1))

    def test_a_client_comes_back_by_itself_after_a_restart(self):
        self.serve()
        client = self.connect(user="alice")
        self.subscribe(client, "news", "private-room")
        self.server.end(signal.SIGTERM)
        self.server.wait()
        self.server.start()
        client.wait("state", "connected", count=2)
        client.wait("event", "news", ENDED, count=2)
        client.wait("event", "private-room", ENDED, count=2)
        self.pypi.trigger(["news", "private-room"], "again", {})
        client.wait("event", "news", "again")
        client.wait("event", "private-room", "again")
        self.assertEqual(client.of("error")[0][1], 4200)

    def test_a_client_with_a_wrong_key_gives_up(self):
        self.serve()
        client = self.connect(key="another")
        self.assertEqual(client.wait("error")[1], 4001)
        client.wait("state", "disconnected")

    def test_an_event_beyond_a_limit_is_refused(self):
        self.serve()
        client = self.connect()
        self.subscribe(client, "news")
        for event in (("news", "big", "x" * 10_241), (["news"] * 101, "many", {}), ("no channel", "bad", {})):
            with self.assertRaises(ValueError):
                self.npm.trigger(*event)
        with self.assertRaises(ValueError) as raised:
            self.npm.trigger("news", "big", "x" * 10_241)
        self.assertEqual(raised.exception.args[0], 413)
        wrong = pusher.Pusher(app_id=APP, key=KEY, secret="7ad3773142a6692b25b9", host=self.server.host,
                              port=self.server.ports["http"], ssl=False)
        with self.assertRaises(pusher.errors.PusherBadAuth):
            wrong.trigger("news", "forged", {})
        self.npm.trigger("news", "good", "x" * 10_240)
        self.assertEqual(len(client.wait("event", "news", "good")[3]), 10_240)
        self.assertEqual([client.of("event", "news", event) for event in ("big", "many", "forged")], [[], [], []])

    def test_a_message_that_is_no_request_does_no_harm(self):
        self.serve()
        victim, attacker = self.connect(), self.connect()
        self.subscribe(victim, "news")
        attacker.tell("raw", "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"pusher:news\"}}")
        attacker.tell("raw", "{\"event\":\"nothing\"}")
        self.assertEqual(attacker.wait("error")[1], 4010)
        attacker.tell("raw", "not JSON")
        attacker.wait("state", "disconnected")
        self.pypi.trigger("news", "still", {})
        victim.wait("event", "news", "still")

    def test_laravel_echo_listens_joins_and_whispers(self):
        self.serve()
        alice, bob = self.connect("echo", user="alice"), self.connect("echo", user="bob")
        for client in (alice, bob):
            client.tell("listen", "channel", "news", ".greeting")
            client.tell("listen", "private", "room", "OrderShipped")
            client.tell("hearWhisper", "room", "typing")
            for name in ("news", "room"):
                client.wait("subscribed", name)
        self.pypi.trigger("news", "greeting", {"text": "hello"})
        # The name that Laravel gives an event of a class.
        self.npm.trigger("private-room", "App\\Events\\OrderShipped", {"order": 1})
        for client in (alice, bob):
            self.assertEqual(client.wait("heard", "news")[3], {"text": "hello"})
            self.assertEqual(client.wait("heard", "room")[3], {"order": 1})
        alice.tell("listen", "join", "lobby", ".none")
        alice.wait("here", "lobby")
        bob.tell("listen", "join", "lobby", ".none")
        self.assertEqual(sorted(user["name"] for user in bob.wait("here", "lobby")[2]), ["Alice", "Bob"])
        self.assertEqual(alice.wait("joining", "lobby")[2]["name"], "Bob")
        alice.tell("whisper", "room", "typing", {"who": "alice"})
        self.assertEqual(bob.wait("whispered", "room")[2], {"who": "alice"})
        bob.tell("disconnect")
        self.assertEqual(alice.wait("leaving", "lobby")[2]["name"], "Bob")
        self.assertEqual(alice.of("whispered"), [])


class OfNode(Scenarios, unittest.TestCase):
    client = Node

    def test_a_client_that_reads_nothing_delays_no_other_and_comes_back(self):
        self.serve(**{"max-queue-bytes": "64 KiB", "write-timeout": "500 ms", "send-buffer-bytes": "64 KiB"})
        slow, quick = self.connect(), self.connect()
        for client in (slow, quick):
            self.subscribe(client, "news")
        slow.process.send_signal(signal.SIGSTOP)
        sent = 0
        deadline = time.monotonic() + PATIENCE
        while not any("slow" in line for line in list(self.server.log)):
            self.assertLess(time.monotonic(), deadline, "the client is not cut off")
            self.pypi.trigger("news", "load", "x" * 10_000)
            sent += 1
        quick.wait("event", "news", "load", count=sent)
        slow.process.send_signal(signal.SIGCONT)
        slow.wait("state", "connected", count=2)
        slow.wait("event", "news", ENDED, count=2)
        self.pypi.trigger("news", "after", {})
        slow.wait("event", "news", "after")


@unittest.skipUnless(shutil.which("chromium"), "there is no Chromium")
class OfChromium(Scenarios, unittest.TestCase):
    client = Page


if __name__ == "__main__":
    BINARY = sys.argv.pop(1)
    unittest.main(verbosity=2)
