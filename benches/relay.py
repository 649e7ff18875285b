#!/usr/bin/env python3
"""Posthaste as a relay, beside Postfix in the same interleaved run; and what a million waiting recipients cost.

  benches/relay.py relay  [--messages 4000] [--size 10240] [--sessions 20] [--runs 5]
  benches/relay.py queued [--messages 1000000] [--size 1024]
  benches/relay.py far    [--messages 100] [--size 10240] [--runs 3] [--delay-ms 50]

`far` is one connection to a host behind a proxy that adds a delay each way (`benches/far_host.rs`, built by
`cargo bench --no-run --bench far_host`), with CHUNKING and without.

Builds nothing: `cargo build --release` first. Needs Linux, Python 3 and the Debian package postfix, whose smtp-source and
smtp-sink are the load; `relay` as root also starts a throughput-tuned Postfix in a temporary directory and prints the ratio.
Everything stays on 127.0.0.1. Only ratios of one run count: the machine drifts more between runs than most changes matter.
"""
import argparse
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "posthaste"
os.environ["PATH"] += ":/usr/sbin:/sbin"

CONFIG = """
[node]
hostname = "posthaste.bench.test"
data_dir = "{dir}/data"
[[smtp]]
bind = "127.0.0.1:{port}"
tls = "off"
trusted = [{{ cidr = "127.0.0.0/8", server = "app" }}]
[http]
bind = "127.0.0.1:0"
[log]
level = "warn"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{{ name = "tx1", ip = "127.0.0.1", ehlo = "posthaste.bench.test" }}]
[delivery]
connections_per_site = {connections}
[[route]]
domain = "*"
hosts = ["127.0.0.1:{next_hop}"]
[[server]]
name = "app"
tokens = ["relay-bench-token"]
senders = "any"
"""

POSTFIX = {
    "compatibility_level": "3.6", "mail_owner": "postfix", "setgid_group": "postdrop", "myhostname": "postfix.bench.test",
    "mydestination": "", "mynetworks": "127.0.0.0/8", "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4",
    "smtp_dns_support_level": "disabled", "smtp_host_lookup": "native", "alias_maps": "", "local_recipient_maps": "",
    "smtpd_peername_lookup": "no", "smtpd_recipient_restrictions": "permit_mynetworks, reject", "smtpd_error_sleep_time": "0",
    "smtpd_client_connection_count_limit": "0", "in_flow_delay": "0", "default_process_limit": "250", "max_use": "2000",
    "qmgr_message_active_limit": "100000", "qmgr_message_recipient_limit": "100000", "smtp_destination_concurrency_limit": "20",
    "initial_destination_concurrency": "20", "smtp_connection_cache_on_demand": "no",
}
SERVICES = """\
127.0.0.1:{port} inet n - n - 250 smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - 250 smtp
relay unix - - n - 250 smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def cpu_seconds(leader):
    """User and system time of a process group's members, ended and waited-for children included."""
    ticks = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[2]) == leader:
                ticks += sum(int(fields[n]) for n in (11, 12, 13, 14))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def posthaste(next_hop, connections=20):
    directory = tempfile.mkdtemp(prefix="posthaste-bench-", dir=os.environ.get("BENCH_DIR"))
    port = free_port()
    config = pathlib.Path(directory, "posthaste.toml")
    config.write_text(CONFIG.format(dir=directory, port=port, next_hop=next_hop, connections=connections))
    process = subprocess.Popen([BINARY, "serve", "--config", config], start_new_session=True)
    try:
        wait_for(port)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(directory)


