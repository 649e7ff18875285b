//! A message from its parts: what a client of the HTTP API describes, as octets of RFC 5322 and MIME.
//!
//! Promises: the result is 7-bit with lines of at most 998 octets (so that every host takes it), parses back to what was given,
//! and holds no field, recipient or line end that the caller did not ask for, whatever the texts contain. `Date`,
//! `Message-ID` and `Received` are the stamp's (`stamp.rs`).
//!
//! The octets are mail-builder's; decided here are the structure (RFC 2046 §5.1.4, RFC 2387: text and HTML are alternatives, what
//! the HTML shows by `cid:` is related to it, the rest is mixed) and the cases that a transfer encoding must not touch.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_builder::headers::Header;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::mime::{BodyPart, MimePart};

use crate::mail::Mailbox;

/// A mailbox with the name that people see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressee {
    /// Empty: none.
    pub name: String,
    pub mailbox: Mailbox,
}

/// The parts of a message. Texts are as people read them; nothing is encoded yet.
#[derive(Clone, Debug)]
pub struct Letter {
    pub from: Addressee,
    pub to: Vec<Addressee>,
    pub cc: Vec<Addressee>,
    pub reply_to: Vec<Addressee>,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
    /// Further fields: names of RFC 5322 §3.6.8, values without line ends.
    pub headers: Vec<(String, String)>,
    pub attachments: Vec<Attachment>,
}

#[derive(Clone, Debug)]
pub struct Attachment {
    pub name: String,
    /// As `type/subtype` with parameters perhaps; what is none becomes `application/octet-stream`.
    pub content_type: String,
    pub content: Vec<u8>,
    /// Shown in the HTML as `cid:` and this, without angle brackets.
    pub content_id: Option<String>,
}

/// The message's content, header section first.
pub fn compose(letter: Letter) -> Vec<u8> {
    let mut octets = Vec::new();
    addresses(&mut octets, "From", std::slice::from_ref(&letter.from));
    match letter.to.is_empty() && letter.cc.is_empty() {
        // RFC 5322 §3.6.3 wants none; many filters distrust a message that names nobody.
        true => octets.extend_from_slice(b"To: undisclosed-recipients:;\r\n"),
        false => addresses(&mut octets, "To", &letter.to),
    }
    addresses(&mut octets, "Cc", &letter.cc);
    addresses(&mut octets, "Reply-To", &letter.reply_to);
    field(&mut octets, "Subject", &letter.subject);
    for (name, value) in &letter.headers {
        field(&mut octets, name, value);
    }
    octets.extend_from_slice(b"MIME-Version: 1.0\r\n");
    body(letter.text, letter.html, letter.attachments).write_part(&mut octets);
    octets
}

fn addresses(octets: &mut Vec<u8>, name: &str, list: &[Addressee]) {
    if list.is_empty() {
        return;
    }
    let list = list.iter().map(|addressee| {
        let name = Some(addressee.name.as_str()).filter(|name| !name.is_empty());
        Address::new_address(name, spec(&addressee.mailbox))
    });
    begin(octets, name);
    Address::new_list(list.collect()).write_header(octets, name.len() + 2);
}

/// With A-labels, so that only a local-part can need SMTPUTF8.
fn spec(mailbox: &Mailbox) -> String {
    match mailbox.needs_smtputf8() {
        true => mailbox.as_str().to_owned(),
        false => format!("{}@{}", mailbox.local_part(), mailbox.domain()),
    }
}

/// ASCII stays as it is, folded at its spaces: fields with a structure of their own are among these. Everything else becomes
/// encoded words (RFC 2047 §5 (1)).
fn field(octets: &mut Vec<u8>, name: &str, value: &str) {
    let plain = value.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'));
    let longest = value.split([' ', '\t']).map(str::len).max();
    begin(octets, name);
    match plain && longest <= Some(WORD_MAX) {
        true => Raw::new(value).write_header(octets, name.len() + 2),
        false => Text::new(value).write_header(octets, name.len() + 2),
    }
}

fn begin(octets: &mut Vec<u8>, name: &str) {
    octets.extend_from_slice(name.as_bytes());
    octets.extend_from_slice(b": ");
}

fn body<'x>(
    text: Option<String>,
    html: Option<String>,
    attachments: Vec<Attachment>,
) -> MimePart<'x> {
    let shown = |attachment: &Attachment| attachment.content_id.is_some() && html.is_some();
    let (inline, mixed): (Vec<_>, Vec<_>) = attachments.into_iter().partition(shown);
    let html = html.map(|html| {
        let page = readable("text/html", html);
        together("multipart/related", page, inline)
    });
    let text = text.map(|text| readable("text/plain", text));
    let body = match (text, html) {
        (Some(text), Some(html)) => MimePart::new("multipart/alternative", vec![text, html]),
        (Some(part), None) | (None, Some(part)) => part,
        (None, None) => readable("text/plain", String::new()),
    };
    together("multipart/mixed", body, mixed)
}

