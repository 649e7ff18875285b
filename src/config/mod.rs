//! The configuration: one TOML file, read once at start and again at SIGHUP.
//!
//! Promises: what leaves this module is complete and consistent. Every default is filled in, every path absolute, every
//! reference resolved, and no address is shared by pools of different kinds (DESIGN §1.3). What cannot be used is refused
//! with file, line, key and what to do; all problems are reported together.
//! Deliberately does not know who reads it, and does not touch the network.
//!
//! `source.rs` reads TOML into values that know their line, `raw.rs` lists every key as typed, `resolve.rs` makes
//! [`Config`] from it, `reference.rs` documents the keys. TOML is walked by hand and not through serde, because serde
//! stops at the first problem and an operator who mistyped three keys wants to hear of three.

pub mod reference;
pub mod template;

mod development;
mod raw;
mod resolve;
mod shaping;
mod share;
mod show;
mod sinks;
pub(crate) mod source;
mod values;
mod webhooks;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Zone;
use crate::mail::{Domain, Mailbox};

pub use resolve::{SANDBOX_POOLS, is_stream_id};
pub use shaping::{PathLimits, ProviderId, Set, Shaping};
pub use share::Share;
pub use sinks::{
    Compression, KafkaMechanism, SINK_KINDS, Sink, SinkFile, SinkKafka, SinkNats, SinkStart,
    SinkTarget,
};
pub use source::{ConfigError, Problem};
pub use spool_format::StreamKind;
pub use values::{
    Cidr, Rate, RateUnit, Secret, duration as parse_duration, size as parse_size, text_of_duration,
    text_of_size,
};
pub use webhooks::{RetryOn, Webhooks};

/// Everything the node needs to know at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Started without a configuration file: the sandboxed node of DESIGN §5, with tokens printed at first start.
    pub development: bool,
    /// The file it was read from.
    pub file: Option<PathBuf>,
    pub node: Node,
    pub smtp: Vec<SmtpListener>,
    pub inbound: Vec<InboundListener>,
    pub sinks: Vec<Sink>,
    pub http: HttpListener,
    pub admin: Admin,
    pub log: Log,
    pub spool: Spool,
    pub delivery: Delivery,
    /// Limits of providers and the operator's.
    pub shaping: Arc<Shaping>,
    pub shares: Vec<Share>,
    pub timeouts: Timeouts,
    pub dns: Dns,
    pub dnsbl: Dnsbl,
    pub tls: Tls,
    /// [`PoolId`] is the index here.
    pub pools: Vec<Pool>,
    /// First match wins; no match means MX look-up.
    pub routes: Vec<Route>,
    pub account: Account,
    pub bounce: Bounce,
    pub servers: Vec<Server>,
    pub suppressions: Suppressions,
    /// The operator's files of rules for what remote hosts say, asked in this order before the shipped ones.
    pub rule_files: Vec<PathBuf>,
    /// Domains that count as verified for `senders = "verified"`.
    pub domains: Vec<DeclaredDomain>,
    pub signing: Signing,
    pub retry: Retries,
    pub webhooks: Webhooks,
    /// What is accepted but probably not meant; shown by `config check` and logged at start.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads `file`. `data_dir` (from the command line) overrides `[node] data_dir`.
    pub fn load(file: &Path, data_dir: Option<&Path>) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error))?;
        Self::parse(&text, file, data_dir, &|name| std::env::var(name).ok())
    }

    /// As [`Config::load`], from text. `file` names the text in messages and its directory is the base of relative paths;
    /// `environment` answers `env:NAME`.
    pub fn parse(
        text: &str,
        file: &Path,
        data_dir: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        resolve::resolve(text, file, data_dir, environment)
    }

    /// The node of `posthaste serve` without a configuration file (DESIGN §5). `data_dir`: default `./posthaste-data`.
    pub fn development(data_dir: Option<&Path>) -> Self {
        development::config(data_dir)
    }

    /// The effective configuration as TOML, without secrets: what `config show` prints.
    pub fn show(&self) -> String {
        show::show(self)
    }

    pub fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[usize::from(id.0)]
    }

    pub fn pool_named(&self, name: &str) -> Option<PoolId> {
        self.pools.iter().find(|p| p.name == name).map(|p| p.id)
    }

    /// The pool for streams of this kind that name none: the default one, or the only one (DESIGN §5).
    pub fn pool_default(&self, kind: StreamKind) -> Option<PoolId> {
        let mut of_kind = self.pools.iter().filter(|p| p.kind == kind);
        let first = of_kind.next()?;
        let rest = || self.pools.iter().filter(|p| p.kind == kind);
        match rest().find(|p| p.default) {
            Some(pool) => Some(pool.id),
            None => of_kind.next().is_none().then_some(first.id),
        }
    }

    /// All sources of all pools, in the order of [`SourceId`].
    pub fn sources(&self) -> impl Iterator<Item = (&Pool, &Source)> {
        self.pools
            .iter()
            .flat_map(|p| p.sources.iter().map(move |s| (p, s)))
    }

    /// What Return-Path domains are aliases (CNAME) of.
    pub fn return_path_host(&self) -> &str {
        let given = self.bounce.domain.as_ref();
        given.map_or(&self.node.hostname, Domain::as_str)
    }

    /// How the HTTP listener is reached from outside, without a slash at its end.
    pub fn public_url(&self) -> String {
        let scheme = match self.http.tls {
            TlsMode::Off => "http",
            TlsMode::StartTls | TlsMode::Implicit => "https",
        };
        // A development node is for this machine, whatever its name resolves to.
        if self.development {
            return format!("{scheme}://{}", self.http.bind);
        }
        let given = self.http.public_url.clone();
        given.unwrap_or_else(|| {
            format!(
                "{scheme}://{}:{}",
                self.node.hostname,
                self.http.bind.port()
            )
        })
    }

    /// Whether anything may be routed to the built-in sink, so that the node must run one.
    pub fn needs_sink(&self) -> bool {
        self.routes.iter().any(|r| r.target == RouteTarget::Sink)
            || self.servers.iter().any(|s| s.sandbox)
    }
}

