//! The life of one session: connect, hand over batches, say QUIT.
//!
//! The [`Agent`] owns everything that a last word needs: what it was handed and has no results for, results that are not
//! reported yet, the connection, the inbox, and a reserved place in the channel of reports. Its `Drop` says that last word.
//! So a panic and an abort end like everything else, with one result per recipient.
//!
//! Where the host can take it, the next batch begins while the reply to the content of the one before is still to come. It
//! is then read from the spool while that is under way. Reports keep the order in which batches were handed over.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::OwnedPermit;

use super::connect::{Unreached, reach};
use super::trace::Tap;
use super::transaction::{self, Circumstances};
use super::{
    AgentContext, Errand, LoadError, Loaded, MessageSource, RecipientResult, Remote, Report,
    SessionPlan, SessionState,
};
use crate::event::Subject;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::queue::Batch;
use crate::smtp::client::{Connection, Ending, Step, Verdict};

/// Runs one session to its end. Its first batch is in the plan; each further one comes by the inbox: one after each report
/// of [`SessionState::Idle`], and one more ahead after a report that [`Report::runs_ahead`]. A closed inbox means QUIT.
/// # Cancel safety
/// Dropping the future, even before it ran, reports what it still owed: not attempted, or ambiguous when the end of the
/// content was written.
pub fn run_agent(
    context: Arc<AgentContext>,
    plan: SessionPlan,
    inbox: mpsc::Receiver<Errand>,
) -> impl Future<Output = ()> + Send {
    let agent = Agent::new(context, plan, inbox);
    agent.run()
}

struct Agent {
    context: Arc<AgentContext>,
    plan: SessionPlan,
    inbox: mpsc::Receiver<Errand>,
    inbox_closed: bool,
    /// Who watches hears through this.
    tap: Arc<Tap>,
    /// The place for the last report.
    permit: Option<OwnedPermit<Report>>,
    connection: Option<Connection>,
    remote: Option<Arc<Remote>>,
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
    closed: bool,
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

/// What the session does next.
enum Next {
    GoesOn,
    /// It is over, for this reason if anybody is to blame.
    Closes(Option<(Scope, Cause)>),
    /// Nobody listens any more.
    Unheard,
}

impl Agent {
    fn new(
        context: Arc<AgentContext>,
        mut plan: SessionPlan,
        inbox: mpsc::Receiver<Errand>,
    ) -> Self {
        let permit = context.reports.clone().try_reserve_owned().ok();
        let nothing = Batch {
            position: plan.first.batch.position,
            pool: plan.first.batch.pool,
            recipients: Default::default(),
        };
        let first = std::mem::replace(&mut plan.first, nothing.into());
        let mut sources = context.sources.iter();
        let source = sources.find(|source| source.id == plan.source);
        let tap = Tap::new(
            Arc::clone(&context.trace),
            context.clock,
            plan.session,
            source.map_or_else(|| "".into(), |source| source.name.clone()),
        );
        let mut agent = Self {
            tap: Arc::new(tap),
            context,
            plan,
            inbox,
            inbox_closed: false,
            permit,
            connection: None,
            remote: None,
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            unread: false,
            results: Vec::new(),
            carried: 0,
            broken_by: None,
            closed: false,
        };
        agent.accept(first);
        agent
    }

    async fn run(mut self) {
        match reach(&self.context, &self.plan, &self.tap).await {
            Ok(connection) => {
                self.remote = Some(Arc::new(remote_of(&connection)));
                self.connection = Some(connection);
            }
            Err(unreached) => return self.unreached(unreached).await,
        }
        loop {
            match self.proceed().await {
                Next::GoesOn => {}
                Next::Closes(failure) => return self.close(failure).await,
                Next::Unheard => return,
            }
        }
    }

    async fn unreached(mut self, unreached: Unreached) {
        self.remote = unreached.remote;
        let messages = Arc::clone(&self.context.messages);
        for part in &mut self.waiting {
            let batch = &part.batch;
            // Where it cannot be read, the owner of the reports finds out the same.
            let subject = messages.subject(batch.position, &batch.recipients).await;
            part.subject = subject.ok();
            // So whoever watches for this domain or message sees what was tried.
            if let Some(subject) = &part.subject {
                self.tap.begin(subject, 0);
            }
        }
        while let Some(part) = self.waiting.pop_front() {
            self.decide(part, |_| unreached.outcome.clone());
        }
        let failure = match unreached.outcome {
            Outcome::Deferred { scope, cause } | Outcome::Bounced { scope, cause } => {
                Some((scope, cause))
            }
            _ => None,
        };
        self.close(failure).await;
    }

