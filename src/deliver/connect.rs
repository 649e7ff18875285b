//! From a list of hosts to a session that may begin a transaction.
//!
//! Hosts are tried by preference, those of equal preference in random order (RFC 5321 §5.1); of a host, IPv6 and IPv4 take
//! turns, and the second family gets its chance when the first does not answer at once (RFC 8305, in its simplest form). A
//! host that refuses before MAIL is passed over like one that does not answer: no recipient can be blamed for that.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::attempts::{Attempts, Unreached, dials};
use super::trace::Tap;
use super::{AgentContext, SessionPlan};
use crate::config::Source;
use crate::limits;
use crate::outcome::{Cause, CauseClass};
use crate::queue::Trouble;
use crate::smtp::client::driver::{GreetError, connect};
use crate::smtp::client::{
    ConnectError, Connection, Dial, Ending, Overhear, Said, Settings, Stage,
};

/// Finds a host that lets us in.
pub(super) async fn reach(
    context: &AgentContext,
    plan: &SessionPlan,
    tap: &Arc<Tap>,
) -> Result<Connection, Unreached> {
    let Some(source) = context.sources.iter().find(|s| s.id == plan.source) else {
        let cause = Cause::new(CauseClass::LocalSystem, "the egress source is gone");
        return Err(Unreached::deferred(cause, None));
    };
    let dials = dials(&context.timeouts, plan, source);
    let mut attempts = Attempts::judged_by(context.rules.load_full());
    let mut next = 0;
    while let Some(dial) = dials.get(next) {
        let rival = dials.get(next + 1).filter(|rival| is_rival(dial, rival));
        let (used, connected) = connect_either(dial, rival).await;
        next += used;
        match connected {
            Err((dial, error)) => {
                // What the proxy does not do for one address it does for no other of the family.
                let proxy_failed = matches!(error, ConnectError::Proxy { at_all: true, .. });
                while proxy_failed
                    && dials
                        .get(next)
                        .is_some_and(|d| d.remote.is_ipv4() == dial.remote.is_ipv4())
                {
                    next += 1;
                }
                if tap.listens() {
                    let why = error.to_string();
                    tap.hear(&dial.host, dial.remote, Said::NotConnected(&why));
                }
                attempts.not_connected(dial, error);
            }
            Ok((dial, stream)) => match greet(context, dial, stream, tap).await {
                Ok(connection) => return Ok(connection),
                Err(ending) => attempts.not_let_in(dial, &ending),
            },
        }
    }
    let unreached = attempts.outcome(source);
    // Its address of the other family is there: it may still reach other sites.
    if unreached.trouble == Some(Trouble::Missing) && missing(source).is_none() {
        let (_, cause) = unreached.failure;
        return Err(Unreached::deferred(cause, unreached.remote));
    }
    Err(unreached)
}

/// Says why no address of the source can be used on this host; `None` if one can.
pub fn missing(source: &Source) -> Option<String> {
    if source.proxy.is_some() {
        return None;
    }
    let mut last = None;
    for address in source.addresses() {
        // As much as binding a TCP socket says, and no port of it is used.
        match std::net::UdpSocket::bind((address, 0)) {
            Ok(_) => return None,
            Err(error) => {
                last = Some(format!(
                    "the source address {address} cannot be used: {error}"
                ));
            }
        }
    }
    last
}

/// Of the same host, in the other family.
fn is_rival(a: &Dial, b: &Dial) -> bool {
    a.host == b.host && a.remote.is_ipv4() != b.remote.is_ipv4()
}

type Connected<'a> = Result<(&'a Dial, TcpStream), (&'a Dial, ConnectError)>;

/// Connects to `dial`, or to its rival when that is faster. Says how many of the two are used up.
async fn connect_either<'a>(dial: &'a Dial, rival: Option<&'a Dial>) -> (usize, Connected<'a>) {
    let first = async {
        let stream = connect(dial).await.map_err(|e| (dial, e))?;
        Ok((dial, stream))
    };
    let Some(rival) = rival else {
        return (1, first.await);
    };
    let second = async {
        sleep(limits::CONNECT_HEAD_START).await;
        connect(rival).await.map(|stream| (rival, stream))
    };
    tokio::pin!(first, second);
    tokio::select! {
        biased;
        // Refused before the rival's start, most often: the rival is then tried by itself.
        connected = &mut first => (1, connected),
        connected = &mut second => match connected {
            Ok(won) => (2, Ok(won)),
            Err(_) => (2, first.await),
        },
    }
}

/// The dialogue until MAIL. When STARTTLS fails, once more in clear: encryption was offered, not required.
async fn greet(
    context: &AgentContext,
    dial: &Dial,
    stream: TcpStream,
    tap: &Arc<Tap>,
) -> Result<Connection, Ending> {
    let open = |stream, dial: &Dial| {
        let listener: Arc<dyn Overhear> = Arc::clone(tap) as _;
        Connection::new(stream, dial, context.clock).overheard_by(listener)
    };
    let mut connection = open(stream, dial);
    let why = match connection.greet(&context.tls).await {
        Ok(()) => return Ok(connection),
        Err(GreetError::Tls(why)) => why,
        Err(GreetError::Ended(ending)) if broke_at_starttls(&ending) => ending.to_string(),
        Err(GreetError::Ended(ending)) => return Err(ending),
    };
    drop(connection);
    tracing::debug!(host = %dial.host, remote = %dial.remote, why, "TLS failed, trying in clear");
    let in_clear = Dial {
        settings: Settings {
            starttls: false,
            ..dial.settings.clone()
        },
        ..dial.clone()
    };
    let lost = |_| Ending::Lost { stage: Stage::Tls };
    let stream = connect(&in_clear).await.map_err(lost)?;
    let mut connection = open(stream, &in_clear);
    match connection.greet(&context.tls).await {
        Ok(()) => Ok(connection),
        Err(GreetError::Ended(ending)) => Err(ending),
        Err(GreetError::Tls(_)) => unreachable!("STARTTLS was not to be used"),
    }
}

fn broke_at_starttls(ending: &Ending) -> bool {
    let refused = matches!(ending, Ending::Refused { .. });
    matches!(ending.stage(), Stage::StartTls | Stage::Tls) && !refused
}
