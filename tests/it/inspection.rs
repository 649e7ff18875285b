//! The commands that look into the spool, while a node takes mail, rolls segments and takes them back: no false damage, no
//! error, nothing acknowledged that is not shown; as another user; and on a copy made meanwhile.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::client::message;
use crate::support::node::COMMON;
use crate::support::process::{NodeProcess, posthaste};
use crate::support::remote_host::{Answer, RemoteHost, Stage};
use crate::support::within;

const SUBMISSIONS: usize = 350;
const DEFERRED_EVERY: usize = 25;

/// A node whose remote host takes everything but mail to `later@…`.
async fn node(dir: &Path) -> (NodeProcess, RemoteHost) {
    let remote = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("later") => Answer::line("450 4.2.1 later"),
        _ => Answer::Usual,
    })
    .await;
    let config = COMMON.replace(
        "first = \"1s\", max = \"2s\"",
        "first = \"1h\", max = \"2h\"",
    );
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        remote.address
    );
    std::fs::write(dir.join("posthaste.toml"), config + &route).unwrap();
    (NodeProcess::start(dir).await, remote)
}

fn recipient(number: usize) -> String {
    match number % DEFERRED_EVERY {
        0 => format!("later{number}@example.org"),
        _ => format!("r{number}@example.net"),
    }
}

fn content(number: usize) -> Vec<u8> {
    let line = format!("{number:06} 0123456789 0123456789 0123456789 0123456789\r\n");
    message(&format!("{number}"), &line.repeat(900))
}

/// Message ids in the rows of a listing.
fn ids(rows: &[serde_json::Value]) -> BTreeSet<String> {
    let id = |row: &serde_json::Value| row["message_id"].as_str().map(str::to_owned);
    rows.iter().filter_map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_beside_a_node_that_rolls_and_reclaims() {
    let dir = TempDir::new().unwrap();
    let (node, remote) = node(dir.path()).await;
    let mut client = node.client().await;
    let first = client.submit(&[&recipient(0)], &content(0)).await;
    let submissions = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for number in 1..SUBMISSIONS {
            acknowledged.push((
                number,
                client.submit(&[&recipient(number)], &content(number)).await,
            ));
        }
        acknowledged
    });
    let show = format!("spool show {first}");
    let cat = format!("spool cat {first}");
    let mut rounds = 0;
    while rounds < 2 || !submissions.is_finished() {
        for words in [
            "spool stat --json",
            "spool ls --limit 3 --json",
            "spool ls --state live --json",
            "spool verify --json",
            "spool at -1s --json",
            "audit --json",
            "events tail --no-follow -n 5 --json",
            "spool tail --no-follow -n 5 --json",
            &show,
            &cat,
        ] {
            let said = posthaste(dir.path(), words).await;
            // A second ago nothing may have waited yet.
            let expected = if words.starts_with("spool at") {
                said.code.min(1)
            } else {
                0
            };
            assert_eq!(
                said.code, expected,
                "{words}: {}{}",
                said.stdout, said.stderr
            );
            assert!(
                said.stderr.is_empty() || said.stderr.contains("--after"),
                "{words}: {}",
                said.stderr
            );
        }
        rounds += 1;
    }
    let acknowledged = submissions.await.unwrap();
    let delivered = (0..SUBMISSIONS).filter(|n| n % DEFERRED_EVERY != 0).count();
    remote.wait_for(delivered).await;
    node.stop().await;
    let waiting: BTreeSet<String> = acknowledged
        .iter()
        .filter(|(number, _)| number % DEFERRED_EVERY == 0)
        .map(|(_, id)| id.clone())
        .chain([first.clone()])
        .collect();
    let rows = posthaste(dir.path(), "spool ls --state live --json")
        .await
        .expect(0)
        .json();
    assert_eq!(ids(&rows), waiting);
    let said = posthaste(
        dir.path(),
        "spool ls --domain example.org --state live --json",
    )
    .await;
    assert_eq!(ids(&said.expect(0).json()), waiting);
    for id in waiting.iter().take(3) {
        let shown = posthaste(dir.path(), &format!("spool show --json {id}"))
            .await
            .expect(0)
            .object();
        assert_eq!(
            shown["envelope_recipients"][0]["state"], "deferred",
            "{shown}"
        );
        assert_eq!(shown["events"][1]["reply"], "450 4.2.1 later", "{shown}");
        assert!(shown["records"][0]["offset"].is_u64(), "{shown}");
    }
    let (number, id) = acknowledged
        .iter()
        .find(|(n, _)| n % DEFERRED_EVERY == 0)
        .unwrap();
    let kept = posthaste(dir.path(), &format!("spool cat {id}"))
        .await
        .expect(0)
        .stdout;
    assert!(
        kept.as_bytes().ends_with(&content(*number)),
        "{} octets",
        kept.len()
    );
    let sums = posthaste(dir.path(), "audit --json")
        .await
        .expect(0)
        .object();
    assert_eq!(sums["accepted"], SUBMISSIONS as u64);
    assert_eq!(sums["live"], waiting.len() as u64);
    posthaste(dir.path(), "spool verify").await.expect(0);
}

