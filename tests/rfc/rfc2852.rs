//! DELIVERBY: a message is delivered by a time or returned.

use std::time::Duration;

use crate::support::Setup;

#[test]
fn section_3_the_least_time_is_announced() {
    let mut dialogue = Setup::trusted().connect();
    let said = dialogue.expect("EHLO client.test", "220 ");
    assert!(said.contains("\r\n250-DELIVERBY 1\r\n"), "{said}");
}

#[test]
fn section_4_1_mode_r_is_taken_and_its_time_must_be_ahead() {
    let mut dialogue = Setup::trusted().connect();
    dialogue.expect("EHLO client.test", "220 ");
    for by in ["0;R", "-1;R"] {
        dialogue.expect(&format!("MAIL FROM:<a@example.com> BY={by}"), "501 5.5.4");
    }
    dialogue.expect("MAIL FROM:<a@example.com> BY=+90;r", "250");
    dialogue.expect("RCPT TO:<b@example.org>", "250");
    dialogue.expect("DATA", "354");
    dialogue.expect("Subject: soon\r\n\r\nbody\r\n.", "250");
    let envelope = &dialogue.messages[0].submission.envelope;
    assert_eq!(envelope.deliver_by, Some(Duration::from_secs(90)));
}

/// They ask for notices, which are not sent yet.
#[test]
fn section_4_1_what_cannot_be_done_is_refused() {
    let mut dialogue = Setup::trusted().connect();
    dialogue.expect("EHLO client.test", "220 ");
    for by in ["90;N", "-90;N", "90;RT", "90;NT"] {
        dialogue.expect(&format!("MAIL FROM:<a@example.com> BY={by}"), "555 5.5.4");
    }
}
