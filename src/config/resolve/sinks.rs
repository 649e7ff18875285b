//! `[[sink]]`: where events go besides, and which.

use std::path::PathBuf;

use super::{Context, MIB};
use crate::config::raw::{RawConfig, RawSink, RawSinkType};
use crate::config::source::Located;
use crate::config::{Compression, SINK_KINDS, Sink, SinkFile, SinkNats, SinkStart, SinkTarget};
use crate::limits;

impl Context<'_> {
    pub(super) fn sinks(&mut self, raw: &RawConfig) -> Vec<Sink> {
        let raw = raw.sink.as_deref().unwrap_or_default();
        if let Some(surplus) = raw.get(limits::SINKS_MAX) {
            let text = format!("is one too many; there may be {}", limits::SINKS_MAX);
            self.problem(&surplus.at, text);
        }
        let mut sinks: Vec<Sink> = Vec::new();
        for given in raw {
            let Some(sink) = self.sink(given) else {
                continue;
            };
            if sinks.iter().any(|other| other.name == sink.name) {
                let text = format!(
                    "there is a sink `{}` already; each has its own place in the log",
                    sink.name
                );
                self.problem(&given.at.child("name"), text);
            }
            sinks.push(sink);
        }
        sinks
    }

    fn sink(&mut self, raw: &Located<RawSink>) -> Option<Sink> {
        let name = self.required(&raw.name, &raw.at, "name")?;
        let is_fit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_fit) {
            let text = format!(
                "must be lower-case letters, digits and -, at most {NAME_MAX}: it names a file"
            );
            self.problem(&name.at, text);
        }
        let kind = self.required(&raw.type_, &raw.at, "type")?.value;
        self.refuse_others(raw, kind);
        for given in raw.kinds.iter().flatten() {
            if !SINK_KINDS.contains(&given.as_str()) {
                let text = format!(
                    "`{}` is no kind of event: {}",
                    given.value,
                    SINK_KINDS.join(", ")
                );
                self.problem(&given.at, text);
            }
        }
        let texts = |list: &Option<Vec<Located<String>>>| {
            let list = list.iter().flatten();
            list.map(|text| text.value.clone()).collect()
        };
        Some(Sink {
            name: name.value.clone(),
            kinds: texts(&raw.kinds),
            servers: texts(&raw.servers),
            streams: texts(&raw.streams),
            from: raw.from.as_ref().map_or(SinkStart::Now, |from| from.value),
            target: self.target(raw, kind)?,
        })
    }

    fn target(&mut self, raw: &Located<RawSink>, kind: RawSinkType) -> Option<SinkTarget> {
        let socket = |default: &str| {
            let given = raw.socket.as_ref().map(|socket| socket.value.as_str());
            PathBuf::from(given.unwrap_or(default))
        };
        Some(match kind {
            RawSinkType::Stdout => SinkTarget::Stdout,
            RawSinkType::Syslog => SinkTarget::Syslog {
                socket: self.base.join(socket(SYSLOG)),
            },
            RawSinkType::Journald => SinkTarget::Journald {
                socket: self.base.join(socket(JOURNALD)),
            },
            RawSinkType::File => {
                let path = self.required(&raw.path, &raw.at, "path")?;
                SinkTarget::File(SinkFile {
                    path: self.path(path),
                    rotate_size: self.size(&raw.rotate_size, ROTATE_DEFAULT, MIB..=ROTATE_MAX),
                    rotate_every: raw.rotate_every.as_ref().map(|every| every.value),
                    keep: raw
                        .keep
                        .as_ref()
                        .map_or(KEEP_DEFAULT, |keep| keep.value as usize),
                    compression: raw
                        .compression
                        .as_ref()
                        .map_or(Compression::Zstd, |compression| compression.value),
                })
            }
            RawSinkType::Nats => {
                let url = self.required(&raw.url, &raw.at, "url")?;
                if (!url.starts_with("nats://") && !url.starts_with("tls://")) || url.contains('@')
                {
                    self.problem(&url.at, "must begin with nats:// or tls:// and hold no password (user, password): \"nats://127.0.0.1:4222\"");
                }
                let subject = raw.subject.as_ref();
                if let Some(given) = subject
                    && (given.is_empty() || given.contains([' ', '*', '>']))
                {
                    self.problem(&given.at, "must be a subject, without blanks and wildcards: \"posthaste.{server}.{stream}.{kind}\"");
                }
                let password = raw.password.as_ref();
                let password = password.and_then(|p| self.secret_that(p, |_| Ok(())));
                let user = raw.user.as_ref().map(|user| user.value.clone());
                if user.is_some() != raw.password.is_some() {
                    self.problem(
                        &raw.at,
                        "has one of user and password; give both or neither",
                    );
                }
                SinkTarget::Nats(SinkNats {
                    user: user.zip(password),
                    url: url.value.clone(),
                    subject: subject
                        .map_or(SUBJECT_DEFAULT, |subject| &subject.value)
                        .to_owned(),
                    token: raw
                        .token
                        .as_ref()
                        .and_then(|token| self.secret_that(token, |_| Ok(()))),
                })
            }
        })
    }

    /// A key that its type of sink does not know is a mistake.
    fn refuse_others(&mut self, raw: &Located<RawSink>, kind: RawSinkType) {
        use RawSinkType::*;
        let given = [
            (raw.path.as_ref().map(|key| &key.at), &[File][..]),
            (raw.rotate_size.as_ref().map(|key| &key.at), &[File]),
            (raw.rotate_every.as_ref().map(|key| &key.at), &[File]),
            (raw.keep.as_ref().map(|key| &key.at), &[File]),
            (raw.compression.as_ref().map(|key| &key.at), &[File]),
            (raw.socket.as_ref().map(|key| &key.at), &[Syslog, Journald]),
            (raw.url.as_ref().map(|key| &key.at), &[Nats]),
            (raw.subject.as_ref().map(|key| &key.at), &[Nats]),
            (raw.user.as_ref().map(|key| &key.at), &[Nats]),
            (raw.password.as_ref().map(|key| &key.at), &[Nats]),
            (raw.token.as_ref().map(|key| &key.at), &[Nats]),
        ];
        for (at, of) in given {
            if let Some(at) = at
                && !of.contains(&kind)
            {
                self.problem(at, "has no effect on a sink of this type; remove it");
            }
        }
    }
}

const NAME_MAX: usize = 32;
const SYSLOG: &str = "/dev/log";
const JOURNALD: &str = "/run/systemd/journal/socket";
const ROTATE_DEFAULT: u64 = 64 * MIB;
const ROTATE_MAX: u64 = 1024 * 1024 * MIB;
const KEEP_DEFAULT: usize = 30;
const SUBJECT_DEFAULT: &str = "posthaste.{server}.{stream}.{kind}";
