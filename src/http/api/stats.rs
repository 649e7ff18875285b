//! `/stats/outbound…` (reference §12). A server token reaches the counts of its server.
//!
//! Days without counts are left out. A day that is there has each name that the reference documents, 0 included: the official
//! Python client needs that; other bounce types follow under their own names where there are any. Opens and clicks are
//! counted from their events, which nothing makes yet.

use std::collections::BTreeMap;

use axum::http::Method;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::dates::date;
use super::error::{ApiError, Code};
use super::json::{Field, Kind};
use super::{Access, Api, Ask, Route, call, field, reply, specimen};
use crate::classify::BounceType;
use crate::clock::Day;
use crate::readers::statistics::{Asked, Counted, Counts};

/// What one path counts.
struct Subject {
    /// In every day, and in the sums.
    names: &'static [&'static str],
    name: fn(Counted) -> Option<&'static str>,
}

macro_rules! days {
    ($path:literal, $about:literal, $subject:ident) => {
        Route {
            method: Method::GET,
            path: $path,
            access: Access::Server,
            about: $about,
            query: FILTERS,
            body: &[],
            specimen: || specimen(&$subject.answer(&example())),
            call: |api, ask| {
                Box::pin(async move { by_day(api, ask, &$subject).await.map(Into::into) })
            },
        }
    };
}

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/stats/outbound",
        access: Access::Server,
        about: "Sums of what was sent, bounced and complained about.",
        query: FILTERS,
        body: &[],
        specimen: || specimen(&Overview::of(&example())),
        call: call!(overview),
    },
    days!(
        "/stats/outbound/sends",
        "Recipients that mail was sent to, by day.",
        SENDS
    ),
    days!(
        "/stats/outbound/bounces",
        "Bounces by day and type.",
        BOUNCES
    ),
    days!("/stats/outbound/spam", "Spam complaints by day.", SPAM),
    days!(
        "/stats/outbound/tracked",
        "Recipients of tracked mail, by day.",
        TRACKED
    ),
    days!("/stats/outbound/opens", "Opens by day.", OPENS),
    days!(
        "/stats/outbound/opens/platforms",
        "Opens by day and platform.",
        NOTHING
    ),
    days!(
        "/stats/outbound/opens/emailclients",
        "Opens by day and mail program.",
        NOTHING
    ),
    days!(
        "/stats/outbound/opens/readtimes",
        "Opens by day and time of reading.",
        NOTHING
    ),
    days!("/stats/outbound/clicks", "Clicks by day.", CLICKS),
    days!(
        "/stats/outbound/clicks/browserfamilies",
        "Clicks by day and browser.",
        NOTHING
    ),
    days!(
        "/stats/outbound/clicks/platforms",
        "Clicks by day and platform.",
        NOTHING
    ),
    days!(
        "/stats/outbound/clicks/location",
        "Clicks by day and part of the message.",
        NOTHING
    ),
];

const FILTERS: &[Field] = &[
    field("tag", Kind::Text, "Only of messages with this tag."),
    field(
        "fromdate",
        Kind::Text,
        "Inclusive: 2026-03-02. Days are those of [http] time_zone.",
    ),
    field("todate", Kind::Text, "Inclusive."),
    field("messagestream", Kind::Text, "All streams if not given."),
];

static SENDS: Subject = Subject {
    names: &["Sent"],
    name: |counted| (counted == Counted::Sent).then_some("Sent"),
};
static BOUNCES: Subject = Subject {
    names: &["HardBounce", "SoftBounce", "SMTPApiError", "Transient"],
    name: |counted| match counted {
        Counted::Bounced(kind) if kind != BounceType::SpamComplaint => Some(kind.as_str()),
        _ => None,
    },
};
static SPAM: Subject = Subject {
    names: &["SpamComplaint"],
    name: |counted| match counted {
        Counted::Bounced(BounceType::SpamComplaint) => Some("SpamComplaint"),
        _ => None,
    },
};
static TRACKED: Subject = Subject {
    names: &["Tracked"],
    name: |_| None,
};
static OPENS: Subject = Subject {
    names: &["Opens", "Unique"],
    name: |counted| (counted == Counted::Opened).then_some("Opens"),
};
static CLICKS: Subject = Subject {
    names: &["Clicks", "Unique"],
    name: |counted| (counted == Counted::Clicked).then_some("Clicks"),
};
/// Of what no event tells yet.
static NOTHING: Subject = Subject {
    names: &[],
    name: |_| None,
};

async fn overview(api: Api, ask: Ask) -> Result<String, ApiError> {
    let counts = counts(&api, &ask).await?;
    reply(&Overview::of(&counts))
}

async fn by_day(api: Api, ask: Ask, subject: &Subject) -> Result<String, ApiError> {
    let counts = counts(&api, &ask).await?;
    reply(&subject.answer(&counts))
}

