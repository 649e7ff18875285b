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
                self.out.push(b'\r');
            }
            match first {
                b'\r' => (self.cr, octets) = (true, rest),
                b' ' | b'\t' => (self.space, octets) = (true, rest),
                _ => {
                    self.flush_held(&mut emit);
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

const CHUNK: usize = 16 * 1_024;
