//! Remote sites: SMTP servers, octet for octet, with their troubles. They keep books of their own about what they took and
//! refused, which the judge compares with what our side believes.

use super::*;

/// The hosts that one set of MX records names.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) key: Arc<str>,
    /// Our provider of it; past the last one: none.
    pub(super) provider: usize,
    pub(super) hosts: Arc<[NextHop]>,
    /// Of each host, until when it is not to be reached, and whether it says so.
    pub(super) outages: Vec<Option<(UnixMs, bool)>>,
    pub(super) pipelining: bool,
    pub(super) chunking: bool,
    pub(super) enhanced: bool,
    /// One way.
    pub(super) latency_ms: u64,
    pub(super) think_ms: u64,
    pub(super) troubles: Vec<Trouble>,
    /// Connections that it did not let in, for a reason that holds for all.
    pub(super) turned_away: u64,
    pub(super) books: Books,
}

/// What a host saw and said.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Connections open now, by source.
    pub(super) open: BTreeMap<IpAddr, usize>,
    /// When it saw this recipient first, by the source that it came from.
    first_seen: BTreeMap<(u64, u16, IpAddr), UnixMs>,
    /// Contents that it took for this recipient.
    pub(super) taken: BTreeMap<(u64, u16), u32>,
    /// Recipients that it refused for good.
    pub(super) refused: BTreeSet<(u64, u16)>,
    /// Times of MAIL by source.
    seen: BTreeMap<IpAddr, VecDeque<UnixMs>>,
    transactions: u64,
}

/// One connection, as the host sees it.
pub(super) struct Conn {
    pub(super) source: IpAddr,
    pub(super) open: bool,
    state: Reading,
    buffer: Vec<u8>,
    from: Option<u64>,
    recipients: Vec<(u64, u16)>,
    content: Vec<u8>,
    /// Contents that it ended.
    contents: u64,
    /// Messages that it saw, those that come again at once counted once.
    pub(super) messages: u64,
    last: Option<u64>,
    /// It has answered something twice.
    doubled: bool,
    pub(super) heard_at: UnixMs,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reading {
    Commands,
    Data,
    Chunk { left: usize },
}

/// What a host does on a connection.
#[derive(Debug, PartialEq)]
pub(super) enum Act {
    Say(Vec<u8>),
    /// After what was said.
    Close,
}

impl Books {
    pub(super) fn forget(&mut self, key: (u64, u16)) {
        self.taken.remove(&key);
        self.refused.remove(&key);
        let first = (key.0, key.1, IpAddr::from([0; 4]));
        let last = (key.0, key.1, IpAddr::from([u8::MAX; 16]));
        let seen = self.first_seen.range(first..=last).map(|(&seen, _)| seen);
        for seen in seen.collect::<Vec<_>>() {
            self.first_seen.remove(&seen);
        }
    }
}

impl Site {
    pub(super) fn new(index: usize, setup: &Setup, rng: &mut fastrand::Rng) -> Self {
        let provider = rng.usize(0..setup.rules.len());
        let name = match provider + 1 == setup.rules.len() {
            true => format!("h{index}.example"),
            false => format!("h{index}.p{provider}.test"),
        };
        let hosts: Arc<[NextHop]> = (0..rng.u8(1..3))
            .map(|host| NextHop {
                name: format!("mx{host}.{name}").into(),
                preference: 10 * u16::from(host * rng.u8(0..2)),
                port: 25,
                addresses: vec![address_of(index, host)],
            })
            .collect();
        let mut outages = vec![None; hosts.len()];
        // Of several hosts one may be out, or all.
        if index > 0 && rng.u8(0..4) == 0 {
            let until = START + rng.u64(0..6 * HOUR);
            let all = rng.bool();
            for outage in outages.iter_mut().take(if all { usize::MAX } else { 1 }) {
                *outage = Some((until, rng.bool()));
            }
        }
        let mut site = Self {
            key: name.into(),
            provider,
            hosts,
            outages,
            pipelining: rng.u8(0..4) > 0,
            chunking: rng.bool(),
            enhanced: rng.u8(0..4) > 0,
            latency_ms: rng.u64(1..100),
            think_ms: rng.u64(0..50),
            troubles: Vec::new(),
            turned_away: 0,
            books: Books::default(),
        };
        // The first site is always healthy, so that starvation shows.
        for _ in 0..if index == 0 { 0 } else { rng.usize(0..3) } {
            site.troubles.push(Trouble::some(rng, setup));
        }
        site.chunking |= site.has(Trouble::NoBdat);
        site.pipelining |= site.has(Trouble::ForgetsPipelined) || site.has(Trouble::ForgetsAhead);
        site
    }

    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.troubles.is_empty() && self.outages.iter().all(Option::is_none)
    }

