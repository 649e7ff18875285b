//! The settings that people make: servers, streams, tokens, domains, sender signatures.
//!
//! Two halves: `store.rs` keeps them (SQL, slow, durable), `snapshot.rs` is what everybody reads (memory, immutable,
//! swapped). [`Settings`] holds both: one file for each kind of setting changes the store by the rules of `rules.rs`
//! and then tell [`Settings::changed`] what has changed. That is the one place that learns of changes: whoever has to tell
//! other nodes of one store does it there.
//!
//! Servers and tokens of the configuration file live together with those made by command or API: of a declared server the
//! store knows only name and id, so that the id outlives a mistyped or re-ordered file; its settings and streams are the
//! file's and nobody else changes them, but it may have tokens of the store besides its own. A declared server that leaves
//! the file is gone from the snapshot and keeps its id.
//!
//! Domains alike: a declared one counts as verified. What needs the world, DNS and mail, asks an [`Outside`].
//!
//! While the store is locked, full or damaged the node runs on from the snapshot; only changes fail. [`Settings::trouble`]
//! tells so in readiness, log and metric.

pub mod hook_url;
pub mod identity;
pub mod keying;
pub mod keys;
pub mod model;
pub mod outside;
pub mod rate;
pub mod rules;
pub mod secret;
pub mod snapshot;
pub mod store;

mod confirmation;
mod dkim;
mod domains;
mod public_mailboxes;
mod servers;
mod signatures;
mod signing;
mod streams;
mod tokens;
mod webhooks;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, Semaphore};

use crate::clock::UnixMs;
use crate::config::{self, Config};
use crate::limits;
use crate::mail::Mailbox;
use crate::metrics;

pub use dkim::read_key_text;
pub use identity::{DomainInfo, DomainPatch, SignatureInfo, SignaturePatch, Standing};
pub use keys::{DkimKey, DkimKeys, KeyState};
pub use model::{NewToken, ServerInfo, ServerPatch, StreamInfo, StreamPatch, TokenInfo, TokenKind};
pub use outside::{KeyFact, KeyNews, Notice, Outside};
pub use rate::TooFast;
pub use rules::{Class, Refused, Rule};
pub use signatures::{LINK_PATH, Link};
pub use signing::check_key_files;
pub use snapshot::{Accounts, Sender, Snapshot};
pub use store::{Store, StoreError};
pub use tokens::MadeToken;
pub use webhooks::{
    BasicAuth, Call, HeaderField, Triggers, WebhookInfo, WebhookPatch, signing_key,
};

use confirmation::Postage;
use model::Attributes;
use rate::Usage;
use signing::FileKeys;
use snapshot::{Bounces, Credential, Lookup};
use store::{ActiveKey, LookRow, ServerRow, SignatureRow, StreamRow, TokenRow, WebhookRow};

/// The store and the snapshot made from it, kept together.
pub struct Settings {
    store: Store,
    config: ArcSwap<Config>,
    /// Keys of files that it names.
    files: ArcSwap<FileKeys>,
    accounts: Arc<Accounts>,
    /// One change at a time: each is read, judged, stored and taken over before the next.
    changing: Mutex<()>,
    /// Turns at making DKIM keys.
    keying: Semaphore,
    postage: Postage,
    trouble: ArcSwapOption<String>,
    /// Opened by a command while no daemon runs: it knows declared servers from the store only.
    offline: bool,
}

/// What has changed in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A server, its streams, tokens or webhooks; or it is gone.
    Server(u32),
    AccountTokens,
    /// With its keys; or it is gone.
    Domain(u32),
    /// What was seen of the platform's keys.
    Platform,
    Signature(u32),
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be; what was before holds.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The tokens of a development node, printed once at its first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstTokens {
    pub server: String,
    pub account: String,
}

/// A store that is made in the place of one that is gone gives no id again, whoever opens it first.
async fn open_store(config: &Config, now: UnixMs) -> Result<Store, StoreError> {
    let store = Store::open(&config.node.data_dir).await?;
    if let Some(ids_from) = store.settle_ids(now).await? {
        tracing::warn!(
            ids_from,
            "account.db was gone and is made anew: servers, tokens and domains that commands or the API had made are lost, and mail in the spool belongs to servers that are unknown; if there is a backup, stop, put it back, start"
        );
    }
    Ok(store)
}

