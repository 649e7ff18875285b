//! Reports against a corpus, garbled, and hostile.

use super::*;
use crate::config::Config;

fn rules() -> Rules {
    Rules::shipped(&Config::development(None).shaping).unwrap_or_else(|e| panic!("{e}"))
}

struct Case {
    line: usize,
    expected: String,
    why: String,
    content: Vec<u8>,
}

/// `corpus.txt`: before each message a line that says what is expected of it, and why.
fn corpus() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in include_str!("corpus.txt").lines().enumerate() {
        if let Some(head) = line.strip_prefix("#> ") {
            let (expected, why) = head.split_once(" | ").unwrap();
            cases.push(Case {
                line: number + 1,
                expected: expected.to_owned(),
                why: why.to_owned(),
                content: Vec::new(),
            });
        } else if let Some(case) = cases.last_mut() {
            case.content.extend_from_slice(line.as_bytes());
            case.content.extend_from_slice(b"\r\n");
        }
    }
    cases
}

/// In the words of the corpus, as far as `asked` asks.
fn found(reading: &Reading, asked: &str, rules: &Rules) -> String {
    let address = asked
        .split("to=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap_or("-");
    let said = match address {
        "-" => reading.said.first().map(|said| {
            (
                said,
                said.addresses.is_empty() && reading.kind == Kind::Status,
            )
        }),
        address => reading
            .said
            .iter()
            .find(|said| said.names(address))
            .map(|said| {
                // Ours is cy, wherever his mail went on to.
                (
                    said,
                    !address.starts_with("elsewhere") && reading.kind == Kind::Status,
                )
            }),
    };
    let judged = match said {
        Some((said, named)) if reading.kind.cause().is_none() => {
            Some(said.judge(Some(rules), named))
        }
        _ => verdict(reading.kind),
    };
    let words = asked.split(' ').map(|word| {
        let (key, value) = word.split_once('=').unwrap();
        if value == "-" && key != "to" {
            return word.to_owned();
        }
        let found = match key {
            "kind" => reading.kind.as_str(),
            "action" => said.map_or("-", |(said, _)| said.action.as_str()),
            "cause" => judged.as_ref().map_or("-", |found| found.class.as_str()),
            "outcome" => judged.as_ref().map_or("-", Finding::outcome),
            "to" => match said {
                Some(_) => address,
                None => "-",
            },
            "original" => match reading.original.message_id {
                Some(id) if id.to_string() == "019ad1f0-2b6c-7c3a-9d41-5e6f70819203" => "yes",
                Some(_) => "another",
                None => "no",
            },
            _ => "?",
        };
        format!("{key}={found}")
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_comes_back_is_understood_as_argued() {
    let (cases, rules) = (corpus(), rules());
    assert!(cases.len() >= 130, "{}", cases.len());
    let mut wrong = String::new();
    for case in &cases {
        let reading = read(&case.content);
        let found = found(&reading, &case.expected, &rules);
        if found != case.expected {
            wrong += &format!(
                "line {}: {}\n  expected {}\n  found    {found}\n  {:?}\n",
                case.line,
                case.why,
                case.expected,
                reading.said.first()
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// However it is cut off or garbled, it is read to an end, and suppresses nobody who is not named.
#[test]
fn no_beginning_of_a_report_and_no_garbling_breaks_anything() {
    let rules = rules();
    let mut random = fastrand::Rng::with_seed(8);
    for case in corpus() {
        for _ in 0..20 {
            let mut content = case.content[..random.usize(..=case.content.len())].to_vec();
            for _ in 0..random.usize(..6) {
                if !content.is_empty() {
                    let at = random.usize(..content.len());
                    content[at] = *random.choice(b"\r\n:;<>=\"\0\xff- a5.@").unwrap();
                }
            }
            let reading = read(&content);
            if let Some((said, named)) = reading.of("somebody@else.example", false) {
                assert!(!said.judge(Some(&rules), named).suppresses(), "{reading:?}");
            }
        }
    }
}

#[test]
fn a_report_names_its_recipient_or_only_somebody_behind_him() {
    let read_of = |text: &str| read(text.replace('\n', "\r\n").as_bytes());
    let report = |groups: &str| {
        read_of(&format!(
            "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.org\n\n{groups}\n--b--\n"
        ))
    };
    let failed = |address: &str| {
        format!("Final-Recipient: rfc822; {address}\nAction: failed\nStatus: 5.1.1\n\n")
    };
    let rules = rules();
    let outcome = |reading: &Reading, path: &str, only: bool| {
        let of = reading.of(path, only);
        of.map(|(said, named)| said.judge(Some(&rules), named).outcome())
    };
    let two = report(&(failed("a@example.org") + &failed("b@example.org")));
    assert_eq!(outcome(&two, "A@example.org", false), Some("suppressed"));
    assert_eq!(outcome(&two, "c@example.org", false), None);
    // His mail was forwarded: it did not arrive, and he may have a mailbox all the same.
    assert_eq!(outcome(&two, "c@example.org", true), Some("bounced"));
}

#[test]
fn a_plus_address_is_not_taken_for_xtext() {
    for (field, expected) in [
        (
            "rfc822;ada+2Bnews@example.org",
            Some("ada+news@example.org"),
        ),
        ("rfc822; ada+news@example.org", Some("ada+news@example.org")),
        ("<ADA@example.org>", Some("ada@example.org")),
        ("ada", None),
        ("rfc822;a b@example.org", None),
    ] {
        assert_eq!(address(field).as_deref(), expected, "{field}");
    }
}

/// What strangers send costs little: whatever it is, it is read within what a report of that size may cost.
#[test]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn hostile_reports_cost_little() {
    let nested = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n".repeat(1_000);
    let each: String = (0..1_000)
        .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
        .collect();
    let within = "Content-Type: message/rfc822\r\n\r\n".repeat(8_000);
    let parts = "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned()
        + &"--b\r\n\r\nx\r\n".repeat(20_000);
    let groups = "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n".to_owned() + &"Final-Recipient: rfc822;a@b.example\r\nAction: failed\r\n\r\n".repeat(10_000);
    let codes = "From: MAILER-DAEMON@x.example\r\nSubject: undeliverable\r\n\r\n".to_owned()
        + &"550 ".repeat(60_000);
    let addresses = "From: MAILER-DAEMON@x.example\r\nSubject: undeliverable\r\n\r\n".to_owned()
        + &"a@b.example ".repeat(20_000);
    let fields = "X: y\r\n".repeat(50_000);
    let line = "x".repeat(1 << 20);
    let boundary = format!(
        "Content-Type: multipart/mixed; boundary=\"{}\"\r\n\r\n{}",
        "-".repeat(200),
        "-".repeat(250_000)
    );
    let big = vec![b'\n'; 50 << 20];
    let all: Vec<(&str, &[u8])> = vec![
        ("nested a thousand deep", nested.as_bytes()),
        ("nested, each with a boundary of its own", each.as_bytes()),
        ("messages within messages", within.as_bytes()),
        ("many parts", parts.as_bytes()),
        ("many recipients", groups.as_bytes()),
        ("many codes", codes.as_bytes()),
        ("many addresses", addresses.as_bytes()),
        ("many fields", fields.as_bytes()),
        ("one line", line.as_bytes()),
        ("nearly a boundary", boundary.as_bytes()),
        ("fifty megabytes", &big),
    ];
    for (what, content) in all {
        let began = std::time::Instant::now();
        let reading = read(content);
        let took = began.elapsed();
        assert!(reading.said.len() <= 100, "{what}: {}", reading.said.len());
        // In a debug build beside other work; an optimised one takes a hundredth of it.
        assert!(took.as_secs() < 10, "{what} took {took:?}");
        println!("{what}: {took:?}, {}", reading.kind.as_str());
    }
}
