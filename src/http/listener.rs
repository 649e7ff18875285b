//! Sockets of HTTP/1.1 and HTTP/2: the `[http]` listener, plain or TLS, and the admin socket (HTTP/1.1 only).
//!
//! Over TLS the client chooses by ALPN (RFC 9113 §3.2); in clear it may begin with the preface of HTTP/2 (§3.3).
//!
//! Each connection has bounds of its own (`limits.rs`): header size, fields and time; and there are never more than
//! `limits::HTTP_CONNECTIONS_MAX` at once, the next one waits in the system's queue. Connections end when the node stops:
//! idle ones at once, others after their answer, all at the drain deadline.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Peer;
use super::head::Watched;
use crate::config::{HttpListener, TlsIdentity};
use crate::limits;

/// A bound socket that is not served yet.
pub struct Listener {
    socket: Socket,
    times: Times,
    tls: Arc<ArcSwapOption<TlsAcceptorHandle>>,
}

/// How long a client of HTTP/1.1 may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// For a header section that has begun; over it: 408.
    pub(super) header: Duration,
    /// Before the next request.
    pub(super) idle: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            header: limits::HTTP_HEADER,
            idle: limits::HTTP_IDLE,
        }
    }
}

enum Socket {
    Tcp(TcpListener),
    /// With its path, which is removed in the end.
    Unix(UnixListener, PathBuf),
}

struct TlsAcceptorHandle(TlsAcceptor);

/// Why nothing listens. The sentence says on what and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "[http] cannot listen on {bind}: {error}; choose another [http] bind or stop what uses it"
    )]
    Bind { bind: SocketAddr, error: io::Error },
    #[error("the admin socket {path} cannot be made: {error}{advice}")]
    AdminSocket {
        path: PathBuf,
        error: io::Error,
        advice: &'static str,
    },
    #[error("[http] certificate {cert} with key {key}: {message}")]
    Identity {
        cert: PathBuf,
        key: PathBuf,
        message: String,
    },
}

/// Replaces the certificate of a listener that is being served.
#[derive(Clone)]
pub struct Renewal(Arc<ArcSwapOption<TlsAcceptorHandle>>);

impl Renewal {
    /// SIGHUP: reads the files again; connections from now on see the new certificate.
    pub fn renew(&self, config: &HttpListener) -> Result<(), ListenError> {
        if let Some(identity) = &config.identity {
            self.0.store(Some(Arc::new(acceptor(identity)?)));
        }
        Ok(())
    }
}

impl Listener {
    pub async fn bind(config: &HttpListener) -> Result<Self, ListenError> {
        let bind = config.bind;
        let socket = TcpListener::bind(bind)
            .await
            .map_err(|error| ListenError::Bind { bind, error })?;
        Self::over(socket, config)
    }

    /// As [`Listener::bind`], over a socket that is bound already.
    pub fn over(socket: TcpListener, config: &HttpListener) -> Result<Self, ListenError> {
        let tls = config.identity.as_ref().map(acceptor).transpose()?;
        Ok(Self {
            socket: Socket::Tcp(socket),
            times: Times::default(),
            tls: Arc::new(ArcSwapOption::from_pointee(tls)),
        })
    }

    /// `DATA_DIR/admin.sock`, mode 0660. A socket left by an earlier process is replaced: whoever calls this holds the
    /// data directory's lock.
    pub fn admin_socket(data_dir: &Path) -> Result<Self, ListenError> {
        let path = data_dir.join(ADMIN_SOCKET);
        let failed = |error: io::Error| ListenError::AdminSocket {
            advice: match path.as_os_str().len() > SOCKET_PATH_MAX {
                true => {
                    "; its path is longer than sockets allow (107 octets): choose a shorter data_dir"
                }
                false => "",
            },
            path: path.clone(),
            error,
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let socket = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(Self {
            socket: Socket::Unix(socket, path),
            times: Times::default(),
            tls: Arc::default(),
        })
    }

    /// Where it listens: with the system's choice where port 0 was asked for. `None` for the admin socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    #[cfg(test)]
    pub(super) fn with_times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    pub fn renewal(&self) -> Renewal {
        Renewal(self.tls.clone())
    }

    /// Serves until `stop` turns true (or its sender is gone), then until the last answer, at most `limits::DRAIN`.
    pub async fn serve(self, routes: Router, mut stop: watch::Receiver<bool>) {
        let permits = Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stopping(&mut stop) => break,
                accepted = self.accept(&permits) => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Some((permit, stream, peer)) = accepted else {
                continue;
            };
            let (routes, stop, tls) = (routes.clone(), stop.clone(), self.tls.load_full());
            let times = self.times;
            connections.spawn(async move {
                stream.serve(routes, peer, tls, times, stop).await;
                drop(permit);
            });
        }
        if let Socket::Unix(_, path) = &self.socket {
            // Nothing depends on it: the next start replaces it.
            let _ = std::fs::remove_file(path);
        }
        drop(self.socket);
        let drained = async { while connections.join_next().await.is_some() {} };
        // What has not ended by then is dropped with the set.
        let _ = tokio::time::timeout(limits::DRAIN, drained).await;
    }

