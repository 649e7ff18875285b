//! Keeps a task for each hook that is set: as settings change, hooks begin, are pointed elsewhere, and end.
//!
//! A hook that goes and comes again at once, as a hook URL that is emptied and set, begins when the old one has ended and
//! nothing more is written of it. What was kept of one that is deleted is forgotten then; of one that goes with its declared
//! server, or while the node is down, after [`limits::WEBHOOK_KEPT`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

use super::hook::{Hook, stopped};
use super::view::View;
use super::{NAME, Running, Webhooks, target};
use crate::clock::UnixMs;
use crate::limits;
use crate::metrics;

#[derive(Default)]
struct Tasks {
    all: JoinSet<()>,
    keys: HashMap<Id, String>,
    /// Their hooks are gone; whether they are to be forgotten.
    ending: BTreeMap<String, bool>,
}

impl Tasks {
    fn spawn(&mut self, key: &str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.all.spawn(task).id();
        self.keys.insert(id, key.to_owned());
    }

    /// The next that ended, and whether by a fault.
    /// # Cancel safety
    /// None is lost.
    async fn ended(&mut self) -> Option<(String, Result<(), JoinError>)> {
        let (id, ended) = match self.all.join_next_with_id().await? {
            Ok((id, ())) => (id, Ok(())),
            Err(error) => (error.id(), Err(error)),
        };
        Some((self.keys.remove(&id).unwrap_or_default(), ended))
    }
}

