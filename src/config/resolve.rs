//! From the file as typed to [`Config`]: defaults, limits, references, files. Reports every problem, not just the first.

mod bounces;
mod domains;
mod egress;
mod listeners;
mod servers;
mod shaping;
mod share;
mod sinks;
mod webhooks;

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use egress::SANDBOX_POOLS;
pub(super) use listeners::loopback;
pub use servers::is_stream_id;
pub(super) use shaping::shipped;

use super::raw::{
    DnsServer, RawConfig, RawDelivery, RawLog, RawRetry, RawSpool, RawTimeouts, Size,
};
use super::source::{At, ConfigError, Located, Problem, Reader};
use super::values::{text_of_duration, text_of_size};
use super::{
    Cidr, Config, Delivery, Dns, Dnsbl, Log, LogFormat, Node, Retries, Retry, RetryOverride,
    Secret, Spool, StreamKind, Suppressions, Timeouts, Tls,
};
use crate::clock::Zone;
use crate::limits;
use crate::mail::{Domain, Mailbox};

pub(super) fn resolve(
    text: &str,
    file: &Path,
    data_dir: Option<&Path>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let mut reader = Reader::new(text);
    let raw = reader.read::<RawConfig>();
    let mut context = Context {
        base: base_of(file),
        environment,
        problems: reader.problems,
        warnings: Vec::new(),
    };
    // A value that could not be read is absent now; judging the rest would only report it again as missing.
    let config = match raw {
        Some(raw) if context.problems.is_empty() => Some(context.config(&raw, file, data_dir)),
        _ => None,
    };
    match config {
        Some(config) if context.problems.is_empty() => Ok(config),
        _ => {
            context.problems.sort_by_key(|p| p.line);
            Err(ConfigError {
                file: file.into(),
                problems: context.problems,
            })
        }
    }
}

/// `[node] data_dir` alone.
pub(super) fn data_dir(text: &str, file: &Path) -> Result<PathBuf, ConfigError> {
    let raw = read(text, file)?;
    let given = raw.node.data_dir.as_ref().map(|d| d.value.as_str());
    Ok(base_of(file).join(given.unwrap_or(DATA_DIR_DEFAULT)))
}

/// `[http] time_zone` alone.
pub(super) fn time_zone(file: &Path) -> Result<Zone, ConfigError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error))?;
    let raw = read(&text, file)?;
    let Some(given) = raw.http.time_zone.as_ref() else {
        return Ok(listeners::time_zone_default());
    };
    Zone::named(&given.value).ok_or_else(|| ConfigError {
        file: file.into(),
        problems: vec![given.at.problem(listeners::no_zone(&given.value))],
    })
}

fn read(text: &str, file: &Path) -> Result<RawConfig, ConfigError> {
    let mut reader = Reader::new(text);
    let raw = reader.read::<RawConfig>();
    match raw {
        Some(raw) if reader.problems.is_empty() => Ok(raw),
        _ => Err(ConfigError {
            file: file.into(),
            problems: reader.problems,
        }),
    }
}

/// `[classify]` and the providers, without the secrets of the daemon's environment.
pub(super) fn rules(
    text: &str,
    file: &Path,
) -> Result<(Vec<PathBuf>, Arc<super::Shaping>), ConfigError> {
    let config = resolve(text, file, None, &|name| {
        Some(format!("the value of {name}"))
    })?;
    Ok((config.rule_files, config.shaping))
}

/// The directory that relative paths start from.
fn base_of(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.into());
    absolute.parent().map_or_else(PathBuf::new, Into::into)
}

