//! What the hot path reads: servers, streams, tokens, domains and signatures as one immutable value, swapped when a setting
//! changes.
//!
//! Promises: no look-up waits, not for SQL and not for a lock; a refused and an unknown credential take the same time, and
//! the comparison of a token reveals nothing of it by its time. The API reads here too, so that it answers while the store
//! does not.
//!
//! How: a change makes a copy with the one server replaced. The copy holds references, so it costs a few milliseconds for
//! tens of thousands of entries; changes are seldom, look-ups are not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ::hmac::{Hmac, KeyInit, Mac};
use arc_swap::ArcSwap;
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::watch;

use super::identity::{DkimKeys, DomainInfo, SignatureInfo, Standing, folded};
use super::model::{Attributes, ServerInfo, StreamInfo, StreamText, TokenInfo, TokenKind};
use super::rate::{TooFast, Usage};
use super::secret::{NodeKey, canonical};
use crate::clock::UnixMs;
use crate::config::{MessageIdPolicy, Notify, PoolId, Rate, SendersPolicy, StreamKind};
use crate::mail::{Domain, Mailbox, Verp, VerpSecret};
use crate::sign::{Keys, SigningKey};

/// The accounts of the node. Shared; reading never waits.
pub struct Accounts {
    snapshot: ArcSwap<Snapshot>,
    /// Told of every swap.
    swaps: watch::Sender<()>,
}

/// Who submits: the server, and how it was recognised.
#[derive(Clone, Debug)]
pub struct Sender {
    pub server: Arc<ServerInfo>,
    /// Fixed by the credential or by the trusted network; otherwise the message names it.
    pub stream: Option<Arc<str>>,
    /// Fit for logs: `token 3`, `configured token 1 of app`, `trusted network`.
    pub credential: Arc<str>,
    /// `None`: a trusted network.
    key: Option<Lookup>,
}

/// Where a credential is found: the keyed hash of its user name.
pub type Lookup = [u8; 32];

impl Sender {
    /// The node itself, for its own mail: no server of the account, so id 0, which none has.
    pub fn of_node(pool: PoolId) -> Self {
        let stream = StreamInfo {
            id: "outbound".into(),
            kind: StreamKind::Transactional,
            text: StreamText::of_default(StreamKind::Transactional),
            pool_name: None,
            pool: Some(pool),
            retention: None,
            retry: Default::default(),
            ambiguous: Default::default(),
            created: 0,
            updated: None,
            archived_at: None,
        };
        let server = ServerInfo {
            id: 0,
            name: "(node)".into(),
            declared: true,
            senders: SendersPolicy::Any,
            message_id: MessageIdPolicy::Keep,
            notify: Notify::None,
            sandbox: false,
            attributes: Attributes::default(),
            created: 0,
            streams: vec![stream],
            tokens: Vec::new(),
            webhooks: Vec::new(),
        };
        Self {
            server: Arc::new(server),
            stream: None,
            credential: "node".into(),
            key: None,
        }
    }

    /// The node, for notices about mail of this server: in the node's name, so no question whose From that is.
    pub fn of_notices(server: &ServerInfo) -> Self {
        let server = ServerInfo {
            senders: SendersPolicy::Any,
            message_id: MessageIdPolicy::Keep,
            notify: Notify::None,
            ..server.clone()
        };
        Self {
            server: Arc::new(server),
            stream: None,
            credential: "node".into(),
            key: None,
        }
    }

    /// Recognised by where it comes from, not by what it knows.
    pub fn is_trusted_network(&self) -> bool {
        self.key.is_none()
    }
}

