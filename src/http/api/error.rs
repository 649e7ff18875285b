//! The one table from what went wrong to Postmark's error codes (reference §2).

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::account::{ChangeError, Refused, Rule, StoreError, TooFast};
use crate::limits;
use crate::readers::tables::Trouble;

/// Postmark's number for an error; unrelated to the HTTP status even where the digits agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u16);

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Seconds.
    pub(crate) retry_after: Option<u64>,
    /// Further keys of the envelope.
    pub(crate) more: Option<Box<serde_json::Map<String, serde_json::Value>>>,
}

/// The envelope, of errors and of actions that succeed with code 0.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Envelope {
    error_code: u16,
    message: String,
    #[serde(flatten)]
    more: Option<Box<serde_json::Map<String, serde_json::Value>>>,
}

impl Envelope {
    /// An action was done.
    pub(super) fn done(message: String) -> Self {
        Self {
            error_code: 0,
            message,
            more: None,
        }
    }

    /// One of a batch was not.
    pub(super) fn failed(error: ApiError) -> Self {
        Self {
            error_code: error.code.0,
            message: error.message,
            more: error.more,
        }
    }
}

impl ApiError {
    /// HTTP 422, as nearly everything.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::with(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    pub(super) fn with(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after: None,
            more: None,
        }
    }

    /// A fault of ours.
    pub(super) fn fault(message: impl Into<String>) -> Self {
        Self::with(StatusCode::INTERNAL_SERVER_ERROR, Code(101), message)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::with(
            status_of(refused.rule),
            code_of(refused.rule),
            refused.message,
        )
    }
}

fn status_of(rule: Rule) -> StatusCode {
    match rule {
        Rule::DkimNone | Rule::DkimUndecided | Rule::ReturnPathUndecided | Rule::SpfUndecided => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        Rule::NotPosted => StatusCode::SERVICE_UNAVAILABLE,
        Rule::TooManyNotices => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn code_of(rule: Rule) -> Code {
    Code(match rule {
        Rule::NotPosted => 100,
        Rule::TooManyNotices => 429,
        Rule::SignatureUnknown | Rule::DkimNone => 501,
        Rule::PublicMailbox => 503,
        Rule::SignatureTaken => 504,
        Rule::DkimPending => 505,
        Rule::SignatureConfirmed => 506,
        Rule::DkimFailed => 508,
        Rule::DomainUnknown => 510,
        Rule::DomainField => 511,
        Rule::DomainTaken => 512,
        Rule::DomainDeclared => 513,
        Rule::DomainNameMissing => 514,
        Rule::DomainNameLength => 515,
        Rule::DomainNameForm => 516,
        Rule::SignatureField => 520,
        Rule::SignatureLength => 521,
        Rule::SignatureAddress => 522,
        Rule::ReturnPathUndecided | Rule::SpfUndecided => 523,
        Rule::DkimUndecided => 709,
        Rule::ServerUnknown => 601,
        Rule::InboundDomainTaken => 602,
        Rule::ServerNameTaken => 603,
        Rule::ServerDelete => 604,
        Rule::HookUrl => 606,
        Rule::ColorUnknown => 607,
        Rule::ServerName => 608,
        Rule::InboundDomain => 610,
        Rule::SpamThreshold => 611,
        Rule::TrackLinksUnknown => 612,
        Rule::DeliveryType => 613,
        Rule::ServerDeclared => 615,
        Rule::StreamDeclared => 1220,
        Rule::StreamType => 1221,
        Rule::StreamIdMissing => 1222,
        Rule::StreamNameMissing => 1223,
        Rule::StreamNameLength => 1224,
        Rule::StreamCount => 1225,
        Rule::StreamUnknown => 1226,
        Rule::StreamIdForm => 1227,
        Rule::StreamInboundOne => 1228,
        Rule::StreamArchiveDefault => 1229,
        Rule::StreamIdTaken => 1230,
        Rule::StreamDescriptionLength => 1231,
        Rule::StreamPurged => 1232,
        Rule::StreamIdPrefix => 1233,
        Rule::StreamDescriptionForm => 1234,
        Rule::StreamIdReserved => 1237,
        Rule::UnsubscribeForType => 1239,
        Rule::UnsubscribeUnknown => 1240,
        Rule::StreamArchive => 1241,
        Rule::TokenUnknown => 1451,
        Rule::SmtpTokenStream => 1454,
        Rule::TokenName => 1456,
        Rule::SmtpTokenInbound => 1457,
        Rule::SmtpTokenCount => 1458,
        Rule::SmtpTokenArchived => 1459,
        Rule::SmtpTokenSmtpOff => 1460,
        Rule::WebhookArchived => 1350,
        Rule::WebhookInbound => 1351,
        Rule::WebhookUnknown => 1352,
        Rule::WebhookUrl => 1354,
        Rule::WebhookNew => 1356,
        Rule::WebhookFixed => 1357,
        Rule::WebhookHeader => 1358,
        Rule::WebhookCount => 1359,
        Rule::WebhookValue => 1361,
        // Of our own settings, which the API does not take; limits of the plan.
        Rule::Value | Rule::Pool => 403,
        Rule::TokenCount | Rule::DomainCount | Rule::SignatureCount => 614,
    })
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(refused) => refused.into(),
            ChangeError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            // Locked, full, unreadable: an operator's matter that passes. Deletions answer so too, not with Postmark's 605
            // (HTTP 422), which tells a client that trying again is of no use.
            StoreError::Sql { .. } => Self::with(
                StatusCode::SERVICE_UNAVAILABLE,
                Code(100),
                format!("Settings cannot be changed now: {error}."),
            ),
            StoreError::Unusable { .. }
            | StoreError::Key(_)
            | StoreError::NoKey(_)
            | StoreError::KeyFile(_)
            | StoreError::Conflict(_) => Self::fault(error.to_string()),
        }
    }
}

