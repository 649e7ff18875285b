//! `posthaste domain`. Asks the running daemon only: what it needs, the DNS and the names of the node, a store alone lacks.

use clap::Subcommand;
use hyper::Method;

use super::super::client::percent;
use super::super::output::{self, Row};
use super::{Failure, Found, Place, ask, done, list, order, show};
use crate::account::DomainPatch;
use crate::http::wire;

#[derive(Subcommand)]
pub(in crate::cli) enum DomainCommand {
    /// Add a domain of From, and print the DNS records to publish for it.
    ///
    /// Everything that is printed is a piece of a zone file; what is advice stands behind `;`. From may name the domain
    /// once `domain verify` has found the DKIM record. Sub-domains are domains of their own.
    #[command(
        after_help = "Examples:\n  posthaste domain add example.com\n  posthaste domain add example.com --return-path bounces.example.com >> zones/example.com\n  posthaste domain add example.com --json | jq -r .dkim_pending.text\n\nNext: publish the records, then posthaste domain verify example.com"
    )]
    Add {
        #[command(flatten)]
        place: Place,
        name: String,
        /// The sub-domain that bounces come back to; none: no such domain. [default: pm-bounces below the name]
        #[arg(long, value_name = "NAME|none")]
        return_path: Option<String>,
        /// Make an Ed25519 key besides the RSA one: two records to publish. [default: as [dkim] ed25519 says]
        #[arg(long)]
        ed25519: bool,
        #[arg(long)]
        json: bool,
    },
    /// List the domains, those of the configuration file among them.
    #[command(
        after_help = "Examples:\n  posthaste domain ls\n  posthaste domain ls --json | jq -r 'select(.may_send|not).name'"
    )]
    Ls {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Show one domain, or with --zone the records to publish for it.
    #[command(
        after_help = "Examples:\n  posthaste domain show example.com\n  posthaste domain show example.com --zone"
    )]
    Show {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        /// As `domain add` has printed it.
        #[arg(long, conflicts_with = "json")]
        zone: bool,
        #[arg(long)]
        json: bool,
    },
    /// Look for the records in the DNS. Exit code 1: something is not there yet.
    #[command(
        after_help = "Example:\n  until posthaste domain verify example.com; do sleep 60; done"
    )]
    Verify {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        #[arg(long)]
        json: bool,
    },
    /// Ask the DNS for everything that mail of a domain needs: DKIM, Return-Path, SPF, DMARC, MX, MTA-STS, TLS reports.
    ///
    /// Says what is wanted, what is there, and what to do. Exit code 1: something is wrong.
    #[command(
        after_help = "Examples:\n  posthaste domain check example.com\n  posthaste domain check example.com --json | jq -r 'select(.level == \"error\").advice'"
    )]
    Check {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        #[arg(long)]
        json: bool,
    },
    /// Make a new DKIM key, as `dkim rotate` does.
    #[command(
        after_help = "Example:\n  posthaste domain rotate-dkim example.com\n\nNext: publish the record, then posthaste domain verify example.com; the old record can go when `domain show` says dkim_revoked_removable."
    )]
    RotateDkim {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        #[arg(long)]
        json: bool,
    },
    /// Change the sub-domain that bounces come back to.
    #[command(
        after_help = "Examples:\n  posthaste domain edit example.com --return-path bounces.example.com\n  posthaste domain edit example.com --return-path none"
    )]
    Edit {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        #[arg(long, value_name = "NAME|none")]
        return_path: String,
        #[arg(long)]
        json: bool,
    },
    /// Delete a domain: From may not name it from the next message on.
    #[command(after_help = "Example:\n  posthaste domain rm example.com")]
    Rm {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        #[arg(long)]
        json: bool,
    },
}

