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
    runtime: tokio::runtime::Runtime,
}

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
            runtime: runtime(),
        }
    }

    /// Something that a node would do.
    pub(super) fn step(&mut self) {
        match self.rng.u8(..8) {
            0..=2 => self.submit(),
            _ => self.go_on(),
        }
    }

    pub(super) fn submit(&mut self) {
        let message = self.next;
        self.next += 1;
        let count = world::recipients(message);
        let mut parts = Vec::new();
        for number in 0..2 * u32::from(world::is_long(message)) {
            let payload = world::part_payload(message, number);
            let appended = self.append(kind::CONTENT, &payload, count, None, false);
            let Some(position) = appended else { return };
            let len = (payload.len() - 24) as u32;
            parts.push(spool_format::ContentPart { position, len });
        }
        let payload = world::message_payload(message, &parts);
        let (disk, waiting) = (self.disk.clone(), Arc::clone(&self.waiting));
        let on_durable: OnDurable = Box::new(move |answer| {
            if let Ok(receipt) = answer {
                disk.note(Note::Accepted { message }.id());
                let own = receipt.position();
                let positions = parts.iter().map(|p| p.position).chain([own]).collect();
                let recipients = (0..count).map(|recipient| (recipient, 0)).collect();
                let accepted = Message {
                    positions,
                    recipients,
                };
                waiting.lock().unwrap().insert(message, accepted);
            }
        });
        let wait = self.rng.u8(..3) > 0;
        self.append(kind::MESSAGE, &payload, count, Some(on_durable), wait);
    }

    fn append(
        &self,
        kind: u8,
        payload: &[u8],
        holds: u16,
        on_durable: Option<OnDurable>,
        wait: bool,
    ) -> Option<u64> {
        self.runtime.block_on(async {
            let parts = [payload];
            let log = &self.spool.mail;
            let append = log.append_held(kind, 0, &parts, holds.into(), on_durable);
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
            self.runtime.block_on(lazy).unwrap();
            return;
        }
        let (disk, mail) = (self.disk.clone(), self.spool.mail.clone());
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
        self.runtime.block_on(async {
            let parts = [&payload[..]];
            let log = &self.spool.events;
            let ticket = log.append(kind::EVENT, 0, &parts, Some(on_durable)).await;
            let ticket = ticket.unwrap();
            if wait {
                ticket.await.unwrap();
            }
        });
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
    let found = scan(disk);
    Mail::of(&found, first_unused).check(notes);
    let acknowledged: Vec<_> = found.damages.iter().filter(|d| d.acknowledged).collect();
    assert!(acknowledged.is_empty(), "{acknowledged:?}");
    if !deep {
        return;
    }
    assert_eq!(scan(disk), found, "scanning changed something");
    let (spool, opened) = open(disk);
    assert_eq!(opened, found, "opening sees what scanning saw");
    drop(spool);
    let after = scan(disk);
    assert_eq!((&after.mail, &after.events), (&found.mail, &found.events));
    assert_eq!(after.damages, vec![], "told once, and then void");
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
