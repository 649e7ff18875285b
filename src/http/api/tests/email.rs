//! `/email`, `/email/batch`, `/email/raw`: what is taken, and every code and text of the reference (§2.3.1, §3).

use super::*;
use crate::accept::{Context, Refusal};

const TOKEN: &str = "configured-token";

fn mail(changes: Value) -> Value {
    let mut mail = json!({ "From": "Orders <orders@declared.example>", "To": "Ada <ada@example.com>",
        "Subject": "Hello", "TextBody": "Hi." });
    for (key, value) in changes.as_object().unwrap() {
        mail[key] = value.clone();
    }
    mail
}

impl Fixture {
    async fn email(&self, changes: Value) -> Answered {
        self.server(TOKEN, "POST", "/email", mail(changes)).await
    }

    /// The one message that came.
    fn one(&self) -> (Context, String) {
        let mut taken = self.door.taken();
        assert_eq!(taken.len(), 1);
        let (context, content) = taken.remove(0);
        (context, String::from_utf8(content).unwrap())
    }
}

fn paths(context: &Context) -> Vec<&str> {
    context.recipients.iter().map(|r| r.path.as_str()).collect()
}

#[tokio::test]
async fn a_message_is_taken_with_everything_that_it_says() {
    let fixture = Fixture::new().await;
    let given = json!({ "To": "Ada <ada@example.com>, bo@example.com", "Cc": "\"C, Y\" <cy@example.com>", "Bcc": "dan@example.com, ada@example.com",
        "ReplyTo": "help@declared.example, h2@declared.example", "HtmlBody": "<p>Grüße</p>", "Tag": "shipping", "TrackOpens": true,
        "TrackLinks": "htmlonly", "Metadata": { "order": "881" }, "MessageStream": "broadcast",
        "Headers": [{ "Name": "X-Shop", "Value": "north" }, { "Name": "Subject", "Value": "ignored" },
                    { "Name": "Message-ID", "Value": "<own@declared.example>" }],
        "Attachments": [{ "Name": "slip.txt", "Content": "cGFja2lu\nZyBzbGlw", "ContentType": "text/plain", "ContentID": null }],
        "SendAt": "2h", "unknown": [1] });
    let answer = fixture.email(given.clone()).await.ok();
    assert_eq!(
        (&answer["To"], &answer["Cc"], &answer["Bcc"]),
        (&given["To"], &given["Cc"], &given["Bcc"])
    );
    assert_eq!(
        (&answer["ErrorCode"], &answer["Message"]),
        (&json!(0), &json!("OK"))
    );
    assert_eq!(answer["MessageID"].as_str().unwrap().len(), 36);
    let (context, content) = fixture.one();
    let wanted = [
        "ada@example.com",
        "bo@example.com",
        "cy@example.com",
        "dan@example.com",
    ];
    assert_eq!(paths(&context), wanted);
    assert_eq!(context.reverse_path.as_str(), "orders@declared.example");
    let said = context.given.unwrap();
    assert_eq!(
        (said.stream.as_deref(), said.tag.as_deref()),
        (Some("broadcast"), Some("shipping"))
    );
    assert_eq!(said.metadata, [("order".to_owned(), "881".to_owned())]);
    assert_eq!(said.tracking.opens, Some(true));
    assert_eq!(said.tracking.links.unwrap().as_str(), "HtmlOnly");
    for field in [
        "X-Shop: north\r\n",
        "Message-ID: <own@declared.example>\r\n",
        "X-PM-Tag: shipping\r\n",
        "X-Posthaste-Send-At: 2h\r\n",
        "From: \"Orders\" <orders@declared.example>\r\n",
        "Subject: Hello\r\n",
        "filename=\"slip.txt\"",
        "packing slip",
    ] {
        assert!(content.contains(field), "{field} in {content}");
    }
    assert!(!content.contains("dan@") && !content.contains("ignored"));
}

