//! Following live dialogues: who wants to see which sessions, and the lines that wait for them.
//!
//! Promises: nobody's delivery waits for a follower: whoever reads too slowly loses the oldest lines and is told how many;
//! without followers a session pays a look at an empty list. Content is not shown (see `smtp::client::driver`), and what a
//! remote host says cannot steer a terminal: control characters are escaped here, at the source.
//! Deliberately does not know who the followers are.
//!
//! A session is known by its host and source from the start, by domain and message only when its first transaction begins.
//! So its first lines are kept for followers who ask for those, as long as there are any.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use arc_swap::ArcSwap;
use smallvec::SmallVec;

use crate::clock::{Clock, UnixMs};
use crate::event::Subject;
use crate::limits;
use crate::mail::{Domain, MessageId};
use crate::queue::SessionId;
use crate::smtp::client::{Overhear, Said};

/// All who follow.
#[derive(Default)]
pub struct Trace {
    followers: ArcSwap<Vec<Arc<Seat>>>,
}

/// Which dialogues. What is `None` does not matter; an empty filter is every dialogue.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of a recipient of a transaction under way.
    pub domain: Option<Domain>,
    /// The remote host's name, a domain above it, or its address.
    pub host: Option<String>,
    /// An egress source's name.
    pub source: Option<String>,
    pub message: Option<MessageId>,
}

/// One line of a dialogue.
#[derive(Clone, Debug)]
pub struct Line {
    pub at: UnixMs,
    pub session: SessionId,
    pub source: Arc<str>,
    pub host: Arc<str>,
    pub remote: SocketAddr,
    /// Those whose transactions are under way.
    pub messages: SmallVec<[MessageId; 2]>,
    pub voice: Voice,
    /// Without control characters.
    pub text: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// We said it.
    Client,
    /// The remote host said it.
    Host,
    /// Nobody said it: it happened.
    Note,
}

/// What a follower gets next.
#[derive(Clone, Debug)]
pub enum Heard {
    Line(Box<Line>),
    /// So many lines came too fast.
    Lost(u64),
}

/// All places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} others follow dialogues already; end one of them first",
    limits::TRACE_FOLLOWERS_MAX
)]
pub struct TooManyFollowers;

/// One who follows, until dropped.
pub struct Follower {
    trace: Arc<Trace>,
    seat: Arc<Seat>,
}

struct Seat {
    filter: Filter,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Line>,
    lost: u64,
    waker: Option<Waker>,
}

impl Trace {
    /// Follows from now on.
    pub fn follow(self: &Arc<Self>, filter: Filter) -> Result<Follower, TooManyFollowers> {
        let seat = Arc::new(Seat {
            filter,
            ring: Mutex::default(),
        });
        // Two who come at once both see the other one's place: `rcu` runs the loser again.
        let before = self.followers.rcu(|followers| {
            let mut followers = Vec::clone(followers);
            if followers.len() < limits::TRACE_FOLLOWERS_MAX {
                followers.push(Arc::clone(&seat));
            }
            followers
        });
        if before.len() >= limits::TRACE_FOLLOWERS_MAX {
            return Err(TooManyFollowers);
        }
        Ok(Follower {
            trace: Arc::clone(self),
            seat,
        })
    }
}

impl Follower {
    /// The next line, or how many were lost before it.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let mut ring = self
            .seat
            .ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if ring.lost > 0 {
            return Poll::Ready(Heard::Lost(std::mem::take(&mut ring.lost)));
        }
        if let Some(line) = ring.lines.pop_front() {
            return Poll::Ready(Heard::Line(Box::new(line)));
        }
        ring.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.trace.followers.rcu(|followers| {
            let others = followers.iter().filter(|f| !Arc::ptr_eq(f, &self.seat));
            others.cloned().collect::<Vec<_>>()
        });
    }
}

