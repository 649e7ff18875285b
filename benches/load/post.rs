//! A client of `/email` or `/email/batch` that posts over some kept connections at once and wants ErrorCode 0 for every message.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::Options;

pub(super) fn send(options: &Options) {
    let port: u16 = options
        .0
        .get(1)
        .and_then(|port| port.parse().ok())
        .expect("load post PORT");
    let batch = options.number("--batch", 1);
    let requests = options.number("--messages", 1000).div_ceil(batch);
    let token = options.text("--token").unwrap_or_default().to_owned();
    let request = Arc::new(request(
        &token,
        batch,
        options.number("--size", 10_240) as usize,
        options.flag("--text"),
    ));
    let next = Arc::new(AtomicU64::new(0));
    let sessions: Vec<_> = (0..options.number("--sessions", 20))
        .map(|_| {
            let (request, next) = (Arc::clone(&request), Arc::clone(&next));
            thread::spawn(move || {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
                stream.set_nodelay(true).expect("a socket");
                let mut stream = BufReader::new(stream);
                while next.fetch_add(1, Ordering::Relaxed) < requests {
                    stream
                        .get_mut()
                        .write_all(&request)
                        .expect("a connection that takes");
                    let answer = answer(&mut stream);
                    let taken = answer.matches("\"ErrorCode\":0,").count() as u64;
                    assert_eq!(taken, batch, "{answer}");
                }
            })
        })
        .collect();
    for session in sessions {
        if session.join().is_err() {
            std::process::exit(1);
        }
    }
}

fn request(token: &str, batch: u64, size: usize, text: bool) -> Vec<u8> {
    let line = "<p>It is on its way, and will be with you soon; here is what it holds.</p>\\r\\n";
    let html = line.repeat(size.div_ceil(line.len() - 2));
    let text = match text {
        true => format!(r#""TextBody":"{html}","#),
        false => String::new(),
    };
    let one = format!(
        r#"{{{text}"From":"sender@source.test","To":"somebody@far.test","Subject":"load","HtmlBody":"{html}","MessageStream":"outbound"}}"#
    );
    let (path, body) = match batch {
        1 => ("/email", one),
        many => (
            "/email/batch",
            format!("[{}]", vec![one; many as usize].join(",")),
        ),
    };
    let mut request = String::new();
    let _ = write!(
        request,
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nContent-Type: application/json\r\nX-Postmark-Server-Token: {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    request.into_bytes()
}

fn answer(stream: &mut BufReader<TcpStream>) -> String {
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).expect("an answer");
        assert!(!line.is_empty(), "the connection ended");
        let lower = line.to_ascii_lowercase();
        if let Some(text) = lower.strip_prefix("content-length:") {
            length = text.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    String::from_utf8(body).expect("text")
}
