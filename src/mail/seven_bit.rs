//! Content for hosts that take seven bits only: what is 8-bit in it becomes quoted-printable or base64 (RFC 6152 §3).
//!
//! Promises: the result is ASCII; decoded it is what was given, octet for octet; parts that are ASCII already, and every
//! header field but Content-Transfer-Encoding, stay as they are; the same content always gives the same result, so that a
//! signature of it can be used again. What cannot be changed without harm is refused with the reason.
//! Deliberately does not know who asks for it. Linear in the content for each level of nesting; those are bounded.
//!
//! Why over the octets and not by parsing and building: a builder writes a message that means the same; signatures that
//! others made inside it, and whoever compares, want the same message.

mod encode;
mod media;

use super::header::{Field, Section};
use super::mime::{Delimiter, Delimiters, MediaType};
use encode::{base64, is_better_as_base64, quoted_printable};
use media::{Encoding, Treatment};

/// Why content stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSevenBit {
    // RFC 2047 and 2231 would express most of it, but which field may be rewritten how is its author's to decide.
    #[error("a header field holds 8-bit octets, which need SMTPUTF8")]
    Header,
    // RFC 1847 §2.1: what is signed has to be seven bits from the start.
    #[error("a signed part is 8-bit, and would not verify any more")]
    Signed,
    // RFC 2046 §5.2.2 and §5.2.3.
    #[error("a part of type message/partial or message/external-body is 8-bit")]
    Fragment,
    #[error("a part that says quoted-printable, base64 or something unknown of itself is 8-bit")]
    Encoding,
    #[error("a part has two Content-Type or two Content-Transfer-Encoding fields")]
    Ambiguous,
    #[error("its MIME structure is broken")]
    Structure,
    #[error("its parts are nested too deeply")]
    Depth,
    #[error("it is too long to be re-encoded")]
    Length,
}

/// The content in seven bits. `depth_max`: of parts within parts.
pub fn to_seven_bit(content: &[u8], depth_max: usize) -> Result<Vec<u8>, NotSevenBit> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 4);
    let around = Surroundings {
        is_message: true,
        in_digest: false,
        levels_left: depth_max,
    };
    entity(content, &around, &mut out)?;
    // Base64 has lost the last line's end, which here nothing else follows.
    if content.ends_with(b"\r\n") && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    debug_assert!(out.is_ascii());
    Ok(out)
}

/// Where an entity stands.
#[derive(Clone, Copy)]
struct Surroundings {
    /// It is a message of its own: it says MIME-Version.
    is_message: bool,
    /// RFC 2046 §5.1.5: what it is without a Content-Type.
    in_digest: bool,
    levels_left: usize,
}

impl Surroundings {
    fn below(&self, is_message: bool, in_digest: bool) -> Result<Self, NotSevenBit> {
        let levels_left = self.levels_left.checked_sub(1).ok_or(NotSevenBit::Depth)?;
        Ok(Self {
            is_message,
            in_digest,
            levels_left,
        })
    }
}