impl DomainCommand {
    pub(in crate::cli) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Add {
                place,
                name,
                return_path,
                ed25519,
                json,
            } => {
                let default = || format!("pm-bounces.{}", name.trim_end_matches('.'));
                let new = DomainPatch {
                    return_path: Some(return_path.map_or_else(default, none_is_empty)),
                    name: Some(name),
                    ed25519: ed25519.then_some(true),
                };
                let made: wire::Domain = ask(&place, Method::POST, DOMAINS, Some(&new))?;
                print_zone(&made, json)?;
            }
            Self::Ls { place, json } => {
                let listed: wire::Domains = ask(&place, Method::GET, DOMAINS, None::<&()>)?;
                list(&listed.domains, json)?;
            }
            Self::Show {
                place,
                domain,
                zone,
                json,
            } => {
                let domain = ask(&place, Method::GET, &path(&domain), None::<&()>)?;
                match (zone, json) {
                    (true, _) => print_zone(&domain, false)?,
                    (false, true) => output::json(&domain)?,
                    (false, false) => show_with_keys(&domain)?,
                }
            }
            Self::Verify {
                place,
                domain,
                json,
            } => {
                let path = format!("{}/verify", path(&domain));
                let domain: wire::Domain = ask(&place, Method::POST, &path, None::<&()>)?;
                return verified(&domain, json);
            }
            Self::Check {
                place,
                domain,
                json,
            } => {
                let path = format!("{}/check", path(&domain));
                let checked: wire::Check = ask(&place, Method::POST, &path, None::<&()>)?;
                return super::super::check::show(&checked, json);
            }
            Self::RotateDkim {
                place,
                domain,
                json,
            } => {
                let path = format!("{}/rotate-dkim", path(&domain));
                let domain: wire::Domain = ask(&place, Method::POST, &path, None::<&()>)?;
                print_zone(&domain, json)?;
            }
            Self::Edit {
                place,
                domain,
                return_path,
                json,
            } => {
                let patch = DomainPatch {
                    return_path: Some(none_is_empty(return_path)),
                    ..DomainPatch::default()
                };
                let edited: wire::Domain =
                    ask(&place, Method::PATCH, &path(&domain), Some(&patch))?;
                show(&edited, json)?;
            }
            Self::Rm {
                place,
                domain,
                json,
            } => {
                order(&place, Method::DELETE, &path(&domain), None::<&()>)?;
                done(("deleted", &domain), "is deleted", "domain", json)?;
            }
        }
        Ok(Found::All)
    }
}

fn path(domain: &str) -> String {
    format!("{DOMAINS}/{}", percent(domain))
}

fn none_is_empty(text: String) -> String {
    match text.as_str() {
        "none" => String::new(),
        _ => text,
    }
}

pub(super) fn print_zone(domain: &wire::Domain, json: bool) -> Result<(), Failure> {
    match json {
        true => output::json(domain)?,
        false => output::line(zone(domain).trim_end())?,
    }
    Ok(())
}

fn verified(domain: &wire::Domain, json: bool) -> Result<Found, Failure> {
    let return_path_missing = domain.return_path.is_some() && !domain.return_path_verified;
    let waits = |key: &wire::Key| matches!(&*key.state, "pending" | "paused");
    let waits = domain.dkim_keys.iter().any(waits);
    let complete = domain.dkim_verified && !waits && !return_path_missing;
    if json {
        output::json(domain)?;
    } else {
        for line in findings(domain) {
            output::line(line)?;
        }
    }
    Ok(match complete {
        true => Found::All,
        false => Found::Finding,
    })
}

fn findings(domain: &wire::Domain) -> Vec<String> {
    let name = &domain.name;
    let mut lines = Vec::new();
    if domain.declared {
        lines.push(format!(
            "{name} is declared in the configuration file and counts as verified"
        ));
    }
    for key in &domain.dkim_keys {
        let (record, algorithm) = (&key.record.name, &key.algorithm);
        let seen = key.seen.as_deref().unwrap_or("the record was not found");
        match &*key.state {
            "active" => lines.push(format!("DKIM: found, {algorithm} at {record}")),
            "pending" => lines.push(format!(
                "DKIM: the record at {record} is not there yet, or is another ({seen}); posthaste domain show {name} --zone prints it"
            )),
            "paused" => lines.push(format!(
                "DKIM: {seen} at {record}, so that key does not sign; posthaste domain show {name} --zone prints the record"
            )),
            _ => {}
        }
    }
    match &domain.return_path {
        Some(host) if domain.return_path_verified => {
            lines.push(format!("Return-Path: {host} leads here"));
        }
        Some(host) => lines.push(format!(
            "Return-Path: {host} is no CNAME of {}, or not yet",
            domain.return_path_target
        )),
        None => {}
    }
    lines.push(match domain.may_send {
        true => format!("From may be any address at {name}"),
        false => format!("From may not name {name} yet"),
    });
    lines
}

/// The records of a domain as a piece of a zone file (RFC 1035 §5.1).
fn zone(domain: &wire::Domain) -> String {
    let name = &domain.name;
    let mut text = format!("; Records of {name}\n");
    let mut add = |more: String| {
        text.push_str(&more);
        text.push('\n');
    };
    for key in &domain.dkim_keys {
        let about = match &*key.state {
            "pending" if domain.may_send => "; DKIM: signs once this is found.",
            "pending" => {
                "; DKIM: shows that the domain is yours. From may name it once this is found."
            }
            "active" => "; DKIM: the key in use.",
            "paused" => "; DKIM: a key that would sign, but its record is gone.",
            // Of a revoked one nothing is to be published anew.
            _ => continue,
        };
        add(about.into());
        add(txt(&key.record.name, &key.record.text));
    }
    if domain.declared {
        let declared =
            "; The configuration file declares the domain; nothing else is to be published.";
        add(declared.into());
        return text;
    }
    match &domain.return_path {
        Some(host) => {
            add("; Return-Path: where bounces come back to.".into());
            if !domain.return_path_target.contains('.') {
                add("; The node's name is no full one: set [node] hostname, or [bounce] domain, first.".into());
            }
            add(format!("{host}. IN CNAME {}.", domain.return_path_target));
        }
        None => add(format!(
            "; Return-Path: none; posthaste domain edit {name} --return-path pm-bounces.{name}"
        )),
    }
    add("; DMARC: publish it if the domain has no such record; tighten p= when the reports show only mail of yours.".into());
    add(format!(
        "; _dmarc.{name}. IN TXT \"v=DMARC1; p=none; rua=mailto:postmaster@{name}\""
    ));
    add(format!(
        "; SPF: nothing is needed for From. It judges the envelope's sender (MAIL FROM): if your programs use {name} there, its\n; SPF record has to allow the addresses of this node's egress sources."
    ));
    add(format!("; Next: posthaste domain verify {name}"));
    text
}

