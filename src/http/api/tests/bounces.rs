//! Bounces: the shape of each answer, every error code, what can be activated.

use std::time::Duration;

use spool_format::kind;

use super::*;
use crate::event::{Event, EventKind};
use crate::mail::MessageId;
use crate::readers::suppressions::{Address, Evidence, List, New, Place};
use crate::suppression::{Origin, Reason, Suppression};

fn event(server: u64, recipient: &'static str) -> Event<'static> {
    Event {
        kind: EventKind::Bounced,
        at: 1_772_460_912_000,
        message_id: MessageId::new(1_772_460_900_000, &[3; 10]),
        recipient_number: 0,
        recipient,
        server_id: server as u32,
        server: "shop",
        stream: "outbound",
        source: "tx1",
        remote_host: "mx.example.com [192.0.2.1]:25",
        reply: "550 5.1.1 no such user",
        cause: "recipient-unknown",
        detail: "the remote host refused at RCPT TO",
        attempts: 1,
        ..Event::nothing()
    }
}

impl Fixture {
    /// Writes the event down and waits until the tables have it; its id.
    async fn bounced(&self, event: &Event<'_>) -> u64 {
        let mut payload = Vec::new();
        event.encode(&mut payload);
        let events = &self.api.suppressions.spool().events;
        let ticket = events.append(kind::EVENT, 0, &[&payload], None).await;
        let ticket = ticket.unwrap();
        let id = ticket.position();
        ticket.await.unwrap();
        self.caught_up().await;
        id
    }

    async fn caught_up(&self) {
        let reader = self.api.bounces.reader();
        let run = tokio::spawn(Arc::clone(reader).run());
        let durable = self.api.suppressions.spool().events.durable();
        let reached = tokio::time::timeout(Duration::from_secs(30), reader.until(durable));
        reached.await.unwrap();
        run.abort();
        let _ = run.await;
    }

    async fn get(&self, token: &str, path: &str) -> Answered {
        self.server(token, "GET", path, Value::Null).await
    }

    async fn deactivate(&self, server: u64, address: &str, reason: Reason, origin: Origin) {
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
            since: None,
        };
        let made = self
            .api
            .suppressions
            .suppress(place, vec![new], Evidence::default());
        made.await.unwrap();
        self.caught_up().await;
    }
}

#[tokio::test]
async fn a_bounce_has_the_shape_of_the_reference_in_every_call() {
    let fixture = Fixture::new().await;
    let (server, token) = fixture.shop().await;
    let id = fixture.bounced(&event(server, "cy@example.com")).await;
    fixture
        .deactivate(
            server,
            "cy@example.com",
            Reason::HardBounce,
            Origin::Recipient,
        )
        .await;
    let bounce = json!({
        "RecordType": "Bounce",
        "ID": id,
        "Type": "HardBounce",
        "TypeCode": 1,
        "Name": "Hard bounce",
        "Tag": null,
        "MessageID": event(server, "").message_id.to_string(),
        "ServerID": server,
        "MessageStream": "outbound",
        "Description": "The server was unable to deliver your message (ex: unknown user, mailbox not found).",
        "Details": "smtp;550 5.1.1 no such user",
        "Email": "cy@example.com",
        "From": "",
        "BouncedAt": "2026-03-02T14:15:12.000Z",
        "DumpAvailable": true,
        "Inactive": true,
        "CanActivate": true,
        "Subject": "",
    });
    let listed = fixture.get(&token, "/bounces?count=10&offset=0").await.ok();
    assert_eq!(listed, json!({ "TotalCount": 1, "Bounces": [bounce] }));
    let mut with_content = bounce.clone();
    with_content["Content"] = json!("550 5.1.1 no such user\r\n");
    let one = fixture.get(&token, &format!("/bounces/{id}")).await.ok();
    assert_eq!(one, with_content);
    let dump = fixture
        .get(&token, &format!("/Bounces/{id}/Dump/"))
        .await
        .ok();
    assert_eq!(dump, json!({ "Body": "550 5.1.1 no such user\r\n" }));
    let stats = fixture.get(&token, "/deliverystats").await.ok();
    let hard = json!({ "Type": "HardBounce", "Name": "Hard bounce", "Count": 1 });
    let all = json!({ "Name": "All", "Count": 1 });
    assert_eq!(stats, json!({ "InactiveMails": 1, "Bounces": [all, hard] }));
    assert_eq!(fixture.get(&token, "/bounces/tags").await.ok(), json!([]));

    let path = format!("/bounces/{id}/activate");
    for body in [Value::Null, json!({})] {
        let activated = fixture.server(&token, "PUT", &path, body).await.ok();
        with_content["Inactive"] = json!(false);
        assert_eq!(
            activated,
            json!({ "Message": "OK", "Bounce": with_content })
        );
    }
    fixture.caught_up().await;
    let stats = fixture.get(&token, "/deliverystats").await.ok();
    assert_eq!(stats["InactiveMails"], 0);
    let inactive = fixture.get(&token, "/bounces?inactive=true").await.ok();
    assert_eq!(inactive["TotalCount"], 0);
}