/// One message or body part.
fn entity(octets: &[u8], around: &Surroundings, out: &mut Vec<u8>) -> Result<(), NotSevenBit> {
    if octets.is_ascii() {
        out.extend_from_slice(octets);
        return Ok(());
    }
    let section =
        Section::parse(octets, usize::MAX, usize::MAX).map_err(|_| NotSevenBit::Structure)?;
    let (header, body) = octets.split_at(section.end());
    if !header.is_ascii() {
        return Err(NotSevenBit::Header);
    }
    if !section.is_terminated() {
        return Err(NotSevenBit::Structure);
    }
    let content_type = only(&section, "Content-Type")?;
    let given = only(&section, "Content-Transfer-Encoding")?;
    let encoding = given.map_or(Encoding::SevenBit, |field| {
        Encoding::of(&section.value(field))
    });
    if encoding == Encoding::Other {
        return Err(NotSevenBit::Encoding);
    }
    let treatment = match content_type {
        Some(field) => Treatment::of(&MediaType::of(&section.value(field))),
        None => Treatment::without(around.in_digest),
    };
    let mut head = Head {
        section: &section,
        given,
        out,
    };
    match treatment {
        Treatment::Signed => Err(NotSevenBit::Signed),
        Treatment::Fragment => Err(NotSevenBit::Fragment),
        Treatment::Multipart { boundary, digest } => {
            head.write("7bit", &[]);
            let boundary = boundary.ok_or(NotSevenBit::Structure)?;
            multipart(body, &boundary, &around.below(false, digest)?, out)
        }
        Treatment::Message => {
            head.write("7bit", &[]);
            entity(body, &around.below(true, false)?, out)
        }
        Treatment::Leaf => {
            let mut more = Vec::new();
            if around.is_message && section.first("MIME-Version").is_none() {
                more.push("MIME-Version: 1.0\r\n");
            }
            if content_type.is_none() {
                // RFC 1428 §3: what nobody has said anything of.
                more.push(match std::str::from_utf8(body) {
                    Ok(_) => "Content-Type: text/plain; charset=utf-8\r\n",
                    Err(_) => "Content-Type: text/plain; charset=unknown-8bit\r\n",
                });
            }
            if is_better_as_base64(body) {
                head.write("base64", &more);
                base64(body, out);
            } else {
                head.write("quoted-printable", &more);
                quoted_printable(body, out);
            }
            Ok(())
        }
    }
}

/// The one field of that name, if there is one.
fn only<'s>(
    section: &'s Section<'_>,
    name: &'static str,
) -> Result<Option<&'s Field>, NotSevenBit> {
    let mut found = section.named(name);
    let first = found.next();
    match found.next() {
        // Readers differ in which one they believe.
        Some(_) => Err(NotSevenBit::Ambiguous),
        None => Ok(first),
    }
}

/// A header section on its way out.
struct Head<'a, 'o> {
    section: &'a Section<'a>,
    /// Its Content-Transfer-Encoding.
    given: Option<&'a Field>,
    out: &'o mut Vec<u8>,
}

impl Head<'_, '_> {
    /// All fields, `more` behind them, and this encoding; of composite parts, whose only encoding now is none, an absent field
    /// says so.
    fn write(&mut self, encoding: &str, more: &[&str]) {
        let field = format!("Content-Transfer-Encoding: {encoding}\r\n");
        for found in self.section.fields() {
            match self.given == Some(found) {
                true => self.out.extend_from_slice(field.as_bytes()),
                false => self.out.extend_from_slice(self.section.octets_of(found)),
            }
        }
        for line in more {
            self.out.extend_from_slice(line.as_bytes());
        }
        if self.given.is_none() && encoding != "7bit" {
            self.out.extend_from_slice(field.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

fn multipart(
    body: &[u8],
    boundary: &str,
    around: &Surroundings,
    out: &mut Vec<u8>,
) -> Result<(), NotSevenBit> {
    let mut delimiters = Delimiters::new(body, boundary);
    let mut delimiter = delimiters.next().ok_or(NotSevenBit::Structure)?;
    unread(&body[..delimiter.start], out);
    loop {
        out.extend_from_slice(&body[delimiter.start..delimiter.end]);
        if delimiter.closes {
            unread(&body[delimiter.end..], out);
            return Ok(());
        }
        // Without a last delimiter the last part goes to the end, as readers take it.
        let missing = || Delimiter {
            start: body.len(),
            end: body.len(),
            closes: true,
        };
        let next = delimiters.next().unwrap_or_else(missing);
        // RFC 2046 §5.1.1: the line end in front of a delimiter is the delimiter's.
        let line_end = match next.start == next.end {
            true => next.start,
            false => next.start.saturating_sub(2).max(delimiter.end),
        };
        entity(&body[delimiter.end..line_end], around, out)?;
        out.extend_from_slice(&body[line_end..next.start]);
        delimiter = next;
    }
}

/// Preamble and epilogue: readers ignore them (RFC 2046 §5.1.1), so there is no encoding for them either.
fn unread(octets: &[u8], out: &mut Vec<u8>) {
    out.extend(octets.iter().map(|&b| if b.is_ascii() { b } else { b'?' }));
}

#[cfg(test)]
mod tests;
