//! A door that notes what came, and takes it or not as the test says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use spool_format::StreamKind;

use crate::accept::{Context, Refusal, Rehearsal};
use crate::http::api::email::{Door, Taking};
use crate::idempotency::{Claim, Taken};
use crate::mail::{ForwardPath, MessageId};

#[derive(Default)]
pub(in crate::http) struct FakeDoor {
    taken: Mutex<Vec<(Context, Vec<u8>)>>,
    refusal: Mutex<Option<Refusal>>,
    suppressed: Mutex<Vec<(String, String)>>,
    broken: AtomicBool,
}

impl FakeDoor {
    pub(in crate::http) fn refuse(&self, refusal: Option<Refusal>) {
        *self.refusal.lock().unwrap() = refusal;
    }

    /// From now on it has a fault.
    pub(in crate::http) fn fail(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(in crate::http) fn suppress(&self, stream: &str, address: &str) {
        let mut suppressed = self.suppressed.lock().unwrap();
        suppressed.push((stream.into(), address.into()));
    }

    /// What came since the last call.
    pub(in crate::http) fn taken(&self) -> Vec<(Context, Vec<u8>)> {
        std::mem::take(&mut *self.taken.lock().unwrap())
    }
}

impl Door for FakeDoor {
    fn find(&self, _: &Claim) -> Option<Result<Taken, Refusal>> {
        None
    }

    fn take(&self, context: Context, content: Vec<u8>) -> Taking<'_> {
        assert!(!self.broken.load(Ordering::Relaxed), "as the test asks");
        let refusal = self.refusal.lock().unwrap().clone();
        let answer = match refusal {
            Some(refusal) => Err(refusal),
            None => {
                let mut taken = self.taken.lock().unwrap();
                taken.push((context, content));
                Ok(Taken {
                    id: MessageId::new(taken.len() as u64, &[7; 10]),
                    at: 0,
                    said: None,
                })
            }
        };
        Box::pin(async move { answer })
    }

    fn rehearse(&self, context: &Context, content: &[u8]) -> Result<Rehearsal, Refusal> {
        let stream = context
            .given
            .as_ref()
            .and_then(|given| given.stream.as_deref());
        let stream = stream.unwrap_or("outbound");
        Ok(Rehearsal {
            id: MessageId::new(1, &[7; 10]),
            at: 0,
            content: content.to_vec(),
            stream: stream.into(),
            stream_kind: match stream {
                "broadcast" => StreamKind::Broadcast,
                _ => StreamKind::Transactional,
            },
        })
    }

    fn suppressed(&self, _: u32, stream: &str, recipients: &[ForwardPath]) -> Vec<bool> {
        let suppressed = self.suppressed.lock().unwrap();
        let is_out = |path: &ForwardPath| {
            let mut pairs = suppressed.iter();
            pairs.any(|(s, a)| s == stream && a == path.as_str())
        };
        recipients.iter().map(is_out).collect()
    }
}
