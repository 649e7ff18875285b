//! Tables inside a record, without allocation: [`List`] is either a slice that a writer gives or the encoded bytes that a
//! reader found. Both iterate alike, so one record type serves both directions.

use std::fmt;

use crate::RecordError;
use crate::bytes::{Reader, array, len32};
use crate::layout::field;

/// Something a [`List`] can hold.
pub trait Entry<'a>: Copy {
    #[doc(hidden)]
    fn take(reader: &mut EntryReader<'a>) -> Result<Self, RecordError>;
    #[doc(hidden)]
    fn encoded_len(&self) -> usize;
    #[doc(hidden)]
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError>;
}

/// The rest of an encoded table.
#[derive(Clone, Copy, Debug)]
pub struct EntryReader<'a>(pub(crate) Reader<'a>);

/// A table of entries.
#[derive(Clone, Copy)]
pub struct List<'a, T>(Form<'a, T>);

#[derive(Clone, Copy)]
enum Form<'a, T> {
    Given(&'a [T]),
    /// Taken apart once already: it holds exactly `count` entries.
    Encoded {
        bytes: &'a [u8],
        count: usize,
    },
}

impl<'a, T: Entry<'a>> List<'a, T> {
    pub fn new(entries: &'a [T]) -> Self {
        Self(Form::Given(entries))
    }

    /// Takes a table apart once to check it.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = EntryReader(Reader::new(bytes));
        let mut count = 0;
        while !reader.0.is_empty() {
            T::take(&mut reader)?;
            count += 1;
        }
        Ok(Self(Form::Encoded { bytes, count }))
    }

    pub fn len(&self) -> usize {
        match self.0 {
            Form::Given(entries) => entries.len(),
            Form::Encoded { count, .. } => count,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> Iter<'a, T> {
        Iter(match self.0 {
            Form::Given(entries) => IterForm::Given(entries.iter()),
            Form::Encoded { bytes, .. } => IterForm::Encoded(EntryReader(Reader::new(bytes))),
        })
    }

    /// The entry with this number; a walk from the first one in a decoded list.
    pub fn get(&self, number: usize) -> Option<T> {
        self.iter().nth(number)
    }

    pub(crate) fn encoded_len(&self) -> usize {
        match self.0 {
            Form::Given(entries) => entries.iter().map(T::encoded_len).sum(),
            Form::Encoded { bytes, .. } => bytes.len(),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        match self.0 {
            Form::Given(entries) => entries.iter().try_for_each(|entry| entry.encode(out)),
            Form::Encoded { bytes, .. } => {
                out.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self(Form::Given(&[]))
    }
}

impl<'a, T> From<&'a [T]> for List<'a, T> {
    fn from(entries: &'a [T]) -> Self {
        Self(Form::Given(entries))
    }
}

impl<'a, T> From<&'a Vec<T>> for List<'a, T> {
    fn from(entries: &'a Vec<T>) -> Self {
        Self(Form::Given(entries))
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for List<'a, T> {
    fn from(entries: &'a [T; N]) -> Self {
        Self(Form::Given(entries))
    }
}

impl<'a, T: Entry<'a>> IntoIterator for List<'a, T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<'a, T: Entry<'a> + PartialEq> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: Entry<'a> + Eq> Eq for List<'a, T> {}

impl<'a, T: Entry<'a> + fmt::Debug> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Entries in their order.
#[derive(Clone)]
pub struct Iter<'a, T>(IterForm<'a, T>);

#[derive(Clone)]
enum IterForm<'a, T> {
    Given(std::slice::Iter<'a, T>),
    Encoded(EntryReader<'a>),
}

impl<'a, T: Entry<'a>> Iterator for Iter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            IterForm::Given(entries) => entries.next().copied(),
            // The table was taken apart once, so an error means its end.
            IterForm::Encoded(reader) => T::take(reader).ok(),
        }
    }
}

/// A typed optional field (FORMAT.md §6). Unknown tags are kept and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub tag: u16,
    pub bytes: &'a [u8],
}

pub type Fields<'a> = List<'a, Field<'a>>;

impl<'a> Field<'a> {
    pub fn new(tag: u16, bytes: &'a [u8]) -> Self {
        Self { tag, bytes }
    }

    pub fn text(tag: u16, text: &'a str) -> Self {
        Self::new(tag, text.as_bytes())
    }
}

impl<'a> Fields<'a> {
    /// The first field with this tag.
    pub fn find(&self, tag: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|field| field.tag == tag)
            .map(|field| field.bytes)
    }

    /// The same as text; `None` also where it is not UTF-8.
    pub fn find_text(&self, tag: u16) -> Option<&'a str> {
        std::str::from_utf8(self.find(tag)?).ok()
    }

    /// The same as a number of four or eight bytes; `None` also at any other length.
    pub fn find_number(&self, tag: u16) -> Option<u64> {
        match self.find(tag)? {
            bytes if bytes.len() == 4 => Some(u64::from(u32::from_le_bytes(array(bytes, 0)?))),
            bytes if bytes.len() == 8 => Some(u64::from_le_bytes(array(bytes, 0)?)),
            _ => None,
        }
    }
}

impl<'a> Entry<'a> for Field<'a> {
    fn take(reader: &mut EntryReader<'a>) -> Result<Self, RecordError> {
        let tag = reader.0.u16("field")?;
        let len = reader.0.len32("field")?;
        let bytes = reader.0.take(len, "field")?;
        Ok(Self { tag, bytes })
    }

    fn encoded_len(&self) -> usize {
        field::BYTES + self.bytes.len()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let len = len32(self.bytes.len(), "field")?;
        out.extend_from_slice(&self.tag.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(self.bytes);
        Ok(())
    }
}

/// A pair of metadata.
impl<'a> Entry<'a> for (&'a str, &'a str) {
    fn take(reader: &mut EntryReader<'a>) -> Result<Self, RecordError> {
        let key_len = reader.0.u16("metadata")?;
        let value_len = reader.0.u16("metadata")?;
        let key = reader.0.text(key_len.into(), "metadata")?;
        let value = reader.0.text(value_len.into(), "metadata")?;
        Ok((key, value))
    }

    fn encoded_len(&self) -> usize {
        crate::layout::metadata::VARIABLE + self.0.len() + self.1.len()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let key_len = crate::bytes::len16(self.0.len(), "metadata key")?;
        let value_len = crate::bytes::len16(self.1.len(), "metadata value")?;
        out.extend_from_slice(&key_len.to_le_bytes());
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(self.1.as_bytes());
        Ok(())
    }
}
