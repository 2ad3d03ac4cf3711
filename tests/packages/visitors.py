"""Visits a port over and over, each time on a new connection, until a line of input; prints what was seen.

A visit is a request for `/` whose answer must arrive whole. A visit may take long, while a server is being replaced, and
must not be refused, reset or cut off.
"""

import json
import socket
import sys
import threading
import time

PATIENCE = 30
VISITORS = 8


def visit(address):
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: janus\r\nconnection: close\r\n\r\n")
        answer = b""
        while more := connection.recv(65536):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    if len(body) != int(length.split(b":")[1]):
        raise ConnectionError(f"cut off after {len(answer)} bytes")


def visit_until(ended, address, seen):
    while not ended.is_set():
        start = time.monotonic()
        try:
            visit(address)
        except (OSError, StopIteration) as error:
            seen["failures"].append(repr(error))
        seen["visits"] += 1
        seen["longest_ms"] = max(seen["longest_ms"], round(1000 * (time.monotonic() - start)))
        ended.wait(0.02)


def main():
    address = ("127.0.0.1", int(sys.argv[1]))
    visit(address)
    seen, ended = {"visits": 0, "longest_ms": 0, "failures": []}, threading.Event()
    visitors = [threading.Thread(target=visit_until, args=(ended, address, seen)) for _ in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    print("visiting", flush=True)
    sys.stdin.readline()
    ended.set()
    for visitor in visitors:
        visitor.join()
    print(json.dumps(seen))


main()
