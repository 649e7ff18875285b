//! A message as the listings show it, and the states of its recipients.

use std::collections::BTreeMap;

use serde::Serialize;
use spool_format::{MessageRecord, field_tag};

use crate::cli::output::Row;
use crate::cli::queue::or_dash;
use crate::clock::{UnixMs, rfc3339};
use crate::event::EventKind;
use crate::mail::MessageId;

/// Where a recipient is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::cli) enum State {
    /// May go now.
    Ready,
    /// Waits for a time.
    Deferred,
    Delivered,
    Bounced,
    Expired,
    Cancelled,
    /// It has ended, and the event that says how is not kept any more.
    Ended,
}

impl State {
    pub(in crate::cli) fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Deferred => "deferred",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Ended => "ended",
        }
    }

    pub(in crate::cli) fn is_live(self) -> bool {
        matches!(self, Self::Ready | Self::Deferred)
    }

    /// Of a recipient that may be tried at `next_attempt`.
    pub(in crate::cli) fn live(next_attempt: UnixMs, now: UnixMs) -> Self {
        match next_attempt > now {
            true => Self::Deferred,
            false => Self::Ready,
        }
    }

    /// `None`: an event of this kind ends nothing.
    pub(in crate::cli) fn ended_by(kind: EventKind) -> Option<Self> {
        Some(match kind {
            EventKind::Delivered => Self::Delivered,
            EventKind::Bounced => Self::Bounced,
            EventKind::Expired => Self::Expired,
            EventKind::Cancelled => Self::Cancelled,
            _ => return None,
        })
    }
}

/// `--state`: one state, or all that live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct StateFilter(Option<State>);

impl StateFilter {
    pub(in crate::cli) const LIVE: Self = Self(None);

    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        use State::*;
        if text == "live" || text == "queued" {
            return Ok(Self::LIVE);
        }
        let all = [Ready, Deferred, Delivered, Bounced, Expired, Cancelled];
        let state = all.into_iter().find(|state| state.as_str() == text);
        state.map(|state| Self(Some(state))).ok_or_else(|| {
            format!("`{text}` is no state; they are live (or queued), ready, deferred, delivered, bounced, expired, cancelled")
        })
    }

    pub(in crate::cli) fn takes(self, state: State) -> bool {
        self.0.map_or(state.is_live(), |wanted| wanted == state)
    }

    pub(in crate::cli) fn is_live(self) -> bool {
        self.0.is_none_or(State::is_live)
    }
}

/// One message in `spool ls` and `spool tail`.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct MessageRow {
    pub(in crate::cli) message_id: String,
    pub(in crate::cli) at: String,
    pub(in crate::cli) server: String,
    pub(in crate::cli) stream: String,
    pub(in crate::cli) stream_type: &'static str,
    pub(in crate::cli) pool: String,
    pub(in crate::cli) reverse_path: String,
    pub(in crate::cli) recipients: usize,
    /// Recipients without an outcome; `null` where outcomes are not looked at.
    pub(in crate::cli) live: Option<usize>,
    /// Recipients by state.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::cli) states: BTreeMap<&'static str, usize>,
    /// The earliest of those that wait.
    pub(in crate::cli) next_attempt_at: Option<String>,
    /// Its sender had named the time of its first attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) scheduled_at: Option<String>,
    pub(in crate::cli) content_bytes: u64,
    pub(in crate::cli) tag: Option<String>,
    pub(in crate::cli) position: u64,
    /// Written by compaction: an earlier record of the same message may still be there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::cli) moved: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::cli) archived: bool,
}

impl MessageRow {
    pub(in crate::cli) fn new(position: u64, record: &MessageRecord<'_>) -> Self {
        Self {
            message_id: MessageId::from_bytes(record.id).to_string(),
            at: rfc3339(record.accepted_unix_ms),
            server: record.server_name.into(),
            stream: record.stream_id.into(),
            stream_type: record.stream_kind.as_str(),
            pool: record.pool.into(),
            reverse_path: record.reverse_path.into(),
            recipients: record.recipients.len(),
            live: None,
            states: BTreeMap::new(),
            next_attempt_at: None,
            scheduled_at: record.fields.find_number(field_tag::SCHEDULE).map(rfc3339),
            content_bytes: record.content.len(),
            tag: record.tag.map(str::to_owned),
            position,
            moved: false,
            archived: false,
        }
    }

    /// Takes in the states of all recipients, each with the time of its next attempt.
    pub(in crate::cli) fn set_states(&mut self, states: impl Iterator<Item = (State, UnixMs)>) {
        let mut next = None;
        self.live = Some(0);
        for (state, next_attempt) in states {
            *self.states.entry(state.as_str()).or_default() += 1;
            if state.is_live() {
                self.live = self.live.map(|live| live + 1);
            }
            if state == State::Deferred {
                next = Some(next.map_or(next_attempt, |next: UnixMs| next.min(next_attempt)));
            }
        }
        self.next_attempt_at = next.map(rfc3339);
    }

    fn state_text(&self) -> String {
        match self.states.len() {
            0 => "-".into(),
            1 if self.scheduled_at.is_some() && self.scheduled_at == self.next_attempt_at => {
                "deferred (scheduled)".into()
            }
            1 => self.states.keys().copied().collect(),
            _ => {
                let each = self.states.iter().map(|(state, n)| format!("{state} {n}"));
                each.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl Row for MessageRow {
    const COLUMNS: &'static [&'static str] = &[
        "MESSAGE",
        "AT",
        "SERVER",
        "STREAM",
        "POOL",
        "REVERSE-PATH",
        ">RECIPIENTS",
        ">LIVE",
        "STATE",
        ">SIZE",
        ">POSITION",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.message_id.clone(),
            self.at.clone(),
            self.server.clone(),
            self.stream.clone(),
            self.pool.clone(),
            format!("<{}>", self.reverse_path),
            self.recipients.to_string(),
            or_dash(self.live.as_ref()),
            self.state_text(),
            self.content_bytes.to_string(),
            self.position.to_string(),
        ]
    }
}
