//! The settings that people make: servers, streams, tokens.
//!
//! Two halves: `store.rs` keeps them (SQL, slow, durable), `snapshot.rs` is what the hot path reads (memory, immutable,
//! swapped). [`Settings`] holds both and swaps after each change. Servers and tokens of the configuration file live
//! together with those made by command or API: of a declared server the store knows only name and id, so that the id
//! outlives a mistyped or re-ordered file; its settings and tokens are the file's. A declared server that leaves the
//! file is gone from the snapshot and keeps its id.

pub mod secret;
pub mod snapshot;
pub mod store;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::UnixMs;
use crate::config::{self, Config, PoolId};

pub use snapshot::{Accounts, Sender, ServerInfo, Snapshot, StreamInfo};
pub use store::{NewServer, ServerRow, Store, StoreError, TokenRow};

/// The store and the snapshot made from it, kept together.
pub struct Settings {
    store: Store,
    config: ArcSwap<Config>,
    accounts: Arc<Accounts>,
}

/// The tokens of a development node, printed once at its first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstTokens {
    pub server: String,
    pub account: String,
}

impl Settings {
    /// Opens the store in the configuration's data directory, which exists, and makes the first snapshot.
    pub async fn open(
        config: Arc<Config>,
        now: UnixMs,
    ) -> Result<(Self, Option<FirstTokens>), StoreError> {
        let store = Store::open(&config.node.data_dir).await?;
        let settings = Self {
            store,
            config: ArcSwap::new(config),
            accounts: Arc::new(Accounts::new(Snapshot::new(&[0; 32], []))),
        };
        settings.refresh(now).await?;
        let first = settings.first_tokens(now).await?;
        Ok((settings, first))
    }

    /// What the hot path reads; stays the same value over all changes.
    pub fn accounts(&self) -> Arc<Accounts> {
        self.accounts.clone()
    }

    /// SIGHUP: takes over servers, tokens and domains of a new configuration. Pools must be the old ones, in their order.
    pub async fn reload(&self, config: Arc<Config>, now: UnixMs) -> Result<(), StoreError> {
        let old = self.config.swap(config);
        let refreshed = self.refresh(now).await;
        if refreshed.is_err() {
            self.config.store(old);
        }
        refreshed
    }

    pub async fn servers(&self) -> Result<Vec<ServerRow>, StoreError> {
        let config = self.config.load();
        let mut rows = self.store.servers().await?;
        rows.retain(|row| !row.declared || declared(&config, &row.name).is_some());
        for row in &mut rows {
            if let Some(server) = declared(&config, &row.name) {
                row.declared = true;
                row.senders = server.senders;
                row.message_id = server.message_id;
                row.sandbox = server.sandbox;
            }
        }
        Ok(rows)
    }

    pub async fn create_server(
        &self,
        new: &NewServer,
        now: UnixMs,
    ) -> Result<ServerRow, StoreError> {
        let adopt = declared(&self.config.load(), &new.name).is_none();
        let row = self.store.create_server(new, adopt, now).await?;
        self.refresh(now).await?;
        Ok(row)
    }

    /// `server`: `None` for an account token. Returns the token's text, which is shown once.
    pub async fn create_token(
        &self,
        server: Option<&str>,
        stream: Option<&str>,
        now: UnixMs,
    ) -> Result<(TokenRow, String), StoreError> {
        let server_id = match server {
            None => None,
            Some(name) => Some(self.known(name, stream)?.id),
        };
        let made = self.store.create_token(server_id, stream, now).await?;
        self.refresh(now).await?;
        Ok(made)
    }

    /// Tokens in the store, not those of the configuration: of one server, or those of the account.
    pub async fn tokens(&self, server: Option<&str>) -> Result<Vec<TokenRow>, StoreError> {
        let server_id = match server {
            None => None,
            Some(name) => Some(self.known(name, None)?.id),
        };
        let mut rows = self.store.tokens().await?;
        rows.retain(|row| row.server_id == server_id);
        Ok(rows)
    }

    pub async fn revoke_token(&self, id: u32, now: UnixMs) -> Result<(), StoreError> {
        self.store.revoke_token(id, now).await?;
        self.refresh(now).await
    }

    pub async fn close(&self) {
        self.store.close().await;
    }

    fn known(&self, name: &str, stream: Option<&str>) -> Result<Arc<ServerInfo>, StoreError> {
        let server = self
            .accounts
            .server(name)
            .ok_or_else(|| StoreError::NotFound(format!("there is no server `{name}`")))?;
        match stream {
            Some(id) if server.stream(id).is_none() => Err(StoreError::NotFound(format!(
                "server `{name}` has no stream `{id}`"
            ))),
            _ => Ok(server),
        }
    }

