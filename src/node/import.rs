//! Taking messages over from another node: what `posthaste spool import` talks to.
//!
//! Promises: a message that is answered *accepted* is durable and will be delivered, with the id, the age and the octets
//! that it had; one that this node knows is not taken again, so that an import may be repeated from its beginning
//! after whatever stopped it. Does not know files, and not the other node.
//!
//! How: a session knows the ids of all messages in the mail log and of those whose *accepted* event says that they were
//! imported: what was imported and has left again is in the event log only. Both logs are read once for that, by a thread
//! that then waits for the session's end.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;
use spool_format::{ErasedRecord, kind};

use super::admin::Backend;
use super::dispatch::IMPORTED;
use super::messages::{notify_of, return_of};
use crate::accept::{AcceptedRecipient, Context, Import, Intake, Refusal};
use crate::clock::{self, UnixMs};
use crate::event::{Event, EventKind};
use crate::http::{AdminError, Upload, wire};
use crate::limits;
use crate::mail::{DsnRecipient, ForwardPath, MessageId, ReversePath};
use crate::smtp::data::Decoder;
use crate::spool::Spool;

type Ids = FxHashSet<[u8; 16]>;

/// The session, if there is one.
#[derive(Default)]
pub(super) struct Imports {
    session: Mutex<Session>,
}

#[derive(Default)]
struct Session {
    last_id: u64,
    open: Option<Open>,
}

struct Open {
    touched: UnixMs,
    /// `None`: they are being read.
    known: Option<Ids>,
}

impl Imports {
    pub(super) fn begin(backend: &Backend) -> Result<wire::Import, AdminError> {
        let imports = Arc::clone(&backend.imports);
        let id = {
            let mut session = imports.session();
            if session.open.is_some() {
                return Err(AdminError::Conflict(
                    "another import is under way; its end is to be waited for".to_owned(),
                ));
            }
            session.last_id += 1;
            session.open = Some(Open {
                touched: backend.clock.unix_ms(),
                known: None,
            });
            session.last_id
        };
        let (own, backend) = (Arc::clone(&imports), backend.clone());
        let thread = std::thread::Builder::new().name("import".to_owned());
        let started = thread.spawn(move || own.attend(&backend, id));
        if let Err(error) = started {
            imports.session().open = None;
            return Err(AdminError::Unavailable(format!("no thread: {error}")));
        }
        imports.look(id)
    }

    pub(super) fn look(&self, id: u64) -> Result<wire::Import, AdminError> {
        let session = self.session();
        let open = session.open(id)?;
        let state = if open.known.is_some() { READY } else { READING };
        Ok(wire::Import {
            id,
            state: state.to_owned(),
            known: open.known.as_ref().map_or(0, |known| known.len() as u64),
        })
    }

    pub(super) fn end(&self, id: u64) -> Result<(), AdminError> {
        let mut session = self.session();
        session.open(id)?;
        session.open = None;
        Ok(())
    }

    /// Reads what there is, then sees to it that a session that nobody uses takes no memory for long.
    fn attend(&self, backend: &Backend, id: u64) {
        let mut known = Ids::default();
        let read = read_ids(&backend.spool, &mut known, &|| {
            self.session().open(id).is_ok() && !*backend.stopping.borrow()
        });
        if let (true, Ok(open)) = (read, self.session().open_mut(id)) {
            open.touched = backend.clock.unix_ms();
            open.known = Some(known);
        }
        let idle_ms = limits::IMPORT_IDLE.as_millis() as u64;
        loop {
            std::thread::sleep(ATTEND);
            let mut session = self.session();
            let Ok(open) = session.open(id) else { return };
            if backend.clock.unix_ms().saturating_sub(open.touched) > idle_ms {
                tracing::warn!("an import was left without an end");
                session.open = None;
                return;
            }
        }
    }

    /// # Cancel safety
    /// Dropped halfway, the message may be there: the same id is then known.
    pub(super) async fn take(
        &self,
        backend: &Backend,
        id: u64,
        message: wire::ImportedMessage,
        mut content: Upload,
    ) -> Result<wire::Imported, AdminError> {
        let taken = self.take_from(backend, id, message, &mut content).await;
        // So that the client is not cut off while it writes.
        while content.next().await?.is_some() {}
        taken
    }

