//! Enhanced status codes, RFC 3463: `class.subject.detail`.

use std::fmt;
use std::str::FromStr;

/// RFC 3463 §2. The class is 2, 4 or 5; subject and detail have at most three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedStatus {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl EnhancedStatus {
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self {
            class,
            subject,
            detail,
        }
    }

    /// Splits a status from the front of a reply line's text; the rest has no leading space.
    pub fn split(text: &str) -> (Option<Self>, &str) {
        let end = text.find([' ', '\t']).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        match word.parse() {
            Ok(status) => (Some(status), rest.trim_start()),
            Err(NotAStatus) => (None, text),
        }
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// The text is not `class.subject.detail`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code")]
pub struct NotAStatus;

impl FromStr for EnhancedStatus {
    type Err = NotAStatus;

    fn from_str(text: &str) -> Result<Self, NotAStatus> {
        let number = |part: Option<&str>| {
            let part = part
                .filter(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|p| p.parse::<u16>().ok()).ok_or(NotAStatus)
        };
        let mut parts = text.split('.');
        let (class, subject, detail) = (
            number(parts.next())?,
            number(parts.next())?,
            number(parts.next())?,
        );
        match (class, parts.next()) {
            (2 | 4 | 5, None) => Ok(Self {
                class: class as u8,
                subject,
                detail,
            }),
            _ => Err(NotAStatus),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_split_from_the_text_behind_it() {
        let check = |text, status: Option<(u8, u16, u16)>, rest| {
            let status = status.map(|(c, s, d)| EnhancedStatus::new(c, s, d));
            assert_eq!(EnhancedStatus::split(text), (status, rest), "{text:?}");
        };
        check("5.1.1 no such user", Some((5, 1, 1)), "no such user");
        check("2.0.0", Some((2, 0, 0)), "");
        check("5.7.1000 x", None, "5.7.1000 x");
        check("3.0.0 x", None, "3.0.0 x");
        check("10.0.0.1 is listed", None, "10.0.0.1 is listed");
        check("", None, "");
    }
}
