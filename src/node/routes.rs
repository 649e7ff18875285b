//! Where a queue's mail goes: the built-in sink, a configured route, or what DNS says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{PoolId, RouteTarget};
use crate::mail::Domain;
use crate::outcome::{Cause, CauseClass};
use crate::route::{NextHop, Route, Router};

pub(super) struct Routes {
    pub(super) router: Router,
    pub(super) rules: Vec<crate::config::Route>,
    /// Where the built-in sink listens.
    pub(super) sink: Option<SocketAddr>,
    /// Pools of sandboxed servers: their mail never leaves.
    pub(super) sandbox: Vec<PoolId>,
}

impl Routes {
    pub(super) async fn resolve(&self, pool: PoolId, domain: &str) -> Route {
        let Ok(domain) = Domain::parse(domain) else {
            // Domains come parsed from the spool.
            let detail = format!("The domain {domain:?} in the spool is malformed.");
            return Route::Bounce { cause: Cause::new(CauseClass::LocalSystem, detail) };
        };
        let to_sink = self.sandbox.contains(&pool) || {
            let rule = self.rules.iter().find(|rule| rule.pattern.matches(&domain));
            rule.is_some_and(|rule| rule.target == RouteTarget::Sink)
        };
        match (to_sink, self.sink) {
            (false, _) => self.router.resolve(&domain).await,
            (true, Some(sink)) => Route::Hosts {
                site_key: "(sink)".into(),
                hosts: Arc::new([NextHop::at("sink", sink)]),
                valid_for: Duration::from_secs(3600),
            },
            (true, None) => Route::Defer { cause: Cause::new(CauseClass::LocalSystem, "The built-in sink is not running.") },
        }
    }
}
