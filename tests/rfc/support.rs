//! A driver without a socket: feeds the session, answers its events from a script, collects what it says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use posthaste::mail::Reply;
use posthaste::smtp::server::command::Xclient;
use posthaste::smtp::server::session::{Event, Verdict};
use posthaste::smtp::server::submission::Client;
use posthaste::smtp::server::{Credentials, Role, Session, Settings, Submission};

/// What a test wants of listener and client. The default is a stranger on a listener with STARTTLS.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    pub(crate) tls: bool,
    /// Answers to content, if not yes.
    pub(crate) begin: Option<Reply>,
    pub(crate) push: Option<Reply>,
    pub(crate) finish: Option<Reply>,
}

impl Setup {
    pub(crate) fn stranger() -> Self {
        Self {
            settings: Settings {
                hostname: "mta.example".into(),
                size_max: 100_000,
                recipients_max: 1_000,
                starttls: true,
                role: Role::Submission,
                plain_auth: false,
                address_literals: false,
                error_delay: Duration::from_secs(1),
                stage: None,
            },
            client: Client {
                address: IpAddr::from([192, 0, 2, 1]),
                port: 4000,
                trusted: false,
                xclient: false,
            },
            tls: false,
            begin: None,
            push: None,
            finish: None,
        }
    }

    pub(crate) fn trusted() -> Self {
        let mut setup = Self::stranger();
        setup.client.trusted = true;
        setup
    }

    pub(crate) fn inside_tls() -> Self {
        Self {
            tls: true,
            ..Self::stranger()
        }
    }

    pub(crate) fn connect(self) -> Dialogue {
        Dialogue::new(self)
    }
}

/// One message that was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) submission: Submission,
    pub(crate) content: Vec<u8>,
    pub(crate) eight_bit: bool,
}

pub(crate) struct Dialogue {
    session: Session,
    setup: Setup,
    pending: Vec<u8>,
    current: Option<(Submission, Vec<u8>)>,
    pub(crate) messages: Vec<Message>,
    pub(crate) handshakes: usize,
    pub(crate) claims: Vec<Xclient>,
    pub(crate) delayed: Duration,
    pub(crate) closed: bool,
    challenges: u8,
}

impl Dialogue {
    fn new(setup: Setup) -> Self {
        let tls = setup.tls.then(|| TLS.to_owned());
        let settings = Arc::new(setup.settings.clone());
        Self {
            session: Session::new(settings, setup.client.clone(), tls),
            setup,
            pending: Vec::new(),
            current: None,
            messages: Vec::new(),
            handshakes: 0,
            claims: Vec::new(),
            delayed: Duration::ZERO,
            closed: false,
            challenges: 0,
        }
    }

    /// Sends octets; returns what the session says to them.
    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) -> String {
        self.pending.extend_from_slice(octets.as_ref());
        let pending = std::mem::take(&mut self.pending);
        let mut at = 0;
        while let Some(step) = self.session.step(&pending[at..]) {
            at += step.consumed;
            if let Some(event) = step.event {
                self.answer(event);
            }
        }
        if !self.closed {
            self.pending = pending[at..].to_vec();
        }
        self.delayed += self.session.take_delay();
        let said = String::from_utf8(self.session.output().to_vec()).expect("replies are UTF-8");
        self.session.output_written();
        said
    }

    /// Sends a line; the replies to it must begin as expected.
    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str, beginning: &str) -> String {
        let said = self.send(format!("{line}\r\n"));
        assert!(
            said.starts_with(beginning),
            "{line:?}: expected {beginning:?}, got {said:?}"
        );
        assert!(said.ends_with("\r\n"), "{said:?}");
        said
    }

    /// Greeting and EHLO.
    #[track_caller]
    pub(crate) fn hello(mut self) -> Self {
        self.expect("EHLO client.example", "220 ");
        self
    }

    /// A transaction up to its content.
    #[track_caller]
    pub(crate) fn envelope(&mut self) {
        self.expect("MAIL FROM:<ada@example.com>", "250 2.1.0 ");
        self.expect("RCPT TO:<bob@example.net>", "250 2.1.5 ");
    }

    /// Keywords of the last EHLO.
    #[track_caller]
    pub(crate) fn keywords(&mut self) -> Vec<String> {
        let said = self.send("EHLO client.example\r\n");
        let lines = said.lines().filter(|l| l.starts_with("250"));
        lines.skip(1).map(|l| l[4..].to_owned()).collect()
    }

    fn answer(&mut self, event: Event<'_>) {
        match event {
            Event::Challenge => {
                self.challenges += 1;
                self.session.challenge([self.challenges; 16]);
            }
            Event::Authenticate(credentials) => {
                let verdict = match &credentials {
                    Credentials::Password { user, password }
                        if user == "app" && password == "secret" =>
                    {
                        Verdict::Accepted
                    }
                    Credentials::CramMd5 { user, digest, .. }
                        if user == "app" && digest.starts_with("00") =>
                    {
                        Verdict::Accepted
                    }
                    credentials if credentials.user() == "locked" => Verdict::Locked,
                    _ => Verdict::Refused,
                };
                self.session.authenticated(verdict);
            }
            Event::StartTls => {
                assert_eq!(self.current, None);
                self.handshakes += 1;
                self.session.tls_started(TLS.to_owned());
            }
            Event::Xclient(claims) => {
                let mut client = self.setup.client.clone();
                if let Some(address) = claims.address {
                    client.address = address;
                    client.trusted = false;
                }
                let authenticated = claims.login.as_deref() == Some("app");
                let known = claims.login.is_none() || authenticated;
                self.claims.push(claims);
                self.session
                    .client_changed(known.then_some((client, authenticated)));
            }
            Event::Recipient(_) => self.session.recipient_judged(Ok(())),
            Event::Begin(submission) => {
                assert_eq!(self.current, None);
                let refusal = self.setup.begin.clone();
                if refusal.is_none() {
                    self.current = Some((*submission, Vec::new()));
                }
                self.session.begun(refusal.map_or(Ok(()), Err));
            }
            Event::Content(content) => {
                if let Some((_, current)) = &mut self.current {
                    current.extend_from_slice(content);
                    if let Some(refusal) = &self.setup.push {
                        self.current = None;
                        self.session.content_refused(refusal.clone());
                    }
                }
            }
            Event::Abandon => self.current = None,
            Event::EndOfContent(facts) => {
                let (submission, content) = self.current.take().expect("content was begun");
                assert_eq!(facts.octets, content.len() as u64);
                match &self.setup.finish {
                    Some(refusal) => self.session.finished(refusal),
                    None => {
                        self.messages.push(Message {
                            submission,
                            content,
                            eight_bit: facts.eight_bit,
                        });
                        let id = format!("OK {}", self.messages.len());
                        self.session.finished(&Reply::new(250, None, &id));
                    }
                }
            }
            Event::Close => {
                self.closed = true;
                self.current = None;
            }
        }
    }
}

const TLS: &str = "TLSv1.3 TLS13_AES_128_GCM_SHA256";
