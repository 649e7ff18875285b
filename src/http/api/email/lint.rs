//! What a postmaster would say of a message before it leaves. Pure: octets and the kind of stream in, findings out.
//!
//! Promises: time linear in the content, at most [`limits::LINT_FINDINGS_MAX`] findings. It judges what is known to hurt (RFC 5322
//! §2.1.1, RFC 8058, what large mailbox providers say that they require) and no taste: what a spam filter may think is not here.

use std::collections::BTreeSet;

use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use serde::Serialize;
use spool_format::StreamKind;

use super::addresses::shown;
use super::links;
use crate::limits;
use crate::mail::header::Section;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Finding {
    pub(super) level: Level,
    /// For programs.
    pub(super) rule: &'static str,
    /// For people.
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Level {
    /// It does not do what it says, or will be refused by many.
    Error,
    Warning,
    Notice,
}

/// Findings of one message.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, level: Level, rule: &'static str, message: impl Into<String>) {
        if self.0.len() < limits::LINT_FINDINGS_MAX {
            self.0.push(Finding {
                level,
                rule,
                message: message.into(),
            });
        }
    }
}

/// Judges a message as it would be stored.
pub(super) fn lint(content: &[u8], kind: StreamKind, found: &mut Findings) {
    if let Ok(section) =
        Section::parse(content, limits::HEADER_FIELDS_MAX, limits::HEADER_FIELD_MAX)
    {
        fields(&section, found);
        if kind == StreamKind::Broadcast {
            unsubscribe(&section, found);
        }
    }
    octets(content, found);
    if let Some(message) = MessageParser::default().parse(content) {
        texts(&message, found);
    }
}

fn fields(section: &Section<'_>, found: &mut Findings) {
    let is_missing = |name: &str| {
        let value = section.first(name);
        value.is_none_or(|value| value.trim().is_empty())
    };
    if is_missing("Subject") {
        let text = "The message has no subject.";
        found.add(Level::Warning, "missing-subject", text);
    }
    if is_missing("To") && is_missing("Cc") {
        let text = "The message names nobody in To or Cc: many filters distrust that.";
        found.add(Level::Notice, "missing-to", text);
    }
    if is_missing("MIME-Version") && !is_missing("Content-Type") {
        let text = "Content-Type without MIME-Version: RFC 2045 §4 makes it plain text.";
        found.add(Level::Warning, "missing-mime-version", text);
    }
}

/// RFC 2369 §3.2, and RFC 8058 §2 and §3.1: large providers ask senders of bulk mail for both.
fn unsubscribe(section: &Section<'_>, found: &mut Findings) {
    let Some(list) = section.first("List-Unsubscribe") else {
        let text =
            "Broadcast mail without List-Unsubscribe: large providers refuse it or call it spam.";
        return found.add(Level::Error, "missing-unsubscribe", text);
    };
    let post = section.first("List-Unsubscribe-Post").unwrap_or_default();
    let one_click = post
        .trim()
        .eq_ignore_ascii_case("List-Unsubscribe=One-Click")
        && list.to_ascii_lowercase().contains("<https:");
    if !one_click {
        let text = "Broadcast mail without one-click unsubscription: an https: address in List-Unsubscribe, and List-Unsubscribe-Post: List-Unsubscribe=One-Click (RFC 8058).";
        found.add(Level::Warning, "missing-one-click", text);
    }
}

fn octets(content: &[u8], found: &mut Findings) {
    if content.len() > LARGE {
        let text = format!(
            "The message has {} octets; many hosts take no more than {LARGE}.",
            content.len()
        );
        found.add(Level::Warning, "large-message", text);
    }
    if !content.is_ascii() {
        let text = "The message has octets above 127: not every host takes them (RFC 6152).";
        found.add(Level::Notice, "eight-bit", text);
    }
    let line_len = |line: &[u8]| line.strip_suffix(b"\r\n").unwrap_or(line).len();
    let lines = content.split_inclusive(|&b| b == b'\n');
    let long = lines.zip(1..).find(|(line, _)| line_len(line) > LINE_MAX);
    if let Some((line, number)) = long {
        let text = format!(
            "Line {number} has {} octets; RFC 5322 §2.1.1 allows {LINE_MAX}, and hosts break or refuse longer ones.",
            line_len(line)
        );
        found.add(Level::Error, "long-line", text);
    }
}

fn texts(message: &Message<'_>, found: &mut Findings) {
    let body = |id: &u32| message.parts.get(*id as usize).map(|part| &part.body);
    let plain: Vec<&str> = message
        .text_body
        .iter()
        .filter_map(body)
        .filter_map(|body| match body {
            PartType::Text(text) => Some(&**text),
            _ => None,
        })
        .collect();
    let html: Vec<&str> = message
        .html_body
        .iter()
        .filter_map(body)
        .filter_map(|body| match body {
            PartType::Html(text) => Some(&**text),
            _ => None,
        })
        .collect();
    if plain.iter().all(|text| text.trim().is_empty()) {
        match html.is_empty() {
            true => found.add(
                Level::Warning,
                "missing-text",
                "The message has no text at all.",
            ),
            false => {
                let text = "HTML without a text alternative: some readers see nothing, and filters count it against the message.";
                found.add(Level::Warning, "missing-text", text);
            }
        }
    }
    let html_len: usize = html.iter().map(|page| page.len()).sum();
    if html_len > CLIPPED {
        let text = format!(
            "The HTML has {html_len} octets; Gmail cuts what is behind the first {CLIPPED}, unsubscribe links included."
        );
        found.add(Level::Notice, "large-html", text);
    }
    let mut open = BTreeSet::new();
    placeholders(message.subject().unwrap_or_default(), &mut open);
    for text in plain.iter().chain(&html) {
        placeholders(text, &mut open);
    }
    for placeholder in open {
        let text = format!("A placeholder was not filled in: {}", shown(placeholder));
        found.add(Level::Error, "unresolved-placeholder", text);
    }
    let ids: BTreeSet<&str> = message
        .parts
        .iter()
        .filter_map(|part| part.content_id())
        .collect();
    let mut seen = BTreeSet::new();
    let pages = html.iter().flat_map(|page| links::of_html(page));
    let of_texts = plain
        .iter()
        .flat_map(|text| links::of_text(text).map(Into::into));
    for link in pages.chain(of_texts) {
        if seen.len() >= LINKS_MAX {
            break;
        }
        if let Some((level, rule, text)) = links::judge(&link, &ids)
            && seen.insert(link)
        {
            found.add(level, rule, text);
        }
    }
}

