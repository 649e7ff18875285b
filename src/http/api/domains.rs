//! `/domains` (reference §10).

use std::sync::Arc;

use axum::http::Method;
use serde::Serialize;

use super::error::{ApiError, Code};
use super::json::{Field, Kind};
use super::{
    Access, Api, Ask, Page, Route, call, done, field, reply, required, specimen, specimen_done,
};
use crate::account::identity::DomainAttributes;
use crate::account::{DkimKey, DkimKeys, DomainInfo, DomainPatch, KeyState};
use crate::clock::UnixMs;
use crate::config::Config;
use crate::sign::Algorithm;

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/domains",
        access: Access::Account,
        about: "Domains in the order of their ids.",
        query: super::PAGE,
        body: &[],
        specimen: many,
        call: call!(list),
    },
    Route {
        method: Method::POST,
        path: "/domains",
        access: Access::Account,
        about: "A new domain with a DKIM key to be published. From may name it once its record has been verified.",
        query: &[],
        body: NEW_FIELDS,
        specimen: one,
        call: call!(create),
    },
    Route {
        method: Method::GET,
        path: "/domains/{id}",
        access: Access::Account,
        about: "One domain with its records.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(get),
    },
    Route {
        method: Method::PUT,
        path: "/domains/{id}",
        access: Access::Account,
        about: "Changes the Return-Path domain. Domains that the configuration file declares are changed there (513).",
        query: &[],
        body: FIELDS,
        specimen: one,
        call: call!(put),
    },
    Route {
        method: Method::DELETE,
        path: "/domains/{id}",
        access: Access::Account,
        about: "Deletes a domain: From may not name it from the next message on.",
        query: &[],
        body: &[],
        specimen: specimen_done,
        call: call!(delete),
    },
    Route {
        method: Method::PUT,
        path: "/domains/{id}/verifydkim",
        access: Access::Account,
        about: "Looks for the DKIM record in the DNS. 500, 709: no answer, nothing changed.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(verify_dkim),
    },
    Route {
        method: Method::PUT,
        path: "/domains/{id}/verifyreturnpath",
        access: Access::Account,
        about: "Looks for the CNAME of the Return-Path domain in the DNS. 500, 523: no answer, nothing changed.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(verify_return_path),
    },
    Route {
        method: Method::PUT,
        path: "/domains/{id}/verifycustomtracking",
        access: Access::Account,
        about: "There are no tracking domains, so there is none to verify (523).",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(verify_tracking),
    },
    Route {
        method: Method::POST,
        path: "/domains/{id}/verifyspf",
        access: Access::Account,
        about: "Looks whether SPF permits the egress sources for the domain of reverse-paths. 500, 523: no answer, nothing changed.",
        query: &[],
        body: &[],
        specimen: spf,
        call: call!(verify_spf),
    },
    Route {
        method: Method::POST,
        path: "/domains/{id}/rotatedkim",
        access: Access::Account,
        about: "A new DKIM key, pending until its record has been verified; the old one goes on signing.",
        query: &[],
        body: &[],
        specimen: rotated,
        call: call!(rotate),
    },
];

/// The records of a domain, as its own details and those of signatures at it have them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Records {
    #[serde(rename = "SPFVerified")]
    spf_verified: bool,
    #[serde(rename = "SPFHost")]
    spf_host: String,
    #[serde(rename = "SPFTextValue")]
    spf_text_value: String,
    #[serde(flatten)]
    dkim: Dkim,
    #[serde(rename = "ReturnPathDomain")]
    pub(super) return_path: String,
    #[serde(rename = "ReturnPathDomainVerified")]
    pub(super) return_path_verified: bool,
    #[serde(rename = "ReturnPathDomainCNAMEValue")]
    return_path_cname: String,
    custom_tracking_domain: &'static str,
    #[serde(rename = "CustomTrackingDomainCNAMEValue")]
    custom_tracking_cname: &'static str,
    custom_tracking_verified: bool,
}

#[derive(Serialize)]
struct Dkim {
    #[serde(rename = "DKIMVerified")]
    verified: bool,
    #[serde(rename = "WeakDKIM")]
    weak: bool,
    #[serde(rename = "DKIMHost")]
    host: String,
    #[serde(rename = "DKIMTextValue")]
    text: String,
    #[serde(rename = "DKIMPendingHost")]
    pending_host: String,
    #[serde(rename = "DKIMPendingTextValue")]
    pending_text: String,
    #[serde(rename = "DKIMRevokedHost")]
    revoked_host: String,
    #[serde(rename = "DKIMRevokedTextValue")]
    revoked_text: String,
    #[serde(rename = "SafeToRemoveRevokedKeyFromDNS")]
    safe_to_remove: bool,
    #[serde(rename = "DKIMUpdateStatus")]
    status: &'static str,
    /// Ours: all keys, where there is one that the fields above have no room for.
    #[serde(rename = "DKIMKeys", skip_serializing_if = "Vec::is_empty")]
    keys: Vec<Key>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    algorithm: &'static str,
    /// `pending`, `active`, `paused` or `revoked`.
    state: &'static str,
    host: String,
    text_value: String,
}

