//! An application that webhooks are sent to: keeps what it gets, and answers as a test has it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

use super::eventually;

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub text: String,
    /// `null` where it is no JSON.
    pub body: Value,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn kind(&self) -> &str {
        self.body["RecordType"].as_str().unwrap_or_default()
    }

    pub fn event(&self) -> u64 {
        self.header("x-pm-webhook-event-id").parse().unwrap()
    }
}

/// What it answers.
pub enum Say {
    Status(u16),
    Redirect(u16, String),
    /// Nothing, ever.
    Nothing,
    /// Closes the connection.
    Close,
}

type Script = dyn Fn(&Call, usize) -> Say + Send + Sync;

pub struct Receiver {
    pub address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Receiver {
    pub async fn that_takes_all() -> Self {
        Self::scripted(|_, _| Say::Status(200)).await
    }

    /// `script` is told the call and how many came before it.
    pub async fn scripted(script: impl Fn(&Call, usize) -> Say + Send + Sync + 'static) -> Self {
        Self::at([127, 0, 0, 1].into(), script).await
    }

    pub async fn at(
        ip: IpAddr,
        script: impl Fn(&Call, usize) -> Say + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let (kept, script): (_, Arc<Script>) = (Arc::clone(&calls), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, script) = (Arc::clone(&kept), Arc::clone(&script));
                let service = service_fn(move |request| {
                    answer(request, Arc::clone(&kept), Arc::clone(&script))
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, calls }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?key=1", self.address)
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits until the calls satisfy `enough`.
    pub async fn until(&self, what: &str, enough: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        eventually(what, async || {
            let calls = self.calls();
            enough(&calls).then_some(calls)
        })
        .await
    }

    pub async fn count(&self, count: usize) -> Vec<Call> {
        let what = format!("{count} webhooks");
        self.until(&what, |calls| calls.len() >= count).await
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    kept: Arc<Mutex<Vec<Call>>>,
    script: Arc<Script>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let octets = body
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    let text = String::from_utf8_lossy(&octets).into_owned();
    let call = Call {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers,
        body: serde_json::from_str(&text).unwrap_or_default(),
        text,
    };
    let said = {
        let mut kept = kept.lock().unwrap();
        let said = script(&call, kept.len());
        kept.push(call);
        said
    };
    let answer = Response::builder();
    match said {
        Say::Status(status) => Ok(answer.status(status).body(Full::default()).unwrap()),
        Say::Redirect(status, to) => Ok(answer
            .status(status)
            .header("Location", to)
            .body(Full::default())
            .unwrap()),
        Say::Nothing => std::future::pending().await,
        Say::Close => Err(std::io::Error::other("closed as the test has it")),
    }
}
