"""Compares what was sent with what a host without 8BITMIME received. Arguments: directory of the one, of the other."""

import email
import email.policy
import pathlib
import sys

sent, received = (pathlib.Path(name) for name in sys.argv[1:3])


def parts(message):
    """Every part: its type, name and, of leaves, its octets."""
    for part in message.walk():
        octets = None if part.is_multipart() else part.get_payload(decode=True)
        yield part.get_content_type(), part.get_filename(), octets


def read(path):
    return email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)


compared = 0
for path in sorted(sent.iterdir()):
    other = received / path.name
    octets = other.read_bytes()
    assert octets.isascii(), path.name
    was, became = read(path), read(other)
    assert list(parts(was)) == list(parts(became)), (path.name, list(parts(was)), list(parts(became)))
    assert was["Subject"] == became["Subject"], path.name
    compared += 1
print(compared, "read as they were")
