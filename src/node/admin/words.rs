//! What an attempt came to, in a sentence for `queue explain`.

use crate::clock::rfc3339;
use crate::event::Event;
use crate::http::wire;

pub(super) fn last_word(event: &Event<'_>) -> wire::Reason {
    let host = match event.remote_host {
        "" => String::new(),
        host => format!(" at {host}"),
    };
    let said = match event.reply {
        "" => String::new(),
        reply => format!(": {}", reply.replace('\n', " ")),
    };
    wire::Reason {
        code: event.kind.as_str().to_owned(),
        sentence: format!(
            "Attempt {} from source {}{host} at {} was {} ({}): {}{said}",
            event.attempts,
            event.source,
            rfc3339(event.at),
            event.kind.as_str(),
            event.cause,
            event.detail
        ),
        until: event.next_attempt.map(rfc3339),
    }
}
