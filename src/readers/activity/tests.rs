//! The reader on logs in memory and tables on disk, against what was accepted and what became of it.

mod again;
mod finding;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// The same for all streams, but `short`; it can be changed. In milliseconds.
#[derive(Debug)]
struct Kept(AtomicU64);

impl Kept {
    fn new(kept: Duration) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(kept.as_millis() as u64)))
    }

    fn set(&self, kept: Duration) {
        self.0.store(kept.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Retention for Kept {
    fn of(&self, _: u32, stream: &str) -> Duration {
        match stream {
            "short" => self.longest() / 10,
            _ => self.longest(),
        }
    }
    fn longest(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
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
            Kept::new(kept),
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
    retention: Arc<Kept>,
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
        let retention = Kept::new(KEPT);
        let kept = Arc::clone(&retention) as Arc<dyn Retention>;
        Self {
            activity: Activity::new(&spool, kept, dir.path(), KEPT, clock),
            retention,
            spool,
            dir,
            clock,
            made: 0,
        }
    }

    /// Another reader of the same logs, from their beginning.
    async fn anew(&self) -> (Activity, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let retention = Arc::clone(&self.retention) as Arc<dyn Retention>;
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
                track_opens: true,
                track_links: Some("HtmlOnly".into()),
                sandboxed: false,
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
        write::expire(&mut tables, scope.id, before, 100)
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
    for (table, count) in [
        ("event", 0),
        ("message", 1),
        ("tally", 1),
        ("queued", 1),
        ("settled", 0),
    ] {
        let found: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}")))
                .fetch_one(&pool)
                .await
                .unwrap();
        assert_eq!(found, count, "{table}");
    }
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&pool)
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