impl Accounts {
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            swaps: watch::Sender::new(()),
        }
    }

    pub fn swap(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.swaps.send_replace(());
    }

    /// For whoever acts on changes.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.swaps.subscribe()
    }

    /// One state of everything, for whoever reads more than one thing.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// AUTH PLAIN and LOGIN: a server token as user name and as password, or access key and secret key of an SMTP token.
    pub fn authenticate(&self, user: &str, password: &str) -> Option<Sender> {
        let snapshot = self.snapshot.load();
        let (user, password) = (canonical(user), canonical(password));
        let found = snapshot.find(&user);
        let credential = found.unwrap_or(&snapshot.nobody);
        let same = equal(&credential.secret, &password) & equal(&credential.user, &user);
        (bool::from(same) && found.is_some())
            .then(|| snapshot.submitter(credential))
            .flatten()
    }

    /// AUTH CRAM-MD5 (RFC 2195): the same user name, and HMAC-MD5 of the challenge keyed with the password.
    pub fn authenticate_cram_md5(
        &self,
        user: &str,
        challenge: &str,
        digest_hex: &str,
    ) -> Option<Sender> {
        let snapshot = self.snapshot.load();
        let canonical_user = canonical(user);
        let found = snapshot.find(&canonical_user);
        let credential = found.unwrap_or(&snapshot.nobody);
        // A token is its own password, and the client keys with the spelling that it was given.
        let secret = match credential.kind {
            TokenKind::Server => user,
            TokenKind::Smtp | TokenKind::Account => &credential.secret,
        };
        let expected = cram_md5(secret, challenge);
        let same = equal(&expected, &digest_hex.to_ascii_lowercase())
            & equal(&credential.user, &canonical_user);
        (bool::from(same) && found.is_some())
            .then(|| snapshot.submitter(credential))
            .flatten()
    }

    /// A client in a trusted network.
    pub fn trusted(&self, server: &str, stream: Option<&str>) -> Option<Sender> {
        let snapshot = self.snapshot.load();
        Some(Sender {
            server: snapshot.names.get(server)?.clone(),
            stream: stream.map(Into::into),
            credential: snapshot.trusted.clone(),
            key: None,
        })
    }

    /// The sender of a message that begins now, on a connection that authenticated earlier: with the settings of now, and
    /// `None` when the credential has been revoked meanwhile. Trusted networks are looked up by [`Accounts::trusted`].
    pub fn renew(&self, sender: &Sender) -> Option<Sender> {
        let snapshot = self.snapshot.load();
        snapshot.submitter(snapshot.credentials.get(&sender.key?)?)
    }

    /// Counts one message or request of a credential against its limit, and notes its use.
    pub fn count(&self, sender: &Sender, now: UnixMs) -> Result<(), TooFast> {
        let snapshot = self.snapshot.load();
        let credential = sender.key.and_then(|key| snapshot.credentials.get(&key));
        credential.map_or(Ok(()), |c| c.count(&snapshot, now))
    }

    /// HTTP: the server of a server token. Its use counts against the token's limit.
    pub fn http_server(
        &self,
        token: &str,
        now: UnixMs,
    ) -> Option<Result<Arc<ServerInfo>, TooFast>> {
        let snapshot = self.snapshot.load();
        let credential = snapshot.by_token(token, TokenKind::Server)?;
        let server = snapshot.servers.get(&credential.server?)?;
        Some(credential.count(&snapshot, now).map(|()| server.clone()))
    }

    /// HTTP: as [`Accounts::http_server`], for sending.
    pub fn http_sender(&self, token: &str, now: UnixMs) -> Option<Result<Sender, TooFast>> {
        let snapshot = self.snapshot.load();
        let credential = snapshot.by_token(token, TokenKind::Server)?;
        let sender = snapshot.sender(credential)?;
        Some(credential.count(&snapshot, now).map(|()| sender))
    }

    /// HTTP: whether this is an account token. Its use counts against the token's limit.
    pub fn http_account(&self, token: &str, now: UnixMs) -> Option<Result<(), TooFast>> {
        let snapshot = self.snapshot.load();
        let credential = snapshot.by_token(token, TokenKind::Account)?;
        Some(credential.count(&snapshot, now))
    }

    pub fn server(&self, name: &str) -> Option<Arc<ServerInfo>> {
        self.snapshot.load().names.get(name).cloned()
    }

    /// By the id that a record carries.
    pub fn server_with_id(&self, id: u32) -> Option<Arc<ServerInfo>> {
        self.snapshot.load().servers.get(&id).cloned()
    }

    /// Whether this address may stand in From of servers that ask for verified senders. Sub-domains are not implied.
    pub fn standing(&self, from: &Mailbox) -> Standing {
        let snapshot = self.snapshot.load();
        let domain = snapshot.domain_named(from.domain());
        if domain.is_some_and(|domain| domain.may_send()) {
            return Standing::MaySend;
        }
        match snapshot.signature_of(&folded(from)) {
            Some(signature) if signature.confirmed.is_some() => Standing::MaySend,
            Some(_) => Standing::Unconfirmed,
            None => Standing::Unknown,
        }
    }
}

