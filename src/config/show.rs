//! The effective configuration as TOML: every default filled in, every path absolute, no secret.

use std::fmt::{Debug, Display, Write};

use super::*;

pub(super) fn show(config: &Config) -> String {
    let mut out = Out(String::new());
    if config.development {
        out.line(
            "# No configuration file: a development node. All mail goes to the built-in sink.",
        );
    }
    nodes(&mut out, config);
    for listener in &config.smtp {
        smtp(&mut out, listener);
    }
    for listener in &config.inbound {
        out.section("[[inbound]]");
        out.text("bind", listener.bind);
        out.tls(listener.tls, listener.identity.as_ref());
        out.texts("proxy_from", &listener.proxy_from);
        out.text("size_max", text_of_size(listener.size_max));
    }
    for sink in &config.sinks {
        sinks(&mut out, sink);
    }
    limits(&mut out, config);
    for pool in &config.pools {
        egress(&mut out, pool);
    }
    for route in &config.routes {
        routes(&mut out, route);
    }
    shaping(&mut out, config);
    for share in &config.shares {
        out.section("[[share]]");
        out.text("server", &share.server);
        if let Some(stream) = &share.stream {
            out.text("stream", stream);
        }
        out.raw("weight", share.weight);
    }
    out.section("[account]");
    out.tokens(&config.account.tokens);
    if let Some(rate) = config.account.rate {
        out.text("rate", rate);
    }
    out.text("notices_from", &config.account.notices_from);
    out.section("[bounce]");
    if let Some(domain) = &config.bounce.domain {
        out.text("domain", domain);
    }
    if let Some(postmaster) = &config.bounce.postmaster {
        out.text("postmaster", postmaster);
    }
    out.secrets("secrets", &config.bounce.secrets);
    out.text("accept_for", text_of_duration(config.bounce.accept_for));
    if let Some(mailbox) = &config.bounce.complaints_to {
        out.text("complaints_to", mailbox);
    }
    for server in &config.servers {
        servers(&mut out, config, server);
    }
    for domain in &config.domains {
        out.section("[[domain]]");
        out.text("name", &domain.name);
        if !domain.dkim.is_empty() {
            out.raw("dkim", key_files(&domain.dkim));
        }
    }
    out.section("[dkim]");
    if let Some(platform) = &config.signing.platform {
        out.text("domain", &platform.domain);
        out.raw("keys", key_files(&platform.keys));
    }
    out.raw("ed25519", config.signing.ed25519);
    out.section("[retry]");
    for kind in [StreamKind::Transactional, StreamKind::Broadcast] {
        let retry = config.retry.of(kind);
        let times = [retry.first, retry.max, retry.max_age].map(text_of_duration);
        let [first, max, age] = &times;
        out.raw(
            kind.as_str(),
            format!("{{ first = {first:?}, max = {max:?}, max_age = {age:?} }}"),
        );
    }
    out.0
}

fn key_files(files: &[KeyFile]) -> String {
    let shown = files.iter().map(|file| {
        let (selector, path) = (&file.selector, file.path.display().to_string());
        format!("{{ selector = {selector:?}, key_file = {path:?} }}")
    });
    format!("[{}]", shown.collect::<Vec<_>>().join(", "))
}

