//! Taking over a message that another node has accepted: it keeps its id, its age, and every octet of its content.
//!
//! That node has stamped it and has decided whether its sender may send; neither is done twice. What the spool needs of
//! every message holds here too: a server and a stream that exist, a header section within the limits.

use super::policy::{self, Pools};
use super::stamp::Stamp;
use super::times::Times;
use super::{Accept, Assignment, Context, Refusal, Tracking};
use crate::clock::UnixMs;
use crate::mail::MessageId;
use crate::mail::header::Section;

/// What the other node knew of it, besides the envelope.
#[derive(Debug, Default)]
pub struct Import {
    /// `None`: it gets a new one.
    pub id: Option<MessageId>,
    /// From which its life counts; `None`: from now on.
    pub accepted_at: Option<UnixMs>,
    pub stream: Option<String>,
    pub tag: Option<String>,
    pub metadata: Vec<(String, String)>,
    pub release_at: Option<UnixMs>,
    pub deadline: Option<UnixMs>,
}

impl Import {
    /// No edits.
    pub(super) fn untouched(
        &self,
        octets: &[u8],
        section: &Section<'_>,
        context: &Context,
        pools: &Pools,
    ) -> Result<(Stamp, Assignment), Refusal> {
        let body = section.end();
        let stamp = Stamp {
            prefix: String::new(),
            kept: std::iter::once(0..body).collect(),
            body,
            separator: b"",
            ascii_header: octets[..body].is_ascii(),
            tag: self.tag.clone(),
            metadata: self.metadata.clone(),
            tracking: Tracking::default(),
            claim: None,
            times: Times {
                release_at: self.release_at,
                deadline: self.deadline,
            },
            bounce_type: None,
            notices: policy::wants_notices(context, section),
        };
        Ok((
            stamp,
            policy::assign(context, pools, self.stream.as_deref())?,
        ))
    }
}

impl Accept {
    /// Whether [`Accept::begin`] would take such a message now, and its stream exists.
    pub fn check(&self, context: &Context) -> Result<(), Refusal> {
        self.ready()?;
        let stream = context.import.as_ref().and_then(|i| i.stream.as_deref());
        policy::assign(context, &self.shared.pools, stream).map(drop)
    }
}
