//! Tokens, bodies, limits: what every route has in common; one file for each resource with its error codes.

mod bounces;
mod codes;
mod domains;
pub(in crate::http) mod door;
mod dry_run;
mod email;
mod email_hostile;
mod hostile;
mod messages;
pub(in crate::http) mod outbox;
pub(in crate::http) mod outside;
pub(in crate::http) mod removals;
mod senders;
mod servers;
mod stats;
mod streams;
mod suppressions;
mod webhooks;

use axum::http::request::Builder;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::accept::Given;
use crate::account::ServerPatch;
use crate::config::Config;
use door::FakeDoor;
use outbox::FakeOutbox;
use outside::FakeOutside;
use removals::FakeRemovals;

const FILE: &str = r#"
[node]
hostname = "mail.example.com"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{ name = "tx1", ip = "192.0.2.10" }]
[[server]]
name = "app"
tokens = ["configured-token"]
[account]
tokens = ["account-token"]
[[domain]]
name = "declared.example"
"#;

struct Fixture {
    api: Api,
    outside: Arc<FakeOutside>,
    door: Arc<FakeDoor>,
    outbox: Arc<FakeOutbox>,
    removals: Arc<FakeRemovals>,
    dir: TempDir,
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answered {
    fn code(&self) -> u64 {
        self.body["ErrorCode"]
            .as_u64()
            .unwrap_or_else(|| panic!("{}", self.body))
    }

    /// 200, and its body.
    fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// An envelope with this status and code, in the header too.
    #[track_caller]
    fn refused(self, status: u16, code: u64) -> String {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.body);
        let header = self.headers["x-pm-apierrorcode"].to_str().unwrap();
        assert_eq!(header, code.to_string());
        self.body["Message"].as_str().unwrap().to_owned()
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::with(FILE).await
    }

    /// On this configuration file.
    async fn with(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("posthaste.toml");
        let config = Config::parse(text, &file, Some(dir.path()), &|_| None).unwrap();
        let (settings, _) = Settings::open(Arc::new(config), 0).await.unwrap();
        let outside = Arc::new(FakeOutside::default());
        let door = Arc::new(FakeDoor::default());
        let outbox = Arc::new(FakeOutbox::default());
        let removals = Arc::new(FakeRemovals::default());
        let (settings, clock) = (Arc::new(settings), Clock::start());
        let suppressions = Suppressions::in_memory();
        let bounces = Bounces::of(&suppressions, dir.path());
        let statistics = Statistics::of(&suppressions, dir.path());
        let activity = Activity::of(&suppressions, dir.path());
        let config = settings.config();
        let webhooks =
            Webhooks::idle(&suppressions, settings.accounts(), &config, dir.path()).await;
        Self {
            api: Api::new(
                settings,
                outside.clone(),
                (door.clone(), outbox.clone(), removals.clone()),
                suppressions,
                (bounces, statistics, webhooks),
                activity,
                clock,
            ),
            outside,
            door,
            outbox,
            removals,
            dir,
        }
    }

    /// SIGHUP, with another configuration file.
    async fn reload(&self, text: &str) {
        let (dir, clock) = (self.dir.path(), self.api.clock);
        let file = dir.join("posthaste.toml");
        let config = Config::parse(text, &file, Some(dir), &|_| None).unwrap();
        let reloaded = self.api.settings.reload(Arc::new(config), clock.unix_ms());
        reloaded.await.unwrap();
    }

    async fn send(&self, request: Builder, body: impl Into<HttpBody>) -> Answered {
        let response = handle(self.api.clone(), request.body(body.into()).unwrap()).await;
        let (head, body) = response.into_parts();
        let octets = body.collect().await.unwrap().to_bytes();
        let kind = head.headers[header::CONTENT_TYPE].to_str().unwrap();
        assert_eq!(kind, "application/json; charset=utf-8");
        Answered {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_slice(&octets).unwrap(),
        }
    }

