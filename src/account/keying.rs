//! DKIM keys of domains: proving, renewing, importing and revoking them.
//!
//! Promises: a key signs only after its record was found, or because the configuration declares it; it stops when the DNS
//! says for certain that the record is gone, and goes on by itself when it is back; a failure to answer changes nothing.
//! What is proved is proved of a key by its public half, so an answer that came for a key which has been followed meanwhile
//! changes nothing. `keys.rs` has the states.

use std::sync::Arc;

use super::dkim;
use super::domains::{row_of, unknown};
use super::identity::DomainInfo;
use super::keys::{DkimKey, DkimKeys, KeyState, Look};
use super::outside::{KeyFact, KeyNews, Outside};
use super::rules::{Refused, Rule, shown};
use super::store::{Keyed, LookRow};
use super::{Change, ChangeError, Settings, StoreError};
use crate::clock::UnixMs;
use crate::limits;
use crate::mail::Domain;
use crate::metrics;
use crate::sign::{Algorithm, KeyFault, WholeKey};

/// What follows when a record is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// Somebody has asked, or it is the second look: its key is paused.
    AtOnce,
    /// Its key signs on until it has been looked for again: zones are sometimes empty for a minute.
    LookAgain,
}

/// What a round of looks has left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// A record was not there for a key that signs on: [`Belief::LookAgain`].
    pub doubted: bool,
    /// What could not be found out, in a sentence.
    pub undecided: Option<String>,
}

/// What the DNS says of one key.
enum Sight {
    Found,
    Missing(&'static str),
    Undecided(String),
}

impl Settings {
    /// Looks for the records of all keys, as somebody asks. An error is about the first that could not be looked up.
    pub async fn verify_dkim(
        &self,
        id: u32,
        outside: &dyn Outside,
        now: UnixMs,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let domain = self.domain(id)?;
        if domain.keys.is_empty() && !domain.declared {
            let message = format!("The domain '{}' has no DKIM key.", domain.name);
            return Err(Refused::new(Rule::DkimNone, message).into());
        }
        let looked = self.look_at_keys(id, outside, now, Belief::AtOnce).await?;
        match looked.undecided {
            Some(message) => Err(Refused::new(Rule::DkimUndecided, message).into()),
            None => Ok(self.domain(id)?),
        }
    }

    /// Looks for the records of all keys of a domain that are or will be in use, listed or a signature's.
    pub async fn look_at_keys(
        &self,
        id: u32,
        outside: &dyn Outside,
        now: UnixMs,
        belief: Belief,
    ) -> Result<Looked, ChangeError> {
        let known = || self.accounts.load().domain(id).cloned();
        let domain = known().ok_or_else(unknown)?;
        let sights = look(&domain.name, &domain.keys, outside).await;

        let _one = self.changing.lock().await;
        let domain = known().ok_or_else(unknown)?;
        let seen = weigh(&domain.name, &domain.keys, sights, now, belief);
        // Nothing was asked, or answered.
        if seen.looks.is_empty() {
            return Ok(seen.looked);
        }
        let forget = now.saturating_sub(LOOKS_KEPT_MS);
        let noted = self.store.note_looks(&seen.looks, forget).await;
        self.noting(noted)?;
        let mut row = row_of(&domain);
        let needed = limits::SIGNATURE_VALID.as_millis() as UnixMs;
        if row.verified.is_none() && seen.found && !domain.declared {
            row.verified = Some(now);
            let updated = self.store.update_domain(&row).await;
            self.noting(updated)?;
        }
        for key in &seen.published {
            let forget = now.saturating_sub(needed);
            let activated = self.store.activate_key(&row, key, now, forget).await;
            self.noting(activated)?;
        }
        self.changed(Change::Domain(id)).await?;
        tell(&domain.name, &seen, outside, now).await;
        Ok(seen.looked)
    }

