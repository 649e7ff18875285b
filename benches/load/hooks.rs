//! An application that takes webhooks, keeps the connections, and counts.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::listen;

pub(super) fn serve() {
    let taken = Arc::new(AtomicU64::new(0));
    let listener = listen(Ipv4Addr::LOCALHOST);
    println!("{}", listener.local_addr().expect("a bound socket").port());
    let counting = Arc::clone(&taken);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let taken = Arc::clone(&counting);
            thread::spawn(move || connection(stream, &taken));
        }
    });
    for _ in io::stdin().lines() {
        println!("{}", taken.load(Ordering::Relaxed));
    }
}

/// Until it ends, or says what is no request.
fn connection(stream: TcpStream, taken: &AtomicU64) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut answers = stream.try_clone().ok()?;
    let mut requests = BufReader::new(stream);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut len = 0;
        loop {
            line.clear();
            if requests.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let field = line.trim_end().to_ascii_lowercase();
            if field.is_empty() {
                break;
            }
            if let Some(text) = field.strip_prefix("content-length:") {
                len = text.trim().parse().ok()?;
            }
        }
        body.resize(len, 0);
        requests.read_exact(&mut body).ok()?;
        taken.fetch_add(1, Ordering::Relaxed);
        answers.write_all(ANSWER).ok()?;
    }
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
