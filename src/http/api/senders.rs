//! `/senders` (reference §11): sender signatures.

use axum::http::Method;
use serde::Serialize;

use super::domains::{Records, specimen_config, specimen_domain};
use super::error::{ApiError, Code};
use super::json::{Body, Field, Kind};
use super::{
    Access, Api, Ask, Page, Route, call, done, field, reply, required, specimen, specimen_done,
};
use crate::account::identity::SignatureAttributes;
use crate::account::{DomainInfo, SignatureInfo, SignaturePatch};
use crate::clock::UnixMs;
use crate::config::Config;
use crate::mail::Mailbox;

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/senders",
        access: Access::Account,
        about: "Sender signatures in the order of their ids.",
        query: super::PAGE,
        body: &[],
        specimen: many,
        call: call!(list),
    },
    Route {
        method: Method::POST,
        path: "/senders",
        access: Access::Account,
        about: "A new sender signature. A mail with a link goes to the address; From may be it once the link was followed.",
        query: &[],
        body: NEW_FIELDS,
        specimen: one,
        call: call!(create),
    },
    Route {
        method: Method::GET,
        path: "/senders/{id}",
        access: Access::Account,
        about: "One sender signature.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(get),
    },
    Route {
        method: Method::PUT,
        path: "/senders/{id}",
        access: Access::Account,
        about: "Changes a sender signature. What is not given stays; the address always does.",
        query: &[],
        body: FIELDS,
        specimen: one,
        call: call!(put),
    },
    Route {
        method: Method::DELETE,
        path: "/senders/{id}",
        access: Access::Account,
        about: "Deletes a sender signature: From may not be it from the next message on.",
        query: &[],
        body: &[],
        specimen: specimen_done,
        call: call!(delete),
    },
    Route {
        method: Method::POST,
        path: "/senders/{id}/resend",
        access: Access::Account,
        about: "Mails the confirmation link once more.",
        query: &[],
        body: &[],
        specimen: specimen_done,
        call: call!(resend),
    },
    Route {
        method: Method::POST,
        path: "/senders/{id}/verifyspf",
        access: Access::Account,
        about: "Looks whether SPF permits the egress sources. 500, 523: no answer, nothing changed.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(verify_spf),
    },
    Route {
        method: Method::POST,
        path: "/senders/{id}/requestnewdkim",
        access: Access::Account,
        about: "A new DKIM key for the address's domain.",
        query: &[],
        body: &[],
        specimen: specimen_done,
        call: call!(request_dkim),
    },
];

/// Exactly Postmark's object, every key always there.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    #[serde(flatten)]
    brief: Brief,
    confirmation_personal_note: String,
    #[serde(flatten)]
    records: Records,
}

/// An entry of the listing.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Brief {
    #[serde(rename = "ID")]
    id: u32,
    domain: String,
    email_address: String,
    reply_to_email_address: String,
    name: String,
    confirmed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    total_count: usize,
    sender_signatures: Vec<Brief>,
}

impl Brief {
    fn new(signature: &SignatureInfo) -> Self {
        Self {
            id: signature.id,
            domain: signature.address.domain().to_string(),
            email_address: signature.address.to_string(),
            reply_to_email_address: signature.attributes.reply_to.clone(),
            name: signature.attributes.name.clone(),
            confirmed: signature.confirmed.is_some(),
        }
    }
}

impl Object {
    fn new(signature: &SignatureInfo, domain: &DomainInfo, config: &Config, now: UnixMs) -> Self {
        let own = signature.attributes.return_path.clone();
        let mut records = Records::new(domain, config, now);
        // Verified where the domain's own is the same name.
        records.return_path_verified &= own == records.return_path;
        records.return_path = own;
        Self {
            brief: Brief::new(signature),
            confirmation_personal_note: signature.attributes.note.clone(),
            records,
        }
    }
}

impl Api {
    fn signature_object(&self, signature: &SignatureInfo) -> Result<String, ApiError> {
        let snapshot = self.settings.accounts().load();
        let lost = || ApiError::fault("The domain of a signature is not known.");
        let domain = snapshot.domain(signature.domain_id).ok_or_else(lost)?;
        let (config, now) = (self.settings.config(), self.clock.unix_ms());
        reply(&Object::new(signature, domain, &config, now))
    }
}

