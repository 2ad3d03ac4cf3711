"""The library `centrifuge-python` in a program: commands and reports as in program.js."""

import asyncio
import json
import sys

import centrifuge
from centrifuge import Client, ClientEventHandler, StreamPosition, SubscriptionEventHandler


def report(*values):
    print(json.dumps(values), flush=True)


def info(member):
    return {"client": member.client, "user": member.user, "connInfo": member.conn_info}


def position(context):
    at = context.stream_position
    return {"recovered": context.recovered, "wasRecovering": context.was_recovering, "recoverable": context.recoverable,
            "streamPosition": at and {"offset": at.offset, "epoch": at.epoch}}


def publication(context):
    return {"data": context.pub.data, "offset": context.pub.offset, "tags": context.pub.tags}


class OfClient(ClientEventHandler):
    async def on_connecting(self, context):
        report("connecting", None, {"code": context.code, "reason": context.reason})

    async def on_connected(self, context):
        report("connected", None, {"client": context.client})

    async def on_disconnected(self, context):
        report("disconnected", None, {"code": context.code, "reason": context.reason})

    async def on_error(self, context):
        report("error", None, {"message": str(context.error)})

    async def on_subscribed(self, context):
        report("subscribed", context.channel, position(context))

    async def on_unsubscribed(self, context):
        report("unsubscribed", context.channel, {})

    async def on_publication(self, context):
        report("publication", context.channel, publication(context))


class OfSubscription(SubscriptionEventHandler):
    def __init__(self, channel):
        self.channel = channel

    async def on_subscribing(self, context):
        report("subscribing", self.channel, {"code": context.code, "reason": context.reason})

    async def on_subscribed(self, context):
        report("subscribed", self.channel, position(context))

    async def on_unsubscribed(self, context):
        report("unsubscribed", self.channel, {"code": context.code, "reason": context.reason})

    async def on_publication(self, context):
        report("publication", self.channel, publication(context))

    async def on_join(self, context):
        report("join", self.channel, {"info": info(context.info)})

    async def on_leave(self, context):
        report("leave", self.channel, {"info": info(context.info)})

    async def on_error(self, context):
        report("error", self.channel, {"message": str(context.error)})


class Program:
    def __init__(self):
        self.asked = []
        self.subscriptions = {}

    async def get_token(self):
        given = asyncio.get_running_loop().create_future()
        self.asked.append(given)
        report("token", None, {})
        return await given

    async def connect(self, url, more):
        self.client = Client(url, events=OfClient(), token=more.get("token") or "", data=more.get("data"),
                             get_token=self.get_token if more.get("getsToken") else None, proxy=None, timeout=10.0,
                             min_reconnect_delay=0.1, max_reconnect_delay=0.5,
                             max_server_ping_delay=more.get("ping", 10_000) / 1000, use_protobuf=more.get("protobuf", False))
        await self.client.connect()

    async def give(self, token):
        self.asked.pop(0).set_result(token)

    async def subscribe(self, channel, more=None):
        more = more or {}
        self.subscriptions[channel] = self.client.new_subscription(
            channel, OfSubscription(channel), join_leave=more.get("joinLeave", False),
            recoverable=more.get("recoverable", False), min_resubscribe_delay=0.1, max_resubscribe_delay=0.5)
        await self.subscriptions[channel].subscribe()

    async def unsubscribe(self, channel):
        await self.subscriptions[channel].unsubscribe()

    async def publish(self, channel, data):
        await self.client.publish(channel, data)

    async def history(self, channel, more):
        since = more.get("since")
        result = await self.client.history(channel, limit=more.get("limit", 0), reverse=more.get("reverse", False),
                                           since=since and StreamPosition(**since))
        publications = [{"data": pub.data, "offset": pub.offset} for pub in result.publications]
        return {"publications": publications, "offset": result.offset, "epoch": result.epoch}

    async def presence(self, channel):
        result = await self.client.presence(channel)
        return {"clients": {name: info(member) for name, member in result.clients.items()}}

    async def stats(self, channel):
        result = await self.client.presence_stats(channel)
        return {"numClients": result.num_clients, "numUsers": result.num_users}

    async def rpc(self, method):
        return (await self.client.rpc(method, {})).data

    async def disconnect(self):
        await self.client.disconnect()

    async def carry_out(self, number, name, *values):
        try:
            report("answer", number, await getattr(self, name)(*values))
        except centrifuge.CentrifugeError as error:
            report("refused", number, {"code": getattr(error, "code", None), "message": str(error)})


async def main():
    program = Program()
    reader = asyncio.StreamReader(limit=1 << 22)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        task = asyncio.create_task(program.carry_out(*json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


asyncio.run(main())
