//! Sources on other hosts, through real proxies: HAProxy, which binds the source's address, and microsocks.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::client::message;
use crate::support::node::{Seen, TestNode};
use crate::support::remote_host::RemoteHost;

struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts `program` and waits until it listens.
async fn start(program: &str, arguments: &[&str], port: u16) -> Proxy {
    let path = std::env::var("PATH").unwrap_or_default();
    let child = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs it"));
    let proxy = Proxy(child);
    crate::support::within(program, async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    proxy
}

impl Seen {
    fn is_of_attempt(&self) -> bool {
        self.kind != "accepted"
    }
}

/// Sends one message through a source with `proxy`; says how it ended, and why if it did not.
async fn send_through(source: &str, host: &RemoteHost) -> (String, String) {
    let config = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    );
    let node = TestNode::with_source(source, &config).await;
    let message = message("proxied", "hello");
    node.client()
        .await
        .submit(&["b@example.org"], &message)
        .await;
    let attempted = |events: &[Seen]| events.iter().any(Seen::is_of_attempt);
    let events = node
        .events_until("an attempt through a proxy", attempted)
        .await;
    node.node.stop().await;
    let event = events.into_iter().find(Seen::is_of_attempt).unwrap();
    (event.kind.to_owned(), event.detail)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_connects_from_the_address_that_the_source_names() {
    let host = RemoteHost::start().await;
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("haproxy.cfg");
    // Any address of 127/8 is local, so that the one of the source can be bound without a second machine.
    let text = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         frontend f\n bind 127.0.0.1:{port} accept-proxy\n default_backend b\n\
         backend b\n source 0.0.0.0 usesrc clientip\n server any 0.0.0.0:0\n"
    );
    std::fs::write(&config, text).unwrap();
    let arguments = ["-db", "-f", path(&config)];
    let proxy = start("haproxy", &arguments, port).await;
    let source = format!("ip = \"127.0.0.77\", proxy = \"haproxy://127.0.0.1:{port}\"");
    let (outcome, _) = send_through(&source, &host).await;
    assert_eq!(outcome, "delivered");
    assert_eq!(host.peers(), ["127.0.0.77"]);
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socks5_proxy_wants_its_password_and_a_wrong_one_is_the_sources_failure() {
    let host = RemoteHost::start().await;
    let port = free_port();
    let port_text = port.to_string();
    let arguments = [
        "-i",
        "127.0.0.1",
        "-p",
        &port_text,
        "-u",
        "mta",
        "-P",
        "open sesame",
    ];
    let proxy = start("microsocks", &arguments, port).await;
    let with = |password: &str| {
        format!(
            "ip = \"127.0.0.1\", proxy = \"socks5://127.0.0.1:{port}\", proxy_user = \"mta\", proxy_password = \"{password}\""
        )
    };
    let (outcome, _) = send_through(&with("open sesame"), &host).await;
    assert_eq!(outcome, "delivered");
    let (outcome, why) = send_through(&with("wrong"), &host).await;
    assert_eq!(outcome, "source_stopped");
    assert!(
        why.contains("refuses our user or password") || why.contains("closed"),
        "{why}"
    );
    drop(proxy);
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
