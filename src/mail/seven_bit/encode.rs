//! Quoted-printable (RFC 2045 §6.7) and base64 (§6.8) of whole bodies.

use base64::prelude::{BASE64_STANDARD, Engine};

/// Quoted-printable takes three octets for one that it escapes, base64 four for three; where they take about as many the former can
/// be read by people.
pub(super) fn is_better_as_base64(body: &[u8]) -> bool {
    let escaped = body
        .iter()
        .filter(|&&b| !is_plain(b) && !matches!(b, b'\r' | b'\n'));
    escaped.count() > body.len() / 4
}

/// Line ends stay line ends.
pub(super) fn quoted_printable(body: &[u8], out: &mut Vec<u8>) {
    let mut rest = body;
    while !rest.is_empty() {
        let (line, behind, ends) = match memchr::memmem::find(rest, b"\r\n") {
            Some(place) => (&rest[..place], &rest[place + 2..], true),
            None => (rest, &rest[..0], false),
        };
        let mut column = 0;
        for (place, &b) in line.iter().enumerate() {
            let is_last = place + 1 == line.len();
            let literal = is_plain(b) && !(is_last && matches!(b, b' ' | b'\t'));
            let width = if literal { 1 } else { 3 };
            // The last column is for the soft line end, unless none can follow.
            if column + width > LINE - usize::from(!is_last) {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            column += width;
            match literal {
                true => out.push(b),
                false => out.extend([b'=', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
            }
        }
        if ends {
            out.extend_from_slice(b"\r\n");
        }
        rest = behind;
    }
}

/// Without a line end at its end.
pub(super) fn base64(body: &[u8], out: &mut Vec<u8>) {
    for (index, chunk) in body.chunks(LINE / 4 * 3).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        let start = out.len();
        out.resize(start + chunk.len().div_ceil(3) * 4, 0);
        // The room is what it takes.
        let written = BASE64_STANDARD.encode_slice(chunk, &mut out[start..]);
        debug_assert_eq!(written.ok(), Some(out.len() - start));
    }
}

fn is_plain(b: u8) -> bool {
    matches!(b, b'\t' | b' '..=b'~') && b != b'='
}

const LINE: usize = 76;
const HEX: &[u8; 16] = b"0123456789ABCDEF";
