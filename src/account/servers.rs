//! Making, changing and deleting servers.

use std::sync::Arc;

use super::model::{Attributes, ServerInfo, ServerPatch};
use super::rules::{self, Refused, Rule};
use super::store::ServerRow;
use super::{Change, ChangeError, Settings, secret};
use crate::clock::UnixMs;
use crate::config::{MessageIdPolicy, SendersPolicy, Webhooks};

impl Settings {
    pub async fn create_server(
        &self,
        new: &ServerPatch,
        now: UnixMs,
    ) -> Result<Arc<ServerInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let mut row = ServerRow {
            id: 0,
            name: new.name.clone().unwrap_or_default(),
            declared: false,
            senders: SendersPolicy::Verified,
            message_id: MessageIdPolicy::Keep,
            sandbox: delivery_type(new)?.unwrap_or(false),
            attributes: Attributes {
                inbound_hash: secret::new_inbound_hash().map_err(super::StoreError::from)?,
                ..Attributes::default()
            },
            created: now,
        };
        self.apply(new, &mut row, now)?;
        let declared = self
            .config
            .load()
            .servers
            .iter()
            .any(|s| s.name == row.name);
        let adopt = !declared && !self.offline;
        let created = self.store.create_server(&row, adopt).await;
        let id = self.noting(created)?.ok_or_else(|| name_taken(&row.name))?;
        self.changed(Change::Server(id)).await?;
        Ok(self.known(id)?)
    }

    pub async fn edit_server(
        &self,
        id: u32,
        patch: &ServerPatch,
        now: UnixMs,
    ) -> Result<Arc<ServerInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let server = self.changeable(id, Rule::ServerDeclared)?;
        if delivery_type(patch)?.is_some_and(|sandbox| sandbox != server.sandbox) {
            return Err(Refused::new(
                Rule::DeliveryType,
                "The 'DeliveryType' of a server is chosen when it is made and cannot be changed.",
            )
            .into());
        }
        let mut row = ServerRow {
            id,
            name: server.name.to_string(),
            declared: false,
            senders: server.senders,
            message_id: server.message_id,
            sandbox: server.sandbox,
            attributes: server.attributes.clone(),
            created: server.created,
        };
        self.apply(patch, &mut row, now)?;
        let updated = self.store.update_server(&row).await;
        if !self.noting(updated)? {
            return Err(name_taken(&row.name).into());
        }
        self.changed(Change::Server(id)).await?;
        Ok(self.known(id)?)
    }

    /// With its streams and tokens. Mail that it has handed over is delivered all the same.
    pub async fn delete_server(&self, id: u32) -> Result<Arc<ServerInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let server = self.changeable(id, Rule::ServerDelete)?;
        let deleted = self.store.delete_server(id).await;
        self.noting(deleted)?;
        self.changed(Change::Server(id)).await?;
        Ok(server)
    }

    /// A server that is known now.
    pub fn known(&self, id: u32) -> Result<Arc<ServerInfo>, Refused> {
        self.accounts
            .server_with_id(id)
            .ok_or_else(|| Refused::new(Rule::ServerUnknown, "The server was not found."))
    }

    /// A server that is not declared in the configuration file. `rule` is broken otherwise.
    pub(super) fn changeable(&self, id: u32, rule: Rule) -> Result<Arc<ServerInfo>, Refused> {
        let server = self.known(id)?;
        match server.declared {
            false => Ok(server),
            true => Err(Refused::new(rule, self.declared_sentence(&server.name))),
        }
    }

    fn declared_sentence(&self, name: &str) -> String {
        if self.config.load().development {
            return format!(
                "The server '{name}' belongs to the development node and stays as it is: make one of your own (posthaste server create NAME)."
            );
        }
        let file = self.configuration_file();
        format!(
            "The server '{name}' is declared in {file} and can be changed only there: edit it and reload the node (SIGHUP)."
        )
    }

    /// Its name, for sentences.
    pub(super) fn configuration_file(&self) -> String {
        let config = self.config.load();
        config.file.as_ref().map_or_else(
            || "the configuration".to_owned(),
            |file| {
                let name = file.file_name().unwrap_or_default();
                format!("the configuration file ({})", name.to_string_lossy())
            },
        )
    }

    fn apply(&self, patch: &ServerPatch, to: &mut ServerRow, now: UnixMs) -> Result<(), Refused> {
        if let Some(name) = &patch.name {
            to.name = name.trim().to_owned();
        }
        rules::server_name(&to.name)?;
        let wrong =
            |key: &str, words: &str| Refused::new(Rule::Value, format!("{key} is one of {words}."));
        to.senders = match patch.senders.as_deref() {
            None => to.senders,
            Some("verified") => SendersPolicy::Verified,
            Some("any") => SendersPolicy::Any,
            Some(_) => return Err(wrong("senders", "verified, any")),
        };
        to.message_id = match patch.message_id.as_deref() {
            None => to.message_id,
            Some("keep") => MessageIdPolicy::Keep,
            Some("replace") => MessageIdPolicy::Replace,
            Some(_) => return Err(wrong("message_id", "keep, replace")),
        };
        let config = self.config.load();
        let webhooks = match self.offline {
            // The file is not at hand; where a URL leads is judged when it is called.
            true => Webhooks::anywhere(),
            false => config.webhooks.clone(),
        };
        rules::apply(patch, &mut to.attributes, &webhooks, now)?;
        let wanted = to.attributes.inbound_domain.as_str();
        let snapshot = self.accounts.load();
        let taken = !wanted.is_empty()
            && snapshot
                .servers()
                .any(|s| s.id != to.id && s.attributes.inbound_domain == wanted);
        match taken {
            false => Ok(()),
            true => Err(Refused::new(
                Rule::InboundDomainTaken,
                format!("The 'InboundDomain' '{wanted}' is in use by another server."),
            )),
        }
    }
}

fn delivery_type(patch: &ServerPatch) -> Result<Option<bool>, Refused> {
    let is = |word: &str| {
        patch
            .delivery_type
            .as_deref()
            .is_some_and(|given| given.eq_ignore_ascii_case(word))
    };
    match () {
        () if patch.delivery_type.is_none() => Ok(None),
        () if is("live") => Ok(Some(false)),
        () if is("sandbox") => Ok(Some(true)),
        () => Err(Refused::new(
            Rule::DeliveryType,
            "'DeliveryType' is one of Live, Sandbox.",
        )),
    }
}

fn name_taken(name: &str) -> Refused {
    Refused::new(
        Rule::ServerNameTaken,
        format!("There is already a server named '{}'.", rules::shown(name)),
    )
}
