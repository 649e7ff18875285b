//! MTA-STS of a domain that takes mail (RFC 8461): its record, and the policy that a web server has for it.

use super::book::{Book, Fetched, Said};
use super::policy::{Mode, Policy};
use super::tags::Tags;
use super::{Finding, Level, shown_all, unknown};
use crate::limits;

/// What was found, and whether hosts are told to obey a policy.
pub(super) fn judge(book: &Book, domain: &str) -> (Vec<Finding>, bool) {
    match record(book, domain) {
        Ok(record) => {
            let findings = served(book, domain, &record);
            let off = findings.iter().any(|f| f.id == "mta_sts_off");
            (findings, !off)
        }
        Err(finding) => (vec![finding], false),
    }
}

/// The one record that there should be. `Err`: there is none, or something is wrong.
fn record(book: &Book, domain: &str) -> Result<String, Finding> {
    let name = format!("_mta-sts.{domain}");
    let about = format!("TXT {name}");
    let wanted = "v=STSv1; id=…, or nothing";
    let finding = |what, found: &str, advice: &str| {
        Err(Finding::new(what, about.as_str(), wanted, found, advice))
    };
    let texts = match book.texts(&name) {
        Said::Failed(why) => return Err(unknown("mta_sts_unknown", about, wanted, &why)),
        said => said.values().unwrap_or_default(),
    };
    let records: Vec<&String> = texts.iter().filter(|t| t.starts_with("v=STSv1")).collect();
    let record = match records[..] {
        [] => return finding(("mta_sts_none", Level::Ok), "nothing", ""),
        [record] => record,
        _ => {
            return finding(
                ("mta_sts_several", Level::Error),
                &shown_all(records.iter().map(|r| r.as_str())),
                "Leave one record: with several, hosts see no policy (RFC 8461).",
            );
        }
    };
    let tags = Tags::parse(record);
    let id = tags.as_ref().ok().and_then(|tags| tags.of("id"));
    // RFC 8461 §3.1: one to 32 letters and digits.
    let sound =
        |id: &str| (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if !id.is_some_and(sound) {
        let advice = "Give the record an `id=` of at most 32 letters and digits, or take it away: as it is, hosts see no policy.";
        return finding(("mta_sts_syntax", Level::Error), record, advice);
    }
    let host = format!("mta-sts.{domain}");
    match book.addresses(&host) {
        Said::Values(_) => Ok(record.clone()),
        Said::Failed(why) => Err(unknown(
            "mta_sts_unknown",
            format!("A {host}"),
            "an address",
            &why,
        )),
        Said::Nothing | Said::NoSuchName => finding(
            ("mta_sts_no_host", Level::Error),
            &format!("{record}, and {host} has no address"),
            &format!(
                "Serve the policy at {}, or take the record away.",
                url(domain)
            ),
        ),
    }
}

/// The policy itself.
fn served(book: &Book, domain: &str, record: &str) -> Vec<Finding> {
    let about = url(domain);
    let finding =
        |what, found: &str, advice: &str| Finding::new(what, about.as_str(), SERVED, found, advice);
    let (content_type, text) = match file(book, domain) {
        Ok(file) => file,
        Err(finding) => return vec![finding],
    };
    let mut findings = Vec::new();
    if !is_plain_text(&content_type) {
        let found = match content_type.as_str() {
            "" => "no content type".to_owned(),
            other => format!("content type {other}"),
        };
        findings.push(finding(
            ("mta_sts_type", Level::Error),
            &found,
            "Serve it as text/plain: hosts disregard anything else (RFC 8461 §3.2).",
        ));
    }
    match Policy::parse(&text) {
        Ok(policy) => findings.extend(judge_policy(book, domain, &policy, &about)),
        Err(why) => findings.push(finding(
            ("mta_sts_policy_syntax", Level::Error),
            &text,
            &format!("Mend the policy: {why}."),
        )),
    }
    if findings.is_empty() {
        let words: Vec<&str> = text.split_whitespace().collect();
        let record = record.trim_end_matches([';', ' ']);
        let found = format!("{record}; {}", words.join(" "));
        findings.push(finding(("mta_sts_ok", Level::Ok), &found, ""));
    }
    findings
}

/// Content type and text of what the web server has.
fn file(book: &Book, domain: &str) -> Result<(String, String), Finding> {
    let host = format!("mta-sts.{domain}");
    let (what, found, advice) = match book.policy_file(&host) {
        Ok(Fetched::File { content_type, text }) => return Ok((content_type, text)),
        Err(why) => (
            ("mta_sts_unknown", Level::Unknown),
            format!("no answer: {why}"),
            "See whether it can be fetched from elsewhere: hosts that cannot see no policy, or keep to an old one.".to_owned(),
        ),
        Ok(Fetched::TooLong) => (
            ("mta_sts_policy_syntax", Level::Error),
            format!("more than {} octets", limits::POLICY_BYTES_MAX),
            "Serve a policy of some lines: hosts read no more than 64 KiB of it.".into(),
        ),
        Ok(Fetched::Status { code, location }) => {
            let to = location.map(|to| format!(", to {to}")).unwrap_or_default();
            let advice = match code {
                300..400 => "Serve the policy right there: hosts do not follow redirects (RFC 8461 §3.3).",
                _ => "Serve the policy there with status 200, or take the record away: as it is, hosts see no policy.",
            };
            (
                ("mta_sts_status", Level::Error),
                format!("status {code}{to}"),
                advice.into(),
            )
        }
        Ok(Fetched::Untrusted(why)) => (
            ("mta_sts_certificate", Level::Error),
            why,
            format!(
                "Give the web server a certificate that is valid for {host}, from an authority that everybody knows: as it is, hosts see no policy."
            ),
        ),
        Ok(Fetched::Private(address)) => (
            ("mta_sts_private", Level::Unknown),
            format!("{address}, which the world does not see; it was not asked"),
            format!(
                "Give {host} a public address; if others see one already, look from there, or permit this one in [delivery] allow_networks."
            ),
        ),
    };
    Err(Finding::new(what, url(domain), SERVED, found, advice))
}

fn judge_policy(book: &Book, domain: &str, policy: &Policy, about: &str) -> Vec<Finding> {
    let finding = |what, wanted: &str, found: String, advice: String| {
        Finding::new(what, about, wanted, found, advice)
    };
    if policy.mode == Mode::None {
        return vec![finding(
            ("mta_sts_off", Level::Ok),
            "any mode",
            "mode: none, which is no policy".into(),
            String::new(),
        )];
    }
    let mut findings = Vec::new();
    let about_hosts = format!("MX {domain}");
    match book.exchanges(domain) {
        Said::Failed(why) => findings.push(unknown("mta_sts_unknown", about_hosts, "a host", &why)),
        said => {
            let hosts = said.values().unwrap_or_default();
            let hosts = hosts.into_iter().map(|(_, host)| host);
            let mut hosts: Vec<String> = hosts.collect();
            if hosts.is_empty() {
                // RFC 5321 §5.1: the name itself.
                hosts.push(domain.to_owned());
            }
            // A null MX takes no mail at all.
            let strangers = hosts
                .iter()
                .filter(|host| !host.is_empty() && !policy.names(host));
            let strangers: Vec<&str> = strangers.map(String::as_str).collect();
            if !strangers.is_empty() {
                let (level, what) = match policy.mode {
                    Mode::Enforce => (
                        Level::Error,
                        "hosts that keep to the policy send no mail there",
                    ),
                    _ => (
                        Level::Warn,
                        "with mode: enforce, no mail would be sent there",
                    ),
                };
                findings.push(finding(
                    ("mta_sts_mx", level),
                    &format!("every MX of {domain} named by `mx:`"),
                    format!("{} not named", shown_all(strangers.iter().copied())),
                    format!("Name it in the policy, and give the record a new `id=`: {what}."),
                ));
            }
        }
    }
    if policy.mode == Mode::Testing {
        findings.push(finding(
            ("mta_sts_testing", Level::Warn),
            "mode: enforce",
            "mode: testing".into(),
            "Set mode: enforce once reports show no failures, and give the record a new `id=`: until then nobody is kept from sending in clear.".into(),
        ));
    }
    if !(DAY..=MAX_AGE_MAX).contains(&policy.max_age_seconds) {
        findings.push(finding(
            ("mta_sts_max_age", Level::Warn),
            "max_age: of weeks, such as 1209600",
            format!("max_age: {}", policy.max_age_seconds),
            "Set a max_age of weeks: what is forgotten soon protects little, and no host keeps a policy for more than a year.".into(),
        ));
    }
    findings
}

fn is_plain_text(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("text/plain")
}

fn url(domain: &str) -> String {
    format!("https://mta-sts.{domain}/.well-known/mta-sts.txt")
}

const SERVED: &str = "a policy in text/plain, by a certificate for the name";
const DAY: u64 = 86_400;
/// RFC 8461 §3.2.
const MAX_AGE_MAX: u64 = 31_557_600;
