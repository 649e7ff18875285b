//! The life of one session: connect, hand over batches, say QUIT.
//!
//! The [`Agent`] owns everything that a last word needs: what it was handed and has no results for, results that are not
//! reported yet, the connection, the inbox, and a reserved place in the channel of reports. Its `Drop` says that last word.
//! So a panic and an abort end like everything else, with one result per recipient.
//!
//! Where the host can take it, the next batch begins while the reply to the content of the one before is still to come. It
//! is then read from the spool while that is under way. Reports keep the order in which batches were handed over.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::OwnedPermit;

use super::attempts::Unreached;
use super::connect::reach;
use super::handover::{Handover, Settling};
use super::trace::Tap;
use super::{
    AgentContext, Errand, Form, LoadError, Loaded, MessageSource, Remote, Report, SessionPlan,
    SessionState,
};
use crate::classify::Judge;
use crate::metrics;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::queue::{Batch, Trouble};
use crate::smtp::client::{Connection, Step};

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
    handover: Handover,
    /// What it says of the source that no host let us in.
    trouble: Option<Trouble>,
    closed: bool,
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
            handover: Handover::default(),
            trouble: None,
            closed: false,
        };
        agent.handover.accept(first);
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
        for (batch, known) in self.handover.waiting() {
            // Where it cannot be read, the owner of the reports finds out the same.
            let subject = messages.subject(batch.position, &batch.recipients).await;
            // So whoever watches for this domain or message sees what was tried.
            if let Ok(subject) = subject {
                self.tap.begin(&subject, 0);
                *known = Some(subject);
            }
        }
        self.handover.unreached(&unreached.outcome);
        self.trouble = unreached.trouble;
        self.close(Some(unreached.failure)).await;
    }

    /// One step: begins a transaction, goes on with those under way, or waits for a batch.
    async fn proceed(&mut self) -> Next {
        if self.may_begin() {
            return self.begin().await;
        }
        if self.handover.under_way() == 0 {
            return self.idle().await;
        }
        let Some(connection) = &mut self.connection else {
            return Next::Closes(None);
        };
        let wants_more = self.handover.has_begun_all()
            && !self.handover.is_parting()
            && !self.inbox_closed
            && connection.may_begin();
        tokio::select! {
            biased;
            step = connection.step() => self.ended(step).await,
            errand = self.inbox.recv(), if wants_more => {
                match errand {
                    Some(errand) => self.handover.accept(errand),
                    None => self.inbox_closed = true,
                }
                Next::GoesOn
            }
        }
    }

    fn may_begin(&self) -> bool {
        self.handover.next().is_some()
            && self.connection.as_ref().is_some_and(Connection::may_begin)
    }

    /// Reads the next message and begins its transaction. What is under way goes on meanwhile.
    async fn begin(&mut self) -> Next {
        let messages = Arc::clone(&self.context.messages);
        let (Some(connection), Some(batch)) = (&mut self.connection, self.handover.next()) else {
            return Next::Closes(None);
        };
        let form = match connection.takes_eight_bit() {
            true => Form::EightBit,
            false => Form::SevenBit,
        };
        let loading = load(messages.as_ref(), batch, form);
        let loaded = if self.handover.under_way() == 0 {
            loading.await
        } else {
            tokio::select! {
                biased;
                step = connection.step() => return self.ended(step).await,
                loaded = loading => loaded,
            }
        };
        match loaded {
            Err(_) if self.handover.under_way() > 0 => {
                self.handover.leave_unread();
                Next::GoesOn
            }
            Err(error) => {
                tracing::error!(%error, "a message cannot be sent");
                let cause = Cause::new(error.class, error.to_string());
                let outcome = Outcome::Deferred {
                    scope: Scope::Message,
                    cause,
                };
                let last = self.handover.decide_next(&outcome);
                self.report_if(last).await
            }
            Ok(Loaded { mail, subject }) => {
                if batch.recipients.iter().any(|r| r.attempts == 0) {
                    let waited = subject.waited_ms(self.context.clock.unix_ms());
                    let provider = self.context.shaping.name_of_host(connection.host());
                    metrics::FIRST_ATTEMPT_SECONDS.record(
                        &[metrics::kind_text(subject.stream_kind), provider],
                        waited as f64 / 1_000.0,
                    );
                }
                self.tap.begin(&subject, self.handover.under_way());
                connection.begin(&mail);
                self.handover.begun(Some(subject));
                Next::GoesOn
            }
        }
    }

    /// Transactions ended, or the session did.
    async fn ended(&mut self, step: Step) -> Next {
        let Some(connection) = &self.connection else {
            return Next::Closes(None);
        };
        let trouble = connection.trouble().map(str::to_owned);
        let (rules, host) = (
            self.context.rules.load_full(),
            Arc::clone(connection.host()),
        );
        let settling = Settling::new(
            step.ended.as_ref(),
            connection.sign().is_some_and(|sign| sign.certain),
            connection.has_culprit(),
            trouble.as_deref(),
        );
        let mut settling = settling.judged_by(Judge {
            rules: Some(&rules),
            host: &host,
        });
        for verdicts in step.done {
            let last = self.handover.settle(&mut settling, verdicts);
            // When the session ended too, or ends with it, the last report says all.
            if step.ended.is_none()
                && !self.handover.is_parting()
                && let other @ (Next::Closes(_) | Next::Unheard) = self.report_if(last).await
            {
                return other;
            }
        }
        match step.ended {
            Some(_) => Next::Closes(self.handover.failure(&settling)),
            None if self.handover.is_parting() && self.handover.under_way() == 0 => {
                Next::Closes(self.handover.parting_failure())
            }
            None => Next::GoesOn,
        }
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
                    self.handover.accept(errand);
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

    /// QUIT where the host still listens, then the last report: the host counts the connection until then, and so do we.
    async fn close(mut self, failure: Option<(Scope, Cause)>) {
        if self.permit.is_none() {
            self.permit = self.context.reports.clone().reserve_owned().await.ok();
        }
        let is_ready = self.connection.as_ref().is_some_and(Connection::is_ready);
        if let Some(connection) = self.connection.take_if(|_| is_ready) {
            connection.quit().await;
        }
        self.last_word(failure);
    }

    /// Says everything that is owed. Never waits, never panics.
    fn last_word(&mut self, failure: Option<(Scope, Cause)>) {
        // From here on a batch cannot be sent to us; what is in the inbox goes back.
        self.inbox.close();
        while let Ok(errand) = self.inbox.try_recv() {
            self.handover.accept(errand);
        }
        self.handover.give_back();
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
            results: self.handover.take_results(),
            state,
            runs_ahead: connection.is_some_and(Connection::runs_ahead),
            sign: connection.and_then(Connection::sign),
            broken_by: self.handover.take_broken_by(),
            trouble: self.trouble.take(),
        }
    }

    /// What is under way, when this agent ends by panic or abort.
    fn decide_abandoned(&mut self) {
        if std::thread::panicking() {
            // Not a step into the machine that may just have panicked: only what it remembers.
            let sent: Vec<bool> = self
                .connection
                .as_ref()
                .map(|connection| connection.contents_sent().collect())
                .unwrap_or_default();
            return self.handover.break_off(&sent);
        }
        let abandoned = self.connection.as_mut().map(Connection::abandon);
        self.handover.abandon(abandoned.unwrap_or_default());
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

async fn load(
    messages: &dyn MessageSource,
    batch: &Batch,
    form: Form,
) -> Result<Loaded, LoadError> {
    let loaded = messages
        .load(batch.position, &batch.recipients, form)
        .await?;
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
        dsn: connection.takes_dsn(),
    }
}
