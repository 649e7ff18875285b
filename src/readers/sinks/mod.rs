//! Sinks: events handed on to somebody else's files, logs and message systems, as lines of JSON (`events tail --json`).
//!
//! Promises: every event that a sink's filter takes reaches it at least once, in order, with the same id each time; ids only
//! grow. How far a sink is becomes durable after the target has said that it has the events ([`cursor`]). Sinks are apart: one that is
//! slow or dead delays no other, and holds one batch of memory; what it has not taken yet is in the event log, as long as
//! events are kept. Deliberately no reader with a base: a target that is away for longer than that has lost the difference, which is told.
//!
//! How: a batch is read and encoded on a thread that may block, handed to the target ([`Target::write`]), tried again with growing waits
//! until it is taken, and then the cursor moves.

mod cursor;
mod file;
#[cfg(feature = "kafka")]
mod kafka;
mod local;
mod nats;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spool_format::kind;
use tokio::sync::watch;

use self::cursor::Cursor;
use self::file::JsonFile;
#[cfg(feature = "kafka")]
use self::kafka::Kafka;
use self::local::{Journal, Output, Syslog};
use self::nats::Nats;
use super::row::EventRow;
use super::{NotRebuilt, Reader, Standing, State};
use crate::clock::{Clock, UnixMs};
use crate::config;
use crate::limits;
use crate::metrics;
use crate::spool::{Log, ReadError};

/// A sink at work.
pub struct Sink {
    name: &'static str,
    filter: Filter,
    log: Log,
    clock: Clock,
    cursor: Cursor,
    opened: UnixMs,
    target: tokio::sync::Mutex<Target>,
    seen: Mutex<Seen>,
}

/// What others see of it.
struct Seen {
    position: u64,
    at: UnixMs,
    trouble: Option<String>,
}

/// Which events it takes; an empty set takes all.
struct Filter {
    kinds: HashSet<String>,
    servers: HashSet<String>,
    streams: HashSet<String>,
}

/// One event on its way.
struct Line {
    id: u64,
    kind: &'static str,
    #[cfg_attr(
        not(feature = "kafka"),
        expect(dead_code, reason = "of Kafka's records")
    )]
    at: UnixMs,
    #[cfg_attr(
        not(feature = "kafka"),
        expect(dead_code, reason = "of Kafka's records")
    )]
    message: Option<String>,
    server: Option<String>,
    stream: Option<String>,
    /// Without an end of line.
    json: Vec<u8>,
}

#[derive(Default)]
struct Batch {
    lines: Vec<Line>,
    /// The log behind it.
    next: u64,
    at: UnixMs,
    is_full: bool,
}

enum Target {
    File(JsonFile),
    Output(Output),
    Syslog(Syslog),
    Journal(Journal),
    Nats(Box<Nats>),
    #[cfg(feature = "kafka")]
    Kafka(Box<Kafka>),
}

impl Sink {
    /// Finds where it was. Blocks.
    pub fn open(
        config: &config::Sink,
        hostname: &str,
        data_dir: &Path,
        log: &Log,
        clock: Clock,
    ) -> io::Result<Self> {
        let (cursor, found) = Cursor::open(data_dir, &config.name)?;
        let mut target = Target::new(config, hostname, found.is_some())?;
        let begin = match config.from {
            config::SinkStart::Now => log.durable(),
            config::SinkStart::Start => log.start(),
        };
        let mut position = found.unwrap_or(begin);
        if position > log.durable() {
            tracing::warn!(
                sink = config.name,
                "a sink is ahead of the event log, which is another one: it goes on from where the log ends"
            );
            position = log.durable();
        }
        if position < log.start() && found.is_some() {
            tracing::error!(
                sink = config.name,
                "events went by their time before a sink had them: it goes on with the first that is kept"
            );
        }
        if let Target::File(file) = &mut target
            && let Some(last) = file.last_id()
        {
            if last < log.durable() {
                // What a file has it need not get again: it passes over the last one itself.
                position = position.max(last);
            } else {
                tracing::error!(
                    sink = config.name,
                    "a sink's file is of another event log: events of this one are put behind what it has"
                );
                file.goes_on_from_nothing();
            }
        }
        if found.is_none() {
            // Where it began holds from now on, whenever the first event comes.
            cursor.store(position)?;
        }
        let name = metrics::sink_reader(&config.name);
        Ok(Self {
            // One for each sink of the configuration, once.
            name: Box::leak(name.into_boxed_str()),
            filter: Filter::new(config),
            log: log.clone(),
            clock,
            cursor,
            opened: clock.unix_ms(),
            target: tokio::sync::Mutex::new(target),
            seen: Mutex::new(Seen {
                position,
                at: 0,
                trouble: None,
            }),
        })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Hands on what comes, until `stopping`.
    /// # Cancel safety
    /// Dropping it costs what is under way, which the target gets again.
    pub async fn run(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let work = Arc::clone(&self).follow();
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => {}
            () = work => {}
            () = self.keep_telling() => {}
        }
        let position = self.seen().position;
        if let Err(error) = self.cursor.store(position) {
            tracing::error!(sink = self.name, %error, "how far a sink is cannot be written down: it gets the last events again");
        }
    }

