//! How the tables change. Rows are written many at a time: a statement costs more than a row.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use sqlx::query_builder::Separated;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::about::About;
use super::{Erased, Fact, KEYS_TRIED, New, key_at, key_of, minute_of, words};
use crate::clock::UnixMs;
use crate::mail::MessageId;

/// A stream that mail was sent on.
pub(super) struct Scope {
    pub(super) id: i64,
    pub(super) server: u32,
    pub(super) stream: String,
}

/// A message on its way into the tables.
struct Coming {
    key: i64,
    id: MessageId,
    scope: i64,
    position: Option<u64>,
    about: About,
}

/// A message of the tables.
struct There {
    key: i64,
    id: MessageId,
    scope: i64,
    is_bare: bool,
    about: About,
}

/// Applies a batch; how many messages of each stream are new.
pub(super) async fn apply(
    tables: &mut SqliteConnection,
    facts: Vec<Fact>,
) -> Result<Vec<(Scope, i64)>, sqlx::Error> {
    let (mut new, mut events) = (Vec::new(), Vec::new());
    let mut acted = FxHashSet::default();
    for fact in facts {
        match fact {
            Fact::Message(message) => new.push(*message),
            Fact::Event { id, position } => {
                events.push((key_of(id), position as i64));
                acted.insert(*id.as_bytes());
            }
        }
    }
    let fresh = match new.is_empty() {
        true => Vec::new(),
        false => take(tables, new, &mut acted).await?,
    };
    insert(
        tables,
        "INSERT OR IGNORE INTO event (message, position) ",
        &events,
        |mut row, (message, position)| {
            row.push_bind(*message).push_bind(*position);
        },
    )
    .await?;
    let acted: Vec<_> = acted.into_iter().collect();
    let settled = unqueue(tables, &acted).await?;
    settle(tables, &settled).await?;
    tally(tables, settled.iter().map(|place| (*place, 0, -1))).await?;
    Ok(fresh)
}

/// Where messages are in the tables: scope and key.
type Place = (i64, i64);

/// They are queued no more; those that were, in order.
async fn unqueue(
    tables: &mut SqliteConnection,
    ids: &[[u8; 16]],
) -> Result<Vec<Place>, sqlx::Error> {
    let mut places = Vec::new();
    for some in portions(ids) {
        let mut query = QueryBuilder::new("DELETE FROM queued WHERE id IN (");
        let mut list = query.separated(", ");
        for id in some {
            list.push_bind(id.to_vec());
        }
        query.push(") RETURNING scope, key");
        let gone: Vec<Place> = query.build_query_as().fetch_all(&mut *tables).await?;
        places.extend(gone);
    }
    places.sort_unstable();
    Ok(places)
}

async fn settle(tables: &mut SqliteConnection, places: &[Place]) -> Result<(), sqlx::Error> {
    insert(
        tables,
        "INSERT OR IGNORE INTO settled (scope, key) ",
        places,
        |mut row, (scope, key)| {
            row.push_bind(*scope).push_bind(*key);
        },
    )
    .await
}

/// Takes messages of one scope from those that are settled.
async fn unsettle(
    tables: &mut SqliteConnection,
    scope: i64,
    keys: &[i64],
) -> Result<(), sqlx::Error> {
    for some in portions(keys) {
        let mut query = QueryBuilder::new("DELETE FROM settled WHERE scope = ");
        query.push_bind(scope).push(" AND key IN (");
        let mut list = query.separated(", ");
        for key in some {
            list.push_bind(*key);
        }
        query.push(")");
        query.build().execute(&mut *tables).await?;
    }
    Ok(())
}

/// Puts messages into the tables. In `acted` stays who may be queued from an earlier batch.
async fn take(
    tables: &mut SqliteConnection,
    new: Vec<New>,
    acted: &mut FxHashSet<[u8; 16]>,
) -> Result<Vec<(Scope, i64)>, sqlx::Error> {
    let scopes = scopes_of(tables, &new).await?;
    let mut coming = together(new, &scopes);
    let known = insert_messages(tables, &coming).await?;
    let mut late = Vec::new();
    let mut place = 0;
    coming.retain_mut(|message| {
        let is_fresh = known.get(place) == Some(&message.key);
        match is_fresh {
            true => place += 1,
            false => late.push(Coming {
                key: message.key,
                id: message.id,
                scope: message.scope,
                position: message.position,
                about: std::mem::take(&mut message.about),
            }),
        }
        is_fresh
    });
    for message in late {
        coming.extend(again(tables, message).await?);
    }
    // FTS5 begins another segment whenever a row is not behind the one before.
    coming.sort_unstable_by_key(|message| message.key);
    insert(
        tables,
        "INSERT INTO search (rowid, words) ",
        &coming,
        |mut row, message| {
            row.push_bind(message.key)
                .push_bind(words::of(message.scope, &message.about));
        },
    )
    .await?;
    let (waiting, settled): (Vec<_>, Vec<_>) = coming
        .iter()
        .partition(|message| !acted.remove(message.id.as_bytes()));
    insert(
        tables,
        "INSERT OR IGNORE INTO queued (id, key, scope) ",
        &waiting,
        |mut row, message| {
            row.push_bind(message.id.as_bytes().to_vec())
                .push_bind(message.key)
                .push_bind(message.scope);
        },
    )
    .await?;
    let place = |message: &&Coming| (message.scope, message.key);
    let settled: Vec<Place> = settled.iter().map(place).collect();
    settle(tables, &settled).await?;
    let counted = waiting.iter().map(|message| (place(message), 1, 1));
    let counted = counted.chain(settled.iter().map(|place| (*place, 1, 0)));
    tally(tables, counted).await?;
    let fresh = scopes.into_iter().map(|((server, stream), id)| {
        let fresh = coming.iter().filter(|message| message.scope == id).count() as i64;
        let scope = Scope { id, server, stream };
        (scope, fresh)
    });
    Ok(fresh.filter(|(_, fresh)| *fresh > 0).collect())
}

