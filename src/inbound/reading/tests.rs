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
        // Of nobody, or of somebody who cannot be read.
        "-" => reading.of("cy@corp.example", true),
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
    let prose = read_of(
        "From: MAILER-DAEMON@x.example\nSubject: failure notice\n\nCould not be delivered:\n<a@example.org>: 550 5.1.1 user unknown\n",
    );
    assert_eq!(outcome(&prose, "a@example.org", true), Some("bounced"));
    // His mail was forwarded: it did not arrive, and he may have a mailbox all the same.
    assert_eq!(outcome(&two, "c@example.org", true), Some("bounced"));
}

/// What hosts write that do not read RFC 3464.
#[test]
fn a_report_in_poor_form_says_of_each_recipient_what_it_says_and_no_more() {
    let rules = rules();
    let read_of = |groups: &str| {
        let text = format!(
            "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n{groups}\n--b--\n"
        );
        read(text.replace('\n', "\r\n").as_bytes())
    };
    let check = |groups: &str, only: bool, expected: &[(&str, Option<&str>)]| {
        let reading = read_of(groups);
        for (path, outcome) in expected {
            let of = reading.of(path, only);
            let found = of.map(|(said, named)| said.judge(Some(&rules), named).outcome());
            assert_eq!(found, *outcome, "{path} in {groups}");
        }
        reading
    };
    // Nothing stands between the report, and its recipients.
    let groups = "Reporting-MTA: dns; mx.test\nOriginal-Recipient: rfc822; a@a.test\nFinal-Recipient: rfc822; a2@a.test\nAction: failed\nStatus: 5.1.1\nOriginal-Recipient: rfc822; b@a.test\nFinal-Recipient: rfc822; b2@a.test\nAction: failed\nStatus: 5.2.2\nFinal-Recipient: rfc822; c@a.test\nAction: delivered\nStatus: 2.0.0\n";
    let reading = check(
        groups,
        false,
        &[
            ("a@a.test", Some("suppressed")),
            ("b@a.test", Some("bounced")),
            ("d@a.test", None),
        ],
    );
    let actions: Vec<Action> = reading.said.iter().map(|said| said.action).collect();
    assert_eq!(actions, [Action::Failed, Action::Failed, Action::Arrived]);
    assert!(reading.said.iter().all(|said| said.reporter == "mx.test"));
    // What is quoted is not folded, and fields follow.
    let groups = "This is a report.\nFinal-Recipient: rfc822; a@a.test\nDiagnostic-Code: smtp; 550-no such user,\nwe are sorry\nRemote-MTA: dns; mx.a.test\nAction: failed\nStatus: 5.1.1\n";
    let reading = check(groups, true, &[("a@a.test", Some("suppressed"))]);
    assert_eq!(reading.said[0].remote, "mx.a.test");
    assert_eq!(
        reading.said[0].reply.to_lines(),
        "550 5.1.1 no such user, we are sorry"
    );
    // Named as a mailbox of the host, or as somebody whom nobody understands.
    let named = |field: &str| format!("Final-Recipient: {field}\nAction: failed\nStatus: 5.1.1\n");
    for (field, outcome) in [
        ("local; A", "suppressed"),
        ("rfc822; b", "bounced"),
        ("x400; /c=xx/s=a/", "bounced"),
        ("rfc822; a lost soul c@b.test", "bounced"),
    ] {
        check(&named(field), true, &[("a@a.test", Some(outcome))]);
        check(&named(field), false, &[("a@a.test", None)]);
    }
    let quoted = named("rfc822; a lost soul") + "Diagnostic-Code: smtp; 550 <A@a.test>: unknown\n";
    check(&quoted, true, &[("a@a.test", Some("suppressed"))]);
    check(&quoted, true, &[("xa@a.test", Some("bounced"))]);
    // Two things of one recipient.
    let said = |action: &str| {
        format!("Final-Recipient: rfc822; a@a.test\nAction: {action}\nStatus: 5.1.1\n\n")
    };
    for other in ["delivered", "delayed", "unheard-of"] {
        for groups in [said("failed") + &said(other), said(other) + &said("failed")] {
            check(&groups, true, &[("a@a.test", Some("bounced"))]);
        }
    }
    // A longer number is no reply code.
    let diagnostic = named("rfc822; a@a.test") + "Diagnostic-Code: x-host; 45012 things\n";
    let reading = check(&diagnostic, true, &[]);
    assert_eq!(reading.said[0].reply.to_lines(), "550 5.1.1 45012 things");
}

