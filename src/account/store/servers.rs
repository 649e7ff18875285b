//! Servers and their streams as rows.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, document, id_of, is_taken, ms, text_of, time_of};
use crate::account::model::{Attributes, StreamText, delivery_type_text};
use crate::account::model::{message_id_text, senders_text};
use crate::clock::UnixMs;
use crate::config::{self, MessageIdPolicy, SendersPolicy, StreamKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// 0 before it is stored.
    pub id: u32,
    pub name: String,
    /// Known from the configuration file, whose settings count.
    pub declared: bool,
    pub senders: SendersPolicy,
    pub message_id: MessageIdPolicy,
    pub sandbox: bool,
    pub attributes: Attributes,
    pub created: UnixMs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    pub server_id: u32,
    pub id: String,
    pub kind: StreamKind,
    pub text: StreamText,
    pub pool: Option<String>,
    pub created: UnixMs,
    pub updated: Option<UnixMs>,
    pub archived: Option<UnixMs>,
}

impl StreamRow {
    /// The three of every server.
    pub fn defaults(server_id: u32, created: UnixMs) -> impl Iterator<Item = Self> {
        config::Stream::defaults()
            .into_iter()
            .map(move |stream| Self {
                server_id,
                id: stream.id,
                kind: stream.kind,
                text: StreamText::of_default(stream.kind),
                pool: None,
                created,
                updated: None,
                archived: None,
            })
    }
}

