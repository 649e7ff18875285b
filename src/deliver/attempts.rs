//! Which addresses a session tries, in which order, and what it means when none lets us in.
//!
//! Deliberately does not know sockets: `connect.rs` does what is planned here, and so does the simulation.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{RecipientResult, Remote, SessionPlan, transaction};
use crate::classify::{Judge, Rules};
use crate::config::{Source, Timeouts};
use crate::limits;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::queue::Trouble;
use crate::route::NextHop;
use crate::smtp::client::{Avoid, ConnectError, Dial, Ending, Settings};

/// No host let us in: what that means for everyone who waits, and who was tried last.
pub struct Unreached {
    /// Of each recipient.
    pub outcome: Outcome,
    /// Of the session.
    pub failure: (Scope, Cause),
    /// What it says of the source.
    pub trouble: Option<Trouble>,
    pub remote: Option<Arc<Remote>>,
}

impl Unreached {
    pub(super) fn deferred(cause: Cause, remote: Option<Arc<Remote>>) -> Self {
        let scope = Scope::SiteFromSource;
        Self {
            outcome: Outcome::Deferred {
                scope,
                cause: cause.clone(),
            },
            failure: (scope, cause),
            trouble: None,
            remote,
        }
    }
}

/// Everything to be tried, in order.
pub fn dials(timeouts: &Arc<Timeouts>, plan: &SessionPlan, source: &Source) -> Vec<Dial> {
    let settings = Settings {
        ehlo: source.ehlo.as_str().into(),
        starttls: true,
        avoid: Avoid::default(),
        timeouts: Arc::clone(timeouts),
    };
    let mut hosts: Vec<&NextHop> = plan.hosts.iter().collect();
    // The session's number is the seed: no two sessions begin alike, and a test can repeat what it saw.
    fastrand::Rng::with_seed(plan.session.0).shuffle(&mut hosts);
    hosts.sort_by_key(|host| host.preference);
    let mut dials = Vec::new();
    for host in hosts {
        for address in alternating(&host.addresses) {
            let from = match address {
                IpAddr::V4(_) => source.v4.map(IpAddr::V4),
                IpAddr::V6(_) => source.v6.map(IpAddr::V6),
            };
            let avoid = plan.avoid.iter().find(|(at, _)| *at == address);
            if let Some(from) = from {
                dials.push(Dial {
                    remote: SocketAddr::new(address, host.port),
                    source: from,
                    proxy: source.proxy.clone(),
                    host: Arc::clone(&host.name),
                    settings: Settings {
                        avoid: avoid.map_or_else(Avoid::default, |(_, avoid)| *avoid),
                        ..settings.clone()
                    },
                });
            }
        }
    }
    dials.truncate(limits::ADDRESSES_TRIED);
    dials
}

/// The families by turns, beginning with the first address's.
fn alternating(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let of = |first: bool| {
        addresses
            .iter()
            .copied()
            .filter(move |a| (a.is_ipv6() == first_is_v6) == first)
    };
    let (mut ours, mut others) = (of(true), of(false));
    let mut out = Vec::with_capacity(addresses.len());
    loop {
        let pair = (ours.next(), others.next());
        out.extend(pair.0);
        out.extend(pair.1);
        if pair == (None, None) {
            return out;
        }
    }
}

/// What was tried in vain. The last one is told; all together decide.
#[derive(Default)]
pub struct Attempts {
    /// By which what hosts say is judged; without, by the table of codes.
    rules: Option<Arc<Rules>>,
    count: usize,
    /// Hosts that said that they never take mail.
    no_mail: usize,
    /// Failures that are the source's own.
    own: usize,
    own_kind: Option<Trouble>,
    /// Hosts that said no.
    answered: usize,
    last: Option<(Scope, Cause)>,
    remote: Option<Arc<Remote>>,
}

impl Attempts {
    pub fn judged_by(rules: Arc<Rules>) -> Self {
        Self {
            rules: Some(rules),
            ..Self::default()
        }
    }

    pub fn not_connected(&mut self, dial: &Dial, error: ConnectError) {
        let class = match error {
            ConnectError::Source { .. } | ConnectError::Proxy { .. } => CauseClass::LocalSystem,
            ConnectError::Remote(_) | ConnectError::TimedOut(_) => CauseClass::Network,
        };
        let own = match error {
            ConnectError::Source { .. } => Some(Trouble::Missing),
            ConnectError::Proxy { at_all: true, .. } => Some(Trouble::Proxy),
            _ => None,
        };
        self.own += usize::from(own.is_some());
        self.own_kind = own.or(self.own_kind);
        let cause = Cause::new(class, format!("{}: {error}", named(dial)));
        self.note(dial, (Scope::SiteFromSource, cause));
    }

