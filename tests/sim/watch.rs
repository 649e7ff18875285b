//! Who watches the limits: counts for itself, from what was handed out and from what hosts saw.

use super::*;

#[derive(Default)]
pub(super) struct Watch {
    sessions: BTreeMap<SessionId, Watched>,
    /// By source and site.
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
    pub(super) fn site_of(&self, session: SessionId) -> usize {
        self.sessions[&session].site
    }
}

impl World {
    fn rules(&self, site: usize) -> Rules {
        self.plan.setup.rules[self.sites[site].provider]
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
        let path = self.watch.paths.entry((source, site)).or_default();
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
        let path = self.watch.paths.get_mut(&(watched.source, watched.site));
        path.expect("it has sessions").sessions -= 1;
    }

    pub(super) fn watch_batch(&mut self, session: SessionId, batch: &Batch) {
        let site = self.watch.site_of(session);
        let (rules, now) = (self.rules(site), self.now);
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
        let path = self.watch.paths.entry((source, site)).or_default();
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
        if is_watched && is_steady && !self.drained_ever {
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