/// Everything below `from`, file by file, as `cp -r` does. What vanishes meanwhile is left out.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().flatten().collect();
    // Events before mail: what is told of a message is then never more than what is there of it.
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy(&from, &to),
            Ok(kind) if kind.is_file() => drop(std::fs::copy(from, to)),
            _ => {}
        }
    }
}

/// What was acknowledged before the copying began is whole in the copy; of what came meanwhile, the end may be torn.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_running_node_shows_all_that_was_acknowledged_before_it() {
    let dir = TempDir::new().unwrap();
    let (node, _remote) = node(dir.path()).await;
    let mut client = node.client().await;
    let mut before = BTreeSet::new();
    for number in 0..100 {
        let later = recipient(number * DEFERRED_EVERY);
        before.insert(client.submit(&[&later], &content(number)).await);
    }
    let meanwhile = tokio::spawn(async move {
        for number in 100..250 {
            client
                .submit(&[&recipient(number * DEFERRED_EVERY)], &content(number))
                .await;
        }
    });
    let copied = TempDir::new().unwrap();
    let (from, to) = (dir.path().join("data"), copied.path().join("data"));
    let copying = tokio::task::spawn_blocking(move || copy(&from, &to));
    within("the copy", copying).await.unwrap();
    within("the submissions", meanwhile).await.unwrap();
    node.stop().await;
    let rows = posthaste(copied.path(), "spool ls --state live --json")
        .await
        .expect(0)
        .json();
    let there = ids(&rows);
    assert!(
        before.is_subset(&there),
        "{} of {}",
        before.intersection(&there).count(),
        before.len()
    );
    let findings = posthaste(copied.path(), "spool verify --json").await.json();
    let hit = findings
        .iter()
        .flat_map(|f| f["message_ids"].as_array().cloned().unwrap_or_default());
    let hit: BTreeSet<String> = hit
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    assert!(before.is_disjoint(&hit), "{findings:#?}");
    for id in before.iter().step_by(20) {
        posthaste(copied.path(), &format!("spool cat {id}"))
            .await
            .expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_group_may_look_and_others_are_told_what_they_lack() {
    if !rustix::process::geteuid().is_root() {
        println!("not tested: only root can become another user");
        return;
    }
    let dir = TempDir::new().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (node, _remote) = node(dir.path()).await;
    let id = node
        .client()
        .await
        .submit(&[&recipient(0)], &content(0))
        .await;
    const NOBODY: u32 = 65_534;
    for (group, expected) in [(0, 0), (NOBODY, 73)] {
        for words in [
            "spool stat",
            "spool ls",
            "spool verify",
            "audit",
            "spool at -0s",
            &format!("spool cat {id}"),
        ] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
            command
                .uid(NOBODY)
                .gid(group)
                .current_dir("/")
                .args(words.split(' '));
            command.arg("--data-dir").arg(dir.path().join("data"));
            let output = match command.output().await {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    println!("not tested: another user may not run the program where it lies");
                    return;
                }
                output => output.unwrap(),
            };
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(expected),
                "{words} in group {group}: {stderr}"
            );
            assert_eq!(
                expected != 0,
                stderr.contains("a member of its group"),
                "{words}: {stderr}"
            );
        }
    }
    node.stop().await;
}

/// Two followers, begun before the first event, see every one of them exactly once: over rolls, and over a restart.
#[tokio::test(flavor = "multi_thread")]
async fn followers_go_on_over_rolls_and_restarts() {
    let dir = TempDir::new().unwrap();
    let (mut node, _remote) = node(dir.path()).await;
    let follow = |words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command
            .current_dir(dir.path())
            .args(words.split(' '))
            .args(["--data-dir", "data"]);
        let mut child = command
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let (_events, mut events) = follow("events tail -f --json --kind accepted");
    let (_mail, mut mail) = follow("spool tail -f --json --domain example.net");
    let mut expected = Vec::new();
    for round in 0..3 {
        let mut client = node.client().await;
        // Enough for the mail log to roll.
        for number in 0..40 {
            let number = 1 + round * 40 + number % (DEFERRED_EVERY - 1);
            let to = format!("r{number}@example.net");
            expected.push(client.submit(&[&to], &content(number)).await);
        }
        drop(client);
        node.stop().await;
        node = NodeProcess::start(dir.path()).await;
    }
    for lines in [&mut events, &mut mail] {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let line = within("a line", lines.next_line())
                .await
                .unwrap()
                .expect("the command goes on");
            let row: serde_json::Value = serde_json::from_str(&line).unwrap();
            seen.push(row["message_id"].as_str().unwrap().to_owned());
        }
        assert_eq!(seen, expected);
    }
    node.stop().await;
}
