//! A remote host that is far away, for `benches/relay.py far`: a lean sink that offers PIPELINING and CHUNKING, behind a proxy
//! that holds every octet back for a while in each direction.
//!
//! `far_host DELAY_MS [data]` prints the port to connect to, and for each line on its standard input the messages and the
//! connections that it has taken so far; `data` leaves CHUNKING out. A thread per connection and direction: there are few.

#![expect(clippy::print_stdout, reason = "a bench speaks to a person")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use posthaste::clock::Clock;

#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    connections: AtomicU64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let delay = arguments.first().and_then(|ms| ms.parse().ok());
    let Some(delay) = delay.map(Duration::from_millis) else {
        println!("far_host DELAY_MS [data]: a part of `benches/relay.py far`");
        return;
    };
    let chunking = !arguments.iter().any(|word| word == "data");
    let counts = Arc::new(Counts::default());
    let sink = listen();
    let near = listen();
    let address = sink.local_addr().expect("a bound socket");
    println!("{}", near.local_addr().expect("a bound socket").port());
    let counted = Arc::clone(&counts);
    thread::spawn(move || {
        for stream in sink.incoming().flatten() {
            let counts = Arc::clone(&counted);
            thread::spawn(move || take_mail(stream, chunking, &counts));
        }
    });
    thread::spawn(move || {
        for stream in near.incoming().flatten() {
            hold_back(stream, address, delay);
        }
    });
    for _ in io::stdin().lines() {
        let (messages, connections) = (&counts.messages, &counts.connections);
        let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
        println!("{} {}", told(messages), told(connections));
    }
}

fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of the system's choice")
}

/// Both directions of a connection, each octet `delay` late.
fn hold_back(near: TcpStream, address: SocketAddr, delay: Duration) {
    let Ok(far) = TcpStream::connect(address) else {
        return;
    };
    for (from, to) in [(&near, &far), (&far, &near)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
            return;
        };
        // The pipe of a connection: what is on its way.
        let (sender, receiver) = mpsc::sync_channel(65_536);
        let clock = Clock::start();
        thread::spawn(move || {
            let mut from = from;
            let mut buffer = vec![0; 65_536];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                let due = clock.instant() + delay;
                if sender.send((due, buffer[..len].to_vec())).is_err() {
                    return;
                }
            }
        });
        thread::spawn(move || {
            let mut to = to;
            let _ = to.set_nodelay(true);
            for (due, octets) in receiver {
                thread::sleep(due.saturating_duration_since(clock.instant()));
                if to.write_all(&octets).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

/// Takes everything, keeps nothing.
fn take_mail(stream: TcpStream, chunking: bool, counts: &Counts) {
    counts.connections.fetch_add(1, Ordering::Relaxed);
    let _ = stream.set_nodelay(true);
    let Ok(mut output) = stream.try_clone() else {
        return;
    };
    let mut input = BufReader::with_capacity(65_536, stream);
    let mut replies = b"220 far.test ESMTP\r\n".to_vec();
    let mut line = Vec::new();
    loop {
        // RFC 2920 §3.2: replies go out when no command waits.
        if input.buffer().is_empty() && !replies.is_empty() {
            if output.write_all(&replies).is_err() {
                return;
            }
            replies.clear();
        }
        line.clear();
        if !matches!(input.read_until(b'\n', &mut line), Ok(1..)) {
            return;
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply: &[u8] = match &verb[..] {
            b"EHLO" if chunking => {
                b"250-far.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-SIZE\r\n250 CHUNKING\r\n"
            }
            b"EHLO" => {
                b"250-far.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE\r\n"
            }
            b"MAIL" => b"250 2.1.0 ok\r\n",
            b"RCPT" => b"250 2.1.5 ok\r\n",
            b"BDAT" => {
                let text = String::from_utf8_lossy(&line);
                let len = text.split_ascii_whitespace().nth(1);
                let Some(len) = len.and_then(|len| len.parse().ok()) else {
                    return;
                };
                let taken = io::copy(&mut (&mut input).take(len), &mut io::sink());
                if taken.ok() != Some(len) {
                    return;
                }
                counts.messages.fetch_add(1, Ordering::Relaxed);
                b"250 2.0.0 taken\r\n"
            }
            b"DATA" => {
                if output.write_all(&replies).is_err() || output.write_all(b"354 go on\r\n").is_err() {
                    return;
                }
                replies.clear();
                while line != b".\r\n" {
                    line.clear();
                    if !matches!(input.read_until(b'\n', &mut line), Ok(1..)) {
                        return;
                    }
                }
                counts.messages.fetch_add(1, Ordering::Relaxed);
                b"250 2.0.0 taken\r\n"
            }
            b"QUIT" => {
                replies.extend_from_slice(b"221 2.0.0 bye\r\n");
                let _ = output.write_all(&replies);
                return;
            }
            _ => b"250 2.0.0 ok\r\n",
        };
        replies.extend_from_slice(reply);
    }
}
