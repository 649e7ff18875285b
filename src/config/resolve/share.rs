//! `[[share]]`.

use super::Context;
use crate::config::Share;
use crate::config::raw::RawConfig;
use crate::limits;

impl Context<'_> {
    pub(super) fn shares(&mut self, raw: &RawConfig) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        for raw in raw.share.as_deref().unwrap_or_default() {
            let Some(server) = self.required(&raw.server, &raw.at, "server") else {
                continue;
            };
            let share = Share {
                server: server.value.as_str().into(),
                stream: raw.stream.as_ref().map(|s| s.value.as_str().into()),
                weight: self.number(&raw.weight, 1, 1..=1_000) as u32,
            };
            let twice = |s: &Share| (&s.server, &s.stream) == (&share.server, &share.stream);
            if shares.iter().any(twice) {
                self.problem(&raw.at, "this share is declared twice");
            } else if shares.len() == limits::SHARES_MAX {
                let max = limits::SHARES_MAX;
                self.problem(&raw.at, format!("more than {max} shares"));
                break;
            } else {
                shares.push(share);
            }
        }
        shares
    }
}
