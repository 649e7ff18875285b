//! Where bounces are to go: the reverse-path that remote hosts see, whoever wrote another one.

use std::time::Duration;

use posthaste::mail::{MessageId, NotOurs, Verp, VerpAddress, VerpSecret};

use crate::accounts::Fixture;
use crate::support::dns::Dns;
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, RemoteHost, Stage, Taken};

const SECRET: &str = "a secret of this test";

fn verp(secret: &str) -> Verp {
    let days = Duration::from_secs(60 * 86_400);
    Verp::new(VerpSecret::new(secret.as_bytes()), Vec::new(), days)
}

/// Of the MAIL line.
fn reverse_path(taken: &Taken) -> &str {
    let (_, rest) = taken.mail.split_once('<').unwrap();
    rest.split_once('>').unwrap().0
}

fn from(address: &str) -> Vec<u8> {
    format!("Return-Path: <liar@example.net>\r\nFrom: A <{address}>\r\nSubject: s\r\n\r\nbody\r\n")
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_leaves_from_an_address_that_names_it_and_nobody_can_forge() {
    let dns = Dns::start().await;
    let config = format!(
        "[dns]\nservers = [\"{}\"]\n[bounce]\nsecrets = [\"{SECRET}\"]\n",
        dns.address
    );
    let fixture = Fixture::start(&config).await;
    fixture.made("domain add shop.test").await;
    let mut client = fixture.node.client().await;

    // Its alias is not there yet, and the node has no domain of its own: as submitted.
    client.submit(&["b@a.test"], &from("ada@shop.test")).await;
    fixture.host.wait_for(1).await;
    dns.cname("pm-bounces.shop.test", "mta.test");
    fixture.run("domain verify shop.test", 1).await;
    let text = client.submit(&["b@a.test"], &from("ada@shop.test")).await;
    fixture.host.wait_for(2).await;
    let two = ["b@a.test", "c@a.test"];
    let of_two = client.submit(&two, &from("ada@shop.test")).await;
    fixture.host.wait_for(3).await;
    client.submit(&["b@a.test"], &from("ada@else.test")).await;
    fixture.host.wait_for(4).await;
    // A bounce is never bounced.
    client.command("MAIL FROM:<>", 250).await;
    client.command("RCPT TO:<b@a.test>", 250).await;
    client.command("DATA", 354).await;
    client.send(&from("ada@shop.test")).await;
    client.command(".", 250).await;
    fixture.host.wait_for(5).await;
    let with_domain = |config: String| config + "domain = \"bounces.test\"\n";
    fixture.node.reload(with_domain).await.unwrap();
    client.submit(&["b@a.test"], &from("ada@else.test")).await;
    fixture.host.wait_for(6).await;

    let taken = fixture
        .host
        .taken_until("six", |taken| taken.len() == 6)
        .await;
    let paths: Vec<&str> = taken.iter().map(reverse_path).collect();
    for place in [0, 3] {
        assert_eq!(paths[place], "sender@example.com");
    }
    assert_eq!(paths[4], "");
    for one in &taken {
        let content = String::from_utf8_lossy(&one.content);
        assert!(!content.contains("Return-Path"), "{content}");
    }
    let (local, domain) = paths[1].split_once('@').unwrap();
    assert_eq!(domain, "pm-bounces.shop.test");
    let now = posthaste::clock::wall_unix_ms();
    let message: MessageId = text.parse().unwrap();
    let recipient = Some(0);
    let said = verp(SECRET).read(local, now).unwrap();
    assert_eq!(said, VerpAddress { message, recipient });
    assert_eq!(verp("another").read(local, now), Err(NotOurs::Foreign));
    // Both of a site share a transaction, so the address names the message.
    let (local, _) = paths[2].split_once('@').unwrap();
    let said = verp(SECRET).read(local, now).unwrap();
    assert_eq!((said.message.to_string(), said.recipient), (of_two, None));
    assert_eq!(taken[2].recipients, two);
    assert!(paths[5].ends_with("@bounces.test"), "{paths:?}");

    // What was used is told.
    fixture.node.events_of("delivered", 7).await;
    let shown = posthaste(fixture.node.dir.path(), &format!("spool show {text}")).await;
    let shown = shown.expect(0).stdout;
    assert!(
        shown.contains(&format!("bounces to    <{}>", paths[1])),
        "{shown}"
    );
    let told = posthaste(fixture.node.dir.path(), "events tail --no-follow --json").await;
    let told = told.expect(0).stdout;
    assert_eq!(told.matches(paths[2]).count(), 2, "{told}");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_of_what_was_the_bounce_domain_before_is_not_used_and_named() {
    let dns = Dns::start().await;
    let config = format!(
        "[dns]\nservers = [\"{}\"]\n[bounce]\nsecrets = [\"{SECRET}\"]\ndomain = \"old.test\"\n",
        dns.address
    );
    let fixture = Fixture::start(&config).await;
    fixture.made("domain add shop.test").await;
    dns.cname("pm-bounces.shop.test", "old.test");
    fixture.run("domain verify shop.test", 1).await;
    let mut client = fixture.node.client().await;
    let mut sent = 0;
    let mut reverse_domain = async || {
        client.submit(&["b@a.test"], &from("ada@shop.test")).await;
        sent += 1;
        let taken = fixture
            .host
            .taken_until("it", |taken| taken.len() == sent)
            .await;
        let (_, domain) = reverse_path(&taken[sent - 1]).split_once('@').unwrap();
        domain.to_owned()
    };
    assert_eq!(reverse_domain().await, "pm-bounces.shop.test");
    fixture.run("domain check shop.test", 1).await;

    let renamed = |config: String| config.replace("\"old.test\"", "\"new.test\"");
    fixture.node.reload(renamed).await.unwrap();
    assert_eq!(reverse_domain().await, "new.test");
    let shown = fixture.made("domain show shop.test").await;
    assert_eq!(shown["return_path_verified"], false, "{shown}");
    let said = fixture.run("domain check shop.test", 1).await;
    let advice =
        "Let the CNAME lead to new.test: until then its mail leaves with reverse-paths of new.test";
    assert!(
        said.contains("return_path_elsewhere") && said.contains(advice),
        "{said}"
    );
    let told = fixture.node.events_of("domain_changed", 2).await;
    let named = "found: error return_path_elsewhere CNAME pm-bounces.shop.test";
    assert!(told[1].detail.contains(named), "{told:?}");

    dns.remove("pm-bounces.shop.test");
    dns.cname("pm-bounces.shop.test", "new.test");
    fixture.run("domain verify shop.test", 1).await;
    assert_eq!(reverse_domain().await, "pm-bounces.shop.test");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_recipient_is_explained_with_its_reverse_path() {
    let host = RemoteHost::scripted(|stage, _, _| match stage {
        Stage::Rcpt => Answer::line("450 4.2.1 later"),
        _ => Answer::Usual,
    })
    .await;
    let node = crate::support::node::TestNode::that_waits_with(&format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n[bounce]\ndomain = \"bounces.test\"\n",
        host.address
    ))
    .await;
    let mut client = node.client().await;
    let id = client.submit(&["b@a.test"], &from("ada@else.test")).await;
    node.events_of("deferred", 1).await;
    let said = posthaste(node.dir.path(), &format!("queue explain {id}")).await;
    let said = said.expect(0).stdout;
    assert!(said.contains(" with the reverse-path <b+"), "{said}");
    node.node.stop().await;
}
