//! What may stand in From, as everybody reads it: domains and sender signatures.
//!
//! They belong to the account and serve all its servers (Postmark). The DKIM keys are the domain's: a signature at a domain
//! that nobody has added still has one, unlisted, so that the records to publish are the same whichever came first.

use serde::{Deserialize, Serialize};

use crate::clock::UnixMs;
use crate::config::Config;
use crate::mail::{Domain, Mailbox};

pub use super::keys::{DkimKey, DkimKeys, KeyState, Look};

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
    /// SPF permitted every source for the domain of reverse-paths when that was last looked at.
    pub spf_found: bool,
    /// What the last check found wrong, as `level id about`; `None`: never checked.
    pub findings: Option<Vec<String>>,
    /// Since when it is that.
    pub findings_since: UnixMs,
    /// A sub-domain, in A-labels; empty: none.
    pub return_path: String,
    pub return_path_found: bool,
    /// What it was found to be an alias of; empty: it was not, or before this was noted.
    pub return_path_to: String,
}

impl DomainAttributes {
    /// Takes what was found for nothing where it was the alias of another name than `ours`: that is what `[bounce] domain` was
    /// then. It is looked for again soon.
    pub fn trust_alias_of(&mut self, ours: &str) {
        if self.is_alias_of_another(ours) {
            self.return_path_found = false;
        }
    }

    /// Found once, and of no use any more.
    pub fn is_alias_of_another(&self, ours: &str) -> bool {
        let to = self.return_path_to.as_str();
        !to.is_empty() && !to.eq_ignore_ascii_case(ours)
    }

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

    /// Its mail is signed: a key in use was not missed when its record was last looked for. A domain that the configuration
    /// declares without keys is somebody else's to sign.
    pub fn dkim_verified(&self) -> bool {
        let signs = self.keys.usable().next().is_some();
        match self.declared {
            true => signs || self.keys.is_empty(),
            false => signs && self.verified.is_some(),
        }
    }

    /// Postmark's word, of the first algorithm.
    pub fn dkim_status(&self) -> &'static str {
        match () {
            () if self.declared && self.keys.is_empty() => "Verified",
            () if self.keys.first(KeyState::Pending).is_some() => "Pending",
            () if self
                .keys
                .first(KeyState::Active)
                .is_none_or(DkimKey::is_paused) =>
            {
                "Failed"
            }
            () if self.dkim_verified() => "Verified",
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
        key.host(&self.name)
    }

    /// Whether the records of all revoked keys are needed no more, and there are some.
    pub fn safe_to_remove(&self, now: UnixMs) -> bool {
        let mut revoked = self.keys.revoked().peekable();
        revoked.peek().is_some() && revoked.all(|key| key.is_removable(now))
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
    /// Of a new one: an Ed25519 key besides the RSA one. Without: as `[dkim] ed25519` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ed25519: Option<bool>,
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
