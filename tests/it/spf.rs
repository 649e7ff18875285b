//! SPF evaluation against one that we did not write, over worlds made at random.

use std::collections::HashMap;
use std::net::IpAddr;

use posthaste::check::spf::{Client, evaluate};
use posthaste::check::{Answer, Book, Kind, Question, Record, settle};
use serde_json::{Value, json};

use crate::official_clients::run;

/// A DNS of a few domains whose records name one another.
#[derive(Default)]
struct World {
    records: HashMap<(String, Kind), Vec<Record>>,
}

impl World {
    fn add(&mut self, name: &str, kind: Kind, record: Record) {
        let key = (name.to_owned(), kind);
        self.records.entry(key).or_default().push(record);
    }

    fn random(random: &mut fastrand::Rng) -> Self {
        let mut world = Self::default();
        for n in 0..HOSTS {
            let (name, last) = (format!("h{n}.test"), random.u8(1..40));
            world.add(&name, Kind::A, Record::Address([192, 0, 2, last].into()));
            if random.bool() {
                let address = format!("2001:db8::{last:x}").parse().unwrap();
                world.add(&name, Kind::Aaaa, Record::Address(address));
            }
        }
        for n in 0..DOMAINS {
            let name = format!("d{n}.test");
            for _ in 0..random.usize(0..3) {
                let host = format!("h{}.test", random.usize(..HOSTS));
                world.add(&name, Kind::Mx, Record::Exchange(random.u16(..30), host));
            }
            let address = [192, 0, 2, random.u8(1..40)];
            world.add(&name, Kind::A, Record::Address(address.into()));
            let count = match random.u8(..30) {
                0 => 0,
                1 => 2,
                _ => 1,
            };
            for _ in 0..count {
                let record = record(random, n);
                world.add(&name, Kind::Txt, Record::Text(record));
            }
            world.add(&name, Kind::Txt, Record::Text("unrelated=1".into()));
        }
        for last in 1..40 {
            if random.u8(..4) == 0 {
                let name = format!("h{}.test", random.usize(..HOSTS));
                world.add(
                    &format!("{last}.2.0.192.in-addr.arpa"),
                    Kind::Ptr,
                    Record::Name(name),
                );
            }
        }
        world
    }

    fn answer(&self, question: &Question) -> Answer {
        match self.records.get(&(question.name.clone(), question.kind)) {
            Some(records) => Answer::Found(records.clone()),
            None => Answer::NoSuchName,
        }
    }

    fn judge(&self, client: &Client<'_>) -> &'static str {
        let mut book = Book::default();
        loop {
            match settle(&mut book, |book| evaluate(book, client)) {
                Ok(verdict) => return verdict.outcome.as_str(),
                Err(missing) => {
                    for question in missing {
                        let answer = self.answer(&question);
                        book.put(question, answer);
                    }
                }
            }
        }
    }

    fn to_json(&self) -> Value {
        let rows = self.records.iter().map(|((name, kind), records)| {
            let values: Vec<Value> = records
                .iter()
                .map(|record| match record {
                    Record::Text(text) => json!(text),
                    Record::Address(address) => json!(address.to_string()),
                    Record::Exchange(preference, host) => json!([preference, host]),
                    Record::Name(name) => json!(name),
                    Record::Policy(_) => unreachable!("SPF asks no web server"),
                })
                .collect();
            json!([name, kind.as_str(), values])
        });
        rows.collect()
    }
}

fn record(random: &mut fastrand::Rng, owner: usize) -> String {
    let mut text = ["v=spf1", "V=SPF1"][usize::from(random.u8(..10) == 0)].to_owned();
    for _ in 0..random.usize(0..5) {
        let qualifier = ["", "", "", "+", "-", "~", "?"][random.usize(..7)];
        let host = match random.u8(..12) {
            0 => "missing.test".to_owned(),
            n => format!("h{}.test", usize::from(n) % HOSTS),
        };
        let domain = format!("d{}.test", random.usize(..DOMAINS));
        let last = random.u8(1..40);
        let length = random.u8(24..=32);
        let term = match random.u8(..16) {
            0..=2 => format!("ip4:192.0.2.{last}/{length}"),
            3 => format!("ip6:2001:db8::{last:x}/{}", random.u8(120..=128)),
            4 => format!("a:{host}/{length}"),
            5 => format!("a:{host}//{}", random.u8(120..=128)),
            6 => "mx".to_owned(),
            7 => format!("mx:{domain}/{length}"),
            8 | 9 => format!("include:{domain}"),
            10 => [
                "exists:%{ir}.d1.test",
                "exists:h%{i4r-}.test",
                "exists:%{l1r-}.test",
                "exists:%{d2}",
                "exists:%{h}",
            ][random.usize(..5)]
            .to_owned(),
            11 => ["ptr", "ptr:h1.test"][random.usize(..2)].to_owned(),
            12 => "a".to_owned(),
            13 => format!("A:{}", host.to_uppercase()),
            14 => [
                "include:%{o}",
                "include:d2.%{d1}",
                "a:%{p}",
                "exists:%{S}.test",
            ][random.usize(..4)]
            .to_owned(),
            _ => match random.u8(..6) {
                0 => [
                    "ip4:192.0.2",
                    "a:/24",
                    "all:x",
                    "include:",
                    "ip4:192.0.2.1/33",
                    "mx:%{x}.test",
                    "nope",
                    "a:h1.test/024",
                    "exp=",
                ][random.usize(..9)]
                .to_owned(),
                1 => "exp=why.test".to_owned(),
                2 => "op=x".to_owned(),
                _ => format!("ip4:192.0.2.{last}"),
            },
        };
        let is_modifier = term.starts_with("exp") || term.starts_with("op=");
        text.push(' ');
        text.push_str(if is_modifier { "" } else { qualifier });
        text.push_str(&term);
    }
    match random.u8(..8) {
        0 => text.push_str(&format!(" redirect=d{}.test", (owner + 1) % DOMAINS)),
        1 => {}
        2 => text.push_str(" ~all"),
        _ => text.push_str(" -all"),
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spf_is_judged_as_another_judges_it() {
    let mut random = fastrand::Rng::with_seed(7_208);
    let mut worlds = Vec::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for _ in 0..WORLDS {
        let world = World::random(&mut random);
        let mut cases = Vec::new();
        for n in 0..DOMAINS {
            let last = random.u8(1..40);
            let ip: IpAddr = match random.u8(..4) {
                0 => format!("2001:db8::{last:x}").parse().unwrap(),
                _ => [192, 0, 2, last].into(),
            };
            let domain = format!("d{n}.test");
            let helo = format!("h{}.test", random.usize(..HOSTS));
            let local_part = ["h1", "strong-h2"][random.usize(..2)];
            let outcome = world.judge(&Client {
                ip,
                helo: &helo,
                local_part,
                domain: &domain,
            });
            *seen.entry(outcome).or_default() += 1;
            cases.push(json!([
                ip.to_string(),
                format!("{local_part}@{domain}"),
                helo,
                outcome
            ]));
        }
        worlds.push(json!({ "dns": world.to_json(), "cases": cases }));
    }
    // All outcomes but that of a failing DNS occur, so that agreement means something.
    for outcome in ["none", "neutral", "pass", "fail", "softfail", "permerror"] {
        assert!(seen.get(outcome).is_some_and(|n| *n > 20), "{seen:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(&worlds).unwrap()).unwrap();
    run(&["python3", "spf_check.py", file.path().to_str().unwrap()]).await;
}

const HOSTS: usize = 8;
const DOMAINS: usize = 6;
const WORLDS: usize = 500;
