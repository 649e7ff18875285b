//! Each error code of the reference for these resources, and every way in which clients spell things.

use axum::http::request::Builder;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::account::ServerPatch;
use crate::config::Config;

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
"#;

pub(super) struct Fixture {
    pub(super) api: Api,
    _dir: TempDir,
}

pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answered {
    pub(super) fn code(&self) -> u64 {
        self.body["ErrorCode"]
            .as_u64()
            .unwrap_or_else(|| panic!("{}", self.body))
    }

    /// 200, and its body.
    pub(super) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// An envelope with this status and code, in the header too.
    #[track_caller]
    pub(super) fn refused(self, status: u16, code: u64) -> String {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.body);
        let header = self.headers["x-pm-apierrorcode"].to_str().unwrap();
        assert_eq!(header, code.to_string());
        self.body["Message"].as_str().unwrap().to_owned()
    }
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("posthaste.toml");
        let config = Config::parse(FILE, &file, Some(dir.path()), &|_| None).unwrap();
        let (settings, _) = Settings::open(Arc::new(config), 0).await.unwrap();
        let api = Api {
            settings: Arc::new(settings),
            clock: Clock::start(),
        };
        Self { api, _dir: dir }
    }

    pub(super) async fn send(&self, request: Builder, body: impl Into<HttpBody>) -> Answered {
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

    pub(super) async fn account(&self, method: &str, path: &str, body: Value) -> Answered {
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
async fn a_server_is_made_read_changed_listed_and_deleted() {
    let fixture = Fixture::new().await;
    let new = json!({ "name": "Shop", "Color": "TURQOISE", "smtpapiactivated": true, "TrackLinks": "",
        "deliverytype": "Sandbox", "InboundHookUrl": "https://hooks.example.com/in", "Status": "ignored" });
    let made = fixture.account("POST", "/Servers/", new).await.ok();
    assert_eq!(made["ID"], 2);
    assert_eq!(
        (&made["Color"], &made["DeliveryType"]),
        (&json!("turquoise"), &json!("Sandbox"))
    );
    assert_eq!(made["ApiTokens"][0].as_str().unwrap().len(), 36);
    let hash = made["InboundHash"].as_str().unwrap();
    assert_eq!(
        made["InboundAddress"],
        format!("{hash}@inbound.mail.example.com")
    );
    assert_eq!(
        made["ServerLink"],
        "http://mail.example.com:8025/servers/2/streams"
    );
    // Every key of the reference's object, empty texts and not null.
    let keys = [
        "ApiTokens",
        "BounceHookUrl",
        "ClickHookUrl",
        "Color",
        "DeliveryHookUrl",
        "DeliveryType",
        "EnableSmtpApiErrorHooks",
        "ID",
        "InboundAddress",
        "InboundDomain",
        "InboundHash",
        "InboundHookUrl",
        "InboundSpamThreshold",
        "IncludeBounceContentInHook",
        "Name",
        "OpenHookUrl",
        "PostFirstOpenOnly",
        "RawEmailEnabled",
        "ServerLink",
        "SmtpApiActivated",
        "TrackLinks",
        "TrackOpens",
    ];
    assert_eq!(made.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    assert!(made.as_object().unwrap().values().all(|v| !v.is_null()));

    let edit = json!({ "Name": "Shop 2", "TrackOpens": true, "InboundSpamThreshold": 9, "TrackLinks": "htmlonly",
        "EnableSmtpApiErrorHooks": true, "Color": null });
    let edited = fixture.account("PUT", "/servers/2", edit).await.ok();
    assert_eq!(
        (&edited["Name"], &edited["TrackOpens"]),
        (&json!("Shop 2"), &json!(true))
    );
    assert_eq!(
        (&edited["InboundSpamThreshold"], &edited["TrackLinks"]),
        (&json!(9), &json!("HtmlOnly"))
    );
    assert_eq!(
        (&edited["Color"], &edited["EnableSmtpApiErrorHooks"]),
        (&json!("turquoise"), &json!(true))
    );
    assert_eq!(
        fixture.account("GET", "/servers/2", Value::Null).await.ok(),
        edited
    );

    let token = edited["ApiTokens"][0].as_str().unwrap();
    let own = fixture
        .server(token, "GET", "/SERVER", Value::Null)
        .await
        .ok();
    assert_eq!(own, edited);
    let edit = json!({ "Name": "Mine", "EnableSmtpApiErrorHooks": false });
    let own = fixture.server(token, "PUT", "/server", edit).await.ok();
    assert_eq!(
        (&own["Name"], &own["EnableSmtpApiErrorHooks"]),
        (&json!("Mine"), &json!(true))
    );

    let list = fixture
        .account("GET", "/servers?Count=1&Offset=1", Value::Null)
        .await
        .ok();
    assert_eq!(
        (&list["TotalCount"], &list["Servers"][0]["Name"]),
        (&json!(2), &json!("Mine"))
    );
    let list = fixture
        .account("GET", "/servers?count=5&offset=0&name=mIN", Value::Null)
        .await
        .ok();
    assert_eq!(list["TotalCount"], 1);
    let removed = fixture
        .account("DELETE", "/servers/2", Value::Null)
        .await
        .ok();
    assert_eq!(
        removed,
        json!({ "ErrorCode": 0, "Message": "Server Mine removed." })
    );
    fixture
        .account("GET", "/servers/2", Value::Null)
        .await
        .refused(422, 601);
    fixture
        .server(token, "GET", "/server", Value::Null)
        .await
        .refused(401, 10);
}

#[tokio::test]
async fn each_error_of_servers_has_its_code() {
    let fixture = Fixture::new().await;
    fixture.shop().await;
    let account = async |method: &str, path: &str, body: Value, code: u64| {
        fixture.account(method, path, body).await.refused(422, code)
    };
    for page in [
        "count=0",
        "count=501&offset=0",
        "count=1&offset=-1",
        "count=x",
    ] {
        account("GET", &format!("/servers?{page}"), Value::Null, 600).await;
    }
    for id in ["0", "9", "x", "4294967296", "-1", "2'%20OR%20'1'='1"] {
        account("GET", &format!("/servers/{id}"), Value::Null, 601).await;
        account("DELETE", &format!("/servers/{id}"), Value::Null, 601).await;
        account(
            "PUT",
            &format!("/servers/{id}"),
            json!({ "Name": "x" }),
            601,
        )
        .await;
    }
    let inbound = json!({ "InboundDomain": "in.example.com" });
    fixture.account("PUT", "/servers/2", inbound).await.ok();
    account(
        "POST",
        "/servers",
        json!({ "Name": "b", "InboundDomain": "IN.example.com" }),
        602,
    )
    .await;
    account("POST", "/servers", json!({ "Name": "shop" }), 603).await;
    account("POST", "/servers", json!({ "Name": "app" }), 603).await;
    account("PUT", "/servers/2", json!({ "Name": "app" }), 603).await;
    account("DELETE", "/servers/1", Value::Null, 604).await;
    for url in [
        "x",
        "ftp://example.com/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://10.1.2.3/x",
        "https://localhost/",
        "https://a.localhost/",
        "http://169.254.169.254/latest",
        "http://[::ffff:10.0.0.1]/",
        "https://",
        "https://exa mple.com/",
        "http://2130706433/",
        "http://0x7f.0.0.1/",
        "https://e.com/\r\nX: y",
    ] {
        account("PUT", "/servers/2", json!({ "BounceHookUrl": url }), 606).await;
    }
    account("PUT", "/servers/2", json!({ "Color": "mauve" }), 607).await;
    for name in ["", " ", "a\nb", &"x".repeat(101)] {
        account("POST", "/servers", json!({ "Name": name }), 608).await;
    }
    account("POST", "/servers", json!({ "Color": "red" }), 608).await;
    for body in [Value::Null, json!({}), json!({ "Name": null })] {
        account("PUT", "/servers/2", body.clone(), 609).await;
        account("POST", "/servers", body, 609).await;
    }
    account(
        "PUT",
        "/servers/2",
        json!({ "InboundDomain": "no domain" }),
        610,
    )
    .await;
    for threshold in [-1, 31, 256] {
        account(
            "PUT",
            "/servers/2",
            json!({ "InboundSpamThreshold": threshold }),
            611,
        )
        .await;
    }
    account("PUT", "/servers/2", json!({ "TrackLinks": "Some" }), 612).await;
    account(
        "PUT",
        "/servers/2",
        json!({ "DeliveryType": "Sandbox" }),
        613,
    )
    .await;
    account(
        "POST",
        "/servers",
        json!({ "Name": "b", "DeliveryType": "Trial" }),
        613,
    )
    .await;
    let said = account("PUT", "/servers/1", json!({ "Name": "x" }), 615).await;
    assert!(
        said.contains("posthaste.toml") && said.contains("SIGHUP"),
        "{said}"
    );
    fixture
        .account("PATCH", "/servers/2", json!({}))
        .await
        .refused(405, 615);
}

#[tokio::test]
async fn streams_are_made_read_changed_archived_and_unarchived() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.shop().await;
    let server = async |method: &str, path: &str, body: Value| {
        fixture.server(&token, method, path, body).await
    };
    let all = server("GET", "/message-streams?count=30&offset=0", Value::Null)
        .await
        .ok();
    assert_eq!(all["TotalCount"], 3);
    let ids = all["MessageStreams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["ID"].as_str().unwrap());
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    assert_eq!(ids, ["broadcast", "inbound", "outbound"]);
    let new = json!({ "ID": "news", "Name": "News", "MessageStreamType": "Broadcasts", "Description": "weekly" });
    let made = server("POST", "/message-streams", new).await.ok();
    assert_eq!(
        (&made["ServerID"], &made["MessageStreamType"]),
        (&json!(id), &json!("Broadcasts"))
    );
    assert_eq!(
        (&made["UpdatedAt"], &made["ArchivedAt"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        made["SubscriptionManagementConfiguration"],
        json!({ "UnsubscribeHandlingType": "Postmark" })
    );
    let edit = json!({ "description": "monthly", "SubscriptionManagementConfiguration": { "unsubscribehandlingtype": "custom" } });
    let edited = server("PATCH", "/Message-Streams/NEWS/", edit).await.ok();
    assert_eq!(
        (&edited["Description"], &edited["Name"]),
        (&json!("monthly"), &json!("News"))
    );
    assert_eq!(
        edited["SubscriptionManagementConfiguration"]["UnsubscribeHandlingType"],
        "Custom"
    );
    assert!(edited["UpdatedAt"].is_string());
    assert_eq!(
        server("GET", "/message-streams/news", Value::Null)
            .await
            .ok(),
        edited
    );

    let archived = server("POST", "/message-streams/news/archive", json!({}))
        .await
        .ok();
    assert_eq!(
        (&archived["ID"], &archived["ServerID"]),
        (&json!("news"), &json!(id))
    );
    assert!(archived["ExpectedPurgeDate"].is_string());
    let list = async |query: &str| {
        let list = server("GET", &format!("/message-streams?{query}"), Value::Null)
            .await
            .ok();
        list["TotalCount"].as_u64().unwrap()
    };
    assert_eq!(list("MessageStreamType=Broadcasts").await, 1);
    assert_eq!(
        list("messagestreamtype=broadcasts&IncludeArchivedStreams=True").await,
        2
    );
    assert_eq!(
        list("MessageStreamType=All&includeArchivedStreams=true").await,
        4
    );
    let back = server("POST", "/message-streams/news/unarchive", Value::Null)
        .await
        .ok();
    assert_eq!(back["ArchivedAt"], Value::Null);
}

#[tokio::test]
async fn each_error_of_streams_has_its_code() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.shop().await;
    let server = async |method: &str, path: &str, body: Value, code: u64| {
        fixture
            .server(&token, method, path, body)
            .await
            .refused(422, code)
    };
    let with = |key: &str, value: Value| {
        let mut new = json!({ "ID": "news", "Name": "News", "MessageStreamType": "Broadcasts" });
        new[key] = value;
        new
    };
    let create = async |key: &str, value: Value, code: u64| {
        server("POST", "/message-streams", with(key, value), code).await
    };
    create("MessageStreamType", json!("Bulk"), 1221).await;
    create("MessageStreamType", Value::Null, 1221).await;
    create("ID", Value::Null, 1222).await;
    create("ID", json!(""), 1222).await;
    create("Name", Value::Null, 1223).await;
    create("Name", json!(" "), 1223).await;
    create("Name", json!("x".repeat(101)), 1224).await;
    for id in [
        "News",
        "1news",
        "ne ws",
        "n'ws",
        "-n",
        &"n".repeat(31),
        "ne\u{0}ws",
    ] {
        create("ID", json!(id), 1227).await;
    }
    create("MessageStreamType", json!("Inbound"), 1228).await;
    create("ID", json!("outbound"), 1230).await;
    create("Description", json!("x".repeat(1_001)), 1231).await;
    create("ID", json!("pm-news"), 1233).await;
    for text in ["<script>", "a > b"] {
        create("Description", json!(text), 1234).await;
    }
    create("ID", json!("all"), 1237).await;
    let handling = |word: &str| json!({ "UnsubscribeHandlingType": word });
    create(
        "SubscriptionManagementConfiguration",
        handling("None"),
        1239,
    )
    .await;
    create(
        "SubscriptionManagementConfiguration",
        handling("Somehow"),
        1240,
    )
    .await;
    create("SubscriptionManagementConfiguration", json!("None"), 403).await;
    for path in ["", "/archive", "/unarchive"] {
        let (method, body) = match path {
            "" => ("PATCH", json!({ "Name": "x" })),
            _ => ("POST", Value::Null),
        };
        let said = server(method, &format!("/message-streams/no{path}"), body, 1226).await;
        assert_eq!(
            said,
            "The message stream for the provided 'ID' was not found."
        );
    }
    server("GET", "/message-streams/no", Value::Null, 1226).await;
    server(
        "GET",
        "/message-streams?MessageStreamType=Bulk",
        Value::Null,
        1221,
    )
    .await;
    for default in ["outbound", "inbound"] {
        server(
            "POST",
            &format!("/message-streams/{default}/archive"),
            Value::Null,
            1229,
        )
        .await;
    }
    fixture
        .server(
            &token,
            "POST",
            "/message-streams/broadcast/archive",
            json!({}),
        )
        .await
        .ok();
    server(
        "POST",
        "/message-streams/broadcast/archive",
        json!({}),
        1241,
    )
    .await;
    for n in 0..8 {
        fixture
            .server(
                &token,
                "POST",
                "/message-streams",
                with("ID", json!(format!("s{n}"))),
            )
            .await
            .ok();
    }
    create("ID", json!("s9"), 1225).await;
    // A declared server's streams are the file's.
    let declared = with("ID", json!("s9"));
    fixture
        .server("configured-token", "POST", "/message-streams", declared)
        .await
        .refused(422, 1220);
}

#[tokio::test]
async fn smtp_tokens_are_made_listed_and_revoked_and_each_error_has_its_code() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.shop().await;
    let new = json!({ "ServerID": id, "MessageStream": "outbound", "Name": "trial" });
    let made = fixture
        .account("POST", "/smtp-tokens", new.clone())
        .await
        .ok();
    let (access, secret) = (
        made["AccessKey"].as_str().unwrap(),
        made["SecretKey"].as_str().unwrap(),
    );
    let accounts = fixture.api.settings.accounts();
    assert!(accounts.authenticate(access, secret).is_some());
    let list = async |query: &str| {
        let path = format!("/smtp-tokens?{query}");
        fixture.account("GET", &path, Value::Null).await.ok()
    };
    let all = list(&format!("serverid={id}&messagestream=outbound")).await;
    assert_eq!(
        (&all["TotalCount"], &all["SmtpTokens"][0]["Name"]),
        (&json!(1), &json!("trial"))
    );
    assert!(all["SmtpTokens"][0].get("SecretKey").is_none());
    assert_eq!(
        list(&format!("serverId={id}&messageStream=broadcast")).await["TotalCount"],
        0
    );
    // An SMTP token opens nothing over HTTP.
    for text in [access, secret] {
        fixture
            .server(text, "GET", "/server", Value::Null)
            .await
            .refused(401, 10);
        let account = ("X-Postmark-Account-Token", text);
        fixture
            .call(account, "GET", "/servers", Value::Null)
            .await
            .refused(401, 10);
    }
    let token_path = format!("/smtp-tokens/{}?serverId={id}", made["ID"]);
    let other = format!("/smtp-tokens/{}?serverId=1", made["ID"]);
    fixture
        .account("DELETE", &other, Value::Null)
        .await
        .refused(422, 1451);
    let removed = fixture
        .account("DELETE", &token_path, Value::Null)
        .await
        .ok();
    assert!(removed["Message"].as_str().unwrap().contains("removed"));
    fixture
        .account("DELETE", &token_path, Value::Null)
        .await
        .refused(422, 1451);
    assert!(accounts.authenticate(access, secret).is_none());

    let create = async |key: &str, value: Value, code: u64| {
        let mut new = new.clone();
        new[key] = value;
        fixture
            .account("POST", "/smtp-tokens", new)
            .await
            .refused(422, code)
    };
    fixture
        .account("GET", "/smtp-tokens", Value::Null)
        .await
        .refused(422, 1450);
    fixture
        .account("POST", "/smtp-tokens", json!({}))
        .await
        .refused(422, 1452);
    fixture
        .account("GET", "/smtp-tokens?serverId=99", Value::Null)
        .await
        .refused(422, 1453);
    create("ServerID", json!(-1), 1453).await;
    create("MessageStream", json!("no"), 1454).await;
    create("MessageStream", Value::Null, 1454).await;
    create("ServerID", Value::Null, 1455).await;
    create("Name", json!("x".repeat(101)), 1456).await;
    create("MessageStream", json!("inbound"), 1457).await;
    fixture
        .server(
            &token,
            "POST",
            "/message-streams/broadcast/archive",
            json!({}),
        )
        .await
        .ok();
    create("MessageStream", json!("broadcast"), 1459).await;
    for _ in 0..10 {
        fixture
            .account("POST", "/smtp-tokens", new.clone())
            .await
            .ok();
    }
    create("Name", json!("eleventh"), 1458).await;
    let off = json!({ "SmtpApiActivated": false });
    fixture
        .account("PUT", &format!("/servers/{id}"), off)
        .await
        .ok();
    create("Name", json!("off"), 1460).await;
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
        .edit_server(id as u32, &rate)
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
