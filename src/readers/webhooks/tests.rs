//! Webhooks in virtual time, and those of tests elsewhere.

pub(super) mod at_work;
mod client;
mod schedule;

use std::path::Path;

use super::*;
use crate::config::Config;
use crate::readers::suppressions::Suppressions;

impl Webhooks {
    /// Over an empty log, of a node whose data is in `data_dir`; nobody runs them.
    pub(crate) async fn idle(
        suppressions: &Suppressions,
        accounts: Arc<Accounts>,
        config: &Config,
        data_dir: &Path,
    ) -> Arc<Self> {
        let parts = Parts {
            spool: suppressions.spool(),
            config: &Config {
                node: config::Node {
                    data_dir: data_dir.into(),
                    ..config.node.clone()
                },
                ..config.clone()
            },
            accounts,
            suppressions: Arc::clone(suppressions.set()),
            bounces: Bounces::of(suppressions, data_dir),
            records: Arc::new(Records::new(&[]).unwrap()),
            clock: Clock::start(),
        };
        Arc::new(Self::open(parts).await.unwrap())
    }
}
