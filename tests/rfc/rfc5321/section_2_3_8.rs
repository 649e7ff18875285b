//! Lines.

use crate::support::Setup;

#[test]
fn a_command_line_ends_at_crlf_and_nowhere_else() {
    let mut d = Setup::trusted().connect().hello();
    assert_eq!(d.send("NOOP\nRSET\n"), "");
    assert!(d.send("\r\n").starts_with("500 5.5.2 "));
    d.expect("NOOP\rRSET", "500 5.5.2 ");
    d.expect("NOOP\0", "500 5.5.2 ");
    d.expect("NOOP\r", "500 5.5.2 ");
    d.expect("NOOP", "250 2.0.0 ");
}

#[test]
fn content_with_a_bare_cr_or_lf_or_nul_is_refused_after_its_true_end() {
    for content in [
        "a\nb\r\n",
        "a\rb\r\n",
        "a\0b\r\n",
        "a\r\n.\nb\r\n",
        "a\n.\r\nMAIL FROM:<evil@example.com>\r\n",
        "a\r.\r\nMAIL FROM:<evil@example.com>\r\n",
        "a\r\n.\rMAIL FROM:<evil@example.com>\r\n",
    ] {
        let mut d = Setup::trusted().connect().hello();
        d.envelope();
        d.expect("DATA", "354 ");
        assert_eq!(d.send(content), "", "{content:?} answered early");
        d.expect(".", "550 5.6.0 ");
        assert!(d.messages.is_empty());
        d.envelope();
    }
}
