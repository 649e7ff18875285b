//! Time zones: which day a moment is in for people, and which moment a date is.
//!
//! The rules of all zones are in the program: a bare host need not have them, and every node counts the same days.

use std::fmt;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::UnixMs;

/// By its name in the IANA database. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A date: days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(pub i32);

impl Zone {
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// `Europe/Berlin`; without regard to case.
    pub fn named(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().map(Self)
    }

    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    pub fn day_of(&self, at: UnixMs) -> Day {
        let at = i64::try_from(at).ok();
        let at = at.and_then(|at| Timestamp::from_millisecond(at).ok());
        Day::of(self.0.to_datetime(at.unwrap_or(Timestamp::MAX)).date())
    }

    /// The moment at which clocks here show what clocks in Greenwich show at `shown`. Where they skip that, or show it twice,
    /// what was before goes on.
    pub fn moment(&self, shown: UnixMs) -> UnixMs {
        let civil = DateTime::from(EPOCH)
            .checked_add(SignedDuration::from_millis(shown.min(LATEST_MS) as i64))
            .unwrap_or(DateTime::MAX);
        let at = self.0.to_timestamp(civil).unwrap_or(Timestamp::MAX);
        at.as_millisecond().max(0) as u64
    }
}

impl Day {
    fn of(date: Date) -> Self {
        let days = date.duration_since(EPOCH).as_secs() / DAY_SECONDS;
        Self(days as i32)
    }
}

/// `2026-03-02`
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = EPOCH.checked_add(SignedDuration::from_secs(i64::from(self.0) * DAY_SECONDS));
        date.unwrap_or(Date::MAX).fmt(f)
    }
}

const EPOCH: Date = Date::constant(1970, 1, 1);
const DAY_SECONDS: i64 = 86_400;
/// The end of the year 9999, less a day.
const LATEST_MS: UnixMs = 253_402_214_400_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{parse_rfc3339, rfc3339};

    #[test]
    fn a_day_begins_where_the_zone_says_summer_and_winter() {
        let check = |zone: &str, at: &str, day: &str| {
            let zone = Zone::named(zone).unwrap();
            let day_of = zone.day_of(parse_rfc3339(at).unwrap());
            assert_eq!(day_of.to_string(), day, "{} {at}", zone.name());
        };
        check("UTC", "2026-03-02T23:59:59.999Z", "2026-03-02");
        check("America/New_York", "2026-03-02T04:59:59Z", "2026-03-01");
        check("America/New_York", "2026-03-02T05:00:00Z", "2026-03-02");
        check("america/new_york", "2026-07-02T04:00:00Z", "2026-07-02");
        check("Asia/Kolkata", "2026-03-01T18:30:00Z", "2026-03-02");
        check("UTC", "1970-01-01T00:00:00Z", "1970-01-01");
        assert_eq!(Zone::named("Mars/Olympus"), None);
    }

    #[test]
    fn a_date_is_the_moment_at_which_clocks_there_show_it() {
        let zone = Zone::named("America/New_York").unwrap();
        for (shown, moment) in [
            ("2026-03-02T00:00:00Z", "2026-03-02T05:00:00.000Z"),
            ("2026-07-02T00:00:00Z", "2026-07-02T04:00:00.000Z"),
            // Skipped.
            ("2026-03-08T02:30:00Z", "2026-03-08T07:30:00.000Z"),
        ] {
            let found = zone.moment(parse_rfc3339(shown).unwrap());
            assert_eq!(rfc3339(found), moment, "{shown}");
        }
        assert_eq!(Zone::utc().moment(1_772_460_912_907), 1_772_460_912_907);
    }
}
