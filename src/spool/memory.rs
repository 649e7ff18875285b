//! Memory that Rust's rules cannot see into: the ring in which a log's tail gathers, maps of segment files, the SIGBUS
//! handler. The only file with `unsafe`.
//!
//! Promises a safe face: ranges of an [`Image`] are handed out once each, as [`Slot`]s; bytes are shown to the committer
//! only when the slot that covers them was published; a map is read-only; a medium that fails under a map stops the
//! process and says which segment it was.
//! Does not know: records, beyond the length word that publishes them, and files.
//!
//! # How an image is filled
//! `tail` only grows. A writer takes `tail..tail + len` with one `fetch_add`, fills it, and publishes its length last, with
//! release ordering, in a word beside the bytes: one that is not zero means that the whole slot is there. The committer
//! reads the words in order with acquire ordering, from one to the next, since a slot's length follows from its word.
//!
//! # The ring
//! The images of a log's segments are windows on one [`Ring`]: a byte lies at its position in the log, modulo the ring's
//! size. The memory appears twice, back to back, so that every range is one slice. A lap later the same memory is another
//! slot's; for that the committer clears the words (and only the words) of what is durable. That nobody reserves more
//! than was cleared is the business of `admit`, and is checked at every slot.
//! Not an image for each whole segment: that is 64 MiB which are touched once, so every byte is a cache miss, and every
//! page is faulted in and zeroed.

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
use spool_format::layout::{ALIGNMENT, PAGE, PAGE_OFFSET, record};

use super::disk::Map;
use super::sync::{AtomicBool, AtomicU64, Ordering};

pub(crate) use store::Store;

/// The memory that a log's segments share while they are written.
pub(crate) struct Ring {
    store: Store,
    /// Everything below this position is durable, and its words are cleared.
    cleared: AtomicU64,
}

/// A segment in the ring: its offsets are the file's offsets.
pub(crate) struct Image {
    ring: Arc<Ring>,
    /// Position of offset 0.
    base: u64,
    len: u64,
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

impl Ring {
    /// `size` is a multiple of the page. The log goes on at `position`.
    pub(crate) fn new(size: u64, position: u64) -> io::Result<Self> {
        assert!(size > 0 && size.is_multiple_of(PAGE_OFFSET), "{size}");
        Ok(Self {
            store: Store::new(size as usize)?,
            cleared: AtomicU64::new(position),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.store.len() as u64
    }

    fn at(&self, position: u64) -> usize {
        (position % self.len()) as usize
    }
}

impl Image {
    /// `first..limit` is for writers, `limit..len` for the last slot. All three are multiples of the alignment.
    pub(crate) fn new(ring: &Arc<Ring>, base: u64, len: u64, first: u64, limit: u64) -> Self {
        assert!(first < limit && limit < len, "{first} {limit} {len}");
        for bound in [base, len, first, limit] {
            assert_eq!(bound % ALIGNMENT as u64, 0, "{bound}");
        }
        Self {
            ring: Arc::clone(ring),
            base,
            len,
            tail: AtomicU64::new(first),
            published: AtomicU64::new(first),
            last_taken: AtomicBool::new(false),
            limit,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
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
        // Release: partner of `tail()`. Acquire: whoever took before may have been admitted because of words that were
        // cleared; so this one sees them cleared too.
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
        // Acquire: partner of the release store in `clear`.
        let cleared = self.ring.cleared.load(Ordering::Acquire);
        let end = self.base + start + len as u64;
        if end > cleared + self.ring.len() {
            overrun(end, cleared);
        }
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
            let word = self.word(at, Ordering::Acquire);
            if word == 0 {
                break;
            }
            at += u64::from(word).next_multiple_of(ALIGNMENT as u64);
        }
        // Release: partner of the acquire load in `show`.
        self.published.store(at, Ordering::Release);
        at
    }

    fn word(&self, offset: u64, ordering: Ordering) -> u32 {
        let at = self.ring.at(self.base + offset);
        self.ring.store.load_word(at, ordering)
    }

    /// Shows published bytes.
    pub(crate) fn show<R>(&self, range: Range<u64>, see: impl FnOnce(&[u8]) -> R) -> R {
        let published = self.published.load(Ordering::Acquire);
        assert!(range.start <= range.end && range.end <= published);
        let start = self.ring.at(self.base + range.start);
        let len = (range.end - range.start) as usize;
        self.ring.store.show(start..start + len, see)
    }

    /// Lets the next lap have the memory of published slots, of which nobody will want to see anything. In order, by the
    /// committer.
    pub(crate) fn clear(&self, range: Range<u64>) {
        let published = self.published.load(Ordering::Relaxed);
        assert!(range.start <= range.end && range.end <= published);
        let mut at = range.start;
        while at < range.end {
            let word = self.word(at, Ordering::Relaxed);
            let place = self.ring.at(self.base + at);
            self.ring.store.store_word(place, 0, Ordering::Relaxed);
            at += u64::from(word).next_multiple_of(ALIGNMENT as u64);
        }
        assert_eq!(at, range.end, "slots end where the range ends");
        // Release: partner of the acquire load in `slot`, which sees the words cleared.
        let cleared = self.base + range.end;
        self.ring.cleared.store(cleared, Ordering::Release);
    }
}

/// Two slots would share memory, and somebody else's bytes would become durable.
fn overrun(end: u64, cleared: u64) -> ! {
    if cfg!(test) {
        panic!("reserved up to {end}, cleared up to {cleared}");
    }
    // Not a panic: the slot is reserved, so the committer would wait for it for ever.
    tracing::error!(end, cleared, "the spool's ring was overrun; stopping");
    std::process::abort()
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

    fn place(&self) -> Range<usize> {
        let start = self.image.ring.at(self.image.base + self.start);
        start..start + self.len
    }

    /// Lets `write` change the bytes behind the length word.
    pub(crate) fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let place = self.place();
        self.image
            .ring
            .store
            .fill(place, |bytes| write(&mut bytes[record::CRC..]))
    }

    /// Stores the length word; from then on the slot is the committer's.
    pub(crate) fn publish(self, word: u32) {
        let covered = (word as usize).next_multiple_of(ALIGNMENT);
        assert_eq!(covered, self.len, "length word {word} at {}", self.start);
        let place = self.place();
        let store = &self.image.ring.store;
        store.fill(place.start..place.start + record::CRC, |bytes| {
            bytes.copy_from_slice(&word.to_le_bytes());
        });
        // Release: partner of the acquire load in `published_up_to`.
        store.store_word(place.start, word, Ordering::Release);
    }
}

#[cfg(not(feature = "loom"))]
mod store {
    use std::io;
    use std::ops::Range;
    use std::ptr::{NonNull, null_mut};
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
    use spool_format::layout::ALIGNMENT;

