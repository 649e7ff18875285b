//! The composition root: builds the parts, wires them, starts and stops them in the order of the flow. The only module that
//! knows all others.
//!
//! Start: data directory, sockets, spool, accounts, scheduler, then listeners. Mail of earlier lives reaches the scheduler
//! meanwhile: its deliveries and new mail do not wait for the last of it, `/readyz` and orders do. Stop:
//! listeners, sessions at the final dot, scheduler and agents within [`limits::DRAIN`], spool. A failed sync stops
//! everything at once: what is really on the disk is for the next start to judge.

mod admin;
mod agents;
mod check;
mod compact;
mod directives;
mod dispatch;
pub mod erase;
mod gate;
mod gauges;
mod import;
mod inbound;
mod listeners;
mod messages;
mod notices;
mod opening;
mod orders;
mod outside;
mod policies;
mod pools;
mod probe;
mod recheck;
mod recover;
mod removals;
mod retention;
mod routes;
mod schedule;
mod state_file;
mod systemd;
mod trace;
mod upkeep;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::accept::{self, Accept, Pools};
use crate::account::{Outside, Settings, StoreError, check_key_files};
use crate::classify::Rules;
use crate::clock::Clock;
use crate::config::{Config, TlsMode};
use crate::deliver::{self, AgentContext};
use crate::http::{self, App};
use crate::idempotency::Keys;
use crate::inbound::Inbound;
use crate::inbound::people::Forward;
use crate::limits;
use crate::mail::TestDomains;
use crate::queue::Scheduler;
use crate::readers;
use crate::readers::Reader;
use crate::readers::notices::{Notices, Told};
use crate::readers::webhooks::{self, Webhooks};
use crate::route::{Records, Router};
use crate::smtp::server::Doors;
use crate::smtp::sink::Sink;
use crate::spool::{Backlog, OpenError, Spool};
use crate::suppression::{self, TagKey};

use check::Checker;
use compact::{Compactor, Places};
use directives::Directives;
use dispatch::{Dispatcher, Inputs};
use gauges::Gauges;
pub use gauges::install_metrics;
use listeners::{Submission, bind, descriptors_for_clients, read_identity};
use opening::{
    activity_of, bounces_of, locked_instead, open_automatic, open_keys, open_notices, open_sinks,
    open_spool, open_statistics, open_suppressions, read_rules, run_sinks,
};
use orders::OrderBook;
use policies::Policies;
use pools::PoolPlan;
use recover::Progress;
use removals::RemovalBook;
use retention::Retention;
use routes::Routes;
use schedule::Schedule;

/// A running node.
pub struct Node {
    config: Arc<Config>,
    spool: Arc<Spool>,
    settings: Arc<Settings>,
    rules: Arc<ArcSwap<Rules>>,
    clock: Clock,
    smtp: Vec<Submission>,
    inbound: Vec<inbound::Running>,
    http_address: SocketAddr,
    http_renewal: http::listener::Renewal,
    app: Option<App<admin::Backend>>,
    /// Listeners and the sessions behind them.
    listening: JoinSet<()>,
    stop_listening: watch::Sender<bool>,
    dispatcher: JoinHandle<()>,
    /// Closed when the dispatcher has ended, for whatever reason.
    dispatching: watch::Receiver<()>,
    stop_dispatch: watch::Sender<bool>,
    /// What serves others and goes last: health, admin, sink.
    serving: JoinSet<()>,
    /// What has no end of its own: gauges, watchdog.
    background: JoinSet<()>,
    stop_background: watch::Sender<bool>,
}

