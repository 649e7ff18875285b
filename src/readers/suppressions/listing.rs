//! What is suppressed in a stream: the base's entries, and over them what has changed since.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use super::state::{Cursor, Kept, List, Stored};
use crate::clock::UnixMs;
use crate::mail::Mailbox;
use crate::suppression::{Origin, Reason, Tag, TagKey};

/// Changes of one stream since the base.
pub(super) type Recent = BTreeMap<Tag, Change>;

/// What a tag has become, by the event of this id. `None`: lifted.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) event: u64,
    /// What events up to this one say of the address has been answered by it.
    pub(super) settles: u64,
    pub(super) kept: Option<Kept>,
}

/// Which suppressions of a list; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub reason: Option<Reason>,
    pub origin: Option<Origin>,
    pub from: Option<UnixMs>,
    /// Before this time.
    pub to: Option<UnixMs>,
}

impl Filter {
    fn takes(&self, kept: &Kept) -> bool {
        self.reason.is_none_or(|r| r == kept.suppression.reason)
            && self.origin.is_none_or(|o| o == kept.suppression.origin)
            && self.from.is_none_or(|from| kept.since >= from)
            && self.to.is_none_or(|to| kept.since < to)
    }
}

/// One suppression of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub list: List,
    pub tag: Tag,
    pub kept: Kept,
}

/// All entries of one stream, in order of their tags.
pub(super) struct Merged<'a> {
    list: &'a List,
    key: &'a TagKey,
    base: Option<Cursor<'a>>,
    held: Option<(Tag, Kept)>,
    recent: Option<&'a Recent>,
    /// Of those in `recent`, the last that was passed.
    passed: Bound<Tag>,
}

impl<'a> Merged<'a> {
    pub(super) fn new(
        list: &'a List,
        key: &'a TagKey,
        stored: Option<&'a Stored>,
        recent: Option<&'a Recent>,
    ) -> Self {
        Self {
            list,
            key,
            base: stored.and_then(|stored| stored.seek(list, None)),
            held: None,
            recent,
            passed: Bound::Unbounded,
        }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<(Tag, Kept)>> {
        loop {
            if self.held.is_none()
                && let Some(cursor) = &mut self.base
            {
                self.held = cursor.entry(self.list, self.key)?;
                if self.held.is_none() {
                    self.base = None;
                }
            }
            let behind = (self.passed, Bound::Unbounded);
            let recent = self.recent.and_then(|recent| recent.range(behind).next());
            match (&self.held, recent) {
                (Some((tag, _)), Some((changed, _))) if tag < changed => {
                    return Ok(self.held.take());
                }
                (held, Some((changed, change))) => {
                    if held.as_ref().is_some_and(|(tag, _)| tag == changed) {
                        self.held = None;
                    }
                    self.passed = Bound::Excluded(*changed);
                    if let Some(kept) = &change.kept {
                        return Ok(Some((*changed, kept.clone())));
                    }
                }
                (_, None) => return Ok(self.held.take()),
            }
        }
    }
}

/// Suppressions as they were when it began, however long it takes.
pub struct Listing {
    pub(super) key: TagKey,
    pub(super) stored: Option<Arc<Stored>>,
    pub(super) lists: VecDeque<(List, Option<Arc<Recent>>)>,
    pub(super) filter: Filter,
    /// Its turn, given back with it.
    pub(super) _turn: tokio::sync::OwnedSemaphorePermit,
}

impl Listing {
    /// Calls `each` for all of them until it says no. Blocks.
    pub fn run(self, each: &mut dyn FnMut(Listed) -> bool) -> io::Result<()> {
        for (list, recent) in &self.lists {
            let stored = self.stored.as_deref();
            let mut merged = Merged::new(list, &self.key, stored, recent.as_deref());
            while let Some((tag, kept)) = merged.next()? {
                let list = list.clone();
                if self.filter.takes(&kept) && !each(Listed { list, tag, kept }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Of these streams only.
    pub fn of(mut self, only: &dyn Fn(&List) -> bool) -> Self {
        self.lists.retain(|(list, _)| only(list));
        self
    }

    /// The first of this address. Blocks for a read.
    pub fn find(self, address: &Mailbox) -> io::Result<Option<Listed>> {
        let mut found = None;
        self.find_each(address, &mut |listed| {
            found = Some(listed);
            false
        })?;
        Ok(found)
    }

    /// Calls `each` for those of this address until it says no. Blocks for a read in each stream.
    pub fn find_each(
        self,
        address: &Mailbox,
        each: &mut dyn FnMut(Listed) -> bool,
    ) -> io::Result<()> {
        for (list, recent) in self.lists {
            let tag = self.key.tag(list.server, &list.stream, address);
            let kept = match recent.as_ref().and_then(|recent| recent.get(&tag)) {
                Some(change) => change.kept.clone(),
                None => in_base(self.stored.as_deref(), &list, &self.key, tag)?,
            };
            if let Some(kept) = kept.filter(|kept| self.filter.takes(kept))
                && !each(Listed { list, tag, kept })
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn in_base(
    stored: Option<&Stored>,
    list: &List,
    key: &TagKey,
    wanted: Tag,
) -> io::Result<Option<Kept>> {
    let Some(mut cursor) = stored.and_then(|stored| stored.seek(list, Some(wanted))) else {
        return Ok(None);
    };
    while let Some((tag, kept)) = cursor.entry(list, key)? {
        if tag >= wanted {
            return Ok((tag == wanted).then_some(kept));
        }
    }
    Ok(None)
}
