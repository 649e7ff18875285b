//! [`Connection`]: the socket, TLS and the timer under a [`ClientSession`].
//!
//! Promises: every call ends, at the latest at the session's deadlines; a source address is bound before connecting and is
//! the one that the connection has; nothing is read ahead of the machine or written behind its back.
//! Deliberately does not know what a verdict means, nor which host comes next.
//!
//! Why one loop and no split of reader and writer: the machine must see what was received before it is told what was
//! written, or it could not notice an answer that came too early. So each turn polls for input first, then for output. The
//! timer is armed once and moved only when a deadline comes earlier; most turns do not touch it.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::content::{Fetching, Pieces};
use super::session::{ClientEvent, ClientSession, Ending, Outbound, Settings, Verdict};
use crate::clock::Clock;
use crate::limits;

/// Where to, from where, and how.
#[derive(Clone, Debug)]
pub struct Dial {
    pub remote: SocketAddr,
    /// The local address, of the same family.
    pub source: IpAddr,
    /// The remote host's name, for TLS.
    pub host: Arc<str>,
    pub settings: Settings,
}

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The source address cannot be used on this machine: no remote host is to blame.
    #[error("the source address {source_address} cannot be used: {error}")]
    Source {
        source_address: IpAddr,
        error: io::Error,
    },
    #[error("{0}")]
    Remote(io::Error),
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(std::time::Duration),
}

/// What protects the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsState {
    /// `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
    pub description: Arc<str>,
}

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
    /// A TLS record may still be in the buffers.
    unflushed: bool,
    /// Where the pieces of the content under way come from that were not at hand, and the one that is being fetched.
    pieces: Option<Arc<dyn Pieces>>,
    fetching: Option<Fetching>,
    timer: Pin<Box<Sleep>>,
    /// Why the transport ended, in the system's words.
    trouble: Option<String>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two, and after a failed handshake.
    Gone,
}

/// What one turn of the loop brought.
enum Turn {
    Input(usize),
    Written(usize),
    Flushed,
    /// A piece of the content.
    Fetched(Result<Bytes, String>),
    Closed(Option<io::Error>),
    TimedOut,
}

/// Connects from `source` to `remote` within `within`.
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn connect(dial: &Dial) -> Result<TcpStream, ConnectError> {
    let within = dial.settings.timeouts.connect;
    let socket = open_socket(dial.source).map_err(|error| ConnectError::Source {
        source_address: dial.source,
        error,
    })?;
    match timeout(within, socket.connect(dial.remote)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(ConnectError::Remote(error)),
        Err(_) => Err(ConnectError::TimedOut(within)),
    }
}

