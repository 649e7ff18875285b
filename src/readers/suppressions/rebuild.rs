//! What a start makes of the base and of the log behind it.
//!
//! Promises: damage costs what it hit, and is told. Nothing is refused for it: mail to somebody who was suppressed is bad, no
//! mail at all is worse.

use std::collections::HashMap;
use std::io;

use spool_format::kind;
use spool_format::layout::event::KIND;

use super::listing::{Change, Recent};
use super::state::{Kept, List, Stored};
use super::{Address, NAME, settles};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::metrics;
use crate::spool::{Log, ReaderBases};
use crate::suppression::{Loading, Suppression, TagKey};

pub(super) struct Rebuild {
    pub(super) loading: Loading,
    pub(super) recent: HashMap<List, Recent>,
    /// The base is to be written anew.
    pub(super) stale: bool,
    hashed: bool,
}

impl Rebuild {
    pub(super) fn new(key: TagKey, hashed: bool) -> Self {
        Self {
            loading: Loading::new(key),
            recent: HashMap::new(),
            stale: false,
            hashed,
        }
    }

    /// `None`: there is none that can be used, and the log is to be read from its start.
    pub(super) fn read_base(&mut self, readers: &ReaderBases) -> io::Result<Option<Stored>> {
        let base = match readers.register(NAME) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return self.put_aside(readers, &error);
            }
            registered => registered?,
        };
        let Some(base) = base else { return Ok(None) };
        let key = self.loading.key().clone();
        let is_ours = Stored::is_of(&base, &key)?;
        let position = base.position;
        let (loading, recent, stale) = (&mut self.loading, &mut self.recent, &mut self.stale);
        let (hashed, mut lost) = (self.hashed, 0u64);
        let read = Stored::read(base, &key, &mut |list, tag, kept: Kept| {
            if !is_ours && kept.address.is_none() {
                lost += 1;
                return;
            }
            loading.put(tag, Some(kept.suppression));
            *stale |= hashed && kept.address.is_some();
            if !is_ours {
                // In the order of another key: kept as changes until the base is written in that of ours.
                let event = position.saturating_sub(1).min(kept.event);
                let change = Change {
                    event,
                    settles: event,
                    kept: Some(kept),
                };
                recent.entry(list.clone()).or_default().insert(tag, change);
            }
        });
        let stored = match read {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return self.put_aside(readers, &error);
            }
            stored => stored?,
        };
        self.stale |= !is_ours;
        if lost > 0 {
            tracing::error!(
                lost,
                "suppressions were kept as hashes under another node.key, and hold no more"
            );
        }
        Ok(Some(match is_ours {
            true => stored,
            false => stored.without_entries(),
        }))
    }

    fn put_aside(
        &mut self,
        readers: &ReaderBases,
        error: &io::Error,
    ) -> io::Result<Option<Stored>> {
        self.stale = true;
        let aside = readers.put_aside(NAME)?;
        metrics::SPOOL_DAMAGE.add_to("event", 1);
        tracing::error!(
            %error,
            aside = %aside.display(),
            "the base of the suppressions is damaged: they are made again from the event log, as far as that reaches back; import the others (posthaste suppression import)"
        );
        Ok(None)
    }

    /// Takes what the log says from a position on.
    pub(super) fn read_log(&mut self, events: &Log, from: u64) {
        let bytes = events.durable().saturating_sub(from.max(events.start()));
        if bytes > limits::SUPPRESSIONS_LOG * 8 {
            tracing::info!(
                bytes,
                "the event log is read for suppressions; this takes a while, once"
            );
        }
        for item in events.records_from(from) {
            match item {
                Ok((record, _)) if record.kind == kind::EVENT => {
                    self.take(record.position, &record.payload);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "part of the event log cannot be read: a suppression in it is lost");
                }
            }
        }
    }

    fn take(&mut self, position: u64, payload: &[u8]) {
        // Nearly all events are of mail: they cost a look at two octets.
        let code = payload.get(KIND..KIND + 2).and_then(|b| b.try_into().ok());
        let kind = EventKind::from_code(code.map_or(0, u16::from_le_bytes));
        if !matches!(kind, Some(EventKind::Suppressed | EventKind::Unsuppressed)) {
            return;
        }
        let Ok(Some(event)) = Event::decode(payload) else {
            return;
        };
        let suppression = match (event.cause.parse(), event.origin.parse()) {
            (Ok(reason), Ok(origin)) => Some(Suppression { reason, origin }),
            _ => None,
        };
        let (Some(address), Some(suppression)) = (Address::parse(event.recipient), suppression)
        else {
            tracing::error!(position, "a suppression in the event log is not understood");
            return;
        };
        let list = List {
            server: event.server_id,
            stream: event.stream.into(),
        };
        let tag = address.tag(self.loading.key(), &list);
        let holds = (event.kind == EventKind::Suppressed).then_some(suppression);
        self.loading.put(tag, holds);
        let kept = holds.map(|suppression| Kept {
            address: match &address {
                Address::Clear(mailbox) if !self.hashed => Some(mailbox.as_str().into()),
                _ => None,
            },
            suppression,
            since: event.since.unwrap_or(event.at),
            event: position,
        });
        let change = Change {
            event: position,
            settles: settles(&event, position),
            kept,
        };
        self.recent.entry(list).or_default().insert(tag, change);
    }
}
