//! DMARC (RFC 7489): the policy for a domain in From, and whether our mail passes it.
//!
//! The policy is looked for at the domain and at its organisational domain, by the public suffix list (§6.6.3). DMARCbis walks up the
//! labels instead; that differs only below suffixes that the list lacks.

use super::book::{Book, Kind, Said};
use super::names::organisational;
use super::tags::Tags;
use super::{Finding, Level, shown_all, unknown};

/// What DMARC is judged from.
pub(super) struct Facts<'a> {
    /// In From, and `d=` of our signatures.
    pub(super) domain: &'a str,
    /// Of the reverse-path.
    pub(super) envelope: &'a str,
    /// Whether the active key's record is there; `None`: not known.
    pub(super) dkim: Option<bool>,
    /// Whether SPF permits every source for `envelope`.
    pub(super) spf: Option<bool>,
}

pub(super) fn judge(book: &Book, facts: &Facts<'_>) -> Vec<Finding> {
    let domain = facts.domain;
    let parent = organisational(domain);
    let at = format!("_dmarc.{domain}");
    let above = format!("_dmarc.{parent}");
    book.expect(&above, Kind::Txt);
    let about = format!("TXT {at}");
    let wanted = "v=DMARC1; p=…";
    let texts = match book.texts(&at) {
        Said::Failed(why) => return vec![unknown("dmarc_unknown", about, wanted, &why)],
        said => said.values().unwrap_or_default(),
    };
    let own: Vec<&String> = texts.iter().filter(|t| is_record(t)).collect();
    if !own.is_empty() {
        return published(book, facts, &own, &about, domain, "p");
    }
    if let Some(near) = texts.iter().find(|t| is_near(t)) {
        return vec![syntax(&about, near, "it does not begin with `v=DMARC1`")];
    }
    if parent != domain {
        let about = format!("TXT {above}");
        let texts = match book.texts(&above) {
            Said::Failed(why) => return vec![unknown("dmarc_unknown", about, wanted, &why)],
            said => said.values().unwrap_or_default(),
        };
        let inherited: Vec<&String> = texts.iter().filter(|t| is_record(t)).collect();
        if !inherited.is_empty() {
            return published(book, facts, &inherited, &about, parent, "sp");
        }
    }
    let mut findings = vec![Finding::new(
        ("dmarc_missing", Level::Warn),
        about,
        format!("v=DMARC1; p=none; rua=mailto:postmaster@{domain}"),
        "nothing",
        "Publish it: big providers refuse bulk mail of domains without DMARC.",
    )];
    findings.extend(alignment(facts, 'r', "none"));
    findings
}

/// RFC 7489 §6.4: white space may stand around the `=`.
fn is_record(text: &str) -> bool {
    let white = [' ', '\t'];
    let version = text
        .strip_prefix('v')
        .map(|rest| rest.trim_start_matches(white));
    let version = version.and_then(|rest| rest.strip_prefix('='));
    let version = version.map(|rest| rest.trim_start_matches(white));
    let rest = version.and_then(|rest| rest.strip_prefix("DMARC1"));
    rest.is_some_and(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with(';'))
}

/// What was meant to be one.
fn is_near(text: &str) -> bool {
    text.to_ascii_lowercase().contains("dmarc1")
}

