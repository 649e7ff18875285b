//! Batches behind each other on one connection, hosts that cannot take that, and recipients that break sessions.

use super::*;

const EHLO: &str = "> 220 hi\n< EHLO\n> 250-mx\n> 250-PIPELINING\n> 250-ENHANCEDSTATUSCODES\n";
const ONE: &str = "< MAIL\n< RCPT\n< BDAT 22 LAST\n< Subject: one\n<\n< .dot\n";
const TWO: &str = "< MAIL\n< RCPT\n< BDAT 18 LAST\n< Subject: two\n<\n<\n";
const TAKEN: &str = "> 250 2.1.0 m\n> 250 2.1.5 r\n> 250 2.0.0 taken\n";

fn script(parts: &[&str]) -> &'static [&'static str] {
    let script: &'static str = Box::leak(parts.concat().into_boxed_str());
    Box::leak(Box::new([script]))
}

fn chunked(parts: &[&str]) -> &'static [&'static str] {
    script(&[&[EHLO, "> 250 CHUNKING\n"], parts].concat())
}

fn pipelined(parts: &[&str]) -> &'static [&'static str] {
    script(&[&[EHLO, "> 250 8BITMIME\n"], parts].concat())
}

/// Proves the host with one message, then hands it two more at once.
async fn two_more(host: &Host, first: u64) -> (Run, JoinHandle<()>, mpsc::Sender<Errand>) {
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(&[host], batch(1, 1)));
    let report = run.report().await;
    assert_eq!(all_shown(&report).len(), 1);
    assert!(report.runs_ahead && report.state == SessionState::Idle);
    inbox.send(batch(first, 1).into()).await.unwrap();
    inbox.send(batch(2, 1).into()).await.unwrap();
    (run, agent, inbox)
}

