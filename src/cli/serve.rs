//! `posthaste serve`: reads the configuration, starts the node, and stops it when told to.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::config::load;
use super::{Failure, Found};
use crate::config::{Config, Log, LogFormat};
use crate::limits;
use crate::node::{Node, StartError};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  posthaste serve                                      a development node in ./posthaste-data\n  posthaste serve --config /etc/posthaste.toml\n\nFirst configuration: posthaste init"
)]
pub(super) struct Serve {
    /// The configuration. Without it: a development node.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides [node] data_dir. [default without --config: ./posthaste-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let config = self.read()?;
        log_to_stderr(&config.log);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        crate::node::install_metrics(&config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::disk(format!("no runtime: {e}")))?;
        raise_descriptors();
        let ended = runtime.block_on(self.serve(config));
        // A disk that hangs must not hold the process: nothing is acknowledged any more.
        runtime.shutdown_timeout(LAST_THREADS);
        ended
    }

    fn read(&self) -> Result<Config, Failure> {
        match &self.config {
            Some(file) => load(file, self.data_dir.as_deref()),
            None => Ok(Config::development(self.data_dir.as_deref())),
        }
    }

    async fn serve(&self, config: Config) -> Result<Found, Failure> {
        // Before the start: a signal during a long recovery is not lost.
        let mut signals = Signals::new()?;
        let started = tokio::select! {
            started = Node::start(config) => started,
            // Nothing was accepted yet, and recovery changes nothing that a next one could miss.
            () = signals.stop() => return Ok(Found::All),
        };
        let node = started.map_err(|error| failed_start(&error))?;
        last_resort(node.spool().failed())?;
        let failure = node.failure();
        tokio::pin!(failure);
        loop {
            tokio::select! {
                asked = signals.next() => {
                    if asked == Asked::Reload {
                        self.reload(&node).await;
                        continue;
                    }
                    tracing::info!("stopping");
                    node.stop().await;
                    tracing::info!("stopped");
                    return Ok(Found::All);
                }
                reason = &mut failure => {
                    tracing::error!(%reason, "the spool has failed; nothing was acknowledged since; exiting so that the next start judges what is on the disk");
                    // Sessions get their 451 and 421; what is in flight ends or is repeated.
                    let time = limits::EXIT_AFTER_FAILED_SYNC - 2 * LAST_THREADS;
                    let _ = tokio::time::timeout(time, node.stop()).await;
                    return Err(Failure::disk(reason));
                }
            }
        }
    }

    async fn reload(&self, node: &Node) {
        match self.read() {
            Ok(config) => match node.reload(config).await {
                Ok(()) => tracing::info!("configuration read again"),
                Err(error) => {
                    tracing::error!(%error, "the configuration cannot be used; the old one stays")
                }
            },
            Err(failure) => tracing::error!(
                error = failure.message,
                "the configuration cannot be used; the old one stays"
            ),
        }
    }
}

/// Ends the process after a failed sync even if the runtime cannot: its threads may be held by a disk that does not answer, and
/// nothing of them is needed for this.
fn last_resort(mut failed: watch::Receiver<Option<String>>) -> Result<(), Failure> {
    let wait = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let Ok(runtime) = runtime else { return };
        // Else the spool was closed.
        if runtime.block_on(failed.wait_for(Option::is_some)).is_ok() {
            std::thread::sleep(limits::EXIT_AFTER_FAILED_SYNC);
            tracing::error!("the spool has failed and the node did not stop in time");
            std::process::exit(Failure::disk("").code.into());
        }
    };
    let thread = std::thread::Builder::new().name("last-resort".into());
    let started = thread.spawn(wait);
    started.map_err(|e| Failure::disk(format!("no thread: {e}")))?;
    Ok(())
}

/// Connections, segments and the log share the descriptors: all that the hard limit allows.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of file descriptors cannot be raised");
    }
}

fn failed_start(error: &StartError) -> Failure {
    Failure::new(error.exit_code(), error.to_string())
}

/// What the system asks of the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|e| Failure::disk(format!("signals cannot be received: {e}")))
        };
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Human lines on a terminal, lines with priorities under journald, JSON elsewhere; or as configured.
fn log_to_stderr(log: &Log) {
    // A sink tells itself what rskafka tells at each try.
    let filter = EnvFilter::new(format!(
        "sqlx=warn,hickory_resolver=warn,rskafka=off,{}",
        log.level
    ));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let journal = is_journal();
    match log.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Auto if journal => builder.event_format(JournalFormat).init(),
        LogFormat::Auto if !terminal => builder.json().flatten_event(true).init(),
        LogFormat::Auto | LogFormat::Human => builder.with_ansi(terminal).with_target(false).init(),
    }
}

/// systemd.exec(5): the variable names device and inode of the stream, so that a redirected one is told apart.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stat = rustix::fs::fstat(std::io::stderr());
    stat.is_ok_and(|stat| format!("{}:{}", stat.st_dev, stat.st_ino) == stream)
}

/// journald adds the time; it takes the priority from a prefix (sd-daemon(3)).
struct JournalFormat;

impl<S, N> FormatEvent<S, N> for JournalFormat
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            tracing::Level::ERROR => 3,
            tracing::Level::WARN => 4,
            tracing::Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Time for threads that block when the process ends.
const LAST_THREADS: Duration = Duration::from_secs(2);
