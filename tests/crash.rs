//! The real binary, killed with SIGKILL again and again under load; then its promises are checked (DESIGN §1.1, §1.2).
//!
//! Clients submit messages of one to three recipients; the remote host is slow, sometimes refuses for now, sometimes closes.
//! At the end: everything acknowledged was delivered to every recipient, with the octets that were sent; nothing was
//! delivered that nobody sent; a recipient got a message twice only if the node was killed within a second after the first
//! time; and `posthaste audit` agrees with the logs.
//!
//! `POSTHASTE_CRASH_CYCLES` (default 20) and `POSTHASTE_CRASH_SEED` choose the run; the seed is printed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "kills and copies are timed across processes, where no node's clock reaches"
)]

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

#[test]
fn what_was_acknowledged_survives_every_kill() {
    let cycles = number_from("POSTHASTE_CRASH_CYCLES").unwrap_or(20);
    let seed = number_from("POSTHASTE_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("POSTHASTE_CRASH_CYCLES={cycles} POSTHASTE_CRASH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let dir = tempfile::TempDir::new().unwrap();
    let sink = Sink::start(random.u64(..));
    let smtp = free_address();
    write_config(dir.path(), smtp, sink.address);
    let history = Arc::new(History::default());
    let mut kills = Vec::new();

    for cycle in 0..cycles {
        let mut node = start_node(dir.path(), smtp);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..6)
            .map(|n| {
                let (history, stop) = (Arc::clone(&history), Arc::clone(&stop));
                let seed = random.u64(..);
                std::thread::spawn(move || {
                    submit_until(
                        smtp,
                        &history,
                        &stop,
                        fastrand::Rng::with_seed(seed),
                        cycle * 10 + n,
                    )
                })
            })
            .collect();
        let compaction = {
            let (socket, stop) = (dir.path().join("data/admin.sock"), Arc::clone(&stop));
            std::thread::spawn(move || compact_until(&socket, &stop))
        };
        // How long the node lives is the point of the cycle, not a wait for something to happen.
        std::thread::park_timeout(Duration::from_millis(random.u64(20..400)));
        kills.push(Instant::now());
        node.kill().unwrap();
        node.wait().unwrap();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
        compaction.join().unwrap();
    }

    let mut node = start_node(dir.path(), smtp);
    sink.calm();
    let acknowledged = history.acknowledged.lock().unwrap().clone();
    assert!(
        acknowledged.len() as u64 >= cycles,
        "only {} messages were acknowledged",
        acknowledged.len()
    );
    let copies = acknowledged.iter().flat_map(|m| m.copies()).collect();
    // The sink has kept some of its answers to itself, and such mail waits for ten minutes.
    sink.wait_for(copies, || {
        ask(dir.path(), &["queue", "retry", "--all"]);
    });
    statistics_agree(dir.path());
    terminate(&mut node);
    check(&history, &sink, &kills);
    let log = std::fs::read_to_string(dir.path().join("node.log")).unwrap();
    let compacted = log.matches("live mail was copied out of").count();
    println!("{compacted} segments were compacted between kills");
    audit(dir);
    println!(
        "{} messages acknowledged, {} copies delivered, {} kills",
        acknowledged.len(),
        sink.taken().len(),
        kills.len()
    );
}

/// One recipient's copy: recipient and message token.
type Copy = (String, String);

#[derive(Clone, Debug)]
struct Message {
    token: String,
    recipients: Vec<String>,
}

impl Message {
    fn copies(&self) -> impl Iterator<Item = Copy> + '_ {
        self.recipients
            .iter()
            .map(|r| (r.clone(), self.token.clone()))
    }
}

#[derive(Default)]
struct History {
    sent: Mutex<Vec<Message>>,
    acknowledged: Mutex<Vec<Message>>,
}

