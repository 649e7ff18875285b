//! One transaction in the machine: what is to be sent of it, and what is known about each recipient.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{Command, Stage, Verdict};
use crate::mail::Reply;
use crate::smtp::client::content::Framed;

/// One recipient in the course of a transaction.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// RCPT has no answer yet.
    Pending,
    /// RCPT was accepted.
    Accepted,
    Decided(Verdict),
}

#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// Commands that are formatted and may not leave yet, with their lengths.
    pub(super) unsent: BytesMut,
    pub(super) queued: VecDeque<(Command, usize)>,
    pub(super) queued_len: usize,
    /// The framed content, until it may leave.
    pub(super) content: Option<Framed>,
    pub(super) content_len: u64,
    /// The count of written octets at which the content has left, once it is given to the driver.
    pub(super) content_end: Option<u64>,
    pub(super) progress: Vec<Progress>,
    pub(super) mail_refused: bool,
    /// It began before the reply to the one before.
    pub(super) ahead: bool,
    /// Commands left together: a reply too many would be taken for the next command's.
    pub(super) pipelined: bool,
    /// A reply that only one command can have (354) showed that replies and commands are in step.
    pub(super) synchronised: bool,
    /// A reply to it has come.
    pub(super) heard: bool,
    /// A reply to it was the one before once more: one of the two may be too many.
    pub(super) repeated: bool,
    /// What the answer to its BDAT makes of those whom the host accepted, once that answer is confirmed.
    pub(super) unconfirmed: Option<Verdict>,
    /// Nothing of it was or will be sent: it waits for its turn to be told.
    pub(super) over: bool,
}

impl Transaction {
    /// What was appended to `unsent` since the last call is `command`.
    pub(super) fn queue(&mut self, command: Command) {
        self.queued
            .push_back((command, self.unsent.len() - self.queued_len));
        self.queued_len = self.unsent.len();
    }

    pub(super) fn any_open(&self) -> bool {
        let decided = |p: &Progress| matches!(p, Progress::Decided(_));
        !self.progress.iter().all(decided)
    }

    pub(super) fn any_accepted(&self) -> bool {
        let accepted = |p: &Progress| matches!(p, Progress::Accepted);
        self.progress.iter().any(accepted)
    }

    pub(super) fn is_hopeless(&self) -> bool {
        self.mail_refused || !self.any_open()
    }

    pub(super) fn content_sent(&self, written: u64) -> bool {
        self.content_end.is_some_and(|end| end <= written)
    }

    /// Its replies may be shifted by one for all that is known.
    pub(super) fn in_doubt(&self) -> bool {
        self.pipelined && !self.synchronised
    }

    /// Decides every recipient that has no verdict.
    pub(super) fn decide_open(&mut self, verdict: &Verdict) {
        for progress in &mut self.progress {
            if !matches!(progress, Progress::Decided(_)) {
                *progress = Progress::Decided(verdict.clone());
            }
        }
    }

    /// The same, except for one.
    pub(super) fn decide_but(&mut self, index: usize, verdict: &Verdict) {
        for (place, progress) in self.progress.iter_mut().enumerate() {
            if place != index && !matches!(progress, Progress::Decided(_)) {
                *progress = Progress::Decided(verdict.clone());
            }
        }
    }

    pub(super) fn decide_accepted(&mut self, verdict: &Verdict) {
        for progress in &mut self.progress {
            if matches!(progress, Progress::Accepted) {
                *progress = Progress::Decided(verdict.clone());
            }
        }
    }

    /// The reply to RCPT of the recipient with this index.
    pub(super) fn rcpt_answered(
        &mut self,
        index: usize,
        positive: bool,
        reply: impl Fn() -> Reply,
    ) {
        let decided = if positive {
            Progress::Accepted
        } else {
            let reply = reply();
            Progress::Decided(if self.any_accepted() && too_many_recipients(&reply) {
                Verdict::Surplus
            } else {
                let stage = Stage::Rcpt;
                Verdict::Refused { stage, reply }
            })
        };
        // After a refused MAIL the verdict stands: RCPT is then only told that it is out of sequence.
        if let Some(open @ Progress::Pending) = self.progress.get_mut(index) {
            *open = decided;
        }
    }

    /// Replies were out of step: what was said about one recipient may have been meant for another.
    pub(super) fn reopen(&mut self) {
        for progress in &mut self.progress {
            if let Progress::Decided(Verdict::Refused { .. } | Verdict::Surplus) = progress {
                *progress = Progress::Pending;
            }
        }
    }

    pub(super) fn into_verdicts(self) -> Vec<Verdict> {
        let verdict = |progress| match progress {
            Progress::Decided(verdict) => verdict,
            Progress::Pending | Progress::Accepted => Verdict::Unanswered {
                content_sent: false,
            },
        };
        self.progress.into_iter().map(verdict).collect()
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
