//! From a list of hosts to a session that may begin a transaction.
//!
//! Hosts are tried by preference, those of equal preference in random order (RFC 5321 §5.1); of a host, IPv6 and IPv4 take
//! turns, and the second family gets its chance when the first does not answer at once (RFC 8305, in its simplest form). A
//! host that refuses before MAIL is passed over like one that does not answer: no recipient can be blamed for that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::trace::Tap;
use super::{AgentContext, Remote, SessionPlan, transaction};
use crate::config::Source;
use crate::limits;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::route::NextHop;
use crate::smtp::client::driver::{GreetError, connect};
use crate::smtp::client::{
    Avoid, ConnectError, Connection, Dial, Ending, Overhear, Said, Settings, Stage,
};

/// No host let us in: what that means for everyone who waits, and who was tried last.
pub(super) struct Unreached {
    pub(super) outcome: Outcome,
    pub(super) remote: Option<Arc<Remote>>,
}

/// Finds a host that lets us in.
pub(super) async fn reach(
    context: &AgentContext,
    plan: &SessionPlan,
    tap: &Arc<Tap>,
) -> Result<Connection, Unreached> {
    let Some(source) = context.sources.iter().find(|s| s.id == plan.source) else {
        return Err(Unreached {
            outcome: deferred(CauseClass::LocalSystem, "the egress source is gone".into()),
            remote: None,
        });
    };
    let dials = dials(context, plan, source);
    let mut attempts = Attempts::default();
    let mut next = 0;
    while let Some(dial) = dials.get(next) {
        let rival = dials.get(next + 1).filter(|rival| is_rival(dial, rival));
        let (used, connected) = connect_either(dial, rival).await;
        next += used;
        match connected {
            Err((dial, error)) => {
                // What the proxy does not do for one address it does for no other of the family.
                let proxy_failed = matches!(error, ConnectError::Proxy { .. });
                while proxy_failed
                    && dials
                        .get(next)
                        .is_some_and(|d| d.remote.is_ipv4() == dial.remote.is_ipv4())
                {
                    next += 1;
                }
                if tap.listens() {
                    let why = error.to_string();
                    tap.hear(&dial.host, dial.remote, Said::NotConnected(&why));
                }
                attempts.not_connected(dial, error);
            }
            Ok((dial, stream)) => match greet(context, dial, stream, tap).await {
                Ok(connection) => return Ok(connection),
                Err(ending) => attempts.not_let_in(dial, ending),
            },
        }
    }
    Err(attempts.outcome(source))
}

