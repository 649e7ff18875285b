//! Looks after what is kept beside the logs: the account store, and what readers of the event log have made of it.

use std::sync::Arc;

use crate::account::Settings;
use crate::clock::Clock;
use crate::limits;
use crate::readers::idempotency::IdempotencyReader;
use crate::readers::suppressions::Suppressions;

/// From the start on.
pub(super) async fn run(
    settings: Arc<Settings>,
    suppressions: Arc<Suppressions>,
    keys: Arc<IdempotencyReader>,
    clock: Clock,
) {
    let mut again = tokio::time::interval(limits::ACCOUNT_UPKEEP);
    loop {
        again.tick().await;
        settings.keep_up(clock.unix_ms()).await;
        suppressions.keep_up().await;
        keys.keep_up().await;
    }
}