fn check(history: &History, sink: &Sink, kills: &[Instant]) {
    let sent: HashSet<Copy> = history
        .sent
        .lock()
        .unwrap()
        .iter()
        .flat_map(|m| m.copies().collect::<Vec<_>>())
        .collect();
    let mut first: HashMap<Copy, Instant> = HashMap::new();
    for (copy, at, intact) in sink.taken() {
        assert!(intact, "the content of {copy:?} was damaged");
        assert!(
            sent.contains(&copy),
            "{copy:?} was delivered but never sent"
        );
        if let Some(earlier) = first.insert(copy.clone(), at) {
            // Octets that were on their way when the node died reach the host a little after the kill.
            let apart = |kill: &Instant| {
                kill.saturating_duration_since(earlier) + earlier.saturating_duration_since(*kill)
            };
            let excused = kills
                .iter()
                .any(|kill| apart(kill) <= Duration::from_secs(1));
            assert!(
                excused,
                "{copy:?} was delivered twice, {:?} apart, and no kill was within a second of the first time",
                at.duration_since(earlier)
            );
        }
    }
}

/// What the statistics say was sent is what the event log says was accepted: each event counted once, over all kills.
fn statistics_agree(dir: &Path) {
    let words = [
        "events",
        "tail",
        "--no-follow",
        "--json",
        "--kind",
        "accepted",
    ];
    let (_, events) = ask(dir, &words);
    let wanted = format!("\"Sent\":{},", events.lines().count());
    let log = std::fs::read_to_string(dir.join("node.log")).unwrap();
    let (_, line) = log.rsplit_once("serving HTTP").unwrap();
    let (_, address) = line.split_once("127.0.0.1:").unwrap();
    let port: String = address.chars().take_while(char::is_ascii_digit).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let mut answer = String::new();
        stream
            .write_all(b"GET /stats/outbound HTTP/1.1\r\nHost: node\r\nX-Postmark-Server-Token: crash-test-token\r\nConnection: close\r\n\r\n")
            .unwrap();
        stream.read_to_string(&mut answer).unwrap();
        if answer.contains(&wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted} is not in {answer}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// The logs agree with themselves; if not, the data stays for whoever wants to see why.
fn audit(dir: tempfile::TempDir) {
    let (sound, audit) = ask(dir.path(), &["audit"]);
    if !sound {
        let (_, verify) = ask(dir.path(), &["spool", "verify"]);
        let kept = dir.keep();
        panic!(
            "audit: {audit}\nverify: {verify}\nthe data is kept in {}",
            kept.display()
        );
    }
}

/// Whether a command succeeded, and what it said.
fn ask(dir: &Path, words: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(words)
        .arg("--config")
        .arg(dir.join("posthaste.toml"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    (output.status.success(), text.concat())
}

// ------------------------------------------------------------------------------------------------ the node

fn write_config(dir: &Path, smtp: SocketAddr, sink: SocketAddr) {
    let config = format!(
        r#"
[node]
hostname = "mta.test"
data_dir = "data"
[[smtp]]
bind = "{smtp}"
tls = "off"
trusted = [{{ cidr = "127.0.0.0/8", server = "app" }}]
[http]
bind = "127.0.0.1:0"
[spool]
mail_segment = "4MiB"
event_segment = "1MiB"
reserve = "1MiB"
refuse_below = "1MiB"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{{ name = "tx1", ip = "127.0.0.1", ehlo = "tx1.test" }}]
[[route]]
domain = "*"
hosts = ["{sink}"]
[[server]]
name = "app"
tokens = ["crash-test-token"]
senders = "any"
[retry]
transactional = {{ first = "1s", max = "2s", max_age = "1h" }}
"#
    );
    std::fs::write(dir.join("posthaste.toml"), config).unwrap();
}

fn start_node(dir: &Path, smtp: SocketAddr) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("node.log"))
        .unwrap();
    let mut node = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["serve", "--config"])
        .arg(dir.join("posthaste.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(stream) = TcpStream::connect(smtp) {
            let mut banner = String::new();
            if BufReader::new(stream).read_line(&mut banner).is_ok() && banner.starts_with("220") {
                return node;
            }
        }
        let dead = node.try_wait().unwrap();
        assert!(
            dead.is_none() && Instant::now() < deadline,
            "the node did not start ({dead:?}): {}",
            last_lines(dir)
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn last_lines(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("node.log")).unwrap_or_default();
    log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
}

fn terminate(node: &mut Child) {
    let status = Command::new("kill")
        .args(["-TERM", &node.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
    assert!(
        node.wait().unwrap().success(),
        "the node did not stop cleanly on SIGTERM"
    );
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number"))
    })
}

// ------------------------------------------------------------------------------------------------ the clients

/// Submits until the node dies.
/// Mail moves all the time: every kill may hit it anywhere on its way.
fn compact_until(socket: &Path, stop: &AtomicBool) {
    const ASK: &[u8] = b"POST /admin/v1/spool/compact HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    while !stop.load(Ordering::Relaxed) {
        // Refused while the node starts, and after the kill.
        if let Ok(mut stream) = UnixStream::connect(socket) {
            let mut answer = String::new();
            let asked = stream.write_all(ASK);
            let _ = asked.and_then(|()| stream.read_to_string(&mut answer));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn submit_until(
    smtp: SocketAddr,
    history: &History,
    stop: &AtomicBool,
    mut random: fastrand::Rng,
    client: u64,
) {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        // The connection breaks when the node is killed: whatever was not acknowledged by then is not counted.
        let _ = submit_on_one_connection(smtp, history, stop, &mut random, client, &mut count);
    }
}

fn submit_on_one_connection(
    smtp: SocketAddr,
    history: &History,
    stop: &AtomicBool,
    random: &mut fastrand::Rng,
    client: u64,
    count: &mut u64,
) -> std::io::Result<()> {
    let stream = TcpStream::connect(smtp)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut io = BufReader::new(stream);
    expect(&mut io, "220")?;
    say(&mut io, "EHLO client.test\r\n", "250")?;
    while !stop.load(Ordering::Relaxed) {
        *count += 1;
        let token = format!("{client}-{count}");
        let recipients = (0..random.u32(1..=3))
            .map(|n| format!("r{n}-{token}@d{}.test", random.u32(0..5)))
            .collect();
        let message = Message {
            token: token.clone(),
            recipients,
        };
        say(&mut io, "MAIL FROM:<sender@example.com>\r\n", "250")?;
        for recipient in &message.recipients {
            say(&mut io, &format!("RCPT TO:<{recipient}>\r\n"), "250")?;
        }
        say(&mut io, "DATA\r\n", "354")?;
        let body = body_of(&token, random.usize(0..200));
        history.sent.lock().unwrap().push(message.clone());
        say(
            &mut io,
            &format!("From: sender@example.com\r\nSubject: {token}\r\n\r\n{body}.\r\n"),
            "250",
        )?;
        history.acknowledged.lock().unwrap().push(message);
    }
    Ok(())
}

fn say(io: &mut BufReader<TcpStream>, text: &str, code: &str) -> std::io::Result<()> {
    io.get_mut().write_all(text.as_bytes())?;
    expect(io, code)
}

fn expect(io: &mut BufReader<TcpStream>, code: &str) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        if io.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if !line.starts_with(code) {
            return Err(std::io::Error::other(line));
        }
        if line.as_bytes().get(3) == Some(&b' ') {
            return Ok(());
        }
    }
}

