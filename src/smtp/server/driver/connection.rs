//! One connection from its first octet to its last.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::limits;
use crate::mail::Reply;
use crate::metrics;
use crate::smtp::reply;

use super::super::auth::Credentials;
use super::super::command::Xclient;
use super::super::doors::Place;
use super::super::gate::{Gate, Intake};
use super::super::proxy;
use super::super::session::{Event, Phase, Session, Verdict};
use super::super::submission::{Client, ContentFacts, Submission};
use super::stream::Stream;
use super::{Listener, Times, Tls, acknowledgement, stopped, turn_away};

/// What a connection needs as long as it lives.
struct Connection<G: Gate> {
    stream: Stream,
    /// Octets that the session has not consumed.
    input: BytesMut,
    session: Session,
    sender: Option<G::Sender>,
    intake: Option<G::Intake>,
    client: IpAddr,
    place: Place,
    listener: Arc<Listener<G>>,
    stop: watch::Receiver<bool>,
    pace: Pace,
}

/// Attends to a connection until it is closed.
pub(super) async fn attend<G: Gate>(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    listener: Arc<Listener<G>>,
    stop: watch::Receiver<bool>,
) {
    match Connection::open(stream, peer, place, listener, stop).await {
        Ok(Some(mut connection)) => connection.run_guarded().await,
        Ok(None) => {}
        Err(e) => {
            tracing::debug!(%peer, error = %e, "submission connection lost before its greeting")
        }
    }
}

/// How waiting for input ended.
enum Filled {
    Some,
    Eof,
    TimedOut,
    Stopping,
}

impl<G: Gate> Connection<G> {
    /// PROXY header, limits, implicit TLS. `None`: turned away.
    async fn open(
        mut stream: TcpStream,
        peer: SocketAddr,
        mut place: Place,
        listener: Arc<Listener<G>>,
        stop: watch::Receiver<bool>,
    ) -> io::Result<Option<Self>> {
        // Replies are small and waited for.
        stream.set_nodelay(true)?;
        let mut client = canonical(peer);
        if listener.gate.proxy(client.ip()) {
            let header = timeout(listener.times.tls_handshake, proxy::read(&mut stream)).await?;
            client = header.map_err(io::Error::other)?.map_or(client, canonical);
        }
        let sender = listener.gate.trusted(client.ip());
        let known = sender.is_some() || client.ip().is_loopback();
        let refusal = listener.gate.refusal().or_else(|| {
            (!known && !place.stranger(client.ip())).then_some(reply::TOO_MANY_CONNECTIONS)
        });
        if let Some(refusal) = refusal {
            metrics::SMTP_LIMITS.add_to("connections_per_address", 1);
            turn_away(&stream, &listener.tls, &refusal);
            return Ok(None);
        }
        let mut stream = Stream::Plain(stream);
        let tls = match &listener.tls {
            Tls::Implicit(source) => {
                let handshake = stream.start_tls(source.load_full(), listener.times.tls_handshake);
                Some(note_handshake(handshake.await)?)
            }
            Tls::Off | Tls::StartTls(_) => None,
        };
        let described = Client {
            address: client.ip(),
            port: client.port(),
            trusted: sender.is_some(),
            xclient: listener.gate.xclient(client.ip()),
        };
        Ok(Some(Self {
            stream,
            input: BytesMut::new(),
            session: Session::new(Arc::clone(&listener.settings), described, tls),
            sender,
            intake: None,
            client: client.ip(),
            place,
            pace: Pace::new(listener.clock.instant()),
            listener,
            stop,
        }))
    }

