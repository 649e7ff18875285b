//! The replies of past days, from the event log, judged again.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use spool_format::{LogKind, kind};

use crate::classify::{
    Cluster, Clusters, Evidence, Finding, Rules, Sample, judge, recorded, stage_of,
};
use crate::cli::filter::Moment;
use crate::cli::logs::{LogReader, SLACK_MS};
use crate::cli::output::Row;
use crate::clock::rfc3339;
use crate::event::{Event, EventKind};
use crate::limits;

pub(super) struct Replies {
    reader: LogReader,
    since: u64,
}

/// What other rules would have made of them.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) found: Vec<Change>,
    pub(super) tried: u64,
    /// With the same result.
    pub(super) renamed: u64,
    /// Of an older version.
    pub(super) unknown: u64,
    pub(super) beyond: u64,
}

/// Replies that would be judged otherwise, in the same way.
#[derive(Serialize)]
pub(super) struct Change {
    kind: &'static str,
    count: u64,
    was: String,
    would_be: String,
    /// The first one's event.
    id: u64,
    at: String,
    remote_host: String,
    reply: String,
}

impl Change {
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

impl Row for Change {
    const COLUMNS: &'static [&'static str] = &[">COUNT", "WAS", "WOULD BE", "FOR EXAMPLE"];

    fn cells(&self) -> Vec<String> {
        let said = format!("{} {}", self.remote_host, self.reply.replace('\n', " "));
        vec![
            self.count.to_string(),
            self.was.clone(),
            self.would_be.clone(),
            said,
        ]
    }
}

impl Replies {
    pub(super) fn open(data_dir: &Path, since: Option<Moment>) -> anyhow::Result<Self> {
        let mut reader = LogReader::open(data_dir, LogKind::Event, 0)?;
        let since = since.map_or(0, |since| since.0);
        reader.begin_at_time(since.saturating_sub(SLACK_MS));
        Ok(Self { reader, since })
    }

    /// Calls `take` for each reply that was judged, with what `rules` make of it; `None`: it cannot be tried.
    fn each(
        mut self,
        rules: &Rules,
        mut take: impl FnMut(u64, &Event<'_>, Option<Finding>),
    ) -> anyhow::Result<()> {
        let since = self.since;
        // To the end of what is there: the visitor never has enough.
        let _ = self.reader.read(&mut |position, frame| {
            if frame.kind == kind::EVENT
                && let Ok(Some(event)) = Event::decode(frame.payload)
                && event.at >= since
                && is_judged(&event)
            {
                take(position, &event, found(rules, &event));
            }
            ControlFlow::Continue(())
        })?;
        self.reader.tell_damages();
        Ok(())
    }

    pub(super) fn changes(self, rules: &Rules) -> anyhow::Result<Changes> {
        let mut changes = Changes::default();
        let mut by_kind: HashMap<(String, String), Change> = HashMap::new();
        self.each(rules, |id, event, found| {
            let Some(found) = found else {
                changes.unknown += 1;
                return;
            };
            changes.tried += 1;
            let (was, would_be) = (was(event), result(&found));
            if was == would_be {
                changes.renamed += u64::from(*found.rule != *event.judged.rule);
                return;
            }
            let was = format!("{was} ({})", event.judged.rule);
            let would_be = format!("{would_be} ({})", found.rule);
            let key = (was, would_be);
            if !by_kind.contains_key(&key) && by_kind.len() >= limits::CLUSTERS_MAX {
                changes.beyond += 1;
                return;
            }
            let change = by_kind.entry(key.clone()).or_insert_with(|| Change {
                kind: "changed",
                count: 0,
                was: key.0,
                would_be: key.1,
                id,
                at: rfc3339(event.at),
                remote_host: event.remote_host.to_owned(),
                reply: event.reply.to_owned(),
            });
            change.count += 1;
        })?;
        changes.found = by_kind.into_values().collect();
        changes
            .found
            .sort_by(|a, b| (b.count, a.id).cmp(&(a.count, b.id)));
        Ok(changes)
    }

    /// What no rule knows, and how many are beyond what can be told apart.
    pub(super) fn unmatched(self, rules: &Rules) -> anyhow::Result<(Vec<ClusterRow>, u64)> {
        let mut clusters = Clusters::default();
        self.each(rules, |id, event, found| {
            if found.is_some_and(|found| found.is_the_tables()) {
                let sample = Sample {
                    event: id,
                    host: event.remote_host.to_owned(),
                    stage: event.judged.stage.to_owned(),
                    reply: event.reply.to_owned(),
                };
                clusters.add(event.at, sample);
            }
        })?;
        let beyond = clusters.beyond;
        let rows = clusters.into_sorted().into_iter().map(ClusterRow::from);
        Ok((rows.collect(), beyond))
    }
}

fn is_judged(event: &Event<'_>) -> bool {
    let kind = matches!(
        event.kind,
        EventKind::Deferred | EventKind::Bounced | EventKind::BouncedLater
    );
    // What ended because its answers were lost was not ended by this reply.
    kind && !event.reply.is_empty() && event.cause != "ambiguous"
}

fn found(rules: &Rules, event: &Event<'_>) -> Option<Finding> {
    let stage = stage_of(event.judged.stage)?;
    let reply = recorded(event.reply);
    let host = event
        .remote_host
        .split([' ', '['])
        .next()
        .unwrap_or_default();
    let evidence = Evidence {
        stage,
        reply: &reply,
        host,
        shared: false,
    };
    Some(judge(Some(rules), &evidence))
}

fn was(event: &Event<'_>) -> String {
    let judged = &event.judged;
    let outcome = match event.kind {
        EventKind::Deferred => "deferred",
        _ if judged.reaction == "hard" => "suppressed",
        _ => "bounced",
    };
    format!(
        "{outcome} {}, {}, {}",
        event.cause, judged.scope, judged.reaction
    )
}

fn result(found: &Finding) -> String {
    let (outcome, cause) = (found.outcome(), found.class.as_str());
    format!(
        "{outcome} {cause}, {}, {}",
        found.reach.as_str(),
        found.reaction.as_str()
    )
}

#[derive(Serialize)]
pub(super) struct ClusterRow {
    count: u64,
    pattern: String,
    first_seen: String,
    last_seen: String,
    samples: Vec<SampleRow>,
}

#[derive(Serialize)]
struct SampleRow {
    id: u64,
    remote_host: String,
    stage: String,
    reply: String,
}

impl From<Cluster> for ClusterRow {
    fn from(cluster: Cluster) -> Self {
        let samples = cluster.samples.into_iter().map(|sample| SampleRow {
            id: sample.event,
            remote_host: sample.host,
            stage: sample.stage,
            reply: sample.reply,
        });
        Self {
            count: cluster.count,
            pattern: cluster.pattern,
            first_seen: rfc3339(cluster.first),
            last_seen: rfc3339(cluster.last),
            samples: samples.collect(),
        }
    }
}

impl Row for ClusterRow {
    const COLUMNS: &'static [&'static str] = &[
        ">COUNT",
        "FIRST SEEN",
        "LAST SEEN",
        "STAGE",
        "HOST",
        "WORDS",
    ];

    fn cells(&self) -> Vec<String> {
        let sample = self.samples.first();
        let of = |take: fn(&SampleRow) -> &str| sample.map_or("", take).to_owned();
        vec![
            self.count.to_string(),
            self.first_seen.clone(),
            self.last_seen.clone(),
            of(|sample| &sample.stage),
            of(|sample| &sample.remote_host),
            self.pattern.clone(),
        ]
    }
}
