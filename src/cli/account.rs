//! `posthaste server`, `stream`, `token` and `account`: asks the daemon; while none holds the data directory, the command
//! takes its lock and answers itself, by the daemon's own routes over the store. `domain`, `dkim`, `sender` and `webhook`
//! need the daemon.

mod dkim;
mod domain;
mod sender;
mod server;
mod stream;
mod token;
mod webhook;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper::{Method, Request};
use hyper_util::service::TowerToHyperService;
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{AdminClient, NoAnswer, failure, parse, refused};
use super::output::{Listing, Row};
use super::{Failure, Found, Place, output};
use crate::account::{Settings, StoreError};
use crate::clock::{Clock, wall_unix_ms};
use crate::config::Config;
use crate::http::{Desk, accounts, wire};

pub(super) use dkim::DkimCommand;
pub(super) use domain::DomainCommand;
pub(super) use sender::SenderCommand;
pub(super) use server::ServerCommand;
pub(super) use stream::StreamCommand;
pub(super) use token::TokenCommand;
pub(super) use webhook::WebhookCommand;

#[derive(Subcommand)]
pub(super) enum AccountCommand {
    /// Write a copy of the account store to a new file, while the daemon runs or not.
    ///
    /// Tokens in it can be read only with DATA_DIR/node.key: keep that apart.
    #[command(
        after_help = "Example:\n  posthaste account backup /var/backups/account-$(date +%F).db\n\nTo restore: stop the daemon, put the file in place as DATA_DIR/account.db, remove account.db-wal and account.db-shm, start."
    )]
    Backup {
        #[command(flatten)]
        place: Place,
        /// Must not exist.
        file: PathBuf,
    },
}

impl AccountCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let Self::Backup { place, file } = self;
        let absolute = std::path::absolute(&file)
            .map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
        if absolute.exists() {
            return Err(Failure::usage(format!(
                "{} exists already; name a file that does not",
                absolute.display()
            )));
        }
        let body = wire::Backup {
            file: absolute.to_string_lossy().into_owned(),
        };
        Accounts::of(&place)?.order(Method::POST, "/admin/v1/account/backup", Some(&body))?;
        output::line(format!(
            "the account store is copied to {}",
            absolute.display()
        ))?;
        Ok(Found::All)
    }
}

/// Says what was done: `{"deleted": "trial"}`, or `server trial is deleted`.
fn done(key: (&str, &str), words: &str, kind: &str, json: bool) -> Result<(), Failure> {
    let (verb, name) = key;
    match json {
        true => output::json(&serde_json::json!({ verb: name }))?,
        false => output::line(format!("{kind} {name} {words}"))?,
    }
    Ok(())
}

/// The accounts of one data directory, whoever answers for them.
struct Accounts {
    client: AdminClient,
    data_dir: PathBuf,
}

impl Accounts {
    fn of(place: &Place) -> Result<Self, Failure> {
        let data_dir = place.data_dir()?;
        Ok(Self {
            client: AdminClient::new(&data_dir)?,
            data_dir,
        })
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None::<&()>)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(body))
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        Ok(parse(&self.order(method, path, body)?)?)
    }

    fn order(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<hyper::body::Bytes, Failure> {
        let body = body
            .map_or(Ok(Vec::new()), serde_json::to_vec)
            .map_err(|e| Failure::usage(format!("the request cannot be written: {e}")))?;
        match self.client.exchange(method.clone(), path, body.clone()) {
            Err(NoAnswer::NoDaemon(_)) => {
                let _lock = lock(&self.data_dir)?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|e| Failure::disk(format!("no runtime: {e}")))?;
                runtime.block_on(offline(&self.data_dir, method, path, body))
            }
            answer => Ok(answer?),
        }
    }
}

