//! The table of what waits: counted in steps between the dispatcher's rounds, sorted and cut here.

use super::Backend;
use crate::clock::rfc3339;
use crate::config::{PoolId, Set, StreamKind};
use crate::http::{AdminError, CensusBy, CensusPage, CensusSort, wire};
use crate::limits;
use crate::metrics;
use crate::queue::{AGE_MINUTES, By, Census, Group, QueueRow, Tally, Way};

/// Rows of one census are looked into so many at a time.
const ROWS_AT_ONCE: usize = 64;

impl Backend {
    /// Keeps the gauges of what waits how long, from time to time. `kinds` are those of the pools.
    pub(in crate::node) async fn keep_ages(self, kinds: Vec<StreamKind>) {
        loop {
            let began = self.clock.instant();
            // The node is about to end, or too busy to be asked: then the next time.
            if let Ok(rows) = self.count(By::Pool).await {
                for kind in [StreamKind::Transactional, StreamKind::Broadcast] {
                    let is_of = |group: &Group| {
                        pool_of(group).and_then(|pool| kinds.get(usize::from(pool.0)))
                            == Some(&kind)
                    };
                    self.show_ages(kind, rows.iter().filter(|(group, _)| is_of(group)));
                }
            }
            let took = self.clock.instant().duration_since(began);
            let [least, most] = limits::AGES_LOOK;
            tokio::time::sleep((took * limits::AGES_SHARE).clamp(least, most)).await;
        }
    }

