//! The disk budget: how much space is left, and who gives way when it is short.
//!
//! Promises: what was accepted is never short of space because of what could still be refused or forgotten. Below
//! `warn_below` an alarm is raised and history goes, the oldest archives first; below `refuse_below` new mail is refused and
//! nothing more is archived; `reserve` is left for outcomes. Each ends by itself when space returns.
//! Does not know: what takes the space. Files of others count like our own.

use std::path::PathBuf;

use super::disk::Disk;
use super::sync::{AtomicBool, AtomicU64, Ordering};
use crate::metrics;

/// The disk as it was measured last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    pub free_bytes: u64,
    /// The alarm's threshold on this disk.
    pub warn_bytes: u64,
    /// Below the threshold: an operator should look.
    pub short: bool,
    /// New mail is refused.
    pub low: bool,
}

/// What the engine's threads know of the space, and what they are allowed.
pub(crate) struct Space {
    pub(crate) data_dir: PathBuf,
    /// Kept free of mail, so that outcomes can always be written.
    pub(crate) reserve: u64,
    /// Free space under which new mail is refused.
    refuse_below: u64,
    /// Free space under which archives go.
    warn_below: u64,
    low: AtomicBool,
    short: AtomicBool,
    free: AtomicU64,
    /// The alarm's threshold, which depends on the size of the disk.
    bound: AtomicU64,
    /// Segments may be reclaimed: everybody who holds one has said so.
    pub(crate) reclaim: AtomicBool,
    /// Events below this position are in a checkpoint: their segments may become archives.
    pub(crate) checkpointed: AtomicU64,
}

impl Space {
    pub(crate) fn new(data_dir: PathBuf, reserve: u64, refuse_below: u64, warn_below: u64) -> Self {
        Self {
            data_dir,
            reserve,
            refuse_below,
            warn_below,
            low: AtomicBool::new(false),
            short: AtomicBool::new(false),
            free: AtomicU64::new(0),
            bound: AtomicU64::new(0),
            reclaim: AtomicBool::new(false),
            checkpointed: AtomicU64::new(0),
        }
    }

    /// Looks how much is left.
    pub(crate) fn measure(&self, disk: &dyn Disk) {
        let space = match disk.space(&self.data_dir) {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "free space cannot be measured");
                return;
            }
        };
        // A small disk: a tenth of it, and a fifth.
        let refuse = self.refuse_below.min(space.total / 10);
        let warn = self.warn_below.min(space.total / 5).max(refuse);
        self.free.store(space.free, Ordering::Relaxed);
        self.bound.store(warn, Ordering::Relaxed);
        let (low, short) = (space.free < refuse, space.free < warn);
        metrics::SPOOL_SHORT.set(f64::from(u8::from(short)));
        if short != self.short.swap(short, Ordering::Relaxed) {
            tell(
                short,
                space.free,
                warn,
                "free space crossed the bound of the alarm",
            );
        }
        if low != self.low.swap(low, Ordering::Relaxed) {
            tell(
                low,
                space.free,
                refuse,
                "free space crossed the bound for new mail",
            );
        }
    }

    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Bytes that are missing to where the alarm ends.
    pub(crate) fn missing(&self) -> u64 {
        let bound = self.bound.load(Ordering::Relaxed);
        bound.saturating_sub(self.free.load(Ordering::Relaxed))
    }

    pub(crate) fn pressure(&self) -> Pressure {
        Pressure {
            free_bytes: self.free.load(Ordering::Relaxed),
            warn_bytes: self.bound.load(Ordering::Relaxed),
            short: self.is_short(),
            low: self.is_low(),
        }
    }
}

fn tell(below: bool, free_bytes: u64, bound_bytes: u64, what: &'static str) {
    match below {
        true => tracing::warn!(free_bytes, bound_bytes, below, "{what}"),
        false => tracing::info!(free_bytes, bound_bytes, below, "{what}"),
    }
}

#[cfg(test)]
#[cfg(not(feature = "loom"))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spool::disk::memory::MemoryDisk;

    fn space(refuse_below: u64, warn_below: u64) -> Space {
        Space::new(PathBuf::from("/data"), 0, refuse_below, warn_below)
    }

    #[test]
    fn the_alarm_comes_before_the_refusal_and_both_end_by_themselves() {
        let disk = MemoryDisk::new();
        disk.set_capacity(1_000_000);
        let space = space(50_000, 150_000);
        for (used, short, low) in [
            (0, false, false),
            (850_000, false, false),
            (850_001, true, false),
            (950_000, true, false),
            (950_001, true, true),
            (900_000, true, false),
            (100, false, false),
        ] {
            disk.add_file(Path::new("/data/other"), vec![0; used]);
            space.measure(&disk);
            let pressure = space.pressure();
            assert_eq!((pressure.short, pressure.low), (short, low), "{used}");
            assert_eq!(pressure.free_bytes, 1_000_000 - used as u64);
        }
        disk.add_file(Path::new("/data/other"), vec![0; 900_000]);
        space.measure(&disk);
        assert_eq!(space.missing(), 50_000);
    }

    #[test]
    fn on_a_small_disk_the_bounds_are_parts_of_it() {
        let disk = MemoryDisk::new();
        disk.set_capacity(1_000);
        let space = space(1 << 30, 2 << 30);
        for (used, short, low) in [(800, false, false), (801, true, false), (901, true, true)] {
            disk.add_file(Path::new("/data/other"), vec![0; used]);
            space.measure(&disk);
            assert_eq!((space.is_short(), space.is_low()), (short, low), "{used}");
        }
    }
}
