//! A message outside of a node: what `spool export` writes on a line and `spool import` reads from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::http::wire;

/// snake_case, times RFC 3339 in UTC, `null` for what is not there. Fields may be added; a reader ignores those that it does
/// not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Exported {
    pub(super) message_id: Option<String>,
    pub(super) accepted_at: Option<String>,
    pub(super) server: String,
    pub(super) stream: Option<String>,
    /// `transactional` or `broadcast`.
    pub(super) stream_type: Option<String>,
    pub(super) pool: Option<String>,
    /// Empty: null.
    pub(super) reverse_path: String,
    pub(super) recipients: Vec<ExportedRecipient>,
    pub(super) tag: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) eight_bit: bool,
    pub(super) smtputf8: bool,
    pub(super) client_ip: Option<String>,
    pub(super) helo: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) credential: Option<String>,
    /// RFC 3461 §4.4, in xtext.
    pub(super) envelope_id: Option<String>,
    /// `FULL` or `HDRS`.
    pub(super) dsn_return: Option<String>,
    /// Before it there is no attempt.
    pub(super) scheduled_at: Option<String>,
    /// When waiting recipients expire, if their age does not let them expire before.
    pub(super) deadline_at: Option<String>,
    pub(super) content_bytes: u64,
    /// Base64 (RFC 4648 §4), octet for octet. Not there beside an .eml file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ExportedRecipient {
    /// In order of RCPT.
    pub(super) recipient_number: u16,
    pub(super) recipient: String,
    pub(super) domain: String,
    /// `ready`, `deferred`, or how it ended.
    pub(super) state: String,
    pub(super) attempts: u32,
    pub(super) next_attempt_at: Option<String>,
    /// RFC 3461 §4.1.
    pub(super) notify: Option<String>,
    /// RFC 3461 §4.2, in xtext.
    pub(super) original_recipient: Option<String>,
}

impl ExportedRecipient {
    fn is_live(&self) -> bool {
        matches!(self.state.as_str(), "ready" | "deferred")
    }
}

impl Exported {
    /// For the node that takes it over; `None`: nobody waits for it. The content goes apart.
    pub(super) fn to_import(&self, all: bool, content_bytes: u64) -> Option<wire::ImportedMessage> {
        let wanted = self.recipients.iter().filter(|r| all || r.is_live());
        let recipients: Vec<_> = wanted
            .map(|r| wire::ImportedRecipient {
                recipient: r.recipient.clone(),
                notify: r.notify.clone(),
                original_recipient: r.original_recipient.clone(),
            })
            .collect();
        (!recipients.is_empty()).then(|| wire::ImportedMessage {
            message_id: self.message_id.clone(),
            accepted_at: self.accepted_at.clone(),
            server: self.server.clone(),
            stream: self.stream.clone(),
            reverse_path: self.reverse_path.clone(),
            recipients,
            tag: self.tag.clone(),
            metadata: self.metadata.clone().into_iter().collect(),
            smtputf8: self.smtputf8,
            client_ip: self.client_ip.clone(),
            helo: self.helo.clone(),
            envelope_id: self.envelope_id.clone(),
            dsn_return: self.dsn_return.clone(),
            scheduled_at: self.scheduled_at.clone(),
            deadline_at: self.deadline_at.clone(),
            content_bytes,
            dry_run: false,
        })
    }
}
