//! What every world must hold when it has ended.

use std::fmt;

use super::*;

/// Whom it is about, for the case that it is not as it must be.
#[derive(Clone, Copy)]
struct Told<'a> {
    key: (u64, u16),
    recipient: &'a Recipient,
    site: &'a Site,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (troubles, outages) = (&self.site.troubles, &self.site.outages);
        write!(
            f,
            "{:?} {:?} at {troubles:?} {outages:?}",
            self.key, self.recipient
        )
    }
}

impl World {
    /// Nothing is left to happen: was everything as it must be?
    pub(super) fn judge(mut self) -> Story {
        let scheduler = self.scheduler.as_ref().expect("the node is up again");
        scheduler.check();
        assert_eq!(scheduler.counts().total(), 0, "recipients without an owner");
        assert!(self.agents.is_empty(), "sessions left open");
        assert!(self.lines.is_empty(), "connections left open");
        assert_eq!((scheduler.queues(), scheduler.sites()), (0, 0));
        assert_eq!(self.plan.left(), 0, "mail that was not accepted");
        let keys: Vec<_> = self.recipients.keys().copied().collect();
        for key in keys {
            self.judge_recipient(key);
        }
        for site in &self.sites {
            self.judge_connects(site);
        }
        for (source, &dials) in &self.failed_dials {
            let lives = 1 + u64::from(self.plan.outage.is_some());
            let hours = (self.now - START).div_ceil(HOUR);
            // All that were being opened, then one at a time.
            let bound = lives * (2 * self.plan.setup.connections as u64 + 20) + 2 * 13 * hours;
            assert!(
                dials <= bound,
                "{dials} dials from {source}, at most {bound}"
            );
        }
        Story {
            seed: self.seed,
            trace: self.trace,
            outcomes: self.outcomes,
            seen: self.seen,
            first_attempts: self.first_attempts,
            sites: self.sites,
            ended_after_s: (self.now - START) / SECOND,
        }
    }

    /// A recipient has its outcome. On a long day it is judged at once, and forgotten.
    pub(super) fn ended(&mut self, key: (u64, u16)) {
        if self.plan.forgets {
            self.judge_recipient(key);
            let recipient = self.recipients.remove(&key).expect("it was there");
            let site = self.site_of(recipient.domain);
            self.sites[site].books.forget(key);
        }
    }

    fn judge_recipient(&mut self, key: (u64, u16)) {
        let recipient = &self.recipients[&key];
        let Some((at, end)) = recipient.outcome else {
            panic!("{key:?} has no outcome: {recipient:?}");
        };
        let site = &self.sites[self.site_of(recipient.domain)];
        let told = Told {
            key,
            recipient,
            site,
        };
        self.judge_end(at, end, told);
        judge_books(end, told);
        if !self.plan.forgets {
            self.judge_time(at, end, told);
        }
        *self.outcomes.entry(end).or_insert(0) += 1;
    }

    /// The end is one that can be, and came when it had to.
    fn judge_end(&self, at: UnixMs, end: End, told: Told<'_>) {
        let recipient = told.recipient;
        let flow = &self.plan.flows[recipient.flow];
        match (self.plan.dns[recipient.domain], end) {
            (_, End::Withdrawn) => {}
            (Dns::TakesNoMail, End::Unroutable) => {}
            // Withdrawn or expired before anybody looked.
            (Dns::TakesNoMail, End::Expired) => assert!(at >= recipient.end, "{told}"),
            (Dns::TakesNoMail, _) | (_, End::Unroutable) => panic!("{told}"),
            (_, End::Expired) => {
                let known = recipient.reported.max(self.started).max(recipient.accepted);
                let exact = recipient.end.max(known);
                assert!(
                    (recipient.end..=exact + EXACT).contains(&at),
                    "not in time: {told}"
                );
            }
            (_, End::Ambiguous) => match flow.ambiguous {
                Ambiguous::Stop => assert_eq!(recipient.ambiguous, 1, "{told}"),
                Ambiguous::Retry => assert_eq!(recipient.ambiguous, 3, "{told}"),
            },
            (_, End::Delivered | End::Refused) => {
                // An attempt may be under way when the time comes.
                assert!(at <= recipient.end + HOUR, "{told}");
                let stopped = flow.ambiguous == Ambiguous::Stop && recipient.ambiguous > 0;
                assert!(!stopped, "sent again against the stream's policy: {told}");
            }
        }
        if end == End::Delivered {
            assert!(at >= recipient.begin, "before its release: {told}");
        }
    }

