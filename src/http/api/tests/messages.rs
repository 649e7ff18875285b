//! `/messages/outbound`: the shape of each answer, every error code, and whose messages they are.

use std::time::Duration;

use spool_format::{Content, List as Texts, MessageRecord, Recipient, StreamKind, kind};

use super::*;
use crate::event::{Event, EventKind};
use crate::mail::MessageId;

const HEADER: &str = "From: Orders <orders@shop.example>\r\nTo: Ada <ada@example.com>\r\nSubject: Your parcel left us\r\nContent-Type: text/html\r\n\r\n";

fn id() -> MessageId {
    MessageId::new(1_772_460_900_000, &[3; 10])
}

fn event(kind: EventKind, server: u64) -> Event<'static> {
    Event {
        kind,
        at: 1_772_460_912_000,
        message_id: id(),
        recipient: "ada@example.com",
        server_id: server as u32,
        server: "shop",
        stream: "outbound",
        source: "tx1",
        remote_host: "mx.example.com [192.0.2.1]:25",
        reply: "250-2.0.0 OK\n250 2.0.0 queued",
        ..Event::nothing()
    }
}

impl Fixture {
    /// Writes the message down; its position.
    async fn stored(&self, server: u64) -> u64 {
        let content = format!("{HEADER}<p>Hi");
        let recipients = ["ada@example.com", "bo@example.com"].map(|path| Recipient {
            forward_path: path,
            domain: "example.com",
            fields: Texts::new(&[]),
        });
        let record = MessageRecord {
            id: *id().as_bytes(),
            accepted_unix_ms: id().unix_ms(),
            server_id: server as u32,
            server_name: "shop",
            stream_id: "outbound",
            stream_kind: StreamKind::Transactional,
            pool: "tx",
            reverse_path: "",
            recipients: Texts::new(&recipients),
            tag: Some("shipping"),
            metadata: Texts::new(&[("order", "881")]),
            flags: 0,
            header_len: HEADER.len() as u32,
            fields: Texts::new(&[]),
            content: Content::Inline(content.as_bytes()),
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        payload.extend_from_slice(content.as_bytes());
        let mail = &self.api.suppressions.spool().mail;
        let ticket = mail.append(kind::MESSAGE, 0, &[&payload], None).await;
        let ticket = ticket.unwrap();
        let position = ticket.position();
        ticket.await.unwrap();
        self.outbox
            .keep(server as u32, id(), position, content.as_bytes());
        position
    }

    async fn told(&self, event: &Event<'_>) -> u64 {
        let mut payload = Vec::new();
        event.encode(&mut payload);
        let events = &self.api.suppressions.spool().events;
        let ticket = events.append(kind::EVENT, 0, &[&payload], None).await;
        let ticket = ticket.unwrap();
        let position = ticket.position();
        ticket.await.unwrap();
        position
    }

    async fn searchable(&self) {
        let reader = self.api.activity.reader();
        let run = tokio::spawn(Arc::clone(reader).run());
        let durable = self.api.suppressions.spool().events.durable();
        let reached = tokio::time::timeout(Duration::from_secs(30), reader.until(durable));
        reached.await.unwrap();
        run.abort();
        let _ = run.await;
    }

    async fn look(&self, token: &str, path: &str) -> Answered {
        self.server(token, "GET", path, Value::Null).await
    }
}

fn message() -> Value {
    json!({
        "Tag": "shipping",
        "MessageID": id().to_string(),
        "MessageStream": "outbound",
        "To": [{ "Email": "ada@example.com", "Name": "Ada" }],
        "Cc": [],
        "Bcc": [{ "Email": "bo@example.com", "Name": "" }],
        "Recipients": ["ada@example.com", "bo@example.com"],
        "ReceivedAt": "2026-03-02T14:15:00.000Z",
        "From": "Orders <orders@shop.example>",
        "Subject": "Your parcel left us",
        "Attachments": [],
        "Status": "Queued",
        "TrackOpens": false,
        "TrackLinks": "None",
        "Metadata": { "order": "881" },
        "Sandboxed": false,
    })
}

#[tokio::test]
async fn a_message_has_the_shape_of_the_reference_before_and_behind_the_reader() {
    let fixture = Fixture::new().await;
    let (server, token) = fixture.shop().await;
    let details = format!("/messages/outbound/{}/details", id());
    fixture.look(&token, &details).await.refused(422, 701);
    let position = fixture.stored(server).await;
    let mut accepted = event(EventKind::Accepted, server);
    accepted.mail_position = Some(position);
    fixture.told(&accepted).await;

    // At once: no reader runs yet.
    let mut expected = message();
    expected["TextBody"] = json!("");
    expected["HtmlBody"] = json!("<p>Hi");
    expected["Body"] = json!(format!("{HEADER}<p>Hi"));
    expected["MessageEvents"] = json!([]);
    assert_eq!(fixture.look(&token, &details).await.ok(), expected);
    fixture.searchable().await;
    assert_eq!(fixture.look(&token, &details).await.ok(), expected);
    let list = fixture
        .look(&token, "/messages/outbound?count=10&offset=0")
        .await
        .ok();
    assert_eq!(list, json!({ "TotalCount": 1, "Messages": [message()] }));

    fixture.told(&event(EventKind::Deferred, server)).await;
    let bounced = Event {
        recipient_number: 1,
        recipient: "bo@example.com",
        reply: "",
        detail: "gave up",
        ..event(EventKind::Expired, server)
    };
    let bounced = fixture.told(&bounced).await;
    fixture.told(&event(EventKind::Delivered, server)).await;
    let complained = fixture.told(&event(EventKind::Complained, server)).await;
    let suppressed = Event {
        recipient: "hash:0011",
        origin: "Recipient",
        ..event(EventKind::Suppressed, server)
    };
    fixture.told(&suppressed).await;
    let attempt = json!({
        "DeliveryMessage": "smtp;250-2.0.0 OK 250 2.0.0 queued",
        "DestinationServer": "mx.example.com",
        "DestinationIP": "192.0.2.1",
    });
    let told = |recipient: &str, kind: &str, details: &Value| json!({ "Recipient": recipient, "Type": kind, "ReceivedAt": "2026-03-02T14:15:12.000Z", "Details": details });
    let ada = "ada@example.com";
    let complaint = json!({ "Summary": crate::classify::BounceType::SpamComplaint.description(), "BounceID": complained.to_string() });
    expected["Status"] = json!("Sent");
    expected["MessageEvents"] = json!([
        told(ada, "Transient", &attempt),
        told(
            "bo@example.com",
            "Bounced",
            &json!({ "Summary": "gave up", "BounceID": bounced.to_string() })
        ),
        told(ada, "Delivered", &attempt),
        told(ada, "Bounced", &complaint),
        told(
            ada,
            "SubscriptionChanged",
            &json!({ "Origin": "Recipient", "SuppressSending": "True" })
        ),
    ]);
    assert_eq!(fixture.look(&token, &details).await.ok(), expected);
    fixture.searchable().await;
    assert_eq!(fixture.look(&token, &details).await.ok(), expected);

    // Nobody else's.
    for path in [&details[..], "/messages/outbound?count=1&offset=0"] {
        let other = fixture.look("configured-token", path).await;
        match other.status {
            200 => assert_eq!(other.body["TotalCount"], 0),
            _ => drop(other.refused(422, 701)),
        }
    }
}

#[tokio::test]
async fn every_filter_of_the_query_reaches_the_search() {
    let fixture = Fixture::new().await;
    let (server, token) = fixture.shop().await;
    let mut accepted = event(EventKind::Accepted, server);
    accepted.mail_position = Some(fixture.stored(server).await);
    fixture.told(&accepted).await;
    fixture.searchable().await;
    let count = async |query: &str| {
        let path = format!("/messages/outbound?count=1&offset=0&{query}");
        fixture.look(&token, &path).await.ok()["TotalCount"].clone()
    };
    for query in [
        "",
        "status=",
        "recipient=ADA%40example.com",
        "fromemail=orders@shop.example",
        "tag=shipping&Status=QUEUED",
        "subject=parcel%20left",
        "metadata_Order=881",
        "fromdate=2026-3-2&todate=2026-03-02",
        "fromdate=2026-03-02T14:15:00Z&todate=2026-03-02T14:15:00Z",
        "todate=2026-03-02T14:15:00.0000000Z",
        "messageStream=Outbound",
    ] {
        assert_eq!(count(query).await, 1, "{query}");
    }
    for query in [
        "recipient=cy@example.com",
        "fromemail=ada@example.com",
        "tag=ship",
        "status=sent",
        "status=processed",
        "subject=left%20parcels",
        "metadata_order=8",
        "metadata_city=881",
        "todate=2026-03-01",
        "fromdate=2026-03-03",
        "fromdate=2026-03-03&todate=2026-03-01",
        "fromdate=2026-03-02T14:15:01Z",
        "todate=2026-03-02T14:14:59Z",
        "messagestream=broadcast",
    ] {
        assert_eq!(count(query).await, 0, "{query}");
    }
}

#[tokio::test]
async fn every_error_of_the_messages_has_its_code() {
    let fixture = Fixture::new().await;
    let (server, token) = fixture.shop().await;
    // Tables that are not there yet are asked for again.
    let answer = fixture.look(&token, "/messages/outbound").await;
    assert_eq!(answer.headers["retry-after"], "5");
    answer.refused(503, 100);
    fixture.stored(server).await;
    fixture.searchable().await;
    for query in [
        "count=0",
        "count=501",
        "count=-4",
        "offset=-1",
        "count=500&offset=9501",
        "status=blocked",
        "fromdate=yesterday",
        "todate=2026-02-30",
    ] {
        let answer = fixture
            .look(&token, &format!("/messages/outbound?{query}"))
            .await;
        answer.refused(422, 700);
    }
    let many: String = (0..11).map(|n| format!("metadata_k{n}=v&")).collect();
    let answer = fixture
        .look(&token, &format!("/messages/outbound?{many}"))
        .await;
    answer.refused(422, 700);
    let unknown = fixture
        .look(&token, "/messages/outbound?messagestream=nowhere")
        .await;
    unknown.refused(422, 1226);
    fixture
        .look("wrong", "/messages/outbound")
        .await
        .refused(401, 10);
    let other = MessageId::new(1_772_460_900_000, &[4; 10]);
    for wrong in [other.to_string(), "abc".into(), "0".into()] {
        for path in [
            format!("/messages/outbound/{wrong}/details"),
            format!("/messages/outbound/opens/{wrong}"),
            format!("/messages/outbound/clicks/{wrong}"),
        ] {
            let text = fixture.look(&token, &path).await.refused(422, 701);
            assert_eq!(text, "This message was not found.");
        }
    }
    // Nothing is tracked yet.
    for (what, key) in [("opens", "Opens"), ("clicks", "Clicks")] {
        let none = json!({ "TotalCount": 0, key: [] });
        let all = format!("/messages/outbound/{what}?count=1&offset=0");
        assert_eq!(fixture.look(&token, &all).await.ok(), none);
        let one = format!("/messages/outbound/{what}/{}?count=1&offset=0", id());
        assert_eq!(fixture.look(&token, &one).await.ok(), none);
        let wrong = format!("/messages/outbound/{what}?count=900");
        fixture.look(&token, &wrong).await.refused(422, 700);
    }
}
