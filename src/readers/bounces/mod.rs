//! The reader behind the bounce API: what did not arrive, or came back, in the words of Postmark.
//!
//! Promises: each outcome that is a bounce is one row, its id the position of its event; a row tells of its message what could
//! be read when the event came; whether the address is suppressed follows from the events; rows go when their events do. Does
//! not know: the API ([`search`] answers what it asks), nor what makes a suppression.
//!
//! From, subject and tag are in the message record, which may be long gone when somebody asks: they are copied into the row.
//! What came back, a reply or a mail, stays in the event, which is looked up ([`Bounces::notice`]).

mod search;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use spool_format::{Content, ContentRecord, MessageRecord, kind};
use sqlx::sqlite::SqliteConnection;

use crate::classify::BounceType;
use crate::clock::{Clock, UnixMs};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::mail::{Mailbox, MessageId};
use crate::outcome::CauseClass;
use crate::readers::suppressions::{Address, List};
use crate::readers::tables::{TableReader, Tables};
use crate::spool::{Log, Spool};
use crate::suppression;

pub use crate::readers::tables::Trouble;
pub use search::{Bounce, Search, Tally};

/// The reader at work.
pub type Reader = TableReader<BounceTables>;

/// Bounces, to be asked. Cheap to clone.
#[derive(Clone)]
pub struct Bounces {
    reader: Arc<Reader>,
    events: Log,
}

pub struct BounceTables {
    mail: Log,
    suppressions: Arc<suppression::Set>,
}

impl Bounces {
    pub fn new(
        spool: &Spool,
        suppressions: Arc<suppression::Set>,
        data_dir: &Path,
        kept: Duration,
        clock: Clock,
    ) -> Self {
        let tables = BounceTables {
            mail: spool.mail.clone(),
            suppressions,
        };
        let reader = TableReader::new(tables, &spool.events, data_dir, kept, clock);
        Self {
            reader: Arc::new(reader),
            events: spool.events.clone(),
        }
    }

    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// What came back, as far as its event is still there: the mail that said so, or its beginning, else the remote host's
    /// reply. Lines end with CRLF. Blocks.
    pub fn notice(&self, id: u64) -> Option<String> {
        let (reply, notice, at) = self.told(id)?;
        let notice = match at {
            // One mail about several recipients is kept once.
            Some(at) => self.told(at).map_or(notice, |(_, notice, _)| notice),
            None => notice,
        };
        match (notice.is_empty(), reply.is_empty()) {
            (false, _) => Some(String::from_utf8_lossy(&notice).into_owned()),
            (true, false) => Some(reply.replace('\n', "\r\n") + "\r\n"),
            (true, true) => None,
        }
    }

    fn told(&self, position: u64) -> Option<(String, Vec<u8>, Option<u64>)> {
        let record = self.events.read(position).ok()?;
        if record.kind != kind::EVENT {
            return None;
        }
        let event = Event::decode(&record.payload).ok()??;
        Some((
            event.reply.to_owned(),
            event.notice.to_vec(),
            event.notice_at,
        ))
    }
}

/// What one event makes.
pub enum Fact {
    Bounce(Box<Row>),
    /// Whether an address is suppressed from now on.
    Inactive {
        address: [u8; 16],
        is: bool,
    },
}

/// A bounce as it is written down.
pub struct Row {
    position: u64,
    server: u32,
    stream: String,
    kind: BounceType,
    at: UnixMs,
    message: MessageId,
    email: String,
    /// Of the address in its stream.
    address: Option<[u8; 16]>,
    has_notice: bool,
    details: String,
    about: About,
}

/// What the message record says.
#[derive(Default)]
struct About {
    from: String,
    subject: String,
    tag: String,
}

impl Tables for BounceTables {
    const NAME: &'static str = "bounces";
    const VERSION: i64 = 1;
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Fact = Fact;

    fn wants(&self, kind: EventKind) -> bool {
        use EventKind::*;
        matches!(
            kind,
            Bounced | Expired | BouncedLater | Complained | Suppressed | Unsuppressed
        )
    }

    fn fact(&self, position: u64, event: &Event<'_>) -> Option<Fact> {
        let list = List {
            server: event.server_id,
            stream: event.stream.into(),
        };
        let key = self.suppressions.key();
        if let EventKind::Suppressed | EventKind::Unsuppressed = event.kind {
            return Some(Fact::Inactive {
                address: Address::parse(event.recipient)?.tag(key, &list).to_bytes(),
                is: event.kind == EventKind::Suppressed,
            });
        }
        let mailbox = Mailbox::parse(event.recipient, true).ok();
        let address = mailbox.map(|m| key.tag(list.server, &list.stream, &m).to_bytes());
        Some(Fact::Bounce(Box::new(Row {
            position,
            server: event.server_id,
            stream: event.stream.to_owned(),
            kind: type_of(event.kind, event.cause),
            at: event.at,
            message: event.message_id,
            email: event.recipient.to_owned(),
            address,
            has_notice: !event.reply.is_empty()
                || !event.notice.is_empty()
                || event.notice_at.is_some(),
            details: details(event),
            about: self.about(event).unwrap_or_default(),
        })))
    }

