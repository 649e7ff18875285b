//! `/deliverystats` and `/bounces` (reference §5). A server token reaches the bounces of its server and no others.
//!
//! A bounce's id is the position of its event. *Inactive* is what holds now, whatever became of the address since the bounce;
//! activating lifts the suppression of the address in the bounce's stream, and does nothing where there is none.

use axum::http::{Method, StatusCode};
use serde::Serialize;

use super::dates::date;
use super::error::{ApiError, Code};
use super::json::{Field, Kind};
use super::query::Query;
use super::{Access, Api, Ask, Route, call, field, reply, specimen};
use crate::account::ServerInfo;
use crate::classify::BounceType;
use crate::clock::rfc3339;
use crate::limits;
use crate::mail::{Mailbox, MessageId};
use crate::readers::bounces::{Bounce, Search};
use crate::readers::suppressions::{Address, List, Made, Place};
use crate::suppression::{Origin, Suppression};

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/deliverystats",
        access: Access::Server,
        about: "How many bounces of each type there are, and how many addresses are inactive.",
        query: &[],
        body: &[],
        specimen: stats_specimen,
        call: call!(stats),
    },
    Route {
        method: Method::GET,
        path: "/bounces",
        access: Access::Server,
        about: "Bounces of a message stream, newest first.",
        query: FILTERS,
        body: &[],
        specimen: list_specimen,
        call: call!(list),
    },
    Route {
        method: Method::GET,
        path: "/bounces/tags",
        access: Access::Server,
        about: "Tags of messages that bounced.",
        query: &[],
        body: &[],
        specimen: || specimen(&["receipt", "welcome"]),
        call: call!(tags),
    },
    Route {
        method: Method::GET,
        path: "/bounces/{id}",
        access: Access::Server,
        about: "A bounce, with what came back.",
        query: &[],
        body: &[],
        specimen: || specimen(&example(Some("550 5.1.1 no such user\r\n".into()))),
        call: call!(get),
    },
    Route {
        method: Method::GET,
        path: "/bounces/{id}/dump",
        access: Access::Server,
        about: "What came back, as it came; empty where it is not kept.",
        query: &[],
        body: &[],
        specimen: || {
            specimen(&Dump {
                body: "550 5.1.1 no such user\r\n".into(),
            })
        },
        call: call!(dump),
    },
    Route {
        method: Method::PUT,
        path: "/bounces/{id}/activate",
        access: Access::Server,
        about: "Lifts the suppression of the address in the bounce's message stream.",
        query: &[],
        body: &[],
        specimen: || {
            specimen(&Activated {
                message: "OK",
                bounce: example(Some(String::new())),
            })
        },
        call: call!(activate),
    },
];

