//! STARTTLS.

use crate::support::Setup;

#[test]
fn starttls_is_announced_until_it_was_done() {
    let mut d = Setup::stranger().connect();
    assert!(d.keywords().contains(&"STARTTLS".to_owned()));
    d.expect("STARTTLS", "220 2.0.0 ");
    assert_eq!(d.handshakes, 1);
    assert!(!d.keywords().contains(&"STARTTLS".to_owned()));
    d.expect("STARTTLS", "503 5.5.1 ");
}

#[test]
fn anything_behind_the_command_closes_and_is_not_executed() {
    let mut d = Setup::trusted().connect().hello();
    let said = d.send("STARTTLS\r\nMAIL FROM:<evil@example.com>\r\n");
    assert!(said.starts_with("501 5.5.4 "), "{said}");
    assert_eq!(said.lines().count(), 1);
    assert!(d.closed && d.handshakes == 0);
}

#[test]
fn everything_before_the_handshake_is_forgotten() {
    let mut setup = Setup::stranger();
    setup.settings.plain_auth = true;
    let mut d = setup.connect().hello();
    d.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "235 ");
    d.expect("STARTTLS", "220 ");
    d.expect("MAIL FROM:<>", "503 5.5.1 ");
    d.expect("EHLO client.example", "250-");
    d.expect("MAIL FROM:<>", "250 ");
    d.expect("RCPT TO:<bob@example.net>", "530 5.7.0 ");
}

#[test]
fn starttls_is_refused_with_an_argument_within_a_transaction_and_without_a_certificate() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("STARTTLS now", "501 5.5.4 ");
    d.envelope();
    d.expect("STARTTLS", "503 5.5.1 ");
    let mut setup = Setup::trusted();
    setup.settings.starttls = false;
    let mut d = setup.connect();
    assert!(!d.keywords().contains(&"STARTTLS".to_owned()));
    d.expect("STARTTLS", "502 5.5.1 ");
}

#[test]
fn the_protocol_says_that_tls_was_used() {
    let mut d = Setup::inside_tls().connect().hello();
    d.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "235 ");
    d.envelope();
    d.expect("DATA", "354 ");
    d.expect("x\r\n.", "250 ");
    let submission = &d.messages[0].submission;
    assert_eq!(submission.protocol, "ESMTPSA");
    assert!(submission.tls.as_deref().unwrap().starts_with("TLSv1.3 "));
}
