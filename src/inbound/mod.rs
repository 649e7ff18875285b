//! What comes back by mail: reports about mail that left from here.
//!
//! Promises: nothing is taken but for an address that this node made, of a message that it knows, complaints at the address of
//! feedback loops (RFC 5965), if there is one, and mail for postmaster and abuse, which goes to one address of the operator's: so
//! nobody can relay or provoke mail here. A report is acknowledged when the events that it becomes are durable, and the
//! beginning of it with them; it never becomes mail, so there is no bounce for a bounce.
//! Deliberately does not know SMTP (`node::inbound` does), nor what follows from an event: readers do.
//!
//! `known.rs` finds the message that an address is about, `intake.rs` takes content and keeps its beginning, `reading`
//! understands what it says, `about.rs` makes facts of that; `people.rs` has mail for people.

mod about;
mod intake;
mod known;
pub mod people;
pub mod reading;

use std::collections::HashMap;
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

use intake::Addressed;
pub use intake::{Intake, NotKept, Taken};
use known::{Accepted, Asker, Known};
use people::{Forward, People, Writer};
use reading::{Kind, Reading};

/// The door for reports. Clones are the same door.
#[derive(Clone)]
pub struct Inbound(Arc<Parts>);

struct Parts {
    spool: Arc<Spool>,
    accounts: Arc<Accounts>,
    rules: Arc<ArcSwap<Rules>>,
    clock: Clock,
    known: Known,
    people: People,
    counts: Mutex<Counts>,
}

/// Why an address takes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its domain takes no bounces here.
    OtherDomain,
    NotOurs(NotOurs),
    /// It is genuine, and its message is in no log.
    Unknown,
    /// More reports about this message than anybody has reason to send.
    TooMany,
    /// The same of mail for people.
    TooManyLetters,
    /// Part of the log cannot be read, or is not written yet: nobody can say whether there is such a message.
    Unsure,
    /// Other look-ups have to end first.
    Busy,
}

impl Refused {
    /// As metrics name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::OtherDomain => "domain",
            Self::NotOurs(why) => why.as_str(),
            Self::Unknown => "unknown",
            Self::TooMany | Self::TooManyLetters => "too_many",
            Self::Unsure => "unsure",
            Self::Busy => "busy",
        }
    }
}

/// What a report is about.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: VerpAddress,
    pub subject: Arc<Subject>,
    /// Where the message's record was written.
    pub mail_position: Option<u64>,
}

/// What an address is for.
enum Whose {
    /// What comes back of one message.
    Message(VerpAddress),
    /// Feedback loops: what comes has to say itself which message it is about.
    Complaints,
    /// Somebody who has to be there.
    Person,
}

