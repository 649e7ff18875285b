//! `posthaste webhook`: asks the running daemon.

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;

use super::super::client::percent;
use super::super::output::{self, Row};
use super::super::queue::or_dash;
use super::{Failure, Found, Place, ask, done, list, order, show};
use crate::account::{BasicAuth, HeaderField, WebhookPatch};
use crate::http::wire;

#[derive(Subcommand)]
pub(in crate::cli) enum WebhookCommand {
    /// List webhooks and hook URLs of servers, with how they are doing.
    #[command(after_help = "Examples:\n  posthaste webhook ls\n  posthaste webhook ls shop --json")]
    Ls {
        #[command(flatten)]
        place: Place,
        /// Name or id of a server. [default: all]
        server: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Show a webhook, its last failure and what it has still to be sent.
    #[command(after_help = "Example:\n  posthaste webhook show 3")]
    Show {
        #[command(flatten)]
        place: Place,
        /// As `webhook ls` shows it.
        key: String,
        #[arg(long)]
        json: bool,
    },
    /// Set a webhook. It gets what happens from now on; `webhook replay` sends what was before.
    #[command(
        after_help = "Examples:\n  posthaste webhook add shop https://shop.example/hooks/mail --on delivery,bounce,complaint\n  posthaste webhook add shop https://shop.example/news --stream broadcast --on subscription --sign\n  posthaste webhook add shop https://shop.example/b --on bounce --content --auth hook:s3cret --header 'X-Shop: north'"
    )]
    Add {
        #[command(flatten)]
        place: Place,
        /// Name or id of the server.
        server: String,
        url: String,
        #[arg(long, value_name = "ID", default_value = "outbound")]
        stream: String,
        #[command(flatten)]
        settings: Settings,
        #[arg(long)]
        json: bool,
    },
    /// Change a webhook. What is not given stays; one that was stopped goes on.
    #[command(
        after_help = "Examples:\n  posthaste webhook edit 3 --url https://shop.example/hooks/v2\n  posthaste webhook edit 3 --on delivery,bounce --no-auth --no-sign"
    )]
    Edit {
        #[command(flatten)]
        place: Place,
        key: String,
        #[arg(long)]
        url: Option<String>,
        #[command(flatten)]
        settings: Settings,
        #[arg(long)]
        json: bool,
    },
    /// Delete a webhook. What it has not been sent yet it is not sent.
    #[command(after_help = "Example:\n  posthaste webhook rm 3")]
    Rm {
        #[command(flatten)]
        place: Place,
        key: String,
        #[arg(long)]
        json: bool,
    },
    /// Send a specimen for each trigger. A webhook that was stopped goes on if all are taken.
    #[command(after_help = "Example:\n  posthaste webhook verify 3")]
    Verify {
        #[command(flatten)]
        place: Place,
        key: String,
        #[arg(long)]
        json: bool,
    },
    /// Send again what happened in a range of time, beside what happens. Events keep their ids.
    #[command(
        after_help = "Examples:\n  posthaste webhook replay 3 --from 2026-03-02T09:00:00Z --to 2026-03-02T11:30:00Z\n  posthaste webhook replay 3 --from '2026-03-02 09:00'"
    )]
    Replay {
        #[command(flatten)]
        place: Place,
        key: String,
        /// RFC 3339; UTC without a zone.
        #[arg(long, value_name = "TIME")]
        from: String,
        /// [default: now]
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Let a webhook go on that was stopped, or that rests after failures.
    #[command(
        after_help = "Examples:\n  posthaste webhook resume 3             what came meanwhile is sent\n  posthaste webhook resume 3 --skip      only what happens from now on"
    )]
    Resume {
        #[command(flatten)]
        place: Place,
        key: String,
        /// Without what waits, retries too.
        #[arg(long)]
        skip: bool,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(in crate::cli) struct Settings {
    /// Which events it gets: these and no others.
    #[arg(long, value_name = "EVENT", value_delimiter = ',', value_enum)]
    on: Vec<On>,
    /// With what came back, in bounces and complaints.
    #[arg(long)]
    content: bool,
    /// Basic authentication.
    #[arg(long, value_name = "USER:PASSWORD")]
    auth: Option<String>,
    #[arg(long, conflicts_with = "auth")]
    no_auth: bool,
    /// A header field; can be given more than once. All those before are replaced.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Sign requests (Standard Webhooks). The secret is drawn and shown this once.
    #[arg(long)]
    sign: bool,
    #[arg(long, conflicts_with = "sign")]
    no_sign: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    Delivery,
    Bounce,
    Complaint,
    Subscription,
}

impl Settings {
    fn patch(self) -> Result<WebhookPatch, Failure> {
        let mut patch = WebhookPatch::default();
        if !self.on.is_empty() {
            let is_on = |on| Some(self.on.contains(&on));
            patch.delivery = is_on(On::Delivery);
            patch.bounce = is_on(On::Bounce);
            patch.spam_complaint = is_on(On::Complaint);
            patch.subscription_change = is_on(On::Subscription);
            patch.bounce_content = Some(self.content);
            patch.spam_complaint_content = Some(self.content);
        } else if self.content {
            patch.bounce_content = Some(true);
            patch.spam_complaint_content = Some(true);
        }
        patch.auth = match (self.auth, self.no_auth) {
            (Some(auth), _) => {
                let (username, password) = auth.split_once(':').ok_or_else(|| {
                    Failure::usage("--auth: write USER:PASSWORD, for example --auth hook:s3cret")
                })?;
                Some(BasicAuth {
                    username: username.to_owned(),
                    password: password.to_owned(),
                })
            }
            (None, true) => Some(BasicAuth::default()),
            (None, false) => None,
        };
        if !self.header.is_empty() {
            let field = |text: &String| {
                let (name, value) = text.split_once(':').ok_or_else(|| {
                    Failure::usage(format!(
                        "--header {text}: write NAME: VALUE, for example --header 'X-Shop: north'"
                    ))
                })?;
                Ok(HeaderField {
                    name: name.trim().to_owned(),
                    value: value.trim().to_owned(),
                })
            };
            let fields: Result<Vec<_>, Failure> = self.header.iter().map(field).collect();
            patch.headers = Some(fields?);
        }
        patch.signing_secret = match (self.sign, self.no_sign) {
            (true, _) => Some("new".to_owned()),
            (false, true) => Some(String::new()),
            (false, false) => None,
        };
        Ok(patch)
    }
}

impl WebhookCommand {
    pub(in crate::cli) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Ls {
                place,
                server,
                json,
            } => {
                let path = match server {
                    Some(server) => format!("/admin/v1/webhooks?server={}", percent(&server)),
                    None => "/admin/v1/webhooks".to_owned(),
                };
                let listed: wire::Webhooks = ask(&place, Method::GET, &path, None::<&()>)?;
                list(&listed.webhooks, json)?;
            }
            Self::Show { place, key, json } => {
                let webhook: wire::Webhook = ask(&place, Method::GET, &path(&key), None::<&()>)?;
                show(&webhook, json)?;
            }
            Self::Add {
                place,
                server,
                url,
                stream,
                settings,
                json,
            } => {
                if settings.on.is_empty() {
                    return Err(Failure::usage(
                        "--on says which events it gets: delivery, bounce, complaint, subscription",
                    ));
                }
                let new = WebhookPatch {
                    url: Some(url),
                    stream: Some(stream),
                    ..settings.patch()?
                };
                let path = format!("/admin/v1/servers/{}/webhooks", percent(&server));
                let made: wire::Webhook = ask(&place, Method::POST, &path, Some(&new))?;
                told(&made, "is set", json)?;
            }
            Self::Edit {
                place,
                key,
                url,
                settings,
                json,
            } => {
                let patch = WebhookPatch {
                    url,
                    ..settings.patch()?
                };
                let edited: wire::Webhook = ask(&place, Method::PATCH, &path(&key), Some(&patch))?;
                told(&edited, "is changed", json)?;
            }
            Self::Rm { place, key, json } => {
                order(&place, Method::DELETE, &path(&key), None::<&()>)?;
                done(("deleted", &key), "is deleted", "webhook", json)?;
            }
            Self::Verify { place, key, json } => {
                let path = format!("{}/verify", path(&key));
                let verified: wire::WebhookVerified =
                    ask(&place, Method::POST, &path, None::<&()>)?;
                list(&verified.results, json)?;
                if verified.results.iter().any(|result| !result.success) {
                    return Ok(Found::Finding);
                }
            }
            Self::Replay {
                place,
                key,
                from,
                to,
                json,
            } => {
                let path = format!("{}/replay", path(&key));
                let range = wire::WebhookReplay { from, to };
                let webhook: wire::Webhook = ask(&place, Method::POST, &path, Some(&range))?;
                match json {
                    true => output::json(&webhook)?,
                    false => output::line(format!(
                        "webhook {key} is being sent again what happened from {} to {}",
                        or_dash(webhook.replay_from.as_ref()),
                        or_dash(webhook.replay_to.as_ref())
                    ))?,
                }
            }
            Self::Resume {
                place,
                key,
                skip,
                json,
            } => {
                let path = format!("{}/resume", path(&key));
                let body = wire::WebhookResume { skip };
                let webhook: wire::Webhook = ask(&place, Method::POST, &path, Some(&body))?;
                match json {
                    true => output::json(&webhook)?,
                    false => output::line(format!("webhook {key} goes on"))?,
                }
            }
        }
        Ok(Found::All)
    }
}

