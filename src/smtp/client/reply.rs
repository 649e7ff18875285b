//! Reads replies of a remote host, octet by octet if need be, within the limits of threats-and-faults §5.
//!
//! Promises: a reply is complete and of one code, or it is a [`Malformed`]; no remote host can make this hold more than
//! `REPLY_OCTETS_MAX`. Text becomes a [`Reply`] only when somebody asks, so that the 250s of a busy session cost nothing.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use crate::limits::{REPLY_LINE_MAX, REPLY_LINES_MAX, REPLY_OCTETS_MAX};
use crate::mail::{EnhancedStatus, Reply};

/// Why what came is not a reply. Nothing that follows it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a reply line does not begin with a reply code")]
    NoCode,
    #[error("the lines of one reply carry different codes")]
    MixedCodes,
    #[error("a reply line is longer than 4096 octets")]
    LineTooLong,
    #[error("a reply has more than 128 lines or 64 KiB")]
    TooLong,
}

/// Gathers one reply at a time.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    text: String,
    status: Option<EnhancedStatus>,
    code: Option<u16>,
    lines: usize,
    octets: usize,
    complete: bool,
    /// Of the reply before.
    previous: (Option<u16>, Option<EnhancedStatus>, String),
}

impl ReplyReader {
    /// Takes from `input` as far as one reply reaches. `Some(code)` when that reply is complete: [`Self::reply`] and
    /// [`Self::lines`] then show it, until the next call.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<u16>, Malformed> {
        if self.complete {
            self.reset();
        }
        while let Some(end) = memchr::memchr(b'\n', input) {
            let (line, rest) = input.split_at(end + 1);
            *input = rest;
            let last = if self.partial.is_empty() {
                self.line(line)?
            } else {
                self.keep(line)?;
                let whole = std::mem::take(&mut self.partial);
                self.line(&whole)?
            };
            if last {
                self.complete = true;
                return Ok(self.code);
            }
        }
        let rest = std::mem::take(input);
        self.keep(rest)?;
        Ok(None)
    }

    /// Whether a reply has begun and not ended.
    pub fn in_reply(&self) -> bool {
        !self.complete && (!self.partial.is_empty() || self.lines > 0)
    }

    /// The reply that [`Self::read`] completed. Control characters are replaced; what is no UTF-8 becomes U+FFFD.
    pub fn reply(&self) -> Reply {
        Reply::new(self.code.unwrap_or(0), self.status, &self.text)
    }

    /// Its enhanced status code.
    pub fn status(&self) -> Option<EnhancedStatus> {
        self.status
    }

    /// Whether it is the one before once more, word for word.
    pub fn repeats(&self) -> bool {
        let (code, status, text) = &self.previous;
        (*code, *status) == (self.code, self.status) && *text == self.text
    }

    /// Its text without codes, one line per line: the keywords of EHLO.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    fn reset(&mut self) {
        std::mem::swap(&mut self.previous.2, &mut self.text);
        (self.previous.0, self.previous.1) = (self.code, self.status);
        self.text.clear();
        self.status = None;
        self.code = None;
        self.lines = 0;
        self.octets = 0;
        self.complete = false;
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), Malformed> {
        if self.partial.len() + part.len() > REPLY_LINE_MAX {
            return Err(Malformed::LineTooLong);
        }
        self.partial.extend_from_slice(part);
        Ok(())
    }

    /// One line with its LF. Says whether it was the reply's last.
    fn line(&mut self, line: &[u8]) -> Result<bool, Malformed> {
        if line.len() > REPLY_LINE_MAX {
            return Err(Malformed::LineTooLong);
        }
        self.lines += 1;
        self.octets += line.len();
        if self.lines > REPLY_LINES_MAX || self.octets > REPLY_OCTETS_MAX {
            return Err(Malformed::TooLong);
        }
        // RFC 5321 §2.3.8 wants CRLF. Hosts that end reply lines with a bare LF exist, and no harm can be hidden in it.
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, more, text) = split_line(line).ok_or(Malformed::NoCode)?;
        match self.code {
            None => self.code = Some(code),
            Some(first) if first == code => self.text.push('\n'),
            Some(_) => return Err(Malformed::MixedCodes),
        }
        let text = String::from_utf8_lossy(text);
        let (status, rest) = EnhancedStatus::split(&text);
        match (self.lines, status) {
            (1, _) => {
                self.status = status;
                self.text.push_str(rest);
            }
            // RFC 2034 §4 repeats the status on every line; another one there is text.
            (_, Some(_)) if status == self.status => self.text.push_str(rest),
            _ => self.text.push_str(&text),
        }
        Ok(!more)
    }
}

