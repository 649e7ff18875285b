//! MTA-STS and TLS-RPT (RFC 8460) of a domain that takes mail: both optional, neither half.

use super::book::{Book, Kind, Said};
use super::tags::Tags;
use super::{Finding, Level, mta_sts, shown_all, unknown};

pub(super) fn judge(book: &Book, domain: &str) -> Vec<Finding> {
    book.expect(&format!("_smtp._tls.{domain}"), Kind::Txt);
    let (mut findings, obeyed) = mta_sts::judge(book, domain);
    findings.push(tls_rpt(book, domain, obeyed));
    findings
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
