//! DKIM keys: making them, and telling whether their record is published.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::prelude::{BASE64_STANDARD, Engine};

use super::secret::KeyError;
use crate::clock::{UnixMs, rfc3339};

/// A key that nobody has seen.
pub struct NewKey {
    /// SubjectPublicKeyInfo in base64: the `p=` of its record (RFC 6376 §3.6.1).
    pub public: String,
    /// PKCS#8 in base64.
    pub private: String,
}

impl NewKey {
    /// RSA with 2048 bits (RFC 8301 §3.2). Takes some hundred milliseconds of a processor.
    pub fn generate() -> Result<Self, KeyError> {
        let failed = |_| KeyError::Library("a new RSA key");
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
        Ok(Self {
            public: BASE64_STANDARD.encode(public.as_ref()),
            private: BASE64_STANDARD.encode(private.as_ref()),
        })
    }
}

/// Postmark's form: the time and `pm`, as in `20260305081851pm`.
pub(super) fn selector(now: UnixMs) -> String {
    let digits = rfc3339(now);
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    format!("{}pm", digits.get(..14).unwrap_or(&digits))
}

/// What the owner of the domain publishes.
pub fn record(public: &str) -> String {
    format!("k=rsa; p={public}")
}

/// Whether a published record is that of this key (RFC 6376 §3.6.1). Tags that we do not judge do not matter.
pub(super) fn publishes(record: &str, public: &str) -> bool {
    let tag = |name: &str| {
        record.split(';').find_map(|tag| {
            let (key, value) = tag.split_once('=')?;
            // White space may stand anywhere in it: long records are cut into lines.
            let value: String = value.split_whitespace().collect();
            (key.trim() == name).then_some(value)
        })
    };
    tag("p").is_some_and(|p| p == public)
        && tag("v").is_none_or(|v| v == "DKIM1")
        && tag("k").is_none_or(|k| k == "rsa")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_its_record_however_that_is_cut_and_in_no_other() {
        let key = NewKey::generate().unwrap();
        assert_eq!(BASE64_STANDARD.decode(&key.public).unwrap().len(), 294);
        let (head, tail) = key.public.split_at(200);
        for published in [
            record(&key.public),
            format!("v=DKIM1; k=rsa; t=s; p={}", key.public),
            format!("v=DKIM1;p={head} \t{tail} ;"),
        ] {
            assert!(publishes(&published, &key.public), "{published}");
        }
        let other = NewKey::generate().unwrap();
        for published in [
            record(&other.public),
            format!("k=rsa; p={head}"),
            format!("k=ed25519; p={}", key.public),
            format!("v=spf1; p={}", key.public),
            "k=rsa; p=".to_owned(),
            key.public.clone(),
            String::new(),
        ] {
            assert!(!publishes(&published, &key.public), "{published}");
        }
    }

    #[test]
    fn a_selector_is_the_time() {
        assert_eq!(selector(1_772_698_731_000), "20260305081851pm");
    }
}
