//! Other ways to make the same bytes durable: why the engine does it as it does.

use std::time::Duration;

use crate::machine::micros;
use crate::raw::{How, Raw, Space};
use crate::{Bench, KB};

const RECORD: usize = 10 * KB;
const TIME: Duration = Duration::from_millis(400);
const ROUNDS: usize = 3;

const HOWS: [(&str, How); 3] = [
    ("pwrite + fdatasync", How::Buffered),
    ("O_DIRECT + fdatasync", How::Direct),
    ("O_DIRECT|O_DSYNC", How::DirectDsync),
];
const SPACES: [(&str, Space); 4] = [
    ("zeroed", Space::Zeroed),
    ("recycled", Space::Recycled),
    ("allocated", Space::Allocated),
    ("growing", Space::Growing),
];

pub(crate) fn part(bench: &Bench) {
    println!("records of 10 KB; the engine's way is the first; best of {ROUNDS} rounds");
    println!(
        "{:>21} {:>10} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6}",
        "way", "space", "cache", "rec/sync", "rec/s", "sync p50", "sync p99", "cpu us", "amp"
    );
    for per_sync in [1, 64] {
        for (how_name, how) in HOWS {
            for (space_name, space) in SPACES {
                for (cache_name, is_warm) in [("warm", true), ("dropped", false)] {
                    let has_cache = how == How::Buffered && space != Space::Growing;
                    if !is_warm && !has_cache {
                        continue;
                    }
                    let rounds = (0..ROUNDS).map(|_| {
                        // A loop through the file changes what it is like: a new one each time.
                        let raw = Raw::new(&bench.dir, how, space, is_warm);
                        raw.run(bench, RECORD, per_sync, TIME, false)
                    });
                    let Some(best) =
                        rounds.max_by(|a, b| a.per_second().total_cmp(&b.per_second()))
                    else {
                        continue;
                    };
                    let amplification = best.amplification(RECORD);
                    println!(
                        "{how_name:>21} {space_name:>10} {:>8} {per_sync:>9} {:>9.0} {:>9} {:>9} {:>9.1} {:>6}",
                        if has_cache { cache_name } else { "-" },
                        best.per_second(),
                        best.latency(0.5),
                        best.latency(0.99),
                        micros(best.cpu) / best.records as f64,
                        amplification.map_or("-".into(), |a| format!("{a:.2}")),
                    );
                }
            }
        }
    }
}
