//! The operator's verbs on waiting mail: what a body may say.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Json, State};
use axum::response::Response;
use axum::routing::{get, post};

use super::work::work;
use super::{AdminBackend, AdminError, App, parse_domain, parse_message, wire};
use crate::limits;
use crate::mail::{Domain, MessageId};

/// What is done once to waiting recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub verb: Verb,
    /// For those who look at it later.
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Ready now.
    Retry,
    /// *Bounced*, cause `admin`.
    Bounce,
    /// *Cancelled*.
    Cancel,
}

/// Which recipients: those of which all that is named is so. Nothing named: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub pool: Option<String>,
    pub domain: Option<Domain>,
    pub site: Option<String>,
    pub server: Option<String>,
    pub stream: Option<String>,
    pub source: Option<String>,
    pub tag: Option<String>,
    pub message: Option<MessageId>,
    /// Of the message.
    pub recipient: Option<RecipientRef>,
}

/// One recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientRef {
    Number(u16),
    /// As in the envelope.
    Address(String),
}

/// A suspension, or a reroute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDirective {
    pub selection: Selection,
    /// `None`: a suspension.
    pub to: Option<String>,
    pub reason: Option<String>,
    pub lasts: Option<Duration>,
}

impl Selection {
    pub fn of_message(id: MessageId) -> Self {
        Self {
            message: Some(id),
            ..Self::default()
        }
    }

    /// As it was asked for.
    pub fn selector(&self) -> wire::Selector {
        let recipient = self.recipient.as_ref().map(|recipient| match recipient {
            RecipientRef::Number(number) => number.to_string(),
            RecipientRef::Address(address) => address.clone(),
        });
        wire::Selector {
            all: *self == Self::default(),
            pool: self.pool.clone(),
            domain: self.domain.as_ref().map(ToString::to_string),
            site: self.site.clone(),
            server: self.server.clone(),
            stream: self.stream.clone(),
            source: self.source.clone(),
            tag: self.tag.clone(),
            message: self.message.map(|id| id.to_string()),
            recipient,
            ..wire::Selector::default()
        }
    }
}

impl wire::Selector {
    /// In words: `domain example.org, stream outbound`.
    pub fn words(&self) -> String {
        let named = [
            ("pool", &self.pool),
            ("domain", &self.domain),
            ("site", &self.site),
            ("server", &self.server),
            ("stream", &self.stream),
            ("source", &self.source),
            ("tag", &self.tag),
            ("message", &self.message),
            ("recipient", &self.recipient),
        ];
        let named = named.iter();
        let words = named.filter_map(|(key, value)| Some(format!("{key} {}", value.as_ref()?)));
        let words: Vec<String> = words.collect();
        match words.is_empty() {
            true => "all mail".to_owned(),
            false => words.join(", "),
        }
    }
}

pub(super) fn routes<B: AdminBackend>() -> Router<App<B>> {
    Router::new()
        .route("/admin/v1/queue/retry", post(retry))
        .route("/admin/v1/queue/bounce", post(bounce))
        .route("/admin/v1/queue/cancel", post(cancel))
        .route("/admin/v1/queue/suspend", post(suspend))
        .route("/admin/v1/queue/reroute", post(reroute))
        .route("/admin/v1/queue/resume", post(resume))
        .route("/admin/v1/queue/directives", get(directives))
        .route("/admin/v1/queue/running/{id}", get(work))
}

type SelectorBody = Result<Json<wire::Selector>, JsonRejection>;
type OperateResult = Result<Response, AdminError>;

async fn retry<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    operate(&app, Verb::Retry, body).await
}

async fn bounce<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    operate(&app, Verb::Bounce, body).await
}

async fn cancel<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    operate(&app, Verb::Cancel, body).await
}

async fn operate<B: AdminBackend>(app: &App<B>, verb: Verb, body: SelectorBody) -> OperateResult {
    let Json(body) = body?;
    for (given, key) in [
        (body.to.is_some(), "to"),
        (body.for_seconds.is_some(), "for_seconds"),
        (body.directive.is_some(), "directive"),
    ] {
        refuse(given, key, "this verb")?;
    }
    let reason = reason_of(&body)?;
    let selection = Selection::try_from(body)?;
    tracing::info!(
        ?verb,
        selection = selection.selector().words(),
        reason,
        "an operator acts on the queue"
    );
    let command = Command { verb, reason };
    let backend = Arc::clone(&app.backend);
    let verb = async move { backend.operate(command, selection).await };
    app.works.see_through(verb).await
}

