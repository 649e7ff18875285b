//! The composition root: builds the parts, wires them, starts and stops them in the order of the flow. The only module that
//! knows all others.
//!
//! Start: data directory and probe, spool (recovery), accounts, scheduler, then listeners; readiness is told last. Stop:
//! listeners, sessions at the final dot, scheduler and agents within [`limits::DRAIN`], spool. A failed sync stops
//! everything at once: what is really on the disk is for the next start to judge.

mod admin;
mod dispatch;
mod gate;
mod messages;
mod recover;
mod routes;
mod systemd;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::accept::{Accept, Pools};
use crate::account::{AccountError, Accounts};
use crate::clock::Clock;
use crate::config::{Config, Host, PoolId, RouteTarget, SourceId, StreamKind, TlsMode};
use crate::deliver::AgentContext;
use crate::limits;
use crate::queue::{self, NewRecipient, PoolConfig, Scheduler};
use crate::route::Router;
use crate::spool::disk::real::RealDisk;
use crate::spool::{OpenError, Options, Spool};

use dispatch::{Dispatcher, Inputs, Order};
use gate::ListenerGate;
use recover::Recovered;
use routes::Routes;

/// A running node.
pub struct Node {
    spool: Spool,
    accounts: Arc<Accounts>,
    smtp: Vec<Listener>,
    http_address: SocketAddr,
    stop_listening: watch::Sender<bool>,
    stop_dispatch: watch::Sender<bool>,
    servers: JoinSet<()>,
    dispatcher: JoinHandle<()>,
    background: JoinSet<()>,
}

struct Listener {
    address: SocketAddr,
}

/// Why a node does not start: each is one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("data directory {}: {source}", dir.display())]
    DataDir { dir: PathBuf, source: std::io::Error },
    #[error("data directory {} is in use by process {pid}; stop that node first", dir.display())]
    Locked { dir: PathBuf, pid: u32 },
    #[error("the spool under {} cannot be opened: {reason}", dir.display())]
    Spool { dir: PathBuf, reason: String },
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    Config(String),
}

impl StartError {
    /// The process's exit code (DESIGN §5).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::DataDir { .. } | Self::Locked { .. } => 73,
            Self::Spool { .. } => 74,
            Self::Account(_) => 73,
            Self::Listen { .. } => 69,
            Self::Config(_) => 78,
        }
    }
}

impl Node {
    /// Builds and starts everything. Returns when mail is accepted.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let clock = Clock::start();
        let data_dir = config.node.data_dir.clone();
        std::fs::create_dir_all(&data_dir).map_err(|source| StartError::DataDir { dir: data_dir.clone(), source })?;
        // Sockets first: a taken port should not cost a recovery.
        let mut listeners = Vec::new();
        for listener in &config.smtp {
            listeners.push(listen(listener.bind)?);
        }
        let http_listener = listen(config.http.bind)?;

        let (spool, recovered) = open_spool(&config, clock).await?;
        let (store, accounts) = crate::account::open(&config, &data_dir, clock.unix_ms()).await?;
        let accounts = Arc::new(accounts);

        let pools = Pools4::new(&config, &recovered);
        todo!()
    }
}
