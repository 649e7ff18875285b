//! What may stand in From: a domain proved by the DNS, an address confirmed by its owner; seen from the outside, with mail.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::accounts::Fixture;
use crate::support::client::{Client, auth_plain};
use crate::support::dns::Dns;
use crate::support::node::TestNode;
use crate::support::process::{http, posthaste};
use crate::support::remote_host::{RemoteHost, Taken};
use crate::support::within;

/// A strict server and its client, authenticated once for all.
async fn strict(fixture: &Fixture) -> (Client, String) {
    let made = fixture.made("server create shop --set strict=true").await;
    assert_eq!(made["senders"], "verified");
    let token = fixture.made("token create shop").await;
    let token = token["token"].as_str().unwrap().to_owned();
    let mut client = fixture.client().await;
    client.command(&auth_plain(&token), 235).await;
    (client, token)
}

/// The last reply to a message with this From.
async fn send_as(client: &mut Client, from: &str) -> (u16, String) {
    let content = format!("From: {from}\r\nTo: b@example.org\r\nSubject: s\r\n\r\nbody\r\n");
    client
        .try_submit("b@example.org", content.as_bytes())
        .await
        .unwrap()
}

async fn swaks(port: u16, token: &str, from: &str) -> String {
    let mut swaks = Command::new("swaks");
    swaks.args(["--server", "127.0.0.1", "--port", &port.to_string()]);
    swaks.args(["--from", from, "--to", "bo@example.org", "--auth", "PLAIN"]);
    swaks.args(["--auth-user", token, "--auth-password", token]);
    let output = swaks.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within("swaks", output)
        .await
        .unwrap_or_else(|e| panic!("swaks: {e}; scripts/test installs what the tests need"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn dns_config(dns: &Dns) -> String {
    format!("[dns]\nservers = [\"{}\"]\n", dns.address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_may_name_a_domain_from_the_next_message_on_once_its_record_is_published() {
    let dns = Dns::start().await;
    let fixture = Fixture::start(&dns_config(&dns)).await;
    let (mut client, token) = strict(&fixture).await;
    let (code, said) = send_as(&mut client, "Ada <ada@shop.test>").await;
    assert_eq!(code, 550, "{said}");
    assert!(
        said.starts_with("5.7.1 The 'From' address you supplied (ada@shop.test) is not a Sender"),
        "{said}"
    );
    let swaks_said = swaks(fixture.port(), &token, "ada@shop.test").await;
    assert!(swaks_said.contains("550 5.7.1"), "{swaks_said}");

    // What is printed is a piece of a zone file.
    let zone = fixture.run("domain add Shop.test", 0).await;
    let record = zone.lines().find(|l| l.contains("._domainkey.")).unwrap();
    let (host, rest) = record.split_once(". IN TXT (").unwrap();
    assert_eq!(rest, "");
    let strings = zone.lines().filter(|l| l.starts_with("    \""));
    let text: String = strings.map(|l| l.split('"').nth(1).unwrap()).collect();
    assert!(text.starts_with("k=rsa; p=MII"), "{zone}");
    assert!(
        zone.contains("\npm-bounces.shop.test. IN CNAME mta.test.\n"),
        "{zone}"
    );

    let missing = fixture.run("domain verify shop.test", 1).await;
    assert!(missing.contains("not there yet"), "{missing}");
    dns.fail(true);
    let failed = fixture.run("domain verify shop.test", 69).await;
    assert!(failed.contains("nothing has changed"), "{failed}");
    dns.fail(false);
    client.command("RSET", 250).await;
    assert_eq!(send_as(&mut client, "ada@shop.test").await.0, 550);

    // No answer of before is believed once the record is there.
    dns.txt(host, &text);
    let partly = fixture.run("domain verify shop.test", 1).await;
    assert!(partly.contains("DKIM: found"), "{partly}");
    client.command("RSET", 250).await;
    assert_eq!(send_as(&mut client, "Ada <ada@SHOP.test>").await.0, 250);
    dns.cname("pm-bounces.shop.test", "MTA.test");
    fixture.run("domain verify shop.test", 0).await;
    let swaks_said = swaks(fixture.port(), &token, "bo@shop.test").await;
    assert!(swaks_said.contains("250 2.0.0 OK"), "{swaks_said}");
    for from in [
        "ada@sub.shop.test",
        "ada@test",
        "ada@shop.test, bo@shop.test",
        "boss@bank.test <ada@shop.test>",
        "ada@shop.test <boss@bank.test>",
        "team: ada@shop.test;",
        "<boss@bank.test> <ada@shop.test>",
    ] {
        let (code, said) = send_as(&mut client, from).await;
        assert_eq!(code, 550, "{from}: {said}");
        client.command("RSET", 250).await;
    }

    // A rotation: the old key serves until the new one's record is there.
    let rotated = fixture.made("domain rotate-dkim shop.test").await;
    assert_eq!(rotated["dkim_active"]["name"], host);
    let pending = &rotated["dkim_pending"];
    fixture.run("domain rotate-dkim shop.test", 1).await;
    fixture.run("domain verify shop.test", 1).await;
    let (name, text) = (pending["name"].as_str(), pending["text"].as_str());
    dns.txt(name.unwrap(), text.unwrap());
    fixture.run("domain verify shop.test", 0).await;
    let shown = fixture.made("domain show shop.test").await;
    assert_eq!(&shown["dkim_active"], pending);
    assert_eq!(shown["dkim_revoked"]["name"], host);

    let listed = fixture.run("domain ls", 0).await;
    assert!(listed.contains("shop.test"), "{listed}");
    fixture
        .run("domain edit shop.test --return-path none", 0)
        .await;
    fixture.run("domain rm shop.test", 0).await;
    assert_eq!(send_as(&mut client, "ada@shop.test").await.0, 550);
    fixture.run("domain rm shop.test", 1).await;
    fixture.run("domain add gmail.com", 2).await;
    fixture.stop().await;
}

/// The path of the link in a mail.
fn link(mail: &Taken) -> String {
    let content = String::from_utf8_lossy(&mail.content);
    let url = content
        .lines()
        .find(|l| l.starts_with("https://mail.test/"));
    let url = url.unwrap_or_else(|| panic!("{content}"));
    url.trim_start_matches("https://mail.test").to_owned()
}

async fn press(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: node.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("a page", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_good_once_the_link_in_its_mail_was_followed() {
    let host = RemoteHost::start().await;
    let config = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\ntrusted = []\n[account]\nnotices_from = \"notices@mail.test\"\n",
        host.address
    );
    let config = crate::support::node::COMMON
        .replace("[http]\n", "[http]\npublic_url = \"https://mail.test\"\n")
        + &config;
    let node = TestNode::start(tempfile::tempdir().unwrap(), config).await;
    let fixture = Fixture { node, host };
    let (mut client, token) = strict(&fixture).await;
    let added = fixture
        .run("sender add Ada@shop.test --name Ada --note It-is-me", 0)
        .await;
    assert!(added.contains("a mail with a link"), "{added}");
    let taken = fixture
        .host
        .taken_until("the confirmation", |taken| !taken.is_empty())
        .await;
    let mail = taken[0].clone();
    assert_eq!(mail.recipients, ["Ada@shop.test"]);
    assert!(mail.mail.contains("<notices@mail.test>"), "{}", mail.mail);
    let content = String::from_utf8_lossy(&mail.content);
    for line in [
        "From: notices@mail.test\r\n",
        "To: <Ada@shop.test>\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "\r\n> It-is-me\r\n",
        "\r\nMessage-ID: <",
    ] {
        assert!(content.contains(line), "{line:?} in {content}");
    }
    let path = link(&mail);
    let (code, said) = send_as(&mut client, "ada@shop.test").await;
    assert_eq!(code, 550, "{said}");
    assert!(said.contains("not confirmed yet"), "{said}");

    // The link outlives a restart, and looking at it does nothing.
    let node = fixture.node.restart().await;
    let fixture = Fixture { node, ..fixture };
    let address = fixture.node.node.http_address();
    let mut client = fixture.client().await;
    client.command(&auth_plain(&token), 235).await;
    for _ in 0..2 {
        let (code, page) = http(address, &path, "").await;
        assert_eq!(code, 200);
        assert!(page.contains("Ada@shop.test"), "{page}");
    }
    assert_eq!(send_as(&mut client, "ada@shop.test").await.0, 550);
    fixture.run("sender resend ada@shop.test", 0).await;
    fixture.host.wait_for(2).await;
    let forged = path.replace("/confirm/A", "/confirm/B");
    assert!(press(address, &forged).await.contains("404 Not Found"));
    client.command("RSET", 250).await;
    assert_eq!(send_as(&mut client, "ada@shop.test").await.0, 550);

    assert!(press(address, &path).await.contains("Confirmed"));
    client.command("RSET", 250).await;
    assert_eq!(send_as(&mut client, "Ada <ADA@shop.test>").await.0, 250);
    assert_eq!(send_as(&mut client, "bo@shop.test").await.0, 550);
    client.command("RSET", 250).await;
    assert!(press(address, &path).await.contains("Already confirmed"));
    let shown = fixture.made("sender show ada@shop.test").await;
    assert_eq!(
        (&shown["confirmed"], &shown["name"]),
        (&true.into(), &"Ada".into())
    );
    fixture.run("sender resend ada@shop.test", 1).await;
    fixture
        .run("sender edit ada@shop.test --reply-to re@shop.test", 0)
        .await;
    let listed = fixture.run("sender ls", 0).await;
    assert!(listed.contains("re@shop.test"), "{listed}");
    fixture.run("sender rm ada@shop.test", 0).await;
    assert_eq!(send_as(&mut client, "ada@shop.test").await.0, 550);
    assert!(press(address, &path).await.contains("Unknown link"));
    // The node's own mail is mail: every recipient of it has an outcome.
    fixture.node.events_of("delivered", 3).await;
    let audit = posthaste(fixture.node.dir.path(), "audit").await;
    audit.expect(0);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_pool_for_the_nodes_own_mail_a_signature_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[node]\nhostname = \"mta.test\"\ndata_dir = \"data\"\n[http]\nbind = \"127.0.0.1:0\"\n[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\n[[server]]\nname = \"app\"\nsenders = \"any\"\n[spool]\nmail_segment = \"4MiB\"\nevent_segment = \"1MiB\"\nreserve = \"1MiB\"\nrefuse_below = \"1MiB\"\n";
    let node = TestNode::start(dir, config.to_owned()).await;
    let refused = posthaste(node.dir.path(), "sender add ada@shop.test --name Ada").await;
    let refused = refused.expect(69).stderr;
    assert!(
        refused.contains("[[pool]]") && refused.contains("transactional"),
        "{refused}"
    );
    let listed = posthaste(node.dir.path(), "sender ls --json")
        .await
        .expect(0);
    assert_eq!(listed.stdout, "");
    node.node.stop().await;
}
