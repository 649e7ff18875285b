//! What to show of the logs: filters and times as people type them, the same words in every command.

use std::str::FromStr;

use clap::Args;
use spool_format::MessageRecord;

use super::Failure;
use crate::clock::{self, UnixMs};
use crate::config;

/// A moment: RFC 3339, `now`, or a time before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(pub(super) UnixMs);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, clock::wall_unix_ms())
    }
}

impl Moment {
    fn parse(text: &str, now: UnixMs) -> Result<Self, String> {
        if text == "now" {
            return Ok(Self(now));
        }
        if let Some(back) = text.strip_prefix('-') {
            let back = config::parse_duration(back)?;
            return Ok(Self(now.saturating_sub(back.as_millis() as u64)));
        }
        clock::parse_rfc3339(text).map(Self).ok_or_else(|| {
            format!("`{text}` is no time; write 2026-03-02T14:15:00Z, \"2026-03-02 14:15\" (UTC), -2h or now")
        })
    }
}

/// A number that is to be exceeded (`>2h`), or not (`<1MiB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    more: bool,
    limit: u64,
}

impl Bound {
    pub(super) fn age(text: &str) -> Result<Self, String> {
        Self::parse(text, |rest| {
            Ok(config::parse_duration(rest)?.as_millis() as u64)
        })
    }

    pub(super) fn size(text: &str) -> Result<Self, String> {
        Self::parse(text, config::parse_size)
    }

    fn parse(text: &str, value: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        let (more, rest) = match (text.strip_prefix('>'), text.strip_prefix('<')) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => (true, text),
        };
        let limit = value(rest.trim())?;
        Ok(Self { more, limit })
    }

    fn takes(self, value: u64) -> bool {
        match self.more {
            true => value > self.limit,
            false => value < self.limit,
        }
    }
}

/// Which messages.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct MessageFilter {
    /// Only messages with a recipient in this domain.
    #[arg(long, value_name = "DOMAIN")]
    pub(super) domain: Option<String>,
    /// Only messages of this message stream.
    #[arg(long, value_name = "ID")]
    pub(super) stream: Option<String>,
    /// Only messages of this server.
    #[arg(long, value_name = "NAME")]
    pub(super) server: Option<String>,
    #[arg(long, value_name = "TAG")]
    pub(super) tag: Option<String>,
    /// Accepted longer ago (`>2h`) or less long ago (`<5m`) than this.
    #[arg(long, value_name = "[<>]TIME", value_parser = Bound::age)]
    pub(super) age: Option<Bound>,
    /// Content larger (`>1MB`) or smaller (`<10KiB`) than this.
    #[arg(long, value_name = "[<>]SIZE", value_parser = Bound::size)]
    pub(super) size: Option<Bound>,
    /// Only messages to this mailbox; `@example.com`: to any of the domain.
    #[arg(long, value_name = "MAILBOX")]
    pub(super) recipient: Option<String>,
    /// Only messages with this reverse-path; `@example.com`: any of the domain; `<>`: none.
    #[arg(long, visible_alias = "from", value_name = "MAILBOX")]
    pub(super) sender: Option<String>,
    /// Accepted at this time or later: RFC 3339, or -2h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) since: Option<Moment>,
    /// Accepted before this time.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) until: Option<Moment>,
}

impl MessageFilter {
    /// What can be judged without the record.
    pub(super) fn takes_message(
        &self,
        server: &str,
        stream: &str,
        accepted_at: UnixMs,
        content_len: u64,
        now: UnixMs,
    ) -> bool {
        self.server.as_deref().is_none_or(|name| name == server)
            && self.stream.as_deref().is_none_or(|id| id == stream)
            && self.since.is_none_or(|since| accepted_at >= since.0)
            && self.until.is_none_or(|until| accepted_at < until.0)
            && self
                .age
                .is_none_or(|age| age.takes(now.saturating_sub(accepted_at)))
            && self.size.is_none_or(|size| size.takes(content_len))
    }

    pub(super) fn takes_record(&self, record: &MessageRecord<'_>, now: UnixMs) -> bool {
        self.takes_message(
            record.server_name,
            record.stream_id,
            record.accepted_unix_ms,
            record.content.len(),
            now,
        ) && self
            .tag
            .as_deref()
            .is_none_or(|tag| record.tag == Some(tag))
            && self
                .sender
                .as_deref()
                .is_none_or(|sender| is_mailbox(sender, record.reverse_path))
            && record
                .recipients
                .iter()
                .any(|r| self.takes_recipient(r.domain, r.forward_path))
    }

