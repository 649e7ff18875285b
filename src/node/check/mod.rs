//! Checks of domains and sources: what `crate::check` judges, asked of the name servers.
//!
//! Promises: a check ends within [`limits::CHECK_TIME`], whatever name servers do; lists are asked so often a second and no
//! more, and not again within [`limits::DNSBL_MEMORY`]. Deliberately does not know what a finding means.

mod lists;
mod news;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use spool_format::layout::kind;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use crate::account::{DomainInfo, KeyState, Settings};
use crate::check::{
    self, Answer, Book, DomainWanted, Finding, KeyRole, KeyWanted, Kind, Question,
    ReturnPathWanted, SourceAddress, SourceWanted,
};
use crate::clock::{Clock, UnixMs};
use crate::config::{Config, Proxy, ProxyKind};
use crate::event::{CheckEvent, EventKind};
use crate::limits;
use crate::metrics;
use crate::route::{PolicyFiles, Records};
use crate::spool::Spool;

use lists::Lists;

pub(super) use news::worst as worst_of;

/// What the last check of a source found.
#[derive(Default)]
struct Known {
    lines: Vec<String>,
    changed: Option<UnixMs>,
}

/// What was checked.
#[derive(Clone, Copy)]
enum Of<'a> {
    Domain(&'a str),
    Source(&'a str),
}

/// Asks, judges, keeps and tells. Shared by those who are asked and the timetable.
pub(super) struct Checker {
    spool: Arc<Spool>,
    records: Arc<Records>,
    policies: Arc<PolicyFiles>,
    settings: Arc<Settings>,
    sources: Vec<SourceAddress>,
    zones: Vec<String>,
    lists: Arc<Lists>,
    turns: Semaphore,
    /// What was wrong with sources, by name.
    known: Mutex<BTreeMap<String, Known>>,
    started: UnixMs,
    clock: Clock,
}

impl Checker {
    pub(super) fn new(
        config: &Config,
        settings: Arc<Settings>,
        records: Arc<Records>,
        spool: Arc<Spool>,
        clock: Clock,
    ) -> Self {
        let sources = config.sources().flat_map(|(_, source)| {
            let by_itself = |proxy: &&Arc<Proxy>| proxy.kind == ProxyKind::Socks5;
            let proxy = source.proxy.as_ref().filter(by_itself);
            source.seen_as().map(move |address| SourceAddress {
                source: source.name.to_string(),
                address,
                ehlo: source.ehlo.to_ascii_lowercase(),
                chosen_by: proxy
                    .filter(|_| !source.public.contains(&address))
                    .map(ToString::to_string),
            })
        });
        let zones: Vec<String> = config.dnsbl.zones.iter().map(ToString::to_string).collect();
        let policies = PolicyFiles::new(
            Arc::clone(&records),
            config.delivery.allow_networks.clone(),
            config.tls.ca_file.clone(),
        );
        Self {
            spool,
            records,
            policies: Arc::new(policies),
            settings,
            sources: sources.collect(),
            lists: Arc::new(Lists::new(zones.clone(), clock)),
            zones,
            known: Mutex::default(),
            started: clock.unix_ms(),
            turns: Semaphore::new(limits::CHECKS_AT_ONCE),
            clock,
        }
    }

    /// Checks a domain, keeps what was found, and tells what has changed.
    pub(super) async fn look_at_domain(&self, domain: &DomainInfo) -> Vec<Finding> {
        let wanted = self.wanted(domain);
        let report = self
            .settle(move |book| check::judge_domain(book, &wanted))
            .await;
        let merge = |known: Option<&[String]>| news::kept(known, &report.findings);
        let now = self.clock.unix_ms();
        let noted = (self.settings).note_check(domain, report.spf_permits, now, merge);
        match noted.await {
            Ok(Some((before, now))) => {
                self.tell(Of::Domain(domain.name.as_str()), &before, &now)
                    .await;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(domain = %domain.name, %error, "what a check found cannot be kept");
            }
        }
        report.findings
    }

    /// Checks a source, and tells what has changed since the last time; the first time after a start, what is wrong. `None`: there is
    /// no such source.
    pub(super) async fn look_at_source(&self, name: &str) -> Option<Vec<Finding>> {
        let findings = self.source(name).await?;
        let (before, now) = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.entry(name.to_owned()).or_default();
            let now = news::lines(&known.lines, &findings);
            if known.lines != now {
                known.changed = Some(self.clock.unix_ms());
            }
            (std::mem::replace(&mut known.lines, now.clone()), now)
        };
        let starting = |with: &str| now.iter().filter(|line| line.starts_with(with)).count();
        metrics::SOURCE_ERRORS.set_of(name, starting("error") as f64);
        metrics::SOURCE_LISTINGS.set_of(name, starting("error dnsbl_listed") as f64);
        if before != now {
            self.tell(Of::Source(name), &before, &now).await;
        }
        Some(findings)
    }

    /// As the timetable has it.
    pub(super) async fn look_at_place(&self, place: usize) {
        let name = self.source_names().into_iter().nth(place);
        if let Some(name) = name.map(str::to_owned) {
            self.look_at_source(&name).await;
        }
    }

    /// The names of all sources, which stay as they are.
    pub(super) fn source_names(&self) -> BTreeSet<&str> {
        self.sources.iter().map(|at| at.source.as_str()).collect()
    }

    /// When a check of the source last found something else; before that, the start. `None`: there is no such source.
    pub(super) fn source_changed(&self, place: usize) -> Option<UnixMs> {
        let name = self.source_names().into_iter().nth(place)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = known.get(name).and_then(|known| known.changed);
        Some(changed.unwrap_or(self.started))
    }

    /// A place among the checks that people ask for.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.acquire().await.ok()
    }

    async fn source(&self, name: &str) -> Option<Vec<Finding>> {
        let of_name = |at: &&SourceAddress| at.source == name;
        let addresses = self.sources.iter().filter(of_name);
        let wanted: Vec<SourceWanted> = addresses
            .map(|at| SourceWanted {
                at: at.clone(),
                zones: self.zones.clone(),
            })
            .collect();
        if wanted.is_empty() {
            return None;
        }
        let judge = move |book: &Book| {
            let findings = wanted.iter().map(|one| check::judge_source(book, one));
            findings.flatten().collect()
        };
        Some(self.settle(judge).await)
    }

    /// Whether SPF permits every source for this domain. `Err`: that is not known, and why.
    pub(super) async fn spf_permits(&self, domain: String) -> Result<bool, String> {
        let _turn = self.turns.acquire().await;
        let sources = self.sources.clone();
        self.settle(move |book| check::judge_spf(book, &domain, &sources))
            .await
    }

    async fn tell(&self, of: Of<'_>, before: &[String], now: &[String]) {
        let (level, detail) = (news::worst(now), news::sentence(before, now));
        let (domain, source) = match of {
            Of::Domain(name) => (name, ""),
            Of::Source(name) => ("", name),
        };
        match level {
            "ok" => tracing::info!(domain, source, detail, "a check finds something else"),
            _ => tracing::warn!(domain, source, detail, "a check finds something else"),
        }
        let event = CheckEvent {
            kind: match of {
                Of::Domain(_) => EventKind::DomainChanged,
                Of::Source(_) => EventKind::SourceChanged,
            },
            at: self.clock.unix_ms(),
            domain,
            source,
            detail: &detail,
        };
        let mut buffer = Vec::new();
        event.encode(&mut buffer);
        let parts: [&[u8]; 1] = [&buffer];
        let written = self.spool.events.append_lazy(kind::EVENT, 0, &parts);
        if let Err(error) = written.await {
            tracing::error!(%error, "the event of a check cannot be written");
        }
    }

    fn wanted(&self, domain: &DomainInfo) -> DomainWanted {
        let config = self.settings.config();
        let keys = domain.keys.iter().filter_map(|key| {
            Some(KeyWanted {
                host: domain.dkim_host(key),
                record: key.record(),
                role: match key.state {
                    KeyState::Pending => KeyRole::Pending,
                    KeyState::Active => KeyRole::Active,
                    KeyState::Revoked => return None,
                },
            })
        });
        let attributes = &domain.attributes;
        let own = (!attributes.return_path.is_empty()).then(|| ReturnPathWanted {
            host: attributes.return_path.clone(),
            verified: attributes.return_path_found,
        });
        DomainWanted {
            name: domain.name.to_string(),
            keys: keys.collect(),
            return_path: own,
            bounce_host: config.return_path_host().to_ascii_lowercase(),
            bounce_default: config.bounce.domain.as_ref().map(ToString::to_string),
            sources: self.sources.clone(),
        }
    }

    /// Asks until the judge has what it needs, or time is over.
    async fn settle<T>(&self, judge: impl Fn(&Book) -> T) -> T {
        let end = self.clock.instant() + limits::CHECK_TIME;
        let mut book = Book::default();
        loop {
            match check::settle(&mut book, &judge) {
                Ok(judged) => return judged,
                Err(missing) => self.ask(&mut book, missing, end).await,
            }
        }
    }

    /// Leaves no question without an answer, if only that there was no time for one.
    async fn ask(&self, book: &mut Book, questions: Vec<Question>, end: Instant) {
        let mut waiting = questions.clone().into_iter();
        let mut asking: JoinSet<(Question, Answer)> = JoinSet::new();
        let answers = async {
            loop {
                while asking.len() < limits::CHECK_QUESTIONS_AT_ONCE
                    && let Some(question) = waiting.next()
                {
                    let (records, lists) = (Arc::clone(&self.records), Arc::clone(&self.lists));
                    let policies = Arc::clone(&self.policies);
                    asking.spawn(async move {
                        let answer = match question.kind {
                            Kind::Policy => policies.fetch(&question.name).await,
                            _ => lists.ask(&records, &question, end).await,
                        };
                        (question, answer)
                    });
                }
                let Some(done) = asking.join_next().await else {
                    return;
                };
                if let Ok((question, answer)) = done {
                    count(&answer);
                    book.put(question, answer);
                }
            }
        };
        let _ = tokio::time::timeout_at(end.into(), answers).await;
        for question in questions {
            if !book.has(&question) {
                book.put(question, Answer::Failed("no time was left to ask".into()));
            }
        }
    }
}

fn count(answer: &Answer) {
    let result = match answer {
        Answer::Found(_) => "found",
        Answer::Nothing | Answer::NoSuchName => "nothing",
        Answer::Failed(_) => "failed",
    };
    metrics::CHECK_QUESTIONS.add_to(result, 1);
}
