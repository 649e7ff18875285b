//! [`MessageId`]: our name of a message, the API's `MessageID`. Not the RFC 5322 field of that name.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A UUIDv7 (RFC 9562 §5.7): its first 48 bits are the time of acceptance, so ids sort by age.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Uuid);

impl MessageId {
    /// A new id for a message accepted at `unix_ms`; `random` fills the other 74 bits.
    pub fn new(unix_ms: u64, random: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, random).into_uuid())
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The time in it: when the message's transaction began.
    pub fn unix_ms(&self) -> u64 {
        (self.0.as_u128() >> 80) as u64
    }

    /// Its random half, for choices that shall be the same for the message whenever they are made.
    pub fn random(&self) -> u64 {
        self.0.as_u128() as u64
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text_and_sorts_by_time() {
        let early = MessageId::new(1_000, &[9; 10]);
        let late = MessageId::new(2_000, &[0; 10]);
        assert!(early < late);
        assert_eq!((early.unix_ms(), late.unix_ms()), (1_000, 2_000));
        assert_eq!(early.to_string().parse::<MessageId>().unwrap(), early);
        assert_eq!(MessageId::from_bytes(*late.as_bytes()), late);
    }
}
