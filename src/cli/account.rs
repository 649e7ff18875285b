//! `posthaste server` and `posthaste token`: asks the daemon; while none holds the data directory, the store itself.

use std::fs::File;
use std::path::Path;

use clap::Subcommand;
use rustix::fs::FlockOperation;

use super::client::{AdminClient, NoAnswer, percent};
use super::output::{Listing, Row};
use super::queue::or_dash;
use super::{Failure, Found, Place, output};
use crate::account::{NewServer, ServerRow, Store, StoreError};
use crate::clock::wall_unix_ms;
use crate::http::{AdminError, admin, wire};

#[derive(Subcommand)]
pub(super) enum ServerCommand {
    /// Make a server (a tenant) with its streams outbound, broadcast and inbound.
    Create {
        #[command(flatten)]
        place: Place,
        name: String,
        /// verified: From must be of a verified domain. [default: verified]
        #[arg(long, value_name = "verified|any")]
        senders: Option<String>,
        /// keep: a submitted Message-ID stays. [default: keep]
        #[arg(long, value_name = "keep|replace")]
        message_id: Option<String>,
        /// All its mail goes to the built-in sink.
        #[arg(long)]
        sandbox: bool,
        #[arg(long)]
        json: bool,
    },
    /// List the servers.
    Ls {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token: user name and password of SMTP AUTH. It is shown this once, on standard output.
    Create {
        #[command(flatten)]
        place: Place,
        server: String,
        /// Everything sent with it goes to this stream.
        #[arg(long, value_name = "ID")]
        stream: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// List a server's tokens, without their text. Those of the configuration file are not among them.
    Ls {
        #[command(flatten)]
        place: Place,
        server: String,
        #[arg(long)]
        json: bool,
    },
    /// Refuse a token from now on.
    Revoke {
        #[command(flatten)]
        place: Place,
        server: String,
        /// As `token ls` shows it.
        id: u32,
    },
}

impl ServerCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Create {
                place,
                name,
                senders,
                message_id,
                sandbox,
                json,
            } => {
                let new = wire::NewServer {
                    name,
                    senders,
                    message_id,
                    delivery_type: sandbox.then(|| "sandbox".into()),
                };
                let client = AdminClient::new(&place.data_dir()?)?;
                let made = client.post("/admin/v1/servers", &new);
                let server: wire::Server = match made {
                    Err(NoAnswer::NoDaemon(_)) => {
                        let new = NewServer::try_from(new).map_err(refused)?;
                        with_store(&place, async |store| {
                            store
                                .create_server(&new, false, wall_unix_ms())
                                .await
                                .map(|row| wire::Server::from(&row))
                        })?
                    }
                    made => made?,
                };
                match json {
                    true => output::json(&server)?,
                    false => output::line(format!(
                        "server {} has id {}; next: posthaste token create {}",
                        server.name, server.id, server.name
                    ))?,
                }
            }
            Self::Ls { place, json } => {
                let client = AdminClient::new(&place.data_dir()?)?;
                let servers: wire::Servers = match client.get("/admin/v1/servers") {
                    Err(NoAnswer::NoDaemon(_)) => {
                        let rows = with_store(&place, async |store| store.servers().await)?;
                        wire::Servers {
                            servers: rows.iter().map(wire::Server::from).collect(),
                        }
                    }
                    listed => listed?,
                };
                list(&servers.servers, json)?;
            }
        }
        Ok(Found::All)
    }
}

impl TokenCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Create {
                place,
                server,
                stream,
                json,
            } => {
                let client = AdminClient::new(&place.data_dir()?)?;
                let path = format!("/admin/v1/servers/{}/tokens", percent(&server));
                let made = client.post(
                    &path,
                    &wire::NewToken {
                        stream: stream.clone(),
                    },
                );
                let token: wire::Token = match made {
                    Err(NoAnswer::NoDaemon(_)) => with_store(&place, async |store| {
                        let owner = owner(store, &server, stream.as_deref()).await?;
                        let (row, text) = store
                            .create_token(Some(owner.id), stream.as_deref(), wall_unix_ms())
                            .await?;
                        Ok(admin::token(&row, &server, Some(text)))
                    })?,
                    made => made?,
                };
                if json {
                    output::json(&token)?;
                    return Ok(Found::All);
                }
                eprintln!(
                    "token {} of server {server}; it is not shown again:",
                    token.id
                );
                output::line(token.token.unwrap_or_default())?;
            }
            Self::Ls {
                place,
                server,
                json,
            } => {
                let client = AdminClient::new(&place.data_dir()?)?;
                let listed = client.get(&format!("/admin/v1/servers/{}/tokens", percent(&server)));
                let tokens: wire::Tokens = match listed {
                    Err(NoAnswer::NoDaemon(_)) => with_store(&place, async |store| {
                        let id = store.server(&server).await?.id;
                        let mut rows = store.tokens().await?;
                        rows.retain(|row| row.server_id == Some(id));
                        let tokens = rows.iter().map(|row| admin::token(row, &server, None));
                        Ok(wire::Tokens {
                            tokens: tokens.collect(),
                        })
                    })?,
                    listed => listed?,
                };
                list(&tokens.tokens, json)?;
            }
            Self::Revoke { place, server, id } => {
                let client = AdminClient::new(&place.data_dir()?)?;
                let path = format!("/admin/v1/servers/{}/tokens/{id}", percent(&server));
                match client.delete(&path) {
                    Err(NoAnswer::NoDaemon(_)) => with_store(&place, async |store| {
                        let owner = store.server(&server).await?.id;
                        let tokens = store.tokens().await?;
                        match tokens
                            .iter()
                            .any(|t| t.id == id && t.server_id == Some(owner))
                        {
                            true => store.revoke_token(id, wall_unix_ms()).await,
                            false => Err(StoreError::NotFound(format!(
                                "server `{server}` has no token {id}"
                            ))),
                        }
                    })?,
                    revoked => revoked?,
                }
                output::line(format!(
                    "token {id} of server {server} is refused from now on"
                ))?;
            }
        }
        Ok(Found::All)
    }
}

