#!/usr/bin/env python3
"""Compares Janus with other publish/subscribe servers on this machine, in rounds.

    compare.py                                   # every scenario, every server that is installed
    compare.py fan connect --clients 19000 --rounds 9 --out result.json
    compare.py fan --servers janus,janus2=../old/janus-server        # Janus against another build, or itself
    compare.py fan memory --servers janus,janus-ws,janus-sse --to-first    # its transports against the classic one

All servers get the same load from the same load generator, `janus-server bench`, which counts every delivery. A round
measures each server once; the order rotates from round to round, so that a drift of the machine meets all of them. Each
measurement has a server of its own, started on a free port of 127.0.0.1, warmed up with a small run (but for `memory`),
and stopped afterwards.

What is printed: for each server the median over the rounds with the range, and for each other server the median of the
ratios first / other within a round (other / first with --to-first), with their minimum, quartiles and maximum. Ratios are
taken within a round because both numbers then come from nearly the same moment. How far the ratios of one server against
itself (janus,janus2=PATH with the same program) are from 1 is the noise: a smaller difference between two servers means
nothing.

Settings of the servers. Nothing is persisted or authenticated, no client is cut off for being slow except by Janus, and
everything else is the default:
  janus      its defaults, which do limit what waits for one client. The subscribers of janus-ws and janus-sse, and of
             every NAME=PATH whose name ends so, are connected by WebSocket and by server-sent events. Messages are
             published by the classic protocol and all ports are open in any case: only the subscribers differ.
  redis      no snapshots, no append-only file, no output limit for pub/sub clients, a backlog of 65535
  nats       max_pending 256 MB and write_deadline 30 s, so that no client is dropped as slow
  mosquitto  no persistence, TCP_NODELAY, max_queued_messages 0 (no limit), no $SYS topics. Its backlog is 100 and
             cannot be set, so in `connect` it waits for retransmissions of the kernel; in the other scenarios 64
             clients connect at once, which it can take.
TCP_NODELAY is on in all of them. The kernel caps every backlog at net.core.somaxconn.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

JANUS = Path(__file__).resolve().parents[2] / "target/release/janus-server"
# No step of a comparison takes longer than these; what does has failed.
START_SECONDS, STOP_SECONDS, BENCH_SECONDS = 10, 15, 300
# What a server needs besides its clients: its own descriptors, and the clients of the warm-up that are still leaving.
SPARE_DESCRIPTORS = 500
# Clients of the scenarios with a number of their own, whatever --clients says.
FIXED_CLIENTS = 1_000
# Below the ports that the load generator's clients connect from.
PORTS = range(21_000, 31_000)
NEXT_PORTS = itertools.cycle(PORTS)
# Held to the end, one for each port that a server was given.
CLAIMS: list[socket.socket] = []


@dataclass(frozen=True)
class Metric:
    """A number of the bench's JSON, by the path of its keys."""

    path: str
    name: str
    scale: float = 1.0
    more_is_better: bool = False
    # What is not the server's doing has no ratio; it tells how far to trust the rest.
    is_compared: bool = True

    def of(self, result: dict) -> float | None:
        value: object = result
        for key in self.path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value * self.scale if isinstance(value, (int, float)) else None


@dataclass(frozen=True)
class Scenario:
    about: str
    # Flags of the bench for a comparison with so many clients.
    flags: Callable[[int], list[str]]
    metrics: list[Metric]
    warm_up: bool = True


