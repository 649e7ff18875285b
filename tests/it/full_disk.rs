//! The spool's disk fills up, by others or by mail: new mail is refused for now, accepted mail is delivered and its outcomes
//! are recorded, and it ends by itself. On a file system of its own, which only root can make.

use tempfile::TempDir;

use crate::support::client::{Client, message};
use crate::support::disk::{Kind, SmallDisk};
use crate::support::node::{COMMON, TestNode};
use crate::support::process::posthaste;
use crate::support::remote_host::Gate;
use crate::support::within;

/// Submits until `wanted` comes for it; returns how many were taken on the way. Each round trip is its own pause.
async fn submit_until(node: &TestNode, wanted: u16, content: &[u8]) -> usize {
    let what = format!("a {wanted} for new mail");
    within(&what, async {
        let mut taken = 0;
        loop {
            let (code, text) = Client::connect(node.smtp())
                .await
                .try_submit("b@example.org", content)
                .await
                .unwrap();
            taken += usize::from(code == 250);
            match code {
                250 => {}
                452 => assert!(text.starts_with("4.3.1 "), "{text}"),
                _ => panic!("{code} {text}"),
            }
            if code == wanted {
                return taken;
            }
        }
    })
    .await
}

/// Every recipient was announced, and has ended well.
async fn all_delivered(node: &TestNode, count: usize) {
    node.events_of("delivered", count).await;
    let events = node.events();
    for kind in ["accepted", "delivered"] {
        assert_eq!(
            events.iter().filter(|e| e.kind == kind).count(),
            count,
            "{kind}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_others_filled_accepted_mail_is_delivered_and_new_mail_waits_for_space() {
    tokio::join!(
        filled_by_others(Kind::Tmpfs),
        filled_by_others(Kind::Ext4),
        filled_by_others(Kind::Ext4WithoutJournal)
    );
}

async fn filled_by_others(kind: Kind) {
    let dir = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("data"), kind) else {
        return;
    };
    let gate = Gate::closed().await;
    let node = TestNode::routed_to_in(dir, gate.host.address).await;
    for n in 0..3 {
        node.client()
            .await
            .submit(&["b@example.org"], &message(&format!("early {n}"), "body"))
            .await;
    }
    node.events_of("deferred", 3).await;

    let ballast = node.data_dir().join("ballast");
    std::fs::write(&ballast, vec![0; (disk.free() - (256 << 10)) as usize]).unwrap();
    let mut count = 3 + submit_until(&node, 452, &message("meanwhile", "body")).await;
    gate.open();
    all_delivered(&node, count).await;
    let (code, _) = node
        .client()
        .await
        .try_submit("b@example.org", &message("still full", "body"))
        .await
        .unwrap();
    assert_eq!(code, 452);
    let (_, ready) = crate::support::process::http(node.node.http_address(), "/readyz", "").await;
    assert!(ready.contains("disk"), "{ready}");

    std::fs::remove_file(&ballast).unwrap();
    count += submit_until(&node, 250, &message("space again", "body")).await;
    all_delivered(&node, count).await;
    node.node.stop().await;
    posthaste(node.dir.path(), "audit").await.expect(0);
    posthaste(node.dir.path(), "spool verify").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_mail_filled_empties_itself_by_delivery() {
    let dir = TempDir::new().unwrap();
    let Some(_disk) = SmallDisk::mount(&dir.path().join("data"), Kind::Tmpfs) else {
        return;
    };
    let gate = Gate::closed().await;
    let node = TestNode::routed_to_in(dir, gate.host.address).await;
    let large = message(
        "large",
        &"0123456789abcdef0123456789abcdef\r\n".repeat(15_000),
    );
    let larger = message(
        "in content records",
        &"0123456789abcdef0123456789abcdef\r\n".repeat(45_000),
    );
    let mut count = 0;
    for _ in 0..2 {
        node.client()
            .await
            .submit(&["b@example.org"], &larger)
            .await;
        count += 1;
    }
    count += submit_until(&node, 452, &large).await;
    assert!(
        count > 10,
        "the disk of 24 MB took {count} messages of 0.5 MB"
    );

    gate.open();
    all_delivered(&node, count).await;
    let more = submit_until(&node, 250, &large).await;
    all_delivered(&node, count + more).await;
    // It is no smaller than it was: what was delivered made room.
    for _ in 0..count {
        submit_until(&node, 250, &large).await;
    }
    all_delivered(&node, count + more + count).await;
    for taken in gate.host.taken() {
        assert!(taken.content.len() > 500_000);
    }
    node.node.stop().await;
    posthaste(node.dir.path(), "spool verify").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_of_accepted_mail_have_their_space_however_full_mail_made_the_disk() {
    let dir = TempDir::new().unwrap();
    let Some(_disk) = SmallDisk::mount(&dir.path().join("data"), Kind::Tmpfs) else {
        return;
    };
    let gate = Gate::closed().await;
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        gate.host.address
    );
    let config = COMMON.replace("reserve = \"1MiB\"", "reserve = \"8MiB\"") + &route;
    assert!(config.contains("8MiB"));
    // So that whole segments of mail would fill the disk to its end.
    std::fs::write(dir.path().join("data/ballast"), vec![0; 1_300 << 10]).unwrap();
    let node = TestNode::start(dir, config).await;

    // Few octets of mail, many outcomes: more than the event log's prepared segments (1 MiB each) hold.
    let recipients: Vec<String> = (0..900).map(|n| format!("r{n}@example.org")).collect();
    let list: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let content = message(
        "many outcomes",
        &"0123456789abcdef0123456789abcdef\r\n".repeat(15_000),
    );
    let mut count = 0;
    for _ in 0..8 {
        node.client().await.submit(&list, &content).await;
        count += list.len();
    }
    count += submit_until(&node, 452, &content).await;
    gate.open();
    all_delivered(&node, count).await;
    let segments = node.node.spool().events.stat().segments;
    assert!(segments > 2, "{segments}");
    node.node.stop().await;
    posthaste(node.dir.path(), "audit").await.expect(0);
}

/// Its file is a link to a disk of its own, so that mail has all the room that it needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_on_while_the_disk_of_the_account_store_is_full() {
    let dir = TempDir::new().unwrap();
    let accounts = dir.path().join("accounts");
    let Some(disk) = SmallDisk::mount(&accounts, Kind::Tmpfs) else {
        return;
    };
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let link = dir.path().join("data/account.db");
    std::os::unix::fs::symlink(accounts.join("account.db"), link).unwrap();
    let gate = Gate::closed().await;
    gate.open();
    let node = TestNode::routed_to_in(dir, gate.host.address).await;
    let command = async |words: String| posthaste(node.dir.path(), &words).await;
    command("server create shop".into()).await.expect(0);

    let ballast = accounts.join("ballast");
    std::fs::write(&ballast, vec![0; disk.free() as usize]).unwrap();
    let mut refused = None;
    for n in 0..500 {
        let said = command(format!("server create further-{n}")).await;
        if said.code != 0 {
            refused = Some(said);
            break;
        }
    }
    let refused = refused.expect("a change that fails");
    assert!(
        refused.stderr.contains("the disk is full"),
        "{}",
        refused.stderr
    );
    node.client()
        .await
        .submit(&["b@example.org"], &message("meanwhile", "body"))
        .await;
    all_delivered(&node, 1).await;
    let listed = command("server ls".into()).await.expect(0);
    assert!(listed.stdout.contains("shop"));
    let ready = || crate::support::process::http(node.node.http_address(), "/readyz", "");
    let (code, said) = ready().await;
    assert_eq!(code, 200, "{said}");
    assert!(said.contains("settings cannot be changed"), "{said}");

    std::fs::remove_file(&ballast).unwrap();
    command("server create after".into()).await.expect(0);
    assert_eq!(ready().await.1, "ready\n");
    node.node.stop().await;
}
