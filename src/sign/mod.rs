//! DKIM signatures (RFC 6376): from the content that is to leave to the field that goes in front of it.
//!
//! Promises: relaxed/relaxed, `t=` and `x=`, never `l=`; every field of [`SIGNED`] is signed as often as it occurs and once
//! more, so that none can be added on the way. Long content is taken piece by piece and never held.
//! Deliberately does not know which key signs what, the clock, or threads: `deliver::sign` does.
//!
//! Why by hand and not with mail-auth, see ARCHITECTURE.md ("Signatures are made here").

mod canonical;

use std::sync::OnceLock;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::prelude::{BASE64_STANDARD, Engine};
use zeroize::Zeroizing;

use crate::limits;
use crate::mail::Domain;
use crate::mail::header::{Section, addr_specs, section_end};
use canonical::{Body, field, octets_of_field};

/// The private half of a domain's key.
pub struct SigningKey {
    pub domain: Domain,
    pub selector: String,
    /// PKCS#8; `None`: it cannot be opened with this node's key.
    private: Option<Zeroizing<Vec<u8>>>,
    /// Read at the first signature: a node with many domains would read for seconds at its start.
    pair: OnceLock<Option<RsaKeyPair>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error(
        "it cannot be opened with this node's node.key; put the right node.key back, or delete the domain and add it anew"
    )]
    Sealed,
    #[error("it is no RSA key in PKCS#8")]
    Form,
    #[error("the cryptographic library refuses it")]
    Library,
}

impl SigningKey {
    /// `private`: PKCS#8 in base64, where it could be opened.
    pub fn new(domain: Domain, selector: String, private: Option<Zeroizing<String>>) -> Self {
        let decoded = private.map(|text| BASE64_STANDARD.decode(&*text).unwrap_or_default());
        Self {
            domain,
            selector,
            private: decoded.map(Zeroizing::new),
            pair: OnceLock::new(),
        }
    }

    /// Whether what it signs is interchangeable.
    pub fn is_same(&self, other: &Self) -> bool {
        self.domain == other.domain
            && self.selector == other.selector
            && self.private == other.private
    }

    /// Whether it could sign.
    pub fn usable(&self) -> Result<(), SignError> {
        self.pair().map(drop)
    }

    fn pair(&self) -> Result<&RsaKeyPair, SignError> {
        let private = self.private.as_ref().ok_or(SignError::Sealed)?;
        let pair = self
            .pair
            .get_or_init(|| RsaKeyPair::from_pkcs8(private).ok());
        pair.as_ref().ok_or(SignError::Form)
    }
}

/// The domain of From, where there is one field with one address in it: nothing else can be aligned.
pub fn from_domain(header: &[u8]) -> Option<Domain> {
    let section = section(header)?;
    let mut fields = section.named("From");
    let (Some(from), None) = (fields.next(), fields.next()) else {
        return None;
    };
    match addr_specs(&section.value(from)).as_slice() {
        [address] => Domain::parse(address.rsplit_once('@')?.1).ok(),
        _ => None,
    }
}

fn section(header: &[u8]) -> Option<Section<'_>> {
    Section::parse(header, usize::MAX, limits::HEADER_SECTION_MAX).ok()
}

/// A message on its way to a signature: its content is shown in order, then it is signed.
#[derive(Default)]
pub struct Unsigned {
    header: Vec<u8>,
    /// From here on it is body.
    body: Option<(Body, Context)>,
}

impl Unsigned {
    /// The next octets of the content.
    pub fn update(&mut self, octets: &[u8]) {
        if let Some((body, digest)) = &mut self.body {
            body.update(octets, |canonical| digest.update(canonical));
            return;
        }
        let searched = self.header.len();
        self.header.extend_from_slice(octets);
        if let Some(end) = section_end(&self.header, searched) {
            let rest = self.header.split_off(end);
            let (mut body, mut digest) = (Body::default(), Context::new(&SHA256));
            body.update(&rest, |canonical| digest.update(canonical));
            self.body = Some((body, digest));
        }
    }

    /// The field, its CRLF included, good from `now` (seconds since 1970) on.
    pub fn sign(self, key: &SigningKey, now: u64) -> Result<Vec<u8>, SignError> {
        let (body, mut digest) = self
            .body
            .unwrap_or_else(|| (Body::default(), Context::new(&SHA256)));
        body.finish(|canonical| digest.update(canonical));
        let body_hash = BASE64_STANDARD.encode(digest.finish());

        let mut names = Vec::new();
        let mut input = Vec::new();
        let section = section(&self.header);
        for name in SIGNED {
            let fields = section.as_ref().map(|section| {
                let of_name = section.fields().iter().rev();
                of_name.filter(|field| section.is_named(field, name))
            });
            // RFC 6376 §5.4.2: the last one first.
            for found in fields.into_iter().flatten() {
                names.push(*name);
                field(octets_of_field(&self.header, found), &mut input);
                input.extend_from_slice(b"\r\n");
            }
            names.push(*name);
        }
        let unsigned = template(key, now, &names, &body_hash);
        field(unsigned.as_bytes(), &mut input);

        let pair = key.pair()?;
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            &input,
            &mut signature,
        )
        .map_err(|_| SignError::Library)?;
        Ok(complete(unsigned, &BASE64_STANDARD.encode(signature)))
    }
}

/// The field with an empty `b=`.
fn template(key: &SigningKey, now: u64, names: &[&str], body_hash: &str) -> String {
    let expires = now + limits::SIGNATURE_VALID.as_secs();
    let mut text = format!(
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d={};\r\n\ts={}; t={now}; x={expires};\r\n\th=",
        key.domain, key.selector
    );
    let mut column = 3;
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            text.push(':');
            column += 1;
        }
        if column + name.len() > LINE {
            text.push_str("\r\n\t ");
            column = 2;
        }
        text.push_str(name);
        column += name.len();
    }
    text.push_str(";\r\n\tbh=");
    text.push_str(body_hash);
    text.push_str(";\r\n\tb=");
    text
}

fn complete(unsigned: String, signature: &str) -> Vec<u8> {
    let mut octets = unsigned.into_bytes();
    for (index, line) in signature.as_bytes().chunks(LINE).enumerate() {
        if index > 0 {
            octets.extend_from_slice(b"\r\n\t ");
        }
        octets.extend_from_slice(line);
    }
    octets.extend_from_slice(b"\r\n");
    octets
}

/// RFC 6376 §5.4.1, RFC 8058 §4 (both List-Unsubscribe fields), and what shows to people or changes how a body is read.
const SIGNED: &[&str] = &[
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "Sender",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Feedback-ID",
];

const LINE: usize = 72;

#[cfg(test)]
mod tests;
