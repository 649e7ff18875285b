//! What each command does, and in which order commands may come (RFC 5321 §4.1.4).

use crate::clock::rfc3339_seconds;
use crate::limits;
use crate::mail::{AddressError, ForwardPath, Reply, ReversePath};
use crate::smtp::data::Decoder;
use crate::smtp::reply;

use super::super::auth::{self, Exchange, Mechanism, Progress};
use super::super::command::{Command, Xclient};
use super::super::parameters::{self, MailParameters};
use super::super::submission::{Envelope, Recipient, Submission};
use super::{Awaited, Event, Hello, Role, Session, Stage, State, Transaction};

impl Session {
    pub(super) fn execute<'a>(&mut self, command: Command<'_>) -> Option<Event<'a>> {
        match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail(path, parameters) => {
                self.mail(path, parameters);
                None
            }
            Command::Rcpt(path, parameters) => self.rcpt(path, parameters),
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Xclient(claims) => self.xclient(claims),
            Command::Rset => {
                self.junk(&reply::OK);
                self.end_transaction()
            }
            Command::Noop => {
                self.junk(&reply::OK);
                None
            }
            Command::Vrfy => {
                self.junk(&reply::VRFY);
                None
            }
            Command::Help => {
                self.junk(&reply::HELP);
                None
            }
            Command::Quit => {
                self.close_after(&reply::BYE);
                None
            }
            // Taken before: it alone has to see what lies behind its line.
            Command::StartTls => None,
        }
    }

    fn hello<'a>(&mut self, name: &str, extended: bool) -> Option<Event<'a>> {
        self.hello = Some(Hello {
            name: name.to_owned(),
            extended,
        });
        // RFC 5321 §4.1.4: EHLO in mid-session is a RSET.
        let event = self.end_transaction();
        if extended {
            self.announce();
            self.count_junk();
        } else {
            let greeting = format!("250 {}\r\n", self.settings.hostname);
            self.out.extend_from_slice(greeting.as_bytes());
            self.count_junk();
        }
        event
    }

    fn announce(&mut self) {
        use std::fmt::Write as _;
        let mut text = format!("250-{}\r\n250-PIPELINING\r\n", self.settings.hostname);
        // Writing into a String cannot fail.
        let _ = write!(text, "250-SIZE {}\r\n", self.settings.size_max);
        if self.settings.starttls && self.tls.is_none() {
            text.push_str("250-STARTTLS\r\n");
        }
        if self.auth_allowed() {
            let _ = write!(text, "250-AUTH {}\r\n", auth::MECHANISMS);
        }
        if self.client.xclient {
            text.push_str("250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN\r\n");
        }
        text.push_str("250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n");
        if self.settings.role == Role::Inbound {
            text.push_str("250 CHUNKING\r\n");
            self.out.extend_from_slice(text.as_bytes());
            return;
        }
        // A stage is nobody's mailbox: notices are for whoever sends there.
        if self.settings.stage.is_none() {
            text.push_str("250-DSN\r\n");
        }
        // RFC 2852 §3: the least time. RFC 4865 §4: seconds, and the date-time that they lead to from now.
        let by_min = limits::DELIVER_BY_MIN.as_secs();
        let hold_max = limits::SCHEDULE_MAX;
        let until = rfc3339_seconds(self.now + hold_max.as_secs() * 1_000);
        let hold_max = hold_max.as_secs();
        let _ = write!(
            text,
            "250-DELIVERBY {by_min}\r\n250-FUTURERELEASE {hold_max} {until}\r\n250 CHUNKING\r\n"
        );
        self.out.extend_from_slice(text.as_bytes());
    }

    fn mail(&mut self, path: &str, text: &str) {
        let Some(hello) = &self.hello else {
            return self.error(&reply::HELLO_FIRST);
        };
        let extended = hello.extended;
        match &self.transaction {
            Some(t) if t.dead => return self.error(&reply::DEAD_TRANSACTION),
            Some(_) => return self.error(&reply::NESTED_MAIL),
            None => {}
        }
        // RFC 5321 §4.1.1.11: parameters belong to extensions, which HELO did not agree on.
        if !extended && !text.is_empty() {
            return self.error(&reply::UNKNOWN_PARAMETER);
        }
        let parameters = match MailParameters::parse(text) {
            Ok(parameters) => parameters,
            Err(refusal) => return self.error(&refusal),
        };
        let reverse_path = match ReversePath::parse(path, parameters.smtputf8) {
            Ok(path) => path,
            Err(e) => return self.error(&address_refusal(e, reply::BAD_REVERSE_PATH)),
        };
        // RFC 1870 §6.1: refused at MAIL, so that nothing need be sent.
        if parameters.size.is_some_and(|s| s > self.settings.size_max) {
            return self.error(&reply::TOO_BIG);
        }
        if let Err(refusal) = parameters.check_hold(self.now) {
            return self.error(&refusal);
        }
        self.counters.errors_since_refused_data = None;
        self.transaction = Some(Transaction {
            envelope: Envelope {
                reverse_path,
                recipients: Vec::new(),
                declared_size: parameters.size,
                body: parameters.body.unwrap_or_default(),
                smtputf8: parameters.smtputf8,
                envelope_id: parameters.envelope_id,
                ret: parameters.ret,
                hold: parameters.hold,
                deliver_by: parameters.deliver_by,
            },
            refused: false,
            chunks: None,
            dead: false,
        });
        self.say(&reply::SENDER_OK);
    }

    fn rcpt<'a>(&mut self, path: &str, text: &str) -> Option<Event<'a>> {
        let answer = self.recipient(path, text).and_then(|r| self.staged(r));
        match (answer, self.settings.role) {
            (Ok(recipient), Role::Inbound) => {
                let path = recipient.path.clone();
                self.state = State::Awaiting(Awaited::Recipient(recipient));
                Some(Event::Recipient(path))
            }
            (answer, _) => {
                self.answer_rcpt(answer);
                None
            }
        }
    }

    pub(super) fn answer_rcpt(&mut self, answer: Result<Recipient, Reply>) {
        if let Some(transaction) = &mut self.transaction {
            transaction.refused |= answer.is_err();
        }
        match answer {
            Ok(recipient) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.envelope.recipients.push(recipient);
                }
                self.say(&reply::RECIPIENT_OK);
            }
            // RFC 5321 §4.5.3.1.10: a client that sends too many at once is not at fault, within reason.
            Err(refusal) if refusal.code == reply::TOO_MANY_RECIPIENTS.code => {
                self.counters.surplus += 1;
                self.say(&refusal);
                if self.counters.surplus > SURPLUS_RECIPIENTS_MAX {
                    self.close_after(&reply::TOO_MANY_COMMANDS);
                }
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn recipient(&mut self, path: &str, text: &str) -> Result<Recipient, Reply> {
        let allowed = self.may_send();
        let extended = self.hello.as_ref().is_some_and(|h| h.extended);
        let transaction = self.transaction.as_mut().ok_or(reply::MAIL_FIRST)?;
        if transaction.dead {
            return Err(reply::DEAD_TRANSACTION);
        }
        if transaction.chunks.is_some() {
            return Err(reply::IN_CHUNKS);
        }
        if !extended && !text.is_empty() {
            return Err(reply::UNKNOWN_PARAMETER);
        }
        let smtputf8 = transaction.envelope.smtputf8;
        let dsn = parameters::parse_rcpt(text, smtputf8)?;
        let is_inbound = self.settings.role == Role::Inbound;
        // RFC 5321 §4.5.1: without a domain it is ours; a submission server has no mailboxes.
        let is_ours = is_inbound && path.eq_ignore_ascii_case("postmaster");
        let own = is_ours.then(|| format!("{path}@{}", self.settings.hostname));
        let parse = match is_inbound {
            true => ForwardPath::parse_returned,
            false => ForwardPath::parse,
        };
        let path = parse(own.as_deref().unwrap_or(path), smtputf8)
            .map_err(|e| address_refusal(e, reply::BAD_FORWARD_PATH))?;
        allowed?;
        if path.domain().literal().is_some() && !self.settings.address_literals {
            return Err(reply::ADDRESS_LITERAL);
        }
        if transaction.envelope.recipients.len() >= self.settings.recipients_max {
            return Err(reply::TOO_MANY_RECIPIENTS);
        }
        Ok(Recipient { path, dsn })
    }

    /// Some are refused on purpose.
    fn staged(&self, recipient: Recipient) -> Result<Recipient, Reply> {
        let stage = self.settings.stage.as_ref();
        match stage.and_then(|Stage(refuse)| refuse(&recipient.path)) {
            Some(refusal) => Err(refusal),
            None => Ok(recipient),
        }
    }

    /// Whether this client may hand in mail. MAIL is taken from everybody, like Postfix does, so that a refusal can be
    /// logged with its recipient. RFC 4954 §6 has 530 for those who could help it by AUTH; the others are strangers.
    fn may_send(&self) -> Result<(), Reply> {
        if self.authenticated || self.client.trusted || self.settings.role == Role::Inbound {
            Ok(())
        } else if self.auth_allowed() || self.settings.starttls {
            Err(reply::AUTH_REQUIRED)
        } else {
            Err(reply::RELAY_DENIED)
        }
    }

    fn data<'a>(&mut self) -> Option<Event<'a>> {
        let refusal = match &self.transaction {
            None => Some(reply::MAIL_FIRST),
            Some(t) => t.refusal(),
        };
        // RFC 3030 §2: DATA and BDAT never share a transaction.
        let mixed = self
            .transaction
            .as_ref()
            .is_some_and(|t| t.chunks.is_some());
        if let Some(refusal) = refusal.or(mixed.then_some(reply::IN_CHUNKS)) {
            self.refuse_data(&refusal);
            return None;
        }
        let (submission, declared) = self.submission()?;
        self.state = State::Awaiting(Awaited::BeginData {
            size: declared.unwrap_or(self.settings.size_max),
        });
        Some(Event::Begin(submission))
    }

    fn bdat<'a>(&mut self, size: u64, last: bool) -> Option<Event<'a>> {
        let size_max = self.settings.size_max;
        if size > size_max {
            // More than may be swallowed: what follows cannot be told from commands any more.
            self.close_after(&reply::TOO_BIG);
            return None;
        }
        let refusal = match &self.transaction {
            None => Some(reply::MAIL_FIRST),
            Some(t) => t.refusal(),
        };
        if let Some(refusal) = refusal {
            // The code is 503 even where DATA has 554: an order was not kept (threats-and-faults §2.1).
            let refusal = if refusal == reply::NO_VALID_RECIPIENTS {
                reply::RCPT_FIRST
            } else {
                refusal
            };
            self.swallow(size, refusal);
            return None;
        }
        let transaction = self.transaction.as_mut()?;
        match &transaction.chunks {
            Some(decoder) if decoder.octets() + size > size_max => {
                self.swallow(size, reply::TOO_BIG);
                Some(Event::Abandon)
            }
            Some(_) => {
                self.state = State::Chunk {
                    remaining: size,
                    last,
                };
                // A chunk of nothing is complete at once.
                if size == 0 {
                    self.count_junk();
                }
                None
            }
            None => {
                let (submission, _) = self.submission()?;
                if let Some(transaction) = &mut self.transaction {
                    transaction.chunks = Some(Decoder::chunks());
                }
                self.state = State::Awaiting(Awaited::BeginChunk { chunk: size, last });
                Some(Event::Begin(submission))
            }
        }
    }

    fn auth<'a>(&mut self, mechanism: &str, initial: Option<&str>) -> Option<Event<'a>> {
        let refusal = match &self.hello {
            _ if self.settings.role == Role::Inbound => Some(reply::NOT_IMPLEMENTED),
            _ if !self.auth_allowed() => Some(reply::TLS_REQUIRED),
            None => Some(reply::HELLO_FIRST),
            Some(hello) if !hello.extended => Some(reply::HELLO_FIRST),
            // RFC 4954 §4: once, and not within a transaction.
            Some(_) if self.authenticated => Some(reply::AUTH_TWICE),
            Some(_) if self.transaction.is_some() => Some(reply::IN_TRANSACTION),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            self.error(&refusal);
            return None;
        }
        let exchange = match (Mechanism::parse(mechanism), initial) {
            (None, _) => {
                self.error(&reply::AUTH_MECHANISM);
                return None;
            }
            (Some(Mechanism::CramMd5), Some(_)) => {
                self.error(&reply::AUTH_NO_INITIAL);
                return None;
            }
            (Some(Mechanism::CramMd5), None) => {
                self.state = State::Awaiting(Awaited::Challenge);
                return Some(Event::Challenge);
            }
            (Some(Mechanism::Plain), _) => Exchange::Plain,
            (Some(Mechanism::Login), _) => Exchange::LoginUser,
        };
        match initial {
            Some(text) => self.progress(exchange.respond_initial(text)),
            None => {
                self.ask(exchange);
                None
            }
        }
    }

    pub(super) fn progress<'a>(&mut self, progress: Progress) -> Option<Event<'a>> {
        match progress {
            Progress::Ask(exchange) => {
                self.ask(exchange);
                None
            }
            Progress::Done(credentials) => {
                self.state = State::Awaiting(Awaited::Verdict);
                Some(Event::Authenticate(credentials))
            }
            Progress::Malformed => {
                self.error(&reply::AUTH_MALFORMED);
                None
            }
            Progress::Cancelled => {
                self.error(&reply::AUTH_CANCELLED);
                None
            }
        }
    }

    pub(super) fn ask(&mut self, exchange: Exchange) {
        self.out.extend_from_slice(exchange.prompt().as_bytes());
        self.state = State::Auth(exchange);
    }

    pub(super) fn start_tls<'a>(&mut self, more_buffered: bool) -> Option<Event<'a>> {
        if self.tls.is_some() {
            self.error(&reply::TLS_ACTIVE);
        } else if !self.settings.starttls {
            self.error(&reply::NOT_IMPLEMENTED);
        } else if self.transaction.is_some() {
            self.error(&reply::IN_TRANSACTION);
        } else if more_buffered {
            // Whoever put it there wants it executed inside TLS, in the client's name (CVE-2011-0411).
            self.close_after(&reply::TLS_INJECTION);
        } else {
            self.say(&reply::READY_FOR_TLS);
            self.state = State::Awaiting(Awaited::Tls);
            return Some(Event::StartTls);
        }
        None
    }

    fn xclient<'a>(&mut self, claims: Xclient) -> Option<Event<'a>> {
        if !self.client.xclient {
            self.error(&reply::XCLIENT_REFUSED);
            return None;
        }
        if self.transaction.is_some() {
            self.error(&reply::IN_TRANSACTION);
            return None;
        }
        self.claimed = claims.clone();
        self.state = State::Awaiting(Awaited::Client);
        Some(Event::Xclient(claims))
    }

    fn auth_allowed(&self) -> bool {
        let safe = self.tls.is_some() || self.settings.plain_auth;
        self.settings.role == Role::Submission && (safe || self.client.address.is_loopback())
    }

    /// Takes the envelope out for [`Event::Begin`]; the transaction stays, to keep order.
    fn submission(&mut self) -> Option<(Box<Submission>, Option<u64>)> {
        let protocol = self.protocol();
        let helo = self.claimed.helo.clone();
        let helo = helo.or_else(|| self.hello.as_ref().map(|h| h.name.clone()))?;
        let transaction = self.transaction.as_mut()?;
        let declared = transaction.envelope.declared_size;
        let envelope = Envelope {
            reverse_path: std::mem::replace(
                &mut transaction.envelope.reverse_path,
                ReversePath::Null,
            ),
            recipients: std::mem::take(&mut transaction.envelope.recipients),
            envelope_id: transaction.envelope.envelope_id.take(),
            ..transaction.envelope
        };
        let submission = Submission {
            envelope,
            client_address: self.client.address,
            client_port: self.client.port,
            client_name: self.claimed.name.clone(),
            helo,
            protocol,
            tls: self.tls.clone(),
        };
        Some((Box::new(submission), declared))
    }

    fn protocol(&self) -> &'static str {
        let extended = self.hello.as_ref().is_some_and(|h| h.extended);
        let utf8 = (self.transaction.as_ref()).is_some_and(|t| t.envelope.smtputf8);
        match (
            self.claimed.extended.unwrap_or(extended),
            utf8,
            self.tls.is_some(),
            self.authenticated,
        ) {
            (false, ..) => "SMTP",
            (true, false, false, false) => "ESMTP",
            (true, false, false, true) => "ESMTPA",
            (true, false, true, false) => "ESMTPS",
            (true, false, true, true) => "ESMTPSA",
            (true, true, false, false) => "UTF8SMTP",
            (true, true, false, true) => "UTF8SMTPA",
            (true, true, true, false) => "UTF8SMTPS",
            (true, true, true, true) => "UTF8SMTPSA",
        }
    }
}

impl Transaction {
    /// Why no content may come.
    fn refusal(&self) -> Option<Reply> {
        if self.dead {
            Some(reply::DEAD_TRANSACTION)
        } else if self.chunks.is_some() || !self.envelope.recipients.is_empty() {
            None
        } else if self.refused {
            // RFC 5321 §3.3: 554 when every RCPT was refused.
            Some(reply::NO_VALID_RECIPIENTS)
        } else {
            Some(reply::RCPT_FIRST)
        }
    }
}

fn address_refusal(error: AddressError, malformed: Reply) -> Reply {
    match error {
        AddressError::NeedsSmtpUtf8 | AddressError::BadUnicode => reply::NEEDS_SMTPUTF8,
        AddressError::SourceRoute => Reply::fixed(
            malformed.code,
            5,
            1,
            malformed.status.map_or(3, |s| s.detail),
            "Source routes are not accepted",
        ),
        AddressError::Syntax
        | AddressError::NoDomain
        | AddressError::Domain
        | AddressError::LocalPartTooLong => malformed,
    }
}

/// RCPT beyond the limit that a session may send before they count as a flood: the cap of recipients in a message.
const SURPLUS_RECIPIENTS_MAX: usize = 10_000;
