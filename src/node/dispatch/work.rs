//! Executing what the scheduler asks for: look-ups, connections, batches, and endings without an attempt.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Dispatcher, Facts, Hosts, closed_inbox, facts_of};
use crate::config::{PoolId, SourceId};
use crate::deliver::{self, Avoid, Errand, SessionPlan};
use crate::event::EventKind;
use crate::limits;
use crate::metrics;
use crate::outcome::{Cause, CauseClass};
use crate::queue::{Batch, QueueId, RouteAnswer, SessionId, SessionState, Withdrawal, Work};
use crate::route::{NextHop, Route};
use crate::spool::AppendError;

impl Dispatcher {
    /// Executes a bounded amount of work; says whether there may be more. A node that stops starts nothing new.
    pub(super) async fn execute_work(&mut self, stopping: bool) -> Result<bool, AppendError> {
        for _ in 0..limits::WORK_PER_ROUND {
            let now = self.parts.clock.unix_ms();
            let full = self.lookups.len() >= limits::COLD_BACKLOG_MAX;
            let work = match (stopping, full) {
                (false, false) => self.parts.scheduler.poll(now),
                (false, true) => self.parts.scheduler.poll_living(now),
                (true, false) => self.parts.scheduler.poll_ended(now),
                (true, true) => None,
            };
            let Some(work) = work else {
                return Ok(!stopping
                    && !full
                    && self
                        .parts
                        .scheduler
                        .poll_timeout()
                        .is_some_and(|at| at <= now));
            };
            match work {
                Work::Resolve {
                    queue,
                    pool,
                    domain,
                } => self.resolve(queue, pool, domain),
                Work::Open {
                    session,
                    source,
                    site_key,
                    first,
                    ..
                } => self.open(session, source, &site_key, first),
                Work::Deliver { session, batch } => self.deliver(session, batch),
                Work::Close { session } => {
                    if let Some(inbox) = self.sessions.get_mut(&session) {
                        *inbox = closed_inbox();
                    }
                }
                Work::Expire {
                    position,
                    number,
                    attempts,
                } => {
                    let facts = Facts {
                        cause: CauseClass::Expired.as_str(),
                        detail: "The age limit was reached before the message could be delivered (5.4.7).".into(),
                        attempts,
                        ..Facts::default()
                    };
                    self.record(EventKind::Expired, position, None, number, facts)
                        .await?;
                }
                Work::Unroutable {
                    position,
                    number,
                    attempts,
                    cause,
                } => {
                    let facts = Facts {
                        attempts,
                        ..facts_of(&cause)
                    };
                    self.record(EventKind::Bounced, position, None, number, facts)
                        .await?;
                }
                Work::Withdrawn {
                    position,
                    number,
                    attempts,
                    how,
                    why,
                } => {
                    let (kind, cause, detail) = match how {
                        Withdrawal::Bounce => {
                            let detail = "Bounced by the operator.";
                            (EventKind::Bounced, CauseClass::Admin, detail)
                        }
                        Withdrawal::Cancel => {
                            let detail = "Cancelled by the operator.";
                            (EventKind::Cancelled, CauseClass::Admin, detail)
                        }
                        Withdrawal::Recall => {
                            let detail = "Cancelled by its sender before its release.";
                            (EventKind::Cancelled, CauseClass::Sender, detail)
                        }
                    };
                    let facts = Facts {
                        cause: cause.as_str(),
                        detail: match why {
                            Some(why) => format!("{detail} Reason: {why}").into(),
                            None => detail.into(),
                        },
                        attempts,
                        ..Facts::default()
                    };
                    self.record(kind, position, None, number, facts).await?;
                }
            }
        }
        Ok(true)
    }

    fn resolve(&mut self, queue: QueueId, pool: PoolId, domain: Arc<str>) {
        let routes = Arc::clone(&self.parts.routes);
        self.resolving.spawn(async move {
            // In a task of its own: every question is answered, also when the resolver panics.
            let found = tokio::spawn(async move { routes.resolve(pool, &domain).await }).await;
            let route = found.unwrap_or_else(|error| {
                let detail = format!("The look-up of the route failed in the program: {error}.");
                Route::Defer {
                    cause: Cause::new(CauseClass::LocalSystem, detail),
                }
            });
            (queue, route)
        });
    }

