//! `DATA_DIR/webhooks.db`: what hooks have been sent, so that nothing is forgotten and little is sent twice.
//!
//! Promises: a hook's place and its retries become durable together. Unlike the tables of other readers this cannot be made
//! again from the log, which does not know what a remote host has taken: when it is lost, hooks begin
//! [`limits::WEBHOOK_LOST`] back, and what they had taken since comes a second time, with the same ids.
//!
//! Written without a sync of its own: a power cut costs the last transactions, place and retries alike, and those events are
//! sent again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};

use super::hours::{self, Hours};
use super::payload::Trigger;
use super::schedule::{Changes, Class, Health, Replay, Retry};
use crate::clock::UnixMs;
use crate::limits;

pub(super) struct Ledger {
    pool: SqlitePool,
}

/// What is known of a hook.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) cursor: u64,
    /// The log's end when it began; 0 if that was not kept.
    pub(super) began: u64,
    pub(super) health: Health,
    pub(super) replay: Option<Replay>,
    pub(super) retries: Vec<(u64, Retry)>,
    pub(super) hours: Hours,
}

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "a newer posthaste wrote it (version {0}): start that one again, or move the file away, and webhooks are sent the last day again"
    )]
    Newer(i64),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Ledger {
    /// Opens it; what is damaged is put aside.
    pub(super) async fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE);
        match Self::connect(&path).await {
            Err(OpenError::Database(error)) if path.exists() && !may_pass(&error) => {
                let aside = free_name(&path);
                tracing::error!(%error, aside = %aside.display(), "webhooks.db cannot be used and is put aside: hooks are sent the last day again");
                put_aside(&path, &aside).map_err(sqlx::Error::from)?;
                Self::connect(&path).await
            }
            opened => opened,
        }
    }

    async fn connect(path: &Path) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY)
            .connect_with(options)
            .await?;
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(path, mode).map_err(sqlx::Error::from)?;
        }
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&pool)
            .await?;
        if version > VERSION {
            pool.close().await;
            return Err(OpenError::Newer(version));
        }
        if version > 0 {
            let said: String = sqlx::query_scalar("PRAGMA quick_check(1)")
                .fetch_one(&pool)
                .await?;
            if said != "ok" {
                pool.close().await;
                return Err(sqlx::Error::Protocol(said).into());
            }
        }
        let mut all = pool.begin().await?;
        let steps: &[&'static str] = match version {
            0 => &[include_str!("schema.sql"), AS_VERSION],
            1 => &[FROM_VERSION_1, FROM_VERSION_2, AS_VERSION],
            2 => &[FROM_VERSION_2, AS_VERSION],
            _ => &[],
        };
        for step in steps {
            sqlx::raw_sql(*step).execute(&mut *all).await?;
        }
        // Not all files of versions 1 and 2 have it.
        sqlx::raw_sql(include_str!("hours.sql"))
            .execute(&mut *all)
            .await?;
        all.commit().await?;
        Ok(Self { pool })
    }

    /// Of one hook that is at work again, if it is known. What was kept of another one of this key is forgotten.
    pub(super) async fn take_up(
        &self,
        key: &str,
        created: Option<UnixMs>,
    ) -> Result<Option<Kept>, sqlx::Error> {
        // A webhook's id is never another's. A hook URL of a server has its key for ever: one with a time is not the one without.
        let noted = created.filter(|_| !key.starts_with('s'));
        let hook = sqlx::query("UPDATE hook SET gone_unix_ms = NULL, created_unix_ms = coalesce(created_unix_ms, $2) WHERE key = $1 RETURNING *")
            .bind(key)
            .bind(noted.map(number))
            .fetch_optional(&self.pool)
            .await?;
        let Some(hook) = hook else {
            return Ok(None);
        };
        let of = hook.try_get::<Option<i64>, _>("created_unix_ms")?;
        if created.is_some_and(|created| of != Some(number(created))) {
            self.forget(key).await?;
            return Ok(None);
        }
        let retries = sqlx::query("SELECT * FROM retry WHERE hook = $1")
            .bind(key)
            .fetch_all(&self.pool)
            .await?;
        let mut kept = kept(&hook)?;
        for row in &retries {
            kept.retries.push(retry(row)?);
        }
        let hours = sqlx::query("SELECT * FROM hour WHERE hook = $1")
            .bind(key)
            .fetch_all(&self.pool)
            .await?;
        let hours: Result<Vec<_>, sqlx::Error> = hours.iter().map(hour).collect();
        kept.hours = Hours::new(hours?.into_iter().flatten());
        Ok(Some(kept))
    }

    /// A new hook, when the log ends at `end`.
    pub(super) async fn begin(
        &self,
        key: &str,
        created: Option<UnixMs>,
        end: u64,
        changes: &Changes,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO hook (key, cursor, created_unix_ms, began) VALUES ($1, $2, $3, $4)",
        )
        .bind(key)
        .bind(number(changes.cursor))
        .bind(created.map(number))
        .bind(number(end))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Writes what has changed of a hook.
    pub(super) async fn write(
        &self,
        key: &str,
        changes: &Changes,
        hours: &[hours::Kept],
    ) -> Result<(), sqlx::Error> {
        let mut all = self.pool.begin().await?;
        let (health, replay) = (&changes.health, changes.replay);
        let stopped = health.stopped.as_ref();
        sqlx::query(WRITE)
            .bind(key)
            .bind(number(changes.cursor))
            .bind(health.succeeded.map(number))
            .bind(health.failed.map(number))
            .bind(&health.failure)
            .bind(health.failing_since.map(number))
            .bind(stopped.map(|(at, _)| number(*at)))
            .bind(stopped.map_or("", |(_, why)| why))
            .bind(replay.map(|replay| number(replay.next)))
            .bind(replay.map(|replay| number(replay.until)))
            .bind(replay.map(|replay| number(replay.from)))
            .bind(replay.map(|replay| number(replay.to)))
            .execute(&mut *all)
            .await?;
        for (position, retry) in &changes.retries {
            match retry {
                Some(retry) => sqlx::query("INSERT OR REPLACE INTO retry (hook, position, class, attempts, due_unix_ms) VALUES ($1, $2, $3, $4, $5)")
                    .bind(key)
                    .bind(number(*position))
                    .bind(retry.class.code())
                    .bind(retry.attempts)
                    .bind(number(retry.due)),
                None => sqlx::query("DELETE FROM retry WHERE hook = $1 AND position = $2")
                    .bind(key)
                    .bind(number(*position)),
            }
            .execute(&mut *all)
            .await?;
        }
        for ((hour, trigger), counts) in hours {
            let counts =
                serde_json::to_string(counts).map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
            sqlx::query(
                "INSERT OR REPLACE INTO hour (hook, hour, trigger, counts) VALUES ($1, $2, $3, $4)",
            )
            .bind(key)
            .bind(number(*hour))
            .bind(trigger.as_str())
            .bind(counts)
            .execute(&mut *all)
            .await?;
        }
        if let Some(((hour, _), _)) = hours.last() {
            sqlx::query("DELETE FROM hour WHERE hook = $1 AND hour < $2")
                .bind(key)
                .bind(number(hour.saturating_sub(24)))
                .execute(&mut *all)
                .await?;
        }
        all.commit().await
    }

    /// A hook that is no more.
    pub(super) async fn forget(&self, key: &str) -> Result<(), sqlx::Error> {
        let mut all = self.pool.begin().await?;
        for statement in [
            "DELETE FROM hour WHERE hook = $1",
            "DELETE FROM retry WHERE hook = $1",
            "DELETE FROM hook WHERE key = $1",
        ] {
            sqlx::query(statement).bind(key).execute(&mut *all).await?;
        }
        all.commit().await
    }

    /// Hooks that are not `wanted`: since when they are gone is noted, and what is gone for long is forgotten.
    pub(super) async fn sweep(
        &self,
        wanted: impl Fn(&str) -> bool,
        now: UnixMs,
    ) -> Result<(), sqlx::Error> {
        let rows = sqlx::query("SELECT key, gone_unix_ms FROM hook")
            .fetch_all(&self.pool)
            .await?;
        let kept = limits::WEBHOOK_KEPT.as_millis() as u64;
        for row in &rows {
            let (key, gone): (String, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
            match gone {
                _ if wanted(&key) => {}
                Some(gone) if now > gone as u64 + kept => self.forget(&key).await?,
                Some(_) => {}
                None => {
                    sqlx::query("UPDATE hook SET gone_unix_ms = $2 WHERE key = $1")
                        .bind(&key)
                        .bind(number(now))
                        .execute(&self.pool)
                        .await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

fn kept(row: &SqliteRow) -> Result<Kept, sqlx::Error> {
    let time = |column| -> Result<Option<UnixMs>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(|ms| ms as u64))
    };
    let stopped = time("stopped_unix_ms")?;
    let replay = match (time("replay_next")?, time("replay_until")?) {
        (Some(next), Some(until)) => Some(Replay {
            next,
            until,
            from: time("replay_from_unix_ms")?.unwrap_or(0),
            to: time("replay_to_unix_ms")?.unwrap_or(0),
        }),
        _ => None,
    };
    Ok(Kept {
        cursor: row.try_get::<i64, _>("cursor")? as u64,
        began: row.try_get::<Option<i64>, _>("began")?.unwrap_or(0) as u64,
        health: Health {
            succeeded: time("succeeded_unix_ms")?,
            failed: time("failed_unix_ms")?,
            failure: row.try_get("failure")?,
            failing_since: time("failing_since_unix_ms")?,
            stopped: match stopped {
                Some(at) => Some((at, row.try_get("stopped_why")?)),
                None => None,
            },
        },
        replay,
        retries: Vec::new(),
        hours: Hours::default(),
    })
}

fn retry(row: &SqliteRow) -> Result<(u64, Retry), sqlx::Error> {
    let retry = Retry {
        class: Class::from_code(row.try_get("class")?),
        attempts: row.try_get("attempts")?,
        due: row.try_get::<i64, _>("due_unix_ms")? as u64,
    };
    Ok((row.try_get::<i64, _>("position")? as u64, retry))
}

/// `None`: of a later version's trigger.
fn hour(row: &SqliteRow) -> Result<Option<hours::Kept>, sqlx::Error> {
    let Some(trigger) = Trigger::parse(row.try_get("trigger")?) else {
        return Ok(None);
    };
    let counts = serde_json::from_str(row.try_get("counts")?);
    let counts = counts.map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    let hour = row.try_get::<i64, _>("hour")? as u64;
    Ok(Some(((hour, trigger), counts)))
}

/// Positions and times stay below 2^53.
fn number(value: u64) -> i64 {
    value as i64
}

/// The file may be as good as ever: no room, no right, somebody else at it.
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse().ok());
            code.is_some_and(is_passing)
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        _ => false,
    }
}