impl Seat {
    fn push(&self, line: Line) {
        let waker = {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.lines.len() >= limits::TRACE_LINES {
                ring.lines.pop_front();
                ring.lost += 1;
            }
            ring.lines.push_back(line);
            ring.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Filter {
    /// Whether it asks for what is known only in a transaction.
    fn needs_transaction(&self) -> bool {
        self.domain.is_some() || self.message.is_some()
    }

    fn takes_session(&self, source: &str, host: &str, remote: SocketAddr) -> bool {
        let is_source = self.source.as_deref().is_none_or(|wanted| wanted == source);
        is_source
            && self
                .host
                .as_deref()
                .is_none_or(|wanted| is_host(wanted, host, remote.ip()))
    }

    fn takes_transaction(&self, subject: &Subject) -> bool {
        let wanted = self.message.is_none_or(|wanted| wanted == subject.id);
        wanted
            && self.domain.as_ref().is_none_or(|wanted| {
                let mut paths = subject.forward_paths();
                paths.any(|path| is_in(path, wanted))
            })
    }
}

fn is_host(wanted: &str, host: &str, address: IpAddr) -> bool {
    if let Ok(wanted) = wanted.parse::<IpAddr>() {
        return wanted == address;
    }
    let (wanted, host) = (wanted.trim_matches('.'), host.trim_end_matches('.'));
    let Some(before) = host.len().checked_sub(wanted.len()) else {
        return false;
    };
    let (above, end) = host.as_bytes().split_at(before);
    end.eq_ignore_ascii_case(wanted.as_bytes()) && (above.is_empty() || above.ends_with(b"."))
}

fn is_in(path: &str, wanted: &Domain) -> bool {
    let domain = path.rsplit_once('@').map(|(_, domain)| domain);
    let domain = domain.and_then(|domain| Domain::parse(domain).ok());
    domain.is_some_and(|domain| domain == *wanted)
}

/// One session, as followers may see it.
pub(super) struct Tap {
    trace: Arc<Trace>,
    clock: Clock,
    session: SessionId,
    source: Arc<str>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of the transactions under way, or of the last one.
    subjects: VecDeque<Arc<Subject>>,
    /// From before the first transaction.
    prelude: VecDeque<Line>,
}

impl Tap {
    pub(super) fn new(
        trace: Arc<Trace>,
        clock: Clock,
        session: SessionId,
        source: Arc<str>,
    ) -> Self {
        Self {
            trace,
            clock,
            session,
            source,
            known: Mutex::default(),
        }
    }

    /// A transaction begins behind `under_way` others.
    pub(super) fn begin(&self, subject: &Arc<Subject>, under_way: usize) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        while known.subjects.len() > under_way {
            known.subjects.pop_front();
        }
        known.subjects.push_back(Arc::clone(subject));
        let prelude = std::mem::take(&mut known.prelude);
        for seat in self.trace.followers.load().iter() {
            let filter = &seat.filter;
            if filter.needs_transaction() && filter.takes_transaction(subject) {
                let fits =
                    |line: &&Line| filter.takes_session(&line.source, &line.host, line.remote);
                for line in prelude.iter().filter(fits) {
                    seat.push(line.clone());
                }
            }
        }
    }
}

impl Overhear for Tap {
    fn listens(&self) -> bool {
        !self.trace.followers.load().is_empty()
    }

    fn hear(&self, host: &Arc<str>, remote: SocketAddr, said: Said<'_>) {
        let (voice, text) = told(said);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let line = Line {
            at: self.clock.unix_ms(),
            session: self.session,
            source: Arc::clone(&self.source),
            host: Arc::clone(host),
            remote,
            messages: known.subjects.iter().map(|subject| subject.id).collect(),
            voice,
            text: text.into(),
        };
        let mut early = false;
        for seat in self.trace.followers.load().iter() {
            let filter = &seat.filter;
            if !filter.takes_session(&self.source, host, remote) {
                continue;
            }
            let mut subjects = known.subjects.iter();
            if !filter.needs_transaction() || subjects.any(|s| filter.takes_transaction(s)) {
                seat.push(line.clone());
            } else {
                early |= known.subjects.is_empty();
            }
        }
        if early && known.prelude.len() < limits::TRACE_PRELUDE {
            known.prelude.push_back(line);
        }
    }
}

fn told(said: Said<'_>) -> (Voice, String) {
    match said {
        Said::Client(line) => (Voice::Client, escaped(line)),
        Said::Host(line) => (Voice::Host, escaped(line)),
        Said::Content(octets) => (Voice::Client, format!("[{octets} octets of content]")),
        Said::Encrypted(tls) => (Voice::Note, format!("encrypted: {}", tls.description)),
        Said::NotEncrypted(why) => note("TLS failed", why),
        Said::NotConnected(why) => note("not connected", why),
        Said::Ended(ending) => note("ended", &ending.to_string()),
    }
}

fn note(what: &str, why: &str) -> (Voice, String) {
    (Voice::Note, format!("{what}: {}", escaped(why.as_bytes())))
}

/// As text that a terminal shows and does not obey. A backslash is doubled, so that no host can imitate an escape.
fn escaped(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() && c.is_ascii() => {
                    text.push_str(&format!("\\x{:02x}", u32::from(c)));
                }
                // C1 controls, and what turns the direction of writing or breaks the line.
                c if c.is_control() || STEERING.iter().any(|range| range.contains(&c)) => {
                    text.extend(c.escape_unicode());
                }
                c => text.push(c),
            }
        }
        for octet in chunk.invalid() {
            text.push_str(&format!("\\x{octet:02x}"));
        }
    }
    text
}

