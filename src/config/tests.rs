//! From the text an operator types to the configuration the node uses, and what is refused on the way.

use super::*;

const DOCUMENTED: &str = r#"
[node]
hostname = "mta1.example.com"
data_dir = "data"

[[smtp]]
bind = "127.0.0.1:2525"
trusted = [{ cidr = "127.0.0.0/8", server = "app", stream = "outbound" }]

[http]
bind = "127.0.0.1:8025"

[admin]
tokens = []
metrics_from = ["127.0.0.0/8", "::1/128"]

[spool]
mail_segment = "64MiB"
event_segment = "16MiB"
reserve = "256MiB"
refuse_below = "2GiB"

[delivery]
port = 25
allow_networks = []

[timeouts]
connect = "30s"
banner = "5m"
command = "5m"
data = "2m"
block = "3m"
dot = "10m"

[dns]
servers = ["127.0.0.1:5353"]

[[pool]]
name = "tx"
kind = "transactional"
default = true
sources = [{ name = "tx1", ip = "192.0.2.10", ehlo = "tx1.example.com", weight = 1 }]

[[route]]
domain = "*"
hosts = ["127.0.0.1:2526"]

[account]
tokens = ["env:ACCOUNT_TOKEN"]

[[server]]
name = "app"
tokens = ["env:APP_TOKEN"]
senders = "any"
notify = "none"
message_id = "keep"
[[server.stream]]
id = "outbound"
type = "transactional"
pool = "tx"

[[domain]]
name = "example.com"

[retry]
transactional = { first = "30s", max = "1h", max_age = "2d" }
broadcast     = { first = "5m",  max = "4h", max_age = "3d" }
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    let environment = |name: &str| name.ends_with("_TOKEN").then(|| format!("{name}-secret"));
    Config::parse(
        text,
        Path::new("/etc/posthaste/posthaste.toml"),
        None,
        &environment,
    )
}

/// The problems of `text`, as an operator sees them, without the file's name.
fn problems(text: &str) -> Vec<String> {
    let error = parse(text).expect_err("must be refused");
    let shown = error.to_string();
    let strip = |line: &str| line.replace("/etc/posthaste/posthaste.toml", "");
    shown.lines().map(strip).collect()
}

fn check(text: &str, expected: &[&str]) {
    let found = problems(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.contains(expected),
            "{found}\n  does not say\n{expected}"
        );
    }
}

#[test]
fn the_documented_example_is_read_as_documented() {
    let config = parse(DOCUMENTED).unwrap();
    assert!(!config.development);
    assert_eq!(config.node.hostname, "mta1.example.com");
    assert_eq!(config.node.data_dir, Path::new("/etc/posthaste/data"));
    assert_eq!(
        config.smtp[0].trusted[0].stream.as_deref(),
        Some("outbound")
    );
    assert_eq!(
        config.pools[0].sources[0].v4,
        Some(Ipv4Addr::new(192, 0, 2, 10))
    );
    assert_eq!(config.servers[0].tokens[0].expose(), "APP_TOKEN-secret");
    assert_eq!(config.servers[0].streams.len(), 3);
    assert_eq!(
        config.retry.broadcast.max_age,
        Duration::from_secs(3 * 86_400)
    );
    assert_eq!(
        config.pool_default(StreamKind::Transactional),
        Some(PoolId(0))
    );
    assert_eq!(config.pool_default(StreamKind::Broadcast), None);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert!(!config.needs_sink());
}

#[test]
fn an_empty_file_gives_every_default() {
    let config = parse("").unwrap();
    assert_eq!(config.node.data_dir, Path::new("/var/lib/posthaste"));
    assert_eq!(config.smtp[0].bind.to_string(), "127.0.0.1:2525");
    assert!(config.smtp[0].trusted.is_empty());
    assert_eq!(config.http.bind.to_string(), "127.0.0.1:8025");
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.smtp[0].size_max, 36_700_160);
    assert!(config.warnings.iter().any(|w| w.contains("no [[pool]]")));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_key() {
    check(
        "[node]\nhostnam = \"a\"\n",
        &[":2: node.hostnam: unknown key `hostnam`; the nearest known key is `hostname`"],
    );
    check(
        "[nodes]\n",
        &[":1: nodes: unknown key `nodes`; the nearest known key is `node`"],
    );
    check(
        "[[server]]\nname = \"a\"\nsenders = \"any\"\n[[server.stream]]\nid = \"outbound\"\npoll = \"tx\"\n",
        &[":6: server.stream.poll: unknown key `poll`; the nearest known key is `pool`"],
    );
    check(
        "[http]\nmail_segment = \"64MiB\"\n",
        &["(`mail_segment` is a key of [spool])"],
    );
}

