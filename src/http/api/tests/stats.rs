//! Statistics: the shape of each answer, filters, every error code.

use std::time::Duration;

use spool_format::kind;

use super::*;
use crate::event::{Event, EventKind};
use crate::mail::MessageId;

const MONDAY: u64 = 1_772_460_912_000;
const DAY: u64 = 86_400_000;

fn event(server: u64, kind: EventKind, cause: &'static str, at: u64) -> Event<'static> {
    Event {
        kind,
        at,
        message_id: MessageId::new(at, &[3; 10]),
        recipient: "cy@example.com",
        server_id: server as u32,
        server: "shop",
        stream: "outbound",
        cause,
        ..Event::nothing()
    }
}

impl Fixture {
    async fn counted(&self, events: &[Event<'_>]) {
        let log = &self.api.suppressions.spool().events;
        for event in events {
            let mut payload = Vec::new();
            event.encode(&mut payload);
            let ticket = log.append(kind::EVENT, 0, &[&payload], None).await;
            ticket.unwrap().await.unwrap();
        }
        let reader = self.api.statistics.reader();
        let run = tokio::spawn(Arc::clone(reader).run());
        let reached = tokio::time::timeout(Duration::from_secs(30), reader.until(log.durable()));
        reached.await.unwrap();
        run.abort();
        let _ = run.await;
    }

    async fn stats(&self, token: &str, rest: &str) -> Answered {
        let path = format!("/stats/outbound{rest}");
        self.server(token, "GET", &path, Value::Null).await
    }
}

#[tokio::test]
async fn counts_have_the_shape_of_the_reference_in_every_call() {
    use EventKind::*;
    let fixture = Fixture::new().await;
    let (server, token) = fixture.shop().await;
    fixture.counted(&[]).await;
    for path in [
        "/sends",
        "/bounces",
        "/spam",
        "/tracked",
        "/opens",
        "/opens/platforms",
        "/opens/emailClients",
        "/opens/readTimes",
        "/clicks",
        "/clicks/browserFamilies",
        "/clicks/platforms",
        "/clicks/location",
    ] {
        let none = fixture.stats(&token, path).await.ok();
        assert_eq!(none, json!({ "Days": [] }), "{path}");
    }
    let mut tagged = event(server, Accepted, "", MONDAY);
    tagged.tag = "welcome";
    fixture
        .counted(&[
            tagged,
            event(server, Accepted, "", MONDAY),
            event(server, Accepted, "", MONDAY + DAY),
            event(server, Delivered, "", MONDAY),
            event(server, Bounced, "recipient-unknown", MONDAY),
            event(server, Bounced, "content-spam", MONDAY + DAY),
            // Accepted over SMTP and refused: never sent.
            event(server, Accepted, "", MONDAY),
            event(server, Bounced, "submission-refused", MONDAY),
            event(server, BouncedLater, "auto-reply", MONDAY),
            event(server, Complained, "complaint", MONDAY + DAY),
            event(server + 1, Accepted, "", MONDAY),
        ])
        .await;
    let sends = json!({
        "Days": [{ "Date": "2026-03-02", "Sent": 2 }, { "Date": "2026-03-03", "Sent": 1 }],
        "Sent": 3,
    });
    assert_eq!(fixture.stats(&token, "/sends/").await.ok(), sends);
    let bounces = json!({
        "Days": [
            { "Date": "2026-03-02", "HardBounce": 1, "SoftBounce": 0, "SMTPApiError": 1, "Transient": 0, "AutoResponder": 1 },
            { "Date": "2026-03-03", "HardBounce": 0, "SoftBounce": 0, "SMTPApiError": 0, "Transient": 0, "SpamNotification": 1 },
        ],
        "HardBounce": 1, "SoftBounce": 0, "SMTPApiError": 1, "Transient": 0, "AutoResponder": 1, "SpamNotification": 1,
    });
    assert_eq!(fixture.stats(&token, "/bounces").await.ok(), bounces);
    let spam =
        json!({ "Days": [{ "Date": "2026-03-03", "SpamComplaint": 1 }], "SpamComplaint": 1 });
    assert_eq!(fixture.stats(&token, "/spam").await.ok(), spam);
    let overview = json!({
        "Sent": 3, "Bounced": 2, "SMTPApiErrors": 1, "BounceRate": 66.667,
        "SpamComplaints": 1, "SpamComplaintsRate": 33.333, "Tracked": 0, "Opens": 0, "UniqueOpens": 0,
        "TotalClicks": 0, "UniqueLinksClicked": 0, "WithClientRecorded": 0, "WithPlatformRecorded": 0,
        "WithReadTimeRecorded": 0, "WithLinkTracking": 0, "WithOpenTracking": 0, "TotalTrackedLinksSent": 0,
    });
    assert_eq!(fixture.stats(&token, "").await.ok(), overview);
    for (query, sent) in [
        ("?tag=welcome", 1),
        ("?tag=other", 0),
        ("?fromDate=2026-3-3", 1),
        ("?toDate=2026-03-02", 2),
        ("?fromdate=2026-03-02&todate=2026-03-03", 3),
        ("?messagestream=Broadcast", 0),
        ("?messagestream=outbound&tag=&fromdate=", 3),
    ] {
        let answer = fixture.stats(&token, query).await.ok();
        assert_eq!(answer["Sent"], sent, "{query}");
    }
}

#[tokio::test]
async fn what_is_asked_wrongly_has_its_code() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.shop().await;
    for path in ["", "/sends", "/clicks/location"] {
        for (query, code) in [
            ("?fromdate=yesterday", 900),
            ("?todate=2026-02-30", 900),
            ("?fromdate=2026-03-03&todate=2026-03-02", 1502),
            ("?messagestream=nowhere", 1226),
        ] {
            let answer = fixture.stats(&token, &format!("{path}{query}")).await;
            answer.refused(422, code);
        }
        fixture.stats("wrong", path).await.refused(401, 10);
    }
    // The tables are not there before the reader has begun.
    let early = fixture.stats(&token, "").await;
    early.refused(503, 100);
}
