//! When and how a base is written: whole, as a merge of the one before and what has changed since.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use super::listing::{Merged, Recent};
use super::state::{List, StateWriter, Stored};
use super::{NAME, Suppressions};
use crate::limits;
use crate::metrics;
use crate::readers::{NotRebuilt, Reader, Standing, State};

impl Suppressions {
    /// Writes a base when it is time. To be called now and then.
    pub async fn keep_up(self: &Arc<Self>) {
        let wanted = {
            let state = self.state();
            metrics::SUPPRESSIONS.set(state.count as f64);
            let (position, len) = state.stored.as_ref().map_or((0, 0), |stored| {
                (stored.base.position, stored.base.state_len())
            });
            let behind = self.spool.events.durable().saturating_sub(position);
            state.stale
                || state.changes >= state.changes_max() / 2
                || behind > limits::SUPPRESSIONS_LOG.max(2 * len)
        };
        if wanted && let Err(error) = self.write_base().await {
            tracing::error!(%error, "the base of the suppressions cannot be written; they hold, and it is tried again");
        }
    }

    /// Writes down all there are, so that the log behind is needed no more.
    pub(super) async fn write_base(self: &Arc<Self>) -> io::Result<()> {
        let _one = self.writing.lock().await;
        let (position, stored, recent) = {
            // Nobody changes anything: whatever is not yet here will be written behind what is durable now.
            let _still = self.changing.lock().await;
            let state = self.state();
            let position = self.spool.events.durable();
            (
                position,
                state.stored.as_ref().map(Arc::clone),
                state.recent.clone(),
            )
        };
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            this.write_state(position, stored.as_deref(), &recent)
        });
        let stored = match written.await {
            Ok(stored) => stored?,
            Err(failed) => return Err(io::Error::other(failed)),
        };
        let mut state = self.state();
        state.stored = Some(Arc::new(stored));
        state.stale = false;
        for changes in state.recent.values_mut() {
            Arc::make_mut(changes).retain(|_, change| change.event >= position);
        }
        state.recent.retain(|_, changes| !changes.is_empty());
        state.changes = state.recent.values().map(|changes| changes.len()).sum();
        Ok(())
    }

    fn write_state(
        &self,
        position: u64,
        stored: Option<&Stored>,
        recent: &HashMap<List, Arc<Recent>>,
    ) -> io::Result<Stored> {
        let key = self.set.key();
        let mut lists: BTreeSet<&List> = recent.keys().collect();
        lists.extend(stored.iter().flat_map(|stored| stored.sections.keys()));
        let mut sections = BTreeMap::new();
        let (readers, now) = (self.spool.readers(), self.clock.unix_ms());
        let base = readers.write(NAME, position, now, &mut |out| {
            let mut writer = StateWriter::begin(out, key)?;
            for &list in &lists {
                let changes = recent.get(list).map(|changes| &**changes);
                let mut merged = Merged::new(list, key, stored, changes);
                while let Some((tag, mut kept)) = merged.next()? {
                    if self.hashed {
                        kept.address = None;
                    }
                    writer.entry(list, tag, &kept)?;
                }
            }
            sections = writer.finish()?;
            Ok(())
        })?;
        Ok(Stored { base, sections })
    }
}

impl Reader for Suppressions {
    fn standing(&self) -> Standing {
        let position = self.spool.events.durable();
        let state = self.state();
        let base = state.stored.as_ref().map(|stored| &stored.base);
        Standing {
            name: NAME,
            state: State::Following,
            position,
            // Whoever writes such an event takes it into account at once.
            lag_bytes: 0,
            at: None,
            bytes: base.map(|base| base.state_len()),
            entries: Some(state.count as u64),
            base: base.map(|base| base.position),
            generation: 0,
            trouble: None,
        }
    }

    fn rebuild(&self) -> Result<(), NotRebuilt> {
        Err(NotRebuilt::Never(
            "suppressions are made again from their base and the event log at every start, before mail is taken: restart the node",
        ))
    }
}
