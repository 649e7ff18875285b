//! The dashboard and the alert rules, by a real Prometheus that scrapes a real node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use posthaste::metrics::{self, Metric};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, free_address};
use crate::support::remote_host::{Answer, RemoteHost, Stage};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("monitoring")
        .join(name)
}

/// Runs promtool; what it printed.
async fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}; scripts/test installs it"));
    let mut stdin = child.stdin.take().unwrap();
    // One that reads nothing may have ended.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let said = child.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{arguments:?}: {text}{errors}");
    text
}

/// Every query of the dashboard, as it is with all nodes chosen, and how its results are named.
fn panels() -> Vec<(String, String)> {
    fn collect(value: &Value, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                if let Some(query) = fields.get("expr").and_then(Value::as_str) {
                    let shown = fields.get("legendFormat").and_then(Value::as_str);
                    found.push((query.to_owned(), shown.unwrap_or_default().to_owned()));
                }
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let text = std::fs::read_to_string(file("dashboard.json")).unwrap();
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text).unwrap(), &mut found);
    for (query, _) in &mut found {
        *query = query
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*");
    }
    found
}

/// What a text in PromQL asks of a metric of ours: labels and what they should be.
struct Selector {
    metric: &'static dyn Metric,
    matchers: Vec<(String, String)>,
}

/// Or what is wrong with the text.
fn selectors(text: &str) -> Result<Vec<Selector>, String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices("posthaste_") {
        let rest = &text[at..];
        let (name, rest) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        let mut known = metrics::ALL.iter();
        let metric = known.find(|metric| match metric.kind() {
            "histogram" => name
                .strip_prefix(metric.name())
                .is_some_and(|suffix| ["_bucket", "_count", "_sum"].contains(&suffix)),
            _ => metric.name() == name,
        });
        let metric = *metric.ok_or_else(|| format!("there is no series {name}"))?;
        let inside = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next());
        let mut matchers = Vec::new();
        for matcher in inside
            .unwrap_or_default()
            .split(',')
            .filter(|m| !m.is_empty())
        {
            let (label, value) = matcher.split_once('=').ok_or(matcher)?;
            let label = label.trim().trim_end_matches('!').to_owned();
            let value = value.trim_start_matches('~').trim().trim_matches('"');
            matchers.push((label, value.to_owned()));
        }
        found.push(Selector { metric, matchers });
    }
    Ok(found)
}

/// What is wrong with a query and what is shown of its result: series, labels and values of labels that no node has.
fn faults(query: &str, shown: &str) -> Vec<String> {
    let selectors = match selectors(query) {
        Ok(selectors) => selectors,
        Err(fault) => return vec![fault],
    };
    let mut faults = Vec::new();
    let mut labels = BTreeSet::from(["instance", "job"]);
    for Selector { metric, matchers } in &selectors {
        let dimensions = metric.dimensions();
        labels.extend(dimensions.iter().map(|dimension| dimension.label));
        if metric.kind() == "histogram" {
            labels.insert("le");
        }
        for (label, wanted) in matchers {
            if ["instance", "job", "le"].contains(&&**label) {
                continue;
            }
            let Some(dimension) = dimensions.iter().find(|d| d.label == label) else {
                faults.push(format!("{} has no label {label}", metric.name()));
                continue;
            };
            // Those of a configuration may be any.
            let values = (dimension.values)();
            let is_any = ["provider", "source", "sink"].contains(&dimension.label);
            for value in wanted.split('|').filter(|_| !is_any) {
                if value != "other" && !values.contains(&value) {
                    faults.push(format!("{label} of {} is never {value}", metric.name()));
                }
            }
        }
    }
    let mut kept = BTreeSet::new();
    for list in query.split("by (").skip(1) {
        let list = list.split(')').next().unwrap_or_default();
        kept.extend(list.split(',').map(str::trim));
    }
    for label in &kept {
        if !labels.contains(label) {
            faults.push(format!("there is no label {label} to keep"));
        }
    }
    if kept.is_empty() {
        kept = labels;
    }
    // {{provider}} of a panel, {{ $labels.provider }} of an alert.
    for template in shown.split("{{").skip(1) {
        let template = template.split("}}").next().unwrap_or_default();
        let word = template.split('|').next().unwrap_or_default().trim();
        if word == "$value" {
            continue;
        }
        let label = word.strip_prefix("$labels.").unwrap_or(word);
        if !kept.contains(label) {
            faults.push(format!("the result has no label {label}"));
        }
    }
    faults
}

/// Each alert's expression, and its whole text. Those of the file are on one line, or indented further.
fn alerts() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file("alerts.yml")).unwrap();
    let rules = text.split("- alert: ").skip(1);
    let expression = |rule: &str| {
        let from = rule.split("expr:").nth(1).unwrap();
        let lines = from.lines().enumerate();
        let of_it =
            lines.take_while(|(number, line)| *number == 0 || line.starts_with("          "));
        of_it.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
    };
    rules
        .map(|rule| (expression(rule), rule.to_owned()))
        .collect()
}

