//! `/data-removals` (reference §16): whoever asks to be forgotten. With an account token: it concerns all servers.
//!
//! A request is answered when it is durable; it is *Pending* until nothing of the address is left of what was accepted before it.

use std::future::Future;
use std::pin::Pin;

use axum::http::{Method, StatusCode};
use serde::Serialize;

use super::error::{ApiError, Code};
use super::json::Kind;
use super::{Access, Api, Ask, Route, call, field, reply, required, specimen};
use crate::http::AdminError;
use crate::mail::Mailbox;

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/data-removals",
        access: Access::Account,
        about: "Erases what the node holds of an address: messages to it, and what became of them.",
        query: &[],
        body: &[
            required("RequestedBy", Kind::Text, "An address: who asks for it."),
            required("RequestedFor", Kind::Text, "The address."),
            field(
                "NotifyWhenCompleted",
                Kind::Flag,
                "Whether RequestedBy gets a mail when it is done.",
            ),
        ],
        specimen: example,
        call: call!(request),
    },
    Route {
        method: Method::GET,
        path: "/data-removals/{id}",
        access: Access::Account,
        about: "Whether a removal is done.",
        query: &[],
        body: &[],
        specimen: example,
        call: call!(status),
    },
];

/// A request to forget somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub requested_for: Mailbox,
    /// To be told when it is done.
    pub notify: Option<Mailbox>,
}

/// What meets such requests.
pub trait Removals: Send + Sync {
    /// The number of the request. `Ok`: it is durable.
    fn request(&self, removal: Removal) -> Requesting<'_>;

    /// `None`: there was no such request.
    fn is_done(&self, id: u64) -> Option<bool>;
}

pub type Requesting<'a> = Pin<Box<dyn Future<Output = Result<u64, AdminError>> + Send + 'a>>;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(rename = "ID")]
    id: u64,
    status: &'static str,
}

async fn request(api: Api, ask: Ask) -> Result<String, ApiError> {
    let mailbox = |name: &str| {
        let text = ask.body.word(name).unwrap_or_default();
        Mailbox::parse(&text, true).map_err(|error| {
            ApiError::new(
                Code(1300),
                format!("Invalid '{name}' value: it is no email address: {error}."),
            )
        })
    };
    let by = mailbox("RequestedBy")?;
    let removal = Removal {
        requested_for: mailbox("RequestedFor")?,
        notify: ask
            .body
            .flag("NotifyWhenCompleted")
            .unwrap_or(false)
            .then_some(by),
    };
    let id = api.removals.request(removal).await;
    let id = id.map_err(|error| ApiError {
        retry_after: Some(RETRY_AFTER_SECONDS),
        ..ApiError::with(
            StatusCode::SERVICE_UNAVAILABLE,
            Code(100),
            format!("This cannot be requested now: {error}. Please try again later."),
        )
    })?;
    reply(&Shown {
        id,
        status: PENDING,
    })
}

async fn status(api: Api, ask: Ask) -> Result<String, ApiError> {
    // What is no number is nobody's.
    let id = ask.parameter().parse().unwrap_or(0);
    let is_done = api
        .removals
        .is_done(id)
        .ok_or_else(|| ApiError::new(Code(1301), "A data removal with this ID was not found."))?;
    let status = if is_done { DONE } else { PENDING };
    reply(&Shown { id, status })
}

fn example() -> String {
    specimen(&Shown {
        id: 1234,
        status: PENDING,
    })
}

const PENDING: &str = "Pending";
const DONE: &str = "Done";
const RETRY_AFTER_SECONDS: u64 = 60;