#[tokio::test]
async fn what_clients_send_for_nothing_is_nothing() {
    let fixture = Fixture::new().await;
    let empty = json!({ "Cc": "", "Bcc": null, "ReplyTo": "", "Tag": "", "TrackLinks": "", "TrackOpens": null, "Metadata": [],
        "Headers": null, "Attachments": [], "HtmlBody": "", "MessageStream": null, "Subject": null });
    fixture.email(empty).await.ok();
    let (context, _) = fixture.one();
    assert_eq!(context.given, Some(Given::default()));
    // Keys in any case, a slash at the end, and only blind copies.
    let body = json!({ "from": "orders@declared.example", "BCC": "ada@example.com", "htmlBody": "<p>x</p>" });
    let answer = fixture.server(TOKEN, "POST", "/Email/", body).await.ok();
    assert_eq!(answer["To"], "");
    let (context, content) = fixture.one();
    assert_eq!(paths(&context), ["ada@example.com"]);
    assert!(content.contains("To: undisclosed-recipients:;"));
}

#[tokio::test]
async fn every_fault_has_its_code_and_text() {
    let fixture = Fixture::new().await;
    let long = |n: usize| "x".repeat(n);
    let fifty_one = (0..51)
        .map(|n| format!("r{n}@example.com"))
        .collect::<Vec<_>>()
        .join(",");
    let file = |name: &str, content: &str| json!({ "Attachments": [{ "Name": name, "Content": content, "ContentType": "text/plain" }] });
    let header = |name: &str, value: &str| json!({ "Headers": [{ "Name": name, "Value": value }] });
    let eleven: Value = (0..11)
        .map(|n| (format!("k{n}"), json!("v")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (changes, code, text) in [
        (json!({ "To": "" }), 300, "Zero recipients specified"),
        (
            json!({ "TextBody": "" }),
            300,
            "Provide either email TextBody or HtmlBody or both.",
        ),
        (json!({ "From": "" }), 300, "Invalid 'From' value."),
        (
            json!({ "From": "a@declared.example, b@declared.example" }),
            300,
            "Invalid 'From' value.",
        ),
        (
            json!({ "From": "test" }),
            300,
            "Error parsing 'From': Illegal email address 'test'. It must contain the '@' symbol.",
        ),
        (
            json!({ "To": "World" }),
            300,
            "Error parsing 'To': Illegal email address 'World'. It must contain the '@' symbol.",
        ),
        (
            json!({ "Cc": "Doe, J <j@example.com>" }),
            300,
            "Error parsing 'Cc': Illegal email address 'Doe'",
        ),
        (
            json!({ "Bcc": "a@example.com." }),
            300,
            "Error parsing 'Bcc': Illegal email domain 'example.com.' in address 'a@example.com.'.",
        ),
        (
            json!({ "To": "invalid@localhost" }),
            300,
            "Invalid 'To' address: 'invalid@localhost'.",
        ),
        (json!({ "ReplyTo": "x" }), 300, "Error parsing 'Reply-To'"),
        (json!({ "To": fifty_one }), 300, "at most 50 recipients"),
        (
            json!({ "From": format!("{} <a@declared.example>", long(250)) }),
            300,
            "The 'From' is longer than 255",
        ),
        (
            json!({ "Subject": long(2001) }),
            300,
            "The 'Subject' is longer than 2000",
        ),
        (
            json!({ "Tag": long(1001) }),
            300,
            "The 'Tag' is longer than 1000",
        ),
        (
            json!({ "HtmlBody": long(5 * 1024 * 1024 + 1) }),
            300,
            "The 'HtmlBody' is larger than",
        ),
        (
            json!({ "TrackLinks": "Some" }),
            300,
            "Invalid 'TrackLinks' value",
        ),
        (
            json!({ "Metadata": { "workspaceOccupantType": "x" } }),
            300,
            "The 'workspaceOccupantType' field in your metadata content exceeds these limits.",
        ),
        (
            json!({ "Metadata": { "a": long(81) } }),
            300,
            "Invalid metadata content.",
        ),
        (
            json!({ "Metadata": { "a": "1", "A": "2" } }),
            300,
            "is given twice",
        ),
        (
            json!({ "Metadata": eleven }),
            300,
            "at most 10 metadata fields",
        ),
        (
            json!({ "Metadata": { "a": 1 } }),
            403,
            "Invalid request field(s): $.Metadata",
        ),
        (
            json!({ "To": ["a@example.com"], "TrackOpens": "yes" }),
            403,
            "Invalid request field(s): $.To, $.TrackOpens",
        ),
        (
            json!({ "Headers": ["x"] }),
            403,
            "Invalid request field(s): $.Headers[0]",
        ),
        (header("X Y", "v"), 300, "Invalid header name 'X Y'."),
        (header("X-Y:\r\nZ", "v"), 300, "Invalid header name"),
        (
            header("X-Y", "v\r\nBcc: x@example.com"),
            300,
            "Invalid 'X-Y' value: it must not contain line breaks or other control characters.",
        ),
        (header("X-Y", &long(20_000)), 300, "is too long"),
        (file("a.exe.", "eA=="), 411, "not allowed"),
        (file("a.e\u{202e}xe", "eA=="), 411, "not allowed"),
        (file("a.ｅｘｅ", "eA=="), 411, "not allowed"),
        (file("../a.txt", "eA=="), 300, "must not contain a path"),
        (file("c:\\a.txt", "eA=="), 300, "must not contain a path"),
        (
            file("a\n.txt", "eA=="),
            300,
            "Invalid 'Attachments.Name' value",
        ),
        (file("a.exe", "eA=="), 411, "not allowed"),
        (file("a.ExE ", "eA=="), 411, "not allowed"),
        (
            file("a.txt", ""),
            300,
            "Zero-sized attachments not allowed.",
        ),
        (
            file("a.txt", "%%%"),
            403,
            "Invalid request field(s): $.Attachments[0].Content",
        ),
        (
            json!({ "Attachments": [{ "Content": "eA==" }] }),
            403,
            "$.Attachments[0].Name",
        ),
        (
            json!({ "MessageStream": "unknown-stream" }),
            1235,
            "The stream provided: 'unknown-stream' does not exist on this server.",
        ),
        (json!({ "MessageStream": "inbound" }), 1236, "does not send"),
        (
            json!({ "From": "ada@example.net" }),
            400,
            "The 'From' address you supplied (ada@example.net) is not a Sender Signature on your account. Please add",
        ),
        (
            json!({ "From": "a@sub.declared.example" }),
            400,
            "is not a Sender Signature",
        ),
    ] {
        let shown = changes.to_string().chars().take(200).collect::<String>();
        let answer = fixture.email(changes).await;
        assert_eq!(
            (answer.status, answer.code()),
            (422, code),
            "{shown}: {}",
            answer.body
        );
        assert!(
            answer.body["Message"].as_str().unwrap().contains(text),
            "{shown}: {}",
            answer.body
        );
    }
    for kind in ["multipart/mixed", "Message/rfc822; x=y"] {
        let attached =
            json!({ "Attachments": [{ "Name": "a", "Content": "eA==", "ContentType": kind }] });
        let said = fixture.email(attached).await.refused(422, 300);
        assert!(said.contains("of a type that has parts"), "{said}");
    }
    let keys = [
        "From",
        "To",
        "Cc",
        "Bcc",
        "ReplyTo",
        "Subject",
        "Tag",
        "MessageStream",
        "SendAt",
        "Deadline",
    ];
    for key in keys {
        for control in [
            '\r', '\n', '\0', '\t', '\u{b}', '\u{7f}', '\u{85}', '\u{2028}',
        ] {
            let text = format!("Ada{control} <a@declared.example>");
            let said = fixture.email(json!({ key: text })).await.refused(422, 300);
            assert!(said.contains("control characters"), "{key}: {said}");
        }
    }
    let metadata = json!({ "Metadata": { "a": "b\nc" } });
    fixture.email(metadata).await.refused(422, 300);
    for broken in ["{", "[]", "\"x\"", "{\"From\":\"\\ud800\"}"] {
        let request = Request::builder()
            .method("POST")
            .uri("/email")
            .header("X-Postmark-Server-Token", TOKEN);
        let answer = fixture
            .send(request.header("Content-Type", "application/json"), broken)
            .await;
        assert!(
            matches!((answer.status, answer.code()), (422, 402 | 403)),
            "{broken}"
        );
    }
    assert!(fixture.door.taken().is_empty());
}

#[tokio::test]
async fn an_unconfirmed_signature_does_not_send_and_a_confirmed_one_is_enough() {
    let fixture = Fixture::new().await;
    let new = json!({ "FromEmail": "ada@example.net", "Name": "Ada" });
    fixture.account("POST", "/senders", new).await.ok();
    let said = fixture
        .email(json!({ "From": "ada@example.net" }))
        .await
        .refused(422, 401);
    assert!(said.contains("is not confirmed yet"), "{said}");
}

#[tokio::test]
async fn what_the_door_refuses_is_told_with_what_to_do() {
    let fixture = Fixture::new().await;
    for (refusal, status, code, retry) in [
        (Refusal::DiskFull, 503, 100, Some("60")),
        (Refusal::QueueFull, 503, 100, Some("60")),
        (Refusal::Busy, 503, 100, Some("2")),
        (Refusal::SpoolFailed, 503, 100, Some("10")),
        (Refusal::NotDelivering, 503, 100, Some("10")),
        (Refusal::NoPool("outbound".into()), 422, 300, None),
        (Refusal::UnknownStream("x".into()), 422, 1235, None),
        (Refusal::NotSending("x".into()), 422, 1236, None),
        (Refusal::RepeatedField("Message-ID"), 422, 300, None),
        (
            Refusal::BadField {
                field: "X-Posthaste-Send-At",
                reason: "`x` is neither".into(),
            },
            422,
            300,
            None,
        ),
    ] {
        fixture.door.refuse(Some(refusal.clone()));
        let answer = fixture.email(json!({})).await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{refusal:?}"
        );
        let after = answer
            .headers
            .get("retry-after")
            .map(|value| value.to_str().unwrap());
        assert_eq!(after, retry, "{refusal:?}");
        let said = answer.body["Message"].as_str().unwrap();
        let limit = match refusal {
            Refusal::DiskFull => "[spool] refuse_below",
            Refusal::QueueFull => "20000000 recipients",
            Refusal::Busy => "1073741824 octets",
            _ => "",
        };
        assert!(said.contains(limit), "{said}");
    }
    let said = fixture.email(json!({})).await.body["Message"].clone();
    assert_eq!(said, "Invalid 'SendAt' value: `x` is neither.");
}

#[tokio::test]
async fn a_batch_has_an_answer_for_each_in_its_order() {
    let fixture = Fixture::new().await;
    let batch = |items: Value| fixture.server(TOKEN, "POST", "/email/batch", items);
    let items = json!([
        mail(json!({})),
        mail(json!({ "To": "World" })),
        7,
        mail(json!({ "To": "bo@example.com" })),
        mail(json!({ "MessageStream": "none" })),
        mail(json!({ "Tag": 1 }))
    ]);
    let answers = batch(items).await.ok();
    let codes: Vec<_> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["ErrorCode"].as_u64().unwrap())
        .collect();
    assert_eq!(codes, [0, 300, 403, 0, 1235, 403]);
    assert_eq!(answers[3]["To"], "bo@example.com");
    assert_eq!(answers[1].as_object().unwrap().len(), 2, "{}", answers[1]);
    assert_eq!(fixture.door.taken().len(), 2);
    assert_eq!(batch(json!([])).await.ok(), json!([]));
    let said = batch(json!(vec![json!({}); 501])).await.refused(422, 410);
    assert_eq!(
        said,
        "You may only send up to 500 messages in a single batched request."
    );
    batch(json!({ "Messages": [] })).await.refused(422, 403);
    let full = batch(json!(vec![mail(json!({})); 500])).await.ok();
    assert_eq!(
        (full.as_array().unwrap().len(), fixture.door.taken().len()),
        (500, 500)
    );
}

