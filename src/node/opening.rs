//! What a start reads before anything else can begin: the spool, and what readers of its log keep in memory.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::StartError;
use super::recover::{Progress, Watch};
use super::retention::Retention;
use crate::classify::Rules;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::idempotency::Keys;
use crate::readers::Reader;
use crate::readers::activity::Activity;
use crate::readers::automatic::Automatic;
use crate::readers::bounces::Bounces;
use crate::readers::idempotency::IdempotencyReader;
use crate::readers::notices::Begin;
use crate::readers::sinks::Sink;
use crate::readers::statistics::Statistics;
use crate::readers::suppressions::Suppressions;
use crate::spool::disk::real::RealDisk;
use crate::spool::{OpenError, Options, Spool};
use crate::suppression;

/// The operator's rules and the shipped ones.
pub(super) fn read_rules(config: &Config) -> Result<Rules, StartError> {
    let rules = Rules::load(&config.rule_files, &config.shaping);
    rules.map_err(|problems| StartError::Config(problems.to_string()))
}

/// A taken port is often the sign of a second node on the same data directory: then that is what to say.
pub(super) fn locked_instead(config: &Config, error: StartError) -> StartError {
    match Spool::holder(&RealDisk::new(), &config.node.data_dir) {
        Some(pid) => OpenError::Locked {
            path: config.node.data_dir.clone(),
            pid,
        }
        .into(),
        None => error,
    }
}

/// Opens the spool on a thread that may block; also says how many places of each log could not be read.
pub(super) async fn open_spool(
    config: &Config,
    retention: &Retention,
    clock: Clock,
    progress: &Arc<Progress>,
) -> Result<(Arc<Spool>, [u64; 2]), StartError> {
    let mut options = Options::new(&config.node.data_dir);
    options.mail_segment = config.spool.mail_segment;
    options.event_segment = config.spool.event_segment;
    options.reserve = config.spool.reserve;
    options.refuse_below = config.spool.refuse_below;
    options.warn_below = config.spool.warn_below;
    options.history = retention.history(&config.spool);
    options.any_file_system = config.spool.any_file_system;
    let mut watch = Watch::new(Arc::clone(progress));
    let opened = tokio::task::spawn_blocking(move || {
        let started = clock.instant();
        let spool = Spool::open(Arc::new(RealDisk::new()), options, clock, &mut watch)?;
        let seconds = clock.instant().duration_since(started).as_secs_f64();
        let damaged = watch.damaged.iter().sum::<u64>();
        tracing::info!(damaged, seconds, "spool opened");
        Ok((Arc::new(spool), watch.damaged))
    });
    match opened.await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Rebuilds which idempotency keys were used, on a thread that may block.
pub(super) async fn open_keys(
    config: &Config,
    spool: &Arc<Spool>,
    keys: Arc<Keys>,
    clock: Clock,
) -> Result<Arc<IdempotencyReader>, StartError> {
    let spool = Arc::clone(spool);
    open_reader(config, move || IdempotencyReader::open(spool, keys, clock)).await
}

/// Rebuilds the suppressions on a thread that may block. No mail is taken before it is known to whom none goes.
pub(super) async fn open_suppressions(
    config: &Config,
    spool: &Arc<Spool>,
    set: Arc<suppression::Set>,
    clock: Clock,
) -> Result<Arc<Suppressions>, StartError> {
    let (spool, hashed) = (Arc::clone(spool), config.suppressions.hashed);
    open_reader(config, move || {
        let started = clock.instant();
        let suppressions = Suppressions::open(spool, set, hashed, clock)?;
        let seconds = clock.instant().duration_since(started).as_secs_f64();
        tracing::info!(count = suppressions.count(), seconds, "suppressions known");
        Ok(suppressions)
    })
    .await
}

/// Finds the statistics' base. Nothing waits for the rest.
pub(super) async fn open_statistics(
    config: &Config,
    spool: &Arc<Spool>,
    clock: Clock,
) -> Result<Statistics, StartError> {
    let (spool, zone) = (Arc::clone(spool), config.http.time_zone.clone());
    let data_dir = config.node.data_dir.clone();
    open_reader(config, move || {
        Statistics::open(spool, &data_dir, zone, clock)
    })
    .await
}

/// Finds where each sink was.
pub(super) async fn open_sinks(
    config: &Config,
    spool: &Arc<Spool>,
    clock: Clock,
) -> Result<Vec<Arc<Sink>>, StartError> {
    let (log, sinks) = (spool.events.clone(), config.sinks.clone());
    let (hostname, data_dir) = (config.node.hostname.clone(), config.node.data_dir.clone());
    open_reader(config, move || {
        let open = |sink| Sink::open(sink, &hostname, &data_dir, &log, clock).map(Arc::new);
        let named = |sink: &config::Sink, error: io::Error| {
            io::Error::new(error.kind(), format!("[[sink]] {}: {error}", sink.name))
        };
        let opened = sinks
            .iter()
            .map(|sink| open(sink).map_err(|e| named(sink, e)));
        opened.collect::<io::Result<_>>()
    })
    .await
}

/// Sets them to work, among the readers.
pub(super) fn run_sinks(
    sinks: &[Arc<Sink>],
    readers: &mut Vec<Box<dyn Reader>>,
    background: &mut JoinSet<()>,
    stop: &watch::Sender<bool>,
) {
    for sink in sinks {
        readers.push(Box::new(Arc::clone(sink)));
        background.spawn(Arc::clone(sink).run(stop.subscribe()));
    }
}

/// Nothing waits for these: they are read while the node runs.
pub(super) fn bounces_of(
    config: &Config,
    spool: &Spool,
    suppressions: &Suppressions,
    clock: Clock,
) -> Bounces {
    Bounces::new(
        spool,
        Arc::clone(suppressions.set()),
        &config.node.data_dir,
        config.spool.event_retention,
        clock,
    )
}

pub(super) fn activity_of(
    config: &Config,
    spool: &Spool,
    retention: &Retention,
    clock: Clock,
) -> Activity {
    Activity::new(
        spool,
        Arc::new(retention.clone()),
        &config.node.data_dir,
        config.spool.event_retention,
        clock,
    )
}

/// Finds where bounces have suppressed their recipients up to, on a thread that may block.
pub(super) async fn open_automatic(
    config: &Config,
    spool: &Arc<Spool>,
    suppressions: &Arc<Suppressions>,
    clock: Clock,
) -> Result<Automatic, StartError> {
    let (spool, suppressions) = (Arc::clone(spool), Arc::clone(suppressions));
    open_reader(config, move || Automatic::open(spool, suppressions, clock)).await
}

/// Finds where senders were told of outcomes up to, on a thread that may block.
pub(super) async fn open_notices(
    config: &Config,
    spool: &Arc<Spool>,
    clock: Clock,
) -> Result<Begin, StartError> {
    let spool = Arc::clone(spool);
    open_reader(config, move || Begin::open(&spool, clock.unix_ms())).await
}

/// Opens what keeps its base beside the spool, on a thread that may block.
async fn open_reader<R: Send + 'static>(
    config: &Config,
    open: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> Result<R, StartError> {
    let readers = config.node.data_dir.join("spool").join("readers");
    let opened = tokio::task::spawn_blocking(open).await;
    match opened {
        Ok(result) => result.map_err(|error| {
            OpenError::Io {
                path: readers,
                error,
            }
            .into()
        }),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