    /// # Cancel safety
    /// Nothing is lost: a connection that was not taken stays in the system's queue.
    async fn accept(
        &self,
        permits: &Arc<Semaphore>,
    ) -> Option<(tokio::sync::OwnedSemaphorePermit, Stream, Peer)> {
        let permit = permits.clone().acquire_owned().await.ok()?;
        let accepted = match &self.socket {
            Socket::Tcp(socket) => socket
                .accept()
                .await
                .map(|(stream, peer)| (Stream::Tcp(stream), Peer(Some(peer.ip())))),
            Socket::Unix(socket, _) => socket
                .accept()
                .await
                .map(|(stream, _)| (Stream::Unix(stream), Peer(None))),
        };
        match accepted {
            Ok((stream, peer)) => Some((permit, stream, peer)),
            Err(error) => {
                // Mostly out of file descriptors: do not spin, the connection is still there.
                tracing::warn!(%error, "an HTTP connection cannot be accepted");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                None
            }
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Stream {
    async fn serve(
        self,
        routes: Router,
        peer: Peer,
        tls: Option<Arc<TlsAcceptorHandle>>,
        times: Times,
        stop: watch::Receiver<bool>,
    ) {
        match (self, tls) {
            (Self::Unix(stream), _) => serve_http1(stream, routes, peer, times, stop).await,
            (Self::Tcp(stream), None) => match begins_http2(&stream).await {
                Some(true) => serve_http2(stream, routes, peer, stop).await,
                Some(false) => serve_http1(stream, routes, peer, times, stop).await,
                None => {}
            },
            (Self::Tcp(stream), Some(tls)) => {
                let handshake = tokio::time::timeout(limits::TLS_HANDSHAKE, tls.0.accept(stream));
                let Ok(Ok(stream)) = handshake.await else {
                    return;
                };
                match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => serve_http2(stream, routes, peer, stop).await,
                    _ => serve_http1(stream, routes, peer, times, stop).await,
                }
            }
        }
    }
}

/// Whether the client's first octets are those of HTTP/2's preface, which no request of HTTP/1.1 begins with. `None`: it
/// sent nothing in time, or has gone.
async fn begins_http2(stream: &TcpStream) -> Option<bool> {
    let look = async {
        let mut first = [0; PREFACE.len()];
        loop {
            let seen = stream.peek(&mut first).await.ok()?;
            let (given, wanted) = (first.get(..seen)?, PREFACE.get(..seen)?);
            match seen {
                0 => return None,
                _ if given != wanted => return Some(false),
                seen if seen == PREFACE.len() => return Some(true),
                // Nobody tells when there is more to peek at. Clients send these octets at once.
                _ => tokio::time::sleep(PEEK_PAUSE).await,
            }
        }
    };
    let looked = tokio::time::timeout(limits::HTTP_HEADER, look).await;
    looked.unwrap_or(None)
}

async fn serve_http1<S>(
    stream: S,
    routes: Router,
    peer: Peer,
    times: Times,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let routes = TowerToHyperService::new(routes);
    let stream = Watched::new(stream);
    let (heads, answered) = (stream.heads(), stream.heads());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        answered.complete();
        let (answer, answered) = (routes.call(request), Arc::clone(&answered));
        async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            answered.answered();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.idle)
        .max_buf_size(limits::HTTP_HEADER_BYTES_MAX)
        .max_headers(limits::HTTP_HEADER_FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let end = tokio::select! {
        _ = &mut connection => End::Itself,
        () = heads.overdue(times.header) => End::TooSlow,
        _ = stopping(&mut stop) => End::Stop,
    };
    match end {
        // A broken connection is the client's loss; there is nobody to tell.
        End::Itself => {}
        End::TooSlow => {
            let mut stream = connection.into_parts().io.into_inner();
            let answer = super::too_slow_head();
            let say = async {
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            };
            let _ = tokio::time::timeout(times.header, say).await;
        }
        End::Stop => {
            Pin::new(&mut connection).graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Why a connection is served no longer.
enum End {
    Itself,
    TooSlow,
    Stop,
}

/// Requests of one HTTP/2 connection.
#[derive(Default)]
struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
}

async fn serve_http2<S>(stream: S, routes: Router, peer: Peer, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let routes = TowerToHyperService::new(routes);
    let requests = Arc::new(Requests::default());
    let counted = requests.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        // Relaxed: two counts that are only compared.
        counted.begun.fetch_add(1, Ordering::Relaxed);
        let (answer, counted) = (routes.call(request), counted.clone());
        async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            counted.ended.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(limits::HTTP_HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(limits::HTTP2_STREAMS_MAX)
        .keep_alive_interval(limits::HTTP2_PING)
        .keep_alive_timeout(limits::HTTP2_PING)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut seen = 0;
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stopping(&mut stop) => break,
            () = tokio::time::sleep(limits::HTTP2_IDLE) => {
                let begun = requests.begun.load(Ordering::Relaxed);
                if begun == seen && requests.ended.load(Ordering::Relaxed) == begun {
                    break;
                }
                seen = begun;
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    // A client that does not go by itself goes with this.
    let _ = tokio::time::timeout(limits::HTTP_REQUEST, connection).await;
}

async fn stopping(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: that is stopping too.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

fn acceptor(identity: &TlsIdentity) -> Result<TlsAcceptorHandle, ListenError> {
    let failed = |message: String| ListenError::Identity {
        cert: identity.cert.clone(),
        key: identity.key.clone(),
        message,
    };
    let chain = CertificateDer::pem_file_iter(&identity.cert)
        .and_then(|chain| chain.collect::<Result<Vec<_>, _>>())
        .map_err(|e| failed(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&identity.key).map_err(|e| failed(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| failed(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptorHandle(TlsAcceptor::from(Arc::new(config))))
}

/// In the data directory.
pub const ADMIN_SOCKET: &str = "admin.sock";
const SOCKET_PATH_MAX: usize = 107;
/// RFC 9113 §3.4, as far as it differs from every request of HTTP/1.1.
const PREFACE: [u8; 4] = *b"PRI ";
const PEEK_PAUSE: Duration = Duration::from_millis(10);