@contextlib.contextmanager
def postfix(next_hop, **more):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="postfix-bench-", dir=os.environ.get("BENCH_DIR")))
    directory.chmod(0o755)
    for name in ("etc", "queue", "data", "log"):
        (directory / name).mkdir()
    shutil.chown(directory / "data", "postfix", "postfix")
    port = free_port()
    settings = dict(POSTFIX, queue_directory=directory / "queue", data_directory=directory / "data", command_directory="/usr/sbin",
                    daemon_directory="/usr/lib/postfix/sbin", relayhost=f"[127.0.0.1]:{next_hop}",
                    maillog_file=directory / "log/mail.log", maillog_file_prefixes=directory / "log", **more)
    (directory / "etc/main.cf").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
    (directory / "etc/master.cf").write_text(SERVICES.format(port=port))
    subprocess.run(["postfix", "-c", directory / "etc", "start"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        leader = int((directory / "queue/pid/master.pid").read_text())
        yield port, os.getpgid(leader)
    finally:
        subprocess.run(["postfix", "-c", directory / "etc", "stop"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(directory)


class Sink:
    def __init__(self):
        self.port = free_port()
        self.counter = tempfile.TemporaryFile()
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        command = ["smtp-sink", "-c", *user, "-m", "1000", f"127.0.0.1:{self.port}", "1024"]
        self.process = subprocess.Popen(command, stdout=self.counter, stderr=subprocess.DEVNULL)
        wait_for(self.port)

    def count(self):
        size = os.fstat(self.counter.fileno()).st_size
        tail = os.pread(self.counter.fileno(), 400, max(0, size - 400)).decode("ascii", "replace")
        counts = re.findall(r"mesg=(\d+)\s*[\r\n]", tail)
        return int(counts[-1]) if counts else 0

    def wait(self, wanted):
        deadline = time.monotonic() + 300
        while self.count() < wanted:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {self.count()} of {wanted} messages arrived")
            time.sleep(0.005)


def load(port, messages, size, sessions):
    subprocess.run(["smtp-source", "-d", "-s", str(sessions), "-m", str(messages), "-l", str(size), "-f", "sender@source.test",
                    "-t", "recipient@destination.test", f"127.0.0.1:{port}"], check=True)


def relay(o):
    sink = Sink()
    try:
        with contextlib.ExitStack() as stack:
            targets = {"posthaste": stack.enter_context(posthaste(sink.port))}
            if os.getuid() == 0:
                targets["postfix"] = stack.enter_context(postfix(sink.port))
            rates, costs = {n: [] for n in targets}, {n: [] for n in targets}
            for run in range(-1, o.runs):
                for name, (port, leader) in targets.items():
                    messages = o.messages if run >= 0 else 500
                    before, cpu, start = sink.count(), cpu_seconds(leader), time.monotonic()
                    load(port, messages, o.size, o.sessions)
                    sink.wait(before + messages)
                    took = time.monotonic() - start
                    if run >= 0:
                        rates[name].append(messages / took)
                        costs[name].append((cpu_seconds(leader) - cpu) / messages * 1000)
        for name in targets:
            rate, cost = statistics.median(rates[name]), statistics.median(costs[name])
            print(f"{name:10} {rate:8.0f} messages/s [{min(rates[name]):.0f}-{max(rates[name]):.0f}]   {cost:.2f} CPU s per 1,000")
        if "postfix" in targets:
            ratio = {k: statistics.median(v["posthaste"]) / statistics.median(v["postfix"]) for k, v in (("rate", rates), ("cpu", costs))}
            print(f"ratio      {ratio['rate']:8.1f} x the rate, {ratio['cpu']:.3f} x the CPU per message")
    finally:
        sink.process.terminate()


class FarHost:
    def __init__(self, delay_ms, chunking):
        found = sorted((BINARY.parent / "deps").glob("far_host-*[!.d]"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise SystemExit("cargo bench --no-run --bench far_host")
        words = [found[-1], str(delay_ms)] + ([] if chunking else ["data"])
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def counts(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return tuple(int(n) for n in self.process.stdout.readline().split())

    def rate(self, first, wanted):
        """Messages per second from the first that arrives after the `first` to the last wanted."""
        begin = None
        while True:
            count = self.counts()[0] - first
            if count and begin is None:
                begin, seen = time.monotonic(), count
            if count >= wanted:
                return (count - seen) / (time.monotonic() - begin)
            time.sleep(0.005)


def far(o):
    """One connection. Postfix keeps it open between messages, as it does for a busy destination."""
    one = dict(smtp_destination_concurrency_limit="1", initial_destination_concurrency="1", smtp_connection_cache_on_demand="no",
               smtp_connection_cache_destinations="static:all", smtp_connection_reuse_time_limit="3600s")
    for chunking in (True, False):
        hosts, rates = {}, {}
        with contextlib.ExitStack() as stack:
            ports = {}
            for name, start in (("posthaste", lambda hop: posthaste(hop, connections=1)), ("postfix", lambda hop: postfix(hop, **one))):
                if name == "posthaste" or os.getuid() == 0:
                    hosts[name] = FarHost(o.delay_ms, chunking)
                    stack.callback(hosts[name].process.kill)
                    ports[name], _ = stack.enter_context(start(hosts[name].port))
                    rates[name] = []
            for _ in range(o.runs):
                for name, port in ports.items():
                    before, _ = hosts[name].counts()
                    load(port, o.messages, o.size, 5)
                    rates[name].append(hosts[name].rate(before, o.messages))
            connections = {name: host.counts()[1] for name, host in hosts.items()}
        print("with CHUNKING" if chunking else "without CHUNKING")
        for name, values in rates.items():
            print(f"  {name:10} {statistics.median(values):6.1f} messages/s on one connection at a time [{min(values):.1f}-{max(values):.1f}], {connections[name]} connections")
        if "postfix" in rates:
            print(f"  ratio      {statistics.median(rates['posthaste']) / statistics.median(rates['postfix']):6.1f}")


def anonymous(pid):
    return int(re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def queued(o):
    # Nothing listens there: every attempt is refused, everything waits.
    with posthaste(free_port()) as (port, pid):
        load(port, 20_000, o.size, 20)
        base, batch = anonymous(pid), max(1, o.messages // 10)
        for done in range(batch, o.messages + 1, batch):
            start = time.monotonic()
            load(port, batch, o.size, 20)
            print(f"{done:9,} queued: {batch / (time.monotonic() - start):7.0f} messages/s, {anonymous(pid) / 2**20:.0f} MiB anonymous")
        print(f"{(anonymous(pid) - base) / o.messages:.0f} bytes of resident memory per further recipient (segment images, which come and go, included)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["relay", "queued", "far"])
    parser.add_argument("--messages", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--delay-ms", type=int, default=50)
    o = parser.parse_args()
    defaults = {"relay": (4000, 10240, 5), "queued": (1_000_000, 1024, 1), "far": (100, 10240, 3)}[o.case]
    o.messages, o.size, o.runs = o.messages or defaults[0], o.size or defaults[1], o.runs or defaults[2]
    {"relay": relay, "queued": queued, "far": far}[o.case](o)


if __name__ == "__main__":
    main()
