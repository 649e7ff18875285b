//! The files of a reader: which one answers, and how a new one takes its place.
//!
//! Promises: whatever moment the node ends at, the next start finds one file that is whole, or none and makes it. There are two
//! names, `<name>.db` and `<name>.2.db`: new tables are made under the one that is free, while the others answer. A file
//! counts from when it carries the reader's version (`user_version`), which new tables get last; of two that do, the one that was begun
//! later counts (`application_id`). No file is ever renamed: SQLite's journal belongs to a name.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection, SqlSafeStr};

use super::{Trouble, is_damage};
use crate::limits;

/// Where they are, and what makes one whole.
pub(super) struct Files {
    dir: PathBuf,
    pub(super) name: &'static str,
    pub(super) version: i64,
    pub(super) schema: &'static str,
}

/// A file at work.
pub(super) struct Opened {
    /// One connection, the reader's own: nobody who asks is in its way.
    pub(super) writer: SqlitePool,
    pub(super) askers: SqlitePool,
}

impl Opened {
    pub(super) async fn close(&self) {
        self.askers.close().await;
        self.writer.close().await;
    }
}

/// A file that can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// How far it has read.
    pub(super) position: u64,
    pub(super) generation: i64,
}

impl Files {
    pub(super) fn new(
        data_dir: &Path,
        name: &'static str,
        version: i64,
        schema: &'static str,
    ) -> Self {
        let dir = data_dir.join(DIR);
        Self {
            dir,
            name,
            version,
            schema,
        }
    }

    pub(super) fn paths(&self) -> [PathBuf; 2] {
        paths(&self.dir, self.name)
    }

    /// The one that is not `path`.
    pub(super) fn other_than(&self, path: &Path) -> PathBuf {
        let [first, second] = self.paths();
        if path == first { second } else { first }
    }

    /// The file that counts; whatever else is there goes. `None`: there is none that goes on in this part of the log.
    pub(super) async fn find(
        &self,
        places: RangeInclusive<u64>,
    ) -> Result<Option<Found>, sqlx::Error> {
        std::fs::create_dir_all(&self.dir)?;
        let mut best: Option<Found> = None;
        for path in self.paths() {
            if !path.exists() {
                continue;
            }
            let found = match self.look(&path).await {
                Ok(found) => found.filter(|found| places.contains(&found.position)),
                Err(error) if is_damage(&error) => None,
                Err(error) => return Err(error),
            };
            let is_better = |found: &Found| {
                let best = best.as_ref();
                best.is_none_or(|best| best.generation < found.generation)
            };
            if let Some(found) = found.filter(is_better) {
                best = Some(found);
            }
        }
        for path in self.paths() {
            if path.exists() && best.as_ref().is_none_or(|best| best.path != path) {
                if best.is_none() {
                    tracing::warn!(
                        reader = self.name,
                        "what a reader keeps is not of this log and version, or damaged: it is made again from the event log"
                    );
                }
                remove(&path)?;
            }
        }
        Ok(best)
    }

    /// `None`: it is of another version, or was not finished.
    async fn look(&self, path: &Path) -> Result<Option<Found>, sqlx::Error> {
        let mut file = SqliteConnection::connect_with(&options(path)).await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut file)
            .await?;
        if version != self.version {
            return Ok(None);
        }
        let generation: i64 = sqlx::query_scalar("PRAGMA application_id")
            .fetch_one(&mut file)
            .await?;
        let position: Option<i64> = sqlx::query_scalar("SELECT position FROM cursor")
            .fetch_optional(&mut file)
            .await?;
        file.close().await?;
        Ok(position.map(|position| Found {
            path: path.to_owned(),
            position: position as u64,
            generation,
        }))
    }

    /// An empty file, and the connection that fills it.
    pub(super) async fn create(&self, path: &Path) -> Result<SqliteConnection, sqlx::Error> {
        remove(path)?;
        let file = SqliteConnection::connect_with(&options(path).create_if_missing(true)).await?;
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(file)
    }

    /// Its tables.
    pub(super) async fn lay_out(
        &self,
        file: &mut SqliteConnection,
        generation: i64,
    ) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(self.schema.into_sql_str())
            .execute(&mut *file)
            .await?;
        sqlx::raw_sql(
            "CREATE TABLE cursor (position INTEGER NOT NULL); INSERT INTO cursor VALUES (0)",
        )
        .execute(&mut *file)
        .await?;
        set(file, "application_id", generation).await
    }

    /// From now on it counts.
    pub(super) async fn finish(&self, file: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        set(file, "user_version", self.version).await
    }

    pub(super) async fn open(&self, path: &Path) -> Result<Opened, sqlx::Error> {
        let pool = SqlitePoolOptions::new().max_connections(1);
        let writer = pool.acquire_timeout(BUSY).connect_with(options(path));
        let asking = options(path).pragma("query_only", "ON");
        Ok(Opened {
            writer: writer.await?,
            askers: SqlitePoolOptions::new()
                .max_connections(limits::READER_QUESTIONS)
                .acquire_timeout(limits::READER_QUESTION_WAIT)
                .connect_lazy_with(asking),
        })
    }

    /// Octets on disk.
    pub(super) fn size(&self) -> u64 {
        let all = self.paths().into_iter().flat_map(with_journal);
        all.filter_map(|file| std::fs::metadata(file).ok())
            .map(|file| file.len())
            .sum()
    }
}

