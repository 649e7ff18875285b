//! `domain check` and `source check`: every way in which records are commonly broken is named, and nothing else is.

use serde_json::Value;

use crate::support::dns::Dns;
use crate::support::node::TestNode;
use crate::support::process::{Said, posthaste};

/// An address for documentation, so that it is public and nobody's.
const ADDRESS: &str = "192.0.2.10";
const SOURCE: &str = "ip = \"192.0.2.10\"";
const DOMAIN: &str = "shop.test";
const RETURN_PATH: &str = "pm-bounces.shop.test";
/// What Return-Path domains are aliases of: the node's hostname.
const OURS: &str = "mta.test";

async fn start(extra: &str) -> (Dns, TestNode) {
    let dns = Dns::start().await;
    let config = format!("[dns]\nservers = [\"{}\"]\n{extra}", dns.address);
    let node = TestNode::with_source(SOURCE, &config).await;
    (dns, node)
}

struct Shop {
    dns: Dns,
    node: TestNode,
    key_host: String,
    key: String,
}

/// A finding's id, level and advice.
type Findings = Vec<(String, String, String)>;

fn findings(said: &Said) -> Findings {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = said.json();
    let rows = rows.iter();
    rows.map(|row| (text(row, "id"), text(row, "level"), text(row, "advice")))
        .collect()
}

fn ids(findings: &Findings, bad_only: bool) -> Vec<&str> {
    let bad = findings.iter().filter(|f| !bad_only || f.1 != "ok");
    bad.map(|f| f.0.as_str()).collect()
}

impl Shop {
    /// A domain all of whose records are as they should be.
    async fn start() -> Self {
        let (dns, node) = start("").await;
        let dir = node.dir.path();
        let made = posthaste(dir, &format!("domain add {DOMAIN} --json")).await;
        let made = made.expect(0).object();
        let key = &made["dkim_pending"];
        let text = |key: &Value| key.as_str().unwrap().to_owned();
        let (key_host, key) = (text(&key["name"]), text(&key["text"]));
        let shop = Self {
            dns,
            node,
            key_host,
            key,
        };
        shop.publish();
        let verify = format!("domain verify {DOMAIN}");
        posthaste(shop.node.dir.path(), &verify).await.expect(0);
        shop
    }

    fn publish(&self) {
        let dns = &self.dns;
        dns.txt(&self.key_host, &self.key);
        dns.cname(RETURN_PATH, OURS);
        dns.mx(OURS, 10, "in.ours.test");
        dns.a("in.ours.test", ADDRESS);
        dns.txt(OURS, &format!("v=spf1 ip4:{ADDRESS} -all"));
        dns.txt(
            "_dmarc.shop.test",
            "v=DMARC1; p=reject; rua=mailto:d@shop.test",
        );
        dns.mx(DOMAIN, 10, "mx.shop.test");
        dns.a("mx.shop.test", "198.51.100.5");
    }

    async fn check(&self, code: i32) -> Findings {
        let command = format!("domain check {DOMAIN} --json");
        let said = posthaste(self.node.dir.path(), &command).await;
        findings(&said.expect(code))
    }

