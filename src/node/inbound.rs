//! The inbound listeners and what stands behind each. The table from [`Refused`] to SMTP replies is here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::StartError;
use super::listeners::{bind, descriptors_for_clients, read_identity};
use crate::clock::Clock;
use crate::config::{Cidr, Config, InboundListener};
use crate::inbound::people::Writer;
use crate::inbound::{self, Inbound, NotKept, Refused};
use crate::limits;
use crate::mail::{EnhancedStatus, ForwardPath, NotOurs, Reply};
use crate::smtp::reply;
use crate::smtp::server::{
    self, ContentFacts, Credentials, Doors, Listener, Role, Settings, Submission, Times, Tls,
    TlsSource,
};
use crate::spool::{AppendError, Spool};

/// What the listeners need, before there is anything behind them.
pub(super) struct Opened(Vec<(TcpListener, Option<TlsSource>)>);

impl Opened {
    pub(super) fn new(config: &Config) -> Result<Self, StartError> {
        let open = |listener: &InboundListener| {
            let identity = listener.identity.as_ref().map(read_identity).transpose()?;
            let source = identity.map(|identity| Arc::new(ArcSwap::new(identity)));
            Ok((bind(listener.bind)?, source))
        };
        config
            .inbound
            .iter()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Begins to listen.
    pub(super) fn serve(
        self,
        config: &Config,
        inbound: &Inbound,
        spool: &Arc<Spool>,
        clock: Clock,
        tasks: &mut JoinSet<()>,
        stop: &watch::Sender<bool>,
    ) -> Vec<Running> {
        // Their own: strangers who come in crowds do not keep customers out.
        let most = descriptors_for_clients() / DESCRIPTORS_SHARE;
        let connections = most.clamp(1, limits::INBOUND_CONNECTIONS_MAX);
        let doors = Doors::new(connections, limits::CONNECTIONS_PER_ADDRESS);
        let mut running = Vec::new();
        for ((socket, tls), settings) in self.0.into_iter().zip(&config.inbound) {
            let listener = Arc::new(Listener {
                settings: Arc::new(Settings {
                    role: Role::Inbound,
                    hostname: config.node.hostname.as_str().into(),
                    size_max: settings.size_max,
                    recipients_max: limits::RECIPIENTS_MAX,
                    starttls: tls.is_some(),
                    plain_auth: false,
                    address_literals: false,
                    error_delay: Duration::from_secs(1),
                    stage: None,
                }),
                tls: tls.clone().map_or(Tls::Off, Tls::StartTls),
                times: Times::default(),
                gate: InboundGate {
                    inbound: inbound.clone(),
                    spool: Arc::clone(spool),
                    proxy_from: settings.proxy_from.clone(),
                },
                doors: Arc::clone(&doors),
                clock,
            });
            let address = socket.local_addr().unwrap_or(settings.bind);
            tracing::info!(%address, tls = ?settings.tls, "accepting bounces");
            tasks.spawn(server::serve(socket, listener, stop.subscribe()));
            running.push(Running {
                bind: settings.bind,
                address,
                tls,
            });
        }
        running
    }
}

/// One listener, as far as it can change while it runs.
pub(super) struct Running {
    /// As configured, and as it is.
    bind: SocketAddr,
    pub(super) address: SocketAddr,
    tls: Option<TlsSource>,
}

/// Reads the certificates of a configuration that was read again; the result puts them to use.
pub(super) fn renewal<'r>(
    running: &'r [Running],
    config: &Config,
) -> Result<impl FnOnce() + use<'r>, StartError> {
    let mut renewed = Vec::new();
    for one in running {
        let Some(settings) = config.inbound.iter().find(|l| l.bind == one.bind) else {
            return Err(StartError::Config(format!(
                "the inbound listener on {} is gone; that needs a restart",
                one.bind
            )));
        };
        let identity = settings.identity.as_ref().map(read_identity).transpose()?;
        renewed.extend(one.tls.as_ref().zip(identity));
    }
    Ok(move || {
        for (source, identity) in renewed {
            source.store(identity);
        }
    })
}

/// The door of one listener.
pub(super) struct InboundGate {
    inbound: Inbound,
    spool: Arc<Spool>,
    proxy_from: Vec<Cidr>,
}

impl server::Gate for InboundGate {
    /// Anybody.
    type Sender = ();
    type Intake = Intake;

