//! How notices leave: as mail of the server that they are about, by its transactional stream, from the null reverse-path.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::policies::Policies;
use crate::accept::sending_stream;
use crate::accept::{Accept, AcceptedRecipient, Context, DEFAULT_STREAM, Given, Refusal, Tracking};
use crate::account::model::TrackLinks;
use crate::account::{Accounts, Sender, ServerInfo};
use crate::clock::UnixMs;
use crate::config::StreamKind;
use crate::mail::{DsnRecipient, ForwardPath, ReversePath};
use crate::readers::notices::{Letter, NotPosted, Post};

pub(super) struct NoticePost {
    pub(super) accept: Accept,
    pub(super) accounts: Arc<Accounts>,
    pub(super) policies: Arc<Policies>,
    pub(super) hostname: String,
}

impl Post for NoticePost {
    async fn post(&self, letter: Letter) -> Result<(), NotPosted> {
        let never = |why: &str| NotPosted::Never(why.to_owned());
        let server = self.accounts.server_with_id(letter.server);
        let server = server.ok_or_else(|| never("its server was deleted"))?;
        let stream = stream_of(&server).ok_or_else(|| {
            never("the server has no transactional stream that sends; give one a pool")
        })?;
        let recipient = ForwardPath::parse(&letter.to, true)
            .map_err(|error| never(&format!("the reverse-path cannot be used: {error}")))?;
        // A notice that would be refused for it is no news to anybody.
        let suppressed = self
            .accept
            .suppressed(server.id, &stream, [recipient.mailbox()]);
        if suppressed == [true] {
            return Err(NotPosted::Suppressed);
        }
        let context = Context {
            sender: Sender::of_notices(&server),
            client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            helo: self.hostname.clone(),
            client_name: None,
            tls: None,
            protocol: "LOCAL",
            // RFC 3464 §2: so that nothing is told of it.
            reverse_path: ReversePath::Null,
            smtputf8: !letter.to.is_ascii(),
            recipients: vec![AcceptedRecipient {
                path: recipient,
                dsn: DsnRecipient::default(),
            }],
            envelope_id: None,
            dsn_return: None,
            hold: None,
            deliver_by: None,
            import: None,
            given: Some(Given {
                stream: Some(stream),
                tracking: Tracking {
                    opens: Some(false),
                    links: Some(TrackLinks::None),
                },
                notice_of: letter.about,
                ..Given::default()
            }),
        };
        let mut intake = self.accept.begin(context).map_err(refused)?;
        for piece in letter.content.chunks(PIECE) {
            intake.push(piece).await.map_err(refused)?;
        }
        let accepted = intake.finish().await.map_err(refused)?;
        tracing::debug!(message_id = %accepted.id(), "a notice is on its way");
        Ok(())
    }

    fn given_up_at(&self, server: u32, stream: &str, accepted_at: UnixMs) -> Option<UnixMs> {
        let found = self.accounts.server_with_id(server)?;
        let kind = found.stream(stream)?.kind;
        let retry = self.policies.of(server, stream, kind).retry;
        Some(accepted_at + retry.max_age.as_millis() as u64)
    }
}

/// The server's default stream, or the first other one that sends one-to-one mail.
fn stream_of(server: &ServerInfo) -> Option<String> {
    let sends = |id: &str| {
        let (stream, kind) = sending_stream(server, id).ok()?;
        let has_way = server.sandbox || stream.pool.is_some();
        (kind == StreamKind::Transactional && has_way).then(|| stream.id.to_string())
    };
    let others = server.streams.iter().map(|stream| &*stream.id);
    std::iter::once(DEFAULT_STREAM)
        .chain(others)
        .find_map(sends)
}

fn refused(refusal: Refusal) -> NotPosted {
    let said = refusal.to_string();
    match refusal.is_temporary() {
        true => NotPosted::Now(said),
        false => NotPosted::Never(said),
    }
}

/// Octets that are handed over at a time.
const PIECE: usize = 64 << 10;
