//! The node without a configuration file (DESIGN §5): complete, on loopback, and unable to send to the world.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::resolve::system_hostname;
use super::*;
use crate::limits;

pub(super) fn config(data_dir: Option<&Path>) -> Config {
    let data_dir = data_dir.unwrap_or(Path::new(DATA_DIR));
    let hostname = system_hostname();
    let delivery = Delivery {
        port: 25,
        allow_networks: Vec::new(),
        test_domains: Domain::parse(&hostname).into_iter().collect(),
        connections_per_site: limits::CONNECTIONS_PER_SOURCE_SITE,
        connections_max: limits::DELIVERY_CONNECTIONS_MAX,
        messages_per_connection: limits::MESSAGES_PER_CONNECTION,
        idle: limits::CONNECTION_IDLE,
    };
    Config {
        development: true,
        file: None,
        node: Node {
            hostname,
            data_dir: std::path::absolute(data_dir).unwrap_or_else(|_| PathBuf::from(data_dir)),
        },
        inbound: Vec::new(),
        sinks: Vec::new(),
        smtp: vec![listener()],
        http: HttpListener::default(),
        admin: Admin {
            tokens: Vec::new(),
            metrics_from: resolve::loopback(),
        },
        log: Log {
            format: LogFormat::Auto,
            level: "info".into(),
        },
        spool: Spool {
            mail_segment: 64 << 20,
            event_segment: 16 << 20,
            reserve: 256 << 20,
            refuse_below: 2 << 30,
            warn_below: 4 << 30,
            retention: limits::RETENTION,
            archive_max: None,
            event_retention: limits::EVENT_RETENTION,
            // A first try should not end at the file system; it is told in the log.
            any_file_system: true,
        },
        shaping: resolve::shipped(&delivery).into(),
        shares: Vec::new(),
        delivery,
        timeouts: Timeouts::default(),
        suppressions: Suppressions::default(),
        rule_files: Vec::new(),
        dns: Dns {
            servers: Vec::new(),
        },
        dnsbl: Dnsbl::default(),
        tls: Tls { ca_file: None },
        pools: vec![
            pool(
                0,
                "tx",
                StreamKind::Transactional,
                Ipv4Addr::new(127, 0, 0, 1),
            ),
            pool(
                1,
                "bulk",
                StreamKind::Broadcast,
                Ipv4Addr::new(127, 0, 0, 2),
            ),
        ],
        routes: vec![Route {
            pattern: DomainPattern::Any,
            target: RouteTarget::Sink,
        }],
        account: Account {
            tokens: Vec::new(),
            rate: None,
            notices_from: resolve::notices_from_default(&system_hostname()),
        },
        bounce: Bounce::default(),
        servers: vec![server()],
        domains: Vec::new(),
        signing: Signing::default(),
        retry: Retries {
            transactional: Retry::default_for(StreamKind::Transactional),
            broadcast: Retry::default_for(StreamKind::Broadcast),
        },
        // Whoever tries it has his application on the same machine.
        webhooks: Webhooks {
            allow_networks: resolve::loopback(),
            allow_http: true,
            ..Webhooks::default()
        },
        warnings: Vec::new(),
    }
}

fn listener() -> SmtpListener {
    let trust = |cidr| Trusted {
        cidr,
        server: SERVER.into(),
        stream: None,
    };
    SmtpListener {
        trusted: resolve::loopback().into_iter().map(trust).collect(),
        ..SmtpListener::default()
    }
}

fn pool(index: u16, name: &str, kind: StreamKind, address: Ipv4Addr) -> Pool {
    Pool {
        id: PoolId(index),
        name: name.into(),
        kind,
        default: true,
        sources: vec![Source {
            id: SourceId(index),
            name: format!("{name}1").into(),
            v4: Some(address),
            v6: None,
            ehlo: system_hostname(),
            weight: 1,
            proxy: None,
            public: Vec::new(),
        }],
    }
}

fn server() -> Server {
    Server {
        id: Some(1),
        name: SERVER.into(),
        tokens: Vec::new(),
        senders: SendersPolicy::Any,
        notify: Notify::None,
        message_id: MessageIdPolicy::Keep,
        // Its streams keep their pools: the route below leads all of them to the sink (DESIGN §5).
        sandbox: false,
        strict: false,
        rate: None,
        streams: Stream::defaults(),
    }
}

const DATA_DIR: &str = "posthaste-data";
const SERVER: &str = "default";
