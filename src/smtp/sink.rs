//! The built-in sink: a mail server on loopback that takes everything (but for test addresses that ask to be refused), counts it
//! and keeps nothing. A development node and
//! sandboxed servers deliver to it, never to the world (DESIGN §5).
//!
//! It is the submission server with an undemanding [`Gate`], so that mail reaches it by the same dialogue as it would reach
//! a real host. Its 250 promises nothing: what it takes is gone, which is its purpose.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::limits;
use crate::mail::{ForwardPath, Reply, TestDomains};
use crate::smtp::server::{
    self, Accepted, ContentFacts, Credentials, Doors, Gate, Intake, Listener, Role, Settings,
    Stage, Submission, Times, Tls,
};

/// A sink that is bound but does not serve yet.
pub struct Sink {
    socket: tokio::net::TcpListener,
    address: SocketAddr,
    taken: watch::Sender<Taken>,
    tests: TestDomains,
}

/// What a sink has taken since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub messages: u64,
    pub recipients: u64,
    pub octets: u64,
}

impl Sink {
    /// Binds a loopback port of the system's choice. Must be called within the runtime.
    pub fn bind(tests: TestDomains) -> io::Result<Self> {
        let socket = server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self {
            address: socket.local_addr()?,
            socket,
            taken: watch::Sender::new(Taken::default()),
            tests,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Follows what it takes.
    pub fn taken(&self) -> watch::Receiver<Taken> {
        self.taken.subscribe()
    }

    /// Serves until `stop` is true.
    /// # Cancel safety
    /// As [`server::serve`].
    pub async fn serve(self, clock: Clock, stop: watch::Receiver<bool>) {
        let tests = self.tests;
        let stage =
            move |recipient: &ForwardPath| tests.staged(recipient.as_str(), None)?.refusal();
        let settings = Settings {
            hostname: "sink.localhost".into(),
            size_max: limits::MESSAGE_SIZE_CAP,
            recipients_max: limits::RECIPIENTS_MAX,
            starttls: false,
            role: Role::Submission,
            plain_auth: false,
            address_literals: true,
            error_delay: Duration::ZERO,
            stage: Some(Stage(Arc::new(stage))),
        };
        let listener = Listener {
            settings: Arc::new(settings),
            tls: Tls::Off,
            times: Times::default(),
            gate: Open(Arc::new(self.taken)),
            doors: Doors::new(limits::DELIVERY_CONNECTIONS_MAX, usize::MAX),
            clock,
        };
        server::serve(self.socket, Arc::new(listener), stop).await;
    }
}

/// Lets everybody in and everything through; only loopback can reach it.
struct Open(Arc<watch::Sender<Taken>>);

impl Gate for Open {
    type Sender = ();
    type Intake = Counting;

    fn authenticate(&self, _: &Credentials) -> Option<()> {
        Some(())
    }

    fn trusted(&self, client: IpAddr) -> Option<()> {
        client.is_loopback().then_some(())
    }

    fn proxy(&self, _: IpAddr) -> bool {
        false
    }

    fn xclient(&self, _: IpAddr) -> bool {
        false
    }

    fn begin(&self, (): &(), submission: Submission) -> Result<Counting, Reply> {
        Ok(Counting {
            taken: Arc::clone(&self.0),
            recipients: submission.envelope.recipients.len(),
        })
    }
}

struct Counting {
    taken: Arc<watch::Sender<Taken>>,
    recipients: usize,
}

impl Intake for Counting {
    type Accepted = Counted;

    async fn push(&mut self, _: &[u8]) -> Result<(), Reply> {
        Ok(())
    }

    async fn finish(self, facts: ContentFacts) -> Result<Counted, Reply> {
        let mut number = 0;
        self.taken.send_modify(|taken| {
            taken.messages += 1;
            taken.recipients += self.recipients as u64;
            taken.octets += facts.octets;
            number = taken.messages;
        });
        Ok(Counted(number))
    }
}

/// The proof that a message was counted, which is all that a sink promises.
struct Counted(u64);

impl Accepted for Counted {
    fn message_id(&self) -> String {
        format!("sink-{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_sink_takes_and_counts_mail_and_stops() {
        let sink = Sink::bind(TestDomains::new([])).unwrap();
        let (address, mut taken) = (sink.address(), sink.taken());
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(sink.serve(Clock::start(), stopped));
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<soft_bounce@bounce-testing.postmarkapp.com>\r\nRCPT TO:<c@[192.0.2.1]>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n")
            .await
            .unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert!(said.contains("\r\n552 5.2.2 "), "{said}");
        assert!(said.contains("\r\n250 2.0.0 OK sink-1\r\n221 "), "{said}");
        drop(client);
        let taken = *taken.wait_for(|t| t.messages == 1).await.unwrap();
        assert_eq!((taken.recipients, taken.octets), (2, 4));
        stop.send(true).unwrap();
        serving.await.unwrap();
    }
}
