//! The domain of the reverse-path: that bounces come back by it, and that SPF permits our addresses for it.

use std::net::IpAddr;

use super::book::{Book, Kind, Said};
use super::domain::{DomainWanted, ReturnPathWanted, SourceAddress};
use super::names::is_private;
use super::spf::{self, Client, Outcome, Survey, Trouble, Verdict};
use super::{Finding, Level, shown_all, unknown};

/// Whether bounces come back. Of a domain without a Return-Path domain: that there is none.
pub(super) fn return_path(book: &Book, wanted: &DomainWanted) -> Vec<Finding> {
    let target = wanted.bounce_host.as_str();
    let Some(own) = &wanted.return_path else {
        let name = &wanted.name;
        let advice = format!(
            "Have bounces come back by a name of this domain, so that SPF counts for DMARC: posthaste domain edit {name} --return-path pm-bounces.{name}"
        );
        let level = match wanted.bounce_default {
            Some(_) => Level::Ok,
            None => Level::Warn,
        };
        return vec![Finding::new(
            ("return_path_none", level),
            format!("CNAME below {name}"),
            "a Return-Path domain",
            "none is set",
            advice,
        )];
    };
    book.expect(target, Kind::Mx);
    book.expect(&own.host, Kind::Mx);
    let mut findings = vec![alias(book, own, target, wanted.bounce_default.as_deref())];
    if findings[0].level == Level::Ok {
        if !own.verified {
            findings.push(Finding::new(
                ("return_path_unverified", Level::Warn),
                format!("CNAME {}", own.host),
                "found by `domain verify`",
                "there, and not used yet",
                format!("Have it used: posthaste domain verify {}", wanted.name),
            ));
        }
        findings.extend(dead_end(book, target));
    }
    findings
}

fn alias(book: &Book, own: &ReturnPathWanted, target: &str, fallback: Option<&str>) -> Finding {
    let about = format!("CNAME {}", own.host);
    let finding = |what, found: String, advice: String| {
        Finding::new(what, about.as_str(), target, found, advice)
    };
    let effect = match own.verified {
        true => "bounces go elsewhere now, and nothing learns of them".to_owned(),
        false => format!(
            "until then its mail leaves with {}, so that SPF does not count for its DMARC",
            fallback.map_or(
                "the reverse-path that it came with".to_owned(),
                |domain| format!("reverse-paths of {domain}")
            )
        ),
    };
    match book.alias(&own.host) {
        Said::Values(targets) if targets.iter().any(|t| t == target) => finding(
            ("return_path_ok", Level::Ok),
            targets.join(", "),
            String::new(),
        ),
        Said::Values(targets) => finding(
            ("return_path_elsewhere", Level::Error),
            targets.join(", "),
            format!("Let the CNAME lead to {target}: {effect}."),
        ),
        Said::Failed(why) => unknown("return_path_unknown", about, target, &why),
        Said::Nothing | Said::NoSuchName => match book.exchanges(&own.host) {
            Said::Failed(why) => unknown("return_path_unknown", about, target, &why),
            Said::Values(hosts) => finding(
                ("return_path_no_alias", Level::Error),
                shown_all(hosts.iter().map(|(_, host)| host.as_str())),
                format!(
                    "Replace the MX by a CNAME to {target}: only by that can this node tell that the name is given to it, and SPF follow."
                ),
            ),
            Said::Nothing | Said::NoSuchName => finding(
                ("return_path_missing", Level::Error),
                "nothing".into(),
                format!("Publish {} as a CNAME to {target}.", own.host),
            ),
        },
    }
}

/// Whether our own end of the CNAME takes mail.
fn dead_end(book: &Book, target: &str) -> Option<Finding> {
    let about = format!("MX {target}");
    let wanted = "a host of this node's";
    let said = match book.exchanges(target) {
        Said::Values(hosts) if hosts.iter().any(|(_, host)| !host.is_empty()) => return None,
        Said::Values(_) => "a null MX".to_owned(),
        Said::Failed(why) => return Some(unknown("return_path_unknown", about, wanted, &why)),
        Said::Nothing | Said::NoSuchName => match book.addresses(target) {
            Said::Values(_) => return None,
            Said::Failed(why) => return Some(unknown("return_path_unknown", about, wanted, &why)),
            Said::Nothing | Said::NoSuchName => "neither an MX nor an address".to_owned(),
        },
    };
    Some(Finding::new(
        ("return_path_dead_end", Level::Error),
        about,
        wanted,
        said,
        format!("Give {target} an MX that leads to this node, so that bounces can come back."),
    ))
}