async fn counts(api: &Api, ask: &Ask) -> Result<Counts, ApiError> {
    let (server, query) = (ask.server()?, &ask.query);
    let stream = query.text("messagestream").map(str::to_lowercase);
    let stream = stream.map(|stream| api.settings.known_stream(server.id, &stream));
    let zone = api.statistics.zone();
    let day = |key| {
        let span = date(query, key, FAMILY)?;
        Ok::<_, ApiError>(span.map(|(first, _)| zone.day_of(first)))
    };
    let (from, to) = (day("fromdate")?, day("todate")?);
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        return Err(ApiError::new(
            Code(1502),
            "Parameter 'fromdate' must not be later than 'todate'.",
        ));
    }
    let asked = Asked {
        server: server.id,
        stream: stream.transpose()?.map(|stream| stream.id.to_string()),
        tag: query.text("tag").map(str::to_owned),
        from,
        to,
    };
    Ok(api.statistics.counts(&asked).await?)
}

/// Names and numbers, in order. Postmark leaves zeros out of a day; its own Python client refuses a day without them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Named(Vec<(&'static str, u64)>);

struct Entry {
    date: Day,
    named: Named,
}

struct Days {
    days: Vec<Entry>,
    /// Left out where there is no day.
    sums: Named,
}

impl Subject {
    fn answer(&self, counts: &Counts) -> Days {
        let mut sums = self.zeros();
        let mut days = Vec::new();
        for (&date, of_day) in counts {
            let mut named = self.zeros();
            let mut is_any = false;
            for (&counted, &number) in of_day {
                if let Some(name) = (self.name)(counted) {
                    named.add(name, number);
                    sums.add(name, number);
                    is_any = true;
                }
            }
            if is_any {
                days.push(Entry { date, named });
            }
        }
        Days { days, sums }
    }

    fn zeros(&self) -> Named {
        Named(self.names.iter().map(|&name| (name, 0)).collect())
    }
}

impl Named {
    fn add(&mut self, name: &'static str, number: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += number,
            None => self.0.push((name, number)),
        }
    }

    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let mut entries = self.0.iter();
        entries.try_for_each(|(name, number)| map.serialize_entry(name, number))
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("Date", &self.date.to_string())?;
        self.named.write(&mut map)?;
        map.end()
    }
}

impl Serialize for Days {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("Days", &self.days)?;
        if !self.days.is_empty() {
            self.sums.write(&mut map)?;
        }
        map.end()
    }
}

/// In the order of the reference.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Overview {
    sent: u64,
    bounced: u64,
    #[serde(rename = "SMTPApiErrors")]
    smtp_api_errors: u64,
    bounce_rate: f64,
    spam_complaints: u64,
    spam_complaints_rate: f64,
    tracked: u64,
    opens: u64,
    unique_opens: u64,
    total_clicks: u64,
    unique_links_clicked: u64,
    with_client_recorded: u64,
    with_platform_recorded: u64,
    with_read_time_recorded: u64,
    with_link_tracking: u64,
    with_open_tracking: u64,
    total_tracked_links_sent: u64,
}

impl Overview {
    fn of(counts: &Counts) -> Self {
        let mut sums: BTreeMap<Counted, u64> = BTreeMap::new();
        for (&counted, &number) in counts.values().flatten() {
            *sums.entry(counted).or_default() += number;
        }
        let of = |counted| sums.get(&counted).copied().unwrap_or(0);
        let sent = of(Counted::Sent);
        let failed = sums.iter().filter(|(counted, _)| is_failure(**counted));
        let bounced = failed.map(|(_, number)| number).sum();
        let spam_complaints = of(Counted::Bounced(BounceType::SpamComplaint));
        Self {
            sent,
            bounced,
            smtp_api_errors: of(Counted::Bounced(BounceType::SMTPApiError)),
            bounce_rate: percent(bounced, sent),
            spam_complaints,
            spam_complaints_rate: percent(spam_complaints, sent),
            tracked: 0,
            opens: of(Counted::Opened),
            unique_opens: 0,
            total_clicks: of(Counted::Clicked),
            unique_links_clicked: 0,
            with_client_recorded: 0,
            with_platform_recorded: 0,
            with_read_time_recorded: 0,
            with_link_tracking: 0,
            with_open_tracking: 0,
            total_tracked_links_sent: 0,
        }
    }
}

/// What came back and says that the message did not arrive, or was not taken. The others are counted by themselves, or answers.
fn is_failure(counted: Counted) -> bool {
    use BounceType::*;
    let Counted::Bounced(kind) = counted else {
        return false;
    };
    !matches!(
        kind,
        SMTPApiError
            | SpamComplaint
            | AutoResponder
            | AddressChange
            | Subscribe
            | Unsubscribe
            | OpenRelayTest
            | InboundError
    )
}

/// With three digits.
fn percent(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        _ => (part as f64 / whole as f64 * 100_000.0).round() / 1_000.0,
    }
}

fn example() -> Counts {
    let counts = [
        (Counted::Sent, 615),
        (Counted::Bounced(BounceType::HardBounce), 12),
        (Counted::Bounced(BounceType::SoftBounce), 36),
        (Counted::Bounced(BounceType::SMTPApiError), 3),
        (Counted::Bounced(BounceType::SpamComplaint), 1),
    ];
    Counts::from([(Day(20_514), counts.into())])
}

/// Of parameters.
const FAMILY: Code = Code(900);
