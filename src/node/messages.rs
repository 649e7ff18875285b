//! Messages for agents, from the spool: envelope decoded, content as slices of the mapped segments where they are in memory.
//!
//! DKIM signatures are one more slice, in front; the spool keeps content unsigned. For a host without 8BITMIME content is
//! re-encoded first: what is signed is what leaves. A last line without its end gets one, which its signatures hold for: their
//! canonical form has it anyway.
//!
//! Content in its own records is shown to the check one record after the other, and read once more when it leaves: no more
//! than one of them is held for a transaction, however long the message and however slow the remote host.

use std::sync::Arc;

use bytes::Bytes;
use spool_format::layout::content;
use spool_format::message::StreamKind;
use spool_format::message::flags;
use spool_format::{Content as Stored, MessageRecord, field_tag};

use crate::deliver::{
    Content, Fetching, Form, Lane, LoadError, Loaded, Loading, MessageSource, NotRecoded, Outbound,
    OutboundRecipient, Pieces, Recoder, ReturnPaths, Signer, ToSign,
};
use crate::event::Subject;
use crate::limits;
use crate::mail::staged::TAKEN;
use crate::mail::{Act, DsnNotify, DsnRecipient, DsnReturn, NotSevenBit, Staged, TestDomains};
use crate::outcome::CauseClass;
use crate::queue::BatchRecipient;
use crate::spool::{Log, ReadError, Spool};

pub(super) struct SpoolMessages {
    pub(super) spool: Arc<Spool>,
    pub(super) signer: Signer,
    pub(super) tests: TestDomains,
    pub(super) return_paths: ReturnPaths,
    pub(super) recoder: Recoder,
}

impl MessageSource for SpoolMessages {
    fn load<'a>(
        &'a self,
        position: u64,
        recipients: &'a [BatchRecipient],
        form: Form,
    ) -> Loading<'a, Loaded> {
        Box::pin(async move {
            let payload = fetch(&self.spool.mail, position).await?;
            let damaged = |detail| damaged(position, detail);
            let record = MessageRecord::decode(&payload).map_err(|e| damaged(e.to_string()))?;
            let lane = match record.stream_kind {
                StreamKind::Broadcast => Lane::Broadcast,
                _ => Lane::Transactional,
            };
            let mut text = self.stored(position, &payload, &record).await?;
            let mut not_seven_bit = None;
            // What needs SMTPUTF8 cannot leave in seven bits, whatever becomes of its body.
            let utf8_header = record.flags & flags::SMTPUTF8 != 0;
            if form == Form::SevenBit && !text.content.is_ascii() && !utf8_header {
                match self.in_seven_bit(position, lane, &text).await? {
                    Ok(made) => text = made,
                    Err(why) => not_seven_bit = Some(why),
                }
            }
            let Text {
                mut content,
                beginning,
                to_sign,
                name,
            } = text;
            content.end_line();
            let keys = self.signer.keys_for(&beginning);
            if !keys.is_empty() {
                let fields = self.signer.sign(name, lane, keys, to_sign).await;
                content.prepend(fields.map_err(|detail| failed(position, detail))?);
            }
            let numbers = || recipients.iter().map(|r| r.number);
            let mut subject = Subject::of(&record, numbers());
            let mut mail = outbound(&record, recipients, content, &self.tests).map_err(damaged)?;
            mail.not_seven_bit = not_seven_bit;
            let submitted = record.reverse_path;
            let ours = (self.return_paths).of(&beginning, submitted, subject.id, numbers());
            if let Some(ours) = ours {
                subject.reverse_path = ours.as_str().into();
                mail.reverse_path = ours;
                ask_for_failures(&mut mail.recipients);
            }
            Ok(Loaded {
                mail,
                subject: Arc::new(subject),
            })
        })
    }

    fn subject<'a>(
        &'a self,
        position: u64,
        recipients: &'a [BatchRecipient],
    ) -> Loading<'a, Arc<Subject>> {
        Box::pin(async move {
            let payload = fetch(&self.spool.mail, position).await?;
            let record = MessageRecord::decode(&payload);
            let record = record.map_err(|e| damaged(position, e.to_string()))?;
            let numbers = recipients.iter().map(|r| r.number);
            Ok(Arc::new(Subject::of(&record, numbers)))
        })
    }
}

