//! Budget of the spool: what the engine makes of a disk, beside what the disk gives.
//!
//! ```text
//! cargo bench --bench spool                       all parts, about three minutes
//! cargo bench --bench spool -- appends rolls      appends | rolls | variants | machine
//! SPOOL_BENCH_DIR=/mnt/other cargo bench …        another file system; default: the system's temporary directory
//! ```
//! `scripts/bench-journalled` does the same on a journalled ext4 of its own.
//!
//! The yardstick is a *raw loop* in the same run: packed, page-aligned `pwrite` + `fdatasync` of the same bytes into a
//! zeroed file, as many records in each as there are writers. Rounds are interleaved, and a row is the round with the
//! median ratio. Only ratios count: the same disk has differed by half within an hour.
//!
//! Targets at 10 KB: one writer at least 60 % of the raw loop, 64 writers at least 50 %; p99 of 64 writers at most four
//! syncs; CPU of a record at most twice the raw loop's and one wake-up; no append over 20 ms because a segment rolls.

#![expect(clippy::print_stdout, reason = "a bench speaks to a person")]

mod appends;
mod engine;
mod machine;
mod raw;
mod rolls;
mod variants;

use std::path::PathBuf;

use posthaste::clock::Clock;

const KB: usize = 1024;

type Part = fn(&Bench);

/// What every part is given.
struct Bench {
    dir: PathBuf,
    clock: Clock,
    runtime: tokio::runtime::Runtime,
    device: Option<machine::Device>,
}

fn main() {
    let base = std::env::var_os("SPOOL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("posthaste-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for the bench");
    // Cargo adds options of its own.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let bench = Bench {
        device: machine::Device::under(&dir),
        clock: Clock::start(),
        runtime: tokio::runtime::Builder::new_multi_thread()
            .enable_time()
            .build()
            .expect("a runtime"),
        dir,
    };
    println!("in {}", bench.dir.display());
    if bench.device.is_none() {
        println!("the device's counters cannot be read here: no write amplification");
    }
    let parts: [(&str, Part); 4] = [
        ("machine", machine::part),
        ("appends", appends::part),
        ("rolls", rolls::part),
        ("variants", variants::part),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("\n== {name}");
            part(&bench);
        }
    }
    std::fs::remove_dir_all(&bench.dir).expect("removing the bench's directory");
}