    async fn follow(self: Arc<Self>) {
        let mut watermark = self.log.watch();
        let (mut stored_at, mut stored) = (self.clock.unix_ms(), self.seen().position);
        let mut target = self.target.lock().await;
        loop {
            let began = self.clock.instant();
            let (this, from) = (Arc::clone(&self), self.seen().position);
            let read = tokio::task::spawn_blocking(move || this.read(from)).await;
            let batch = match read {
                Ok(Ok(batch)) => batch,
                Ok(Err(error)) => {
                    tracing::warn!(sink = self.name, %error, "the event log cannot be read now; a sink waits");
                    self.seen().trouble = Some(error.to_string());
                    tokio::time::sleep(limits::READER_RETRY).await;
                    continue;
                }
                // It panicked, which is told; whatever it met is met again.
                Err(_) => {
                    tokio::time::sleep(limits::SINK_RETRY_MAX).await;
                    continue;
                }
            };
            if !batch.lines.is_empty() {
                self.hand_over(&mut target, &batch).await;
            }
            {
                let mut seen = self.seen();
                seen.position = batch.next;
                seen.at = batch.at.max(seen.at);
            }
            let now = self.clock.unix_ms();
            let is_due = now.saturating_sub(stored_at) >= limits::SINK_CURSOR.as_millis() as u64;
            if is_due && batch.next > stored && self.store(batch.next).await {
                (stored_at, stored) = (now, batch.next);
            }
            if batch.is_full {
                continue;
            }
            if let Err(error) = target.rest(now).await {
                tracing::error!(sink = self.name, %error, "a sink's file cannot be rotated; it is tried again");
            }
            let more = tokio::time::timeout(limits::SINK_CURSOR, watermark.changed());
            if let Ok(Err(_)) = more.await {
                return;
            }
            let passed = self.clock.instant().duration_since(began);
            tokio::time::sleep(limits::READER_PACE.saturating_sub(passed)).await;
        }
    }