/// One state of all settings. A copy costs references only.
#[derive(Clone)]
pub struct Snapshot {
    servers: BTreeMap<u32, Arc<ServerInfo>>,
    names: HashMap<Arc<str>, Arc<ServerInfo>>,
    credentials: HashMap<Lookup, Arc<Credential>>,
    account_tokens: Vec<TokenInfo>,
    domains: BTreeMap<u32, Arc<DomainInfo>>,
    domain_names: HashMap<Domain, Arc<DomainInfo>>,
    /// Keys in use, by their domains.
    signing: HashMap<Domain, Keys>,
    platform: Option<Arc<Platform>>,
    /// Of it, those in use.
    platform_keys: Keys,
    signatures: BTreeMap<u32, Arc<SignatureInfo>>,
    /// By their folded addresses.
    addresses: HashMap<Arc<str>, Arc<SignatureInfo>>,
    /// Verified Return-Path domains, by the domains in From.
    return_paths: HashMap<Domain, Arc<str>>,
    /// All Return-Path domains, verified or not (mail may have left from them before), and of how many domains each is.
    return_path_hosts: HashMap<Arc<str>, usize>,
    bounces: Arc<Bounces>,
    key: Arc<NodeKey>,
    /// Compared with when nothing is found, so that this takes as long.
    nobody: Arc<Credential>,
    trusted: Arc<str>,
}

/// The domain of the node itself, as far as it signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub domain: Domain,
    pub keys: DkimKeys,
}

/// `[bounce]`, as it is used.
pub(super) struct Bounces {
    domain: Option<Box<str>>,
    /// What Return-Path domains are aliases of.
    alias_of: Box<str>,
    postmaster: Option<Mailbox>,
    complaints_to: Option<Mailbox>,
    verp: Verp,
}

impl Bounces {
    pub(super) fn of(config: &crate::config::Config, key: &NodeKey) -> Self {
        let bounce = &config.bounce;
        let given = bounce.secrets.iter().map(|s| s.expose().as_bytes());
        let mut secrets: Vec<VerpSecret> = given.map(VerpSecret::new).collect();
        // Behind those that were given, so that a first secret in the configuration disowns no address that is out.
        secrets.push(VerpSecret::new(&key.bouncing()));
        let older = secrets.split_off(1);
        let newest = secrets.pop();
        let newest = newest.unwrap_or_else(|| VerpSecret::new(&key.bouncing()));
        Self {
            domain: bounce.domain.as_ref().map(|d| d.as_str().into()),
            alias_of: config.return_path_host().to_ascii_lowercase().into(),
            postmaster: bounce.postmaster.clone(),
            complaints_to: bounce.complaints_to.clone(),
            verp: Verp::new(newest, older, bounce.accept_for),
        }
    }

    /// Before there is a configuration.
    fn none(key: &NodeKey) -> Self {
        let newest = VerpSecret::new(&key.bouncing());
        Self {
            domain: None,
            alias_of: "".into(),
            postmaster: None,
            complaints_to: None,
            verp: Verp::new(
                newest,
                Vec::new(),
                crate::config::Bounce::default().accept_for,
            ),
        }
    }
}