/// In order of their keys, each message and each key once.
fn together(new: Vec<New>, scopes: &FxHashMap<(u32, String), i64>) -> Vec<Coming> {
    let mut all: Vec<Coming> = new
        .into_iter()
        .filter_map(|new| {
            Some(Coming {
                key: key_of(new.id),
                id: new.id,
                scope: *scopes.get(&(new.server, new.stream))?,
                position: new.position,
                about: new.about,
            })
        })
        .collect();
    // Stable, so that what came first counts.
    all.sort_by_key(|message| (message.key, message.id));
    let mut coming: Vec<Coming> = Vec::with_capacity(all.len());
    for mut message in all {
        match coming.last_mut() {
            Some(last) if last.id == message.id => merge(last, message),
            Some(last) if last.key >= message.key => {
                message.key = last.key + 1;
                coming.push(message);
            }
            _ => coming.push(message),
        }
    }
    coming
}

/// Says of a message what another event says of it.
fn merge(message: &mut Coming, other: Coming) {
    match (message.position, other.position) {
        (None, None) => add(&mut message.about, other.about),
        (None, Some(_)) => {
            message.about = other.about;
            message.position = other.position;
        }
        (Some(_), _) => {}
    }
}

fn add(about: &mut About, other: About) {
    for (number, recipient) in other.recipients.into_iter().enumerate() {
        if let Some(recipient) = recipient {
            about.add(number as u16, &recipient.email);
        }
    }
}

/// A message whose key is taken: by itself, or by another one. `Some`: it is new after all.
async fn again(
    tables: &mut SqliteConnection,
    mut message: Coming,
) -> Result<Option<Coming>, sqlx::Error> {
    if let Some(mut there) = find(tables, message.id).await? {
        // What its record says is more than what an event says.
        if there.is_bare {
            let before = there.about.clone();
            match message.position {
                None => add(&mut there.about, message.about),
                Some(_) => there.about = message.about,
            }
            if there.about != before {
                rewrite(tables, &before, &there, message.position).await?;
            }
        }
        return Ok(None);
    }
    for key in message.key..key_of(message.id) + KEYS_TRIED {
        message.key = key;
        let made = insert_messages(tables, std::slice::from_ref(&message)).await?;
        if !made.is_empty() {
            return Ok(Some(message));
        }
    }
    tracing::error!(id = %message.id, "a message is not found by a search: too many have its time");
    Ok(None)
}

/// Keys of those that were not there, in order.
async fn insert_messages(
    tables: &mut SqliteConnection,
    messages: &[Coming],
) -> Result<Vec<i64>, sqlx::Error> {
    let mut made = Vec::with_capacity(messages.len());
    for some in portions(messages) {
        let mut insert =
            QueryBuilder::new("INSERT INTO message (key, id, scope, position, bare, about) ");
        insert.push_values(some, |mut row, message| {
            row.push_bind(message.key)
                .push_bind(message.id.as_bytes().to_vec())
                .push_bind(message.scope)
                .push_bind(message.position.map(|position| position as i64))
                .push_bind(message.position.is_none())
                .push_bind(json(&message.about));
        });
        insert.push(" ON CONFLICT (key) DO NOTHING RETURNING key");
        let keys: Vec<i64> = insert.build_query_scalar().fetch_all(&mut *tables).await?;
        made.extend(keys);
    }
    made.sort_unstable();
    Ok(made)
}

