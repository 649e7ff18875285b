//! [`ClientSession`]: the client's side of a dialogue, as a machine. No socket, no clock, no runtime.
//!
//! Promises: every transaction ends in exactly one [`Verdict`] per recipient, whatever the remote host does; a reply counts
//! only when the whole of what it answers was written before; what is not a clear answer ends the session and is never
//! taken for one.
//! Deliberately does not know what a refusal means (`classify`) nor what follows from it (`deliver`, `queue`).
//!
//! How it works: commands are formatted at once and leave as far as the host lets us (all in one flight with PIPELINING, one
//! by one without). Each awaits its reply in order, together with the count of octets that must have been written before
//! that reply can be genuine. The driver reports what it wrote; so "the answer to the final dot came before the dot" is a
//! comparison of two numbers.
//!
//! Two transactions may be under way: the one whose replies are awaited, and behind its content the next one (RFC 2920
//! §3.1). That waits until the host has answered one content on this connection as it should: only then has it shown
//! that it knows BDAT and is in step. The fewer pauses, the less an extra reply stands out; so replies that only one
//! command can have (354; for BDAT, an enhanced status that is not an address's) must be where they belong, and after a
//! reply out of step nothing that was said in the same flight counts. Where statuses do not tell and a host said the same
//! twice in a row, so that one of the two may be a reply too many, the answer to BDAT counts once QUIT is answered 221 behind
//! it; the next connections have DATA with its 354.
//!
//! `transaction.rs` is one transaction, `format.rs` its commands as text, `sending.rs` what leaves when, `replies.rs` what each
//! reply does, `ending.rs` how it all ends, `words.rs` what goes in and out.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod ending;
mod format;
mod replies;
mod sending;
mod transaction;
mod words;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::Timeouts;
use super::content::{Fetching, Framed};
use super::reply::ReplyReader;
use format::Offer;
use transaction::Transaction;

pub use words::{
    Avoid, ClientEvent, Ending, Habit, Obstacle, OutOfStep, Outbound, OutboundRecipient, Settings,
    Sign, Stage, Verdict,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Banner,
    Ehlo,
    Helo,
    StartTls,
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    /// The end of the content: the final dot.
    Dot,
    /// `BDAT n LAST` and the content.
    Bdat,
    /// QUIT, to whose answer that of the content is bound: a 221 is nothing else's, so all before it were in their places.
    Confirm,
    Quit,
}

impl Command {
    fn stage(self) -> Stage {
        match self {
            Self::Banner => Stage::Banner,
            Self::Ehlo | Self::Helo => Stage::Ehlo,
            Self::StartTls => Stage::StartTls,
            Self::Rset | Self::Mail => Stage::Mail,
            Self::Rcpt(_) => Stage::Rcpt,
            Self::Data => Stage::Data,
            Self::Dot | Self::Bdat | Self::Confirm => Stage::Content,
            Self::Quit => Stage::Quit,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until [`ClientEvent::Ready`].
    Greeting,
    /// The driver does the handshake.
    Handshake,
    Ready,
    Transaction,
    Quitting,
    Ended,
}

/// On its way to the driver.
#[derive(Debug)]
enum Outgoing {
    Octets(Bytes),
    Content(Framed),
}

/// See the module's comment.
#[derive(Debug)]
pub struct ClientSession {
    settings: Settings,
    phase: Phase,
    tls: bool,
    offer: Offer,
    reader: ReplyReader,
    /// Commands whose reply is due, with the octets that must have been written before it.
    awaiting: VecDeque<(Command, u64)>,
    output: VecDeque<Outgoing>,
    /// Octets given to the driver, and those it has written.
    given: u64,
    written: u64,
    /// The first one's replies are awaited; at most one more runs ahead.
    transactions: VecDeque<Transaction>,
    /// The host has answered a content on this connection as it should.
    proven: bool,
    /// Statuses do not tell what was said of an address from what was said of a content.
    unmarked: bool,
    /// The host still holds an envelope that came to nothing.
    needs_reset: bool,
    deadline: Option<Instant>,
    /// However slowly the host progresses.
    absolute: Option<Instant>,
    events: VecDeque<ClientEvent>,
    sign: Option<Sign>,
    culprit: Option<usize>,
    /// What we say, for whoever listens in; `None` while nobody does.
    spoken: Option<VecDeque<Spoken>>,
}

/// What we said, as it may be shown: of content only how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Whole lines.
    Commands(Bytes),
    /// So many octets as they go over the wire.
    Content(u64),
}

impl ClientSession {
    /// A session on a new connection: awaits the banner.
    pub fn new(now: Instant, settings: Settings) -> Self {
        let mut session = Self {
            settings,
            phase: Phase::Greeting,
            tls: false,
            offer: Offer::default(),
            reader: ReplyReader::default(),
            awaiting: VecDeque::from([(Command::Banner, 0)]),
            output: VecDeque::new(),
            given: 0,
            written: 0,
            transactions: VecDeque::new(),
            proven: false,
            unmarked: false,
            needs_reset: false,
            deadline: None,
            absolute: None,
            events: VecDeque::new(),
            sign: None,
            culprit: None,
            spoken: None,
        };
        session.arm(now);
        session
    }

