//! What stands behind each submission listener: accounts and the one door into the spool.
//!
//! The table from [`Refusal`] to SMTP replies is here, and nowhere else.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::accept::{self, Accept, AcceptedRecipient, Context, Refusal};
use crate::account::{Accounts, Sender};
use crate::clock::Clock;
use crate::config::{Cidr, Trusted};
use crate::idempotency::Conflict;
use crate::mail::{EnhancedStatus, Reply};
use crate::metrics;
use crate::smtp::server::{self, ContentFacts, Credentials, Submission};

/// The door of one listener.
pub(super) struct ListenerGate {
    accept: Accept,
    accounts: Arc<Accounts>,
    clock: Clock,
    trusted: ArcSwap<Vec<Trusted>>,
    proxy_from: Vec<Cidr>,
    xclient_from: Vec<Cidr>,
}

impl ListenerGate {
    pub(super) fn new(
        accept: Accept,
        accounts: Arc<Accounts>,
        clock: Clock,
        listener: &crate::config::SmtpListener,
    ) -> Self {
        Self {
            accept,
            accounts,
            clock,
            trusted: ArcSwap::from_pointee(listener.trusted.clone()),
            proxy_from: listener.proxy_from.clone(),
            xclient_from: listener.xclient_from.clone(),
        }
    }

    /// Who this is, by the settings of now: a connection may be older than a token's revocation, an archived stream or a
    /// network that is trusted no more. Counts the message against the credential's limit.
    fn sender_now(&self, sender: &Sender, client: IpAddr) -> Result<Sender, Reply> {
        let now = match sender.is_trusted_network() {
            true => server::Gate::trusted(self, client),
            false => self.accounts.renew(sender),
        };
        let Some(sender) = now else {
            metrics::MESSAGES_REFUSED.add_to("revoked", 1);
            let text = format!(
                "{} is no longer valid; authenticate again",
                sender.credential
            );
            let status = EnhancedStatus::new(5, 7, 0);
            return Err(Reply::new(530, Some(status), &capital(&text)));
        };
        if let Err(too_fast) = self.accounts.count(&sender, self.clock.unix_ms()) {
            metrics::MESSAGES_REFUSED.add_to("rate", 1);
            // RFC 5321 §4.2.1: a transient refusal; the client keeps the message and comes back.
            let status = EnhancedStatus::new(4, 7, 1);
            return Err(Reply::new(
                451,
                Some(status),
                &capital(&too_fast.to_string()),
            ));
        }
        Ok(sender)
    }

    /// Takes the trusted networks of a configuration that was read again.
    pub(super) fn trust(&self, trusted: &[Trusted]) {
        self.trusted.store(Arc::new(trusted.to_vec()));
    }
}

impl server::Gate for ListenerGate {
    type Sender = Sender;
    type Intake = Intake;

    fn refusal(&self) -> Option<Reply> {
        match self.accept.ready() {
            Err(Refusal::SpoolFailed) => Some(Reply::fixed(
                421,
                4,
                3,
                0,
                "The spool has failed; not accepting mail",
            )),
            _ => None,
        }
    }

    fn authenticate(&self, credentials: &Credentials) -> Option<Sender> {
        match credentials {
            Credentials::Password { user, password } => self.accounts.authenticate(user, password),
            Credentials::CramMd5 {
                user,
                challenge,
                digest,
            } => self.accounts.authenticate_cram_md5(user, challenge, digest),
        }
    }

    fn trusted(&self, client: IpAddr) -> Option<Sender> {
        let trusted = self.trusted.load();
        let network = trusted
            .iter()
            .find(|trusted| trusted.cidr.contains(client))?;
        self.accounts
            .trusted(&network.server, network.stream.as_deref())
    }

    fn proxy(&self, peer: IpAddr) -> bool {
        self.proxy_from.iter().any(|cidr| cidr.contains(peer))
    }

    fn xclient(&self, client: IpAddr) -> bool {
        self.xclient_from.iter().any(|cidr| cidr.contains(client))
    }