#[test]
fn what_is_returned_is_seen_also_where_it_is_encoded() {
    use base64::Engine as _;
    let original =
        "X-PM-Message-Id: 019ad1f0-2b6c-7c3a-9d41-5e6f70819203\nMessage-ID: <a@b.test>\n\nbody\n";
    let encoded = base64::prelude::BASE64_STANDARD.encode(original);
    for (encoding, text) in [("8bit", original), ("base64", encoded.as_str())] {
        let text = format!(
            "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\nContent-Type: message/global\nContent-Transfer-Encoding: {encoding}\n\n{text}\n--b--\n"
        );
        let reading = read(text.replace('\n', "\r\n").as_bytes());
        assert!(reading.original.message_id.is_some(), "{encoding}");
    }
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
        ("rfc822; ada@example.org (Ada)", Some("ada@example.org")),
        ("rfc822; Ada <ada@example.org>", Some("ada@example.org")),
        (
            "utf-8; j\\x{FC}rgen\\x{20AC}\\x{@example.org",
            Some("jürgen€\\x{@example.org"),
        ),
        (
            &format!("rfc822; {}@example.org", "\\x{".repeat(20_000)),
            None,
        ),
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
    // Each is one of those whom it was written to.
    let many: Vec<String> = (0..5_000).map(|n| format!("{n}@b.c")).collect();
    let own = format!(
        "From: MAILER-DAEMON@x.example\r\nTo: {0}\r\nSubject: undeliverable\r\n\r\n{0}\r\n",
        many.join(", ")
    );
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
        ("addresses of its own", own.as_bytes()),
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

#[test]
fn an_address_is_found_wherever_it_stands_in_mail_and_what_is_too_deep_may_have_it() {
    let is = |text: &str| text.eq_ignore_ascii_case("ada@example.org");
    let check = |content: &str, expected: bool| {
        let shown: String = content.chars().take(120).collect();
        assert_eq!(mentions(content.as_bytes(), &is), expected, "{shown}");
    };
    check("Subject: x\r\n\r\nof <ADA@example.org>, he says\r\n", true);
    check("Subject: x\r\n\r\nof canada@example.org\r\n", false);
    check("Subject: =?utf-8?q?ada=40example=2Eorg?=\r\n\r\n", true);
    check("To: <=?utf-8?B?YWRhQGV4YW1wbGUub3Jn?=>\r\n\r\n", true);
    check(
        "Subject: =?utf-8?q?of_ada=40?=\r\n =?utf-8?q?example.org?=\r\n\r\n",
        true,
    );
    check(
        "Subject: =?utf-8?q?canada=40example.org?= =?\r\n\r\n",
        false,
    );
    let encoded = "Content-Transfer-Encoding: base64\r\n\r\nYWRhQGV4YW1wbGUub3JnCg==\r\n";
    check(encoded, true);
    let harmless = "Content-Type: text/plain\r\n\r\nnobody\r\n";
    let parts = |n| {
        let part = format!("--b\r\n{harmless}");
        format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n{}--b--\r\n",
            part.repeat(n)
        )
    };
    let deep = |n: usize| -> String {
        let open = |n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n");
        (0..n).map(open).chain([harmless.to_owned()]).collect()
    };
    let within = |n| {
        format!(
            "{}{harmless}",
            "Content-Type: message/rfc822\r\n\r\n".repeat(n)
        )
    };
    let long = |n| format!("Subject: {}\r\n\r\n", "=?utf-8?q?nobody?= ".repeat(n));
    let fields = |n| format!("{}\r\n", "X-A: nobody\r\n".repeat(n));
    // Mail as it comes, and as nobody writes it who has nothing to hide.
    for (usual, beyond) in [
        (parts(20), parts(65)),
        (deep(4), deep(9)),
        (within(3), within(4)),
        (long(50), long(500)),
        (fields(500), fields(1_001)),
    ] {
        check(&usual, false);
        check(&beyond, true);
    }
}
