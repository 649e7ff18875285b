//! What can be asked of bounces. A server sees its own.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, QueryBuilder, Row as _, Sqlite};

use super::{Bounces, Trouble};
use crate::classify::BounceType;
use crate::clock::UnixMs;
use crate::mail::MessageId;

/// Which bounces of a stream; newest first.
#[derive(Clone, Debug, Default)]
pub struct Search {
    pub server: u32,
    pub stream: String,
    pub kind: Option<BounceType>,
    pub inactive: Option<bool>,
    /// A part of the address, in any case.
    pub email: Option<String>,
    pub tag: Option<String>,
    pub message: Option<MessageId>,
    pub from: Option<UnixMs>,
    /// The first moment behind.
    pub to: Option<UnixMs>,
    pub count: usize,
    pub offset: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounce {
    /// Position of its event.
    pub id: u64,
    pub stream: String,
    pub kind: BounceType,
    pub at: UnixMs,
    pub message: MessageId,
    pub email: String,
    /// What came back may be there.
    pub has_notice: bool,
    pub details: String,
    pub from: String,
    pub subject: String,
    pub tag: String,
}

/// Of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Addresses that bounced and are suppressed.
    pub inactive: u64,
    pub by_type: BTreeMap<BounceType, u64>,
}

impl Bounces {
    /// How many there are, and those that were asked for.
    pub async fn search(&self, search: &Search) -> Result<(u64, Vec<Bounce>), Trouble> {
        let mut question = self.reader.ask(search.server).await?;
        // One view of both.
        let mut view = question.begin().await?;
        let total: i64 = match search.is_plain() {
            true => {
                let mut sum = QueryBuilder::new(
                    "SELECT CAST(COALESCE(SUM(count), 0) AS INTEGER) FROM tally WHERE server = ",
                );
                sum.push_bind(search.server);
                sum.push(" AND stream = ").push_bind(&search.stream);
                if let Some(kind) = search.kind {
                    sum.push(" AND type = ").push_bind(kind.code());
                }
                sum.build_query_scalar().fetch_one(&mut *view).await?
            }
            false => {
                let mut count = QueryBuilder::new("SELECT COUNT(*) FROM bounce");
                search.push_to(&mut count);
                count.build_query_scalar().fetch_one(&mut *view).await?
            }
        };
        let mut page = QueryBuilder::new(SELECT);
        search.push_to(&mut page);
        page.push(" ORDER BY position DESC LIMIT ")
            .push_bind(search.count as i64);
        page.push(" OFFSET ").push_bind(search.offset as i64);
        let rows = page.build().fetch_all(&mut *view).await?;
        let bounces = rows.iter().map(bounce).collect::<Result<_, _>>()?;
        Ok((total as u64, bounces))
    }

    pub async fn find(&self, server: u32, id: u64) -> Result<Option<Bounce>, Trouble> {
        let mut question = self.reader.ask(server).await?;
        let mut one = QueryBuilder::new(SELECT);
        one.push(" WHERE position = ").push_bind(id as i64);
        one.push(" AND server = ").push_bind(server);
        let row = one.build().fetch_optional(&mut *question).await?;
        Ok(row.as_ref().map(bounce).transpose()?)
    }

    pub async fn tally(&self, server: u32) -> Result<Tally, Trouble> {
        let mut question = self.reader.ask(server).await?;
        let mut view = question.begin().await?;
        let inactive: i64 = sqlx::query_scalar(
            "SELECT COUNT(DISTINCT address) FROM bounce WHERE server = $1 AND inactive = 1",
        )
        .bind(server)
        .fetch_one(&mut *view)
        .await?;
        let counts: Vec<(u32, i64)> = sqlx::query_as(
            "SELECT type, CAST(SUM(count) AS INTEGER) FROM tally WHERE server = $1 GROUP BY type",
        )
        .bind(server)
        .fetch_all(&mut *view)
        .await?;
        let by_type = counts.into_iter().filter(|(_, count)| *count > 0);
        Ok(Tally {
            inactive: inactive as u64,
            by_type: by_type
                .map(|(code, count)| (type_of(code), count as u64))
                .collect(),
        })
    }

    /// Tags of messages that bounced, in order.
    pub async fn tags(&self, server: u32) -> Result<Vec<String>, Trouble> {
        let mut question = self.reader.ask(server).await?;
        let tags = sqlx::query_scalar(
            "SELECT DISTINCT tag FROM bounce WHERE server = $1 AND tag <> '' ORDER BY tag LIMIT $2",
        )
        .bind(server)
        .bind(TAGS_MAX)
        .fetch_all(&mut *question)
        .await?;
        Ok(tags)
    }
}

impl Search {
    /// The tally knows how many.
    fn is_plain(&self) -> bool {
        self.inactive.is_none()
            && self.email.is_none()
            && self.tag.is_none()
            && self.message.is_none()
            && self.from.is_none()
            && self.to.is_none()
    }

    fn push_to(&self, query: &mut QueryBuilder<Sqlite>) {
        query.push(" WHERE server = ").push_bind(self.server);
        query.push(" AND stream = ").push_bind(self.stream.clone());
        if let Some(kind) = self.kind {
            query.push(" AND type = ").push_bind(kind.code());
        }
        if let Some(inactive) = self.inactive {
            query.push(" AND inactive = ").push_bind(inactive);
        }
        if let Some(email) = &self.email {
            // Of ASCII in any case; a pattern's characters stand for themselves.
            query.push(" AND instr(lower(email), ");
            query.push_bind(email.to_ascii_lowercase()).push(") > 0");
        }
        if let Some(tag) = &self.tag {
            query.push(" AND tag = ").push_bind(tag.clone());
        }
        if let Some(message) = self.message {
            query
                .push(" AND message = ")
                .push_bind(message.as_bytes().to_vec());
        }
        if let Some(from) = self.from {
            query.push(" AND at >= ").push_bind(from as i64);
        }
        if let Some(to) = self.to {
            query.push(" AND at < ").push_bind(to as i64);
        }
    }
}

fn bounce(row: &SqliteRow) -> Result<Bounce, sqlx::Error> {
    let message: Vec<u8> = row.try_get("message")?;
    let message = message.try_into().unwrap_or([0; 16]);
    Ok(Bounce {
        id: row.try_get::<i64, _>("position")? as u64,
        stream: row.try_get("stream")?,
        kind: type_of(row.try_get("type")?),
        at: row.try_get::<i64, _>("at")? as u64,
        message: MessageId::from_bytes(message),
        email: row.try_get("email")?,
        has_notice: row.try_get("notice")?,
        details: row.try_get("details")?,
        from: row.try_get("sender")?,
        subject: row.try_get("subject")?,
        tag: row.try_get("tag")?,
    })
}

fn type_of(code: u32) -> BounceType {
    let mut all = BounceType::ALL.iter().copied();
    all.find(|kind| kind.code() == code)
        .unwrap_or(BounceType::Unknown)
}

const SELECT: &str = "SELECT position, stream, type, at, message, email, notice, details, sender, subject, tag FROM bounce";
/// Nobody has more, and an answer is bounded.
const TAGS_MAX: i64 = 10_000;
