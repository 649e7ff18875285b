#!/usr/bin/env python3
"""Webhooks a second to a local receiver with kept connections, and what they cost.

  benches/webhooks.py [--events 60000] [--hooks 1]

Builds nothing: `cargo build --release` and `cargo bench --no-run --bench load` first. Needs Linux and Python 3. Mail goes to the node's own sink first, without a
webhook; then its deliveries are sent to each hook by a replay: so webhooks are measured alone. At last as many again are delivered and told
at the same time.
"""
import argparse
import os
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.request

import relay

CONFIG = """
[node]
hostname = "posthaste.bench.test"
data_dir = "data"
[[smtp]]
bind = "127.0.0.1:{smtp}"
tls = "off"
trusted = [{{ cidr = "127.0.0.0/8", server = "app" }}]
[http]
bind = "127.0.0.1:{http}"
[log]
level = "warn"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{{ name = "tx1", ip = "127.0.0.1" }}]
[[server]]
name = "app"
senders = "any"
delivery_type = "sandbox"
[webhooks]
allow_networks = ["127.0.0.0/8"]
"""


class Counter:
    """An application that takes webhooks and counts them."""

    def __init__(self):
        self.process = subprocess.Popen([relay.tool(), "hooks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def count(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def until(self, count):
        began = time.monotonic()
        while self.count() < count:
            assert time.monotonic() - began < 600, f"{self.count()} of {count}"
            time.sleep(0.02)


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(port, series):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return float(re.search(rf"^{re.escape(series)} (\S+)$", text, re.M)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--hooks", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as directory:
        smtp, http = relay.free_port(), relay.free_port()
        (pathlib.Path(directory) / "posthaste.toml").write_text(CONFIG.format(smtp=smtp, http=http))
        node = subprocess.Popen([relay.BINARY, "serve", "--config", "posthaste.toml"], cwd=directory, stdout=subprocess.DEVNULL)
        counter = Counter()
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz").close()
                    break
                except OSError:
                    time.sleep(0.05)
            ended = 'posthaste_recipients_ended_total{outcome="delivered"}'

            def deliver():
                before = metric(http, ended)
                relay.load(smtp, options.events, 2000, 16)
                while metric(http, ended) < before + options.events:
                    time.sleep(0.05)

            deliver()
            run = [relay.BINARY, "webhook"]
            place = ["--data-dir", "data"]
            for _ in range(options.hooks):
                url = f"http://127.0.0.1:{counter.port}/hook"
                subprocess.run([*run, "add", "app", url, "--on", "delivery", *place], cwd=directory, check=True, stdout=subprocess.DEVNULL)
            time.sleep(0.5)
            wanted, before, began = options.hooks * options.events, cpu(node.pid), time.monotonic()
            for key in range(1, options.hooks + 1):
                subprocess.run([*run, "replay", str(key), "--from", "2020-01-01", *place], cwd=directory, check=True, stdout=subprocess.DEVNULL)
            counter.until(wanted)
            took, used = time.monotonic() - began, cpu(node.pid) - before
            print(f"alone: {wanted / took:,.0f} webhooks/s, {used / wanted * 1e6:.0f} us of CPU each, {used / took:.2f} cores")
            before, began = cpu(node.pid), time.monotonic()
            deliver()
            delivered = time.monotonic() - began
            counter.until(2 * wanted)
            took, used = time.monotonic() - began, cpu(node.pid) - before
            print(
                f"beside delivery: {options.events / delivered:,.0f} delivered/s; all told {took - delivered:.2f} s later, "
                f"{wanted / took:,.0f} webhooks/s, {used / took:.2f} cores in all"
            )
        finally:
            node.terminate()
            node.wait()
            counter.process.kill()


if __name__ == "__main__":
    main()
