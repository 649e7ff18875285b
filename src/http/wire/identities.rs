//! Domains and sender signatures in the admin API.
//!
//! Bodies are [`crate::account`]'s own patches: `DomainPatch`, `SignaturePatch`.

use serde::{Deserialize, Serialize};

use crate::account::identity::KeyState;
use crate::account::{DomainInfo, SignatureInfo, dkim_record};
use crate::clock::{UnixMs, rfc3339};
use crate::config::Config;

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
    /// The active key's record was there at the last look.
    pub dkim_verified: bool,
    /// `pending`, `verified` or `failed`.
    pub dkim_status: String,
    pub dkim_pending: Option<Record>,
    pub dkim_active: Option<Record>,
    pub dkim_revoked: Option<Record>,
    /// The revoked key's record is needed no more.
    pub dkim_revoked_removable: bool,
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

/// A TXT record to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub text: String,
}

impl Domain {
    pub fn of(domain: &DomainInfo, config: &Config, now: UnixMs) -> Self {
        let record = |state| {
            let key = domain.keys.of(state).filter(|_| !domain.declared)?;
            Some(Record {
                name: domain.dkim_host(key),
                text: dkim_record(&key.public),
            })
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
