//! The owner of the scheduler: what `node::dispatch` does, without disks and sockets. And its death, and its restart.

use super::directives::tag_of;
use super::*;

impl World {
    pub(super) fn execute(&mut self, work: Work) {
        match work {
            Work::Resolve { queue, domain, .. } => {
                let digits = domain.trim_start_matches('d').trim_end_matches(".test");
                let domain: usize = digits.parse().expect("a domain of ours");
                self.note(&[self.now, 1, domain as u64]);
                let at = self.now + self.rng.u64(0..300);
                self.at(at, Event::Resolved(self.life, queue, domain));
            }
            Work::Open {
                session,
                source,
                pool,
                site_key,
                first,
                ..
            } => {
                let site = self.site_with(&site_key);
                self.note(&[self.now, 2, session.0, source.0.into(), first.position]);
                self.watch_open(session, source, pool, site);
                self.hand_out(session, pool, &first);
                self.open(session, source, site, first);
            }
            Work::Deliver { session, batch } => {
                self.note(&[self.now, 3, session.0, batch.position]);
                let pool = batch.pool;
                self.hand_out(session, pool, &batch);
                if !self.hand_over(session, batch.clone()) {
                    self.see("batch for a session that has just ended");
                    self.take_back(&batch);
                    let now = self.now;
                    self.scheduler().not_delivered(now, session);
                }
            }
            Work::Close { session } => {
                self.note(&[self.now, 4, session.0]);
                self.tell_to_close(session);
            }
            Work::Expire {
                position,
                number,
                attempts,
            } => self.ends((position, number), attempts, End::Expired),
            Work::Unroutable {
                position,
                number,
                attempts,
                ..
            } => self.ends((position, number), attempts, End::Unroutable),
            Work::Withdrawn {
                position,
                number,
                attempts,
                ..
            } => {
                assert!(self.operated);
                self.ends((position, number), attempts, End::Withdrawn);
            }
        }
    }

