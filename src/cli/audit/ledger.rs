//! What became of each recipient: every fact of both logs about one recipient comes together in one entry, whatever the order of the
//! logs and the clocks.
//!
//! Promises: exact, in memory that does not grow with the logs. Entries gather in a table; when it is full they are written, in
//! order of recipient, to a scratch file as a *run*, and the table begins anew. At the end the runs and the table are merged:
//! entries of the same recipient meet, and each is judged once.
//! Does not know: where facts come from.
//!
//! An id begins with the time at which its message came, so the merge goes from hour to hour, and sums of an hour are complete
//! when the next begins.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rustc_hash::FxHashMap;
use serde::Serialize;
use spool_format::RecipientKey;

use super::scratch::{Merge, Scratch};
use super::{Offence, Sums};
use crate::clock::UnixMs;
use crate::event::EventKind;
use crate::limits;
use crate::mail::MessageId;

/// Facts about one recipient, in the order in which they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Number of its stream; 0 where nothing has said it yet.
    pub(super) stream: u32,
    pub(super) flags: u8,
    /// Code of its first outcome; 0 where there is none.
    pub(super) ended: u8,
    /// Code of its second outcome.
    pub(super) again: u8,
}

/// Flags of an entry.
pub(super) mod said {
    /// Its *accepted* event was seen.
    pub(in crate::cli::audit) const ACCEPTED: u8 = 1;
    /// A message record names it.
    pub(in crate::cli::audit) const RECORDED: u8 = 2;
    /// Something of it was there when the audit began.
    pub(in crate::cli::audit) const KNOWN: u8 = 4;
    /// An attempt was told.
    pub(in crate::cli::audit) const TRIED: u8 = 8;
    /// Accepted twice.
    pub(in crate::cli::audit) const TWICE: u8 = 16;
    /// Accepted, or tried, after its outcome.
    pub(in crate::cli::audit) const DISORDER: u8 = 32;
    /// Something came later: a bounce mail, a complaint.
    pub(in crate::cli::audit) const LATER: u8 = 64;
    /// Accepted while the audit ran.
    pub(in crate::cli::audit) const ARRIVING: u8 = 128;
}
use said::*;

impl Entry {
    fn take(&mut self, kind: EventKind) {
        match kind {
            EventKind::Accepted => {
                if self.flags & ACCEPTED != 0 {
                    self.flags |= TWICE;
                }
                self.flags |= ACCEPTED;
                self.after_end();
            }
            EventKind::Deferred | EventKind::Ambiguous => {
                self.flags |= TRIED;
                self.after_end();
            }
            kind if kind.is_terminal() => {
                let code = kind.code() as u8;
                match self.ended {
                    0 => self.ended = code,
                    _ => self.again = code,
                }
            }
            _ => self.flags |= LATER,
        }
    }

    fn after_end(&mut self) {
        if self.ended != 0 {
            self.flags |= DISORDER;
        }
    }

    /// What was read of the same recipient later.
    pub(super) fn add(&mut self, later: &Self) {
        if self.ended != 0 {
            if later.flags & (ACCEPTED | TRIED) != 0 {
                self.flags |= DISORDER;
            }
            let again = [self.again, later.ended, later.again];
            self.again = again.into_iter().find(|&code| code != 0).unwrap_or(0);
        } else {
            (self.ended, self.again) = (later.ended, later.again);
        }
        if self.flags & later.flags & ACCEPTED != 0 {
            self.flags |= TWICE;
        }
        self.flags |= later.flags;
        if self.stream == 0 {
            self.stream = later.stream;
        }
    }
}

/// A server's stream; both empty where the logs do not say it any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(in crate::cli) struct Stream {
    pub(super) server: Box<str>,
    #[serde(rename = "stream")]
    pub(super) id: Box<str>,
}

impl Stream {
    pub(super) fn cells(&self) -> [String; 2] {
        [self.server.to_string(), self.id.to_string()]
    }
}

/// The facts, as they are read.
pub(super) struct Ledger {
    entries: FxHashMap<RecipientKey, Entry>,
    entries_max: usize,
    /// Numbers by server and stream.
    streams: FxHashMap<Box<str>, FxHashMap<Box<str>, u32>>,
    count: u32,
    scratch: Scratch,
    /// Recipients of messages that came before are not looked at.
    since: UnixMs,
    first_event_at: Option<UnixMs>,
    /// What is read now came while the audit ran.
    arriving: bool,
}

/// What the facts come to.
pub(super) struct Judged {
    pub(super) streams: BTreeMap<Stream, Sums>,
    /// All of them, though only the first are told.
    pub(super) offences: u64,
}

impl Ledger {
    pub(super) fn new(scratch_dir: &Path, since: UnixMs) -> Self {
        Self {
            entries: FxHashMap::default(),
            entries_max: limits::AUDIT_ENTRIES,
            streams: FxHashMap::default(),
            count: 0,
            scratch: Scratch::new(scratch_dir),
            since,
            first_event_at: None,
            arriving: false,
        }
    }

    /// From now on only what is known counts: what is new came while the audit ran.
    pub(super) fn only_known(&mut self) {
        self.arriving = true;
    }

    /// A message record names these recipients.
    pub(super) fn message(
        &mut self,
        message: [u8; 16],
        recipients: u16,
        stream: Option<(&str, &str)>,
    ) -> io::Result<()> {
        let stream = stream.map_or(0, |stream| self.number_of(stream));
        for number in 0..recipients {
            let key = RecipientKey { message, number };
            if let Some(entry) = self.entry(key, stream)? {
                entry.flags |= RECORDED | KNOWN;
            }
        }
        Ok(())
    }

