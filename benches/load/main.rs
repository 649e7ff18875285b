//! The load of `benches/relay.py`: a source and a sink of mail that take little of the machine that they measure.
//!
//! - `load sink [--data] [--tls] [--delay-ms N] [--defer N] [--refuse N]` prints the port that it listens on, on every
//!   loopback address, and for each line on its standard input what it counted: taken, deferred, refused, connections.
//!   `--data` leaves CHUNKING out; `--delay-ms` holds every octet back for so long each way; of 100 recipients `--defer`
//!   get 451 and `--refuse` get 550.
//! - `load source PORT [--sessions N] [--messages N] [--size N] [--recipients N] [--domains N] [--domain NAME] [--rate N] [--tls]`
//!   sends to 127.0.0.1:PORT, `--rate` messages a second or as fast as it goes, and ends when all is acknowledged; a reply that is not positive ends it with 1.
//! - `load post PORT --token TOKEN [--batch N] [--sessions N] [--messages N] [--size N] [--text]` posts to `/email`, or to `/email/batch` so many at
//!   a time; an answer without ErrorCode 0 for each ends it with 1. `--text` sends the same as TextBody too.
//! - `load hooks` takes webhooks, prints the port that it listens on, and for each line on its standard input how many it has taken.
//! - `load sign` prints what one raw signature with RSA-2048 and with Ed25519 costs, in milliseconds of this thread.
//!
//! A thread per connection: there are few.

#![expect(clippy::print_stdout, reason = "a bench speaks to a person")]

mod far;
mod hooks;
mod post;
mod sign;
mod sink;
mod source;
mod tls;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

/// What a session reads and writes, encrypted or not.
trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// `--name value` pairs and flags, after the leading words.
struct Options(Vec<String>);

impl Options {
    fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        match self.text(name) {
            None => default,
            Some(text) => text.parse().expect("a number"),
        }
    }
}

fn main() {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` adds it.
    words.retain(|word| word != "--bench");
    let options = Options(words);
    match options.0.first().map(String::as_str) {
        Some("sink") => sink::serve(&options),
        Some("source") => source::send(&options),
        Some("post") => post::send(&options),
        Some("hooks") => hooks::serve(),
        Some("sign") => sign::measure(),
        _ => println!("load sink|source|post|hooks|sign: a part of `benches/*.py`"),
    }
}

fn listen(address: Ipv4Addr) -> TcpListener {
    TcpListener::bind((address, 0)).expect("a port of the system's choice")
}
