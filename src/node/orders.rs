//! What operators have ordered until further notice: `DATA_DIR/orders.json`.
//!
//! Promises: an order that was answered holds after a crash or a power cut. A file that cannot be understood is not passed
//! over: the node does not start, since mail would go where somebody has forbidden it to.
//! Deliberately does not know who may order what: the admin API does.
//!
//! How it works: all orders together are small, so each change writes the whole file anew: a temporary file, a sync, a
//! rename, a sync of the directory. Not in the account store, which may be down while mail goes on; not in the event log,
//! which leaves with its retention: an order stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::state_file;
use crate::clock::UnixMs;
use crate::config::SourceId;
use crate::limits;
use crate::queue::{Scheduler, Stop, StopCause};

/// All that holds. A new kind of order is a new field with a default; an older node then refuses the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Orders {
    version: u32,
    #[serde(default)]
    pub(super) drained_sources: Vec<DrainedSource>,
}

/// `source drain NAME`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainedSource {
    pub(super) source: String,
    pub(super) reason: String,
    pub(super) since_unix_ms: UnixMs,
    pub(super) until_unix_ms: Option<UnixMs>,
}

impl DrainedSource {
    pub(super) fn is_over(&self, now: UnixMs) -> bool {
        self.until_unix_ms.is_some_and(|until| until <= now)
    }
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            version: VERSION,
            drained_sources: Vec::new(),
        }
    }
}

/// Why an order was not taken down.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("the order cannot be written to {}: {error}", path.display())]
    Disk { path: PathBuf, error: io::Error },
    #[error("there are too many orders: {} would be longer than {} KiB; take some back first", path.display(), limits::ORDERS_BYTES_MAX >> 10)]
    TooMany { path: PathBuf },
}

pub(super) struct OrderBook {
    path: PathBuf,
    orders: Mutex<Orders>,
}

impl OrderBook {
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn open(data_dir: &Path) -> Result<Self, String> {
        let path = data_dir.join(FILE);
        let orders = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Orders::default(),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
            Ok(text) => parse(&text).map_err(|reason| {
                format!(
                    "{} cannot be understood ({reason}); it holds what operators have ordered until further notice, such as \
                     drained sources: repair it, or remove it and give the orders again",
                    path.display()
                )
            })?,
        };
        Ok(Self {
            path,
            orders: Mutex::new(orders),
        })
    }

    /// Gives drains of an earlier life their effect. `names` are in the order of source ids.
    pub(super) fn drain(&self, scheduler: &mut Scheduler, names: &[Arc<str>], now: UnixMs) {
        for order in self.read().drained_sources {
            if order.is_over(now) {
                continue;
            }
            let Some(id) = names.iter().position(|name| **name == *order.source) else {
                tracing::warn!(
                    source = order.source,
                    "a source that is not configured is drained; the order stays"
                );
                continue;
            };
            tracing::warn!(
                source = order.source,
                reason = order.reason,
                "a source is drained by an operator's order"
            );
            let stop = Stop {
                why: StopCause::Drained,
                reason: order.reason.into(),
                since: order.since_unix_ms,
                until: order.until_unix_ms,
            };
            scheduler.restore_drain(now, SourceId(id as u16), stop);
        }
    }

    pub(super) fn read(&self) -> Orders {
        self.lock().clone()
    }

    /// Changes the orders. `Ok`: they are on stable storage. `Err`: they are as before, but for a disk that failed after the
    /// new file had its name; the next start then finds the new ones.
    /// # Cancel safety
    /// Dropping the future does not take the order back.
    pub(super) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        edit: impl FnOnce(&mut Orders) -> T + Send + 'static,
    ) -> Result<T, OrderError> {
        let book = Arc::clone(self);
        let changed = tokio::task::spawn_blocking(move || {
            let mut orders = book.lock();
            let mut new = orders.clone();
            let result = edit(&mut new);
            if new != *orders {
                book.write(&new)?;
                *orders = new;
            }
            Ok(result)
        });
        match changed.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// What is there is always whole: a panic leaves the old orders.
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, orders: &Orders) -> Result<(), OrderError> {
        let disk = |error| OrderError::Disk {
            path: self.path.clone(),
            error,
        };
        let mut text = serde_json::to_vec_pretty(orders).map_err(|e| disk(e.into()))?;
        text.push(b'\n');
        if text.len() > limits::ORDERS_BYTES_MAX {
            let path = self.path.clone();
            return Err(OrderError::TooMany { path });
        }
        state_file::replace(&self.path, &text).map_err(disk)
    }
}

fn parse(text: &[u8]) -> Result<Orders, String> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let head: Head = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if head.version != VERSION {
        return Err(format!("it is of version {}", head.version));
    }
    serde_json::from_slice(text).map_err(|e| e.to_string())
}

const FILE: &str = "orders.json";
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(source: &str) -> DrainedSource {
        DrainedSource {
            source: source.into(),
            reason: "moving".into(),
            since_unix_ms: 1,
            until_unix_ms: None,
        }
    }

    #[tokio::test]
    async fn what_was_ordered_is_there_at_the_next_start_and_a_change_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let book = Arc::new(OrderBook::open(dir.path()).unwrap());
        assert_eq!(book.read(), Orders::default());
        book.change(|orders| orders.drained_sources.push(drain("tx1")))
            .await
            .unwrap();
        let again = OrderBook::open(dir.path()).unwrap();
        assert_eq!(again.read().drained_sources, [drain("tx1")]);
        let flood = book.change(|orders| {
            let long = "x".repeat(limits::ORDERS_BYTES_MAX);
            orders.drained_sources.push(drain(&long));
        });
        assert!(matches!(flood.await, Err(OrderError::TooMany { .. })));
        fs::create_dir(dir.path().join("orders.json.new")).unwrap();
        let unwritten = book.change(|orders| orders.drained_sources.clear());
        assert!(matches!(unwritten.await, Err(OrderError::Disk { .. })));
        assert_eq!(book.read().drained_sources, [drain("tx1")]);
    }

    #[test]
    fn a_file_that_is_damaged_or_of_another_version_is_no_reason_to_forget_orders() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            "",
            "{\"version\": 1, \"drained_sources\": [",
            "{\"version\": 2}",
            "{\"version\": 1, \"unheard_of\": []}",
        ] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let refused = OrderBook::open(dir.path()).err().unwrap();
            assert!(refused.contains("orders.json"), "{refused}");
        }
    }
}
