//! What takes a message, and what a client is told when it does not.

use std::future::Future;
use std::pin::Pin;

use axum::http::StatusCode;

use super::addresses;
use super::letter::invalid;
use crate::accept::{Accept, Context, Refusal, Rehearsal};
use crate::http::api::error::{ApiError, Code};
use crate::idempotency::{Claim, Conflict, Taken};
use crate::limits;
use crate::mail::ForwardPath;

/// What takes a message: the one door into the spool, or what stands for it in a test.
pub trait Door: Send + Sync {
    /// What became of an idempotency key so far.
    fn find(&self, claim: &Claim) -> Option<Result<Taken, Refusal>>;

    /// `Ok` once the message is durable.
    fn take(&self, context: Context, content: Vec<u8>) -> Taking<'_>;

    /// What it would become; nothing is taken.
    fn rehearse(&self, context: &Context, content: &[u8]) -> Result<Rehearsal, Refusal>;

    /// Which of these are suppressed in the stream, in their order.
    fn suppressed(&self, server: u32, stream: &str, recipients: &[ForwardPath]) -> Vec<bool>;
}

pub type Taking<'a> = Pin<Box<dyn Future<Output = Result<Taken, Refusal>> + Send + 'a>>;

impl Door for Accept {
    fn find(&self, claim: &Claim) -> Option<Result<Taken, Refusal>> {
        Accept::find(self, claim)
    }

    fn take(&self, context: Context, content: Vec<u8>) -> Taking<'_> {
        Box::pin(async move {
            let mut intake = self.begin(context)?;
            intake.push(&content).await?;
            drop(content);
            Ok(intake.finish().await?.taken().clone())
        })
    }

    fn rehearse(&self, context: &Context, content: &[u8]) -> Result<Rehearsal, Refusal> {
        Accept::rehearse(self, context, content)
    }

    fn suppressed(&self, server: u32, stream: &str, recipients: &[ForwardPath]) -> Vec<bool> {
        Accept::suppressed(
            self,
            server,
            stream,
            recipients.iter().map(ForwardPath::mailbox),
        )
    }
}

/// The table from [`Refusal`] to what a client of the API is told.
pub(super) fn refused(refusal: &Refusal) -> ApiError {
    let later = |seconds: u64| ApiError {
        retry_after: Some(seconds),
        ..ApiError::with(
            StatusCode::SERVICE_UNAVAILABLE,
            Code(100),
            format!("The message was not accepted: {refusal}. Please send it again later."),
        )
    };
    let limited = |seconds: u64, limit: &str| {
        let error = later(seconds);
        let message = error
            .message
            .replacen(". Please", &format!(" (limit: {limit}). Please"), 1);
        ApiError { message, ..error }
    };
    match refusal {
        Refusal::Busy => {
            let octets = limits::SUBMISSION_BUFFERS_MAX;
            limited(2, &format!("{octets} octets of messages under way"))
        }
        Refusal::DiskFull => limited(60, "[spool] refuse_below of free space"),
        Refusal::QueueFull => {
            let recipients = limits::QUEUE_RECIPIENTS_MAX;
            limited(60, &format!("{recipients} recipients in the queue"))
        }
        Refusal::SpoolFailed | Refusal::NotDelivering => later(10),
        Refusal::Recovering => later(5),
        Refusal::Key(Conflict::UnderWay) => ApiError {
            retry_after: Some(1),
            ..conflict(refusal)
        },
        Refusal::Key(Conflict::Differs) => conflict(refusal),
        Refusal::UnknownStream(named) => unknown_stream(named),
        Refusal::NotSending(named) => not_sending(named),
        Refusal::NotAllowed(reason) => invalid(reason),
        Refusal::BadField { field, reason } => {
            let key = match *field {
                "X-Posthaste-Send-At" => "SendAt",
                "X-Posthaste-Deadline" => "Deadline",
                other => other,
            };
            invalid(format!("Invalid '{key}' value: {reason}."))
        }
        Refusal::NoPool(_)
        | Refusal::TooLarge
        | Refusal::HeaderTooLarge(_)
        | Refusal::TooManyFields(_)
        | Refusal::RepeatedField(_)
        | Refusal::Loop(_) => invalid(format!("The message was not accepted: {refusal}.")),
    }
}

fn conflict(refusal: &Refusal) -> ApiError {
    ApiError::with(
        StatusCode::CONFLICT,
        Code(300),
        format!("The message was not accepted: {refusal}."),
    )
}

fn unknown_stream(named: &str) -> ApiError {
    let shown = addresses::shown(named);
    ApiError::new(
        Code(1235),
        format!("The stream provided: '{shown}' does not exist on this server."),
    )
}

fn not_sending(named: &str) -> ApiError {
    let shown = addresses::shown(named);
    ApiError::new(
        Code(1236),
        format!(
            "The stream provided: '{shown}' is an inbound or archived stream; it does not send."
        ),
    )
}
