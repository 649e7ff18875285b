//! Domains and sender signatures in the admin API.
//!
//! Bodies are [`crate::account`]'s own patches: `DomainPatch`, `SignaturePatch`.

use serde::{Deserialize, Serialize};

use crate::account::snapshot::Platform;
use crate::account::{DkimKey, DomainInfo, KeyState, SignatureInfo};
use crate::clock::{UnixMs, rfc3339};
use crate::config::Config;
use crate::mail;

/// `GET /admin/v1/domains`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domains {
    pub domains: Vec<Domain>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    pub id: u32,
    pub name: String,
    /// Declared in the configuration file.
    pub declared: bool,
    /// From may name it.
    pub may_send: bool,
    /// When its DKIM record was first found.
    pub verified_at: Option<String>,
    /// A key signs its mail.
    pub dkim_verified: bool,
    /// `pending`, `verified` or `failed`.
    pub dkim_status: String,
    pub dkim_pending: Option<Record>,
    pub dkim_active: Option<Record>,
    pub dkim_revoked: Option<Record>,
    /// The records of revoked keys are needed no more.
    pub dkim_revoked_removable: bool,
    /// All keys. The four above are of the first algorithm: RSA, unless there is Ed25519 only.
    pub dkim_keys: Vec<Key>,
    pub return_path: Option<String>,
    pub return_path_verified: bool,
    /// SPF permits every egress source for the domain of its reverse-paths.
    #[serde(default)]
    pub spf_verified: bool,
    /// What the last check found wrong, as `level id about`; `null`: never checked.
    #[serde(default)]
    pub findings: Option<Vec<String>>,
    /// Where the CNAME of the Return-Path domain has to lead.
    pub return_path_target: String,
    pub created_at: String,
}

/// `GET /admin/v1/dkim`: keys of all domains, and of the platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    pub keys: Vec<Key>,
}

/// A DKIM key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub domain: String,
    /// Signs all mail ([dkim] in the configuration file).
    pub platform: bool,
    pub selector: String,
    /// `rsa` or `ed25519`.
    pub algorithm: String,
    pub bits: u16,
    /// RSA of less than 2048 bits.
    pub weak: bool,
    /// `pending`, `active`, `paused` (its record is gone) or `revoked`.
    pub state: String,
    /// Of the configuration file.
    pub declared: bool,
    pub record: Record,
    /// In its state; `null` for declared ones.
    pub since: Option<String>,
    /// Whether its record was there at the last look that had an answer.
    pub found: Option<bool>,
    pub checked_at: Option<String>,
    /// What was there instead.
    pub seen: Option<String>,
    /// Of a revoked key: mail that it signed may be verified until then.
    pub keep_published_until: Option<String>,
}

/// `POST /admin/v1/domains/{name}/dkim`: a new key; with `pem` one that was made elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewKey {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
}

impl Key {
    pub fn of(key: &DkimKey, domain: &mail::Domain, platform: bool, now: UnixMs) -> Self {
        let look = key.look.as_ref();
        let seen = look.map(|look| look.seen.clone());
        Self {
            domain: domain.to_string(),
            platform,
            selector: key.selector.clone(),
            algorithm: key.algorithm.as_str().into(),
            bits: key.bits,
            weak: key.is_weak(),
            state: key.state_text().into(),
            declared: key.declared,
            record: Record::of(key, domain),
            since: (!key.declared).then(|| rfc3339(key.since)),
            found: look.map(|look| look.found),
            checked_at: look.map(|look| rfc3339(look.checked)),
            seen: seen.filter(|seen| !seen.is_empty()),
            keep_published_until: key.needed_until().filter(|until| now < *until).map(rfc3339),
        }
    }

    pub fn of_domain(domain: &DomainInfo, now: UnixMs) -> Vec<Self> {
        let keys = domain.keys.iter();
        keys.map(|key| Self::of(key, &domain.name, false, now))
            .collect()
    }

    pub fn of_platform(platform: &Platform, now: UnixMs) -> Vec<Self> {
        let keys = platform.keys.iter();
        keys.map(|key| Self::of(key, &platform.domain, true, now))
            .collect()
    }
}

impl Record {
    fn of(key: &DkimKey, domain: &mail::Domain) -> Self {
        Self {
            name: key.host(domain),
            text: key.record(),
        }
    }
}

/// A TXT record to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub text: String,
}

impl Domain {
    pub fn of(domain: &DomainInfo, config: &Config, now: UnixMs) -> Self {
        let record = |state| {
            let key = domain.keys.first(state);
            key.map(|key| Record::of(key, &domain.name))
        };
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            id: domain.id,
            name: domain.name.to_string(),
            declared: domain.declared,
            may_send: domain.may_send(),
            verified_at: domain.verified.map(rfc3339),
            dkim_verified: domain.dkim_verified(),
            dkim_status: domain.dkim_status().to_ascii_lowercase(),
            dkim_pending: record(KeyState::Pending),
            dkim_active: record(KeyState::Active),
            dkim_revoked: record(KeyState::Revoked),
            dkim_revoked_removable: domain.safe_to_remove(now),
            dkim_keys: Key::of_domain(domain, now),
            return_path: given(&domain.attributes.return_path),
            return_path_verified: domain.attributes.return_path_found,
            spf_verified: domain.attributes.spf_found,
            findings: domain.attributes.findings.clone(),
            return_path_target: config.return_path_host().to_owned(),
            created_at: rfc3339(domain.created),
        }
    }
}

/// `GET /admin/v1/senders`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Senders {
    pub senders: Vec<SenderSignature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderSignature {
    pub id: u32,
    pub address: String,
    pub name: String,
    pub confirmed: bool,
    pub confirmed_at: Option<String>,
    pub reply_to: Option<String>,
    pub return_path: Option<String>,
    pub note: Option<String>,
    pub created_at: String,
}

impl From<&SignatureInfo> for SenderSignature {
    fn from(signature: &SignatureInfo) -> Self {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let attributes = &signature.attributes;
        Self {
            id: signature.id,
            address: signature.address.to_string(),
            name: attributes.name.clone(),
            confirmed: signature.confirmed.is_some(),
            confirmed_at: signature.confirmed.map(rfc3339),
            reply_to: given(&attributes.reply_to),
            return_path: given(&attributes.return_path),
            note: given(&attributes.note),
            created_at: rfc3339(signature.created),
        }
    }
}
