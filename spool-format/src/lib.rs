//! The bytes of the Posthaste spool.
//!
//! What lies on disk is specified in `FORMAT.md`; this crate is that specification in Rust. It promises that what it
//! wrote it reads, that every broken byte is found, and that arbitrary bytes cost neither a panic nor memory: decoded
//! records borrow from the bytes they were read from, and nothing here allocates while decoding. It deliberately knows
//! no file, no map, no clock, no thread and no randomness: the engine (`src/spool`) has those, and the same functions
//! therefore serve recovery, the inspection commands, the tests and the fuzzer.
//!
//! From the outside in: [`segment`] (header page) holds records framed by [`frame`]; [`commit`] closes a batch of them;
//! [`message`], [`content`], [`event`] and [`marker`] are the payloads; [`scan`] reads a whole segment back, damaged or not;
//! [`digest`] remembers what was in it; [`image`] writes one in memory; [`live`] tells from the records which recipients still wait.

pub mod archive;
pub mod base;
pub mod checkpoint;
pub mod commit;
pub mod content;
pub mod digest;
pub mod event;
pub mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod image;
pub mod layout;
pub mod list;
pub mod live;
pub mod marker;
pub mod message;
pub mod names;
pub mod redo;
pub mod scan;
pub mod segment;

mod bytes;
mod entry;
mod varint;

pub use checkpoint::{CheckpointError, CheckpointGaps, CheckpointHeader, EntryReader, EntryWriter};
pub use commit::{CommitRecord, RunningHash};
pub use content::ContentRecord;
pub use event::EventRecord;
pub use frame::{Frame, FrameError};
pub use image::SegmentImage;
pub use layout::{field_tag, kind};
pub use list::{Field, Fields, List};
pub use live::{
    Fate, Fold, LiveMessage, LiveRecipient, RecipientKey, TAG_MARKS, TAG_NONE, TAG_UNKNOWN, Tail,
    tag_mark,
};
pub use marker::{ErasedMessage, ErasedRecord, VoidRecord};
pub use message::{Content, ContentPart, MessageRecord, Recipient, StreamKind};
pub use names::{Names, Origin, Origins, Texts};
pub use redo::RedoEntry;
pub use segment::{HeaderError, LogKind, Seed, SegmentHeader};

/// Why a payload is not the record that its kind says, or cannot become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record ends before its {0}")]
    Short(&'static str),
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("{0} has a value that this version does not know")]
    Unknown(&'static str),
    #[error("{0} does not agree with the rest of the record")]
    Mismatch(&'static str),
    /// Only on encoding: a length does not fit its place in the format.
    #[error("{0} is too long for the format")]
    TooLong(&'static str),
}
