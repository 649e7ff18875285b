//! A record, term by term (RFC 7208 §4.6, §12). One that is wrong anywhere is wrong as a whole.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A record as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SpfRecord<'a> {
    pub(super) terms: Vec<Term<'a>>,
    pub(super) redirect: Option<DomainSpec<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Term<'a> {
    pub(super) qualifier: Qualifier,
    pub(super) mechanism: Mechanism<'a>,
    /// As it stands in the record.
    pub(super) text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Qualifier {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mechanism<'a> {
    All,
    Include(DomainSpec<'a>),
    A(Option<DomainSpec<'a>>, Prefixes),
    Mx(Option<DomainSpec<'a>>, Prefixes),
    Ptr(Option<DomainSpec<'a>>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(DomainSpec<'a>),
}

/// Lengths of the networks around an address that count as it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefixes {
    pub(super) v4: u8,
    pub(super) v6: u8,
}

/// A name with macros in it (§7).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DomainSpec<'a>(pub(super) Vec<Piece<'a>>);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Literal(&'a str),
    Macro {
        /// In lower case.
        letter: u8,
        /// The letter was a capital one: the value is escaped as in URLs.
        escaped: bool,
        /// How many parts are kept, from the right.
        keep: Option<usize>,
        reversed: bool,
        delimiters: &'a str,
    },
}

impl<'a> SpfRecord<'a> {
    /// `Err`: the term that cannot be read.
    pub(super) fn parse(text: &'a str) -> Result<Self, &'a str> {
        let mut record = Self {
            terms: Vec::new(),
            redirect: None,
        };
        let mut explained = false;
        for term in text.split(' ').skip(1).filter(|term| !term.is_empty()) {
            let Some((name, value)) = modifier(term) else {
                record.terms.push(mechanism(term).ok_or(term)?);
                continue;
            };
            // §6: these two must not be there twice; others are read and let be.
            if name.eq_ignore_ascii_case("redirect") {
                let target = DomainSpec::parse(value).ok_or(term)?;
                if record.redirect.replace(target).is_some() {
                    return Err(term);
                }
            } else if name.eq_ignore_ascii_case("exp") {
                DomainSpec::parse(value).ok_or(term)?;
                if std::mem::replace(&mut explained, true) {
                    return Err(term);
                }
            } else {
                pieces(value).ok_or(term)?;
            }
        }
        Ok(record)
    }
}

/// `name=value`; mechanisms have no `=` behind their name.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    (begins && name.bytes().all(sound)).then_some((name, value))
}

fn mechanism(text: &str) -> Option<Term<'_>> {
    let (qualifier, rest) = match text.as_bytes().first()? {
        b'+' => (Qualifier::Pass, &text[1..]),
        b'-' => (Qualifier::Fail, &text[1..]),
        b'~' => (Qualifier::SoftFail, &text[1..]),
        b'?' => (Qualifier::Neutral, &text[1..]),
        _ => (Qualifier::Pass, text),
    };
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, value) = rest.split_at(end);
    let named = value.strip_prefix(':');
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" if value.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(DomainSpec::parse(named?)?),
        "exists" => Mechanism::Exists(DomainSpec::parse(named?)?),
        "ptr" if value.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(DomainSpec::parse(named?)?)),
        name @ ("a" | "mx") => {
            let (value, prefixes) = prefixes(value)?;
            let domain = match value {
                "" => None,
                value => Some(DomainSpec::parse(value.strip_prefix(':')?)?),
            };
            match name {
                "a" => Mechanism::A(domain, prefixes),
                _ => Mechanism::Mx(domain, prefixes),
            }
        }
        "ip4" => {
            let (address, length) = network(named?, 32)?;
            Mechanism::Ip4(address.parse().ok()?, length)
        }
        "ip6" => {
            let (address, length) = network(named?, 128)?;
            Mechanism::Ip6(address.parse().ok()?, length)
        }
        _ => return None,
    };
    Some(Term {
        qualifier,
        mechanism,
        text,
    })
}

/// §5.6: `address` or `address/length`.
fn network(text: &str, longest: u8) -> Option<(&str, u8)> {
    match text.split_once('/') {
        None => Some((text, longest)),
        Some((address, length)) => Some((address, number(length, longest)?)),
    }
}

/// Takes `/24`, `//64` or `/24//64` from the end.
fn prefixes(text: &str) -> Option<(&str, Prefixes)> {
    let mut found = Prefixes { v4: 32, v6: 128 };
    let mut rest = text;
    let is_length = |tail: &str| !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_digit());
    if let Some((before, six)) = rest.rsplit_once("//")
        && is_length(six)
    {
        found.v6 = number(six, 128)?;
        rest = before;
    }
    if let Some((before, four)) = rest.rsplit_once('/')
        && is_length(four)
    {
        found.v4 = number(four, 32)?;
        rest = before;
    }
    Some((rest, found))
}

/// Without zeros in front.
fn number(text: &str, most: u8) -> Option<u8> {
    let plain = text == "0" || text.starts_with(|c: char| matches!(c, '1'..='9'));
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text
        .parse()
        .ok()
        .filter(|n| plain && digits && *n <= most)?;
    Some(number)
}

impl<'a> DomainSpec<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let pieces = pieces(text)?;
        // §7.1, domain-end: a macro, or a dot and a label that is not a number.
        let ends_well = match pieces.last()? {
            Piece::Macro { .. } => true,
            Piece::Literal(literal) => {
                let literal = literal.strip_suffix('.').unwrap_or(literal);
                let (_, top) = literal.rsplit_once('.')?;
                is_top_label(top)
            }
        };
        ends_well.then_some(Self(pieces))
    }
}

fn is_top_label(label: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !label.is_empty()
        && label.bytes().all(sound)
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().any(|b| !b.is_ascii_digit())
}

/// macro-string of §7.1.
fn pieces(text: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find('%').unwrap_or(rest.len());
        let (literal, more) = rest.split_at(end);
        if !literal.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        rest = more;
        let Some(after) = rest.strip_prefix('%') else {
            continue;
        };
        let (piece, more) = match after.as_bytes().first()? {
            b'%' => (Piece::Literal("%"), &after[1..]),
            b'_' => (Piece::Literal(" "), &after[1..]),
            b'-' => (Piece::Literal("%20"), &after[1..]),
            b'{' => {
                let (inside, more) = after[1..].split_once('}')?;
                (expansion(inside)?, more)
            }
            _ => return None,
        };
        pieces.push(piece);
        rest = more;
    }
    Some(pieces)
}

fn expansion(inside: &str) -> Option<Piece<'_>> {
    let (&letter, _) = inside.as_bytes().split_first()?;
    let lower = letter.to_ascii_lowercase();
    // §7.2: c, r and t are for explanations only.
    if !b"slodipvh".contains(&lower) {
        return None;
    }
    let rest = &inside[1..];
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = rest.split_at(digits);
    let keep = match digits {
        "" => None,
        // More than a name has labels keeps all of them.
        digits => Some(digits.parse().unwrap_or(usize::MAX)).filter(|n| *n > 0),
    };
    if !digits.is_empty() && keep.is_none() {
        return None;
    }
    let without = rest.strip_prefix(['r', 'R']);
    let delimiters = without.unwrap_or(rest);
    delimiters
        .bytes()
        .all(|b| b".-+,/_=".contains(&b))
        .then_some(Piece::Macro {
            letter: lower,
            escaped: letter.is_ascii_uppercase(),
            keep,
            reversed: without.is_some(),
            delimiters,
        })
}