#[tokio::test]
async fn the_test_token_checks_and_sends_nothing() {
    let fixture = Fixture::new().await;
    let test =
        |path: &'static str, body: Value| fixture.server("postmark_api_TEST", "POST", path, body);
    let answer = test("/email", mail(json!({ "From": "nobody@nowhere.example" })))
        .await
        .ok();
    assert_eq!(
        (&answer["Message"], &answer["ErrorCode"]),
        (&json!("Test job accepted"), &json!(0))
    );
    let other = test("/email", mail(json!({}))).await.ok();
    assert_ne!(answer["MessageID"], other["MessageID"]);
    test("/email", mail(json!({ "To": "World" })))
        .await
        .refused(422, 300);
    let batch = test(
        "/email/batch",
        json!([mail(json!({})), mail(json!({ "TextBody": null }))]),
    )
    .await
    .ok();
    assert_eq!(
        (&batch[0]["Message"], &batch[1]["ErrorCode"]),
        (&json!("Test job accepted"), &json!(300))
    );
    assert!(fixture.door.taken().is_empty());
    fixture
        .server("POSTMARK_API_TEST", "GET", "/server", Value::Null)
        .await
        .refused(401, 10);
}

#[tokio::test]
async fn a_finished_message_goes_as_it_is_to_its_envelope() {
    let fixture = Fixture::new().await;
    let raw = |content: &str, more: Value| {
        let mut body = json!({ "Content": STANDARD.encode(content) });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        fixture.server(TOKEN, "POST", "/email/raw", body)
    };
    let content = "From: orders@declared.example\nTo: Ada <ada@example.com>\nBcc: bo@example.com\nX-PM-Tag: t\nSubject: x\n\nHi.\n";
    let answer = raw(content, json!({})).await.ok();
    assert_eq!(answer["To"], "ada@example.com, bo@example.com");
    let (context, taken) = fixture.one();
    assert_eq!(paths(&context), ["ada@example.com", "bo@example.com"]);
    assert_eq!(taken, content.replace('\n', "\r\n"));
    raw(
        content,
        json!({ "To": "cy@example.com", "MessageStream": "broadcast" }),
    )
    .await
    .ok();
    let (context, _) = fixture.one();
    assert_eq!(paths(&context), ["cy@example.com"]);
    assert_eq!(context.given.unwrap().stream.as_deref(), Some("broadcast"));
    for (content, more, code) in [
        ("Subject: x\r\n\r\n", json!({}), 300),
        ("From: a@declared.example\r\n\r\n", json!({}), 300),
        (
            "From: a@example.net\r\nTo: b@example.com\r\n\r\n",
            json!({}),
            400,
        ),
        (content, json!({ "To": "x" }), 300),
        (content, json!({ "Content": "%" }), 403),
        (content, json!({ "Content": null }), 403),
        (content, json!({ "MessageStream": "none" }), 1235),
        (
            "From: a@declared.example\r\nTo: b@example.com\r\n\r\nmixed\nends",
            json!({}),
            300,
        ),
        (
            "From: a@declared.example\r\nTo: b@example.com\r\n\r\nnul\0",
            json!({}),
            300,
        ),
    ] {
        raw(content, more).await.refused(422, code);
    }
}

