//! The end of a session and of an agent: idle closes, panics, aborts, a source that is not here.

use super::*;

#[tokio::test]
async fn a_connection_that_ends_while_idle_is_nobodys_failure() {
    for end in ["!close", "> 421 idle too long", "> 250 what"] {
        let script = TAKES_ONE.replace("< QUIT\n    > 221 bye", end);
        let script: &'static str = Box::leak(script.into_boxed_str());
        let host = Host::plays(Box::leak(Box::new([script]))).await;
        let mut run = Run::new();
        let (agent, inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
        let mut delivered = Vec::new();
        let closed = loop {
            let report = run.report().await;
            delivered.extend(all_shown(&report));
            if let SessionState::Closed { failure } = report.state {
                break failure;
            }
        };
        assert_eq!(closed, None);
        assert_eq!(delivered, ["delivered (250 taken)"]);
        agent.await.unwrap();
        assert!(inbox.send(batch(2, 1).into()).await.is_err());
    }
}

#[tokio::test]
async fn a_session_counts_until_the_host_has_said_good_bye() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let host = Host {
        address: listener.local_addr().unwrap(),
        task: tokio::spawn(async { Vec::new() }),
    };
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
    let (stream, _) = listener.accept().await.unwrap();
    let mut wire = BufStream::new(stream);
    let mut lines = TAKES_ONE.lines().map(str::trim).filter(|l| !l.is_empty());
    let envelope_and_content = lines.by_ref().take_while(|line| *line != "< QUIT");
    play_lines(&mut wire, envelope_and_content, &mut Vec::new()).await;
    assert_eq!(run.report().await.state, SessionState::Idle);
    drop(inbox);
    play_lines(&mut wire, ["< QUIT"].into_iter(), &mut Vec::new()).await;
    // With another connection now the host would have one more than the limit.
    assert!(run.reports.try_recv().is_err());
    play_lines(&mut wire, lines, &mut Vec::new()).await;
    let closed = SessionState::Closed { failure: None };
    assert_eq!(run.report().await.state, closed);
    agent.await.unwrap();
}

#[tokio::test]
async fn a_batch_for_a_connection_that_just_ended_comes_back_unattempted() {
    // The host closes at MAIL of the second message.
    let script = TAKES_ONE.replace("< QUIT\n    > 221 bye", "< MAIL\n !close");
    let script: &'static str = Box::leak(script.into_boxed_str());
    let host = Host::plays(Box::leak(Box::new([script]))).await;
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
    run.report().await;
    inbox.send(batch(2, 2).into()).await.unwrap();
    let last = run.report().await;
    assert_eq!(all_shown(&last), ["not attempted", "not attempted"]);
    assert_eq!(last.state, SessionState::Closed { failure: None });
    agent.await.unwrap();
}

#[tokio::test]
async fn a_panic_still_gives_every_recipient_its_result() {
    let host = Host::plays(&["> 220 hi\n < EHLO\n > 250 mx\n !hold"]).await;
    let mut run = Run::new();
    let (agent, _inbox) = run.spawn(Run::plan(&[&host], batch(13, 2)));
    let report = run.report().await;
    let deferred = "deferred Message local-system";
    assert_eq!(all_shown(&report), [deferred, deferred]);
    assert_eq!(report.state, SessionState::Closed { failure: None });
    assert!(agent.await.unwrap_err().is_panic());
}

#[tokio::test]
async fn an_aborted_agent_tells_what_it_knows() {
    // Before it ran at all.
    let mut run = Run::new();
    let host = Host::plays(&[]).await;
    let (_inbox, receiver) = mpsc::channel(1);
    let plan = Run::plan(&[&host], batch(1, 2));
    drop(run_agent(Arc::clone(&run.context), plan, receiver));
    let report = run.report().await;
    assert_eq!(all_shown(&report), ["not attempted", "not attempted"]);

    // After the final dot.
    let (seen, mut taken) = mpsc::channel::<()>(1);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = BufStream::new(stream);
        let script = TAKES_ONE.split("> 250 taken").next().unwrap();
        let lines = script.lines().map(str::trim).filter(|l| !l.is_empty());
        let mut contents = Vec::new();
        play_lines(&mut wire, lines, &mut contents).await;
        seen.send(()).await.unwrap();
        play_lines(&mut wire, ["!hold"].into_iter(), &mut contents).await;
        contents
    });
    let host = Host { address, task };
    let (agent, _inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
    taken.recv().await.unwrap();
    agent.abort();
    assert_eq!(all_shown(&run.report().await), ["ambiguous local-system"]);
}

#[tokio::test]
async fn a_source_that_is_not_on_this_machine_is_named() {
    let host = Host::plays(&[]).await;
    let mut run = Run::new();
    let mut sources = run.context.sources.to_vec();
    // TEST-NET-1: on no machine.
    sources[0].v4 = Some(Ipv4Addr::new(192, 0, 2, 1));
    let context = AgentContext {
        messages: Arc::clone(&run.context.messages),
        sources: sources.into(),
        tls: run.context.tls.clone(),
        timeouts: Arc::clone(&run.context.timeouts),
        rules: Arc::default(),
        shaping: Arc::clone(&run.context.shaping),
        clock: run.context.clock,
        trace: Arc::default(),
        reports: run.context.reports.clone(),
    };
    run.context = Arc::new(context);
    let (agent, _inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
    let report = run.report().await;
    // Nobody was asked: the recipient is ready for another source.
    assert_eq!(all_shown(&report), ["not attempted"]);
    assert_eq!(report.trouble, Some(Trouble::Missing));
    let SessionState::Closed {
        failure: Some((scope, cause)),
    } = report.state
    else {
        panic!("{:?}", report.state);
    };
    assert_eq!(
        (scope, cause.class),
        (Scope::Source, CauseClass::LocalSystem)
    );
    assert!(
        cause.detail.contains("192.0.2.1 cannot be used"),
        "{}",
        cause.detail
    );
    agent.await.unwrap();
}
