//! [`Connection`]: the socket, TLS and the timer under a [`ClientSession`].
//!
//! Promises: every call ends, at the latest at the session's deadlines; a source address is bound before connecting and is
//! the one that the connection has (or its proxy is told so); nothing is read ahead of the machine or written behind its
//! back.
//! Deliberately does not know what a verdict means, nor which host comes next.
//!
//! Why one loop and no split of reader and writer: the machine must see what was received before it is told what was
//! written, or it could not notice an answer that came too early. So each turn polls for input first, then for output. The
//! timer is armed once and moved only when a deadline comes earlier; most turns do not touch it.

mod dial;
mod ear;
mod proxy;
mod tls;

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::content::Fetching;
use super::session::{ClientEvent, ClientSession, Ending, Outbound, Sign, Verdict};
use crate::clock::Clock;
use crate::limits;

pub use dial::{ConnectError, Dial, connect};
use ear::Ear;
pub use ear::{Overhear, Said};
use tls::server_name;
pub use tls::{TlsState, opportunistic_tls};

/// Why [`Connection::greet`] gives no session.
#[derive(Debug)]
pub enum GreetError {
    /// STARTTLS did not work out. A new connection without it may.
    Tls(String),
    Ended(Ending),
}

/// One connection with its session.
pub struct Connection {
    stream: Stream,
    session: ClientSession,
    clock: Clock,
    host: Arc<str>,
    remote: SocketAddr,
    tls: Option<TlsState>,
    input: Box<[u8]>,
    /// Taken from the session, not yet wholly written. The first piece is at `written` of it.
    output: Vec<Bytes>,
    sent: usize,
    /// A TLS record waits in our buffers, and its last octet is not told as written.
    unflushed: bool,
    /// The piece of the content under way that is being fetched.
    fetching: Option<Fetching>,
    timer: Pin<Box<Sleep>>,
    /// Why the transport ended, in the system's words.
    trouble: Option<String>,
    ear: Option<Ear>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two, and after a failed handshake.
    Gone,
}

/// What [`Connection::step`] brought.
#[derive(Debug, Default)]
pub struct Step {
    /// The verdicts of transactions that ended, in their order.
    pub done: Vec<Vec<Verdict>>,
    /// How the session ended, if it did.
    pub ended: Option<Ending>,
}

/// What one turn of the loop brought.
enum Turn {
    Input(usize),
    /// The transport took so many octets, and so many more count as written.
    Written {
        taken: usize,
        counted: usize,
    },
    /// A piece of the content.
    Fetched(Result<Bytes, String>),
    Closed(Option<io::Error>),
    TimedOut,
}

impl Connection {
    /// A session on a stream that [`connect`] opened.
    pub fn new(stream: TcpStream, dial: &Dial, clock: Clock) -> Self {
        let now = clock.instant();
        let session = ClientSession::new(now, dial.settings.clone());
        let first = session.poll_timeout().unwrap_or(now);
        Self {
            stream: Stream::Plain(stream),
            session,
            clock,
            host: Arc::clone(&dial.host),
            remote: dial.remote,
            tls: None,
            input: vec![0; limits::CLIENT_READ_BUFFER].into_boxed_slice(),
            output: Vec::new(),
            sent: 0,
            unflushed: false,
            fetching: None,
            timer: Box::pin(sleep_until(first.into())),
            trouble: None,
            ear: None,
        }
    }

    /// The same, with somebody who may listen in.
    pub fn overheard_by(mut self, listener: Arc<dyn Overhear>) -> Self {
        self.ear = Some(Ear::new(listener, Arc::clone(&self.host), self.remote));
        self
    }

    pub fn host(&self) -> &Arc<str> {
        &self.host
    }

    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub fn tls(&self) -> Option<&TlsState> {
        self.tls.as_ref()
    }

    /// The transport's own words on why it ended.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether the session is between transactions and the connection still there.
    pub fn is_ready(&self) -> bool {
        self.session.is_ready()
    }

    /// Whether a transaction may begin: see [`ClientSession::may_begin`].
    pub fn may_begin(&self) -> bool {
        self.session.may_begin()
    }

    /// Whether the host offers 8BITMIME.
    pub fn takes_eight_bit(&self) -> bool {
        self.session.takes_eight_bit()
    }

