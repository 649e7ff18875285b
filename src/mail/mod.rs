//! The vocabulary of mail: pure values, parsed once at the edge, without I/O, clock or configuration.

pub mod address;
pub mod envelope;
pub mod header;
pub mod id;
pub mod networks;
pub mod reply;
pub mod status;

pub use address::{AddressError, Domain, ForwardPath, Mailbox, ReversePath, is_selector};
pub use envelope::{BodyType, DsnNotify, DsnRecipient, DsnReturn, Hold};
pub use id::MessageId;
pub use reply::Reply;
pub use status::EnhancedStatus;
