//! The only caller of `Instant::now` and `SystemTime::now`. Everything else is told the time.
//!
//! [`Clock::unix_ms`] is wall time at start plus monotonic time since: it never jumps while the node runs, so a clock that
//! is set back or forward cannot expire or wake mail in bulk (threats-and-faults §3).

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the replacement that the lint names"
)]

mod zone;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub use zone::{Day, Zone};

/// Milliseconds since 1970-01-01 UTC, as the node counts them.
pub type UnixMs = u64;

/// Tells the time. Cheap to copy; all copies of one clock agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    started_unix_ms: UnixMs,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            started_unix_ms: wall_unix_ms(),
        }
    }

    /// Wall time that does not jump.
    pub fn unix_ms(&self) -> UnixMs {
        self.started_unix_ms + self.started.elapsed().as_millis() as u64
    }

    pub fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// The operating system's wall clock, for one-shot commands and for display.
pub fn wall_unix_ms() -> UnixMs {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// RFC 3339 in UTC with milliseconds, as JSON output shows times.
pub fn rfc3339(unix_ms: UnixMs) -> String {
    let t = date_time(unix_ms);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}

/// RFC 3339 in UTC with seconds, cut off.
pub fn rfc3339_seconds(unix_ms: UnixMs) -> String {
    let mut text = rfc3339(unix_ms);
    text.truncate("0000-00-00T00:00:00".len());
    text + "Z"
}

/// Reads RFC 3339 back, in any zone; a blank may stand for the `T`, and what is left out from the back is zero and UTC.
pub fn parse_rfc3339(text: &str) -> Option<UnixMs> {
    use time::format_description::well_known::Rfc3339;
    const REST: &str = "0000-01-01T00:00:00Z";
    let text = text.replacen(' ', "T", 1);
    let whole = match text.len() {
        10 | 16 => format!("{text}{}", REST.get(text.len()..)?),
        19 => text + "Z",
        _ => text,
    };
    let nanos = time::OffsetDateTime::parse(&whole, &Rfc3339)
        .ok()?
        .unix_timestamp_nanos();
    u64::try_from(nanos / 1_000_000).ok()
}

/// RFC 5322 §3.3 date-time in UTC, as `Date` and `Received` carry it.
pub fn rfc5322(unix_ms: UnixMs) -> String {
    let t = date_time(unix_ms);
    let (weekday, month) = (t.weekday().to_string(), t.month().to_string());
    format!(
        "{}, {} {} {:04} {:02}:{:02}:{:02} +0000",
        &weekday[..3],
        t.day(),
        &month[..3],
        t.year(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

fn date_time(unix_ms: UnixMs) -> time::UtcDateTime {
    let nanos = i128::from(unix_ms) * 1_000_000;
    time::UtcDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(time::UtcDateTime::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_rfcs_want_them() {
        assert_eq!(rfc3339(1_772_460_912_907), "2026-03-02T14:15:12.907Z");
        assert_eq!(rfc5322(1_772_460_912_907), "Mon, 2 Mar 2026 14:15:12 +0000");
    }

    #[test]
    fn times_are_read_back_and_may_be_cut_short() {
        for (text, expected) in [
            ("2026-03-02T14:15:12.907Z", Some(1_772_460_912_907)),
            ("2026-03-02T15:15:12.907+01:00", Some(1_772_460_912_907)),
            ("2026-03-02 14:15:12", Some(1_772_460_912_000)),
            ("2026-03-02 14:15", Some(1_772_460_900_000)),
            ("2026-03-02", Some(1_772_409_600_000)),
            ("2026-03", None),
            ("1960-01-01", None),
            ("noon", None),
        ] {
            assert_eq!(parse_rfc3339(text), expected, "{text}");
        }
    }
}
