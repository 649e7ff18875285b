//! Message submission: who may hand in mail.

use crate::support::Setup;

#[test]
fn a_stranger_who_could_authenticate_is_told_to() {
    let mut d = Setup::stranger().connect().hello();
    d.expect("MAIL FROM:<ada@example.com>", "250 ");
    d.expect("RCPT TO:<bob@example.net>", "530 5.7.0 ");
    d.expect("RCPT TO:<bob%example.net@mta.example>", "530 5.7.0 ");
    d.expect("RCPT TO:<\"bob@example.net\"@mta.example>", "530 5.7.0 ");
    d.expect("DATA", "554 5.5.1 ");
}

#[test]
fn a_stranger_who_could_not_is_denied_relaying() {
    let mut setup = Setup::stranger();
    setup.settings.starttls = false;
    let mut d = setup.connect().hello();
    d.expect("MAIL FROM:<ada@example.com>", "250 ");
    d.expect("RCPT TO:<bob@example.net>", "550 5.7.1 ");
    assert!(d.send("BDAT 3 LAST\r\nx\r\n").starts_with("503 5.5.1 "));
}

#[test]
fn a_trusted_network_needs_no_auth() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
}

#[test]
fn xclient_is_for_those_who_are_allowed_it() {
    let mut d = Setup::trusted().connect();
    assert!(!d.keywords().iter().any(|k| k.starts_with("XCLIENT")));
    d.expect("XCLIENT ADDR=198.51.100.1", "550 5.7.1 ");
    assert!(d.claims.is_empty());
}

#[test]
fn xclient_makes_the_client_another_one_and_begins_anew() {
    let mut setup = Setup::trusted();
    setup.client.xclient = true;
    let mut d = setup.connect();
    let keywords = d.keywords();
    assert!(keywords.contains(&"XCLIENT NAME ADDR PORT PROTO HELO LOGIN".to_owned()));
    d.expect(
        "XCLIENT ADDR=198.51.100.1 NAME=app.example HELO=real.example",
        "220 mta.example",
    );
    d.expect("MAIL FROM:<>", "503 5.5.1 ");
    d.expect("EHLO proxy.example", "250-");
    d.expect("MAIL FROM:<>", "250 ");
    d.expect("RCPT TO:<bob@example.net>", "530 5.7.0 ");
    d.expect("XCLIENT LOGIN=app", "503 5.5.1 ");
    d.expect("RSET", "250 ");
    d.expect("XCLIENT LOGIN=nobody", "501 5.5.4 ");
    d.expect(
        "XCLIENT LOGIN=app ADDR=198.51.100.1 NAME=app.example HELO=real.example",
        "220 ",
    );
    d.expect("EHLO proxy.example", "250-");
    d.envelope();
    d.expect("DATA", "354 ");
    d.expect("x\r\n.", "250 ");
    let submission = &d.messages[0].submission;
    assert_eq!(
        submission.client_address,
        std::net::IpAddr::from([198, 51, 100, 1])
    );
    assert_eq!(submission.client_name.as_deref(), Some("app.example"));
    assert_eq!(submission.helo, "real.example");
    assert_eq!(submission.protocol, "ESMTPA");
}
