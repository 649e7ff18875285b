//! `/server` and `/servers` (reference §7).

use std::sync::Arc;

use axum::http::Method;
use serde::Serialize;

use super::error::{ApiError, Code};
use super::json::{Body, Field, Kind};
use super::{
    Access, Api, Ask, Page, Route, call, done, field, reply, required, specimen, specimen_done,
};
use crate::account::model::Attributes;
use crate::account::{NewToken, ServerInfo, ServerPatch, TokenKind};

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/server",
        access: Access::Server,
        about: "The server of the token.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(get_own),
    },
    Route {
        method: Method::PUT,
        path: "/server",
        access: Access::Server,
        about: "Changes the server of the token. What is not given stays.",
        query: &[],
        body: FIELDS,
        specimen: one,
        call: call!(put_own),
    },
    Route {
        method: Method::GET,
        path: "/servers",
        access: Access::Account,
        about: "Servers in the order of their ids.",
        query: &[
            super::PAGE[0],
            super::PAGE[1],
            field("name", Kind::Text, "Only servers whose name contains this."),
        ],
        body: &[],
        specimen: many,
        call: call!(list),
    },
    Route {
        method: Method::POST,
        path: "/servers",
        access: Access::Account,
        about: "A new server with three message streams and one token.",
        query: &[],
        body: NEW_FIELDS,
        specimen: one,
        call: call!(create),
    },
    Route {
        method: Method::GET,
        path: "/servers/{id}",
        access: Access::Account,
        about: "One server.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(get),
    },
    Route {
        method: Method::PUT,
        path: "/servers/{id}",
        access: Access::Account,
        about: "Changes a server. What is not given stays. Servers that the configuration file declares are changed there (615).",
        query: &[],
        body: FIELDS,
        specimen: one,
        call: call!(put),
    },
    Route {
        method: Method::DELETE,
        path: "/servers/{id}",
        access: Access::Account,
        about: "Deletes a server with its streams and tokens.",
        query: &[],
        body: &[],
        specimen: specimen_done,
        call: call!(delete),
    },
];

/// Exactly Postmark's object, every key always there.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    #[serde(rename = "ID")]
    id: u32,
    name: String,
    api_tokens: Vec<String>,
    server_link: String,
    color: &'static str,
    smtp_api_activated: bool,
    raw_email_enabled: bool,
    delivery_type: &'static str,
    inbound_address: String,
    inbound_hook_url: String,
    bounce_hook_url: String,
    open_hook_url: String,
    delivery_hook_url: String,
    click_hook_url: String,
    post_first_open_only: bool,
    inbound_domain: String,
    inbound_hash: String,
    inbound_spam_threshold: u8,
    track_opens: bool,
    track_links: &'static str,
    include_bounce_content_in_hook: bool,
    enable_smtp_api_error_hooks: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    total_count: usize,
    servers: Vec<Object>,
}

impl Object {
    fn new(server: &ServerInfo, public_url: &str, hostname: &str) -> Self {
        let Attributes {
            color,
            smtp_api_activated,
            raw_email_enabled,
            inbound_hook_url,
            bounce_hook_url,
            open_hook_url,
            delivery_hook_url,
            click_hook_url,
            post_first_open_only,
            inbound_domain,
            inbound_hash,
            inbound_spam_threshold,
            track_opens,
            track_links,
            include_bounce_content_in_hook,
            enable_smtp_api_error_hooks,
            strict: _,
            rate: _,
            bounce_hook_since: _,
            delivery_hook_since: _,
        } = server.attributes.clone();
        let active = server
            .tokens
            .iter()
            .filter(|t| t.kind == TokenKind::Server && t.revoked.is_none());
        let tokens = active.filter_map(|t| t.text.as_deref().map(str::to_owned));
        Self {
            id: server.id,
            name: server.name.to_string(),
            api_tokens: tokens.collect(),
            server_link: format!("{public_url}/servers/{}/streams", server.id),
            color: color.as_str(),
            smtp_api_activated,
            raw_email_enabled,
            delivery_type: if server.sandbox { "Sandbox" } else { "Live" },
            inbound_address: format!("{inbound_hash}@inbound.{hostname}"),
            inbound_hook_url,
            bounce_hook_url,
            open_hook_url,
            delivery_hook_url,
            click_hook_url,
            post_first_open_only,
            inbound_domain,
            inbound_hash,
            inbound_spam_threshold,
            track_opens,
            track_links: track_links.as_str(),
            include_bounce_content_in_hook,
            enable_smtp_api_error_hooks,
        }
    }
}

impl Api {
    fn object(&self, server: &ServerInfo) -> Object {
        let config = self.settings.config();
        Object::new(server, &config.public_url(), &config.node.hostname)
    }

    fn known(&self, id: u32) -> Result<Arc<ServerInfo>, ApiError> {
        Ok(self.settings.known(id)?)
    }
}

async fn get_own(api: Api, ask: Ask) -> Result<String, ApiError> {
    reply(&api.object(ask.server()?))
}

async fn put_own(api: Api, ask: Ask) -> Result<String, ApiError> {
    let mut patch = patch(&ask.body)?;
    // Reference: settable through /servers/{id} only.
    patch.enable_smtp_api_error_hooks = None;
    change(&api, ask.server()?.id, &patch).await
}