    /// Replaces the records of a name.
    fn replace(&self, name: &str, texts: &[&str]) {
        self.dns.remove(name);
        for text in texts {
            self.dns.txt(name, text);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_broken_in_any_usual_way_is_told_which() {
    let shop = Shop::start().await;
    let good = shop.check(0).await;
    let expected = [
        "dkim_ok",
        "return_path_ok",
        "spf_ok",
        "dmarc_ok",
        "mx_ok",
        "mta_sts_none",
        "tls_rpt_none",
        "mta_sts_none",
        "tls_rpt_none",
    ];
    assert_eq!(ids(&good, false), expected, "{good:#?}");

    let key = shop.key.as_str();
    let host = shop.key_host.as_str();
    let wrong = key.replacen("MIIBIjAN", "MIIBIjAM", 1);
    let ten: String = (0..11).map(|n| format!(" a:n{n}.ours.test")).collect();
    for n in 0..11 {
        shop.dns.a(&format!("n{n}.ours.test"), "198.51.100.9");
    }
    shop.dns.txt("loop.test", "v=spf1 include:loop.test -all");
    let of_spf = |rest: &str| format!("v=spf1 {rest}");
    let dmarc = "_dmarc.shop.test";
    // The name whose records are replaced, by what, and what is said then: without error after `!`.
    let broken: Vec<(&str, Vec<String>, &str)> = vec![
        (host, vec![], "dkim_missing"),
        (host, vec![wrong], "dkim_wrong_key"),
        (host, vec!["v=DKIM1; k=rsa; p=".into()], "dkim_revoked"),
        (host, vec![key.replace("; p=", " p=")], "dkim_syntax"),
        (host, vec![format!("{key}; p=AA==")], "dkim_syntax"),
        (
            host,
            vec![key.into(), key.replace("MII", "MIJ")],
            "dkim_several",
        ),
        (
            host,
            vec![key.replace("k=rsa", "k=ed25519")],
            "dkim_wrong_type",
        ),
        (host, vec![format!("h=sha1; {key}")], "dkim_hash"),
        (host, vec![format!("s=chat; {key}")], "dkim_service"),
        (host, vec![format!("t=y; {key}")], "!dkim_test_mode"),
        (OURS, vec![], "spf_missing return_path_dead_end"),
        (OURS, vec![of_spf("ip4:198.51.100.1 -all")], "spf_fail"),
        (OURS, vec![of_spf("~all")], "spf_softfail"),
        (OURS, vec![of_spf("?all")], "spf_neutral"),
        (OURS, vec![of_spf("+all")], "spf_allows_all"),
        (
            OURS,
            vec![of_spf("ip4:192.0.2.10 -all"), of_spf("-all")],
            "spf_several",
        ),
        (OURS, vec![of_spf("ip4:192.0.2.256 -all")], "spf_syntax"),
        (OURS, vec![of_spf(&format!("{ten} -all"))], "spf_lookups"),
        (
            OURS,
            vec![of_spf("a:v1.test a:v2.test a:v3.test ip4:192.0.2.10 -all")],
            "spf_void_lookups",
        ),
        (
            OURS,
            vec![of_spf("include:nothing.test -all")],
            "spf_no_target",
        ),
        (OURS, vec![of_spf("include:loop.test -all")], "spf_loop"),
        (OURS, vec![of_spf("ip4:192.0.2.10")], "!spf_no_end"),
        (OURS, vec![of_spf("ip4:192.0.2.10 ptr -all")], "!spf_ptr"),
        (
            OURS,
            vec![of_spf(&format!("ip4:192.0.2.10{ten} -all"))],
            "!spf_many_lookups",
        ),
        (dmarc, vec![], "!dmarc_missing"),
        (
            dmarc,
            vec!["v=DMARC1; p=reject".into(), "v=DMARC1; p=none".into()],
            "dmarc_several",
        ),
        (
            dmarc,
            vec!["v=DMARC1; p=rejected; rua=mailto:d@shop.test".into()],
            "dmarc_syntax",
        ),
        (dmarc, vec!["p=reject; v=DMARC1".into()], "dmarc_syntax"),
        (
            dmarc,
            vec!["v=DMARC1; p=none; rua=mailto:d@shop.test".into()],
            "!dmarc_policy_none",
        ),
        (
            dmarc,
            vec!["v=DMARC1; p=reject; pct=20; rua=mailto:d@shop.test".into()],
            "!dmarc_partial",
        ),
        (
            dmarc,
            vec!["v=DMARC1; p=reject".into()],
            "!dmarc_no_reports",
        ),
        (
            dmarc,
            vec!["v=DMARC1; p=reject; rua=mailto:d@other.test".into()],
            "!dmarc_reports_refused",
        ),
        (
            dmarc,
            vec!["v=DMARC1; p=reject; aspf=s; rua=mailto:d@shop.test".into()],
            "!dmarc_spf_not_aligned",
        ),
        (DOMAIN, vec!["no mail hosts here".into()], "mx_missing"),
        (RETURN_PATH, vec![], "return_path_missing"),
    ];
    let several: Vec<&str> = broken.iter().map(|(_, _, id)| *id).collect();
    assert!(several.len() > 20);
    for (name, texts, expected) in &broken {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        shop.replace(name, &texts);
        if *name == OURS && !expected.contains("dead_end") {
            shop.dns.mx(OURS, 10, "in.ours.test");
        }
        let code = if expected.starts_with('!') { 0 } else { 1 };
        let said = shop.check(code).await;
        for id in expected.trim_start_matches('!').split(' ') {
            assert!(
                ids(&said, true).contains(&id),
                "{name} {texts:?}: {said:#?}"
            );
        }
        let without_advice = said.iter().find(|f| f.1 != "ok" && f.2.is_empty());
        assert_eq!(without_advice, None);
        shop.dns.remove(name);
        // What was whole is put back; what others hold stays once.
        for whole in [
            shop.key_host.as_str(),
            RETURN_PATH,
            OURS,
            dmarc,
            DOMAIN,
            "in.ours.test",
            "mx.shop.test",
        ] {
            shop.dns.remove(whole);
        }
        shop.publish();
    }

    // Other kinds of records.
    shop.dns.remove(RETURN_PATH);
    shop.dns.cname(RETURN_PATH, "elsewhere.test");
    assert!(ids(&shop.check(1).await, true).contains(&"return_path_elsewhere"));
    shop.dns.remove(RETURN_PATH);
    shop.dns.mx(RETURN_PATH, 10, "in.ours.test");
    assert!(ids(&shop.check(1).await, true).contains(&"return_path_no_alias"));
    shop.dns.remove(RETURN_PATH);
    shop.dns.cname(RETURN_PATH, OURS);
    shop.dns.remove(DOMAIN);
    shop.dns.null_mx(DOMAIN);
    assert_eq!(ids(&shop.check(0).await, true), ["mx_null"]);
    shop.dns.remove(DOMAIN);
    shop.dns.mx(DOMAIN, 10, "gone.shop.test");
    assert_eq!(ids(&shop.check(1).await, true), ["mx_dangling"]);
    shop.dns.remove(DOMAIN);
    shop.dns.cname("alias.shop.test", "mx.shop.test");
    shop.dns.mx(DOMAIN, 10, "alias.shop.test");
    assert_eq!(ids(&shop.check(0).await, true), ["mx_alias"]);
    shop.dns.remove(DOMAIN);
    shop.dns.mx(DOMAIN, 10, "mx.shop.test");

    // A key by an alias is as good; one that leads nowhere is not.
    shop.dns.remove(host);
    shop.dns.cname(host, "key.provider.test");
    assert!(ids(&shop.check(1).await, true).contains(&"dkim_dangling"));
    shop.dns.txt("key.provider.test", key);
    assert!(ids(&shop.check(0).await, false).contains(&"dkim_alias"));

    let sts = format!("_mta-sts.{RETURN_PATH}");
    shop.dns.txt(&sts, "v=STSv1");
    assert_eq!(ids(&shop.check(1).await, true), ["mta_sts_syntax"]);
    shop.replace(&sts, &["v=STSv1; id=1;"]);
    assert_eq!(ids(&shop.check(1).await, true), ["mta_sts_no_host"]);
    // An address that is not the world's is not asked for the policy: nothing is known of it.
    shop.dns.a(&format!("mta-sts.{RETURN_PATH}"), "10.0.0.1");
    assert_eq!(
        ids(&shop.check(0).await, true),
        ["mta_sts_private", "tls_rpt_none"]
    );
    shop.dns.txt(
        &format!("_smtp._tls.{RETURN_PATH}"),
        "v=TLSRPTv1; rua=d@shop.test",
    );
    assert_eq!(
        ids(&shop.check(1).await, true),
        ["mta_sts_private", "tls_rpt_syntax"]
    );
    shop.replace(
        &format!("_smtp._tls.{RETURN_PATH}"),
        &["v=TLSRPTv1; rua=mailto:d@shop.test"],
    );
    assert_eq!(ids(&shop.check(0).await, true), ["mta_sts_private"]);
    shop.dns.remove(&sts);

    // For people.
    let text = posthaste(shop.node.dir.path(), "domain check shop.test").await;
    let text = text.expect(0).stdout;
    assert!(
        text.contains("ok       spf_ok") && text.ends_with("shop.test: 9 ok\n"),
        "{text}"
    );
    posthaste(shop.node.dir.path(), "domain check nobody.test")
        .await
        .expect(1);
    shop.node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_that_fails_makes_findings_unknown_and_never_missing() {
    let shop = Shop::start().await;
    for (name, id) in [
        (shop.key_host.as_str(), "dkim_unknown"),
        (RETURN_PATH, "return_path_unknown"),
        (RETURN_PATH, "spf_unknown"),
        ("_dmarc.shop.test", "dmarc_unknown"),
        (DOMAIN, "mx_unknown"),
        ("mx.shop.test", "mx_unknown"),
        ("_mta-sts.pm-bounces.shop.test", "mta_sts_unknown"),
        ("_smtp._tls.pm-bounces.shop.test", "tls_rpt_unknown"),
    ] {
        shop.dns.fail_for(name, true);
        let said = shop.check(0).await;
        let bad: Vec<_> = said.iter().filter(|f| f.1 != "ok").collect();
        assert!(bad.iter().any(|f| f.0 == id), "{name}: {said:#?}");
        assert!(bad.iter().all(|f| f.1 == "unknown"), "{name}: {said:#?}");
        shop.dns.fail_for(name, false);
    }
    shop.dns.fail(true);
    let said = shop.check(0).await;
    assert!(said.iter().all(|f| f.1 == "unknown"), "{said:#?}");
    shop.node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_made_to_hurt_cost_a_check_little() {
    let shop = Shop::start().await;
    let long = format!("v=spf1 {} -all", "ip4:198.51.100.1 ".repeat(590));
    assert!(long.len() > 10_000);
    shop.replace(OURS, &[&long]);
    shop.dns.mx(OURS, 10, "in.ours.test");
    assert!(ids(&shop.check(1).await, true).contains(&"spf_fail"));
    // A hundred records beside the one.
    shop.replace(OURS, &["v=spf1 ip4:192.0.2.10 -all"]);
    for n in 0..100 {
        shop.dns.txt(OURS, &format!("verification={n}"));
    }
    shop.dns.mx(OURS, 10, "in.ours.test");
    shop.check(0).await;
    // Aliases, fifty deep; and in a circle.
    for n in 0..50 {
        shop.dns
            .cname(&format!("c{n}.test"), &format!("c{}.test", n + 1));
    }
    shop.dns.remove(&shop.key_host);
    shop.dns.cname(&shop.key_host, "c0.test");
    let said = shop.check(1).await;
    assert!(
        ids(&said, true).iter().any(|id| id.starts_with("dkim_")),
        "{said:#?}"
    );
    shop.dns.remove(&shop.key_host);
    shop.dns.cname(&shop.key_host, &shop.key_host);
    let before = shop.dns.asked("");
    let command = format!("domain check {DOMAIN} --json");
    posthaste(shop.node.dir.path(), &command).await;
    let asked = shop.dns.asked("") - before;
    assert!(asked < 100, "{asked} questions");
    shop.node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_told_what_is_wrong_with_its_names_and_where_it_is_listed() {
    let zones = "[dnsbl]\nzones = [\"clean.test\", \"bl.test\"]\n";
    let (dns, node) = start(zones).await;
    let check = async |code| {
        let said = posthaste(node.dir.path(), "source check tx1 --json").await;
        findings(&said.expect(code))
    };
    let name = "tx1.test";
    let pointer = "10.2.0.192.in-addr.arpa";
    let good = || {
        dns.remove(pointer);
        dns.remove(name);
        dns.ptr(ADDRESS, name);
        dns.a(name, ADDRESS);
        dns.txt(name, "v=spf1 a -all");
    };
    good();
    let said = check(0).await;
    assert_eq!(
        ids(&said, false),
        ["ptr_ok", "ehlo_ok", "helo_spf_ok", "dnsbl_ok"],
        "{said:#?}"
    );

    dns.remove(pointer);
    assert_eq!(ids(&check(1).await, true), ["ptr_missing"]);
    dns.ptr(ADDRESS, "other.ours.test");
    assert_eq!(ids(&check(1).await, true), ["ptr_not_confirmed"]);
    dns.a("other.ours.test", ADDRESS);
    assert_eq!(ids(&check(0).await, true), ["ptr_other_name"]);
    dns.ptr(ADDRESS, name);
    assert_eq!(ids(&check(0).await, true), ["ptr_several"]);
    dns.remove(pointer);
    dns.ptr(ADDRESS, "192-0-2-10.dyn.isp.test");
    dns.a("192-0-2-10.dyn.isp.test", ADDRESS);
    assert_eq!(
        ids(&check(0).await, true),
        ["ptr_other_name", "ptr_generic"]
    );
    good();
    dns.remove(name);
    assert_eq!(
        ids(&check(1).await, true),
        ["ptr_not_confirmed", "ehlo_missing"]
    );
    dns.a(name, "192.0.2.99");
    assert_eq!(
        ids(&check(1).await, true),
        ["ptr_not_confirmed", "ehlo_elsewhere"]
    );
    good();
    dns.remove(name);
    dns.a(name, ADDRESS);
    dns.txt(name, "v=spf1 -all");
    assert_eq!(ids(&check(1).await, true), ["helo_spf_fails"]);
    good();

    dns.fail_for(pointer, true);
    assert_eq!(ids(&check(0).await, true), ["ptr_unknown"]);
    dns.fail_for(pointer, false);
    // What lists have said is kept for a while: nobody was asked again.
    assert_eq!(dns.asked("bl.test"), 1);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_refuses_or_lists_everybody_is_believed_nothing() {
    let zones = "[dnsbl]\nzones = [\"listing.test\", \"refusing.test\", \"dead.test\", \"sick.test\", \"wild.test\"]\n";
    let (dns, node) = start(zones).await;
    let at = |zone: &str| format!("10.2.0.192.{zone}");
    dns.a(&at("listing.test"), "127.0.0.4");
    dns.txt(
        &at("listing.test"),
        "seen at a trap, https://listing.test/?192.0.2.10",
    );
    dns.a(&at("refusing.test"), "127.255.255.254");
    dns.a(&at("dead.test"), "127.0.0.2");
    dns.a("1.0.0.127.dead.test", "127.0.0.2");
    dns.fail_for(&at("sick.test"), true);
    dns.a(&at("wild.test"), "198.51.100.80");
    let said = posthaste(node.dir.path(), "source check --json")
        .await
        .expect(1);
    let lists: Vec<(String, String, String)> = said
        .json()
        .iter()
        .filter(|row| row["id"].as_str().unwrap().starts_with("dnsbl"))
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            (text("id"), text("about"), text("found"))
        })
        .collect();
    let told: Vec<(&str, &str)> = lists.iter().map(|l| (l.0.as_str(), l.1.as_str())).collect();
    assert_eq!(
        told,
        [
            ("dnsbl_listed", "192.0.2.10 at listing.test"),
            ("dnsbl_refused", "192.0.2.10 at refusing.test"),
            ("dnsbl_broken", "192.0.2.10 at dead.test"),
            ("dnsbl_unknown", "192.0.2.10 at sick.test"),
            ("dnsbl_broken", "192.0.2.10 at wild.test"),
        ]
    );
    assert!(
        lists[0].2.contains("127.0.0.4") && lists[0].2.contains("seen at a trap"),
        "{lists:?}"
    );
    let text = posthaste(node.dir.path(), "source check tx1")
        .await
        .expect(1);
    assert!(
        text.stdout.contains("https://listing.test/?192.0.2.10"),
        "{}",
        text.stdout
    );
    posthaste(node.dir.path(), "source check nobody")
        .await
        .expect(1);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_translation_and_proxies_what_remote_hosts_see_is_judged() {
    let dns = Dns::start().await;
    let config = format!(
        "[dns]\nservers = [\"{}\"]\n[[pool]]\nname = \"more\"\nkind = \"transactional\"\nsources = [{{ name = \"hidden\", ip = \"127.0.0.2\" }}, {{ name = \"far\", ip = \"192.0.2.11\", ehlo = \"far.test\", proxy = \"socks5://127.0.0.1:9\" }}]\n",
        dns.address
    );
    let source = format!("ip = \"127.0.0.1\", public_ip = \"{ADDRESS}\"");
    let node = TestNode::with_source(&source, &config).await;
    let dir = node.dir.path();
    let check = async |words: &str, code| {
        findings(
            &posthaste(dir, &format!("{words} --json"))
                .await
                .expect(code),
        )
    };
    dns.ptr(ADDRESS, "tx1.test");
    dns.a("tx1.test", ADDRESS);
    let said = check("source check tx1", 0).await;
    assert_eq!(ids(&said, false), ["ptr_ok", "ehlo_ok", "helo_spf_none"]);
    let said = check("source check hidden", 0).await;
    assert_eq!(ids(&said, true), ["address_private"]);
    assert!(said[0].2.contains("public_ip"), "{said:?}");
    dns.ptr("192.0.2.11", "far.test");
    dns.a("far.test", "192.0.2.11");
    let said = check("source check far", 0).await;
    assert!(ids(&said, false).contains(&"address_by_proxy"), "{said:?}");
    assert_eq!(ids(&said, true), Vec::<&str>::new());

    // SPF has to permit what is seen, and says of whom it knows nothing.
    posthaste(dir, "domain add shop.test").await.expect(0);
    dns.cname(RETURN_PATH, OURS);
    dns.txt(OURS, "v=spf1 ip4:127.0.0.1 ip4:192.0.2.11 -all");
    dns.mx("shop.test", 10, "mx.shop.test");
    dns.a("mx.shop.test", "198.51.100.5");
    let said = check("domain check shop.test", 1).await;
    let refused: Vec<_> = said.iter().filter(|f| f.0 == "spf_fail").collect();
    assert!(
        refused.len() == 1 && refused[0].2.contains(ADDRESS),
        "{said:?}"
    );
    assert!(ids(&said, true).contains(&"spf_not_judged"), "{said:?}");
    let rows = posthaste(dir, "source ls --json").await.expect(0).json();
    assert_eq!(rows[0]["addresses"], serde_json::json!(["127.0.0.1"]));
    assert_eq!(rows[0]["public_addresses"], serde_json::json!([ADDRESS]));
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_is_an_event_and_what_the_dns_does_not_say_is_none() {
    let shop = Shop::start().await;
    shop.check(0).await;
    let host = shop.key_host.as_str();
    shop.dns.remove(host);
    shop.check(1).await;
    shop.check(1).await;
    // Nothing is told of these two.
    shop.dns.fail(true);
    shop.check(0).await;
    shop.dns.fail(false);
    shop.check(1).await;
    let shown = posthaste(shop.node.dir.path(), "domain show shop.test --json").await;
    let shown = shown.expect(0).object();
    let findings = shown["findings"].as_array().unwrap();
    let missing = format!("error dkim_missing TXT {host}");
    assert!(findings.contains(&missing.clone().into()), "{shown}");
    assert_eq!(shown["spf_verified"], true);
    let listed = posthaste(shop.node.dir.path(), "domain ls")
        .await
        .expect(0)
        .stdout;
    assert!(
        listed.contains("CHECK") && listed.contains("error"),
        "{listed}"
    );
    shop.dns.txt(host, &shop.key);
    shop.check(0).await;
    let told = shop.node.events_of("domain_changed", 2).await;
    assert!(
        told[0].detail.contains(&format!("found: {missing}")),
        "{told:?}"
    );
    assert!(
        told[1].detail.ends_with("nothing is wrong any more"),
        "{told:?}"
    );

    let source = "source check tx1";
    posthaste(shop.node.dir.path(), source).await.expect(1);
    posthaste(shop.node.dir.path(), source).await.expect(1);
    shop.dns.ptr(ADDRESS, "tx1.test");
    shop.dns.a("tx1.test", ADDRESS);
    posthaste(shop.node.dir.path(), source).await.expect(0);
    let told = shop.node.events_of("source_changed", 2).await;
    assert!(told[0].detail.contains("ptr_missing"), "{told:?}");
    assert!(
        told[1].detail.ends_with("nothing is wrong any more"),
        "{told:?}"
    );
    assert_eq!(shop.node.events_of("domain_changed", 2).await.len(), 2);
    let tail = posthaste(
        shop.node.dir.path(),
        "events tail --no-follow --kind domain_changed --json",
    )
    .await;
    let tail = tail.expect(0).json();
    assert_eq!(
        (tail.len(), &tail[0]["domain"]),
        (2, &"shop.test".into()),
        "{tail:?}"
    );
    posthaste(shop.node.dir.path(), "audit").await.expect(0);
    shop.node.node.stop().await;
}