/// `policy_tag`: which tag speaks of this domain, first.
fn published(
    book: &Book,
    facts: &Facts<'_>,
    records: &[&String],
    about: &str,
    policy_domain: &str,
    policy_tag: &str,
) -> Vec<Finding> {
    let &[record] = records else {
        return vec![Finding::new(
            ("dmarc_several", Level::Error),
            about,
            "one record",
            shown_all(records.iter().map(|r| r.as_str())),
            "Leave one record: with several there is no policy (RFC 7489).",
        )];
    };
    let policy = match Policy::parse(record, policy_tag) {
        Ok(policy) => policy,
        Err(why) => return vec![syntax(about, record, &why)],
    };
    let mut findings = Vec::new();
    let mut add = |what, wanted: &str, advice: &str| {
        findings.push(Finding::new(what, about, wanted, record.as_str(), advice));
    };
    if policy.is_none {
        add(
            ("dmarc_policy_none", Level::Warn),
            "p=quarantine or p=reject",
            "Tighten the policy once the reports show only mail of yours: as it is, anybody may write in this name.",
        );
    }
    if let Some(why) = &policy.passed_over {
        let advice = format!("Mend the record, in which {why}: hosts pass over that.");
        add(("dmarc_syntax", Level::Warn), "v=DMARC1; p=…", &advice);
    }
    if policy.percent < 100 {
        add(
            ("dmarc_partial", Level::Warn),
            "no pct=",
            "Take `pct=` out: it exempts a part of forged mail, and newer hosts pass over it.",
        );
    }
    match &policy.reports[..] {
        [] => add(
            ("dmarc_no_reports", Level::Warn),
            "rua=mailto:…",
            "Name in `rua=` where reports go: they are how you learn who sends in this name.",
        ),
        reports => {
            let reports: Vec<&str> = reports.iter().map(String::as_str).collect();
            findings.extend(reports_taken(book, policy_domain, &reports));
        }
    }
    findings.extend(alignment(facts, policy.spf_mode, record));
    if findings.iter().all(|f| f.level == Level::Ok) {
        findings.push(Finding::new(
            ("dmarc_ok", Level::Ok),
            about,
            "v=DMARC1; p=…",
            record.as_str(),
            "",
        ));
    }
    findings
}

fn syntax(about: &str, record: &str, why: &str) -> Finding {
    Finding::new(
        ("dmarc_syntax", Level::Error),
        about,
        "v=DMARC1; p=…",
        record,
        format!("Mend the record, in which {why}: as it is, there is no policy."),
    )
}

/// As far as it concerns us.
struct Policy {
    is_none: bool,
    /// `r` or `s`. That of DKIM does not matter: our signatures are of the domain in From itself.
    spf_mode: char,
    percent: u8,
    /// Domains of `rua=`.
    reports: Vec<String>,
    /// What is wrong and costs no more than itself (RFC 7489 §6.3), in a sentence.
    passed_over: Option<String>,
}

impl Policy {
    fn parse(record: &str, policy_tag: &str) -> Result<Self, String> {
        let tags = Tags::parse(record)?;
        let Some(general) = tags.of("p") else {
            return Err("`p=` is missing".into());
        };
        let is_policy = |policy: &str| {
            let known = ["none", "quarantine", "reject"];
            known.iter().any(|known| policy.eq_ignore_ascii_case(known))
        };
        let wrong = |name: &str, policy: &str| {
            let shown = super::shown(policy);
            format!("`{name}={shown}` is none of none, quarantine, reject")
        };
        // RFC 7489 §6.6.3: without these there is no policy; whatever else is wrong is passed over.
        for (name, policy) in [("p", Some(general)), ("sp", tags.of("sp"))] {
            if let Some(policy) = policy.filter(|policy| !is_policy(policy)) {
                return Err(wrong(name, policy));
            }
        }
        let mut passed_over = None;
        if let Some(policy) = tags.of("np").filter(|policy| !is_policy(policy)) {
            passed_over = Some(wrong("np", policy));
        }
        let mut mode = |name: &str| match tags.of(name).unwrap_or("r") {
            "r" | "R" => 'r',
            "s" | "S" => 's',
            other => {
                let shown = super::shown(other);
                passed_over.get_or_insert(format!("`{name}={shown}` is neither r nor s"));
                'r'
            }
        };
        mode("adkim");
        let spf_mode = mode("aspf");
        let percent = tags.of("pct").unwrap_or("100");
        let percent = percent.parse().ok().filter(|n| *n <= 100);
        if percent.is_none() {
            passed_over.get_or_insert_with(|| "`pct=` is no number up to 100".to_owned());
        }
        let given = tags.compact("rua").unwrap_or_default();
        let mut reports = Vec::new();
        for uri in given
            .split(',')
            .filter(|uri| !uri.is_empty())
            .take(REPORTS_MAX)
        {
            match receiver(uri) {
                Some(domain) => reports.push(domain),
                None => {
                    let shown = super::shown(uri);
                    passed_over.get_or_insert(format!("`{shown}` in `rua=` is no mailto: address"));
                }
            }
        }
        let applied = tags.of(policy_tag).unwrap_or(general);
        Ok(Self {
            is_none: applied.eq_ignore_ascii_case("none"),
            spf_mode,
            percent: percent.unwrap_or(100),
            reports,
            passed_over,
        })
    }
}