/// What is needed and what is found while a configuration is judged.
struct Context<'a> {
    base: PathBuf,
    environment: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Context<'_> {
    fn config(&mut self, raw: &RawConfig, file: &Path, data_dir: Option<&Path>) -> Config {
        let node = self.node(raw, data_dir);
        let pools = self.pools(raw, &node.hostname);
        let domains = self.domains(raw);
        let signing = self.signing(raw);
        let servers = self.servers(raw, &pools);
        self.check_tokens_are_unique(raw);
        let smtp = self.smtp(raw, &servers);
        let inbound = self.inbound(raw);
        let http = self.http(raw);
        self.check_binds(raw, &http);
        let admin = self.admin(raw);
        let account = self.account(raw, &node.hostname);
        let bounce = self.bounce(raw);
        let delivery = self.delivery(&raw.delivery, &node.hostname);
        let shaping = self.shaping(raw, &delivery, &pools);
        Config {
            development: false,
            file: Some(std::path::absolute(file).unwrap_or_else(|_| file.into())),
            routes: self.routes(raw),
            log: self.log(&raw.log),
            spool: self.spool(&raw.spool),
            shaping: shaping.into(),
            shares: self.shares(raw),
            delivery,
            timeouts: self.timeouts(&raw.timeouts),
            dns: dns(raw),
            dnsbl: self.dnsbl(raw),
            tls: self.tls(raw),
            suppressions: Suppressions {
                hashed: raw
                    .suppressions
                    .hashed
                    .as_ref()
                    .is_some_and(|hashed| hashed.value),
            },
            rule_files: {
                let files = raw.classify.rules.iter().flatten();
                files.map(|file| self.path(file)).collect()
            },
            retry: self.retries(raw),
            webhooks: self.webhooks(&raw.webhooks),
            warnings: std::mem::take(&mut self.warnings),
            node,
            smtp,
            inbound,
            sinks: self.sinks(raw),
            http,
            admin,
            pools,
            account,
            bounce,
            servers,
            domains,
            signing,
        }
    }

    fn problem(&mut self, at: &At, message: impl Into<String>) {
        self.problems.push(at.problem(message));
    }

    fn warn(&mut self, at: &At, message: impl Display) {
        let place = match at.line {
            0 => at.key.clone(),
            line => format!("line {line}: {}", at.key),
        };
        self.warnings.push(format!("{place}: {message}"));
    }

    /// The value of a key that must be given.
    fn required<'r, T>(
        &mut self,
        value: &'r Option<Located<T>>,
        section: &At,
        key: &str,
    ) -> Option<&'r Located<T>> {
        if value.is_none() {
            let at = section.child(key);
            self.problem(&at, "is missing; add it to this section");
        }
        value.as_ref()
    }

    fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }

    fn node(&mut self, raw: &RawConfig, data_dir: Option<&Path>) -> Node {
        let hostname = match &raw.node.hostname {
            Some(name) => self.host_name(name),
            None => {
                let name = system_hostname();
                if !name.contains('.') {
                    let advice = format!(
                        "is not given and the system calls itself `{name}`, which remote hosts may refuse in EHLO; set the name that its address resolves to"
                    );
                    self.warn(&raw.node.at.child("hostname"), advice);
                }
                name
            }
        };
        let configured = || raw.node.data_dir.as_ref().map(|d| self.path(d));
        let data_dir = data_dir
            .map(|d| std::path::absolute(d).unwrap_or_else(|_| d.into()))
            .or_else(configured)
            .unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT));
        Node { hostname, data_dir }
    }

    /// A name for EHLO (RFC 5321 §4.1.1.1): a domain, not a literal.
    fn host_name(&mut self, name: &Located<String>) -> String {
        match Domain::parse(name) {
            Ok(domain) if domain.literal().is_none() => domain.as_str().to_owned(),
            _ => {
                self.problem(
                    &name.at,
                    format!(
                        "`{}` is no host name; write it as mta1.example.com",
                        name.value
                    ),
                );
                String::new()
            }
        }
    }

    fn number(
        &mut self,
        value: &Option<Located<u64>>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(value) = value else { return default };
        if !range.contains(&value.value) {
            let message = format!(
                "{} is outside {} to {}",
                value.value,
                range.start(),
                range.end()
            );
            self.problem(&value.at, message);
        }
        value.value
    }

    fn size(
        &mut self,
        value: &Option<Located<Size>>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(value) = value else { return default };
        let octets = value.value.0;
        if !range.contains(&octets) {
            let (least, most) = (text_of_size(*range.start()), text_of_size(*range.end()));
            self.problem(
                &value.at,
                format!("{} is outside {least} to {most}", text_of_size(octets)),
            );
        }
        octets
    }

    fn time(
        &mut self,
        value: &Option<Located<Duration>>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = value else { return default };
        if !range.contains(&value.value) {
            let (least, most) = (
                text_of_duration(*range.start()),
                text_of_duration(*range.end()),
            );
            let message = format!(
                "{} is outside {least} to {most}",
                text_of_duration(value.value)
            );
            self.problem(&value.at, message);
        }
        value.value
    }

    fn networks(list: Option<&[Located<Cidr>]>) -> Vec<Cidr> {
        list.unwrap_or_default().iter().map(|c| c.value).collect()
    }

    fn secrets(&mut self, list: Option<&[Located<String>]>) -> Vec<Secret> {
        let list = list.unwrap_or_default();
        list.iter().filter_map(|text| self.secret(text)).collect()
    }

    /// `env:NAME`, `file:PATH`, or the token itself.
    fn secret(&mut self, text: &Located<String>) -> Option<Secret> {
        self.secret_that(text, judge_token)
    }

    /// The same, of a secret that `judge` finds no fault with.
    fn secret_that(
        &mut self,
        text: &Located<String>,
        judge: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        let found = if let Some(name) = text.strip_prefix("env:") {
            (self.environment)(name)
                .ok_or_else(|| format!("the environment has no variable `{name}`; set it for the daemon (systemd: EnvironmentFile= or LoadCredential= with file:)"))
        } else if let Some(path) = text.strip_prefix("file:") {
            let path = self.path(path);
            std::fs::read_to_string(&path)
                .map(|content| content.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))
        } else {
            Ok(text.value.clone())
        };
        let judged = found.and_then(|value| judge(&value).map(|()| value));
        match judged {
            Ok(value) => {
                let reference = text.starts_with("env:") || text.starts_with("file:");
                let origin = if reference {
                    text.value.as_str()
                } else {
                    "literal"
                };
                Some(Secret::new(value, origin))
            }
            Err(message) => {
                self.problem(&text.at, message);
                None
            }
        }
    }

    fn log(&mut self, raw: &RawLog) -> Log {
        let level = raw.level.as_ref().map_or("info", |l| l.value.as_str());
        if let Some(given) = &raw.level
            && !given.split(',').all(is_log_directive)
        {
            let message = format!(
                "`{level}` is no level; write error, warn, info, debug or trace, or several as posthaste=debug,info"
            );
            self.problem(&given.at, message);
        }
        Log {
            format: raw.format.as_ref().map_or(LogFormat::Auto, |f| f.value),
            level: level.to_owned(),
        }
    }

    fn spool(&mut self, raw: &RawSpool) -> Spool {
        for segment in [&raw.mail_segment, &raw.event_segment]
            .into_iter()
            .flatten()
        {
            if !segment.value.0.is_multiple_of(PAGE) {
                self.problem(
                    &segment.at,
                    format!("{} is no multiple of 4KiB", segment.value.0),
                );
            }
        }
        Spool {
            mail_segment: self.size(&raw.mail_segment, 64 * MIB, 4 * MIB..=1024 * MIB),
            event_segment: self.size(&raw.event_segment, 16 * MIB, MIB / 4..=1024 * MIB),
            reserve: self.size(&raw.reserve, 256 * MIB, 0..=1024 * 1024 * MIB),
            refuse_below: self.size(&raw.refuse_below, 2048 * MIB, 0..=1024 * 1024 * MIB),
            warn_below: self.size(&raw.warn_below, 4096 * MIB, 0..=1024 * 1024 * MIB),
            retention: self.time(
                &raw.retention,
                limits::RETENTION,
                Duration::ZERO..=limits::RETENTION_MAX,
            ),
            archive_max: raw
                .archive_max
                .as_ref()
                .map(|_| self.size(&raw.archive_max, 0, 0..=1024 * 1024 * 1024 * MIB)),
            event_retention: self.time(
                &raw.event_retention,
                limits::EVENT_RETENTION,
                DAY..=10 * limits::EVENT_RETENTION,
            ),
            any_file_system: raw.any_file_system.as_ref().is_some_and(|any| any.value),
        }
    }

    /// By default the node's own name.
    fn test_domains(&mut self, list: Option<&[Located<String>]>, hostname: &str) -> Vec<Domain> {
        let Some(list) = list else {
            return Domain::parse(hostname).into_iter().collect();
        };
        let mut domains = Vec::new();
        for text in list {
            match Domain::parse(text) {
                Ok(domain) if domain.literal().is_none() => domains.push(domain),
                _ => self.problem(&text.at, "must be a domain: \"mail.example.com\""),
            }
        }
        domains
    }

    fn delivery(&mut self, raw: &RawDelivery, hostname: &str) -> Delivery {
        let messages = u64::from(limits::MESSAGES_PER_CONNECTION);
        let per_site = limits::CONNECTIONS_PER_SOURCE_SITE as u64;
        let all = limits::DELIVERY_CONNECTIONS_MAX as u64;
        Delivery {
            port: self.number(&raw.port, 25, 1..=65_535) as u16,
            allow_networks: Self::networks(raw.allow_networks.as_deref()),
            test_domains: self.test_domains(raw.test_domains.as_deref(), hostname),
            connections_per_site: self.number(&raw.connections_per_site, per_site, 1..=1_000)
                as usize,
            connections_max: self.number(&raw.connections_max, all, 1..=60_000) as usize,
            messages_per_connection: self.number(
                &raw.messages_per_connection,
                messages,
                1..=1_000_000,
            ) as u32,
            idle: self.time(
                &raw.idle,
                limits::CONNECTION_IDLE,
                MILLISECOND..=minutes(10),
            ),
        }
    }

    fn timeouts(&mut self, raw: &RawTimeouts) -> Timeouts {
        let range = MILLISECOND..=minutes(60);
        let default = Timeouts::default();
        Timeouts {
            connect: self.time(&raw.connect, default.connect, range.clone()),
            banner: self.time(&raw.banner, default.banner, range.clone()),
            command: self.time(&raw.command, default.command, range.clone()),
            data: self.time(&raw.data, default.data, range.clone()),
            block: self.time(&raw.block, default.block, range.clone()),
            dot: self.time(&raw.dot, default.dot, range),
        }
    }

    fn dnsbl(&mut self, raw: &RawConfig) -> Dnsbl {
        let given = raw.dnsbl.zones.as_deref().unwrap_or_default();
        let mut zones: Vec<Domain> = Vec::new();
        for text in given {
            let zone = Domain::parse(text)
                .ok()
                .filter(|zone| zone.literal().is_none() && zone.as_str().contains('.'));
            match zone {
                Some(zone) if zones.contains(&zone) => {
                    self.problem(&text.at, "stands here twice");
                }
                Some(zone) => zones.push(zone),
                None => self.problem(&text.at, "must be the zone of a list: \"bl.example.org\""),
            }
            if zones.len() > limits::DNSBL_ZONES_MAX {
                let most = format!("at most {} lists", limits::DNSBL_ZONES_MAX);
                self.problem(&text.at, &most);
                break;
            }
        }
        Dnsbl { zones }
    }

    fn account(&mut self, raw: &RawConfig, hostname: &str) -> super::Account {
        let given = raw.account.notices_from.as_ref();
        let notices_from = given.and_then(|text| {
            let parsed = Mailbox::parse(text, false);
            if parsed.is_err() {
                self.problem(&text.at, "must be an address: \"posthaste@example.com\"");
            }
            parsed.ok()
        });
        super::Account {
            tokens: self.secrets(raw.account.tokens.as_deref()),
            rate: raw.account.rate.as_ref().map(|r| r.value),
            notices_from: notices_from.unwrap_or_else(|| notices_from_default(hostname)),
        }
    }

    fn tls(&mut self, raw: &RawConfig) -> Tls {
        let ca_file = raw.tls.ca_file.as_ref().map(|file| {
            let path = self.path(file);
            self.check_certificates(&file.at, &path);
            path
        });
        Tls { ca_file }
    }

    fn retries(&mut self, raw: &RawConfig) -> Retries {
        Retries {
            transactional: self.retry(
                &raw.retry.transactional,
                &Retry::default_for(StreamKind::Transactional),
            ),
            broadcast: self.retry(
                &raw.retry.broadcast,
                &Retry::default_for(StreamKind::Broadcast),
            ),
        }
    }

    /// What a stream of this kind changes of `[retry]`.
    fn retry_override(
        &mut self,
        raw: &Located<RawRetry>,
        config: &RawConfig,
        kind: StreamKind,
    ) -> RetryOverride {
        // What is wrong with the base itself is told there.
        let told = self.problems.len();
        let default = Retry::default_for(kind);
        let base = match kind {
            StreamKind::Broadcast => self.retry(&config.retry.broadcast, &default),
            StreamKind::Transactional | StreamKind::Inbound => {
                self.retry(&config.retry.transactional, &default)
            }
        };
        self.problems.truncate(told);
        let found = self.retry(raw, &base);
        RetryOverride {
            first: raw.first.as_ref().map(|_| found.first),
            max: raw.max.as_ref().map(|_| found.max),
            max_age: raw.max_age.as_ref().map(|_| found.max_age),
        }
    }

    fn retry(&mut self, raw: &Located<RawRetry>, default: &Retry) -> Retry {
        let range = MILLISECOND..=RETRY_AGE_CAP;
        let retry = Retry {
            first: self.time(&raw.first, default.first, range.clone()),
            max: self.time(&raw.max, default.max, range.clone()),
            max_age: self.time(&raw.max_age, default.max_age, range),
        };
        if retry.first > retry.max {
            let (first, max) = (text_of_duration(retry.first), text_of_duration(retry.max));
            self.problem(
                &raw.at,
                format!("first ({first}) is longer than max ({max}); raise max or lower first"),
            );
        }
        retry
    }
}

