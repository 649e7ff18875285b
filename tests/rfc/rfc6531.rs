//! SMTPUTF8.

use crate::support::Setup;

#[test]
fn a_non_ascii_address_needs_the_parameter() {
    let mut d = Setup::trusted().connect();
    assert!(d.keywords().contains(&"SMTPUTF8".to_owned()));
    d.expect("MAIL FROM:<jürgen@example.com>", "553 5.6.7 ");
    d.expect("MAIL FROM:<ada@example.com>", "250 ");
    d.expect("RCPT TO:<jürgen@example.com>", "553 5.6.7 ");
    d.expect("RSET", "250 ");
    d.expect("MAIL FROM:<jürgen@example.com> SMTPUTF8", "250 ");
    d.expect("RCPT TO:<用户@例え.example>", "250 ");
    d.expect("RCPT TO:<a\u{202e}b@example.com>", "553 5.6.7 ");
    d.expect("RCPT TO:<e\u{301}@example.com>", "553 5.6.7 ");
    d.expect("DATA", "354 ");
    d.expect("Subject: ü\r\n\r\n.", "250 ");
    let message = &d.messages[0];
    assert!(message.eight_bit && message.submission.envelope.smtputf8);
    assert_eq!(message.submission.protocol, "UTF8SMTP");
}

#[test]
fn octets_that_are_not_utf8_are_refused() {
    let mut d = Setup::trusted().connect().hello();
    let said = d.send(b"MAIL FROM:<j\xfcrgen@example.com> SMTPUTF8\r\n");
    assert!(said.starts_with("500 5.5.2 "), "{said}");
}
