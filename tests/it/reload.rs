//! SIGHUP: what can be read again is, all of it or nothing; what needs a restart says so.

use crate::support::client::{Client, auth_plain, message};
use crate::support::node::TestNode;
use crate::support::remote_host::RemoteHost;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_trust_are_read_again_and_a_changed_pool_needs_a_restart() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    node.client()
        .await
        .submit(&["b@example.org"], &message("before", "body"))
        .await;

    // Another second pool would shift the places that accepted mail is assigned to.
    let with_pool = "[[pool]]\nname = \"bulk\"\nkind = \"broadcast\"\nsources = [{ name = \"b1\", ip = \"127.0.0.9\", ehlo = \"b1.test\" }]\n";
    let refused = node.reload(|text| text.replace("trusted = [", "trusted = [] # [") + with_pool);
    let error = refused.await.unwrap_err().to_string();
    assert!(error.contains("restart"), "{error}");
    // Nothing of it was taken over: the network is still trusted.
    node.client()
        .await
        .submit(&["b@example.org"], &message("still", "body"))
        .await;

    node.reload(|text| {
        text.replace("trusted = [", "trusted = [] # [")
            .replace("app-secret-token", "another-token")
    })
    .await
    .unwrap();
    let mut stranger = Client::connect(node.smtp()).await;
    stranger.command("MAIL FROM:<a@example.com>", 250).await;
    stranger.command("RCPT TO:<b@example.org>", 530).await;
    stranger.command("RSET", 250).await;
    stranger.command(&auth_plain("app-secret-token"), 535).await;
    stranger.command(&auth_plain("another-token"), 235).await;
    stranger
        .submit(&["c@example.org"], &message("after", "body"))
        .await;
    host.wait_for(3).await;
    node.node.stop().await;
}