/// Of SQLite's result codes, extended or not: perm, busy, locked, nomem, readonly, ioerr, full, cantopen, protocol.
fn is_passing(code: u32) -> bool {
    matches!(code & 0xff, 3 | 5 | 6 | 7 | 8 | 10 | 13 | 14 | 15)
}

/// What was put aside before stays.
fn free_name(path: &Path) -> PathBuf {
    let first = path.with_extension("db.bad");
    let more = (2..).map(|n: u32| path.with_extension(format!("db.bad{n}")));
    let mut names = std::iter::once(first.clone()).chain(more);
    names.find(|name| !name.exists()).unwrap_or(first)
}

fn put_aside(path: &Path, aside: &Path) -> std::io::Result<()> {
    // With what it has not taken over yet.
    for suffix in ["-wal", "-shm", ""] {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        match std::fs::rename(with(path), with(aside)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !suffix.is_empty() => {}
            done => done?,
        }
    }
    Ok(())
}

/// In the data directory.
const FILE: &str = "webhooks.db";
const VERSION: i64 = 3;
const AS_VERSION: &str = "PRAGMA user_version = 3";
const FROM_VERSION_1: &str = "ALTER TABLE hook ADD COLUMN created_unix_ms INTEGER; ALTER TABLE hook ADD COLUMN gone_unix_ms INTEGER";
const FROM_VERSION_2: &str = "ALTER TABLE hook ADD COLUMN began INTEGER";
const WRITE: &str = "INSERT INTO hook (key, cursor, succeeded_unix_ms, failed_unix_ms, failure, failing_since_unix_ms, stopped_unix_ms, stopped_why, replay_next, replay_until, replay_from_unix_ms, replay_to_unix_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (key) DO UPDATE SET cursor = $2, succeeded_unix_ms = $3, failed_unix_ms = $4, failure = $5, failing_since_unix_ms = $6, stopped_unix_ms = $7, stopped_why = $8, replay_next = $9, replay_until = $10, replay_from_unix_ms = $11, replay_to_unix_ms = $12";
const BUSY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
