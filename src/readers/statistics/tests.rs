//! Counters against a map, whenever the reader is stopped, loses its tables, writes its base or is made again.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::mail::MessageId;
use crate::readers::suppressions::Suppressions;
use crate::readers::tables::tests::{append, assert_rebuilt_equals_live, contents, spool};
use crate::readers::{Reader as _, tables};
use crate::spool::LogKind;

impl Statistics {
    /// Over the log of those suppressions, in UTC, for the tests of others.
    pub(crate) fn of(suppressions: &Suppressions, data_dir: &Path) -> Self {
        let spool = Arc::clone(suppressions.spool());
        Self::open(spool, data_dir, Zone::utc(), Clock::start()).unwrap()
    }
}

struct World {
    spool: Arc<Spool>,
    dir: TempDir,
    statistics: Statistics,
}

impl World {
    fn new() -> Self {
        let (spool, dir) = (spool(Clock::start()), TempDir::new().unwrap());
        let statistics = open(&spool, &dir, "America/New_York");
        Self {
            spool,
            dir,
            statistics,
        }
    }

    async fn base(&self) {
        let reader = self.statistics.reader();
        reader.catch_up().await;
        let pool = reader.pool().unwrap();
        let mut tables = pool.acquire().await.unwrap();
        reader.tables().write_base(&mut tables).await.unwrap();
    }

    async fn contents(&self) -> Vec<String> {
        contents(&self.statistics.reader().pool().unwrap()).await
    }

    async fn counts(&self, asked: Asked) -> Counts {
        self.statistics.reader().catch_up().await;
        self.statistics.counts(&asked).await.unwrap()
    }
}

/// With room for three tags.
fn open(spool: &Arc<Spool>, dir: &TempDir, zone: &str) -> Statistics {
    let (clock, zone) = (Clock::start(), Zone::named(zone).unwrap());
    let counters = Counters::open(Arc::clone(spool), zone, clock, 3).unwrap();
    let kept = Duration::from_secs(86_400);
    let reader = TableReader::new(counters, &spool.events, dir.path(), kept, clock);
    Statistics {
        reader: Arc::new(reader),
    }
}

fn event(kind: EventKind, at: UnixMs) -> Event<'static> {
    Event {
        kind,
        at,
        message_id: MessageId::new(at, &[3; 10]),
        recipient: "cy@example.com",
        server_id: 1,
        server: "app",
        stream: "outbound",
        ..Event::nothing()
    }
}

fn at(text: &str) -> UnixMs {
    crate::clock::parse_rfc3339(text).unwrap()
}

#[derive(Clone, Debug)]
enum Action {
    Event(Drawn),
    Step,
    Base,
    Rebuild,
    /// One of the events is erased.
    Erase(usize),
    /// Killed, and started again.
    Kill,
    /// Its tables are gone.
    Lose,
}

#[derive(Clone, Copy, Debug)]
struct Drawn {
    kind: usize,
    server: u32,
    stream: usize,
    tag: usize,
    accepted: u64,
    hours: u64,
    attempts: u16,
}

const KINDS: [(EventKind, &str); 8] = [
    (EventKind::Accepted, ""),
    (EventKind::Accepted, ""),
    (EventKind::Delivered, ""),
    (EventKind::Bounced, "recipient-unknown"),
    (EventKind::Bounced, "submission-refused"),
    (EventKind::Expired, "expired"),
    (EventKind::Cancelled, "sender"),
    (EventKind::Complained, "complaint"),
];
const STREAMS: [&str; 2] = ["outbound", "broadcast"];
const TAGS: [&str; 6] = ["", "a", "b", "c", "d", "e"];

fn action() -> impl Strategy<Value = Action> {
    let drawn = (
        0..8usize,
        1..3u32,
        0..2usize,
        0..6usize,
        0..60u64,
        0..30u64,
        0..2u16,
    );
    let drawn = drawn.prop_map(
        |(kind, server, stream, tag, accepted, hours, attempts)| Drawn {
            kind,
            server,
            stream,
            tag,
            accepted,
            hours,
            attempts,
        },
    );
    prop_oneof![
        24 => drawn.prop_map(Action::Event),
        4 => Just(Action::Step),
        1 => Just(Action::Base),
        1 => Just(Action::Rebuild),
        1 => any::<usize>().prop_map(Action::Erase),
        1 => Just(Action::Kill),
        1 => Just(Action::Lose),
    ]
}

impl Drawn {
    fn event(self) -> Event<'static> {
        let accepted = at("2026-03-07T00:00:00Z") + self.accepted * 3_600_000;
        let (kind, cause) = KINDS[self.kind];
        Event {
            message_id: MessageId::new(accepted, &[3; 10]),
            server_id: self.server,
            stream: STREAMS[self.stream],
            tag: TAGS[self.tag],
            cause,
            attempts: self.attempts,
            ..event(kind, accepted + self.hours * 3_600_000)
        }
    }
}

