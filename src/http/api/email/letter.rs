//! One message of the email API, from a body's keys to what [`crate::accept`] takes: every check that needs no account.
//!
//! The order of the checks is the reference's (§3.6), so that a client with two faults hears of the same one as at Postmark.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use super::addresses;
use crate::accept::compose::{Addressee, Attachment, Letter};
use crate::accept::{Given, Tracking};
use crate::account::model::TrackLinks;
use crate::http::api::error::{ApiError, Code};
use crate::http::api::json::{Body, Field, Kind, wrong_fields};
use crate::http::api::{field, required};
use crate::limits;

/// A message that can be composed, and what the answer repeats.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) letter: Letter,
    pub(super) bcc: Vec<Addressee>,
    pub(super) given: Given,
    pub(super) echo: Echo,
    pub(super) dry_run: bool,
}

/// The texts of the request.
#[derive(Clone, Debug, Default)]
pub(super) struct Echo {
    pub(super) to: String,
    pub(super) cc: Option<String>,
    pub(super) bcc: Option<String>,
}

pub(super) const FIELDS: &[Field] = &[
    required(
        "From",
        Kind::Text,
        "One address, with a name perhaps; at most 255 characters.",
    ),
    field(
        "To",
        Kind::Text,
        "Addresses, separated by commas. To, Cc and Bcc together: 1 to 50.",
    ),
    field("Cc", Kind::Text, "As To."),
    field("Bcc", Kind::Text, "As To."),
    field("Subject", Kind::Text, "At most 2,000 characters."),
    field(
        "HtmlBody",
        Kind::Text,
        "This or TextBody, or both; 5 MB each.",
    ),
    field("TextBody", Kind::Text, ""),
    field("ReplyTo", Kind::Text, "Addresses."),
    field("Tag", Kind::Text, "At most 1,000 characters."),
    field(
        "Headers",
        Kind::List,
        "Objects of Name and Value: further header fields.",
    ),
    field(
        "TrackOpens",
        Kind::Flag,
        "The server's setting if not given.",
    ),
    field(
        "TrackLinks",
        Kind::Text,
        "None, HtmlAndText, HtmlOnly, TextOnly.",
    ),
    field(
        "Metadata",
        Kind::Map,
        "At most 10 texts; keys of 20 characters, values of 80.",
    ),
    field(
        "Attachments",
        Kind::List,
        "Objects of Name, Content (base64), ContentType, ContentID.",
    ),
    field("MessageStream", Kind::Text, "`outbound` if not given."),
    field(
        "SendAt",
        Kind::Text,
        "Posthaste: not before this time (RFC 3339) or span (90s, 2h).",
    ),
    field(
        "Deadline",
        Kind::Text,
        "Posthaste: expires at this time or after this span, undelivered.",
    ),
    DRY_RUN,
];

pub(super) const DRY_RUN: Field = field(
    "DryRun",
    Kind::Flag,
    "Posthaste: only says what would be sent, and what is wrong with it.",
);

