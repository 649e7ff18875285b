//! FUTURERELEASE: a message is held for a time, or until one.

use std::time::Duration;

use posthaste::mail::Hold;

use crate::support::Setup;

#[test]
fn section_4_a_message_is_held_for_seconds_or_until_a_date_time() {
    for (parameter, expected) in [
        ("HOLDFOR=120", Hold::For(Duration::from_secs(120))),
        ("HOLDUNTIL=1970-01-02T00:00:00Z", Hold::Until(86_400_000)),
    ] {
        let mut dialogue = Setup::trusted().connect();
        let said = dialogue.expect("EHLO client.test", "220 ");
        assert!(
            said.contains("\r\n250-FUTURERELEASE 2592000 1970-01-31T00:00:00Z\r\n"),
            "{said}"
        );
        dialogue.expect(&format!("MAIL FROM:<a@example.com> {parameter}"), "250");
        dialogue.expect("RCPT TO:<b@example.org>", "250");
        dialogue.expect("DATA", "354");
        dialogue.expect("Subject: later\r\n\r\nbody\r\n.", "250");
        let envelope = &dialogue.messages[0].submission.envelope;
        assert_eq!(envelope.hold, Some(expected));
    }
}

#[test]
fn section_4_more_than_was_announced_and_both_at_once_are_refused() {
    let mut dialogue = Setup::trusted().connect();
    dialogue.expect("EHLO client.test", "220 ");
    for parameter in [
        "HOLDFOR=2592001",
        "HOLDUNTIL=1970-03-01T00:00:00Z",
        "HOLDFOR=1 HOLDUNTIL=1970-01-02T00:00:00Z",
        "HOLDFOR=",
        "HOLDUNTIL=tomorrow",
    ] {
        dialogue.expect(
            &format!("MAIL FROM:<a@example.com> {parameter}"),
            "501 5.5.4",
        );
    }
}
