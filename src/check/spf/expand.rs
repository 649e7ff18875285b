//! Macros (RFC 7208 §7.3): a name written out for one client.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::record::{DomainSpec, Piece};
use crate::check::names;

/// What macros are replaced by.
pub(super) struct Values<'a> {
    pub(super) ip: IpAddr,
    pub(super) helo: &'a str,
    pub(super) local_part: &'a str,
    pub(super) sender_domain: &'a str,
    /// The domain whose record it is.
    pub(super) domain: &'a str,
    /// The client's confirmed name, or `unknown`; asked only where the macro is used.
    pub(super) name: &'a str,
}

impl DomainSpec<'_> {
    /// Whether it names the client's confirmed name, which costs questions.
    pub(super) fn names_client(&self) -> bool {
        self.0
            .iter()
            .any(|piece| matches!(piece, Piece::Macro { letter: b'p', .. }))
    }

    /// The name, cut from the left to what a name may be long.
    pub(super) fn expand(&self, values: &Values<'_>) -> String {
        let mut name = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => name.push_str(text),
                Piece::Macro {
                    letter,
                    escaped,
                    keep,
                    reversed,
                    delimiters,
                } => {
                    let value = values.of(*letter);
                    let value = transformed(&value, *keep, *reversed, delimiters);
                    match escaped {
                        true => name.push_str(&url_escaped(&value)),
                        false => name.push_str(&value),
                    }
                }
            }
            shorten(&mut name, UNDER_WAY_MAX);
        }
        let mut name = name.strip_suffix('.').map_or(name.clone(), str::to_owned);
        shorten(&mut name, 253);
        name
    }
}

impl Values<'_> {
    fn of(&self, letter: u8) -> String {
        match letter {
            b's' => format!("{}@{}", self.local_part, self.sender_domain),
            b'l' => self.local_part.to_owned(),
            b'o' => self.sender_domain.to_owned(),
            b'd' => self.domain.to_owned(),
            b'h' => self.helo.to_owned(),
            b'p' => self.name.to_owned(),
            b'v' if self.ip.is_ipv4() => "in-addr".to_owned(),
            b'v' => "ip6".to_owned(),
            _ => match self.ip {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(_) => {
                    let nibbles = names::reversed(self.ip);
                    let nibbles: Vec<&str> = nibbles.rsplit('.').collect();
                    nibbles.join(".")
                }
            },
        }
    }
}

fn transformed(value: &str, keep: Option<usize>, reversed: bool, delimiters: &str) -> String {
    let delimiters = if delimiters.is_empty() {
        "."
    } else {
        delimiters
    };
    let mut parts: Vec<&str> = value.split(|c: char| delimiters.contains(c)).collect();
    if reversed {
        parts.reverse();
    }
    let from = parts.len().saturating_sub(keep.unwrap_or(usize::MAX));
    parts[from..].join(".")
}

fn url_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => escaped.push(char::from(b)),
            b => drop(write!(escaped, "%{b:02X}")),
        }
    }
    escaped
}

/// Takes whole labels from the left (§7.3).
fn shorten(name: &mut String, octets_max: usize) {
    if name.len() <= octets_max {
        return;
    }
    let from = name.len() - octets_max;
    // A dot is a character of its own, wherever it stands.
    let dot = name.as_bytes()[from - 1..].iter().position(|b| *b == b'.');
    let from = dot.map_or(name.len(), |dot| from + dot);
    name.drain(..from);
}

/// Of a name that is being written; only its end is used.
const UNDER_WAY_MAX: usize = 1_024;