    /// Until the target has it.
    async fn hand_over(&self, target: &mut Target, batch: &Batch) {
        let mut wait = limits::SINK_RETRY;
        loop {
            match target.write(batch).await {
                Ok(()) => {
                    metrics::SINK_EVENTS.add_to(self.name, batch.lines.len() as u64);
                    self.seen().trouble = None;
                    return;
                }
                Err(error) => {
                    metrics::READER_FAILURES.add_to(self.name, 1);
                    // Once for each trouble, not for each try.
                    if self.seen().trouble.replace(error.to_string()).is_none() {
                        tracing::error!(sink = self.name, %error, "a sink does not take its events; they stay in the event log and are tried again");
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(limits::SINK_RETRY_MAX);
                }
            }
        }
    }

    /// Whether it is durable.
    async fn store(self: &Arc<Self>, position: u64) -> bool {
        let this = Arc::clone(self);
        let stored = tokio::task::spawn_blocking(move || this.cursor.store(position)).await;
        if let Ok(Err(error)) = &stored {
            tracing::error!(sink = self.name, %error, "how far a sink is cannot be written down; it is tried again");
        }
        matches!(stored, Ok(Ok(())))
    }

    /// Also while its target holds it up.
    async fn keep_telling(&self) {
        loop {
            self.tell_lag();
            tokio::time::sleep(limits::SINK_CURSOR).await;
        }
    }

    fn tell_lag(&self) {
        let (position, at) = {
            let seen = self.seen();
            (seen.position, seen.at)
        };
        let lag = self.log.durable().saturating_sub(position);
        metrics::READER_LAG.set_of(self.name, lag as f64);
        let seconds = match lag {
            0 => 0.0,
            // One that has got nothing since the start of the node: at least since then.
            _ => self.clock.unix_ms().saturating_sub(at.max(self.opened)) as f64 / 1_000.0,
        };
        metrics::READER_LAG_SECONDS.set_of(self.name, seconds);
    }

    /// `Err`: all of it is read again later. Blocks.
    fn read(&self, from: u64) -> Result<Batch, ReadError> {
        let mut batch = Batch {
            next: from,
            ..Batch::default()
        };
        let durable = self.log.durable();
        let (mut records, mut octets) = (0, 0);
        for item in self.log.records_from(from) {
            match item {
                Ok((record, next)) => {
                    batch.next = next;
                    if record.kind == kind::EVENT
                        && let Some(row) = EventRow::decode(record.position, &record.payload)
                    {
                        batch.at = row.at_unix_ms;
                        if self.filter.takes(&row) {
                            let line = Line::of(row);
                            octets += line.json.len();
                            batch.lines.push(line);
                        }
                    }
                }
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => {
                    tracing::error!(sink = self.name, %error, "part of the event log cannot be read: a sink does not get it");
                }
            }
            records += 1;
            if records >= limits::READER_BATCH
                || batch.lines.len() >= limits::SINK_BATCH
                || octets >= limits::SINK_BATCH_BYTES
            {
                batch.is_full = true;
                return Ok(batch);
            }
        }
        batch.next = batch.next.max(durable);
        Ok(batch)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader for Sink {
    fn standing(&self) -> Standing {
        let durable = self.log.durable();
        let seen = self.seen();
        Standing {
            name: self.name,
            state: State::Following,
            position: seen.position,
            lag_bytes: durable.saturating_sub(seen.position),
            at: Some(seen.at).filter(|at| *at > 0),
            bytes: None,
            entries: None,
            base: None,
            generation: 0,
            trouble: seen.trouble.clone(),
        }
    }

    fn rebuild(&self) -> Result<(), NotRebuilt> {
        Err(NotRebuilt::Never(
            "a sink keeps nothing: what it has handed on is not its own any more. To send events again, read them: posthaste events tail --json --after ID",
        ))
    }
}

impl Filter {
    fn new(config: &config::Sink) -> Self {
        let set = |names: &[String]| names.iter().cloned().collect();
        Self {
            kinds: set(&config.kinds),
            servers: set(&config.servers),
            streams: set(&config.streams),
        }
    }

    fn takes(&self, row: &EventRow) -> bool {
        let among = |set: &HashSet<String>, name: Option<&str>| {
            set.is_empty() || name.is_some_and(|name| set.contains(name))
        };
        among(&self.kinds, Some(row.kind))
            && among(&self.servers, row.server.as_deref())
            && among(&self.streams, row.stream.as_deref())
    }
}

impl Line {
    fn of(row: EventRow) -> Self {
        // Numbers and texts: nothing in it can fail.
        let json = serde_json::to_vec(&row).unwrap_or_default();
        Self {
            id: row.id,
            kind: row.kind,
            at: row.at_unix_ms,
            message: row.message_id,
            server: row.server,
            stream: row.stream,
            json,
        }
    }

    #[cfg(test)]
    fn only_id(id: u64) -> Self {
        Self {
            id,
            kind: "delivered",
            at: 0,
            message: None,
            server: None,
            stream: None,
            json: format!("{{\"id\":{id}}}").into_bytes(),
        }
    }
}

impl Target {
    /// Blocks.
    fn new(config: &config::Sink, hostname: &str, began: bool) -> io::Result<Self> {
        Ok(match &config.target {
            config::SinkTarget::File(file) => Self::File(JsonFile::open(file)?),
            config::SinkTarget::Stdout => Self::Output(Output::new(began)),
            config::SinkTarget::Syslog { socket } => Self::Syslog(Syslog::new(socket)),
            config::SinkTarget::Journald { socket } => Self::Journal(Journal::new(socket)),
            config::SinkTarget::Nats(nats) => Self::Nats(Box::new(Nats::new(nats, hostname))),
            #[cfg(feature = "kafka")]
            config::SinkTarget::Kafka(kafka) => Self::Kafka(Box::new(Kafka::new(kafka, hostname))),
            // The configuration refuses it.
            #[cfg(not(feature = "kafka"))]
            config::SinkTarget::Kafka(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// `Ok`: it has all of them. `Err`: it may have some, and gets them again.
    async fn write(&mut self, batch: &Batch) -> io::Result<()> {
        match self {
            Self::File(file) => blocking(|| file.write(batch)),
            Self::Output(output) => output.write(batch).await,
            Self::Syslog(syslog) => within(syslog.write(batch)).await,
            Self::Journal(journal) => within(journal.write(batch)).await,
            Self::Nats(nats) => within(nats.write(batch)).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(kafka) => within(kafka.write(batch)).await,
        }
    }

    /// There is nothing more for now.
    async fn rest(&mut self, now: UnixMs) -> io::Result<()> {
        match self {
            Self::File(file) => blocking(|| file.rest(now)),
            _ => Ok(()),
        }
    }
}

/// Work that may block, here: what it borrows cannot leave this task.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A target that does not answer has not taken it.
async fn within(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    match tokio::time::timeout(WRITE, write).await {
        Ok(written) => written,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", WRITE.as_secs()),
        )),
    }
}

const WRITE: Duration = limits::SINK_WRITE;
