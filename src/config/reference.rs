//! The documentation of every key: what `posthaste config reference` prints, and where messages look up foreign keys.
//! A test holds it and `raw.rs` together: no key without a sentence, no sentence without a key.

mod accounts;
mod sinks;
mod spool;
mod webhooks;

use std::fmt::Write;

/// A table of the file and its keys.
pub struct SectionDoc {
    /// `node`, `server.stream`: as problems name it.
    pub path: &'static str,
    /// How it is written: `[node]`, `[[smtp]]`.
    pub heading: &'static str,
    pub about: &'static str,
    pub keys: &'static [KeyDoc],
}

pub struct KeyDoc {
    pub name: &'static str,
    /// What may be written.
    pub values: &'static str,
    /// What holds when it is not; empty: it must be given.
    pub default: &'static str,
    pub about: &'static str,
}

/// The reference as text for a terminal.
pub fn print() -> String {
    let mut text = String::from(INTRODUCTION);
    for section in SECTIONS {
        let _ = writeln!(text, "\n{}\n  {}", section.heading, section.about);
        for key in section.keys {
            let default = match key.default {
                "" => "must be given".to_owned(),
                default => format!("default: {default}"),
            };
            let _ = writeln!(
                text,
                "\n  {} = {}\n      {}\n      {default}",
                key.name, key.values, key.about
            );
        }
    }
    text
}

/// The heading of another section than `path` that has this key, when it is the only one.
pub(super) fn section_with(key: &str, path: &str) -> Option<&'static str> {
    let mut with = SECTIONS
        .iter()
        .filter(|s| s.path != path && s.keys.iter().any(|k| k.name == key));
    let only = with.next()?;
    with.next().is_none().then_some(only.heading)
}

const fn key(
    name: &'static str,
    values: &'static str,
    default: &'static str,
    about: &'static str,
) -> KeyDoc {
    KeyDoc {
        name,
        values,
        default,
        about,
    }
}

const CERT: KeyDoc = key(
    "cert",
    "\"FILE\"",
    "must be given with TLS",
    "Certificate chain, PEM, own certificate first. Read again at SIGHUP.",
);
const KEY: KeyDoc = key(
    "key",
    "\"FILE\"",
    "must be given with TLS",
    "Private key, PEM. Read again at SIGHUP.",
);

const INTRODUCTION: &str = "\
Posthaste reads one TOML file (posthaste serve --config FILE). Relative paths start from the file's directory.
Sizes: 512KiB, 64MiB, 2GiB. Durations: 500ms, 30s, 5m, 4h, 2d. Networks: 192.0.2.0/24, 2001:db8::/32.
Tokens: \"env:NAME\" (environment variable), \"file:PATH\" (first line of a file), or the token itself.
Unknown keys are refused.
";

