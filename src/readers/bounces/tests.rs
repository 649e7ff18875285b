//! The reader on a log in memory and tables on disk, against a list of what happened.

use std::path::PathBuf;

use spool_format::{Content, List as Texts, Recipient, StreamKind};
use tempfile::TempDir;

use super::*;
use crate::readers::suppressions::{Evidence, New, Place, Suppressions};
use crate::readers::tables;
use crate::spool::disk::memory::MemoryDisk;
use crate::spool::{Damage, Frame, LogKind, Options, Replay};
use crate::suppression::{Origin, Reason, Suppression, TagKey};

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

struct World {
    spool: Arc<Spool>,
    suppressions: Arc<Suppressions>,
    dir: TempDir,
    bounces: Bounces,
    clock: Clock,
    kept: Duration,
}

impl Bounces {
    /// Over the log of those suppressions, for the tests of others.
    pub(crate) fn of(suppressions: &Suppressions, data_dir: &Path) -> Self {
        // Whatever the tests take for now.
        let kept = Duration::from_secs(86_400 * 10_000);
        let set = Arc::clone(suppressions.set());
        Self::new(suppressions.spool(), set, data_dir, kept, Clock::start())
    }
}

fn spool(clock: Clock) -> Arc<Spool> {
    let mut options = Options::new(PathBuf::from("/data"));
    options.mail_segment = 1 << 20;
    options.event_segment = 256 << 10;
    (options.reserve, options.refuse_below, options.warn_below) = (0, 0, 0);
    let disk = Arc::new(MemoryDisk::new());
    Arc::new(Spool::open(disk, options, clock, &mut Nothing).unwrap())
}

impl World {
    fn new() -> Self {
        let clock = Clock::start();
        let spool = spool(clock);
        let set = Arc::new(suppression::Set::new(TagKey::new([7; 16])));
        let suppressions =
            Suppressions::open(Arc::clone(&spool), Arc::clone(&set), false, clock).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let kept = Duration::from_secs(86_400);
        Self {
            bounces: Bounces::new(&spool, set, dir.path(), kept, clock),
            spool,
            suppressions,
            dir,
            clock,
            kept,
        }
    }

    /// Another life of the reader.
    async fn again(&mut self) {
        self.bounces.reader().close().await;
        let set = Arc::clone(self.suppressions.set());
        self.bounces = Bounces::new(&self.spool, set, self.dir.path(), self.kept, self.clock);
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("readers/bounces.db")
    }

    /// Until everything is read.
    async fn catch_up(&self) {
        let reader = Arc::clone(self.bounces.reader());
        let run = tokio::spawn(reader.run());
        self.bounces
            .reader()
            .until(self.spool.events.durable())
            .await;
        run.abort();
        let _ = run.await;
    }

    async fn event(&self, event: &Event<'_>) -> u64 {
        let mut payload = Vec::new();
        event.encode(&mut payload);
        let events = &self.spool.events;
        let ticket = events.append(kind::EVENT, 0, &[&payload], None).await;
        let ticket = ticket.unwrap();
        let position = ticket.position();
        ticket.await.unwrap();
        position
    }

    /// A message with a header section; its record's position.
    async fn message(&self, id: MessageId, tag: Option<&str>) -> u64 {
        let content =
            b"From: Shop <orders@shop.example>\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n\r\nbody";
        let recipients = [Recipient {
            forward_path: "cy@example.com",
            domain: "example.com",
            fields: Texts::new(&[]),
        }];
        let record = MessageRecord {
            id: *id.as_bytes(),
            accepted_unix_ms: id.unix_ms(),
            server_id: 1,
            server_name: "app",
            stream_id: "outbound",
            stream_kind: StreamKind::Transactional,
            pool: "tx",
            reverse_path: "",
            recipients: Texts::new(&recipients),
            tag,
            metadata: Texts::new(&[]),
            flags: 0,
            header_len: content.len() as u32 - 4,
            fields: Texts::new(&[]),
            content: Content::Inline(content),
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        payload.extend_from_slice(content);
        let mail = &self.spool.mail;
        let ticket = mail.append(kind::MESSAGE, 0, &[&payload], None).await;
        let ticket = ticket.unwrap();
        let position = ticket.position();
        ticket.await.unwrap();
        position
    }

    async fn search(&self, search: Search) -> (u64, Vec<u64>) {
        let search = Search {
            server: 1,
            stream: "outbound".into(),
            count: 50,
            ..search
        };
        let (total, found) = self.bounces.search(&search).await.unwrap();
        (total, found.iter().map(|bounce| bounce.id).collect())
    }

    async fn ids(&self) -> Vec<u64> {
        self.search(Search::default()).await.1
    }

    fn of_now(&self) -> Event<'static> {
        event(self.clock.unix_ms())
    }
}

fn event(at: UnixMs) -> Event<'static> {
    Event {
        kind: EventKind::Bounced,
        at,
        message_id: MessageId::new(at, &[3; 10]),
        recipient_number: 0,
        recipient: "Cy@Example.com",
        server_id: 1,
        server: "app",
        stream: "outbound",
        source: "tx1",
        remote_host: "mx.example.com [192.0.2.1]:25",
        reply: "550-5.1.1 no such\n550 5.1.1 user",
        cause: "recipient-unknown",
        detail: "the remote host refused at RCPT TO",
        attempts: 1,
        ..Event::nothing()
    }
}

