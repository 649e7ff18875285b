//! Which of our messages came back: what of it is shown.

use super::mime::{Head, Part};
use super::{address, plain};
use crate::mail::MessageId;

/// What a report shows of the message that it is about. Anybody can write it: it says whom a report concerns only for reports that
/// came to an address that we made, or that name a message that we know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Original {
    /// From our own field, which no host has reason to change.
    pub message_id: Option<MessageId>,
    /// The `Message-ID` field, without angle brackets.
    pub message_id_field: Option<String>,
    /// The address that it left from, which names it where it was ours.
    pub return_path: Option<String>,
    /// Whom it was for, as far as that is shown; in lower case.
    pub recipients: Vec<String>,
}

impl Original {
    /// The message, if it is one of ours: its own field says it, or the `Message-ID` that we gave it.
    pub fn message(&self) -> Option<MessageId> {
        let field = self.message_id_field.as_deref();
        let given = field.and_then(|field| field.split('@').next()?.parse().ok());
        self.message_id.or(given)
    }

    pub(super) fn of(parts: &[Part<'_>]) -> Self {
        let mut original = Self::default();
        for part in parts {
            match part.kind.as_str() {
                "message/rfc822" | "message/global" if !Head::of(part.body).is_empty() => {
                    original.take(&Head::of(part.body));
                }
                // RFC 6532 §3.7 has some of them encoded.
                "message/rfc822"
                | "message/global"
                | "text/rfc822-headers"
                | "message/rfc822-headers"
                | "message/global-headers" => {
                    let text = part.text();
                    // Decoded, its lines may end in any way.
                    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
                    original.take(&Head::of(text.as_bytes()));
                }
                "message/feedback-report" => {
                    let text = part.text().replace("\r\n", "\n").replace('\n', "\r\n");
                    let fields = Head::of(text.as_bytes());
                    original.returns_to(fields.first("Original-Mail-From"));
                }
                _ => {}
            }
        }
        original
    }

    fn take(&mut self, head: &Head<'_>) {
        for path in head.all("Return-Path").into_iter().take(PATHS_MAX) {
            self.returns_to(Some(path));
        }
        for name in [
            "X-PM-Message-Id",
            "Message-ID",
            "To",
            "X-HmXmrOriginalRecipient",
        ] {
            if let Some(value) = head.first(name) {
                self.note(name, &value);
            }
        }
    }

    /// In a text that quotes the message, or the head of it.
    pub(super) fn look_in(&mut self, text: &str) {
        for line in text.lines().take(LINES_MAX) {
            let line = line.trim_start_matches(['>', ' ', '|']);
            if let Some((name, value)) = line.split_once(':')
                && matches!(
                    name.to_ascii_lowercase().as_str(),
                    "x-pm-message-id" | "message-id" | "return-path"
                )
            {
                self.note(name, value);
            }
        }
    }

    fn note(&mut self, name: &str, value: &str) {
        let bare = value.trim().trim_matches(['<', '>']);
        match name.to_ascii_lowercase().as_str() {
            "x-pm-message-id" => self.message_id = self.message_id.or_else(|| bare.parse().ok()),
            "message-id"
                if self.message_id_field.is_none() && !bare.is_empty() && bare.len() <= 998 =>
            {
                self.message_id_field = Some(plain(bare));
            }
            "return-path" => self.returns_to(Some(value.to_owned())),
            "to" | "x-hmxmroriginalrecipient" => {
                let found = crate::mail::header::addr_specs(value);
                let found = found.iter().take(20).filter_map(|text| address(text));
                self.recipients.extend(found);
                self.recipients.truncate(20);
            }
            _ => {}
        }
    }

    fn returns_to(&mut self, field: Option<String>) {
        // Whoever passed it on may have put another one before ours.
        let is_ours = |path: &String| {
            let local_part = path.split('@').next();
            local_part.is_some_and(crate::mail::verp::is_bounce_address)
        };
        let found = field.as_deref().and_then(address);
        match &self.return_path {
            Some(path) if is_ours(path) || !found.as_ref().is_some_and(is_ours) => {}
            _ => self.return_path = found.or(self.return_path.take()),
        }
    }
}

const LINES_MAX: usize = 2_000;
/// A host that delivers removes those before it (RFC 5321 §4.4), and some do not.
const PATHS_MAX: usize = 10;
