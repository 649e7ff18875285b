//! The driver over real sockets, with a gate that does as it is told.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::clock::Clock;
use crate::limits;
use crate::mail::Reply;

/// What the gate is told to do, and what it saw.
struct Script {
    trusted: bool,
    proxy: bool,
    xclient: bool,
    refusal: Option<Reply>,
    panic_at_begin: bool,
    /// One permit lets one message become durable.
    durable: Semaphore,
    seen: Mutex<Seen>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Seen {
    begun: usize,
    dropped: usize,
    messages: Vec<(Submission, Vec<u8>)>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            trusted: true,
            proxy: false,
            xclient: false,
            refusal: None,
            panic_at_begin: false,
            durable: Semaphore::new(1000),
            seen: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Script {
    fn note<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(&mut self.seen.lock().unwrap());
        self.changed.send_replace(());
        result
    }

    async fn until(&self, mut wanted: impl FnMut(&Seen) -> bool) {
        let mut changed = self.changed.subscribe();
        while !wanted(&self.seen.lock().unwrap()) {
            changed.changed().await.unwrap();
        }
    }
}

struct Told(Arc<Script>);

impl Gate for Told {
    type Sender = ();
    type Intake = Collecting;

    fn refusal(&self) -> Option<Reply> {
        self.0.refusal.clone()
    }

    fn authenticate(&self, credentials: &Credentials) -> Option<()> {
        let Credentials::Password { user, password } = credentials else {
            return None;
        };
        (user == "app" && password == "secret").then_some(())
    }

    fn login(&self, name: &str) -> Option<()> {
        (name == "app").then_some(())
    }

    fn trusted(&self, client: IpAddr) -> Option<()> {
        (self.0.trusted && client.is_loopback()).then_some(())
    }

    fn proxy(&self, _: IpAddr) -> bool {
        self.0.proxy
    }

    fn xclient(&self, _: IpAddr) -> bool {
        self.0.xclient
    }

    fn begin(&self, (): &(), submission: Submission) -> Result<Collecting, Reply> {
        assert!(!self.0.panic_at_begin, "told to panic");
        self.0.note(|seen| seen.begun += 1);
        Ok(Collecting {
            script: Arc::clone(&self.0),
            message: Some((submission, Vec::new())),
        })
    }
}

struct Collecting {
    script: Arc<Script>,
    message: Option<(Submission, Vec<u8>)>,
}

impl Intake for Collecting {
    type Accepted = Kept;

    async fn push(&mut self, content: &[u8]) -> Result<(), Reply> {
        self.message.as_mut().unwrap().1.extend_from_slice(content);
        Ok(())
    }

    async fn finish(mut self, facts: ContentFacts) -> Result<Kept, Reply> {
        self.script.durable.acquire().await.unwrap().forget();
        let message = self.message.take().unwrap();
        assert_eq!(facts.octets, message.1.len() as u64);
        self.script.note(|seen| seen.messages.push(message));
        Ok(Kept)
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        if self.message.is_some() {
            self.script.note(|seen| seen.dropped += 1);
        }
    }
}

struct Kept;

impl Accepted for Kept {
    fn message_id(&self) -> String {
        "0190".to_owned()
    }
}

/// A listener that serves.
struct Node {
    address: SocketAddr,
    script: Arc<Script>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Node {
    fn start(script: Script, tls: Tls, change: impl FnOnce(&mut Listener<Told>)) -> Self {
        let script = Arc::new(script);
        let starttls = matches!(tls, Tls::StartTls(_));
        let mut listener = Listener {
            settings: Arc::new(Settings {
                hostname: "mta.example".into(),
                size_max: 1_000_000,
                recipients_max: 100,
                starttls,
                role: Role::Submission,
                plain_auth: false,
                address_literals: false,
                error_delay: Duration::ZERO,
                stage: None,
            }),
            tls,
            times: Times {
                auth_delay: Duration::ZERO,
                ..Times::default()
            },
            gate: Told(Arc::clone(&script)),
            doors: Doors::new(100, 1),
            clock: Clock::start(),
        };
        change(&mut listener);
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(socket, Arc::new(listener), stopped));
        Self {
            address,
            script,
            stop,
            serving,
        }
    }

    fn plain(script: Script) -> Self {
        Self::start(script, Tls::Off, |_| {})
    }

