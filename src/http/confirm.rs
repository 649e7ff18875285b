//! The pages behind the links of confirmation mails: `GET` shows what is asked, `POST` does it.
//!
//! Promises: looking at a link confirms nothing, so that scanners and previews may do it; a page holds nothing that a
//! stranger could make active, and is kept by nobody. The link is the only credential: there is no cookie to be abused.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use super::accounts::Desk;
use crate::account::{LINK_PATH, Link, SignatureInfo};

pub(super) fn routes<S: Clone + Send + Sync + 'static>(desk: Desk) -> Router<S> {
    Router::new()
        .route(&format!("{LINK_PATH}{{token}}"), get(ask).post(confirm))
        .with_state(desk)
}

async fn ask(State(desk): State<Desk>, Path(token): Path<String>) -> Response {
    match desk.settings.link(&token, desk.clock.unix_ms()) {
        Link::Good(signature) => question(&signature),
        other => said(other),
    }
}

async fn confirm(State(desk): State<Desk>, Path(token): Path<String>) -> Response {
    let now = desk.clock.unix_ms();
    match desk.settings.follow_link(&token, now).await {
        Ok(Link::Good(signature)) => {
            tracing::info!(address = %signature.address, "a sender signature is confirmed");
            let text = format!(
                "Mail may now be sent from {}.",
                escaped(signature.address.as_str())
            );
            page(StatusCode::OK, "Confirmed", &paragraph(&text))
        }
        Ok(other) => said(other),
        Err(error) => {
            tracing::error!(%error, "a confirmation could not be stored");
            let text = "This could not be stored just now. Please try again in a while.";
            page(
                StatusCode::SERVICE_UNAVAILABLE,
                "Not confirmed",
                &paragraph(text),
            )
        }
    }
}

fn question(signature: &SignatureInfo) -> Response {
    let text = format!(
        "May this mail platform send mail from {} &lt;{}&gt;?",
        escaped(&signature.attributes.name),
        escaped(signature.address.as_str())
    );
    let form = "<form method=\"post\"><button type=\"submit\">Confirm</button></form>";
    let otherwise =
        "If you do not know about this, close this page: nothing is sent from your address.";
    let body = [&paragraph(&text), form, &paragraph(otherwise)].concat();
    page(StatusCode::OK, "Confirm your address", &body)
}

fn said(link: Link) -> Response {
    match link {
        Link::Good(signature) => question(&signature),
        Link::Used(signature) => {
            let text = format!(
                "Mail may already be sent from {}; this link does nothing more.",
                escaped(signature.address.as_str())
            );
            page(StatusCode::OK, "Already confirmed", &paragraph(&text))
        }
        Link::Expired => {
            let text = "This link is too old. Ask whoever wanted it to have the mail sent again.";
            page(StatusCode::GONE, "Link expired", &paragraph(text))
        }
        Link::Unknown => {
            let text = "This link is not one of ours, is incomplete, or what it was for is gone. Copy all of it from the mail.";
            page(StatusCode::NOT_FOUND, "Unknown link", &paragraph(text))
        }
    }
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>body{{font:1.1rem/1.5 sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}}button{{font:inherit;padding:.4rem 1.2rem}}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
    );
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    (status, headers, Html(html)).into_response()
}

fn paragraph(html: &str) -> String {
    format!("<p>{html}</p>")
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
