//! What suppressions cost: `cargo bench --bench suppressions`.
//!
//! Ten million addresses (`SUPPRESSIONS=n` for another number) in one stream: octets of memory each; time of a look-up with its
//! hash, of addresses that are suppressed and of others; time of one change (all three the processor's time). Then the same on
//! disk, in the system's directory for temporary files (`TMPDIR`; 3 GB): made through the log in batches of 1,000, each synced;
//! what a start takes, and a listing. With the argument `memory`: the first part alone.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "its results")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::mail::Mailbox;
use posthaste::readers::suppressions::{Address, Evidence, Filter, List, New, Place, Suppressions};
use posthaste::spool::disk::real::RealDisk;
use posthaste::spool::{Damage, Frame, LogKind, Options, Replay, Spool};
use posthaste::suppression::{Loading, Set, Suppression, TagKey};

/// As the daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STREAM: &str = "outbound";
const LOOKED_UP: usize = 1_000_000;
const BATCH: usize = 1_000;

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

fn address(number: usize) -> Mailbox {
    Mailbox::parse(
        &format!("customer.{number}@mail{}.example.com", number % 97),
        true,
    )
    .unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Clock::start().instant();
    let done = work();
    (done, began.elapsed())
}

/// The processor's time of this thread: what is in memory waits for nothing, and other jobs do not count.
fn worked<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let began = now();
    let done = work();
    (done, now() - began)
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn each(time: Duration, count: usize) -> f64 {
    time.as_nanos() as f64 / count as f64
}

fn memory(count: usize) {
    let before = resident_bytes();
    let mut loading = Loading::new(TagKey::new([7; 16]));
    let (set, took) = worked(|| {
        for number in 0..count {
            let tag = loading.key().tag(1, STREAM, &address(number));
            loading.put(tag, Some(Suppression::BY_CUSTOMER));
        }
        loading.finish()
    });
    println!(
        "{count} loaded in {:.2} s; {:.2} octets each by count, {:.2} by RssAnon",
        took.as_secs_f64(),
        set.bytes() as f64 / count as f64,
        resident_bytes().saturating_sub(before) as f64 / count as f64,
    );
    let mut rng = fastrand::Rng::with_seed(1);
    for (what, from) in [("suppressed", 0), ("not suppressed", count)] {
        let wanted: Vec<Mailbox> = (0..LOOKED_UP)
            .map(|_| address(from + rng.usize(0..count)))
            .collect();
        let (found, took) = worked(|| {
            let found = wanted
                .iter()
                .filter(|address| black_box(set.of(1, STREAM, address)).is_some());
            found.count()
        });
        assert_eq!(found, if from == 0 { LOOKED_UP } else { 0 });
        println!("look-up of one {what}: {:.0} ns", each(took, LOOKED_UP));
    }
    let (_, took) = worked(|| {
        for number in 0..10_000 {
            let tag = set.key().tag(1, STREAM, &address(count + number));
            set.put(tag, Some(Suppression::BY_CUSTOMER));
        }
    });
    println!("one more: {:.1} us", each(took, 10_000) / 1_000.0);
}

fn open(dir: &std::path::Path) -> (Arc<Spool>, Arc<Suppressions>) {
    let clock = Clock::start();
    let mut options = Options::new(dir);
    options.any_file_system = true;
    let spool = Spool::open(Arc::new(RealDisk::new()), options, clock, &mut Nothing).unwrap();
    let spool = Arc::new(spool);
    let set = Arc::new(Set::new(TagKey::new([7; 16])));
    let (opened, took) = timed(|| Suppressions::open(Arc::clone(&spool), set, false, clock));
    let suppressions = opened.unwrap();
    println!(
        "a start knows {} after {:.2} s",
        suppressions.count(),
        took.as_secs_f64()
    );
    (spool, suppressions)
}

fn disk(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (spool, suppressions) = open(dir.path());
    let place = Place {
        list: List {
            server: 1,
            stream: STREAM.into(),
        },
        server: "app".into(),
    };
    let ((), took) = timed(|| {
        runtime.block_on(async {
            for batch in 0..count / BATCH {
                let news = (batch * BATCH..(batch + 1) * BATCH).map(|number| New {
                    address: Address::Clear(address(number)),
                    suppression: Suppression::BY_CUSTOMER,
                    since: None,
                });
                let made =
                    suppressions.suppress(place.clone(), news.collect(), Evidence::default());
                made.await.unwrap();
            }
            suppressions.keep_up().await;
        });
    });
    let base = dir.path().join("spool/readers/suppressions.base");
    println!(
        "{count} made through the log in {:.1} s: {:.0}/s; base of {} MB",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64(),
        base.metadata().unwrap().len() / 1_000_000,
    );
    spool.close().unwrap();
    drop((spool, suppressions));
    let (spool, suppressions) = open(dir.path());
    let (listed, took) = timed(|| {
        let mut listed = 0;
        let listing = suppressions.list(None, Filter::default()).unwrap();
        let counted = listing.run(&mut |_| {
            listed += 1;
            true
        });
        counted.unwrap();
        listed
    });
    println!("{listed} listed in {:.2} s", took.as_secs_f64());
    let (_, took) = timed(|| {
        for number in 0..1_000 {
            let listing = suppressions.list(None, Filter::default()).unwrap();
            assert!(listing.find(&address(number * 7)).unwrap().is_some());
        }
    });
    println!("one found on disk: {:.0} us", each(took, 1_000) / 1_000.0);
    spool.close().unwrap();
}

fn main() {
    // `cargo test` runs benches too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let count = std::env::var("SUPPRESSIONS").ok();
    let count = count.map_or(10_000_000, |count| count.parse().unwrap());
    memory(count);
    if !std::env::args().any(|arg| arg == "memory") {
        disk(count);
    }
}
