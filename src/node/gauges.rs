//! Metrics that are states and not events: looked at once a second.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::pools::SANDBOX_SOURCE;
use crate::accept::Accept;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::{self, Exposition};
use crate::smtp::server::Doors;
use crate::smtp::sink::Taken;
use crate::spool::Spool;
use crate::spool::disk::Disk;
use crate::spool::disk::real::RealDisk;

/// Installs the recorder, whose labels are what the configuration names. To be called before anything counts: what counts
/// earlier is lost, and the first call holds for the process.
pub fn install_metrics(config: &Config) -> Exposition {
    let sources = config.sources().map(|(_, source)| &*source.name);
    metrics::name_sources(sources.chain([SANDBOX_SOURCE]));
    metrics::name_providers(config.shaping.provider_names());
    metrics::name_sinks(config.sinks.iter().map(|sink| &*sink.name));
    metrics::install()
}

/// What the gauges are read from. The scheduler's own are kept by its owner.
pub(super) struct Gauges {
    pub(super) spool: Arc<Spool>,
    pub(super) accept: Accept,
    pub(super) doors: Arc<Doors>,
    pub(super) sink: watch::Receiver<Taken>,
    pub(super) data_dir: PathBuf,
    pub(super) exposition: Exposition,
    pub(super) clock: Clock,
}

impl Gauges {
    pub(super) async fn run(self) {
        metrics::STARTED.set(self.clock.unix_ms() as f64 / 1_000.0);
        metrics::BUILD.set_of(env!("CARGO_PKG_VERSION"), 1.0);
        let mut taken_by_sink = 0;
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tick.tick().await;
            self.read();
            let taken = self.sink.borrow().messages;
            metrics::SINK_MESSAGES.add(taken - taken_by_sink);
            taken_by_sink = taken;
            self.exposition.upkeep();
        }
    }

    fn read(&self) {
        let truth = |value: bool| if value { 1.0 } else { 0.0 };
        metrics::READY.set(truth(self.accept.ready().is_ok()));
        metrics::SMTP_CONNECTIONS.set(self.doors.connections() as f64);
        metrics::SUBMISSION_BUFFERS.set(self.accept.buffered_bytes() as f64);
        metrics::SPOOL_FULL.set(truth(self.spool.full()));
        for (name, log) in [("mail", &self.spool.mail), ("event", &self.spool.events)] {
            let stat = log.stat();
            metrics::SPOOL_SEGMENTS.set_of(name, stat.segments as f64);
            if stat.failed {
                metrics::SPOOL_FAILED.set(1.0);
            }
        }
        // A statfs of a local file system does not block.
        if let Ok(space) = RealDisk.space(&self.data_dir) {
            metrics::SPOOL_FREE.set(space.free as f64);
        }
    }
}

const PERIOD: Duration = Duration::from_secs(1);
