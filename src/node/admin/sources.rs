//! Egress sources, as operators see and steer them. An order is durable before it takes effect, and before it is answered.

use super::Backend;
use super::reasons::stop_words;
use crate::clock::{UnixMs, rfc3339};
use crate::config::{Source, SourceId};
use crate::http::{AdminError, wire};
use crate::node::orders::{DrainedSource, OrderError};
use crate::queue::{SourceRow, StopCause};

impl Backend {
    pub(super) async fn list_sources(&self) -> Result<Vec<wire::Source>, AdminError> {
        let rows = self.ask(|scheduler, now| scheduler.sources(now)).await?;
        let mut rows: Vec<_> = rows.iter().filter_map(|row| self.source_row(row)).collect();
        rows.sort_by_key(|(id, _)| *id);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    pub(super) async fn drain(
        &self,
        name: String,
        drain: wire::NewDrain,
    ) -> Result<wire::Source, AdminError> {
        let id = self.source_named(&name)?.id;
        let now = self.clock.unix_ms();
        let until = drain
            .seconds
            .map(|seconds| now.saturating_add(seconds.saturating_mul(1_000)));
        let order = DrainedSource {
            source: name,
            reason: drain.reason.clone(),
            since_unix_ms: now,
            until_unix_ms: until,
        };
        let change = self.orders_book.change(move |orders| {
            let drained = &mut orders.drained_sources;
            drained.retain(|other| other.source != order.source && !other.is_over(now));
            drained.push(order);
        });
        change.await?;
        let reason = drain.reason.into();
        self.ask(move |scheduler, now| scheduler.drain_source(now, id, reason, until))
            .await?;
        self.source(id).await
    }

    pub(super) async fn resume(&self, name: String) -> Result<wire::Source, AdminError> {
        let id = self.source_named(&name)?.id;
        let now = self.clock.unix_ms();
        let change = self.orders_book.change(move |orders| {
            let drained = &mut orders.drained_sources;
            drained.retain(|other| other.source != name && !other.is_over(now));
        });
        change.await?;
        self.ask(move |scheduler, now| scheduler.resume_source(now, id))
            .await?;
        self.source(id).await
    }

    async fn source(&self, id: SourceId) -> Result<wire::Source, AdminError> {
        let rows = self.ask(|scheduler, now| scheduler.sources(now)).await?;
        let row = rows.iter().find(|row| row.source == id);
        row.and_then(|row| self.source_row(row))
            .map(|(_, row)| row)
            .ok_or_else(|| AdminError::NotFound("the source is gone".to_owned()))
    }

    fn source_named(&self, name: &str) -> Result<&Source, AdminError> {
        let found = self
            .configured()
            .iter()
            .find(|source| *source.name == *name);
        found.ok_or_else(|| unknown(name))
    }

    /// Without the one of sandboxed servers.
    fn configured(&self) -> &[Source] {
        let (_, configured) = self.egress.split_last().unzip();
        configured.unwrap_or_default()
    }

    fn source_row(&self, row: &SourceRow) -> Option<(SourceId, wire::Source)> {
        let source = self.configured().iter().find(|s| s.id == row.source)?;
        let stop = row.stop.as_ref();
        let state = match stop.map(|stop| stop.why) {
            None => "in_service",
            Some(StopCause::Drained) => "drained",
            Some(_) => "out",
        };
        let time = |at: UnixMs| rfc3339(at);
        let described = wire::Source {
            name: source.name.to_string(),
            pool: self.pool_name(row.pool),
            addresses: source.addresses().map(|a| a.to_string()).collect(),
            public_addresses: source.seen_as().map(|a| a.to_string()).collect(),
            ehlo: source.ehlo.clone(),
            proxy: source.proxy.as_ref().map(ToString::to_string),
            weight: row.weight,
            state: state.to_owned(),
            reason: stop.map(|stop| stop_words(Some(stop))),
            since: stop.map(|stop| time(stop.since)),
            until: stop.and_then(|stop| stop.until).map(time),
            connections: row.connections as u64,
            messages_hour: row.messages.into(),
            last_trouble_at: row.last_trouble.as_ref().map(|(at, _)| time(*at)),
            last_trouble: row.last_trouble.as_ref().map(|(_, text)| text.to_string()),
        };
        Some((source.id, described))
    }
}

pub(super) fn unknown(name: &str) -> AdminError {
    AdminError::NotFound(format!(
        "there is no source `{name}`; `posthaste source ls` names them"
    ))
}

impl From<OrderError> for AdminError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Disk { .. } => Self::Failed(error.to_string()),
            OrderError::TooMany { .. } => Self::Conflict(error.to_string()),
        }
    }
}
