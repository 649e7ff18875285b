//! The thread that writes checkpoints: when, from what, and slowly enough to be in nobody's way.
//!
//! Promises: what a checkpoint leaves out, the logs behind it say; it is built from the logs alone, so a fault of the
//! scheduler cannot get into it; it takes no lock that an append or a delivery wants, and stops within a moment.
//! Does not know: how a file is made durable (`checkpoint`), nor how recipients are told from records (`backlog`).
//!
//! # Where a checkpoint stands
//! The order matters ([`Cut`]): first the event log's watermark, then which segments of the mail log are dead, then the mail
//! log's watermark. So every event below is about a message below; and a message that compaction moves meanwhile is found
//! at its old place, whose segment is held until it was read, or at its new place below the watermark. A segment is passed
//! over as dead only if it was so before the watermark was read.
//!
//! A *base* is the checkpoint before it and both logs behind, merged as a start would. A *delta* is only the messages of the
//! mail log behind: it makes no event unnecessary.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use spool_format::layout::PAGE_OFFSET;
use spool_format::scan::{self, Item};
use spool_format::{CheckpointGaps, Frame, LiveMessage, LogKind, Names, kind};

use super::backlog::{BacklogError, Gathering, Sizes};
use super::checkpoint::{self, Chain, CheckpointFile, Store};
use super::log::Shared;
use super::recover::{Reader, RecoverError};
use super::roll::PreparerBell;
use super::segment::Segment;
use super::space::Space;
use super::sync::{Ordering, lock};
use crate::clock::Clock;
use crate::limits;
use crate::metrics;

pub(crate) struct Checkpointer {
    pub(crate) store: Arc<Store>,
    pub(crate) mail: Arc<Shared>,
    pub(crate) events: Arc<Shared>,
    pub(crate) space: Arc<Space>,
    pub(crate) bell: Arc<PreparerBell>,
    pub(crate) clock: Clock,
    pub(crate) sizes: Sizes,
}

