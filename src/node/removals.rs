//! Requests to forget somebody (`/data-removals`): `DATA_DIR/removals.json`, and the task that meets them.
//!
//! Promises: a request that was answered is met, over crashes and restarts, and met once more costs nothing; it is *Pending* until
//! no record that names the address is left of mail that was accepted before it. Then the address is forgotten here too: what
//! stays is how many requests there were. Does not know how something is erased ([`erase`](super::erase) does).
//!
//! How: one request after the other is given to the machinery of `spool erase`. Mail that still waits is not cancelled, since
//! others may be its recipients too: it ends by itself, within its stream's age limit, and the request waits for that. What could
//! not be erased yet is tried again, ever more seldom, and never for more than a tenth of the time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::admin::Backend;
use super::erase::Erasures;
use super::state_file;
use crate::account::{Notice, Outside};
use crate::clock::{UnixMs, rfc3339};
use crate::http::{AdminError, Removal, Removals, Requesting, wire};
use crate::limits;
use crate::mail::Mailbox;
use crate::metrics;

/// The file. A later version's is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    version: u32,
    last_id: u64,
    pending: Vec<Request>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    id: u64,
    requested_for: String,
    /// Told when it is met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notify: Option<String>,
    at_unix_ms: UnixMs,
}

pub(super) struct RemovalBook {
    path: PathBuf,
    book: Mutex<Book>,
    /// Another request has come.
    news: Notify,
}

impl RemovalBook {
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn open(data_dir: &Path) -> Result<Self, String> {
        let path = data_dir.join(FILE);
        let book = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book {
                version: VERSION,
                last_id: 0,
                pending: Vec::new(),
            },
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
            Ok(text) => parse(&text).map_err(|reason| {
                format!(
                    "{} cannot be understood ({reason}); it holds whose data is still to be removed: repair it, or remove it and \
                     request those removals again",
                    path.display()
                )
            })?,
        };
        metrics::DATA_REMOVALS.set(book.pending.len() as f64);
        Ok(Self {
            path,
            book: Mutex::new(book),
            news: Notify::new(),
        })
    }

    /// Notes a request; its id. The same address again, while that waits, is the same request.
    /// # Durability
    /// `Ok`: it will be met.
    pub(super) async fn request(
        self: &Arc<Self>,
        removal: Removal,
        now: UnixMs,
    ) -> Result<u64, AdminError> {
        let id = self.change(move |book| {
            let requested_for = removal.requested_for.to_string();
            let notify = removal.notify.map(|mailbox| mailbox.to_string());
            let mut same = book.pending.iter_mut();
            if let Some(same) = same.find(|request| request.requested_for == requested_for) {
                // Mail that came meanwhile is meant too.
                same.at_unix_ms = now;
                same.notify = notify.or_else(|| same.notify.take());
                return Ok(same.id);
            }
            if book.pending.len() >= limits::REMOVALS_PENDING {
                return Err(AdminError::Unavailable(format!(
                    "{} removals of data are pending; that is the most",
                    limits::REMOVALS_PENDING
                )));
            }
            book.last_id += 1;
            book.pending.push(Request {
                id: book.last_id,
                requested_for,
                notify,
                at_unix_ms: now,
            });
            Ok(book.last_id)
        });
        let id = id.await?;
        self.news.notify_one();
        Ok(id)
    }

    /// Whether a request is met; `None`: there was none.
    pub(super) fn is_done(&self, id: u64) -> Option<bool> {
        let book = self.lock();
        let known = (1..=book.last_id).contains(&id);
        known.then(|| !book.pending.iter().any(|request| request.id == id))
    }

    /// Forgets a request that is met, unless it was renewed meanwhile.
    async fn finish(self: &Arc<Self>, met: Request) -> Result<(), AdminError> {
        self.change(move |book| {
            let is_it =
                |request: &Request| request.id == met.id && request.at_unix_ms == met.at_unix_ms;
            book.pending.retain(|request| !is_it(request));
            Ok(())
        })
        .await
    }

    fn pending(&self) -> Vec<Request> {
        self.lock().pending.clone()
    }

    /// Changes the file, then what is in memory.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Book) -> Result<T, AdminError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let this = Arc::clone(self);
        let changed = tokio::task::spawn_blocking(move || {
            let mut book = this.lock();
            let mut new = book.clone();
            let result = change(&mut new)?;
            if new != *book {
                this.write(&new).map_err(|error| {
                    AdminError::Unavailable(format!(
                        "{} cannot be written: {error}",
                        this.path.display()
                    ))
                })?;
                metrics::DATA_REMOVALS.set(new.pending.len() as f64);
                *book = new;
            }
            Ok(result)
        });
        match changed.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// What is there is always whole: a panic leaves the old book.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, book: &Book) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(book)?;
        text.push(b'\n');
        state_file::replace(&self.path, &text)
    }
}

