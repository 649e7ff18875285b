//! An address that mail leaves from: its names, and the lists that it may stand on.

use std::net::IpAddr;

use super::book::{Book, Kind, Said};
use super::domain::SourceAddress;
use super::names::{self, is_generic, is_private};
use super::spf::{self, Client, Outcome, Trouble};
use super::{Finding, Level, envelope, shown_all, unknown};

/// What is asked about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceWanted {
    pub at: SourceAddress,
    /// DNS blocklists to ask, by their zones.
    pub zones: Vec<String>,
}

pub fn judge_source(book: &Book, wanted: &SourceWanted) -> Vec<Finding> {
    let SourceAddress { address, ehlo, .. } = &wanted.at;
    let address = *address;
    if is_private(address) {
        return vec![Finding::new(
            ("address_private", Level::Warn),
            address.to_string(),
            "a public address",
            "one that the world does not see",
            "Give the source the public_ip that remote hosts see, by address translation or by its proxy, so that it can be judged; nothing to do if this node only talks to hosts of yours.",
        )];
    }
    book.expect(&names::reverse(address), Kind::Ptr);
    let _ = book.addresses_like(ehlo, address);
    let mut findings = pointer(book, address, ehlo);
    findings.extend(proxied(&wanted.at));
    findings.push(greeting(book, address, ehlo));
    findings.push(helo_spf(book, address, ehlo));
    findings.extend(listings(book, address, &wanted.zones));
    findings
}

/// What is judged may not be what remote hosts see.
fn proxied(at: &SourceAddress) -> Option<Finding> {
    let proxy = at.chosen_by.as_ref()?;
    Some(Finding::new(
        ("address_by_proxy", Level::Ok),
        at.address.to_string(),
        "the address that the proxy connects from",
        format!("it is taken for that; {proxy} chooses by itself"),
        "Give the source the public_ip that the proxy connects from, be it the same: what else is said here is of this address.",
    ))
}

/// Forward-confirmed reverse DNS.
fn pointer(book: &Book, address: IpAddr, ehlo: &str) -> Vec<Finding> {
    let about = format!("PTR {address}");
    let finding = |what, found: String, advice: String| {
        Finding::new(what, about.as_str(), ehlo, found, advice)
    };
    let mut pointers = match book.pointers(address) {
        Said::Values(pointers) => pointers,
        Said::Failed(why) => return vec![unknown("ptr_unknown", about, ehlo, &why)],
        Said::Nothing | Said::NoSuchName => {
            return vec![finding(
                ("ptr_missing", Level::Error),
                "nothing".into(),
                format!(
                    "Have the provider of {address} set its PTR to {ehlo}: big hosts refuse an address without a name."
                ),
            )];
        }
    };
    pointers.truncate(POINTERS_JUDGED);
    for name in &pointers {
        let _ = book.addresses_like(name, address);
    }
    let (mut confirmed, mut failed) = (Vec::new(), None);
    for name in &pointers {
        match book.addresses_like(name, address) {
            Said::Values(addresses) if addresses.contains(&address) => {
                confirmed.push(name.as_str())
            }
            Said::Failed(why) => failed = Some(why),
            _ => {}
        }
    }
    let found = shown_all(pointers.iter().map(String::as_str));
    let mut findings = Vec::new();
    match (confirmed.is_empty(), failed) {
        (true, Some(why)) => return vec![unknown("ptr_unknown", about.as_str(), ehlo, &why)],
        (true, None) => {
            return vec![finding(
                ("ptr_not_confirmed", Level::Error),
                format!("{found}, which does not lead back to {address}"),
                format!(
                    "Give that name the address {address}, or set the PTR to {ehlo}: hosts believe a name only if it leads back."
                ),
            )];
        }
        (false, _) => {}
    }
    if !confirmed.iter().any(|name| name.eq_ignore_ascii_case(ehlo)) {
        findings.push(finding(
            ("ptr_other_name", Level::Warn),
            found.clone(),
            format!(
                "Set the PTR to {ehlo}, or the source's `ehlo` to {}: the two should be one name.",
                confirmed[0]
            ),
        ));
    }
    if confirmed.iter().all(|name| is_generic(name, address)) {
        findings.push(finding(
            ("ptr_generic", Level::Warn),
            found.clone(),
            "Have the PTR set to a name of yours: this looks like one of a customer's line, which many hosts refuse.".into(),
        ));
    }
    if pointers.len() > 1 {
        findings.push(finding(
            ("ptr_several", Level::Warn),
            found.clone(),
            format!("Leave {ehlo} alone there: hosts look at one of several names, and not always the same."),
        ));
    }
    if findings.is_empty() {
        findings.push(finding(("ptr_ok", Level::Ok), found, String::new()));
    }
    findings
}