impl Retry {
    /// DESIGN §4: two days of transactional mail, three of broadcast.
    pub(super) fn default_for(kind: StreamKind) -> Self {
        let (first, max, days) = match kind {
            StreamKind::Broadcast => (minutes(5), minutes(240), 3),
            StreamKind::Transactional | StreamKind::Inbound => {
                (Duration::from_secs(30), minutes(60), 2)
            }
        };
        Self {
            first,
            max,
            max_age: minutes(days * 24 * 60),
        }
    }
}

/// RFC 5321 §4.5.3.2.1 and following: the least that a client should wait.
impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            banner: minutes(5),
            command: minutes(5),
            data: minutes(2),
            block: minutes(3),
            dot: minutes(10),
        }
    }
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// From of the node's own mail, where none is given. A hostname that is no domain still gives a legal address.
pub(super) fn notices_from_default(hostname: &str) -> Mailbox {
    let of = |domain: &str| Mailbox::parse(&format!("posthaste@{domain}"), false);
    match of(hostname).or_else(|_| of("localhost")) {
        Ok(mailbox) => mailbox,
        Err(error) => unreachable!("posthaste@localhost is an address: {error}"),
    }
}

fn dns(raw: &RawConfig) -> Dns {
    let servers = raw.dns.servers.as_deref().unwrap_or_default();
    let address = |s: &Located<DnsServer>| -> SocketAddr { s.value.0 };
    Dns {
        servers: servers.iter().map(address).collect(),
    }
}

