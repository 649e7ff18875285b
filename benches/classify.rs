//! What it costs to understand what comes back: `cargo bench --bench classify`.
//!
//! Replies: the shipped rules and 900 more, compiled once; the processor's time of one reply, of those that stand beside the
//! rules and of one of 8 KiB that half fits everything (the budget is 20 us). Reports by mail: the same of a DSN, and of hostile
//! ones: nested 1,000 deep, 50 MB, a header section without end.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "its results")]

use std::hint::black_box;
use std::time::Duration;

use posthaste::classify::{Evidence, Rules, recorded};
use posthaste::config::Config;
use posthaste::inbound::reading;
use posthaste::mail::Reply;
use posthaste::smtp::client::Stage;

/// As the daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MORE_RULES: usize = 900;

/// The processor's time of this thread: other jobs do not count.
fn worked<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let began = now();
    let done = work();
    (done, now() - began)
}

fn micros(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn rules() -> Rules {
    let mut text = String::new();
    for n in 0..MORE_RULES {
        text += &format!(
            "[[rule]]\nname = \"r{n}\"\ntext = [\"reason {n} of*network{n}\", \"word{n} and\", \"blocked by list{n}\"]\ncause = \"reputation\"\nscope = \"source-ip\"\nreaction = \"backoff\"\n"
        );
    }
    let path = std::env::temp_dir().join(format!("posthaste-rules-{}.toml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let shaping = Config::development(None).shaping;
    let (rules, took) = worked(|| Rules::load(std::slice::from_ref(&path), &shaping));
    std::fs::remove_file(&path).unwrap();
    let rules = rules.unwrap();
    println!("{} rules compiled in {took:.1?}", rules.iter().count());
    rules
}

fn replies(rules: &Rules) {
    let beside = rules.fixtures().iter().map(|f| recorded(&f.reply));
    let beside: Vec<Reply> = beside.collect();
    let long = "word7 and reason 5 of all that is blocked by ".repeat(180);
    let long = vec![recorded(&format!("550 {long}"))];
    for (what, replies) in [("reply", beside), ("reply of 8 KiB", long)] {
        let rounds = 40_000 / replies.len() + 1;
        let (known, took) = worked(|| {
            let all = (0..rounds).flat_map(|_| &replies);
            let found = all.map(|reply| {
                let evidence = Evidence {
                    stage: Some(Stage::Rcpt),
                    reply,
                    host: "mx.google.com",
                    shared: false,
                };
                usize::from(black_box(rules.find(&evidence)).is_some())
            });
            found.sum::<usize>()
        });
        let count = rounds * replies.len();
        let each = micros(took, count);
        println!("{what:<40} {each:>10.2} us each, {known} of {count} known to a rule");
    }
}

fn reports(rules: &Rules) {
    let dsn = "From: MAILER-DAEMON@mx.example\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\nFinal-Recipient: rfc822; a@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n".to_owned()
        + &"Received: from a by b\r\n".repeat(50)
        + "\r\n"
        + &"text of the message that comes back\r\n".repeat(300)
        + "--b--\r\n";
    let prose = "From: MAILER-DAEMON@x.example\r\nSubject: failure notice\r\n\r\nHi. This is the mail program.\r\n<a@b.example>:\r\n192.0.2.1 does not like recipient.\r\nRemote host said: 550 no such user\r\nGiving up.\r\n";
    let nested =
        |n: usize| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n");
    let nested: String = (0..1_000).map(nested).collect();
    let within = "Content-Type: message/rfc822\r\n\r\n".repeat(1_000);
    let fields = "X: y\r\n".repeat(9 << 20);
    let codes = "From: MAILER-DAEMON@x.example\r\nSubject: undeliverable\r\n\r\n".to_owned()
        + &"550 a@b.example ".repeat(20_000);
    for (what, content, rounds) in [
        ("DSN of 13 KB", dsn.as_bytes(), 2_000),
        ("bounce for people", prose.as_bytes(), 2_000),
        ("multipart nested 1,000 deep", nested.as_bytes(), 50),
        ("messages nested 1,000 deep", within.as_bytes(), 50),
        ("50 MB of header fields", fields.as_bytes(), 20),
        ("320 KB of codes and addresses", codes.as_bytes(), 20),
    ] {
        let (_, took) = worked(|| {
            for _ in 0..rounds {
                let reading = reading::read(black_box(content));
                let said = reading.of("a@b.example", true);
                black_box(said.map(|(said, named)| said.judge(Some(rules), named)));
            }
        });
        println!("{what:<40} {:>10.0} us each", micros(took, rounds));
    }
}

fn main() {
    let rules = rules();
    replies(&rules);
    reports(&rules);
}
