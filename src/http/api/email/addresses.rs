//! Address lists as Postmark's clients write them: `Ada <ada@example.com>, "Lovelace, A." <a@example.com>`.
//!
//! Its error texts are matched by clients (reference §2.3.1): they begin with `Error parsing 'To'` or `Invalid 'To'`.

use crate::accept::compose::Addressee;
use crate::mail::{AddressError, Mailbox};

/// The addressees of a field's text, in order; empty pieces are passed over.
pub(super) fn parse(field: &str, text: &str) -> Result<Vec<Addressee>, String> {
    let pieces = split(text).into_iter();
    let pieces = pieces.filter(|piece| !piece.trim().is_empty());
    pieces.map(|piece| one(field, piece.trim())).collect()
}

/// At commas outside quotes, angle brackets and comments.
fn split(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut quoted, mut angled, mut depth) = (0, false, false, 0_usize);
    let mut escaped = false;
    for (place, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted || depth > 0 => escaped = true,
            '"' if depth == 0 => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            '<' => angled = true,
            '>' => angled = false,
            ',' | ';' if !angled => {
                pieces.push(&text[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    pieces
}

fn one(field: &str, piece: &str) -> Result<Addressee, String> {
    let (name, address) = match bracket(piece) {
        Some(at) => {
            let address = piece[at + 1..].trim_end();
            (&piece[..at], address.strip_suffix('>').unwrap_or(address))
        }
        None => ("", piece),
    };
    let address = address.trim();
    let mailbox = Mailbox::parse(address, true).map_err(|error| {
        let shown = shown(address);
        match (error, address.rsplit_once('@')) {
            (_, None) => format!(
                "Error parsing '{field}': Illegal email address '{shown}'. It must contain the '@' symbol."
            ),
            (AddressError::Domain, Some((_, domain))) => format!(
                "Error parsing '{field}': Illegal email domain '{}' in address '{shown}'.",
                self::shown(domain)
            ),
            (_, Some((local, _))) => format!(
                "Error parsing '{field}': Illegal email mailbox '{}' in address '{shown}'.",
                self::shown(local)
            ),
        }
    })?;
    // Mail for nobody in particular: a name without a dot, or an address of a host.
    if mailbox.domain().literal().is_some() || !mailbox.domain().as_str().contains('.') {
        return Err(format!("Invalid '{field}' address: '{}'.", shown(address)));
    }
    Ok(Addressee {
        name: unquoted(name),
        mailbox,
    })
}

/// Where the address begins that ends the piece, outside quotes.
fn bracket(piece: &str) -> Option<usize> {
    let (mut quoted, mut escaped, mut found) = (false, false, None);
    for (place, c) in piece.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => found = Some(place),
            _ => {}
        }
    }
    found.filter(|_| piece.trim_end().ends_with('>'))
}

/// A display name without its quotes.
fn unquoted(name: &str) -> String {
    let name = name.trim();
    let Some(inner) = name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) else {
        return name.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}

/// As much as an answer repeats, without control characters.
pub(super) fn shown(text: &str) -> String {
    let tame = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(SHOWN_MAX).map(tame).collect()
}

/// Characters.
const SHOWN_MAX: usize = 320;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let found = parse("To", text).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|a| (a.name.as_str(), a.mailbox.as_str()))
            .collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn lists_are_read_as_clients_write_them() {
        check("ada@example.com", &[("", "ada@example.com")]);
        check("<ada@example.com>", &[("", "ada@example.com")]);
        check(
            " Ada <ada@example.com> , bo@example.com,",
            &[("Ada", "ada@example.com"), ("", "bo@example.com")],
        );
        check(
            r#""Lovelace, \"A\" <x>" <ada@example.com>"#,
            &[(r#"Lovelace, "A" <x>"#, "ada@example.com")],
        );
        check(
            "Zoë Ångström <z@example.com>",
            &[("Zoë Ångström", "z@example.com")],
        );
        check(
            "a@b.example <c@d.example>",
            &[("a@b.example", "c@d.example")],
        );
        check("zoë@bücher.example", &[("", "zoë@bücher.example")]);
        check("", &[]);
        check(" , ;", &[]);
    }

    #[test]
    fn a_wrong_address_is_told_in_the_words_that_clients_match() {
        let bad = |text: &str, expected: &str| {
            assert_eq!(parse("To", text).unwrap_err(), expected, "{text:?}");
        };
        bad(
            "World",
            "Error parsing 'To': Illegal email address 'World'. It must contain the '@' symbol.",
        );
        // A comma in a name without quotes.
        bad(
            "Doe, Jane <jane@example.com>",
            "Error parsing 'To': Illegal email address 'Doe'. It must contain the '@' symbol.",
        );
        bad(
            "ada@example.com.",
            "Error parsing 'To': Illegal email domain 'example.com.' in address 'ada@example.com.'.",
        );
        bad(
            "a..b@example.com",
            "Error parsing 'To': Illegal email mailbox 'a..b' in address 'a..b@example.com'.",
        );
        bad(
            "invalid@localhost",
            "Invalid 'To' address: 'invalid@localhost'.",
        );
        bad("a@[192.0.2.1]", "Invalid 'To' address: 'a@[192.0.2.1]'.");
        for hostile in [
            "a@example.com\r\nBcc: b@example.com",
            "<a@example.com> b@example.com>",
            "a@example.com b@example.com",
            "<a@example.com",
            "a@exa\0mple.com",
        ] {
            assert!(parse("To", hostile).is_err(), "{hostile:?}");
        }
    }
}
