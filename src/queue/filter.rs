//! Which mail an operator means: everything that is named has to be so.

use std::sync::Arc;

use smallvec::SmallVec;

use super::key::{PoolId, SourceId};

/// Nothing named: all mail. With a `message` or a `tag` it means recipients one by one, else whole queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub pool: Option<PoolId>,
    pub domain: Option<Arc<str>>,
    /// The site's key.
    pub site: Option<Arc<str>>,
    /// The tenant.
    pub server: Option<u32>,
    pub stream: Option<Arc<str>>,
    /// That the mail sticks to, or takes now.
    pub source: Option<SourceId>,
    pub tag: Option<Arc<str>>,
    /// [`super::NewRecipient::message`].
    pub message: Option<u64>,
    /// In order of RCPT.
    pub number: Option<u16>,
    /// Only what is set aside for the directive of this id.
    pub set_aside: Option<u32>,
    /// Pools whose mail is not meant, whatever else is named.
    pub except: SmallVec<[PoolId; 2]>,
}

/// What a queue is, as a [`Filter`] asks.
pub(super) struct Traits<'a> {
    pub(super) pool: PoolId,
    pub(super) domain: &'a str,
    /// `None`: its route is not known now.
    pub(super) site: Option<&'a str>,
    pub(super) server: u32,
    pub(super) stream: &'a str,
    /// That it sticks to, and that it takes now.
    pub(super) sources: [Option<SourceId>; 2],
    /// The directive that it is set aside for; 0: none.
    pub(super) aside: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    No,
    Yes,
    /// As far as is known; its site will tell.
    Open,
}

impl Filter {
    /// Means recipients one by one.
    pub fn is_single(&self) -> bool {
        self.tag.is_some() || self.message.is_some()
    }

    /// Whether a queue is meant, or recipients of it may be.
    pub(super) fn matches(&self, traits: &Traits<'_>) -> Match {
        let same = |wanted: &Option<Arc<str>>, is: &str| wanted.as_ref().is_none_or(|w| **w == *is);
        let sure = self.pool.is_none_or(|pool| pool == traits.pool)
            && same(&self.domain, traits.domain)
            && self.server.is_none_or(|server| server == traits.server)
            && same(&self.stream, traits.stream)
            && (self.source.is_none() || traits.sources.contains(&self.source))
            && self.set_aside.is_none_or(|id| id == traits.aside)
            && !self.except.contains(&traits.pool);
        match (&self.site, traits.site) {
            _ if !sure => Match::No,
            (None, _) => Match::Yes,
            (Some(_), None) => Match::Open,
            (Some(wanted), Some(site)) if **wanted == *site => Match::Yes,
            _ => Match::No,
        }
    }

    /// Whether a recipient of a queue that is meant is.
    pub fn names(&self, message: u64, number: u16, tag: Option<&str>) -> bool {
        self.message.is_none_or(|wanted| wanted == message)
            && self.number.is_none_or(|wanted| wanted == number)
            && self
                .tag
                .as_ref()
                .is_none_or(|wanted| tag == Some(&**wanted))
    }
}
