//! What the activity store costs: `cargo bench --bench activity` (a million messages; `ACTIVITY=10000000` for ten, 7 GB in
//! `TMPDIR`, the system's directory for temporary files).
//!
//! First the reader's whole way: messages of 4 KB and their events are written to logs, and the reader makes its tables of them;
//! processor time for each message. Then as many messages as were asked for through the code that the reader writes with, in batches
//! of 200 ms at 5,000 a second: rows a second, and as the store grows. Then searches of every kind, 200 each: median, 95th percentile,
//! longest, beside a writer that goes on; and once more with a third as many queued on top, as when a broadcast waits. The words of a
//! search are drawn anew each time.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "its results")]

use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::{Clock, UnixMs};
use posthaste::event::{Event, EventKind};
use posthaste::mail::MessageId;
use posthaste::readers::activity::{About, Activity, Fact, Field, New, Recipient, Search};
use posthaste::readers::tables::Tables;
use posthaste::spool::disk::real::RealDisk;
use posthaste::spool::{Damage, Frame, LogKind, Options, Replay, Retention, Spool};
use spool_format::{Content, List, MessageRecord, StreamKind, kind};

/// As the daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 1_000;
const SEARCHES: usize = 200;
const WHOLE_WAY: usize = 100_000;
const KEPT: Duration = Duration::from_secs(45 * 86_400);

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

#[derive(Debug)]
struct Kept;

impl Retention for Kept {
    fn of(&self, _: u32, _: &str) -> Duration {
        KEPT
    }
    fn longest(&self) -> Duration {
        KEPT
    }
    fn version(&self) -> u64 {
        0
    }
}

/// What a message says, as drawn.
struct Drawn {
    customer: u32,
    order: u32,
    tag: usize,
    words: [usize; 3],
}

const TAGS: [&str; 8] = [
    "receipt", "welcome", "reset", "invoice", "shipping", "alert", "digest", "survey",
];

impl Drawn {
    fn new(random: &mut fastrand::Rng, number: usize) -> Self {
        Self {
            customer: random.u32(..2_000_000),
            order: number as u32,
            // The first is half of all.
            tag: random.usize(..16).saturating_sub(8),
            words: std::array::from_fn(|_| random.usize(..20_000)),
        }
    }

    fn to(&self) -> String {
        format!(
            "customer.{}@mail{}.example.com",
            self.customer,
            self.customer % 97
        )
    }

    fn subject(&self) -> String {
        let [a, b, c] = self.words;
        format!(
            "Your order {} of word{a} and word{b} for word{c}",
            self.order
        )
    }

    fn about(&self) -> About {
        About {
            from: "Shop <orders@shop.example>".into(),
            from_address: format!("orders{}@shop.example", self.customer % 5),
            subject: self.subject(),
            tag: TAGS[self.tag].into(),
            metadata: vec![("order".into(), self.order.to_string())],
            recipients: vec![Some(Recipient {
                email: self.to(),
                name: "A Customer".into(),
                field: Field::To,
            })],
            octets: 4_096,
            ..About::default()
        }
    }
}

fn activity(dir: &std::path::Path, clock: Clock) -> (Spool, Activity) {
    let mut options = Options::new(dir);
    options.any_file_system = true;
    let spool = Spool::open(Arc::new(RealDisk::new()), options, clock, &mut Nothing).unwrap();
    let activity = Activity::new(&spool, Arc::new(Kept), dir, KEPT, clock);
    (spool, activity)
}

/// Processor time of the whole process.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn id(random: &mut fastrand::Rng, at: UnixMs) -> MessageId {
    let mut octets = [0; 10];
    random.fill(&mut octets);
    MessageId::new(at, &octets)
}

async fn catch_up(activity: &Activity, spool: &Spool) {
    let run = tokio::spawn(Arc::clone(activity.reader()).run());
    activity.reader().until(spool.events.durable()).await;
    run.abort();
    let _ = run.await;
}

