//! The admin API's routes of domains and sender signatures. Unlike servers and tokens they need the running node: the DNS,
//! and its mail.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Json, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Deserialize;

use super::AdminError;
use super::accounts::Desk;
use crate::account::{
    DomainInfo, DomainPatch, Outside, Refused, Rule, SignatureInfo, SignaturePatch,
};
use crate::http::wire;
use crate::sign::Algorithm;

/// What these routes work with. Cheap to clone.
#[derive(Clone)]
struct Office {
    desk: Desk,
    outside: Arc<dyn Outside>,
}

/// The routes, without any check of who asks.
pub(in crate::http) fn routes<S: Clone + Send + Sync + 'static>(
    desk: Desk,
    outside: Arc<dyn Outside>,
) -> Router<S> {
    Router::new()
        .route("/admin/v1/domains", get(domains).post(create_domain))
        .route(
            "/admin/v1/domains/{name}",
            get(domain).patch(edit_domain).delete(delete_domain),
        )
        .route("/admin/v1/domains/{name}/verify", post(verify_domain))
        .route("/admin/v1/domains/{name}/rotate-dkim", post(rotate_dkim))
        .route("/admin/v1/dkim", get(keys))
        .route("/admin/v1/domains/{name}/dkim", post(create_key))
        .route(
            "/admin/v1/domains/{name}/dkim/{selector}",
            delete(revoke_key),
        )
        .route("/admin/v1/senders", get(senders).post(create_sender))
        .route(
            "/admin/v1/senders/{address}",
            get(sender).patch(edit_sender).delete(delete_sender),
        )
        .route("/admin/v1/senders/{address}/resend", post(resend))
        .with_state(Office { desk, outside })
}

type Body<T> = Result<Json<T>, JsonRejection>;
type Answer<T> = Result<Json<T>, AdminError>;

impl Office {
    /// By name, else by id: no domain's name is a number.
    fn find_domain(&self, name: &str) -> Result<Arc<DomainInfo>, AdminError> {
        let settings = &self.desk.settings;
        let found = match name.parse() {
            Ok(id) => settings.domain(id),
            Err(_) => settings.domain_named(name),
        };
        found.map_err(|_| AdminError::NotFound(format!("there is no domain `{name}`")))
    }

    fn find_sender(&self, address: &str) -> Result<Arc<SignatureInfo>, AdminError> {
        let settings = &self.desk.settings;
        let found = match address.parse() {
            Ok(id) => settings.signature(id),
            Err(_) => settings.signature_of(address),
        };
        found.map_err(|_| AdminError::NotFound(format!("there is no sender signature `{address}`")))
    }

    fn domain(&self, domain: &DomainInfo) -> wire::Domain {
        let now = self.desk.clock.unix_ms();
        wire::Domain::of(domain, &self.desk.settings.config(), now)
    }
}

async fn domains(State(office): State<Office>) -> Json<wire::Domains> {
    let snapshot = office.desk.settings.accounts().load();
    let listed = snapshot.domains().filter(|d| d.listed || d.declared);
    Json(wire::Domains {
        domains: listed.map(|d| office.domain(d)).collect(),
    })
}

async fn domain(State(office): State<Office>, Path(name): Path<String>) -> Answer<wire::Domain> {
    let domain = office.find_domain(&name)?;
    Ok(Json(office.domain(&domain)))
}

async fn create_domain(
    State(office): State<Office>,
    body: Body<DomainPatch>,
) -> Result<Response, AdminError> {
    let Json(new) = body?;
    let now = office.desk.clock.unix_ms();
    let made = office.desk.settings.create_domain(&new, now).await?;
    Ok((StatusCode::CREATED, Json(office.domain(&made))).into_response())
}

async fn edit_domain(
    State(office): State<Office>,
    Path(name): Path<String>,
    body: Body<DomainPatch>,
) -> Answer<wire::Domain> {
    let Json(patch) = body?;
    let id = office.find_domain(&name)?.id;
    let edited = office.desk.settings.edit_domain(id, &patch).await?;
    Ok(Json(office.domain(&edited)))
}