fn parse(text: &[u8]) -> Result<Book, String> {
    let book: Book = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    match book.version {
        VERSION => Ok(book),
        other => Err(format!("it is of version {other}")),
    }
}

impl Removals for Backend {
    fn request(&self, removal: Removal) -> Requesting<'_> {
        let now = self.clock.unix_ms();
        Box::pin(async move { self.removals.request(removal, now).await })
    }

    fn is_done(&self, id: u64) -> Option<bool> {
        self.removals.is_done(id)
    }
}

/// When a request is to be tried, and how often it was.
#[derive(Clone, Copy)]
struct Turn {
    id: u64,
    next: Instant,
    wait: Duration,
}

/// Meets requests, one after the other, for ever.
/// # Cancel safety
/// What is under way is in the book, and done again.
pub(super) async fn run(backend: Backend, outside: Arc<dyn Outside>) {
    let book = Arc::clone(&backend.removals);
    let mut turns: Vec<Turn> = Vec::new();
    loop {
        let pending = book.pending();
        let now = backend.clock.instant();
        turns.retain(|turn| pending.iter().any(|request| request.id == turn.id));
        for request in &pending {
            if !turns.iter().any(|turn| turn.id == request.id) {
                turns.push(Turn {
                    id: request.id,
                    next: now,
                    wait: limits::REMOVAL_RETRY,
                });
            }
        }
        let next = turns.iter_mut().min_by_key(|turn| turn.next);
        let Some(turn) = next else {
            book.news.notified().await;
            continue;
        };
        let Some(request) = pending.into_iter().find(|request| request.id == turn.id) else {
            continue;
        };
        if turn.next > now {
            tokio::select! {
                () = tokio::time::sleep(turn.next - now) => {}
                () = book.news.notified() => {}
            }
            continue;
        }
        let is_met = attempt(&backend, &request).await;
        if is_met && conclude(&book, &*outside, &backend.hostname, request).await {
            continue;
        }
        let ended = backend.clock.instant();
        // A look takes longer the more there is: at most a tenth of the time.
        turn.next = ended + turn.wait.max(ended.duration_since(now) * 10);
        turn.wait = (turn.wait * 2).min(limits::REMOVAL_RETRY_MAX);
    }
}

/// Erases what there is; whether nothing is left.
async fn attempt(backend: &Backend, request: &Request) -> bool {
    let what = wire::NewErasure {
        recipient: Some(request.requested_for.clone()),
        before: Some(rfc3339(request.at_unix_ms + 1)),
        ..wire::NewErasure::default()
    };
    let mut erasure = match Erasures::begin(backend, &what) {
        Ok(begun) => begun,
        Err(error) => {
            tracing::debug!(id = request.id, %error, "a removal of data waits");
            return false;
        }
    };
    while erasure.ended_at.is_none() {
        tokio::time::sleep(limits::REMOVAL_POLL).await;
        match backend.erasures.look(erasure.id) {
            Ok(found) => erasure = found,
            Err(_) => return false,
        }
    }
    let is_met = erasure.state == "done" && erasure.busy == 0;
    tracing::info!(
        id = request.id,
        state = erasure.state,
        erased = erasure.erased,
        waiting = erasure.live_count,
        busy = erasure.busy,
        unerasable = erasure.unerasable,
        "a removal of data was tried"
    );
    is_met
}