impl Settings {
    /// Opens the store in the configuration's data directory, which exists, and makes the first snapshot.
    pub async fn open(
        config: Arc<Config>,
        now: UnixMs,
    ) -> Result<(Self, Option<FirstTokens>), StoreError> {
        let store = open_store(&config, now).await?;
        let settings = Self::over(store, config, false);
        settings.read_files()?;
        settings.refresh(now).await?;
        let first = settings.first_tokens(now).await?;
        Ok((settings, first))
    }

    /// For commands while no daemon holds the data directory. `config` is an empty one: pools are not known.
    pub async fn open_offline(config: Arc<Config>, now: UnixMs) -> Result<Self, StoreError> {
        let store = open_store(&config, now).await?;
        let settings = Self::over(store, config, true);
        settings.refresh(now).await?;
        Ok(settings)
    }

    fn over(store: Store, config: Arc<Config>, offline: bool) -> Self {
        let empty = Snapshot::new(store.key().clone());
        Self {
            store,
            config: ArcSwap::new(config),
            files: ArcSwap::default(),
            accounts: Arc::new(Accounts::new(empty)),
            changing: Mutex::new(()),
            keying: Semaphore::new(limits::DKIM_KEYS_AT_ONCE),
            postage: Postage::default(),
            trouble: ArcSwapOption::empty(),
            offline,
        }
    }

    /// What the hot path reads; stays the same value over all changes.
    pub fn accounts(&self) -> Arc<Accounts> {
        self.accounts.clone()
    }

    /// Under which suppressed addresses are hashed.
    pub fn suppression_key(&self) -> [u8; 16] {
        self.store.key().suppressing()
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// SIGHUP: takes over servers, tokens and domains of a new configuration. Pools must be the old ones, in their order.
    pub async fn reload(&self, config: Arc<Config>, now: UnixMs) -> Result<(), StoreError> {
        let _one = self.changing.lock().await;
        let (old, old_files) = (self.config.swap(config), self.files.load_full());
        let refreshed = match self.read_files() {
            Ok(()) => self.refresh(now).await,
            Err(error) => Err(error),
        };
        if refreshed.is_err() {
            self.config.store(old);
            self.files.store(old_files);
        }
        refreshed
    }

    fn read_files(&self) -> Result<(), StoreError> {
        let config = self.config.load();
        let files = FileKeys::read(&config).map_err(StoreError::KeyFile)?;
        for sentence in files.weak(&config) {
            tracing::warn!("{sentence}");
        }
        self.files.store(Arc::new(files));
        Ok(())
    }

    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Why settings cannot be changed now, if they cannot. Mail goes on all the same.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    /// Writes down when tokens were last used and finds out whether the store still takes writes. To be called every
    /// `limits::ACCOUNT_UPKEEP`, and before the end.
    pub async fn keep_up(&self, now: UnixMs) {
        let snapshot = self.accounts.load();
        let uses: Vec<(u32, UnixMs, &Arc<Usage>)> = snapshot
            .usages()
            .filter_map(|(id, usage)| Some((id, usage.unstored()?, usage)))
            .collect();
        let rows: Vec<(u32, UnixMs)> = uses.iter().map(|(id, at, _)| (*id, *at)).collect();
        let kept = async {
            self.store.probe(now).await?;
            self.store.note_uses(&rows).await
        };
        if self.noting(kept.await).is_ok() {
            for (_, at, usage) in uses {
                usage.note_stored(at);
            }
        }
    }

    /// Writes a copy of the store to a new file.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.store.backup(to).await
    }

