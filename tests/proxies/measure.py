#!/usr/bin/env python3
"""How long browsers are without messages while a server behind a proxy is restarted: measure.py BINARY [options]

Runs the configurations of this folder, a real browser with event streams and WebSockets (tests/browser/returns.js), and
`--rounds` restarts of each kind. Prints a row for each kind: seconds from the signal, and from the moment when the new
server listens, until a connection is subscribed again. With `--proxy tls` the server itself speaks TLS. Needs nginx or
caddy, openssl, and chromium or firefox-esr with certutil (libnss3-tools).
"""

import argparse
import json
import os
import queue
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent))
import authority

FOLDERS = [HERE.parents[1] / "examples" / "web", HERE.parent / "browser"]
PATIENCE = 60
reports = queue.Queue()


class Site(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("?")[0].strip("/")
        for folder in FOLDERS:
            if name and (folder / name).is_file():
                body = (folder / name).read_bytes()
                self.send_response(200)
                self.send_header("content-type", "text/javascript" if name.endswith(".js") else "text/html; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
        self.send_error(404)

    def do_POST(self):
        for report in json.loads(self.rfile.read(int(self.headers["content-length"]))):
            reports.put(report)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.02)
    process.kill()
    sys.exit(f"the proxy does not start: {log.read_text()}")


def start_proxy(kind, configuration, folder, port, janus, site):
    configuration = (configuration or HERE / ("nginx.conf" if kind == "nginx" else "Caddyfile")).read_text()
    for documented, here in [("127.0.0.1:8080", janus), ("127.0.0.1:3000", f"127.0.0.1:{site}"),
                             ("listen 443", f"listen 127.0.0.1:{port}"), ("/etc/ssl/push.example.pem", f"{folder}/certificate.pem"),
                             ("/etc/ssl/push.example.key", f"{folder}/key.pem"),
                             ("push.example {", f"localhost:{port} {{\n\ttls {folder}/certificate.pem {folder}/key.pem")]:
        configuration = configuration.replace(documented, here)
    if kind == "nginx":
        (folder / "server.conf").write_text(configuration)
        temporary = "".join(f"{name}_temp_path {folder}/{name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/errors; events {{ worker_connections 1024; }}\n"
            f"http {{ access_log {folder}/requests; {temporary} include {folder}/server.conf; }}\n")
        command = ["nginx", "-c", f"{folder}/nginx.conf"]
    else:
        (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + configuration)
        command = ["caddy", "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    process = subprocess.Popen(command, stderr=open(folder / "proxy.log", "w"), env=environment)
    wait_for(port, process, folder / "proxy.log")
    return process


def start_browser(kind, folder, url):
    profile = folder / "profile"
    if kind == "chromium":
        command = ["chromium", "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
                   "--remote-debugging-port=0", f"--user-data-dir={profile}", url]
        authority.make_known(folder, profile / ".pki" / "nssdb")
    else:
        authority.make_known(folder, profile)
        command = ["firefox-esr", "--headless", "--no-remote", "--profile", str(profile), url]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(folder / "browser.log", "w"),
                            start_new_session=True, env={**os.environ, "HOME": str(profile)})


class Server:
    """On an address of its own: while the server is away, an outgoing connection of another program may take its port."""

    host = f"127.1.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"

    def __init__(self, binary, kind, arguments):
        self.command = [binary, "--listen", "127.0.0.1:0", "--admin-listen", "", *arguments]
        self.kind = kind
        if kind == "https":
            self.command += ["--http-listen", ""]
        self.port = 0
        self.start()

    def start(self):
        self.process = subprocess.Popen([*self.command, f"--{self.kind}-listen", f"{self.host}:{self.port}"],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"serving HTTP on [\d.]+:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            sys.exit("the server does not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def restart(self, number, away):
        """When the signal was sent, and when the new server listened, in milliseconds since 1970."""
        began = time.time() * 1000
        self.process.send_signal(number)
        self.process.wait()
        time.sleep(away)
        self.start()
        return began, time.time() * 1000


def collect(connections, seconds, back):
    """When each connection was subscribed again; None for those that were lost for good, or stayed away."""
    deadline, returns, final = time.monotonic() + seconds, {}, set()
    while len(returns) + len(final - set(returns)) < len(connections) and time.monotonic() < deadline:
        try:
            kind, number, what, at, *_ = reports.get(timeout=0.1)
        except queue.Empty:
            continue
        if what == (back if kind == "stream" else "subscribed"):
            returns[kind, number] = at
        elif what == "final":
            final.add((kind, number))
            returns.pop((kind, number), None)
    return returns, final


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--browser", choices=["chromium", "firefox"], default="chromium")
    parser.add_argument("--proxy", choices=["nginx", "caddy", "none", "tls"], default="nginx",
                        help="none: straight to the server; tls: the same, over the TLS of the server")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--sockets", type=int, default=8)
    parser.add_argument("--configuration", type=Path, help="of the proxy, instead of the one in this folder")
    parser.add_argument("--back", default="subscribed", help="the event of a stream that is back; open for a server without subscribed")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the server, such as drain-timeout=2s")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site_port = site.server_address[1]
    threading.Thread(target=site.serve_forever, daemon=True).start()
    authority.make(folder, Server.host)
    kind = "https" if arguments.proxy == "tls" else "http"
    extra = ["--allowed-origins", f"http://localhost:{site_port}"] if arguments.proxy in ("none", "tls") else []
    if kind == "https":
        extra += ["--tls-cert", folder / "certificate.pem", "--tls-key", folder / "key.pem"]
    server = Server(arguments.binary, kind, [*extra, *(f"--{setting}" for setting in arguments.setting)])
    processes = []
    query = f"script=returns&streams={arguments.streams}&sockets={arguments.sockets}"
    connections = [(kind, number) for kind in ("stream", "socket") for number in range(getattr(arguments, kind + "s"))]
    try:
        if arguments.proxy in ("none", "tls"):
            url = f"http://localhost:{site_port}/test.html?{query}&server={kind}://{server.host}:{server.port}"
        else:
            port = free_port()
            processes.append(start_proxy(arguments.proxy, arguments.configuration, folder, port, f"{server.host}:{server.port}", site_port))
            url = f"https://localhost:{port}/test.html?{query}"
        print(f"{arguments.browser}, {arguments.proxy}: {arguments.streams} event streams, {arguments.sockets} WebSockets, "
              f"{arguments.rounds} rounds {' '.join(arguments.setting)}", flush=True)
        for name, number in (("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
            for away in (1, 5):
                rows = {"stream": [[], [], 0], "socket": [[], [], 0]}
                for _ in range(arguments.rounds):
                    browser = start_browser(arguments.browser, folder, url)
                    try:
                        returns, final = collect(connections, PATIENCE, arguments.back)
                        if len(returns) < len(connections):
                            print(f"only {len(returns)} of {len(connections)} subscribed at first; final: {final}")
                        began, listened = server.restart(number, away)
                        returns, final = collect(connections, PATIENCE, arguments.back)
                    finally:
                        os.killpg(browser.pid, signal.SIGKILL)
                        browser.wait()
                        shutil.rmtree(folder / "profile", ignore_errors=True)
                    while not reports.empty():
                        reports.get()
                    for connection in connections:
                        row = rows[connection[0]]
                        if connection in returns:
                            row[0].append((returns[connection] - began) / 1000)
                            row[1].append((returns[connection] - listened) / 1000)
                        else:
                            row[2] += 1
                for kind, (since_signal, since_listening, lost) in rows.items():
                    if since_signal:
                        print(f"{name}, {away} s away, {kind}: {len(since_signal)} back, {lost} not; after the signal median "
                              f"{statistics.median(since_signal):.1f} s, worst {max(since_signal):.1f}; after it listens median "
                              f"{statistics.median(since_listening):.1f}, worst {max(since_listening):.1f}", flush=True)
                    else:
                        print(f"{name}, {away} s away, {kind}: none back, {lost} not", flush=True)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        server.process.kill()
        server.process.wait()
        site.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


main()