    async fn connect(&self) -> Client<TcpStream> {
        Client(TcpStream::connect(self.address).await.unwrap())
    }
}

struct Client<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads one reply, all its lines.
    async fn reply(&mut self) -> String {
        let mut said = Vec::new();
        loop {
            let start = said.len();
            loop {
                said.push(self.0.read_u8().await.expect("a reply"));
                if said.ends_with(b"\r\n") {
                    break;
                }
            }
            if said[start + 3] == b' ' {
                return String::from_utf8(said).unwrap();
            }
        }
    }

    #[track_caller]
    fn expect<'a>(
        &'a mut self,
        line: &'a str,
        beginning: &'a str,
    ) -> impl Future<Output = String> + 'a {
        let at = std::panic::Location::caller();
        async move {
            self.send(&format!("{line}\r\n")).await;
            let said = self.reply().await;
            assert!(said.starts_with(beginning), "{at}: {line:?} got {said:?}");
            said
        }
    }

    async fn hello(&mut self) {
        assert!(self.reply().await.starts_with("220 "));
        self.expect("EHLO client.example", "250-").await;
    }

    async fn envelope(&mut self) {
        self.expect("MAIL FROM:<ada@example.com>", "250 ").await;
        self.expect("RCPT TO:<bob@example.net>", "250 ").await;
    }

    /// What comes until the other side closes.
    async fn rest(&mut self) -> String {
        let mut said = String::new();
        self.0.read_to_string(&mut said).await.unwrap();
        said
    }
}

fn certificate() -> (TlsSource, tokio_rustls::TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["mta.example".to_owned()]).unwrap();
    let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let server = server_config(pem.as_bytes(), key.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    roots.add(der).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (
        Arc::new(ArcSwap::from(server)),
        tokio_rustls::TlsConnector::from(Arc::new(client)),
    )
}

fn name() -> ServerName<'static> {
    ServerName::try_from("mta.example").unwrap()
}

#[tokio::test]
async fn a_message_is_acknowledged_with_its_id() {
    let node = Node::plain(Script::default());
    let mut client = node.connect().await;
    client.hello().await;
    for _ in 0..2 {
        client.envelope().await;
        client.expect("DATA", "354 ").await;
        client
            .expect("Subject: hi\r\n\r\n..\r\n.", "250 2.0.0 OK 0190\r\n")
            .await;
    }
    client.expect("QUIT", "221 ").await;
    assert_eq!(client.rest().await, "");
    let seen = node.script.seen.lock().unwrap();
    let (submission, content) = &seen.messages[1];
    assert_eq!(content, b"Subject: hi\r\n\r\n.\r\n");
    assert!(submission.client_address.is_loopback());
    assert_eq!(submission.protocol, "ESMTP");
}

#[tokio::test]
async fn nothing_is_answered_ahead_of_a_commit() {
    let script = Script {
        durable: Semaphore::new(0),
        ..Script::default()
    };
    let node = Node::plain(script);
    let mut client = node.connect().await;
    client.hello().await;
    client
        .send("MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nBDAT 3 LAST\r\nx\r\nNOOP\r\nQUIT\r\n")
        .await;
    node.script.until(|seen| seen.begun == 1).await;
    assert_eq!(node.script.seen.lock().unwrap().messages.len(), 0);
    node.script.durable.add_permits(1);
    let said = client.rest().await;
    let codes: Vec<_> = said.lines().map(|l| &l[..9]).collect();
    assert_eq!(
        codes,
        [
            "250 2.1.0",
            "250 2.1.5",
            "250 2.0.0",
            "250 2.0.0",
            "221 2.0.0"
        ]
    );
}

#[tokio::test]
async fn a_client_that_vanishes_within_content_leaves_nothing() {
    let node = Node::plain(Script::default());
    let mut client = node.connect().await;
    client.hello().await;
    client.envelope().await;
    client.expect("DATA", "354 ").await;
    client.send("Subject: hi\r\n\r\nhalf").await;
    node.script.until(|seen| seen.begun == 1).await;
    drop(client);
    node.script.until(|seen| seen.dropped == 1).await;
    assert!(node.script.seen.lock().unwrap().messages.is_empty());
}

