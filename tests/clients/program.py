"""examples/python/janus.py in a program: `program.py URL OPTION...`, for tests/clients/passes.py.

Options: `token` for a client with `get_token`; `impatient` for one that notices a silent connection after 2 s.

Commands and reports are lines of JSON. Commands: `["subscribe", topic, since]`, `["publish", number, topic, data]`, and
`["token", token]`, the answer to the report `["token"]`, which the report `["given"]` follows. Reports: `["subscribed", topic]`, `["message", topic, seq, data]`,
`["gap", topic, first, last]`, `["failed", topic, reason]`, `["published", number, seq]`, `["refused", number, reason]`.
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


async def follow(janus, topic, since):
    try:
        async for frame in janus.subscribe(topic, since):
            if frame["type"] == "subscribed":
                report("subscribed", topic)
            elif frame["type"] == "gap":
                report("gap", topic, frame["from"], frame["to"])
            else:
                report("message", topic, frame["seq"], frame["data"])
    except JanusError as error:
        report("failed", topic, error.reason)


async def publish(janus, number, topic, data):
    try:
        report("published", number, (await janus.publish(topic, data))["seq"])
    except JanusError as error:
        report("refused", number, error.reason)


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
                tasks.add(asyncio.create_task({"subscribe": follow, "publish": publish}[command](janus, *values)))


asyncio.run(main())
