//! The dispatcher without remote hosts, on a disk that does not answer.

mod releases;

use std::net::SocketAddr;
use std::path::Path;

use spool_format::{Content, List, MessageRecord, Recipient, kind};
use tokio::sync::oneshot;

use super::*;
use crate::accept::{Enqueued, Refused};
use crate::config::{Config, PoolId, StreamKind};
use crate::deliver::{self, Loading, MessageSource};
use crate::event::Event;
use crate::mail::Domain;
use crate::queue::{BatchRecipient, FlowName, Limits, PoolConfig};
use crate::route::Router;
use crate::spool::disk::gated::GatedDisk;
use crate::spool::{Damage, Frame, LogKind, Options, Replay};

const DAY_MS: u64 = 86_400_000;

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

impl MessageSource for Nothing {
    fn load<'a>(
        &'a self,
        _: u64,
        _: &'a [BatchRecipient],
        _: deliver::Form,
    ) -> Loading<'a, deliver::Loaded> {
        unreachable!("there is no route")
    }

    fn subject<'a>(&'a self, _: u64, _: &'a [BatchRecipient]) -> Loading<'a, Arc<Subject>> {
        unreachable!("there is no route")
    }
}

/// A dispatcher with one pool, whose mail has no route.
struct Bench {
    spool: Arc<Spool>,
    clock: Clock,
    dispatcher: Dispatcher,
    inputs: Inputs,
    accepted: mpsc::Sender<Enqueued>,
    orders: mpsc::Sender<Order>,
    stop: watch::Sender<bool>,
}

impl Bench {
    fn new(disk: &GatedDisk) -> Self {
        let clock = Clock::start();
        let options = Options {
            refuse_below: 0,
            reserve: 0,
            mail_segment: 1 << 20,
            event_segment: 1 << 20,
            ..Options::new(Path::new("/data"))
        };
        let spool = Spool::open(Arc::new(disk.clone()), options, clock, &mut Nothing).unwrap();
        let spool = Arc::new(spool);
        let (reports, received) = mpsc::channel(16);
        let (accepted, inbox) = mpsc::channel(16);
        let (orders, ordered) = mpsc::channel(16);
        let (stop, stopping) = watch::channel(false);
        let config = Config::development(None);
        let retry = *config.retry.of(StreamKind::Transactional);
        let pool = PoolConfig {
            kind: StreamKind::Transactional,
            sources: Vec::new(),
            retry,
            name: "tx".into(),
            source_names: vec!["tx1".into()],
        };
        let router = crate::route::Settings {
            own_names: Vec::new(),
            own_sockets: Vec::new(),
            port: 25,
            allow_networks: Vec::new(),
            routes: Vec::new(),
            sink: None,
            dns_servers: vec![SocketAddr::from(([127, 0, 0, 1], 1))],
            v4: true,
            v6: false,
            clock,
        };
        let routes = Routes {
            router: Router::new(router).unwrap(),
            sandbox: [PoolId(8), PoolId(9)],
            orphaned: vec![(PoolId(0), "gone".into())],
            tests: Default::default(),
        };
        let agents = AgentContext {
            messages: Arc::new(Nothing),
            sources: Arc::new([]),
            tls: deliver::opportunistic_tls(),
            timeouts: Arc::new(config.timeouts.clone()),
            rules: Arc::default(),
            shaping: Arc::clone(&config.shaping),
            clock,
            trace: Arc::default(),
            reports,
        };
        let dispatcher = Dispatcher::new(Parts {
            scheduler: Scheduler::new(vec![pool], Limits::default(), 1),
            keys: Arc::default(),
            told: Arc::default(),
            spool: Arc::clone(&spool),
            clock,
            routes: Arc::new(routes),
            policies: Arc::new(Policies::new(&config.retry, None)),
            shaping: Arc::clone(&config.shaping),
            agents: Arc::new(agents),
            source_names: Vec::new(),
            places: Arc::default(),
            schedule: Arc::default(),
            queued: Arc::default(),
            heartbeat: Arc::default(),
        });
        let inputs = Inputs {
            accepted: inbox,
            reports: received,
            orders: ordered,
            restoring: None,
            stopping,
        };
        Self {
            spool,
            clock,
            dispatcher,
            inputs,
            accepted,
            orders,
            stop,
        }
    }

