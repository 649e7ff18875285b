#!/usr/bin/env python3
"""Posthaste as a relay, beside Postfix in the same interleaved run; and what a million waiting recipients cost.

  benches/relay.py relay  [--messages 4000] [--size 10240] [--sessions 20] [--runs 5] [--domains 1] [--tls] [--defer 0]
                          [--refuse 0] [--waiting 0]
  benches/relay.py table  [--runs 3]
  benches/relay.py queued [--messages 1000000] [--size 1024]
  benches/relay.py accept [--messages 20000] [--size 10240] [--sessions 20] [--runs 5]
  benches/relay.py bodies [--clients 200]
  benches/relay.py far    [--messages 100] [--size 10240] [--runs 3] [--delay-ms 50]

`relay` measures from the first connection until every recipient had its first answer: --domains recipient domains with a
host each, --tls both ways, of 100 recipients --defer are answered with 451 and --refuse with 550, and --waiting recipients
that cannot be delivered lie in the queue already. `table` is `relay` in every case of ARCHITECTURE.md's table.
`accept` is acceptance alone, by SMTP, `/email` and `/email/batch` of 500, interleaved; `bodies` is the memory that clients take who
post 10 MB each at once.
`far` is one connection to a host behind a proxy that adds a delay each way, with CHUNKING and without.

Builds nothing: `cargo build --release` and `cargo bench --no-run --bench load` first. Needs Linux, Python 3 and openssl; as
root, with the Debian package postfix, `relay` and `far` also start a throughput-tuned Postfix in a temporary directory and print the ratio.
Everything stays on 127.0.0.0/8. Only ratios of one run count: the machine drifts more between runs than most changes matter.
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
{tls}
trusted = [{{ cidr = "127.0.0.0/8", server = "app" }}]
[http]
bind = "127.0.0.1:{http}"
[log]
level = "warn"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{{ name = "tx1", ip = "127.0.0.1", ehlo = "posthaste.bench.test" }}]
[delivery]
connections_per_site = {connections}
{routes}
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
tlsmgr unix - - n 1000? 1 tlsmgr
tlsproxy unix - - n - 0 tlsproxy
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


def hop(number):
    """The loopback address of the host of a recipient domain."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


class Case:
    """What mail meets on its way."""

    def __init__(self, next_hop, connections=20, domains=1, tls=False, dead=None):
        # More lines of posthaste.toml.
        self.extra = ""
        self.next_hop, self.connections, self.domains, self.tls, self.dead = next_hop, connections, domains, tls, dead

    def routes(self):
        """Recipient domain, host and port; the first match wins."""
        if self.dead:
            yield "dead.test", "127.0.0.1", self.dead
        if self.domains > 1:
            for number in range(self.domains):
                yield f"d{number}.far.test", hop(number), self.next_hop
        yield "*", "127.0.0.1", self.next_hop

    def certificate(self, directory):
        certificate, key = directory / "cert.pem", directory / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=bench.test",
                        "-addext", "subjectAltName=DNS:bench.test", "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
        return certificate, key


@contextlib.contextmanager
def posthaste(case):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="posthaste-bench-", dir=os.environ.get("BENCH_DIR")))
    port = free_port()
    config = directory / "posthaste.toml"
    tls = 'tls = "off"'
    if case.tls:
        certificate, key = case.certificate(directory)
        tls = f'tls = "starttls"\ncert = "{certificate}"\nkey = "{key}"'
    routes = "".join(f'[[route]]\ndomain = "{domain}"\nhosts = ["{host}:{to}"]\n' for domain, host, to in case.routes())
    case.http = free_port()
    config.write_text(CONFIG.format(dir=directory, port=port, http=case.http, tls=tls, routes=routes, connections=case.connections) + case.extra)
    process = subprocess.Popen([BINARY, "serve", "--config", config], start_new_session=True)
    try:
        wait_for(port)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(directory)


@contextlib.contextmanager
def postfix(case, **more):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="postfix-bench-", dir=os.environ.get("BENCH_DIR")))
    directory.chmod(0o755)
    for name in ("etc", "queue", "data", "log"):
        (directory / name).mkdir()
    shutil.chown(directory / "data", "postfix", "postfix")
    port = free_port()
    settings = dict(POSTFIX, queue_directory=directory / "queue", data_directory=directory / "data", command_directory="/usr/sbin",
                    daemon_directory="/usr/lib/postfix/sbin", transport_maps=f"texthash:{directory}/etc/transport",
                    maillog_file=directory / "log/mail.log", maillog_file_prefixes=directory / "log", **more)
    if case.tls:
        certificate, key = case.certificate(directory)
        settings.update(smtpd_tls_cert_file=certificate, smtpd_tls_key_file=key, smtpd_tls_security_level="may", smtp_tls_security_level="may",
                        smtp_tls_connection_reuse="yes", smtp_connection_cache_on_demand="yes",
                        smtp_tls_session_cache_database=f"btree:{directory}/data/smtp_scache")
    (directory / "etc/transport").write_text("".join(f"{domain} smtp:[{host}]:{to}\n" for domain, host, to in case.routes()))
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