LAST = Metric("last_delivery_ns.median", "last delivery of a message, median, ms", 1e-6)
LAST_WORST = Metric("last_delivery_ns.worst", "last delivery of a message, worst, ms", 1e-6)
P50 = Metric("latency_ns.p50", "latency of a delivery, p50, ms", 1e-6)
P99 = Metric("latency_ns.p99", "latency of a delivery, p99, ms", 1e-6)
RATE = Metric("deliveries_per_second", "deliveries a second", more_is_better=True)
CPU = Metric("server_process.cpu_ns_per_delivery", "CPU of the server for a delivery, µs", 1e-3)
SETUP = Metric("setup_ns", "until all are subscribed, s", 1e-9)
SETUP_CPU = Metric("server_process.cpu_ns_per_connection", "CPU of the server for a connection, µs", 1e-3)
RSS = Metric("server_process.rss_bytes_per_connection_ready", "memory for a connection when subscribed, bytes")
RSS_END = Metric("server_process.rss_bytes_per_connection_end", "memory for a connection after 20 messages, bytes")
RSS_BEFORE = Metric("server_process.rss_bytes_before", "memory without clients, MiB", 2**-20)
LATE = Metric("publisher_late_ns.p99", "load generator late, p99, ms (part of the latency)", 1e-6, is_compared=False)


def throughput(subscribers: int, messages: int) -> Scenario:
    flags = ["--clients", str(subscribers), "--messages", str(messages), "--window", "256"]
    about = f"{messages:,} messages to {subscribers:,} subscribers, 256 under way at once"
    return Scenario(about, lambda _: flags, [RATE, CPU, LAST])


