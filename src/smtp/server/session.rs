//! The submission dialogue as a machine: octets in; replies and events out.
//!
//! It promises the order of RFC 5321 §4.1.4 and §4.3, the limits of `limits.rs`, and that nothing is executed that should
//! not be: not text behind STARTTLS, not the octets of a refused chunk, not a command ahead of a reply that is still due.
//! It knows no socket, no clock, no account and no file: [`super::driver`] answers its events. Whoever feeds it keeps what
//! was not consumed and gives it again with what came after; how the octets were cut makes no difference.
//!
//! [`Session::step`] does one thing at a time and returns slices of its input as content, so that content is not copied
//! here. While an event waits for its answer, `step` consumes nothing: pipelined commands stay where they are. Replies
//! gather in one buffer, which the driver writes when there is nothing left to do: one write for a pipelined group.
//!
//! RFC 6409 §4: a listener of this server only takes submissions, so the limit for messages on a connection without trust
//! or AUTH is met by there being none: RCPT is refused there.

mod commands;
mod content;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;

use crate::clock::UnixMs;
use crate::limits;
use crate::mail::{ForwardPath, Reply};
use crate::smtp::data::Decoder;
use crate::smtp::reply;

use super::auth::{Credentials, Exchange};
use super::command::{self, Command, Refusal, Xclient};
use super::submission::{Client, ContentFacts, Envelope, Recipient, Submission};

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Mail from our customers, who are trusted or authenticate themselves.
    Submission,
    /// Mail from anybody, for recipients that the driver is asked about one by one. Nobody authenticates here, and what
    /// concerns delivery (RFC 2852, 3461, 4865) is not offered.
    Inbound,
}

/// What a listener says to all its sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    pub role: Role,
    pub hostname: Arc<str>,
    /// RFC 1870: the largest content.
    pub size_max: u64,
    pub recipients_max: usize,
    /// STARTTLS can be had here.
    pub starttls: bool,
    /// AUTH is offered without TLS to everybody, not only to loopback.
    pub plain_auth: bool,
    /// RCPT may name an address literal.
    pub address_literals: bool,
    /// Delay of each reply after [`limits::ERRORS_BEFORE_DELAY`] errors.
    pub error_delay: Duration,
    /// Recipients that are refused on purpose; nothing is an error then that counts against the client.
    pub stage: Option<Stage>,
}

/// Says which recipients are refused, and how.
#[derive(Clone)]
pub struct Stage(pub Arc<Refusing>);

/// What a recipient is told; `None`: he is taken.
pub type Refusing = dyn Fn(&ForwardPath) -> Option<Reply> + Send + Sync;

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stage")
    }
}

/// What the driver has to do. Events marked *answer* stop the session until the named method is called.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Sixteen random octets are needed. Answer: [`Session::challenge`].
    Challenge,
    /// Answer: [`Session::authenticated`].
    Authenticate(Credentials),
    /// Write what is due, then do the handshake. Answer: [`Session::tls_started`].
    StartTls,
    /// The client is another one than thought. Answer: [`Session::client_changed`].
    Xclient(Xclient),
    /// Somebody is named as a recipient. Answer: [`Session::recipient_judged`].
    Recipient(ForwardPath),
    /// Content is about to come. Answer: [`Session::begun`].
    Begin(Box<Submission>),
    /// The next octets of content. [`Session::content_refused`] ends the matter early.
    Content(&'a [u8]),
    /// Answer: [`Session::finished`].
    EndOfContent(ContentFacts),
    /// The content of the transaction is void.
    Abandon,
    /// Write what is due, then close. Nothing follows.
    Close,
}

/// The driver's word on credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    Refused,
    /// The client's address failed too often (454).
    Locked,
}

/// What [`Session::step`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    pub consumed: usize,
    pub event: Option<Event<'a>>,
}

/// What the session waits for, for time-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Command,
    Auth,
    /// With the size that the absolute deadline is computed from.
    Content {
        size: u64,
    },
}

/// One dialogue. See the module.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    client: Client,
    /// What XCLIENT overrides.
    claimed: Xclient,
    tls: Option<String>,
    authenticated: bool,
    hello: Option<Hello>,
    transaction: Option<Transaction>,
    state: State,
    counters: Counters,
    out: Vec<u8>,
    delay: Duration,
    /// As the driver told it last: for parameters that name a time.
    now: UnixMs,
}

#[derive(Debug)]
struct Hello {
    name: String,
    extended: bool,
}

/// From MAIL on.
#[derive(Debug)]
struct Transaction {
    envelope: Envelope,
    /// A RCPT was refused.
    refused: bool,
    /// From the first BDAT on. The envelope has gone out with [`Event::Begin`].
    chunks: Option<Decoder>,
    /// RFC 3030 §2: a chunk failed; only RSET helps.
    dead: bool,
}