    /// Runs the dialogue. A panic ends this connection only (STYLE §5.3): nothing of the session is used after it.
    async fn run_guarded(&mut self) {
        let ended = {
            let mut run = pin!(self.run());
            poll_fn(
                |context| match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context))) {
                    Ok(poll) => poll.map(Some),
                    Err(_) => Poll::Ready(None),
                },
            )
            .await
        };
        self.intake = None;
        match ended {
            Some(Ok(())) => {}
            Some(Err(e)) => {
                tracing::debug!(client = %self.client, error = %e, "submission connection lost");
                return;
            }
            None => {
                metrics::SMTP_SESSION_PANICS.add(1);
                tracing::error!(client = %self.client, "a submission session panicked and was closed");
                let mut out = Vec::new();
                reply::INTERNAL_ERROR.write_to(&mut out);
                let _ = timeout(self.listener.times.linger, self.stream.write(&out)).await;
            }
        }
        self.linger().await;
    }

    async fn run(&mut self) -> io::Result<()> {
        loop {
            let closing = self.work().await?;
            self.flush().await?;
            if closing {
                return Ok(());
            }
            match self.fill().await? {
                Filled::Some => {}
                Filled::Eof => return Ok(()),
                Filled::TimedOut => {
                    metrics::SMTP_LIMITS.add_to("time", 1);
                    self.session.close(&reply::TIMED_OUT);
                    return self.flush().await;
                }
                Filled::Stopping => {
                    self.session.close(&reply::STOPPING);
                    return self.flush().await;
                }
            }
        }
    }

    /// Lets the session do what it can with the input there is. `true`: it has closed.
    async fn work(&mut self) -> io::Result<bool> {
        self.session.observe(self.listener.clock.unix_ms());
        while let Some(step) = self.session.step(&self.input) {
            let consumed = step.consumed;
            if consumed > 0 {
                self.pace.progress = true;
            }
            match step.event {
                None => {}
                Some(Event::Content(content)) => {
                    // Without an intake the refusal has been given already.
                    if let Some(intake) = &mut self.intake
                        && let Err(refusal) = intake.push(content).await
                    {
                        self.intake = None;
                        self.session.content_refused(refusal);
                    }
                }
                Some(Event::Recipient(path)) => {
                    let answer = self.listener.gate.recipient(&path).await;
                    self.session.recipient_judged(answer);
                }
                Some(Event::Begin(submission)) => {
                    let answer = self.begin(*submission);
                    self.session.begun(answer);
                }
                Some(Event::EndOfContent(facts)) => {
                    let reply = self.finish(facts).await;
                    self.session.finished(&reply);
                }
                Some(Event::Abandon) => self.intake = None,
                Some(Event::Challenge) => {
                    let mut random = [0; 16];
                    getrandom::fill(&mut random).map_err(io::Error::other)?;
                    self.session.challenge(random);
                }
                Some(Event::Authenticate(credentials)) => {
                    let verdict = self.authenticate(&credentials).await;
                    self.session.authenticated(verdict);
                }
                Some(Event::Xclient(claims)) => {
                    let change = self.become_client(&claims);
                    self.session.client_changed(change);
                }
                Some(Event::StartTls) => self.start_tls().await?,
                Some(Event::Close) => return Ok(true),
            }
            self.input.advance(consumed);
        }
        Ok(false)
    }

    fn begin(&mut self, submission: Submission) -> Result<(), Reply> {
        // The session lets nobody come here without trust or AUTH, and both set the sender, but where anybody may.
        let gate = &self.listener.gate;
        let sender = self.sender.clone().or_else(|| gate.stranger());
        let sender = sender.ok_or(reply::RELAY_DENIED)?;
        self.intake = Some(gate.begin(&sender, submission)?);
        Ok(())
    }

    async fn finish(&mut self, facts: ContentFacts) -> Reply {
        let Some(intake) = self.intake.take() else {
            panic!("content of {} octets ended without an intake", facts.octets);
        };
        match intake.finish(facts).await {
            Ok(accepted) => acknowledgement(&accepted),
            Err(refusal) => refusal,
        }
    }

    async fn authenticate(&mut self, credentials: &Credentials) -> Verdict {
        let doors = Arc::clone(&self.place.doors);
        if doors.locked(self.listener.clock.instant(), self.client) {
            metrics::SMTP_AUTH.add_to("locked", 1);
            return Verdict::Locked;
        }
        if let Some(sender) = self.listener.gate.authenticate(credentials) {
            self.sender = Some(sender);
            self.place.known();
            metrics::SMTP_AUTH.add_to("ok", 1);
            return Verdict::Accepted;
        }
        metrics::SMTP_AUTH.add_to("refused", 1);
        let now = self.listener.clock.instant();
        let failures = doors.auth_failed(now, self.client, credentials.user());
        tracing::info!(client = %self.client, failures, "submission: authentication failed");
        let doubled = failures.saturating_sub(1).min(AUTH_DELAY_DOUBLINGS);
        tokio::time::sleep(self.listener.times.auth_delay * 2u32.pow(doubled)).await;
        Verdict::Refused
    }

    /// `None`: the login is nobody's.
    fn become_client(&mut self, claims: &Xclient) -> Option<(Client, bool)> {
        let gate = &self.listener.gate;
        let login = match &claims.login {
            Some(name) => Some(gate.login(name)?),
            None => None,
        };
        if let Some(address) = claims.address {
            self.client = address.to_canonical();
        }
        let trusted = gate.trusted(self.client);
        let client = Client {
            address: self.client,
            port: claims.port.unwrap_or(0),
            trusted: trusted.is_some(),
            xclient: true,
        };
        let authenticated = login.is_some();
        self.sender = login.or(trusted);
        Some((client, authenticated))
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        self.flush().await?;
        let Tls::StartTls(source) = &self.listener.tls else {
            panic!("STARTTLS was announced by a listener without it");
        };
        let handshake =
            (self.stream).start_tls(source.load_full(), self.listener.times.tls_handshake);
        let description = note_handshake(handshake.await)?;
        self.sender = self.listener.gate.trusted(self.client);
        self.pace.progress = true;
        self.session.tls_started(description);
        Ok(())
    }

    /// Writes the replies that are due, after the delay that errors have earned.
    async fn flush(&mut self) -> io::Result<()> {
        if self.session.output().is_empty() {
            return Ok(());
        }
        let delay = self.session.take_delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let write = self.stream.write(self.session.output());
        timeout(self.listener.times.command, write).await??;
        self.session.output_written();
        Ok(())
    }

    /// Waits for input. Content that is on its way is waited for even when the node stops.
    async fn fill(&mut self) -> io::Result<Filled> {
        let phase = self.session.phase();
        let in_content = matches!(phase, Phase::Content { .. });
        if !in_content && *self.stop.borrow() {
            return Ok(Filled::Stopping);
        }
        self.make_room(in_content);
        let times = &self.listener.times;
        let now = self.listener.clock.instant();
        let deadline = self.pace.deadline(phase, now, times);
        let read = tokio::time::timeout_at(deadline.into(), self.stream.read(&mut self.input));
        let read = tokio::select! {
            biased;
            read = read => read,
            () = stopped(&mut self.stop), if !in_content => return Ok(Filled::Stopping),
        };
        match read {
            Err(_) => Ok(Filled::TimedOut),
            Ok(Ok(0)) => Ok(Filled::Eof),
            Ok(Ok(octets)) => {
                let waited = self.listener.clock.instant().duration_since(now);
                if in_content && self.pace.too_slow(octets, waited, times) {
                    return Ok(Filled::TimedOut);
                }
                Ok(Filled::Some)
            }
            Ok(Err(e)) => Err(e),
        }
    }

    /// Between messages a connection holds little memory: there may be thousands that wait.
    fn make_room(&mut self, in_content: bool) {
        if in_content {
            if self.input.capacity() - self.input.len() < CONTENT_ROOM_MIN {
                self.input.reserve(CONTENT_BUFFER);
            }
        } else if self.input.is_empty() && self.input.capacity() > 2 * COMMAND_BUFFER {
            self.input = BytesMut::with_capacity(COMMAND_BUFFER);
        } else if self.input.capacity() - self.input.len() < COMMAND_ROOM_MIN {
            self.input.reserve(COMMAND_BUFFER);
        }
    }

    /// Closes our side and takes what the client still sends off the wire, for a short time.
    async fn linger(&mut self) {
        let until_eof = async {
            self.stream.shutdown().await?;
            let mut taken = 0;
            while taken < LINGER_OCTETS_MAX {
                self.input.clear();
                self.input.reserve(COMMAND_BUFFER);
                match self.stream.read(&mut self.input).await? {
                    0 => break,
                    octets => taken += octets,
                }
            }
            io::Result::Ok(())
        };
        // Whatever comes of it, the connection is over.
        let _ = timeout(self.listener.times.linger, until_eof).await;
    }
}

