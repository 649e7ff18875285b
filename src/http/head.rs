//! How long a request's header section may take, apart from how long a kept connection may be idle.
//!
//! hyper has one timer for both, and closes without a word. [`Watched`] sees the octets come in, the service tells when a
//! header section is complete, and [`Heads::overdue`] ends when one takes too long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The header sections of one connection. All orderings are relaxed: one task reads and writes them.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Since when, as a count of header sections; the next one has another number.
    number: AtomicU64,
    is_coming: AtomicBool,
    is_answering: AtomicBool,
}

impl Heads {
    /// Octets came in.
    fn came(&self) {
        if self.is_answering.load(Ordering::Relaxed) || self.is_coming.load(Ordering::Relaxed) {
            return;
        }
        self.number.fetch_add(1, Ordering::Relaxed);
        self.is_coming.store(true, Ordering::Relaxed);
    }

    /// The header section is complete; what comes now is its body.
    pub(super) fn complete(&self) {
        self.is_coming.store(false, Ordering::Relaxed);
        self.is_answering.store(true, Ordering::Relaxed);
    }

    /// The next octets begin another request.
    pub(super) fn answered(&self) {
        self.is_answering.store(false, Ordering::Relaxed);
    }

    /// Ends when one header section has taken `longest`, to a tenth of it.
    pub(super) async fn overdue(&self, longest: Duration) {
        let mut tick = tokio::time::interval(longest / TICKS);
        let (mut number, mut ticks) = (0, 0);
        while ticks < TICKS {
            tick.tick().await;
            let now = self.number.load(Ordering::Relaxed);
            let same = self.is_coming.load(Ordering::Relaxed) && now == number;
            ticks = if same { ticks + 1 } else { 0 };
            number = now;
        }
    }
}

const TICKS: u32 = 10;

/// A stream that tells [`Heads`] when octets come in.
pub(super) struct Watched<S> {
    stream: S,
    heads: Arc<Heads>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> Self {
        let heads = Arc::default();
        Self { stream, heads }
    }

    pub(super) fn heads(&self) -> Arc<Heads> {
        Arc::clone(&self.heads)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.heads.came();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