/// What looks like a template's variable that nobody replaced.
fn placeholders<'t>(text: &'t str, open: &mut BTreeSet<&'t str>) {
    let (mut from, mut openers) = (0, 0);
    for (at, _) in text.match_indices(['{', '<', '$']) {
        let rest = &text[at..];
        let mark = MARKS.iter().find(|(begin, _)| rest.starts_with(begin));
        let Some((begin, end)) = mark.filter(|_| at >= from) else {
            continue;
        };
        openers += 1;
        if openers > OPENERS_MAX || open.len() >= PLACEHOLDERS_SHOWN {
            return;
        }
        let inside = &rest[begin.len()..];
        let mut window = inside.len().min(PLACEHOLDER_MAX);
        while !inside.is_char_boundary(window) {
            window -= 1;
        }
        if let Some(ends) = inside[..window].find(end) {
            let whole = begin.len() + ends + end.len();
            open.insert(&rest[..whole]);
            from = at + whole;
        }
    }
}

/// Of Mustache and its like, Jinja, ERB, and shells.
const MARKS: [(&str, &str); 4] = [("{{", "}}"), ("{%", "%}"), ("<%", "%>"), ("${", "}")];
const PLACEHOLDER_MAX: usize = 100;
const PLACEHOLDERS_SHOWN: usize = 10;
const OPENERS_MAX: usize = 10_000;
/// Of which something is said.
const LINKS_MAX: usize = 1_000;
/// Octets: Exchange Online and Gmail take 25 MB in all.
const LARGE: usize = 25_000_000;
/// Octets.
const CLIPPED: usize = 102 * 1024;
/// RFC 5322 §2.1.1.
const LINE_MAX: usize = 998;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: &str, kind: StreamKind, expected: &[&str]) {
        let mut found = Findings::default();
        lint(content.replace('\n', "\r\n").as_bytes(), kind, &mut found);
        let rules: Vec<&str> = found.0.iter().map(|finding| finding.rule).collect();
        assert_eq!(rules, expected, "{content}: {found:?}");
    }

    fn page(html: &str) -> String {
        format!(
            "To: a@example.com\nSubject: x\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/plain\n\nHi.\n--b\nContent-Type: text/html\n\n{html}\n--b--\n"
        )
    }

    #[test]
    fn a_good_message_has_no_findings_and_each_fault_has_its_own() {
        let (tx, bulk) = (StreamKind::Transactional, StreamKind::Broadcast);
        check(
            "To: a@example.com\nSubject: x\n\nSee https://example.com/a.\n",
            tx,
            &[],
        );
        check(&page("<a href='https://example.com/'>x</a>"), tx, &[]);
        check("Subject: \n\nHi.\n", tx, &["missing-subject", "missing-to"]);
        check(
            "To: a@b.example\nSubject: x\nContent-Type: text/html\n\n<p>x",
            tx,
            &["missing-mime-version", "missing-text"],
        );
        check("To: a@b.example\nSubject: x\n\n", tx, &["missing-text"]);
        check(
            "To: a@b.example\nSubject: {{ name }}\n\nHi {{{x}}}, {% if y %}<%= z %>${q} {{ open {%\n",
            tx,
            &["unresolved-placeholder"; 5],
        );
        check(
            &format!("To: a@b.example\nSubject: x\n\ngrüße {}\n", "x".repeat(998)),
            tx,
            &["eight-bit", "long-line"],
        );
        check(
            &page(&"<p>12345678901234567890</p>\n".repeat(5_000)),
            tx,
            &["large-html"],
        );
        let list = "To: a@b.example\nSubject: x\nList-Unsubscribe: <https://example.com/u>\n";
        check(
            "To: a@b.example\nSubject: x\n\nHi.\n",
            bulk,
            &["missing-unsubscribe"],
        );
        check(&format!("{list}\nHi.\n"), bulk, &["missing-one-click"]);
        check(
            &format!("{list}List-Unsubscribe-Post: List-Unsubscribe=One-Click\n\nHi.\n"),
            bulk,
            &[],
        );
        check(
            &page(
                "<img src='cid:logo'><a href='http:/example.com'>x</a><a href='http:/example.com'>again</a>",
            ),
            tx,
            &["broken-inline", "malformed-link"],
        );
    }

    #[test]
    fn hostile_text_costs_linear_time_and_a_bounded_report() {
        for seed in [
            "{{",
            "<",
            "<a href=",
            "<a href='http:",
            "<!--",
            "http://",
            "${",
            "<%",
            "{{a}}",
            "ü{{ü",
        ] {
            let text = seed.repeat(200_000);
            let mut found = Findings::default();
            lint(page(&text).as_bytes(), StreamKind::Broadcast, &mut found);
            assert!(found.0.len() <= limits::LINT_FINDINGS_MAX);
        }
    }
}
