//! `[[smtp]]`, `[[inbound]]`, `[http]`, `[admin]`: what listens, with which certificate, and whom it trusts.

use std::net::SocketAddr;
use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Context, MIB};
use crate::clock::Zone;
use crate::config::raw::{RawConfig, RawInbound, RawSmtp, RawTrusted};
use crate::config::source::{At, Located};
use crate::config::{
    Admin, Cidr, HttpListener, InboundListener, Server, SmtpListener, StreamKind, TlsIdentity,
    TlsMode, Trusted,
};
use crate::limits;

impl Context<'_> {
    pub(super) fn smtp(&mut self, raw: &RawConfig, servers: &[Server]) -> Vec<SmtpListener> {
        let Some(listeners) = raw.smtp.as_deref() else {
            return vec![SmtpListener::default()];
        };
        listeners
            .iter()
            .filter_map(|l| self.smtp_listener(l, servers))
            .collect()
    }

    pub(super) fn inbound(&mut self, raw: &RawConfig) -> Vec<InboundListener> {
        let listeners = raw.inbound.as_deref().unwrap_or_default();
        let of = |raw: &Located<RawInbound>| {
            let bind = self.required(&raw.bind, &raw.at, "bind")?.value;
            let tls = raw.tls.as_ref().map_or(TlsMode::Off, |t| t.value);
            if let (TlsMode::Implicit, Some(given)) = (tls, &raw.tls) {
                self.problem(
                    &given.at,
                    "mail hosts know STARTTLS only; write \"starttls\" or \"off\"",
                );
            }
            self.refuse_everyone(raw.proxy_from.as_deref(), "may set any client address");
            Some(InboundListener {
                identity: self.identity(&raw.at, tls, &raw.cert, &raw.key),
                tls,
                proxy_from: Self::networks(raw.proxy_from.as_deref()),
                size_max: self.size(
                    &raw.size_max,
                    limits::INBOUND_SIZE_DEFAULT,
                    SIZE_MIN..=limits::MESSAGE_SIZE_CAP,
                ),
                bind,
            })
        };
        listeners.iter().filter_map(of).collect()
    }

    fn smtp_listener(
        &mut self,
        raw: &Located<RawSmtp>,
        servers: &[Server],
    ) -> Option<SmtpListener> {
        let bind = self.required(&raw.bind, &raw.at, "bind")?.value;
        let tls = raw.tls.as_ref().map_or(TlsMode::Off, |t| t.value);
        let trusted = raw.trusted.as_deref().unwrap_or_default();
        let trusted = trusted.iter().filter_map(|t| self.trusted(t, servers));
        let trusted = trusted.collect::<Vec<_>>();
        self.refuse_everyone(raw.proxy_from.as_deref(), "may set any client address");
        self.refuse_everyone(raw.xclient_from.as_deref(), "may take any identity");
        let listener = SmtpListener {
            identity: self.identity(&raw.at, tls, &raw.cert, &raw.key),
            tls,
            trusted,
            allow_plain_auth: raw.allow_plain_auth.as_ref().is_some_and(|a| a.value),
            proxy_from: Self::networks(raw.proxy_from.as_deref()),
            xclient_from: Self::networks(raw.xclient_from.as_deref()),
            size_max: self.size(
                &raw.size_max,
                limits::MESSAGE_SIZE_DEFAULT,
                SIZE_MIN..=limits::MESSAGE_SIZE_CAP,
            ),
            bind,
        };
        let loopback = bind.ip().is_loopback();
        if tls == TlsMode::Off
            && !loopback
            && !listener.allow_plain_auth
            && listener.trusted.is_empty()
        {
            self.warn(&raw.at, "nobody can submit here: AUTH needs TLS (tls, cert, key) or allow_plain_auth = true, and no network is trusted");
        }
        Some(listener)
    }

    fn trusted(&mut self, raw: &Located<RawTrusted>, servers: &[Server]) -> Option<Trusted> {
        let cidr = self.required(&raw.cidr, &raw.at, "cidr").cloned();
        let name = self.required(&raw.server, &raw.at, "server").cloned();
        let (cidr, name) = (cidr?, name?);
        self.refuse_everyone(
            Some(std::slice::from_ref(&cidr)),
            "may submit without AUTH: an open relay",
        );
        let Some(server) = servers.iter().find(|s| s.name == name.value) else {
            let message = format!(
                "no [[server]] is named `{}`; declare it in this file (one made with `posthaste server create` is taken over by its name)",
                name.value
            );
            self.problem(&name.at, message);
            return None;
        };
        if let Some(stream) = &raw.stream {
            match server.streams.iter().find(|s| s.id == stream.value) {
                None => {
                    let message = format!(
                        "server `{}` has no stream `{}`; add a [[server.stream]] or name one of: {}",
                        server.name,
                        stream.value,
                        ids(server)
                    );
                    self.problem(&stream.at, message);
                }
                Some(found) if found.kind == StreamKind::Inbound => {
                    self.problem(&stream.at, format!("stream `{}` is inbound; mail is submitted on transactional or broadcast streams", stream.value));
                }
                Some(_) => {}
            }
        }
        Some(Trusted {
            cidr: cidr.value,
            server: name.value,
            stream: raw.stream.as_ref().map(|s| s.value.clone()),
        })
    }

    /// A network of prefix length 0 is never meant: it hands the right to the whole Internet.
    fn refuse_everyone(&mut self, networks: Option<&[Located<Cidr>]>, right: &str) {
        for network in networks.unwrap_or_default() {
            if network.value.is_everyone() {
                self.problem(&network.at, format!("{} is every address, and whoever is in it {right}; name the networks that are yours", network.value));
            }
        }
    }

    pub(super) fn http(&mut self, raw: &RawConfig) -> HttpListener {
        let http = &raw.http;
        let tls = http.tls.as_ref().map_or(TlsMode::Off, |t| t.value);
        if let (TlsMode::StartTls, Some(given)) = (tls, &http.tls) {
            self.problem(
                &given.at,
                "HTTP has no STARTTLS; write \"implicit\" or \"off\"",
            );
            return HttpListener::default();
        }
        HttpListener {
            bind: http.bind.as_ref().map_or(HTTP_DEFAULT, |b| b.value),
            tls,
            identity: self.identity(&http.at, tls, &http.cert, &http.key),
            public_url: self.public_url(http.public_url.as_ref()),
            time_zone: self.time_zone(http.time_zone.as_ref()),
        }
    }

    fn time_zone(&mut self, given: Option<&Located<String>>) -> Zone {
        let zone = Zone::named(given.map_or(TIME_ZONE_DEFAULT, |given| &given.value));
        if let (None, Some(given)) = (&zone, given) {
            self.problem(&given.at, no_zone(&given.value));
        }
        zone.unwrap_or_else(Zone::utc)
    }

    fn public_url(&mut self, given: Option<&Located<String>>) -> Option<String> {
        let given = given?;
        let text = given.value.trim_end_matches('/');
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        // What may stand in an authority and a path; nothing that HTML or a mail would have to escape.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/[]".contains(&b);
        if !host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain)) {
            self.problem(
                &given.at,
                "must begin with https:// or http:// and a host: \"https://mail.example.com\"",
            );
        }
        Some(text.to_owned())
    }

    pub(super) fn admin(&mut self, raw: &RawConfig) -> Admin {
        let metrics_from = match raw.admin.metrics_from.as_deref() {
            None => loopback(),
            given => Self::networks(given),
        };
        Admin {
            tokens: self.secrets(raw.admin.tokens.as_deref()),
            metrics_from,
        }
    }

    fn identity(
        &mut self,
        section: &At,
        tls: TlsMode,
        cert: &Option<Located<String>>,
        key: &Option<Located<String>>,
    ) -> Option<TlsIdentity> {
        if tls == TlsMode::Off {
            for given in [cert, key].into_iter().flatten() {
                self.problem(&given.at, "has no effect without TLS; set tls = \"starttls\" or \"implicit\", or remove it");
            }
            return None;
        }
        let cert = self.required(cert, section, "cert");
        let key = self.required(key, section, "key");
        let (cert, key) = (cert?, key?);
        let identity = TlsIdentity {
            cert: self.path(cert),
            key: self.path(key),
        };
        self.check_certificates(&cert.at, &identity.cert);
        self.check_key(&key.at, &identity.key);
        Some(identity)
    }

    pub(super) fn check_certificates(&mut self, at: &At, path: &Path) {
        let count = CertificateDer::pem_file_iter(path)
            .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
            .map(|certs| certs.len());
        match count {
            Ok(0) => self.problem(
                at,
                format!(
                    "{} holds no certificate; it must be PEM (BEGIN CERTIFICATE)",
                    path.display()
                ),
            ),
            Ok(_) => {}
            Err(error) => self.problem(at, unreadable(path, &error)),
        }
    }

    fn check_key(&mut self, at: &At, path: &Path) {
        match PrivateKeyDer::from_pem_file(path) {
            Ok(_) => {}
            Err(rustls_pki_types::pem::Error::NoItemsFound) => {
                self.problem(
                    at,
                    format!(
                        "{} holds no private key; it must be PEM (BEGIN PRIVATE KEY)",
                        path.display()
                    ),
                );
            }
            Err(error) => self.problem(at, unreadable(path, &error)),
        }
    }

    /// Two listeners on one address and port: the second could not start.
    pub(super) fn check_binds(&mut self, raw: &RawConfig, http: &HttpListener) {
        let smtp = raw.smtp.as_deref().unwrap_or_default();
        let mut binds: Vec<(At, SocketAddr)> = smtp
            .iter()
            .filter_map(|l| l.bind.as_ref().map(|b| (b.at.clone(), b.value)))
            .collect();
        let inbound = raw.inbound.as_deref().unwrap_or_default();
        let inbound = inbound.iter().filter_map(|l| l.bind.as_ref());
        binds.extend(inbound.map(|b| (b.at.clone(), b.value)));
        let http_at = raw.http.bind.as_ref().map(|b| b.at.clone());
        let default_at = || raw.http.at.child("bind");
        binds.push((http_at.unwrap_or_else(default_at), http.bind));
        if raw.smtp.is_none() {
            binds.push((
                At {
                    line: 0,
                    key: "smtp.bind".into(),
                },
                SMTP_DEFAULT,
            ));
        }
        for (index, (at, bind)) in binds.iter().enumerate() {
            let taken = binds[..index]
                .iter()
                .find(|(_, other)| collide(*bind, *other));
            if let Some((first, other)) = taken {
                let message = format!(
                    "{bind} is taken by {} ({other}){}; choose another port",
                    first.key,
                    on_line(first)
                );
                self.problem(at, message);
            }
        }
    }
}

