//! MX look-up by RFC 5321 §5.1, null MX by RFC 7505.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, lookup};
use tokio::task::JoinSet;

use super::trouble::Pulse;
use super::{NextHop, Route, Router, site};
use crate::clock::Clock;
use crate::limits;
use crate::mail::Domain;
use crate::outcome::{Cause, CauseClass};

/// What the DNS said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup<T> {
    Found {
        values: Vec<T>,
        valid_for: Duration,
    },
    /// The name exists, without such records.
    Nothing,
    NoSuchName,
    /// No usable answer: SERVFAIL, time-out, refusal.
    Failed(String),
}

/// Asks the name servers, and notes whether anybody answers.
#[derive(Clone)]
pub(super) struct Resolver {
    resolver: TokioResolver,
    pub(super) pulse: Arc<Pulse>,
    clock: Clock,
}

impl Resolver {
    pub(super) fn new(resolver: TokioResolver, clock: Clock) -> Self {
        Self {
            resolver,
            pulse: Arc::default(),
            clock,
        }
    }
}

/// What a domain's MX records come to.
#[derive(Debug, PartialEq, Eq)]
enum Exchanges {
    /// By preference, at most [`limits::MX_HOSTS_USED`].
    Hosts(Vec<(u16, String)>),
    /// RFC 7505: the domain takes no mail.
    NullMx,
    /// We are the best host ourselves.
    Loop,
    TooMany,
}

impl Router {
    pub(super) async fn by_mx(&self, domain: &Domain) -> Route {
        let (exchanges, valid_for) = match self.mx(domain.as_str()).await {
            Lookup::Found { values, valid_for } => {
                (select(values, &self.settings.own_names), valid_for)
            }
            // RFC 5321 §5.1: no MX, so the domain itself, as if with preference 0.
            Lookup::Nothing => {
                let implicit = vec![(0, domain.as_str().to_owned())];
                (
                    select(implicit, &self.settings.own_names),
                    limits::ROUTE_TTL_MAX,
                )
            }
            Lookup::NoSuchName => return no_such_domain(domain),
            Lookup::Failed(why) => return failed(domain, &why),
        };
        match exchanges {
            Exchanges::Hosts(hosts) => self.reach(domain, hosts, valid_for).await,
            Exchanges::NullMx => bounce(
                CauseClass::DomainNoMail,
                format!("5.1.10 {domain} has a null MX: it takes no mail"),
            ),
            Exchanges::Loop => bounce(
                CauseClass::RoutingLoop,
                format!("5.4.6 mail for {domain} would come back to this host: its best MX is us"),
            ),
            Exchanges::TooMany => failed(
                domain,
                &format!("more than {} MX records", limits::MX_RECORDS_MAX),
            ),
        }
    }