/// A transition takes the old state out, so that a state that owns something cannot be left behind half used.
#[derive(Debug)]
enum State {
    Command,
    Auth(Exchange),
    Awaiting(Awaited),
    Data(Data),
    Chunk {
        remaining: u64,
        last: bool,
    },
    /// Octets of a refused chunk: counted, never executed.
    Swallow {
        remaining: u64,
        refusal: Reply,
    },
    Closing,
    Closed,
}

#[derive(Debug)]
enum Awaited {
    Challenge,
    Verdict,
    Tls,
    Client,
    Recipient(Recipient),
    BeginData { size: u64 },
    BeginChunk { chunk: u64, last: bool },
    Finish,
}

#[derive(Debug)]
struct Data {
    decoder: Decoder,
    /// Decided before the end was found, told after it.
    refusal: Option<Reply>,
    ended: bool,
    size: u64,
}

/// Counted in a session; errors and junk only since the last accepted message, as Postfix does, so that a long-lived
/// connection is not closed for the sum of an hour's mishaps.
#[derive(Debug, Default)]
struct Counters {
    errors: u32,
    junk: u32,
    surplus: usize,
    auth_failures: u32,
    /// Errors since DATA was refused: what follows may be content that is not meant as commands.
    errors_since_refused_data: Option<u32>,
}

impl Session {
    /// Begins with the greeting in the output.
    pub fn new(settings: Arc<Settings>, client: Client, tls: Option<String>) -> Self {
        let mut session = Self {
            settings,
            client,
            claimed: Xclient::default(),
            tls,
            authenticated: false,
            hello: None,
            transaction: None,
            state: State::Command,
            counters: Counters::default(),
            out: Vec::with_capacity(256),
            delay: Duration::ZERO,
            now: 0,
        };
        session.greet();
        session
    }

    /// What time it is; to be told before [`Session::step`] whenever time has passed.
    pub fn observe(&mut self, now: UnixMs) {
        self.now = now;
    }