    /// How late may it be? The host's own trouble, then the longest wait of ours.
    fn judge_time(&self, at: UnixMs, end: End, told: Told<'_>) {
        let Told {
            recipient, site, ..
        } = told;
        let wait = self.plan.flows[recipient.flow].retry.max.as_millis() as u64;
        let until = |time: UnixMs| time.saturating_sub(recipient.begin) + wait + 20 * MINUTE;
        let outage = site
            .outages
            .iter()
            .flatten()
            .map(|&(time, _)| until(time))
            .max();
        let trouble = match site.troubles[..] {
            [] => 0,
            [Trouble::ClosesIdle | Trouble::OneMessage | Trouble::NoBdat] => 20 * MINUTE,
            [Trouble::DropsEarly { until: time }] => until(time),
            // Not bounded by the scheduler: capacity, or chance, decides.
            _ => return,
        };
        // Others may hold the node's connections for as long as they like.
        let held = |other: &Site| {
            let slow = |trouble: &Trouble| {
                use Trouble::{Babbles, ForgetsAhead, ForgetsPipelined, Tarpits};
                matches!(
                    trouble,
                    Tarpits { .. } | ForgetsPipelined | ForgetsAhead | Babbles
                )
            };
            other.troubles.iter().any(slow) || other.outages.iter().any(Option::is_some)
        };
        if self.drained_ever || !self.directives.is_empty() || self.sites.iter().any(held) {
            return;
        }
        // Where the pool has another source, mail does not wait for the one that is not there.
        let mut absent = 0;
        if let Some(source) = self.plan.absent {
            let pool = &self.plan.pools[usize::from(recipient.pool.0)];
            if source.blocked || pool.sources.len() < 2 {
                return;
            }
            absent = 2 * MINUTE;
        }
        let dns = match self.plan.dns[recipient.domain] {
            Dns::FailsUntil(time) => until(time),
            _ => 0,
        };
        let down = self
            .plan
            .outage
            .map_or(0, |(killed, started)| started - killed + 15 * MINUTE);
        let rules = self.plan.setup.rules[site.provider];
        let here = |other: &&Recipient| {
            let other = &self.sites[self.site_of(other.domain)];
            other.key == site.key || rules.whole && other.provider == site.provider
        };
        let messages = self.recipients.values().filter(here).count() as u64;
        let one = 30 * site.latency_ms + 20 * site.think_ms;
        let work = rules.time_for(messages) + messages * one;
        let bound = 2 * MINUTE + absent + outage.unwrap_or(0) + trouble + dns + down + work;
        let waited = at.saturating_sub(recipient.begin);
        let told = || format!("{bound} ms would do, not {waited}: {told} {messages} {rules:?}");
        match end {
            End::Expired => assert!(recipient.end <= recipient.begin + bound, "{}", told()),
            End::Withdrawn => {}
            _ => assert!(waited <= bound, "{}", told()),
        }
    }

    /// Nobody is hammered: a host that refuses sees the back-off, not our mail.
    fn judge_connects(&self, site: &Site) {
        if self.operated {
            return;
        }
        let rules = self.plan.setup.rules[site.provider];
        let sources = self.plan.setup.config.sources().count() as u64;
        let lives = 1 + u64::from(self.plan.outage.is_some());
        let at_once = (rules.connections + 12) as u64 * lives;
        let hours = match site.troubles[..] {
            [Trouble::Never { at_mail: false }] => (self.now - START).div_ceil(HOUR),
            [Trouble::DropsEarly { until }] => (until - START).div_ceil(HOUR),
            _ => return,
        };
        // One connection at a time, at least twelve minutes apart in the end; each tries every host.
        let bound = sources * site.hosts.len() as u64 * (hours * 5 + at_once);
        let (connects, troubles) = (site.turned_away, &site.troubles);
        assert!(
            connects <= bound,
            "{connects} connections, at most {bound}: {troubles:?}"
        );
    }
}

/// What we believe, beside what the host knows.
fn judge_books(end: End, told: Told<'_>) {
    let Told {
        key,
        recipient,
        site,
    } = told;
    let books = &site.books;
    let taken = books.taken.get(&key).copied().unwrap_or(0);
    let known = u32::from(end == End::Delivered);
    assert!(taken >= known, "delivered, and no host has it: {told}");
    assert!(
        taken <= known + recipient.doubts,
        "{taken} times at the host: {told}"
    );
    if end == End::Refused {
        let refused = books.refused.contains(&key);
        assert!(refused, "bounced, and no host refused it: {told}");
    }
}