impl Request {
    /// Reads a message; `stream` checks the stream that it names, `sender` its From.
    pub(super) fn read(
        body: &mut Body,
        stream: impl FnOnce(Option<&str>) -> Result<(), ApiError>,
        sender: impl FnOnce(&Addressee) -> Result<(), ApiError>,
    ) -> Result<Self, ApiError> {
        for name in ONE_LINE {
            if let Some(text) = body.text(name) {
                refuse_controls(if name == "ReplyTo" { "Reply-To" } else { name }, &text)?;
            }
        }
        let headers = headers(body)?;
        let metadata = metadata(body)?;
        let raw_attachments = attachments(body)?;
        let named_stream = body.word("MessageStream");
        stream(named_stream.as_deref())?;

        let from = from(&body.take_text("From").unwrap_or_default())?;
        let echo = Echo {
            to: body.take_text("To").unwrap_or_default(),
            cc: body.word("Cc"),
            bcc: body.word("Bcc"),
        };
        let list = |name: &str, text: &str| addresses::parse(name, text).map_err(invalid);
        let to = list("To", &echo.to)?;
        let cc = list("Cc", echo.cc.as_deref().unwrap_or_default())?;
        let bcc = list("Bcc", echo.bcc.as_deref().unwrap_or_default())?;
        let reply_to = body.word("ReplyTo").or_else(|| headers.reply_to.clone());
        let reply_to = list("Reply-To", reply_to.as_deref().unwrap_or_default())?;
        match to.len() + cc.len() + bcc.len() {
            0 => return Err(invalid("Zero recipients specified")),
            1..=limits::HTTP_RECIPIENTS_MAX => {}
            many => {
                return Err(invalid(format!(
                    "A message may have at most {} recipients in To, Cc and Bcc together; this one has {many}.",
                    limits::HTTP_RECIPIENTS_MAX
                )));
            }
        }

        let text = body.take_text("TextBody").filter(|text| !text.is_empty());
        let html = body.take_text("HtmlBody").filter(|text| !text.is_empty());
        if text.is_none() && html.is_none() {
            return Err(invalid(
                "Provide either email TextBody or HtmlBody or both.",
            ));
        }
        for (name, part) in [("TextBody", &text), ("HtmlBody", &html)] {
            if part
                .as_ref()
                .is_some_and(|part| part.len() > limits::HTTP_TEXT_MAX)
            {
                let most = limits::HTTP_TEXT_MAX;
                return Err(invalid(format!(
                    "The '{name}' is larger than {most} octets."
                )));
            }
        }
        let subject = body.take_text("Subject").unwrap_or_default();
        if subject.encode_utf16().count() > limits::SUBJECT_CHARS_MAX {
            return Err(too_long("Subject", limits::SUBJECT_CHARS_MAX));
        }
        let given = Given {
            stream: named_stream,
            tag: tag(body)?,
            tracking: tracking(body)?,
            metadata,
            claim: None,
            notice_of: Vec::new(),
        };
        let mut fields = headers.fields;
        let times = [
            ("SendAt", "X-Posthaste-Send-At"),
            ("Deadline", "X-Posthaste-Deadline"),
        ];
        for (key, name) in times {
            if let Some(when) = body.word(key) {
                fields.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
                fields.push((name.to_owned(), addresses::shown(&when)));
            }
        }
        if let Some(tag) = &given.tag {
            fields.push(("X-PM-Tag".to_owned(), tag.clone()));
        }
        let attachments = raw_attachments.into_iter().enumerate();
        let attachments = attachments.map(|(number, given)| given.decode(number));
        let attachments: Vec<Attachment> = attachments.collect::<Result<_, _>>()?;
        sender(&from)?;
        Ok(Self {
            letter: Letter {
                from,
                to,
                cc,
                reply_to,
                subject,
                text,
                html,
                headers: fields,
                attachments,
            },
            bcc,
            given,
            echo,
            dry_run: body.flag("DryRun") == Some(true),
        })
    }
}

pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Code(300), message)
}

fn too_long(name: &str, most: usize) -> ApiError {
    invalid(format!("The '{name}' is longer than {most} characters."))
}

fn from(text: &str) -> Result<Addressee, ApiError> {
    if text.chars().count() > limits::FROM_CHARS_MAX {
        return Err(too_long("From", limits::FROM_CHARS_MAX));
    }
    let mut found = addresses::parse("From", text).map_err(invalid)?;
    match (found.pop(), found.is_empty()) {
        (Some(from), true) => Ok(from),
        _ => Err(invalid("Invalid 'From' value.")),
    }
}

fn tag(body: &mut Body) -> Result<Option<String>, ApiError> {
    let Some(tag) = body.word("Tag") else {
        return Ok(None);
    };
    match tag.chars().count() > limits::TAG_CHARS_MAX {
        true => Err(too_long("Tag", limits::TAG_CHARS_MAX)),
        false => Ok(Some(tag)),
    }
}

fn tracking(body: &Body) -> Result<Tracking, ApiError> {
    let links = body.word("TrackLinks").map(|word| {
        TrackLinks::parse(&word).ok_or_else(|| {
            let words = TrackLinks::WORDS.join(", ");
            invalid(format!("Invalid 'TrackLinks' value; it is one of {words}."))
        })
    });
    Ok(Tracking {
        opens: body.flag("TrackOpens"),
        links: links.transpose()?,
    })
}

/// Texts only; numbers and flags are what some languages make of them, and are refused as Postmark does.
fn metadata(body: &mut Body) -> Result<Vec<(String, String)>, ApiError> {
    let Some(Value::Object(map)) = body.take("Metadata") else {
        return Ok(Vec::new());
    };
    let mut found: Vec<(String, String)> = Vec::with_capacity(map.len());
    for (key, value) in map {
        let value = match value {
            Value::String(text) => text,
            Value::Null => continue,
            _ => return Err(wrong_fields(&["$.Metadata".to_owned()])),
        };
        refuse_controls("Metadata", &key)?;
        refuse_controls("Metadata", &value)?;
        if found
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(&key))
        {
            return Err(metadata_refused(&key, "is given twice"));
        }
        let fits = key.chars().count() <= limits::METADATA_KEY_CHARS_MAX
            && value.chars().count() <= limits::METADATA_VALUE_CHARS_MAX;
        if !fits {
            return Err(metadata_refused(&key, "exceeds these limits"));
        }
        found.push((key, value));
    }
    match found.len() > limits::METADATA_FIELDS_MAX {
        true => Err(invalid(format!(
            "Invalid metadata content. A message may have at most {} metadata fields.",
            limits::METADATA_FIELDS_MAX
        ))),
        false => Ok(found),
    }
}

