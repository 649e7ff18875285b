//! `posthaste server`.

use clap::Subcommand;
use hyper::Method;

use super::super::client::percent;
use super::super::output::{self, Row};
use super::{Accounts, Failure, Found, Place, done, list, show, with_settings};
use crate::account::ServerPatch;
use crate::http::wire;

#[derive(Subcommand)]
pub(in crate::cli) enum ServerCommand {
    /// Make a server (a tenant) with its streams outbound, broadcast and inbound.
    #[command(
        after_help = "Examples:\n  posthaste server create shop\n  posthaste server create shop --senders any --set color=red --set track_opens=true\n  posthaste server create trial --sandbox --set rate=10/s\n\nNext: posthaste token create shop"
    )]
    Create {
        #[command(flatten)]
        place: Place,
        name: String,
        /// verified: From must be of a verified domain or signature. [default: verified]
        #[arg(long, value_name = "verified|any")]
        senders: Option<String>,
        /// keep: a submitted Message-ID stays. [default: keep]
        #[arg(long, value_name = "keep|replace")]
        message_id: Option<String>,
        /// All its mail goes to the built-in sink.
        #[arg(long)]
        sandbox: bool,
        /// Any setting that `server show` shows.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        #[arg(long)]
        json: bool,
    },
    /// List the servers.
    #[command(after_help = "Example:\n  posthaste server ls --json | jq -r .name")]
    Ls {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Show one server with all its settings.
    #[command(after_help = "Example:\n  posthaste server show shop")]
    Show {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        server: String,
        #[arg(long)]
        json: bool,
    },
    /// Change settings of a server. One that the configuration file declares is changed there.
    #[command(
        after_help = "Examples:\n  posthaste server edit shop --set name=store\n  posthaste server edit shop --set strict=true --set rate=100/s\n  posthaste server edit shop --set rate=none --set smtp_api_activated=false"
    )]
    Edit {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        server: String,
        /// Any setting that `server show` shows, but id, delivery_type and inbound_hash.
        #[arg(long, value_name = "KEY=VALUE", required = true)]
        set: Vec<String>,
        #[arg(long)]
        json: bool,
    },
    /// Delete a server with its streams and tokens. What it has handed over is delivered all the same.
    #[command(after_help = "Example:\n  posthaste server rm trial")]
    Rm {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        server: String,
        #[arg(long)]
        json: bool,
    },
}

impl ServerCommand {
    pub(in crate::cli) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Create {
                place,
                name,
                senders,
                message_id,
                sandbox,
                set,
                json,
            } => {
                let new = ServerPatch {
                    name: Some(name),
                    senders,
                    message_id,
                    delivery_type: sandbox.then(|| "sandbox".into()),
                    ..ServerPatch::default()
                };
                let new = with_settings(&new, &set)?;
                let made: wire::Server = Accounts::of(&place)?.post("/admin/v1/servers", &new)?;
                match json {
                    true => output::json(&made)?,
                    false => output::line(format!(
                        "server {} has id {}; next: posthaste token create {}",
                        made.name, made.id, made.name
                    ))?,
                }
            }
            Self::Ls { place, json } => {
                let listed: wire::Servers = Accounts::of(&place)?.get("/admin/v1/servers")?;
                list(&listed.servers, json)?;
            }
            Self::Show {
                place,
                server,
                json,
            } => {
                let server: wire::Server = Accounts::of(&place)?.get(&path(&server))?;
                show(&server, json)?;
            }
            Self::Edit {
                place,
                server,
                set,
                json,
            } => {
                let patch = with_settings(&ServerPatch::default(), &set)?;
                let edited: wire::Server =
                    Accounts::of(&place)?.ask(Method::PATCH, &path(&server), Some(&patch))?;
                show(&edited, json)?;
            }
            Self::Rm {
                place,
                server,
                json,
            } => {
                Accounts::of(&place)?.order(Method::DELETE, &path(&server), None::<&()>)?;
                done(("deleted", &server), "is deleted", "server", json)?;
            }
        }
        Ok(Found::All)
    }
}

fn path(server: &str) -> String {
    format!("/admin/v1/servers/{}", percent(server))
}

impl Row for wire::Server {
    const COLUMNS: &'static [&'static str] = &[
        ">ID",
        "NAME",
        "SENDERS",
        "MESSAGE-ID",
        "DELIVERY",
        "FROM",
        "CREATED",
    ];

    fn cells(&self) -> Vec<String> {
        let from = if self.declared {
            "configuration"
        } else {
            "command"
        };
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.senders.clone(),
            self.message_id.clone(),
            self.delivery_type.clone(),
            from.into(),
            self.created_at.clone(),
        ]
    }
}
