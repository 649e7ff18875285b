//! The configuration file as typed: every key that exists, with the type of its value and nothing else.
//!
//! A key is added here, in `reference.rs` (a test holds the two together) and in `resolve.rs`. `None` means that the key was
//! not given; defaults are `resolve.rs`'s.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::de::DeValue;

use super::source::{Leaf, Located, Tables, section};
use super::{
    Ambiguous, Cidr, Compression, KafkaMechanism, LogFormat, MessageIdPolicy, Notify, Rate,
    RetryOn, SendersPolicy, SinkStart, StreamKind, TlsMode, values,
};

type Optional<T> = Option<Located<T>>;
type List<T> = Option<Vec<Located<T>>>;

section! {
    RawConfig {
        node: Located<RawNode>,
        smtp: Tables<RawSmtp>,
        inbound: Tables<RawInbound>,
        http: Located<RawHttp>,
        admin: Located<RawAdmin>,
        log: Located<RawLog>,
        spool: Located<RawSpool>,
        delivery: Located<RawDelivery>,
        shaping: Tables<RawShaping>,
        share: Tables<RawShare>,
        timeouts: Located<RawTimeouts>,
        dns: Located<RawDns>,
        dnsbl: Located<RawDnsbl>,
        tls: Located<RawTls>,
        pool: Tables<RawPool>,
        route: Tables<RawRoute>,
        account: Located<RawAccount>,
        bounce: Located<RawBounce>,
        server: Tables<RawServer>,
        domain: Tables<RawDomain>,
        dkim: Located<RawSigning>,
        suppressions: Located<RawSuppressions>,
        classify: Located<RawClassify>,
        retry: Located<RawRetries>,
        sink: Tables<RawSink>,
        webhooks: Located<RawWebhooks>,
    }
}

section! { RawNode { hostname: Optional<String>, data_dir: Optional<String>, } }

section! {
    RawSmtp {
        bind: Optional<SocketAddr>,
        tls: Optional<TlsMode>,
        cert: Optional<String>,
        key: Optional<String>,
        trusted: Tables<RawTrusted>,
        allow_plain_auth: Optional<bool>,
        proxy_from: List<Cidr>,
        xclient_from: List<Cidr>,
        size_max: Optional<Size>,
    }
}

section! {
    RawInbound {
        bind: Optional<SocketAddr>,
        tls: Optional<TlsMode>,
        cert: Optional<String>,
        key: Optional<String>,
        proxy_from: List<Cidr>,
        size_max: Optional<Size>,
    }
}

section! { RawTrusted { cidr: Optional<Cidr>, server: Optional<String>, stream: Optional<String>, } }

section! {
    RawHttp {
        bind: Optional<SocketAddr>,
        tls: Optional<TlsMode>,
        cert: Optional<String>,
        key: Optional<String>,
        public_url: Optional<String>,
        time_zone: Optional<String>,
    }
}

section! { RawAdmin { tokens: List<String>, metrics_from: List<Cidr>, } }

section! { RawLog { format: Optional<LogFormat>, level: Optional<String>, } }

section! { RawClassify { rules: List<String>, } }

section! { RawSuppressions { hashed: Optional<bool>, } }

section! {
    RawSpool {
        mail_segment: Optional<Size>,
        event_segment: Optional<Size>,
        reserve: Optional<Size>,
        refuse_below: Optional<Size>,
        warn_below: Optional<Size>,
        retention: Optional<Duration>,
        archive_max: Optional<Size>,
        event_retention: Optional<Duration>,
        any_file_system: Optional<bool>,
    }
}

section! {
    RawDelivery {
        port: Optional<u64>,
        allow_networks: List<Cidr>,
        test_domains: List<String>,
        connections_per_site: Optional<u64>,
        connections_max: Optional<u64>,
        messages_per_connection: Optional<u64>,
        idle: Optional<Duration>,
    }
}

section! {
    RawShaping {
        provider: Optional<String>,
        mx: List<String>,
        pool: Optional<String>,
        source: Optional<String>,
        connections: Optional<u64>,
        messages_per_connection: Optional<u64>,
        recipients_per_message: Optional<u64>,
        message_rate: Optional<Rate>,
        connection_rate: Optional<Rate>,
        messages_per_hour: Optional<u64>,
        messages_per_day: Optional<u64>,
        whole_provider: Optional<bool>,
    }
}