fn metadata_refused(key: &str, why: &str) -> ApiError {
    invalid(format!(
        "Invalid metadata content. Field names are limited to {} characters and field values are limited to {} characters in length. The '{}' field in your metadata content {why}.",
        limits::METADATA_KEY_CHARS_MAX,
        limits::METADATA_VALUE_CHARS_MAX,
        addresses::shown(key)
    ))
}

/// Fields of the client's own.
#[derive(Default)]
struct Headers {
    fields: Vec<(String, String)>,
    reply_to: Option<String>,
}

fn headers(body: &mut Body) -> Result<Headers, ApiError> {
    let mut headers = Headers::default();
    for (number, item) in body.take_list("Headers").into_iter().enumerate() {
        let wrong = || wrong_fields(&[format!("$.Headers[{number}]")]);
        let Value::Object(map) = item else {
            return Err(wrong());
        };
        let mut item = Body::folded(map)?;
        let (name, value) = (item.take("Name"), item.take("Value"));
        let (Some(Value::String(name)), value) = (name, value) else {
            return Err(wrong());
        };
        let value = match value {
            Some(Value::String(value)) => value,
            None => String::new(),
            _ => return Err(wrong()),
        };
        let printable = |b: u8| (0x21..=0x7e).contains(&b) && b != b':';
        let name = name.trim();
        if name.is_empty() || name.len() > limits::HEADER_NAME_MAX || !name.bytes().all(printable) {
            let shown = addresses::shown(name);
            return Err(invalid(format!("Invalid header name '{shown}'.")));
        }
        refuse_controls(name, &value)?;
        if value.len() > limits::HTTP_HEADER_VALUE_MAX {
            let shown = addresses::shown(name);
            return Err(invalid(format!(
                "The value of header '{shown}' is too long."
            )));
        }
        let lower = name.to_ascii_lowercase();
        match lower.as_str() {
            "reply-to" => headers.reply_to = Some(value),
            reserved if is_reserved(reserved) => {}
            _ => headers
                .fields
                .push((name.to_owned(), value.trim().to_owned())),
        }
    }
    match headers.fields.len() > limits::HTTP_HEADERS_MAX {
        true => Err(invalid(format!(
            "A message may have at most {} custom headers.",
            limits::HTTP_HEADERS_MAX
        ))),
        false => Ok(headers),
    }
}

/// Fields that other keys or the node itself write: one given by hand is passed over (postmark-smtp §3).
fn is_reserved(lower: &str) -> bool {
    const NAMES: [&str; 17] = [
        "feedback-id",
        "from",
        "sender",
        "to",
        "cc",
        "bcc",
        "subject",
        "date",
        "mime-version",
        "dkim-signature",
        "return-path",
        "received",
        "x-pm-rcpt",
        "x-pm-tag",
        "x-pm-message-stream",
        "x-pm-message-id",
        "authentication-results",
    ];
    lower.starts_with("content-")
        || lower.starts_with("arc-")
        || lower.starts_with("resent-")
        || lower.starts_with("x-pm-metadata-")
        || lower.starts_with("x-pm-track")
        || NAMES.contains(&lower)
}

/// An attachment whose types are right.
struct RawAttachment {
    name: String,
    content: String,
    content_type: String,
    content_id: Option<String>,
}

fn attachments(body: &mut Body) -> Result<Vec<RawAttachment>, ApiError> {
    let items = body.take_list("Attachments").into_iter().enumerate();
    let read = |(number, item): (usize, Value)| {
        let wrong = |key: &str| wrong_fields(&[format!("$.Attachments[{number}]{key}")]);
        let Value::Object(map) = item else {
            return Err(wrong(""));
        };
        let mut item = Body::folded(map)?;
        let mut text = |key: &str| match item.take(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            None => Ok(None),
            Some(_) => Err(wrong(&format!(".{key}"))),
        };
        let (name, content) = (text("Name")?, text("Content")?);
        let (content_type, content_id) = (text("ContentType")?, text("ContentID")?);
        Ok(RawAttachment {
            name: name.ok_or_else(|| wrong(".Name"))?,
            content: content.ok_or_else(|| wrong(".Content"))?,
            content_type: content_type.unwrap_or_default(),
            content_id: content_id.filter(|id| !id.is_empty()),
        })
    };
    let found: Vec<_> = items.map(read).collect::<Result<_, _>>()?;
    let size: usize = found.iter().map(|a| a.content.len()).sum();
    match size >= limits::HTTP_ATTACHMENTS_MAX {
        true => Err(invalid(format!(
            "The attachments are too large: {size} bytes. The total size should be less than {} bytes.",
            limits::HTTP_ATTACHMENTS_MAX
        ))),
        false => Ok(found),
    }
}