    /// Notes whether the store works.
    fn noting<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        let now = match &done {
            Err(error @ (StoreError::Sql { .. } | StoreError::Unusable { .. })) => {
                Some(Arc::new(error.to_string()))
            }
            Err(_) => return done,
            Ok(_) => None,
        };
        let before = self.trouble.swap(now.clone());
        match (&before, &now) {
            (None, Some(trouble)) => {
                tracing::error!(%trouble, "settings cannot be changed; mail goes on with those known");
            }
            (Some(_), None) => tracing::info!("the account store works again"),
            _ => {}
        }
        metrics::ACCOUNT_STORE_OK.set(if now.is_none() { 1.0 } else { 0.0 });
        done
    }

    /// Takes what has changed in the store over into the snapshot. Called by every change, under its lock, once it is on
    /// disk; a change that another node made comes in here too.
    async fn changed(&self, change: Change) -> Result<(), StoreError> {
        let mut snapshot = Snapshot::clone(&self.accounts.load());
        match change {
            Change::Server(id) => {
                let row = self.noting(self.store.servers(Some(id)).await)?.pop();
                let streams = self.noting(self.store.streams(Some(id)).await)?;
                let tokens = self.noting(self.store.tokens(Some(id)).await)?;
                let webhooks = self.noting(self.store.webhooks(Some(id)).await)?;
                let config = self.config.load();
                match row {
                    Some(row) => self.put(&mut snapshot, &config, row, (streams, tokens, webhooks)),
                    None => snapshot.remove_server(id),
                }
            }
            Change::AccountTokens => {
                let rows = self.noting(self.store.account_tokens().await)?;
                self.put_account_tokens(&mut snapshot, rows);
            }
            Change::Domain(id) => match self.noting(self.store.domains(Some(id)).await)?.pop() {
                Some(row) => {
                    let keys = self.noting(self.store.active_keys(Some(id)).await)?;
                    let looks = self.noting(self.store.looks(Some(&row.name)).await)?;
                    self.put_domain(&mut snapshot, row, &keys, &looks);
                }
                None => snapshot.remove_domain(id),
            },
            Change::Platform => self.put_platform(&mut snapshot).await?,
            Change::Signature(id) => {
                match self.noting(self.store.signatures(Some(id)).await)?.pop() {
                    Some(row) => put_signature(&mut snapshot, row),
                    None => snapshot.remove_signature(id),
                }
            }
        }
        self.accounts.swap(snapshot);
        Ok(())
    }

    /// Makes the snapshot anew from configuration and store.
    async fn refresh(&self, now: UnixMs) -> Result<(), StoreError> {
        let config = self.config.load_full();
        let declared = self.store.declare(&config.servers, now).await;
        self.noting(declared)?;
        let names = config.domains.iter().map(|domain| &domain.name);
        let declared = self.store.declare_domains(names, now).await;
        self.noting(declared)?;
        let mut snapshot = Snapshot::new(self.store.key().clone());
        snapshot.put_bounces(Bounces::of(&config, self.store.key()));
        let mut keys: HashMap<u32, Vec<ActiveKey>> = HashMap::new();
        for key in self.store.active_keys(None).await? {
            keys.entry(key.domain_id).or_default().push(key);
        }
        let mut looks: HashMap<String, Vec<LookRow>> = HashMap::new();
        for row in self.store.looks(None).await? {
            looks.entry(row.domain.clone()).or_default().push(row);
        }
        for row in self.store.domains(None).await? {
            let keys = keys.remove(&row.id).unwrap_or_default();
            let looks = looks.remove(&row.name).unwrap_or_default();
            self.put_domain(&mut snapshot, row, &keys, &looks);
        }
        self.put_platform(&mut snapshot).await?;
        for row in self.store.signatures(None).await? {
            put_signature(&mut snapshot, row);
        }
        let mut streams: HashMap<u32, Vec<StreamRow>> = HashMap::new();
        for row in self.store.streams(None).await? {
            streams.entry(row.server_id).or_default().push(row);
        }
        let mut tokens: HashMap<Option<u32>, Vec<TokenRow>> = HashMap::new();
        for row in self.store.tokens(None).await? {
            tokens.entry(row.server_id).or_default().push(row);
        }
        let mut webhooks: HashMap<u32, Vec<WebhookRow>> = HashMap::new();
        for row in self.store.webhooks(None).await? {
            webhooks.entry(row.server_id).or_default().push(row);
        }
        for row in self.store.servers(None).await? {
            let streams = streams.remove(&row.id).unwrap_or_default();
            let tokens = tokens.remove(&Some(row.id)).unwrap_or_default();
            let webhooks = webhooks.remove(&row.id).unwrap_or_default();
            self.put(&mut snapshot, &config, row, (streams, tokens, webhooks));
        }
        self.put_account_tokens(&mut snapshot, tokens.remove(&None).unwrap_or_default());
        self.accounts.swap(snapshot);
        Ok(())
    }

    /// One server into the snapshot; none when it was declared by a configuration that no longer names it.
    fn put(
        &self,
        snapshot: &mut Snapshot,
        config: &Config,
        row: ServerRow,
        (streams, rows, webhooks): (Vec<StreamRow>, Vec<TokenRow>, Vec<WebhookRow>),
    ) {
        let declared = config.servers.iter().find(|s| s.name == row.name);
        if declared.is_none() && row.declared && !self.offline {
            return snapshot.remove_server(row.id);
        }
        let mut tokens = Vec::new();
        let mut credentials = Vec::new();
        let configured = declared.map_or(&[][..], |server| &server.tokens);
        for (index, token) in configured.iter().enumerate() {
            let label = format!("configured token {} of {}", index + 1, row.name);
            let (info, credential) =
                self.configured(token.expose(), TokenKind::Server, Some(row.id), &label);
            tokens.push(info);
            credentials.push(credential);
        }
        for token in rows {
            let (info, credential) = self.stored(token);
            tokens.push(info);
            credentials.extend(credential);
        }
        let mut info = match declared {
            Some(server) => declared_info(config, server, &row),
            None => created_info(config, row, streams),
        };
        info.tokens = tokens;
        info.webhooks = self.webhooks_of(webhooks);
        snapshot.put_server(info, credentials);
    }

    fn put_account_tokens(&self, snapshot: &mut Snapshot, rows: Vec<TokenRow>) {
        let config = self.config.load();
        let configured = config.account.tokens.iter().enumerate();
        let (mut tokens, mut credentials): (Vec<_>, Vec<_>) = configured
            .map(|(index, token)| {
                let label = format!("configured account token {}", index + 1);
                let (mut info, (lookup, mut credential)) =
                    self.configured(token.expose(), TokenKind::Account, None, &label);
                info.rate = config.account.rate;
                credential.rate = config.account.rate;
                (info, (lookup, credential))
            })
            .unzip();
        for row in rows {
            let (info, credential) = self.stored(row);
            tokens.push(info);
            credentials.extend(credential);
        }
        snapshot.put_account_tokens(tokens, credentials);
    }

    /// A token of the configuration file.
    fn configured(
        &self,
        token: &str,
        kind: TokenKind,
        server: Option<u32>,
        label: &str,
    ) -> (TokenInfo, (Lookup, Credential)) {
        let user = secret::canonical(token).into_owned();
        let lookup = self.store.key().lookup(&user);
        let usage = self.usage(&lookup, None);
        let info = TokenInfo {
            id: None,
            kind,
            stream: None,
            name: label.to_owned(),
            access_key: None,
            text: (kind == TokenKind::Server).then(|| token.into()),
            rate: None,
            created: None,
            revoked: None,
            usage: usage.clone(),
        };
        let credential = Credential {
            kind,
            secret: user.clone(),
            user,
            server,
            stream: None,
            label: label.into(),
            rate: None,
            usage,
        };
        (info, (lookup, credential))
    }

    /// A token of the store, and how it is recognised: not at all when it was revoked or cannot be read.
    fn stored(&self, row: TokenRow) -> (TokenInfo, Option<(Lookup, Credential)>) {
        let usage = self.usage(&row.lookup, row.last_used);
        let stream: Option<Arc<str>> = row.stream.as_deref().map(Into::into);
        let access_key: Option<Arc<str>> = row.access_key.as_deref().map(Into::into);
        let is_server = row.kind == TokenKind::Server;
        let info = TokenInfo {
            id: Some(row.id),
            kind: row.kind,
            stream: stream.clone(),
            name: row.name,
            access_key: access_key.clone(),
            text: row.secret.as_deref().filter(|_| is_server).map(Into::into),
            rate: row.rate,
            created: Some(row.created),
            revoked: row.revoked,
            usage: usage.clone(),
        };
        let secret = match row.kind {
            TokenKind::Account => Some(String::new()),
            TokenKind::Server | TokenKind::Smtp => row.secret,
        };
        let credential = secret.filter(|_| row.revoked.is_none()).map(|secret| {
            let secret = secret::canonical(&secret).into_owned();
            let credential = Credential {
                kind: row.kind,
                user: access_key.as_deref().unwrap_or(&secret).to_owned(),
                secret,
                server: row.server_id,
                stream,
                label: format!("token {}", row.id).into(),
                rate: row.rate,
                usage,
            };
            (row.lookup, credential)
        });
        (info, credential)
    }

    /// The use of a credential is one value over all snapshots.
    fn usage(&self, lookup: &Lookup, stored: Option<UnixMs>) -> Arc<Usage> {
        let known = self.accounts.load().usage(lookup);
        known.unwrap_or_else(|| Arc::new(Usage::stored(stored)))
    }

    /// DESIGN §5: a node without a configuration file makes two tokens at its first start.
    async fn first_tokens(&self, now: UnixMs) -> Result<Option<FirstTokens>, StoreError> {
        let config = self.config.load_full();
        if !config.development || !self.store.first_time("development-tokens", now).await? {
            return Ok(None);
        }
        let name = config.servers.first().map(|s| s.name.as_str());
        let server = name.and_then(|name| self.accounts.server(name));
        let make = async |server| {
            let made = self.create_token(server, &NewToken::default(), now).await;
            made.map(|made| made.secret).map_err(|error| match error {
                ChangeError::Store(error) => error,
                ChangeError::Refused(refused) => StoreError::Conflict(refused.to_string()),
            })
        };
        let (server, account) = (make(server.map(|s| s.id)).await?, make(None).await?);
        Ok(Some(FirstTokens { server, account }))
    }
}