impl Webhooks {
    /// Keeps a task for each hook that is set, until `stopping`.
    pub async fn run(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut changes = self.accounts.watch();
        let mut tasks = Tasks::default();
        let feed = Arc::clone(&self.shared.feed);
        let mut feeding = JoinSet::new();
        feeding.spawn(feed.run(self.shared.events.clone()));
        // What failed by a fault begins again at the next look, and not at once for ever.
        let (mut is_due, mut is_due_later, mut swept_at) = (true, false, 0);
        loop {
            if is_due {
                changes.borrow_and_update();
                is_due = !self.follow(&mut tasks, &stopping).await;
            }
            self.gauge().await;
            self.sweep(&mut swept_at).await;
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                changed = changes.changed() => match changed {
                    Ok(()) => is_due = true,
                    Err(_) => break,
                },
                Some((key, ended)) = tasks.ended() => {
                    match ended {
                        Ok(()) => is_due = true,
                        Err(_) => is_due_later = true,
                    }
                    self.settle(&mut tasks, key, ended).await;
                }
                () = tokio::time::sleep(limits::WEBHOOK_GAUGES) => {
                    is_due |= std::mem::take(&mut is_due_later);
                }
            }
        }
        // Each writes down what it knows.
        while let Some((key, ended)) = tasks.ended().await {
            self.settle(&mut tasks, key, ended).await;
        }
        self.shared.ledger.close().await;
    }

    /// Starts, changes and stops tasks as the settings have it; `false`: not all could be begun, try again.
    async fn follow(&self, tasks: &mut Tasks, stopping: &watch::Receiver<bool>) -> bool {
        let snapshot = self.accounts.load();
        let mut wanted = target::all(&snapshot);
        let (gone, known): (Vec<String>, Vec<String>) = {
            // One that was set anew is another, with a place of its own.
            let is_gone = |(key, running): &(&String, &Running)| {
                let created = running.targets.borrow().created;
                wanted
                    .get(*key)
                    .is_none_or(|target| target.created != created)
            };
            let running = self.running();
            let (gone, known): (Vec<_>, Vec<_>) = running.iter().partition(is_gone);
            let keys =
                |list: Vec<(&String, _)>| list.into_iter().map(|(key, _)| key.clone()).collect();
            (keys(gone), keys(known))
        };
        for key in known {
            if let Some(target) = wanted.remove(&key)
                && let Some(running) = self.running().get(&key)
            {
                running.targets.send_if_modified(|old| {
                    let is_new = old.seen != target.seen;
                    if is_new {
                        *old = target;
                    }
                    is_new
                });
            }
        }
        for key in gone {
            // Its task ends with the channel.
            if let Some(running) = self.running().remove(&key) {
                let target = running.targets.borrow();
                let is_deleted = snapshot.server(target.wish.server).is_some();
                // A server that the configuration file names no more may be named again.
                let is_forgotten = is_deleted || !target.is_declared;
                tasks.ending.insert(key, is_forgotten);
            }
        }
        let mut is_whole = true;
        for (key, target) in wanted {
            // It begins when the one before has ended.
            if tasks.ending.contains_key(&key) {
                continue;
            }
            let (targets, changes) = watch::channel(target);
            let (orders, obeyed) = mpsc::channel(limits::WEBHOOK_ORDERS);
            let view = Arc::new(View::new());
            let begun = Hook::begin(Arc::clone(&self.shared), changes, obeyed, Arc::clone(&view));
            match begun.await {
                Ok(hook) => {
                    tasks.spawn(&key, hook.run(stopping.clone()));
                    let running = Running {
                        targets,
                        orders,
                        view,
                    };
                    self.running().insert(key, running);
                }
                Err(error) => {
                    is_whole = false;
                    metrics::READER_FAILURES.add_to(NAME, 1);
                    tracing::error!(hook = key, %error, "a webhook cannot begin; it is tried again");
                }
            }
        }
        is_whole
    }

    /// A task ended: because its hook is gone, else by a fault, and then it is to be begun again.
    async fn settle(&self, tasks: &mut Tasks, key: String, ended: Result<(), JoinError>) {
        if let Err(error) = ended {
            tracing::error!(hook = key, %error, "a webhook failed by a fault in the program; it begins again");
            self.running()
                .retain(|_, running| !running.orders.is_closed());
        }
        if tasks.ending.remove(&key) == Some(true)
            && let Err(error) = self.shared.ledger.forget(&key).await
        {
            tracing::error!(hook = key, %error, "what was kept of a deleted webhook cannot be removed; it is tried again in a month");
        }
    }

    /// At the start, and once a day.
    async fn sweep(&self, swept_at: &mut UnixMs) {
        let now = self.shared.clock.unix_ms();
        if now < *swept_at + limits::WEBHOOK_SWEEP.as_millis() as u64 {
            return;
        }
        *swept_at = now;
        let wanted = target::all(&self.accounts.load());
        let swept = self
            .shared
            .ledger
            .sweep(|key| wanted.contains_key(key), now);
        if let Err(error) = swept.await {
            tracing::warn!(%error, "what was kept of webhooks that are gone cannot be removed; it is tried again tomorrow");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::at_work::World;
    use super::*;
    use crate::account::ServerPatch;

    /// Whoever looks at settings now and then does not see that a URL was empty in between.
    #[tokio::test]
    async fn a_hook_that_was_set_anew_between_two_looks_waits_for_the_end_of_the_one_before() {
        let (world, url) = (World::new().await, "http://127.0.0.1:9/");
        let (webhooks, now) = (&world.webhooks, world.now);
        let named = ServerPatch {
            name: Some("shop".into()),
            ..World::set(url)
        };
        world.settings.create_server(&named, now).await.unwrap();
        let (mut tasks, (_stop, stopping)) = (Tasks::default(), watch::channel(false));
        assert!(webhooks.follow(&mut tasks, &stopping).await);
        for (url, at) in [("", now + 1), (url, now + 2)] {
            let patch = World::set(url);
            world.settings.edit_server(2, &patch, at).await.unwrap();
        }
        let key = "s2-delivery";
        assert!(webhooks.follow(&mut tasks, &stopping).await);
        assert!(webhooks.running().is_empty());
        assert_eq!(tasks.ending.get(key), Some(&true));
        let (ended, how) = tasks.ended().await.unwrap();
        webhooks.settle(&mut tasks, ended, how).await;
        assert!(webhooks.follow(&mut tasks, &stopping).await);
        assert_eq!(webhooks.states()[0].key, key);
        let kept = webhooks.shared.ledger.take_up(key, Some(now + 2)).await;
        assert!(kept.unwrap().is_some());
    }
}
