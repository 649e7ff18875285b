//! Events are read back as they were written.

use super::*;

fn sample(kind: EventKind) -> Event<'static> {
    Event {
        kind,
        at: 1_772_460_912_907,
        message_id: MessageId::new(1_772_460_912_000, &[7; 10]),
        recipient_number: 3,
        recipient: "jürgen@example.com",
        server_id: 1,
        server: "app",
        stream: "outbound",
        source: "tx1",
        remote_host: "mx.example.com [192.0.2.1]:25",
        reply: "450 4.2.1 later",
        cause: "greylisted",
        detail: "",
        judged: Judged {
            stage: "rcpt",
            scope: "recipient",
            reaction: "retry",
            rule: "greylisted",
            confidence: 95,
            evidence: Some(8_192),
        },
        attempts: 2,
        next_attempt: Some(1_772_460_972_907),
        mail_position: Some(4_096),
        origin: "Customer",
        since: Some(1_772_460_000_000),
        idempotency: b"\x00\xff claim",
        reverse_path: "b+abc@bounces.example.com",
        tag: "welcome",
        notice: b"Subject: \xff",
        notice_at: Some(8_192),
        dsn: Dsn {
            to: "ada@shop.example",
            notify: "SUCCESS,FAILURE",
            ret: "HDRS",
            envelope_id: "a+2Bb",
            original_recipient: "rfc822;j@example.com",
        },
        notice_of: b"\x01\x02\x03\x04\x05\x06\x07\x08",
    }
}

#[test]
fn every_kind_is_read_back_as_it_was_written() {
    for &kind in EventKind::ALL {
        let mut payload = Vec::new();
        sample(kind).encode(&mut payload);
        assert_eq!(Event::decode(&payload).unwrap().unwrap(), sample(kind));
    }
}

#[test]
fn what_a_check_found_is_read_back_and_long_enough_to_be_erased() {
    for (domain, source) in [("a.b", ""), ("", "t")] {
        let event = CheckEvent {
            kind: EventKind::DomainChanged,
            at: 1,
            domain,
            source,
            detail: "nothing is wrong any more",
        };
        let mut payload = Vec::new();
        event.encode(&mut payload);
        assert!(payload.len() >= PAYLOAD_MIN);
        let read = Event::decode(&payload).unwrap().unwrap();
        assert_eq!((read.source, read.detail), (source, event.detail));
    }
}

#[test]
fn an_event_of_few_words_is_still_long_enough_to_be_erased() {
    let words = "x".repeat(40);
    for len in 0..=40 {
        let event = Event {
            recipient: &words[..len],
            server_id: 0,
            server: "",
            stream: "",
            source: "",
            remote_host: "",
            reply: "",
            cause: "",
            origin: "",
            since: None,
            idempotency: b"",
            judged: Judged::default(),
            reverse_path: "",
            tag: "",
            notice: b"",
            notice_at: None,
            dsn: Dsn::default(),
            notice_of: b"",
            next_attempt: None,
            ..sample(EventKind::Delivered)
        };
        let mut payload = Vec::new();
        event.encode(&mut payload);
        assert!(payload.len() >= PAYLOAD_MIN, "{len}: {}", payload.len());
        let read = Event::decode(&payload).unwrap().unwrap();
        assert_eq!(
            read,
            Event {
                server_id: 0,
                ..event
            }
        );
    }
}

#[test]
fn an_unknown_kind_is_skipped() {
    let record = EventRecord {
        kind: 60_000,
        at_unix_ms: 1,
        message_id: [0; 16],
        recipient_number: 0,
        fields: List::new(&[]),
    };
    let mut payload = Vec::new();
    record.encode(&mut payload).unwrap();
    assert_eq!(Event::decode(&payload).unwrap(), None);
}
