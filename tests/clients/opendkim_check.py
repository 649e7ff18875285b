"""Verifies every file of a directory with OpenDKIM, which is told of it as by an MTA: over the milter protocol.

Arguments: directory, a JSON object of names and texts of the keys' records, and how many signatures each message has. Each must pass.
"""

import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile

CONFIG = """\
Mode v
Syslog no
Socket local:{here}/milter.sock
PidFile {here}/pid
TestDNSData file:{here}/records
AuthservID test
AlwaysAddARHeader yes
On-BadSignature accept
RequireSafeKeys no
"""


class Milter:
    """One message after the other on one connection, as Postfix does it (libmilter's protocol, version 6)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.send(b"O", struct.pack("!III", 6, 0x1FF, 0))
        assert self.receive()[0] == b"O"
        self.ask(b"C", b"host.test\0U")
        self.ask(b"H", b"host.test\0")

    def send(self, command, data=b""):
        self.socket.sendall(struct.pack("!I", len(data) + 1) + command + data)

    def receive(self):
        octets = self.exactly(struct.unpack("!I", self.exactly(4))[0])
        return octets[:1], octets[1:]

    def exactly(self, count):
        octets = b""
        while len(octets) < count:
            more = self.socket.recv(count - len(octets))
            assert more, "OpenDKIM has closed the connection"
            octets += more
        return octets

    def ask(self, command, data=b""):
        self.send(command, data)
        answer = self.receive()
        assert answer[0] in (b"c", b"a"), (command, answer)
        return answer[0]

    def verify(self, octets):
        """The Authentication-Results of a message."""
        header, _, body = octets.partition(b"\r\n\r\n") if not octets.startswith(b"\r\n") else (b"", b"", octets[2:])
        self.send(b"D", b"Mi\0test\0")
        self.ask(b"M", b"<a@declared.example>\0")
        self.ask(b"R", b"<b@example.org>\0")
        for field in re.split(rb"\r\n(?![ \t])", header.removesuffix(b"\r\n")):
            name, _, value = field.partition(b":")
            # An MTA takes one blank away, and gives lines without CR.
            value = value.removeprefix(b" ").replace(b"\r\n", b"\n")
            self.ask(b"L", name + b"\0" + value + b"\0")
        self.ask(b"N")
        for start in range(0, len(body), 65535):
            self.ask(b"B", body[start:start + 65535])
        self.send(b"E")
        results = b""
        while True:
            answer, data = self.receive()
            if answer in (b"i", b"h"):
                results += data
            elif answer in (b"c", b"a"):
                return results
            else:
                assert answer == b"p", (answer, data)


directory, records, wanted = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
with tempfile.TemporaryDirectory() as here:
    os.chmod(here, 0o755)
    pathlib.Path(here, "records").write_text("".join(f"{name} {text}\n" for name, text in records.items()))
    pathlib.Path(here, "opendkim.conf").write_text(CONFIG.format(here=here))
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    daemon = subprocess.Popen(["opendkim", "-f", "-x", f"{here}/opendkim.conf"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        path = pathlib.Path(here, "milter.sock")
        while not path.exists():
            assert daemon.poll() is None, daemon.stdout.read()
            os.sched_yield()
        milter, failed = Milter(str(path)), []
        files = sorted(pathlib.Path(directory).iterdir())
        for file in files:
            results = milter.verify(file.read_bytes())
            if results.count(b"dkim=pass") != wanted or results.count(b"dkim=") != wanted:
                failed.append((file.name, results))
    finally:
        daemon.kill()
        daemon.wait()
assert not failed, f"{len(failed)} of {len(files)} do not verify: {failed[:5]}"
print(len(files), "verified")