/// Why a node does not start: each is one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("data directory {}: {reason}", dir.display())]
    DataDir { dir: PathBuf, reason: String },
    #[error("the spool cannot be opened: {0}")]
    Spool(#[from] OpenError),
    #[error(transparent)]
    Account(#[from] StoreError),
    #[error("cannot listen on {address}: {source}; another process may hold the port")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Http(#[from] http::ListenError),
    /// Something that the configuration names cannot be used.
    #[error("{0}")]
    Config(String),
}

impl StartError {
    /// The process's exit code (DESIGN §5).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Account(StoreError::KeyFile(_)) => 78,
            Self::DataDir { .. } | Self::Account(_) => 73,
            Self::Spool(OpenError::Locked { .. }) => 73,
            Self::Spool(OpenError::Io { error, .. }) => match error.kind() {
                std::io::ErrorKind::PermissionDenied
                | std::io::ErrorKind::NotADirectory
                | std::io::ErrorKind::ReadOnlyFilesystem => 73,
                _ => 74,
            },
            Self::Spool(
                OpenError::Newer { .. }
                | OpenError::FileSystem { .. }
                | OpenError::SegmentSize { .. },
            ) => 78,
            Self::Listen { .. } | Self::Http(http::ListenError::Bind { .. }) => 69,
            Self::Http(http::ListenError::AdminSocket { .. }) => 73,
            Self::Http(_) => 78,
            Self::Config(_) => 78,
        }
    }
}

impl Node {
    /// What the configuration names outside itself, as far as it can be tried without starting: certificates, their keys, and those
    /// of DKIM. `Ok`: what is to be said of it all the same.
    pub fn check(config: &Config) -> Result<Vec<String>, StartError> {
        let submission = config.smtp.iter().filter_map(|l| l.identity.as_ref());
        let inbound = config.inbound.iter().filter_map(|l| l.identity.as_ref());
        for identity in submission.chain(inbound) {
            read_identity(identity)?;
        }
        if let Some(identity) = &config.http.identity {
            read_identity(identity)?;
        }
        let warnings = check_key_files(config).map_err(StartError::Config)?;
        read_rules(config)?;
        Ok(warnings)
    }

    /// Builds and starts everything. Returns when mail is accepted.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let clock = Clock::start();
        crate::account::prepare_data_dir(&config.node.data_dir).map_err(|reason| {
            StartError::DataDir {
                dir: config.node.data_dir.clone(),
                reason,
            }
        })?;

        pools::warn_of_foreign_sources(&config);
        check_key_files(&config).map_err(StartError::Config)?;
        // What can fail for an operator's mistake comes before what takes time.
        let identities = config
            .smtp
            .iter()
            .map(|l| l.identity.as_ref().map(read_identity).transpose());
        let identities = identities.collect::<Result<Vec<_>, _>>()?;
        let rules = Arc::new(ArcSwap::from_pointee(read_rules(&config)?));
        let sockets = config
            .smtp
            .iter()
            .map(|l| bind(l.bind))
            .collect::<Result<Vec<_>, _>>();
        let sockets = sockets.map_err(|error| locked_instead(&config, error))?;
        let inbound_sockets =
            inbound::Opened::new(&config).map_err(|error| locked_instead(&config, error))?;
        let http_socket = bind(config.http.bind).map_err(|error| locked_instead(&config, error))?;
        // Always: a sandboxed server can be created at any time.
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let tests = TestDomains::new(&config.delivery.test_domains);
        let sink = Sink::bind(tests.clone()).map_err(|source| StartError::Listen {
            address: any,
            source,
        })?;

        let plain_http = (config.http.tls == TlsMode::Off).then_some(&http_socket);
        probe::until_sound(&config.node.data_dir, &sockets, plain_http)
            .await
            .map_err(|error| StartError::DataDir {
                dir: config.node.data_dir.clone(),
                reason: error.to_string(),
            })?;
        let progress = Arc::new(Progress::new(clock));
        let retention = Retention::new(&config.spool);
        let (spool, damaged) = tokio::select! {
            opened = open_spool(&config, &retention, clock, &progress) => opened?,
            () = probe::tell_progress(plain_http, &progress) => unreachable!("it is told until the spool is open"),
        };
        let http = http::Listener::over(http_socket, &config.http)?;
        let (settings, first_tokens) = Settings::open(Arc::clone(&config), clock.unix_ms()).await?;
        let settings = Arc::new(settings);
        retention.set_accounts(settings.accounts());
        let key = TagKey::new(settings.suppression_key());
        let set = Arc::new(suppression::Set::new(key));
        let suppressions = open_suppressions(&config, &spool, set, clock).await?;
        let bounces = bounces_of(&config, &spool, &suppressions, clock);
        let statistics = open_statistics(&config, &spool, clock).await?;
        let activity = activity_of(&config, &spool, &retention, clock);
        let automatic = open_automatic(&config, &spool, &suppressions, clock).await?;
        let notices_begin = open_notices(&config, &spool, clock).await?;
        let told = Arc::<Told>::default();
        let keys = Arc::new(Keys::default());
        let key_reader = open_keys(&config, &spool, Arc::clone(&keys), clock).await?;
        let sinks = open_sinks(&config, &spool, clock).await?;
        // Whoever holds the spool's lock may replace the socket of a node that died.
        let admin_socket = http::Listener::admin_socket(&config.node.data_dir)?;

