//! The reader behind the statistics: how many recipients were sent to, bounced, complained, by day, server, stream and tag.
//!
//! Promises: counts are exact, each event counted once however the node ends; they are kept for ever, over the retention of
//! events and the erasure of people too; tables made again from base and log are those that were live. A tag is
//! counted exactly or not at all on a day: the first [`limits::STATISTICS_TAGS`] of a stream are. Does not know: the API's names.
//!
//! *Sent* counts recipients that were accepted, on the day of acceptance, less those that never went out: refused for a
//! suppression after an acceptance by SMTP, or withdrawn before an attempt. Everything else counts on the day of its event.
//!
//! How: a batch is added up in memory and written as one change for each counter, so that a stream that sends a thousand a second
//! costs as much as one that sends ten ([`counting`]). Once a day, and before events are erased, the tables are written down as the
//! reader's base ([`base`]).

mod asking;
mod base;
mod counting;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};
use sqlx::sqlite::SqliteConnection;
use tokio::sync::watch;

use crate::classify::BounceType;
use crate::clock::{Clock, Day, UnixMs, Zone};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::readers::bounces::type_of;
use crate::readers::tables::{TableReader, Tables, said_by};
use crate::spool::Spool;

pub use crate::readers::tables::Trouble;
pub use asking::{Asked, Counts};

/// The reader at work.
pub type Reader = TableReader<Counters>;

/// Statistics, to be asked. Cheap to clone.
#[derive(Clone)]
pub struct Statistics {
    reader: Arc<Reader>,
}

pub struct Counters {
    spool: Arc<Spool>,
    zone: Zone,
    clock: Clock,
    tags_max: u64,
    /// Where its base stands, and when it was written.
    based: watch::Sender<(u64, UnixMs)>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counted {
    Sent,
    Delivered,
    Cancelled,
    Opened,
    Clicked,
    Bounced(BounceType),
}

/// One event, as it counts.
pub struct Fact {
    server: u32,
    stream: Box<str>,
    tag: Box<str>,
    counts: SmallVec<[(Day, Counted, i64); 2]>,
}

impl Statistics {
    /// Blocks.
    pub fn open(spool: Arc<Spool>, data_dir: &Path, zone: Zone, clock: Clock) -> io::Result<Self> {
        let events = spool.events.clone();
        let counters = Counters::open(spool, zone, clock, limits::STATISTICS_TAGS)?;
        // Nothing is ever too old.
        let kept = Duration::from_millis(u64::MAX);
        let reader = TableReader::new(counters, &events, data_dir, kept, clock);
        Ok(Self {
            reader: Arc::new(reader),
        })
    }

    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// The zone of the tables that there are: for commands that lack the configuration.
    pub async fn zone_in(data_dir: &Path) -> Option<Zone> {
        let name = said_by(data_dir, Counters::NAME, "SELECT name FROM zone").await?;
        Zone::named(&name)
    }

    /// Counts all that the log tells, and returns: for whoever is about to erase from it while no node runs.
    pub async fn count_all(&self) -> Result<(), Trouble> {
        self.reader.read_all().await
    }

    /// Whose days these are.
    pub fn zone(&self) -> &Zone {
        &self.reader.tables().zone
    }
}

impl Tables for Counters {
    const NAME: &'static str = "statistics";
    const VERSION: i64 = 2;
    const SCHEMA: &'static str = include_str!("schema.sql");
    const FACTS: usize = limits::READER_BATCH;
    type Fact = Fact;

    /// Days of another zone are other days.
    fn variant(&self) -> u16 {
        let name = self.zone.name().bytes();
        name.fold(1u16, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()))
    }

    fn wants(&self, kind: EventKind) -> bool {
        use EventKind::*;
        matches!(
            kind,
            Accepted
                | Delivered
                | Bounced
                | Expired
                | Cancelled
                | BouncedLater
                | Complained
                | Opened
                | Clicked
        )
    }

    fn fact(&self, _: u64, event: &Event<'_>) -> Option<Fact> {
        let day = self.zone.day_of(event.at);
        // When it was accepted: whatever is taken back is taken from where it was added.
        let of_message = self.zone.day_of(event.message_id.unix_ms());
        let counts = match event.kind {
            EventKind::Accepted => smallvec![(of_message, Counted::Sent, 1)],
            EventKind::Delivered => smallvec![(day, Counted::Delivered, 1)],
            EventKind::Opened => smallvec![(day, Counted::Opened, 1)],
            EventKind::Clicked => smallvec![(day, Counted::Clicked, 1)],
            EventKind::Cancelled => {
                let mut counts = smallvec![(day, Counted::Cancelled, 1)];
                if event.attempts == 0 {
                    counts.push((of_message, Counted::Sent, -1));
                }
                counts
            }
            EventKind::Bounced
            | EventKind::Expired
            | EventKind::BouncedLater
            | EventKind::Complained => {
                let kind = type_of(event.kind, event.cause);
                let mut counts = smallvec![(day, Counted::Bounced(kind), 1)];
                if event.kind == EventKind::Bounced && kind == BounceType::SMTPApiError {
                    counts.push((of_message, Counted::Sent, -1));
                }
                counts
            }
            _ => return None,
        };
        Some(Fact {
            server: event.server_id,
            stream: event.stream.into(),
            tag: event.tag.into(),
            counts,
        })
    }

    async fn apply(
        &self,
        tables: &mut SqliteConnection,
        facts: Vec<Fact>,
    ) -> Result<(), sqlx::Error> {
        self.count(tables, facts).await
    }

    async fn expire(&self, _: &mut SqliteConnection, _: UnixMs) -> Result<(), sqlx::Error> {
        Ok(())
    }

    /// Nothing here names anybody. What is erased was counted, and is in the base from now on.
    async fn forget(
        &self,
        tables: &mut SqliteConnection,
        positions: &[u64],
    ) -> Result<(), sqlx::Error> {
        let (based, _) = *self.based.borrow();
        match positions.iter().any(|position| *position >= based) {
            true => self.write_base(tables).await.map_err(sqlx::Error::Io),
            false => Ok(()),
        }
    }

    async fn begin(&self, tables: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
        sqlx::query("INSERT INTO zone VALUES ($1)")
            .bind(self.zone.name())
            .execute(&mut *tables)
            .await?;
        self.read_base(tables).await
    }

    async fn keep_up(&self, tables: &mut SqliteConnection, position: u64) {
        let (based, written) = *self.based.borrow();
        let age = self.clock.unix_ms().saturating_sub(written);
        if position == based || age < limits::STATISTICS_BASE.as_millis() as u64 {
            return;
        }
        if let Err(error) = self.write_base(tables).await {
            tracing::error!(%error, "the base of the statistics cannot be written; events are kept until it can");
        }
    }

    fn base(&self) -> Option<u64> {
        Some(self.based.borrow().0)
    }
}

impl Counted {
    /// As the tables have it.
    fn code(self) -> i64 {
        match self {
            Self::Sent => -1,
            Self::Delivered => -2,
            Self::Cancelled => -3,
            Self::Opened => -4,
            Self::Clicked => -5,
            Self::Bounced(kind) => kind.code().into(),
        }
    }

    fn from_code(code: i64) -> Option<Self> {
        let ours = [
            Self::Sent,
            Self::Delivered,
            Self::Cancelled,
            Self::Opened,
            Self::Clicked,
        ];
        let bounces = BounceType::ALL.iter().map(|&kind| Self::Bounced(kind));
        ours.into_iter()
            .chain(bounces)
            .find(|counted| counted.code() == code)
    }
}