/// Postmark's object, every key of it always there.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    #[serde(rename = "ID")]
    id: u32,
    name: String,
    #[serde(flatten)]
    records: Records,
}

/// An entry of the listing.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Brief {
    #[serde(rename = "ID")]
    id: u32,
    name: String,
    #[serde(rename = "SPFVerified")]
    spf_verified: bool,
    #[serde(rename = "DKIMVerified")]
    dkim_verified: bool,
    #[serde(rename = "WeakDKIM")]
    weak_dkim: bool,
    return_path_domain_verified: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    total_count: usize,
    domains: Vec<Brief>,
}

/// What a rotation answers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Rotated {
    #[serde(rename = "ID")]
    id: u32,
    name: String,
    #[serde(flatten)]
    dkim: Dkim,
}

#[derive(Serialize)]
struct Spf {
    #[serde(rename = "SPFVerified")]
    verified: bool,
    #[serde(rename = "SPFHost")]
    host: String,
    #[serde(rename = "SPFTextValue")]
    text: String,
}

impl Dkim {
    fn new(domain: &DomainInfo, now: UnixMs) -> Self {
        let record = |state| {
            let key: Option<&DkimKey> = domain.keys.first(state);
            key.map_or_else(Default::default, |key| {
                (domain.dkim_host(key), key.record())
            })
        };
        let (host, text) = record(KeyState::Active);
        let (pending_host, pending_text) = record(KeyState::Pending);
        let (revoked_host, revoked_text) = record(KeyState::Revoked);
        Self {
            verified: domain.dkim_verified(),
            weak: is_weak(domain),
            host,
            text,
            pending_host,
            pending_text,
            revoked_host,
            revoked_text,
            safe_to_remove: domain.safe_to_remove(now),
            status: domain.dkim_status(),
            keys: match domain
                .keys
                .iter()
                .any(|key| key.algorithm != domain.keys.first_algorithm())
            {
                true => domain
                    .keys
                    .iter()
                    .map(|key| Key::new(domain, key))
                    .collect(),
                false => Vec::new(),
            },
        }
    }
}

impl Key {
    fn new(domain: &DomainInfo, key: &DkimKey) -> Self {
        Self {
            algorithm: key.algorithm.as_str(),
            state: key.state_text(),
            host: domain.dkim_host(key),
            text_value: key.record(),
        }
    }
}

impl Records {
    pub(super) fn new(domain: &DomainInfo, config: &Config, now: UnixMs) -> Self {
        let ours = config.return_path_host();
        Self {
            spf_verified: domain.attributes.spf_found,
            spf_host: domain.reverse_path_domain(config).to_owned(),
            spf_text_value: format!("v=spf1 a mx include:{ours} ~all"),
            dkim: Dkim::new(domain, now),
            return_path: domain.attributes.return_path.clone(),
            return_path_verified: domain.attributes.return_path_found,
            return_path_cname: ours.to_owned(),
            custom_tracking_domain: "",
            custom_tracking_cname: "",
            custom_tracking_verified: false,
        }
    }
}

/// An imported key may be: those that the node makes have 2048 bits.
fn is_weak(domain: &DomainInfo) -> bool {
    let active = domain.keys.first(KeyState::Active);
    active.is_some_and(DkimKey::is_weak)
}

impl Object {
    fn new(domain: &DomainInfo, config: &Config, now: UnixMs) -> Self {
        Self {
            id: domain.id,
            name: domain.name.to_string(),
            records: Records::new(domain, config, now),
        }
    }
}

impl Brief {
    fn new(domain: &DomainInfo) -> Self {
        Self {
            id: domain.id,
            name: domain.name.to_string(),
            spf_verified: domain.attributes.spf_found,
            dkim_verified: domain.dkim_verified(),
            weak_dkim: is_weak(domain),
            return_path_domain_verified: domain.attributes.return_path_found,
        }
    }
}

impl Api {
    fn domain_object(&self, domain: &DomainInfo) -> Result<String, ApiError> {
        let config = self.settings.config();
        reply(&Object::new(domain, &config, self.clock.unix_ms()))
    }
}

async fn list(api: Api, ask: Ask) -> Result<String, ApiError> {
    let page: Page = ask.query.page(Code(500))?;
    let snapshot = api.settings.accounts().load();
    let listed = |domain: &&Arc<DomainInfo>| domain.listed || domain.declared;
    let (total_count, page) = page.of(snapshot.domains().filter(listed));
    reply(&List {
        total_count,
        domains: page.into_iter().map(|d| Brief::new(d)).collect(),
    })
}

async fn get(api: Api, ask: Ask) -> Result<String, ApiError> {
    api.domain_object(&*api.settings.domain(ask.id())?)
}