/// The first part alone, or in front of the attachments.
fn together<'x>(
    content_type: &'static str,
    first: MimePart<'x>,
    attachments: Vec<Attachment>,
) -> MimePart<'x> {
    if attachments.is_empty() {
        return first;
    }
    let parts = std::iter::once(first).chain(attachments.into_iter().map(attached));
    MimePart::new(content_type, parts.collect::<Vec<_>>())
}

/// A text for people. Line ends of every system become CRLF (RFC 2045 §2.7).
fn readable<'x>(content_type: &'static str, text: String) -> MimePart<'x> {
    let text = match text.contains('\r') {
        true => text.replace("\r\n", "\n").replace('\r', "\n"),
        false => text,
    };
    let rare = |b: u8| b < b' ' && !matches!(b, b'\n' | b'\t');
    match text.bytes().any(rare) {
        false => MimePart::new(content_type, BodyPart::Text(text.into())),
        // Control characters need an encoding, which mail-builder does not see.
        true => {
            let content_type = ContentType::new(content_type).attribute("charset", "utf-8");
            let encoded = in_base64(text.replace('\n', "\r\n").as_bytes());
            MimePart::new(content_type, BodyPart::Binary(encoded.into()))
                .transfer_encoding("base64")
        }
    }
}

fn attached<'x>(attachment: Attachment) -> MimePart<'x> {
    let content_type = media_type(&attachment.content_type);
    let top = content_type.c_type.split('/').next().unwrap_or_default();
    // RFC 2046 §5.1, §5.2.1: composite types allow no encoding.
    let content_type = match matches!(top, "message" | "multipart") {
        true => ContentType::new(UNKNOWN_TYPE),
        false => content_type.clone(),
    };
    // mail-builder may leave a text as it is, whatever its line ends are.
    let encoded = content_type.is_text() && !is_seven_bit(&attachment.content);
    let name = Some(attachment.name).filter(|name| !name.is_empty());
    let named = |part: ContentType<'x>, key: &'static str| match &name {
        Some(name) => part.attribute(key, name.clone()),
        None => part,
    };
    let disposition = match attachment.content_id {
        Some(_) => ContentType::new("inline"),
        None => ContentType::new("attachment"),
    };
    let content = match encoded {
        true => in_base64(&attachment.content),
        false => attachment.content,
    };
    let content = BodyPart::Binary(content.into());
    let part = MimePart::new(named(content_type, "name"), content)
        .header("Content-Disposition", named(disposition, "filename"));
    let part = match attachment.content_id {
        Some(id) => part.header("Content-ID", Raw::new(format!("<{id}>"))),
        None => part,
    };
    match encoded {
        true => part.transfer_encoding("base64"),
        false => part,
    }
}

/// `type/subtype` of RFC 2045 §5.1 with the parameters that can be read; else the type of what nobody knows.
fn media_type<'x>(text: &str) -> ContentType<'x> {
    let mut pieces = text.split(';').map(str::trim);
    let essence = pieces.next().unwrap_or_default().to_ascii_lowercase();
    let is_type = essence
        .split_once('/')
        .is_some_and(|(top, sub)| is_token(top) && is_token(sub));
    if !is_type {
        return ContentType::new(UNKNOWN_TYPE);
    }
    pieces.fold(ContentType::new(essence), |content_type, parameter| {
        let Some((key, value)) = parameter.split_once('=') else {
            return content_type;
        };
        let (key, value) = (
            key.trim().to_ascii_lowercase(),
            value.trim().trim_matches('"'),
        );
        // The name is said once, by us.
        let taken = ["name", "boundary"].contains(&key.as_str());
        let sound = is_token(&key) && value.bytes().all(|b| (b' '..=b'~').contains(&b));
        match sound && !taken {
            true => content_type.attribute(key, value.to_owned()),
            false => content_type,
        }
    })
}

/// RFC 2045 §5.1.
fn is_token(text: &str) -> bool {
    let special = |b: u8| b"()<>@,;:\\\"/[]?=".contains(&b);
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !special(b))
}

/// Whether content can stand in a message without an encoding (RFC 2045 §2.7).
fn is_seven_bit(content: &[u8]) -> bool {
    let mut lines = content.split_inclusive(|&b| b == b'\n');
    content.is_ascii()
        && !content.contains(&0)
        && lines.all(|line| {
            let line = match line {
                [line @ .., b'\r', b'\n'] => line,
                line => line,
            };
            line.len() <= LINE_MAX && !line.contains(&b'\r') && !line.contains(&b'\n')
        })
}

/// Base64 in lines of 76 (RFC 2045 §6.8).
fn in_base64(octets: &[u8]) -> Vec<u8> {
    let encoded = STANDARD.encode(octets);
    let mut lines = Vec::with_capacity(encoded.len() + encoded.len() / 38 + 2);
    for line in encoded.as_bytes().chunks(76) {
        lines.extend_from_slice(line);
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

const UNKNOWN_TYPE: &str = "application/octet-stream";
/// RFC 5322 §2.1.1.
const LINE_MAX: usize = 998;
/// Octets of a word that still fits on a line of its own.
const WORD_MAX: usize = 900;

#[cfg(test)]
mod tests;
