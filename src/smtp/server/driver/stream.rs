//! A TCP connection that may become a TLS one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake failed halfway; the socket is closed.
    Gone,
}

impl Stream {
    /// Takes the stream through a handshake. Returns version and cipher suite.
    /// # Cancel safety
    /// None: the socket is closed.
    pub(super) async fn start_tls(
        &mut self,
        config: Arc<ServerConfig>,
        within: Duration,
    ) -> io::Result<String> {
        let Self::Plain(plain) = std::mem::replace(self, Self::Gone) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let handshake = TlsAcceptor::from(config).accept(plain);
        let tls = tokio::time::timeout(within, handshake)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let description = describe(tls.get_ref().1);
        *self = Self::Tls(Box::new(tls));
        Ok(description)
    }

    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(into).await,
            Self::Tls(stream) => stream.read_buf(into).await,
            Self::Gone => Ok(0),
        }
    }

    /// # Cancel safety
    /// None: an unknown part was written. Close the connection.
    pub(super) async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says that nothing more will be written.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::Gone => Ok(()),
        }
    }
}

/// As `Received` and logs show it: `TLSv1.3 TLS13_AES_128_GCM_SHA256`.
fn describe(connection: &rustls::ServerConnection) -> String {
    let version = connection.protocol_version().and_then(|v| v.as_str());
    let suite = connection.negotiated_cipher_suite();
    let suite = suite.and_then(|s| s.suite().as_str());
    format!(
        "{} {}",
        version.unwrap_or("TLS"),
        suite.unwrap_or("unknown")
    )
    .replace("TLSv1_", "TLSv1.")
}