fn open_socket(source: IpAddr) -> io::Result<TcpSocket> {
    let domain = match source {
        IpAddr::V4(_) => socket2::Domain::IPV4,
        IpAddr::V6(_) => socket2::Domain::IPV6,
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // The machine writes whole flights: waiting for more would only delay them.
    socket.set_tcp_nodelay(true)?;
    // DESIGN §1.3: never the host's default address. An unspecified source (`0.0.0.0`) is a configuration that asks for it.
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
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
            pieces: None,
            fetching: None,
            timer: Box::pin(sleep_until(first.into())),
            trouble: None,
        }
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

    /// Whether the end of the content of the transaction under way was written.
    pub fn content_sent(&self) -> bool {
        self.session.content_sent()
    }

    /// From the banner until a transaction may begin.
    pub async fn greet(&mut self, tls: &TlsConnector) -> Result<(), GreetError> {
        loop {
            match self.event().await {
                ClientEvent::Ready => return Ok(()),
                ClientEvent::Ended(ending) => return Err(GreetError::Ended(ending)),
                ClientEvent::StartTls => self.handshake(tls).await.map_err(GreetError::Tls)?,
                ClientEvent::Done(_) => unreachable!("no transaction was begun"),
            }
        }
    }

    /// One transaction. The verdicts, and how the session ended if it did.
    /// # Cancel safety
    /// Dropping the future leaves the transaction open; [`Self::abandon`] then tells what holds.
    pub async fn transact(&mut self, mail: &Outbound) -> (Vec<Verdict>, Option<Ending>) {
        self.session.begin(self.clock.instant(), mail);
        self.pieces = mail.content.source().cloned();
        let result = self.transaction().await;
        self.pieces = None;
        self.fetching = None;
        result
    }

    async fn transaction(&mut self) -> (Vec<Verdict>, Option<Ending>) {
        loop {
            match self.event().await {
                ClientEvent::Done(verdicts) => {
                    // The end of the session follows at once when there is one.
                    let ending = match self.session.poll_event() {
                        Some(ClientEvent::Ended(ending)) => Some(ending),
                        _ => None,
                    };
                    return (verdicts, ending);
                }
                // Only a session that was not ready ends without verdicts.
                ClientEvent::Ended(ending) => return (Vec::new(), Some(ending)),
                ClientEvent::Ready | ClientEvent::StartTls => {}
            }
        }
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
        self.session.quit(self.clock.instant());
        self.idle().await;
    }

    /// What holds for the transaction that was under way, when there was one; for use when its future was dropped.
    pub fn abandon(&mut self) -> Option<Vec<Verdict>> {
        self.session.handle_close();
        loop {
            match self.session.poll_event()? {
                ClientEvent::Done(verdicts) => return Some(verdicts),
                _ => continue,
            }
        }
    }

    async fn handshake(&mut self, connector: &TlsConnector) -> Result<(), String> {
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            unreachable!("STARTTLS inside TLS");
        };
        let within = self.session.timeouts().banner;
        let name = server_name(&self.host, self.remote);
        match timeout(within, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                self.tls = Some(TlsState::of(&stream));
                self.stream = Stream::Tls(Box::new(stream));
                self.session.handle_tls(self.clock.instant());
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".into()),
        }
    }

    /// Turns until the session has an event.
    async fn event(&mut self) -> ClientEvent {
        loop {
            if let Some(event) = self.session.poll_event() {
                return event;
            }
            if self.output.is_empty() && self.session.poll_output(&mut self.output) {
                self.output.retain(|piece| !piece.is_empty());
            }
            if self.output.is_empty() && self.fetching.is_none() {
                let wanted = self.session.poll_wanted();
                self.fetching = wanted
                    .zip(self.pieces.as_ref())
                    .map(|(name, pieces)| pieces.fetch(name));
            }
            match poll_fn(|cx| self.turn(cx)).await {
                // What breaks the session also becomes an event.
                Turn::Input(0) => self.session.handle_close(),
                Turn::Input(len) => {
                    let now = self.clock.instant();
                    let _ = self.session.handle_input(now, &self.input[..len]);
                }
                Turn::Written(len) => {
                    self.advance_output(len);
                    self.session.handle_written(self.clock.instant(), len);
                }
                Turn::Flushed => self.unflushed = false,
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
        if !self.output.is_empty() {
            match self.stream.write(cx, &self.output, self.sent) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Turn::Closed(None)),
                Poll::Ready(Ok(len)) => {
                    self.unflushed = matches!(self.stream, Stream::Tls(_));
                    return Poll::Ready(Turn::Written(len));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Turn::Closed(Some(error))),
                Poll::Pending => {}
            }
        } else if self.unflushed {
            match self.stream.flush(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Turn::Flushed),
                Poll::Ready(Err(error)) => return Poll::Ready(Turn::Closed(Some(error))),
                Poll::Pending => {}
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

impl TlsState {
    fn of(stream: &TlsStream<TcpStream>) -> Self {
        let (_, session) = stream.get_ref();
        let version = session.protocol_version().and_then(|v| v.as_str());
        let suite = session
            .negotiated_cipher_suite()
            .and_then(|s| s.suite().as_str());
        Self {
            description: format!(
                "{} {}",
                version.unwrap_or("TLS").replace("v1_", "v1."),
                suite.unwrap_or("-")
            )
            .into(),
        }
    }
}

fn server_name(host: &str, remote: SocketAddr) -> ServerName<'static> {
    let name = ServerName::try_from(host.trim_end_matches('.').to_owned());
    name.unwrap_or_else(|_| ServerName::IpAddress(remote.ip().into()))
}

/// Opportunistic TLS: encrypts against listeners, and believes every certificate, since the alternative is clear text
/// (RFC 7435). Policies that verify (DANE, MTA-STS) bring their own configuration.
pub fn opportunistic_tls() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // The provider supports TLS 1.2 and 1.3: both are compiled in.
        .expect("the default versions are supported by the provider")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Pieces in one vectored write. More are written by the next.
const SLICES: usize = 64;