    /// Zeroed memory that appears twice, back to back, and a word for each eight bytes of it. Pages that were never
    /// touched cost nothing.
    pub(crate) struct Store {
        /// `2 * len` bytes of address space.
        base: NonNull<u8>,
        len: usize,
        words: NonNull<u8>,
    }

    // SAFETY: both pointers are this value's alone and stay valid until it is dropped. Access from several threads is what
    // the module's protocol orders: disjoint slots, published by release, read after acquire.
    unsafe impl Send for Store {}
    // SAFETY: as above.
    unsafe impl Sync for Store {}

    impl Store {
        /// `len` is a multiple of the page.
        pub(crate) fn new(len: usize) -> io::Result<Self> {
            let file = memfd_create("posthaste-ring", MemfdFlags::CLOEXEC)?;
            ftruncate(&file, len as u64)?;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: new mappings at addresses of the kernel's choice. The two fixed ones replace the halves of the
            // first, which nobody else knows yet; the file is as long as each of them and private to this function.
            unsafe {
                let words = mmap_anonymous(null_mut(), words_len(len), access, MapFlags::PRIVATE)?;
                let base = mmap_anonymous(
                    null_mut(),
                    2 * len,
                    ProtFlags::empty(),
                    MapFlags::PRIVATE | MapFlags::NORESERVE,
                )?;
                let store = Self {
                    base: NonNull::new_unchecked(base.cast()),
                    len,
                    words: NonNull::new_unchecked(words.cast()),
                };
                // From here on a failure unmaps all of it.
                for half in [base, base.byte_add(len)] {
                    let flags = MapFlags::SHARED | MapFlags::FIXED;
                    mmap(half, len, access, flags, &file, 0)?;
                }
                Ok(store)
            }
        }

        pub(crate) fn len(&self) -> usize {
            self.len
        }

        fn word(&self, at: usize) -> &AtomicU32 {
            assert!(at.is_multiple_of(ALIGNMENT) && at < self.len);
            // SAFETY: inside the map (just checked), aligned, and only ever accessed through this reference.
            unsafe { AtomicU32::from_ptr(self.words.cast::<u32>().as_ptr().add(at / ALIGNMENT)) }
        }

