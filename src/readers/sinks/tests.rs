//! Sinks over a log in memory: what each target has is what the log says, however often it was tried and the node ended.

use std::os::unix::net::UnixDatagram as Receiver;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::config::{Compression, SinkFile, SinkStart, SinkTarget};
use crate::event::{Event, EventKind};
use crate::mail::MessageId;
use crate::readers::tables::tests::{append, spool};
use crate::spool::Spool;

struct World {
    spool: Arc<Spool>,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self {
            spool: spool(Clock::start()),
            dir: TempDir::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, rotate_size: u64, compression: Compression) -> config::Sink {
        named(
            "lines",
            SinkTarget::File(SinkFile {
                path: self.path("events.jsonl"),
                rotate_size,
                rotate_every: None,
                keep: 1_000,
                compression,
            }),
        )
    }

    fn open(&self, config: &config::Sink) -> Arc<Sink> {
        let log = &self.spool.events;
        let sink = Sink::open(config, "mta1.test", self.dir.path(), log, Clock::start());
        Arc::new(sink.unwrap())
    }

    /// Runs it until it has read everything, then ends it as a kill would.
    async fn run(&self, sink: &Arc<Sink>) {
        let (_stop, stopping) = watch::channel(false);
        let run = tokio::spawn(Arc::clone(sink).run(stopping));
        while sink.standing().lag_bytes > 0 {
            tokio::task::yield_now().await;
        }
        run.abort();
        let _ = run.await;
    }

    async fn append(&self, kind: EventKind, server: &'static str) -> u64 {
        let event = Event {
            kind,
            at: 1_772_460_912_000,
            message_id: MessageId::new(1, &[1; 10]),
            recipient: "cy@example.com",
            server,
            stream: "outbound",
            tag: "welcome",
            ..Event::nothing()
        };
        append(&self.spool, &event).await
    }

    /// Ids of the lines of all files, those that were rotated first.
    fn ids(&self) -> Vec<u64> {
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.retain(|path| path.is_file());
        // `-` is before `.`: the one that is written is the last.
        paths.sort();
        let mut ids = Vec::new();
        for path in paths {
            let octets = std::fs::read(&path).unwrap();
            let text = match path.extension().unwrap().to_str().unwrap() {
                "zst" => zstd::decode_all(&octets[..]).unwrap(),
                "gz" => {
                    let mut text = Vec::new();
                    let mut decoder = flate2::read::GzDecoder::new(&octets[..]);
                    io::Read::read_to_end(&mut decoder, &mut text).unwrap();
                    text
                }
                _ => octets,
            };
            for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let line: Value = serde_json::from_slice(line).unwrap();
                assert_eq!(
                    (&line["kind"], &line["tag"]),
                    (&"delivered".into(), &"welcome".into())
                );
                ids.push(line["id"].as_u64().unwrap());
            }
        }
        ids
    }
}

fn named(name: &str, target: SinkTarget) -> config::Sink {
    config::Sink {
        name: name.into(),
        kinds: vec!["delivered".into()],
        servers: vec!["app".into()],
        streams: Vec::new(),
        from: SinkStart::Start,
        target,
    }
}

#[test]
fn the_configuration_knows_every_kind_of_event() {
    let kinds: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(kinds, config::SINK_KINDS);
}

#[tokio::test]
async fn a_file_has_each_event_once_however_the_node_ends_and_the_file_breaks_off() {
    for (rotate_size, compression) in [
        (u64::MAX, Compression::None),
        (1_500, Compression::None),
        (1_500, Compression::Zstd),
        (1, Compression::Gzip),
    ] {
        let world = World::new();
        let config = world.file(rotate_size, compression);
        let mut expected = Vec::new();
        for life in 0..6u64 {
            for _ in 0..3 {
                expected.push(world.append(EventKind::Delivered, "app").await);
                world.append(EventKind::Deferred, "app").await;
                world.append(EventKind::Delivered, "other").await;
            }
            let sink = world.open(&config);
            world.run(&sink).await;
            assert_eq!(world.ids(), expected, "life {life}");
            drop(sink);
            // What a kill and a power cut leave: a cursor from before, and half a line.
            if life % 2 == 0 {
                std::fs::write(world.path("sinks/lines.cursor"), "0\n").unwrap();
                let path = world.path("events.jsonl");
                let mut octets = std::fs::read(&path).unwrap();
                octets.extend_from_slice(b"{\"id\":99999999,\"ki");
                std::fs::write(path, octets).unwrap();
            }
        }
        let files = std::fs::read_dir(world.dir.path()).unwrap().count();
        assert!((rotate_size == u64::MAX) == (files == 2), "{files}");
    }
}

