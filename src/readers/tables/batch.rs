//! From records of the log to rows: one batch, one transaction.

use bytes::Bytes;
use spool_format::kind;
use spool_format::layout::event::KIND;

use super::*;
use crate::readers::written_at;
use crate::spool::ReadError;

/// What was read at once.
struct Batch<F> {
    facts: Vec<F>,
    next: u64,
    /// When the last event of it was written; 0: there was none.
    at: UnixMs,
    /// There is more.
    is_full: bool,
}

impl<T: Tables> TableReader<T> {
    /// Reads on and writes down what it makes; whether there is more.
    pub(super) async fn advance(
        self: &Arc<Self>,
        place: &mut Place,
        pool: &SqlitePool,
    ) -> Result<bool, sqlx::Error> {
        let (this, from) = (Arc::clone(self), place.read);
        let batch = tokio::task::spawn_blocking(move || this.read_batch(from)).await;
        let batch = batch.map_err(|failed| sqlx::Error::Io(io::Error::other(failed)))?;
        let batch = batch.map_err(|unread| sqlx::Error::Io(io::Error::other(unread)))?;
        let now = self.clock.unix_ms();
        let due = now >= place.looked_after + limits::READER_UPKEEP.as_millis() as u64;
        let far = batch.next - place.stored >= limits::READER_CURSOR;
        if !batch.facts.is_empty() || due || far {
            let mut all = pool.begin().await?;
            if !batch.facts.is_empty() {
                self.tables.apply(&mut all, batch.facts).await?;
            }
            if due {
                let before = now.saturating_sub(self.kept.as_millis() as u64);
                self.tables.expire(&mut all, before).await?;
            }
            store(&mut all, batch.next).await?;
            all.commit().await?;
            place.stored = batch.next;
        }
        place.read = batch.next;
        place.at = batch.at.max(place.at);
        if due {
            place.looked_after = now;
        }
        Ok(batch.is_full)
    }

    /// `Err`: all of it is read again later. Blocks.
    fn read_batch(&self, from: u64) -> Result<Batch<T::Fact>, ReadError> {
        let mut batch = Batch {
            facts: Vec::new(),
            next: from,
            at: 0,
            is_full: false,
        };
        // All that is below will have been read, the log's own records too.
        let durable = self.log.durable();
        self.tables.begin_batch();
        let mut records = 0;
        for item in self.log.records_from(from) {
            match item {
                Ok((record, next)) => {
                    if record.kind == kind::EVENT {
                        batch.at = written_at(&record.payload).unwrap_or(batch.at);
                        batch
                            .facts
                            .extend(self.fact(record.position, &record.payload));
                    }
                    batch.next = next;
                }
                Err(error) if error.may_pass() => return Err(error),
                // The place is passed over when something behind it is read.
                Err(error) => {
                    tracing::error!(reader = T::NAME, %error, "part of the event log cannot be read: what it said is missing");
                }
            }
            records += 1;
            if records >= limits::READER_BATCH || batch.facts.len() >= T::FACTS {
                batch.is_full = true;
                return Ok(batch);
            }
        }
        batch.next = batch.next.max(durable);
        Ok(batch)
    }

    fn fact(&self, position: u64, payload: &Bytes) -> Option<T::Fact> {
        // Nearly all events are of other kinds: they cost a look at two octets.
        let code = payload.get(KIND..KIND + 2)?.try_into().ok()?;
        let kind = EventKind::from_code(u16::from_le_bytes(code))?;
        if !self.tables.wants(kind) {
            return None;
        }
        let event = Event::decode(payload).ok()??;
        self.tables.fact(position, &event)
    }
}
