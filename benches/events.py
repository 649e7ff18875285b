#!/usr/bin/env python3
"""What the readers of the event log cost beside delivery, and how soon a message can be searched.

  benches/events.py [--rate 5000] [--seconds 60] [--refuse 4] [--size 2000] [--perf]

Builds nothing: `cargo build --release` and `cargo bench --no-run --bench load` first. Needs Linux and Python 3; `--perf` needs perf, and takes
a minute more. Mail is submitted at a fixed rate and delivered to a sink that refuses some of it, while all that follows the log follows it:
activity, statistics, the bounce API, automatic suppressions, a webhook for each delivery and bounce, and a sink that writes compressed files.
Once a second a message is sent by HTTP, and searched for by recipient until it is found: `accepted` is the time from the answer, `sent` from
the remote host's 250 (both include the polls, 5 ms apart). With `--perf` the node's stacks are sampled and told apart by reader: a sample
counts for the innermost reader in its stack; the threads of SQLite have none and are a line of their own.
"""
import argparse
import collections
import contextlib
import json
import pathlib
import re
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

import relay
from webhooks import Counter

MORE = """
[webhooks]
allow_networks = ["127.0.0.0/8"]
[[sink]]
name = "archive"
type = "file"
path = "events.jsonl"
"""
READERS = ["activity", "statistics", "bounces", "automatic", "notices", "suppressions", "idempotency", "sinks", "webhooks", "tables"]


def ask(http, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{http}{path}", headers={"X-Postmark-Server-Token": "relay-bench-token", "Accept": "application/json"})
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


class Watch(threading.Thread):
    """Lag of every reader, and messages that are searched for, once a second."""

    def __init__(self, http):
        super().__init__(daemon=True)
        self.http, self.ended = http, threading.Event()
        self.lag, self.accepted, self.sent = collections.Counter(), [], []

    def run(self):
        number = 0
        while not self.ended.wait(1):
            for line in ask(self.http, "/metrics").splitlines():
                if found := re.match(r'posthaste_reader_lag_seconds\{reader="([^"]+)"\} (\S+)', line):
                    self.lag[found[1]] = max(self.lag[found[1]], float(found[2]))
            number += 1
            to = f"probe{number}@taken.test"
            ask(self.http, "/email", {"From": "bench@source.test", "To": to, "Subject": "probe", "TextBody": "probe"})
            began = time.monotonic()
            self.until(to, lambda found: found["TotalCount"])
            self.accepted.append(time.monotonic() - began)
            # The remote host had it some time before: this is the most that it can have been.
            self.until(to, lambda found: found["TotalCount"] and found["Messages"][0]["Status"] == "Sent")
            self.sent.append(time.monotonic() - began)

    def until(self, to, holds):
        while not holds(json.loads(ask(self.http, f"/messages/outbound?count=1&offset=0&recipient={to}"))):
            time.sleep(0.005)


def threads(pid):
    """CPU seconds of the process by name of the thread, numbers left out."""
    used = collections.Counter()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            name = re.sub(r"[-0-9]+$", "", (task / "comm").read_text().strip())
            used[name] += int((task / "schedstat").read_text().split()[0]) / 1e9
    return used


def record(pid, data, seconds):
    command = ["perf", "record", "-q", "-F", "199", "--call-graph", "dwarf,16384", "-p", str(pid), "-o", data, "--", "sleep", str(seconds)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def profile(data, seconds):
    """Cores that each reader takes, by samples of the node's stacks."""
    command = ["perf", "script", "-i", data, "--no-inline", "-F", "comm,period,event,ip,sym"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    cores = collections.Counter()
    for sample in text.split("\n\n"):
        first, _, stack = sample.strip().partition("\n")
        if not stack:
            continue
        period = int(re.search(r"(\d+)\s+\S*clock", first)[1]) if "clock" in first else None
        weight = 1 / 199 / seconds if period is None else period / 1e9 / seconds
        reader = re.search(r"readers(?:::|\d+)(" + "|".join(READERS) + r")", stack)
        if reader:
            cores[reader[1]] += weight
        elif "hyper" in stack and "erver" not in stack and "axum" not in stack:
            # A webhook's connection is a task of its own.
            cores["webhooks"] += weight
        elif first.startswith("sqlx"):
            cores["SQLite's threads"] += weight
        else:
            cores["all else"] += weight
    return cores


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--refuse", type=int, default=4)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--perf", action="store_true")
    o = parser.parse_args()
    sink, hook = relay.Sink("--refuse", o.refuse), Counter()
    case = relay.Case(sink.port)
    case.extra = MORE
    with contextlib.ExitStack() as stack:
        for process in (sink.process, hook.process):
            stack.callback(process.kill)
        scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        smtp, pid = stack.enter_context(relay.posthaste(case))
        http = case.http
        while True:
            with contextlib.suppress(OSError):
                ask(http, "/readyz")
                break
            time.sleep(0.05)
        triggers = {"Delivery": {"Enabled": True}, "Bounce": {"Enabled": True}}
        ask(http, "/webhooks", {"Url": f"http://127.0.0.1:{hook.port}/", "Triggers": triggers})
        relay.load(smtp, o.rate, o.size, 16, "--rate", o.rate, "--domain", "warm.test")
        # What was refused is suppressed from now on: the names of a domain are used once.
        sink.wait(o.rate)
        watch = Watch(http)
        messages, answered, used, began = o.rate * o.seconds, sink.answered(), threads(pid), time.monotonic()
        told = hook.count()
        watch.start()
        source = threading.Thread(target=relay.load, args=(smtp, messages, o.size, 16, "--rate", o.rate))
        source.start()
        data, sampled = scratch / "perf.data", min(15, o.seconds - 10)
        if o.perf:
            time.sleep(5)
            record(pid, data, sampled)
        source.join()
        took = time.monotonic() - began
        sink.wait(answered + messages)
        behind = max(0, messages - (hook.count() - told))
        watch.ended.set()
        watch.join()
        spent = {name: seconds / took for name, seconds in (threads(pid) - used).items()}
        ended, limit = time.monotonic(), time.monotonic() + 60
        while hook.count() - told < messages and time.monotonic() < limit:
            time.sleep(0.02)
        print(f"{messages / took:,.0f} outcomes/s for {took:.0f} s; the node took {sum(spent.values()):.2f} cores: " + ", ".join(f"{name} {cores:.2f}" for name, cores in sorted(spent.items(), key=lambda pair: -pair[1]) if cores >= 0.005))
        print(f"webhooks: {behind:,} not told when the last was answered, all told {time.monotonic() - ended:.2f} s later")
        for name, values in (("accepted", watch.accepted), ("sent", watch.sent)):
            print(f"searchable after {name}: median {statistics.median(values) * 1e3:.0f} ms, p95 {percentile(values, 0.95) * 1e3:.0f} ms, most {max(values) * 1e3:.0f} ms ({len(values)} probes)")
        print("most lag in seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in sorted(watch.lag.items())))
        if o.perf:
            shares = profile(data, sampled)
            print("cores by stack: " + ", ".join(f"{name} {cores:.3f}" for name, cores in shares.most_common()))
            print(f"readers together: {sum(cores for name, cores in shares.items() if name != 'all else'):.2f} cores")


if __name__ == "__main__":
    main()