/// SPF for a domain of reverse-paths, whose record is to stand at `publish_at`, and whether every source passes; `None`: that is not
/// known.
pub(super) fn spf(
    book: &Book,
    domain: &str,
    publish_at: &str,
    sources: &[SourceAddress],
) -> (Vec<Finding>, Option<bool>) {
    let about = format!("TXT {domain}");
    let public: Vec<&SourceAddress> = sources.iter().filter(|s| !is_private(s.address)).collect();
    let wanted = wanted_record(&public);
    let record = match book.texts(domain) {
        Said::Failed(why) => return (vec![unknown("spf_unknown", about, wanted, &why)], None),
        said => {
            let texts = said.values().unwrap_or_default();
            let records: Vec<String> = texts.into_iter().filter(|t| spf::is_record(t)).collect();
            records.join(" | ")
        }
    };
    if record.is_empty() {
        let advice = match publish_at == domain {
            true => format!("Publish {wanted} at {domain}."),
            false => format!("Publish {wanted} at {publish_at}, whose CNAME {domain} is to be."),
        };
        let missing = Finding::new(
            ("spf_missing", Level::Error),
            about,
            wanted,
            "nothing",
            advice,
        );
        return (vec![missing], Some(false));
    }
    let client = |source: &SourceAddress| (source.address, source.ehlo.clone());
    // Whom nobody would name: only what is wrong for everybody shows.
    let stranger = (
        IpAddr::from([192, 0, 2, 254]),
        "stranger.invalid".to_owned(),
    );
    let clients: Vec<(IpAddr, String)> = match public.is_empty() {
        true => vec![stranger.clone()],
        false => public.iter().map(|s| client(s)).collect(),
    };
    let verdicts: Vec<Verdict> = clients
        .iter()
        .map(|(ip, helo)| spf::evaluate(book, &client_of(*ip, helo, domain)))
        .collect();
    let mut findings = Vec::new();
    let told = |id_and_level, wanted: &str, found: String, advice: String| {
        Finding::new(id_and_level, about.as_str(), wanted, found, advice)
    };
    let broken = verdicts.iter().find(|v| v.outcome == Outcome::PermError);
    let undecided = verdicts.iter().find(|v| v.outcome == Outcome::TempError);
    if let Some(trouble) = broken.and_then(|v| v.trouble.as_ref()) {
        let (id, advice) = said_of(trouble);
        findings.push(told((id, Level::Error), &wanted, record.clone(), advice));
        return (findings, Some(false));
    }
    if let Some(Trouble::Dns { why }) = undecided.and_then(|v| v.trouble.as_ref()) {
        return (vec![unknown("spf_unknown", about, wanted, why)], None);
    }
    let mut passes = true;
    for (source, verdict) in public.iter().zip(&verdicts) {
        let (id, level) = match verdict.outcome {
            Outcome::Pass => continue,
            Outcome::Fail => ("spf_fail", Level::Error),
            Outcome::SoftFail => ("spf_softfail", Level::Error),
            _ => ("spf_neutral", Level::Error),
        };
        passes = false;
        let by = verdict.matched.as_deref().unwrap_or("the record's end");
        let address = source.address;
        findings.push(told(
            (id, level),
            &format!("pass for {address} ({})", source.source),
            format!("{}, by {by}: {record}", verdict.outcome.as_str()),
            format!(
                "Permit it: add {} to the record before what matches now.",
                term(address)
            ),
        ));
    }
    let (ip, helo) = &stranger;
    match spf::survey(book, &client_of(*ip, helo, domain)) {
        Ok(survey) => findings.extend(advised(&about, &record, &survey)),
        Err(Trouble::Dns { .. }) => {}
        // Ours are permitted before it is reached.
        Err(trouble) => {
            let (id, advice) = said_of(&trouble);
            findings.push(told((id, Level::Warn), &wanted, record.clone(), advice));
        }
    }
    if findings.is_empty() {
        let found = match public.is_empty() {
            true => format!("{record} (no source has a public address that could be judged)"),
            false => record,
        };
        findings.push(told(("spf_ok", Level::Ok), &wanted, found, String::new()));
    }
    (findings, (!public.is_empty()).then_some(passes))
}

