//! Making and revoking tokens.

use super::model::{NewToken, TokenInfo, TokenKind, parse_rate};
use super::rules::{self, Refused, Rule};
use super::store::NewTokenRow;
use super::{Change, ChangeError, ServerInfo, Settings, StoreError, secret};
use crate::clock::UnixMs;
use crate::config::StreamKind;

/// A token and its secret, which is not shown again.
#[derive(Clone, Debug)]
pub struct MadeToken {
    pub info: TokenInfo,
    /// The token itself, or the secret key of an SMTP token.
    pub secret: String,
}

impl Settings {
    /// `server`: `None` for an account token. A declared server may have tokens of the store besides its own.
    pub async fn create_token(
        &self,
        server: Option<u32>,
        new: &NewToken,
        now: UnixMs,
    ) -> Result<MadeToken, ChangeError> {
        let _one = self.changing.lock().await;
        let name = new.name.as_deref().unwrap_or_default();
        rules::token_name(name)?;
        let rate = new.rate.as_deref().map(parse_rate).transpose()?.flatten();
        let kind = match server {
            None => TokenKind::Account,
            Some(_) => new.kind.unwrap_or(TokenKind::Server),
        };
        let key_failed = |error| ChangeError::from(StoreError::Key(error));
        let (access_key, secret) = match kind {
            TokenKind::Smtp => secret::new_smtp_token()
                .map(|(access, secret)| (Some(access), secret))
                .map_err(key_failed)?,
            TokenKind::Server | TokenKind::Account => {
                (None, secret::new_token().map_err(key_failed)?)
            }
        };
        let stream = match server {
            Some(id) => self.stream_of_token(&*self.known(id)?, kind, new.stream.as_deref())?,
            None => None,
        };
        let row = NewTokenRow {
            kind,
            server_id: server,
            stream: stream.as_deref(),
            name,
            access_key: access_key.as_deref(),
            secret: &secret,
            rate,
        };
        let created = self.store.create_token(&row, now).await;
        let id = self.noting(created)?;
        self.changed(change_of(server)).await?;
        let info = self.token(server, id)?;
        Ok(MadeToken { info, secret })
    }

    /// Refused from the next transaction of every connection on.
    pub async fn revoke_token(
        &self,
        server: Option<u32>,
        id: u32,
        now: UnixMs,
    ) -> Result<TokenInfo, ChangeError> {
        let _one = self.changing.lock().await;
        if self.token(server, id)?.revoked.is_some() {
            return Err(unknown(id).into());
        }
        let revoked = self.store.revoke_token(id, now).await;
        self.noting(revoked)?;
        self.changed(change_of(server)).await?;
        Ok(self.token(server, id)?)
    }

    /// A token is named together with its owner: the wrong owner and an unknown id look the same.
    pub fn token(&self, server: Option<u32>, id: u32) -> Result<TokenInfo, Refused> {
        let tokens = self.tokens(server)?;
        let found = tokens.into_iter().find(|token| token.id == Some(id));
        found.ok_or_else(|| unknown(id))
    }

    /// Of one server, or those of the account; the configuration's first, revoked ones too.
    pub fn tokens(&self, server: Option<u32>) -> Result<Vec<TokenInfo>, Refused> {
        match server {
            Some(id) => Ok(self.known(id)?.tokens.clone()),
            None => Ok(self.accounts.load().account_tokens().to_vec()),
        }
    }

    /// The stream that a new token is bound to, when there is room for the token.
    fn stream_of_token(
        &self,
        server: &ServerInfo,
        kind: TokenKind,
        stream: Option<&str>,
    ) -> Result<Option<String>, Refused> {
        let refused = |rule, message: String| Err(Refused::new(rule, message));
        let stream = match stream {
            None => None,
            Some(id) => Some(server.stream(id).ok_or_else(|| {
                let rule = match kind {
                    TokenKind::Smtp => Rule::SmtpTokenStream,
                    TokenKind::Server | TokenKind::Account => Rule::StreamUnknown,
                };
                let message = format!(
                    "Server '{}' has no message stream '{}'.",
                    server.name,
                    rules::shown(id)
                );
                Refused::new(rule, message)
            })?),
        };
        let active = |kind: TokenKind| {
            let tokens = server.tokens.iter();
            tokens.filter(move |t| t.kind == kind && t.revoked.is_none())
        };
        if kind == TokenKind::Server {
            if active(kind).count() >= rules::SERVER_TOKENS_MAX {
                return refused(
                    Rule::TokenCount,
                    format!(
                        "A server has at most {} server tokens; revoke one first.",
                        rules::SERVER_TOKENS_MAX
                    ),
                );
            }
            return Ok(stream.map(|s| s.id.to_string()));
        }
        let Some(stream) = stream else {
            return refused(
                Rule::SmtpTokenStream,
                "An SMTP token is bound to a message stream: name one.".into(),
            );
        };
        if stream.kind == StreamKind::Inbound {
            return refused(
                Rule::SmtpTokenInbound,
                "An SMTP token cannot be bound to an inbound stream.".into(),
            );
        }
        if stream.archived() {
            return refused(
                Rule::SmtpTokenArchived,
                "The message stream is archived.".into(),
            );
        }
        if !server.attributes.smtp_api_activated {
            return refused(
                Rule::SmtpTokenSmtpOff,
                "SMTP is switched off for this server.".into(),
            );
        }
        let of_stream = active(kind).filter(|t| t.stream.as_deref() == Some(&*stream.id));
        if of_stream.count() >= rules::SMTP_TOKENS_MAX {
            return refused(
                Rule::SmtpTokenCount,
                format!(
                    "A message stream has at most {} SMTP tokens; revoke one first.",
                    rules::SMTP_TOKENS_MAX
                ),
            );
        }
        Ok(Some(stream.id.to_string()))
    }
}

fn change_of(server: Option<u32>) -> Change {
    server.map_or(Change::AccountTokens, Change::Server)
}

fn unknown(id: u32) -> Refused {
    Refused::new(
        Rule::TokenUnknown,
        format!(
            "There is no token {id} that could be revoked or shown; tokens are listed with their ids."
        ),
    )
}
