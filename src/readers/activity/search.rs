//! What can be asked of messages. A server sees its own.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, QueryBuilder, Row as _, Sqlite};

use super::about::About;
use super::words::{self, What};
use super::{Activity, KEY_RANDOM, KEYS_TRIED, Trouble, key_at, key_of};
use crate::clock::UnixMs;
use crate::limits;
use crate::mail::MessageId;

/// Which messages of a stream; newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    pub server: u32,
    pub stream: String,
    pub recipient: Option<String>,
    pub from: Option<String>,
    pub tag: Option<String>,
    /// A part of the subject, in any case of ASCII; where more than [`limits::ACTIVITY_SUBJECTS`] messages match the rest, words of it.
    pub subject: Option<String>,
    pub metadata: Vec<(String, String)>,
    /// Nothing has become of it yet; or something has.
    pub is_queued: Option<bool>,
    pub since: Option<UnixMs>,
    /// The first moment behind.
    pub until: Option<UnixMs>,
    pub count: usize,
    pub offset: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: MessageId,
    pub stream: String,
    /// Nothing is known of it but its acceptance.
    pub is_queued: bool,
    /// Where its record lay.
    pub position: Option<u64>,
    pub about: About,
}

/// A search, as the tables understand it.
struct Asked {
    scope: i64,
    /// For FTS5; empty: all.
    words: String,
    /// Of the subject, in lower case.
    part: Option<String>,
    since: i64,
    until: i64,
    is_queued: Option<bool>,
    /// So few are queued, or are not, as was asked for, that each of them is looked at.
    is_few: bool,
}

impl Activity {
    /// How many there are, at most [`limits::ACTIVITY_COUNT`] where it is asked for more than dates, and those that were asked for.
    pub async fn search(&self, search: &Search) -> Result<(u64, Vec<Entry>), Trouble> {
        let mut question = self.reader.ask(search.server).await?;
        // One view of all.
        let mut view = question.begin().await?;
        let scope = sqlx::query_scalar("SELECT id FROM scope WHERE server = $1 AND stream = $2")
            .bind(search.server)
            .bind(&search.stream)
            .fetch_optional(&mut *view)
            .await?;
        let Some(scope) = scope else {
            return Ok((0, Vec::new()));
        };
        let mut asked = Asked::of(scope, search);
        if !asked.narrow(&mut view).await? {
            return Ok((0, Vec::new()));
        }
        if let Some(subject) = &search.subject
            && !asked.look_for(subject, &mut view).await?
        {
            return Ok((0, Vec::new()));
        }
        let total = asked.total(&mut view).await?;
        let mut entries = Vec::new();
        if total > search.offset as i64 {
            for row in asked.page(&mut view, search).await? {
                entries.push(entry(&row, &search.stream)?);
            }
        }
        Ok((total as u64, entries))
    }

    /// A message of a server, with the positions of what the log says of it, as far as it was read.
    pub async fn find(
        &self,
        server: u32,
        id: MessageId,
    ) -> Result<Option<(Entry, Vec<u64>)>, Trouble> {
        let mut question = self.reader.ask(server).await?;
        let mut view = question.begin().await?;
        let key = key_of(id);
        let row = sqlx::query(
            "SELECT m.id, m.position, m.about, s.stream, EXISTS (SELECT 1 FROM queued q WHERE q.id = m.id) AS queued \
             FROM message m JOIN scope s ON s.id = m.scope WHERE m.key BETWEEN $1 AND $2 AND m.id = $3 AND s.server = $4",
        )
        .bind(key)
        .bind(key + KEYS_TRIED)
        .bind(id.as_bytes().to_vec())
        .bind(server)
        .fetch_optional(&mut *view)
        .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let stream: String = row.try_get("stream")?;
        let positions: Vec<i64> = sqlx::query_scalar(
            "SELECT position FROM event WHERE message = $1 ORDER BY position LIMIT $2",
        )
        .bind(key)
        .bind(limits::ACTIVITY_EVENTS as i64)
        .fetch_all(&mut *view)
        .await?;
        let positions = positions.into_iter().map(|position| position as u64);
        Ok(Some((entry(&row, &stream)?, positions.collect())))
    }
}

