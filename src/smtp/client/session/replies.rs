//! What each reply does. Only what is a clear answer to the command that is due is one; everything else ends the session.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::time::Instant;

use super::format::Offer;
use super::transaction::Transaction;
use super::{ClientEvent, ClientSession, Command, Ending, OutOfStep, Phase, Stage, Verdict};

impl ClientSession {
    /// Reads at most one reply and acts on it.
    pub(super) fn step(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), OutOfStep> {
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
            if !self.confirms() {
                self.refuse_open(stage);
            }
            self.end(Ending::Refused { stage, reply });
            return Ok(());
        }
        match self.awaiting.front() {
            Some((command, after)) if *after <= self.written => {
                let command = *command;
                if self.reader.repeats() {
                    self.first(|first| first.repeated = true);
                }
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
            Command::Mail if positive || refused => self.taken(|s| {
                s.note_status(positive);
                if refused {
                    s.first(|first| first.mail_refused = true);
                    s.refuse_open(Stage::Mail);
                }
                s.advance(now);
            }),
            Command::Rcpt(index) if positive || refused => self.taken(|s| {
                s.note_status(positive);
                if let Some(first) = s.transactions.front_mut() {
                    first.rcpt_answered(index, positive, || s.reader.reply());
                }
                s.advance(now);
            }),
            Command::Data if code == 354 => self.taken(|s| {
                s.first(|first| first.synchronised = true);
                s.send_content(now);
            }),
            Command::Data if refused => {
                self.check_in_step(rest)?;
                if self.is_doubtful(command, true) {
                    let (stage, reply) = (Stage::Data, self.reader.reply());
                    return self.confirm(now, code, Verdict::Refused { stage, reply });
                }
                self.taken(|s| {
                    // RFC 5321 §3.3: DATA may be refused although recipients were accepted. The envelope stays with the host.
                    s.needs_reset = s.transactions.front().is_some_and(|t| !t.mail_refused);
                    s.refuse_open(Stage::Data);
                    s.finish(now);
                });
            }
            Command::Dot | Command::Bdat if positive => {
                self.check_in_step(rest)?;
                self.check_place(code)?;
                let reply = self.reader.reply();
                if self.is_doubtful(command, false) {
                    return self.confirm(now, code, Verdict::Accepted { reply });
                }
                self.taken(|s| {
                    s.proven = true;
                    s.first(|first| first.decide_accepted(&Verdict::Accepted { reply }));
                    s.finish(now);
                });
            }
            Command::Dot | Command::Bdat if refused => {
                if command == Command::Bdat && self.shows_no_chunking(code) {
                    return Err(OutOfStep::NoChunking { code });
                }
                self.check_in_step(rest)?;
                if self.is_doubtful(command, true) {
                    let (stage, reply) = (Stage::Content, self.reader.reply());
                    return self.confirm(now, code, Verdict::Refused { stage, reply });
                }
                self.taken(|s| {
                    s.proven = true;
                    // RFC 3030 §2: after a refused BDAT the envelope's state is not known. The RSET may have left already.
                    let reset_left = s.transactions.get(1).is_some_and(|next| !next.over);
                    s.needs_reset = command == Command::Bdat && !reset_left;
                    s.refuse_open(Stage::Content);
                    s.finish(now);
                });
            }
            // RFC 5321 §4.2.3: nothing but QUIT is answered 221.
            Command::Confirm if code == 221 => {
                self.first(|first| {
                    if let Some(verdict) = first.unconfirmed.take() {
                        first.decide_open(&verdict);
                    }
                });
                self.finish(now);
                self.end(Ending::Quit);
            }
            Command::Confirm => return Err(OutOfStep::Unplaced { code }),
            Command::Quit => self.end(Ending::Quit),
            _ => return unexpected,
        }
        Ok(())
    }

    /// The reply was understood: its command leaves the queue, then `then`.
    fn taken(&mut self, then: impl FnOnce(&mut Self)) {
        self.awaiting.pop_front();
        self.first(|first| first.heard = true);
        then(self);
    }

