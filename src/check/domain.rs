//! A domain of From: everything that its mail needs.

use std::net::IpAddr;

use super::book::{Book, Kind, Said};
use super::{Finding, Level, dkim, dmarc, envelope, reports, shown_all, unknown};

/// What is wanted of a domain. Names are A-labels in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainWanted {
    pub name: String,
    pub keys: Vec<KeyWanted>,
    pub return_path: Option<ReturnPathWanted>,
    /// What Return-Path domains are aliases of.
    pub bounce_host: String,
    /// The domain of reverse-paths where the domain has none; `None`: as submitted.
    pub bounce_default: Option<String>,
    pub sources: Vec<SourceAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWanted {
    pub host: String,
    /// The whole record, as it is to be published.
    pub record: String,
    pub role: KeyRole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRole {
    /// Signs mail.
    Active,
    /// Waits for its record.
    Pending,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnPathWanted {
    pub host: String,
    /// It was found before, and is used.
    pub verified: bool,
}

/// One address of an egress source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAddress {
    pub source: String,
    /// As remote hosts see it.
    pub address: IpAddr,
    pub ehlo: String,
    /// The proxy that chooses the address, where nobody has said that it is this one.
    pub chosen_by: Option<String>,
}

impl DomainWanted {
    /// The domain of the reverse-paths that its mail leaves with, as far as it is ours to say: as submitted is mostly From's own.
    pub fn envelope_domain(&self) -> &str {
        let own = self.return_path.as_ref().map(|own| own.host.as_str());
        own.or(self.bounce_default.as_deref()).unwrap_or(&self.name)
    }
}

/// What a check of a domain has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainReport {
    /// In the order in which they should be read.
    pub findings: Vec<Finding>,
    /// Whether SPF permits every source; `None`: not known.
    pub spf_permits: Option<bool>,
}

pub fn judge_domain(book: &Book, wanted: &DomainWanted) -> DomainReport {
    let name = &wanted.name;
    let show = format!("posthaste domain show {name} --zone");
    book.expect(&format!("_dmarc.{name}"), Kind::Txt);
    book.expect(name, Kind::Mx);
    let mut findings = Vec::new();
    let mut signs = Some(false);
    for key in &wanted.keys {
        let of_key = dkim::judge(book, key, &show);
        if key.role == KeyRole::Active {
            signs = match (of_key[0].level, signs) {
                (Level::Ok, _) | (_, Some(true)) => Some(true),
                (Level::Unknown, _) | (_, None) => None,
                _ => Some(false),
            };
        }
        findings.extend(of_key);
    }
    if !wanted.keys.iter().any(|key| key.role == KeyRole::Active) && wanted.keys.is_empty() {
        findings.push(Finding::new(
            ("dkim_no_key", Level::Warn),
            format!("TXT below _domainkey.{name}"),
            "a key to sign with",
            "none",
            format!("Give the domain a key, so that its mail is signed: posthaste dkim add {name} --algorithm rsa; or `dkim` in [[domain]], where it is declared there."),
        ));
    }
    findings.extend(envelope::return_path(book, wanted));
    let envelope = wanted.envelope_domain();
    let publish_at = match wanted.return_path {
        Some(_) => wanted.bounce_host.as_str(),
        None => envelope,
    };
    let (of_spf, permits) = envelope::spf(book, envelope, publish_at, &wanted.sources);
    findings.extend(of_spf);
    findings.extend(envelope::not_judged(envelope, &wanted.sources));
    findings.extend(dmarc::judge(
        book,
        &dmarc::Facts {
            domain: name,
            envelope,
            dkim: signs,
            spf: permits,
        },
    ));
    findings.extend(exchanges(book, name));
    findings.extend(reports::judge(book, name));
    if envelope != name {
        findings.extend(reports::judge(book, envelope));
    }
    DomainReport {
        findings,
        spf_permits: permits,
    }
}

/// Whether SPF permits every source for a domain. `Err`: the DNS does not say, and why.
pub fn judge_spf(book: &Book, domain: &str, sources: &[SourceAddress]) -> Result<bool, String> {
    let (findings, permits) = envelope::spf(book, domain, domain, sources);
    match findings.iter().find(|f| f.level == Level::Unknown) {
        Some(unknown) => Err(unknown.found.clone()),
        None => Ok(permits == Some(true)),
    }
}

/// Whether replies can come, and hosts believe in the domain.
fn exchanges(book: &Book, name: &str) -> Vec<Finding> {
    let about = format!("MX {name}");
    let wanted = "a host that takes replies";
    let finding = |what, found: String, advice: &str| {
        Finding::new(what, about.as_str(), wanted, found, advice)
    };
    let hosts = match book.exchanges(name) {
        Said::Values(hosts) => hosts,
        Said::Failed(why) => return vec![unknown("mx_unknown", about, wanted, &why)],
        Said::NoSuchName | Said::Nothing => {
            return vec![match book.addresses(name) {
                Said::Values(addresses) => finding(
                    ("mx_implicit", Level::Ok),
                    format!("no MX, so mail goes to its address {}", addresses[0]),
                    "",
                ),
                Said::Failed(why) => unknown("mx_unknown", about, wanted, &why),
                Said::Nothing | Said::NoSuchName => finding(
                    ("mx_missing", Level::Error),
                    "neither an MX nor an address".into(),
                    "Publish an MX: replies bounce, and many hosts refuse mail from a domain that cannot be answered.",
                ),
            }];
        }
    };
    // RFC 7505 §3: beside others it is a mistake.
    let named: Vec<&str> = hosts
        .iter()
        .map(|(_, host)| host.as_str())
        .filter(|host| !host.is_empty())
        .collect();
    if named.is_empty() {
        return vec![finding(
            ("mx_null", Level::Warn),
            "a null MX".into(),
            "Publish an MX, or take another domain for From: hosts may refuse mail from a domain that takes none (RFC 7505).",
        )];
    }
    let named = &named[..named.len().min(HOSTS_JUDGED)];
    for host in named {
        book.expect(host, Kind::Cname);
        let _ = book.addresses(host);
    }
    let mut findings = Vec::new();
    let (mut dead, mut failed) = (Vec::new(), None);
    for host in named {
        if let Said::Values(_) = book.alias(host) {
            findings.push(finding(
                ("mx_alias", Level::Warn),
                format!("{host} is a CNAME"),
                "Name the host itself in the MX: some hosts do not follow an alias there (RFC 2181 §10.3).",
            ));
        }
        match book.addresses(host) {
            Said::Values(_) => {}
            Said::Failed(why) => failed = Some(why),
            Said::Nothing | Said::NoSuchName => dead.push(*host),
        }
    }
    if !dead.is_empty() {
        let level = match dead.len() == named.len() {
            true => Level::Error,
            false => Level::Warn,
        };
        findings.push(finding(
            ("mx_dangling", level),
            format!("{} without an address", shown_all(dead.iter().copied())),
            "Give the hosts addresses, or take them out of the MX.",
        ));
    }
    if let Some(why) = failed {
        findings.push(unknown("mx_unknown", about.as_str(), wanted, &why));
    }
    if findings.is_empty() {
        findings.push(finding(
            ("mx_ok", Level::Ok),
            shown_all(named.iter().copied()),
            "",
        ));
    }
    findings
}

const HOSTS_JUDGED: usize = 10;
