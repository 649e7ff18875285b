//! What the readers behind bounces cost: `cargo bench --bench readers`.
//!
//! A log of 400,000 outcomes (`OUTCOMES=n` for another number), on disk in the system's directory for temporary files: of a
//! thousand 930 are delivered, 40 bounce for what is ours, 20 for good (each of an address of its own), 10 expire. Then, one
//! after the other: the reader of automatic suppressions up to its last suppression, the bounce API's up to the end of the
//! log. Times are those of all threads of the process (what they wait for the disk is not in them) and of the clock.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "its results")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::event::{Event, EventKind, Judged};
use posthaste::mail::MessageId;
use posthaste::readers::automatic::Automatic;
use posthaste::readers::bounces::Bounces;
use posthaste::readers::suppressions::Suppressions;
use posthaste::spool::disk::real::RealDisk;
use posthaste::spool::{Damage, Frame, LogKind, Options, Replay, Spool};
use posthaste::suppression::{Set, TagKey};
use spool_format::kind;
use tokio::sync::watch;

/// As the daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct World {
    spool: Arc<Spool>,
    suppressions: Arc<Suppressions>,
    clock: Clock,
    outcomes: usize,
}

impl World {
    fn open(dir: &Path, outcomes: usize) -> Self {
        let clock = Clock::start();
        let mut options = Options::new(dir);
        options.any_file_system = true;
        let spool = Spool::open(Arc::new(RealDisk::new()), options, clock, &mut Nothing).unwrap();
        let spool = Arc::new(spool);
        let set = Arc::new(Set::new(TagKey::new([7; 16])));
        let suppressions = Suppressions::open(Arc::clone(&spool), set, false, clock).unwrap();
        Self {
            spool,
            suppressions,
            clock,
            outcomes,
        }
    }

    async fn write(&self) {
        let mut payload = Vec::new();
        for n in 0..self.outcomes {
            let (kind, cause, scope, reaction) = match n % 1_000 {
                0..930 => (EventKind::Delivered, "", "", ""),
                930..970 => (EventKind::Bounced, "blocklisted", "source-ip", "bounce"),
                970..990 => (EventKind::Bounced, "recipient-unknown", "recipient", "hard"),
                _ => (EventKind::Expired, "expired", "", ""),
            };
            let mut entropy = [0; 10];
            entropy[..8].copy_from_slice(&(n as u64).to_be_bytes());
            payload.clear();
            Event {
                kind,
                at: self.clock.unix_ms(),
                message_id: MessageId::new(self.clock.unix_ms(), &entropy),
                recipient: &format!("customer.{n}@mail{}.example.com", n % 97),
                server_id: 1,
                server: "app",
                stream: "outbound",
                source: "tx1",
                remote_host: "mx1.mail.example.com [192.0.2.1]:25",
                reply: "550 5.1.1 the words of a host, as long as such words are",
                cause,
                judged: Judged {
                    scope,
                    reaction,
                    rule: "status",
                    confidence: 60,
                    ..Judged::default()
                },
                ..Event::nothing()
            }
            .encode(&mut payload);
            let events = &self.spool.events;
            let written = events.append_lazy(kind::EVENT, 0, &[&payload]).await;
            written.unwrap();
        }
        let parts = [&payload[..]];
        let last = self.spool.events.append(kind::EVENT, 0, &parts, None).await;
        last.unwrap().await.unwrap();
    }

    async fn measured(&self, what: &str, work: impl Future<Output = ()>) {
        let (began, used) = (self.clock.instant(), cpu());
        work.await;
        let (took, used) = (self.clock.instant() - began, cpu() - used);
        let thousands = self.outcomes as f64 / 1_000.0;
        println!(
            "{what:<28} {:>7.2} ms of CPU, {:>7.2} ms in all, for 1,000 outcomes",
            used.as_secs_f64() * 1e3 / thousands,
            took.as_secs_f64() * 1e3 / thousands,
        );
    }

    async fn automatic(&self, reader: Automatic) {
        let (stop, stopping) = watch::channel(false);
        let run = tokio::spawn(reader.run(stopping));
        while self.suppressions.count() < self.outcomes / 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.send_replace(true);
        run.await.unwrap();
    }
}

fn main() {
    let given = std::env::var("OUTCOMES").ok();
    let outcomes = given.map_or(400_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = World::open(dir.path(), outcomes);
    let (spool, set) = (&world.spool, world.suppressions.set());
    // Before there is anything to read: what is older suppresses nobody.
    let suppressions = Arc::clone(&world.suppressions);
    let reader = Automatic::open(Arc::clone(spool), suppressions, world.clock).unwrap();
    runtime.block_on(async {
        world.write().await;
        let automatic = world.automatic(reader);
        world.measured("automatic suppressions", automatic).await;
        let kept = Duration::from_secs(400 * 86_400);
        let bounces = Bounces::new(spool, Arc::clone(set), dir.path(), kept, world.clock);
        let run = tokio::spawn(Arc::clone(bounces.reader()).run());
        let until = bounces.reader().until(spool.events.durable());
        world.measured("bounce API", until).await;
        run.abort();
    });
    spool.close().unwrap();
}