impl Default for SmtpListener {
    fn default() -> Self {
        Self {
            bind: SMTP_DEFAULT,
            tls: TlsMode::Off,
            identity: None,
            trusted: Vec::new(),
            allow_plain_auth: false,
            proxy_from: Vec::new(),
            xclient_from: Vec::new(),
            size_max: limits::MESSAGE_SIZE_DEFAULT,
        }
    }
}

impl Default for HttpListener {
    fn default() -> Self {
        Self {
            bind: HTTP_DEFAULT,
            tls: TlsMode::Off,
            identity: None,
            public_url: None,
            time_zone: time_zone_default(),
        }
    }
}

pub(super) fn no_zone(given: &str) -> String {
    format!(
        "`{given}` is no time zone; write it as in the IANA database: \"Europe/Berlin\", \"UTC\""
    )
}

/// Postmark's.
pub(super) fn time_zone_default() -> Zone {
    Zone::named(TIME_ZONE_DEFAULT).unwrap_or_else(Zone::utc)
}

const TIME_ZONE_DEFAULT: &str = "America/New_York";

/// `127.0.0.0/8` and `::1/128`.
pub(in crate::config) fn loopback() -> Vec<Cidr> {
    ["127.0.0.0/8", "::1/128"]
        .iter()
        .filter_map(|c| c.parse().ok())
        .collect()
}

fn unreadable(path: &Path, error: &rustls_pki_types::pem::Error) -> String {
    format!(
        "{} cannot be used: {error}; it must be a PEM file that the daemon may read",
        path.display()
    )
}

fn ids(server: &Server) -> String {
    let ids: Vec<&str> = server.streams.iter().map(|s| s.id.as_str()).collect();
    ids.join(", ")
}

pub(super) fn on_line(at: &At) -> String {
    match at.line {
        0 => " by default".into(),
        line => format!(" on line {line}"),
    }
}

/// Port 0 is the system's choice and collides with nothing.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    let same_family = x.is_ipv4() == y.is_ipv4();
    a.port() == b.port()
        && a.port() != 0
        && (x == y || same_family && (x.is_unspecified() || y.is_unspecified()))
}

const SMTP_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2525);
const HTTP_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8025);
/// RFC 5321 §4.5.3.1.7: a message of 64K octets must be taken.
const SIZE_MIN: u64 = MIB / 16;
