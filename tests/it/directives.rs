//! Suspensions and reroutes: what they stop or send another way, restarts by force included, and what they refuse.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, Said, posthaste};
use crate::support::remote_host::RemoteHost;

const POOLS: &str = "[[server.stream]]\nid = \"outbound\"\ntype = \"transactional\"\npool = \"tx\"\n\
    [[pool]]\nname = \"tx2\"\nkind = \"transactional\"\nsources = [{ name = \"tx2\", ip = \"127.0.0.2\", ehlo = \"tx2.test\" }]\n\
    [[pool]]\nname = \"bulk\"\nkind = \"broadcast\"\nsources = [{ name = \"b1\", ip = \"127.0.0.3\", ehlo = \"b1.test\" }]\n";

struct World {
    dir: TempDir,
    node: NodeProcess,
    host: RemoteHost,
}

impl World {
    async fn start() -> Self {
        let (dir, host) = (TempDir::new().unwrap(), RemoteHost::start().await);
        let route = format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            host.address
        );
        write_config(dir.path(), &(POOLS.to_owned() + &route));
        let node = NodeProcess::start(dir.path()).await;
        Self { dir, node, host }
    }

    async fn run(&self, words: &str) -> Said {
        posthaste(self.dir.path(), words).await
    }

    async fn kill_and_start(&mut self) {
        // What a kill would repeat is not the point here.
        eventually("the end of what was delivered", async || {
            let events = self.events().await.into_iter();
            let delivered = events.filter(|event| event["kind"] == "delivered");
            (delivered.count() == self.taken().len()).then_some(())
        })
        .await;
        self.node.kill().await;
        self.node = NodeProcess::start(self.dir.path()).await;
        eventually("recovery", async || {
            (self.node.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }

    async fn submit(&self, to: &str, fields: &str) -> String {
        let content = message("subject", "body");
        let content = [fields.as_bytes(), &content[..]].concat();
        self.node.client().await.submit(&[to], &content).await
    }

    async fn events(&self) -> Vec<Value> {
        let said = self.run("events tail --no-follow --json").await;
        said.expect(0).json()
    }

    /// Who got something, in the order it came.
    fn taken(&self) -> Vec<String> {
        let taken = self.host.taken().into_iter();
        taken.flat_map(|taken| taken.recipients).collect()
    }

    async fn first_reason(&self, target: &str) -> Value {
        let said = self.run(&format!("queue explain {target} --json")).await;
        said.expect(0).object()["reasons"][0].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_suspended_stays_so_over_a_kill_until_it_is_resumed() {
    let mut world = World::start().await;
    world
        .run("queue suspend held.test --for 1h --reason blocked")
        .await
        .expect(0);
    let suspended = world
        .run("queue suspend --tag codes --server app --json")
        .await;
    assert_eq!(suspended.expect(0).object()["directive"]["id"], 2);
    let held = world.submit("a@held.test", "").await;
    let tagged = world.submit("b@free.test", "X-PM-Tag: codes\r\n").await;
    world.submit("c@free.test", "X-PM-Tag: news\r\n").await;
    world.host.wait_for(1).await;
    let reason = world.first_reason("held.test").await;
    assert_eq!(reason["code"], "suspended");
    assert!(reason["until"].is_string(), "{reason}");
    let sentence = reason["sentence"].as_str().unwrap();
    assert!(
        sentence.contains("blocked") && sentence.contains("queue resume --directive 1"),
        "{sentence}"
    );

    world.kill_and_start().await;
    let stand = world.run("queue directives --json").await.expect(0).json();
    let which: Vec<_> = stand.iter().map(|d| &d["selection"]).collect();
    assert_eq!(which[0]["domain"], "held.test");
    assert_eq!(
        (&which[1]["tag"], &which[1]["server"]),
        (&"codes".into(), &"app".into())
    );
    assert_eq!(stand[0]["reason"], "blocked");
    for target in [&held, &tagged] {
        assert_eq!(world.first_reason(target).await["code"], "suspended");
    }
    world.submit("d@held.test", "").await;
    world.run("queue retry --all --reason hope").await.expect(0);
    world.submit("e@free.test", "").await;
    world.host.wait_for(2).await;
    assert_eq!(world.taken(), ["c@free.test", "e@free.test"]);

    world
        .run("queue resume --directive 1 --reason over")
        .await
        .expect(0);
    world.host.wait_for(4).await;
    world.run("queue resume --tag news").await.expect(1);
    world.run("queue resume --tag codes").await.expect(0);
    world.host.wait_for(5).await;
    assert_eq!(world.taken()[4], "b@free.test");
    world.run("queue directives --json").await.expect(0).json();
    let told = ["suspended", "suspended", "retried", "resumed", "resumed"];
    eventually("the events of the verbs", async || {
        let events = world.events().await.into_iter();
        let of_verbs = events.filter(|event| event["recipient"].is_null());
        of_verbs
            .map(|event| event["kind"].clone())
            .eq(told)
            .then_some(())
    })
    .await;
    world.node.stop().await;
    posthaste(world.dir.path(), "audit").await.expect(0);
    posthaste(world.dir.path(), "spool verify").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_that_is_rerouted_leaves_from_the_other_pool_over_a_kill_until_that_ends() {
    let mut world = World::start().await;
    world.run("queue suspend --all").await.expect(0);
    world.submit("a@one.test", "").await;
    let second = world.submit("b@two.test", "").await;
    let third = world.submit("c@three.test", "X-PM-Tag: codes\r\n").await;
    for words in [
        "queue reroute one.test --to tx2 --reason listed",
        &format!("queue reroute {second} --to tx2"),
        "queue reroute --tag codes --to tx2",
    ] {
        let said = world
            .run(&format!("{words} --json"))
            .await
            .expect(0)
            .object();
        assert_eq!(said["ready"], 1, "{words}: {said}");
    }
    world.kill_and_start().await;
    for target in ["one.test", &second, &third] {
        let row = world.run(&format!("queue explain {target} --json")).await;
        let row = row.expect(0).object();
        assert_eq!(row["pool"], "tx2", "{row}");
        let codes: Vec<_> = row["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| &r["code"])
            .collect();
        assert_eq!(codes, ["rerouted", "suspended"]);
    }
    // By id, for the selection of everything would end all.
    world.run("queue resume --directive 1").await.expect(0);
    world.host.wait_for(3).await;
    assert!(
        world
            .host
            .peers()
            .iter()
            .all(|peer| peer.starts_with("127.0.0.2")),
        "{:?}",
        world.host.peers()
    );
    let resumed = world
        .run("queue resume --all --json")
        .await
        .expect(0)
        .json();
    assert_eq!(resumed.len(), 3);
    world.submit("d@one.test", "").await;
    world.host.wait_for(4).await;
    let last = world.host.peers().pop().unwrap();
    assert!(last.starts_with("127.0.0.1"), "{last}");
    world.node.stop().await;
    posthaste(world.dir.path(), "audit").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_mix_kinds_or_means_nothing_is_refused_with_a_sentence() {
    let world = World::start().await;
    world.run("queue suspend a.test").await.expect(0);
    world.submit("a@a.test", "").await;
    let none = "00000000-0000-7000-8000-000000000000";
    for (words, code, sentence) in [
        (
            "queue reroute a.test --to bulk",
            2,
            "1 waiting recipients of domain a.test are not Broadcast",
        ),
        (
            "queue reroute --pool tx --to bulk",
            2,
            "mail never changes its kind",
        ),
        (
            "queue reroute --pool tx --to tx",
            2,
            "that mail takes pool tx already",
        ),
        (
            "queue reroute a.test --to nowhere",
            2,
            "there is no pool \"nowhere\"",
        ),
        (
            "queue reroute a.test --to sandbox-transactional",
            2,
            "sandboxed",
        ),
        ("queue suspend", 2, "say which mail"),
        (
            "queue suspend --server nobody",
            2,
            "there is no server \"nobody\"",
        ),
        (
            "queue suspend --server app --stream nothing",
            2,
            "has no stream",
        ),
        (
            "queue suspend --source tx9",
            2,
            "there is no source \"tx9\"",
        ),
        ("queue suspend a.test --for soon", 2, "--for"),
        (&format!("queue suspend {none}"), 1, "no such message"),
        (
            &format!("queue suspend {none} --tag x"),
            2,
            "a message is named alone",
        ),
        (
            "queue resume --directive 99",
            1,
            "no suspension or reroute is meant",
        ),
        ("queue resume b.test", 1, "queue directives"),
        ("queue cancel --tag none", 1, ""),
    ] {
        let said = world.run(words).await.expect(code);
        assert!(said.stderr.contains(sentence), "{words}: {}", said.stderr);
    }
    let stand = world.run("queue directives --json").await.expect(0).json();
    assert_eq!(stand.len(), 1, "{stand:?}");
    // One whose time is over ends by itself.
    world.run("queue suspend b.test --for 1s").await.expect(0);
    world.submit("b@b.test", "").await;
    world.host.wait_for(1).await;
    eventually("the end of the second", async || {
        let stand = world.run("queue directives --json").await.expect(0).json();
        (stand.len() == 1).then_some(())
    })
    .await;
    world
        .run("queue cancel a.test --reason over")
        .await
        .expect(0);
    let cancelled = eventually("the cancelled one", async || {
        let mut events = world.events().await.into_iter();
        events.find(|event| event["kind"] == "cancelled")
    })
    .await;
    assert_eq!(
        cancelled["detail"],
        "Cancelled by the operator. Reason: over"
    );
    world.node.stop().await;
}
