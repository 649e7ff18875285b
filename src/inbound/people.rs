//! Mail for the people behind a host: postmaster (RFC 5321 §4.5.1) and abuse (RFC 2142), whom every host that takes mail has.
//!
//! Promises: whoever writes to them hears 250 when his mail is durable, as mail to `[bounce] postmaster` or, without one, as an
//! event that has it; it never loops, since it leaves from the null reverse-path in a letter of the node's own, and what has been
//! here before is kept instead. Strangers are not vouched for: a letter that contains theirs is signed, theirs is not.
//! Bounded: [`limits::PEOPLE_MAIL_MAX`] octets each, so many an hour, so many at a time.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use spool_format::layout::kind;

use super::{Inbound, NotKept, Refused};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::mail::header::Section;
use crate::mail::{ForwardPath, Mailbox, ReversePath};
use crate::metrics;

/// Sends letters of the node's own.
pub trait Forward: Send + Sync {
    /// Returns when it is durable.
    /// # Cancel safety
    /// It may be on its way all the same.
    fn forward(&self, letter: Forwarded) -> Forwarding<'_>;
}

pub type Forwarding<'a> = Pin<Box<dyn Future<Output = Result<(), NotForwarded>> + Send + 'a>>;

/// A letter with mail for somebody in it, but for its From.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub to: Mailbox,
    /// From To on, header section first.
    pub content: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotForwarded {
    /// To be tried again.
    #[error("{0}")]
    Now(String),
    #[error("{0}")]
    Never(String),
}

/// Who wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    pub reverse_path: ReversePath,
    pub helo: String,
    pub address: IpAddr,
}

/// What is there for people.
pub(super) struct People {
    pub(super) hostname: String,
    /// Once there is one.
    pub(super) forward: OnceLock<Arc<dyn Forward>>,
    under_way: Arc<AtomicUsize>,
}

/// Mail that is being taken, counted while it is.
pub(super) struct Letter {
    /// In order of RCPT, as they were written.
    to: Vec<String>,
    writer: Writer,
    under_way: Arc<AtomicUsize>,
}

