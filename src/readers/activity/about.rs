//! What is shown of a message: copied from its record when it is accepted, since the record may be gone when somebody asks.

use mail_parser::{Address, Message, MessageParser, MimeHeaders};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use spool_format::layout::content;
use spool_format::{Content, MessageRecord, field_tag};

use super::words::folded;
use crate::config::SANDBOX_POOLS;
use crate::limits;
use crate::mail::mime::Delimiters;
use crate::spool::Log;

/// Names are short: there are millions of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// With the name that people see.
    #[serde(rename = "f", skip_serializing_if = "String::is_empty")]
    pub from: String,
    #[serde(rename = "a", skip_serializing_if = "String::is_empty")]
    pub from_address: String,
    #[serde(rename = "s", skip_serializing_if = "String::is_empty")]
    pub subject: String,
    #[serde(rename = "t", skip_serializing_if = "String::is_empty")]
    pub tag: String,
    #[serde(rename = "m", skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<(String, String)>,
    /// In order of RCPT; `None`: one that was to be forgotten.
    #[serde(rename = "r")]
    pub recipients: Vec<Option<Recipient>>,
    /// Names of files.
    #[serde(rename = "n", skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
    /// Of the content.
    #[serde(rename = "o")]
    pub octets: u64,
    /// As it held when it was accepted.
    #[serde(rename = "to", skip_serializing_if = "std::ops::Not::not")]
    pub track_opens: bool,
    /// `None`: in no part.
    #[serde(rename = "tl", skip_serializing_if = "Option::is_none")]
    pub track_links: Option<String>,
    /// It went to the built-in sink, never to the world.
    #[serde(rename = "x", skip_serializing_if = "std::ops::Not::not")]
    pub sandboxed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipient {
    #[serde(rename = "e")]
    pub email: String,
    #[serde(rename = "n", skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "k", skip_serializing_if = "Field::is_to")]
    pub field: Field,
}

/// Where the message names a recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    #[default]
    #[serde(rename = "t")]
    To,
    #[serde(rename = "c")]
    Cc,
    /// Nowhere.
    #[serde(rename = "b")]
    Bcc,
}

impl Field {
    fn is_to(&self) -> bool {
        *self == Self::To
    }
}

impl About {
    /// `None`: its content cannot be read. May block.
    pub(super) fn of(record: &MessageRecord<'_>, mail: &Log) -> Option<Self> {
        let whole;
        let content = match &record.content {
            Content::Inline(octets) => *octets,
            Content::Records(parts) => {
                let mut all = Vec::with_capacity(record.content.len() as usize);
                for part in parts.iter() {
                    let part = mail.read(part.position).ok()?;
                    all.extend_from_slice(part.payload.get(content::OCTETS..)?);
                }
                whole = all;
                &whole
            }
        };
        let header = content.get(..record.header_len as usize)?;
        let parsed = MessageParser::default().parse_headers(header);
        let (from, from_address) = parsed.as_ref().map(from).unwrap_or_default();
        let subject = parsed.as_ref().and_then(|parsed| parsed.subject());
        let mut attachments = Vec::new();
        file_names(content, 0, &mut attachments);
        let field = |tag| record.fields.find(tag);
        Some(Self {
            from,
            from_address,
            subject: subject.map(shortened).unwrap_or_default(),
            // Bounded already, and found by all of it.
            tag: record.tag.unwrap_or_default().to_owned(),
            metadata: record
                .metadata
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            recipients: recipients(record, parsed.as_ref()),
            attachments,
            octets: record.content.len(),
            track_opens: field(field_tag::TRACK_OPENS).is_some_and(|octets| octets == [1]),
            track_links: record
                .fields
                .find_text(field_tag::TRACK_LINKS)
                .map(str::to_owned),
            sandboxed: record.pool.starts_with(SANDBOX_POOLS),
        })
    }

