//! What a session was handed over, and what it owes: batches taken apart into transactions, those under way, and results.
//!
//! Promises: every recipient that was taken by [`Handover::accept`] is in exactly one result, in the order in which batches
//! came; after [`Handover::give_back`] nothing is owed any more.
//! Deliberately does not know sockets, tasks or the clock: the agent and the simulation (`tests/sim/`) run this same code
//! beside a [`ClientSession`](crate::smtp::client::ClientSession).

use std::collections::VecDeque;
use std::sync::Arc;

use super::transaction::{self, Circumstances, Parting};
use super::{Errand, RecipientResult};
use crate::classify::Judge;
use crate::event::Subject;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::queue::Batch;
use crate::smtp::client::{Ending, Verdict};

#[derive(Default)]
pub struct Handover {
    /// Handed to us and not begun, in order.
    waiting: VecDeque<Part>,
    /// Begun and not ended, in order; two at most.
    under_way: VecDeque<Part>,
    /// The next one could not be read while another was under way: it is tried again, and decided, in its turn.
    unread: bool,
    /// Not reported yet.
    results: Vec<RecipientResult>,
    /// Transactions that the connection has carried.
    carried: u64,
    /// The position of a message: the session broke in a transaction with several of its recipients.
    broken_by: Option<u64>,
    /// The host asked for it: the connection ends with what is under way.
    parting: Option<Parting>,
}

/// A batch, or one recipient of it: what is one transaction.
struct Part {
    batch: Batch,
    /// What events say of its message, once it was loaded.
    subject: Option<Arc<Subject>>,
    /// The batch ends with it.
    last: bool,
    /// Neither behind another one nor before one.
    alone: bool,
}

/// Transactions that ended with one step of the session, and how the session did, as they are settled.
pub struct Settling<'a> {
    around: Circumstances<'a>,
    /// The host broke the protocol at one recipient.
    has_culprit: bool,
    /// The transport's own words on why it ended.
    trouble: Option<&'a str>,
    /// Others of the message, or other messages, are known to fare better than the recipient at whom it broke.
    narrowly: bool,
    ambiguous: bool,
}

impl<'a> Settling<'a> {
    /// `excused`: it ended by a habit of the host's that is certain, and avoided from now on.
    pub fn new(
        ending: Option<&'a Ending>,
        excused: bool,
        has_culprit: bool,
        trouble: Option<&'a str>,
    ) -> Self {
        Self {
            around: Circumstances {
                ending,
                excused,
                ..Circumstances::default()
            },
            has_culprit,
            trouble,
            narrowly: false,
            ambiguous: false,
        }
    }

    /// Who judges what the host said; otherwise the table of codes does.
    pub fn judged_by(mut self, judge: Judge<'a>) -> Self {
        self.around.judge = judge;
        self
    }
}

impl Handover {
    /// Takes an errand apart into transactions.
    pub fn accept(&mut self, errand: Errand) {
        let Errand { batch, one_by_one } = errand;
        if !one_by_one || batch.recipients.len() < 2 {
            return self.waiting.push_back(Part {
                batch,
                subject: None,
                last: true,
                alone: one_by_one,
            });
        }
        let count = batch.recipients.len();
        for (place, &recipient) in batch.recipients.iter().enumerate() {
            self.waiting.push_back(Part {
                batch: Batch {
                    position: batch.position,
                    pool: batch.pool,
                    recipients: std::iter::once(recipient).collect(),
                },
                subject: None,
                last: place + 1 == count,
                alone: true,
            });
        }
    }

