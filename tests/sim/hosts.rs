//! What happens to mail out there: look-ups, connections, transactions, and the operator's hand.

use super::*;

impl World {
    pub(super) fn accept(&mut self, message: usize) {
        let position = (message as u64 + 1) * 4096;
        let (pool, domains) = (
            self.messages[message].pool,
            self.messages[message].domains.clone(),
        );
        for (number, domain) in domains.into_iter().enumerate() {
            let new = NewRecipient {
                position,
                number: number as u16,
                pool,
                domain: &format!("d{domain}.test"),
                flow: FlowName {
                    server: 1,
                    server_name: "shop",
                    stream: "outbound",
                },
                message: position,
                tag: None,
                accepted_at: self.now,
                life: Default::default(),
                attempts: 0,
                next_attempt: self.now,
            };
            self.scheduler.insert(self.now, new);
            let recipient = Recipient {
                accepted: self.now,
                pool,
                domain,
                place: Place::Queued,
                outcome: None,
                attempts: 0,
            };
            self.recipients.insert((position, number as u16), recipient);
        }
    }

    pub(super) fn answer(&mut self, domain: usize) -> RouteAnswer {
        let cause = |detail: &str| Arc::new(Cause::new(CauseClass::Dns, detail));
        match self.dns[domain] {
            Dns::TakesNoMail => RouteAnswer::Refused {
                cause: cause("null MX"),
            },
            Dns::FailsUntil(until) if self.now < until => RouteAnswer::Defer {
                cause: cause("SERVFAIL"),
            },
            _ => RouteAnswer::Site {
                key: format!("h{}", self.host_of(domain)).into(),
                valid_until: self.now + self.rng.u64(1..60) * MINUTE,
                provider: None,
            },
        }
    }

    pub(super) fn connected(&mut self, session: SessionId) {
        let agent = self.agents.get_mut(&session).expect("a session that lives");
        let host = &mut self.hosts[agent.host];
        host.connects += 1;
        let failure = match host.mood {
            Mood::Down { until } if self.now < until => Some(Some(Scope::Site)),
            Mood::Never => Some(Some(Scope::Site)),
            Mood::DropsEarly { until } if self.now < until => Some(None),
            Mood::FewConnections { count } if host.open >= count => {
                Some(Some(Scope::SiteFromSource))
            }
            Mood::DislikesSource { source } if source == agent.source => {
                Some(Some(Scope::SiteFromSource))
            }
            _ => None,
        };
        match failure {
            None => {
                agent.connected = true;
                host.open += 1;
                if self.rng.bool() {
                    self.scheduler.opened(self.now, session);
                }
                self.transact(session);
            }
            Some(scope) => self.close(session, &[], scope),
        }
    }

    /// The batch's transaction takes place; its answer comes later.
    pub(super) fn transact(&mut self, session: SessionId) {
        let agent = &self.agents[&session];
        let host = &self.hosts[agent.host];
        let think = match host.mood {
            Mood::Tarpit => self.rng.u64(20..300) * SECOND,
            _ => self.rng.u64(1..50),
        };
        let at = self.now + 2 * host.rtt_ms + think;
        self.at(at, Event::Answered { session });
    }