fn put_signature(snapshot: &mut Snapshot, row: SignatureRow) {
    let Ok(address) = Mailbox::parse(&row.address, true) else {
        tracing::error!(
            address = row.address,
            "a signature in the account store has no address"
        );
        return;
    };
    snapshot.put_signature(SignatureInfo {
        id: row.id,
        address,
        domain_id: row.domain_id,
        confirmed: row.confirmed,
        attributes: row.attributes,
        created: row.created,
    });
}

/// Makes the data directory, private to its owner and group, and says what is wrong with it in a sentence.
pub fn prepare_data_dir(data_dir: &Path) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o750)
        .create(data_dir)
        .map_err(|error| {
            format!(
                "the data directory {} cannot be made: {error}; make it and give it to the daemon's user, or set [node] data_dir",
                data_dir.display()
            )
        })
}

fn declared_info(config: &Config, server: &config::Server, row: &ServerRow) -> ServerInfo {
    let stream = |s: &config::Stream| StreamInfo {
        id: s.id.as_str().into(),
        kind: s.kind,
        text: match config::Stream::defaults().iter().any(|d| d.id == s.id) {
            true => model::StreamText::of_default(s.kind),
            false => model::StreamText {
                name: s.id.clone(),
                ..model::StreamText::of_default(s.kind)
            },
        },
        pool_name: s.pool.map(|id| config.pool(id).name.as_str().into()),
        pool: s.pool.or_else(|| config.pool_default(s.kind)),
        retention: s.retention,
        retry: s.retry,
        ambiguous: s.ambiguous,
        created: row.created,
        updated: None,
        archived_at: None,
    };
    ServerInfo {
        id: row.id,
        name: server.name.as_str().into(),
        declared: true,
        message_id: server.message_id,
        senders: server.senders,
        notify: server.notify,
        sandbox: server.sandbox,
        attributes: Attributes {
            inbound_hash: row.attributes.inbound_hash.clone(),
            strict: server.strict,
            rate: server.rate,
            ..Attributes::default()
        },
        created: row.created,
        streams: server.streams.iter().map(stream).collect(),
        tokens: Vec::new(),
        webhooks: Vec::new(),
    }
}

