//! DKIM signatures (RFC 6376): from the content that is to leave to the field that goes in front of it.
//!
//! Promises: relaxed/relaxed, `t=` and `x=`, never `l=`; every field of [`SIGNED`] is signed as often as it occurs and once
//! more, so that none can be added on the way. Long content is taken piece by piece and never held. However many keys sign, the
//! body is hashed once.
//! Deliberately does not know which key signs what, the clock, or threads: `deliver::sign` does.
//!
//! Why by hand and not with mail-auth, see ARCHITECTURE.md ("Signatures are made here").

mod canonical;
mod key;

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::prelude::{BASE64_STANDARD, Engine};
use smallvec::SmallVec;

use crate::limits;
use crate::mail::Domain;
use crate::mail::header::{Section, addr_specs, section_end};
use canonical::{Body, field, octets_of_field};

pub use key::{Algorithm, KeyFault, SignError, SigningKey, WholeKey, is_weak};

/// What signs a message, in the order of its signatures.
pub type Keys = SmallVec<[Arc<SigningKey>; 4]>;

/// A key that should have signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be signed with the DKIM key {selector} of {domain}: {why}")]
pub struct Unsignable {
    selector: String,
    domain: Domain,
    why: SignError,
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
        if searched == 0
            && let Some(end) = section_end(octets, 0)
        {
            // The usual: the whole section at once.
            let (header, rest) = octets.split_at(end);
            self.header.extend_from_slice(header);
            return self.begin_body(rest);
        }
        self.header.extend_from_slice(octets);
        if let Some(end) = section_end(&self.header, searched) {
            let rest = self.header.split_off(end);
            self.begin_body(&rest);
        }
    }

    fn begin_body(&mut self, octets: &[u8]) {
        let (mut body, mut digest) = (Body::default(), Context::new(&SHA256));
        body.update(octets, |canonical| digest.update(canonical));
        self.body = Some((body, digest));
    }

    /// One field for each key, with their CRLFs, good from `now` (seconds since 1970) on.
    pub fn sign(self, keys: &[Arc<SigningKey>], now: u64) -> Result<Vec<u8>, Unsignable> {
        let (body, mut digest) = self
            .body
            .unwrap_or_else(|| (Body::default(), Context::new(&SHA256)));
        body.finish(|canonical| digest.update(canonical));
        let body_hash = BASE64_STANDARD.encode(digest.finish());
        let (names, mut input) = signed_fields(&self.header);
        let fields = input.len();
        let mut signatures = Vec::new();
        for key in keys {
            let unsigned = template(key, now, &names, &body_hash);
            // No signature covers another: a host may take one away.
            input.truncate(fields);
            field(unsigned.as_bytes(), &mut input);
            let signature = key.sign(&input).map_err(|why| Unsignable {
                selector: key.selector.clone(),
                domain: key.domain.clone(),
                why,
            })?;
            complete(
                &unsigned,
                &BASE64_STANDARD.encode(signature),
                &mut signatures,
            );
        }
        Ok(signatures)
    }
}

/// The names of `h=`, and the canonical forms of the fields that they stand for.
fn signed_fields(header: &[u8]) -> (Vec<&'static str>, Vec<u8>) {
    let (mut names, mut input) = (Vec::new(), Vec::new());
    let section = section(header);
    for name in SIGNED {
        let fields = section.as_ref().map(|section| {
            let of_name = section.fields().iter().rev();
            of_name.filter(|field| section.is_named(field, name))
        });
        // RFC 6376 §5.4.2: the last one first.
        for found in fields.into_iter().flatten() {
            names.push(*name);
            field(octets_of_field(header, found), &mut input);
            input.extend_from_slice(b"\r\n");
        }
        names.push(*name);
    }
    (names, input)
}

/// The field with an empty `b=`.
fn template(key: &SigningKey, now: u64, names: &[&str], body_hash: &str) -> String {
    let expires = now + limits::SIGNATURE_VALID.as_secs();
    let mut text = format!(
        "DKIM-Signature: v=1; a={}; c=relaxed/relaxed; d={};\r\n\ts={}; t={now}; x={expires};\r\n\th=",
        key.algorithm.with_hash(),
        key.domain,
        key.selector
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

fn complete(unsigned: &str, signature: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(unsigned.as_bytes());
    for (index, line) in signature.as_bytes().chunks(LINE).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n\t ");
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"\r\n");
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
