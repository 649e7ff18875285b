//! What leaves, and until when it must be answered.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::transaction::Transaction;
use super::{ClientEvent, ClientSession, Command, Outgoing, Spoken};
use crate::limits;
use crate::smtp::client::content::Framed;

impl ClientSession {
    pub(super) fn greet(&mut self, now: Instant, verb: Command) {
        let word = if verb == Command::Helo {
            "HELO "
        } else {
            "EHLO "
        };
        let name = Arc::clone(&self.settings.ehlo);
        self.send_line(now, &[word, &name], verb);
    }

    pub(super) fn send_line(&mut self, now: Instant, words: &[&str], command: Command) {
        let line = Bytes::from([words.concat().as_str(), "\r\n"].concat());
        self.send(line);
        self.awaiting.push_back((command, self.given));
        self.arm(now);
    }

    /// Sends what may leave now of the last transaction; ends the first when nothing can come of it any more.
    pub(super) fn advance(&mut self, now: Instant) {
        let Some(first) = self.transactions.front() else {
            return;
        };
        if first.is_hopeless() && self.awaiting.is_empty() {
            // Without PIPELINING the rest was never sent: the host holds an envelope unless it refused MAIL.
            self.needs_reset = !first.mail_refused;
            return self.finish(now);
        }
        let pipelining = self.offer.pipelining;
        let Some(sending) = self.transactions.back_mut() else {
            return;
        };
        // DESIGN §4: MAIL, RCPT and BDAT LAST leave together when little is lost should every recipient be refused.
        let one_flight = pipelining && sending.content_len <= limits::ONE_FLIGHT_CONTENT;
        // What leaves together leaves as one piece.
        let mut leaving = 0;
        let mut bdat = false;
        while let Some((command, len)) = sending.queued.front().copied() {
            let all_answered = self.awaiting.is_empty();
            let may_leave = match command {
                Command::Bdat => all_answered || one_flight,
                _ => all_answered || pipelining,
            };
            if !may_leave {
                break;
            }
            sending.pipelined |= !all_answered;
            sending.queued.pop_front();
            leaving += len;
            if command == Command::Bdat {
                bdat = true;
                break;
            }
            self.awaiting
                .push_back((command, self.given + leaving as u64));
        }
        if leaving > 0 {
            sending.queued_len -= leaving;
            let octets = sending.unsent.split_to(leaving).freeze();
            self.send(octets);
        }
        if bdat {
            self.send_framed(now, Command::Bdat);
        }
        self.arm(now);
    }

    /// The 354 has come.
    pub(super) fn send_content(&mut self, now: Instant) {
        if let Some(first) = self.transactions.front_mut()
            && !first.any_open()
        {
            // RFC 2920 §3.1: DATA was in the flight, every recipient was refused, and the host took it: an empty message to nobody.
            first.content = Some(Framed::empty());
        }
        self.send_framed(now, Command::Dot);
    }

    fn send_framed(&mut self, now: Instant, end: Command) {
        let Some(sending) = self.transactions.back_mut() else {
            return;
        };
        let content = sending.content.take();
        let octets = content.as_ref().map_or(0, Framed::octets);
        self.given += octets;
        if let Some(spoken) = &mut self.spoken {
            spoken.push_back(Spoken::Content(octets));
        }
        sending.content_end = Some(self.given);
        self.output.extend(content.map(Outgoing::Content));
        self.awaiting.push_back((end, self.given));
        if self.transactions.len() == 1 {
            self.limit(now);
            if self.may_begin() {
                self.events.push_back(ClientEvent::Room);
            }
        }
        self.arm(now);
    }

    fn send(&mut self, octets: Bytes) {
        self.given += octets.len() as u64;
        if let Some(spoken) = &mut self.spoken {
            spoken.push_back(Spoken::Commands(octets.clone()));
        }
        self.output.push_back(Outgoing::Octets(octets));
    }

    /// The absolute deadline of the first transaction.
    pub(super) fn limit(&mut self, now: Instant) {
        let wait = |first: &Transaction| match first.content_end {
            Some(_) if first.content_sent(self.written) => {
                limits::ENVELOPE_MAX.max(self.settings.timeouts.dot)
            }
            // The slowest host that we put up with, as in submission.
            Some(_) => {
                let at_least = Duration::from_secs(first.content_len / limits::DATA_RATE_MIN);
                limits::DATA_ABSOLUTE + at_least
            }
            None => limits::ENVELOPE_MAX,
        };
        self.absolute = self.transactions.front().map(|first| now + wait(first));
    }

    /// The deadline of what is due next. Called at every progress, never for a part of a reply.
    pub(super) fn arm(&mut self, now: Instant) {
        let timeouts = &self.settings.timeouts;
        let first = self.transactions.front();
        let writing_content =
            first.is_some_and(|t| t.content_end.is_some() && !t.content_sent(self.written));
        let wait = match self.awaiting.front() {
            _ if writing_content => Some(timeouts.block),
            None => None,
            Some((Command::Banner, _)) => Some(timeouts.banner),
            Some((Command::Data, _)) => Some(timeouts.data),
            Some((Command::Dot | Command::Bdat, _)) => Some(timeouts.dot),
            Some((Command::Confirm, _)) => Some(timeouts.dot.min(timeouts.command)),
            Some((Command::Quit, _)) => Some(timeouts.command.min(limits::QUIT_WAIT)),
            Some(_) => Some(timeouts.command),
        };
        self.deadline = wait.map(|wait| now + wait);
    }
}
