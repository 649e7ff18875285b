//! AUTH.

use crate::support::Setup;

fn auth_announced(setup: Setup) -> bool {
    let mut d = setup.connect();
    d.keywords()
        .contains(&"AUTH PLAIN LOGIN CRAM-MD5".to_owned())
}

#[test]
fn auth_is_announced_and_taken_only_inside_tls_on_loopback_or_where_the_listener_allows_it() {
    assert!(!auth_announced(Setup::stranger()));
    assert!(auth_announced(Setup::inside_tls()));
    let mut loopback = Setup::stranger();
    loopback.client.address = [127, 0, 0, 1].into();
    assert!(auth_announced(loopback));
    let mut allowed = Setup::stranger();
    allowed.settings.plain_auth = true;
    assert!(auth_announced(allowed));

    let mut d = Setup::stranger().connect().hello();
    d.expect("AUTH PLAIN", "538 5.7.11 ");
    d.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "538 5.7.11 ");
    d.expect("AUTH LOGIN", "538 5.7.11 ");
}

#[test]
fn each_mechanism_lets_in() {
    let check = |lines: &[(&str, &str)]| {
        let mut d = Setup::inside_tls().connect().hello();
        for (line, reply) in lines {
            d.expect(line, reply);
        }
        d.envelope();
    };
    check(&[("AUTH PLAIN AGFwcABzZWNyZXQ=", "235 2.7.0 ")]);
    check(&[
        ("auth plain", "334 \r\n"),
        ("AGFwcABzZWNyZXQ=", "235 2.7.0 "),
    ]);
    check(&[
        ("AUTH LOGIN", "334 VXNlcm5hbWU6\r\n"),
        ("YXBw", "334 UGFzc3dvcmQ6\r\n"),
        ("c2VjcmV0", "235 "),
    ]);
    check(&[
        ("AUTH LOGIN YXBw", "334 UGFzc3dvcmQ6\r\n"),
        ("c2VjcmV0", "235 "),
    ]);
    // "app 00..."
    check(&[
        ("AUTH CRAM-MD5", "334 PDAx"),
        ("YXBwIDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw", "235 "),
    ]);
}

#[test]
fn cram_md5_asks_anew_each_time() {
    let mut d = Setup::inside_tls().connect().hello();
    let first = d.expect("AUTH CRAM-MD5", "334 ");
    d.expect("*", "501 ");
    let second = d.expect("AUTH CRAM-MD5", "334 ");
    assert_ne!(first, second);
}

#[test]
fn three_failures_close() {
    let mut d = Setup::inside_tls().connect().hello();
    d.expect("AUTH PLAIN AGFwcAB3cm9uZw==", "535 5.7.8 ");
    d.expect("AUTH PLAIN AGFwcAB3cm9uZw==", "535 5.7.8 ");
    let said = d.expect("AUTH PLAIN AGFwcAB3cm9uZw==", "535 5.7.8 ");
    assert!(said.contains("\r\n421 4.7.0 "), "{said}");
    assert!(d.closed);
}

#[test]
fn an_address_that_guesses_too_much_is_put_off() {
    let mut d = Setup::inside_tls().connect().hello();
    d.expect("AUTH LOGIN bG9ja2Vk", "334 ");
    d.expect("eA==", "454 4.7.0 ");
}

#[test]
fn a_malformed_exchange_is_refused_and_an_asterisk_cancels() {
    let mut d = Setup::inside_tls().connect().hello();
    d.expect("AUTH PLAIN AGFwcABzZWNyZXQ", "501 5.5.2 ");
    d.expect("AUTH PLAIN", "334 ");
    d.expect("not base64!", "501 5.5.2 ");
    d.expect("AUTH PLAIN", "334 ");
    d.expect("*", "501 ");
    d.expect("AUTH DIGEST-MD5", "504 5.5.4 ");
    d.expect("AUTH CRAM-MD5 YQ==", "501 5.7.0 ");
    d.expect("NOOP", "250 ");
}

#[test]
fn lines_of_the_exchange_may_have_12288_octets() {
    let mut d = Setup::inside_tls().connect().hello();
    d.expect(&format!("AUTH PLAIN {}", "A".repeat(12_274)), "501 5.5.2 ");
    d.expect(&format!("AUTH PLAIN {}", "A".repeat(12_276)), "500 5.5.6 ");
    d.expect("AUTH LOGIN", "334 ");
    d.expect(&"A".repeat(12_284), "501 5.5.2 ");
    d.expect("AUTH LOGIN", "334 ");
    d.expect(&"A".repeat(12_288), "500 5.5.6 ");
    d.expect("NOOP", "250 ");
    d.expect("AUTH LOGIN", "334 ");
    assert!(d.send("A".repeat(16_384)).starts_with("500 5.5.6 "));
    assert!(d.closed);
}

#[test]
fn auth_happens_once_and_outside_a_transaction_and_after_ehlo() {
    let mut d = Setup::inside_tls().connect();
    d.send("");
    d.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "503 5.5.1 ");
    d.expect("EHLO client.example", "250-");
    d.expect("MAIL FROM:<>", "250 ");
    d.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "503 5.5.1 ");
    d.expect("RSET", "250 ");
    d.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "235 ");
    d.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "503 5.5.1 ");
}

#[test]
fn the_auth_parameter_of_mail_is_taken() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("MAIL FROM:<ada@example.com> AUTH=<>", "250 ");
    d.expect("RSET", "250 ");
    d.expect("MAIL FROM:<ada@example.com> AUTH=a+2Bb@example.com", "250 ");
    d.expect("RSET", "250 ");
    d.expect("MAIL FROM:<ada@example.com> AUTH=a+", "501 5.5.4 ");
}
