//! A spool made by hand, and what is true of it: messages with histories, compaction, erasing, reclaim, archives.

use std::path::{Path, PathBuf};

use spool_format::archive;
use spool_format::checkpoint::{Form, Writing};
use spool_format::digest::{Digests, Entry};
use spool_format::layout::{event_field, record_flag};
use spool_format::{
    CheckpointGaps, CheckpointHeader, Content, ErasedRecord, EventRecord, Field, List, LiveMessage,
    LogKind, MessageRecord, Names, Recipient, SegmentHeader, SegmentImage, StreamKind, VoidRecord,
    frame, kind,
};

use crate::cli::spool::message::State;
use crate::event::EventKind;
use crate::mail::MessageId;

pub(super) const START: u64 = 1_772_460_912_000;
const SIZE: u64 = 12 * 4096;

/// One log, written as the engine does.
pub(super) struct LogWriter {
    dir: PathBuf,
    kind: LogKind,
    image: SegmentImage,
    /// Of sealed segments.
    digests: Vec<Entry>,
}

impl LogWriter {
    pub(super) fn new(data_dir: &Path, kind: LogKind) -> Self {
        let dir = data_dir.join("spool").join(crate::cli::logs::name(kind));
        std::fs::create_dir_all(&dir).unwrap();
        let image = SegmentImage::new(header(kind, 1, START));
        Self {
            dir,
            kind,
            image,
            digests: Vec::new(),
        }
    }

    /// Appends and commits; the record's position.
    pub(super) fn append(&mut self, now: u64, kind: u8, flags: u8, payload: &[u8]) -> u64 {
        let offset = match self.image.append(kind, flags, payload) {
            Some(offset) => offset,
            None => {
                self.image.seal();
                self.store();
                let sealed = self.image.header();
                let entry = Entry::of(self.image.bytes(), sealed, sealed.size, now);
                self.digests.push(entry);
                let number = self.image.header().number + 1;
                self.image = SegmentImage::new(header(self.kind, number, now));
                self.image.append(kind, flags, payload).unwrap()
            }
        };
        self.image.commit();
        self.image.header().first_position + offset
    }

    /// Makes the digest that its segment would have had with these bytes.
    pub(super) fn forge(&mut self, bytes: &[u8]) {
        let header = SegmentHeader::decode(bytes).unwrap();
        let mut digests = self.digests.iter_mut();
        let entry = digests.find(|entry| entry.is_of(&header)).unwrap();
        *entry = Entry::of(bytes, &header, header.size, entry.written_unix_ms);
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}.seg"))
    }

    pub(super) fn store(&self) {
        std::fs::write(self.path(self.image.header().number), self.image.bytes()).unwrap();
    }

    /// Position behind what was committed.
    fn end(&self) -> u64 {
        self.image.header().first_position + self.image.tail()
    }

    pub(super) fn sealed(&self) -> std::ops::Range<u64> {
        1..self.image.header().number
    }

    /// Takes a segment back; as an archive it stays.
    pub(super) fn reclaim(&mut self, now: u64, number: u64, archived: bool) {
        let Ok(bytes) = std::fs::read(self.path(number)) else {
            return;
        };
        let segment = SegmentHeader::decode(&bytes).unwrap();
        let (from, to) = (segment.previous_end, segment.next_position());
        let void = VoidRecord { from, to }.encode();
        self.append(now, kind::VOID, 0, &void);
        self.store();
        if archived {
            let mut file = Vec::new();
            let mut put = |part: &[u8]| {
                file.extend_from_slice(part);
                Ok(())
            };
            archive::encode(&segment, &bytes, &Default::default(), now, 3, &mut put).unwrap();
            std::fs::write(self.dir.join(archive::file_name(&segment)), file).unwrap();
        }
        std::fs::remove_file(self.path(number)).unwrap();
    }

    /// Overwrites a record of a sealed segment with what is left of it.
    pub(super) fn erase(&mut self, position: u64) -> bool {
        let number = position / SIZE + 1;
        let Ok(mut bytes) = std::fs::read(self.path(number)) else {
            return false;
        };
        if number == self.image.header().number {
            return false;
        }
        let segment = SegmentHeader::decode(&bytes).unwrap();
        let offset = position - segment.first_position;
        let found = frame::read(&bytes, offset, segment.seed()).unwrap();
        let Some(erased) = ErasedRecord::of(&found) else {
            return false;
        };
        let record = erased
            .encode(found.record_len, found.flags, segment.seed(), offset)
            .unwrap();
        let at = offset as usize;
        bytes[at..at + record.len()].copy_from_slice(&record);
        std::fs::write(self.path(number), bytes).unwrap();
        true
    }
}