/// Tells whoever wanted to know, and forgets the request; whether it did.
async fn conclude(
    book: &Arc<RemovalBook>,
    outside: &dyn Outside,
    hostname: &str,
    request: Request,
) -> bool {
    let id = request.id;
    let to = request.notify.as_deref().map(|to| Mailbox::parse(to, true));
    if let Some(Ok(to)) = to {
        let from = Mailbox::parse(&format!("posthaste@{hostname}"), true);
        let notice = from.map(|from| Notice {
            from,
            to,
            subject: format!("Removal of data {id} is done"),
            text: format!(
                "The removal of data that was requested with the number {id} is done: nothing of the messages to that address,\nnor of what became of them, is kept any more by {hostname}.\n"
            ),
        });
        let posted = match notice {
            Ok(notice) => outside.post(notice).await,
            Err(error) => Err(error.to_string()),
        };
        // It is done, whoever hears of it.
        if let Err(error) = posted {
            tracing::warn!(
                id,
                error,
                "nobody can be told that a removal of data is done"
            );
        }
    }
    match book.finish(request).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(id, %error, "a removal of data that is done cannot be noted as such; it is done again");
            false
        }
    }
}

const FILE: &str = "removals.json";
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(address: &str) -> Removal {
        Removal {
            requested_for: Mailbox::parse(address, true).unwrap(),
            notify: None,
        }
    }

    fn open(dir: &Path) -> Arc<RemovalBook> {
        Arc::new(RemovalBook::open(dir).unwrap())
    }

    #[tokio::test]
    async fn a_request_is_kept_until_it_is_met_and_then_only_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let book = open(dir.path());
        assert_eq!(book.is_done(0), None);
        assert_eq!(book.is_done(1), None);
        let first = book.request(removal("ann@example.com"), 7).await.unwrap();
        let second = book.request(removal("bo@example.com"), 8).await.unwrap();
        assert_eq!((first, second), (1, 2));
        // Asked for again: mail from in between is meant too.
        assert_eq!(
            book.request(removal("ann@example.com"), 9).await.unwrap(),
            1
        );
        let book = open(dir.path());
        assert_eq!(
            (book.is_done(1), book.is_done(2)),
            (Some(false), Some(false))
        );
        let pending = book.pending();
        assert_eq!(pending[0].at_unix_ms, 9);
        // One that was renewed while it was met is not met.
        let before = Request {
            at_unix_ms: 7,
            ..pending[0].clone()
        };
        book.finish(before).await.unwrap();
        assert_eq!(book.is_done(1), Some(false));
        book.finish(pending[0].clone()).await.unwrap();
        let book = open(dir.path());
        assert_eq!(
            (book.is_done(1), book.is_done(2), book.is_done(3)),
            (Some(true), Some(false), None)
        );
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!text.contains("ann@"), "{text}");
        assert_eq!(
            book.request(removal("ann@example.com"), 10).await.unwrap(),
            3
        );
    }

    #[tokio::test]
    async fn a_book_that_is_full_or_cannot_be_read_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let book = open(dir.path());
        let full: Vec<_> = (1..=limits::REMOVALS_PENDING as u64)
            .map(|id| Request {
                id,
                requested_for: format!("{id}@example.com"),
                notify: None,
                at_unix_ms: 1,
            })
            .collect();
        book.lock().pending = full;
        let refused = book.request(removal("ann@example.com"), 1).await;
        assert!(matches!(refused, Err(AdminError::Unavailable(_))));
        for text in ["", "{}", r#"{"version":2,"last_id":0,"pending":[]}"#] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(RemovalBook::open(dir.path()).is_err(), "{text}");
        }
    }
}
