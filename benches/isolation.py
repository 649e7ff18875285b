#!/usr/bin/env python3
"""How long a transactional message waits for its first delivery attempt while a broadcast drains at full speed.

  benches/isolation.py [--recipients 1000000] [--per-message 1] [--probes 1000] [--every 0.02]

Builds nothing: `cargo build --release` first. Needs Linux, Python 3 and the Debian package postfix (smtp-source, smtp-sink).
The broadcast is queued first, to a port that nobody listens on; then a sink opens there and all of it is released. Probes are
submitted one at a time over one connection; a probe's time runs from the octets of its 250 to the octets of the MAIL command of
its first attempt, both read by this process. Everything stays on 127.0.0.0/8, and all tools share the machine's processors.
Prints the idle values beside the loaded ones; the target is p99 <= 25 ms.
"""
import argparse
import asyncio
import contextlib
import pathlib
import re
import subprocess
import tempfile
import time

from relay import BINARY, free_port, wait_for

CONFIG = """
[node]
hostname = "posthaste.bench.test"
data_dir = "{dir}/data"
[[smtp]]
bind = "127.0.0.1:{tx}"
tls = "off"
trusted = [{{ cidr = "127.0.0.0/8", server = "app", stream = "outbound" }}]
[[smtp]]
bind = "127.0.0.1:{bulk}"
tls = "off"
trusted = [{{ cidr = "127.0.0.0/8", server = "app", stream = "broadcast" }}]
[http]
bind = "127.0.0.1:0"
[log]
level = "warn"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{{ name = "tx1", ip = "127.0.0.1", ehlo = "tx1.bench.test" }}]
[[pool]]
name = "bulk"
kind = "broadcast"
sources = [{{ name = "bulk1", ip = "127.0.0.2", ehlo = "bulk1.bench.test" }}]
[[route]]
domain = "probe.test"
hosts = ["127.0.0.1:{probe_sink}"]
[[route]]
domain = "*"
hosts = ["127.0.0.1:{bulk_sink}"]
[[server]]
name = "app"
tokens = ["isolation-bench-token"]
senders = "any"
"""


class ProbeSink:
    """Takes mail and notes when the MAIL command of each reverse-path came."""

    def __init__(self):
        self.seen = {}
        self.arrived = asyncio.Condition()

    async def serve(self, reader, writer):
        def say(*lines):
            writer.write("".join(f"{line}\r\n" for line in lines).encode())

        say("220 probe.test")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"MAIL":
                    now = time.perf_counter()
                    async with self.arrived:
                        self.seen.setdefault(re.search(rb"<([^>@]*)", line)[1].decode(), now)
                        self.arrived.notify_all()
                if verb == b"DATA":
                    say("354 go on")
                    await reader.readuntil(b"\r\n.\r\n")
                    say("250 2.0.0 taken")
                elif verb == b"EHLO":
                    say("250-probe.test", "250 PIPELINING")
                elif verb == b"QUIT":
                    say("221 2.0.0 bye")
                    break
                else:
                    say("250 2.0.0 ok")
        writer.close()

    async def first_attempt(self, name):
        async with self.arrived:
            await self.arrived.wait_for(lambda: name in self.seen)
        return self.seen[name]


async def submit(reader, writer, name):
    """One message; when its 250 was read."""
    async def command(text, code):
        writer.write(text)
        while (line := await reader.readline())[3:4] == b"-":
            pass
        assert line.startswith(code), line

    await command(b"MAIL FROM:<%s@app.test>\r\n" % name, b"250")
    await command(b"RCPT TO:<someone@probe.test>\r\n", b"250")
    await command(b"DATA\r\n", b"354")
    await command(b"From: a@app.test\r\nTo: someone@probe.test\r\nSubject: one-time code\r\n\r\n123456\r\n.\r\n", b"250")
    return time.perf_counter()


async def probe(label, port, sink, count, every, until=lambda: False):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b"EHLO bench\r\n")
    while (await reader.readline())[3:4] == b"-":
        pass
    waits = []
    for number in range(count):
        if until():
            break
        name = f"{label}-{number}"
        acknowledged = await submit(reader, writer, name.encode())
        attempted = await asyncio.wait_for(sink.first_attempt(name), 60)
        # The attempt may be read before the 250 is.
        waits.append(max(0.0, attempted - acknowledged) * 1e3)
        await asyncio.sleep(every)
    writer.close()
    return sorted(waits)


def report(label, waits):
    at = lambda part: waits[min(len(waits) - 1, int(len(waits) * part))]
    print(f"{label:>28}: {len(waits):5} probes, ms from 250 to the first attempt: "
          f"p50 {at(.5):6.2f}  p90 {at(.9):6.2f}  p99 {at(.99):6.2f}  max {waits[-1]:6.2f}", flush=True)
    return at(.99)


def command(directory, *words):
    words = [BINARY, *words, "--config", f"{directory}/posthaste.toml"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


async def main(options):
    directory = tempfile.mkdtemp(prefix="posthaste-isolation-")
    tx, bulk, probe_sink, bulk_sink = (free_port() for _ in range(4))
    ports = dict(tx=tx, bulk=bulk, probe_sink=probe_sink, bulk_sink=bulk_sink)
    pathlib.Path(directory, "posthaste.toml").write_text(CONFIG.format(dir=directory, **ports))
    node = subprocess.Popen([BINARY, "serve", "--config", f"{directory}/posthaste.toml"])
    drain = None
    try:
        wait_for(tx)
        sink = ProbeSink()
        await asyncio.start_server(sink.serve, "127.0.0.1", probe_sink)
        report("idle", await probe("idle", tx, sink, options.probes, options.every))

        messages = options.recipients // options.per_message
        began = time.perf_counter()
        source = ["smtp-source", "-s", "20", "-m", str(messages), "-l", str(options.size), "-r", str(options.per_message),
                  "-f", "news@app.test", "-t", "reader@bulk.test", f"127.0.0.1:{bulk}"]
        filling = await asyncio.create_subprocess_exec(*source)
        filled = await probe("filling", tx, sink, 10**9, options.every, until=lambda: filling.returncode is not None)
        print(f"{messages} messages, {options.recipients} recipients queued in {time.perf_counter() - began:.0f} s", flush=True)
        report("broadcast is submitted", filled)

        drain = subprocess.Popen(["smtp-sink", "-c", "-u", "nobody", "-m", "1000", f"127.0.0.1:{bulk_sink}", "1024"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(bulk_sink)
        command(directory, "queue", "retry", "bulk.test")
        began = time.perf_counter()
        p99 = report("broadcast drains", await probe("loaded", tx, sink, options.probes, options.every))
        print(f"after {time.perf_counter() - began:.0f} s of draining: {command(directory, 'queue', 'ls').strip()}")
        print(f"p99 while it drains: {p99:.2f} ms, target 25: {'holds' if p99 <= 25 else 'MISSED'}")
    finally:
        node.terminate()
        node.wait()
        if drain:
            drain.kill()
        subprocess.run(["rm", "-rf", directory], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--per-message", type=int, default=1)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--every", type=float, default=0.02)
    parser.add_argument("--size", type=int, default=1024)
    asyncio.run(main(parser.parse_args()))