    /// A message of one recipient in the spool.
    async fn message(&self, id: u8) -> (u64, Arc<Subject>) {
        let recipients = [Recipient {
            forward_path: "ada@example.com",
            domain: "example.com",
            fields: List::new(&[]),
        }];
        let record = MessageRecord {
            id: [id; 16],
            accepted_unix_ms: self.clock.unix_ms(),
            server_id: 1,
            server_name: "shop",
            stream_id: "outbound",
            stream_kind: StreamKind::Transactional,
            pool: "gone",
            reverse_path: "s@example.net",
            recipients: List::new(&recipients),
            tag: None,
            metadata: List::new(&[]),
            flags: 0,
            header_len: 0,
            fields: List::new(&[]),
            content: Content::Inline(b"content\r\n"),
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        let parts: [&[u8]; 2] = [&payload, b"content\r\n"];
        let log = &self.spool.mail;
        let ticket = log.append_held(kind::MESSAGE, 0, &parts, 1, None).await;
        let position = ticket.unwrap().await.unwrap().position();
        (position, Arc::new(Subject::of(&record, 0..1)))
    }

    /// Makes it live; `age_ms` old.
    fn insert(&mut self, position: u64, age_ms: u64) {
        let now = self.clock.unix_ms();
        let new = NewRecipient {
            position,
            number: 0,
            pool: PoolId(0),
            domain: "example.com",
            flow: FlowName {
                server: 1,
                server_name: "shop",
                stream: "outbound",
            },
            message: position,
            tag: None,
            accepted_at: now - age_ms,
            life: Life::default(),
            attempts: 3,
            next_attempt: now,
        };
        self.dispatcher.parts.scheduler.insert(now, new);
    }
}

/// Kinds, message and recipient of the events in the log.
fn events(spool: &Spool) -> Vec<(EventKind, u8, String)> {
    let found = spool.events.records_from(0).map(|item| {
        let payload = item.unwrap().0.payload;
        let event = Event::decode(&payload).unwrap().unwrap();
        let recipient = event.recipient.to_owned();
        (event.kind, event.message_id.as_bytes()[0], recipient)
    });
    found.collect()
}

/// On a runtime with one thread: if the dispatcher waited for the disk, nothing would ever open the gate.
#[tokio::test]
async fn a_disk_that_does_not_answer_delays_the_events_of_cold_mail_and_nothing_else() {
    let disk = GatedDisk::default();
    let mut bench = Bench::new(&disk);
    let (cold, _) = bench.message(1).await;
    let (cancelled, _) = bench.message(2).await;
    let (fresh, subject) = bench.message(3).await;
    bench.insert(cold, 30 * DAY_MS);
    bench.insert(cancelled, 0);
    disk.close();
    let Bench {
        spool,
        dispatcher,
        inputs,
        accepted,
        orders,
        stop,
        ..
    } = bench;
    let running = tokio::spawn(dispatcher.run(inputs));
    while disk.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let (done, verb) = oneshot::channel();
    let order: Order = Box::new(move |scheduler, now| {
        let selection = crate::queue::Selection::Message {
            position: cancelled,
        };
        let how = crate::queue::Withdrawal::Cancel;
        let _ = done.send(scheduler.withdraw(now, selection, how).total());
    });
    orders.send(order).await.unwrap();
    assert_eq!(verb.await.unwrap(), 1);
    let message = Enqueued {
        position: fresh,
        pool: PoolId(0),
        domains: vec![Domain::parse("example.com").unwrap()],
        content_len: 9,
        tag: None,
        refused: Refused::Nobody,
        subject,
    };
    accepted.send(message).await.unwrap();
    let mut durable = spool.events.watch();
    durable.changed().await.unwrap();
    disk.open_gate();
    let wanted = [
        (EventKind::Expired, 1, "ada@example.com".to_owned()),
        (EventKind::Cancelled, 2, "ada@example.com".to_owned()),
        (EventKind::Accepted, 3, "ada@example.com".to_owned()),
    ];
    // The two reads may end in either order.
    let by_message = || {
        let mut events = events(&spool);
        events.sort_by_key(|event| event.1);
        events
    };
    while by_message() != wanted {
        durable.changed().await.unwrap();
    }
    while spool.mail.stat().live != 1 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.unwrap();
}

/// Its recipients end on record, and its segment can be put aside.
#[tokio::test]
async fn mail_that_cannot_be_read_ends_with_what_its_acceptance_said() {
    let disk = GatedDisk::default();
    let mut bench = Bench::new(&disk);
    let (position, subject) = bench.message(7).await;
    let enqueued = Enqueued {
        position,
        pool: PoolId(0),
        domains: vec![Domain::parse("example.com").unwrap()],
        content_len: 9,
        tag: None,
        refused: Refused::Nobody,
        subject,
    };
    bench.dispatcher.accepted(&enqueued).await.unwrap();
    let mut durable = bench.spool.events.watch();
    while events(&bench.spool).is_empty() {
        durable.changed().await.unwrap();
    }
    let unknown = bench.message(8).await.0;
    bench.insert(unknown, 30 * DAY_MS);
    let path = Path::new("/data/spool/mail/0000000000000001.seg");
    disk.medium().edit(path, |bytes| {
        for position in [position, unknown] {
            bytes[position as usize + 20] ^= 1;
        }
    });
    let now = bench.clock.unix_ms();
    let selection = crate::queue::Selection::Message { position };
    let how = crate::queue::Withdrawal::Bounce;
    bench
        .dispatcher
        .parts
        .scheduler
        .withdraw(now, selection, how);
    let Bench {
        spool,
        dispatcher,
        inputs,
        stop,
        ..
    } = bench;
    let running = tokio::spawn(dispatcher.run(inputs));
    let wanted = [
        (EventKind::Accepted, 7, "ada@example.com".to_owned()),
        (EventKind::Bounced, 7, "ada@example.com".to_owned()),
    ];
    while events(&spool) != wanted {
        durable.changed().await.unwrap();
    }
    // Nothing says whose the other was; it is no longer waited for either.
    while spool.mail.stat().live > 0 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.unwrap();
}
