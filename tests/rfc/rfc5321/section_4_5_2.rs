//! Transparency.

use crate::support::Setup;

#[test]
fn one_leading_dot_is_removed_and_only_crlf_dot_crlf_ends() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    d.expect("DATA", "354 ");
    assert_eq!(d.send("..\r\n.a\r\n...\r\nb.\r\n. \r\n"), "");
    d.expect(".", "250 ");
    assert_eq!(d.messages[0].content, b".\r\na\r\n..\r\nb.\r\n \r\n");
}

#[test]
fn empty_content_ends_at_once() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    d.expect("DATA", "354 ");
    d.expect(".", "250 ");
    assert_eq!(d.messages[0].content, b"");
}
