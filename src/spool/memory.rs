//! Memory that Rust's rules cannot see into: the image of a log's tail, maps of segment files, the SIGBUS handler. The only
//! file with `unsafe`.
//!
//! Promises a safe face: ranges of an [`Image`] are handed out once each, as [`Slot`]s; bytes are shown to the committer
//! only when the slot that covers them was published; a map is read-only; a medium that fails under a map stops the
//! process and says which segment it was.
//! Does not know: records, beyond the length word that publishes them, and files.
//!
//! # How an image is filled
//! `tail` only grows. A writer takes `tail..tail + len` with one `fetch_add`, fills it, and stores the length word (the
//! first four bytes) last, with release ordering: a word that is not zero means that the whole slot is there. The
//! committer reads the words in order with acquire ordering, from one to the next, since a slot's length follows from
//! its word. An image starts as zeroes.

#![expect(
    unsafe_code,
    reason = "the one place for it; everything else uses the safe face"
)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use spool_format::layout::{ALIGNMENT, PAGE, record};

use super::disk::Map;
use super::sync::{AtomicBool, AtomicU64, Ordering};

pub(crate) use store::Store;

/// In-memory image of a segment: its offsets are the file's offsets.
pub(crate) struct Image {
    store: Store,
    /// Where the next slot begins. Beyond `limit`: the image is sealed.
    tail: AtomicU64,
    /// Everything below is published. Moved by the committer only.
    published: AtomicU64,
    last_taken: AtomicBool,
    limit: u64,
}

/// What [`Image::take`] gave.
pub(crate) enum Taken<'a> {
    Slot(Slot<'a>),
    /// The range would cross the limit. This caller, and no other, sealed the image and has to publish the rest, if any.
    Crossed(Option<Slot<'a>>),
    /// Sealed before.
    Sealed,
}

/// A range of an image that belongs to its holder until published. It must be published: the committer waits for it.
pub(crate) struct Slot<'a> {
    image: &'a Image,
    start: u64,
    len: usize,
}

impl Image {
    /// `first..limit` is for writers, `limit..len` for the last slot. All three are multiples of the alignment.
    pub(crate) fn new(len: u64, first: u64, limit: u64) -> io::Result<Self> {
        assert!(first < limit && limit < len, "{first} {limit} {len}");
        for bound in [len, first, limit] {
            assert_eq!(bound % ALIGNMENT as u64, 0, "{bound}");
        }
        Ok(Self {
            store: Store::new(len as usize)?,
            tail: AtomicU64::new(first),
            published: AtomicU64::new(first),
            last_taken: AtomicBool::new(false),
            limit,
        })
    }

    /// An image as [`Self::new`] makes it, from memory that another one used.
    pub(crate) fn reuse(self, first: u64) -> Self {
        let used = (self.tail_bound() as usize).min(self.store.len());
        let mut store = self.store;
        store.zero(used);
        Self {
            store,
            tail: AtomicU64::new(first),
            published: AtomicU64::new(first),
            last_taken: AtomicBool::new(false),
            limit: self.limit,
        }
    }

    fn tail_bound(&self) -> u64 {
        let tail = self.tail.load(Ordering::Acquire);
        // Sealed: the last slot may have been used as well.
        if tail > self.limit { u64::MAX } else { tail }
    }

    pub(crate) fn len(&self) -> u64 {
        self.store.len() as u64
    }

    /// End of what was taken; above the limit when sealed.
    pub(crate) fn tail(&self) -> u64 {
        // Acquire: partner of the read-modify-writes below, so that who sees the tail sees what came before it.
        self.tail.load(Ordering::Acquire)
    }

