//! The operator's verbs on waiting mail, executed: names become numbers, walks go on in steps between the dispatcher's
//! rounds, and tags are read from records on threads that may block.
//!
//! A verb that has begun is brought to its end although whoever asked has gone.

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;
use spool_format::{MessageRecord, kind};

use super::{Backend, Found};
use crate::clock::UnixMs;
use crate::event::{Event, EventKind};
use crate::http::{AdminError, Command, NewDirective, RecipientRef, Selection, Verb, wire};
use crate::limits;
use crate::mail::MessageId;
use crate::node::directives::Kept;
use crate::queue::{Act, Affected, Candidate, Filter, Walk, Withdrawal};

/// The positions at which recipients of a message may be, when it is asked: compaction moves them.
type Everywhere = Box<dyn Fn() -> SmallVec<[u64; 2]> + Send>;

/// A selection, by numbers.
struct Meant {
    kept: Kept,
    filter: Filter,
    /// Where the selection's message is.
    message: Option<(MessageId, Found)>,
}

impl Backend {
    pub(super) async fn operate_now(
        &self,
        command: Command,
        selection: Selection,
    ) -> Result<wire::Affected, AdminError> {
        let Some(meant) = self.meant(&selection, None, command.reason.clone()).await? else {
            return Ok(wire::Affected::default());
        };
        let why = command.reason.as_deref().map(Arc::from);
        let act = match command.verb {
            Verb::Retry => Act::Retry,
            Verb::Bounce => Act::Withdraw {
                how: Withdrawal::Bounce,
                why,
            },
            Verb::Cancel => Act::Withdraw {
                how: Withdrawal::Cancel,
                why,
            },
        };
        let backend = self.clone();
        self.to_its_end(async move {
            let affected = backend.act(&meant, act).await?;
            if command.verb == Verb::Retry {
                backend
                    .tell(EventKind::Retried, &meant.kept, Some(affected))
                    .await?;
            }
            Ok(as_wire(affected))
        })
        .await
    }

    pub(super) async fn direct_now(&self, new: NewDirective) -> Result<wire::Directed, AdminError> {
        let meant = self
            .meant(&new.selection, Some(&new), new.reason.clone())
            .await?;
        let Some(mut meant) = meant else {
            return Err(AdminError::NotFound(
                "there is no such message, or it has no such recipient".to_owned(),
            ));
        };
        if let Some(to) = &new.to {
            self.check_reroute(&meant, to).await?;
        }
        let backend = self.clone();
        self.to_its_end(async move {
            meant.kept = backend.directives.add(meant.kept).await?;
            let id = meant.kept.id;
            let names = &backend.directives.names;
            let directive = names.directive(&meant.kept).map_err(AdminError::Invalid)?;
            backend.ask(move |s, now| s.direct(now, directive)).await?;
            let affected = backend.act(&meant, Act::Obey(id)).await?;
            let kind = match meant.kept.to {
                None => EventKind::Suspended,
                Some(_) => EventKind::Rerouted,
            };
            backend.tell(kind, &meant.kept, Some(affected)).await?;
            let queues = backend.ask(move |s, _| s.directed(id)).await?;
            Ok(wire::Directed {
                directive: meant.kept.as_wire(queues as u64, None),
                ready: affected.ready as u64,
                deferred: affected.deferred as u64,
                in_flight: affected.in_flight as u64,
            })
        })
        .await
    }

    pub(super) async fn resume_now(
        &self,
        which: Result<u32, Selection>,
        reason: Option<String>,
    ) -> Result<wire::Resumed, AdminError> {
        let ids = match which {
            Ok(id) => vec![id],
            Err(selection) => self.directives.named(&selection.selector()),
        };
        let mut ended = Vec::new();
        for id in ids {
            ended.extend(self.end_directive(id, reason.clone()).await?);
        }
        Ok(wire::Resumed { ended })
    }

    /// `None`: there is none of the id.
    async fn end_directive(
        &self,
        id: u32,
        reason: Option<String>,
    ) -> Result<Option<wire::Directive>, AdminError> {
        let backend = self.clone();
        self.to_its_end(async move {
            let queues = backend.ask(move |s, _| s.directed(id)).await?;
            let Some(kept) = backend.directives.remove(id).await? else {
                return Ok(None);
            };
            if kept.is_single() {
                backend.hand_over(id).await?;
            }
            backend.ask(move |s, now| s.end_directive(now, id)).await?;
            let ended = kept.as_wire(queues as u64, None);
            backend
                .tell(EventKind::Resumed, &Kept { reason, ..kept }, None)
                .await?;
            Ok(Some(ended))
        })
        .await
    }

