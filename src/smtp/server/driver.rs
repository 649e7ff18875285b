//! Listeners and their connections: sockets, TLS, PROXY, time-outs, limits, stop. The dialogue is [`super::session`]'s.
//!
//! It promises that a client is told 250 only by [`acknowledgement`], from a proof of durability; that no read waits for
//! ever; that a panic in one connection ends that connection with 421 and counts; and that after the stop no connection
//! outlives [`limits::DRAIN`]. It knows what is behind it only as [`Gate`].
//!
//! A connection is one task. It steps the session until that wants more input, writes what is due in one write, and reads
//! on. Reading happens nowhere else, so a client that sends faster than the spool takes is slowed down by TCP.

mod connection;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::limits;
use crate::mail::Reply;
use crate::metrics;
use crate::smtp::reply;

use super::doors::Doors;
use super::gate::{Accepted, Gate};
use super::session::Settings;

/// Certificate and key, exchanged when they are read again; connections that are open keep theirs.
pub type TlsSource = Arc<ArcSwap<ServerConfig>>;

/// How TLS begins.
#[derive(Clone)]
pub enum Tls {
    Off,
    StartTls(TlsSource),
    /// RFC 8314 §3: from the first octet.
    Implicit(TlsSource),
}

/// Everything about one listener but its socket.
pub struct Listener<G> {
    pub settings: Arc<Settings>,
    pub tls: Tls,
    pub times: Times,
    pub gate: G,
    /// Shared by all listeners.
    pub doors: Arc<Doors>,
    pub clock: Clock,
}

/// How long a client may take, and how long it has to wait. The defaults are those of [`limits`]; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For one whole command, however it trickles in.
    pub command: Duration,
    pub auth_step: Duration,
    /// Also for a PROXY header.
    pub tls_handshake: Duration,
    pub data_idle: Duration,
    pub data_rate_window: Duration,
    pub data_absolute: Duration,
    pub session: Duration,
    /// Before the answer to the first failed AUTH; doubles with each further one, up to eight times.
    pub auth_delay: Duration,
    /// After our last word: the client's octets are taken off the wire, so that a reset does not overtake the reply.
    pub linger: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            command: limits::COMMAND_IDLE,
            auth_step: limits::AUTH_STEP,
            tls_handshake: limits::TLS_HANDSHAKE,
            data_idle: limits::DATA_IDLE,
            data_rate_window: limits::DATA_RATE_WINDOW,
            data_absolute: limits::DATA_ABSOLUTE,
            session: limits::SESSION_ABSOLUTE,
            auth_delay: Duration::from_secs(1),
            linger: Duration::from_secs(2),
        }
    }
}

/// Opens a listening socket. Must be called within the runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that `0.0.0.0:25` and `[::]:25` can both be configured.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves one listener until `stop` is true; then lets content that is on its way end, within [`limits::DRAIN`], and
/// closes everything else with 421.
/// # Cancel safety
/// Dropping it closes all connections of the listener at once. No message is acknowledged that is not durable.
pub async fn serve<G: Gate>(
    socket: TcpListener,
    listener: Arc<Listener<G>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let stopping = stop.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(ended) = connections.join_next() => note_end(ended),
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => admit(&mut connections, stream, peer, &listener, &stopping),
                Err(e) => pause_accepting(&e).await,
            },
        }
    }
    drop(socket);
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            note_end(ended);
        }
    };
    if tokio::time::timeout(limits::DRAIN, drain).await.is_err() {
        let open = connections.len();
        tracing::warn!(
            open,
            "submission connections cut off: they did not end in time"
        );
        connections.shutdown().await;
    }
}

/// Returns when the node stops; whoever dropped the other end has stopped too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The value that it returns is a read lock, which must not live across an await.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn admit<G: Gate>(
    connections: &mut JoinSet<()>,
    stream: TcpStream,
    peer: SocketAddr,
    listener: &Arc<Listener<G>>,
    stop: &watch::Receiver<bool>,
) {
    metrics::SMTP_SESSIONS.add(1);
    let Some(place) = listener.doors.enter() else {
        metrics::SMTP_LIMITS.add_to("connections", 1);
        turn_away(&stream, &listener.tls, &reply::TOO_MANY_CONNECTIONS);
        return;
    };
    let listener = Arc::clone(listener);
    connections.spawn(connection::attend(
        stream,
        peer,
        place,
        listener,
        stop.clone(),
    ));
}

/// A word before closing, if it can be said without waiting and without TLS.
fn turn_away(stream: &TcpStream, tls: &Tls, reply: &Reply) {
    if !matches!(tls, Tls::Implicit(_)) {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        // Best effort: the client may be gone, which is what we want of it.
        let _ = stream.try_write(&out);
    }
}

/// Connections that end on their own say nothing here; panics are caught inside.
fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        tracing::error!(error = %e, "a submission connection ended abnormally");
    }
}

/// Out of descriptors or memory: the connection waits in the backlog, and the listener stays (threats-and-faults §3).
async fn pause_accepting(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a submission connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// `250 2.0.0 OK <MessageID>`: the only place where a message is acknowledged, and only from the proof that it is durable.
fn acknowledgement(accepted: &impl Accepted) -> Reply {
    let status = crate::mail::EnhancedStatus::new(2, 0, 0);
    Reply::new(250, Some(status), &format!("OK {}", accepted.message_id()))
}

const BACKLOG: i32 = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
