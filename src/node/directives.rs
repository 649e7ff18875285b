//! Directives of operators that stand, suspensions and reroutes: kept in a file, so that they hold over restarts.
//!
//! Promises: who is told that a directive stands can rely on the file, whatever happens to the process or the power; a file
//! that cannot be read stops the start, since mail that an operator stopped must not go out; names that the configuration
//! does not know any more make a directive dormant, not forgotten. The scheduler obeys them; this only remembers.
//!
//! The file is written anew with each change: to a temporary one, synced, renamed, directory synced. It is read by name, so
//! that pools and sources may be numbered anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::pools::PoolPlan;
use super::{StartError, state_file};
use crate::clock::{UnixMs, rfc3339};
use crate::config::{Config, PoolId, SourceId, StreamKind};
use crate::http::{AdminError, wire};
use crate::limits;
use crate::mail::MessageId;
use crate::queue::{Directive, Filter, Standing};

/// One that stands, by names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// 0 until it is kept.
    #[serde(default)]
    pub(super) id: u32,
    pub(super) selection: wire::Selector,
    /// Of the selection's server.
    #[serde(default)]
    pub(super) server_id: Option<u32>,
    /// Of the selection's recipient.
    #[serde(default)]
    pub(super) number: Option<u16>,
    /// The pool of a reroute; a suspension has none.
    #[serde(default)]
    pub(super) to: Option<String>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    pub(super) given_at: UnixMs,
    #[serde(default)]
    pub(super) until: Option<UnixMs>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// The id that was given last.
    last_id: u32,
    directives: Vec<Kept>,
}

/// What names mean for as long as the node runs.
pub(super) struct Names {
    pub(super) pools: Vec<(Arc<str>, StreamKind)>,
    pub(super) sources: Vec<Arc<str>>,
    /// Of sandboxed servers: their mail takes no other pool.
    pub(super) sandbox: [PoolId; 2],
}

pub(super) struct Directives {
    dir: PathBuf,
    pub(super) names: Names,
    contents: ArcSwap<Contents>,
    /// Whoever changes the file, on a thread that may block.
    writing: Mutex<()>,
    changed: Notify,
}

impl Names {
    pub(super) fn pool(&self, name: &str) -> Result<PoolId, String> {
        let index = self.pools.iter().position(|(pool, _)| **pool == *name);
        index
            .map(|index| PoolId(index as u16))
            .ok_or_else(|| format!("there is no pool {name:?}"))
    }

    pub(super) fn kind(&self, pool: PoolId) -> StreamKind {
        self.pools[usize::from(pool.0)].1
    }

    fn source(&self, name: &str) -> Result<SourceId, String> {
        let index = self.sources.iter().position(|source| **source == *name);
        index
            .map(|index| SourceId(index as u16))
            .ok_or_else(|| format!("there is no source {name:?}"))
    }

    /// Pools whose mail a reroute to this one never means.
    pub(super) fn except(&self, to: PoolId) -> SmallVec<[PoolId; 2]> {
        let kind = self.kind(to);
        let all = self
            .pools
            .iter()
            .zip(0..)
            .map(|(pool, id)| (pool.1, PoolId(id)));
        all.filter(|(of, id)| *of != kind || self.sandbox.contains(id))
            .map(|(_, id)| id)
            .collect()
    }

    /// Or the name that means nothing now, in words.
    pub(super) fn filter(&self, kept: &Kept) -> Result<Filter, String> {
        let selection = &kept.selection;
        let text = |text: &Option<String>| text.as_deref().map(Arc::from);
        let to = kept.to.as_deref().map(|to| self.pool(to)).transpose()?;
        let pool = selection.pool.as_deref();
        let source = selection.source.as_deref();
        let message = selection.message.as_deref().map(str::parse::<MessageId>);
        let message = message.transpose().map_err(|e| e.to_string())?;
        Ok(Filter {
            pool: pool.map(|pool| self.pool(pool)).transpose()?,
            domain: text(&selection.domain),
            site: text(&selection.site),
            server: kept.server_id,
            stream: text(&selection.stream),
            source: source.map(|source| self.source(source)).transpose()?,
            tag: text(&selection.tag),
            message: message.map(|id| id.random()),
            number: kept.number,
            set_aside: None,
            except: to.map(|to| self.except(to)).unwrap_or_default(),
        })
    }

    /// As the scheduler takes it. One that means recipients one by one is ended by the node, which must read records first.
    pub(super) fn directive(&self, kept: &Kept) -> Result<Directive, String> {
        let filter = self.filter(kept)?;
        let to = kept.to.as_deref().map(|to| self.pool(to)).transpose()?;
        Ok(Directive {
            id: kept.id,
            until: kept.until.filter(|_| !filter.is_single()),
            filter,
            what: match to {
                None => Standing::Suspend,
                Some(to) => Standing::Reroute { to },
            },
        })
    }
}

impl Kept {
    pub(super) fn is_single(&self) -> bool {
        self.selection.tag.is_some() || self.selection.message.is_some()
    }

