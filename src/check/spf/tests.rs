//! Records of our own making, one for each rule of RFC 7208 that decides something.

use super::{Client, Outcome, Trouble, Verdict, evaluate, survey};
use crate::check::tests::World;

fn client<'a>(ip: &str, domain: &'a str) -> Client<'a> {
    Client {
        ip: ip.parse().unwrap(),
        helo: "mta.sender.test",
        local_part: "strong-bad",
        domain,
    }
}

fn verdict(world: &World, ip: &str, domain: &str) -> Verdict {
    world.settle(|book| evaluate(book, &client(ip, domain)))
}

/// The outcome for a record at `a.test`, in a world with some hosts and records.
fn outcome(record: &str, ip: &str) -> Outcome {
    let mut world = world();
    world.txt("a.test", record);
    verdict(&world, ip, "a.test").outcome
}

fn world() -> World {
    let mut world = World::default();
    world.a("a.test", "192.0.2.1");
    world.a("a.test", "2001:db8::1");
    world.a("host.test", "192.0.2.10");
    world.mx("a.test", 10, "mx1.test");
    world.mx("a.test", 20, "mx2.test");
    world.a("mx1.test", "192.0.2.21");
    world.a("mx2.test", "192.0.2.22");
    world.txt("pass.test", "v=spf1 ip4:192.0.2.30 -all");
    world.txt("soft.test", "v=spf1 ip4:192.0.2.31 ~all");
    world.txt("neutral.test", "v=spf1 ?all");
    world.txt("broken.test", "v=spf1 nonsense");
    world.ptr("192.0.2.40", "client.a.test");
    world.a("client.a.test", "192.0.2.40");
    world.ptr("192.0.2.41", "liar.a.test");
    world.a("liar.a.test", "192.0.2.99");
    world.fail("sick.test");
    world
}

#[test]
fn each_mechanism_matches_whom_it_names() {
    use Outcome::{Fail, Neutral, Pass, SoftFail};
    for (record, ip, expected) in [
        ("v=spf1", "192.0.2.1", Neutral),
        ("v=spf1 -all", "192.0.2.1", Fail),
        ("v=spf1 ~all", "192.0.2.1", SoftFail),
        ("v=spf1 ?all", "192.0.2.1", Neutral),
        ("v=SPF1 ALL", "192.0.2.1", Pass),
        ("v=spf1 ip4:192.0.2.0/25 -all", "192.0.2.127", Pass),
        ("v=spf1 ip4:192.0.2.0/25 -all", "192.0.2.128", Fail),
        ("v=spf1 ip4:0.0.0.0/0 -all", "203.0.113.1", Pass),
        ("v=spf1 ip4:192.0.2.1 -all", "2001:db8::1", Fail),
        ("v=spf1 ip4:192.0.2.1 -all", "::ffff:192.0.2.1", Pass),
        ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8:ffff::1", Pass),
        ("v=spf1 ip6:2001:db8::1 -all", "2001:db8::2", Fail),
        ("v=spf1 ip6:::/0 -all", "192.0.2.1", Fail),
        ("v=spf1 a -all", "192.0.2.1", Pass),
        ("v=spf1 a -all", "2001:db8::1", Pass),
        ("v=spf1 a/24 -all", "192.0.2.200", Pass),
        ("v=spf1 a//64 -all", "2001:db8::77", Pass),
        ("v=spf1 a//64 -all", "192.0.2.2", Fail),
        ("v=spf1 a:host.test/31//127 -all", "192.0.2.11", Pass),
        ("v=spf1 mx -all", "192.0.2.22", Pass),
        ("v=spf1 mx -all", "192.0.2.1", Fail),
        ("v=spf1 mx:a.test/28 -all", "192.0.2.16", Pass),
        ("v=spf1 ptr -all", "192.0.2.40", Pass),
        ("v=spf1 ptr -all", "192.0.2.41", Fail),
        ("v=spf1 ptr:b.test -all", "192.0.2.40", Fail),
        ("v=spf1 exists:host.test -all", "2001:db8::5", Pass),
        ("v=spf1 exists:nobody.test -all", "192.0.2.1", Fail),
        ("v=spf1 include:pass.test -all", "192.0.2.30", Pass),
        ("v=spf1 include:pass.test ~all", "192.0.2.31", SoftFail),
        ("v=spf1 -include:soft.test +all", "192.0.2.31", Fail),
        ("v=spf1 include:neutral.test -all", "192.0.2.1", Fail),
        ("v=spf1 redirect=soft.test", "192.0.2.32", SoftFail),
        ("v=spf1 redirect=soft.test ip4:192.0.2.9", "192.0.2.9", Pass),
        ("v=spf1 -all redirect=pass.test", "192.0.2.30", Fail),
        ("v=spf1 ?exists:host.test -all", "192.0.2.1", Neutral),
        ("v=spf1 unknown=%{i} -all exp=why.%{d}", "192.0.2.1", Fail),
    ] {
        assert_eq!(outcome(record, ip), expected, "{record} for {ip}");
    }
}

