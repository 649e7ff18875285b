//! What `domain check` and `source check` print.

use serde::Serialize;

use super::output::{self, printable};
use super::{Failure, Found};
use crate::http::wire;

/// A finding on a line of its own, with what it is of.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    checked_at: &'a str,
    #[serde(flatten)]
    finding: &'a wire::Finding,
}

/// A finding of level error is what the exit code tells.
pub(super) fn show(check: &wire::Check, json: bool) -> Result<Found, Failure> {
    for finding in &check.findings {
        match json {
            true => output::json(&Line {
                name: &check.name,
                checked_at: &check.checked_at,
                finding,
            })?,
            false => output::line(text(finding))?,
        }
    }
    if !json {
        output::line(summary(check))?;
    }
    Ok(match check.level.as_str() {
        "error" => Found::Finding,
        _ => Found::All,
    })
}

fn text(finding: &wire::Finding) -> String {
    let head = format!(
        "{:<8} {:<22} {}",
        finding.level,
        finding.id,
        printable(&finding.about)
    );
    if finding.level == "ok" && finding.advice.is_empty() {
        return head;
    }
    let mut text = head;
    for (label, value) in [
        ("wanted", &finding.wanted),
        ("found", &finding.found),
        ("do", &finding.advice),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("\n         {label:<8}{}", printable(value)));
        }
    }
    text
}

fn summary(check: &wire::Check) -> String {
    let count = |level: &str| check.findings.iter().filter(|f| f.level == level).count();
    let counts = [
        ("error", "error", "errors"),
        ("unknown", "unknown", "unknown"),
        ("warn", "warning", "warnings"),
        ("ok", "ok", "ok"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .map(|(level, one, many)| match count(level) {
            1 => format!("1 {one}"),
            count => format!("{count} {many}"),
        })
        .filter(|text| !text.starts_with("0 "))
        .collect();
    format!("{}: {}", check.name, counts.join(", "))
}
