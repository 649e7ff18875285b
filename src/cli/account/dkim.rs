//! `posthaste dkim`: keys that sign. Asks the running daemon only, as `domain` does.

use std::path::PathBuf;

use clap::Subcommand;
use hyper::Method;

use super::super::client::percent;
use super::super::output::{self, Row};
use super::super::queue::or_dash;
use super::domain::{print_zone, txt};
use super::{Failure, Found, Place, ask, list};
use crate::account::read_key_text;
use crate::http::wire;

#[derive(Subcommand)]
pub(in crate::cli) enum DkimCommand {
    /// List keys: of all domains and the platform's ([dkim]), or of one domain.
    ///
    /// A pending key waits for its record, an active one signs, a paused one would sign but its record is gone, a revoked one
    /// signs no more; its record is to stay until KEEP-UNTIL, since what it has signed may still be verified.
    #[command(
        after_help = "Examples:\n  posthaste dkim ls\n  posthaste dkim ls example.com --zone\n  posthaste dkim ls --json | jq -r 'select(.state == \"paused\").domain'"
    )]
    Ls {
        #[command(flatten)]
        place: Place,
        domain: Option<String>,
        /// Print the records, as pieces of zone files, of keys that are not revoked.
        #[arg(long, conflicts_with = "json")]
        zone: bool,
        #[arg(long)]
        json: bool,
    },
    /// Make the first key of an algorithm, and print its record. It signs once `domain verify` has found that.
    #[command(
        after_help = "Example:\n  posthaste dkim add example.com --algorithm ed25519\n\nNext: publish the record, then posthaste domain verify example.com"
    )]
    Add {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        #[arg(long, value_name = "rsa|ed25519")]
        algorithm: String,
        #[arg(long)]
        json: bool,
    },
    /// Bring a key that was made elsewhere. It signs once `domain verify` has found its record.
    ///
    /// PEM, mode 0600: RSA (PKCS#8 or PKCS#1, at least 1024 bits, better 2048) or Ed25519 (PKCS#8). It takes the place of a key
    /// of its algorithm that has not signed yet.
    #[command(
        after_help = "Example:\n  posthaste dkim import example.com --selector ph1 --key ph1.pem && posthaste domain verify example.com"
    )]
    Import {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        /// The name of its record, before ._domainkey.
        #[arg(long)]
        selector: String,
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Make a key that follows the one in use. That one signs until the new one's record is found.
    #[command(
        after_help = "Example:\n  posthaste dkim rotate example.com\n\nNext: publish the record; it is looked for every hour, or at once with posthaste domain verify example.com. The old record can go when dkim ls shows no KEEP-UNTIL for it."
    )]
    Rotate {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        /// [default: rsa, unless the domain has an Ed25519 key only]
        #[arg(long, value_name = "rsa|ed25519")]
        algorithm: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Take a key out of use at once, without another: a pending one is forgotten, an active one signs no more.
    #[command(after_help = "Example:\n  posthaste dkim revoke example.com 20260305081851pm")]
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        domain: String,
        selector: String,
        #[arg(long)]
        json: bool,
    },
}

impl DkimCommand {
    pub(in crate::cli) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Ls {
                place,
                domain,
                zone,
                json,
            } => {
                let keys = match &domain {
                    Some(domain) => {
                        let path = format!("{DOMAINS}/{}", percent(domain));
                        let domain: wire::Domain = ask(&place, Method::GET, &path, None::<&()>)?;
                        domain.dkim_keys
                    }
                    None => {
                        let listed: wire::Keys = ask(&place, Method::GET, KEYS, None::<&()>)?;
                        listed.keys
                    }
                };
                match zone {
                    true => print_records(&keys)?,
                    false => list(&keys, json)?,
                }
                Ok(Found::All)
            }
            Self::Add {
                place,
                domain,
                algorithm,
                json,
            } => {
                let new = wire::NewKey {
                    algorithm: Some(algorithm),
                    ..wire::NewKey::default()
                };
                made(&place, Method::POST, &key_path(&domain), Some(&new), json)
            }
            Self::Import {
                place,
                domain,
                selector,
                key,
                json,
            } => {
                let (pem, whole) = read_key_text(&key).map_err(Failure::usage)?;
                if whole.is_weak() {
                    eprintln!(
                        "posthaste: warning: the key has {} bits: verifiers may disregard less than 2048 (RFC 8301); make a new one soon: posthaste dkim rotate {domain}",
                        whole.bits
                    );
                }
                let new = wire::NewKey {
                    algorithm: None,
                    selector: Some(selector),
                    pem: Some(pem.as_str().to_owned()),
                };
                made(&place, Method::POST, &key_path(&domain), Some(&new), json)
            }
            Self::Rotate {
                place,
                domain,
                algorithm,
                json,
            } => {
                let mut path = format!("{DOMAINS}/{}/rotate-dkim", percent(&domain));
                if let Some(algorithm) = algorithm {
                    path += &format!("?algorithm={}", percent(&algorithm));
                }
                made(&place, Method::POST, &path, None::<&wire::NewKey>, json)
            }
            Self::Revoke {
                place,
                domain,
                selector,
                json,
            } => {
                let path = format!("{}/{}", key_path(&domain), percent(&selector));
                let left: wire::Domain = ask(&place, Method::DELETE, &path, None::<&()>)?;
                match json {
                    true => output::json(&left)?,
                    false => output::line(revoked(&left, &selector))?,
                }
                Ok(Found::All)
            }
        }
    }
}

fn made(
    place: &Place,
    method: Method,
    path: &str,
    body: Option<&wire::NewKey>,
    json: bool,
) -> Result<Found, Failure> {
    let domain: wire::Domain = ask(place, method, path, body)?;
    print_zone(&domain, json)?;
    Ok(Found::All)
}

fn revoked(domain: &wire::Domain, selector: &str) -> String {
    let (name, signs) = (&domain.name, domain.dkim_verified);
    let then = match signs {
        true => "another key signs",
        false => "no other key of the domain signs now",
    };
    format!("the key {selector} of {name} signs no more; {then}")
}

fn print_records(keys: &[wire::Key]) -> Result<(), Failure> {
    for key in keys.iter().filter(|key| key.state != "revoked") {
        output::line(format!(
            "; {} of {}: {}",
            key.algorithm, key.domain, key.state
        ))?;
        output::line(txt(&key.record.name, &key.record.text))?;
    }
    Ok(())
}

fn key_path(domain: &str) -> String {
    format!("{DOMAINS}/{}/dkim", percent(domain))
}

impl Row for wire::Key {
    const COLUMNS: &'static [&'static str] = &[
        "DOMAIN",
        "SELECTOR",
        "ALGORITHM",
        ">BITS",
        "STATE",
        "OF",
        "CHECKED",
        "KEEP-UNTIL",
        "SEEN",
    ];

    fn cells(&self) -> Vec<String> {
        let of = match (self.platform, self.declared) {
            (true, _) => "platform",
            (false, true) => "configuration",
            (false, false) => "command",
        };
        vec![
            self.domain.clone(),
            self.selector.clone(),
            self.algorithm.clone(),
            self.bits.to_string(),
            self.state.clone(),
            of.into(),
            or_dash(self.checked_at.as_ref()),
            or_dash(self.keep_published_until.as_ref()),
            or_dash(self.seen.as_ref()),
        ]
    }
}

const DOMAINS: &str = "/admin/v1/domains";
const KEYS: &str = "/admin/v1/dkim";
