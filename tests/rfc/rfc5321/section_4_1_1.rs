//! Commands and their arguments.

use crate::support::Setup;

#[test]
fn an_odd_address_is_refused() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("MAIL FROM:<a@b@example.com>", "501 5.1.7 ");
    d.expect("MAIL FROM:<@relay.example:a@example.com>", "501 5.1.7 ");
    d.expect("MAIL FROM:<ada@example.com>", "250 ");
    for path in [
        "bob",
        "<bob@example.net",
        "<bob@example..net>",
        "<bob@>",
        "<>",
        "<bo<b@example.net>",
        "<b..b@example.net>",
        "<@relay.example:bob@example.net>",
        "<bob@[192.0.2.1]>",
        &format!("<{}@example.net>", "b".repeat(65)),
        &format!("<b@{}.example>", "b".repeat(64)),
    ] {
        let mut d = Setup::trusted().connect().hello();
        d.expect("MAIL FROM:<ada@example.com>", "250 ");
        d.expect(&format!("RCPT TO:{path}"), "501 5.1.3 ");
    }
    d.expect("RCPT TO:<bob%example.org@example.net>", "250 ");
}

#[test]
fn a_listener_may_allow_address_literals() {
    let mut setup = Setup::trusted();
    setup.settings.address_literals = true;
    let mut d = setup.connect().hello();
    d.expect("MAIL FROM:<ada@example.com>", "250 ");
    d.expect("RCPT TO:<bob@[IPv6:2001:db8::1]>", "250 ");
}

#[test]
fn an_unknown_parameter_is_refused_and_a_malformed_one_too() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("MAIL FROM:<> X-COLOUR=red", "555 5.5.4 ");
    d.expect("MAIL FROM:<> BODY=BINARYMIME", "555 5.5.4 ");
    d.expect("MAIL FROM:<> SIZE=-1", "501 5.5.4 ");
    d.expect("MAIL FROM:<> SIZE=1 SIZE=1", "501 5.5.4 ");
    d.expect("MAIL FROM:<>", "250 ");
    d.expect("RCPT TO:<bob@example.net> SIZE=1", "555 5.5.4 ");
}

#[test]
fn parameters_belong_to_ehlo() {
    let mut d = Setup::trusted().connect();
    d.expect("HELO client.example", "220 ");
    d.expect("MAIL FROM:<> SIZE=1", "555 5.5.4 ");
    d.expect("MAIL FROM:<>", "250 ");
    d.expect("RCPT TO:<bob@example.net>", "250 ");
    d.expect("DATA", "354 ");
    d.expect("x\r\n.", "250 ");
    assert_eq!(d.messages[0].submission.protocol, "SMTP");
}

#[test]
fn an_unknown_command_and_a_superfluous_argument_are_refused() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("WIZ", "500 5.5.2 ");
    d.expect("", "500 5.5.2 ");
    d.expect("RSET now", "501 5.5.4 ");
    d.expect("QUIT now", "501 5.5.4 ");
    d.expect("NOOP now", "250 ");
    d.expect("HELP", "214 2.0.0 ");
}

#[test]
fn rset_ends_the_transaction() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    d.expect("RSET", "250 2.0.0 OK");
    d.expect("DATA", "503 5.5.1 ");
    d.envelope();
}

#[test]
fn quit_is_answered_and_nothing_behind_it() {
    let mut d = Setup::trusted().connect().hello();
    assert_eq!(d.send("QUIT\r\nNOOP\r\n"), "221 2.0.0 Bye\r\n");
    assert!(d.closed);
    assert_eq!(d.send("NOOP\r\n"), "");
}
