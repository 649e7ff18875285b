//! Suppressions: every error code, every status of an item, the filters of the dump.

use super::*;
use crate::mail::Mailbox;
use crate::readers::suppressions::{Address, Evidence, List, New, Place};
use crate::suppression::{Origin, Reason, Suppression};

const DUMP: &str = "/message-streams/outbound/suppressions/dump";
const CREATE: &str = "/message-streams/outbound/suppressions";
const DELETE: &str = "/message-streams/outbound/suppressions/delete";

fn items(addresses: &[&str]) -> Value {
    let items = addresses.iter().map(|a| json!({ "EmailAddress": a }));
    json!({ "Suppressions": items.collect::<Vec<_>>() })
}

/// Of each item of an answer.
fn statuses(answer: &Value) -> Vec<(String, String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let items = answer["Suppressions"].as_array().unwrap().iter();
    let of = |item: &Value| {
        assert!(item.get("Message").is_some());
        (
            text(&item["EmailAddress"]).unwrap(),
            text(&item["Status"]).unwrap(),
            text(&item["Message"]),
        )
    };
    items.map(of).collect()
}

fn addresses(answer: &Value) -> Vec<&str> {
    let entries = answer["Suppressions"].as_array().unwrap().iter();
    let mut found: Vec<_> = entries
        .map(|e| e["EmailAddress"].as_str().unwrap())
        .collect();
    found.sort_unstable();
    found
}

impl Fixture {
    async fn dump(&self, token: &str, query: &str) -> Value {
        let path = format!("{DUMP}?{query}");
        self.server(token, "GET", &path, Value::Null).await.ok()
    }

    /// As bounce and complaint handling will, and the operator does.
    pub(super) async fn suppress(
        &self,
        server: u64,
        address: &str,
        reason: Reason,
        origin: Origin,
    ) {
        let place = Place {
            list: List {
                server: server as u32,
                stream: "outbound".into(),
            },
            server: "shop".into(),
        };
        let new = New {
            address: Address::parse(address).unwrap(),
            suppression: Suppression { reason, origin },
            since: Some(1_772_460_912_000),
        };
        let made = self
            .api
            .suppressions
            .suppress(place, vec![new], Evidence::default());
        made.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_created_is_in_the_dump_until_it_is_deleted() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.shop().await;
    let body = items(&["Cy@example.com", "no address", " bo@example.com "]);
    let made = fixture.server(&token, "POST", CREATE, body).await.ok();
    let failed = Some("An invalid email address was provided.".to_owned());
    let ok = |address: &str, status: &str| (address.to_owned(), status.to_owned(), None);
    assert_eq!(
        statuses(&made),
        [
            ok("Cy@example.com", "Suppressed"),
            ("no address".into(), "Failed".into(), failed.clone()),
            ok(" bo@example.com ", "Suppressed"),
        ]
    );
    let dump = fixture.dump(&token, "count=100&offset=0").await;
    assert_eq!(addresses(&dump), ["Cy@example.com", "bo@example.com"]);
    let entry = &fixture.dump(&token, "emailAddress=CY@EXAMPLE.com").await["Suppressions"][0];
    assert_eq!(entry["EmailAddress"], "Cy@example.com");
    assert_eq!(
        (&entry["SuppressionReason"], &entry["Origin"]),
        (&json!("ManualSuppression"), &json!("Customer"))
    );
    let created = entry["CreatedAt"].as_str().unwrap();
    assert!(crate::clock::parse_rfc3339(created).is_some(), "{created}");
    let set = fixture.api.suppressions.set();
    let cy = Mailbox::parse("cy@example.com", false).unwrap();
    assert!(set.of(id as u32, "outbound", &cy).is_some());
    assert_eq!(set.of(id as u32, "broadcast", &cy), None);

    // Another server, and another stream of this one, know nothing of it.
    let other = "/message-streams/broadcast/suppressions/dump";
    let empty = fixture.server(&token, "GET", other, Value::Null).await.ok();
    assert_eq!(empty, json!({ "Suppressions": [] }));
    let empty = fixture.dump("configured-token", "").await;
    assert_eq!(addresses(&empty).len(), 0);

    let body = items(&["cy@EXAMPLE.com", "nobody@example.com", "@"]);
    let gone = fixture.server(&token, "POST", DELETE, body).await.ok();
    assert_eq!(
        statuses(&gone),
        [
            ok("cy@EXAMPLE.com", "Deleted"),
            ok("nobody@example.com", "Deleted"),
            ("@".into(), "Failed".into(), failed),
        ]
    );
    assert_eq!(
        addresses(&fixture.dump(&token, "").await),
        ["bo@example.com"]
    );
    assert_eq!(set.of(id as u32, "outbound", &cy), None);
}

#[tokio::test]
async fn a_customer_may_delete_what_he_made_and_hard_bounces() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.shop().await;
    let no = "You do not have the required authority to change this suppression.";
    for reason in Reason::ALL {
        for origin in Origin::ALL {
            let address = format!("{}.{}@example.com", reason.as_str(), origin.as_str());
            fixture.suppress(id, &address, reason, origin).await;
            // Suppressing once more changes nothing of it.
            let body = items(&[&address]);
            let made = fixture.server(&token, "POST", CREATE, body).await.ok();
            assert_eq!(statuses(&made)[0].1, "Suppressed");
            let entry = &fixture
                .dump(&token, &format!("EmailAddress={address}"))
                .await;
            let entry = &entry["Suppressions"][0];
            assert_eq!(entry["SuppressionReason"], reason.as_str());
            assert_eq!(entry["CreatedAt"], "2026-03-02T14:15:12.000Z");

            let body = items(&[&address]);
            let gone = fixture.server(&token, "POST", DELETE, body).await.ok();
            let allowed = matches!(
                (reason, origin),
                (Reason::ManualSuppression, Origin::Customer)
                    | (Reason::HardBounce, Origin::Recipient)
            );
            let (status, message) = match allowed {
                true => ("Deleted", None),
                false => ("Failed", Some(no.to_owned())),
            };
            assert_eq!(
                statuses(&gone),
                [(address.clone(), status.into(), message)],
                "{address}"
            );
        }
    }
    assert_eq!(addresses(&fixture.dump(&token, "").await).len(), 7);
}

