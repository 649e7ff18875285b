//! The disk does not take a sync any more (`strace` makes it so): nothing is acknowledged from then on, the process ends
//! with its own code, and the next start has everything that was acknowledged before.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use posthaste::clock::Clock;

use tempfile::TempDir;

use crate::support::client::{Client, message};
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, free_address, http, posthaste};
use crate::support::remote_host::{Gate, RemoteHost, Taken};

/// Runs a node whose disk fails from the sync on that `inject` (as strace takes it) and `on` (a path under the data
/// directory) choose, submits
/// until it refuses, and starts it again. Returns the subjects that were acknowledged.
async fn failing_from(inject: &str, on: Option<&str>) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let host = RemoteHost::start().await;
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            host.address
        ),
    );
    let inject = format!("inject={inject}");
    let path = on.map(|path| {
        dir.path()
            .join("data")
            .join(path)
            .to_string_lossy()
            .into_owned()
    });
    let mut wrapper = vec![
        "strace",
        "-f",
        "-o",
        "trace",
        "-e",
        "trace=fdatasync,pwrite64",
        "-e",
        &inject,
    ];
    wrapper.extend(path.iter().flat_map(|path| ["-P", path]));
    let mut node = NodeProcess::start_under(&wrapper, dir.path()).await;
    let smtp = node.smtp().await;

    let mut bystander = Client::connect(smtp).await;
    let mut client = Client::connect(smtp).await;
    let mut acknowledged = Vec::new();
    let refused = loop {
        assert!(
            acknowledged.len() < 200,
            "the disk fails and everything is acknowledged"
        );
        let subject = format!("message {}", acknowledged.len());
        match client
            .try_submit("b@example.org", &message(&subject, "body"))
            .await
        {
            Some((250, _)) => acknowledged.push(subject),
            refused => break refused,
        }
    };
    let refused_at = Clock::start().instant();
    match (&refused, on) {
        // Whose own sync fails is told so.
        (Some((code, text)), Some(MAIL)) => {
            assert!(*code == 451 && text.starts_with("4.3.0 "), "{code} {text}")
        }
        // When another sync failed, the node may be on its way out.
        (refused, _) => assert!(
            matches!(refused, None | Some((451 | 421, _))),
            "{refused:?}"
        ),
    }
    // Nobody else is acknowledged anything either, on an old connection or on a new one.
    let old = bystander
        .try_submit("c@example.org", &message("too late", "body"))
        .await;
    assert!(matches!(old, None | Some((451 | 421, _))), "{old:?}");
    let greeting = async {
        let stream = tokio::net::TcpStream::connect(smtp).await.ok()?;
        Client::over(stream).reply_or_end().await
    };
    // The node's end is what is waited for: once it is gone its port may be another test's, which may have nothing to say.
    let (greeting, status) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(10), greeting),
        node.end()
    );
    assert!(
        matches!(greeting, Err(_) | Ok(None | Some((421, _)))),
        "{greeting:?}"
    );
    assert_eq!(status.code(), Some(74), "{:#?}", node.log());
    assert!(
        refused_at.elapsed() < Duration::from_secs(10),
        "{:?}",
        refused_at.elapsed()
    );
    assert!(
        std::fs::read_to_string(dir.path().join("trace"))
            .unwrap()
            .contains("INJECTED")
    );

    let node = NodeProcess::start(dir.path()).await;
    let delivered = |taken: &[Taken]| {
        let subjects: HashSet<String> = taken
            .iter()
            .map(|taken| subject_of(&taken.content))
            .collect();
        acknowledged
            .iter()
            .all(|subject| subjects.contains(subject))
    };
    host.taken_until("everything acknowledged to be delivered", delivered)
        .await;
    node.client()
        .await
        .submit(&["d@example.org"], &message("after", "body"))
        .await;
    node.stop().await;
    posthaste(dir.path(), "audit").await.expect(0);
    posthaste(dir.path(), "spool verify").await.expect(0);
    acknowledged
}

fn subject_of(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    text.lines()
        .find_map(|line| line.strip_prefix("Subject: "))
        .unwrap_or_default()
        .to_owned()
}

