//! `posthaste trace`, from the side of the node: from followers of `deliver` to lines of the admin API.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::admin::Backend;
use crate::clock::{Clock, rfc3339};
use crate::deliver::trace::{Filter, Heard, Voice};
use crate::http::{AdminError, Hearing, TraceFilter, wire};

/// Follows until the hearing is dropped, or the node stops: nobody who watches holds that up.
pub(super) fn follow(backend: &Backend, filter: TraceFilter) -> Result<Hearing, AdminError> {
    let TraceFilter {
        domain,
        host,
        source,
        message,
    } = filter;
    if let Some(name) = &source
        && !backend.source_names.iter().any(|known| **known == **name)
    {
        let known = backend.source_names.join(", ");
        return Err(AdminError::Invalid(format!(
            "there is no source `{name}`; there are {known}"
        )));
    }
    let filter = Filter {
        domain,
        host,
        source,
        message,
    };
    tracing::info!(?filter, "an operator follows dialogues");
    let follower = backend.trace.follow(filter);
    let mut follower = follower.map_err(|full| AdminError::Unavailable(full.to_string()))?;
    let mut stopping = backend.stopping.clone();
    let mut stop: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        // The other end gone is the end, too.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    });
    let clock = backend.clock;
    let mut ended = false;
    Ok(Box::new(move |cx: &mut Context<'_>| {
        ended = ended || stop.as_mut().poll(cx).is_ready();
        if ended {
            return Poll::Ready(None);
        }
        let heard = follower.poll_next(cx);
        heard.map(|heard| Some(line(heard, &clock)))
    }))
}

fn line(heard: Heard, clock: &Clock) -> wire::TraceLine {
    match heard {
        Heard::Lost(count) => wire::TraceLine {
            at: rfc3339(clock.unix_ms()),
            session: None,
            source: None,
            host: None,
            remote: None,
            messages: Vec::new(),
            voice: "lost".to_owned(),
            text: format!("{count} lines came faster than they were read"),
        },
        Heard::Line(line) => wire::TraceLine {
            at: rfc3339(line.at),
            session: Some(line.session.0),
            source: Some(line.source.to_string()),
            host: Some(line.host.to_string()),
            remote: Some(line.remote.to_string()),
            messages: line.messages.iter().map(ToString::to_string).collect(),
            voice: match line.voice {
                Voice::Client => "client",
                Voice::Host => "host",
                Voice::Note => "note",
            }
            .to_owned(),
            text: String::from(&*line.text),
        },
    }
}
