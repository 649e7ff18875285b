"""Verifies every file of a directory with dkimpy.

Arguments: directory, a JSON object of names and texts of the keys' records, and how many signatures each message has. Each must verify.
"""

import json
import pathlib
import sys

import dkim

directory, records, wanted = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])


def record(name, timeout=5):
    asked = name.decode() if isinstance(name, bytes) else name
    return records[asked.lower().rstrip(".")].encode()


files = sorted(pathlib.Path(directory).iterdir())
failed = []
for path in files:
    octets = path.read_bytes()
    head = b"\r\n" + octets.lower().partition(b"\r\n\r\n")[0]
    assert head.count(b"\r\ndkim-signature:") == wanted, path
    for index in range(wanted):
        message = dkim.DKIM(octets)
        try:
            verified = message.verify(index, dnsfunc=record)
        except dkim.DKIMException as why:
            verified, path = False, pathlib.Path(f"{path}: {why}")
        if not verified:
            failed.append((path.name, index))
assert not failed, f"{len(failed)} signatures of {len(files)} messages do not verify: {failed[:10]}"
print(len(files), "verified")
