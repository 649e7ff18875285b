//! `/email`, `/email/batch` and `/email/raw` (reference §3): messages that arrive as JSON.
//!
//! The way of a message: [`letter`] reads and checks it, [`crate::accept::compose`] makes its octets, and the [`Door`] takes it,
//! so that an answer with ErrorCode 0 means what a 250 of SMTP means. A message that is refused is told at once and is never taken
//! only to be bounced. The messages of a batch are taken side by side and share the log's commits; each has its own answer.
//!
//! Large bodies are bounded together (`limits::HTTP_BODIES_MAX`), and read and composed on the blocking pool.

mod addresses;
mod door;
mod letter;
mod links;
mod lint;
pub mod outbox;
mod raw;
mod rehearsal;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use axum::http::Method;
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;

use super::error::{ApiError, Code, Envelope};
use super::json::{Body, wrong_fields};
use super::{Access, Api, Ask, Route, Sending, call, reply, specimen};
use crate::accept::compose::{Addressee, compose};
use crate::accept::{
    AcceptedRecipient, Context, DEFAULT_STREAM, FromRefused, Given, Refusal, check_mailbox,
    inactive, sending_stream,
};
use crate::account::{Accounts, Sender};
use crate::clock::{UnixMs, rfc3339};
use crate::idempotency::{self, Claim, Taken};
use crate::limits;
use crate::mail::{DsnRecipient, ForwardPath, Mailbox, ReversePath};
use door::refused;
use letter::{Echo, Request, invalid};
use rehearsal::Report;

pub use door::{Door, Taking};

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/email",
        access: Access::Send(&Sending {
            octets_max: limits::HTTP_EMAIL_BODY_MAX,
            list: false,
        }),
        about: "Sends a message.",
        query: &[],
        body: letter::FIELDS,
        specimen: sent,
        call: call!(send),
    },
    Route {
        method: Method::POST,
        path: "/email/batch",
        access: Access::Send(&Sending {
            octets_max: limits::HTTP_BATCH_BODY_MAX,
            list: true,
        }),
        about: "Sends up to 500 messages; one answer each, in their order.",
        query: &[],
        body: letter::FIELDS,
        specimen: || format!("[{}]", sent()),
        call: call!(send_batch),
    },
    Route {
        method: Method::POST,
        path: "/email/raw",
        access: Access::Send(&Sending {
            octets_max: limits::HTTP_EMAIL_BODY_MAX,
            list: false,
        }),
        about: "Posthaste: sends a finished MIME message.",
        query: &[],
        body: raw::FIELDS,
        specimen: sent,
        call: call!(send_raw),
    },
];

/// A message on its way to the door.
struct Prepared {
    from: Mailbox,
    recipients: Vec<ForwardPath>,
    /// That it asks for, however it does.
    stream: Option<String>,
    given: Given,
    content: Vec<u8>,
    echo: Echo,
    dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Sent {
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bcc: Option<String>,
    submitted_at: String,
    #[serde(rename = "MessageID")]
    message_id: String,
    error_code: u16,
    message: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<Box<Report>>,
}

/// One answer of a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum Item {
    Sent(Sent),
    Failed(Envelope),
}

async fn send(api: Api, ask: Ask) -> Result<String, ApiError> {
    let Ask { octets, .. } = &ask;
    let (accounts, sender) = (api.settings.accounts(), ask.sender.clone());
    let (octets, key) = (octets.clone(), key(&ask)?);
    let dry_run = ask.dry_run.clone()?;
    let prepared = on_workers(octets.len(), move || {
        let mut body = Body::read(&octets, letter::FIELDS)?;
        let mut prepared = prepare(&mut body, &accounts, sender.as_ref())?;
        prepared.given.claim = claim(key.as_deref(), sender.as_ref(), 0, &octets);
        prepared.dry_run |= dry_run;
        Ok::<_, ApiError>(prepared)
    });
    let prepared = prepared.await??;
    reply(&take(&api, ask.sender, ask.peer, prepared).await?)
}