pub const SECTIONS: &[SectionDoc] = &[
    SectionDoc {
        path: "node",
        heading: "[node]",
        about: "This machine.",
        keys: &[
            key(
                "hostname",
                "\"mta1.example.com\"",
                "the system's name",
                "Name in our greeting, in Received, and in EHLO of sources that have no ehlo. Its address should resolve back to it.",
            ),
            key(
                "data_dir",
                "\"/var/lib/posthaste\"",
                "/var/lib/posthaste",
                "Spool, accounts, admin socket. `serve --data-dir` overrides it.",
            ),
        ],
    },
    SectionDoc {
        path: "smtp",
        heading: "[[smtp]]",
        about: "A submission listener; any number. Without any, 127.0.0.1:2525; `smtp = []` for none.",
        keys: &[
            key(
                "bind",
                "\"ADDRESS:PORT\"",
                "",
                "Where it listens. Port 0: the system chooses.",
            ),
            key(
                "tls",
                "\"off\" | \"starttls\" | \"implicit\"",
                "\"off\"",
                "STARTTLS is offered, or TLS begins at once.",
            ),
            CERT,
            KEY,
            key(
                "trusted",
                "[{ cidr, server, stream }]",
                "[]",
                "Networks that submit without AUTH.",
            ),
            key(
                "allow_plain_auth",
                "true | false",
                "false",
                "Takes AUTH without TLS also from elsewhere than loopback: passwords cross the network in clear.",
            ),
            key(
                "proxy_from",
                "[NETWORK]",
                "[]",
                "Proxies here begin each connection with a PROXY protocol header (v1 or v2), which is then required.",
            ),
            key(
                "xclient_from",
                "[NETWORK]",
                "[]",
                "Relays here may name the real client with XCLIENT.",
            ),
            key(
                "size_max",
                "SIZE",
                "36700160 (35 MiB)",
                "Largest content; a larger one gets 552 5.3.4. 64KiB to 150MiB.",
            ),
        ],
    },
    SectionDoc {
        path: "smtp.trusted",
        heading: "trusted = [{ … }] in [[smtp]]",
        about: "A network that submits without AUTH; the first that holds the client's address counts.",
        keys: &[
            key("cidr", "NETWORK", "", "Whose clients are trusted."),
            key(
                "server",
                "\"NAME\"",
                "",
                "The [[server]] as which they submit.",
            ),
            key(
                "stream",
                "\"ID\"",
                "what the message names, else outbound",
                "Fixes the stream.",
            ),
        ],
    },
    accounts::INBOUND,
    SectionDoc {
        path: "http",
        heading: "[http]",
        about: "The HTTP listener: the Postmark-compatible API (description at /openapi.json), /confirm, /metrics, /healthz, /readyz, /admin/v1.",
        keys: &[
            key(
                "bind",
                "\"ADDRESS:PORT\"",
                "\"127.0.0.1:8025\"",
                "Where it listens.",
            ),
            key(
                "tls",
                "\"off\" | \"implicit\"",
                "\"off\"",
                "Plain HTTP or HTTPS.",
            ),
            key(
                "cert",
                "\"FILE\"",
                "must be given with TLS",
                "As for [[smtp]].",
            ),
            key(
                "key",
                "\"FILE\"",
                "must be given with TLS",
                "As for [[smtp]].",
            ),
            key(
                "public_url",
                "\"https://mail.example.com\"",
                "scheme, hostname and port of this listener",
                "How it is reached from outside: links in our own mail begin with it.",
            ),
            key(
                "time_zone",
                "\"Europe/Berlin\" | \"UTC\" | ...",
                "\"America/New_York\"",
                "Whose days statistics count by, and of dates in queries that name no zone; Postmark's is the default. A change holds for what is counted after it.",
            ),
        ],
    },
    SectionDoc {
        path: "admin",
        heading: "[admin]",
        about: "Operating the node over HTTP.",
        keys: &[
            key(
                "tokens",
                "[TOKEN]",
                "[]",
                "Who sends one as `Authorization: Bearer TOKEN` may use /admin/v1 and /metrics. The admin socket needs none.",
            ),
            key(
                "metrics_from",
                "[NETWORK]",
                "loopback",
                "Who may read /metrics without a token.",
            ),
        ],
    },
    SectionDoc {
        path: "log",
        heading: "[log]",
        about: "What the daemon says about itself on standard error. Mail is in the event log, not here.",
        keys: &[
            key(
                "format",
                "\"auto\" | \"human\" | \"json\"",
                "\"auto\"",
                "auto: human on a terminal, lines with priorities under journald, JSON otherwise.",
            ),
            key(
                "level",
                "\"info\"",
                "\"info\"",
                "error, warn, info, debug, trace, or by module: posthaste=debug,info.",
            ),
        ],
    },
    spool::SECTION,
    SectionDoc {
        path: "delivery",
        heading: "[delivery]",
        about: "Connections to remote hosts.",
        keys: &[
            key("port", "NUMBER", "25", "Port of hosts found by MX."),
            key(
                "allow_networks",
                "[NETWORK]",
                "[]",
                "Private ranges that DNS may lead to. Others are bounced with 5.4.4. Routes are exempt.",
            ),
            key(
                "test_domains",
                "[DOMAIN]",
                "[hostname]",
                "For each of them, and postmarkapp.com: mail to <type>@bounce-testing.DOMAIN bounces as that type, mail to blackhole.DOMAIN is taken; none of it leaves the node.",
            ),
            key(
                "connections_per_site",
                "NUMBER",
                "20",
                "Connections of one source to one site; 1 to 1000.",
            ),
            key(
                "connections_max",
                "NUMBER",
                "4000",
                "Connections of the node; 1 to 60000.",
            ),
            key(
                "messages_per_connection",
                "NUMBER",
                "1000",
                "Messages on one connection before a new one is opened.",
            ),
            key(
                "idle",
                "DURATION",
                "10s",
                "A connection without work is closed after this time; at most 10m.",
            ),
        ],
    },
    SectionDoc {
        path: "classify",
        heading: "[classify]",
        about: "What remote hosts' replies mean. The first rule that fits judges; `posthaste rules ls` lists them. Read again at SIGHUP.",
        keys: &[key(
            "rules",
            "[FILE]",
            "none",
            "Your rules, asked in this order before the shipped ones; how they are written: `posthaste rules show`, README.",
        )],
    },
    SectionDoc {
        path: "shaping",
        heading: "[[shaping]]",
        about: "Limits of one source at one site. Without provider: everywhere. Rules for a provider beat general ones, those for a source or pool beat both, of equals the later one wins. Known providers: `config show`.",
        keys: &[
            key(
                "provider",
                "NAME",
                "all sites",
                "A known provider, or a new one with mx.",
            ),
            key(
                "mx",
                "[NAME]",
                "none",
                "New provider: suffixes of its MX hosts' names.",
            ),
            key(
                "pool",
                "NAME",
                "all pools",
                "Only for sources of this pool.",
            ),
            key("source", "NAME", "all sources", "Only for this source."),
            key(
                "connections",
                "NUMBER",
                "[delivery]",
                "Connections at one time; 1 to 1000.",
            ),
            key(
                "messages_per_connection",
                "NUMBER",
                "[delivery]",
                "Messages on one connection.",
            ),
            key(
                "recipients_per_message",
                "NUMBER",
                "100",
                "Recipients in one transaction; 1 to 100.",
            ),
            key(
                "message_rate",
                "\"10/s\" | \"600/m\" | \"5000/h\"",
                "no limit",
                "Messages, evenly spaced.",
            ),
            key(
                "connection_rate",
                "\"10/s\" | \"600/m\" | \"5000/h\"",
                "no limit",
                "New connections, evenly spaced.",
            ),
            key(
                "messages_per_hour",
                "NUMBER",
                "no limit",
                "Messages in an hour that begins with the first of them. A restart begins anew.",
            ),
            key(
                "messages_per_day",
                "NUMBER",
                "no limit",
                "Messages in 24 hours that begin with the first of them. A restart begins anew.",
            ),
            key(
                "whole_provider",
                "true | false",
                "false",
                "The limits of this entry hold for all sites of the provider together, beside those of each site. Needs provider.",
            ),
        ],
    },
    SectionDoc {
        path: "share",
        heading: "[[share]]",
        about: "Streams that wait for the same site take turns, recipient for recipient. A share of 3 has three turns in a round.",
        keys: &[
            key("server", "NAME", "required", "Whose mail."),
            key(
                "stream",
                "ID",
                "all its streams",
                "Only of this stream; its weight is then the product of both.",
            ),
            key("weight", "NUMBER", "1", "1 to 1000."),
        ],
    },
    SectionDoc {
        path: "timeouts",
        heading: "[timeouts]",
        about: "How long a remote host may take (RFC 5321 §4.5.3.2); at most 1h each.",
        keys: &[
            key("connect", "DURATION", "30s", "To connect to one address."),
            key("banner", "DURATION", "5m", "To greet us."),
            key(
                "command",
                "DURATION",
                "5m",
                "To answer EHLO, STARTTLS, MAIL or RCPT.",
            ),
            key("data", "DURATION", "2m", "To answer DATA."),
            key("block", "DURATION", "3m", "To take a block of content."),
            key(
                "dot",
                "DURATION",
                "10m",
                "To answer the final dot. Shorter means duplicates: the host may still take the message.",
            ),
        ],
    },
    SectionDoc {
        path: "dns",
        heading: "[dns]",
        about: "Resolving.",
        keys: &[key(
            "servers",
            "[\"ADDRESS\" | \"ADDRESS:PORT\"]",
            "the system's",
            "Recursive resolvers, port 53 where none is given.",
        )],
    },
    SectionDoc {
        path: "dnsbl",
        heading: "[dnsbl]",
        about: "DNS blocklists.",
        keys: &[key(
            "zones",
            "[\"ZONE\"]",
            "[]",
            "Lists that checks of egress sources ask, 16 at most. Each has terms of its own: many answer neither public resolvers nor commercial use without a key.",
        )],
    },
    SectionDoc {
        path: "tls",
        heading: "[tls]",
        about: "TLS towards remote hosts.",
        keys: &[key(
            "ca_file",
            "\"FILE\"",
            "none",
            "Roots besides the system's, PEM. Used for policy files of MTA-STS; mail hosts are not verified yet.",
        )],
    },
    SectionDoc {
        path: "pool",
        heading: "[[pool]]",
        about: "An egress pool: addresses that mail of one kind leaves from. Transactional and broadcast pools share no address.",
        keys: &[
            key("name", "\"tx\"", "", "Unique."),
            key(
                "kind",
                "\"transactional\" | \"broadcast\"",
                "",
                "The only kind of stream that it carries.",
            ),
            key(
                "default",
                "true | false",
                "false",
                "For streams of this kind that name no pool. An only pool of its kind is its default anyway.",
            ),
            key(
                "sources",
                "[{ name, ip, ehlo, weight }]",
                "",
                "At least one.",
            ),
        ],
    },
    SectionDoc {
        path: "pool.sources",
        heading: "sources = [{ … }] in [[pool]]",
        about: "An egress source: a local address with its name.",
        keys: &[
            key(
                "name",
                "\"tx1\"",
                "",
                "Unique among all sources; events carry it.",
            ),
            key(
                "ip",
                "\"192.0.2.10\" | [\"192.0.2.10\", \"2001:db8::10\"]",
                "",
                "A local address, or one of each family.",
            ),
            key(
                "public_ip",
                "\"192.0.2.10\" | [\"192.0.2.10\", \"2001:db8::10\"]",
                "ip",
                "What remote hosts see where that differs: behind address translation, or where a SOCKS5 proxy connects from another. Checks judge it and SPF has to permit it; pools of different kinds may not share it.",
            ),
            key(
                "ehlo",
                "\"tx1.example.com\"",
                "[node] hostname",
                "What it calls itself; should resolve to the address that is seen, and back.",
            ),
            key(
                "weight",
                "NUMBER",
                "1",
                "Its share of the pool's mail; 1 to 1000.",
            ),
            key(
                "proxy",
                "\"socks5://HOST:PORT\" | \"haproxy://HOST:PORT\"",
                "",
                "For an address of another host: connections go through that proxy. haproxy: it is told the source's address (PROXY protocol, version 2) and must connect from it. socks5: it connects from its own address, which must be this one or public_ip.",
            ),
            key(
                "proxy_user",
                "\"NAME\"",
                "",
                "For a SOCKS5 proxy that wants it (RFC 1929), together with proxy_password.",
            ),
            key(
                "proxy_password",
                "\"PASSWORD\" | \"file:PATH\" | \"env:NAME\"",
                "",
                "It goes to the proxy in clear.",
            ),
        ],
    },
    SectionDoc {
        path: "route",
        heading: "[[route]]",
        about: "Overrides the MX look-up; the first match wins.",
        keys: &[
            key(
                "domain",
                "\"example.com\" | \"*.example.com\" | \"*\"",
                "",
                "Recipient domains: that one, all below it, all.",
            ),
            key(
                "hosts",
                "[\"HOST\" | \"HOST:PORT\"]",
                "",
                "In the order of preference; names or addresses, port 25 where none is given.",
            ),
        ],
    },
    accounts::ACCOUNT,
    sinks::SINK,
    accounts::BOUNCE,
    accounts::SERVER,
    accounts::STREAM,
    accounts::DOMAIN,
    accounts::DKIM,
    accounts::SIGNING,
    accounts::SIGNING_KEYS,
    accounts::SUPPRESSIONS,
    SectionDoc {
        path: "retry",
        heading: "[retry]",
        about: "Deferred mail, by kind of stream.",
        keys: &[
            key(
                "transactional",
                "{ first, max, max_age }",
                "{ first = \"30s\", max = \"1h\", max_age = \"2d\" }",
                "As below.",
            ),
            key(
                "broadcast",
                "{ first, max, max_age }",
                "{ first = \"5m\", max = \"4h\", max_age = \"3d\" }",
                "As below.",
            ),
        ],
    },
    SectionDoc {
        path: "retry.transactional",
        heading: "transactional = { … } and broadcast = { … } in [retry]",
        about: "Exponential, factor 2, jitter 20 %.",
        keys: &[
            key(
                "first",
                "DURATION",
                "30s; broadcast 5m",
                "Wait after the first deferral.",
            ),
            key("max", "DURATION", "1h; broadcast 4h", "Longest wait."),
            key(
                "max_age",
                "DURATION",
                "2d; broadcast 3d",
                "Given up at this age with the outcome expired; at most 7d.",
            ),
        ],
    },
    webhooks::SECTION,
];

