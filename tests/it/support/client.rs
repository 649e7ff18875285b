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
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        Self {
            io: BufReader::new(stream),
        }
    }

    pub async fn send(&mut self, octets: &[u8]) {
        self.io.get_mut().write_all(octets).await.unwrap();
    }

    /// Reads one reply; the text has its lines joined by `\n`, codes left out.
    pub async fn reply(&mut self) -> (u16, String) {
        self.reply_or_end()
            .await
            .expect("the node closed the connection instead of a reply")
    }

    /// As [`Self::reply`]; `None` when the connection ends instead.
    pub async fn reply_or_end(&mut self) -> Option<(u16, String)> {
        super::within("a reply from the node", async {
            let mut text = Vec::new();
            loop {
                let mut line = String::new();
                if self.io.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return None;
                }
                let line = line.trim_end();
                text.push(line.get(4..).unwrap_or_default().to_owned());
                if line.as_bytes().get(3) != Some(&b'-') {
                    return Some((line[..3].parse().unwrap(), text.join("\n")));
                }
            }
        })
        .await
    }

    /// One transaction, which the node may refuse at any point: its last reply, or `None` when the connection ended.
    pub async fn try_submit(&mut self, recipient: &str, content: &[u8]) -> Option<(u16, String)> {
        let (to, dot) = (
            format!("RCPT TO:<{recipient}>\r\n"),
            [content, b".\r\n"].concat(),
        );
        let steps: [(&[u8], u16); 4] = [
            (b"MAIL FROM:<sender@example.com>\r\n", 250),
            (to.as_bytes(), 250),
            (b"DATA\r\n", 354),
            (&dot, 250),
        ];
        let mut last = None;
        for (octets, good) in steps {
            // A node that has gone shows when the reply is read.
            let _ = self.io.get_mut().write_all(octets).await;
            last = Some(self.reply_or_end().await?);
            if last.as_ref().is_some_and(|(code, _)| *code != good) {
                break;
            }
        }
        last
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

/// The command by which a token authenticates itself.
pub fn auth_plain(token: &str) -> String {
    use base64::Engine as _;
    let response = base64::engine::general_purpose::STANDARD.encode(format!("\0{token}\0{token}"));
    format!("AUTH PLAIN {response}")
}
