//! The message record (FORMAT.md §5.3): the envelope, what inspection needs without any other store, and the content.
//!
//! The content is the last thing in the payload, so a writer appends it where it will stay: [`MessageRecord::encode_head`]
//! gives everything before it. Decoding walks the tables once to check them and allocates nothing, which makes it fit
//! for a million records at recovery; [`MessageRecord::inline_range`] finds the content without walking anything.

use std::ops::Range;

use crate::RecordError;
use crate::bytes::{Reader, len16, len32, u32_at, u64_at};
use crate::layout::{content_form, content_part, message, recipient};
use crate::list::{Entry, EntryReader, Fields, List};

pub use crate::layout::message_flag as flags;

/// The kind of a message stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    Transactional = 1,
    Broadcast = 2,
    Inbound = 3,
}

impl StreamKind {
    /// The word in configuration, events and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::Broadcast => "broadcast",
            Self::Inbound => "inbound",
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Result<Self, RecordError> {
        match byte {
            1 => Ok(Self::Transactional),
            2 => Ok(Self::Broadcast),
            3 => Ok(Self::Inbound),
            _ => Err(RecordError::Unknown("stream kind")),
        }
    }

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Transactional => 1,
            Self::Broadcast => 2,
            Self::Inbound => 3,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRecord<'a> {
    /// The UUIDv7.
    pub id: [u8; 16],
    pub accepted_unix_ms: u64,
    pub server_id: u32,
    pub server_name: &'a str,
    pub stream_id: &'a str,
    pub stream_kind: StreamKind,
    pub pool: &'a str,
    /// Empty: the null reverse-path.
    pub reverse_path: &'a str,
    pub recipients: List<'a, Recipient<'a>>,
    /// Never `Some("")` after decoding: an empty tag is none.
    pub tag: Option<&'a str>,
    pub metadata: List<'a, (&'a str, &'a str)>,
    /// Of [`flags`].
    pub flags: u32,
    /// Octets of the content's header section, with the empty line that ends it.
    pub header_len: u32,
    pub fields: Fields<'a>,
    pub content: Content<'a>,
}

/// A forward-path, in order of RCPT. Its number is its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    pub forward_path: &'a str,
    /// Normalised A-label form: the queue's key.
    pub domain: &'a str,
    pub fields: Fields<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    Inline(&'a [u8]),
    /// In content records of the same log, in this order.
    Records(List<'a, ContentPart>),
}

/// One content record of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentPart {
    pub position: u64,
    /// Content octets in it.
    pub len: u32,
}

impl<'a> Content<'a> {
    /// Octets of the content.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(octets) => octets.len() as u64,
            Self::Records(parts) => parts.iter().map(|part| u64::from(part.len)).sum(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn form(&self) -> u8 {
        match self {
            Self::Inline(_) => content_form::INLINE,
            Self::Records(_) => content_form::RECORDS,
        }
    }
}

impl<'a> MessageRecord<'a> {
    /// Length of what [`encode_head`](Self::encode_head) appends.
    pub fn head_len(&self) -> usize {
        let texts = [
            self.server_name,
            self.stream_id,
            self.pool,
            self.reverse_path,
            self.tag.unwrap_or_default(),
        ];
        let parts = match &self.content {
            Content::Inline(_) => 0,
            Content::Records(parts) => parts.encoded_len(),
        };
        message::VARIABLE
            + texts.iter().map(|text| text.len()).sum::<usize>()
            + self.recipients.encoded_len()
            + self.metadata.encoded_len()
            + self.fields.encoded_len()
            + parts
    }

    /// Appends the payload without the inline content, which must follow.
    /// # Errors
    /// [`RecordError::TooLong`] or [`RecordError::Mismatch`] where the record cannot be expressed; `out` is then of no use.
    pub fn encode_head(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        self.encode_head_for(self.content.len(), out)
    }

