#!/usr/bin/env python3
"""Runs client libraries against Janus and says which of them get every message: run.py BINARY [LIBRARY...]

All libraries run at the same time, each twice, with and without TLS, as a program of its own (client.mjs, client.py,
Client.java) that subscribes to two topics through a network that can fail. tests/clients/run.sh installs the libraries;
without one named here, those run that tests/run.sh has. The result is a table, and exit code 1 if a library failed in a
scenario.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent))
import authority
from harness import ARRIVAL, START, Network, Server

TARGET = Path(os.environ.get("CLIENTS_TARGET", HERE.parents[1] / "target" / "clients"))

SMALL = ["eventsource", "eventsource-client", "ws", "requests+sseclient-py", "httpx-sse", "websockets"]
NODE = ["eventsource", "eventsource-client", "event-source-polyfill", "reconnecting-eventsource", "fetch-event-source",
        "undici-eventsource", "ws", "undici-ws"]
PYTHON = ["requests+sseclient-py", "httpx-sse", "aiohttp-sse-client", "websockets", "aiohttp"]
JAVA = ["java-sse", "java-ws"]

# Seconds. A wait ends as soon as its condition holds.
RETURN = 20
# The network, and the server, are away for this long.
AWAY = 1

# Short times, so that a run takes half a minute and clients see heartbeats.
SETTINGS = {"sse-retry": "300 ms", "heartbeat-interval": "1 s", "drain-timeout": "2 s", "drain-period": "100 ms",
            "restart-time": "500 ms"}
TLS = {"tls-cert": str(TARGET / "certificate.pem"), "tls-key": str(TARGET / "key.pem")}
# How the programs are told of the authority: Node, requests, and Python's own TLS.
TRUST = {name: str(TARGET / "authority.pem") for name in ("NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")}
JAVA_TRUST = TARGET / "authority.p12"


class Topic:
    """What a client has been sent on a topic, and what it has told."""

    def __init__(self, name, publishes_at_open):
        self.name = name
        self.publishes_at_open = publishes_at_open
        self.reports = []
        self.sent = {}
        self.number = 0


class Client:
    """A library, as a process."""

    def __init__(self, library, scheme, server, network):
        self.name = library if scheme == "http" else f"{library} (TLS)"
        self.server = server
        self.changed = threading.Condition()
        # The first topic gets a message as soon as it is open. The second is quiet until the first cut.
        self.busy, self.quiet = Topic(f"{library}-{scheme}", True), Topic(f"{library}-{scheme}-quiet", False)
        self.topics = {topic.name: topic for topic in (self.busy, self.quiet)}
        origin = f"{scheme}://127.0.0.1:{network.ports[scheme]}"
        self.log = open(TARGET / f"{library}-{scheme}.log", "w")
        self.process = subprocess.Popen([*command(library), origin, *self.topics], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True, env={**os.environ, **TRUST})
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            name, *report = json.loads(line)
            topic = self.topics[name]
            if report[0] == "open" and topic.publishes_at_open:
                # Like a page that publishes in its `onopen`.
                self.publish(topic)
            with self.changed:
                topic.reports.append((time.monotonic(), report))
                self.changed.notify_all()

    def publish(self, topic, text=""):
        with self.changed:
            topic.number += 1
            number = topic.number
            topic.sent[number] = time.monotonic()
        if not self.server.publish(topic.name, {"n": number, "text": text}):
            with self.changed:
                del topic.sent[number]

    def wait(self, seconds, condition):
        with self.changed:
            return self.changed.wait_for(condition, seconds)

    def opens(self):
        return [told(topic, 0, "open") for topic in self.topics.values()]

    def missing(self, topic, since, seconds):
        """What is wrong with the messages after number `since`: each must come, once, and in order."""
        def arrived():
            return [data["n"] for _, (_, data) in messages(topic) if data["n"] > since]

        def expected():
            return sorted(number for number in topic.sent if number > since)

        self.wait(seconds, lambda: set(expected()) <= set(arrived()))
        with self.changed:
            got, wanted = arrived(), expected()
        if got == wanted:
            return None
        lost, twice = len(set(wanted) - set(got)), len(got) - len(set(got))
        if lost:
            return f"{lost} of {len(wanted)} messages lost"
        return f"{twice} messages twice" if twice else "messages out of order"

    def end(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def told(topic, since, kind):
    """How many reports of this kind there are after the first `since`."""
    return sum(report[0] == kind for _, report in topic.reports[since:])


def messages(topic):
    return [entry for entry in topic.reports if entry[1][0] == "message"]


def command(library):
    if library in NODE:
        return ["node", str(TARGET / "client.mjs"), library]
    if library in PYTHON:
        return [str(TARGET / "python" / "bin" / "python"), str(HERE / "client.py"), library]
    if library in JAVA:
        trust = [f"-Djavax.net.ssl.trustStore={JAVA_TRUST}", "-Djavax.net.ssl.trustStorePassword=password"]
        return ["java", *trust, str(HERE / "Client.java"), library]
    sys.exit(f"no such library: {library}; there are {', '.join(NODE + PYTHON + JAVA)}")


def make_known_to_java():
    JAVA_TRUST.unlink(missing_ok=True)
    subprocess.run(["keytool", "-importcert", "-noprompt", "-alias", "authority", "-file", TARGET / "authority.pem",
                    "-keystore", JAVA_TRUST, "-storepass", "password"], check=True, capture_output=True)


class Scenarios:
    """What happens to all clients at once. Each has a name, and says for a client what is wrong, or None."""

    def __init__(self, clients, server, network):
        self.clients, self.server, self.network = clients, server, network
        self.results = {client.name: {} for client in clients}

    def each(self, name, check):
        def run(client):
            self.results[client.name][name] = check(client)

        threads = [threading.Thread(target=run, args=(client,)) for client in self.clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def subscribe(self):
        """Both streams open, and what is published at that moment arrives."""
        def check(client):
            if not client.wait(START, lambda: all(client.opens())):
                return "does not open"
            return client.missing(client.busy, 0, ARRIVAL)

        self.each("subscribe", check)

    def message(self):
        """Twenty messages, of which none needs the next to arrive."""
        texts = ["", "a line\nand another\r\n", "Grüße, 世界 \u2028 🙂", "x" * 20_000]

        def check(client):
            since = client.busy.number
            for number in range(20):
                client.publish(client.busy, texts[number % len(texts)])
            return client.missing(client.busy, since, ARRIVAL)

        self.each("message", check)

    def heartbeat(self):
        """Nothing happens for so long that each connection is sent a heartbeat, which is an event with data of its own."""
        before = self.network.received()
        marks = {topic.name: len(topic.reports) for client in self.clients for topic in client.topics.values()}
        deadline = time.monotonic() + RETURN
        while any(now <= before.get(pair, now - 1) for pair, now in self.network.received().items()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)

        def check(client):
            for topic in client.topics.values():
                heard = topic.reports[marks[topic.name]:]
                if heard:
                    return f"reports {heard[0][1][0]}"
            return None

        self.each("heartbeat", check)

    def cut(self):
        """All connections are reset, messages are published, and the network comes back."""
        marks = self.marks()
        self.network.cut()
        away = time.monotonic() + AWAY
        for _ in range(5):
            for client in self.clients:
                for topic in client.topics.values():
                    client.publish(topic)
        time.sleep(max(0, away - time.monotonic()))
        self.network.open()

        def of(topic, client):
            since, reports = marks[topic.name]
            if not client.wait(RETURN, lambda: told(topic, reports, "open")):
                return "does not come back"
            wrong = client.missing(topic, since, ARRIVAL)
            return wrong or ("is told of a gap" if told(topic, reports, "gap") else None)

        self.each("cut", lambda client: of(client.busy, client))
        self.each("cut before the first message", lambda client: of(client.quiet, client))

    def new_server(self, name, marks):
        """Clients come back to a server that knows nothing, get what is published from then on, and are told so."""
        def check(client):
            for topic in client.topics.values():
                if not client.wait(RETURN, lambda: told(topic, marks[topic.name][1], "open")):
                    return "does not come back"
            for topic in client.topics.values():
                number, reports = marks[topic.name]
                for _ in range(3):
                    client.publish(topic)
                wrong = client.missing(topic, number, ARRIVAL)
                if wrong:
                    return wrong
                if not client.wait(ARRIVAL, lambda: told(topic, reports, "gap")):
                    return "is not told of the gap"
            return None

        self.each(name, check)

    def marks(self):
        """By topic: the number of its last message, and how many reports there are."""
        return {topic.name: (topic.number, len(topic.reports)) for client in self.clients for topic in client.topics.values()}

    def drain(self):
        marks = self.marks()
        self.server.end(signal.SIGTERM)
        self.network.close()
        self.server.wait()
        self.server.start()
        self.network.open()
        self.new_server("drain", marks)

    def restart(self):
        marks = self.marks()
        self.server.end(signal.SIGKILL)
        self.network.close()
        self.server.wait()
        time.sleep(AWAY)
        self.server.start()
        self.network.open()
        self.new_server("restart", marks)

    def run(self):
        for scenario in (self.subscribe, self.message, self.heartbeat, self.cut, self.drain, self.restart):
            scenario()
        return self.results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY")
    parser.add_argument("--all", action="store_true", help="every library for Node and Python")
    arguments = parser.parse_args()
    libraries = arguments.libraries or (NODE + PYTHON if arguments.all else SMALL)
    TARGET.mkdir(parents=True, exist_ok=True)
    authority.make(TARGET)
    if set(libraries) & set(JAVA):
        make_known_to_java()
    server = Server(arguments.binary, {**SETTINGS, **TLS})
    network = Network(server)
    clients = [Client(library, scheme, server, network) for library in libraries for scheme in server.ports]
    try:
        results = Scenarios(clients, server, network).run()
        for client in clients:
            with open(TARGET / f"{client.busy.name}.reports", "w") as file:
                for topic in client.topics.values():
                    file.writelines(f"{at:.3f} {topic.name} {json.dumps(report)[:200]}\n" for at, report in topic.reports)
    finally:
        for client in clients:
            client.end()
        server.end(signal.SIGKILL)
        server.wait()
    names = list(results[clients[0].name])
    print("| client | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for client, result in results.items():
        print(f"| {client} | " + " | ".join(result[name] or "right" for name in names) + " |")
    failed = sum(wrong is not None for result in results.values() for wrong in result.values())
    print(f"\n{len(clients) * len(names) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
