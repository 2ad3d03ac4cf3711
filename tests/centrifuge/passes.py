#!/usr/bin/env python3
"""What the client libraries of Centrifugo, unmodified, pass on Janus: passes.py BINARY [TEST...]

Each library is a program that takes commands and reports what an application would see (program.js, program.py). The tests of
`Passes` run with each: in Node, in Chromium and in Python. `OfServerApi` has the tests of `cent`. run.sh installs the libraries.
"""

import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent / "clients"))
from harness import Network, Server

TARGET = Path(os.environ.get("CENTRIFUGE_TARGET", HERE.parents[1] / "target" / "centrifuge"))
BINARY = None

# Seconds. No wait is longer, and each ends as soon as its condition holds.
PATIENCE = 30
SECRET = b"a secret of at least 32 bytes, for a test"
KEY = "a-key-of-the-backend"
SETTINGS = {"centrifuge": "true", "history": "true", "presence": "members", "presence-linger": "0 s", "presence-interval": "10 ms",
            "allow-publish": "true", "drain-period": "100 ms", "drain-timeout": "5 s", "restart-time": "1 s",
            "allowed-origins": "*", "history-messages": "1000", "history-age": "1 h"}


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what}")
        # A pause between two looks, and not a wait for an event.
        time.sleep(0.01)


def token(seconds, user="alice", subscribe=("news",), topics=(), info=None):
    """A token with these grants until then."""
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    janus = {"subscribe": subscribe, "publish": subscribe, "topics": topics}
    if info:
        janus["info"] = info
    claims = {"sub": user, "exp": int(time.time()) + seconds, "janus": janus, "jti": os.urandom(4).hex()}
    signed = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256", "typ": "JWT"}, claims))
    return (signed + b"." + part(hmac.digest(SECRET, signed, hashlib.sha256))).decode()


