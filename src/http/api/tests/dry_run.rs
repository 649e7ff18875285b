//! Dry runs: the same checks, a report, and nothing taken.

use super::*;

const TOKEN: &str = "configured-token";

fn mail(changes: Value) -> Value {
    let mut mail = json!({ "From": "Orders <orders@declared.example>", "To": "Ada <ada@example.com>",
        "Subject": "Hello", "TextBody": "Hi." });
    for (key, value) in changes.as_object().unwrap() {
        mail[key] = value.clone();
    }
    mail
}

fn rules(answer: &Value) -> Vec<&str> {
    let findings = answer["DryRun"]["Findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| finding["Rule"].as_str().unwrap())
        .collect()
}

fn content(answer: &Value) -> String {
    let encoded = answer["DryRun"]["Content"].as_str().unwrap();
    String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_sent_and_what_is_wrong_with_it_and_takes_nothing() {
    let fixture = Fixture::new().await;
    let dry = async |changes: Value| {
        let mut mail = mail(changes);
        mail["DryRun"] = true.into();
        fixture.server(TOKEN, "POST", "/email", mail).await
    };
    let answer = dry(json!({})).await.ok();
    assert_eq!(
        answer["Message"],
        "Dry run: nothing was stored, nothing will be sent."
    );
    assert_eq!(
        (&answer["ErrorCode"], &answer["To"]),
        (&json!(0), &json!("Ada <ada@example.com>"))
    );
    let report = &answer["DryRun"];
    assert_eq!(report["Recipients"], json!(["ada@example.com"]));
    let alignment = &report["Alignment"];
    assert_eq!(
        (&alignment["FromDomain"], &alignment["FromVerified"]),
        (&json!("declared.example"), &json!(true))
    );
    // Declared in the file: verified, and not signed.
    assert_eq!(rules(&answer), ["dkim-missing"]);
    let text = content(&answer);
    assert!(
        text.contains("Subject: Hello\r\n") && text.ends_with("Hi."),
        "{text}"
    );
    assert_eq!(report["Size"], text.len());

    fixture.door.suppress("broadcast", "bo@example.com");
    let changes = json!({ "To": "ada@example.com, bo@example.com", "MessageStream": "broadcast", "TextBody": null,
        "HtmlBody": "<p>Dear {{name}}, <a href='http:/shop.example'>look</a></p>" });
    let answer = dry(changes).await.ok();
    assert_eq!(answer["DryRun"]["Inactive"], json!(["bo@example.com"]));
    assert_eq!(
        rules(&answer),
        [
            "dkim-missing",
            "suppressed-recipient",
            "missing-unsubscribe",
            "missing-text",
            "unresolved-placeholder",
            "malformed-link"
        ]
    );
    dry(json!({ "To": "bo@example.com", "MessageStream": "broadcast" }))
        .await
        .refused(422, 406);
    dry(json!({ "To": "World" })).await.refused(422, 300);
    dry(json!({ "From": "a@example.net" }))
        .await
        .refused(422, 400);
    fixture
        .server(TOKEN, "POST", "/email", mail(json!({ "DryRun": "yes" })))
        .await
        .refused(422, 403);
    assert!(fixture.door.taken().is_empty());
}

#[tokio::test]
async fn a_header_makes_a_dry_run_of_any_request_and_a_wrong_one_sends_nothing() {
    let fixture = Fixture::new().await;
    let post = async |path: &str, header: &str, body: Value| {
        let request = Request::builder().method("POST").uri(path);
        let request = request
            .header("X-Postmark-Server-Token", TOKEN)
            .header("X-Posthaste-Dry-Run", header);
        fixture
            .send(
                request.header("Content-Type", "application/json"),
                body.to_string(),
            )
            .await
    };
    let raw = "From: a@declared.example\r\nTo: b@example.com\r\nSubject: x\r\n\r\nHi.\r\n";
    let raw = json!({ "Content": STANDARD.encode(raw) });
    let answer = post("/email/raw", "TRUE", raw.clone()).await.ok();
    assert!(content(&answer).ends_with("Hi.\r\n"));
    let batch = json!([
        mail(json!({})),
        mail(json!({ "To": "World" })),
        mail(json!({ "TextBody": "{{x}}" }))
    ]);
    let answers = post("/email/batch", "true", batch.clone()).await.ok();
    assert_eq!(
        (rules(&answers[0]), answers[1]["ErrorCode"].as_u64()),
        (vec!["dkim-missing"], Some(300))
    );
    assert_eq!(
        rules(&answers[2]),
        ["dkim-missing", "unresolved-placeholder"]
    );
    for path in ["/email", "/email/raw", "/email/batch"] {
        let body = match path {
            "/email" => mail(json!({})),
            "/email/raw" => raw.clone(),
            _ => batch.clone(),
        };
        let said = post(path, "ture", body).await.refused(422, 300);
        assert!(said.contains("X-Posthaste-Dry-Run"), "{said}");
    }
    assert!(fixture.door.taken().is_empty());
    post("/email", "false", mail(json!({}))).await.ok();
    // One of a batch.
    let batch = json!([mail(json!({ "DryRun": true })), mail(json!({}))]);
    let answers = fixture
        .server(TOKEN, "POST", "/email/batch", batch)
        .await
        .ok();
    assert_eq!(
        (
            answers[0]["DryRun"].is_object(),
            answers[1]["DryRun"].is_null()
        ),
        (true, true)
    );
    assert_eq!(fixture.door.taken().len(), 2);
}
