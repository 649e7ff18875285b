//! Rules against the replies beside them, against a corpus, and against what they may not do.

use std::path::Path;

use super::*;
use crate::config::{Config, ConfigError};
use crate::mail::EnhancedStatus;

fn shipped() -> Rules {
    Rules::shipped(&Config::development(None).shaping).unwrap_or_else(|e| panic!("{e}"))
}

fn with(text: &str) -> Result<Rules, ConfigError> {
    let shaping = Config::development(None).shaping;
    let texts = [(Path::new("mine.toml"), text)];
    Rules::compile(texts.into_iter(), &shaping)
}

/// Judges `reply` by the rules of `text`.
fn judged(text: &str, stage: Stage, host: &str, reply: &str) -> Finding {
    let rules = with(text).unwrap_or_else(|e| panic!("{e}"));
    let reply = recorded(reply);
    let evidence = Evidence {
        stage: Some(stage),
        reply: &reply,
        host,
        shared: false,
    };
    judge(Some(&rules), &evidence)
}

#[test]
fn every_shipped_rule_judges_the_replies_beside_it_as_it_says() {
    let rules = shipped();
    let failing: Vec<String> = rules
        .failing()
        .iter()
        .map(|failed| {
            let (fixture, found) = (failed.fixture, &failed.found);
            format!(
                "{}: {:?}\n  expected {}\n  found {found}",
                fixture.place, fixture.reply, fixture.expected
            )
        })
        .collect();
    assert!(failing.is_empty(), "{}", failing.join("\n"));
    for rule in rules.iter() {
        let tried = rules.fixtures().iter();
        let tried = tried
            .filter(|f| f.owner.as_ref() == Some(&rule.name))
            .count();
        assert!(tried > 0, "no test beside rule {}", rule.name);
    }
}