#[tokio::test]
async fn starttls_and_auth_let_a_stranger_submit() {
    let (source, connector) = certificate();
    let script = Script {
        trusted: false,
        ..Script::default()
    };
    let node = Node::start(script, Tls::StartTls(source), |_| {});
    let mut client = node.connect().await;
    client.hello().await;
    client.expect("STARTTLS", "220 ").await;
    let mut client = Client(connector.connect(name(), client.0).await.unwrap());
    client.expect("MAIL FROM:<>", "503 ").await;
    let said = client.expect("EHLO client.example", "250-").await;
    assert!(said.contains("AUTH PLAIN") && !said.contains("STARTTLS"));
    client.expect("MAIL FROM:<>", "250 ").await;
    client.expect("RCPT TO:<b@example.net>", "530 5.7.0").await;
    client.expect("RSET", "250 ").await;
    client.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "235 ").await;
    client.envelope().await;
    client.expect("DATA", "354 ").await;
    client.expect("x\r\n.", "250 ").await;
    client.expect("QUIT", "221 ").await;
    assert_eq!(client.rest().await, "");
    let seen = node.script.seen.lock().unwrap();
    let submission = &seen.messages[0].0;
    assert_eq!(submission.protocol, "ESMTPSA");
    let tls = submission.tls.as_deref().unwrap();
    assert!(tls.starts_with("TLSv1.3 TLS13_"), "{tls}");
}

#[tokio::test]
async fn text_behind_starttls_is_refused_and_the_connection_closed() {
    let (source, _) = certificate();
    let node = Node::start(Script::default(), Tls::StartTls(source), |_| {});
    let mut client = node.connect().await;
    client.hello().await;
    client.send("STARTTLS\r\nNOOP\r\n").await;
    assert!(client.rest().await.starts_with("501 5.5.4 "));
}

#[tokio::test]
async fn implicit_tls_begins_with_the_handshake_even_behind_a_proxy() {
    let (source, connector) = certificate();
    let script = Script {
        proxy: true,
        ..Script::default()
    };
    let node = Node::start(script, Tls::Implicit(source), |_| {});
    let mut plain = node.connect().await;
    plain
        .send("PROXY TCP4 127.0.0.9 127.0.0.1 4000 465\r\n")
        .await;
    let mut client = Client(connector.connect(name(), plain.0).await.unwrap());
    client.hello().await;
    client.envelope().await;
    client.expect("DATA", "354 ").await;
    client.expect("x\r\n.", "250 ").await;
    let seen = node.script.seen.lock().unwrap();
    let submission = &seen.messages[0].0;
    assert_eq!(submission.client_address, IpAddr::from([127, 0, 0, 9]));
    assert_eq!(submission.client_port, 4000);
    assert_eq!(submission.protocol, "ESMTPS");
}

#[tokio::test]
async fn a_missing_proxy_header_closes_without_a_word() {
    let script = Script {
        proxy: true,
        ..Script::default()
    };
    let node = Node::plain(script);
    let mut client = node.connect().await;
    client.send("EHLO client.example\r\n").await;
    let mut said = Vec::new();
    // The octets that were not read may turn the close into a reset.
    let _ = client.0.read_to_end(&mut said).await;
    assert_eq!(said, b"");
}

#[tokio::test]
async fn connections_of_one_address_are_limited_unless_it_is_known() {
    let script = Script {
        proxy: true,
        ..Script::default()
    };
    let node = Node::plain(script);
    let from = async |address: &str| {
        let mut client = node.connect().await;
        let header = format!("PROXY TCP4 {address} 127.0.0.1 4000 25\r\n");
        client.send(&header).await;
        let said = client.reply().await;
        (client, said)
    };
    let (_first, said) = from("192.0.2.1").await;
    assert!(said.starts_with("220 "), "{said}");
    let (_, said) = from("192.0.2.1").await;
    assert!(said.starts_with("421 4.3.2 "), "{said}");
    let (_other, said) = from("192.0.2.2").await;
    assert!(said.starts_with("220 "), "{said}");
    let (_a, _) = from("127.0.0.2").await;
    let (_b, said) = from("127.0.0.2").await;
    assert!(said.starts_with("220 "), "{said}");
}

#[tokio::test]
async fn connections_in_all_are_limited() {
    let node = Node::start(Script::default(), Tls::Off, |listener| {
        listener.doors = Doors::new(1, 1);
    });
    let mut first = node.connect().await;
    first.hello().await;
    assert!(node.connect().await.rest().await.starts_with("421 4.3.2 "));
}

#[tokio::test]
async fn a_node_that_takes_nothing_says_so_at_once() {
    let script = Script {
        refusal: Some(Reply::fixed(421, 4, 3, 0, "no disk")),
        ..Script::default()
    };
    let node = Node::plain(script);
    let said = node.connect().await.rest().await;
    assert_eq!(said, "421 4.3.0 no disk\r\n");
}

