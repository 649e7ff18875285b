//! Hosts that refuse, vanish, talk nonsense or take their time.

use super::*;

#[tokio::test]
async fn a_host_that_refuses_connections_defers() {
    let host = Host::plays(&[]).await;
    let Host { address, task } = host;
    task.await.unwrap();
    let host = Host {
        address,
        task: tokio::spawn(async { Vec::new() }),
    };
    let report = check_hosts(
        &[&host],
        2,
        &[NET, NET],
        "failed SiteFromSource: mx0.test [*",
    )
    .await;
    assert!(report.remote.is_some());
}

#[tokio::test]
async fn a_host_that_closes_before_the_dot_defers() {
    for script in [
        ["!close"],
        ["> 220 hi
          !close"],
        ["> 220 hi
          < EHLO
          !close"],
        ["> 220 hi
          < EHLO
          > 250 mx
          < MAIL
          !close"],
        ["> 220 hi
          < EHLO
          > 250 mx
          < MAIL
          > 250 ok
          < RCPT
          !close"],
        ["> 220 hi
          < EHLO
          > 250 mx
          < MAIL
          > 250 ok
          < RCPT
          > 250 ok
          < DATA
          !reset"],
        ["> 220 hi
          !reset"],
    ] {
        let script: &'static [&'static str] = Box::leak(Box::new(script));
        check_script(script, NET, "failed SiteFromSource: *").await;
    }
}

#[tokio::test]
async fn an_answer_lost_after_the_final_dot_is_ambiguous() {
    for end in ["!close", "!reset", "!hold"] {
        let script = format!(
            "> 220 hi
             < EHLO
             > 250-mx
             > 250 PIPELINING
             < MAIL
             < RCPT
             < RCPT
             < DATA
             > 250 ok
             > 250 ok
             > 550 5.1.1 no
             > 354 go
             <.
             {end}"
        );
        let script: &'static str = Box::leak(script.into_boxed_str());
        let host = Host::plays(Box::leak(Box::new([script]))).await;
        let expected = [
            "ambiguous network",
            "bounced Recipient recipient-unknown (550 5.1.1 no)",
        ];
        check_hosts(&[&host], 2, &expected, "failed Message: *").await;
        host.task.await.unwrap();
    }
}

#[tokio::test]
async fn every_refusal_has_its_outcome() {
    let check = async |answers: &str, expected: &str, state: &str| {
        let rest = "!hold";
        let script = format!("{answers}\n{rest}");
        let script: &'static str = Box::leak(script.into_boxed_str());
        let host = Host::plays(Box::leak(Box::new([script]))).await;
        check_hosts(&[&host], 1, &[expected], state).await;
        host.task.abort();
    };
    let path = "failed SiteFromSource: mx0.test *";
    check(
        "> 421 4.3.2 busy",
        "deferred SiteFromSource remote-system (421 4.3.2 busy)",
        path,
    )
    .await;
    check(
        "> 554 5.7.1 blocked",
        "deferred SiteFromSource reputation (554 5.7.1 blocked)",
        path,
    )
    .await;
    check(
        "> 521 no mail here",
        "bounced Site domain-no-mail (521 no mail here)",
        "failed Site: mx0.test *",
    )
    .await;
    let ehlo = "> 220 hi\n< EHLO";
    check(
        &format!("{ehlo}\n> 550 5.7.1 blocked"),
        "deferred SiteFromSource reputation (550 5.7.1 blocked)",
        path,
    )
    .await;
    let mail = format!("{ehlo}\n> 250 mx\n< MAIL");
    check(
        &format!("{mail}\n> 451 4.3.0 later"),
        "deferred Message remote-system (451 4.3.0 later)",
        "idle",
    )
    .await;
    check(
        &format!("{mail}\n> 550 5.1.8 no"),
        "bounced Message sender-invalid (550 5.1.8 no)",
        "idle",
    )
    .await;
    check(
        &format!("{mail}\n> 421 4.7.0 enough"),
        "deferred SiteFromSource reputation (421 4.7.0 enough)",
        "failed SiteFromSource: *",
    )
    .await;
    let rcpt = format!("{mail}\n> 250 ok\n< RCPT");
    check(
        &format!("{rcpt}\n> 450 4.2.2 full"),
        "deferred Recipient recipient-full (450 4.2.2 full)",
        "idle",
    )
    .await;
    let data = format!("{rcpt}\n> 250 ok\n< DATA");
    check(
        &format!("{data}\n> 554 5.6.0 no"),
        "bounced Message content-policy (554 5.6.0 no)",
        "idle",
    )
    .await;
    let dot = format!("{data}\n> 354 go\n<.");
    check(
        &format!("{dot}\n> 452 4.3.1 full"),
        "deferred Message remote-system (452 4.3.1 full)",
        "idle",
    )
    .await;
    check(
        &format!("{dot}\n> 550 5.7.1 spam"),
        "bounced Message content-policy (550 5.7.1 spam)",
        "idle",
    )
    .await;
}

#[tokio::test]
async fn nonsense_is_a_temporary_failure() {
    let odd = "deferred SiteFromSource protocol";
    let state = "failed SiteFromSource: *";
    check_script(&["> hello, I am a web server"], odd, state).await;
    check_script(&["> 250 hi"], odd, state).await;
    check_script(&["!flood"], odd, state).await;
    check_script(&["> 220 hi\n < EHLO\n !drip"], odd, state).await;
    check_script(&["> 220 hi\n > 250 too early"], odd, state).await;
    check_script(
        &["> 220 hi\n < EHLO\n > 250 mx\n < MAIL\n > 354 odd"],
        odd,
        state,
    )
    .await;
    check_script(
        &["> 220 hi\n < EHLO\n > 250 mx\n < MAIL\n > 250-a\n > 550 b"],
        odd,
        state,
    )
    .await;
}

#[tokio::test]
async fn a_tarpit_is_left_in_time() {
    check_script(&["!hold"], NET, "failed SiteFromSource: *").await;
    check_script(&["> 220 hi\n !hold"], NET, "failed SiteFromSource: *").await;
    check_script(
        &["> 220 hi\n < EHLO\n > 250 mx\n !hold"],
        NET,
        "failed SiteFromSource: *",
    )
    .await;
    check_script(
        &["> 220 hi\n < EHLO\n > 250 mx\n < MAIL\n > 250-ok\n !hold"],
        NET,
        "failed SiteFromSource: *",
    )
    .await;
}

#[tokio::test]
async fn a_host_that_stops_reading_is_left_in_time() {
    let host = Host::plays(&["
        > 220 hi
        < EHLO
        > 250-mx
        > 250 PIPELINING
        < MAIL
        < RCPT
        < DATA
        > 250 ok
        > 250 ok
        > 354 go
        !stall"])
    .await;
    let mut run = Run::new();
    let (agent, _inbox) = run.spawn(Run::plan(&[&host], batch(4, 1)));
    let report = run.report().await;
    assert_eq!(all_shown(&report), ["deferred Message network"]);
    agent.await.unwrap();
    host.task.abort();
}
