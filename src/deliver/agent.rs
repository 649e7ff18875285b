//! The life of one session: connect, hand over batches, say QUIT.
//!
//! The [`Agent`] owns everything that a last word needs: the batch under way, results that are not reported yet, the
//! connection, the inbox, and a reserved place in the channel of reports. Its `Drop` says that last word. So a panic and
//! an abort end like everything else, with one result per recipient.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::OwnedPermit;

use super::connect::{Unreached, reach};
use super::{
    AgentContext, LoadError, Loaded, MessageSource, RecipientResult, Remote, Report, SessionPlan,
    SessionState, transaction,
};
use crate::event::Subject;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::queue::Batch;
use crate::smtp::client::{Connection, Ending};

/// Runs one session to its end. Its first batch is in the plan; each further one comes by the inbox after a report of
/// [`SessionState::Idle`]. A closed inbox means QUIT.
/// # Cancel safety
/// Dropping the future, even before it ran, reports what it still owed: not attempted, or ambiguous when the end of the
/// content was written.
pub fn run_agent(
    context: Arc<AgentContext>,
    plan: SessionPlan,
    inbox: mpsc::Receiver<Batch>,
) -> impl Future<Output = ()> + Send {
    let agent = Agent::new(context, plan, inbox);
    agent.run()
}

struct Agent {
    context: Arc<AgentContext>,
    plan: SessionPlan,
    inbox: mpsc::Receiver<Batch>,
    /// The place for the last report.
    permit: Option<OwnedPermit<Report>>,
    connection: Option<Connection>,
    remote: Option<Arc<Remote>>,
    /// Handed to us, without results yet.
    batch: Option<Batch>,
    /// What events say of its message, once it was loaded.
    subject: Option<Arc<Subject>>,
    /// Not reported yet.
    results: Vec<RecipientResult>,
    /// Transactions that the connection has carried.
    carried: u64,
    closed: bool,
}

impl Agent {
    fn new(
        context: Arc<AgentContext>,
        mut plan: SessionPlan,
        inbox: mpsc::Receiver<Batch>,
    ) -> Self {
        let permit = context.reports.clone().try_reserve_owned().ok();
        let nothing = Batch {
            position: plan.first.position,
            pool: plan.first.pool,
            recipients: Default::default(),
        };
        Self {
            batch: Some(std::mem::replace(&mut plan.first, nothing)),
            context,
            plan,
            inbox,
            permit,
            connection: None,
            remote: None,
            subject: None,
            results: Vec::new(),
            carried: 0,
            closed: false,
        }
    }

    async fn run(mut self) {
        match reach(&self.context, &self.plan).await {
            Ok(connection) => {
                self.remote = Some(Arc::new(remote_of(&connection)));
                self.connection = Some(connection);
            }
            Err(unreached) => return self.unreached(unreached).await,
        }
        loop {
            if let Some(ending) = self.transact().await {
                let failure = transaction::failure(&ending, self.carried > 1);
                return self.close(failure).await;
            }
            if !self.report_idle().await {
                return;
            }
            match self.next_batch().await {
                Some(batch) => self.batch = Some(batch),
                None => return self.close(None).await,
            }
        }
    }

    async fn unreached(mut self, unreached: Unreached) {
        self.remote = unreached.remote;
        if let Some(batch) = &self.batch {
            let messages = Arc::clone(&self.context.messages);
            // Where it cannot be read, the owner of the reports finds out the same.
            self.subject = messages
                .subject(batch.position, &batch.recipients)
                .await
                .ok();
        }
        self.decide_batch(|_| unreached.outcome.clone());
        let failure = match unreached.outcome {
            Outcome::Deferred { scope, cause } | Outcome::Bounced { scope, cause } => {
                Some((scope, cause))
            }
            _ => None,
        };
        self.close(failure).await;
    }