    /// One `fetch_add`.
    pub(crate) fn take(&self, len: usize) -> Taken<'_> {
        assert!(len > 0 && len.is_multiple_of(ALIGNMENT), "{len}");
        // Keeps late comers of a sealed image from moving its tail on and on.
        if self.tail.load(Ordering::Relaxed) > self.limit {
            return Taken::Sealed;
        }
        // Release: partner of `tail()`. Relaxed would do for the range itself, which is unique by the addition.
        let start = self.tail.fetch_add(len as u64, Ordering::AcqRel);
        if start > self.limit {
            Taken::Sealed
        } else if start + len as u64 <= self.limit {
            Taken::Slot(self.slot(start, len))
        } else {
            // Only one addition steps over the limit.
            let rest = (self.limit - start) as usize;
            Taken::Crossed((rest > 0).then(|| self.slot(start, rest)))
        }
    }

    /// Takes from the tail to `end_of(tail)`, which must be above the tail, at most the image's length, and not between
    /// limit and length. `None`: sealed.
    pub(crate) fn take_to(&self, end_of: impl Fn(u64) -> u64) -> Option<Slot<'_>> {
        let mut tail = self.tail.load(Ordering::Acquire);
        loop {
            if tail > self.limit {
                return None;
            }
            let end = end_of(tail);
            assert!(end > tail && (end <= self.limit || end == self.len()));
            match self
                .tail
                .compare_exchange_weak(tail, end, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(self.slot(tail, (end - tail) as usize)),
                Err(now) => tail = now,
            }
        }
    }

    /// The range behind the limit of an image that a [`Taken::Crossed`] sealed. Once.
    pub(crate) fn take_last(&self) -> Slot<'_> {
        let tail = self.tail();
        assert!(tail > self.limit, "not sealed: {tail} {}", self.limit);
        let again = self.last_taken.swap(true, Ordering::Relaxed);
        assert!(!again, "the last slot was taken before");
        self.slot(self.limit, (self.len() - self.limit) as usize)
    }

    fn slot(&self, start: u64, len: usize) -> Slot<'_> {
        Slot {
            image: self,
            start,
            len,
        }
    }

    /// Looks how far slots are published, at most up to `end`, and returns that. For one caller at a time: the committer.
    pub(crate) fn published_up_to(&self, end: u64) -> u64 {
        let mut at = self.published.load(Ordering::Relaxed);
        while at < end {
            // Acquire: partner of the release store in `Slot::publish`; the slot's bytes are seen with its word.
            let word = self.store.load_word(at as usize, Ordering::Acquire);
            if word == 0 {
                break;
            }
            at += u64::from(word).next_multiple_of(ALIGNMENT as u64);
        }
        // Release: partner of the acquire load in `show`.
        self.published.store(at, Ordering::Release);
        at
    }

    /// Shows published bytes.
    pub(crate) fn show<R>(&self, range: Range<u64>, see: impl FnOnce(&[u8]) -> R) -> R {
        let published = self.published.load(Ordering::Acquire);
        assert!(range.start <= range.end && range.end <= published);
        self.store
            .show(range.start as usize..range.end as usize, see)
    }
}

impl<'a> Slot<'a> {
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Two slots: the first `len` bytes, and the rest.
    pub(crate) fn split(self, len: usize) -> (Slot<'a>, Slot<'a>) {
        assert!(len > 0 && len < self.len && len.is_multiple_of(ALIGNMENT));
        let rest = self.image.slot(self.start + len as u64, self.len - len);
        (self.image.slot(self.start, len), rest)
    }

    /// Lets `write` change the bytes behind the length word.
    pub(crate) fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.start as usize;
        self.image.store.fill(start..start + self.len, write)
    }

    /// Stores the length word; from then on the slot is the committer's.
    pub(crate) fn publish(self, word: u32) {
        let covered = (word as usize).next_multiple_of(ALIGNMENT);
        assert_eq!(covered, self.len, "length word {word} at {}", self.start);
        // Release: partner of the acquire load in `published_up_to`.
        self.image
            .store
            .store_word(self.start as usize, word, Ordering::Release);
    }
}

#[cfg(not(posthaste_loom))]
mod store {
    use std::io;
    use std::ops::Range;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Anonymous, zeroed, page-aligned memory; pages that were never touched cost nothing.
    pub(crate) struct Store {
        base: *mut u8,
        len: usize,
        map: memmap2::MmapMut,
    }

    // SAFETY: `base` points into `map`, which is owned and never moves its pages. Access from several threads is what the
    // module's protocol orders: disjoint slots, published by release, read after acquire.
    unsafe impl Send for Store {}
    // SAFETY: as above.
    unsafe impl Sync for Store {}

    impl Store {
        pub(crate) fn new(len: usize) -> io::Result<Self> {
            let mut map = memmap2::MmapMut::map_anon(len)?;
            let base = map.as_mut_ptr();
            Ok(Self { base, len, map })
        }

        pub(crate) fn len(&self) -> usize {
            self.len
        }

        pub(super) fn zero(&mut self, up_to: usize) {
            self.map[..up_to].fill(0);
            self.base = self.map.as_mut_ptr();
        }

        fn word(&self, at: usize) -> &AtomicU32 {
            assert!(at.is_multiple_of(8) && at + 8 <= self.len);
            // SAFETY: inside the map and aligned (just checked; the base is page-aligned). Length words are written
            // through this reference only: `fill` leaves them out, so that the committer may load a slot's word while
            // the slot's holder has a `&mut` over the rest.
            unsafe { AtomicU32::from_ptr(self.base.add(at).cast()) }
        }