#[cfg(test)]
mod tests {
    use super::super::raw::*;
    use super::super::source::Section;
    use super::*;

    #[test]
    fn every_key_is_documented_and_every_documented_key_exists() {
        let mut roots: Vec<&str> = SECTIONS
            .iter()
            .map(|s| s.path)
            .filter(|p| !p.contains('.'))
            .collect();
        roots.sort_unstable();
        let mut typed = RawConfig::KEYS.to_vec();
        typed.sort_unstable();
        assert_eq!(roots, typed);
        let sections: &[(&str, &[&str])] = &[
            ("node", RawNode::KEYS),
            ("smtp", RawSmtp::KEYS),
            ("smtp.trusted", RawTrusted::KEYS),
            ("inbound", RawInbound::KEYS),
            ("http", RawHttp::KEYS),
            ("admin", RawAdmin::KEYS),
            ("log", RawLog::KEYS),
            ("spool", RawSpool::KEYS),
            ("delivery", RawDelivery::KEYS),
            ("shaping", RawShaping::KEYS),
            ("share", RawShare::KEYS),
            ("timeouts", RawTimeouts::KEYS),
            ("dns", RawDns::KEYS),
            ("dnsbl", RawDnsbl::KEYS),
            ("tls", RawTls::KEYS),
            ("pool", RawPool::KEYS),
            ("pool.sources", RawSource::KEYS),
            ("route", RawRoute::KEYS),
            ("account", RawAccount::KEYS),
            ("bounce", RawBounce::KEYS),
            ("server", RawServer::KEYS),
            ("server.stream", RawStream::KEYS),
            ("domain", RawDomain::KEYS),
            ("domain.dkim", RawDkim::KEYS),
            ("dkim", RawSigning::KEYS),
            ("dkim.keys", RawDkim::KEYS),
            ("suppressions", RawSuppressions::KEYS),
            ("classify", RawClassify::KEYS),
            ("sink", RawSink::KEYS),
            ("retry", RawRetries::KEYS),
            ("retry.transactional", RawRetry::KEYS),
            ("webhooks", RawWebhooks::KEYS),
        ];
        assert_eq!(sections.len(), SECTIONS.len());
        for (path, keys) in sections {
            let section = SECTIONS.iter().find(|s| s.path == *path).unwrap();
            let documented: Vec<&str> = section.keys.iter().map(|k| k.name).collect();
            assert_eq!(&documented, keys, "in {path}, in this order");
        }
    }

    #[test]
    fn the_printed_reference_names_every_section() {
        let text = print();
        assert!(SECTIONS.iter().all(|s| text.contains(s.heading)));
    }
}
