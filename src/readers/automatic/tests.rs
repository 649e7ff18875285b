//! The reader on a disk in memory.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::clock::UnixMs;
use crate::event::Judged as Fields;
use crate::mail::MessageId;
use crate::readers::suppressions::Made;
use crate::spool::disk::memory::MemoryDisk;
use crate::spool::{Damage, Frame, LogKind, Options, Replay};
use crate::suppression;

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}

    fn damage(&mut self, _: LogKind, damage: &Damage) {
        panic!("{damage:?}");
    }
}

/// A life of a node.
struct World {
    disk: MemoryDisk,
    spool: Arc<Spool>,
    suppressions: Arc<Suppressions>,
    reader: Automatic,
    events: u64,
}

fn life(disk: &MemoryDisk, events: u64) -> World {
    let clock = Clock::start();
    let mut options = Options::new(PathBuf::from("/data"));
    options.mail_segment = 1 << 20;
    options.event_segment = 256 << 10;
    options.reserve = 0;
    options.refuse_below = 0;
    options.warn_below = 0;
    let spool = Spool::open(Arc::new(disk.clone()), options, clock, &mut Nothing);
    let spool = Arc::new(spool.unwrap());
    let set = Arc::new(suppression::Set::new(TagKey::new([7; 16])));
    let suppressions = Suppressions::open(Arc::clone(&spool), set, false, clock).unwrap();
    let reader = Automatic::open(Arc::clone(&spool), Arc::clone(&suppressions), clock).unwrap();
    World {
        disk: disk.clone(),
        spool,
        suppressions,
        reader,
        events,
    }
}

impl World {
    fn new() -> Self {
        life(&MemoryDisk::new(), 0)
    }

    fn again(self) -> Self {
        self.spool.close().unwrap();
        life(&self.disk, self.events)
    }

    async fn catch_up(&mut self) {
        while !self.reader.step().await {}
    }

    /// Writes an event about an address; each is of a message of its own. Returns its position.
    async fn write(
        &mut self,
        kind: EventKind,
        address: &str,
        cause: &str,
        reaction: &str,
        at: UnixMs,
    ) -> u64 {
        self.events += 1;
        let mut id = [0; 10];
        id[..8].copy_from_slice(&self.events.to_be_bytes());
        self.write_of(MessageId::new(1, &id), kind, address, cause, reaction, at)
            .await
    }

    async fn write_of(
        &self,
        message_id: MessageId,
        kind: EventKind,
        address: &str,
        cause: &str,
        reaction: &str,
        at: UnixMs,
    ) -> u64 {
        let rule = if reaction.is_empty() { "" } else { "a-rule" };
        let (reaction, scope) = match reaction.split_once(" of ") {
            Some((reaction, scope)) => (reaction, scope),
            None => (reaction, "recipient"),
        };
        let event = Event {
            kind,
            at,
            message_id,
            recipient_number: 2,
            recipient: address,
            server_id: 1,
            server: "app",
            stream: "outbound",
            reply: match cause {
                "network" => "",
                _ => "550 5.1.1 no",
            },
            cause,
            judged: Fields {
                scope,
                reaction,
                rule,
                confidence: 90,
                ..Fields::default()
            },
            ..Event::nothing()
        };
        let mut payload = Vec::new();
        event.encode(&mut payload);
        let ticket = self
            .spool
            .events
            .append(kind::EVENT, 0, &[&payload], None)
            .await
            .unwrap();
        let position = ticket.position();
        ticket.await.unwrap();
        position
    }

    fn list() -> List {
        List {
            server: 1,
            stream: "outbound".into(),
        }
    }

    fn reason(&self, address: &str) -> Option<Reason> {
        let set = self.suppressions.set();
        let tag = Address::parse(address)
            .unwrap()
            .tag(set.key(), &Self::list());
        set.find(tag).map(|suppression| suppression.reason)
    }