    /// Of the host with this address.
    pub(super) fn outage(&self, address: IpAddr, now: UnixMs) -> Option<bool> {
        let host = self
            .hosts
            .iter()
            .position(|host| host.addresses[0] == address)?;
        let (until, says_so) = self.outages[host]?;
        (now < until).then_some(says_so)
    }

    /// A connection comes in.
    pub(super) fn accept(
        &mut self,
        now: UnixMs,
        source: IpAddr,
        blocked: bool,
    ) -> (Conn, Vec<Act>) {
        let open = self.books.open.entry(source).or_default();
        *open += 1;
        let open = *open;
        let conn = Conn {
            source,
            open: true,
            state: Reading::Commands,
            buffer: Vec::new(),
            from: None,
            recipients: Vec::new(),
            content: Vec::new(),
            contents: 0,
            messages: 0,
            last: None,
            doubled: false,
            heard_at: now,
        };
        let says = |text: &str| vec![Act::Say(format!("{text}\r\n").into_bytes()), Act::Close];
        if blocked {
            return (conn, says("554 5.7.1 your address is on a blocklist"));
        }
        for trouble in &self.troubles {
            match *trouble {
                Trouble::DropsEarly { until } if now < until => {
                    self.turned_away += 1;
                    return (conn, vec![Act::Close]);
                }
                Trouble::FewConnections { count } if open > count => {
                    return (conn, says("421 4.7.0 too many connections"));
                }
                Trouble::Dislikes {
                    source: disliked,
                    at_mail: false,
                } if disliked == source => return (conn, says("554 5.7.1 not from there")),
                Trouble::Never { at_mail: false } => {
                    self.turned_away += 1;
                    return (conn, says("554 no mail today"));
                }
                _ => {}
            }
        }
        (conn, vec![Act::Say(b"220 mx ready\r\n".to_vec())])
    }

    /// The connection is gone, by whomever.
    pub(super) fn closed(&mut self, conn: &mut Conn) {
        if std::mem::take(&mut conn.open)
            && let Some(open) = self.books.open.get_mut(&conn.source)
        {
            *open -= 1;
        }
    }

    /// Octets arrive together.
    pub(super) fn hear(
        &mut self,
        conn: &mut Conn,
        now: UnixMs,
        octets: &[u8],
        rng: &mut fastrand::Rng,
    ) -> Vec<Act> {
        conn.heard_at = now;
        conn.buffer.extend_from_slice(octets);
        let mut acts = Vec::new();
        let mut said = Vec::new();
        let mut commands = 0;
        while conn.open && acts.is_empty() {
            let Some(mut replies) = self.read(conn, now, rng, &mut acts) else {
                break;
            };
            commands += 1;
            if self.has(Trouble::Doubles) && rng.u8(0..6) == 0 {
                replies = replies.repeat(2);
                conn.doubled |= !replies.is_empty();
            }
            said.extend_from_slice(replies.as_bytes());
            let forgets = self.has(Trouble::ForgetsPipelined) && conn.state == Reading::Commands
                || self.has(Trouble::ForgetsAhead) && replies.contains("content");
            if forgets && commands == 1 {
                conn.buffer.clear();
            }
        }
        if !said.is_empty() {
            acts.insert(0, Act::Say(said));
        }
        acts
    }

