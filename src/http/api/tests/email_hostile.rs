//! Bodies that mean harm: the documented error, bounded memory, and no octet where a field, a recipient or a line could begin.

use std::collections::BTreeMap;

use mail_parser::{Address, MessageParser};

use super::*;
use crate::http::api::email::ROUTES;
use crate::http::api::json::Kind;
use crate::mail::header::Section;

const TOKEN: &str = "configured-token";

async fn post(fixture: &Fixture, path: &str, body: impl Into<HttpBody>) -> Answered {
    let request = Request::builder().method("POST").uri(path);
    let request = request.header("X-Postmark-Server-Token", TOKEN);
    fixture
        .send(request.header("Content-Type", "application/json"), body)
        .await
}

#[tokio::test]
async fn what_is_no_json_has_its_code_whatever_its_size() {
    let fixture = Fixture::new().await;
    let keys: String = (0..600_000).map(|n| format!("\"k{n}\":1,")).collect();
    for path in ["/email", "/email/batch", "/email/raw"] {
        for body in [
            "[".repeat(10_000).into_bytes(),
            "{\"From\":".repeat(10_000).into_bytes(),
            format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes(),
            format!("{{{keys}\"z\":1}}").into_bytes(),
            b"{\"From\":\"\xff\xfe\"}".to_vec(),
            br#"{"From":"\ud800"}"#.to_vec(),
            br#"{"From":"\udc00\ud800"}"#.to_vec(),
            br#"{"From":"a@declared.example","From":"b@declared.example"}"#.to_vec(),
            br#"{"From":NaN}"#.to_vec(),
            b"{\"Subject\":\"a\nb\"}".to_vec(),
            b"[{}] trailing".to_vec(),
            b"\xef\xbb\xbf{}".to_vec(),
            [b"{\"Subject\":\"".as_slice(), &vec![b'x'; 1_000_000]].concat(),
        ] {
            post(&fixture, path, body).await.refused(422, 402);
        }
    }
    assert!(fixture.door.taken().is_empty());
}

#[tokio::test]
async fn a_megabyte_in_any_field_is_refused_by_its_name_or_is_the_body() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(1_000_000);
    let mail = |key: &str, value: Value| {
        let mut mail =
            json!({ "From": "a@declared.example", "To": "b@example.com", "TextBody": "x" });
        mail[key] = value;
        mail.to_string()
    };
    for field in ROUTES[0]
        .body
        .iter()
        .filter(|field| field.kind == Kind::Text)
    {
        let answer = post(&fixture, "/email", mail(field.name, long.clone().into())).await;
        match field.name {
            "HtmlBody" | "TextBody" => drop(answer.ok()),
            // The one door reads these two; this test's does not.
            "SendAt" | "Deadline" => {
                let (_, content) = fixture.door.taken().pop().unwrap();
                assert!(content.len() < 2_000);
            }
            "MessageStream" => drop(answer.refused(422, 1235)),
            _ => {
                let said = answer.refused(422, 300);
                assert!(said.len() < 1_000, "{}: {} octets", field.name, said.len());
            }
        }
    }
    let of_one = |key: &str| json!([{ "Name": "a.txt", "Content": "eA==", "ContentType": "text/plain", key: long.clone() }]);
    for (key, value, code) in [
        ("Metadata", json!({ "a": long.clone() }), 300),
        ("Metadata", json!({ long.clone(): "a" }), 300),
        (
            "Headers",
            json!([{ "Name": long.clone(), "Value": "x" }]),
            300,
        ),
        (
            "Headers",
            json!([{ "Name": "X-Y", "Value": long.clone() }]),
            300,
        ),
        ("Attachments", of_one("Name"), 300),
        ("Attachments", of_one("ContentType"), 300),
        ("Attachments", of_one("ContentID"), 300),
        (
            "Attachments",
            json!([{ "Name": "a", "Content": "%".repeat(1_000_000), "ContentType": "text/plain" }]),
            403,
        ),
        (
            "Attachments",
            json!([{ "Name": "a", "Content": "x".repeat(1_000_001), "ContentType": "text/plain" }]),
            403,
        ),
    ] {
        let shown = value.to_string().chars().take(60).collect::<String>();
        let answer = post(&fixture, "/email", mail(key, value)).await;
        assert_eq!((answer.status, answer.code()), (422, code), "{shown}");
        assert!(answer.body["Message"].as_str().unwrap().len() < 1_000);
    }
}