    async fn take_from(
        &self,
        backend: &Backend,
        id: u64,
        message: wire::ImportedMessage,
        content: &mut Upload,
    ) -> Result<wire::Imported, AdminError> {
        let message_id = match &message.message_id {
            Some(text) => Some(parse_id(text)?),
            None => None,
        };
        if !self.reserve(id, message_id, backend.clock.unix_ms())? {
            return Ok(imported(message_id, "known"));
        }
        // Whatever ends this early: the message may be offered again.
        let claim = Claim {
            imports: self,
            id: message_id,
            kept: false,
        };
        let dry_run = message.dry_run;
        let octets = message.content_bytes;
        let context = context(backend, message, message_id)?;
        let taken = match dry_run {
            true => {
                backend.accept.check(&context).map_err(refused)?;
                check(content, octets, None).await?;
                imported(message_id, "checked")
            }
            false => {
                let mut intake = backend.accept.begin(context).map_err(refused)?;
                check(content, octets, Some(&mut intake)).await?;
                let accepted = intake.finish().await.map_err(refused)?;
                claim.keep();
                imported(Some(accepted.id()), "accepted")
            }
        };
        Ok(taken)
    }

    /// Whether this message is not known yet; it is from now on.
    fn reserve(
        &self,
        id: u64,
        message_id: Option<MessageId>,
        now: UnixMs,
    ) -> Result<bool, AdminError> {
        let mut session = self.session();
        let open = session.open_mut(id)?;
        open.touched = now;
        let known = open.known.as_mut().ok_or_else(|| {
            AdminError::Unavailable("it is still being looked up which messages there are".into())
        })?;
        Ok(message_id.is_none_or(|id| known.insert(*id.as_bytes())))
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn open(&self, id: u64) -> Result<&Open, AdminError> {
        let open = self.open.as_ref().filter(|_| self.last_id == id);
        open.ok_or_else(|| AdminError::NotFound(format!("there is no import {id} (any more)")))
    }

    fn open_mut(&mut self, id: u64) -> Result<&mut Open, AdminError> {
        self.open(id)?;
        self.open
            .as_mut()
            .ok_or_else(|| AdminError::NotFound(String::new()))
    }
}

/// A message that is being taken.
struct Claim<'a> {
    imports: &'a Imports,
    id: Option<MessageId>,
    kept: bool,
}

impl Claim<'_> {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let (false, Some(id)) = (self.kept, self.id)
            && let Some(open) = &mut self.imports.session().open
            && let Some(known) = &mut open.known
        {
            known.remove(id.as_bytes());
        }
    }
}

/// `false`: it was not to go on.
fn read_ids(spool: &Spool, known: &mut Ids, go_on: &dyn Fn() -> bool) -> bool {
    for (count, (record, _)) in spool.mail.records_from(0).flatten().enumerate() {
        if count % LOOK == 0 && !go_on() {
            return false;
        }
        match record.kind {
            kind::MESSAGE => known.extend(record.payload.first_chunk::<16>()),
            kind::ERASED => known.extend(
                ErasedRecord::decode(&record.payload)
                    .ok()
                    .and_then(|erased| erased.message())
                    .map(|message| message.id),
            ),
            _ => {}
        }
    }
    for (count, (record, _)) in spool.events.records_from(0).flatten().enumerate() {
        if count % LOOK == 0 && !go_on() {
            return false;
        }
        if let (kind::EVENT, Ok(Some(event))) = (record.kind, Event::decode(&record.payload))
            && event.kind == EventKind::Accepted
            && event.detail == IMPORTED
        {
            known.insert(*event.message_id.as_bytes());
        }
    }
    true
}