/// A pragma takes no parameter.
async fn set(file: &mut SqliteConnection, pragma: &str, value: i64) -> Result<(), sqlx::Error> {
    let text = format!("PRAGMA {pragma} = {value}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(file)
        .await?;
    Ok(())
}

/// Writes what its journal holds into the file itself, durably; of what was deleted nothing is left then. Waits for questions
/// that see the tables as they were.
pub(super) async fn settle(pool: &SqlitePool) -> Result<(), Trouble> {
    let busy: i64 = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(pool)
        .await?;
    match busy {
        0 => Ok(()),
        _ => Err(Trouble::Busy),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        // What is deleted may have been erased for somebody's privacy.
        .pragma("secure_delete", "ON")
        .busy_timeout(BUSY)
}

/// What the tables of a reader say to a question with one answer, whatever version they are of. `None`: there are none, or it is
/// not one that they understand. For whoever runs no reader.
pub(in crate::readers) async fn said_by(
    data_dir: &Path,
    name: &str,
    question: &'static str,
) -> Option<String> {
    let mut best: Option<(i64, String)> = None;
    for path in paths(&data_dir.join(DIR), name) {
        if !path.exists() {
            continue;
        }
        let said = async {
            let mut file = SqliteConnection::connect_with(&options(&path)).await?;
            let [version, generation] = ["PRAGMA user_version", "PRAGMA application_id"];
            // Not finished.
            let version: i64 = sqlx::query_scalar(version).fetch_one(&mut file).await?;
            let generation: i64 = sqlx::query_scalar(generation).fetch_one(&mut file).await?;
            let said: String = sqlx::query_scalar(question).fetch_one(&mut file).await?;
            file.close().await?;
            Ok::<_, sqlx::Error>((version > 0).then_some((generation, said)))
        };
        // One that is damaged is made again, whatever it says.
        if let Ok(Some(said)) = said.await {
            best = best.max(Some(said));
        }
    }
    best.map(|(_, said)| said)
}

/// Removes what readers keep in tables: they make it again. For whoever erases from the log while no node runs. What names
/// nobody stays.
pub fn discard_all(data_dir: &Path) -> io::Result<()> {
    let dir = data_dir.join(DIR);
    let names = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    let kept = paths(&dir, NAMES_NOBODY).into_iter().flat_map(with_journal);
    let kept: Vec<PathBuf> = kept.collect();
    for name in names {
        let path = name?.path();
        if !kept.contains(&path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The journal goes first: it must not meet another file.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    for file in with_journal(path.to_owned()).into_iter().rev() {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

fn paths(dir: &Path, name: &str) -> [PathBuf; 2] {
    [
        dir.join(format!("{name}.db")),
        dir.join(format!("{name}.2.db")),
    ]
}

fn with_journal(path: PathBuf) -> [PathBuf; 3] {
    ["", "-shm", "-wal"].map(|suffix| {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        file.into()
    })
}

/// In the data directory.
const DIR: &str = "readers";
/// The reader whose tables are counts only.
const NAMES_NOBODY: &str = "statistics";
/// Longer than any question takes.
const BUSY: Duration = Duration::from_secs(15);
const _: () = assert!(BUSY.as_secs() > 2 * limits::READER_QUESTION_TIME.as_secs());
