//! Answers: a text, or one that is written while the client reads it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::Frame;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::limits;

/// What a route says.
pub(in crate::http) enum Said {
    Text(String),
    Written(Body),
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Where a long answer is written.
pub(in crate::http) struct Out {
    gathered: Vec<u8>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl Out {
    /// `false`: nobody reads any more, or far too slowly. Blocks while the client reads slowly.
    pub(in crate::http) fn write(&mut self, octets: &[u8]) -> bool {
        self.gathered.extend_from_slice(octets);
        self.gathered.len() < PIECE || self.flush()
    }

    fn flush(&mut self) -> bool {
        let piece = std::mem::take(&mut self.gathered);
        self.send(Ok(piece.into()))
    }

    fn send(&self, piece: io::Result<Bytes>) -> bool {
        let sent = timeout(limits::HTTP_PIECE, self.pieces.send(piece));
        matches!(self.runtime.block_on(sent), Ok(Ok(())))
    }
}

/// A body that `write` writes, on a thread that may block. Fails it, the client sees the answer break off.
pub(in crate::http) fn written_by(
    write: impl FnOnce(&mut Out) -> io::Result<()> + Send + 'static,
) -> Body {
    let (pieces, body) = mpsc::channel(PIECES);
    let mut out = Out {
        gathered: Vec::new(),
        pieces,
        runtime: Handle::current(),
    };
    tokio::task::spawn_blocking(move || match write(&mut out) {
        Ok(()) => {
            out.flush();
        }
        Err(error) => {
            tracing::error!(%error, "an answer breaks off");
            // Nobody may be there to see it.
            let _ = out.send(Err(error));
        }
    });
    Body::new(Pieces(body))
}

struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Written at once, and so many wait for the client.
const PIECE: usize = 32 << 10;
const PIECES: usize = 4;
