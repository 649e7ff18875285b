//! What directives say of each recipient.

use super::super::*;
use super::{Model, Recipient};

impl Model {
    /// The first directive that means a recipient by its message or its tag.
    pub(super) fn set_aside_by(&self, recipient: &Recipient, number: u16) -> u32 {
        let stand = self.directives.iter();
        let mut stand = stand.filter(|d| d.until.is_none_or(|until| until > self.now));
        let meant = stand.find(|d| d.filter.is_single() && means(d, recipient, number));
        meant.map_or(0, |d| d.id)
    }

    pub(super) fn direct(&mut self, reroute: bool, selection: u8, which: u8, for_s: u64) {
        let mut filter = Filter::default();
        match selection {
            0 => filter.domain = Some(format!("d{}.test", which % 6).into()),
            1 => filter.server = Some(u32::from(which % 6)),
            2 => filter.stream = Some(["one", "two"][usize::from(which % 2)].into()),
            // Of these two the model does not know whom they mean: they may hold, and must let go at their end.
            3 if !reroute && which.is_multiple_of(4) => filter.site = Some("s1".into()),
            3 if !reroute && which % 4 == 1 => filter.source = Some(SourceId(1)),
            3 if !reroute => filter.pool = Some(BULK),
            3 | 4 => filter.tag = TAGS[usize::from(which % 2)].map(Into::into),
            5 => filter.message = Some(u64::from(which) * 8 % (self.positions + 8)),
            _ => {
                filter.domain = Some(format!("d{}.test", which % 6).into());
                filter.stream = Some(["one", "two"][usize::from(which % 2)].into());
            }
        }
        self.directed += 1;
        let directive = Directive {
            id: self.directed,
            filter,
            what: match reroute {
                true => Standing::Reroute { to: PoolId(2) },
                false => Standing::Suspend,
            },
            until: (for_s < 100).then_some(self.now + for_s * SECOND + 1),
        };
        self.directives.push(directive.clone());
        self.scheduler.direct(self.now, directive.clone());
        let (act, filter) = (Act::Obey(directive.id), &directive.filter);
        let mut affected = Affected::default();
        if !filter.is_single() {
            // Obeyed with the walk, and without.
            let mut walk = Walk::default();
            while which.is_multiple_of(2)
                && !self
                    .scheduler
                    .walk_queues(self.now, filter, &act, &mut walk)
                    .1
            {}
            return;
        }
        let mut walk = Walk::default();
        loop {
            let (candidates, done) = self.scheduler.walk_recipients(filter, &mut walk);
            for who in candidates {
                // As its record would say.
                let key = (who.position, who.number);
                let recipient = self.recipients[&key];
                if means(&directive, &recipient, who.number) {
                    self.scheduler.apply(self.now, who, &act, &mut affected);
                    let stands = |d: &Directive| d.until.is_none_or(|until| until > self.now);
                    let before = self.directives.iter().find(|d| d.id == recipient.aside);
                    if !before.is_some_and(stands) {
                        self.recipients.get_mut(&key).unwrap().aside = directive.id;
                    }
                }
            }
            if done {
                return;
            }
        }
    }

    pub(super) fn end_directive(&mut self, which: u8) {
        if !self.directives.is_empty() {
            let ended = self
                .directives
                .remove(usize::from(which) % self.directives.len());
            self.scheduler.end_directive(self.now, ended.id);
        }
    }
}

pub(super) const TAGS: [Option<&str>; 3] = [Some("news"), Some("codes"), None];

/// Whether a directive means the recipient.
fn means(directive: &Directive, recipient: &Recipient, number: u16) -> bool {
    let filter = &directive.filter;
    let stream = ["one", "two"][usize::from(number % 2)];
    let domain = format!("d{}.test", recipient.domain);
    let to_own_kind = directive.what == Standing::Suspend || recipient.pool != TX;
    let is_known = filter.site.is_none() && filter.source.is_none();
    to_own_kind
        && is_known
        && filter.domain.as_ref().is_none_or(|d| **d == *domain)
        && filter
            .server
            .is_none_or(|s| s == u32::from(recipient.domain))
        && filter.stream.as_ref().is_none_or(|s| **s == *stream)
        && filter.message.is_none_or(|m| m == recipient.message)
        && filter
            .tag
            .as_deref()
            .is_none_or(|t| Some(t) == recipient.tag)
}

/// The pool from which a recipient may go, and whether it may not go.
pub(super) fn judge(
    all: &[Directive],
    now: UnixMs,
    recipient: &Recipient,
    number: u16,
) -> (PoolId, bool) {
    let stands = |d: &&Directive| d.until.is_none_or(|until| until > now);
    let stand: Vec<&Directive> = all.iter().filter(stands).collect();
    let aside = stand.iter().find(|d| d.id == recipient.aside);
    let of_queues = stand.iter().filter(|d| !d.filter.is_single());
    let meant = of_queues.filter(|d| means(d, recipient, number));
    let meant: Vec<_> = aside.into_iter().chain(meant).collect();
    let detour = meant.iter().find_map(|d| match d.what {
        Standing::Reroute { to } => Some(to),
        Standing::Suspend => None,
    });
    let pool = detour.unwrap_or(recipient.pool);
    let suspends = meant.iter().filter(|d| d.what == Standing::Suspend);
    // The pool of a suspension is the one of now.
    let mut holds = suspends.filter(|d| d.filter.pool.is_none_or(|wanted| wanted == pool));
    (pool, holds.next().is_some())
}
