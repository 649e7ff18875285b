//! `[[sink]]`: where events go besides, and which.

use std::path::{Path, PathBuf};

use super::{Context, MIB};
use crate::config::raw::{RawConfig, RawSink, RawSinkType};
use crate::config::source::Located;
use crate::config::{
    Compression, KafkaMechanism, SINK_KINDS, Secret, Sink, SinkFile, SinkKafka, SinkNats,
    SinkStart, SinkTarget,
};
use crate::limits;

impl Context<'_> {
    pub(super) fn sinks(&mut self, raw: &RawConfig) -> Vec<Sink> {
        let ca_file = raw.tls.ca_file.as_ref().map(|file| self.path(file));
        let raw = raw.sink.as_deref().unwrap_or_default();
        if let Some(surplus) = raw.get(limits::SINKS_MAX) {
            let text = format!("is one too many; there may be {}", limits::SINKS_MAX);
            self.problem(&surplus.at, text);
        }
        let mut sinks: Vec<Sink> = Vec::new();
        for given in raw {
            let Some(sink) = self.sink(given, ca_file.clone()) else {
                continue;
            };
            if sinks.iter().any(|other| other.name == sink.name) {
                let text = format!(
                    "there is a sink `{}` already; each has its own place in the log",
                    sink.name
                );
                self.problem(&given.at.child("name"), text);
            }
            if let SinkTarget::File(file) = &sink.target
                && let Some(other) = sinks.iter().find(|other| is_file(other, &file.path))
            {
                let text = format!(
                    "is the file of the sink `{}` already; each needs its own",
                    other.name
                );
                self.problem(&given.at.child("path"), text);
            }
            sinks.push(sink);
        }
        sinks
    }

    fn sink(&mut self, raw: &Located<RawSink>, ca_file: Option<PathBuf>) -> Option<Sink> {
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
            target: self.target(raw, kind, ca_file)?,
        })
    }

    fn target(
        &mut self,
        raw: &Located<RawSink>,
        kind: RawSinkType,
        ca_file: Option<PathBuf>,
    ) -> Option<SinkTarget> {
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
                let given = self.required(&raw.path, &raw.at, "path")?;
                let path = self.path(given);
                let dir = path.parent().unwrap_or(Path::new("/"));
                if !dir.is_dir() {
                    let text = format!("{} is no directory; create it", dir.display());
                    self.problem(&given.at, text);
                }
                SinkTarget::File(SinkFile {
                    path,
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
                SinkTarget::Nats(SinkNats {
                    user: self.user(raw),
                    ca_file,
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
            RawSinkType::Kafka => SinkTarget::Kafka(self.kafka(raw, ca_file)?),
        })
    }

    fn kafka(&mut self, raw: &Located<RawSink>, ca_file: Option<PathBuf>) -> Option<SinkKafka> {
        if !cfg!(feature = "kafka") {
            let at = raw.type_.as_ref().map_or(&raw.at, |kind| &kind.at);
            self.problem(at, WITHOUT_KAFKA);
        }
        let brokers = raw.brokers.as_deref().unwrap_or_default();
        if brokers.is_empty() {
            self.problem(&raw.at, "needs `brokers`: [\"kafka1.example.com:9092\"]");
        }
        let tls = raw.tls.as_ref().is_some_and(|tls| tls.value);
        for broker in brokers {
            let (host, port) = broker.rsplit_once(':').unwrap_or((broker, ""));
            let is_host = !host.is_empty() && !host.contains(['/', '@', ' ']);
            if !is_host || !matches!(port.parse(), Ok(1u16..)) {
                self.problem(
                    &broker.at,
                    "must be a host and its port: \"kafka1.example.com:9092\"",
                );
            }
        }
        if tls && let Some(broker) = brokers.iter().find(|broker| broker.starts_with('[')) {
            let text = "must be a name or an IPv4 address where `tls` is set: the client knows no other in certificates";
            self.problem(&broker.at, text);
        }
        let is_fit = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if let Some(topic) = &raw.topic
            && (topic.is_empty() || topic.len() > 249 || !topic.bytes().all(is_fit))
        {
            self.problem(
                &topic.at,
                "must be letters, digits, '.', '_' and '-', at most 249",
            );
        }
        let user = self.user(raw);
        if let Some(mechanism) = &raw.mechanism
            && raw.user.is_none()
        {
            self.problem(&mechanism.at, "has no effect without user and password");
        }
        let mechanism = raw.mechanism.as_ref();
        let mechanism = mechanism.map_or(KafkaMechanism::ScramSha512, |given| given.value);
        if mechanism == KafkaMechanism::Plain && !tls {
            self.warn(
                &raw.at,
                "sends its password in clear: set tls = true, or a mechanism of scram",
            );
        }
        let topic = raw
            .topic
            .as_ref()
            .map_or(TOPIC_DEFAULT, |topic| &topic.value);
        let compression = raw.compression.as_ref();
        Some(SinkKafka {
            brokers: brokers.iter().map(|broker| broker.value.clone()).collect(),
            topic: topic.to_owned(),
            compression: compression.map_or(Compression::Zstd, |compression| compression.value),
            tls,
            ca_file,
            user,
            mechanism,
        })
    }

    fn user(&mut self, raw: &Located<RawSink>) -> Option<(String, Secret)> {
        let password = raw.password.as_ref();
        let password = password.and_then(|p| self.secret_that(p, |_| Ok(())));
        if raw.user.is_some() != raw.password.is_some() {
            let text = "has one of user and password; give both or neither";
            self.problem(&raw.at, text);
        }
        raw.user
            .as_ref()
            .map(|user| user.value.clone())
            .zip(password)
    }

    /// A key that its type of sink does not know is a mistake.
    fn refuse_others(&mut self, raw: &Located<RawSink>, kind: RawSinkType) {
        use RawSinkType::*;
        let given = [
            (raw.path.as_ref().map(|key| &key.at), &[File][..]),
            (raw.rotate_size.as_ref().map(|key| &key.at), &[File]),
            (raw.rotate_every.as_ref().map(|key| &key.at), &[File]),
            (raw.keep.as_ref().map(|key| &key.at), &[File]),
            (raw.compression.as_ref().map(|key| &key.at), &[File, Kafka]),
            (raw.socket.as_ref().map(|key| &key.at), &[Syslog, Journald]),
            (raw.url.as_ref().map(|key| &key.at), &[Nats]),
            (raw.subject.as_ref().map(|key| &key.at), &[Nats]),
            (raw.user.as_ref().map(|key| &key.at), &[Nats, Kafka]),
            (raw.password.as_ref().map(|key| &key.at), &[Nats, Kafka]),
            (raw.token.as_ref().map(|key| &key.at), &[Nats]),
            (
                raw.brokers
                    .as_ref()
                    .and_then(|list| Some(&list.first()?.at)),
                &[Kafka],
            ),
            (raw.topic.as_ref().map(|key| &key.at), &[Kafka]),
            (raw.tls.as_ref().map(|key| &key.at), &[Kafka]),
            (raw.mechanism.as_ref().map(|key| &key.at), &[Kafka]),
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

/// Or would give its rotated files the same names.
fn is_file(sink: &Sink, path: &Path) -> bool {
    let SinkTarget::File(file) = &sink.target else {
        return false;
    };
    let stem = |path: &Path| {
        let jsonl = path.extension().is_some_and(|ending| ending == "jsonl");
        if jsonl {
            path.with_extension("")
        } else {
            path.to_owned()
        }
    };
    stem(&file.path) == stem(path)
}

const NAME_MAX: usize = 32;
const SYSLOG: &str = "/dev/log";
const JOURNALD: &str = "/run/systemd/journal/socket";
const ROTATE_DEFAULT: u64 = 64 * MIB;
const ROTATE_MAX: u64 = 1024 * 1024 * MIB;
const KEEP_DEFAULT: usize = 30;
const TOPIC_DEFAULT: &str = "posthaste";
const WITHOUT_KAFKA: &str = "this posthaste was built without Kafka; build it with `cargo build --release --features kafka`, or hand events on by another type of sink";
const SUBJECT_DEFAULT: &str = "posthaste.{server}.{stream}.{kind}";
