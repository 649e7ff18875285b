//! How transactions and the session end, and what that says of the host.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::time::Instant;

use super::{ClientEvent, ClientSession, Command, Ending, Habit, OutOfStep, Phase, Sign, Verdict};

impl ClientSession {
    /// The first transaction is decided, and so is one behind it of which nothing was sent.
    pub(super) fn finish(&mut self, now: Instant) {
        while let Some(first) = self.transactions.pop_front() {
            self.events
                .push_back(ClientEvent::Done(first.into_verdicts()));
            if self.transactions.front().is_some_and(|next| !next.over) {
                return self.limit(now);
            }
        }
        self.deadline = None;
        self.absolute = None;
        if self.phase == Phase::Transaction {
            self.phase = Phase::Ready;
        }
    }

    pub(super) fn end(&mut self, ending: Ending) {
        if self.phase == Phase::Ended {
            return;
        }
        self.sign = self.sign_of(&ending);
        self.phase = Phase::Ended;
        self.output.clear();
        let (mut untaken, mut out_of_step) = (false, false);
        match &ending {
            // What is behind the command that got a 421 is not looked at any more: replies come in order.
            Ending::Refused { .. } => untaken = !self.confirms(),
            Ending::Broken { why, .. } => {
                untaken = matches!(why, OutOfStep::NoChunking { .. });
                out_of_step = !untaken && !matches!(why, OutOfStep::Malformed(_));
            }
            _ => {}
        }
        let awaited = match self.awaiting.front() {
            Some((Command::Rcpt(index), _)) => Some(*index),
            _ => None,
        };
        let broken = matches!(ending, Ending::Broken { .. });
        for (place, mut transaction) in self.transactions.drain(..).enumerate() {
            let shifted = out_of_step && transaction.in_doubt();
            if shifted {
                transaction.reopen();
            }
            let content_sent = transaction.content_sent(self.written) && !untaken;
            if place == 0 && broken && !shifted && !content_sent {
                self.culprit = awaited;
            }
            match (place, content_sent, self.culprit) {
                (0, false, Some(culprit)) => transaction.decide_but(culprit, &Verdict::NotReached),
                (0, _, _) | (_, true, _) => {}
                (_, false, _) => transaction.decide_open(&Verdict::NotReached),
            }
            transaction.decide_open(&Verdict::Unanswered { content_sent });
            self.events
                .push_back(ClientEvent::Done(transaction.into_verdicts()));
        }
        self.awaiting.clear();
        self.deadline = None;
        self.absolute = None;
        self.events.push_back(ClientEvent::Ended(ending));
    }

    /// Whether such an end is a sign of something that the host mishandles.
    fn sign_of(&self, ending: &Ending) -> Option<Sign> {
        if self.confirms() && self.offer.chunking {
            // However it ended: what it answers to BDAT cannot be told from other answers. DATA has its 354, so it is next.
            return Some(Sign {
                habit: Habit::Chunking,
                certain: true,
            });
        }
        let (certain, why) = match ending {
            Ending::Broken { why, .. } => (true, Some(*why)),
            Ending::TimedOut { .. } => (false, None),
            Ending::Lost { .. } => (false, None),
            Ending::Refused { .. } | Ending::Withheld | Ending::Quit => return None,
        };
        let sign = |habit| Some(Sign { habit, certain });
        match why {
            Some(OutOfStep::NoChunking { .. }) => return sign(Habit::Chunking),
            // Whoever it was that answered: the one at the other end speaks no SMTP, or not for this recipient.
            Some(OutOfStep::Malformed(_)) => return None,
            _ => {}
        }
        let Some(first) = self.transactions.front() else {
            // A reply too many, late enough to come alone. A negative one says that it waited too long for us.
            let early = self.phase == Phase::Ready && why == Some(OutOfStep::Early);
            let surplus = early && matches!(self.reader.reply().code, 200..400);
            return sign(Habit::Pipelining).filter(|_| surplus && self.offer.pipelining);
        };
        let bdat = matches!(self.awaiting.front(), Some((Command::Bdat, _)));
        if self.transactions.len() > 1 || first.ahead && !first.heard {
            sign(Habit::Ahead)
        } else if self.proven && !first.heard {
            // It had enough of this connection.
            None
        } else if first.in_doubt() {
            sign(Habit::Pipelining)
        } else if bdat && !first.pipelined {
            sign(Habit::Chunking)
        } else {
            None
        }
    }
}
