//! The operator's hand.

use super::*;

impl World {
    pub(super) fn operate(&mut self) {
        if self.rng.u8(0..5) > 0 {
            let again = self.now + self.rng.u64(0..HOUR);
            self.at(again, Event::Operator);
        }
        if self.scheduler.is_none() {
            return;
        }
        self.operated = true;
        match self.rng.u8(0..8) {
            0 | 1 => return self.drain(),
            2..5 => return self.direct(),
            _ => {}
        }
        let domain = self.rng.usize(0..self.plan.dns.len());
        let name = format!("d{domain}.test");
        let position = position_of(self.rng.u64(0..self.messages.max(1)) + 1);
        let selection = match self.rng.u8(0..4) {
            0 => Selection::All,
            1 => Selection::Message { position },
            _ => Selection::Domain(&name),
        };
        let now = self.now;
        let withdrawal = match self.rng.u8(0..3) {
            0 => Some(Withdrawal::Cancel),
            1 => Some(Withdrawal::Bounce),
            _ => None,
        };
        match withdrawal.filter(|_| selection != Selection::All) {
            Some(how) => {
                self.scheduler().withdraw(now, selection, how);
            }
            None => {
                self.scheduler().retry_now(now, selection);
                self.allow(|key, recipient| match selection {
                    Selection::All => !recipient.is_scheduled(now),
                    Selection::Domain(_) => {
                        recipient.domain == domain && !recipient.is_scheduled(now)
                    }
                    // What is scheduled is released before its time by its own name only.
                    _ => key.0 == position,
                });
            }
        }
    }

    /// Empties a source for a while, or takes it back.
    fn drain(&mut self) {
        let count = self.plan.setup.config.sources().count() as u16;
        let (now, source) = (self.now, SourceId(self.rng.u16(0..count)));
        self.drained_ever = true;
        if self.drains.remove(&source).is_some_and(|until| now < until) {
            self.see("source taken back");
            assert!(self.scheduler().resume_source(now, source));
            return;
        }
        self.see("source drained");
        let until = now + self.rng.u64(MINUTE..2 * HOUR);
        self.drains.insert(source, until);
        let drained = self
            .scheduler()
            .drain_source(now, source, "simulated".into(), Some(until));
        assert!(drained);
    }

    pub(super) fn is_drained(&self, source: SourceId) -> bool {
        self.drains
            .get(&source)
            .is_some_and(|&until| self.now < until)
    }

    /// These may be tried at once.
    fn allow(&mut self, means: impl Fn((u64, u16), &Recipient) -> bool) {
        let now = self.now;
        for (&key, recipient) in &mut self.recipients {
            if recipient.place == Place::Queued && means(key, recipient) {
                recipient.not_before = recipient.not_before.min(now);
                recipient.begin = recipient.begin.min(now);
            }
        }
    }
}

impl Recipient {
    fn is_scheduled(&self, now: UnixMs) -> bool {
        self.attempts == 0 && self.begin > now
    }
}
