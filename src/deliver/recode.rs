//! Content for hosts without 8BITMIME, made when it is needed: on the threads that sign, within a bounded share of memory.
//!
//! Promises: no octet is re-encoded on the reactor; all that is being re-encoded or waits to be sent so, together, is within
//! `limits::RECODED_BYTES_MAX`. Nothing is kept for the next session: the same content gives the same octets, so the signature
//! of it, which costs a thousand times more, is kept.
//!
//! Why whole and not piece by piece: what a part is to become is known at its end, and hosts that need this are few.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Lane, Signer};
use crate::limits;
use crate::mail::{NotSevenBit, to_seven_bit};
use crate::metrics;

/// Room for content that is being re-encoded.
pub struct Recoder {
    room: Arc<Semaphore>,
    wait: Duration,
}

/// Why there is none.
pub enum NotRecoded {
    /// Never for this content.
    Never(NotSevenBit),
    /// Not now.
    Busy(String),
}

impl Default for Recoder {
    fn default() -> Self {
        let room = units(limits::RECODED_BYTES_MAX as u64);
        Self {
            room: Arc::new(Semaphore::new(room as usize)),
            wait: limits::RECODE_WAIT,
        }
    }
}

impl Recoder {
    /// Waits until there is room for content of this length.
    /// # Cancel safety
    /// Dropping the future gives back what it took.
    pub async fn room(&self, length: u64) -> Result<Room, NotRecoded> {
        // The content, where it is read into memory for this, and what becomes of it.
        let wanted = units(length.saturating_mul(5) / 2);
        if wanted > units(limits::RECODED_BYTES_MAX as u64) {
            return Err(NotRecoded::Never(NotSevenBit::Length));
        }
        let taken = Arc::clone(&self.room).acquire_many_owned(wanted);
        match tokio::time::timeout(self.wait, taken).await {
            Ok(Ok(permit)) => Ok(Room(permit)),
            _ => Err(NotRecoded::Busy(
                "too much mail is being re-encoded for hosts without 8BITMIME".into(),
            )),
        }
    }
}

/// Room for one message's content.
pub struct Room(OwnedSemaphorePermit);

impl Room {
    /// The content in seven bits. It holds its room for as long as it is there.
    pub async fn recode(
        mut self,
        signer: &Signer,
        lane: Lane,
        content: Bytes,
    ) -> Result<Bytes, NotRecoded> {
        let made = signer.run(lane, move || to_seven_bit(&content, limits::MIME_DEPTH_MAX));
        let made = match made.await.map_err(NotRecoded::Busy)? {
            Ok(made) => made,
            Err(why) => {
                metrics::RECODED.add_to("refused", 1);
                return Err(NotRecoded::Never(why));
            }
        };
        metrics::RECODED.add_to("made", 1);
        let spare = self
            .0
            .num_permits()
            .saturating_sub(units(made.len() as u64) as usize);
        drop(self.0.split(spare));
        Ok(Bytes::from_owner(Recoded {
            octets: made,
            _room: self,
        }))
    }
}

struct Recoded {
    octets: Vec<u8>,
    _room: Room,
}

impl AsRef<[u8]> for Recoded {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// Room is counted in KiB.
fn units(octets: u64) -> u32 {
    octets.div_ceil(1024).try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_bounded_waited_for_and_given_back() {
        let recoder = Recoder {
            wait: Duration::from_millis(1),
            ..Recoder::default()
        };
        let most = limits::RECODED_BYTES_MAX as u64;
        assert!(matches!(
            recoder.room(most).await,
            Err(NotRecoded::Never(NotSevenBit::Length))
        ));
        let half = recoder.room(most / 5).await.ok().unwrap();
        let other = recoder.room(most / 5 - 1024).await.ok().unwrap();
        assert!(matches!(
            recoder.room(most / 5).await,
            Err(NotRecoded::Busy(_))
        ));
        drop(half);
        assert!(recoder.room(most / 5).await.is_ok());
        drop(other);
    }
}