def call(server, method, body):
    """The answer of the server API to this very text."""
    connection = http.client.HTTPConnection(server.host, server.ports["http"], timeout=PATIENCE)
    try:
        connection.request("POST", f"/centrifuge/api/{method}", body.encode(), {"content-type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class Program:
    """A library, and what it has reported."""

    def __init__(self):
        self.changed = threading.Condition()
        self.reports = []
        self.number = 0

    def hear(self, report):
        with self.changed:
            self.reports.append(report)
            self.changed.notify_all()

    def wait(self, what, condition):
        with self.changed:
            if not self.changed.wait_for(condition, PATIENCE):
                raise AssertionError(f"not in time: {what}; reports: {str(self.reports)[-3000:]}")

    def of(self, kind, channel=None):
        return [report[2] for report in self.reports if report[0] == kind and channel in (None, report[1])]

    def wait_for(self, count, kind, channel=None):
        self.wait(f"{count} reports of {kind}", lambda: len(self.of(kind, channel)) >= count)
        return self.of(kind, channel)[count - 1]

    def tell(self, name, *values):
        self.number += 1
        self.send([self.number, name, *values])
        return self.number

    def ask(self, name, *values):
        """The answer, or the error as an exception."""
        number = self.tell(name, *values)
        mine = lambda: [report for report in self.reports if report[0] in ("answer", "refused") and report[1] == number]
        self.wait(f"an answer to {name}", mine)
        kind, _, value = mine()[0]
        if kind == "refused":
            raise Refused(value["code"], value["message"])
        return value

    def subscribe(self, channel="news", **more):
        self.tell("subscribe", channel, more)
        return self.wait_for(1, "subscribed", channel)

    def data(self, channel="news"):
        return [report["data"] for report in self.of("publication", channel)]

    def wait_for_data(self, expected, channel="news"):
        self.wait(f"the messages {expected}", lambda: len(self.data(channel)) >= len(expected))
        if self.data(channel) != expected:
            raise AssertionError(f"{self.data(channel)} in place of {expected}")


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Process(Program):
    """A library in a program of its own."""

    def __init__(self, *command):
        super().__init__()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.hear(json.loads(line))

    def send(self, command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.go_on()
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Page(Program):
    """A library in a page of a browser, which fetches commands and posts reports."""

    def __init__(self):
        super().__init__()
        self.commands = queue.Queue()
        page = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                files = {"/": ("page.html", "text/html"), "/program.js": ("program.js", "text/javascript"),
                         "/centrifuge.js": ("node_modules/centrifuge/dist/centrifuge.js", "text/javascript")}
                if self.path == "/command":
                    command = page.commands.get()
                    return self.answer(200 if command else 410, json.dumps(command).encode(), "application/json")
                if self.path not in files:
                    return self.answer(404, b"", "text/plain")
                name, kind = files[self.path]
                self.answer(200, (TARGET / name).read_bytes(), kind)

            def do_POST(self):
                page.hear(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.answer(204, b"", "text/plain")

            def answer(self, status, body, kind):
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Site(http.server.ThreadingHTTPServer):
            # A browser that ends resets its connections.
            def handle_error(self, *_):
                pass

        self.site = Site(("127.0.0.1", 0), Handler)
        self.site.daemon_threads = True
        threading.Thread(target=self.site.serve_forever, daemon=True).start()
        self.profile = tempfile.mkdtemp()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", f"--user-data-dir={self.profile}"]
        self.process = subprocess.Popen([shutil.which("chromium"), *flags, f"http://127.0.0.1:{self.site.server_port}/"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def send(self, command):
        self.commands.put(command)

    def end(self):
        self.commands.put(None)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.site.shutdown()
        self.site.server_close()
        shutil.rmtree(self.profile, ignore_errors=True)


class Passes:
    """The tests of every library."""

    program = None
    # Whether the library tells of the recovery of a subscription that the server pushes.
    tells_recovery_of_server = True

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def serve(self, tokens=False, **settings):
        if tokens:
            keys = Path(self.folder.name) / "tokens.keys"
            keys.write_text(f"HS256 {base64.b64encode(SECRET).decode()}\n")
            settings["token-keys"] = str(keys)
        server = Server(BINARY, {**SETTINGS, **{name.replace("_", "-"): value for name, value in settings.items()}})
        self.addCleanup(server.wait)
        self.addCleanup(server.end, signal.SIGKILL)
        network = Network(server)
        return server, network

    def client(self):
        program = type(self).program()
        self.addCleanup(program.end)
        return program

    def connected(self, network, **more):
        client = self.client()
        client.tell("connect", f"ws://127.0.0.1:{network.ports['http']}/connection/websocket", more)
        client.wait_for(1, "connected")
        return client

    def subscribed(self, network, channel="news", **more):
        client = self.connected(network, **more)
        client.subscribe(channel)
        return client

    def publish(self, server, *data, channel="news"):
        for value in data:
            self.assertTrue(server.publish(channel, value), server.log)

    def test_a_message_comes_once_with_its_offset_and_data(self):
        server, network = self.serve()
        client = self.subscribed(network)
        self.assertTrue(client.of("connected")[0]["client"])
        values = [1, "two", {"three": [3.5, None]}, False]
        self.publish(server, *values)
        client.wait_for_data(values)
        self.assertEqual([report["offset"] for report in client.of("publication")], [1, 2, 3, 4])

    def test_data_with_line_breaks_are_one_message(self):
        server, network = self.serve()
        client = self.subscribed(network)
        self.assertIn("result", call(server, "publish", '{"channel":"news","data":{\n"a":\r\n1}}'))
        self.publish(server, 2)
        client.wait_for_data([{"a": 1}, 2])
        history = client.ask("history", "news", {"limit": 10})
        self.assertEqual([publication["data"] for publication in history["publications"]], [{"a": 1}, 2])

    def test_a_client_publishes_to_another(self):
        _, network = self.serve()
        client, other = self.subscribed(network), self.connected(network)
        other.ask("publish", "news", {"from": "other"})
        client.wait_for_data([{"from": "other"}])

    def test_messages_published_during_a_cut_are_recovered(self):
        server, network = self.serve()
        client = self.subscribed(network)
        self.publish(server, 1)
        client.wait_for_data([1])
        network.cut()
        self.publish(server, 2, 3)
        network.open()
        context = client.wait_for(2, "subscribed")
        self.assertTrue(context["wasRecovering"] and context["recovered"], context)
        self.publish(server, 4)
        client.wait_for_data([1, 2, 3, 4])

    def test_messages_no_longer_kept_are_told_as_not_recovered(self):
        server, network = self.serve(history_messages="2", resume_messages="2")
        client = self.subscribed(network)
        self.publish(server, 1)
        client.wait_for_data([1])
        network.cut()
        self.publish(server, *range(2, 8))
        network.open()
        context = client.wait_for(2, "subscribed")
        self.assertEqual((context["wasRecovering"], context["recovered"]), (True, False))
        self.publish(server, 8)
        client.wait_for_data([1, 8])

    def test_many_subscriptions_recover_each(self):
        server, network = self.serve()
        client = self.connected(network)
        names = [f"chat:{number}" for number in range(20)]
        for name in names:
            client.subscribe(name)
        network.cut()
        for name in names:
            self.publish(server, name, channel=name)
        network.open()
        for name in names:
            client.wait_for_data([name], name)

    def test_a_restart_with_the_state_of_topics_leaves_no_hole(self):
        state = Path(self.folder.name) / "state"
        server, network = self.serve(state_file=str(state))
        client = self.subscribed(network)
        self.publish(server, 1)
        client.wait_for_data([1])
        server.end(signal.SIGTERM)
        server.wait()
        server.start()
        context = client.wait_for(2, "subscribed")
        self.assertTrue(context["recovered"], context)
        self.publish(server, 2)
        client.wait_for_data([1, 2])

    def test_a_crash_of_the_server_is_told_as_not_recovered(self):
        server, network = self.serve()
        client = self.subscribed(network)
        self.publish(server, 1)
        client.wait_for_data([1])
        server.end(signal.SIGKILL)
        server.wait()
        server.start()
        context = client.wait_for(2, "subscribed")
        self.assertEqual((context["wasRecovering"], context["recovered"]), (True, False))

    def test_a_drain_sends_the_client_to_the_next_server(self):
        server, network = self.serve()
        client = self.subscribed(network)
        server.end(signal.SIGTERM)
        server.wait()
        reasons = [(context["code"], context["reason"]) for context in client.of("connecting")]
        until("the close to be seen", lambda: any(context["code"] == 3001 for context in client.of("connecting")))
        server.start()
        client.wait_for(2, "connected")
        self.assertEqual(client.of("disconnected"), [], reasons)

    def test_a_token_is_needed_and_names_the_channels(self):
        server, network = self.serve(tokens=True)
        client = self.subscribed(network, token=token(3600))
        self.publish(server, 1)
        client.wait_for_data([1])
        client.tell("subscribe", "other")
        unsubscribed = client.wait_for(1, "unsubscribed", "other")
        self.assertEqual(unsubscribed["code"], 103)
        with self.assertRaises(Refused) as refused:
            client.ask("publish", "other", 1)
        self.assertEqual(refused.exception.code, 103)

    def test_a_channel_that_names_its_users_is_refused(self):
        _, network = self.serve()
        client = self.connected(network)
        for channel in ("dialog#alice,bob", "$private"):
            client.tell("subscribe", channel)
            self.assertEqual(client.wait_for(1, "unsubscribed", channel)["code"], 103)
            with self.assertRaises(Refused) as refused:
                client.ask("publish", channel, 1)
            self.assertEqual(refused.exception.code, 103)

    def test_without_a_token_a_client_is_refused_for_good(self):
        _, network = self.serve(tokens=True)
        client = self.client()
        client.tell("connect", f"ws://127.0.0.1:{network.ports['http']}/connection/websocket", {})
        self.assertEqual(client.wait_for(1, "disconnected")["code"], 3500)

    def test_without_a_token_public_channels_alone_are_open(self):
        _, network = self.serve(tokens=True, anonymous="true", anonymous_subscribe="true")
        client = self.subscribed(network)
        with self.assertRaises(Refused) as refused:
            client.ask("publish", "news", 1)
        self.assertEqual(refused.exception.code, 103)

    def test_a_token_is_refreshed_over_the_open_connection(self):
        server, network = self.serve(tokens=True)
        client = self.subscribed(network, token=token(6), getsToken=True)
        client.wait_for(1, "token")
        client.tell("give", token(3600))
        # The first token and its grace are over.
        deadline = time.monotonic() + 7
        until("the first token to end", lambda: time.monotonic() > deadline)
        self.publish(server, 1)
        client.wait_for_data([1])
        self.assertEqual((len(client.of("connected")), client.of("disconnected")), (1, []))

    def test_a_client_whose_token_has_expired_gets_another_and_recovers(self):
        server, network = self.serve(tokens=True, token_grace="10 ms")
        client = self.subscribed(network, token=token(6), getsToken=True)
        network.cut()
        self.publish(server, 1)
        expired = time.monotonic() + 7
        until("the token to end", lambda: time.monotonic() > expired)
        network.open()
        client.wait_for(1, "token")
        client.tell("give", token(3600))
        client.wait_for_data([1])
        self.assertEqual(client.of("disconnected"), [])

    def test_channels_of_the_token_are_subscribed_and_recovered(self):
        server, network = self.serve(tokens=True)
        client = self.connected(network, token=token(3600, topics=["inbox"]))
        client.wait_for(1, "subscribed", "inbox")
        self.publish(server, 1, channel="inbox")
        client.wait_for_data([1], "inbox")
        network.cut()
        self.publish(server, 2, 3, channel="inbox")
        network.open()
        client.wait_for_data([1, 2, 3], "inbox")
        self.assertEqual(client.of("subscribed", "inbox")[-1]["recovered"], self.tells_recovery_of_server)
        self.publish(server, 4, channel="inbox")
        client.wait_for_data([1, 2, 3, 4], "inbox")

    def test_members_are_listed_and_their_coming_and_going_is_told(self):
        _, network = self.serve(tokens=True)
        client = self.connected(network, token=token(3600, user="alice"))
        client.subscribe("news", joinLeave=True)
        bob = self.subscribed(network, token=token(3600, user="bob", info={"name": "Bob"}))
        joined = client.wait_for(1, "join", "news")["info"]
        self.assertEqual((joined["user"], joined["connInfo"]), ("bob", {"name": "Bob"}))
        members = client.ask("presence", "news")["clients"]
        self.assertEqual(sorted(member["user"] for member in members.values()), ["alice", "bob"])
        self.assertEqual(client.ask("stats", "news"), {"numClients": 2, "numUsers": 2})
        bob.ask("unsubscribe", "news")
        self.assertEqual(client.wait_for(1, "leave", "news")["info"]["user"], "bob")

    def test_a_history_is_read_in_both_directions(self):
        server, network = self.serve()
        client = self.subscribed(network)
        self.publish(server, *range(1, 6))
        client.wait_for_data([1, 2, 3, 4, 5])
        top = client.ask("history", "news", {"limit": 0})
        self.assertEqual((top["offset"], top["publications"]), (5, []))
        data = lambda more: [publication["data"] for publication in client.ask("history", "news", more)["publications"]]
        self.assertEqual(data({"limit": 2}), [1, 2])
        self.assertEqual(data({"limit": 2, "reverse": True}), [5, 4])
        self.assertEqual(data({"limit": 10, "since": {"offset": 3, "epoch": top["epoch"]}}), [4, 5])
        self.assertEqual(data({"limit": 10, "since": {"offset": 3, "epoch": top["epoch"]}, "reverse": True}), [2, 1])
        with self.assertRaises(Refused) as refused:
            client.ask("history", "news", {"limit": 10, "since": {"offset": 3, "epoch": "other"}})
        self.assertEqual(refused.exception.code, 112)

    def test_what_is_not_available_is_refused_by_its_code(self):
        _, network = self.serve(history="false", presence="off")
        client = self.subscribed(network)
        for command, code in [(("history", "news", {"limit": 1}), 108), (("presence", "news"), 108), (("rpc", "method"), 104)]:
            with self.assertRaises(Refused) as refused:
                client.ask(*command)
            self.assertEqual(refused.exception.code, code, command)
        client.ask("publish", "news", "still here")
        client.wait_for_data(["still here"])

    def test_a_silent_connection_is_given_up_and_recovered(self):
        server, network = self.serve(heartbeat_interval="1 s")
        client = self.subscribed(network, ping=1_000)
        network.stall()
        self.publish(server, 1)
        client.wait_for_data([1])
        self.assertTrue(client.of("subscribed", "news")[-1]["recovered"])

    def test_pings_keep_a_quiet_connection(self):
        server, network = self.serve(heartbeat_interval="1 s", pong_timeout="1 s")
        client = self.subscribed(network, ping=5_000)
        quiet = time.monotonic() + 5
        until("several pings", lambda: time.monotonic() > quiet)
        self.publish(server, 1)
        client.wait_for_data([1])
        self.assertEqual(len(client.of("connected")), 1)

    def test_pings_come_while_both_sides_send(self):
        _, network = self.serve(heartbeat_interval="2 s", pong_timeout="2 s")
        client = self.subscribed(network, ping=1_000)
        begun = time.monotonic()
        for number in range(8):
            client.ask("publish", "news", number)
            client.wait_for_data(list(range(number + 1)))
            until("the next second", lambda: time.monotonic() > begun + number + 1)
        self.assertEqual((len(client.of("connected")), client.of("disconnected")), (1, []), client.of("connecting"))

    def test_the_server_closes_a_client_for_now_or_for_good(self):
        server, network = self.serve(tokens=True)
        client = self.subscribed(network, token=token(3600))
        close = lambda reconnect: server.ask("POST", "/api/disconnect", {"user": "alice", "reconnect": reconnect})
        close(True)
        client.wait_for(2, "connected")
        until("the reason", lambda: any(context["code"] == 3011 for context in client.of("connecting")))
        client.wait_for(2, "subscribed")
        close(False)
        self.assertEqual(client.wait_for(1, "disconnected")["code"], 3503)


class InNode(Passes, unittest.TestCase):
    @staticmethod
    def program():
        return Process("node", str(TARGET / "program.mjs"))

    def test_a_slow_client_is_cut_off_and_recovers(self):
        server, network = self.serve(max_queue_bytes="64 KiB", write_timeout="300 ms", send_buffer_bytes="16 KiB",
                                     history_bytes="64 MiB", resume_bytes="64 MiB")
        client = self.subscribed(network)
        client.stop()
        count = 400
        self.publish(server, *[f"{number} {'x' * 30_000}" for number in range(count)])
        client.go_on()
        client.wait("all messages", lambda: len(client.data()) >= count)
        self.assertEqual([int(data.split()[0]) for data in client.data()], list(range(count)))

    def test_no_policy_leaves_a_hole(self):
        for policy in ("drop_oldest", "drop_newest", "conflate"):
            with self.subTest(policy=policy):
                server, network = self.serve(max_queue_frames="4", slow_consumer=policy, send_buffer_bytes="16 KiB",
                                             history_bytes="64 MiB", resume_bytes="64 MiB", stall_timeout="60 s",
                                             max_frame_bytes="1 MiB")
                client = self.subscribed(network)
                client.stop()
                # Long messages fill all buffers on the way. Of the short ones behind, many come in one read of the client.
                count = 900
                self.publish(server, *[f"{number} {'x' * 30_000}" for number in range(400)])
                commands = [{"publish": {"channel": "news", "data": str(number)}} for number in range(400, count)]
                self.assertEqual(len(call(server, "batch", json.dumps({"commands": commands}))["replies"]), len(commands))
                client.go_on()
                client.wait("all messages", lambda: len(client.of("publication")) >= count)
                self.assertEqual([int(data.split()[0]) for data in client.data()], list(range(count)))


class InChromium(Passes, unittest.TestCase):
    program = staticmethod(Page)


class InPython(Passes, unittest.TestCase):
    tells_recovery_of_server = False

    def test_a_client_of_the_protobuf_protocol_stays_away(self):
        _, network = self.serve()
        client = self.client()
        client.tell("connect", f"ws://127.0.0.1:{network.ports['http']}/connection/websocket", {"protobuf": True})
        self.assertEqual(client.wait_for(1, "disconnected")["code"], 3501)

    @staticmethod
    def program():
        return Process(str(TARGET / "python/bin/python"), str(HERE / "program.py"))


class OfHostileInput(unittest.TestCase):
    """Input that no library sends, and what a client is sent that does not read."""

    setUp, serve, publish = Passes.setUp, Passes.serve, Passes.publish

    def open(self, network, opened=True, subprotocols=None):
        from websockets.sync.client import connect
        address = f"ws://127.0.0.1:{network.ports['http']}/connection/websocket"
        socket = self.enterContext(connect(address, compression=None, max_size=None, proxy=None, open_timeout=PATIENCE,
                                           subprotocols=subprotocols))
        if opened:
            socket.send('{"id":1,"connect":{}}')
            self.assertIn('"connect"', socket.recv(PATIENCE))
        return socket

    def close_code(self, socket):
        from websockets.exceptions import ConnectionClosed
        with self.assertRaises(ConnectionClosed) as closed:
            while True:
                socket.recv(PATIENCE)
        return closed.exception.rcvd.code

    def test_nothing_comes_from_behind_a_gap(self):
        from websockets.exceptions import ConnectionClosed
        for policy in ("drop_oldest", "drop_newest", "conflate"):
            with self.subTest(policy=policy):
                server, network = self.serve(max_queue_frames="4", slow_consumer=policy, send_buffer_bytes="16 KiB",
                                             stall_timeout="60 s", max_frame_bytes="1 MiB")
                socket = self.open(network)
                socket.send('{"id":2,"subscribe":{"channel":"news"}}')
                socket.recv(PATIENCE)
                # The library reads a few messages ahead, and no more until they are taken.
                count = 900
                self.publish(server, *["x" * 30_000 for _ in range(400)])
                commands = [{"publish": {"channel": "news", "data": number}} for number in range(400, count)]
                call(server, "batch", json.dumps({"commands": commands}))
                offsets = []
                with self.assertRaises((ConnectionClosed, TimeoutError)):
                    while len(offsets) < count:
                        told = json.loads(socket.recv(3))
                        if "pub" in told.get("push", {}):
                            offsets.append(told["push"]["pub"]["offset"])
                self.assertEqual(offsets, list(range(1, len(offsets) + 1)))

    def test_broken_commands_are_closed_with_a_final_code(self):
        _, network = self.serve()
        for text in ["[", "7", "{}{", "\0", '{"id":"a"}', '{"id":2,"subscribe":[]}', '{"id":2,"connect":{}}', '{"subscribe":{"channel":"a"}}',
                     "[" * 60_000, '{"id":2,"publish":{"channel":"a","data":' + "[" * 60_000]:
            socket = self.open(network)
            socket.send(text)
            self.assertEqual(self.close_code(socket), 3501, text[:40])
        for text in ["{}", '{"id":1,"subscribe":{"channel":"a"}}', "x"]:
            socket = self.open(network, opened=False)
            socket.send(text)
            self.assertEqual(self.close_code(socket), 3501, text)

    def test_input_of_another_kind_is_closed_for_good(self):
        _, network = self.serve(max_frame_bytes="4 KiB")
        for message, code in [(b"\x01", 3501), ("x" * 5_000, 1009)]:
            socket = self.open(network)
            socket.send(message)
            self.assertEqual(self.close_code(socket), code)

    def test_a_client_of_another_subprotocol_is_told_so(self):
        _, network = self.serve()
        socket = self.open(network, opened=False, subprotocols=["centrifuge-protobuf"])
        self.assertEqual(socket.subprotocol, "centrifuge-protobuf")
        self.assertEqual(self.close_code(socket), 3501)
        socket = self.open(network, subprotocols=["centrifuge-json"])
        self.assertEqual(socket.subprotocol, "centrifuge-json")

    def test_ten_thousand_commands_in_one_message_are_answered(self):
        _, network = self.serve(max_frame_bytes="1 MiB", client_subscribe_rate="0")
        socket = self.open(network)
        commands = [json.dumps({"id": number, "publish": {"channel": "a", "data": number}}) for number in range(2, 10_002)]
        socket.send("\n".join(commands))
        numbers = [json.loads(socket.recv(PATIENCE))["id"] for _ in commands]
        self.assertEqual(numbers, list(range(2, 10_002)))
        socket.send("{}\n" * 10_000 + '{"id":10002,"ping":{}}')
        self.assertEqual(json.loads(socket.recv(PATIENCE)), {"id": 10_002, "ping": {}})

    def test_a_flood_of_commands_leaves_others_alone(self):
        _, network = self.serve()
        flood, other = self.open(network), self.open(network)
        other.send('{"id":2,"subscribe":{"channel":"a"}}')
        self.assertIn('"subscribe"', other.recv(PATIENCE))
        stop = threading.Event()

        def pour():
            from websockets.exceptions import ConnectionClosed
            try:
                while not stop.is_set():
                    flood.send("\n".join(['{"id":2,"presence":{"channel":"a"}}'] * 1_000))
            except ConnectionClosed:
                pass

        thread = threading.Thread(target=pour, daemon=True)
        thread.start()
        for number in range(3, 103):
            begun = time.monotonic()
            other.send(json.dumps({"id": number, "ping": {}}))
            while json.loads(other.recv(PATIENCE)).get("id") != number:
                pass
            self.assertLess(time.monotonic() - begun, 5)
        stop.set()

    def test_deep_data_are_carried_byte_for_byte(self):
        _, network = self.serve()
        socket = self.open(network)
        socket.send('{"id":2,"subscribe":{"channel":"a"}}')
        socket.recv(PATIENCE)
        data = "[" * 20_000 + "]" * 20_000
        socket.send('{"id":3,"publish":{"channel":"a","data":' + data + "}}")
        texts = [socket.recv(PATIENCE), socket.recv(PATIENCE)]
        self.assertTrue(any(data in text for text in texts) or any("error" in text for text in texts), [text[:80] for text in texts])


class OfServerApi(unittest.TestCase):
    """The library `cent`."""

    def setUp(self):
        import cent
        self.cent = cent
        self.server = Server(BINARY, SETTINGS)
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.end, signal.SIGKILL)
        self.api = cent.Client(f"http://{self.server.host}:{self.server.ports['http']}/centrifuge/api", KEY)
        self.addCleanup(self.api._session.close)

    def test_each_method_answers_as_the_library_expects(self):
        cent, api = self.cent, self.api
        published = api.publish(cent.PublishRequest(channel="news", data={"a": [1]}))
        self.assertEqual((published.offset, len(published.epoch)), (1, 16))
        broadcast = api.broadcast(cent.BroadcastRequest(channels=["news", "other"], data=2))
        self.assertEqual([response.result.offset for response in broadcast.responses], [2, 1])
        history = api.history(cent.HistoryRequest(channel="news", limit=10))
        self.assertEqual([(pub.offset, pub.data) for pub in history.publications], [(1, {"a": [1]}), (2, 2)])
        self.assertEqual((history.offset, history.epoch), (2, published.epoch))
        self.assertEqual(api.presence(cent.PresenceRequest(channel="news")).presence, {})
        self.assertEqual(api.presence_stats(cent.PresenceStatsRequest(channel="news")).num_clients, 0)
        self.assertEqual(api.channels(cent.ChannelsRequest()).channels, {})
        info = api.info(cent.InfoRequest())
        self.assertEqual([(node.num_clients, node.num_users, node.num_subs, node.num_channels) for node in info.nodes], [(0, 0, 0, 0)])
        api.disconnect(cent.DisconnectRequest(user="nobody"))
        batch = api.batch(cent.BatchRequest(requests=[cent.PublishRequest(channel="news", data=3), cent.InfoRequest()]))
        self.assertEqual(batch.replies[0].offset, 3)

    def test_an_error_is_raised_with_its_code(self):
        cent = self.cent
        for request, method in [(cent.SubscribeRequest(user="u", channel="c"), self.api.subscribe),
                                (cent.HistoryRemoveRequest(channel="c"), self.api.history_remove)]:
            with self.assertRaises(cent.CentApiResponseError) as refused:
                method(request)
            self.assertEqual(refused.exception.code, 108)


if __name__ == "__main__":
    BINARY = sys.argv.pop(1)
    unittest.main(verbosity=2)