    pub(super) fn takes_domain(&self, domain: &str) -> bool {
        self.domain
            .as_deref()
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(domain))
    }

    pub(super) fn takes_recipient(&self, domain: &str, path: &str) -> bool {
        self.takes_domain(domain)
            && self
                .recipient
                .as_deref()
                .is_none_or(|wanted| is_mailbox(wanted, path))
    }
}

/// `pattern`: a mailbox, with or without angle brackets, or `@` and a domain. Domains and, as suppression does, local-parts
/// are compared without case.
fn is_mailbox(pattern: &str, path: &str) -> bool {
    let pattern = pattern.trim_start_matches('<').trim_end_matches('>');
    match pattern.strip_prefix('@') {
        Some(domain) => domain.eq_ignore_ascii_case(domain_of(path)),
        None => pattern.eq_ignore_ascii_case(path),
    }
}

/// What is behind the last `@`.
pub(super) fn domain_of(path: &str) -> &str {
    path.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// Which events.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct EventFilter {
    /// Only events of this kind: accepted, deferred, delivered, bounced, …
    #[arg(long, value_name = "KIND", value_parser = kind_named)]
    pub(super) kind: Option<&'static str>,
    #[arg(long, value_name = "NAME")]
    pub(super) server: Option<String>,
    #[arg(long, value_name = "ID")]
    pub(super) stream: Option<String>,
    /// Only events of recipients in this domain.
    #[arg(long, value_name = "DOMAIN")]
    pub(super) domain: Option<String>,
    /// Only events of this mailbox; `@example.com`: of any in the domain.
    #[arg(long, value_name = "MAILBOX")]
    pub(super) recipient: Option<String>,
    /// Only events of this message, or of messages whose id begins so.
    #[arg(long, value_name = "ID")]
    pub(super) message: Option<super::logs::IdPrefix>,
}

fn kind_named(text: &str) -> Result<&'static str, String> {
    let kinds = crate::event::EventKind::ALL
        .iter()
        .map(|kind| kind.as_str());
    kinds.clone().find(|kind| *kind == text).ok_or_else(|| {
        let all: Vec<_> = kinds.collect();
        format!("`{text}` is no kind of event; they are {}", all.join(", "))
    })
}

impl EventFilter {
    pub(super) fn takes(&self, row: &crate::readers::row::EventRow) -> bool {
        let same = |wanted: &Option<String>, there: &Option<String>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| there.as_ref() == Some(wanted))
        };
        let recipient = row.recipient.as_deref().unwrap_or_default();
        let id = row.message_id.as_ref().and_then(|id| id.parse().ok());
        self.kind.is_none_or(|kind| kind == row.kind)
            && same(&self.server, &row.server)
            && same(&self.stream, &row.stream)
            && self
                .domain
                .as_ref()
                .is_none_or(|d| d.eq_ignore_ascii_case(domain_of(recipient)))
            && self
                .recipient
                .as_ref()
                .is_none_or(|wanted| is_mailbox(wanted, recipient))
            && self.message.as_ref().is_none_or(|wanted| {
                id.is_some_and(|id: crate::mail::MessageId| wanted.matches(id.as_bytes()))
            })
    }
}

/// Refuses a combination that cannot be meant.
pub(super) fn check_times(since: Option<Moment>, until: Option<Moment>) -> Result<(), Failure> {
    match (since, until) {
        (Some(since), Some(until)) if until.0 <= since.0 => {
            Err(Failure::usage("--until lies before --since"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_absolute_or_before_now() {
        let now = 1_772_460_912_907;
        for (text, expected) in [
            ("now", Some(now)),
            ("-2h", Some(now - 7_200_000)),
            ("-1d12h", Some(now - 129_600_000)),
            ("2026-03-02 14:15", Some(1_772_460_900_000)),
            ("tomorrow", None),
            ("-", None),
        ] {
            assert_eq!(
                Moment::parse(text, now).ok().map(|m| m.0),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn bounds_say_more_or_less() {
        assert!(Bound::age(">2h").unwrap().takes(7_200_001));
        assert!(!Bound::age("2h").unwrap().takes(7_200_000));
        assert!(Bound::size("<1MB").unwrap().takes(999_999));
        assert!(!Bound::size("<1MB").unwrap().takes(1_000_000));
        assert!(Bound::size(">lots").is_err());
    }

    #[test]
    fn mailboxes_are_matched_whole_or_by_domain() {
        for (pattern, path, expected) in [
            ("a@example.com", "A@Example.com", true),
            ("<a@example.com>", "a@example.com", true),
            ("@example.com", "a@example.com", true),
            ("@example.com", "a@b.example.com", false),
            ("<>", "", true),
            ("<>", "a@example.com", false),
        ] {
            assert_eq!(is_mailbox(pattern, path), expected, "{pattern} {path}");
        }
    }
}