fn nodes(out: &mut Out, config: &Config) {
    out.section("[node]");
    out.text("hostname", &config.node.hostname);
    out.text("data_dir", config.node.data_dir.display());
    out.section("[http]");
    out.text("bind", config.http.bind);
    out.tls(config.http.tls, config.http.identity.as_ref());
    if let Some(url) = &config.http.public_url {
        out.text("public_url", url);
    }
    out.text("time_zone", config.http.time_zone.name());
    out.section("[admin]");
    out.tokens(&config.admin.tokens);
    out.texts("metrics_from", &config.admin.metrics_from);
    out.section("[log]");
    let format = match config.log.format {
        LogFormat::Auto => "auto",
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    out.text("format", format);
    out.text("level", &config.log.level);
}

fn sinks(out: &mut Out, sink: &Sink) {
    out.section("[[sink]]");
    out.text("name", &sink.name);
    let kind = match &sink.target {
        SinkTarget::File(_) => "file",
        SinkTarget::Stdout => "stdout",
        SinkTarget::Syslog { .. } => "syslog",
        SinkTarget::Journald { .. } => "journald",
        SinkTarget::Nats(_) => "nats",
        SinkTarget::Kafka(_) => "kafka",
    };
    out.text("type", kind);
    out.texts("kinds", &sink.kinds);
    out.texts("servers", &sink.servers);
    out.texts("streams", &sink.streams);
    let from = match sink.from {
        SinkStart::Now => "now",
        SinkStart::Start => "start",
    };
    out.text("from", from);
    match &sink.target {
        SinkTarget::File(file) => {
            out.text("path", file.path.display());
            out.text("rotate_size", text_of_size(file.rotate_size));
            if let Some(every) = file.rotate_every {
                out.text("rotate_every", text_of_duration(every));
            }
            out.raw("keep", file.keep);
            out.text("compression", file.compression.as_str());
        }
        SinkTarget::Stdout => {}
        SinkTarget::Syslog { socket } | SinkTarget::Journald { socket } => {
            out.text("socket", socket.display());
        }
        SinkTarget::Nats(nats) => {
            out.text("url", &nats.url);
            out.text("subject", &nats.subject);
            if let Some((user, password)) = &nats.user {
                out.text("user", user);
                out.text("password", password.origin());
            }
            if let Some(token) = &nats.token {
                out.text("token", token.origin());
            }
        }
        SinkTarget::Kafka(kafka) => {
            out.texts("brokers", &kafka.brokers);
            out.text("topic", &kafka.topic);
            out.text("compression", kafka.compression.as_str());
            out.raw("tls", kafka.tls);
            if let Some((user, password)) = &kafka.user {
                out.text("user", user);
                out.text("password", password.origin());
                out.text("mechanism", kafka.mechanism.as_str());
            }
        }
    }
}

fn smtp(out: &mut Out, listener: &SmtpListener) {
    out.section("[[smtp]]");
    out.text("bind", listener.bind);
    out.tls(listener.tls, listener.identity.as_ref());
    let trusted = listener.trusted.iter().map(|t| {
        let stream = t.stream.as_ref().map(|s| format!(", stream = {s:?}"));
        format!(
            "{{ cidr = \"{}\", server = {:?}{} }}",
            t.cidr,
            t.server,
            stream.unwrap_or_default()
        )
    });
    out.raw(
        "trusted",
        format!("[{}]", trusted.collect::<Vec<_>>().join(", ")),
    );
    out.raw("allow_plain_auth", listener.allow_plain_auth);
    out.texts("proxy_from", &listener.proxy_from);
    out.texts("xclient_from", &listener.xclient_from);
    out.text("size_max", text_of_size(listener.size_max));
}

fn limits(out: &mut Out, config: &Config) {
    let (spool, delivery, timeouts) = (&config.spool, &config.delivery, &config.timeouts);
    out.section("[spool]");
    out.text("mail_segment", text_of_size(spool.mail_segment));
    out.text("event_segment", text_of_size(spool.event_segment));
    out.text("reserve", text_of_size(spool.reserve));
    out.text("refuse_below", text_of_size(spool.refuse_below));
    out.text("warn_below", text_of_size(spool.warn_below));
    out.text("retention", text_of_duration(spool.retention));
    if let Some(max) = spool.archive_max {
        out.text("archive_max", text_of_size(max));
    }
    out.text("event_retention", text_of_duration(spool.event_retention));
    out.raw("any_file_system", spool.any_file_system);
    out.section("[delivery]");
    out.raw("port", delivery.port);
    out.texts("allow_networks", &delivery.allow_networks);
    out.texts("test_domains", &delivery.test_domains);
    out.raw("connections_per_site", delivery.connections_per_site);
    out.raw("connections_max", delivery.connections_max);
    out.raw("messages_per_connection", delivery.messages_per_connection);
    out.text("idle", text_of_duration(delivery.idle));
    out.section("[timeouts]");
    for (key, time) in [
        ("connect", timeouts.connect),
        ("banner", timeouts.banner),
        ("command", timeouts.command),
        ("data", timeouts.data),
        ("block", timeouts.block),
        ("dot", timeouts.dot),
    ] {
        out.text(key, text_of_duration(time));
    }
    webhooks(out, config);
    out.section("[suppressions]");
    out.raw("hashed", config.suppressions.hashed);
    if !config.rule_files.is_empty() {
        out.section("[classify]");
        let files: Vec<_> = config
            .rule_files
            .iter()
            .map(|file| file.display())
            .collect();
        out.texts("rules", &files);
    }
    out.section("[dns]");
    out.texts("servers", &config.dns.servers);
    out.section("[dnsbl]");
    out.texts("zones", &config.dnsbl.zones);
    if let Some(file) = &config.tls.ca_file {
        out.section("[tls]");
        out.text("ca_file", file.display());
    }
}

fn webhooks(out: &mut Out, config: &Config) {
    let webhooks = &config.webhooks;
    out.section("[webhooks]");
    out.texts("allow_networks", &webhooks.allow_networks);
    out.raw("allow_http", webhooks.allow_http);
    out.raw("verify", webhooks.verify);
    let waits = |waits: &[Duration]| -> Vec<String> {
        waits.iter().map(|wait| text_of_duration(*wait)).collect()
    };
    out.texts("bounce_retries", &waits(&webhooks.bounce_retries));
    out.texts("event_retries", &waits(&webhooks.event_retries));
    out.text("retry_on", webhooks.retry_on.as_str());
    out.raw("concurrency", webhooks.concurrency);
    out.text("timeout", text_of_duration(webhooks.timeout));
    out.text("stop_after", text_of_duration(webhooks.stop_after));
}

/// The operator's rules as they were typed, then what holds for each provider and source, and which rule says so.
fn shaping(out: &mut Out, config: &Config) {
    let shaping = &config.shaping;
    for rule in shaping.rules.iter().filter(|rule| !rule.is_shipped()) {
        out.section("[[shaping]]");
        for (key, value) in rule.keys(shaping) {
            out.raw(key, value);
        }
    }
    out.line("");
    out.line("# Effective limits of a source at a site, and the rule that set each:");
    let providers = shaping.providers().map(|(id, provider)| {
        let mx = provider.mx.join(", ");
        (Some(id), format!("{} (MX below {mx})", provider.name))
    });
    for (provider, name) in std::iter::once((None, "any other site".to_owned())).chain(providers) {
        let mut told: Option<PathLimits> = None;
        let sources = config.pools.iter().flat_map(|pool| {
            let sources = pool.sources.iter();
            sources.map(move |source| (&pool.name, &source.name))
        });
        for (pool, source) in sources {
            let limits = shaping.limits(provider, pool, source);
            if told.as_ref() != Some(&limits) {
                out.line(format!("# {name}, from {source}: {limits}"));
                told = Some(limits);
            }
        }
    }
}

fn egress(out: &mut Out, pool: &Pool) {
    out.section("[[pool]]");
    out.text("name", &pool.name);
    out.text("kind", pool.kind.as_str());
    out.raw("default", pool.default);
    out.line("sources = [");
    for source in &pool.sources {
        let addresses: Vec<String> = source.addresses().map(|a| format!("\"{a}\"")).collect();
        let (name, ehlo) = (&*source.name, &source.ehlo);
        let ip = addresses.join(", ");
        let mut more = String::new();
        if let Some(way) = &source.proxy {
            more = format!(", proxy = \"{way}\"");
            if let Some(user) = &way.user {
                let (name, password) = (&user.name, user.password.origin());
                more += &format!(", proxy_user = {name:?}, proxy_password = {password:?}");
            }
        }
        if !source.public.is_empty() {
            let public: Vec<String> = source.public.iter().map(|a| format!("\"{a}\"")).collect();
            more += &format!(", public_ip = [{}]", public.join(", "));
        }
        out.line(format!(
            "  {{ name = {name:?}, ip = [{ip}], ehlo = {ehlo:?}, weight = {}{more} }},",
            source.weight
        ));
    }
    out.line("]");
}

fn routes(out: &mut Out, route: &Route) {
    let hosts = match &route.target {
        RouteTarget::Sink => {
            return out.line("\n# [[route]] domain = \"*\" leads to the built-in sink");
        }
        RouteTarget::Hosts(hosts) => hosts,
    };
    out.section("[[route]]");
    match &route.pattern {
        DomainPattern::Any => out.text("domain", "*"),
        DomainPattern::Exact(domain) => out.text("domain", domain),
        DomainPattern::Below(domain) => out.text("domain", format!("*.{domain}")),
    }
    let hosts: Vec<String> = hosts
        .iter()
        .map(|h| match &h.host {
            Host::Address(address) => SocketAddr::new(*address, h.port).to_string(),
            Host::Name(name) => format!("{name}:{}", h.port),
        })
        .collect();
    out.texts("hosts", &hosts);
}

fn servers(out: &mut Out, config: &Config, server: &Server) {
    out.section("[[server]]");
    if let Some(id) = server.id {
        out.raw("id", id);
    }
    out.text("name", &server.name);
    out.tokens(&server.tokens);
    let senders = match server.senders {
        SendersPolicy::Any => "any",
        SendersPolicy::Verified => "verified",
    };
    out.text("senders", senders);
    let notify = match server.notify {
        Notify::None => "none",
        Notify::Dsn => "dsn",
    };
    out.text("notify", notify);
    let message_id = match server.message_id {
        MessageIdPolicy::Keep => "keep",
        MessageIdPolicy::Replace => "replace",
    };
    out.text("message_id", message_id);
    out.text(
        "delivery_type",
        if server.sandbox { "sandbox" } else { "live" },
    );
    out.raw("strict", server.strict);
    if let Some(rate) = server.rate {
        out.text("rate", rate);
    }
    for stream in &server.streams {
        out.section("[[server.stream]]");
        out.text("id", &stream.id);
        out.text("type", stream.kind.as_str());
        if let Some(kept) = stream.retention {
            out.text("retention", text_of_duration(kept));
        }
        let retry = [
            ("first", stream.retry.first),
            ("max", stream.retry.max),
            ("max_age", stream.retry.max_age),
        ];
        let own = retry.iter().filter_map(|(key, time)| {
            let time = text_of_duration((*time)?);
            Some(format!("{key} = {time:?}"))
        });
        let own: Vec<String> = own.collect();
        if !own.is_empty() {
            out.raw("retry", format!("{{ {} }}", own.join(", ")));
        }
        if stream.ambiguous == Ambiguous::Stop {
            out.text("ambiguous", "stop");
        }
        if let Some(pool) = stream.pool {
            out.text("pool", &config.pool(pool).name);
        }
    }
}

struct Out(String);

impl Out {
    fn line(&mut self, line: impl Display) {
        let _ = writeln!(self.0, "{line}");
    }

    fn section(&mut self, heading: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(format_args!("{gap}{heading}"));
    }

    fn raw(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{key} = {value}"));
    }

    /// Debug escapes are a subset of TOML's for the texts that get here: no control characters.
    fn text(&mut self, key: &str, value: impl ToString) {
        self.raw(key, format_args!("{:?}", value.to_string()));
    }

    fn texts<T: ToString>(&mut self, key: &str, values: &[T]) {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        self.raw(key, format_args!("{:?}", &values as &dyn Debug));
    }

    fn tokens(&mut self, tokens: &[Secret]) {
        self.secrets("tokens", tokens);
    }

    fn secrets(&mut self, key: &str, secrets: &[Secret]) {
        let origins: Vec<&str> = secrets.iter().map(Secret::origin).collect();
        self.texts(key, &origins);
    }

    fn tls(&mut self, mode: TlsMode, identity: Option<&TlsIdentity>) {
        let mode = match mode {
            TlsMode::Off => "off",
            TlsMode::StartTls => "starttls",
            TlsMode::Implicit => "implicit",
        };
        self.text("tls", mode);
        if let Some(identity) = identity {
            self.text("cert", identity.cert.display());
            self.text("key", identity.key.display());
        }
    }
}
