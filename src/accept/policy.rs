//! Which stream and pool a message belongs to, and whether its sender may use them.

use std::sync::Arc;

use spool_format::StreamKind;

use super::{Context, Refusal, Refused};
use crate::account::{Accounts, ServerInfo, Standing, StreamInfo};
use crate::config::{Notify, PoolId, SendersPolicy};
use crate::mail::header::{NotOneMailbox, Section, only_mailbox};
use crate::mail::{AddressError, DsnNotify, Mailbox, ReversePath};
use crate::suppression;

/// The egress pools as acceptance needs them.
#[derive(Debug)]
pub struct Pools {
    /// In the order of [`PoolId`].
    pub names: Vec<Arc<str>>,
    /// Where sandboxed servers' mail goes: it never leaves the node.
    pub sandbox_transactional: PoolId,
    pub sandbox_broadcast: PoolId,
}

/// Where a message goes.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) stream: Arc<str>,
    pub(super) kind: StreamKind,
    pub(super) pool: PoolId,
    pub(super) pool_name: Arc<str>,
    /// Taken, and then bounced with this reason: what Postmark calls an SMTPApiError.
    pub(super) refused: Refused,
}

/// `named` is the stream that the message asks for; a credential bound to a stream overrules it (postmark-smtp §1.2).
pub(super) fn assign(
    context: &Context,
    pools: &Pools,
    named: Option<&str>,
) -> Result<Assignment, Refusal> {
    let server = &context.sender.server;
    let wanted = context
        .sender
        .stream
        .as_deref()
        .or(named)
        .unwrap_or(DEFAULT_STREAM);
    let (stream, kind) = sending_stream(server, wanted)?;
    let pool = match kind {
        StreamKind::Broadcast if server.sandbox => Some(pools.sandbox_broadcast),
        _ if server.sandbox => Some(pools.sandbox_transactional),
        _ => stream.pool,
    };
    let pool = pool.ok_or_else(|| Refusal::NoPool(stream.id.to_string()))?;
    let pool_name = pools
        .names
        .get(usize::from(pool.0))
        .ok_or_else(|| Refusal::NoPool(stream.id.to_string()))?;
    Ok(Assignment {
        stream: Arc::clone(&stream.id),
        kind,
        pool,
        pool_name: Arc::clone(pool_name),
        refused: Refused::Nobody,
    })
}

/// The server's stream of this name, if mail may leave by it.
pub fn sending_stream<'s>(
    server: &'s ServerInfo,
    wanted: &str,
) -> Result<(&'s StreamInfo, StreamKind), Refusal> {
    let stream = server.stream(wanted);
    let stream = stream.ok_or_else(|| Refusal::UnknownStream(wanted.to_owned()))?;
    match stream.kind {
        StreamKind::Transactional | StreamKind::Broadcast if !stream.archived() => {
            Ok((stream, stream.kind))
        }
        _ => Err(Refusal::NotSending(stream.id.to_string())),
    }
}

/// Why the server may not send with this From. The texts are Postmark's where it has one (reference §2.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FromRefused {
    #[error("The message has no 'From' address.")]
    Missing,
    #[error("'From' must hold exactly one address.")]
    NotOne,
    #[error("'From' names another address beside the one that sends: '{0}'.")]
    Ambiguous(String),
    #[error("The 'From' address is invalid: {0}.")]
    Invalid(AddressError),
    #[error(
        "The 'From' address you supplied ({0}) is not a Sender Signature on your account. Please add and confirm this address in order to be able to use it in the 'From' field of your messages."
    )]
    Unknown(Mailbox),
    #[error(
        "The 'From' address you supplied ({0}) is a Sender Signature that is not confirmed yet. Please follow the link in the confirmation mail, or have that mail sent again."
    )]
    Unconfirmed(Mailbox),
}

/// Whether the server may send with this From: one mailbox, on a verified domain or a confirmed signature. Sub-domains of a
/// verified domain are not implied. The envelope's sender is not judged (threats-and-faults §2.1).
pub(super) fn check_from(
    context: &Context,
    accounts: &Accounts,
    from: Option<&str>,
) -> Result<(), FromRefused> {
    if context.sender.server.senders == SendersPolicy::Any {
        return Ok(());
    }
    let spec = only_mailbox(from.ok_or(FromRefused::Missing)?).map_err(|why| match why {
        NotOneMailbox::None => FromRefused::Missing,
        NotOneMailbox::Several => FromRefused::NotOne,
        NotOneMailbox::Ambiguous(other) => FromRefused::Ambiguous(other),
    })?;
    let mailbox = Mailbox::parse(&spec, true).map_err(FromRefused::Invalid)?;
    check_mailbox(&context.sender.server, accounts, &mailbox)
}