    /// Whether all that was handed over has begun.
    pub fn has_begun_all(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing more begins on this connection: it ends with what is under way, and what waits goes elsewhere.
    pub fn is_parting(&self) -> bool {
        self.parting.is_some()
    }

    /// What is to be said of the path when it has ended so.
    pub fn parting_failure(&self) -> Option<(Scope, Cause)> {
        match &self.parting {
            Some(Parting::OtherSource(cause)) => Some((Scope::SiteFromSource, cause.clone())),
            Some(Parting::Enough) | None => None,
        }
    }

    /// Transactions begun and not ended.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// What the next transaction is of, if one may begin as far as this side is concerned.
    pub fn next(&self) -> Option<&Batch> {
        if self.parting.is_some() {
            return None;
        }
        let next = self.waiting.front()?;
        let fits = match self.under_way.back() {
            None => true,
            Some(before) => !before.alone && !next.alone && !self.unread,
        };
        fits.then_some(&next.batch)
    }

    /// The transaction of [`Self::next`] has begun.
    pub fn begun(&mut self, subject: Option<Arc<Subject>>) {
        if let Some(mut part) = self.waiting.pop_front() {
            part.subject = subject;
            self.under_way.push_back(part);
        }
    }

    /// [`Self::next`] could not be read while another transaction is under way.
    pub fn leave_unread(&mut self) {
        self.unread = true;
    }

    /// [`Self::next`] cannot be read. Says whether a whole batch is over.
    pub fn decide_next(&mut self, outcome: &Outcome) -> bool {
        let next = self.waiting.pop_front();
        next.is_some_and(|part| self.decide(part, |_| outcome.clone()))
    }

    /// The first transaction under way ended. Says whether a whole batch is over.
    pub fn settle(&mut self, settling: &mut Settling<'_>, verdicts: Vec<Verdict>) -> bool {
        self.unread = false;
        settling.around.reused = self.carried > 0;
        self.carried += 1;
        let Some(part) = self.under_way.pop_front() else {
            return false;
        };
        settling.around.shared = part.batch.recipients.len() > 1;
        let around = settling.around;
        let broken = matches!(around.ending, Some(Ending::Broken { .. }));
        let shared = part.batch.recipients.len() > 1;
        if broken && shared && verdicts.iter().any(was_interrupted) {
            self.broken_by = Some(part.batch.position);
        }
        settling.ambiguous |= verdicts.iter().any(is_ambiguous);
        settling.narrowly = settling.has_culprit && (shared || part.alone || around.reused);
        for verdict in &verdicts {
            self.parting = self
                .parting
                .take()
                .or_else(|| transaction::parting(verdict, around));
        }
        let mut verdicts = verdicts.into_iter();
        self.decide(part, |_| match verdicts.next() {
            Some(verdict) => {
                let mut outcome = transaction::outcome(verdict, around);
                explain(&mut outcome, settling.trouble);
                outcome
            }
            None => Outcome::NotAttempted,
        })
    }

    /// The session ended. Who is to blame for it, if anybody is, and how far that reaches.
    pub fn failure(&self, settling: &Settling<'_>) -> Option<(Scope, Cause)> {
        let mut around = settling.around;
        // A content that may have got lost is more than a host that had enough of the connection.
        around.reused &= !settling.ambiguous;
        transaction::failure(around, settling.narrowly).or_else(|| self.parting_failure())
    }

    /// No host let us in.
    pub fn unreached(&mut self, outcome: &Outcome) {
        while let Some(part) = self.waiting.pop_front() {
            self.decide(part, |_| outcome.clone());
        }
    }

    /// What has not begun: to be completed with what events say.
    pub fn waiting(&mut self) -> impl Iterator<Item = (&Batch, &mut Option<Arc<Subject>>)> {
        let parts = self.waiting.iter_mut();
        parts.map(|part| (&part.batch, &mut part.subject))
    }

    /// Nobody goes on with the session, of which these are the last verdicts.
    pub fn abandon(&mut self, verdicts: Vec<Vec<Verdict>>) {
        let mut all = verdicts.into_iter();
        for part in std::mem::take(&mut self.under_way) {
            let mut verdicts = all.next().unwrap_or_default().into_iter();
            self.decide(part, |_| match verdicts.next() {
                None
                | Some(Verdict::Unanswered {
                    content_sent: false,
                }) => Outcome::NotAttempted,
                Some(verdict) => transaction::outcome(verdict, Circumstances::default()),
            });
        }
    }

    /// The program failed. `sent`: for each transaction under way, whether the end of its content was written.
    pub fn break_off(&mut self, sent: &[bool]) {
        let cause = Cause::new(CauseClass::LocalSystem, "the session was broken off here");
        for (place, part) in std::mem::take(&mut self.under_way).into_iter().enumerate() {
            let content_sent = sent.get(place).copied().unwrap_or(true);
            self.decide(part, |_| broken_off(content_sent, &cause));
        }
        // A message that makes the program panic waits, or it would do so again at once.
        if let Some(part) = self.waiting.pop_front() {
            self.decide(part, |_| broken_off(false, &cause));
        }
    }

    /// Everything that is still owed was not attempted.
    pub fn give_back(&mut self) {
        let begun = std::mem::take(&mut self.under_way);
        let waiting = std::mem::take(&mut self.waiting);
        for part in begun.into_iter().chain(waiting) {
            self.decide(part, |_| Outcome::NotAttempted);
        }
    }

    pub fn take_results(&mut self) -> Vec<RecipientResult> {
        std::mem::take(&mut self.results)
    }

    pub fn take_broken_by(&mut self) -> Option<u64> {
        self.broken_by.take()
    }

    /// One result for each recipient of the part, in its order. Says whether its batch ends with it.
    fn decide(&mut self, part: Part, mut outcome: impl FnMut(u16) -> Outcome) -> bool {
        let results = part.batch.recipients.iter().map(|r| RecipientResult {
            position: part.batch.position,
            subject: part.subject.clone(),
            number: r.number,
            attempts: r.attempts,
            outcome: outcome(r.number),
        });
        self.results.extend(results);
        part.last
    }
}

/// Adds the system's words to ours where the transport failed.
fn explain(outcome: &mut Outcome, trouble: Option<&str>) {
    if let (Some(trouble), Outcome::Deferred { cause, .. } | Outcome::Ambiguous { cause }) =
        (trouble, outcome)
        && cause.reply.is_none()
    {
        cause.detail = format!("{}: {trouble}", cause.detail);
    }
}

fn is_ambiguous(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Unanswered { content_sent: true })
}

fn was_interrupted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Unanswered { .. } | Verdict::NotReached)
}

fn broken_off(content_sent: bool, cause: &Cause) -> Outcome {
    let cause = cause.clone();
    match content_sent {
        true => Outcome::Ambiguous { cause },
        false => Outcome::Deferred {
            scope: Scope::Message,
            cause,
        },
    }
}
