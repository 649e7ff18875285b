//! Content on its way out: checked, then framed, without copying it.
//!
//! Promises: what leaves holds no NUL and no CR or LF but in CRLF, and in what [`Framed::stuffed`] lets out no line of
//! content can be taken for its end. This is checked here, by trust in no reader (threats-and-faults §2.1: smuggling on
//! the way out).
//!
//! Pieces stay slices of the mapped segment; only the stuffed dots and the end are added between them. They are cut while
//! they are written, a few at a time: content that is all dots would otherwise become many times its size in slices.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use bytes::Bytes;

/// Content that must not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content holds a NUL, or a CR or LF that is not part of CRLF")]
pub struct ContentFault;

/// Content that may leave, as far as it has not left.
#[derive(Debug)]
pub struct Framed {
    /// Last piece first.
    pieces: Vec<Bytes>,
    end: Bytes,
    at_line_start: bool,
    /// Dots that are still to be stuffed.
    dots: u64,
    octets: u64,
}

impl Framed {
    /// As DATA wants it: dots stuffed, CRLF at the end, then the final dot (RFC 5321 §4.5.2).
    pub fn stuffed(pieces: &[Bytes]) -> Result<Self, ContentFault> {
        let checked = LineCheck::of(pieces)?;
        let end: &'static [u8] = match checked.at_line_start {
            true => b".\r\n",
            false => b"\r\n.\r\n",
        };
        Ok(Self::new(pieces, end, checked.dots, checked.octets))
    }

    /// As BDAT wants it: as it is (RFC 3030 §2).
    pub fn verbatim(pieces: &[Bytes]) -> Result<Self, ContentFault> {
        let checked = LineCheck::of(pieces)?;
        Ok(Self::new(pieces, b"", 0, checked.octets))
    }

    /// A message of nothing, for DATA.
    pub fn empty() -> Self {
        Self::new(&[], b".\r\n", 0, 0)
    }

    fn new(pieces: &[Bytes], end: &'static [u8], dots: u64, octets: u64) -> Self {
        Self {
            pieces: pieces.iter().rev().cloned().collect(),
            end: Bytes::from_static(end),
            at_line_start: true,
            dots,
            octets: octets + dots + end.len() as u64,
        }
    }

    /// All that leaves, dots and end included.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Appends about `most` pieces, in order. `false`: that was the rest.
    pub fn take(&mut self, out: &mut Vec<Bytes>, most: usize) -> bool {
        let full = out.len() + most;
        while let Some(piece) = self.pieces.pop() {
            let sent = self.cut(piece, out, full);
            out.extend(Some(sent).filter(|sent| !sent.is_empty()));
            if out.len() >= full {
                return true;
            }
        }
        out.extend(Some(std::mem::take(&mut self.end)).filter(|end| !end.is_empty()));
        false
    }

    /// The piece up to where it is to be cut next; what lies behind goes back.
    fn cut(&mut self, mut piece: Bytes, out: &mut Vec<Bytes>, full: usize) -> Bytes {
        while self.dots > 0 {
            let begins_line = self.at_line_start && piece.first() == Some(&b'.');
            let next = if begins_line {
                Some(0)
            } else {
                memchr::memmem::find(&piece, b"\n.").map(|place| place + 1)
            };
            let Some(place) = next else { break };
            if place > 0 {
                out.push(piece.split_to(place));
            }
            out.push(Bytes::from_static(b"."));
            self.dots -= 1;
            // The dot that is there already leaves with what follows it.
            self.at_line_start = false;
            if out.len() >= full {
                self.pieces.push(piece);
                return Bytes::new();
            }
        }
        self.at_line_start = piece
            .last()
            .map_or(self.at_line_start, |last| *last == b'\n');
        piece
    }
}

/// Every LF follows a CR, and there are as many CRs as LFs: so each CR is followed by its LF.
struct LineCheck {
    at_line_start: bool,
    last: u8,
    line_feeds: usize,
    returns: usize,
    /// Dots that begin a line.
    dots: u64,
    octets: u64,
}

impl LineCheck {
    fn of(pieces: &[Bytes]) -> Result<Self, ContentFault> {
        let mut lines = Self {
            at_line_start: true,
            last: 0,
            line_feeds: 0,
            returns: 0,
            dots: 0,
            octets: 0,
        };
        for piece in pieces {
            lines.check(piece)?;
        }
        match lines.line_feeds == lines.returns {
            true => Ok(lines),
            false => Err(ContentFault),
        }
    }

    fn check(&mut self, piece: &[u8]) -> Result<(), ContentFault> {
        let Some(last) = piece.last() else {
            return Ok(());
        };
        if self.at_line_start && piece.first() == Some(&b'.') {
            self.dots += 1;
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
                self.dots += 1;
            }
        }
        self.returns += memchr::memchr_iter(b'\r', piece).count();
        self.octets += piece.len() as u64;
        self.last = *last;
        self.at_line_start = self.last == b'\n';
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything, taken `most` pieces at a time.
    fn all(framed: Result<Framed, ContentFault>, most: usize) -> Result<String, ContentFault> {
        let mut framed = framed?;
        let (mut out, expected) = (Vec::new(), framed.octets());
        while framed.take(&mut out, most) {}
        let octets = out.concat();
        assert!(octets.len() as u64 <= expected);
        Ok(String::from_utf8(octets).unwrap())
    }

    /// In one piece, and cut at every place.
    fn check(content: &'static str, expected: Result<&str, ContentFault>) {
        for cut in 0..=content.len() {
            let (a, b) = content.as_bytes().split_at(cut);
            let pieces = [Bytes::from_static(a), Bytes::from_static(b)];
            for most in [1, 2, 100] {
                let found = all(Framed::stuffed(&pieces), most);
                let expected = expected.map(str::to_owned);
                assert_eq!(
                    found, expected,
                    "{content:?} cut at {cut}, {most} at a time"
                );
            }
            let found = all(Framed::verbatim(&pieces), 1);
            assert_eq!(found, expected.map(|_| content.to_owned()), "{content:?}");
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

    #[test]
    fn content_that_is_all_dots_is_cut_while_it_leaves() {
        let content = Bytes::from(".\r\n".repeat(10_000));
        let mut framed = Framed::stuffed(&[content]).unwrap();
        let mut out = Vec::new();
        assert!(framed.take(&mut out, 64));
        assert!(out.len() < 70, "{}", out.len());
        assert_eq!(
            all(Ok(framed), 64).unwrap().len() + out.concat().len(),
            40_003
        );
    }
}
