//! Session initiation.

use crate::support::Setup;

#[test]
fn the_greeting_names_the_host() {
    let mut d = Setup::stranger().connect();
    assert_eq!(d.send(""), "220 mta.example ESMTP Posthaste\r\n");
}

#[test]
fn another_protocol_is_told_so_and_sent_away() {
    for hello in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}"] {
        let mut d = Setup::stranger().connect();
        let said = d.send(hello);
        assert!(said.contains("\r\n554 5.5.1 "), "{said:?}");
        assert_eq!(said.lines().count(), 2, "{said:?}");
        assert!(d.closed);
    }
}
