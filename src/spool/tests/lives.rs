//! Lives of a spool on a disk that records them, and images of that disk after power cuts.
//!
//! # For whoever adds a mechanism
//! Write files through [`Disk`](super::super::disk::Disk) only, and test it in three steps:
//! ```text
//! let recorder = RecordingDisk::new(MemoryDisk::new());   // or the image of an earlier life
//! /* run the mechanism on recorder.clone(); recorder.note(id) at the moment a promise is given */
//! every_image(&recorder.recording(), 6, seed, |image, notes| { /* recover from `image`; panic if a promise is broken */ });
//! ```
//! [`every_image`] cuts behind every operation, with nothing, everything, and so many random parts of the unsynced work
//! surviving. Notes come back as the ids that were noted before the cut. Where mail itself is to live and die meanwhile, use
//! a [`Life`]: it submits messages of [`super::world`], lets their recipients go through their events, and releases
//! what has ended; its [`look`] is the whole of what must hold of an image.
//!
//! A violated promise prints its cut and choice, and leaves the image as files in the temporary directory.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::super::disk::powercut::Timeline;
use super::super::disk::recording::{Choice, Recording, RecordingDisk};
use super::super::recover;
use super::world::{self, Mail, Note};
use super::*;

/// One life of a spool, from its opening to its end.
pub(super) struct Life {
    pub(super) disk: RecordingDisk,
    pub(super) spool: Spool,
    rng: fastrand::Rng,
    next: u64,
    /// Messages that are known to be durable, with what lives of them.
    waiting: Arc<Mutex<BTreeMap<u64, Message>>>,
    /// Messages that ended in this life: where they and their events lie.
    ended: Vec<(u64, Vec<u64>, Vec<u64>)>,
    events: BTreeMap<u64, Vec<u64>>,
    runtime: tokio::runtime::Runtime,
}

/// Told where a message lies, once it is durable.
type Told = Box<dyn FnOnce(Vec<u64>) + Send>;

struct Message {
    /// Of the message record and its content records.
    positions: Vec<u64>,
    /// Recipients that live, and their next step.
    recipients: Vec<(u16, u8)>,
}

impl Life {
    /// Opens the spool; message numbers begin at `first_message`.
    pub(super) fn start(disk: MemoryDisk, first_message: u64, seed: u64) -> Self {
        Self::start_with(disk, options(Path::new(DIR)), first_message, seed)
    }

    pub(super) fn start_with(
        disk: MemoryDisk,
        options: Options,
        first_message: u64,
        seed: u64,
    ) -> Self {
        let disk = RecordingDisk::new(disk);
        let (spool, found) = open_on(disk.clone(), options).unwrap();
        let mail = Mail::of(&found, first_message);
        let mut waiting = BTreeMap::new();
        for (&message, (position, parts)) in &mail.messages {
            let live = mail.live(message);
            if live.is_empty() {
                continue;
            }
            let positions: Vec<u64> = parts.iter().copied().chain([*position]).collect();
            for position in &positions {
                spool.mail.hold(*position, live.len() as u32);
            }
            let recipients = live.into_iter().map(|r| (r, mail.next_step(message, r)));
            let recipients = recipients.collect();
            let message_of = Message {
                positions,
                recipients,
            };
            waiting.insert(message, message_of);
        }
        spool.allow_reclaim();
        Self {
            disk,
            spool,
            rng: fastrand::Rng::with_seed(seed),
            next: first_message,
            waiting: Arc::new(Mutex::new(waiting)),
            ended: Vec::new(),
            events: BTreeMap::new(),
            runtime: runtime(),
        }
    }

    /// Something that a node would do.
    pub(super) fn step(&mut self) {
        match self.rng.u8(..24) {
            0..=8 => self.submit(),
            9 => self.compact(),
            10 => self.erase(),
            _ => self.go_on(),
        }
    }

