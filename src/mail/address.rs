//! Mailboxes and paths of RFC 5321 §4.1.2, parsed once at the edge.
//!
//! A [`Domain`] is a key: lower case, A-labels, so that equal domains compare equal. A path keeps the text that the client
//! gave, because the local-part belongs to the remote host (RFC 5321 §2.4) and is never changed.

use std::fmt;
use std::sync::Arc;

use unicode_normalization::UnicodeNormalization;

/// A domain as A-labels in lower case (RFC 5891), or an address literal (`[192.0.2.1]`, `[IPv6:2001:db8::1]`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Takes a domain name or an address literal, in any case, with A-labels or U-labels.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(AddressError::Domain)?;
            return literal_address(inner)
                .map(|ip| Self(literal_text(ip).into()))
                .ok_or(AddressError::Domain);
        }
        if text.is_ascii() {
            check_labels(text)?;
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::Domain)?;
        check_labels(&ascii)?;
        Ok(Self(ascii.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, when this is an address literal.
    pub fn literal(&self) -> Option<std::net::IpAddr> {
        literal_address(self.0.strip_prefix('[')?.strip_suffix(']')?)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 5321 §2.3.11: local-part and domain. Keeps the given text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    text: Arc<str>,
    at: usize,
    domain: Domain,
}

impl Mailbox {
    /// Takes `local-part@domain` without angle brackets. `smtputf8` says whether the transaction declared SMTPUTF8 (RFC 6531).
    pub fn parse(text: &str, smtputf8: bool) -> Result<Self, AddressError> {
        Self::parse_within(text, smtputf8, LOCAL_PART_OCTETS_MAX)
    }

    fn parse_within(text: &str, smtputf8: bool, local_max: usize) -> Result<Self, AddressError> {
        if !text.is_ascii() {
            check_utf8(text, smtputf8)?;
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(AddressError::Syntax);
        }
        let at = split_local_part(text)?;
        let (local, domain) = (&text[..at], &text[at + 1..]);
        if local.len() > local_max {
            return Err(AddressError::LocalPartTooLong);
        }
        Ok(Self {
            domain: Domain::parse(domain)?,
            text: text.into(),
            at,
        })
    }

    /// As given by the client.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As given, quotes included.
    pub fn local_part(&self) -> &str {
        &self.text[..self.at]
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether relaying it needs SMTPUTF8: only the local-part counts, since the domain can go out as A-labels.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local_part().is_ascii()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The argument of MAIL: a mailbox, or null for notices (RFC 5321 §4.5.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    Null,
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Takes the text between the angle brackets.
    pub fn parse(text: &str, smtputf8: bool) -> Result<Self, AddressError> {
        match text {
            "" => Ok(Self::Null),
            _ => refuse_source_route(text)
                .and_then(|()| Mailbox::parse(text, smtputf8))
                .map(Self::Mailbox),
        }
    }

    /// Without angle brackets; empty when null.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Mailbox(mailbox) => mailbox.as_str(),
        }
    }
}

/// The argument of RCPT: one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardPath(Mailbox);

impl ForwardPath {
    /// Takes the text between the angle brackets. The percent hack and `!` paths are ordinary local-parts: never routed.
    pub fn parse(text: &str, smtputf8: bool) -> Result<Self, AddressError> {
        // RFC 5321 §4.5.1: `postmaster` without a domain is the receiving host's own; a submission server has no mailboxes,
        // so it is refused like any address without a domain.
        refuse_source_route(text)?;
        Mailbox::parse(text, smtputf8).map(Self)
    }

    /// Where mail comes back: forwarders write a whole address into the local-part of theirs (SRS), which makes ours longer than 64
    /// octets. RFC 5321 §4.5.3.1 asks for no limit where none is needed.
    pub fn parse_returned(text: &str, smtputf8: bool) -> Result<Self, AddressError> {
        refuse_source_route(text)?;
        Mailbox::parse_within(text, smtputf8, RETURNED_OCTETS_MAX).map(Self)
    }

    pub fn mailbox(&self) -> &Mailbox {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn domain(&self) -> &Domain {
        self.0.domain()
    }
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the address is malformed")]
    Syntax,
    #[error("the address has no domain")]
    NoDomain,
    #[error("the domain is malformed")]
    Domain,
    #[error("the local-part is longer than 64 octets")]
    LocalPartTooLong,
    #[error("source routes are not accepted")]
    SourceRoute,
    #[error("a non-ASCII address needs SMTPUTF8")]
    NeedsSmtpUtf8,
    #[error("the address has characters that SMTPUTF8 does not allow")]
    BadUnicode,
}

/// RFC 5321 §4.5.3.1.1.
const LOCAL_PART_OCTETS_MAX: usize = 64;
/// Two domains, what stands between them, and an address of ours.
const RETURNED_OCTETS_MAX: usize = 640;
/// RFC 5321 §4.5.3.1.2.
const DOMAIN_OCTETS_MAX: usize = 255;
/// RFC 1035 §2.3.4.
const LABEL_OCTETS_MAX: usize = 63;

// RFC 5321 §4.1.1.3 lets us ignore or refuse source routes; threats-and-faults §2.1 refuses.
fn refuse_source_route(text: &str) -> Result<(), AddressError> {
    if text.starts_with('@') {
        Err(AddressError::SourceRoute)
    } else {
        Ok(())
    }
}

fn check_utf8(text: &str, smtputf8: bool) -> Result<(), AddressError> {
    if !smtputf8 {
        return Err(AddressError::NeedsSmtpUtf8);
    }
    // RFC 6531 §3.3 and RFC 6532 §3.1: NFC; no control, bidi or zero-width characters, which would make two addresses look alike.
    let forbidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}' | '\u{61c}' | '\u{fff9}'..='\u{fffb}')
    };
    if text.chars().any(forbidden) || text.nfc().ne(text.chars()) {
        return Err(AddressError::BadUnicode);
    }
    Ok(())
}

/// RFC 5321 §4.1.2: a dot-string or a quoted-string, then the only `@` that counts. Returns the place of that `@`.
fn split_local_part(text: &str) -> Result<usize, AddressError> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut escaped = false;
        for (place, c) in quoted.char_indices() {
            match (escaped, c) {
                (true, _) => escaped = false,
                (false, '\\') => escaped = true,
                (false, '"') => {
                    // Behind the closing quote: one octet for the opening quote, one for this one.
                    let at = place + 2;
                    return match text.as_bytes().get(at) {
                        Some(b'@') => Ok(at),
                        None => Err(AddressError::NoDomain),
                        Some(_) => Err(AddressError::Syntax),
                    };
                }
                (false, _) => {}
            }
        }
        return Err(AddressError::Syntax);
    }
    let at = text.find('@').ok_or(AddressError::NoDomain)?;
    let atoms_are_sound = text[..at]
        .split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
    if atoms_are_sound {
        Ok(at)
    } else {
        Err(AddressError::Syntax)
    }
}

