//! `/email/raw`: a message that the client has composed itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::addresses;
use super::letter::{DRY_RUN, Echo, invalid, refuse_controls};
use super::{Prepared, recipients};
use crate::accept::Given;
use crate::accept::compose::Addressee;
use crate::http::api::error::ApiError;
use crate::http::api::json::{Body, Field, Kind, wrong_fields};
use crate::http::api::{field, required};
use crate::limits;
use crate::mail::Mailbox;
use crate::mail::header::{Section, addr_specs, only_mailbox};
use crate::smtp::data;

pub(super) const FIELDS: &[Field] = &[
    required(
        "Content",
        Kind::Text,
        "The message, in base64. `X-PM-*` fields count as over SMTP.",
    ),
    field(
        "To",
        Kind::Text,
        "The recipients; those of the message's To, Cc and Bcc fields if not given.",
    ),
    field(
        "MessageStream",
        Kind::Text,
        "`outbound` if neither this nor a field says otherwise.",
    ),
    DRY_RUN,
];

/// Reads a finished message. Its recipients are the envelope's: Bcc fields are read and taken out, as over SMTP.
pub(super) fn read(
    body: &mut Body,
    on_stream: impl FnOnce(Option<&str>) -> Result<(), ApiError>,
    may_send: impl FnOnce(&Addressee) -> Result<(), ApiError>,
) -> Result<Prepared, ApiError> {
    let wrong = || wrong_fields(&["$.Content".to_owned()]);
    let mut encoded = body.take_text("Content").ok_or_else(wrong)?;
    encoded.retain(|c| !c.is_ascii_whitespace());
    let content = STANDARD.decode(encoded).map_err(|_| wrong())?;
    let content = with_line_ends(content);
    let mut decoder = data::Decoder::chunks();
    decoder.next(&content);
    if let Some(flaw) = decoder.flaw_at_end() {
        return Err(invalid(format!("The message has {flaw}.")));
    }
    let section = Section::parse(
        &content,
        limits::HEADER_FIELDS_MAX,
        limits::HEADER_FIELD_MAX,
    );
    let section =
        section.map_err(|error| invalid(format!("The message cannot be read: {error}.")))?;

    for name in ["To", "MessageStream"] {
        refuse_controls(name, &body.word(name).unwrap_or_default())?;
    }
    let named = body.word("MessageStream");
    let asked = named
        .clone()
        .or_else(|| section.first("X-PM-Message-Stream"));
    on_stream(asked.as_deref())?;
    let from = section.first("From").unwrap_or_default();
    let from = only_mailbox(&from).map_err(|_| invalid("Invalid 'From' value."))?;
    let from = Mailbox::parse(&from, true).map_err(|_| invalid("Invalid 'From' value."))?;
    let to = body.word("To");
    let mailboxes: Vec<Mailbox> = match &to {
        Some(to) => {
            let list = addresses::parse("To", to).map_err(invalid)?;
            list.into_iter()
                .map(|addressee| addressee.mailbox)
                .collect()
        }
        None => {
            let fields = ["To", "Cc", "Bcc"]
                .into_iter()
                .flat_map(|name| section.named(name));
            let specs = fields.flat_map(|field| addr_specs(&section.value(field)));
            let parse = |spec: String| {
                let mailbox = Mailbox::parse(&spec, true);
                let shown = addresses::shown(&spec);
                mailbox.map_err(|_| invalid(format!("Invalid 'To' address: '{shown}'.")))
            };
            specs.map(parse).collect::<Result<_, _>>()?
        }
    };
    let recipients = recipients(mailboxes.iter())?;
    match recipients.len() {
        0 => return Err(invalid("Zero recipients specified")),
        1..=limits::HTTP_RECIPIENTS_MAX => {}
        many => {
            let most = limits::HTTP_RECIPIENTS_MAX;
            return Err(invalid(format!(
                "A message may have at most {most} recipients; this one has {many}."
            )));
        }
    }
    let sender = Addressee {
        name: String::new(),
        mailbox: from.clone(),
    };
    may_send(&sender)?;
    let echoed: Vec<&str> = mailboxes.iter().map(Mailbox::as_str).collect();
    Ok(Prepared {
        from,
        recipients,
        stream: asked,
        given: Given {
            stream: named,
            ..Given::default()
        },
        echo: Echo {
            to: to.unwrap_or_else(|| echoed.join(", ")),
            ..Echo::default()
        },
        content,
        dry_run: body.flag("DryRun") == Some(true),
    })
}

/// What a program wrote with line feeds only, with CRLF. Mixed ones stay, and are refused.
fn with_line_ends(content: Vec<u8>) -> Vec<u8> {
    if content.contains(&b'\r') || !content.contains(&b'\n') {
        return content;
    }
    let mut whole = Vec::with_capacity(content.len() + content.len() / 40);
    for line in content.split_inclusive(|&b| b == b'\n') {
        match line {
            [line @ .., b'\n'] => {
                whole.extend_from_slice(line);
                whole.extend_from_slice(b"\r\n");
            }
            line => whole.extend_from_slice(line),
        }
    }
    whole
}
