//! Connections: what is on its way, for how long, and what the host's end does with it.

use super::*;

/// A connection, seen from both ends.
pub(super) struct Line {
    pub(super) session: SessionId,
    pub(super) site: usize,
    pub(super) conn: Option<Conn>,
    pub(super) source: IpAddr,
    /// What the host sends arrives in order.
    pub(super) arrives: UnixMs,
    /// We let go of it.
    pub(super) dropped: bool,
    /// Open at both ends.
    pub(super) held: bool,
}

/// On its way to one of the ends.
#[derive(Debug)]
pub(super) enum Wire {
    Connect,
    Octets(Vec<u8>),
    Closed,
}

impl World {
    /// With `SIM_DIALOGUE`, the dialogues of a world.
    pub(super) fn tell(&self, line: u64, way: &str, what: &Wire) {
        if !self.tells {
            return;
        }
        let Some(known) = self.lines.get(&line) else {
            return;
        };
        let text = match what {
            Wire::Octets(octets) => String::from_utf8_lossy(octets).replace("\r\n", " | "),
            other => format!("{other:?}"),
        };
        let text: String = text.chars().take(200).collect();
        let (at, session) = (self.now - START, known.session.0);
        eprintln!(
            "{at:>9} session {session} line {line} site {} {way}: {text}",
            known.site
        );
    }

    pub(super) fn arrive_there(&mut self, line: u64, what: Wire) {
        self.tell(line, "to host", &what);
        let Some(known) = self.lines.get_mut(&line) else {
            return;
        };
        let site = &mut self.sites[known.site];
        let acts = match (what, &mut known.conn) {
            (Wire::Connect, conn) => {
                let absent = self.plan.absent;
                let blocked = absent.is_some_and(|a| a.is(self.now, known.source, true));
                let (accepted, acts) = site.accept(self.now, known.source, blocked);
                *conn = Some(accepted);
                let (at, site) = (self.now + site.latency_ms, known.site);
                known.arrives = at;
                known.held = !known.dropped;
                self.lines_held += usize::from(known.held);
                self.at(at, Event::ToUs(line, Wire::Connect));
                self.watch_connections(site);
                acts
            }
            (Wire::Octets(octets), Some(conn)) if conn.open => {
                let acts = site.hear(conn, self.now, &octets, &mut self.rng);
                let (site, messages) = (known.site, conn.messages);
                self.watch_messages(site, messages);
                acts
            }
            (Wire::Closed, conn) => {
                if let Some(conn) = conn {
                    site.closed(conn);
                }
                self.lines.remove(&line);
                return;
            }
            _ => return,
        };
        self.act(line, acts);
        self.expect_idleness(line);
    }

    fn act(&mut self, line: u64, acts: Vec<Act>) {
        let Some(known) = self.lines.get_mut(&line).filter(|_| !acts.is_empty()) else {
            return;
        };
        let site = &mut self.sites[known.site];
        let thinks = site.thinks(&mut self.rng);
        let mut at = known.arrives.max(self.now + thinks + site.latency_ms);
        let mut arrivals = Vec::new();
        for act in acts {
            match act {
                // Not always in one segment.
                Act::Say(mut octets) if octets.len() > 1 && self.rng.u8(0..10) == 0 => {
                    let rest = octets.split_off(self.rng.usize(1..octets.len()));
                    arrivals.push((at, Wire::Octets(octets)));
                    at += self.rng.u64(1..20);
                    arrivals.push((at, Wire::Octets(rest)));
                }
                Act::Say(octets) => arrivals.push((at, Wire::Octets(octets))),
                Act::Close => {
                    if let Some(conn) = &mut known.conn {
                        site.closed(conn);
                    }
                    self.lines_held -= usize::from(std::mem::take(&mut known.held));
                    arrivals.push((at, Wire::Closed));
                }
            }
        }
        known.arrives = at;
        for (at, what) in arrivals {
            self.at(at, Event::ToUs(line, what));
        }
    }

    fn expect_idleness(&mut self, line: u64) {
        let Some(known) = self.lines.get(&line) else {
            return;
        };
        if self.sites[known.site].has(Trouble::ClosesIdle) {
            self.at(self.now + 2 * SECOND, Event::HostIdle(line, self.now));
        }
    }

    /// Nothing was heard since.
    pub(super) fn host_idle(&mut self, line: u64, since: UnixMs) {
        let conn = self.lines.get(&line).and_then(|known| known.conn.as_ref());
        if conn.is_some_and(|conn| conn.open && conn.heard_at == since) {
            self.act(line, vec![Act::Close]);
        }
    }
}