    /// As [`Settings::look_at_keys`], of the platform's own keys.
    pub async fn look_at_platform_keys(
        &self,
        outside: &dyn Outside,
        now: UnixMs,
        belief: Belief,
    ) -> Result<Looked, ChangeError> {
        let Some(platform) = self.accounts.load().platform().cloned() else {
            return Ok(Looked::default());
        };
        let sights = look(&platform.domain, &platform.keys, outside).await;
        let _one = self.changing.lock().await;
        let Some(platform) = self.accounts.load().platform().cloned() else {
            return Ok(Looked::default());
        };
        let seen = weigh(&platform.domain, &platform.keys, sights, now, belief);
        if seen.looks.is_empty() {
            return Ok(seen.looked);
        }
        let forget = now.saturating_sub(LOOKS_KEPT_MS);
        let noted = self.store.note_looks(&seen.looks, forget).await;
        self.noting(noted)?;
        self.changed(Change::Platform).await?;
        tell(&platform.domain, &seen, outside, now).await;
        Ok(seen.looked)
    }

    /// A new key, pending, while the active one goes on signing. Of a domain that is listed or a signature's.
    pub async fn rotate_dkim(
        &self,
        id: u32,
        algorithm: Option<Algorithm>,
        now: UnixMs,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        self.make_key(id, algorithm, now, may_rotate).await
    }

    /// The first key of an algorithm, pending.
    pub async fn add_dkim(
        &self,
        id: u32,
        algorithm: Algorithm,
        now: UnixMs,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        self.make_key(id, Some(algorithm), now, may_add).await
    }

    async fn make_key(
        &self,
        id: u32,
        algorithm: Option<Algorithm>,
        now: UnixMs,
        may: fn(&DomainInfo, Algorithm, UnixMs) -> Result<(), Refused>,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let known = || self.accounts.load().domain(id).cloned();
        let domain = known().ok_or_else(unknown)?;
        let algorithm = algorithm.unwrap_or_else(|| domain.keys.first_algorithm());
        may(&domain, algorithm, now)?;
        let key = self.new_key(algorithm).await?;
        let _one = self.changing.lock().await;
        let domain = known().ok_or_else(unknown)?;
        may(&domain, algorithm, now)?;
        let selector = free_selector(&domain.keys, now);
        self.add_key(id, &selector, &key, None, now).await
    }

    /// A key that was made elsewhere, pending: in the place of one of its algorithm that has never signed.
    pub async fn import_dkim(
        &self,
        id: u32,
        selector: &str,
        pem: &[u8],
        now: UnixMs,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let invalid = |message: String| Refused::new(Rule::DomainField, message);
        let key = WholeKey::from_pem(pem)
            .map_err(|fault| invalid(format!("The DKIM key cannot be used: {fault}.")))?;
        if !crate::mail::is_selector(selector) {
            let shown = shown(selector);
            return Err(invalid(format!(
                "The selector '{shown}' is none; it is a name such as ph1 or 2026.mail (letters, digits, hyphens)."
            ))
            .into());
        }
        let _one = self.changing.lock().await;
        let snapshot = self.accounts.load();
        let domain = snapshot.domain(id).cloned().ok_or_else(unknown)?;
        not_declared(&domain)?;
        let replaced = domain.keys.of(key.algorithm, KeyState::Pending);
        let replaced = replaced.map(|key| key.selector.clone());
        let known = domain.keys.iter().find(|known| {
            known.public == key.public
                || (known.selector == selector && replaced.as_deref() != Some(selector))
        });
        if let Some(known) = known {
            let message = match known.public == key.public {
                true => format!(
                    "The domain '{}' has this key, as {}.",
                    domain.name, known.selector
                ),
                false => format!(
                    "The domain '{}' has another key with the selector {selector}; import this one under another, and publish its record there.",
                    domain.name
                ),
            };
            return Err(Refused::new(Rule::DkimPending, message).into());
        }
        not_too_many(&domain, now)?;
        self.add_key(id, selector, &key, replaced.as_deref(), now)
            .await
    }

    async fn add_key(
        &self,
        id: u32,
        selector: &str,
        key: &WholeKey,
        replaced: Option<&str>,
        now: UnixMs,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let keyed = Keyed { selector, key };
        let added = self.store.add_key(id, &keyed, replaced, now).await;
        self.noting(added)?;
        self.changed(Change::Domain(id)).await?;
        let domain = self.accounts.load().domain(id).cloned();
        Ok(domain.ok_or_else(unknown)?)
    }

