//! Domains of From: adding, changing and deleting them. Their keys: `keying.rs`.
//!
//! A change that needs the DNS asks before it takes the lock: other changes do not wait for name servers.

use std::sync::Arc;

use super::dkim;
use super::identity::{DkimKeys, DomainAttributes, DomainInfo, DomainPatch, KeyState};
use super::outside::Outside;
use super::public_mailboxes::is_public;
use super::rules::{Refused, Rule, shown};
use super::store::{DomainRow, Keyed};
use super::{Change, ChangeError, Settings};
use crate::clock::UnixMs;
use crate::limits;
use crate::mail::Domain;
use crate::sign::{Algorithm, WholeKey};

impl Settings {
    /// A domain that is or was added, or declared.
    pub fn domain(&self, id: u32) -> Result<Arc<DomainInfo>, Refused> {
        let snapshot = self.accounts.load();
        let listed = snapshot
            .domain(id)
            .filter(|domain| domain.listed || domain.declared);
        listed.cloned().ok_or_else(unknown)
    }

    pub fn domain_named(&self, name: &str) -> Result<Arc<DomainInfo>, Refused> {
        let name = Domain::parse(name).map_err(|_| unknown())?;
        let snapshot = self.accounts.load();
        let id = snapshot.domain_named(&name).map(|domain| domain.id);
        self.domain(id.ok_or_else(unknown)?)
    }

    pub async fn create_domain(
        &self,
        new: &DomainPatch,
        now: UnixMs,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let name = domain_name(new.name.as_deref())?;
        self.may_add(&name)?;
        let return_path = new.return_path.as_deref().unwrap_or_default();
        let attributes = DomainAttributes {
            return_path: return_path_of(return_path, &name, Rule::DomainField)?,
            ..DomainAttributes::default()
        };
        let keys = self.first_keys(new.ed25519).await?;
        let _one = self.changing.lock().await;
        self.may_add(&name)?;
        let snapshot = self.accounts.load();
        let known = snapshot.domain_named(&name);
        let known = known.filter(|domain| has_keys(&domain.keys));
        let id = match known {
            // The domain of a signature: its key is known to whoever publishes it. Proof is asked for anew.
            Some(known) => {
                let row = DomainRow {
                    listed: true,
                    verified: None,
                    attributes,
                    ..row_of(known)
                };
                let updated = self.store.update_domain(&row).await;
                self.noting(updated)?;
                known.id
            }
            None => {
                self.store_domain(&name, true, attributes, &keys, now)
                    .await?
            }
        };
        self.changed(Change::Domain(id)).await?;
        Ok(self.domain(id)?)
    }

    /// Takes the Return-Path domain, which has then to be verified.
    pub async fn edit_domain(
        &self,
        id: u32,
        patch: &DomainPatch,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let domain = self.changeable_domain(id)?;
        let mut row = row_of(&domain);
        if let Some(given) = patch.name.as_deref()
            && !Domain::parse(given).is_ok_and(|name| name == domain.name)
        {
            let message = "The name of a domain cannot be changed: add the other one.";
            return Err(Refused::new(Rule::DomainField, message).into());
        }
        if let Some(given) = &patch.return_path {
            let wanted = return_path_of(given, &domain.name, Rule::DomainField)?;
            if wanted != row.attributes.return_path {
                row.attributes.return_path = wanted;
                row.attributes.return_path_found = false;
                row.attributes.return_path_to.clear();
                row.attributes.spf_found = false;
            }
        }
        self.update_domain(&row).await
    }

