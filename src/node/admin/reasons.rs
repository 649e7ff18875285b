//! Why mail waits, in sentences for `queue ls` and `queue explain`.

use super::Backend;
use crate::clock::{UnixMs, rfc3339};
use crate::http::wire;
use crate::mail::MessageId;
use crate::queue::{Explanation, Pace, Place, Reason, Stop, StopCause};

fn stop_code(stop: Option<&Stop>) -> &'static str {
    match stop.map(|stop| stop.why) {
        None | Some(StopCause::Drained) => "source_drained",
        Some(StopCause::Missing | StopCause::Proxy | StopCause::Refused) => "source_out",
    }
}

fn site_words(whole: Option<&str>) -> String {
    match whole {
        Some(provider) => format!("all sites of {provider} together"),
        None => "the site".to_owned(),
    }
}

/// Goes on behind the source's name.
pub(super) fn stop_words(stop: Option<&Stop>) -> String {
    let Some(stop) = stop else {
        return "has weight 0".to_owned();
    };
    let since = rfc3339(stop.since);
    let reason = match &*stop.reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    match stop.why {
        StopCause::Drained => format!("is drained by an operator since {since}{reason}"),
        StopCause::Missing | StopCause::Proxy | StopCause::Refused => {
            format!("is out of service since {since}: {}", stop.reason)
        }
    }
}

impl Backend {
    /// Said before look-ups fail, which takes them some seconds more.
    pub(super) fn dns_silent(&self) -> Option<String> {
        let silence = self.routes.router.silence()?;
        Some(format!(
            "no name server has answered for {} s ({})",
            silence.as_secs(),
            self.routes.router.name_servers()
        ))
    }

    /// What would release a recipient, in a sentence.
    pub(super) fn release(&self, id: MessageId, row: &Explanation) -> String {
        let suspended = row.reasons.iter().find_map(|reason| match reason {
            Reason::Suspended { directive, until } => Some((
                *directive,
                until.or_else(|| self.directives.until(*directive)),
            )),
            _ => None,
        });
        match (suspended, row.place) {
            (_, Place::InFlight { .. }) => "The attempt that is under way decides.".to_owned(),
            (_, Place::Leaving) => "It ends within moments.".to_owned(),
            (Some((directive, until)), _) => {
                let until =
                    until.map(|until| format!(", or the end of that at {}", rfc3339(until)));
                format!(
                    "`posthaste queue resume --directive {directive}`{}; it expires at {} in any case.",
                    until.unwrap_or_default(),
                    rfc3339(row.expires_at)
                )
            }
            (None, Place::Deferred { next_attempt }) => {
                let why = match row.attempts {
                    0 => "the time that its sender named".to_owned(),
                    1 => "the first wait of its stream after one attempt".to_owned(),
                    n => format!("the wait after {n} attempts, which doubles each time"),
                };
                format!(
                    "Its next attempt at {} ({why}); `posthaste queue retry {id}` makes it ready now.",
                    rfc3339(next_attempt)
                )
            }
            (None, Place::Ready { .. }) => {
                let until = row
                    .reasons
                    .first()
                    .and_then(|reason| self.reason(reason).until);
                match until {
                    Some(until) => format!("The time: {until}; `posthaste queue retry {id}` ends back-offs now."),
                    None => "Nothing but what is named as the reason: it goes as soon as that has passed.".to_owned(),
                }
            }
        }
    }

