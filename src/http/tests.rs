//! The listeners and routes with a node behind them that only answers.

mod confirm;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::api::tests::door::FakeDoor;
use super::api::tests::outbox::FakeOutbox;
use super::api::tests::outside::FakeOutside;
use super::api::tests::removals::FakeRemovals;
use super::*;
use crate::config::Config;
use crate::mail::{Domain, MessageId};

/// A node that remembers what it was asked to do.
#[derive(Default)]
struct Node {
    not_ready: std::sync::Mutex<Option<String>>,
    operated: Mutex<Vec<(Command, Selection)>>,
}

fn queue(domain: &str) -> wire::Queue {
    wire::Queue {
        pool: "tx".into(),
        domain: domain.into(),
        site: None,
        ready: 1,
        deferred: 2,
        in_flight: 0,
        oldest_at: None,
        next_wake_at: None,
        reasons: Vec::new(),
        ways: Vec::new(),
    }
}

impl AdminBackend for Node {
    fn readiness(&self) -> Result<(), String> {
        self.not_ready.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    async fn status(&self) -> Result<wire::Status, AdminError> {
        Err(AdminError::Unavailable("the node is starting".into()))
    }

    async fn queues(
        &self,
        after: Option<wire::QueueKey>,
        count_max: usize,
    ) -> Result<Vec<wire::Queue>, AdminError> {
        let all = ["a.example", "b.example", "c.example"].map(queue);
        let behind = |q: &wire::Queue| after.as_ref().is_none_or(|after| q.domain > after.domain);
        Ok(all.into_iter().filter(behind).take(count_max).collect())
    }

    async fn explain_domain(&self, domain: Domain) -> Result<Vec<wire::Queue>, AdminError> {
        Ok(vec![queue(domain.as_str())])
    }

    async fn attempts_for(&self, _: Domain) -> Result<Vec<wire::Reason>, AdminError> {
        Ok(Vec::new())
    }

    async fn explain_message(&self, _: MessageId) -> Result<Vec<wire::Explanation>, AdminError> {
        Ok(Vec::new())
    }

    fn trace(&self, _: TraceFilter) -> Result<Hearing, AdminError> {
        Err(AdminError::Unavailable("nobody delivers".into()))
    }

    async fn operate(
        &self,
        command: Command,
        selection: Selection,
    ) -> Result<wire::Affected, AdminError> {
        self.operated.lock().await.push((command, selection));
        Ok(wire::Affected {
            ready: 3,
            ..wire::Affected::default()
        })
    }

    async fn census(&self, _: CensusPage) -> Result<wire::Census, AdminError> {
        Ok(wire::Census::default())
    }

    async fn direct(&self, new: NewDirective) -> Result<wire::Directed, AdminError> {
        let directive = wire::Directive {
            selection: new.selection.selector(),
            to: new.to,
            ..wire::Directive::default()
        };
        Ok(wire::Directed {
            directive,
            ..wire::Directed::default()
        })
    }

    async fn resume(
        &self,
        _: Result<u32, Selection>,
        _: Option<String>,
    ) -> Result<wire::Resumed, AdminError> {
        Ok(wire::Resumed::default())
    }

    async fn directives(&self) -> Result<Vec<wire::Directive>, AdminError> {
        Ok(Vec::new())
    }

    async fn sources(&self) -> Result<Vec<wire::Source>, AdminError> {
        Ok(Vec::new())
    }

    async fn drain_source(
        &self,
        name: String,
        _: wire::NewDrain,
    ) -> Result<wire::Source, AdminError> {
        self.resume_source(name).await
    }

    async fn resume_source(&self, name: String) -> Result<wire::Source, AdminError> {
        Err(AdminError::NotFound(format!("there is no source `{name}`")))
    }

    async fn check_domain(&self, id: u32) -> Result<wire::Check, AdminError> {
        Ok(wire::Check::of(format!("domain {id}"), &[], 0))
    }

    async fn check_source(&self, name: String) -> Result<wire::Check, AdminError> {
        Err(AdminError::NotFound(format!("there is no source `{name}`")))
    }

    fn erase(&self, what: &wire::NewErasure) -> Result<wire::Erasure, AdminError> {
        Ok(wire::Erasure {
            id: 1,
            dry_run: what.dry_run,
            ..wire::Erasure::default()
        })
    }

    fn erasure(&self, id: u64) -> Result<wire::Erasure, AdminError> {
        Err(AdminError::NotFound(format!("there is no erasure {id}")))
    }

    fn begin_import(&self) -> Result<wire::Import, AdminError> {
        Ok(wire::Import::default())
    }

    fn look_at_import(&self, id: u64) -> Result<wire::Import, AdminError> {
        Err(AdminError::NotFound(format!("there is no import {id}")))
    }

    fn end_import(&self, _: u64) -> Result<(), AdminError> {
        Ok(())
    }

    async fn import(
        &self,
        _: u64,
        message: wire::ImportedMessage,
        mut content: Upload,
    ) -> Result<wire::Imported, AdminError> {
        let mut octets = 0;
        while let Some(more) = content.next().await? {
            octets += more.len() as u64;
        }
        Ok(wire::Imported {
            message_id: message.message_id.unwrap_or_default(),
            outcome: if octets == message.content_bytes {
                "accepted"
            } else {
                "cut"
            }
            .into(),
        })
    }

    fn compact(&self) -> Result<bool, AdminError> {
        Ok(true)
    }

    fn readers(&self) -> Vec<wire::Reader> {
        Vec::new()
    }

    fn rebuild_reader(&self, name: &str) -> Result<wire::Reader, AdminError> {
        Err(AdminError::NotFound(name.to_owned()))
    }
}

struct Served {
    node: Arc<Node>,
    outside: Arc<FakeOutside>,
    address: SocketAddr,
    dir: tempfile::TempDir,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Both listeners over `[admin]` with this text.
async fn serve(admin: &str) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[http]\nbind = \"127.0.0.1:0\"\n[[server]]\nname = \"app\"\nsenders = \"any\"\n[admin]\n{admin}\n"
    );
    let config = Config::parse(
        &text,
        &dir.path().join("posthaste.toml"),
        Some(dir.path()),
        &|_| None,
    )
    .unwrap();
    let config = Arc::new(config);
    let (settings, _) = Settings::open(config.clone(), 0).await.unwrap();
    let node = Arc::new(Node::default());
    let outside = Arc::new(FakeOutside::default());
    let suppressions = Suppressions::in_memory();
    let webhooks = Webhooks::idle(&suppressions, settings.accounts(), &config, dir.path()).await;
    let parts = Parts {
        backend: node.clone(),
        settings: Arc::new(settings),
        webhooks,
        outside: outside.clone(),
        door: Arc::new(FakeDoor::default()),
        outbox: Arc::new(FakeOutbox::default()),
        removals: Arc::new(FakeRemovals::default()),
        bounces: Bounces::of(&suppressions, Path::new("")),
        statistics: Statistics::of(&suppressions, Path::new("")),
        activity: Activity::of(&suppressions, Path::new("")),
        suppressions,
        exposition: metrics::install(),
        clock: Clock::start(),
    };
    let app = App::new(parts, &config.admin);
    let http = Listener::bind(&config.http).await.unwrap();
    let socket = Listener::admin_socket(dir.path()).unwrap();
    let address = http.address().unwrap();
    let (stop, stopped) = watch::channel(false);
    let tasks = vec![
        tokio::spawn(http.serve(app.http_routes(), stopped.clone())),
        tokio::spawn(socket.serve(app.admin_socket_routes(), stopped)),
    ];
    Served {
        node,
        outside,
        address,
        dir,
        stop,
        tasks,
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

impl Served {
    async fn http(&self, method: &str, path: &str, headers: &str) -> String {
        let stream = TcpStream::connect(self.address).await.unwrap();
        exchange(stream, &request(method, path, headers, "")).await
    }

    async fn socket(&self, method: &str, path: &str, body: &str) -> String {
        let stream = UnixStream::connect(self.dir.path().join("admin.sock"))
            .await
            .unwrap();
        exchange(stream, &request(method, path, "", body)).await
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn body<T: serde::de::DeserializeOwned>(answer: &str) -> T {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn health_is_for_everyone_and_readiness_says_why_not() {
    let served = serve("").await;
    assert_eq!(status(&served.http("GET", "/healthz", "").await), 200);
    assert_eq!(status(&served.http("GET", "/readyz", "").await), 200);
    *served.node.not_ready.lock().unwrap() = Some("the mail log failed".into());
    let answer = served.http("GET", "/readyz", "").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.ends_with("the mail log failed\n"));
    assert_eq!(status(&served.http("GET", "/nothing", "").await), 404);
}

#[tokio::test]
async fn metrics_are_for_named_networks_and_admin_tokens() {
    let open = serve("").await;
    let answer = open.http("GET", "/metrics", "").await;
    assert!(
        answer.contains("posthaste_messages_accepted_total"),
        "{answer}"
    );
    let closed = serve("metrics_from = [\"192.0.2.0/24\"]\ntokens = [\"admin-token\"]").await;
    assert_eq!(status(&closed.http("GET", "/metrics", "").await), 403);
    let token = "Authorization: Bearer admin-token\r\n";
    assert_eq!(status(&closed.http("GET", "/metrics", token).await), 200);
}

#[tokio::test]
async fn admin_routes_over_http_need_a_token_given_once() {
    let served = serve("tokens = [\"first-token\", \"second-token\"]").await;
    let with =
        async |headers: &str| status(&served.http("GET", "/admin/v1/servers", headers).await);
    for good in [
        "Authorization: Bearer first-token\r\n",
        "authorization: bearer second-token\r\n",
    ] {
        assert_eq!(with(good).await, 200, "{good}");
    }
    for bad in [
        "",
        "Authorization: Bearer first-toke\r\n",
        "Authorization: Basic first-token\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer first-token\r\nAuthorization: Bearer first-token\r\n",
    ] {
        assert_eq!(with(bad).await, 401, "{bad}");
    }
    let none = serve("").await;
    assert_eq!(
        status(
            &none
                .http("GET", "/admin/v1/servers", "Authorization: Bearer \r\n")
                .await
        ),
        401
    );
}

#[tokio::test]
async fn the_queue_is_listed_in_pages_and_operated_on() {
    let served = serve("").await;
    let first: wire::Queues = body(&served.socket("GET", "/admin/v1/queues?limit=2", "").await);
    assert_eq!(first.queues.len(), 2);
    let next = first.next.unwrap();
    let path = format!(
        "/admin/v1/queues?limit=2&after_pool={}&after_domain={}",
        next.pool, next.domain
    );
    let second: wire::Queues = body(&served.socket("GET", &path, "").await);
    assert_eq!((second.queues.len(), second.next), (1, None));

    let answer = served
        .socket(
            "POST",
            "/admin/v1/queue/bounce",
            "{\"domain\":\"Example.COM\"}",
        )
        .await;
    assert_eq!(body::<wire::Affected>(&answer).ready, 3);
    let id = "0193e1a0-0000-7000-8000-000000000001";
    let one = format!("{{\"message\":\"{id}\",\"recipient\":\"7\"}}");
    served.socket("POST", "/admin/v1/queue/retry", &one).await;
    let operated = served.node.operated.lock().await.clone();
    let domain = Domain::parse("example.com").unwrap();
    let recipient = Selection {
        recipient: Some(RecipientRef::Number(7)),
        ..Selection::of_message(id.parse().unwrap())
    };
    let of_domain = Selection {
        domain: Some(domain),
        ..Selection::default()
    };
    let command = |verb| Command { verb, reason: None };
    assert_eq!(
        operated,
        [
            (command(Verb::Bounce), of_domain),
            (command(Verb::Retry), recipient)
        ]
    );

    for wrong in [
        "{}",
        "{\"all\":true,\"domain\":\"a.example\"}",
        "{\"message\":\"x\"}",
        "{\"alll\":true}",
        "[",
        "{\"recipient\":\"a\"}",
        "{\"all\":true,\"to\":\"tx\"}",
        "{\"all\":true,\"for_seconds\":60}",
        "{\"message\":\"0193e1a0-0000-7000-8000-000000000001\",\"tag\":\"t\"}",
    ] {
        assert_eq!(
            status(&served.socket("POST", "/admin/v1/queue/cancel", wrong).await),
            400,
            "{wrong}"
        );
    }
    assert_eq!(
        status(&served.socket("GET", "/admin/v1/status", "").await),
        503
    );
    assert_eq!(
        status(&served.socket("GET", "/admin/v1/explain", "").await),
        400
    );
    let explained: wire::Explanations = body(
        &served
            .socket("GET", "/admin/v1/explain?domain=a.example", "")
            .await,
    );
    assert_eq!(explained.queues.len(), 1);
}

#[tokio::test]
async fn servers_and_tokens_are_made_listed_and_revoked() {
    let served = serve("").await;
    let answer = served
        .socket(
            "POST",
            "/admin/v1/servers",
            "{\"name\":\"shop\",\"senders\":\"any\"}",
        )
        .await;
    assert_eq!(status(&answer), 201);
    assert_eq!(body::<wire::Server>(&answer).id, 2);
    assert_eq!(
        status(
            &served
                .socket("POST", "/admin/v1/servers", "{\"name\":\"shop\"}")
                .await
        ),
        409
    );
    assert_eq!(
        status(
            &served
                .socket("POST", "/admin/v1/servers", "{\"name\":\"\"}")
                .await
        ),
        400
    );
    let servers: wire::Servers = body(&served.socket("GET", "/admin/v1/servers", "").await);
    let names: Vec<(&str, bool)> = servers
        .servers
        .iter()
        .map(|s| (s.name.as_str(), s.declared))
        .collect();
    assert_eq!(names, [("app", true), ("shop", false)]);

    let made: wire::Token = body(
        &served
            .socket(
                "POST",
                "/admin/v1/servers/shop/tokens",
                "{\"stream\":\"broadcast\"}",
            )
            .await,
    );
    assert!(made.token.is_some());
    assert_eq!(
        status(
            &served
                .socket("POST", "/admin/v1/servers/nobody/tokens", "")
                .await
        ),
        404
    );
    let listed = served
        .socket("GET", "/admin/v1/servers/shop/tokens", "")
        .await;
    let tokens: wire::Tokens = body(&listed);
    assert_eq!(
        (tokens.tokens.len(), tokens.tokens[0].token.as_ref()),
        (1, None)
    );

    let revoke = async |server: &str, id: u32| {
        let path = format!("/admin/v1/servers/{server}/tokens/{id}");
        status(&served.socket("DELETE", &path, "").await)
    };
    assert_eq!(revoke("app", made.id).await, 404);
    assert_eq!(revoke("shop", made.id).await, 204);
    assert_eq!(revoke("shop", made.id).await, 404);
}

#[tokio::test]
async fn requests_beyond_the_limits_are_refused() {
    let served = serve("").await;
    let long = format!("X: {}\r\n", "a".repeat(limits::HTTP_HEADER_BYTES_MAX));
    assert_eq!(status(&served.http("GET", "/healthz", &long).await), 431);
    let many = "X: a\r\n".repeat(limits::HTTP_HEADER_FIELDS_MAX + 1);
    assert_eq!(status(&served.http("GET", "/healthz", &many).await), 431);
    let large = " ".repeat(limits::HTTP_ADMIN_BODY_MAX + 1);
    let answer = served.socket("POST", "/admin/v1/queue/retry", &large).await;
    assert!([400, 413].contains(&status(&answer)), "{answer}");
}

#[tokio::test]
async fn the_admin_socket_is_for_owner_and_group_and_gone_after_the_stop() {
    use std::os::unix::fs::PermissionsExt;
    let served = serve("").await;
    let path = served.dir.path().join("admin.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // Left behind by a process that was killed: replaced.
    assert!(Listener::admin_socket(served.dir.path()).is_ok());
    let idle = TcpStream::connect(served.address).await.unwrap();
    served.stop.send(true).unwrap();
    for task in served.tasks {
        task.await.unwrap();
    }
    assert!(!Path::exists(&path));
    drop(idle);
}

#[tokio::test]
async fn tls_serves_the_same_routes_and_a_taken_port_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let text = "[http]\nbind = \"127.0.0.1:0\"\ntls = \"implicit\"\ncert = \"cert.pem\"\nkey = \"key.pem\"\n";
    let config = Config::parse(text, &dir.path().join("p.toml"), Some(dir.path()), &|_| {
        None
    })
    .unwrap();
    let listener = Listener::bind(&config.http).await.unwrap();
    let address = listener.address().unwrap();
    listener.renewal().renew(&config.http).unwrap();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(listener.serve(Router::new().route("/", get(async || "over TLS")), stopped));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = connector
        .connect("localhost".try_into().unwrap(), stream)
        .await
        .unwrap();
    assert!(
        exchange(stream, &request("GET", "/", "", ""))
            .await
            .ends_with("over TLS")
    );

    let taken = crate::config::HttpListener {
        bind: address,
        ..crate::config::HttpListener::default()
    };
    let error = Listener::bind(&taken).await.err().unwrap().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("choose another"),
        "{error}"
    );
}

#[tokio::test]
async fn a_header_section_that_does_not_end_is_answered_and_the_connection_closed() {
    let served = serve("").await;
    let config = Config::parse(
        "[http]\nbind = \"127.0.0.1:0\"\n",
        &served.dir.path().join("other.toml"),
        Some(served.dir.path()),
        &|_| None,
    );
    let times = listener::Times {
        header: Duration::from_millis(200),
        idle: Duration::from_secs(60),
    };
    let listener = Listener::bind(&config.unwrap().http)
        .await
        .unwrap()
        .with_times(times);
    let address = listener.address().unwrap();
    let (stop, stopped) = watch::channel(false);
    let routes = Router::new().route("/healthz", get(async || "ok\n"));
    let task = tokio::spawn(listener.serve(routes, stopped));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut answer = [0; 512];
    for _ in 0..2 {
        stream.write_all(whole).await.unwrap();
        let len = stream.read(&mut answer).await.unwrap();
        assert!(
            answer[..len].starts_with(b"HTTP/1.1 200"),
            "{:?}",
            String::from_utf8_lossy(&answer[..len])
        );
    }
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhos")
        .await
        .unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 408 ") && rest.contains("\"ErrorCode\":402"),
        "{rest}"
    );
    drop(stop);
    task.await.unwrap();
    drop(served);
}
