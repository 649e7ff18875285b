//! `/email/scheduled` and the dump: pages, codes, and whose messages they are.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::clock::UnixMs;
use crate::http::AdminError;
use crate::http::api::email::outbox::{Asking, Outbox, Page, Rescheduled, Scheduled, Stored};
use crate::mail::MessageId;

/// Holds what the test gave it.
#[derive(Default)]
pub(in crate::http) struct FakeOutbox {
    messages: Mutex<BTreeMap<(u32, MessageId), Scheduled>>,
    trouble: Mutex<Option<AdminError>>,
    /// Content in a spool, by the position of its message.
    kept: Mutex<BTreeMap<(u32, MessageId), Kept>>,
}

/// A position, and what lies there.
type Kept = (u64, Vec<u8>);

impl FakeOutbox {
    fn hold(&self, server: u32, id: MessageId) {
        let message = Scheduled {
            id: id.to_string(),
            send_at: 1_772_460_900_000,
            recipients: vec!["ada@example.com".into()],
            deadline: Some(1_972_460_900_000),
            ..Scheduled::default()
        };
        self.messages.lock().unwrap().insert((server, id), message);
    }

    pub(super) fn keep(&self, server: u32, id: MessageId, position: u64, content: &[u8]) {
        let kept = (position, content.to_vec());
        self.kept.lock().unwrap().insert((server, id), kept);
    }

    fn answer<'a, T: Send + 'a>(&self, answer: T) -> Asking<'a, T> {
        let trouble = self.trouble.lock().unwrap().clone();
        Box::pin(async move { trouble.map_or(Ok(answer), Err) })
    }
}

impl Outbox for FakeOutbox {
    fn scheduled(&self, server: u32, after: Option<MessageId>, count: usize) -> Asking<'_, Page> {
        let messages = self.messages.lock().unwrap();
        let mine = messages.iter().filter(|((of, _), _)| *of == server);
        let mut mine = mine.filter(|((_, id), _)| after.is_none_or(|after| *id > after));
        let page: Vec<_> = mine.by_ref().take(count).collect();
        let next = page
            .last()
            .filter(|_| mine.next().is_some())
            .map(|((_, id), _)| *id);
        let messages = page
            .into_iter()
            .map(|(_, message)| message.clone())
            .collect();
        self.answer(Page { messages, next })
    }

    fn scheduled_one(&self, server: u32, id: MessageId) -> Asking<'_, Option<Scheduled>> {
        self.answer(self.messages.lock().unwrap().get(&(server, id)).cloned())
    }

    fn reschedule(&self, server: u32, id: MessageId, at: UnixMs) -> Asking<'_, Rescheduled> {
        let mut messages = self.messages.lock().unwrap();
        self.answer(match messages.get_mut(&(server, id)) {
            None => Rescheduled::NotScheduled,
            Some(message) if message.deadline.is_some_and(|deadline| deadline <= at) => {
                Rescheduled::Deadline(message.deadline.unwrap())
            }
            Some(message) => {
                message.send_at = at;
                Rescheduled::Done(message.clone())
            }
        })
    }

    fn recall(&self, server: u32, id: MessageId) -> Asking<'_, bool> {
        let removed = self.messages.lock().unwrap().remove(&(server, id));
        self.answer(removed.is_some())
    }

    fn stored(&self, server: u32, id: MessageId) -> Asking<'_, Option<Stored>> {
        if let Some((position, content)) = self.kept.lock().unwrap().get(&(server, id)) {
            return self.answer(Some(Stored {
                position: *position,
                octets: content.len() as u64,
            }));
        }
        let found = self.messages.lock().unwrap().contains_key(&(server, id));
        self.answer(found.then_some(Stored {
            position: 0,
            octets: 4,
        }))
    }

    fn read(&self, stored: Stored) -> Asking<'_, Vec<u8>> {
        let kept = self.kept.lock().unwrap();
        let found = kept.values().find(|kept| kept.0 == stored.position);
        self.answer(found.map_or(b"x: \xff".to_vec(), |kept| kept.1.clone()))
    }
}

