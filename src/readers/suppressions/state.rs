//! The state of the reader `suppressions` in its base (FORMAT.md §13.1): addresses by stream, in order of their tags.
//!
//! Promises: one address is found, and one stream is listed, without reading the others; nothing is trusted to be as long as
//! it says. Does not know: what happened since.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::clock::UnixMs;
use crate::limits;
use crate::mail::Mailbox;
use crate::spool::bases::{Base, BaseWriter};
use crate::suppression::{Suppression, Tag, TagKey};

/// A message stream of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct List {
    pub server: u32,
    pub stream: Arc<str>,
}

/// What is kept of a suppression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// As it was given. `None`: only its tag is kept.
    pub address: Option<Box<str>>,
    pub suppression: Suppression,
    pub since: UnixMs,
    /// The event's id.
    pub event: u64,
}

/// Where the addresses of a stream are in the state.
#[derive(Debug, Default)]
pub(super) struct Section {
    from: u64,
    /// Now and then a tag, and where its entry begins.
    index: Vec<(Tag, u64)>,
}

/// A base, understood.
pub(super) struct Stored {
    pub(super) base: Base,
    pub(super) sections: BTreeMap<List, Section>,
}

/// Reads a state from a place on.
pub(super) struct Cursor<'a> {
    base: &'a Base,
    /// Of the next octet that is not in `piece`.
    at: u64,
    piece: Vec<u8>,
    taken: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(base: &'a Base, at: u64) -> Self {
        Self {
            base,
            at,
            piece: Vec::new(),
            taken: 0,
        }
    }

    fn position(&self) -> u64 {
        self.at - (self.piece.len() - self.taken) as u64
    }

    fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.piece.len() - self.taken < len {
            self.piece.drain(..self.taken);
            self.taken = 0;
            let held = self.piece.len();
            self.piece.resize(PIECE, 0);
            let read = self.base.read_at(&mut self.piece[held..], self.at)?;
            self.piece.truncate(held + read);
            self.at += read as u64;
            if self.piece.len() < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let from = self.taken;
        self.taken += len;
        Ok(&self.piece[from..from + len])
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn text(&mut self, len: usize) -> io::Result<&str> {
        std::str::from_utf8(self.take(len)?).map_err(|_| malformed("a text is not UTF-8"))
    }

    fn is_at_end(&self) -> bool {
        self.position() >= self.base.state_len()
    }

    /// The next entry of the section; `None` at its end.
    pub(super) fn entry(&mut self, list: &List, key: &TagKey) -> io::Result<Option<(Tag, Kept)>> {
        let word = u16::from_le_bytes(self.array()?);
        if word == 0 {
            return Ok(None);
        }
        let [code] = self.array()?;
        let suppression =
            Suppression::from_code(code).ok_or_else(|| malformed("an unknown reason"))?;
        let mut since = [0; 8];
        since[..6].copy_from_slice(&self.array::<6>()?);
        let since = u64::from_le_bytes(since);
        let event = u64::from_le_bytes(self.array()?);
        let (tag, address) = match word == HASHED {
            true => (Tag::from_bytes(self.array()?), None),
            false => {
                let text = self.text(word.into())?;
                let mailbox =
                    Mailbox::parse(text, true).map_err(|_| malformed("an address is none"))?;
                let tag = key.tag(list.server, &list.stream, &mailbox);
                (tag, Some(text.into()))
            }
        };
        let kept = Kept {
            address,
            suppression,
            since,
            event,
        };
        Ok(Some((tag, kept)))
    }
}

impl Stored {
    /// Whether it was written under this key. If not, it is in no order, and tags in place of addresses are nobody's.
    pub(super) fn is_of(base: &Base, key: &TagKey) -> io::Result<bool> {
        Ok(Tag::from_bytes(Cursor::new(base, 0).array()?) == key.check())
    }