    /// Looks up the addresses of all hosts at once.
    async fn reach(
        &self,
        domain: &Domain,
        exchanges: Vec<(u16, String)>,
        mut valid_for: Duration,
    ) -> Route {
        let site_key = site::key(exchanges.iter().map(|(_, name)| (name.as_str(), 25)), 25);
        let mut lookups = JoinSet::new();
        for (place, (_, name)) in exchanges.iter().enumerate() {
            let (resolver, name) = (self.resolver.clone(), name.clone());
            let families = (self.settings.v4, self.settings.v6);
            lookups.spawn(async move { (place, addresses(&resolver, &name, families).await) });
        }
        // By place, so that the order of preference stays.
        let mut answers = BTreeMap::new();
        while let Some(done) = lookups.join_next().await {
            match done {
                Ok((place, answer)) => drop(answers.insert(place, answer)),
                Err(panic) => return failed(domain, &panic.to_string()),
            }
        }
        let mut hosts = Vec::new();
        let (mut private, mut trouble, mut absent) = (None, None, Vec::new());
        for ((preference, name), answer) in exchanges.into_iter().zip(answers.into_values()) {
            match answer {
                Lookup::Found {
                    mut values,
                    valid_for: ttl,
                } => {
                    let refused = values.iter().find(|a| !self.may_reach(**a)).copied();
                    values.retain(|a| self.may_reach(*a));
                    if let (true, Some(address)) = (values.is_empty(), refused) {
                        private = Some(format!("{name} has the private address {address}"));
                        continue;
                    }
                    valid_for = valid_for.min(ttl);
                    hosts.push(NextHop {
                        name: Arc::from(name),
                        preference,
                        port: self.settings.port,
                        addresses: values,
                    });
                }
                Lookup::Failed(why) => trouble = Some(format!("{name}: {why}")),
                Lookup::Nothing => absent.push((name, "has no address")),
                Lookup::NoSuchName => absent.push((name, "does not exist")),
            }
        }
        if let Some(ours) = self.drop_own(&mut hosts) {
            return bounce(
                CauseClass::RoutingLoop,
                format!(
                    "5.4.6 mail for {domain} would come back to this host: its best MX {ours} is us"
                ),
            );
        }
        if !hosts.is_empty() {
            return Route::Hosts {
                site_key,
                hosts: hosts.into(),
                valid_for: valid_for.clamp(limits::ROUTE_TTL_MIN, limits::ROUTE_TTL_MAX),
            };
        }
        for (name, _) in &absent {
            if trouble.is_some() {
                break;
            }
            trouble = self.mendable(name).await;
        }
        match (trouble, private) {
            (Some(why), _) => failed(domain, &why),
            (None, Some(why)) => bounce(
                CauseClass::Dns,
                format!("5.4.4 {domain} leads to where DNS may not lead: {why}"),
            ),
            // RFC 5321 §5.1: MX records of which none is usable are an error to be reported.
            (None, None) => bounce(
                CauseClass::Dns,
                format!(
                    "5.4.4 no mail host of {domain} can be reached: {}",
                    said_of(&absent)
                ),
            ),
        }
    }

    /// RFC 5321 §5.1, by address: a host where this node takes mail is us under another name, so that hosts of its preference
    /// and worse are left out. That host, if none is left.
    fn drop_own(&self, hosts: &mut Vec<NextHop>) -> Option<String> {
        let own = |host: &NextHop| {
            let at = |&ip: &IpAddr| SocketAddr::new(ip, host.port);
            host.addresses.iter().map(at).find(|at| self.is_own(*at))
        };
        let ours = hosts.iter().filter_map(|host| {
            let at = own(host)?;
            Some((host.preference, format!("{} [{}]", host.name, at.ip())))
        });
        let (preference, name) = ours.min()?;
        hosts.retain(|host| host.preference < preference);
        hosts.is_empty().then_some(name)
    }

    fn is_own(&self, at: SocketAddr) -> bool {
        self.settings.own_sockets.iter().any(|own| {
            let everywhere = own.ip().is_unspecified() && own.is_ipv4() == at.is_ipv4();
            own.port() == at.port()
                // Whether an address is this machine's is what a socket on it tells.
                && (own.ip() == at.ip()
                    || everywhere && UdpSocket::bind(SocketAddr::new(at.ip(), 0)).is_ok())
        })
    }

    async fn mx(&self, domain: &str) -> Lookup<(u16, String)> {
        ask(&self.resolver, domain, RecordType::MX, |data| match data {
            RData::MX(mx) => Some((mx.preference, host_name(&mx.exchange))),
            _ => None,
        })
        .await
    }

    pub(super) async fn addresses(&self, host: &str) -> Lookup<IpAddr> {
        addresses(&self.resolver, host, (self.settings.v4, self.settings.v6)).await
    }
}

