//! Events handed on to a NATS server with JetStream, Debian's, to a file and to standard output, over a kill of either.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use async_nats::jetstream::{self, stream};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::sending::post;
use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::{COMMON, TestNode, write_config};
use crate::support::process::{NodeProcess, free_address, posthaste};
use crate::support::remote_host::RemoteHost;

/// Its streams stay in `dir`.
async fn start_nats(dir: &Path, address: SocketAddr) -> Child {
    start_nats_with(&[], dir, address).await
}

async fn start_nats_with(words: &[&str], dir: &Path, address: SocketAddr) -> Child {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let child = Command::new("nats-server")
        .args(["-a", &host, "-p", &port, "-js", "-sd"])
        .arg(dir)
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("nats-server: {e}; scripts/test installs what the tests need"));
    eventually("the NATS server", async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
    child
}

/// Ids of the events in the stream, in its order; `None` while the server is away.
async fn ids(context: &jetstream::Context) -> Option<Vec<u64>> {
    let mut stream = context.get_stream("mail").await.ok()?;
    let last = stream.info().await.ok()?.state.last_sequence;
    let mut ids = Vec::new();
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.ok()?;
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let subject = format!("mail.app.outbound.{}", event["kind"].as_str().unwrap());
        assert_eq!(message.subject.as_str(), subject);
        ids.push(event["id"].as_u64().unwrap());
    }
    Some(ids)
}

async fn send(node: &TestNode, count: usize) {
    for _ in 0..count {
        let mail =
            json!({ "From": "orders@declared.example", "To": "b@a.example", "TextBody": "Hi." });
        let (status, answer) = post(node.node.http_address(), "/email", &mail).await;
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_and_a_file_have_every_event_once_and_in_order_over_restarts_of_either() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let mut nats = start_nats(dir.path(), address).await;
    let client = async_nats::connect(address.to_string()).await.unwrap();
    let context = jetstream::new(client);
    let stream = stream::Config {
        name: "mail".into(),
        subjects: vec!["mail.>".into()],
        ..stream::Config::default()
    };
    context.create_stream(stream).await.unwrap();

    let host = RemoteHost::start().await;
    let file = dir.path().join("events.jsonl");
    let config = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n\
         [[sink]]\nname = \"bus\"\ntype = \"nats\"\nurl = \"nats://{address}\"\nsubject = \"mail.{{server}}.{{stream}}.{{kind}}\"\nkinds = [\"accepted\", \"delivered\"]\n\
         [[sink]]\nname = \"lines\"\ntype = \"file\"\npath = {file:?}\nkinds = [\"delivered\"]\n",
        host.address
    );
    let node = TestNode::with(&config).await;
    send(&node, 3).await;
    eventually("six events", async || {
        (ids(&context).await?.len() == 6).then_some(())
    })
    .await;

    // Without the server mail goes on, and so does the file.
    nats.kill().await.unwrap();
    send(&node, 3).await;
    let lines = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let ids = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["id"].as_u64().unwrap()
        });
        ids.collect::<Vec<_>>()
    };
    eventually("six lines", async || (lines().len() == 6).then_some(())).await;
    let rows = posthaste(node.dir.path(), "readers ls --json").await;
    let rows = rows.expect(0).json();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert!(row("sink-bus")["lag_bytes"].as_u64().unwrap() > 0);
    assert_eq!(row("sink-lines")["lag_bytes"], 0);
    // Nor does the node's end lose what the server has not.
    let node = node.restart().await;
    nats = start_nats(dir.path(), address).await;
    send(&node, 1).await;
    let found = eventually("all events", async || {
        let found = ids(&context).await?;
        (found.len() == 14).then_some(found)
    })
    .await;
    assert!(found.is_sorted(), "{found:?}");
    eventually("seven lines", async || (lines().len() == 7).then_some(())).await;
    assert!(lines().is_sorted() && lines().iter().all(|id| found.contains(id)));
    node.node.stop().await;
    nats.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_behind_tls_is_believed_by_the_ca_file_and_not_without() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let identity = rcgen::generate_simple_self_signed([address.ip().to_string()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, identity.cert.pem()).unwrap();
    std::fs::write(&key, identity.signing_key.serialize_pem()).unwrap();
    let words = [
        "--tls",
        "--tlscert",
        cert.to_str().unwrap(),
        "--tlskey",
        key.to_str().unwrap(),
    ];
    let mut nats = start_nats_with(&words, dir.path(), address).await;
    let tls = posthaste::route::trust::client(Some(&cert)).await.unwrap();
    let options = async_nats::ConnectOptions::new().tls_client_config(tls);
    let client = options.connect(format!("tls://{address}")).await.unwrap();
    let context = jetstream::new(client);
    let stream = stream::Config {
        name: "mail".into(),
        subjects: vec!["mail.>".into()],
        ..stream::Config::default()
    };
    context.create_stream(stream).await.unwrap();

    let host = RemoteHost::start().await;
    let config = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n\
         [[sink]]\nname = \"bus\"\ntype = \"nats\"\nurl = \"tls://{address}\"\nsubject = \"mail.{{server}}.{{stream}}.{{kind}}\"\nkinds = [\"accepted\", \"delivered\"]\n",
        host.address
    );
    let node = TestNode::with(&config).await;
    send(&node, 1).await;
    let trouble = eventually("a trouble of the sink", async || {
        let rows = posthaste(node.dir.path(), "readers ls --json").await;
        let rows = rows.expect(0).json();
        let row = rows.iter().find(|row| row["name"] == "sink-bus").unwrap();
        row["trouble"].as_str().map(str::to_owned)
    })
    .await;
    assert!(trouble.contains("certificate"), "{trouble}");
    node.node.stop().await;
    let config = format!("{COMMON}{config}[tls]\nca_file = {cert:?}\n");
    let node = TestNode::start(node.dir, config).await;
    eventually("two events", async || {
        (ids(&context).await?.len() == 2).then_some(())
    })
    .await;
    node.node.stop().await;
    nats.kill().await.unwrap();
}

