//! The node as a whole, against hosts and clients that behave and misbehave. One scenario per file.

mod clients;
mod remote_host_misbehaves;
mod start_and_stop;
mod submission;
mod support;
