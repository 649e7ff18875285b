//! Readers of the event log, as operators see them.

use super::Backend;
use crate::clock::rfc3339;
use crate::http::{AdminError, wire};
use crate::readers::{NotRebuilt, Standing, State};

impl Backend {
    pub(super) fn list_readers(&self) -> Vec<wire::Reader> {
        let standings = self.readers.iter().map(|reader| reader.standing());
        standings
            .map(|standing| self.reader_row(standing))
            .collect()
    }

    pub(super) fn rebuild_now(&self, name: &str) -> Result<wire::Reader, AdminError> {
        let mut readers = self.readers.iter();
        let reader = readers.find(|reader| reader.standing().name == name);
        let reader = reader.ok_or_else(|| {
            AdminError::NotFound(format!(
                "there is no reader `{name}`; `posthaste readers ls` names them"
            ))
        })?;
        match reader.rebuild() {
            Ok(()) => Ok(self.reader_row(reader.standing())),
            Err(error @ NotRebuilt::UnderWay) => {
                Err(AdminError::Conflict(format!("{name}: {error}")))
            }
            Err(error @ NotRebuilt::Never(_)) => Err(AdminError::Conflict(format!(
                "{name} is not rebuilt by an order: {error}"
            ))),
        }
    }

    fn reader_row(&self, standing: Standing) -> wire::Reader {
        let (state, rebuilding) = match standing.state {
            State::Opening => ("opening", None),
            State::Following => ("following", None),
            State::Rebuilding { from, position } => (
                "rebuilding",
                Some(wire::Rebuilding {
                    from,
                    position,
                    until: self.spool.events.durable(),
                }),
            ),
        };
        wire::Reader {
            name: standing.name.to_owned(),
            state: state.to_owned(),
            position: standing.position,
            lag_bytes: standing.lag_bytes,
            at: standing.at.map(rfc3339),
            bytes: standing.bytes,
            entries: standing.entries,
            base: standing.base,
            rebuilding,
            generation: standing.generation,
            trouble: standing.trouble,
        }
    }
}