    async fn call(&self, token: (&str, &str), method: &str, path: &str, body: Value) -> Answered {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(token.0, token.1)
            .header("Accept", "application/json")
            .header("Content-Type", "application/json");
        match body {
            Value::Null => self.send(request, HttpBody::empty()).await,
            body => self.send(request, body.to_string()).await,
        }
    }

    async fn account(&self, method: &str, path: &str, body: Value) -> Answered {
        let token = ("X-Postmark-Account-Token", "account-token");
        self.call(token, method, path, body).await
    }

    async fn server(&self, token: &str, method: &str, path: &str, body: Value) -> Answered {
        self.call(("X-Postmark-Server-Token", token), method, path, body)
            .await
    }

    /// A new server: its id and its token.
    async fn shop(&self) -> (u64, String) {
        let made = self.account("POST", "/servers", json!({ "Name": "shop" }));
        let made = made.await.ok();
        let token = made["ApiTokens"][0].as_str().unwrap().to_owned();
        (made["ID"].as_u64().unwrap(), token)
    }
}

#[tokio::test]
async fn tokens_are_checked_before_anything_is_read() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.shop().await;
    let get = |path: &str| Request::builder().uri(path.to_owned());
    let said = fixture.send(get("/server"), "").await.refused(401, 10);
    assert!(
        said.starts_with("No Account or Server API tokens"),
        "{said}"
    );
    let upper = token.to_ascii_uppercase();
    for good in [token.clone(), upper, format!("  {token} ")] {
        let request = get("/server").header("x-POSTMARK-server-TOKEN", good);
        fixture.send(request, "").await.ok();
    }
    let valid = "Request does not contain a valid Server token.";
    for wrong in [
        "",
        "x",
        "account-token",
        "' OR '1'='1",
        "POSTMARK_API_TEST",
        &"x".repeat(5_000),
        "ü",
    ] {
        let request = get("/server").header("X-Postmark-Server-Token", wrong);
        assert_eq!(
            fixture.send(request, "").await.refused(401, 10),
            valid,
            "{wrong}"
        );
    }
    let twice = get("/server")
        .header("X-Postmark-Server-Token", token.as_str())
        .header("X-Postmark-Server-Token", token.as_str());
    fixture.send(twice, "").await.refused(401, 10);
    let other_header = get("/servers").header("X-Postmark-Server-Token", token.as_str());
    let said = fixture.send(other_header, "").await.refused(401, 10);
    assert_eq!(said, "Request does not contain a valid Account token.");
    let swapped = get("/servers").header("X-Postmark-Account-Token", token.as_str());
    fixture.send(swapped, "").await.refused(401, 10);
    fixture
        .send(get("/server?token=configured-token"), "")
        .await
        .refused(401, 10);
    // Not a word about the body of somebody unknown.
    let broken = Request::builder()
        .method("PUT")
        .uri("/server")
        .header("X-Postmark-Server-Token", "x");
    fixture.send(broken, "{").await.refused(401, 10);
}

