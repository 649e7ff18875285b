//! Settings that people make, in SQL: `DATA_DIR/account.db`.
//!
//! Promises: an id is never given twice; what a method reports as done is on disk; a token can be read back only with the
//! node key. Deliberately does not know who asks, nor the rules of what may be set, and is never on the way of a message:
//! that reads the snapshot.
//!
//! This folder holds all SQL. Statements are plain: numbered parameters, RETURNING and ON CONFLICT, which PostgreSQL has
//! too; what only SQLite knows is in the migrations and in this file (opening, probing, backing up).

mod identities;
mod servers;
mod tokens;
mod webhooks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::secret::{KeyError, NodeKey};
use crate::clock::UnixMs;
use crate::sign::KeyFault;

pub use identities::{ActiveKey, DomainRow, Keyed, LookRow, SignatureRow};
pub use servers::{ServerRow, StreamRow};
pub use tokens::{NewTokenRow, TokenRow};
pub use webhooks::WebhookRow;

/// The account store. One process has it open: the owner of the data directory's lock.
pub struct Store {
    pool: SqlitePool,
    key: Arc<NodeKey>,
    /// Than this opening.
    key_is_older: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing can be done with the store as it is: damaged, not writable, made by a newer version.
    #[error("the account store {path}: {message}")]
    Unusable { path: PathBuf, message: String },
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The configuration file contradicts what is there; the sentence says what.
    #[error("{0}")]
    Conflict(String),
    #[error("a DKIM key cannot be made: {0}")]
    NoKey(KeyFault),
    /// A DKIM key that the configuration file names cannot be used; the sentence says why.
    #[error("{0}")]
    KeyFile(String),
    #[error("the account store {}: {source}", trouble(source))]
    Sql {
        #[from]
        source: sqlx::Error,
    },
}

