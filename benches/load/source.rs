//! A client that submits messages over some sessions at once, one after the other on each, and wants a 250 for every command.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use posthaste::clock::Clock;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::{Options, Stream, tls};

struct Plan {
    port: u16,
    messages: u64,
    recipients: u64,
    domains: u64,
    domain: String,
    tls: bool,
    content: Vec<u8>,
    next: AtomicU64,
    /// Messages a second, all sessions together; 0: as fast as it goes.
    rate: u64,
    began: Instant,
    clock: Clock,
}

pub(super) fn send(options: &Options) {
    let port = options.0.get(1).and_then(|port| port.parse().ok());
    let clock = Clock::start();
    let plan = Arc::new(Plan {
        port: port.expect("load source PORT"),
        messages: options.number("--messages", 1000),
        recipients: options.number("--recipients", 1),
        domains: options.number("--domains", 1),
        domain: options.text("--domain").unwrap_or("far.test").to_owned(),
        tls: options.flag("--tls"),
        content: content(options.number("--size", 10_240) as usize),
        next: AtomicU64::new(0),
        rate: options.number("--rate", 0),
        began: clock.instant(),
        clock,
    });
    let sessions: Vec<_> = (0..options.number("--sessions", 20))
        .map(|_| {
            let plan = Arc::clone(&plan);
            thread::spawn(move || plan.connection())
        })
        .collect();
    for session in sessions {
        if session.join().is_err() {
            std::process::exit(1);
        }
    }
}

/// A message of about so many octets, with the end of content.
fn content(size: usize) -> Vec<u8> {
    let mut text =
        b"From: sender@source.test\r\nTo: somebody@far.test\r\nSubject: load\r\n\r\n".to_vec();
    while text.len() + 80 < size {
        text.extend_from_slice(&[b'x'; 78]);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b".\r\n");
    text
}

impl Plan {
    fn connection(&self) {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let mut clear = BufReader::new(stream);
        expect(&mut clear, "220");
        say(&mut clear, b"EHLO load.test\r\n", "250");
        if !self.tls {
            return self.session(&mut clear);
        }
        say(&mut clear, b"STARTTLS\r\n", "220");
        let name = ServerName::try_from("far.test").expect("a name");
        let connection = ClientConnection::new(tls::client(), name).expect("a connection");
        let mut sealed = BufReader::new(StreamOwned::new(connection, clear.into_inner()));
        say(&mut sealed, b"EHLO load.test\r\n", "250");
        self.session(&mut sealed);
    }

    fn session<S: Stream>(&self, stream: &mut BufReader<S>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.messages {
                say(stream, b"QUIT\r\n", "221");
                return;
            }
            if self.rate > 0 {
                let at = self.began + Duration::from_secs_f64(number as f64 / self.rate as f64);
                thread::sleep(at.saturating_duration_since(self.clock.instant()));
            }
            say(stream, b"MAIL FROM:<>\r\n", "250");
            for recipient in 0..self.recipients {
                let domain = if self.domains > 1 {
                    format!("d{}.{}", number % self.domains, self.domain)
                } else {
                    self.domain.clone()
                };
                let command = format!("RCPT TO:<r{number}x{recipient}@{domain}>\r\n");
                say(stream, command.as_bytes(), "250");
            }
            say(stream, b"DATA\r\n", "354");
            say(stream, &self.content, "250");
        }
    }
}

fn say<S: Stream>(stream: &mut BufReader<S>, octets: &[u8], wanted: &str) {
    stream
        .get_mut()
        .write_all(octets)
        .expect("a connection that takes");
    stream.get_mut().flush().expect("a connection that takes");
    expect(stream, wanted);
}

fn expect<S: Stream>(stream: &mut BufReader<S>, wanted: &str) {
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).expect("a reply");
        assert!(line.starts_with(wanted), "{wanted} was wanted: {line:?}");
        if line.as_bytes().get(3) != Some(&b'-') {
            return;
        }
    }
}
