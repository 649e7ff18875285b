//! The policy file of MTA-STS (RFC 8461 §3.3): one GET over TLS.
//!
//! Promises: an answer within [`limits::POLICY_FETCH`], at most [`limits::POLICY_BYTES_MAX`] of it; only addresses that mail might go
//! to as well are spoken to; a certificate that is not valid for the name is an answer of its own, and so is a redirect, which
//! is not followed. Deliberately does not know what a policy says: `crate::check` reads it. Nothing is kept.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Records, may_reach, trust};
use crate::check::{Answer, Fetched, Kind, Question, Record};
use crate::config::Cidr;
use crate::limits;

/// Fetches policies. Shared.
pub struct PolicyFiles {
    records: Arc<Records>,
    allow_networks: Vec<Cidr>,
    ca_file: Option<PathBuf>,
    /// Made at the first use: it reads files.
    tls: OnceCell<TlsConnector>,
    port: u16,
}

impl PolicyFiles {
    pub fn new(records: Arc<Records>, allow_networks: Vec<Cidr>, ca_file: Option<PathBuf>) -> Self {
        Self {
            records,
            allow_networks,
            ca_file,
            tls: OnceCell::new(),
            port: HTTPS,
        }
    }

    /// What `https://HOST/.well-known/mta-sts.txt` holds: [`Record::Policy`], or why nothing is known.
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn fetch(&self, host: &str) -> Answer {
        let fetched = timeout(limits::POLICY_FETCH, self.try_fetch(host)).await;
        let too_late = || {
            let seconds = limits::POLICY_FETCH.as_secs();
            Err(format!("no answer within {seconds} seconds"))
        };
        match fetched.unwrap_or_else(|_| too_late()) {
            Ok(fetched) => Answer::Found(vec![Record::Policy(fetched)]),
            Err(why) => Answer::Failed(why),
        }
    }

    async fn try_fetch(&self, host: &str) -> Result<Fetched, String> {
        let found = self.addresses(host).await?;
        let may_reach = |address: &IpAddr| may_reach(&self.allow_networks, *address);
        let allowed: Vec<IpAddr> = found.iter().copied().filter(may_reach).collect();
        if let (true, Some(private)) = (allowed.is_empty(), found.first()) {
            return Ok(Fetched::Private(*private));
        }
        let stream = self.connect(&allowed).await?;
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| format!("{host} is no name that a certificate can hold"))?;
        let tls = self.tls.get_or_try_init(|| self.connector()).await?;
        match tls.connect(name, stream).await {
            Ok(stream) => get(host, stream).await,
            Err(error) => match error
                .get_ref()
                .and_then(|e| e.downcast_ref::<rustls::Error>())
            {
                Some(distrust) => Ok(Fetched::Untrusted(distrust.to_string())),
                None => Err(format!("TLS failed: {error}")),
            },
        }
    }

    /// IPv4 first: it is what a node has for certain.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let ask = |kind| {
            let question = Question {
                name: host.to_owned(),
                kind,
            };
            async move { self.records.look_up(&question).await }
        };
        let mut addresses = Vec::new();
        let mut failed = None;
        for answer in [ask(Kind::A).await, ask(Kind::Aaaa).await] {
            match answer {
                Answer::Found(records) => addresses.extend(records.iter().filter_map(address_of)),
                Answer::Nothing | Answer::NoSuchName => {}
                Answer::Failed(why) => failed = Some(why),
            }
        }
        match addresses.is_empty() {
            true => Err(failed.unwrap_or_else(|| format!("{host} has no address"))),
            false => Ok(addresses),
        }
    }

    /// To the addresses that were judged, and no other.
    async fn connect(&self, addresses: &[IpAddr]) -> Result<TcpStream, String> {
        let mut failed = String::new();
        for address in addresses.iter().take(ADDRESSES_TRIED) {
            let to = SocketAddr::new(*address, self.port);
            match timeout(limits::POLICY_CONNECT, TcpStream::connect(to)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = format!("{to}: {error}"),
                Err(_) => failed = format!("{to}: no connection in time"),
            }
        }
        Err(failed)
    }

    async fn connector(&self) -> Result<TlsConnector, String> {
        let mut config = trust::client(self.ca_file.as_deref()).await?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

async fn get(host: &str, stream: TlsStream<TcpStream>) -> Result<Fetched, String> {
    let failed = |error: hyper::Error| format!("no usable answer: {error}");
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // Ends with this function.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request = Request::get(PATH)
        .header(HOST, host)
        .header(USER_AGENT, concat!("posthaste/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Ok(Fetched::Status {
            code: response.status().as_u16(),
            location: text_of(&response, LOCATION),
        });
    }
    let content_type = text_of(&response, CONTENT_TYPE).unwrap_or_default();
    let body = Limited::new(response.into_body(), limits::POLICY_BYTES_MAX);
    match body.collect().await {
        Ok(body) => Ok(Fetched::File {
            content_type,
            text: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        }),
        Err(error) if error.is::<LengthLimitError>() => Ok(Fetched::TooLong),
        Err(error) => Err(format!("the answer broke off: {error}")),
    }
}

fn text_of<T>(response: &Response<T>, name: HeaderName) -> Option<String> {
    let value = response.headers().get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn address_of(record: &Record) -> Option<IpAddr> {
    match record {
        Record::Address(address) => Some(*address),
        _ => None,
    }
}

/// RFC 8461 §3.3.
const PATH: &str = "/.well-known/mta-sts.txt";
const HTTPS: u16 = 443;
const ADDRESSES_TRIED: usize = 3;
const HEAD_BYTES_MAX: usize = 16 * 1024;