fn told(webhook: &wire::Webhook, words: &str, json: bool) -> Result<(), Failure> {
    if json {
        return Ok(output::json(webhook)?);
    }
    match &webhook.signing_secret {
        None => output::line(format!("webhook {} {words}", webhook.key))?,
        Some(secret) => {
            eprintln!(
                "webhook {} {words}; its signing secret is not shown again:",
                webhook.key
            );
            output::line(secret)?;
        }
    }
    Ok(())
}

fn path(key: &str) -> String {
    format!("/admin/v1/webhooks/{}", percent(key))
}

impl Row for wire::Webhook {
    const COLUMNS: &'static [&'static str] = &[
        "KEY",
        "SERVER",
        "STREAM",
        "STATE",
        ">LAG",
        ">RETRIES",
        "LAST-SUCCESS",
        "LAST-FAILURE",
        "TRIGGERS",
        "URL",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.key.clone(),
            self.server.clone(),
            or_dash(self.stream.as_ref()),
            self.state.clone(),
            self.lag_bytes.to_string(),
            self.retries.to_string(),
            or_dash(self.last_success_at.as_ref()),
            or_dash(self.last_failure.as_ref()),
            self.triggers.join(","),
            self.url.clone(),
        ]
    }
}

impl Row for wire::TriggerVerified {
    const COLUMNS: &'static [&'static str] = &["TRIGGER", "SUCCESS", "STATUS", "MESSAGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.trigger.clone(),
            self.success.to_string(),
            or_dash(self.status.as_ref()),
            self.message.clone(),
        ]
    }
}
