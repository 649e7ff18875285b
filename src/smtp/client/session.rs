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

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod format;
mod words;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Timeouts;
use super::content::Framed;
use super::reply::ReplyReader;
use crate::limits;
use crate::mail::Reply;
use format::Offer;

pub use words::{
    ClientEvent, Ending, Obstacle, OutOfStep, Outbound, OutboundRecipient, Settings, Stage, Verdict,
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
            Self::Dot | Self::Bdat => Stage::Content,
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

/// One recipient in the course of a transaction.
#[derive(Clone, Debug)]
enum Progress {
    /// RCPT has no answer yet.
    Pending,
    /// RCPT was accepted.
    Accepted,
    Decided(Verdict),
}

/// See the module's comment.
#[derive(Debug)]
pub struct ClientSession {
    settings: Settings,
    phase: Phase,
    tls: bool,
    offer: Offer,
    reader: ReplyReader,
    /// Commands that are formatted and may not leave yet, with their lengths.
    unsent: BytesMut,
    queued: VecDeque<(Command, usize)>,
    queued_len: usize,
    /// Commands whose reply is due, with the octets that must have been written before it.
    awaiting: VecDeque<(Command, u64)>,
    output: Vec<Bytes>,
    /// Octets given to the driver, and those it has written.
    given: u64,
    written: u64,
    /// The framed content, until it may leave, and then until it has left.
    content: Option<Framed>,
    leaving: Option<Framed>,
    content_len: u64,
    /// Where the content ends, once it is given to the driver.
    content_end: Option<u64>,
    progress: Vec<Progress>,
    mail_refused: bool,
    /// The host still holds an envelope that came to nothing.
    needs_reset: bool,
    deadline: Option<Instant>,
    /// However slowly the host progresses.
    absolute: Option<Instant>,
    events: VecDeque<ClientEvent>,
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
            unsent: BytesMut::new(),
            queued: VecDeque::new(),
            queued_len: 0,
            awaiting: VecDeque::from([(Command::Banner, 0)]),
            output: Vec::new(),
            given: 0,
            written: 0,
            content: None,
            leaving: None,
            content_len: 0,
            content_end: None,
            progress: Vec::new(),
            mail_refused: false,
            needs_reset: false,
            deadline: None,
            absolute: None,
            events: VecDeque::new(),
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
        self.written += octets as u64;
        assert!(
            self.written <= self.given,
            "written {} of {}",
            self.written,
            self.given
        );
        if self.content_end == Some(self.written) {
            self.absolute = Some(now + limits::ENVELOPE_MAX.max(self.settings.timeouts.dot));
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

    /// Appends what is to be written, in order, and says whether there was anything.
    pub fn poll_output(&mut self, out: &mut Vec<Bytes>) -> bool {
        let before = out.len();
        out.append(&mut self.output);
        // Content comes behind everything else, and in portions.
        if let Some(content) = &mut self.leaving
            && !content.take(out, PORTION)
        {
            self.leaving = None;
        }
        out.len() > before
    }

    /// The piece of content without which nothing more can leave: fetch it, then call [`Self::handle_piece`].
    pub fn poll_wanted(&self) -> Option<u64> {
        self.leaving.as_ref().and_then(Framed::wanted)
    }

    /// The wanted piece, or `None` where it cannot be had.
    pub fn handle_piece(&mut self, piece: Option<Bytes>) {
        let Some(content) = &mut self.leaving else {
            return;
        };
        if piece.is_none_or(|piece| content.supply(piece).is_err()) {
            self.end(Ending::Withheld);
        }
    }

    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    pub fn timeouts(&self) -> &Timeouts {
        &self.settings.timeouts
    }

    /// Between transactions.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// The end of the content of the transaction under way was written.
    pub fn content_sent(&self) -> bool {
        self.phase == Phase::Transaction && self.content_end.is_some_and(|end| end <= self.written)
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

    /// Begins a transaction. Only between transactions, after [`ClientEvent::Ready`].
    pub fn begin(&mut self, now: Instant, mail: &Outbound) {
        assert_eq!(
            self.phase,
            Phase::Ready,
            "a transaction was begun too early"
        );
        self.phase = Phase::Transaction;
        self.mail_refused = false;
        self.content_end = None;
        self.progress.clear();
        self.progress
            .resize(mail.recipients.len(), Progress::Pending);
        self.content_len = mail.content.len();
        if let Some(obstacle) = self.obstacle(mail).or_else(|| self.frame(mail).err()) {
            self.decide_open(|_| Verdict::Unsendable(obstacle));
        }
        self.format_envelope(mail);
        if !self.any_open() {
            return self.finish();
        }
        self.format_end();
        self.absolute = Some(now + limits::ENVELOPE_MAX);
        self.advance(now);
    }

    /// Ends the session in good order. Only between transactions.
    pub fn quit(&mut self, now: Instant) {
        assert_eq!(self.phase, Phase::Ready, "QUIT within a transaction");
        self.phase = Phase::Quitting;
        self.unsent.extend_from_slice(b"QUIT\r\n");
        self.send_unsent(Command::Quit);
        self.arm(now);
    }

    // ---- Input.

    /// Reads at most one reply and acts on it.
    fn step(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), OutOfStep> {
        let Some(code) = self.reader.read(input).map_err(OutOfStep::Malformed)? else {
            // The rest of a reply is to come. It must at least be due.
            return match self.awaiting.front() {
                Some((_, after)) if *after <= self.written => Ok(()),
                _ => Err(OutOfStep::Early),
            };
        };
        // RFC 5321 §3.8: 421 may come at any time, unasked, when a host shuts down.
        if code == 421 {
            let (stage, reply) = (self.stage(), self.reader.reply());
            self.decide_open(|_| Verdict::Refused {
                stage,
                reply: reply.clone(),
            });
            self.end(Ending::Refused { stage, reply });
            return Ok(());
        }
        match self.awaiting.front() {
            Some((command, after)) if *after <= self.written => {
                let command = *command;
                self.answer(now, command, code, input)?;
            }
            _ => return Err(OutOfStep::Early),
        }
        self.arm(now);
        Ok(())
    }

    /// The reply to `command` is complete in the reader. It leaves the queue when it is understood.
    fn answer(
        &mut self,
        now: Instant,
        command: Command,
        code: u16,
        rest: &[u8],
    ) -> Result<(), OutOfStep> {
        let unexpected = Err(OutOfStep::Unexpected { code });
        let refused = (400..600).contains(&code);
        // RFC 5321 §4.3.2 lists 250 to 252 as success; 220, 221 or 235 in their place are no answer.
        let positive = (250..260).contains(&code);
        match command {
            Command::Banner if code == 220 => self.taken(|s| s.greet(now, Command::Ehlo)),
            // RFC 5321 §3.2: a host that does not know EHLO gets HELO.
            Command::Ehlo if (500..=504).contains(&code) => {
                self.taken(|s| s.greet(now, Command::Helo));
            }
            Command::Ehlo if positive => self.taken(|s| s.greeted(now)),
            Command::Helo if positive => self.taken(Self::ready),
            Command::Banner | Command::Ehlo | Command::Helo if refused => {
                let (stage, reply) = (command.stage(), self.reader.reply());
                self.end(Ending::Refused { stage, reply });
            }
            Command::StartTls if code == 220 => {
                // Text behind the 220 was not sent by the host that we are about to authenticate.
                if !rest.is_empty() {
                    return Err(OutOfStep::Early);
                }
                self.taken(|s| {
                    s.phase = Phase::Handshake;
                    s.events.push_back(ClientEvent::StartTls);
                });
            }
            // RFC 3207 §4: the client decides; opportunistic goes on in clear.
            Command::StartTls if refused => self.taken(Self::ready),
            Command::Rset if positive => self.taken(|s| {
                s.needs_reset = false;
                s.advance(now);
            }),
            Command::Mail if positive || refused => self.taken(|s| s.mail_answered(now, refused)),
            Command::Rcpt(index) if positive || refused => {
                self.taken(|s| s.rcpt_answered(now, index, code));
            }
            Command::Data if code == 354 => self.taken(|s| s.send_content(now)),
            Command::Data if refused => self.taken(|s| {
                // RFC 5321 §3.3: DATA may be refused although recipients were accepted. The envelope stays with the host.
                s.needs_reset = !s.mail_refused;
                s.refuse_open(Stage::Data);
                s.finish();
            }),
            Command::Dot | Command::Bdat if positive => self.taken(|s| {
                let reply = s.reader.reply();
                s.decide_accepted(&Verdict::Accepted { reply });
                s.finish();
            }),
            Command::Dot | Command::Bdat if refused => self.taken(|s| {
                // RFC 3030 §2: after a refused BDAT the envelope's state is not known.
                s.needs_reset = command == Command::Bdat;
                s.refuse_open(Stage::Content);
                s.finish();
            }),
            Command::Quit => self.end(Ending::Quit),
            _ => return unexpected,
        }
        Ok(())
    }

    /// The reply was understood: its command leaves the queue, then `then`.
    fn taken(&mut self, then: impl FnOnce(&mut Self)) {
        self.awaiting.pop_front();
        then(self);
    }

    fn greet(&mut self, now: Instant, verb: Command) {
        let word = if verb == Command::Helo {
            "HELO"
        } else {
            "EHLO"
        };
        self.unsent.extend_from_slice(word.as_bytes());
        self.unsent.extend_from_slice(b" ");
        self.unsent.extend_from_slice(self.settings.ehlo.as_bytes());
        self.unsent.extend_from_slice(b"\r\n");
        self.send_unsent(verb);
        self.arm(now);
    }

    fn greeted(&mut self, now: Instant) {
        self.offer = Offer::read(self.reader.lines().skip(1));
        if self.settings.starttls && self.offer.starttls && !self.tls {
            self.unsent.extend_from_slice(b"STARTTLS\r\n");
            self.send_unsent(Command::StartTls);
            self.arm(now);
        } else {
            self.ready();
        }
    }

    fn ready(&mut self) {
        self.phase = Phase::Ready;
        self.events.push_back(ClientEvent::Ready);
    }

    fn mail_answered(&mut self, now: Instant, refused: bool) {
        if refused {
            self.mail_refused = true;
            self.refuse_open(Stage::Mail);
        }
        self.advance(now);
    }

    fn rcpt_answered(&mut self, now: Instant, index: usize, code: u16) {
        let any_accepted = self
            .progress
            .iter()
            .any(|p| matches!(p, Progress::Accepted));
        let decided = match code {
            250..260 => Progress::Accepted,
            _ => {
                let reply = self.reader.reply();
                Progress::Decided(if any_accepted && too_many_recipients(&reply) {
                    Verdict::Surplus
                } else {
                    Verdict::Refused {
                        stage: Stage::Rcpt,
                        reply,
                    }
                })
            }
        };
        // After a refused MAIL the verdict stands: RCPT is then only told that it is out of sequence.
        if let Some(open @ Progress::Pending) = self.progress.get_mut(index) {
            *open = decided;
        }
        self.advance(now);
    }

    // ---- Output.

    /// Sends what may leave now; ends the transaction when nothing can come of it any more.
    fn advance(&mut self, now: Instant) {
        let hopeless = self.mail_refused || !self.any_open();
        if hopeless && self.awaiting.is_empty() {
            // Without PIPELINING the rest was never sent: the host holds an envelope unless it refused MAIL.
            self.needs_reset = !self.mail_refused;
            return self.finish();
        }
        // What leaves together leaves as one piece.
        let mut leaving = 0;
        let mut bdat = false;
        while let Some((command, len)) = self.queued.front().copied() {
            let all_answered = self.awaiting.is_empty();
            let may_leave = match command {
                Command::Bdat => all_answered || self.one_flight(),
                _ => all_answered || self.offer.pipelining,
            };
            if !may_leave {
                break;
            }
            self.queued.pop_front();
            leaving += len;
            if command == Command::Bdat {
                bdat = true;
                break;
            }
            self.awaiting
                .push_back((command, self.given + leaving as u64));
        }
        if leaving > 0 {
            self.queued_len -= leaving;
            let octets = self.unsent.split_to(leaving).freeze();
            self.send(octets);
        }
        if bdat {
            self.send_framed(now, Command::Bdat);
        }
        self.arm(now);
    }

    /// DESIGN §4: MAIL, RCPT and BDAT LAST leave together when little is lost should every recipient be refused.
    fn one_flight(&self) -> bool {
        self.offer.pipelining && self.content_len <= limits::ONE_FLIGHT_CONTENT
    }

    /// The 354 has come.
    fn send_content(&mut self, now: Instant) {
        if !self.any_open() {
            // RFC 2920 §3.1: DATA was in the flight, every recipient was refused, and the host took it: an empty message to nobody.
            self.content = Some(Framed::empty());
        }
        self.send_framed(now, Command::Dot);
    }

    fn send_framed(&mut self, now: Instant, end: Command) {
        self.leaving = self.content.take();
        self.given += self.leaving.as_ref().map_or(0, Framed::octets);
        self.content_end = Some(self.given);
        self.awaiting.push_back((end, self.given));
        // The slowest host that we put up with, as in submission.
        let at_least = Duration::from_secs(self.content_len / limits::DATA_RATE_MIN);
        self.absolute = Some(now + limits::DATA_ABSOLUTE + at_least);
        self.arm(now);
    }

    fn send_unsent(&mut self, command: Command) {
        let octets = self.unsent.split().freeze();
        self.send(octets);
        self.awaiting.push_back((command, self.given));
    }

    fn send(&mut self, octets: Bytes) {
        self.given += octets.len() as u64;
        self.output.push(octets);
    }

    /// The deadline of what is due next. Called at every progress, never for a part of a reply.
    fn arm(&mut self, now: Instant) {
        let timeouts = &self.settings.timeouts;
        let writing_content = self.written < self.given && self.content_end == Some(self.given);
        let wait = match self.awaiting.front() {
            _ if writing_content => Some(timeouts.block),
            None => None,
            Some((Command::Banner, _)) => Some(timeouts.banner),
            Some((Command::Data, _)) => Some(timeouts.data),
            Some((Command::Dot | Command::Bdat, _)) => Some(timeouts.dot),
            Some((Command::Quit, _)) => Some(timeouts.command.min(limits::QUIT_WAIT)),
            Some(_) => Some(timeouts.command),
        };
        self.deadline = wait.map(|wait| now + wait);
    }

    // ---- Verdicts.

    fn any_open(&self) -> bool {
        let decided = |p: &Progress| matches!(p, Progress::Decided(_));
        !self.progress.iter().all(decided)
    }

    /// Decides every recipient that has no verdict.
    fn decide_open(&mut self, verdict: impl Fn(&Progress) -> Verdict) {
        for progress in &mut self.progress {
            if !matches!(progress, Progress::Decided(_)) {
                *progress = Progress::Decided(verdict(progress));
            }
        }
    }

    fn decide_accepted(&mut self, verdict: &Verdict) {
        for progress in &mut self.progress {
            if matches!(progress, Progress::Accepted) {
                *progress = Progress::Decided(verdict.clone());
            }
        }
    }

    /// With the reply in the reader.
    fn refuse_open(&mut self, stage: Stage) {
        if self.any_open() {
            let reply = self.reader.reply();
            self.decide_open(|_| Verdict::Refused {
                stage,
                reply: reply.clone(),
            });
        }
    }

    fn finish(&mut self) {
        self.queued.clear();
        self.queued_len = 0;
        self.unsent.clear();
        self.content = None;
        self.leaving = None;
        self.deadline = None;
        self.absolute = None;
        self.hand_out();
        if self.phase == Phase::Transaction {
            self.phase = Phase::Ready;
        }
    }

    fn hand_out(&mut self) {
        let verdict = |progress| match progress {
            Progress::Decided(verdict) => verdict,
            Progress::Pending | Progress::Accepted => Verdict::Unanswered {
                content_sent: false,
            },
        };
        let verdicts = self.progress.drain(..).map(verdict).collect();
        self.events.push_back(ClientEvent::Done(verdicts));
    }

    fn end(&mut self, ending: Ending) {
        if self.phase == Phase::Ended {
            return;
        }
        let in_transaction = self.phase == Phase::Transaction;
        self.phase = Phase::Ended;
        self.output.clear();
        self.leaving = None;
        if in_transaction {
            let content_sent = self.content_end.is_some_and(|end| end <= self.written);
            self.decide_open(|_| Verdict::Unanswered { content_sent });
            self.finish();
        }
        self.awaiting.clear();
        self.deadline = None;
        self.absolute = None;
        self.events.push_back(ClientEvent::Ended(ending));
    }
}

/// RFC 5321 §4.5.3.1.10: 452, or 552 from old hosts. Without a status that says otherwise; a 452 4.2.2 is a full mailbox.
fn too_many_recipients(reply: &Reply) -> bool {
    let said = reply.status.map(|s| (s.subject, s.detail));
    match reply.code {
        452 => matches!(said, None | Some((5, 3))),
        450..460 | 552 => said == Some((5, 3)),
        _ => false,
    }
}

/// Pieces of content that leave the session at a time.
const PORTION: usize = 64;

#[cfg(test)]
mod tests;
