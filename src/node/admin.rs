//! What operators ask of the running node, answered from the scheduler's own state.
//!
//! Questions travel to the dispatcher as orders and are executed between two of its rounds; addresses and message ids come
//! from the spool's records, which are read on a thread that may block.

mod census;
mod control;
mod outbox;
mod readers;
mod reasons;
mod sources;
mod words;

use std::sync::Arc;

use spool_format::MessageRecord;
use spool_format::layout::kind;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::words::last_word;
use super::check::Checker;
use super::compact::Places;
use super::directives::Directives;
use super::dispatch::Order;
use super::erase::Erasures;
use super::import::Imports;
use super::orders::OrderBook;
use super::policies::Policies;
use super::recover::Progress;
use super::removals::RemovalBook;
use super::routes::Routes;
use super::schedule::Schedule;
use super::trace;
use crate::accept::Accept;
use crate::account::{Accounts, FirstTokens};
use crate::clock::{Clock, UnixMs, rfc3339};
use crate::config::{PoolId, Source};
use crate::deliver::Trace;
use crate::event::{Event, EventKind};
use crate::http::wire;
use crate::http::{
    AdminBackend, AdminError, CensusPage, Command, Hearing, NewDirective, Selection, TraceFilter,
    Upload,
};
use crate::limits;
use crate::mail::{Domain, MessageId};
use crate::queue::{Explanation, Place, QueueRow, Scheduler};
use crate::readers::Reader;
use crate::readers::activity::Activity;
use crate::readers::bounces::Bounces;
use crate::readers::notices;
use crate::readers::statistics::Statistics;
use crate::readers::webhooks::Webhooks;
use crate::spool::Spool;

#[derive(Clone)]
pub(super) struct Backend {
    pub(super) orders: mpsc::Sender<Order>,
    /// Of compaction.
    pub(super) demands: mpsc::Sender<()>,
    pub(super) places: Arc<Places>,
    pub(super) schedule: Arc<Schedule>,
    /// Held while scheduled mail is moved: the events of two moves come in the order in which the scheduler was told.
    pub(super) rescheduling: Arc<tokio::sync::Mutex<()>>,
    pub(super) policies: Arc<Policies>,
    /// Searches of the mail log for senders, at one time.
    pub(super) searches: Arc<Semaphore>,
    pub(super) routes: Arc<Routes>,
    pub(super) accept: Accept,
    pub(super) spool: Arc<Spool>,
    pub(super) hostname: String,
    pub(super) development: bool,
    /// Places of the mail and of the event log that recovery could not read.
    pub(super) damaged: [u64; 2],
    pub(super) started: UnixMs,
    pub(super) pool_names: Vec<Arc<str>>,
    pub(super) source_names: Vec<Arc<str>>,
    /// True once the node has begun to stop.
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) progress: Arc<Progress>,
    pub(super) erasures: Arc<Erasures>,
    pub(super) removals: Arc<RemovalBook>,
    pub(super) bounces: Bounces,
    /// How far notices by mail are.
    pub(super) notices: Arc<notices::Watch>,
    pub(super) statistics: Statistics,
    pub(super) activity: Activity,
    pub(super) webhooks: Arc<Webhooks>,
    pub(super) readers: Arc<[Box<dyn Reader>]>,
    pub(super) imports: Arc<Imports>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) trace: Arc<Trace>,
    pub(super) directives: Arc<Directives>,
    pub(super) orders_book: Arc<OrderBook>,
    /// In the order of their ids.
    pub(super) egress: Arc<[Source]>,
    pub(super) checker: Arc<Checker>,
    pub(super) clock: Clock,
}

impl AdminBackend for Backend {
    fn readiness(&self) -> Result<(), String> {
        if *self.stopping.borrow() {
            return Err("the node is stopping".to_owned());
        }
        if let Some(word) = self.progress.word() {
            return Err(word);
        }
        self.accept.ready().map_err(|refusal| refusal.to_string())
    }