async fn send_batch(api: Api, ask: Ask) -> Result<String, ApiError> {
    let (accounts, sender) = (api.settings.accounts(), ask.sender.clone());
    let (key, dry_run) = (key(&ask)?, ask.dry_run?);
    let octets = ask.octets;
    let prepared = on_workers(octets.len(), move || {
        let items = Body::list(&octets, limits::JSON_BATCH_KEYS_MAX)?;
        drop(octets);
        if items.len() > limits::HTTP_BATCH_MESSAGES_MAX {
            return Err(ApiError::new(
                Code(410),
                format!(
                    "You may only send up to {} messages in a single batched request.",
                    limits::HTTP_BATCH_MESSAGES_MAX
                ),
            ));
        }
        let one = |(number, item): (u32, Value)| {
            if !item.is_object() {
                return Err(wrong_fields(&["$".to_owned()]));
            }
            // Keys are in order, whatever the client's was.
            let same = key.as_ref().map(|_| item.to_string());
            let mut body = Body::of(item, letter::FIELDS)?;
            let mut prepared = prepare(&mut body, &accounts, sender.as_ref())?;
            let same = same.unwrap_or_default();
            prepared.given.claim = claim(key.as_deref(), sender.as_ref(), number, same.as_bytes());
            prepared.dry_run |= dry_run;
            Ok(prepared)
        };
        Ok((0..).zip(items).map(one).collect::<Vec<_>>())
    });
    let prepared = prepared.await??;
    let mut answers: Vec<Option<Item>> = prepared.iter().map(|_| None).collect();
    let mut taking = JoinSet::new();
    for (number, prepared) in prepared.into_iter().enumerate() {
        let counted = match (&ask.sender, number) {
            // The request itself has counted for one.
            (Some(sender), 1..) => {
                let accounts = api.settings.accounts();
                accounts
                    .count(sender, api.clock.unix_ms())
                    .map_err(ApiError::from)
            }
            _ => Ok(()),
        };
        match counted.and(prepared) {
            Err(error) => answers[number] = Some(Item::failed(error)),
            Ok(prepared) => {
                let (api, sender) = (api.clone(), ask.sender.clone());
                taking.spawn(async move { (number, take(&api, sender, ask.peer, prepared).await) });
            }
        }
    }
    while let Some(taken) = taking.join_next().await {
        match taken {
            Ok((number, taken)) => {
                answers[number] = Some(taken.map_or_else(Item::failed, Item::Sent));
            }
            // One message's fault: the others were taken, and their answers must not be lost.
            Err(error) => {
                tracing::error!(%error, "a message of a batch failed by a fault in the program")
            }
        }
    }
    let failed = || {
        Item::failed(ApiError::fault(
            "An unexpected fault; it is in the node's log.",
        ))
    };
    let answers = answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(failed));
    reply(&answers.collect::<Vec<_>>())
}

async fn send_raw(api: Api, ask: Ask) -> Result<String, ApiError> {
    let (accounts, sender) = (api.settings.accounts(), ask.sender.clone());
    let (key, dry_run) = (key(&ask)?, ask.dry_run?);
    let octets = ask.octets;
    let prepared = on_workers(octets.len(), move || {
        let mut body = Body::read(&octets, raw::FIELDS)?;
        let may_send = |from: &Addressee| may_send(&accounts, sender.as_ref(), from);
        let on_stream = |named: Option<&str>| on_stream(sender.as_ref(), named);
        let mut prepared = raw::read(&mut body, on_stream, may_send)?;
        prepared.given.claim = claim(key.as_deref(), sender.as_ref(), 0, &octets);
        prepared.dry_run |= dry_run;
        Ok::<_, ApiError>(prepared)
    });
    let prepared = prepared.await??;
    reply(&take(&api, ask.sender, ask.peer, prepared).await?)
}

/// The request's idempotency key.
fn key(ask: &Ask) -> Result<Option<String>, ApiError> {
    match &ask.idempotency_key {
        None => Ok(None),
        Some(key) if idempotency::is_key(key) => Ok(Some(key.clone())),
        Some(_) => Err(invalid(format!(
            "Invalid 'Idempotency-Key' header: {}.",
            idempotency::NO_KEY
        ))),
    }
}

