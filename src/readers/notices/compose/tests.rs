//! Notices are read back with a parser of messages, whatever is in them.

use mail_parser::{MessageParser, MimeHeaders, PartType};

use super::*;
use crate::mail::MessageId;

fn person(recipient: &str, cause: &'static str, reply: &str, detail: &str) -> Person {
    Person {
        event: 8_192,
        number: 0,
        recipient: recipient.into(),
        original: String::new(),
        cause,
        remote: match reply {
            "" => String::new(),
            _ => "mx.example.net [192.0.2.1]:25".into(),
        },
        reply: reply.into(),
        detail: detail.into(),
        attempted_at: Some(1_772_460_912_000),
        retry_until: None,
        deferred: 0,
    }
}

fn notice(what: What, people: Vec<Person>) -> Notice {
    Notice {
        what,
        since: 1_772_460_912_000,
        message: MessageId::new(1_772_460_900_000, &[7; 10]),
        server: 1,
        to: "ada@shop.example".into(),
        envelope_id: "QQ+2B314".into(),
        wants_all: false,
        arrival: 1_772_460_900_000,
        record_at: None,
        people,
    }
}

const HEADER: &[u8] =
    b"From: ada@shop.example\r\nSubject: Order\r\nMessage-ID: <1@shop.example>\r\n\r\n";

/// The part at this place, decoded.
fn part(octets: &[u8], index: u32) -> (String, String) {
    let message = MessageParser::default().parse(octets).unwrap();
    let part = message.parts.get(index as usize).unwrap();
    let kind = part.content_type().unwrap();
    let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default());
    let text = match &part.body {
        PartType::Message(inner) => String::from_utf8_lossy(inner.raw_message()).into_owned(),
        _ => String::from_utf8_lossy(part.contents()).into_owned(),
    };
    (kind, text)
}

#[test]
fn a_notice_says_to_programs_and_people_what_became_of_whom() {
    let mut one = person(
        "bob@example.net",
        "recipient-unknown",
        "550 5.1.1 no such\nuser here",
        "",
    );
    one.original = "rfc822;robert+2Bx@example.net".into();
    let expired = person(
        "eve@example.org",
        "expired",
        "451 4.7.1 later",
        "The age limit was reached.",
    );
    let ours = person(
        "jür=gen@bücher.example",
        "domain-no-mail",
        "",
        "The domain takes no mail.",
    );
    let octets = compose(
        &notice(What::Failed, vec![one, expired, ours]),
        "mta.example.com",
        Some(Returned {
            header: HEADER,
            body: None,
        }),
    );
    let text = String::from_utf8(octets.clone()).unwrap();
    assert!(text.is_ascii());
    for line in [
        "From: Mail Delivery System <MAILER-DAEMON@mta.example.com>",
        "To: <ada@shop.example>",
        "In-Reply-To: <1@shop.example>",
        "Auto-Submitted: auto-replied",
        "Content-Type: multipart/report; report-type=delivery-status;",
    ] {
        assert!(text.contains(&format!("{line}\r\n")), "{line}\n{text}");
    }
    let (kind, words) = part(&octets, 1);
    assert_eq!(kind, "text/plain");
    assert!(
        words.contains("mx.example.net [192.0.2.1]:25 said: 550 5.1.1 no such"),
        "{words}"
    );
    assert!(words.contains("<jür=gen@bücher.example>"), "{words}");
    let (kind, status) = part(&octets, 2);
    assert_eq!(kind, "message/delivery-status");
    let expected = "Reporting-MTA: dns; mta.example.com
Original-Envelope-Id: QQ+314
Arrival-Date: Mon, 2 Mar 2026 14:15:00 +0000
X-Posthaste-Message-Id: 019caee6-fea0-7707-8707-070707070707

Original-Recipient: rfc822; robert+x@example.net
Final-Recipient: rfc822; bob@example.net
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.net
Diagnostic-Code: smtp; 550 5.1.1 no such user here
Last-Attempt-Date: Mon, 2 Mar 2026 14:15:12 +0000

Final-Recipient: rfc822; eve@example.org
Action: failed
Status: 4.4.7
Remote-MTA: dns; mx.example.net
Diagnostic-Code: smtp; 451 4.7.1 later
Last-Attempt-Date: Mon, 2 Mar 2026 14:15:12 +0000

Final-Recipient: utf-8; j\\x{FC}r\\x{3D}gen@b\\x{FC}cher.example
Action: failed
Status: 5.1.10
Diagnostic-Code: X-Posthaste; The domain takes no mail.
Last-Attempt-Date: Mon, 2 Mar 2026 14:15:12 +0000
";
    let found = status.replace("\r\n", "\n");
    assert_eq!(found.trim_end(), expected.trim_end());
    let (kind, header) = part(&octets, 3);
    assert_eq!(kind, "text/rfc822-headers");
    assert_eq!(header.as_bytes().trim_ascii_end(), HEADER.trim_ascii_end());
}