#[tokio::test]
async fn bodies_that_are_no_json_of_ours_are_refused() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.shop().await;
    let put = |kind: Option<&str>| {
        let request = Request::builder()
            .method("PUT")
            .uri(format!("/servers/{id}"))
            .header("X-Postmark-Account-Token", "account-token");
        match kind {
            Some(kind) => request.header("Content-Type", kind),
            None => request,
        }
    };
    let body = r#"{ "Name": "x" }"#;
    for kind in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "text/json",
        "text/x-json",
    ] {
        fixture.send(put(Some(kind)), body).await.ok();
    }
    let wrong = "Content-Type and Accept headers must be set to application/json, text/json, or text/x-json.";
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
    ] {
        assert_eq!(fixture.send(put(kind), body).await.refused(415, 409), wrong);
    }
    let accept = put(Some("text/json")).header("Accept", "text/html, image/png");
    fixture.send(accept, body).await.refused(415, 409);
    let accept = put(Some("text/json")).header("Accept", "text/html, */*;q=0.1");
    fixture.send(accept, body).await.ok();
    let coded = put(Some("text/json")).header("Content-Encoding", "gzip");
    fixture.send(coded, body).await.refused(415, 409);
    for broken in [
        "{",
        "{} {}",
        r#"{"Name":NaN}"#,
        "\u{feff}{}",
        "Name=x",
        &"[".repeat(10_000),
    ] {
        fixture
            .send(put(Some("text/json")), broken.to_owned())
            .await
            .refused(422, 402);
    }
    let said = fixture
        .send(
            put(Some("text/json")),
            r#"{"name":["x"],"TrackOpens":"yes"}"#,
        )
        .await;
    assert_eq!(
        said.refused(422, 403),
        "Invalid request field(s): $.Name, $.TrackOpens"
    );
    fixture
        .send(put(Some("text/json")), "[]")
        .await
        .refused(422, 403);
    // No body, in each way that clients have of sending none, needs no content type.
    for nothing in ["", "{}", "null", "\"\""] {
        fixture.send(put(None), nothing).await.refused(422, 609);
    }
    let long = format!("{{\"Name\":\"{}\"}}", "x".repeat(limits::HTTP_API_BODY_MAX));
    fixture
        .send(put(Some("text/json")), long)
        .await
        .refused(413, 403);
    let announced = put(Some("text/json")).header("Content-Length", "999999999");
    fixture.send(announced, body).await.refused(413, 403);
}

#[tokio::test]
async fn a_limit_answers_429_with_the_time_to_come_back() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.shop().await;
    let rate = ServerPatch {
        rate: Some("2/h".into()),
        ..ServerPatch::default()
    };
    fixture
        .api
        .settings
        .edit_server(id as u32, &rate, 0)
        .await
        .unwrap();
    for _ in 0..2 {
        fixture
            .server(&token, "GET", "/server", Value::Null)
            .await
            .ok();
    }
    let refused = fixture.server(&token, "GET", "/server", Value::Null).await;
    let wait: u64 = refused.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1_700..=1_801).contains(&wait), "{wait}");
    let said = refused.refused(429, 429);
    assert!(said.contains("2/h") && said.contains("token"), "{said}");
}

#[tokio::test]
async fn a_server_token_reaches_its_own_server_only() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.shop().await;
    let other = json!({ "Name": "other" });
    let other = fixture.account("POST", "/servers", other).await.ok();
    let other = other["ApiTokens"][0].as_str().unwrap();
    let new = json!({ "ID": "secret", "Name": "s", "MessageStreamType": "Transactional" });
    fixture
        .server(other, "POST", "/message-streams", new)
        .await
        .ok();
    for (method, path) in [
        ("GET", "/message-streams/secret"),
        ("PATCH", "/message-streams/secret"),
        ("POST", "/message-streams/secret/archive"),
    ] {
        let body = match method {
            "PATCH" => json!({ "Name": "x" }),
            _ => Value::Null,
        };
        fixture
            .server(&token, method, path, body)
            .await
            .refused(422, 1226);
    }
    let unknown = Request::builder()
        .uri("/nowhere")
        .header("X-Postmark-Server-Token", token);
    fixture.send(unknown, "").await.refused(404, 404);
    assert!(knows("/Servers/7/") && !knows("/nowhere") && !knows("/servers/7/8"));
}

/// A body that begins and does not go on.
struct Stalled(Option<Bytes>);

impl hyper::body::Body for Stalled {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(first) => std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(first)))),
            None => std::task::Poll::Pending,
        }
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_on_is_given_up() {
    let mut fixture = Fixture::new().await;
    fixture.api.body_window = Duration::from_millis(1);
    for path in ["/email", "/email/batch", "/message-streams"] {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("X-Postmark-Server-Token", "configured-token")
            .header("Content-Type", "application/json")
            .header("Content-Length", "1000");
        let stalled = HttpBody::new(Stalled(Some(Bytes::from_static(b"{\"From\":"))));
        let said = fixture.send(request, stalled).await.refused(408, 402);
        assert!(said.contains("came too slowly"), "{said}");
    }
}
