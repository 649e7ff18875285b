//! Tokens as rows. A row holds the keyed hash that finds the token and, where somebody needs it again, its sealed text.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, id_of, ms, time_of};
use crate::account::model::TokenKind;
use crate::account::secret::canonical;
use crate::account::snapshot::Lookup;
use crate::clock::UnixMs;
use crate::config::Rate;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    pub id: u32,
    pub kind: TokenKind,
    /// `None`: an account token.
    pub server_id: Option<u32>,
    pub stream: Option<String>,
    pub name: String,
    pub access_key: Option<String>,
    pub lookup: Lookup,
    /// Token or secret key. `None` for account tokens, and when it was sealed with another node key: it then cannot be used.
    pub secret: Option<String>,
    pub rate: Option<Rate>,
    pub created: UnixMs,
    pub revoked: Option<UnixMs>,
    pub last_used: Option<UnixMs>,
}

/// A token to be kept.
pub struct NewTokenRow<'a> {
    pub kind: TokenKind,
    pub server_id: Option<u32>,
    pub stream: Option<&'a str>,
    pub name: &'a str,
    /// Of an SMTP token.
    pub access_key: Option<&'a str>,
    /// Token or secret key.
    pub secret: &'a str,
    pub rate: Option<Rate>,
}

impl Store {
    pub async fn create_token(
        &self,
        new: &NewTokenRow<'_>,
        now: UnixMs,
    ) -> Result<u32, StoreError> {
        let sealed = match new.kind {
            TokenKind::Account => None,
            TokenKind::Server | TokenKind::Smtp => Some(self.key.seal(new.secret)?),
        };
        let user = new.access_key.unwrap_or(new.secret);
        let id: i64 = sqlx::query_scalar("INSERT INTO credential (kind, server_id, stream, name, access_key, lookup, sealed, rate, created_unix_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id")
            .bind(new.kind.as_str())
            .bind(new.server_id)
            .bind(new.stream)
            .bind(new.name)
            .bind(new.access_key)
            .bind(self.key.lookup(&canonical(user)).to_vec())
            .bind(sealed)
            .bind(new.rate.map(|rate| rate.to_string()))
            .bind(ms(now))
            .fetch_one(&self.pool)
            .await?;
        Ok(id_of(id))
    }

    /// Of one server, or all; revoked ones too.
    pub async fn tokens(&self, server: Option<u32>) -> Result<Vec<TokenRow>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM credential WHERE $1 IS NULL OR server_id = $1 ORDER BY id")
                .bind(server)
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(|row| self.token_row(row)).collect()
    }

    pub async fn account_tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM credential WHERE kind = 'account' ORDER BY id")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| self.token_row(row)).collect()
    }

    /// From the next snapshot on the token is refused. Its row stays.
    pub async fn revoke_token(&self, id: u32, now: UnixMs) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE credential SET revoked_unix_ms = $1 WHERE id = $2 AND revoked_unix_ms IS NULL",
        )
        .bind(ms(now))
        .bind(id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// All of them in one transaction.
    pub async fn note_uses(&self, uses: &[(u32, UnixMs)]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for (id, at) in uses {
            sqlx::query("UPDATE credential SET last_used_unix_ms = $1 WHERE id = $2")
                .bind(ms(*at))
                .bind(*id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    fn token_row(&self, row: &SqliteRow) -> Result<TokenRow, StoreError> {
        let sealed: Option<Vec<u8>> = row.try_get("sealed")?;
        let lookup: Vec<u8> = row.try_get("lookup")?;
        let rate: Option<String> = row.try_get("rate")?;
        let time = |column| row.try_get::<Option<i64>, _>(column);
        Ok(TokenRow {
            id: id_of(row.try_get("id")?),
            kind: match row.try_get::<&str, _>("kind")? {
                "account" => TokenKind::Account,
                "smtp" => TokenKind::Smtp,
                _ => TokenKind::Server,
            },
            server_id: row.try_get::<Option<i64>, _>("server_id")?.map(id_of),
            stream: row.try_get("stream")?,
            name: row.try_get("name")?,
            access_key: row.try_get("access_key")?,
            // The schema holds the length.
            lookup: lookup.try_into().unwrap_or_default(),
            secret: sealed.and_then(|sealed| self.key.open(&sealed)),
            rate: rate.and_then(|text| text.parse().ok()),
            created: time_of(row.try_get("created_unix_ms")?),
            revoked: time("revoked_unix_ms")?.map(time_of),
            last_used: time("last_used_unix_ms")?.map(time_of),
        })
    }
}