    /// Somebody's mail is moved, so that its segment may go.
    fn compact(&mut self) {
        let chosen = {
            let mut waiting = self.waiting.lock().unwrap();
            let message = self.rng.choice(waiting.keys().copied());
            message.and_then(|message| Some((message, waiting.remove(&message)?)))
        };
        let Some((message, old)) = chosen else { return };
        let count = old.recipients.len() as u16;
        let moved = self.put(message, count, record_flag::MOVED, None);
        let mut waiting = self.waiting.lock().unwrap();
        let Some(positions) = moved else {
            waiting.insert(message, old);
            return;
        };
        let new = Message {
            positions,
            recipients: old.recipients,
        };
        waiting.insert(message, new);
        let log = &self.spool.mail;
        old.positions
            .iter()
            .for_each(|p| log.release(*p, count.into()));
    }

    /// Somebody whose mail has ended is to be forgotten.
    fn erase(&mut self) {
        let Some((message, mail, events)) = self.ended.pop() else {
            return;
        };
        if events.iter().any(|p| *p >= self.spool.events.durable()) {
            // Not before its end is durable.
            self.ended.push((message, mail, events));
            return;
        }
        self.disk.note(Note::Erasing { message }.id());
        for (log, mut positions) in [(LogKind::Mail, mail), (LogKind::Event, events)] {
            positions.sort_unstable();
            self.spool.erase(log, &positions).unwrap();
        }
    }

    pub(super) fn submit(&mut self) {
        let message = self.next;
        self.next += 1;
        let count = world::recipients(message);
        let (disk, waiting) = (self.disk.clone(), Arc::clone(&self.waiting));
        let accepted = move |positions: Vec<u64>| {
            disk.note(Note::Accepted { message }.id());
            let recipients = (0..count).map(|recipient| (recipient, 0)).collect();
            let accepted = Message {
                positions,
                recipients,
            };
            waiting.lock().unwrap().insert(message, accepted);
        };
        self.put(message, count, 0, Some(Box::new(accepted)));
    }

    /// Appends a message, its content first. `accepted`: told where it lies once it is durable; waited for if there is none.
    fn put(
        &mut self,
        message: u64,
        holds: u16,
        flags: u8,
        accepted: Option<Told>,
    ) -> Option<Vec<u64>> {
        let mut parts = Vec::new();
        for number in 0..2 * u32::from(world::is_long(message)) {
            let payload = world::part_payload(message, number);
            // The message comes when its content is durable.
            let last = number == 1;
            let position = self.append((kind::CONTENT, flags), &payload, holds, None, last)?;
            let len = (payload.len() - 24) as u32;
            parts.push(spool_format::ContentPart { position, len });
        }
        let payload = world::message_payload(message, &parts);
        let mut positions: Vec<u64> = parts.iter().map(|part| part.position).collect();
        let told = positions.clone();
        let wait = accepted.is_none() || self.rng.u8(..3) > 0;
        let on_durable = accepted.map(|accepted| -> OnDurable {
            Box::new(move |answer| {
                if let Ok(receipt) = answer {
                    accepted(told.into_iter().chain([receipt.position()]).collect());
                }
            })
        });
        positions.push(self.append((kind::MESSAGE, flags), &payload, holds, on_durable, wait)?);
        Some(positions)
    }

    fn append(
        &self,
        (kind, flags): (u8, u8),
        payload: &[u8],
        holds: u16,
        on_durable: Option<OnDurable>,
        wait: bool,
    ) -> Option<u64> {
        self.runtime.block_on(async {
            let parts = [payload];
            let log = &self.spool.mail;
            let append = log.append_held(kind, flags, &parts, holds.into(), on_durable);
            let ticket = append.await.ok()?;
            let position = ticket.position();
            if wait {
                ticket.await.ok()?;
            }
            Some(position)
        })
    }

