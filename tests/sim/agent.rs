//! Our side of a connection: what `deliver::agent` does with sockets and tasks, done with virtual wires. What is decided is
//! decided by the same code: [`ClientSession`] has the dialogue, [`Handover`] what is owed, [`Attempts`] who is tried.

use super::*;

/// One session of the scheduler.
pub(super) struct Agent {
    source: SourceId,
    site: usize,
    handover: Handover,
    dials: VecDeque<Dial>,
    attempts: Attempts,
    dial: Option<Dial>,
    line: Option<u64>,
    client: Option<ClientSession>,
    greeted: bool,
    told_to_close: bool,
    trouble: Option<SourceTrouble>,
    failure: Option<Cause>,
    /// Until when the timer is set, so that it is set once.
    timer: UnixMs,
}

/// What an agent tells its owner.
pub(super) struct Report {
    pub(super) session: SessionId,
    pub(super) results: Vec<RecipientResult>,
    pub(super) state: SessionState,
    pub(super) runs_ahead: bool,
    pub(super) sign: Option<(IpAddr, Sign)>,
    pub(super) broken_by: Option<u64>,
    /// What it says of its source.
    pub(super) of_source: Option<(SourceTrouble, String)>,
}

impl World {
    pub(super) fn open(&mut self, session: SessionId, source: SourceId, site: usize, first: Batch) {
        let hosts = Arc::clone(&self.sites[site].hosts);
        let avoid = hosts.iter().map(|host| host.addresses[0]);
        let avoid = avoid.map(|at| (at, self.habits.avoid(self.now, at)));
        let config = &self.plan.setup.config;
        let (_, from) = config
            .sources()
            .find(|(_, from)| from.id == source)
            .expect("ours");
        let plan = SessionPlan {
            session,
            source,
            avoid: avoid.collect(),
            hosts,
            first: self.errand(first),
        };
        let mut agent = Agent {
            source,
            site,
            handover: Handover::default(),
            dials: dials(&self.timeouts, &plan, from).into(),
            attempts: Attempts::default(),
            dial: None,
            line: None,
            client: None,
            greeted: false,
            told_to_close: false,
            trouble: None,
            failure: None,
            timer: UnixMs::MAX,
        };
        agent.handover.accept(plan.first);
        self.agents.insert(session, agent);
        self.dial_next(session);
    }

    fn errand(&self, batch: Batch) -> Errand {
        Errand {
            one_by_one: self.habits.is_isolated(self.now, batch.position),
            batch,
        }
    }

    /// False: the agent has ended, and its last report is on its way.
    pub(super) fn hand_over(&mut self, session: SessionId, batch: Batch) -> bool {
        let errand = self.errand(batch);
        let Some(agent) = self.agents.get_mut(&session) else {
            return false;
        };
        assert!(!agent.told_to_close, "a batch for a session that closes");
        agent.handover.accept(errand);
        self.go_on(session);
        true
    }

    pub(super) fn tell_to_close(&mut self, session: SessionId) {
        if let Some(agent) = self.agents.get_mut(&session) {
            agent.told_to_close = true;
            self.go_on(session);
        }
    }

    fn dial_next(&mut self, session: SessionId) {
        let agent = self.agents.get_mut(&session).expect("it dials");
        (agent.client, agent.line, agent.greeted) = (None, None, false);
        let Some(dial) = agent.dials.pop_front() else {
            return self.unreached(session);
        };
        if self
            .plan
            .absent
            .is_some_and(|absent| absent.holds(self.now, dial.source))
        {
            *self.failed_dials.entry(dial.source).or_default() += 1;
            let error = ConnectError::Source {
                source_address: dial.source,
                error: std::io::ErrorKind::AddrNotAvailable.into(),
            };
            agent.attempts.not_connected(&dial, error);
            agent.dial = Some(dial);
            return self.dial_next(session);
        }
        let site = &self.sites[agent.site];
        let to = dial.remote.ip();
        let way = site.latency_ms;
        self.lines_made += 1;
        let line = self.lines_made;
        agent.line = Some(line);
        let outage = site.outage(to, self.now);
        let source = dial.source;
        agent.dial = Some(dial);
        let (line_has, at) = (
            Line {
                session,
                site: agent.site,
                conn: None,
                source,
                arrives: 0,
                dropped: false,
                held: false,
            },
            self.now + way,
        );
        self.lines.insert(line, line_has);
        match outage {
            None => self.at(at, Event::ToHost(line, Wire::Connect)),
            Some(true) => self.at(at + way, Event::NotConnected(line, false)),
            Some(false) => {
                let within = self.timeouts.connect.as_millis() as u64;
                self.at(self.now + within, Event::NotConnected(line, true));
            }
        }
    }

