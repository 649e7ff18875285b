//! Content on its way out: checked, then framed, without copying it.
//!
//! Promises: what leaves holds no NUL and no CR or LF but in CRLF, and in what [`Framed::stuffed`] lets out no line of
//! content can be taken for its end. This is checked here, by trust in no reader (threats-and-faults §2.1: smuggling on
//! the way out). Long content is never held as a whole.
//!
//! Pieces stay slices of the mapped segment; only the stuffed dots and the end are added between them. They are cut while
//! they are written, a few at a time: content that is all dots would otherwise become many times its size in slices.
//! Pieces of long content are shown once, to be checked and counted, and fetched again one by one when they are to leave;
//! a fetched piece leaves only when it comes out of the check as it did before.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

/// Content that must not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content holds a NUL, or a CR or LF that is not part of CRLF")]
pub struct ContentFault;

/// A piece on its way, or why it does not come.
pub type Fetching = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Where pieces of long content come from.
pub trait Pieces: Send + Sync {
    /// The piece that [`Content::push_later`] was shown under this name.
    fn fetch(&self, name: u64) -> Fetching;
}

/// The content of one transaction: pieces at hand, and pieces that are fetched when they are to leave.
#[derive(Clone, Default)]
pub struct Content {
    pieces: Vec<Piece>,
    lines: LineCheck,
    source: Option<Arc<dyn Pieces>>,
}

#[derive(Clone, Debug)]
enum Piece {
    Here(Bytes),
    /// With the state of the check in front of it and behind it.
    Later {
        name: u64,
        before: LineCheck,
        after: LineCheck,
    },
}

impl Content {
    /// Of which later pieces come from `source`.
    pub fn of(source: Arc<dyn Pieces>) -> Self {
        Self {
            source: Some(source),
            ..Self::default()
        }
    }

    pub fn push(&mut self, piece: Bytes) {
        self.lines.check(&piece);
        self.pieces.push(Piece::Here(piece));
    }

    /// Checks a piece that is fetched by this name when it is to leave.
    pub fn push_later(&mut self, name: u64, octets: &[u8]) {
        let before = self.lines;
        self.lines.check(octets);
        let after = self.lines;
        self.pieces.push(Piece::Later {
            name,
            before,
            after,
        });
    }

    /// Ends the last line, should it have no end. DATA does so in any case; with BDAT it matters to whoever verifies a
    /// signature: RFC 6376 §3.4.4 does not say whether blanks at the end of the octets are at the end of a line.
    pub fn end_line(&mut self) {
        if !self.lines.at_line_start() {
            self.push(Bytes::from_static(b"\r\n"));
        }
    }

    /// Puts whole lines, of ASCII and without a dot at their beginning, in front of what is there.
    pub fn prepend(&mut self, lines: Bytes) {
        let mut check = LineCheck::default();
        check.check(&lines);
        let sound = check.passed().is_ok() && check.at_line_start();
        self.lines.faulty |= !sound || check.eight_bit || check.dots > 0;
        self.lines.octets += check.octets;
        self.pieces.insert(0, Piece::Here(lines));
    }

    pub fn len(&self) -> u64 {
        self.lines.octets
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_ascii(&self) -> bool {
        !self.lines.eight_bit
    }
}

impl From<Vec<Bytes>> for Content {
    fn from(pieces: Vec<Bytes>) -> Self {
        let mut content = Self::default();
        pieces.into_iter().for_each(|piece| content.push(piece));
        content
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} octets)", self.len())
    }
}

/// Content that may leave, as far as it has not left.
pub struct Framed {
    /// Last piece first.
    pieces: Vec<Piece>,
    end: Bytes,
    at_line_start: bool,
    /// Dots that are still to be stuffed.
    dots: u64,
    octets: u64,
    source: Option<Arc<dyn Pieces>>,
}

impl fmt::Debug for Framed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Framed({} octets)", self.octets)
    }
}

