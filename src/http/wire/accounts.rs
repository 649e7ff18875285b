//! Accounts in the admin API: servers, streams, tokens.
//!
//! Bodies are [`crate::account`]'s own patches: `ServerPatch`, `StreamPatch`, `NewToken`.

use serde::{Deserialize, Serialize};

use crate::account::model::{Attributes, delivery_type_text, message_id_text, senders_text};
use crate::account::{MadeToken, ServerInfo, StreamInfo, StreamPatch, TokenInfo, TokenKind};
use crate::clock::rfc3339;

/// `GET /admin/v1/servers`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servers {
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub id: u32,
    pub name: String,
    /// Declared in the configuration file.
    pub declared: bool,
    /// `verified` or `any`.
    pub senders: String,
    /// `keep` or `replace`.
    pub message_id: String,
    /// `live` or `sandbox`.
    pub delivery_type: String,
    pub created_at: String,
    #[serde(flatten)]
    pub attributes: Attributes,
}

impl From<&ServerInfo> for Server {
    fn from(server: &ServerInfo) -> Self {
        Self {
            id: server.id,
            name: server.name.to_string(),
            declared: server.declared,
            senders: senders_text(server.senders).into(),
            message_id: message_id_text(server.message_id).into(),
            delivery_type: delivery_type_text(server.sandbox).into(),
            created_at: rfc3339(server.created),
            attributes: server.attributes.clone(),
        }
    }
}

/// `GET /admin/v1/servers/{name}/streams`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    pub streams: Vec<Stream>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub server: String,
    pub id: String,
    /// `transactional`, `broadcast` or `inbound`.
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub description: String,
    pub unsubscribe: String,
    /// `null`: the default pool of its kind.
    pub pool: Option<String>,
    pub created_at: String,
    pub updated_at: Option<String>,
    pub archived_at: Option<String>,
}

impl Stream {
    pub fn of(server: &str, stream: &StreamInfo) -> Self {
        Self {
            server: server.to_owned(),
            id: stream.id.to_string(),
            kind: stream.kind.as_str().to_owned(),
            name: stream.text.name.clone(),
            description: stream.text.description.clone(),
            unsubscribe: stream.text.unsubscribe.as_str().to_owned(),
            pool: stream.pool_name.as_deref().map(str::to_owned),
            created_at: rfc3339(stream.created),
            updated_at: stream.updated.map(rfc3339),
            archived_at: stream.archived_at.map(rfc3339),
        }
    }
}

/// Body of `POST /admin/v1/servers/{name}/streams`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewStream {
    pub id: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(flatten)]
    pub rest: StreamPatch,
}

/// `GET /admin/v1/servers/{name}/tokens` and `/admin/v1/account/tokens`: those of the store, not those of the
/// configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    pub tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: u32,
    pub kind: TokenKind,
    /// `null`: of the account.
    pub server: Option<String>,
    /// Fixes the stream of what is sent with it.
    pub stream: Option<String>,
    pub name: String,
    /// Of an SMTP token: the user name.
    pub access_key: Option<String>,
    pub rate: Option<String>,
    pub created_at: Option<String>,
    pub revoked_at: Option<String>,
    pub last_used_at: Option<String>,
    /// Only in the answer that made it: the token, or the secret key of an SMTP token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Token {
    /// `None` for a token of the configuration file, which has no id.
    pub fn of(server: Option<&str>, token: &TokenInfo) -> Option<Self> {
        Some(Self {
            id: token.id?,
            kind: token.kind,
            server: server.map(str::to_owned),
            stream: token.stream.as_deref().map(str::to_owned),
            name: token.name.clone(),
            access_key: token.access_key.as_deref().map(str::to_owned),
            rate: token.rate.map(|rate| rate.to_string()),
            created_at: token.created.map(rfc3339),
            revoked_at: token.revoked.map(rfc3339),
            last_used_at: token.usage.last_used().map(rfc3339),
            token: None,
        })
    }

    pub fn made(server: Option<&str>, made: &MadeToken) -> Option<Self> {
        Some(Self {
            token: Some(made.secret.clone()),
            ..Self::of(server, &made.info)?
        })
    }
}

/// Body of `POST /admin/v1/account/backup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Absolute, as the daemon sees it; it must not exist.
    pub file: String,
}
