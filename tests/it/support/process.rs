//! The binary as its own process, as an operator runs it; and the other commands beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::client::Client;
use super::within;

/// `posthaste serve --config posthaste.toml`, on the data directory `data` of `dir`.
pub struct NodeProcess {
    dir: PathBuf,
    child: Child,
    /// The lines of its standard error so far.
    log: watch::Receiver<Vec<String>>,
    wrapped: bool,
}

impl NodeProcess {
    /// Starts it and waits until it accepts submissions.
    pub async fn start(dir: &Path) -> Self {
        Self::start_under(&[], dir).await
    }

    /// As an argument of another program, `strace` for one.
    pub async fn start_under(wrapper: &[&str], dir: &Path) -> Self {
        let node = Self::spawn(wrapper, dir);
        node.smtp().await;
        node
    }

    /// Starts it and waits for nothing.
    pub fn spawn(wrapper: &[&str], dir: &Path) -> Self {
        let words = wrapper.iter().copied().chain([
            env!("CARGO_BIN_EXE_posthaste"),
            "serve",
            "--config",
            "posthaste.toml",
        ]);
        let words: Vec<&str> = words.collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| {
                panic!(
                    "{}: {e}; scripts/test installs what the tests need",
                    words[0]
                )
            });
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (grow, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                grow.send_modify(|log: &mut Vec<String>| log.push(line));
            }
        });
        Self {
            dir: dir.to_owned(),
            child,
            log,
            wrapped: !wrapper.is_empty(),
        }
    }

    /// Waits for the first line of the log that holds `text`.
    pub async fn logged(&self, text: &str) -> String {
        let mut log = self.log.clone();
        let line = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let found = within(
            &format!("{text:?} in the log"),
            log.wait_for(|lines| line(lines).is_some()),
        )
        .await;
        let found = found.map(|lines| line(&lines).unwrap_or_default());
        found
            .unwrap_or_else(|_| panic!("the node ended before it said {text:?}: {:#?}", self.log()))
    }

    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Its first submission listener.
    pub async fn smtp(&self) -> SocketAddr {
        let line = self.logged("accepting submissions").await;
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        line["address"].as_str().unwrap().parse().unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.smtp().await).await
    }

    /// Of the node itself, whatever it runs under.
    pub fn pid(&self) -> u32 {
        match self.wrapped {
            true => std::fs::read_to_string(self.dir.join("data/lock"))
                .unwrap()
                .trim()
                .parse()
                .unwrap(),
            false => self.child.id().unwrap(),
        }
    }

    /// Over the admin socket.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let socket = UnixStream::connect(self.dir.join("data/admin.sock"))
            .await
            .unwrap();
        exchange(socket, path, "").await
    }

    /// The value of one series of `/metrics`.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        value_of(&text, series)
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ExitStatus {
        within("the node's end", self.child.wait()).await.unwrap()
    }

    /// SIGTERM, which must end it with code 0.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.end().await;
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // A wrapper that is killed may leave the node behind.
        if self.wrapped && matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
        }
    }
}

/// The value of one series in a text for Prometheus.
pub fn value_of(text: &str, series: &str) -> f64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
        .parse()
        .unwrap()
}

/// One HTTP request over TCP: status and body. `fields` are further header lines, each with its CRLF.
pub async fn http(address: SocketAddr, path: &str, fields: &str) -> (u16, String) {
    exchange(TcpStream::connect(address).await.unwrap(), path, fields).await
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    fields: &str,
) -> (u16, String) {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: node.test\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an HTTP answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Its lines of JSON.
    pub fn json(&self) -> Vec<Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Its only line of JSON.
    pub fn object(&self) -> Value {
        let lines = self.json();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines[0].clone()
    }

    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

/// A command other than `serve`, on the data directory `data` of `dir`.
pub async fn posthaste(dir: &Path, words: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command
        .current_dir(dir)
        .args(words.split(' '))
        .args(["--data-dir", "data"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = within(words, command.output()).await.unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
