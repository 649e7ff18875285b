//! Reverse-paths that say which message comes back, and prove that this node made them (VERP).
//!
//! Promises: an address that is read as ours was made by somebody who holds one of our secrets, for this message and this
//! recipient; reading takes the same time however much of a forged one is right. An address survives hosts that change the
//! case of a local-part, which they may not (RFC 5321 §2.4) and do.
//! Deliberately does not know which domain stands behind the `@`, the clock, or whether the message exists.
//!
//! The local-part is `b+` and 48 characters of base32: the message id (16 octets), the recipient's number (2), the name of
//! the secret (2), and the first 10 octets of an HMAC-SHA-256 over message id and number. That is 50 octets of the 64 that
//! RFC 5321 §4.5.3.1.1 allows, and 80 bits to guess. The time is in the message id.
//!
//! A forwarder may have put the address into one of his own (SRS), which comes back in complaints and from forwarders that do not
//! undo what they did: it is read there too. Nothing that he wrote around it is believed; the proof is inside.
//!
//! The domain is not signed: hosts that replace an alias (CNAME) by its canonical name send the bounce to another domain of
//! ours, and a bounce is about its message wherever it arrives.

use std::time::Duration;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

use super::MessageId;

/// Makes and reads addresses.
#[derive(Debug)]
pub struct Verp {
    /// The first makes, all read. Never empty.
    secrets: Vec<VerpSecret>,
    accepted_for_ms: u64,
}

/// A secret as it is used.
pub struct VerpSecret {
    name: [u8; NAME],
    key: hmac::Key,
}

/// What an address says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerpAddress {
    pub message: MessageId,
    /// In order of RCPT. `None`: several recipients shared the transaction, so the report itself has to say whom it is about.
    pub recipient: Option<u16>,
}

/// Why an address is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    #[error("it has not the form of a bounce address")]
    Form,
    #[error("it was made with a secret that this node does not hold")]
    Foreign,
    #[error("it is forged")]
    Forged,
    #[error("it has expired")]
    Expired,
}

impl NotOurs {
    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Foreign => "foreign",
            Self::Forged => "forged",
            Self::Expired => "expired",
        }
    }
}

impl VerpSecret {
    pub fn new(secret: &[u8]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |purpose: &[u8]| hmac::sign(&root, purpose);
        let mut name = [0; NAME];
        name.copy_from_slice(&derived(b"posthaste bounce secret name 1").as_ref()[..NAME]);
        Self {
            name,
            key: hmac::Key::new(
                hmac::HMAC_SHA256,
                derived(b"posthaste bounce address 1").as_ref(),
            ),
        }
    }

    fn tag(&self, said: &[u8]) -> [u8; TAG] {
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hmac::sign(&self.key, said).as_ref()[..TAG]);
        tag
    }
}

impl std::fmt::Debug for VerpSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerpSecret({:02x}{:02x})", self.name[0], self.name[1])
    }
}

impl Verp {
    /// `newest` makes addresses; those that it or one of `older` made are read for `accepted_for` after the message was taken.
    pub fn new(newest: VerpSecret, older: Vec<VerpSecret>, accepted_for: Duration) -> Self {
        let mut secrets = vec![newest];
        secrets.extend(older);
        Self {
            secrets,
            accepted_for_ms: accepted_for.as_millis() as u64,
        }
    }

    /// The local-part for a transaction.
    pub fn local_part(&self, address: VerpAddress) -> String {
        let mut octets = [0; OCTETS];
        let number = address.recipient.unwrap_or(SEVERAL);
        octets[..MESSAGE].copy_from_slice(address.message.as_bytes());
        octets[MESSAGE..SAID].copy_from_slice(&number.to_be_bytes());
        let secret = &self.secrets[0];
        octets[SAID..SAID + NAME].copy_from_slice(&secret.name);
        let tag = secret.tag(&octets[..SAID]);
        octets[SAID + NAME..].copy_from_slice(&tag);
        let mut text = String::with_capacity(PREFIX.len() + CHARS);
        text.push_str(PREFIX);
        encode(&octets, &mut text);
        text
    }