impl Asked {
    /// But for the subject.
    fn of(scope: i64, search: &Search) -> Self {
        let mut words = Vec::new();
        let exact = [
            (
                What::Recipient,
                search.recipient.as_deref().map(words::folded),
            ),
            (What::From, search.from.as_deref().map(words::folded)),
            (What::Tag, search.tag.as_deref().map(Into::into)),
        ];
        for (what, value) in exact {
            words.extend(value.map(|value| words::exact(scope, what, &value)));
        }
        for (key, value) in &search.metadata {
            let pair = words::pair(key, value);
            words.push(words::exact(scope, What::Metadata, &pair));
        }
        Self {
            scope,
            words: words.join(" AND "),
            part: None,
            since: search.since.map_or(0, key_at),
            until: search.until.map_or(i64::MAX, key_at),
            is_queued: search.is_queued,
            is_few: false,
        }
    }

    /// Where those that are queued, or are not, lie: full-text search need not look elsewhere. `false`: there are none.
    async fn narrow(&mut self, view: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let Some(status) = self.status().filter(|_| !self.words.is_empty()) else {
            return Ok(true);
        };
        let mut ends = [None, None];
        for (end, order) in ends.iter_mut().zip(["", " DESC"]) {
            let mut query =
                QueryBuilder::new(format!("SELECT key FROM {status} q WHERE q.scope = "));
            query.push_bind(self.scope);
            self.push_dates(&mut query, "q.key");
            query.push(format!(" ORDER BY key{order} LIMIT 1"));
            *end = query
                .build_query_scalar::<i64>()
                .fetch_optional(&mut *view)
                .await?;
        }
        let [Some(first), Some(last)] = ends else {
            return Ok(false);
        };
        (self.since, self.until) = (first, last + 1);
        let all = Self {
            words: String::new(),
            part: None,
            ..*self
        };
        let count = all.count(view, limits::ACTIVITY_FEW + 1).await?;
        self.is_few = count <= limits::ACTIVITY_FEW;
        Ok(true)
    }

