//! `[bounce]`: where what comes back goes.

use super::{Context, DAY};
use crate::config::Bounce;
use crate::config::raw::RawConfig;
use crate::mail::{Domain, Mailbox};

impl Context<'_> {
    pub(super) fn bounce(&mut self, raw_config: &RawConfig) -> Bounce {
        let raw = &raw_config.bounce;
        let domain = raw.domain.as_ref().and_then(|text| {
            let parsed = Domain::parse(text).ok().filter(|d| d.literal().is_none());
            if parsed.is_none() {
                self.problem(&text.at, "must be a hostname: \"bounces.example.com\"");
            }
            parsed
        });
        let postmaster = raw.postmaster.as_ref().and_then(|text| {
            let parsed = Mailbox::parse(text, false).ok();
            match &parsed {
                None => self.problem(&text.at, "must be an address: \"ops@example.com\""),
                Some(mailbox) if Some(mailbox.domain()) == domain.as_ref() => {
                    self.problem(&text.at, "is in [bounce] domain, so this mail would come back here for ever; name a mailbox elsewhere");
                }
                Some(_) => {}
            }
            parsed
        });
        let secrets = raw.secrets.as_deref().unwrap_or_default();
        let judge = |text: &str| match text.len() < BOUNCE_SECRET_MIN {
            true => Err(format!(
                "a bounce secret has at least {BOUNCE_SECRET_MIN} characters; make one: openssl rand -base64 24"
            )),
            false => Ok(()),
        };
        let complaints_to = raw.complaints_to.as_ref().and_then(|text| {
            let parsed = Mailbox::parse(text, false).ok();
            if parsed.is_none() {
                self.problem(
                    &text.at,
                    "must be an address: \"complaints@bounces.example.com\"",
                );
            } else if raw_config.inbound.as_deref().unwrap_or_default().is_empty() {
                self.problem(
                    &text.at,
                    "no [[inbound]] listener takes mail for it; add one (bind = \"0.0.0.0:25\")",
                );
            }
            parsed
        });
        let default = Bounce::default();
        Bounce {
            postmaster,
            complaints_to,
            domain: domain.inspect(|_| {
                if raw_config.inbound.as_deref().unwrap_or_default().is_empty() {
                    let at = raw.domain.as_ref().map(|text| text.at.clone());
                    self.warn(&at.unwrap_or_else(|| raw.at.clone()), "no [[inbound]] listener takes what comes back to it; add one (bind = \"0.0.0.0:25\"), unless another host does");
                }
            }),
            secrets: secrets
                .iter()
                .filter_map(|text| self.secret_that(text, judge))
                .collect(),
            accept_for: self.time(&raw.accept_for, default.accept_for, DAY..=365 * DAY),
        }
    }
}

const BOUNCE_SECRET_MIN: usize = 16;
