//! The reader on logs in memory and tables on disk, against what was accepted and what became of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use spool_format::{
    Content, Field as Typed, List as Texts, Recipient as Path_, StreamKind, field_tag,
};
use tempfile::TempDir;

use super::*;
use crate::readers::suppressions::Suppressions;
use crate::spool::disk::memory::MemoryDisk;
use crate::spool::{Damage, Frame, LogKind, Options, Replay};

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

/// The same for all streams, but `short`.
#[derive(Debug)]
struct Kept(Duration);

impl Retention for Kept {
    fn of(&self, _: u32, stream: &str) -> Duration {
        match stream {
            "short" => self.0 / 10,
            _ => self.0,
        }
    }
    fn longest(&self) -> Duration {
        self.0
    }
    fn version(&self) -> u64 {
        0
    }
}

impl Activity {
    /// Over the logs of those suppressions, for the tests of others.
    pub(crate) fn of(suppressions: &Suppressions, data_dir: &Path) -> Self {
        // Whatever the tests take for now.
        let kept = Duration::from_secs(86_400 * 10_000);
        Self::new(
            suppressions.spool(),
            Arc::new(Kept(kept)),
            data_dir,
            kept,
            Clock::start(),
        )
    }
}

struct World {
    spool: Spool,
    dir: TempDir,
    activity: Activity,
    clock: Clock,
    made: u8,
}

const KEPT: Duration = Duration::from_secs(86_400);

/// A message to be accepted.
#[derive(Clone)]
struct Sent<'a> {
    server: u32,
    stream: &'a str,
    header: &'a str,
    to: &'a [&'a str],
    tag: Option<&'a str>,
    metadata: &'a [(&'a str, &'a str)],
    age_ms: u64,
}

const SENT: Sent<'static> = Sent {
    server: 1,
    stream: "outbound",
    header: "From: Shop <orders@shop.example>\r\nTo: Ada <Ada@example.com>\r\nCc: bo@example.com\r\nSubject: Your parcel left us\r\n",
    to: &["ada@example.com"],
    tag: None,
    metadata: &[],
    age_ms: 0,
};

impl World {
    fn new() -> Self {
        let clock = Clock::start();
        let mut options = Options::new(PathBuf::from("/data"));
        options.mail_segment = 1 << 20;
        options.event_segment = 256 << 10;
        (options.reserve, options.refuse_below, options.warn_below) = (0, 0, 0);
        let disk = Arc::new(MemoryDisk::new());
        let spool = Spool::open(disk, options, clock, &mut Nothing).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self {
            activity: Activity::new(&spool, Arc::new(Kept(KEPT)), dir.path(), KEPT, clock),
            spool,
            dir,
            clock,
            made: 0,
        }
    }

    /// Another reader of the same logs, from their beginning.
    async fn anew(&self) -> (Activity, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let retention = Arc::new(Kept(KEPT));
        let activity = Activity::new(&self.spool, retention, dir.path(), KEPT, self.clock);
        catch_up(&activity, &self.spool).await;
        (activity, dir)
    }

    async fn catch_up(&self) {
        catch_up(&self.activity, &self.spool).await;
    }

    async fn event(&self, event: &Event<'_>) -> u64 {
        let mut payload = Vec::new();
        event.encode(&mut payload);
        append(&self.spool.events, kind::EVENT, &payload).await
    }

    /// Accepts a message with one event for each recipient.
    async fn accept(&mut self, sent: &Sent<'_>) -> MessageId {
        self.made += 1;
        let id = MessageId::new(self.clock.unix_ms() - sent.age_ms, &[self.made; 10]);
        self.accept_as(id, sent).await;
        id
    }

    async fn accept_as(&self, id: MessageId, sent: &Sent<'_>) -> u64 {
        let position = self.record(id, sent).await;
        for number in 0..sent.to.len() {
            let accepted = Event {
                mail_position: Some(position),
                ..about(id, sent, EventKind::Accepted, number)
            };
            self.event(&accepted).await;
        }
        position
    }

