//! Applications are told of their mail: what exactly, after any crash, whoever else does not listen, and never where they
//! must not be led.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use crate::official_clients::run;
use crate::sending::{call, post};
use crate::support::dns::Dns;
use crate::support::eventually;
use crate::support::node::{TestNode, write_config};
use crate::support::process::{NodeProcess, posthaste};
use crate::support::receiver::{Receiver, Say};
use crate::support::remote_host::{Answer, RemoteHost, Stage};

/// Refuses recipients whose address begins with `gone`.
pub async fn host() -> RemoteHost {
    RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("<gone") => Answer::line("550 5.1.1 no such user"),
        _ => Answer::Usual,
    })
    .await
}

/// Hooks on this machine, with retries after a second.
pub fn config(host: SocketAddr) -> String {
    format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{host}\"]\n[webhooks]\nallow_networks = [\"127.0.0.1/32\"]\nbounce_retries = [\"1s\", \"1s\", \"1s\", \"1s\"]\nevent_retries = [\"1s\", \"1s\", \"1s\"]\n"
    )
}

pub async fn node(host: &RemoteHost) -> TestNode {
    TestNode::with(&config(host.address)).await
}

fn all() -> Value {
    json!({
        "Delivery": { "Enabled": true },
        "Bounce": { "Enabled": true, "IncludeContent": true },
        "SpamComplaint": { "Enabled": true },
        "SubscriptionChange": { "Enabled": true },
    })
}

/// Sets a webhook; its id.
pub async fn hook(address: SocketAddr, url: &str, more: Value) -> u64 {
    let mut new = json!({ "Url": url, "Triggers": all() });
    for (key, value) in more.as_object().unwrap() {
        new[key] = value.clone();
    }
    let (status, made) = post(address, "/webhooks", &new).await;
    assert_eq!(status, 200, "{made}");
    made["ID"].as_u64().unwrap()
}

/// Sends a message; its id.
pub async fn send(address: SocketAddr, to: &str) -> String {
    let mail = json!({
        "From": "Shop <orders@declared.example>", "To": to, "Subject": "Grüße", "TextBody": "Hi.", "Tag": "welcome",
        "Metadata": { "order": "881" },
    });
    let (status, answer) = post(address, "/email", &mail).await;
    assert_eq!(status, 200, "{answer}");
    answer["MessageID"].as_str().unwrap().to_owned()
}

