//! A node in the test's own process, on ports of the system's choice and a directory of its own.

use std::net::SocketAddr;
use std::path::Path;

use posthaste::config::Config;
use posthaste::event::Event;
use posthaste::node::Node;
use tempfile::TempDir;

use super::client::Client;
use super::process::posthaste;

pub struct TestNode {
    pub node: Node,
    pub dir: TempDir,
    config: String,
}

/// An event with its own texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: &'static str,
    pub message_id: String,
    pub recipient: String,
    pub reply: String,
    pub cause: String,
    pub detail: String,
    pub remote_host: String,
    pub attempts: u16,
}

/// Short waits, so that a scenario with retries and silent hosts ends soon; loopback is trusted.
pub const COMMON: &str = r#"
[node]
hostname = "mta.test"
data_dir = "data"
[[smtp]]
bind = "127.0.0.1:0"
tls = "off"
trusted = [{ cidr = "127.0.0.0/8", server = "app" }]
[http]
time_zone = "UTC"
bind = "127.0.0.1:0"
[spool]
mail_segment = "4MiB"
event_segment = "1MiB"
reserve = "1MiB"
refuse_below = "1MiB"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{ name = "tx1", ip = "127.0.0.1", ehlo = "tx1.test" }]
[[server]]
name = "app"
tokens = ["app-secret-token"]
senders = "any"
[retry]
transactional = { first = "1s", max = "2s", max_age = "1h" }
"#;