    /// `now`: Unix milliseconds.
    pub fn read(&self, local_part: &str, now: u64) -> Result<VerpAddress, NotOurs> {
        let octets = octets_of(local_part).ok_or(NotOurs::Form)?;
        let (said, proof) = octets.split_at(SAID);
        let (name, tag) = proof.split_at(NAME);
        let mut named = self.secrets.iter().filter(|s| s.name == name).peekable();
        named.peek().ok_or(NotOurs::Foreign)?;
        // Two secrets share a name once in 65,536 pairs.
        if !named.any(|secret| secret.tag(said).ct_eq(tag).into()) {
            return Err(NotOurs::Forged);
        }
        let (message, number) = said.split_at(MESSAGE);
        let message = message.try_into().map_err(|_| NotOurs::Form)?;
        let message = MessageId::from_bytes(message);
        if now.saturating_sub(message.unix_ms()) > self.accepted_for_ms {
            return Err(NotOurs::Expired);
        }
        let number = u16::from_be_bytes([number[0], number[1]]);
        Ok(VerpAddress {
            message,
            recipient: (number != SEVERAL).then_some(number),
        })
    }
}

/// Whether a local-part is meant to be a bounce address, ours or not.
pub fn is_bounce_address(local_part: &str) -> bool {
    octets_of(local_part).is_some()
}

fn octets_of(local_part: &str) -> Option<[u8; OCTETS]> {
    let local_part = rewritten(local_part).unwrap_or(local_part);
    let (prefix, code) = local_part.split_at_checked(PREFIX.len())?;
    match prefix.eq_ignore_ascii_case(PREFIX) {
        true => decode(code),
        false => None,
    }
}

/// The local-part that a forwarder has rewritten: that of `SRS0=HASH=TIME=DOMAIN=LOCAL`, or, by his second successor or later, of
/// `SRS1=HASH=FORWARDER==HASH=TIME=DOMAIN=LOCAL`. `+` or `-` may stand behind the first word, and for the first of two `=` that
/// stand together. Ours has no `=`, so it is what follows the last.
fn rewritten(local_part: &str) -> Option<&str> {
    let (word, rest) = local_part.split_at_checked(4)?;
    let fields_least = match word {
        word if word.eq_ignore_ascii_case("SRS0") => 3,
        word if word.eq_ignore_ascii_case("SRS1") => 5,
        _ => return None,
    };
    let (fields, inner) = rest.strip_prefix(['=', '+', '-'])?.rsplit_once('=')?;
    (fields.split('=').count() >= fields_least).then_some(inner)
}

/// RFC 4648 §6 in lower case. Whole groups of five octets need no padding.
fn encode(octets: &[u8; OCTETS], text: &mut String) {
    for group in octets.chunks(5) {
        let bits = group
            .iter()
            .fold(0_u64, |bits, b| bits << 8 | u64::from(*b));
        text.extend(
            (0..8).map(|place| char::from(ALPHABET[(bits >> (35 - 5 * place)) as usize & 31])),
        );
    }
}

