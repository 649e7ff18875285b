//! The proof that somebody reads the mail of an address: a signed link that is sent there.
//!
//! The link holds all that it says, the signature's id and the end of its time, and an HMAC over that and the address, under
//! a key derived from the node key. So nothing is stored for it; a forged or changed one is refused; one that outlives its
//! signature means nothing, for ids are never given again; and a confirmed signature is not confirmed twice. Every link sent
//! counts until its own end: a mail that was slow is not made void by the next one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};

use super::outside::Notice;
use super::rate::Usage;
use super::secret::NodeKey;
use crate::clock::{UnixMs, rfc5322};
use crate::config::{Rate, RateUnit};
use crate::limits;
use crate::mail::Mailbox;

/// What a link claims, before its tag has been compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) id: u32,
    pub(super) until: UnixMs,
    tag: Vec<u8>,
}

impl Claim {
    pub(super) fn read(token: &str) -> Option<Self> {
        if token.len() != TOKEN_LEN {
            return None;
        }
        let octets = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (id, rest) = octets.split_first_chunk()?;
        let (until, tag) = rest.split_first_chunk()?;
        Some(Self {
            id: u32::from_be_bytes(*id),
            until: u64::from_be_bytes(*until),
            tag: tag.to_vec(),
        })
    }

    /// Whether we made it, for this address.
    pub(super) fn is_ours(&self, key: &NodeKey, folded: &str) -> bool {
        key.verify_confirmation(&said(self.id, self.until, folded), &self.tag)
    }
}

/// The last segment of a link's path.
pub(super) fn token(key: &NodeKey, id: u32, until: UnixMs, folded: &str) -> String {
    let said = said(id, until, folded);
    let tag = key.sign_confirmation(&said);
    let octets = [said.get(..FIXED).unwrap_or_default(), &tag].concat();
    BASE64_URL_SAFE_NO_PAD.encode(octets)
}

fn said(id: u32, until: UnixMs, folded: &str) -> Vec<u8> {
    let mut said = Vec::with_capacity(FIXED + folded.len());
    said.extend(id.to_be_bytes());
    said.extend(until.to_be_bytes());
    said.extend(folded.as_bytes());
    said
}

/// How many confirmation mails went to whom: nobody's mailbox is filled through us, whatever is added, deleted and added
/// again. Forgotten by a restart.
#[derive(Default)]
pub(super) struct Postage(Mutex<HashMap<String, Usage>>);

impl Postage {
    /// Counts one mail to a folded address. `Err`: in how many seconds there may be one.
    pub(super) fn take(&self, folded: &str, now: UnixMs) -> Result<(), u64> {
        let rate = Rate {
            count: limits::CONFIRMATIONS_PER_ADDRESS_HOUR,
            per: RateUnit::Hour,
        };
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.len() >= limits::CONFIRMATION_ADDRESSES && !sent.contains_key(folded) {
            sent.retain(|_, usage| !usage.is_full(now));
            if sent.len() >= limits::CONFIRMATION_ADDRESSES {
                return Err(rate.period().as_secs());
            }
        }
        let usage = sent.entry(folded.to_owned()).or_default();
        usage.take(rate, now).map_err(|wait| wait.as_secs() + 1)
    }
}

/// What a confirmation mail says.
pub(super) struct Letter<'a> {
    pub(super) from: &'a Mailbox,
    pub(super) to: &'a Mailbox,
    /// Of the sender, as it will stand in From.
    pub(super) name: &'a str,
    pub(super) note: &'a str,
    pub(super) url: &'a str,
    pub(super) until: UnixMs,
}

impl Letter<'_> {
    pub(super) fn notice(&self) -> Notice {
        let Self {
            to,
            name,
            note,
            url,
            ..
        } = self;
        let until = rfc5322(self.until);
        let note = match note.trim() {
            "" => String::new(),
            note => format!("They add:\n\n{}\n\n", quoted(note)),
        };
        Notice {
            from: self.from.clone(),
            to: (*to).clone(),
            subject: "Confirm that mail may be sent from your address".to_owned(),
            text: format!(
                "Somebody wants to send mail through this mail platform from your address:\n\n    {name} <{to}>\n\n{note}If you know about this, open the link and confirm there:\n\n{url}\n\nThe link is valid until {until}.\nIf you do not know about this, do nothing: no mail is sent from your address.\n"
            ),
        }
    }
}

/// A stranger's words, told from ours.
fn quoted(text: &str) -> String {
    // A bare CR is no end of a line in mail (RFC 5322 §2.2).
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines = text.lines().map(|line| format!("> {}", line.trim_end()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Id and end.
const FIXED: usize = 4 + 8;
/// [`FIXED`] and 32 octets of tag, in base64 without padding.
const TOKEN_LEN: usize = ((FIXED + 32) * 4).div_ceil(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_ours_for_its_own_address_only_and_every_changed_octet_shows() {
        let (key, other) = (
            NodeKey::derive(&[1; 32]).unwrap(),
            NodeKey::derive(&[2; 32]).unwrap(),
        );
        let made = token(&key, 7, 1_000, "ada@example.com");
        assert_eq!(made.len(), TOKEN_LEN);
        let claim = Claim::read(&made).unwrap();
        assert_eq!((claim.id, claim.until), (7, 1_000));
        assert!(claim.is_ours(&key, "ada@example.com"));
        assert!(!claim.is_ours(&key, "bo@example.com"));
        assert!(!claim.is_ours(&other, "ada@example.com"));
        let octets = BASE64_URL_SAFE_NO_PAD.decode(&made).unwrap();
        for place in 0..octets.len() {
            let mut changed = octets.clone();
            changed[place] ^= 1;
            let changed = BASE64_URL_SAFE_NO_PAD.encode(changed);
            let claim = Claim::read(&changed).unwrap();
            assert!(!claim.is_ours(&key, "ada@example.com"), "{place}");
        }
        for broken in ["", "x", &made[1..], &format!("{made}A"), &"%".repeat(59)] {
            assert_eq!(Claim::read(broken), None, "{broken}");
        }
    }

    #[test]
    fn no_mailbox_is_filled_and_the_others_are_served() {
        let postage = Postage::default();
        let hour_ms = 3_600_000;
        for _ in 0..limits::CONFIRMATIONS_PER_ADDRESS_HOUR {
            postage.take("ada@example.com", hour_ms).unwrap();
        }
        let wait = postage.take("ada@example.com", hour_ms).unwrap_err();
        assert!((1..=3_600).contains(&wait), "{wait}");
        for n in 1..limits::CONFIRMATION_ADDRESSES {
            postage.take(&format!("{n}@example.com"), hour_ms).unwrap();
        }
        assert!(postage.take("bo@example.com", hour_ms).is_err());
        postage.take("bo@example.com", 3 * hour_ms).unwrap();
        postage.take("ada@example.com", 3 * hour_ms).unwrap();
    }

    #[test]
    fn a_note_cannot_pass_for_our_own_words() {
        let (from, to) = ("n@example.com", "ada@example.com");
        let letter = Letter {
            from: &Mailbox::parse(from, false).unwrap(),
            to: &Mailbox::parse(to, false).unwrap(),
            name: "Ada",
            note: "Hello\rhttps://evil.example/\r\n",
            url: "https://mail.example.com/confirm/x",
            until: 0,
        };
        let text = letter.notice().text;
        assert!(
            text.contains("\n> Hello\n> https://evil.example/\n"),
            "{text}"
        );
        assert!(
            text.contains("\nhttps://mail.example.com/confirm/x\n"),
            "{text}"
        );
    }
}