    /// [`encode_head`](Self::encode_head) for inline content of `content_len` octets that is not at hand in one piece:
    /// whatever `content` holds, the caller writes that many octets behind the head.
    /// # Errors
    /// As `encode_head`.
    pub fn encode_head_for(&self, content_len: u64, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let tag = self.tag.unwrap_or_default();
        if u64::from(self.header_len) > content_len {
            return Err(RecordError::Mismatch("header length"));
        }
        out.reserve(self.head_len());
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.accepted_unix_ms.to_le_bytes());
        out.extend_from_slice(&content_len.to_le_bytes());
        out.extend_from_slice(&self.server_id.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.header_len.to_le_bytes());
        out.extend_from_slice(&len16(self.recipients.len(), "recipient table")?.to_le_bytes());
        out.extend_from_slice(&[self.stream_kind.byte(), self.content.form()]);
        out.extend_from_slice(&len16(self.server_name.len(), "server name")?.to_le_bytes());
        out.extend_from_slice(&len16(self.stream_id.len(), "stream id")?.to_le_bytes());
        out.extend_from_slice(&len16(self.pool.len(), "pool")?.to_le_bytes());
        out.extend_from_slice(&len16(self.reverse_path.len(), "reverse-path")?.to_le_bytes());
        out.extend_from_slice(&len16(tag.len(), "tag")?.to_le_bytes());
        out.extend_from_slice(&[0; message::RECIPIENTS_LEN - message::RESERVED]);
        out.extend_from_slice(
            &len32(self.recipients.encoded_len(), "recipient table")?.to_le_bytes(),
        );
        out.extend_from_slice(&len32(self.metadata.encoded_len(), "metadata")?.to_le_bytes());
        out.extend_from_slice(&len32(self.fields.encoded_len(), "fields")?.to_le_bytes());
        for text in [
            self.server_name,
            self.stream_id,
            self.pool,
            self.reverse_path,
            tag,
        ] {
            out.extend_from_slice(text.as_bytes());
        }
        self.recipients.encode(out)?;
        self.metadata.encode(out)?;
        self.fields.encode(out)?;
        match &self.content {
            Content::Inline(_) => Ok(()),
            Content::Records(parts) => parts.encode(out),
        }
    }

    pub fn decode(payload: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(payload);
        let id = reader.bytes16("id")?;
        let accepted_unix_ms = reader.u64("time")?;
        let content_len = reader.u64("content length")?;
        let server_id = reader.u32("server id")?;
        let flags = reader.u32("flags")?;
        let header_len = reader.u32("header length")?;
        let recipient_count = reader.u16("recipients")?;
        let stream_kind = StreamKind::from_byte(reader.u8("stream kind")?)?;
        let form = reader.u8("content form")?;
        let server_name_len = reader.u16("server name")?;
        let stream_id_len = reader.u16("stream id")?;
        let pool_len = reader.u16("pool")?;
        let reverse_path_len = reader.u16("reverse-path")?;
        let tag_len = reader.u16("tag")?;
        reader.u16("reserved bytes")?;
        let recipients_len = reader.len32("recipient table")?;
        let metadata_len = reader.len32("metadata")?;
        let fields_len = reader.len32("fields")?;
        let server_name = reader.text(server_name_len.into(), "server name")?;
        let stream_id = reader.text(stream_id_len.into(), "stream id")?;
        let pool = reader.text(pool_len.into(), "pool")?;
        let reverse_path = reader.text(reverse_path_len.into(), "reverse-path")?;
        let tag = Some(reader.text(tag_len.into(), "tag")?).filter(|tag| !tag.is_empty());
        let recipients = List::parse(reader.take(recipients_len, "recipient table")?)?;
        if recipients.len() != usize::from(recipient_count) {
            return Err(RecordError::Mismatch("recipient count"));
        }
        let metadata = List::parse(reader.take(metadata_len, "metadata")?)?;
        let fields = List::parse(reader.take(fields_len, "fields")?)?;
        let content = match form {
            content_form::INLINE => Content::Inline(reader.rest()),
            content_form::RECORDS => Content::Records(List::parse(reader.rest())?),
            _ => return Err(RecordError::Unknown("content form")),
        };
        if content.len() != content_len {
            return Err(RecordError::Mismatch("content length"));
        }
        if u64::from(header_len) > content_len {
            return Err(RecordError::Mismatch("header length"));
        }
        Ok(Self {
            id,
            accepted_unix_ms,
            server_id,
            server_name,
            stream_id,
            stream_kind,
            pool,
            reverse_path,
            recipients,
            tag,
            metadata,
            flags,
            header_len,
            fields,
            content,
        })
    }