    fn hand_out(&mut self, session: SessionId, pool: PoolId, batch: &Batch) {
        self.watch_batch(session, batch);
        let site = self.watch.site_of(session);
        let is_quiet = self.sites[site].is_quiet();
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            let at = self.site_of(self.recipients[&key].domain);
            let expected = self.pool_of(key);
            if let Some(directive) = self.held_by(key) {
                panic!("{key:?} is handed out and suspended: {directive:?}");
            }
            let recipient = self.recipients.get_mut(&key).expect("it was accepted");
            let is_right = recipient.outcome.is_none()
                && recipient.place == Place::Queued
                && (expected, at) == (pool, site)
                && recipient.attempts == u32::from(given.attempts)
                // Neither too early nor after its end.
                && recipient.not_before <= self.now
                && self.now < recipient.end + EXACT;
            assert!(
                is_right,
                "{given:?} of {key:?} handed out to {pool:?} at site {at} at {}: {recipient:?}",
                self.now
            );
            recipient.place = Place::With(session);
            let known = matches!(self.plan.dns[recipient.domain], Dns::Answers);
            let since_start = self.started <= recipient.begin;
            if known && since_start && pool == TX && recipient.attempts == 0 && is_quiet {
                self.first_attempts.add(self.now - recipient.begin);
            }
        }
    }

    fn take_back(&mut self, batch: &Batch) {
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            self.recipients
                .get_mut(&key)
                .expect("it was accepted")
                .place = Place::Queued;
        }
    }

    fn ends(&mut self, key: (u64, u16), attempts: u16, end: End) {
        self.note(&[self.now, 5, key.0, key.1.into()]);
        assert!(
            end != End::Unroutable || self.held_by(key).is_none(),
            "{key:?} bounced and is suspended"
        );
        let recipient = self.recipients.get_mut(&key).expect("it was accepted");
        assert_eq!(recipient.place, Place::Queued, "{key:?} ended in flight");
        assert_eq!(
            (recipient.outcome, recipient.attempts),
            (None, u32::from(attempts)),
            "{key:?}"
        );
        recipient.outcome = Some((self.now, end));
        self.ended(key);
    }

    /// The next mail comes at its time.
    pub(super) fn expect_mail(&mut self) {
        if let Some(at) = self.plan.next_mail_at() {
            self.at(at.max(self.now), Event::Accept);
        }
    }

    pub(super) fn accept(&mut self) {
        if self.scheduler.is_none() {
            // The clients try again.
            return self.at(self.now + MINUTE, Event::Accept);
        }
        while let Some(mail) = self.plan.mail_until(self.now) {
            self.accept_one(&mail);
        }
        self.expect_mail();
    }

    fn accept_one(&mut self, mail: &Mail) {
        self.messages += 1;
        let position = position_of(self.messages);
        let flow = &self.plan.flows[mail.flow];
        let begin = self.now.max(mail.release_at.unwrap_or(0));
        let of_age = begin + flow.retry.max_age.as_millis() as u64;
        let pool = flow.pool;
        for (number, &domain) in mail.domains.iter().enumerate() {
            let recipient = Recipient {
                flow: mail.flow,
                pool,
                domain,
                accepted: self.now,
                begin,
                end: mail
                    .deadline
                    .map_or(of_age, |deadline| deadline.min(of_age)),
                place: Place::Queued,
                attempts: 0,
                not_before: begin,
                ambiguous: 0,
                doubts: 0,
                reported: 0,
                deadline: mail.deadline,
                release_at: mail.release_at,
                outcome: None,
            };
            let key = (position, number as u16);
            self.recipients.insert(key, recipient);
            self.insert(key, false);
        }
    }

    /// Gives a recipient to the scheduler.
    fn insert(&mut self, key: (u64, u16), again: bool) {
        let recipient = &self.recipients[&key];
        let flow = &self.plan.flows[recipient.flow];
        // A start does not read records, but where a directive asks for it.
        let tag = match again && !self.tags_are_asked_for() {
            true => Some(Tag::Mark(spool_format::tag_mark(tag_of(key.0)))),
            false => tag_of(key.0).map(Tag::Text),
        };
        let new = NewRecipient {
            position: key.0,
            number: key.1,
            pool: flow.pool,
            domain: &format!("d{}.test", recipient.domain),
            flow: FlowName {
                server: flow.server,
                server_name: &flow.server_name,
                stream: &flow.stream,
            },
            message: key.0,
            tag,
            accepted_at: recipient.accepted,
            life: Life {
                max_age: Some(flow.retry.max_age),
                max_wait: Some(flow.retry.max),
                deadline: recipient.deadline,
                release_at: recipient.release_at,
            },
            attempts: recipient.attempts as u16,
            next_attempt: recipient.not_before,
        };
        let scheduler = self.scheduler.as_mut().expect("the node is up");
        match again {
            false => scheduler.insert(self.now, new),
            true => scheduler.take_over(self.now, new),
        }
    }

    pub(super) fn answer(&mut self, domain: usize) -> RouteAnswer {
        let cause = |detail: &str| Arc::new(Cause::new(CauseClass::Dns, detail));
        match self.plan.dns[domain] {
            Dns::TakesNoMail => RouteAnswer::Refused {
                cause: cause("null MX"),
            },
            Dns::FailsUntil(until) if self.now < until => RouteAnswer::Defer {
                cause: cause("SERVFAIL"),
            },
            _ => {
                let site = &self.sites[self.site_of(domain)];
                let names = site.hosts.iter().map(|host| &*host.name);
                RouteAnswer::Site {
                    key: Arc::clone(&site.key),
                    valid_until: self.now + self.rng.u64(1..60) * MINUTE,
                    provider: self.plan.setup.config.shaping.provider_of(names),
                }
            }
        }
    }

    /// As the dispatcher takes a report.
    pub(super) fn reported(&mut self, report: Report) {
        let now = self.now;
        let mut dispositions = Vec::new();
        for mut result in report.results {
            let key = (result.position, result.number);
            dispositions.push((key.0, key.1, self.decided(key, &mut result.outcome)));
        }
        self.note(&[now, 6, report.session.0, dispositions.len() as u64]);
        if let SessionState::Closed { .. } = report.state {
            self.watch_closed(report.session);
        }
        if let Some((trouble, text)) = report.of_source {
            self.scheduler()
                .source_trouble(now, report.session, trouble, &text);
        }
        let next = self
            .scheduler()
            .report(now, report.session, &dispositions, report.state);
        for (position, number, at) in next {
            self.deferred((position, number), at);
        }
        if report.runs_ahead {
            self.scheduler().runs_ahead(now, report.session);
        }
        if let Some((address, sign)) = report.sign
            && self.habits.note(now, address, sign)
        {
            self.see(match sign.habit {
                Habit::Ahead => "host that mishandles what comes ahead",
                Habit::Pipelining => "host that mishandles PIPELINING",
                Habit::Chunking => "host that mishandles CHUNKING",
            });
        }
        if let Some(position) = report.broken_by {
            self.see("message that goes to one recipient at a time");
            self.habits.isolate(now, position);
        }
    }

    fn decided(&mut self, key: (u64, u16), outcome: &mut Outcome) -> Disposition {
        let recipient = self.recipients.get_mut(&key).expect("it was handed out");
        let flow = &self.plan.flows[recipient.flow];
        assert!(
            matches!(recipient.place, Place::With(_)),
            "{key:?} {recipient:?}"
        );
        recipient.place = Place::Queued;
        recipient.reported = self.now;
        let mut ended = false;
        if let Outcome::Ambiguous { .. } = outcome {
            *self.seen.entry("answer to a content lost").or_default() += 1;
            recipient.ambiguous += 1;
            recipient.doubts += 1;
            judge_ambiguous(outcome, flow.ambiguous, recipient.ambiguous);
        }
        let end = match outcome {
            Outcome::Delivered { .. } => Some(End::Delivered),
            Outcome::Bounced { cause, .. } if cause.class == CauseClass::Ambiguous => {
                Some(End::Ambiguous)
            }
            Outcome::Bounced { .. } => Some(End::Refused),
            _ => None,
        };
        if let Some(end) = end {
            assert_eq!(recipient.outcome, None, "{key:?} has a second outcome");
            recipient.outcome = Some((self.now, end));
            ended = true;
        }
        if *outcome != Outcome::NotAttempted {
            recipient.attempts += 1;
        }
        let retry = flow.retry;
        if ended {
            self.ended(key);
        }
        disposition(outcome, self.now, Some(retry))
    }

    /// The scheduler says when it comes next.
    fn deferred(&mut self, key: (u64, u16), at: UnixMs) {
        let recipient = self.recipients.get_mut(&key).expect("it was handed out");
        let retry = &self.plan.flows[recipient.flow].retry;
        let (first, max) = (retry.first.as_millis() as u64, retry.max.as_millis() as u64);
        let doublings = (recipient.attempts - 1).min(20);
        let base = (first << doublings).min(max);
        let wait = at - self.now;
        let least = base - base / 5;
        assert!(
            wait >= least,
            "{key:?} comes again after {wait} ms: {recipient:?}"
        );
        let most = (base + base / 5).max(10 * MINUTE);
        assert!(
            wait <= most,
            "{key:?} comes again after {wait} ms: {recipient:?}"
        );
        recipient.not_before = at;
    }

    pub(super) fn start(&mut self) {
        let setup = self.plan.setup;
        let delivery = &setup.config.delivery;
        let limits = Limits {
            connections_per_source_site: delivery.connections_per_site,
            connections: delivery.connections_max,
            connection_idle: delivery.idle,
            messages_per_connection: delivery.messages_per_connection,
            resolves: 8,
            ..Limits::default()
        };
        let scheduler = Scheduler::new(self.plan.pools.clone(), limits, self.seed ^ self.life)
            .with_shaping(Arc::clone(&setup.config.shaping))
            .with_shares(self.plan.shares.clone());
        self.scheduler = Some(scheduler);
    }

    /// Everything that is not on disk is gone: what was handed out may have been taken.
    pub(super) fn kill(&mut self) {
        self.scheduler = None;
        self.life += 1;
        self.see("crash");
        self.let_go_of_all();
        // Which source a message takes outlives the node.
        let sources = self.watch.take_sources();
        self.watch = Watch::of(sources);
        self.habits = Habits::default();
        for recipient in self.recipients.values_mut() {
            if recipient.place != Place::Queued {
                recipient.place = Place::Queued;
                recipient.doubts += 1;
            }
        }
    }

    pub(super) fn restart(&mut self) {
        self.started = self.now;
        self.start();
        let now = self.now;
        for (source, until) in self.drains.clone() {
            if now < until {
                let stop = Stop {
                    why: StopCause::Drained,
                    reason: "simulated".into(),
                    since: now,
                    until: Some(until),
                };
                self.scheduler().restore_drain(now, source, stop);
            }
        }
        self.direct_again();
        let waits = |(_, recipient): &(_, &Recipient)| recipient.outcome.is_none();
        let keys = self.recipients.iter().filter(waits).map(|(&key, _)| key);
        for key in keys.collect::<Vec<_>>() {
            let recipient = self.recipients.get_mut(&key).expect("it was accepted");
            let retry = &self.plan.flows[recipient.flow].retry;
            let (age, wait) = (
                retry.max_age.as_millis() as u64,
                retry.max.as_millis() as u64,
            );
            if recipient.begin + age <= self.now {
                let grace = self.now + HOUR.min(age / 4);
                recipient.end = recipient
                    .deadline
                    .map_or(grace, |deadline| deadline.min(grace));
            }
            recipient.not_before = recipient.not_before.min(self.now + wait).max(
                // What is scheduled stays so.
                if recipient.attempts == 0 {
                    recipient.begin
                } else {
                    0
                },
            );
            self.insert(key, true);
        }
    }
}
