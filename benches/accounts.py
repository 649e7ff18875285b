#!/usr/bin/env python3
"""What many servers and tokens cost: making them, a start with them, looking them up over HTTP and SMTP, one more change.

  benches/accounts.py [--servers 10000] [--lookups 20000] [--binary target/release/posthaste]

Builds nothing: `cargo build --release` first. Needs Linux and Python 3. Three tokens are made for each server. The same node
is measured with one server first: differences count, since most of a request's time is this script's.
"""
import argparse
import base64
import contextlib
import http.client
import json
import os
import pathlib
import random
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "posthaste"
CONFIG = """
[node]
hostname = "posthaste.bench.test"
data_dir = "{dir}/data"
[[smtp]]
bind = "127.0.0.1:{smtp}"
tls = "off"
trusted = []
[http]
bind = "127.0.0.1:{http}"
[log]
level = "warn"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{{ name = "tx1", ip = "127.0.0.1" }}]
"""


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def ask(connection, method, path, body=None, headers={}):
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json", "Accept": "application/json", **headers})
    answer = connection.getresponse()
    octets = answer.read()
    assert answer.status < 300, (method, path, answer.status, octets[:300])
    return json.loads(octets)


class Node:
    def __init__(self, binary, directory):
        self.binary, self.directory = binary, directory
        self.ports = []
        for _ in range(2):
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                self.ports.append(s.getsockname()[1])
        self.config = pathlib.Path(directory) / "posthaste.toml"
        self.config.write_text(CONFIG.format(dir=directory, smtp=self.ports[0], http=self.ports[1]))

    def start(self):
        """Seconds until it is ready."""
        began = time.monotonic()
        self.process = subprocess.Popen([self.binary, "serve", "--config", self.config], stdout=subprocess.DEVNULL)
        while self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.ports[1])
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return time.monotonic() - began
            time.sleep(0.002)
        raise SystemExit("the node did not start")

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    def admin(self):
        return Unix(f"{self.directory}/data/admin.sock")


def make(node, first, count):
    tokens, admin = [], node.admin()
    began = time.monotonic()
    for n in range(first, first + count):
        ask(admin, "POST", "/admin/v1/servers", {"name": f"s{n}"})
        for _ in range(3):
            tokens.append(ask(admin, "POST", f"/admin/v1/servers/s{n}/tokens", {})["token"])
    return tokens, time.monotonic() - began


def lookups(node, tokens, count):
    """Milliseconds of GET /server, and of AUTH on a connection of its own: the median and the 99th percentile of each."""
    def figures(times):
        times.sort()
        return f"{times[len(times) // 2] * 1e3:.2f} ms (p99 {times[len(times) * 99 // 100] * 1e3:.2f})"

    connection, times = http.client.HTTPConnection("127.0.0.1", node.ports[1]), []
    for _ in range(count):
        token = random.choice(tokens)
        began = time.monotonic()
        ask(connection, "GET", "/server", headers={"X-Postmark-Server-Token": token})
        times.append(time.monotonic() - began)
    api, times = figures(times), []
    for _ in range(count // 20):
        token = random.choice(tokens)
        with socket.create_connection(("127.0.0.1", node.ports[0])) as s, s.makefile("rb") as lines:
            lines.readline()
            s.sendall(b"EHLO bench.test\r\n")
            while lines.readline()[3:4] == b"-":
                pass
            both = base64.b64encode(f"\0{token}\0{token}".encode())
            began = time.monotonic()
            s.sendall(b"AUTH PLAIN " + both + b"\r\n")
            answer = lines.readline()
            times.append(time.monotonic() - began)
            assert answer.startswith(b"235"), answer
    return f"GET /server {api}, AUTH PLAIN {figures(times)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=10_000)
    parser.add_argument("--lookups", type=int, default=20_000)
    parser.add_argument("--binary", default=BINARY)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as directory:
        node = Node(options.binary, directory)
        node.start()
        tokens, _ = make(node, 0, 1)
        node.stop()
        # Not the first start: that makes keys and files.
        print(f"1 server, 3 tokens: ready in {node.start():.2f} s, {node.memory():.0f} MiB")
        print(f"  {lookups(node, tokens, options.lookups)}", flush=True)
        more, seconds = make(node, 1, options.servers - 1)
        tokens += more
        print(f"{options.servers} servers, {len(tokens)} tokens: made in {seconds:.1f} s, {node.memory():.0f} MiB")
        node.stop()
        size = pathlib.Path(f"{directory}/data/account.db").stat().st_size / 2**20
        print(f"  ready in {node.start():.2f} s, {node.memory():.0f} MiB, account.db {size:.1f} MiB")
        print(f"  {lookups(node, tokens, options.lookups)}")
        _, seconds = make(node, options.servers, 25)
        print(f"  one change: {seconds / 100 * 1e3:.1f} ms (mean of 100)")
        node.stop()


main()
