//! What the hot path reads: servers, streams and tokens as one immutable value, swapped whole when a setting changes.
//!
//! Promises: no look-up waits, not for SQL and not for a lock; a refused and an unknown credential take the same time, and
//! the comparison of a token reveals nothing of it by its time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ::hmac::{Hmac, KeyInit, Mac};
use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use subtle::{Choice, ConstantTimeEq};

use crate::config::{MessageIdPolicy, Notify, PoolId, SendersPolicy, StreamKind};
use crate::mail::Domain;

/// The accounts of the node. Shared; reading never waits.
pub struct Accounts {
    snapshot: ArcSwap<Snapshot>,
}

/// Who submits: the server, and how it was recognised.
#[derive(Clone, Debug)]
pub struct Sender {
    pub server: Arc<ServerInfo>,
    /// Fixed by the credential or by the trusted network; otherwise the message names it.
    pub stream: Option<Arc<str>>,
    /// Fit for logs: `token 3`, `configured token 1 of app`, `trusted network`.
    pub credential: Arc<str>,
}

/// A server as submission needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    pub id: u32,
    pub name: Arc<str>,
    pub message_id: MessageIdPolicy,
    pub senders: SendersPolicy,
    pub notify: Notify,
    pub sandbox: bool,
    pub streams: Vec<StreamInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    pub id: Arc<str>,
    pub kind: StreamKind,
    /// With the default pool filled in. `None`: there is no pool for it, and sending on it is refused (DESIGN §5).
    pub pool: Option<PoolId>,
    pub archived: bool,
}

impl ServerInfo {
    pub fn stream(&self, id: &str) -> Option<&StreamInfo> {
        self.streams.iter().find(|s| &*s.id == id)
    }
}

impl Accounts {
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
        }
    }

    pub fn swap(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// AUTH PLAIN and LOGIN: a server token as user name and as password.
    pub fn authenticate(&self, user: &str, password: &str) -> Option<Sender> {
        let snapshot = self.snapshot.load();
        let found = snapshot.find(password);
        let credential = found.unwrap_or(&snapshot.nobody);
        let same = equal(&credential.token, password) & equal(&credential.token, user);
        (bool::from(same) && found.is_some())
            .then(|| credential.sender())
            .flatten()
    }

    /// AUTH CRAM-MD5 (RFC 2195): a server token as user name, and HMAC-MD5 of the challenge keyed with it.
    pub fn authenticate_cram_md5(
        &self,
        user: &str,
        challenge: &str,
        digest_hex: &str,
    ) -> Option<Sender> {
        let snapshot = self.snapshot.load();
        let found = snapshot.find(user);
        let credential = found.unwrap_or(&snapshot.nobody);
        let expected = cram_md5(&credential.token, challenge);
        let same =
            equal(&expected, &digest_hex.to_ascii_lowercase()) & equal(&credential.token, user);
        (bool::from(same) && found.is_some())
            .then(|| credential.sender())
            .flatten()
    }

    /// A client in a trusted network.
    pub fn trusted(&self, server: &str, stream: Option<&str>) -> Option<Sender> {
        let snapshot = self.snapshot.load();
        Some(Sender {
            server: snapshot.servers.get(server)?.clone(),
            stream: stream.map(Into::into),
            credential: snapshot.trusted.clone(),
        })
    }

    /// Whether `token` is one of the account's: may manage servers.
    pub fn is_account_token(&self, token: &str) -> bool {
        let snapshot = self.snapshot.load();
        let found = snapshot.find(token);
        let credential = found.unwrap_or(&snapshot.nobody);
        bool::from(equal(&credential.token, token))
            && found.is_some_and(|c| c.owner == Owner::Account)
    }

    pub fn server(&self, name: &str) -> Option<Arc<ServerInfo>> {
        self.snapshot.load().servers.get(name).cloned()
    }

    /// By the id that a record carries.
    pub fn server_with_id(&self, id: u32) -> Option<Arc<ServerInfo>> {
        self.snapshot.load().servers_by_id.get(&id).cloned()
    }

    /// Whether this domain may stand in From of servers that ask for verified senders.
    pub fn is_verified(&self, domain: &Domain) -> bool {
        self.snapshot.load().domains.contains(domain)
    }
}

/// One state of all settings.
pub struct Snapshot {
    servers: HashMap<Arc<str>, Arc<ServerInfo>>,
    servers_by_id: HashMap<u32, Arc<ServerInfo>>,
    credentials: HashMap<[u8; 32], Credential>,
    domains: HashSet<Domain>,
    /// Keys the look-up; drawn anew for each snapshot, so that nothing outside can choose colliding or neighbouring keys.
    key: hmac::Key,
    /// Compared with when nothing is found, so that this takes as long.
    nobody: Credential,
    trusted: Arc<str>,
}

struct Credential {
    token: String,
    owner: Owner,
    stream: Option<Arc<str>>,
    label: Arc<str>,
}

#[derive(PartialEq, Eq)]
enum Owner {
    Account,
    Server(Arc<ServerInfo>),
}

impl Credential {
    fn sender(&self) -> Option<Sender> {
        match &self.owner {
            Owner::Account => None,
            Owner::Server(server) => Some(Sender {
                server: server.clone(),
                stream: self.stream.clone(),
                credential: self.label.clone(),
            }),
        }
    }
}

