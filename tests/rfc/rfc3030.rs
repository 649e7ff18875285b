//! CHUNKING.

use posthaste::mail::Reply;

use crate::support::Setup;

#[test]
fn chunks_make_one_message_octet_by_octet() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    assert_eq!(d.send("BDAT 6\r\n.\r\na\r\n"), "250 2.0.0 OK\r\n");
    assert_eq!(d.send("BDAT 0\r\n"), "250 2.0.0 OK\r\n");
    assert_eq!(d.send("BDAT 4 LAST\r\n.b\r\n"), "250 OK 1\r\n");
    assert_eq!(d.messages[0].content, b".\r\na\r\n.b\r\n");
}

#[test]
fn a_whole_transaction_fits_into_one_flight() {
    let mut d = Setup::trusted().connect().hello();
    let said = d.send("MAIL FROM:<>\r\nRCPT TO:<bob@example.net>\r\nBDAT 3 LAST\r\nx\r\nQUIT\r\n");
    let codes: Vec<_> = said.lines().map(|l| &l[..3]).collect();
    assert_eq!(codes, ["250", "250", "250", "221"]);
    assert_eq!(d.messages[0].content, b"x\r\n");
}

#[test]
fn an_unreadable_size_closes() {
    for command in [
        "BDAT",
        "BDAT -1",
        "BDAT 0x10",
        "BDAT 99999999999999999999999",
        "BDAT 5 FIRST",
    ] {
        let mut d = Setup::trusted().connect().hello();
        d.envelope();
        d.expect(&format!("{command}\r\nRSET"), "501 5.5.4 ");
        assert!(d.closed, "{command}");
    }
}

#[test]
fn a_refused_chunk_is_swallowed_and_never_executed() {
    let mut d = Setup::trusted().connect().hello();
    let said = d.send("BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
    assert!(said.starts_with("503 5.5.1 "), "{said}");
    assert!(said.ends_with("250 2.0.0 OK\r\n"), "{said}");
    // With a transaction, but without recipients.
    d.expect("MAIL FROM:<>", "250 ");
    let said = d.send("BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
    assert!(said.starts_with("503 5.5.1 "), "{said}");
    assert_eq!(said.lines().count(), 2);
}

#[test]
fn a_failed_transaction_is_dead_until_rset() {
    let mut setup = Setup::trusted();
    setup.begin = Some(Reply::fixed(452, 4, 3, 1, "full"));
    let mut d = setup.connect().hello();
    d.envelope();
    assert!(d.send("BDAT 3\r\nx\r\n").starts_with("452 4.3.1 "));
    assert!(d.send("BDAT 3 LAST\r\nx\r\n").starts_with("503 5.5.1 "));
    d.expect("MAIL FROM:<>", "503 5.5.1 ");
    d.expect("RCPT TO:<bob@example.net>", "503 5.5.1 ");
    d.expect("DATA", "503 5.5.1 ");
    d.expect("RSET", "250 ");
    d.envelope();
}

#[test]
fn a_chunk_over_the_limit_is_swallowed_or_closes() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    let chunk = "x".repeat(60_000);
    assert!(d.send(format!("BDAT 60000\r\n{chunk}")).starts_with("250 "));
    assert!(
        d.send(format!("BDAT 60000\r\n{chunk}"))
            .starts_with("552 5.3.4 ")
    );
    assert!(d.send("BDAT 3 LAST\r\nx\r\n").starts_with("503 5.5.1 "));
    d.expect("RSET", "250 ");
    d.expect("BDAT 100001", "552 5.3.4 ");
    assert!(d.closed && d.messages.is_empty());
}

#[test]
fn bdat_does_not_mix_with_data_or_later_recipients() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    assert!(d.send("BDAT 3\r\nx\r\n").starts_with("250 "));
    d.expect("DATA", "503 5.5.1 ");
    d.expect("RCPT TO:<bob@example.net>", "503 5.5.1 ");
    d.expect("MAIL FROM:<>", "503 5.5.1 ");
    assert!(d.send("BDAT 3 LAST\r\ny\r\n").starts_with("250 OK 1"));
    assert!(d.send("BDAT 3 LAST\r\nz\r\n").starts_with("503 5.5.1 "));
    assert_eq!(d.messages.len(), 1);
}

#[test]
fn rset_between_chunks_leaves_nothing() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    assert!(d.send("BDAT 3\r\nx\r\n").starts_with("250 "));
    d.expect("RSET", "250 ");
    d.envelope();
    assert!(d.send("BDAT 3 LAST\r\ny\r\n").starts_with("250 "));
    assert_eq!(d.messages[0].content, b"y\r\n");
}

#[test]
fn chunks_have_the_same_rules_for_lines_as_data() {
    for chunk in ["a\nb", "a\rb", "a\0b"] {
        let mut d = Setup::trusted().connect().hello();
        d.envelope();
        let said = d.send(format!("BDAT 3 LAST\r\n{chunk}"));
        assert!(said.starts_with("550 5.6.0 "), "{said}");
        assert!(d.messages.is_empty());
    }
    // A CR whose line feed never comes.
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    assert!(d.send("BDAT 2 LAST\r\na\r").starts_with("550 5.6.0 "));
}
