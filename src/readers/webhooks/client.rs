//! Requests to hooks: HTTP/1.1 over connections that are kept, each to an address that was checked.
//!
//! Promises: whatever a name server or a redirect says, only addresses that the configuration permits are connected to
//! (threats-and-faults §2.2), each time anew, and to the very address that was looked at; every call ends by its deadline;
//! of an answer at most [`limits::WEBHOOK_ANSWER_MAX`] octets are read. Does not know what is sent, nor when again.
//!
//! A kept connection that its other end has closed meanwhile costs no attempt, as long as nothing was sent on it. Since it may
//! be closed in the moment it is used, one is not kept for longer than any common server keeps it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::account::hook_url;
use crate::clock::Clock;
use crate::config::Webhooks;
use crate::limits;
use crate::route::{Records, trust};

/// What all hooks share. Cheap to share.
pub(super) struct Client {
    pub(super) rules: Webhooks,
    records: Arc<Records>,
    extra_roots: Option<std::path::PathBuf>,
    tls: OnceCell<TlsConnector>,
    clock: Clock,
    /// Connections of all hooks.
    open: Arc<AtomicUsize>,
}

/// The kept connections of one hook.
#[derive(Default)]
pub(super) struct Lines {
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    origin: Origin,
    connection: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    is_https: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Url) -> Option<Self> {
        Some(Self {
            is_https: url.scheme() == "https",
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default()?,
        })
    }
}

/// One of so many, until it is dropped.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        // Relaxed: a bound, not a protocol.
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Relaxed: as in `new`.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why no answer came, in a sentence.
type Fault = String;

impl Client {
    pub(super) fn new(
        rules: Webhooks,
        records: Arc<Records>,
        extra_roots: Option<std::path::PathBuf>,
        clock: Clock,
    ) -> Self {
        Self {
            rules,
            records,
            extra_roots,
            tls: OnceCell::new(),
            clock,
            open: Arc::default(),
        }
    }

    /// Posts `body` to `url`, and to where it redirects; the last status.
    /// # Cancel safety
    /// Dropping it leaves open whether the request arrived.
    pub(super) async fn post(
        &self,
        lines: &Lines,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<StatusCode, Fault> {
        let timeout = self.rules.timeout;
        let posted = tokio::time::timeout(timeout, self.follow(lines, url, headers, body));
        posted.await.unwrap_or_else(|_| {
            Err(format!(
                "it did not answer within {} seconds",
                timeout.as_secs()
            ))
        })
    }

    async fn follow(
        &self,
        lines: &Lines,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<StatusCode, Fault> {
        let first = Origin::of(url).ok_or("its URL has no host")?;
        let (mut url, mut headers) = (url.clone(), headers.clone());
        let (mut method, mut body) = (Method::POST, body.clone());
        for _ in 0..=limits::WEBHOOK_REDIRECTS {
            let (status, location) = self.once(lines, &method, &url, &headers, &body).await?;
            let Some(location) = location.filter(|_| is_redirect(status)) else {
                return Ok(status);
            };
            let next = url
                .join(&location)
                .map_err(|_| format!("it redirected ({status}) to what is no URL"))?;
            let origin = Origin::of(&next)
                .filter(|_| matches!(next.scheme(), "http" | "https"))
                .ok_or_else(|| format!("it redirected ({status}) to what is no hook"))?;
            if first.is_https && !origin.is_https {
                return Err(format!("it redirected ({status}) from https to http"));
            }
            if origin != first {
                // Whoever else answers there gets the event, not the credentials.
                headers.retain_ours();
            }
            if status == StatusCode::SEE_OTHER {
                (method, body) = (Method::GET, Bytes::new());
            }
            url = next;
        }
        Err(format!(
            "it redirected more than {} times",
            limits::WEBHOOK_REDIRECTS
        ))
    }

    /// One request; its status, and where it points to.
    async fn once(
        &self,
        lines: &Lines,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(StatusCode, Option<String>), Fault> {
        let origin = Origin::of(url).ok_or("its URL has no host")?;
        let request = || request(method, url, headers, body);
        while let Some(mut kept) = lines.take(&origin, self.clock.instant()) {
            if kept.ready().await.is_err() {
                continue;
            }
            match kept.send_request(request()?).await {
                Ok(answer) => return self.read(lines, origin, kept, answer).await,
                // It was closed just now, before anything was sent.
                Err(error) if error.is_canceled() => {}
                // It may have been read: then another request would be one too many.
                Err(error) => return Err(ended(&error)),
            }
        }
        let mut fresh = self.connect(&origin, url).await?;
        let answer = fresh.send_request(request()?).await;
        let answer = answer.map_err(|error| ended(&error))?;
        self.read(lines, origin, fresh, answer).await
    }

    /// Reads the answer to its end, so that the connection can be used again.
    async fn read(
        &self,
        lines: &Lines,
        origin: Origin,
        connection: SendRequest<Full<Bytes>>,
        answer: Response<hyper::body::Incoming>,
    ) -> Result<(StatusCode, Option<String>), Fault> {
        let status = answer.status();
        let location = answer.headers().get(LOCATION);
        let location = location.and_then(|value| Some(value.to_str().ok()?.to_owned()));
        // The status is known, and the rest of no interest: whether it breaks off, never ends, or is too long.
        let mut body = Limited::new(answer.into_body(), limits::WEBHOOK_ANSWER_MAX);
        let read = async {
            loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => break false,
                    None => break true,
                }
            }
        };
        let read = tokio::time::timeout(limits::WEBHOOK_ANSWER, read).await;
        // Relaxed: a bound, not a protocol.
        let is_room = self.open.load(Ordering::Relaxed) <= limits::WEBHOOK_CONNECTIONS;
        if read == Ok(true) && is_room {
            let (now, max) = (self.clock.instant(), self.rules.concurrency);
            lines.keep(origin, connection, now, max);
        }
        Ok((status, location))
    }

    async fn connect(&self, origin: &Origin, url: &Url) -> Result<SendRequest<Full<Bytes>>, Fault> {
        let stream = self.dial(origin, url).await?;
        // A request is one write, and no answer comes before it.
        let _ = stream.set_nodelay(true);
        if !origin.is_https {
            return self.handshake(stream).await;
        }
        let name = match url.host() {
            Some(Host::Ipv4(address)) => ServerName::from(IpAddr::from(address)),
            Some(Host::Ipv6(address)) => ServerName::from(IpAddr::from(address)),
            _ => ServerName::try_from(origin.host.clone())
                .map_err(|_| format!("{} is no name that a certificate can have", origin.host))?,
        };
        let connector = self.tls.get_or_try_init(|| self.connector()).await?;
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| format!("TLS: {error}"))?;
        self.handshake(stream).await
    }

