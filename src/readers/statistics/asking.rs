//! What can be asked of statistics. A server sees its own.

use std::collections::BTreeMap;

use sqlx::{QueryBuilder, Sqlite};

use super::{Counted, Statistics, Trouble};
use crate::clock::Day;

/// Which counters are added up.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub server: u32,
    /// `None`: all.
    pub stream: Option<String>,
    /// `None`: all messages, with a tag or without.
    pub tag: Option<String>,
    pub from: Option<Day>,
    /// Inclusive.
    pub to: Option<Day>,
}

/// By day.
pub type Counts = BTreeMap<Day, BTreeMap<Counted, u64>>;

impl Statistics {
    /// Days without any are left out.
    pub async fn counts(&self, asked: &Asked) -> Result<Counts, Trouble> {
        let mut question = self.reader.ask(asked.server).await?;
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT day, what, CAST(SUM(count) AS INTEGER) AS count FROM ",
        );
        query.push(match asked.tag {
            Some(_) => "tagged",
            None => "total",
        });
        query.push(" WHERE server = ").push_bind(asked.server);
        if let Some(tag) = &asked.tag {
            query.push(" AND tag = ").push_bind(tag);
        }
        if let Some(stream) = &asked.stream {
            query.push(" AND stream = ").push_bind(stream);
        }
        if let Some(from) = asked.from {
            query.push(" AND day >= ").push_bind(from.0);
        }
        if let Some(to) = asked.to {
            query.push(" AND day <= ").push_bind(to.0);
        }
        query.push(" GROUP BY day, what");
        let rows: Vec<(i32, i64, i64)> = query.build_query_as().fetch_all(&mut *question).await?;
        let mut counts = Counts::new();
        for (day, what, count) in rows {
            // A version after this one may count more.
            if let (Some(what), Ok(count @ 1..)) = (Counted::from_code(what), u64::try_from(count))
            {
                counts.entry(Day(day)).or_default().insert(what, count);
            }
        }
        Ok(counts)
    }
}
