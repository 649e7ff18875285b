//! A mail server that takes what it is told to take, and keeps nothing.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{Options, Stream, far, listen, tls};

struct Sink {
    chunking: bool,
    tls: Option<Arc<ServerConfig>>,
    /// Of 100 recipients.
    defer: u64,
    refuse: u64,
    recipients: AtomicU64,
    taken: AtomicU64,
    deferred: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
}

pub(super) fn serve(options: &Options) {
    let sink = Arc::new(Sink {
        chunking: !options.flag("--data"),
        tls: options.flag("--tls").then(tls::server),
        defer: options.number("--defer", 0),
        refuse: options.number("--refuse", 0),
        recipients: AtomicU64::new(0),
        taken: AtomicU64::new(0),
        deferred: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        connections: AtomicU64::new(0),
    });
    let delay = Duration::from_millis(options.number("--delay-ms", 0));
    let listener = listen(Ipv4Addr::UNSPECIFIED);
    let port = listener.local_addr().expect("a bound socket").port();
    println!(
        "{}",
        if delay.is_zero() {
            port
        } else {
            far::before(port, delay)
        }
    );
    let serving = Arc::clone(&sink);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sink = Arc::clone(&serving);
            thread::spawn(move || sink.connection(stream));
        }
    });
    for _ in io::stdin().lines() {
        let counts = [
            &sink.taken,
            &sink.deferred,
            &sink.refused,
            &sink.connections,
        ];
        let [taken, deferred, refused, connections] = counts.map(|n| n.load(Ordering::Relaxed));
        println!("{taken} {deferred} {refused} {connections}");
    }
}

impl Sink {
    fn connection(&self, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let mut clear = BufReader::with_capacity(65_536, stream);
        if let (Some(Ended::Tls), Some(config)) = (self.session(&mut clear, true), &self.tls)
            && let Ok(connection) = ServerConnection::new(Arc::clone(config))
        {
            let stream = StreamOwned::new(connection, clear.into_inner());
            self.session(&mut BufReader::with_capacity(65_536, stream), false);
        }
    }

    /// `None` when the connection broke or said QUIT.
    fn session<S: Stream>(&self, input: &mut BufReader<S>, clear: bool) -> Option<Ended> {
        let mut replies = Vec::new();
        if clear {
            replies.extend_from_slice(b"220 far.test ESMTP\r\n");
        }
        let mut line = Vec::new();
        let mut recipients = 0;
        loop {
            // RFC 2920 §3.2: replies go out when no command waits.
            if input.buffer().is_empty() && !replies.is_empty() {
                flush(input, &mut replies)?;
            }
            read_line(input, &mut line)?;
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            let reply: &[u8] = match &verb[..] {
                b"EHLO" => {
                    replies
                        .extend_from_slice(b"250-far.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n");
                    if self.chunking {
                        replies.extend_from_slice(b"250-CHUNKING\r\n");
                    }
                    if clear && self.tls.is_some() {
                        replies.extend_from_slice(b"250-STARTTLS\r\n");
                    }
                    b"250-ENHANCEDSTATUSCODES\r\n250 SIZE\r\n"
                }
                b"STAR" if clear && self.tls.is_some() => {
                    replies.extend_from_slice(b"220 2.0.0 go on\r\n");
                    flush(input, &mut replies)?;
                    return Some(Ended::Tls);
                }
                b"MAIL" => {
                    recipients = 0;
                    b"250 2.1.0 ok\r\n"
                }
                b"RCPT" => self.recipient(&mut recipients),
                b"BDAT" => {
                    let text = String::from_utf8_lossy(&line);
                    let len = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
                    let taken = io::copy(&mut input.take(len), &mut io::sink()).ok()?;
                    if taken != len {
                        return None;
                    }
                    self.take(recipients)
                }
                b"DATA" if recipients == 0 => b"554 5.5.1 no recipients\r\n",
                b"DATA" => {
                    replies.extend_from_slice(b"354 go on\r\n");
                    flush(input, &mut replies)?;
                    while line != b".\r\n" {
                        read_line(input, &mut line)?;
                    }
                    self.take(recipients)
                }
                b"QUIT" => {
                    replies.extend_from_slice(b"221 2.0.0 bye\r\n");
                    flush(input, &mut replies)?;
                    return None;
                }
                _ => b"250 2.0.0 ok\r\n",
            };
            replies.extend_from_slice(reply);
        }
    }

    fn recipient(&self, recipients: &mut u64) -> &'static [u8] {
        // 37 and 100 have no common divisor: the three answers are well mixed.
        let draw = self.recipients.fetch_add(1, Ordering::Relaxed) * 37 % 100;
        if draw < self.refuse {
            self.refused.fetch_add(1, Ordering::Relaxed);
            b"550 5.1.1 no such user here\r\n"
        } else if draw < self.refuse + self.defer {
            self.deferred.fetch_add(1, Ordering::Relaxed);
            b"451 4.2.0 come back later\r\n"
        } else {
            *recipients += 1;
            b"250 2.1.5 ok\r\n"
        }
    }

    fn take(&self, recipients: u64) -> &'static [u8] {
        if recipients == 0 {
            return b"503 5.5.1 no recipients\r\n";
        }
        self.taken.fetch_add(recipients, Ordering::Relaxed);
        b"250 2.0.0 taken\r\n"
    }
}

enum Ended {
    Tls,
}

fn flush<S: Stream>(input: &mut BufReader<S>, replies: &mut Vec<u8>) -> Option<()> {
    input.get_mut().write_all(replies).ok()?;
    input.get_mut().flush().ok()?;
    replies.clear();
    Some(())
}

fn read_line<S: Stream>(input: &mut BufReader<S>, line: &mut Vec<u8>) -> Option<()> {
    line.clear();
    matches!(input.read_until(b'\n', line), Ok(1..)).then_some(())
}