async fn create(api: Api, ask: Ask) -> Result<String, ApiError> {
    let new = DomainPatch {
        name: ask.body.text("Name"),
        return_path: ask.body.text("ReturnPathDomain"),
        ed25519: ask.body.flag("DKIMEd25519"),
    };
    let now = api.clock.unix_ms();
    api.domain_object(&*api.settings.create_domain(&new, now).await?)
}

async fn put(api: Api, ask: Ask) -> Result<String, ApiError> {
    api.settings.domain(ask.id())?;
    if ask.body.is_empty() {
        return Err(ApiError::new(Code(502), "No domain data received."));
    }
    let patch = DomainPatch {
        return_path: ask.body.text("ReturnPathDomain"),
        ..DomainPatch::default()
    };
    api.domain_object(&*api.settings.edit_domain(ask.id(), &patch).await?)
}

async fn delete(api: Api, ask: Ask) -> Result<String, ApiError> {
    let deleted = api.settings.delete_domain(ask.id()).await?;
    done(format!("Domain {} removed.", deleted.name))
}

async fn verify_dkim(api: Api, ask: Ask) -> Result<String, ApiError> {
    let now = api.clock.unix_ms();
    let verified = api.settings.verify_dkim(ask.id(), &*api.outside, now);
    api.domain_object(&*verified.await?)
}

async fn verify_return_path(api: Api, ask: Ask) -> Result<String, ApiError> {
    let verified = api.settings.verify_return_path(ask.id(), &*api.outside);
    api.domain_object(&*verified.await?)
}

async fn verify_tracking(api: Api, ask: Ask) -> Result<String, ApiError> {
    let domain = api.settings.domain(ask.id())?;
    Err(ApiError::new(
        Code(523),
        format!(
            "The domain '{}' has no custom tracking domain whose CNAME could be verified.",
            domain.name
        ),
    ))
}

async fn verify_spf(api: Api, ask: Ask) -> Result<String, ApiError> {
    let id = api.settings.domain(ask.id())?.id;
    let domain = api.settings.verify_spf(id, &*api.outside).await?;
    reply(&Spf::new(&domain, &api.settings.config()))
}

impl Spf {
    fn new(domain: &DomainInfo, config: &Config) -> Self {
        let records = Records::new(domain, config, 0);
        Self {
            verified: records.spf_verified,
            host: records.spf_host,
            text: records.spf_text_value,
        }
    }
}

async fn rotate(api: Api, ask: Ask) -> Result<String, ApiError> {
    let id = api.settings.domain(ask.id())?.id;
    let now = api.clock.unix_ms();
    let domain = api.settings.rotate_dkim(id, None, now).await?;
    reply(&Rotated {
        id,
        name: domain.name.to_string(),
        dkim: Dkim::new(&domain, now),
    })
}

fn one() -> String {
    specimen(&Object::new(&specimen_domain(), &specimen_config(), 0))
}

fn many() -> String {
    specimen(&List {
        total_count: 1,
        domains: vec![Brief::new(&specimen_domain())],
    })
}

fn spf() -> String {
    specimen(&Spf::new(&specimen_domain(), &specimen_config()))
}

fn rotated() -> String {
    let domain = specimen_domain();
    specimen(&Rotated {
        id: domain.id,
        name: domain.name.to_string(),
        dkim: Dkim::new(&domain, 0),
    })
}

pub(super) fn specimen_config() -> Config {
    let mut config = Config::development(None);
    config.node.hostname = "mail.shop.example".into();
    config
}

pub(super) fn specimen_domain() -> DomainInfo {
    let name = crate::mail::Domain::parse("shop.example");
    DomainInfo {
        id: 12,
        name: name.unwrap_or_else(|_| unreachable!("shop.example is a domain")),
        declared: false,
        listed: true,
        verified: None,
        attributes: DomainAttributes {
            return_path: "pm-bounces.shop.example".into(),
            ..DomainAttributes::default()
        },
        keys: DkimKeys(vec![DkimKey {
            selector: "20260305081851pm".into(),
            algorithm: Algorithm::Rsa,
            bits: 2048,
            public: "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA".into(),
            state: KeyState::Pending,
            since: 0,
            declared: false,
            look: None,
        }]),
        created: 0,
    }
}

const RETURN_PATH: Field = field(
    "ReturnPathDomain",
    Kind::Text,
    "A sub-domain whose CNAME leads here; empty takes it away.",
);
const FIELDS: &[Field] = &[RETURN_PATH];
const NEW_FIELDS: &[Field] = &[
    required(
        "Name",
        Kind::Text,
        "The domain; no public mailbox provider's.",
    ),
    RETURN_PATH,
    field(
        "DKIMEd25519",
        Kind::Flag,
        "Ours: an Ed25519 key besides the RSA one; DKIMKeys then has both. Without: as the node is configured.",
    ),
];