def tool():
    found = sorted((BINARY.parent / "deps").glob("load-*[!.d]"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SystemExit("cargo bench --no-run --bench load")
    return found[-1]


def load(port, messages, size, sessions, *more):
    words = {"--messages": messages, "--size": size, "--sessions": sessions}
    subprocess.run([tool(), "source", str(port), *(str(word) for pair in words.items() for word in pair), *(str(word) for word in more)], check=True)


class Sink:
    """Remote hosts: all loopback addresses at one port."""

    def __init__(self, *words):
        self.process = subprocess.Popen([tool(), "sink", *(str(word) for word in words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def counts(self):
        """Recipients taken, deferred, refused; connections."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return tuple(int(n) for n in self.process.stdout.readline().split())

    def answered(self):
        return sum(self.counts()[:3])

    def wait(self, wanted):
        deadline = time.monotonic() + 600
        while self.answered() < wanted:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {self.answered()} of {wanted} recipients were answered")
            time.sleep(0.005)

    def rate(self, first, wanted):
        """Messages per second from the first that arrives after the `first` to the last wanted."""
        begin = None
        while True:
            count = self.answered() - first
            if count and begin is None:
                begin, seen = time.monotonic(), count
            if count >= wanted:
                return (count - seen) / (time.monotonic() - begin)
            time.sleep(0.005)


def relay(o):
    with contextlib.ExitStack() as stack:
        systems = {"posthaste": posthaste}
        if os.getuid() == 0:
            systems["postfix"] = postfix
        sinks, targets = {}, {}
        for name, start in systems.items():
            # One each: what the one tries again must not count for the other.
            sinks[name] = Sink("--defer", o.defer, "--refuse", o.refuse, "--data", *(["--tls"] if o.tls else []))
            stack.callback(sinks[name].process.kill)
            targets[name] = stack.enter_context(start(Case(sinks[name].port, domains=o.domains, tls=o.tls, dead=free_port() if o.waiting else None)))
            if o.waiting:
                load(targets[name][0], o.waiting // 50, 1024, 20, "--recipients", 50, "--domain", "dead.test")
        options = ["--domains", o.domains, *(["--tls"] if o.tls else [])]
        rates, costs = {n: [] for n in targets}, {n: [] for n in targets}
        for run in range(-1, o.runs):
            for name, (port, leader) in targets.items():
                sink, messages = sinks[name], o.messages if run >= 0 else 500
                before, cpu, start = sink.answered(), cpu_seconds(leader), time.monotonic()
                load(port, messages, o.size, o.sessions, *options)
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
            print(f"ratio      {ratio['rate']:8.1f} x the rate, 1/{1 / ratio['cpu']:.0f} of the CPU per message", flush=True)


TABLE = {
    "20 sessions": {}, "100 sessions": {"sessions": 100}, "1 KB": {"size": 1024}, "1,000 destinations": {"domains": 1000},
    "TLS both ways": {"tls": True}, "200,000 recipients deferred": {"waiting": 200_000}, "30 % 4xx, 5 % 5xx": {"defer": 30, "refuse": 5},
}


def table(o):
    for title, changes in TABLE.items():
        print(f"-- {title}", flush=True)
        relay(argparse.Namespace(**{**vars(o), **changes}))


def far(o):
    """One connection. Postfix keeps it open between messages, as it does for a busy destination."""
    one = dict(smtp_destination_concurrency_limit="1", initial_destination_concurrency="1", smtp_connection_cache_on_demand="no",
               smtp_connection_cache_destinations="static:all", smtp_connection_reuse_time_limit="3600s")
    for chunking in (True, False):
        hosts, rates = {}, {}
        with contextlib.ExitStack() as stack:
            ports = {}
            for name, start in (("posthaste", posthaste), ("postfix", lambda case: postfix(case, **one))):
                if name == "posthaste" or os.getuid() == 0:
                    hosts[name] = Sink("--delay-ms", o.delay_ms, *([] if chunking else ["--data"]))
                    stack.callback(hosts[name].process.kill)
                    ports[name], _ = stack.enter_context(start(Case(hosts[name].port, connections=1)))
                    rates[name] = []
            for _ in range(o.runs):
                for name, port in ports.items():
                    before = hosts[name].answered()
                    load(port, o.messages, o.size, 5)
                    rates[name].append(hosts[name].rate(before, o.messages))
            connections = {name: host.counts()[3] for name, host in hosts.items()}
        print("with CHUNKING" if chunking else "without CHUNKING")
        for name, values in rates.items():
            print(f"  {name:10} {statistics.median(values):6.1f} messages/s on one connection at a time [{min(values):.1f}-{max(values):.1f}], {connections[name]} connections")
        if "postfix" in rates:
            print(f"  ratio      {statistics.median(rates['posthaste']) / statistics.median(rates['postfix']):6.1f}")


def accept(o):
    """Nobody is there to take the mail, so that acceptance has the machine to itself."""
    case = Case(free_port())
    with posthaste(case) as (port, leader):
        post = lambda messages, batch: subprocess.run([tool(), "post", str(case.http), "--token", "relay-bench-token", "--batch", str(batch), "--sessions", str(o.sessions if batch == 1 else 4),
                                                       "--messages", str(messages), "--size", str(o.size)], check=True)
        ways = {"SMTP": lambda n: load(port, n, o.size, o.sessions), "/email": lambda n: post(n, 1), "/email/batch": lambda n: post(n, 500)}
        rates, costs = {n: [] for n in ways}, {n: [] for n in ways}
        for run in range(-1, o.runs):
            for name, send in ways.items():
                messages, cpu, start = o.messages if run >= 0 else 500, cpu_seconds(leader), time.monotonic()
                send(messages)
                if run >= 0:
                    rates[name].append(messages / (time.monotonic() - start))
                    costs[name].append((cpu_seconds(leader) - cpu) / messages * 1000)
        smtp = statistics.median(rates["SMTP"])
        for name, values in rates.items():
            rate = statistics.median(values)
            print(f"{name:13} {rate:8.0f} messages/s [{min(values):.0f}-{max(values):.0f}]   {statistics.median(costs[name]):.2f} CPU s per 1,000   {rate / smtp:.2f} x SMTP")


def bodies(o):
    case = Case(free_port())
    with posthaste(case) as (_, pid):
        before = anonymous(pid)
        load = subprocess.Popen([tool(), "post", str(case.http), "--token", "relay-bench-token", "--sessions", str(o.clients), "--messages", str(o.clients), "--size", "4800000", "--text"])
        most = 0
        while load.poll() is None:
            most = max(most, anonymous(pid))
            time.sleep(0.01)
        print(f"{o.clients} clients with bodies of 9.7 MB: exit code {load.returncode}, at most {(most - before) / 2**20:.0f} MiB of anonymous memory more than before")


def anonymous(pid):
    return int(re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def queued(o):
    # Nothing listens there: every attempt is refused, everything waits.
    with posthaste(Case(free_port())) as (port, pid):
        load(port, 20_000, o.size, 20)
        base, batch = anonymous(pid), max(1, o.messages // 10)
        for done in range(batch, o.messages + 1, batch):
            start = time.monotonic()
            load(port, batch, o.size, 20)
            print(f"{done:9,} queued: {batch / (time.monotonic() - start):7.0f} messages/s, {anonymous(pid) / 2**20:.0f} MiB anonymous")
        print(f"{(anonymous(pid) - base) / o.messages:.0f} bytes of resident memory per further recipient (segment images, which come and go, included)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["relay", "table", "queued", "accept", "bodies", "far"])
    parser.add_argument("--messages", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--domains", type=int, default=1)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--defer", type=int, default=0)
    parser.add_argument("--refuse", type=int, default=0)
    parser.add_argument("--waiting", type=int, default=0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--delay-ms", type=int, default=50)
    o = parser.parse_args()
    defaults = {"relay": (4000, 10240, 5), "table": (4000, 10240, 3), "queued": (1_000_000, 1024, 1), "accept": (20_000, 10240, 5), "bodies": (1, 1, 1), "far": (100, 10240, 3)}[o.case]
    o.messages, o.size, o.runs = o.messages or defaults[0], o.size or defaults[1], o.runs or defaults[2]
    {"relay": relay, "table": table, "queued": queued, "accept": accept, "bodies": bodies, "far": far}[o.case](o)


if __name__ == "__main__":
    main()
