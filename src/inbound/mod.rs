//! What comes back by mail: reports about mail that left from here.
//!
//! Promises: nothing is taken but for an address that this node made, of a message that it knows, and nothing is passed on,
//! so nobody can relay or provoke mail here; a report is acknowledged when the events that it becomes are durable, and the
//! beginning of it with them; it never becomes mail, so there is no bounce for a bounce.
//! Deliberately does not know SMTP (`node::inbound` does), nor what follows from an event: readers do.
//!
//! `known.rs` finds the message that an address is about, `intake.rs` takes content and keeps its beginning, `reading`
//! understands what it says, `about.rs` makes facts of that.

mod about;
mod intake;
mod known;
pub mod reading;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::account::Accounts;
use crate::classify::Rules;
use crate::clock::{Clock, UnixMs};
use crate::event::Subject;
use crate::limits;
use crate::mail::{ForwardPath, MessageId, NotOurs, VerpAddress};
use crate::metrics;
use crate::spool::Spool;

pub use intake::{Intake, NotKept, Taken};
use known::Known;

/// The door for reports. Clones are the same door.
#[derive(Clone)]
pub struct Inbound(Arc<Parts>);

struct Parts {
    spool: Arc<Spool>,
    accounts: Arc<Accounts>,
    rules: Arc<ArcSwap<Rules>>,
    clock: Clock,
    known: Known,
    counts: Mutex<Counts>,
}

/// Why an address takes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its domain takes no bounces here.
    OtherDomain,
    /// It is that of a person, such as postmaster: who does read mail.
    Person {
        instead: String,
    },
    NotOurs(NotOurs),
    /// It is genuine, and its message is in no log.
    Unknown,
    /// More reports about this message than anybody has reason to send.
    TooMany,
    /// Other look-ups have to end first.
    Busy,
}

impl Refused {
    /// As metrics name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::OtherDomain => "domain",
            Self::Person { .. } => "person",
            Self::NotOurs(why) => why.as_str(),
            Self::Unknown => "unknown",
            Self::TooMany => "too_many",
            Self::Busy => "busy",
        }
    }
}

/// What a report is about.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: VerpAddress,
    pub subject: Arc<Subject>,
}

impl Inbound {
    pub fn new(
        spool: Arc<Spool>,
        accounts: Arc<Accounts>,
        rules: Arc<ArcSwap<Rules>>,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Parts {
            known: Known::new(spool.events.clone()),
            spool,
            accounts,
            rules,
            clock,
            counts: Mutex::default(),
        }))
    }

    /// What a report to this address would be about.
    /// # Cancel safety
    /// A look-up that has begun goes on, for whoever asks next.
    pub async fn recipient(&self, path: &ForwardPath) -> Result<Target, Refused> {
        let found = async {
            let address = self.read(path)?;
            let subject = self.0.known.find(address.message).await?;
            target(address, subject)
        };
        let found = found.await;
        if let Err(refused) = &found {
            metrics::INBOUND_REFUSED.add_to(refused.as_str(), 1);
        }
        found
    }

    fn read(&self, path: &ForwardPath) -> Result<VerpAddress, Refused> {
        let now = self.0.clock.unix_ms();
        let snapshot = self.0.accounts.load();
        let local_part = path.mailbox().local_part();
        // The proof first: it costs a microsecond, whatever a stranger asks.
        let address = match snapshot.verp().read(local_part, now) {
            _ if !snapshot.takes_bounces_for(path.domain()) => return Err(Refused::OtherDomain),
            // RFC 5321 §4.5.1, RFC 2142 §3.
            Err(_) if is_person(local_part) => {
                let instead = snapshot.person().to_owned();
                return Err(Refused::Person { instead });
            }
            read => read.map_err(Refused::NotOurs)?,
        };
        if !self.counts().may_come(address.message, now) {
            return Err(Refused::TooMany);
        }
        Ok(address)
    }

    /// Takes a report to these, all of which [`Self::recipient`] has found.
    pub fn begin<'p>(
        &self,
        paths: impl Iterator<Item = &'p ForwardPath>,
    ) -> Result<Intake, Refused> {
        let known = |path| {
            let address = self.read(path)?;
            // Forgotten meanwhile, by hundreds of others: to be asked again.
            let subject = self.0.known.remembered(address.message).flatten();
            target(address, subject.ok_or(Refused::Busy)?)
        };
        let mut targets = paths.map(known).collect::<Result<Vec<Target>, _>>()?;
        // Named twice it is told once.
        let mut seen = HashSet::new();
        targets.retain(|target| seen.insert((target.address.message, target.address.recipient)));
        Ok(Intake::new(self.clone(), targets))
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        // Counters are whole after every statement.
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a message with fewer recipients nobody can have made the proof: this is damage.
fn target(address: VerpAddress, subject: Arc<Subject>) -> Result<Target, Refused> {
    let exists = |number| !subject.forward_path(number).is_empty();
    match address.recipient.is_none_or(exists) {
        true => Ok(Target { address, subject }),
        false => Err(Refused::Unknown),
    }
}

fn is_person(local_part: &str) -> bool {
    ["postmaster", "abuse"]
        .iter()
        .any(|person| person.eq_ignore_ascii_case(local_part))
}

/// How many reports have come about a message. Forgotten all at once: whoever sends too many is only slowed down.
#[derive(Default)]
struct Counts {
    since: UnixMs,
    by_message: HashMap<MessageId, u32>,
}

impl Counts {
    fn may_come(&self, message: MessageId, now: UnixMs) -> bool {
        let period = limits::REPORTS_PERIOD.as_millis() as u64;
        let count = self.by_message.get(&message).copied().unwrap_or(0);
        count < limits::REPORTS_PER_MESSAGE || now.saturating_sub(self.since) >= period
    }

    fn count(&mut self, message: MessageId, now: UnixMs) {
        let period = limits::REPORTS_PERIOD.as_millis() as u64;
        let full = self.by_message.len() >= limits::REPORTS_MESSAGES_COUNTED;
        if now.saturating_sub(self.since) >= period || full {
            self.by_message.clear();
            self.since = now;
        }
        *self.by_message.entry(message).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_about_one_message_are_counted_and_forgotten_with_their_period() {
        let mut counts = Counts::default();
        let (busy, other) = (MessageId::new(1, &[1; 10]), MessageId::new(1, &[2; 10]));
        let period = limits::REPORTS_PERIOD.as_millis() as u64;
        for _ in 0..limits::REPORTS_PER_MESSAGE {
            assert!(counts.may_come(busy, period));
            counts.count(busy, period);
        }
        assert!(!counts.may_come(busy, period));
        assert!(counts.may_come(other, period));
        assert!(counts.may_come(busy, 2 * period));
        counts.count(other, 2 * period);
        assert!(counts.may_come(busy, 2 * period));
        assert_eq!(counts.by_message.len(), 1);
    }
}
