//! The reader on a log in memory, with lives that end in the middle of a notice.

use std::path::PathBuf;

use super::*;
use crate::event::Dsn;
use crate::spool::disk::memory::MemoryDisk;
use crate::spool::{Damage, Frame, LogKind, Options, Replay};

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}

    fn damage(&mut self, _: LogKind, damage: &Damage) {
        panic!("{damage:?}");
    }
}

/// How a life ends at a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Before it is durable.
    Before,
    /// Before its *accepted* event is.
    Between,
    After,
}

/// Takes letters, up to the one at which the life ends.
struct Mailbag {
    spool: Arc<Spool>,
    taken: Arc<Mutex<Vec<Letter>>>,
    /// Told to the next life.
    cut_off: Arc<Mutex<Vec<u8>>>,
    end: Option<(usize, End)>,
    count: Mutex<usize>,
    died: Arc<tokio::sync::Notify>,
}

impl Post for Mailbag {
    async fn post(&self, letter: Letter) -> Result<(), NotPosted> {
        let number = {
            let mut count = self.count.lock().unwrap();
            *count += 1;
            *count - 1
        };
        let end = self.end.filter(|(at, _)| *at == number).map(|(_, end)| end);
        if end != Some(End::Before) {
            self.taken.lock().unwrap().push(letter.clone());
            let notice_of: Vec<u8> = letter
                .about
                .iter()
                .flat_map(|at| at.to_le_bytes())
                .collect();
            if end == Some(End::Between) {
                self.cut_off.lock().unwrap().extend(&notice_of);
            } else {
                let event = Event {
                    kind: EventKind::Accepted,
                    recipient: &letter.to,
                    notice_of: &notice_of,
                    ..Event::nothing()
                };
                write(&self.spool, &event).await;
            }
        }
        if end.is_some() {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn given_up_at(&self, _: u32, _: &str, accepted_at: UnixMs) -> Option<UnixMs> {
        Some(accepted_at + 1_000)
    }
}

async fn write(spool: &Spool, event: &Event<'_>) -> u64 {
    let mut payload = Vec::new();
    event.encode(&mut payload);
    let ticket = spool.events.append(kind::EVENT, 0, &[&payload], None).await;
    ticket.unwrap().await.unwrap().position()
}

fn open(disk: &MemoryDisk) -> Arc<Spool> {
    let mut options = Options::new(PathBuf::from("/data"));
    options.mail_segment = 1 << 20;
    options.event_segment = 256 << 10;
    options.reserve = 0;
    options.refuse_below = 0;
    options.warn_below = 0;
    let spool = Spool::open(
        Arc::new(disk.clone()),
        options,
        Clock::start(),
        &mut Nothing,
    );
    Arc::new(spool.unwrap())
}

/// What was told over all lives.
struct World {
    disk: MemoryDisk,
    spool: Arc<Spool>,
    taken: Arc<Mutex<Vec<Letter>>>,
    cut_off: Arc<Mutex<Vec<u8>>>,
}

impl World {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let spool = open(&disk);
        Begin::open(&spool, 1).unwrap();
        Self {
            spool,
            disk,
            taken: Arc::default(),
            cut_off: Arc::default(),
        }
    }

    /// One life, which reads all that is there and tells what is due, or ends before.
    async fn live(&mut self, end: Option<(usize, End)>, with_base: bool) {
        let died = Arc::new(tokio::sync::Notify::new());
        let keys = Arc::new(Keys::default());
        let told = Arc::new(Told::default());
        let cut_off = std::mem::take(&mut *self.cut_off.lock().unwrap());
        told.insert(&cut_off);
        let begin = Begin::open(&self.spool, 1).unwrap();
        let parts = Parts {
            post: Mailbag {
                spool: Arc::clone(&self.spool),
                taken: Arc::clone(&self.taken),
                cut_off: Arc::clone(&self.cut_off),
                end,
                count: Mutex::default(),
                died: Arc::clone(&died),
            },
            spool: Arc::clone(&self.spool),
            keys,
            told,
            hostname: "mta.test".into(),
            clock: Clock::start(),
        };
        let mut reader = Notices::new(parts, begin);
        let all = async {
            reader.recall().await;
            if !cut_off.is_empty() {
                // Recovery's event comes too late to be found by a search.
                let event = Event {
                    recipient: "ada@shop.test",
                    notice_of: &cut_off,
                    ..Event::nothing()
                };
                write(&reader.spool, &event).await;
            }
            while !reader.step().await {
                reader.tell().await;
            }
            reader.tell().await;
            if with_base {
                let state = reader.waiting.to_bytes();
                let readers = reader.spool.readers();
                readers.store(NAME, reader.position, &state, 1).unwrap();
            }
        };
        tokio::select! {
            () = all => {}
            () = died.notified() => {}
        }
    }

    fn again(&mut self) {
        self.spool.close().unwrap();
        self.spool = open(&self.disk);
    }

    /// What was told of each event, in words.
    fn told(&self) -> Vec<(u64, String)> {
        let taken = self.taken.lock().unwrap();
        let each = taken.iter().flat_map(|letter| {
            let text = String::from_utf8_lossy(&letter.content);
            let subject = text.lines().find(|l| l.starts_with("Subject: ")).unwrap();
            let subject = subject.to_owned();
            letter.about.iter().map(move |at| (*at, subject.clone()))
        });
        let mut each: Vec<_> = each.collect();
        each.sort();
        each
    }
}

fn message(number: u8, sent_at: UnixMs) -> MessageId {
    MessageId::new(sent_at, &[number; 10])
}

fn event<'a>(kind: EventKind, id: MessageId, number: u16, notify: &'a str) -> Event<'a> {
    Event {
        kind,
        at: id.unix_ms() + 1,
        message_id: id,
        recipient_number: number,
        recipient: "b@a.test",
        server_id: 1,
        server: "app",
        stream: "outbound",
        dsn: Dsn {
            to: "ada@shop.test",
            notify,
            ..Dsn::default()
        },
        ..Event::nothing()
    }
}