#[test]
fn what_others_wrote_makes_no_field_line_or_part_of_its_own() {
    let hostile = "550 5.0.0 x\r\nAction: delivered\n\nFinal-Recipient: rfc822; victim@example.net\r\n--=_8192.";
    let long = format!("550 {}", "y".repeat(5_000));
    let mut people = vec![
        person("a@b.test", "unknown", hostile, "\u{0}\u{1b}[31m\r\n.\r\n"),
        person("c@b.test", "unknown", &long, ""),
    ];
    people[0].original = "rfc822;a+0D+0AAction:+20delivered".into();
    people[1].original = "rfc822;+C3+BC".into();
    let mut notice = notice(What::Failed, people);
    notice.envelope_id = "a+0Ab".into();
    let body = [
        b"--=_8192.".as_slice(),
        notice.message.to_string().as_bytes(),
        b"--\r\n\xff\r\n",
    ]
    .concat();
    let returned = Returned {
        header: HEADER,
        body: Some(&body),
    };
    let octets = compose(&notice, "mta.example.com", Some(returned));
    let (kind, status) = part(&octets, 2);
    assert_eq!(kind, "message/delivery-status");
    assert_eq!(status.matches("\nAction: failed").count(), 2, "{status}");
    assert_eq!(
        status.lines().filter(|l| l.starts_with("Action: ")).count(),
        2,
        "{status}"
    );
    assert!(
        !status.contains("Original-") && !status.contains("\nFinal-Recipient: rfc822; victim"),
        "{status}"
    );
    assert!(octets.split(|&b| b == b'\n').all(|line| line.len() <= 999));
    // The one that came is whole, though it holds what would have been the boundary.
    let (kind, whole) = part(&octets, 3);
    assert_eq!(kind, "message/rfc822");
    assert!(
        whole.starts_with("From: ada@shop.example\r\n") && whole.contains("--=_8192."),
        "{whole}"
    );
    let message = MessageParser::default().parse(&octets).unwrap();
    assert_eq!(
        message
            .parts
            .iter()
            .filter(|p| p.content_type().is_some())
            .count(),
        4
    );
    assert!(
        String::from_utf8_lossy(&octets)
            .contains("MIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n")
    );
}

#[test]
fn a_header_section_in_utf_8_is_returned_encoded() {
    let header = "Subject: grüße\r\n\r\n".as_bytes();
    for (body, kind) in [
        (None, "text/rfc822-headers"),
        (Some(b"text\r\n".as_slice()), "message/global"),
    ] {
        let returned = Returned { header, body };
        let octets = compose(
            &notice(
                What::Relayed,
                vec![person("a@b.test", "", "250 2.0.0 ok", "")],
            ),
            "mta",
            Some(returned),
        );
        assert!(octets.is_ascii());
        let (found, text) = part(&octets, 3);
        assert_eq!(found, kind);
        assert!(text.starts_with("Subject: grüße"), "{text}");
    }
}

#[test]
fn the_status_is_the_hosts_where_it_fits_and_else_that_of_the_cause() {
    let check = |what, cause, reply: &str, detail: &str, expected: &str| {
        let found = status(what, &person("a@b.test", cause, reply, detail));
        assert_eq!(found.to_string(), expected, "{cause} {reply} {detail}");
    };
    check(
        What::Failed,
        "recipient-unknown",
        "550 5.1.1 no",
        "",
        "5.1.1",
    );
    check(What::Failed, "recipient-unknown", "550 no", "", "5.1.1");
    check(
        What::Failed,
        "recipient-full",
        "452 4.2.2 full",
        "",
        "4.2.2",
    );
    check(
        What::Failed,
        "recipient-full",
        "250 2.2.2 what",
        "",
        "5.2.2",
    );
    check(What::Failed, "expired", "550 5.1.1 no", "", "4.4.7");
    check(
        What::Failed,
        "content-policy",
        "",
        "5.6.3 the content is 8-bit",
        "5.6.3",
    );
    check(What::Failed, "no such cause", "", "", "5.0.0");
    check(What::Delayed, "", "451 4.7.1 later", "", "4.7.1");
    check(What::Delayed, "", "", "It was not tried yet.", "4.4.1");
    check(What::Relayed, "", "250 ok", "", "2.0.0");
}