/// How somebody is recognised.
#[derive(Debug)]
pub struct Credential {
    pub kind: TokenKind,
    /// Finds it: the token, or the access key of an SMTP token.
    pub user: String,
    /// Proves it. Of an account token the store keeps none; its hash has proved it.
    pub secret: String,
    pub server: Option<u32>,
    pub stream: Option<Arc<str>>,
    /// Names it in logs.
    pub label: Arc<str>,
    pub rate: Option<Rate>,
    pub usage: Arc<Usage>,
}

impl Credential {
    fn count(&self, snapshot: &Snapshot, now: UnixMs) -> Result<(), TooFast> {
        self.usage.note(now);
        let of_server = || {
            let server = snapshot.servers.get(&self.server?)?;
            server.attributes.rate
        };
        let Some(rate) = self.rate.or_else(of_server) else {
            return Ok(());
        };
        self.usage.take(rate, now).map_err(|wait| TooFast {
            credential: self.label.to_string(),
            rate,
            seconds: wait.as_secs() + 1,
        })
    }
}

impl Snapshot {
    pub fn new(key: Arc<NodeKey>) -> Self {
        let nobody = "00000000-0000-0000-0000-00000000000x";
        Self {
            servers: BTreeMap::new(),
            names: HashMap::new(),
            credentials: HashMap::new(),
            account_tokens: Vec::new(),
            domains: BTreeMap::new(),
            domain_names: HashMap::new(),
            signing: HashMap::new(),
            platform: None,
            platform_keys: Keys::new(),
            signatures: BTreeMap::new(),
            addresses: HashMap::new(),
            return_paths: HashMap::new(),
            return_path_hosts: HashMap::new(),
            bounces: Arc::new(Bounces::none(&key)),
            key,
            nobody: Arc::new(Credential {
                kind: TokenKind::Server,
                user: nobody.into(),
                secret: nobody.into(),
                server: None,
                stream: None,
                label: "".into(),
                rate: None,
                usage: Arc::default(),
            }),
            trusted: "trusted network".into(),
        }
    }

