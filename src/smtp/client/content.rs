//! Content on its way out: checked, then framed, without copying it.
//!
//! Promises: what [`stuffed`] and [`verbatim`] return holds no NUL and no CR or LF but in CRLF, and in what [`stuffed`]
//! returns no line of content can be taken for its end. This is checked here, by trust in no reader
//! (threats-and-faults §2.1: smuggling on the way out). Pieces stay slices of the mapped segment; only the stuffed dots
//! and the end are added between them.

use bytes::Bytes;

/// Content that must not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content holds a NUL, or a CR or LF that is not part of CRLF")]
pub struct ContentFault;

/// Appends content as DATA wants it: dots stuffed, CRLF at the end, then the final dot (RFC 5321 §4.5.2).
pub fn stuffed(pieces: &[Bytes], out: &mut Vec<Bytes>) -> Result<(), ContentFault> {
    let mut lines = LineCheck::default();
    for piece in pieces {
        let mut sent = 0;
        lines.check(piece, |place| {
            out.push(piece.slice(sent..place));
            out.push(Bytes::from_static(b"."));
            sent = place;
        })?;
        out.push(piece.slice(sent..));
    }
    let end: &'static [u8] = if lines.finish()? {
        b".\r\n"
    } else {
        b"\r\n.\r\n"
    };
    out.retain(|piece| !piece.is_empty());
    out.push(Bytes::from_static(end));
    Ok(())
}

/// Appends content as BDAT wants it: as it is (RFC 3030 §2).
pub fn verbatim(pieces: &[Bytes], out: &mut Vec<Bytes>) -> Result<(), ContentFault> {
    let mut lines = LineCheck::default();
    for piece in pieces {
        lines.check(piece, |_| ())?;
        out.push(piece.clone());
    }
    lines.finish()?;
    Ok(())
}

/// Every LF follows a CR, and there are as many CRs as LFs: so each CR is followed by its LF.
struct LineCheck {
    at_line_start: bool,
    last: u8,
    line_feeds: usize,
    returns: usize,
}

impl Default for LineCheck {
    fn default() -> Self {
        Self {
            at_line_start: true,
            last: 0,
            line_feeds: 0,
            returns: 0,
        }
    }
}

impl LineCheck {
    /// Calls `dot` with the place of each dot that begins a line.
    fn check(&mut self, piece: &[u8], mut dot: impl FnMut(usize)) -> Result<(), ContentFault> {
        let Some(last) = piece.last() else {
            return Ok(());
        };
        if self.at_line_start && piece.first() == Some(&b'.') {
            dot(0);
        }
        for place in memchr::memchr2_iter(b'\n', 0, piece) {
            let before = match place.checked_sub(1) {
                Some(before) => piece.get(before).copied(),
                None => Some(self.last),
            };
            if piece.get(place) != Some(&b'\n') || before != Some(b'\r') {
                return Err(ContentFault);
            }
            self.line_feeds += 1;
            if piece.get(place + 1) == Some(&b'.') {
                dot(place + 1);
            }
        }
        self.returns += memchr::memchr_iter(b'\r', piece).count();
        self.last = *last;
        self.at_line_start = self.last == b'\n';
        Ok(())
    }

    /// Says whether the content ends with CRLF (or is empty).
    fn finish(self) -> Result<bool, ContentFault> {
        match self.line_feeds == self.returns {
            true => Ok(self.at_line_start),
            false => Err(ContentFault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece, and cut at every place.
    fn check(content: &'static str, expected: Result<&str, ContentFault>) {
        for cut in 0..=content.len() {
            let (a, b) = content.as_bytes().split_at(cut);
            let pieces = [Bytes::from_static(a), Bytes::from_static(b)];
            let mut out = Vec::new();
            let found = stuffed(&pieces, &mut out).map(|()| out.concat());
            let found = found.map(|octets| String::from_utf8(octets).unwrap());
            assert_eq!(
                found.as_deref(),
                expected.as_ref().copied(),
                "{content:?} cut at {cut}"
            );
            let mut out = Vec::new();
            let found = verbatim(&pieces, &mut out).map(|()| out.concat());
            assert_eq!(
                found,
                expected.map(|_| content.as_bytes().to_vec()),
                "{content:?}"
            );
        }
    }

    #[test]
    fn every_dot_that_begins_a_line_is_stuffed() {
        check("a\r\nb\r\n", Ok("a\r\nb\r\n.\r\n"));
        check(".\r\n", Ok("..\r\n.\r\n"));
        check("a\r\n.\r\nb.\r\n", Ok("a\r\n..\r\nb.\r\n.\r\n"));
        check("a\r\n..b\r\n.c\r\n", Ok("a\r\n...b\r\n..c\r\n.\r\n"));
        check("", Ok(".\r\n"));
    }

    #[test]
    fn content_without_a_last_line_end_gets_one() {
        check("a", Ok("a\r\n.\r\n"));
        check("a\r\n.", Ok("a\r\n..\r\n.\r\n"));
    }

    #[test]
    fn content_that_could_smuggle_does_not_leave() {
        for content in [
            "a\nb\r\n", "a\rb\r\n", "a\r\n\n", "a\r", "\n", "a\r\r\n", "\n.\n", "a\0b\r\n", "\0",
        ] {
            check(content, Err(ContentFault));
        }
    }
}