/// The data directory that `file` names, whatever else is in it: for commands that lack the daemon's secrets.
pub fn data_dir_in(file: &Path) -> Result<PathBuf, ConfigError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error))?;
    resolve::data_dir(&text, file)
}

/// The zone of statistics in `file`. For command lines, which lack the daemon's secrets.
pub fn time_zone_in(file: &Path) -> Result<Zone, ConfigError> {
    resolve::time_zone(file)
}

/// The files of rules that `file` names, and its providers. For command lines, which lack the daemon's secrets.
pub fn rules_in(file: &Path) -> Result<(Vec<PathBuf>, Arc<Shaping>), ConfigError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error))?;
    resolve::rules(&text, file)
}

/// `[node]`
#[derive(Clone, Debug)]
pub struct Node {
    /// EHLO and `Received` name of this node.
    pub hostname: String,
    pub data_dir: PathBuf,
}

/// `[[smtp]]`: one submission listener.
#[derive(Clone, Debug)]
pub struct SmtpListener {
    pub bind: SocketAddr,
    pub tls: TlsMode,
    /// Present exactly when `tls` is not off.
    pub identity: Option<TlsIdentity>,
    pub trusted: Vec<Trusted>,
    /// AUTH without TLS also from elsewhere than loopback.
    pub allow_plain_auth: bool,
    /// Peers that begin with a PROXY protocol header (v1 or v2).
    pub proxy_from: Vec<Cidr>,
    /// Peers that may send XCLIENT.
    pub xclient_from: Vec<Cidr>,
    pub size_max: u64,
}

/// `[[inbound]]`: where the world's hosts hand in bounces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundListener {
    pub bind: SocketAddr,
    pub tls: TlsMode,
    pub identity: Option<TlsIdentity>,
    pub proxy_from: Vec<Cidr>,
    pub size_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Off,
    StartTls,
    Implicit,
}

/// Files of a certificate chain and its key, PEM. Read by the listener, again at SIGHUP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A network that submits without AUTH, as `server`, on `stream` or the stream that the message names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    pub cidr: Cidr,
    pub server: String,
    pub stream: Option<String>,
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct HttpListener {
    pub bind: SocketAddr,
    /// [`TlsMode::Off`] or [`TlsMode::Implicit`].
    pub tls: TlsMode,
    pub identity: Option<TlsIdentity>,
    /// How the listener is reached from outside, without a slash at its end: links in mail begin with it.
    pub public_url: Option<String>,
    /// Of the days of statistics, and of dates in queries that name none.
    pub time_zone: Zone,
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    pub tokens: Vec<Secret>,
    pub metrics_from: Vec<Cidr>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A `tracing` filter: `info`, or `posthaste=debug,warn`.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, lines with priorities under journald, JSON otherwise.
    Auto,
    Human,
    Json,
}

