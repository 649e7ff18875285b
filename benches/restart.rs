//! Budget of a restart: a node with many queued recipients is killed with SIGKILL and started again.
//!
//! `cargo bench --bench restart`; `RESTART_RECIPIENTS` (1,000,000), `RESTART_DOMAINS` (100,000) and `RESTART_DIR` (default: the
//! system's temporary directory) choose what is made. Each message has one recipient and some 1 KB; its *accepted* event
//! is in the log. Targets: 1,000,000 recipients are with the scheduler within 2 s, 10,000,000 within 15 s, at 64 bytes of
//! resident memory each, all in. At last it runs `posthaste audit` over all of it: time and memory. The physical limit beside it is the time to read the bytes that the start reads.

#![expect(clippy::print_stdout, reason = "a bench speaks to a person")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use posthaste::clock::Clock;
use posthaste::event::{Event, EventKind};
use posthaste::mail::MessageId;
use posthaste::spool::disk::real::RealDisk;
use posthaste::spool::{Damage, Frame, Log, LogKind, Options, Replay, Spool};
use spool_format::{Content, MessageRecord, Recipient, StreamKind, kind};

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, damage: &Damage) {
        panic!("{damage:?}");
    }
}

fn main() {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok();
        given.map_or(default, |text| text.parse().expect(name))
    };
    let recipients = number("RESTART_RECIPIENTS", 1_000_000);
    let domains = number("RESTART_DOMAINS", 100_000);
    let base = std::env::var_os("RESTART_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("posthaste-restart-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory for the bench");
    let clock = Clock::start();
    let started = clock.instant();
    generate(&dir, clock, recipients, domains);
    let spent = started.elapsed().as_secs_f64();
    println!("{recipients} recipients at {domains} domains made in {spent:.1} s");

    let host = RemoteHost::start(clock);
    write_config(&dir, host.address);
    println!(
        "{:>28} {:>8} {:>8} {:>9} {:>9} {:>9} {:>8}",
        "start", "ready s", "first s", "RSS MiB", "anon MiB", "peak MiB", "B/recip"
    );
    let run = |what: &str| {
        host.forget();
        let node = Node::start(&dir, clock);
        let ready = node.until_ready();
        let first = host.first_attempt_after(node.started);
        let memory = node.memory();
        assert_eq!(node.recovered(), recipients, "recipients were lost");
        println!(
            "{:>28} {:>8.2} {:>8.2} {:>9.0} {:>9.0} {:>9.0} {:>8.1}",
            what,
            ready.as_secs_f64(),
            first.as_secs_f64(),
            memory.resident as f64 / 1024.0,
            memory.anonymous as f64 / 1024.0,
            memory.peak as f64 / 1024.0,
            memory.resident as f64 * 1024.0 / recipients as f64,
        );
        node
    };
    let node = run("without a checkpoint");
    node.settle();
    node.kill();
    for round in 1..=3 {
        let node = run(&format!("after kill -9, warm {round}"));
        node.kill();
    }
    if fs::write("/proc/sys/vm/drop_caches", "3").is_ok() {
        let node = run("after kill -9, cache dropped");
        node.kill();
    }
    let (bytes, took) = read_all(&dir.join("data/spool/checkpoint"));
    println!(
        "the checkpoint is {bytes} bytes ({:.1} a recipient); reading it takes {:.3} s",
        bytes as f64 / recipients as f64,
        took.as_secs_f64()
    );
    audit(&dir.join("data"), clock);
    fs::remove_dir_all(&dir).expect("removing the bench's directory");
}

/// What `posthaste audit` needs for the whole of it.
fn audit(data: &Path, clock: Clock) {
    let started = clock.instant();
    let mut child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["audit", "--data-dir"])
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the audit starts");
    let mut peak = 0;
    let status = loop {
        peak = peak.max(memory_of(&child).peak);
        match child.try_wait().expect("its state") {
            Some(status) => break status,
            None => std::thread::sleep(POLL),
        }
    };
    println!(
        "audit: {status}, {:.1} s, peak {:.0} MiB (maps of the logs included)",
        (clock.instant() - started).as_secs_f64(),
        peak as f64 / 1024.0
    );
}