        pub(super) fn load_word(&self, at: usize, ordering: Ordering) -> u32 {
            self.word(at).load(ordering)
        }

        pub(super) fn store_word(&self, at: usize, word: u32, ordering: Ordering) {
            self.word(at).store(word, ordering);
        }

        fn check(&self, range: &Range<usize>) {
            assert!(range.start < self.len && range.start <= range.end);
            assert!(range.len() <= self.len);
        }

        /// `range` begins in the first appearance.
        pub(super) fn fill<R>(&self, range: Range<usize>, write: impl FnOnce(&mut [u8]) -> R) -> R {
            self.check(&range);
            // SAFETY: inside the map (just checked). The caller is an unpublished `Slot`, borrowed or consumed: slots of one
            // lap do not overlap since `tail` only grows, slots of different laps do not since `Image::slot` lets nobody
            // have memory that was not cleared, and nobody reads a slot's bytes before it is published.
            let bytes = unsafe {
                let start = self.base.as_ptr().add(range.start);
                std::slice::from_raw_parts_mut(start, range.len())
            };
            write(bytes)
        }

        /// `range` begins in the first appearance.
        pub(super) fn show<R>(&self, range: Range<usize>, see: impl FnOnce(&[u8]) -> R) -> R {
            self.check(&range);
            // SAFETY: inside the map (just checked). `Image::show` lets only published bytes through: their slots are
            // consumed, so nobody writes them any more, and the acquire load of their words made them visible. The
            // committer, who alone is shown bytes, clears them afterwards.
            let bytes = unsafe {
                let start = self.base.as_ptr().add(range.start);
                std::slice::from_raw_parts(start, range.len())
            };
            see(bytes)
        }
    }

    impl Drop for Store {
        fn drop(&mut self) {
            // SAFETY: mapped in `new` at these lengths, and nobody borrows from it any more. Nothing can be done if it
            // fails.
            unsafe {
                let _ = munmap(self.base.as_ptr().cast(), 2 * self.len);
                let _ = munmap(self.words.as_ptr().cast(), words_len(self.len));
            }
        }
    }

    fn words_len(len: usize) -> usize {
        len / ALIGNMENT * size_of::<u32>()
    }
}

#[cfg(feature = "loom")]
mod store {
    //! The same face over loom's cells, so that loom sees every racing access. Eight bytes each where records of a small
    //! model begin, which is near the front of a page; the rest of each page is one cell, since it is one slot.

    use std::io;
    use std::ops::Range;

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{AtomicU32, Ordering};
    use spool_format::layout::PAGE;

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
            let result = write(&mut bytes);
            for (part, at, cell) in self.touched(&range) {
                // SAFETY: loom checks that nobody else has it.
                cell.with_mut(|cell| unsafe { &mut *cell }[at].copy_from_slice(&bytes[part]));
            }
            result
        }

        pub(super) fn show<R>(&self, range: Range<usize>, see: impl FnOnce(&[u8]) -> R) -> R {
            see(&self.copy(&range))
        }

        fn copy(&self, range: &Range<usize>) -> Vec<u8> {
            let mut bytes = vec![0; range.len()];
            for (part, at, cell) in self.touched(range) {
                // SAFETY: loom checks that nobody writes it.
                cell.with(|cell| bytes[part].copy_from_slice(&unsafe { &*cell }[at]));
            }
            bytes
        }

        /// The cells in `range`: which part of the range, and where in the cell.
        fn touched<'a>(
            &'a self,
            range: &Range<usize>,
        ) -> impl Iterator<Item = (Range<usize>, Range<usize>, &'a UnsafeCell<Vec<u8>>)> {
            let range = range.clone();
            let len = self.len;
            [0, len].into_iter().flat_map(move |lap| {
                let range = range.clone();
                self.cells.iter().filter_map(move |(cell, bytes)| {
                    let start = (cell.start + lap).max(range.start);
                    let end = (cell.end + lap).min(range.end);
                    let at = start.checked_sub(cell.start + lap)?;
                    let part = start.checked_sub(range.start)?..end.checked_sub(range.start)?;
                    (start < end).then(|| (part.clone(), at..at + part.len(), bytes))
                })
            })
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
#[cfg(not(feature = "loom"))]
mod tests;
