//! Agents against scripted remote hosts over real sockets, one scenario per way to misbehave.

mod ahead;
mod handover;
mod lifetime;
mod misbehaviour;
mod proxies;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Config, PoolId};

/// A remote host that plays one script per connection, then refuses connections. In a script, `> text` is sent as a line,
/// `< text` is awaited as a line's beginning, `<.` takes content to its final dot; `!close`, `!reset`, `!hold` (until we
/// close), `!stall` (reads nothing more), `!flood` (a line without end), `!drip` (a reply without end), `!tls`,
/// `!broken-tls`.
struct Host {
    address: SocketAddr,
    task: JoinHandle<Vec<String>>,
}

impl Host {
    async fn plays(scripts: &'static [&'static str]) -> Self {
        Self::plays_at(Ipv4Addr::LOCALHOST, scripts).await
    }

    async fn plays_at(ip: Ipv4Addr, scripts: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut contents = Vec::new();
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                play(stream, script, &mut contents).await;
            }
            contents
        });
        Self { address, task }
    }

    /// The contents that it took.
    async fn contents(self) -> Vec<String> {
        self.task.await.unwrap()
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

async fn play(stream: TcpStream, script: &str, contents: &mut Vec<String>) {
    let mut lines = script.lines().map(str::trim).filter(|l| !l.is_empty());
    let before_tls: Vec<&str> = lines.by_ref().take_while(|l| *l != "!tls").collect();
    if script.lines().any(|l| l.trim() == "!reset") {
        // With a linger time of zero, closing sends RST.
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    let mut wire = BufStream::new(stream);
    if !play_lines(&mut wire, before_tls.into_iter(), contents).await {
        return;
    }
    let rest: Vec<&str> = lines.collect();
    if !rest.is_empty() {
        let stream = acceptor().accept(wire.into_inner()).await.unwrap();
        play_lines(&mut BufStream::new(stream), rest.into_iter(), contents).await;
    }
}

async fn play_lines<W: Wire>(
    wire: &mut BufStream<W>,
    lines: impl Iterator<Item = &str>,
    contents: &mut Vec<String>,
) -> bool {
    for step in lines {
        match step.split_at(1) {
            (">", text) => {
                wire.write_all(format!("{}\r\n", text.trim()).as_bytes())
                    .await
                    .unwrap();
                wire.flush().await.unwrap();
            }
            ("<", ".") => {
                let mut content = String::new();
                while !content.ends_with("\r\n.\r\n") && content != ".\r\n" {
                    assert_ne!(wire.read_line(&mut content).await.unwrap(), 0);
                }
                contents.push(content);
            }
            ("<", text) => {
                let mut line = String::new();
                wire.read_line(&mut line).await.unwrap();
                assert!(
                    line.starts_with(text.trim()),
                    "{line:?} instead of {text:?}"
                );
            }
            ("!", "close" | "reset") => return false,
            ("!", "hold") => {
                let mut rest = String::new();
                while wire.read_line(&mut rest).await.is_ok_and(|n| n > 0) {}
            }
            ("!", "stall") => std::future::pending().await,
            ("!", "flood") => while wire.write_all(&[b'2'; 1000]).await.is_ok() {},
            ("!", "drip") => {
                while wire.write_all(b"250-x\r\n").await.is_ok() && wire.flush().await.is_ok() {}
            }
            ("!", "broken-tls") => {
                wire.write_all(b"this is no TLS\r\n").await.unwrap();
                wire.flush().await.unwrap();
                return false;
            }
            _ => panic!("{step:?} in a script"),
        }
    }
    true
}

fn acceptor() -> tokio_rustls::TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["other.test".into()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config).into()
}

/// Messages by position. Position 13 panics, unknown ones cannot be read.
struct Messages(HashMap<u64, &'static str>);

impl MessageSource for Messages {
    fn load<'a>(
        &'a self,
        position: u64,
        recipients: &'a [BatchRecipient],
        _: Form,
    ) -> Loading<'a, Loaded> {
        Box::pin(std::future::ready(self.load_now(position, recipients)))
    }

    fn subject<'a>(
        &'a self,
        position: u64,
        recipients: &'a [BatchRecipient],
    ) -> Loading<'a, Arc<Subject>> {
        let loaded = self.load_now(position, recipients);
        Box::pin(std::future::ready(loaded.map(|loaded| loaded.subject)))
    }
}

