//! Readers of the event log: what each makes of it can be thrown away and made again from its base and the log (DESIGN §2).

pub mod automatic;
pub mod bounces;
pub mod idempotency;
pub mod suppressions;
pub mod tables;
pub mod webhooks;