#[tokio::test]
async fn a_bounce_is_what_its_event_and_its_message_say() {
    let world = World::new();
    let mut bounced = world.of_now();
    bounced.mail_position = Some(world.message(bounced.message_id, Some("welcome")).await);
    let id = world.event(&bounced).await;
    let delivered = Event {
        kind: EventKind::Delivered,
        ..world.of_now()
    };
    world.event(&delivered).await;
    world.catch_up().await;
    let found = world.bounces.find(1, id).await.unwrap().unwrap();
    let expected = Bounce {
        id,
        stream: "outbound".into(),
        kind: BounceType::HardBounce,
        at: bounced.at,
        message: bounced.message_id,
        email: "Cy@Example.com".into(),
        has_notice: true,
        details: "smtp;550-5.1.1 no such 550 5.1.1 user".into(),
        from: "orders@shop.example".into(),
        subject: "café".into(),
        tag: "welcome".into(),
    };
    assert_eq!(found, expected);
    let reply = "550-5.1.1 no such\r\n550 5.1.1 user\r\n";
    assert_eq!(world.bounces.notice(id).as_deref(), Some(reply));
    // Of another server it is none.
    assert_eq!(world.bounces.find(2, id).await.unwrap(), None);
    assert_eq!(world.ids().await, [id]);
}

#[tokio::test]
async fn a_report_that_came_by_mail_is_kept_once_for_all_it_is_about() {
    let world = World::new();
    let mut accepted = world.of_now();
    accepted.kind = EventKind::Accepted;
    accepted.mail_position = Some(world.message(accepted.message_id, None).await);
    world.event(&accepted).await;
    let first = Event {
        kind: EventKind::BouncedLater,
        notice: b"Subject: failure notice\r\n\r\nno such user\xff\r\n",
        ..accepted.clone()
    };
    let first = world.event(&first).await;
    let second = Event {
        kind: EventKind::BouncedLater,
        recipient_number: 1,
        notice_at: Some(first),
        ..accepted.clone()
    };
    let second = world.event(&second).await;
    world.catch_up().await;
    for id in [first, second] {
        let found = world.bounces.find(1, id).await.unwrap().unwrap();
        assert_eq!((&*found.subject, found.has_notice), ("café", true));
        let notice = world.bounces.notice(id).unwrap();
        assert!(notice.contains("no such user\u{fffd}\r\n"), "{notice}");
    }
}

#[tokio::test]
async fn every_filter_finds_its_own_and_counts_them() {
    let world = World::new();
    let now = world.clock.unix_ms();
    let hard = world.event(&world.of_now()).await;
    let expired = Event {
        kind: EventKind::Expired,
        at: now - 60_000,
        recipient: "bo@example.org",
        cause: "expired",
        reply: "",
        message_id: MessageId::new(now, &[4; 10]),
        ..world.of_now()
    };
    let soft = world.event(&expired).await;
    let complaint = Event {
        kind: EventKind::Complained,
        ..world.of_now()
    };
    let complained = world.event(&complaint).await;
    let elsewhere = Event {
        stream: "broadcast",
        ..world.of_now()
    };
    world.event(&elsewhere).await;
    let dns = Event {
        cause: "domain-unknown",
        ..expired.clone()
    };
    let kinds = |kind| Event {
        kind,
        ..dns.clone()
    };
    let unresolved = world.event(&kinds(EventKind::Bounced)).await;
    let later = world.event(&kinds(EventKind::BouncedLater)).await;
    world.catch_up().await;

    let all = vec![later, unresolved, complained, soft, hard];
    let check = async |search: Search, expected: Vec<u64>| {
        let context = format!("{search:?}");
        let (total, ids) = world.search(search).await;
        assert_eq!((total, ids), (expected.len() as u64, expected), "{context}");
    };
    let any = Search::default;
    check(any(), all.clone()).await;
    let of = |kind| Search {
        kind: Some(kind),
        ..any()
    };
    check(of(BounceType::HardBounce), vec![hard]).await;
    check(of(BounceType::SoftBounce), vec![soft]).await;
    check(of(BounceType::SpamComplaint), vec![complained]).await;
    check(of(BounceType::DnsError), vec![later, unresolved]).await;
    let part = Search {
        email: Some("CY@exam".into()),
        ..any()
    };
    check(part, vec![complained, hard]).await;
    let wild = Search {
        email: Some("%".into()),
        ..any()
    };
    check(wild, vec![]).await;
    let message = Search {
        message: Some(expired.message_id),
        ..any()
    };
    check(message, vec![later, unresolved, soft]).await;
    let before = Search {
        to: Some(now - 30_000),
        ..any()
    };
    check(before, vec![later, unresolved, soft]).await;
    let since = Search {
        from: Some(now - 30_000),
        ..any()
    };
    check(since, vec![complained, hard]).await;
    let page = Search {
        server: 1,
        stream: "outbound".into(),
        count: 2,
        offset: 1,
        ..any()
    };
    let (total, found) = world.bounces.search(&page).await.unwrap();
    let ids: Vec<u64> = found.iter().map(|b| b.id).collect();
    assert_eq!((total, ids), (5, vec![unresolved, complained]));
    let tally = world.bounces.tally(1).await.unwrap();
    let counts: Vec<_> = tally.by_type.values().copied().collect();
    assert_eq!((counts.iter().sum::<u64>(), tally.inactive), (6, 0));
    tables::tests::assert_rebuilt_equals_live(world.bounces.reader()).await;
}

