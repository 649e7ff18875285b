//! Relaxed canonical forms (RFC 6376 §3.4.2 and §3.4.4).

use crate::mail::header::Field;

/// A field as it stands in its section, without its last CRLF.
pub(super) fn octets_of_field<'a>(header: &'a [u8], field: &Field) -> &'a [u8] {
    let octets = header.get(field.octets.clone()).unwrap_or_default();
    octets.strip_suffix(b"\r\n").unwrap_or(octets)
}

/// Appends the canonical form of one field, without CRLF: lower-case name, unfolded, white space reduced.
pub(super) fn field(octets: &[u8], out: &mut Vec<u8>) {
    let colon = memchr::memchr(b':', octets).unwrap_or(octets.len());
    let (name, value) = octets.split_at(colon);
    out.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let mut space = false;
    let mut empty = true;
    for &octet in value.get(1..).unwrap_or_default() {
        match octet {
            b' ' | b'\t' => space = true,
            b'\r' | b'\n' => {}
            _ => {
                if space && !empty {
                    out.push(b' ');
                }
                out.push(octet);
                (space, empty) = (false, false);
            }
        }
    }
}

/// The canonical form of a body, made piece by piece: white space and line ends are held back until something follows.
#[derive(Default)]
pub(super) struct Body {
    /// Line ends since the last octet that counts.
    lines: u64,
    space: bool,
    /// The last octet was CR.
    cr: bool,
    /// Something has counted.
    begun: bool,
    out: Vec<u8>,
}

impl Body {
    pub(super) fn update(&mut self, mut octets: &[u8], mut emit: impl FnMut(&[u8])) {
        while !octets.is_empty() {
            octets = self.take_as_they_are(octets, &mut emit);
            octets = self.take_line(octets, &mut emit);
        }
    }

    /// Lines that are their own canonical form, which most are, without looking at each octet by itself or copying one.
    fn take_as_they_are<'o>(&mut self, octets: &'o [u8], emit: &mut impl FnMut(&[u8])) -> &'o [u8] {
        if self.cr || self.space {
            return octets;
        }
        let (same, rest) = octets.split_at(canonical_lines(octets));
        let mut text = same;
        let mut lines = 0;
        while let Some(shorter) = text.strip_suffix(b"\r\n") {
            (text, lines) = (shorter, lines + 1);
        }
        if !text.is_empty() {
            self.flush_held(emit);
            emit(&self.out);
            self.out.clear();
            emit(text);
        }
        self.lines += lines;
        rest
    }

    /// Up to the end of a line, or to where there is no more.
    fn take_line<'o>(&mut self, mut octets: &'o [u8], emit: &mut impl FnMut(&[u8])) -> &'o [u8] {
        while let Some((&first, rest)) = octets.split_first() {
            if self.cr {
                self.cr = false;
                if first == b'\n' {
                    (self.lines, self.space) = (self.lines + 1, false);
                    return rest;
                }
                // A bare CR: such content does not leave.
                self.out.push(b'\r');
            }
            match first {
                b'\r' => (self.cr, octets) = (true, rest),
                b' ' | b'\t' => (self.space, octets) = (true, rest),
                _ => {
                    self.flush_held(emit);
                    let run = memchr::memchr3(b' ', b'\t', b'\r', octets).unwrap_or(octets.len());
                    let (run, rest) = octets.split_at(run);
                    self.out.extend_from_slice(run);
                    octets = rest;
                }
            }
            if self.out.len() >= CHUNK {
                emit(&self.out);
                self.out.clear();
            }
        }
        octets
    }

    fn flush_held(&mut self, emit: &mut impl FnMut(&[u8])) {
        for _ in 0..self.lines {
            self.out.extend_from_slice(b"\r\n");
            if self.out.len() >= CHUNK {
                emit(&self.out);
                self.out.clear();
            }
        }
        if self.space {
            self.out.push(b' ');
        }
        (self.lines, self.space, self.begun) = (0, false, true);
    }

    /// Empty lines at the end do not count; a last line without its end gets one; an empty body stays empty.
    pub(super) fn finish(mut self, mut emit: impl FnMut(&[u8])) {
        if self.begun {
            self.out.extend_from_slice(b"\r\n");
        }
        emit(&self.out);
    }
}

/// How many octets at the beginning are whole lines in canonical form.
fn canonical_lines(octets: &[u8]) -> usize {
    let mut end = 0;
    for feed in memchr::memchr_iter(b'\n', octets) {
        match octets[end..feed].strip_suffix(b"\r") {
            Some(line) if is_canonical(line) => end = feed + 1,
            _ => break,
        }
    }
    end
}

/// Of a line without its end. Every octet is looked at, whatever those before it are: so the compiler takes many at once.
fn is_canonical(line: &[u8]) -> bool {
    let alone = line.iter().fold(false, |bad, &octet| {
        bad | (octet == b'\t') | (octet == b'\r')
    });
    let pairs = line.iter().zip(line.get(1..).unwrap_or_default());
    let doubled = pairs.fold(false, |bad, (&a, &b)| bad | ((a == b' ') & (b == b' ')));
    !alone && !doubled && line.last() != Some(&b' ')
}

const CHUNK: usize = 16 * 1_024;
