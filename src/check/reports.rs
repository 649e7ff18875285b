//! MTA-STS (RFC 8461) and TLS-RPT (RFC 8460) of a domain that takes mail: both optional, neither half.
//!
//! The policy itself is served by HTTPS and not fetched here: only what the DNS says is judged.

use super::book::{Book, Kind, Said};
use super::tags::Tags;
use super::{Finding, Level, shown_all, unknown};

pub(super) fn judge(book: &Book, domain: &str) -> Vec<Finding> {
    book.expect(&format!("_smtp._tls.{domain}"), Kind::Txt);
    let sts = mta_sts(book, domain);
    let enforced = sts.id == "mta_sts_ok";
    vec![sts, tls_rpt(book, domain, enforced)]
}

fn mta_sts(book: &Book, domain: &str) -> Finding {
    let name = format!("_mta-sts.{domain}");
    let about = format!("TXT {name}");
    let wanted = "v=STSv1; id=…, or nothing";
    let finding =
        |what, found: &str, advice: &str| Finding::new(what, about.as_str(), wanted, found, advice);
    let texts = match book.texts(&name) {
        Said::Failed(why) => return unknown("mta_sts_unknown", about, wanted, &why),
        said => said.values().unwrap_or_default(),
    };
    let records: Vec<&String> = texts.iter().filter(|t| t.starts_with("v=STSv1")).collect();
    match records[..] {
        [] => finding(("mta_sts_none", Level::Ok), "nothing", ""),
        [record] => {
            let tags = Tags::parse(record);
            let id = tags.as_ref().ok().and_then(|tags| tags.of("id"));
            // RFC 8461 §3.1: one to 32 letters and digits.
            let sound = |id: &str| {
                (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric())
            };
            if !id.is_some_and(sound) {
                let advice = "Give the record an `id=` of at most 32 letters and digits, or take it away: as it is, hosts see no policy.";
                return finding(("mta_sts_syntax", Level::Error), record, advice);
            }
            let host = format!("mta-sts.{domain}");
            match book.addresses(&host) {
                Said::Values(_) => finding(("mta_sts_ok", Level::Ok), record, ""),
                Said::Failed(why) => {
                    unknown("mta_sts_unknown", format!("A {host}"), "an address", &why)
                }
                Said::Nothing | Said::NoSuchName => finding(
                    ("mta_sts_no_host", Level::Error),
                    &format!("{record}, and {host} has no address"),
                    &format!(
                        "Serve the policy at https://{host}/.well-known/mta-sts.txt, or take the record away."
                    ),
                ),
            }
        }
        _ => finding(
            ("mta_sts_several", Level::Error),
            &shown_all(records.iter().map(|r| r.as_str())),
            "Leave one record: with several, hosts see no policy (RFC 8461).",
        ),
    }
}

fn tls_rpt(book: &Book, domain: &str, enforced: bool) -> Finding {
    let name = format!("_smtp._tls.{domain}");
    let about = format!("TXT {name}");
    let wanted = "v=TLSRPTv1; rua=mailto:…, or nothing";
    let finding =
        |what, found: &str, advice: &str| Finding::new(what, about.as_str(), wanted, found, advice);
    let texts = match book.texts(&name) {
        Said::Failed(why) => return unknown("tls_rpt_unknown", about, wanted, &why),
        said => said.values().unwrap_or_default(),
    };
    let records: Vec<&String> = texts
        .iter()
        .filter(|t| t.starts_with("v=TLSRPTv1"))
        .collect();
    match records[..] {
        [] if enforced => finding(
            ("tls_rpt_none", Level::Warn),
            "nothing",
            "Publish it: with MTA-STS a mistake of yours keeps mail away, and these reports are how you learn of it.",
        ),
        [] => finding(("tls_rpt_none", Level::Ok), "nothing", ""),
        [record] => {
            let tags = Tags::parse(record);
            let rua = tags.as_ref().ok().and_then(|tags| tags.compact("rua"));
            let sound = |uri: &str| uri.starts_with("mailto:") || uri.starts_with("https:");
            match rua.is_some_and(|rua| rua.split(',').all(sound)) {
                true => finding(("tls_rpt_ok", Level::Ok), record, ""),
                false => finding(
                    ("tls_rpt_syntax", Level::Error),
                    record,
                    "Name in `rua=` where reports go, as mailto: or https:, or take the record away.",
                ),
            }
        }
        _ => finding(
            ("tls_rpt_several", Level::Error),
            &shown_all(records.iter().map(|r| r.as_str())),
            "Leave one record: with several, no report comes (RFC 8460).",
        ),
    }
}