/// What tries to end a line, a value, a word or a part.
const PIECES: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    "\u{85}",
    "\u{2028}",
    "\r\nBcc: evil@attacker.example\r\n",
    "\r\n\r\n<html>",
    "\r\n.\r\n",
    "Bcc: evil@attacker.example",
    "=?utf-8?q?=0d=0aBcc:_evil=40attacker.example?=",
    "=?utf-8?b?DQpCY2M6IGV2aWxAYXR0YWNrZXIuZXhhbXBsZQ==?=",
    "?=",
    "=?",
    "\"",
    "\\",
    "\\\"",
    "<evil@attacker.example>",
    ", evil@attacker.example",
    ";",
    "(",
    ")",
    ":",
    "@",
    "ü",
    "日本語",
    "💌",
    "\u{202e}",
    "\u{feff}",
    " ",
    "  ",
    ".",
    "--b",
    "%0d%0a",
    "word",
    "; boundary=x",
    "; name=\"y\"",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];
/// Of them, at the beginning: what no field may hold.
const CONTROLS: usize = 9;

struct Nasty(fastrand::Rng);

impl Nasty {
    fn text(&mut self) -> String {
        // Most messages have to come through, or nothing is tried.
        let from = if self.0.u8(..100) < 2 { 0 } else { CONTROLS };
        (0..self.0.usize(..6))
            .map(|_| PIECES[self.0.usize(from..PIECES.len())])
            .collect()
    }

    /// With a name that is quoted as it has to be.
    fn addressee(&mut self, number: usize) -> String {
        let name = self.text().replace('\\', "\\\\").replace('"', "\\\"");
        match self.0.u8(..3) {
            0 => format!("r{number}@example.com"),
            1 => format!("\"{name}\" <r{number}@example.com>"),
            _ => format!(" \"{name}\"<r{number}@example.com> "),
        }
    }

    fn list(&mut self, numbers: std::ops::Range<usize>) -> String {
        let all: Vec<String> = numbers.map(|number| self.addressee(number)).collect();
        all.join(", ")
    }
}