impl Store {
    /// Makes sure that every declared server has an id, and returns those ids in the order of `servers`.
    pub async fn declare(
        &self,
        servers: &[config::Server],
        now: UnixMs,
    ) -> Result<Vec<u32>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let mut ids = Vec::with_capacity(servers.len());
        for server in servers {
            let known: Option<i64> = sqlx::query_scalar("SELECT id FROM server WHERE name = $1")
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
                Some(id) => id_of(id),
                None => insert_declared(&mut transaction, server, now).await?,
            };
            ids.push(id);
        }
        transaction.commit().await?;
        Ok(ids)
    }

    /// A new server with its three streams; `None` when the name is taken. With `adopt`, a name that the configuration once
    /// declared is taken over with its id.
    pub async fn create_server(
        &self,
        new: &ServerRow,
        adopt: bool,
    ) -> Result<Option<u32>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let adopted: Option<i64> = sqlx::query_scalar("UPDATE server SET origin = 'created', senders = $1, message_id = $2, delivery_type = $3, attributes = $4 WHERE $5 AND name = $6 AND origin = 'config' RETURNING id")
            .bind(senders_text(new.senders))
            .bind(message_id_text(new.message_id))
            .bind(delivery_type_text(new.sandbox))
            .bind(text_of(&new.attributes)?)
            .bind(adopt)
            .bind(&new.name)
            .fetch_optional(&mut *transaction)
            .await?;
        let id = match adopted {
            Some(id) => id_of(id),
            None => match insert(&mut transaction, new, None, "created").await {
                Err(StoreError::Sql { source }) if is_taken(&source) => return Ok(None),
                inserted => inserted?,
            },
        };
        for stream in StreamRow::defaults(id, new.created) {
            insert_stream(&mut transaction, &stream).await?;
        }
        transaction.commit().await?;
        Ok(Some(id))
    }

    /// Name and settings; `false` when the name is another server's.
    pub async fn update_server(&self, row: &ServerRow) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE server SET name = $1, senders = $2, message_id = $3, delivery_type = $4, attributes = $5 WHERE id = $6")
            .bind(&row.name)
            .bind(senders_text(row.senders))
            .bind(message_id_text(row.message_id))
            .bind(delivery_type_text(row.sandbox))
            .bind(text_of(&row.attributes)?)
            .bind(row.id)
            .execute(&self.pool)
            .await;
        match done {
            Err(error) if is_taken(&error) => Ok(false),
            done => done.map(|_| true).map_err(StoreError::from),
        }
    }

    /// With its streams and tokens. Its id is never given again.
    pub async fn delete_server(&self, id: u32) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for statement in [
            "DELETE FROM webhook WHERE server_id = $1",
            "DELETE FROM credential WHERE server_id = $1",
            "DELETE FROM stream WHERE server_id = $1",
            "DELETE FROM server WHERE id = $1",
        ] {
            sqlx::query(statement)
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// One server, or all in the order of their ids.
    pub async fn servers(&self, only: Option<u32>) -> Result<Vec<ServerRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM server WHERE $1 IS NULL OR id = $1 ORDER BY id")
            .bind(only)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(server_row).collect()
    }

    /// In the order of servers and of their making.
    pub async fn streams(&self, server: Option<u32>) -> Result<Vec<StreamRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM stream WHERE $1 IS NULL OR server_id = $1 ORDER BY server_id, created_unix_ms, id")
            .bind(server)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(stream_row).collect()
    }

    pub async fn create_stream(&self, row: &StreamRow) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        insert_stream(&mut connection, row).await
    }

    pub async fn update_stream(&self, row: &StreamRow) -> Result<(), StoreError> {
        sqlx::query("UPDATE stream SET attributes = $1, pool = $2, updated_unix_ms = $3, archived_unix_ms = $4 WHERE server_id = $5 AND id = $6")
            .bind(text_of(&row.text)?)
            .bind(&row.pool)
            .bind(row.updated.map(ms))
            .bind(row.archived.map(ms))
            .bind(row.server_id)
            .bind(&row.id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

async fn insert_declared(
    connection: &mut sqlx::SqliteConnection,
    server: &config::Server,
    now: UnixMs,
) -> Result<u32, StoreError> {
    let row = ServerRow {
        id: 0,
        name: server.name.clone(),
        declared: true,
        senders: server.senders,
        message_id: server.message_id,
        sandbox: server.sandbox,
        attributes: Attributes {
            inbound_hash: crate::account::secret::new_inbound_hash()?,
            ..Attributes::default()
        },
        created: now,
    };
    match insert(connection, &row, server.id, "config").await {
        Err(StoreError::Sql { source }) if is_taken(&source) => Err(StoreError::Conflict(format!(
            "id {} of server `{}` belongs to another server; ids are never reused: choose another",
            server.id.unwrap_or_default(),
            server.name
        ))),
        inserted => inserted,
    }
}

async fn insert(
    connection: &mut sqlx::SqliteConnection,
    new: &ServerRow,
    id: Option<u32>,
    origin: &str,
) -> Result<u32, StoreError> {
    let id: i64 = sqlx::query_scalar("INSERT INTO server (id, name, origin, senders, message_id, delivery_type, attributes, created_unix_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id")
        .bind(id)
        .bind(&new.name)
        .bind(origin)
        .bind(senders_text(new.senders))
        .bind(message_id_text(new.message_id))
        .bind(delivery_type_text(new.sandbox))
        .bind(text_of(&new.attributes)?)
        .bind(ms(new.created))
        .fetch_one(connection)
        .await?;
    Ok(id_of(id))
}

async fn insert_stream(
    connection: &mut sqlx::SqliteConnection,
    row: &StreamRow,
) -> Result<(), StoreError> {
    // A server that the configuration declared and that is made anew may have had streams before.
    sqlx::query("INSERT INTO stream (server_id, id, kind, attributes, pool, created_unix_ms) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING")
        .bind(row.server_id)
        .bind(&row.id)
        .bind(row.kind.as_str())
        .bind(text_of(&row.text)?)
        .bind(&row.pool)
        .bind(ms(row.created))
        .execute(connection)
        .await?;
    Ok(())
}

fn server_row(row: &SqliteRow) -> Result<ServerRow, StoreError> {
    let word = |column| row.try_get::<&str, _>(column);
    Ok(ServerRow {
        id: id_of(row.try_get("id")?),
        name: row.try_get("name")?,
        declared: word("origin")? == "config",
        senders: match word("senders")? {
            "any" => SendersPolicy::Any,
            _ => SendersPolicy::Verified,
        },
        message_id: match word("message_id")? {
            "replace" => MessageIdPolicy::Replace,
            _ => MessageIdPolicy::Keep,
        },
        sandbox: word("delivery_type")? == "sandbox",
        attributes: document(word("attributes")?)?,
        created: time_of(row.try_get("created_unix_ms")?),
    })
}

fn stream_row(row: &SqliteRow) -> Result<StreamRow, StoreError> {
    let time = |column| row.try_get::<Option<i64>, _>(column);
    let kind = match row.try_get::<&str, _>("kind")? {
        "transactional" => StreamKind::Transactional,
        "broadcast" => StreamKind::Broadcast,
        _ => StreamKind::Inbound,
    };
    let text: StreamText = document(row.try_get("attributes")?)?;
    Ok(StreamRow {
        server_id: id_of(row.try_get("server_id")?),
        id: row.try_get("id")?,
        kind,
        // Rows from before streams had names.
        text: match text.name.is_empty() {
            true => StreamText::of_default(kind),
            false => text,
        },
        pool: row.try_get("pool")?,
        created: time_of(row.try_get("created_unix_ms")?),
        updated: time("updated_unix_ms")?.map(time_of),
        archived: time("archived_unix_ms")?.map(time_of),
    })
}