/// `[spool]`, octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    pub mail_segment: u64,
    pub event_segment: u64,
    pub reserve: u64,
    /// New mail is refused under this much free space, or under 10 % of the file system where that is less.
    pub refuse_below: u64,
    /// The alarm is raised, and archives give way, under this much free space, or under 20 % of the file system.
    pub warn_below: u64,
    /// How long content is kept that every recipient is done with, where its stream says nothing else.
    pub retention: Duration,
    /// Archived content that is kept at most.
    pub archive_max: Option<u64>,
    /// How long events are kept.
    pub event_retention: Duration,
    /// Go on where space that was allocated can run out later (copy-on-write, network file systems).
    pub any_file_system: bool,
}

/// `[delivery]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Port of remote hosts found by MX.
    pub port: u16,
    /// Private ranges that DNS may lead to; routes are exempt.
    pub allow_networks: Vec<Cidr>,
    /// Below which the test addresses are.
    pub test_domains: Vec<Domain>,
    /// Of one (source, site).
    pub connections_per_site: usize,
    /// Of the node.
    pub connections_max: usize,
    pub messages_per_connection: u32,
    /// An unused connection is closed after this time.
    pub idle: Duration,
}

/// `[timeouts]`: RFC 5321 §4.5.3.2, for the client role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub banner: Duration,
    /// EHLO, STARTTLS, MAIL, RCPT.
    pub command: Duration,
    /// DATA until its 354.
    pub data: Duration,
    /// One block of content.
    pub block: Duration,
    /// Final dot until its reply.
    pub dot: Duration,
}

/// `[suppressions]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suppressions {
    /// Addresses are kept as keyed hashes only.
    pub hashed: bool,
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Empty: the system's.
    pub servers: Vec<SocketAddr>,
}

/// `[dnsbl]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dnsbl {
    /// Blocklists that checks of sources ask.
    pub zones: Vec<Domain>,
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Roots besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// Index into [`Config::pools`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u16);

/// A source's place among all sources of all pools, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u16);

/// `[[pool]]`
#[derive(Clone, Debug)]
pub struct Pool {
    pub id: PoolId,
    pub name: String,
    /// Transactional or broadcast, never inbound.
    pub kind: StreamKind,
    pub default: bool,
    /// Never empty.
    pub sources: Vec<Source>,
}

/// One egress source. At least one of `v4` and `v6` is there.
#[derive(Clone, Debug)]
pub struct Source {
    pub id: SourceId,
    pub name: Arc<str>,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub ehlo: String,
    /// 1 to 1000.
    pub weight: u32,
    /// Its addresses are another host's, which is reached so.
    pub proxy: Option<Arc<Proxy>>,
    /// What remote hosts see in the place of its addresses, at most one of each family.
    pub public: Vec<IpAddr>,
}

/// Where a source lives that is not on this host.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub kind: ProxyKind,
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    pub user: Option<ProxyUser>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// RFC 1928. Connects from whatever address it has.
    Socks5,
    /// PROXY protocol, version 2. Connects from the source's address.
    HaProxy,
}

/// RFC 1929: 1 to 255 octets each.
#[derive(Clone, Debug)]
pub struct ProxyUser {
    pub name: String,
    pub password: Secret,
}

impl Proxy {
    pub fn authority(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

/// As it is configured.
impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, host, port) = (self.kind.scheme(), &self.host, self.port);
        match host.contains(':') {
            true => write!(f, "{scheme}[{host}]:{port}"),
            false => write!(f, "{scheme}{host}:{port}"),
        }
    }
}

impl ProxyKind {
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5://",
            Self::HaProxy => "haproxy://",
        }
    }
}

impl Source {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::V4);
        v4.into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// What remote hosts see, as far as that is known.
    pub fn seen_as(&self) -> impl Iterator<Item = IpAddr> {
        let has = |like: IpAddr| self.public.iter().any(|p| p.is_ipv4() == like.is_ipv4());
        let own = self.addresses().filter(move |own| !has(*own));
        self.public.iter().copied().chain(own)
    }
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub pattern: DomainPattern,
    pub target: RouteTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainPattern {
    /// `*`
    Any,
    /// `example.com`
    Exact(Domain),
    /// `*.example.com`: every name below it, not itself.
    Below(Domain),
}

impl DomainPattern {
    pub fn matches(&self, domain: &Domain) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == domain,
            Self::Below(parent) => domain
                .as_str()
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// In the order of preference, never empty.
    Hosts(Vec<RouteHost>),
    /// The built-in sink.
    Sink,
}