    /// What an event says, of a message whose record is gone.
    pub(super) fn add(&mut self, number: u16, email: &str) {
        let number = usize::from(number);
        if self.recipients.len() <= number {
            self.recipients.resize(number + 1, None);
        }
        let recipient = Recipient {
            email: email.to_owned(),
            ..Recipient::default()
        };
        self.recipients[number] = Some(recipient);
    }

    /// What is left when its record and these recipients are erased. `None`: nobody is left.
    pub(super) fn without(self, numbers: &[u16]) -> Option<Self> {
        let kept = |(number, recipient): (usize, Option<Recipient>)| {
            let email = recipient.filter(|_| !numbers.iter().any(|n| usize::from(*n) == number));
            email.map(|recipient| Recipient {
                email: recipient.email,
                ..Recipient::default()
            })
        };
        let mut recipients: Vec<_> = self.recipients.into_iter().enumerate().map(kept).collect();
        while recipients.last().is_some_and(Option::is_none) {
            recipients.pop();
        }
        (!recipients.is_empty()).then(|| Self {
            recipients,
            ..Self::default()
        })
    }
}

/// As it is shown, and its address.
fn from(parsed: &Message<'_>) -> (String, String) {
    let Some(first) = parsed.from().and_then(Address::first) else {
        return Default::default();
    };
    let address = first.address().map(shortened).unwrap_or_default();
    let shown = match first.name().map(shortened).unwrap_or_default() {
        name if name.is_empty() => address.clone(),
        name => {
            // RFC 5322 §3.4: what is no phrase of atoms is quoted.
            let is_atom =
                |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || " -_'!".contains(c);
            match name.chars().all(is_atom) {
                true => format!("{name} <{address}>"),
                false => {
                    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
                    format!("\"{name}\" <{address}>")
                }
            }
        }
    };
    (shown, address)
}

/// The envelope's, each as To or Cc names it.
fn recipients(record: &MessageRecord<'_>, parsed: Option<&Message<'_>>) -> Vec<Option<Recipient>> {
    let mut named: FxHashMap<String, (String, Field)> = FxHashMap::default();
    let fields = [
        (parsed.and_then(Message::to), Field::To),
        (parsed.and_then(Message::cc), Field::Cc),
    ];
    for (list, field) in fields {
        for mailbox in list.into_iter().flat_map(Address::iter) {
            let Some(address) = mailbox.address() else {
                continue;
            };
            let name = mailbox.name().map(shortened).unwrap_or_default();
            let address = folded(address).into_owned();
            named.entry(address).or_insert((name, field));
        }
    }
    let shown = |path: &str| {
        let (name, field) = match named.get(&*folded(path)) {
            Some((name, field)) => (name.clone(), *field),
            None => (String::new(), Field::Bcc),
        };
        Recipient {
            email: path.to_owned(),
            name,
            field,
        }
    };
    let paths = record.recipients.iter().map(|r| r.forward_path);
    paths.map(|path| Some(shown(path))).collect()
}

/// Names of the files that a message carries. Looks at heads of parts, not into them.
fn file_names(part: &[u8], depth: usize, found: &mut Vec<String>) {
    let Some(head) = MessageParser::default().parse_headers(part) else {
        return;
    };
    let Some(kind) = head.content_type() else {
        return;
    };
    if !kind.ctype().eq_ignore_ascii_case("multipart") {
        let name = head.attachment_name().filter(|name| !name.is_empty());
        found.extend(name.map(shortened));
        return;
    }
    let boundary = kind.attribute("boundary").filter(|b| !b.is_empty());
    let (Some(boundary), true) = (boundary, depth < DEPTH_MAX) else {
        return;
    };
    let mut from = None;
    for delimiter in Delimiters::new(part, boundary) {
        if let Some(from) = from {
            file_names(&part[from..delimiter.start], depth + 1, found);
        }
        if delimiter.closes || found.len() >= limits::ACTIVITY_ATTACHMENTS {
            return;
        }
        from = Some(delimiter.end);
    }
    if let Some(from) = from {
        file_names(&part[from..], depth + 1, found);
    }
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(limits::ACTIVITY_TEXT)].to_owned()
}

const DEPTH_MAX: usize = 8;
