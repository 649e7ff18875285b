//! The vocabulary of mail: pure values, parsed once at the edge, without I/O, clock or configuration.

pub mod address;
pub mod envelope;
pub mod header;
pub mod id;
pub mod mime;
pub mod networks;
pub mod reply;
pub mod seven_bit;
pub mod staged;
pub mod status;
pub mod verp;

pub use address::{AddressError, Domain, ForwardPath, Mailbox, ReversePath, is_selector};
pub use envelope::{BodyType, DsnNotify, DsnRecipient, DsnReturn, Hold};
pub use id::MessageId;
pub use reply::Reply;
pub use seven_bit::{NotSevenBit, to_seven_bit};
pub use staged::{Act, Staged, TestDomains};
pub use status::EnhancedStatus;
pub use verp::{NotOurs, Verp, VerpAddress, VerpSecret};
