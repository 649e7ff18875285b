//! Message streams and SMTP tokens: their lives, each error code.

use super::*;

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
    // Archived so long ago that it is purged.
    let settings = &fixture.api.settings;
    settings.archive_stream(2, "s0", 1).await.unwrap();
    server("POST", "/message-streams/s0/unarchive", Value::Null, 1232).await;
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