/// Lines that follow from the token, with their number, so that the receiver can check every octet.
fn body_of(token: &str, lines: usize) -> String {
    let mut body = format!("{token} {lines}\r\n");
    for n in 0..lines {
        let _ = write!(
            body,
            "{token} line {n} {}\r\n",
            "abcdefghijklmnopqrstuvwxyz".repeat(n % 3)
        );
    }
    body
}

// ------------------------------------------------------------------------------------------------ the remote host

struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    taken: Mutex<Vec<(Copy, Instant, bool)>>,
    grown: Condvar,
    calm: AtomicBool,
    seeds: AtomicU64,
}

impl Sink {
    fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            taken: Mutex::default(),
            grown: Condvar::new(),
            calm: AtomicBool::new(false),
            seeds: AtomicU64::new(seed),
        });
        let host = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let host = Arc::clone(&host);
                let random = fastrand::Rng::with_seed(host.seeds.fetch_add(1, Ordering::Relaxed));
                std::thread::spawn(move || host.session(stream, random));
            }
        });
        Self { address, shared }
    }

    /// From now on it takes everything at once.
    fn calm(&self) {
        self.shared.calm.store(true, Ordering::Relaxed);
    }

    fn taken(&self) -> Vec<(Copy, Instant, bool)> {
        self.shared.taken.lock().unwrap().clone()
    }

    /// Waits until every wanted copy came. A bound on standing still, not on the whole: the backlog may be long.
    /// `urge` is called while nothing comes.
    fn wait_for(&self, mut missing: HashSet<Copy>, urge: impl Fn()) {
        let mut seen = 0;
        let mut urged = 0;
        let mut taken = self.shared.taken.lock().unwrap();
        loop {
            for (copy, ..) in &taken[seen..] {
                missing.remove(copy);
            }
            if missing.is_empty() {
                return;
            }
            if seen < taken.len() {
                (seen, urged) = (taken.len(), 0);
                // Looked at in bulk, so that looking does not slow the sink.
                drop(taken);
                std::thread::park_timeout(Duration::from_millis(20));
                taken = self.shared.taken.lock().unwrap();
                continue;
            }
            let patience = Duration::from_secs(2);
            let (now, waited) = self.shared.grown.wait_timeout(taken, patience).unwrap();
            taken = now;
            if waited.timed_out() {
                urged += 1;
                let example = missing.iter().next();
                assert!(
                    urged <= 30,
                    "{} acknowledged copies never came, e.g. {example:?}",
                    missing.len()
                );
                drop(taken);
                urge();
                taken = self.shared.taken.lock().unwrap();
            }
        }
    }
}

