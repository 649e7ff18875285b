//! Readers whose state is tables of SQLite: one file each, `DATA_DIR/readers/<name>.db`, which the log can make again.
//!
//! Promises: what an event makes and how far the log was read become durable together, so each event counts once however the
//! node ends; a file that is damaged, of another version, or ahead of the log is made again from the log; no event waits
//! for a reader, and none reads more than a batch ahead of what it has written. Does not know: what tables mean ([`Tables`]).
//!
//! How: a batch of records is read, and what is wanted of it made into rows, on a thread that may block; one transaction
//! writes the rows and the cursor. While there is a backlog it rests as long as it works. Written without a sync
//! of its own (`synchronous = NORMAL`): a power cut costs the last transactions, cursor included, and they are done again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use spool_format::kind;
use spool_format::layout::event::KIND;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection, SqlSafeStr};
use tokio::sync::{Mutex, watch};

use crate::clock::{Clock, UnixMs};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::metrics;
use crate::spool::Log;

/// What a reader makes of the event log.
pub trait Tables: Send + Sync + 'static {
    /// Of the reader and of its file.
    const NAME: &'static str;
    /// Another one makes the tables anew from the log.
    const VERSION: i64;
    const SCHEMA: &'static str;
    /// So many are written at once.
    const FACTS: usize = limits::READER_FACTS;
    /// What becomes of one event, without a look at the tables.
    type Fact: Send + 'static;

    /// Whether events of this kind matter: most do not.
    fn wants(&self, kind: EventKind) -> bool;

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

    /// Removes what rests on these events: they are erased.
    fn forget(
        &self,
        tables: &mut SqliteConnection,
        positions: &[u64],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// Why nothing can be said. It may be asked again.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the tables are not there yet")]
    NotReady,
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

/// A reader at work. Shared; dropping it stops nothing.
pub struct TableReader<T> {
    tables: T,
    log: Log,
    path: PathBuf,
    clock: Clock,
    /// How long its rows are kept: as long as events.
    kept: Duration,
    pool: ArcSwapOption<SqlitePool>,
    /// Held by whoever reads on, or forgets.
    turn: Mutex<Turn>,
    /// How far the log was read.
    read: watch::Sender<u64>,
}

#[derive(Default)]
struct Turn {
    /// How far the log was read, and how far the tables say so.
    read: u64,
    stored: u64,
    expired_at: UnixMs,
}

/// What was read at once.
struct Batch<F> {
    facts: Vec<F>,
    next: u64,
    /// There is more.
    is_full: bool,
}

impl<T: Tables> TableReader<T> {
    pub fn new(tables: T, log: &Log, data_dir: &Path, kept: Duration, clock: Clock) -> Self {
        Self {
            tables,
            log: log.clone(),
            path: data_dir.join(DIR).join(format!("{}.db", T::NAME)),
            clock,
            kept,
            pool: ArcSwapOption::empty(),
            turn: Mutex::default(),
            read: watch::Sender::new(0),
        }
    }

    pub fn tables(&self) -> &T {
        &self.tables
    }

    /// To ask the tables.
    pub fn pool(&self) -> Result<Arc<SqlitePool>, Trouble> {
        self.pool.load_full().ok_or(Trouble::NotReady)
    }

    /// Reads on for ever.
    /// # Cancel safety
    /// Dropping it costs what is under way, which is read again.
    pub async fn run(self: Arc<Self>) {
        let mut watermark = self.log.watch();
        loop {
            let began = self.clock.instant();
            match self.step().await {
                // Others have the disk and the processor for half of the time.
                Ok(true) => {
                    let worked = self.clock.instant().duration_since(began);
                    tokio::time::sleep(worked.min(limits::READER_REST_MAX)).await;
                }
                Ok(false) => {
                    // The log's end, or its close: then nothing comes any more.
                    let more = tokio::time::timeout(limits::READER_UPKEEP, watermark.changed());
                    if let Ok(Err(_)) = more.await {
                        return;
                    }
                }
                Err(error) => {
                    metrics::READER_FAILURES.add_to(T::NAME, 1);
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

    /// How far the log was read.
    pub fn position(&self) -> u64 {
        *self.read.borrow()
    }

    /// One batch; whether there is more.
    async fn step(self: &Arc<Self>) -> Result<bool, Trouble> {
        let mut turn = self.turn.lock().await;
        let pool = match self.pool.load_full() {
            Some(pool) => pool,
            None => self.open(&mut turn).await?,
        };
        match self.advance(&mut turn, &pool).await {
            Err(error) if is_damage(&error) => {
                tracing::error!(reader = T::NAME, %error, "what a reader keeps is damaged: it is made again from the event log");
                self.discard(&pool).await;
                Ok(true)
            }
            done => Ok(done?),
        }
    }

    async fn advance(
        self: &Arc<Self>,
        turn: &mut Turn,
        pool: &SqlitePool,
    ) -> Result<bool, sqlx::Error> {
        let (this, from) = (Arc::clone(self), turn.read);
        let batch = tokio::task::spawn_blocking(move || this.read_batch(from)).await;
        let batch = batch.map_err(|failed| sqlx::Error::Io(io::Error::other(failed)))?;
        let now = self.clock.unix_ms();
        let due = now >= turn.expired_at + limits::READER_UPKEEP.as_millis() as u64;
        let far = batch.next - turn.stored >= limits::READER_CURSOR;
        if !batch.facts.is_empty() || due || far {
            let mut all = pool.begin().await?;
            self.tables.apply(&mut all, batch.facts).await?;
            if due {
                let before = now.saturating_sub(self.kept.as_millis() as u64);
                self.tables.expire(&mut all, before).await?;
            }
            sqlx::query("UPDATE cursor SET position = $1")
                .bind(batch.next as i64)
                .execute(&mut *all)
                .await?;
            all.commit().await?;
            turn.stored = batch.next;
            if due {
                turn.expired_at = now;
            }
        }
        turn.read = batch.next;
        self.read.send_replace(batch.next);
        let lag = self.log.durable().saturating_sub(batch.next);
        metrics::READER_LAG.set_of(T::NAME, lag as f64);
        Ok(batch.is_full)
    }

    /// Blocks.
    fn read_batch(&self, from: u64) -> Batch<T::Fact> {
        let mut batch = Batch {
            facts: Vec::new(),
            next: from,
            is_full: false,
        };
        // All that is below will have been read, the log's own records too.
        let durable = self.log.durable();
        let mut records = 0;
        for item in self.log.records_from(from) {
            match item {
                Ok((record, next)) => {
                    if record.kind == kind::EVENT {
                        batch
                            .facts
                            .extend(self.fact(record.position, &record.payload));
                    }
                    batch.next = next;
                }
                // The place is passed over when something behind it is read.
                Err(error) => {
                    tracing::error!(reader = T::NAME, %error, "part of the event log cannot be read: what it said is missing");
                }
            }
            records += 1;
            if records >= limits::READER_BATCH || batch.facts.len() >= T::FACTS {
                batch.is_full = true;
                return batch;
            }
        }
        batch.next = batch.next.max(durable);
        batch
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

    /// Removes what rests on these events, which are erased or about to be: in a file and its journal nothing is left of it.
    pub async fn forget(&self, positions: &[u64]) -> Result<(), Trouble> {
        // Whatever was read before is in the tables by then.
        let _turn = self.turn.lock().await;
        let Some(pool) = self.pool.load_full() else {
            // They hold nothing, or are made again from a log that does not either.
            return Ok(());
        };
        let mut all = pool.begin().await?;
        self.tables.forget(&mut all, positions).await?;
        all.commit().await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&*pool)
            .await?;
        Ok(())
    }

    pub async fn close(&self) {
        let _turn = self.turn.lock().await;
        if let Some(pool) = self.pool.swap(None) {
            pool.close().await;
        }
    }

    /// Opens the file, or makes it anew where it cannot serve.
    async fn open(&self, turn: &mut Turn) -> Result<Arc<SqlitePool>, Trouble> {
        let io = |error| Trouble::Sql(sqlx::Error::Io(error));
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir).map_err(io)?;
        }
        let position = match self.find().await {
            Ok(Some(position)) if position <= self.log.durable() => position,
            found => {
                if let Err(error) = &found
                    && !is_damage(error)
                {
                    return Err(Trouble::Sql(
                        found.err().unwrap_or(sqlx::Error::WorkerCrashed),
                    ));
                }
                if self.path.exists() {
                    tracing::warn!(
                        reader = T::NAME,
                        "what a reader keeps is not of this log and version, or damaged: it is made again from the event log"
                    );
                }
                remove(&self.path).map_err(io)?;
                self.create().await?;
                0
            }
        };
        let options = self.options();
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(BUSY)
            .connect_with(options)
            .await?;
        let pool = Arc::new(pool);
        *turn = Turn {
            read: position.max(self.log.start()),
            stored: position,
            expired_at: 0,
        };
        self.pool.store(Some(Arc::clone(&pool)));
        Ok(pool)
    }

    /// How far it has read; `None`: it is not there, or of another version.
    async fn find(&self) -> Result<Option<u64>, sqlx::Error> {
        if !self.path.exists() {
            return Ok(None);
        }
        let mut file = SqliteConnection::connect_with(&self.options()).await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut file)
            .await?;
        if version != T::VERSION {
            return Ok(None);
        }
        let position: Option<i64> = sqlx::query_scalar("SELECT position FROM cursor")
            .fetch_optional(&mut file)
            .await?;
        file.close().await?;
        Ok(position.map(|position| position as u64))
    }

    async fn create(&self) -> Result<(), sqlx::Error> {
        let mut file =
            SqliteConnection::connect_with(&self.options().create_if_missing(true)).await?;
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600))?;
        }
        let mut all = file.begin().await?;
        sqlx::raw_sql(T::SCHEMA.into_sql_str())
            .execute(&mut *all)
            .await?;
        sqlx::raw_sql(
            "CREATE TABLE cursor (position INTEGER NOT NULL); INSERT INTO cursor VALUES (0)",
        )
        .execute(&mut *all)
        .await?;
        // A pragma takes no parameter.
        let version = format!("PRAGMA user_version = {}", T::VERSION);
        sqlx::raw_sql(sqlx::AssertSqlSafe(version))
            .execute(&mut *all)
            .await?;
        all.commit().await?;
        file.close().await
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            // What is deleted may have been erased for somebody's privacy.
            .pragma("secure_delete", "ON")
            .busy_timeout(BUSY)
    }

    async fn discard(&self, pool: &SqlitePool) {
        self.pool.store(None);
        pool.close().await;
        if let Err(error) = remove(&self.path) {
            tracing::error!(reader = T::NAME, %error, "a damaged file of a reader cannot be removed");
        }
    }
}

/// Removes what all readers keep in tables: they make it again. For whoever changes the log while no node runs.
pub fn discard_all(data_dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(data_dir.join(DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

/// Nothing that waiting would mend.
fn is_damage(error: &sqlx::Error) -> bool {
    match error {
        // SQLite's result codes: 1 a table that is not there, 11 and 26 a file that is none of its.
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<u32>().ok());
            matches!(code.map(|code| code & 0xff), Some(1 | 11 | 26))
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => true,
        _ => false,
    }
}

/// In the data directory.
const DIR: &str = "readers";
const BUSY: Duration = Duration::from_secs(5);
/// One writes; the others answer.
const CONNECTIONS_MAX: u32 = 4;
