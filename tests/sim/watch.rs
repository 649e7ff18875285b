//! Who watches the limits: counts for itself, from what was handed out and from what hosts saw.

use super::*;

#[derive(Default)]
pub(super) struct Watch {
    sessions: BTreeMap<SessionId, Watched>,
    /// By source and site, or provider behind the last site where limits are of the whole provider.
    paths: BTreeMap<(SourceId, usize), Path>,
    /// Sessions of broadcast pools.
    broadcast: usize,
    /// Which source a message takes, by the pool's site.
    sources: BTreeMap<(u64, usize), SourceId>,
}

struct Watched {
    source: SourceId,
    pool: PoolId,
    site: usize,
    messages: u64,
}

#[derive(Default)]
struct Path {
    sessions: usize,
    last_message: Option<UnixMs>,
    last_connection: Option<UnixMs>,
    hour: Volume,
    day: Volume,
}

/// Messages in a period that begins with the first of them.
#[derive(Default)]
struct Volume {
    until: UnixMs,
    count: u64,
}

impl Volume {
    fn add(&mut self, now: UnixMs, period: u64) -> u64 {
        if self.until <= now {
            (self.until, self.count) = (now + period, 0);
        }
        self.count += 1;
        self.count
    }
}

impl Watch {
    pub(super) fn of(sources: BTreeMap<(u64, usize), SourceId>) -> Self {
        Self {
            sources,
            ..Self::default()
        }
    }

    pub(super) fn take_sources(&mut self) -> BTreeMap<(u64, usize), SourceId> {
        std::mem::take(&mut self.sources)
    }

    pub(super) fn site_of(&self, session: SessionId) -> usize {
        self.sessions[&session].site
    }
}

impl World {
    fn rules(&self, site: usize) -> Rules {
        self.plan.setup.rules[self.sites[site].provider]
    }

    /// Of what its limits are.
    fn counted_at(&self, site: usize) -> usize {
        match self.rules(site).whole {
            true => self.sites.len() + self.sites[site].provider,
            false => site,
        }
    }

    /// Sources that went out of service by themselves, or came back.
    pub(super) fn note_sources(&mut self) {
        for change in self.scheduler().take_source_changes() {
            self.stopped_ever = true;
            let why = change.stop.as_ref().or(change.was.as_ref()).map(|s| s.why);
            match (why, change.stop.is_some()) {
                (Some(StopCause::Missing), true) => self.see("source without its address"),
                (Some(StopCause::Refused), true) => self.see("source refused everywhere"),
                (Some(StopCause::Drained) | None, _) => {}
                (Some(_), false) => self.see("source back by itself"),
                (Some(StopCause::Proxy), true) => unreachable!("there is no proxy here"),
            }
        }
    }

    pub(super) fn watch_open(
        &mut self,
        session: SessionId,
        source: SourceId,
        pool: PoolId,
        site: usize,
    ) {
        let (rules, now) = (self.rules(site), self.now);
        let config = &self.plan.setup.config;
        let (of, _) = config
            .sources()
            .find(|(_, from)| from.id == source)
            .expect("ours");
        assert_eq!(of.id, pool, "a source of another pool");
        assert!(!self.is_drained(source), "{source:?} is drained");
        let counted_at = self.counted_at(site);
        let path = self.watch.paths.entry((source, counted_at)).or_default();
        path.sessions += 1;
        assert!(
            path.sessions <= rules.connections,
            "{} connections: {rules:?}",
            path.sessions
        );
        if let (Some(rate), Some(last)) = (rules.connection_rate, path.last_connection) {
            assert!(
                now >= last + rate.1 / rate.0,
                "connections too fast: {rules:?}"
            );
        }
        path.last_connection = Some(now);
        let watched = Watched {
            source,
            pool,
            site,
            messages: 0,
        };
        self.watch.sessions.insert(session, watched);
        let limit = self.plan.setup.connections;
        self.watch.broadcast += usize::from(pool != TX);
        let broadcast = self.watch.broadcast;
        assert!(self.watch.sessions.len() <= limit && broadcast <= limit - limit / 4);
    }

    pub(super) fn watch_closed(&mut self, session: SessionId) {
        let watched = self.watch.sessions.remove(&session).expect("it was open");
        self.watch.broadcast -= usize::from(watched.pool != TX);
        let counted_at = self.counted_at(watched.site);
        let path = self.watch.paths.get_mut(&(watched.source, counted_at));
        path.expect("it has sessions").sessions -= 1;
    }

    pub(super) fn watch_batch(&mut self, session: SessionId, batch: &Batch) {
        let site = self.watch.site_of(session);
        let (rules, now) = (self.rules(site), self.now);
        let counted_at = self.counted_at(site);
        let watched = self.watch.sessions.get_mut(&session).expect("it is open");
        watched.messages += 1;
        assert!(
            watched.messages <= rules.messages_per_connection,
            "messages: {rules:?}"
        );
        let recipients = 1..=rules.recipients_per_message;
        assert!(
            recipients.contains(&batch.recipients.len()),
            "recipients: {rules:?}"
        );
        let source = watched.source;
        assert!(!self.is_drained(source), "{source:?} is drained");
        assert!(
            !self.holds_way(site, source),
            "site {site} or {source:?} is suspended"
        );
        let path = self.watch.paths.entry((source, counted_at)).or_default();
        if let (Some(rate), Some(last)) = (rules.message_rate, path.last_message) {
            assert!(
                now >= last + rate.1 / rate.0,
                "messages too fast: {rules:?}"
            );
        }
        path.last_message = Some(now);
        let (hour, day) = (path.hour.add(now, HOUR), path.day.add(now, 24 * HOUR));
        assert!(
            rules.messages_per_hour.is_none_or(|max| hour <= max),
            "in an hour: {rules:?}"
        );
        assert!(
            rules.messages_per_day.is_none_or(|max| day <= max),
            "in a day: {rules:?}"
        );
        // Who greylists knows a source: messages stick to theirs where nothing speaks against it.
        let at = &self.sites[site];
        let steady = |trouble: &Trouble| matches!(trouble, Trouble::Greylists { .. });
        let is_watched = (batch.position / 4096).is_multiple_of(self.plan.sample);
        let is_steady = at.troubles.iter().all(steady) && at.outages.iter().all(Option::is_none);
        let is_ours = !self.drained_ever && self.directives.is_empty();
        if is_watched && is_steady && is_ours && !self.stopped_ever && self.plan.absent.is_none() {
            let sticks = self
                .watch
                .sources
                .entry((batch.position, site))
                .or_insert(source);
            assert_eq!(
                *sticks, source,
                "message {} changed its source",
                batch.position
            );
        }
    }

    /// As the hosts of the site count them.
    pub(super) fn watch_connections(&self, site: usize) {
        let rules = self.rules(site);
        // Of a whole provider too: what we closed at another of its sites may arrive later than what we open here.
        for (source, &open) in &self.sites[site].books.open {
            assert!(
                open <= rules.connections,
                "{open} connections from {source}: {rules:?}"
            );
        }
        // What we closed may be on its way to a distant host still.
        let all = self.lines_held;
        assert!(
            all <= self.plan.setup.connections,
            "{all} connections of the node"
        );
    }

    /// On one connection, as the host counts them.
    pub(super) fn watch_messages(&self, site: usize, messages: u64) {
        let rules = self.rules(site);
        assert!(
            messages <= rules.messages_per_connection,
            "{messages} messages on a connection: {rules:?}"
        );
    }
}
