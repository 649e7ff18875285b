//! What a writer notices when a segment rolls.

use std::time::Duration;

use crate::engine::Append;
use crate::{Bench, KB, engine};

const RECORD: usize = 10 * KB;
const TIME: Duration = Duration::from_millis(2500);
const ROUNDS: usize = 3;
/// So near to a roll an append counts as around it.
const NEAR: Duration = Duration::from_millis(25);
const SEGMENT: u64 = 64 << 20;

pub(crate) fn part(bench: &Bench) {
    println!(
        "longest append in ms around rolls ({} ms before and after the first record of a segment) and elsewhere; target: \
         20 ms at most because of a roll; best of {ROUNDS} rounds, all in brackets",
        NEAR.as_millis()
    );
    for (name, recycles) in [("new files", false), ("recycled files", true)] {
        for writers in [1, 8, 64] {
            let mut rounds: Vec<_> = (0..ROUNDS)
                .map(|_| {
                    let dir = bench.dir.join("rolls");
                    let spool = engine::open(bench, &dir, recycles);
                    if recycles {
                        // Until there are files to recycle.
                        let warm = engine::load(bench, &spool.mail, RECORD, 64, TIME / 2);
                        bench.runtime.block_on(warm);
                    }
                    let load = engine::load(bench, &spool.mail, RECORD, writers, TIME);
                    let appends = bench.runtime.block_on(load);
                    spool.close().expect("closing");
                    std::fs::remove_dir_all(&dir).expect("removing the spool");
                    around(&appends)
                })
                .collect();
            rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
            let all: Vec<_> = rounds.iter().map(|r| format!("{:.1}", r.1)).collect();
            let (rolls, near, far) = rounds[0];
            println!(
                "{name:>15} {writers:>3} writers: {rolls:>3} rolls, around {near:>6.1}, elsewhere {far:>6.1} [{}]",
                all.join(" ")
            );
        }
    }
}

/// Rolls, the longest append around them, and the longest elsewhere.
fn around(appends: &[Append]) -> (usize, f64, f64) {
    let mut first = std::collections::BTreeMap::new();
    for append in appends {
        let at = first
            .entry(append.position / SEGMENT)
            .or_insert(append.ended);
        *at = append.ended.min(*at);
    }
    let rolls: Vec<_> = first.into_values().skip(1).collect();
    let is_near = |append: &&Append| {
        let mut rolls = rolls.iter();
        rolls.any(|roll| append.began <= *roll + NEAR && append.ended + NEAR >= *roll)
    };
    let longest = |time: Duration, append: &Append| time.max(append.ended - append.began);
    let near = appends.iter().filter(is_near);
    let far = appends.iter().filter(|append| !is_near(append));
    let near = near.fold(Duration::ZERO, longest);
    let far = far.fold(Duration::ZERO, longest);
    (
        rolls.len(),
        near.as_secs_f64() * 1e3,
        far.as_secs_f64() * 1e3,
    )
}