#[test]
fn a_record_that_is_wrong_anywhere_is_wrong_for_everybody() {
    for record in [
        "v=spf1 ip4:192.0.2.1 ip4:192.0.2.256 -all",
        "v=spf1 ip4:192.0.2.1 nonsense",
        "v=spf1 ip4:192.0.2.1/33",
        "v=spf1 ip4:192.0.2.1/024",
        "v=spf1 ip4",
        "v=spf1 ip6:2001:db8::1/129",
        "v=spf1 ip6:192.0.2.1",
        "v=spf1 all:a.test",
        "v=spf1 a:",
        "v=spf1 a/",
        "v=spf1 a/33",
        "v=spf1 a:test",
        "v=spf1 a:host.test.123",
        "v=spf1 a:host.test:25",
        "v=spf1 include",
        "v=spf1 exists",
        "v=spf1 mx:%{x}.test",
        "v=spf1 mx:%{d0}.test",
        "v=spf1 mx:%{d",
        "v=spf1 mx:%(d).test",
        "v=spf1 exists:%{c}.test",
        "v=spf1 redirect=soft.test redirect=soft.test",
        "v=spf1 exp=a.test exp=a.test",
        "v=spf1 ip4:192.0.2.1\tip4:192.0.2.2",
        "v=spf1 --all",
        "v=spf1 all=",
        "v=spf1 -",
        "v=spf1 a:grüße.test",
    ] {
        let outcome = outcome(record, "192.0.2.1");
        // A modifier of an unknown name is allowed, whatever it is called.
        let expected = match record {
            "v=spf1 all=" => Outcome::Neutral,
            _ => Outcome::PermError,
        };
        assert_eq!(outcome, expected, "{record}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let mut world = world();
    world.txt("two.test", "v=spf1 -all");
    world.txt("two.test", "v=spf1 +all");
    world.txt("beside.test", "v=spf10 +all");
    world.txt("beside.test", "something else");
    world.txt("beside.test", "v=spf1 ip4:192.0.2.1 -all");
    world.txt("loop1.test", "v=spf1 include:loop2.test -all");
    world.txt("loop2.test", "v=spf1 redirect=LOOP1.test");
    world.txt("gone.test", "v=spf1 include:nobody.test -all");
    world.txt("gone2.test", "v=spf1 redirect=nobody.test");
    world.txt("inner.test", "v=spf1 include:broken.test -all");
    world.txt("voids.test", "v=spf1 a:n1.test a:n2.test a:n3.test +all");
    world.txt("late.test", "v=spf1 include:sick.test +all");
    world.txt("early.test", "v=spf1 ip4:192.0.2.1 include:sick.test -all");
    let of = |domain: &str| {
        let verdict = verdict(&world, "192.0.2.1", domain);
        (verdict.outcome, verdict.trouble)
    };
    let perm = |trouble| (Outcome::PermError, Some(trouble));
    let text = str::to_owned;
    assert_eq!(of("nobody.test"), (Outcome::None, None));
    assert_eq!(of("test"), (Outcome::None, None));
    assert_eq!(of("bad..test"), (Outcome::None, None));
    assert_eq!(of("beside.test"), (Outcome::Pass, None));
    assert_eq!(
        of("two.test"),
        perm(Trouble::Several {
            domain: text("two.test")
        })
    );
    assert_eq!(
        of("loop1.test"),
        perm(Trouble::Loop {
            domain: text("loop1.test")
        })
    );
    for (domain, by) in [("gone.test", "gone.test"), ("gone2.test", "gone2.test")] {
        let trouble = Trouble::NoTarget {
            domain: text(by),
            target: text("nobody.test"),
        };
        assert_eq!(of(domain), perm(trouble));
    }
    assert_eq!(
        of("inner.test"),
        perm(Trouble::Syntax {
            domain: text("broken.test"),
            term: text("nonsense")
        })
    );
    assert_eq!(of("voids.test"), perm(Trouble::VoidLookups));
    assert_eq!(of("late.test").0, Outcome::TempError);
    assert_eq!(of("early.test"), (Outcome::Pass, None));
}

#[test]
fn ten_terms_may_ask_and_the_eleventh_fails_wherever_it_stands() {
    let mut world = world();
    for n in 0..12 {
        world.a(&format!("h{n}.test"), "198.51.100.1");
    }
    let terms = |n: usize| (0..n).map(|n| format!(" a:h{n}.test")).collect::<String>();
    world.txt(
        "ten.test",
        &format!("v=spf1{} ip4:192.0.2.1 -all", terms(10)),
    );
    world.txt(
        "eleven.test",
        &format!("v=spf1{} ip4:192.0.2.1 -all", terms(11)),
    );
    world.txt("five.test", &format!("v=spf1{} -all", terms(5)));
    world.txt(
        "nested.test",
        "v=spf1 include:five.test include:five.test ip4:192.0.2.1 -all",
    );
    world.txt(
        "edge.test",
        &format!("v=spf1 include:five.test{} ip4:192.0.2.1 -all", terms(4)),
    );
    world.txt(
        "first.test",
        &format!("v=spf1 ip4:192.0.2.1{} -all", terms(11)),
    );
    let of = |domain: &str| verdict(&world, "192.0.2.1", domain);
    assert_eq!(of("ten.test").outcome, Outcome::Pass);
    assert_eq!(of("eleven.test").trouble, Some(Trouble::Lookups));
    assert_eq!(of("nested.test").trouble, Some(Trouble::Lookups));
    assert_eq!(
        (of("edge.test").outcome, of("edge.test").lookups),
        (Outcome::Pass, 10)
    );
    assert_eq!(of("first.test").outcome, Outcome::Pass);
    let seen = world.settle(|book| survey(book, &client("192.0.2.1", "first.test")));
    assert_eq!(seen.unwrap().lookups, 11);

    for n in 0..11 {
        world.mx("many.test", n, &format!("h{n}.test"));
    }
    world.txt("many.test", "v=spf1 mx +all");
    let many = verdict(&world, "192.0.2.1", "many.test");
    assert_eq!(
        many.trouble,
        Some(Trouble::Exchanges {
            domain: "many.test".into()
        })
    );
}

#[test]
fn macros_are_written_out_as_the_rfc_says() {
    for (name, ip, expected) in [
        ("%{i}.x.test", "192.0.2.3", "192.0.2.3.x.test"),
        ("%{ir}.%{v}.x.test", "192.0.2.3", "3.2.0.192.in-addr.x.test"),
        (
            "%{s}.x.test",
            "192.0.2.3",
            "strong-bad@email.example.test.x.test",
        ),
        ("%{l}.x.test", "192.0.2.3", "strong-bad.x.test"),
        ("%{l-}.x.test", "192.0.2.3", "strong.bad.x.test"),
        ("%{lr-}.x.test", "192.0.2.3", "bad.strong.x.test"),
        ("%{l1r-}.x.test", "192.0.2.3", "strong.x.test"),
        ("%{o2}.x.test", "192.0.2.3", "example.test.x.test"),
        ("%{dr}.x.test", "192.0.2.3", "test.example.email.x.test"),
        ("%{d1}.x.test", "192.0.2.3", "test.x.test"),
        ("%{d99}.x.test", "192.0.2.3", "email.example.test.x.test"),
        ("%{h}.x.test", "192.0.2.3", "mta.sender.test.x.test"),
        ("%{p}.x.test", "192.0.2.3", "unknown.x.test"),
        ("a%%b%-c.x.test", "192.0.2.3", "a%b%20c.x.test"),
        (
            "%{ir}.%{v}.x.test",
            "2001:db8::cb01",
            "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.x.test",
        ),
    ] {
        let mut world = World::default();
        world.txt("email.example.test", &format!("v=spf1 exists:{name} -all"));
        world.a(expected, "127.0.0.2");
        let verdict = verdict(&world, ip, "email.example.test");
        assert_eq!(
            verdict.outcome,
            Outcome::Pass,
            "{name}: {:?}",
            world.asked()
        );
    }
    // The right end stays of what is too long.
    let mut world = World::default();
    let label = "a".repeat(60);
    world.txt(
        "b.test",
        &format!("v=spf1 exists:xx.yy.{label}.{label}.{label}.{label}.%{{d}} -all"),
    );
    world.a(
        &format!("yy.{label}.{label}.{label}.{label}.b.test"),
        "127.0.0.2",
    );
    assert_eq!(
        verdict(&world, "192.0.2.1", "b.test").outcome,
        Outcome::Pass
    );
    // A confirmed name of the domain comes before others.
    let mut world = World::default();
    world.txt("b.test", "v=spf1 exists:%{p}.ok.test -all");
    world.ptr("192.0.2.1", "other.example");
    world.ptr("192.0.2.1", "mail.b.test");
    world.a("other.example", "192.0.2.1");
    world.a("mail.b.test", "192.0.2.1");
    world.a("mail.b.test.ok.test", "127.0.0.2");
    assert_eq!(
        verdict(&world, "192.0.2.1", "b.test").outcome,
        Outcome::Pass
    );
}

#[test]
fn a_record_made_to_hurt_costs_little() {
    let mut world = World::default();
    let long = "%{s}%{i}%{h}".repeat(800);
    world.txt("long.test", &format!("v=spf1 exists:{long}.x.test -all"));
    world.txt(
        "wide.test",
        &format!("v=spf1 {}-all", "ip4:192.0.2.1 ".repeat(700)),
    );
    world.txt("deep.test", "v=spf1 include:%{l}.%{d} -all");
    for (domain, expected) in [("long.test", Outcome::Fail), ("wide.test", Outcome::Pass)] {
        assert_eq!(verdict(&world, "192.0.2.1", domain).outcome, expected);
    }
    assert_eq!(
        verdict(&world, "192.0.2.1", "deep.test").outcome,
        Outcome::PermError
    );
    // Each domain includes the next two: a tree that the limit cuts.
    for n in 0..40 {
        let record = format!(
            "v=spf1 include:t{}.test include:t{}.test -all",
            n + 1,
            n + 2
        );
        world.txt(&format!("t{n}.test"), &record);
    }
    let asked = world.asked().len();
    let verdict = verdict(&world, "192.0.2.1", "t0.test");
    assert_eq!(verdict.trouble, Some(Trouble::Lookups));
    assert!(world.asked().len() - asked <= 12);
    let seen = world.settle(|book| survey(book, &client("192.0.2.1", "t0.test")));
    assert_eq!(seen.unwrap().lookups, 31);
}

#[test]
fn what_is_bad_for_everybody_is_found_though_our_own_address_passes() {
    let seen = |record: &str| {
        let mut world = world();
        world.txt("b.test", record);
        world.txt("open.test", "v=spf1 all");
        world.settle(|book| survey(book, &client("192.0.2.1", "b.test")))
    };
    let all = |record: &str| seen(record).unwrap().allows_all;
    assert!(all("v=spf1 ip4:192.0.2.1 +all").is_some());
    assert!(all("v=spf1 ip4:192.0.2.1 ip4:0.0.0.0/0 -all").is_some());
    assert!(
        all("v=spf1 include:open.test -all")
            .unwrap()
            .contains("open.test")
    );
    assert_eq!(all("v=spf1 ?include:open.test -all"), None);
    assert_eq!(all("v=spf1 ip4:192.0.2.1 -all"), None);
    assert_eq!(all("v=spf1 ip4:192.0.2.1 -all +all"), None);
    assert!(seen("v=spf1 ip4:192.0.2.1").unwrap().no_end);
    assert!(!seen("v=spf1 redirect=pass.test").unwrap().no_end);
    assert!(seen("v=spf1 redirect=beside.test").is_err());
    assert!(seen("v=spf1 ip4:192.0.2.1 ptr -all").unwrap().ptr.is_some());
    assert!(seen("v=spf1 ip4:192.0.2.1 include:broken.test -all").is_err());
}

#[test]
fn a_name_that_is_too_long_is_cut_between_its_characters() {
    let mut world = world();
    world.txt("a.test", "v=spf1 exists:%{l}%{l}.%{l}.b.test -all");
    for before in 0..5 {
        let local_part = format!("{}{}", "x".repeat(before), "ü€.".repeat(200));
        let client = Client {
            local_part: &local_part,
            ..client("192.0.2.1", "a.test")
        };
        let verdict = world.settle(|book| evaluate(book, &client));
        assert_eq!(verdict.outcome, Outcome::Fail, "{before}");
    }
}