/// Takes out a time, which must be one of Postmark's and not long ago.
fn take_time(body: &mut Value, key: &str) {
    let text = body[key].take();
    let text = text.as_str().unwrap_or_else(|| panic!("{key}: {body}"));
    assert_eq!(text.len(), "2026-03-02T14:15:12.9070259Z".len(), "{text}");
    assert!(text.ends_with('Z') && text.as_bytes()[19] == b'.', "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_mail_is_told_as_postmark_tells_it() {
    let (host, receiver) = (host().await, Receiver::that_takes_all().await);
    let node = node(&host).await;
    let address = node.node.http_address();
    let secret = format!("whsec_{}", BASE64_STANDARD.encode([7; 32]));
    let more = json!({
        "HttpAuth": { "Username": "hook", "Password": "s3cret" },
        "HttpHeaders": [{ "Name": "X-Shop", "Value": "north" }],
        "SigningSecret": secret,
    });
    hook(address, &receiver.url(), more).await;
    let delivered = send(address, "Ada <ada@example.com>").await;
    let bounced = send(address, "gone@example.com").await;
    let calls = receiver.count(3).await;
    let by_kind: BTreeMap<&str, &_> = calls.iter().map(|call| (call.kind(), call)).collect();
    assert_eq!(by_kind.len(), 3, "{calls:?}");

    let mut delivery = by_kind["Delivery"].body.clone();
    take_time(&mut delivery, "DeliveredAt");
    let details = delivery["Details"].take();
    assert!(
        details.as_str().unwrap().starts_with("smtp;250 "),
        "{details}"
    );
    let expected = json!({
        "RecordType": "Delivery", "MessageStream": "outbound", "ServerID": 1, "MessageID": delivered,
        "Recipient": "ada@example.com", "Tag": "welcome", "DeliveredAt": null, "Details": null,
        "Metadata": { "order": "881" },
    });
    assert_eq!(delivery, expected);

    let mut bounce = by_kind["Bounce"].body.clone();
    take_time(&mut bounce, "BouncedAt");
    let id = bounce["ID"].as_u64().unwrap();
    let expected = json!({
        "RecordType": "Bounce", "MessageStream": "outbound", "ID": id, "Type": "HardBounce", "TypeCode": 1,
        "Name": "Hard bounce", "Tag": "welcome", "MessageID": bounced, "Metadata": { "order": "881" }, "ServerID": 1,
        "Description": "The server was unable to deliver your message (ex: unknown user, mailbox not found).",
        "Details": "smtp;550 5.1.1 no such user", "Email": "gone@example.com", "From": "orders@declared.example",
        "BouncedAt": null, "DumpAvailable": true, "Inactive": true, "CanActivate": true, "Subject": "Grüße",
        "Content": "550 5.1.1 no such user\r\n",
    });
    assert_eq!(bounce, expected);
    assert_eq!(by_kind["Bounce"].event(), id);

    let mut change = by_kind["SubscriptionChange"].body.clone();
    take_time(&mut change, "ChangedAt");
    let expected = json!({
        "RecordType": "SubscriptionChange", "MessageID": bounced, "ServerID": 1, "MessageStream": "outbound",
        "ChangedAt": null, "Recipient": "gone@example.com", "Origin": "Recipient", "SuppressSending": true,
        "SuppressionReason": "HardBounce", "Tag": "welcome", "Metadata": { "order": "881" },
    });
    assert_eq!(change, expected);

    for call in &calls {
        assert_eq!(
            (call.method.as_str(), call.target.as_str()),
            ("POST", "/hook?key=1")
        );
        assert_eq!(call.header("content-type"), "application/json");
        assert_eq!(call.header("authorization"), "Basic aG9vazpzM2NyZXQ=");
        assert_eq!(call.header("x-shop"), "north");
        assert_eq!(call.header("x-pm-webhook-trace-id").len(), 36);
        let remaining = if call.kind() == "Bounce" { "4" } else { "3" };
        assert_eq!(call.header("x-pm-retries-remaining"), remaining);
        // As any library of Standard Webhooks checks it.
        let signed = format!(
            "{}.{}.{}",
            call.header("webhook-id"),
            call.header("webhook-timestamp"),
            call.text
        );
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
        let signature = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        let signature = format!("v1,{}", BASE64_STANDARD.encode(signature));
        assert_eq!(call.header("webhook-signature"), signature);
        assert_eq!(call.header("webhook-id"), format!("evt_{}", call.event()));
    }

    // Lifted: nothing of the message is in it.
    let suppressions = json!({ "Suppressions": [{ "EmailAddress": "gone@example.com" }] });
    let path = "/message-streams/outbound/suppressions/delete";
    assert_eq!(post(address, path, &suppressions).await.0, 200);
    let mut change = receiver.count(4).await[3].body.clone();
    take_time(&mut change, "ChangedAt");
    let expected = json!({
        "RecordType": "SubscriptionChange", "MessageID": null, "ServerID": 1, "MessageStream": "outbound",
        "ChangedAt": null, "Recipient": "gone@example.com", "Origin": "Customer", "SuppressSending": false,
        "SuppressionReason": null, "Tag": null, "Metadata": {},
    });
    assert_eq!(change, expected);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_or_slow_hook_delays_no_other_and_no_mail() {
    let host = host().await;
    let (silent, good) = (
        Receiver::scripted(|_, _| Say::Nothing).await,
        Receiver::that_takes_all().await,
    );
    let closing = Receiver::scripted(|_, _| Say::Close).await;
    let node = node(&host).await;
    let address = node.node.http_address();
    for receiver in [&silent, &closing, &good] {
        hook(address, &receiver.url(), json!({})).await;
    }
    for number in 0..60 {
        send(address, &format!("r{number}@example.com")).await;
    }
    let calls = good.until("all of them", |calls| calls.len() >= 60).await;
    let told: BTreeSet<&str> = calls
        .iter()
        .map(|c| c.body["Recipient"].as_str().unwrap())
        .collect();
    assert_eq!((calls.len(), told.len()), (60, 60));
    // As many as it may have under way, and no more.
    assert!((1..=32).contains(&silent.calls().len()));
    // What fails is spared.
    assert!(closing.calls().len() < 40, "{}", closing.calls().len());
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_no_webhook_and_what_comes_twice_has_the_same_ids() {
    let host = host().await;
    // Takes every third at once, refuses every third, and leaves the rest without an answer.
    let receiver =
        Receiver::scripted(
            |call, before| match (call.event() / 8 + before as u64) % 3 {
                0 => Say::Status(200),
                1 => Say::Status(500),
                _ => Say::Nothing,
            },
        )
        .await;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &(config(host.address) + "timeout = \"1s\"\n"));
    let mut node = NodeProcess::start(dir.path()).await;
    let words = format!("webhook add app {} --on delivery --json", receiver.url());
    let made = posthaste(dir.path(), &words).await.expect(0).object();
    assert_eq!(made["key"], "1");
    let address = http_address(&node).await;
    let mut sent = BTreeSet::new();
    for round in 0..4 {
        for number in 0..20 {
            sent.insert(format!("r{round}.{number}@example.com"));
        }
        let batch: Vec<Value> = (0..20)
            .map(|n| json!({ "From": "a@declared.example", "To": format!("r{round}.{n}@example.com"), "TextBody": "x" }))
            .collect();
        let address = if round == 0 {
            address
        } else {
            http_address(&node).await
        };
        assert_eq!(post(address, "/email/batch", &json!(batch)).await.0, 200);
        let seen = receiver.calls().len();
        receiver.count(seen + 5).await;
        node.kill().await;
        node = NodeProcess::start(dir.path()).await;
    }
    let calls = receiver
        .until("each of them taken or given up", |calls| {
            let told: BTreeSet<&str> = calls
                .iter()
                .map(|c| c.body["Recipient"].as_str().unwrap())
                .collect();
            told.len() == sent.len()
        })
        .await;
    let mut ids: BTreeMap<String, BTreeSet<(u64, String)>> = BTreeMap::new();
    for call in &calls {
        let recipient = call.body["Recipient"].as_str().unwrap().to_owned();
        let trace = call.header("x-pm-webhook-trace-id").to_owned();
        ids.entry(recipient)
            .or_default()
            .insert((call.event(), trace));
    }
    assert_eq!(ids.keys().cloned().collect::<BTreeSet<_>>(), sent);
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    node.stop().await;
}

async fn http_address(node: &NodeProcess) -> SocketAddr {
    let line: Value = serde_json::from_str(&node.said("serving HTTP").await).unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_and_no_redirect_leads_where_hooks_must_not_go() {
    let (host, dns) = (host().await, Dns::start().await);
    let inside = Receiver::at([127, 0, 0, 3].into(), |_, _| Say::Status(200)).await;
    let inner = inside.url();
    let leading = Receiver::scripted(move |_, _| Say::Redirect(307, inner.clone())).await;
    let fine = Receiver::that_takes_all().await;
    let to = fine.url();
    let redirecting = Receiver::scripted(move |_, _| Say::Redirect(302, to.clone())).await;
    let name_server = format!("[dns]\nservers = [\"{}\"]\n", dns.address);
    let node = TestNode::with(&(config(host.address) + &name_server)).await;
    let address = node.node.http_address();
    dns.a("rebound.example", "127.0.0.3");
    dns.a("both.example", "127.0.0.1");
    dns.a("both.example", "127.0.0.3");
    let port = inside.address.port();
    let auth = json!({ "HttpAuth": { "Username": "a", "Password": "b" } });
    let mut keys = Vec::new();
    for url in [
        format!("http://rebound.example:{port}/"),
        format!("http://both.example:{port}/"),
        leading.url(),
    ] {
        keys.push(hook(address, &url, json!({})).await);
    }
    hook(address, &redirecting.url(), auth).await;
    send(address, "ada@example.com").await;
    let followed = fine.count(1).await;
    assert_eq!(followed[0].body["Recipient"], "ada@example.com");
    assert_eq!(
        followed[0].header("authorization"),
        "",
        "credentials are for whom they were set"
    );
    for key in keys {
        let webhook = eventually("a failure", async || {
            let said = posthaste(node.dir.path(), &format!("webhook show {key} --json")).await;
            let webhook = said.expect(0).object();
            (webhook["state"] == "failing").then_some(webhook)
        })
        .await;
        let why = webhook["last_failure"].as_str().unwrap();
        assert!(why.contains("127.0.0.3, an internal address"), "{why}");
    }
    assert_eq!(inside.calls().len(), 0);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sets_sees_verifies_replays_and_resumes_webhooks() {
    let host = host().await;
    // Is down at first: four attempts each.
    let receiver =
        Receiver::scripted(
            |call, before| match call.body["ServerID"] == 23 || before >= 4 {
                true => Say::Status(200),
                false => Say::Status(410),
            },
        )
        .await;
    let node = TestNode::with(&config(host.address)).await;
    let (address, dir) = (node.node.http_address(), node.dir.path());
    let run = async |words: &str, code| posthaste(dir, words).await.expect(code);
    run(
        &format!("webhook add app {} --stream outbound", receiver.url()),
        2,
    )
    .await;
    run("webhook add app https://10.0.0.1/ --on delivery", 2).await;
    let words = format!(
        "webhook add app {} --on delivery --sign --json",
        receiver.url()
    );
    let made = run(&words, 0).await.object();
    assert!(
        made["signing_secret"]
            .as_str()
            .unwrap()
            .starts_with("whsec_")
    );
    for number in 0..4 {
        send(address, &format!("r{number}@example.com")).await;
    }
    receiver.count(4).await;
    let listed = eventually("a failing webhook", async || {
        let listed = run("webhook ls --json", 0).await.object();
        (listed["state"] == "failing" && listed["refused"] == 4).then_some(listed)
    })
    .await;
    assert_eq!(listed["last_failure"], "it answered 410");
    assert_eq!(
        (&listed["signed"], &listed["retries"]),
        (&json!(true), &json!(0))
    );
    let statuses = async || {
        let (_, counted) = call("GET", address, "/webhooks/1/statistics", &Value::Null).await;
        counted["Statuses"].clone()
    };
    assert_eq!(statuses().await, json!({ "Delivery": "unverified" }));
    let verified = run("webhook verify 1 --json", 0).await.object();
    assert_eq!(
        (&verified["trigger"], &verified["status"]),
        (&json!("Delivery"), &json!(200))
    );
    let (status, counted) = call("GET", address, "/webhooks/1/statistics", &Value::Null).await;
    assert_eq!(status, 200, "{counted}");
    let metrics = &counted["MetricsByTrigger"]["Delivery"];
    assert_eq!(metrics, &counted["Metrics"]);
    // The specimen of a verification is not among them.
    assert_eq!(
        (&metrics["TotalRequests"], &metrics["FailureCount"]),
        (&json!(4), &json!(4))
    );
    assert_eq!(metrics["AverageRetryResponseTimeMs"], Value::Null);
    assert_eq!(counted["Statuses"], json!({ "Delivery": "verified" }));
    // Refused for good: sent again when somebody asks.
    run("webhook replay 1 --from 2020-01-01 --json", 0).await;
    let calls = receiver.count(9).await;
    let first: BTreeSet<u64> = calls[..4].iter().map(|call| call.event()).collect();
    let again: BTreeSet<u64> = calls[5..].iter().map(|call| call.event()).collect();
    assert_eq!(first, again);
    eventually("an end of the replay", async || {
        let webhook = run("webhook show 1 --json", 0).await.object();
        (webhook["replay_from"].is_null() && webhook["state"] == "ok").then_some(())
    })
    .await;
    run("webhook resume 1 --skip", 0).await;
    run("webhook edit 1 --no-sign --header X-Shop:north", 0).await;
    send(address, "later@example.com").await;
    let calls = receiver.count(10).await;
    assert_eq!(calls[9].header("webhook-signature"), "");
    assert_eq!(calls[9].header("x-shop"), "north");
    assert_eq!(calls[9].body["Recipient"], "later@example.com");
    run("webhook rm 1", 0).await;
    run("webhook show 1", 1).await;
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hook_urls_of_a_server_act_beside_its_webhooks() {
    let (host, receiver) = (host().await, Receiver::that_takes_all().await);
    let node = TestNode::with(&config(host.address)).await;
    let (address, dir) = (node.node.http_address(), node.dir.path());
    posthaste(dir, "server create shop --senders any")
        .await
        .expect(0);
    let token = posthaste(dir, "token create shop --json")
        .await
        .expect(0)
        .object();
    let token = token["token"].as_str().unwrap().to_owned();
    let fields = [("x-postmark-server-token", token.as_str())];
    let ask = async |method, path, body: Value| {
        let (status, answer) = crate::sending::call_as(&fields, method, address, path, &body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let urls = json!({ "DeliveryHookUrl": receiver.url(), "BounceHookUrl": receiver.url(), "IncludeBounceContentInHook": true });
    ask("PUT", "/server", urls).await;
    let mail = |to: &str| json!({ "From": "a@declared.example", "To": to, "TextBody": "x" });
    ask("POST", "/email", mail("ada@example.com")).await;
    ask("POST", "/email", mail("gone@example.com")).await;
    let calls = receiver.count(2).await;
    let mut kinds: Vec<_> = calls.iter().map(|call| call.kind()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["Bounce", "Delivery"]);
    let bounce = calls.iter().find(|call| call.kind() == "Bounce").unwrap();
    assert_eq!(bounce.body["Content"], "550 5.1.1 no such user\r\n");
    let verified = posthaste(dir, "webhook verify s2-bounce --json").await;
    let verified: Vec<Value> = verified.expect(0).json();
    let triggers: Vec<_> = verified.iter().map(|v| &v["trigger"]).collect();
    assert_eq!(triggers, ["Bounce", "SpamComplaint"]);
    posthaste(dir, "webhook verify s3-bounce").await.expect(1);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_clients_manage_webhooks_and_anymail_reads_them() {
    let (host, receiver) = (host().await, Receiver::that_takes_all().await);
    let node = node(&host).await;
    let address = node.node.http_address();
    let token = "app-secret-token";
    run(&[
        "node",
        "webhooks.js",
        &address.to_string(),
        token,
        &receiver.url(),
    ])
    .await;
    let url = format!("http://{address}");
    run(&["python3", "webhooks.py", &url, token, &receiver.url()]).await;
    let (_, listed) = call("GET", address, "/webhooks", &Value::Null).await;
    assert_eq!(
        listed["Webhooks"],
        json!([]),
        "the clients have deleted theirs"
    );
    hook(address, &receiver.url(), json!({})).await;
    send(address, "ada@example.com").await;
    send(address, "gone@example.com").await;
    let calls = receiver.count(3).await;
    let texts: Vec<&str> = calls.iter().map(|call| call.text.as_str()).collect();
    let words: Vec<&str> = ["python3", "webhooks_read.py"]
        .into_iter()
        .chain(texts)
        .collect();
    run(&words).await;
    node.node.stop().await;
}
