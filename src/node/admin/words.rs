//! What an attempt came to, in a sentence for `queue explain`.

use std::collections::VecDeque;

use crate::classify::is_the_tables;
use crate::clock::{UnixMs, rfc3339};
use crate::event::{Event, EventKind};
use crate::http::wire;
use crate::limits;
use crate::spool::Spool;

/// The last ones for a domain, of the last hour and not beyond [`limits::ATTEMPTS_SEARCHED`]. Reads the event log.
pub(super) fn attempts_for(spool: &Spool, domain: &str, now: UnixMs) -> Vec<wire::Reason> {
    let events = &spool.events;
    let hour = events.position_before(now.saturating_sub(3_600_000));
    let near = events.durable().saturating_sub(limits::ATTEMPTS_SEARCHED);
    let mut found = VecDeque::new();
    for (record, _) in events.records_from(hour.max(near)).flatten() {
        let Ok(Some(event)) = Event::decode(&record.payload) else {
            continue;
        };
        let attempted = matches!(
            event.kind,
            EventKind::Deferred | EventKind::Ambiguous | EventKind::Delivered | EventKind::Bounced
        );
        let of = event.recipient.rsplit_once('@').map(|(_, of)| of);
        if attempted && event.attempts > 0 && of.is_some_and(|of| of.eq_ignore_ascii_case(domain)) {
            if found.len() == limits::ATTEMPTS_TOLD {
                found.pop_front();
            }
            found.push_back(last_word(&event));
        }
    }
    found.into()
}

pub(super) fn last_word(event: &Event<'_>) -> wire::Reason {
    let host = match event.remote_host {
        "" => String::new(),
        host => format!(" at {host}"),
    };
    let reverse_path = match event.reverse_path {
        "" => String::new(),
        path => format!(" with the reverse-path <{path}>"),
    };
    let said = match event.reply {
        "" => String::new(),
        reply => format!(": {}", reply.replace('\n', " ")),
    };
    wire::Reason {
        code: event.kind.as_str().to_owned(),
        sentence: format!(
            "Attempt {} from source {}{host}{reverse_path} at {} was {}{}: {}{said}",
            event.attempts,
            event.source,
            rfc3339(event.at),
            event.kind.as_str(),
            match event.cause {
                "" => String::new(),
                cause => format!(" ({cause}{})", by_rule(event)),
            },
            event.detail
        ),
        until: event.next_attempt.map(rfc3339),
    }
}

/// How sure, and by which rule.
fn by_rule(event: &Event<'_>) -> String {
    let judged = &event.judged;
    match judged.rule {
        "" => String::new(),
        rule if is_the_tables(rule) => format!(", no rule knows it, judged by its {rule}"),
        rule => format!(
            ", rule {rule}, {} %: {} for {}",
            judged.confidence, judged.reaction, judged.scope
        ),
    }
}
