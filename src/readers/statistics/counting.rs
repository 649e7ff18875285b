//! Adding up: a batch of facts becomes one change for each counter.

use std::collections::{BTreeMap, HashMap};

use sqlx::sqlite::SqliteConnection;

use super::{Counted, Counters, Fact};
use crate::clock::Day;
use crate::metrics;

/// A day of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    server: u32,
    stream: Box<str>,
    day: Day,
}

/// What is added to the counters of one place, and of one tag.
type Sums = BTreeMap<Counted, i64>;

impl Counters {
    pub(super) async fn count(
        &self,
        tables: &mut SqliteConnection,
        facts: Vec<Fact>,
    ) -> Result<(), sqlx::Error> {
        let mut totals: BTreeMap<Place, Sums> = BTreeMap::new();
        // In the order in which the log has them first: which tags of a day are counted does not depend on where batches end.
        let mut tagged: Vec<(Place, Box<str>, Sums)> = Vec::new();
        let mut known: HashMap<(Place, Box<str>), usize> = HashMap::new();
        for fact in facts {
            for &(day, counted, number) in &fact.counts {
                let place = Place {
                    server: fact.server,
                    stream: fact.stream.clone(),
                    day,
                };
                if !fact.tag.is_empty() {
                    let key = (place.clone(), fact.tag.clone());
                    let index = *known.entry(key).or_insert_with(|| {
                        tagged.push((place.clone(), fact.tag.clone(), Sums::new()));
                        tagged.len() - 1
                    });
                    *tagged[index].2.entry(counted).or_default() += number;
                }
                *totals.entry(place).or_default().entry(counted).or_default() += number;
            }
        }
        for (place, sums) in &totals {
            for (counted, number) in sums {
                sqlx::query(
                    "INSERT INTO total VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                )
                .bind(place.server)
                .bind(&*place.stream)
                .bind(place.day.0)
                .bind(counted.code())
                .bind(number)
                .execute(&mut *tables)
                .await?;
            }
        }
        for (place, tag, sums) in &tagged {
            if !self.has_room(tables, place, tag).await? {
                metrics::STATISTICS_UNTAGGED.add(1);
                continue;
            }
            for (counted, number) in sums {
                sqlx::query(
                    "INSERT INTO tagged VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                )
                .bind(place.server)
                .bind(&**tag)
                .bind(&*place.stream)
                .bind(place.day.0)
                .bind(counted.code())
                .bind(number)
                .execute(&mut *tables)
                .await?;
            }
        }
        Ok(())
    }

    /// Whether this tag is one of those that are counted on that day; if it can become one, it does.
    async fn has_room(
        &self,
        tables: &mut SqliteConnection,
        place: &Place,
        tag: &str,
    ) -> Result<bool, sqlx::Error> {
        let known: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM tagged WHERE server = $1 AND tag = $2 AND stream = $3 AND day = $4 LIMIT 1",
        )
        .bind(place.server)
        .bind(tag)
        .bind(&*place.stream)
        .bind(place.day.0)
        .fetch_optional(&mut *tables)
        .await?;
        if known.is_some() {
            return Ok(true);
        }
        let added = sqlx::query(
            "INSERT INTO tags VALUES ($1, $2, $3, 1) ON CONFLICT DO UPDATE SET count = count + 1 WHERE count < $4",
        )
        .bind(place.server)
        .bind(&*place.stream)
        .bind(place.day.0)
        .bind(self.tags_max as i64)
        .execute(tables)
        .await?;
        Ok(added.rows_affected() > 0)
    }
}
