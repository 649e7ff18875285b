//! The thread that makes archives and removes them: it decides how long history is kept. Before that it writes down digests
//! of segments that are not written any more.
//!
//! Promises: a dead segment of the mail log goes only when what is to be kept of it is archived, or when space is so short
//! that new mail would be refused; content whose retention is over is gone within a day of it, or within twice its time; a
//! segment of the event log goes only when a checkpoint covers it and it is archived, its archive only when every reader's
//! base covers it as well. Nothing waits for this thread but the reuse of segments: it runs at the lowest priority, works
//! half of the time, and is given up when the node stops.
//! Does not know: how long what is kept. [`Retention`] says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::write::{Archived, AtOnce, Leisurely, Pace, over};
use super::{Entry, Over, ReadError, Retention, Shelf};
use crate::clock::{Clock, UnixMs};
use crate::limits;
use crate::metrics;
use crate::spool::bases::ReaderBases;
use crate::spool::digests::Digests;
use crate::spool::disk::{Disk, is_full};
use crate::spool::log::Shared;
use crate::spool::roll::PreparerBell;
use crate::spool::segment::Segment;
use crate::spool::space::Space;
use crate::spool::sync::{Ordering, lock};

/// What is kept, and how long.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Of content. `None`: nothing is archived of the mail log.
    pub content: Option<Arc<dyn Retention>>,
    /// Of events. `None`: segments of the event log stay as they are, for ever.
    pub events: Option<Duration>,
    /// Bytes that archives of the mail log may have in all.
    pub archive_max: Option<u64>,
}

pub(crate) struct Keeper {
    pub(crate) bell: Arc<PreparerBell>,
    pub(crate) preparer: Arc<PreparerBell>,
    pub(crate) space: Arc<Space>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Clock,
    pub(crate) mail: Arc<Shared>,
    pub(crate) events: Arc<Shared>,
    pub(crate) history: History,
    pub(crate) bases: Arc<ReaderBases>,
    pub(crate) digests: Digests,
}

impl Keeper {
    pub(crate) fn run(&self) {
        // This thread only. Where it is not allowed, it competes.
        let _ = rustix::process::nice(NICEST);
        let (mut sweep_at, mut version, mut retry_at) = (0, None, self.clock.instant());
        while !self.bell.is_closing() {
            self.give_way();
            if self.space.reclaim.load(Ordering::Relaxed) && self.clock.instant() >= retry_at {
                let worked = self
                    .archive_mail()
                    .and_then(|()| self.archive_events())
                    .and_then(|()| self.digest_sealed());
                if let Err(error) = worked
                    && !self.bell.is_closing()
                {
                    metrics::SPOOL_ARCHIVE_FAILURES.add(1);
                    tracing::error!(%error, "a segment cannot be archived; it stays and is tried again");
                    retry_at = self.clock.instant() + limits::ARCHIVE_RETRY;
                }
            }
            let now = self.clock.unix_ms();
            let current = self.history.content.as_ref().map(|r| r.version());
            // Not before the retention of each stream is known: the node says so by the same word.
            let may_sweep = self.space.reclaim.load(Ordering::Relaxed);
            if may_sweep && (now >= sweep_at || current != version) {
                self.sweep(now);
                version = current;
                sweep_at = now + limits::ARCHIVE_SWEEP.as_millis() as u64;
            }
            self.bell.wait(POLL);
        }
    }

    /// Archives every dead segment of the mail log. One that cannot be archived does not stop the others; the first error.
    fn archive_mail(&self) -> io::Result<()> {
        let Some(retention) = &self.history.content else {
            return Ok(());
        };
        let (mut failed, mut failure) = (Vec::new(), None);
        loop {
            let is_due = |s: &Segment| s.is_dead() && !failed.contains(&s.number());
            let waiting = self.waiting(&self.mail, is_due);
            let Some(segment) = waiting.first().filter(|_| failed.len() < FAILED_MAX) else {
                return failure.map_or(Ok(()), Err);
            };
            // Of each segment anew: at the lowest priority any step can take long, and what is over by now is not kept for a sweep.
            let now = self.clock.unix_ms();
            // History is the first that goes when space is short: none is made that would go at once.
            let is_wanted = !self.space.is_low()
                && (!self.space.is_short() || self.mail.shelf.first().is_some());
            let archived = match is_wanted {
                true => self.archive(&self.mail, segment, Some(&**retention), now, waiting.len()),
                false => Err(io::ErrorKind::StorageFull.into()),
            };
            match archived {
                Ok(Archived::Kept(bytes)) => {
                    self.digest(&self.mail, segment, now);
                    tracing::debug!(segment = segment.number(), bytes, "archived");
                }
                Ok(Archived::Nothing) => {}
                Err(error) if is_full(&error) => {
                    metrics::SPOOL_UNARCHIVED.add(1);
                    tracing::warn!(
                        segment = segment.number(),
                        "space is short: the content of a segment is not archived"
                    );
                }
                Err(error) if self.bell.is_closing() => return Err(error),
                Err(error) => {
                    failed.push(segment.number());
                    failure.get_or_insert(error);
                    continue;
                }
            }
            segment.settle();
            // Nobody looks at it any more: its file can go at once.
            drop(waiting);
            self.preparer.ring();
            self.bound_size();
        }
    }

