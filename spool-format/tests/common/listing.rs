//! A segment as text: the form of the `.txt` beside each golden file, which `read_spool.py` prints too.

use std::fmt::Write;

use spool_format::layout::{content, void};
use spool_format::scan::Item;
use spool_format::*;

/// The segment judged as the last of its log.
pub fn listing(bytes: &[u8]) -> String {
    let header = SegmentHeader::decode(bytes).unwrap();
    let log = match header.kind {
        LogKind::Mail => "mail",
        LogKind::Event => "event",
    };
    let tail = scan::tail(bytes, &header);
    let mut out = String::new();
    writeln!(
        out,
        "segment log={log} number={} first_position={} size={} epoch={} created={} previous_end={} salt={}",
        header.number,
        header.first_position,
        header.size,
        header.epoch,
        header.created_unix_ms,
        header.previous_end,
        hex(&header.salt)
    )
    .unwrap();
    writeln!(
        out,
        "tail durable_end={} last_batch={} sealed={} uncommitted={} uncommitted_end={}",
        tail.durable_end,
        tail.last_batch,
        u8::from(tail.sealed),
        tail.uncommitted,
        tail.uncommitted_end
    )
    .unwrap();
    for item in tail.items() {
        match item {
            Item::Record(frame) => record(&mut out, &frame, &header),
            Item::Damage(damage) => {
                let word = if damage.acknowledged {
                    "acknowledged"
                } else {
                    "in-doubt"
                };
                let (offset, len) = (damage.offset, damage.len);
                writeln!(
                    out,
                    "{offset} DAMAGE len={len} reason={} {word}",
                    damage.reason.as_str()
                )
                .unwrap();
            }
        }
    }
    out
}

fn record(out: &mut String, frame: &Frame<'_>, header: &SegmentHeader) {
    let name = match frame.kind {
        kind::PADDING => "PADDING",
        kind::COMMIT => "COMMIT",
        kind::MESSAGE => "MESSAGE",
        kind::CONTENT => "CONTENT",
        kind::EVENT => "EVENT",
        kind::ERASED => "ERASED",
        kind::VOID => "VOID",
        _ => "OTHER",
    };
    let (offset, kind, flags, len) = (frame.offset, frame.kind, frame.flags, frame.record_len);
    writeln!(
        out,
        "{offset} {name} kind={kind} flags={flags} len={len} crc={:08x}",
        frame.crc
    )
    .unwrap();
    let payload = frame.payload;
    match kind {
        kind::COMMIT => {
            let commit = CommitRecord::decode(payload, offset, header.seed()).unwrap();
            let CommitRecord {
                from,
                to,
                count,
                running_hash,
            } = commit;
            writeln!(
                out,
                "  from={from} to={to} count={count} hash={running_hash:016x}"
            )
            .unwrap();
        }
        kind::MESSAGE => message(out, &MessageRecord::decode(payload).unwrap()),
        kind::CONTENT => {
            let piece = ContentRecord::decode(payload).unwrap();
            assert_eq!(payload.len() - piece.octets.len(), content::OCTETS);
            let (id, number) = (hex(&piece.message_id), piece.number);
            writeln!(
                out,
                "  message={id} number={number} {}",
                octets(piece.octets)
            )
            .unwrap();
        }
        kind::EVENT => {
            let event = EventRecord::decode(payload).unwrap();
            let id = hex(&event.message_id);
            let (kind, at, number) = (event.kind, event.at_unix_ms, event.recipient_number);
            writeln!(
                out,
                "  event={kind} at={at} message={id} recipient={number}"
            )
            .unwrap();
            fields(out, "  ", event.fields);
        }
        kind::ERASED => {
            let old = ErasedRecord::decode(payload).unwrap();
            let digest = hex(&old.digest);
            writeln!(
                out,
                "  was kind={} crc={:08x} digest={digest}",
                old.kind, old.crc
            )
            .unwrap();
            kept(out, &old);
        }
        kind::VOID => {
            let range = VoidRecord::decode(payload).unwrap();
            assert_eq!(payload.len(), void::LEN);
            writeln!(out, "  from={} to={}", range.from, range.to).unwrap();
        }
        _ => {}
    }
}

/// What an erased record keeps of its payload.
fn kept(out: &mut String, old: &ErasedRecord<'_>) {
    if let Some(event) = old.event() {
        let id = hex(&event.message_id);
        let (kind, at, number) = (event.kind, event.at_unix_ms, event.recipient_number);
        writeln!(
            out,
            "  event={kind} at={at} message={id} recipient={number}"
        )
        .unwrap();
    } else if let Some(message) = old.message() {
        writeln!(
            out,
            "  id={} accepted={} server={} recipients={} kind={} header={} content={}",
            hex(&message.id),
            message.accepted_unix_ms,
            message.server_id,
            message.recipients,
            message.stream_kind as u8,
            message.header_len,
            message.content_len
        )
        .unwrap();
    } else if let Some(id) = old.message_id() {
        writeln!(out, "  message={}", hex(&id)).unwrap();
    }
}

fn message(out: &mut String, record: &MessageRecord<'_>) {
    writeln!(
        out,
        "  id={} accepted={} server={} {} stream={} kind={} pool={} flags={}",
        hex(&record.id),
        record.accepted_unix_ms,
        record.server_id,
        quote(record.server_name),
        quote(record.stream_id),
        record.stream_kind as u8,
        quote(record.pool),
        record.flags
    )
    .unwrap();
    let (from, tag) = (
        quote(record.reverse_path),
        quote(record.tag.unwrap_or_default()),
    );
    let (header_len, len) = (record.header_len, record.content.len());
    writeln!(
        out,
        "  from={from} tag={tag} header={header_len} content={len}"
    )
    .unwrap();
    for recipient in record.recipients {
        let (path, domain) = (quote(recipient.forward_path), quote(recipient.domain));
        writeln!(out, "  to={path} domain={domain}").unwrap();
        fields(out, "    ", recipient.fields);
    }
    for (key, value) in record.metadata {
        writeln!(out, "  metadata {}={}", quote(key), quote(value)).unwrap();
    }
    fields(out, "  ", record.fields);
    match record.content {
        Content::Inline(content) => writeln!(out, "  inline {}", octets(content)).unwrap(),
        Content::Records(parts) => parts.iter().for_each(|part| {
            writeln!(out, "  part position={} len={}", part.position, part.len).unwrap()
        }),
    }
}

fn fields(out: &mut String, indent: &str, fields: Fields<'_>) {
    for field in fields {
        writeln!(
            out,
            "{indent}field {}={}",
            field.tag,
            quote_bytes(field.bytes)
        )
        .unwrap();
    }
}

fn octets(bytes: &[u8]) -> String {
    format!("octets={} crc={:08x}", bytes.len(), crc32c::crc32c(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn quote(text: &str) -> String {
    quote_bytes(text.as_bytes())
}

/// Printable ASCII as it is, every other byte, quotes and backslashes as `\xNN`.
fn quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => write!(out, "\\x{byte:02x}").unwrap(),
            b' '..=b'~' => out.push(byte.into()),
            _ => write!(out, "\\x{byte:02x}").unwrap(),
        }
    }
    out.push('"');
    out
}