    async fn apply(
        &self,
        tables: &mut SqliteConnection,
        facts: Vec<Fact>,
    ) -> Result<(), sqlx::Error> {
        for fact in &facts {
            match fact {
                Fact::Bounce(row) => self.insert(tables, row).await?,
                Fact::Inactive { address, is } => {
                    sqlx::query(
                        "UPDATE bounce SET inactive = $1 WHERE address = $2 AND inactive <> $1",
                    )
                    .bind(is)
                    .bind(&address[..])
                    .execute(&mut *tables)
                    .await?;
                }
            }
        }
        Ok(())
    }

    async fn expire(
        &self,
        tables: &mut SqliteConnection,
        before: UnixMs,
    ) -> Result<(), sqlx::Error> {
        // Positions are in order of time, nearly: nobody's row stays for long.
        sqlx::query("DELETE FROM bounce WHERE position IN (SELECT position FROM bounce ORDER BY position LIMIT $1) AND at < $2")
            .bind(limits::READER_EXPIRED)
            .bind(before as i64)
            .execute(tables)
            .await?;
        Ok(())
    }

    async fn forget(
        &self,
        tables: &mut SqliteConnection,
        positions: &[u64],
    ) -> Result<(), sqlx::Error> {
        for position in positions {
            sqlx::query("DELETE FROM bounce WHERE position = $1")
                .bind(*position as i64)
                .execute(&mut *tables)
                .await?;
        }
        Ok(())
    }
}

impl BounceTables {
    async fn insert(&self, tables: &mut SqliteConnection, row: &Row) -> Result<(), sqlx::Error> {
        // As it is now: what is still to be read of the log changes it again, up to what it is now.
        let tag = row.address.map(suppression::Tag::from_bytes);
        let inactive = tag.is_some_and(|tag| self.suppressions.find(tag).is_some());
        sqlx::query(
            "INSERT INTO bounce (position, server, stream, type, at, message, email, address, inactive, notice, details, sender, subject, tag) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(row.position as i64)
        .bind(row.server)
        .bind(&row.stream)
        .bind(row.kind.code())
        .bind(row.at as i64)
        .bind(&row.message.as_bytes()[..])
        .bind(&row.email)
        .bind(row.address.as_ref().map(|address| &address[..]))
        .bind(inactive)
        .bind(row.has_notice)
        .bind(&row.details)
        .bind(&row.about.from)
        .bind(&row.about.subject)
        .bind(&row.about.tag)
        .execute(tables)
        .await?;
        Ok(())
    }

    /// `None`: the message is there no more.
    fn about(&self, event: &Event<'_>) -> Option<About> {
        let record = self.mail.read(event.mail_position?).ok()?;
        if record.kind != kind::MESSAGE {
            return None;
        }
        let message = MessageRecord::decode(&record.payload).ok()?;
        if MessageId::from_bytes(message.id) != event.message_id {
            return None;
        }
        let len = usize::try_from(message.header_len).ok()?;
        let header = match message.content {
            Content::Inline(octets) => octets.get(..len)?.to_vec(),
            Content::Records(parts) => {
                let part = self.mail.read(parts.iter().next()?.position).ok()?;
                let part = ContentRecord::decode(&part.payload).ok()?;
                let len = len.min(part.octets.len());
                part.octets[..len].to_vec()
            }
        };
        let parsed = mail_parser::MessageParser::default().parse_headers(&header);
        let from = parsed.as_ref().and_then(|parsed| parsed.from()?.first());
        let subject = parsed.as_ref().and_then(|parsed| parsed.subject());
        Some(About {
            from: from
                .and_then(|from| from.address())
                .map(shortened)
                .unwrap_or_default(),
            subject: subject.map(shortened).unwrap_or_default(),
            tag: message.tag.map(shortened).unwrap_or_default(),
        })
    }
}

/// What Postmark would call it.
pub(in crate::readers) fn type_of(kind: EventKind, cause: &str) -> BounceType {
    match kind {
        EventKind::Expired => BounceType::SoftBounce,
        EventKind::Complained => BounceType::SpamComplaint,
        _ => {
            let cause = CauseClass::parse(cause).unwrap_or(CauseClass::Unknown);
            BounceType::of(cause, false)
        }
    }
}

/// `smtp;550 5.1.1 no such user`, as a DSN's diagnostic code has it (RFC 3464 §2.3.6); our own words where nobody said any.
pub(in crate::readers) fn details(event: &Event<'_>) -> String {
    match event.reply {
        "" => shortened(event.detail),
        reply => shortened(&format!("smtp;{}", reply.replace('\n', " "))),
    }
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(limits::BOUNCE_TEXT)].to_owned()
}