    async fn record(&self, id: MessageId, sent: &Sent<'_>) -> u64 {
        let content = format!("{}\r\nbody", sent.header);
        let recipients: Vec<_> = sent
            .to
            .iter()
            .map(|path| Path_ {
                forward_path: path,
                domain: "example.com",
                fields: Texts::new(&[]),
            })
            .collect();
        let fields = [
            Typed::new(field_tag::TRACK_OPENS, &[1]),
            Typed::text(field_tag::TRACK_LINKS, "HtmlOnly"),
        ];
        let record = MessageRecord {
            id: *id.as_bytes(),
            accepted_unix_ms: id.unix_ms(),
            server_id: sent.server,
            server_name: "app",
            stream_id: sent.stream,
            stream_kind: StreamKind::Transactional,
            pool: "tx",
            reverse_path: "",
            recipients: Texts::new(&recipients),
            tag: sent.tag,
            metadata: Texts::new(sent.metadata),
            flags: 0,
            header_len: content.len() as u32 - 4,
            fields: Texts::new(&fields),
            content: Content::Inline(content.as_bytes()),
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        payload.extend_from_slice(content.as_bytes());
        append(&self.spool.mail, kind::MESSAGE, &payload).await
    }

    async fn search(&self, search: Search) -> (u64, Vec<MessageId>) {
        let search = Search {
            server: 1,
            stream: "outbound".into(),
            count: 50,
            ..search
        };
        let (total, found) = self.activity.search(&search).await.unwrap();
        (total, found.iter().map(|entry| entry.id).collect())
    }
}

async fn append(log: &Log, kind: u8, payload: &[u8]) -> u64 {
    let ticket = log.append(kind, 0, &[payload], None).await.unwrap();
    let position = ticket.position();
    ticket.await.unwrap();
    position
}

async fn catch_up(activity: &Activity, spool: &Spool) {
    let run = tokio::spawn(Arc::clone(activity.reader()).run());
    let reached = activity.reader().until(spool.events.durable());
    tokio::time::timeout(Duration::from_secs(30), reached)
        .await
        .unwrap();
    run.abort();
    let _ = run.await;
}

fn about<'a>(id: MessageId, sent: &Sent<'a>, kind: EventKind, number: usize) -> Event<'a> {
    Event {
        kind,
        at: id.unix_ms(),
        message_id: id,
        recipient_number: number as u16,
        recipient: sent.to[number],
        server_id: sent.server,
        server: "app",
        stream: sent.stream,
        ..Event::nothing()
    }
}

