//! A plain SMTP client: says what it is told and checks the reply code.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub struct Client {
    io: BufReader<TcpStream>,
}

impl Client {
    /// Connects, reads the banner and says EHLO.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_silently(address).await;
        client.expect(220).await;
        client.command("EHLO client.test", 250).await;
        client
    }

    /// Connects and reads nothing.
    pub async fn connect_silently(address: SocketAddr) -> Self {
        Self {
            io: BufReader::new(TcpStream::connect(address).await.unwrap()),
        }
    }

    pub async fn send(&mut self, octets: &[u8]) {
        self.io.get_mut().write_all(octets).await.unwrap();
    }

    /// Reads one reply; the text has its lines joined by `\n`, codes left out.
    pub async fn reply(&mut self) -> (u16, String) {
        super::within("a reply from the node", async {
            let mut text = Vec::new();
            loop {
                let mut line = String::new();
                assert!(
                    self.io.read_line(&mut line).await.unwrap() > 0,
                    "connection closed; so far: {text:?}"
                );
                let line = line.trim_end();
                text.push(line.get(4..).unwrap_or_default().to_owned());
                if line.as_bytes().get(3) != Some(&b'-') {
                    return (line[..3].parse().unwrap(), text.join("\n"));
                }
            }
        })
        .await
    }

    /// Reads to the end of the connection.
    pub async fn rest(&mut self) -> String {
        let mut rest = String::new();
        let _ = super::within(
            "the node to close",
            tokio::io::AsyncReadExt::read_to_string(&mut self.io, &mut rest),
        )
        .await;
        rest
    }

    pub async fn expect(&mut self, code: u16) -> String {
        let (found, text) = self.reply().await;
        assert_eq!(found, code, "{text}");
        text
    }

    pub async fn command(&mut self, line: &str, code: u16) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        let (found, text) = self.reply().await;
        assert_eq!(found, code, "reply to {line:?}: {text}");
        text
    }

    /// One transaction; returns the message id that the node gave.
    pub async fn submit(&mut self, recipients: &[&str], content: &[u8]) -> String {
        self.command("MAIL FROM:<sender@example.com>", 250).await;
        for recipient in recipients {
            self.command(&format!("RCPT TO:<{recipient}>"), 250).await;
        }
        self.command("DATA", 354).await;
        self.send(content).await;
        let text = self
            .command(
                if content.ends_with(b"\r\n") {
                    "."
                } else {
                    "\r\n."
                },
                250,
            )
            .await;
        text.rsplit(' ').next().unwrap_or_default().to_owned()
    }
}

/// A message with a From and the given subject and body, CRLF at its end.
pub fn message(subject: &str, body: &str) -> Vec<u8> {
    format!(
        "From: Ada <ada@example.com>\r\nTo: b@example.org\r\nSubject: {subject}\r\n\r\n{body}\r\n"
    )
    .into_bytes()
}