#[tokio::test]
async fn the_dump_is_filtered_by_reason_origin_and_days() {
    let fixture = Fixture::new().await;
    let (id, token) = fixture.shop().await;
    let bounced = (Reason::HardBounce, Origin::Recipient);
    fixture
        .suppress(id, "a@example.com", bounced.0, bounced.1)
        .await;
    let admin = (Reason::ManualSuppression, Origin::Admin);
    fixture
        .suppress(id, "b@example.com", admin.0, admin.1)
        .await;
    for (query, expected) in [
        ("SuppressionReason=hardbounce", &["a@example.com"][..]),
        ("suppressionreason=SpamComplaint", &[]),
        ("Origin=Admin", &["b@example.com"]),
        ("origin=Admin&SuppressionReason=HardBounce", &[]),
        ("EmailAddress=a@example.com&Origin=Admin", &[]),
        (
            "fromDate=2026-03-02&toDate=2026-3-2",
            &["a@example.com", "b@example.com"],
        ),
        ("todate=2026-03-01", &[]),
        ("fromdate=2026-03-03", &[]),
        (
            "fromdate=2026-03-02T14:15:12",
            &["a@example.com", "b@example.com"],
        ),
        ("fromdate=2026-03-02T14:15:13", &[]),
        (
            "todate=2026-03-02T14:15:12",
            &["a@example.com", "b@example.com"],
        ),
        ("todate=2026-03-02T14:15:11", &[]),
        ("EmailAddress=invalid", &[]),
    ] {
        assert_eq!(
            addresses(&fixture.dump(&token, query).await),
            expected,
            "{query}"
        );
    }
}

#[tokio::test]
async fn each_thing_that_is_wrong_has_its_code() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.shop().await;
    let get = async |query: &str| {
        let path = format!("{DUMP}?{query}");
        fixture.server(&token, "GET", &path, Value::Null).await
    };
    get("count=-1").await.refused(422, 1401);
    get("offset=x").await.refused(422, 1403);
    get("SuppressionReason=Boredom").await.refused(422, 1404);
    get("Origin=Elsewhere").await.refused(422, 1405);
    get("fromdate=yesterday").await.refused(422, 403);
    get("todate=2026-02-30").await.refused(422, 403);
    for path in [CREATE, DELETE] {
        let post = async |body: Value| fixture.server(&token, "POST", path, body).await;
        post(Value::Null).await.refused(422, 1409);
        post(json!({})).await.refused(422, 1409);
        post(json!({ "Suppressions": [] })).await.refused(422, 1411);
        post(json!({ "Suppressions": [{}] }))
            .await
            .refused(422, 1411);
        post(json!({ "Suppressions": [{ "EmailAddress": "" }] }))
            .await
            .refused(422, 1411);
        post(json!({ "Suppressions": ["a@example.com"] }))
            .await
            .refused(422, 403);
        post(json!({ "Suppressions": {} })).await.refused(422, 403);
        post(json!({ "Suppressions": [{ "EmailAddress": 1 }] }))
            .await
            .refused(422, 403);
        post(items(&["a@example.com"; 51])).await.refused(422, 1410);
        post(items(&["a@example.com"; 50])).await.ok();
    }
    for (method, path) in [("GET", DUMP), ("POST", CREATE), ("POST", DELETE)] {
        let path = path.replace("outbound", "nowhere");
        let body = items(&["a@example.com"]);
        let said = fixture
            .server(&token, method, &path, body)
            .await
            .refused(422, 1226);
        assert_eq!(
            said,
            "The message stream for the provided 'ID' was not found."
        );
    }
    // What cannot be written down is not said to be done.
    let set = fixture.api.suppressions.set();
    let cy = Mailbox::parse("cy@example.com", false).unwrap();
    fixture.api.suppressions.stop_log();
    let body = items(&["cy@example.com"]);
    let answer = fixture.server(&token, "POST", CREATE, body).await;
    assert!(answer.headers.contains_key("retry-after"));
    answer.refused(503, 1407);
    assert_eq!(set.of(1, "outbound", &cy), None);
}

#[tokio::test]
async fn a_long_dump_is_whole() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.shop().await;
    let mut expected = Vec::new();
    for batch in 0..20 {
        let batch = (0..50).map(|number| format!("user{:04}@example.com", batch * 50 + number));
        let batch: Vec<String> = batch.collect();
        let texts: Vec<&str> = batch.iter().map(String::as_str).collect();
        fixture
            .server(&token, "POST", CREATE, items(&texts))
            .await
            .ok();
        expected.extend(batch);
    }
    assert_eq!(addresses(&fixture.dump(&token, "").await), expected);
}