#[tokio::test]
async fn xclient_moves_trust_to_the_client_that_it_names() {
    let script = Script {
        xclient: true,
        ..Script::default()
    };
    let node = Node::plain(script);
    let mut client = node.connect().await;
    client.hello().await;
    client.expect("XCLIENT ADDR=192.0.2.7 PORT=9", "220 ").await;
    client.expect("EHLO client.example", "250-").await;
    client.expect("MAIL FROM:<>", "250 ").await;
    client.expect("RCPT TO:<b@example.net>", "550 5.7.1 ").await;
    client.expect("RSET", "250 ").await;
    client
        .expect("XCLIENT ADDR=192.0.2.7 LOGIN=app", "220 ")
        .await;
    client.expect("EHLO client.example", "250-").await;
    client.envelope().await;
    client.expect("DATA", "354 ").await;
    client.expect("x\r\n.", "250 ").await;
    let seen = node.script.seen.lock().unwrap();
    assert_eq!(
        seen.messages[0].0.client_address,
        IpAddr::from([192, 0, 2, 7])
    );
}

#[tokio::test]
async fn failed_authentications_lock_the_address_for_all_connections() {
    let node = Node::plain(Script {
        trusted: false,
        ..Script::default()
    });
    let wrong = "AUTH PLAIN AGFwcAB3cm9uZw==";
    for _ in 0..limits::AUTH_FAILURES_PER_ADDRESS_HOUR / limits::AUTH_FAILURES_PER_SESSION {
        let mut client = node.connect().await;
        client.hello().await;
        for _ in 0..limits::AUTH_FAILURES_PER_SESSION {
            client.expect(wrong, "535 5.7.8 ").await;
        }
        assert!(client.rest().await.starts_with("421 4.7.0 "));
    }
    let mut client = node.connect().await;
    client.hello().await;
    client
        .expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "454 4.7.0 ")
        .await;
}

#[tokio::test]
async fn a_silent_client_is_sent_away() {
    let node = Node::start(Script::default(), Tls::Off, |listener| {
        listener.times.command = Duration::from_millis(20);
    });
    let said = node.connect().await.rest().await;
    assert!(said.contains("\r\n421 4.4.2 "), "{said}");
}

#[tokio::test]
async fn a_client_silent_within_content_is_sent_away() {
    let node = Node::start(Script::default(), Tls::Off, |listener| {
        listener.times.data_idle = Duration::from_millis(20);
    });
    let mut client = node.connect().await;
    client.hello().await;
    client.envelope().await;
    client.expect("DATA", "354 ").await;
    assert!(client.rest().await.starts_with("421 4.4.2 "));
    node.script.until(|seen| seen.dropped == 1).await;
}

#[tokio::test]
async fn a_panic_ends_one_connection_with_421() {
    let node = Node::plain(Script {
        panic_at_begin: true,
        ..Script::default()
    });
    let mut other = node.connect().await;
    other.hello().await;
    let mut client = node.connect().await;
    client.hello().await;
    client.envelope().await;
    client.send("DATA\r\n").await;
    assert!(client.rest().await.starts_with("421 4.3.0 "));
    other.expect("NOOP", "250 ").await;
}

#[tokio::test]
async fn a_stop_lets_content_end_and_closes_everything_else() {
    let node = Node::plain(Script::default());
    let (mut idle, mut busy) = (node.connect().await, node.connect().await);
    idle.hello().await;
    busy.hello().await;
    busy.envelope().await;
    busy.expect("DATA", "354 ").await;
    node.stop.send(true).unwrap();
    assert!(idle.rest().await.starts_with("421 4.3.2 "));
    drop(idle);
    busy.send("x\r\n.\r\n").await;
    let said = busy.rest().await;
    assert!(
        said.starts_with("250 2.0.0 OK 0190\r\n421 4.3.2 "),
        "{said}"
    );
    drop(busy);
    node.serving.await.unwrap();
    assert!(TcpStream::connect(node.address).await.is_err());
}

#[tokio::test]
async fn large_content_passes_whole() {
    let node = Node::plain(Script::default());
    let mut client = node.connect().await;
    client.hello().await;
    let line = format!("{}\r\n", "0123456789".repeat(7));
    let content = line.repeat(10_000);
    client.envelope().await;
    client.expect("DATA", "354 ").await;
    client.expect(&format!("{content}."), "250 ").await;
    client.envelope().await;
    let chunk = format!("BDAT {} LAST\r\n{content}", content.len());
    client.send(&chunk).await;
    assert!(client.reply().await.starts_with("250 "));
    let seen = node.script.seen.lock().unwrap();
    for (_, found) in &seen.messages {
        assert!(found == content.as_bytes());
    }
}
