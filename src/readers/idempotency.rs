//! The reader that keeps idempotency keys over a restart: base and *accepted* events behind it are all that was taken.
//!
//! Promises: a key whose message is durable is known before the next message with a key is taken. The events of messages that
//! a crash left without them are written by recovery, which tells [`Keys`] too; until it is through, nobody's key is asked.
//! Damage costs the keys that it hit, and is told: their messages could be taken twice.

use std::io;
use std::sync::Arc;

use spool_format::kind;
use spool_format::layout::event::KIND;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::event::{Event, EventKind};
use crate::idempotency::{Claim, Keys};
use crate::limits;
use crate::mail::MessageId;
use crate::readers::{NotRebuilt, Reader, Standing, State};
use crate::spool::{Base, Spool};

pub struct IdempotencyReader {
    spool: Arc<Spool>,
    keys: Arc<Keys>,
    clock: Clock,
    /// Held by whoever writes a base.
    writing: tokio::sync::Mutex<()>,
    /// Where its base stands.
    position: watch::Sender<u64>,
}

impl IdempotencyReader {
    /// Fills `keys` from base and log. Blocks.
    pub fn open(spool: Arc<Spool>, keys: Arc<Keys>, clock: Clock) -> io::Result<Arc<Self>> {
        let readers = spool.readers();
        let base = match readers.register(NAME) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = readers.put_aside(NAME)?;
                tracing::error!(%error, aside = %aside.display(), "the base of the idempotency keys is damaged: they are made again from the event log");
                None
            }
            Ok(None) => {
                // Nobody wrote keys before it was registered: there is nothing to look for in the log so far.
                let begin = spool.events.durable();
                Some(readers.store(NAME, begin, &[], clock.unix_ms())?)
            }
            registered => registered?,
        };
        let from = match &base {
            Some(base) => read_base(base, &keys)?,
            None => 0,
        };
        let now = clock.unix_ms();
        for item in spool.events.records_from(from) {
            match item {
                Ok((record, _)) if record.kind == kind::EVENT => take(&record.payload, &keys, now),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "part of the event log cannot be read: idempotency keys in it are lost");
                }
            }
        }
        Ok(Arc::new(Self {
            spool,
            keys,
            clock,
            writing: tokio::sync::Mutex::default(),
            position: watch::Sender::new(from),
        }))
    }

    /// Writes a base when the log behind the last one has grown. To be called now and then.
    pub async fn keep_up(self: &Arc<Self>) {
        let _one = self.writing.lock().await;
        // Whatever has an event below it is among the keys: a key is there before its event is written.
        let durable = self.spool.events.durable();
        if durable.saturating_sub(*self.position.borrow()) < limits::IDEMPOTENCY_LOG {
            return;
        }
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let now = this.clock.unix_ms();
            let keys = this.keys.all();
            let readers = this.spool.readers();
            readers.write(NAME, durable, now, &mut |writer| {
                let mut entries = keys.iter();
                entries.try_for_each(|(claim, id, at)| {
                    let claim = claim.to_bytes();
                    writer.write(id.as_bytes())?;
                    writer.write(&at.to_le_bytes())?;
                    writer.write(&(claim.len() as u32).to_le_bytes())?;
                    writer.write(&claim)
                })
            })
        });
        match written.await {
            Ok(Ok(_)) => {
                self.position.send_replace(durable);
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the base of the idempotency keys cannot be written; they hold, and it is tried again");
            }
            Err(error) => {
                tracing::error!(%error, "the base of the idempotency keys was not written")
            }
        }
    }
}

impl Reader for IdempotencyReader {
    fn standing(&self) -> Standing {
        Standing {
            name: NAME,
            state: State::Following,
            // A key is known before its event is written.
            position: self.spool.events.durable(),
            lag_bytes: 0,
            at: None,
            bytes: None,
            entries: Some(self.keys.len() as u64),
            base: Some(*self.position.borrow()),
            generation: 0,
            trouble: None,
        }
    }

    fn rebuild(&self) -> Result<(), NotRebuilt> {
        Err(NotRebuilt::Never(
            "idempotency keys are made again from their base and the event log at every start, before mail is taken: restart the node",
        ))
    }
}

/// A state is read whole: it is bounded by the number of keys.
fn read_base(base: &Base, keys: &Keys) -> io::Result<u64> {
    let mut state = vec![0; usize::try_from(base.state_len()).map_err(io::Error::other)?];
    base.read_at(&mut state, 0)?;
    let mut rest = &state[..];
    while !rest.is_empty() {
        let Some((claim, id, at, behind)) = entry(rest) else {
            tracing::error!(
                "the base of the idempotency keys is not understood from some place on"
            );
            break;
        };
        keys.insert(claim, id, at);
        rest = behind;
    }
    Ok(base.position)
}

fn entry(bytes: &[u8]) -> Option<(Claim, MessageId, u64, &[u8])> {
    let (id, rest) = bytes.split_first_chunk::<16>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (claim, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let claim = Claim::from_bytes(claim)?;
    Some((
        claim,
        MessageId::from_bytes(*id),
        u64::from_le_bytes(*at),
        rest,
    ))
}

fn take(payload: &[u8], keys: &Keys, now: u64) {
    // Nearly all events have none: they cost a look at two octets.
    let code = payload.get(KIND..KIND + 2).and_then(|b| b.try_into().ok());
    if EventKind::from_code(code.map_or(0, u16::from_le_bytes)) != Some(EventKind::Accepted) {
        return;
    }
    let Ok(Some(event)) = Event::decode(payload) else {
        return;
    };
    let kept = limits::IDEMPOTENCY_TIME.as_millis() as u64;
    let at = event.message_id.unix_ms();
    if event.idempotency.is_empty() || at + kept <= now {
        return;
    }
    match Claim::from_bytes(event.idempotency) {
        Some(claim) => keys.insert(claim, event.message_id, at),
        None => tracing::error!("an idempotency key in the event log is not understood"),
    }
}

/// Of its base.
const NAME: &str = "idempotency";