/// The domain that a URI of `rua=` sends reports to. RFC 3986 §3.1: a scheme is the same in any case.
fn receiver(uri: &str) -> Option<String> {
    let (scheme, address) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("mailto") {
        return None;
    }
    // RFC 7489 §6.4: the size behind `!`; RFC 6068 §2: fields behind `?`.
    let address = address.split(['!', '?']).next().unwrap_or_default();
    let (local_part, domain) = address.rsplit_once('@')?;
    (!local_part.is_empty() && !domain.is_empty()).then(|| domain.to_ascii_lowercase())
}

/// RFC 7489 §7.1: who takes reports about another's domain has to say so.
fn reports_taken(book: &Book, domain: &str, receivers: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let foreign = receivers
        .iter()
        .filter(|receiver| organisational(receiver) != organisational(domain));
    for receiver in foreign {
        let name = format!("{domain}._report._dmarc.{receiver}");
        let about = format!("TXT {name}");
        match book.texts(&name) {
            Said::Failed(why) => findings.push(unknown("dmarc_unknown", about, "v=DMARC1", &why)),
            Said::Values(texts) if texts.iter().any(|t| is_record(t)) => {}
            said => findings.push(Finding::new(
                ("dmarc_reports_refused", Level::Warn),
                about,
                "v=DMARC1",
                shown_all(said.values().unwrap_or_default().iter().map(String::as_str)),
                format!("Have {receiver} publish it, or name another address in `rua=`: hosts send no reports there without it."),
            )),
        }
    }
    findings
}

/// Whether mail of ours passes: by the signature, whose domain is always that of From, or by SPF.
fn alignment(facts: &Facts<'_>, spf_mode: char, record: &str) -> Vec<Finding> {
    let about = format!("From {} / MAIL FROM {}", facts.domain, facts.envelope);
    let aligned = match spf_mode {
        's' => facts.envelope == facts.domain,
        _ => organisational(facts.envelope) == organisational(facts.domain),
    };
    let spf = match aligned {
        true => facts.spf,
        false => Some(false),
    };
    let by_spf = || match (aligned, facts.spf) {
        (false, _) => format!("{} is not aligned with {}", facts.envelope, facts.domain),
        (true, Some(true)) => "SPF passes".to_owned(),
        (true, Some(false)) => "SPF does not pass".to_owned(),
        (true, None) => "SPF is not known".to_owned(),
    };
    match (facts.dkim, spf) {
        (Some(false), Some(false)) => vec![Finding::new(
            ("dmarc_fails", Level::Error),
            about,
            "a signature, or SPF, of an aligned domain",
            format!(
                "no signature that verifies, and {}; policy: {record}",
                by_spf()
            ),
            "See to a DKIM signature first, as said there: with it all mail passes, forwarded mail too.",
        )],
        (Some(true), Some(false)) if !aligned => vec![Finding::new(
            ("dmarc_spf_not_aligned", Level::Warn),
            about,
            match spf_mode {
                's' => "the same domain in both, as aspf=s asks",
                _ => "the same organisational domain in both",
            },
            by_spf(),
            match spf_mode {
                's' => {
                    "Nothing has to be done: signatures carry DMARC; aspf=r would let SPF count too."
                }
                _ => {
                    "Give the domain a Return-Path domain below it, so that DMARC passes by SPF too where a signature breaks."
                }
            },
        )],
        _ => Vec::new(),
    }
}

const REPORTS_MAX: usize = 5;