section! { RawShapingFile { shaping: Tables<RawShaping>, } }

section! { RawShare { server: Optional<String>, stream: Optional<String>, weight: Optional<u64>, } }

section! {
    RawTimeouts {
        connect: Optional<Duration>,
        banner: Optional<Duration>,
        command: Optional<Duration>,
        data: Optional<Duration>,
        block: Optional<Duration>,
        dot: Optional<Duration>,
    }
}

section! { RawDns { servers: List<DnsServer>, } }

section! { RawDnsbl { zones: List<String>, } }

section! { RawTls { ca_file: Optional<String>, } }

section! {
    RawPool {
        name: Optional<String>,
        kind: Optional<StreamKind>,
        default: Optional<bool>,
        sources: Tables<RawSource>,
    }
}

section! {
    RawSource {
        name: Optional<String>,
        ip: Optional<Addresses>,
        public_ip: Optional<Addresses>,
        ehlo: Optional<String>,
        weight: Optional<u64>,
        proxy: Optional<String>,
        proxy_user: Optional<String>,
        proxy_password: Optional<String>,
    }
}

section! { RawRoute { domain: Optional<String>, hosts: List<String>, } }

section! { RawAccount { tokens: List<String>, rate: Optional<Rate>, notices_from: Optional<String>, } }

section! { RawBounce { domain: Optional<String>, postmaster: Optional<String>, secrets: List<String>, accept_for: Optional<Duration>, complaints_to: Optional<String>, } }

section! {
    RawServer {
        id: Optional<u64>,
        name: Optional<String>,
        tokens: List<String>,
        senders: Optional<SendersPolicy>,
        notify: Optional<Notify>,
        message_id: Optional<MessageIdPolicy>,
        delivery_type: Optional<DeliveryType>,
        strict: Optional<bool>,
        rate: Optional<Rate>,
        stream: Tables<RawStream>,
    }
}

section! { RawStream {
    id: Optional<String>,
    type_: Optional<StreamKind>,
    pool: Optional<String>,
    retention: Optional<Duration>,
        retry: Located<RawRetry>,
        ambiguous: Optional<Ambiguous>,
} }

section! {
    RawSink {
        name: Optional<String>,
        type_: Optional<RawSinkType>,
        kinds: List<String>,
        servers: List<String>,
        streams: List<String>,
        from: Optional<SinkStart>,
        path: Optional<String>,
        rotate_size: Optional<Size>,
        rotate_every: Optional<Duration>,
        keep: Optional<u64>,
        compression: Optional<Compression>,
        socket: Optional<String>,
        url: Optional<String>,
        subject: Optional<String>,
        user: Optional<String>,
        password: Optional<String>,
        token: Optional<String>,
        brokers: List<String>,
        topic: Optional<String>,
        tls: Optional<bool>,
        mechanism: Optional<KafkaMechanism>,
    }
}

section! { RawDomain { name: Optional<String>, dkim: Tables<RawDkim>, } }

section! { RawDkim { selector: Optional<String>, key_file: Optional<String>, } }

section! { RawSigning { domain: Optional<String>, keys: Tables<RawDkim>, ed25519: Optional<bool>, } }

section! { RawRetries { transactional: Located<RawRetry>, broadcast: Located<RawRetry>, } }

section! {
    RawRetry {
        first: Optional<Duration>,
        max: Optional<Duration>,
        max_age: Optional<Duration>,
    }
}

section! {
    RawWebhooks {
        allow_networks: List<Cidr>,
        allow_http: Optional<bool>,
        verify: Optional<bool>,
        bounce_retries: List<Duration>,
        event_retries: List<Duration>,
        retry_on: Optional<RetryOn>,
        concurrency: Optional<u64>,
        timeout: Optional<Duration>,
        stop_after: Optional<Duration>,
    }
}

/// Octets: `"64MiB"`, or a bare number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

/// One address, or one of each family in a list.
#[derive(Clone, Debug)]
pub(super) struct Addresses(pub(super) Vec<IpAddr>);

/// An address with or without a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct DnsServer(pub(super) SocketAddr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RawSinkType {
    File,
    Stdout,
    Syslog,
    Journald,
    Nats,
    Kafka,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryType {
    Live,
    Sandbox,
}

