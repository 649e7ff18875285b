//! `/webhooks`: its object, its limits, its error codes, and that a webhook is proved where that is asked for.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const TOKEN: &str = "configured-token";

/// With hooks on this machine allowed.
const OPEN: &str = "[webhooks]\nallow_networks = [\"127.0.0.0/8\"]\n";

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.reload(&format!("{FILE}{OPEN}")).await;
    fixture
}

impl Fixture {
    async fn hook(&self, method: &str, path: &str, body: Value) -> Answered {
        self.server(TOKEN, method, path, body).await
    }
}

#[tokio::test]
async fn a_webhook_is_made_read_changed_in_part_and_deleted() {
    let fixture = fixture().await;
    let made = fixture
        .hook(
            "POST",
            "/webhooks",
            json!({
                "Url": "https://shop.example/hooks/mail",
                "HttpAuth": { "Username": "hook", "Password": "s3cret" },
                "HttpHeaders": [{ "Name": "X-Shop", "Value": "north" }],
                "Triggers": { "Bounce": { "Enabled": true, "IncludeContent": true }, "Open": null },
            }),
        )
        .await
        .ok();
    let id = made["ID"].as_u64().unwrap();
    let expected = json!({
        "ID": id,
        "Url": "https://shop.example/hooks/mail",
        "MessageStream": "outbound",
        "HttpAuth": { "Username": "hook", "Password": "s3cret" },
        "HttpHeaders": [{ "Name": "X-Shop", "Value": "north" }],
        "Triggers": {
            "Open": { "Enabled": false, "PostFirstOpenOnly": false },
            "Click": { "Enabled": false },
            "Delivery": { "Enabled": false },
            "Bounce": { "Enabled": true, "IncludeContent": true },
            "SpamComplaint": { "Enabled": false, "IncludeContent": false },
            "SubscriptionChange": { "Enabled": false },
        },
    });
    assert_eq!(made, expected);
    let path = format!("/webhooks/{id}");
    assert_eq!(fixture.hook("GET", &path, json!({})).await.ok(), expected);
    let change = json!({
        "ID": id, "MessageStream": "outbound", "HttpAuth": null,
        "Triggers": { "Delivery": { "Enabled": true }, "Bounce": null },
    });
    let edited = fixture.hook("PUT", &path, change).await.ok();
    let mut expected = expected;
    expected["Triggers"]["Delivery"]["Enabled"] = true.into();
    assert_eq!(edited, expected);
    // A part that is null, or not there, stays as it is.
    for (part, value) in [("Password", "new"), ("Username", "other")] {
        let change = json!({ "HttpAuth": { part: value } });
        expected["HttpAuth"][part] = value.into();
        assert_eq!(fixture.hook("PUT", &path, change).await.ok(), expected);
    }
    let nulls = json!({ "HttpAuth": { "Username": null, "Password": null } });
    assert_eq!(fixture.hook("PUT", &path, nulls).await.ok(), expected);
    let cleared = json!({ "HttpAuth": { "Username": "", "Password": "" }, "HttpHeaders": [] });
    let edited = fixture.hook("PUT", &path, cleared).await.ok();
    assert_eq!(edited["HttpAuth"], Value::Null);
    assert_eq!(edited["HttpHeaders"], json!([]));
    for (query, count) in [
        ("", 1),
        ("?MessageStream=outbound", 1),
        ("?messagestream=broadcast", 0),
    ] {
        let listed = fixture
            .hook("GET", &format!("/webhooks{query}"), json!({}))
            .await
            .ok();
        assert_eq!(listed["Webhooks"].as_array().unwrap().len(), count);
    }
    let signed = fixture
        .hook("PUT", &path, json!({ "SigningSecret": "new" }))
        .await
        .ok();
    let secret = signed["SigningSecret"].as_str().unwrap();
    assert!(crate::account::signing_key(secret).is_some(), "{secret}");
    // It is told this once.
    for (method, body) in [("GET", json!({})), ("PUT", json!({ "HttpHeaders": [] }))] {
        let shown = fixture.hook(method, &path, body).await.ok();
        assert_eq!(shown.get("SigningSecret"), None, "{shown}");
    }
    let gone = fixture.hook("DELETE", &path, json!({})).await.ok();
    assert_eq!(gone["Message"], format!("Webhook {id} removed."));
    fixture
        .hook("GET", &path, json!({}))
        .await
        .refused(422, 1352);
}