    fn first(&mut self, then: impl FnOnce(&mut Transaction)) {
        if let Some(first) = self.transactions.front_mut() {
            then(first);
        }
    }

    fn greeted(&mut self, now: Instant) {
        let offer = Offer::read(self.reader.lines().skip(1));
        self.offer = offer.without(self.settings.avoid);
        if self.settings.starttls && self.offer.starttls && !self.tls {
            self.send_line(now, &["STARTTLS"], Command::StartTls);
        } else {
            self.ready();
        }
    }

    fn ready(&mut self) {
        self.phase = Phase::Ready;
        self.events.push_back(ClientEvent::Ready);
    }

    /// With the reply in the reader, everyone of the first transaction who has no verdict.
    fn refuse_open(&mut self, stage: Stage) {
        let reader = &self.reader;
        if let Some(first) = self.transactions.front_mut()
            && first.any_open()
        {
            let reply = reader.reply();
            first.decide_open(&Verdict::Refused { stage, reply });
        }
    }

    /// The last reply of a flight has come, and more behind it: one of those before it was one too many, and nobody can
    /// tell which. A 421 may always follow.
    fn check_in_step(&self, rest: &[u8]) -> Result<(), OutOfStep> {
        let last = self.awaiting.len() == 1;
        let goodbye = rest.starts_with(b"421") || b"421".starts_with(rest);
        let in_doubt = self.transactions.front().is_some_and(Transaction::in_doubt);
        match last && !goodbye && in_doubt {
            true => Err(OutOfStep::Early),
            false => Ok(()),
        }
    }

    /// RFC 3463 §3.2: a status x.1.y is about an address. In the place of the answer to content it belongs to an RCPT, whose
    /// own place was taken by a reply too many. With BDAT that goes unnoticed without PIPELINING too: no 354 stands between.
    fn check_place(&self, code: u16) -> Result<(), OutOfStep> {
        let address = self.reader.status().is_some_and(|s| s.subject == 1);
        let first = self.transactions.front();
        match address && first.is_some_and(|first| !first.synchronised) {
            true => Err(OutOfStep::Misplaced { code }),
            false => Ok(()),
        }
    }

    fn note_status(&mut self, positive: bool) {
        let of_address = self.reader.status().is_some_and(|s| s.subject == 1);
        self.unmarked |= positive && !of_address;
    }

    /// The answer to BDAT, or a refusal of DATA, may be one to an RCPT, for all that can be told from its words.
    fn is_doubtful(&self, command: Command, refused: bool) -> bool {
        let first = self.transactions.front();
        let repeated = first.is_some_and(|t| t.repeated);
        let of_address = self.reader.status().is_some_and(|s| s.subject == 1);
        let told = self.tells_by_status() && !(refused && of_address);
        let shifts = match command {
            // Behind a refused MAIL, or with all recipients refused, they may all say the same.
            Command::Data => first.is_some_and(|t| t.in_doubt() && !t.is_hopeless()),
            _ => command == Command::Bdat,
        };
        shifts && repeated && !told
    }

    /// The answer counts once that to a QUIT behind it comes in its place: the connection ends with it.
    fn confirm(&mut self, now: Instant, code: u16, verdict: Verdict) -> Result<(), OutOfStep> {
        if self.transactions.len() > 1 {
            return Err(OutOfStep::Misplaced { code });
        }
        self.taken(|s| {
            s.first(|first| first.unconfirmed = Some(verdict));
            s.send_line(now, &["QUIT"], Command::Confirm);
        });
        Ok(())
    }

    pub(super) fn confirms(&self) -> bool {
        matches!(self.awaiting.front(), Some((Command::Confirm, _)))
    }

    /// RFC 5321 §4.2.2: the command, not the content, is what it does not like.
    fn shows_no_chunking(&self, code: u16) -> bool {
        let accepted = self
            .transactions
            .front()
            .is_some_and(Transaction::any_accepted);
        let status = self.reader.status().map(|s| s.subject);
        match code {
            500 | 502 | 504 => matches!(status, None | Some(5)),
            501 => status == Some(5),
            503 => accepted && matches!(status, None | Some(5)),
            _ => false,
        }
    }
}