    /// Takes what the remote host sent. Call `poll_output` and `poll_event` afterwards until both are empty.
    pub fn handle_input(&mut self, now: Instant, bytes: &[u8]) -> Result<(), OutOfStep> {
        let mut input = bytes;
        while !input.is_empty() && self.phase != Phase::Ended {
            let step = self.step(now, &mut input);
            if let Err(why) = step {
                let stage = self.stage();
                self.end(Ending::Broken { stage, why });
                return Err(why);
            }
        }
        Ok(())
    }

    /// The driver handed `octets` of the output to the transport.
    pub fn handle_written(&mut self, now: Instant, octets: usize) {
        let before = self.written;
        self.written += octets as u64;
        assert!(
            self.written <= self.given,
            "written {} of {}",
            self.written,
            self.given
        );
        let first = self.transactions.front();
        if first.is_some_and(|t| !t.content_sent(before) && t.content_sent(self.written)) {
            self.limit(now);
        }
        self.arm(now);
    }

    /// The TLS handshake is done. What the host said before it is forgotten (RFC 3207 §4.2).
    pub fn handle_tls(&mut self, now: Instant) {
        assert_eq!(self.phase, Phase::Handshake, "no handshake was asked for");
        self.phase = Phase::Greeting;
        self.tls = true;
        self.offer = Offer::default();
        self.greet(now, Command::Ehlo);
    }

