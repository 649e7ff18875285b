//! Durable appends by 1 to 256 writers, beside the raw loop.

use std::time::Duration;

use posthaste::limits;

use crate::machine::{micros, wake_up};
use crate::raw::{Figure, How, Raw, Space};
use crate::{Bench, KB, engine};

const SIZES: [usize; 3] = [KB, 10 * KB, 100 * KB];
const WRITERS: [usize; 4] = [1, 8, 64, 256];
const ROUNDS: usize = 5;
const RAW_TIME: Duration = Duration::from_millis(400);
const ENGINE_TIME: Duration = Duration::from_millis(800);

pub(crate) fn part(bench: &Bench) {
    let (wake, _) = wake_up(bench);
    println!(
        "raw: one write and one sync for as many records as there are writers, 4 MiB at most; latencies and CPU of a \
         record in us; cpu limit: twice the raw loop's and one wake-up ({:.1})",
        micros(wake)
    );
    println!(
        "{:>5} {:>7} {:>9} {:>9} {:>6} {:>13} {:>6} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>5} {:>6}",
        "KB",
        "writers",
        "raw/s",
        "spool/s",
        "ratio",
        "[rounds]",
        "target",
        "raw p50",
        "p50",
        "p99",
        "max",
        "p99/sync",
        "raw cpu",
        "cpu",
        "limit",
        "rec/sync",
        "amp",
        "raw"
    );
    let raw = Raw::new(&bench.dir, How::Buffered, Space::Zeroed, true);
    let spool = engine::open(bench, &bench.dir.join("appends"), true);
    for size in SIZES {
        for writers in WRITERS {
            let per_sync = writers.min(limits::COMMIT_BYTES_MAX / size);
            let mut rounds: Vec<(Figure, Figure)> = (0..ROUNDS)
                .map(|_| {
                    let raw = raw.run(bench, size, per_sync, RAW_TIME, true);
                    let ours = engine::run(bench, &spool.mail, size, writers, ENGINE_TIME);
                    (raw, ours)
                })
                .collect();
            rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
            print(size, writers, &rounds, wake);
        }
    }
    spool.close().expect("closing");
}

fn ratio((raw, ours): &(Figure, Figure)) -> f64 {
    ours.per_second() / raw.per_second()
}

fn print(size: usize, writers: usize, rounds: &[(Figure, Figure)], wake: Duration) {
    let median = &rounds[rounds.len() / 2];
    let (raw, ours) = median;
    let target = match (size / KB, writers) {
        (10, 1) => "0.60",
        (10, 64) => "0.50",
        _ => "",
    };
    let amplification = |figure: &Figure| match figure.amplification(size) {
        Some(amplification) => format!("{amplification:.2}"),
        None => "-".into(),
    };
    println!(
        "{:>5} {:>7} {:>9.0} {:>9.0} {:>6.2} {:>13} {:>6} {:>8} {:>8} {:>8} {:>8} {:>9.1} {:>8.1} {:>8.1} {:>8.1} {:>9.1} {:>5} {:>6}",
        size / KB,
        writers,
        raw.per_second(),
        ours.per_second(),
        ratio(median),
        format!(
            "[{:.2}-{:.2}]",
            ratio(&rounds[0]),
            ratio(&rounds[rounds.len() - 1])
        ),
        target,
        raw.latency(0.5),
        ours.latency(0.5),
        ours.latency(0.99),
        ours.latency(1.0),
        ours.latency(0.99) as f64 / raw.latency(0.5) as f64,
        raw.cpu_micros(),
        ours.cpu_micros(),
        2.0 * raw.cpu_micros() + micros(wake),
        ours.records as f64 / ours.syncs as f64,
        amplification(ours),
        amplification(raw),
    );
}
