//! What is said to a proxy before the remote host's banner: SOCKS5 (RFC 1928, RFC 1929), or a PROXY protocol header.
//!
//! Promises: no octet is read beyond what the proxy says, since what follows is the remote host's; a proxy that refuses or
//! talks nonsense is told apart from a remote host that it could not reach, as far as its protocol can tell.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::v2;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::dial::Dial;
use crate::config::{Proxy, ProxyKind, ProxyUser};

/// Why a proxy gives no stream.
pub(super) enum Refusal {
    /// It does not serve us.
    Proxy(String),
    /// It serves us, but not to this remote host.
    Here(String),
    /// It could not reach the remote host.
    Remote(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Proxy(match error.kind() {
            io::ErrorKind::UnexpectedEof => "closed the connection".into(),
            _ => format!("broke off: {error}"),
        })
    }
}

/// `stream` leads to the proxy; what comes back leads to the remote host.
pub(super) async fn through(
    mut stream: TcpStream,
    proxy: &Proxy,
    dial: &Dial,
) -> Result<TcpStream, Refusal> {
    match proxy.kind {
        ProxyKind::Socks5 => socks5(&mut stream, proxy.user.as_ref(), dial.remote).await?,
        ProxyKind::HaProxy => stream.write_all(&header(dial)?).await?,
    }
    Ok(stream)
}

/// RFC 1928.
async fn socks5(
    stream: &mut TcpStream,
    user: Option<&ProxyUser>,
    remote: SocketAddr,
) -> Result<(), Refusal> {
    let method = if user.is_some() {
        USER_PASSWORD
    } else {
        NO_AUTHENTICATION
    };
    stream.write_all(&[VERSION, 1, method]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, user) {
        ([VERSION, NO_AUTHENTICATION], None) => {}
        ([VERSION, USER_PASSWORD], Some(user)) => authenticate(stream, user).await?,
        ([VERSION, _], None) => {
            return Err(Refusal::Proxy(
                "wants a user and a password (proxy_user, proxy_password)".into(),
            ));
        }
        ([VERSION, _], Some(_)) => {
            return Err(Refusal::Proxy("takes no user and password".into()));
        }
        _ => return Err(Refusal::Proxy("does not speak SOCKS5".into())),
    }
    let mut request = vec![VERSION, CONNECT, 0];
    match remote.ip() {
        IpAddr::V4(ip) => {
            request.push(ADDRESS_V4);
            request.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(ADDRESS_V6);
            request.extend(ip.octets());
        }
    }
    request.extend(remote.port().to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    let [version, code, _, kind] = reply;
    if version != VERSION {
        return Err(Refusal::Proxy("does not speak SOCKS5".into()));
    }
    // The address that the proxy uses: read to its end, and not needed.
    let address = match kind {
        ADDRESS_V4 => 4,
        ADDRESS_V6 => 16,
        ADDRESS_NAME => usize::from(stream.read_u8().await?),
        _ => return Err(Refusal::Proxy("does not speak SOCKS5".into())),
    };
    let mut bound = [0; 255 + 2];
    stream.read_exact(&mut bound[..address + 2]).await?;
    said(code)
}

/// RFC 1928 §6.
fn said(code: u8) -> Result<(), Refusal> {
    let remote = |kind, text: &str| {
        let text = format!("{text}, says the proxy");
        Err(Refusal::Remote(io::Error::new(kind, text)))
    };
    match code {
        0 => Ok(()),
        3 => remote(io::ErrorKind::NetworkUnreachable, "network unreachable"),
        4 => remote(io::ErrorKind::HostUnreachable, "host unreachable"),
        5 => remote(io::ErrorKind::ConnectionRefused, "connection refused"),
        6 => remote(io::ErrorKind::TimedOut, "time to live expired"),
        2 => Err(Refusal::Here("does not allow the connection".into())),
        8 => Err(Refusal::Here("has no address of that family".into())),
        code => Err(Refusal::Here(format!("failed with SOCKS code {code}"))),
    }
}

/// RFC 1929.
async fn authenticate(stream: &mut TcpStream, user: &ProxyUser) -> Result<(), Refusal> {
    let mut request = vec![1];
    for word in [user.name.as_str(), user.password.expose()] {
        // The configuration refuses longer ones.
        let word = &word.as_bytes()[..word.len().min(255)];
        request.push(u8::try_from(word.len()).unwrap_or(u8::MAX));
        request.extend_from_slice(word);
    }
    stream.write_all(&request).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    match answer {
        [_, 0] => Ok(()),
        _ => Err(Refusal::Proxy("refuses our user or password".into())),
    }
}

/// PROXY protocol, version 2: the source address that the proxy is to bind (port 0, any), and where to connect to.
fn header(dial: &Dial) -> Result<Vec<u8>, Refusal> {
    let addresses = v2::Addresses::from((SocketAddr::new(dial.source, 0), dial.remote));
    let builder = v2::Builder::with_addresses(
        v2::Version::Two | v2::Command::Proxy,
        v2::Protocol::Stream,
        addresses,
    );
    Ok(builder.build()?)
}

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const NO_AUTHENTICATION: u8 = 0;
const USER_PASSWORD: u8 = 2;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;
