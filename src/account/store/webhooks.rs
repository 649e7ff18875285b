//! Webhooks as rows.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, document, id_of, ms, text_of, time_of};
use crate::account::webhooks::{Call, Triggers};
use crate::clock::UnixMs;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRow {
    /// 0 before it is stored.
    pub id: u32,
    pub server_id: u32,
    pub stream: String,
    pub triggers: Triggers,
    /// `None`: it was sealed with another node key.
    pub call: Option<Call>,
    pub created: UnixMs,
}

impl Store {
    pub async fn create_webhook(&self, new: &WebhookRow) -> Result<u32, StoreError> {
        let id: i64 = sqlx::query_scalar("INSERT INTO webhook (server_id, stream, attributes, sealed, created_unix_ms) VALUES ($1, $2, $3, $4, $5) RETURNING id")
            .bind(new.server_id)
            .bind(&new.stream)
            .bind(text_of(&new.triggers)?)
            .bind(self.sealed(new)?)
            .bind(ms(new.created))
            .fetch_one(&self.pool)
            .await?;
        Ok(id_of(id))
    }

    pub async fn update_webhook(&self, row: &WebhookRow) -> Result<(), StoreError> {
        sqlx::query("UPDATE webhook SET attributes = $1, sealed = $2 WHERE id = $3")
            .bind(text_of(&row.triggers)?)
            .bind(self.sealed(row)?)
            .bind(row.id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Its id is never given again.
    pub async fn delete_webhook(&self, id: u32) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM webhook WHERE id = $1")
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Of one server, or all, in the order of their ids.
    pub async fn webhooks(&self, server: Option<u32>) -> Result<Vec<WebhookRow>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM webhook WHERE $1 IS NULL OR server_id = $1 ORDER BY id")
                .bind(server)
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(|row| self.webhook_row(row)).collect()
    }

    fn sealed(&self, row: &WebhookRow) -> Result<Vec<u8>, StoreError> {
        Ok(self.key.seal(&text_of(&row.call)?)?)
    }

    fn webhook_row(&self, row: &SqliteRow) -> Result<WebhookRow, StoreError> {
        let opened = self.key.open(row.try_get("sealed")?);
        Ok(WebhookRow {
            id: id_of(row.try_get("id")?),
            server_id: id_of(row.try_get("server_id")?),
            stream: row.try_get("stream")?,
            triggers: document(row.try_get("attributes")?)?,
            call: opened.map(|text| document(&text)).transpose()?,
            created: time_of(row.try_get("created_unix_ms")?),
        })
    }
}
