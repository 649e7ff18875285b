//! What signs: keys of the store and of files that the configuration names, into the snapshot.
//!
//! A domain that the configuration declares with keys signs with these alone; otherwise those of the store count. Files are
//! read at start and at a reload, never between: a key that is exchanged on disk is not taken by halves.

use std::collections::HashMap;

use super::dkim::read_key_file;
use super::identity::DomainInfo;
use super::keys::{DkimKey, DkimKeys, KeyState, Look};
use super::snapshot::{Platform, Snapshot};
use super::store::{ActiveKey, DomainRow, LookRow};
use super::{Settings, StoreError};
use crate::config::{Config, KeyFile};
use crate::mail::Domain;
use crate::sign::{SigningKey, WholeKey};

/// Keys of the configuration file, read.
#[derive(Default)]
pub(super) struct FileKeys {
    domains: HashMap<Domain, Vec<FileKey>>,
    platform: Vec<FileKey>,
}

struct FileKey {
    selector: String,
    key: WholeKey,
}

/// What is to be said of the key files that the configuration names, though they can all be used. `Err`: one cannot, and what to do.
pub fn check_key_files(config: &Config) -> Result<Vec<String>, String> {
    Ok(FileKeys::read(config)?.weak(config))
}

impl FileKeys {
    pub(super) fn read(config: &Config) -> Result<Self, String> {
        let mut keys = Self::default();
        for domain in &config.domains {
            let read = read_all(&domain.name, &domain.dkim)?;
            keys.domains.insert(domain.name.clone(), read);
        }
        if let Some(platform) = &config.signing.platform {
            keys.platform = read_all(&platform.domain, &platform.keys)?;
        }
        Ok(keys)
    }

    /// A sentence for each key that verifiers may disregard, in the order of the configuration.
    pub(super) fn weak(&self, config: &Config) -> Vec<String> {
        let declared = config.domains.iter();
        let declared = declared.filter_map(|d| Some((&d.name, self.domains.get(&d.name)?)));
        let platform = config.signing.platform.as_ref();
        let platform = platform.map(|platform| (&platform.domain, &self.platform));
        let all = declared.chain(platform);
        let weak = all.flat_map(|(domain, keys)| {
            let weak = keys.iter().filter(|key| key.key.is_weak());
            weak.map(move |FileKey { selector, key }| format!("the DKIM key {selector} of {domain} is weak: it has {} bits, and verifiers may disregard less than 2048 (RFC 8301); make a new one: openssl genrsa 2048", key.bits))
        });
        weak.collect()
    }
}

fn read_all(domain: &Domain, files: &[KeyFile]) -> Result<Vec<FileKey>, String> {
    let read = |file: &KeyFile| {
        let key = read_key_file(&file.path).map_err(|why| format!("{domain}: {why}"))?;
        Ok(FileKey {
            selector: file.selector.clone(),
            key,
        })
    };
    files.iter().map(read).collect()
}

/// As they are listed, with what was last seen of their records.
fn as_keys(files: &[FileKey], looks: &[LookRow]) -> DkimKeys {
    let key = |file: &FileKey| DkimKey {
        selector: file.selector.clone(),
        algorithm: file.key.algorithm,
        bits: file.key.bits,
        public: file.key.public.clone(),
        state: KeyState::Active,
        since: 0,
        declared: true,
        look: look_of(file, looks),
    };
    DkimKeys(files.iter().map(key).collect())
}

fn look_of(file: &FileKey, looks: &[LookRow]) -> Option<Look> {
    let is_its = |row: &&LookRow| row.selector == file.selector && row.public == file.key.public;
    looks.iter().find(is_its).map(|row| row.look.clone())
}

/// The private halves of those keys that are in use.
fn in_use(
    domain: &Domain,
    keys: &DkimKeys,
    files: &[FileKey],
    stored: &[ActiveKey],
) -> Vec<SigningKey> {
    let private = |key: &DkimKey| match key.declared {
        true => {
            let file = files.iter().find(|file| file.selector == key.selector);
            file.map(|file| file.key.private.clone())
        }
        false => {
            let row = stored.iter().find(|row| row.selector == key.selector);
            row.and_then(|row| row.private.clone())
        }
    };
    let signing = |key: &DkimKey| {
        let (domain, selector) = (domain.clone(), key.selector.clone());
        SigningKey::new(domain, selector, key.algorithm, private(key))
    };
    keys.usable().map(signing).collect()
}

impl Settings {
    /// One domain into the snapshot. One that was declared by a configuration which no longer names it stays, unlisted, for
    /// the signatures at it.
    pub(super) fn put_domain(
        &self,
        snapshot: &mut Snapshot,
        row: DomainRow,
        stored: &[ActiveKey],
        looks: &[LookRow],
    ) {
        let Ok(name) = Domain::parse(&row.name) else {
            tracing::error!(domain = row.name, "a domain in the account store is none");
            return;
        };
        let (config, files) = (self.config.load(), self.files.load());
        let named = config.domains.iter().any(|declared| declared.name == name);
        let files = files.domains.get(&name).map_or(&[][..], Vec::as_slice);
        let keys = match files.is_empty() {
            true => row.keys,
            false => as_keys(files, looks),
        };
        let known = self.accounts.load();
        let signing = in_use(&name, &keys, files, stored);
        let mut attributes = row.attributes;
        // A command without the daemon does not know the configuration.
        if !self.offline {
            attributes.trust_alias_of(config.return_path_host());
        }
        snapshot.put_signing_keys(&name, signing, &known);
        snapshot.put_domain(DomainInfo {
            id: row.id,
            name,
            declared: named || (self.offline && row.declared),
            listed: row.listed && !row.declared,
            verified: row.verified,
            attributes,
            keys,
            created: row.created,
        });
    }

    pub(super) async fn put_platform(&self, snapshot: &mut Snapshot) -> Result<(), StoreError> {
        let (config, files) = (self.config.load_full(), self.files.load_full());
        let known = self.accounts.load();
        let Some(platform) = &config.signing.platform else {
            snapshot.put_platform(None, Vec::new(), &known);
            return Ok(());
        };
        let looks = self.store.looks(Some(platform.domain.as_str())).await;
        let keys = as_keys(&files.platform, &self.noting(looks)?);
        let signing = in_use(&platform.domain, &keys, &files.platform, &[]);
        let domain = platform.domain.clone();
        snapshot.put_platform(Some(Platform { domain, keys }), signing, &known);
        Ok(())
    }
}