#[tokio::test]
async fn each_outcome_is_told_once_wherever_a_life_ends() {
    for end in [End::Before, End::Between, End::After] {
        for at in 0..4 {
            for with_base in [false, true] {
                let mut world = World::new();
                let mut expected = Vec::new();
                for number in 0..3 {
                    let id = message(number, 1_000);
                    for recipient in 0..2 {
                        let event = event(EventKind::Bounced, id, recipient, "");
                        expected.push(write(&world.spool, &event).await);
                    }
                }
                world.live(None, with_base).await;
                // More of a message that was told about already, and of another.
                for number in 2..4 {
                    let event = event(EventKind::Expired, message(number, 1_000), 2, "FAILURE");
                    expected.push(write(&world.spool, &event).await);
                }
                world.live(Some((at, end)), false).await;
                world.again();
                world.live(None, false).await;
                world.again();
                world.live(None, true).await;
                let told: Vec<u64> = world.told().iter().map(|(at, _)| *at).collect();
                assert_eq!(told, expected, "{end:?} at {at}, base {with_base}");
                // Outcomes that came together were told together.
                assert_eq!(world.taken.lock().unwrap().len(), 5);
            }
        }
    }
}

#[tokio::test]
async fn what_is_told_is_what_was_asked_for() {
    let report = |cause, reaction| (EventKind::BouncedLater, cause, reaction);
    let later = report("recipient-unknown", "bounce");
    let plain = |kind| (kind, "unknown", "");
    let table: &[((EventKind, &str, &str), &str, bool)] = &[
        (plain(EventKind::Bounced), "", true),
        (plain(EventKind::Bounced), "FAILURE,DELAY", true),
        (plain(EventKind::Bounced), "SUCCESS,DELAY", false),
        (plain(EventKind::Bounced), "NEVER", false),
        (plain(EventKind::Expired), "", true),
        (plain(EventKind::Expired), "NEVER", false),
        (plain(EventKind::Cancelled), "FAILURE", false),
        (plain(EventKind::Delivered), "SUCCESS", true),
        (plain(EventKind::Delivered), "", false),
        (later, "", true),
        (later, "NEVER", false),
        // Nobody understood it; an automatic answer; a complaint.
        (report("unknown", ""), "", false),
        (report("auto-reply", "alert"), "", false),
        (report("complaint", "hard"), "", false),
    ];
    for (number, ((kind, cause, reaction), notify, expected)) in table.iter().enumerate() {
        let mut world = World::new();
        let mut event = event(*kind, message(number as u8, 1_000), 0, notify);
        event.cause = cause;
        event.judged.reaction = reaction;
        write(&world.spool, &event).await;
        // Without a way to tell.
        event.dsn = Dsn::default();
        write(&world.spool, &event).await;
        world.live(None, false).await;
        let told = world.told().len();
        assert_eq!(told, usize::from(*expected), "{kind:?} {cause} {notify:?}");
    }
}