    /// Does the next thing, or nothing until there is more input or the last event's answer. Call until there is nothing to
    /// do; then write the output and read on.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Option<Step<'a>> {
        match std::mem::replace(&mut self.state, State::Command) {
            State::Command => self.command_step(input),
            State::Auth(exchange) => self.auth_step(exchange, input),
            State::Data(data) => self.data_step(data, input),
            State::Chunk { remaining, last } => self.chunk_step(remaining, last, input),
            State::Swallow { remaining, refusal } => self.swallow_step(remaining, refusal, input),
            State::Closing => {
                self.state = State::Closed;
                Step::event(0, Event::Close)
            }
            state @ (State::Awaiting(_) | State::Closed) => {
                self.state = state;
                None
            }
        }
    }

    /// Replies that are due.
    pub fn output(&self) -> &[u8] {
        &self.out
    }

    /// The output was written.
    pub fn output_written(&mut self) {
        self.out.clear();
    }

    /// How long to wait before writing the output: what errors have earned.
    pub fn take_delay(&mut self) -> Duration {
        std::mem::take(&mut self.delay)
    }

    pub fn phase(&self) -> Phase {
        let size_max = self.settings.size_max;
        match &self.state {
            State::Auth(_) => Phase::Auth,
            State::Data(data) => Phase::Content { size: data.size },
            State::Chunk { .. } => Phase::Content { size: size_max },
            State::Swallow { remaining, .. } => Phase::Content { size: *remaining },
            _ => Phase::Command,
        }
    }

    /// Ends the dialogue with a last word: time-out, stop, limits of the node.
    pub fn close(&mut self, reply: &Reply) {
        reply.write_to(&mut self.out);
        self.state = State::Closed;
    }

    // Answers.

    pub fn challenge(&mut self, random: [u8; 16]) {
        let State::Awaiting(Awaited::Challenge) = self.state else {
            panic!("a challenge was not asked for in {:?}", self.state);
        };
        self.ask(Exchange::cram_md5(random, &self.settings.hostname));
    }

    pub fn authenticated(&mut self, verdict: Verdict) {
        let State::Awaiting(Awaited::Verdict) = self.state else {
            panic!("no credentials wait for a verdict in {:?}", self.state);
        };
        self.state = State::Command;
        match verdict {
            Verdict::Accepted => {
                self.authenticated = true;
                self.say(&reply::AUTHENTICATED);
            }
            Verdict::Refused => {
                self.counters.auth_failures += 1;
                self.error(&reply::AUTH_FAILED);
                if self.counters.auth_failures >= limits::AUTH_FAILURES_PER_SESSION {
                    self.close_after(&reply::TOO_MANY_AUTH_FAILURES);
                }
            }
            Verdict::Locked => self.error(&reply::AUTH_LOCKED),
        }
    }

    /// The handshake is done; `description` names version and cipher suite.
    pub fn tls_started(&mut self, description: String) {
        let State::Awaiting(Awaited::Tls) = self.state else {
            panic!("STARTTLS was not asked for in {:?}", self.state);
        };
        // RFC 3207 §4.2: what was said before the handshake is forgotten; anybody may have said it.
        self.state = State::Command;
        self.tls = Some(description);
        self.authenticated = false;
        self.hello = None;
        self.transaction = None;
        self.claimed = Xclient::default();
    }

    /// Who the client is after XCLIENT, and whether its login was accepted; `None`: it named a login that nobody has.
    pub fn client_changed(&mut self, change: Option<(Client, bool)>) {
        let State::Awaiting(Awaited::Client) = self.state else {
            panic!("XCLIENT was not given in {:?}", self.state);
        };
        self.state = State::Command;
        match change {
            Some((client, authenticated)) => {
                // Whether XCLIENT may be used is decided by the connection, not by what it claims to be.
                self.client = Client {
                    xclient: true,
                    ..client
                };
                self.authenticated = authenticated;
                self.hello = None;
                self.greet();
            }
            None => self.error(&reply::XCLIENT_LOGIN),
        }
    }

    /// Whether the recipient is one.
    pub fn recipient_judged(&mut self, answer: Result<(), Reply>) {
        let state = std::mem::replace(&mut self.state, State::Command);
        let State::Awaiting(Awaited::Recipient(recipient)) = state else {
            panic!("no recipient waits for a verdict in {state:?}");
        };
        self.answer_rcpt(answer.map(|()| recipient));
    }

    /// Whether content is welcome.
    pub fn begun(&mut self, answer: Result<(), Reply>) {
        let state = std::mem::replace(&mut self.state, State::Command);
        match (state, answer) {
            (State::Awaiting(Awaited::BeginData { size }), Ok(())) => {
                self.out.extend_from_slice(reply::GO_AHEAD);
                self.state = State::Data(Data {
                    decoder: Decoder::dots(),
                    refusal: None,
                    ended: false,
                    size,
                });
            }
            (State::Awaiting(Awaited::BeginData { .. }), Err(refusal)) => {
                self.transaction = None;
                self.refuse_data(&refusal);
            }
            (State::Awaiting(Awaited::BeginChunk { chunk, last }), Ok(())) => {
                self.state = State::Chunk {
                    remaining: chunk,
                    last,
                };
            }
            (State::Awaiting(Awaited::BeginChunk { chunk, .. }), Err(refusal)) => {
                self.swallow(chunk, refusal);
            }
            (state, _) => panic!("no content was announced in {state:?}"),
        }
    }

    /// The content of which a piece was just given is not wanted. Its true end is still looked for.
    pub fn content_refused(&mut self, refusal: Reply) {
        match std::mem::replace(&mut self.state, State::Command) {
            State::Data(data) => {
                self.state = State::Data(Data {
                    refusal: Some(data.refusal.unwrap_or(refusal)),
                    ..data
                });
            }
            State::Chunk { remaining, .. } => self.swallow(remaining, refusal),
            state => panic!("no content is coming in {state:?}"),
        }
    }

    /// The last word on a message. A positive reply says that it is durable: the driver makes it from a receipt.
    pub fn finished(&mut self, reply: &Reply) {
        let State::Awaiting(Awaited::Finish) = self.state else {
            panic!("no content has ended in {:?}", self.state);
        };
        self.state = State::Command;
        if reply.is_positive() {
            self.counters.errors = 0;
            self.counters.junk = 0;
            self.counters.surplus = 0;
            self.say(reply);
        } else {
            self.refuse(reply);
        }
    }

    // Input.

    fn command_step<'a>(&mut self, input: &'a [u8]) -> Option<Step<'a>> {
        // A TLS client on a plain port; no CRLF is to be expected.
        if input.first() == Some(&TLS_HANDSHAKE_RECORD) {
            self.close_after(&reply::NOT_SMTP);
            return Step::consumed(input.len());
        }
        let auth = command::begins_auth(input);
        let (line, consumed) = match line(input) {
            Line::Complete(line, consumed) => (line, consumed),
            Line::Incomplete => return None,
            Line::Endless => {
                self.close_after(&too_long(auth));
                return Step::consumed(input.len());
            }
        };
        let longest = if auth {
            limits::AUTH_LINE_MAX
        } else {
            limits::COMMAND_LINE_MAX
        };
        if consumed > longest {
            self.error(&too_long(auth));
            return Step::consumed(consumed);
        }
        let event = match command::parse(line) {
            Ok(Command::StartTls) => self.start_tls(consumed < input.len()),
            Ok(command) => self.execute(command),
            Err(Refusal::Reply(refusal)) => {
                self.error(&refusal);
                None
            }
            Err(Refusal::Close(refusal)) => {
                self.close_after(&refusal);
                None
            }
        };
        Some(Step { consumed, event })
    }

    fn auth_step<'a>(&mut self, exchange: Exchange, input: &'a [u8]) -> Option<Step<'a>> {
        let (line, consumed) = match line(input) {
            Line::Complete(line, consumed) => (line, consumed),
            Line::Incomplete => {
                self.state = State::Auth(exchange);
                return None;
            }
            Line::Endless => {
                self.close_after(&reply::AUTH_LINE_TOO_LONG);
                return Step::consumed(input.len());
            }
        };
        if consumed > limits::AUTH_LINE_MAX {
            self.error(&reply::AUTH_LINE_TOO_LONG);
            return Step::consumed(consumed);
        }
        let event = self.progress(exchange.respond(line));
        Some(Step { consumed, event })
    }

    // Helpers.

    fn end_transaction<'a>(&mut self) -> Option<Event<'a>> {
        let transaction = self.transaction.take()?;
        transaction.chunks.map(|_| Event::Abandon)
    }

    fn greet(&mut self) {
        let greeting = format!("220 {} ESMTP Posthaste\r\n", self.settings.hostname);
        self.out.extend_from_slice(greeting.as_bytes());
    }

    fn say(&mut self, reply: &Reply) {
        reply.write_to(&mut self.out);
    }

    /// A refusal that is the client's fault when it is permanent.
    fn refuse(&mut self, reply: &Reply) {
        if reply.is_permanent() {
            self.error(reply);
        } else {
            self.say(reply);
        }
    }

    fn refuse_data(&mut self, reply: &Reply) {
        self.counters.errors_since_refused_data = Some(0);
        self.refuse(reply);
    }

    fn error(&mut self, reply: &Reply) {
        self.say(reply);
        let counters = &mut self.counters;
        counters.errors += 1;
        if self.settings.stage.is_some() {
            return;
        }
        let mut hostile = counters.errors >= limits::ERRORS_MAX;
        if let Some(errors) = &mut counters.errors_since_refused_data {
            *errors += 1;
            hostile |= *errors > limits::ERRORS_BEFORE_DELAY;
        }
        if counters.errors > limits::ERRORS_BEFORE_DELAY {
            self.delay += self.settings.error_delay;
        }
        if hostile {
            self.close_after(&reply::TOO_MANY_ERRORS);
        }
    }

    fn junk(&mut self, reply: &Reply) {
        self.say(reply);
        self.count_junk();
    }

    fn count_junk(&mut self) {
        self.counters.junk += 1;
        if self.counters.junk > limits::JUNK_COMMANDS_MAX {
            self.close_after(&reply::TOO_MANY_COMMANDS);
        }
    }

    /// One last word is enough.
    fn close_after(&mut self, reply: &Reply) {
        if !matches!(self.state, State::Closing) {
            self.say(reply);
            self.state = State::Closing;
        }
    }
}