impl Drop for Letter {
    fn drop(&mut self) {
        // Relaxed: a bound, nothing is published by it.
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl People {
    pub(super) fn new(hostname: String) -> Self {
        Self {
            hostname,
            forward: OnceLock::new(),
            under_way: Arc::default(),
        }
    }

    /// Begins to take mail for these.
    pub(super) fn begin(&self, to: Vec<String>, writer: Writer) -> Result<Letter, Refused> {
        let letter = Letter {
            to,
            writer,
            under_way: Arc::clone(&self.under_way),
        };
        match self.under_way.fetch_add(1, Ordering::Relaxed) {
            others if others >= limits::PEOPLE_MAIL_AT_ONCE => Err(Refused::Busy),
            _ => Ok(letter),
        }
    }
}

/// Whether it is the name of somebody who has to be there.
pub(super) fn is_person(path: &ForwardPath) -> bool {
    let local_part = path.mailbox().local_part();
    // RFC 5321 §4.5.1: in any case.
    ["postmaster", "abuse"]
        .iter()
        .any(|person| person.eq_ignore_ascii_case(local_part))
}

impl Inbound {
    /// Makes mail for people durable, as a letter or as an event. Returns the event's position.
    pub(super) async fn take_letter(
        &self,
        letter: &Letter,
        content: &[u8],
    ) -> Result<Option<u64>, NotKept> {
        let snapshot = self.0.accounts.load();
        let people = &self.0.people;
        let (to, forward) = (snapshot.postmaster(), people.forward.get());
        if let (Some(to), Some(forward)) = (to, forward)
            && !was_here(content, &people.hostname)
        {
            let forwarded = Forwarded {
                to: to.clone(),
                content: letter.with(content, &people.hostname, to),
            };
            match forward.forward(forwarded).await {
                Ok(()) => {
                    metrics::PEOPLE_MAIL.add_to("forwarded", 1);
                    return Ok(None);
                }
                Err(NotForwarded::Now(reason)) => return Err(NotKept::NotNow(reason)),
                Err(NotForwarded::Never(reason)) => {
                    tracing::error!(
                        reason,
                        "mail for postmaster cannot be forwarded and is kept"
                    );
                }
            }
        }
        self.keep(letter, content).await.map(Some)
    }

    async fn keep(&self, letter: &Letter, content: &[u8]) -> Result<u64, NotKept> {
        let detail = letter.described(content);
        let host = letter.writer.host();
        let kept = &content[..content.len().min(limits::REPORT_KEPT)];
        let mut payload = Vec::new();
        Event {
            kind: EventKind::PeopleMail,
            at: self.0.clock.unix_ms(),
            recipient: letter.to.first().map_or("", String::as_str),
            remote_host: &host,
            detail: &detail,
            notice: kept,
            ..Event::nothing()
        }
        .encode(&mut payload);
        let log = &self.0.spool.events;
        let ticket = log.append(kind::EVENT, 0, &[&payload], None).await?;
        let position = ticket.position();
        ticket.await?;
        metrics::PEOPLE_MAIL.add_to("kept", 1);
        tracing::warn!(
            event = position,
            detail,
            "mail for postmaster was kept: read it with `posthaste events cat`, or name [bounce] postmaster"
        );
        Ok(position)
    }
}

/// Mail that left from here bears our mark: it is in a loop, or from a customer of ours.
fn was_here(content: &[u8], hostname: &str) -> bool {
    let section = Section::parse(content, limits::HEADER_FIELDS_MAX, limits::HEADER_FIELD_MAX);
    let mark = format!("by {hostname} (Posthaste)");
    // Of one that cannot be read nobody knows.
    section.map_or(true, |section| {
        let mut hops = section.named("Received");
        hops.any(|field| section.value(field).contains(&mark))
    })
}

impl Writer {
    fn host(&self) -> String {
        format!("{} [{}]", one_line(&self.helo), self.address)
    }
}

impl Letter {
    fn described(&self, content: &[u8]) -> String {
        let section = Section::parse(content, limits::HEADER_FIELDS_MAX, limits::HEADER_FIELD_MAX);
        let subject = section.ok().and_then(|section| section.first("Subject"));
        let subject =
            subject.map_or_else(String::new, |subject| format!(": {}", one_line(&subject)));
        format!(
            "From <{}>{subject}",
            one_line(self.writer.reverse_path.as_str())
        )
    }

    /// The content of a letter that has it, whole, as an attachment.
    fn with(&self, content: &[u8], hostname: &str, to: &Mailbox) -> Vec<u8> {
        let from = one_line(self.writer.reverse_path.as_str());
        let mut boundary = "=_postmaster".to_owned();
        while content
            .windows(boundary.len())
            .any(|w| w == boundary.as_bytes())
        {
            boundary.push('_');
        }
        let header_end = crate::mail::header::section_end(content, 0).unwrap_or(content.len());
        let encoding = match (content.is_ascii(), content[..header_end].is_ascii()) {
            (true, _) => Encoding::Seven,
            (false, true) => Encoding::Eight,
            (false, false) => Encoding::Base64,
        };
        let mut head = format!("To: <{}>\r\n", to.as_str());
        if from.is_ascii() && !from.is_empty() {
            head.push_str(&format!("Reply-To: <{from}>\r\n"));
        }
        let came_to = self
            .to
            .iter()
            .map(|to| ascii(to))
            .collect::<Vec<_>>()
            .join(", ");
        head.push_str(&format!(
            "Subject: Mail for {}\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n",
            ascii(self.to.first().map_or("postmaster", String::as_str))
        ));
        if encoding == Encoding::Eight {
            head.push_str("Content-Transfer-Encoding: 8bit\r\n");
        }
        head.push_str(&format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"));
        head.push_str(&format!(
            "The attached mail came to {hostname}, for\r\n{came_to}\r\nfrom <{}>,\r\nby {}.\r\nNobody has looked at it.\r\n",
            ascii(&from),
            ascii(&self.writer.host())
        ));
        head.push_str(&format!(
            "--{boundary}\r\nContent-Disposition: attachment; filename=\"mail.eml\"\r\n"
        ));
        head.push_str(match encoding {
            Encoding::Seven => "Content-Type: message/rfc822\r\n\r\n",
            Encoding::Eight => {
                "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
            }
            // RFC 6532 §3.7: this type may be encoded.
            Encoding::Base64 => {
                "Content-Type: message/global\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            }
        });
        let mut octets = head.into_bytes();
        match encoding {
            Encoding::Base64 => {
                for line in STANDARD.encode(content).as_bytes().chunks(76) {
                    octets.extend_from_slice(line);
                    octets.extend_from_slice(b"\r\n");
                }
            }
            Encoding::Seven | Encoding::Eight => octets.extend_from_slice(content),
        }
        if !octets.ends_with(b"\r\n") {
            octets.extend_from_slice(b"\r\n");
        }
        octets.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        octets
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Seven,
    Eight,
    Base64,
}

fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_MAX);
    text[..end].replace(|c: char| c.is_control(), " ")
}

fn ascii(text: &str) -> String {
    one_line(text).replace(|c: char| !c.is_ascii(), "?")
}

/// Octets of what a stranger wrote, in a field or a sentence.
const TEXT_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};

    use super::*;

    fn letter(from: &str) -> Letter {
        let writer = Writer {
            reverse_path: ReversePath::parse(from, false).unwrap(),
            helo: "mx.test\r\nX: y".into(),
            address: [192, 0, 2, 1].into(),
        };
        let people = People::new("mta.test".into());
        people
            .begin(vec!["Postmaster@bounces.test".into()], writer)
            .unwrap()
    }

    #[test]
    fn a_strangers_mail_is_whole_inside_and_its_fields_are_not_ours() {
        let to = Mailbox::parse("ops@example.com", false).unwrap();
        for (content, kind) in [
            (
                "From: ceo@customer.test\r\nSubject: x\r\n\r\nbody\r\n",
                "rfc822",
            ),
            ("From: a@b.test\r\n\r\n--=_postmaster--\r\ngrüße", "rfc822"),
            ("Subject: grüße\r\n\r\nbody\r\n", "global"),
        ] {
            let octets = letter("a@b.test").with(content.as_bytes(), "mta.test", &to);
            let message = MessageParser::default().parse(&octets).unwrap();
            assert_eq!(message.header_raw("From"), None);
            assert_eq!(message.header_raw("X"), None);
            assert_eq!(message.header_raw("Reply-To").unwrap().trim(), "<a@b.test>");
            let part = message.attachment(0).unwrap();
            assert_eq!(part.content_type().unwrap().subtype(), Some(kind));
            let inner = part
                .message()
                .map_or_else(|| part.contents().to_vec(), |m| m.raw_message().to_vec());
            let inner = String::from_utf8_lossy(&inner).trim_end().to_owned();
            assert_eq!(inner, content.trim_end());
        }
        let octets = letter("").with(b"\r\n", "mta.test", &to);
        assert!(!String::from_utf8_lossy(&octets).contains("Reply-To"));
    }

    #[test]
    fn what_left_from_here_before_is_known() {
        let mark = |by: &str| {
            format!("Received: from a by {by} (Posthaste) with ESMTP; x\r\nSubject: s\r\n\r\n")
        };
        assert!(was_here(mark("mta.test").as_bytes(), "mta.test"));
        assert!(!was_here(mark("mta2.test").as_bytes(), "mta.test"));
        assert!(!was_here(
            b"Subject: by mta.test (Posthaste)\r\n\r\n",
            "mta.test"
        ));
    }

    #[test]
    fn only_so_many_are_taken_at_a_time() {
        let people = People::new("mta.test".into());
        let writer = letter("").writer.clone();
        let begin = || people.begin(Vec::new(), writer.clone());
        let held: Vec<_> = (0..limits::PEOPLE_MAIL_AT_ONCE)
            .map(|_| begin().unwrap())
            .collect();
        assert!(matches!(begin(), Err(Refused::Busy)));
        drop(held);
        assert!(begin().is_ok());
    }
}
