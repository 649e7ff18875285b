//! Commands as text: what a message needs, what the host offers, and the lines in which the two meet.
//!
//! Nothing that could end a line leaves in one, whoever let it in: this is the last hand before the socket.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::BytesMut;

use super::transaction::{Progress, Transaction};
use super::{Avoid, Command, Obstacle, Outbound, Verdict};
use crate::limits;
use crate::mail::{Domain, DsnNotify, DsnRecipient, DsnReturn};
use crate::smtp::client::content::Framed;

/// What the host offered in answer to EHLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) pipelining: bool,
    pub(super) eight_bit: bool,
    pub(super) smtputf8: bool,
    pub(super) chunking: bool,
    pub(super) dsn: bool,
    pub(super) starttls: bool,
    /// RFC 2034.
    pub(super) enhanced: bool,
    /// RFC 1870 §4: 0 is no fixed limit.
    pub(super) size: Option<u64>,
}

impl Transaction {
    /// Everything of it as text, as far as the host can take it.
    pub(super) fn new(offer: &Offer, mail: &Outbound, reset: bool) -> Self {
        let mut transaction = Self {
            progress: vec![Progress::Pending; mail.recipients.len()],
            content_len: mail.content.len(),
            ..Self::default()
        };
        // Without status codes an answer to BDAT looks like one to RCPT. Where DATA and its 354 cost no round trip, they are used.
        let one_flight = offer.pipelining && transaction.content_len <= limits::ONE_FLIGHT_CONTENT;
        let offer = &Offer {
            chunking: offer.chunking && (offer.enhanced || one_flight),
            ..*offer
        };
        let framed = match transaction.obstacle(offer, mail) {
            Some(obstacle) => Err(obstacle),
            None => transaction.frame(offer, mail),
        };
        if let Err(obstacle) = framed {
            transaction.decide_open(&Verdict::Unsendable(obstacle));
        }
        transaction.format_envelope(offer, mail, reset);
        if transaction.any_open() {
            transaction.format_end(offer);
        } else {
            transaction.over = true;
            transaction.queued.clear();
            transaction.unsent.clear();
            transaction.content = None;
        }
        transaction
    }

    fn obstacle(&self, offer: &Offer, mail: &Outbound) -> Option<Obstacle> {
        // RFC 6531 §3.2; conversion to ASCII is not implemented.
        let reverse_needs = local_part_needs_smtputf8(&mail.reverse_path);
        if (mail.smtputf8 || reverse_needs) && !offer.smtputf8 {
            return Some(Obstacle::SmtpUtf8);
        }
        // RFC 6152 §3: without 8BITMIME only 7-bit content may leave, whatever was noted of it. Whoever loaded it has
        // re-encoded what can be.
        if !offer.eight_bit && !mail.content.is_ascii() {
            return Some(Obstacle::EightBitMime(mail.not_seven_bit));
        }
        match offer.size {
            Some(limit_bytes) if limit_bytes > 0 && self.content_len > limit_bytes => {
                Some(Obstacle::Size { limit_bytes })
            }
            _ => None,
        }
    }

    fn frame(&mut self, offer: &Offer, mail: &Outbound) -> Result<(), Obstacle> {
        let framed = if offer.chunking {
            Framed::verbatim(&mail.content)
        } else {
            Framed::stuffed(&mail.content)
        };
        self.content = Some(framed.map_err(|_| Obstacle::Content)?);
        Ok(())
    }

    /// RSET if need be, MAIL, and RCPT for everyone who is open.
    fn format_envelope(&mut self, offer: &Offer, mail: &Outbound, reset: bool) {
        let offered = offer.smtputf8;
        let in_addresses = || {
            let mut paths = mail.recipients.iter().map(|r| r.forward_path.as_str());
            local_part_needs_smtputf8(&mail.reverse_path) || paths.any(local_part_needs_smtputf8)
        };
        let smtputf8 = offered && (mail.smtputf8 || in_addresses());
        if reset {
            self.unsent.extend_from_slice(b"RSET\r\n");
            self.queue(Command::Rset);
        }
        match wire_path(&mail.reverse_path, smtputf8) {
            Ok(path) => self.format_mail(offer, mail, &path, smtputf8),
            Err(obstacle) => self.decide_open(&Verdict::Unsendable(obstacle)),
        }
        for (index, recipient) in mail.recipients.iter().enumerate() {
            let open = matches!(self.progress.get(index), Some(Progress::Pending));
            match wire_path(&recipient.forward_path, smtputf8) {
                _ if !open => {}
                Ok(path) => self.format_rcpt(offer, index, &path, &recipient.dsn),
                Err(obstacle) => {
                    if let Some(progress) = self.progress.get_mut(index) {
                        *progress = Progress::Decided(Verdict::Unsendable(obstacle));
                    }
                }
            }
        }
    }

