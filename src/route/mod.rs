//! The next hop: which hosts take the mail of a domain, and in which order.
//!
//! Promises: an answer always comes, within the resolver's time-outs; a domain is called dead (NXDOMAIN, null MX) only on
//! the DNS's own word, and everything doubtful is a deferral; DNS never leads us into private networks; the same set of
//! hosts always has the same site key, whatever domain led to it.
//! Deliberately does not know sources, connections, or who is waiting: hosts come with all addresses of the families that
//! the node has, and the session takes those that its source can reach.
//!
//! Configured routes come first (`rules.rs`); else MX by RFC 5321 §5.1 (`mx.rs`), rolled up into a site (`site.rs`).
//! Addresses are looked up here, for all hosts at once, and not by the session, because only together they tell whether a
//! site can be reached at all, and because answers come from the resolver's cache for all but the first domain of a site.
//! Answers are cached by the resolver, positive and negative, bounded; nothing is cached here.

mod mx;
mod policy_file;
mod records;
mod rules;
mod shared;
mod site;
mod trouble;
pub mod trust;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::clock::Clock;
use crate::config;
use crate::config::Cidr;
use crate::limits;
use crate::mail::{Domain, networks};
use crate::outcome::Cause;

use shared::Shared;

pub use policy_file::PolicyFiles;
pub use records::Records;

/// What the router needs of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names under which this node is known: mail for a domain whose best MX is one of them would come back to us.
    pub own_names: Vec<Domain>,
    /// Where this node takes mail itself: a host there would be us, whatever its name.
    pub own_sockets: Vec<SocketAddr>,
    /// Port of hosts found in DNS.
    pub port: u16,
    /// Private networks that DNS may lead to.
    pub allow_networks: Vec<Cidr>,
    pub routes: Vec<config::Route>,
    /// Where the built-in sink listens, when there is one.
    pub sink: Option<SocketAddr>,
    /// Empty: the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// Address families that some source has.
    pub v4: bool,
    pub v6: bool,
    pub clock: Clock,
}

/// Where the mail of a domain goes.
#[derive(Clone, Debug)]
pub enum Route {
    Hosts {
        /// Names the rolled-up set of hosts; equal for all domains that lead to it.
        site_key: Arc<str>,
        /// By preference, best first. Never empty. Sessions mix hosts of equal preference (RFC 5321 §5.1).
        hosts: Arc<[NextHop]>,
        valid_for: Duration,
    },
    /// No answer now.
    Defer { cause: Cause },
    /// The domain takes no mail.
    Bounce { cause: Cause },
}

/// One host of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// For TLS and for people; an address when a route or a literal names one.
    pub name: Arc<str>,
    pub preference: u16,
    pub port: u16,
    /// Never empty.
    pub addresses: Vec<IpAddr>,
}

/// The resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the system's resolver configuration cannot be read: {0}; name DNS servers in [dns]")]
pub struct RouterError(String);

/// Finds routes. Cheap to share.
pub struct Router {
    settings: Settings,
    resolver: mx::Resolver,
    shared: Shared,
}

impl Router {
    pub fn new(settings: Settings) -> Result<Self, RouterError> {
        let resolver = resolver(&settings.dns_servers, limits::DNS_CACHE_ENTRIES)?;
        let resolver = mx::Resolver::new(resolver, settings.clock);
        Ok(Self {
            shared: Shared::new(settings.clock),
            settings,
            resolver,
        })
    }

    /// Where mail for `domain` goes.
    /// # Cancel safety
    /// Dropping the future loses nothing but the answer.
    pub async fn resolve(&self, domain: &Domain) -> Route {
        match self
            .settings
            .routes
            .iter()
            .find(|r| r.pattern.matches(domain))
        {
            Some(route) => self.configured(&route.target).await,
            None => match domain.literal() {
                Some(address) => self.literal(domain, address),
                None => self.shared.resolve(domain, self.by_mx(domain)).await,
            },
        }
    }

    /// The built-in sink, for what must not leave the node. `None` when the node runs none.
    pub fn sink(&self) -> Option<Route> {
        self.settings.sink.map(rules::sink)
    }
}

/// Whether DNS (or a literal) may lead there.
fn may_reach(allowed: &[Cidr], address: IpAddr) -> bool {
    !networks::is_private(address) || allowed.iter().any(|net| net.contains(address))
}

/// `servers` empty: the system's.
fn resolver(servers: &[SocketAddr], cache_entries: usize) -> Result<TokioResolver, RouterError> {
    let (config, mut options) = if servers.is_empty() {
        hickory_resolver::system_conf::read_system_conf().map_err(|e| RouterError(e.to_string()))?
    } else {
        let servers = servers.iter().map(|a| name_server(*a));
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        (config, ResolverOpts::default())
    };
    set_options(&mut options);
    options.cache_size = cache_entries as u64;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|e| RouterError(e.to_string()))
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

fn set_options(options: &mut ResolverOpts) {
    options.timeout = limits::DNS_TIMEOUT;
    options.attempts = 1;
    options.edns0 = true;
    // As every MTA: mail follows the DNS, and a line in /etc/hosts is no route.
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_max_ttl = Some(limits::ROUTE_TTL_MAX);
    options.negative_min_ttl = Some(limits::DNS_NEGATIVE_TTL_MIN);
    options.negative_max_ttl = Some(limits::ROUTE_TTL_MAX);
    // A resolver that calls itself busy would defer mail for no reason of the destination's.
    options.max_active_requests = limits::DNS_QUERIES_ACTIVE;
}