/// All zeros once it has ended.
fn memory_of(child: &Child) -> Memory {
    let path = format!("/proc/{}/status", child.id());
    let status = fs::read_to_string(path).unwrap_or_default();
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    Memory {
        resident: value("VmRSS:"),
        anonymous: value("RssAnon:"),
        peak: value("VmHWM:"),
    }
}

/// Queued mail through the engine itself: records and events as the node writes them.
fn generate(dir: &Path, clock: Clock, recipients: u64, domains: u64) {
    let mut options = Options::new(dir.join("data"));
    options.any_file_system = true;
    options.reserve = 0;
    options.refuse_below = 0;
    let spool = Spool::open(Arc::new(RealDisk::new()), options, clock, &mut Nothing);
    let spool = spool.expect("a spool");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut at = 0;
        let mut payload = Vec::new();
        while at < recipients {
            let end = recipients.min(at + CHUNK);
            let first_ms = clock.unix_ms();
            let id = |number: u64| {
                let mut random = [0; 10];
                random[..8]
                    .copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
                MessageId::new(first_ms, &random)
            };
            for number in at..end {
                payload.clear();
                message(number, domains, first_ms, id(number), &mut payload);
                append(&spool.mail, kind::MESSAGE, &payload).await;
            }
            until_durable(&spool.mail).await;
            for number in at..end {
                payload.clear();
                let recipient = forward_path(number, domains);
                let event = Event {
                    kind: EventKind::Accepted,
                    at: first_ms,
                    message_id: id(number),
                    recipient_number: 0,
                    recipient: &recipient,
                    server_id: 1,
                    server: "shop",
                    stream: "receipts",
                    source: "",
                    remote_host: "",
                    reply: "",
                    cause: "",
                    detail: "",
                    judged: Default::default(),
                    attempts: 0,
                    next_attempt: None,
                    mail_position: None,
                    origin: "",
                    since: None,
                    idempotency: &[],
                    reverse_path: "",
                    tag: "",
                    ..Event::nothing()
                };
                event.encode(&mut payload);
                append(&spool.events, kind::EVENT, &payload).await;
            }
            until_durable(&spool.events).await;
            at = end;
        }
    });
    spool.close().expect("closing");
}

async fn append(log: &Log, kind: u8, payload: &[u8]) {
    while log.append_lazy(kind, 0, &[payload]).await.is_err() {
        tokio::task::yield_now().await;
    }
}

async fn until_durable(log: &Log) {
    let ticket = log.append(kind::PADDING, 0, &[b"end"], None).await;
    ticket.expect("an append").await.expect("a commit");
}

fn forward_path(number: u64, domains: u64) -> String {
    // Neighbours in the log are strangers in the queues.
    let domain = number.wrapping_mul(2_654_435_761) % domains;
    format!("customer{number}@mail{domain}.example.com")
}

fn message(number: u64, domains: u64, now: u64, id: MessageId, payload: &mut Vec<u8>) {
    let forward_path = forward_path(number, domains);
    let domain = forward_path.split('@').nth(1).expect("a domain");
    let recipients = [Recipient {
        forward_path: &forward_path,
        domain,
        fields: Default::default(),
    }];
    let content = [b'x'; 750];
    let record = MessageRecord {
        id: *id.as_bytes(),
        accepted_unix_ms: now,
        server_id: 1,
        server_name: "shop",
        stream_id: "receipts",
        stream_kind: StreamKind::Transactional,
        pool: "tx",
        reverse_path: "bounces@shop.example",
        recipients: (&recipients).into(),
        tag: None,
        metadata: Default::default(),
        flags: 0,
        header_len: 100,
        fields: Default::default(),
        content: Content::Inline(&content),
    };
    record.encode_head(payload).expect("a record");
    payload.extend_from_slice(&content);
}

