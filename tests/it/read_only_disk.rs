//! The disk changes under a running node: its file system turns read-only, the device below it takes no more, a segment is
//! cut. What was acknowledged is there when the disk is well again. On file systems that only root can make.

use std::collections::HashSet;

use tempfile::TempDir;

use crate::support::client::{Client, message};
use crate::support::disk::{Kind, SmallDisk};
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, posthaste};
use crate::support::remote_host::{Gate, Taken};

/// The subjects that were acknowledged before something else was said.
async fn submit_until_refused(mut client: Client, first: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    loop {
        assert!(acknowledged.len() < 2_000, "everything is acknowledged");
        let subject = format!("message {}", first + acknowledged.len());
        let body = "0123456789abcdef0123456789abcdef\r\n".repeat(1_000);
        match client
            .try_submit("b@example.org", &message(&subject, &body))
            .await
        {
            Some((250, _)) => acknowledged.push(subject),
            Some((451 | 452 | 421, _)) | None => return acknowledged,
            Some((code, text)) => panic!("{code} {text}"),
        }
    }
}

fn subjects(taken: &[Taken]) -> HashSet<String> {
    let subject = |taken: &Taken| {
        let text = String::from_utf8_lossy(&taken.content).into_owned();
        let line = text.lines().find_map(|l| l.strip_prefix("Subject: "));
        line.map(str::to_owned)
    };
    taken.iter().filter_map(subject).collect()
}

async fn all_are_delivered(gate: &Gate, acknowledged: &[String]) {
    gate.open();
    gate.host
        .taken_until("everything acknowledged to be delivered", |taken| {
            let taken = subjects(taken);
            acknowledged.iter().all(|subject| taken.contains(subject))
        })
        .await;
}

async fn routed_to_a_gate(dir: &TempDir) -> Gate {
    let gate = Gate::closed().await;
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        gate.host.address
    );
    write_config(dir.path(), &route);
    gate
}

async fn turned_read_only(kind: Kind) {
    let dir = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("data"), kind) else {
        return;
    };
    let gate = routed_to_a_gate(&dir).await;
    let mut node = NodeProcess::start(dir.path()).await;
    let mut acknowledged = Vec::new();
    for n in 0..5 {
        let subject = format!("message {n}");
        let content = message(&subject, "body");
        node.client()
            .await
            .submit(&["b@example.org"], &content)
            .await;
        acknowledged.push(subject);
    }
    gate.host.wait_for_sessions(1).await;
    let client = node.client().await;
    disk.turn_read_only();
    let late = submit_until_refused(client, acknowledged.len()).await;
    assert!(late.is_empty(), "{late:?} on a read-only disk");
    let status = node.end().await;
    assert_eq!(status.code(), Some(74), "{:#?}", node.log());
    // Readers need no writable disk.
    posthaste(dir.path(), "spool verify").await.expect(0);

    disk.repair();
    let node = NodeProcess::start(dir.path()).await;
    all_are_delivered(&gate, &acknowledged).await;
    node.stop().await;
    posthaste(dir.path(), "audit").await.expect(0);
    posthaste(dir.path(), "spool verify").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_turns_read_only_ends_the_node_with_74_and_costs_nothing() {
    tokio::join!(
        turned_read_only(Kind::Ext4),
        turned_read_only(Kind::Ext4WithoutJournal)
    );
}

/// The image of the file system is a sparse file on another one that fills up: writes to blocks that it has succeed, all
/// others fail below the file system, where only a sync learns of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_takes_no_more_blocks_refuses_mail_and_costs_none() {
    let (dir, below) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let Some(_below) = SmallDisk::mount(&below.path().join("disk"), Kind::Tmpfs) else {
        return;
    };
    let image = below.path().join("disk/image");
    let data = dir.path().join("data");
    let Some(disk) = SmallDisk::mount_image(&data, Kind::Ext4, image) else {
        return;
    };
    let gate = routed_to_a_gate(&dir).await;
    let mut node = NodeProcess::start(dir.path()).await;
    let mut acknowledged = Vec::new();
    for n in 0..5 {
        let subject = format!("message {n}");
        let content = message(&subject, "body");
        node.client()
            .await
            .submit(&["b@example.org"], &content)
            .await;
        acknowledged.push(subject);
    }
    let client = node.client().await;
    let ballast = below.path().join("disk/ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    let filled = std::io::copy(&mut std::io::repeat(1), &mut file);
    assert!(filled.is_err(), "a disk of 24 MB has no end");
    drop(file);
    acknowledged.extend(submit_until_refused(client, acknowledged.len()).await);
    assert!(disk.free() > 1 << 20, "the file system itself has room");
    node.kill().await;

    std::fs::remove_file(&ballast).unwrap();
    disk.repair();
    let node = NodeProcess::start(dir.path()).await;
    all_are_delivered(&gate, &acknowledged).await;
    node.stop().await;
    posthaste(dir.path(), "audit").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_cut_under_a_running_node_stops_it_and_is_named() {
    let dir = TempDir::new().unwrap();
    let gate = routed_to_a_gate(&dir).await;
    let mut node = NodeProcess::start(dir.path()).await;
    let content = message("cut", "body");
    node.client()
        .await
        .submit(&["b@example.org"], &content)
        .await;
    gate.host.wait_for_sessions(1).await;
    let name = "0000000000000001.seg";
    let segment = dir.path().join("data/spool/mail").join(name);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .unwrap();
    file.set_len(4096).unwrap();
    gate.open();
    let line = node.said("SIGBUS").await;
    assert!(line.contains("mail/0000000000000001"), "{line}");
    assert_eq!(node.end().await.code(), Some(74));

    // What is gone is told, and what comes next is taken.
    let node = NodeProcess::start(dir.path()).await;
    node.said("damaged spool").await;
    let content = message("after", "body");
    node.client()
        .await
        .submit(&["c@example.org"], &content)
        .await;
    all_are_delivered(&gate, &["after".to_owned()]).await;
    node.stop().await;
}