    fn begin(&self, sender: &Sender, submission: Submission) -> Result<Intake, Reply> {
        let sender = self.sender_now(sender, submission.client_address)?;
        let envelope = submission.envelope;
        let recipients = envelope.recipients.into_iter();
        let context = Context {
            sender,
            client_ip: submission.client_address,
            helo: submission.helo,
            client_name: submission.client_name,
            tls: submission.tls,
            protocol: submission.protocol,
            reverse_path: envelope.reverse_path,
            recipients: recipients
                .map(|r| AcceptedRecipient {
                    path: r.path,
                    dsn: r.dsn,
                })
                .collect(),
            smtputf8: envelope.smtputf8,
            envelope_id: envelope.envelope_id,
            dsn_return: envelope.ret,
            hold: envelope.hold,
            deliver_by: envelope.deliver_by,
            import: None,
            given: None,
        };
        self.accept
            .begin(context)
            .map(Intake)
            .map_err(|refusal| reply_to(&refusal))
    }
}

/// One message on its way in.
pub(super) struct Intake(accept::Intake);

impl server::Intake for Intake {
    type Accepted = Accepted;

    async fn push(&mut self, content: &[u8]) -> Result<(), Reply> {
        self.0
            .push(content)
            .await
            .map_err(|refusal| reply_to(&refusal))
    }

    async fn finish(self, _facts: ContentFacts) -> Result<Accepted, Reply> {
        self.0
            .finish()
            .await
            .map(Accepted)
            .map_err(|refusal| reply_to(&refusal))
    }
}

/// See [`accept::Accepted`]: it can be made only from a commit receipt.
pub(super) struct Accepted(accept::Accepted);

impl server::Accepted for Accepted {
    fn message_id(&self) -> String {
        self.0.id().to_string()
    }
}

fn reply_to(refusal: &Refusal) -> Reply {
    let (code, (class, subject, detail), reason) = match refusal {
        Refusal::DiskFull => (452, (4, 3, 1), "disk_full"),
        Refusal::QueueFull => (452, (4, 3, 1), "queue_full"),
        Refusal::Busy => (452, (4, 3, 1), "busy"),
        Refusal::SpoolFailed => (451, (4, 3, 0), "spool_failed"),
        Refusal::NotDelivering => (451, (4, 3, 2), "not_delivering"),
        Refusal::TooLarge => (552, (5, 3, 4), "too_large"),
        Refusal::HeaderTooLarge(_) => (552, (5, 3, 4), "header"),
        Refusal::TooManyFields(_) => (554, (5, 6, 0), "header"),
        Refusal::RepeatedField(_) | Refusal::BadField { .. } => (550, (5, 6, 0), "header"),
        Refusal::Key(Conflict::Differs) => (550, (5, 6, 0), "header"),
        Refusal::Key(Conflict::UnderWay) | Refusal::Recovering => (451, (4, 3, 2), "busy"),
        Refusal::Loop(_) => (554, (5, 4, 6), "loop"),
        Refusal::UnknownStream(_) | Refusal::NotSending(_) | Refusal::NoPool(_) => {
            (550, (5, 7, 1), "stream")
        }
        Refusal::NotAllowed(_) => (550, (5, 7, 1), "policy"),
    };
    metrics::MESSAGES_REFUSED.add_to(reason, 1);
    Reply::new(
        code,
        Some(EnhancedStatus::new(class, subject, detail)),
        &sentence(refusal),
    )
}

/// The refusal's words with a capital, as our other replies are written.
fn sentence(refusal: &Refusal) -> String {
    capital(&refusal.to_string())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_reply() {
        let check =
            |refusal: Refusal, expected: &str| assert_eq!(reply_to(&refusal).to_string(), expected);
        check(Refusal::DiskFull, "452 4.3.1 The disk is nearly full");
        check(
            Refusal::SpoolFailed,
            "451 4.3.0 The spool has failed and takes nothing more",
        );
        check(
            Refusal::Loop(51),
            "554 5.4.6 The message has passed 51 hosts: mail loop",
        );
        check(
            Refusal::NoPool("news".into()),
            "550 5.7.1 Message stream 'news' has no egress pool",
        );
        check(
            Refusal::NotAllowed("The 'From' address is invalid.".into()),
            "550 5.7.1 The 'From' address is invalid.",
        );
        check(
            Refusal::RepeatedField("From"),
            "550 5.6.0 The header field From occurs more than once",
        );
        check(
            Refusal::BadField {
                field: "X-Posthaste-Deadline",
                reason: "2026-03-02T14:15:00.000Z has passed already".into(),
            },
            "550 5.6.0 The header field X-Posthaste-Deadline cannot be kept: 2026-03-02T14:15:00.000Z has passed already",
        );
    }
}