    pub(super) fn reason(&self, reason: &Reason) -> wire::Reason {
        let say = |code: &str, sentence: String, until: Option<UnixMs>| wire::Reason {
            code: code.to_owned(),
            sentence,
            until: until.map(rfc3339),
        };
        match reason {
            Reason::Suspended { directive, until } => say(
                "suspended",
                self.directives.sentence(*directive, "It is suspended"),
                until.or_else(|| self.directives.until(*directive)),
            ),
            Reason::Rerouted { directive, home } => say(
                "rerouted",
                self.directives.sentence(
                    *directive,
                    &format!("It takes this pool instead of {}", self.pool_name(*home)),
                ),
                None,
            ),
            Reason::Scheduled { until } => say(
                "scheduled",
                "Its sender has scheduled it for later; `queue retry` with its message id sends it now, `queue cancel` withdraws it.".to_owned(),
                Some(*until),
            ),
            Reason::AwaitsRoute { since } => {
                let asked = match since {
                    Some(since) => {
                        format!("Its route is being looked up since {}", rfc3339(*since))
                    }
                    None => "Its route is about to be looked up".to_owned(),
                };
                match self.dns_silent() {
                    Some(silent) => say("dns_silent", format!("{asked}; {silent}."), None),
                    None => say("awaits_route", asked + ".", None),
                }
            }
            Reason::RouteDeferred {
                until,
                failures,
                cause,
            } => say(
                "route_deferred",
                format!(
                    "Its route could not be found {failures} times in a row: {}",
                    cause.detail
                ),
                Some(*until),
            ),
            Reason::SiteBacksOff {
                source,
                until,
                failures,
                probing,
            } => {
                let from = source
                    .map(|s| format!(" from source {}", self.source_name(s)))
                    .unwrap_or_default();
                let probe = if *probing {
                    "; one connection tries now whether that has passed"
                } else {
                    ""
                };
                say(
                    "site_backs_off",
                    format!("Sessions with the site{from} failed, {failures} in a row{probe}."),
                    Some(*until),
                )
            }
            Reason::ConnectionLimit {
                source,
                connections,
                limit,
                rule,
                whole,
            } => say(
                "connection_limit",
                format!(
                    "Source {} has {connections} of {limit} connections to {}, a limit of {rule}.",
                    self.source_name(*source),
                    site_words(whole.as_deref())
                ),
                None,
            ),
            Reason::Paced {
                source,
                pace,
                limit,
                rule,
                whole,
                until,
            } => {
                let (code, what) = match pace {
                    Pace::MessageRate => ("message_rate", "messages"),
                    Pace::ConnectionRate => ("connection_rate", "new connections"),
                    Pace::MessagesPerHour => ("messages_per_hour", "messages an hour"),
                    Pace::MessagesPerDay => ("messages_per_day", "messages a day"),
                };
                say(
                    code,
                    format!(
                        "Source {} may send {limit} {what} to {}, a limit of {rule}.",
                        self.source_name(*source),
                        site_words(whole.as_deref())
                    ),
                    Some(*until),
                )
            }
            Reason::SourceStops { source, stop } => {
                let name = self.source_name(*source);
                let sentence = format!(
                    "Source {name} {}, and its pool has no other for this mail.",
                    stop_words(stop.as_ref())
                );
                say(
                    stop_code(stop.as_ref()),
                    sentence,
                    stop.as_ref().and_then(|stop| stop.until),
                )
            }
            Reason::GoesBy { source, by, stop } => {
                let why = match stop {
                    Some(stop) => stop_words(Some(stop)),
                    None => "is refused at this site".to_owned(),
                };
                say(
                    "goes_by",
                    format!(
                        "It keeps to source {}, which {why}; it goes by {} meanwhile.",
                        self.source_name(*source),
                        self.source_name(*by)
                    ),
                    None,
                )
            }
            Reason::NodeConnections { connections, limit } => say(
                "node_connections",
                format!("The node has {connections} of {limit} connections."),
                None,
            ),
            Reason::ConnectionsOpening { connections, until } => say(
                "connections_opening",
                format!("{connections} connections are being opened."),
                Some(*until),
            ),
            Reason::Turn { ready, flows, idle } => say(
                "turn",
                format!(
                    "It is one of {ready} ready to go the same way; {flows} streams take turns, and {idle} connections are free."
                ),
                None,
            ),
            Reason::NoSource => say(
                "no_source",
                "Its pool has no source: mail never leaves from another pool or the system's address.".to_owned(),
                None,
            ),
        }
    }
}
