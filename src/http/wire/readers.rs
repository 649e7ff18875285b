//! Readers of the event log.

use serde::{Deserialize, Serialize};

/// `GET /admin/v1/readers`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readers {
    pub readers: Vec<Reader>,
}

/// A reader of the event log, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reader {
    pub name: String,
    /// `opening`, `following`, `rebuilding`.
    pub state: String,
    /// Everything before it was read.
    pub position: u64,
    /// Of the log behind that.
    pub lag_bytes: u64,
    /// When the last event that it read was written, since its start.
    pub at: Option<String>,
    /// Of what it keeps on disk.
    pub bytes: Option<u64>,
    /// What it keeps, counted, where that is known.
    pub entries: Option<u64>,
    /// Events before it are not needed to make it again.
    pub base: Option<u64>,
    /// While it is made again.
    pub rebuilding: Option<Rebuilding>,
    /// Goes up when it has been made again.
    pub generation: u64,
    /// Why it does not get on.
    pub trouble: Option<String>,
}

/// How far the new state is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilding {
    pub from: u64,
    pub position: u64,
    /// Where the log ends now.
    pub until: u64,
}
