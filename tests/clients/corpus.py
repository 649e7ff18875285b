"""A corpus of messages that goes through `/email` and is read again by Python's `email` where it arrives.

corpus.py send URL TOKEN    sends them, numbered in X-Number
corpus.py check DIRECTORY   compares the files there, as they arrived, with what was sent
"""

import base64
import email
import email.policy
import http.client
import json
import pathlib
import random
import sys
import urllib.parse

COUNT = 240
WORDS = ["plain", "Grüße", "日本語のテスト", "😀", "\"quoted\"", "a,b;c", "<tag>", "=?utf-8?", "x" * 90, "back\\slash", "(paren)", "тест", "e\u0301", "a@b.example", "."]
LINES = ["", ".", "..", ".leading dot", "From here", "trailing ", "\ttab", "y" * 1200, "ü" * 400, "--boundary", "=3D", "a\u2028b", "-- ", "<p style=\"color:red\">é</p>"]
FILES = [("a.txt", "text/plain"), ("b.dat", "application/octet-stream"), ("Ärger & Söhne.pdf", "application/pdf"), ("quote\".csv", "text/csv; charset=utf-8"),
         ("x" * 120 + ".png", "image/png"), ("noext", ""), ("mail.eml", "application/octet-stream"), ("日本.ics", "text/calendar; method=REQUEST")]


def text(rng, pool, most, join):
    return join.join(rng.choice(pool) for _ in range(rng.randint(1, most)))


def name(rng):
    return text(rng, [word for word in WORDS if "\\" not in word], 3, " ")


def mailbox(rng, address):
    return address if rng.random() < 0.3 else "\"%s\" <%s>" % (name(rng).replace("\"", "\\\""), address)


def corpus():
    for number in range(COUNT):
        rng = random.Random(number)
        message = {"From": mailbox(rng, "orders@declared.example"), "To": ", ".join(mailbox(rng, f"r{n}@example.com") for n in range(rng.randint(1, 3))),
                   "Subject": text(rng, WORDS, 8, " "), "Headers": [{"Name": "X-Number", "Value": str(number)}, {"Name": "X-Text", "Value": text(rng, WORDS, 5, " ")}]}
        if rng.random() < 0.3:
            message["Cc"] = mailbox(rng, "cc@bücher.example")
        if rng.random() < 0.3:
            message["ReplyTo"] = mailbox(rng, "reply@declared.example")
        kinds = rng.choice([["TextBody"], ["HtmlBody"], ["TextBody", "HtmlBody"]])
        for kind in kinds:
            message[kind] = text(rng, LINES, 12, rng.choice(["\n", "\r\n"]))
        if not any(message[kind] for kind in kinds):
            message[kinds[0]] = "not empty"
        files = []
        for _ in range(rng.choice([0, 0, 1, 3])):
            title, content_type = rng.choice(FILES)
            content = rng.choice([bytes(rng.randrange(256) for _ in range(rng.randint(1, 3000))), text(rng, LINES, 9, "\n").encode() + b"!", b"line\r\n" * 5])
            files.append({"Name": title, "Content": base64.b64encode(content).decode(), "ContentType": content_type,
                          "ContentID": f"cid:part{len(files)}" if rng.random() < 0.3 else None})
        message["Attachments"] = files
        yield number, message


def send(url, token):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
    for number, message in corpus():
        headers = {"X-Postmark-Server-Token": token, "Content-Type": "application/json", "Accept": "application/json"}
        connection.request("POST", "/email", json.dumps(message), headers)
        answer = json.loads(connection.getresponse().read())
        assert answer["Message"] == "OK", (number, answer, message)


def people(field):
    # Python 3.11 puts a space between adjacent encoded words of a name.
    return [("".join(str(address.display_name).split()), address.addr_spec) for address in field.addresses] if field else []


def as_sent(value):
    if not value:
        return []
    # What was written by mailbox(), read back by hand.
    found, rest = [], value
    while rest:
        if rest.startswith("\""):
            end = 1
            while rest[end] != "\"":
                end += 2 if rest[end] == "\\" else 1
            title, rest = rest[1:end].replace("\\\"", "\""), rest[end + 1:].lstrip()
            address, _, rest = rest[1:].partition(">")
        else:
            title, (address, _, rest) = "", (rest if "," in rest else rest + ",").partition(",")
            rest = "," + rest if rest else ""
        found.append(("".join(title.split()), address.replace("bücher", "xn--bcher-kva")))
        rest = rest.lstrip(", ")
    return found


def lines(value):
    return value.replace("\r\n", "\n").rstrip("\n")


def words(value):
    return str(value).split()


def check(directory):
    arrived = {}
    for path in pathlib.Path(directory).iterdir():
        octets = path.read_bytes()
        assert octets.isascii() and all(len(line) <= 998 for line in octets.split(b"\r\n")), path
        assert octets.count(b"\n") == octets.count(b"\r\n") == octets.count(b"\r"), path
        message = email.message_from_bytes(octets, policy=email.policy.default)
        arrived[int(message["X-Number"])] = message
    for number, sent in corpus():
        message = arrived.pop(number)
        for field, key in [("From", "From"), ("To", "To"), ("Cc", "Cc"), ("Reply-To", "ReplyTo")]:
            assert people(message[field]) == as_sent(sent.get(key)), (number, field, people(message[field]), as_sent(sent.get(key)))
        # Python decodes what looks like an encoded word, as every reader does.
        if "=?" not in sent["Subject"]:
            assert words(message["Subject"]) == words(sent["Subject"]), (number, message["Subject"], sent["Subject"])
        if "=?" not in sent["Headers"][1]["Value"]:
            assert words(message["X-Text"]) == words(sent["Headers"][1]["Value"]), (number, message["X-Text"])
        for key, kind in [("TextBody", "plain"), ("HtmlBody", "html")]:
            if sent.get(key):
                body = message.get_body((kind,))
                assert lines(body.get_content()) == lines(sent[key]), (number, key, body.get_content(), sent[key])
        parts = [part for part in message.walk() if part.get_content_disposition() in ("attachment", "inline")]
        wanted = {(file["Name"], base64.b64decode(file["Content"])) for file in sent["Attachments"]}
        found = set()
        for part in parts:
            content = part.get_payload(decode=True)
            found.add((part.get_filename(), content))
        assert found == wanted, (number, {n for n, _ in found ^ wanted})
    assert not arrived, arrived.keys()


if sys.argv[1] == "send":
    send(*sys.argv[2:])
else:
    check(sys.argv[2])
