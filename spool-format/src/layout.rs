//! Every offset, length and number of the format (FORMAT.md; `tests/spec.rs` compares the two).
//!
//! All integers are little-endian. Each constant derives from the one before it, so that a field cannot be moved
//! without moving what follows; unused bytes have a name.

/// Unit of a write: batches begin at a multiple of it, so a synced page is never written again.
pub const PAGE: usize = 4096;
/// [`PAGE`] as an offset in a segment.
pub const PAGE_OFFSET: u64 = 4096;
/// Records begin at a multiple of it.
pub const ALIGNMENT: usize = 8;
/// The version this crate writes. It reads all from 1 on.
pub const VERSION: u16 = 1;
/// The first bytes of a segment. Not text, and broken by every transfer that thinks it is.
pub const MAGIC: [u8; 8] = *b"\x89PHS\r\n\x1a\n";
/// The first bytes of a checkpoint.
pub const CHECKPOINT_MAGIC: [u8; 8] = *b"\x89PHC\r\n\x1a\n";
/// A segment holds at least a header page, two pages of records and the page of the sealing commit record.
pub const SEGMENT_SIZE_MIN: u64 = 4 * PAGE_OFFSET;
pub const SEGMENT_SIZE_MAX: u64 = 1 << 30;
/// Positions stay below it: they are exact in a JSON number.
pub const POSITION_MAX: u64 = 1 << 53;
/// Content of a message up to this length is part of its message record.
pub const CONTENT_INLINE_MAX: usize = 1 << 20;
/// Content octets in one content record at most.
pub const CONTENT_PART_MAX: usize = 1 << 20;

/// Segment header, FORMAT.md §3. The page holds it twice, at 0 and at [`header::COPY`].
pub mod header {
    pub const MAGIC: usize = 0; // 8 bytes
    pub const VERSION: usize = MAGIC + 8; // u16
    pub const LOG_KIND: usize = VERSION + 2; // u8
    pub const RESERVED_1: usize = LOG_KIND + 1; // 1 byte, zero
    pub const CRC: usize = RESERVED_1 + 1; // u32, CRC32C of this copy without these four bytes
    pub const NUMBER: usize = CRC + 4; // u64
    pub const FIRST_POSITION: usize = NUMBER + 8; // u64
    pub const SIZE: usize = FIRST_POSITION + 8; // u64
    pub const EPOCH: usize = SIZE + 8; // u64
    pub const CREATED_UNIX_MS: usize = EPOCH + 8; // u64
    pub const PREVIOUS_END: usize = CREATED_UNIX_MS + 8; // u64
    pub const SALT: usize = PREVIOUS_END + 8; // 16 bytes
    pub const FEATURES: usize = SALT + 16; // u32, zero; a reader refuses bits that it does not know
    pub const RESERVED_2: usize = FEATURES + 4; // zero, to the end of the copy
    pub const COPY: usize = 2048; // where the second copy begins, length of each
}
const _: () = assert!(header::RESERVED_2 <= header::COPY);
const _: () = assert!(2 * header::COPY == PAGE);

/// Record header, FORMAT.md §4. `LEN` is stored last, with release ordering.
pub mod record {
    pub const LEN: usize = 0; // u32, whole record in bytes, before padding
    pub const CRC: usize = LEN + 4; // u32, CRC32C seeded with salt, segment number and offset
    pub const KIND: usize = CRC + 4; // u8
    pub const FLAGS: usize = KIND + 1; // u8
    pub const RESERVED: usize = FLAGS + 1; // 6 bytes, zero
    pub const PAYLOAD: usize = RESERVED + 6;
}
const _: () = assert!(record::PAYLOAD.is_multiple_of(ALIGNMENT));
/// Length of the record header.
pub const RECORD_HEADER: usize = record::PAYLOAD;
/// The one record shorter than a header: padding of eight bytes, which is `LEN` and `CRC` alone.
pub const SHORT_PADDING: usize = record::KIND;
const _: () = assert!(SHORT_PADDING == ALIGNMENT);

/// Kinds of record, FORMAT.md §5. Others are kept and skipped.
pub mod kind {
    pub const PADDING: u8 = 1;
    pub const COMMIT: u8 = 2;
    pub const MESSAGE: u8 = 3;
    pub const CONTENT: u8 = 4;
    pub const EVENT: u8 = 5;
    pub const ERASED: u8 = 6;
    pub const VOID: u8 = 7;
    /// Reserved, and not needed: digests of sealed segments are in a file (FORMAT.md §14).
    pub const DIGEST: u8 = 8;
    /// Reserved: a body that several message records share.
    pub const BODY: u8 = 9;
}

