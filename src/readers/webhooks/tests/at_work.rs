//! Hooks that run, over logs in memory: where they begin, and what counts as behind.

use std::convert::Infallible;
use std::sync::atomic::Ordering;

use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use spool_format::kind;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::*;
use crate::account::{ServerPatch, Settings};
use crate::config::Config;
use crate::event::{Event, EventKind};
use crate::mail::MessageId;
use crate::readers::suppressions::Suppressions;
use crate::readers::webhooks::schedule::{Class, Plan, Retry, Schedule};

const FILE: &str = r#"
[node]
hostname = "mail.example.com"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{ name = "tx1", ip = "192.0.2.10" }]
[[server]]
name = "app"
tokens = ["configured-token"]
[webhooks]
allow_networks = ["127.0.0.1/32"]
"#;

pub(in super::super) struct World {
    pub(in super::super) settings: Settings,
    suppressions: Arc<Suppressions>,
    pub(in super::super) webhooks: Arc<Webhooks>,
    pub(in super::super) now: UnixMs,
    config: Arc<Config>,
    dir: tempfile::TempDir,
}

impl World {
    pub(in super::super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("posthaste.toml");
        let config = Arc::new(Config::parse(FILE, &file, Some(dir.path()), &|_| None).unwrap());
        let (settings, _) = Settings::open(Arc::clone(&config), 0).await.unwrap();
        let suppressions = Suppressions::in_memory();
        let webhooks =
            Webhooks::idle(&suppressions, settings.accounts(), &config, dir.path()).await;
        Self {
            settings,
            suppressions,
            webhooks,
            now: Clock::start().unix_ms(),
            config,
            dir,
        }
    }

    /// As after a stop of the node.
    async fn start_again(&mut self) {
        let accounts = self.settings.accounts();
        let again = Webhooks::idle(&self.suppressions, accounts, &self.config, self.dir.path());
        self.webhooks = again.await;
    }

    /// Of server 2.
    async fn delivered(&self, at: UnixMs, to: &str) -> u64 {
        let mut payload = Vec::new();
        let event = Event {
            kind: EventKind::Delivered,
            at,
            recipient: to,
            server_id: 2,
            stream: "outbound",
            tag: "welcome",
            ..lost(at)
        };
        event.encode(&mut payload);
        let events = &self.suppressions.spool().events;
        let ticket = events.append(kind::EVENT, 0, &[&payload], None).await;
        let ticket = ticket.unwrap();
        let position = ticket.position();
        ticket.await.unwrap();
        position
    }

    pub(in super::super) fn set(url: &str) -> ServerPatch {
        ServerPatch {
            delivery_hook_url: Some(url.to_owned()),
            ..ServerPatch::default()
        }
    }
}

/// Of a message that nobody has, and does not say where it lay.
fn lost(at: UnixMs) -> Event<'static> {
    Event {
        message_id: MessageId::new(at, &[3; 10]),
        ..Event::nothing()
    }
}

/// An application: what it is sent, and each answer when there is a permit for it.
struct Application {
    url: String,
    told: mpsc::Receiver<Value>,
    answers: Arc<Semaphore>,
}

impl Application {
    async fn told(&mut self) -> Value {
        let told = tokio::time::timeout(std::time::Duration::from_secs(30), self.told.recv());
        told.await.expect("nothing is told").unwrap()
    }
}

async fn application(answers: usize) -> Application {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel(64);
    let answers = Arc::new(Semaphore::new(answers));
    let permits = Arc::clone(&answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tell, permits) = (tell.clone(), Arc::clone(&permits));
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let (tell, permits) = (tell.clone(), Arc::clone(&permits));
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let _ = tell.send(serde_json::from_slice(&body).unwrap()).await;
                    permits.acquire().await.unwrap().forget();
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    Application { url, told, answers }
}

/// Settings are durable long before a task is there for them: what happens in between is told all the same, and nothing that
/// was before.
#[tokio::test]
async fn a_hook_url_is_told_what_happens_from_the_moment_it_was_set() {
    let (world, mut app) = (World::new().await, application(9).await);
    let named = ServerPatch {
        name: Some("shop".into()),
        ..World::set(&app.url)
    };
    let made = world.settings.create_server(&named, world.now).await;
    assert_eq!(made.unwrap().id, 2);
    world.delivered(world.now - 1, "before@example.com").await;
    world.delivered(world.now + 1, "after@example.com").await;
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&world.webhooks).run(stopping));
    let told = app.told().await;
    assert_eq!(told["Recipient"], "after@example.com");
    // The message is gone; its tag is the event's too.
    assert_eq!(
        (&told["Tag"], &told["Metadata"]),
        (&json!("welcome"), &json!({}))
    );
    // Pointed elsewhere, it is the same; emptied and set again, it is another.
    let other = application(9).await;
    let (edit, now) = (World::set(&other.url), world.now + 2);
    let edited = world.settings.edit_server(2, &edit, now).await.unwrap();
    assert_eq!(edited.attributes.delivery_hook_since, world.now);
    let edit = async |url: &str, at| {
        let (edit, now) = (World::set(url), world.now + at);
        let edited = world.settings.edit_server(2, &edit, now);
        edited.await.unwrap();
    };
    edit("", 4).await;
    world.delivered(world.now + 5, "between@example.com").await;
    edit(&app.url, 6).await;
    world.delivered(world.now + 7, "again@example.com").await;
    assert_eq!(app.told().await["Recipient"], "again@example.com");
    stop.send_replace(true);
    running.await.unwrap();
}

