#!/usr/bin/env python3
"""An independent reader of the spool's files, written from FORMAT.md alone; standard library only.

    read_spool.py list FILE      what a segment (judged as the last one of its log), an archive, a checkpoint, a redo
                                 journal or the file of digests holds
    read_spool.py verify FILE    the damage only
    read_spool.py digest FILE    the digest of a sealed segment, and of how many records

Archived records are listed where this Python has compression.zstd (3.14); index and checksums are read everywhere.
Exit code: 0 whole, 1 damage, 2 not a file that this reader can read.
"""

import hashlib
import struct
import sys

try:
    from compression import zstd
except ImportError:
    zstd = None

PAGE = 4096
MAGIC = bytes.fromhex("89504853 0D0A1A0A".replace(" ", ""))
NAMES = {1: "PADDING", 2: "COMMIT", 3: "MESSAGE", 4: "CONTENT", 5: "EVENT", 6: "ERASED", 7: "VOID"}
MASK = (1 << 64) - 1


def crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc_table()


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


class Unreadable(Exception):
    """Not a segment, or one of a later version."""


class Malformed(Exception):
    """A payload that is not what its kind says."""


def page_up(offset):
    return -(-offset // PAGE) * PAGE


class Header:
    def __init__(self, copy):  # FORMAT.md §3
        if len(copy) < 2048 or copy[:8] != MAGIC:
            raise Unreadable("not a spool segment")
        (crc,) = struct.unpack_from("<I", copy, 12)
        if crc32c(copy[16:2048], crc32c(copy[:12])) != crc:
            raise Unreadable("checksum of the header")
        version, self.kind = struct.unpack_from("<HB", copy, 8)
        if version != 1:
            raise Unreadable(f"format version {version}")
        (self.number, self.first_position, self.size, self.epoch, self.created,
         self.previous_end) = struct.unpack_from("<6Q", copy, 16)
        self.salt = bytes(copy[64:80])
        (features,) = struct.unpack_from("<I", copy, 80)
        if features:
            raise Unreadable(f"features {features:#x}")
        if self.kind not in (1, 2):
            raise Unreadable(f"log kind {self.kind}")
        if self.size % PAGE or not 1 << 14 <= self.size <= 1 << 30:
            raise Unreadable(f"size {self.size}")
        if self.first_position % PAGE or self.first_position + self.size > 1 << 53:
            raise Unreadable(f"first position {self.first_position}")
        if self.previous_end % PAGE or self.previous_end > self.first_position:
            raise Unreadable(f"previous end {self.previous_end}")
        self.seed = crc32c(self.salt + struct.pack("<Q", self.number))


class Record:
    def __init__(self, offset, length, crc, kind, flags, payload):
        self.offset, self.length, self.crc = offset, length, crc
        self.kind, self.flags, self.payload = kind, flags, payload

    @property
    def end(self):
        return self.offset + -(-self.length // 8) * 8


class Damage:
    def __init__(self, offset, end, reason):
        self.offset, self.end, self.reason = offset, end, reason


class Segment:
    def __init__(self, data):
        if len(data) < PAGE:
            raise Unreadable("shorter than a header page")
        copies = data[:2048], data[2048:PAGE]
        self.header_whole = copies[0] == copies[1]
        try:
            self.header = Header(copies[0])
        except Unreadable as error:
            self.header_whole = False
            try:
                self.header = Header(copies[1])
            except Unreadable:
                raise error from None
        self.data = data[: self.header.size]

    def read(self, offset, end):
        """The record at `offset`, or why there is none (FORMAT.md §4)."""
        if offset + 4 > end:
            return "cut"
        (length,) = struct.unpack_from("<I", self.data, offset)
        if length == 0 or (length < 16 and length != 8):
            return "length"
        padded = -(-length // 8) * 8
        if offset + padded > end:
            return "cut"
        (crc,) = struct.unpack_from("<I", self.data, offset + 4)
        state = crc32c(struct.pack("<QI", offset, length), self.header.seed)
        if crc32c(self.data[offset + 8 : offset + padded], state) != crc:
            return "checksum"
        if length == 8:
            return Record(offset, 8, crc, 1, 0, b"")
        kind, flags = self.data[offset + 8], self.data[offset + 9]
        return Record(offset, length, crc, kind, flags, self.data[offset + 16 : offset + length])

    def commit(self, record):
        """FROM, TO, COUNT, RUNNING_HASH of a commit record, or None (FORMAT.md §5.2)."""
        if len(record.payload) < 40:
            return None
        start, to, running, mark, count = struct.unpack_from("<QQQ8sI", record.payload)
        right = to == record.offset and PAGE <= start <= to and start % PAGE == 0
        return (start, to, count, running) if right and mark == self.header.salt[8:] else None

    def last_commit(self):
        offset = (len(self.data) - 56) // 8 * 8
        while offset >= PAGE:
            if self.data[offset : offset + 4] == b"\x38\0\0\0" and self.data[offset + 8] == 2:
                record = self.read(offset, len(self.data))
                if isinstance(record, Record):
                    commit = self.commit(record)
                    if commit:
                        return record, commit
            offset -= 8
        return None

    def items(self, end):
        """Records and damage from the first page to `end` (FORMAT.md §7.2)."""
        if not self.header_whole:
            yield Damage(0, PAGE, "header")
        limit = min(end, len(self.data))
        batch, count, damaged = PAGE, 0, False
        (running,) = struct.unpack_from("<Q", self.header.salt)
        offset = PAGE
        while offset < end:
            record = self.read(offset, limit) if offset < limit else "cut"
            if isinstance(record, str):
                start, reason = offset, record
                offset = self.next_record(start + 8, limit, end)
                damaged = damaged or offset > batch
                yield Damage(start, offset, reason)
                continue
            offset = record.end
            if record.kind != 2:
                if record.offset >= batch:
                    count += 1
                    crc = record.crc
                    if record.kind == 6 and len(record.payload) >= 40:
                        (crc,) = struct.unpack_from("<I", record.payload)
                    running = ((running ^ (record.length << 32 | crc)) * 0x9E3779B97F4A7C15) & MASK
                    running ^= running >> 32
                yield record
                continue
            commit = self.commit(record)
            agrees = commit and (damaged or (commit[0], commit[2], commit[3]) == (batch, count, running))
            if commit:
                running = commit[3]
            batch, count, damaged = page_up(record.end), 0, False
            yield record if agrees else Damage(record.offset, record.end, "commit")

    def next_record(self, offset, limit, end):
        while offset < limit:
            if self.data[offset + 10 : offset + 16] == bytes(6):
                record = self.read(offset, limit)
                if isinstance(record, Record) and record.length >= 16:
                    return offset
            offset += 8
        return end


class Bytes:
    """Takes a payload apart from the front."""

    def __init__(self, data):
        self.data = data

    def take(self, length):
        if length > len(self.data):
            raise Malformed
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def numbers(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))


def quote(data):
    keep = set(range(0x20, 0x7F)) - set(b'"\\')
    return '"' + "".join(chr(b) if b in keep else f"\\x{b:02x}" for b in data) + '"'


def text(data):
    data.decode("utf-8")
    return quote(data)


def fields(data, indent):
    rest = Bytes(data)
    while rest.data:
        tag, length = rest.numbers("<HI")
        yield f"{indent}field {tag}={quote(rest.take(length))}"


def octets(data):
    return f"octets={len(data)} crc={crc32c(data):08x}"


def message(payload):  # FORMAT.md §5.3
    rest = Bytes(payload)
    (ident, accepted, content_len, server, flags, header_len, recipients, stream_kind, form) = rest.numbers("<16sQQIIIHBB")
    text_lens = rest.numbers("<5H")
    _, recipients_len, metadata_len, fields_len = rest.numbers("<HIII")
    name, stream, pool, reverse_path, tag = (text(rest.take(length)) for length in text_lens)
    if stream_kind not in (1, 2, 3) or header_len > content_len:
        raise Malformed
    yield f"  id={ident.hex()} accepted={accepted} server={server} {name} stream={stream} kind={stream_kind} pool={pool} flags={flags}"
    yield f"  from={reverse_path} tag={tag} header={header_len} content={content_len}"
    table = Bytes(rest.take(recipients_len))
    while table.data:
        path_len, domain_len, length = table.numbers("<HHI")
        path, domain = text(table.take(path_len)), text(table.take(domain_len))
        yield f"  to={path} domain={domain}"
        yield from fields(table.take(length), "    ")
        recipients -= 1
    if recipients != 0:
        raise Malformed
    table = Bytes(rest.take(metadata_len))
    while table.data:
        key_len, value_len = table.numbers("<HH")
        key, value = text(table.take(key_len)), text(table.take(value_len))
        yield f"  metadata {key}={value}"
    yield from fields(rest.take(fields_len), "  ")
    if form == 1:
        yield f"  inline {octets(rest.data)}"
        content_len -= len(rest.data)
    elif form == 2:
        while rest.data:
            position, length = rest.numbers("<QI")
            yield f"  part position={position} len={length}"
            content_len -= length
    else:
        raise Malformed
    if content_len != 0:
        raise Malformed


def kept(kind, rest):  # FORMAT.md §5.6
    length = {3: 72, 4: 24, 5: 32}.get(kind)
    if length is None or len(rest.data) < length or not any(rest.data[:length]):
        return
    fixed = Bytes(rest.take(length))
    if kind == 3:
        (ident, accepted, content_len, server, _, header_len, recipients, stream_kind, _) = fixed.numbers("<16sQQIIIHBB")
        if stream_kind in (1, 2, 3):
            yield (f"  id={ident.hex()} accepted={accepted} server={server} recipients={recipients} kind={stream_kind} "
                   f"header={header_len} content={content_len}")
    elif kind == 4:
        yield f"  message={fixed.take(16).hex()}"
    else:
        kind, number, _, at, ident = fixed.numbers("<HHIQ16s")
        yield f"  event={kind} at={at} message={ident.hex()} recipient={number}"


def details(segment, record):
    rest = Bytes(record.payload)
    if record.kind == 2:
        start, to, count, running = segment.commit(record)
        yield f"  from={start} to={to} count={count} hash={running:016x}"
    elif record.kind == 3:
        yield from message(record.payload)
    elif record.kind == 4:
        ident, number, _ = rest.numbers("<16sII")
        yield f"  message={ident.hex()} number={number} {octets(rest.data)}"
    elif record.kind == 5:
        kind, number, _, at, ident = rest.numbers("<HHIQ16s")
        yield f"  event={kind} at={at} message={ident.hex()} recipient={number}"
        yield from fields(rest.data, "  ")
    elif record.kind == 6:
        crc, kind, _, digest = rest.numbers("<IB3s32s")
        yield f"  was kind={kind} crc={crc:08x} digest={digest.hex()}"
        yield from kept(kind, rest)
    elif record.kind == 7:
        start, to = rest.numbers("<QQ")
        yield f"  from={start} to={to}"


class Archive:  # FORMAT.md §11
    MAGIC = bytes.fromhex("895048410D0A1A0A")
    FRAME = 262_144

    def __init__(self, data):
        if len(data) < 2064 + 76 or data[-8:] != self.MAGIC or data[:8] != self.MAGIC:
            raise Unreadable("no archive")
        footer = data[-76:]
        (self.raw_len, self.tables, self.frames, self.streams, self.owners, self.records, self.oldest, self.youngest,
         self.archived, tables_crc, version, _, crc) = struct.unpack_from("<QQIIIIQQQIHHI", footer)
        if crc32c(footer[:64]) != crc:
            raise Unreadable("checksum of the footer")
        if version != 1:
            raise Unreadable(f"format version {version}")
        if not 2064 <= self.tables <= len(data) - 76 or self.frames != -(-self.raw_len // self.FRAME):
            raise Unreadable("footer")
        self.data, self.rest = data, Bytes(data[self.tables : -76])
        if crc32c(self.rest.data) != tables_crc:
            raise Unreadable("checksum of the tables")
        self.header = Header(data[16:2064])

    def show(self, listing):
        def say(text):
            if listing:
                print(text)

        header, findings, raw = self.header, 0, bytearray()
        log = {1: "mail", 2: "event"}[header.kind]
        say(f"archive log={log} number={header.number} first_position={header.first_position} raw_len={self.raw_len} "
            f"records={self.records} oldest={self.oldest} youngest={self.youngest} archived={self.archived}")
        expected = 2064
        for number in range(self.frames):
            offset, length, crc = self.rest.numbers("<QII")
            frame = self.data[offset : offset + length]
            if offset != expected or offset + length > self.tables:
                raise Unreadable("table of frames")
            expected = offset + length
            sound = crc32c(frame) == crc
            say(f"frame {number} offset={offset} len={length} crc={crc:08x}")
            if not sound:
                findings += 1
                print(f"frame {number} DAMAGE")
            if zstd:
                wanted = min(self.FRAME, self.raw_len - number * self.FRAME)
                part = zstd.decompress(frame) if sound else b""
                raw += part.ljust(wanted, b"\0")
        if expected != self.tables:
            raise Unreadable("table of frames")
        for number in range(self.streams):
            server, records, oldest, youngest, length = self.rest.numbers("<IIQQH")
            name = text(self.rest.take(length))
            say(f"stream {number} server={server} {name} records={records} oldest={oldest} youngest={youngest}")
        for _ in range(self.owners):
            ident, stream = self.rest.numbers("<16sI")
            if stream >= self.streams:
                raise Unreadable("table of owners")
            say(f"owner message={ident.hex()} stream={stream}")
        if self.rest.data:
            raise Unreadable("tables")
        if zstd:
            findings += show(Segment(bytes(raw)), self.raw_len, self.raw_len, listing)
        return 1 if findings else 0


class Checkpoint:  # FORMAT.md §10
    MAGIC = bytes.fromhex("895048430D0A1A0A")

    def __init__(self, data):
        header = data[:128]
        if len(header) < 128 or crc32c(header[16:], crc32c(header[:12])) != struct.unpack_from("<I", header, 12)[0]:
            raise Unreadable("checksum of the checkpoint's header")
        version, self.form = struct.unpack_from("<HB", header, 8)
        if version != 1:
            raise Unreadable(f"format version {version}")
        self.number, self.base, self.mail_from, self.mail_to, self.event_to, self.created = struct.unpack_from("<6Q", header, 16)
        (features,) = struct.unpack_from("<I", header, 80)
        if features or self.form not in (1, 2):
            raise Unreadable("features or form of the checkpoint")
        self.data, self.salt = data, header[64:80]
        self.origins, self.domains = [], []
        self.messages = self.recipients = self.copies = 0

    def blocks(self):
        offset = 128
        while offset < len(self.data):
            length, crc, kind = struct.unpack_from("<IIB", self.data, offset)
            end = offset + 16 + length
            front = self.salt + struct.pack("<QQI", self.number, offset, length)
            if end > len(self.data) or crc32c(self.data[offset + 8 : end], crc32c(front)) != crc:
                raise Unreadable(f"block at {offset}")
            yield kind, offset, Bytes(self.data[offset + 16 : end])
            offset = end

    @staticmethod
    def number_of(rest):
        value = 0
        for place in range(10):
            (byte,) = rest.take(1)
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if value >> 64 or (place and not byte):
                    break
                return value
        raise Malformed

    @classmethod
    def difference(cls, rest, base):
        value = cls.number_of(rest)
        return (base + ((value >> 1) ^ -(value & 1))) & MASK

    def show(self, listing):
        def say(line):
            if listing:
                print(line)

        say(f"checkpoint form={self.form} number={self.number} base={self.base} mail={self.mail_from}..{self.mail_to} "
            f"event={self.event_to} created={self.created}")
        kinds = []
        for kind, offset, rest in self.blocks():
            kinds.append(kind)
            if kind == 1:
                for log in ("mail", "event"):
                    for _ in range(self.number_of(rest)):
                        say(f"gap {log} {self.number_of(rest)}..{self.number_of(rest)}")
            elif kind == 2:
                before = (0, 0)
                while rest.data:
                    before, lines = self.entry(rest, before)
                    say("\n".join(lines))
            elif kind == 3:
                if rest.numbers("<4Q") != (self.messages, self.recipients, self.copies, offset):
                    raise Unreadable("the end does not agree")
                for _ in range(self.number_of(rest)):
                    (stream_kind,) = rest.take(1)
                    say(f"pool kind={stream_kind} {text(rest.take(self.number_of(rest)))}")
            if rest.data:
                raise Malformed
        if kinds[:1] != [1] or kinds[-1:] != [3] or set(kinds[1:-1]) - {2}:
            raise Unreadable("blocks of the checkpoint")
        say(f"end messages={self.messages} recipients={self.recipients} copies={self.copies}")
        return 0

    def entry(self, rest, before):
        (flags,) = rest.take(1)
        position, accepted = self.difference(rest, before[0]), self.difference(rest, before[1])
        ident = self.difference(rest, accepted)
        if ident >> 48:
            raise Malformed
        ident = ident.to_bytes(6, "big") + rest.take(10)
        length = self.number_of(rest)
        deadline, release = (self.difference(rest, accepted) if flags & flag else 0 for flag in (16, 32))
        tag = self.number_of(rest) if flags & 64 else flags >> 7
        if tag >= 2048 or flags >> 6 == 3 or (flags & 64 and tag < 2):
            raise Malformed
        if flags & 8:
            server, kind = rest.numbers("<IB")
            texts = [text(rest.take(*rest.numbers("<H"))) for _ in range(3)]
            self.origins.append(f"server={server} {texts[0]} stream={texts[1]} kind={kind} pool={texts[2]}")
            origin = self.origins[-1]
        else:
            origin = self.origins[self.number_of(rest)]
        lines = [f"message id={ident.hex()} position={position} accepted={accepted} content={length} flags={flags & 1} "
                 f"deadline={deadline} release={release} tag={tag} {origin}"]
        count, number = (self.number_of(rest), 0) if flags & 4 else (1, 0)
        for _ in range(count):
            number += self.number_of(rest) if flags & 4 else 0
            word = self.number_of(rest)
            if word & 1:
                self.domains.append(text(rest.take(self.number_of(rest))))
                domain = self.domains[-1]
            else:
                domain = self.domains[word >> 4]
            attempts, at = 0, 0
            if word & 8:
                attempts, at = self.number_of(rest), self.difference(rest, accepted)
            lines.append(f"  recipient {number} {domain} announced={int(not word & 2)} refused={int(bool(word & 4))} "
                         f"attempts={attempts & 0xFFFF} ambiguous={attempts >> 16} next_attempt={at}")
        part = position
        for _ in range(self.number_of(rest) if flags & 2 else 0):
            part = self.difference(rest, part)
            lines.append(f"  part position={part}")
        self.messages, self.recipients, self.copies = (
            self.messages + 1, self.recipients + count, self.copies + (flags & 1))
        return (position, accepted), lines


class Journal:  # FORMAT.md §12
    MAGIC = bytes.fromhex("895048520D0A1A0A")

    def __init__(self, data):
        version, _, self.entries, self.created, crc = struct.unpack_from("<HHIQI", data, 8)
        if crc32c(data[28:], crc32c(data[:24])) != crc:
            raise Unreadable("checksum of the journal")
        if version != 1 or len(data) != 28 + 152 * self.entries:
            raise Unreadable("journal")
        self.rest = Bytes(data[28:])

    def show(self, listing):
        if listing:
            print(f"journal entries={self.entries} created={self.created}")
        for _ in range(self.entries):
            (log, kind, flags, _, length, segment, offset, salt, crc, fixed_len, digest, fixed) = self.rest.numbers(
                "<BBBBIQQ16sII32s72s")
            if log not in (1, 2) or fixed_len != {3: 72, 4: 24, 5: 32}.get(kind, fixed_len) or any(fixed[fixed_len:]):
                raise Unreadable("entry of the journal")
            if listing:
                print(f"erase log={ {1: 'mail', 2: 'event'}[log] } segment={segment} offset={offset} kind={kind} flags={flags} "
                      f"len={length} crc={crc:08x} salt={salt.hex()} digest={digest.hex()}")
        return 0


class Digests:  # FORMAT.md §14
    MAGIC = bytes.fromhex("895048440D0A1A0A")

    def __init__(self, data):
        (version,) = struct.unpack_from("<H", data, 8)
        if version != 1:
            raise Unreadable(f"format version {version}")
        self.entries = [data[at : at + 128] for at in range(16, len(data) - 127, 128)]

    def show(self, listing):
        before, findings, torn = bytes(32), 0, 0
        for entry in self.entries:
            log, crc, number, first, end, salt, written, records, _, digest, chain = struct.unpack("<B3xIQQQ16sQII32s32s", entry)
            if crc32c(entry[8:], crc32c(entry[:4])) != crc:
                torn += 1
                continue
            findings, torn = findings + torn, 0
            follows = hashlib.sha256(before + entry[:1] + entry[8:96]).digest() == chain
            findings, before = findings + (not follows), chain
            if listing:
                print(f"digest log={ {1: 'mail', 2: 'event'}[log] } segment={number} first_position={first} end={end} "
                      f"salt={salt.hex()} written={written} records={records} digest={digest.hex()} follows={int(follows)}")
        return 1 if findings else 0


def digest_of(segment):  # FORMAT.md §14, of a sealed segment
    whole, count = hashlib.sha256(), 0
    for item in segment.items(segment.header.size):
        if isinstance(item, Damage):
            continue
        kept = item.payload[8:40] if item.kind == 6 else bytes(32)
        whole.update(kept if any(kept) else hashlib.sha256(segment.data[item.offset : item.end]).digest())
        count += 1
    print(f"{whole.hexdigest()} {count}")
    return 0


def show(segment, durable_end, last_batch, listing):
    """The items of a segment up to its end; the number of findings."""
    findings = 0
    for item in segment.items(durable_end):
        if isinstance(item, Damage):
            findings += 1
            doubt = "acknowledged" if item.offset < last_batch else "in-doubt"
            print(f"{item.offset} DAMAGE len={item.end - item.offset} reason={item.reason} {doubt}")
            continue
        name = NAMES.get(item.kind, "OTHER")
        line = f"{item.offset} {name} kind={item.kind} flags={item.flags} len={item.length} crc={item.crc:08x}"
        try:
            lines = [line, *details(segment, item)]
        except (Malformed, UnicodeDecodeError):
            findings += 1
            lines = [line, "  MALFORMED"]
        if listing or lines[-1] == "  MALFORMED":
            print("\n".join(lines))
    return findings


def show_segment(data, listing):
    segment = Segment(data)
    header = segment.header
    is_cut = len(segment.data) < header.size
    last = None if is_cut else segment.last_commit()
    durable_end, last_batch, sealed = PAGE, PAGE, 0
    if is_cut:
        durable_end, last_batch, sealed = header.size, header.size, 1
    elif last:
        record, commit = last
        durable_end, last_batch = page_up(record.end), commit[0]
        sealed = int(record.flags & 1 or durable_end == header.size)
    uncommitted, uncommitted_end = 0, durable_end
    while isinstance(record := segment.read(uncommitted_end, len(segment.data)), Record):
        uncommitted, uncommitted_end = uncommitted + 1, record.end
    if listing:
        log = {1: "mail", 2: "event"}[header.kind]
        print(f"segment log={log} number={header.number} first_position={header.first_position} size={header.size} "
              f"epoch={header.epoch} created={header.created} previous_end={header.previous_end} salt={header.salt.hex()}")
        print(f"tail durable_end={durable_end} last_batch={last_batch} sealed={sealed} uncommitted={uncommitted} "
              f"uncommitted_end={uncommitted_end}")
    return 1 if show(segment, durable_end, last_batch, listing) else 0


def main(command, path):
    with open(path, "rb") as file:
        data = file.read()
    listing = command == "list"
    if command == "digest":
        return digest_of(Segment(data))
    for kind in (Archive, Checkpoint, Journal, Digests):
        if data[:8] == kind.MAGIC:
            try:
                return kind(data).show(listing)
            except (Malformed, struct.error, UnicodeDecodeError) as error:
                raise Unreadable(f"malformed: {error}") from error
    return show_segment(data, listing)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("list", "verify", "digest"):
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1], sys.argv[2]))
    except Unreadable as error:
        print(f"{sys.argv[2]}: {error}", file=sys.stderr)
        sys.exit(2)
