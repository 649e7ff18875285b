//! From an address to a stream: from our own source address, or through the proxy of a source that lives elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::proxy::{self, Refusal};
use crate::config::Proxy;
use crate::limits;
use crate::smtp::client::Settings;

/// Where to, from where, and how.
#[derive(Clone, Debug)]
pub struct Dial {
    pub remote: SocketAddr,
    /// The address that the remote host is to see, of the same family: ours, or the proxy's.
    pub source: IpAddr,
    /// The source lives on another host.
    pub proxy: Option<Arc<Proxy>>,
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
    /// The proxy that the source needs does not serve us: no remote host is to blame.
    #[error("the proxy {proxy} of the source {detail}")]
    Proxy {
        proxy: String,
        detail: String,
        /// It serves nobody; otherwise it only refuses this remote host.
        at_all: bool,
    },
    #[error("{0}")]
    Remote(io::Error),
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(std::time::Duration),
}

/// Connects from `source` to `remote` within `within`.
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn connect(dial: &Dial) -> Result<TcpStream, ConnectError> {
    let within = dial.settings.timeouts.connect;
    let Some(proxy) = &dial.proxy else {
        let socket = open_socket(dial.source).map_err(|error| ConnectError::Source {
            source_address: dial.source,
            error,
        })?;
        return match timeout(within, socket.connect(dial.remote)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(ConnectError::Remote(error)),
            Err(_) => Err(ConnectError::TimedOut(within)),
        };
    };
    // The proxy itself is near: what it does not do in this time it does not do.
    let failing = |detail: String, at_all: bool| ConnectError::Proxy {
        proxy: proxy.to_string(),
        detail,
        at_all,
    };
    let failed = |detail: String| failing(detail, true);
    let patience = within.min(limits::PROXY_CONNECT);
    let stream = match timeout(patience, TcpStream::connect(proxy.authority())).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(format!("cannot be reached: {error}"))),
        Err(_) => {
            return Err(failed(format!(
                "does not answer within {} s",
                patience.as_secs_f32()
            )));
        }
    };
    stream
        .set_nodelay(true)
        .map_err(|error| failed(error.to_string()))?;
    match timeout(within, proxy::through(stream, proxy, dial)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(Refusal::Proxy(detail))) => Err(failed(detail)),
        Ok(Err(Refusal::Here(detail))) => Err(failing(detail, false)),
        Ok(Err(Refusal::Remote(error))) => Err(ConnectError::Remote(error)),
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