impl Inbound {
    pub fn new(
        spool: Arc<Spool>,
        accounts: Arc<Accounts>,
        rules: Arc<ArcSwap<Rules>>,
        hostname: &str,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Parts {
            people: People::new(hostname.to_owned()),
            known: Known::new(spool.events.clone()),
            spool,
            accounts,
            rules,
            clock,
            counts: Mutex::default(),
        }))
    }

    /// By which mail for people leaves; the first one counts.
    pub fn forward_by(&self, forward: Arc<dyn Forward>) {
        let _ = self.0.people.forward.set(forward);
    }

    /// Whether mail to this address is taken.
    /// # Cancel safety
    /// A look-up that has begun goes on, for whoever asks next.
    pub async fn recipient(&self, path: &ForwardPath) -> Result<(), Refused> {
        let found = async {
            match self.read(path)? {
                Whose::Complaints | Whose::Person => Ok(()),
                Whose::Message(address) => {
                    let now = self.0.clock.unix_ms();
                    let found = self
                        .0
                        .known
                        .find(address.message, Asker::Proof, now)
                        .await?;
                    target(address, found).map(drop)
                }
            }
        };
        let found = found.await;
        if let Err(refused) = &found {
            metrics::INBOUND_REFUSED.add_to(refused.as_str(), 1);
        }
        found
    }

    fn read(&self, path: &ForwardPath) -> Result<Whose, Refused> {
        let now = self.0.clock.unix_ms();
        let snapshot = self.0.accounts.load();
        if snapshot.takes_complaints_at(path.mailbox()) {
            return Ok(Whose::Complaints);
        }
        if self.is_person(path) {
            return match self.counts().letter_may_come(now) {
                true => Ok(Whose::Person),
                false => Err(Refused::TooManyLetters),
            };
        }
        let local_part = path.mailbox().local_part();
        // The proof first: it costs a microsecond, whatever a stranger asks.
        let address = match snapshot.verp().read(local_part, now) {
            _ if !snapshot.takes_bounces_for(path.domain()) => return Err(Refused::OtherDomain),
            read => read.map_err(Refused::NotOurs)?,
        };
        match self.counts().may_come(address.message, now) {
            true => Ok(Whose::Message(address)),
            false => Err(Refused::TooMany),
        }
    }

    /// Whether somebody reads what comes for this address: postmaster and abuse, of the domains that mail is taken for.
    fn is_person(&self, path: &ForwardPath) -> bool {
        let domain = path.domain();
        people::is_person(path)
            && (domain
                .as_str()
                .eq_ignore_ascii_case(&self.0.people.hostname)
                || self.0.accounts.load().takes_bounces_for(domain))
    }

    /// Takes mail to these, all of which [`Self::recipient`] has found.
    pub fn begin<'p>(
        &self,
        paths: impl Iterator<Item = &'p ForwardPath>,
        writer: Writer,
    ) -> Result<Intake, Refused> {
        let (mut targets, mut complaints): (Vec<Target>, _) = (Vec::new(), false);
        let mut people = Vec::new();
        for path in paths {
            let address = match self.read(path)? {
                Whose::Message(address) => address,
                Whose::Complaints => {
                    complaints = true;
                    continue;
                }
                Whose::Person => {
                    people.push(path.as_str().to_owned());
                    continue;
                }
            };
            // Forgotten meanwhile, by hundreds of others: to be asked again.
            let found = self.0.known.remembered(address.message).flatten();
            let target = target(address, found.ok_or(Refused::Busy)?)?;
            // Named twice it is told once.
            if !targets.iter().any(|other| other.address == target.address) {
                targets.push(target);
            }
        }
        let mut reserved = Reserved::new(self.clone());
        for target in &targets {
            reserved.take(target.address.message)?;
        }
        let letter = match people.is_empty() {
            true => None,
            false => Some(self.0.people.begin(people, writer)?),
        };
        let to = Addressed {
            targets,
            complaints,
            letter,
        };
        Ok(Intake::new(self.clone(), to, reserved))
    }

    /// What came to the address of feedback loops: the message of ours that it is about. Anything but a complaint has nothing to
    /// say there, and what is about nothing of ours changes nothing; both are counted and told to the log.
    async fn complaint(&self, reading: &Reading) -> Result<Option<Target>, Refused> {
        let found = match reading.kind {
            Kind::Complaint | Kind::Unsubscribe => self.complained_of(reading).await?,
            _ => None,
        };
        let result = match (&found, reading.kind) {
            (Some(_), _) => "resolved",
            (None, Kind::Complaint | Kind::Unsubscribe) => "unknown",
            (None, _) => "other",
        };
        metrics::COMPLAINTS.add_to(result, 1);
        if found.is_none() {
            let (kind, subject) = (reading.kind.as_str(), &reading.subject);
            tracing::info!(kind, %subject, "mail to the address for complaints is about no message that is known; it is dropped");
        }
        Ok(found)
    }

    /// The message of ours that a complaint is about, which came to the address for complaints: by the address that the
    /// message left from, if that is shown, which is our own proof; else by its id, which only those know who had it.
    async fn complained_of(&self, reading: &Reading) -> Result<Option<Target>, Refused> {
        let original = &reading.original;
        let now = self.0.clock.unix_ms();
        let proof = original.return_path.as_deref().and_then(|path| {
            let (local_part, _) = path.split_once('@')?;
            let snapshot = self.0.accounts.load();
            snapshot.verp().read(local_part, now).ok()
        });
        let by_id = |message| VerpAddress {
            message,
            recipient: None,
        };
        let (mut address, asker) = match (proof, original.message()) {
            (Some(address), _) => (address, Asker::Proof),
            (None, Some(message)) => (by_id(message), Asker::Word),
            (None, None) => return Ok(None),
        };
        let is_new = || self.0.known.remembered(address.message).is_none();
        if asker == Asker::Word && is_new() && !self.counts().may_search(now) {
            return Err(Refused::TooMany);
        }
        let found = match self.0.known.find(address.message, asker, now).await {
            Err(Refused::Unknown) => return Ok(None),
            found => found?,
        };
        // Whose address is blacked out is nobody else, where there is nobody else.
        let mut numbers = found.subject.numbers();
        if let (true, Some(only), None) = (found.whole, numbers.next(), numbers.next()) {
            address.recipient = Some(only);
        }
        drop(numbers);
        target(address, found).map(Some)
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        // Counters are whole after every statement.
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a message with fewer recipients nobody can have made the proof: this is damage.
fn target(address: VerpAddress, found: Accepted) -> Result<Target, Refused> {
    let exists = |number| !found.subject.forward_path(number).is_empty();
    match address.recipient.is_none_or(exists) {
        true => Ok(Target {
            address,
            subject: found.subject,
            mail_position: found.mail_position,
        }),
        false if !found.whole => Err(Refused::Unsure),
        false => Err(Refused::Unknown),
    }
}

/// Reports that are being taken, each counted with its message from the beginning, so that no crowd of them passes the bound
/// together. Dropped, it gives back those that were not kept.
struct Reserved {
    inbound: Inbound,
    messages: Vec<MessageId>,
}

impl Reserved {
    fn new(inbound: Inbound) -> Self {
        Self {
            inbound,
            messages: Vec::new(),
        }
    }

    /// One about a message, however many of its recipients are meant.
    fn take(&mut self, message: MessageId) -> Result<(), Refused> {
        if self.messages.contains(&message) {
            return Ok(());
        }
        let now = self.inbound.0.clock.unix_ms();
        match self.inbound.counts().reserve(message, now) {
            true => self.messages.push(message),
            false => return Err(Refused::TooMany),
        }
        Ok(())
    }

    /// The report is kept.
    fn keep(mut self) {
        self.messages.clear();
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut counts = self.inbound.counts();
        for message in &self.messages {
            counts.give_back(*message);
        }
    }
}

/// How many reports have come about a message. Forgotten all at once: whoever sends too many is only slowed down.
#[derive(Default)]
struct Counts {
    since: UnixMs,
    by_message: HashMap<MessageId, u32>,
    /// For messages that somebody named without a proof.
    searches: u32,
    /// Mail for people.
    letters: u32,
}

impl Counts {
    fn may_come(&self, message: MessageId, now: UnixMs) -> bool {
        let count = self.by_message.get(&message).copied().unwrap_or(0);
        count < limits::REPORTS_PER_MESSAGE || self.is_over(now)
    }

    /// `false`: there are too many.
    fn reserve(&mut self, message: MessageId, now: UnixMs) -> bool {
        self.go_on(now);
        if self.by_message.len() >= limits::REPORTS_MESSAGES_COUNTED {
            self.by_message.clear();
        }
        let count = self.by_message.entry(message).or_default();
        let may = *count < limits::REPORTS_PER_MESSAGE;
        *count += u32::from(may);
        may
    }

    /// One that was reserved did not come.
    fn give_back(&mut self, message: MessageId) {
        if let Some(count) = self.by_message.get_mut(&message) {
            *count = count.saturating_sub(1);
        }
    }

    fn letter_may_come(&self, now: UnixMs) -> bool {
        self.letters < limits::PEOPLE_MAIL_PER_PERIOD || self.is_over(now)
    }

    fn count_letter(&mut self, now: UnixMs) {
        self.go_on(now);
        self.letters += 1;
    }

    fn may_search(&mut self, now: UnixMs) -> bool {
        self.go_on(now);
        let may = self.searches < limits::COMPLAINT_SEARCHES;
        self.searches += u32::from(may);
        may
    }

    fn is_over(&self, now: UnixMs) -> bool {
        let period = limits::REPORTS_PERIOD.as_millis() as u64;
        now.saturating_sub(self.since) >= period
    }

    fn go_on(&mut self, now: UnixMs) {
        if self.is_over(now) {
            self.by_message.clear();
            (self.since, self.searches, self.letters) = (now, 0, 0);
        }
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
            assert!(counts.may_come(busy, period) && counts.reserve(busy, period));
        }
        // Those under way count.
        assert!(!counts.may_come(busy, period) && !counts.reserve(busy, period));
        counts.give_back(busy);
        assert!(counts.reserve(busy, period) && !counts.reserve(busy, period));
        assert!(counts.may_come(other, period));
        assert!(counts.may_come(busy, 2 * period));
        assert!(counts.reserve(other, 2 * period));
        assert!(counts.may_come(busy, 2 * period));
        assert_eq!(counts.by_message.len(), 1);
    }
}