    /// Whether everything that `selection` names is named here, and so.
    fn names_all_of(&self, selection: &wire::Selector) -> bool {
        let mine = &self.selection;
        let pairs = [
            (&selection.pool, &mine.pool),
            (&selection.domain, &mine.domain),
            (&selection.site, &mine.site),
            (&selection.server, &mine.server),
            (&selection.stream, &mine.stream),
            (&selection.source, &mine.source),
            (&selection.tag, &mine.tag),
            (&selection.message, &mine.message),
            (&selection.recipient, &mine.recipient),
        ];
        pairs
            .iter()
            .all(|(wanted, is)| wanted.is_none() || wanted == is)
    }

    /// For events and people: `all mail of domain example.org`.
    pub(super) fn words(&self) -> String {
        match &self.to {
            None => self.selection.words(),
            Some(to) => format!("{} to pool {to}", self.selection.words()),
        }
    }

    pub(super) fn as_wire(&self, queues: u64, dormant: Option<String>) -> wire::Directive {
        wire::Directive {
            id: self.id,
            what: match self.to {
                None => "suspend".to_owned(),
                Some(_) => "reroute".to_owned(),
            },
            selection: self.selection.clone(),
            to: self.to.clone(),
            reason: self.reason.clone(),
            given_at: rfc3339(self.given_at),
            until: self.until.map(rfc3339),
            queues,
            dormant,
        }
    }
}

impl Directives {
    pub(super) fn start(config: &Config, plan: &PoolPlan) -> Result<Arc<Self>, StartError> {
        let names = plan.names.iter().zip(&plan.pools);
        let names = Names {
            pools: names
                .map(|(name, pool)| (Arc::clone(name), pool.kind))
                .collect(),
            sources: plan.source_names.clone(),
            sandbox: plan.sandbox,
        };
        let dir = &config.node.data_dir;
        let opened = Self::open(dir, names).map_err(|reason| StartError::DataDir {
            dir: dir.clone(),
            reason,
        })?;
        Ok(Arc::new(opened))
    }

