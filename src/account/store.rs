//! Settings that people make, in SQL: `DATA_DIR/account.db`.
//!
//! Promises: an id is never given twice; what a method reports as done is on disk; a token can be read back only with the
//! node key. Deliberately does not know who asks, and is never on the way of a message: that reads the snapshot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, SqlSafeStr};

use super::secret::{KeyError, NodeKey, new_token};
use crate::clock::UnixMs;
use crate::config::{self, MessageIdPolicy, SendersPolicy, StreamKind};

/// The account store. One process has it open: the owner of the data directory's lock.
pub struct Store {
    pool: SqlitePool,
    key: NodeKey,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing can be done with the store as it is: damaged, not writable, made by a newer version.
    #[error("the account store {path}: {message}")]
    Unusable { path: PathBuf, message: String },
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Asked for something that contradicts what is there; the sentence says what.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    NotFound(String),
    #[error("the account store: {0}")]
    Sql(#[from] sqlx::Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    pub id: u32,
    pub name: String,
    /// Known from the configuration file, whose settings count.
    pub declared: bool,
    pub senders: SendersPolicy,
    pub message_id: MessageIdPolicy,
    pub sandbox: bool,
    pub created_unix_ms: UnixMs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    pub server_id: u32,
    pub id: String,
    pub kind: StreamKind,
    pub pool: Option<String>,
    pub archived: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    pub id: u32,
    /// `None`: an account token.
    pub server_id: Option<u32>,
    pub stream: Option<String>,
    pub created_unix_ms: UnixMs,
    pub revoked_unix_ms: Option<UnixMs>,
    /// `None` when it was sealed with another node key: it then cannot be used.
    pub token: Option<String>,
}

/// What a new server is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewServer {
    pub name: String,
    pub senders: SendersPolicy,
    pub message_id: MessageIdPolicy,
    pub sandbox: bool,
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
        let key = match NodeKey::read(data_dir)? {
            Some(key) => key,
            None if existed => return Err(unusable(KEY_LOST.into())),
            None => NodeKey::create(data_dir)?,
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
            .map_err(|e| unusable(format!("cannot be opened: {e}")))?;
        protect(&path).map_err(|e| unusable(format!("cannot be made private: {e}")))?;
        migrations()
            .run(&pool)
            .await
            .map_err(|e| unusable(format!("cannot be brought up to date: {e}")))?;
        Ok(Self { pool, key })
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Makes sure that every declared server has an id, and returns those ids in the order of `servers`.
    pub async fn declare(
        &self,
        servers: &[config::Server],
        now: UnixMs,
    ) -> Result<Vec<u32>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let mut ids = Vec::with_capacity(servers.len());
        for server in servers {
            let known: Option<i64> = sqlx::query_scalar("SELECT id FROM server WHERE name = ?")
                .bind(&server.name)
                .fetch_optional(&mut *transaction)
                .await?;
            if let (Some(known), Some(fixed)) = (known, server.id)
                && known != i64::from(fixed)
            {
                return Err(StoreError::Conflict(format!(
                    "server `{}` has id {known} since it was first seen and the configuration says id = {fixed}; ids never change: remove `id` or write {known}",
                    server.name
                )));
            }
            let id = match known {
                Some(id) => id,
                None => {
                    insert_server(
                        &mut transaction,
                        &NewServer::of(server),
                        "config",
                        server.id,
                        now,
                    )
                    .await?
                }
            };
            ids.push(id_of(id));
        }
        transaction.commit().await?;
        Ok(ids)
    }

    /// A new server with its three streams. With `adopt`, a name that the configuration once declared is taken over with
    /// its id.
    pub async fn create_server(
        &self,
        new: &NewServer,
        adopt: bool,
        now: UnixMs,
    ) -> Result<ServerRow, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let adopted: Option<i64> = sqlx::query_scalar("UPDATE server SET origin = 'created', senders = ?, message_id = ?, delivery_type = ? WHERE ? AND name = ? AND origin = 'config' RETURNING id")
            .bind(senders_text(new.senders))
            .bind(message_id_text(new.message_id))
            .bind(if new.sandbox { "sandbox" } else { "live" })
            .bind(adopt)
            .bind(&new.name)
            .fetch_optional(&mut *transaction)
            .await?;
        let id = match adopted {
            Some(id) => id,
            None => insert_server(&mut transaction, new, "created", None, now).await?,
        };
        for stream in config::Stream::defaults() {
            sqlx::query("INSERT INTO stream (server_id, id, kind) VALUES (?, ?, ?)")
                .bind(id)
                .bind(stream.id)
                .bind(stream.kind.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        self.server(&new.name).await
    }

    pub async fn servers(&self) -> Result<Vec<ServerRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM server ORDER BY id")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(server_row).collect()
    }

    pub async fn server(&self, name: &str) -> Result<ServerRow, StoreError> {
        let row = sqlx::query("SELECT * FROM server WHERE name = ?")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        match row {
            Some(row) => server_row(&row),
            None => Err(StoreError::NotFound(format!("there is no server `{name}`"))),
        }
    }

