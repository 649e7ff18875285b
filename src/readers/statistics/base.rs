//! The reader's base (FORMAT.md §13.2): the tables, row by row. It is what is left of events that are not kept any more.
//!
//! Promises: a base is all of the tables at one position, or the one before stays; what is read of a base is checked as a whole before, and
//! what it does not understand is an error and no guess. Tables of any size pass through some pieces of memory.

use std::io;
use std::sync::Arc;

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokio::sync::{mpsc, watch};

use super::Counters;
use crate::clock::{Clock, Zone};
use crate::spool::{Base, Spool};

/// A counter.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    server: u32,
    stream: String,
    /// Empty: of all messages.
    tag: String,
    day: i32,
    what: i32,
    count: i64,
}

impl Counters {
    /// Finds its base. Blocks.
    pub(super) fn open(
        spool: Arc<Spool>,
        zone: Zone,
        clock: Clock,
        tags_max: u64,
    ) -> io::Result<Self> {
        let readers = spool.readers();
        let base = match readers.register(NAME) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = readers.put_aside(NAME)?;
                tracing::error!(%error, aside = %aside.display(), "the base of the statistics is damaged: if the tables are gone too, days before the event log begins are lost");
                None
            }
            registered => registered?,
        };
        let based = base.map_or((0, 0), |base| (base.position, base.written_unix_ms));
        Ok(Self {
            spool,
            zone,
            clock,
            tags_max,
            based: watch::Sender::new(based),
        })
    }

    /// Writes the tables down as they are. Nobody may change them meanwhile.
    pub(super) async fn write_base(&self, tables: &mut SqliteConnection) -> io::Result<()> {
        let position: i64 = sqlx::query_scalar("SELECT position FROM cursor")
            .fetch_one(&mut *tables)
            .await
            .map_err(io::Error::other)?;
        let position = position as u64;
        let (pieces, mut rows) = mpsc::channel(PIECES);
        let (spool, now) = (Arc::clone(&self.spool), self.clock.unix_ms());
        let writing = tokio::task::spawn_blocking(move || {
            spool.readers().write(NAME, position, now, &mut |out| {
                out.write(&VERSION.to_le_bytes())?;
                loop {
                    match rows.blocking_recv() {
                        Some(Piece::Rows(rows)) => out.write(&rows)?,
                        Some(Piece::End) => return Ok(()),
                        None => return Err(io::Error::other("the tables cannot be read")),
                    }
                }
            })
        });
        let read = send(tables, pieces).await;
        match writing.await {
            Ok(written) => drop(written?),
            Err(failed) => return Err(io::Error::other(failed)),
        }
        read.map_err(io::Error::other)?;
        self.based.send_replace((position, now));
        Ok(())
    }

    /// Fills empty tables; where in the log they go on.
    pub(super) async fn read_base(
        &self,
        tables: &mut SqliteConnection,
    ) -> Result<u64, sqlx::Error> {
        let spool = Arc::clone(&self.spool);
        let found = tokio::task::spawn_blocking(move || spool.readers().register(NAME)).await;
        let found = found.map_err(|failed| sqlx::Error::Io(io::Error::other(failed)))??;
        let Some(base) = found else { return Ok(0) };
        let base = Arc::new(base);
        let (mut rest, mut at) = (Vec::new(), 0);
        while at < base.state_len() {
            let (from, behind) = (Arc::clone(&base), at);
            let piece = tokio::task::spawn_blocking(move || read(&from, behind)).await;
            let piece = piece.map_err(|failed| sqlx::Error::Io(io::Error::other(failed)))??;
            let mut bytes = &piece[..];
            if at == 0 {
                let version = bytes.split_off(..VERSION.to_le_bytes().len());
                if version != Some(&VERSION.to_le_bytes()[..]) {
                    return Err(unknown());
                }
            }
            at += piece.len() as u64;
            rest.extend_from_slice(bytes);
            let mut whole = &rest[..];
            while let Some((entry, behind)) = Entry::decode(whole).map_err(|()| unknown())? {
                insert(tables, &entry).await?;
                whole = behind;
            }
            rest = whole.to_vec();
        }
        if !rest.is_empty() {
            return Err(unknown());
        }
        sqlx::query("INSERT INTO tags SELECT server, stream, day, COUNT(DISTINCT tag) FROM tagged GROUP BY server, stream, day")
            .execute(tables)
            .await?;
        // A log that is behind its base was put back: it goes on from where it ends.
        Ok(base.position.min(self.spool.events.durable()))
    }
}

/// What is on its way into a base.
enum Piece {
    Rows(Vec<u8>),
    /// That was all.
    End,
}

