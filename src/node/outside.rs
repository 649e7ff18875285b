//! What account settings need of the world: proofs from the DNS, and mail of the node itself through its own spool.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use spool_format::layout::kind;

use crate::accept::{Accept, AcceptedRecipient, Context, Refusal};
use crate::account::outside::{Answer, Telling};
use crate::account::{KeyFact, KeyNews, Notice, Outside, Sender};
use crate::config::{Config, StreamKind};
use crate::event::{EventKind, KeyEvent};
use crate::inbound::people::{Forward, Forwarded, Forwarding, NotForwarded};
use crate::mail::{Domain, DsnRecipient, ForwardPath, Mailbox, MessageId, ReversePath};
use crate::route::Records;
use crate::spool::Spool;

use super::check::Checker;

pub(super) struct Surroundings {
    records: Arc<Records>,
    checker: Arc<Checker>,
    accept: Accept,
    spool: Arc<Spool>,
    hostname: String,
    notices_from: Mailbox,
    /// Of the node's own mail; `Err`: why there is none.
    sender: Result<Sender, &'static str>,
}

impl Surroundings {
    pub(super) fn new(
        config: &Config,
        records: Arc<Records>,
        checker: Arc<Checker>,
        accept: Accept,
        spool: Arc<Spool>,
    ) -> Self {
        let pool = config.pool_default(StreamKind::Transactional);
        Self {
            records,
            checker,
            accept,
            spool,
            hostname: config.node.hostname.clone(),
            notices_from: config.account.notices_from.clone(),
            sender: pool.map(Sender::of_node).ok_or(NO_POOL),
        }
    }

    async fn send(&self, notice: &Notice) -> Result<(), String> {
        // Not null: that is for reports about other mail (RFC 5321 §4.5.5).
        let reverse_path = ReversePath::Mailbox(notice.from.clone());
        let content = content(notice).into_bytes();
        let sent = self.submit(reverse_path, &notice.to, &content).await;
        let id = sent.map_err(|error| error.to_string())?;
        tracing::info!(message_id = %id, to = %notice.to, "a notice is on its way");
        Ok(())
    }

    async fn submit(
        &self,
        reverse_path: ReversePath,
        to: &Mailbox,
        content: &[u8],
    ) -> Result<MessageId, NotForwarded> {
        let never = |error: &dyn std::fmt::Display| NotForwarded::Never(error.to_string());
        let sender = self.sender.clone().map_err(|error| never(&error))?;
        let recipient = ForwardPath::parse(&ascii(to), false);
        let recipient =
            recipient.map_err(|error| never(&format!("the address cannot be used: {error}")))?;
        let context = Context {
            sender,
            client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            helo: self.hostname.clone(),
            client_name: None,
            tls: None,
            protocol: "LOCAL",
            reverse_path,
            recipients: vec![AcceptedRecipient {
                path: recipient,
                dsn: DsnRecipient::default(),
            }],
            smtputf8: false,
            envelope_id: None,
            dsn_return: None,
            hold: None,
            deliver_by: None,
            import: None,
            given: None,
        };
        let mut intake = self.accept.begin(context).map_err(refused)?;
        for piece in content.chunks(PIECE) {
            intake.push(piece).await.map_err(refused)?;
        }
        Ok(intake.finish().await.map_err(refused)?.id())
    }
}

fn refused(refusal: Refusal) -> NotForwarded {
    match refusal.is_temporary() {
        true => NotForwarded::Now(refusal.to_string()),
        false => NotForwarded::Never(refusal.to_string()),
    }
}

impl Forward for Surroundings {
    fn forward(&self, letter: Forwarded) -> Forwarding<'_> {
        Box::pin(async move {
            let from = format!(
                "From: Mail for the postmaster <{}>\r\n",
                ascii(&self.notices_from)
            );
            let content = [from.as_bytes(), &letter.content].concat();
            // Null: whatever becomes of it, nothing comes back here.
            let sent = self.submit(ReversePath::Null, &letter.to, &content).await;
            let id = sent?;
            tracing::info!(message_id = %id, to = %letter.to, "mail for postmaster is on its way");
            Ok(())
        })
    }
}

