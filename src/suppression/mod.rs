//! Suppressions: to whom a message stream of a server does not send, and why.
//!
//! Promises: addresses are the same whatever their case, quotes or spelling of the domain; a check costs less than a
//! microsecond and waits for nobody; what a customer may lift is decided in one place.
//! Does not know: where suppressions are kept (`readers::suppressions`), nor the words of any protocol.
//!
//! An address in a stream is known by its [`Tag`], a keyed hash (SipHash-2-4 with 128 bits, under a key derived from the
//! node's): equal for equal addresses, useless without the key, and so also what is kept of an address when addresses
//! themselves are not to be.

mod set;

use std::fmt;
use std::str::FromStr;

use siphasher::sip128::SipHasher24;
use smallvec::SmallVec;

use crate::mail::Mailbox;

pub use set::{Loading, Set};

/// Why, in Postmark's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    HardBounce,
    SpamComplaint,
    /// Unsubscribed, or suppressed by hand.
    ManualSuppression,
}

/// By whom, in Postmark's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    Recipient,
    /// Whoever holds the server's token.
    Customer,
    /// The operator.
    Admin,
}

/// One suppression, without whom it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suppression {
    pub reason: Reason,
    pub origin: Origin,
}

impl Suppression {
    /// By the API (reference §14).
    pub const BY_CUSTOMER: Self = Self {
        reason: Reason::ManualSuppression,
        origin: Origin::Customer,
    };

    /// Whether the customer may lift it: what he made, and hard bounces. Complaints, unsubscribed recipients and what the
    /// operator made are the operator's (reference §14).
    pub fn is_the_customers(self) -> bool {
        matches!(
            (self.reason, self.origin),
            (Reason::ManualSuppression, Origin::Customer) | (Reason::HardBounce, Origin::Recipient)
        )
    }

    /// Whether `new` takes its place: only what the customer may not lift replaces what he may. Otherwise the first stays,
    /// with its time.
    pub fn yields_to(self, new: Self) -> bool {
        self.is_the_customers() && !new.is_the_customers()
    }

    /// Four bits, never zero.
    pub fn code(self) -> u8 {
        let reason = match self.reason {
            Reason::HardBounce => 1,
            Reason::SpamComplaint => 2,
            Reason::ManualSuppression => 3,
        };
        let origin = match self.origin {
            Origin::Recipient => 0,
            Origin::Customer => 1,
            Origin::Admin => 2,
        };
        reason << 2 | origin
    }

    pub fn from_code(code: u8) -> Option<Self> {
        let reason = match code >> 2 {
            1 => Reason::HardBounce,
            2 => Reason::SpamComplaint,
            3 => Reason::ManualSuppression,
            _ => return None,
        };
        let origin = match code & 3 {
            0 => Origin::Recipient,
            1 => Origin::Customer,
            2 => Origin::Admin,
            _ => return None,
        };
        Some(Self { reason, origin })
    }
}

impl Reason {
    pub const ALL: [Self; 3] = [
        Self::HardBounce,
        Self::SpamComplaint,
        Self::ManualSuppression,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::HardBounce => "HardBounce",
            Self::SpamComplaint => "SpamComplaint",
            Self::ManualSuppression => "ManualSuppression",
        }
    }
}

impl Origin {
    pub const ALL: [Self; 3] = [Self::Recipient, Self::Customer, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recipient => "Recipient",
            Self::Customer => "Customer",
            Self::Admin => "Admin",
        }
    }
}

/// No such word; Postmark's are taken in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord;

impl FromStr for Reason {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL
            .into_iter()
            .find(|r| r.as_str().eq_ignore_ascii_case(text));
        found.ok_or(UnknownWord)
    }
}

impl FromStr for Origin {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL
            .into_iter()
            .find(|o| o.as_str().eq_ignore_ascii_case(text));
        found.ok_or(UnknownWord)
    }
}

/// The key of all tags of a node.
#[derive(Clone)]
pub struct TagKey([u8; 16]);

impl TagKey {
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// An address in a message stream of a server.
    pub fn tag(&self, server: u32, stream: &str, address: &Mailbox) -> Tag {
        let mut said: SmallVec<[u8; 384]> = SmallVec::new();
        said.extend_from_slice(&server.to_le_bytes());
        said.extend_from_slice(stream.as_bytes());
        // Neither a stream's id nor a folded local-part of a valid address holds a zero octet.
        said.push(0);
        fold(address.local_part(), &mut said);
        said.push(0);
        said.extend_from_slice(address.domain().as_str().as_bytes());
        self.hash(&said)
    }

