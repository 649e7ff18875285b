//! Targets on this host: standard output, syslog, the journal. They have a line when the kernel has taken it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

use super::{Batch, Line};

/// Standard output, for whoever runs the node under something that collects it.
pub(super) struct Output {
    /// The line before may have broken off: in a write that failed, or when a node ended that nobody read.
    is_torn: bool,
}

impl Output {
    /// `began`: something may have been written before.
    pub(super) fn new(began: bool) -> Self {
        Self { is_torn: began }
    }

    /// Waits as long as nobody reads, on a thread of its own: the end of the node does not.
    /// # Cancel safety
    /// What was begun is written nevertheless, when somebody reads.
    pub(super) async fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut text = Vec::new();
        if std::mem::replace(&mut self.is_torn, true) {
            // Then this ends it; else it is an empty line.
            text.push(b'\n');
        }
        for line in &batch.lines {
            text.extend_from_slice(&line.json);
            text.push(b'\n');
        }
        let write = move || {
            let mut out = io::stdout().lock();
            out.write_all(&text)?;
            out.flush()
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(io::Error::other)??;
        self.is_torn = false;
        Ok(())
    }
}

/// The system's syslog daemon, by its socket. One datagram an event, in the form that `syslog(3)` writes: no host, no fraction.
pub(super) struct Syslog {
    socket: Socket,
}

impl Syslog {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            socket: Socket::new(path),
        }
    }

    pub(super) async fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let pid = std::process::id();
        for line in &batch.lines {
            // RFC 5424 §6.2.1: facility 2 (mail), severity 6 (informational).
            let mut datagram = format!("<22>posthaste[{pid}]: ").into_bytes();
            datagram.extend_from_slice(&line.json);
            self.socket.send(&datagram).await?;
        }
        Ok(())
    }
}

/// systemd's journal, by its native protocol: the event as MESSAGE, and what is looked for as fields of its own.
pub(super) struct Journal {
    socket: Socket,
}

impl Journal {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            socket: Socket::new(path),
        }
    }

    pub(super) async fn write(&mut self, batch: &Batch) -> io::Result<()> {
        for line in &batch.lines {
            self.socket.send(&entry(line)).await?;
        }
        Ok(())
    }
}

fn entry(line: &Line) -> Vec<u8> {
    let mut entry = b"PRIORITY=6\nSYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER=posthaste\n".to_vec();
    let id = line.id.to_string();
    let texts = [
        ("POSTHASTE_EVENT_ID", id.as_str()),
        ("POSTHASTE_KIND", line.kind),
        (
            "POSTHASTE_SERVER",
            line.server.as_deref().unwrap_or_default(),
        ),
        (
            "POSTHASTE_STREAM",
            line.stream.as_deref().unwrap_or_default(),
        ),
    ];
    // Names of servers are one line; the JSON has no end of line in it.
    for (name, value) in texts.iter().filter(|(_, value)| !value.is_empty()) {
        entry.extend_from_slice(format!("{name}={}\n", value.replace('\n', " ")).as_bytes());
    }
    entry.extend_from_slice(b"MESSAGE=");
    entry.extend_from_slice(&line.json);
    entry.push(b'\n');
    entry
}

/// A datagram socket that is connected when it is needed.
struct Socket {
    path: PathBuf,
    open: Option<UnixDatagram>,
}

impl Socket {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
        }
    }

    async fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let socket = match self.open.take() {
            Some(socket) => socket,
            None => self.connect()?,
        };
        // A socket that fails is connected anew: the daemon behind it was restarted.
        socket.send(datagram).await.map_err(|e| self.named(e))?;
        self.open = Some(socket);
        Ok(())
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect(&self.path)?;
            Ok(socket)
        };
        connect().map_err(|e| self.named(e))
    }

    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}
