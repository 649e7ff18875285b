//! The scheduler's pools, planned once at start: what [`PoolId`] and [`SourceId`] mean for as long as the node runs.

use std::sync::Arc;

use crate::config::{Config, PoolId, SourceId, StreamKind};
use crate::mail::TestDomains;
use crate::queue::{Limits, PoolConfig};

/// The scheduler's pools: the configured ones, one of each kind for sandboxed servers, and those that only the spool knows.
pub(super) struct PoolPlan {
    pub(super) names: Vec<Arc<str>>,
    pub(super) pools: Vec<PoolConfig>,
    pub(super) sandbox: [PoolId; 2],
    pub(super) orphaned: Vec<(PoolId, Box<str>)>,
    /// In the order of [`crate::config::SourceId`].
    pub(super) source_names: Vec<Arc<str>>,
    pub(super) limits: Limits,
    /// Whose mail goes through the pools of sandboxed servers, whatever its own.
    pub(super) tests: TestDomains,
}

impl PoolPlan {
    /// `mentioned` are the pools that queued mail names.
    pub(super) fn new(config: &Config, mentioned: &[(Box<str>, StreamKind)]) -> Self {
        let mut plan = Self {
            names: Vec::new(),
            pools: Vec::new(),
            sandbox: [PoolId(0); 2],
            orphaned: Vec::new(),
            source_names: config
                .sources()
                .map(|(_, source)| Arc::clone(&source.name))
                .collect(),
            limits: Limits {
                connections_per_source_site: config.delivery.connections_per_site,
                connections: config.delivery.connections_max,
                connection_idle: config.delivery.idle,
                messages_per_connection: config.delivery.messages_per_connection,
                ..Limits::default()
            },
            tests: TestDomains::new(&config.delivery.test_domains),
        };
        for pool in &config.pools {
            let sources = pool.sources.iter().map(|s| (s.id, s.weight)).collect();
            plan.add(&pool.name, pool.kind, sources, config);
        }
        let sandbox_source = SourceId(plan.source_names.len() as u16);
        plan.source_names.push(SANDBOX_SOURCE.into());
        plan.sandbox = [
            plan.add(
                "sandbox-transactional",
                StreamKind::Transactional,
                vec![(sandbox_source, 1)],
                config,
            ),
            plan.add(
                "sandbox-broadcast",
                StreamKind::Broadcast,
                vec![(sandbox_source, 1)],
                config,
            ),
        ];
        for &(ref name, kind) in mentioned {
            if plan.id(name, kind).is_none() {
                tracing::warn!(pool = %name, ?kind, "mail in the spool names an egress pool that is not configured; it waits");
                let id = plan.add(name, kind, Vec::new(), config);
                plan.orphaned.push((id, name.clone()));
            }
        }
        plan
    }

    fn add(
        &mut self,
        name: &str,
        kind: StreamKind,
        sources: Vec<(SourceId, u32)>,
        config: &Config,
    ) -> PoolId {
        let id = PoolId(self.pools.len() as u16);
        let source_name = |&(id, _): &(SourceId, u32)| {
            let name = self.source_names.get(usize::from(id.0));
            name.map_or_else(|| "".into(), Arc::clone)
        };
        let source_names = sources.iter().map(source_name).collect();
        self.names.push(name.into());
        self.pools.push(PoolConfig {
            kind,
            sources,
            retry: *config.retry.of(kind),
            name: name.into(),
            source_names,
        });
        id
    }

    /// All of them: name and kind together are unique.
    pub(super) fn by_name(&self) -> Vec<(Arc<str>, StreamKind, PoolId)> {
        let pools = self.names.iter().zip(&self.pools).enumerate();
        pools
            .map(|(index, (name, pool))| (Arc::clone(name), pool.kind, PoolId(index as u16)))
            .collect()
    }

    /// The pool of sandboxed servers for mail of this kind.
    pub(super) fn sandbox_of(sandbox: [PoolId; 2], kind: StreamKind) -> PoolId {
        let [transactional, broadcast] = sandbox;
        match kind {
            StreamKind::Broadcast => broadcast,
            _ => transactional,
        }
    }

    fn id(&self, name: &str, kind: StreamKind) -> Option<PoolId> {
        let mut pools = self.names.iter().zip(&self.pools);
        let index = pools.position(|(n, pool)| **n == *name && pool.kind == kind)?;
        Some(PoolId(index as u16))
    }
}

/// From where sandboxed servers' mail goes to the built-in sink; behind all configured sources.
pub(super) const SANDBOX_SOURCE: &str = "sandbox";

/// An address that this host does not have may come later (a floating one), so it is no error; but nothing leaves from it.
pub(super) fn warn_of_foreign_sources(config: &Config) {
    let here = config.sources().filter(|(_, s)| s.proxy.is_none());
    for (pool, source) in here {
        for address in source.addresses() {
            if let Err(error) = std::net::UdpSocket::bind((address, 0)) {
                tracing::warn!(pool = pool.name, source = %source.name, %address, %error, "this host cannot send from the source's address; nothing leaves from it until it is there");
            }
        }
    }
}