    /// The batch under way becomes results. Says how the session ended, if it did.
    async fn transact(&mut self) -> Option<Ending> {
        let batch = self.batch.as_ref()?;
        let messages = Arc::clone(&self.context.messages);
        let mail = match load(messages.as_ref(), batch).await {
            Ok(Loaded { mail, subject }) => {
                self.subject = Some(subject);
                mail
            }
            Err(error) => {
                self.not_loaded(&error);
                return None;
            }
        };
        let connection = self.connection.as_mut()?;
        let (verdicts, ending) = connection.transact(&mail).await;
        let reused = self.carried > 0;
        self.carried += 1;
        let trouble = connection.trouble().map(str::to_owned);
        let mut verdicts = verdicts.into_iter();
        self.decide_batch(|_| match verdicts.next() {
            Some(verdict) => {
                let mut outcome = transaction::outcome(verdict, ending.as_ref(), reused);
                explain(&mut outcome, trouble.as_deref());
                outcome
            }
            None => Outcome::NotAttempted,
        });
        ending
    }

    fn not_loaded(&mut self, error: &LoadError) {
        tracing::error!(%error, "a message cannot be read");
        let cause = Cause::new(error.class, error.to_string());
        self.decide_batch(|_| Outcome::Deferred {
            scope: Scope::Message,
            cause: cause.clone(),
        });
    }

    /// One result for each recipient of the batch under way, in its order.
    fn decide_batch(&mut self, mut outcome: impl FnMut(u16) -> Outcome) {
        let subject = self.subject.take();
        if let Some(batch) = self.batch.take() {
            let results = batch.recipients.iter().map(|r| RecipientResult {
                position: batch.position,
                subject: subject.clone(),
                number: r.number,
                attempts: r.attempts,
                outcome: outcome(r.number),
            });
            self.results.extend(results);
        }
    }

    /// `None`: no batch will come, or the connection is gone.
    async fn next_batch(&mut self) -> Option<Batch> {
        let connection = self.connection.as_mut()?;
        tokio::select! {
            biased;
            ending = connection.idle() => {
                tracing::debug!(session = self.plan.session.0, %ending, "idle connection ended");
                self.connection = None;
                None
            }
            batch = self.inbox.recv() => batch,
        }
    }

    /// Reports results and readiness. `false`: nobody listens any more.
    async fn report_idle(&mut self) -> bool {
        // The place for the next report first: then there is always one for the last word.
        let Ok(next) = self.context.reports.clone().reserve_owned().await else {
            self.closed = true;
            return false;
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
        true
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
        self.decide_batch(|_| Outcome::NotAttempted);
        while let Ok(batch) = self.inbox.try_recv() {
            self.batch = Some(batch);
            self.decide_batch(|_| Outcome::NotAttempted);
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
        Report {
            session: self.plan.session,
            source: self.plan.source,
            remote: self.remote.clone(),
            results: std::mem::take(&mut self.results),
            state,
        }
    }

    /// The batch under way, when this agent ends by panic or abort.
    fn decide_abandoned(&mut self) {
        let cause = Cause::new(CauseClass::LocalSystem, "the session was broken off here");
        if std::thread::panicking() {
            // Not a step into the machine that may just have panicked: only what it remembers.
            let content_sent = self
                .connection
                .as_ref()
                .is_some_and(Connection::content_sent);
            self.decide_batch(|_| match content_sent {
                true => Outcome::Ambiguous {
                    cause: cause.clone(),
                },
                false => Outcome::Deferred {
                    scope: Scope::Message,
                    cause: cause.clone(),
                },
            });
            return;
        }
        let verdicts = self.connection.as_mut().and_then(Connection::abandon);
        let mut verdicts = verdicts.unwrap_or_default().into_iter();
        self.decide_batch(|_| match verdicts.next() {
            None
            | Some(crate::smtp::client::Verdict::Unanswered {
                content_sent: false,
            }) => Outcome::NotAttempted,
            Some(verdict) => transaction::outcome(verdict, None, false),
        });
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
