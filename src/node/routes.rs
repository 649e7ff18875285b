//! Where a queue's mail goes: the built-in sink for sandboxed servers and test addresses, else what the router says.

use std::net::{IpAddr, SocketAddr};

use crate::clock::Clock;
use crate::config::{Config, PoolId};
use crate::mail::{Domain, TestDomains};
use crate::outcome::{Cause, CauseClass};
use crate::route::{Route, Router};

pub(super) struct Routes {
    pub(super) router: Router,
    /// Pools of sandboxed servers: their mail never leaves.
    pub(super) sandbox: [PoolId; 2],
    /// Of messages in the spool whose pool is no longer configured, or now has another kind. They wait: another pool would
    /// be a silent fallback.
    pub(super) orphaned: Vec<(PoolId, Box<str>)>,
    pub(super) tests: TestDomains,
}

impl Routes {
    pub(super) async fn resolve(&self, pool: PoolId, domain: &str) -> Route {
        if let Some((_, name)) = self.orphaned.iter().find(|(orphan, _)| *orphan == pool) {
            let detail = format!(
                "No egress pool {name:?} of the message's kind is configured; configure it, or cancel the mail."
            );
            return Route::Defer {
                cause: Cause::new(CauseClass::LocalSystem, detail),
            };
        }
        if self.sandbox.contains(&pool) {
            let detail = "The built-in sink is not running.";
            let waits = || Route::Defer {
                cause: Cause::new(CauseClass::LocalSystem, detail),
            };
            return self.router.sink().unwrap_or_else(waits);
        }
        // They are put into the pools above; here is what holds if one ever is not.
        if self.tests.holds(domain) {
            let detail = "A test address never leaves the node.";
            return Route::Bounce {
                cause: Cause::new(CauseClass::LocalSystem, detail),
            };
        }
        match Domain::parse(domain) {
            Ok(domain) => self.router.resolve(&domain).await,
            // Domains were parsed before they came into the spool.
            Err(error) => {
                let detail = format!("The domain {domain:?} in the spool is malformed: {error}.");
                Route::Bounce {
                    cause: Cause::new(CauseClass::LocalSystem, detail),
                }
            }
        }
    }
}

/// What the router has to know of this node.
pub(super) fn router_settings(
    config: &Config,
    clock: Clock,
    sink: Option<SocketAddr>,
    sockets: &[tokio::net::TcpListener],
) -> crate::route::Settings {
    let ehlo_names = config.sources().map(|(_, source)| source.ehlo.as_str());
    let own_names = ehlo_names.chain([config.node.hostname.as_str()]);
    let addresses: Vec<IpAddr> = config.sources().flat_map(|(_, s)| s.addresses()).collect();
    crate::route::Settings {
        own_names: own_names
            .filter_map(|name| Domain::parse(name).ok())
            .collect(),
        own_sockets: sockets.iter().filter_map(|s| s.local_addr().ok()).collect(),
        port: config.delivery.port,
        allow_networks: config.delivery.allow_networks.clone(),
        routes: config.routes.clone(),
        sink,
        dns_servers: config.dns.servers.clone(),
        v4: addresses.iter().any(IpAddr::is_ipv4),
        v6: addresses.iter().any(IpAddr::is_ipv6),
        clock,
    }
}