#[tokio::test]
async fn what_was_never_said_is_an_empty_dump() {
    let fixture = Fixture::new().await;
    let (server, token) = fixture.shop().await;
    let expired = Event {
        kind: EventKind::Expired,
        reply: "",
        cause: "expired",
        ..event(server, "bo@example.com")
    };
    let id = fixture.bounced(&expired).await;
    let one = fixture.get(&token, &format!("/bounces/{id}")).await.ok();
    assert_eq!(
        (&one["Type"], &one["TypeCode"]),
        (&json!("SoftBounce"), &json!(4096))
    );
    assert_eq!(
        (&one["DumpAvailable"], &one["Inactive"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(one["Details"], expired.detail);
    let dump = fixture
        .get(&token, &format!("/bounces/{id}/dump"))
        .await
        .ok();
    assert_eq!(dump, json!({ "Body": "" }));
}

#[tokio::test]
async fn every_error_of_the_family_has_its_code() {
    let fixture = Fixture::new().await;
    let (server, token) = fixture.shop().await;
    let id = fixture.bounced(&event(server, "cy@example.com")).await;
    for query in [
        "count=0",
        "count=501",
        "count=-1",
        "offset=-1",
        "offset=x",
        "count=500&offset=9501",
        "type=Bouncy",
        "inactive=perhaps",
        "messageID=7",
        "fromdate=yesterday",
        "todate=2026-02-30",
    ] {
        let answer = fixture.get(&token, &format!("/bounces?{query}")).await;
        answer.refused(422, 1000);
    }
    let fitting = "/bounces?count=500&offset=9500&type=hardbounce";
    assert_eq!(fixture.get(&token, fitting).await.ok()["TotalCount"], 1);
    let unknown = "/bounces?messagestream=nowhere";
    fixture.get(&token, unknown).await.refused(422, 1226);
    for wrong in [
        format!("{}", id + 8),
        "abc".into(),
        "-1".into(),
        "99999999999999999999".into(),
    ] {
        for (method, rest) in [("GET", ""), ("GET", "/dump"), ("PUT", "/activate")] {
            let path = format!("/bounces/{wrong}{rest}");
            let answer = fixture.server(&token, method, &path, Value::Null).await;
            answer.refused(422, 1001);
        }
    }
    for (method, rest) in [("GET", "dump"), ("PUT", "activate")] {
        let path = format!("/bounces//{rest}");
        let answer = fixture.server(&token, method, &path, Value::Null).await;
        answer.refused(400, 1002);
    }
    // Another server's bounce is nobody's.
    let other = fixture
        .get("configured-token", &format!("/bounces/{id}"))
        .await;
    other.refused(422, 1001);
    let nobody = fixture.get("wrong", "/bounces").await;
    nobody.refused(401, 10);
}

#[tokio::test]
async fn complaints_and_what_the_operator_suppressed_are_not_activated() {
    let fixture = Fixture::new().await;
    let (server, token) = fixture.shop().await;
    let complaint = Event {
        kind: EventKind::Complained,
        ..event(server, "di@example.com")
    };
    let complained = fixture.bounced(&complaint).await;
    let blocked = fixture.bounced(&event(server, "ed@example.com")).await;
    fixture
        .deactivate(
            server,
            "ed@example.com",
            Reason::ManualSuppression,
            Origin::Admin,
        )
        .await;
    for id in [complained, blocked] {
        let one = fixture.get(&token, &format!("/bounces/{id}")).await.ok();
        assert_eq!(one["CanActivate"], false);
        let path = format!("/bounces/{id}/activate");
        let answer = fixture.server(&token, "PUT", &path, Value::Null).await;
        answer.refused(422, 1003);
    }
}

#[tokio::test]
async fn tables_that_are_not_there_yet_are_asked_for_again() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.shop().await;
    for path in ["/bounces", "/bounces/1", "/deliverystats", "/bounces/tags"] {
        let answer = fixture.get(&token, path).await;
        assert_eq!(answer.headers["retry-after"], "5");
        answer.refused(503, 100);
    }
}
