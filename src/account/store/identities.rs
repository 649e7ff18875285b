//! Domains, their DKIM keys, and sender signatures as rows.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use zeroize::Zeroizing;

use super::{Store, StoreError, document, id_of, is_taken, ms, text_of, time_of};
use crate::account::identity::{DomainAttributes, SignatureAttributes};
use crate::account::keys::{DkimKey, DkimKeys, KeyState, Look};
use crate::clock::UnixMs;
use crate::mail::Domain;
use crate::sign::{Algorithm, WholeKey};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRow {
    /// 0 before it is stored.
    pub id: u32,
    pub name: String,
    /// Known from the configuration file only.
    pub declared: bool,
    pub listed: bool,
    pub verified: Option<UnixMs>,
    pub attributes: DomainAttributes,
    pub keys: DkimKeys,
    pub created: UnixMs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureRow {
    /// 0 before it is stored.
    pub id: u32,
    pub address: String,
    pub folded: String,
    pub domain_id: u32,
    pub confirmed: Option<UnixMs>,
    pub attributes: SignatureAttributes,
    pub created: UnixMs,
}

/// A key and the selector that it is to have.
pub struct Keyed<'k> {
    pub selector: &'k str,
    pub key: &'k WholeKey,
}

/// What was seen of a key's record.
pub struct LookRow {
    pub domain: String,
    pub selector: String,
    /// Of which key.
    pub public: String,
    pub look: Look,
}

/// What a domain signs with.
pub struct ActiveKey {
    pub domain_id: u32,
    pub selector: String,
    pub algorithm: Algorithm,
    /// PKCS#8 in base64. `None`: it was sealed with another node key.
    pub private: Option<Zeroizing<String>>,
}

impl Store {
    /// Makes sure that every declared domain has an id.
    pub async fn declare_domains<'d>(
        &self,
        domains: impl Iterator<Item = &'d Domain>,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for domain in domains {
            sqlx::query("INSERT INTO domain (name, origin, listed, created_unix_ms) VALUES ($1, 'config', 1, $2) ON CONFLICT (name) DO NOTHING")
                .bind(domain.as_str())
                .bind(ms(now))
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// A new domain with its first keys. One that only the configuration had named keeps its id.
    pub async fn create_domain(
        &self,
        row: &DomainRow,
        first: &[Keyed<'_>],
    ) -> Result<u32, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let id: i64 = sqlx::query_scalar("INSERT INTO domain (name, origin, listed, attributes, created_unix_ms) VALUES ($1, 'created', $2, $3, $4) ON CONFLICT (name) DO UPDATE SET origin = 'created', listed = excluded.listed, attributes = excluded.attributes, created_unix_ms = excluded.created_unix_ms RETURNING id")
            .bind(&row.name)
            .bind(row.listed)
            .bind(text_of(&row.attributes)?)
            .bind(ms(row.created))
            .fetch_one(&mut *transaction)
            .await?;
        for keyed in first {
            let sealed = self.key.seal(&keyed.key.private)?;
            insert_key(&mut transaction, id_of(id), keyed, sealed, row.created).await?;
        }
        transaction.commit().await?;
        Ok(id_of(id))
    }