/// Asks the running daemon, and nobody in its place.
pub(super) fn ask<T: DeserializeOwned>(
    place: &Place,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, Failure> {
    Ok(parse(&order(place, method, path, body)?)?)
}

fn order(
    place: &Place,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<hyper::body::Bytes, Failure> {
    let body = body
        .map_or(Ok(Vec::new()), serde_json::to_vec)
        .map_err(|e| Failure::usage(format!("the request cannot be written: {e}")))?;
    let client = AdminClient::new(&place.data_dir()?)?;
    Ok(client.exchange(method, path, body)?)
}

/// Answers a request as the daemon would. The caller holds the data directory's lock.
async fn offline(
    data_dir: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<hyper::body::Bytes, Failure> {
    let config = Config::parse("", Path::new("posthaste.toml"), Some(data_dir), &|_| None);
    let config = config.map_err(|e| Failure::config(e.to_string()))?;
    let settings = Settings::open_offline(Arc::new(config), wall_unix_ms()).await;
    let settings = Arc::new(settings.map_err(|e| store_failed(&e))?);
    let desk = Desk {
        settings: settings.clone(),
        clock: Clock::start(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json")
        .body(axum::body::Body::from(body))
        .map_err(|e| Failure::usage(format!("the request cannot be made: {e}")))?;
    let routes = accounts::routes::<()>(desk).with_state(());
    let answer = TowerToHyperService::new(routes).call(request).await;
    let answer = answer.unwrap_or_else(|never| match never {});
    let status = answer.status();
    let body = answer.into_body().collect().await;
    settings.close().await;
    let body = body.map_err(|e| refused(e.to_string()))?.to_bytes();
    match status.is_success() {
        true => Ok(body),
        false => Err(failure(status, &body)),
    }
}

fn store_failed(error: &StoreError) -> Failure {
    match error {
        StoreError::Conflict(_) => Failure::finding(error.to_string()),
        StoreError::Unusable { .. }
        | StoreError::Key(_)
        | StoreError::NoKey(_)
        | StoreError::KeyFile(_)
        | StoreError::Sql { .. } => Failure::data_dir(error.to_string()),
    }
}

fn lock(data_dir: &Path) -> Result<File, Failure> {
    let path = data_dir.join("lock");
    let refused = |why: String| Failure::data_dir(format!("{} {why}", data_dir.display()));
    if !data_dir.is_dir() {
        return Err(Failure::unreachable(format!(
            "there is no daemon and no data directory {}; start the daemon first (posthaste serve), or name its data directory with --data-dir or its configuration with --config",
            data_dir.display()
        )));
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| refused(format!("cannot be locked: {e}")))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        refused("is held by a process that does not answer on its admin socket; it may be starting or stopping: try again".into())
    })?;
    Ok(file)
}

fn list<R: Row>(rows: &[R], json: bool) -> Result<(), Failure> {
    let mut listing = Listing::new(json);
    for row in rows {
        listing.push(row)?;
    }
    Ok(listing.flush()?)
}

/// One thing in full: as JSON on one line, or a key and its value per line.
fn show(thing: &impl Serialize, json: bool) -> Result<(), Failure> {
    let value = serde_json::to_value(thing)
        .map_err(|e| Failure::disk(format!("the output cannot be written: {e}")))?;
    let serde_json::Value::Object(fields) = &value else {
        return Ok(output::json(&value)?);
    };
    if json {
        return Ok(output::json(&value)?);
    }
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in fields {
        let text = match value {
            serde_json::Value::Null => "-".to_owned(),
            serde_json::Value::String(text) => output::printable(text),
            other => other.to_string(),
        };
        output::line(format!("{key:width$}  {text}"))?;
    }
    Ok(())
}

/// Merges `--set KEY=VALUE` into a patch: `true`, `false` and numbers are what they look like, all else is text.
fn with_settings<T: Serialize + DeserializeOwned>(patch: &T, set: &[String]) -> Result<T, Failure> {
    let unreadable = |e: serde_json::Error| Failure::usage(format!("--set: {e}"));
    let mut value = serde_json::to_value(patch).map_err(unreadable)?;
    for given in set {
        let (key, text) = given.split_once('=').ok_or_else(|| {
            Failure::usage(format!(
                "--set {given}: write KEY=VALUE, for example --set color=red"
            ))
        })?;
        let typed = match serde_json::from_str::<serde_json::Value>(text) {
            Ok(plain @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_))) => plain,
            _ => serde_json::Value::String(text.to_owned()),
        };
        if let Some(fields) = value.as_object_mut() {
            fields.insert(key.to_owned(), typed);
        }
    }
    serde_json::from_value(value).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_daemon_the_store_is_opened_under_the_lock_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let place = |dir: &Path| Place {
            config: None,
            data_dir: Some(dir.into()),
        };
        let create = |dir: &Path| {
            let body = serde_json::json!({ "name": "app" });
            Accounts::of(&place(dir))?.post::<wire::Server>("/admin/v1/servers", &body)
        };
        assert_eq!(create(dir.path()).unwrap().id, 1);
        let again = create(dir.path()).unwrap_err();
        assert_eq!(again.code, 1, "{}", again.message);
        let held = lock(dir.path()).unwrap();
        let refused = create(dir.path()).unwrap_err();
        assert_eq!(refused.code, 73, "{}", refused.message);
        drop(held);
        let nowhere = create(&dir.path().join("none")).unwrap_err();
        assert_eq!(nowhere.code, 69, "{}", nowhere.message);
    }

    #[test]
    fn an_unreachable_daemon_is_told_from_one_that_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let client = AdminClient::new(dir.path()).unwrap();
        let answer = client.get::<wire::Servers>("/admin/v1/servers");
        assert!(matches!(answer, Err(NoAnswer::NoDaemon(_))));
        assert_eq!(Failure::from(answer.unwrap_err()).code, 69);
        assert_eq!(super::super::client::percent("a b/ü"), "a%20b%2F%C3%BC");
    }

    #[test]
    fn settings_are_typed_by_what_they_look_like() {
        let set = ["track_opens=true", "inbound_spam_threshold=9", "color=red"].map(String::from);
        let patch = with_settings(&crate::account::ServerPatch::default(), &set).unwrap();
        assert_eq!(patch.track_opens, Some(true));
        assert_eq!(patch.inbound_spam_threshold, Some(9));
        assert_eq!(patch.color.as_deref(), Some("red"));
        let unknown = with_settings(&patch, &["colour=red".into()]).unwrap_err();
        assert!(unknown.message.contains("colour"), "{}", unknown.message);
    }
}
