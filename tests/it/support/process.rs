//! The binary as its own process, as an operator runs it; and the other commands beside it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::client::Client;
use super::{PATIENCE, within};

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
            // `strace -D` steps aside and leaves its place to what it traces.
            wrapped: !wrapper.is_empty() && !wrapper.contains(&"-D"),
        }
    }

    /// Waits for the first line of the log that holds `text`.
    pub async fn said(&self, text: &str) -> String {
        let said = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        self.logged(&format!("{text:?}"), said).await
    }

    async fn logged(&self, what: &str, find: impl Fn(&[String]) -> Option<String>) -> String {
        let mut log = self.log.clone();
        let found = within(what, log.wait_for(|lines| find(lines).is_some())).await;
        let found = found.map(|lines| find(&lines).unwrap_or_default());
        found.unwrap_or_else(|_| panic!("the node ended before it said {what}: {:#?}", self.log()))
    }

    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Its first submission listener.
    pub async fn smtp(&self) -> SocketAddr {
        self.smtp_of(0).await
    }

    /// One of its submission listeners, in the order of the configuration.
    pub async fn smtp_of(&self, index: usize) -> SocketAddr {
        let said = |lines: &[String]| {
            lines
                .iter()
                .filter(|line| line.contains("accepting submissions"))
                .nth(index)
                .cloned()
        };
        let line = self
            .logged(&format!("submission listener {index}"), said)
            .await;
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        line["address"].as_str().unwrap().parse().unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.smtp().await).await
    }

    /// Of the node itself, whatever it runs under.
    fn pid(&self) -> Option<Pid> {
        let own = self.child.id()?;
        let pid = match self.wrapped {
            true => {
                let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
                children.ok()?.split(' ').next()?.parse().ok()?
            }
            false => own as i32,
        };
        Pid::from_raw(pid)
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
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!(
                "waited in vain for the node's end; its threads: {:#?}, its log: {:#?}",
                self.threads(),
                self.log()
            ),
        }
    }

    /// What each of its threads is called and waits for in the kernel.
    fn threads(&self) -> Vec<String> {
        let tasks = self
            .pid()
            .and_then(|pid| std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())).ok());
        let say = |path: PathBuf| {
            let read = |name| std::fs::read_to_string(path.join(name)).unwrap_or_default();
            format!(
                "{} {} {}",
                read("comm").trim(),
                read("wchan"),
                read("syscall").trim()
            )
        };
        let tasks = tasks.into_iter().flatten().flatten();
        tasks.map(|task| say(task.path())).collect()
    }

    /// SIGTERM, which must end it with code 0.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.end().await;
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
    }

    /// SIGKILL. Whatever it was doing, every recipient it had acknowledged has one outcome or lives.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end().await;
        posthaste(&self.dir, "audit").await.expect(0);
    }

    /// Ends the `strace -D` that it runs under, and with it all that was injected. The node itself goes on.
    pub fn untraced(&self) {
        let own = self.child.id().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{own}/status")).unwrap();
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
        kill_process(
            tracer.and_then(Pid::from_raw).expect("nobody traces it"),
            Signal::KILL,
        )
        .unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid().unwrap(), signal).unwrap();
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // A wrapper that is killed may leave the node behind.
        if let Some(pid) = self.pid().filter(|_| self.wrapped) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// An address that nobody else will take: its host part belongs to this process and call.
pub fn free_address() -> SocketAddr {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [_, _, a, b] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, a | 1, b, CALLS.fetch_add(1, Ordering::Relaxed));
    std::net::TcpListener::bind((ip, 0))
        .unwrap()
        .local_addr()
        .unwrap()
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

pub async fn http_over(stream: TcpStream, path: &str) -> (u16, String) {
    exchange(stream, path, "").await
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

    /// Of an audit: what stays as it is when records are erased, and when segments are sealed.
    pub fn sums(&self) -> Value {
        let mut verdict = self.object();
        for key in ["streams", "digests"] {
            assert!(verdict.as_object_mut().unwrap().remove(key).is_some());
        }
        verdict
    }

    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
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
