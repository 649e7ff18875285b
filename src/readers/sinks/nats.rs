//! A stream of NATS JetStream. An event is there when the server has acknowledged it; its id is `Nats-Msg-Id`, by which the
//! server drops what it gets twice within the stream's duplicate window.

use std::io;

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::{self, Context};
use async_nats::{ConnectOptions, HeaderMap};
use bytes::Bytes;

use super::{Batch, Line};
use crate::config::SinkNats;
use crate::limits;
use crate::route::trust;

pub(super) struct Nats {
    config: SinkNats,
    /// Event ids are of one log: another node has the same.
    node: String,
    open: Option<Context>,
}

impl Nats {
    pub(super) fn new(config: &SinkNats, hostname: &str) -> Self {
        Self {
            config: config.clone(),
            node: hostname.to_owned(),
            open: None,
        }
    }

    pub(super) async fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let stream = match self.open.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        self.publish(&stream, batch).await?;
        // One that failed is connected anew.
        self.open = Some(stream);
        Ok(())
    }

    async fn connect(&self) -> io::Result<Context> {
        let mut options = ConnectOptions::new()
            .name("posthaste")
            .connection_timeout(limits::SINK_CONNECT);
        if self.config.url.starts_with("tls://") {
            let tls = trust::client(self.config.ca_file.as_deref()).await;
            options = options.tls_client_config(tls.map_err(io::Error::other)?);
        }
        if let Some((user, password)) = &self.config.user {
            options = options.user_and_password(user.clone(), password.expose().to_owned());
        }
        if let Some(token) = &self.config.token {
            options = options.token(token.expose().to_owned());
        }
        let connected = options.connect(&*self.config.url).await;
        let failed = |error| io::Error::other(format!("NATS at {}: {error}", self.config.url));
        Ok(jetstream::new(connected.map_err(failed)?))
    }

    async fn publish(&self, stream: &Context, batch: &Batch) -> io::Result<()> {
        let failed = |error: &dyn std::fmt::Display, subject: &str| {
            io::Error::other(format!(
                "NATS did not take an event: {error}; is there a stream with the subject `{subject}`?"
            ))
        };
        let mut acks: Vec<(String, PublishAckFuture)> = Vec::with_capacity(batch.lines.len());
        for line in &batch.lines {
            let subject = subject(&self.config.subject, line);
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("{}-{}", self.node, line.id));
            let payload = Bytes::copy_from_slice(&line.json);
            let sent = stream.publish_with_headers(subject.clone(), headers, payload);
            acks.push((
                subject.clone(),
                sent.await.map_err(|e| failed(&e, &subject))?,
            ));
        }
        for (subject, ack) in acks {
            ack.await.map_err(|e| failed(&e, &subject))?;
        }
        Ok(())
    }
}

/// `posthaste.{server}.{stream}.{kind}`, filled in.
fn subject(template: &str, line: &Line) -> String {
    let token = |text: Option<&str>| {
        let text = text.filter(|text| !text.is_empty()).unwrap_or("-");
        // What separates tokens, or stands for others, cannot be in one.
        let fit = |c: char| {
            if c.is_whitespace() || c.is_control() || ".*>".contains(c) {
                '_'
            } else {
                c
            }
        };
        text.chars().map(fit).collect::<String>()
    };
    template
        .replace("{kind}", line.kind)
        .replace("{server}", &token(line.server.as_deref()))
        .replace("{stream}", &token(line.stream.as_deref()))
}