    /// Takes a key out of use, from the next message on: a pending one is forgotten, an active one signs no more.
    pub async fn revoke_dkim(
        &self,
        id: u32,
        selector: &str,
        now: UnixMs,
    ) -> Result<Arc<DomainInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let snapshot = self.accounts.load();
        let domain = snapshot.domain(id).cloned().ok_or_else(unknown)?;
        not_declared(&domain)?;
        let key = domain.keys.find(selector).ok_or_else(|| {
            let message = format!(
                "The domain '{}' has no key '{}'.",
                domain.name,
                shown(selector)
            );
            Refused::new(Rule::DkimNone, message)
        })?;
        let done = match key.state {
            KeyState::Pending => self.store.delete_key(id, selector).await,
            KeyState::Active => self.store.revoke_key(id, selector, now).await,
            KeyState::Revoked => {
                let message = format!("The key {selector} of '{}' signs no more.", domain.name);
                return Err(Refused::new(Rule::DkimNone, message).into());
            }
        };
        self.noting(done)?;
        self.changed(Change::Domain(id)).await?;
        let domain = self.accounts.load().domain(id).cloned();
        Ok(domain.ok_or_else(unknown)?)
    }

    /// Makes a key off the reactor, one at a time: a flood of new domains takes one processor at most.
    pub(super) async fn new_key(&self, algorithm: Algorithm) -> Result<WholeKey, ChangeError> {
        let failed = |fault: KeyFault| StoreError::NoKey(fault);
        let stopped = |_| failed(KeyFault::Library);
        let _turn = self
            .keying
            .acquire()
            .await
            .map_err(|_| failed(KeyFault::Library))?;
        let made = tokio::task::spawn_blocking(move || WholeKey::generate(algorithm)).await;
        Ok(made.map_err(stopped)?.map_err(failed)?)
    }
}

/// One name after the other: what one customer has published is asked for by one question at a time.
async fn look(name: &Domain, keys: &DkimKeys, outside: &dyn Outside) -> Vec<(DkimKey, Sight)> {
    let mut sights = Vec::new();
    for key in keys.iter().filter(|key| key.state != KeyState::Revoked) {
        let host = key.host(name);
        let sight = match outside.texts(host.clone()).await {
            Err(why) => Sight::Undecided(format!(
                "The DKIM record at '{host}' could not be looked up, so nothing has changed: {why}."
            )),
            Ok(texts) => match dkim::judge(&texts, key) {
                Ok(()) => Sight::Found,
                Err(seen) => Sight::Missing(seen),
            },
        };
        metrics::DKIM_LOOKS.add_to(
            match sight {
                Sight::Found => "found",
                Sight::Missing(_) => "missing",
                Sight::Undecided(_) => "undecided",
            },
            1,
        );
        sights.push((key.clone(), sight));
    }
    sights
}

/// What a round of looks means.
#[derive(Default)]
struct Seen {
    looks: Vec<LookRow>,
    /// A record of one was there: whoever published it owns the domain.
    found: bool,
    /// Pending keys whose records are there.
    published: Vec<DkimKey>,
    news: Vec<(KeyFact, DkimKey, String)>,
    looked: Looked,
}

fn weigh(
    name: &Domain,
    keys: &DkimKeys,
    sights: Vec<(DkimKey, Sight)>,
    now: UnixMs,
    belief: Belief,
) -> Seen {
    let mut seen = Seen::default();
    for (asked, sight) in sights {
        let is_asked =
            |key: &&DkimKey| key.selector == asked.selector && key.public == asked.public;
        let Some(key) = keys
            .iter()
            .find(is_asked)
            .filter(|key| key.state == asked.state)
        else {
            continue;
        };
        let what = match sight {
            Sight::Undecided(why) => {
                seen.looked.undecided.get_or_insert(why);
                continue;
            }
            Sight::Missing(_) if key.is_usable() && belief == Belief::LookAgain => {
                seen.looked.doubted = true;
                continue;
            }
            Sight::Missing(what) => what,
            Sight::Found => "",
        };
        let found = what.is_empty();
        seen.found |= found;
        match key.state {
            KeyState::Pending if found => {
                seen.published.push(key.clone());
                seen.news
                    .push((KeyFact::Activated, key.clone(), String::new()));
            }
            KeyState::Active if found && key.is_paused() => {
                seen.news
                    .push((KeyFact::Resumed, key.clone(), String::new()));
            }
            KeyState::Active if !found && key.is_usable() => {
                seen.news
                    .push((KeyFact::Paused, key.clone(), what.to_owned()));
            }
            _ => {}
        }
        let before = key.look.as_ref().filter(|look| look.found == found);
        seen.looks.push(LookRow {
            domain: name.as_str().to_owned(),
            selector: key.selector.clone(),
            public: key.public.clone(),
            look: Look {
                found,
                since: before.map_or(now, |look| look.since),
                checked: now,
                seen: what.to_owned(),
            },
        });
    }
    seen
}