/// Flags of the record header.
pub mod record_flag {
    /// On a commit record: it is the segment's last.
    pub const SEAL: u8 = 1;
    /// On message and content records: a copy of an earlier record of the same message, which it replaces.
    pub const MOVED: u8 = 1 << 1;
}

/// Payload of a commit record, FORMAT.md §5.2.
pub mod commit {
    pub const FROM: usize = 0; // u64, offset of the batch's first byte
    pub const TO: usize = FROM + 8; // u64, offset of this record
    pub const RUNNING_HASH: usize = TO + 8; // u64
    pub const MARK: usize = RUNNING_HASH + 8; // 8 bytes, the last of the salt
    pub const COUNT: usize = MARK + 8; // u32, records in the batch
    pub const RESERVED: usize = COUNT + 4; // 4 bytes, zero
    pub const LEN: usize = RESERVED + 4;
}
/// A whole commit record.
pub const COMMIT_RECORD_LEN: usize = RECORD_HEADER + commit::LEN;
const _: () = assert!(COMMIT_RECORD_LEN.is_multiple_of(ALIGNMENT));
const _: () = assert!(COMMIT_RECORD_LEN <= PAGE);

/// Payload of a message record, FORMAT.md §5.3: this, then the texts and tables in the order of their lengths, then the content.
pub mod message {
    pub const ID: usize = 0; // 16 bytes
    pub const ACCEPTED_UNIX_MS: usize = ID + 16; // u64
    pub const CONTENT_LEN: usize = ACCEPTED_UNIX_MS + 8; // u64
    pub const SERVER_ID: usize = CONTENT_LEN + 8; // u32
    pub const FLAGS: usize = SERVER_ID + 4; // u32
    pub const HEADER_LEN: usize = FLAGS + 4; // u32
    pub const RECIPIENTS: usize = HEADER_LEN + 4; // u16, how many
    pub const STREAM_KIND: usize = RECIPIENTS + 2; // u8
    pub const CONTENT_FORM: usize = STREAM_KIND + 1; // u8
    pub const SERVER_NAME_LEN: usize = CONTENT_FORM + 1; // u16
    pub const STREAM_ID_LEN: usize = SERVER_NAME_LEN + 2; // u16
    pub const POOL_LEN: usize = STREAM_ID_LEN + 2; // u16
    pub const REVERSE_PATH_LEN: usize = POOL_LEN + 2; // u16
    pub const TAG_LEN: usize = REVERSE_PATH_LEN + 2; // u16, 0: no tag
    pub const RESERVED: usize = TAG_LEN + 2; // 2 bytes, zero
    pub const RECIPIENTS_LEN: usize = RESERVED + 2; // u32, bytes
    pub const METADATA_LEN: usize = RECIPIENTS_LEN + 4; // u32, bytes
    pub const FIELDS_LEN: usize = METADATA_LEN + 4; // u32, bytes
    pub const VARIABLE: usize = FIELDS_LEN + 4;
}

/// `message::CONTENT_FORM`.
pub mod content_form {
    pub const INLINE: u8 = 1;
    pub const RECORDS: u8 = 2;
    /// Reserved: a shared body with an overlay.
    pub const OVERLAY: u8 = 3;
}

/// `message::FLAGS`.
pub mod message_flag {
    /// The client declared `BODY=8BITMIME`, or the content has octets above 127.
    pub const EIGHT_BIT: u32 = 1;
    /// The envelope or the header section needs RFC 6531.
    pub const SMTPUTF8: u32 = 1 << 1;
    /// Reserved: the content is encrypted with a key of its stream, named by `field_tag::KEY_ID`.
    pub const ENCRYPTED: u32 = 1 << 16;
}

/// An entry of the recipient table: this, then forward-path, domain, fields.
pub mod recipient {
    pub const FORWARD_PATH_LEN: usize = 0; // u16
    pub const DOMAIN_LEN: usize = FORWARD_PATH_LEN + 2; // u16
    pub const FIELDS_LEN: usize = DOMAIN_LEN + 2; // u32
    pub const VARIABLE: usize = FIELDS_LEN + 4;
}