/// What is counted, said once more and otherwise.
#[derive(Default)]
struct Model {
    /// Server, stream, tag (or none), day, what.
    counts: BTreeMap<(u32, String, Option<String>, String, i64), i64>,
    tags: BTreeMap<(u32, String, String), BTreeSet<String>>,
}

impl Model {
    fn take(&mut self, event: &Event<'_>) {
        // The zone's winter and summer, as in the year of the test.
        let day = |at: UnixMs| {
            let hours = if at < self::at("2026-03-08T07:00:00Z") {
                5
            } else {
                4
            };
            crate::clock::rfc3339(at - hours * 3_600_000)[..10].to_owned()
        };
        let (of_event, of_message) = (day(event.at), day(event.message_id.unix_ms()));
        let counts = match (event.kind, event.cause) {
            (EventKind::Accepted, _) => vec![(of_message, -1, 1)],
            (EventKind::Delivered, _) => vec![(of_event, -2, 1)],
            (EventKind::Cancelled, _) if event.attempts > 0 => vec![(of_event, -3, 1)],
            (EventKind::Cancelled, _) => vec![(of_event, -3, 1), (of_message, -1, -1)],
            (_, "recipient-unknown") => vec![(of_event, 1, 1)],
            (_, "submission-refused") => vec![(of_event, 100_007, 1), (of_message, -1, -1)],
            (EventKind::Expired, _) => vec![(of_event, 4_096, 1)],
            _ => vec![(of_event, 100_001, 1)],
        };
        for (day, what, number) in counts {
            let stream = event.stream.to_owned();
            let mut add = |tag| {
                let key = (event.server_id, stream.clone(), tag, day.clone(), what);
                *self.counts.entry(key).or_default() += number;
            };
            add(None);
            if event.tag.is_empty() {
                continue;
            }
            let place = (event.server_id, stream.clone(), day.clone());
            let tags = self.tags.entry(place).or_default();
            if tags.contains(event.tag) || tags.len() < 3 {
                tags.insert(event.tag.to_owned());
                add(Some(event.tag.to_owned()));
            }
        }
    }