    /// Whether the host offers DSN.
    pub fn takes_dsn(&self) -> bool {
        self.session.takes_dsn()
    }

    /// Whether transactions may begin behind others on this connection.
    pub fn runs_ahead(&self) -> bool {
        self.session.runs_ahead()
    }

    /// For each transaction under way, in order, whether the end of its content was written.
    pub fn contents_sent(&self) -> impl Iterator<Item = bool> {
        self.session.contents_sent()
    }

    /// What the end of the session says about the host's habits.
    pub fn sign(&self) -> Option<Sign> {
        self.session.sign()
    }

    /// Whether the session ended because the host broke the protocol at one recipient.
    pub fn has_culprit(&self) -> bool {
        self.session.culprit().is_some()
    }

    /// From the banner until a transaction may begin.
    pub async fn greet(&mut self, tls: &TlsConnector) -> Result<(), GreetError> {
        loop {
            match self.event().await {
                ClientEvent::Ready => return Ok(()),
                ClientEvent::Ended(ending) => return Err(GreetError::Ended(ending)),
                ClientEvent::StartTls => self.handshake(tls).await.map_err(GreetError::Tls)?,
                ClientEvent::Done(_) | ClientEvent::Room => {
                    unreachable!("no transaction was begun")
                }
            }
        }
    }

    /// Begins a transaction. Only when [`Self::may_begin`].
    pub fn begin(&mut self, mail: &Outbound) {
        self.overhear();
        self.session.begin(self.clock.instant(), mail);
    }

    /// Goes on with what is under way until a transaction or the session ended, or another transaction may begin.
    /// # Cancel safety
    /// Dropping the future loses nothing. [`Self::abandon`] then tells what holds, if it is not called again.
    pub async fn step(&mut self) -> Step {
        let mut step = Step::default();
        let mut next = Some(self.event().await);
        while let Some(event) = next {
            match event {
                ClientEvent::Done(verdicts) => step.done.push(verdicts),
                ClientEvent::Ended(ending) => step.ended = Some(ending),
                ClientEvent::Room | ClientEvent::Ready | ClientEvent::StartTls => {}
            }
            next = self.next_event();
        }
        step
    }

    /// Returns when the idle session ended: the remote host closed it, or spoke out of turn.
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn idle(&mut self) -> Ending {
        loop {
            if let ClientEvent::Ended(ending) = self.event().await {
                return ending;
            }
        }
    }

    /// Says QUIT and waits a moment for the reply.
    pub async fn quit(mut self) {
        self.overhear();
        self.session.quit(self.clock.instant());
        self.idle().await;
    }

    /// What holds for each transaction that was under way; for use when nobody goes on with them.
    pub fn abandon(&mut self) -> Vec<Vec<Verdict>> {
        self.session.handle_close();
        let events = std::iter::from_fn(|| self.session.poll_event());
        events
            .filter_map(|event| match event {
                ClientEvent::Done(verdicts) => Some(verdicts),
                _ => None,
            })
            .collect()
    }