def flags_of_topics(clients: int) -> list[str]:
    topics = min(1_000, max(1, clients // 10))
    return ["--clients", str(topics * 10), "--topics", str(topics), "--rate", "5000", "--messages", "10000"]


SCENARIOS = {
    "fan": Scenario(
        "20 messages to all clients on one topic, each when the one before has arrived everywhere",
        lambda clients: ["--clients", str(clients), "--messages", "20"],
        [LAST, LAST_WORST, P50, P99, RATE, CPU],
    ),
    "connect": Scenario(
        "all clients connect and subscribe at once",
        lambda clients: ["--clients", str(clients), "--connecting", str(clients)],
        [SETUP, SETUP_CPU],
    ),
    "topics": Scenario(
        "1,000 topics of 10 clients each (fewer with fewer clients), 5,000 messages a second for 2 s",
        flags_of_topics,
        [P50, P99, CPU, LATE],
    ),
    "throughput-1": throughput(1, 200_000),
    "throughput-100": throughput(100, 30_000),
    "throughput-1000": throughput(1_000, 4_000),
    "memory": Scenario(
        "resident memory for each client on one topic, in a fresh server",
        lambda clients: ["--clients", str(clients), "--messages", "20"],
        [RSS, RSS_END, RSS_BEFORE],
        warm_up=False,
    ),
}


@dataclass
class Program:
    """A server that can be started: what it speaks, and how."""

    name: str
    protocol: str
    path: str
    version: str
    # The command for a port, and the configuration file that it may name.
    command: Callable[[int, Path], list[str]]
    extra: list[str] = field(default_factory=list)
    # How its subscribers are connected.
    transport: str = "tcp"
    # Whether it has an HTTP port beside the other one, which is then given a number, too.
    has_http: bool = False
    has_admin: bool = False


def main() -> None:
    options = parse()
    # A server and a load generator with tens of thousands of sockets inherit this.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = max(options.clients, FIXED_CLIENTS) + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"--clients {options.clients}: a server needs {needed:,} descriptors, ulimit -Hn allows {hard:,}")
    # Ends through every `finally`, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    programs = find_programs(options)
    print(f"{platform.platform()}, {os.cpu_count()} cores")
    for program in programs:
        print(f"  {program.name:<10} {program.version}")
    result: dict = {
        "clients": options.clients,
        "size": options.size,
        "rounds": options.rounds,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "servers": {
            program.name: {
                "version": program.version,
                "protocol": program.protocol,
                "transport": program.transport,
                "arguments": program.extra,
            }
            for program in programs
        },
        "scenarios": {},
    }
    for name in options.scenarios:
        scenario = SCENARIOS[name]
        flags = [*scenario.flags(options.clients), "--size", str(options.size)]
        if "--connecting" not in flags:
            flags += ["--connecting", "64"]
        print(f"\n== {name}: {scenario.about}\n   bench {shlex.join(flags)}", flush=True)
        rounds: list[dict[str, dict]] = []
        result["scenarios"][name] = {"flags": flags, "rounds": rounds}
        for index in range(options.rounds):
            measured: dict[str, dict] = {}
            rounds.append(measured)
            turn = index % len(programs)
            for program in programs[turn:] + programs[:turn]:
                measured[program.name] = measure(program, scenario, flags, options.janus)
                keep(measured[program.name], options.keep, f"{name}-{program.name}-{index + 1}.json")
                print(f"   round {index + 1}: {program.name:<10} {brief(scenario, measured[program.name])}", flush=True)
            write(result, options.out)
        print_summary(scenario, [program.name for program in programs], rounds, options.to_first)


def parse() -> argparse.Namespace:
    listed = "\n".join(f"  {name:<16} {scenario.about}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"scenarios:\n{listed}\n  throughput       the three of them",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which of those below; all without any")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="default 5")
    parser.add_argument(
        "--clients",
        type=positive,
        default=10_000,
        metavar="N",
        help="of fan, connect, memory and, if it is less than 10,000, topics; default 10,000",
    )
    parser.add_argument("--size", type=positive, default=100, metavar="BYTES", help="of each message, default 100")
    parser.add_argument(
        "--servers",
        default="janus,redis,nats,mosquitto",
        metavar="LIST",
        help="the first one's ratios to the others are printed; janus-ws and janus-sse are Janus by other transports, "
        "NAME=PATH is another Janus; default %(default)s",
    )
    parser.add_argument(
        "--to-first", action="store_true", help="print the others' ratios to the first one, not the first one's to them"
    )
    parser.add_argument(
        "--janus",
        type=Path,
        default=JANUS,
        metavar="PATH",
        help="the program of janus and of the load generator; default target/release/janus-server",
    )
    parser.add_argument(
        "--args",
        action="append",
        default=[],
        metavar="NAME=ARGUMENTS",
        help="more arguments for a server, such as redis='--io-threads 2'",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="all results as JSON, rewritten after each round")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="the bench's JSON of each run, for latency.py")
    options = parser.parse_args()
    names: list[str] = []
    for name in options.scenarios or SCENARIOS:
        matching = [known for known in SCENARIOS if known == name or known.startswith(f"{name}-")]
        if not matching:
            parser.error(f"{name!r} is no scenario: expected one of {', '.join(SCENARIOS)}")
        names += matching
    options.scenarios = list(dict.fromkeys(names))
    if not os.access(options.janus, os.X_OK):
        parser.error(f"--janus {options.janus}: no such program; `cargo build --release` makes it")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    return options


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def find_programs(options: argparse.Namespace) -> list[Program]:
    """The servers asked for, without those that are not installed."""
    extra: dict[str, list[str]] = {}
    for text in options.args:
        name, _, arguments = text.partition("=")
        extra[name] = shlex.split(arguments)
    programs = []
    for text in options.servers.split(","):
        name, _, path = text.partition("=")
        if path and not os.access(path, os.X_OK):
            sys.exit(f"--servers {text}: {path} is no program")
        program = find_program(name, path, options)
        if program is None:
            print(f"note: {name} is not installed and is left out", file=sys.stderr)
            extra.pop(name, None)
            continue
        program.extra = extra.pop(name, [])
        if any(program.name == other.name for other in programs):
            sys.exit(f"--servers: two servers are called {name}")
        programs.append(program)
    if extra:
        sys.exit(f"--args: {', '.join(extra)}: no server of this name is compared")
    if not programs:
        sys.exit("--servers: none of them is installed")
    return programs


