//! `[[pool]]` and `[[route]]`: where mail leaves from and where to. Holds the promise that streams never mix (DESIGN §1.3).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::listeners::on_line;
use super::{Context, is_interface_address};
use crate::config::raw::{RawConfig, RawPool, RawSource};
use crate::config::source::{At, Located};
use crate::config::{
    DomainPattern, Host, Pool, PoolId, Proxy, ProxyKind, ProxyUser, Route, RouteHost, RouteTarget,
    Source, SourceId, StreamKind,
};
use crate::mail::Domain;
use crate::mail::networks::is_private;

/// What is already taken while pools are read: each with its place, to name both lines.
#[derive(Default)]
struct Taken {
    pools: HashMap<String, At>,
    sources: HashMap<String, At>,
    addresses: HashMap<IpAddr, (StreamKind, String, At)>,
    defaults: HashMap<StreamKind, At>,
}

impl Context<'_> {
    pub(super) fn pools(&mut self, raw: &RawConfig, hostname: &str) -> Vec<Pool> {
        let declared = raw.pool.as_deref().unwrap_or_default();
        if declared.is_empty() {
            let at = At {
                line: 0,
                key: "pool".into(),
            };
            self.warn(
                &at,
                "no [[pool]] is declared, so no stream can send: accept refuses all mail",
            );
        }
        let mut taken = Taken::default();
        let mut pools = Vec::new();
        let mut next_source = 0;
        for raw in declared {
            if pools.len() == POOLS_MAX {
                self.problem(&raw.at, format!("more than {POOLS_MAX} pools"));
                break;
            }
            let id = PoolId(pools.len() as u16);
            pools.extend(self.pool(raw, id, hostname, &mut next_source, &mut taken));
        }
        pools
    }

    fn pool(
        &mut self,
        raw: &Located<RawPool>,
        id: PoolId,
        hostname: &str,
        next_source: &mut u16,
        taken: &mut Taken,
    ) -> Option<Pool> {
        let name = self.required(&raw.name, &raw.at, "name");
        let kind = self.required(&raw.kind, &raw.at, "kind");
        let (name, kind) = (name?, kind?);
        if kind.value == StreamKind::Inbound {
            self.problem(
                &kind.at,
                "a pool sends: its kind is \"transactional\" or \"broadcast\"",
            );
        }
        if name.value.starts_with(SANDBOX_POOLS) {
            self.problem(
                &name.at,
                format!("pool names that begin with `{SANDBOX_POOLS}` are the node's own"),
            );
        }
        if let Some(first) = taken.pools.insert(name.value.clone(), name.at.clone()) {
            self.problem(
                &name.at,
                format!(
                    "a pool named `{}` is already declared{}",
                    name.value,
                    on_line(&first)
                ),
            );
        }
        let default = raw.default.as_ref().is_some_and(|d| d.value);
        if let (true, Some(at)) = (default, raw.default.as_ref().map(|d| d.at.clone()))
            && let Some(first) = taken.defaults.insert(kind.value, at.clone())
        {
            self.problem(
                &at,
                format!(
                    "the default {} pool is already declared{}; only one can be",
                    kind.as_str(),
                    on_line(&first)
                ),
            );
        }
        let declared = raw.sources.as_deref().unwrap_or_default();
        if declared.is_empty() {
            let advice = "a pool needs a source: sources = [{ name = \"tx1\", ip = \"192.0.2.10\", ehlo = \"tx1.example.com\" }]; there is no fallback to the system's address";
            self.problem(&raw.at.child("sources"), advice);
        }
        let mut sources = Vec::new();
        for raw in declared {
            if usize::from(*next_source) == SOURCES_MAX {
                self.problem(&raw.at, format!("more than {SOURCES_MAX} sources"));
                break;
            }
            let id = SourceId(*next_source);
            if let Some(source) = self.source(raw, id, kind.value, &name.value, hostname, taken) {
                sources.push(source);
                *next_source += 1;
            }
        }
        Some(Pool {
            id,
            name: name.value.clone(),
            kind: kind.value,
            default,
            sources,
        })
    }

    fn source(
        &mut self,
        raw: &Located<RawSource>,
        id: SourceId,
        kind: StreamKind,
        pool: &str,
        hostname: &str,
        taken: &mut Taken,
    ) -> Option<Source> {
        let name = self.required(&raw.name, &raw.at, "name");
        let ip = self.required(&raw.ip, &raw.at, "ip");
        let (name, ip) = (name?, ip?);
        if let Some(first) = taken.sources.insert(name.value.clone(), name.at.clone()) {
            self.problem(
                &name.at,
                format!(
                    "a source named `{}` is already declared{}",
                    name.value,
                    on_line(&first)
                ),
            );
        }
        let (mut v4, mut v6) = (None, None);
        for address in ip.value.0.iter().map(IpAddr::to_canonical) {
            if !is_interface_address(address) {
                self.problem(&ip.at, format!("{address} is no address that one interface can have; a source is one fixed address"));
            }
            self.check_never_mixed(address, kind, pool, &ip.at, taken);
            match address {
                IpAddr::V4(address) => v4 = Some(address),
                IpAddr::V6(address) => v6 = Some(address),
            }
        }
        let public = self.public_addresses(raw, kind, pool, taken);
        Some(Source {
            id,
            name: name.value.as_str().into(),
            v4,
            v6,
            ehlo: match &raw.ehlo {
                Some(ehlo) => self.host_name(ehlo),
                None => hostname.to_owned(),
            },
            weight: self.number(&raw.weight, 1, 1..=1_000) as u32,
            proxy: self.proxy(raw).map(Arc::new),
            public,
        })
    }

    /// Streams never mix, and least of all where remote hosts see them.
    fn public_addresses(
        &mut self,
        raw: &Located<RawSource>,
        kind: StreamKind,
        pool: &str,
        taken: &mut Taken,
    ) -> Vec<IpAddr> {
        let Some(given) = &raw.public_ip else {
            return Vec::new();
        };
        let addresses = given.value.0.iter().map(IpAddr::to_canonical);
        let addresses: Vec<IpAddr> = addresses.collect();
        for address in &addresses {
            if is_private(*address) || !is_interface_address(*address) {
                self.problem(
                    &given.at,
                    format!("{address} is no address that remote hosts can see; public_ip is the one they do see, such as that of the router"),
                );
            }
            let own = raw.ip.as_ref().map_or(&[][..], |ip| &ip.value.0);
            if !own
                .iter()
                .any(|own| own.to_canonical().is_ipv4() == address.is_ipv4())
            {
                self.problem(
                    &given.at,
                    format!("{address} is of a family that `ip` has no address of"),
                );
            }
            self.check_never_mixed(*address, kind, pool, &given.at, taken);
        }
        addresses
    }

    fn proxy(&mut self, raw: &Located<RawSource>) -> Option<Proxy> {
        let Some(text) = &raw.proxy else {
            let keys = [&raw.proxy_user, &raw.proxy_password];
            for key in keys.into_iter().flatten() {
                self.problem(&key.at, "there is no proxy that it could be for; give proxy = \"socks5://HOST:PORT\" too");
            }
            return None;
        };
        let Some((kind, host, port)) = parse_proxy(&text.value) else {
            let message = format!(
                "`{}` is no proxy; write socks5://192.0.2.1:1080 or haproxy://mta2.example.com:2526",
                text.value
            );
            self.problem(&text.at, message);
            return None;
        };
        let user = match (&raw.proxy_user, &raw.proxy_password) {
            (None, None) => None,
            (Some(name), Some(password)) => {
                if kind == ProxyKind::HaProxy {
                    self.problem(
                        &name.at,
                        "the PROXY protocol knows no users; remove proxy_user and proxy_password",
                    );
                }
                if let Err(message) = judge_socks_word(&name.value) {
                    self.problem(&name.at, message);
                }
                let password = self.secret_that(password, judge_socks_word)?;
                Some(ProxyUser {
                    name: name.value.clone(),
                    password,
                })
            }
            (Some(one), None) | (None, Some(one)) => {
                self.problem(&one.at, "proxy_user and proxy_password go together");
                None
            }
        };
        Some(Proxy {
            kind,
            host,
            port,
            user,
        })
    }

    fn check_never_mixed(
        &mut self,
        address: IpAddr,
        kind: StreamKind,
        pool: &str,
        at: &At,
        taken: &mut Taken,
    ) {
        let holder = (kind, pool.to_owned(), at.clone());
        let (other_kind, other_pool, first) = taken.addresses.entry(address).or_insert(holder);
        if *other_kind != kind {
            let message = format!(
                "{address} belongs to {} pool `{other_pool}`{} and cannot also serve {} pool `{pool}` on line {}: transactional and broadcast mail never share an address; give one of them another",
                other_kind.as_str(),
                on_line(first),
                kind.as_str(),
                at.line
            );
            self.problem(at, message);
        }
    }

    pub(super) fn routes(&mut self, raw: &RawConfig) -> Vec<Route> {
        let routes = raw.route.as_deref().unwrap_or_default();
        let mut resolved: Vec<Route> = Vec::new();
        for raw in routes {
            let domain = self.required(&raw.domain, &raw.at, "domain");
            let hosts = raw.hosts.as_deref().unwrap_or_default();
            if hosts.is_empty() {
                self.problem(&raw.at.child("hosts"), "a route needs at least one host: hosts = [\"192.0.2.1\", \"mx.example.com:2525\"]");
            }
            let hosts = hosts.iter().filter_map(|h| self.route_host(h)).collect();
            let Some(domain) = domain else { continue };
            let Some(pattern) = pattern(domain) else {
                let advice = "is no domain; write example.com, *.example.com or *";
                self.problem(&domain.at, format!("`{}` {advice}", domain.value));
                continue;
            };
            if resolved
                .iter()
                .any(|r| r.pattern == pattern || r.pattern == DomainPattern::Any)
            {
                self.warn(
                    &raw.at,
                    "this route is never used: an earlier one matches the same domains first",
                );
            }
            let target = RouteTarget::Hosts(hosts);
            resolved.push(Route { pattern, target });
        }
        resolved
    }

    fn route_host(&mut self, text: &Located<String>) -> Option<RouteHost> {
        let host = parse_route_host(text);
        if host.is_none() {
            let message = format!(
                "`{}` is no host; write 192.0.2.1:2526, [2001:db8::1]:25, mx.example.com or mx.example.com:2525",
                text.value
            );
            self.problem(&text.at, message);
        }
        host
    }
}

