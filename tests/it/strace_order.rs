//! What the kernel saw: between the octets that end a message and the 250 for it lies a whole sync of the mail log.

use std::collections::HashMap;

use tempfile::TempDir;

use crate::support::client::{Client, message};
use crate::support::node::write_config;
use crate::support::process::NodeProcess;
use crate::support::remote_host::RemoteHost;

const TRACED: &str =
    "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,fdatasync,fsync";
/// Ends a message that is sent in chunks, where no dot does.
const LAST_OCTETS: &str = "these are the last octets\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_began_after_the_final_dot_is_complete_before_its_250() {
    let dir = TempDir::new().unwrap();
    let host = RemoteHost::start().await;
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            host.address
        ),
    );
    let wrapper = [
        "strace",
        "-f",
        "-y",
        "-s",
        "4194304",
        "-o",
        "trace",
        "-e",
        TRACED,
        "-e",
        "signal=none",
    ];
    let node = NodeProcess::start_under(&wrapper, dir.path()).await;

    // All connections stay open to the end, so that no descriptor changes its meaning.
    let long = message("long", &"0123456789abcdef\r\n".repeat(100_000));
    let (mut a, mut b, mut c, mut d) = (
        node.client().await,
        node.client().await,
        node.client().await,
        node.client().await,
    );
    tokio::join!(
        several(&mut a),
        several(&mut b),
        several_chunked(&mut c),
        d.submit(&["long@example.org"], &long)
    );
    host.wait_for(16).await;
    drop((a, b, c, d));
    node.stop().await;

    let trace = std::fs::read_to_string(dir.path().join("trace")).unwrap();
    assert_eq!(acknowledged(&trace), Ok(16));
}

async fn several(client: &mut Client) {
    for n in 0..5 {
        client
            .submit(
                &["b@example.org", "c@example.net"],
                &message(&format!("number {n}"), "body"),
            )
            .await;
    }
}

async fn several_chunked(client: &mut Client) {
    for n in 0..5 {
        client.command("MAIL FROM:<a@example.com>", 250).await;
        client.command("RCPT TO:<b@example.org>", 250).await;
        let content = message(&format!("chunked {n}"), LAST_OCTETS.trim_end());
        let (first, last) = content.split_at(30);
        client.send(&[b"BDAT 30\r\n", first].concat()).await;
        client.expect(250).await;
        client
            .send(&[format!("BDAT {} LAST\r\n", last.len()).as_bytes(), last].concat())
            .await;
        client.expect(250).await;
    }
}

/// A system call, with the lines of the trace at which it was seen to begin and to end.
struct Call<'a> {
    name: &'a str,
    arguments: String,
    result: i64,
    began: usize,
    ended: usize,
}

impl Call<'_> {
    /// The first argument: descriptor and what it is open on.
    fn descriptor(&self) -> &str {
        self.arguments.split(',').next().unwrap_or_default()
    }

    /// All octets of its buffers, escaped as strace does.
    fn octets(&self) -> String {
        let mut rest = self.arguments.as_str();
        let mut octets = String::new();
        while let Some((_, quoted)) = rest.split_once('"') {
            let mut escaped = false;
            let end = quoted.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let (text, behind) = quoted.split_at(end.unwrap_or(quoted.len()));
            octets += text;
            rest = &behind[1.min(behind.len())..];
            assert!(
                !rest.starts_with("..."),
                "the trace is cut short: {}",
                &self.arguments[..100]
            );
        }
        octets
    }
}

/// The calls that came back, in the order in which they did.
fn calls(trace: &str) -> Vec<Call<'_>> {
    let mut begun: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let (thread, text) = line.trim_start().split_once(' ').unwrap_or((line, ""));
        let text = text.trim_start();
        let (began, whole) = match (
            text.strip_prefix("<... "),
            text.strip_suffix(" <unfinished ...>"),
        ) {
            (None, Some(head)) => {
                begun.insert(thread, (number, head));
                continue;
            }
            (None, None) => (number, text.to_owned()),
            (Some(resumed), _) => {
                let (_, tail) = resumed
                    .split_once(" resumed>")
                    .unwrap_or_else(|| panic!("{line}"));
                let (began, head) = begun
                    .remove(thread)
                    .unwrap_or_else(|| panic!("nothing to resume: {line}"));
                (began, format!("{head}{tail}"))
            }
        };
        // Signals, exits, and calls that never came back.
        let Some((call, result)) = whole.rsplit_once(" = ") else {
            continue;
        };
        let Some(result) = result.split(' ').next().and_then(|r| r.parse().ok()) else {
            continue;
        };
        let Some((_, arguments)) = call
            .trim_end()
            .strip_suffix(')')
            .and_then(|c| c.split_once('('))
        else {
            continue;
        };
        let name = text
            .strip_prefix("<... ")
            .unwrap_or(text)
            .split(['(', ' '])
            .next()
            .unwrap_or_default();
        calls.push(Call {
            name,
            arguments: arguments.to_owned(),
            result,
            began,
            ended: number,
        });
    }
    calls
}

