//! Configured routes: next hops that override the DNS's MX records, and mail for address literals.
//!
//! Both name their host themselves, so no loop is looked for; a route may lead into private networks, a literal may not.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::mx::Lookup;
use super::{NextHop, Route, Router, site};
use crate::config::{Host, RouteHost, RouteTarget};
use crate::limits;
use crate::mail::Domain;
use crate::outcome::{Cause, CauseClass};

impl Router {
    pub(super) async fn configured(&self, target: &RouteTarget) -> Route {
        match target {
            RouteTarget::Hosts(hosts) => self.smart_hosts(hosts).await,
            RouteTarget::Sink => self.sink().unwrap_or_else(|| Route::Defer {
                cause: Cause::new(
                    CauseClass::LocalSystem,
                    "the route leads to the built-in sink, which does not run",
                ),
            }),
        }
    }

    async fn smart_hosts(&self, hosts: &[RouteHost]) -> Route {
        let mut found = Vec::new();
        let mut trouble = None;
        let mut valid_for = limits::ROUTE_TTL_MAX;
        for (preference, host) in hosts.iter().enumerate().take(limits::MX_HOSTS_USED) {
            let preference = preference as u16;
            match &host.host {
                Host::Address(address) => found.push(NextHop {
                    name: address.to_string().into(),
                    preference,
                    port: host.port,
                    addresses: vec![*address],
                }),
                Host::Name(name) => match self.addresses(name.as_str()).await {
                    Lookup::Found {
                        values,
                        valid_for: ttl,
                    } => {
                        valid_for = valid_for.min(ttl);
                        found.push(NextHop {
                            name: name.as_str().into(),
                            preference,
                            port: host.port,
                            addresses: values,
                        });
                    }
                    Lookup::Nothing | Lookup::NoSuchName => {
                        trouble = Some(format!("{name} has no address"));
                    }
                    Lookup::Failed(why) => trouble = Some(format!("{name}: {why}")),
                },
            }
        }
        // A route is the operator's word: a name in it that does not resolve is never the recipient's fault.
        if found.is_empty() {
            let why = trouble.unwrap_or_else(|| "no host".into());
            return Route::Defer {
                cause: Cause::new(
                    CauseClass::Dns,
                    format!("the configured route cannot be followed: {why}"),
                ),
            };
        }
        // By the route's own hosts, not by those that just resolve, so that the site stays the same.
        let names = hosts.iter().map(|h| match &h.host {
            Host::Address(address) => (address.to_string(), h.port),
            Host::Name(name) => (name.to_string(), h.port),
        });
        let names: Vec<(String, u16)> = names.collect();
        Route::Hosts {
            site_key: site::key(names.iter().map(|(n, p)| (n.as_str(), *p)), 25),
            hosts: found.into(),
            valid_for: valid_for.max(limits::ROUTE_TTL_MIN),
        }
    }

    /// RFC 5321 §4.1.3 and §5.1: an address literal is its own host.
    pub(super) fn literal(&self, domain: &Domain, address: IpAddr) -> Route {
        if !self.may_reach(address) {
            return Route::Bounce {
                cause: Cause::new(
                    CauseClass::Dns,
                    format!("5.4.4 {domain} is a private address"),
                ),
            };
        }
        let host = NextHop {
            name: address.to_string().into(),
            preference: 0,
            port: self.settings.port,
            addresses: vec![address],
        };
        Route::Hosts {
            site_key: domain.as_str().into(),
            hosts: Arc::new([host]),
            valid_for: limits::ROUTE_TTL_MAX,
        }
    }

    pub(super) fn may_reach(&self, address: IpAddr) -> bool {
        super::may_reach(&self.settings.allow_networks, address)
    }
}

pub(super) fn sink(address: SocketAddr) -> Route {
    let host = NextHop {
        name: "built-in sink".into(),
        preference: 0,
        port: address.port(),
        addresses: vec![address.ip()],
    };
    Route::Hosts {
        site_key: "built-in sink".into(),
        hosts: Arc::new([host]),
        valid_for: limits::ROUTE_TTL_MAX,
    }
}
