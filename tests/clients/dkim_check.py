"""Verifies every file of a directory with dkimpy. Arguments: directory, name of the key's record, its text."""

import pathlib
import sys

import dkim

directory, host, text = sys.argv[1:4]
wanted = host.rstrip(".").lower() + "."


def record(name, timeout=5):
    asked = name.decode() if isinstance(name, bytes) else name
    assert asked.lower().rstrip(".") + "." == wanted, asked
    return text.encode()


files = sorted(pathlib.Path(directory).iterdir())
failed = []
for path in files:
    octets = path.read_bytes()
    assert octets.lower().count(b"\r\ndkim-signature:") + octets.lower().startswith(b"dkim-signature:") == 1, path
    if not dkim.verify(octets, dnsfunc=record):
        failed.append(path.name)
assert not failed, f"{len(failed)} of {len(files)} do not verify: {failed[:10]}"
print(len(files), "verified")