/// RFC 5321 §4.2: code, then hyphen, space or nothing. Only the first digit is prescribed here: 571 is in use.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(digits.first(), Some(b'2'..=b'5')) {
        return None;
    }
    let code = digits
        .iter()
        .fold(0, |n, d| n * 10 + u16::from(d.wrapping_sub(b'0')));
    match rest.split_first() {
        None => Some((code, false, rest)),
        Some((b' ', text)) => Some((code, false, text)),
        Some((b'-', text)) => Some((code, true, text)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Result<Option<&str>, Malformed>) {
        // At once, and octet by octet.
        for step in [input.len().max(1), 1] {
            let mut reader = ReplyReader::default();
            let mut found = Ok(None);
            for chunk in input.as_bytes().chunks(step) {
                let mut rest = chunk;
                found = reader.read(&mut rest);
                if found != Ok(None) {
                    break;
                }
            }
            let found = found.map(|code| code.map(|_| reader.reply().to_string()));
            assert_eq!(
                found.as_ref().map(Option::as_deref),
                expected.as_ref().copied(),
                "{input:?} by {step}"
            );
        }
    }

    #[test]
    fn a_reply_is_complete_with_its_last_line() {
        check("250 ok\r\n", Ok(Some("250 ok")));
        check("250\r\n", Ok(Some("250 ")));
        check("250 2.1.5 fine\r\n", Ok(Some("250 2.1.5 fine")));
        check("250-2.0.0 a\r\n250 2.0.0 b\r\n", Ok(Some("250 2.0.0 a b")));
        check(
            "550-5.1.1 a\r\n550 5.7.1 b\r\n",
            Ok(Some("550 5.1.1 a 5.7.1 b")),
        );
        check("571 no\n", Ok(Some("571 no")));
        check("250 a\u{7}b\r\n", Ok(Some("250 a?b")));
        check("250-a\r\n", Ok(None));
        check("250 ok", Ok(None));
    }

    #[test]
    fn what_is_no_reply_is_never_guessed() {
        check("hello\r\n", Err(Malformed::NoCode));
        check("\r\n", Err(Malformed::NoCode));
        check("25 ok\r\n", Err(Malformed::NoCode));
        check("250_ok\r\n", Err(Malformed::NoCode));
        check("2500 ok\r\n", Err(Malformed::NoCode));
        check("199 ok\r\n", Err(Malformed::NoCode));
        check("650 ok\r\n", Err(Malformed::NoCode));
        check("250-a\r\n550 b\r\n", Err(Malformed::MixedCodes));
    }

    #[test]
    fn a_reply_without_end_is_cut_off() {
        check(
            &format!("250 {}", "x".repeat(5_000)),
            Err(Malformed::LineTooLong),
        );
        check(&"250-x\r\n".repeat(129), Err(Malformed::TooLong));
        check(
            &format!("250-{}\r\n", "x".repeat(4_000)).repeat(17),
            Err(Malformed::TooLong),
        );
    }

    #[test]
    fn reading_stops_behind_the_first_reply() {
        let mut reader = ReplyReader::default();
        let mut input: &[u8] = b"250 a\r\n354 b\r\n25";
        assert_eq!(reader.read(&mut input), Ok(Some(250)));
        assert_eq!(reader.read(&mut input), Ok(Some(354)));
        assert_eq!(reader.reply().text(), "b");
        assert_eq!(reader.read(&mut input), Ok(None));
        assert!(reader.in_reply());
    }
}
