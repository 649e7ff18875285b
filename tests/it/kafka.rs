//! Events handed on to a broker of Kafka that we did not write, over its silence and the node's death.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::official_clients::CLIENTS;
use crate::support::client::message;
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, posthaste};
use crate::support::remote_host::RemoteHost;
use crate::support::{eventually, within};

struct Broker {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Broker {
    async fn start() -> Self {
        let mut child = Command::new("python3")
            .arg("kafka_broker.py")
            .env("PYTHONPATH", "python")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(CLIENTS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("python3: {e}; scripts/test installs what the tests need"));
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut broker = Self {
            child,
            orders,
            answers,
            address: String::new(),
        };
        broker.address = broker.answer("the broker").await;
        broker
    }

    async fn answer(&mut self, what: &str) -> String {
        let line = within(what, self.answers.next_line()).await.unwrap();
        line.unwrap_or_else(|| panic!("the broker ended before it answered: {what}"))
    }

    async fn ask(&mut self, order: &str) -> Value {
        let line = format!("{order}\n");
        self.orders.write_all(line.as_bytes()).await.unwrap();
        serde_json::from_str(&self.answer(order).await).unwrap()
    }

    /// All records once there are so many, by the key of each.
    async fn records(&mut self, wanted: usize) -> BTreeMap<String, Vec<Value>> {
        let found = self.ask(&format!("read mail {wanted}")).await;
        let mut by_key: BTreeMap<_, Vec<Value>> = BTreeMap::new();
        for record in found.as_array().unwrap() {
            let key = record["key"].as_str().unwrap();
            by_key.entry(key.into()).or_default().push(record.clone());
        }
        by_key
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap() as i32);
        kill_process(pid.unwrap(), signal).unwrap();
    }
}

async fn send(node: &NodeProcess, count: usize) {
    let mut client = node.client().await;
    for _ in 0..count {
        client
            .submit(&["b@a.example"], &message("hello", "body"))
            .await;
    }
}

/// Ids of the events of all messages, each in the order of its message.
fn ids(records: &BTreeMap<String, Vec<Value>>) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    for (key, of_message) in records {
        let partitions: BTreeSet<_> = of_message.iter().map(|r| r["partition"].as_u64()).collect();
        assert_eq!(partitions.len(), 1, "{key}: {of_message:#?}");
        let (mut last, mut kinds) = (0, Vec::new());
        for record in of_message {
            let event = &record["value"];
            let id = event["id"].as_u64().unwrap();
            assert_eq!(event["message_id"], **key);
            assert_eq!(record["headers"]["id"], id.to_string());
            assert_eq!(record["headers"]["node"], "mta.test");
            assert_eq!(record["headers"]["kind"], event["kind"]);
            assert!(record["at"].as_u64().unwrap() > 1_700_000_000_000);
            // What comes again has the same id; nothing new comes before what was earlier.
            assert!(id > last || all.contains(&id), "{of_message:#?}");
            last = last.max(id);
            if all.insert(id) {
                kinds.push(event["kind"].as_str());
            }
        }
        assert_eq!(kinds, [Some("accepted"), Some("delivered")]);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_has_every_event_in_the_order_of_its_message_over_its_silence_and_the_nodes_death()
{
    let mut broker = Broker::start().await;
    let host = RemoteHost::start().await;
    let dir = TempDir::new().unwrap();
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n\
             [[sink]]\nname = \"bus\"\ntype = \"kafka\"\nbrokers = [\"{}\"]\ntopic = \"mail\"\nkinds = [\"accepted\", \"delivered\"]\n\
             [[sink]]\nname = \"lines\"\ntype = \"file\"\npath = \"events.jsonl\"\nkinds = [\"delivered\"]\n",
            host.address, broker.address
        ),
    );
    let lines = || {
        let text = std::fs::read_to_string(dir.path().join("events.jsonl"));
        text.unwrap_or_default().lines().count()
    };
    let mut node = NodeProcess::start(dir.path()).await;
    send(&node, 5).await;

    // Without its topic the operator reads what to do, and nothing is lost.
    let trouble = eventually("a trouble of the sink", async || {
        let rows = posthaste(dir.path(), "readers ls --json")
            .await
            .expect(0)
            .json();
        let row = rows.iter().find(|row| row["name"] == "sink-bus").unwrap();
        row["trouble"].as_str().map(str::to_owned)
    })
    .await;
    assert!(trouble.contains("there is no topic `mail`"), "{trouble}");
    assert_eq!(broker.ask("create mail").await, 4);
    let found = broker.records(10).await;
    assert_eq!((found.len(), ids(&found).len()), (5, 10));

    // One that is silent delays nobody else, and the node may die before it speaks again.
    broker.signal(Signal::STOP);
    send(&node, 5).await;
    eventually("ten lines", async || (lines() == 10).then_some(())).await;
    node.kill().await;
    broker.signal(Signal::CONT);
    node = NodeProcess::start(dir.path()).await;
    send(&node, 1).await;
    let found = broker.records(22).await;
    assert_eq!((found.len(), ids(&found).len()), (11, 22));
    node.stop().await;
}