    /// In the order of their ids.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<ServerInfo>> {
        self.servers.values()
    }

    pub fn server(&self, id: u32) -> Option<&Arc<ServerInfo>> {
        self.servers.get(&id)
    }

    pub fn server_named(&self, name: &str) -> Option<&Arc<ServerInfo>> {
        self.names.get(name)
    }

    pub fn account_tokens(&self) -> &[TokenInfo] {
        &self.account_tokens
    }

    /// In the order of their ids; unlisted ones too.
    pub fn domains(&self) -> impl Iterator<Item = &Arc<DomainInfo>> {
        self.domains.values()
    }

    pub fn domain(&self, id: u32) -> Option<&Arc<DomainInfo>> {
        self.domains.get(&id)
    }

    pub fn domain_named(&self, name: &Domain) -> Option<&Arc<DomainInfo>> {
        self.domain_names.get(name)
    }

    /// In the order of their ids.
    pub fn signatures(&self) -> impl Iterator<Item = &Arc<SignatureInfo>> {
        self.signatures.values()
    }

    pub fn signature(&self, id: u32) -> Option<&Arc<SignatureInfo>> {
        self.signatures.get(&id)
    }

    /// By its folded address.
    pub fn signature_of(&self, folded: &str) -> Option<&Arc<SignatureInfo>> {
        self.addresses.get(folded)
    }

    /// Puts a domain in the place of the one with its id.
    pub fn put_domain(&mut self, domain: DomainInfo) {
        self.forget_return_path(domain.id);
        let host = &domain.attributes.return_path;
        if !host.is_empty() {
            *self
                .return_path_hosts
                .entry(host.as_str().into())
                .or_default() += 1;
        }
        match domain.attributes.bounces_to() {
            Some(host) => self.return_paths.insert(domain.name.clone(), host.into()),
            None => self.return_paths.remove(&domain.name),
        };
        let domain = Arc::new(domain);
        self.domain_names
            .insert(domain.name.clone(), domain.clone());
        self.domains.insert(domain.id, domain);
    }

    fn forget_return_path(&mut self, id: u32) {
        let Some(known) = self.domains.get(&id) else {
            return;
        };
        let host = known.attributes.return_path.as_str();
        if let Some(count) = self.return_path_hosts.get_mut(host) {
            *count -= 1;
            if *count == 0 {
                self.return_path_hosts.remove(host);
            }
        }
    }

    pub fn remove_domain(&mut self, id: u32) {
        self.forget_return_path(id);
        if let Some(old) = self.domains.remove(&id) {
            self.domain_names.remove(&old.name);
            self.signing.remove(&old.name);
            self.return_paths.remove(&old.name);
        }
    }

    /// Whether it depends on From where bounces come back to.
    pub fn has_return_paths(&self) -> bool {
        !self.return_paths.is_empty()
    }

    /// The domain that bounces of mail with this domain in From come back to; `None`: to wherever its sender said.
    pub fn bounce_domain(&self, from: Option<&Domain>) -> Option<&str> {
        let own = from.and_then(|from| self.return_paths.get(from));
        own.map(|host| &**host).or(self.bounces.domain.as_deref())
    }

    /// Whether mail to this domain is bounces of mail that left from here.
    pub fn takes_bounces_for(&self, domain: &Domain) -> bool {
        *self.bounces.alias_of == *domain.as_str()
            || self.return_path_hosts.contains_key(domain.as_str())
    }

    /// Whether that is where feedback loops send complaints. Its case does not matter.
    pub fn takes_complaints_at(&self, mailbox: &Mailbox) -> bool {
        let address = self.bounces.complaints_to.as_ref();
        address.is_some_and(|address| address.as_str().eq_ignore_ascii_case(mailbox.as_str()))
    }

    /// Who gets mail for postmaster and abuse.
    pub fn postmaster(&self) -> Option<&Mailbox> {
        self.bounces.postmaster.as_ref()
    }

    /// Makes and reads the addresses that bounces come back to.
    pub fn verp(&self) -> &Verp {
        &self.bounces.verp
    }

    pub(super) fn put_bounces(&mut self, bounces: Bounces) {
        self.bounces = Arc::new(bounces);
    }

    /// Whether any mail is signed.
    pub fn signs(&self) -> bool {
        !self.signing.is_empty() || !self.platform_keys.is_empty()
    }

    /// What mail with this domain in From is signed with: its own keys, then the platform's.
    pub fn signing_keys(&self, from: Option<&Domain>) -> Keys {
        let own = from.and_then(|domain| self.signing.get(domain));
        let mut keys = own.cloned().unwrap_or_default();
        for key in &self.platform_keys {
            // The platform may send mail in its own name, with its own key.
            let is_there = |own: &Arc<SigningKey>| own.is_same(key);
            if !keys.iter().any(is_there) {
                keys.push(Arc::clone(key));
            }
        }
        keys
    }

    /// The domain that signs all mail besides that of From, where one is configured.
    pub fn platform(&self) -> Option<&Arc<Platform>> {
        self.platform.as_ref()
    }

    /// None: its mail is not signed for it. A key that `known` has too stays the same value: signatures made with it are kept.
    pub(super) fn put_signing_keys(
        &mut self,
        domain: &Domain,
        keys: Vec<SigningKey>,
        known: &Snapshot,
    ) {
        let shared: Keys = keys.into_iter().map(|key| known.share(key)).collect();
        match shared.is_empty() {
            true => self.signing.remove(domain),
            false => self.signing.insert(domain.clone(), shared),
        };
    }

    pub(super) fn put_platform(
        &mut self,
        platform: Option<Platform>,
        keys: Vec<SigningKey>,
        known: &Snapshot,
    ) {
        self.platform = platform.map(Arc::new);
        self.platform_keys = keys.into_iter().map(|key| known.share(key)).collect();
    }

    fn share(&self, key: SigningKey) -> Arc<SigningKey> {
        let own = self.signing.get(&key.domain).into_iter().flatten();
        let mut known = own.chain(&self.platform_keys);
        let same = known.find(|known| known.is_same(&key)).cloned();
        same.unwrap_or_else(|| Arc::new(key))
    }

    /// Puts a signature in the place of the one with its id.
    pub fn put_signature(&mut self, signature: SignatureInfo) {
        let signature = Arc::new(signature);
        let key = folded(&signature.address).into();
        self.addresses.insert(key, signature.clone());
        self.signatures.insert(signature.id, signature);
    }

    pub fn remove_signature(&mut self, id: u32) {
        if let Some(old) = self.signatures.remove(&id) {
            self.addresses.remove(folded(&old.address).as_str());
        }
    }

    /// The uses of all credentials, by the ids of their tokens.
    pub(super) fn usages(&self) -> impl Iterator<Item = (u32, &Arc<Usage>)> {
        let of_servers = self.servers.values().flat_map(|s| &s.tokens);
        let all = of_servers.chain(&self.account_tokens);
        all.filter_map(|token| Some((token.id?, &token.usage)))
    }

    /// What is known of the use of a credential that may be new.
    pub(super) fn usage(&self, lookup: &Lookup) -> Option<Arc<Usage>> {
        Some(self.credentials.get(lookup)?.usage.clone())
    }

    /// Puts a server in the place of the one with its id.
    pub fn put_server(
        &mut self,
        server: ServerInfo,
        credentials: impl IntoIterator<Item = (Lookup, Credential)>,
    ) {
        self.remove_server(server.id);
        let server = Arc::new(server);
        self.names.insert(server.name.clone(), server.clone());
        self.servers.insert(server.id, server);
        self.add_credentials(credentials);
    }

    pub fn remove_server(&mut self, id: u32) {
        if let Some(old) = self.servers.remove(&id) {
            self.names.remove(&old.name);
            for token in &old.tokens {
                let user = token.access_key.as_ref().or(token.text.as_ref());
                if let Some(user) = user {
                    self.credentials.remove(&self.key.lookup(&canonical(user)));
                }
            }
        }
    }

    pub fn put_account_tokens(
        &mut self,
        tokens: Vec<TokenInfo>,
        credentials: impl IntoIterator<Item = (Lookup, Credential)>,
    ) {
        self.credentials
            .retain(|_, credential| credential.kind != TokenKind::Account);
        self.account_tokens = tokens;
        self.add_credentials(credentials);
    }

    fn add_credentials(&mut self, credentials: impl IntoIterator<Item = (Lookup, Credential)>) {
        let shared = credentials.into_iter().map(|(key, c)| (key, Arc::new(c)));
        self.credentials.extend(shared);
    }

    /// The map is keyed by a keyed hash and not by the user name: how long a look-up takes says nothing about any token.
    fn find(&self, user: &str) -> Option<&Arc<Credential>> {
        self.credentials.get(&self.key.lookup(user))
    }

    /// A token alone, as HTTP has it: found by its keyed hash, which is compared in constant time.
    fn by_token(&self, token: &str, kind: TokenKind) -> Option<&Arc<Credential>> {
        let given = self.key.lookup(&canonical(token));
        let (found, credential) = self.credentials.get_key_value(&given)?;
        (bool::from(found.ct_eq(&given)) && credential.kind == kind).then_some(credential)
    }

    /// Account tokens do not submit.
    fn sender(&self, credential: &Credential) -> Option<Sender> {
        let server = self.servers.get(&credential.server?)?;
        Some(Sender {
            server: server.clone(),
            stream: credential.stream.clone(),
            credential: credential.label.clone(),
            key: Some(self.key.lookup(&credential.user)),
        })
    }

    /// Over SMTP, which a server may have switched off.
    fn submitter(&self, credential: &Credential) -> Option<Sender> {
        let sender = self.sender(credential)?;
        let over_smtp = sender.server.attributes.smtp_api_activated;
        over_smtp.then_some(sender)
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
mod tests;