const FILTERS: &[Field] = &[
    field("count", Kind::Number, "1 to 500; 50 if not given."),
    field("offset", Kind::Number, "From 0; with count at most 10,000."),
    field(
        "type",
        Kind::Text,
        "HardBounce, SoftBounce, SpamComplaint ...",
    ),
    field(
        "inactive",
        Kind::Text,
        "true: only addresses that are inactive; false: only others.",
    ),
    field(
        "emailFilter",
        Kind::Text,
        "A part of the address, in any case.",
    ),
    field("tag", Kind::Text, ""),
    field("messageID", Kind::Text, ""),
    field(
        "fromdate",
        Kind::Text,
        "Inclusive: 2026-03-02, 2026-03-02T09:15:00.",
    ),
    field("todate", Kind::Text, "Inclusive."),
    field("messagestream", Kind::Text, "outbound if not given."),
];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stats {
    inactive_mails: u64,
    bounces: Vec<Count>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Count {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    name: &'static str,
    count: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    total_count: u64,
    bounces: Vec<Entry>,
}

/// In the order of the reference.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    record_type: &'static str,
    #[serde(rename = "ID")]
    id: u64,
    r#type: &'static str,
    type_code: u32,
    name: &'static str,
    tag: Option<String>,
    #[serde(rename = "MessageID")]
    message_id: String,
    #[serde(rename = "ServerID")]
    server_id: u32,
    message_stream: String,
    description: &'static str,
    details: String,
    email: String,
    from: String,
    bounced_at: String,
    dump_available: bool,
    inactive: bool,
    can_activate: bool,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Dump {
    body: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Activated {
    message: &'static str,
    bounce: Entry,
}

async fn stats(api: Api, ask: Ask) -> Result<String, ApiError> {
    let tally = api.bounces.tally(ask.server()?.id).await?;
    let all = Count {
        r#type: None,
        name: "All",
        count: tally.by_type.values().sum(),
    };
    let of = |(kind, count): (BounceType, u64)| Count {
        r#type: Some(kind.as_str()),
        name: kind.name(),
        count,
    };
    let bounces = std::iter::once(all).chain(tally.by_type.into_iter().map(of));
    reply(&Stats {
        inactive_mails: tally.inactive,
        bounces: bounces.collect(),
    })
}

async fn list(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?;
    let search = search(&api, server, &ask.query)?;
    let (total_count, bounces) = api.bounces.search(&search).await?;
    let entry = |bounce| Entry::new(&api, server, bounce, None);
    reply(&Page {
        total_count,
        bounces: bounces.into_iter().map(entry).collect(),
    })
}

async fn tags(api: Api, ask: Ask) -> Result<String, ApiError> {
    reply(&api.bounces.tags(ask.server()?.id).await?)
}

async fn get(api: Api, ask: Ask) -> Result<String, ApiError> {
    let bounce = find(&api, &ask).await?;
    let content = content(&api, &bounce).await?;
    reply(&Entry::new(&api, ask.server()?, bounce, Some(content)))
}

async fn dump(api: Api, ask: Ask) -> Result<String, ApiError> {
    let bounce = find(&api, &ask).await?;
    let body = content(&api, &bounce).await?;
    reply(&Dump { body })
}

async fn activate(api: Api, ask: Ask) -> Result<String, ApiError> {
    let bounce = find(&api, &ask).await?;
    let server = ask.server()?;
    if !can_activate(&bounce, suppression(&api, server, &bounce)) {
        return Err(not_activated());
    }
    if let Ok(mailbox) = Mailbox::parse(&bounce.email, true) {
        let place = Place {
            list: list_of(server, &bounce),
            server: server.name.clone(),
        };
        let address = vec![Address::Clear(mailbox)];
        let made = api
            .suppressions
            .lift(place, address, Origin::Customer)
            .await?;
        // Somebody else has suppressed it meanwhile.
        if made.iter().any(|made| matches!(made, Made::NotAllowed(_))) {
            return Err(not_activated());
        }
    }
    let content = content(&api, &bounce).await?;
    reply(&Activated {
        message: "OK",
        bounce: Entry::new(&api, server, bounce, Some(content)),
    })
}

fn not_activated() -> ApiError {
    ApiError::new(Code(1003), "This bounce cannot be activated.")
}

/// The one that the path names, of this server.
async fn find(api: &Api, ask: &Ask) -> Result<Bounce, ApiError> {
    let text = ask.parameter();
    if text.is_empty() {
        return Err(ApiError::with(
            StatusCode::BAD_REQUEST,
            Code(1002),
            "A bounce ID is required.",
        ));
    }
    // What is no number is nobody's id.
    let found = match text.parse::<i64>() {
        Ok(id) if id >= 0 => api.bounces.find(ask.server()?.id, id as u64).await?,
        _ => None,
    };
    found.ok_or_else(|| {
        ApiError::new(
            Code(1001),
            "The bounce with this ID was not found, or it is not kept any more.",
        )
    })
}

/// What came back, as it came.
async fn content(api: &Api, bounce: &Bounce) -> Result<String, ApiError> {
    if !bounce.has_notice {
        return Ok(String::new());
    }
    let (bounces, id) = (api.bounces.clone(), bounce.id);
    let notice = tokio::task::spawn_blocking(move || bounces.notice(id)).await;
    let notice = notice.map_err(|e| ApiError::fault(e.to_string()))?;
    Ok(notice.unwrap_or_default())
}

fn list_of(server: &ServerInfo, bounce: &Bounce) -> List {
    List {
        server: server.id,
        stream: bounce.stream.as_str().into(),
    }
}

/// What holds now of the address in the bounce's stream.
fn suppression(api: &Api, server: &ServerInfo, bounce: &Bounce) -> Option<Suppression> {
    let mailbox = Mailbox::parse(&bounce.email, true).ok()?;
    api.suppressions
        .set()
        .of(server.id, &bounce.stream, &mailbox)
}

/// Complaints are not (reference §5.4), nor what the customer may not lift.
fn can_activate(bounce: &Bounce, suppression: Option<Suppression>) -> bool {
    bounce.kind != BounceType::SpamComplaint
        && suppression.is_none_or(Suppression::is_the_customers)
}

impl Entry {
    fn new(api: &Api, server: &ServerInfo, bounce: Bounce, content: Option<String>) -> Self {
        let suppression = suppression(api, server, &bounce);
        Self {
            record_type: "Bounce",
            id: bounce.id,
            r#type: bounce.kind.as_str(),
            type_code: bounce.kind.code(),
            name: bounce.kind.name(),
            inactive: suppression.is_some(),
            can_activate: can_activate(&bounce, suppression),
            tag: Some(bounce.tag).filter(|tag| !tag.is_empty()),
            message_id: bounce.message.to_string(),
            server_id: server.id,
            message_stream: bounce.stream,
            description: bounce.kind.description(),
            details: bounce.details,
            email: bounce.email,
            from: bounce.from,
            bounced_at: rfc3339(bounce.at),
            dump_available: bounce.has_notice,
            subject: bounce.subject,
            content,
        }
    }
}

fn search(api: &Api, server: &ServerInfo, query: &Query) -> Result<Search, ApiError> {
    let wrong = |text: String| ApiError::new(FAMILY, text);
    let page = query.page(FAMILY)?;
    if page.count + page.offset > limits::API_SEARCH_DEPTH {
        return Err(wrong(format!(
            "Parameters 'count' and 'offset' may be {} together.",
            limits::API_SEARCH_DEPTH
        )));
    }
    let kind = query.text("type").map(|text| {
        let mut all = BounceType::ALL.iter().copied();
        all.find(|kind| kind.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| wrong("Parameter 'type' is none of the bounce types.".into()))
    });
    let inactive = query
        .text("inactive")
        .map(|text| match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong("Parameter 'inactive' must be true or false.".into())),
        });
    let message = query.text("messageID").map(|text| {
        text.parse::<MessageId>()
            .map_err(|_| wrong("Parameter 'messageID' must be a message's ID.".into()))
    });
    let stream = query.text("messagestream").unwrap_or("outbound");
    let stream = api
        .settings
        .known_stream(server.id, &stream.to_lowercase())?;
    Ok(Search {
        server: server.id,
        stream: stream.id.to_string(),
        kind: kind.transpose()?,
        inactive: inactive.transpose()?,
        email: query.text("emailFilter").map(str::to_owned),
        tag: query.text("tag").map(str::to_owned),
        message: message.transpose()?,
        from: date(query, "fromdate", FAMILY)?.map(|(first, _)| first),
        to: date(query, "todate", FAMILY)?.map(|(_, behind)| behind),
        count: page.count,
        offset: page.offset,
    })
}

