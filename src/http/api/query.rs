//! Query strings: keys without regard to case, `key=` is not given.

use super::error::{ApiError, Code};
use crate::clock::Zone;

/// What a query says, keys in lower case.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    /// Of its dates.
    pub(super) zone: Zone,
}

/// A part of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) count: usize,
    pub(super) offset: usize,
}

impl Query {
    pub(super) fn read(text: &str, zone: &Zone) -> Self {
        let pairs = form_urlencoded::parse(text.as_bytes());
        let given = pairs.filter(|(_, value)| !value.is_empty());
        Self {
            pairs: given
                .map(|(key, value)| (key.to_ascii_lowercase(), value.into_owned()))
                .collect(),
            zone: zone.clone(),
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(k, _)| k.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str())
    }

    /// What is behind `prefix` in keys that begin with it, in lower case, and their values.
    pub(super) fn behind<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let behind = move |(key, value): &'a (String, String)| {
            let key = key.strip_prefix(prefix).filter(|key| !key.is_empty())?;
            Some((key, value.as_str()))
        };
        self.pairs.iter().filter_map(behind)
    }

    /// `true`, `True`, `1`; all else is false.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.text(key)
            .is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true"))
    }

    /// `count` and `offset`, or the paging code of the family.
    pub(super) fn page(&self, family: Code) -> Result<Page, ApiError> {
        let number = |key: &str, default: i64, range: std::ops::RangeInclusive<i64>| {
            let value = self.text(key).map_or(Ok(default), str::parse::<i64>);
            match value {
                Ok(value) if range.contains(&value) => Ok(value as usize),
                _ => Err(ApiError::new(
                    family,
                    format!(
                        "Parameter '{key}' must be a number from {} to {}.",
                        range.start(),
                        range.end()
                    ),
                )),
            }
        };
        Ok(Page {
            count: number("count", COUNT_DEFAULT, 1..=COUNT_MAX)?,
            offset: number("offset", 0, 0..=i64::from(u32::MAX))?,
        })
    }
}

impl Page {
    /// The page of a listing, and how many entries that has in all.
    pub(super) fn of<T>(self, all: impl Iterator<Item = T>) -> (usize, Vec<T>) {
        let all: Vec<T> = all.collect();
        let total = all.len();
        let page = all.into_iter().skip(self.offset).take(self.count);
        (total, page.collect())
    }
}

const COUNT_DEFAULT: i64 = 50;
const COUNT_MAX: i64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Query {
        Query::read(text, &Zone::utc())
    }

    #[test]
    fn keys_have_no_case_and_bounds_have_a_code() {
        let query = read("Count=2&OFFSET=1&name=a%20b&x=");
        assert_eq!(
            query.page(Code(600)).unwrap(),
            Page {
                count: 2,
                offset: 1
            }
        );
        assert_eq!((query.text("NAME"), query.text("x")), (Some("a b"), None));
        assert_eq!(read("").page(Code(600)).unwrap().count, 50);
        for wrong in ["count=0", "count=501", "count=-1", "offset=-1", "count=x"] {
            let error = read(wrong).page(Code(600)).unwrap_err();
            assert_eq!(error.code, Code(600), "{wrong}");
        }
        for (text, flag) in [
            ("f=true", true),
            ("F=True", true),
            ("f=1", true),
            ("f=0", false),
        ] {
            assert_eq!(read(text).flag("f"), flag, "{text}");
        }
    }

    #[test]
    fn a_page_counts_all_and_holds_its_part() {
        let page = Page {
            count: 2,
            offset: 3,
        };
        assert_eq!(page.of(0..10), (10, vec![3, 4]));
        assert_eq!(page.of(0..2), (2, vec![]));
    }
}