/// Why a checkpoint was not written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the node stops")]
    Stopping,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Log(#[from] RecoverError),
    #[error("{0}")]
    Backlog(#[from] BacklogError),
    /// A page of a log did not come from the medium: it may yet, so nothing is left out because of it.
    #[error("a page of segment {0} cannot be read")]
    Unreadable(u64),
}

/// Places in both logs that belong together, and the segments in between as they were then.
struct Cut {
    event_to: u64,
    mail_to: u64,
    mail: Vec<Arc<Segment>>,
    events: Vec<Arc<Segment>>,
    gaps: CheckpointGaps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Base,
    Delta,
}

impl Checkpointer {
    pub(crate) fn run(self) {
        // This thread alone: on Linux a priority belongs to a thread.
        let _ = rustix::process::setpriority_process(None, 19);
        while !self.bell.is_closing() {
            self.bell.wait(limits::CHECKPOINT_POLL);
            if self.bell.is_closing() || !self.space.reclaim.load(Ordering::Relaxed) {
                continue;
            }
            let chain = self.store.chain();
            let Some(due) = self.due(chain.as_ref()) else {
                continue;
            };
            match self.write(due, chain.as_ref()) {
                Ok(()) => {}
                Err(Failure::Stopping) => return,
                Err(error) => {
                    metrics::SPOOL_CHECKPOINT_FAILURES.add(1);
                    tracing::warn!(%error, "no checkpoint was written; the next start takes longer");
                    self.bell.wait(limits::CHECKPOINT_RETRY);
                }
            }
        }
    }

    /// Writes a base now, whether it is due or not.
    #[cfg(test)]
    pub(crate) fn write_now(&self, base: bool) -> Result<(), String> {
        let due = if base { Due::Base } else { Due::Delta };
        let chain = self.store.chain();
        self.write(due, chain.as_ref())
            .map_err(|error| error.to_string())
    }

    fn due(&self, chain: Option<&Chain>) -> Option<Due> {
        let mail = bytes_behind(&self.mail, chain.map_or(0, Chain::mail_to));
        let events = bytes_behind(&self.events, chain.map_or(0, Chain::event_to));
        let Some(chain) = chain else {
            let large = events > self.sizes.checkpoint_events || mail > self.sizes.checkpoint_mail;
            return large.then_some(Due::Base);
        };
        let many = chain.deltas.len() >= limits::CHECKPOINT_DELTAS;
        if events > self.sizes.checkpoint_events.max(chain.base.bytes / 2) {
            Some(Due::Base)
        } else if mail > self.sizes.checkpoint_mail {
            Some(if many { Due::Base } else { Due::Delta })
        } else {
            None
        }
    }

    fn write(&self, due: Due, chain: Option<&Chain>) -> Result<(), Failure> {
        let started = self.clock.instant();
        let cut = self.cut(chain);
        let file = match (due, chain) {
            (Due::Delta, Some(chain)) => self.delta(chain, cut)?,
            _ => self.base(chain, cut)?,
        };
        let seconds = self.clock.instant().duration_since(started).as_secs_f64();
        checkpoint::told(&file, Some(seconds));
        if let Some((_, events)) = self.store.bounds() {
            // The archives' keeper looks by itself.
            self.space.checkpointed.fetch_max(events, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cut(&self, chain: Option<&Chain>) -> Cut {
        let behind = |log: &Shared, from: u64| -> Vec<Arc<Segment>> {
            let segments = log.segments.load();
            let behind = segments.iter().filter(|s| s.header.next_position() > from);
            behind.map(Arc::clone).collect()
        };
        let event_to = written_to(&self.events).max(chain.map_or(0, Chain::event_to));
        let events = behind(&self.events, chain.map_or(0, Chain::event_to));
        let from = chain.map_or(0, Chain::mail_to);
        // In order of position: what is moved from one is in a later one.
        let mut mail = behind(&self.mail, from);
        let seen = mail.last().map_or(from, |last| last.header.next_position());
        // Before everybody has said what he holds, nothing is known to be dead.
        if self.space.reclaim.load(Ordering::Relaxed) {
            mail.retain(|segment| !segment.is_dead());
        }
        let mail_to = written_to(&self.mail).max(from);
        mail.extend(behind(&self.mail, seen));
        Cut {
            event_to,
            mail_to,
            mail,
            events,
            gaps: self.gaps(),
        }
    }

    pub(crate) fn gaps(&self) -> CheckpointGaps {
        let ranges = |log: &Shared| lock(&log.gaps).ranges().to_vec();
        CheckpointGaps {
            mail: ranges(&self.mail),
            events: ranges(&self.events),
        }
    }

    fn delta(&self, chain: &Chain, cut: Cut) -> Result<CheckpointFile, Failure> {
        let (from, to) = (chain.mail_to(), cut.mail_to);
        let place = (to, cut.event_to);
        let now = self.clock.unix_ms();
        let mut writer = self.store.begin(Some(chain), place, cut.gaps, now)?;
        let (mut names, mut message) = (Names::default(), LiveMessage::default());
        let mut written = 0;
        for segment in &cut.mail {
            self.records(segment, from, to, |position, frame| {
                let is_message = frame.kind == kind::MESSAGE;
                // One that cannot be read is not delivered by any start.
                if is_message
                    && message
                        .read(position, frame.flags, frame.payload, &mut names)
                        .is_ok()
                    && !message.recipients.is_empty()
                {
                    writer.push(&message, &names)?;
                }
                Ok(())
            })?;
            self.spend(writer.written() - written)?;
            written = writer.written();
        }
        Ok(self.store.adopt(writer)?)
    }

    fn base(&self, chain: Option<&Chain>, cut: Cut) -> Result<CheckpointFile, Failure> {
        let mut gathering = Gathering::behind(&self.store, chain, self.sizes)?;
        let from = chain.map_or(0, Chain::mail_to);
        for segment in &cut.mail {
            self.records(segment, from, cut.mail_to, |position, frame| {
                // As above.
                let _ = gathering.mail(position, frame.kind, frame.flags, frame.payload);
                Ok(())
            })?;
        }
        let from = chain.map_or(0, Chain::event_to);
        for segment in &cut.events {
            let whole = self.records(segment, from, cut.event_to, |_, frame| {
                let _ = gathering.event(frame.kind, frame.payload);
                Ok(gathering.condense()?)
            })?;
            if !whole {
                gathering.event_lost();
            }
        }
        let mut backlog = gathering.finish()?;
        let place = (cut.mail_to, cut.event_to);
        let mut writer = self
            .store
            .begin(None, place, cut.gaps, self.clock.unix_ms())?;
        let (mut message, mut written) = (LiveMessage::default(), 0);
        while backlog.next(&mut message)? {
            message.is_copy = false;
            writer.push(&message, backlog.names())?;
            if writer.written() > written {
                // It was read as well.
                self.spend(2 * (writer.written() - written))?;
                written = writer.written();
            }
        }
        Ok(self.store.adopt(writer)?)
    }

    /// The records of a segment at positions `from..to`. Whether all of them could be read.
    fn records(
        &self,
        segment: &Segment,
        from: u64,
        to: u64,
        mut take: impl FnMut(u64, &Frame<'_>) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let first = segment.first_position();
        let end = segment.end().min(to.saturating_sub(first));
        let start = from.saturating_sub(first);
        if end <= start.max(PAGE_OFFSET) {
            return Ok(true);
        }
        let log = match segment.header.kind {
            LogKind::Mail => &self.mail,
            LogKind::Event => &self.events,
        };
        let mut reader = Reader::new(log.disk.as_ref());
        // A record half erased would pass for damage, and what it said for lost.
        let turn = segment.undisturbed();
        reader.read(&segment.path, segment.number(), end)?;
        drop(turn);
        if reader.unreadable_from.is_some() {
            return Err(Failure::Unreadable(segment.number()));
        }
        let mut whole = true;
        for item in scan::sealed(&reader.bytes, &segment.header, end).skip_to(start) {
            match item {
                Item::Record(frame) => take(first + frame.offset, &frame)?,
                Item::Damage(damage) => {
                    let at = first + damage.offset;
                    if !lock(&log.gaps).covers(at, at + damage.len) {
                        whole = false;
                        metrics::SPOOL_DAMAGE.add_to(log.name(), 1);
                        tracing::error!(
                            log = log.name(),
                            segment = segment.number(),
                            offset = damage.offset,
                            len = damage.len,
                            reason = damage.reason.as_str(),
                            "damaged spool: these bytes are skipped; see `posthaste spool verify`"
                        );
                    }
                }
            }
        }
        self.spend(end - start.min(end))?;
        Ok(whole)
    }

    /// Takes the time that so many bytes may take.
    fn spend(&self, bytes: u64) -> Result<(), Failure> {
        let pause = Duration::from_secs_f64(bytes as f64 / limits::CHECKPOINT_RATE as f64);
        let until = self.clock.instant() + pause;
        loop {
            if self.bell.is_closing() {
                return Err(Failure::Stopping);
            }
            let left = until.saturating_duration_since(self.clock.instant());
            if left.is_zero() {
                return Ok(());
            }
            self.bell.wait(left);
        }
    }
}

/// The end of the last durable batch. The watermark may be further: at the beginning of a segment without one, of which the
/// next start knows nothing.
fn written_to(log: &Shared) -> u64 {
    let durable = log.durable();
    let segments = log.segments.load();
    let mut used = segments.iter().rev();
    let last = used.find(|segment| segment.first_position() + PAGE_OFFSET < durable);
    last.map_or(0, |last| durable.min(last.first_position() + last.end()))
}

/// What a start would read of a log behind a position.
fn bytes_behind(log: &Shared, position: u64) -> u64 {
    let segments = log.segments.load();
    let behind = segments.iter().map(|segment| {
        let end = segment.first_position() + segment.end();
        end.saturating_sub(position.max(segment.first_position()))
    });
    behind.sum()
}