    pub(super) fn event(
        &mut self,
        key: RecipientKey,
        kind: EventKind,
        at: UnixMs,
        stream: (&str, &str),
    ) -> io::Result<()> {
        self.first_event_at.get_or_insert(at);
        let stream = self.number_of(stream);
        let arriving = self.arriving;
        let Some(entry) = self.entry(key, stream)? else {
            return Ok(());
        };
        match (arriving, kind) {
            (false, _) => entry.flags |= KNOWN,
            (true, EventKind::Accepted) => {
                entry.flags |= ARRIVING;
                return Ok(());
            }
            (true, _) => {}
        }
        entry.take(kind);
        Ok(())
    }

    fn number_of(&mut self, (server, id): (&str, &str)) -> u32 {
        if server.is_empty() && id.is_empty() {
            return 0;
        }
        if let Some(number) = self.streams.get(server).and_then(|ids| ids.get(id)) {
            return *number;
        }
        self.count += 1;
        let ids = self.streams.entry(server.into()).or_default();
        ids.insert(id.into(), self.count);
        self.count
    }

    /// `None`: it does not matter.
    fn entry(&mut self, key: RecipientKey, stream: u32) -> io::Result<Option<&mut Entry>> {
        if MessageId::from_bytes(key.message).unix_ms() < self.since {
            return Ok(None);
        }
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&key) {
            self.scratch.spill(&mut self.entries)?;
        }
        let entry = self.entries.entry(key).or_default();
        if entry.stream == 0 {
            entry.stream = stream;
        }
        Ok(Some(entry))
    }

    /// Judges each recipient once. `log_begins`: events from before the first that was read may be gone. `hour` is given the
    /// sums of each stream, hour by hour of acceptance, and `offence` what breaks the promise.
    pub(super) fn close(
        mut self,
        log_begins: u64,
        hour: &mut dyn FnMut(UnixMs, &Stream, &Sums) -> io::Result<()>,
        offence: &mut dyn FnMut(Offence) -> io::Result<()>,
    ) -> io::Result<Judged> {
        let mut names = vec![Stream::default(); self.count as usize + 1];
        for (server, ids) in std::mem::take(&mut self.streams) {
            for (id, number) in ids {
                let server = server.clone();
                names[number as usize] = Stream { server, id };
            }
        }
        let forgotten_before = self.first_event_at.filter(|_| log_begins > 0);
        let mut judged = Judged {
            streams: BTreeMap::new(),
            offences: 0,
        };
        let (mut this_hour, mut sums) = (0, BTreeMap::<u32, Sums>::new());
        let mut merge = Merge::new(&self.scratch, self.entries)?;
        loop {
            let next = merge.next()?;
            let came = next.map(|(key, _)| MessageId::from_bytes(key.message).unix_ms());
            let next_hour = came.map_or(u64::MAX, |came| came - came % HOUR_MS);
            if next_hour != this_hour {
                for (number, sums) in std::mem::take(&mut sums) {
                    let name = &names[number as usize];
                    hour(this_hour, name, &sums)?;
                    judged.streams.entry(name.clone()).or_default().add(&sums);
                }
                this_hour = next_hour;
            }
            let Some((key, entry)) = next else {
                return Ok(judged);
            };
            let is_forgotten = forgotten_before.is_some_and(|first| came <= Some(first));
            let offences = judge(&entry, is_forgotten, sums.entry(entry.stream).or_default());
            for (kind, detail) in offences.into_iter().flatten() {
                judged.offences += 1;
                if judged.offences <= limits::AUDIT_OFFENCES {
                    offence(Offence::new(key, kind, detail))?;
                }
            }
        }
    }
}

type Found = Option<(&'static str, String)>;

/// Counts a recipient and says what is wrong with it.
fn judge(entry: &Entry, is_forgotten: bool, sums: &mut Sums) -> [Found; 4] {
    let Entry {
        flags,
        ended,
        again,
        ..
    } = *entry;
    let has = |flag: u8| flags & flag != 0;
    if !has(KNOWN) {
        return [None, None, None, None];
    }
    let is_accepted = has(ACCEPTED | RECORDED);
    let outcome = EventKind::from_code(ended.into());
    sums.accepted += u64::from(is_accepted || outcome.is_some());
    match outcome {
        Some(kind) => *sums.of(kind) += 1,
        None => sums.live += u64::from(has(RECORDED)),
    }
    let lost = outcome.is_none() && has(ACCEPTED) && !has(RECORDED);
    let lost = lost.then(|| {
        let text = "accepted, without an outcome, and its message record is gone";
        ("lost", text.to_owned())
    });
    let doubled = EventKind::from_code(again.into()).zip(outcome);
    let doubled = doubled.map(|(b, a)| ("two_outcomes", format!("{}, {}", a.as_str(), b.as_str())));
    let invented = !is_accepted && !has(ARRIVING) && !is_forgotten;
    let invented = invented.then(|| {
        let what = match outcome {
            Some(_) => "an outcome",
            None => "an event",
        };
        let text = format!("{what} for a recipient that neither log says was accepted");
        ("invented", text)
    });
    let disorder = match (has(DISORDER), has(TWICE)) {
        (true, _) => Some("accepted or tried after its outcome"),
        (_, true) => Some("accepted twice"),
        _ => None,
    };
    let disorder = disorder.map(|text| ("out_of_order", text.to_owned()));
    [lost, doubled, invented, disorder]
}

const HOUR_MS: u64 = 3_600_000;

#[cfg(test)]
mod tests;
