//! Turns of servers and streams.

/// `[[share]]`: how large a share of turns a server's mail has, or one stream's. What has none counts 1; a stream's weight
/// is the product of its own and its server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// By name.
    pub server: Box<str>,
    /// `None`: of all its streams.
    pub stream: Option<Box<str>>,
    pub weight: u32,
}