    fn warnings(&self) -> Vec<String> {
        let pressure = self.spool.pressure();
        let warning = pressure.short.then(|| {
            format!(
                "space is short: {} MiB are free, less than {} MiB ([spool] warn_below); archived content is removed before its time",
                pressure.free_bytes >> 20,
                pressure.warn_bytes >> 20
            )
        });
        let warnings = warning.into_iter().chain(self.dns_silent());
        warnings.chain(self.webhooks.warnings()).collect()
    }

    async fn status(&self) -> Result<wire::Status, AdminError> {
        let (counts, queues, sites, connections) = self
            .ask(|s, _| {
                (
                    s.counts(),
                    s.queues() as u64,
                    s.sites() as u64,
                    s.connections() as u64,
                )
            })
            .await?;
        let readiness = self.readiness();
        let logs = [
            ("mail", &self.spool.mail, self.damaged[0]),
            ("event", &self.spool.events, self.damaged[1]),
        ];
        let logs = logs.map(|(name, log, damaged)| {
            let stat = log.stat();
            wire::LogStatus {
                archives: stat.archives,
                archive_bytes: stat.archive_bytes,
                log: name.to_owned(),
                start: stat.start,
                durable: stat.durable,
                segments: stat.segments,
                damaged,
            }
        });
        Ok(wire::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: self.hostname.clone(),
            started_at: rfc3339(self.started),
            ready: readiness.is_ok(),
            reason: readiness.err(),
            development: self.development,
            recipients: wire::Recipients {
                ready: counts.ready as u64,
                deferred: counts.deferred as u64,
                in_flight: counts.in_flight as u64,
            },
            queues,
            sites,
            delivery_connections: connections,
            spool: logs.into(),
            warnings: self.warnings(),
        })
    }

    async fn queues(
        &self,
        after: Option<wire::QueueKey>,
        count_max: usize,
    ) -> Result<Vec<wire::Queue>, AdminError> {
        let after = after
            .map(|key| Ok::<_, AdminError>((self.pool_id(&key.pool)?, key.domain)))
            .transpose()?;
        let rows = self
            .ask(move |s, _| {
                s.list(
                    after
                        .as_ref()
                        .map(|(pool, domain)| (*pool, domain.as_str())),
                    count_max,
                )
            })
            .await?;
        Ok(rows.iter().map(|row| self.queue(row)).collect())
    }

    async fn explain_domain(&self, domain: Domain) -> Result<Vec<wire::Queue>, AdminError> {
        let rows = self
            .ask(move |s, _| s.explain_domain(domain.as_str()))
            .await?;
        Ok(rows.iter().map(|row| self.queue(row)).collect())
    }

    async fn attempts_for(&self, domain: Domain) -> Result<Vec<wire::Reason>, AdminError> {
        let (spool, now) = (Arc::clone(&self.spool), self.clock.unix_ms());
        let search = move || words::attempts_for(&spool, domain.as_str(), now);
        let searched = tokio::task::spawn_blocking(search).await;
        searched.map_err(|e| AdminError::Failed(e.to_string()))
    }

    async fn explain_message(
        &self,
        message: MessageId,
    ) -> Result<Vec<wire::Explanation>, AdminError> {
        let Some(found) = self.find(message).await? else {
            return Ok(Vec::new());
        };
        let everywhere = self.everywhere(message, &found);
        let rows = self
            .ask(move |s, _| {
                let positions = everywhere().into_iter();
                let rows = positions.flat_map(|position| s.explain_message(position));
                rows.collect::<Vec<_>>()
            })
            .await?;
        let last_words = self.last_words(message).await?;
        let explain = |row: &Explanation| {
            let mut explanation = self.explanation(message, &found, row);
            let mine = last_words
                .iter()
                .filter(|(number, _)| *number == row.number);
            let mut told: Vec<_> = mine.map(|(_, reason)| reason.clone()).collect();
            told.drain(..told.len().saturating_sub(limits::ATTEMPTS_TOLD));
            explanation.reasons.extend(told.last().cloned());
            explanation.attempts_told = told;
            explanation
        };
        Ok(rows.iter().map(explain).collect())
    }

    async fn census(&self, page: CensusPage) -> Result<wire::Census, AdminError> {
        self.census_now(page).await
    }

    async fn operate(
        &self,
        command: Command,
        selection: Selection,
    ) -> Result<wire::Affected, AdminError> {
        self.operate_now(command, selection).await
    }

    async fn direct(&self, new: NewDirective) -> Result<wire::Directed, AdminError> {
        self.direct_now(new).await
    }

    async fn resume(
        &self,
        which: Result<u32, Selection>,
        reason: Option<String>,
    ) -> Result<wire::Resumed, AdminError> {
        self.resume_now(which, reason).await
    }

    async fn directives(&self) -> Result<Vec<wire::Directive>, AdminError> {
        self.list_directives().await
    }

    fn trace(&self, filter: TraceFilter) -> Result<Hearing, AdminError> {
        trace::follow(self, filter)
    }

    fn erase(&self, what: &wire::NewErasure) -> Result<wire::Erasure, AdminError> {
        Erasures::begin(self, what)
    }

    fn erasure(&self, id: u64) -> Result<wire::Erasure, AdminError> {
        self.erasures.look(id)
    }

    fn begin_import(&self) -> Result<wire::Import, AdminError> {
        Imports::begin(self)
    }

    fn look_at_import(&self, id: u64) -> Result<wire::Import, AdminError> {
        self.imports.look(id)
    }

    fn end_import(&self, id: u64) -> Result<(), AdminError> {
        self.imports.end(id)
    }

    async fn import(
        &self,
        id: u64,
        message: wire::ImportedMessage,
        content: Upload,
    ) -> Result<wire::Imported, AdminError> {
        self.imports.take(self, id, message, content).await
    }

    async fn sources(&self) -> Result<Vec<wire::Source>, AdminError> {
        self.list_sources().await
    }

    async fn drain_source(
        &self,
        name: String,
        drain: wire::NewDrain,
    ) -> Result<wire::Source, AdminError> {
        self.drain(name, drain).await
    }

    async fn resume_source(&self, name: String) -> Result<wire::Source, AdminError> {
        self.resume(name).await
    }

    async fn check_domain(&self, id: u32) -> Result<wire::Check, AdminError> {
        let domain = self.accounts.load().domain(id).cloned();
        let gone = || AdminError::NotFound("the domain is gone".to_owned());
        let domain = domain.ok_or_else(gone)?;
        let _turn = self.checker.turn().await;
        let findings = self.checker.look_at_domain(&domain).await;
        let name = domain.name.to_string();
        Ok(wire::Check::of(name, &findings, self.clock.unix_ms()))
    }

    async fn check_source(&self, name: String) -> Result<wire::Check, AdminError> {
        let _turn = self.checker.turn().await;
        let findings = self.checker.look_at_source(&name).await;
        let findings = findings.ok_or_else(|| sources::unknown(&name))?;
        Ok(wire::Check::of(name, &findings, self.clock.unix_ms()))
    }

    fn readers(&self) -> Vec<wire::Reader> {
        self.list_readers()
    }

    fn rebuild_reader(&self, name: &str) -> Result<wire::Reader, AdminError> {
        self.rebuild_now(name)
    }

    fn compact(&self) -> Result<bool, AdminError> {
        match self.demands.try_send(()) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(())) => Ok(false),
            Err(mpsc::error::TrySendError::Closed(())) => {
                Err(AdminError::Unavailable("compaction has stopped".to_owned()))
            }
        }
    }
}

