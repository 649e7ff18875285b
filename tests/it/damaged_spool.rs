//! Bytes of the spool that are not what was written: what they hit is skipped, counted and named, and the rest is delivered.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use posthaste::event::{Event, EventKind};
use posthaste::mail::MessageId;
use serde_json::Value;
use spool_format::layout::{RECORD_HEADER, kind};
use spool_format::scan::{self, Item};
use spool_format::{MessageRecord, SegmentHeader};
use tempfile::TempDir;

use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, Said, posthaste};
use crate::support::remote_host::{Answer, Gate, RemoteHost, Stage, Taken};

/// A stopped node's directory with acknowledged mail in it that no host has taken.
struct Queued {
    dir: TempDir,
    gate: Gate,
    ids: Vec<String>,
}

/// What does not verify, without the messages that are lost by it and the summary.
fn damages(said: &Said) -> Vec<Value> {
    assert_eq!(said.code, 1, "{said:?}");
    let mut rows = said.json();
    assert_eq!(
        rows.pop().map(|row| row["sound"].clone()),
        Some(false.into())
    );
    let is_damage = |row: &Value| {
        row["finding"]
            .as_str()
            .is_some_and(|text| text.starts_with("does not verify"))
    };
    rows.retain(is_damage);
    rows
}

/// Where a message record is.
struct Found {
    segment: PathBuf,
    number: u64,
    offset: u64,
    payload_len: u64,
}

