//! One look-up of a domain at a time, and a failed one counts for all who ask soon after.
//!
//! A domain has a queue for each pool, stream and source, and each asks for its own route. Answers are in the resolver's cache;
//! failures are not, so a name server in trouble would get every question as often as there are queues, and each would wait for
//! its time-outs. Remembered for less than a queue waits before it asks again (RFC 2308 §7 allows five minutes).

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::Route;
use crate::clock::{Clock, UnixMs};
use crate::limits;
use crate::mail::Domain;
use crate::outcome::Cause;

/// The last failure of a domain, held while it is being looked up.
type Failure = Arc<tokio::sync::Mutex<Option<(UnixMs, Cause)>>>;

pub(super) struct Shared {
    clock: Clock,
    domains: Mutex<Domains>,
}

#[derive(Default)]
struct Domains {
    known: FxHashMap<Domain, Failure>,
    /// When those that are old were last looked for.
    swept_at: UnixMs,
}

impl Shared {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            domains: Mutex::default(),
        }
    }

    /// What `look_up` says, or what it said a moment ago if that was no answer.
    /// # Cancel safety
    /// Dropping the future lets the next one ask.
    pub(super) async fn resolve(
        &self,
        domain: &Domain,
        look_up: impl Future<Output = Route>,
    ) -> Route {
        let Some(failure) = self.failure_of(domain) else {
            return look_up.await;
        };
        let mut failed = failure.lock().await;
        if let Some((until, cause)) = &*failed
            && *until > self.clock.unix_ms()
        {
            return Route::Defer {
                cause: cause.clone(),
            };
        }
        let route = look_up.await;
        *failed = match &route {
            Route::Defer { cause } => {
                let until = self.clock.unix_ms() + limits::DNS_FAILURE_MEMORY.as_millis() as u64;
                Some((until, cause.clone()))
            }
            _ => None,
        };
        route
    }

    /// `None`: too many are remembered.
    fn failure_of(&self, domain: &Domain) -> Option<Failure> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = domains.known.get(domain) {
            return Some(Arc::clone(known));
        }
        let now = self.clock.unix_ms();
        let full = domains.known.len() >= limits::DNS_FAILURES_MAX;
        if full && domains.swept_at + SWEEP_MS <= now {
            domains.swept_at = now;
            domains.known.retain(|_, failure| {
                let fresh = |failed: &Option<(UnixMs, Cause)>| {
                    failed.as_ref().is_some_and(|(until, _)| *until > now)
                };
                // What is being looked up is locked.
                failure.try_lock().map_or(true, |failed| fresh(&failed))
            });
        }
        if domains.known.len() >= limits::DNS_FAILURES_MAX {
            return None;
        }
        let new = Failure::default();
        domains.known.insert(domain.clone(), Arc::clone(&new));
        Some(new)
    }
}

/// Between two looks for old ones while the memory is full.
const SWEEP_MS: UnixMs = 1_000;
