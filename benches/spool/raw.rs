//! The raw loop: one thread, one file, whole batches, one sync each.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Bench;
use crate::machine::cpu;

pub(crate) const PAGE: usize = 4096;
pub(crate) const FILE: u64 = 64 << 20;

/// One run of anything that makes records durable.
pub(crate) struct Figure {
    pub(crate) records: usize,
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
    pub(crate) syncs: u64,
    /// Of a record: until it was durable.
    pub(crate) latencies: Vec<Duration>,
    /// What the device wrote meanwhile.
    pub(crate) written: Option<u64>,
}

impl Figure {
    pub(crate) fn per_second(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn cpu_micros(&self) -> f64 {
        crate::machine::micros(self.cpu) / self.records as f64
    }

    /// In microseconds. Latencies are sorted.
    pub(crate) fn latency(&self, part: f64) -> u128 {
        let index = ((self.latencies.len() - 1) as f64 * part) as usize;
        self.latencies[index].as_micros()
    }

    /// Bytes that the device wrote for each of the payload.
    pub(crate) fn amplification(&self, record: usize) -> Option<f64> {
        let written = self.written? as f64;
        Some(written / (self.records * record) as f64)
    }
}

/// How bytes are made durable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Through the page cache, then `fdatasync`.
    Buffered,
    /// `O_DIRECT`, then `fdatasync`.
    Direct,
    /// `O_DIRECT | O_DSYNC`.
    DirectDsync,
}

/// What the file is like before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Zeroed,
    /// Written over by an earlier life.
    Recycled,
    /// Allocated and never written.
    Allocated,
    /// As long as what was written.
    Growing,
}

/// A file to be written over and over.
pub(crate) struct Raw {
    file: File,
    path: PathBuf,
    how: How,
}

impl Raw {
    pub(crate) fn new(dir: &Path, how: How, space: Space, is_warm: bool) -> Self {
        let path = dir.join("raw");
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options
            .clone()
            .create_new(true)
            .open(&path)
            .expect("a file");
        match space {
            Space::Zeroed => fill(&file, 0),
            Space::Recycled => fill(&file, 0xA5),
            Space::Allocated => {
                let flags = rustix::fs::FallocateFlags::empty();
                rustix::fs::fallocate(&file, flags, 0, FILE).expect("space");
            }
            Space::Growing => {}
        }
        file.sync_all().expect("a sync");
        if !is_warm {
            let advice = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&file, 0, None, advice).expect("a dropped cache");
        }
        let flags = match how {
            How::Buffered => 0,
            How::Direct => libc::O_DIRECT,
            How::DirectDsync => libc::O_DIRECT | libc::O_DSYNC,
        };
        let file = options.custom_flags(flags).open(&path).expect("a file");
        Self { file, path, how }
    }

    /// `per_sync` records in one write and one sync, on and on through the file; with `laps` over and over, which makes
    /// of any file a recycled one that is in memory.
    pub(crate) fn run(
        &self,
        bench: &Bench,
        record: usize,
        per_sync: usize,
        time: Duration,
        laps: bool,
    ) -> Figure {
        let len = (per_sync * record).next_multiple_of(PAGE);
        let mut memory = vec![0x5A_u8; len + PAGE];
        let aligned = memory.as_ptr().align_offset(PAGE);
        let batch = &mut memory[aligned..aligned + len];
        let mut latencies = Vec::new();
        let mut at = 0;
        let written = bench.device.as_ref().and_then(|device| device.written());
        let (began, cpu_before) = (bench.clock.instant(), cpu());
        while bench.clock.instant() - began < time {
            let start = bench.clock.instant();
            if at + len as u64 > FILE {
                if !laps {
                    break;
                }
                at = 0;
            }
            batch[..8].copy_from_slice(&at.to_le_bytes());
            self.file.write_all_at(batch, at).expect("a write");
            if self.how != How::DirectDsync {
                self.file.sync_data().expect("a sync");
            }
            at += len as u64;
            latencies.push(bench.clock.instant() - start);
        }
        let (took, cpu) = (bench.clock.instant() - began, cpu() - cpu_before);
        let after = bench.device.as_ref().and_then(|device| device.written());
        let syncs = latencies.len();
        latencies.sort_unstable();
        Figure {
            records: syncs * per_sync,
            took,
            cpu,
            syncs: syncs as u64,
            latencies,
            written: after.zip(written).map(|(after, before)| after - before),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The whole directory goes at the end.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn fill(file: &File, byte: u8) {
    for chunk in 0..FILE >> 20 {
        let bytes = vec![byte; 1 << 20];
        file.write_all_at(&bytes, chunk << 20).expect("bytes");
    }
}