fn created_info(config: &Config, row: ServerRow, streams: Vec<StreamRow>) -> ServerInfo {
    ServerInfo {
        id: row.id,
        name: row.name.into(),
        declared: row.declared,
        message_id: row.message_id,
        senders: row.senders,
        notify: config::Notify::None,
        sandbox: row.sandbox,
        attributes: row.attributes,
        created: row.created,
        streams: streams
            .into_iter()
            .map(|row| created_stream(config, row))
            .collect(),
        tokens: Vec::new(),
        webhooks: Vec::new(),
    }
}

fn created_stream(config: &Config, row: StreamRow) -> StreamInfo {
    let pool = match &row.pool {
        None => config.pool_default(row.kind),
        // No silent fallback: a pool that is gone or now carries the other kind is no pool.
        Some(name) => config
            .pool_named(name)
            .filter(|id| config.pool(*id).kind == row.kind),
    };
    StreamInfo {
        id: row.id.into(),
        kind: row.kind,
        text: row.text,
        pool_name: row.pool.map(Into::into),
        pool,
        retention: None,
        retry: config::RetryOverride::default(),
        ambiguous: config::Ambiguous::default(),
        created: row.created,
        updated: row.updated,
        archived_at: row.archived,
    }
}

#[cfg(test)]
mod tests;