def find_program(name: str, path: str, options: argparse.Namespace) -> Program | None:
    if name in ("janus", "janus-ws", "janus-sse") or path:
        path = str(Path(path or options.janus).resolve())
        _, _, ending = name.rpartition("-")
        transport = ending if ending in ("ws", "sse") else "tcp"
        help_text = output_of([path, "serve", "--help"])
        has_http, has_admin = "--http-listen" in help_text, "--admin-listen" in help_text
        if transport != "tcp" and not has_http:
            sys.exit(f"--servers {name}: {path} has no WebSocket and no server-sent events")
        return Program(name, "janus", path, version([path, "--version"]), janus, transport=transport, has_http=has_http, has_admin=has_admin)
    # Servers are often installed where only the administrator's shell looks.
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    known = {
        "redis": ("redis-server", "redis", "--version", lambda port, _: redis(port, options.clients)),
        "nats": ("nats-server", "nats", "--version", nats),
        "mosquitto": ("mosquitto", "mqtt", "-h", mosquitto),
    }
    if name not in known:
        expected = f"expected janus, janus-ws, janus-sse, {', '.join(known)}, or NAME=PATH for another Janus"
        sys.exit(f"--servers: {name!r} is not known: {expected}")
    program, protocol, flag, command = known[name]
    found = shutil.which(program, path=search)
    return Program(name, protocol, found, version([found, flag]), command) if found else None


def version(command: list[str]) -> str:
    return output_of(command).partition("\n")[0]


def output_of(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False).stdout


# The commands, without the program.


def janus(port: int, _: Path) -> list[str]:
    return ["serve", "--listen", f"127.0.0.1:{port}"]


def redis(port: int, clients: int) -> list[str]:
    return [
        *["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"],
        *["--tcp-backlog", "65535", "--maxclients", str(max(clients, FIXED_CLIENTS) + SPARE_DESCRIPTORS - 100)],
        *["--client-output-buffer-limit", "pubsub 0 0 0"],
    ]


def nats(port: int, folder: Path) -> list[str]:
    file = folder / "nats.conf"
    file.write_text(f'listen: "127.0.0.1:{port}"\nmax_pending: 268435456\nwrite_deadline: "30s"\n')
    return ["--config", str(file)]


def mosquitto(port: int, folder: Path) -> list[str]:
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence false",
        "set_tcp_nodelay true",
        "max_queued_messages 0",
        "sys_interval 0",
        "log_type error",
        "log_type warning",
    ]
    file = folder / "mosquitto.conf"
    file.write_text("\n".join(lines) + "\n")
    return ["-c", str(file)]


def measure(program: Program, scenario: Scenario, flags: list[str], janus_server: Path) -> dict:
    """One run; the bench's JSON, with `error` if it is not a good one."""
    with tempfile.TemporaryDirectory(prefix="compare-") as name, running(program, Path(name)) as (server, port, http):
        bench = [str(janus_server), "bench", "--protocol", program.protocol, "--to", f"127.0.0.1:{port}"]
        if program.transport != "tcp":
            bench += ["--transport", program.transport, "--http", f"127.0.0.1:{http}"]
        bench += ["--server-pid", str(server.pid), "--timeout", "60s", "--json", str(Path(name) / "result.json")]
        if scenario.warm_up:
            run_bench([*bench, "--clients", "200", "--messages", "50", "--connecting", "64"], Path(name))
        settle(server)
        return run_bench([*bench, *flags], Path(name))