/// A and AAAA, as far as a source could use them, IPv6 first.
async fn addresses(resolver: &Resolver, host: &str, (v4, v6): (bool, bool)) -> Lookup<IpAddr> {
    // An exchange is a name (RFC 5321 §5.1); one that looks like an address is a mistake that nobody can look up.
    if host.parse::<IpAddr>().is_ok() {
        return Lookup::NoSuchName;
    }
    let of = |wanted: bool, kind: RecordType| async move {
        match wanted {
            false => Lookup::Nothing,
            true => {
                ask(resolver, host, kind, |data| match data {
                    RData::A(a) => Some(IpAddr::V4(a.0)),
                    RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                    _ => None,
                })
                .await
            }
        }
    };
    let (six, four) = tokio::join!(of(v6, RecordType::AAAA), of(v4, RecordType::A));
    match (six, four) {
        (
            Lookup::Found {
                mut values,
                valid_for,
            },
            Lookup::Found {
                values: more,
                valid_for: other,
            },
        ) => {
            values.extend(more);
            values.truncate(limits::ADDRESSES_PER_HOST);
            Lookup::Found {
                values,
                valid_for: valid_for.min(other),
            }
        }
        (
            Lookup::Found {
                mut values,
                valid_for,
            },
            _,
        )
        | (
            _,
            Lookup::Found {
                mut values,
                valid_for,
            },
        ) => {
            values.truncate(limits::ADDRESSES_PER_HOST);
            Lookup::Found { values, valid_for }
        }
        (Lookup::Failed(why), _) | (_, Lookup::Failed(why)) => Lookup::Failed(why),
        (Lookup::Nothing, _) | (_, Lookup::Nothing) if v4 && v6 => Lookup::Nothing,
        (Lookup::NoSuchName, _) | (_, Lookup::NoSuchName) => Lookup::NoSuchName,
        _ => Lookup::Nothing,
    }
}

pub(super) async fn query<T>(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
    take: impl Fn(&RData) -> Option<T>,
) -> Lookup<T> {
    let Some(fqdn) = fqdn(name) else {
        return Lookup::NoSuchName;
    };
    query_name(resolver, fqdn, kind, take, limits::MX_RECORDS_MAX + 1).await
}

/// Of an answer at most `records_max` values are read.
pub(super) async fn query_name<T>(
    resolver: &TokioResolver,
    name: Name,
    kind: RecordType,
    take: impl Fn(&RData) -> Option<T>,
    records_max: usize,
) -> Lookup<T> {
    said(resolver.lookup(name, kind).await, take, records_max)
}

/// As [`query`], on behalf of mail that waits: an answer, whatever it says, shows that the name servers live.
pub(super) async fn ask<T>(
    resolver: &Resolver,
    name: &str,
    kind: RecordType,
    take: impl Fn(&RData) -> Option<T>,
) -> Lookup<T> {
    let Some(fqdn) = fqdn(name) else {
        return Lookup::NoSuchName;
    };
    resolver.pulse.asked(resolver.clock.instant());
    let answer = resolver.resolver.lookup(fqdn, kind).await;
    if matches!(answer, Ok(_) | Err(NetError::Dns(_))) {
        resolver.pulse.answered();
    }
    said(answer, take, limits::MX_RECORDS_MAX + 1)
}

/// `None`: such a name cannot be in the DNS.
fn fqdn(name: &str) -> Option<Name> {
    let mut fqdn = Name::from_ascii(name).ok()?;
    fqdn.set_fqdn(true);
    Some(fqdn)
}

fn said<T>(
    answer: Result<lookup::Lookup, NetError>,
    take: impl Fn(&RData) -> Option<T>,
    records_max: usize,
) -> Lookup<T> {
    match answer {
        Ok(answer) => found(&answer, take, records_max),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Lookup::NoSuchName,
            // RFC 2308 §2.2: without records, and with name servers instead of an SOA, it is a referral and says nothing.
            ResponseCode::NoError if none.ns.is_some() && none.soa.is_none() => {
                Lookup::Failed("the name server refers to others instead of answering".into())
            }
            ResponseCode::NoError => Lookup::Nothing,
            // threats-and-faults §3: never a bounce from SERVFAIL.
            code => Lookup::Failed(format!("the name server answered {code}")),
        },
        Err(error) => Lookup::Failed(error.to_string()),
    }
}

fn found<T>(
    answer: &lookup::Lookup,
    take: impl Fn(&RData) -> Option<T>,
    records_max: usize,
) -> Lookup<T> {
    let records = answer.answers();
    let ttl = records.iter().map(|r| r.ttl).min().unwrap_or(0);
    // An answer is read as far as it could be used, and no further.
    let values = records.iter().filter_map(|r| take(&r.data));
    let values: Vec<T> = values.take(records_max).collect();
    if values.is_empty() {
        // A CNAME chain that ends without such records.
        return Lookup::Nothing;
    }
    let valid_for = Duration::from_secs(ttl.into());
    Lookup::Found { values, valid_for }
}