fn context(
    backend: &Backend,
    message: wire::ImportedMessage,
    id: Option<MessageId>,
) -> Result<Context, AdminError> {
    let invalid = |text: String| AdminError::Invalid(text);
    let server = &message.server;
    let mut sender = backend
        .accounts
        .trusted(server, None)
        .ok_or_else(|| invalid(format!("there is no server `{server}` on this node")))?;
    sender.credential = "import".into();
    let accepted_at = time_of(message.accepted_at.as_deref())?;
    if message.content_bytes > limits::MESSAGE_SIZE_CAP {
        return Err(invalid(format!(
            "its content is longer than {} octets",
            limits::MESSAGE_SIZE_CAP
        )));
    }
    if message.recipients.is_empty() || message.recipients.len() > limits::IMPORT_RECIPIENTS_MAX {
        return Err(invalid(format!(
            "it has {} recipients; 1 to {} can be taken",
            message.recipients.len(),
            limits::IMPORT_RECIPIENTS_MAX
        )));
    }
    let reverse_path = ReversePath::parse(&message.reverse_path, true)
        .map_err(|error| invalid(format!("reverse_path `{}`: {error}", message.reverse_path)))?;
    let recipients = message.recipients.into_iter().map(recipient);
    Ok(Context {
        sender,
        client_ip: message
            .client_ip
            .and_then(|text| text.parse().ok())
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        helo: message.helo.unwrap_or_default(),
        client_name: None,
        tls: None,
        protocol: "import",
        reverse_path,
        recipients: recipients.collect::<Result<_, _>>()?,
        smtputf8: message.smtputf8,
        envelope_id: message.envelope_id,
        dsn_return: message.dsn_return.as_deref().and_then(return_of),
        hold: None,
        deliver_by: None,
        import: Some(Import {
            id,
            accepted_at,
            stream: message.stream,
            tag: message.tag,
            metadata: message.metadata,
            release_at: time_of(message.scheduled_at.as_deref())?,
            deadline: time_of(message.deadline_at.as_deref())?,
        }),
        given: None,
    })
}

fn time_of(text: Option<&str>) -> Result<Option<UnixMs>, AdminError> {
    let read = |text| {
        let time = clock::parse_rfc3339(text);
        time.ok_or_else(|| AdminError::Invalid(format!("`{text}` is no time")))
    };
    text.map(read).transpose()
}

fn recipient(recipient: wire::ImportedRecipient) -> Result<AcceptedRecipient, AdminError> {
    let path = ForwardPath::parse(&recipient.recipient, true);
    Ok(AcceptedRecipient {
        path: path.map_err(|error| {
            AdminError::Invalid(format!("recipient `{}`: {error}", recipient.recipient))
        })?,
        dsn: DsnRecipient {
            notify: recipient.notify.as_deref().map(notify_of),
            original_recipient: recipient.original_recipient,
        },
    })
}

/// Hands the content on, all of it, if it may leave a node one day.
async fn check(
    content: &mut Upload,
    octets: u64,
    mut intake: Option<&mut Intake>,
) -> Result<(), AdminError> {
    let mut decoder = Decoder::chunks();
    while let Some(chunk) = content.next().await? {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            rest = &rest[decoder.next(rest).consumed..];
        }
        if decoder.octets() > octets {
            break;
        }
        if let Some(intake) = &mut intake {
            intake.push(&chunk).await.map_err(refused)?;
        }
    }
    if decoder.octets() != octets {
        return Err(AdminError::Invalid(format!(
            "its content is to have {octets} octets and has {}",
            decoder.octets()
        )));
    }
    match decoder.flaw_at_end() {
        Some(flaw) => Err(AdminError::Invalid(format!("its content has {flaw}"))),
        None => Ok(()),
    }
}

/// What may be otherwise later is told apart from what is wrong with this message.
fn refused(refusal: Refusal) -> AdminError {
    match refusal {
        Refusal::DiskFull
        | Refusal::SpoolFailed
        | Refusal::NotDelivering
        | Refusal::QueueFull
        | Refusal::Busy => AdminError::Unavailable(refusal.to_string()),
        _ => AdminError::Invalid(refusal.to_string()),
    }
}

fn imported(id: Option<MessageId>, outcome: &str) -> wire::Imported {
    wire::Imported {
        message_id: id.map(|id| id.to_string()).unwrap_or_default(),
        outcome: outcome.to_owned(),
    }
}

fn parse_id(text: &str) -> Result<MessageId, AdminError> {
    text.parse()
        .map_err(|_| AdminError::Invalid(format!("`{text}` is no message id")))
}

const READING: &str = "reading";
const READY: &str = "ready";
/// Records between two looks at whether to go on.
const LOOK: usize = 4_096;
const ATTEND: Duration = Duration::from_secs(1);