/// A configured next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteHost {
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    Name(Domain),
}

/// `[account]`
#[derive(Clone, Debug)]
pub struct Account {
    pub tokens: Vec<Secret>,
    /// Of each account token.
    pub rate: Option<Rate>,
    /// From of the node's own mail: confirmations of sender signatures.
    pub notices_from: Mailbox,
}

/// `[bounce]`: what mail leaves from so that bounces come back here.
#[derive(Clone, Debug)]
pub struct Bounce {
    /// Of reverse-paths where the domain in From has no Return-Path domain; `None`: as submitted.
    pub domain: Option<Domain>,
    /// Who gets mail for postmaster and abuse; `None`: it is kept in the event log.
    pub postmaster: Option<Mailbox>,
    /// The first signs addresses, all are accepted; empty: one that is derived from `node.key`.
    pub secrets: Vec<Secret>,
    /// Of a bounce address, from the acceptance of its message on.
    pub accept_for: Duration,
    /// Where feedback loops send complaints.
    pub complaints_to: Option<Mailbox>,
}

impl Default for Bounce {
    fn default() -> Self {
        Self {
            domain: None,
            postmaster: None,
            secrets: Vec::new(),
            // A message may be scheduled for 30 days, and be under way for three; reports of the slowest come within weeks.
            accept_for: Duration::from_secs(60 * 86_400),
            complaints_to: None,
        }
    }
}

/// `[[domain]]`: counts as verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredDomain {
    pub name: Domain,
    /// Sign its mail; in the order of preference, one of each algorithm at a time.
    pub dkim: Vec<KeyFile>,
}

/// A private key, read at start and at a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    pub selector: String,
    pub path: PathBuf,
}

/// `[dkim]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signing {
    /// Whether a new domain gets an Ed25519 key besides its RSA one.
    pub ed25519: bool,
    /// Signs all mail, besides the domain of From.
    pub platform: Option<PlatformKeys>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformKeys {
    pub domain: Domain,
    /// One at least.
    pub keys: Vec<KeyFile>,
}

/// `[[server]]`: a tenant. Made known to the account store at start.
#[derive(Clone, Debug)]
pub struct Server {
    /// Fixed by the configuration; otherwise the store allots one at first sight of the name.
    pub id: Option<u32>,
    pub name: String,
    pub tokens: Vec<Secret>,
    pub senders: SendersPolicy,
    pub notify: Notify,
    pub message_id: MessageIdPolicy,
    pub sandbox: bool,
    /// What is refused is refused at the end of DATA, instead of being taken and bounced.
    pub strict: bool,
    /// Of each of its credentials.
    pub rate: Option<Rate>,
    /// Always holds `outbound`, `broadcast` and `inbound`.
    pub streams: Vec<Stream>,
}

/// `[[server.stream]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub id: String,
    pub kind: StreamKind,
    /// `None`: the default pool of its kind, or inbound.
    pub pool: Option<PoolId>,
    /// `None`: that of `[spool]`.
    pub retention: Option<Duration>,
    pub retry: RetryOverride,
    pub ambiguous: Ambiguous,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendersPolicy {
    Any,
    /// From is of a verified domain, [`Config::domains`] among them, or a confirmed sender signature.
    Verified,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    None,
    /// Notices by RFC 3464 to the reverse-path.
    Dsn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageIdPolicy {
    Keep,
    Replace,
}

/// `[retry]`, by the kind of stream and pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    pub transactional: Retry,
    pub broadcast: Retry,
}

impl Retries {
    pub fn of(&self, kind: StreamKind) -> &Retry {
        match kind {
            StreamKind::Broadcast => &self.broadcast,
            StreamKind::Transactional | StreamKind::Inbound => &self.transactional,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Wait after the first deferral; doubles with each further one.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Given up at this age.
    pub max_age: Duration,
}

/// What a stream has of its own of [`Retry`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOverride {
    pub first: Option<Duration>,
    pub max: Option<Duration>,
    pub max_age: Option<Duration>,
}

impl RetryOverride {
    pub fn of(&self, base: &Retry) -> Retry {
        Retry {
            first: self.first.unwrap_or(base.first),
            max: self.max.unwrap_or(base.max),
            max_age: self.max_age.unwrap_or(base.max_age),
        }
    }
}

/// What follows an attempt whose answer to the final dot was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ambiguous {
    /// Sent again, later.
    #[default]
    Retry,
    /// Bounced, cause `ambiguous`.
    Stop,
}

#[cfg(test)]
mod tests;