/// An entry of the metadata table: this, then key, value.
pub mod metadata {
    pub const KEY_LEN: usize = 0; // u16
    pub const VALUE_LEN: usize = KEY_LEN + 2; // u16
    pub const VARIABLE: usize = VALUE_LEN + 2;
}

/// A typed optional field: this, then its bytes. Unknown tags are kept and ignored.
pub mod field {
    pub const TAG: usize = 0; // u16
    pub const LEN: usize = TAG + 2; // u32
    pub const BYTES: usize = LEN + 4;
}

/// An entry of the table of content records.
pub mod content_part {
    pub const POSITION: usize = 0; // u64, of the content record
    pub const LEN: usize = POSITION + 8; // u32, content octets in it
    pub const SIZE: usize = LEN + 4;
}

/// Payload of a content record, FORMAT.md §5.4: this, then the octets.
pub mod content {
    pub const MESSAGE_ID: usize = 0; // 16 bytes
    pub const NUMBER: usize = MESSAGE_ID + 16; // u32, 0 for the first of the message
    pub const RESERVED: usize = NUMBER + 4; // 4 bytes, zero
    pub const OCTETS: usize = RESERVED + 4;
}

/// Payload of an event record, FORMAT.md §5.5: this, then fields to the end.
pub mod event {
    pub const KIND: usize = 0; // u16
    pub const RECIPIENT_NUMBER: usize = KIND + 2; // u16
    pub const RESERVED: usize = RECIPIENT_NUMBER + 2; // 4 bytes, zero
    pub const AT_UNIX_MS: usize = RESERVED + 4; // u64
    pub const MESSAGE_ID: usize = AT_UNIX_MS + 8; // 16 bytes
    pub const FIELDS: usize = MESSAGE_ID + 16;
}

/// Payload of an erased record, FORMAT.md §5.6: this, then zeros up to the old length.
pub mod erased {
    pub const CRC: usize = 0; // u32, of the record as first written
    pub const KIND: usize = CRC + 4; // u8, of the record as first written
    pub const RESERVED: usize = KIND + 1; // 3 bytes, zero
    pub const DIGEST: usize = RESERVED + 3; // 32 bytes, of the record as first written, or zeros
    pub const FIXED: usize = DIGEST + 32; // what every payload of the old kind begins with, at most FIXED_MAX
}
/// Length of the part of a payload that an erased record keeps, by the kind of the record as first written: what has a
/// fixed place, which names nobody. `None`: records of this kind are not erased.
pub const fn fixed_len(record_kind: u8) -> Option<usize> {
    match record_kind {
        kind::MESSAGE => Some(message::VARIABLE),
        kind::CONTENT => Some(content::OCTETS),
        kind::EVENT => Some(event::FIELDS),
        _ => None,
    }
}
/// The longest of them.
pub const FIXED_MAX: usize = message::VARIABLE;
/// The shortest payload of this kind that can be erased: writers make none shorter (FORMAT.md §5.6).
pub const fn erasable_len(record_kind: u8) -> Option<usize> {
    match fixed_len(record_kind) {
        Some(len) => Some(erased::FIXED + len),
        None => None,
    }
}

/// Payload of a void record, FORMAT.md §5.7.
pub mod void {
    pub const FROM: usize = 0; // u64, position
    pub const TO: usize = FROM + 8; // u64, position
    pub const LEN: usize = TO + 8;
}

/// Header of a checkpoint, FORMAT.md §10.1.
pub mod checkpoint {
    pub const MAGIC: usize = 0; // 8 bytes
    pub const VERSION: usize = MAGIC + 8; // u16
    pub const FORM: usize = VERSION + 2; // u8
    pub const RESERVED_1: usize = FORM + 1; // 1 byte, zero
    pub const CRC: usize = RESERVED_1 + 1; // u32, CRC32C of the header without these four bytes
    pub const NUMBER: usize = CRC + 4; // u64
    pub const BASE: usize = NUMBER + 8; // u64
    pub const MAIL_FROM: usize = BASE + 8; // u64, position
    pub const MAIL_TO: usize = MAIL_FROM + 8; // u64, position
    pub const EVENT_TO: usize = MAIL_TO + 8; // u64, position
    pub const CREATED_UNIX_MS: usize = EVENT_TO + 8; // u64
    pub const SALT: usize = CREATED_UNIX_MS + 8; // 16 bytes
    pub const FEATURES: usize = SALT + 16; // u32, zero; a reader refuses bits that it does not know
    pub const RESERVED_2: usize = FEATURES + 4; // zero
    pub const LEN: usize = 128;
}
const _: () = assert!(checkpoint::RESERVED_2 <= checkpoint::LEN);