    /// Archives what a checkpoint covers of the event log, in order, so that archives are always its beginning.
    fn archive_events(&self) -> io::Result<()> {
        if self.history.events.is_none() {
            return Ok(());
        }
        let below = self.space.checkpointed.load(Ordering::Relaxed);
        loop {
            let is_covered = |segment: &Segment| {
                segment.is_dead() && segment.first_position() + segment.end() <= below
            };
            let segments = self.events.segments.load_full();
            let open = segments.iter().find(|s| !s.is_settled());
            let Some(segment) = open.filter(|s| is_covered(s)) else {
                return Ok(());
            };
            let now = self.clock.unix_ms();
            self.archive(&self.events, segment, None, now, segments.len())?;
            self.digest(&self.events, segment, now);
            segment.settle();
            drop(segments);
            self.preparer.ring();
        }
    }

    /// What nobody writes any more and is still held.
    fn digest_sealed(&self) -> io::Result<()> {
        for log in [&self.mail, &self.events] {
            for segment in self.waiting(log, |segment| segment.is_closed()) {
                if self.bell.is_closing() {
                    return Ok(());
                }
                self.digest(log, &segment, self.clock.unix_ms());
            }
        }
        Ok(())
    }

    /// Nothing waits for a digest: one that cannot be written is told, and tried again as long as its segment is there.
    fn digest(&self, log: &Shared, segment: &Segment, now: UnixMs) {
        if !self.digests.may_try(now) || self.digests.has(log, segment) {
            return;
        }
        let began = self.clock.instant();
        if let Err(error) = self.digests.write(log, segment, now) {
            metrics::SPOOL_DIGEST_FAILURES.add(1);
            tracing::error!(log = log.name(), segment = segment.number(), %error, "the digest of a segment cannot be written down");
        }
        let worked = self.clock.instant().duration_since(began);
        self.bell.pause(worked.min(limits::ARCHIVE_REST_MAX));
    }

    fn waiting(&self, log: &Shared, is_due: impl Fn(&Segment) -> bool) -> Vec<Arc<Segment>> {
        let segments = log.segments.load();
        let waiting = segments.iter().filter(|s| !s.is_settled() && is_due(s));
        waiting.map(Arc::clone).collect()
    }

    fn archive(
        &self,
        log: &Arc<Shared>,
        segment: &Segment,
        retention: Option<&dyn Retention>,
        now: UnixMs,
        waiting: usize,
    ) -> io::Result<Archived> {
        let rest = |time: Duration| {
            self.bell.pause(time);
            !self.bell.is_closing()
        };
        let mut leisurely = Leisurely {
            clock: self.clock,
            since: self.clock.instant(),
            rest: &rest,
        };
        let pace: &mut dyn Pace = match waiting > limits::ARCHIVE_BACKLOG {
            true => &mut AtOnce,
            false => &mut leisurely,
        };
        log.shelf.archive(log, segment, retention, now, pace)
    }

    /// Archives one segment of the mail log on the caller's thread, without a rest.
    #[cfg(test)]
    pub(crate) fn archive_now(&self, segment: &Segment, now: UnixMs) -> io::Result<()> {
        let retention = self.history.content.as_deref();
        let shelf = &self.mail.shelf;
        let archived = shelf.archive(&self.mail, segment, retention, now, &mut AtOnce);
        archived.map(drop)
    }

    /// Space is short: history goes, the oldest first.
    fn give_way(&self) {
        let mut missing = self.space.missing();
        if missing == 0 || !self.space.is_short() {
            return;
        }
        let mut gone = 0u64;
        while missing > 0 {
            let Some(freed) = self.remove_oldest() else {
                break;
            };
            gone += 1;
            missing = missing.saturating_sub(freed);
        }
        if gone > 0 {
            // What is not durable comes back after a power cut, and goes again.
            let _ = self.disk.sync_dir(&self.mail.dir);
            self.space.measure(self.disk.as_ref());
            metrics::SPOOL_ARCHIVES_GONE.add_to("space", gone);
            tracing::warn!(
                archives = gone,
                "space is short: archived content was removed before its time"
            );
        }
    }

    fn bound_size(&self) {
        let Some(max) = self.history.archive_max else {
            return;
        };
        while self.mail.shelf.total().1 > max {
            if self.remove_oldest().is_none() {
                break;
            }
            metrics::SPOOL_ARCHIVES_GONE.add_to("size", 1);
        }
    }

    /// Bytes that it had.
    fn remove_oldest(&self) -> Option<u64> {
        let first = self.mail.shelf.first()?;
        match self.mail.shelf.remove(first) {
            Ok(freed) => Some(freed),
            Err(error) => {
                tracing::error!(%error, "an archive cannot be removed");
                None
            }
        }
    }

