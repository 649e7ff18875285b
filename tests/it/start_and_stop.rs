//! The real binary: what it says and how it exits when it cannot start, and how it starts and stops when it can.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

struct Outcome {
    code: i32,
    stderr: String,
}

fn posthaste(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command
        .current_dir(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NOTIFY_SOCKET");
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Outcome {
    let output = posthaste(dir, arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stderr,
    }
}

/// A complete configuration on ports of the system's choice.
fn config(dir: &Path, extra: &str) {
    let text = format!(
        "[node]\nhostname = \"mta.test\"\ndata_dir = \"data\"\n[http]\nbind = \"127.0.0.1:0\"\n\
         [spool]\nmail_segment = \"4MiB\"\nevent_segment = \"1MiB\"\nreserve = \"1MiB\"\nrefuse_below = \"1MiB\"\n\
         [[pool]]\nname = \"tx\"\nkind = \"transactional\"\nsources = [{{ name = \"tx1\", ip = \"127.0.0.1\", ehlo = \"tx1.test\" }}]\n\
         [[server]]\nname = \"app\"\ntokens = [\"start-test-token\"]\nsenders = \"any\"\n{extra}"
    );
    std::fs::write(dir.join("posthaste.toml"), text).unwrap();
}

const LISTENER: &str = "[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\n";
const SERVE: &[&str] = &["serve", "--config", "posthaste.toml"];

/// Starts a node that tells a notify socket when it is ready, and waits for that.
fn start(dir: &Path) -> (Child, UnixDatagram) {
    let path = dir.join("notify.sock");
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    let child = posthaste(dir, SERVE)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_notice(&socket, "READY=1");
    (child, socket)
}

fn await_notice(socket: &UnixDatagram, wanted: &str) {
    let mut buffer = [0; 1024];
    loop {
        let len = socket
            .recv(&mut buffer)
            .unwrap_or_else(|e| panic!("no {wanted}: {e}"));
        if String::from_utf8_lossy(&buffer[..len])
            .lines()
            .any(|line| line == wanted)
        {
            return;
        }
    }
}

fn terminate(mut child: Child) -> Outcome {
    assert!(
        Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    Outcome {
        code: child.wait().unwrap().code().unwrap_or(-1),
        stderr,
    }
}

#[test]
fn readiness_and_watchdog_are_told_to_systemd_and_sigterm_stops_cleanly() {
    let dir = TempDir::new().unwrap();
    config(dir.path(), LISTENER);
    let (child, socket) = start(dir.path());
    await_notice(&socket, "WATCHDOG=1");
    await_notice(&socket, "WATCHDOG=1");
    let end = terminate(child);
    assert_eq!(end.code, 0, "{}", end.stderr);
    await_notice(&socket, "STOPPING=1");
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    config(dir.path(), LISTENER);
    let (child, _socket) = start(dir.path());
    let second = run(dir.path(), SERVE);
    assert_eq!(second.code, 73, "{}", second.stderr);
    assert!(
        second.stderr.contains(&child.id().to_string()),
        "{}",
        second.stderr
    );
    assert_eq!(terminate(child).code, 0);
}

#[test]
fn a_taken_port_is_named() {
    let dir = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    config(
        dir.path(),
        &format!("[[smtp]]\nbind = \"{address}\"\ntls = \"off\"\n"),
    );
    let end = run(dir.path(), SERVE);
    assert_ne!(end.code, 0);
    assert!(end.stderr.contains(&address), "{}", end.stderr);
}

#[test]
fn an_unreadable_certificate_is_named() {
    let dir = TempDir::new().unwrap();
    config(
        dir.path(),
        "[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"starttls\"\ncert = \"nowhere.pem\"\nkey = \"nowhere.key\"\n",
    );
    let end = run(dir.path(), SERVE);
    assert_eq!(end.code, 78, "{}", end.stderr);
    assert!(end.stderr.contains("nowhere.pem"), "{}", end.stderr);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let dir = TempDir::new().unwrap();
    config(dir.path(), LISTENER);
    // A file where the directory should be: refused even to root.
    std::fs::write(dir.path().join("data"), "").unwrap();
    let end = run(dir.path(), SERVE);
    assert_eq!(end.code, 73, "{}", end.stderr);
    assert!(end.stderr.contains("data"), "{}", end.stderr);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_key() {
    let dir = TempDir::new().unwrap();
    config(
        dir.path(),
        "[[smtp]]\nbind = \"127.0.0.1:0\"\ntsl = \"off\"\n",
    );
    let end = run(dir.path(), SERVE);
    assert_eq!(end.code, 78, "{}", end.stderr);
    let line = std::fs::read_to_string(dir.path().join("posthaste.toml"))
        .unwrap()
        .lines()
        .position(|l| l.starts_with("tsl"))
        .unwrap()
        + 1;
    assert!(
        end.stderr.contains("tsl") && end.stderr.contains("tls"),
        "{}",
        end.stderr
    );
    assert!(end.stderr.contains(&line.to_string()), "{}", end.stderr);
}

#[test]
fn commands_that_need_the_daemon_say_when_it_is_not_there() {
    let dir = TempDir::new().unwrap();
    config(dir.path(), LISTENER);
    let end = run(dir.path(), &["queue", "ls", "--config", "posthaste.toml"]);
    assert_eq!(end.code, 69, "{}", end.stderr);
}

#[test]
fn a_development_node_prints_its_tokens_once() {
    // It listens on fixed ports, which something on this machine may hold; then there is nothing to see here.
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    if !free(2525) || !free(8025) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let first_lines = |count: usize| {
        let path = dir.path().join("notify.sock");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(30)))
            .unwrap();
        let mut child = posthaste(dir.path(), &["serve"])
            .env("NOTIFY_SOCKET", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        await_notice(&socket, "READY=1");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let lines: Vec<String> = stdout.lines().take(count).map_while(Result::ok).collect();
        assert_eq!(terminate(child).code, 0);
        lines
    };
    let lines = first_lines(2);
    assert!(
        lines.iter().any(|l| l.starts_with("server token: ")),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|l| l.starts_with("account token: ")),
        "{lines:?}"
    );
    assert!(first_lines(0).is_empty());
}