async fn delete_domain(
    State(office): State<Office>,
    Path(name): Path<String>,
) -> Result<StatusCode, AdminError> {
    let id = office.find_domain(&name)?.id;
    office.desk.settings.delete_domain(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// DKIM, and the Return-Path domain where there is one.
async fn verify_domain(
    State(office): State<Office>,
    Path(name): Path<String>,
) -> Answer<wire::Domain> {
    let id = office.find_domain(&name)?.id;
    let (settings, outside) = (&office.desk.settings, &*office.outside);
    let now = office.desk.clock.unix_ms();
    settings.verify_dkim(id, outside, now).await?;
    let verified = settings.verify_return_path(id, outside).await?;
    Ok(Json(office.domain(&verified)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// Without: the first that the domain has.
    algorithm: Option<String>,
}

async fn rotate_dkim(
    State(office): State<Office>,
    Path(name): Path<String>,
    Query(rotation): Query<Rotation>,
) -> Answer<wire::Domain> {
    let id = office.find_domain(&name)?.id;
    let algorithm = rotation
        .algorithm
        .as_deref()
        .map(algorithm_of)
        .transpose()?;
    let now = office.desk.clock.unix_ms();
    let rotated = office.desk.settings.rotate_dkim(id, algorithm, now).await?;
    Ok(Json(office.domain(&rotated)))
}

async fn keys(State(office): State<Office>) -> Json<wire::Keys> {
    let snapshot = office.desk.settings.accounts().load();
    let now = office.desk.clock.unix_ms();
    let domains = snapshot.domains();
    let mut keys: Vec<wire::Key> = domains.flat_map(|d| wire::Key::of_domain(d, now)).collect();
    let platform = snapshot.platform();
    keys.extend(
        platform
            .into_iter()
            .flat_map(|p| wire::Key::of_platform(p, now)),
    );
    Json(wire::Keys { keys })
}

async fn create_key(
    State(office): State<Office>,
    Path(name): Path<String>,
    body: Body<wire::NewKey>,
) -> Result<Response, AdminError> {
    let Json(new) = body?;
    let id = office.find_domain(&name)?.id;
    let (settings, now) = (&office.desk.settings, office.desk.clock.unix_ms());
    let invalid = |message| Err(Refused::new(Rule::DomainField, message).into());
    let made = match (&new.pem, &new.selector, &new.algorithm) {
        (Some(pem), Some(selector), None) => {
            settings
                .import_dkim(id, selector, pem.as_bytes(), now)
                .await?
        }
        (None, None, algorithm) => {
            let algorithm = algorithm
                .as_deref()
                .map_or(Ok(Algorithm::Rsa), algorithm_of)?;
            settings.add_dkim(id, algorithm, now).await?
        }
        (Some(_), _, _) => {
            return invalid("a key that is imported needs its selector, and has its algorithm");
        }
        (None, Some(_), _) => {
            return invalid("a key that is made here gets its selector; leave it out");
        }
    };
    Ok((StatusCode::CREATED, Json(office.domain(&made))).into_response())
}

async fn revoke_key(
    State(office): State<Office>,
    Path((name, selector)): Path<(String, String)>,
) -> Answer<wire::Domain> {
    let id = office.find_domain(&name)?.id;
    let now = office.desk.clock.unix_ms();
    let revoked = office.desk.settings.revoke_dkim(id, &selector, now).await?;
    Ok(Json(office.domain(&revoked)))
}

fn algorithm_of(text: &str) -> Result<Algorithm, AdminError> {
    Algorithm::from_text(text).ok_or_else(|| {
        let message = format!("there is no algorithm `{text}`; it is rsa or ed25519");
        Refused::new(Rule::DomainField, message).into()
    })
}

async fn senders(State(office): State<Office>) -> Json<wire::Senders> {
    let snapshot = office.desk.settings.accounts().load();
    let senders = snapshot.signatures().map(|s| (&**s).into());
    Json(wire::Senders {
        senders: senders.collect(),
    })
}

async fn sender(
    State(office): State<Office>,
    Path(address): Path<String>,
) -> Answer<wire::SenderSignature> {
    Ok(Json((&*office.find_sender(&address)?).into()))
}

async fn create_sender(
    State(office): State<Office>,
    body: Body<SignaturePatch>,
) -> Result<Response, AdminError> {
    let Json(new) = body?;
    let (settings, now) = (&office.desk.settings, office.desk.clock.unix_ms());
    let made = settings.create_signature(&new, &*office.outside, now);
    let made: wire::SenderSignature = (&*made.await?).into();
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn edit_sender(
    State(office): State<Office>,
    Path(address): Path<String>,
    body: Body<SignaturePatch>,
) -> Answer<wire::SenderSignature> {
    let Json(patch) = body?;
    let id = office.find_sender(&address)?.id;
    let edited = office.desk.settings.edit_signature(id, &patch).await?;
    Ok(Json((&*edited).into()))
}

async fn delete_sender(
    State(office): State<Office>,
    Path(address): Path<String>,
) -> Result<StatusCode, AdminError> {
    let id = office.find_sender(&address)?.id;
    office.desk.settings.delete_signature(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn resend(
    State(office): State<Office>,
    Path(address): Path<String>,
) -> Answer<wire::SenderSignature> {
    let id = office.find_sender(&address)?.id;
    let (settings, now) = (&office.desk.settings, office.desk.clock.unix_ms());
    let sent = settings.resend_link(id, &*office.outside, now).await?;
    Ok(Json((&*sent).into()))
}