/// A block of a checkpoint, FORMAT.md §10.2.
pub mod checkpoint_block {
    pub const LEN: usize = 0; // u32, of the payload
    pub const CRC: usize = LEN + 4; // u32
    pub const KIND: usize = CRC + 4; // u8
    pub const RESERVED: usize = KIND + 1; // 7 bytes, zero
    pub const PAYLOAD: usize = RESERVED + 7;
}

/// `checkpoint::FORM`.
pub mod checkpoint_form {
    pub const BASE: u8 = 1;
    pub const DELTA: u8 = 2;
}

/// `checkpoint_block::KIND`.
pub mod checkpoint_block_kind {
    pub const GAPS: u8 = 1;
    pub const ENTRIES: u8 = 2;
    pub const END: u8 = 3;
}

/// The first byte of an entry of a checkpoint, FORMAT.md §10.4.
pub mod entry_flag {
    pub const COPY: u8 = 1;
    pub const PARTS: u8 = 1 << 1;
    pub const MANY: u8 = 1 << 2;
    pub const NEW_ORIGIN: u8 = 1 << 3;
    pub const DEADLINE: u8 = 1 << 4;
    pub const SCHEDULE: u8 = 1 << 5;
    pub const TAGGED: u8 = 1 << 6;
    pub const UNTAGGED: u8 = 1 << 7;
}

/// The low bits of an entry's word about a recipient, FORMAT.md §10.4.
pub mod live_flag {
    pub const NEW_DOMAIN: u64 = 1;
    pub const UNANNOUNCED: u64 = 1 << 1;
    pub const REFUSED: u64 = 1 << 2;
    pub const TRIED: u64 = 1 << 3;
}

/// Tags of fields in message records and their recipients, FORMAT.md §6.1.
pub mod field_tag {
    /// RFC 3461 §4.4, xtext as given.
    pub const DSN_ENVID: u16 = 1;
    /// RFC 3461 §4.3: `FULL` or `HDRS`.
    pub const DSN_RET: u16 = 2;
    /// RFC 3461 §4.1, of a recipient: `NEVER` or a list.
    pub const DSN_NOTIFY: u16 = 3;
    /// RFC 3461 §4.2, of a recipient, xtext as given.
    pub const DSN_ORCPT: u16 = 4;
    /// u64, Unix milliseconds: expires then.
    pub const DEADLINE: u16 = 5;
    /// u64, Unix milliseconds: not before then.
    pub const SCHEDULE: u16 = 6;
    /// Hash of the key (16 octets), hash of what must be the same (16), then what the client was told where that is not the usual.
    pub const IDEMPOTENCY_KEY: u16 = 7;
    /// `7BIT`, `8BITMIME` or `BINARYMIME`.
    pub const BODY_TYPE: u16 = 8;
    /// Address of the client that submitted, as text.
    pub const CLIENT_IP: u16 = 9;
    pub const HELO: u16 = 10;
    /// RFC 3848 `with` protocol of the submission.
    pub const PROTOCOL: u16 = 11;
    /// The credential that was used, in a form fit for logs.
    pub const CREDENTIAL: u16 = 12;
    /// Of a recipient: refused at acceptance, to be bounced with this cause.
    pub const REFUSED: u16 = 13;
    /// Reserved: the key that the content is encrypted with.
    pub const KEY_ID: u16 = 14;
    /// Means nothing.
    pub const PADDING: u16 = 15;
    /// u64, Unix milliseconds: this node took the message over from another one, which had accepted it.
    pub const IMPORTED: u16 = 16;
    /// One octet, 1 or 0: whether opens are tracked, as the message says, or else its server said when it was accepted.
    pub const TRACK_OPENS: u16 = 17;
    /// `None`, `HtmlAndText`, `HtmlOnly` or `TextOnly`: links, likewise.
    pub const TRACK_LINKS: u16 = 18;
    /// What is to become of recipients at test addresses: a bounce type of Postmark's.
    pub const BOUNCE_TYPE: u16 = 19;
    /// One octet, 1: what becomes of the message is told to its reverse-path by mail (RFC 3464).
    pub const NOTICES: u16 = 24;
    /// Of such a notice: positions of the events that it tells of, u64 each.
    pub const NOTICE_OF: u16 = 25;
}