/// What the DNS says of hosts that cannot be reached.
fn said_of(absent: &[(String, &str)]) -> String {
    let named = absent.iter().take(limits::HOSTS_NAMED_MAX);
    let named = named.map(|(name, what)| match name.parse::<IpAddr>() {
        Ok(_) => format!("{name} is an address and no name"),
        Err(_) => format!("{name} {what}"),
    });
    named.collect::<Vec<_>>().join(", ")
}

pub(super) fn host_name(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.len() > 1 && text.ends_with('.') {
        text.pop();
    }
    text
}

fn select(mut records: Vec<(u16, String)>, own_names: &[Domain]) -> Exchanges {
    if records.len() > limits::MX_RECORDS_MAX {
        return Exchanges::TooMany;
    }
    // RFC 7505 §3: a null MX beside others is a mistake; the others count.
    records.retain(|(_, name)| name != "." && !name.is_empty());
    if records.is_empty() {
        return Exchanges::NullMx;
    }
    records.sort();
    // RFC 5321 §5.1: when we are one of the hosts, those of our preference and worse would send it back to us.
    let is_own = |name: &str| own_names.iter().any(|own| own.as_str() == name);
    if let Some(ours) = records.iter().filter(|r| is_own(&r.1)).map(|r| r.0).min() {
        records.retain(|(preference, _)| *preference < ours);
    }
    let mut seen = std::collections::HashSet::new();
    records.retain(|(_, name)| seen.insert(name.clone()));
    records.truncate(limits::MX_HOSTS_USED);
    match records.is_empty() {
        true => Exchanges::Loop,
        false => Exchanges::Hosts(records),
    }
}

fn no_such_domain(domain: &Domain) -> Route {
    bounce(
        CauseClass::DomainUnknown,
        format!("5.1.2 the domain {domain} does not exist"),
    )
}

fn bounce(class: CauseClass, detail: String) -> Route {
    Route::Bounce {
        cause: Cause::new(class, detail),
    }
}

fn failed(domain: &Domain, why: &str) -> Route {
    Route::Defer {
        cause: Cause::new(
            CauseClass::Dns,
            format!("4.4.3 the mail hosts of {domain} cannot be looked up: {why}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(records: &[(u16, &str)], expected: Exchanges) {
        let own = [Domain::parse("mta1.example.com").unwrap()];
        let given = records.iter().map(|(p, n)| (*p, (*n).to_owned())).collect();
        assert_eq!(select(given, &own), expected, "{records:?}");
    }

    fn hosts(records: &[(u16, &str)]) -> Exchanges {
        Exchanges::Hosts(records.iter().map(|(p, n)| (*p, (*n).to_owned())).collect())
    }

    #[test]
    fn hosts_are_tried_by_preference() {
        check(&[(20, "b"), (10, "a")], hosts(&[(10, "a"), (20, "b")]));
        check(&[(10, "a"), (20, "a")], hosts(&[(10, "a")]));
    }

    #[test]
    fn a_null_mx_means_no_mail_unless_there_are_others() {
        check(&[(0, ".")], Exchanges::NullMx);
        check(&[(0, "."), (10, "a")], hosts(&[(10, "a")]));
    }

    #[test]
    fn hosts_no_better_than_us_are_dropped() {
        let us = "mta1.example.com";
        check(
            &[(10, "a"), (20, us), (20, "b"), (30, "c")],
            hosts(&[(10, "a")]),
        );
        check(&[(10, us), (10, "a"), (20, "b")], Exchanges::Loop);
        check(&[(0, us)], Exchanges::Loop);
    }

    #[test]
    fn ten_hosts_are_used_and_more_than_fifty_refused() {
        let many =
            |n: u16| -> Vec<(u16, String)> { (0..n).map(|i| (i, format!("mx{i}.test"))).collect() };
        assert!(matches!(select(many(50), &[]), Exchanges::Hosts(h) if h.len() == 10));
        assert_eq!(select(many(51), &[]), Exchanges::TooMany);
    }
}