/// Everything to be tried, in order.
fn dials(context: &AgentContext, plan: &SessionPlan, source: &Source) -> Vec<Dial> {
    let settings = Settings {
        ehlo: source.ehlo.as_str().into(),
        starttls: true,
        avoid: Avoid::default(),
        timeouts: Arc::clone(&context.timeouts),
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

/// Of the same host, in the other family.
fn is_rival(a: &Dial, b: &Dial) -> bool {
    a.host == b.host && a.remote.is_ipv4() != b.remote.is_ipv4()
}

type Connected<'a> = Result<(&'a Dial, TcpStream), (&'a Dial, ConnectError)>;

/// Connects to `dial`, or to its rival when that is faster. Says how many of the two are used up.
async fn connect_either<'a>(dial: &'a Dial, rival: Option<&'a Dial>) -> (usize, Connected<'a>) {
    let first = async {
        let stream = connect(dial).await.map_err(|e| (dial, e))?;
        Ok((dial, stream))
    };
    let Some(rival) = rival else {
        return (1, first.await);
    };
    let second = async {
        sleep(limits::CONNECT_HEAD_START).await;
        connect(rival).await.map(|stream| (rival, stream))
    };
    tokio::pin!(first, second);
    tokio::select! {
        biased;
        // Refused before the rival's start, most often: the rival is then tried by itself.
        connected = &mut first => (1, connected),
        connected = &mut second => match connected {
            Ok(won) => (2, Ok(won)),
            Err(_) => (2, first.await),
        },
    }
}

/// The dialogue until MAIL. When STARTTLS fails, once more in clear: encryption was offered, not required.
async fn greet(
    context: &AgentContext,
    dial: &Dial,
    stream: TcpStream,
    tap: &Arc<Tap>,
) -> Result<Connection, Ending> {
    let open = |stream, dial: &Dial| {
        let listener: Arc<dyn Overhear> = Arc::clone(tap) as _;
        Connection::new(stream, dial, context.clock).overheard_by(listener)
    };
    let mut connection = open(stream, dial);
    let why = match connection.greet(&context.tls).await {
        Ok(()) => return Ok(connection),
        Err(GreetError::Tls(why)) => why,
        Err(GreetError::Ended(ending)) if broke_at_starttls(&ending) => ending.to_string(),
        Err(GreetError::Ended(ending)) => return Err(ending),
    };
    drop(connection);
    tracing::debug!(host = %dial.host, remote = %dial.remote, why, "TLS failed, trying in clear");
    let in_clear = Dial {
        settings: Settings {
            starttls: false,
            ..dial.settings.clone()
        },
        ..dial.clone()
    };
    let lost = |_| Ending::Lost { stage: Stage::Tls };
    let stream = connect(&in_clear).await.map_err(lost)?;
    let mut connection = open(stream, &in_clear);
    match connection.greet(&context.tls).await {
        Ok(()) => Ok(connection),
        Err(GreetError::Ended(ending)) => Err(ending),
        Err(GreetError::Tls(_)) => unreachable!("STARTTLS was not to be used"),
    }
}

fn broke_at_starttls(ending: &Ending) -> bool {
    let refused = matches!(ending, Ending::Refused { .. });
    matches!(ending.stage(), Stage::StartTls | Stage::Tls) && !refused
}

/// What was tried in vain. The last one is told; all together decide.
#[derive(Default)]
struct Attempts {
    count: usize,
    /// Hosts that said that they never take mail.
    no_mail: usize,
    last: Option<(Scope, Cause)>,
    remote: Option<Arc<Remote>>,
}

impl Attempts {
    fn not_connected(&mut self, dial: &Dial, error: ConnectError) {
        let class = match error {
            ConnectError::Source { .. } | ConnectError::Proxy { .. } => CauseClass::LocalSystem,
            ConnectError::Remote(_) | ConnectError::TimedOut(_) => CauseClass::Network,
        };
        let cause = Cause::new(class, format!("{}: {error}", named(dial)));
        self.note(dial, (Scope::SiteFromSource, cause));
    }

    fn not_let_in(&mut self, dial: &Dial, ending: Ending) {
        // RFC 7504 §3 and §5: 521 (this host) and 556 (this domain) are final, once every host says so.
        if matches!(&ending, Ending::Refused { reply, .. } if matches!(reply.code, 521 | 556)) {
            self.no_mail += 1;
        }
        let (_, mut cause) = transaction::end(&ending);
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
        }));
    }

    fn outcome(self, source: &Source) -> Unreached {
        let outcome = match self.last {
            None => deferred(
                CauseClass::Network,
                format!(
                    "no host of the site has an address that source {} can reach",
                    source.name
                ),
            ),
            Some((_, mut cause)) if self.no_mail == self.count => {
                cause.class = CauseClass::DomainNoMail;
                Outcome::Bounced {
                    scope: Scope::Site,
                    cause,
                }
            }
            Some((scope, cause)) => Outcome::Deferred { scope, cause },
        };
        Unreached {
            outcome,
            remote: self.remote,
        }
    }
}

fn named(dial: &Dial) -> String {
    let remote = dial.remote;
    let through = match &dial.proxy {
        Some(proxy) => format!(" through {proxy}"),
        None => String::new(),
    };
    format!("{} [{}]:{}{through}", dial.host, remote.ip(), remote.port())
}

fn deferred(class: CauseClass, detail: String) -> Outcome {
    Outcome::Deferred {
        scope: Scope::SiteFromSource,
        cause: Cause::new(class, detail),
    }
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