        pub(super) fn load_word(&self, at: usize, ordering: Ordering) -> u32 {
            u32::from_le(self.word(at).load(ordering))
        }

        pub(super) fn store_word(&self, at: usize, word: u32, ordering: Ordering) {
            self.word(at).store(word.to_le(), ordering);
        }

        pub(super) fn fill<R>(&self, range: Range<usize>, write: impl FnOnce(&mut [u8]) -> R) -> R {
            let range = range.start + super::record::CRC..range.end;
            assert!(range.start < range.end && range.end <= self.len);
            // SAFETY: inside the map (just checked). The caller is an unpublished `Slot`, borrowed mutably: slots do not
            // overlap since `tail` only grows, and nobody reads a slot's bytes before it is published, which consumes it.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) };
            write(bytes)
        }

        pub(super) fn show<R>(&self, range: Range<usize>, see: impl FnOnce(&[u8]) -> R) -> R {
            assert!(range.start <= range.end && range.end <= self.len);
            // SAFETY: inside the map (just checked). `Image::show` lets only published bytes through: their slots are
            // consumed, so nobody writes them any more, and the acquire load of their words made them visible.
            let bytes =
                unsafe { std::slice::from_raw_parts(self.base.add(range.start), range.len()) };
            see(bytes)
        }
    }
}

#[cfg(posthaste_loom)]
mod store {
    //! The same face over loom's cells, so that loom sees every racing access. Eight bytes each where records of a small
    //! model begin, which is near the front of a page; the rest of each page is one cell, since it is one slot.

    use std::io;
    use std::ops::Range;

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{AtomicU32, Ordering};
    use spool_format::layout::{PAGE, record};

    const FINE: usize = 128;

    pub(crate) struct Store {
        len: usize,
        words: Vec<AtomicU32>,
        cells: Vec<(Range<usize>, UnsafeCell<Vec<u8>>)>,
    }

    // SAFETY: loom checks the accesses.
    unsafe impl Send for Store {}
    // SAFETY: loom checks the accesses.
    unsafe impl Sync for Store {}

    impl Store {
        pub(crate) fn new(len: usize) -> io::Result<Self> {
            let words = (0..len / PAGE * FINE / 8).map(|_| AtomicU32::new(0));
            let mut cells = Vec::new();
            for page in (0..len).step_by(PAGE) {
                let fine = (page..page + FINE).step_by(8).map(|at| at..at + 8);
                for range in fine.chain([page + FINE..page + PAGE]) {
                    let bytes = UnsafeCell::new(vec![0; range.len()]);
                    cells.push((range, bytes));
                }
            }
            Ok(Self {
                len,
                words: words.collect(),
                cells,
            })
        }

        pub(crate) fn len(&self) -> usize {
            self.len
        }

        pub(super) fn zero(&mut self, _up_to: usize) {
            if let Ok(new) = Self::new(self.len) {
                *self = new;
            }
        }

        fn word(&self, at: usize) -> &AtomicU32 {
            assert!(at % PAGE < FINE, "a record of the model begins at {at}");
            &self.words[(at / PAGE * FINE + at % PAGE) / 8]
        }

        pub(super) fn load_word(&self, at: usize, ordering: Ordering) -> u32 {
            self.word(at).load(ordering)
        }

        pub(super) fn store_word(&self, at: usize, word: u32, ordering: Ordering) {
            self.word(at).store(word, ordering);
        }

        pub(super) fn fill<R>(&self, range: Range<usize>, write: impl FnOnce(&mut [u8]) -> R) -> R {
            let mut bytes = self.copy(&range);
            let result = write(&mut bytes[record::CRC..]);
            for (part, cell) in self.touched(&range) {
                let from = &bytes[part.start - range.start..part.end - range.start];
                // SAFETY: loom checks that nobody else has it.
                cell.with_mut(|cell| unsafe { &mut *cell }[..from.len()].copy_from_slice(from));
            }
            result
        }

        pub(super) fn show<R>(&self, range: Range<usize>, see: impl FnOnce(&[u8]) -> R) -> R {
            let mut bytes = self.copy(&range);
            let mut at = 0;
            while at < bytes.len() {
                let word = self.load_word(range.start + at, Ordering::Relaxed);
                bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
                at += (word as usize).next_multiple_of(8);
            }
            see(&bytes)
        }

        fn copy(&self, range: &Range<usize>) -> Vec<u8> {
            let mut bytes = vec![0; range.len()];
            for (part, cell) in self.touched(range) {
                let to = &mut bytes[part.start - range.start..part.end - range.start];
                // SAFETY: loom checks that nobody writes it.
                cell.with(|cell| to.copy_from_slice(&unsafe { &*cell }[..to.len()]));
            }
            bytes
        }