impl RawAttachment {
    fn decode(self, number: usize) -> Result<Attachment, ApiError> {
        let name = self.name;
        for (key, text) in [
            ("Name", Some(&name)),
            ("ContentType", Some(&self.content_type)),
            ("ContentID", self.content_id.as_ref()),
        ] {
            let text = text.map_or("", String::as_str);
            let key = format!("Attachments.{key}");
            refuse_controls(&key, text)?;
            if text.chars().count() > limits::ATTACHMENT_TEXT_CHARS_MAX {
                return Err(too_long(&key, limits::ATTACHMENT_TEXT_CHARS_MAX));
            }
        }
        if name.contains(['/', '\\']) {
            let shown = addresses::shown(&name);
            return Err(invalid(format!(
                "Invalid attachment name '{shown}': it must not contain a path."
            )));
        }
        let top = self.content_type.trim().to_ascii_lowercase();
        if top.starts_with("multipart/") || top.starts_with("message/") {
            return Err(invalid(format!(
                "Invalid content type '{}' of attachment '{}': an attachment cannot be of a type that has parts; use application/octet-stream.",
                addresses::shown(&self.content_type),
                addresses::shown(&name)
            )));
        }
        let extension = extension(&name);
        if FORBIDDEN_EXTENSIONS.contains(&extension.as_str()) {
            let shown = addresses::shown(&name);
            return Err(ApiError::new(
                Code(411),
                format!(
                    "The attachment '{shown}' has a file extension that is not allowed: '{extension}'."
                ),
            ));
        }
        // Some clients wrap the lines.
        let mut encoded = self.content;
        encoded.retain(|c| !c.is_ascii_whitespace());
        let content = BASE64
            .decode(encoded)
            .map_err(|_| wrong_fields(&[format!("$.Attachments[{number}].Content")]))?;
        if content.is_empty() {
            return Err(invalid("Zero-sized attachments not allowed."));
        }
        let id = self.content_id.map(|id| {
            let id = id.trim().trim_matches(['<', '>']);
            let id = id.strip_prefix("cid:").unwrap_or(id);
            // RFC 2045 §7: as a message id; what cannot stand in one is left out.
            let sound = |c: &char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '"' | '\\');
            id.chars().filter(sound).collect::<String>()
        });
        Ok(Attachment {
            name,
            content_type: self.content_type,
            content,
            content_id: id.filter(|id| !id.is_empty()),
        })
    }
}

/// As a system that hides what it does not show would read it: marks of direction and of no width left out, dots and spaces at
/// the end too.
fn extension(name: &str) -> String {
    let hidden = |c: &char| matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let plain: String = name.nfkc().filter(|c| !hidden(c)).collect();
    let plain = plain.trim_end_matches(|c: char| c == '.' || c.is_whitespace());
    let extension = plain
        .rsplit_once('.')
        .map_or("", |(_, extension)| extension);
    extension.trim().to_lowercase()
}

/// Control characters, and what some readers take for line ends, have no place in any field: nothing is left out silently
/// (threats-and-faults §2.2).
pub(super) fn refuse_controls(name: &str, text: &str) -> Result<(), ApiError> {
    match text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        false => Ok(()),
        true => Err(invalid(format!(
            "Invalid '{}' value: it must not contain line breaks or other control characters.",
            addresses::shown(name)
        ))),
    }
}

/// Texts that stand in one header field or command.
const ONE_LINE: [&str; 10] = [
    "From",
    "To",
    "Cc",
    "Bcc",
    "ReplyTo",
    "Subject",
    "Tag",
    "MessageStream",
    "SendAt",
    "Deadline",
];
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Reference §3.4.
const FORBIDDEN_EXTENSIONS: [&str; 31] = [
    "vbs", "exe", "bin", "bat", "chm", "com", "cpl", "crt", "hlp", "hta", "inf", "ins", "isp",
    "jse", "lnk", "mdb", "pcd", "pif", "reg", "scr", "sct", "shs", "vbe", "vba", "wsf", "wsh",
    "wsl", "msc", "msi", "msp", "mst",
];