#[test]
fn all_problems_are_reported_in_the_order_of_their_lines() {
    check(
        "[node]\nhostname = 3\n[timeouts]\ndot = \"soon\"\n[delivery]\nport = \"25\"\n",
        &[
            ":2: node.hostname: must be a text",
            ":4: timeouts.dot: `soon` is no duration",
            ":6: delivery.port: must be a whole number",
        ],
    );
}

#[test]
fn what_is_no_toml_is_refused_with_its_line() {
    check("[node]\nhostname = \n", &[":2: not valid TOML"]);
    check(
        "[node]\nhostname = \"a\"\nhostname = \"b\"\n",
        &[":3: not valid TOML: duplicate key"],
    );
}

const POOLS: &str = r#"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{ name = "tx1", ip = "192.0.2.10" }]
[[pool]]
name = "bulk"
kind = "broadcast"
"#;

#[test]
fn pools_of_different_kinds_share_no_address_and_both_lines_are_named() {
    for ip in [
        "\"192.0.2.10\"",
        "[\"2001:db8::1\", \"192.0.2.10\"]",
        "\"::ffff:192.0.2.10\"",
    ] {
        let text = format!("{POOLS}sources = [{{ name = \"b1\", ip = {ip} }}]\n");
        check(
            &text,
            &[
                "192.0.2.10 belongs to transactional pool `tx` on line 5 and cannot also serve broadcast pool `bulk` on line 9",
            ],
        );
    }
    let text = format!("{POOLS}sources = [{{ name = \"b1\", ip = \"192.0.2.11\" }}]\n");
    assert!(parse(&text).is_ok());
}

#[test]
fn a_pool_without_a_source_or_with_an_address_of_nobody_is_refused() {
    check(POOLS, &[":6: pool.sources: a pool needs a source"]);
    for ip in ["0.0.0.0", "::", "224.0.0.1"] {
        let text = format!("{POOLS}sources = [{{ name = \"b1\", ip = \"{ip}\" }}]\n");
        check(&text, &["is no address that one interface can have"]);
    }
}

#[test]
fn a_stream_names_a_pool_of_its_kind() {
    let stream = |id: &str, pool: &str| {
        format!(
            "{POOLS}sources = [{{ name = \"b1\", ip = \"192.0.2.11\" }}]\n[[server]]\nname = \"app\"\nsenders = \"any\"\n[[server.stream]]\nid = \"{id}\"\npool = \"{pool}\"\n"
        )
    };
    assert!(parse(&stream("broadcast", "bulk")).is_ok());
    check(
        &stream("broadcast", "tx"),
        &["stream `broadcast` is broadcast and pool `tx` carries transactional mail only"],
    );
    check(
        &stream("outbound", "txt"),
        &["no [[pool]] is named `txt`; there are: tx, bulk"],
    );
    check(&stream("news", "bulk"), &["server.stream.type: is missing"]);
}

