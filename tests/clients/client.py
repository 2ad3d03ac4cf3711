"""A client library of Python as a program uses it: `client.py LIBRARY ORIGIN TOPIC...`, a connection for each topic.

Every report is a line of JSON for tests/clients/run.py: `[topic, kind, ...]`. The libraries leave reconnecting to the
program; `Stream` and `Socket` are the few lines that PROTOCOL.md asks of a client.
"""

import asyncio
import json
import sys
import threading
import time
from urllib.parse import quote

RETRY = 0.3
FINAL = 4400

# Threads report at the same time.
printing = threading.Lock()


def report(topic, kind, *values):
    with printing:
        print(json.dumps([topic, kind, *values]), flush=True)


class Stream:
    """Server-sent events of one topic: where the client is, and when it comes back."""

    def __init__(self, origin, topic):
        self.topic = topic
        self.url = f"{origin}/events?topic={quote(topic)}"
        self.last_id = None
        self.retry = RETRY

    def headers(self):
        headers = {"Accept": "text/event-stream"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        return headers

    def heard(self, event, data, id, retry):
        """`json.loads` raises at an event without data, as it would in a program."""
        self.last_id = id or self.last_id
        if retry:
            # One library has a text here, another has a number.
            self.retry = int(retry) / 1000
        data = json.loads(data)
        if event in ("message", "", None):
            report(self.topic, "message", data["data"])
        elif event == "heartbeat":
            pass
        elif event == "subscribed":
            report(self.topic, "subscribed", data["resumed"])
        else:
            report(self.topic, event, data.get("code"))


class Socket:
    """A conversation in `janus.v1.json`: where the client is, and when it comes back."""

    def __init__(self, origin, topic):
        self.topic = topic
        self.url = origin.replace("http", "ws", 1) + "/ws"
        self.session = self.since = None
        self.retry = RETRY

    def opening(self):
        hello = {"type": "hello"}
        subscribe = {"type": "subscribe", "id": 1, "topic": self.topic}
        if self.session:
            hello["session"] = self.session
        if self.since:
            subscribe["since"] = self.since
        self.retry = RETRY
        return [json.dumps(hello), json.dumps(subscribe)]

    def heard(self, text):
        frame = json.loads(text)
        kind = frame["type"]
        if kind == "welcome":
            self.session = frame["session"]
        elif kind == "subscribed":
            if self.since and not frame["resumed"]:
                report(self.topic, "gap", None)
            if not frame["resumed"]:
                self.since = {"epoch": frame["epoch"], "seq": frame["seq"]}
            report(self.topic, "open")
            report(self.topic, "subscribed", frame["resumed"])
        elif kind == "message":
            self.since["seq"] = frame["seq"]
            report(self.topic, "message", frame["data"])
        else:
            self.retry = frame.get("reconnect_after_ms", RETRY * 1000) / 1000
            report(self.topic, kind, frame.get("code"))


def requests_sseclient(origin, topic):
    import requests
    import sseclient

    stream = Stream(origin, topic)
    while True:
        try:
            answer = requests.get(stream.url, headers=stream.headers(), stream=True, timeout=(5, 60))
            answer.raise_for_status()
            report(topic, "open")
            for event in sseclient.SSEClient(answer).events():
                stream.heard(event.event, event.data, event.id, event.retry)
        except requests.RequestException as error:
            report(topic, "error", str(error))
        time.sleep(stream.retry)


def httpx_sse(origin, topic):
    import httpx
    from httpx_sse import connect_sse

    stream = Stream(origin, topic)
    with httpx.Client(timeout=httpx.Timeout(5, read=60)) as client:
        while True:
            try:
                with connect_sse(client, "GET", stream.url, headers=stream.headers()) as source:
                    source.response.raise_for_status()
                    report(topic, "open")
                    for event in source.iter_sse():
                        stream.heard(event.event, event.data, event.id, event.retry)
            except httpx.HTTPError as error:
                report(topic, "error", str(error))
            time.sleep(stream.retry)


async def aiohttp_sse_client(origin, topic):
    import aiohttp
    from aiohttp_sse_client import client as sse_client

    # The library reconnects after the end of a stream, once, and raises after a reset.
    stream = Stream(origin, topic)
    while True:
        try:
            async with sse_client.EventSource(stream.url, headers=stream.headers(), on_open=lambda: report(topic, "open")) as source:
                async for event in source:
                    stream.heard(event.type, event.data, event.last_event_id, None)
        except (OSError, aiohttp.ClientError) as error:
            report(topic, "error", str(error))
        await asyncio.sleep(stream.retry)


async def websockets(origin, topic):
    import websockets

    socket = Socket(origin, topic)
    while True:
        try:
            async with websockets.connect(socket.url, subprotocols=["janus.v1.json"]) as connection:
                for frame in socket.opening():
                    await connection.send(frame)
                async for text in connection:
                    socket.heard(text)
        except (OSError, websockets.WebSocketException) as error:
            report(topic, "error", str(error))
        await asyncio.sleep(socket.retry)


async def aiohttp(origin, topic):
    import aiohttp

    socket = Socket(origin, topic)
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.ws_connect(socket.url, protocols=["janus.v1.json"]) as connection:
                    for frame in socket.opening():
                        await connection.send_str(frame)
                    async for message in connection:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            socket.heard(message.data)
            except (OSError, aiohttp.ClientError) as error:
                report(topic, "error", str(error))
            await asyncio.sleep(socket.retry)


LIBRARIES = {
    "requests+sseclient-py": requests_sseclient,
    "httpx-sse": httpx_sse,
    "aiohttp-sse-client": aiohttp_sse_client,
    "websockets": websockets,
    "aiohttp": aiohttp,
}


def main():
    library, origin, *topics = sys.argv[1:]
    run = LIBRARIES[library]

    def subscribe(topic):
        try:
            if asyncio.iscoroutinefunction(run):
                asyncio.run(run(origin, topic))
            else:
                run(origin, topic)
        except Exception as error:
            report(topic, "closed", repr(error))

    for topic in topics:
        threading.Thread(target=subscribe, args=(topic,)).start()


main()