/// Key and value per line, then the keys one by one.
fn show_with_keys(domain: &wire::Domain) -> Result<(), Failure> {
    let unwritten = |e| Failure::disk(format!("the output cannot be written: {e}"));
    let mut value = serde_json::to_value(domain).map_err(unwritten)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("dkim_keys");
    }
    show(&value, false)?;
    if !domain.dkim_keys.is_empty() {
        output::line("")?;
        list(&domain.dkim_keys, false)?;
    }
    Ok(())
}

/// One TXT record. A string in it has at most 255 octets (RFC 1035 §3.3), and ours are ASCII without quotes.
pub(super) fn txt(name: &str, text: &str) -> String {
    let strings = text.as_bytes().chunks(255);
    let quoted: Vec<String> = strings
        .map(|part| format!("\"{}\"", String::from_utf8_lossy(part)))
        .collect();
    format!("{name}. IN TXT (\n    {} )", quoted.join("\n    "))
}

impl Row for wire::Domain {
    const COLUMNS: &'static [&'static str] = &[
        ">ID",
        "NAME",
        "MAY-SEND",
        "DKIM",
        "RETURN-PATH",
        "CHECK",
        "FROM",
        "CREATED",
    ];

    fn cells(&self) -> Vec<String> {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let return_path = match &self.return_path {
            None => "-",
            Some(_) if self.return_path_verified => "verified",
            Some(_) => "pending",
        };
        let is = |level: &str| {
            let lines = self.findings.iter().flatten();
            lines.into_iter().any(|line| line.starts_with(level))
        };
        let check = match () {
            () if self.findings.is_none() => "-",
            () if is("error") => "error",
            () if is("warn") => "warn",
            () => "ok",
        };
        let from = if self.declared {
            "configuration"
        } else {
            "command"
        };
        vec![
            self.id.to_string(),
            self.name.clone(),
            yes(self.may_send),
            self.dkim_status.clone(),
            return_path.into(),
            check.into(),
            from.into(),
            self.created_at.clone(),
        ]
    }
}

const DOMAINS: &str = "/admin/v1/domains";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_file_has_strings_of_255_octets_and_says_the_rest_in_comments() {
        let domain = wire::Domain {
            id: 1,
            name: "example.com".into(),
            declared: false,
            may_send: false,
            verified_at: None,
            dkim_verified: false,
            dkim_status: "pending".into(),
            dkim_pending: Some(wire::Record {
                name: "x._domainkey.example.com".into(),
                text: format!("k=rsa; p={}", "A".repeat(392)),
            }),
            dkim_active: None,
            dkim_revoked: None,
            dkim_revoked_removable: false,
            dkim_keys: vec![wire::Key {
                domain: "example.com".into(),
                platform: false,
                selector: "x".into(),
                algorithm: "rsa".into(),
                bits: 2048,
                weak: false,
                state: "pending".into(),
                declared: false,
                record: wire::Record {
                    name: "x._domainkey.example.com".into(),
                    text: format!("k=rsa; p={}", "A".repeat(392)),
                },
                since: None,
                found: None,
                checked_at: None,
                seen: None,
                keep_published_until: None,
            }],
            return_path: Some("pm-bounces.example.com".into()),
            return_path_verified: false,
            spf_verified: false,
            findings: None,
            return_path_target: "mta1.example.net".into(),
            created_at: String::new(),
        };
        let text = zone(&domain);
        let records: Vec<&str> = text.lines().filter(|l| !l.starts_with(';')).collect();
        let first = format!("    \"k=rsa; p={}\"", "A".repeat(246));
        let second = format!("    \"{}\" )", "A".repeat(146));
        assert_eq!(
            records,
            [
                "x._domainkey.example.com. IN TXT (",
                &first,
                &second,
                "pm-bounces.example.com. IN CNAME mta1.example.net."
            ]
        );
        for word in ["DMARC", "SPF", "posthaste domain verify example.com"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(findings(&domain).iter().any(|l| l.contains("may not")));
    }
}