    pub async fn streams(&self) -> Result<Vec<StreamRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM stream ORDER BY server_id, id")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(stream_row).collect()
    }

    /// Makes a token and returns it with its text, which is shown once. `server`: `None` for an account token.
    pub async fn create_token(
        &self,
        server: Option<u32>,
        stream: Option<&str>,
        now: UnixMs,
    ) -> Result<(TokenRow, String), StoreError> {
        let token = new_token()?;
        let kind = if server.is_some() {
            "server"
        } else {
            "account"
        };
        let done = sqlx::query("INSERT INTO token (kind, server_id, stream, lookup, sealed, created_unix_ms) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(kind)
            .bind(server)
            .bind(stream)
            .bind(self.key.lookup(&token).to_vec())
            .bind(self.key.seal(&token)?)
            .bind(ms(now))
            .execute(&self.pool)
            .await?;
        let row = TokenRow {
            id: id_of(done.last_insert_rowid()),
            server_id: server,
            stream: stream.map(str::to_owned),
            created_unix_ms: now,
            revoked_unix_ms: None,
            token: Some(token.clone()),
        };
        Ok((row, token))
    }

    /// All tokens, revoked ones too.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM token ORDER BY id")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| self.token_row(row)).collect()
    }

    /// From the next snapshot on the token is refused. Its row stays.
    pub async fn revoke_token(&self, id: u32, now: UnixMs) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE token SET revoked_unix_ms = ? WHERE id = ? AND revoked_unix_ms IS NULL",
        )
        .bind(ms(now))
        .bind(id)
        .execute(&self.pool)
        .await?;
        match done.rows_affected() {
            0 => Err(StoreError::NotFound(format!(
                "there is no token {id} that could be revoked"
            ))),
            _ => Ok(()),
        }
    }

    /// Notes that something has been done; `false` when it had been before.
    pub async fn first_time(&self, what: &str, now: UnixMs) -> Result<bool, StoreError> {
        let done =
            sqlx::query("INSERT INTO done (what, unix_ms) VALUES (?, ?) ON CONFLICT DO NOTHING")
                .bind(what)
                .bind(ms(now))
                .execute(&self.pool)
                .await?;
        Ok(done.rows_affected() == 1)
    }

    fn token_row(&self, row: &SqliteRow) -> Result<TokenRow, StoreError> {
        let sealed: Vec<u8> = row.try_get("sealed")?;
        Ok(TokenRow {
            id: id_of(row.try_get("id")?),
            server_id: row.try_get::<Option<i64>, _>("server_id")?.map(id_of),
            stream: row.try_get("stream")?,
            created_unix_ms: time_of(row.try_get("created_unix_ms")?),
            revoked_unix_ms: row
                .try_get::<Option<i64>, _>("revoked_unix_ms")?
                .map(time_of),
            token: self.key.open(&sealed),
        })
    }
}

impl NewServer {
    fn of(server: &config::Server) -> Self {
        Self {
            name: server.name.clone(),
            senders: server.senders,
            message_id: server.message_id,
            sandbox: server.sandbox,
        }
    }
}

async fn insert_server(
    connection: &mut sqlx::SqliteConnection,
    new: &NewServer,
    origin: &str,
    id: Option<u32>,
    now: UnixMs,
) -> Result<i64, StoreError> {
    let done = sqlx::query("INSERT INTO server (id, name, origin, senders, message_id, delivery_type, created_unix_ms) VALUES (?, ?, ?, ?, ?, ?, ?)")
        .bind(id)
        .bind(&new.name)
        .bind(origin)
        .bind(senders_text(new.senders))
        .bind(message_id_text(new.message_id))
        .bind(if new.sandbox { "sandbox" } else { "live" })
        .bind(ms(now))
        .execute(connection)
        .await;
    match done {
        Ok(done) => Ok(done.last_insert_rowid()),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            let sentence = match id {
                Some(id) => format!(
                    "id {id} of server `{}` belongs to another server; ids are never reused: choose another",
                    new.name
                ),
                None => format!("there is already a server `{}`", new.name),
            };
            Err(StoreError::Conflict(sentence))
        }
        Err(error) => Err(error.into()),
    }
}

fn server_row(row: &SqliteRow) -> Result<ServerRow, StoreError> {
    let origin: &str = row.try_get("origin")?;
    let senders: &str = row.try_get("senders")?;
    let message_id: &str = row.try_get("message_id")?;
    let delivery_type: &str = row.try_get("delivery_type")?;
    Ok(ServerRow {
        id: id_of(row.try_get("id")?),
        name: row.try_get("name")?,
        declared: origin == "config",
        senders: if senders == "any" {
            SendersPolicy::Any
        } else {
            SendersPolicy::Verified
        },
        message_id: if message_id == "replace" {
            MessageIdPolicy::Replace
        } else {
            MessageIdPolicy::Keep
        },
        sandbox: delivery_type == "sandbox",
        created_unix_ms: time_of(row.try_get("created_unix_ms")?),
    })
}

fn stream_row(row: &SqliteRow) -> Result<StreamRow, StoreError> {
    let kind: &str = row.try_get("kind")?;
    Ok(StreamRow {
        server_id: id_of(row.try_get("server_id")?),
        id: row.try_get("id")?,
        kind: match kind {
            "transactional" => StreamKind::Transactional,
            "broadcast" => StreamKind::Broadcast,
            _ => StreamKind::Inbound,
        },
        pool: row.try_get("pool")?,
        archived: row.try_get::<Option<i64>, _>("archived_unix_ms")?.is_some(),
    })
}

/// `verified` or `any`, in the store, the API and listings.
pub fn senders_text(senders: SendersPolicy) -> &'static str {
    match senders {
        SendersPolicy::Verified => "verified",
        SendersPolicy::Any => "any",
    }
}

/// `keep` or `replace`, in the store, the API and listings.
pub fn message_id_text(message_id: MessageIdPolicy) -> &'static str {
    match message_id {
        MessageIdPolicy::Keep => "keep",
        MessageIdPolicy::Replace => "replace",
    }
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
    Migrator::with_migrations(vec![migration(
        1,
        "servers",
        include_str!("migrations/0001_servers.sql"),
    )])
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

const FILE: &str = "account.db";
const KEY_LOST: &str = "exists but node.key beside it does not; its tokens cannot be read without: restore node.key, or move both away to begin anew";
const BUSY: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: u32 = 2;

#[cfg(test)]
mod tests;