impl Messages {
    fn load_now(&self, position: u64, recipients: &[BatchRecipient]) -> Result<Loaded, LoadError> {
        assert_ne!(position, 13, "a message that makes the agent panic");
        let content = self.0.get(&position).ok_or(LoadError {
            position,
            class: CauseClass::Damaged,
            detail: "its checksum is wrong".into(),
        })?;
        let numbers = recipients.iter().map(|r| r.number);
        let subject = Arc::new(subject(numbers));
        let recipients = recipients.iter().map(|r| OutboundRecipient {
            number: r.number,
            forward_path: format!("r{}@to.test", r.number),
            ..OutboundRecipient::default()
        });
        let mail = Outbound {
            reverse_path: "s@from.test".into(),
            recipients: recipients.collect(),
            content: match position {
                4 => vec![Bytes::from("0123456789abcde\r\n".repeat(1 << 20))].into(),
                5 => pieces_of(content),
                6 => withheld(content),
                _ => vec![Bytes::from_static(content.as_bytes())].into(),
            },
            ..Outbound::default()
        };
        Ok(Loaded { mail, subject })
    }
}

/// Each octet is a piece of its own, fetched when it is to leave.
fn pieces_of(text: &'static str) -> Content {
    let mut content = Content::of(Arc::new(Octets(text, usize::MAX)));
    for (place, octet) in text.as_bytes().chunks(1).enumerate() {
        content.push_later(place as u64, octet);
    }
    content
}

/// The last octet cannot be had.
fn withheld(text: &'static str) -> Content {
    let mut content = Content::of(Arc::new(Octets(text, text.len() - 1)));
    for (place, octet) in text.as_bytes().chunks(1).enumerate() {
        content.push_later(place as u64, octet);
    }
    content
}