    async fn handshake(&mut self, connector: &TlsConnector) -> Result<(), String> {
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            unreachable!("STARTTLS inside TLS");
        };
        let within = self.session.timeouts().banner;
        let name = server_name(&self.host, self.remote);
        match timeout(within, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                let state = self.tls.insert(TlsState::of(&stream));
                if let Some(ear) = &self.ear {
                    ear.tell(Said::Encrypted(state));
                }
                self.stream = Stream::Tls(Box::new(stream));
                self.session.handle_tls(self.clock.instant());
                Ok(())
            }
            Ok(Err(error)) => Err(self.not_encrypted(error.to_string())),
            Err(_) => Err(self.not_encrypted("no answer in time".into())),
        }
    }

    fn not_encrypted(&self, why: String) -> String {
        if let Some(ear) = &self.ear {
            ear.tell(Said::NotEncrypted(&why));
        }
        why
    }

    /// Tells what was said since, and whether to go on remembering it.
    fn overhear(&mut self) {
        if let Some(ear) = &self.ear {
            ear.take_spoken(&mut self.session);
            self.session.listen(ear.listens());
        }
    }

    fn next_event(&mut self) -> Option<ClientEvent> {
        let event = self.session.poll_event()?;
        if let (ClientEvent::Ended(ending), Some(ear)) = (&event, &mut self.ear) {
            ear.take_spoken(&mut self.session);
            ear.take_rest();
            ear.tell(Said::Ended(ending));
        }
        Some(event)
    }

    /// Turns until the session has an event.
    async fn event(&mut self) -> ClientEvent {
        loop {
            self.overhear();
            if let Some(event) = self.next_event() {
                return event;
            }
            if self.output.is_empty() && self.session.poll_output(&mut self.output) {
                self.output.retain(|piece| !piece.is_empty());
            }
            if self.output.is_empty() && self.fetching.is_none() {
                self.fetching = self.session.poll_wanted();
            }
            match poll_fn(|cx| self.turn(cx)).await {
                // What breaks the session also becomes an event.
                Turn::Input(0) => self.session.handle_close(),
                Turn::Input(len) => {
                    let now = self.clock.instant();
                    if let Some(ear) = &mut self.ear {
                        ear.take_input(&self.input[..len]);
                    }
                    let _ = self.session.handle_input(now, &self.input[..len]);
                }
                Turn::Written { taken, counted } => {
                    self.advance_output(taken);
                    self.session.handle_written(self.clock.instant(), counted);
                }
                Turn::Fetched(Ok(piece)) => self.session.handle_piece(Some(piece)),
                Turn::Fetched(Err(error)) => {
                    self.trouble = Some(error);
                    self.session.handle_piece(None);
                }
                Turn::Closed(error) => {
                    self.trouble = error.map(|e| e.to_string());
                    self.session.handle_close();
                }
                Turn::TimedOut => self.session.handle_timeout(self.clock.instant()),
            }
        }
    }

    /// Input first, see the module's comment.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let mut buffer = ReadBuf::new(&mut self.input);
        match self.stream.read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => return Poll::Ready(Turn::Input(buffer.filled().len())),
            Poll::Ready(Err(error)) => return Poll::Ready(Turn::Closed(Some(error))),
            Poll::Pending => {}
        }
        let mut taken = 0;
        if !self.output.is_empty() {
            match self.stream.write(cx, &self.output, self.sent) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Turn::Closed(None)),
                Poll::Ready(Ok(len)) => taken = len,
                Poll::Ready(Err(error)) => return Poll::Ready(Turn::Closed(Some(error))),
                Poll::Pending => {}
            }
        }
        let before = std::mem::replace(&mut self.unflushed, false);
        if taken > 0 || before {
            // A record that waits in our own buffers has not left, so a reply to its end would be early: its last octet is
            // not told as written until it has.
            match self.stream.flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Turn::Closed(Some(error))),
                Poll::Pending => self.unflushed = true,
            }
            let counted = taken + usize::from(before) - usize::from(self.unflushed);
            if taken > 0 || counted > 0 {
                return Poll::Ready(Turn::Written { taken, counted });
            }
        }
        if let Some(fetching) = &mut self.fetching
            && let Poll::Ready(piece) = fetching.as_mut().poll(cx)
        {
            self.fetching = None;
            return Poll::Ready(Turn::Fetched(piece));
        }
        self.poll_timer(cx).map(|()| Turn::TimedOut)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.session.poll_timeout() else {
                return Poll::Pending;
            };
            if deadline < self.timer.deadline().into_std() {
                self.timer.as_mut().reset(deadline.into());
            }
            ready!(self.timer.as_mut().poll(cx));
            // The timer may have been armed for an earlier deadline that was met.
            if self.clock.instant() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline.into());
        }
    }

    fn advance_output(&mut self, len: usize) {
        self.sent += len;
        let mut whole = 0;
        for piece in &self.output {
            if piece.len() > self.sent {
                break;
            }
            self.sent -= piece.len();
            whole += 1;
        }
        self.output.drain(..whole);
    }
}

impl Stream {
    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes what it can of `pieces`, from octet `skip` of the first on.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[Bytes],
        skip: usize,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            let from = if count == 0 { skip } else { 0 };
            *slice = IoSlice::new(&piece.chunk()[from..]);
            count += 1;
        }
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, &slices[..count]),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, &slices[..count]),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) | Self::Gone => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}

/// Pieces in one vectored write. More are written by the next.
const SLICES: usize = 64;