#[tokio::test]
async fn what_waits_over_a_start_is_told_although_the_clock_was_ahead_when_the_hook_was_made() {
    let (mut world, mut app) = (World::new().await, application(9).await);
    let named = ServerPatch {
        name: Some("shop".into()),
        ..World::set(&app.url)
    };
    world.delivered(world.now, "before@example.com").await;
    let made = world
        .settings
        .create_server(&named, world.now + 400_000)
        .await;
    made.unwrap();
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&world.webhooks).run(stopping));
    while world.webhooks.states().is_empty() {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.unwrap();
    world.delivered(world.now + 1, "ada@example.com").await;
    world.start_again().await;
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&world.webhooks).run(stopping));
    assert_eq!(app.told().await["Recipient"], "ada@example.com");
    stop.send_replace(true);
    running.await.unwrap();
}

/// A fault unwinds as an abort does.
#[tokio::test]
async fn a_hook_that_ends_by_a_fault_gives_back_its_share_of_the_retries() {
    let (world, app) = (World::new().await, application(0).await);
    let named = ServerPatch {
        name: Some("shop".into()),
        ..World::set(&app.url)
    };
    let made = world.settings.create_server(&named, world.now).await;
    made.unwrap();
    let position = world.delivered(world.now + 1, "ada@example.com").await;
    let shared = &world.webhooks.shared;
    let target = target::all(&world.settings.accounts().load())["s2-delivery"].clone();
    let plan = Plan::new(&shared.client.rules);
    let end = shared.events.durable();
    let mut changes = Schedule::new(plan, end, Health::default(), None, []).changes();
    let retry = Retry {
        class: Class::Event,
        attempts: 1,
        due: world.now + 400_000,
    };
    changes.retries.push((position, Some(retry)));
    let begun = shared
        .ledger
        .begin(&target.key, target.created, end, &changes);
    begun.await.unwrap();
    shared
        .ledger
        .write(&target.key, &changes, &[])
        .await
        .unwrap();
    let (_targets, targets) = watch::channel(target);
    let (_orders, orders) = mpsc::channel(1);
    let (_stop, stopping) = watch::channel(false);
    let hook = hook::Hook::begin(Arc::clone(shared), targets, orders, Arc::new(View::new()));
    let running = tokio::spawn(hook.await.unwrap().run(stopping));
    while shared.retries.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(shared.retries.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_hook_that_is_slow_is_behind_and_one_that_fails_for_a_while_is_not() {
    let (world, mut app) = (World::new().await, application(0).await);
    let old = world.now - 400_000;
    let named = ServerPatch {
        name: Some("shop".into()),
        ..World::set(&app.url)
    };
    world.settings.create_server(&named, old).await.unwrap();
    let position = world.delivered(old + 1, "ada@example.com").await;
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&world.webhooks).run(stopping));
    app.told().await;
    let until = async |is_behind: bool| loop {
        let standing = world.webhooks.standing();
        if (standing.lag_bytes > 0) == is_behind {
            return standing;
        }
        tokio::task::yield_now().await;
    };
    let standing = until(true).await;
    assert_eq!((standing.position, standing.at), (position, Some(old + 1)));
    app.answers.add_permits(1);
    assert_eq!(until(false).await.at, None);
    stop.send_replace(true);
    running.await.unwrap();
    let failing = |since| Health {
        failing_since: Some(since),
        ..Health::default()
    };
    let long = limits::WEBHOOK_UNWELL.as_millis() as u64;
    assert!(failing(world.now).is_well(world.now + long - 1));
    assert!(!failing(world.now).is_well(world.now + long));
}

/// However many requests others have under way, each hook may make some; what it may not make yet comes when they are done.
#[tokio::test]
async fn all_hooks_together_are_bounded_and_none_is_starved() {
    let (world, mut app) = (World::new().await, application(0).await);
    let named = ServerPatch {
        name: Some("shop".into()),
        ..World::set(&app.url)
    };
    world
        .settings
        .create_server(&named, world.now)
        .await
        .unwrap();
    for _ in 0..10 {
        world.delivered(world.now + 1, "ada@example.com").await;
    }
    let others = &world.webhooks.shared.requests;
    others.fetch_add(limits::WEBHOOK_REQUESTS_ALL, Ordering::Relaxed);
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&world.webhooks).run(stopping));
    for _ in 0..limits::WEBHOOK_REQUESTS_ALWAYS {
        app.told().await;
    }
    while world.webhooks.states()[0].in_flight == 0 {
        tokio::task::yield_now().await;
    }
    let state = &world.webhooks.states()[0];
    assert_eq!(state.in_flight, limits::WEBHOOK_REQUESTS_ALWAYS);
    assert!(app.told.try_recv().is_err());
    others.fetch_sub(limits::WEBHOOK_REQUESTS_ALL, Ordering::Relaxed);
    for _ in limits::WEBHOOK_REQUESTS_ALWAYS..10 {
        app.told().await;
    }
    stop.send_replace(true);
    running.await.unwrap();
    assert_eq!(others.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_message_that_is_gone_is_looked_for_once() {
    let world = World::new().await;
    let messages = &world.webhooks.shared.payloads.messages;
    let event = lost(world.now);
    assert!(!messages.is_unfound(event.message_id));
    assert_eq!(messages.of(&event, true).unwrap(), None);
    assert!(messages.is_unfound(event.message_id));
}
