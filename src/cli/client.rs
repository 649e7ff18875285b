//! Talks to the running daemon: HTTP/1.1 with JSON over `DATA_DIR/admin.sock`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::Failure;
use crate::http::listener::ADMIN_SOCKET;
use crate::http::wire;

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;
type Connection = hyper::client::conn::http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// One daemon. Each request is a connection of its own.
pub(super) struct AdminClient {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Nobody listens: there is no daemon on this data directory.
    NoDaemon(String),
    /// It answered, and said no; or could not be understood.
    Refused(Failure),
}

impl From<NoAnswer> for Failure {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::NoDaemon(message) => Failure::unreachable(message),
            NoAnswer::Refused(failure) => failure,
        }
    }
}

impl AdminClient {
    pub(super) fn new(data_dir: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::disk(format!("no runtime: {e}")))?;
        Ok(Self {
            socket: data_dir.join(ADMIN_SOCKET),
            runtime,
        })
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, NoAnswer> {
        let answer = self.exchange(Method::GET, path, Vec::new())?;
        parse(&answer)
    }

    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, NoAnswer> {
        let body = serde_json::to_vec(body)
            .map_err(|e| refused(format!("the request cannot be written: {e}")))?;
        let mut answer = self.exchange(Method::POST, path, body)?;
        let mut told = false;
        while let Ok(wire::Work { work, .. }) = serde_json::from_slice(&answer) {
            if !std::mem::replace(&mut told, true) {
                eprintln!("the daemon is at work on it; it goes on if this command is ended");
            }
            let end = format!("/admin/v1/queue/running/{work}");
            answer = self.exchange(Method::GET, &end, Vec::new())?;
        }
        parse(&answer)
    }

    /// Any request, and its answer as it is.
    pub(super) fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, NoAnswer> {
        let exchange = self.exchange_async(method, path, body);
        self.runtime
            .block_on(async { tokio::time::timeout(ANSWER, exchange).await })
            .unwrap_or_else(|_| {
                Err(refused(format!(
                    "the daemon at {} takes the connection but does not answer",
                    self.socket.display()
                )))
            })
    }

    async fn exchange_async(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, NoAnswer> {
        let (mut sender, connection) = self.connect().await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "admin.sock")
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| refused(format!("the request cannot be made: {e}")))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| self.lost(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| refused(format!("the daemon's answer breaks off: {e}")))?
            .to_bytes();
        drop(sender);
        // It ends with the sender; how does not matter any more.
        let _ = driver.await;
        match status.is_success() {
            true => Ok(body),
            false => Err(NoAnswer::Refused(failure(status, &body))),
        }
    }

    /// A `GET` whose answer is lines of JSON that go on: calls `begun` when it begins and `each` for every line, until the
    /// daemon ends it or `each` fails.
    pub(super) fn follow<T: DeserializeOwned>(
        &self,
        path: &str,
        begun: impl FnOnce(),
        each: impl FnMut(T) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.runtime.block_on(self.follow_async(path, begun, each))
    }

    async fn follow_async<T: DeserializeOwned>(
        &self,
        path: &str,
        begun: impl FnOnce(),
        mut each: impl FnMut(T) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let (mut sender, connection) = self.connect().await?;
        // It ends with this runtime at the latest.
        let _driver = tokio::spawn(connection);
        let request = Request::get(path)
            .header("Host", "admin.sock")
            .body(Full::new(Bytes::new()))
            .map_err(|e| refused(format!("the request cannot be made: {e}")))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| self.lost(&e))?;
        let status = answer.status();
        if !status.is_success() {
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await;
            let body = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
            return Err(failure(status, &body));
        }
        begun();
        let mut body = answer.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.lost(&e))?;
            let Some(octets) = frame.data_ref() else {
                continue;
            };
            rest.extend_from_slice(octets);
            let mut from = 0;
            while let Some(len) = memchr::memchr(b'\n', &rest[from..]) {
                each(parse(&rest[from..from + len])?)?;
                from += len + 1;
            }
            rest.drain(..from);
            if rest.len() > ANSWER_BYTES_MAX {
                return Err(refused("the daemon's answer has no end of line".to_owned()).into());
            }
        }
        Ok(())
    }

    async fn connect(&self) -> Result<(Sender, Connection), NoAnswer> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.no_daemon(&e))?;
        hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.lost(&e))
    }

    fn lost(&self, error: &hyper::Error) -> NoAnswer {
        let socket = self.socket.display();
        refused(format!(
            "the daemon at {socket} ended the connection: {error}"
        ))
    }

    fn no_daemon(&self, error: &io::Error) -> NoAnswer {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => NoAnswer::Refused(Failure::unreachable(format!(
                "{socket} is not open to this user; run as the daemon's user or in its group"
            ))),
            _ => NoAnswer::NoDaemon(format!(
                "the daemon is not reachable at {socket} ({error}); start it (posthaste serve), or name its data directory with --data-dir or its configuration with --config"
            )),
        }
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, NoAnswer> {
    serde_json::from_slice(body).map_err(|e| {
        refused(format!(
            "the daemon's answer cannot be read ({e}); is it of another version?"
        ))
    })
}

pub(super) fn refused(message: String) -> NoAnswer {
    NoAnswer::Refused(Failure::unreachable(message))
}

pub(super) fn failure(status: StatusCode, body: &[u8]) -> Failure {
    let said = serde_json::from_slice::<wire::Failure>(body).ok();
    let message = said.map_or_else(
        || format!("the daemon answers {status}"),
        |failure| failure.message,
    );
    match status {
        StatusCode::BAD_REQUEST => Failure::usage(message),
        StatusCode::SERVICE_UNAVAILABLE => Failure::unreachable(message),
        StatusCode::INTERNAL_SERVER_ERROR => Failure::disk(message),
        _ => Failure::finding(message),
    }
}

/// A value within a path or query (RFC 3986 §2.1).
pub(super) fn percent(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte as char)
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

const ANSWER: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 64 << 20;