/// Of readers that keep tables.
impl From<Trouble> for ApiError {
    fn from(trouble: Trouble) -> Self {
        let (message, retry_after) = match trouble {
            Trouble::Busy => (
                "Too much is being looked up at once. Please try again.".to_owned(),
                Some(5),
            ),
            // The same again takes as long again.
            Trouble::TooLong => (
                format!(
                    "This takes more than {} s and was given up. Please ask for less: for fewer days, or with a recipient or a tag.",
                    limits::READER_QUESTION_TIME.as_secs()
                ),
                None,
            ),
            Trouble::NotReady => (
                "This cannot be looked up yet. Please try again.".to_owned(),
                Some(5),
            ),
            Trouble::Sql(error) => {
                tracing::error!(%error, "what a reader keeps cannot be looked up");
                (
                    "This cannot be looked up now. Please try again.".to_owned(),
                    Some(5),
                )
            }
        };
        Self {
            retry_after,
            ..Self::with(StatusCode::SERVICE_UNAVAILABLE, Code(100), message)
        }
    }
}

impl From<TooFast> for ApiError {
    fn from(too_fast: TooFast) -> Self {
        Self {
            retry_after: Some(too_fast.seconds),
            ..Self::with(
                StatusCode::TOO_MANY_REQUESTS,
                Code(429),
                format!("Rate limit exceeded: {too_fast}."),
            )
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let envelope = Envelope {
            error_code: self.code.0,
            message: self.message,
            more: self.more,
        };
        let mut response = json(self.status, &envelope);
        let headers = response.headers_mut();
        headers.insert(API_ERROR_CODE, self.code.0.into());
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Every answer is JSON, and says so in Postmark's words.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // Plain structures of text and numbers: writing them cannot fail.
    let text = serde_json::to_string(body).unwrap_or_default();
    let mut response = (status, text).into_response();
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

const API_ERROR_CODE: HeaderName = HeaderName::from_static("x-pm-apierrorcode");