    /// One command, or a piece of content, if it is there whole. `acts` is filled when it is the last.
    fn read(
        &mut self,
        conn: &mut Conn,
        now: UnixMs,
        rng: &mut fastrand::Rng,
        acts: &mut Vec<Act>,
    ) -> Option<String> {
        match conn.state {
            Reading::Commands => {
                let end = memchr::memmem::find(&conn.buffer, b"\r\n")?;
                let line: Vec<u8> = conn.buffer.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                if self.breaks_off(rng, acts) {
                    return Some(String::new());
                }
                if self.has(Trouble::ShutsDown) && rng.u8(0..12) == 0 {
                    acts.push(Act::Close);
                    return Some("421 4.3.2 shutting down\r\n".into());
                }
                let babbles = self.has(Trouble::Babbles) && rng.u8(0..20) == 0;
                let reply = self.command(conn, now, &line, acts);
                if babbles && !reply.is_empty() {
                    return Some("what?\r\n".into());
                }
                Some(reply)
            }
            Reading::Data => {
                let end = match conn.buffer.starts_with(b".\r\n") {
                    true => 0,
                    false => memchr::memmem::find(&conn.buffer, b"\r\n.\r\n")? + 2,
                };
                conn.content = conn.buffer.drain(..end).collect();
                conn.buffer.drain(..3);
                conn.state = Reading::Commands;
                Some(self.content(conn, rng, acts))
            }
            Reading::Chunk { left } => {
                if conn.buffer.len() < left {
                    return None;
                }
                conn.content = conn.buffer.drain(..left).collect();
                conn.state = Reading::Commands;
                Some(self.content(conn, rng, acts))
            }
        }
    }

    fn breaks_off(&self, rng: &mut fastrand::Rng, acts: &mut Vec<Act>) -> bool {
        let breaks = self.has(Trouble::Resets) && rng.u8(0..12) == 0;
        if breaks {
            acts.push(Act::Close);
        }
        breaks
    }

    fn command(&mut self, conn: &mut Conn, now: UnixMs, line: &str, acts: &mut Vec<Act>) -> String {
        if let Some(path) = line.strip_prefix("MAIL FROM:<m") {
            let digits = path
                .split('@')
                .next()
                .and_then(|number| number.parse().ok());
            let position: u64 = digits.unwrap_or_else(|| panic!("{line:?}"));
            return self.mail(conn, now, position);
        }
        if let Some(path) = line.strip_prefix("RCPT TO:<r") {
            return self.recipient(conn, now, path);
        }
        if let Some(size) = line.strip_prefix("BDAT ") {
            if self.has(Trouble::NoBdat) {
                return self.reply(502, "5.5.1", "what is BDAT");
            }
            let size = size.trim_end_matches(" LAST").parse();
            conn.state = Reading::Chunk {
                left: size.unwrap_or_else(|_| panic!("{line:?}")),
            };
            return String::new();
        }
        match line {
            "RSET" => {
                conn.from = None;
                conn.recipients.clear();
                self.reply(250, "2.0.0", "reset")
            }
            "DATA" if conn.recipients.is_empty() => self.reply(503, "5.5.1", "no recipients"),
            "DATA" => {
                conn.state = Reading::Data;
                "354 go ahead\r\n".into()
            }
            "QUIT" => {
                acts.push(Act::Close);
                self.reply(221, "2.0.0", "bye")
            }
            _ if line.starts_with("EHLO ") => {
                conn.from = None;
                conn.recipients.clear();
                let mut text = "250-mx.test\r\n".to_owned();
                for (offered, keyword) in [
                    (self.pipelining, "PIPELINING"),
                    (self.chunking, "CHUNKING"),
                    (self.enhanced, "ENHANCEDSTATUSCODES"),
                ] {
                    if offered {
                        text += &format!("250-{keyword}\r\n");
                    }
                }
                text + "250 8BITMIME\r\n"
            }
            // Content after a BDAT that was not understood, mostly.
            _ => self.reply(500, "5.5.2", "what"),
        }
    }

    fn reply(&self, code: u16, status: &str, text: &str) -> String {
        match self.enhanced {
            true => format!("{code} {status} {text}\r\n"),
            false => format!("{code} {text}\r\n"),
        }
    }

    fn mail(&mut self, conn: &mut Conn, now: UnixMs, position: u64) -> String {
        if conn.from.is_some() {
            return self.reply(503, "5.5.1", "one at a time");
        }
        if conn.last.replace(position) != Some(position) {
            conn.messages += 1;
            let seen = self.books.seen.entry(conn.source).or_default();
            seen.push_back(now);
            while seen.front().is_some_and(|at| at + MINUTE <= now) {
                seen.pop_front();
            }
        }
        for trouble in &self.troubles {
            match *trouble {
                Trouble::Throttles { per_minute }
                    if self.books.seen[&conn.source].len() > per_minute =>
                {
                    return self.reply(451, "4.7.1", "slow down");
                }
                Trouble::Dislikes {
                    source,
                    at_mail: true,
                } if source == conn.source => return self.reply(450, "4.7.1", "not from there"),
                Trouble::Never { at_mail: true } => return self.reply(450, "4.3.2", "not now"),
                _ => {}
            }
        }
        conn.from = Some(position);
        conn.recipients.clear();
        self.reply(250, "2.1.0", "sender ok")
    }