    /// Or why the file cannot be read.
    pub(super) fn open(dir: &Path, names: Names) -> Result<Self, String> {
        let path = dir.join(FILE);
        let contents = match fs::read(&path) {
            Ok(text) => serde_json::from_slice::<Contents>(&text).map_err(|error| {
                format!(
                    "{FILE} names what operators suspended and cannot be read ({error}); repair it, or remove it to deliver everything"
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Contents::default(),
            Err(error) => return Err(format!("{FILE} cannot be read: {error}")),
        };
        if contents.version > VERSION {
            return Err(format!("{FILE} was written by a newer version"));
        }
        Ok(Self {
            dir: dir.to_owned(),
            names,
            contents: ArcSwap::from_pointee(contents),
            writing: Mutex::new(()),
            changed: Notify::new(),
        })
    }

    /// In the order of their ids.
    pub(super) fn all(&self) -> Vec<Kept> {
        self.contents.load().directives.clone()
    }

    /// For the scheduler, at the start; dormant ones are left out.
    pub(super) fn standing(&self) -> Vec<Directive> {
        let mut standing = Vec::new();
        for kept in &self.contents.load().directives {
            match self.names.directive(kept) {
                Ok(directive) => standing.push(directive),
                Err(error) => {
                    tracing::warn!(id = kept.id, %error, "a suspension or reroute means nothing now; see `posthaste queue directives`");
                }
            }
        }
        standing
    }

    /// Of tags that some name.
    pub(super) fn tag_marks(&self) -> Vec<u16> {
        let contents = self.contents.load();
        let named = contents.directives.iter();
        let tags = named.filter_map(|d| d.selection.tag.as_deref());
        tags.map(|tag| spool_format::tag_mark(Some(tag))).collect()
    }

    /// Those that `selection` names.
    pub(super) fn named(&self, selection: &wire::Selector) -> Vec<u32> {
        let contents = self.contents.load();
        let named = contents.directives.iter();
        let named = named.filter(|kept| kept.names_all_of(selection));
        named.map(|kept| kept.id).collect()
    }

    /// Why a queue is held or moved, in a sentence.
    pub(super) fn sentence(&self, id: u32, what: &str) -> String {
        let contents = self.contents.load();
        let Some(kept) = contents.directives.iter().find(|kept| kept.id == id) else {
            return format!("{what} for the moment.");
        };
        let reason = kept.reason.as_deref().unwrap_or("no reason was given");
        format!(
            "{what} by directive {id} ({}) since {}: {reason}. `posthaste queue resume --directive {id}` ends that.",
            kept.words(),
            rfc3339(kept.given_at)
        )
    }

    pub(super) fn until(&self, id: u32) -> Option<UnixMs> {
        let contents = self.contents.load();
        let kept = contents.directives.iter().find(|kept| kept.id == id);
        kept.and_then(|kept| kept.until)
    }

    /// `Ok`: it has an id and is on stable storage.
    pub(super) async fn add(self: &Arc<Self>, kept: Kept) -> Result<Kept, AdminError> {
        self.change(move |contents| {
            if contents.directives.len() >= limits::DIRECTIVES_MAX {
                return Err(AdminError::Conflict(format!(
                    "{} suspensions and reroutes stand already; end some with `queue resume`",
                    limits::DIRECTIVES_MAX
                )));
            }
            contents.last_id += 1;
            let id = contents.last_id;
            let kept = Kept { id, ..kept };
            contents.directives.push(kept.clone());
            Ok(kept)
        })
        .await
    }

    /// `Ok`: it is gone from stable storage; `None`: it was before.
    pub(super) async fn remove(self: &Arc<Self>, id: u32) -> Result<Option<Kept>, AdminError> {
        self.change(move |contents| {
            let place = contents.directives.iter().position(|kept| kept.id == id);
            Ok(place.map(|place| contents.directives.remove(place)))
        })
        .await
    }

    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Contents) -> Result<T, AdminError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let this = Arc::clone(self);
        let changed = tokio::task::spawn_blocking(move || {
            let _writing = this.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut contents = Contents::clone(&this.contents.load());
            let result = change(&mut contents)?;
            contents.version = VERSION;
            write(&this.dir, &contents).map_err(|error| {
                AdminError::Failed(format!(
                    "{FILE} cannot be written: {error}; nothing is changed"
                ))
            })?;
            this.contents.store(Arc::new(contents));
            this.changed.notify_one();
            Ok(result)
        });
        changed
            .await
            .map_err(|error| AdminError::Failed(error.to_string()))?
    }

    /// The first that is over, or when one will be.
    pub(super) fn next_end(&self, now: UnixMs) -> Result<u32, Option<UnixMs>> {
        let contents = self.contents.load();
        let ends = contents.directives.iter();
        let first = ends.filter_map(|kept| Some((kept.until?, kept.id))).min();
        match first {
            Some((until, id)) if until <= now => Ok(id),
            Some((until, _)) => Err(Some(until)),
            None => Err(None),
        }
    }

    /// # Cancel safety
    /// Dropping the future loses nothing that a look at [`Self::next_end`] would not tell.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn write(dir: &Path, contents: &Contents) -> std::io::Result<()> {
    state_file::replace(&dir.join(FILE), &serde_json::to_vec_pretty(contents)?)
}

const FILE: &str = "directives.json";
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            pools: vec![
                ("tx".into(), StreamKind::Transactional),
                ("bulk".into(), StreamKind::Broadcast),
                ("sandbox".into(), StreamKind::Broadcast),
                ("warm".into(), StreamKind::Broadcast),
            ],
            sources: vec!["one".into()],
            sandbox: [PoolId(9), PoolId(2)],
        }
    }

    fn kept(selection: wire::Selector, to: Option<&str>) -> Kept {
        Kept {
            id: 0,
            selection,
            server_id: None,
            number: None,
            to: to.map(str::to_owned),
            reason: Some("blocked".into()),
            given_at: 5,
            until: Some(9),
        }
    }

    fn of_domain(domain: &str) -> wire::Selector {
        wire::Selector {
            domain: Some(domain.into()),
            ..wire::Selector::default()
        }
    }

    #[tokio::test]
    async fn what_stands_is_there_after_the_next_start_and_what_ended_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Arc::new(Directives::open(dir.path(), names()).unwrap());
        let directives = open();
        let first = directives
            .add(kept(of_domain("a.test"), None))
            .await
            .unwrap();
        let second = kept(of_domain("b.test"), Some("warm"));
        let second = directives.add(second).await.unwrap();
        assert_eq!((first.id, second.id), (1, 2));
        assert_eq!(open().all(), [first.clone(), second.clone()]);
        let standing = open().standing();
        assert_eq!(standing[0].until, Some(9));
        // Only mail of its kind, and none of sandboxed servers.
        assert_eq!(standing[1].filter.except[..], [PoolId(0), PoolId(2)]);
        assert_eq!(directives.named(&of_domain("b.test")), [2]);
        assert_eq!(directives.named(&wire::Selector::default()), [1, 2]);
        assert_eq!(directives.next_end(8), Err(Some(9)));
        assert_eq!(directives.next_end(9), Ok(1));
        assert_eq!(directives.remove(1).await.unwrap(), Some(first));
        assert_eq!(directives.remove(1).await.unwrap(), None);
        let third = open().add(kept(of_domain("c.test"), None)).await.unwrap();
        assert_eq!(third.id, 3, "ids are never used again");
    }

    #[tokio::test]
    async fn a_pool_that_is_gone_makes_a_directive_dormant_and_a_damaged_file_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let directives = Arc::new(Directives::open(dir.path(), names()).unwrap());
        let gone = kept(of_domain("a.test"), Some("gone"));
        directives.add(gone).await.unwrap();
        assert!(directives.standing().is_empty());
        assert_eq!(directives.all().len(), 1);
        fs::write(dir.path().join(FILE), b"{\"version\":1,").unwrap();
        let error = Directives::open(dir.path(), names()).err().unwrap();
        assert!(error.contains("remove it to deliver everything"), "{error}");
    }
}
