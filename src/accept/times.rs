//! When a message is released for its first attempt, and the deadline after which nobody wants it any more.
//!
//! Two ways to say each: a header field of ours, which any client can send, and a parameter of MAIL. A field that cannot be
//! read is refused, never ignored: a one-time code must not be delivered a day late, nor an announcement a day early,
//! because of a typing error. Fields leave the message with our other control fields (`stamp.rs`).
//!
//! Times are the node's ([`crate::clock`]): a point in time is taken as it is and needs a zone; a span counts from
//! acceptance, that of a deadline from the release. Of two ways at once the later release and the earlier deadline count.

use std::time::Duration;

use super::{Context, Refusal};
use crate::clock::{UnixMs, parse_rfc3339, rfc3339};
use crate::config;
use crate::limits;
use crate::mail::Hold;
use crate::mail::header::Section;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// Later than acceptance.
    pub(super) release_at: Option<UnixMs>,
    /// Later than acceptance and release.
    pub(super) deadline: Option<UnixMs>,
}

/// What a field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    At(UnixMs),
    After(Duration),
}

/// Of a message that is accepted `now`.
pub(super) fn times(
    section: &Section<'_>,
    context: &Context,
    now: UnixMs,
) -> Result<Times, Refusal> {
    let send_at = field(section, SEND_AT)?;
    let deadline = field(section, DEADLINE)?;
    resolve(send_at, deadline, context.hold, context.deliver_by, now)
}

fn resolve(
    send_at: Option<When>,
    deadline: Option<When>,
    hold: Option<Hold>,
    deliver_by: Option<Duration>,
    now: UnixMs,
) -> Result<Times, Refusal> {
    let bad = |field, reason| Err(Refusal::BadField { field, reason });
    let asked = send_at.map(|when| when.from(now));
    if asked.is_some_and(|at| at > now + limits::SCHEDULE_MAX.as_millis() as u64) {
        return bad(SEND_AT, too_far());
    }
    let held = hold.map(|hold| match hold {
        Hold::For(span) => When::After(span).from(now),
        Hold::Until(at) => at,
    });
    // A time that has passed, while the client tried to reach us perhaps, means at once.
    let release_at = asked.max(held).filter(|&at| at > now);
    let begin = release_at.unwrap_or(now);
    let wanted = deadline.map(|when| when.from(begin));
    if let Some(at) = wanted.filter(|&at| at <= begin) {
        let reason = match at <= now {
            true => format!("{} has passed already", rfc3339(at)),
            false => format!(
                "{} is not after the release at {}",
                rfc3339(at),
                rfc3339(begin)
            ),
        };
        return bad(DEADLINE, reason);
    }
    // RFC 2852 §4.1: from our acceptance on. Of a message that is held, from its release on: it could not be kept otherwise.
    let by = deliver_by.map(|span| When::After(span).from(begin));
    let deadline = wanted.into_iter().chain(by).min();
    Ok(Times {
        release_at,
        deadline,
    })
}

/// The release that a sender names of a message that he holds back now, as the field would.
pub fn send_at(text: &str, now: UnixMs) -> Result<UnixMs, String> {
    let at = When::parse(text)?.from(now);
    match at > now + limits::SCHEDULE_MAX.as_millis() as u64 {
        true => Err(too_far()),
        false => Ok(at),
    }
}

fn too_far() -> String {
    let days = limits::SCHEDULE_MAX.as_secs() / 86_400;
    format!("it is more than {days} days ahead")
}

fn field(section: &Section<'_>, name: &'static str) -> Result<Option<When>, Refusal> {
    let mut found = section.named(name);
    let Some(first) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(Refusal::RepeatedField(name));
    }
    let when = When::parse(&section.value(first));
    when.map(Some).map_err(|reason| Refusal::BadField {
        field: name,
        reason,
    })
}

impl When {
    fn parse(text: &str) -> Result<Self, String> {
        let shown: String = text
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .take(SHOWN_MAX)
            .collect();
        let bytes = text.as_bytes();
        if bytes.get(4) == Some(&b'-') {
            let zone = |rest: &[u8]| matches!(rest, [b'+' | b'-', _, _, b':', _, _]);
            let is_zoned = text.ends_with(['Z', 'z'])
                || (bytes.len() > ZONE && zone(&bytes[bytes.len() - ZONE..]));
            return match parse_rfc3339(text) {
                Some(_) if !is_zoned => Err(format!("`{shown}` has no time zone; add Z for UTC")),
                Some(at) => Ok(Self::At(at)),
                None => Err(format!("`{shown}` is no time as RFC 3339 writes it")),
            };
        }
        match config::parse_duration(text) {
            Ok(span) if span <= limits::TIME_AHEAD_MAX => Ok(Self::After(span)),
            Ok(_) => Err(format!("`{shown}` is too far ahead")),
            Err(_) => Err(format!(
                "`{shown}` is neither a time (2026-03-02T14:15:00Z) nor a span (90s, 10m, 2h30m)"
            )),
        }
    }

