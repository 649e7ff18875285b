//! Text that would mean something to SQL, to HTTP or to a browser is text: stored and given back as it came, or refused.

use super::*;

const HOSTILE: &[&str] = &[
    "Robert'); DROP TABLE server; --",
    "' OR '1'='1",
    "$1 ?1 :name @name",
    "100%_\\",
    "<script>alert(1)</script>",
    "{\"ErrorCode\":0}",
    "../../../etc/passwd",
    "%0d%0aSet-Cookie: a=b",
];

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn sql_in_names_is_stored_as_it_came_and_in_filters_finds_nothing_else() {
    let fixture = Fixture::new().await;
    let list = async |fixture: &Fixture, name: &str| {
        let path = format!("/servers?count=50&offset=0&name={}", encoded(name));
        let list = fixture.account("GET", &path, Value::Null).await.ok();
        list["TotalCount"].as_u64().unwrap()
    };
    for wildcard in ["%", "_", "*", "' OR '1'='1", "app' --"] {
        assert_eq!(list(&fixture, wildcard).await, 0, "{wildcard}");
    }
    for text in HOSTILE {
        let new = json!({ "Name": text });
        let made = fixture.account("POST", "/servers", new).await.ok();
        assert_eq!(made["Name"], *text);
        let token = made["ApiTokens"][0].as_str().unwrap();
        let stream = json!({ "ID": "s", "Name": text, "MessageStreamType": "Transactional" });
        let stream = fixture
            .server(token, "POST", "/message-streams", stream)
            .await
            .ok();
        assert_eq!(stream["Name"], *text);
        let new = json!({ "ServerID": made["ID"], "MessageStream": "s", "Name": text });
        let smtp = fixture.account("POST", "/smtp-tokens", new).await.ok();
        assert_eq!(smtp["Name"], *text);
        assert_eq!(list(&fixture, text).await, 1, "{text}");
        fixture
            .server(token, "GET", "/server", Value::Null)
            .await
            .ok();
    }
    // Read again from SQL, as after a restart.
    fixture.reload(FILE).await;
    for text in HOSTILE {
        assert_eq!(list(&fixture, text).await, 1, "{text}");
    }
    assert_eq!(list(&fixture, "app").await, 1);
}

#[tokio::test]
async fn nothing_that_was_sent_becomes_a_header_of_the_answer() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.shop().await;
    let evil = "x%0d%0aSet-Cookie:%20a=b%0d%0a%0d%0a<html>";
    let named =
        json!({ "ID": "x\r\nSet-Cookie: a=b", "Name": "n", "MessageStreamType": "Broadcasts" });
    for answered in [
        fixture
            .server(
                &token,
                "GET",
                &format!("/message-streams/{}", encoded(evil)),
                Value::Null,
            )
            .await,
        fixture
            .server(
                &token,
                "GET",
                "/message-streams/x%0d%0aSet-Cookie:%20a=b",
                Value::Null,
            )
            .await,
        fixture
            .server(
                &token,
                "GET",
                "/message-streams?MessageStreamType=x%0d%0aa:%20b",
                Value::Null,
            )
            .await,
        fixture
            .server(&token, "POST", "/message-streams", named)
            .await,
    ] {
        let names: Vec<&str> = answered.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["content-type", "x-pm-apierrorcode"]);
        let said = answered.body["Message"].as_str().unwrap();
        assert!(!said.contains(char::is_control), "{said}");
        assert_eq!(answered.status, 422);
    }
}

#[tokio::test]
async fn each_wrong_type_is_named_by_its_path() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.shop().await;
    let server = format!("/servers/{id}");
    let server = server.as_str();
    let wrong = [
        json!([]),
        json!({}),
        json!(1.5),
        json!(true),
        json!("text"),
        json!(7),
    ];
    for (path, method, field, right) in [
        (server, "PUT", "Name", "text"),
        (server, "PUT", "Color", "text"),
        (server, "PUT", "TrackOpens", "flag"),
        (server, "PUT", "SmtpApiActivated", "flag"),
        (server, "PUT", "InboundHookUrl", "text"),
        (server, "PUT", "InboundSpamThreshold", "number"),
        ("/smtp-tokens", "POST", "ServerID", "number"),
        ("/smtp-tokens", "POST", "MessageStream", "text"),
        ("/message-streams", "POST", "ID", "text"),
        ("/message-streams", "POST", "MessageStreamType", "text"),
        ("/message-streams/outbound", "PATCH", "Description", "text"),
        (
            "/message-streams/outbound",
            "PATCH",
            "SubscriptionManagementConfiguration",
            "object",
        ),
    ] {
        for value in &wrong {
            let suits = match right {
                "text" => value.is_string(),
                "flag" => value.is_boolean(),
                "number" => value.is_i64(),
                _ => value.is_object(),
            };
            if suits {
                continue;
            }
            let body = json!({ field: value });
            let answered = match path.starts_with("/message-streams") {
                true => fixture.server(&token, method, path, body).await,
                false => fixture.account(method, path, body).await,
            };
            let said = answered.refused(422, 403);
            assert_eq!(
                said,
                format!("Invalid request field(s): $.{field}"),
                "{path} {value}"
            );
        }
    }
}