    fn of(&self, server: u32, stream: &str, tag: Option<&str>) -> BTreeMap<(String, i64), u64> {
        let mine = self.counts.iter().filter(|((s, st, t, ..), count)| {
            (*s, &**st, t.as_deref()) == (server, stream, tag) && **count > 0
        });
        mine.map(|((.., day, what), count)| ((day.clone(), *what), *count as u64))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn counts_are_those_of_the_log_whatever_happens_to_the_reader(
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            let mut model = Model::default();
            let mut positions = Vec::new();
            for action in actions {
                let reader = Arc::clone(world.statistics.reader());
                match action {
                    Action::Event(drawn) => {
                        let event = drawn.event();
                        positions.push(append(&world.spool, &event).await);
                        model.take(&event);
                    }
                    Action::Erase(one) if !positions.is_empty() => {
                        let position = positions[one % positions.len()];
                        reader.catch_up().await;
                        reader.forget(&[position]).await.unwrap();
                        world.spool.erase(LogKind::Event, &[position]).unwrap();
                    }
                    Action::Erase(_) => {}
                    Action::Step => reader.step_once().await,
                    Action::Base => world.base().await,
                    Action::Rebuild => {
                        let _ = reader.rebuild();
                        reader.step_once().await;
                    }
                    Action::Kill => {
                        world.statistics = open(&world.spool, &world.dir, "America/New_York");
                    }
                    Action::Lose => {
                        reader.close().await;
                        let dir = world.dir.path().join("readers");
                        if dir.exists() {
                            std::fs::remove_dir_all(dir).unwrap();
                        }
                        world.statistics = open(&world.spool, &world.dir, "America/New_York");
                    }
                }
            }
            world.statistics.reader().catch_up().await;
            for server in [1, 2] {
                for stream in STREAMS {
                    for tag in TAGS {
                        let tag = Some(tag).filter(|tag| !tag.is_empty());
                        let asked = Asked {
                            server,
                            stream: Some(stream.into()),
                            tag: tag.map(str::to_owned),
                            ..Asked::default()
                        };
                        let counts = world.counts(asked).await;
                        let flat: BTreeMap<_, _> = counts
                            .iter()
                            .flat_map(|(day, of_day)| {
                                of_day.iter().map(|(what, n)| ((day.to_string(), what.code()), *n))
                            })
                            .collect();
                        prop_assert_eq!(flat, model.of(server, stream, tag), "{} {} {:?}", server, stream, tag);
                    }
                }
            }
            assert_rebuilt_equals_live(world.statistics.reader()).await;
            // From the base alone, too.
            world.base().await;
            assert_rebuilt_equals_live(world.statistics.reader()).await;
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn filters_choose_streams_tags_and_days() {
    let world = World::new();
    // In New York still the first of March.
    let night = at("2026-03-02T04:59:59Z");
    for (stream, tag, time) in [
        ("outbound", "welcome", night),
        ("outbound", "", night),
        ("broadcast", "welcome", night + 1_000),
    ] {
        let accepted = Event {
            stream,
            tag,
            ..event(EventKind::Accepted, time)
        };
        append(&world.spool, &accepted).await;
    }
    let sent = async |asked: Asked| -> Vec<(String, u64)> {
        let counts = world.counts(Asked { server: 1, ..asked }).await;
        let of_day = |(day, of_day): (&Day, &BTreeMap<Counted, u64>)| {
            (day.to_string(), of_day[&Counted::Sent])
        };
        counts.iter().map(of_day).collect()
    };
    let first = ("2026-03-01".to_owned(), 2);
    let second = ("2026-03-02".to_owned(), 1);
    let all = Asked::default;
    assert_eq!(sent(all()).await, [first.clone(), second.clone()]);
    let of_stream = Asked {
        stream: Some("broadcast".into()),
        ..all()
    };
    assert_eq!(sent(of_stream).await, std::slice::from_ref(&second));
    let of_tag = Asked {
        tag: Some("welcome".into()),
        ..all()
    };
    let one = ("2026-03-01".to_owned(), 1);
    assert_eq!(sent(of_tag).await, [one, second.clone()]);
    let day = world.statistics.zone().day_of(night);
    let until = Asked {
        to: Some(day),
        ..all()
    };
    assert_eq!(sent(until).await, [first]);
    let from = Asked {
        from: Some(Day(day.0 + 1)),
        ..all()
    };
    assert_eq!(sent(from).await, [second]);
    let other = world.counts(Asked { server: 2, ..all() }).await;
    assert_eq!(other, Counts::new());
}

#[tokio::test]
async fn what_is_erased_stays_counted_and_names_nobody() {
    let mut world = World::new();
    for kind in [EventKind::Accepted, EventKind::Bounced] {
        append(&world.spool, &event(kind, at("2026-03-02T12:00:00Z"))).await;
    }
    let reader = Arc::clone(world.statistics.reader());
    let run = tokio::spawn(Arc::clone(&reader).run());
    reader
        .forget(&[world.spool.events.durable() - 1])
        .await
        .unwrap();
    run.abort();
    let _ = run.await;
    let counted = world.contents().await;
    assert_eq!(counted.len(), 2 + 1, "{counted:?}");
    // The base stands behind what is erased: no event is needed for it.
    assert_eq!(reader.standing().base, Some(reader.standing().position));
    tables::discard_all(world.dir.path()).unwrap();
    let left = world.dir.path().join("readers/statistics.db");
    assert!(
        left.exists(),
        "what names nobody is no reason to count anew"
    );
    reader.close().await;
    std::fs::remove_file(left).unwrap();
    world.statistics = open(&world.spool, &world.dir, "America/New_York");
    world.statistics.reader().catch_up().await;
    assert_eq!(world.contents().await, counted);
}

#[tokio::test]
async fn another_zone_holds_from_then_on() {
    let mut world = World::new();
    let accepted = event(EventKind::Accepted, at("2026-03-02T04:00:00Z"));
    let days = async |world: &World| -> Vec<String> {
        let asked = Asked {
            server: 1,
            ..Asked::default()
        };
        let counts = world.counts(asked).await;
        counts.keys().map(Day::to_string).collect()
    };
    append(&world.spool, &accepted).await;
    assert_eq!(days(&world).await, ["2026-03-01"]);
    world.base().await;
    world.statistics.reader().close().await;
    world.statistics = open(&world.spool, &world.dir, "UTC");
    append(&world.spool, &accepted).await;
    assert_eq!(days(&world).await, ["2026-03-01", "2026-03-02"]);
    assert_rebuilt_equals_live(world.statistics.reader()).await;
}

#[tokio::test]
async fn a_damaged_base_costs_what_the_log_does_not_tell_and_is_put_aside() {
    let mut world = World::new();
    append(
        &world.spool,
        &event(EventKind::Accepted, at("2026-03-02T12:00:00Z")),
    )
    .await;
    world.base().await;
    let counted = world.contents().await;
    // Not what a base of this reader holds, though whole.
    let position = world.spool.events.durable();
    let readers = world.spool.readers();
    readers
        .store("statistics", position, b"\x09\0\0\0", 1)
        .unwrap();
    world.statistics.reader().close().await;
    std::fs::remove_dir_all(world.dir.path().join("readers")).unwrap();
    world.statistics = open(&world.spool, &world.dir, "America/New_York");
    let reader = Arc::clone(world.statistics.reader());
    assert!(reader.step_fails().await.contains("another version"));
    readers.put_aside("statistics").unwrap();
    world.statistics = open(&world.spool, &world.dir, "America/New_York");
    world.statistics.reader().catch_up().await;
    assert_eq!(world.contents().await, counted);
}
