//! The node as a whole, against hosts and clients that behave and misbehave. One scenario per file.
#![allow(unreachable_pub)]

mod clients;
mod damaged_spool;
mod dns;
mod failed_sync;
mod full_disk;
mod remote_host_misbehaves;
mod start_and_stop;
mod strace_order;
mod submission;
mod support;