    /// Its From is refused from the next message on, but where a signature allows it.
    pub async fn delete_domain(&self, id: u32) -> Result<Arc<DomainInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let domain = self.changeable_domain(id)?;
        let deleted = self.store.delete_domain(id).await;
        self.noting(deleted)?;
        self.changed(Change::Domain(id)).await?;
        Ok(domain)
    }

    /// Looks whether the Return-Path domain is an alias of ours.
    pub async fn verify_return_path(
        &self,
        id: u32,
        outside: &dyn Outside,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let domain = self.domain(id)?;
        let host = domain.attributes.return_path.clone();
        if host.is_empty() {
            return Ok(domain);
        }
        let alias = outside.alias(host.clone()).await.map_err(|why| {
            let message = format!(
                "The CNAME of '{host}' could not be looked up, so nothing has changed: {why}."
            );
            Refused::new(Rule::ReturnPathUndecided, message)
        })?;
        let config = self.config.load_full();
        let _one = self.changing.lock().await;
        let domain = self.domain(id)?;
        let mut row = row_of(&domain);
        if row.attributes.return_path != host {
            return Ok(domain);
        }
        let ours = config.return_path_host();
        let is_ours = |to: Domain| to.as_str().eq_ignore_ascii_case(ours);
        row.attributes.return_path_found = alias.is_some_and(is_ours);
        row.attributes.return_path_to = match row.attributes.return_path_found {
            true => ours.to_ascii_lowercase(),
            false => String::new(),
        };
        // The timetable asks of every domain every day: what was known already is no change.
        if row.attributes == domain.attributes {
            return Ok(domain);
        }
        self.update_domain(&row).await
    }

    /// Looks whether SPF permits every source for the domain that its mail's reverse-paths are of.
    pub async fn verify_spf(
        &self,
        id: u32,
        outside: &dyn Outside,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let known = || self.accounts.load().domain(id).cloned();
        let config = self.config.load_full();
        let domain = known().ok_or_else(unknown)?;
        let host = domain.reverse_path_domain(&config).to_owned();
        let permits = outside.spf_permits(host.clone()).await.map_err(|why| {
            let message =
                format!("SPF of '{host}' could not be looked up, so nothing has changed: {why}.");
            Refused::new(Rule::SpfUndecided, message)
        })?;
        let _one = self.changing.lock().await;
        let domain = known().ok_or_else(unknown)?;
        let mut row = row_of(&domain);
        if row.attributes.spf_found == permits || domain.reverse_path_domain(&config) != host {
            return Ok(domain);
        }
        row.attributes.spf_found = permits;
        let updated = self.store.update_domain(&row).await;
        self.noting(updated)?;
        self.changed(Change::Domain(id)).await?;
        Ok(known().ok_or_else(unknown)?)
    }

    /// Keeps what a check found. `merge` makes the lines to keep of those that are kept, each `None` while nobody can say anything;
    /// `Some`: these and the new ones, where they differ. A domain that was changed meanwhile stays as it is.
    pub async fn note_check(
        &self,
        checked: &DomainInfo,
        spf_permits: Option<bool>,
        now: UnixMs,
        merge: impl FnOnce(Option<&[String]>) -> Option<Vec<String>>,
    ) -> Result<Option<(Vec<String>, Vec<String>)>, ChangeError> {
        let _one = self.changing.lock().await;
        let domain = self.accounts.load().domain(checked.id).cloned();
        let same = |d: &Arc<DomainInfo>| {
            d.name == checked.name && d.attributes.return_path == checked.attributes.return_path
        };
        let Some(domain) = domain.filter(same) else {
            return Ok(None);
        };
        let known = domain.attributes.findings.clone();
        let lines = merge(known.as_deref());
        let mut row = row_of(&domain);
        if known != lines {
            row.attributes.findings_since = now;
        }
        row.attributes.findings = lines.clone();
        row.attributes.spf_found = spf_permits.unwrap_or(row.attributes.spf_found);
        if row.attributes == domain.attributes {
            return Ok(None);
        }
        let updated = self.store.update_domain(&row).await;
        self.noting(updated)?;
        self.changed(Change::Domain(domain.id)).await?;
        let (known, lines) = (known.unwrap_or_default(), lines.unwrap_or_default());
        Ok((known != lines).then_some((known, lines)))
    }

    /// The caller holds the lock and knows that the store has no keys for the name.
    pub(super) async fn store_domain(
        &self,
        name: &Domain,
        listed: bool,
        attributes: DomainAttributes,
        keys: &[WholeKey],
        now: UnixMs,
    ) -> Result<u32, ChangeError> {
        let row = DomainRow {
            id: 0,
            name: name.as_str().to_owned(),
            declared: false,
            listed,
            verified: None,
            attributes,
            keys: DkimKeys::default(),
            created: now,
        };
        let selectors = (0..).map(|second: u64| dkim::selector(now + 1_000 * second));
        let selectors: Vec<String> = selectors.take(keys.len()).collect();
        let keyed = selectors.iter().zip(keys);
        let keyed: Vec<Keyed<'_>> = keyed
            .map(|(selector, key)| Keyed { selector, key })
            .collect();
        let created = self.store.create_domain(&row, &keyed).await;
        Ok(self.noting(created)?)
    }

    /// RSA always: every verifier knows it. Ed25519 besides where it is asked for: with a record that nobody publishes it
    /// would wait for ever, and Postmark's objects, which many programs publish from, have room for one key.
    pub(super) async fn first_keys(
        &self,
        ed25519: Option<bool>,
    ) -> Result<Vec<WholeKey>, ChangeError> {
        let mut keys = vec![self.new_key(Algorithm::Rsa).await?];
        if ed25519.unwrap_or_else(|| self.config.load().signing.ed25519) {
            keys.push(self.new_key(Algorithm::Ed25519).await?);
        }
        Ok(keys)
    }

    pub(super) async fn update_domain(
        &self,
        row: &DomainRow,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let updated = self.store.update_domain(row).await;
        self.noting(updated)?;
        self.changed(Change::Domain(row.id)).await?;
        Ok(self.domain(row.id)?)
    }

    fn may_add(&self, name: &Domain) -> Result<(), Refused> {
        if is_public(name) {
            return Err(public(name));
        }
        let snapshot = self.accounts.load();
        match snapshot.domain_named(name) {
            Some(known) if known.declared => Err(Refused::new(
                Rule::DomainTaken,
                format!(
                    "The domain '{name}' is declared in {}, and counts as verified.",
                    self.configuration_file()
                ),
            )),
            Some(known) if known.listed => Err(Refused::new(
                Rule::DomainTaken,
                format!("The domain '{name}' already exists."),
            )),
            _ if snapshot.domains().count() >= limits::DOMAINS_MAX => Err(Refused::new(
                Rule::DomainCount,
                format!(
                    "There are {} domains, which is the limit.",
                    limits::DOMAINS_MAX
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn changeable_domain(&self, id: u32) -> Result<Arc<DomainInfo>, Refused> {
        let domain = self.domain(id)?;
        match domain.declared {
            false => Ok(domain),
            true => Err(Refused::new(
                Rule::DomainDeclared,
                format!(
                    "The domain '{}' is declared in {} and can be changed only there: edit it and reload the node (SIGHUP).",
                    domain.name,
                    self.configuration_file()
                ),
            )),
        }
    }
}

pub(super) fn row_of(domain: &DomainInfo) -> DomainRow {
    DomainRow {
        id: domain.id,
        name: domain.name.as_str().to_owned(),
        declared: domain.declared,
        listed: domain.listed,
        verified: domain.verified,
        attributes: domain.attributes.clone(),
        keys: domain.keys.clone(),
        created: domain.created,
    }
}

pub(super) fn has_keys(keys: &DkimKeys) -> bool {
    keys.first(KeyState::Pending).is_some() || keys.first(KeyState::Active).is_some()
}

fn domain_name(given: Option<&str>) -> Result<Domain, Refused> {
    let given = given.map(str::trim).unwrap_or_default();
    // As in zone files.
    let given = given.strip_suffix('.').unwrap_or(given);
    if given.is_empty() {
        return Err(Refused::new(
            Rule::DomainNameMissing,
            "The 'Name' of the domain is required.",
        ));
    }
    if given.chars().count() > DOMAIN_CHARS_MAX {
        return Err(Refused::new(
            Rule::DomainNameLength,
            format!("The 'Name' of a domain has at most {DOMAIN_CHARS_MAX} characters."),
        ));
    }
    let domain = Domain::parse(given).ok().filter(is_full);
    domain.ok_or_else(|| {
        Refused::new(
            Rule::DomainNameForm,
            format!("The 'Name' '{}' is no domain.", shown(given)),
        )
    })
}

/// A sub-domain of `parent` in A-labels; empty stays empty.
pub(super) fn return_path_of(given: &str, parent: &Domain, rule: Rule) -> Result<String, Refused> {
    let given = given.trim();
    if given.is_empty() {
        return Ok(String::new());
    }
    let below = |domain: &Domain| {
        let rest = domain.as_str().strip_suffix(parent.as_str());
        rest.is_some_and(|rest| rest.ends_with('.'))
    };
    let domain = Domain::parse(given).ok().filter(below);
    let domain = domain.ok_or_else(|| {
        Refused::new(
            rule,
            format!(
                "The 'ReturnPathDomain' '{}' is no sub-domain of '{parent}', such as pm-bounces.{parent}.",
                shown(given)
            ),
        )
    })?;
    Ok(domain.as_str().to_owned())
}

/// Not an address literal, nor a name of one label.
pub(super) fn is_full(domain: &Domain) -> bool {
    let last = domain.as_str().rsplit('.').next().unwrap_or_default();
    domain.literal().is_none()
        && domain.as_str().contains('.')
        && !last.bytes().all(|b| b.is_ascii_digit())
}

pub(super) fn public(domain: &Domain) -> Refused {
    Refused::new(
        Rule::PublicMailbox,
        format!(
            "'{domain}' is a public mailbox domain, which nobody but its provider may send from. Use a domain of your own."
        ),
    )
}

pub(super) fn unknown() -> Refused {
    Refused::new(Rule::DomainUnknown, "The domain was not found.")
}

const DOMAIN_CHARS_MAX: usize = 255;