/// Kinds of event, FORMAT.md §6.2. Others are kept and skipped.
pub mod event_kind {
    pub const ACCEPTED: u16 = 1;
    pub const DEFERRED: u16 = 2;
    pub const AMBIGUOUS: u16 = 3;
    pub const DELIVERED: u16 = 4;
    pub const BOUNCED: u16 = 5;
    pub const EXPIRED: u16 = 6;
    pub const CANCELLED: u16 = 7;
    pub const SUPPRESSED: u16 = 8;
    pub const UNSUPPRESSED: u16 = 9;
    pub const BOUNCED_LATER: u16 = 10;
    pub const COMPLAINED: u16 = 11;
    pub const OPENED: u16 = 12;
    pub const CLICKED: u16 = 13;
    /// Of no message, as the next.
    pub const SOURCE_STOPPED: u16 = 14;
    pub const SOURCE_RESUMED: u16 = 15;
    pub const SUSPENDED: u16 = 16;
    pub const REROUTED: u16 = 17;
    pub const RESUMED: u16 = 18;
    pub const RETRIED: u16 = 19;
    /// Before the release.
    pub const RESCHEDULED: u16 = 20;
    /// Of a domain's key, as the next two.
    pub const DKIM_ACTIVATED: u16 = 21;
    pub const DKIM_PAUSED: u16 = 22;
    pub const DKIM_RESUMED: u16 = 23;
    /// A check found something else than the one before; of a domain of From, of a source.
    pub const DOMAIN_CHANGED: u16 = 24;
    pub const SOURCE_CHANGED: u16 = 25;
    /// Mail for postmaster or abuse; of no message.
    pub const PEOPLE_MAIL: u16 = 30;
}

/// Tags of fields in event records, FORMAT.md §6.3.
pub mod event_field {
    /// The forward-path.
    pub const RECIPIENT: u16 = 1;
    /// u32.
    pub const SERVER_ID: u16 = 2;
    pub const SERVER: u16 = 3;
    pub const STREAM: u16 = 4;
    /// Name of the egress source.
    pub const SOURCE: u16 = 5;
    pub const REMOTE_HOST: u16 = 6;
    /// The reply, its lines separated by LF.
    pub const REPLY: u16 = 7;
    /// The cause's class.
    pub const CAUSE: u16 = 8;
    /// One sentence for people.
    pub const DETAIL: u16 = 9;
    /// u64, Unix milliseconds.
    pub const NEXT_ATTEMPT_MS: u16 = 10;
    /// u32: attempts that reached a judgement, this one included.
    pub const ATTEMPTS: u16 = 11;
    /// u64: where the message record was when the event was written.
    pub const MAIL_POSITION: u16 = 12;
    pub const POOL: u16 = 13;
    /// TLS version and cipher of the attempt.
    pub const TLS: u16 = 14;
    pub const TAG: u16 = 15;
    /// How far the answer reached.
    pub const SCOPE: u16 = 16;
    /// Means nothing: makes the record long enough to be erased.
    pub const PADDING: u16 = 17;
    /// Who suppressed the recipient, or lifted that.
    pub const ORIGIN: u16 = 18;
    /// u64, Unix milliseconds: since when the recipient is suppressed, where that is not the event's time.
    pub const SINCE_MS: u16 = 19;
    /// Of the first recipient's ACCEPTED: the message's IDEMPOTENCY_KEY.
    pub const IDEMPOTENCY: u16 = 20;
    /// What the reply answered: `rcpt`, `content`, ...
    pub const STAGE: u16 = 21;
    /// What the reply asks for: `retry`, `hard`, ...
    pub const REACTION: u16 = 22;
    /// The rule that judged the reply.
    pub const RULE: u16 = 23;
    /// u32: how sure the rule is, of 100.
    pub const CONFIDENCE: u16 = 24;
    /// u64: position of the event that a suppression rests on.
    pub const EVIDENCE: u16 = 25;
    /// Of From, whose records the event is about.
    pub const DOMAIN: u16 = 27;
    /// Of the domain's key.
    pub const SELECTOR: u16 = 28;
    /// Of an attempt: the reverse-path that it used, where that is not the message's.
    pub const REVERSE_PATH: u16 = 29;
    /// Of BOUNCED_LATER: the beginning of the mail that said so, octets.
    pub const NOTICE: u16 = 30;
    /// u64: position of the event whose NOTICE it is.
    pub const NOTICE_AT: u16 = 31;
    /// Where a notice by mail goes: the message's reverse-path, if it has NOTICES.
    pub const DSN_TO: u16 = 36;
    /// With DSN_TO, as the next three: the message's fields of these names.
    pub const DSN_NOTIFY: u16 = 37;
    pub const DSN_RET: u16 = 38;
    pub const DSN_ENVID: u16 = 39;
    pub const DSN_ORCPT: u16 = 40;
    /// Of the first recipient's ACCEPTED: the message's NOTICE_OF.
    pub const NOTICE_OF: u16 = 41;
}

