//! What changed between two checks of the same thing, in lines that are kept: `level id about`, of findings that are not ok.

use crate::check::{Finding, Level};
use crate::limits;

/// What is wrong now. Where the DNS gave no answer, what was known before stays.
pub(super) fn lines(known: &[String], findings: &[Finding]) -> Vec<String> {
    let bad = findings
        .iter()
        .filter(|f| matches!(f.level, Level::Warn | Level::Error));
    let mut lines: Vec<String> = bad
        .map(|f| format!("{} {} {}", f.level.as_str(), f.id, f.about))
        .collect();
    let undecided = findings.iter().filter(|f| f.level == Level::Unknown);
    for unknown in undecided {
        let stays = |line: &&String| {
            let mut words = line.splitn(3, ' ').skip(1);
            let (id, about) = (words.next().unwrap_or_default(), words.next());
            let (of, group) = (group(id), group(unknown.id));
            match group {
                // Each list is asked for itself.
                "dnsbl" => of == group && about == Some(&unknown.about),
                "dkim" | "spf" => of == group || of == "dmarc",
                // Of the domain and of its reverse-paths.
                "mta_sts" | "tls_rpt" => {
                    of == group && about.map(domain_of) == Some(domain_of(&unknown.about))
                }
                _ => of == group,
            }
        };
        lines.extend(known.iter().filter(stays).cloned());
    }
    lines.sort_unstable();
    lines.dedup();
    lines.truncate(limits::FINDINGS_KEPT);
    lines
}

/// The same where nothing may be known yet. `None`: nor is it now, for want of answers; that is not *ok*.
pub(super) fn kept(known: Option<&[String]>, findings: &[Finding]) -> Option<Vec<String>> {
    let lines = lines(known.unwrap_or_default(), findings);
    let undecided = findings.iter().any(|f| f.level == Level::Unknown);
    (known.is_some() || !lines.is_empty() || !undecided).then_some(lines)
}

/// What is the matter, of an id: `return_path` of `return_path_missing`.
fn group(id: &str) -> &str {
    const TWO_WORDS: [&str; 4] = ["return_path", "mta_sts", "tls_rpt", "helo_spf"];
    let two = TWO_WORDS.into_iter().find(|group| id.starts_with(group));
    two.unwrap_or_else(|| id.split('_').next().unwrap_or(id))
}

/// The domain that takes mail, of what a finding about its TLS is about.
fn domain_of(about: &str) -> &str {
    const BEFORE: [&str; 5] = [
        "TXT _mta-sts.",
        "A mta-sts.",
        "https://mta-sts.",
        "MX ",
        "TXT _smtp._tls.",
    ];
    let domain = BEFORE.iter().find_map(|before| about.strip_prefix(before));
    let domain = domain.unwrap_or(about);
    domain.split('/').next().unwrap_or(domain)
}

/// The worst level in kept lines.
pub(in crate::node) fn worst(lines: &[String]) -> &'static str {
    let is = |level: &str| lines.iter().any(|line| line.starts_with(level));
    match (is("error"), is("warn")) {
        (true, _) => "error",
        (false, true) => "warn",
        (false, false) => "ok",
    }
}

/// What an event says.
pub(super) fn sentence(before: &[String], now: &[String]) -> String {
    let list = |lines: Vec<&String>| {
        let lines: Vec<&str> = lines.into_iter().map(String::as_str).collect();
        lines.join(", ")
    };
    let come = list(now.iter().filter(|line| !before.contains(line)).collect());
    let gone = list(before.iter().filter(|line| !now.contains(line)).collect());
    let rest = match now.len() {
        0 => "nothing is wrong any more".to_owned(),
        n => format!("{n} findings in all"),
    };
    let mut text = String::new();
    if !come.is_empty() {
        text.push_str(&format!("found: {come}; "));
    }
    if !gone.is_empty() {
        text.push_str(&format!("gone: {gone}; "));
    }
    text.push_str(&rest);
    let end = text.floor_char_boundary(limits::FINDINGS_TOLD);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(id: &'static str, level: Level, about: &str) -> Finding {
        Finding {
            id,
            level,
            about: about.into(),
            wanted: String::new(),
            found: String::new(),
            advice: String::new(),
        }
    }

    #[test]
    fn nothing_is_ok_before_anybody_has_answered() {
        let unknown = finding("dkim_unknown", Level::Unknown, "TXT a");
        let ok = finding("spf_ok", Level::Ok, "TXT b");
        let bad = finding("mx_none", Level::Warn, "MX c");
        let of = |known: Option<&[String]>, findings: &[&Finding]| {
            let findings: Vec<Finding> = findings.iter().map(|f| (*f).clone()).collect();
            kept(known, &findings).map(|lines| lines.len())
        };
        assert_eq!(of(None, &[&ok, &unknown]), None);
        assert_eq!(of(None, &[&ok]), Some(0));
        assert_eq!(of(None, &[&bad, &unknown]), Some(1));
        assert_eq!(of(Some(&[]), &[&unknown]), Some(0));
    }

    #[test]
    fn what_the_dns_does_not_say_stays_as_it_was() {
        let before = lines(
            &[],
            &[
                finding("dkim_missing", Level::Error, "TXT a"),
                finding("spf_ok", Level::Ok, "TXT b"),
                finding("dmarc_fails", Level::Error, "From x"),
                finding("dnsbl_listed", Level::Error, "192.0.2.1 at one"),
                finding("dnsbl_listed", Level::Error, "192.0.2.1 at two"),
                finding("return_path_none", Level::Warn, "CNAME c"),
            ],
        );
        assert_eq!(before.len(), 5);
        let now = lines(
            &before,
            &[
                finding("dkim_unknown", Level::Unknown, "TXT a"),
                finding("dnsbl_unknown", Level::Unknown, "192.0.2.1 at two"),
                finding("return_path_ok", Level::Ok, "CNAME c"),
            ],
        );
        assert_eq!(
            now,
            [
                "error dkim_missing TXT a",
                "error dmarc_fails From x",
                "error dnsbl_listed 192.0.2.1 at two"
            ]
        );
        assert_eq!(worst(&now), "error");
        let url = |domain: &str| format!("https://mta-sts.{domain}/.well-known/mta-sts.txt");
        let of_two = lines(
            &[],
            &[
                finding("mta_sts_mx", Level::Error, &url("a.example")),
                finding("mta_sts_testing", Level::Warn, &url("b.a.example")),
            ],
        );
        let one = lines(
            &of_two,
            &[finding(
                "mta_sts_unknown",
                Level::Unknown,
                "TXT _mta-sts.a.example",
            )],
        );
        assert_eq!(one, of_two[..1]);
        assert_eq!(
            sentence(&before, &now),
            "gone: error dnsbl_listed 192.0.2.1 at one, warn return_path_none CNAME c; 3 findings in all"
        );
        assert_eq!(worst(&lines(&now, &[])), "ok");
        assert_eq!(
            sentence(&now[..1], &[]),
            "gone: error dkim_missing TXT a; nothing is wrong any more"
        );
    }
}
