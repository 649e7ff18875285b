//! `posthaste sender`: sender signatures. Asks the running daemon only, which mails the links.

use clap::Subcommand;
use hyper::Method;

use super::super::client::percent;
use super::super::output::{self, Row};
use super::super::queue::or_dash;
use super::{Failure, Found, Place, ask, done, list, order, show};
use crate::account::SignaturePatch;
use crate::http::wire;

#[derive(Subcommand)]
pub(in crate::cli) enum SenderCommand {
    /// Allow a single address in From. It gets a mail with a link; whoever follows that confirms.
    #[command(
        after_help = "Examples:\n  posthaste sender add ada@example.com --name \"Ada Lovelace\"\n  posthaste sender add ada@example.com --name Ada --note \"For the web shop\"\n\nThe link leads to [http] public_url and is good for seven days; posthaste sender resend makes another."
    )]
    Add {
        #[command(flatten)]
        place: Place,
        address: String,
        /// Whose address it is, as in From.
        #[arg(long)]
        name: String,
        /// Where replies are to go.
        #[arg(long, value_name = "ADDRESS")]
        reply_to: Option<String>,
        /// A sub-domain of the address's domain.
        #[arg(long, value_name = "NAME")]
        return_path: Option<String>,
        /// Stands in the mail with the link.
        #[arg(long)]
        note: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// List the sender signatures.
    #[command(
        after_help = "Examples:\n  posthaste sender ls\n  posthaste sender ls --json | jq -r 'select(.confirmed|not).address'"
    )]
    Ls {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Show one sender signature.
    #[command(after_help = "Example:\n  posthaste sender show ada@example.com")]
    Show {
        #[command(flatten)]
        place: Place,
        /// Address or id.
        sender: String,
        #[arg(long)]
        json: bool,
    },
    /// Mail the link once more.
    #[command(after_help = "Example:\n  posthaste sender resend ada@example.com")]
    Resend {
        #[command(flatten)]
        place: Place,
        /// Address or id.
        sender: String,
        #[arg(long)]
        json: bool,
    },
    /// Change a sender signature; its address stays.
    #[command(
        after_help = "Examples:\n  posthaste sender edit ada@example.com --name \"Ada L.\"\n  posthaste sender edit ada@example.com --reply-to ''"
    )]
    Edit {
        #[command(flatten)]
        place: Place,
        /// Address or id.
        sender: String,
        #[arg(long)]
        name: Option<String>,
        /// Empty takes it away.
        #[arg(long, value_name = "ADDRESS")]
        reply_to: Option<String>,
        /// Empty takes it away.
        #[arg(long, value_name = "NAME")]
        return_path: Option<String>,
        #[arg(long)]
        note: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Delete a sender signature: From may not be it from the next message on.
    #[command(after_help = "Example:\n  posthaste sender rm ada@example.com")]
    Rm {
        #[command(flatten)]
        place: Place,
        /// Address or id.
        sender: String,
        #[arg(long)]
        json: bool,
    },
}

impl SenderCommand {
    pub(in crate::cli) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Add {
                place,
                address,
                name,
                reply_to,
                return_path,
                note,
                json,
            } => {
                let new = SignaturePatch {
                    address: Some(address),
                    name: Some(name),
                    reply_to,
                    return_path,
                    note,
                };
                let made: wire::SenderSignature = ask(&place, Method::POST, SENDERS, Some(&new))?;
                match json {
                    true => output::json(&made)?,
                    false => output::line(format!(
                        "sender {} has id {}; a mail with a link is on its way there, and From may be it once the link was followed",
                        made.address, made.id
                    ))?,
                }
            }
            Self::Ls { place, json } => {
                let listed: wire::Senders = ask(&place, Method::GET, SENDERS, None::<&()>)?;
                list(&listed.senders, json)?;
            }
            Self::Show {
                place,
                sender,
                json,
            } => {
                let found: wire::SenderSignature =
                    ask(&place, Method::GET, &path(&sender), None::<&()>)?;
                show(&found, json)?;
            }
            Self::Resend {
                place,
                sender,
                json,
            } => {
                let path = format!("{}/resend", path(&sender));
                let sent: wire::SenderSignature = ask(&place, Method::POST, &path, None::<&()>)?;
                match json {
                    true => output::json(&sent)?,
                    false => {
                        output::line(format!("another link is on its way to {}", sent.address))?
                    }
                }
            }
            Self::Edit {
                place,
                sender,
                name,
                reply_to,
                return_path,
                note,
                json,
            } => {
                let patch = SignaturePatch {
                    address: None,
                    name,
                    reply_to,
                    return_path,
                    note,
                };
                if patch == SignaturePatch::default() {
                    return Err(Failure::usage(
                        "say what is to change: --name, --reply-to, --return-path or --note",
                    ));
                }
                let edited: wire::SenderSignature =
                    ask(&place, Method::PATCH, &path(&sender), Some(&patch))?;
                show(&edited, json)?;
            }
            Self::Rm {
                place,
                sender,
                json,
            } => {
                order(&place, Method::DELETE, &path(&sender), None::<&()>)?;
                done(("deleted", &sender), "is deleted", "sender", json)?;
            }
        }
        Ok(Found::All)
    }
}

fn path(sender: &str) -> String {
    format!("{SENDERS}/{}", percent(sender))
}

impl Row for wire::SenderSignature {
    const COLUMNS: &'static [&'static str] =
        &[">ID", "ADDRESS", "NAME", "CONFIRMED", "REPLY-TO", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let confirmed = if self.confirmed { "yes" } else { "no" };
        vec![
            self.id.to_string(),
            self.address.clone(),
            self.name.clone(),
            confirmed.into(),
            or_dash(self.reply_to.as_ref()),
            self.created_at.clone(),
        ]
    }
}

const SENDERS: &str = "/admin/v1/senders";