#[test]
fn references_duplicates_and_open_relays_are_refused() {
    let listener = |trusted: &str| {
        format!(
            "[[smtp]]\nbind = \"127.0.0.1:2525\"\ntrusted = [{{ {trusted} }}]\n[[server]]\nname = \"app\"\nsenders = \"any\"\n"
        )
    };
    check(
        &listener("cidr = \"127.0.0.0/8\", server = \"other\""),
        &[":3: smtp.trusted.server: no [[server]] is named `other`"],
    );
    check(
        &listener("cidr = \"127.0.0.0/8\", server = \"app\", stream = \"news\""),
        &["has no stream `news`"],
    );
    check(
        &listener("cidr = \"0.0.0.0/0\", server = \"app\""),
        &["an open relay"],
    );
    check(
        "[[smtp]]\nbind = \"127.0.0.1:8025\"\n",
        &["http.bind: 127.0.0.1:8025 is taken by smtp.bind"],
    );
    check(
        "[[smtp]]\nbind = \"0.0.0.0:25\"\n[[smtp]]\nbind = \"192.0.2.1:25\"\n",
        &[":4: smtp.bind: 192.0.2.1:25 is taken by smtp.bind (0.0.0.0:25) on line 2"],
    );
    check(
        "[[server]]\nname = \"a\"\nsenders = \"any\"\n[[server]]\nname = \"a\"\nsenders = \"any\"\n",
        &[":4: server.name: a server named `a` is already declared on line 1"],
    );
    check(
        "[account]\ntokens = [\"env:A_TOKEN\"]\n[admin]\ntokens = [\"env:A_TOKEN\"]\n",
        &["this token is already given to account.tokens on line 2"],
    );
}

#[test]
fn tls_needs_a_certificate_and_a_key_that_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["mta1.example.com".into()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let parse =
        |text: &str| Config::parse(text, &dir.path().join("posthaste.toml"), None, &|_| None);
    let listener = |rest: &str| format!("[[smtp]]\nbind = \"127.0.0.1:2525\"\n{rest}");
    let good = parse(&listener(
        "tls = \"starttls\"\ncert = \"cert.pem\"\nkey = \"key.pem\"\n",
    ))
    .unwrap();
    assert_eq!(
        good.smtp[0].identity.as_ref().unwrap().cert,
        dir.path().join("cert.pem")
    );
    for (rest, expected) in [
        ("tls = \"implicit\"\n", "smtp.cert: is missing"),
        (
            "tls = \"implicit\"\ncert = \"cert.pem\"\nkey = \"none.pem\"\n",
            "none.pem cannot be used",
        ),
        (
            "tls = \"implicit\"\ncert = \"key.pem\"\nkey = \"key.pem\"\n",
            "key.pem holds no certificate",
        ),
        (
            "tls = \"implicit\"\ncert = \"cert.pem\"\nkey = \"cert.pem\"\n",
            "cert.pem holds no private key",
        ),
        ("cert = \"cert.pem\"\n", "has no effect without TLS"),
    ] {
        let error = parse(&listener(rest)).unwrap_err().to_string();
        assert!(
            error.contains(expected),
            "{error}\n  does not say\n{expected}"
        );
    }
}

#[test]
fn mail_for_postmaster_is_not_sent_to_where_it_came_from() {
    let to = |address: &str| {
        format!(
            "[bounce]\ndomain = \"bounces.test\"\npostmaster = \"{address}\"\n[[inbound]]\nbind = \"127.0.0.1:0\"\n"
        )
    };
    check(&to("ops@Bounces.test"), &["would come back here for ever"]);
    check(&to("ops"), &["must be an address"]);
    let shown = parse(&to("ops@example.com")).unwrap().show();
    assert!(
        shown.contains("postmaster = \"ops@example.com\""),
        "{shown}"
    );
}

#[test]
fn whether_a_server_sends_notices_is_read_and_shown() {
    for (line, expected) in [("", "none"), ("notify = \"dsn\"\n", "dsn")] {
        let config = parse(&format!(
            "[[server]]\nname = \"a\"\nsenders = \"any\"\n{line}"
        ))
        .unwrap();
        let shown = show::show(&config);
        assert!(
            shown.contains(&format!("notify = \"{expected}\"")),
            "{shown}"
        );
    }
}

