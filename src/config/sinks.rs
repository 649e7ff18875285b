//! `[[sink]]`, as used.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;

/// `[[sink]]`: where events go besides.
#[derive(Clone, Debug)]
pub struct Sink {
    /// Lower-case letters, digits and -.
    pub name: String,
    /// Empty: all; as for servers and streams.
    pub kinds: Vec<String>,
    pub servers: Vec<String>,
    pub streams: Vec<String>,
    pub from: SinkStart,
    pub target: SinkTarget,
}

/// Where a new sink begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkStart {
    Now,
    /// With the first event that is kept.
    Start,
}

#[derive(Clone, Debug)]
pub enum SinkTarget {
    File(SinkFile),
    Stdout,
    Syslog { socket: PathBuf },
    Journald { socket: PathBuf },
    Nats(SinkNats),
    Kafka(SinkKafka),
}

#[derive(Clone, Debug)]
pub struct SinkFile {
    pub path: PathBuf,
    pub rotate_size: u64,
    pub rotate_every: Option<Duration>,
    /// Rotated files.
    pub keep: usize,
    pub compression: Compression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Zstd,
    Gzip,
}

impl Compression {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

#[derive(Clone, Debug)]
pub struct SinkNats {
    pub url: String,
    /// May hold `{server}`, `{stream}`, `{kind}`.
    pub subject: String,
    /// `[tls] ca_file`, for a URL of `tls://`.
    pub ca_file: Option<PathBuf>,
    pub user: Option<(String, Secret)>,
    pub token: Option<Secret>,
}

#[derive(Clone, Debug)]
pub struct SinkKafka {
    /// `HOST:PORT`; they name the others.
    pub brokers: Vec<String>,
    pub topic: String,
    pub compression: Compression,
    pub tls: bool,
    /// `[tls] ca_file`.
    pub ca_file: Option<PathBuf>,
    pub user: Option<(String, Secret)>,
    pub mechanism: KafkaMechanism,
}

/// Of SASL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl KafkaMechanism {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::ScramSha256 => "scram-sha-256",
            Self::ScramSha512 => "scram-sha-512",
        }
    }
}

/// What [`Sink::kinds`] may hold. `event`, which knows them, is above this module; a test of the sinks holds the two together.
pub const SINK_KINDS: &[&str] = &[
    "accepted",
    "deferred",
    "ambiguous",
    "delivered",
    "bounced",
    "expired",
    "cancelled",
    "suppressed",
    "unsuppressed",
    "bounced_later",
    "complained",
    "opened",
    "clicked",
    "source_stopped",
    "source_resumed",
    "suspended",
    "rerouted",
    "resumed",
    "retried",
    "rescheduled",
    "dkim_activated",
    "dkim_paused",
    "dkim_resumed",
    "domain_changed",
    "source_changed",
    "people_mail",
];