    /// Mail that was set aside for a directive that ends, and that another one means too, is set aside for that one.
    async fn hand_over(&self, ending: u32) -> Result<(), AdminError> {
        for other in self.directives.all() {
            let Ok(directive) = self.directives.names.directive(&other) else {
                continue;
            };
            if directive.filter.is_single() && other.id != ending {
                let filter = Filter {
                    set_aside: Some(ending),
                    ..directive.filter
                };
                self.act_by_records(filter, Act::ObeyInstead(other.id))
                    .await?;
            }
        }
        Ok(())
    }

    /// With what each is about now.
    pub(super) async fn list_directives(&self) -> Result<Vec<wire::Directive>, AdminError> {
        let all = self.directives.all();
        let ids: Vec<u32> = all.iter().map(|kept| kept.id).collect();
        let queues = self
            .ask(move |s, _| ids.iter().map(|&id| s.directed(id)).collect::<Vec<_>>())
            .await?;
        let all = all.iter().zip(queues);
        let listed = all.map(|(kept, queues)| {
            let dormant = self.directives.names.directive(kept).err();
            kept.as_wire(queues as u64, dormant)
        });
        Ok(listed.collect())
    }

    /// Ends directives when their time is over, for as long as the node runs.
    pub(in crate::node) async fn keep_directives(self) {
        loop {
            match self.directives.next_end(self.clock.unix_ms()) {
                Ok(id) => {
                    let over = Some("its time is over".to_owned());
                    if let Err(error) = self.end_directive(id, over).await {
                        tracing::error!(id, %error, "a directive whose time is over cannot be ended; tried again");
                        tokio::time::sleep(limits::DIRECTIVE_PAUSE).await;
                    }
                }
                Err(next) => {
                    let now = self.clock.unix_ms();
                    let wait = next.map_or(limits::DIRECTIVE_LOOK, |at| {
                        std::time::Duration::from_millis(at.saturating_sub(now).max(1))
                    });
                    let wait = wait.min(limits::DIRECTIVE_LOOK);
                    // Whether it was the time or a change: the next look tells.
                    let _ = tokio::time::timeout(wait, self.directives.changed()).await;
                }
            }
        }
    }
}

// Whom a verb means.
impl Backend {
    /// `None`: its message is not there.
    async fn meant(
        &self,
        selection: &Selection,
        new: Option<&NewDirective>,
        reason: Option<String>,
    ) -> Result<Option<Meant>, AdminError> {
        let given_at = self.clock.unix_ms();
        let lasts = new.and_then(|new| new.lasts);
        let mut kept = Kept {
            id: 0,
            selection: selection.selector(),
            server_id: None,
            number: None,
            to: new.and_then(|new| new.to.clone()),
            reason,
            given_at,
            until: lasts.map(|lasts| given_at + lasts.as_millis() as UnixMs),
        };
        if let Some(name) = &selection.server {
            let server = self.accounts.server(name);
            let missing = || AdminError::Invalid(format!("there is no server {name:?}"));
            let server = server.ok_or_else(missing)?;
            kept.server_id = Some(server.id);
            if let Some(stream) = &selection.stream
                && server.stream(stream).is_none()
            {
                return Err(AdminError::Invalid(format!(
                    "server {name:?} has no stream {stream:?}"
                )));
            }
        }
        let mut message = None;
        if let Some(id) = selection.message {
            let Some(found) = self.find(id).await? else {
                return Ok(None);
            };
            if let Some(recipient) = &selection.recipient {
                let Some(number) = found.number_of(recipient) else {
                    return Ok(None);
                };
                kept.number = Some(number);
            }
            message = Some((id, found));
        }
        let filter = self.directives.names.filter(&kept);
        let filter = filter.map_err(AdminError::Invalid)?;
        Ok(Some(Meant {
            kept,
            filter,
            message,
        }))
    }

