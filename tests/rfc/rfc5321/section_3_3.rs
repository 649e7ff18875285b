//! Mail transactions.

use posthaste::mail::Reply;

use crate::support::Setup;

#[test]
fn a_message_is_taken_as_it_was_sent() {
    let mut d = Setup::trusted().connect().hello();
    d.envelope();
    d.expect("RCPT TO:<carol@example.org>", "250 2.1.5 ");
    d.expect("DATA", "354 ");
    d.send("Subject: hi\r\n\r\n..dot\r\nlast\r\n");
    d.expect(".", "250 OK 1");
    let message = &d.messages[0];
    assert_eq!(message.content, b"Subject: hi\r\n\r\n.dot\r\nlast\r\n");
    let submission = &message.submission;
    assert_eq!(submission.protocol, "ESMTP");
    assert_eq!(submission.helo, "client.example");
    assert_eq!(submission.envelope.reverse_path.as_str(), "ada@example.com");
    let recipients = submission.envelope.recipients.iter();
    let recipients: Vec<_> = recipients.map(|r| r.path.as_str()).collect();
    assert_eq!(recipients, ["bob@example.net", "carol@example.org"]);
}

#[test]
fn the_null_reverse_path_is_taken() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("MAIL FROM:<>", "250 2.1.0 ");
}

#[test]
fn transactions_follow_one_another_without_rset() {
    let mut d = Setup::trusted().connect().hello();
    for _ in 0..300 {
        d.envelope();
        d.expect("DATA", "354 ");
        d.expect("x\r\n.", "250 ");
    }
    assert_eq!(d.messages.len(), 300);
}

#[test]
fn data_without_mail_or_recipients_is_refused() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("DATA", "503 5.5.1 ");
    d.expect("MAIL FROM:<>", "250 ");
    d.expect("DATA", "503 5.5.1 ");
    d.expect("RCPT TO:<nobody>", "501 5.1.3 ");
    d.expect("DATA", "554 5.5.1 ");
}

#[test]
fn rcpt_without_mail_and_nested_mail_are_refused() {
    let mut d = Setup::trusted().connect().hello();
    d.expect("RCPT TO:<bob@example.net>", "503 5.5.1 ");
    d.expect("MAIL FROM:<>", "250 ");
    d.expect("MAIL FROM:<>", "503 5.5.1 ");
}

#[test]
fn what_the_node_refuses_reaches_the_client() {
    let full = Reply::fixed(452, 4, 3, 1, "full");
    let mut setup = Setup::trusted();
    setup.begin = Some(full.clone());
    let mut d = setup.connect().hello();
    d.envelope();
    d.expect("DATA", "452 4.3.1 full");
    d.envelope();

    let mut setup = Setup::trusted();
    setup.push = Some(full.clone());
    let mut d = setup.connect().hello();
    d.envelope();
    d.expect("DATA", "354 ");
    assert_eq!(d.send("a\r\n"), "", "answered early");
    d.expect("b\r\n.", "452 4.3.1 full");
    d.envelope();

    let mut setup = Setup::trusted();
    setup.finish = Some(Reply::fixed(451, 4, 3, 0, "sync failed"));
    let mut d = setup.connect().hello();
    d.envelope();
    d.expect("DATA", "354 ");
    d.expect("a\r\n.", "451 4.3.0 sync failed");
    assert!(d.messages.is_empty());
}

#[test]
fn commands_behind_a_refused_data_are_never_content() {
    let mut d = Setup::trusted().connect().hello();
    let lines = "Subject: hi\r\n".repeat(30);
    let said = d.send(format!("DATA\r\n{lines}.\r\n"));
    assert!(said.starts_with("503 5.5.1 "), "{said}");
    assert_eq!(said.matches("500 5.5.2 ").count(), 10, "{said}");
    assert!(said.lines().last().unwrap().starts_with("421 4.7.0 "));
    assert!(d.closed && !said.contains("354"));
}