    pub fn not_let_in(&mut self, dial: &Dial, ending: &Ending) {
        // RFC 7504 §3 and §5: 521 (this host) and 556 (this domain) are final, once every host says so.
        if matches!(ending, Ending::Refused { reply, .. } if matches!(reply.code, 521 | 556)) {
            self.no_mail += 1;
        }
        self.answered += usize::from(matches!(ending, Ending::Refused { .. }));
        let judge = Judge {
            rules: self.rules.as_deref(),
            host: &dial.host,
        };
        let (_, mut cause) = transaction::end(ending, judge);
        cause.detail = format!("{}: {}", named(dial), cause.detail);
        self.note(dial, (Scope::SiteFromSource, cause));
    }

    fn note(&mut self, dial: &Dial, failure: (Scope, Cause)) {
        self.count += 1;
        self.last = Some(failure);
        self.remote = Some(Arc::new(Remote {
            name: Arc::clone(&dial.host),
            address: dial.remote,
            tls: None,
            dsn: false,
        }));
    }

    pub fn outcome(self, source: &Source) -> Unreached {
        let remote = self.remote;
        let Some((_, mut cause)) = self.last else {
            let detail = format!(
                "no host of the site has an address that source {} can reach",
                source.name
            );
            return Unreached::deferred(Cause::new(CauseClass::Network, detail), remote);
        };
        if self.no_mail == self.count {
            cause.class = CauseClass::DomainNoMail;
            let scope = Scope::Site;
            return Unreached {
                outcome: Outcome::Bounced {
                    scope,
                    cause: cause.clone(),
                },
                failure: (scope, cause),
                trouble: None,
                remote,
            };
        }
        match self.own_kind {
            // Nobody was asked: another source may try at once.
            own @ Some(_) if self.own == self.count => Unreached {
                outcome: Outcome::NotAttempted,
                failure: (Scope::Source, cause),
                trouble: own,
                remote,
            },
            own => {
                let refused = match self.answered {
                    0 => Trouble::Unanswered,
                    _ => Trouble::Refused,
                };
                Unreached {
                    trouble: own.is_none().then_some(refused),
                    ..Unreached::deferred(cause, remote)
                }
            }
        }
    }
}

/// What a report says of the source. `trouble`: no host let us in; `failure`: why the session ended.
pub fn trouble_of<'a>(
    trouble: Option<Trouble>,
    failure: Option<&'a Cause>,
    results: &'a [RecipientResult],
) -> Option<(Trouble, &'a Cause)> {
    if let Some(said) = trouble.zip(failure) {
        return Some(said);
    }
    // Let in, and then refused for what it is, whoever the recipient.
    let mut last = None;
    for result in results {
        match &result.outcome {
            Outcome::NotAttempted => {}
            Outcome::Deferred { scope, cause } | Outcome::Bounced { scope, cause }
                if *scope == Scope::SiteFromSource && is_of_source(cause.class) =>
            {
                last = Some(cause);
            }
            _ => return None,
        }
    }
    last.map(|cause| (Trouble::Refused, cause))
}

/// Said of the source's address, not of its pace.
fn is_of_source(class: CauseClass) -> bool {
    matches!(
        class,
        CauseClass::Blocklisted | CauseClass::PtrRequired | CauseClass::Reputation
    )
}

fn named(dial: &Dial) -> String {
    let remote = dial.remote;
    let through = match &dial.proxy {
        Some(proxy) => format!(" through {proxy}"),
        None => String::new(),
    };
    format!("{} [{}]:{}{through}", dial.host, remote.ip(), remote.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns() {
        let parse = |text: &str| -> Vec<IpAddr> {
            text.split_whitespace()
                .map(|a| a.parse().unwrap())
                .collect()
        };
        let check = |given: &str, expected: &str| {
            assert_eq!(alternating(&parse(given)), parse(expected), "{given}");
        };
        check("::1 ::2 ::3 1.1.1.1", "::1 1.1.1.1 ::2 ::3");
        check("1.1.1.1 2.2.2.2 ::1", "1.1.1.1 ::1 2.2.2.2");
        check("1.1.1.1", "1.1.1.1");
        check("", "");
    }
}