/// A message by its id.
async fn find(tables: &mut SqliteConnection, id: MessageId) -> Result<Option<There>, sqlx::Error> {
    let key = key_of(id);
    let row = sqlx::query(
        "SELECT key, id, scope, bare, about FROM message WHERE key BETWEEN $1 AND $2 AND id = $3",
    )
    .bind(key)
    .bind(key + KEYS_TRIED)
    .bind(id.as_bytes().to_vec())
    .fetch_optional(tables)
    .await?;
    row.as_ref().map(there).transpose()
}

/// Its texts are others now.
async fn rewrite(
    tables: &mut SqliteConnection,
    before: &About,
    message: &There,
    position: Option<u64>,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE message SET about = $1, position = $2, bare = $3 WHERE key = $4")
        .bind(json(&message.about))
        .bind(position.map(|position| position as i64))
        .bind(position.is_none())
        .bind(message.key)
        .execute(&mut *tables)
        .await?;
    unindex(tables, &[(message.key, words::of(message.scope, before))]).await?;
    sqlx::query("INSERT INTO search (rowid, words) VALUES ($1, $2)")
        .bind(message.key)
        .bind(words::of(message.scope, &message.about))
        .execute(tables)
        .await?;
    Ok(())
}

async fn unindex(tables: &mut SqliteConnection, rows: &[(i64, String)]) -> Result<(), sqlx::Error> {
    insert(
        tables,
        "INSERT INTO search (search, rowid, words) ",
        rows,
        |mut row, (key, words)| {
            row.push("'delete'")
                .push_bind(*key)
                .push_bind(words.clone());
        },
    )
    .await
}

/// Removes at most so many messages of a scope from before that time; how many it were.
pub(super) async fn expire(
    tables: &mut SqliteConnection,
    scope: i64,
    before: UnixMs,
    at_most: i64,
) -> Result<i64, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT key, id, scope, bare, about FROM message WHERE scope = $1 AND key < $2 ORDER BY key LIMIT $3",
    )
    .bind(scope)
    .bind(key_at(before))
    .bind(at_most)
    .fetch_all(&mut *tables)
    .await?;
    let gone: Vec<There> = rows.iter().map(there).collect::<Result<_, _>>()?;
    remove(tables, &gone).await?;
    Ok(gone.len() as i64)
}

async fn remove(tables: &mut SqliteConnection, gone: &[There]) -> Result<(), sqlx::Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let words: Vec<_> = gone
        .iter()
        .map(|message| (message.key, words::of(message.scope, &message.about)))
        .collect();
    unindex(tables, &words).await?;
    delete(tables, "DELETE FROM message WHERE key IN (", gone, |m| {
        m.key
    })
    .await?;
    delete(tables, "DELETE FROM event WHERE message IN (", gone, |m| {
        key_of(m.id)
    })
    .await?;
    let ids: Vec<_> = gone.iter().map(|message| *message.id.as_bytes()).collect();
    let queued = unqueue(tables, &ids).await?;
    for of_scope in gone.chunk_by(|a, b| a.scope == b.scope) {
        let keys: Vec<_> = of_scope.iter().map(|message| message.key).collect();
        unsettle(tables, of_scope[0].scope, &keys).await?;
    }
    let counted = gone.iter().map(|m| ((m.scope, m.key), -1, 0));
    let counted = counted.chain(queued.into_iter().map(|place| (place, 0, -1)));
    tally(tables, counted).await
}

/// Removes what was said, before that time, of messages that are gone: of those that were erased, or are of a stream whose
/// retention was another then. Looks at so many events at most.
pub(super) async fn purge(
    tables: &mut SqliteConnection,
    before: UnixMs,
    at_most: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM event WHERE (message, position) IN (\
         SELECT message, position FROM (SELECT message, position FROM event WHERE message < $1 ORDER BY message LIMIT $2) old \
         WHERE NOT EXISTS (SELECT 1 FROM message m WHERE m.key BETWEEN old.message AND old.message + $3))",
    )
    .bind(key_at(before))
    .bind(at_most)
    .bind(KEYS_TRIED)
    .execute(tables)
    .await?;
    Ok(())
}

/// Forgets what events of one message say, and with them its record.
pub(super) async fn forget(
    tables: &mut SqliteConnection,
    events: &[Erased],
) -> Result<(), sqlx::Error> {
    let Some(first) = events.first() else {
        return Ok(());
    };
    for event in events {
        sqlx::query("DELETE FROM event WHERE message = $1 AND position = $2")
            .bind(key_of(event.id))
            .bind(event.position as i64)
            .execute(&mut *tables)
            .await?;
    }
    let Some(message) = find(tables, first.id).await? else {
        return Ok(());
    };
    let numbers: Vec<u16> = events.iter().map(|event| event.recipient_number).collect();
    match message.about.clone().without(&numbers) {
        Some(about) => {
            let before = message.about.clone();
            let message = There { about, ..message };
            rewrite(tables, &before, &message, None).await?;
            // What had become of it may have been of those alone.
            let queued = sqlx::query("INSERT OR IGNORE INTO queued SELECT id, key, scope FROM message WHERE key = $1 AND NOT EXISTS (SELECT 1 FROM event WHERE message = $2)")
                .bind(message.key)
                .bind(key_of(message.id))
                .execute(&mut *tables)
                .await?;
            if queued.rows_affected() == 0 {
                return Ok(());
            }
            unsettle(tables, message.scope, &[message.key]).await?;
            tally(tables, [((message.scope, message.key), 0, 1)].into_iter()).await
        }
        None => remove(tables, &[message]).await,
    }
}