    /// The table of those that were asked for.
    fn status(&self) -> Option<&'static str> {
        self.is_queued.map(|is_queued| match is_queued {
            true => "queued",
            false => "settled",
        })
    }

    /// Few messages are looked through for a part of their subject, of many only words are found: a beginning of a word may
    /// be one of millions. `false`: there is nothing to look for.
    async fn look_for(
        &mut self,
        subject: &str,
        view: &mut SqliteConnection,
    ) -> Result<bool, sqlx::Error> {
        let candidates = match self.words.is_empty() {
            true => self.tally(view).await?,
            false => self.count(view, limits::ACTIVITY_SUBJECTS + 1).await?,
        };
        if candidates <= limits::ACTIVITY_SUBJECTS {
            self.part = Some(subject.trim().to_ascii_lowercase());
            return Ok(true);
        }
        let had_words = !self.words.is_empty();
        let said = words::subject(self.scope, subject);
        for word in &said {
            if !self.words.is_empty() {
                self.words.push_str(" AND ");
            }
            // Letters and digits of any script.
            for piece in ["\"", word, "\""] {
                self.words.push_str(piece);
            }
        }
        Ok(!said.is_empty() && (had_words || self.narrow(view).await?))
    }

    async fn total(&self, view: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
        match self.words.is_empty() && self.part.is_none() {
            true => self.tally(view).await,
            false => self.count(view, limits::ACTIVITY_COUNT).await,
        }
    }

    async fn count(&self, view: &mut SqliteConnection, at_most: i64) -> Result<i64, sqlx::Error> {
        let mut count = QueryBuilder::new("SELECT COUNT(*) FROM (");
        self.push_keys(&mut count);
        count.push(" LIMIT ").push_bind(at_most).push(")");
        count.build_query_scalar().fetch_one(view).await
    }

    /// Whole minutes are counted already.
    async fn tally(&self, view: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
        let ms = |key: i64| key >> KEY_RANDOM;
        let first = (ms(self.since) + MINUTE_MS - 1) / MINUTE_MS;
        let behind = ms(self.until) / MINUTE_MS;
        if first >= behind {
            return self.count(view, limits::ACTIVITY_COUNT).await;
        }
        let counted = match self.is_queued {
            None => "count",
            Some(true) => "queued",
            Some(false) => "count - queued",
        };
        let mut whole = QueryBuilder::new(format!(
            "SELECT CAST(COALESCE(SUM({counted}), 0) AS INTEGER) FROM tally WHERE scope = "
        ));
        whole.push_bind(self.scope);
        whole.push(" AND minute >= ").push_bind(first);
        whole.push(" AND minute < ").push_bind(behind);
        let whole: i64 = whole.build_query_scalar().fetch_one(&mut *view).await?;
        let key = |minute: i64| key_at((minute * MINUTE_MS) as u64);
        let mut total = whole;
        for (since, until) in [(self.since, key(first)), (key(behind), self.until)] {
            if since < until && until - since < i64::MAX / 2 {
                let part = Self {
                    words: String::new(),
                    part: None,
                    since,
                    until,
                    ..*self
                };
                total += part.count(view, limits::ACTIVITY_COUNT).await?;
            }
        }
        Ok(total)
    }

    async fn page(
        &self,
        view: &mut SqliteConnection,
        search: &Search,
    ) -> Result<Vec<SqliteRow>, sqlx::Error> {
        // Keys first: what is passed over costs no row.
        let mut page = QueryBuilder::new(
            "SELECT m.id, m.position, m.about, EXISTS (SELECT 1 FROM queued q WHERE q.id = m.id) AS queued FROM (",
        );
        self.push_keys(&mut page);
        page.push(" ORDER BY key DESC LIMIT ")
            .push_bind(search.count as i64);
        page.push(" OFFSET ").push_bind(search.offset as i64);
        page.push(") found JOIN message m ON m.key = found.key ORDER BY m.key DESC");
        page.build().fetch_all(view).await
    }

    /// Keys of what matches, as `key`.
    fn push_keys(&self, query: &mut QueryBuilder<Sqlite>) {
        let (from, key) = match (self.words.is_empty(), self.status()) {
            (true, None) => ("message m".to_owned(), "m.key"),
            (true, Some(status)) => (format!("{status} q"), "q.key"),
            (false, Some(status)) if self.is_few => (
                format!("{status} q CROSS JOIN search f ON f.rowid = q.key"),
                "q.key",
            ),
            (false, _) => ("search f".to_owned(), "f.rowid"),
        };
        query.push(format!("SELECT {key} AS key FROM {from} WHERE "));
        if self.words.is_empty() {
            let table = &key[..1];
            query
                .push(format!("{table}.scope = "))
                .push_bind(self.scope);
        } else {
            // A word has its scope in it.
            query.push("f.search MATCH ").push_bind(self.words.clone());
            if let Some(status) = self.status() {
                query.push(match self.is_few {
                    true => " AND q.scope = ".to_owned(),
                    false => format!(
                        " AND EXISTS (SELECT 1 FROM {status} w WHERE w.key = {key} AND w.scope = "
                    ),
                });
                query.push_bind(self.scope);
                query.push(if self.is_few { "" } else { ")" });
            }
        }
        self.push_dates(query, key);
        if let Some(part) = &self.part {
            query.push(" AND (SELECT instr(lower(x.about ->> '$.s'), ");
            query.push_bind(part.clone());
            query.push(format!(") FROM message x WHERE x.key = {key}) > 0"));
        }
    }

    fn push_dates(&self, query: &mut QueryBuilder<Sqlite>, key: &str) {
        if self.since > 0 {
            query.push(format!(" AND {key} >= ")).push_bind(self.since);
        }
        if self.until < i64::MAX {
            query.push(format!(" AND {key} < ")).push_bind(self.until);
        }
    }
}

fn entry(row: &SqliteRow, stream: &str) -> Result<Entry, sqlx::Error> {
    let about: String = row.try_get("about")?;
    let position: Option<i64> = row.try_get("position")?;
    Ok(Entry {
        id: id_of(row)?,
        stream: stream.to_owned(),
        is_queued: row.try_get("queued")?,
        position: position.map(|position| position as u64),
        about: about_of(&about)?,
    })
}

pub(super) fn id_of(row: &SqliteRow) -> Result<MessageId, sqlx::Error> {
    let id: Vec<u8> = row.try_get("id")?;
    let id = id.try_into();
    let id = id.map_err(|_| sqlx::Error::Decode("an id of another length".into()))?;
    Ok(MessageId::from_bytes(id))
}

pub(super) fn about_of(text: &str) -> Result<About, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

const MINUTE_MS: i64 = 60_000;