    /// Whose turn it is: message, recipient, its next step, and where the message lies.
    fn choose(&mut self) -> Option<(u64, u16, u8, Vec<u64>)> {
        let mut waiting = self.waiting.lock().unwrap();
        let message = self.rng.choice(waiting.keys().copied())?;
        let state = waiting.get_mut(&message)?;
        let index = self.rng.usize(..state.recipients.len());
        let (recipient, step) = state.recipients[index];
        state.recipients[index].1 += 1;
        let positions = state.positions.clone();
        if step == world::last_step(message, recipient) {
            state.recipients.swap_remove(index);
        }
        if state.recipients.is_empty() {
            waiting.remove(&message);
        }
        Some((message, recipient, step, positions))
    }

    /// A recipient takes its next step.
    fn go_on(&mut self) {
        let Some((message, recipient, step, positions)) = self.choose() else {
            return self.submit();
        };
        let payload = world::event_payload(message, recipient, step);
        let ends = step == world::last_step(message, recipient);
        if !ends && self.rng.bool() {
            let parts = [&payload[..]];
            let lazy = self.spool.events.append_lazy(kind::EVENT, 0, &parts);
            let position = self.runtime.block_on(lazy).unwrap();
            self.events.entry(message).or_default().push(position);
            return;
        }
        let (disk, mail) = (self.disk.clone(), self.spool.mail.clone());
        let lies_at = positions.clone();
        let on_durable: OnDurable = Box::new(move |answer| {
            if answer.is_ok() {
                let note = Note::Happened {
                    message,
                    recipient,
                    step,
                };
                disk.note(note.id());
                if ends {
                    disk.note(Note::Released { message, recipient }.id());
                    positions.iter().for_each(|p| mail.release(*p, 1));
                }
            }
        });
        let wait = self.rng.u8(..3) == 0;
        let position = self.runtime.block_on(async {
            let parts = [&payload[..]];
            let log = &self.spool.events;
            let ticket = log.append(kind::EVENT, 0, &parts, Some(on_durable)).await;
            let ticket = ticket.unwrap();
            let position = ticket.position();
            if wait {
                ticket.await.unwrap();
            }
            position
        });
        self.events.entry(message).or_default().push(position);
        if ends && !self.waiting.lock().unwrap().contains_key(&message) {
            let events = self.events.remove(&message).unwrap_or_default();
            self.ended.push((message, lies_at, events));
        }
    }

    /// Lives on until the disk has seen so many operations more.
    pub(super) fn live(&mut self, operations: usize) {
        let end = self.disk.operation_count() + operations;
        while self.disk.operation_count() < end {
            self.step();
        }
    }

    /// Stops, and returns what was recorded and the first number that was not used.
    pub(super) fn end(self) -> (Recording, u64) {
        drop(self.spool);
        (self.disk.recording(), self.next)
    }
}

/// What recovery sees, without starting anything.
pub(super) fn scan(disk: &MemoryDisk) -> Found {
    let mut found = Found::default();
    for (kind, name) in [(LogKind::Mail, "mail"), (LogKind::Event, "event")] {
        let dir = Path::new(DIR).join("spool").join(name);
        let recovered = recover::recover(disk, &dir, kind, SEGMENT, Known::default(), &mut found);
        assert!(recovered.is_ok(), "{:?}", recovered.err());
    }
    found
}

/// All that must hold of the disk after a power cut: what was acknowledged is there with equal bytes; nothing is there that
/// was never submitted; every recipient is in a legal state; nothing acknowledged is called damaged. `deep`: recovering
/// again, after recovery wrote what it writes, gives the same.
pub(super) fn look(disk: &MemoryDisk, notes: &BTreeSet<Note>, first_unused: u64, deep: bool) {
    // Half an erasure is finished before anything is read.
    super::super::erase::redo(disk, Path::new(DIR)).unwrap();
    let found = scan(disk);
    Mail::of(&found, first_unused).check(notes);
    let acknowledged: Vec<_> = found.damages.iter().filter(|d| d.acknowledged).collect();
    assert!(acknowledged.is_empty(), "{acknowledged:?}");
    if !deep {
        return;
    }
    assert_eq!(scan(disk), found, "scanning changed something");
    audit(disk);
    let (spool, opened) = open(disk);
    assert_eq!(opened, found, "opening sees what scanning saw");
    drop(spool);
    let after = scan(disk);
    assert_eq!((&after.mail, &after.events), (&found.mail, &found.events));
    assert_eq!(after.damages, vec![], "told once, and then void");
}

