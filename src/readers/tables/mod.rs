//! Readers whose state is tables of SQLite: one file each in `DATA_DIR/readers`, which the log, or base and log, can make again.
//!
//! Promises: what an event makes and how far the log was read become durable together, so each event counts once however the
//! node ends; a file that is damaged, of another version, or ahead of the log is made again; no event waits
//! for a reader, and none reads more than a batch ahead of what it has written. While tables are made again on somebody's order, the
//! old ones go on and answer until the new ones have caught up. Nobody who asks holds up the reader, nor, for long, another who
//! asks ([`Question`]). Does not know: what tables mean ([`Tables`]).
//!
//! How: a batch of records is read, and what is wanted of it made into rows, on a thread that may block; one transaction
//! writes the rows and the cursor. While there is a backlog it rests as long as it works, and while there is none it gathers what comes
//! for [`limits::READER_PACE`], so that a busy log costs ten transactions a second and not one for each of its commits.
//! Written without a sync of its own (`synchronous = NORMAL`): a power cut costs the last transactions, cursor included, and
//! they are done again.

mod batch;
mod file;
mod questions;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, Notify, watch};

use super::{NotRebuilt, Reader, Standing, State};
use crate::clock::{Clock, UnixMs};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::metrics;
use crate::spool::Log;

pub use file::discard_all;
pub(super) use file::said_by;
use file::{Files, Opened, remove, settle};
use questions::Questions;
pub use questions::{Question, Turns};

