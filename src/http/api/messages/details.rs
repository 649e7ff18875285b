//! One message: from the tables where they have it, else from the spool; its events from the log; its content from the spool
//! as long as that is kept, and empty afterwards.

use mail_parser::{MessageParser, PartType};
use serde::Serialize;

use super::events::{self, MessageEvent};
use super::{Message, id_of, unavailable, unknown};
use crate::http::api::email::outbox::Stored;
use crate::http::api::error::ApiError;
use crate::http::api::{Api, Ask, reply, room_for, specimen};
use crate::limits;
use crate::readers::activity::Entry;
use crate::readers::tables::Trouble;

/// In the order of the reference.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Details {
    text_body: String,
    html_body: String,
    body: String,
    #[serde(flatten)]
    message: Message,
    message_events: Vec<MessageEvent>,
}

/// A message as it was found.
pub(super) struct Found {
    entry: Entry,
    /// Of its events, as the tables know them.
    positions: Vec<u64>,
    /// What the log has behind it, the tables may not know.
    from: u64,
}

pub(super) async fn details(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?.id;
    let Found {
        mut entry,
        positions,
        from,
    } = find(&api, &ask).await?;
    let (activity, id) = (api.activity.clone(), entry.id);
    let turn = activity.turn(server).await?;
    let records = blocking(move || {
        let records = activity.events(id, &positions, from);
        drop(turn);
        records
    });
    let records = records.await?;
    let shown = records.iter();
    let message_events: Vec<_> = shown
        .filter_map(|record| events::shown(record, &entry.about))
        .collect();
    entry.is_queued &= !records.iter().any(events::tells);
    let content = content(&api, server, &entry).await?;
    let _room = match content.len() > limits::HTTP_BODY_SMALL {
        true => Some(room_for(&api, 3 * limits::ACTIVITY_BODY).await?),
        false => None,
    };
    let [text_body, html_body, body] = blocking(move || texts(&content)).await?;
    reply(&Details {
        text_body,
        html_body,
        body,
        message: Message::new(entry),
        message_events,
    })
}

/// The message that the path names, of this server.
pub(super) async fn find(api: &Api, ask: &Ask) -> Result<Found, ApiError> {
    let server = ask.server()?.id;
    let id = id_of(ask).ok_or_else(unknown)?;
    // Before the tables are asked: what they learn meanwhile is seen twice, and shown once.
    let from = api.activity.reader().position();
    match api.activity.find(server, id).await {
        Ok(Some((entry, positions))) => {
            return Ok(Found {
                entry,
                positions,
                from,
            });
        }
        Ok(None) => {}
        // To look elsewhere is dearer.
        Err(trouble @ (Trouble::Busy | Trouble::TooLong)) => return Err(trouble.into()),
        // The spool has it all the same.
        Err(trouble) => tracing::debug!(%trouble, "activity cannot be looked up"),
    }
    let stored = api.outbox.stored(server, id).await.map_err(unavailable)?;
    let stored = stored.ok_or_else(unknown)?;
    let activity = api.activity.clone();
    let entry = blocking(move || activity.read(server, id, stored.position)).await?;
    Ok(Found {
        entry: entry.ok_or_else(unknown)?,
        positions: Vec::new(),
        from: 0,
    })
}

/// Where the content of the message that the path names is; `None`: it is not kept any more.
pub(in crate::http::api) async fn stored(api: &Api, ask: &Ask) -> Result<Option<Stored>, ApiError> {
    let server = ask.server()?.id;
    let id = id_of(ask).ok_or_else(unknown)?;
    match api.activity.find(server, id).await {
        Ok(Some((entry, _))) => return place(api, server, &entry).await,
        Err(trouble @ (Trouble::Busy | Trouble::TooLong)) => return Err(trouble.into()),
        Ok(None) | Err(_) => {}
    }
    let stored = api.outbox.stored(server, id).await.map_err(unavailable)?;
    stored.map(Some).ok_or_else(unknown)
}

async fn place(api: &Api, server: u32, entry: &Entry) -> Result<Option<Stored>, ApiError> {
    let (activity, id) = (api.activity.clone(), entry.id);
    let known = entry.position;
    let at_hand = blocking(move || {
        let position = known?;
        let octets = activity.content_at(id, position)?;
        Some(Stored { position, octets })
    });
    match at_hand.await? {
        Some(stored) => Ok(Some(stored)),
        // Compaction may have moved it.
        None => api.outbox.stored(server, id).await.map_err(unavailable),
    }
}

/// Empty: it is not kept any more.
async fn content(api: &Api, server: u32, entry: &Entry) -> Result<Vec<u8>, ApiError> {
    let Some(stored) = place(api, server, entry).await? else {
        return Ok(Vec::new());
    };
    let octets = usize::try_from(stored.octets).unwrap_or(usize::MAX);
    let _room = match octets > limits::HTTP_BODY_SMALL {
        true => Some(room_for(api, octets.saturating_mul(2)).await?),
        false => None,
    };
    let mut content = api.outbox.read(stored).await.map_err(unavailable)?;
    // What is shown is shorter by itself.
    content.truncate(CONTENT_MAX);
    Ok(content)
}

/// Text, HTML, and the whole. What a part lacks is empty.
fn texts(content: &[u8]) -> [String; 3] {
    let whole = shortened(&String::from_utf8_lossy(
        &content[..content.len().min(limits::ACTIVITY_BODY)],
    ));
    let Some(parsed) = MessageParser::default().parse(content) else {
        return [String::new(), String::new(), whole];
    };
    let text = |parts: &[u32], html: bool| {
        // The parser takes one for the other where there is but one.
        let found = parts.iter().filter_map(|part| parsed.part(*part));
        let mut found = found.filter_map(|part| match &part.body {
            PartType::Text(text) if !html => Some(shortened(text)),
            PartType::Html(text) if html => Some(shortened(text)),
            _ => None,
        });
        found.next().unwrap_or_default()
    };
    [
        text(&parsed.text_body, false),
        text(&parsed.html_body, true),
        whole,
    ]
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(limits::ACTIVITY_BODY)].to_owned()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::fault(error.to_string()))
}

pub(super) fn example() -> String {
    specimen(&Details {
        text_body: "It is on its way.".into(),
        html_body: "<p>It is on its way.".into(),
        body: "From: Orders <orders@shop.example>\r\n…".into(),
        message: super::example(),
        message_events: vec![events::example()],
    })
}

/// Attachments behind it do not matter here.
const CONTENT_MAX: usize = 4 * limits::ACTIVITY_BODY;