#[tokio::test]
async fn rotated_files_that_are_too_many_go_oldest_first() {
    let world = World::new();
    let mut config = world.file(1, Compression::Zstd);
    if let SinkTarget::File(file) = &mut config.target {
        file.keep = 2;
    }
    let mut ids = Vec::new();
    let sink = world.open(&config);
    for _ in 0..5 {
        ids.push(world.append(EventKind::Delivered, "app").await);
        world.run(&sink).await;
    }
    assert_eq!(world.ids(), ids[3..]);
}

#[tokio::test]
async fn a_new_sink_begins_where_it_is_told_and_goes_on_from_there() {
    let world = World::new();
    world.append(EventKind::Delivered, "app").await;
    let config = config::Sink {
        from: SinkStart::Now,
        ..world.file(u64::MAX, Compression::None)
    };
    // Opened, and stopped before anything came.
    drop(world.open(&config));
    let first = world.append(EventKind::Delivered, "app").await;
    world.run(&world.open(&config)).await;
    assert_eq!(world.ids(), [first]);
}

#[tokio::test]
async fn a_dead_target_delays_no_other_and_gets_what_it_missed_in_order() {
    let world = World::new();
    let socket = world.path("log");
    let syslog = named(
        "syslog",
        SinkTarget::Syslog {
            socket: socket.clone(),
        },
    );
    let (dead, alive) = (
        world.open(&syslog),
        world.open(&world.file(u64::MAX, Compression::None)),
    );
    let (_stop, stopping) = watch::channel(false);
    let run = tokio::spawn(Arc::clone(&dead).run(stopping));
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.append(EventKind::Delivered, "app").await);
    }
    while dead.standing().trouble.is_none() {
        tokio::task::yield_now().await;
    }
    world.run(&alive).await;
    assert_eq!(world.ids(), ids);
    let standing = dead.standing();
    assert!(standing.lag_bytes > 0 && standing.trouble.unwrap().contains("log"));

    let receiver = Receiver::bind(&socket).unwrap();
    let received = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; 8_192];
        let mut receive = || {
            let len = receiver.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        };
        [receive(), receive(), receive()]
    });
    let received = received.await.unwrap();
    for (text, id) in received.iter().zip(&ids) {
        let (head, json) = text.split_once(": ").unwrap();
        assert_eq!(head, format!("<22>posthaste[{}]", std::process::id()));
        let line: Value = serde_json::from_str(json).unwrap();
        assert_eq!(line["id"], *id);
    }
    while dead.standing().lag_bytes > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(dead.standing().trouble, None);
    run.abort();
    let _ = run.await;
}

#[tokio::test]
async fn the_journal_gets_fields_to_look_for() {
    let world = World::new();
    let socket = world.path("journal");
    let receiver = Receiver::bind(&socket).unwrap();
    let id = world.append(EventKind::Delivered, "app").await;
    let sink = world.open(&named("journal", SinkTarget::Journald { socket }));
    world.run(&sink).await;
    let mut buffer = vec![0; 8_192];
    let len = receiver.recv(&mut buffer).unwrap();
    let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
    for line in [
        "PRIORITY=6\n".to_owned(),
        "SYSLOG_IDENTIFIER=posthaste\n".to_owned(),
        format!("POSTHASTE_EVENT_ID={id}\n"),
        "POSTHASTE_KIND=delivered\n".to_owned(),
        "POSTHASTE_SERVER=app\n".to_owned(),
        format!("MESSAGE={{\"id\":{id},"),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    assert!(text.ends_with("}\n"));
}

#[tokio::test]
async fn a_cursor_that_is_none_is_told_and_not_guessed() {
    let world = World::new();
    std::fs::create_dir(world.path("sinks")).unwrap();
    std::fs::write(world.path("sinks/lines.cursor"), "soon").unwrap();
    let config = world.file(u64::MAX, Compression::None);
    let log = &world.spool.events;
    let opened = Sink::open(&config, "mta1.test", world.dir.path(), log, Clock::start());
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("sinks/lines.cursor"), "{error}");
}
