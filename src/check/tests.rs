//! Judgements over a world whose DNS is a table.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use super::*;

/// A DNS. Names that it does not hold do not exist.
#[derive(Default)]
pub(super) struct World {
    records: HashMap<Question, Vec<Record>>,
    failing: Vec<String>,
    asked: RefCell<Vec<Question>>,
}

impl World {
    pub(super) fn txt(&mut self, name: &str, text: &str) {
        self.add(name, Kind::Txt, Record::Text(text.into()));
    }

    fn replace_txt(&mut self, name: &str, text: &str) {
        let question = Question {
            name: name.to_owned(),
            kind: Kind::Txt,
        };
        self.records.remove(&question);
        self.txt(name, text);
    }

    pub(super) fn a(&mut self, name: &str, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        let kind = if address.is_ipv4() {
            Kind::A
        } else {
            Kind::Aaaa
        };
        self.add(name, kind, Record::Address(address));
    }

    pub(super) fn mx(&mut self, name: &str, preference: u16, host: &str) {
        self.add(name, Kind::Mx, Record::Exchange(preference, host.into()));
    }

    pub(super) fn cname(&mut self, name: &str, target: &str) {
        self.add(name, Kind::Cname, Record::Name(target.into()));
    }

    pub(super) fn ptr(&mut self, address: &str, name: &str) {
        let owner = names::reverse(address.parse().unwrap());
        self.add(&owner, Kind::Ptr, Record::Name(name.into()));
    }

    pub(super) fn fail(&mut self, name: &str) {
        self.failing.push(name.into());
    }

    fn add(&mut self, name: &str, kind: Kind, record: Record) {
        let name = name.to_owned();
        self.records
            .entry(Question { name, kind })
            .or_default()
            .push(record);
    }

    pub(super) fn asked(&self) -> Vec<Question> {
        self.asked.borrow().clone()
    }

    /// Aliases are followed, as a resolver does.
    fn answer(&self, question: &Question) -> Answer {
        let mut name = question.name.clone();
        for _ in 0..8 {
            if self.failing.contains(&name) {
                return Answer::Failed("SERVFAIL".into());
            }
            let at = |kind| {
                self.records.get(&Question {
                    name: name.clone(),
                    kind,
                })
            };
            if let Some(records) = at(question.kind) {
                return Answer::Found(records.clone());
            }
            match at(Kind::Cname).map(|records| &records[0]) {
                Some(Record::Name(target)) => name = target.clone(),
                _ if self.records.keys().any(|held| held.name == name) => return Answer::Nothing,
                _ => return Answer::NoSuchName,
            }
        }
        Answer::Failed("a chain of aliases without end".into())
    }

    pub(super) fn settle<T>(&self, judge: impl Fn(&Book) -> T) -> T {
        let mut book = Book::default();
        loop {
            match settle(&mut book, &judge) {
                Ok(judged) => return judged,
                Err(missing) => {
                    for question in missing {
                        let answer = self.answer(&question);
                        self.asked.borrow_mut().push(question.clone());
                        book.put(question, answer);
                    }
                }
            }
        }
    }
}

const KEY: &str = "k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A";

fn source(address: &str) -> SourceAddress {
    SourceAddress {
        source: "tx1".into(),
        address: address.parse().unwrap(),
        ehlo: "tx1.ours.test".into(),
        chosen_by: None,
    }
}

fn wanted(name: &str) -> DomainWanted {
    DomainWanted {
        name: name.into(),
        keys: vec![KeyWanted {
            host: format!("s1._domainkey.{name}"),
            record: KEY.into(),
            role: KeyRole::Active,
        }],
        return_path: Some(ReturnPathWanted {
            host: format!("b.{name}"),
            verified: true,
        }),
        bounce_host: "ours.test".into(),
        bounce_default: None,
        sources: vec![source("192.0.2.1"), source("2001:db8::1")],
    }
}

/// A world in which nothing is wrong with `name`.
fn sound(name: &str) -> World {
    let mut world = World::default();
    world.txt(&format!("s1._domainkey.{name}"), KEY);
    world.cname(&format!("b.{name}"), "ours.test");
    world.a("ours.test", "192.0.2.1");
    world.txt("ours.test", "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 -all");
    world.mx(name, 10, "mx.shop.test");
    world.a("mx.shop.test", "198.51.100.1");
    world
}

