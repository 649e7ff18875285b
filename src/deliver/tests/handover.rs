//! Mail that goes over: sources, reuse, chunking, TLS, the next host, surplus recipients.

use super::*;

#[tokio::test]
async fn a_message_is_handed_over_from_the_source_address() {
    let host = Host::plays(&["
        > 220-mx.test
        > 220 hello
        < EHLO mta.test
        > 250-mx.test
        > 250 PIPELINING
        < MAIL FROM:<s@from.test>
        < RCPT TO:<r0@to.test>
        < DATA
        > 250 ok
        > 250 ok
        > 354 go
        <.
        > 250 2.0.0 queued as 1
        < QUIT
        > 221 bye"])
    .await;
    let report = check_hosts(&[&host], 1, &["delivered (250 2.0.0 queued as 1)"], "idle").await;
    let remote = report.remote.unwrap();
    assert_eq!(
        remote.to_string(),
        format!("mx0.test [127.0.0.1]:{}", host.address.port())
    );
    assert_eq!(remote.tls, None);
    assert_eq!(
        host.contents().await,
        ["Subject: one\r\n\r\n..dot\r\n.\r\n"]
    );
}

#[tokio::test]
async fn the_connection_is_used_again_and_bound_to_its_source() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)));
        let mut contents = Vec::new();
        let script = "
            > 220 hi
            < EHLO
            > 250 mx
            < MAIL
            > 250 ok
            < RCPT
            > 250 ok
            < DATA
            > 354 go
            <.
            > 250 one
            < MAIL
            > 250 ok
            < RCPT
            > 550 5.1.1 no
            < RSET
            > 250 ok
            < MAIL
            > 250 ok
            < RCPT
            > 250 ok
            < DATA
            > 354 go
            <.
            > 250 three
            < QUIT
            > 221 bye";
        play(stream, script, &mut contents).await;
        contents
    });
    let host = Host { address, task };
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
    assert_eq!(all_shown(&run.report().await), ["delivered (250 one)"]);
    inbox.send(batch(2, 1).into()).await.unwrap();
    assert_eq!(
        all_shown(&run.report().await),
        ["bounced Recipient recipient-unknown (550 5.1.1 no)"]
    );
    inbox.send(batch(2, 1).into()).await.unwrap();
    assert_eq!(all_shown(&run.report().await), ["delivered (250 three)"]);
    drop(inbox);
    agent.await.unwrap();
    let last = run.report().await;
    assert_eq!(last.state, SessionState::Closed { failure: None });
    assert_eq!(host.contents().await.len(), 2);
}