#[tokio::test]
async fn a_message_is_what_its_record_says_and_is_queued_until_something_becomes_of_it() {
    let mut world = World::new();
    let sent = Sent {
        header: "From: \"Shop, Orders\" <orders@shop.example>\r\nTo: Ada <Ada@example.com>\r\nCc: bo@example.com\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nHi\r\n--b\r\nContent-Type: text/plain; name=\"no.txt\"\r\nContent-Disposition: attachment; filename*=utf-8''%C3%BC.txt\r\n\r\nx\r\n--b--\r\n",
        to: &["ada@example.com", "bo@example.com", "cy@example.com"],
        tag: Some("welcome"),
        metadata: &[("order", "881")],
        ..SENT
    };
    let id = world.accept(&sent).await;
    world.catch_up().await;
    let (entry, positions) = world.activity.find(1, id).await.unwrap().unwrap();
    let to = |email: &str, name: &str, field| {
        Some(Recipient {
            email: email.into(),
            name: name.into(),
            field,
        })
    };
    let content = sent.header.len() + "\r\nbody".len();
    assert_eq!(
        entry,
        Entry {
            id,
            stream: "outbound".into(),
            is_queued: true,
            position: entry.position,
            about: About {
                from: "\"Shop, Orders\" <orders@shop.example>".into(),
                from_address: "orders@shop.example".into(),
                subject: "caf\u{e9}".into(),
                tag: "welcome".into(),
                metadata: vec![("order".into(), "881".into())],
                recipients: vec![
                    to("ada@example.com", "Ada", Field::To),
                    to("bo@example.com", "", Field::Cc),
                    to("cy@example.com", "", Field::Bcc),
                ],
                attachments: vec!["\u{fc}.txt".into()],
                octets: content as u64,
                track_opens: Some(true),
                track_links: Some("HtmlOnly".into()),
            },
        }
    );
    assert!(positions.is_empty());
    assert_eq!(
        world.activity.content_at(id, entry.position.unwrap()),
        Some(content as u64)
    );
    let other = MessageId::new(id.unix_ms(), &[99; 10]);
    assert_eq!(
        world.activity.content_at(other, entry.position.unwrap()),
        None
    );
    // Another server has no such message.
    assert_eq!(world.activity.find(2, id).await.unwrap(), None);

    let deferred = world.event(&about(id, &sent, EventKind::Deferred, 1)).await;
    let delivered = world
        .event(&about(id, &sent, EventKind::Delivered, 1))
        .await;
    world.catch_up().await;
    let (entry, positions) = world.activity.find(1, id).await.unwrap().unwrap();
    assert!(!entry.is_queued);
    assert_eq!(positions, [deferred, delivered]);
    // What the tables do not know yet is in the log.
    let complained = world
        .event(&about(id, &sent, EventKind::Complained, 0))
        .await;
    let from = world.activity.reader().position();
    for (known, from) in [(&positions[..], from), (&[], 0)] {
        let events = world.activity.events(id, known, from);
        let found: Vec<_> = events.iter().map(|record| record.position).collect();
        assert!(
            found.ends_with(&[deferred, delivered, complained]),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn every_filter_finds_its_own_and_counts_them() {
    let mut world = World::new();
    let ours = world
        .accept(&Sent {
            tag: Some("welcome"),
            metadata: &[("Order", "881"), ("city", "Ulm")],
            to: &["Ada@Example.com", "zoe@example.com"],
            age_ms: 5_000,
            ..SENT
        })
        .await;
    let old = world
        .accept(&Sent {
            header: "From: other@shop.example\r\nSubject: \u{dc}ber uns\r\n",
            age_ms: 7_200_000,
            ..SENT
        })
        .await;
    let foreign = Sent {
        server: 2,
        tag: Some("welcome"),
        metadata: &[("order", "881")],
        ..SENT
    };
    world.accept(&foreign).await;
    let bulk = world
        .accept(&Sent {
            stream: "broadcast",
            tag: Some("welcome"),
            ..SENT
        })
        .await;
    world.event(&about(old, &SENT, EventKind::Bounced, 0)).await;
    world.catch_up().await;
    let text = |text: &str| Some(text.to_owned());
    let pair = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let now = world.clock.unix_ms();
    let all = Search::default;
    for (search, expected) in [
        (all(), vec![ours, old]),
        (
            Search {
                recipient: text("ADA@example.COM"),
                ..all()
            },
            vec![ours, old],
        ),
        (
            Search {
                recipient: text("zoe@example.com"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                recipient: text("example.com"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                from: text("other@shop.example"),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                tag: text("welcome"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                tag: text("Welcome"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                metadata: pair("order", "881"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                metadata: pair("order", "88"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                subject: text("PARCEL le"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                subject: text("ber UNS"),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                subject: text("arcel LEFT u"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                subject: text("\" OR *"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                subject: text("..."),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                is_queued: Some(true),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                is_queued: Some(false),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                is_queued: Some(true),
                from: text("other@shop.example"),
                ..all()
            },
            vec![],
        ),
        (
            Search {
                is_queued: Some(false),
                from: text("other@shop.example"),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                since: Some(now - 60_000),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                until: Some(now - 60_000),
                ..all()
            },
            vec![old],
        ),
        (
            Search {
                since: Some(ours.unix_ms()),
                until: Some(ours.unix_ms() + 1),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                since: Some(now - 60_000),
                recipient: text("ada@example.com"),
                ..all()
            },
            vec![ours],
        ),
        (
            Search {
                since: Some(now + 1),
                ..all()
            },
            vec![],
        ),
        (Search { count: 1, ..all() }, vec![ours]),
        (Search { offset: 1, ..all() }, vec![old]),
    ] {
        let wanted = Search {
            server: 1,
            stream: "outbound".into(),
            count: search.count.max(1),
            ..search.clone()
        };
        let found = match search.count {
            0 => world.search(search.clone()).await,
            _ => {
                let (total, found) = world.activity.search(&wanted).await.unwrap();
                (total, found.iter().map(|entry| entry.id).collect())
            }
        };
        let total = if search.count + search.offset > 0 {
            2
        } else {
            expected.len() as u64
        };
        assert_eq!(found, (total, expected), "{search:?}");
    }
    let broadcast = Search {
        server: 1,
        stream: "broadcast".into(),
        tag: text("welcome"),
        count: 9,
        ..all()
    };
    let (total, found) = world.activity.search(&broadcast).await.unwrap();
    assert_eq!((total, found[0].id), (1, bulk));
    let nowhere = Search {
        stream: "nowhere".into(),
        ..broadcast
    };
    assert_eq!(world.activity.search(&nowhere).await.unwrap(), (0, vec![]));
}

#[tokio::test]
async fn among_many_messages_words_of_a_subject_are_found() {
    let world = World::new();
    world.catch_up().await;
    let now = world.clock.unix_ms();
    let many = limits::ACTIVITY_SUBJECTS as u64 + 2;
    let facts = (0..many).map(|number| {
        let mut octets = [0; 10];
        octets[2..].copy_from_slice(&number.to_be_bytes());
        let about = About {
            subject: format!("The \u{dc}bliche of number{number}"),
            tag: ["even", "odd"][number as usize % 2].into(),
            ..About::default()
        };
        Fact::Message(Box::new(New {
            id: MessageId::new(now - 60_000, &octets),
            server: 1,
            stream: "outbound".into(),
            position: Some(0),
            about,
        }))
    });
    let pool = world.activity.reader().pool().unwrap();
    let mut tables = pool.acquire().await.unwrap();
    let made = write::apply(&mut tables, facts.collect()).await.unwrap();
    assert_eq!(made as u64, many);
    drop(tables);
    let count = async |subject: &str, tag: Option<&str>| {
        let search = Search {
            subject: Some(subject.into()),
            tag: tag.map(str::to_owned),
            ..Search::default()
        };
        world.search(search).await.0
    };
    assert_eq!(count("NUMBER77 \u{fc}bliche", None).await, 1);
    assert_eq!(count("umber77", None).await, 0);
    assert_eq!(count("-", None).await, 0);
    // Half of them are few enough to be looked through.
    let odd = (0..many).filter(|n| n % 2 == 1 && n.to_string().starts_with("77"));
    assert_eq!(count("umber77", Some("odd")).await, odd.count() as u64);
}

#[tokio::test]
async fn messages_of_one_millisecond_are_told_apart_though_their_keys_are_the_same() {
    let world = World::new();
    let now = world.clock.unix_ms();
    // The last 21 bits are part of the key; these differ before them.
    let ids: Vec<_> = (0..4)
        .map(|n| MessageId::new(now, &[n, 0, 0, 0, 0, 0, 0, 0, 0, 7]))
        .collect();
    for id in &ids[..2] {
        world.accept_as(*id, &SENT).await;
    }
    world.catch_up().await;
    for id in &ids[2..] {
        world.accept_as(*id, &SENT).await;
    }
    // Once more, as after a crash.
    world.accept_as(ids[0], &SENT).await;
    world
        .event(&about(ids[3], &SENT, EventKind::Delivered, 0))
        .await;
    world.catch_up().await;
    let (total, mut found) = world.search(Search::default()).await;
    found.sort();
    assert_eq!((total, &found), (4, &ids));
    let by_word = Search {
        subject: Some("parcel".into()),
        ..Search::default()
    };
    assert_eq!(world.search(by_word).await.0, 4);
    for (place, id) in ids.iter().enumerate() {
        let (entry, _) = world.activity.find(1, *id).await.unwrap().unwrap();
        assert_eq!((entry.id, entry.is_queued), (*id, place < 3));
    }
}

#[tokio::test]
async fn entries_go_with_their_streams_content_and_nothing_of_them_is_left() {
    let mut world = World::new();
    let hour = 3_600_000;
    let kept = world
        .accept(&Sent {
            age_ms: 20 * hour,
            ..SENT
        })
        .await;
    // Over when it is read, and over since it was read.
    world
        .accept(&Sent {
            stream: "short",
            age_ms: 3 * hour,
            ..SENT
        })
        .await;
    let long = world
        .accept(&Sent {
            stream: "short",
            age_ms: hour,
            header: "Subject: Wordunique\r\n",
            tag: Some("x"),
            ..SENT
        })
        .await;
    world
        .event(&about(
            long,
            &Sent {
                stream: "short",
                ..SENT
            },
            EventKind::Delivered,
            0,
        ))
        .await;
    world.catch_up().await;
    assert_eq!(world.search(Search::default()).await, (1, vec![kept]));
    let short = Search {
        server: 1,
        stream: "short".into(),
        count: 9,
        ..Search::default()
    };
    assert_eq!(world.activity.search(&short).await.unwrap().0, 1);
    let pool = world.activity.reader().pool().unwrap();
    let mut tables = pool.acquire().await.unwrap();
    let scopes = write::scopes(&mut tables).await.unwrap();
    let scope = scopes.iter().find(|scope| scope.stream == "short").unwrap();
    let before = world.clock.unix_ms() - hour / 2;
    assert_eq!(
        write::expire(&mut tables, Some(scope.id), before, 100)
            .await
            .unwrap(),
        1
    );
    drop(tables);
    assert_eq!(world.activity.search(&short).await.unwrap().0, 0);
    let by_tag = Search {
        tag: Some("x".into()),
        ..short
    };
    assert_eq!(world.activity.search(&by_tag).await.unwrap().0, 0);
    assert_eq!(world.activity.find(1, long).await.unwrap(), None);
    assert_eq!(world.search(Search::default()).await, (1, vec![kept]));
    for (table, count) in [("event", 0), ("message", 1), ("tally", 1), ("queued", 1)] {
        let found: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}")))
                .fetch_one(&*pool)
                .await
                .unwrap();
        assert_eq!(found, count, "{table}");
    }
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&*pool)
        .await
        .unwrap();
    assert!(!holds(&world.dir, "wordunique"));
}

fn holds(dir: &TempDir, word: &str) -> bool {
    ["activity.db", "activity.db-wal"].iter().any(|name| {
        let octets = std::fs::read(dir.path().join("readers").join(name)).unwrap_or_default();
        let octets = octets.to_ascii_lowercase();
        memchr::memmem::find(&octets, word.as_bytes()).is_some()
    })
}

/// All that the tables say, but for the keys.
async fn dump(activity: &Activity) -> BTreeMap<MessageId, (Entry, Vec<u64>)> {
    let mut all = BTreeMap::new();
    for stream in ["outbound", "broadcast"] {
        let search = Search {
            server: 1,
            stream: stream.into(),
            count: 10_000,
            ..Search::default()
        };
        let (total, found) = activity.search(&search).await.unwrap();
        assert_eq!(total, found.len() as u64);
        for entry in found {
            // Each is found by what it is shown with.
            let words = Search {
                recipient: entry
                    .about
                    .recipients
                    .iter()
                    .flatten()
                    .next()
                    .map(|r| r.email.clone()),
                from: Some(entry.about.from_address.clone()).filter(|from| !from.is_empty()),
                tag: Some(entry.about.tag.clone()).filter(|tag| !tag.is_empty()),
                metadata: entry.about.metadata.iter().take(1).cloned().collect(),
                subject: Some(entry.about.subject.clone()).filter(|subject| !subject.is_empty()),
                is_queued: Some(entry.is_queued),
                since: Some(entry.id.unix_ms()),
                until: Some(entry.id.unix_ms() + 1),
                ..search.clone()
            };
            let (_, by_words) = activity.search(&words).await.unwrap();
            assert!(by_words.contains(&entry), "{words:?}");
            let (again, positions) = activity.find(1, entry.id).await.unwrap().unwrap();
            assert_eq!(again, entry);
            all.insert(entry.id, (entry, positions));
        }
    }
    all
}

#[tokio::test]
async fn what_is_erased_is_gone_and_who_else_got_the_message_is_still_told() {
    let mut world = World::new();
    let sent = Sent {
        to: &["forgotten@example.com", "bo@example.com"],
        header: "From: a@shop.example\r\nSubject: Dear wordsecret\r\n",
        tag: Some("tagsecret"),
        ..SENT
    };
    let shared = world.accept(&sent).await;
    let alone = world
        .accept(&Sent {
            to: &["forgotten@example.com"],
            ..sent
        })
        .await;
    let other = world.accept(&SENT).await;
    let mut doomed = Vec::new();
    for (id, number) in [(shared, 0), (alone, 0)] {
        doomed.push(
            world
                .event(&about(id, &sent, EventKind::Delivered, number))
                .await,
        );
    }
    let kept = world
        .event(&about(shared, &sent, EventKind::Delivered, 1))
        .await;
    world.catch_up().await;
    assert!(holds(&world.dir, "wordsecret"));
    let mut mail = Vec::new();
    let records = world.spool.events.records_from(0).flatten();
    for (record, _) in records {
        let event = Event::decode(&record.payload).unwrap().unwrap();
        if event.recipient.starts_with("forgotten") && event.kind == EventKind::Accepted {
            doomed.push(record.position);
            mail.extend(event.mail_position);
        }
    }
    // In the order of an erasure, and once more since it may be ordered again.
    let reader = world.activity.reader();
    reader.forget(&doomed).await.unwrap();
    world.spool.erase(LogKind::Event, &doomed).unwrap();
    reader.forget(&doomed).await.unwrap();
    world.spool.erase(LogKind::Mail, &mail).unwrap();
    for word in ["forgotten", "wordsecret", "tagsecret"] {
        assert!(!holds(&world.dir, word), "{word}");
    }
    assert_eq!(world.activity.find(1, alone).await.unwrap(), None);
    let (entry, positions) = world.activity.find(1, shared).await.unwrap().unwrap();
    let bo = Recipient {
        email: "bo@example.com".into(),
        ..Recipient::default()
    };
    assert_eq!(
        entry.about,
        About {
            recipients: vec![None, Some(bo)],
            ..About::default()
        }
    );
    assert_eq!(positions, [kept]);
    assert!(world.activity.find(1, other).await.unwrap().is_some());
    let by = |search: Search| world.search(search);
    assert_eq!(
        by(Search {
            tag: Some("tagsecret".into()),
            ..Search::default()
        })
        .await
        .0,
        0
    );
    assert_eq!(
        by(Search {
            recipient: Some("bo@example.com".into()),
            ..Search::default()
        })
        .await
        .1,
        [shared]
    );
    let (again, _dir) = world.anew().await;
    assert_eq!(dump(&again).await, dump(&world.activity).await);
}

#[tokio::test]
async fn made_again_from_the_log_it_is_what_it_was() {
    for seed in 0..12 {
        let mut world = World::new();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut messages: Vec<(MessageId, Sent<'static>)> = Vec::new();
        let mut erased: Vec<MessageId> = Vec::new();
        for _ in 0..random.usize(20..60) {
            match random.u8(0..10) {
                0..=3 => {
                    let sent = Sent {
                        stream: ["outbound", "broadcast"][random.usize(..2)],
                        to: &["ada@example.com", "Bo@Example.com", "c@d.example"]
                            [..random.usize(1..=3)],
                        tag: [None, Some("a"), Some("b")][random.usize(..3)],
                        metadata: &[("k", "v"), ("l", "w")][..random.usize(..3)],
                        header: [
                            "From: x@y.example\r\nSubject: one two\r\n",
                            "Subject: two\r\n",
                            "",
                        ][random.usize(..3)],
                        age_ms: random.u64(..100_000),
                        ..SENT
                    };
                    let id = world.accept(&sent).await;
                    messages.push((id, sent));
                }
                4..=7 if !messages.is_empty() => {
                    let (id, sent) = &messages[random.usize(..messages.len())];
                    let kinds = [
                        EventKind::Deferred,
                        EventKind::Delivered,
                        EventKind::Bounced,
                        EventKind::Complained,
                        EventKind::Retried,
                    ];
                    let kind = kinds[random.usize(..kinds.len())];
                    let number = random.usize(..sent.to.len());
                    if !erased.contains(id) {
                        world.event(&about(*id, sent, kind, number)).await;
                    }
                }
                8 => world.catch_up().await,
                _ if !messages.is_empty() => {
                    // Somebody is forgotten: his events, and the message.
                    world.catch_up().await;
                    let (id, sent) = &messages[random.usize(..messages.len())];
                    let number = random.usize(..sent.to.len()) as u16;
                    let of = |record: &Record| {
                        let event = Event::decode(&record.payload).ok()??;
                        (event.message_id == *id)
                            .then_some((event.recipient_number, event.mail_position))
                    };
                    let records: Vec<_> = world
                        .spool
                        .events
                        .records_from(0)
                        .flatten()
                        .map(|(record, _)| record)
                        .collect();
                    let events: Vec<_> = records
                        .iter()
                        .filter_map(|record| Some((record.position, of(record)?)))
                        .collect();
                    let doomed: Vec<_> = events
                        .iter()
                        .filter(|(_, (n, _))| *n == number)
                        .map(|(p, _)| *p)
                        .collect();
                    let mail: Vec<_> = events.iter().filter_map(|(_, (_, mail))| *mail).collect();
                    world.activity.reader().forget(&doomed).await.unwrap();
                    world.spool.erase(LogKind::Event, &doomed).unwrap();
                    world.spool.erase(LogKind::Mail, &mail).unwrap();
                    erased.push(*id);
                }
                _ => {}
            }
        }
        world.catch_up().await;
        let (again, _dir) = world.anew().await;
        assert_eq!(
            dump(&again).await,
            dump(&world.activity).await,
            "seed {seed}"
        );
    }
}