#[tokio::test]
async fn an_address_is_inactive_as_long_as_it_is_suppressed_and_so_it_is_after_a_rebuild() {
    let mut world = World::new();
    let before = world.event(&world.of_now()).await;
    let other = Event {
        recipient: "bo@example.com",
        ..world.of_now()
    };
    let active = world.event(&other).await;
    let place = Place {
        list: List {
            server: 1,
            stream: "outbound".into(),
        },
        server: "app".into(),
    };
    let address = Address::parse("cy@example.com").unwrap();
    let new = New {
        address: address.clone(),
        suppression: Suppression {
            reason: Reason::HardBounce,
            origin: Origin::Recipient,
        },
        since: None,
    };
    let evidence = Evidence::default();
    let made = world
        .suppressions
        .suppress(place.clone(), vec![new], evidence);
    made.await.unwrap();
    let after = world.event(&world.of_now()).await;
    let with = |inactive| Search {
        inactive: Some(inactive),
        ..Search::default()
    };
    for _ in 0..2 {
        world.catch_up().await;
        assert_eq!(world.search(with(true)).await, (2, vec![after, before]));
        assert_eq!(world.search(with(false)).await, (1, vec![active]));
        assert_eq!(world.bounces.tally(1).await.unwrap().inactive, 1);
        world.again().await;
        tables::discard_all(world.dir.path()).unwrap();
    }
    let lifted = world
        .suppressions
        .lift(place, vec![address], Origin::Customer);
    lifted.await.unwrap();
    world.catch_up().await;
    assert_eq!(world.search(with(true)).await, (0, vec![]));
}

#[tokio::test]
async fn whatever_happens_to_the_tables_they_say_again_what_the_log_says() {
    let mut world = World::new();
    let mut ids = vec![world.event(&world.of_now()).await];
    world.catch_up().await;
    assert_eq!(world.ids().await, ids);

    // Read on from where it was, each event once.
    world.again().await;
    ids.insert(0, world.event(&world.of_now()).await);
    world.catch_up().await;
    assert_eq!(world.ids().await, ids);

    // Overwritten, empty, of another version, ahead of the log, without a table.
    let file = world.file();
    let ruin = |sql: &'static str| {
        let file = file.clone();
        async move {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
            let mut tables = sqlx::ConnectOptions::connect(&options).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut tables).await.unwrap();
            sqlx::Connection::close(tables).await.unwrap();
        }
    };
    for ruined in [
        "PRAGMA user_version = 99",
        "UPDATE cursor SET position = 1000000000",
        "DROP TABLE bounce",
    ] {
        world.bounces.reader().close().await;
        ruin(ruined).await;
        world.again().await;
        ids.insert(0, world.event(&world.of_now()).await);
        world.catch_up().await;
        world.catch_up().await;
        assert_eq!(world.ids().await, ids, "{ruined}");
    }
    for octets in [vec![], vec![7; 20_000]] {
        world.bounces.reader().close().await;
        std::fs::write(world.file(), octets).unwrap();
        world.again().await;
        world.catch_up().await;
        assert_eq!(world.ids().await, ids);
    }
}

#[tokio::test]
async fn rows_go_with_their_events_and_nothing_of_them_is_left() {
    let world = World::new();
    let old = Event {
        at: world.clock.unix_ms() - 2 * 86_400_000,
        ..world.of_now()
    };
    world.event(&old).await;
    let erased = Event {
        recipient: "forgotten-one@example.com",
        ..world.of_now()
    };
    let erased = world.event(&erased).await;
    let kept = world.event(&world.of_now()).await;
    world.catch_up().await;
    assert_eq!(world.ids().await, [kept, erased], "the old one is over");
    world.bounces.reader().forget(&[erased]).await.unwrap();
    assert_eq!(world.ids().await, [kept]);
    for name in ["bounces.db", "bounces.db-wal"] {
        let octets = std::fs::read(world.dir.path().join("readers").join(name));
        let octets = octets.unwrap_or_default();
        assert!(memchr::memmem::find(&octets, b"forgotten-one").is_none());
    }
    let tally = world.bounces.tally(1).await.unwrap();
    assert_eq!(tally.by_type.values().sum::<u64>(), 1);
    // A reader from the beginning of the log says the same.
    world.spool.erase(LogKind::Event, &[erased]).unwrap();
    tables::tests::assert_rebuilt_equals_live(world.bounces.reader()).await;
    assert_eq!(world.ids().await, [kept]);
}