    /// All but name and keys.
    pub async fn update_domain(&self, row: &DomainRow) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        update_domain(&mut connection, row).await
    }

    /// A pending key becomes the active one of its algorithm, the active one is revoked; revoked ones that were so before
    /// `forget` are forgotten. `row` as [`Store::update_domain`].
    pub async fn activate_key(
        &self,
        row: &DomainRow,
        key: &DkimKey,
        now: UnixMs,
        forget: UnixMs,
    ) -> Result<(), StoreError> {
        let algorithm = key.algorithm.as_str();
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM dkim_key WHERE domain_id = $1 AND state = 'revoked' AND since_unix_ms <= $2")
            .bind(row.id)
            .bind(ms(forget))
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE dkim_key SET state = 'revoked', since_unix_ms = $2 WHERE domain_id = $1 AND state = 'active' AND algorithm = $3")
            .bind(row.id)
            .bind(ms(now))
            .bind(algorithm)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE dkim_key SET state = 'active', since_unix_ms = $2 WHERE domain_id = $1 AND state = 'pending' AND selector = $3")
            .bind(row.id)
            .bind(ms(now))
            .bind(&key.selector)
            .execute(&mut *transaction)
            .await?;
        update_domain(&mut transaction, row).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// A key that waits to be published, in the place of one that does, if there is one to be replaced.
    pub async fn add_key(
        &self,
        domain: u32,
        key: &Keyed<'_>,
        replaced: Option<&str>,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let sealed = self.key.seal(&key.key.private)?;
        let mut transaction = self.pool.begin().await?;
        if let Some(selector) = replaced {
            delete_key(&mut transaction, domain, selector).await?;
        }
        insert_key(&mut transaction, domain, key, sealed, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Signs no more; its record stays known.
    pub async fn revoke_key(
        &self,
        domain: u32,
        selector: &str,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE dkim_key SET state = 'revoked', since_unix_ms = $3 WHERE domain_id = $1 AND selector = $2")
            .bind(domain)
            .bind(selector)
            .bind(ms(now))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub async fn delete_key(&self, domain: u32, selector: &str) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        delete_key(&mut connection, domain, selector).await
    }

    /// Notes what was seen, in the place of what was before; what nobody has looked for since `forget` is forgotten.
    pub async fn note_looks(&self, looks: &[LookRow], forget: UnixMs) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for row in looks {
            sqlx::query("INSERT INTO dkim_look (domain, selector, public, found, since_unix_ms, checked_unix_ms, seen) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (domain, selector) DO UPDATE SET public = excluded.public, found = excluded.found, since_unix_ms = excluded.since_unix_ms, checked_unix_ms = excluded.checked_unix_ms, seen = excluded.seen")
                .bind(&row.domain)
                .bind(&row.selector)
                .bind(&row.public)
                .bind(row.look.found)
                .bind(ms(row.look.since))
                .bind(ms(row.look.checked))
                .bind(&row.look.seen)
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query("DELETE FROM dkim_look WHERE checked_unix_ms < $1")
            .bind(ms(forget))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Of all domains, or one.
    pub async fn looks(&self, only: Option<&str>) -> Result<Vec<LookRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM dkim_look WHERE $1 IS NULL OR domain = $1")
            .bind(only)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(look_row).collect()
    }

    /// Takes a domain off the list, and with its keys away when no signature needs it.
    pub async fn delete_domain(&self, id: u32) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("UPDATE domain SET listed = 0, verified_unix_ms = NULL WHERE id = $1")
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        sweep_domain(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// One domain with its keys, or all in the order of their ids.
    pub async fn domains(&self, only: Option<u32>) -> Result<Vec<DomainRow>, StoreError> {
        let mut keys: HashMap<u32, DkimKeys> = HashMap::new();
        let rows = sqlx::query("SELECT dkim_key.*, found, look.since_unix_ms AS look_since, checked_unix_ms, seen FROM dkim_key JOIN domain ON domain.id = domain_id LEFT JOIN dkim_look AS look ON look.domain = domain.name AND look.selector = dkim_key.selector AND look.public = dkim_key.public WHERE $1 IS NULL OR domain_id = $1 ORDER BY dkim_key.since_unix_ms, dkim_key.id")
            .bind(only)
            .fetch_all(&self.pool)
            .await?;
        for row in &rows {
            let domain = id_of(row.try_get("domain_id")?);
            keys.entry(domain).or_default().0.push(key_row(row)?);
        }
        let rows = sqlx::query("SELECT * FROM domain WHERE $1 IS NULL OR id = $1 ORDER BY id")
            .bind(only)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| domain_row(row, &mut keys)).collect()
    }

    /// Of all domains, or one.
    pub async fn active_keys(&self, only: Option<u32>) -> Result<Vec<ActiveKey>, StoreError> {
        let rows = sqlx::query("SELECT domain_id, selector, algorithm, sealed FROM dkim_key WHERE state = 'active' AND ($1 IS NULL OR domain_id = $1)")
            .bind(only)
            .fetch_all(&self.pool)
            .await?;
        let key = |row: &SqliteRow| {
            let sealed: Vec<u8> = row.try_get("sealed")?;
            Ok(ActiveKey {
                domain_id: id_of(row.try_get("domain_id")?),
                selector: row.try_get("selector")?,
                algorithm: algorithm_of(row)?,
                private: self.key.open(&sealed).map(Zeroizing::new),
            })
        };
        rows.iter().map(key).collect()
    }

    /// `None` when there is one for this address.
    pub async fn create_signature(&self, row: &SignatureRow) -> Result<Option<u32>, StoreError> {
        let id = sqlx::query_scalar("INSERT INTO signature (address, folded, domain_id, attributes, created_unix_ms) VALUES ($1, $2, $3, $4, $5) RETURNING id")
            .bind(&row.address)
            .bind(&row.folded)
            .bind(row.domain_id)
            .bind(text_of(&row.attributes)?)
            .bind(ms(row.created))
            .fetch_one(&self.pool)
            .await;
        match id {
            Err(error) if is_taken(&error) => Ok(None),
            id => Ok(Some(id_of(id?))),
        }
    }

    /// What people may change.
    pub async fn update_signature(&self, row: &SignatureRow) -> Result<(), StoreError> {
        sqlx::query("UPDATE signature SET attributes = $1 WHERE id = $2")
            .bind(text_of(&row.attributes)?)
            .bind(row.id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// `false`: it is gone, or was confirmed before.
    pub async fn confirm_signature(&self, id: u32, now: UnixMs) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE signature SET confirmed_unix_ms = $1 WHERE id = $2 AND confirmed_unix_ms IS NULL",
        )
        .bind(ms(now))
        .bind(id)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// With the domain's row, when only this signature needed it.
    pub async fn delete_signature(&self, id: u32, domain: u32) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM signature WHERE id = $1")
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        sweep_domain(&mut transaction, domain).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// One signature, or all in the order of their ids.
    pub async fn signatures(&self, only: Option<u32>) -> Result<Vec<SignatureRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM signature WHERE $1 IS NULL OR id = $1 ORDER BY id")
            .bind(only)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(signature_row).collect()
    }
}

async fn insert_key(
    connection: &mut sqlx::SqliteConnection,
    domain: u32,
    key: &Keyed<'_>,
    sealed: Vec<u8>,
    now: UnixMs,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO dkim_key (domain_id, selector, algorithm, bits, state, public, sealed, since_unix_ms) VALUES ($1, $2, $3, $4, 'pending', $5, $6, $7)")
        .bind(domain)
        .bind(key.selector)
        .bind(key.key.algorithm.as_str())
        .bind(key.key.bits)
        .bind(&key.key.public)
        .bind(sealed)
        .bind(ms(now))
        .execute(connection)
        .await?;
    Ok(())
}

async fn delete_key(
    connection: &mut sqlx::SqliteConnection,
    domain: u32,
    selector: &str,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM dkim_key WHERE domain_id = $1 AND selector = $2")
        .bind(domain)
        .bind(selector)
        .execute(connection)
        .await?;
    Ok(())
}

async fn update_domain(
    connection: &mut sqlx::SqliteConnection,
    row: &DomainRow,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE domain SET listed = $1, verified_unix_ms = $2, attributes = $3 WHERE id = $4",
    )
    .bind(row.listed)
    .bind(row.verified.map(ms))
    .bind(text_of(&row.attributes)?)
    .bind(row.id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets a domain that nobody has added and no signature is at. Its id is never given again.
async fn sweep_domain(connection: &mut sqlx::SqliteConnection, id: u32) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM dkim_key WHERE domain_id = $1 AND NOT EXISTS (SELECT 1 FROM signature WHERE domain_id = $1) AND EXISTS (SELECT 1 FROM domain WHERE id = $1 AND listed = 0)",
        "DELETE FROM domain WHERE id = $1 AND listed = 0 AND NOT EXISTS (SELECT 1 FROM signature WHERE domain_id = $1)",
    ] {
        sqlx::query(statement)
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn domain_row(row: &SqliteRow, keys: &mut HashMap<u32, DkimKeys>) -> Result<DomainRow, StoreError> {
    let id = id_of(row.try_get("id")?);
    let verified: Option<i64> = row.try_get("verified_unix_ms")?;
    Ok(DomainRow {
        id,
        name: row.try_get("name")?,
        declared: row.try_get::<&str, _>("origin")? == "config",
        listed: row.try_get("listed")?,
        verified: verified.map(time_of),
        attributes: document(row.try_get("attributes")?)?,
        keys: keys.remove(&id).unwrap_or_default(),
        created: time_of(row.try_get("created_unix_ms")?),
    })
}

fn key_row(row: &SqliteRow) -> Result<DkimKey, StoreError> {
    let found: Option<bool> = row.try_get("found")?;
    let look = found.map(|found| {
        Ok::<_, sqlx::Error>(Look {
            found,
            since: time_of(row.try_get("look_since")?),
            checked: time_of(row.try_get("checked_unix_ms")?),
            seen: row.try_get("seen")?,
        })
    });
    let state: &str = row.try_get("state")?;
    Ok(DkimKey {
        selector: row.try_get("selector")?,
        algorithm: algorithm_of(row)?,
        bits: row.try_get::<i64, _>("bits")? as u16,
        public: row.try_get("public")?,
        // The schema knows no other.
        state: KeyState::from_text(state).unwrap_or(KeyState::Revoked),
        since: time_of(row.try_get("since_unix_ms")?),
        declared: false,
        look: look.transpose()?,
    })
}

fn algorithm_of(row: &SqliteRow) -> Result<Algorithm, sqlx::Error> {
    let text: &str = row.try_get("algorithm")?;
    Ok(Algorithm::from_text(text).unwrap_or(Algorithm::Rsa))
}

fn look_row(row: &SqliteRow) -> Result<LookRow, StoreError> {
    Ok(LookRow {
        domain: row.try_get("domain")?,
        selector: row.try_get("selector")?,
        public: row.try_get("public")?,
        look: Look {
            found: row.try_get("found")?,
            since: time_of(row.try_get("since_unix_ms")?),
            checked: time_of(row.try_get("checked_unix_ms")?),
            seen: row.try_get("seen")?,
        },
    })
}

fn signature_row(row: &SqliteRow) -> Result<SignatureRow, StoreError> {
    let confirmed: Option<i64> = row.try_get("confirmed_unix_ms")?;
    Ok(SignatureRow {
        id: id_of(row.try_get("id")?),
        address: row.try_get("address")?,
        folded: row.try_get("folded")?,
        domain_id: id_of(row.try_get("domain_id")?),
        confirmed: confirmed.map(time_of),
        attributes: document(row.try_get("attributes")?)?,
        created: time_of(row.try_get("created_unix_ms")?),
    })
}
