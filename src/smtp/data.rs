//! Content on the wire: dot transparency of DATA (RFC 5321 §4.5.2) and the chunks of BDAT (RFC 3030), as they come in.
//!
//! [`Decoder`] finds the end of content and what is wrong with it, without copying: it hands back slices of the input.
//! It promises that only the five octets CR LF `.` CR LF end a DATA content, wherever segments and buffers are cut, and that
//! bare CR, bare LF, NUL and endless lines are noticed; whoever accepts the content asks [`Decoder::flaw`] first. It has no
//! lenient mode: every known smuggling attack lives from one (threats-and-faults §2.1). The way out
//! is `smtp/client/content.rs`, which checks the same rules again, so that nothing relies on the reader alone.
//!
//! It does not know limits of size or what a header is.
//!
//! One `memchr3` a line is what the check costs: 10 KB in lines of 76 octets take 1.4 µs, a loop over single
//! octets 6.6 µs (release build on the two-core reference machine, content in cache).

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use memchr::memchr3;

use crate::limits::CONTENT_LINE_MAX;

/// Why content is refused. The first one found is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("a carriage return without line feed")]
    BareCr,
    #[error("a line feed without carriage return")]
    BareLf,
    #[error("a NUL octet")]
    Nul,
    #[error("a line that is too long")]
    LongLine,
}

/// What one look at the input gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Octets of the input that are done with.
    pub consumed: usize,
    /// Content among them; stuffed dots and the final dot are not.
    pub content: &'a [u8],
    /// The final dot was found. Never with chunks: their end is counted.
    pub end: bool,
}

/// Decodes one content. Flaws do not stop it: the true end has to be found before anything may be answered.
#[derive(Clone, Debug)]
pub struct Decoder {
    dots: bool,
    place: Place,
    octets: u64,
    /// Octets of the current line, without its CRLF.
    line: usize,
    eight_bit: bool,
    flaw: Option<Flaw>,
}

/// What the last octets were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// CR LF, or nothing yet: the CRLF of the DATA command counts as the first of the five octets.
    LineStart,
    Line,
    Cr,
    /// CR LF `.`; the dot is held back.
    Dot,
    /// CR LF `.` CR; both are held back.
    DotCr,
}

impl Decoder {
    /// For DATA.
    pub fn dots() -> Self {
        Self::new(true)
    }

    /// For the chunks of one BDAT transaction, in order.
    pub fn chunks() -> Self {
        Self::new(false)
    }

    fn new(dots: bool) -> Self {
        Self {
            dots,
            place: Place::LineStart,
            octets: 0,
            line: 0,
            eight_bit: false,
            flaw: None,
        }
    }