/// Leaves that are one of a few words.
macro_rules! words {
    ($($type:ty { $($word:literal => $value:expr,)* })*) => {$(
        impl Leaf for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                match value.as_str() {
                    $(Some($word) => Ok($value),)*
                    _ => Err(format!("must be one of {}", [$(concat!("\"", $word, "\"")),*].join(", "))),
                }
            }
        }
    )*};
}

words! {
    TlsMode { "off" => TlsMode::Off, "starttls" => TlsMode::StartTls, "implicit" => TlsMode::Implicit, }
    LogFormat { "auto" => LogFormat::Auto, "human" => LogFormat::Human, "json" => LogFormat::Json, }
    SendersPolicy { "verified" => SendersPolicy::Verified, "any" => SendersPolicy::Any, }
    RawSinkType {
        "file" => RawSinkType::File,
        "stdout" => RawSinkType::Stdout,
        "syslog" => RawSinkType::Syslog,
        "journald" => RawSinkType::Journald,
        "nats" => RawSinkType::Nats,
        "kafka" => RawSinkType::Kafka,
    }
    KafkaMechanism {
        "plain" => KafkaMechanism::Plain,
        "scram-sha-256" => KafkaMechanism::ScramSha256,
        "scram-sha-512" => KafkaMechanism::ScramSha512,
    }
    SinkStart { "now" => SinkStart::Now, "start" => SinkStart::Start, }
    Compression { "none" => Compression::None, "zstd" => Compression::Zstd, "gzip" => Compression::Gzip, }
    Notify { "none" => Notify::None, "dsn" => Notify::Dsn, }
    MessageIdPolicy { "keep" => MessageIdPolicy::Keep, "replace" => MessageIdPolicy::Replace, }
    Ambiguous { "retry" => Ambiguous::Retry, "stop" => Ambiguous::Stop, }
    RetryOn { "all" => RetryOn::All, "server-errors" => RetryOn::ServerErrors, }
    DeliveryType { "live" => DeliveryType::Live, "sandbox" => DeliveryType::Sandbox, }
    StreamKind {
        "transactional" => StreamKind::Transactional,
        "broadcast" => StreamKind::Broadcast,
        "inbound" => StreamKind::Inbound,
    }
}

impl Leaf for Size {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some(text) => values::size(text).map(Size),
            None => u64::read(value)
                .map(Size)
                .map_err(|_| "must be a size: 512KiB, 64MiB, 2GiB".into()),
        }
    }
}

impl Leaf for Duration {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str();
        text.ok_or_else(|| {
            "must be a duration in quotes: \"500ms\", \"30s\", \"5m\", \"2d\"".into()
        })
        .and_then(values::duration)
    }
}

impl Leaf for Cidr {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str();
        text.ok_or_else(|| "must be a network in quotes: \"192.0.2.0/24\"".to_owned())?
            .parse()
    }
}

impl Leaf for Rate {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str();
        text.ok_or_else(|| "must be a rate in quotes: \"10/s\", \"600/m\", \"5000/h\"".to_owned())?
            .parse()
    }
}

impl Leaf for SocketAddr {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let address = value.as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| {
            "must be an address with a port: \"127.0.0.1:2525\", \"[::1]:2525\", \"0.0.0.0:25\""
                .into()
        })
    }
}

impl Leaf for DnsServer {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().unwrap_or_default();
        let with_port = text.parse::<SocketAddr>().ok();
        let address = with_port.or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
        address.map(DnsServer).ok_or_else(|| {
            "must be an address: \"192.0.2.53\", \"127.0.0.1:5353\", \"[::1]:53\"".into()
        })
    }
}

impl Leaf for Addresses {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wrong = || "must be an address, or a list of one IPv4 and one IPv6 address".to_owned();
        let parse = |v: &DeValue<'_>| v.as_str().and_then(|t| t.parse::<IpAddr>().ok());
        let addresses = match value {
            DeValue::Array(items) => items.iter().map(|v| parse(v.get_ref())).collect(),
            one => parse(one).map(|a| vec![a]),
        };
        let addresses: Vec<IpAddr> = addresses.ok_or_else(wrong)?;
        let v4 = addresses.iter().filter(|a| a.is_ipv4()).count();
        if addresses.is_empty() || v4 > 1 || addresses.len() - v4 > 1 {
            return Err(wrong());
        }
        Ok(Self(addresses))
    }
}
