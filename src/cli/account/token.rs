//! `posthaste token`.

use clap::{Args, Subcommand};
use hyper::Method;

use super::super::client::percent;
use super::super::output::{self, Row};
use super::super::queue::or_dash;
use super::{Accounts, Failure, Found, Place, done, list};
use crate::account::{NewToken, TokenKind};
use crate::http::wire;

#[derive(Subcommand)]
pub(in crate::cli) enum TokenCommand {
    /// Make a token. Its secret is shown this once, on standard output.
    #[command(
        after_help = "Examples:\n  posthaste token create shop                     a server token: HTTP, and SMTP as user name and password\n  posthaste token create shop --smtp --stream outbound\n                                                  an SMTP token: access key and secret key, one a line\n  posthaste token create --account                an account token: servers, domains and senders over HTTP\n  posthaste token create shop --rate 600/m"
    )]
    Create {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        owner: Owner,
        /// For SMTP only: access key and secret key, bound to --stream.
        #[arg(long, requires = "stream", conflicts_with = "account")]
        smtp: bool,
        /// Everything sent with it goes to this stream.
        #[arg(long, value_name = "ID", conflicts_with = "account")]
        stream: Option<String>,
        /// What it is for.
        #[arg(long)]
        name: Option<String>,
        /// Messages and requests: 10/s, 600/m, 5000/h. [default: that of the server]
        #[arg(long)]
        rate: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// List tokens, without their text. Those of the configuration file are not among them.
    #[command(
        after_help = "Examples:\n  posthaste token ls shop\n  posthaste token ls --account --json"
    )]
    Ls {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        owner: Owner,
        #[arg(long)]
        json: bool,
    },
    /// Refuse a token from now on: from the next message of open connections, too.
    #[command(
        after_help = "Examples:\n  posthaste token revoke shop 3\n  posthaste token revoke --account 4"
    )]
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Of the account and not of a server: name its id only.
        #[arg(long)]
        account: bool,
        /// Name or id of the server, then the token's id as `token ls` shows it.
        #[arg(required = true, num_args = 1..=2, value_names = ["SERVER", "ID"])]
        token: Vec<String>,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct Owner {
    /// Name or id of the server.
    server: Option<String>,
    /// Of the account: for servers, domains and senders over HTTP.
    #[arg(long)]
    account: bool,
}

impl Owner {
    fn path(&self) -> String {
        path(self.server.as_deref())
    }
}

impl TokenCommand {
    pub(in crate::cli) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Create {
                place,
                owner,
                smtp,
                stream,
                name,
                rate,
                json,
            } => {
                let new = NewToken {
                    kind: smtp.then_some(TokenKind::Smtp),
                    stream,
                    name,
                    rate,
                };
                let made: wire::Token = Accounts::of(&place)?.post(&owner.path(), &new)?;
                if json {
                    output::json(&made)?;
                    return Ok(Found::All);
                }
                let whose = match &made.server {
                    Some(server) => format!("server {server}"),
                    None => "the account".to_owned(),
                };
                eprintln!(
                    "{} token {} of {whose}; its secret is not shown again:",
                    made.kind.as_str(),
                    made.id
                );
                if let Some(access_key) = &made.access_key {
                    output::line(access_key)?;
                }
                output::line(made.token.unwrap_or_default())?;
            }
            Self::Ls { place, owner, json } => {
                let listed: wire::Tokens = Accounts::of(&place)?.get(&owner.path())?;
                list(&listed.tokens, json)?;
            }
            Self::Revoke {
                place,
                account,
                token,
                json,
            } => {
                let (server, id) = match (account, token.as_slice()) {
                    (true, [id]) => (None, id),
                    (false, [server, id]) => (Some(server.as_str()), id),
                    _ => {
                        return Err(Failure::usage(
                            "name the server and the token's id, or --account and the id",
                        ));
                    }
                };
                let id: u32 = id.parse().map_err(|_| {
                    Failure::usage(format!("`{id}` is no token id; `token ls` shows them"))
                })?;
                let path = format!("{}/{id}", path(server));
                Accounts::of(&place)?.order(Method::DELETE, &path, None::<&()>)?;
                let revoked = id.to_string();
                done(
                    ("revoked", &revoked),
                    "is refused from now on",
                    "token",
                    json,
                )?;
            }
        }
        Ok(Found::All)
    }
}

fn path(server: Option<&str>) -> String {
    match server {
        Some(server) => format!("/admin/v1/servers/{}/tokens", percent(server)),
        None => "/admin/v1/account/tokens".to_owned(),
    }
}

impl Row for wire::Token {
    const COLUMNS: &'static [&'static str] = &[
        ">ID",
        "KIND",
        "STREAM",
        "NAME",
        "ACCESS-KEY",
        "RATE",
        "CREATED",
        "LAST-USED",
        "REVOKED",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.kind.as_str().to_owned(),
            or_dash(self.stream.as_ref()),
            self.name.clone(),
            or_dash(self.access_key.as_ref()),
            or_dash(self.rate.as_ref()),
            or_dash(self.created_at.as_ref()),
            or_dash(self.last_used_at.as_ref()),
            or_dash(self.revoked_at.as_ref()),
        ]
    }
}