/// What a message of a request with a key claims. The test token sends nothing, so nothing is sent twice.
fn claim(key: Option<&str>, sender: Option<&Sender>, number: u32, same: &[u8]) -> Option<Claim> {
    Some(Claim::new(sender?.server.id, key?, number, same))
}

/// Runs what takes long with a large body where it delays nobody.
async fn on_workers<T: Send + 'static>(
    octets: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    match octets <= limits::HTTP_BODY_SMALL {
        true => Ok(work()),
        false => {
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|error| ApiError::fault(error.to_string()))
        }
    }
}

fn prepare(
    body: &mut Body,
    accounts: &Accounts,
    sender: Option<&Sender>,
) -> Result<Prepared, ApiError> {
    let request = Request::read(
        body,
        |named| on_stream(sender, named),
        |from| may_send(accounts, sender, from),
    )?;
    let letter = request.letter;
    let addressees = letter.to.iter().chain(&letter.cc).chain(&request.bcc);
    let recipients = recipients(addressees.map(|addressee| &addressee.mailbox))?;
    Ok(Prepared {
        from: letter.from.mailbox.clone(),
        recipients,
        stream: request.given.stream.clone(),
        given: request.given,
        content: compose(letter),
        echo: request.echo,
        dry_run: request.dry_run,
    })
}