/// Content on its way to a signature.
struct Text {
    content: Content,
    /// The whole header section at least.
    beginning: Bytes,
    to_sign: ToSign,
    /// Of its signature: the same for the same octets.
    name: u64,
}

impl SpoolMessages {
    /// The content as it was accepted.
    async fn stored(
        &self,
        position: u64,
        payload: &Bytes,
        record: &MessageRecord<'_>,
    ) -> Result<Text, LoadError> {
        let parts = match &record.content {
            Stored::Inline(octets) => {
                let octets = payload.slice_ref(octets);
                return Ok(Text {
                    content: vec![octets.clone()].into(),
                    beginning: octets.clone(),
                    to_sign: ToSign::Whole(octets),
                    name: position,
                });
            }
            Stored::Records(parts) => parts,
        };
        let log = &self.spool.mail;
        let source = Arc::new(Parts(log.clone()));
        let mut content = Content::of(source.clone());
        let mut beginning = Vec::new();
        for part in parts.iter() {
            let octets = octets_of(&fetch(log, part.position).await?);
            if octets.len() != part.len as usize {
                let detail = "content has another length than its message says";
                let detail = format!("{detail}: at {}", part.position);
                return Err(damaged(position, detail));
            }
            // The header section with what was put in front of it; longer than a part where segments are small.
            let wanted = (2 * limits::HEADER_SECTION_MAX).saturating_sub(beginning.len());
            beginning.extend_from_slice(&octets[..wanted.min(octets.len())]);
            content.push_later(part.position, &octets);
            // A megabyte was looked at: others first.
            tokio::task::yield_now().await;
        }
        let names = parts.iter().map(|part| part.position);
        Ok(Text {
            content,
            beginning: beginning.into(),
            to_sign: ToSign::Pieces(source, names.collect()),
            name: position,
        })
    }

    /// The same for a host without 8BITMIME, or why there is none.
    async fn in_seven_bit(
        &self,
        position: u64,
        lane: Lane,
        text: &Text,
    ) -> Result<Result<Text, NotSevenBit>, LoadError> {
        let made = async {
            let length = text.content.len();
            let room = self.recoder.room(length).await?;
            let whole = match &text.to_sign {
                ToSign::Whole(octets) => octets.clone(),
                ToSign::Pieces(source, names) => {
                    let mut whole = Vec::with_capacity(length as usize);
                    for &name in names {
                        let piece = source.fetch(name).await.map_err(NotRecoded::Busy)?;
                        whole.extend_from_slice(&piece);
                    }
                    whole.into()
                }
            };
            room.recode(&self.signer, lane, whole).await
        };
        match made.await {
            Ok(made) => Ok(Ok(Text {
                content: vec![made.clone()].into(),
                beginning: made.clone(),
                to_sign: ToSign::Whole(made),
                name: position | SEVEN_BIT,
            })),
            Err(NotRecoded::Never(why)) => Ok(Err(why)),
            Err(NotRecoded::Busy(detail)) => Err(failed(position, detail)),
        }
    }
}

/// Records lie at multiples of eight (FORMAT.md), so this names another form of the same message.
const SEVEN_BIT: u64 = 1;
const _: () = assert!(spool_format::layout::ALIGNMENT > 1);

async fn fetch(log: &Log, position: u64) -> Result<Bytes, LoadError> {
    let read = log.fetch(position).await;
    let payload = read.map(|record| record.payload);
    payload.map_err(|error| LoadError {
        position,
        class: match error {
            ReadError::Busy | ReadError::NotDurable(_) => CauseClass::LocalSystem,
            ReadError::NotRetained(_) | ReadError::Damaged { .. } | ReadError::Io { .. } => {
                CauseClass::Damaged
            }
        },
        detail: error.to_string(),
    })
}