#[tokio::test]
async fn with_chunking_one_flight_carries_everything() {
    let host = Host::plays(&["
        > 220 hi
        < EHLO
        > 250-mx
        > 250-PIPELINING
        > 250 CHUNKING
        < MAIL
        < RCPT
        < BDAT 22 LAST
        < Subject: one
        <
        < .dot
        > 250 sender ok
        > 250 recipient ok
        > 250 taken
        < QUIT
        > 221 bye"])
    .await;
    check_hosts(&[&host], 1, &["delivered (250 taken)"], "idle").await;
    host.task.await.unwrap();
}

#[tokio::test]
async fn the_next_host_is_tried_when_one_does_not_let_us_in() {
    for first in [
        "!close",
        "> 554 no",
        "> 220 hi\n < EHLO\n > 421 busy",
        "> what",
    ] {
        let first = Host::plays(Box::leak(Box::new([first]))).await;
        let second = Host::plays(&[TAKES_ONE]).await;
        let expected = ["delivered (250 taken)"];
        let report = check_hosts(&[&first, &second], 1, &expected, "idle").await;
        assert_eq!(&*report.remote.unwrap().name, "mx1.test");
        assert_eq!(second.contents().await.len(), 1);
    }
}

#[tokio::test]
async fn starttls_is_used_whatever_the_certificate_says() {
    let host = Host::plays(&["
        > 220 hi
        < EHLO
        > 250-mx
        > 250 STARTTLS
        < STARTTLS
        > 220 go
        !tls
        < EHLO
        > 250 mx
        < MAIL
        > 250 ok
        < RCPT
        > 250 ok
        < DATA
        > 354 go
        <.
        > 250 taken
        < QUIT
        > 221 bye"])
    .await;
    let report = check_hosts(&[&host], 1, &["delivered (250 taken)"], "idle").await;
    let tls = report.remote.unwrap().tls.clone().unwrap();
    assert!(tls.starts_with("TLSv1.3 TLS13_"), "{tls}");
    assert_eq!(host.contents().await.len(), 1);
}

#[tokio::test]
async fn broken_starttls_is_followed_by_one_try_in_clear() {
    for broken in ["> 220 go\n !broken-tls", "> 220 go\n !close", "!close"] {
        let first =
            format!("> 220 hi\n < EHLO\n > 250-mx\n > 250 STARTTLS\n < STARTTLS\n {broken}");
        let scripts: Vec<&'static str> = vec![Box::leak(first.into_boxed_str()), TAKES_ONE];
        let host = Host::plays(Box::leak(scripts.into_boxed_slice())).await;
        let report = check_hosts(&[&host], 1, &["delivered (250 taken)"], "idle").await;
        assert_eq!(report.remote.unwrap().tls, None);
        assert_eq!(host.contents().await.len(), 1);
    }
}

#[tokio::test]
async fn surplus_recipients_are_ready_again_at_once() {
    let host = Host::plays(&["
        > 220 hi
        < EHLO
        > 250-mx
        > 250 PIPELINING
        < MAIL
        < RCPT
        < RCPT
        < RCPT
        < DATA
        > 250 ok
        > 250 ok
        > 452 4.5.3 too many
        > 452 4.5.3 too many
        > 354 go
        <.
        > 250 taken
        < QUIT
        > 221 bye"])
    .await;
    let expected = ["delivered (250 taken)", "not attempted", "not attempted"];
    check_hosts(&[&host], 3, &expected, "idle").await;
    assert_eq!(host.contents().await.len(), 1);
}

#[tokio::test]
async fn mail_that_the_host_cannot_take_bounces_and_one_that_cannot_be_read_waits() {
    let host = Host::plays(&["> 220 hi\n < EHLO\n > 250 mx\n < QUIT\n > 221 bye"]).await;
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(&[&host], batch(3, 1)));
    assert_eq!(
        all_shown(&run.report().await),
        ["bounced Message content-policy"]
    );
    inbox.send(batch(99, 1).into()).await.unwrap();
    assert_eq!(all_shown(&run.report().await), ["deferred Message damaged"]);
    drop(inbox);
    agent.await.unwrap();
    host.task.await.unwrap();
}

#[tokio::test]
async fn content_in_pieces_is_fetched_while_it_leaves() {
    let host = Host::plays(&[TAKES_ONE]).await;
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(&[&host], batch(5, 1)));
    let report = run.report().await;
    assert_eq!(all_shown(&report), ["delivered (250 taken)"]);
    drop(inbox);
    agent.await.unwrap();
    assert_eq!(
        host.task.await.unwrap(),
        ["Subject: five\r\n\r\n..dot\r\nlast\r\n.\r\n"]
    );
}

#[tokio::test]
async fn content_that_cannot_be_read_to_its_end_is_broken_off_before_the_final_dot() {
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
        < Subject: six
        !hold"])
    .await;
    let mut run = Run::new();
    let (agent, _inbox) = run.spawn(Run::plan(&[&host], batch(6, 1)));
    let report = run.report().await;
    assert_eq!(all_shown(&report), ["deferred Message local-system"]);
    match &report.results[0].outcome {
        Outcome::Deferred { cause, .. } => assert_eq!(
            cause.detail,
            "our content could not be read to its end: the medium failed"
        ),
        other => panic!("{other:?}"),
    }
    agent.await.unwrap();
}

fn rules() -> Rules {
    let text = r#"
        [[rule]]
        name = "enough"
        code = ["4"]
        text = ["messages in this connection"]
        cause = "rate-limited"
        scope = "mx-host"
        reaction = "close"
        [[rule]]
        name = "listed"
        text = ["listed"]
        cause = "blocklisted"
        scope = "source-ip"
        reaction = "next-source"
    "#;
    let texts = [(std::path::Path::new("test.toml"), text)];
    let shaping = Config::development(None).shaping;
    Rules::compile(texts.into_iter(), &shaping).unwrap()
}

/// Two messages, of which the second, or the first on a connection of its own, is answered so.
async fn check_parting(first: bool, script: &str, expected: &str, blamed: Option<CauseClass>) {
    let before = match first {
        true => "",
        false => {
            "< MAIL
            > 250 ok
            < RCPT
            > 250 ok
            < DATA
            > 354 go
            <.
            > 250 one"
        }
    };
    let script = format!("> 220 hi\n < EHLO\n > 250 mx\n {before}\n {script}\n !hold");
    let scripts: Vec<&'static str> = vec![Box::leak(script.into_boxed_str())];
    let host = Host::plays(Box::leak(scripts.into_boxed_slice())).await;
    let mut run = Run::new();
    run.context.rules.store(Arc::new(rules()));
    let (agent, inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
    if !first {
        assert_eq!(all_shown(&run.report().await), ["delivered (250 one)"]);
        inbox.send(batch(2, 1).into()).await.unwrap();
    }
    let report = run.report().await;
    assert_eq!(all_shown(&report), [expected]);
    let failure = match &report.state {
        SessionState::Closed { failure } => failure.as_ref(),
        SessionState::Idle => panic!("it goes on"),
    };
    let expected = blamed.map(|class| (Scope::SiteFromSource, class));
    assert_eq!(
        failure.map(|(scope, cause)| (*scope, cause.class)),
        expected
    );
    agent.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_had_enough_ends_and_who_came_too_late_for_it_waits_for_nothing() {
    let enough = "452 4.3.2 too many messages in this connection";
    let late = format!("< MAIL\n > {enough}");
    check_parting(false, &late, "not attempted", None).await;
    let rcpt = format!("< MAIL\n > 250 ok\n < RCPT\n > {enough}");
    check_parting(false, &rcpt, "not attempted", None).await;
    // The host closes it itself.
    let closing =
        "< MAIL\n > 250 ok\n < RCPT\n > 421 too many messages in this connection\n !close";
    check_parting(false, closing, "not attempted", None).await;
    // At the first message it means something else, or it would go on for ever.
    let shown = format!("deferred SiteFromSource rate-limited ({enough})");
    check_parting(true, &late, &shown, None).await;
}

#[tokio::test]
async fn a_source_that_is_listed_is_left_for_another_one() {
    let listed = Some(CauseClass::Blocklisted);
    let script = "< MAIL\n > 250 ok\n < RCPT\n > 450 4.7.1 host is listed at x";
    let shown = "deferred SiteFromSource blocklisted (450 4.7.1 host is listed at x)";
    check_parting(false, script, shown, listed).await;
    // Also where it is final for this message.
    let script = "< MAIL\n > 250 ok\n < RCPT\n > 550 5.7.1 host is listed at x";
    let shown = "bounced SiteFromSource blocklisted (550 5.7.1 host is listed at x)";
    check_parting(true, script, shown, listed).await;
}

/// Also an attempt that reached no host: whoever writes the event never has to read the spool.
#[tokio::test]
async fn every_result_says_which_message_it_is_about() {
    let mut run = Run::new();
    let nobody = Host::plays(&[]).await;
    let (agent, _inbox) = run.spawn(Run::plan(&[&nobody], batch(1, 2)));
    let report = run.report().await;
    agent.await.unwrap();
    for result in &report.results {
        let subject = result.subject.as_ref().unwrap();
        assert_eq!((subject.server(), subject.stream()), ("server", "outbound"));
    }
}