/// The first bytes of a reader's base, FORMAT.md §13.
pub const BASE_MAGIC: [u8; 8] = *b"\x89PHB\r\n\x1a\n";

/// A reader's base, FORMAT.md §13: this, then its name, then its state.
pub mod base {
    pub const MAGIC: usize = 0; // 8 bytes
    pub const VERSION: usize = MAGIC + 8; // u16
    pub const NAME_LEN: usize = VERSION + 2; // u16
    pub const CRC: usize = NAME_LEN + 2; // u32, CRC32C of the file without these four bytes
    pub const POSITION: usize = CRC + 4; // u64
    pub const WRITTEN_UNIX_MS: usize = POSITION + 8; // u64
    pub const STATE_LEN: usize = WRITTEN_UNIX_MS + 8; // u64
    pub const VARIABLE: usize = STATE_LEN + 8;
}

/// The first bytes of the file of digests, FORMAT.md §14.
pub const DIGESTS_MAGIC: [u8; 8] = *b"\x89PHD\r\n\x1a\n";

/// The beginning of the file of digests, FORMAT.md §14.
pub mod digests_header {
    pub const MAGIC: usize = 0; // 8 bytes
    pub const VERSION: usize = MAGIC + 8; // u16
    pub const RESERVED: usize = VERSION + 2; // 6 bytes, zero
    pub const ENTRIES: usize = RESERVED + 6;
}

/// An entry of the file of digests, FORMAT.md §14.
pub mod digest_entry {
    pub const LOG_KIND: usize = 0; // u8
    pub const RESERVED_1: usize = LOG_KIND + 1; // 3 bytes, zero
    pub const CRC: usize = RESERVED_1 + 3; // u32, CRC32C of the entry without these four bytes
    pub const NUMBER: usize = CRC + 4; // u64, of the segment
    pub const FIRST_POSITION: usize = NUMBER + 8; // u64, of the segment
    pub const END: usize = FIRST_POSITION + 8; // u64, offset up to which it was acknowledged
    pub const SALT: usize = END + 8; // 16 bytes, of the segment
    pub const WRITTEN_UNIX_MS: usize = SALT + 16; // u64
    pub const RECORDS: usize = WRITTEN_UNIX_MS + 8; // u32, how many
    pub const RESERVED_2: usize = RECORDS + 4; // 4 bytes, zero
    pub const DIGEST: usize = RESERVED_2 + 4; // 32 bytes
    pub const CHAIN: usize = DIGEST + 32; // 32 bytes
    pub const SIZE: usize = CHAIN + 32;
}

/// The first bytes of an archive, FORMAT.md §11.
pub const ARCHIVE_MAGIC: [u8; 8] = *b"\x89PHA\r\n\x1a\n";
/// Bytes of a segment that are compressed together; the last frame of an archive may be shorter.
pub const ARCHIVE_FRAME: usize = 256 << 10;

/// The beginning of an archive, FORMAT.md §11.1.
pub mod archive_header {
    pub const MAGIC: usize = 0; // 8 bytes
    pub const VERSION: usize = MAGIC + 8; // u16
    pub const RESERVED: usize = VERSION + 2; // 6 bytes, zero
    pub const SEGMENT_HEADER: usize = RESERVED + 6; // as §3, one copy
    pub const FRAMES: usize = SEGMENT_HEADER + super::header::COPY; // zstd frames
}