/// What an operator's `posthaste audit` says of the image, before any start has seen it.
fn audit(disk: &MemoryDisk) {
    let data_dir = tempfile::tempdir().unwrap();
    // A cut may come before they are made.
    for log in ["mail", "event"] {
        std::fs::create_dir_all(data_dir.path().join("spool").join(log)).unwrap();
    }
    for (path, bytes) in disk.files() {
        let path = data_dir.path().join(path.strip_prefix(DIR).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    crate::cli::prove(data_dir.path()).unwrap_or_else(|offence| panic!("audit: {offence}"));
}

/// Has `check` look at images of every cut: nothing unsynced kept, all of it, and `random` ways between.
pub(super) fn every_image(
    recording: &Recording,
    random: u64,
    seed: u64,
    check: impl Fn(&MemoryDisk, &[u64]),
) {
    let mut images = Images::new(recording);
    for cut in recording.started()..=recording.operations().len() {
        images.advance(cut);
        let fixed = [Choice::Nothing, Choice::Everything];
        let random = (0..random).map(|i| Choice::Random(seed ^ (cut as u64) << 32 | i));
        for choice in fixed.into_iter().chain(random) {
            images.check(choice, &check);
        }
    }
}

/// Has `check` look at `count` images, each of a cut and in a way that `seed` chooses.
pub(super) fn random_images(
    recording: &Recording,
    count: usize,
    seed: u64,
    mut check: impl FnMut(&MemoryDisk, &[u64]),
) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let cuts = recording.started()..=recording.operations().len();
    let cut = std::iter::repeat_with(|| rng.usize(cuts.clone()));
    let mut cuts: Vec<usize> = cut.take(count).collect();
    cuts.sort_unstable();
    let mut images = Images::new(recording);
    for cut in cuts {
        images.advance(cut);
        images.check(Choice::Random(rng.u64(..)), &mut check);
    }
}

/// A recording on its way from its beginning to its end.
struct Images<'a> {
    recording: &'a Recording,
    timeline: Timeline,
    at: usize,
    notes: Vec<u64>,
}

impl<'a> Images<'a> {
    fn new(recording: &'a Recording) -> Self {
        Self {
            recording,
            timeline: Timeline::default(),
            at: 0,
            notes: Vec::new(),
        }
    }

    fn advance(&mut self, cut: usize) {
        for operation in &self.recording.operations()[self.at..cut] {
            self.timeline.apply(operation);
        }
        self.at = cut;
        self.notes = self.recording.notes(cut);
    }

    fn check(&self, choice: Choice, mut check: impl FnMut(&MemoryDisk, &[u64])) {
        let image = self.timeline.image(choice);
        let look = std::panic::AssertUnwindSafe(|| check(&image, &self.notes));
        if let Err(panic) = std::panic::catch_unwind(look) {
            let operations = self.recording.operations();
            eprintln!(
                "violated at cut {} of {}, {choice:?}",
                self.at,
                operations.len()
            );
            for (number, operation) in operations
                .iter()
                .enumerate()
                .take(self.at)
                .skip(self.at.saturating_sub(30))
            {
                eprintln!("{number:5} {operation:?}");
            }
            keep(&self.timeline.image(choice));
            std::panic::resume_unwind(panic);
        }
    }
}

/// Leaves an image where `posthaste spool verify --data-dir` can look at it.
fn keep(image: &MemoryDisk) {
    let name = format!("posthaste-powercut-{}", std::process::id());
    let root = std::env::temp_dir().join(name);
    for (path, bytes) in image.files() {
        let path = root.join(path.strip_prefix(DIR).unwrap_or(&path));
        let made = path.parent().map(std::fs::create_dir_all);
        let _ = made.map(|_| std::fs::write(path, bytes));
    }
    eprintln!("the disk is in {}", root.display());
}