    async fn lift(&self, address: &str) -> Made {
        let place = Place {
            list: Self::list(),
            server: "app".into(),
        };
        let addresses = vec![Address::parse(address).unwrap()];
        self.suppressions
            .lift(place, addresses, Origin::Customer)
            .await
            .unwrap()[0]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_the_recipients_suppresses_him_and_its_event_is_named() {
    use EventKind::{Bounced, BouncedLater, Cancelled, Complained, Deferred, Expired};
    let mut world = World::new();
    let cases = [
        (
            Bounced,
            "recipient-unknown",
            "hard",
            Some(Reason::HardBounce),
        ),
        (
            Bounced,
            "recipient-disabled",
            "hard",
            Some(Reason::HardBounce),
        ),
        (Bounced, "address-invalid", "hard", Some(Reason::HardBounce)),
        (Bounced, "domain-no-mail", "", Some(Reason::HardBounce)),
        (
            BouncedLater,
            "recipient-unknown",
            "hard",
            Some(Reason::HardBounce),
        ),
        (Complained, "complaint", "", Some(Reason::SpamComplaint)),
        // A reply to several recipients, or one that is not sure.
        (Bounced, "recipient-unknown", "bounce", None),
        (Bounced, "recipient-disabled", "", None),
        (BouncedLater, "auto-reply", "alert", None),
        // Whatever a log may say: what is ours suppresses nobody.
        (Bounced, "blocklisted", "hard", None),
        (Bounced, "reputation", "hard", None),
        (Bounced, "dmarc-policy", "hard", None),
        (Bounced, "content-spam", "hard", None),
        (Bounced, "recipient-full", "bounce", None),
        (Bounced, "domain-unknown", "", None),
        (Bounced, "submission-refused", "", None),
        (Bounced, "ambiguous", "", None),
        (Bounced, "admin", "", None),
        (Deferred, "recipient-unknown", "hard", None),
        (Expired, "expired", "", None),
        (Cancelled, "admin", "", None),
    ];
    let mut positions = Vec::new();
    for (number, (kind, cause, reaction, _)) in cases.into_iter().enumerate() {
        let address = format!("u{number}@example.org");
        positions.push(world.write(kind, &address, cause, reaction, 1_000).await);
    }
    world.catch_up().await;
    for (number, (kind, cause, reaction, expected)) in cases.into_iter().enumerate() {
        let found = world.reason(&format!("u{number}@example.org"));
        assert_eq!(found, expected, "{kind:?} {cause} {reaction}");
    }
    let mut told = Vec::new();
    for (record, _) in world.spool.events.records_from(0).flatten() {
        if let Ok(Some(event)) = Event::decode(&record.payload)
            && event.kind == EventKind::Suppressed
        {
            assert_eq!(
                (event.recipient_number, event.reply, event.origin),
                (2, "550 5.1.1 no", "Recipient")
            );
            told.push((event.judged.evidence, event.judged.rule.to_owned()));
        }
    }
    let evidence = |number: usize, rule: &str| (Some(positions[number]), rule.to_owned());
    assert_eq!(
        told,
        [
            evidence(0, "a-rule"),
            evidence(1, "a-rule"),
            evidence(2, "a-rule"),
            evidence(3, ""),
            evidence(4, "a-rule"),
            evidence(5, "")
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mailbox_suppresses_after_five_messages_in_a_row_over_two_weeks() {
    const DAY: UnixMs = 86_400_000;
    let mut world = World::new();
    let full = ("recipient-full", "bounce");
    for (address, days, deliveries, expected) in [
        ("patient@example.org", &[0, 4, 8, 12, 15][..], &[][..], true),
        ("four@example.org", &[0, 5, 10, 15], &[], false),
        ("fast@example.org", &[0, 1, 2, 3, 4, 5, 6], &[], false),
        ("emptied@example.org", &[0, 4, 8, 12, 15], &[9], false),
        // Of one transaction with several recipients, or in words about a whole host.
        ("shared@example.org", &[0, 4, 8, 12, 15], &[], false),
    ] {
        let mut what: Vec<(u64, bool)> = days.iter().map(|&day| (day, false)).collect();
        what.extend(deliveries.iter().map(|&day| (day, true)));
        what.sort_unstable();
        let reaction = match address.starts_with("shared") {
            true => "bounce of message",
            false => full.1,
        };
        for (day, delivered) in what {
            match delivered {
                true => {
                    world
                        .write(EventKind::Delivered, address, "", "", day * DAY)
                        .await
                }
                false => {
                    world
                        .write(EventKind::Bounced, address, full.0, reaction, day * DAY)
                        .await
                }
            };
        }
        world.catch_up().await;
        assert_eq!(world.reason(address).is_some(), expected, "{address}");
    }
    // One message that bounces again and again is one.
    let one = MessageId::new(1, &[9; 10]);
    for day in [0, 5, 10, 15, 20, 25] {
        world
            .write_of(
                one,
                EventKind::BouncedLater,
                "one@example.org",
                full.0,
                full.1,
                day * DAY,
            )
            .await;
    }
    world.catch_up().await;
    assert_eq!(world.reason("one@example.org"), None);
}

/// Hosts that never refuse for good: the message grows too old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_given_up_while_its_mailbox_is_full_met_a_full_mailbox() {
    use EventKind::{Deferred, Delivered, Expired};
    const DAY: UnixMs = 86_400_000;
    let full = (Deferred, "recipient-full", "retry");
    let gone = (Expired, "expired", "");
    for (address, attempts, expected) in [
        ("patient@example.org", &[full, full, gone][..], true),
        // What a host said last, not what the network did.
        (
            "cut-off@example.org",
            &[full, (Deferred, "network", "retry"), gone],
            true,
        ),
        (
            "busy@example.org",
            &[full, (Deferred, "greylisted", "retry"), gone],
            false,
        ),
        ("slow@example.org", &[gone], false),
        (
            "shared@example.org",
            &[(Deferred, "recipient-full", "retry of message"), gone],
            false,
        ),
        ("emptied@example.org", &[full, (Delivered, "", "")], false),
        (
            "cancelled@example.org",
            &[full, (EventKind::Cancelled, "admin", "")],
            false,
        ),
    ] {
        let mut world = World::new();
        for (number, day) in [0, 4, 8, 12, 15].into_iter().enumerate() {
            assert_eq!(world.reason(address), None, "{address}");
            let id = MessageId::new(1, &[number as u8; 10]);
            for (kind, cause, reaction) in attempts {
                world
                    .write_of(id, *kind, address, cause, reaction, day * DAY)
                    .await;
                world.catch_up().await;
                // A life may end between the two, and all is read again.
                if number % 2 == 0 {
                    world = world.again();
                }
            }
            world.catch_up().await;
        }
        assert_eq!(world.reason(address).is_some(), expected, "{address}");
        assert!(!world.reader.progress.full.is_waited_for(), "{address}");
    }
}

/// Both stand in the piece of the log that is looked at in one go; and again after a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complaint_right_behind_a_bounce_is_not_taken_for_answered() {
    for restart in [false, true] {
        let mut world = World::new();
        let gone = "gone@example.org";
        let unknown = "recipient-unknown";
        world
            .write(EventKind::Bounced, gone, unknown, "hard", 1_000)
            .await;
        if restart {
            world.catch_up().await;
        }
        world
            .write(EventKind::Complained, gone, "complaint", "", 1_000)
            .await;
        if restart {
            // It did not come to the complaint, nor to a base.
            world = world.again();
        }
        world.catch_up().await;
        assert_eq!(world.reason(gone), Some(Reason::SpamComplaint), "{restart}");
        // What was lifted stays so.
        world
            .write(EventKind::Bounced, "b@example.org", unknown, "hard", 1_000)
            .await;
        world.catch_up().await;
        assert_eq!(world.lift("b@example.org").await, Made::Lifted);
        world = world.again();
        world.catch_up().await;
        assert_eq!(world.reason("b@example.org"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_suppresses_once_whenever_the_node_dies() {
    for seed in 0..10 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let (mut pending, mut suppressed) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..60 {
            let address = format!("u{}@example.org", random.u8(..6));
            match random.u8(..8) {
                0..=2 => {
                    world
                        .write(
                            EventKind::Bounced,
                            &address,
                            "recipient-unknown",
                            "hard",
                            1_000,
                        )
                        .await;
                    pending.insert(address);
                }
                3 | 4 => {
                    world.catch_up().await;
                    suppressed.append(&mut pending);
                    if random.bool() {
                        // What is before it is not read again.
                        world.reader.based = 0;
                        world.reader.write_base().await;
                    }
                }
                5 | 6 => {
                    let made = world.lift(&address).await;
                    assert_eq!(
                        made == Made::Lifted,
                        suppressed.contains(&address),
                        "{seed}"
                    );
                    if suppressed.remove(&address) {
                        pending.remove(&address);
                    }
                }
                _ => world = world.again(),
            }
        }
        world = world.again();
        world.catch_up().await;
        suppressed.append(&mut pending);
        for number in 0..6 {
            let address = format!("u{number}@example.org");
            assert_eq!(
                world.reason(&address).is_some(),
                suppressed.contains(&address),
                "{seed} {address}"
            );
        }
    }
}