fn bad(world: &World, wanted: &DomainWanted) -> Vec<&'static str> {
    let findings = world.settle(|book| judge_domain(book, wanted)).findings;
    let bad = findings.iter().filter(|f| f.level != Level::Ok);
    bad.map(|f| f.id).collect()
}

#[test]
fn a_sub_domain_takes_the_policy_of_the_domain_above_unless_it_has_its_own() {
    let name = "news.shop.test";
    let mut world = sound(name);
    assert_eq!(bad(&world, &wanted(name)), ["dmarc_missing"]);
    world.txt(
        "_dmarc.shop.test",
        "v=DMARC1; p=none; sp=reject; rua=mailto:d@shop.test",
    );
    assert_eq!(bad(&world, &wanted(name)), [""; 0]);
    world.txt(
        "_dmarc.news.shop.test",
        "v=DMARC1;p=none;rua=mailto:d@shop.test",
    );
    assert_eq!(bad(&world, &wanted(name)), ["dmarc_policy_none"]);
}

/// RFC 7489 §6.3, §6.6.3.
#[test]
fn what_is_wrong_in_a_policy_costs_no_more_than_it_costs_with_receivers() {
    let name = "shop.test";
    let end = "rua=mailto:d@shop.test";
    for (record, expected) in [
        (format!("v=DMARC1; p=reject; {end}"), None),
        (format!("v = DMARC1 ;p = Reject ; {end};"), None),
        (
            "v=DMARC1; p=reject; rua=MailTo:d@shop.test!10m".into(),
            None,
        ),
        (format!("v=DMARC1; p=rejekt; {end}"), Some(Level::Error)),
        (format!("v=DMARC1; {end}"), Some(Level::Error)),
        (
            format!("v=DMARC1; p=reject; sp=no; {end}"),
            Some(Level::Error),
        ),
        (format!("v=dmarc1; p=reject; {end}"), Some(Level::Error)),
        (
            format!("v=DMARC1; p=reject; adkim=strict; {end}"),
            Some(Level::Warn),
        ),
        (
            format!("v=DMARC1; p=reject; aspf=x; {end}"),
            Some(Level::Warn),
        ),
        (
            format!("v=DMARC1; p=reject; pct=101; {end}"),
            Some(Level::Warn),
        ),
        (
            format!("v=DMARC1; p=reject; np=no; {end}"),
            Some(Level::Warn),
        ),
        (
            format!("v=DMARC1; p=reject; {end},https://shop.test"),
            Some(Level::Warn),
        ),
    ] {
        let mut world = sound(name);
        world.txt("_dmarc.shop.test", &record);
        let judged = world.settle(|book| judge_domain(book, &wanted(name)));
        let bad = judged.findings.iter().filter(|f| f.level != Level::Ok);
        let bad: Vec<_> = bad.map(|f| (f.id, f.level)).collect();
        let expected = expected.map(|level| ("dmarc_syntax", level));
        assert_eq!(bad, Vec::from_iter(expected), "{record}");
    }
}

#[test]
fn dmarc_passes_by_a_signature_or_by_an_aligned_reverse_path_and_fails_without_either() {
    let name = "shop.test";
    let with_policy = |policy: &str| {
        let mut world = sound(name);
        world.txt("_dmarc.shop.test", policy);
        world
    };
    let relaxed = "v=DMARC1; p=reject; rua=mailto:d@shop.test";
    let strict = "v=DMARC1; p=reject; aspf=s; rua=mailto:d@shop.test";
    let mut unsigned = wanted(name);
    unsigned.keys[0].role = KeyRole::Pending;
    unsigned.keys[0].host = "other._domainkey.shop.test".into();
    let mut elsewhere = wanted(name);
    elsewhere.return_path = None;
    elsewhere.bounce_default = Some("ours.test".into());
    elsewhere.bounce_host = "ours.test".into();
    let as_submitted = DomainWanted {
        bounce_default: None,
        ..elsewhere.clone()
    };
    for (policy, wanted, expected) in [
        (relaxed, &wanted(name), &[][..]),
        (strict, &wanted(name), &["dmarc_spf_not_aligned"][..]),
        (relaxed, &unsigned, &["dkim_pending"]),
        (strict, &unsigned, &["dkim_pending", "dmarc_fails"]),
        (relaxed, &elsewhere, &["dmarc_spf_not_aligned"]),
        (relaxed, &as_submitted, &["return_path_none", "spf_missing"]),
    ] {
        assert_eq!(
            bad(&with_policy(policy), wanted),
            expected,
            "{policy} {wanted:?}"
        );
    }
    // What is not known fails nothing.
    let mut world = with_policy(strict);
    world.fail("other._domainkey.shop.test");
    unsigned.keys[0].role = KeyRole::Active;
    assert_eq!(bad(&world, &unsigned), ["dkim_unknown"]);
}