    /// Connects to one of the addresses, each of which is looked at first. All must be permitted: a name that also leads
    /// inside is not trusted with the rest.
    async fn dial(&self, origin: &Origin, url: &Url) -> Result<TcpStream, Fault> {
        let addresses = self.addresses(url).await?;
        for &address in &addresses {
            self.rules.permits(origin.is_https, origin.port, address)?;
        }
        let mut last = format!("{} has no address", origin.host);
        for address in addresses {
            let address = SocketAddr::new(address, origin.port);
            let dialled = TcpStream::connect(address);
            match tokio::time::timeout(limits::WEBHOOK_CONNECT, dialled).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = format!("{address} cannot be connected to: {error}"),
                Err(_) => last = format!("{address} does not take the connection"),
            }
        }
        Err(last)
    }

    async fn addresses(&self, url: &Url) -> Result<Vec<IpAddr>, Fault> {
        match url.host() {
            Some(Host::Ipv4(address)) => Ok(vec![address.into()]),
            Some(Host::Ipv6(address)) => Ok(vec![address.into()]),
            Some(Host::Domain(name)) => match hook_url::local(name) {
                Some(address) => Ok(vec![address]),
                None => self.records.addresses(name).await,
            },
            None => Err("its URL has no host".into()),
        }
    }

    async fn handshake<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, Fault>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let open = Counted::new(&self.open);
        // It ends with its sender; what went wrong the sender is told.
        tokio::spawn(async move {
            let _ = connection.await;
            drop(open);
        });
        Ok(sender)
    }

    /// The system's roots, and those of `[tls] ca_file`.
    async fn connector(&self) -> Result<TlsConnector, Fault> {
        let config = trust::client(self.extra_roots.as_deref()).await?;
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn ended(error: &hyper::Error) -> String {
    format!("the connection ended before its answer: {error}")
}

fn request(
    method: &Method,
    url: &Url,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Request<Full<Bytes>>, Fault> {
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = method.clone();
    *request.uri_mut() = target.parse().map_err(|_| "its URL cannot be requested")?;
    *request.headers_mut() = headers.clone();
    let host = HeaderValue::from_str(host).map_err(|_| "its URL has no host that can be named")?;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

trait RetainOurs {
    fn retain_ours(&mut self);
}

impl RetainOurs for HeaderMap {
    /// Leaves what says something of the event, and nothing that the customer set.
    fn retain_ours(&mut self) {
        let mut ours = HeaderMap::new();
        ours.insert(USER_AGENT, super::target::AGENT);
        for (name, value) in self.iter() {
            if *name == CONTENT_TYPE || super::target::OURS.contains(name) {
                ours.append(name.clone(), value.clone());
            }
        }
        *self = ours;
    }
}

impl Lines {
    fn take(&self, origin: &Origin, now: Instant) -> Option<SendRequest<Full<Bytes>>> {
        self.thin(now);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that was used last is the least likely to be closed.
        let place = idle.iter().rposition(|idle| idle.origin == *origin)?;
        Some(idle.remove(place).connection)
    }

    fn keep(
        &self,
        origin: Origin,
        connection: SendRequest<Full<Bytes>>,
        since: Instant,
        max: usize,
    ) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < max {
            idle.push(Idle {
                origin,
                connection,
                since,
            });
        }
    }

    /// Closes those that their other ends may be about to close.
    pub(super) fn thin(&self, now: Instant) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| {
            now.duration_since(idle.since) < limits::WEBHOOK_IDLE && !idle.connection.is_closed()
        });
    }

    /// Closes them.
    pub(super) fn clear(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

const _: () = assert!(limits::WEBHOOK_CONNECT.as_secs() < Duration::from_secs(30).as_secs());
