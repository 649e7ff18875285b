//! Dates in query strings: days, seconds and fractions of them are inclusive; without a zone they are those of `[http] time_zone`.

use super::error::{ApiError, Code};
use super::query::Query;
use crate::clock::{UnixMs, Zone};

/// The first moment that a date means, and the first one behind it.
pub(super) fn date(
    query: &Query,
    key: &str,
    code: Code,
) -> Result<Option<(UnixMs, UnixMs)>, ApiError> {
    let Some(text) = query.text(key) else {
        return Ok(None);
    };
    span_of(text, &query.zone).map(Some).ok_or_else(|| {
        ApiError::new(
            code,
            format!(
                "Invalid request field(s): '{key}'. It is a date, 2026-03-02, or a time, 2026-03-02T09:15:00."
            ),
        )
    })
}

/// A day, a second, or a millisecond where there is a fraction; months and days may have one digit (reference §1.6).
fn span_of(text: &str, of: &Zone) -> Option<(UnixMs, UnixMs)> {
    let (day, time) = match text.split_once(['T', ' ']) {
        Some((day, time)) => (day, Some(time)),
        None => (text, None),
    };
    let mut parts = day.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if parts.next().is_some() || ![year, month, day].iter().all(is_number) || year.len() != 4 {
        return None;
    }
    let whole = |time: &str| {
        let with_zone = time.ends_with('Z') || time.get(8..)?.contains(['+', '-']);
        let zone = if with_zone { "" } else { "Z" };
        let text = format!("{year}-{month:0>2}-{day:0>2}T{time}{zone}");
        crate::clock::parse_rfc3339(&text).map(|at| (at, with_zone))
    };
    match time {
        Some(time) => {
            let (at, with_zone) = whole(time)?;
            let from = if with_zone { at } else { of.moment(at) };
            let is_exact = time.get(8..)?.starts_with('.');
            Some((from, from + if is_exact { 1 } else { 1_000 }))
        }
        // Some days have 23 hours, some 25.
        None => whole("00:00:00").map(|(at, _)| (of.moment(at), of.moment(at + DAY_MS))),
    }
}

const DAY_MS: UnixMs = 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::rfc3339;

    #[test]
    fn without_a_zone_a_date_is_of_the_zone_that_is_set() {
        let eastern = Zone::named("America/New_York").unwrap();
        let check = |text: &str, expected: (&str, &str)| {
            let (from, to) = span_of(text, &eastern).unwrap();
            let expected = (expected.0.to_owned(), expected.1.to_owned());
            assert_eq!((rfc3339(from), rfc3339(to)), expected, "{text}");
        };
        // The day on which clocks are set forward.
        let short = ("2026-03-08T05:00:00.000Z", "2026-03-09T04:00:00.000Z");
        check("2026-03-08", short);
        let second = ("2026-07-02T16:00:00.000Z", "2026-07-02T16:00:01.000Z");
        check("2026-07-02T12:00:00", second);
        check("2026-07-02T16:00:00Z", second);
    }

    #[test]
    fn a_date_is_a_day_and_a_time_a_second() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let found = span_of(text, &Zone::utc());
            let found = found.map(|(from, to)| (rfc3339(from), rfc3339(to)));
            let expected = expected.map(|(from, to)| (from.to_owned(), to.to_owned()));
            assert_eq!(found, expected, "{text}");
        };
        let day = ("2026-09-07T00:00:00.000Z", "2026-09-08T00:00:00.000Z");
        check("2026-09-07", Some(day));
        check("2026-9-7", Some(day));
        let second = ("2026-03-02T09:15:00.000Z", "2026-03-02T09:15:01.000Z");
        check("2026-03-02T09:15:00", Some(second));
        check("2026-03-02T04:15:00-05:00", Some(second));
        check(
            "2026-03-02T09:15:07.2196962",
            Some(("2026-03-02T09:15:07.219Z", "2026-03-02T09:15:07.220Z")),
        );
        for wrong in [
            "",
            "x",
            "2026",
            "2026-13-01",
            "2026-02-30",
            "26-01-01",
            "2026-01-01T25:00:00",
        ] {
            check(wrong, None);
        }
    }
}