    fn from(self, begin: UnixMs) -> UnixMs {
        match self {
            Self::At(at) => at,
            Self::After(span) => begin + span.as_millis() as u64,
        }
    }
}

pub(super) const SEND_AT: &str = "X-Posthaste-Send-At";
pub(super) const DEADLINE: &str = "X-Posthaste-Deadline";
/// Octets of `+hh:mm`.
const ZONE: usize = 6;
/// Characters of what the client wrote that a reply repeats.
const SHOWN_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = 1_772_460_900_000; // 2026-03-02T14:15:00Z

    fn check(text: &str, expected: Result<When, &str>) {
        match (When::parse(text), expected) {
            (Err(said), Err(expected)) => assert!(said.contains(expected), "{text}: {said}"),
            (found, expected) => assert_eq!(found, expected.map_err(str::to_owned), "{text}"),
        }
    }

    #[test]
    fn a_field_says_a_point_in_time_with_its_zone_or_a_span() {
        check("2026-03-02T14:15:00Z", Ok(When::At(NOW)));
        check("2026-03-02T16:15:00.5+02:00", Ok(When::At(NOW + 500)));
        check("2026-03-02 09:15:00-05:00", Ok(When::At(NOW)));
        check("90s", Ok(When::After(Duration::from_secs(90))));
        check("1h30m", Ok(When::After(Duration::from_secs(5400))));
        check("2026-03-02T14:15:00", Err("has no time zone"));
        check("2026-03-02", Err("has no time zone"));
        check("2026-13-02T14:15:00Z", Err("is no time"));
        check("2026-03-02T14:15:00+2", Err("is no time"));
        check("tomorrow", Err("neither a time"));
        check("", Err("neither a time"));
        check("-5m", Err("neither a time"));
        check("99999999d", Err("too far"));
        check("1\u{7}s", Err("`1?s`"));
    }

    #[test]
    fn the_later_release_and_the_earlier_deadline_count_and_spans_of_deadlines_begin_at_the_release()
     {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let after = |n| Some(When::After(minutes(n)));
        let at = |n: u64| NOW + 60_000 * n;
        let times = |release: Option<u64>, deadline: Option<u64>| {
            Ok(Times {
                release_at: release.map(at),
                deadline: deadline.map(at),
            })
        };
        let bad = |field, reason: &str| {
            Err(Refusal::BadField {
                field,
                reason: reason.to_owned(),
            })
        };
        let hold = |n| Some(Hold::For(minutes(n)));
        let by = |n| Some(minutes(n));
        for (send_at, deadline, hold, by, expected) in [
            (None, None, None, None, times(None, None)),
            (after(10), None, None, None, times(Some(10), None)),
            (after(10), None, hold(20), None, times(Some(20), None)),
            (after(30), None, hold(20), None, times(Some(30), None)),
            // Passed: at once.
            (Some(When::At(NOW - 1)), None, None, None, times(None, None)),
            (None, None, Some(Hold::Until(NOW)), None, times(None, None)),
            (None, after(5), None, None, times(None, Some(5))),
            (None, after(5), None, by(4), times(None, Some(4))),
            (None, after(5), None, by(6), times(None, Some(5))),
            (after(10), after(5), None, None, times(Some(10), Some(15))),
            (None, None, hold(10), by(5), times(Some(10), Some(15))),
            (
                after(10),
                Some(When::At(at(12))),
                None,
                by(5),
                times(Some(10), Some(12)),
            ),
            (
                None,
                Some(When::At(NOW)),
                None,
                None,
                bad(DEADLINE, "2026-03-02T14:15:00.000Z has passed already"),
            ),
            (
                None,
                after(0),
                None,
                None,
                bad(DEADLINE, "2026-03-02T14:15:00.000Z has passed already"),
            ),
            (
                after(10),
                Some(When::At(at(9))),
                None,
                None,
                bad(
                    DEADLINE,
                    "2026-03-02T14:24:00.000Z is not after the release at 2026-03-02T14:25:00.000Z",
                ),
            ),
            (
                after(30 * 24 * 60 + 1),
                None,
                None,
                None,
                bad(SEND_AT, "it is more than 30 days ahead"),
            ),
        ] {
            assert_eq!(resolve(send_at, deadline, hold, by, NOW), expected);
        }
    }
}
