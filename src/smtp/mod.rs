//! SMTP: two roles, each split into a pure machine (`session`) and a driver that owns the socket.

pub mod client;
pub mod data;
pub mod reply;
pub mod server;
pub mod sink;
