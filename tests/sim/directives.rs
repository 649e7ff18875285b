//! Suspensions and reroutes: given and ended by the operator, kept over a crash, and judged at every hand-out.

use super::*;

pub(super) struct Given {
    directive: Directive,
    over: bool,
}

pub(super) const TAGS: [Option<&str>; 3] = [Some("news"), Some("codes"), None];

pub(super) fn tag_of(position: u64) -> Option<&'static str> {
    TAGS[(position / 4096 % 3) as usize]
}

impl World {
    pub(super) fn direct(&mut self) {
        let single_stands = self.standing().any(|d| d.filter.is_single());
        let domain = self.rng.usize(0..self.plan.dns.len());
        let flow = self.rng.usize(0..self.plan.flows.len());
        let flow = &self.plan.flows[flow];
        let mut filter = Filter::default();
        let mut by_way = false;
        match self.rng.u8(0..8) {
            0 => filter.domain = Some(format!("d{domain}.test").into()),
            1 => {
                filter.server = Some(flow.server);
                filter.stream = Some(flow.stream.as_str().into());
            }
            2 => filter.server = Some(flow.server),
            3 => filter.pool = Some(BULK),
            4 => {
                filter.site = Some(Arc::clone(&self.sites[self.site_of(domain)].key));
                by_way = true;
            }
            5 => {
                let count = self.plan.setup.config.sources().count() as u16;
                filter.source = Some(SourceId(self.rng.u16(0..count)));
                by_way = true;
            }
            // Whom several of these mean depends on their order: the model of the scheduler's tests has that.
            6 if !single_stands => filter.tag = TAGS[self.rng.usize(0..2)].map(Into::into),
            7 if !single_stands => {
                filter.message = Some(position_of(self.rng.u64(0..self.messages.max(1)) + 1));
            }
            _ => filter.domain = Some(format!("d{domain}.test").into()),
        }
        let reroutes = !by_way && self.rng.bool();
        let now = self.now;
        let until = now + self.rng.u64(MINUTE..3 * HOUR);
        self.directives_made += 1;
        let directive = Directive {
            id: self.directives_made,
            what: match reroutes {
                true => Standing::Reroute { to: SPARE },
                false => Standing::Suspend,
            },
            until: Some(until).filter(|_| !filter.is_single()),
            filter,
        };
        self.see(match reroutes {
            true => "reroute",
            false => "suspension",
        });
        self.scheduler().direct(now, directive.clone());
        self.obey(&directive);
        self.directives.push(Given {
            directive,
            over: false,
        });
        // Some are ended before their time.
        let end = match self.rng.bool() {
            true => until,
            false => now + self.rng.u64(0..until - now),
        };
        self.at(end, Event::Resume(self.directives_made));
    }

    /// As the node walks. Of whole queues sometimes not: whoever is about to move one on finds out.
    fn obey(&mut self, directive: &Directive) {
        let (now, act, filter) = (self.now, Verb::Obey(directive.id), &directive.filter);
        let mut walk = Walk::default();
        if !filter.is_single() {
            let walks = self.rng.bool();
            while walks && !self.scheduler().walk_queues(now, filter, &act, &mut walk).1 {}
            return;
        }
        let mut sum = Affected::default();
        loop {
            let (candidates, done) = self.scheduler().walk_recipients(filter, &mut walk);
            for who in candidates {
                if filter.names(who.position, who.number, tag_of(who.position)) {
                    self.scheduler().apply(now, who, &act, &mut sum);
                }
            }
            if done {
                return;
            }
        }
    }

    pub(super) fn resume(&mut self, id: u32) {
        let given = self.directives.iter_mut().find(|g| g.directive.id == id);
        given.expect("it was given").over = true;
        let now = self.now;
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.end_directive(now, id);
        }
    }

    fn standing(&self) -> impl Iterator<Item = &Directive> {
        let given = self.directives.iter().filter(|g| !g.over);
        let all = given.map(|g| &g.directive);
        all.filter(|d| d.until.is_none_or(|until| until > self.now))
    }

    /// What a start gives the scheduler again.
    pub(super) fn direct_again(&mut self) {
        let all: Vec<Directive> = self.standing().cloned().collect();
        let now = self.now;
        for directive in all {
            self.scheduler().direct(now, directive);
        }
    }

    pub(super) fn tags_are_asked_for(&self) -> bool {
        self.standing().any(|d| d.filter.tag.is_some())
    }

    /// Which pool the recipient takes.
    pub(super) fn pool_of(&self, key: (u64, u16)) -> PoolId {
        let home = self.recipients[&key].pool;
        let reroutes = self.standing().filter_map(|d| match d.what {
            Standing::Reroute { to } if home != TX && self.means(d, key, home) => Some((d, to)),
            _ => None,
        });
        // Who is named one by one, then who was first.
        let first = reroutes.min_by_key(|(d, _)| (!d.filter.is_single(), d.id));
        first.map_or(home, |(_, to)| to)
    }

    /// The suspension that holds the recipient, as far as that depends on itself.
    pub(super) fn held_by(&self, key: (u64, u16)) -> Option<&Directive> {
        let pool = self.pool_of(key);
        let mut all = self.standing();
        all.find(|d| d.what == Standing::Suspend && self.means(d, key, pool))
    }

    /// Likewise, where it depends on the way that it takes.
    pub(super) fn holds_way(&self, site: usize, source: SourceId) -> bool {
        let key = &self.sites[site].key;
        self.standing().any(|d| {
            let of_site = d.filter.site.as_ref() == Some(key);
            of_site || d.filter.source == Some(source)
        })
    }

    fn means(&self, directive: &Directive, key: (u64, u16), pool: PoolId) -> bool {
        let filter = &directive.filter;
        let recipient = &self.recipients[&key];
        let flow = &self.plan.flows[recipient.flow];
        let domain = format!("d{}.test", recipient.domain);
        filter.site.is_none()
            && filter.source.is_none()
            && filter.pool.is_none_or(|wanted| wanted == pool)
            && filter.domain.as_ref().is_none_or(|d| **d == *domain)
            && filter.server.is_none_or(|server| server == flow.server)
            && filter.stream.as_ref().is_none_or(|s| **s == *flow.stream)
            && filter.names(key.0, key.1, tag_of(key.0))
    }
}