#[tokio::test]
async fn a_delay_is_told_once_after_its_time_and_the_last_words_of_a_host_are_kept() {
    let mut world = World::new();
    let now = Clock::start().unix_ms();
    let hours = |n: u64| now - n * 3_600_000;
    let (old, new, gone) = (
        message(1, hours(5)),
        message(2, hours(3)),
        message(3, hours(6)),
    );
    let mut accepted = Vec::new();
    for (id, notify) in [(old, "DELAY"), (new, "DELAY"), (gone, "DELAY,FAILURE")] {
        let event = event(EventKind::Accepted, id, 0, notify);
        accepted.push(write(&world.spool, &event).await);
    }
    // Does not ask for it.
    write(
        &world.spool,
        &event(EventKind::Accepted, message(4, hours(9)), 0, ""),
    )
    .await;
    let mut deferred = event(EventKind::Deferred, old, 0, "DELAY");
    (deferred.reply, deferred.remote_host) = ("451 4.7.1 come back", "mx.a.test [192.0.2.1]:25");
    write(&world.spool, &deferred).await;
    deferred.message_id = gone;
    write(&world.spool, &deferred).await;
    let mut expired = event(EventKind::Expired, gone, 0, "DELAY,FAILURE");
    (expired.cause, expired.detail) = ("expired", "The age limit was reached.");
    let expired = write(&world.spool, &expired).await;
    for with_base in [true, false, true] {
        world.live(None, with_base).await;
        world.again();
    }
    let told = world.told();
    let said: Vec<_> = told
        .iter()
        .map(|(at, subject)| (*at, subject.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (
                accepted[0],
                "Subject: Delayed mail (it is still being tried)"
            ),
            (expired, "Subject: Undelivered mail"),
        ]
    );
    for letter in world.taken.lock().unwrap().iter() {
        let text = String::from_utf8_lossy(&letter.content).into_owned();
        assert!(
            text.contains("Diagnostic-Code: smtp; 451 4.7.1 come back\r\n"),
            "{text}"
        );
        assert!(text.contains("Remote-MTA: dns; mx.a.test\r\n"), "{text}");
        assert_eq!(
            text.contains("Will-Retry-Until: "),
            text.contains("Action: delayed"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_notice_names_no_more_recipients_than_it_may() {
    let mut world = World::new();
    let id = message(1, 1_000);
    for number in 0..limits::NOTICE_RECIPIENTS_MAX as u16 + 1 {
        write(&world.spool, &event(EventKind::Bounced, id, number, "")).await;
    }
    world.live(None, false).await;
    let taken = world.taken.lock().unwrap();
    let counts: Vec<usize> = taken.iter().map(|letter| letter.about.len()).collect();
    assert_eq!(counts, [limits::NOTICE_RECIPIENTS_MAX, 1]);
}

#[tokio::test]
async fn of_one_recipient_one_failure_is_told_however_often_it_is_reported_and_wherever_a_life_ends()
 {
    for with_base in [false, true] {
        let mut world = World::new();
        let report = |number| {
            let mut event = event(EventKind::BouncedLater, message(1, 1_000), number, "");
            (event.cause, event.judged.reaction) = ("recipient-unknown", "bounce");
            event
        };
        let first = write(&world.spool, &report(0)).await;
        write(&world.spool, &report(0)).await;
        world.live(None, with_base).await;
        world.again();
        // Once more, by another host; and it was tried again meanwhile, and bounced.
        write(&world.spool, &report(0)).await;
        write(
            &world.spool,
            &event(EventKind::Bounced, message(1, 1_000), 0, ""),
        )
        .await;
        let other = write(&world.spool, &report(1)).await;
        world.live(None, with_base).await;
        let told: Vec<u64> = world.told().iter().map(|(at, _)| *at).collect();
        assert_eq!(told, [first, other], "base {with_base}");
    }
}

#[test]
fn delays_come_in_portions_each_once_and_those_that_were_told_or_moved_do_not() {
    let mut waiting = Waiting::default();
    let hour = 3_600_000;
    let count = 2 * limits::NOTICE_OUTCOMES_MAX as u16 + 500;
    for number in 0..count {
        let event = event(EventKind::Accepted, message(1, hour), number, "DELAY");
        waiting.take(1_000 + u64::from(number), &event);
    }
    let mut moved = event(EventKind::Rescheduled, message(2, hour), 0, "");
    waiting.take(1, &event(EventKind::Accepted, message(2, hour), 0, "DELAY"));
    moved.next_attempt = Some(9 * hour);
    waiting.take(2, &moved);
    waiting.were_told([1_000]);
    // What a base keeps is the same.
    let mut waiting = Waiting::from_bytes(&waiting.to_bytes());
    assert!(waiting.delayed(5 * hour - 1).is_empty());
    let mut portions = Vec::new();
    let mut told = std::collections::BTreeSet::new();
    loop {
        let delayed = waiting.delayed(5 * hour);
        if delayed.is_empty() {
            break;
        }
        portions.push(delayed.len());
        told.extend(delayed.iter().map(|live| live.accepted));
    }
    let most = limits::NOTICE_OUTCOMES_MAX;
    assert_eq!(portions, [most, most, 499]);
    assert!(told.len() == usize::from(count) - 1 && !told.contains(&1_000));
    assert_eq!(waiting.due(), Some(13 * hour));
    assert_eq!(waiting.delayed(13 * hour)[0].accepted, 1);
}

#[test]
fn a_base_of_an_earlier_version_is_read() {
    let mut waiting = Waiting::default();
    waiting.take(77, &event(EventKind::Accepted, message(1, 1), 3, "DELAY"));
    let bytes = waiting.to_bytes();
    // Entries alone.
    let mut old = Waiting::from_bytes(&bytes[16..]);
    assert_eq!((old.live(), old.delayed(u64::MAX)[0].accepted), (1, 77));
    for len in 0..bytes.len() {
        Waiting::from_bytes(&bytes[..len]);
    }
}

#[test]
fn what_is_told_moves_on_while_outcomes_keep_coming() {
    let gather = limits::NOTICE_GATHER.as_millis() as UnixMs;
    let mut waiting = Waiting::default();
    assert_eq!(waiting.first_untold(0), None);
    let bounced = |number| event(EventKind::Bounced, message(number, 1_000), 0, "");
    waiting.take(8, &bounced(1));
    let later = Event {
        at: 1_001 + gather / 2,
        ..bounced(2)
    };
    waiting.take(16, &later);
    assert_eq!(waiting.first_untold(1_001), Some(8));
    // The first has gone; the other gathers.
    assert_eq!(waiting.ready(1_001 + gather, false).len(), 1);
    assert_eq!(waiting.first_untold(1_001 + gather), Some(16));
    assert_eq!(waiting.ready(1_001 + 2 * gather, false).len(), 1);
    // A delay counts when it is due.
    waiting.take(
        24,
        &event(EventKind::Accepted, message(3, 1_000), 0, "DELAY"),
    );
    let due = 1_000 + limits::NOTICE_DELAY.as_millis() as UnixMs;
    assert_eq!(waiting.first_untold(due - 1), None);
    assert_eq!(waiting.first_untold(due), Some(24));
    assert_eq!(waiting.delayed(due).len(), 1);
    assert_eq!(waiting.first_untold(due), None);
}

#[tokio::test]
async fn who_waits_for_what_was_told_does_not_wait_for_what_came_since() {
    let world = World::new();
    let now = Clock::start().unix_ms();
    // It gathers for as long as the test lasts.
    let at = now + 3_600_000;
    let gathers = Event {
        at,
        ..event(EventKind::Bounced, message(1, now), 0, "")
    };
    let position = write(&world.spool, &gathers).await;
    let keys = Arc::new(Keys::default());
    let parts = Parts {
        post: Mailbag {
            spool: Arc::clone(&world.spool),
            taken: Arc::clone(&world.taken),
            cut_off: Arc::clone(&world.cut_off),
            end: None,
            count: Mutex::default(),
            died: Arc::default(),
        },
        spool: Arc::clone(&world.spool),
        keys: Arc::clone(&keys),
        told: Arc::default(),
        hostname: "mta.test".into(),
        clock: Clock::start(),
    };
    keys.complete();
    let reader = Notices::new(parts, Begin::open(&world.spool, 1).unwrap());
    let watch = reader.watch();
    let (_stop, stopping) = watch::channel(false);
    let running = tokio::spawn(reader.run(stopping));
    watch.told(position).await;
    tokio::select! {
        biased;
        () = watch.told(position + 1) => panic!("it is not told yet"),
        () = std::future::ready(()) => {}
    }
    running.abort();
}