/// Sources of which nobody knows how remote hosts see them. Where all are such, the node may only talk to hosts of its owner's.
pub(super) fn not_judged(domain: &str, sources: &[SourceAddress]) -> Option<Finding> {
    let private = sources.iter().filter(|s| is_private(s.address));
    let private: Vec<String> = private
        .map(|s| format!("{} ({})", s.source, s.address))
        .collect();
    let level = match private.len() == sources.len() {
        true => Level::Ok,
        false => Level::Warn,
    };
    (!private.is_empty()).then(|| {
        Finding::new(
            ("spf_not_judged", level),
            format!("SPF {domain}"),
            "the address that remote hosts see of every source",
            shown_all(private.iter().map(String::as_str)),
            "Give these sources the public_ip that remote hosts see, so that SPF can be judged for them; nothing to do if they only talk to hosts of yours.",
        )
    })
}

fn client_of<'a>(ip: IpAddr, helo: &'a str, domain: &'a str) -> Client<'a> {
    Client {
        ip,
        helo,
        local_part: "bounce",
        domain,
    }
}

/// What is wrong with a record, whoever sends.
pub(super) fn said_of(trouble: &Trouble) -> (&'static str, String) {
    match trouble {
        Trouble::Dns { why } => ("spf_unknown", why.clone()),
        Trouble::Several { domain } => (
            "spf_several",
            format!("Make one record of those of {domain}: with several, SPF fails as a whole."),
        ),
        Trouble::Syntax { domain, term } => (
            "spf_syntax",
            format!("Mend or remove `{term}` in the record of {domain}: it cannot be read, so SPF fails as a whole."),
        ),
        Trouble::NoTarget { domain, target } => (
            "spf_no_target",
            format!("Remove {target} from the record of {domain}: it has no SPF record, so SPF fails as a whole."),
        ),
        Trouble::Loop { domain } => (
            "spf_loop",
            format!("Break the circle in which {domain} includes itself: it never ends, so SPF fails as a whole."),
        ),
        Trouble::Lookups => (
            "spf_lookups",
            "Name our addresses as ip4: and ip6: at the front, or drop includes: more than ten terms that ask the DNS fail as a whole (RFC 7208).".into(),
        ),
        Trouble::VoidLookups => (
            "spf_void_lookups",
            "Remove the terms that lead to names without records: more than two fail as a whole (RFC 7208).".into(),
        ),
        Trouble::Exchanges { domain } => (
            "spf_lookups",
            format!("Replace `mx` by addresses: {domain} has more than ten mail hosts, with which SPF fails as a whole (RFC 7208)."),
        ),
    }
}

/// What is bad in a record by which our sources pass.
fn advised(about: &str, record: &str, survey: &Survey) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |what, wanted: &str, advice: String| {
        findings.push(Finding::new(what, about, wanted, record, advice));
    };
    if let Some(term) = &survey.allows_all {
        let advice = format!(
            "Remove {term}: it lets everybody send in this name, and hosts hold that against it."
        );
        add(("spf_allows_all", Level::Error), "-all or ~all", advice);
    }
    if survey.no_end {
        add(
            ("spf_no_end", Level::Warn),
            "-all or ~all at the end",
            "End the record with ~all or -all: without it, nobody is told who must not send in this name.".into(),
        );
    }
    if let Some(term) = &survey.ptr {
        let advice = format!(
            "Replace {term} by addresses: it is slow, and hosts pass over it (RFC 7208 §5.5)."
        );
        add(("spf_ptr", Level::Warn), "no ptr", advice);
    }
    if survey.voids > 2 {
        let (id, advice) = said_of(&Trouble::VoidLookups);
        add((id, Level::Warn), "at most 2 names without records", advice);
    }
    if survey.lookups > 10 {
        add(
            ("spf_many_lookups", Level::Warn),
            "at most 10 terms that ask the DNS",
            format!(
                "Drop some of the {} terms that ask the DNS: addresses behind the tenth are not permitted.",
                survey.lookups
            ),
        );
    }
    findings
}

fn wanted_record(sources: &[&SourceAddress]) -> String {
    let mut terms: Vec<String> = sources.iter().map(|s| term(s.address)).collect();
    terms.sort();
    terms.dedup();
    let more = terms.len() > TERMS_SHOWN;
    terms.truncate(TERMS_SHOWN);
    let more = if more { " …" } else { "" };
    match terms.is_empty() {
        true => "v=spf1 with the public addresses of the sources".to_owned(),
        false => format!("v=spf1 {}{more} -all", terms.join(" ")),
    }
}

fn term(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("ip4:{v4}"),
        IpAddr::V6(v6) => format!("ip6:{v6}"),
    }
}

const TERMS_SHOWN: usize = 20;
