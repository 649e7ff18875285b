//! The texts that many messages share, each kept once: domains of recipients, and where messages came from.

use std::collections::HashMap;
use std::sync::Arc;

use crate::RecordError;
use crate::bytes::{Reader, len16};
use crate::message::{MessageRecord, StreamKind};

/// Gives equal texts equal small numbers, from 0 on.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

impl Texts {
    pub fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = small(self.texts.len());
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    pub fn get(&self, number: u32) -> Option<&Arc<str>> {
        self.texts.get(large(number))
    }

    /// As they were numbered.
    pub fn all(&self) -> &[Arc<str>] {
        &self.texts
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

/// Who sent a message and which way it goes: the same for all messages of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub server_id: u32,
    pub stream_kind: StreamKind,
    pub server_name: Arc<str>,
    pub stream_id: Arc<str>,
    pub pool: Arc<str>,
}

impl Origin {
    /// As a checkpoint holds it: server id, stream kind, then the three texts, each behind its length.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        out.extend_from_slice(&self.server_id.to_le_bytes());
        out.push(self.stream_kind.byte());
        for text in [&self.server_name, &self.stream_id, &self.pool] {
            out.extend_from_slice(&len16(text.len(), "origin")?.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let server_id = reader.u32("origin")?;
        let stream_kind = StreamKind::from_byte(reader.u8("origin")?)?;
        let mut text = || -> Result<Arc<str>, RecordError> {
            let len = reader.u16("origin")?;
            Ok(reader.text(len.into(), "origin")?.into())
        };
        Ok(Self {
            server_id,
            stream_kind,
            server_name: text()?,
            stream_id: text()?,
            pool: text()?,
        })
    }

    fn is_of(&self, record: &MessageRecord<'_>) -> bool {
        self.server_id == record.server_id
            && self.stream_kind == record.stream_kind
            && *self.server_name == *record.server_name
            && *self.stream_id == *record.stream_id
            && *self.pool == *record.pool
    }
}

/// Gives equal origins equal small numbers, from 0 on.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    numbers: HashMap<Origin, u32>,
    origins: Vec<Origin>,
    /// Messages come in runs.
    latest: u32,
}

impl Origins {
    pub fn number(&mut self, origin: Origin) -> u32 {
        if let Some(&number) = self.numbers.get(&origin) {
            return number;
        }
        let number = small(self.origins.len());
        self.origins.push(origin.clone());
        self.numbers.insert(origin, number);
        number
    }

    pub(crate) fn number_of(&mut self, record: &MessageRecord<'_>) -> u32 {
        if self
            .get(self.latest)
            .is_some_and(|origin| origin.is_of(record))
        {
            return self.latest;
        }
        self.latest = self.number(Origin {
            server_id: record.server_id,
            stream_kind: record.stream_kind,
            server_name: record.server_name.into(),
            stream_id: record.stream_id.into(),
            pool: record.pool.into(),
        });
        self.latest
    }

    pub fn get(&self, number: u32) -> Option<&Origin> {
        self.origins.get(large(number))
    }

    /// As they were numbered.
    pub fn all(&self) -> &[Origin] {
        &self.origins
    }
}

/// Both, for all messages of one fold.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub domains: Texts,
    pub origins: Origins,
}

/// # Panics
/// At 2^32 names: they would not fit into memory before.
fn small(number: usize) -> u32 {
    match u32::try_from(number) {
        Ok(number) => number,
        Err(_) => panic!("too many names"),
    }
}

fn large(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