fn is_log_directive(directive: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let level = match directive.split_once('=') {
        Some((target, level)) if !target.is_empty() => level,
        Some(_) => return false,
        None => directive,
    };
    LEVELS.contains(&level)
}

/// RFC 4954 and RFC 2195 carry any text, HTTP header fields only visible ASCII.
fn judge_token(value: &str) -> Result<(), String> {
    let length = value.len();
    if !(TOKEN_LENGTH.contains(&length) && value.bytes().all(|b| b.is_ascii_graphic())) {
        return Err(format!(
            "the token has to be {} to {} visible ASCII characters without spaces; `posthaste token create` makes good ones",
            TOKEN_LENGTH.start(),
            TOKEN_LENGTH.end()
        ));
    }
    Ok(())
}

/// The system's name for itself; Linux keeps it here.
pub(super) fn system_hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match Domain::parse(name.trim()) {
        Ok(domain) if domain.literal().is_none() => domain.as_str().to_owned(),
        _ => "localhost".into(),
    }
}

/// An address that can be one network interface's: not unspecified, not multicast, not broadcast.
fn is_interface_address(address: IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}

const DATA_DIR_DEFAULT: &str = "/var/lib/posthaste";
const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
/// threats-and-faults §5.
const RETRY_AGE_CAP: Duration = minutes(7 * 24 * 60);
const TOKEN_LENGTH: RangeInclusive<usize> = 8..=256;
