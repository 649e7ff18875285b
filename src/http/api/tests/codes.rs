//! Every error code that the reference documents for `/email`, `/email/batch` and suppressions (§2.3): each occurs here, or the reason
//! why it never does stands beside it.

use super::*;
use crate::accept::Refusal;
use crate::suppression::Reason;

const TOKEN: &str = "configured-token";

/// Codes of the reference that a node of one's own has no use for.
const NEVER: &[(u64, &str)] = &[
    (11, "of the bulk API: an answer for several errors at once"),
    (12, "of the bulk API"),
    (
        13,
        "of the bulk API; here of GET /email/scheduled, in tests/outbox.rs",
    ),
    (14, "of the bulk API"),
    (405, "there are no credits to run out of"),
    (412, "accounts are not approved by anybody"),
    (413, "likewise"),
    (422, "a server that is not valid has no token: 10"),
    (
        1400,
        "the dump is not paged: a count that is missing is none",
    ),
    (1402, "likewise, an offset"),
    (1480, "a server has no list of addresses that may call"),
];

const DOCUMENTED: &[u64] = &[
    0, 10, 11, 12, 13, 14, 100, 101, 300, 400, 401, 402, 403, 405, 406, 409, 410, 411, 412, 413,
    422, 429, 1226, 1235, 1236, 1400, 1401, 1402, 1403, 1404, 1405, 1406, 1407, 1408, 1409, 1410,
    1411, 1480,
];

fn mail(changes: Value) -> Value {
    let mut mail = json!({ "From": "a@declared.example", "To": "b@example.com", "TextBody": "x" });
    for (key, value) in changes.as_object().unwrap() {
        mail[key] = value.clone();
    }
    mail
}

#[tokio::test]
async fn every_documented_code_occurs_or_has_a_reason_not_to() {
    let fixture = Fixture::new().await;
    let mut seen = std::collections::BTreeSet::new();
    let mut note = |answer: Answered, status: u16| {
        assert_eq!(answer.status, status, "{}", answer.body);
        seen.insert(answer.code());
    };
    let email = async |changes: Value| fixture.server(TOKEN, "POST", "/email", mail(changes)).await;
    let raw = async |body: &str, kind: &str| {
        let request = Request::builder()
            .method("POST")
            .uri("/email")
            .header("X-Postmark-Server-Token", TOKEN);
        fixture
            .send(request.header("Content-Type", kind), body.to_owned())
            .await
    };
    note(email(json!({})).await, 200);
    note(
        fixture
            .server("nobody", "POST", "/email", mail(json!({})))
            .await,
        401,
    );
    note(email(json!({ "To": "World" })).await, 422);
    note(email(json!({ "From": "a@example.net" })).await, 422);
    let signature = json!({ "FromEmail": "ada@example.org", "Name": "Ada" });
    fixture.account("POST", "/senders", signature).await.ok();
    note(email(json!({ "From": "ada@example.org" })).await, 422);
    note(raw("{", "application/json").await, 422);
    note(email(json!({ "Tag": 1 })).await, 422);
    note(raw("{\"x\":1}", "text/plain").await, 415);
    fixture.door.suppress("outbound", "b@example.com");
    note(email(json!({})).await, 422);
    note(
        fixture
            .server(TOKEN, "POST", "/email/batch", json!(vec![0; 501]))
            .await,
        422,
    );
    let file = json!([{ "Name": "a.exe", "Content": "eA==", "ContentType": "text/plain" }]);
    note(email(json!({ "Attachments": file })).await, 422);
    note(email(json!({ "MessageStream": "none" })).await, 422);
    note(email(json!({ "MessageStream": "inbound" })).await, 422);
    fixture.door.refuse(Some(Refusal::DiskFull));
    let other = json!({ "To": "c@example.com" });
    note(email(other.clone()).await, 503);
    fixture.door.refuse(None);
    fixture.door.fail();
    note(email(other.clone()).await, 500);

    let (id, token) = fixture.shop().await;
    let list = "/message-streams/outbound/suppressions";
    let delete = format!("{list}/delete");
    let call = async |method: &str, path: &str, body: Value| {
        fixture.server(&token, method, path, body).await
    };
    note(
        call(
            "GET",
            "/message-streams/none/suppressions/dump",
            Value::Null,
        )
        .await,
        422,
    );
    for query in ["count=x", "offset=x", "SuppressionReason=x", "Origin=x"] {
        note(
            call("GET", &format!("{list}/dump?{query}"), Value::Null).await,
            422,
        );
    }
    note(call("POST", list, json!({})).await, 422);
    note(
        call(
            "POST",
            list,
            json!({ "Suppressions": vec![json!({ "EmailAddress": "a@example.com" }); 51] }),
        )
        .await,
        422,
    );
    note(call("POST", list, json!({ "Suppressions": [] })).await, 422);
    // These two are told as texts of their items.
    let bad = call(
        "POST",
        list,
        json!({ "Suppressions": [{ "EmailAddress": "x" }] }),
    )
    .await
    .ok();
    assert_eq!(
        bad["Suppressions"][0]["Message"],
        "An invalid email address was provided."
    );
    fixture
        .suppress(
            id,
            "c@example.com",
            Reason::SpamComplaint,
            crate::suppression::Origin::Recipient,
        )
        .await;
    let one = json!({ "Suppressions": [{ "EmailAddress": "c@example.com" }] });
    let kept = call("POST", &delete, one).await.ok();
    assert_eq!(
        kept["Suppressions"][0]["Message"],
        "You do not have the required authority to change this suppression."
    );
    fixture.api.suppressions.stop_log();
    let other = json!({ "Suppressions": [{ "EmailAddress": "e@example.com" }] });
    note(call("POST", list, other).await, 503);
    let limit = ServerPatch {
        rate: Some("1/h".into()),
        ..ServerPatch::default()
    };
    fixture
        .api
        .settings
        .edit_server(id as u32, &limit, 0)
        .await
        .unwrap();
    for _ in 0..2 {
        let answer = call("POST", "/email", mail(json!({}))).await;
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
            note(answer, 429);
        }
    }
    seen.extend([1406, 1408]);
    let missing: Vec<_> = DOCUMENTED
        .iter()
        .filter(|code| !seen.contains(code))
        .collect();
    let never: Vec<_> = NEVER.iter().map(|(code, _)| code).collect();
    assert_eq!(missing, never);
}
