//! What may stand in From, as everybody reads it: domains and sender signatures.
//!
//! They belong to the account and serve all its servers (Postmark). The DKIM keys are the domain's: a signature at a domain
//! that nobody has added still has one, unlisted, so that the records to publish are the same whichever came first.

use serde::{Deserialize, Serialize};

use crate::clock::UnixMs;
use crate::config::Config;
use crate::mail::{Domain, Mailbox};

/// A domain of From.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    pub id: u32,
    pub name: Domain,
    /// Declared in the configuration file, where it counts as verified.
    pub declared: bool,
    /// Somebody has added it. Otherwise it is only the domain of signatures.
    pub listed: bool,
    /// When its DKIM record was first found: whoever published it owns the domain.
    pub verified: Option<UnixMs>,
    pub attributes: DomainAttributes,
    pub keys: DkimKeys,
    pub created: UnixMs,
}

/// What nothing searches by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainAttributes {
    /// The active key's record was there when it was last looked for.
    pub dkim_found: bool,
    /// SPF permitted every source for the domain of reverse-paths when that was last looked at.
    pub spf_found: bool,
    /// What the last check found wrong, as `level id about`; `None`: never checked.
    pub findings: Option<Vec<String>>,
    /// A sub-domain, in A-labels; empty: none.
    pub return_path: String,
    pub return_path_found: bool,
}

/// By their states: at most one key in each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DkimKeys {
    pub pending: Option<DkimKey>,
    pub active: Option<DkimKey>,
    pub revoked: Option<DkimKey>,
}

/// The public half. The private one of the active key is in the snapshot, to sign with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DkimKey {
    pub selector: String,
    /// SubjectPublicKeyInfo in base64.
    pub public: String,
    /// In its state.
    pub since: UnixMs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Pending,
    Active,
    Revoked,
}

impl DomainAttributes {
    /// The Return-Path domain, where it is an alias of ours.
    pub fn bounces_to(&self) -> Option<&str> {
        (self.return_path_found && !self.return_path.is_empty()).then_some(&*self.return_path)
    }
}

impl DomainInfo {
    /// Whether From may be any address at it. Found once is enough: a record that is lost later stops signing, not mail.
    pub fn may_send(&self) -> bool {
        self.declared || (self.listed && self.verified.is_some())
    }

    pub fn dkim_verified(&self) -> bool {
        self.declared || (self.keys.active.is_some() && self.attributes.dkim_found)
    }

    /// Postmark's word.
    pub fn dkim_status(&self) -> &'static str {
        match () {
            () if self.declared => "Verified",
            () if self.keys.pending.is_some() => "Pending",
            () if self.attributes.dkim_found => "Verified",
            () => "Failed",
        }
    }

    /// The domain that SPF judges its mail by: its Return-Path domain, even if that is not used yet, else the node's; else the
    /// sender's choice, which is mostly From's own.
    pub fn reverse_path_domain<'a>(&'a self, config: &'a Config) -> &'a str {
        match self.attributes.return_path.as_str() {
            "" => config
                .bounce
                .domain
                .as_ref()
                .map_or(self.name.as_str(), Domain::as_str),
            own => own,
        }
    }

    /// Where the record of a key stands.
    pub fn dkim_host(&self, key: &DkimKey) -> String {
        format!("{}._domainkey.{}", key.selector, self.name)
    }

    /// Whether the revoked key's record is needed no more: mail signed with it has long arrived.
    pub fn safe_to_remove(&self, now: UnixMs) -> bool {
        let revoked = self.keys.revoked.as_ref();
        revoked.is_some_and(|key| now.saturating_sub(key.since) >= REVOKED_NEEDED_MS)
    }
}

impl DkimKeys {
    pub fn of(&self, state: KeyState) -> Option<&DkimKey> {
        match state {
            KeyState::Pending => self.pending.as_ref(),
            KeyState::Active => self.active.as_ref(),
            KeyState::Revoked => self.revoked.as_ref(),
        }
    }

    pub fn put(&mut self, state: KeyState, key: DkimKey) {
        let place = match state {
            KeyState::Pending => &mut self.pending,
            KeyState::Active => &mut self.active,
            KeyState::Revoked => &mut self.revoked,
        };
        *place = Some(key);
    }

    pub fn has_selector(&self, selector: &str) -> bool {
        [&self.pending, &self.active, &self.revoked]
            .into_iter()
            .flatten()
            .any(|key| key.selector == selector)
    }
}

impl KeyState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }
}

/// A single address of From: Postmark's sender signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureInfo {
    pub id: u32,
    pub address: Mailbox,
    /// The domain's.
    pub domain_id: u32,
    /// When its owner followed the link. `None`: From may not be it.
    pub confirmed: Option<UnixMs>,
    pub attributes: SignatureAttributes,
    pub created: UnixMs,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SignatureAttributes {
    pub name: String,
    pub reply_to: String,
    pub return_path: String,
    pub note: String,
}

/// Addresses as they are compared. RFC 5321 §2.4 wants the case of a local-part kept; here it is folded, as Postmark does: no
/// host worth the name gives `Ada` and `ada` to two people, and mail programs write either.
pub fn folded(address: &Mailbox) -> String {
    format!(
        "{}@{}",
        address.local_part().to_lowercase(),
        address.domain()
    )
}

/// What the owner of an address or a domain has allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    MaySend,
    /// There is a signature, and nobody has followed its link.
    Unconfirmed,
    Unknown,
}

/// A new domain, or what is to change in one. As the admin API takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DomainPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Empty takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_path: Option<String>,
}

/// A new signature, or what is to change in one. As the admin API takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignaturePatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Longer than any host keeps mail that it could not deliver (RFC 5321 §4.5.4.1: four to five days).
const REVOKED_NEEDED_MS: UnixMs = 7 * 86_400_000;