fn write_config(dir: &Path, host: SocketAddr) {
    let text = format!(
        "[node]\nhostname = \"mail.example.com\"\ndata_dir = \"{}\"\n\
         [spool]\nany_file_system = true\nreserve = \"1MiB\"\nrefuse_below = \"1MiB\"\n\
         [[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\n\
         [http]\nbind = \"127.0.0.1:{}\"\n\
         [[pool]]\nname = \"tx\"\nkind = \"transactional\"\n\
         sources = [{{ name = \"a\", ip = \"127.0.0.1\", ehlo = \"mail.example.com\" }}]\n\
         [[server]]\nname = \"shop\"\ntokens = [\"shop-secret-token\"]\nsenders = \"any\"\n\
         [[route]]\ndomain = \"*\"\nhosts = [\"{host}\"]\n",
        dir.join("data").display(),
        free_port(),
    );
    fs::write(dir.join("posthaste.toml"), text).expect("a configuration");
}

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.local_addr().expect("its number").port()
}

/// Takes connections and closes them at once; knows when the first came.
struct RemoteHost {
    address: SocketAddr,
    /// Microseconds since `zero`; 0: none.
    first: Arc<AtomicU64>,
    zero: Instant,
}

impl RemoteHost {
    fn start(clock: Clock) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = socket.local_addr().expect("its address");
        let (first, zero) = (Arc::new(AtomicU64::new(0)), clock.instant());
        let host = Self {
            address,
            first: Arc::clone(&first),
            zero,
        };
        std::thread::spawn(move || {
            for _ in socket.incoming() {
                let now = clock.instant().duration_since(zero).as_micros() as u64;
                let _ = first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
        });
        host
    }

    fn forget(&self) {
        self.first.store(0, Ordering::Relaxed);
    }

    fn first_attempt_after(&self, started: Instant) -> Duration {
        loop {
            match self.first.load(Ordering::Relaxed) {
                0 => std::thread::sleep(POLL),
                at => return self.zero + Duration::from_micros(at) - started,
            }
        }
    }
}

struct Node {
    child: Child,
    http: SocketAddr,
    data: PathBuf,
    started: Instant,
    clock: Clock,
}

/// In KiB.
struct Memory {
    resident: u64,
    anonymous: u64,
    peak: u64,
}

impl Node {
    fn start(dir: &Path, clock: Clock) -> Self {
        let config = dir.join("posthaste.toml");
        let text = fs::read_to_string(&config).expect("the configuration");
        let http = text.split("[http]\nbind = \"").nth(1).expect("an address");
        let http = http.split('"').next().expect("its end");
        let http = http.parse().expect("an address");
        let log = File::create(dir.join("node.log")).expect("a log");
        let started = clock.instant();
        let child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node starts");
        let data = dir.join("data");
        Self {
            child,
            http,
            data,
            started,
            clock,
        }
    }

    fn until_ready(&self) -> Duration {
        loop {
            if self
                .get("/readyz")
                .is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
            {
                return self.clock.instant() - self.started;
            }
            let waited = self.clock.instant() - self.started;
            assert!(waited < PATIENCE, "the node does not become ready");
            std::thread::sleep(POLL);
        }
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Waits until a checkpoint is there.
    fn settle(&self) {
        let dir = self.data.join("spool/checkpoint");
        let is_whole = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|e| e == "ckp");
        while !fs::read_dir(&dir)
            .expect("its directory")
            .flatten()
            .any(|e| is_whole(&e))
        {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the node says it has recovered.
    fn recovered(&self) -> u64 {
        let metrics = self.get("/metrics").expect("metrics");
        let name = "posthaste_queue_recipients{";
        // The gauges are set once a second: wait for the next time.
        std::thread::sleep(Duration::from_secs(2));
        let metrics = self.get("/metrics").unwrap_or(metrics);
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>() as u64
    }

    fn memory(&self) -> Memory {
        memory_of(&self.child)
    }

    fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("its end");
    }
}

fn read_all(dir: &Path) -> (u64, Duration) {
    let started = Clock::start().instant();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let mut file = File::open(entry.path()).expect("a file");
        loop {
            let count = file.read(&mut buffer).expect("reading");
            bytes += count as u64;
            if count == 0 {
                break;
            }
        }
    }
    (bytes, started.elapsed())
}

/// Messages between two commits that are waited for.
const CHUNK: u64 = 10_000;
const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(600);