    /// Tells keys apart without telling them.
    pub fn check(&self) -> Tag {
        self.hash(b"posthaste suppressions: which key is it?")
    }

    fn hash(&self, said: &[u8]) -> Tag {
        let hash = SipHasher24::new_with_key(&self.0).hash(said);
        Tag(u128::from(hash.h1) << 64 | u128::from(hash.h2))
    }
}

/// RFC 5321 §2.4 wants the case of a local-part kept; here it is folded, as Postmark does, since a suppression that a capital
/// letter lifts is none. A quoted local-part is what it quotes (RFC 5321 §4.1.2).
fn fold(local: &str, out: &mut SmallVec<[u8; 384]>) {
    let quoted = local.strip_prefix('"').and_then(|l| l.strip_suffix('"'));
    if quoted.is_none() && local.is_ascii() {
        out.extend(local.bytes().map(|b| b.to_ascii_lowercase()));
        return;
    }
    let mut escaped = false;
    for c in quoted.unwrap_or(local).chars() {
        if quoted.is_some() && c == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        for lower in c.to_lowercase() {
            out.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// A keyed hash of server, stream and folded address. Two different addresses of 10 million share one with a probability of
/// 10^-25; in the 106 bits that memory keeps, an address that is not suppressed meets one of 10 million with the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u128);

impl Tag {
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// As it stands in place of an address that is not kept.
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASH_PREFIX}{:032x}", self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Tag {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let digits = text.strip_prefix(HASH_PREFIX).ok_or(UnknownWord)?;
        let sound = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(digits, 16).ok();
        number.filter(|_| sound).map(Self).ok_or(UnknownWord)
    }
}

/// Without an `@`, so that it is no address.
const HASH_PREFIX: &str = "hash:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_however_it_is_spelled_and_no_other_is() {
        let key = TagKey::new([7; 16]);
        let tag = |text: &str| key.tag(1, "outbound", &Mailbox::parse(text, true).unwrap());
        for (one, other) in [
            ("Ada@Example.COM", "ada@example.com"),
            ("JÜRGEN@bücher.example", "jürgen@XN--BCHER-KVA.example"),
            ("\"ada\"@example.com", "ADA@example.com"),
            ("\"a\\da\"@example.com", "ada@example.com"),
            ("\"a \\\"b\"@example.com", "\"A \\\"B\"@example.com"),
        ] {
            assert_eq!(tag(one), tag(other), "{one} {other}");
        }
        for (one, other) in [
            ("ada@example.com", "adb@example.com"),
            ("ada@example.com", "ada@example.org"),
            ("ada+x@example.com", "ada@example.com"),
            ("a.da@example.com", "ada@example.com"),
        ] {
            assert_ne!(tag(one), tag(other), "{one} {other}");
        }
        let ada = Mailbox::parse("ada@example.com", true).unwrap();
        assert_ne!(key.tag(1, "outbound", &ada), key.tag(2, "outbound", &ada));
        assert_ne!(key.tag(1, "outbound", &ada), key.tag(1, "news", &ada));
        let other = TagKey::new([8; 16]);
        assert_ne!(key.tag(1, "outbound", &ada), other.tag(1, "outbound", &ada));
        let text = tag("ada@example.com").to_string();
        assert_eq!(text.parse(), Ok(tag("ada@example.com")));
        assert_eq!("hash:12".parse::<Tag>(), Err(UnknownWord));
    }

    #[test]
    fn the_customer_lifts_what_he_made_and_hard_bounces() {
        for reason in Reason::ALL {
            for origin in Origin::ALL {
                let suppression = Suppression { reason, origin };
                assert_eq!(
                    Suppression::from_code(suppression.code()),
                    Some(suppression)
                );
                let expected = suppression == Suppression::BY_CUSTOMER
                    || (reason, origin) == (Reason::HardBounce, Origin::Recipient);
                assert_eq!(suppression.is_the_customers(), expected, "{suppression:?}");
                assert!(!suppression.yields_to(Suppression::BY_CUSTOMER));
            }
        }
        assert_eq!("hardbounce".parse(), Ok(Reason::HardBounce));
        assert_eq!("nobody".parse::<Origin>(), Err(UnknownWord));
    }
}
