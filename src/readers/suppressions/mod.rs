//! The reader that keeps suppressions: which there are is in memory, whose they are in its base and in the event log.
//!
//! Promises: a change is an event, and durable before its caller hears of it; from then on acceptance knows it; what a start
//! rebuilds is what was there. Changes are judged and made one after the other.
//! Does not know: the words of the API, nor who may ask for what ([`Suppression::is_the_customers`] tells what a customer may lift).
//!
//! How: [`suppression::Set`] holds 12 octets of each for acceptance. Addresses are in the base, in order of their tags, and
//! the changes since then in memory; listings go over both. A new base is written when the changes or the event log behind
//! it have grown ([`limits::SUPPRESSIONS_SINCE_BASE`], [`limits::SUPPRESSIONS_LOG`]), so that a start reads little of the log.

mod basing;
mod listing;
mod rebuild;
mod state;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spool_format::kind;
use tokio::sync::Semaphore;

use crate::clock::{Clock, UnixMs};
use crate::event::{Event, EventKind, Judged};
use crate::limits;
use crate::mail::{Mailbox, MessageId};
use crate::metrics;
use crate::spool::{AppendError, Spool};
use crate::suppression::{self, Origin, Suppression, Tag, TagKey};

use listing::{Change, Recent};
pub use listing::{Filter, Listed, Listing};
use rebuild::Rebuild;
use state::Stored;
pub use state::{Kept, List};

/// The suppressions of a node. Shared; dropping it stops nothing.
pub struct Suppressions {
    spool: Arc<Spool>,
    set: Arc<suppression::Set>,
    clock: Clock,
    /// Addresses are not kept.
    hashed: bool,
    state: Mutex<State>,
    /// Held by whoever changes something, until that is in the log and here.
    changing: tokio::sync::Mutex<()>,
    /// Held by whoever writes a base.
    writing: tokio::sync::Mutex<()>,
    dumps: Arc<Semaphore>,
}

struct State {
    stored: Option<Arc<Stored>>,
    recent: HashMap<List, Arc<Recent>>,
    /// Entries of `recent`.
    changes: usize,
    /// All suppressions.
    count: usize,
    /// The base does not hold what it should, whatever has changed since.
    stale: bool,
}

/// Whom a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Clear(Mailbox),
    /// One that is not kept.
    Hashed(Tag),
}

/// A suppression to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    pub address: Address,
    pub suppression: Suppression,
    /// `None`: from now on.
    pub since: Option<UnixMs>,
}

/// Where changes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub list: List,
    /// The server's name, for the event.
    pub server: Arc<str>,
}

/// What a suppression rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The message and its recipient, where there is one.
    pub recipient: Option<(MessageId, u16)>,
    /// The remote host's words.
    pub reply: String,
    /// A sentence for people.
    pub detail: String,
    /// The event that says it, and the rule that judged that.
    pub event: Option<u64>,
    pub rule: String,
}

/// What became of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Suppressed,
    /// It was, and stays as it was.
    Kept(Suppression),
    Lifted,
    /// There was nothing to lift.
    NotSuppressed,
    /// Whoever asked may not lift this.
    NotAllowed(Suppression),
}

/// Why nothing, or only the beginning, was changed. It may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("they cannot be written down: {0}")]
    Log(#[from] AppendError),
    #[error("there are {} of them already", limits::SUPPRESSIONS_MAX)]
    Full,
    #[error("the list of addresses cannot be written")]
    Base,
    #[error("too many are being listed")]
    Busy,
}

/// What is wanted of one address.
enum Wish {
    Suppress(Suppression, Option<UnixMs>),
    /// By whom: the operator may lift anything.
    Lift(Origin),
}

/// An event to be written, and what it makes.
struct Step {
    tag: Tag,
    address: Address,
    kind: EventKind,
    suppression: Suppression,
    since: Option<UnixMs>,
}