    /// Mail never changes its kind, and never leaves the sandbox.
    async fn check_reroute(&self, meant: &Meant, to: &str) -> Result<(), AdminError> {
        let invalid = |text: String| Err(AdminError::Invalid(text));
        let names = &self.directives.names;
        let pool = names.pool(to).map_err(AdminError::Invalid)?;
        let kind = names.kind(pool);
        if names.sandbox.contains(&pool) {
            return invalid(format!(
                "pool {to} belongs to sandboxed servers: what it takes is never delivered"
            ));
        }
        if self
            .routes
            .orphaned
            .iter()
            .any(|(orphan, _)| *orphan == pool)
        {
            return invalid(format!("pool {to} is not configured: it has no source"));
        }
        if let Some(from) = meant.filter.pool {
            let name = &names.pools[usize::from(from.0)].0;
            if from == pool {
                return invalid(format!("that mail takes pool {to} already"));
            }
            if names.sandbox.contains(&from) {
                return invalid(format!(
                    "pool {name} belongs to sandboxed servers: its mail is never delivered"
                ));
            }
            if names.kind(from) != kind {
                return invalid(format!(
                    "pool {name} is {:?} and pool {to} is {kind:?}: mail never changes its kind",
                    names.kind(from)
                ));
            }
        }
        // Everything else that it would have to pass over: a selection that means mail of both kinds is a mistake.
        let filter = Filter {
            except: (0..names.pools.len() as u16)
                .map(crate::config::PoolId)
                .filter(|id| names.kind(*id) == kind || names.sandbox.contains(id))
                .collect(),
            ..meant.filter.clone()
        };
        let other = Meant {
            kept: meant.kept.clone(),
            filter,
            message: meant.message.clone(),
        };
        let others = self.act(&other, Act::Count).await?.total();
        if others > 0 {
            return invalid(format!(
                "{others} waiting recipients of {} are not {kind:?} as pool {to} is: mail never changes its kind; name a pool or a stream too",
                meant.kept.selection.words()
            ));
        }
        Ok(())
    }
}