impl Snapshot {
    /// `key` is random: 32 octets.
    pub fn new(key: &[u8; 32], domains: impl IntoIterator<Item = Domain>) -> Self {
        Self {
            servers: HashMap::new(),
            servers_by_id: HashMap::new(),
            credentials: HashMap::new(),
            domains: domains.into_iter().collect(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            nobody: Credential {
                token: "a token that nobody has, as long".into(),
                owner: Owner::Account,
                stream: None,
                label: "".into(),
            },
            trusted: "trusted network".into(),
        }
    }

    pub fn add_server(&mut self, server: ServerInfo) {
        let server = Arc::new(server);
        self.servers_by_id.insert(server.id, server.clone());
        self.servers.insert(server.name.clone(), server);
    }

    /// Adds a token of a server that is already there. `label` names it in logs.
    pub fn add_server_token(
        &mut self,
        server: &str,
        token: &str,
        stream: Option<&str>,
        label: &str,
    ) {
        if let Some(server) = self.servers.get(server).cloned() {
            self.add(token, Owner::Server(server), stream, label);
        }
    }

    pub fn add_account_token(&mut self, token: &str, label: &str) {
        self.add(token, Owner::Account, None, label);
    }

    fn add(&mut self, token: &str, owner: Owner, stream: Option<&str>, label: &str) {
        let credential = Credential {
            token: token.to_owned(),
            owner,
            stream: stream.map(Into::into),
            label: label.into(),
        };
        self.credentials.insert(self.lookup(token), credential);
    }

    fn find(&self, token: &str) -> Option<&Credential> {
        self.credentials.get(&self.lookup(token))
    }

    /// The map is keyed by a keyed hash and not by the token: how long a look-up takes says nothing about any token.
    fn lookup(&self, token: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.key, token.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }
}

/// The length may show in the time it takes, the content not.
fn equal(a: &str, b: &str) -> Choice {
    a.as_bytes().ct_eq(b.as_bytes())
}

/// RFC 2195 §2, in lower-case hexadecimal.
fn cram_md5(secret: &str, challenge: &str) -> String {
    let Ok(mut mac) = Hmac::<md5::Md5>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(challenge.as_bytes());
    let digest = mac.finalize().into_bytes();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: u32, name: &str) -> ServerInfo {
        ServerInfo {
            id,
            name: name.into(),
            message_id: MessageIdPolicy::Keep,
            senders: SendersPolicy::Any,
            notify: Notify::None,
            sandbox: false,
            streams: vec![StreamInfo {
                id: "outbound".into(),
                kind: StreamKind::Transactional,
                pool: Some(PoolId(0)),
                archived: false,
            }],
        }
    }

    fn accounts() -> Accounts {
        let mut snapshot = Snapshot::new(&[7; 32], [Domain::parse("example.com").unwrap()]);
        snapshot.add_server(server(1, "app"));
        snapshot.add_server(server(2, "shop"));
        snapshot.add_server_token("app", "app-token", None, "token 1");
        snapshot.add_server_token("shop", "shop-token", Some("outbound"), "token 2");
        snapshot.add_account_token("account-token", "token 3");
        Accounts::new(snapshot)
    }

    #[test]
    fn a_server_token_is_user_name_and_password() {
        let accounts = accounts();
        let sender = accounts.authenticate("app-token", "app-token").unwrap();
        assert_eq!((sender.server.id, &*sender.credential), (1, "token 1"));
        assert_eq!(sender.stream, None);
        let sender = accounts.authenticate("shop-token", "shop-token").unwrap();
        assert_eq!(sender.stream.as_deref(), Some("outbound"));
        for (user, password) in [
            ("app-token", "shop-token"),
            ("app", "app-token"),
            ("", ""),
            ("app-token", "app-token "),
            ("account-token", "account-token"),
            (
                "a token that nobody has, as long",
                "a token that nobody has, as long",
            ),
        ] {
            assert!(
                accounts.authenticate(user, password).is_none(),
                "{user} {password}"
            );
        }
    }

    #[test]
    fn cram_md5_proves_the_token_for_one_challenge() {
        // The example of RFC 2195 §2.
        let challenge = "<1896.697170952@postoffice.reston.mci.net>";
        assert_eq!(
            cram_md5("tanstaaftanstaaf", challenge),
            "b913a602c7eda7a495b4e6e7334d3890"
        );
        let accounts = accounts();
        let digest = cram_md5("app-token", challenge);
        let sender = accounts
            .authenticate_cram_md5("app-token", challenge, &digest)
            .unwrap();
        assert_eq!(&*sender.server.name, "app");
        assert!(
            accounts
                .authenticate_cram_md5("app-token", challenge, &digest.to_ascii_uppercase())
                .is_some()
        );
        assert!(
            accounts
                .authenticate_cram_md5("app-token", "<another>", &digest)
                .is_none()
        );
        assert!(
            accounts
                .authenticate_cram_md5("shop-token", challenge, &digest)
                .is_none()
        );
        assert!(
            accounts
                .authenticate_cram_md5("nobody", challenge, &cram_md5("nobody", challenge))
                .is_none()
        );
    }

    #[test]
    fn only_account_tokens_manage_the_account() {
        let accounts = accounts();
        assert!(accounts.is_account_token("account-token"));
        assert!(!accounts.is_account_token("app-token"));
        assert!(!accounts.is_account_token("a token that nobody has, as long"));
    }

    #[test]
    fn a_swap_is_seen_at_once_and_senders_in_hand_stay_valid() {
        let accounts = accounts();
        let sender = accounts.trusted("app", Some("outbound")).unwrap();
        accounts.swap(Snapshot::new(&[8; 32], []));
        assert!(accounts.trusted("app", None).is_none());
        assert!(accounts.authenticate("app-token", "app-token").is_none());
        assert!(!accounts.is_verified(&Domain::parse("example.com").unwrap()));
        assert_eq!(&*sender.server.name, "app");
    }
}