        let orders_book = Arc::new(OrderBook::open(&config.node.data_dir).map_err(|reason| {
            StartError::DataDir {
                dir: config.node.data_dir.clone(),
                reason,
            }
        })?);
        let removals =
            RemovalBook::open(&config.node.data_dir).map_err(|reason| StartError::DataDir {
                dir: config.node.data_dir.clone(),
                reason,
            })?;
        let backlog = spool.take_backlog();
        let mentioned = backlog.as_ref().map(Backlog::pools).unwrap_or_default();
        let plan = PoolPlan::new(&config, mentioned);
        let directives = Directives::start(&config, &plan)?;
        let router = Router::new(routes::router_settings(
            &config,
            clock,
            Some(sink.address()),
            &sockets,
        ))
        .map_err(|e| StartError::Config(e.to_string()))?;
        let records =
            Records::new(&config.dns.servers).map_err(|e| StartError::Config(e.to_string()))?;
        let records = Arc::new(records);
        let checker = Checker::new(
            &config,
            Arc::clone(&settings),
            Arc::clone(&records),
            Arc::clone(&spool),
            clock,
        );
        let checker = Arc::new(checker);
        let (report_sender, reports) = mpsc::channel(deliver::report_channel_size(
            config.delivery.connections_max,
        ));
        let (accepted_sender, accepted) = mpsc::channel(limits::ACCEPTED_CHANNEL);
        let (orders_sender, orders) = mpsc::channel(limits::ORDER_CHANNEL);
        let (stop_dispatch, stopping) = watch::channel(false);
        let places = Arc::new(Places::default());
        let schedule = Arc::<Schedule>::default();
        let queued = Arc::new(AtomicUsize::new(0));
        let heartbeat = Arc::new(AtomicU64::new(clock.unix_ms()));
        let trace = Arc::<deliver::Trace>::default();
        let messages = messages::SpoolMessages {
            spool: Arc::clone(&spool),
            signer: deliver::Signer::new(settings.accounts(), clock),
            tests,
            return_paths: deliver::ReturnPaths::new(settings.accounts()),
            recoder: deliver::Recoder::default(),
        };
        let agents = AgentContext {
            rules: Arc::clone(&rules),
            ..agents::context(&config, messages, clock, Arc::clone(&trace), report_sender)
        };
        let agents = Arc::new(agents);
        let routes = Routes {
            router,
            sandbox: plan.sandbox,
            orphaned: plan.orphaned.clone(),
            tests: plan.tests.clone(),
        };
        let routes = Arc::new(routes);
        let policies = Arc::new(Policies::new(&config.retry, Some(settings.accounts())));
        let egress = Arc::clone(&agents.sources);
        let mut scheduler =
            Scheduler::new(plan.pools.clone(), plan.limits.clone(), fastrand::u64(..))
                .with_shaping(Arc::clone(&config.shaping))
                .with_shares(config.shares.clone());
        for directive in directives.standing() {
            scheduler.direct(clock.unix_ms(), directive);
        }
        orders_book.drain(&mut scheduler, &plan.source_names, clock.unix_ms());
        let dispatcher = Dispatcher::new(dispatch::Parts {
            scheduler,
            spool: Arc::clone(&spool),
            clock,
            routes: Arc::clone(&routes),
            keys: Arc::clone(&keys),
            told: Arc::clone(&told),
            policies: Arc::clone(&policies),
            shaping: Arc::clone(&config.shaping),
            agents,
            source_names: plan.source_names.clone(),
            places: Arc::clone(&places),
            schedule: Arc::clone(&schedule),
            queued: Arc::clone(&queued),
            heartbeat: Arc::clone(&heartbeat),
        });
        // From here on mail of earlier lives reaches the scheduler while everything else starts.
        let restoring = backlog.map(|backlog| {
            let tags = directives.tag_marks();
            let kept = (&places, &schedule);
            recover::start(&spool, backlog, &plan, &policies, kept, &progress, tags)
        });
        let inputs = Inputs {
            accepted,
            reports,
            orders,
            restoring,
            stopping,
        };
        let (alive, dispatching) = watch::channel(());
        let dispatcher = tokio::spawn(async move {
            // Dropped with the task, by a panic too.
            let _alive = alive;
            dispatcher.run(inputs).await;
        });

