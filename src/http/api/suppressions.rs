//! `/message-streams/{id}/suppressions` (reference §14). A server token reaches the streams of its server and no others.
//!
//! The list is not paged: it is written while it is read, however long. `count` and `offset`, which some clients send, have
//! to be numbers and change nothing. Dates without a zone are UTC; days are inclusive.

use std::borrow::Cow;

use axum::http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::dates::date;
use super::error::{ApiError, Code};
use super::json::{Body, Field, Kind};
use super::query::Query;
use super::said::{Said, written_by};
use super::{Access, Api, Ask, Route, call, field, reply, required, specimen};
use crate::clock::rfc3339;
use crate::limits;
use crate::mail::Mailbox;
use crate::readers::suppressions::{
    Address, Evidence, Filter, List, Listed, Made, New, Place, Trouble,
};
use crate::suppression::{Origin, Suppression};

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/message-streams/{id}/suppressions/dump",
        access: Access::Server,
        about: "All suppressions of a message stream. Not paged.",
        query: &[
            field(
                "SuppressionReason",
                Kind::Text,
                "HardBounce, SpamComplaint, ManualSuppression.",
            ),
            field("Origin", Kind::Text, "Recipient, Customer, Admin."),
            field(
                "fromdate",
                Kind::Text,
                "Inclusive: 2026-03-02, 2026-03-02T09:15:00.",
            ),
            field("todate", Kind::Text, "Inclusive."),
            field("EmailAddress", Kind::Text, "In any case."),
        ],
        body: &[],
        specimen: dumped,
        call: call!(dump),
    },
    Route {
        method: Method::POST,
        path: "/message-streams/{id}/suppressions",
        access: Access::Server,
        about: "Suppresses addresses in a message stream, at most 50.",
        query: &[],
        body: FIELDS,
        specimen: changed,
        call: call!(create),
    },
    Route {
        method: Method::POST,
        path: "/message-streams/{id}/suppressions/delete",
        access: Access::Server,
        about: "Lifts suppressions, at most 50: those that the API made, and hard bounces.",
        query: &[],
        body: FIELDS,
        specimen: changed,
        call: call!(delete),
    },
];

/// An entry of the list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    email_address: Cow<'a, str>,
    suppression_reason: &'static str,
    origin: &'static str,
    created_at: String,
}

impl<'a> Entry<'a> {
    /// Of an address that is not kept the caller may know it.
    fn new(listed: &'a Listed, known: Option<&'a str>) -> Self {
        let kept = listed.kept.address.as_deref().or(known);
        Self {
            email_address: match kept {
                Some(address) => address.into(),
                None => listed.tag.to_string().into(),
            },
            suppression_reason: listed.kept.suppression.reason.as_str(),
            origin: listed.kept.suppression.origin.as_str(),
            created_at: rfc3339(listed.kept.since),
        }
    }
}

/// What became of one address.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Outcome {
    email_address: String,
    status: &'static str,
    message: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Outcomes {
    suppressions: Vec<Outcome>,
}

async fn dump(api: Api, ask: Ask) -> Result<Said, ApiError> {
    let place = place(&api, &ask)?;
    let filter = filter(&ask.query)?;
    let list = api.suppressions.list(Some(place.list), filter)?;
    let Some(text) = ask.query.text("EmailAddress") else {
        return Ok(Said::Written(written_by(move |out| {
            let mut separator = DUMP_BEGINS;
            list.run(&mut |listed| {
                let entry = Entry::new(&listed, None);
                // Plain texts: writing them cannot fail.
                let entry = serde_json::to_vec(&entry).unwrap_or_default();
                let goes_on = out.write(separator.as_bytes()) && out.write(&entry);
                separator = ",";
                goes_on
            })?;
            let begins = if separator == DUMP_BEGINS {
                DUMP_BEGINS
            } else {
                ""
            };
            out.write(begins.as_bytes());
            out.write(DUMP_ENDS.as_bytes());
            Ok(())
        })));
    };
    // What is no address is nobody's.
    let Ok(address) = Mailbox::parse(text.trim(), true) else {
        return Ok(Said::Text(format!("{DUMP_BEGINS}{DUMP_ENDS}")));
    };
    let asked = address.clone();
    let found = tokio::task::spawn_blocking(move || list.find(&address)).await;
    let found = found.map_err(|e| ApiError::fault(e.to_string()))?;
    let found = found.map_err(|e| ApiError::fault(format!("The list cannot be read: {e}.")))?;
    let entry = match &found {
        Some(listed) => reply(&Entry::new(listed, Some(asked.as_str())))?,
        None => String::new(),
    };
    Ok(Said::Text(format!("{DUMP_BEGINS}{entry}{DUMP_ENDS}")))
}

async fn create(api: Api, mut ask: Ask) -> Result<String, ApiError> {
    let place = place(&api, &ask)?;
    let (texts, addresses) = addresses(&mut ask.body)?;
    let new = |address| New {
        address: Address::Clear(address),
        suppression: Suppression::BY_CUSTOMER,
        since: None,
    };
    let news = addresses.iter().flatten().cloned().map(new).collect();
    let evidence = Evidence {
        detail: "Suppressed through the API.".into(),
        ..Evidence::default()
    };
    let made = api.suppressions.suppress(place, news, evidence).await?;
    answer(texts, &addresses, made)
}

