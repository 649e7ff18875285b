//! Who may send: credentials of every kind over SMTP, what a change of them does to open connections, limits, strict
//! servers, and a node whose account store is locked or damaged.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::client::{Client, auth_plain, message};
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::{http, posthaste, value_of};
use crate::support::remote_host::RemoteHost;
use crate::support::within;

/// A node with a listener that trusts nobody.
pub struct Fixture {
    pub node: TestNode,
    pub host: RemoteHost,
}

impl Fixture {
    pub async fn start(extra: &str) -> Self {
        let host = RemoteHost::start().await;
        let config = format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\ntrusted = []\n{extra}",
            host.address
        );
        let node = TestNode::with(&config).await;
        Self { node, host }
    }

    pub fn port(&self) -> u16 {
        self.node.node.smtp_addresses()[1].port()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.node.node.smtp_addresses()[1]).await
    }

    /// A command that must end with code 0; its JSON.
    pub async fn made(&self, words: &str) -> Value {
        let said = posthaste(self.node.dir.path(), &format!("{words} --json")).await;
        said.expect(0).object()
    }

    pub async fn run(&self, words: &str, code: i32) -> String {
        let said = posthaste(self.node.dir.path(), words).await.expect(code);
        said.stdout + &said.stderr
    }

    pub async fn stop(self) {
        self.node.node.stop().await;
    }
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// Says DATA and, when that is allowed, a whole message; returns the last reply.
async fn submit(client: &mut Client) -> (u16, String) {
    client
        .try_submit("b@example.org", &message("hello", "body"))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_ends_with_the_next_transaction_of_an_open_connection() {
    let fixture = Fixture::start("").await;
    fixture.made("server create shop --senders any").await;
    let token = fixture.made("token create shop").await;
    let mut client = fixture.client().await;
    client
        .command(&auth_plain(text(&token["token"])), 235)
        .await;
    assert_eq!(submit(&mut client).await.0, 250);

    let revoke = format!("token revoke shop {}", token["id"]);
    fixture.run(&revoke, 0).await;
    let (code, said) = submit(&mut client).await;
    assert_eq!(code, 530, "{said}");
    assert!(said.contains("no longer valid"), "{said}");
    client.command("RSET", 250).await;
    let other = fixture.made("token create shop --rate 1/h").await;
    let mut client = fixture.client().await;
    client
        .command(&auth_plain(text(&other["token"])), 235)
        .await;
    // SMTP switched off, and the server deleted, are seen as soon.
    fixture
        .made("server edit shop --set smtp_api_activated=false")
        .await;
    assert_eq!(submit(&mut client).await.0, 530);
    let mut refused = fixture.client().await;
    refused
        .command(&auth_plain(text(&other["token"])), 535)
        .await;
    fixture
        .made("server edit shop --set smtp_api_activated=true")
        .await;
    client.command("RSET", 250).await;
    assert_eq!(submit(&mut client).await.0, 250);
    let (code, said) = submit(&mut client).await;
    assert_eq!(code, 451, "{said}");
    assert!(said.starts_with("4.7.1 The limit of token"), "{said}");
    assert!(
        said.contains("1/h") && said.contains("come back in"),
        "{said}"
    );
    client.command("RSET", 250).await;
    fixture.run("server rm shop", 0).await;
    assert_eq!(submit(&mut client).await.0, 530);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archived_stream_takes_nothing_from_the_next_transaction_on() {
    let fixture = Fixture::start("").await;
    fixture.made("server create shop --senders any").await;
    fixture
        .made("stream create shop receipts --type transactional --pool tx")
        .await;
    let token = fixture.made("token create shop --stream receipts").await;
    let mut client = fixture.client().await;
    client
        .command(&auth_plain(text(&token["token"])), 235)
        .await;
    assert_eq!(submit(&mut client).await.0, 250);
    fixture.run("stream archive shop receipts", 0).await;
    assert_eq!(submit(&mut client).await.0, 550);
    fixture.run("stream unarchive shop receipts", 0).await;
    assert_eq!(submit(&mut client).await.0, 250);
    fixture.run("stream archive shop outbound", 1).await;
    fixture.run("stream archive app broadcast", 1).await;
    let listed = fixture.run("stream ls shop", 0).await;
    assert!(listed.contains("receipts"), "{listed}");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_server_is_told_at_the_end_of_data_and_any_other_by_a_bounce() {
    let fixture = Fixture::start("").await;
    for (name, set, code) in [("lax", "strict=false", 250), ("strict", "strict=true", 550)] {
        let create = format!("server create {name} --set {set}");
        fixture.made(&create).await;
        let token = fixture.made(&format!("token create {name}")).await;
        let mut client = fixture.client().await;
        client
            .command(&auth_plain(text(&token["token"])), 235)
            .await;
        let (said, reply) = submit(&mut client).await;
        assert_eq!(said, code, "{reply}");
        if code == 550 {
            assert!(
                reply.starts_with("5.7.1 The") && reply.contains("'From'"),
                "{reply}"
            );
        }
    }
    let bounced = fixture.node.events_of("bounced", 1).await;
    assert_eq!(bounced[0].cause, "submission-refused");
    fixture.stop().await;
}

/// Whether it authenticated and had its message accepted; and the reply that refused either, if one did.
async fn swaks_says(
    port: u16,
    mechanism: &str,
    user: &str,
    password: &str,
    more: &[&str],
) -> Result<(), String> {
    // From an address of its own: each refusal makes the next one to the same address later.
    static PEERS: AtomicU8 = AtomicU8::new(2);
    let peer = format!("127.0.0.{}", PEERS.fetch_add(1, Ordering::Relaxed));
    let mut swaks = Command::new("swaks");
    swaks.args(["--local-interface", &peer]);
    swaks.args(["--server", "127.0.0.1", "--port", &port.to_string()]);
    swaks.args(["--from", "ada@example.com", "--to", "bo@example.org"]);
    swaks.args(["--auth", mechanism, "--auth-user", user]);
    swaks.args(["--auth-password", password]);
    swaks.args(more);
    let output = swaks.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within("swaks", output)
        .await
        .unwrap_or_else(|e| panic!("swaks: {e}; scripts/test installs what the tests need"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(());
    }
    // `<** ` marks what swaks took as a refusal.
    let refused = said.lines().find_map(|line| line.strip_prefix("<** "));
    Err(refused
        .unwrap_or_else(|| panic!("{mechanism} {user}: {said}"))
        .to_owned())
}

/// Whether the credentials are let in.
async fn swaks(port: u16, mechanism: &str, user: &str, password: &str) -> bool {
    match swaks_says(port, mechanism, user, password, &[]).await {
        Ok(()) => true,
        Err(reply) => {
            assert!(
                reply.starts_with("535 5.7.8"),
                "{mechanism} {user}: {reply}"
            );
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaks_comes_in_with_each_right_kind_of_credential_and_with_no_wrong_one() {
    let fixture = Fixture::start("").await;
    fixture.made("server create shop --senders any").await;
    let server = fixture.made("token create shop").await;
    let server = text(&server["token"]).to_owned();
    let smtp = fixture
        .made("token create shop --smtp --stream outbound --name trial")
        .await;
    let (access, secret) = (text(&smtp["access_key"]), text(&smtp["token"]));
    let account = fixture.made("token create --account").await;
    let account = text(&account["token"]);
    let port = fixture.port();
    let upper = server.to_ascii_uppercase();
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
        for (user, password) in [
            (server.as_str(), server.as_str()),
            (&upper, &upper),
            (access, secret),
        ] {
            assert!(swaks(port, mechanism, user, password).await, "{mechanism}");
        }
    }
    let wrong = [
        (account, account),
        (access, access),
        (secret, secret),
        (access, server.as_str()),
        (server.as_str(), secret),
        ("shop", server.as_str()),
        ("POSTMARK_API_TEST", "POSTMARK_API_TEST"),
    ];
    for (n, (user, password)) in wrong.into_iter().enumerate() {
        let mechanism = ["PLAIN", "LOGIN", "CRAM-MD5"][n % 3];
        assert!(!swaks(port, mechanism, user, password).await, "{user}");
    }
    let listed = fixture.run("token ls shop --json", 0).await;
    let used = |line: &str| {
        let token: Value = serde_json::from_str(line).unwrap();
        assert!(token["last_used_at"].is_string(), "{token}");
    };
    listed.lines().for_each(used);
    fixture.host.wait_for(9).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaks_is_refused_with_what_was_right_before_and_on_streams_that_are_not_its_own() {
    let fixture = Fixture::start("").await;
    let port = fixture.port();
    for name in ["shop", "off", "other"] {
        fixture
            .made(&format!("server create {name} --senders any"))
            .await;
    }
    let smtp = async |server: &str, stream: &str| {
        let words = format!("token create {server} --smtp --stream {stream} --name trial");
        fixture.made(&words).await
    };
    let (revoked, off) = (
        fixture.made("token create shop").await,
        fixture.made("token create off").await,
    );
    let (revoked_smtp, off_smtp) = (
        smtp("shop", "outbound").await,
        smtp("off", "outbound").await,
    );
    let (one, two) = (
        smtp("shop", "outbound").await,
        smtp("other", "outbound").await,
    );
    for token in [&revoked, &revoked_smtp] {
        let words = format!("token revoke shop {}", token["id"]);
        fixture.run(&words, 0).await;
    }
    fixture
        .made("server edit off --set smtp_api_activated=false")
        .await;
    let token = |made: &Value| text(&made["token"]).to_owned();
    let access = |made: &Value| text(&made["access_key"]).to_owned();
    let wrong = [
        (token(&revoked), token(&revoked)),
        (access(&revoked_smtp), token(&revoked_smtp)),
        (token(&off), token(&off)),
        (access(&off_smtp), token(&off_smtp)),
        // The secret of another access key, of the same server's and of another's.
        (access(&one), token(&two)),
        (access(&two), token(&revoked_smtp)),
    ];
    for (user, password) in &wrong {
        let admitted = tokio::join!(
            swaks(port, "PLAIN", user, password),
            swaks(port, "LOGIN", user, password),
            swaks(port, "CRAM-MD5", user, password),
        );
        assert_eq!(admitted, (false, false, false), "{user}");
    }

    // Streams are judged at the end of DATA, when the field that names one has been read.
    let server = token(&fixture.made("token create shop").await);
    fixture
        .made("stream create shop receipts --type transactional --pool tx")
        .await;
    for (stream, word) in [
        ("nowhere", "does not exist"),
        ("inbound", "does not send"),
        ("broadcast", "pool"),
    ] {
        let field = format!("X-PM-Message-Stream: {stream}");
        let said = swaks_says(port, "PLAIN", &server, &server, &["--header", &field]).await;
        let reply = said.unwrap_err();
        assert!(
            reply.starts_with("550 5.7.1") && reply.contains(word),
            "{stream}: {reply}"
        );
    }
    // An SMTP token's stream wins over the field; archived, it takes nothing.
    let bound = smtp("shop", "receipts").await;
    let (user, secret) = (access(&bound), token(&bound));
    let field = ["--header", "X-PM-Message-Stream: nowhere"];
    let said = swaks_says(port, "CRAM-MD5", &user, &secret, &field).await;
    assert_eq!(said, Ok(()));
    fixture.run("stream archive shop receipts", 0).await;
    let said = swaks_says(port, "CRAM-MD5", &user, &secret, &[]).await;
    let reply = said.unwrap_err();
    assert!(reply.starts_with("550 "), "{reply}");
    fixture.host.wait_for(1).await;
    fixture.stop().await;
}

/// What works on a node whatever the store does: known senders, delivery, readiness that says what does not.
async fn goes_on(fixture: &Fixture, token: &str, delivered: usize) {
    let mut client = fixture.client().await;
    client.command(&auth_plain(token), 235).await;
    assert_eq!(submit(&mut client).await.0, 250);
    fixture.node.events_of("delivered", delivered).await;
}

/// The whole answer of the API.
async fn delete(address: SocketAddr, path: &str, token: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "DELETE {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Postmark-Account-Token: {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    within("an answer of the API", read).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_goes_on_while_the_account_store_is_locked_and_then_damaged() {
    // From of the messages is at this domain, and the server asks for verified ones.
    let fixture = Fixture::start("[[domain]]\nname = \"example.com\"\n").await;
    fixture.made("server create shop").await;
    let token = fixture.made("token create shop").await;
    let token = text(&token["token"]);
    let account = fixture.made("token create --account").await;
    let address = fixture.node.node.http_address();
    let database = fixture.node.data_dir().join("account.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&database);
    let mut thief = sqlx::SqlitePool::connect_with(options)
        .await
        .unwrap()
        .acquire()
        .await
        .unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut *thief)
        .await
        .unwrap();
    let refused = fixture.run("server create late", 69).await;
    assert!(refused.contains("locked"), "{refused}");
    let answer = delete(address, "/servers/2", text(&account["token"])).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-pm-apierrorcode: 100\r\n"), "{answer}");
    assert!(answer.contains("is locked by another process"), "{answer}");
    goes_on(&fixture, token, 1).await;
    let (code, said) = http(address, "/readyz", "").await;
    assert_eq!(code, 200, "{said}");
    assert!(said.contains("settings cannot be changed"), "{said}");
    let (_, metrics) = http(address, "/metrics", "").await;
    assert_eq!(value_of(&metrics, "posthaste_account_store_ok"), 0.0);
    // What can be read from memory is.
    assert!(fixture.run("server ls", 0).await.contains("shop"));
    sqlx::query("ROLLBACK").execute(&mut *thief).await.unwrap();
    drop(thief);
    fixture.made("server create late").await;
    assert_eq!(http(address, "/readyz", "").await.1, "ready\n");

    // Somebody writes over the file: everything behind its first page.
    let length = std::fs::metadata(&database).unwrap().len() as usize;
    let wal = database.with_extension("db-wal");
    for (file, from) in [(&database, 0), (&wal, 0)] {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        file.write_all_at(&vec![0xa5; length.max(1 << 20)], from)
            .unwrap();
    }
    eventually("a change that fails", async || {
        let said = posthaste(fixture.node.dir.path(), "server create later").await;
        (said.code != 0).then_some(())
    })
    .await;
    goes_on(&fixture, token, 2).await;
    let (code, said) = http(address, "/readyz", "").await;
    assert_eq!(code, 200, "{said}");
    assert!(said.contains("settings cannot be changed"), "{said}");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_account_store_stops_the_next_start_until_its_backup_is_back() {
    let fixture = Fixture::start("").await;
    fixture.made("server create shop --senders any").await;
    let token = fixture.made("token create shop").await;
    let dir = fixture.node.dir.path().to_owned();
    fixture.run("account backup backup.db", 0).await;
    let mut again = fixture.run("account backup backup.db", 2).await;
    assert!(again.contains("exists already"), "{again}");
    fixture.run("server create later", 0).await;
    let Fixture { node, host } = fixture;
    let TestNode {
        node, dir: owned, ..
    } = node;
    node.stop().await;
    // Longer than it was, and nothing of it left.
    let database = dir.join("data/account.db");
    std::fs::write(&database, vec![0xa5; 1 << 20]).unwrap();
    for words in ["serve --config posthaste.toml", "server ls"] {
        let said = posthaste(&dir, words).await.expect(73);
        again = said.stderr;
        assert!(again.contains("posthaste account backup"), "{again}");
    }
    // As the command's help says.
    std::fs::copy(dir.join("backup.db"), &database).unwrap();
    for rest in ["account.db-wal", "account.db-shm"] {
        let _ = std::fs::remove_file(dir.join("data").join(rest));
    }
    let config = std::fs::read_to_string(dir.join("posthaste.toml")).unwrap();
    let node = TestNode::start(owned, config).await;
    let fixture = Fixture { node, host };
    goes_on(&fixture, text(&token["token"]), 1).await;
    let listed = fixture.run("server ls", 0).await;
    assert!(
        listed.contains("shop") && !listed.contains("later"),
        "{listed}"
    );
    fixture.stop().await;
}
