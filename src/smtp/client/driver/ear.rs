//! Listening in on a dialogue: what is said on both sides, line by line, without content.
//!
//! Costs one question per turn of the driver's loop while nobody listens. There is nothing secret to leave out but content:
//! our client never authenticates, and what is said to a proxy is not part of the dialogue.

use std::net::SocketAddr;
use std::sync::Arc;

use super::TlsState;
use crate::limits;
use crate::smtp::client::session::{ClientSession, Ending, Spoken};

/// Whoever may listen in.
pub trait Overhear: Send + Sync {
    /// Whether there is anybody now.
    fn listens(&self) -> bool;
    /// Something happened in the dialogue with `host` at `remote`.
    fn hear(&self, host: &Arc<str>, remote: SocketAddr, said: Said<'_>);
}

/// What happened in a dialogue. Lines are as they went over the wire, without CRLF, cut at [`limits::TRACE_LINE_MAX`].
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    Client(&'a [u8]),
    Host(&'a [u8]),
    /// We sent so many octets of content.
    Content(u64),
    Encrypted(&'a TlsState),
    NotEncrypted(&'a str),
    NotConnected(&'a str),
    Ended(&'a Ending),
}

/// One connection's listener.
pub(super) struct Ear {
    listener: Arc<dyn Overhear>,
    host: Arc<str>,
    remote: SocketAddr,
    /// A line of the host's that is not whole yet.
    partial: Vec<u8>,
}

impl Ear {
    pub(super) fn new(listener: Arc<dyn Overhear>, host: Arc<str>, remote: SocketAddr) -> Self {
        Self {
            listener,
            host,
            remote,
            partial: Vec::new(),
        }
    }

    pub(super) fn listens(&self) -> bool {
        self.listener.listens()
    }

    pub(super) fn tell(&self, said: Said<'_>) {
        if self.listens() {
            self.listener.hear(&self.host, self.remote, said);
        }
    }

    /// What we said since.
    pub(super) fn take_spoken(&self, session: &mut ClientSession) {
        while let Some(spoken) = session.poll_spoken() {
            match spoken {
                Spoken::Content(octets) => self.tell(Said::Content(octets)),
                Spoken::Commands(lines) => {
                    for line in lines.split_inclusive(|&octet| octet == b'\n') {
                        self.tell(Said::Client(cut(line)));
                    }
                }
            }
        }
    }

    /// What the host said, in pieces as they came.
    pub(super) fn take_input(&mut self, input: &[u8]) {
        if !self.listens() {
            self.partial.clear();
            return;
        }
        for piece in input.split_inclusive(|&octet| octet == b'\n') {
            let room = (limits::TRACE_LINE_MAX + 2).saturating_sub(self.partial.len());
            // Its end says that it is whole, also when it was cut.
            self.partial
                .extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.tell(Said::Host(cut(&self.partial)));
                self.partial.clear();
            }
        }
    }

    /// What the host left unfinished.
    pub(super) fn take_rest(&mut self) {
        if !self.partial.is_empty() {
            self.tell(Said::Host(cut(&self.partial)));
            self.partial.clear();
        }
    }
}

fn cut(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    &line[..line.len().min(limits::TRACE_LINE_MAX)]
}
