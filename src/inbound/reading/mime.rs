//! The parts of a message (RFC 2045, RFC 2046), flat and in order; never deeper, more or longer than is bounded.

use mail_parser::decoders::html::html_to_text;
use mail_parser::{MessageParser, PartType};

use crate::limits;
use crate::mail::header::Section;

/// The fields of one header section.
pub(super) struct Head<'a>(Option<Section<'a>>, &'a [u8]);

impl<'a> Head<'a> {
    pub(super) fn of(octets: &'a [u8]) -> Self {
        let section = Section::parse(octets, FIELDS_MAX, FIELD_OCTETS_MAX).ok();
        let end = section.as_ref().map_or(0, Section::end);
        Self(section, &octets[..end])
    }

    /// As it stands.
    pub(super) fn first(&self, name: &str) -> Option<String> {
        self.0.as_ref()?.first(name)
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        let Some(section) = &self.0 else {
            return Vec::new();
        };
        section
            .named(name)
            .map(|field| section.value(field))
            .collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|section| section.fields().is_empty())
    }

    /// Encoded words decoded (RFC 2047).
    pub(super) fn text(&self, name: &str) -> String {
        let Some(raw) = self.first(name) else {
            return String::new();
        };
        match raw.contains("=?") {
            true => decoded(&raw).unwrap_or(raw),
            false => raw,
        }
    }

    /// It has more fields, or longer ones, than are looked at.
    fn is_beyond(&self) -> bool {
        self.0.is_none()
    }

    /// Where the body begins.
    fn end(&self) -> usize {
        self.1.len()
    }
}

/// One part that has no parts of its own.
pub(super) struct Part<'a> {
    /// `text/plain`, in lower case.
    pub(super) kind: String,
    pub(super) head: Head<'a>,
    pub(super) body: &'a [u8],
    /// `report-type` of the multipart that it stands in.
    pub(super) report: Option<String>,
}

impl Part<'_> {
    pub(super) fn is_text(&self) -> bool {
        matches!(self.kind.as_str(), "text/plain" | "text/html" | "")
    }

    /// Its octets are not those of what it is.
    pub(super) fn is_encoded(&self) -> bool {
        let encoding = self.head.first("Content-Transfer-Encoding");
        let encoding = encoding.unwrap_or_default().to_ascii_lowercase();
        matches!(encoding.trim(), "base64" | "quoted-printable")
    }

    /// Transfer encoding and charset undone; HTML as plain text. At most [`limits::REPORT_TEXT`] octets of the body.
    pub(super) fn text(&self) -> String {
        self.text_within(limits::REPORT_TEXT)
    }

    pub(super) fn text_within(&self, most: usize) -> String {
        let body = &self.body[..self.body.len().min(most)];
        // A head of our own: the parser shall not find parts where we found none.
        let kind = self.head.first("Content-Type").unwrap_or_default();
        let charset = parameter(&kind, "charset").unwrap_or_else(|| "utf-8".to_owned());
        let encoding = self
            .head
            .first("Content-Transfer-Encoding")
            .unwrap_or_default();
        let simple = |text: &str| -> String {
            let kept = |c: &char| c.is_ascii_alphanumeric() || "-_.:+".contains(*c);
            text.chars().filter(kept).take(40).collect()
        };
        let mut leaf = format!(
            "Content-Type: text/plain; charset={}\r\nContent-Transfer-Encoding: {}\r\n\r\n",
            simple(&charset),
            simple(&encoding)
        )
        .into_bytes();
        leaf.extend_from_slice(body);
        let parsed = MessageParser::default().parse(&leaf);
        let text = parsed.and_then(|message| {
            let part = message.parts.into_iter().next()?;
            match part.body {
                PartType::Text(text) | PartType::Html(text) => Some(text.into_owned()),
                PartType::Binary(octets) | PartType::InlineBinary(octets) => {
                    Some(String::from_utf8_lossy(&octets).into_owned())
                }
                _ => None,
            }
        });
        let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
        match self.kind == "text/html" {
            // Neighbouring elements are no one word.
            true => html_to_text(&text.replace('<', " <")),
            false => text,
        }
    }
}