        let pools = Pools {
            names: plan.names.clone(),
            sandbox_transactional: plan.sandbox[0],
            sandbox_broadcast: plan.sandbox[1],
        };
        let hostname = config.node.hostname.clone();
        let accept = Accept::new(accept::Parts {
            spool: Arc::clone(&spool),
            clock,
            hostname,
            accounts: settings.accounts(),
            suppressions: Arc::clone(suppressions.set()),
            keys: Arc::clone(&keys),
            pools,
            enqueue: accepted_sender,
            queued,
        });
        let post = notices::NoticePost {
            accept: accept.clone(),
            accounts: settings.accounts(),
            policies: Arc::clone(&policies),
            hostname: config.node.hostname.clone(),
        };
        let notices = readers::notices::Parts {
            spool: Arc::clone(&spool),
            post,
            keys: Arc::clone(&keys),
            told,
            hostname: config.node.hostname.clone(),
            clock,
        };
        let notices = Notices::new(notices, notices_begin);
        let (stop_listening, _) = watch::channel(false);
        let (stop_background, _) = watch::channel(false);
        let mut node = Self {
            config: Arc::clone(&config),
            spool: Arc::clone(&spool),
            settings: Arc::clone(&settings),
            rules,
            clock,
            smtp: Vec::new(),
            inbound: Vec::new(),
            http_address: http.address().unwrap_or(config.http.bind),
            http_renewal: http.renewal(),
            app: None,
            listening: JoinSet::new(),
            stop_listening,
            dispatcher,
            dispatching,
            stop_dispatch,
            serving: JoinSet::new(),
            background: JoinSet::new(),
            stop_background,
        };
        let taken_by_sink = sink.taken();
        node.serving
            .spawn(sink.serve(clock, node.stop_background.subscribe()));
        node.background
            .spawn(systemd::watchdog(clock, heartbeat, Arc::clone(&spool)));
        let (demands_sender, demands) = mpsc::channel(1);
        let compactor = Compactor::new(&spool, clock, orders_sender.clone(), &places);
        node.background.spawn(compactor.run(demands));
        node.background.spawn(Arc::clone(bounces.reader()).run());
        node.background.spawn(Arc::clone(statistics.reader()).run());
        node.background.spawn(Arc::clone(activity.reader()).run());
        let webhooks = Webhooks::open(webhooks::Parts {
            spool: &spool,
            config: &config,
            accounts: settings.accounts(),
            suppressions: Arc::clone(suppressions.set()),
            bounces: bounces.clone(),
            records: Arc::clone(&records),
            clock,
        });
        let webhooks = Arc::new(webhooks.await.map_err(|error| StartError::DataDir {
            dir: config.node.data_dir.clone(),
            reason: format!("webhooks.db: {error}"),
        })?);
        let mut readers: Vec<Box<dyn Reader>> = vec![
            Box::new(Arc::clone(activity.reader())),
            Box::new(Arc::clone(bounces.reader())),
            Box::new(Arc::clone(statistics.reader())),
            Box::new(Arc::clone(&suppressions)),
            Box::new(automatic.watch()),
            Box::new(notices.watch()),
            Box::new(Arc::clone(&key_reader)),
            Box::new(Arc::clone(&webhooks)),
        ];
        let (background, stop) = (&mut node.background, &node.stop_background);
        run_sinks(&sinks, &mut readers, background, stop);
        let backend = admin::Backend {
            orders: orders_sender,
            demands: demands_sender,
            places,
            schedule,
            rescheduling: Arc::default(),
            policies,
            searches: Arc::new(Semaphore::new(limits::CONTENT_SEARCHES)),
            routes,
            accept: accept.clone(),
            spool: Arc::clone(&spool),
            hostname: config.node.hostname.clone(),
            development: config.development,
            damaged,
            started: clock.unix_ms(),
            pool_names: plan.names.clone(),
            source_names: plan.source_names.clone(),
            stopping: node.stop_listening.subscribe(),
            progress,
            erasures: Arc::default(),
            removals: Arc::new(removals),
            imports: Arc::default(),
            accounts: settings.accounts(),
            trace,
            directives,
            orders_book,
            egress,
            bounces: bounces.clone(),
            notices: Arc::new(notices.watch()),
            statistics: statistics.clone(),
            activity: activity.clone(),
            webhooks: Arc::clone(&webhooks),
            readers: readers.into(),
            checker: Arc::clone(&checker),
            clock,
        };
        node.background.spawn(backend.clone().keep_directives());
        let kinds = plan.pools.iter().map(|pool| pool.kind).collect();
        node.background.spawn(backend.clone().keep_ages(kinds));
        let exposition = install_metrics(&config);
        let doors = Doors::new(descriptors_for_clients(), limits::CONNECTIONS_PER_ADDRESS);
        let gauges = Gauges {
            spool: Arc::clone(&spool),
            accept: accept.clone(),
            doors: Arc::clone(&doors),
            sink: taken_by_sink,
            data_dir: config.node.data_dir.clone(),
            exposition: exposition.clone(),
            clock,
        };
        node.background.spawn(gauges.run());
        node.background.spawn(upkeep::run(
            Arc::clone(&settings),
            Arc::clone(&suppressions),
            key_reader,
            clock,
        ));
        let surroundings = outside::Surroundings::new(
            &config,
            records,
            Arc::clone(&checker),
            accept.clone(),
            Arc::clone(&spool),
        );
        let surroundings = Arc::new(surroundings);
        let for_people: Arc<dyn Forward> = Arc::clone(&surroundings) as _;
        let surroundings: Arc<dyn Outside> = surroundings;
        let recheck = recheck::Recheck {
            settings: Arc::clone(&settings),
            outside: Arc::clone(&surroundings),
            checker: Some(checker),
            clock,
        };
        node.background.spawn(recheck.run());
        node.background
            .spawn(removals::run(backend.clone(), Arc::clone(&surroundings)));
        let backend = Arc::new(backend);
        let parts = http::Parts {
            outbox: backend.clone(),
            removals: backend.clone(),
            backend,
            settings: Arc::clone(&settings),
            outside: surroundings,
            door: Arc::new(accept.clone()),
            suppressions,
            bounces,
            statistics,
            activity,
            webhooks: Arc::clone(&webhooks),
            exposition,
            clock,
        };
        node.background
            .spawn(automatic.run(node.stop_background.subscribe()));
        node.background
            .spawn(notices.run(node.stop_background.subscribe()));
        // With what serves others: it is awaited, so that it writes down what it knows.
        node.serving
            .spawn(webhooks.run(node.stop_background.subscribe()));
        let app = App::new(parts, &config.admin);
        if let Some(address) = http.address() {
            tracing::info!(%address, "serving HTTP");
        }
        node.serving
            .spawn(http.serve(app.http_routes(), node.stop_background.subscribe()));
        node.serving
            .spawn(admin_socket.serve(app.admin_socket_routes(), node.stop_background.subscribe()));
        node.app = Some(app);
        node.listen(&config, sockets, identities, &accept, &doors);
        let rules = Arc::clone(&node.rules);
        let reports = Inbound::new(
            Arc::clone(&spool),
            settings.accounts(),
            rules,
            &config.node.hostname,
            clock,
        );
        reports.forward_by(for_people);
        node.inbound = inbound_sockets.serve(
            &config,
            &reports,
            &spool,
            clock,
            &mut node.listening,
            &node.stop_listening,
        );
        if let Some(tokens) = first_tokens {
            admin::print_first_tokens(&tokens);
        }
        systemd::ready();
        Ok(node)
    }

    /// Where the submission listeners are, in the order of the configuration.
    pub fn smtp_addresses(&self) -> Vec<SocketAddr> {
        self.smtp.iter().map(|s| s.address).collect()
    }

    /// Where the inbound listeners are, in the order of the configuration.
    pub fn inbound_addresses(&self) -> Vec<SocketAddr> {
        self.inbound.iter().map(|l| l.address).collect()
    }

    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Resolves when the node cannot go on, with the reason: the spool has failed, or nobody delivers any more.
    pub fn failure(&self) -> impl Future<Output = String> + Send + use<> {
        let (mut failed, mut dispatching) = (self.spool.failed(), self.dispatching.clone());
        async move {
            let spool = async {
                let reason = failed
                    .wait_for(Option::is_some)
                    .await
                    .map(|reason| reason.clone());
                match reason {
                    Ok(reason) => reason.unwrap_or_default(),
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                reason = spool => reason,
                _ = dispatching.changed() => "the scheduler has ended".to_owned(),
            }
        }
    }

    /// SIGHUP: certificates, trusted networks, servers, tokens, domains, DKIM keys and rules of classification are taken from
    /// `config`; everything else needs a restart. What cannot be used is reported, and the old stays.
    pub async fn reload(&self, config: Config) -> Result<(), StartError> {
        // Everything is checked before anything changes.
        let pools = |config: &Config| {
            config
                .pools
                .iter()
                .map(|p| (p.name.clone(), p.kind))
                .collect::<Vec<_>>()
        };
        if pools(&config) != pools(&self.config) {
            return Err(StartError::Config(
                "the egress pools have changed; that needs a restart".to_owned(),
            ));
        }
        let mut renewals = Vec::new();
        for running in &self.smtp {
            let Some(settings) = config.smtp.iter().find(|l| l.bind == running.bind) else {
                return Err(StartError::Config(format!(
                    "the listener on {} is gone; that needs a restart",
                    running.bind
                )));
            };
            let identity = settings.identity.as_ref().map(read_identity).transpose()?;
            renewals.push((running, settings, identity));
        }
        check_key_files(&config).map_err(StartError::Config)?;
        let rules = read_rules(&config)?;
        let inbound = inbound::renewal(&self.inbound, &config)?;
        self.http_renewal.renew(&config.http)?;
        inbound();
        self.rules.store(Arc::new(rules));
        for (running, settings, identity) in renewals {
            if let (Some(identity), Some(source)) = (identity, &running.tls) {
                source.store(identity);
            }
            running.listener.gate.trust(&settings.trusted);
        }
        if let Some(app) = &self.app {
            app.reload(&config.admin);
        }
        self.settings
            .reload(Arc::new(config), self.clock.unix_ms())
            .await?;
        Ok(())
    }

    /// Stops in the order of the flow. Loses nothing: what is not finished in time is tried again after the next start.
    pub async fn stop(mut self) {
        systemd::stopping();
        self.stop_listening.send_replace(true);
        while self.listening.join_next().await.is_some() {}
        self.stop_dispatch.send_replace(true);
        // The dispatcher keeps to limits::DRAIN by itself; an end by panic was logged by the runtime.
        let _ = (&mut self.dispatcher).await;
        let spool = Arc::clone(&self.spool);
        let closed = tokio::task::spawn_blocking(move || spool.close()).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::error!("the spool did not close cleanly");
        }
        self.stop_background.send_replace(true);
        let answered = async { while self.serving.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(limits::LAST_ANSWERS, answered).await;
        self.background.shutdown().await;
        self.settings.keep_up(self.clock.unix_ms()).await;
        self.settings.close().await;
    }
}