    /// Removes what is over by `now`.
    pub(crate) fn sweep(&self, now: UnixMs) {
        let mut gone = 0;
        if let Some(retention) = &self.history.content {
            let shelf = &self.mail.shelf;
            for (first, item) in shelf.listed() {
                if self.bell.is_closing() {
                    return;
                }
                match self.sweep_one(shelf, first, item, retention.as_ref(), now) {
                    Ok(Archived::Nothing) => gone += 1,
                    Ok(Archived::Kept(_)) => {}
                    Err(error) => {
                        metrics::SPOOL_ARCHIVE_FAILURES.add(1);
                        let segment = item.number;
                        tracing::error!(segment, %error, "an archive cannot be looked through; it is tried again");
                    }
                }
            }
            self.bound_size();
        }
        if gone > 0 {
            let _ = self.disk.sync_dir(&self.mail.dir);
            metrics::SPOOL_ARCHIVES_GONE.add_to("retention", gone);
        }
        if let Some(kept) = self.history.events {
            self.drop_events(kept, now);
        }
    }

    fn sweep_one(
        &self,
        shelf: &Shelf,
        first: u64,
        item: Entry,
        retention: &dyn Retention,
        now: UnixMs,
    ) -> io::Result<Archived> {
        let version = retention.version();
        let over = match item.over {
            Some((known, over)) if known == version => over,
            _ => match shelf.opened(first, item) {
                Ok(opened) => over(&opened, retention),
                // The medium may give it another time. What is no archive any more is no error of the system's.
                Err(ReadError::Io { error, .. }) if error.raw_os_error().is_some() => {
                    return Err(error);
                }
                Err(error) => shelf.over_unreadable(first, item, retention, &error),
            },
        };
        shelf.note(first, item, version, over);
        if now >= over.wholly {
            shelf.remove(first)?;
            return Ok(Archived::Nothing);
        }
        if now < over.partly {
            return Ok(Archived::Kept(item.len));
        }
        let opened = match shelf.opened(first, item) {
            Ok(opened) => opened,
            Err(ReadError::Io { error, .. }) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        };
        let rest = |time: Duration| {
            self.bell.pause(time);
            !self.bell.is_closing()
        };
        let mut pace = Leisurely {
            clock: self.clock,
            since: self.clock.instant(),
            rest: &rest,
        };
        shelf.renew(&opened, retention, now, &mut pace)
    }

    /// The oldest archives of the event log, as far as nobody needs them.
    fn drop_events(&self, kept: Duration, now: UnixMs) {
        let shelf = &self.events.shelf;
        let checkpointed = self.space.checkpointed.load(Ordering::Relaxed);
        let covered = self.bases.lowest().min(checkpointed);
        // Without them, what is still in the mail log would look alive.
        let mail = self.mail.segments.load();
        let needed_from = mail.iter().map(|s| s.header.created_unix_ms).min();
        let mut gone = 0;
        for (first, item) in shelf.listed() {
            let opened = match shelf.opened(first, item) {
                Ok(opened) => opened,
                Err(error) => {
                    metrics::SPOOL_ARCHIVE_FAILURES.add(1);
                    let segment = item.number;
                    tracing::error!(segment, %error, "an archive of events cannot be read: it and what is younger are kept until it is removed by hand; see `posthaste spool verify`");
                    break;
                }
            };
            let youngest = opened.footer.youngest_unix_ms;
            let is_over = youngest.saturating_add(kept.as_millis() as u64) <= now
                && needed_from.is_none_or(|from| youngest < from);
            if !is_over || opened.end() > covered || shelf.remove(first).is_err() {
                break;
            }
            gone += 1;
        }
        if gone > 0 {
            let _ = self.disk.sync_dir(&self.events.dir);
            metrics::SPOOL_ARCHIVES_GONE.add_to("events", gone);
            tracing::info!(archives = gone, "events past their retention were removed");
        }
    }
}

impl Shelf {
    fn listed(&self) -> Vec<(u64, Entry)> {
        let items = lock(&self.items);
        items.iter().map(|(first, item)| (*first, *item)).collect()
    }

    fn note(&self, first_position: u64, item: Entry, version: u64, over: Over) {
        if let Some(known) = lock(&self.items).get_mut(&first_position)
            && known.made == item.made
        {
            known.over = Some((version, over));
        }
    }

    /// Of an archive that is damaged: as long as anything in it may be wanted by somebody who can repair it; for ever, where
    /// it does not even say how old it is.
    fn over_unreadable(
        &self,
        first_position: u64,
        item: Entry,
        retention: &dyn Retention,
        error: &ReadError,
    ) -> Over {
        tracing::error!(segment = item.number, %error, "an archive is damaged");
        metrics::SPOOL_DAMAGE.add_to(self.name(), 1);
        let created = self.created(first_position, item.number);
        let kept = retention.longest() + limits::ARCHIVE_LIVED_MAX;
        Over {
            partly: u64::MAX,
            wholly: created.map_or(u64::MAX, |ms| ms.saturating_add(kept.as_millis() as u64)),
        }
    }
}

/// Segments that cannot be archived before a round gives up: then it is the disk.
const FAILED_MAX: usize = 8;
const NICEST: i32 = 19;
/// How often dead segments are looked for when nobody says that there is one.
const POLL: Duration = Duration::from_secs(1);
