//! What a domain and an egress source need in the DNS, what is there, and what to do.
//!
//! Promises: every judgement is a function of answers, so that tests and a second opinion ask the same code as the node; a
//! name server that fails makes a finding *unknown*, never *missing*; any record, however made, costs bounded work.
//! Deliberately does not know the resolver, the clock, accounts, or who reads the findings.
//!
//! A judge reads answers from a [`Book`]. What is not in it yet is noted there as missing and taken as failed for the
//! moment; whoever has the resolver asks what is missing and lets the judge begin again, until nothing is
//! ([`settle`]). A judgement is repeated a few times so, some microseconds each, and needs no future, no lock and no second copy of its
//! logic. The order of its questions decides how many rounds of them there are: independent ones go out together.
//!
//! Names: a finding's `id` says what is the matter and never changes; its level is how bad that is.

mod book;
mod dkim;
mod dmarc;
mod domain;
mod envelope;
mod mta_sts;
mod names;
mod policy;
mod reports;
mod source;
pub mod spf;
mod tags;

#[cfg(test)]
mod tests;

pub use book::{Answer, Book, Fetched, Kind, Question, Record, settle};
pub use domain::{
    DomainReport, DomainWanted, KeyRole, KeyWanted, ReturnPathWanted, SourceAddress, judge_domain,
    judge_spf,
};
pub use source::{SourceWanted, judge_source};

/// How bad a finding is, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    /// Mail goes on, and might fare better.
    Warn,
    /// The DNS did not answer, or a web server.
    Unknown,
    /// Mail is refused or taken for somebody else's for it.
    Error,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Warn, Self::Unknown, Self::Error];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
            Self::Error => "error",
        }
    }
}

/// One record that was looked at. Texts are for people and bounded; they may hold anything that the DNS holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `dkim_wrong_key`: stable, for scripts, and one of [`IDS`].
    pub id: &'static str,
    pub level: Level,
    /// What it is about: a record type and a name, or an address.
    pub about: String,
    pub wanted: String,
    pub found: String,
    /// One sentence; empty where all is well.
    pub advice: String,
}

impl Finding {
    fn new(
        (id, level): (&'static str, Level),
        about: impl Into<String>,
        wanted: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        debug_assert!(IDS.contains(&id), "{id} is in no list");
        Self {
            id,
            level,
            about: about.into(),
            wanted: wanted.into(),
            found: shown(&found.into()),
            advice: advice.into(),
        }
    }
}

/// The worst of them; of none: ok.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|f| f.level).max().unwrap_or(Level::Ok)
}

/// As much of a foreign text as a reader wants to see, without control characters.
fn shown(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).map(clean).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push_str(" …");
    }
    shown
}

fn shown_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.into_iter().take(5).map(shown).collect();
    texts.join(" | ")
}

fn unknown(
    id: &'static str,
    about: impl Into<String>,
    wanted: impl Into<String>,
    why: &str,
) -> Finding {
    Finding::new(
        (id, Level::Unknown),
        about,
        wanted,
        format!("no answer: {why}"),
        "Check again later; if it stays so, see whether the name servers of that domain answer.",
    )
}

const SHOWN_CHARS_MAX: usize = 600;

/// Every id that there is.
pub const IDS: &[&str] = &[
    "dkim_ok",
    "dkim_alias",
    "dkim_missing",
    "dkim_pending",
    "dkim_dangling",
    "dkim_wrong_key",
    "dkim_wrong_type",
    "dkim_revoked",
    "dkim_syntax",
    "dkim_several",
    "dkim_test_mode",
    "dkim_weak_key",
    "dkim_hash",
    "dkim_service",
    "dkim_no_key",
    "dkim_unknown",
    "return_path_ok",
    "return_path_none",
    "return_path_missing",
    "return_path_elsewhere",
    "return_path_no_alias",
    "return_path_unverified",
    "return_path_dead_end",
    "return_path_unknown",
    "spf_ok",
    "spf_missing",
    "spf_several",
    "spf_syntax",
    "spf_lookups",
    "spf_void_lookups",
    "spf_no_target",
    "spf_loop",
    "spf_fail",
    "spf_softfail",
    "spf_neutral",
    "spf_allows_all",
    "spf_ptr",
    "spf_no_end",
    "spf_many_lookups",
    "spf_not_judged",
    "spf_unknown",
    "dmarc_ok",
    "dmarc_missing",
    "dmarc_several",
    "dmarc_syntax",
    "dmarc_policy_none",
    "dmarc_partial",
    "dmarc_no_reports",
    "dmarc_reports_refused",
    "dmarc_spf_not_aligned",
    "dmarc_fails",
    "dmarc_unknown",
    "mx_ok",
    "mx_missing",
    "mx_implicit",
    "mx_null",
    "mx_dangling",
    "mx_alias",
    "mx_unknown",
    "mta_sts_ok",
    "mta_sts_none",
    "mta_sts_several",
    "mta_sts_syntax",
    "mta_sts_no_host",
    "mta_sts_private",
    "mta_sts_certificate",
    "mta_sts_status",
    "mta_sts_type",
    "mta_sts_policy_syntax",
    "mta_sts_mx",
    "mta_sts_testing",
    "mta_sts_off",
    "mta_sts_max_age",
    "mta_sts_unknown",
    "tls_rpt_ok",
    "tls_rpt_none",
    "tls_rpt_several",
    "tls_rpt_syntax",
    "tls_rpt_unknown",
    "address_private",
    "address_by_proxy",
    "ptr_ok",
    "ptr_missing",
    "ptr_not_confirmed",
    "ptr_other_name",
    "ptr_generic",
    "ptr_several",
    "ptr_unknown",
    "ehlo_ok",
    "ehlo_not_qualified",
    "ehlo_missing",
    "ehlo_elsewhere",
    "ehlo_unknown",
    "helo_spf_ok",
    "helo_spf_none",
    "helo_spf_fails",
    "helo_spf_broken",
    "helo_spf_unknown",
    "dnsbl_ok",
    "dnsbl_listed",
    "dnsbl_refused",
    "dnsbl_broken",
    "dnsbl_unknown",
];