/// How long the client has been at it.
struct Pace {
    opened: Instant,
    /// Since when the current command or answer is waited for.
    since: Instant,
    /// Something was consumed since.
    progress: bool,
    /// Since when content comes.
    content: Option<Instant>,
    /// Octets of content, and time spent waiting for them: time that we needed is not the client's.
    octets: u64,
    waited: Duration,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            opened: now,
            since: now,
            progress: false,
            content: None,
            octets: 0,
            waited: Duration::ZERO,
        }
    }

    /// When waiting for the next octets ends.
    fn deadline(&mut self, phase: Phase, now: Instant, times: &Times) -> Instant {
        if let Phase::Content { size } = phase {
            let begun = *self.content.get_or_insert_with(|| {
                (self.octets, self.waited) = (0, Duration::ZERO);
                now
            });
            let for_size = Duration::from_secs(size / limits::DATA_RATE_MIN);
            return (now + times.data_idle).min(begun + times.data_absolute + for_size);
        }
        self.content = None;
        if std::mem::take(&mut self.progress) {
            self.since = now;
        }
        let limit = if phase == Phase::Auth {
            times.auth_step
        } else {
            times.command
        };
        (self.since + limit).min(self.opened + times.session)
    }

    /// Whether content comes in slower than it must. Judged by the window.
    fn too_slow(&mut self, octets: usize, waited: Duration, times: &Times) -> bool {
        self.octets += octets as u64;
        self.waited += waited;
        if self.waited < times.data_rate_window {
            return false;
        }
        let enough = self.waited.as_secs() * limits::DATA_RATE_MIN;
        let slow = self.octets < enough;
        (self.octets, self.waited) = (0, Duration::ZERO);
        slow
    }
}