impl Store {
    /// Opens the store, creating it and the node key at first, and brings it up to date.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        let existed = path.exists();
        let unusable = |message: String| StoreError::Unusable {
            path: path.clone(),
            message,
        };
        let (key, key_is_older) = match NodeKey::read(data_dir)? {
            Some(key) => (key, true),
            None if existed => return Err(unusable(KEY_LOST.into())),
            None => (NodeKey::create(data_dir)?, false),
        };
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was reported as done survives a power cut; settings change seldom.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .connect_with(options)
            .await
            .map_err(|e| unusable(format!("cannot be opened: {e}; {RESTORE}")))?;
        protect(&path).map_err(|e| unusable(format!("cannot be made private: {e}")))?;
        migrations()
            .run(&pool)
            .await
            .map_err(|e| unusable(format!("cannot be brought up to date: {e}; {RESTORE}")))?;
        Ok(Self {
            pool,
            key: Arc::new(key),
            key_is_older,
        })
    }

    /// Decides once where ids begin. In a store that was made in the place of one that is gone, which a node key from before tells,
    /// they begin beyond all that the other has given, since mail and events carry those: at the seconds since 2025, for nobody
    /// makes one in each of them. `Some`: that happened now.
    pub async fn settle_ids(&self, now: UnixMs) -> Result<Option<i64>, StoreError> {
        // One transaction: a store that a crash leaves undecided is decided by the next start.
        let mut all = self.pool.begin().await?;
        let decided =
            sqlx::query("INSERT INTO done (what, unix_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind("ids begin")
                .bind(ms(now))
                .execute(&mut *all)
                .await?;
        let given: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence")
            .fetch_one(&mut *all)
            .await?;
        let first = (ms(now) / 1000 - SECONDS_TO_2025).clamp(1, i64::from(u32::MAX / 2));
        let is_replaced = decided.rows_affected() == 1 && self.key_is_older && given == 0;
        if is_replaced {
            for table in [
                "server",
                "credential",
                "domain",
                "dkim_key",
                "signature",
                "webhook",
            ] {
                sqlx::query("DELETE FROM sqlite_sequence WHERE name = $1")
                    .bind(table)
                    .execute(&mut *all)
                    .await?;
                sqlx::query("INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)")
                    .bind(table)
                    .bind(first)
                    .execute(&mut *all)
                    .await?;
            }
        }
        all.commit().await?;
        Ok(is_replaced.then_some(first))
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// For tests that break it.
    #[cfg(test)]
    pub(super) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub fn key(&self) -> &Arc<NodeKey> {
        &self.key
    }

    /// Notes that something has been done; `false` when it had been before.
    pub async fn first_time(&self, what: &str, now: UnixMs) -> Result<bool, StoreError> {
        let done =
            sqlx::query("INSERT INTO done (what, unix_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(what)
                .bind(ms(now))
                .execute(&self.pool)
                .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether the store can be read and written now.
    pub async fn probe(&self, now: UnixMs) -> Result<(), StoreError> {
        let said: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&self.pool)
            .await?;
        if said != "ok" {
            return Err(StoreError::Unusable {
                path: FILE.into(),
                message: format!("is damaged ({said}); {RESTORE}"),
            });
        }
        sqlx::query("INSERT INTO done (what, unix_ms) VALUES ('probe', $1) ON CONFLICT (what) DO UPDATE SET unix_ms = excluded.unix_ms")
            .bind(ms(now))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Writes a whole copy, as of one moment, while the store is in use. The file must not exist.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let unusable = |message: String| StoreError::Unusable {
            path: to.into(),
            message,
        };
        let text = to
            .to_str()
            .ok_or_else(|| unusable("the path is not UTF-8".into()))?;
        if to.exists() {
            return Err(unusable("exists already; name a new file".into()));
        }
        sqlx::query("VACUUM INTO $1")
            .bind(text)
            .execute(&self.pool)
            .await
            .map_err(|e| unusable(format!("the backup cannot be written: {e}")))?;
        let durable = || -> std::io::Result<()> {
            protect(to)?;
            std::fs::File::open(to)?.sync_all()?;
            match to.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                Some(dir) => std::fs::File::open(dir)?.sync_all(),
                None => std::fs::File::open(".")?.sync_all(),
            }
        };
        durable().map_err(|e| unusable(format!("the backup cannot be synced: {e}")))
    }
}

/// What is wrong, in a word or two before the library's own.
fn trouble(error: &sqlx::Error) -> &'static str {
    let sqlx::Error::Database(error) = error else {
        return "does not answer";
    };
    // SQLite's result codes: the low octet is the kind of failure.
    let code = error.code().and_then(|code| code.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        Some(5 | 6) => "is locked by another process",
        Some(8) => "is not writable",
        Some(10) => "cannot be read or written",
        Some(11 | 26) => "is damaged; restore account.db from a backup (posthaste account backup)",
        Some(13) => "has no room: the disk is full",
        _ => "refuses",
    }
}

fn is_taken(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.is_unique_violation())
}

/// The schema keeps ids within u32.
fn id_of(id: i64) -> u32 {
    id as u32
}

fn ms(time: UnixMs) -> i64 {
    time as i64
}

fn time_of(ms: i64) -> UnixMs {
    ms.max(0) as u64
}

/// A document of settings that serde wrote; one that cannot be read is damage.
fn document<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| sqlx::Error::Decode(Box::new(e)).into())
}

fn text_of<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| sqlx::Error::Encode(Box::new(e)).into())
}

/// In the order of their numbers; one that was released is never changed.
fn migrations() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        let sql = sql.into_sql_str();
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql,
            false,
        )
    };
    Migrator::with_migrations(vec![
        migration(1, "servers", include_str!("migrations/0001_servers.sql")),
        migration(2, "settings", include_str!("migrations/0002_settings.sql")),
        migration(
            3,
            "identities",
            include_str!("migrations/0003_identities.sql"),
        ),
        migration(4, "dkim", include_str!("migrations/0004_dkim.sql")),
        migration(5, "webhooks", include_str!("migrations/0005_webhooks.sql")),
    ])
}

/// Mode 0600 for the database and its companions, whatever the umask.
fn protect(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

/// In the data directory.
pub const FILE: &str = "account.db";
const KEY_LOST: &str = "exists but node.key beside it does not; its tokens cannot be read without: restore node.key, or move both away to begin anew";
/// To start without it would be worse than not to start: known senders would be refused for good (535), not for now.
/// From 1970.
const SECONDS_TO_2025: i64 = 1_735_689_600;
const RESTORE: &str = "if that does not pass, restore account.db from a backup as `posthaste account backup --help` says";
const BUSY: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: u32 = 2;

#[cfg(test)]
mod tests;
