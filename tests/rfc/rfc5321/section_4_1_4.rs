//! Order of commands.

use crate::support::Setup;

#[test]
fn mail_needs_a_hello() {
    let mut d = Setup::trusted().connect();
    d.send("");
    d.expect("MAIL FROM:<>", "503 5.5.1 ");
    d.expect("NOOP", "250 ");
    d.expect("EHLO", "501 5.5.4 ");
    d.expect("EHLO [IPv6:2001:db8::1]", "250-mta.example");
    d.expect("MAIL FROM:<>", "250 ");
}

#[test]
fn a_name_that_does_not_fit_the_client_is_taken() {
    for name in ["localhost", "not_a_name", "[127.0.0.1]", "x"] {
        let mut d = Setup::trusted().connect();
        d.send("");
        d.expect(&format!("EHLO {name}"), "250-mta.example");
    }
}

#[test]
fn ehlo_in_mid_transaction_is_a_reset() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    d.expect("EHLO client.example", "250-");
    d.expect("RCPT TO:<bob@example.net>", "503 5.5.1 ");
}
