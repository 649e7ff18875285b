//! Notices by mail (RFC 3461, RFC 3464): who is told what, by whom, and that a crash neither loses nor doubles any.

use std::process::Stdio;

use posthaste::inbound::reading::{self, Action, Kind};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::client::Client;
use crate::support::node::{COMMON, TestNode, write_config};
use crate::support::process::{NodeProcess, posthaste};
use crate::support::remote_host::{Answer, RemoteHost, Stage, Taken};
use crate::support::{eventually, within};

const CONTENT: &[u8] = b"From: ada@shop.test\r\nTo: x@y.test\r\nSubject: An order\r\nMessage-ID: <order-1@shop.test>\r\n\r\nThe body.\r\n";

/// Takes all but those whose name says otherwise.
async fn host() -> RemoteHost {
    RemoteHost::scripted(|stage, line, _| usual(stage, line)).await
}

fn usual(stage: Stage, line: &str) -> Answer {
    match stage {
        Stage::Rcpt if line.contains("<gone") => Answer::line("550 5.1.1 no such user"),
        _ => Answer::Usual,
    }
}

fn config(extra: &str, host: &RemoteHost) -> String {
    let wants = "name = \"app\"\nnotify = \"dsn\"\n";
    let config = COMMON.replace("name = \"app\"\n", wants);
    assert_ne!(config, COMMON);
    format!(
        "{config}{extra}[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    )
}

async fn node(extra: &str, host: &RemoteHost) -> TestNode {
    TestNode::start(TempDir::new().unwrap(), config(extra, host)).await
}

/// One transaction; `to` are the arguments of RCPT.
async fn submit(client: &mut Client, mail: &str, to: &[&str]) {
    client.command(&format!("MAIL FROM:{mail}"), 250).await;
    for to in to {
        client.command(&format!("RCPT TO:{to}"), 250).await;
    }
    client.command("DATA", 354).await;
    client.send(CONTENT).await;
    client.command(".", 250).await;
}

/// Notices among what a host took.
fn notices(taken: &[Taken]) -> Vec<(String, String)> {
    let null = |t: &&Taken| t.mail.to_ascii_uppercase().contains("FROM:<>");
    let notices = taken.iter().filter(null);
    notices
        .map(|t| {
            let content = String::from_utf8_lossy(&t.content).into_owned();
            (t.recipients.join(","), content)
        })
        .collect()
}

async fn notices_of(host: &RemoteHost, count: usize) -> Vec<(String, String)> {
    let taken = host
        .taken_until("notices", |taken| notices(taken).len() >= count)
        .await;
    notices(&taken)
}

/// Fields of the report, by name, in order.
fn fields<'a>(notice: &'a str, name: &str) -> Vec<&'a str> {
    let prefix = format!("{name}: ");
    notice
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sender_is_told_what_he_asked_for_and_nobody_of_a_notice() {
    let host = host().await;
    let node = node("", &host).await;
    let mut client = node.client().await;
    submit(
        &mut client,
        "<ada@shop.test> RET=FULL ENVID=QQ+2B314",
        &[
            "<gone1@a.test>",
            "<gone2@a.test> NOTIFY=NEVER",
            "<gone3@a.test> NOTIFY=SUCCESS,DELAY",
            "<gone4@b.test> NOTIFY=FAILURE ORCPT=rfc822;four+2B4@b.test",
            "<here1@a.test> NOTIFY=SUCCESS ORCPT=rfc822;one@a.test",
            "<here2@a.test>",
        ],
    )
    .await;
    // Nobody to be told; nobody who wants to be; the sender himself is gone, and is told of by nobody.
    submit(&mut client, "<>", &["<gone5@a.test> NOTIFY=FAILURE"]).await;
    submit(&mut client, "<gone6@a.test>", &["<gone7@a.test>"]).await;
    let all = notices_of(&host, 2).await;
    let failure = all
        .iter()
        .find(|(_, n)| n.contains("\r\nSubject: Undelivered mail\r\n"));
    let (to, failure) = failure.unwrap();
    assert_eq!(to, "ada@shop.test");
    assert_eq!(
        fields(failure, "Final-Recipient"),
        ["rfc822; gone1@a.test", "rfc822; gone4@b.test"]
    );
    assert_eq!(
        fields(failure, "Original-Recipient"),
        ["rfc822; four+4@b.test"]
    );
    assert_eq!(fields(failure, "Original-Envelope-Id"), ["QQ+314"]);
    assert_eq!(fields(failure, "Action"), ["failed", "failed"]);
    assert_eq!(fields(failure, "Status"), ["5.1.1", "5.1.1"]);
    assert_eq!(
        fields(failure, "Diagnostic-Code")[0],
        "smtp; 550 5.1.1 no such user"
    );
    assert_eq!(fields(failure, "Reporting-MTA"), ["dns; mta.test"]);
    assert_eq!(fields(failure, "Auto-Submitted"), ["auto-replied"]);
    // Asked for, so whole.
    assert!(
        failure.contains("Content-Type: message/rfc822") && failure.contains("\r\nThe body.\r\n")
    );
    let success = all
        .iter()
        .find(|(_, n)| n.contains("\r\nSubject: Mail was passed on\r\n"));
    let (_, success) = success.unwrap();
    assert_eq!(fields(success, "Final-Recipient"), ["rfc822; here1@a.test"]);
    assert_eq!(fields(success, "Action"), ["relayed"]);
    assert!(success.contains("text/rfc822-headers") && success.contains("Subject: An order"));
    assert!(!success.contains("The body."));

    // Our own reader of reports understands them.
    let read = reading::read(failure.as_bytes());
    assert_eq!(read.kind, Kind::Status);
    let said: Vec<_> = read
        .said
        .iter()
        .map(|said| (said.action, said.reporter.as_str()))
        .collect();
    assert_eq!(said, [(Action::Failed, "mta.test"); 2]);
    let read = reading::read(success.as_bytes());
    assert_eq!(
        (read.kind, read.said[0].action),
        (Kind::Status, Action::Arrived)
    );

    // The notice to a sender who is gone bounces, and that is all.
    let is_bounced =
        |e: &crate::support::node::Seen| e.kind == "bounced" && e.recipient == "gone6@a.test";
    node.events_until("the notice that bounces", |events| {
        events.iter().any(is_bounced)
    })
    .await;
    let more = notices_of(&host, 2).await;
    assert_eq!(more.len(), 2, "{more:#?}");
    let said = posthaste(
        node.dir.path(),
        "events tail --no-follow --kind accepted --json",
    )
    .await;
    let accepted = said.expect(0).json().len();
    assert_eq!(accepted, 6 + 1 + 1 + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_offers_dsn_tells_by_itself_unless_reports_come_to_us() {
    let said = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let lines = std::sync::Arc::clone(&said);
    let host = RemoteHost::scripted(move |stage, line, _| {
        if matches!(stage, Stage::Mail | Stage::Rcpt) {
            lines.lock().unwrap().push(line.to_owned());
        }
        match stage {
            Stage::Ehlo => Answer::Lines(vec!["250-remote.test".into(), "250 DSN".into()]),
            _ => usual(stage, line),
        }
    })
    .await;
    let node = node("", &host).await;
    let mut client = node.client().await;
    let to = "<here@a.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;h@a.test";
    submit(&mut client, "<ada@shop.test> RET=HDRS ENVID=e1", &[to]).await;
    node.events_of("delivered", 1).await;
    assert_eq!(
        *said.lock().unwrap(),
        [
            "MAIL FROM:<ada@shop.test> RET=HDRS ENVID=e1",
            "RCPT TO:<here@a.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;h@a.test"
        ]
    );
    // What it tells would come to the bounce address: so it is asked for failures, and we tell.
    let bounce = "[bounce]\ndomain = \"bounces.test\"\n[[inbound]]\nbind = \"127.0.0.1:0\"\n";
    let config = config(bounce, &host);
    let node = {
        node.node.stop().await;
        TestNode::start(node.dir, config).await
    };
    let mut client = node.client().await;
    submit(&mut client, "<ada@shop.test>", &[to]).await;
    let all = notices_of(&host, 1).await;
    assert_eq!(all.len(), 1);
    assert_eq!(fields(&all[0].1, "Action"), ["relayed"]);
    let said = said.lock().unwrap();
    assert!(
        said.iter()
            .any(|line| line == "RCPT TO:<here@a.test> NOTIFY=FAILURE ORCPT=rfc822;h@a.test"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_that_comes_later_is_passed_on_as_a_notice() {
    let host = host().await;
    let bounce = "[bounce]\ndomain = \"bounces.test\"\n[[inbound]]\nbind = \"127.0.0.1:0\"\n";
    let node = node(bounce, &host).await;
    let mut client = node.client().await;
    submit(
        &mut client,
        "<ada@shop.test> ENVID=e2",
        &["<here@a.test> ORCPT=rfc822;h@a.test"],
    )
    .await;
    node.events_of("delivered", 1).await;
    let taken = host.wait_for(1).await;
    let path = taken[0].mail.split(['<', '>']).nth(1).unwrap().to_owned();
    let mut reporter = Client::connect(node.node.inbound_addresses()[0]).await;
    for report in [
        "From: b@a.test\r\nSubject: Out of office\r\nAuto-Submitted: auto-replied\r\n\r\nI am away.\r\n",
        "From: MAILER-DAEMON@mx.test\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\nFinal-Recipient: rfc822; here@a.test\r\nAction: failed\r\nStatus: 5.2.1\r\nDiagnostic-Code: smtp; 550 5.2.1 closed\r\n\r\n--b--\r\n",
    ] {
        reporter.command("MAIL FROM:<>", 250).await;
        reporter.command(&format!("RCPT TO:<{path}>"), 250).await;
        reporter.command("DATA", 354).await;
        reporter.send(report.as_bytes()).await;
        reporter.command(".", 250).await;
    }
    let all = notices_of(&host, 1).await;
    assert_eq!(all.len(), 1);
    let (to, notice) = &all[0];
    assert_eq!(to, "ada@shop.test");
    assert_eq!(fields(notice, "Original-Envelope-Id"), ["e2"]);
    assert_eq!(fields(notice, "Final-Recipient"), ["rfc822; here@a.test"]);
    assert_eq!(fields(notice, "Original-Recipient"), ["rfc822; h@a.test"]);
    assert_eq!(
        fields(notice, "Diagnostic-Code"),
        ["smtp; 550 5.2.1 closed"]
    );
    assert_eq!(fields(notice, "Remote-MTA"), ["dns; mx.test"]);
    assert!(notice.contains("Subject: An order"), "{notice}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxed_servers_and_test_addresses_give_notices_too() {
    let host = host().await;
    let sandboxed = config("", &host).replace(
        "notify = \"dsn\"\n",
        "notify = \"dsn\"\ndelivery_type = \"sandbox\"\n",
    );
    let node = TestNode::start(TempDir::new().unwrap(), sandboxed).await;
    let mut client = node.client().await;
    let to = [
        "<hardbounce@bounce-testing.postmarkapp.com>",
        "<b@a.test> NOTIFY=SUCCESS",
    ];
    submit(&mut client, "<ada@shop.test>", &to).await;
    let to_ada =
        |e: &crate::support::node::Seen| e.kind == "delivered" && e.recipient == "ada@shop.test";
    node.events_until("both notices in the sink", |events| {
        events.iter().filter(|e| to_ada(e)).count() == 2
    })
    .await;
    assert!(host.taken().is_empty());
}

/// Who was told about, each with his message.
fn told(taken: &[Taken]) -> Vec<String> {
    let notices = notices(taken);
    let each = notices.iter().flat_map(|(_, notice)| {
        let id = fields(notice, "X-Posthaste-Message-Id")[0];
        let who = fields(notice, "Final-Recipient");
        who.into_iter().map(move |who| format!("{id} {who}"))
    });
    each.collect()
}

/// Messages and recipients of `events tail` of this kind whose recipient is the sender of all mail here.
async fn to_ada(dir: &std::path::Path, kind: &str) -> usize {
    let words = format!("events tail --no-follow --kind {kind} --json");
    let events = posthaste(dir, &words).await.json();
    events
        .iter()
        .filter(|e| e["recipient"] == "ada@shop.test")
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_between_an_outcome_and_its_notice_tells_it_once() {
    // Notices are taken only when the test says so.
    let open = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_open = std::sync::Arc::clone(&open);
    let host = RemoteHost::scripted(move |stage, line, _| match stage {
        Stage::Mail
            if line.contains("FROM:<>") && !is_open.load(std::sync::atomic::Ordering::Relaxed) =>
        {
            Answer::line("451 4.3.0 not yet")
        }
        _ => usual(stage, line),
    })
    .await;
    let dir = TempDir::new().unwrap();
    write_config(dir.path(), "");
    std::fs::write(dir.path().join("posthaste.toml"), config("", &host)).unwrap();
    let mut node = NodeProcess::start(dir.path()).await;
    let mut outcomes = 0;
    for round in 0..6 {
        let mut client = node.client().await;
        submit(
            &mut client,
            "<ada@shop.test>",
            &["<gone1@a.test>", "<gone2@b.test>"],
        )
        .await;
        outcomes += 2;
        let words = "events tail --no-follow --kind bounced --json";
        eventually("the outcomes", async || {
            let events = posthaste(dir.path(), words).await.json();
            (events.len() == outcomes).then_some(())
        })
        .await;
        // Before it was written, a moment after, and when it has failed to leave once.
        if round % 2 == 1 {
            eventually("the notice", async || {
                (to_ada(dir.path(), "accepted").await > round / 2).then_some(())
            })
            .await;
        }
        node.kill().await;
        node = NodeProcess::start(dir.path()).await;
    }
    open.store(true, std::sync::atomic::Ordering::Relaxed);
    within("the retries", posthaste(dir.path(), "queue retry --all")).await;
    // Outcomes that a kill or a slow machine has parted are told apart: how many notices there are does not matter.
    let taken = host.taken_until("all notices", |taken| told(taken).len() >= 12);
    let told = told(&taken.await);
    let once: std::collections::BTreeSet<&String> = told.iter().collect();
    assert_eq!((told.len(), once.len()), (12, 12), "{told:#?}");
    node.stop().await;
    posthaste(dir.path(), "audit").await.expect(0);
}

/// A sender that we did not write, and a reader of reports that we did not write.
const PYTHON: &str = r#"
import smtplib, sys, email, email.policy
c = smtplib.SMTP("127.0.0.1", int(sys.argv[1])); c.ehlo("python.test")
assert c.has_extn("dsn")
c.sendmail("ada@shop.test", ["gone@a.test"], b"From: ada@shop.test\r\nSubject: gr\xc3\xbc\xc3\x9fe\r\nMessage-ID: <p@shop.test>\r\n\r\nbody \xc3\xbc\r\n",
           mail_options=["BODY=8BITMIME", "RET=FULL", "ENVID=py+2B1"], rcpt_options=["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;g+2Bone@a.test"])
c.quit()
"#;

const READ: &str = r#"
import sys, email, email.policy
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
assert m.get_content_type() == "multipart/report" and m.get_param("report-type") == "delivery-status", m
assert not m.defects and m["In-Reply-To"] == "<p@shop.test>" and m["Date"] and m["Message-ID"], m
text, status, whole = m.iter_parts()
assert "gone@a.test" in text.get_content()
about, who = status.get_payload()
assert about["Original-Envelope-Id"] == "py+1" and about["Reporting-MTA"] == "dns; mta.test", about
assert who["Original-Recipient"] == "rfc822; g+one@a.test" and who["Action"] == "failed" and who["Status"] == "5.1.1", who
assert whole.get_content_type() == "message/global", whole.get_content_type()
import base64
raw = base64.b64decode(whole.get_payload() if isinstance(whole.get_payload(), str) else whole.get_payload(0).as_string())
assert raw.endswith(b"body \xc3\xbc\r\n"), raw
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_asks_for_a_notice_and_reads_it() {
    let host = host().await;
    let node = node("", &host).await;
    let port = node.smtp().port().to_string();
    let mut sender = Command::new("python3");
    let sent = within("smtplib", sender.args(["-c", PYTHON, &port]).output())
        .await
        .unwrap();
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
    let all = notices_of(&host, 1).await;
    let mut reader = Command::new("python3");
    let reader = reader
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut reader = reader.spawn().unwrap();
    let mut input = reader.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut input, all[0].1.as_bytes())
        .await
        .unwrap();
    drop(input);
    let read = within("Python's reader", reader.wait_with_output())
        .await
        .unwrap();
    assert!(
        read.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&read.stderr),
        all[0].1
    );
}
