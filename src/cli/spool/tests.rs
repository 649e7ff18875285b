//! What `spool` commands print of records, sound and broken.

use spool_format::layout::message_flag;
use spool_format::{Content, ContentPart, ContentRecord, List, Recipient, StreamKind};

use super::show::shown_message;
use super::verify::Checks;
use super::*;

const ID: [u8; 16] = [5; 16];

fn message(content: Content<'_>) -> Vec<u8> {
    let recipients = [Recipient {
        forward_path: "a@example.com",
        domain: "example.com",
        fields: List::new(&[]),
    }];
    let record = MessageRecord {
        id: ID,
        accepted_unix_ms: 1_772_460_912_907,
        server_id: 1,
        server_name: "app",
        stream_id: "outbound",
        stream_kind: StreamKind::Transactional,
        pool: "tx",
        reverse_path: "bounce@example.com",
        recipients: List::new(&recipients),
        tag: Some("welcome"),
        metadata: List::new(&[("key", "value")]),
        flags: message_flag::EIGHT_BIT,
        header_len: 2,
        fields: List::new(&[]),
        content,
    };
    let mut payload = Vec::new();
    record.encode_head(&mut payload).unwrap();
    if let Content::Inline(bytes) = content {
        payload.extend_from_slice(bytes);
    }
    payload
}

#[test]
fn a_message_whose_content_is_gone_or_another_s_is_a_finding() {
    let part = ContentPart {
        position: 4096,
        len: 3,
    };
    let parts = [part];
    let payload = message(Content::Records(List::new(&parts)));
    let content = |id: [u8; 16]| {
        let mut payload = ContentRecord::head(id, 0).to_vec();
        payload.extend_from_slice(b"abc");
        payload
    };
    for (id, findings) in [(Some(ID), 0), (Some([6; 16]), 1), (None, 1)] {
        let mut checks = Checks::default();
        if let Some(id) = id {
            checks.record(4096, kind::CONTENT, &content(id));
        }
        checks.record(8192, kind::MESSAGE, &payload);
        assert_eq!(checks.findings.len(), findings, "{id:?}");
    }
}

#[test]
fn records_of_later_versions_are_kept_and_broken_ones_reported() {
    let mut checks = Checks::default();
    checks.record(4096, 200, b"anything");
    assert!(checks.findings.is_empty());
    checks.record(4096, kind::MESSAGE, b"short");
    checks.record(8192, kind::EVENT, b"short");
    assert_eq!(checks.findings.len(), 2);
    assert!(checks.findings.iter().all(|f| f.acknowledged));
}

#[test]
fn a_message_is_shown_with_the_names_that_scripts_rely_on() {
    let payload = message(Content::Inline(b"\r\nbody"));
    let record = MessageRecord::decode(&payload).unwrap();
    let shown = serde_json::to_value(shown_message(4096, &record)).unwrap();
    for (key, value) in [
        ("message_id", "05050505-0505-0505-0505-050505050505"),
        ("at", "2026-03-02T14:15:12.907Z"),
        ("server", "app"),
        ("stream", "outbound"),
        ("stream_type", "transactional"),
        ("pool", "tx"),
        ("reverse_path", "bounce@example.com"),
        ("tag", "welcome"),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert_eq!(shown["content_bytes"], 6);
    assert_eq!(shown["metadata"]["key"], "value");
    assert_eq!(shown["envelope_recipients"][0]["state"], "live");
}