    /// Safe to call early: it then does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            let stage = self.stage();
            self.end(match self.phase {
                Phase::Quitting => Ending::Quit,
                _ => Ending::TimedOut { stage },
            });
        }
    }

    /// The connection was closed or reset.
    pub fn handle_close(&mut self) {
        let stage = self.stage();
        self.end(match self.phase {
            Phase::Quitting => Ending::Quit,
            _ => Ending::Lost { stage },
        });
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.deadline, self.absolute) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Appends what is to be written, in order, and says whether there was anything. Content comes in portions.
    pub fn poll_output(&mut self, out: &mut Vec<Bytes>) -> bool {
        let before = out.len();
        while let Some(next) = self.output.front_mut() {
            let more = match next {
                Outgoing::Octets(octets) => {
                    out.push(std::mem::take(octets));
                    false
                }
                Outgoing::Content(content) => content.take(out, PORTION),
            };
            if more {
                break;
            }
            self.output.pop_front();
        }
        out.len() > before
    }

    /// Fetches the piece of content without which nothing more can leave: call [`Self::handle_piece`] with it.
    pub fn poll_wanted(&self) -> Option<Fetching> {
        match self.output.front() {
            Some(Outgoing::Content(content)) => content.fetch(),
            _ => None,
        }
    }

    /// The wanted piece, or `None` where it cannot be had.
    pub fn handle_piece(&mut self, piece: Option<Bytes>) {
        let Some(Outgoing::Content(content)) = self.output.front_mut() else {
            return;
        };
        if piece.is_none_or(|piece| content.supply(piece).is_err()) {
            self.end(Ending::Withheld);
        }
    }

    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Whether somebody listens in. What was said before is not told.
    pub fn listen(&mut self, listens: bool) {
        match listens {
            true if self.spoken.is_none() => self.spoken = Some(VecDeque::new()),
            true => {}
            false => self.spoken = None,
        }
    }

    /// What we said since, in order, if somebody listens in.
    pub fn poll_spoken(&mut self) -> Option<Spoken> {
        self.spoken.as_mut()?.pop_front()
    }

    pub fn timeouts(&self) -> &Timeouts {
        &self.settings.timeouts
    }

    /// Between transactions.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether a transaction may begin: none is under way, or one whose content is on its way, and the host has shown
    /// that it can take more behind it.
    pub fn may_begin(&self) -> bool {
        match (self.phase, self.transactions.front()) {
            (Phase::Ready, _) => true,
            (Phase::Transaction, Some(first)) => {
                self.transactions.len() == 1 && first.content_end.is_some() && self.runs_ahead()
            }
            _ => false,
        }
    }

    /// Whether the host offers 8BITMIME.
    pub fn takes_eight_bit(&self) -> bool {
        self.offer.eight_bit
    }

    /// Whether the host offers DSN (RFC 3461).
    pub fn takes_dsn(&self) -> bool {
        self.offer.dsn
    }

    /// Whether a transaction may begin behind the content of another on this connection.
    pub fn runs_ahead(&self) -> bool {
        // RFC 2920 §3.1 lets RSET and MAIL follow the content. With BDAT no 354 shows whether replies are in step: there the
        // host must tell them apart by enhanced status codes.
        self.proven
            && self.offer.pipelining
            && !self.settings.avoid.ahead
            && (!self.offer.chunking || self.tells_by_status())
    }

    /// Whether statuses tell an answer to BDAT from others.
    fn tells_by_status(&self) -> bool {
        self.offer.enhanced && !self.unmarked
    }

    /// For each transaction under way, in order, whether the end of its content was written.
    pub fn contents_sent(&self) -> impl Iterator<Item = bool> {
        let written = self.written;
        self.transactions
            .iter()
            .map(move |t| t.content_sent(written))
    }

    /// What the end of the session says about the host's habits.
    pub fn sign(&self) -> Option<Sign> {
        self.sign
    }

    /// Whether the dialogue is inside TLS.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Where the dialogue is: what the host is to answer next.
    pub fn stage(&self) -> Stage {
        match (self.awaiting.front(), self.phase) {
            (Some((command, _)), _) => command.stage(),
            (None, Phase::Greeting) => Stage::Banner,
            (None, Phase::Handshake) => Stage::Tls,
            (None, Phase::Ready | Phase::Ended) => Stage::Idle,
            (None, Phase::Transaction) => Stage::Mail,
            (None, Phase::Quitting) => Stage::Quit,
        }
    }

    /// The recipient, as an index into its transaction, at whom the host broke the protocol and so ended the session.
    pub fn culprit(&self) -> Option<usize> {
        self.culprit
    }

    /// Begins a transaction. Only when [`Self::may_begin`].
    pub fn begin(&mut self, now: Instant, mail: &Outbound) {
        assert!(self.may_begin(), "a transaction was begun too early");
        let ahead = self.phase == Phase::Transaction;
        // RFC 3030 §2: after a refused BDAT the envelope's state is not known, and whether it will be refused is not either.
        let reset = if ahead {
            self.offer.chunking
        } else {
            self.needs_reset
        };
        let mut transaction = Transaction::new(&self.offer, mail, reset);
        transaction.ahead = ahead;
        transaction.pipelined = ahead;
        let over = transaction.over;
        self.phase = Phase::Transaction;
        self.transactions.push_back(transaction);
        if ahead {
            self.advance(now);
        } else if over {
            self.finish(now);
        } else {
            self.limit(now);
            self.advance(now);
        }
    }

    /// Ends the session in good order. Only between transactions.
    pub fn quit(&mut self, now: Instant) {
        assert_eq!(self.phase, Phase::Ready, "QUIT within a transaction");
        self.phase = Phase::Quitting;
        self.send_line(now, &["QUIT"], Command::Quit);
    }
}

/// Pieces of content that leave the session at a time.
const PORTION: usize = 64;

#[cfg(test)]
mod tests;