/// The EHLO name.
fn greeting(book: &Book, address: IpAddr, ehlo: &str) -> Finding {
    let kind = if address.is_ipv4() { "A" } else { "AAAA" };
    let about = format!("{kind} {ehlo}");
    let wanted = address.to_string();
    let finding = |what, found: String, advice: String| {
        Finding::new(what, about.as_str(), wanted.as_str(), found, advice)
    };
    // RFC 5321 §4.1.4 allows an address literal; hosts that matter refuse it.
    if names::askable(ehlo).is_none_or(|name| !name.contains('.')) {
        return finding(
            ("ehlo_not_qualified", Level::Error),
            format!("`{ehlo}` is no full name"),
            "Set the source's `ehlo` to a name of yours that leads to its address.".into(),
        );
    }
    match book.addresses_like(ehlo, address) {
        Said::Values(addresses) if addresses.contains(&address) => {
            finding(("ehlo_ok", Level::Ok), wanted.clone(), String::new())
        }
        Said::Values(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            finding(
                ("ehlo_elsewhere", Level::Error),
                shown_all(addresses.iter().map(String::as_str)),
                format!("Add {address} to the addresses of {ehlo}, or change the source's `ehlo`."),
            )
        }
        Said::Failed(why) => unknown("ehlo_unknown", about, wanted, &why),
        Said::Nothing | Said::NoSuchName => finding(
            ("ehlo_missing", Level::Error),
            "nothing".into(),
            format!("Publish {ehlo} with the address {address}."),
        ),
    }
}

/// RFC 7208 §2.3: the EHLO name is judged by itself, and stands for the domain of a null reverse-path.
fn helo_spf(book: &Book, address: IpAddr, ehlo: &str) -> Finding {
    let about = format!("TXT {ehlo}");
    let wanted = "v=spf1 a -all, or nothing";
    let verdict = spf::evaluate(
        book,
        &Client {
            ip: address,
            helo: ehlo,
            local_part: "postmaster",
            domain: ehlo,
        },
    );
    let finding = |what, advice: String| {
        let found = match &verdict.matched {
            Some(by) => format!("{}, by {by}", verdict.outcome.as_str()),
            None => verdict.outcome.as_str().to_owned(),
        };
        Finding::new(what, about.as_str(), wanted, found, advice)
    };
    match (verdict.outcome, &verdict.trouble) {
        (Outcome::Pass, _) => finding(("helo_spf_ok", Level::Ok), String::new()),
        (Outcome::None, _) => finding(("helo_spf_none", Level::Ok), String::new()),
        (Outcome::TempError, Some(Trouble::Dns { why })) => {
            unknown("helo_spf_unknown", about, wanted, why)
        }
        (Outcome::PermError | Outcome::TempError, Some(trouble)) => finding(
            ("helo_spf_broken", Level::Error),
            envelope::said_of(trouble).1,
        ),
        (outcome, _) => {
            let level = match outcome {
                Outcome::Neutral => Level::Warn,
                _ => Level::Error,
            };
            finding(
                ("helo_spf_fails", level),
                format!("Permit {address} in the SPF record of {ehlo}, or take the record away."),
            )
        }
    }
}

/// RFC 5782.
fn listings(book: &Book, address: IpAddr, zones: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut clean = Vec::new();
    let question = |zone: &str| format!("{}.{zone}", names::reversed(address));
    for zone in zones {
        book.expect(&question(zone), Kind::A);
    }
    for zone in zones {
        let name = question(zone);
        let about = format!("{address} at {zone}");
        let wanted = "not listed";
        let answers = match v4(book, &name) {
            Said::Nothing | Said::NoSuchName => {
                clean.push(zone.as_str());
                continue;
            }
            Said::Failed(why) => {
                findings.push(unknown("dnsbl_unknown", about, wanted, &why));
                continue;
            }
            Said::Values(answers) => answers,
        };
        let codes: Vec<String> = answers.iter().map(IpAddr::to_string).collect();
        let codes = shown_all(codes.iter().map(String::as_str));
        let is_code = |prefix: &[u8]| {
            answers
                .iter()
                .any(|a| matches!(a, IpAddr::V4(v4) if v4.octets().starts_with(prefix)))
        };
        // 127.255.255.0/24 is how lists say that they do not answer this resolver; it is said of no address.
        if is_code(&[127, 255, 255]) {
            findings.push(Finding::new(
                ("dnsbl_refused", Level::Unknown),
                about,
                wanted,
                format!("{codes}: the list refuses to answer"),
                "Ask it by a resolver of your own, or with the key that the list gives out: it does not answer public or busy resolvers.",
            ));
            continue;
        }
        // RFC 5782 §5: 127.0.0.1 is on no list that works.
        let test = format!("1.0.0.127.{zone}");
        let lists_everybody = matches!(v4(book, &test), Said::Values(_));
        if !is_code(&[127]) || lists_everybody {
            findings.push(Finding::new(
                ("dnsbl_broken", Level::Unknown),
                about,
                wanted,
                format!(
                    "{codes}: an answer that lists do not give, or that it gives for every address"
                ),
                format!("Take {zone} out of [dnsbl] zones: it is no list, or no longer one."),
            ));
            continue;
        }
        let reason = match book.texts(&name) {
            Said::Values(texts) => shown_all(texts.iter().map(String::as_str)),
            _ => "no reason given".to_owned(),
        };
        findings.push(Finding::new(
            ("dnsbl_listed", Level::Error),
            about,
            wanted,
            format!("{codes}: {reason}"),
            "Find what the list saw, stop it, and ask the list to take the address off; empty the source until then: posthaste source drain.",
        ));
    }
    if !clean.is_empty() {
        findings.push(Finding::new(
            ("dnsbl_ok", Level::Ok),
            address.to_string(),
            "not listed",
            format!("not at {}", shown_all(clean)),
            "",
        ));
    }
    findings
}

fn v4(book: &Book, name: &str) -> Said<IpAddr> {
    book.addresses_like(name, IpAddr::from([0, 0, 0, 0]))
}

const POINTERS_JUDGED: usize = 10;