const MAIL: &str = "spool/mail/0000000000000001.seg";
const EVENT: &str = "spool/event/0000000000000001.seg";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_never_a_250_and_ends_the_node_with_74_and_the_rest_is_delivered() {
    let (first, fourth, once, unwritten, events, any) = tokio::join!(
        failing_from("fdatasync:error=EIO:when=1+", Some(MAIL)),
        failing_from("fdatasync:error=EIO:when=4+", Some(MAIL)),
        // A second sync would succeed, and prove nothing.
        failing_from("fdatasync:error=EIO:when=6", Some(MAIL)),
        failing_from("pwrite64:error=ENOSPC:when=3", Some(MAIL)),
        failing_from("fdatasync:error=EIO:when=2+", Some(EVENT)),
        failing_from("fdatasync:error=EIO:when=12+", None),
    );
    let acknowledged = [&first, &fourth, &once, &unwritten].map(Vec::len);
    assert_eq!(acknowledged, [0, 3, 5, 2]);
    assert!(!events.is_empty() && !any.is_empty());
}

/// A node that has one message to deliver, and the addresses that it will listen on: nobody tells them while the disk fails.
struct Unsound {
    dir: TempDir,
    gate: Gate,
    smtp: SocketAddr,
    http: SocketAddr,
    node: NodeProcess,
}

impl Unsound {
    /// Starts it on a disk that fails the syncs of its probe, and waits until it knows.
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let gate = Gate::closed().await;
        let (smtp, http) = (free_address(), free_address());
        write_config(
            dir.path(),
            &format!(
                "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
                gate.host.address
            ),
        );
        let file = dir.path().join("posthaste.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        let config = config.replacen("\"127.0.0.1:0\"", &format!("\"{smtp}\""), 1);
        std::fs::write(
            &file,
            config.replacen("\"127.0.0.1:0\"", &format!("\"{http}\""), 1),
        )
        .unwrap();
        let node = NodeProcess::start(dir.path()).await;
        node.client()
            .await
            .submit(&["b@example.org"], &message("before", "body"))
            .await;
        gate.host.wait_for_sessions(1).await;
        node.stop().await;
        gate.open();

        let probe = dir.path().join("data/probe").to_string_lossy().into_owned();
        let inject = "inject=fdatasync:error=EIO";
        let wrapper = [
            "strace",
            "-D",
            "-f",
            "-o",
            "trace",
            "-e",
            "trace=fdatasync",
            "-e",
            inject,
            "-P",
            &probe,
        ];
        let node = NodeProcess::spawn(&wrapper, dir.path());
        node.said("the disk fails").await;
        Self {
            dir,
            gate,
            smtp,
            http,
            node,
        }
    }

    async fn refuses(&self) {
        let mut client = Client::connect_silently(self.smtp).await;
        let text = client.expect(421).await;
        assert!(text.starts_with("4.3.0 "), "{text}");
        assert_eq!(client.reply_or_end().await, None);
        let (status, text) = http(self.http, "/readyz", "").await;
        assert_eq!(status, 503);
        assert!(text.contains("disk"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_at_start_stays_up_and_refuses_until_it_is_told_to_stop() {
    let unsound = Unsound::start().await;
    for _ in 0..3 {
        unsound.refuses().await;
    }
    unsound.node.stop().await;
    assert!(unsound.gate.host.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_failed_at_start_is_probed_again_after_30_seconds_and_mail_goes_on() {
    let unsound = Unsound::start().await;
    let failed_at = Clock::start().instant();
    unsound.refuses().await;
    // The disk is well again.
    unsound.node.untraced();
    unsound.node.said("accepting submissions").await;
    assert!(
        failed_at.elapsed() > Duration::from_secs(28),
        "{:?}",
        failed_at.elapsed()
    );
    unsound.gate.host.wait_for(1).await;
    unsound
        .node
        .client()
        .await
        .submit(&["c@example.org"], &message("after", "body"))
        .await;
    unsound.gate.host.wait_for(2).await;
    assert_eq!(http(unsound.http, "/readyz", "").await.0, 200);
    unsound.node.stop().await;
    posthaste(unsound.dir.path(), "audit").await.expect(0);
}