    /// Takes an errand apart into transactions.
    fn accept(&mut self, errand: Errand) {
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

    /// One step: begins a transaction, goes on with those under way, or waits for a batch.
    async fn proceed(&mut self) -> Next {
        if self.may_begin() {
            return self.begin().await;
        }
        if self.under_way.is_empty() {
            return self.idle().await;
        }
        let Some(connection) = &mut self.connection else {
            return Next::Closes(None);
        };
        let wants_more = self.waiting.is_empty() && !self.inbox_closed && connection.may_begin();
        tokio::select! {
            biased;
            step = connection.step() => self.ended(step).await,
            errand = self.inbox.recv(), if wants_more => {
                match errand {
                    Some(errand) => self.accept(errand),
                    None => self.inbox_closed = true,
                }
                Next::GoesOn
            }
        }
    }

    fn may_begin(&self) -> bool {
        let fits = match (self.under_way.back(), self.waiting.front()) {
            (None, next) => next.is_some(),
            (Some(before), Some(next)) => !before.alone && !next.alone && !self.unread,
            (Some(_), None) => false,
        };
        fits && self.connection.as_ref().is_some_and(Connection::may_begin)
    }

    /// Reads the next message and begins its transaction. What is under way goes on meanwhile.
    async fn begin(&mut self) -> Next {
        let messages = Arc::clone(&self.context.messages);
        let (Some(connection), Some(part)) = (&mut self.connection, self.waiting.front()) else {
            return Next::Closes(None);
        };
        let loading = load(messages.as_ref(), &part.batch);
        let loaded = if self.under_way.is_empty() {
            loading.await
        } else {
            tokio::select! {
                biased;
                step = connection.step() => return self.ended(step).await,
                loaded = loading => loaded,
            }
        };
        match loaded {
            Err(_) if !self.under_way.is_empty() => {
                self.unread = true;
                Next::GoesOn
            }
            Err(error) => {
                tracing::error!(%error, "a message cannot be read");
                let cause = Cause::new(error.class, error.to_string());
                let outcome = Outcome::Deferred {
                    scope: Scope::Message,
                    cause,
                };
                let last = self.waiting.pop_front().is_some_and(|part| {
                    let last = part.last;
                    self.decide(part, |_| outcome.clone());
                    last
                });
                self.report_if(last).await
            }
            Ok(Loaded { mail, subject }) => {
                self.tap.begin(&subject, self.under_way.len());
                connection.begin(&mail);
                if let Some(mut part) = self.waiting.pop_front() {
                    part.subject = Some(subject);
                    self.under_way.push_back(part);
                }
                Next::GoesOn
            }
        }
    }

    /// Transactions ended, or the session did.
    async fn ended(&mut self, step: Step) -> Next {
        self.unread = false;
        let Some(connection) = &self.connection else {
            return Next::Closes(None);
        };
        let trouble = connection.trouble().map(str::to_owned);
        let excused = connection.sign().is_some_and(|sign| sign.certain);
        let has_culprit = connection.has_culprit();
        let ending = step.ended.as_ref();
        let broken = matches!(ending, Some(Ending::Broken { .. }));
        let mut around = Circumstances {
            ending,
            excused,
            reused: self.carried > 0,
        };
        // Others of the message, or other messages, are known to fare better than the recipient at whom it broke.
        let mut narrowly = false;
        let mut ambiguous = false;
        for verdicts in step.done {
            around.reused = self.carried > 0;
            self.carried += 1;
            let Some(part) = self.under_way.pop_front() else {
                continue;
            };
            let shared = part.batch.recipients.len() > 1;
            if broken && shared && verdicts.iter().any(was_interrupted) {
                self.broken_by = Some(part.batch.position);
            }
            ambiguous |= verdicts.iter().any(is_ambiguous);
            narrowly = has_culprit && (shared || part.alone || around.reused);
            let last = part.last;
            let mut verdicts = verdicts.into_iter();
            self.decide(part, |_| match verdicts.next() {
                Some(verdict) => {
                    let mut outcome = transaction::outcome(verdict, around);
                    explain(&mut outcome, trouble.as_deref());
                    outcome
                }
                None => Outcome::NotAttempted,
            });
            // When the session ended too, the last report says all.
            if ending.is_none()
                && let other @ (Next::Closes(_) | Next::Unheard) = self.report_if(last).await
            {
                return other;
            }
        }
        // A content that may have got lost is more than a host that had enough of the connection.
        around.reused &= !ambiguous;
        match ending {
            Some(_) => Next::Closes(transaction::failure(around, narrowly)),
            None => Next::GoesOn,
        }
    }

    /// One result for each recipient of the part, in its order.
    fn decide(&mut self, part: Part, mut outcome: impl FnMut(u16) -> Outcome) {
        let results = part.batch.recipients.iter().map(|r| RecipientResult {
            position: part.batch.position,
            subject: part.subject.clone(),
            number: r.number,
            attempts: r.attempts,
            outcome: outcome(r.number),
        });
        self.results.extend(results);
    }

    /// Waits for a batch, or until the connection is gone.
    async fn idle(&mut self) -> Next {
        let Some(connection) = &mut self.connection else {
            return Next::Closes(None);
        };
        if self.inbox_closed {
            return Next::Closes(None);
        }
        tokio::select! {
            biased;
            ending = connection.idle() => {
                tracing::debug!(session = self.plan.session.0, %ending, "idle connection ended");
                Next::Closes(None)
            }
            errand = self.inbox.recv() => match errand {
                Some(errand) => {
                    self.accept(errand);
                    Next::GoesOn
                }
                None => Next::Closes(None),
            },
        }
    }

    /// Reports the results of a whole batch, and readiness.
    async fn report_if(&mut self, whole: bool) -> Next {
        if !whole {
            return Next::GoesOn;
        }
        // The place for the next report first: then there is always one for the last word.
        let Ok(next) = self.context.reports.clone().reserve_owned().await else {
            self.closed = true;
            return Next::Unheard;
        };
        let report = self.report(SessionState::Idle);
        match self.permit.replace(next) {
            Some(permit) => drop(permit.send(report)),
            // Only at the first report, when the channel was full at the start.
            None => {
                if let Some(permit) = self.permit.take() {
                    drop(permit.send(report));
                }
                self.permit = self.context.reports.clone().reserve_owned().await.ok();
            }
        }
        Next::GoesOn
    }

    /// The last report, then QUIT: nobody waits for the remote host's good-bye.
    async fn close(mut self, failure: Option<(Scope, Cause)>) {
        if self.permit.is_none() {
            self.permit = self.context.reports.clone().reserve_owned().await.ok();
        }
        self.last_word(failure);
        let connection = self.connection.take().filter(Connection::is_ready);
        // Nothing of the agent is kept while the host takes its time.
        drop(self);
        if let Some(connection) = connection {
            connection.quit().await;
        }
    }

    /// Says everything that is owed. Never waits, never panics.
    fn last_word(&mut self, failure: Option<(Scope, Cause)>) {
        // From here on a batch cannot be sent to us; what is in the inbox goes back.
        self.inbox.close();
        while let Ok(errand) = self.inbox.try_recv() {
            self.accept(errand);
        }
        let begun = std::mem::take(&mut self.under_way);
        let waiting = std::mem::take(&mut self.waiting);
        for part in begun.into_iter().chain(waiting) {
            self.decide(part, |_| Outcome::NotAttempted);
        }
        self.closed = true;
        let report = self.report(SessionState::Closed { failure });
        match self.permit.take() {
            Some(permit) => drop(permit.send(report)),
            None => {
                if let Err(error) = self.context.reports.try_send(report) {
                    tracing::error!(session = self.plan.session.0, %error, "a last report is lost");
                }
            }
        }
    }

    fn report(&mut self, state: SessionState) -> Report {
        let connection = self.connection.as_ref();
        Report {
            session: self.plan.session,
            source: self.plan.source,
            remote: self.remote.clone(),
            results: std::mem::take(&mut self.results),
            state,
            runs_ahead: connection.is_some_and(Connection::runs_ahead),
            sign: connection.and_then(Connection::sign),
            broken_by: self.broken_by.take(),
        }
    }

    /// What is under way, when this agent ends by panic or abort.
    fn decide_abandoned(&mut self) {
        let cause = Cause::new(CauseClass::LocalSystem, "the session was broken off here");
        let begun = std::mem::take(&mut self.under_way);
        if std::thread::panicking() {
            // Not a step into the machine that may just have panicked: only what it remembers.
            let sent: Vec<bool> = self
                .connection
                .as_ref()
                .map(|connection| connection.contents_sent().collect())
                .unwrap_or_default();
            for (place, part) in begun.into_iter().enumerate() {
                let content_sent = sent.get(place).copied().unwrap_or(true);
                self.decide(part, |_| broken_off(content_sent, &cause));
            }
            // A message that makes the program panic waits, or it would do so again at once.
            if let Some(part) = self.waiting.pop_front() {
                self.decide(part, |_| broken_off(false, &cause));
            }
            return;
        }
        let abandoned = self.connection.as_mut().map(Connection::abandon);
        let mut all = abandoned.unwrap_or_default().into_iter();
        for part in begun {
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
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.closed {
            self.decide_abandoned();
            self.last_word(None);
        }
    }
}

async fn load(messages: &dyn MessageSource, batch: &Batch) -> Result<Loaded, LoadError> {
    let loaded = messages.load(batch.position, &batch.recipients).await?;
    let asked = batch.recipients.iter().map(|r| r.number);
    if !loaded.mail.recipients.iter().map(|r| r.number).eq(asked) {
        return Err(LoadError {
            position: batch.position,
            class: CauseClass::Damaged,
            detail: "it has other recipients than the queue".into(),
        });
    }
    Ok(loaded)
}

fn remote_of(connection: &Connection) -> Remote {
    Remote {
        name: Arc::clone(connection.host()),
        address: connection.remote(),
        tls: connection.tls().map(|tls| Arc::clone(&tls.description)),
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