async fn owner(store: &Store, server: &str, stream: Option<&str>) -> Result<ServerRow, StoreError> {
    let row = store.server(server).await?;
    if let Some(stream) = stream
        && !row.declared
        && !store
            .streams()
            .await?
            .iter()
            .any(|s| s.server_id == row.id && s.id == stream)
    {
        return Err(StoreError::NotFound(format!(
            "server `{server}` has no stream `{stream}`"
        )));
    }
    Ok(row)
}

/// Opens the store under the data directory's lock, so that no daemon starts meanwhile.
fn with_store<T>(
    place: &Place,
    work: impl AsyncFnOnce(&Store) -> Result<T, StoreError>,
) -> Result<T, Failure> {
    let data_dir = place.data_dir()?;
    let _lock = lock(&data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::disk(format!("no runtime: {e}")))?;
    let done = runtime.block_on(async {
        let store = Store::open(&data_dir).await?;
        let done = work(&store).await;
        store.close().await;
        done
    });
    done.map_err(|error| match error {
        StoreError::Conflict(_) | StoreError::NotFound(_) => Failure::finding(error.to_string()),
        StoreError::Unusable { .. } | StoreError::Key(_) | StoreError::Sql(_) => {
            Failure::data_dir(error.to_string())
        }
    })
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

fn refused(error: AdminError) -> Failure {
    Failure::usage(error.to_string())
}

fn list<R: Row>(rows: &[R], json: bool) -> Result<(), Failure> {
    let mut listing = Listing::new(json);
    for row in rows {
        listing.push(row)?;
    }
    Ok(listing.flush()?)
}

impl Row for wire::Server {
    const COLUMNS: &'static [&'static str] = &[
        ">ID",
        "NAME",
        "SENDERS",
        "MESSAGE-ID",
        "DELIVERY",
        "FROM",
        "CREATED",
    ];

    fn cells(&self) -> Vec<String> {
        let from = if self.declared {
            "configuration"
        } else {
            "command"
        };
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.senders.clone(),
            self.message_id.clone(),
            self.delivery_type.clone(),
            from.into(),
            self.created_at.clone(),
        ]
    }
}

impl Row for wire::Token {
    const COLUMNS: &'static [&'static str] = &[">ID", "SERVER", "STREAM", "CREATED", "REVOKED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.server.clone(),
            or_dash(self.stream.as_ref()),
            self.created_at.clone(),
            or_dash(self.revoked_at.as_ref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &Path) -> Place {
        Place {
            config: None,
            data_dir: Some(dir.into()),
        }
    }

    #[test]
    fn without_a_daemon_the_store_is_opened_under_the_lock_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewServer::try_from(wire::NewServer {
            name: "app".into(),
            senders: None,
            message_id: None,
            delivery_type: None,
        })
        .unwrap();
        let create = async |store: &Store| store.create_server(&new, false, 1).await;
        assert_eq!(with_store(&place(dir.path()), create).unwrap().id, 1);
        let again = with_store(&place(dir.path()), create).unwrap_err();
        assert_eq!(again.code, 1, "{}", again.message);
        let held = lock(dir.path()).unwrap();
        let refused = with_store(&place(dir.path()), create).unwrap_err();
        assert_eq!(refused.code, 73, "{}", refused.message);
        drop(held);
        let nowhere = with_store(&place(&dir.path().join("none")), create).unwrap_err();
        assert_eq!(nowhere.code, 69, "{}", nowhere.message);
    }

    #[test]
    fn an_unreachable_daemon_is_told_from_one_that_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let client = AdminClient::new(dir.path()).unwrap();
        let answer = client.get::<wire::Servers>("/admin/v1/servers");
        assert!(matches!(answer, Err(NoAnswer::NoDaemon(_))));
        assert_eq!(Failure::from(answer.unwrap_err()).code, 69);
        assert_eq!(percent("a b/ü"), "a%20b%2F%C3%BC");
    }
}