fn pattern(text: &str) -> Option<DomainPattern> {
    if text == "*" {
        return Some(DomainPattern::Any);
    }
    match text.strip_prefix("*.") {
        Some(parent) => Domain::parse(parent).ok().map(DomainPattern::Below),
        None => Domain::parse(text).ok().map(DomainPattern::Exact),
    }
}

fn judge_socks_word(word: &str) -> Result<(), String> {
    match word.len() {
        1..=SOCKS_WORD_MAX => Ok(()),
        _ => Err(format!(
            "user and password of a SOCKS5 proxy have 1 to {SOCKS_WORD_MAX} octets (RFC 1929)"
        )),
    }
}

fn parse_proxy(text: &str) -> Option<(ProxyKind, String, u16)> {
    let kinds = [ProxyKind::Socks5, ProxyKind::HaProxy];
    let (kind, authority) = kinds
        .iter()
        .find_map(|kind| Some((*kind, text.strip_prefix(kind.scheme())?)))?;
    let (host, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let address: std::net::Ipv6Addr = rest.strip_suffix(']')?.parse().ok()?;
            address.to_string()
        }
        None if host.parse::<std::net::Ipv4Addr>().is_ok() => host.to_owned(),
        None => Domain::parse(host).ok()?.to_string(),
    };
    Some((kind, host, port))
}

fn parse_route_host(text: &str) -> Option<RouteHost> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let (host, port) = (Host::Address(address.ip()), address.port());
        return (port != 0).then_some(RouteHost { host, port });
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
        let host = Host::Address(address);
        return Some(RouteHost {
            host,
            port: PORT_DEFAULT,
        });
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|p| *p != 0)?),
        None => (text, PORT_DEFAULT),
    };
    let name = Domain::parse(name).ok().filter(|d| d.literal().is_none())?;
    Some(RouteHost {
        host: Host::Name(name),
        port,
    })
}

const POOLS_MAX: usize = 1_000;
const SOURCES_MAX: usize = 10_000;
const PORT_DEFAULT: u16 = 25;
/// RFC 1929 §2.
const SOCKS_WORD_MAX: usize = 255;
/// Beginning of the names of pools that lead sandboxed servers' mail to the built-in sink; no other pool has such a name.
pub const SANDBOX_POOLS: &str = "sandbox-";
