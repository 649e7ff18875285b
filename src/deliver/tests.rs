//! Agents against scripted remote hosts over real sockets, one scenario per way to misbehave.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::config::PoolId;

/// A remote host that plays one script per connection, then refuses connections. In a script, `> text` is sent as a line,
/// `< text` is awaited as a line's beginning, `<.` takes content to its final dot; `!close`, `!reset`, `!hold` (until we
/// close), `!stall` (reads nothing more), `!flood` (a line without end), `!drip` (a reply without end), `!tls`,
/// `!broken-tls`.
struct Host {
    address: SocketAddr,
    task: JoinHandle<Vec<String>>,
}

impl Host {
    async fn plays(scripts: &'static [&'static str]) -> Self {
        Self::plays_at(Ipv4Addr::LOCALHOST, scripts).await
    }

    async fn plays_at(ip: Ipv4Addr, scripts: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut contents = Vec::new();
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                play(stream, script, &mut contents).await;
            }
            contents
        });
        Self { address, task }
    }

    /// The contents that it took.
    async fn contents(self) -> Vec<String> {
        self.task.await.unwrap()
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

async fn play(stream: TcpStream, script: &str, contents: &mut Vec<String>) {
    let mut lines = script.lines().map(str::trim).filter(|l| !l.is_empty());
    let before_tls: Vec<&str> = lines.by_ref().take_while(|l| *l != "!tls").collect();
    if script.lines().any(|l| l.trim() == "!reset") {
        // With a linger time of zero, closing sends RST.
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    let mut wire = BufStream::new(stream);
    if !play_lines(&mut wire, before_tls.into_iter(), contents).await {
        return;
    }
    let rest: Vec<&str> = lines.collect();
    if !rest.is_empty() {
        let stream = acceptor().accept(wire.into_inner()).await.unwrap();
        play_lines(&mut BufStream::new(stream), rest.into_iter(), contents).await;
    }
}

async fn play_lines<W: Wire>(
    wire: &mut BufStream<W>,
    lines: impl Iterator<Item = &str>,
    contents: &mut Vec<String>,
) -> bool {
    for step in lines {
        match step.split_at(1) {
            (">", text) => {
                wire.write_all(format!("{}\r\n", text.trim()).as_bytes())
                    .await
                    .unwrap();
                wire.flush().await.unwrap();
            }
            ("<", ".") => {
                let mut content = String::new();
                while !content.ends_with("\r\n.\r\n") && content != ".\r\n" {
                    assert_ne!(wire.read_line(&mut content).await.unwrap(), 0);
                }
                contents.push(content);
            }
            ("<", text) => {
                let mut line = String::new();
                wire.read_line(&mut line).await.unwrap();
                assert!(
                    line.starts_with(text.trim()),
                    "{line:?} instead of {text:?}"
                );
            }
            ("!", "close" | "reset") => return false,
            ("!", "hold") => {
                let mut rest = String::new();
                while wire.read_line(&mut rest).await.is_ok_and(|n| n > 0) {}
            }
            ("!", "stall") => std::future::pending().await,
            ("!", "flood") => while wire.write_all(&[b'2'; 1000]).await.is_ok() {},
            ("!", "drip") => {
                while wire.write_all(b"250-x\r\n").await.is_ok() && wire.flush().await.is_ok() {}
            }
            ("!", "broken-tls") => {
                wire.write_all(b"this is no TLS\r\n").await.unwrap();
                wire.flush().await.unwrap();
                return false;
            }
            _ => panic!("{step:?} in a script"),
        }
    }
    true
}

fn acceptor() -> tokio_rustls::TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["other.test".into()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config).into()
}

/// Messages by position. Position 13 panics, unknown ones cannot be read.
struct Messages(HashMap<u64, &'static str>);

impl MessageSource for Messages {
    fn load(&self, position: u64, recipients: &[BatchRecipient]) -> Result<Outbound, LoadError> {
        assert_ne!(position, 13, "a message that makes the agent panic");
        let content = self.0.get(&position).ok_or(LoadError {
            position,
            detail: "damaged".into(),
        })?;
        let recipients = recipients.iter().map(|r| OutboundRecipient {
            number: r.number,
            forward_path: format!("r{}@to.test", r.number),
            ..OutboundRecipient::default()
        });
        Ok(Outbound {
            reverse_path: "s@from.test".into(),
            recipients: recipients.collect(),
            content: match position {
                4 => vec![Bytes::from("0123456789abcde\r\n".repeat(1 << 20))],
                _ => vec![Bytes::from_static(content.as_bytes())],
            },
            ..Outbound::default()
        })
    }
}

struct Run {
    context: Arc<AgentContext>,
    reports: mpsc::Receiver<Report>,
}

impl Run {
    fn new() -> Self {
        let (sender, reports) = mpsc::channel(8);
        let short = Duration::from_millis(200);
        let messages = HashMap::from([
            (1, "Subject: one\r\n\r\n.dot\r\n"),
            (2, "Subject: two\r\n\r\n\r\n"),
            (3, "Subject: \u{e9}\r\n\r\n"),
            (4, "17 MiB of lines"),
        ]);
        let source = Source {
            id: SourceId(0),
            name: "s1".into(),
            v4: Some(Ipv4Addr::new(127, 0, 0, 3)),
            v6: None,
            ehlo: "mta.test".into(),
            weight: 1,
        };
        let context = AgentContext {
            messages: Arc::new(Messages(messages)),
            sources: Arc::new([source]),
            tls: opportunistic_tls(),
            timeouts: Arc::new(Timeouts {
                connect: short,
                banner: short,
                command: short,
                data: short,
                block: short,
                dot: short,
            }),
            clock: Clock::start(),
            reports: sender,
        };
        Self {
            context: Arc::new(context),
            reports,
        }
    }

    fn plan(hosts: &[&Host], first: Batch) -> SessionPlan {
        let hosts = hosts.iter().enumerate().map(|(i, host)| NextHop {
            name: format!("mx{i}.test").into(),
            preference: i as u16,
            port: host.address.port(),
            addresses: vec![host.address.ip()],
        });
        SessionPlan {
            session: SessionId(7),
            source: SourceId(0),
            hosts: hosts.collect(),
            first,
        }
    }

    fn spawn(&self, plan: SessionPlan) -> (JoinHandle<()>, mpsc::Sender<Batch>) {
        let (inbox, receiver) = mpsc::channel(1);
        let agent = run_agent(Arc::clone(&self.context), plan, receiver);
        (tokio::spawn(agent), inbox)
    }

    async fn report(&mut self) -> Report {
        self.reports.recv().await.unwrap()
    }
}

fn batch(position: u64, recipients: u16) -> Batch {
    let recipients = (0..recipients).map(|number| BatchRecipient {
        number,
        attempts: 0,
    });
    Batch {
        position,
        pool: PoolId(0),
        recipients: SmallVec::from_iter(recipients),
    }
}

fn shown(outcome: &Outcome) -> String {
    let cause = |c: &Cause| match &c.reply {
        Some(reply) => format!("{} ({reply})", c.class.as_str()),
        None => c.class.as_str().to_owned(),
    };
    match outcome {
        Outcome::Delivered { reply } => format!("delivered ({reply})"),
        Outcome::Deferred { scope, cause: c } => format!("deferred {scope:?} {}", cause(c)),
        Outcome::Bounced { scope, cause: c } => format!("bounced {scope:?} {}", cause(c)),
        Outcome::Ambiguous { cause: c } => format!("ambiguous {}", cause(c)),
        Outcome::NotAttempted => "not attempted".into(),
    }
}

fn all_shown(report: &Report) -> Vec<String> {
    report.results.iter().map(|r| shown(&r.outcome)).collect()
}

/// One batch to one host (or several): what becomes of its recipients, and of the session.
async fn check_hosts(hosts: &[&Host], recipients: u16, expected: &[&str], state: &str) -> Report {
    let mut run = Run::new();
    let (agent, inbox) = run.spawn(Run::plan(hosts, batch(1, recipients)));
    let report = run.report().await;
    assert_eq!(all_shown(&report), expected);
    let found = match &report.state {
        SessionState::Idle => "idle".to_owned(),
        SessionState::Closed { failure: None } => "closed".to_owned(),
        SessionState::Closed {
            failure: Some((scope, cause)),
        } => format!("failed {scope:?}: {}", cause.detail),
    };
    let same = match state.strip_suffix('*') {
        Some(beginning) => found.starts_with(beginning),
        None => found == state,
    };
    assert!(same, "{found:?} instead of {state:?}");
    drop(inbox);
    agent.await.unwrap();
    if report.state == SessionState::Idle {
        let last = run.report().await;
        assert_eq!(last.state, SessionState::Closed { failure: None });
        assert_eq!(last.results, []);
    }
    report
}

async fn check_script(script: &'static [&'static str], expected: &str, state: &str) {
    let host = Host::plays(script).await;
    check_hosts(&[&host], 1, &[expected], state).await;
    host.task.await.unwrap();
}

const NET: &str = "deferred SiteFromSource network";

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
    inbox.send(batch(2, 1)).await.unwrap();
    assert_eq!(
        all_shown(&run.report().await),
        ["bounced Recipient recipient-unknown (550 5.1.1 no)"]
    );
    inbox.send(batch(2, 1)).await.unwrap();
    assert_eq!(all_shown(&run.report().await), ["delivered (250 three)"]);
    drop(inbox);
    agent.await.unwrap();
    let last = run.report().await;
    assert_eq!(last.state, SessionState::Closed { failure: None });
    assert_eq!(host.contents().await.len(), 2);
}

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
        > 250 ok
        > 250 ok
        > 250 taken
        < QUIT
        > 221 bye"])
    .await;
    check_hosts(&[&host], 1, &["delivered (250 taken)"], "idle").await;
    host.task.await.unwrap();
}

const TAKES_ONE: &str = "
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
    <.
    > 250 taken
    < QUIT
    > 221 bye";

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
        assert!(inbox.send(batch(2, 1)).await.is_err());
    }
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
    inbox.send(batch(2, 2)).await.unwrap();
    let last = run.report().await;
    assert_eq!(all_shown(&last), ["not attempted", "not attempted"]);
    assert_eq!(last.state, SessionState::Closed { failure: None });
    agent.await.unwrap();
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
    inbox.send(batch(99, 1)).await.unwrap();
    assert_eq!(
        all_shown(&run.report().await),
        ["deferred Message local-system"]
    );
    drop(inbox);
    agent.await.unwrap();
    host.task.await.unwrap();
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
        clock: run.context.clock,
        reports: run.context.reports.clone(),
    };
    run.context = Arc::new(context);
    let (agent, _inbox) = run.spawn(Run::plan(&[&host], batch(1, 1)));
    let report = run.report().await;
    assert_eq!(all_shown(&report), ["deferred SiteFromSource local-system"]);
    agent.await.unwrap();
}