impl<'a> Step<'a> {
    #[expect(
        clippy::unnecessary_wraps,
        reason = "reads as the answer of `Session::step`"
    )]
    fn consumed(consumed: usize) -> Option<Self> {
        let event = None;
        Some(Self { consumed, event })
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "reads as the answer of `Session::step`"
    )]
    fn event(consumed: usize, event: Event<'a>) -> Option<Self> {
        let event = Some(event);
        Some(Self { consumed, event })
    }
}

enum Line<'a> {
    /// Without CRLF; octets with it.
    Complete(&'a [u8], usize),
    Incomplete,
    /// No CRLF within [`limits::LINE_CAP`].
    Endless,
}

/// RFC 5321 §2.3.8: a line ends at CRLF and nowhere else.
fn line(input: &[u8]) -> Line<'_> {
    let window = input.get(..limits::LINE_CAP).unwrap_or(input);
    match memmem::find(window, b"\r\n") {
        Some(end) => Line::Complete(input.get(..end).unwrap_or_default(), end + 2),
        None if input.len() >= limits::LINE_CAP => Line::Endless,
        None => Line::Incomplete,
    }
}

fn too_long(auth: bool) -> Reply {
    if auth {
        reply::AUTH_LINE_TOO_LONG
    } else {
        reply::LINE_TOO_LONG
    }
}

/// RFC 8446 §5.1: the first octet of a ClientHello record.
const TLS_HANDSHAKE_RECORD: u8 = 0x16;
