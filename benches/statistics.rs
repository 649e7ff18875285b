//! What statistics cost: `cargo bench --bench statistics`.
//!
//! A million events (`EVENTS=n` for another number) as delivery writes them: accepted and delivered in turn, one in fifty bounced,
//! ten tags. Then the reader reads them all: processor time of the process for each event (rests cost none), and what that is
//! of a core at 10,000 events a second, which is 5,000 outcomes. In the system's directory for temporary files (`TMPDIR`).

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "its results")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::{Clock, Zone};
use posthaste::event::{Event, EventKind};
use posthaste::mail::MessageId;
use posthaste::readers::statistics::Statistics;
use posthaste::readers::tables::{TableReader, Tables};
use posthaste::spool::disk::real::RealDisk;
use posthaste::spool::{Damage, Frame, LogKind, Options, Replay, Spool};
use spool_format::kind;

/// As the daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TAGS: [&str; 10] = [
    "welcome", "receipt", "reset", "invoice", "login", "digest", "alert", "invite", "", "survey",
];
const RATE: f64 = 10_000.0;

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

async fn fill(spool: &Spool, clock: Clock, count: usize) {
    let mut payload = Vec::new();
    for number in 0..count {
        let now = clock.unix_ms();
        let mut random = [0; 10];
        random[..8].copy_from_slice(&(number as u64 / 2).to_le_bytes());
        let kind = match number {
            n if n % 2 == 0 => EventKind::Accepted,
            n if n % 50 == 1 => EventKind::Bounced,
            _ => EventKind::Delivered,
        };
        let recipient = format!("customer.{number}@mail{}.example.com", number % 97);
        payload.clear();
        Event {
            kind,
            at: now,
            message_id: MessageId::new(now, &random),
            recipient: &recipient,
            server_id: 1,
            server: "shop",
            stream: "outbound",
            source: "tx1",
            remote_host: "mx1.mail.example.com [192.0.2.1]:25",
            reply: "250 2.0.0 Ok: queued as 4XyZ",
            cause: if kind == EventKind::Bounced {
                "recipient-unknown"
            } else {
                ""
            },
            tag: TAGS[number / 2 % TAGS.len()],
            attempts: 1,
            ..Event::nothing()
        }
        .encode(&mut payload);
        while spool
            .events
            .append_lazy(kind::EVENT, 0, &[&payload])
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    }
    let last = spool.events.append(kind::PADDING, 0, &[b"end"], None).await;
    last.unwrap().await.unwrap();
}

/// Of the whole process.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn read<T: Tables>(reader: &Arc<TableReader<T>>, end: u64, count: usize) {
    let (before, began) = (worked(), Clock::start().instant());
    let run = tokio::spawn(Arc::clone(reader).run());
    reader.until(end).await;
    let (took, wall) = (worked() - before, began.elapsed());
    run.abort();
    let _ = run.await;
    reader.close().await;
    let each = took.as_secs_f64() / count as f64;
    println!(
        "{:<12} {:>8.2} µs an event, {:.3} of a core at {RATE} events/s; {:.1} s with rests",
        T::NAME,
        each * 1e6,
        each * RATE,
        wall.as_secs_f64()
    );
}

fn main() {
    let count = std::env::var("EVENTS").map_or(1_000_000, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let mut options = Options::new(dir.path().join("spool"));
    (options.reserve, options.refuse_below, options.warn_below) = (0, 0, 0);
    let spool = Spool::open(Arc::new(RealDisk::new()), options, clock, &mut Nothing);
    let spool = Arc::new(spool.unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        fill(&spool, clock, count).await;
        let end = spool.events.durable();
        let path: &Path = dir.path();
        let statistics = Statistics::open(Arc::clone(&spool), path, Zone::utc(), clock).unwrap();
        read(statistics.reader(), end, count).await;
    });
    spool.close().unwrap();
}
