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
    /// Make a new DKIM key. The old one stays in use until the new one's record is found.
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
                json,
            } => {
                let default = || format!("pm-bounces.{}", name.trim_end_matches('.'));
                let new = DomainPatch {
                    return_path: Some(return_path.map_or_else(default, none_is_empty)),
                    name: Some(name),
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
                match zone {
                    true => print_zone(&domain, false)?,
                    false => show(&domain, json)?,
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
                    name: None,
                    return_path: Some(none_is_empty(return_path)),
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

fn print_zone(domain: &wire::Domain, json: bool) -> Result<(), Failure> {
    match json {
        true => output::json(domain)?,
        false => output::line(zone(domain).trim_end())?,
    }
    Ok(())
}

fn verified(domain: &wire::Domain, json: bool) -> Result<Found, Failure> {
    let return_path_missing = domain.return_path.is_some() && !domain.return_path_verified;
    let waits = domain.dkim_pending.is_some();
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
    let looked_for = domain.dkim_pending.as_ref().or(domain.dkim_active.as_ref());
    lines.push(match looked_for {
        None if domain.declared => {
            format!("{name} is declared in the configuration file and counts as verified")
        }
        Some(record) if domain.dkim_pending.is_some() || !domain.dkim_verified => format!(
            "DKIM: the record at {} is not there yet, or is another; posthaste domain show {name} --zone prints it",
            record.name
        ),
        _ => "DKIM: found".to_owned(),
    });
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
    if domain.declared {
        add("; The configuration file declares it; there is nothing to publish.".into());
        return text;
    }
    let keys = [
        (
            &domain.dkim_pending,
            "; DKIM: shows that the domain is yours. From may name it once this is found.",
        ),
        (&domain.dkim_active, "; DKIM: the key in use."),
    ];
    for (record, about) in keys {
        if let Some(record) = record {
            add(about.into());
            add(txt(&record.name, &record.text));
        }
    }
    match &domain.return_path {
        Some(host) => {
            add("; Return-Path: where bounces come back to.".into());
            if !domain.return_path_target.contains('.') {
                add("; The node's name is no full one: set [node] hostname, or [account] return_path, first.".into());
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

/// One TXT record. A string in it has at most 255 octets (RFC 1035 §3.3), and ours are ASCII without quotes.
fn txt(name: &str, text: &str) -> String {
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
