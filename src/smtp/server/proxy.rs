//! The PROXY protocol, versions 1 and 2: a load balancer says who its client is, before the dialogue and before TLS.
//!
//! Not a single octet behind the header is read here: in implicit TLS it belongs to the handshake. Version 2 tells its
//! length; version 1 is read octet by octet, at most 107 of them.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Why a header cannot be used. The connection is closed without a word (PROXY protocol §2).
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("malformed PROXY header")]
    Malformed,
    #[error("PROXY header with an address that is not IP")]
    NotIp,
    #[error("connection lost within the PROXY header")]
    Io(#[from] std::io::Error),
}

/// Reads one header. `None`: the proxy speaks for itself (a health check).
/// # Cancel safety
/// None: what was read is lost. Close the connection.
pub async fn read<R: AsyncRead + Unpin>(from: &mut R) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = vec![0; SIGNATURE.len()];
    from.read_exact(&mut header).await?;
    if header == SIGNATURE {
        second(from, header).await
    } else if header.starts_with(b"PROXY ") {
        first(from, header).await
    } else {
        Err(ProxyError::Missing)
    }
}

async fn first<R: AsyncRead + Unpin>(
    from: &mut R,
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyError> {
    while !header.ends_with(b"\r\n") {
        if header.len() >= V1_OCTETS_MAX {
            return Err(ProxyError::Malformed);
        }
        header.push(from.read_u8().await?);
    }
    let header = ppp::v1::Header::try_from(header.as_slice()).map_err(|_| ProxyError::Malformed)?;
    Ok(match header.addresses {
        ppp::v1::Addresses::Unknown => None,
        ppp::v1::Addresses::Tcp4(a) => Some(SocketAddr::from((a.source_address, a.source_port))),
        ppp::v1::Addresses::Tcp6(a) => Some(SocketAddr::from((a.source_address, a.source_port))),
    })
}

async fn second<R: AsyncRead + Unpin>(
    from: &mut R,
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyError> {
    let mut fixed = [0; 4];
    from.read_exact(&mut fixed).await?;
    let [_, _, high, low] = fixed;
    let length = usize::from(u16::from(high) << 8 | u16::from(low));
    if length > V2_OCTETS_MAX {
        return Err(ProxyError::Malformed);
    }
    header.extend_from_slice(&fixed);
    let start = header.len();
    header.resize(start + length, 0);
    from.read_exact(header.get_mut(start..).unwrap_or_default())
        .await?;
    let header = ppp::v2::Header::try_from(header.as_slice()).map_err(|_| ProxyError::Malformed)?;
    if header.command == ppp::v2::Command::Local {
        return Ok(None);
    }
    match header.addresses {
        ppp::v2::Addresses::IPv4(a) => {
            Ok(Some(SocketAddr::from((a.source_address, a.source_port))))
        }
        ppp::v2::Addresses::IPv6(a) => {
            Ok(Some(SocketAddr::from((a.source_address, a.source_port))))
        }
        ppp::v2::Addresses::Unspecified => Ok(None),
        ppp::v2::Addresses::Unix(_) => Err(ProxyError::NotIp),
    }
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// PROXY protocol §2.1.
const V1_OCTETS_MAX: usize = 107;
/// Addresses take 36 octets, the rest are TLVs; certificates in them are not for us.
const V2_OCTETS_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(input: &[u8], client: Option<&str>, rest: &[u8]) {
        let mut from = input;
        let found = read(&mut from).await.unwrap();
        assert_eq!(found, client.map(|c| c.parse().unwrap()));
        assert_eq!(from, rest);
    }

    #[tokio::test]
    async fn the_client_is_taken_from_the_header_and_nothing_behind_it_is_read() {
        check(
            b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25\r\nEHLO",
            Some("192.0.2.1:4000"),
            b"EHLO",
        )
        .await;
        check(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 25\r\n",
            Some("[2001:db8::1]:4000"),
            b"",
        )
        .await;
        check(b"PROXY UNKNOWN\r\nEHLO", None, b"EHLO").await;
        let mut v2 = SIGNATURE.to_vec();
        v2.extend_from_slice(&[
            0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 0x0f, 0xa0, 0, 25,
        ]);
        v2.extend_from_slice(b"EHLO");
        check(&v2, Some("192.0.2.1:4000"), b"EHLO").await;
        let mut local = SIGNATURE.to_vec();
        local.extend_from_slice(&[0x20, 0, 0, 0]);
        check(&local, None, b"").await;
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let mut endless = b"PROXY TCP4 ".to_vec();
        endless.resize(400, b'1');
        let mut unix = SIGNATURE.to_vec();
        unix.extend_from_slice(&[0x21, 0x31, 0, 216]);
        unix.resize(16 + 216, 0);
        for input in [
            &b"EHLO client.example\r\n"[..],
            b"PROXY TCP4 here there 1 2\r\n",
            b"PROXY TCP4 192.0.2.1",
            &endless,
            &unix,
        ] {
            assert!(read(&mut &input[..]).await.is_err(), "{input:?}");
        }
    }
}
