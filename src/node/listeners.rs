//! The submission listeners, and what every listener is made of: sockets, certificates, file descriptors.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::gate::ListenerGate;
use super::{Node, StartError};
use crate::accept::Accept;
use crate::config::{Config, TlsIdentity, TlsMode};
use crate::limits;
use crate::smtp::server::{self as submission, Doors, Listener, Role, Times, Tls, TlsSource};

/// One submission listener, as far as it can change while it runs.
pub(super) struct Submission {
    /// As configured, and as it is.
    pub(super) bind: SocketAddr,
    pub(super) address: SocketAddr,
    pub(super) listener: Arc<Listener<ListenerGate>>,
    pub(super) tls: Option<TlsSource>,
}

impl Node {
    pub(super) fn listen(
        &mut self,
        config: &Config,
        sockets: Vec<tokio::net::TcpListener>,
        identities: Vec<Option<Arc<rustls::ServerConfig>>>,
        accept: &Accept,
        doors: &Arc<Doors>,
    ) {
        for ((settings, socket), identity) in config.smtp.iter().zip(sockets).zip(identities) {
            let tls_source: Option<TlsSource> =
                identity.map(|identity| Arc::new(ArcSwap::new(identity)));
            let tls = match (settings.tls, &tls_source) {
                (TlsMode::StartTls, Some(source)) => Tls::StartTls(Arc::clone(source)),
                (TlsMode::Implicit, Some(source)) => Tls::Implicit(Arc::clone(source)),
                _ => Tls::Off,
            };
            let listener = Arc::new(Listener {
                settings: Arc::new(submission::Settings {
                    hostname: config.node.hostname.as_str().into(),
                    size_max: settings.size_max,
                    recipients_max: limits::RECIPIENTS_MAX,
                    starttls: settings.tls == TlsMode::StartTls,
                    role: Role::Submission,
                    plain_auth: settings.allow_plain_auth,
                    address_literals: false,
                    error_delay: Duration::from_secs(1),
                    stage: None,
                }),
                tls,
                times: Times::default(),
                gate: ListenerGate::new(
                    accept.clone(),
                    self.settings.accounts(),
                    self.clock,
                    settings,
                ),
                doors: Arc::clone(doors),
                clock: self.clock,
            });
            let address = socket.local_addr().unwrap_or(settings.bind);
            tracing::info!(%address, tls = ?settings.tls, "accepting submissions");
            let serve = submission::serve(
                socket,
                Arc::clone(&listener),
                self.stop_listening.subscribe(),
            );
            self.listening.spawn(serve);
            self.smtp.push(Submission {
                bind: settings.bind,
                address,
                listener,
                tls: tls_source,
            });
        }
    }
}

pub(super) fn bind(address: SocketAddr) -> Result<tokio::net::TcpListener, StartError> {
    submission::bind(address).map_err(|source| StartError::Listen { address, source })
}

pub(super) fn read_identity(
    identity: &TlsIdentity,
) -> Result<Arc<rustls::ServerConfig>, StartError> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|e| StartError::Config(format!("{} cannot be read: {e}", path.display())))
    };
    submission::tls::server_config(&read(&identity.cert)?, &read(&identity.key)?)
        .map_err(|e| StartError::Config(format!("{}: {e}", identity.cert.display())))
}

/// File descriptors left for clients, when spool, log and delivery have theirs (threats-and-faults §5).
pub(super) fn descriptors_for_clients() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    limit.saturating_sub(limits::DESCRIPTORS_RESERVED).max(1)
}