/// IPv4 within IPv6 counts as IPv4, for trust and for limits.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn note_handshake<T>(ended: io::Result<T>) -> io::Result<T> {
    metrics::SMTP_TLS_HANDSHAKES.add_to(if ended.is_ok() { "ok" } else { "failed" }, 1);
    ended
}

/// A connection that waits for a command may hold 32 KiB (threats-and-faults §5). More than [`limits::LINE_CAP`] has to fit.
const COMMAND_BUFFER: usize = 16 * 1024;
const COMMAND_ROOM_MIN: usize = 2 * 1024;
/// One read takes what the socket has.
const CONTENT_BUFFER: usize = 64 * 1024;
const CONTENT_ROOM_MIN: usize = 16 * 1024;
/// 1, 2, 4, 8 times the first delay.
const AUTH_DELAY_DOUBLINGS: u32 = 3;
const LINGER_OCTETS_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_command_that_trickles_in_does_not_move_its_deadline() {
        let (times, start) = (Times::default(), Clock::start().instant());
        let mut pace = Pace::new(start);
        let limit = start + times.command;
        assert_eq!(pace.deadline(Phase::Command, start, &times), limit);
        let later = start + 50 * SECOND;
        assert_eq!(pace.deadline(Phase::Command, later, &times), limit);
        pace.progress = true;
        let moved = later + times.command;
        assert_eq!(pace.deadline(Phase::Command, later, &times), moved);
        assert_eq!(
            pace.deadline(Phase::Auth, later, &times),
            later + times.auth_step
        );
    }

    #[test]
    fn a_session_ends_after_an_hour_between_contents() {
        let (times, start) = (Times::default(), Clock::start().instant());
        let mut pace = Pace::new(start);
        pace.progress = true;
        let late = start + times.session - SECOND;
        let end = start + times.session;
        assert_eq!(pace.deadline(Phase::Command, late, &times), end);
        let content = Phase::Content { size: 0 };
        assert_eq!(pace.deadline(content, late, &times), late + times.data_idle);
    }

    #[test]
    fn content_has_a_deadline_by_its_size() {
        let (times, start) = (Times::default(), Clock::start().instant());
        let mut pace = Pace::new(start);
        let content = Phase::Content { size: 50_000 };
        assert_eq!(
            pace.deadline(content, start, &times),
            start + times.data_idle
        );
        let end = start + times.data_absolute + 100 * SECOND;
        let late = end - SECOND;
        assert_eq!(pace.deadline(content, late, &times), end);
    }

    #[test]
    fn content_slower_than_500_octets_a_second_is_noticed_and_our_own_time_does_not_count() {
        let (times, start) = (Times::default(), Clock::start().instant());
        let mut pace = Pace::new(start);
        pace.deadline(Phase::Content { size: 1_000_000 }, start, &times);
        assert!(!pace.too_slow(10, 59 * SECOND, &times));
        assert!(pace.too_slow(10, SECOND, &times));
        assert!(!pace.too_slow(15_000, 30 * SECOND, &times));
        assert!(!pace.too_slow(15_000, 30 * SECOND, &times));
        assert!(!pace.too_slow(1, Duration::ZERO, &times));
    }
}