/// Encoded words of one line decoded (RFC 2047).
pub(super) fn decoded(line: &str) -> Option<String> {
    let field = format!("Subject: {line}\r\n\r\n");
    let message = MessageParser::default().parse_headers(field.as_bytes());
    message.and_then(|m| m.subject().map(str::to_owned))
}

/// All leaves. A message within a message is one.
pub(super) fn parts(content: &[u8]) -> Vec<Part<'_>> {
    let mut found = Vec::new();
    walk(content, None, DEPTH_MAX, &mut found);
    found
}

/// The same; `None`: there may be more than are found.
pub(super) fn all_parts(content: &[u8]) -> Option<Vec<Part<'_>>> {
    let found = parts(content);
    // What lies too deep is found as one leaf.
    let beyond =
        |part: &Part<'_>| part.head.is_beyond() || boundary(&part.kind, &part.head).is_some();
    (found.len() < PARTS_MAX && !found.iter().any(beyond)).then_some(found)
}

fn walk<'a>(entity: &'a [u8], report: Option<&str>, levels_left: usize, found: &mut Vec<Part<'a>>) {
    let head = Head::of(entity);
    let body = &entity[head.end()..];
    let field = head.first("Content-Type").unwrap_or_default();
    let kind = media_type(&field);
    let boundary = boundary(&kind, &head).filter(|_| levels_left > 0);
    let Some(boundary) = boundary else {
        let report = report.map(str::to_owned);
        found.push(Part {
            kind,
            head,
            body,
            report,
        });
        return;
    };
    let own = parameter(&field, "report-type").map(|kind| kind.to_ascii_lowercase());
    let report = own.as_deref().or(report);
    let mut begun = None;
    let mut at = 0;
    while at < body.len() && found.len() < PARTS_MAX {
        let end = memchr::memchr(b'\n', &body[at..]).map_or(body.len(), |n| at + n + 1);
        if let Some(last) = delimiter(&body[at..end], boundary.as_bytes()) {
            if let Some(begun) = begun {
                walk(&body[begun..at], report, levels_left - 1, found);
            }
            begun = (!last).then_some(end);
            if last {
                break;
            }
        }
        at = end;
    }
    // Cut off: its last part has no end.
    if let Some(begun) = begun.filter(|_| found.len() < PARTS_MAX) {
        walk(&body[begun..], report, levels_left - 1, found);
    }
}

/// Of an entity that has parts.
fn boundary(kind: &str, head: &Head<'_>) -> Option<String> {
    let field = head
        .first("Content-Type")
        .filter(|_| kind.starts_with("multipart/"))?;
    parameter(&field, "boundary").filter(|boundary| !boundary.is_empty())
}

/// RFC 2046 §5.1.1. Says whether it is the last one.
fn delimiter(line: &[u8], boundary: &[u8]) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    let rest = rest.trim_ascii_end();
    match rest {
        b"" => Some(false),
        b"--" => Some(true),
        _ => None,
    }
}

fn media_type(field: &str) -> String {
    let word = field.split(';').next().unwrap_or_default();
    word.trim().to_ascii_lowercase()
}

/// Of a Content-Type field (RFC 2045 §5.1), leniently.
fn parameter(field: &str, name: &str) -> Option<String> {
    let mut rest = field.split_once(';')?.1;
    loop {
        let (key, value) = rest.split_once('=')?;
        let value = value.trim_start();
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').unwrap_or(quoted.len());
                let behind = quoted.get(end + 1..).unwrap_or_default();
                (&quoted[..end], behind.trim_start().trim_start_matches(';'))
            }
            None => {
                let end = value.find(';').unwrap_or(value.len());
                let behind = value.get(end + 1..).unwrap_or_default();
                (value[..end].trim(), behind)
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = behind;
    }
}

/// Parts within parts that are looked into.
const DEPTH_MAX: usize = 8;
const PARTS_MAX: usize = 64;
const FIELDS_MAX: usize = 1_000;
const FIELD_OCTETS_MAX: usize = 64 * 1024;
