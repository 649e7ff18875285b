//! Making, changing, archiving and unarchiving message streams, by Postmark's rules.

use super::model::{StreamInfo, StreamPatch, StreamText, Unsubscribe};
use super::rules::{self, Refused, Rule};
use super::store::StreamRow;
use super::{Change, ChangeError, ServerInfo, Settings};
use crate::clock::UnixMs;
use crate::config::{self, StreamKind};

impl Settings {
    pub async fn create_stream(
        &self,
        server_id: u32,
        id: Option<&str>,
        kind: Option<&str>,
        new: &StreamPatch,
        now: UnixMs,
    ) -> Result<StreamInfo, ChangeError> {
        let _one = self.changing.lock().await;
        let server = self.changeable(server_id, Rule::StreamDeclared)?;
        let id = rules::stream_id(id)?;
        let name = rules::stream_name(new.name.as_deref())?;
        let kind = rules::stream_kind(kind)?;
        if server.stream(id).is_some() {
            return Err(Refused::new(
                Rule::StreamIdTaken,
                format!("A message stream with the 'ID' '{id}' exists already on this server."),
            )
            .into());
        }
        if kind == StreamKind::Inbound {
            return Err(Refused::new(
                Rule::StreamInboundOne,
                "A server can have only one inbound stream.",
            )
            .into());
        }
        room_for_one(&server)?;
        let mut row = StreamRow {
            server_id,
            id: id.to_owned(),
            kind,
            text: StreamText {
                name: name.to_owned(),
                description: String::new(),
                unsubscribe: Unsubscribe::default_for(kind),
            },
            pool: None,
            created: now,
            updated: None,
            archived: None,
        };
        self.apply_to_stream(new, &mut row)?;
        let created = self.store.create_stream(&row).await;
        self.noting(created)?;
        self.changed(Change::Server(server_id)).await?;
        Ok(self.known_stream(server_id, id)?)
    }

    pub async fn edit_stream(
        &self,
        server_id: u32,
        id: &str,
        patch: &StreamPatch,
        now: UnixMs,
    ) -> Result<StreamInfo, ChangeError> {
        let change = |row: &mut StreamRow| {
            if let Some(name) = &patch.name {
                row.text.name = rules::stream_name(Some(name))?.to_owned();
            }
            self.apply_to_stream(patch, row)?;
            row.updated = Some(now);
            Ok(())
        };
        self.change_stream(server_id, id, change).await
    }

    /// From the next transaction on nothing can be sent on it.
    pub async fn archive_stream(
        &self,
        server_id: u32,
        id: &str,
        now: UnixMs,
    ) -> Result<StreamInfo, ChangeError> {
        let change = |row: &mut StreamRow| {
            if ["outbound", "inbound"].contains(&id) {
                return Err(Refused::new(
                    Rule::StreamArchiveDefault,
                    "The default transactional and inbound streams cannot be archived.",
                ));
            }
            if row.archived.is_some() {
                return Err(Refused::new(
                    Rule::StreamArchive,
                    "The message stream is archived already.",
                ));
            }
            row.archived = Some(now);
            Ok(())
        };
        self.change_stream(server_id, id, change).await
    }

    pub async fn unarchive_stream(
        &self,
        server_id: u32,
        id: &str,
        now: UnixMs,
    ) -> Result<StreamInfo, ChangeError> {
        let stream = self.known_stream(server_id, id)?;
        if stream.purged_at().is_some_and(|at| at <= now) {
            return Err(Refused::new(
                Rule::StreamPurged,
                "The message stream was archived too long ago and cannot be unarchived any more.",
            )
            .into());
        }
        let change = |row: &mut StreamRow| {
            if row.archived.take().is_some() {
                room_for_one(&*self.known(server_id)?)?;
            }
            Ok(())
        };
        self.change_stream(server_id, id, change).await
    }

    /// A stream that is known now.
    pub fn known_stream(&self, server_id: u32, id: &str) -> Result<StreamInfo, Refused> {
        let server = self.known(server_id)?;
        server.stream(id).cloned().ok_or_else(|| {
            Refused::new(
                Rule::StreamUnknown,
                "The message stream for the provided 'ID' was not found.",
            )
        })
    }

    async fn change_stream(
        &self,
        server_id: u32,
        id: &str,
        change: impl FnOnce(&mut StreamRow) -> Result<(), Refused>,
    ) -> Result<StreamInfo, ChangeError> {
        let _one = self.changing.lock().await;
        let stream = self.known_stream(server_id, id)?;
        self.changeable(server_id, Rule::StreamDeclared)?;
        let mut row = StreamRow {
            server_id,
            id: stream.id.to_string(),
            kind: stream.kind,
            text: stream.text,
            pool: stream.pool_name.as_deref().map(str::to_owned),
            created: stream.created,
            updated: stream.updated,
            archived: stream.archived_at,
        };
        change(&mut row)?;
        let updated = self.store.update_stream(&row).await;
        self.noting(updated)?;
        self.changed(Change::Server(server_id)).await?;
        Ok(self.known_stream(server_id, id)?)
    }

    fn apply_to_stream(&self, patch: &StreamPatch, row: &mut StreamRow) -> Result<(), Refused> {
        if let Some(description) = &patch.description {
            rules::stream_description(description)?;
            row.text.description.clone_from(description);
        }
        if let Some(handling) = &patch.unsubscribe {
            row.text.unsubscribe = rules::unsubscribe(handling, row.kind)?;
        }
        match patch.pool.as_deref() {
            None => {}
            Some("default") => row.pool = None,
            Some(name) => row.pool = Some(self.pool_for(name, row.kind)?.to_owned()),
        }
        Ok(())
    }

    /// Streams never mix (DESIGN §1.3): a pool carries one kind.
    fn pool_for<'n>(&self, name: &'n str, kind: StreamKind) -> Result<&'n str, Refused> {
        let config = self.config.load();
        let refused = |message: String| Err(Refused::new(Rule::Pool, message));
        let Some(id) = config.pool_named(name) else {
            let names: Vec<&str> = config.pools.iter().map(|p| p.name.as_str()).collect();
            let known = match self.offline {
                true => "pools can be named while the node runs".to_owned(),
                false => format!("there are: {}", names.join(", ")),
            };
            return refused(format!(
                "No pool is named '{}'; {known}.",
                rules::shown(name)
            ));
        };
        let pool: &config::Pool = config.pool(id);
        match pool.kind == kind {
            true => Ok(name),
            false => refused(format!(
                "Pool '{name}' carries {} mail only and the stream is {}: they never mix.",
                pool.kind.as_str(),
                kind.as_str()
            )),
        }
    }
}

fn room_for_one(server: &ServerInfo) -> Result<(), Refused> {
    match server.active_streams() < rules::STREAMS_MAX {
        true => Ok(()),
        false => Err(Refused::new(
            Rule::StreamCount,
            format!(
                "A server has at most {} message streams; archive one first.",
                rules::STREAMS_MAX
            ),
        )),
    }
}