/// The last bytes of an archive, FORMAT.md §11.1.
pub mod archive_footer {
    pub const RAW_LEN: usize = 0; // u64, bytes of the segment
    pub const TABLES: usize = RAW_LEN + 8; // u64, where in the file the tables begin
    pub const FRAMES: usize = TABLES + 8; // u32, how many
    pub const STREAMS: usize = FRAMES + 4; // u32, how many
    pub const OWNERS: usize = STREAMS + 4; // u32, how many
    pub const RECORDS: usize = OWNERS + 4; // u32, records whose content is kept
    pub const OLDEST_UNIX_MS: usize = RECORDS + 4; // u64, of them
    pub const YOUNGEST_UNIX_MS: usize = OLDEST_UNIX_MS + 8; // u64
    pub const ARCHIVED_UNIX_MS: usize = YOUNGEST_UNIX_MS + 8; // u64
    pub const TABLES_CRC: usize = ARCHIVED_UNIX_MS + 8; // u32, CRC32C of the tables
    pub const VERSION: usize = TABLES_CRC + 4; // u16
    pub const RESERVED: usize = VERSION + 2; // 2 bytes, zero
    pub const CRC: usize = RESERVED + 2; // u32, CRC32C of the footer before it
    pub const MAGIC: usize = CRC + 4; // 8 bytes, as at the beginning
    pub const LEN: usize = MAGIC + 8;
}

/// An entry of an archive's table of frames.
pub mod archive_frame {
    pub const OFFSET: usize = 0; // u64, in the file
    pub const LEN: usize = OFFSET + 8; // u32, compressed
    pub const CRC: usize = LEN + 4; // u32, CRC32C of the compressed frame
    pub const SIZE: usize = CRC + 4;
}

/// An entry of an archive's table of streams: this, then the stream's id.
pub mod archive_stream {
    pub const SERVER_ID: usize = 0; // u32, 0: not known
    pub const RECORDS: usize = SERVER_ID + 4; // u32
    pub const OLDEST_UNIX_MS: usize = RECORDS + 4; // u64
    pub const YOUNGEST_UNIX_MS: usize = OLDEST_UNIX_MS + 8; // u64
    pub const STREAM_ID_LEN: usize = YOUNGEST_UNIX_MS + 8; // u16
    pub const VARIABLE: usize = STREAM_ID_LEN + 2;
}

/// An entry of an archive's table of owners.
pub mod archive_owner {
    pub const MESSAGE_ID: usize = 0; // 16 bytes
    pub const STREAM: usize = MESSAGE_ID + 16; // u32, entry of the table of streams, from 0
    pub const SIZE: usize = STREAM + 4;
}

/// The first bytes of a redo journal.
pub const REDO_MAGIC: [u8; 8] = *b"\x89PHR\r\n\x1a\n";

/// Header of a redo journal, FORMAT.md §12: this, then the entries to the end of the file.
pub mod redo_header {
    pub const MAGIC: usize = 0; // 8 bytes
    pub const VERSION: usize = MAGIC + 8; // u16
    pub const RESERVED: usize = VERSION + 2; // 2 bytes, zero
    pub const ENTRIES: usize = RESERVED + 2; // u32, how many
    pub const CREATED_UNIX_MS: usize = ENTRIES + 4; // u64
    pub const CRC: usize = CREATED_UNIX_MS + 8; // u32, CRC32C of the file without these four bytes
    pub const ENTRIES_BEGIN: usize = CRC + 4;
}

/// An entry of a redo journal: a record that is to be erased.
pub mod redo_entry {
    pub const LOG_KIND: usize = 0; // u8
    pub const KIND: usize = LOG_KIND + 1; // u8, of the record as first written
    pub const FLAGS: usize = KIND + 1; // u8, of the record
    pub const RESERVED: usize = FLAGS + 1; // 1 byte, zero
    pub const LEN: usize = RESERVED + 1; // u32, of the record
    pub const SEGMENT: usize = LEN + 4; // u64, its number
    pub const OFFSET: usize = SEGMENT + 8; // u64, of the record in it
    pub const SALT: usize = OFFSET + 8; // 16 bytes, of the segment
    pub const CRC: usize = SALT + 16; // u32, of the record as first written
    pub const FIXED_LEN: usize = CRC + 4; // u32, bytes of FIXED that are used
    pub const DIGEST: usize = FIXED_LEN + 4; // 32 bytes, of the record as first written, or zeros
    pub const FIXED: usize = DIGEST + 32; // 72 bytes, then zeros
    pub const SIZE: usize = FIXED + super::FIXED_MAX;
}
const _: () = assert!(redo_entry::SIZE.is_multiple_of(ALIGNMENT));