/// The number of messages that were acknowledged rightly; `Err`: one that was not.
fn acknowledged(trace: &str) -> Result<usize, String> {
    let calls = calls(trace);
    let is_sync = |call: &&Call| matches!(call.name, "fdatasync" | "fsync") && call.result == 0;
    let syncs: Vec<&Call> = calls
        .iter()
        .filter(is_sync)
        .filter(|c| c.descriptor().contains("/spool/mail/"))
        .collect();
    // What each descriptor read since its last message, and the line of the trace where that message ended.
    let mut read: HashMap<&str, (String, Option<usize>)> = HashMap::new();
    let mut moments: Vec<(usize, &Call)> = calls
        .iter()
        .filter_map(|call| match call.name {
            // Read when the call came back; answered, at the earliest, when the call began.
            "read" | "readv" | "recvfrom" | "recvmsg" if call.result > 0 => {
                Some((call.ended, call))
            }
            "write" | "writev" | "sendto" | "sendmsg" => Some((call.began, call)),
            _ => None,
        })
        .collect();
    moments.sort_by_key(|(line, _)| *line);
    let mut count = 0;
    for (line, call) in moments {
        let (octets, ended_at) = read.entry(call.descriptor()).or_default();
        if matches!(call.name, "read" | "readv" | "recvfrom" | "recvmsg") {
            octets.push_str(&call.octets());
            let ends = octets.ends_with(r"\r\n.\r\n")
                || octets.ends_with(&LAST_OCTETS.escape_default().to_string());
            if ends {
                *ended_at = Some(line);
            }
        } else if call.octets().starts_with("250 2.0.0 OK ") {
            let Some(dot) = ended_at.take() else {
                return Err(format!("a 250 without a message, line {line}"));
            };
            octets.clear();
            if !syncs
                .iter()
                .any(|sync| sync.began > dot && sync.ended < line)
            {
                return Err(format!(
                    "no sync between the final dot at line {dot} and its 250 at line {line}"
                ));
            }
            count += 1;
        }
    }
    Ok(count)
}

#[test]
fn a_250_without_a_whole_sync_in_between_is_found() {
    let dot = r#"7 recvfrom(9<socket:[5]>, "x\r\n.\r\n", 8192, 0, NULL, NULL) = 6"#;
    let ok = r#"7 sendto(9<socket:[5]>, "250 2.0.0 OK 01\r\n", 17, MSG_NOSIGNAL, NULL, 0) = 17"#;
    let sync = "8 fdatasync(4</d/spool/mail/0.seg>) = 0";
    let (begin, end) = (
        "8 fdatasync(4</d/spool/mail/0.seg> <unfinished ...>",
        "8 <... fdatasync resumed>)          = 0",
    );
    let check = |lines: &[&str], good: bool| {
        let found = acknowledged(&lines.join("\n"));
        assert_eq!(found == Ok(1), good, "{lines:?}: {found:?}");
    };
    check(&[dot, sync, ok], true);
    check(&[dot, begin, end, ok], true);
    check(&[dot, ok, sync], false);
    check(&[sync, dot, ok], false);
    check(&[begin, dot, end, ok], false);
    check(&[dot, begin, ok, end], false);
    check(
        &[
            dot,
            "8 fdatasync(4</d/spool/mail/0.seg>) = -1 EIO (Input/output error)",
            ok,
        ],
        false,
    );
    check(
        &[dot, "8 fdatasync(4</d/spool/event/0.seg>) = 0", ok],
        false,
    );
    // The dot was read when its call came back, wherever that call began; the 250 leaves when its call begins.
    let reading = [
        "7 recvfrom(9<socket:[5]>,  <unfinished ...>",
        r#"7 <... recvfrom resumed>"x\r\n.\r\n", 8192, 0, NULL, NULL) = 6"#,
    ];
    check(&[reading[0], sync, reading[1], ok], false);
    check(&[reading[0], reading[1], sync, ok], true);
    let saying = [
        r#"7 sendto(9<socket:[5]>, "250 2.0.0 OK 01\r\n", 17, 0, NULL, 0 <unfinished ...>"#,
        "7 <... sendto resumed>) = 17",
    ];
    check(&[dot, saying[0], sync, saying[1]], false);
    // In two reads, and on two connections.
    let halves = [
        r#"7 recvfrom(9<socket:[5]>, "x\r\n.", 8192, 0, NULL, NULL) = 4"#,
        r#"7 recvfrom(9<socket:[5]>, "\r\n", 8192, 0, NULL, NULL) = 2"#,
    ];
    check(&[halves[0], sync, halves[1], ok], false);
    check(&[halves[0], halves[1], sync, ok], true);
    check(
        &[dot, sync, &ok.replace("9<socket:[5]>", "10<socket:[6]>")],
        false,
    );
}