#[tokio::test]
async fn a_server_lists_moves_and_cancels_what_it_has_scheduled() {
    let fixture = Fixture::new().await;
    let (shop, token) = fixture.shop().await;
    let ids: Vec<MessageId> = (0..5).map(|n| MessageId::new(n, &[7; 10])).collect();
    for id in &ids {
        fixture.outbox.hold(shop as u32, *id);
    }
    let foreign = MessageId::new(9, &[9; 10]);
    fixture.outbox.hold(1, foreign);
    let call = async |method: &str, path: &str, body: Value| {
        fixture.server(&token, method, path, body).await
    };
    let get = async |path: &str| call("GET", path, Value::Null).await;
    let page = get("/email/scheduled?count=3").await.ok();
    let listed: Vec<&str> = page["Messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["MessageID"].as_str().unwrap())
        .collect();
    assert_eq!(
        listed,
        ids[..3].iter().map(ToString::to_string).collect::<Vec<_>>()
    );
    assert_eq!(page["Messages"][0]["SendAt"], "2026-03-02T14:15:00Z");
    let key = page["PaginationKey"].as_str().unwrap();
    let rest = get(&format!("/Email/Scheduled/?paginationkey={key}"))
        .await
        .ok();
    assert_eq!(
        (
            rest["Messages"].as_array().unwrap().len(),
            &rest["PaginationKey"]
        ),
        (2, &Value::Null)
    );
    for count in ["0", "501", "x", "-1"] {
        get(&format!("/email/scheduled?count={count}"))
            .await
            .refused(422, 700);
    }
    get("/email/scheduled?paginationKey=x")
        .await
        .refused(422, 13);

    let path = format!("/email/scheduled/{}", ids[0]);
    let moved = call("PUT", &path, json!({ "SendAt": "2026-03-02T14:20:00Z" }))
        .await
        .ok();
    assert_eq!(moved["SendAt"], "2026-03-02T14:20:00Z");
    assert_eq!(get(&path).await.ok(), moved);
    for (body, said) in [
        (json!({}), "it is missing"),
        (json!({ "SendAt": "tomorrow" }), "is neither a time"),
        (
            json!({ "SendAt": "2026-03-02T14:20:00" }),
            "has no time zone",
        ),
        (json!({ "SendAt": "31d" }), "more than 30 days ahead"),
    ] {
        let text = call("PUT", &path, body).await.refused(422, 300);
        assert!(
            text.contains("Invalid 'SendAt' value") && text.contains(said),
            "{text}"
        );
    }
    call("PUT", &path, json!({ "SendAt": 7 }))
        .await
        .refused(422, 403);
    let dump = get(&format!("/messages/outbound/{}/dump", ids[0]))
        .await
        .ok();
    assert_eq!(dump["Body"], "x: \u{fffd}");
    assert_eq!(
        call("DELETE", &path, Value::Null).await.ok()["ErrorCode"],
        0
    );
    // Cancelled, somebody else's, none at all.
    for id in [ids[0].to_string(), foreign.to_string(), "7".into()] {
        let path = format!("/email/scheduled/{id}");
        get(&path).await.refused(422, 701);
        call("PUT", &path, json!({ "SendAt": "1h" }))
            .await
            .refused(422, 701);
        call("DELETE", &path, Value::Null).await.refused(422, 701);
        let said = get(&format!("/messages/outbound/{id}/dump"))
            .await
            .refused(422, 701);
        assert_eq!(said, "This message was not found.");
    }
    *fixture.outbox.trouble.lock().unwrap() = Some(AdminError::Unavailable("stopping".into()));
    let answer = get("/email/scheduled").await;
    assert_eq!(answer.headers["retry-after"], "2");
    answer.refused(503, 100);
}