/// What a reader makes of the event log.
pub trait Tables: Send + Sync + 'static {
    /// Of the reader and of its files.
    const NAME: &'static str;
    /// Another one makes the tables anew from the log.
    const VERSION: i64;
    const SCHEMA: &'static str;
    /// So many are written at once.
    const FACTS: usize = limits::READER_FACTS;
    /// What becomes of one event, without a look at the tables.
    type Fact: Send + 'static;

    /// Of a setting that shapes the tables: another one makes them anew, as another version does.
    fn variant(&self) -> u16 {
        0
    }

    /// Whether events of this kind matter: most do not.
    fn wants(&self, kind: EventKind) -> bool;

    /// A batch begins: what was made of events before may never be written, or is for other tables.
    fn begin_batch(&self) {}

    /// May block.
    fn fact(&self, position: u64, event: &Event<'_>) -> Option<Self::Fact>;

    /// In the order of the log. Where a batch ends is chance, and must not show in the tables.
    fn apply(
        &self,
        tables: &mut SqliteConnection,
        facts: Vec<Self::Fact>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Removes what rests on events from before this time.
    fn expire(
        &self,
        tables: &mut SqliteConnection,
        before: UnixMs,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Removes what rests on these events: they are erased. Or sees to it that the tables can be made again without them.
    fn forget(
        &self,
        tables: &mut SqliteConnection,
        positions: &[u64],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Fills new tables with what is known from before the log; where in the log they go on.
    fn begin(
        &self,
        tables: &mut SqliteConnection,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send {
        let _ = tables;
        async { Ok(0) }
    }

    /// Called now and then, with the tables as they are at `position`. Reading does not wait for what fails here.
    fn keep_up(
        &self,
        tables: &mut SqliteConnection,
        position: u64,
    ) -> impl Future<Output = ()> + Send {
        let _ = (tables, position);
        async {}
    }

    /// Where its base stands: `None` for tables that the log alone makes.
    fn base(&self) -> Option<u64> {
        None
    }
}

/// Why nothing can be said. It may be asked again.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the tables are not there yet")]
    NotReady,
    #[error("too much is being looked up at once")]
    Busy,
    /// It was given up after [`limits::READER_QUESTION_TIME`].
    #[error("it takes too long")]
    TooLong,
    #[error(transparent)]
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::Busy,
            // SQLITE_INTERRUPT: only questions are.
            error if code_of(&error) == Some(9) => Self::TooLong,
            error => Self::Sql(error),
        }
    }
}

/// A reader at work. Shared; dropping it stops nothing.
pub struct TableReader<T> {
    tables: T,
    log: Log,
    files: Files,
    clock: Clock,
    /// How long its rows are kept: as long as events.
    kept: Duration,
    /// The tables that answer.
    opened: ArcSwapOption<Opened>,
    questions: Questions,
    /// Held by whoever reads on, or forgets.
    turn: Mutex<Turn>,
    /// How far the log was read.
    read: watch::Sender<u64>,
    seen: Lock<Seen>,
    /// There is something to do besides the log.
    ordered: Notify,
}

#[derive(Default)]
struct Turn {
    path: PathBuf,
    generation: i64,
    place: Place,
    kept_up_at: UnixMs,
    /// New tables under way.
    fresh: Option<Fresh>,
}

/// How far tables are.
#[derive(Clone, Copy, Default)]
struct Place {
    /// How far the log was read, and how far the tables say so.
    read: u64,
    stored: u64,
    /// When what they read last was written.
    at: UnixMs,
    looked_after: UnixMs,
}

struct Fresh {
    path: PathBuf,
    generation: i64,
    opened: Opened,
    place: Place,
    began: u64,
}

/// What others see.
#[derive(Default)]
struct Seen {
    place: Place,
    generation: i64,
    is_open: bool,
    /// Of new tables: where they began, and how far they are.
    fresh: Option<(u64, u64)>,
    wanted: bool,
    trouble: Option<String>,
}

impl<T: Tables> TableReader<T> {
    pub fn new(tables: T, log: &Log, data_dir: &Path, kept: Duration, clock: Clock) -> Self {
        let version = T::VERSION + (i64::from(tables.variant()) << 8);
        Self {
            tables,
            log: log.clone(),
            files: Files::new(data_dir, T::NAME, version, T::SCHEMA),
            clock,
            kept,
            opened: ArcSwapOption::empty(),
            questions: Questions::new(limits::READER_QUESTION_TIME),
            turn: Mutex::default(),
            read: watch::Sender::new(0),
            seen: Lock::default(),
            ordered: Notify::new(),
        }
    }

    pub fn tables(&self) -> &T {
        &self.tables
    }

    /// The connection that the reader writes with: for benches and tests. Who asks takes [`Self::ask`].
    pub fn pool(&self) -> Result<SqlitePool, Trouble> {
        let opened = self.opened.load();
        let opened = opened.as_ref().ok_or(Trouble::NotReady)?;
        Ok(opened.writer.clone())
    }

    /// To ask the tables, on behalf of a server.
    pub async fn ask(&self, server: u32) -> Result<Question, Trouble> {
        loop {
            let opened = self.opened.load_full().ok_or(Trouble::NotReady)?;
            let asked = self.questions.ask(server, &opened.askers, self.clock);
            match asked.await {
                // New tables have taken their place meanwhile.
                Err(Trouble::Sql(sqlx::Error::PoolClosed)) if !self.answers(&opened) => {}
                asked => return asked,
            }
        }
    }

    fn answers(&self, opened: &Arc<Opened>) -> bool {
        let now = self.opened.load();
        now.as_ref().is_some_and(|now| Arc::ptr_eq(now, opened))
    }

    /// Reads on for ever.
    /// # Cancel safety
    /// Dropping it costs what is under way, which is read again.
    pub async fn run(self: Arc<Self>) {
        let mut watermark = self.log.watch();
        loop {
            let began = self.clock.instant();
            let result = self.step().await;
            let worked = self.clock.instant().duration_since(began);
            self.seen().trouble = result.as_ref().err().map(ToString::to_string);
            match result {
                // Others have the disk and the processor for half of the time.
                Ok(true) => tokio::time::sleep(worked.min(limits::READER_REST_MAX)).await,
                Ok(false) => {
                    tokio::select! {
                        // The log's end, or its close: then nothing comes any more.
                        more = watermark.changed() => if more.is_err() { return },
                        () = self.ordered.notified() => {}
                        () = tokio::time::sleep(limits::READER_UPKEEP) => {}
                    }
                    let passed = self.clock.instant().duration_since(began);
                    tokio::time::sleep(limits::READER_PACE.saturating_sub(passed)).await;
                }
                Err(error) => {
                    metrics::READER_FAILURES.add_to(T::NAME, 1);
                    let place = self.seen().place;
                    self.tell_lag(place);
                    tracing::error!(reader = T::NAME, %error, "what a reader keeps cannot be written; it is tried again");
                    tokio::time::sleep(limits::READER_RETRY).await;
                }
            }
        }
    }

    /// Resolves when everything below this position was read.
    pub async fn until(&self, position: u64) {
        // The sender lives as long as we do.
        let _ = self
            .read
            .subscribe()
            .wait_for(|read| *read >= position)
            .await;
    }

    /// Reads on until there is no more, and returns: for whoever has the log to himself.
    pub async fn read_all(self: &Arc<Self>) -> Result<(), Trouble> {
        while self.step().await? {}
        Ok(())
    }

    /// How far the log was read.
    pub fn position(&self) -> u64 {
        *self.read.borrow()
    }

    /// One batch, of new tables too where they are made; whether there is more.
    async fn step(self: &Arc<Self>) -> Result<bool, Trouble> {
        let mut turn = self.turn.lock().await;
        let opened = match self.opened.load_full() {
            Some(opened) => opened,
            None => self.open(&mut turn).await?,
        };
        let more = match self.advance(&mut turn.place, &opened.writer).await {
            Err(error) if is_damage(&error) => {
                tracing::error!(reader = T::NAME, %error, "what a reader keeps is damaged: it is made again from the event log");
                if let Some(fresh) = turn.fresh.take() {
                    self.seen().fresh = None;
                    self.discard_file(&fresh.path, &fresh.opened).await;
                }
                self.discard(&turn.path, &opened).await;
                return Ok(true);
            }
            done => done?,
        };
        let place = turn.place;
        self.read.send_replace(place.read);
        let wanted = {
            let mut seen = self.seen();
            seen.place = place;
            seen.wanted
        };
        self.tell_lag(place);
        let now = self.clock.unix_ms();
        if now >= turn.kept_up_at + limits::READER_UPKEEP.as_millis() as u64 {
            let mut tables = opened.writer.acquire().await?;
            self.tables.keep_up(&mut tables, place.read).await;
            turn.kept_up_at = now;
        }
        if wanted
            && turn.fresh.is_none()
            && let Err(error) = self.begin_anew(&mut turn).await
        {
            self.give_up_anew(&mut turn, &error).await;
        }
        let rebuilding = turn.fresh.is_some();
        if rebuilding && let Err(error) = self.advance_anew(&mut turn, &opened).await {
            self.give_up_anew(&mut turn, &error).await;
        }
        Ok(more || rebuilding)
    }

    /// New tables that cannot be made do not hold up those that answer: whoever ordered them orders them again.
    async fn give_up_anew(&self, turn: &mut Turn, error: &Trouble) {
        metrics::READER_FAILURES.add_to(T::NAME, 1);
        tracing::error!(reader = T::NAME, %error, "what a reader keeps cannot be made again; the tables that there are stay");
        if let Some(fresh) = turn.fresh.take() {
            self.discard_file(&fresh.path, &fresh.opened).await;
        }
        let mut seen = self.seen();
        (seen.fresh, seen.wanted) = (None, false);
    }

    fn tell_lag(&self, place: Place) {
        let lag = self.log.durable().saturating_sub(place.read);
        super::tell_lag(T::NAME, lag, place.at, self.clock.unix_ms());
    }

    /// Makes room for new tables.
    async fn begin_anew(&self, turn: &mut Turn) -> Result<(), Trouble> {
        let (path, generation) = (self.files.other_than(&turn.path), turn.generation + 1);
        let position = self.make(&path, generation, false).await?;
        let place = self.place_at(position);
        turn.fresh = Some(Fresh {
            opened: self.files.open(&path).await?,
            path,
            generation,
            began: place.read,
            place,
        });
        tracing::info!(
            reader = T::NAME,
            from = place.read,
            "what a reader keeps is made again"
        );
        Ok(())
    }

    /// One batch of the new tables; puts them in the place of the others when they have caught up.
    async fn advance_anew(self: &Arc<Self>, turn: &mut Turn, old: &Opened) -> Result<(), Trouble> {
        let Some(fresh) = &mut turn.fresh else {
            return Ok(());
        };
        self.advance(&mut fresh.place, &fresh.opened.writer).await?;
        self.seen().fresh = Some((fresh.began, fresh.place.read));
        if fresh.place.read < turn.place.read {
            return Ok(());
        }
        let mut file = fresh.opened.writer.acquire().await?;
        self.files.finish(&mut file).await?;
        drop(file);
        // The others go when these are safe.
        settle(&fresh.opened.writer).await?;
        let Some(fresh) = turn.fresh.take() else {
            return Ok(());
        };
        self.opened.store(Some(Arc::new(fresh.opened)));
        let path = std::mem::replace(&mut turn.path, fresh.path);
        (turn.generation, turn.place) = (fresh.generation, fresh.place);
        {
            let mut seen = self.seen();
            seen.place = turn.place;
            seen.generation = turn.generation;
            (seen.fresh, seen.wanted) = (None, false);
        }
        tracing::info!(reader = T::NAME, "what a reader keeps has been made again");
        self.discard_file(&path, old).await;
        Ok(())
    }

    /// Makes a file and what it holds at first; where it goes on in the log.
    async fn make(&self, path: &Path, generation: i64, whole: bool) -> Result<u64, sqlx::Error> {
        let mut file = self.files.create(path).await?;
        let mut all = file.begin().await?;
        self.files.lay_out(&mut all, generation).await?;
        let position = self.tables.begin(&mut all).await?;
        store(&mut all, position).await?;
        if whole {
            self.files.finish(&mut all).await?;
        }
        all.commit().await?;
        file.close().await?;
        Ok(position)
    }

    fn place_at(&self, position: u64) -> Place {
        Place {
            read: position.max(self.log.start()),
            stored: position,
            at: 0,
            looked_after: 0,
        }
    }

    /// Removes what rests on these events, which are erased or about to be: in a file and its journal nothing is left of it.
    /// Where there is a base, they are in it by then.
    pub async fn forget(&self, positions: &[u64]) -> Result<(), Trouble> {
        let has_base = self.tables.base().is_some();
        if has_base && let Some(last) = positions.iter().max() {
            self.until(last + 1).await;
        }
        // Whatever was read before is in the tables by then.
        let mut turn = self.turn.lock().await;
        if has_base && let Some(fresh) = turn.fresh.take() {
            // They begin again, from the new base.
            self.seen().fresh = None;
            self.discard_file(&fresh.path, &fresh.opened).await;
        }
        // What is not there holds nothing, or is made again from a log that does not either.
        let live = self.opened.load_full();
        let fresh = turn.fresh.as_ref().map(|fresh| &fresh.opened);
        for opened in live.as_deref().into_iter().chain(fresh) {
            let mut all = opened.writer.begin().await?;
            self.tables.forget(&mut all, positions).await?;
            all.commit().await?;
            settle(&opened.writer).await?;
        }
        Ok(())
    }

    pub async fn close(&self) {
        let mut turn = self.turn.lock().await;
        if let Some(fresh) = turn.fresh.take() {
            fresh.opened.close().await;
        }
        if let Some(opened) = self.opened.swap(None) {
            opened.close().await;
        }
    }

    /// Opens the file that counts, or makes it.
    async fn open(&self, turn: &mut Turn) -> Result<Arc<Opened>, Trouble> {
        // What the log does not tell any more is in the base.
        let start = match self.tables.base() {
            Some(base) if base > self.log.start() => self.log.start(),
            _ => 0,
        };
        let found = self.files.find(start..=self.log.durable()).await?;
        let (path, position, generation) = match found {
            Some(found) => (found.path, found.position, found.generation),
            None => {
                let [path, _] = self.files.paths();
                let position = self.make(&path, 1, true).await?;
                (path, position, 1)
            }
        };
        let opened = Arc::new(self.files.open(&path).await?);
        *turn = Turn {
            path,
            generation,
            place: self.place_at(position),
            kept_up_at: 0,
            fresh: None,
        };
        self.opened.store(Some(Arc::clone(&opened)));
        let mut seen = self.seen();
        (seen.is_open, seen.generation, seen.place) = (true, generation, turn.place);
        drop(seen);
        Ok(opened)
    }

    async fn discard(&self, path: &Path, opened: &Opened) {
        self.opened.store(None);
        self.seen().is_open = false;
        self.discard_file(path, opened).await;
    }

    async fn discard_file(&self, path: &Path, opened: &Opened) {
        opened.close().await;
        if let Err(error) = remove(path) {
            tracing::error!(reader = T::NAME, %error, "a file of a reader cannot be removed");
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Tables> Reader for TableReader<T> {
    fn standing(&self) -> Standing {
        let bytes = self.files.size();
        let durable = self.log.durable();
        let seen = self.seen();
        let state = match (seen.is_open, seen.fresh, seen.wanted) {
            (false, ..) => State::Opening,
            (true, Some((from, position)), _) => State::Rebuilding { from, position },
            (true, None, true) => State::Rebuilding {
                from: 0,
                position: 0,
            },
            (true, None, false) => State::Following,
        };
        Standing {
            name: T::NAME,
            state,
            position: seen.place.read,
            lag_bytes: durable.saturating_sub(seen.place.read),
            at: Some(seen.place.at).filter(|at| *at > 0),
            bytes: Some(bytes),
            entries: None,
            base: self.tables.base(),
            generation: seen.generation as u64,
            trouble: seen.trouble.clone(),
        }
    }

    fn rebuild(&self) -> Result<(), NotRebuilt> {
        {
            let mut seen = self.seen();
            if seen.wanted {
                return Err(NotRebuilt::UnderWay);
            }
            seen.wanted = true;
        }
        self.ordered.notify_one();
        Ok(())
    }
}

async fn store(tables: &mut SqliteConnection, position: u64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE cursor SET position = $1")
        .bind(position as i64)
        .execute(tables)
        .await?;
    Ok(())
}

/// Nothing that waiting would mend.
fn is_damage(error: &sqlx::Error) -> bool {
    match error {
        // 1: a table that is not there; 11 and 26: a file that is none of SQLite's.
        sqlx::Error::Database(_) => matches!(code_of(error), Some(1 | 11 | 26)),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => true,
        _ => false,
    }
}

/// SQLite's result code, without what it says in detail.
fn code_of(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(code & 0xff)
}