        /// Slots begin and end at cells.
        fn touched<'a>(
            &'a self,
            range: &Range<usize>,
        ) -> impl Iterator<Item = (Range<usize>, &'a UnsafeCell<Vec<u8>>)> {
            let range = range.clone();
            self.cells
                .iter()
                .filter(move |(cell, _)| cell.start < range.end && cell.end > range.start)
                .map(|(cell, bytes)| (cell.clone(), bytes))
        }
    }
}

/// Maps a whole segment file, read-only and shared.
///
/// The file's bytes change while it is mapped: the committer writes beyond the durable watermark. Nobody looks there
/// before the watermark moved, and what is below it never changes again (a segment is recycled only when its map has
/// no other holder).
pub(crate) fn map(file: &File, name: &str) -> io::Result<Map> {
    // SAFETY: the engine keeps the rule in this function's comment, it never shortens a segment file, and the lock on the
    // data directory keeps other nodes out. Somebody else who truncates the file causes SIGBUS, which is fail-stop.
    let map = unsafe { memmap2::Mmap::map(file)? };
    let entry = sigbus::register(&map, name);
    let alive = Arc::new(());
    Ok(Map {
        alive: Arc::downgrade(&alive),
        bytes: Bytes::from_owner(MappedFile {
            map,
            entry,
            _alive: alive,
        }),
    })
}

/// For each page that `bytes`, a part of a map, touch: whether it is in memory. Where the kernel does not say, it is.
pub(crate) fn residency(bytes: &[u8]) -> Vec<bool> {
    let into_page = bytes.as_ptr().addr() % PAGE;
    let pages = (into_page + bytes.len()).div_ceil(PAGE);
    let mut found = vec![1_u8; pages];
    let start = bytes.as_ptr().wrapping_sub(into_page).cast_mut();
    // SAFETY: `mincore` reads no byte of the range and writes one byte for each of its pages into `found`, which has that
    // many. The range is that of a live borrow, rounded to pages; a range without a mapping would be an error, not a fault.
    let result = unsafe {
        libc::mincore(
            start.cast(),
            into_page + bytes.len(),
            found.as_mut_ptr().cast(),
        )
    };
    if result != 0 {
        found.fill(1);
    }
    found.into_iter().map(|page| page & 1 != 0).collect()
}

/// Whether reading `bytes`, a part of a map, needs no medium.
pub(crate) fn is_resident(bytes: &[u8]) -> bool {
    residency(bytes).into_iter().all(|page| page)
}

pub(crate) use sigbus::install as install_sigbus_handler;

struct MappedFile {
    map: memmap2::Mmap,
    entry: Option<usize>,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if let Some(entry) = self.entry {
            sigbus::forget(entry);
        }
    }
}

mod sigbus {
    //! SIGBUS on a map: the medium failed to deliver a page. There is no way back into the code that touched it, so the
    //! process says which segment it was and ends; recovery reads with `read` and quarantines what is bad.

    use super::*;
    use std::sync::Once;
    use std::sync::atomic::Ordering;

    /// Maps that can be named. Beyond that many (1 TiB of mail) they are just not named.
    const ENTRIES: usize = 16_384;
    const NAME_WORDS: usize = 4;
    const WORD: usize = size_of::<usize>();
    /// Exit code for a failed disk (DESIGN §5).
    const EXIT_DISK_FAILED: i32 = 74;

    struct Entry {
        /// Zero: free. One: being changed.
        start: AtomicUsize,
        len: AtomicUsize,
        name: [AtomicUsize; NAME_WORDS],
    }

    static MAPS: [Entry; ENTRIES] = [const {
        Entry {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            name: [const { AtomicUsize::new(0) }; NAME_WORDS],
        }
    }; ENTRIES];