fn example(content: Option<String>) -> Entry {
    let kind = BounceType::HardBounce;
    Entry {
        record_type: "Bounce",
        id: 943_247_350,
        r#type: kind.as_str(),
        type_code: kind.code(),
        name: kind.name(),
        tag: Some("welcome".into()),
        message_id: "b1d5dfa8-2d7c-4176-a24e-8a47ff860615".into(),
        server_id: 23,
        message_stream: "outbound".into(),
        description: kind.description(),
        details: "smtp;550 5.1.1 no such user".into(),
        email: "cy@example.com".into(),
        from: "orders@shop.example".into(),
        bounced_at: rfc3339(1_772_460_912_000),
        dump_available: true,
        inactive: content.as_ref().is_none_or(|content| !content.is_empty()),
        can_activate: true,
        subject: "Your parcel left us".into(),
        content,
    }
}

fn list_specimen() -> String {
    specimen(&Page {
        total_count: 1,
        bounces: vec![example(None)],
    })
}

fn stats_specimen() -> String {
    let kind = BounceType::HardBounce;
    let count = |r#type, name| Count {
        r#type,
        name,
        count: 136,
    };
    specimen(&Stats {
        inactive_mails: 136,
        bounces: vec![count(None, "All"), count(Some(kind.as_str()), kind.name())],
    })
}

/// Of parameters.
const FAMILY: Code = Code(1000);
