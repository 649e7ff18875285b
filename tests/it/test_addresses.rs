//! Mail that never leaves the node: sandboxed servers, over HTTP and SMTP, and test addresses of live ones.

use serde_json::{Value, json};

use crate::sending::{call, post};
use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::remote_host::RemoteHost;

/// Type, kind of the event that says so, cause.
const TYPES: &[(&str, &str, &str)] = &[
    ("HardBounce", "bounced", "recipient-unknown"),
    ("Transient", "deferred", "remote-system"),
    ("Unsubscribe", "bounced_later", "unsubscribe"),
    ("Subscribe", "bounced_later", "subscribe"),
    ("AutoResponder", "bounced_later", "auto-reply"),
    ("AddressChange", "bounced_later", "address-change"),
    ("DnsError", "bounced", "dns"),
    ("SpamNotification", "bounced", "content-spam"),
    ("OpenRelayTest", "bounced_later", "open-relay-test"),
    ("Unknown", "bounced", "unknown"),
    ("SoftBounce", "bounced", "recipient-full"),
    ("VirusNotification", "bounced", "virus"),
    ("ChallengeVerification", "bounced_later", "challenge"),
    ("BadEmailAddress", "bounced", "address-invalid"),
    ("ManuallyDeactivated", "bounced", "deactivated"),
    ("Unconfirmed", "bounced", "unconfirmed"),
    ("Blocked", "bounced", "blocklisted"),
    ("SMTPApiError", "bounced", "submission-refused"),
    ("InboundError", "bounced", "inbound-failed"),
    ("DMARCPolicy", "bounced", "dmarc-policy"),
    ("TemplateRenderingFailed", "bounced", "template-failed"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_test_address_becomes_what_it_asks_for_and_nothing_leaves() {
    let host = RemoteHost::start().await;
    let node = TestNode::with(&format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n[delivery]\ntest_domains = [\"mail.shop.test\"]\n",
        host.address
    ))
    .await;
    let address = node.node.http_address();
    // All in one message, which is one transaction with the sink: each has an outcome of its own.
    let all: Vec<String> = TYPES
        .iter()
        .map(|(name, _, _)| format!("{}@bounce-testing.mail.shop.test", name.to_lowercase()))
        .collect();
    let mail = json!({ "From": "a@shop.test", "To": all.join(","), "Cc": "any@blackhole.postmarkapp.com, real@one.test", "TextBody": "x" });
    let (status, said) = post(address, "/email", &mail).await;
    assert_eq!(status, 200, "{said}");
    // By header, which counts before the address; over SMTP likewise.
    let mail = json!({ "From": "a@shop.test", "To": "hardbounce@bounce-testing.postmarkapp.com", "TextBody": "x",
        "Headers": [{ "Name": "X-PM-Bounce-Type", "Value": "Soft_Bounce" }] });
    let (status, by_header) = post(address, "/email", &mail).await;
    assert_eq!(status, 200, "{by_header}");
    let mut client = node.client().await;
    let content = [
        b"X-PM-Bounce-Type: DMARCPolicy\r\n".as_slice(),
        &message("x", "x"),
    ]
    .concat();
    let by_smtp = client
        .submit(&["anything@bounce-testing.mail.shop.test"], &content)
        .await;

    let enough = |events: &[crate::support::node::Seen]| {
        let terminal = events
            .iter()
            .filter(|e| matches!(e.kind, "delivered" | "bounced"));
        terminal.count() == TYPES.len() + 4
    };
    let events = node.events_until("all outcomes", enough).await;
    for (name, kind, cause) in TYPES {
        let path = format!("{}@bounce-testing.mail.shop.test", name.to_lowercase());
        let mine: Vec<_> = events.iter().filter(|e| e.recipient == path).collect();
        let said: Vec<_> = mine
            .iter()
            .filter(|e| e.kind == *kind && e.cause == *cause)
            .collect();
        assert_eq!(said.len(), 1, "{name}: {mine:#?}");
        assert!(said[0].detail.contains(name), "{name}: {mine:#?}");
        let kinds: Vec<&str> = mine.iter().map(|e| e.kind).collect();
        let expected: &[&str] = match *kind {
            "bounced" => &["accepted", "bounced"],
            // Delayed, and then delivered; delivered, and then answered.
            "deferred" => &["accepted", "deferred", "delivered"],
            _ => &["accepted", "delivered", "bounced_later"],
        };
        assert_eq!(kinds, expected, "{name}");
    }
    let of = |id: &str, kind: &str| {
        let found = events.iter().find(|e| e.message_id == id && e.kind == kind);
        found.map(|e| e.cause.clone())
    };
    let by_header = by_header["MessageID"].as_str().unwrap();
    assert_eq!(of(by_header, "bounced").as_deref(), Some("recipient-full"));
    assert_eq!(of(&by_smtp, "bounced").as_deref(), Some("dmarc-policy"));
    // A hard bounce suppresses, as one of life does.
    let again = json!({ "From": "a@shop.test", "To": "hardbounce@bounce-testing.mail.shop.test", "TextBody": "x" });
    let refused = eventually("the suppression", async || {
        let (status, said) = post(address, "/email", &again).await;
        (status == 422).then_some(said)
    });
    assert_eq!(refused.await["ErrorCode"], 406);
    let taken = host.wait_for(1).await;
    assert_eq!(
        (taken.len(), taken[0].recipients.as_slice()),
        (1, ["real@one.test".to_owned()].as_slice())
    );
    node.node.stop().await;
}

const SANDBOX: &str = r#"
[[server]]
name = "box"
tokens = ["box-token"]
senders = "any"
delivery_type = "sandbox"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandboxed_servers_mail_lives_its_whole_life_within_the_node_and_can_be_read() {
    let host = RemoteHost::start().await;
    let config = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n{SANDBOX}",
        host.address
    );
    let node = TestNode::with(&config.clone()).await;
    let config = |text: String| text.replace("server = \"app\" }", "server = \"box\" }");
    node.reload(config).await.unwrap();
    let address = node.node.http_address();
    let mut client = node.client().await;
    let by_smtp = client
        .submit(
            &["a@one.test", "hardbounce@bounce-testing.postmarkapp.com"],
            &message("sandboxed", "by SMTP"),
        )
        .await;
    let token = [("x-postmark-server-token", "box-token")];
    let mail = json!({ "From": "a@shop.test", "To": "b@one.test", "Cc": "softbounce@bounce-testing.postmarkapp.com", "Subject": "x",
        "TextBody": "by HTTP" });
    let (status, answer) = crate::sending::call_as(&token, "POST", address, "/email", &mail).await;
    assert_eq!(status, 200, "{answer}");
    let by_http = answer["MessageID"].as_str().unwrap();
    let enough = |events: &[crate::support::node::Seen]| {
        let ended = events
            .iter()
            .filter(|e| matches!(e.kind, "delivered" | "bounced"));
        ended.count() == 4
    };
    let events = node.events_until("four outcomes", enough).await;
    for id in [&by_smtp, by_http] {
        let mut kinds: Vec<&str> = events
            .iter()
            .filter(|e| e.message_id == id)
            .map(|e| e.kind)
            .collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["accepted", "accepted", "bounced", "delivered"]);
        let path = format!("/messages/outbound/{id}/dump");
        let (status, dump) =
            crate::sending::call_as(&token, "GET", address, &path, &Value::Null).await;
        assert_eq!(status, 200, "{dump}");
        let body = dump["Body"].as_str().unwrap();
        assert!(
            body.contains(&format!("X-PM-Message-Id: {id}\r\n")),
            "{body}"
        );
        assert!(
            body.contains("by SMTP") || body.contains("by HTTP"),
            "{body}"
        );
        // Another server's message is as unknown as none.
        let (status, said) = call("GET", address, &path, &Value::Null).await;
        assert_eq!((status, &said["ErrorCode"]), (422, &json!(701)), "{said}");
    }
    assert!(host.taken().is_empty());
    node.node.stop().await;
}