#[test]
fn dashboard_and_alerts_name_only_series_and_labels_that_there_are() {
    let (panels, alerts) = (panels(), alerts());
    assert!(panels.len() > 60 && alerts.len() > 20);
    for (query, shown) in panels.iter().chain(&alerts) {
        // `up` is Prometheus's own.
        let faults = faults(query, shown);
        assert_eq!(faults, Vec::<String>::new(), "{query}");
    }
    let tests = std::fs::read_to_string(file("alerts.test.yml")).unwrap();
    let series = tests.lines().filter(|line| line.contains("series: '"));
    for series in series {
        assert_eq!(faults(series, ""), Vec::<String>::new(), "{series}");
    }
    // Each way to be wrong is found.
    for (query, shown) in [
        ("posthaste_delivery_attempt_total", ""),
        ("posthaste_delivery_seconds", ""),
        ("posthaste_delivery_attempts_total{outcom=\"deferred\"}", ""),
        (
            "posthaste_delivery_attempts_total{outcome=~\"delivered|defered\"}",
            "",
        ),
        ("posthaste_ready{instance=\"a\",outcome!=\"deferred\"}", ""),
        (
            "sum by (instance, provder) (posthaste_delivery_attempts_total)",
            "",
        ),
        (
            "sum by (instance) (posthaste_delivery_attempts_total)",
            "{{provider}}",
        ),
        ("posthaste_ready == 0", "{{ $labels.reader }}"),
    ] {
        assert_eq!(faults(query, shown).len(), 1, "{query} {shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_hold_what_their_tests_say() {
    let path = |name| file(name).display().to_string();
    promtool(&["check", "rules", &path("alerts.yml")], "").await;
    promtool(&["test", "rules", &path("alerts.test.yml")], "").await;
}

async fn prometheus(dir: &Path, node: &str) -> (Child, String) {
    let address = free_address().to_string();
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs:\n- job_name: posthaste\n  static_configs: [{{ targets: [\"{node}\"] }}]\n",
        file("alerts.yml").display()
    );
    let at = dir.join("prometheus.yml");
    std::fs::write(&at, config).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", at.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("prometheus: {error}; scripts/test installs it"));
    (child, format!("http://{address}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_scrapes_a_node_and_answers_all_that_dashboard_and_alerts_ask() {
    let dir = TempDir::new().unwrap();
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("gone@") => Answer::line("550 5.1.1 no such user"),
        Stage::Rcpt if line.contains("waits@") => Answer::line("451 4.7.1 not yet"),
        _ => Answer::Usual,
    })
    .await;
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    );
    write_config(dir.path(), &route);
    let node = NodeProcess::start(dir.path()).await;
    let recipients = ["a@example.org", "gone@example.org", "waits@example.org"];
    let mail = message("seen", "body");
    node.client().await.submit(&recipients, &mail).await;
    let (_, text) = node.get("/metrics").await;
    promtool(&["check", "metrics"], &text).await;

    let (mut server, url) = prometheus(dir.path(), &http_address(&node).await).await;
    let ask = async |expression: &str| {
        // Not before it listens.
        let said = Command::new("promtool")
            .args(["query", "instant", &url, expression])
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        said.status.success().then_some(text).ok_or(errors)
    };
    for expected in [
        "up{job=\"posthaste\"} == 1",
        "posthaste_delivery_attempts_total{outcome=\"deferred\",provider=\"other\"} >= 1",
        "posthaste_delivery_failures_total{cause=\"recipient-unknown\",outcome=\"bounced\"} >= 1",
        "posthaste_delivery_seconds_count{stream_kind=\"transactional\",provider=\"other\"} >= 1",
        "sum (posthaste_queue_age_recipients{stream_kind=\"transactional\",age=\"5m\"}) == 1",
        // Two scrapes make a rate.
        "rate(posthaste_http_requests_total{status=\"2xx\"}[1m]) > 0",
    ] {
        eventually(expected, async || {
            ask(expected)
                .await
                .ok()
                .filter(|text| !text.trim().is_empty())
        })
        .await;
    }
    for (expression, _) in panels() {
        if let Err(why) = ask(&expression).await {
            panic!("{expression}: {why}");
        }
    }
    // Nothing is wrong with this node.
    let firing = ask("ALERTS{alertstate=\"firing\"}").await.unwrap();
    assert_eq!(firing.trim(), "");
    server.kill().await.unwrap();
    node.stop().await;
}

async fn http_address(node: &NodeProcess) -> String {
    let line: Value = serde_json::from_str(&node.said("serving HTTP").await).unwrap();
    line["address"].as_str().unwrap().to_owned()
}