    pub(super) fn answered(&mut self, session: SessionId) {
        let Some(agent) = self.agents.get_mut(&session) else {
            return;
        };
        let batch = agent.batch.clone().expect("a transaction under way");
        let host = &mut self.hosts[agent.host];
        host.transactions += 1;
        let lost = host.mood == Mood::LosesAnswers && host.transactions.is_multiple_of(3);
        let gone = host.mood == Mood::ClosesIdle && host.transactions.is_multiple_of(5);
        let one = host.mood == Mood::OneMessage;
        let pipelines = matches!(host.mood, Mood::Pipelines { .. });
        let breaks = host.mood == Mood::Pipelines { breaks: true };
        if breaks && agent.next.is_some() && host.transactions.is_multiple_of(7) {
            // The host had closed: neither has an answer.
            return self.close(session, &[], None);
        }
        if gone {
            // The host had closed before it saw the batch.
            return self.close(session, &[], None);
        }
        let mut results = Vec::new();
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            let first = *host.seen.entry(key).or_insert(self.now);
            let disposition = match host.mood {
                Mood::Greylisting { delay_ms } if self.now < first + delay_ms => {
                    Disposition::Retry {
                        not_before: None,
                        retry: None,
                    }
                }
                Mood::Picky if (key.0 / 4096 + u64::from(key.1)) % 3 == 0 && first == self.now => {
                    Disposition::Retry {
                        not_before: Some(self.now + 10 * MINUTE),
                        retry: None,
                    }
                }
                _ if lost => Disposition::Retry {
                    not_before: None,
                    retry: None,
                },
                _ => Disposition::Terminal,
            };
            results.push((key.0, key.1, disposition));
        }
        if lost {
            return self.close(session, &results, Some(Scope::SiteFromSource));
        }
        if one {
            return self.close(session, &results, None);
        }
        self.settle(&results);
        let agent = self.agents.get_mut(&session).expect("it was there above");
        agent.batch = agent.next.take();
        let goes_on = agent.batch.is_some();
        agent.idle_since = (!goes_on).then_some(self.now);
        if self.hosts[agent.host].mood == Mood::ClosesIdle {
            let close = Event::RemoteClose {
                session,
                idle_since: self.now,
            };
            self.at(self.now + 2 * SECOND, close);
        }
        self.scheduler
            .report(self.now, session, &results, SessionState::Idle);
        if pipelines {
            self.scheduler.runs_ahead(self.now, session);
        }
        if goes_on {
            self.transact(session);
        }
    }

    fn settle(&mut self, results: &[(u64, u16, Disposition)]) {
        for &(position, number, disposition) in results {
            let recipient = self
                .recipients
                .get_mut(&(position, number))
                .expect("it was handed out");
            assert!(matches!(recipient.place, Place::With(_)));
            recipient.place = Place::Queued;
            if disposition != Disposition::NotAttempted {
                recipient.attempts += 1;
            }
            if disposition == Disposition::Terminal {
                let bounces = self.hosts[recipient.domain % self.hosts.len()].mood == Mood::Picky
                    && number % 2 == 1;
                let outcome = if bounces {
                    Outcome::Bounced
                } else {
                    Outcome::Delivered
                };
                assert_eq!(recipient.outcome, None, "a second outcome");
                recipient.outcome = Some((self.now, outcome));
            }
        }
    }

    /// The connection is gone. Recipients that `results` leaves out were not attempted.
    pub(super) fn close(
        &mut self,
        session: SessionId,
        results: &[(u64, u16, Disposition)],
        failure: Option<Scope>,
    ) {
        self.settle(results);
        let agent = self.agents.remove(&session).expect("a session that lives");
        if agent.connected {
            self.hosts[agent.host].open -= 1;
        }
        let named = if results.is_empty() {
            agent.batch
        } else {
            None
        };
        for batch in named.into_iter().chain(agent.next) {
            for given in &batch.recipients {
                let key = (batch.position, given.number);
                let recipient = self.recipients.get_mut(&key);
                recipient.expect("it was handed out").place = Place::Queued;
            }
        }
        let state = SessionState::Closed {
            site_failure: failure,
        };
        self.scheduler.report(self.now, session, results, state);
    }

    pub(super) fn operate(&mut self) {
        self.operated = true;
        let domain = format!("d{}.test", self.rng.usize(0..self.dns.len()));
        let position = (self.rng.u64(0..self.messages.len() as u64) + 1) * 4096;
        let selection = match self.rng.u8(0..4) {
            0 => Selection::All,
            1 => Selection::Message { position },
            _ => Selection::Domain(&domain),
        };
        match self.rng.u8(0..3) {
            0 if selection != Selection::All => {
                self.scheduler
                    .withdraw(self.now, selection, Withdrawal::Cancel);
            }
            1 if selection != Selection::All => {
                self.scheduler
                    .withdraw(self.now, selection, Withdrawal::Bounce);
            }
            _ => {
                self.scheduler.retry_now(self.now, selection);
            }
        }
        if self.rng.u8(0..5) > 0 {
            let again = self.now + self.rng.u64(0..HOUR);
            self.at(again, Event::Operator);
        }
    }
}