impl Suppressions {
    /// Rebuilds from base and log what `set` is to hold. Blocks.
    /// # Errors
    /// Of the file system. Damage is none: it is reported, and costs what it hit.
    pub fn open(
        spool: Arc<Spool>,
        set: Arc<suppression::Set>,
        hashed: bool,
        clock: Clock,
    ) -> io::Result<Arc<Self>> {
        let mut rebuild = Rebuild::new(set.key().clone(), hashed);
        let stored = rebuild.read_base(spool.readers())?;
        let from = stored.as_ref().map_or(0, |stored| stored.base.position);
        rebuild.read_log(&spool.events, from);
        set.replace(rebuild.loading.finish());
        let recent = rebuild.recent.into_iter();
        let recent: HashMap<List, Arc<Recent>> = recent
            .map(|(list, changes)| (list, Arc::new(changes)))
            .collect();
        let state = State {
            stored: stored.map(Arc::new),
            changes: recent.values().map(|changes| changes.len()).sum(),
            recent,
            count: set.count(),
            stale: rebuild.stale,
        };
        metrics::SUPPRESSIONS.set(state.count as f64);
        Ok(Arc::new(Self {
            spool,
            set,
            clock,
            hashed,
            state: Mutex::new(state),
            changing: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            dumps: Arc::new(Semaphore::new(limits::SUPPRESSION_DUMPS)),
        }))
    }

    /// What acceptance asks.
    pub fn set(&self) -> &Arc<suppression::Set> {
        &self.set
    }

    /// Whether what the event at `position` says of that address was answered already, as far as the base does not hold that.
    pub fn is_settled(&self, list: &List, tag: Tag, position: u64) -> bool {
        let state = self.state();
        let change = state.recent.get(list).and_then(|recent| recent.get(&tag));
        change.is_some_and(|change| change.settles >= position)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.state().count
    }

    /// Makes suppressions, those that are there first staying ([`Suppression::yields_to`]). One answer for each, in order.
    /// Bounce and complaint handling calls this too, with its evidence.
    /// # Durability
    /// `Ok`: they hold from now on, whatever happens to the node. `Err`: the first of them may, in order.
    /// # Cancel safety
    /// What was begun is finished whether the future is dropped or not.
    pub async fn suppress(
        self: &Arc<Self>,
        place: Place,
        news: Vec<New>,
        evidence: Evidence,
    ) -> Result<Vec<Made>, Trouble> {
        self.change(place, wishes(news), evidence).await
    }

    /// What [`Self::suppress`] would answer now.
    pub fn would(&self, place: &Place, news: Vec<New>) -> Vec<Made> {
        self.judge(&place.list, wishes(news)).0
    }

    /// Lifts suppressions: for a customer those that are his to lift, for the operator any. As [`Self::suppress`] otherwise.
    pub async fn lift(
        self: &Arc<Self>,
        place: Place,
        addresses: Vec<Address>,
        by: Origin,
    ) -> Result<Vec<Made>, Trouble> {
        let wishes = addresses
            .into_iter()
            .map(|address| (address, Wish::Lift(by)));
        self.change(place, wishes.collect(), Evidence::default())
            .await
    }

    /// What is suppressed: in one stream, or in all.
    pub fn list(&self, list: Option<List>, filter: Filter) -> Result<Listing, Trouble> {
        let turn = Arc::clone(&self.dumps).try_acquire_owned();
        let turn = turn.map_err(|_| Trouble::Busy)?;
        let state = self.state();
        let lists = match list {
            Some(list) => BTreeSet::from([list]),
            None => state.lists(),
        };
        let with_changes = |list: List| {
            let recent = state.recent.get(&list).map(Arc::clone);
            (list, recent)
        };
        Ok(Listing {
            key: self.set.key().clone(),
            stored: state.stored.as_ref().map(Arc::clone),
            lists: lists.into_iter().map(with_changes).collect(),
            filter,
            _turn: turn,
        })
    }