impl Outside for Surroundings {
    fn texts(&self, name: String) -> Answer<'_, Vec<String>> {
        Box::pin(async move { self.records.texts(&name).await })
    }

    fn alias(&self, name: String) -> Answer<'_, Option<Domain>> {
        Box::pin(async move { self.records.alias(&name).await })
    }

    fn spf_permits(&self, domain: String) -> Answer<'_, bool> {
        Box::pin(self.checker.spf_permits(domain))
    }

    fn tell<'a>(&'a self, news: KeyNews<'a>) -> Telling<'a> {
        Box::pin(async move {
            let (domain, selector, detail) = (news.domain, news.selector, &*news.detail);
            let event_kind = match news.fact {
                KeyFact::Activated => EventKind::DkimActivated,
                KeyFact::Paused => EventKind::DkimPaused,
                KeyFact::Resumed => EventKind::DkimResumed,
            };
            match news.fact {
                KeyFact::Paused => {
                    tracing::warn!(%domain, selector, detail, "a DKIM key is paused");
                }
                KeyFact::Activated | KeyFact::Resumed => {
                    tracing::info!(%domain, selector, detail, "a DKIM key signs");
                }
            }
            let mut buffer = Vec::new();
            let event = KeyEvent {
                kind: event_kind,
                at: news.at,
                domain: domain.as_str(),
                selector,
                detail,
            };
            event.encode(&mut buffer);
            let parts: [&[u8]; 1] = [&buffer];
            let written = self.spool.events.append_lazy(kind::EVENT, 0, &parts);
            if let Err(error) = written.await {
                tracing::error!(%error, "the event of a DKIM key cannot be written");
            }
        })
    }

    fn post(&self, notice: Notice) -> Answer<'_, ()> {
        Box::pin(async move { self.send(&notice).await })
    }
}

/// Date, Message-ID and Received come when it is accepted.
fn content(notice: &Notice) -> String {
    let mut content = format!(
        "From: {}\r\nTo: <{}>\r\nSubject: {}\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n",
        ascii(&notice.from),
        ascii(&notice.to),
        notice.subject
    );
    let plain = notice.text.is_ascii() && notice.text.lines().all(|l| l.len() <= LINE_MAX);
    if plain {
        content.push_str("Content-Transfer-Encoding: 7bit\r\n\r\n");
        for line in notice.text.lines() {
            let _ = write!(content, "{line}\r\n");
        }
        return content;
    }
    content.push_str("Content-Transfer-Encoding: base64\r\n\r\n");
    let encoded = STANDARD.encode(notice.text.replace('\n', "\r\n"));
    // RFC 2045 §6.8: lines of at most 76 characters. Base64 is ASCII, so every octet is one.
    for line in encoded.as_bytes().chunks(76) {
        content.push_str(&String::from_utf8_lossy(line));
        content.push_str("\r\n");
    }
    content
}

/// With A-labels, so that no host needs SMTPUTF8.
fn ascii(mailbox: &Mailbox) -> String {
    format!("{}@{}", mailbox.local_part(), mailbox.domain())
}

/// Octets that are handed over at a time.
const PIECE: usize = 64 << 10;
/// RFC 5322 §2.1.1.
const LINE_MAX: usize = 998;
const NO_POOL: &str = "the node has no egress pool for mail of its own; give [[pool]] one of kind transactional, and default = true if there are several";

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(text: &str) -> Notice {
        Notice {
            from: Mailbox::parse("posthaste@mail.example.com", false).unwrap(),
            to: Mailbox::parse("ada@bücher.example", true).unwrap(),
            subject: "Subject".into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_notice_is_ascii_in_short_lines_whatever_it_says() {
        let plain = content(&notice("one\ntwo\n"));
        assert!(
            plain.contains("\r\nTo: <ada@xn--bcher-kva.example>\r\n"),
            "{plain}"
        );
        assert!(plain.ends_with("\r\n\r\none\r\ntwo\r\n"), "{plain}");
        let coded = content(&notice(&"grüße ".repeat(100)));
        assert!(coded.is_ascii() && coded.lines().all(|line| line.len() <= 98));
        let body = coded.split_once("\r\n\r\n").unwrap().1.replace("\r\n", "");
        let body = STANDARD.decode(body).unwrap();
        assert_eq!(body, "grüße ".repeat(100).into_bytes());
    }
}
