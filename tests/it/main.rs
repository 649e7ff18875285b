//! The node as a whole, against hosts and clients that behave and misbehave. One scenario per file.
#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test fails by panicking, and support is no public interface"
)]

mod accounts;
mod ambiguous;
mod archives;
mod bounces;
mod bounces_by_mail;
mod checks;
mod classification;
mod clients;
mod clocks;
mod damaged_spool;
mod deadlines;
mod directives;
mod dns;
mod erase;
mod export_import;
mod failed_sync;
mod full_disk;
mod identities;
mod inspection;
#[cfg(feature = "kafka")]
mod kafka;
mod many_recipients;
mod messages;
mod metrics_and_health;
mod monitoring;
mod notices;
mod official_clients;
mod policy_files;
mod postmaster;
mod proxies;
mod queue_verbs;
mod read_only_disk;
mod readers;
mod reload;
mod remote_host_misbehaves;
mod removals;
mod return_path;
mod round_trips;
mod scheduled;
mod sending;
mod seven_bit;
mod signing;
mod sinks;
mod sources;
mod spf;
mod start_and_stop;
mod statistics;
mod strace_order;
mod submission;
mod support;
mod suppressions;
mod systemd;
mod test_addresses;
mod trace;
mod webhooks;
mod webhooks_begin;
