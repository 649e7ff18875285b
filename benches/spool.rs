//! Budget of the spool: durable appends of 10 KB records by 1, 8 and 64 writers, beside a raw loop of the same bytes
//! (packed, page-aligned `pwrite` + `fdatasync` into a zeroed file) in the same run. Only the ratio counts.
//!
//! `cargo bench --bench spool`; `SPOOL_BENCH_DIR` chooses the file system (default: the system's temporary directory).
//! Targets: one writer at least 60 % of the raw loop at one record a sync, 64 writers at least 50 % at 64 records a sync,
//! p99 at 64 writers at most four syncs of the raw loop.

#![expect(clippy::print_stdout, reason = "a bench speaks to a person")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::spool::disk::real::RealDisk;
use posthaste::spool::{Damage, Frame, Log, LogKind, Options, Replay, Spool};

const RECORD: usize = 10_240;
const PAGE: usize = 4096;
const SEGMENT: u64 = 64 << 20;
const CASES: [(usize, usize); 3] = [(1, 4_000), (8, 16_000), (64, 64_000)];
const ROUNDS: usize = 3;

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, damage: &Damage) {
        panic!("{damage:?}");
    }
}

struct Figure {
    per_second: f64,
    latencies: Vec<Duration>,
    cpu_micros: f64,
    syncs: u64,
}

fn main() {
    let base = std::env::var_os("SPOOL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("posthaste-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for the bench");
    println!("{RECORD} bytes a record, in {}", dir.display());
    println!(
        "{:>7} {:>12} {:>12} {:>6} {:>9} {:>9} {:>9} {:>10} {:>10} {:>8}",
        "writers",
        "raw/s",
        "spool/s",
        "ratio",
        "raw p50",
        "p50",
        "p99",
        "raw cpu us",
        "cpu us",
        "rec/sync"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let clock = Clock::start();
    let file = raw_file(&dir);
    let mut options = Options::new(dir.join("data"));
    options.any_file_system = true;
    let spool = Spool::open(Arc::new(RealDisk::new()), options, clock, &mut Nothing);
    let spool = spool.expect("a spool");
    spool.allow_reclaim();
    for (writers, records) in CASES {
        // Interleaved, so that both see the same disk.
        for _ in 0..ROUNDS {
            let raw = raw(&file, clock, writers, records / ROUNDS);
            let ours = runtime.block_on(engine(&spool.mail, clock, writers, records / ROUNDS));
            print(writers, &raw, &ours);
        }
    }
    let stat = spool.mail.stat();
    println!(
        "segments rolled and reclaimed: {}; longest write and sync: {} us",
        stat.reclaimed, stat.sync_micros_max
    );
    spool.close().expect("closing");
    std::fs::remove_dir_all(&dir).expect("removing the bench's directory");
}

fn print(writers: usize, raw: &Figure, ours: &Figure) {
    let at = |figure: &Figure, part: f64| {
        let mut all = figure.latencies.clone();
        all.sort_unstable();
        all[((all.len() - 1) as f64 * part) as usize].as_micros()
    };
    println!(
        "{:>7} {:>12.0} {:>12.0} {:>6.2} {:>9} {:>9} {:>9} {:>10.1} {:>10.1} {:>8.1}",
        writers,
        raw.per_second,
        ours.per_second,
        ours.per_second / raw.per_second,
        at(raw, 0.5),
        at(ours, 0.5),
        at(ours, 0.99),
        raw.cpu_micros,
        ours.cpu_micros,
        ours.latencies.len() as f64 / ours.syncs as f64,
    );
}

/// Preallocated and written once, like a segment.
fn raw_file(dir: &Path) -> File {
    let path = dir.join("raw");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("a file");
    for chunk in 0..SEGMENT >> 20 {
        file.write_all_at(&vec![0; 1 << 20], chunk << 20)
            .expect("zeroes");
    }
    file.sync_all().expect("a sync");
    file
}

/// `per_sync` records in one write and one sync, over and over through the file.
fn raw(file: &File, clock: Clock, per_sync: usize, records: usize) -> Figure {
    let batch = vec![0x5A; (per_sync * RECORD).next_multiple_of(PAGE)];
    let mut latencies = Vec::new();
    let mut at = 0;
    let (began, cpu) = (clock.instant(), cpu());
    for _ in 0..records.div_ceil(per_sync) {
        let start = clock.instant();
        if at + batch.len() as u64 > SEGMENT {
            at = 0;
        }
        file.write_all_at(&batch, at).expect("a write");
        file.sync_data().expect("a sync");
        at += batch.len() as u64;
        latencies.push(clock.instant() - start);
    }
    let done = latencies.len() * per_sync;
    Figure {
        per_second: done as f64 / (clock.instant() - began).as_secs_f64(),
        cpu_micros: (crate::cpu() - cpu).as_secs_f64() * 1e6 / done as f64,
        syncs: latencies.len() as u64,
        latencies,
    }
}

async fn engine(log: &Log, clock: Clock, writers: usize, records: usize) -> Figure {
    let before = log.stat().commits;
    let (began, cpu) = (clock.instant(), cpu());
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                let payload = vec![0x5A; RECORD - 16];
                let mut latencies = Vec::new();
                for _ in 0..records / writers {
                    let start = clock.instant();
                    let ticket = log.append(3, 0, &[&payload], None).await.expect("append");
                    ticket.await.expect("durable");
                    latencies.push(clock.instant() - start);
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a writer"));
    }
    let done = latencies.len() as f64;
    Figure {
        per_second: done / (clock.instant() - began).as_secs_f64(),
        cpu_micros: (crate::cpu() - cpu).as_secs_f64() * 1e6 / done,
        syncs: log.stat().commits - before,
        latencies,
    }
}

/// Of this process, all threads, user and system; in steps of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}