/// A message in the spool.
#[derive(Clone)]
struct Found {
    position: u64,
    /// In order of RCPT.
    recipients: Vec<String>,
}

impl Found {
    fn new(position: u64, message: &MessageRecord<'_>) -> Self {
        let paths = message.recipients.iter().map(|r| r.forward_path.to_owned());
        Self {
            position,
            recipients: paths.collect(),
        }
    }
}

impl Backend {
    /// Runs `question` on the scheduler, between two rounds of its owner.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Scheduler, UnixMs) -> T + Send + 'static,
    ) -> Result<T, AdminError> {
        let stopped = || AdminError::Unavailable("the scheduler has stopped".to_owned());
        let (tell, answer) = oneshot::channel();
        let order: Order = Box::new(move |scheduler, now| {
            // Whoever asked may have gone.
            let _ = tell.send(question(scheduler, now));
        });
        self.orders.send(order).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }

    /// Looks a message up by its id: where compaction put it, else where it was accepted.
    async fn find(&self, id: MessageId) -> Result<Option<Found>, AdminError> {
        if let Some(&position) = self.places.of(id.as_bytes()).last()
            && let Ok(record) = self.spool.mail.fetch(position).await
            && let Ok(message) = MessageRecord::decode(&record.payload)
        {
            return Ok(Some(Found::new(position, &message)));
        }
        if let Some(found) = self.find_accepted(id, Some(LONGEST_TRANSACTION_MS)).await? {
            return Ok(Some(found));
        }
        if let Some(found) = self.find_in_events(id).await? {
            return Ok(Some(found));
        }
        // One that was imported is older than its place in the log says.
        self.find_accepted(id, None).await
    }

    /// A message whose record cannot be read, by what was said when it was accepted.
    async fn find_in_events(&self, id: MessageId) -> Result<Option<Found>, AdminError> {
        let spool = Arc::clone(&self.spool);
        let search = move || {
            let accepted_at = id.unix_ms();
            let start = spool
                .events
                .position_before(accepted_at.saturating_sub(LONGEST_TRANSACTION_MS));
            let mut found: Option<Found> = None;
            for (record, _) in spool.events.records_from(start).flatten() {
                let Ok(Some(event)) = Event::decode(&record.payload) else {
                    continue;
                };
                if event.at > accepted_at + LONGEST_TRANSACTION_MS {
                    break;
                }
                if let (EventKind::Accepted, true) = (event.kind, event.message_id == id)
                    && let Some(position) = event.mail_position
                {
                    let found = found.get_or_insert_with(|| Found {
                        position,
                        recipients: Vec::new(),
                    });
                    // In order of RCPT.
                    found.recipients.push(event.recipient.to_owned());
                }
            }
            found
        };
        let searched = tokio::task::spawn_blocking(search).await;
        searched.map_err(|e| AdminError::Failed(e.to_string()))
    }

    /// The id's own time says where in the log to begin and when to give up.
    async fn find_accepted(
        &self,
        id: MessageId,
        longest: Option<UnixMs>,
    ) -> Result<Option<Found>, AdminError> {
        let spool = Arc::clone(&self.spool);
        let search = move || {
            let accepted_at = id.unix_ms();
            let start = spool
                .mail
                .position_before(accepted_at.saturating_sub(LONGEST_TRANSACTION_MS));
            for entry in spool.mail.records_from(start) {
                // Damage is skipped here; reading it again reports nothing new.
                let Ok((record, _)) = entry else { continue };
                if record.kind != kind::MESSAGE {
                    continue;
                }
                let Ok(message) = MessageRecord::decode(&record.payload) else {
                    continue;
                };
                if message.id == *id.as_bytes() {
                    return Some(Found::new(record.position, &message));
                }
                if longest.is_some_and(|ms| message.accepted_unix_ms > accepted_at + ms) {
                    return None;
                }
            }
            None
        };
        tokio::task::spawn_blocking(search)
            .await
            .map_err(|e| AdminError::Failed(e.to_string()))
    }

    /// What attempts for a message's recipients came to, oldest first, as reasons why they still wait.
    async fn last_words(&self, id: MessageId) -> Result<Vec<(u16, wire::Reason)>, AdminError> {
        let spool = Arc::clone(&self.spool);
        let search = move || {
            let start = spool
                .events
                .position_before(id.unix_ms().saturating_sub(LONGEST_TRANSACTION_MS));
            let mut found = Vec::new();
            for (record, _) in spool.events.records_from(start).flatten() {
                let Ok(Some(event)) = Event::decode(&record.payload) else {
                    continue;
                };
                let waits = matches!(event.kind, EventKind::Deferred | EventKind::Ambiguous);
                if event.message_id == id && waits {
                    found.push((event.recipient_number, last_word(&event)));
                }
            }
            found
        };
        let searched = tokio::task::spawn_blocking(search).await;
        searched.map_err(|e| AdminError::Failed(e.to_string()))
    }

    fn pool_id(&self, name: &str) -> Result<PoolId, AdminError> {
        let index = self.pool_names.iter().position(|n| &**n == name);
        index
            .map(|i| PoolId(i as u16))
            .ok_or_else(|| AdminError::Invalid(format!("there is no pool {name:?}")))
    }

    fn pool_name(&self, id: PoolId) -> String {
        self.pool_names
            .get(usize::from(id.0))
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    fn source_name(&self, id: crate::config::SourceId) -> &str {
        self.source_names
            .get(usize::from(id.0))
            .map_or("?", |name| name)
    }

    fn queue(&self, row: &QueueRow) -> wire::Queue {
        wire::Queue {
            pool: self.pool_name(row.pool),
            domain: row.domain.to_string(),
            site: row.site.as_deref().map(str::to_owned),
            ready: row.ready as u64,
            deferred: row.deferred as u64,
            in_flight: row.in_flight as u64,
            oldest_at: row.oldest_accepted.map(rfc3339),
            next_wake_at: row.next_wake.map(rfc3339),
            reasons: self.reasons_of(row),
            ways: row.ways.iter().map(|way| self.way(way)).collect(),
        }
    }

    fn reasons_of(&self, row: &QueueRow) -> Vec<wire::Reason> {
        let mut reasons: Vec<_> = row
            .reasons
            .iter()
            .map(|reason| self.reason(reason))
            .collect();
        if row.scheduled > 0 {
            reasons.push(wire::Reason {
                code: "scheduled".to_owned(),
                sentence: format!(
                    "{} of its recipients are scheduled by their sender for later; `queue retry MESSAGE_ID` sends one now, `queue cancel` withdraws it.",
                    row.scheduled
                ),
                until: None,
            });
        }
        let tried = row.deferred - row.scheduled;
        if tried > 0 {
            reasons.push(wire::Reason {
                code: "deferred".to_owned(),
                sentence: format!(
                    "{} of its recipients were deferred and wait for their next attempt; `queue explain MESSAGE_ID` and `spool show` tell what the remote host said.",
                    tried
                ),
                until: if row.ready == 0 { row.next_wake.map(rfc3339) } else { None },
            });
        }
        reasons
    }

    fn explanation(&self, id: MessageId, found: &Found, row: &Explanation) -> wire::Explanation {
        let (state, next_attempt_at, since, ahead) = match row.place {
            Place::Ready { ahead } => ("ready", None, None, Some(ahead as u64)),
            Place::Deferred { next_attempt } => {
                ("deferred", Some(rfc3339(next_attempt)), None, None)
            }
            Place::InFlight { since, .. } => ("in_flight", None, Some(rfc3339(since)), None),
            Place::Leaving => ("leaving", None, None, None),
        };
        wire::Explanation {
            message_id: id.to_string(),
            recipient: found
                .recipients
                .get(usize::from(row.number))
                .cloned()
                .unwrap_or_default(),
            recipient_number: row.number,
            pool: self.pool_name(row.pool),
            domain: row.domain.to_string(),
            site: row.site.as_deref().map(str::to_owned),
            state: state.to_owned(),
            attempts: u32::from(row.attempts),
            next_attempt_at,
            since,
            ahead,
            expires_at: rfc3339(row.expires_at),
            reasons: row
                .reasons
                .iter()
                .map(|reason| self.reason(reason))
                .collect(),
            way: Some(self.way(&row.way)),
            attempts_told: Vec::new(),
            release: self.release(id, row),
        }
    }
}

/// On standard output, for whoever started a development node; shown this once.
#[expect(
    clippy::print_stdout,
    reason = "DESIGN §5: the tokens are printed on standard output, one per line"
)]
pub(super) fn print_first_tokens(tokens: &FirstTokens) {
    println!("server token: {}", tokens.server);
    println!("account token: {}", tokens.account);
}

/// A message's id is as old as its transaction, its record as young as the final dot.
const LONGEST_TRANSACTION_MS: UnixMs = 2 * 3_600_000;