/// Not now.
fn failed(position: u64, detail: String) -> LoadError {
    LoadError {
        position,
        class: CauseClass::LocalSystem,
        detail,
    }
}

fn damaged(position: u64, detail: String) -> LoadError {
    LoadError {
        position,
        class: CauseClass::Damaged,
        detail,
    }
}

/// Content records, by position.
struct Parts(Log);

impl Pieces for Parts {
    fn fetch(&self, name: u64) -> Fetching {
        let log = self.0.clone();
        Box::pin(async move {
            let payload = fetch(&log, name).await.map_err(|error| error.to_string())?;
            Ok(octets_of(&payload))
        })
    }
}

fn octets_of(payload: &Bytes) -> Bytes {
    payload.slice(content::OCTETS.min(payload.len())..)
}

fn outbound(
    record: &MessageRecord<'_>,
    recipients: &[BatchRecipient],
    content: Content,
    tests: &TestDomains,
) -> Result<Outbound, String> {
    let asked = record.fields.find_text(field_tag::BOUNCE_TYPE);
    let wanted = recipients.iter().map(|wanted| {
        let found = record.recipients.get(usize::from(wanted.number));
        let found = found.ok_or_else(|| format!("it has no recipient {}", wanted.number))?;
        let notify = found.fields.find_text(field_tag::DSN_NOTIFY);
        let original = found.fields.find_text(field_tag::DSN_ORCPT);
        Ok(OutboundRecipient {
            number: wanted.number,
            forward_path: match tests.staged(found.forward_path, asked) {
                Some(staged) => on_stage(staged, found.domain, wanted.attempts),
                None => found.forward_path.to_owned(),
            },
            dsn: DsnRecipient {
                notify: notify.map(notify_of),
                original_recipient: original.map(str::to_owned),
            },
        })
    });
    let field = |tag| record.fields.find_text(tag);
    Ok(Outbound {
        reverse_path: record.reverse_path.to_owned(),
        recipients: wanted.collect::<Result<_, String>>()?,
        content,
        eight_bit: record.flags & flags::EIGHT_BIT != 0,
        not_seven_bit: None,
        smtputf8: record.flags & flags::SMTPUTF8 != 0,
        envelope_id: field(field_tag::DSN_ENVID).map(str::to_owned),
        ret: field(field_tag::DSN_RET).and_then(return_of),
    })
}

/// Where reports come to us we are who sends (RFC 3461 §5.2.7.1 has the same of a list): what we need of them is failures, and
/// what the sender wants to hear he hears from us.
fn ask_for_failures(recipients: &mut [OutboundRecipient]) {
    for recipient in recipients {
        recipient.dsn.notify = recipient.dsn.notify.map(|_| DsnNotify {
            failure: true,
            ..DsnNotify::NEVER
        });
    }
}

/// A test address as the built-in sink knows it, whatever the message asks for it by.
fn on_stage(staged: &Staged, domain: &str, attempts: u16) -> String {
    let name = match staged.act {
        Act::Delay if attempts > 0 => TAKEN.name,
        _ => staged.name,
    };
    format!("{name}@{domain}")
}

/// RFC 3461 §4.1, as acceptance wrote it.
pub(super) fn notify_of(text: &str) -> DsnNotify {
    let has = |word| text.split(',').any(|w| w == word);
    DsnNotify {
        success: has("SUCCESS"),
        failure: has("FAILURE"),
        delay: has("DELAY"),
    }
}

/// RFC 3461 §4.3.
pub(super) fn return_of(text: &str) -> Option<DsnReturn> {
    match text {
        "FULL" => Some(DsnReturn::Full),
        "HDRS" => Some(DsnReturn::Headers),
        _ => None,
    }
}
