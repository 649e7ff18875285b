//! Sizes and limits, and those of `threats-and-faults.md` §5.

use std::time::Duration;

use crate::support::Setup;

#[test]
fn a_command_line_over_2048_octets_is_refused_and_one_without_end_closes() {
    let mut d = Setup::trusted().connect().hello();
    d.expect(&format!("NOOP {}", "x".repeat(2041)), "250 ");
    d.expect(&format!("NOOP {}", "x".repeat(2042)), "500 5.5.2 ");
    d.expect("NOOP", "250 ");
    assert_eq!(d.send("x".repeat(16_383)), "");
    assert!(d.send("x").starts_with("500 5.5.2 "));
    assert!(d.closed);
}

#[test]
fn the_surplus_of_recipients_is_refused_for_now_and_the_others_stay() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("MAIL FROM:<>", "250 ");
    for n in 0..1_000 {
        d.expect(&format!("RCPT TO:<r{n}@example.net>"), "250 ");
    }
    for n in 0..500 {
        d.expect(&format!("RCPT TO:<s{n}@example.net>"), "452 4.5.3 ");
    }
    d.expect("DATA", "354 ");
    d.expect("x\r\n.", "250 ");
    assert_eq!(d.messages[0].submission.envelope.recipients.len(), 1_000);
}

#[test]
fn a_flood_of_recipients_closes() {
    let mut setup = Setup::trusted();
    setup.settings.recipients_max = 1;
    let mut d = setup.connect().hello();
    d.envelope();
    let said = d.send("RCPT TO:<s@example.net>\r\n".repeat(11_000));
    assert!(said.ends_with("effect\r\n") && said.contains("\r\n421 4.7.0 "));
    assert!(d.closed);
}

#[test]
fn a_message_that_says_it_is_too_big_is_refused_at_mail() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("MAIL FROM:<> SIZE=100001", "552 5.3.4 ");
    d.expect("MAIL FROM:<> SIZE=99999999999999999999", "552 5.3.4 ");
    d.expect("MAIL FROM:<> SIZE=100000", "250 ");
}

#[test]
fn a_message_that_is_too_big_is_refused_at_its_end_whatever_it_said() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("MAIL FROM:<> SIZE=1", "250 ");
    d.expect("RCPT TO:<bob@example.net>", "250 ");
    d.expect("DATA", "354 ");
    let line = format!("{}\r\n", "x".repeat(98));
    assert_eq!(d.send(line.repeat(1_001)), "");
    d.expect(".", "552 5.3.4 ");
    d.envelope();
    d.expect("DATA", "354 ");
    assert_eq!(d.send(line.repeat(1_000)), "");
    d.expect(".", "250 ");
    assert_eq!(d.messages[0].content.len(), 100_000);
}

#[test]
fn content_without_end_is_cut_off() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    d.expect("DATA", "354 ");
    let block = format!("{}\r\n", "x".repeat(998)).repeat(1_049);
    let said = (0..200).map(|_| d.send(&block)).find(|s| !s.is_empty());
    assert!(said.unwrap().starts_with("552 5.3.4 "));
    assert!(d.closed);
}

#[test]
fn a_content_line_over_65536_octets_is_refused() {
    let mut setup = Setup::trusted();
    setup.settings.size_max = 1_000_000;
    let mut d = setup.connect().hello();
    for (length, reply) in [(65_536, "250 "), (65_537, "550 5.6.0 ")] {
        d.envelope();
        d.expect("DATA", "354 ");
        d.expect(&format!("{}\r\n.", "x".repeat(length)), reply);
    }
}

#[test]
fn errors_are_delayed_after_ten_and_close_at_twenty() {
    let mut d = Setup::trusted().connect().hello();
    for n in 1..=19u64 {
        d.expect("WIZ", "500 5.5.2 ");
        assert_eq!(d.delayed, Duration::from_secs(n.saturating_sub(10)));
    }
    let said = d.expect("WIZ", "500 5.5.2 ");
    assert!(said.contains("\r\n421 4.7.0 "), "{said}");
    assert!(d.closed);
}

#[test]
fn an_accepted_message_forgives_errors() {
    let mut d = Setup::trusted().connect().hello();
    for _ in 0..3 {
        for _ in 0..15 {
            d.expect("WIZ", "500 5.5.2 ");
        }
        d.envelope();
        d.expect("DATA", "354 ");
        d.expect("x\r\n.", "250 ");
    }
}

#[test]
fn a_hundred_commands_without_effect_close() {
    for command in ["NOOP", "RSET", "EHLO client.example", "VRFY bob"] {
        let mut d = Setup::trusted().connect().hello();
        for _ in 0..99 {
            d.expect(command, "2");
        }
        let said = d.expect(command, "2");
        assert!(said.contains("\r\n421 4.7.0 ") && d.closed, "{said}");
    }
}
