//! Which stream and pool a message belongs to, and whether its sender may use them.

use std::sync::Arc;

use spool_format::StreamKind;

use super::{Context, Refusal};
use crate::account::{Accounts, StreamInfo};
use crate::config::{PoolId, SendersPolicy};
use crate::mail::header::addr_specs;
use crate::mail::{DsnNotify, Mailbox};

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
    pub(super) refused: Option<String>,
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
    let stream = server
        .stream(wanted)
        .ok_or_else(|| Refusal::UnknownStream(wanted.to_owned()))?;
    let kind = sending_kind(stream)?;
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
        refused: None,
    })
}

fn sending_kind(stream: &StreamInfo) -> Result<StreamKind, Refusal> {
    match stream.kind {
        StreamKind::Transactional | StreamKind::Broadcast if !stream.archived() => Ok(stream.kind),
        _ => Err(Refusal::NotSending(stream.id.to_string())),
    }
}

/// Why the server may not send with this From, if it may not. Sub-domains of a verified domain are not implied.
pub(super) fn check_from(
    context: &Context,
    accounts: &Accounts,
    from: Option<&str>,
) -> Option<String> {
    if context.sender.server.senders == SendersPolicy::Any {
        return None;
    }
    let Some(from) = from else {
        return Some("The message has no 'From' address.".to_owned());
    };
    let specs = addr_specs(from);
    let [spec] = specs.as_slice() else {
        return Some("'From' must hold exactly one address.".to_owned());
    };
    match Mailbox::parse(spec, true) {
        Err(error) => Some(format!("The 'From' address is invalid: {error}.")),
        Ok(mailbox) if accounts.is_verified(mailbox.domain()) => None,
        Ok(mailbox) => Some(format!(
            "The domain '{}' of the 'From' address is not verified on this node.",
            mailbox.domain()
        )),
    }
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
const DEFAULT_STREAM: &str = "outbound";
