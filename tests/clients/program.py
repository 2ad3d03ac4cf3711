"""examples/python/janus.py in a program: `program.py URL OPTION...`, for tests/clients/passes.py.

Options: `token` for a client with `get_token`; `impatient` for one that notices a silent connection after 2 s.

Commands and reports are lines of JSON. Commands: `["subscribe", topic, since, presence]`, `["publish", number, topic, data]`,
`["bytes", number, topic, base64]`, `["members", topic]`, `["history", topic, since, limit, reverse]`, and `["token", token]`, the answer to the
report `["token"]`, which the report `["given"]` follows. Reports: `["subscribed", topic]`, `["message", topic, seq, data]` with base64 for
bytes, `["gap", topic, first, last]`, `["failed", topic, reason]`, `["presence", topic, type, count, users]` with all users of
now, `["members", topic, count, users]`, `["history", position, complete, more, [[seq, data], ...]]`, `["published", number, seq]`,
`["refused", number, reason]`.
"""

import asyncio
import json
import random
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "python"))
from janus import Janus, JanusError

# Short waits, which still grow.
random.random = lambda: 0.05

asked = []


def report(*values):
    print(json.dumps(values), flush=True)


async def get_token():
    report("token")
    asked.append(asyncio.get_running_loop().create_future())
    token = await asked[-1]
    report("given")
    return token


def data(message):
    return message.get("data_base64", message.get("data"))


async def follow(janus, topic, since, presence=None):
    users = set()
    try:
        async for frame in janus.subscribe(topic, since, presence=presence):
            if frame["type"] == "subscribed":
                report("subscribed", topic)
            elif frame["type"] == "gap":
                report("gap", topic, frame["from"], frame["to"])
            elif frame["type"] == "message":
                report("message", topic, frame["seq"], data(frame))
            else:
                told = {member["user"] for member in frame["members"]}
                users = {"presence": told, "joined": users | told, "left": users - told}[frame["type"]]
                report("presence", topic, frame["type"], frame["count"], sorted(users))
    except JanusError as error:
        report("failed", topic, error.reason)


async def publish(janus, number, topic, value, **keys):
    try:
        report("published", number, (await janus.publish(topic, value, **keys))["seq"])
    except JanusError as error:
        report("refused", number, error.reason)


async def publish_bytes(janus, number, topic, text):
    await publish(janus, number, topic, None, data_base64=text)


async def members(janus, topic):
    answer = await janus.request("presence", topic=topic)
    report("members", topic, answer["count"], sorted(member["user"] for member in answer["members"]))


async def history(janus, topic, since, limit, reverse):
    try:
        answer = await janus.request("history", topic=topic, since=since, limit=limit, reverse=reverse)
        messages = [[message["seq"], data(message)] for message in answer["messages"]]
        report("history", {key: answer[key] for key in ("epoch", "seq")}, answer["complete"], answer["more"], messages)
    except JanusError as error:
        report("failed", topic, error.reason)


COMMANDS = {"subscribe": follow, "publish": publish, "bytes": publish_bytes, "members": members, "history": history}


async def main():
    url, *words = sys.argv[1:]
    options = {"get_token": get_token if "token" in words else None, "timeout": 60}
    if "impatient" in words:
        options.update(ping_interval=0.3, ping_timeout=2, timeout=2)
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    async with Janus(url, **options) as janus:
        async for line in reader:
            command, *values = json.loads(line)
            if command == "token":
                for future in asked:
                    future.done() or future.set_result(*values)
            else:
                tasks.add(asyncio.create_task(COMMANDS[command](janus, *values)))


asyncio.run(main())
