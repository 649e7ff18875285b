//! Whether the disk can be trusted, asked at every start; and what a node does while it cannot.
//!
//! A disk that fails a write and a sync of a probe file now would fail every commit. The node then stays up, refuses every
//! client with 421, says 503 on `/readyz`, and probes again every [`limits::PROBE_INTERVAL`] (DESIGN §3.3): an operator sees
//! the reason, and mail waits with its senders.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::recover::Progress;
use crate::limits;
use crate::mail::Reply;
use crate::spool::Spool;
use crate::spool::disk::real::RealDisk;

/// Returns when the disk takes a write and a sync.
/// # Errors
/// What no later probe can mend: the directory cannot be used at all.
pub(super) async fn until_sound(
    data_dir: &Path,
    smtp: &[TcpListener],
    http: Option<&TcpListener>,
) -> std::io::Result<()> {
    loop {
        let Err(error) = probe(data_dir).await else {
            return Ok(());
        };
        if !is_of_the_medium(&error) {
            return Err(error);
        }
        let retry_seconds = limits::PROBE_INTERVAL.as_secs();
        tracing::error!(%error, data_dir = %data_dir.display(), retry_seconds, "the disk fails: refusing all mail, probing again");
        super::systemd::status(&format!("refusing mail: the disk fails: {error}"));
        // Systemd counts a start until it is told: from here on the node serves, even if all it says is no.
        super::systemd::ready();
        let _ = tokio::time::timeout(limits::PROBE_INTERVAL, refuse(smtp, http)).await;
    }
}

async fn probe(data_dir: &Path) -> std::io::Result<()> {
    let data_dir = data_dir.to_path_buf();
    let probed =
        tokio::task::spawn_blocking(move || Spool::probe(&RealDisk::new(), &data_dir)).await;
    probed.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Permissions and missing directories are the operator's to mend and end the start; so does another process's lock.
fn is_of_the_medium(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    !matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::IsADirectory
    )
}

/// Says how far a start is to whoever asks over HTTP, for as long as it is polled. Submission clients wait in line.
pub(super) async fn tell_progress(http: Option<&TcpListener>, progress: &Progress) {
    let Some(http) = http else {
        return std::future::pending().await;
    };
    say_to_all(http, || {
        let word = progress.word().unwrap_or_default();
        unavailable(&word)
    })
    .await;
}

fn unavailable(word: &str) -> Arc<[u8]> {
    let len = word.len() + 1;
    let text = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{word}\n"
    );
    text.into_bytes().into()
}

/// Answers everybody with no, for as long as it is polled.
async fn refuse(smtp: &[TcpListener], http: Option<&TcpListener>) {
    let mut smtp_word = Vec::new();
    Reply::fixed(421, 4, 3, 0, "The disk fails; not accepting mail").write_to(&mut smtp_word);
    let http_word = unavailable("the disk fails");
    let smtp_word: Arc<[u8]> = smtp_word.into();
    let mut doors: Vec<_> = smtp
        .iter()
        .map(|listener| Box::pin(say_to_all(listener, say(&smtp_word))))
        .collect();
    doors.extend(http.map(|listener| Box::pin(say_to_all(listener, say(&http_word)))));
    let all = std::future::poll_fn(|context| {
        for door in &mut doors {
            let _ = door.as_mut().poll(context);
        }
        std::task::Poll::<()>::Pending
    });
    all.await;
}

fn say(word: &Arc<[u8]>) -> impl Fn() -> Arc<[u8]> + use<> {
    let word = Arc::clone(word);
    move || Arc::clone(&word)
}

async fn say_to_all(listener: &TcpListener, word: impl Fn() -> Arc<[u8]>) {
    let mut talking = JoinSet::new();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            continue;
        };
        while talking.try_join_next().is_some() {}
        if talking.len() >= limits::REFUSALS_AT_ONCE {
            continue;
        }
        let word = word();
        talking.spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let say = async {
                stream.write_all(&word).await?;
                stream.shutdown().await?;
                // Take the client's octets off the wire, so that a reset does not overtake the word.
                let mut scrap = [0; 1024];
                while stream.read(&mut scrap).await? > 0 {}
                Ok::<_, std::io::Error>(())
            };
            let _ = tokio::time::timeout(limits::REFUSAL_TIME, say).await;
        });
    }
}
