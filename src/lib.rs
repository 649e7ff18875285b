//! Posthaste: a self-hosted outbound mail platform in one binary.
//!
//! The modules follow the way of a message; a module may use those of lower rank only (STYLE §2, held by `tests/tidy.rs`).
//!
//! | Module | Tells |
//! |---|---|
//! | [`mail`] | the vocabulary: addresses, replies, status codes, header sections, message ids |
//! | [`outcome`] | what one attempt decided, and how far it reaches |
//! | [`event`] | the facts of the event log |
//! | [`limits`] | every bound in the program |
//! | [`clock`] | the only place that asks what time it is |
//! | [`metrics`] | every metric, in one table |
//! | [`config`] | the configuration file, as typed and as used |
//! | [`sign`] | DKIM signatures |
//! | [`check`] | what domains and sources need in the DNS, and what is there |
//! | [`account`] | the settings that people make: servers, streams, tokens |
//! | [`idempotency`] | which message was taken for a key |
//! | [`suppression`] | to whom a stream does not send |
//! | [`smtp`] | the two dialogues, each as a machine and a driver |
//! | [`http`] | health, metrics, the admin API |
//! | [`accept`] | the one door into the spool |
//! | [`readers`] | what is made of the event log |
//! | [`spool`] | durability |
//! | [`queue`] | who is next, and why not yet |
//! | [`route`] | the next hop |
//! | [`classify`] | what a remote host's refusal means |
//! | [`deliver`] | attempts over pooled connections |
//! | [`inbound`] | what comes back by mail |
//! | [`node`] | composition root |
//! | [`cli`] | the commands |

// In the order of the table: rustfmt sorts within a block, so each has its own.
pub mod mail;

pub mod outcome;

pub mod event;

pub mod limits;

pub mod clock;

pub mod metrics;

pub mod config;

pub mod sign;

pub mod check;

pub mod account;

pub mod suppression;

pub mod smtp;

pub mod http;
pub mod idempotency;

pub mod accept;

pub mod readers;

pub mod spool;

pub mod queue;

pub mod route;

pub mod classify;

pub mod deliver;

pub mod inbound;

pub mod node;

pub mod cli;