/// Writes messages and their events to the logs.
async fn send(spool: &Spool, clock: Clock, count: usize) {
    let mut random = fastrand::Rng::with_seed(1);
    let body = "Something that is said to somebody, once more.\r\n".repeat(80);
    let mut last = None;
    for number in 0..count {
        let drawn = Drawn::new(&mut random, number);
        let id = id(&mut random, clock.unix_ms());
        let (to, order) = (drawn.to(), drawn.order.to_string());
        let header = format!(
            "Received: from app by mta.example.com; Mon, 2 Mar 2026 14:15:12 +0000\r\nFrom: Shop <orders{}@shop.example>\r\nTo: A Customer <{to}>\r\nSubject: {}\r\nDate: Mon, 2 Mar 2026 14:15:12 +0000\r\nMessage-ID: <{id}@shop.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
            drawn.customer % 5,
            drawn.subject(),
        );
        let content = header.clone() + &body;
        let recipients = [spool_format::Recipient {
            forward_path: &to,
            domain: "example.com",
            fields: List::new(&[]),
        }];
        let metadata = [("order", order.as_str())];
        let record = MessageRecord {
            id: *id.as_bytes(),
            accepted_unix_ms: id.unix_ms(),
            server_id: 1,
            server_name: "app",
            stream_id: "outbound",
            stream_kind: StreamKind::Transactional,
            pool: "tx",
            reverse_path: "",
            recipients: List::new(&recipients),
            tag: Some(TAGS[drawn.tag]),
            metadata: List::new(&metadata),
            flags: 0,
            header_len: header.len() as u32,
            fields: List::new(&[]),
            content: Content::Inline(content.as_bytes()),
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        payload.extend_from_slice(content.as_bytes());
        let ticket = spool
            .mail
            .append(kind::MESSAGE, 0, &[&payload], None)
            .await
            .unwrap();
        let event = Event {
            at: id.unix_ms(),
            message_id: id,
            recipient: &to,
            server_id: 1,
            server: "app",
            stream: "outbound",
            mail_position: Some(ticket.position()),
            ..Event::nothing()
        };
        let delivered = Event {
            kind: EventKind::Delivered,
            mail_position: None,
            source: "tx1",
            remote_host: "mx.example.com [192.0.2.1]:25",
            reply: "250 2.0.0 OK queued as 4XyZ",
            ..event.clone()
        };
        last = Some(ticket);
        for event in [event, delivered] {
            let mut payload = Vec::new();
            event.encode(&mut payload);
            let parts: [&[u8]; 1] = [&payload];
            spool
                .events
                .append_lazy(kind::EVENT, 0, &parts)
                .await
                .unwrap();
        }
    }
    last.unwrap().await.unwrap();
    let mut durable = spool.events.watch();
    let written = durable.borrow_and_update().to_owned();
    let _ = tokio::time::timeout(Duration::from_secs(2), durable.wait_for(|d| *d > written)).await;
}

async fn whole_way(clock: Clock) {
    let dir = tempfile::tempdir().unwrap();
    let (spool, activity) = activity(dir.path(), clock);
    send(&spool, clock, WHOLE_WAY).await;
    let (began, before) = (clock.instant(), worked());
    catch_up(&activity, &spool).await;
    let took = worked() - before;
    println!(
        "the whole way, {WHOLE_WAY} messages with two events each: {:.1} us of a processor a message, {:.1} s in all",
        took.as_micros() as f64 / WHOLE_WAY as f64,
        clock.instant().duration_since(began).as_secs_f64(),
    );
    activity.reader().close().await;
    spool.close().unwrap();
}

/// A batch as the reader would write it: messages, and what became of them, if anything did.
async fn write(
    activity: &Activity,
    new: Vec<(MessageId, About)>,
    positions: &mut u64,
    settles: bool,
) {
    let mut facts = Vec::with_capacity(2 * new.len());
    let ids: Vec<_> = new.iter().map(|(id, _)| *id).collect();
    for (id, about) in new {
        facts.push(Fact::Message(Box::new(New {
            id,
            server: 1,
            stream: "outbound".into(),
            position: Some(*positions),
            about,
        })));
    }
    for id in ids.into_iter().filter(|_| settles) {
        *positions += 200;
        facts.push(Fact::Event {
            id,
            position: *positions,
        });
    }
    let pool = activity.reader().pool().unwrap();
    let mut all = pool.begin().await.unwrap();
    activity
        .reader()
        .tables()
        .apply(&mut all, facts)
        .await
        .unwrap();
    all.commit().await.unwrap();
}

async fn searched(activity: &Activity, clock: Clock, count: usize, from: UnixMs, span: u64) {
    let mut random = fastrand::Rng::with_seed(2);
    type Make = fn(&mut fastrand::Rng, usize, UnixMs, u64) -> Search;
    let kinds: [(&str, Make); 16] = [
        ("all", |_, _, _, _| Search::default()),
        ("recipient", |random, count, _, _| Search {
            recipient: Some(Drawn::new(random, count).to()),
            ..Search::default()
        }),
        ("fromemail, a fifth of all", |random, _, _, _| Search {
            from: Some(format!("orders{}@shop.example", random.u32(..5))),
            ..Search::default()
        }),
        ("tag, half of all", |_, _, _, _| Search {
            tag: Some(TAGS[0].into()),
            ..Search::default()
        }),
        ("tag, its 10,000th", |_, _, _, _| Search {
            tag: Some(TAGS[0].into()),
            offset: 9_950,
            ..Search::default()
        }),
        ("metadata", |random, count, _, _| Search {
            metadata: vec![("order".into(), random.usize(..count).to_string())],
            ..Search::default()
        }),
        ("subject, one word", |random, _, _, _| Search {
            subject: Some(format!("word{}", random.u32(1_000..20_000))),
            ..Search::default()
        }),
        ("subject, a word of all", |random, _, _, _| Search {
            subject: Some(format!("your word{}", random.u32(10..20_000))),
            ..Search::default()
        }),
        ("a minute", |random, _, from, span| {
            let since = from + random.u64(..span.max(2));
            Search {
                since: Some(since),
                until: Some(since + 60_000),
                ..Search::default()
            }
        }),
        ("tag and dates", |random, _, from, span| {
            let since = from + random.u64(..span.max(2));
            Search {
                tag: Some(TAGS[1 + random.usize(..7)].into()),
                since: Some(since),
                until: Some(since + span / 10),
                ..Search::default()
            }
        }),
        ("tag, From and sent", |random, _, _, _| Search {
            tag: Some(TAGS[1 + random.usize(..7)].into()),
            from: Some(format!("orders{}@shop.example", random.u32(..5))),
            is_queued: Some(false),
            ..Search::default()
        }),
        ("sent", |_, _, _, _| Search {
            is_queued: Some(false),
            ..Search::default()
        }),
        ("queued", |_, _, _, _| Search {
            is_queued: Some(true),
            ..Search::default()
        }),
        ("queued, and a tag", |random, _, _, _| Search {
            tag: Some(TAGS[1 + random.usize(..7)].into()),
            is_queued: Some(true),
            ..Search::default()
        }),
        ("sent, and a recipient", |random, count, _, _| Search {
            recipient: Some(Drawn::new(random, count).to()),
            is_queued: Some(false),
            ..Search::default()
        }),
        ("sent, and two words", |random, _, _, _| Search {
            subject: Some(format!("your word{}", random.u32(10..20_000))),
            is_queued: Some(false),
            ..Search::default()
        }),
    ];
    for (what, make) in kinds {
        let mut times = Vec::with_capacity(SEARCHES);
        let mut found = 0;
        for _ in 0..SEARCHES {
            let search = Search {
                server: 1,
                stream: "outbound".into(),
                count: 50,
                ..make(&mut random, count, from, span)
            };
            let began = clock.instant();
            let (total, _) = activity.search(&search).await.unwrap();
            times.push(clock.instant().duration_since(began));
            found += total;
        }
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        println!(
            "{what:<28} p50 {:>7.2} ms, p95 {:>7.2} ms, longest {:>7.2} ms; {:.0} found",
            ms(times[SEARCHES / 2]),
            ms(times[SEARCHES * 95 / 100]),
            ms(times[SEARCHES - 1]),
            found as f64 / SEARCHES as f64,
        );
    }
}

async fn store(clock: Clock, count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (spool, activity) = activity(dir.path(), clock);
    catch_up(&activity, &spool).await;
    let mut random = fastrand::Rng::with_seed(1);
    // As if they had come over thirty days.
    let span = 30 * 86_400_000;
    let from = clock.unix_ms() - span;
    let mut positions = 0;
    let (mut began, mut before) = (clock.instant(), worked());
    let tenth = (count / 10).max(BATCH);
    for batch in 0..count / BATCH {
        let first = batch * BATCH;
        let new = (first..first + BATCH).map(|number| {
            let at = from + span * number as u64 / count as u64;
            (id(&mut random, at), Drawn::new(&mut random, number).about())
        });
        let new: Vec<_> = new.collect();
        write(&activity, new, &mut positions, true).await;
        let done = first + BATCH;
        if done.is_multiple_of(tenth) {
            let took = clock.instant().duration_since(began);
            println!(
                "{done:>9} messages: {:.0}/s, {:.1} us of a processor each",
                tenth as f64 / took.as_secs_f64(),
                (worked() - before).as_micros() as f64 / tenth as f64,
            );
            (began, before) = (clock.instant(), worked());
        }
    }
    let files = std::fs::read_dir(dir.path().join("readers")).unwrap();
    let octets: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    println!(
        "{:.0} octets a message on disk",
        octets as f64 / count as f64
    );
    println!("searches, while nobody writes:");
    searched(&activity, clock, count, from, span).await;
    let writer = {
        let activity = activity.clone();
        tokio::spawn(async move {
            let mut number = count;
            let mut pace = tokio::time::interval(Duration::from_millis(200));
            loop {
                pace.tick().await;
                let new = (0..BATCH).map(|_| {
                    number += 1;
                    let drawn = Drawn::new(&mut random, number);
                    (id(&mut random, clock.unix_ms()), drawn.about())
                });
                let new: Vec<_> = new.collect();
                write(&activity, new, &mut positions, true).await;
            }
        })
    };
    println!("searches, while 5,000 a second are written:");
    searched(&activity, clock, count, from, span).await;
    writer.abort();
    let _ = writer.await;
    let mut random = fastrand::Rng::with_seed(3);
    for batch in 0..count / 3 / BATCH {
        let new = (0..BATCH).map(|number| {
            let drawn = Drawn::new(&mut random, batch * BATCH + number);
            (id(&mut random, clock.unix_ms()), drawn.about())
        });
        let new: Vec<_> = new.collect();
        write(&activity, new, &mut 0, false).await;
    }
    println!("searches, with a third as many queued on top:");
    searched(&activity, clock, count, from, span).await;
    activity.reader().close().await;
    spool.close().unwrap();
}

fn main() {
    // `cargo test` runs benches too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let count = std::env::var("ACTIVITY").ok();
    let count = count.map_or(1_000_000, |count| count.parse().unwrap());
    let clock = Clock::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        whole_way(clock).await;
        store(clock, count).await;
    });
}
