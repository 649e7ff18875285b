//! What notices by mail (RFC 3464) have to know of a message, kept with it from its acceptance on.

use spool_format::{MessageRecord, field_tag};

use super::Event;

/// What a notice by mail (RFC 3464) has to know of message and recipient, as it was submitted. Empty where nothing applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dsn<'a> {
    /// The reverse-path; empty: no notices.
    pub to: &'a str,
    /// RFC 3461 §4.1.
    pub notify: &'a str,
    /// RFC 3461 §4.3: `FULL` or `HDRS`.
    pub ret: &'a str,
    /// RFC 3461 §4.4, in xtext.
    pub envelope_id: &'a str,
    /// RFC 3461 §4.2, in xtext.
    pub original_recipient: &'a str,
}

/// [`Dsn`] of a message and those of its recipients that its [`Subject`] has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notices {
    to: Box<str>,
    ret: Box<str>,
    envelope_id: Box<str>,
    /// Those that said something.
    recipients: Box<[Asked]>,
}

impl Notices {
    pub(super) fn of(
        record: &MessageRecord<'_>,
        wanted: impl Iterator<Item = u16>,
    ) -> Option<Box<Self>> {
        record.fields.find(field_tag::NOTICES)?;
        let field = |tag| record.fields.find_text(tag).unwrap_or_default().into();
        let recipients = wanted.filter_map(|number| {
            let recipient = record.recipients.get(usize::from(number))?;
            let field = |tag| recipient.fields.find_text(tag).unwrap_or_default().into();
            Some(Asked {
                number,
                notify: field(field_tag::DSN_NOTIFY),
                original: field(field_tag::DSN_ORCPT),
            })
        });
        Some(Box::new(Self {
            to: record.reverse_path.into(),
            ret: field(field_tag::DSN_RET),
            envelope_id: field(field_tag::DSN_ENVID),
            recipients: recipients.filter(Asked::is_something).collect(),
        }))
    }

    pub(super) fn of_events(events: &[Event<'_>]) -> Option<Box<Self>> {
        let first = events.first().filter(|event| !event.dsn.to.is_empty())?;
        let recipients = events.iter().map(|event| {
            let dsn = &event.dsn;
            Asked {
                number: event.recipient_number,
                notify: dsn.notify.into(),
                original: dsn.original_recipient.into(),
            }
        });
        Some(Box::new(Self {
            to: first.dsn.to.into(),
            ret: first.dsn.ret.into(),
            envelope_id: first.dsn.envelope_id.into(),
            recipients: recipients.filter(Asked::is_something).collect(),
        }))
    }

    pub(super) fn dsn(&self, number: u16) -> Dsn<'_> {
        let asked = self.recipients.iter().find(|r| r.number == number);
        let (notify, original_recipient) = asked.map_or(("", ""), |r| (&*r.notify, &*r.original));
        Dsn {
            to: &self.to,
            notify,
            ret: &self.ret,
            envelope_id: &self.envelope_id,
            original_recipient,
        }
    }
}

/// What RCPT said of notices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    number: u16,
    notify: Box<str>,
    original: Box<str>,
}

impl Asked {
    fn is_something(&self) -> bool {
        !self.notify.is_empty() || !self.original.is_empty()
    }
}
