//! What comes back by mail: taken for addresses that the node made, durable as events, and refused for everybody else.

use std::net::SocketAddr;

use posthaste::event::{Event, EventKind};

use crate::accounts::Fixture;
use crate::support::client::Client;
use crate::support::process::posthaste;
use crate::support::remote_host::RemoteHost;

const CONFIG: &str = "[bounce]\ndomain = \"bounces.test\"\ncomplaints_to = \"fbl@bounces.test\"\n[[inbound]]\nbind = \"127.0.0.1:0\"\nsize_max = \"1MiB\"\n[account]\nnotices_from = \"ops@example.com\"\n";

struct Scene {
    fixture: Fixture,
}

impl Scene {
    async fn start() -> Self {
        let host = RemoteHost::start().await;
        let config = format!(
            "{CONFIG}[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            host.address
        );
        let node = crate::support::node::TestNode::with(&config).await;
        Self {
            fixture: Fixture { node, host },
        }
    }

    fn inbound(&self) -> SocketAddr {
        self.fixture.node.node.inbound_addresses()[0]
    }

    /// Sends a message; the address that its bounces go to.
    async fn sent(&self, recipients: &[&str], delivered: usize) -> String {
        let mut client = self.fixture.node.client().await;
        let content = b"From: a@example.com\r\nSubject: s\r\n\r\nbody\r\n";
        let before = self
            .fixture
            .host
            .taken_until("what was before", |_| true)
            .await;
        client.submit(recipients, content).await;
        self.fixture.node.events_of("delivered", delivered).await;
        let taken = self
            .fixture
            .host
            .taken_until("the message", |taken| taken.len() > before.len())
            .await;
        let mail = &taken.last().unwrap().mail;
        let (_, rest) = mail.split_once('<').unwrap();
        rest.split_once('>').unwrap().0.to_owned()
    }

    /// A transaction with the inbound listener: the replies to RCPT and to the final dot, if it comes to that.
    async fn report(&self, to: &str, content: &str) -> (String, Option<String>) {
        let mut client = Client::connect(self.inbound()).await;
        client.command("MAIL FROM:<>", 250).await;
        client.send(format!("RCPT TO:<{to}>\r\n").as_bytes()).await;
        let (code, text) = client.reply().await;
        let said = format!("{code} {text}");
        if code != 250 {
            return (said, None);
        }
        client.command("DATA", 354).await;
        client.send(content.as_bytes()).await;
        client.send(b".\r\n").await;
        let (code, text) = client.reply().await;
        (said, Some(format!("{code} {text}")))
    }

    fn later(&self) -> Vec<(u64, Event<'static>)> {
        self.told(EventKind::BouncedLater)
    }

    fn told(&self, kind: EventKind) -> Vec<(u64, Event<'static>)> {
        let log = &self.fixture.node.node.spool().events;
        let records = log.records_from(log.start()).flatten();
        let mut found = Vec::new();
        for (record, _) in records {
            let payload: &'static [u8] = record.payload.to_vec().leak();
            let event = Event::decode(payload).unwrap().unwrap();
            if event.kind == kind {
                found.push((record.position, event));
            }
        }
        found
    }
}