#[tokio::test]
async fn large_bodies_have_bounds_alone_and_together() {
    let fixture = Fixture::new().await;
    let request = |path: &str, length: usize| {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("X-Postmark-Server-Token", TOKEN);
        request
            .header("Content-Type", "application/json")
            .header("Content-Length", length)
    };
    fixture
        .send(request("/email", 10 * 1024 * 1024 + 1), "")
        .await
        .refused(413, 403);
    fixture
        .send(request("/email/batch", 50 * 1024 * 1024 + 1), "")
        .await
        .refused(413, 403);
    let padded = mail(json!({ "HtmlBody": "x".repeat(100_000) })).to_string();
    let whole = || fixture.send(request("/email", padded.len()), padded.clone());
    whole().await.ok();
    // As after a vain wait.
    fixture.api.bodies.close();
    let answer = whole().await;
    assert_eq!(answer.headers["retry-after"], "10");
    let said = answer.refused(503, 100);
    assert!(said.contains("67108864 octets"), "{said}");
    // Short ones go by.
    fixture.email(json!({})).await.ok();
}

#[tokio::test]
async fn suppressed_recipients_are_left_out_and_nobody_left_is_an_error() {
    let fixture = Fixture::new().await;
    for address in ["bo@example.com", "cy@example.com"] {
        fixture.door.suppress("outbound", address);
    }
    let all = "ada@example.com, bo@example.com, cy@example.com";
    let answer = fixture.email(json!({ "To": all })).await.ok();
    assert_eq!(answer["To"], all);
    assert_eq!(
        answer["Message"],
        "Message OK, but will not deliver to these inactive addresses: bo@example.com, cy@example.com"
    );
    assert_eq!(paths(&fixture.one().0), ["ada@example.com"]);
    let said = fixture
        .email(json!({ "To": "cy@example.com, bo@example.com" }))
        .await
        .refused(422, 406);
    assert!(
        said.contains("Found inactive addresses: cy@example.com, bo@example.com. Inactive"),
        "{said}"
    );
    // Another stream, another list.
    fixture
        .email(json!({ "To": "bo@example.com", "MessageStream": "broadcast" }))
        .await
        .ok();
    let batch = json!([mail(json!({ "To": "bo@example.com" })), mail(json!({}))]);
    let answers = fixture
        .server(TOKEN, "POST", "/email/batch", batch)
        .await
        .ok();
    assert_eq!(
        (&answers[0]["ErrorCode"], &answers[1]["ErrorCode"]),
        (&json!(406), &json!(0))
    );
}
