#!/usr/bin/env python3
"""What reports by mail cost a node: benches/inbound.py [BINARY] [SECONDS]

Starts BINARY (default: that of a release build) on a directory of its own, has it accept 100 messages, and sends reports about them to its
inbound listener over four connections, for SECONDS (10) of each kind: DSNs, multiparts nested 1,000 deep, messages within messages, and
mails of 50 MB. Prints reports a second, CPU of the node for each, and what its anonymous memory was at most. One Python process sends, so
the rate of small reports is a lower bound; the CPU is the node's own.
"""

import base64
import hashlib
import hmac
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

SECRET = b"a secret of the benchmark"
MESSAGES = 100
CONNECTIONS = 4


def derived(purpose):
    return hmac.new(SECRET, purpose, hashlib.sha256).digest()


def bounce_address(message):
    """As src/mail/verp.rs makes them."""
    said = uuid.UUID(message).bytes + (0).to_bytes(2, "big")
    name = derived(b"posthaste bounce secret name 1")[:2]
    tag = hmac.new(derived(b"posthaste bounce address 1"), said, hashlib.sha256).digest()[:10]
    code = base64.b32encode(said + name + tag).decode().lower()
    return f"b+{code}@bounces.test"


class Client:
    def __init__(self, address):
        self.socket = socket.create_connection(address)
        # The final dot is a write of its own.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.reply()
        self.command("EHLO bench.test")

    def reply(self):
        while True:
            line = self.file.readline()
            if line[3:4] != b"-":
                return line.decode().strip()

    def command(self, line, expected="2"):
        self.socket.sendall(line.encode() + b"\r\n")
        said = self.reply()
        if not said.startswith(expected):
            raise RuntimeError(f"{line}: {said}")
        return said

    def mail(self, to, content, sender=""):
        self.command(f"MAIL FROM:<{sender}>")
        self.command(f"RCPT TO:<{to}>")
        self.command("DATA", "3")
        self.socket.sendall(content)
        return self.command(".")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Node:
    def __init__(self, binary, directory):
        self.smtp, self.inbound = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        with open(os.path.join(directory, "posthaste.toml"), "w") as file:
            file.write(f"""
[node]
hostname = "mta.test"
data_dir = "data"
[[smtp]]
bind = "127.0.0.1:{self.smtp[1]}"
tls = "off"
trusted = [{{ cidr = "127.0.0.0/8", server = "app" }}]
[http]
bind = "127.0.0.1:{free_port()}"
[spool]
any_file_system = true
[[inbound]]
bind = "127.0.0.1:{self.inbound[1]}"
size_max = "64MiB"
[bounce]
domain = "bounces.test"
secrets = ["{SECRET.decode()}"]
[[pool]]
name = "tx"
kind = "transactional"
sources = [{{ name = "a", ip = "127.0.0.1", ehlo = "mta.test" }}]
[[server]]
name = "app"
tokens = ["app-secret-token"]
senders = "any"
[[route]]
domain = "*"
hosts = ["127.0.0.1:{free_port()}"]
""")
        log = open(os.path.join(directory, "log"), "w")
        words = [os.path.abspath(binary), "serve", "--config", "posthaste.toml"]
        self.process = subprocess.Popen(words, cwd=directory, stdout=log, stderr=log)
        for address in (self.smtp, self.inbound):
            self.wait_for(address)

    def wait_for(self, address):
        for _ in range(500):
            try:
                socket.create_connection(address).close()
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit("the node does not listen; see its log")

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            words = file.read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def anonymous_mb(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"RssAnon:\s+(\d+)", file.read())[1]) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


DSN = (
    "From: MAILER-DAEMON@mx.test\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nSorry.\r\n"
    "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\nFinal-Recipient: rfc822; a@b.test\r\n"
    "Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b--\r\n"
)
NESTED = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(1000))
WITHIN = "Content-Type: message/rfc822\r\n\r\n" * 1000
BIG = "Subject: big\r\n\r\n" + ("x" * 76 + "\r\n") * (50_000_000 // 78)


def measure(node, what, content, addresses, seconds):
    content = content.encode()
    done, peak, until = [0] * CONNECTIONS, node.anonymous_mb(), time.monotonic() + seconds

    def send(place):
        client = Client(node.inbound)
        # Each connection has messages of its own, and none of them more reports than are taken.
        mine = addresses[place::CONNECTIONS]
        while time.monotonic() < until and done[place] < len(mine) * 50:
            client.mail(mine[done[place] % len(mine)], content)
            done[place] += 1

    threads = [threading.Thread(target=send, args=(place,)) for place in range(CONNECTIONS)]
    began, used = time.monotonic(), node.cpu()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, node.anonymous_mb())
        time.sleep(0.005)
    took, used, count = time.monotonic() - began, node.cpu() - used, sum(done)
    print(f"{what:<32} {count / took:>8.1f}/s  {used / count * 1000:>8.2f} ms of CPU each  {peak:>6.0f} MB anonymous at most")


def main():
    built = os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release", "posthaste")
    binary = sys.argv[1] if len(sys.argv) > 1 else built
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10
    with tempfile.TemporaryDirectory() as directory:
        node = Node(binary, directory)
        try:
            client = Client(node.smtp)
            mail = b"From: s@shop.test\r\nSubject: s\r\n\r\nbody\r\n"
            accepted = [client.mail("a@b.test", mail, "s@shop.test") for _ in range(MESSAGES)]
            addresses = [bounce_address(said.split()[-1]) for said in accepted]
            print(f"idle: {node.anonymous_mb():.0f} MB anonymous")
            measure(node, "DSN", DSN, addresses, seconds)
            measure(node, "multipart nested 1,000 deep", NESTED, addresses, seconds)
            measure(node, "messages nested 1,000 deep", WITHIN, addresses, seconds)
            measure(node, "50 MB", BIG, addresses, seconds)
        finally:
            node.stop()


main()