// Walking.
impl Backend {
    /// Runs a piece of work that goes on although whoever asked has gone.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AdminError>> + Send + 'static,
    ) -> Result<T, AdminError> {
        let ended = tokio::spawn(work).await;
        ended.map_err(|error| AdminError::Failed(error.to_string()))?
    }

    async fn act(&self, meant: &Meant, act: Act) -> Result<Affected, AdminError> {
        if let Some((id, found)) = &meant.message {
            let everywhere = self.everywhere(*id, found);
            return self
                .act_on_message(everywhere, meant.filter.clone(), act)
                .await;
        }
        if meant.filter.is_single() {
            return self.act_by_records(meant.filter.clone(), act).await;
        }
        let filter = Arc::new(meant.filter.clone());
        let act = Arc::new(act);
        let (mut sum, mut walk) = (Affected::default(), Walk::default());
        loop {
            let (filter, act) = (Arc::clone(&filter), Arc::clone(&act));
            let step = self.ask(move |s, now| {
                let (affected, done) = s.walk_queues(now, &filter, &act, &mut walk);
                (affected, done, walk)
            });
            let (affected, done, next) = step.await?;
            sum += affected;
            walk = next;
            if done {
                return Ok(sum);
            }
        }
    }

    async fn act_on_message(
        &self,
        everywhere: Everywhere,
        filter: Filter,
        act: Act,
    ) -> Result<Affected, AdminError> {
        self.ask(move |s, now| {
            let mut sum = Affected::default();
            for position in everywhere() {
                for who in s.candidates_at(position, &filter) {
                    s.apply(now, who, &act, &mut sum);
                }
            }
            sum
        })
        .await
    }

    /// Reads the records of those who may be meant. Walks again while that finds more: recipients move in memory.
    async fn act_by_records(&self, filter: Filter, act: Act) -> Result<Affected, AdminError> {
        let filter = Arc::new(filter);
        let act = Arc::new(act);
        let mut sum = Affected::default();
        let mut done_with: HashSet<(u64, u16)> = HashSet::new();
        for _ in 0..PASSES_MAX {
            let (mut walk, mut found_more) = (Walk::default(), false);
            loop {
                let walked = Arc::clone(&filter);
                let (mut candidates, done, next) = self
                    .ask(move |s, _| {
                        let (candidates, done) = s.walk_recipients(&walked, &mut walk);
                        (candidates, done, walk)
                    })
                    .await?;
                walk = next;
                candidates.retain(|who| !done_with.contains(&(who.position, who.number)));
                let meant = self.read_tags(candidates, &filter).await?;
                if !meant.is_empty() {
                    let act = Arc::clone(&act);
                    let (affected, reached) = self
                        .ask(move |s, now| {
                            let mut affected = Affected::default();
                            let mut reached = meant;
                            reached.retain(|who| s.apply(now, *who, &act, &mut affected));
                            (affected, reached)
                        })
                        .await?;
                    sum += affected;
                    found_more |= !reached.is_empty();
                    done_with.extend(reached.iter().map(|who| (who.position, who.number)));
                }
                if done {
                    break;
                }
            }
            if !found_more {
                break;
            }
        }
        Ok(sum)
    }

    /// Those of the candidates whose records are meant. One that cannot be read is not.
    async fn read_tags(
        &self,
        candidates: Vec<Candidate>,
        filter: &Arc<Filter>,
    ) -> Result<Vec<Candidate>, AdminError> {
        if candidates.is_empty() {
            return Ok(candidates);
        }
        let (spool, filter) = (Arc::clone(&self.spool), Arc::clone(filter));
        let read = move || {
            let mut candidates = candidates;
            candidates.sort_by_key(|who| (who.position, who.number));
            let mut meant = Vec::new();
            for same in candidates.chunk_by(|a, b| a.position == b.position) {
                let Ok(record) = spool.mail.read_aside(same[0].position) else {
                    continue;
                };
                let Ok(message) = MessageRecord::decode(&record.payload) else {
                    continue;
                };
                let random = MessageId::from_bytes(message.id).random();
                let is_meant = |who: &&Candidate| filter.names(random, who.number, message.tag);
                meant.extend(same.iter().filter(is_meant).copied());
            }
            meant
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| AdminError::Failed(error.to_string()))
    }

    /// Writes down what an operator did.
    async fn tell(
        &self,
        kind: EventKind,
        kept: &Kept,
        affected: Option<Affected>,
    ) -> Result<(), AdminError> {
        let message = kept.selection.message.as_deref();
        let message = message.and_then(|id| id.parse::<MessageId>().ok());
        let mut detail = kept.words();
        if let Some(affected) = affected {
            detail += &format!("; {} recipients", affected.total());
        }
        if let Some(reason) = &kept.reason {
            detail += &format!("; reason: {reason}");
        }
        let event = Event {
            kind,
            at: self.clock.unix_ms(),
            message_id: message.unwrap_or_else(|| MessageId::from_bytes([0; 16])),
            recipient_number: 0,
            recipient: "",
            server_id: kept.server_id.unwrap_or(0),
            server: kept.selection.server.as_deref().unwrap_or_default(),
            stream: kept.selection.stream.as_deref().unwrap_or_default(),
            source: kept.selection.source.as_deref().unwrap_or_default(),
            remote_host: "",
            reply: "",
            cause: crate::outcome::CauseClass::Admin.as_str(),
            detail: &detail,
            judged: Default::default(),
            attempts: 0,
            next_attempt: kept.until,
            origin: "",
            since: None,
            idempotency: &[],
            reverse_path: "",
            ..Event::nothing()
        };
        let mut buffer = Vec::new();
        event.encode(&mut buffer);
        let parts: [&[u8]; 1] = [&buffer];
        let written = self.spool.events.append_lazy(kind::EVENT, 0, &parts).await;
        written.map(drop).map_err(|error| {
            AdminError::Failed(format!(
                "it is done, but the event cannot be written: {error}"
            ))
        })
    }

    pub(super) fn everywhere(&self, id: MessageId, found: &Found) -> Everywhere {
        let (places, position) = (Arc::clone(&self.places), found.position);
        Box::new(move || {
            let mut positions = places.of(id.as_bytes());
            if !positions.contains(&position) {
                positions.push(position);
            }
            positions
        })
    }
}

impl Found {
    fn number_of(&self, recipient: &RecipientRef) -> Option<u16> {
        match recipient {
            RecipientRef::Number(number) => {
                (usize::from(*number) < self.recipients.len()).then_some(*number)
            }
            RecipientRef::Address(address) => self
                .recipients
                .iter()
                .position(|r| r == address)
                .map(|n| n as u16),
        }
    }
}

fn as_wire(affected: Affected) -> wire::Affected {
    wire::Affected {
        ready: affected.ready as u64,
        deferred: affected.deferred as u64,
        in_flight: affected.in_flight as u64,
    }
}

/// Over all recipients, for a verb that reads records.
const PASSES_MAX: usize = 4;