async fn list(api: Api, ask: Ask) -> Result<String, ApiError> {
    let page: Page = ask.query.page(Code(600))?;
    let snapshot = api.settings.accounts().load();
    let wanted = ask.query.text("name").map(str::to_lowercase);
    let suits = |server: &&Arc<ServerInfo>| {
        let wanted = wanted.as_deref();
        wanted.is_none_or(|part| server.name.to_lowercase().contains(part))
    };
    let (total_count, page) = page.of(snapshot.servers().filter(suits));
    reply(&List {
        total_count,
        servers: page.into_iter().map(|s| api.object(s)).collect(),
    })
}

async fn get(api: Api, ask: Ask) -> Result<String, ApiError> {
    reply(&api.object(&*api.known(ask.id())?))
}

async fn create(api: Api, ask: Ask) -> Result<String, ApiError> {
    let mut new = patch(&ask.body)?;
    new.name = Some(new.name.unwrap_or_default());
    let now = api.clock.unix_ms();
    let made = api.settings.create_server(&new, now).await?;
    let token = NewToken::default();
    api.settings
        .create_token(Some(made.id), &token, now)
        .await?;
    reply(&api.object(&*api.known(made.id)?))
}

async fn put(api: Api, ask: Ask) -> Result<String, ApiError> {
    api.known(ask.id())?;
    let patch = patch(&ask.body)?;
    change(&api, ask.id(), &patch).await
}

async fn change(api: &Api, id: u32, patch: &ServerPatch) -> Result<String, ApiError> {
    let edited = api
        .settings
        .edit_server(id, patch, api.clock.unix_ms())
        .await?;
    reply(&api.object(&edited))
}

async fn delete(api: Api, ask: Ask) -> Result<String, ApiError> {
    let deleted = api.settings.delete_server(ask.id()).await?;
    done(format!("Server {} removed.", deleted.name))
}

fn patch(body: &Body) -> Result<ServerPatch, ApiError> {
    if body.is_empty() {
        return Err(ApiError::new(Code(609), "No server data received."));
    }
    Ok(ServerPatch {
        name: body.text("Name"),
        color: body.word("Color"),
        smtp_api_activated: body.flag("SmtpApiActivated"),
        raw_email_enabled: body.flag("RawEmailEnabled"),
        delivery_type: body.word("DeliveryType"),
        inbound_hook_url: body.text("InboundHookUrl"),
        bounce_hook_url: body.text("BounceHookUrl"),
        open_hook_url: body.text("OpenHookUrl"),
        delivery_hook_url: body.text("DeliveryHookUrl"),
        click_hook_url: body.text("ClickHookUrl"),
        post_first_open_only: body.flag("PostFirstOpenOnly"),
        inbound_domain: body.text("InboundDomain"),
        inbound_spam_threshold: body.number("InboundSpamThreshold"),
        track_opens: body.flag("TrackOpens"),
        track_links: body.word("TrackLinks"),
        include_bounce_content_in_hook: body.flag("IncludeBounceContentInHook"),
        enable_smtp_api_error_hooks: body.flag("EnableSmtpApiErrorHooks"),
        ..ServerPatch::default()
    })
}

fn one() -> String {
    specimen(&specimen_object())
}

fn many() -> String {
    specimen(&List {
        total_count: 1,
        servers: vec![specimen_object()],
    })
}

fn specimen_object() -> Object {
    let server = ServerInfo {
        id: 61,
        name: "Shop production".into(),
        declared: false,
        senders: crate::config::SendersPolicy::Verified,
        message_id: crate::config::MessageIdPolicy::Keep,
        notify: crate::config::Notify::None,
        sandbox: false,
        attributes: Attributes {
            inbound_hash: "a79c8b455ba4f8b52fab85773b70f224".into(),
            ..Attributes::default()
        },
        created: 0,
        streams: Vec::new(),
        tokens: Vec::new(),
        webhooks: Vec::new(),
    };
    Object {
        api_tokens: vec!["2bcc50cb-72c6-4ae5-954a-dffc01667789".into()],
        ..Object::new(&server, "https://mail.shop.example", "mail.shop.example")
    }
}

const NAME: Field = field("Name", Kind::Text, "Unique; 1 to 100 octets.");
const FIELDS: &[Field] = &fields(NAME);
const NEW_FIELDS: &[Field] = &fields(required("Name", Kind::Text, "Unique; 1 to 100 octets."));

const fn fields(name: Field) -> [Field; 17] {
    [
        name,
        field(
            "Color",
            Kind::Text,
            "purple, blue, turquoise, green, red, yellow, grey, orange.",
        ),
        field(
            "SmtpApiActivated",
            Kind::Flag,
            "Whether its credentials work over SMTP.",
        ),
        field("RawEmailEnabled", Kind::Flag, ""),
        field(
            "DeliveryType",
            Kind::Text,
            "Live or Sandbox; chosen when the server is made.",
        ),
        field("InboundHookUrl", Kind::Text, ""),
        field("BounceHookUrl", Kind::Text, ""),
        field("OpenHookUrl", Kind::Text, ""),
        field("DeliveryHookUrl", Kind::Text, ""),
        field("ClickHookUrl", Kind::Text, ""),
        field("PostFirstOpenOnly", Kind::Flag, ""),
        field("InboundDomain", Kind::Text, "Unique."),
        field("InboundSpamThreshold", Kind::Number, "0 to 30."),
        field("TrackOpens", Kind::Flag, ""),
        field(
            "TrackLinks",
            Kind::Text,
            "None, HtmlAndText, HtmlOnly, TextOnly.",
        ),
        field("IncludeBounceContentInHook", Kind::Flag, ""),
        field(
            "EnableSmtpApiErrorHooks",
            Kind::Flag,
            "Through /servers/{id} only.",
        ),
    ]
}