@contextmanager
def running(program: Program, folder: Path) -> Iterator[tuple[subprocess.Popen, int, int | None]]:
    """The server on free ports, until the end of the block whatever happens there."""
    port, http = free_port(), free_port() if program.has_http else None
    command = [program.path, *program.command(port, folder)]
    if http:
        command += ["--http-listen", f"127.0.0.1:{http}"]
    if program.has_admin:
        command += ["--admin-listen", ""]
    command += program.extra
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (accepts(port) and (http is None or accepts(http))):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{program.name} does not start: {shlex.join(command)}\n{log.read_text(errors='replace')}")
            time.sleep(0.02)
        yield server, port, http
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    """The next port that nobody has; not one that was just closed, which may have connections left.

    Nor one that another run of this script has chosen and its server does not listen on yet: of two servers on one port
    one would not start, and the other get the load of both. The abstract socket name that says so ends with the run.
    """
    for port in itertools.islice(NEXT_PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        with socket.socket() as attempt:
            try:
                claim.bind(f"\0janus-compare-{port}")
                attempt.bind(("127.0.0.1", port))
                CLAIMS.append(claim)
                return port
            except OSError:
                claim.close()
    sys.exit(f"no port of 127.0.0.1 from {PORTS.start} to {PORTS.stop} is free")


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def run_bench(command: list[str], folder: Path) -> dict:
    file = folder / "result.json"
    file.unlink(missing_ok=True)
    try:
        bench = subprocess.run(command, capture_output=True, text=True, timeout=BENCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"the bench took more than {BENCH_SECONDS} s"}
    try:
        result = json.loads(file.read_text())
    except (OSError, ValueError):
        result = {}
    if bench.returncode != 0:
        result["error"] = bench.stderr.strip() or f"the bench ended with code {bench.returncode}"
    return result


def settle(server: subprocess.Popen) -> None:
    """Waits until the server is done with its start, or with the clients of the run before."""
    deadline = time.monotonic() + 5
    used = cpu_seconds(server.pid)
    if used is None:
        time.sleep(1)
        return
    while time.monotonic() < deadline:
        time.sleep(0.1)
        before, used = used, cpu_seconds(server.pid)
        # None if a thread has ended in the middle of the look.
        if used is not None and before is not None and used - before < 0.002:
            return


def cpu_seconds(pid: int) -> float | None:
    """What the threads of a process have used; None where there is no Linux to tell."""
    try:
        threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) * 1e-9 or None
    except OSError:
        return None


def brief(scenario: Scenario, result: dict) -> str:
    if "error" in result:
        return f"FAILED: {result['error']}"
    return f"{scenario.metrics[0].name}: {number(scenario.metrics[0].of(result))}"


def print_summary(scenario: Scenario, names: list[str], rounds: list[dict[str, dict]], to_first: bool) -> None:
    first = names[0]
    width = max(len(name) for name in names)
    for metric in scenario.metrics:
        # A run that lost a message has no speed.
        values = {name: [None if "error" in r[name] else metric.of(r[name]) for r in rounds] for name in names}
        if not any(value is not None for name in names for value in values[name]):
            continue
        print(f"\n   {metric.name}, {'more' if metric.more_is_better else 'less'} is better")
        for name in names:
            good = [value for value in values[name] if value is not None]
            line = f"     {name:<{width}} {number(statistics.median(good) if good else None):>12}"
            spread = f"[{number(min(good))} to {number(max(good))}]" if len(good) > 1 else ""
            line += f" {spread:<24}"
            over, under = (name, first) if to_first else (first, name)
            ratios = [a / b for a, b in zip(values[over], values[under]) if a is not None and b]
            if name != first and ratios and metric.is_compared:
                low, lower, middle, upper, high = (quantile(ratios, share) for share in (0, 0.25, 0.5, 0.75, 1))
                line += f"   {f'{over}/{under}':<{2 * width + 1}} {middle:.3f}"
                line += f"  [min {low:.3f}, p25 {lower:.3f}, p75 {upper:.3f}, max {high:.3f}]"
            if len(good) < len(rounds):
                line += f"   ({len(rounds) - len(good)} of {len(rounds)} rounds without a value)"
            print(line.rstrip())


def quantile(values: list[float], share: float) -> float:
    """With the values between two ranks on the line between them."""
    ordered = sorted(values)
    rank = share * (len(ordered) - 1)
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    decimals = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{decimals}f}"


def keep(result: dict, folder: Path | None, name: str) -> None:
    if folder and "error" not in result:
        (folder / name).write_text(json.dumps(result, indent=None) + "\n")


def write(result: dict, file: Path | None) -> None:
    """Everything, but the list of single messages where it is long: --keep has that."""
    if not file:
        return
    for scenario in result["scenarios"].values():
        for measured in scenario["rounds"]:
            for run in measured.values():
                if len(run.get("last_delivery_us_by_message", [])) > 1_000:
                    del run["last_delivery_us_by_message"]
    # Whole or not at all, should this be interrupted.
    unfinished = file.with_name(file.name + ".part")
    unfinished.write_text(json.dumps(result) + "\n")
    unfinished.replace(file)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
