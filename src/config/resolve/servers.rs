//! `[[server]]` and the tokens: who may submit, on which streams, as whom.

use std::collections::HashMap;
use std::time::Duration;

use super::Context;
use super::listeners::on_line;
use crate::config::raw::{DeliveryType, RawConfig, RawServer, RawStream};
use crate::config::source::{At, Located};
use crate::config::{
    Ambiguous, MessageIdPolicy, Notify, Pool, RetryOverride, SendersPolicy, Server, Stream,
    StreamKind,
};
use crate::limits;

impl Context<'_> {
    pub(super) fn servers(&mut self, raw: &RawConfig, pools: &[Pool]) -> Vec<Server> {
        let mut names: HashMap<String, At> = HashMap::new();
        let mut ids: HashMap<u32, At> = HashMap::new();
        let mut servers = Vec::new();
        for raw_server in raw.server.as_deref().unwrap_or_default() {
            let Some(server) = self.server(raw_server, raw, pools) else {
                continue;
            };
            let at = raw_server.at.child("name");
            if let Some(first) = names.insert(server.name.clone(), at.clone()) {
                self.problem(
                    &at,
                    format!(
                        "a server named `{}` is already declared{}",
                        server.name,
                        on_line(&first)
                    ),
                );
            }
            if let Some(id) = server.id
                && let Some(first) = ids.insert(id, raw_server.at.child("id"))
            {
                self.problem(
                    &raw_server.at.child("id"),
                    format!("{id} is already the id of the server{}", on_line(&first)),
                );
            }
            servers.push(server);
        }
        servers
    }

    fn server(
        &mut self,
        raw: &Located<RawServer>,
        config: &RawConfig,
        pools: &[Pool],
    ) -> Option<Server> {
        let name = self.required(&raw.name, &raw.at, "name")?;
        if name.len() > NAME_OCTETS_MAX {
            self.problem(&name.at, format!("is longer than {NAME_OCTETS_MAX} octets"));
        }
        let senders = raw
            .senders
            .as_ref()
            .map_or(SendersPolicy::Verified, |s| s.value);
        let domains = config.domain.as_deref().unwrap_or_default();
        if senders == SendersPolicy::Verified && domains.is_empty() {
            let advice = format!(
                "server `{}` takes mail only from verified senders and no [[domain]] is declared; declare the domains, make them known with `posthaste domain add` or `posthaste sender add`, or set senders = \"any\"",
                name.value
            );
            self.warn(&raw.at.child("senders"), advice);
        }
        let id = raw
            .id
            .as_ref()
            .map(|_| self.number(&raw.id, 0, 1..=u64::from(u32::MAX)) as u32);
        let delivery_type = raw
            .delivery_type
            .as_ref()
            .map_or(DeliveryType::Live, |d| d.value);
        Some(Server {
            id,
            name: name.value.clone(),
            tokens: self.secrets(raw.tokens.as_deref()),
            senders,
            notify: raw.notify.as_ref().map_or(Notify::None, |n| n.value),
            message_id: raw
                .message_id
                .as_ref()
                .map_or(MessageIdPolicy::Keep, |m| m.value),
            sandbox: delivery_type == DeliveryType::Sandbox,
            strict: raw.strict.as_ref().is_some_and(|s| s.value),
            rate: raw.rate.as_ref().map(|r| r.value),
            streams: self.streams(raw, config, pools),
        })
    }

    fn streams(&mut self, server: &RawServer, config: &RawConfig, pools: &[Pool]) -> Vec<Stream> {
        let mut streams = Stream::defaults();
        let mut declared: HashMap<&str, &At> = HashMap::new();
        for raw in server.stream.as_deref().unwrap_or_default() {
            let Some(id) = self.required(&raw.id, &raw.at, "id") else {
                continue;
            };
            if let Some(first) = declared.insert(id, &id.at) {
                self.problem(
                    &id.at,
                    format!(
                        "a stream `{}` is already declared{}",
                        id.value,
                        on_line(first)
                    ),
                );
                continue;
            }
            if let Some(stream) = self.stream(raw, id, config, pools) {
                streams.retain(|s| s.id != stream.id);
                streams.push(stream);
            }
        }
        if streams.len() > STREAMS_MAX {
            let message = format!(
                "a server has at most {STREAMS_MAX} streams, the three that every server has among them"
            );
            self.problem(
                &At {
                    line: 0,
                    key: "server.stream".into(),
                },
                message,
            );
        }
        streams
    }

    fn stream(
        &mut self,
        raw: &Located<RawStream>,
        id: &Located<String>,
        config: &RawConfig,
        pools: &[Pool],
    ) -> Option<Stream> {
        if !is_stream_id(id) {
            let message = format!(
                "`{}` is no stream id: at most {STREAM_ID_MAX} lower-case letters, digits, - and _, the first a letter",
                id.value
            );
            self.problem(&id.at, message);
        }
        let fixed = Stream::defaults().into_iter().find(|s| s.id == id.value);
        let kind = match (&raw.type_, &fixed) {
            (Some(given), Some(fixed)) if given.value != fixed.kind => {
                self.problem(
                    &given.at,
                    format!(
                        "the stream `{}` is {} on every server; use another id",
                        id.value,
                        fixed.kind.as_str()
                    ),
                );
                return None;
            }
            (_, Some(fixed)) => fixed.kind,
            (given, None) => self.required(given, &raw.at, "type")?.value,
        };
        let pool = match &raw.pool {
            None => None,
            Some(name) => {
                let Some(pool) = pools.iter().find(|p| p.name == name.value) else {
                    let names: Vec<&str> = pools.iter().map(|p| p.name.as_str()).collect();
                    self.problem(
                        &name.at,
                        format!(
                            "no [[pool]] is named `{}`; there are: {}",
                            name.value,
                            names.join(", ")
                        ),
                    );
                    return None;
                };
                if pool.kind != kind {
                    let message = format!(
                        "stream `{}` is {} and pool `{}` carries {} mail only: they never mix; name a {} pool",
                        id.value,
                        kind.as_str(),
                        pool.name,
                        pool.kind.as_str(),
                        kind.as_str()
                    );
                    self.problem(&name.at, message);
                }
                Some(pool.id)
            }
        };
        let retention = raw.retention.as_ref().map(|_| {
            let range = Duration::ZERO..=limits::RETENTION_MAX;
            self.time(&raw.retention, limits::RETENTION, range)
        });
        let retry = self.retry_override(&raw.retry, config, kind);
        Some(Stream {
            id: id.value.clone(),
            kind,
            pool,
            retention,
            retry,
            ambiguous: raw.ambiguous.as_ref().map_or(Ambiguous::Retry, |a| a.value),
        })
    }

    /// A token names one owner. Compared as typed: the same `env:` twice is the same token.
    pub(super) fn check_tokens_are_unique(&mut self, raw: &RawConfig) {
        let servers = raw.server.as_deref().unwrap_or_default();
        let of_servers = servers
            .iter()
            .flat_map(|s| s.tokens.as_deref().unwrap_or_default());
        let account = raw.account.tokens.as_deref().unwrap_or_default();
        let admin = raw.admin.tokens.as_deref().unwrap_or_default();
        let mut seen: HashMap<String, At> = HashMap::new();
        for token in of_servers.chain(account).chain(admin) {
            let found = self.problems.len();
            let Some(secret) = self.secret(token) else {
                // Reported where the token is used.
                self.problems.truncate(found);
                continue;
            };
            if let Some(first) = seen.insert(secret.expose().to_owned(), token.at.clone()) {
                self.problem(
                    &token.at,
                    format!(
                        "this token is already given to {}{}; every owner needs its own",
                        first.key,
                        on_line(&first)
                    ),
                );
            }
        }
    }
}

impl Stream {
    /// The three streams of every server (DESIGN §5).
    pub fn defaults() -> Vec<Self> {
        let of = |id: &str, kind| Self {
            id: id.into(),
            kind,
            pool: None,
            retention: None,
            retry: RetryOverride::default(),
            ambiguous: Ambiguous::default(),
        };
        vec![
            of("outbound", StreamKind::Transactional),
            of("broadcast", StreamKind::Broadcast),
            of("inbound", StreamKind::Inbound),
        ]
    }
}

/// Postmark's form, so that its clients can name every stream.
pub fn is_stream_id(id: &str) -> bool {
    let mut bytes = id.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    first && bytes.all(rest) && id.len() <= STREAM_ID_MAX
}

const STREAM_ID_MAX: usize = 30;
const NAME_OCTETS_MAX: usize = 100;
const STREAMS_MAX: usize = 10;
