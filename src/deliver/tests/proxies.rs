//! Sources on other hosts: a SOCKS5 proxy, and one that is told by the PROXY protocol.

use tokio::io::AsyncReadExt as _;

use super::*;
use crate::config::{Proxy, ProxyKind, ProxyUser, Secret};

fn proxied(run: &mut Run, kind: ProxyKind, at: SocketAddr, user: Option<(&str, &str)>) {
    let mut sources = run.context.sources.to_vec();
    sources[0].v4 = Some(Ipv4Addr::new(192, 0, 2, 7));
    sources[0].proxy = Some(Arc::new(Proxy {
        kind,
        host: at.ip().to_string(),
        port: at.port(),
        user: user.map(|(name, password)| ProxyUser {
            name: name.into(),
            password: Secret::new(password, "literal"),
        }),
    }));
    run.context = Arc::new(AgentContext {
        messages: Arc::clone(&run.context.messages),
        sources: sources.into(),
        tls: run.context.tls.clone(),
        timeouts: Arc::clone(&run.context.timeouts),
        rules: Arc::default(),
        shaping: Arc::clone(&run.context.shaping),
        clock: run.context.clock,
        trace: Arc::default(),
        reports: run.context.reports.clone(),
    });
}

/// One batch through a proxy: outcome and explanation.
async fn through(
    kind: ProxyKind,
    proxy: SocketAddr,
    user: Option<(&str, &str)>,
    host: &Host,
) -> (String, String) {
    let mut run = Run::new();
    proxied(&mut run, kind, proxy, user);
    let (agent, inbox) = run.spawn(Run::plan(&[host], batch(1, 1)));
    let report = run.report().await;
    drop(inbox);
    agent.await.unwrap();
    let detail = match &report.state {
        SessionState::Closed {
            failure: Some((_, cause)),
        } => cause.detail.clone(),
        _ => String::new(),
    };
    (shown(&report.results[0].outcome), detail)
}

/// Takes one connection, checks and answers each step, then passes on what comes to the address that was asked for.
async fn socks(steps: &'static [(&'static [u8], &'static [u8])], passes_on: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        for (asked, answer) in steps {
            let mut heard = vec![0; asked.len()];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, asked);
            client.write_all(answer).await.unwrap();
        }
        if passes_on {
            let mut port = [0; 2];
            client.read_exact(&mut port).await.unwrap();
            let port = u16::from_be_bytes(port);
            let mut host = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap();
            // With a name as the address bound, to see that it is read to its end.
            client
                .write_all(b"\x05\0\0\x03\x04name\0\x19")
                .await
                .unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut host).await;
        }
    });
    address
}

const CONNECT: &[u8] = b"\x05\x01\0\x01\x7f\0\0\x01";
const DELIVERED: &str = "delivered (250 taken)";

#[tokio::test]
async fn a_socks5_proxy_leads_to_the_host_with_and_without_a_user() {
    let host = Host::plays(&[TAKES_ONE]).await;
    let proxy = socks(&[(b"\x05\x01\0", b"\x05\0"), (CONNECT, b"")], true).await;
    let (outcome, _) = through(ProxyKind::Socks5, proxy, None, &host).await;
    assert_eq!(outcome, DELIVERED);

    let host = Host::plays(&[TAKES_ONE]).await;
    let steps: &[(&[u8], &[u8])] = &[
        (b"\x05\x01\x02", b"\x05\x02"),
        (b"\x01\x04user\x06secret", b"\x01\0"),
        (CONNECT, b""),
    ];
    let proxy = socks(steps, true).await;
    let user = Some(("user", "secret"));
    let (outcome, _) = through(ProxyKind::Socks5, proxy, user, &host).await;
    assert_eq!(outcome, DELIVERED);
}

#[tokio::test]
async fn what_a_socks5_proxy_refuses_is_told_apart_from_what_the_host_does() {
    /// The proxy serves us, but not to this host.
    const HERE: &str = "deferred SiteFromSource local-system";
    /// It serves nobody: the source is in trouble, and no attempt was made.
    const SOURCE: &str = "not attempted";
    type Steps = &'static [(&'static [u8], &'static [u8])];
    const GREETED: (&[u8], &[u8]) = (b"\x05\x01\0", b"\x05\0");
    let cases: [(Steps, &str, &str); 7] = [
        (
            &[(b"\x05\x01\0", b"\x05\xff")],
            SOURCE,
            "wants a user and a password",
        ),
        (
            &[(b"\x05\x01\0", b"HTTP/1.1 400 Bad")],
            SOURCE,
            "does not speak SOCKS5",
        ),
        (&[(b"\x05\x01\0", b"")], SOURCE, "closed the connection"),
        (
            &[GREETED, (CONNECT, b"\x05\x01\0\x01\0\0\0\0\0\0")],
            HERE,
            "failed with SOCKS code 1",
        ),
        (
            &[GREETED, (CONNECT, b"\x05\x02\0\x01\0\0\0\0\0\0")],
            HERE,
            "does not allow the connection",
        ),
        (
            &[GREETED, (CONNECT, b"\x05\x05\0\x01\0\0\0\0\0\0")],
            NET,
            "connection refused, says the proxy",
        ),
        (
            &[GREETED, (CONNECT, b"\x05\x04\0\x01\0\0\0\0\0\0")],
            NET,
            "host unreachable, says the proxy",
        ),
    ];
    let host = Host::plays(&[]).await;
    for (steps, outcome, why) in cases {
        let proxy = socks(steps, false).await;
        let (found, detail) = through(ProxyKind::Socks5, proxy, None, &host).await;
        assert_eq!(found, outcome, "{why}");
        assert!(
            detail.contains(why) && detail.contains("socks5://127.0.0.1:"),
            "{detail}"
        );
    }
    // Nobody listens.
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = gone.local_addr().unwrap();
    drop(gone);
    for kind in [ProxyKind::Socks5, ProxyKind::HaProxy] {
        let (found, detail) = through(kind, proxy, None, &host).await;
        assert_eq!(found, SOURCE);
        assert!(detail.contains("cannot be reached"), "{detail}");
    }
}

#[tokio::test]
async fn a_proxy_is_told_the_source_address_and_the_destination() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let destination = Host::plays(&[]).await;
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut header = [0; 28];
        stream.read_exact(&mut header).await.unwrap();
        play(stream, TAKES_ONE, &mut Vec::new()).await;
        header
    });
    let (outcome, _) = through(ProxyKind::HaProxy, proxy, None, &destination).await;
    assert_eq!(outcome, DELIVERED);
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    expected.extend([192, 0, 2, 7, 127, 0, 0, 1, 0, 0]);
    expected.extend(destination.address.port().to_be_bytes());
    assert_eq!(task.await.unwrap(), expected[..]);
}