async fn tell(domain: &Domain, seen: &Seen, outside: &dyn Outside, at: UnixMs) {
    for (fact, key, what) in &seen.news {
        let host = key.host(domain);
        let detail = match fact {
            KeyFact::Paused => format!(
                "{what} at {host}: the key signs no more until its record is there again; posthaste dkim ls {domain} --zone prints it"
            ),
            KeyFact::Resumed => format!("its record is at {host} again: the key signs"),
            KeyFact::Activated => format!("its record is at {host}: the key signs from now on"),
        };
        let news = KeyNews {
            fact: *fact,
            domain,
            selector: &key.selector,
            detail,
            at,
        };
        outside.tell(news).await;
    }
}

fn not_declared(domain: &DomainInfo) -> Result<(), Refused> {
    match domain.declared {
        false => Ok(()),
        true => Err(Refused::new(
            Rule::DomainDeclared,
            format!(
                "The domain '{}' is declared in the configuration file, and so are its keys.",
                domain.name
            ),
        )),
    }
}

fn not_too_many(domain: &DomainInfo, now: UnixMs) -> Result<(), Refused> {
    let needed = domain.keys.revoked().filter(|key| !key.is_removable(now));
    match needed.count() < limits::DKIM_KEYS_REVOKED_MAX {
        true => Ok(()),
        false => Err(Refused::new(
            Rule::DkimPending,
            format!(
                "{} keys of '{}' were followed in the last days, which is the limit; the next can be made when one of their records is needed no more (posthaste dkim ls {}).",
                limits::DKIM_KEYS_REVOKED_MAX,
                domain.name,
                domain.name
            ),
        )),
    }
}

fn not_pending(domain: &DomainInfo, algorithm: Algorithm) -> Result<(), Refused> {
    match domain.keys.of(algorithm, KeyState::Pending) {
        None => Ok(()),
        Some(_) => Err(Refused::new(
            Rule::DkimPending,
            "This DKIM is already being renewed.",
        )),
    }
}

/// Postmark renews one key at a time, and only from one that works.
fn may_rotate(domain: &DomainInfo, algorithm: Algorithm, now: UnixMs) -> Result<(), Refused> {
    not_declared(domain)?;
    not_pending(domain, algorithm)?;
    not_too_many(domain, now)?;
    match domain.keys.of(algorithm, KeyState::Active) {
        None => Err(Refused::new(
            Rule::DkimNone,
            match domain.keys.is_empty() {
                true => format!("The domain '{}' has no DKIM key.", domain.name),
                false => format!(
                    "The domain '{}' has no {} key in use that could be followed; make the first: posthaste dkim add.",
                    domain.name,
                    algorithm.as_str()
                ),
            },
        )),
        Some(key) if key.is_paused() => Err(Refused::new(
            Rule::DkimFailed,
            format!(
                "The record of the DKIM key of '{}' is gone; publish it and verify it before the key is rotated.",
                domain.name
            ),
        )),
        Some(_) => Ok(()),
    }
}

fn may_add(domain: &DomainInfo, algorithm: Algorithm, now: UnixMs) -> Result<(), Refused> {
    not_declared(domain)?;
    not_pending(domain, algorithm)?;
    not_too_many(domain, now)?;
    match domain.keys.of(algorithm, KeyState::Active) {
        None => Ok(()),
        Some(key) => Err(Refused::new(
            Rule::DkimPending,
            format!(
                "The domain '{}' has the {} key {}; to follow it: posthaste dkim rotate.",
                domain.name,
                algorithm.as_str(),
                key.selector
            ),
        )),
    }
}

/// Two keys of one second would share their record.
fn free_selector(keys: &DkimKeys, now: UnixMs) -> String {
    let mut at = now;
    loop {
        let selector = dkim::selector(at);
        if keys.find(&selector).is_none() {
            return selector;
        }
        at += 1_000;
    }
}

/// Keys are looked for every day; of what is older there is no key any more.
const LOOKS_KEPT_MS: UnixMs = 90 * 86_400_000;