    fn refusal(&self) -> Option<Reply> {
        let failed = self.spool.failed().borrow().is_some();
        failed.then(|| Reply::fixed(421, 4, 3, 0, "The spool has failed; not accepting mail"))
    }

    fn authenticate(&self, _: &Credentials) -> Option<()> {
        None
    }

    fn trusted(&self, _: IpAddr) -> Option<()> {
        None
    }

    fn stranger(&self) -> Option<()> {
        Some(())
    }

    async fn recipient(&self, path: &ForwardPath) -> Result<(), Reply> {
        let found = self.inbound.recipient(path).await;
        found.map_err(|refused| reply_to(&refused))
    }

    fn proxy(&self, peer: IpAddr) -> bool {
        self.proxy_from.iter().any(|cidr| cidr.contains(peer))
    }

    fn xclient(&self, _: IpAddr) -> bool {
        false
    }

    fn begin(&self, (): &(), submission: Submission) -> Result<Intake, Reply> {
        // What is left of the disk is for outcomes of mail that was accepted.
        if self.spool.full() {
            return Err(FULL);
        }
        let writer = Writer {
            reverse_path: submission.envelope.reverse_path,
            helo: submission.helo,
            address: submission.client_address,
        };
        let recipients = submission.envelope.recipients.iter();
        let begun = self.inbound.begin(recipients.map(|r| &r.path), writer);
        begun.map(Intake).map_err(|refused| reply_to(&refused))
    }
}

pub(super) struct Intake(inbound::Intake);

impl server::Intake for Intake {
    type Accepted = Taken;

    async fn push(&mut self, content: &[u8]) -> Result<(), Reply> {
        self.0.push(content);
        Ok(())
    }

    async fn finish(self, _: ContentFacts) -> Result<Taken, Reply> {
        self.0
            .finish()
            .await
            .map(Taken)
            .map_err(|error| match error {
                NotKept::Log(AppendError::Full | AppendError::TooLarge { .. }) => FULL,
                NotKept::Log(AppendError::Stopped) => {
                    Reply::fixed(451, 4, 3, 0, "The spool has failed and takes nothing more")
                }
                NotKept::Refused(refused) => reply_to(&refused),
                NotKept::NotNow(reason) => {
                    let status = EnhancedStatus::new(4, 3, 2);
                    Reply::new(451, Some(status), &format!("Not now: {reason}"))
                }
                NotKept::TooLong => Reply::fixed(552, 5, 3, 4, "At most 1 MiB for people here"),
                NotKept::Program => {
                    tracing::error!("reading a report failed in the program");
                    Reply::fixed(451, 4, 3, 0, "Internal error, come back later")
                }
            })
    }
}

pub(super) struct Taken(inbound::Taken);

impl server::Accepted for Taken {
    fn message_id(&self) -> String {
        match (self.0.about(), self.0.kept_as()) {
            (Some(message), _) => message.to_string(),
            (None, Some(event)) => event.to_string(),
            (None, None) if self.0.is_forwarded() => "forwarded".to_owned(),
            (None, None) => "about no message that is known here".to_owned(),
        }
    }
}

fn reply_to(refused: &Refused) -> Reply {
    match refused {
        Refused::OtherDomain => reply::RELAY_DENIED,
        Refused::NotOurs(NotOurs::Form) => Reply::fixed(550, 5, 1, 1, "No such address"),
        Refused::NotOurs(NotOurs::Foreign | NotOurs::Forged) => {
            Reply::fixed(550, 5, 7, 1, "This bounce address was not made here")
        }
        Refused::NotOurs(NotOurs::Expired) => {
            Reply::fixed(550, 5, 1, 1, "This bounce address has expired")
        }
        Refused::Unknown => Reply::fixed(550, 5, 1, 1, "The message is not known any more"),
        Refused::TooMany => Reply::fixed(450, 4, 7, 1, "Too many reports about this message"),
        Refused::TooManyLetters => Reply::fixed(
            450,
            4,
            7,
            1,
            "Too much mail for people, come back in an hour",
        ),
        Refused::Unsure => Reply::fixed(
            451,
            4,
            3,
            0,
            "The message cannot be looked up now, come back later",
        ),
        Refused::Busy => Reply::fixed(451, 4, 3, 2, "Busy, come back soon"),
    }
}

/// Of the file descriptors for clients, one in so many.
const DESCRIPTORS_SHARE: usize = 8;
const FULL: Reply = Reply::fixed(452, 4, 3, 1, "The disk is nearly full");