#[test]
fn keys_that_sign_are_named_with_their_selectors_and_files() {
    let config = parse(
        "[[domain]]\nname = \"example.com\"\ndkim = [{ selector = \"ph2\", key_file = \"keys/b.pem\" }, { selector = \"ph1\", key_file = \"/a.pem\" }]\n[dkim]\ndomain = \"mail.example.net\"\nkeys = [{ selector = \"2026.ph\", key_file = \"p.pem\" }]\ned25519 = true\n",
    )
    .unwrap();
    let files = &config.domains[0].dkim;
    assert_eq!(files[0].path, Path::new("/etc/posthaste/keys/b.pem"));
    assert_eq!((&*files[1].selector, files.len()), ("ph1", 2));
    let platform = config.signing.platform.as_ref().unwrap();
    assert_eq!(platform.keys[0].path, Path::new("/etc/posthaste/p.pem"));
    assert!(config.signing.ed25519);
    let shown = config.show();
    assert!(
        parse(&shown).is_ok_and(|again| again.signing == config.signing),
        "{shown}"
    );

    check(
        "[[domain]]\nname = \"example.com\"\ndkim = [{ selector = \"a b\", key_file = \"b\" }]\n",
        &["`a b` is no selector"],
    );
    check(
        "[[domain]]\nname = \"example.com\"\ndkim = [{ selector = \"a\", key_file = \"b\" }, { selector = \"a\", key_file = \"c\" }]\n",
        &["the selector `a` is already that of another key"],
    );
    check(
        "[dkim]\ndomain = \"example.net\"\n",
        &["signs nothing without keys"],
    );
    check(
        "[dkim]\nkeys = [{ selector = \"a\", key_file = \"b\" }]\n",
        &["sign in the name of a domain"],
    );
}

#[test]
fn limits_have_caps() {
    check(
        "[[smtp]]\nbind = \"127.0.0.1:2525\"\nsize_max = \"151MiB\"\n",
        &["151MiB is outside 64KiB to 150MiB"],
    );
    check(
        "[spool]\nmail_segment = \"1MiB\"\n",
        &["1MiB is outside 4MiB to 1GiB"],
    );
    check(
        "[spool]\nmail_segment = 4194305\n",
        &["no multiple of 4KiB"],
    );
    check(
        "[retry]\ntransactional = { max_age = \"8d\" }\n",
        &["8d is outside 1ms to 7d"],
    );
    check(
        "[delivery]\nport = 70000\n",
        &["70000 is outside 1 to 65535"],
    );
}

#[test]
fn a_token_comes_from_the_environment_a_file_or_the_text() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "from-a-file\n").unwrap();
    let text = "[account]\ntokens = [\"file:token\", \"literal-token\", \"env:X\"]\n";
    let file = dir.path().join("posthaste.toml");
    let config = Config::parse(text, &file, None, &|name| {
        (name == "X").then(|| "from-the-environment".into())
    })
    .unwrap();
    let values: Vec<&str> = config.account.tokens.iter().map(Secret::expose).collect();
    assert_eq!(
        values,
        ["from-a-file", "literal-token", "from-the-environment"]
    );
    let origins: Vec<&str> = config.account.tokens.iter().map(Secret::origin).collect();
    assert_eq!(origins, ["file:token", "literal", "env:X"]);
    assert!(!config.show().contains("from-a-file") && !config.show().contains("literal-token"));
    check(
        "[account]\ntokens = [\"env:GONE\", \"short\"]\n",
        &["no variable `GONE`", "8 to 256 visible ASCII"],
    );
}

#[test]
fn routes_take_names_and_addresses_with_and_without_a_port() {
    let text = "[[route]]\ndomain = \"*.Example.com\"\nhosts = [\"127.0.0.1:2526\", \"[2001:db8::1]:25\", \"2001:db8::1\", \"mx.example.com\", \"mx.example.com:2525\", \"192.0.2.1\"]\n";
    let config = parse(text).unwrap();
    let RouteTarget::Hosts(hosts) = &config.routes[0].target else {
        panic!()
    };
    let ports: Vec<u16> = hosts.iter().map(|h| h.port).collect();
    assert_eq!(ports, [2526, 25, 25, 25, 2525, 25]);
    let matches = |name: &str| {
        config.routes[0]
            .pattern
            .matches(&Domain::parse(name).unwrap())
    };
    assert!(matches("a.example.com") && matches("a.b.example.com"));
    assert!(!matches("example.com") && !matches("badexample.com"));
    check(
        "[[route]]\ndomain = \"*\"\nhosts = [\"mx example\", \"mx:0\"]\n",
        &["`mx example` is no host", "`mx:0` is no host"],
    );
}

#[test]
fn the_data_directory_of_the_command_line_wins() {
    let file = Path::new("/etc/posthaste/posthaste.toml");
    let config = Config::parse(
        "[node]\ndata_dir = \"/a\"\n",
        file,
        Some(Path::new("/b")),
        &|_| None,
    )
    .unwrap();
    assert_eq!(config.node.data_dir, Path::new("/b"));
}