impl Shared {
    fn session(&self, stream: TcpStream, mut random: fastrand::Rng) -> std::io::Result<()> {
        // Replies are single writes: with Nagle each would wait for the acknowledgement of the one before.
        stream.set_nodelay(true)?;
        let mut io = BufReader::new(stream);
        io.get_mut().write_all(b"220 sink.test ESMTP\r\n")?;
        let mut recipients: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            if io.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let troubled = !self.calm.load(Ordering::Relaxed);
            let answer = match line.get(..4).unwrap_or_default() {
                "EHLO" => "250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
                "MAIL" => {
                    recipients.clear();
                    "250 2.1.0 ok\r\n"
                }
                "RCPT" if troubled && random.u32(0..10) == 0 => "451 4.7.1 not now\r\n",
                "RCPT" => {
                    recipients.push(line.split(['<', '>']).nth(1).unwrap_or_default().to_owned());
                    "250 2.1.5 ok\r\n"
                }
                "DATA" if recipients.is_empty() => "503 5.5.1 no recipients\r\n",
                "DATA" => {
                    io.get_mut().write_all(b"354 go on\r\n")?;
                    let content = read_content(&mut io)?;
                    let at = Instant::now();
                    if troubled && random.u32(0..20) == 0 {
                        // Closes before it decides: the message is not taken.
                        return Ok(());
                    }
                    if troubled {
                        std::thread::park_timeout(Duration::from_millis(random.u64(0..30)));
                    }
                    self.take(&recipients, &content, at);
                    "250 2.0.0 taken\r\n"
                }
                "QUIT" => return io.get_mut().write_all(b"221 2.0.0 bye\r\n"),
                _ => "250 2.0.0 ok\r\n",
            };
            io.get_mut().write_all(answer.as_bytes())?;
        }
    }

    fn take(&self, recipients: &[String], content: &str, at: Instant) {
        let (header, body) = content.split_once("\r\n\r\n").unwrap_or_default();
        let token = header
            .lines()
            .find_map(|l| l.strip_prefix("Subject: "))
            .unwrap_or_default()
            .to_owned();
        let lines = body
            .lines()
            .next()
            .and_then(|l| l.rsplit(' ').next())
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        let intact = body == body_of(&token, lines);
        let mut taken = self.taken.lock().unwrap();
        taken.extend(
            recipients
                .iter()
                .map(|r| ((r.clone(), token.clone()), at, intact)),
        );
        self.grown.notify_all();
    }
}

fn read_content(io: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut content = String::new();
    loop {
        let start = content.len();
        if io.read_line(&mut content)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if &content[start..] == ".\r\n" {
            content.truncate(start);
            return Ok(content);
        }
    }
}
