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
        while let Some((&first, rest)) = octets.split_first() {
            if self.cr {
                self.cr = false;
                if first == b'\n' {
                    (self.lines, self.space) = (self.lines + 1, false);
                    octets = rest;
                    continue;
                }
                // A bare CR: such content does not leave.
                self.flush_held(&mut emit);
                self.put(b"\r", &mut emit);
            }
            let is_white = matches!(first, b' ' | b'\t');
            let next = rest.first().copied().unwrap_or(b' ');
            octets = match first {
                b'\r' => {
                    self.cr = true;
                    rest
                }
                _ if is_white && (self.space || is_loose(first, next)) => {
                    self.space = true;
                    rest
                }
                _ => self.take(octets, &mut emit),
            };
        }
    }

    /// What is its own canonical form, up to white space that is not. Most of most mail is, and is not copied.
    fn take<'o>(&mut self, octets: &'o [u8], emit: &mut impl FnMut(&[u8])) -> &'o [u8] {
        let (mut text, rest) = octets.split_at(first_loose(octets));
        self.flush_held(emit);
        if rest.is_empty()
            && let Some(shorter) = text.strip_suffix(b"\r")
        {
            (text, self.cr) = (shorter, true);
        }
        while let Some(shorter) = text.strip_suffix(b"\r\n") {
            (text, self.lines) = (shorter, self.lines + 1);
        }
        self.put(text, emit);
        rest
    }

    fn put(&mut self, octets: &[u8], emit: &mut impl FnMut(&[u8])) {
        if octets.len() < COPIED {
            self.out.extend_from_slice(octets);
        }
        if self.out.len() >= CHUNK || octets.len() >= COPIED {
            emit(&self.out);
            self.out.clear();
        }
        if octets.len() >= COPIED {
            emit(octets);
        }
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

/// White space that is not in canonical form: a tab, or a blank before white space or at the end of a line.
fn is_loose(octet: u8, next: u8) -> bool {
    let before = (next == b' ') | (next == b'\t') | (next == b'\r');
    (octet == b'\t') | ((octet == b' ') & before)
}

/// Where the first of it stands; a blank at the end counts, for what follows is not known. Of a block all octets are looked at,
/// whatever the first of them is: so the compiler takes many at once.
fn first_loose(octets: &[u8]) -> usize {
    let mut at = 0;
    while let Some(block) = octets.get(at..at + BLOCK + 1) {
        let pairs = block.iter().zip(&block[1..]);
        let loose = pairs.fold(0, |loose, (a, b)| loose | u8::from(is_loose(*a, *b)));
        if loose != 0 {
            break;
        }
        at += BLOCK;
    }
    let rest = &octets[at..];
    let loose = rest.windows(2).position(|pair| is_loose(pair[0], pair[1]));
    let last = || rest.last().is_some_and(|&last| is_loose(last, b' '));
    let found = loose.or_else(|| last().then(|| rest.len() - 1));
    found.map_or(octets.len(), |place| at + place)
}

const BLOCK: usize = 16;
/// What is shorter is cheaper to copy than to hash by itself.
const COPIED: usize = 512;
const CHUNK: usize = 16 * 1_024;