    fn show_ages<'a>(&self, kind: StreamKind, rows: impl Iterator<Item = &'a (Group, Tally)>) {
        let mut sums = [0; AGE_MINUTES.len() + 2];
        let mut oldest = None;
        for (_, tally) in rows {
            let counts = tally.ages.iter().chain([&tally.age_unknown]);
            sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
            oldest = oldest.into_iter().chain(tally.oldest).min();
        }
        let kind = metrics::kind_text(kind);
        for (age, sum) in metrics::AGES.iter().zip(sums) {
            metrics::QUEUE_AGES.set_at(&[kind, age], sum as f64);
        }
        let age = oldest.map_or(0, |at| self.clock.unix_ms().saturating_sub(at));
        metrics::QUEUE_OLDEST.set_of(kind, age as f64 / 1_000.0);
    }

    async fn count(&self, by: By) -> Result<Vec<(Group, Tally)>, AdminError> {
        let mut census = Census::new(by);
        loop {
            let (next, done) = self
                .ask(move |s, _| {
                    let done = s.census(&mut census);
                    (census, done)
                })
                .await?;
            census = next;
            if done {
                return Ok(census.rows());
            }
        }
    }

    pub(super) async fn census_now(&self, page: CensusPage) -> Result<wire::Census, AdminError> {
        let by = match page.by {
            CensusBy::Domain => By::Domain,
            CensusBy::Site => By::Site,
            CensusBy::Stream => By::Stream,
            CensusBy::Server => By::Server,
            CensusBy::Source => By::Source,
            CensusBy::Pool => By::Pool,
        };
        let mut rows = self.count(by).await?;
        let mut recipients = wire::Recipients::default();
        for (_, tally) in &rows {
            recipients.ready += tally.ready;
            recipients.deferred += tally.deferred;
            recipients.in_flight += tally.in_flight;
        }
        let groups = rows.len() as u64;
        self.sort(&mut rows, &page)?;
        let more = rows.len() > page.count_max;
        rows.truncate(page.count_max);
        let mut shown = Vec::with_capacity(rows.len());
        for (group, tally) in &rows {
            shown.push(self.census_row(group, tally));
        }
        self.look_into(&rows, &mut shown).await?;
        let last = shown
            .last()
            .filter(|_| more && page.sort == CensusSort::Name);
        let next = last.map(|row| wire::QueueKey {
            pool: row.pool.clone().unwrap_or_default(),
            domain: row.name.clone(),
        });
        Ok(wire::Census {
            rows: shown,
            groups,
            recipients,
            next,
        })
    }

    fn sort(&self, rows: &mut Vec<(Group, Tally)>, page: &CensusPage) -> Result<(), AdminError> {
        let key = |group: &Group| (pool_of(group).map(|pool| pool.0), self.name_of(group));
        if let Some((pool, name)) = &page.after {
            let pool = match pool.is_empty() {
                true => None,
                false => Some(self.pool_id(pool)?.0),
            };
            let after = (pool, name.clone());
            rows.retain(|(group, _)| key(group) > after);
        }
        match page.sort {
            CensusSort::Name => rows.sort_by_cached_key(|(group, _)| key(group)),
            CensusSort::Size => {
                rows.sort_by_cached_key(|(group, tally)| (u64::MAX - tally.total(), key(group)));
            }
            CensusSort::Age => {
                let oldest = |tally: &Tally| tally.oldest.unwrap_or(u64::MAX);
                rows.sort_by_cached_key(|(group, tally)| (oldest(tally), key(group)));
            }
            CensusSort::Outcomes => {
                rows.sort_by_cached_key(|(group, tally)| (u64::MAX - tally.outcomes, key(group)));
            }
        }
        Ok(())
    }

    fn name_of(&self, group: &Group) -> String {
        match group {
            Group::Domain(_, domain) => domain.to_string(),
            Group::Site(_, site) => site.as_deref().unwrap_or_default().to_owned(),
            Group::Stream(_, server, stream) => format!("{server}/{stream}"),
            Group::Server(_, server) => server.to_string(),
            Group::Source(Some(source)) => self.source_name(*source).to_owned(),
            Group::Source(None) => String::new(),
            Group::Pool(pool) => self.pool_name(*pool),
        }
    }

    fn census_row(&self, group: &Group, tally: &Tally) -> wire::CensusRow {
        let name = self.name_of(group);
        wire::CensusRow {
            pool: pool_of(group).map(|pool| self.pool_name(pool)),
            domain: matches!(group, Group::Domain(..)).then(|| name.clone()),
            name,
            site: None,
            ready: tally.ready,
            deferred: tally.deferred,
            in_flight: tally.in_flight,
            ages: tally.ages.to_vec(),
            age_unknown: tally.age_unknown,
            oldest_at: tally.oldest.map(rfc3339),
            outcomes: tally.outcomes,
            next_wake_at: None,
            reasons: Vec::new(),
        }
    }

    /// Why rows about domains wait.
    async fn look_into(
        &self,
        rows: &[(Group, Tally)],
        shown: &mut [wire::CensusRow],
    ) -> Result<(), AdminError> {
        for (rows, shown) in rows
            .chunks(ROWS_AT_ONCE)
            .zip(shown.chunks_mut(ROWS_AT_ONCE))
        {
            let domains = rows.iter().filter_map(|(group, _)| match group {
                Group::Domain(pool, domain) => Some((*pool, domain.clone())),
                _ => None,
            });
            let domains: Vec<_> = domains.collect();
            if domains.is_empty() {
                return Ok(());
            }
            let found = self.ask(move |s, _| {
                let rows = domains
                    .iter()
                    .map(|(pool, domain)| s.destination(*pool, domain));
                rows.collect::<Vec<_>>()
            });
            for ((found, (_, tally)), shown) in found.await?.into_iter().zip(rows).zip(shown) {
                let Some(row) = found else { continue };
                let row = QueueRow {
                    scheduled: tally.scheduled as usize,
                    ..row
                };
                shown.site = row.site.as_deref().map(str::to_owned);
                shown.next_wake_at = row.next_wake.map(rfc3339);
                shown.reasons = self.reasons_of(&row);
            }
        }
        Ok(())
    }

    pub(super) fn way(&self, way: &Way) -> wire::Way {
        let name = |source| self.source_name(source).to_owned();
        let sources = way.sources.iter();
        wire::Way {
            sources: sources
                .map(|&(source, weight)| format!("{} (weight {weight})", self.source_name(source)))
                .collect(),
            sticks_to: way.sticks_to.map(name),
            takes: way.takes.map(name),
            server: way.server.to_string(),
            stream: way.stream.to_string(),
            share: way.share,
            limits: way.limits.as_deref().map(limits_of).unwrap_or_default(),
        }
    }
}

fn limits_of(limits: &crate::config::PathLimits) -> Vec<wire::Limit> {
    fn limit<T: ToString>(name: &str, set: &Set<T>) -> wire::Limit {
        wire::Limit {
            limit: name.to_owned(),
            value: set.value.to_string(),
            rule: set.rule.to_string(),
        }
    }
    let mut all = vec![
        limit("connections", &limits.connections),
        limit("messages_per_connection", &limits.messages_per_connection),
        limit("recipients_per_message", &limits.recipients_per_message),
    ];
    let rates = [
        ("message_rate", &limits.message_rate),
        ("connection_rate", &limits.connection_rate),
    ];
    let set = rates
        .iter()
        .filter_map(|(name, set)| Some(limit(name, set.as_ref()?)));
    all.extend(set);
    let volumes = [
        ("messages_per_hour", &limits.messages_per_hour),
        ("messages_per_day", &limits.messages_per_day),
    ];
    let set = volumes
        .iter()
        .filter_map(|(name, set)| Some(limit(name, set.as_ref()?)));
    all.extend(set);
    all
}

fn pool_of(group: &Group) -> Option<PoolId> {
    match group {
        Group::Domain(pool, _) | Group::Site(pool, _) | Group::Pool(pool) => Some(*pool),
        _ => None,
    }
}
