//! DKIM keys as everybody reads them: their public halves, their states, and what was last seen of their records.
//!
//! | State | Signs | How it comes | How it goes |
//! |---|---|---|---|
//! | pending | no | made or imported | active, once its record is found; or taken back |
//! | active | yes | its record was found, or the configuration declares it | revoked, by the next one or an order |
//! | active, paused | no | its record is gone for certain | active, once it is found again |
//! | revoked | no | followed, or revoked | forgotten, once its record is needed no more |

use crate::clock::UnixMs;
use crate::limits;
use crate::mail::Domain;
use crate::sign::{Algorithm, is_weak};

/// A key. Its private half is in the snapshot, to sign with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DkimKey {
    pub selector: String,
    pub algorithm: Algorithm,
    pub bits: u16,
    /// The `p=` of its record.
    pub public: String,
    pub state: KeyState,
    /// In its state.
    pub since: UnixMs,
    /// Of the configuration file.
    pub declared: bool,
    /// Before the first: `None`.
    pub look: Option<Look>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Pending,
    Active,
    Revoked,
}

/// What the DNS last said of a key's record. Failures to answer leave it as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub found: bool,
    /// Since when that is so.
    pub since: UnixMs,
    pub checked: UnixMs,
    /// What was there instead, for people; empty where it was found.
    pub seen: String,
}

/// All keys of a domain: of each algorithm at most one pending and one active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DkimKeys(pub Vec<DkimKey>);

impl DkimKey {
    /// Where its record stands.
    pub fn host(&self, domain: &Domain) -> String {
        format!("{}._domainkey.{domain}", self.selector)
    }

    /// What the owner of the domain publishes there.
    pub fn record(&self) -> String {
        format!("k={}; p={}", self.algorithm.as_str(), self.public)
    }

    /// It signs.
    pub fn is_usable(&self) -> bool {
        self.state == KeyState::Active && !self.is_missed()
    }

    /// It would sign if its record were there.
    pub fn is_paused(&self) -> bool {
        self.state == KeyState::Active && self.is_missed()
    }

    fn is_missed(&self) -> bool {
        self.look.as_ref().is_some_and(|look| !look.found)
    }

    pub fn is_weak(&self) -> bool {
        is_weak(self.algorithm, self.bits)
    }

    /// Of a revoked key: until when what it has signed may still be verified.
    pub fn needed_until(&self) -> Option<UnixMs> {
        let needed = limits::SIGNATURE_VALID.as_millis() as UnixMs;
        (self.state == KeyState::Revoked).then_some(self.since + needed)
    }

    /// Whether a revoked key's record is needed no more.
    pub fn is_removable(&self, now: UnixMs) -> bool {
        self.needed_until().is_some_and(|until| now >= until)
    }

    /// For people and programs: a state, or `paused`.
    pub fn state_text(&self) -> &'static str {
        match self.is_paused() {
            true => "paused",
            false => self.state.as_str(),
        }
    }
}

impl DkimKeys {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &DkimKey> {
        self.0.iter()
    }

    pub fn of(&self, algorithm: Algorithm, state: KeyState) -> Option<&DkimKey> {
        let mut keys = self.0.iter();
        keys.find(|key| key.algorithm == algorithm && key.state == state)
    }

    pub fn find(&self, selector: &str) -> Option<&DkimKey> {
        self.0.iter().find(|key| key.selector == selector)
    }

    /// Those that sign, RSA first: one of each algorithm. The configuration may declare more, then it is the first whose
    /// record is not missed.
    pub fn usable(&self) -> impl Iterator<Item = &DkimKey> {
        let of = |algorithm| {
            let mut keys = self.0.iter();
            keys.find(|key| key.algorithm == algorithm && key.is_usable())
        };
        Algorithm::ALL.into_iter().filter_map(of)
    }

    /// Followed by others, the latest last.
    pub fn revoked(&self) -> impl Iterator<Item = &DkimKey> {
        self.0.iter().filter(|key| key.state == KeyState::Revoked)
    }

    /// Where there is room for one key only, as in Postmark's objects, it is of this algorithm: RSA, unless the domain has
    /// Ed25519 alone.
    pub fn first_algorithm(&self) -> Algorithm {
        let lives = |state| self.of(Algorithm::Rsa, state).is_some();
        let only_other = |state| self.of(Algorithm::Ed25519, state).is_some();
        let states = [KeyState::Pending, KeyState::Active];
        match !states.into_iter().any(lives) && states.into_iter().any(only_other) {
            true => Algorithm::Ed25519,
            false => Algorithm::Rsa,
        }
    }

    /// The one to show of a state; of revoked ones the latest.
    pub fn first(&self, state: KeyState) -> Option<&DkimKey> {
        match state {
            KeyState::Revoked => self.revoked().last(),
            KeyState::Pending | KeyState::Active => self.of(self.first_algorithm(), state),
        }
    }
}

impl KeyState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }

    pub fn from_text(text: &str) -> Option<Self> {
        let all = [Self::Pending, Self::Active, Self::Revoked];
        all.into_iter().find(|state| state.as_str() == text)
    }
}
