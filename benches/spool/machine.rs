//! What the machine counts: CPU, sectors of the device, the price of waking a thread.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::Bench;

/// CPU time of this process, all threads, user and system.
pub(crate) fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The block device under a directory.
pub(crate) struct Device {
    major: u32,
    minor: u32,
}

impl Device {
    /// `None`: there is none, or its counters cannot be read.
    pub(crate) fn under(dir: &Path) -> Option<Self> {
        let number = std::fs::metadata(dir).ok()?.dev();
        let device = Self {
            major: rustix::fs::major(number),
            minor: rustix::fs::minor(number),
        };
        device.written().map(|_| device)
    }

    /// Bytes since the machine started, whoever wrote them.
    pub(crate) fn written(&self) -> Option<u64> {
        let text = std::fs::read_to_string("/proc/diskstats").ok()?;
        let (major, minor) = (self.major.to_string(), self.minor.to_string());
        text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_it = fields.len() > 9 && fields[0] == major && fields[1] == minor;
            // Sectors written, of 512 bytes whatever the device's are.
            is_it
                .then(|| fields[9].parse::<u64>().ok())?
                .map(|sectors| sectors * 512)
        })
    }
}

/// CPU and time of waking a thread that sleeps: two threads that wake each other in turn.
pub(crate) fn wake_up(bench: &Bench) -> (Duration, Duration) {
    const ROUNDS: u32 = 10_000;
    let turn = Arc::new(AtomicU32::new(0));
    let wait = |mine: u32, turn: &AtomicU32| {
        while turn.load(Ordering::Acquire) % 2 != mine {
            std::thread::park();
        }
    };
    let main = std::thread::current();
    let other = {
        let turn = Arc::clone(&turn);
        std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                wait(1, &turn);
                turn.fetch_add(1, Ordering::Release);
                main.unpark();
            }
        })
    };
    let (began, before) = (bench.clock.instant(), cpu());
    for _ in 0..ROUNDS {
        turn.fetch_add(1, Ordering::Release);
        other.thread().unpark();
        wait(0, &turn);
    }
    let spent = cpu() - before;
    let took = bench.clock.instant() - began;
    other.join().expect("the other thread");
    (spent / (2 * ROUNDS), took / (2 * ROUNDS))
}

pub(crate) fn part(bench: &Bench) {
    let (cpu, time) = wake_up(bench);
    println!(
        "waking a thread: {:.1} us of CPU, {:.1} us until it runs",
        micros(cpu),
        micros(time)
    );
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