const STEERING: [std::ops::RangeInclusive<char>; 4] = [
    '\u{61c}'..='\u{61c}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
];

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn next(follower: &mut Follower) -> Option<Heard> {
        match follower.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(heard) => Some(heard),
            Poll::Pending => None,
        }
    }

    #[test]
    fn what_a_host_says_cannot_steer_a_terminal() {
        let check = |line: &[u8], expected: &str| assert_eq!(escaped(line), expected);
        check(b"250 2.0.0 OK", "250 2.0.0 OK");
        check(b"250 \x1b[2J\x07\0", "250 \\x1b[2J\\x07\\x00");
        check("250 gr\u{fc}n".as_bytes(), "250 gr\u{fc}n");
        check(b"250 \xff", "250 \\xff");
        check(
            "250 \u{9b}1m \u{202e}x".as_bytes(),
            "250 \\u{9b}1m \\u{202e}x",
        );
        check(b"250 \\x1b", "250 \\\\x1b");
    }

    #[test]
    fn a_host_is_meant_by_name_by_a_domain_above_it_or_by_address() {
        let check = |wanted: &str, expected: bool| {
            let found = is_host(wanted, "mx1.Google.com.", IpAddr::from([192, 0, 2, 1]));
            assert_eq!(found, expected, "{wanted}");
        };
        check("google.com", true);
        check("MX1.google.com", true);
        check("oogle.com", false);
        check("a.mx1.google.com", false);
        check("192.0.2.1", true);
        check("192.0.2.2", false);
    }

    #[test]
    fn a_slow_follower_loses_the_oldest_lines_and_is_told_how_many() {
        let trace = Arc::new(Trace::default());
        let tap = Tap::new(trace.clone(), Clock::start(), SessionId(7), "s1".into());
        assert!(!tap.listens());
        let mut all = trace.follow(Filter::default()).unwrap();
        let other = Filter {
            source: Some("s2".into()),
            ..Filter::default()
        };
        let mut other = trace.follow(other).unwrap();
        let (host, remote) = (Arc::from("mx.test"), SocketAddr::from(([192, 0, 2, 1], 25)));
        for number in 0..limits::TRACE_LINES + 3 {
            tap.hear(&host, remote, Said::Content(number as u64));
        }
        assert!(matches!(next(&mut all), Some(Heard::Lost(3))));
        let Some(Heard::Line(line)) = next(&mut all) else {
            panic!("a line follows");
        };
        assert_eq!(&*line.text, "[3 octets of content]");
        assert!(next(&mut other).is_none());
        let more: Vec<_> = (2..limits::TRACE_FOLLOWERS_MAX)
            .map(|_| trace.follow(Filter::default()).unwrap())
            .collect();
        assert!(trace.follow(Filter::default()).is_err());
        drop((all, other, more));
        assert!(!tap.listens());
    }
}