    fn format_mail(&mut self, offer: &Offer, mail: &Outbound, path: &str, smtputf8: bool) {
        let line = &mut self.unsent;
        line.extend_from_slice(b"MAIL FROM:<");
        line.extend_from_slice(path.as_bytes());
        line.extend_from_slice(b">");
        if offer.size.is_some() {
            let _ = write!(line, " SIZE={}", self.content_len);
        }
        if mail.eight_bit && offer.eight_bit {
            line.extend_from_slice(b" BODY=8BITMIME");
        }
        if smtputf8 {
            line.extend_from_slice(b" SMTPUTF8");
        }
        if offer.dsn {
            match mail.ret {
                Some(DsnReturn::Full) => line.extend_from_slice(b" RET=FULL"),
                Some(DsnReturn::Headers) => line.extend_from_slice(b" RET=HDRS"),
                None => {}
            }
            parameter(line, "ENVID", mail.envelope_id.as_deref());
        }
        line.extend_from_slice(b"\r\n");
        self.queue(Command::Mail);
    }

    fn format_rcpt(&mut self, offer: &Offer, index: usize, path: &str, dsn: &DsnRecipient) {
        let line = &mut self.unsent;
        line.extend_from_slice(b"RCPT TO:<");
        line.extend_from_slice(path.as_bytes());
        line.extend_from_slice(b">");
        if offer.dsn {
            if let Some(notify) = dsn.notify {
                line.extend_from_slice(b" NOTIFY=");
                line.extend_from_slice(notify_text(notify).as_bytes());
            }
            parameter(line, "ORCPT", dsn.original_recipient.as_deref());
        }
        line.extend_from_slice(b"\r\n");
        self.queue(Command::Rcpt(index));
    }

    fn format_end(&mut self, offer: &Offer) {
        if offer.chunking {
            let _ = write!(self.unsent, "BDAT {} LAST\r\n", self.content_len);
            self.queue(Command::Bdat);
        } else {
            self.unsent.extend_from_slice(b"DATA\r\n");
            self.queue(Command::Data);
        }
    }
}

impl Offer {
    /// RFC 5321 §4.1.1.1: the lines behind the first.
    pub(super) fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut offer = Self::default();
        for line in lines {
            let mut words = line.split_ascii_whitespace();
            match words
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase()
                .as_str()
            {
                "PIPELINING" => offer.pipelining = true,
                "8BITMIME" => offer.eight_bit = true,
                "SMTPUTF8" => offer.smtputf8 = true,
                "CHUNKING" => offer.chunking = true,
                "DSN" => offer.dsn = true,
                "STARTTLS" => offer.starttls = true,
                "ENHANCEDSTATUSCODES" => offer.enhanced = true,
                "SIZE" => {
                    offer.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0));
                }
                _ => {}
            }
        }
        offer
    }

    /// Without what the host has mishandled before.
    pub(super) fn without(self, avoid: Avoid) -> Self {
        Self {
            pipelining: self.pipelining && !avoid.pipelining,
            chunking: self.chunking && !avoid.chunking,
            ..self
        }
    }
}

/// Only the local-part counts: a domain can go out as A-labels (RFC 6531 §3.2).
fn local_part_needs_smtputf8(path: &str) -> bool {
    !path.is_ascii()
        && !path
            .rsplit_once('@')
            .is_some_and(|(local, _)| local.is_ascii())
}

/// The path as it may leave: without control characters, and without U-labels unless SMTPUTF8 is declared.
fn wire_path(path: &str, smtputf8: bool) -> Result<Cow<'_, str>, Obstacle> {
    // Addresses are parsed at the edge; a CR here would be a second command, so the last hand looks again.
    if path.chars().any(char::is_control) {
        return Err(Obstacle::Address);
    }
    if smtputf8 || path.is_ascii() {
        return Ok(Cow::Borrowed(path));
    }
    let (local, domain) = path.rsplit_once('@').ok_or(Obstacle::SmtpUtf8)?;
    if !local.is_ascii() {
        return Err(Obstacle::SmtpUtf8);
    }
    let domain = Domain::parse(domain).map_err(|_| Obstacle::Address)?;
    Ok(Cow::Owned(format!("{local}@{domain}")))
}

/// Appends ` name=value`, unless the value could not have come from a parameter.
fn parameter(line: &mut BytesMut, name: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|v| v.bytes().all(|b| (33..=126).contains(&b))) {
        let _ = write!(line, " {name}={value}");
    }
}

/// RFC 3461 §4.1.
fn notify_text(notify: DsnNotify) -> String {
    let parts = [
        (notify.success, "SUCCESS"),
        (notify.failure, "FAILURE"),
        (notify.delay, "DELAY"),
    ];
    let parts: Vec<&str> = parts.iter().filter(|p| p.0).map(|p| p.1).collect();
    if parts.is_empty() {
        "NEVER".into()
    } else {
        parts.join(",")
    }
}
