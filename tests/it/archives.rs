//! Content that everybody is done with: kept compressed for as long as its stream says, and read as before.

use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::{COMMON, TestNode};
use crate::support::process::{http, posthaste};
use crate::support::remote_host::RemoteHost;
use tempfile::TempDir;

const OTP: &str = "[[server.stream]]\nid = \"otp\"\ntype = \"transactional\"\nretention = \"0d\"\n";

/// Half a megabyte, so that a few fill a segment.
fn filler(number: usize) -> Vec<u8> {
    message(
        &format!("filler {number}"),
        &"0123456789abcdef0123456789abcdef\r\n".repeat(15_000),
    )
}

fn on_stream(stream: &str, content: &[u8]) -> Vec<u8> {
    let mut field = format!("X-PM-Message-Stream: {stream}\r\n").into_bytes();
    field.extend_from_slice(content);
    field
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_mail_is_read_from_its_archive_and_what_is_not_to_be_kept_is_gone() {
    let remote = RemoteHost::start().await;
    let common = COMMON.replace("[retry]", &format!("{OTP}[retry]"));
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        remote.address
    );
    let node = TestNode::start(TempDir::new().unwrap(), common + &route).await;
    let mut client = node.client().await;
    let kept = message("keep me", "for forty-five days");
    let kept = client.submit(&["kept@example.org"], &kept).await;
    let long = message("long", &"content in records of its own\r\n".repeat(50_000));
    let long = client.submit(&["long@example.org"], &long).await;
    let code = on_stream("otp", &message("your code", "the code is 314159"));
    let code = client.submit(&["code@example.org"], &code).await;
    let large = message(
        "codes",
        &"the codes are 271828 and 161803\r\n".repeat(45_000),
    );
    let large = client
        .submit(&["large@example.org"], &on_stream("otp", &large))
        .await;
    for number in 0..18 {
        client
            .submit(&["filler@example.org"], &filler(number))
            .await;
    }
    node.events_of("delivered", 22).await;
    let dir = node.dir.path();
    let archived = async || {
        let stat = node.node.spool().mail.stat();
        (stat.archives >= 2 && stat.reclaimed >= 2).then_some(())
    };
    eventually("the first segments are archived", archived).await;
    assert!(!dir.join("data/spool/mail/0000000000000001.seg").exists());

    let taken = remote.taken();
    let delivered_to = |recipient: &str| {
        let path = format!("<{recipient}>");
        let one = taken.iter().find(|t| {
            t.recipients
                .iter()
                .any(|r| r.contains(&path[1..path.len() - 1]))
        });
        String::from_utf8(one.unwrap().content.clone()).unwrap()
    };
    for (id, recipient) in [(&kept, "kept@example.org"), (&long, "long@example.org")] {
        let said = posthaste(dir, &format!("spool cat {id}")).await.expect(0);
        assert_eq!(said.stdout, delivered_to(recipient), "{recipient}");
    }
    for id in [&code, &large] {
        let said = posthaste(dir, &format!("spool cat {id}")).await;
        assert_ne!(said.code, 0, "{said:?}");
        assert!(!said.stdout.contains("314159") && !said.stdout.contains("271828"));
    }
    posthaste(dir, "spool verify").await.expect(0);
    // Content that is over was erased on the way into the archives, and their digests are those of the segments.
    let audit = posthaste(dir, "audit --content --json").await.expect(0);
    let digests = &audit.object()["digests"];
    assert!(digests["agree"].as_u64().unwrap() >= 2, "{digests}");
    let (_, metrics) = http(node.node.http_address(), "/metrics", "").await;
    // Nodes of other tests in this process count there too.
    assert!(metrics.contains("posthaste_spool_archives{log=\"mail\"}"));

    // The same, after a restart; and in the same place until a sweep finds that it is over.
    let node = node.restart().await;
    let dir = node.dir.path();
    posthaste(dir, &format!("spool cat {kept}")).await.expect(0);
    let shorter = |config: String| {
        config.replace(
            "retention = \"0d\"\n",
            "retention = \"0d\"\n[[server.stream]]\nid = \"outbound\"\nretention = \"0d\"\n",
        )
    };
    node.reload(shorter).await.unwrap();
    let gone = async || {
        let said = posthaste(node.dir.path(), &format!("spool cat {kept}")).await;
        (said.code != 0).then_some(())
    };
    eventually("a shorter retention counts at once", gone).await;
}