#[tokio::test]
async fn each_rule_has_its_code() {
    let fixture = fixture().await;
    let url = "https://shop.example/hook";
    let check = async |method: &str, path: &str, body: Value, code: u64| {
        fixture.hook(method, path, body).await.refused(422, code)
    };
    check("POST", "/webhooks", json!({}), 1355).await;
    check("POST", "/webhooks", json!({ "Triggers": {} }), 1354).await;
    check(
        "POST",
        "/webhooks",
        json!({ "Url": url, "MessageStream": "inbound" }),
        1351,
    )
    .await;
    check(
        "POST",
        "/webhooks",
        json!({ "Url": url, "MessageStream": "none" }),
        1226,
    )
    .await;
    check("POST", "/webhooks", json!({ "Url": url, "ID": 3 }), 1356).await;
    check(
        "POST",
        "/webhooks",
        json!({ "Url": url, "Status": "verified" }),
        1363,
    )
    .await;
    check(
        "POST",
        "/webhooks",
        json!({ "Url": url, "Triggers": 3 }),
        403,
    )
    .await;
    for bad in [
        "ftp://shop.example/",
        "https://10.0.0.1/",
        "http://10.0.0.1/",
        "nothing",
        "https://[fe80::1]/",
    ] {
        let why = check("POST", "/webhooks", json!({ "Url": bad }), 1354).await;
        assert!(why.contains(bad), "{why}");
    }
    for (name, value) in [
        ("X Y", "1"),
        ("", "1"),
        ("Host", "a"),
        ("X-Y", "1\r\nZ: 2"),
        ("content-length", "3"),
    ] {
        let headers = json!([{ "Name": name, "Value": value }]);
        check(
            "POST",
            "/webhooks",
            json!({ "Url": url, "HttpHeaders": headers }),
            1358,
        )
        .await;
    }
    let auth = json!({ "Username": "a:b", "Password": "c" });
    check(
        "POST",
        "/webhooks",
        json!({ "Url": url, "HttpAuth": auth }),
        1361,
    )
    .await;
    check(
        "POST",
        "/webhooks",
        json!({ "Url": url, "SigningSecret": "short" }),
        1361,
    )
    .await;
    for _ in 0..10 {
        fixture
            .hook("POST", "/webhooks", json!({ "Url": url }))
            .await
            .ok();
    }
    check("POST", "/webhooks", json!({ "Url": url }), 1359).await;
    fixture
        .hook(
            "POST",
            "/webhooks",
            json!({ "Url": url, "MessageStream": "broadcast" }),
        )
        .await
        .ok();
    check(
        "PUT",
        "/webhooks/1",
        json!({ "MessageStream": "broadcast" }),
        1357,
    )
    .await;
    check("PUT", "/webhooks/1", json!({ "ID": 2 }), 1357).await;
    check("PUT", "/webhooks/99", json!({ "Url": url }), 1352).await;
    check("DELETE", "/webhooks/99", json!({}), 1352).await;
    check("POST", "/webhooks/99/verify", json!({}), 1352).await;
}

/// Answers each request with the next status of the list, the last one from then on.
async fn receiver(statuses: &'static [u16]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut asked = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let status = statuses[asked.min(statuses.len() - 1)];
            asked += 1;
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer =
                format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/hook")
}

#[tokio::test]
async fn a_webhook_is_proved_where_that_is_asked_for() {
    let fixture = Fixture::with(&format!("{FILE}{OPEN}")).await;
    let triggers = json!({ "Delivery": { "Enabled": true }, "Bounce": { "Enabled": true } });
    let new = |url: &str| json!({ "Url": url, "Triggers": triggers, "Verify": true });
    let bad = receiver(&[200, 500]).await;
    let refused = fixture.hook("POST", "/webhooks", new(&bad)).await;
    assert_eq!(refused.body["Success"], false);
    assert_eq!(refused.body["Results"].as_array().unwrap().len(), 2);
    let why = refused.refused(422, 1364);
    assert_eq!(why, "1/2 triggers verified successfully");
    let listed = fixture.hook("GET", "/webhooks", json!({})).await.ok();
    assert_eq!(listed["Webhooks"], json!([]));
    let good = receiver(&[200]).await;
    let made = fixture.hook("POST", "/webhooks", new(&good)).await.ok();
    let path = format!("/webhooks/{}/verify", made["ID"]);
    let verified = fixture.hook("POST", &path, json!({})).await.ok();
    assert_eq!(verified["Message"], "All 2 triggers verified successfully");
    let types: Vec<_> = verified["Results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["TriggerType"].clone())
        .collect();
    assert_eq!(types, ["Delivery", "Bounce"]);
    let moved = json!({ "Url": bad, "Verify": true });
    let path = format!("/webhooks/{}", made["ID"]);
    fixture.hook("PUT", &path, moved).await.refused(422, 1364);
    let kept = fixture.hook("GET", &path, json!({})).await.ok();
    assert_eq!(kept["Url"], *good);
}