/// Sends all rows, in order.
async fn send(tables: &mut SqliteConnection, to: mpsc::Sender<Piece>) -> Result<(), sqlx::Error> {
    let mut last: Option<Entry> = None;
    for (first, next) in [
        (
            "SELECT server, stream, '' AS tag, day, what, count FROM total ORDER BY server, stream, day, what LIMIT $6",
            "SELECT server, stream, '' AS tag, day, what, count FROM total WHERE (server, stream, day, what) > ($1, $3, $4, $5) ORDER BY server, stream, day, what LIMIT $6",
        ),
        (
            "SELECT server, stream, tag, day, what, count FROM tagged ORDER BY server, tag, stream, day, what LIMIT $6",
            "SELECT server, stream, tag, day, what, count FROM tagged WHERE (server, tag, stream, day, what) > ($1, $2, $3, $4, $5) ORDER BY server, tag, stream, day, what LIMIT $6",
        ),
    ] {
        loop {
            let after = last.as_ref();
            let rows = sqlx::query(if after.is_some() { next } else { first })
                .bind(after.map(|after| after.server))
                .bind(after.map(|after| &*after.tag))
                .bind(after.map(|after| &*after.stream))
                .bind(after.map(|after| after.day))
                .bind(after.map(|after| after.what))
                .bind(ROWS)
                .fetch_all(&mut *tables)
                .await?;
            let mut piece = Vec::new();
            for row in &rows {
                let entry = Entry::of(row)?;
                entry.encode(&mut piece);
                last = Some(entry);
            }
            // Whoever writes has failed, and says why.
            if to.send(Piece::Rows(piece)).await.is_err() {
                return Ok(());
            }
            if rows.len() < ROWS as usize {
                break;
            }
        }
        last = None;
    }
    let _ = to.send(Piece::End).await;
    Ok(())
}

async fn insert(tables: &mut SqliteConnection, entry: &Entry) -> Result<(), sqlx::Error> {
    let query = match entry.tag.is_empty() {
        true => sqlx::query("INSERT INTO total VALUES ($1, $3, $4, $5, $6)"),
        false => sqlx::query("INSERT INTO tagged VALUES ($1, $2, $3, $4, $5, $6)"),
    };
    query
        .bind(entry.server)
        .bind(&entry.tag)
        .bind(&entry.stream)
        .bind(entry.day)
        .bind(entry.what)
        .bind(entry.count)
        .execute(tables)
        .await?;
    Ok(())
}

/// Blocks.
fn read(base: &Base, at: u64) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; READ];
    let len = base.read_at(&mut piece, at)?;
    piece.truncate(len);
    Ok(piece)
}

fn unknown() -> sqlx::Error {
    let text = "the base of the statistics is of another version, or not what it should be; move spool/readers/statistics.base away to count from the event log alone";
    sqlx::Error::Io(io::Error::other(text))
}

impl Entry {
    fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            server: row.try_get("server")?,
            stream: row.try_get("stream")?,
            tag: row.try_get("tag")?,
            day: row.try_get("day")?,
            what: row.try_get("what")?,
            count: row.try_get("count")?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.server.to_le_bytes());
        out.extend_from_slice(&self.day.to_le_bytes());
        out.extend_from_slice(&self.what.to_le_bytes());
        out.extend_from_slice(&(self.stream.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.tag.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(self.stream.as_bytes());
        out.extend_from_slice(self.tag.as_bytes());
    }

    /// The first entry, and what is behind it. `None`: it is not whole yet.
    fn decode(bytes: &[u8]) -> Result<Option<(Self, &[u8])>, ()> {
        fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
            let (first, rest) = bytes.split_first_chunk::<N>()?;
            *bytes = rest;
            Some(first)
        }
        let mut rest = bytes;
        let mut fixed = || {
            Some((
                u32::from_le_bytes(*take(&mut rest)?),
                i32::from_le_bytes(*take(&mut rest)?),
                i32::from_le_bytes(*take(&mut rest)?),
                usize::from(u16::from_le_bytes(*take(&mut rest)?)),
                usize::from(u16::from_le_bytes(*take(&mut rest)?)),
                i64::from_le_bytes(*take(&mut rest)?),
            ))
        };
        let Some((server, day, what, stream_len, tag_len, count)) = fixed() else {
            return Ok(None);
        };
        let Some((texts, rest)) = rest.split_at_checked(stream_len + tag_len) else {
            return Ok(None);
        };
        let (stream, tag) = texts.split_at(stream_len);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| ());
        let entry = Self {
            server,
            stream: text(stream)?,
            tag: text(tag)?,
            day,
            what,
            count,
        };
        Ok(Some((entry, rest)))
    }
}

const NAME: &str = "statistics";
const VERSION: u32 = 1;
/// On their way at once, each of so many rows.
const PIECES: usize = 2;
const ROWS: i64 = 4_096;
const READ: usize = 256 << 10;