/// RFC 5322 §3.2.3, with RFC 6531 §3.3.
fn is_atext(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

fn check_labels(ascii: &str) -> Result<(), AddressError> {
    let sound = |label: &str| {
        (1..=LABEL_OCTETS_MAX).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if ascii.len() <= DOMAIN_OCTETS_MAX && ascii.split('.').all(sound) {
        Ok(())
    } else {
        Err(AddressError::Domain)
    }
}

/// RFC 5321 §4.1.3.
fn literal_address(inner: &str) -> Option<std::net::IpAddr> {
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            inner[5..].parse().ok().map(std::net::IpAddr::V6)
        }
        _ => inner.parse().ok().map(std::net::IpAddr::V4),
    }
}

fn literal_text(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(ip) => format!("[{ip}]"),
        std::net::IpAddr::V6(ip) => format!("[ipv6:{ip}]"),
    }
}

/// Whether a text can be the selector of a DKIM key (RFC 6376 §3.1): labels as in a host's name.
pub fn is_selector(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 200 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, &str), AddressError>) {
        let found = Mailbox::parse(text, true);
        let found = found
            .as_ref()
            .map(|m| (m.local_part(), m.domain().as_str()))
            .map_err(|e| *e);
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn a_mailbox_is_split_at_the_at_that_counts() {
        check("ada@Example.COM", Ok(("ada", "example.com")));
        check(
            "\"a@b\\\" c\"@example.com",
            Ok(("\"a@b\\\" c\"", "example.com")),
        );
        check("a%b@example.com", Ok(("a%b", "example.com")));
        check("ada@[192.0.2.1]", Ok(("ada", "[192.0.2.1]")));
        check("ada@[IPv6:2001:DB8::1]", Ok(("ada", "[ipv6:2001:db8::1]")));
        check(
            "jürgen@bücher.example",
            Ok(("jürgen", "xn--bcher-kva.example")),
        );
    }

    #[test]
    fn an_odd_address_is_refused_with_its_reason() {
        check("ada", Err(AddressError::NoDomain));
        check("", Err(AddressError::NoDomain));
        check("a@b@example.com", Err(AddressError::Domain));
        check("a..b@example.com", Err(AddressError::Syntax));
        check(".a@example.com", Err(AddressError::Syntax));
        check("a b@example.com", Err(AddressError::Syntax));
        check("a<b@example.com", Err(AddressError::Syntax));
        check("a\u{1}b@example.com", Err(AddressError::Syntax));
        check("\"a\u{0}\"@example.com", Err(AddressError::Syntax));
        check("a@example..com", Err(AddressError::Domain));
        check("a@-example.com", Err(AddressError::Domain));
        check("a@", Err(AddressError::Domain));
        check("a@[300.1.1.1]", Err(AddressError::Domain));
        check(
            &format!("{}@example.com", "a".repeat(65)),
            Err(AddressError::LocalPartTooLong),
        );
        check(
            &format!("a@{}.com", "b".repeat(64)),
            Err(AddressError::Domain),
        );
        check(
            &format!("a@{}com", "b.".repeat(127)),
            Err(AddressError::Domain),
        );
        check("a\u{202e}b@example.com", Err(AddressError::BadUnicode));
        check("a\u{200b}b@example.com", Err(AddressError::BadUnicode));
        check("e\u{301}@example.com", Err(AddressError::BadUnicode));
    }

    #[test]
    fn a_non_ascii_address_needs_smtputf8() {
        assert_eq!(
            Mailbox::parse("jürgen@example.com", false).unwrap_err(),
            AddressError::NeedsSmtpUtf8
        );
        assert!(
            !Mailbox::parse("ada@bücher.example", true)
                .unwrap()
                .needs_smtputf8()
        );
    }

    #[test]
    fn paths_refuse_source_routes_and_only_the_reverse_path_may_be_null() {
        assert_eq!(ReversePath::parse("", false), Ok(ReversePath::Null));
        assert_eq!(ForwardPath::parse("", false), Err(AddressError::NoDomain));
        assert_eq!(
            ForwardPath::parse("@a.example:b@c.example", false),
            Err(AddressError::SourceRoute)
        );
    }

    #[test]
    fn only_what_comes_back_may_have_a_longer_local_part() {
        let long = |n: usize| format!("{}@example.com", "a".repeat(n));
        let refused = Err(AddressError::LocalPartTooLong);
        assert_eq!(ForwardPath::parse(&long(65), false), refused);
        assert!(ForwardPath::parse_returned(&long(640), false).is_ok());
        assert_eq!(ForwardPath::parse_returned(&long(641), false), refused);
    }

    #[test]
    fn a_literal_gives_its_address() {
        let domain = Domain::parse("[IPv6:2001:db8::1]").unwrap();
        assert_eq!(domain.literal(), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(Domain::parse("example.com").unwrap().literal(), None);
    }
}