#[test]
fn a_record_that_fails_others_only_is_a_warning() {
    let name = "shop.test";
    for (record, expected) in [
        ("include:gone.test -all", "spf_no_target"),
        ("a:n1.test a:n2.test a:n3.test -all", "spf_void_lookups"),
        ("include:ours.test -all", "spf_loop"),
    ] {
        let mut world = sound(name);
        world.txt(
            "_dmarc.shop.test",
            "v=DMARC1; p=reject; rua=mailto:d@shop.test",
        );
        world.replace_txt(
            "ours.test",
            &format!("v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 {record}"),
        );
        let findings = world
            .settle(|book| judge_domain(book, &wanted(name)))
            .findings;
        let found: Vec<_> = findings.iter().filter(|f| f.level != Level::Ok).collect();
        assert_eq!(found.len(), 1, "{record}: {found:?}");
        assert_eq!((found[0].id, found[0].level), (expected, Level::Warn));
        assert!(worst(&findings) == Level::Warn);
    }
}

#[test]
fn addresses_that_nobody_sees_are_not_judged() {
    let mut wanted = wanted("shop.test");
    wanted.sources = vec![source("10.0.0.1"), source("fd00::1"), source("127.0.0.1")];
    let mut world = sound("shop.test");
    world.txt(
        "_dmarc.shop.test",
        "v=DMARC1; p=reject; rua=mailto:d@shop.test",
    );
    world.replace_txt("ours.test", "v=spf1 ip4:203.0.113.1 -all");
    assert_eq!(bad(&world, &wanted), [""; 0]);
    world.replace_txt("ours.test", "v=spf1 ip4:203.0.113 -all");
    assert_eq!(bad(&world, &wanted), ["spf_syntax"]);
    let source = SourceWanted {
        at: source("10.0.0.1"),
        zones: vec!["bl.test".into()],
    };
    let findings = world.settle(|book| judge_source(book, &source));
    assert_eq!(findings[0].id, "address_private");
    assert!(!world.asked().iter().any(|q| q.name.ends_with("bl.test")));
}

#[test]
fn every_id_is_there_once() {
    let mut ids = IDS.to_vec();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), IDS.len());
}

#[test]
fn an_ipv6_address_has_its_own_names_and_listings() {
    let wanted = SourceWanted {
        at: source("2001:db8::25"),
        zones: vec!["bl.test".into()],
    };
    let mut world = World::default();
    let ids = |world: &World| {
        let findings = world.settle(|book| judge_source(book, &wanted));
        findings.iter().map(|f| f.id).collect::<Vec<_>>()
    };
    // The name's IPv4 address is no answer.
    world.a("tx1.ours.test", "192.0.2.1");
    world.ptr("2001:db8::25", "tx1.ours.test");
    assert_eq!(
        ids(&world),
        [
            "ptr_not_confirmed",
            "ehlo_missing",
            "helo_spf_none",
            "dnsbl_ok"
        ]
    );
    world.a("tx1.ours.test", "2001:db8::25");
    world.txt("tx1.ours.test", "v=spf1 a -all");
    world.a(
        "5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.test",
        "127.0.0.2",
    );
    assert_eq!(
        ids(&world),
        ["ptr_ok", "ehlo_ok", "helo_spf_ok", "dnsbl_listed"]
    );
}
