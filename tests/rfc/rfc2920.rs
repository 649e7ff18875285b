//! PIPELINING.

use crate::support::Setup;

#[test]
fn a_group_of_commands_is_answered_in_order_in_one_write() {
    let mut d = Setup::trusted().connect().hello();
    let said = d.send(
        "MAIL FROM:<>\r\nRCPT TO:<nobody>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\nx\r\n.\r\nMAIL FROM:<>\r\nQUIT\r\n",
    );
    let codes: Vec<_> = said.lines().map(|l| &l[..3]).collect();
    assert_eq!(codes, ["250", "501", "250", "354", "250", "250", "221"]);
    assert_eq!(d.messages.len(), 1);
}

#[test]
fn pipelining_is_announced() {
    let mut d = Setup::trusted().connect();
    assert!(d.keywords().contains(&"PIPELINING".to_owned()));
}