impl Queued {
    /// `count` messages with a body of `body_len` octets (the segments have 4 MiB).
    async fn with(count: usize, body_len: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let gate = Gate::closed().await;
        write_config(
            dir.path(),
            &format!(
                "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
                gate.host.address
            ),
        );
        let node = NodeProcess::start(dir.path()).await;
        let mut client = node.client().await;
        let mut ids = Vec::new();
        for n in 0..count {
            let body = "0123456789abcdef0123456789abcd\r\n".repeat(body_len / 32);
            ids.push(
                client
                    .submit(
                        &[&format!("r{n}@example.org")],
                        &message(&format!("{n}"), &body),
                    )
                    .await,
            );
        }
        gate.host.wait_for_sessions(1).await;
        drop(client);
        node.stop().await;
        Self { dir, gate, ids }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn find(&self, message: usize) -> Found {
        let mut segments: Vec<PathBuf> = std::fs::read_dir(self.path().join("data/spool/mail"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        segments.retain(|path| path.extension().is_some_and(|e| e == "seg"));
        for segment in segments {
            let bytes = std::fs::read(&segment).unwrap();
            let header = SegmentHeader::decode(&bytes).unwrap();
            for item in scan::tail(&bytes, &header).items() {
                let Item::Record(frame) = item else { continue };
                if frame.kind != kind::MESSAGE {
                    continue;
                }
                let id = MessageId::from_bytes(MessageRecord::decode(frame.payload).unwrap().id)
                    .to_string();
                if id == self.ids[message] {
                    let payload_len = frame.payload.len() as u64;
                    return Found {
                        segment,
                        number: header.number,
                        offset: frame.offset,
                        payload_len,
                    };
                }
            }
        }
        panic!("message {message} is in no segment");
    }

    /// Starts the node, and returns it once all but `lost` were delivered and nothing waits any more.
    async fn all_delivered_but(&self, lost: &[usize]) -> NodeProcess {
        self.gate.open();
        let node = NodeProcess::start(self.path()).await;
        let recipient = |n: usize| format!("r{n}@example.org");
        let expected: HashSet<String> = (0..self.ids.len())
            .filter(|n| !lost.contains(n))
            .map(recipient)
            .collect();
        let delivered = |taken: &[Taken]| {
            taken
                .iter()
                .flat_map(|t| t.recipients.iter().cloned())
                .collect::<HashSet<_>>()
        };
        self.gate
            .host
            .taken_until("all undamaged mail", |taken| {
                delivered(taken).is_superset(&expected)
            })
            .await;
        // What is lost does not wait for anything either.
        eventually("idle queues", async || {
            posthaste(self.path(), "queue ls --json")
                .await
                .expect(0)
                .json()
                .iter()
                .all(is_idle)
                .then_some(())
        })
        .await;
        assert_eq!(delivered(&self.gate.host.taken()), expected);
        assert_eq!(self.gate.host.taken().len(), expected.len());
        node
    }
}

fn is_idle(queue: &Value) -> bool {
    ["ready", "deferred", "in_flight"]
        .iter()
        .all(|state| queue[state] == 0)
}

fn flip(file: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

const DAMAGED: &str = "posthaste_spool_damaged_records_total{log=\"mail\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_message_is_skipped_counted_and_named_and_all_others_are_delivered() {
    // In its content, in its envelope, in its checksum: never the whole segment.
    let places: [fn(&Found) -> u64; 3] = [
        |f| RECORD_HEADER as u64 + f.payload_len - 40,
        |_| RECORD_HEADER as u64 + 20,
        |_| 5,
    ];
    let check = async |place: fn(&Found) -> u64| {
        let queued = Queued::with(7, 2_000).await;
        posthaste(queued.path(), "spool verify").await.expect(0);
        let found = queued.find(3);
        flip(&found.segment, found.offset + place(&found));

        let named = async || {
            let findings = damages(&posthaste(queued.path(), "spool verify --json").await);
            assert_eq!(findings.len(), 1, "{findings:?}");
            let finding = &findings[0];
            assert_eq!(
                (finding["log"].as_str(), finding["segment"].as_u64()),
                (Some("mail"), Some(found.number))
            );
            assert_eq!(
                (
                    finding["offset"].as_u64(),
                    finding["acknowledged"].as_bool()
                ),
                (Some(found.offset), Some(true))
            );
        };
        named().await;
        let node = queued.all_delivered_but(&[3]).await;
        assert_eq!(node.metric(DAMAGED).await, 1.0);
        let line = node.said("damaged spool").await;
        assert!(
            line.contains(&format!("\"offset\":{}", found.offset)),
            "{line}"
        );
        // New mail goes on as ever.
        node.client()
            .await
            .submit(&["new@example.org"], &message("new", "body"))
            .await;
        queued.gate.host.wait_for(7).await;
        node.stop().await;
        // Even when the segment has been reclaimed with its bytes, it is not forgotten.
        let offenders = posthaste(queued.path(), "audit --json")
            .await
            .expect(1)
            .json();
        let lost: Vec<_> = offenders
            .iter()
            .filter(|row| row["offence"] == "lost")
            .map(|row| &row["message_id"])
            .collect();
        assert_eq!(lost, [queued.ids[3].as_str()], "{offenders:?}");
    };
    tokio::join!(check(places[0]), check(places[1]), check(places[2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_segment_costs_its_messages_only_and_is_reported() {
    let queued = Queued::with(12, 900_000).await;
    let gone = queued.find(5);
    let lost: Vec<usize> = (0..12)
        .filter(|n| queued.find(*n).number == gone.number)
        .collect();
    assert!(
        lost.len() < 6 && !lost.contains(&0) && !lost.contains(&11),
        "{lost:?}"
    );
    std::fs::remove_file(&gone.segment).unwrap();

    let verified = damages(&posthaste(queued.path(), "spool verify --json").await);
    assert_eq!(
        (verified.len(), verified[0]["segment"].as_u64()),
        (1, Some(gone.number)),
        "{verified:?}"
    );
    let node = queued.all_delivered_but(&lost).await;
    assert_eq!(node.metric(DAMAGED).await, 1.0);
    assert!(
        node.said("missing segment")
            .await
            .contains(&format!("\"segment\":{}", gone.number))
    );
    node.stop().await;
}

/// At the ends of the log no neighbour says that a segment is missing; the events do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_or_last_segment_that_is_missing_is_told_of_too() {
    let check = async |message: usize| {
        let queued = Queued::with(12, 900_000).await;
        let gone = queued.find(message);
        let lost: Vec<usize> = (0..12)
            .filter(|n| queued.find(*n).number == gone.number)
            .collect();
        std::fs::remove_file(&gone.segment).unwrap();
        posthaste(queued.path(), "spool verify").await.expect(1);
        let node = queued.all_delivered_but(&lost).await;
        let line = node.said("accepted mail is lost").await;
        assert!(
            line.contains(&format!("\"recipients\":{},", lost.len())),
            "{line}"
        );
        node.stop().await;
    };
    tokio::join!(check(0), check(11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_without_a_readable_header_costs_its_messages_only() {
    let queued = Queued::with(12, 900_000).await;
    let hit = queued.find(5);
    let lost: Vec<usize> = (0..12)
        .filter(|n| queued.find(*n).number == hit.number)
        .collect();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&hit.segment)
        .unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    drop(file);
    posthaste(queued.path(), "spool verify").await.expect(1);
    let node = queued.all_delivered_but(&lost).await;
    assert_eq!(node.metric(DAMAGED).await, 1.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_none_of_ours_disturb_nothing_and_stay() {
    let queued = Queued::with(3, 2_000).await;
    let spool = queued.path().join("data/spool");
    let strangers = [
        "mail/README",
        "mail/0000000000000001.seg~",
        "mail/.hidden",
        "mail/zzzzzzzzzzzzzzzz.seg",
        "mail/1.seg",
        "event/notes.txt",
        "mail/\u{e9}.seg",
        "stranger",
        "../left behind",
    ];
    for name in strangers {
        std::fs::write(spool.join(name), "not a segment\n".repeat(1_000)).unwrap();
    }
    std::fs::create_dir(spool.join("mail/a directory.seg")).unwrap();
    posthaste(queued.path(), "spool verify").await.expect(0);
    let node = queued.all_delivered_but(&[]).await;
    assert_eq!(node.metric(DAMAGED).await, 0.0);
    node.stop().await;
    posthaste(queued.path(), "spool verify").await.expect(0);
    for name in strangers {
        assert!(spool.join(name).exists(), "{name} was removed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_damaged_is_counted_and_mail_is_rather_sent_again_than_lost() {
    let dir = TempDir::new().unwrap();
    // What waits keeps the segment with all messages.
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("waits@") => Answer::line("451 4.7.1 not yet"),
        _ => Answer::Usual,
    })
    .await;
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            host.address
        ),
    );
    let node = NodeProcess::start(dir.path()).await;
    let mut client = node.client().await;
    client
        .submit(&["waits@example.org"], &message("waits", "body"))
        .await;
    for recipient in ["before@example.org", "hit@example.org", "after@example.org"] {
        client
            .submit(&[recipient], &message("delivered", "body"))
            .await;
        // Each in a batch of its own, so that what lies before the last one is known to have been acknowledged.
        let is_it = |event: &Value| event["kind"] == "delivered" && event["recipient"] == recipient;
        eventually("the event to be durable", async || {
            let said = posthaste(dir.path(), "events tail --no-follow --json").await;
            said.expect(0).json().iter().any(is_it).then_some(())
        })
        .await;
    }
    drop(client);
    node.stop().await;

    let segment = dir.path().join("data/spool/event/0000000000000001.seg");
    let bytes = std::fs::read(&segment).unwrap();
    let header = SegmentHeader::decode(&bytes).unwrap();
    let is_hit = |item: &Item<'_>| match item {
        Item::Record(frame) if frame.kind == kind::EVENT => {
            let event = Event::decode(frame.payload).unwrap().unwrap();
            event.kind == EventKind::Delivered && event.recipient == "hit@example.org"
        }
        _ => false,
    };
    let Some(Item::Record(hit)) = scan::tail(&bytes, &header).items().find(is_hit) else {
        panic!("no such event")
    };
    flip(&segment, hit.offset + RECORD_HEADER as u64 + 4);
    let findings = damages(&posthaste(dir.path(), "spool verify --json").await);
    assert_eq!(
        (findings.len(), &findings[0]["log"], &findings[0]["offset"]),
        (1, &"event".into(), &hit.offset.into())
    );

    let node = NodeProcess::start(dir.path()).await;
    assert_eq!(
        node.metric("posthaste_spool_damaged_records_total{log=\"event\"}")
            .await,
        1.0
    );
    let taken = host.wait_for(4).await;
    assert_eq!(taken[3].recipients, ["hit@example.org"]);
    node.stop().await;
}
