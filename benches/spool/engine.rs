//! The engine under load: tasks that append and wait, over and over.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthaste::spool::disk::real::RealDisk;
use posthaste::spool::{Damage, Frame, Log, LogKind, Options, Replay, Spool};

use crate::Bench;
use crate::machine::cpu;
use crate::raw::Figure;

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, damage: &Damage) {
        panic!("{damage:?}");
    }
}

/// A new spool. With `recycles`, segments are used again as soon as they are full.
pub(crate) fn open(bench: &Bench, dir: &Path, recycles: bool) -> Spool {
    let mut options = Options::new(dir);
    options.any_file_system = true;
    // Small file systems are measured too.
    (options.refuse_below, options.reserve) = (0, 0);
    let disk = Arc::new(RealDisk::new());
    let spool = Spool::open(disk, options, bench.clock, &mut Nothing).expect("a spool");
    if recycles {
        spool.allow_reclaim();
    }
    spool
}

/// One append.
pub(crate) struct Append {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) position: u64,
}

pub(crate) async fn load(
    bench: &Bench,
    log: &Log,
    record: usize,
    writers: usize,
    time: Duration,
) -> Vec<Append> {
    let clock = bench.clock;
    let until = clock.instant() + time;
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                let payload = vec![0x5A; record - 16];
                let mut appends = Vec::new();
                loop {
                    let began = clock.instant();
                    if began >= until {
                        return appends;
                    }
                    let ticket = log.append(3, 0, &[&payload], None).await.expect("append");
                    let position = ticket.await.expect("durable").position();
                    let ended = clock.instant();
                    appends.push(Append {
                        began,
                        ended,
                        position,
                    });
                }
            })
        })
        .collect();
    let mut appends = Vec::new();
    for task in tasks {
        appends.extend(task.await.expect("a writer"));
    }
    appends
}

/// [`load`] in figures.
pub(crate) fn run(
    bench: &Bench,
    log: &Log,
    record: usize,
    writers: usize,
    time: Duration,
) -> Figure {
    let before = log.stat().commits;
    let written = bench.device.as_ref().and_then(|device| device.written());
    let (began, cpu_before) = (bench.clock.instant(), cpu());
    let load = load(bench, log, record, writers, time);
    let appends = bench.runtime.block_on(load);
    let (took, cpu) = (bench.clock.instant() - began, cpu() - cpu_before);
    let after = bench.device.as_ref().and_then(|device| device.written());
    let mut latencies: Vec<_> = appends.iter().map(|a| a.ended - a.began).collect();
    latencies.sort_unstable();
    Figure {
        records: appends.len(),
        took,
        cpu,
        syncs: log.stat().commits - before,
        latencies,
        written: after.zip(written).map(|(after, before)| after - before),
    }
}