    /// Where the content lies in `payload`, from the lengths alone; `None` where it is in content records.
    pub fn inline_range(payload: &[u8]) -> Result<Option<Range<usize>>, RecordError> {
        let mut lengths = Reader::new(
            payload
                .get(message::SERVER_NAME_LEN..message::VARIABLE)
                .ok_or(RecordError::Short("lengths"))?,
        );
        let mut start = message::VARIABLE;
        for what in ["server name", "stream id", "pool", "reverse-path", "tag"] {
            start += usize::from(lengths.u16(what)?);
        }
        lengths.u16("reserved bytes")?;
        for what in ["recipient table", "metadata", "fields"] {
            start = start
                .checked_add(lengths.len32(what)?)
                .ok_or(RecordError::Short(what))?;
        }
        match payload.get(message::CONTENT_FORM) {
            Some(&content_form::INLINE) => {}
            Some(&content_form::RECORDS) => return Ok(None),
            _ => return Err(RecordError::Unknown("content form")),
        }
        let content_len = payload
            .len()
            .checked_sub(start)
            .ok_or(RecordError::Short("content"))?;
        if u64_at(payload, message::CONTENT_LEN) != Some(content_len as u64) {
            return Err(RecordError::Mismatch("content length"));
        }
        let header_len = u32_at(payload, message::HEADER_LEN).unwrap_or_default();
        if u64::from(header_len) > content_len as u64 {
            return Err(RecordError::Mismatch("header length"));
        }
        Ok(Some(start..payload.len()))
    }
}

impl<'a> Entry<'a> for Recipient<'a> {
    fn take(reader: &mut EntryReader<'a>) -> Result<Self, RecordError> {
        let forward_path_len = reader.0.u16("recipient")?;
        let domain_len = reader.0.u16("recipient")?;
        let fields_len = reader.0.len32("recipient")?;
        Ok(Self {
            forward_path: reader.0.text(forward_path_len.into(), "forward-path")?,
            domain: reader.0.text(domain_len.into(), "domain")?,
            fields: List::parse(reader.0.take(fields_len, "recipient fields")?)?,
        })
    }

    fn encoded_len(&self) -> usize {
        let texts = self.forward_path.len() + self.domain.len();
        recipient::VARIABLE + texts + self.fields.encoded_len()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        out.extend_from_slice(&len16(self.forward_path.len(), "forward-path")?.to_le_bytes());
        out.extend_from_slice(&len16(self.domain.len(), "domain")?.to_le_bytes());
        let fields_len = len32(self.fields.encoded_len(), "recipient fields")?;
        out.extend_from_slice(&fields_len.to_le_bytes());
        out.extend_from_slice(self.forward_path.as_bytes());
        out.extend_from_slice(self.domain.as_bytes());
        self.fields.encode(out)
    }
}

impl<'a> Entry<'a> for ContentPart {
    fn take(reader: &mut EntryReader<'a>) -> Result<Self, RecordError> {
        Ok(Self {
            position: reader.0.u64("content part")?,
            len: reader.0.u32("content part")?,
        })
    }

    fn encoded_len(&self) -> usize {
        content_part::SIZE
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        Ok(())
    }
}