async fn suspend<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    let Json(body) = body?;
    refuse(body.to.is_some(), "to", "suspend")?;
    direct(&app, body).await
}

async fn reroute<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    let Json(body) = body?;
    if body.to.is_none() {
        let needed = "reroute needs `to`, the pool that the mail shall take";
        return Err(AdminError::Invalid(needed.to_owned()));
    }
    direct(&app, body).await
}

async fn direct<B: AdminBackend>(app: &App<B>, body: wire::Selector) -> OperateResult {
    refuse(body.directive.is_some(), "directive", "this verb")?;
    let lasts = body.for_seconds.map(Duration::from_secs);
    if lasts.is_some_and(|lasts| lasts.is_zero() || lasts > limits::DIRECTIVE_MAX) {
        return Err(AdminError::Invalid(format!(
            "for_seconds is from 1 to {}",
            limits::DIRECTIVE_MAX.as_secs()
        )));
    }
    let directive = NewDirective {
        to: body.to.clone(),
        reason: reason_of(&body)?,
        lasts,
        selection: body.try_into()?,
    };
    tracing::info!(
        selection = directive.selection.selector().words(),
        to = directive.to,
        reason = directive.reason,
        "an operator suspends or reroutes mail"
    );
    let backend = Arc::clone(&app.backend);
    let verb = async move { backend.direct(directive).await };
    app.works.see_through(verb).await
}

async fn resume<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    let Json(body) = body?;
    refuse(body.to.is_some(), "to", "resume")?;
    refuse(body.for_seconds.is_some(), "for_seconds", "resume")?;
    let reason = reason_of(&body)?;
    let which = match body.directive {
        Some(id) => {
            let alone = wire::Selector {
                directive: None,
                reason: None,
                ..body
            } == wire::Selector::default();
            refuse(!alone, "a selection", "a directive's id")?;
            Ok(id)
        }
        None => Err(Selection::try_from(body)?),
    };
    tracing::info!(?which, reason, "an operator resumes mail");
    let backend = Arc::clone(&app.backend);
    let verb = async move { backend.resume(which, reason).await };
    app.works.see_through(verb).await
}

async fn directives<B: AdminBackend>(
    State(app): State<App<B>>,
) -> Result<Json<wire::Directives>, AdminError> {
    let directives = app.backend.directives().await?;
    Ok(Json(wire::Directives { directives }))
}

fn refuse(given: bool, key: &str, with: &str) -> Result<(), AdminError> {
    match given {
        true => Err(AdminError::Invalid(format!(
            "{key} does not go with {with}"
        ))),
        false => Ok(()),
    }
}

fn reason_of(body: &wire::Selector) -> Result<Option<String>, AdminError> {
    let reason = body.reason.as_deref().map(str::trim);
    let reason = reason.filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| reason.len() > limits::REASON_MAX) {
        return Err(AdminError::Invalid(format!(
            "a reason has at most {} octets",
            limits::REASON_MAX
        )));
    }
    Ok(reason.map(str::to_owned))
}

impl TryFrom<wire::Selector> for Selection {
    type Error = AdminError;

    fn try_from(selector: wire::Selector) -> Result<Self, AdminError> {
        let wire::Selector {
            all,
            pool,
            domain,
            site,
            server,
            stream,
            source,
            tag,
            message,
            recipient,
            reason: _,
            for_seconds: _,
            to: _,
            directive: _,
        } = selector;
        let recipient = recipient.map(|recipient| match recipient.parse() {
            Ok(number) => RecipientRef::Number(number),
            Err(_) => RecipientRef::Address(recipient),
        });
        let selection = Self {
            pool,
            domain: domain.as_deref().map(parse_domain).transpose()?,
            site,
            server,
            stream,
            source,
            tag,
            message: message.as_deref().map(parse_message).transpose()?,
            recipient,
        };
        let invalid = |text: &str| Err(AdminError::Invalid(text.to_owned()));
        let named = selection != Self::default();
        if selection.recipient.is_some() && selection.message.is_none() {
            return invalid("recipient goes with message");
        }
        let of_message = Self {
            message: selection.message,
            recipient: selection.recipient.clone(),
            ..Self::default()
        };
        if selection.message.is_some() && selection != of_message {
            return invalid("a message is named alone, or with one recipient of it");
        }
        match (all, named) {
            (true, true) => invalid("all stands alone"),
            (false, false) => invalid(
                "say which mail: all, or some of pool, domain, site, server, stream, source, tag, or a message",
            ),
            _ => Ok(selection),
        }
    }
}