    /// Takes the next octets. Give the rest of the input again until everything is consumed or the end was found.
    /// After the end: do not call again.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Piece<'a> {
        let mut at = 0;
        // What the last call left open.
        while let Some(&octet) = input.get(at) {
            match (self.place, octet) {
                (Place::Line, _) => break,
                (Place::LineStart, b'.') if self.dots => self.place = Place::Dot,
                (Place::LineStart, _) => break,
                (Place::Dot, b'\r') => self.place = Place::DotCr,
                // RFC 5321 §4.5.2: the first of more characters than a dot is deleted.
                (Place::Dot, _) => {
                    self.place = Place::Line;
                    break;
                }
                (Place::DotCr, b'\n') => {
                    return Piece {
                        consumed: at + 1,
                        content: &[],
                        end: true,
                    };
                }
                (Place::DotCr, _) => {
                    self.note(Flaw::BareCr);
                    self.place = Place::Line;
                    break;
                }
                (Place::Cr, b'\n') => {
                    self.place = Place::LineStart;
                    self.line = 0;
                    // The line feed is content; a dot behind it may not be, so it goes out alone.
                    return self.piece(input, at, at + 1, at + 1);
                }
                (Place::Cr, _) => {
                    self.note(Flaw::BareCr);
                    self.place = Place::Line;
                    break;
                }
            }
            at += 1;
        }
        let start = at;
        let (end, consumed) = self.lines(input, start);
        self.piece(input, start, end, consumed)
    }

    /// The first flaw so far.
    pub fn flaw(&self) -> Option<Flaw> {
        self.flaw
    }

    /// The same at the end of the last chunk, where an open CR will never get its line feed.
    pub fn flaw_at_end(&self) -> Option<Flaw> {
        self.flaw
            .or_else(|| (self.place == Place::Cr).then_some(Flaw::BareCr))
    }

    /// Octets of content so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether an octet above 127 was seen.
    pub fn eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Runs over whole lines from `start`, up to the first held-back dot or the end of input.
    /// Returns where content ends and how much is consumed.
    fn lines(&mut self, input: &[u8], start: usize) -> (usize, usize) {
        let mut line_start = start;
        let mut at = start;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let Some(found) = memchr3(b'\r', b'\n', 0, rest) else {
                self.grow_line(input.len() - line_start);
                if !rest.is_empty() {
                    self.place = Place::Line;
                }
                return (input.len(), input.len());
            };
            let mark = at + found;
            match (input.get(mark), input.get(mark + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    self.grow_line(mark - line_start);
                    self.line = 0;
                    line_start = mark + 2;
                    at = line_start;
                    self.place = Place::LineStart;
                    if self.dots && input.get(at) == Some(&b'.') {
                        self.place = Place::Dot;
                        return (at, at + 1);
                    }
                }
                (Some(b'\r'), None) => {
                    self.grow_line(mark - line_start);
                    self.place = Place::Cr;
                    return (input.len(), input.len());
                }
                (octet, _) => {
                    self.note(match octet {
                        Some(b'\r') => Flaw::BareCr,
                        Some(b'\n') => Flaw::BareLf,
                        _ => Flaw::Nul,
                    });
                    self.place = Place::Line;
                    at = mark + 1;
                }
            }
        }
    }

    fn piece<'a>(
        &mut self,
        input: &'a [u8],
        start: usize,
        end: usize,
        consumed: usize,
    ) -> Piece<'a> {
        let content = input.get(start..end).unwrap_or_default();
        self.octets += content.len() as u64;
        self.eight_bit = self.eight_bit || !content.is_ascii();
        Piece {
            consumed,
            content,
            end: false,
        }
    }

    fn grow_line(&mut self, octets: usize) {
        self.line = self.line.saturating_add(octets);
        if self.line > CONTENT_LINE_MAX {
            self.note(Flaw::LongLine);
        }
    }

    fn note(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What decoding gave: content, flaw, and how many octets of the input lie behind the final dot.
    #[derive(Debug, PartialEq, Eq, Clone)]
    struct Decoded {
        content: Vec<u8>,
        flaw: Option<Flaw>,
        rest: Option<usize>,
    }

    fn decode(mut decoder: Decoder, segments: &[&[u8]]) -> Decoded {
        let mut content = Vec::new();
        let mut rest = None;
        for segment in segments {
            let mut at = 0;
            if let Some(rest) = &mut rest {
                *rest += segment.len();
                continue;
            }
            while at < segment.len() {
                let piece = decoder.next(&segment[at..]);
                assert!(piece.consumed > 0);
                content.extend_from_slice(piece.content);
                at += piece.consumed;
                if piece.end {
                    rest = Some(segment.len() - at);
                    break;
                }
            }
        }
        assert_eq!(decoder.octets(), content.len() as u64);
        Decoded {
            content,
            flaw: decoder.flaw(),
            rest,
        }
    }

    fn check(input: &[u8], content: &[u8], rest: Option<usize>, flaw: Option<Flaw>) {
        let whole = decode(Decoder::dots(), &[input]);
        if flaw.is_none() {
            assert_eq!(
                whole.content,
                content,
                "{:?}",
                String::from_utf8_lossy(input)
            );
        }
        assert_eq!((whole.flaw, whole.rest), (flaw, rest), "{input:?}");
        for cut in 0..=input.len() {
            let (a, b) = input.split_at(cut);
            assert_eq!(
                decode(Decoder::dots(), &[a, b]),
                whole,
                "{input:?} at {cut}"
            );
        }
        let octets: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(
            decode(Decoder::dots(), &octets),
            whole,
            "{input:?} by octets"
        );
    }

    #[test]
    fn only_crlf_dot_crlf_ends_content() {
        check(b".\r\n", b"", Some(0), None);
        check(b"\r\n.\r\n", b"\r\n", Some(0), None);
        check(b"a\r\n.\r\nQUIT\r\n", b"a\r\n", Some(6), None);
        check(b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n", Some(0), None);
        check(b"..a\r\n.b\r\n.\r\n", b".a\r\nb\r\n", Some(0), None);
        check(b"a.\r\n.\r\n", b"a.\r\n", Some(0), None);
        check(b"a\r\n", b"a\r\n", None, None);
        check(b"a\r\n. \r\n.\r\n", b"a\r\n \r\n", Some(0), None);
    }

    #[test]
    fn every_other_end_is_a_flaw_and_not_an_end() {
        for (end, flaw) in [
            (&b"\n.\n"[..], Flaw::BareLf),
            (b"\n.\r\n", Flaw::BareLf),
            (b"\r\n.\n", Flaw::BareLf),
            (b"\r.\r", Flaw::BareCr),
            (b"\r\n.\r", Flaw::BareCr),
            (b"\r.\r\n", Flaw::BareCr),
            (b"\r\n.\r\r\n", Flaw::BareCr),
            (b"\r\r\n.\n", Flaw::BareCr),
            (b"\0\r\n.\0\r\n", Flaw::Nul),
        ] {
            let mut input = b"a".to_vec();
            input.extend_from_slice(end);
            input.extend_from_slice(b"x\r\n.\r\n");
            check(&input, b"", Some(0), Some(flaw));
        }
    }

    #[test]
    fn a_line_over_the_limit_is_a_flaw_even_in_pieces() {
        let mut long = vec![b'x'; CONTENT_LINE_MAX];
        let fine: Vec<&[u8]> = vec![&long[..10], &long[10..], b"\r\n.\r\n"];
        assert_eq!(decode(Decoder::dots(), &fine).flaw, None);
        long.push(b'x');
        let long: Vec<&[u8]> = vec![&long[..10], &long[10..], b"\r\n.\r\n"];
        let found = decode(Decoder::dots(), &long);
        assert_eq!((found.flaw, found.rest), (Some(Flaw::LongLine), Some(0)));
    }

    #[test]
    fn chunks_keep_every_octet_and_see_flaws_across_their_edges() {
        let check = |segments: &[&[u8]], flaw| {
            let found = decode(Decoder::chunks(), segments);
            assert_eq!(found.content, segments.concat());
            assert_eq!((found.flaw, found.rest), (flaw, None), "{segments:?}");
        };
        check(&[b"a\r\n.\r\n.b\r\n"], None);
        check(&[b"a\r", b"\n.b"], None);
        check(&[b"a\r", b"b"], Some(Flaw::BareCr));
        check(&[b"a", b"\nb"], Some(Flaw::BareLf));
        let mut open = Decoder::chunks();
        open.next(b"a\r");
        assert_eq!(
            (open.flaw(), open.flaw_at_end()),
            (None, Some(Flaw::BareCr))
        );
    }

    #[test]
    fn eight_bit_content_is_noticed() {
        let mut decoder = Decoder::dots();
        decoder.next(b"plain\r\n");
        assert!(!decoder.eight_bit());
        decoder.next("ü\r\n".as_bytes());
        assert!(decoder.eight_bit());
    }
}