#[test]
fn the_shown_configuration_is_read_back_as_the_same() {
    let mut config = parse(DOCUMENTED).unwrap();
    // Tokens are shown by origin, so they are read from the environment again.
    let shown = config.show();
    let mut again = parse(&shown).unwrap();
    for config in [&mut config, &mut again] {
        config.file = None;
        // They name lines, which differ.
        config.warnings.clear();
    }
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
}

#[test]
fn without_a_file_the_node_is_complete_and_leads_to_the_sink() {
    let config = Config::development(Some(Path::new("/tmp/x")));
    assert!(config.development && config.needs_sink());
    assert_eq!(config.smtp[0].bind.to_string(), "127.0.0.1:2525");
    assert_eq!(config.http.bind.to_string(), "127.0.0.1:8025");
    assert!(
        config.smtp[0]
            .trusted
            .iter()
            .all(|t| t.cidr.is_loopback() && t.server == "default")
    );
    let pools: Vec<_> = config
        .sources()
        .map(|(p, s)| (p.name.as_str(), s.v4.unwrap().to_string()))
        .collect();
    assert_eq!(
        pools,
        [
            ("tx", "127.0.0.1".to_owned()),
            ("bulk", "127.0.0.2".to_owned())
        ]
    );
    assert_eq!(config.servers[0].id, Some(1));
    assert_eq!(config.servers[0].senders, SendersPolicy::Any);
    assert_eq!(config.routes[0].target, RouteTarget::Sink);
}

#[test]
fn a_source_may_live_behind_a_proxy() {
    let with = |keys: &str| {
        let source = format!("weight = 1, {keys}");
        DOCUMENTED.replacen("weight = 1", &source, 1)
    };
    let proxy = |keys: &str| {
        let config = parse(&with(keys)).unwrap();
        let shown = config.show();
        let source = config.pools[0].sources[0].clone();
        (source.proxy.unwrap(), shown)
    };
    let (found, shown) = proxy("proxy = \"haproxy://[2001:db8::1]:2526\"");
    assert_eq!(
        (found.kind, &*found.host, found.port),
        (ProxyKind::HaProxy, "2001:db8::1", 2526)
    );
    assert!(
        shown.contains("proxy = \"haproxy://[2001:db8::1]:2526\""),
        "{shown}"
    );
    let keys =
        "proxy = \"socks5://mta2.example.com:1080\", proxy_user = \"u\", proxy_password = \"p w\"";
    let (found, shown) = proxy(keys);
    assert_eq!(found.to_string(), "socks5://mta2.example.com:1080");
    assert_eq!(found.user.as_ref().unwrap().password.expose(), "p w");
    assert!(
        shown.contains("proxy_user = \"u\", proxy_password = \"literal\""),
        "{shown}"
    );

    for wrong in [
        "socks4://192.0.2.1:1080",
        "socks5://192.0.2.1",
        "socks5://:1080",
        "192.0.2.1:1080",
        "haproxy://a:0",
    ] {
        check(
            &with(&format!("proxy = {wrong:?}")),
            &["is no proxy; write socks5://"],
        );
    }
    check(
        &with("proxy_user = \"u\""),
        &["there is no proxy that it could be for"],
    );
    let socks = "proxy = \"socks5://192.0.2.1:1080\"";
    check(
        &with(&format!("{socks}, proxy_user = \"u\"")),
        &["go together"],
    );
    let long = "p".repeat(256);
    let keys = format!("{socks}, proxy_user = \"u\", proxy_password = \"{long}\"");
    check(&with(&keys), &["have 1 to 255 octets"]);
    let ha = "proxy = \"haproxy://192.0.2.1:1080\", proxy_user = \"u\", proxy_password = \"p\"";
    check(&with(ha), &["the PROXY protocol knows no users"]);
}