fn decode(text: &str) -> Option<[u8; OCTETS]> {
    if text.len() != CHARS {
        return None;
    }
    let mut octets = [0; OCTETS];
    for (group, out) in text.as_bytes().chunks(8).zip(octets.chunks_mut(5)) {
        let mut bits = 0_u64;
        for c in group {
            let digit = match c.to_ascii_lowercase() {
                letter @ b'a'..=b'z' => letter - b'a',
                digit @ b'2'..=b'7' => digit - b'2' + 26,
                _ => return None,
            };
            bits = bits << 5 | u64::from(digit);
        }
        out.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(octets)
}

const PREFIX: &str = "b+";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const MESSAGE: usize = 16;
const SAID: usize = MESSAGE + 2;
const NAME: usize = 2;
const TAG: usize = 10;
const OCTETS: usize = SAID + NAME + TAG;
const CHARS: usize = OCTETS / 5 * 8;
const _: () = assert!(OCTETS.is_multiple_of(5) && PREFIX.len() + CHARS <= 64);
/// No recipient has this number: limits::RECIPIENTS_MAX is far below.
const SEVERAL: u16 = u16::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400_000;
    const AT: u64 = 1_772_460_912_907;

    fn verp(secrets: &[&str]) -> Verp {
        let mut secrets = secrets.iter().map(|s| VerpSecret::new(s.as_bytes()));
        let newest = secrets.next().unwrap();
        Verp::new(newest, secrets.collect(), Duration::from_millis(60 * DAY))
    }

    fn address(recipient: Option<u16>) -> VerpAddress {
        VerpAddress {
            message: MessageId::new(AT, &[7; 10]),
            recipient,
        }
    }

    proptest! {
        #[test]
        fn what_is_made_is_read_in_any_case_and_is_a_local_part(random: [u8; 10], number in 0..10_000_u16, several: bool, upper: bool) {
            let made = VerpAddress {
                message: MessageId::new(AT, &random),
                recipient: (!several).then_some(number),
            };
            let verp = verp(&["a"]);
            let text = verp.local_part(made);
            prop_assert_eq!(text.len(), 50);
            let parsed = crate::mail::Mailbox::parse(&format!("{text}@b.example"), false).unwrap();
            prop_assert_eq!(parsed.local_part(), &text);
            let text = if upper { text.to_uppercase() } else { text };
            prop_assert_eq!(verp.read(&text, AT + 60 * DAY), Ok(made));
        }

        #[test]
        fn arbitrary_words_are_not_ours(word in "(b\\+)?[a-z2-7+=.\u{e4}]{0,60}") {
            prop_assert!(verp(&["a"]).read(&word, AT).is_err());
        }
    }

    #[test]
    fn every_changed_character_shows() {
        let verp = verp(&["a"]);
        let text = verp.local_part(address(Some(3)));
        for place in 2..text.len() {
            for other in ALPHABET {
                let mut changed = text.clone().into_bytes();
                if changed[place] == *other {
                    continue;
                }
                changed[place] = *other;
                let changed = String::from_utf8(changed).unwrap();
                let said = verp.read(&changed, AT).unwrap_err();
                assert!(
                    matches!(said, NotOurs::Forged | NotOurs::Foreign),
                    "{changed}: {said}"
                );
            }
        }
        for shape in ["", "b", "b+", &text[..49], &format!("{text}a"), &text[2..]] {
            assert_eq!(verp.read(shape, AT), Err(NotOurs::Form), "{shape}");
        }
    }

    #[test]
    fn an_address_is_read_inside_the_one_that_forwarders_made_of_it_and_nothing_else_is() {
        let verp = verp(&["a"]);
        let ours = verp.local_part(address(Some(3)));
        for made in [
            format!("SRS0=Xy3/=5K=bounces.example.com={ours}"),
            format!("srs0+xy3+=5k=b.example={ours}"),
            format!("SRS0-HHHH=TT=b.example={}", ours.to_uppercase()),
            format!("SRS1=AbCd=first.example==HHHH=TT=b.example={ours}"),
            format!("SRS1=AbCd=first.example=+HHHH=TT=b.example={ours}"),
        ] {
            assert_eq!(verp.read(&made, AT), Ok(address(Some(3))), "{made}");
            assert!(is_bounce_address(&made), "{made}");
        }
        let forged = format!("{}a", &ours[..49]);
        let forged = match forged == ours {
            true => format!("{}b", &ours[..49]),
            false => forged,
        };
        for wrong in [
            "SRS0",
            "SRS0=",
            "SRS0====",
            "SRS1======",
            "SRS0=HHHH=TT=b.example=ada",
            &format!("SRS0=TT=b.example={ours}"),
            &format!("SRS1=HHHH=TT=b.example={ours}"),
            &format!("SRS2=HHHH=TT=b.example={ours}"),
            &format!("SRS0.HHHH=TT=b.example={ours}"),
            &format!("SRS0=HHHH=TT=b.example={ours}=x"),
            &format!("SRS0=HHHH=TT=b.example=SRS0={ours}x"),
            &format!("SR\u{e4}0=HHHH=TT=b.example={ours}"),
            &"SRS0=".repeat(50_000),
        ] {
            assert_eq!(verp.read(wrong, AT), Err(NotOurs::Form), "{wrong:.80}");
        }
        let inside = format!("SRS0=HHHH=TT=b.example={forged}");
        assert!(matches!(
            verp.read(&inside, AT),
            Err(NotOurs::Forged | NotOurs::Foreign)
        ));
    }

    #[test]
    fn a_secret_that_was_followed_by_another_is_still_read_and_a_strange_one_is_told_from_a_forgery()
     {
        let text = verp(&["old"]).local_part(address(None));
        assert_eq!(verp(&["new", "old"]).read(&text, AT), Ok(address(None)));
        assert_ne!(verp(&["new", "old"]).local_part(address(None)), text);
        assert_eq!(verp(&["new"]).read(&text, AT), Err(NotOurs::Foreign));
    }

    #[test]
    fn an_address_expires_with_the_age_of_its_message() {
        let verp = verp(&["a"]);
        let text = verp.local_part(address(Some(0)));
        assert!(verp.read(&text, AT + 60 * DAY).is_ok());
        assert_eq!(verp.read(&text, AT + 60 * DAY + 1), Err(NotOurs::Expired));
        // A clock that was set back is no reason.
        assert!(verp.read(&text, 0).is_ok());
    }
}