    pub(super) fn routed(&mut self, queue: QueueId, route: Route) {
        let now = self.parts.clock.unix_ms();
        let result = match &route {
            Route::Hosts { .. } => "ok",
            Route::Defer { .. } => "temporary",
            Route::Bounce { .. } => "permanent",
        };
        metrics::ROUTES.add_to(result, 1);
        let answer = match route {
            Route::Hosts {
                site_key,
                hosts,
                valid_for,
            } => {
                let names = hosts.iter().map(|host| &*host.name);
                let provider = self.parts.shaping.provider_of(names);
                let valid_until = now + valid_for.as_millis() as u64;
                // Amortised: a sweep for as many insertions as it keeps entries, so the map stays within twice the live sites.
                if self.hosts.len() >= self.hosts_swept_at {
                    self.hosts.retain(|_, hosts| hosts.valid_until > now);
                    self.hosts_swept_at = (2 * self.hosts.len()).max(HOSTS_SWEEP_MIN);
                }
                // A second longer than the scheduler believes it, so that what it opens now still finds its hosts.
                self.hosts.insert(
                    Arc::clone(&site_key),
                    Hosts {
                        hops: hosts,
                        valid_until: valid_until + 1_000,
                    },
                );
                RouteAnswer::Site {
                    key: site_key,
                    valid_until,
                    provider,
                }
            }
            Route::Defer { cause } => RouteAnswer::Defer {
                cause: Arc::new(cause),
            },
            Route::Bounce { cause } => RouteAnswer::Refused {
                cause: Arc::new(cause),
            },
        };
        self.parts.scheduler.routed(now, queue, answer);
    }

    fn open(&mut self, session: SessionId, source: SourceId, site_key: &str, first: Batch) {
        let Some(hosts) = self.hosts.get(site_key) else {
            // Forgotten since: nothing was tried, and the route is asked for again when it has expired.
            self.give_back(session);
            return;
        };
        let hops = Arc::clone(&hosts.hops);
        let (inbox, batches) = mpsc::channel(limits::ERRANDS_PER_SESSION);
        self.sessions.insert(session, inbox);
        let plan = SessionPlan {
            session,
            source,
            avoid: self.to_avoid(&hops),
            hosts: hops,
            first: self.errand(first),
        };
        self.running.spawn(deliver::run_agent(
            Arc::clone(&self.parts.agents),
            plan,
            batches,
        ));
    }

    fn deliver(&mut self, session: SessionId, batch: Batch) {
        let errand = self.errand(batch);
        let inbox = self.sessions.get(&session);
        if inbox.is_none_or(|inbox| inbox.try_send(errand).is_err()) {
            // The agent has just ended; its own report of that is on its way and says Closed.
            let now = self.parts.clock.unix_ms();
            self.parts.scheduler.not_delivered(now, session);
        }
    }

    fn errand(&self, batch: Batch) -> Errand {
        let now = self.parts.clock.unix_ms();
        Errand {
            one_by_one: self.habits.is_isolated(now, batch.position),
            batch,
        }
    }

    /// The addresses of these hosts with which something is avoided.
    fn to_avoid(&self, hosts: &[NextHop]) -> Vec<(IpAddr, Avoid)> {
        let now = self.parts.clock.unix_ms();
        let addresses = hosts.iter().flat_map(|host| &host.addresses);
        let avoided = addresses.map(|&address| (address, self.habits.avoid(now, address)));
        avoided
            .filter(|(_, avoid)| *avoid != Avoid::default())
            .collect()
    }

    fn give_back(&mut self, session: SessionId) {
        let state = SessionState::Closed { site_failure: None };
        let now = self.parts.clock.unix_ms();
        self.parts.scheduler.report(now, session, &[], state);
    }
}

/// Entries of the hosts' map at which expired ones are first looked for.
pub(super) const HOSTS_SWEEP_MIN: usize = 1_024;
