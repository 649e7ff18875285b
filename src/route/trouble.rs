//! Why there is no way to a domain's hosts, when their addresses alone do not tell; and when the name servers have answered last.
//!
//! Asked only where a look-up has come to nothing, so that the usual one costs no question more. What is wrong with somebody's
//! aliases, or with the families that our sources have, may be mended: a deferral. Only hosts that do not exist are final.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::{RData, RecordType};

use super::Router;
use super::mx::{Lookup, ask, host_name};
use crate::limits;

impl Router {
    /// Of a host without an address: what may be done about it. `None`: it has none, on the DNS's own word.
    pub(super) async fn mendable(&self, host: &str) -> Option<String> {
        if let Some(why) = self.aliases(host).await {
            return Some(why);
        }
        let families = [
            (self.settings.v6, RecordType::AAAA, "IPv6"),
            (self.settings.v4, RecordType::A, "IPv4"),
        ];
        for (wanted, kind, family) in families {
            let is_it = |data: &RData| (data.record_type() == kind).then_some(());
            if !wanted && let Lookup::Found { .. } = ask(&self.resolver, host, kind, is_it).await {
                return Some(format!(
                    "{host} has {family} addresses only, and no egress source has one"
                ));
            }
        }
        None
    }

    /// RFC 1034 §5.2.2 leaves the length of a chain of aliases to us: as far as the resolver follows one.
    async fn aliases(&self, host: &str) -> Option<String> {
        let mut seen = BTreeSet::from([host.to_owned()]);
        let mut name = host.to_owned();
        for _ in 0..limits::ALIASES_MAX {
            let target = |data: &RData| match data {
                RData::CNAME(alias) => Some(host_name(&alias.0)),
                _ => None,
            };
            let Lookup::Found { mut values, .. } =
                ask(&self.resolver, &name, RecordType::CNAME, target).await
            else {
                return None;
            };
            name = values.pop()?;
            if !seen.insert(name.clone()) {
                return Some(format!(
                    "the alias {host} leads in a circle, by way of {name}"
                ));
            }
        }
        Some(format!(
            "the alias {host} leads on to more than {} others",
            limits::ALIASES_MAX
        ))
    }

    /// For how long no name server has answered, while somebody waits for one.
    pub fn silence(&self) -> Option<Duration> {
        let silent = self.resolver.pulse.silent_since()?;
        let silence = self.settings.clock.instant().duration_since(silent);
        (silence >= limits::DNS_SILENCE).then_some(silence)
    }

    /// The name servers, for people.
    pub fn name_servers(&self) -> String {
        match self.settings.dns_servers.is_empty() {
            true => "those of the system".to_owned(),
            false => {
                let servers = self.settings.dns_servers.iter().map(ToString::to_string);
                servers.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// Whether anybody answers: the time of the first question since the last answer.
#[derive(Default)]
pub(super) struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    pub(super) fn asked(&self, now: Instant) {
        self.lock().get_or_insert(now);
    }

    pub(super) fn answered(&self) {
        *self.lock() = None;
    }

    fn silent_since(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