/// `None`: there is no such field.
fn addresses(list: Option<&Address<'_>>) -> Vec<String> {
    let all = list.into_iter().flat_map(|list| list.iter());
    all.filter_map(|one| one.address.as_deref().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn no_field_injects_a_header_a_recipient_or_a_line_end() {
    let fixture = Fixture::new().await;
    let seed = std::env::var("FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = match seed {
        Some(seed) => seed..seed + 1,
        None => 0..4_000u64,
    };
    let (mut taken, all) = (0, seeds.clone().count());
    for seed in seeds {
        let mut nasty = Nasty(fastrand::Rng::with_seed(seed));
        let (to, cc, bcc) = (nasty.0.usize(..3), nasty.0.usize(..3), nasty.0.usize(..3));
        let own: Vec<(String, String)> = (0..nasty.0.usize(..3))
            .map(|n| (format!("X-Own-{n}"), nasty.text()))
            .collect();
        let mut headers: Vec<Value> = own
            .iter()
            .map(|(name, value)| json!({ "Name": name, "Value": value }))
            .collect();
        for reserved in [
            "Bcc",
            "To",
            "From",
            "Content-Type",
            "DKIM-Signature",
            "Received",
            "Return-Path",
        ] {
            if nasty.0.u8(..10) == 0 {
                headers.push(json!({ "Name": reserved, "Value": nasty.text() }));
            }
        }
        let name = format!("{}.txt", nasty.text());
        let mail = json!({
            "From": format!("\"{}\" <a@declared.example>", nasty.text().replace('\\', "\\\\").replace('"', "\\\"")),
            "To": nasty.list(0..to), "Cc": nasty.list(to..to + cc), "Bcc": nasty.list(to + cc..to + cc + bcc),
            "ReplyTo": if nasty.0.bool() { nasty.list(90..91) } else { String::new() },
            "Subject": nasty.text(), "Tag": nasty.text(), "TextBody": format!("{}x", nasty.text()), "HtmlBody": nasty.text(),
            "Metadata": { "a": nasty.text() }, "Headers": headers,
            "Attachments": [{ "Name": name, "Content": STANDARD.encode(nasty.text() + "x"), "ContentType": format!("text/plain{}", nasty.text()),
                              "ContentID": nasty.text() }],
        });
        let answer = post(&fixture, "/email", mail.to_string()).await;
        if answer.status != 200 {
            assert!(
                matches!(answer.code(), 300 | 403 | 411),
                "seed {seed}: {}",
                answer.body
            );
            assert!(
                !answer.body["Message"]
                    .as_str()
                    .unwrap()
                    .contains(char::is_control),
                "seed {seed}"
            );
            assert!(fixture.door.taken().is_empty());
            continue;
        }
        taken += 1;
        let (context, content) = fixture.door.taken().remove(0);
        let paths: Vec<String> = context
            .recipients
            .iter()
            .map(|r| r.path.as_str().to_owned())
            .collect();
        let wanted: Vec<String> = (0..to + cc + bcc)
            .map(|n| format!("r{n}@example.com"))
            .collect();
        assert_eq!(paths, wanted, "seed {seed}: the envelope");

        let text = std::str::from_utf8(&content).unwrap();
        assert!(
            text.is_ascii() && !text.contains('\0'),
            "seed {seed}: octets"
        );
        let without = text.replace("\r\n", "");
        assert!(!without.contains(['\r', '\n']), "seed {seed}: line ends");
        assert!(
            text.split("\r\n").all(|line| line.len() <= 998),
            "seed {seed}: line lengths"
        );

        let section = Section::parse(&content, 1_000, 1 << 20).unwrap();
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for field in section.fields() {
            let name = String::from_utf8(section.name(field).to_ascii_lowercase()).unwrap();
            *names.entry(name).or_default() += 1;
        }
        let mut expected: BTreeMap<String, usize> = own
            .iter()
            .map(|(name, _)| (name.to_ascii_lowercase(), 1))
            .collect();
        let given = |key: &str| !mail[key].as_str().unwrap().is_empty();
        for (name, there) in [
            ("from", true),
            ("subject", true),
            ("mime-version", true),
            ("content-type", true),
            ("to", to > 0 || cc == 0),
            ("cc", cc > 0),
            ("reply-to", given("ReplyTo")),
            ("x-pm-tag", given("Tag")),
        ] {
            if there {
                expected.insert(name.into(), 1);
            }
        }
        assert_eq!(names, expected, "seed {seed}: the fields of {text}");
        let parsed = MessageParser::default().parse(&content).unwrap();
        assert_eq!(
            addresses(parsed.from()),
            ["a@declared.example"],
            "seed {seed}"
        );
        assert_eq!(addresses(parsed.to()), wanted[..to], "seed {seed}: To");
        assert_eq!(
            addresses(parsed.cc()),
            wanted[to..to + cc],
            "seed {seed}: Cc"
        );
        assert!(parsed.bcc().is_none(), "seed {seed}");
        // A text, an HTML page perhaps, one attachment, and what holds them together.
        assert!(
            parsed.parts.len() <= 6,
            "seed {seed}: {} parts",
            parsed.parts.len()
        );
    }
    assert!(
        seed.is_some() || taken > all / 4,
        "{taken} of {all} came through"
    );
}
