//! `posthaste stream`.

use clap::{Args, Subcommand};
use hyper::Method;

use super::super::client::percent;
use super::super::output::{self, Row};
use super::super::queue::or_dash;
use super::{Accounts, Failure, Found, Place, list};
use crate::account::StreamPatch;
use crate::http::wire;

#[derive(Subcommand)]
pub(in crate::cli) enum StreamCommand {
    /// Make a message stream of a server.
    #[command(
        after_help = "Examples:\n  posthaste stream create shop receipts --type transactional\n  posthaste stream create shop news --type broadcast --name Newsletter --pool bulk"
    )]
    Create {
        #[command(flatten)]
        place: Place,
        /// Name or id of the server.
        server: String,
        /// At most 30 of a-z 0-9 - _, the first a letter.
        id: String,
        #[arg(long = "type", value_name = "transactional|broadcast")]
        kind: String,
        #[command(flatten)]
        settings: Settings,
        #[arg(long)]
        json: bool,
    },
    /// List the streams of a server, archived ones too.
    #[command(after_help = "Example:\n  posthaste stream ls shop")]
    Ls {
        #[command(flatten)]
        place: Place,
        server: String,
        #[arg(long)]
        json: bool,
    },
    /// Change a stream.
    #[command(
        after_help = "Examples:\n  posthaste stream edit shop news --description 'Every Monday'\n  posthaste stream edit shop news --pool default"
    )]
    Edit {
        #[command(flatten)]
        place: Place,
        server: String,
        id: String,
        #[command(flatten)]
        settings: Settings,
        #[arg(long)]
        json: bool,
    },
    /// Refuse mail on a stream from now on. It can be unarchived for 45 days.
    #[command(after_help = "Example:\n  posthaste stream archive shop news")]
    Archive {
        #[command(flatten)]
        place: Place,
        server: String,
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Take mail on an archived stream again.
    #[command(after_help = "Example:\n  posthaste stream unarchive shop news")]
    Unarchive {
        #[command(flatten)]
        place: Place,
        server: String,
        id: String,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(in crate::cli) struct Settings {
    /// For people. [default: the id]
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    description: Option<String>,
    /// Who handles unsubscribing. [default: Postmark for broadcast, else None]
    #[arg(long, value_name = "None|Postmark|Custom")]
    unsubscribe: Option<String>,
    /// An egress pool of the stream's type; `default` for the default one.
    #[arg(long)]
    pool: Option<String>,
}

impl From<Settings> for StreamPatch {
    fn from(settings: Settings) -> Self {
        Self {
            name: settings.name,
            description: settings.description,
            unsubscribe: settings.unsubscribe,
            pool: settings.pool,
        }
    }
}

impl StreamCommand {
    pub(in crate::cli) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Create {
                place,
                server,
                id,
                kind,
                mut settings,
                json,
            } => {
                settings.name = settings.name.or_else(|| Some(id.clone()));
                let new = wire::NewStream {
                    id: Some(id),
                    kind: Some(kind),
                    rest: settings.into(),
                };
                let made = Accounts::of(&place)?.post(&path(&server, None), &new)?;
                said(&made, "is made", json)?;
            }
            Self::Ls {
                place,
                server,
                json,
            } => {
                let listed: wire::Streams = Accounts::of(&place)?.get(&path(&server, None))?;
                list(&listed.streams, json)?;
            }
            Self::Edit {
                place,
                server,
                id,
                settings,
                json,
            } => {
                let patch = StreamPatch::from(settings);
                let accounts = Accounts::of(&place)?;
                let edited =
                    accounts.ask(Method::PATCH, &path(&server, Some(&id)), Some(&patch))?;
                said(&edited, "is changed", json)?;
            }
            Self::Archive {
                place,
                server,
                id,
                json,
            } => {
                let path = path(&server, Some(&id)) + "/archive";
                let archived = Accounts::of(&place)?.post(&path, &())?;
                said(&archived, "is archived and takes no more mail", json)?;
            }
            Self::Unarchive {
                place,
                server,
                id,
                json,
            } => {
                let path = path(&server, Some(&id)) + "/unarchive";
                let stream = Accounts::of(&place)?.post(&path, &())?;
                said(&stream, "takes mail again", json)?;
            }
        }
        Ok(Found::All)
    }
}

fn said(stream: &wire::Stream, what: &str, json: bool) -> Result<(), Failure> {
    match json {
        true => output::json(stream)?,
        false => output::line(format!(
            "stream {} of server {} {what}",
            stream.id, stream.server
        ))?,
    }
    Ok(())
}

fn path(server: &str, stream: Option<&str>) -> String {
    let streams = format!("/admin/v1/servers/{}/streams", percent(server));
    match stream {
        None => streams,
        Some(id) => format!("{streams}/{}", percent(id)),
    }
}

impl Row for wire::Stream {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "TYPE",
        "NAME",
        "POOL",
        "UNSUBSCRIBE",
        "CREATED",
        "ARCHIVED",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.kind.clone(),
            self.name.clone(),
            or_dash(self.pool.as_ref()),
            self.unsubscribe.clone(),
            self.created_at.clone(),
            or_dash(self.archived_at.as_ref()),
        ]
    }
}
