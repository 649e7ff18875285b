//! `[webhooks]`.

use std::sync::Arc;
use std::time::Duration;

use super::{Context, DAY, minutes};
use crate::config::Webhooks;
use crate::config::raw::RawWebhooks;
use crate::config::source::Located;
use crate::limits;

impl Context<'_> {
    pub(super) fn webhooks(&mut self, raw: &RawWebhooks) -> Webhooks {
        let default = Webhooks::default();
        let flag = |given: &Option<Located<bool>>| given.as_ref().is_some_and(|flag| flag.value);
        Webhooks {
            allow_networks: Self::networks(raw.allow_networks.as_deref()),
            allow_http: flag(&raw.allow_http),
            verify: flag(&raw.verify),
            bounce_retries: self.waits(raw.bounce_retries.as_deref(), default.bounce_retries),
            event_retries: self.waits(raw.event_retries.as_deref(), default.event_retries),
            retry_on: raw.retry_on.as_ref().map_or(default.retry_on, |r| r.value),
            concurrency: self.number(&raw.concurrency, default.concurrency as u64, 1..=256)
                as usize,
            timeout: self.time(&raw.timeout, default.timeout, SECOND..=minutes(2)),
            stop_after: self.time(&raw.stop_after, default.stop_after, minutes(1)..=DAY * 365),
        }
    }

    fn waits(
        &mut self,
        given: Option<&[Located<Duration>]>,
        default: Arc<[Duration]>,
    ) -> Arc<[Duration]> {
        let Some(given) = given else { return default };
        for wait in given {
            if !(SECOND..=DAY).contains(&wait.value) {
                self.problem(&wait.at, "is outside 1s to 1d");
            }
        }
        if let Some(surplus) = given.get(limits::WEBHOOK_RETRIES_OF_ONE) {
            let max = limits::WEBHOOK_RETRIES_OF_ONE;
            self.problem(&surplus.at, format!("is one more than {max} waits"));
        }
        given.iter().map(|wait| wait.value).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);
