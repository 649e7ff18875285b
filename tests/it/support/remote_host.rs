//! A remote host that a test can script: by default it takes everything and keeps it; a closure changes what it answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where in the dialogue the remote host is asked for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Connect,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Dot,
    Other,
}

/// What it answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The host's usual answer.
    Usual,
    /// These lines, CRLF added to each.
    Lines(Vec<String>),
    /// These octets as they are.
    Octets(Vec<u8>),
    /// Closes the connection without a word.
    Close,
    /// Resets the connection.
    Reset,
    /// Says nothing and keeps the connection.
    Silence,
}

impl Answer {
    pub fn line(text: &str) -> Self {
        Self::Lines(vec![text.to_owned()])
    }
}

/// One transaction that it took.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The whole MAIL line.
    pub mail: String,
    /// Forward-paths that it said 250 to.
    pub recipients: Vec<String>,
    /// After removal of the dot transparency.
    pub content: Vec<u8>,
}

pub type Script = dyn Fn(Stage, &str, usize) -> Answer + Send + Sync;

pub struct RemoteHost {
    pub address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
    count: watch::Receiver<usize>,
    sessions: watch::Receiver<usize>,
    peers: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

/// Where connections came from, by the number of their session.
pub struct Peers(Arc<Mutex<Vec<String>>>);

impl Peers {
    pub fn of(&self, session: usize) -> String {
        self.0.lock().unwrap()[session].clone()
    }
}

impl Drop for RemoteHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RemoteHost {
    /// Takes everything.
    pub async fn start() -> Self {
        Self::scripted(|_, _, _| Answer::Usual).await
    }

    /// `script` sees the stage, the command line and the session's number from 0.
    pub async fn scripted(
        script: impl Fn(Stage, &str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::scripted_on("127.0.0.1:0", script).await
    }

    pub async fn scripted_on(
        address: &str,
        script: impl Fn(Stage, &str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script: Arc<Script> = Arc::new(script);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (count_tx, count) = watch::channel(0);
        let (sessions_tx, sessions) = watch::channel(0);
        let store = Arc::clone(&taken);
        let peers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&peers);
        let task = tokio::spawn(async move {
            let count_tx = Arc::new(count_tx);
            for session in 0.. {
                let Ok((stream, peer)) = listener.accept().await else {
                    return;
                };
                seen.lock().unwrap().push(peer.ip().to_string());
                sessions_tx.send_replace(session + 1);
                let (script, store, count_tx) = (
                    Arc::clone(&script),
                    Arc::clone(&store),
                    Arc::clone(&count_tx),
                );
                tokio::spawn(async move {
                    let mut host = Session {
                        script,
                        session,
                        store,
                        count_tx,
                    };
                    let _ = host.run(stream).await;
                });
            }
        });
        Self {
            address,
            taken,
            count,
            sessions,
            peers,
            task,
        }
    }

    /// For a script that answers by who asks.
    pub fn who(&self) -> Peers {
        Peers(Arc::clone(&self.peers))
    }

    /// Where connections came from.
    pub fn peers(&self) -> Vec<String> {
        self.peers.lock().unwrap().clone()
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    /// Connections so far.
    pub fn sessions(&self) -> usize {
        *self.sessions.borrow()
    }

    /// Waits until `count` transactions have been taken.
    pub async fn wait_for(&self, count: usize) -> Vec<Taken> {
        let mut seen = self.count.clone();
        super::within(
            "the remote host to take its messages",
            seen.wait_for(|n| *n >= count),
        )
        .await
        .unwrap();
        self.taken()
    }

    /// Waits until what it has taken satisfies `enough`.
    pub async fn taken_until(&self, what: &str, enough: impl Fn(&[Taken]) -> bool) -> Vec<Taken> {
        let mut seen = self.count.clone();
        super::within(what, seen.wait_for(|_| enough(&self.taken())))
            .await
            .unwrap();
        self.taken()
    }

    /// Waits until `count` connections have come.
    pub async fn wait_for_sessions(&self, count: usize) {
        let mut seen = self.sessions.clone();
        super::within(
            "connections to the remote host",
            seen.wait_for(|n| *n >= count),
        )
        .await
        .unwrap();
    }
}

/// A host that says 451 until it is opened.
pub struct Gate {
    pub host: RemoteHost,
    open: Arc<AtomicBool>,
}

impl Gate {
    pub async fn closed() -> Self {
        let open = Arc::new(AtomicBool::new(false));
        let is_open = Arc::clone(&open);
        let host = RemoteHost::scripted(move |stage, _, _| match stage {
            Stage::Rcpt if !is_open.load(Ordering::Relaxed) => Answer::line("451 4.7.1 not yet"),
            _ => Answer::Usual,
        });
        Self {
            host: host.await,
            open,
        }
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }
}

struct Session {
    script: Arc<Script>,
    session: usize,
    store: Arc<Mutex<Vec<Taken>>>,
    count_tx: Arc<watch::Sender<usize>>,
}

/// The session is over.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Session {
    async fn run(&mut self, stream: TcpStream) -> Result<(), Over> {
        stream.set_nodelay(true)?;
        let mut io = BufReader::new(stream);
        self.answer(&mut io, Stage::Connect, "", &["220 remote.test ESMTP"])
            .await?;
        let (mut mail, mut recipients) = (String::new(), Vec::new());
        loop {
            let mut line = String::new();
            if io.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            let verb = line
                .split([' ', ':'])
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let usual = [
                        "250-remote.test",
                        "250-PIPELINING",
                        "250-8BITMIME",
                        "250-SMTPUTF8",
                        "250 SIZE 0",
                    ];
                    self.answer(&mut io, Stage::Ehlo, &line, &usual).await?;
                }
                "MAIL" => {
                    (mail, recipients) = (String::new(), Vec::new());
                    if self
                        .answer(&mut io, Stage::Mail, &line, &["250 2.1.0 ok"])
                        .await?
                    {
                        mail = line.clone();
                    }
                }
                "RCPT" if mail.is_empty() => self.send(&mut io, &["503 5.5.1 MAIL first"]).await?,
                "RCPT" => {
                    if self
                        .answer(&mut io, Stage::Rcpt, &line, &["250 2.1.5 ok"])
                        .await?
                    {
                        let path = line.split(['<', '>']).nth(1).unwrap_or_default();
                        recipients.push(path.to_owned());
                    }
                }
                "DATA" if recipients.is_empty() => {
                    self.send(&mut io, &["503 5.5.1 no recipients"]).await?
                }
                "DATA" => {
                    if !self
                        .answer(&mut io, Stage::Data, &line, &["354 go on"])
                        .await?
                    {
                        continue;
                    }
                    let content = read_content(&mut io).await?;
                    if self
                        .answer(&mut io, Stage::Dot, &line, &["250 2.0.0 taken"])
                        .await?
                    {
                        self.take(&mail, &recipients, content);
                    }
                }
                "BDAT" => {
                    let len = line.split(' ').nth(1).and_then(|len| len.parse().ok());
                    let mut content = vec![0; len.unwrap_or(0)];
                    io.read_exact(&mut content).await?;
                    if recipients.is_empty() {
                        self.send(&mut io, &["503 5.5.1 no recipients"]).await?;
                    } else if self
                        .answer(&mut io, Stage::Dot, &line, &["250 2.0.0 taken"])
                        .await?
                    {
                        self.take(&mail, &recipients, content);
                        (mail, recipients) = (String::new(), Vec::new());
                    }
                }
                "RSET" => {
                    (mail, recipients) = (String::new(), Vec::new());
                    self.send(&mut io, &["250 2.0.0 ok"]).await?;
                }
                "QUIT" => {
                    self.send(&mut io, &["221 2.0.0 bye"]).await?;
                    return Ok(());
                }
                _ => {
                    self.answer(&mut io, Stage::Other, &line, &["250 2.0.0 ok"])
                        .await?;
                }
            }
        }
    }