/// Each mailbox once, in order.
fn recipients<'m>(
    mailboxes: impl Iterator<Item = &'m Mailbox>,
) -> Result<Vec<ForwardPath>, ApiError> {
    let mut paths: Vec<ForwardPath> = Vec::new();
    for mailbox in mailboxes {
        let path = ForwardPath::parse(mailbox.as_str(), true);
        let path = path.map_err(|_| invalid(format!("Invalid 'To' address: '{mailbox}'.")))?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Whether the server has the stream, and mail may leave by it. The test token has no server.
fn on_stream(sender: Option<&Sender>, named: Option<&str>) -> Result<(), ApiError> {
    let (Some(sender), Some(named)) = (sender, named) else {
        return Ok(());
    };
    let stream = sending_stream(&sender.server, named);
    stream.map(drop).map_err(|refusal| refused(&refusal))
}

/// Reference §3.5.
fn may_send(
    accounts: &Accounts,
    sender: Option<&Sender>,
    from: &Addressee,
) -> Result<(), ApiError> {
    let Some(sender) = sender else {
        return Ok(());
    };
    check_mailbox(&sender.server, accounts, &from.mailbox).map_err(|why| {
        let code = match why {
            FromRefused::Unconfirmed(_) => 401,
            _ => 400,
        };
        ApiError::new(Code(code), why.to_string())
    })
}

async fn take(
    api: &Api,
    sender: Option<Sender>,
    peer: Option<IpAddr>,
    mut prepared: Prepared,
) -> Result<Sent, ApiError> {
    if prepared.dry_run {
        // It takes nothing, so it may be asked again and again.
        prepared.given.claim = None;
    }
    let claim = prepared.given.claim.as_ref();
    let known = claim.and_then(|claim| api.door.find(claim));
    let known = known.transpose().map_err(|refusal| refused(&refusal))?;
    let echo = std::mem::take(&mut prepared.echo);
    let (message_id, message, at) = match (sender, known) {
        (None, _) => {
            let message = Cow::Borrowed("Test job accepted");
            (test_id()?, message, api.clock.unix_ms())
        }
        (Some(_), Some(taken)) => told(taken),
        (Some(sender), None) => {
            let stream = sender.stream.as_deref().or(prepared.stream.as_deref());
            let stream = stream.unwrap_or(DEFAULT_STREAM);
            let out = leave_out(api, sender.server.id, stream, &mut prepared.recipients)?;
            if prepared.dry_run {
                return rehearse(api, sender, peer, prepared, out, echo).await;
            }
            let message = (!out.is_empty()).then(|| {
                format!(
                    "Message OK, but will not deliver to these inactive addresses: {}",
                    out.join(", ")
                )
            });
            if let Some(claim) = &mut prepared.given.claim {
                claim.said = message.as_deref().map(Into::into);
            }
            let (context, content) = prepared.context(sender, peer);
            let taken = api.door.take(context, content).await;
            let taken = taken.map_err(|refusal| refused(&refusal))?;
            let said = taken.said.or(message.map(Into::into));
            told(Taken { said, ..taken })
        }
    };
    Ok(Sent::new(echo, message_id, at, message))
}

async fn rehearse(
    api: &Api,
    sender: Sender,
    peer: Option<IpAddr>,
    prepared: Prepared,
    inactive: Vec<String>,
    echo: Echo,
) -> Result<Sent, ApiError> {
    let (door, accounts) = (api.door.clone(), api.settings.accounts());
    let from = prepared.from.clone();
    let (context, content) = prepared.context(sender, peer);
    let judged = on_workers(content.len(), move || {
        let rehearsal = door.rehearse(&context, &content)?;
        drop(content);
        let report = rehearsal::report(&rehearsal, &context, &from, inactive, &accounts);
        Ok((rehearsal.id, rehearsal.at, report))
    });
    let (id, at, report) = judged
        .await?
        .map_err(|refusal: Refusal| refused(&refusal))?;
    Ok(Sent {
        dry_run: Some(Box::new(report)),
        ..Sent::new(echo, id.to_string(), at, Cow::Borrowed(REHEARSED))
    })
}

impl Prepared {
    fn context(self, sender: Sender, peer: Option<IpAddr>) -> (Context, Vec<u8>) {
        let recipients = self.recipients.into_iter();
        let context = Context {
            helo: peer.map_or_else(String::new, |peer| format!("[{peer}]")),
            client_ip: peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            client_name: None,
            tls: None,
            protocol: "HTTP",
            reverse_path: ReversePath::Mailbox(self.from),
            recipients: recipients
                .map(|path| AcceptedRecipient {
                    path,
                    dsn: DsnRecipient::default(),
                })
                .collect(),
            // The record says so only where the message needs it.
            smtputf8: true,
            envelope_id: None,
            dsn_return: None,
            hold: None,
            deliver_by: None,
            import: None,
            given: Some(self.given),
            sender,
        };
        (context, self.content)
    }
}

impl Sent {
    fn new(echo: Echo, message_id: String, at: UnixMs, message: Cow<'static, str>) -> Self {
        Self {
            to: echo.to,
            cc: echo.cc,
            bcc: echo.bcc,
            submitted_at: rfc3339(at),
            message_id,
            error_code: 0,
            message,
            dry_run: None,
        }
    }
}

/// Id, text and time of the answer.
fn told(taken: Taken) -> (String, Cow<'static, str>, UnixMs) {
    let said = taken
        .said
        .map_or(Cow::Borrowed("OK"), |said| String::from(said).into());
    (taken.id.to_string(), said, taken.at)
}

/// Takes the suppressed recipients out, and says which; nobody left is an error (reference §2.4).
fn leave_out(
    api: &Api,
    server: u32,
    stream: &str,
    recipients: &mut Vec<ForwardPath>,
) -> Result<Vec<String>, ApiError> {
    let mut suppressed = api.door.suppressed(server, stream, recipients).into_iter();
    let mut out = Vec::new();
    recipients.retain(|path| {
        let is_out = suppressed.next().unwrap_or(false);
        if is_out {
            out.push(path.as_str().to_owned());
        }
        !is_out
    });
    match recipients.is_empty() {
        true => {
            let out: Vec<&str> = out.iter().map(String::as_str).collect();
            Err(ApiError::new(Code(406), inactive(&out)))
        }
        false => Ok(out),
    }
}

/// Of a message that goes nowhere.
fn test_id() -> Result<String, ApiError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| ApiError::fault(error.to_string()))?;
    Ok(uuid::Builder::from_random_bytes(random)
        .into_uuid()
        .to_string())
}

impl Item {
    fn failed(error: ApiError) -> Self {
        Self::Failed(Envelope::failed(error))
    }
}

fn sent() -> String {
    let echo = Echo {
        to: "ada@example.com".into(),
        ..Echo::default()
    };
    let id = "0a129aee-e1cd-480d-b08d-4f48548ff48d".into();
    specimen(&Sent::new(echo, id, 0, Cow::Borrowed("OK")))
}

const REHEARSED: &str = "Dry run: nothing was stored, nothing will be sent.";