/// Replies as providers say them, in our words after the reference, each with what it must come to on all four axes, and why.
#[test]
fn providers_replies_are_judged_as_argued() {
    let text = include_str!("corpus.toml");
    assert_eq!(
        text.matches("[[reply]]").count(),
        text.matches("\nwhy = ").count()
    );
    let shaping = Config::development(None).shaping;
    let shipped = include_str!("rules.toml");
    let texts =
        [("corpus.toml", text), ("shipped", shipped)].map(|(name, text)| (Path::new(name), text));
    let rules = Rules::compile(texts.into_iter(), &shaping).unwrap_or_else(|e| panic!("{e}"));
    let corpus: Vec<_> = rules
        .fixtures()
        .iter()
        .filter(|f| f.owner.is_none())
        .collect();
    assert!(corpus.len() >= 150, "{}", corpus.len());
    let mut wrong = String::new();
    for fixture in corpus {
        let expected = &fixture.expected;
        let complete = expected.rule.is_some()
            && expected.outcome.is_some()
            && expected.cause.is_some()
            && expected.reach.is_some()
            && expected.reaction.is_some();
        assert!(complete, "{}: an axis is missing", fixture.place);
        if rules
            .failing()
            .iter()
            .any(|failed| std::ptr::eq(failed.fixture, fixture))
        {
            let found = fixture.judge(&rules);
            wrong += &format!(
                "{}: {:?}\n  expected {expected}\n  found {found}\n",
                fixture.place, fixture.reply
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_rule_bounces_nobody_before_mail_and_makes_no_4yz_final_by_itself() {
    let hard = r#"
        [[rule]]
        name = "r"
        text = ["gone"]
        cause = "recipient-unknown"
        scope = "recipient"
        reaction = "hard"
    "#;
    let check = |stage, reply, expected: &str| {
        assert_eq!(
            judged(hard, stage, "mx.example.com", reply).outcome(),
            expected,
            "{reply} at {stage}"
        );
    };
    check(Stage::Rcpt, "550 gone", "suppressed");
    check(Stage::Rcpt, "450 gone", "deferred");
    check(Stage::Banner, "554 gone", "deferred");
    check(Stage::Ehlo, "550 gone", "deferred");
    check(Stage::Mail, "550 gone", "bounced");
    let forced = hard.replace("[[rule]]", "[[rule]]\nforce = \"bounce\"");
    assert_eq!(
        judged(&forced, Stage::Rcpt, "", "450 gone").outcome(),
        "suppressed"
    );
    assert_eq!(
        judged(&forced, Stage::Banner, "", "421 gone").outcome(),
        "deferred"
    );
    let retried = hard.replace("[[rule]]", "[[rule]]\nforce = \"retry\"");
    let found = judged(&retried, Stage::Rcpt, "", "550 gone");
    assert_eq!(
        (found.outcome(), found.reaction),
        ("deferred", Reaction::Retry)
    );
}

#[test]
fn a_recipient_waits_as_long_as_his_rule_says_and_ten_minutes_where_the_path_is_meant() {
    let rule = |scope: &str| {
        format!(
            "[[rule]]\nname = \"r\"\ntext = [\"slow\"]\ncause = \"rate-limited\"\nscope = \"{scope}\"\nreaction = \"backoff\"\nwait = \"2h\"\n"
        )
    };
    for (scope, minutes) in [("recipient", 120), ("source-ip", 10), ("dkim-domain", 10)] {
        let found = judged(&rule(scope), Stage::Rcpt, "", "450 slow down");
        assert_eq!(
            found.wait,
            Some(Duration::from_secs(minutes * 60)),
            "{scope}"
        );
        let last = judged(&rule(scope), Stage::Rcpt, "", "550 slow down");
        assert_eq!(last.wait, None);
    }
}

#[test]
fn what_a_reply_says_of_several_recipients_suppresses_none_of_them() {
    let rules = shipped();
    let reply = recorded("550 5.1.1 user unknown");
    for (shared, expected) in [(true, "bounced"), (false, "suppressed")] {
        let evidence = Evidence {
            stage: Some(Stage::Content),
            reply: &reply,
            host: "",
            shared,
        };
        assert_eq!(judge(Some(&rules), &evidence).outcome(), expected);
        assert_eq!(judge(None, &evidence).outcome(), expected);
    }
}

#[test]
fn nobody_is_suppressed_for_what_is_said_of_us() {
    let rules = shipped();
    for rule in rules.iter() {
        let suppresses = rule.reaction == Reaction::Hard;
        assert!(
            !suppresses || rule.class.is_the_recipients(),
            "{}",
            rule.name
        );
    }
    // Whatever the table makes of any status and code at any stage.
    for code in [
        421, 450, 451, 452, 500, 501, 521, 550, 551, 552, 553, 554, 556, 571,
    ] {
        for subject in 0..9 {
            for detail in 0..40 {
                let status = EnhancedStatus::new(5, subject, detail);
                let reply = Reply::new(code, Some(status), "no");
                for stage in [Stage::Banner, Stage::Mail, Stage::Rcpt, Stage::Content] {
                    let evidence = Evidence {
                        stage: Some(stage),
                        reply: &reply,
                        host: "",
                        shared: false,
                    };
                    let found = judge(None, &evidence);
                    assert!(
                        !found.suppresses()
                            || found.class.is_the_recipients()
                                && stage >= Stage::Rcpt
                                && code >= 500,
                        "{reply} at {stage}"
                    );
                    assert!(
                        !found.last || stage >= Stage::Mail && code >= 500,
                        "{reply} at {stage}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_a_rule_may_not_do_is_refused_with_file_line_and_name() {
    let check = |text: &str, expected: &str| {
        let told = with(text).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(told.contains(expected), "{text}\n{told}");
    };
    let rule = |rest: &str| {
        format!("[[rule]]\nname = \"r\"\ncause = \"reputation\"\nscope = \"source-ip\"\n{rest}")
    };
    check(
        &rule("reaction = \"hard\"\ntext = [\"bad\"]"),
        "mine.toml:1: rule `r`: reaction \"hard\" suppresses the recipient, and cause \"reputation\" is not the recipient's",
    );
    check(
        &rule("reaction = \"backoff\""),
        "mine.toml:1: rule `r`: has neither text, status nor code",
    );
    check(
        &rule("reaction = \"bounce\"\nstatus = [\"4.7.1\"]\nforce = \"bounce\""),
        "needs a text to know it by",
    );
    check(
        &rule("reaction = \"explode\"\ntext = [\"bad\"]"),
        "`explode` is no reaction",
    );
    check(
        &rule("reaction = \"retry\"\ntext = [\"bad\"]\nprovider = [\"nobody\"]"),
        "mine.toml:7: rule `r`: no provider is called `nobody`",
    );
    check(
        &rule("reaction = \"retry\"\ntext = [\"bad\"]\nstatus = [\"5.7\"]"),
        "mine.toml:7: rule `r`: `5.7` is no status",
    );
    check(
        &rule("reaction = \"retry\"\ntext = [\"bad\"]\nwait = \"3d\""),
        "wait must be a day at most",
    );
    check(
        &rule("reaction = \"retry\"\ntext = [\"bad\"]\ncolour = \"red\""),
        "unknown key `colour`",
    );
    check(
        &rule("reaction = \"retry\"\ntext = [\"*\"]"),
        "two characters at least",
    );
    check("[[rule]]\ntext = [\"bad\"]", "name is missing");
    let twice = rule("reaction = \"retry\"\ntext = [\"bad\"]\n");
    check(
        &format!("{twice}\n{twice}"),
        "mine.toml:8: rule `r` stands at mine.toml:1 already",
    );
    check("[[rule", "not valid TOML");
}

#[test]
fn pieces_follow_one_another_and_rules_are_asked_in_their_order() {
    let text = r#"
        [[rule]]
        name = "first"
        text = ["aba*bab", "xx * xx*yy"]
        not = ["stop"]
        cause = "virus"
        scope = "message"
        reaction = "bounce"
        [[rule]]
        name = "second"
        code = ["55"]
        cause = "expired"
        scope = "message"
        reaction = "bounce"
        [[rule]]
        name = "third"
        text = ["bab"]
        cause = "dns"
        scope = "message"
        reaction = "bounce"
    "#;
    let check = |reply: &str, expected: &str| {
        let found = judged(text, Stage::Rcpt, "", reply);
        assert_eq!(&*found.rule, expected, "{reply}");
    };
    check("550 aba bab", "first");
    check("500-A\n500-ABA and\n500 BaB", "first");
    check("554-ABA\n554  BaB", "first");
    check("550 abab", "second");
    check("540 abab", "third");
    check("540 bab aba", "third");
    check("540 aba bab but stop", "third");
    check("540 xx and xx or yy", "first");
    check("540 xx and yy", "stage");
    check("550 whatever", "second");
}

#[test]
fn an_operators_rule_of_the_same_name_takes_the_shipped_ones_place() {
    let mine = r#"
        [[rule]]
        name = "greylisted"
        text = ["greylist"]
        cause = "greylisted"
        scope = "recipient"
        reaction = "retry"
        wait = "20m"
    "#;
    let shaping = Config::development(None).shaping;
    let texts = [("mine.toml", mine), ("shipped", include_str!("rules.toml"))];
    let texts = texts.map(|(name, text)| (Path::new(name), text));
    let rules = Rules::compile(texts.into_iter(), &shaping).unwrap();
    assert!(rules.failing().is_empty());
    let reply = recorded("451 4.7.1 Greylisted");
    let evidence = Evidence {
        stage: Some(Stage::Rcpt),
        reply: &reply,
        host: "",
        shared: false,
    };
    assert_eq!(
        judge(Some(&rules), &evidence).wait,
        Some(Duration::from_secs(1_200))
    );
}

#[test]
fn wordings_differ_by_what_is_said_and_not_by_whom_or_when() {
    for (reply, pattern) in [
        (
            "550 5.1.1 <ada@example.com>: unknown (id 4f3a99c2)",
            "550 5.1.1 <ADDRESS>: unknown (id ID)",
        ),
        (
            "421 mx1.example.com busy, 17 of 20 from 192.0.2.7",
            "421 HOST busy, N of N from IP",
        ),
        (
            "554 see https://example.com/why?x=1 please",
            "554 see URL please",
        ),
    ] {
        assert_eq!(clusters::masked(reply), pattern);
    }
    let mut found = Clusters::default();
    for n in 0..500_u64 {
        let sample = Sample {
            event: n,
            host: "mx.example.com".into(),
            stage: "rcpt".into(),
            reply: format!(
                "550 5.9.9 user{n}@example.com is no friend of 192.0.2.{} (session {n:08x}-77)",
                n % 250
            ),
        };
        found.add(1_000 + n, sample);
    }
    let clusters = found.into_sorted();
    assert_eq!(
        clusters.len(),
        1,
        "{:?}",
        clusters.iter().map(|c| &c.pattern).collect::<Vec<_>>()
    );
    assert_eq!(
        (
            clusters[0].count,
            clusters[0].first,
            clusters[0].last,
            clusters[0].samples.len()
        ),
        (500, 1_000, 1_499, 3)
    );
}

#[test]
fn every_bounce_type_has_the_code_of_the_reference() {
    let of = |cause, temporary| BounceType::of(cause, temporary).code();
    assert_eq!(of(CauseClass::RecipientUnknown, false), 1);
    assert_eq!(of(CauseClass::RecipientFull, true), 2);
    assert_eq!(of(CauseClass::DmarcPolicy, false), 100_009);
    assert_eq!(of(CauseClass::SubmissionRefused, false), 100_007);
    let mut codes: Vec<u32> = BounceType::ALL.iter().map(|of| of.code()).collect();
    codes.dedup();
    assert_eq!(codes.len(), 22);
}