    /// Reads the whole state, calling `take` for each entry.
    pub(super) fn read(
        base: Base,
        key: &TagKey,
        take: &mut dyn FnMut(&List, Tag, Kept),
    ) -> io::Result<Self> {
        let mut cursor = Cursor::new(&base, HEAD);
        let mut sections = BTreeMap::new();
        while !cursor.is_at_end() {
            let server = u32::from_le_bytes(cursor.array()?);
            let len = u16::from_le_bytes(cursor.array()?);
            let stream = cursor.text(len.into())?.into();
            let list = List { server, stream };
            let mut section = Section {
                from: cursor.position(),
                index: Vec::new(),
            };
            let mut at = section.from;
            while let Some((tag, kept)) = cursor.entry(&list, key)? {
                section.note(tag, at);
                at = cursor.position();
                take(&list, tag, kept);
            }
            sections.insert(list, section);
        }
        Ok(Self { base, sections })
    }

    /// What it covers, and nothing of what it holds.
    pub(super) fn without_entries(self) -> Self {
        Self {
            base: self.base,
            sections: BTreeMap::new(),
        }
    }

    /// A place from which reading on meets `tag`, if it is there, and at first nothing else.
    pub(super) fn seek(&self, list: &List, tag: Option<Tag>) -> Option<Cursor<'_>> {
        let section = self.sections.get(list)?;
        let before = tag.map_or(0, |tag| section.index.partition_point(|(t, _)| *t <= tag));
        let at = match before.checked_sub(1) {
            Some(place) => section.index[place].1,
            None => section.from,
        };
        Some(Cursor::new(&self.base, at))
    }
}

impl Section {
    fn note(&mut self, tag: Tag, at: u64) {
        let last = self.index.last().map_or(self.from, |(_, at)| *at);
        if at - last >= limits::SUPPRESSIONS_INDEX {
            self.index.push((tag, at));
        }
    }
}

/// Writes a state, section by section.
pub(super) struct StateWriter<'a, 'b> {
    out: &'a mut BaseWriter<'b>,
    sections: BTreeMap<List, Section>,
    open: Option<(List, Section)>,
}

impl<'a, 'b> StateWriter<'a, 'b> {
    pub(super) fn begin(out: &'a mut BaseWriter<'b>, key: &TagKey) -> io::Result<Self> {
        out.write(&key.check().to_bytes())?;
        Ok(Self {
            out,
            sections: BTreeMap::new(),
            open: None,
        })
    }

    /// In order of lists, and within one of tags.
    pub(super) fn entry(&mut self, list: &List, tag: Tag, kept: &Kept) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(open, _)| open != list) {
            self.close()?;
            let len = u16::try_from(list.stream.len()).map_err(io::Error::other)?;
            self.out.write(&list.server.to_le_bytes())?;
            self.out.write(&len.to_le_bytes())?;
            self.out.write(list.stream.as_bytes())?;
            let section = Section {
                from: self.out.state_len(),
                index: Vec::new(),
            };
            self.open = Some((list.clone(), section));
        }
        let at = self.out.state_len();
        if let Some((_, section)) = &mut self.open {
            section.note(tag, at);
        }
        let word = match &kept.address {
            // An address has at most 320 octets.
            Some(address) => u16::try_from(address.len()).map_err(io::Error::other)?,
            None => HASHED,
        };
        self.out.write(&word.to_le_bytes())?;
        self.out.write(&[kept.suppression.code()])?;
        self.out.write(&kept.since.to_le_bytes()[..6])?;
        self.out.write(&kept.event.to_le_bytes())?;
        match &kept.address {
            Some(address) => self.out.write(address.as_bytes()),
            None => self.out.write(&tag.to_bytes()),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some((list, section)) = self.open.take() {
            self.out.write(&[0, 0])?;
            self.sections.insert(list, section);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<BTreeMap<List, Section>> {
        self.close()?;
        Ok(self.sections)
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the base: {what}"))
}

/// The check of the key.
const HEAD: u64 = 16;
/// In place of an address's length: a tag follows.
const HASHED: u16 = u16::MAX;
/// Read at once.
const PIECE: usize = 64 << 10;