/// As [`check_from`], of a mailbox that is known to be the only one.
pub fn check_mailbox(
    server: &ServerInfo,
    accounts: &Accounts,
    mailbox: &Mailbox,
) -> Result<(), FromRefused> {
    if server.senders == SendersPolicy::Any {
        return Ok(());
    }
    match accounts.standing(mailbox) {
        Standing::MaySend => Ok(()),
        Standing::Unconfirmed => Err(FromRefused::Unconfirmed(mailbox.clone())),
        Standing::Unknown => Err(FromRefused::Unknown(mailbox.clone())),
    }
}

/// Bounces recipients that are suppressed in the message's stream, and no others; the texts are Postmark's (reference §2.4).
/// A strict server's message of which nobody is left is refused.
pub(super) fn check_recipients(
    context: &Context,
    suppressions: &suppression::Set,
    assignment: &mut Assignment,
) -> Result<(), Refusal> {
    let server = &context.sender.server;
    let suppressed = context.recipients.iter().zip(0..).filter(|(recipient, _)| {
        let found = suppressions.of(server.id, &assignment.stream, recipient.path.mailbox());
        found.is_some()
    });
    let suppressed: Vec<(u16, String)> = suppressed
        .map(|(recipient, number)| (number, inactive(&[recipient.path.as_str()])))
        .collect();
    if suppressed.is_empty() || assignment.refused != Refused::Nobody {
        return Ok(());
    }
    if server.attributes.strict && suppressed.len() == context.recipients.len() {
        let paths = context.recipients.iter().map(|r| r.path.as_str());
        let shown: Vec<&str> = paths.take(ADDRESSES_SHOWN).collect();
        return Err(Refusal::NotAllowed(inactive(&shown)));
    }
    assignment.refused = Refused::Some(suppressed);
    Ok(())
}

/// Clients read the addresses out of it (reference §2.4).
pub fn inactive(addresses: &[&str]) -> String {
    format!(
        "You tried to send to recipient(s) that have been marked as inactive. Found inactive addresses: {}. {INACTIVE}",
        addresses.join(", ")
    )
}

/// What inactive recipients are, in Postmark's words (reference §2.4).
const INACTIVE: &str = "Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a manual suppression.";
/// An SMTP reply is not a list.
const ADDRESSES_SHOWN: usize = 5;

/// Whether the reverse-path is to be told by mail what becomes of the message: if its server is set so, and a client named one.
/// Mail that wants no such answer says so by NOTIFY, or else by a field of Exchange's that many programs write
/// (MS-OXCMAIL §2.1.3.2.20); who has said NOTIFY has meant it (RFC 3461 §4.1).
pub(super) fn wants_notices(context: &Context, section: &Section<'_>) -> bool {
    // RFC 3464 §2: no notice about a notice, or about anything else that nobody sent.
    let is_null = context.reverse_path == ReversePath::Null;
    let server = &context.sender.server;
    if server.notify != Notify::Dsn || is_null || context.given.is_some() {
        return false;
    }
    let says = context.recipients.iter().any(|r| r.dsn.notify.is_some());
    let suppressed = section
        .first("X-Auto-Response-Suppress")
        .is_some_and(|value| {
            let mut words = value.split([',', ';', ' ']);
            words.any(|word| ["NDR", "All"].iter().any(|w| word.eq_ignore_ascii_case(w)))
        });
    says || !suppressed
}

/// RFC 3461 §4.1, as it was on the wire.
pub(super) fn notify_bytes(notify: DsnNotify) -> &'static [u8] {
    match (notify.success, notify.failure, notify.delay) {
        (false, false, false) => b"NEVER",
        (true, false, false) => b"SUCCESS",
        (false, true, false) => b"FAILURE",
        (false, false, true) => b"DELAY",
        (true, true, false) => b"SUCCESS,FAILURE",
        (true, false, true) => b"SUCCESS,DELAY",
        (false, true, true) => b"FAILURE,DELAY",
        (true, true, true) => b"SUCCESS,FAILURE,DELAY",
    }
}

/// Where a message goes that names no stream (Postmark).
pub const DEFAULT_STREAM: &str = "outbound";