async fn list(api: Api, ask: Ask) -> Result<String, ApiError> {
    let page: Page = ask.query.page(Code(500))?;
    let snapshot = api.settings.accounts().load();
    let (total_count, page) = page.of(snapshot.signatures());
    reply(&List {
        total_count,
        sender_signatures: page.into_iter().map(|s| Brief::new(s)).collect(),
    })
}

async fn get(api: Api, ask: Ask) -> Result<String, ApiError> {
    api.signature_object(&*api.settings.signature(ask.id())?)
}

async fn create(api: Api, ask: Ask) -> Result<String, ApiError> {
    let new = patch(&ask.body);
    let now = api.clock.unix_ms();
    let made = api.settings.create_signature(&new, &*api.outside, now);
    api.signature_object(&*made.await?)
}

async fn put(api: Api, ask: Ask) -> Result<String, ApiError> {
    let id = api.settings.signature(ask.id())?.id;
    if ask.body.is_empty() {
        return Err(ApiError::new(
            Code(502),
            "No sender signature data received.",
        ));
    }
    let edited = api.settings.edit_signature(id, &patch(&ask.body)).await?;
    api.signature_object(&edited)
}

async fn delete(api: Api, ask: Ask) -> Result<String, ApiError> {
    let deleted = api.settings.delete_signature(ask.id()).await?;
    done(format!("Signature {} removed.", deleted.address))
}

async fn resend(api: Api, ask: Ask) -> Result<String, ApiError> {
    let now = api.clock.unix_ms();
    let resent = api.settings.resend_link(ask.id(), &*api.outside, now);
    let address = resent.await?.address.clone();
    done(format!(
        "Confirmation email for Sender Signature {address} was re-sent."
    ))
}

async fn verify_spf(api: Api, ask: Ask) -> Result<String, ApiError> {
    let signature = api.settings.signature(ask.id())?;
    api.settings
        .verify_spf(signature.domain_id, &*api.outside)
        .await?;
    api.signature_object(&signature)
}

async fn request_dkim(api: Api, ask: Ask) -> Result<String, ApiError> {
    let signature = api.settings.signature(ask.id())?;
    let now = api.clock.unix_ms();
    let domain = api
        .settings
        .rotate_dkim(signature.domain_id, None, now)
        .await?;
    done(format!(
        "A new DKIM key for {} was made; publish its record and verify it.",
        domain.name
    ))
}

fn patch(body: &Body) -> SignaturePatch {
    SignaturePatch {
        address: body.text("FromEmail"),
        name: body.text("Name"),
        reply_to: body.text("ReplyToEmail"),
        return_path: body.text("ReturnPathDomain"),
        note: body.text("ConfirmationPersonalNote"),
    }
}

fn one() -> String {
    let (signature, config) = (specimen_signature(), specimen_config());
    specimen(&Object::new(&signature, &specimen_domain(), &config, 0))
}

fn many() -> String {
    specimen(&List {
        total_count: 1,
        sender_signatures: vec![Brief::new(&specimen_signature())],
    })
}

fn specimen_signature() -> SignatureInfo {
    let address = Mailbox::parse("ada@shop.example", false);
    SignatureInfo {
        id: 3,
        address: address.unwrap_or_else(|_| unreachable!("ada@shop.example is an address")),
        domain_id: 12,
        confirmed: None,
        attributes: SignatureAttributes {
            name: "Ada Lovelace".into(),
            ..SignatureAttributes::default()
        },
        created: 0,
    }
}

const FIELDS: &[Field] = &fields(
    field("FromEmail", Kind::Text, "Cannot change."),
    field("Name", Kind::Text, "At most 255 characters."),
);
const NEW_FIELDS: &[Field] = &fields(
    required(
        "FromEmail",
        Kind::Text,
        "The address; at no public mailbox provider's domain.",
    ),
    required("Name", Kind::Text, "At most 255 characters."),
);

const fn fields(address: Field, name: Field) -> [Field; 5] {
    [
        address,
        name,
        field("ReplyToEmail", Kind::Text, "Empty takes it away."),
        field(
            "ReturnPathDomain",
            Kind::Text,
            "A sub-domain of the address's domain; empty takes it away.",
        ),
        field(
            "ConfirmationPersonalNote",
            Kind::Text,
            "Stands in the confirmation mail; at most 400 characters.",
        ),
    ]
}