impl Framed {
    /// As DATA wants it: dots stuffed, CRLF at the end, then the final dot (RFC 5321 §4.5.2).
    pub fn stuffed(content: &Content) -> Result<Self, ContentFault> {
        let checked = content.lines.passed()?;
        let end: &'static [u8] = match checked.at_line_start() {
            true => b".\r\n",
            false => b"\r\n.\r\n",
        };
        Ok(Self::new(content, end, checked.dots))
    }

    /// As BDAT wants it: as it is (RFC 3030 §2).
    pub fn verbatim(content: &Content) -> Result<Self, ContentFault> {
        content.lines.passed()?;
        Ok(Self::new(content, b"", 0))
    }

    /// A message of nothing, for DATA.
    pub fn empty() -> Self {
        Self::new(&Content::default(), b".\r\n", 0)
    }

    fn new(content: &Content, end: &'static [u8], dots: u64) -> Self {
        Self {
            pieces: content.pieces.iter().rev().cloned().collect(),
            end: Bytes::from_static(end),
            at_line_start: true,
            dots,
            octets: content.len() + dots + end.len() as u64,
            source: content.source.clone(),
        }
    }

    /// All that leaves, dots and end included.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// The name of the piece that has to be fetched before anything more can leave.
    pub fn wanted(&self) -> Option<u64> {
        match self.pieces.last() {
            Some(Piece::Later { name, .. }) => Some(*name),
            _ => None,
        }
    }

    /// Fetches the wanted piece.
    pub fn fetch(&self) -> Option<Fetching> {
        let name = self.wanted()?;
        self.source.as_ref().map(|source| source.fetch(name))
    }

    /// The wanted piece has come.
    pub fn supply(&mut self, piece: Bytes) -> Result<(), ContentFault> {
        match self.pieces.pop() {
            Some(Piece::Later { before, after, .. }) => {
                let mut lines = before;
                lines.check(&piece);
                if lines != after {
                    return Err(ContentFault);
                }
                self.pieces.push(Piece::Here(piece));
                Ok(())
            }
            _ => Err(ContentFault),
        }
    }

    /// Appends about `most` pieces, in order; less where one is [`wanted`](Self::wanted). `false`: that was the rest.
    pub fn take(&mut self, out: &mut Vec<Bytes>, most: usize) -> bool {
        let full = out.len() + most;
        while let Some(piece) = self.pieces.pop() {
            let piece = match piece {
                Piece::Here(piece) => piece,
                later => {
                    self.pieces.push(later);
                    return true;
                }
            };
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
                self.pieces.push(Piece::Here(piece));
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LineCheck {
    /// The last octet; a line feed before the first one, since a line begins there too.
    last: u8,
    faulty: bool,
    eight_bit: bool,
    line_feeds: usize,
    returns: usize,
    /// Dots that begin a line.
    dots: u64,
    octets: u64,
}

impl Default for LineCheck {
    fn default() -> Self {
        Self {
            last: b'\n',
            faulty: false,
            eight_bit: false,
            line_feeds: 0,
            returns: 0,
            dots: 0,
            octets: 0,
        }
    }
}

impl LineCheck {
    fn at_line_start(self) -> bool {
        self.last == b'\n'
    }

    fn passed(self) -> Result<Self, ContentFault> {
        match !self.faulty && self.line_feeds == self.returns {
            true => Ok(self),
            false => Err(ContentFault),
        }
    }

    fn check(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else {
            return;
        };
        if self.at_line_start() && piece.first() == Some(&b'.') {
            self.dots += 1;
        }
        for place in memchr::memchr2_iter(b'\n', 0, piece) {
            let before = match place.checked_sub(1) {
                Some(before) => piece.get(before).copied(),
                None => Some(self.last),
            };
            if piece.get(place) != Some(&b'\n') || before != Some(b'\r') {
                self.faulty = true;
                break;
            }
            self.line_feeds += 1;
            if piece.get(place + 1) == Some(&b'.') {
                self.dots += 1;
            }
        }
        self.returns += memchr::memchr_iter(b'\r', piece).count();
        self.octets += piece.len() as u64;
        self.eight_bit |= !piece.is_ascii();
        self.last = *last;
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
                let content = Content::from(pieces.to_vec());
                let found = all(Framed::stuffed(&content), most);
                let expected = expected.map(str::to_owned);
                assert_eq!(
                    found, expected,
                    "{content:?} cut at {cut}, {most} at a time"
                );
            }
            let found = all(Framed::verbatim(&pieces.to_vec().into()), 1);
            assert_eq!(found, expected.map(|_| content.to_owned()), "{content:?}");
        }
    }

    #[test]
    fn a_last_line_without_its_end_gets_one_and_no_other_line_does() {
        for (octets, expected) in [
            (&b"a \t"[..], "a \t\r\n"),
            (b"a\r\n", "a\r\n"),
            (b"a\r\n\r\n", "a\r\n\r\n"),
            (b"", ""),
        ] {
            for cut in 0..=octets.len() {
                let (a, b) = octets.split_at(cut);
                let mut content = Content::from(vec![Bytes::from_static(a), Bytes::from_static(b)]);
                content.end_line();
                let found = all(Framed::verbatim(&content), 1);
                assert_eq!(found, Ok(expected.to_owned()), "{octets:?} at {cut}");
            }
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
        let mut framed = Framed::stuffed(&vec![content].into()).unwrap();
        let mut out = Vec::new();
        assert!(framed.take(&mut out, 64));
        assert!(out.len() < 70, "{}", out.len());
        assert_eq!(
            all(Ok(framed), 64).unwrap().len() + out.concat().len(),
            40_003
        );
    }

    #[test]
    fn pieces_that_are_fetched_leave_like_those_at_hand() {
        let text = b".a\r\n\r\n..\r\n.b\r\n.\r\nlast";
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            let mut content = Content::default();
            content.push_later(1, a);
            content.push_later(2, b);
            let mut framed = Framed::stuffed(&content).unwrap();
            let mut out = Vec::new();
            for (name, piece) in [(1, a), (2, b)] {
                while framed.wanted().is_none() {
                    assert!(framed.take(&mut out, 1));
                }
                assert!(framed.take(&mut out, 1));
                assert_eq!(framed.wanted(), Some(name));
                framed.supply(Bytes::from_static(piece)).unwrap();
            }
            while framed.take(&mut out, 1) {}
            let whole = Content::from(vec![Bytes::from_static(text)]);
            let expected = all(Framed::stuffed(&whole), 1).unwrap();
            assert_eq!(out.concat(), expected.as_bytes(), "cut at {cut}");
        }
    }

    #[test]
    fn a_fetched_piece_that_is_another_one_does_not_leave() {
        for other in [&b"a\r\n."[..], b"a\r\nb\r\n", b"a\nb\n\r\r", b""] {
            let mut content = Content::default();
            content.push_later(1, b"a\r\nb\r\n.");
            let mut framed = Framed::verbatim(&content).unwrap();
            assert_eq!(framed.supply(Bytes::from_static(other)), Err(ContentFault));
        }
    }
}