#[tokio::test]
async fn the_next_batch_leaves_before_the_first_is_answered_and_each_has_its_report() {
    let parts = [
        ONE,
        TAKEN,
        ONE,
        "< RSET\n",
        TWO,
        TAKEN,
        "> 250 2.0.0 reset\n",
    ];
    let last = "> 250 2.1.0 m\n> 550 5.1.1 no\n> 503 5.5.1 none\n< QUIT\n> 221 bye";
    let host = Host::plays(chunked(&[&parts[..], &[last]].concat())).await;
    let (mut run, agent, inbox) = two_more(&host, 1).await;
    let first = run.report().await;
    assert_eq!(all_shown(&first), ["delivered (250 2.0.0 taken)"]);
    assert_eq!(first.state, SessionState::Idle);
    let second = run.report().await;
    let refused = "bounced Recipient recipient-unknown (550 5.1.1 no)";
    assert_eq!(all_shown(&second), [refused]);
    drop(inbox);
    agent.await.unwrap();
    host.task.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_dies_makes_ambiguous_only_what_was_sent() {
    let host = Host::plays(chunked(&[ONE, TAKEN, ONE, "< RSET\n", TWO, "!close"])).await;
    let (mut run, agent, _inbox) = two_more(&host, 1).await;
    let last = run.report().await;
    assert_eq!(all_shown(&last), ["ambiguous network", "ambiguous network"]);
    assert!(matches!(
        last.state,
        SessionState::Closed { failure: Some(_) }
    ));
    let sign = last.sign.unwrap();
    assert_eq!((sign.habit, sign.certain), (Habit::Ahead, false));
    agent.await.unwrap();

    let envelope = "< MAIL\n< RCPT\n< DATA\n> 250 m\n> 250 r\n> 354 go\n";
    let next = "<.\n< MAIL\n< RCPT\n< DATA\n!close";
    let host = Host::plays(pipelined(&[envelope, "<.\n> 250 taken\n", envelope, next])).await;
    let (mut run, agent, _inbox) = two_more(&host, 1).await;
    let last = run.report().await;
    assert_eq!(all_shown(&last), ["ambiguous network", "not attempted"]);
    agent.await.unwrap();
}

/// A message that cannot be read is behind one under way: its turn comes, and reports keep their order.
#[tokio::test]
async fn a_message_that_cannot_be_read_waits_for_its_turn_to_be_told() {
    let host = Host::plays(chunked(&[
        ONE,
        TAKEN,
        TWO,
        TAKEN,
        TWO,
        TAKEN,
        "< QUIT\n> 221 bye",
    ]))
    .await;
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
    run.report().await;
    inbox.send(batch(2, 1).into()).await.unwrap();
    inbox.send(batch(99, 1).into()).await.unwrap();
    assert_eq!(
        all_shown(&run.report().await),
        ["delivered (250 2.0.0 taken)"]
    );
    assert_eq!(all_shown(&run.report().await), ["deferred Message damaged"]);
    inbox.send(batch(2, 1).into()).await.unwrap();
    assert_eq!(
        all_shown(&run.report().await),
        ["delivered (250 2.0.0 taken)"]
    );
    drop(inbox);
    agent.await.unwrap();
    host.task.await.unwrap();
}

#[tokio::test]
async fn a_host_that_does_not_know_bdat_gets_data_on_the_next_connection() {
    let host = Host::plays(chunked(&[
        ONE,
        "> 250 m\n> 250 r\n> 502 what is BDAT\n!close",
    ]))
    .await;
    let report = check_hosts(&[&host], 1, &["not attempted"], "closed").await;
    let sign = report.sign.unwrap();
    assert_eq!((sign.habit, sign.certain), (Habit::Chunking, true));

    let data =
        "< MAIL\n< RCPT\n< DATA\n> 250 m\n> 250 r\n> 354 go\n<.\n> 250 taken\n< QUIT\n> 221 bye";
    let host = Host::plays(chunked(&[data])).await;
    let mut habits = Habits::default();
    assert!(habits.note(1, host.address.ip(), sign));
    let mut run = Run::new();
    let mut plan = Run::plan(&[&host], batch(1, 1));
    plan.avoid = vec![(host.address.ip(), habits.avoid(1, host.address.ip()))];
    let (agent, inbox) = run.spawn(plan);
    assert_eq!(all_shown(&run.report().await), ["delivered (250 taken)"]);
    drop(inbox);
    agent.await.unwrap();
    assert_eq!(host.contents().await.len(), 1);
}

#[tokio::test]
async fn a_recipient_that_breaks_the_session_does_not_make_the_others_wait() {
    let host = Host::plays(pipelined(&[
        "< MAIL\n< RCPT\n< RCPT\n< RCPT\n< DATA\n> 250 m\n> 250 r\n> what?\n!hold",
    ]))
    .await;
    let expected = [
        "not attempted",
        "deferred SiteFromSource protocol",
        "not attempted",
    ];
    let report = check_hosts(&[&host], 3, &expected, "failed Recipient: *").await;
    assert_eq!((report.broken_by, report.sign), (Some(1), None));

    // Each on its own from then on, in one report.
    let alone = "< MAIL\n< RCPT\n< DATA\n> 250 m\n> 250 r\n> 354 go\n<.\n> 250 taken\n";
    let breaks = "< MAIL\n< RCPT\n< DATA\n> 250 m\n> what?\n!hold";
    let host = Host::plays(pipelined(&[alone, breaks])).await;
    let mut run = Run::new();
    let mut plan = Run::plan(&[&host], batch(1, 3));
    plan.first.one_by_one = true;
    let (agent, _inbox) = run.spawn(plan);
    let report = run.report().await;
    assert_eq!(
        all_shown(&report),
        [
            "delivered (250 taken)",
            "deferred SiteFromSource protocol",
            "not attempted"
        ]
    );
    assert!(matches!(
        report.state,
        SessionState::Closed {
            failure: Some((Scope::Recipient, _))
        }
    ));
    agent.await.unwrap();
    host.task.await.unwrap();
}

/// Inside TLS as well: the answer to the content comes while the host does not even read it.
#[tokio::test]
async fn an_answer_that_comes_early_breaks_the_session_inside_tls_too() {
    let host = Host::plays(&["
        > 220 hi
        < EHLO
        > 250-mx
        > 250 STARTTLS
        < STARTTLS
        > 220 go
        !tls
        < EHLO
        > 250-mx
        > 250 PIPELINING
        < MAIL
        < RCPT
        < DATA
        > 250 m
        > 250 r
        > 354 go
        > 250 2.0.0 taken
        !stall"])
    .await;
    let mut run = Run::new();
    let (agent, _inbox) = run.spawn(Run::plan(&[&host], batch(4, 1)));
    let report = run.report().await;
    let outcome = all_shown(&report);
    assert!(
        outcome[0].starts_with("deferred Message protocol"),
        "{outcome:?}"
    );
    agent.await.unwrap();
    host.task.abort();
}