#[test]
fn what_remote_hosts_see_of_a_source_is_never_shared_by_streams() {
    let with = |public: &str| {
        let source = format!("weight = 1, public_ip = {public}");
        DOCUMENTED.replacen("weight = 1", &source, 1)
    };
    let config = parse(&with("\"203.0.113.9\"")).unwrap();
    let source = &config.pools[0].sources[0];
    let seen: Vec<String> = source.seen_as().map(|a| a.to_string()).collect();
    assert_eq!(seen, ["203.0.113.9"]);
    assert!(config.show().contains("public_ip = [\"203.0.113.9\"]"));
    check(
        &with("\"10.0.0.9\""),
        &["no address that remote hosts can see"],
    );
    check(
        &with("\"2001:db8::9\""),
        &["of a family that `ip` has no address of"],
    );
    let two = format!(
        "{}[[pool]]\nname = \"bulk\"\nkind = \"broadcast\"\nsources = [{{ name = \"b1\", ip = \"10.0.0.1\", public_ip = \"203.0.113.9\" }}]\n",
        with("\"203.0.113.9\"")
    );
    check(&two, &["never share an address"]);
}

#[test]
fn limits_are_those_of_the_most_particular_rule_and_name_it() {
    let text = format!(
        "{DOCUMENTED}[[shaping]]\nconnections = 7\n[[shaping]]\nprovider = \"google\"\nmessages_per_connection = 9\n[[shaping]]\nprovider = \"ours\"\nmx = [\".Example.net\"]\nmessage_rate = \"3/s\"\n"
    );
    let config = parse(&text).unwrap();
    let shaping = &config.shaping;
    let of = |host: &'static str| shaping.provider_of(std::iter::once(host));
    let limits = |host| shaping.limits(of(host), "any", "any");
    let google = limits("gmail-smtp-in.l.google.com");
    assert_eq!(
        (
            google.connections.value,
            google.messages_per_connection.value
        ),
        (5, 9)
    );
    assert_eq!(&*google.connections.rule, "shipped rule `google`");
    assert_eq!(limits("notgoogle.com").connections.value, 7);
    assert_eq!(
        limits("mx.example.net").message_rate.unwrap().value.count,
        3
    );
    let shown = config.show();
    assert!(
        shown.contains("9 messages a connection ([[shaping]] on line"),
        "{shown}"
    );
}

#[test]
fn sinks_have_files_of_their_own_and_kafka_is_told_where_it_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("x")).unwrap();
    std::fs::create_dir(dir.path().join("y")).unwrap();
    let dir = dir.path().display();
    let file = |name: &str, path: &str| {
        format!("[[sink]]\nname = \"{name}\"\ntype = \"file\"\npath = \"{dir}/{path}\"\n")
    };
    let text = |sinks: &str| format!("{DOCUMENTED}{sinks}");
    let found = problems(&text(
        &(file("a", "x/events.jsonl") + &file("b", "x/events")),
    ));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("is the file of the sink `a` already"),
        "{found:#?}"
    );
    parse(&text(
        &(file("a", "x/events.jsonl") + &file("b", "y/events.jsonl")),
    ))
    .unwrap();

    let kafka = |keys: &str| {
        text(&format!(
            "[[sink]]\nname = \"bus\"\ntype = \"kafka\"\n{keys}"
        ))
    };
    let whole = kafka(
        "brokers = [\"kafka1.example.com:9092\"]\nuser = \"u\"\npassword = \"p\"\nmechanism = \"plain\"\n",
    );
    if cfg!(feature = "kafka") {
        parse(&whole).unwrap();
        for (keys, wanted) in [
            ("", "needs `brokers`"),
            (
                "brokers = [\"kafka1.example.com\"]\n",
                "must be a host and its port",
            ),
            (
                "brokers = [\"k:9092\"]\ntopic = \"a b\"\n",
                "must be letters, digits",
            ),
            (
                "brokers = [\"k:9092\"]\nuser = \"u\"\n",
                "give both or neither",
            ),
            (
                "brokers = [\"k:9092\"]\nmechanism = \"plain\"\n",
                "without user and password",
            ),
            (
                "brokers = [\"k:9092\"]\nurl = \"nats://k\"\n",
                "no effect on a sink of this type",
            ),
        ] {
            let found = problems(&kafka(keys));
            assert!(
                found.len() == 1 && found[0].contains(wanted),
                "{keys}: {found:#?}"
            );
        }
    } else {
        let found = problems(&whole);
        assert!(
            found.len() == 1 && found[0].contains("--features kafka"),
            "{found:#?}"
        );
    }
}