    /// DESIGN §5: a node without a configuration file makes two tokens at its first start.
    async fn first_tokens(&self, now: UnixMs) -> Result<Option<FirstTokens>, StoreError> {
        let config = self.config.load_full();
        if !config.development || !self.store.first_time("development-tokens", now).await? {
            return Ok(None);
        }
        let name = config.servers.first().map(|s| s.name.as_str());
        let (_, server) = self.create_token(name, None, now).await?;
        let (_, account) = self.create_token(None, None, now).await?;
        Ok(Some(FirstTokens { server, account }))
    }

    async fn refresh(&self, now: UnixMs) -> Result<(), StoreError> {
        let config = self.config.load_full();
        let ids = self.store.declare(&config.servers, now).await?;
        let mut snapshot = Snapshot::new(&random_key()?, config.domains.iter().cloned());
        for (server, id) in config.servers.iter().zip(ids) {
            snapshot.add_server(declared_info(&config, server, id));
            for (index, token) in server.tokens.iter().enumerate() {
                let label = format!("configured token {} of {}", index + 1, server.name);
                snapshot.add_server_token(&server.name, token.expose(), None, &label);
            }
        }
        let names = self.add_created(&config, &mut snapshot).await?;
        for (index, token) in config.account.tokens.iter().enumerate() {
            snapshot.add_account_token(
                token.expose(),
                &format!("configured account token {}", index + 1),
            );
        }
        for row in self.store.tokens().await? {
            let (Some(token), None) = (&row.token, row.revoked_unix_ms) else {
                continue;
            };
            let label = format!("token {}", row.id);
            match row.server_id {
                None => snapshot.add_account_token(token, &label),
                Some(id) => {
                    let name = names.get(&id).map_or("", String::as_str);
                    snapshot.add_server_token(name, token, row.stream.as_deref(), &label);
                }
            }
        }
        self.accounts.swap(snapshot);
        Ok(())
    }

    /// Adds the servers that the configuration does not declare; returns the names of all by id.
    async fn add_created(
        &self,
        config: &Config,
        snapshot: &mut Snapshot,
    ) -> Result<HashMap<u32, String>, StoreError> {
        let streams = self.store.streams().await?;
        let mut names = HashMap::new();
        for row in self.store.servers().await? {
            if declared(config, &row.name).is_none() && !row.declared {
                let of_server = streams.iter().filter(|s| s.server_id == row.id);
                let streams = of_server.map(|s| created_stream(config, s)).collect();
                snapshot.add_server(ServerInfo {
                    id: row.id,
                    name: row.name.as_str().into(),
                    message_id: row.message_id,
                    senders: row.senders,
                    notify: config::Notify::None,
                    sandbox: row.sandbox,
                    streams,
                });
            }
            names.insert(row.id, row.name);
        }
        Ok(names)
    }
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

fn declared<'c>(config: &'c Config, name: &str) -> Option<&'c config::Server> {
    config.servers.iter().find(|s| s.name == name)
}

fn declared_info(config: &Config, server: &config::Server, id: u32) -> ServerInfo {
    let stream = |s: &config::Stream| StreamInfo {
        id: s.id.as_str().into(),
        kind: s.kind,
        pool: pool_or_default(config, s.pool, s.kind),
        archived: false,
    };
    ServerInfo {
        id,
        name: server.name.as_str().into(),
        message_id: server.message_id,
        senders: server.senders,
        notify: server.notify,
        sandbox: server.sandbox,
        streams: server.streams.iter().map(stream).collect(),
    }
}

fn created_stream(config: &Config, row: &store::StreamRow) -> StreamInfo {
    let pool = match &row.pool {
        None => pool_or_default(config, None, row.kind),
        // No silent fallback: a pool that is gone or now carries the other kind is no pool.
        Some(name) => config
            .pool_named(name)
            .filter(|id| config.pool(*id).kind == row.kind),
    };
    StreamInfo {
        id: row.id.as_str().into(),
        kind: row.kind,
        pool,
        archived: row.archived,
    }
}

fn pool_or_default(
    config: &Config,
    pool: Option<PoolId>,
    kind: config::StreamKind,
) -> Option<PoolId> {
    pool.or_else(|| config.pool_default(kind))
}

fn random_key() -> Result<[u8; 32], StoreError> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)
        .map_err(|_| StoreError::Key(secret::KeyError::Library("random numbers")))?;
    Ok(key)
}

#[cfg(test)]
mod tests;