    fn take(&self, mail: &str, recipients: &[String], content: Vec<u8>) {
        let taken = Taken {
            mail: mail.to_owned(),
            recipients: recipients.to_vec(),
            content,
        };
        // Not while it is locked: who waits for the count looks at the store.
        self.store.lock().unwrap().push(taken);
        self.count_tx.send_modify(|count| *count += 1);
    }

    /// Whether the answer was positive.
    async fn answer(
        &self,
        io: &mut BufReader<TcpStream>,
        stage: Stage,
        line: &str,
        usual: &[&str],
    ) -> Result<bool, Over> {
        match (self.script)(stage, line, self.session) {
            Answer::Usual => {
                self.send(io, usual).await?;
                Ok(true)
            }
            Answer::Lines(lines) => {
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                self.send(io, &lines).await?;
                Ok(lines.last().is_some_and(|l| l.starts_with(['2', '3'])))
            }
            Answer::Octets(octets) => {
                io.get_mut().write_all(&octets).await?;
                Ok(octets.starts_with(b"2") || octets.starts_with(b"3"))
            }
            Answer::Close => Err(Over),
            Answer::Reset => {
                let _ = socket2::SockRef::from(io.get_ref())
                    .set_linger(Some(std::time::Duration::ZERO));
                Err(Over)
            }
            Answer::Silence => {
                let mut nothing = [0; 1024];
                while io.read(&mut nothing).await? > 0 {}
                Err(Over)
            }
        }
    }

    async fn send(&self, io: &mut BufReader<TcpStream>, lines: &[&str]) -> Result<(), Over> {
        let text: String = lines.iter().map(|l| format!("{l}\r\n")).collect();
        Ok(io.get_mut().write_all(text.as_bytes()).await?)
    }
}

async fn read_content(io: &mut BufReader<TcpStream>) -> Result<Vec<u8>, Over> {
    let mut content = Vec::new();
    loop {
        let mut line = Vec::new();
        if io.read_until(b'\n', &mut line).await? == 0 {
            return Err(Over);
        }
        if line == b".\r\n" {
            return Ok(content);
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