    pub(super) fn not_connected(&mut self, line: u64, timed_out: bool) {
        let Some(session) = self.lines.remove(&line).map(|line| line.session) else {
            return;
        };
        let Some(agent) = self.agents.get_mut(&session) else {
            return;
        };
        let error = match timed_out {
            true => ConnectError::TimedOut(self.timeouts.connect),
            false => ConnectError::Remote(std::io::ErrorKind::ConnectionRefused.into()),
        };
        let dial = agent.dial.as_ref().expect("it was dialled");
        agent.attempts.not_connected(dial, error);
        self.dial_next(session);
    }

    /// The connection stands.
    fn connected(&mut self, line: u64) {
        let now = self.instant();
        let session = self.lines[&line].session;
        let agent = self.agents.get_mut(&session).expect("it waits");
        let settings = agent
            .dial
            .as_ref()
            .expect("it was dialled")
            .settings
            .clone();
        agent.client = Some(ClientSession::new(now, settings));
        self.go_on(session);
    }

    fn unreached(&mut self, session: SessionId) {
        self.see("session that no host let in");
        let agent = self.agents.get_mut(&session).expect("it dials");
        let config = &self.plan.setup.config;
        let (_, from) = config
            .sources()
            .find(|(_, from)| from.id == agent.source)
            .expect("ours");
        let unreached = std::mem::take(&mut agent.attempts).outcome(from);
        agent.handover.unreached(&unreached.outcome);
        agent.trouble = unreached.trouble;
        self.end_agent(session, Some(unreached.failure));
    }

    /// What arrives at our end.
    pub(super) fn arrive(&mut self, line: u64, what: Wire) {
        self.tell(line, "to us", &what);
        let now = self.instant();
        let session = match self.lines.get(&line) {
            Some(known) if !known.dropped => known.session,
            _ => return,
        };
        let agent = self.agents.get_mut(&session).expect("it holds the line");
        match (what, &mut agent.client) {
            (Wire::Connect, _) => return self.connected(line),
            (Wire::Octets(octets), Some(client)) => {
                // What breaks the session also becomes an event.
                let _ = client.handle_input(now, &octets);
            }
            (Wire::Closed, Some(client)) => client.handle_close(),
            (_, None) => {}
        }
        self.go_on(session);
    }

    pub(super) fn timer(&mut self, session: SessionId, at: UnixMs) {
        let now = self.instant();
        if let Some(agent) = self.agents.get_mut(&session)
            && agent.timer == at
        {
            agent.timer = UnixMs::MAX;
            if let Some(client) = &mut agent.client {
                client.handle_timeout(now);
            }
            self.go_on(session);
        }
    }

    /// Does all that can be done now, as `Agent::proceed`.
    fn go_on(&mut self, session: SessionId) {
        let now = self.instant();
        loop {
            let Some(agent) = self.agents.get_mut(&session) else {
                return;
            };
            let (Some(client), Some(line)) = (&mut agent.client, agent.line) else {
                return;
            };
            let mut octets = Vec::new();
            let mut out = Vec::new();
            while client.poll_output(&mut out) {
                for piece in out.drain(..) {
                    octets.extend_from_slice(&piece);
                }
            }
            if !octets.is_empty() {
                client.handle_written(now, octets.len());
                let at = self.now + self.sites[agent.site].latency_ms;
                self.at(at, Event::ToHost(line, Wire::Octets(octets)));
                continue;
            }
            let (mut done, mut ended, mut any) = (Vec::new(), None, false);
            while let Some(event) = client.poll_event() {
                any = true;
                match event {
                    ClientEvent::Ready => agent.greeted = true,
                    ClientEvent::Done(verdicts) => done.push(verdicts),
                    ClientEvent::Ended(ending) => ended = Some(ending),
                    ClientEvent::Room => {}
                    ClientEvent::StartTls => unreachable!("nobody offers it here"),
                }
            }
            match ended {
                Some(ending) if !agent.greeted => {
                    let dial = agent.dial.as_ref().expect("it was dialled");
                    agent.attempts.not_let_in(dial, &ending);
                    self.let_go(line);
                    self.dial_next(session);
                }
                // Idle, or after QUIT.
                Some(_) if agent.handover.under_way() == 0 => self.end_agent(session, None),
                None if done.is_empty() => {
                    if !any && !self.begin_next(session) {
                        return self.set_timer(session);
                    }
                }
                ended => self.settle(session, done, ended.as_ref()),
            }
        }
    }