impl TestNode {
    /// Everything goes to `remote`.
    pub async fn routed_to(remote: SocketAddr) -> Self {
        Self::with(&format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{remote}\"]\n"
        ))
        .await
    }

    /// The same, in a directory that was prepared for it.
    pub async fn routed_to_in(dir: TempDir, remote: SocketAddr) -> Self {
        Self::start(
            dir,
            format!("{COMMON}[[route]]\ndomain = \"*\"\nhosts = [\"{remote}\"]\n"),
        )
        .await
    }

    /// `extra` is appended to the common configuration.
    pub async fn with(extra: &str) -> Self {
        Self::start(TempDir::new().unwrap(), format!("{COMMON}{extra}")).await
    }

    /// As [`Self::with`], with another `ip` of the one source, and whatever else is given with it.
    pub async fn with_source(ip_and_more: &str, extra: &str) -> Self {
        let config = COMMON.replace("ip = \"127.0.0.1\"", ip_and_more);
        assert_ne!(config, COMMON);
        Self::start(TempDir::new().unwrap(), format!("{config}{extra}")).await
    }

    /// As [`Self::with`], but nothing that was deferred is tried again before an hour has passed.
    pub async fn that_waits_with(extra: &str) -> Self {
        let config = COMMON.replace(
            "first = \"1s\", max = \"2s\", max_age = \"1h\"",
            "first = \"1h\", max = \"2h\", max_age = \"1d\"",
        );
        assert_ne!(config, COMMON);
        Self::start(TempDir::new().unwrap(), format!("{config}{extra}")).await
    }

    /// With three more listeners that trust nobody: plain, STARTTLS, implicit TLS.
    pub async fn with_tls(extra: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("cert.pem"), identity.cert.pem()).unwrap();
        std::fs::write(
            dir.path().join("key.pem"),
            identity.signing_key.serialize_pem(),
        )
        .unwrap();
        let listener = |tls: &str, files: &str| {
            format!("[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"{tls}\"\n{files}trusted = []\n")
        };
        let files = "cert = \"cert.pem\"\nkey = \"key.pem\"\n";
        let listeners =
            listener("off", "") + &listener("starttls", files) + &listener("implicit", files);
        Self::start(dir, format!("{COMMON}{listeners}{extra}")).await
    }

    /// On `config`, the whole of it, in a directory that was prepared for it.
    pub async fn start(dir: TempDir, config: String) -> Self {
        let node = Node::start(load(dir.path(), &config)).await.unwrap();
        Self { node, dir, config }
    }

    /// Stops the node and starts it again on the same data, which in between add up.
    pub async fn restart(self) -> Self {
        self.restart_after(|_| ()).await
    }

    /// The same, with its data directory changed in between.
    pub async fn restart_after(self, change: impl FnOnce(&Path)) -> Self {
        let data_dir = self.data_dir();
        self.node.stop().await;
        posthaste(self.dir.path(), "audit").await.expect(0);
        change(&data_dir);
        Self::start(self.dir, self.config).await
    }

    /// Has the node read its configuration again, changed by `edit`.
    pub async fn reload(
        &self,
        edit: impl FnOnce(String) -> String,
    ) -> Result<(), posthaste::node::StartError> {
        self.node
            .reload(load(self.dir.path(), &edit(self.config.clone())))
            .await
    }

    pub fn smtp(&self) -> SocketAddr {
        self.node.smtp_addresses()[0]
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.smtp()).await
    }

    pub fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// Every durable event so far, without [what checks found](is_no_finding).
    pub fn events(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.read_events(self.node.spool().events.start(), &mut seen);
        seen.retain(is_no_finding);
        seen
    }

    /// Adds the durable events from `position` on; returns where they end.
    fn read_events(&self, mut position: u64, seen: &mut Vec<Seen>) -> u64 {
        while let Ok(Some((record, next))) = self.node.spool().events.next(position) {
            position = next;
            if let Ok(Some(event)) = Event::decode(&record.payload) {
                seen.push(seen_of(&event));
            }
        }
        position
    }

    /// Waits until the events satisfy `enough`, without [what checks found](is_no_finding).
    pub async fn events_until(&self, what: &str, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        self.wait_for(what, is_no_finding, enough).await
    }

    async fn wait_for(
        &self,
        what: &str,
        is_shown: impl Fn(&Seen) -> bool,
        enough: impl Fn(&[Seen]) -> bool,
    ) -> Vec<Seen> {
        let mut durable = self.node.spool().events.watch();
        let mut position = self.node.spool().events.start();
        let mut seen = Vec::new();
        let wait = async {
            loop {
                durable.borrow_and_update();
                position = self.read_events(position, &mut seen);
                seen.retain(&is_shown);
                if enough(&seen) {
                    return;
                }
                durable.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(super::PATIENCE, wait).await.is_err() {
            let last = &seen[seen.len().saturating_sub(20)..];
            panic!(
                "waited in vain for {what}; {} events, the last: {last:#?}",
                seen.len()
            );
        }
        seen
    }

    /// Waits for `count` events of `kind`.
    pub async fn events_of(&self, kind: &str, count: usize) -> Vec<Seen> {
        let what = format!("{count} events of kind {kind}");
        self.wait_for(
            &what,
            |event| event.kind == kind,
            |found| found.len() >= count,
        )
        .await
    }
}

/// What the timetable of checks finds about sources and domains comes when it comes: no test counts on it, or on its absence.
fn is_no_finding(event: &Seen) -> bool {
    !matches!(event.kind, "source_changed" | "domain_changed")
}

/// What [`TestNode::with`] runs on, for a node that is started from `dir` in another way.
pub fn write_config(dir: &Path, extra: &str) {
    std::fs::write(dir.join("posthaste.toml"), format!("{COMMON}{extra}")).unwrap();
}

fn load(dir: &Path, text: &str) -> Config {
    let file = dir.join("posthaste.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(&file, None).unwrap()
}

fn seen_of(event: &Event<'_>) -> Seen {
    Seen {
        kind: event.kind.as_str(),
        message_id: event.message_id.to_string(),
        recipient: event.recipient.to_owned(),
        reply: event.reply.to_owned(),
        cause: event.cause.to_owned(),
        detail: event.detail.to_owned(),
        remote_host: event.remote_host.to_owned(),
        attempts: event.attempts,
    }
}