struct Octets(&'static str, usize);

impl Pieces for Octets {
    fn fetch(&self, name: u64) -> Fetching {
        let place = name as usize;
        let octet = self.0.as_bytes().get(place..=place);
        let found = octet.filter(|_| place < self.1).map(Bytes::from_static);
        Box::pin(async move {
            tokio::task::yield_now().await;
            found.ok_or_else(|| "the medium failed".to_owned())
        })
    }
}

fn subject(numbers: impl Iterator<Item = u16> + Clone) -> Subject {
    let recipient = spool_format::Recipient {
        forward_path: "r@to.test",
        domain: "to.test",
        fields: spool_format::List::new(&[]),
    };
    let recipients = [recipient];
    let record = spool_format::MessageRecord {
        id: [1; 16],
        accepted_unix_ms: 1,
        server_id: 1,
        server_name: "server",
        stream_id: "outbound",
        stream_kind: spool_format::StreamKind::Transactional,
        pool: "pool",
        reverse_path: "s@from.test",
        recipients: spool_format::List::new(&recipients),
        tag: None,
        metadata: spool_format::List::new(&[]),
        flags: 0,
        header_len: 0,
        fields: spool_format::List::new(&[]),
        content: spool_format::Content::Inline(b""),
    };
    Subject::of(&record, numbers)
}

struct Run {
    context: Arc<AgentContext>,
    reports: mpsc::Receiver<Report>,
}

impl Run {
    fn new() -> Self {
        let (sender, reports) = mpsc::channel(8);
        let short = Duration::from_millis(200);
        let messages = HashMap::from([
            (1, "Subject: one\r\n\r\n.dot\r\n"),
            (2, "Subject: two\r\n\r\n\r\n"),
            (3, "Subject: \u{e9}\r\n\r\n"),
            (4, "17 MiB of lines"),
            (5, "Subject: five\r\n\r\n.dot\r\nlast"),
            (6, "Subject: six\r\n\r\n"),
        ]);
        let source = Source {
            id: SourceId(0),
            name: "s1".into(),
            v4: Some(Ipv4Addr::new(127, 0, 0, 3)),
            v6: None,
            ehlo: "mta.test".into(),
            weight: 1,
            proxy: None,
            public: Vec::new(),
        };
        let context = AgentContext {
            messages: Arc::new(Messages(messages)),
            sources: Arc::new([source]),
            tls: opportunistic_tls(),
            rules: Arc::default(),
            shaping: Config::development(None).shaping,
            timeouts: Arc::new(Timeouts {
                connect: short,
                banner: short,
                command: short,
                data: short,
                block: short,
                dot: short,
            }),
            clock: Clock::start(),
            trace: Arc::default(),
            reports: sender,
        };
        Self {
            context: Arc::new(context),
            reports,
        }
    }

    fn plan(hosts: &[&Host], first: Batch) -> SessionPlan {
        let hosts = hosts.iter().enumerate().map(|(i, host)| NextHop {
            name: format!("mx{i}.test").into(),
            preference: i as u16,
            port: host.address.port(),
            addresses: vec![host.address.ip()],
        });
        SessionPlan {
            session: SessionId(7),
            source: SourceId(0),
            hosts: hosts.collect(),
            avoid: Vec::new(),
            first: first.into(),
        }
    }

    fn spawn(&self, plan: SessionPlan) -> (JoinHandle<()>, mpsc::Sender<Errand>) {
        let (inbox, receiver) = mpsc::channel(2);
        let agent = run_agent(Arc::clone(&self.context), plan, receiver);
        (tokio::spawn(agent), inbox)
    }

    async fn report(&mut self) -> Report {
        self.reports.recv().await.unwrap()
    }
}

fn batch(position: u64, recipients: u16) -> Batch {
    let recipients = (0..recipients).map(|number| BatchRecipient {
        number,
        attempts: 0,
    });
    Batch {
        position,
        pool: PoolId(0),
        recipients: SmallVec::from_iter(recipients),
    }
}

fn shown(outcome: &Outcome) -> String {
    let cause = |c: &Cause| match &c.reply {
        Some(reply) => format!("{} ({reply})", c.class.as_str()),
        None => c.class.as_str().to_owned(),
    };
    match outcome {
        Outcome::Delivered { reply } => format!("delivered ({reply})"),
        Outcome::Deferred { scope, cause: c } => format!("deferred {scope:?} {}", cause(c)),
        Outcome::Bounced { scope, cause: c } => format!("bounced {scope:?} {}", cause(c)),
        Outcome::Ambiguous { cause: c } => format!("ambiguous {}", cause(c)),
        Outcome::NotAttempted => "not attempted".into(),
    }
}

fn all_shown(report: &Report) -> Vec<String> {
    report.results.iter().map(|r| shown(&r.outcome)).collect()
}

/// One batch to one host (or several): what becomes of its recipients, and of the session.
async fn check_hosts(hosts: &[&Host], recipients: u16, expected: &[&str], state: &str) -> Report {
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(hosts, batch(1, recipients)));
    let report = run.report().await;
    assert_eq!(all_shown(&report), expected);
    let found = match &report.state {
        SessionState::Idle => "idle".to_owned(),
        SessionState::Closed { failure: None } => "closed".to_owned(),
        SessionState::Closed {
            failure: Some((scope, cause)),
        } => format!("failed {scope:?}: {}", cause.detail),
    };
    let same = match state.strip_suffix('*') {
        Some(beginning) => found.starts_with(beginning),
        None => found == state,
    };
    assert!(same, "{found:?} instead of {state:?}");
    drop(inbox);
    agent.await.unwrap();
    if report.state == SessionState::Idle {
        let last = run.report().await;
        assert_eq!(last.state, SessionState::Closed { failure: None });
        assert_eq!(last.results, []);
    }
    report
}

async fn check_script(script: &'static [&'static str], expected: &str, state: &str) {
    let host = Host::plays(script).await;
    check_hosts(&[&host], 1, &[expected], state).await;
    host.task.await.unwrap();
}

const NET: &str = "deferred SiteFromSource network";

const TAKES_ONE: &str = "
    > 220 hi
    < EHLO
    > 250-mx
    > 250 PIPELINING
    < MAIL
    < RCPT
    < DATA
    > 250 ok
    > 250 ok
    > 354 go
    <.
    > 250 taken
    < QUIT
    > 221 bye";