    pub(super) fn register(map: &[u8], name: &str) -> Option<usize> {
        let index = MAPS.iter().position(|entry| {
            // Acquire/Release on `start`: partner of the handler's acquire load; it sees length and name with it.
            entry
                .start
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })?;
        let entry = &MAPS[index];
        for (i, word) in entry.name.iter().enumerate() {
            let mut bytes = [0; WORD];
            for (byte, from) in bytes.iter_mut().zip(name.bytes().skip(i * WORD)) {
                *byte = from;
            }
            word.store(usize::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        entry.len.store(map.len(), Ordering::Relaxed);
        entry.start.store(map.as_ptr().addr(), Ordering::Release);
        Some(index)
    }

    pub(super) fn forget(index: usize) {
        MAPS[index].start.store(0, Ordering::Release);
    }

    /// Once per process, before the first map.
    pub(crate) fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: an all-zero `sigaction` is a valid value of this C struct; the fields that matter are set below.
            // The handler is async-signal-safe: atomics, `write`, `_exit`, `signal` only.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    on_sigbus;
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
            }
        });
    }

    extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid `siginfo_t` to an SA_SIGINFO handler, and SIGBUS fills the address.
        let address = unsafe { (*info).si_addr() }.addr();
        for entry in &MAPS {
            let start = entry.start.load(Ordering::Acquire);
            let len = entry.len.load(Ordering::Relaxed);
            if start > 1 && (start..start.saturating_add(len)).contains(&address) {
                stop(entry);
            }
        }
        // Not ours: the default action, when the instruction runs again.
        // SAFETY: `signal` is async-signal-safe.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }

    fn stop(entry: &Entry) -> ! {
        let mut name = [0; NAME_WORDS * WORD];
        for (word, to) in entry.name.iter().zip(name.chunks_exact_mut(WORD)) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        say(b"posthaste: the disk failed while segment ");
        say(&name[..len]);
        say(b" was read through its map (SIGBUS); stopping\n");
        // SAFETY: `_exit` is async-signal-safe and does not return.
        unsafe { libc::_exit(EXIT_DISK_FAILED) }
    }

    fn say(text: &[u8]) {
        // SAFETY: `write` is async-signal-safe; the buffer is valid for its length. Nothing can be done if it fails.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
}

#[cfg(test)]
#[cfg(not(posthaste_loom))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_handed_out_once_and_the_limit_is_crossed_once() {
        let image = Image::new(1024, 64, 512).unwrap();
        let Taken::Slot(a) = image.take(64) else {
            panic!("no slot")
        };
        assert_eq!((a.start(), a.len()), (64, 64));
        let Taken::Crossed(Some(rest)) = image.take(400) else {
            panic!("not crossed")
        };
        assert_eq!((rest.start(), rest.len()), (128, 384));
        assert!(matches!(image.take(8), Taken::Sealed));
        assert!(image.take_to(|t| t + 8).is_none());
        assert_eq!(image.take_last().start(), 512);
    }

    #[test]
    fn bytes_are_shown_in_order_of_publication_only() {
        let image = Image::new(1024, 64, 512).unwrap();
        let (Taken::Slot(mut a), Taken::Slot(mut b)) = (image.take(16), image.take(24)) else {
            panic!("no slot")
        };
        b.fill(|bytes| bytes.fill(2));
        b.publish(24);
        assert_eq!(image.published_up_to(104), 64);
        a.fill(|bytes| bytes.fill(1));
        a.publish(13);
        assert_eq!(image.published_up_to(104), 104);
        image.show(64..104, |bytes| {
            assert_eq!(bytes[..4], 13_u32.to_le_bytes());
            assert_eq!((bytes[15], bytes[39]), (1, 2));
        });
    }

    #[test]
    fn a_reused_image_is_zero() {
        let image = Image::new(1024, 64, 512).unwrap();
        let Taken::Slot(mut slot) = image.take(440) else {
            panic!("no slot")
        };
        slot.fill(|bytes| bytes.fill(9));
        slot.publish(440);
        let image = image.reuse(64);
        assert_eq!(image.published_up_to(512), 64);
        let Taken::Slot(mut slot) = image.take(440) else {
            panic!("no slot")
        };
        slot.fill(|bytes| assert!(bytes.iter().all(|b| *b == 0)));
        slot.publish(440);
    }

    /// Runs itself in a child process, which cuts a file that it has mapped.
    #[test]
    fn a_medium_that_fails_under_a_map_stops_the_process_and_names_the_segment() {
        const NAME: &str = "mail/00000000000000aa";
        if std::env::var_os("POSTHASTE_TEST_SIGBUS").is_some() {
            install_sigbus_handler();
            let file = tempfile::tempfile().unwrap();
            file.set_len(8192).unwrap();
            let map = map(&file, NAME).unwrap();
            file.set_len(0).unwrap();
            std::hint::black_box(map.bytes[4096]);
            std::process::exit(0);
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("spool::memory::tests::a_medium_that_fails_under_a_map_stops_the_process_and_names_the_segment")
            .env("POSTHASTE_TEST_SIGBUS", "1")
            .output()
            .unwrap();
        assert_eq!(child.status.code(), Some(74), "{child:?}");
        assert!(String::from_utf8_lossy(&child.stderr).contains(NAME));
    }
}