fn header(kind: LogKind, number: u64, now: u64) -> SegmentHeader {
    let first_position = (number - 1) * SIZE;
    SegmentHeader {
        kind,
        number,
        first_position,
        size: SIZE,
        epoch: 0,
        created_unix_ms: now,
        previous_end: first_position,
        salt: [number as u8; 16],
    }
}

/// A recipient's true history.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) domain: String,
    /// When, and until when it then waited.
    pub(super) deferred: Vec<(u64, u64)>,
    pub(super) ended: Option<(u64, EventKind)>,
    positions: Vec<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: [u8; 16],
    pub(super) accepted_at: u64,
    pub(super) stream: &'static str,
    /// Of its record, the newest copy.
    pub(super) position: u64,
    pub(super) payload: Vec<u8>,
    pub(super) lives: Vec<Life>,
    pub(super) erased: bool,
    moved: bool,
    /// Segments in which its records lie.
    segments: Vec<u64>,
}

impl Message {
    pub(super) fn is_live(&self) -> bool {
        self.lives.iter().any(|life| life.ended.is_none())
    }

    pub(super) fn text(&self) -> String {
        MessageId::from_bytes(self.id).to_string()
    }
}

impl Life {
    /// At a moment, of one who was accepted by then.
    pub(super) fn state(&self, at: u64) -> State {
        if let Some((_, kind)) = self.ended.filter(|(when, _)| *when <= at) {
            return State::ended_by(kind).unwrap();
        }
        let told = self.deferred.iter().rev().find(|(when, _)| *when <= at);
        State::live(told.map_or(0, |(_, next)| *next), at)
    }
}

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) mail: LogWriter,
    pub(super) events: LogWriter,
    pub(super) now: u64,
    pub(super) messages: Vec<Message>,
    rng: fastrand::Rng,
    checkpoints: u64,
    /// Of the newest: number of the base, and where it ends in both logs.
    base: Option<(u64, u64, u64)>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            mail: LogWriter::new(dir.path(), LogKind::Mail),
            events: LogWriter::new(dir.path(), LogKind::Event),
            dir,
            now: START,
            messages: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            checkpoints: 0,
            base: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn store(&self) {
        self.mail.store();
        self.events.store();
        let (mut file, mut chain) = (Digests::header().to_vec(), [0; 32]);
        let mut entries = [&self.mail.digests[..], &self.events.digests[..]].concat();
        // As they were made, so that the file only grows.
        entries.sort_by_key(|entry| entry.written_unix_ms);
        for entry in entries {
            let (bytes, next) = entry.encode(&chain);
            file.extend_from_slice(&bytes);
            chain = next;
        }
        std::fs::write(self.path().join("spool/digests"), file).unwrap();
    }

    /// Does `steps` things at random, all of which a node may do.
    pub(super) fn live_on(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now += self.rng.u64(1..200_000);
            match self.rng.u32(0..100) {
                0..35 => self.accept(),
                35..60 => self.defer(),
                60..90 => self.end(),
                90..94 => self.compact(),
                94..95 => self.erase(),
                95..97 => self.checkpoint(),
                _ => self.reclaim(),
            }
        }
        self.store();
    }

    pub(super) fn accept(&mut self) {
        let count = self.rng.usize(1..4);
        let domains: Vec<String> = (0..count)
            .map(|_| format!("d{}.example", self.rng.u32(0..5)))
            .collect();
        let len = self.rng.usize(2..3_000);
        self.accept_for(&domains, len);
    }

    pub(super) fn accept_for(&mut self, domains: &[String], len: usize) {
        let id = *MessageId::new(self.now, &std::array::from_fn(|_| self.rng.u8(..))).as_bytes();
        let stream = ["outbound", "broadcast"][self.rng.usize(0..2)];
        let paths: Vec<String> = domains.iter().map(|d| format!("someone@{d}")).collect();
        let recipients: Vec<Recipient<'_>> = paths
            .iter()
            .zip(domains)
            .map(|(forward_path, domain)| Recipient {
                forward_path,
                domain,
                fields: List::new(&[]),
            })
            .collect();
        let content = vec![b'x'; len.max(2)];
        let record = MessageRecord {
            id,
            accepted_unix_ms: self.now,
            server_id: 1,
            server_name: "app",
            stream_id: stream,
            stream_kind: StreamKind::Transactional,
            pool: "tx",
            reverse_path: "bounce@shop.example",
            recipients: List::new(&recipients),
            tag: None,
            metadata: List::new(&[("key", "value")]),
            flags: 0,
            header_len: 2,
            fields: List::new(&[]),
            content: Content::Inline(&content),
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        payload.extend_from_slice(&content);
        let position = self.mail.append(self.now, kind::MESSAGE, 0, &payload);
        let lives = domains.iter().map(|domain| Life {
            domain: domain.clone(),
            deferred: Vec::new(),
            ended: None,
            positions: Vec::new(),
        });
        self.messages.push(Message {
            id,
            accepted_at: self.now,
            stream,
            position,
            payload,
            lives: lives.collect(),
            erased: false,
            moved: false,
            segments: vec![position / SIZE + 1],
        });
        let message = self.messages.len() - 1;
        for number in 0..domains.len() {
            self.event(message, number, EventKind::Accepted, &[]);
        }
    }

    pub(super) fn event(
        &mut self,
        message: usize,
        number: usize,
        kind: EventKind,
        more: &[Field<'_>],
    ) {
        let life = &self.messages[message].lives[number];
        let path = format!("someone@{}", life.domain);
        let mut fields = vec![
            Field::text(event_field::RECIPIENT, &path),
            Field::text(event_field::SERVER, "app"),
            Field::text(event_field::STREAM, self.messages[message].stream),
        ];
        fields.extend_from_slice(more);
        let record = EventRecord {
            kind: kind.code(),
            at_unix_ms: self.now,
            message_id: self.messages[message].id,
            recipient_number: number as u16,
            fields: List::new(&fields),
        };
        let mut payload = Vec::new();
        record.encode(&mut payload).unwrap();
        let position = self.events.append(self.now, kind::EVENT, 0, &payload);
        self.messages[message].lives[number]
            .positions
            .push(position);
    }

    /// Somebody who lives.
    fn anybody(&mut self) -> Option<(usize, usize)> {
        let mut living = Vec::new();
        for (message, m) in self.messages.iter().enumerate() {
            let numbers = m.lives.iter().enumerate();
            living.extend(
                numbers
                    .filter(|(_, l)| l.ended.is_none())
                    .map(|(n, _)| (message, n)),
            );
        }
        self.rng.choice(living)
    }

    pub(super) fn defer(&mut self) {
        let Some((message, number)) = self.anybody() else {
            return;
        };
        let next = self.now + self.rng.u64(1_000..3_000_000);
        let attempts = self.messages[message].lives[number].deferred.len() as u32 + 1;
        let (attempts, until) = (attempts.to_le_bytes(), next.to_le_bytes());
        let fields = [
            Field::new(event_field::ATTEMPTS, &attempts),
            Field::new(event_field::NEXT_ATTEMPT_MS, &until),
        ];
        self.event(message, number, EventKind::Deferred, &fields);
        let now = self.now;
        self.messages[message].lives[number]
            .deferred
            .push((now, next));
    }

    pub(super) fn end(&mut self) {
        let Some((message, number)) = self.anybody() else {
            return;
        };
        let kinds = [EventKind::Delivered, EventKind::Bounced, EventKind::Expired];
        let kind = kinds[self.rng.usize(0..kinds.len())];
        self.event(message, number, kind, &[]);
        let now = self.now;
        self.messages[message].lives[number].ended = Some((now, kind));
    }

    /// Copies a live message to the tail.
    pub(super) fn compact(&mut self) {
        let sealed = self.mail.sealed();
        let old = |m: &&mut Message| m.is_live() && sealed.contains(&m.segments[0]);
        let Some(message) = self.messages.iter_mut().find(old) else {
            return;
        };
        let flags = record_flag::MOVED;
        message.position = self
            .mail
            .append(self.now, kind::MESSAGE, flags, &message.payload);
        message.segments = vec![message.position / SIZE + 1];
        message.moved = true;
    }

    /// Of a message that has ended: its record, and the events of its first recipient.
    pub(super) fn erase(&mut self) {
        let ended = |m: &&mut Message| !m.is_live() && !m.erased;
        let Some(message) = self.messages.iter_mut().find(ended) else {
            return;
        };
        if self.mail.erase(message.position) {
            message.erased = true;
            for position in &message.lives[0].positions {
                self.events.erase(*position);
            }
        }
    }

    /// A base, or a delta behind it.
    pub(super) fn checkpoint(&mut self) {
        let dir = self.path().join("spool/checkpoint");
        std::fs::create_dir_all(&dir).unwrap();
        self.checkpoints += 1;
        let number = self.checkpoints;
        let base = self.base.filter(|_| !number.is_multiple_of(3));
        let header = CheckpointHeader {
            form: base.map_or(Form::Base, |_| Form::Delta),
            number,
            base: base.map_or(number, |(number, ..)| number),
            mail_from: base.map_or(0, |(_, mail_to, _)| mail_to),
            mail_to: self.mail.end(),
            event_to: base.map_or(self.events.end(), |(_, _, event_to)| event_to),
            created_unix_ms: self.now,
            salt: [number as u8; 16],
        };
        self.base = Some((header.base, header.mail_to, header.event_to));
        let (mut writing, mut file) = Writing::start(&header, &CheckpointGaps::default()).unwrap();
        let mut live: Vec<&Message> = self.messages.iter().filter(|m| m.is_live()).collect();
        live.sort_by_key(|m| m.position);
        let mut names = Names::default();
        for message in live.into_iter().filter(|m| m.position >= header.mail_from) {
            let flags = match message.moved && base.is_some() {
                true => record_flag::MOVED,
                false => 0,
            };
            let mut entry = LiveMessage::default();
            entry
                .read(message.position, flags, &message.payload, &mut names)
                .unwrap();
            entry
                .recipients
                .retain(|r| message.lives[usize::from(r.number)].ended.is_none());
            for recipient in &mut entry.recipients {
                let deferred = &message.lives[usize::from(recipient.number)].deferred;
                recipient.announced = true;
                recipient.attempts = deferred.len() as u16;
                recipient.next_attempt = deferred.last().map_or(0, |(_, next)| *next);
            }
            writing.push(&entry, &names).unwrap();
        }
        writing.finish(&mut file).unwrap();
        std::fs::write(dir.join(format!("{number:016x}.ckp")), file).unwrap();
    }

    /// Takes back the first segment that nobody holds.
    pub(super) fn reclaim(&mut self) {
        self.store();
        for number in self.mail.sealed() {
            let held = |m: &Message| m.is_live() && m.segments.contains(&number);
            let there = self.mail.path(number).exists();
            if there && !self.messages.iter().any(held) {
                let archived = self.rng.bool();
                self.mail.reclaim(self.now, number, archived);
                return;
            }
        }
        // Events are archived from the front.
        let sealed = self.events.sealed();
        if let Some(number) = sealed.clone().find(|n| self.events.path(*n).exists())
            && number + 1 < sealed.end
        {
            self.events.reclaim(self.now, number, true);
        }
    }
}
