"""A server to be ended and started again, and a network that can fail, for tests of clients."""

import asyncio
import collections
import functools
import http.client
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time

# Seconds. A wait ends as soon as its condition holds.
START = 30
ARRIVAL = 2


class Server:
    """A Janus that can be ended and started again on the same port.

    The address is the server's own: while the server is away, another server or an outgoing connection may take the port."""

    hosts = (f"127.{number}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}" for number in itertools.count(1))

    def __init__(self, binary, settings):
        self.host = next(self.hosts)
        # The latest lines.
        self.log = collections.deque(maxlen=100)
        known = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
        # An older binary, run for comparison, lacks some of the settings.
        settings = {name: value for name, value in settings.items() if f"--{name}" in known}
        self.arguments = [binary, "--listen", "127.0.0.1:0", "--log", "info"]
        for name, value in settings.items():
            self.arguments.append(f"--{name}={value}")
        if "--admin-listen" in known:
            self.arguments += ["--admin-listen", ""]
        self.ports = {"http": 0, "https": 0} if "tls-cert" in settings else {"http": 0}
        self.start()

    def start(self):
        listen = [argument for scheme, port in self.ports.items() for argument in (f"--{scheme}-listen", f"{self.host}:{port}")]
        self.process = subprocess.Popen([*self.arguments, *listen], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        listening = set()
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"serving HTTP on [\d.]+:(\d+)( \(TLS\))?", line):
                scheme = "https" if found[2] else "http"
                self.ports[scheme] = int(found[1])
                listening.add(scheme)
            if listening == set(self.ports):
                break
        else:
            sys.exit("the server does not start: " + "".join(self.log))
        # The server's log must be read.
        threading.Thread(target=self.read_log, args=(self.process.stderr,), daemon=True).start()

    def read_log(self, stderr):
        with stderr:
            for line in stderr:
                self.log.append(line)

    def end(self, signal_number):
        self.process.send_signal(signal_number)

    def wait(self):
        return self.process.wait(timeout=START)

    def publish(self, topic, data):
        """Whether the message was published."""
        try:
            return self.ask("POST", "/api/publish", {"topic": topic, "data": data})[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None):
        """The status and the text of the answer of the HTTP API."""
        connection = http.client.HTTPConnection(self.host, self.ports["http"], timeout=ARRIVAL)
        try:
            connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Network:
    """A TCP proxy with a port for each port of the server, which can reset its connections and close its ports."""

    def __init__(self, server, host="127.0.0.1"):
        self.server = server
        self.host = host
        self.loop = asyncio.new_event_loop()
        self.carried = {}
        self.listeners = []
        # When clients have opened connections.
        self.opened = []
        self.stalled = set()
        self.ports = dict.fromkeys(server.ports, 0)
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.open()

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(START)

    def open(self):
        async def listen():
            self.listeners = []
            for scheme, port in self.ports.items():
                listener = await asyncio.start_server(functools.partial(self.carry, scheme), self.host, port)
                self.ports[scheme] = listener.sockets[0].getsockname()[1]
                self.listeners.append(listener)

        self.call(listen())

    def close(self):
        """Refuses new connections. Those of now go on."""
        async def close():
            # Not wait_closed: some versions of Python wait for the connections, too.
            for listener in self.listeners:
                listener.close()

        self.call(close())

    def cut(self):
        """Refuses new connections, and resets those of now."""
        async def reset():
            for listener in self.listeners:
                listener.close()
            for writer in [writer for pair in self.carried for writer in pair]:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()

        self.call(reset())

    def stall(self):
        """Loses everything on the connections of now, which stay open."""
        async def stall():
            self.stalled.update(self.carried)

        self.call(stall())

    def received(self):
        """How many bytes the clients of each connection of now have been sent."""
        async def look():
            return dict(self.carried)

        return self.call(look())

    async def carry(self, scheme, reader, writer):
        self.opened.append(time.monotonic())
        try:
            server_reader, server_writer = await asyncio.open_connection(self.server.host, self.server.ports[scheme])
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, server_writer)
        self.carried[pair] = 0

        async def pipe(source, sink, counts):
            try:
                while data := await source.read(65536):
                    if pair in self.stalled:
                        continue
                    sink.write(data)
                    if counts and pair in self.carried:
                        self.carried[pair] += len(data)
                    await sink.drain()
                sink.write_eof()
            except (OSError, RuntimeError):
                pass

        up = asyncio.create_task(pipe(reader, server_writer, False))
        await pipe(server_reader, writer, True)
        # No server continues to read after its end.
        up.cancel()
        self.carried.pop(pair, None)
        writer.close()
        server_writer.close()
