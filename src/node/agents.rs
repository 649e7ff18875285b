//! What all agents share, made of the configuration.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::messages;
use super::pools::SANDBOX_SOURCE;
use crate::clock::Clock;
use crate::config::{Config, Source, SourceId};
use crate::deliver::{self, AgentContext};

pub(super) fn context(
    config: &Config,
    messages: messages::SpoolMessages,
    clock: Clock,
    trace: Arc<deliver::Trace>,
    reports: mpsc::Sender<deliver::Report>,
) -> AgentContext {
    let mut sources: Vec<Source> = config.sources().map(|(_, source)| source.clone()).collect();
    sources.push(Source {
        id: SourceId(sources.len() as u16),
        name: SANDBOX_SOURCE.into(),
        v4: Some(Ipv4Addr::LOCALHOST),
        v6: None,
        ehlo: config.node.hostname.clone(),
        weight: 1,
        proxy: None,
        public: Vec::new(),
    });
    AgentContext {
        messages: Arc::new(messages),
        sources: sources.into(),
        tls: deliver::opportunistic_tls(),
        timeouts: Arc::new(config.timeouts.clone()),
        rules: Arc::default(),
        shaping: Arc::clone(&config.shaping),
        clock,
        trace,
        reports,
    }
}