    async fn change(
        self: &Arc<Self>,
        place: Place,
        wishes: Vec<(Address, Wish)>,
        evidence: Evidence,
    ) -> Result<Vec<Made>, Trouble> {
        let this = Arc::clone(self);
        let task = tokio::spawn(async move { this.make(place, wishes, evidence).await });
        match task.await {
            Ok(made) => made,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends.
                Err(_) => Err(Trouble::Log(AppendError::Stopped)),
            },
        }
    }

    async fn make(
        self: Arc<Self>,
        place: Place,
        wishes: Vec<(Address, Wish)>,
        evidence: Evidence,
    ) -> Result<Vec<Made>, Trouble> {
        let is_crowded = {
            let state = self.state();
            state.changes >= state.changes_max()
        };
        if is_crowded && let Err(error) = self.write_base().await {
            tracing::error!(%error, "the base of the suppressions cannot be written; no more are taken until it can");
            return Err(Trouble::Base);
        }
        let _one = self.changing.lock().await;
        let (made, steps) = self.judge(&place.list, wishes);
        let new = steps.iter().filter(|s| s.kind == EventKind::Suppressed);
        if self.count() + new.count() > limits::SUPPRESSIONS_MAX {
            return Err(Trouble::Full);
        }
        let now = self.clock.unix_ms();
        let (mut buffer, mut written, mut last) = (Vec::new(), Vec::new(), None);
        let mut trouble = None;
        for step in &steps {
            buffer.clear();
            self.encode(step, &place, &evidence, now, &mut buffer);
            let events = &self.spool.events;
            match events.append(kind::EVENT, 0, &[&buffer], None).await {
                Ok(ticket) => {
                    written.push(ticket.position());
                    last = Some(ticket);
                }
                Err(error) => {
                    trouble = Some(error);
                    break;
                }
            }
        }
        // A log becomes durable in order.
        if let Some(ticket) = last {
            ticket.await?;
        }
        let steps = steps.into_iter().zip(written);
        self.take(&place.list, steps, evidence.event, now);
        match trouble {
            None => Ok(made),
            Some(error) => Err(error.into()),
        }
    }

    /// What becomes of each, and what is to be written for that.
    fn judge(&self, list: &List, wishes: Vec<(Address, Wish)>) -> (Vec<Made>, Vec<Step>) {
        let mut steps: Vec<Step> = Vec::new();
        // What is yet to be written counts for those behind it.
        let mut ahead: HashMap<Tag, Option<Suppression>> = HashMap::new();
        let mut made = Vec::with_capacity(wishes.len());
        for (address, wish) in wishes {
            let tag = address.tag(self.set.key(), list);
            let there = ahead.get(&tag).copied();
            let there = there.unwrap_or_else(|| self.set.find(tag));
            let (outcome, change) = match (wish, there) {
                (Wish::Suppress(new, _), Some(old)) if !old.yields_to(new) => {
                    (Made::Kept(old), None)
                }
                (Wish::Suppress(new, since), _) => {
                    (Made::Suppressed, Some((EventKind::Suppressed, new, since)))
                }
                (Wish::Lift(_), None) => (Made::NotSuppressed, None),
                (Wish::Lift(by), Some(old)) if by != Origin::Admin && !old.is_the_customers() => {
                    (Made::NotAllowed(old), None)
                }
                (Wish::Lift(by), Some(old)) => {
                    let lifted = Suppression { origin: by, ..old };
                    (Made::Lifted, Some((EventKind::Unsuppressed, lifted, None)))
                }
            };
            made.push(outcome);
            let Some((kind, suppression, since)) = change else {
                continue;
            };
            let holds = (kind == EventKind::Suppressed).then_some(suppression);
            ahead.insert(tag, holds);
            steps.push(Step {
                tag,
                address,
                kind,
                suppression,
                since,
            });
        }
        (made, steps)
    }

    fn encode(
        &self,
        step: &Step,
        place: &Place,
        evidence: &Evidence,
        now: UnixMs,
        out: &mut Vec<u8>,
    ) {
        let (message_id, recipient_number) = match evidence.recipient {
            Some(recipient) => recipient,
            None => (MessageId::from_bytes([0; 16]), 0),
        };
        let recipient = match &step.address {
            Address::Clear(mailbox) if !self.hashed => mailbox.to_string(),
            _ => step.tag.to_string(),
        };
        Event {
            kind: step.kind,
            at: now,
            message_id,
            recipient_number,
            recipient: &recipient,
            server_id: place.list.server,
            server: &place.server,
            stream: &place.list.stream,
            source: "",
            remote_host: "",
            reply: shortened(&evidence.reply),
            cause: step.suppression.reason.as_str(),
            detail: shortened(&evidence.detail),
            judged: Judged {
                rule: &evidence.rule,
                evidence: evidence.event,
                ..Judged::default()
            },
            attempts: 0,
            next_attempt: None,
            mail_position: None,
            origin: step.suppression.origin.as_str(),
            since: step.since,
            idempotency: &[],
            reverse_path: "",
            ..Event::nothing()
        }
        .encode(out);
    }

    /// Takes over what is durable.
    fn take(
        &self,
        list: &List,
        steps: impl Iterator<Item = (Step, u64)>,
        evidence: Option<u64>,
        now: UnixMs,
    ) {
        let mut state = self.state();
        for (step, event) in steps {
            let holds = (step.kind == EventKind::Suppressed).then_some(step.suppression);
            match holds {
                Some(suppression) => {
                    metrics::SUPPRESSED.add_to(suppression.reason.as_str(), 1);
                    let is_new = self.set.find(step.tag).is_none();
                    state.count += usize::from(is_new);
                }
                None => {
                    metrics::UNSUPPRESSED.add(1);
                    state.count = state.count.saturating_sub(1);
                }
            }
            let kept = holds.map(|suppression| Kept {
                address: match step.address {
                    Address::Clear(mailbox) if !self.hashed => Some(mailbox.as_str().into()),
                    _ => None,
                },
                suppression,
                since: step.since.unwrap_or(now),
                event,
            });
            let change = Change {
                event,
                settles: evidence.unwrap_or(event),
                kept,
            };
            state.note(list, step.tag, change);
            self.set.put(step.tag, holds);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, list: &List, tag: Tag, change: Change) {
        let recent = match self.recent.get_mut(list) {
            Some(recent) => recent,
            None => self.recent.entry(list.clone()).or_default(),
        };
        let before = Arc::make_mut(recent).insert(tag, change);
        self.changes += usize::from(before.is_none());
    }

    /// How many changes may be in memory.
    fn changes_max(&self) -> usize {
        limits::SUPPRESSIONS_SINCE_BASE.max(self.count / 16)
    }

    fn lists(&self) -> BTreeSet<List> {
        let stored = self.stored.iter().flat_map(|stored| stored.sections.keys());
        stored.chain(self.recent.keys()).cloned().collect()
    }
}

impl Address {
    /// An address, or what stands in its place where it is not kept.
    pub fn parse(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(tag) => Some(Self::Hashed(tag)),
            Err(_) => Mailbox::parse(text, true).ok().map(Self::Clear),
        }
    }

    pub fn tag(&self, key: &TagKey, list: &List) -> Tag {
        match self {
            Self::Clear(mailbox) => key.tag(list.server, &list.stream, mailbox),
            Self::Hashed(tag) => *tag,
        }
    }
}

fn wishes(news: Vec<New>) -> Vec<(Address, Wish)> {
    let wish = |new: New| (new.address, Wish::Suppress(new.suppression, new.since));
    news.into_iter().map(wish).collect()
}

/// Up to where an event that makes or lifts a suppression answers what the log says of its address. One that rests on an event
/// answers that and those before it, not what came between it and the change; any other one all that was there.
pub(super) fn settles(event: &Event<'_>, position: u64) -> u64 {
    event.judged.evidence.unwrap_or(position)
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(limits::SUPPRESSION_EVIDENCE)]
}

/// Of the reader and of its base.
const NAME: &str = "suppressions";