    /// The next transaction, or QUIT. False: neither.
    fn begin_next(&mut self, session: SessionId) -> bool {
        let now = self.instant();
        let agent = self.agents.get_mut(&session).expect("it goes on");
        let client = agent.client.as_mut().expect("it is connected");
        if !agent.greeted {
            return false;
        }
        if client.may_begin()
            && let Some(batch) = agent.handover.next()
        {
            let mail = outbound(&self.recipients, batch);
            client.begin(now, &mail);
            let ahead = agent.handover.under_way() > 0;
            agent.handover.begun(None);
            self.see(match ahead {
                true => "transaction behind another",
                false => "transaction",
            });
            return true;
        }
        let is_free = agent.handover.has_begun_all() && client.is_ready();
        if agent.told_to_close && is_free {
            client.quit(now);
        }
        agent.told_to_close && is_free
    }

    /// Transactions ended, or the session did.
    fn settle(&mut self, session: SessionId, done: Vec<Vec<Verdict>>, ended: Option<&Ending>) {
        let agent = self.agents.get_mut(&session).expect("it goes on");
        let client = agent.client.as_ref().expect("it is connected");
        let excused = client.sign().is_some_and(|sign| sign.certain);
        let mut settling = Settling::new(ended, excused, client.culprit().is_some(), None);
        for verdicts in done {
            let agent = self.agents.get_mut(&session).expect("it goes on");
            let whole = agent.handover.settle(&mut settling, verdicts);
            if ended.is_none() && whole {
                self.report(session, SessionState::Idle);
            }
        }
        if ended.is_some() {
            let failure = self.agents[&session].handover.failure(&settling);
            self.end_agent(session, failure);
        }
    }

    fn end_agent(&mut self, session: SessionId, failure: Option<(Scope, Cause)>) {
        let agent = self.agents.get_mut(&session).expect("it ends");
        agent.handover.give_back();
        let site_failure = failure.as_ref().map(|(scope, _)| *scope);
        agent.failure = failure.map(|(_, cause)| cause);
        self.report(session, SessionState::Closed { site_failure });
        let agent = self.agents.remove(&session).expect("it ends");
        if let Some(line) = agent.line {
            self.let_go(line);
        }
    }

    /// The report is on its way: reports arrive in the order in which they were made.
    fn report(&mut self, session: SessionId, state: SessionState) {
        let agent = self.agents.get_mut(&session).expect("it reports");
        let client = agent.client.as_ref();
        let to = agent.dial.as_ref().map(|dial| dial.remote.ip());
        let results = agent.handover.take_results();
        let report = Report {
            session,
            of_source: trouble_of(agent.trouble, agent.failure.as_ref(), &results)
                .map(|(trouble, cause)| (trouble, cause.detail.clone())),
            results,
            state,
            runs_ahead: client.is_some_and(ClientSession::runs_ahead),
            sign: to.zip(client.and_then(ClientSession::sign)),
            broken_by: agent.handover.take_broken_by(),
        };
        self.reports_until = self.reports_until.max(self.now + self.rng.u64(0..3));
        self.at(
            self.reports_until,
            Event::Report(self.life, Box::new(report)),
        );
    }

    fn set_timer(&mut self, session: SessionId) {
        let agent = self.agents.get_mut(&session).expect("it goes on");
        let deadline = agent.client.as_ref().and_then(ClientSession::poll_timeout);
        let Some(deadline) = deadline else {
            return;
        };
        let at = START + (deadline - self.origin).as_millis() as u64;
        if at < agent.timer {
            agent.timer = at;
            self.at(at, Event::Timer(session, at));
        }
    }

    /// We close the connection.
    fn let_go(&mut self, line: u64) {
        if let Some(known) = self.lines.get_mut(&line)
            && !std::mem::replace(&mut known.dropped, true)
        {
            self.lines_held -= usize::from(std::mem::take(&mut known.held));
            let at = self.now + self.sites[known.site].latency_ms;
            self.at(at, Event::ToHost(line, Wire::Closed));
        }
    }

    /// Every connection is reset: the node is killed.
    pub(super) fn let_go_of_all(&mut self) {
        let all: Vec<u64> = self.lines.keys().copied().collect();
        for line in all {
            self.let_go(line);
        }
        self.agents.clear();
    }
}

/// The message as it leaves.
fn outbound(recipients: &BTreeMap<(u64, u16), Recipient>, batch: &Batch) -> Outbound {
    let position = batch.position;
    let recipients = batch.recipients.iter().map(|given| {
        let domain = recipients[&(position, given.number)].domain;
        OutboundRecipient {
            number: given.number,
            forward_path: format!("r{position}.{}@d{domain}.test", given.number),
            ..OutboundRecipient::default()
        }
    });
    // Some are too long to leave in one flight.
    let lines = match position / 4096 % 200 {
        99 => 20_000,
        few => few as usize % 20,
    };
    let content = format!(
        "Subject: {position}\r\n\r\n{}the end\r\n",
        "..dots and words\r\n".repeat(lines)
    );
    Outbound {
        reverse_path: format!("m{position}@shop.test"),
        recipients: recipients.collect(),
        content: Content::from(vec![content.into()]),
        ..Outbound::default()
    }
}
