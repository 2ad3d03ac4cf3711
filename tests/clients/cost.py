#!/usr/bin/env python3
"""What clients of Centrifugo and of Pusher cost, compared with clients of janus.v1.json: cost.py BINARY [CLIENTS [MESSAGES [ROUNDS]]]

All in the same run, one after the other, round by round: the CPU time of the server for one delivery, and the memory of a server
with idle clients. BINARY is a release build. The last line has the ratios.
"""

import base64
import json
import os
import select
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))
from harness import Server

SECRET = tempfile.NamedTemporaryFile("w", suffix=".secret")
SETTINGS = {"centrifuge": "true", "pusher-app-id": "1", "pusher-key": "key", "pusher-secret-file": SECRET.name,
            "max-connections": "20000"}
# The path, and what a client sends: each is answered with two messages.
OPENINGS = {
    "janus.v1.json": ("/ws", ['{"type":"hello"}', '{"type":"subscribe","id":1,"topic":"TOPIC"}']),
    "centrifuge": ("/connection/websocket", ['{"id":1,"connect":{}}', '{"id":2,"subscribe":{"channel":"TOPIC"}}']),
    "pusher": ("/app/key?protocol=7", ['{"event":"pusher:subscribe","data":{"channel":"TOPIC"}}']),
}
# Clients of Pusher are in a namespace of their own.
TOPIC = {"pusher": "pusher:news"}


def frame(text):
    """A text of a client, masked with zeros."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    return b"\x81" + length + b"\0\0\0\0" + data


class Clients:
    """Clients subscribed to a topic, which count the bytes that they are sent."""

    def __init__(self, server, protocol, topic, count):
        path, opening = OPENINGS[protocol]
        key = base64.b64encode(bytes(16)).decode()
        head = (f"GET {path} HTTP/1.1\r\nhost: {server.host}:{server.ports['http']}\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n")
        begin = head.encode() + b"".join(frame(text.replace("TOPIC", topic)) for text in opening)
        self.epoll, self.sockets = select.epoll(), {}
        for _ in range(count):
            client = socket.create_connection((server.host, server.ports["http"]))
            client.sendall(begin)
            self.sockets[client.fileno()] = client
            self.epoll.register(client, select.EPOLLIN)
        # The head and both answers of each.
        self.received = dict.fromkeys(self.sockets, b"")
        self.read_until(lambda: all(data.count(b"\n") >= 4 and data.endswith(b"}") and data.count(b"\x81") >= 2
                                    for data in self.received.values()), keep=True)

    def read_until(self, condition, keep=False):
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, "not in time"
            for number, _ in self.epoll.poll(0.1):
                data = self.sockets[number].recv(1 << 20)
                self.received[number] = self.received[number] + data if keep else data
                self.bytes = getattr(self, "bytes", 0) + len(data)

    def close(self):
        self.epoll.close()
        for client in self.sockets.values():
            client.close()


def cpu(server):
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(server):
    lines = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) * 1024


def delivery(binary, protocol, count, messages):
    """Seconds of the server's CPU for one delivery, with batches of one message each."""
    server = Server(binary, SETTINGS)
    try:
        clients = Clients(server, protocol, "news", count)
        data = {"price": 1.5, "text": "x" * 60}
        clients.bytes, before = 0, cpu(server)
        for number in range(messages):
            seen = clients.bytes
            assert server.publish(TOPIC.get(protocol, "news"), data)
            # All of a message before the next: no batches.
            clients.read_until(lambda: clients.bytes - seen >= count * 60)
        return (cpu(server) - before) / (messages * count)
    finally:
        server.end(9)
        server.wait()


def idle(binary, protocol, count):
    """Bytes for one idle client, without what the first clients make the allocator set aside."""
    server = Server(binary, SETTINGS)
    try:
        warm = Clients(server, protocol, "warm", count)
        before = memory(server)
        clients = Clients(server, protocol, "news", count)
        return (memory(server) - before) / count
    finally:
        server.end(9)
        server.wait()


def main():
    binary = os.path.realpath(sys.argv[1])
    count, messages, rounds = (int(word) for word in [*sys.argv[2:], *["1000", "300", "5"][len(sys.argv) - 2:]])
    SECRET.write("a-secret-of-the-measurement\n")
    SECRET.flush()
    times, sizes = {name: [] for name in OPENINGS}, {name: [] for name in OPENINGS}
    for _ in range(rounds):
        for name in OPENINGS:
            times[name].append(delivery(binary, name, count, messages))
            sizes[name].append(idle(binary, name, count))
    native = "janus.v1.json"
    ratio = lambda figures, name: round(statistics.median(a / b for a, b in zip(figures[name], figures[native])), 3)
    for name in OPENINGS:
        spread = f"{min(times[name]) * 1e6:.2f} to {max(times[name]) * 1e6:.2f}"
        print(f"{name:14} {statistics.median(times[name]) * 1e6:6.2f} us a delivery ({spread}), "
              f"{statistics.median(sizes[name]):7.0f} bytes an idle client")
    print(json.dumps({name: {"delivery": ratio(times, name), "idle": ratio(sizes, name)} for name in OPENINGS if name != native}))


main()