/// Adds to the numbers of all messages, and of those that are queued.
async fn tally(
    tables: &mut SqliteConnection,
    messages: impl Iterator<Item = (Place, i64, i64)>,
) -> Result<(), sqlx::Error> {
    let mut counts: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for ((scope, key), count, queued) in messages {
        let sum = counts.entry((scope, minute_of(key))).or_default();
        *sum = (sum.0 + count, sum.1 + queued);
    }
    for ((scope, minute), (count, queued)) in counts {
        sqlx::query(
            "INSERT INTO tally (scope, minute, count, queued) VALUES ($1, $2, $3, $4) \
             ON CONFLICT DO UPDATE SET count = count + $3, queued = queued + $4",
        )
        .bind(scope)
        .bind(minute)
        .bind(count)
        .bind(queued)
        .execute(&mut *tables)
        .await?;
        if count < 0 {
            sqlx::query("DELETE FROM tally WHERE scope = $1 AND minute = $2 AND count <= 0")
                .bind(scope)
                .bind(minute)
                .execute(&mut *tables)
                .await?;
        }
    }
    Ok(())
}

pub(super) async fn scopes(tables: &mut SqliteConnection) -> Result<Vec<Scope>, sqlx::Error> {
    let rows: Vec<(i64, u32, String)> = sqlx::query_as("SELECT id, server, stream FROM scope")
        .fetch_all(tables)
        .await?;
    let of = |(id, server, stream)| Scope { id, server, stream };
    Ok(rows.into_iter().map(of).collect())
}

/// Numbers of all that the messages are of; new ones are made.
async fn scopes_of(
    tables: &mut SqliteConnection,
    new: &[New],
) -> Result<FxHashMap<(u32, String), i64>, sqlx::Error> {
    let mut scopes = FxHashMap::default();
    for message in new {
        let name = (message.server, message.stream.clone());
        if scopes.contains_key(&name) {
            continue;
        }
        sqlx::query("INSERT OR IGNORE INTO scope (server, stream) VALUES ($1, $2)")
            .bind(name.0)
            .bind(&name.1)
            .execute(&mut *tables)
            .await?;
        let id: i64 = sqlx::query_scalar("SELECT id FROM scope WHERE server = $1 AND stream = $2")
            .bind(name.0)
            .bind(&name.1)
            .fetch_one(&mut *tables)
            .await?;
        scopes.insert(name, id);
    }
    Ok(scopes)
}

fn there(row: &SqliteRow) -> Result<There, sqlx::Error> {
    let about: String = row.try_get("about")?;
    Ok(There {
        key: row.try_get("key")?,
        id: super::search::id_of(row)?,
        scope: row.try_get("scope")?,
        is_bare: row.try_get("bare")?,
        about: super::search::about_of(&about)?,
    })
}

fn json(about: &About) -> String {
    // Texts and numbers: writing them cannot fail.
    serde_json::to_string(about).unwrap_or_default()
}

async fn insert<T>(
    tables: &mut SqliteConnection,
    sql: &'static str,
    rows: &[T],
    mut bind: impl FnMut(Separated<'_, Sqlite, &'static str>, &T),
) -> Result<(), sqlx::Error> {
    for some in portions(rows) {
        let mut insert = QueryBuilder::new(sql);
        insert.push_values(some, &mut bind);
        insert.build().execute(&mut *tables).await?;
    }
    Ok(())
}

async fn delete<T, V>(
    tables: &mut SqliteConnection,
    sql: &'static str,
    rows: &[T],
    value: impl Fn(&T) -> V,
) -> Result<(), sqlx::Error>
where
    V: for<'q> sqlx::Encode<'q, Sqlite> + sqlx::Type<Sqlite> + Send + 'static,
{
    for some in portions(rows) {
        let mut query = QueryBuilder::new(sql);
        let mut list = query.separated(", ");
        for one in some {
            list.push_bind(value(one));
        }
        query.push(")");
        query.build().execute(&mut *tables).await?;
    }
    Ok(())
}

/// Of few sizes, so that each statement is prepared once.
fn portions<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.iter().find(|size| **size <= rows.len())?;
        let (some, rest) = rows.split_at(*size);
        rows = rest;
        Some(some)
    })
}

const SIZES: [usize; 4] = [128, 32, 8, 1];
