//! `posthaste trace` beside a node that delivers: who watches sees the dialogue and nothing of the content.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::client::message;
use crate::support::node::TestNode;
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, RemoteHost, Stage};
use crate::support::within;

struct Watcher {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    /// Open as long as it may say something there.
    _said: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
}

impl Watcher {
    /// Returns once the node knows of it.
    async fn start(dir: &Path, filter: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .current_dir(dir)
            .args(["trace", "--json", "--data-dir", "data"])
            .args(filter.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = within("the watcher", said.next_line()).await.unwrap();
        assert_eq!(first.as_deref(), Some("following; Ctrl-C ends it"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            _said: said,
        }
    }

    async fn until(&mut self, last: &str) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let line = within(last, self.lines.next_line()).await.unwrap();
            let line: Value = serde_json::from_str(&line.expect("the trace goes on")).unwrap();
            let text = line["text"].as_str().unwrap().to_owned();
            seen.push(line);
            if text.contains(last) {
                return seen;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dialogue_is_shown_to_whom_it_concerns_and_without_its_content() {
    let remote = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("odd") => Answer::line("550 5.1.1 \x1b[2Jno \u{202e}such"),
        _ => Answer::Usual,
    })
    .await;
    let node = TestNode::routed_to(remote.address).await;
    let dir = node.dir.path();
    let mut all = Watcher::start(dir, "").await;
    let mut one = Watcher::start(dir, "--domain one.test").await;
    let mut client = node.client().await;
    let mine = client
        .submit(&["a@one.test"], &message("hidden", "SECRET"))
        .await;
    let of_one = one.until("octets of content]").await;
    let texts: Vec<_> = of_one.iter().map(|l| l["text"].as_str().unwrap()).collect();
    assert!(
        texts[0].starts_with("220 "),
        "from the banner on: {texts:?}"
    );
    assert!(texts.iter().any(|t| t.starts_with("EHLO ")), "{texts:?}");
    assert!(texts.contains(&"RCPT TO:<a@one.test>"), "{texts:?}");
    let rcpt = of_one.iter().find(|l| l["text"] == "RCPT TO:<a@one.test>");
    let rcpt = rcpt.unwrap();
    assert_eq!(rcpt["voice"], "client");
    assert_eq!(rcpt["messages"], serde_json::json!([mine]));
    one.until("250").await;

    // The same connection serves others, whom this does not concern.
    let other = client
        .submit(&["odd@two.test"], &message("hidden", "SECRET"))
        .await;
    let of_all = all.until("\\u{202e}such").await;
    client
        .submit(&["b@one.test"], &message("hidden", "SECRET"))
        .await;
    let later = one.until("RCPT TO:<b@one.test>").await;
    let about_two = |line: &&Value| line.to_string().contains("two.test");
    assert_eq!(later.iter().find(about_two), None);
    assert!(of_all.iter().any(|l| l["text"] == "RCPT TO:<a@one.test>"));
    let refusal = of_all.iter().find(|l| {
        let text = l["text"].as_str().unwrap();
        text == "550 5.1.1 \\x1b[2Jno \\u{202e}such"
    });
    let refusal = refusal.expect("what steers a terminal is escaped");
    assert_eq!(refusal["voice"], "host");
    assert_eq!(refusal["messages"], serde_json::json!([other]));
    for line in of_all.iter().chain(&of_one) {
        assert!(!line.to_string().contains("SECRET"), "{line}");
    }

    let said = posthaste(dir, "trace --source nowhere").await;
    assert_eq!(said.code, 2);
    assert!(
        said.stderr.contains("no source `nowhere`"),
        "{}",
        said.stderr
    );

    // Who watches does not hold up the end of the node, and is told.
    within("the stop", node.node.stop()).await;
    let status = within("the watcher's end", all.child.wait()).await;
    assert_eq!(status.unwrap().code(), Some(69));
}