fn dsn(recipients: &[(&str, &str, &str)]) -> String {
    let mut text = "From: MAILER-DAEMON@mx.test\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\n".to_owned();
    for (recipient, action, diagnostic) in recipients {
        text += &format!(
            "Final-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; {diagnostic}\r\n\r\n"
        );
    }
    text + "--b--\r\n"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_by_mail_is_a_further_event_of_its_recipient_and_survives_a_restart() {
    let scene = Scene::start().await;
    let one = scene.sent(&["b@a.test"], 1).await;
    let two = scene.sent(&["c@a.test", "d@a.test"], 3).await;

    let unknown = "550 5.1.1 no such user";
    // Hosts change the case of a local-part although they may not.
    let content = dsn(&[("elsewhere@b.test", "failed", unknown)]);
    let (rcpt, dot) = scene.report(&one.to_uppercase(), &content).await;
    assert!(rcpt.starts_with("250 "), "{rcpt}");
    let dot = dot.unwrap();
    assert!(dot.starts_with("250 2.0.0 OK "), "{dot}");
    // Acknowledged, so it is there.
    let later = scene.later();
    assert_eq!(later.len(), 1);
    let event = &later[0].1;
    assert_eq!((event.recipient, event.server), ("b@a.test", "app"));
    assert_eq!(event.cause, "recipient-unknown");
    assert_eq!(event.reply, unknown);
    // Whom it names was forwarded to: that says nothing for ours.
    assert_eq!(
        (event.judged.stage, event.judged.reaction),
        ("report", "bounce")
    );
    assert_eq!(event.notice, content.as_bytes());
    assert_eq!(
        dot.rsplit(' ').next().unwrap(),
        event.message_id.to_string()
    );

    // Of several recipients the report says whom; of its events one has the mail.
    let content = dsn(&[
        ("D@a.test", "failed", "552 5.2.2 full"),
        ("c@a.test", "failed", unknown),
        ("x@a.test", "failed", unknown),
    ]);
    scene.report(&two, &content).await.1.unwrap();
    let later = scene.later();
    let said: Vec<_> = later[1..]
        .iter()
        .map(|(_, e)| (e.recipient, e.recipient_number, e.cause))
        .collect();
    assert_eq!(
        said,
        [
            ("c@a.test", 0, "recipient-unknown"),
            ("d@a.test", 1, "recipient-full")
        ]
    );
    assert_eq!(later[1].1.judged.reaction, "hard");
    assert_eq!(later[2].1.notice_at, Some(later[1].0));
    assert!(later[2].1.notice.is_empty());

    // A delay is no bounce; what else comes back is told for what it is.
    let delayed = dsn(&[("b@a.test", "delayed", "450 4.2.1 later")]);
    assert!(
        scene
            .report(&one, &delayed)
            .await
            .1
            .unwrap()
            .starts_with("250")
    );
    assert_eq!(scene.later().len(), 3);
    let absent = "Subject: I am away\r\nAuto-Submitted: auto-replied\r\n\r\nuntil Monday\r\n";
    assert!(
        scene
            .report(&one, absent)
            .await
            .1
            .unwrap()
            .starts_with("250")
    );
    assert_eq!(scene.later()[3].1.cause, "auto-reply");

    let Scene { fixture } = scene;
    let node = fixture.node.restart().await;
    let scene = Scene {
        fixture: Fixture { node, ..fixture },
    };
    assert_eq!(scene.later().len(), 4);
    // Its outcome stays what it was, and it is known from the log alone.
    scene
        .report(&one, &dsn(&[("b@a.test", "failed", unknown)]))
        .await;
    assert_eq!(scene.later().len(), 5);
    posthaste(scene.fixture.node.dir.path(), "audit")
        .await
        .expect(0);
    let taken = scene.fixture.host.taken_until("all", |_| true).await;
    assert_eq!(taken.len(), 2, "nothing was sent because of a report");
    scene.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_that_this_node_did_not_ask_for() {
    let scene = Scene::start().await;
    let good = scene.sent(&["b@a.test"], 1).await;
    let (local, _) = good.split_once('@').unwrap();
    let last = if good.contains("a@") { "b" } else { "a" };
    let forged = format!("{}{last}@bounces.test", &local[..local.len() - 1]);
    // The name of the secret stands behind 18 octets.
    let mut foreign = local.to_owned().into_bytes();
    foreign[2 + 30] = if foreign[2 + 30] == b'a' { b'b' } else { b'a' };
    let foreign = String::from_utf8(foreign).unwrap() + "@bounces.test";
    for (to, expected) in [
        (
            forged.as_str(),
            "550 5.7.1 This bounce address was not made here",
        ),
        (
            foreign.as_str(),
            "550 5.7.1 This bounce address was not made here",
        ),
        ("someone@bounces.test", "550 5.1.1 No such address"),
        ("b@a.test", "550 5.7.1 Relaying denied"),
        ("postmaster@a.test", "550 5.7.1 Relaying denied"),
        ("postmaster2@bounces.test", "550 5.1.1 No such address"),
    ] {
        let (said, dot) = scene.report(to, "").await;
        assert_eq!((said.as_str(), dot), (expected, None), "{to}");
    }
    let elsewhere = format!("{local}@a.test");
    assert_eq!(
        scene.report(&elsewhere, "").await.0,
        "550 5.7.1 Relaying denied"
    );
    let elsewhere = format!("{local}@mta.test");
    assert_eq!(
        scene.report(&elsewhere, "").await.0,
        "550 5.7.1 Relaying denied"
    );
    // From a host that does not use the null reverse-path.
    let mut client = Client::connect(scene.inbound()).await;
    let offered = client.command("EHLO host.test", 250).await;
    for keyword in ["AUTH", "DSN", "XCLIENT", "FUTURERELEASE"] {
        assert!(!offered.contains(keyword), "{offered}");
    }
    client.command("AUTH PLAIN AGEAYg==", 502).await;
    client
        .command("MAIL FROM:<user@a.test> SIZE=9000000", 552)
        .await;
    client.command("MAIL FROM:<user@a.test>", 250).await;
    client.command("DATA", 503).await;
    client.command(&format!("RCPT TO:<{good}>"), 250).await;
    client.command("DATA", 354).await;
    // Longer than is kept.
    let long = "Subject: long\r\n\r\n".to_owned() + &"0123456789abcde\r\n".repeat(20_000);
    client.send(long.as_bytes()).await;
    client.command(".", 250).await;
    let later = scene.later();
    let event = &later.last().unwrap().1;
    assert_eq!(event.notice, &long.as_bytes()[..128 * 1024]);
    scene.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_about_one_message_have_an_end() {
    let scene = Scene::start().await;
    let good = scene.sent(&["b@a.test"], 1).await;
    let rcpt = format!("RCPT TO:<{good}>");
    let mut client = Client::connect(scene.inbound()).await;
    for _ in 0..199 {
        client.command("MAIL FROM:<>", 250).await;
        client.command(&rcpt, 250).await;
        client.command("DATA", 354).await;
        client.send(b"x\r\n").await;
        client.command(".", 250).await;
    }
    // Those that come at the same time do not pass it together.
    let mut other = Client::connect(scene.inbound()).await;
    for client in [&mut client, &mut other] {
        client.command("MAIL FROM:<>", 250).await;
        client.command(&rcpt, 250).await;
    }
    client.command("DATA", 354).await;
    let too_many = "4.7.1 Too many reports about this message";
    assert!(other.command("DATA", 450).await.contains(too_many));
    client.send(b"x\r\n").await;
    client.command(".", 250).await;
    client.command("MAIL FROM:<>", 250).await;
    assert!(client.command(&rcpt, 450).await.contains(too_many));
    assert_eq!(scene.later().len(), 200);
    scene.fixture.stop().await;
}

/// What a feedback loop sends: its recipient blacked out, with what it shows of the message.
fn complaint(fields: &str, original: &str) -> String {
    format!(
        "From: fbl@provider.test\r\nSubject: FW: s\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n--b\r\n\r\nSpam.\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: loop/1\r\nVersion: 1\r\n{fields}\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n{original}Subject: s\r\nTo: redacted@provider.test\r\n\r\nbody\r\n--b--\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feedback_loop_is_followed_to_its_recipient_although_it_blacks_him_out() {
    let scene = Scene::start().await;
    let fbl = "FBL@bounces.test";
    let mut ids = Vec::new();
    let mut paths = Vec::new();
    for (recipients, delivered) in [
        (&["b@a.test"][..], 1),
        (&["c@a.test"], 2),
        (&["d@a.test"], 3),
        (&["e@a.test"], 4),
        (&["f@a.test", "g@a.test"], 6),
        (&["h@a.test"], 7),
    ] {
        paths.push(scene.sent(recipients, delivered).await);
        let accepted = scene.told(EventKind::Accepted);
        ids.push(accepted.last().unwrap().1.message_id);
    }
    let own = |n: usize| format!("X-PM-Message-Id: {}\r\n", ids[n]);
    // By the address that it left from, as the loop or the last host shows it; by our field; by the Message-ID that we gave it.
    let mail_from = format!("Original-Mail-From: <{}>\r\n", paths[0]);
    let return_path = format!(
        "Return-Path: <forwarder@x.test>\r\nReturn-Path: <{}>\r\n",
        paths[1]
    );
    let by_field = format!("Message-ID: <{}@mta.test>\r\n", ids[3]);
    // He has it forwarded, by a host that makes the reverse-path its own.
    let by_forwarder = format!(
        "Original-Mail-From: <SRS0=Ab3/=5K=bounces.test={}@forwarder.test>\r\n",
        paths[5].split_once('@').unwrap().0
    );
    let hidden = "Original-Rcpt-To: <redacted@provider.test>\r\n";
    let shown = "Original-Rcpt-To: <G@a.test>\r\n";
    for (fields, original, expected) in [
        (mail_from.as_str(), "", Some("b@a.test")),
        (&by_forwarder, "", Some("h@a.test")),
        (hidden, &return_path, Some("c@a.test")),
        (hidden, &own(2), Some("d@a.test")),
        (hidden, &by_field, Some("e@a.test")),
        // Of two, whom the loop names; else nobody, which is told all the same.
        (shown, &own(4), Some("g@a.test")),
        (hidden, &own(4), Some("")),
        // Of nobody's mail.
        (hidden, "Message-ID: <else@x.test>\r\n", None),
        (
            hidden,
            "X-PM-Message-Id: 0197a1b2-0000-7000-8000-000000000000\r\n",
            None,
        ),
    ] {
        let before = scene.told(EventKind::Complained).len();
        let content = complaint(fields, original);
        let (rcpt, dot) = scene.report(fbl, &content).await;
        let dot = dot.unwrap();
        assert!(
            rcpt.starts_with("250 ") && dot.starts_with("250 2.0.0 OK "),
            "{rcpt} {dot}"
        );
        let told = scene.told(EventKind::Complained);
        let new: Vec<_> = told[before..].iter().map(|(_, e)| e.recipient).collect();
        assert_eq!(new, Vec::from_iter(expected), "{content}");
    }
    // Nothing but complaints has anything to say there, whatever it shows.
    let bounce = dsn(&[("b@a.test", "failed", "550 5.1.1 no such user")]) + &own(0);
    for content in [
        bounce.as_str(),
        "Subject: Your application\r\n\r\nConfirm it.\r\n",
    ] {
        let dot = scene.report(fbl, content).await.1.unwrap();
        assert_eq!(dot, "250 2.0.0 OK about no message that is known here");
    }
    assert_eq!(scene.later().len(), 0);
    // Who complained is suppressed; of whom nobody knows, is not.
    scene.fixture.node.events_of("suppressed", 6).await;
    posthaste(scene.fixture.node.dir.path(), "audit")
        .await
        .expect(0);
    scene.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_off_leaves_nothing_behind_whoever_else_it_is_for() {
    let scene = Scene::start().await;
    scene.sent(&["b@a.test"], 1).await;
    // A message of this moment, which may not be in the log yet: nobody can say whether there is such a one.
    let id = scene.told(EventKind::Accepted)[0].1.message_id.to_string();
    let other = if id.ends_with('0') { '1' } else { '0' };
    let content = complaint(
        "",
        &format!("X-PM-Message-Id: {}{other}\r\n", &id[..id.len() - 1]),
    );
    let mut client = Client::connect(scene.inbound()).await;
    client.command("MAIL FROM:<>", 250).await;
    for to in ["postmaster", "fbl@bounces.test"] {
        client.command(&format!("RCPT TO:<{to}>"), 250).await;
    }
    client.command("DATA", 354).await;
    client.send(content.as_bytes()).await;
    client.send(b".\r\n").await;
    let (code, text) = client.reply().await;
    assert_eq!(code, 451, "{text}");
    // It will come again, for both.
    assert_eq!(scene.told(EventKind::PeopleMail), []);
    scene.fixture.stop().await;
}

/// Where one of both fails its sender comes again: a letter that was taken before would be there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_taken_after_the_report_that_came_with_it() {
    let scene = Scene::start().await;
    let ours = scene.sent(&["b@a.test"], 1).await;
    let mut client = Client::connect(scene.inbound()).await;
    client.command("MAIL FROM:<>", 250).await;
    for to in ["postmaster", &ours] {
        client.command(&format!("RCPT TO:<{to}>"), 250).await;
    }
    client.command("DATA", 354).await;
    let content = dsn(&[("b@a.test", "failed", "550 5.1.1 no such user")]);
    client.send(content.as_bytes()).await;
    client.command(".", 250).await;
    let (report, letter) = (scene.later()[0].0, scene.told(EventKind::PeopleMail)[0].0);
    assert!(report < letter, "{report} {letter}");
    scene.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_comes_back_by_the_address_that_a_forwarder_made_of_ours() {
    let scene = Scene::start().await;
    let ours = scene.sent(&["b@a.test"], 1).await;
    let (local_part, domain) = ours.split_once('@').unwrap();
    let content = dsn(&[("b@a.test", "failed", "550 5.1.1 no such user")]);
    let to = format!("SRS1=AbCd=first.test==HHHH=TT={domain}={local_part}@{domain}");
    let (rcpt, dot) = scene.report(&to, &content).await;
    assert!(rcpt.starts_with("250 "), "{rcpt}");
    assert!(dot.unwrap().starts_with("250 "));
    assert_eq!(scene.later()[0].1.recipient, "b@a.test");
    // Nobody relays by it, and a forged one is none.
    let elsewhere = format!("SRS0=HHHH=TT={domain}={local_part}@forwarder.test");
    let forged = format!(
        "SRS0=HHHH=TT={domain}=b+{}@{domain}",
        local_part[2..].chars().rev().collect::<String>()
    );
    for (to, code) in [(elsewhere, "550 5.7.1"), (forged, "550 5.7.1")] {
        let (rcpt, _) = scene.report(&to, &content).await;
        assert!(rcpt.starts_with(code), "{to}: {rcpt}");
    }
    scene.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_reports_with_a_genuine_address_change_nothing() {
    let scene = Scene::start().await;
    let good = scene.sent(&["b@a.test"], 1).await;
    let nested: String = (0..1_000)
        .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
        .collect();
    let within = "Content-Type: message/rfc822\r\n\r\n".repeat(1_000);
    let unknown = "550 5.1.1 no such user";
    // It says both; a status that its own words deny; of everybody else.
    let both = dsn(&[
        ("b@a.test", "delivered", "250 2.1.5 ok"),
        ("b@a.test", "failed", unknown),
    ]);
    let both_again = dsn(&[
        ("b@a.test", "failed", unknown),
        ("b@a.test", "delivered", "250 2.1.5 ok"),
    ]);
    // It names somebody, in a way that cannot be read.
    let somebody = dsn(&[("somebody (a friend) c@a.test", "failed", unknown)]);
    let denied = dsn(&[("b@a.test", "failed", unknown)]).replace("5.1.1\r\n", "2.1.5\r\n");
    let others = dsn(&[
        ("c@a.test", "failed", unknown),
        ("d@a.test", "failed", unknown),
    ]);
    let words = "From: MAILER-DAEMON@x.test\r\nSubject: failure notice\r\n\r\n<b@a.test>:\r\n550 5.1.1 no such user\r\n";
    for content in [
        &nested,
        &within,
        &both,
        &both_again,
        &somebody,
        &denied,
        &others,
        words,
    ] {
        let dot = scene.report(&good, content).await.1.unwrap();
        assert!(dot.starts_with("250 "), "{dot}");
    }
    // More than may be sent.
    let long = "x".repeat(70) + "\r\n";
    let dot = scene.report(&good, &long.repeat(20_000)).await.1.unwrap();
    assert!(dot.starts_with("552 5.3.4 "), "{dot}");
    assert_eq!(scene.told(EventKind::Suppressed), []);
    // He gets his mail as before.
    scene.sent(&["b@a.test"], 2).await;
    posthaste(scene.fixture.node.dir.path(), "audit")
        .await
        .expect(0);
    scene.fixture.stop().await;
}