    fn recipient(&mut self, conn: &mut Conn, now: UnixMs, path: &str) -> String {
        let Some(from) = conn.from else {
            return self.reply(503, "5.5.1", "who is it from");
        };
        let numbers = path.split('@').next().and_then(|name| name.split_once('.'));
        let parsed = numbers.and_then(|(p, n)| Some((p.parse().ok()?, n.parse().ok()?)));
        let key: (u64, u16) = parsed.unwrap_or_else(|| panic!("{path:?}"));
        assert_eq!(key.0, from, "a recipient of another message");
        let seen = (key.0, key.1, conn.source);
        let remembers = |t: &Trouble| matches!(t, Trouble::Greylists { .. } | Trouble::Picky);
        let first = match self.troubles.iter().any(remembers) {
            true => *self.books.first_seen.entry(seen).or_insert(now),
            false => now,
        };
        for trouble in self.troubles.clone() {
            match trouble {
                Trouble::Greylists { delay_ms } if now < first + delay_ms => {
                    return self.reply(451, "4.7.1", "greylisted");
                }
                Trouble::FewRecipients { count } if conn.recipients.len() >= count => {
                    return self.reply(452, "4.5.3", "too many recipients");
                }
                Trouble::Picky if key.1 % 2 == 1 => {
                    self.books.refused.insert(key);
                    return self.reply(550, "5.1.1", "no such user");
                }
                Trouble::Picky if (key.0 / 4096).is_multiple_of(3) && now < first + 10 * MINUTE => {
                    return self.reply(452, "4.2.2", "mailbox full");
                }
                _ => {}
            }
        }
        conn.recipients.push(key);
        self.reply(250, "2.1.5", "recipient ok")
    }

    /// The end of a content has come.
    fn content(&mut self, conn: &mut Conn, rng: &mut fastrand::Rng, acts: &mut Vec<Act>) -> String {
        let recipients = std::mem::take(&mut conn.recipients);
        let from = conn.from.take();
        let content = std::mem::take(&mut conn.content);
        if recipients.is_empty() {
            return self.reply(554, "5.5.1", "content for nobody");
        }
        self.books.transactions += 1;
        // Who answers twice is not well, and often worse soon.
        if conn.doubled && rng.bool() {
            acts.push(Act::Close);
            return String::new();
        }
        if self.breaks_off(rng, acts) {
            return String::new();
        }
        let position = from.unwrap_or_else(|| panic!("recipients without a sender"));
        let head = format!("Subject: {position}\r\n\r\n");
        assert!(
            content.starts_with(head.as_bytes()) && content.ends_with(b"the end\r\n"),
            "the content of another message, or a part of it, for {position}"
        );
        if self.has(Trouble::RefusesContent) && (position / 4096).is_multiple_of(3) {
            if (position / 4096).is_multiple_of(2) {
                self.books.refused.extend(recipients);
                return self.reply(554, "5.7.1", "content refused");
            }
            return self.reply(451, "4.3.0", "content not now");
        }
        for key in recipients {
            *self.books.taken.entry(key).or_default() += 1;
        }
        conn.contents += 1;
        if self.has(Trouble::LosesAnswers) && self.books.transactions.is_multiple_of(3) {
            acts.push(Act::Close);
            return String::new();
        }
        if self.has(Trouble::OneMessage) {
            acts.push(Act::Close);
        }
        self.reply(250, "2.0.0", "content taken")
    }

    /// How long it takes to answer.
    pub(super) fn thinks(&self, rng: &mut fastrand::Rng) -> u64 {
        let tarpit = self.troubles.iter().find_map(|trouble| match trouble {
            Trouble::Tarpits { ms } => Some(rng.u64(0..*ms)),
            _ => None,
        });
        rng.u64(0..=self.think_ms) + tarpit.unwrap_or(0)
    }
}

fn address_of(site: usize, host: u8) -> IpAddr {
    IpAddr::from((0xc612_0000 + 4 * site as u32 + u32::from(host)).to_be_bytes())
}
