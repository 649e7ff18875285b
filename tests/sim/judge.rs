//! What every world must hold when it has ended.

use super::*;

impl World {
    /// Nothing is left to happen: was everything as it must be?
    pub(super) fn judge(self) -> Story {
        self.scheduler.check();
        assert_eq!(
            self.scheduler.counts().total(),
            0,
            "recipients without an owner"
        );
        assert!(self.agents.is_empty(), "sessions left open");
        assert_eq!((self.scheduler.queues(), self.scheduler.sites()), (0, 0));
        let mut outcomes = BTreeMap::new();
        for (key, recipient) in &self.recipients {
            let Some((at, outcome)) = recipient.outcome else {
                panic!("{key:?} has no outcome: {recipient:?}");
            };
            self.judge_one(*key, recipient, at, outcome);
            *outcomes.entry(format!("{outcome:?}")).or_insert(0) += 1;
        }
        for host in &self.hosts {
            self.judge_host(host);
        }
        Story {
            seed: self.seed,
            trace: self.trace,
            delivered: outcomes.get("Delivered").copied().unwrap_or(0),
            outcomes,
            hosts: self.hosts,
            ended_after_s: (self.now - START) / SECOND,
        }
    }

    fn judge_one(&self, key: (u64, u16), recipient: &Recipient, at: UnixMs, outcome: Outcome) {
        let (waited, tx) = (at - recipient.accepted, recipient.pool == TX);
        let max_age = if tx { 48 } else { 72 } * HOUR;
        let mood = self.hosts[self.host_of(recipient.domain)].mood;
        let told = || format!("{key:?} {recipient:?} at {mood:?} after {waited} ms");
        match (self.dns[recipient.domain], outcome) {
            (Dns::TakesNoMail, Outcome::Unroutable | Outcome::Withdrawn) => return,
            (Dns::TakesNoMail, _) => panic!("{}", told()),
            (_, Outcome::Unroutable) => panic!("{}", told()),
            (_, Outcome::Withdrawn) => return,
            (_, Outcome::Expired) => {
                let source_out = matches!(mood, Mood::Never);
                assert!(source_out, "given up though the host took mail: {}", told());
                assert!((max_age..max_age + MINUTE).contains(&waited), "{}", told());
                return;
            }
            (_, Outcome::Delivered | Outcome::Bounced) => assert!(waited <= max_age, "{}", told()),
        }
        // How late may it be? The host's own trouble, then the longest wait of ours.
        let dns = match self.dns[recipient.domain] {
            Dns::FailsUntil(until) => until.saturating_sub(recipient.accepted) + 20 * MINUTE,
            _ => 0,
        };
        let trouble = match mood {
            Mood::Healthy => 0,
            Mood::ClosesIdle | Mood::OneMessage => 5 * MINUTE,
            Mood::Down { until } | Mood::DropsEarly { until } => {
                until.saturating_sub(recipient.accepted) + 20 * MINUTE
            }
            // Not bounded by the scheduler: capacity, or chance, decides.
            _ => max_age,
        };
        let bound = 2 * MINUTE + dns + trouble;
        assert!(waited <= bound, "starved, {bound} ms would do: {}", told());
    }

    /// Nobody is hammered: a host that refuses sees the back-off, not our mail.
    fn judge_host(&self, host: &Host) {
        if self.operated || self.hosts.len() == 40 {
            return;
        }
        let bound = match host.mood {
            // Two pools, two or three days, a probe at least every 12 minutes once backed off.
            Mood::Never => 2 * 72 * 5 + 2 * 10 + 20,
            Mood::Down { until } => 2 * ((until - START) / (12 * MINUTE) + 10) + 500,
            Mood::DropsEarly { until } => 4 * ((until - START) / MINUTE + 20) + 500,
            _ => return,
        };
        assert!(
            host.connects <= bound,
            "{} connections, at most {bound}: {:?}",
            host.connects,
            host.mood
        );
    }
}
