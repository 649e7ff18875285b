//! `posthaste spool compact`: live mail out of mostly dead segments, now. Asks the running daemon.

use crate::cli::client::AdminClient;
use crate::cli::{Failure, Found, Place, output};
use crate::http::wire;

pub(super) fn compact(place: &Place) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let nothing = serde_json::Map::new();
    let wire::Begun { begun } = client.post("/admin/v1/spool/compact", &nothing)?;
    output::line(match begun {
        true => "compaction begins; the daemon's log says what it did",
        false => "compaction is under way already",
    })?;
    Ok(Found::All)
}