async fn delete(api: Api, mut ask: Ask) -> Result<String, ApiError> {
    let place = place(&api, &ask)?;
    let (texts, addresses) = addresses(&mut ask.body)?;
    let valid = addresses.iter().flatten().cloned().map(Address::Clear);
    let made = api
        .suppressions
        .lift(place, valid.collect(), Origin::Customer)
        .await?;
    answer(texts, &addresses, made)
}

fn place(api: &Api, ask: &Ask) -> Result<Place, ApiError> {
    let server = ask.server()?;
    let stream = api.settings.known_stream(server.id, ask.parameter())?;
    Ok(Place {
        list: List {
            server: server.id,
            stream: stream.id,
        },
        server: server.name.clone(),
    })
}

/// The addresses as given, and those that are any.
fn addresses(body: &mut Body) -> Result<(Vec<String>, Vec<Option<Mailbox>>), ApiError> {
    if body.is_empty() {
        return Err(ApiError::new(
            Code(1409),
            "The request has no body; 'Suppressions' is a list of objects with an 'EmailAddress'.",
        ));
    }
    let items = body.take_list("Suppressions");
    if items.is_empty() {
        return Err(missing_address());
    }
    if items.len() > limits::SUPPRESSIONS_PER_REQUEST {
        return Err(ApiError::new(
            Code(1410),
            format!(
                "You may change at most {} suppressions in one request.",
                limits::SUPPRESSIONS_PER_REQUEST
            ),
        ));
    }
    let texts = items.into_iter().map(|item: Value| {
        let item = Body::of(item, ITEM)?;
        item.word("EmailAddress").ok_or_else(missing_address)
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let parsed = texts
        .iter()
        .map(|text| Mailbox::parse(text.trim(), true).ok());
    let parsed = parsed.collect();
    Ok((texts, parsed))
}

fn missing_address() -> ApiError {
    ApiError::new(
        Code(1411),
        "'EmailAddress' is required for each of 'Suppressions'.",
    )
}

/// One for each address, in order.
fn answer(
    texts: Vec<String>,
    addresses: &[Option<Mailbox>],
    made: Vec<Made>,
) -> Result<String, ApiError> {
    let mut made = made.into_iter();
    let of = |(email_address, address): (String, &Option<Mailbox>)| {
        // The texts of 1408 and 1406.
        let (status, message) = match address.as_ref().and_then(|_| made.next()) {
            None => ("Failed", Some("An invalid email address was provided.")),
            Some(Made::NotAllowed(_)) => (
                "Failed",
                Some("You do not have the required authority to change this suppression."),
            ),
            Some(Made::Suppressed | Made::Kept(_)) => ("Suppressed", None),
            Some(Made::Lifted | Made::NotSuppressed) => ("Deleted", None),
        };
        Outcome {
            email_address,
            status,
            message,
        }
    };
    let suppressions = texts.into_iter().zip(addresses).map(of).collect();
    reply(&Outcomes { suppressions })
}

fn filter(query: &Query) -> Result<Filter, ApiError> {
    for (key, code) in [("count", 1401), ("offset", 1403)] {
        if query.text(key).is_some_and(|v| v.parse::<u32>().is_err()) {
            return Err(ApiError::new(
                Code(code),
                format!("Parameter '{key}' must be a number from 0."),
            ));
        }
    }
    let reason = query.text("SuppressionReason").map(str::parse).transpose();
    let origin = query.text("Origin").map(str::parse).transpose();
    Ok(Filter {
        reason: reason.map_err(|_| {
            ApiError::new(
                Code(1404),
                "Parameter 'SuppressionReason' must be one of HardBounce, SpamComplaint, ManualSuppression.",
            )
        })?,
        origin: origin.map_err(|_| {
            ApiError::new(
                Code(1405),
                "Parameter 'Origin' must be one of Recipient, Customer, Admin.",
            )
        })?,
        from: date(query, "fromdate", DATE)?.map(|(first, _)| first),
        to: date(query, "todate", DATE)?.map(|(_, behind)| behind),
    })
}

impl From<Trouble> for ApiError {
    fn from(trouble: Trouble) -> Self {
        let mut error = Self::with(
            StatusCode::SERVICE_UNAVAILABLE,
            Code(1407),
            format!("The suppressions could not be processed: {trouble}. Please try again."),
        );
        error.retry_after = Some(RETRY_AFTER_SECONDS);
        error
    }
}

fn dumped() -> String {
    let entry = specimen(&Entry {
        email_address: "cy@example.com".into(),
        suppression_reason: "HardBounce",
        origin: "Recipient",
        created_at: rfc3339(1_772_460_912_000),
    });
    format!("{DUMP_BEGINS}{entry}{DUMP_ENDS}")
}

fn changed() -> String {
    specimen(&Outcomes {
        suppressions: vec![Outcome {
            email_address: "cy@example.com".into(),
            status: "Suppressed",
            message: None,
        }],
    })
}

const FIELDS: &[Field] = &[required(
    "Suppressions",
    Kind::List,
    "Objects with an EmailAddress.",
)];
const ITEM: &[Field] = &[required("EmailAddress", Kind::Text, "")];
const DUMP_BEGINS: &str = "{\"Suppressions\":[";
const DUMP_ENDS: &str = "]}";
/// Of dates.
const DATE: Code = Code(403);
const RETRY_AFTER_SECONDS: u64 = 5;