/// `-D` has [`NodeProcess`] believe that the shell steps aside, as it does.
const INTO: [&str; 4] = ["sh", "-c", "exec \"$@\" >>out.jsonl", "-D"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_output_has_every_event_and_holds_no_stop_when_nobody_reads_it() {
    let host = RemoteHost::start().await;
    let dir = tempfile::tempdir().unwrap();
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n[[sink]]\nname = \"out\"\ntype = \"stdout\"\nkinds = [\"accepted\", \"delivered\"]\n",
            host.address
        ),
    );
    let written = || {
        let text = ["out.jsonl", "piped.jsonl"]
            .map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default());
        let text = text.concat();
        // Without the empty lines that end a torn one, and without what is being written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines = text[..whole].lines().filter(|line| !line.is_empty());
        let ids = lines.map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["id"].as_u64().unwrap()
        });
        ids.collect::<BTreeSet<_>>()
    };
    let send = async |node: &NodeProcess, count: usize| {
        let mut client = node.client().await;
        for _ in 0..count {
            client
                .submit(&["b@a.example"], &message("hello", "body"))
                .await;
        }
    };
    let mut node = NodeProcess::start_under(&INTO, dir.path()).await;
    send(&node, 2).await;
    eventually("four events", async || (written().len() == 4).then_some(())).await;
    node.kill().await;

    // A pipe that nobody reads is full after 64 KiB.
    let full = ["sh", "-c", "exec \"$@\" >pipe", "-D"];
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let reader = OpenOptions::new().read(true).write(true).open(&pipe);
    let mut reader = reader.unwrap();
    let node = NodeProcess::start_under(&full, dir.path()).await;
    send(&node, 150).await;
    eventually("a sink that lags", async || {
        let lag = node.metric("posthaste_reader_lag_bytes{reader=\"sink-out\"}");
        (lag.await > 0.0).then_some(())
    })
    .await;
    let delivered = "posthaste_recipients_ended_total{outcome=\"delivered\"}";
    eventually("all are delivered", async || {
        (node.metric(delivered).await == 150.0).then_some(())
    })
    .await;
    node.stop().await;
    // What the pipe took; its last line broke off.
    let mut taken = vec![0; 1 << 20];
    let len = reader.read(&mut taken).unwrap();
    let whole = taken[..len].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    std::fs::write(dir.path().join("piped.jsonl"), &taken[..whole]).unwrap();

    let node = NodeProcess::start_under(&INTO, dir.path()).await;
    send(&node, 1).await;
    eventually("every event", async || {
        (written().len() == 306).then_some(())
    })
    .await;
    node.stop().await;
}
