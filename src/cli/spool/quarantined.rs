//! Segments that the node found damaged, and put aside once nothing in them lived: for the operator to look at and remove.

use std::path::Path;

use serde::Serialize;
use spool_format::LogKind;

use crate::cli::logs;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct QuarantinedRow {
    section: &'static str,
    log: &'static str,
    file: String,
    bytes: u64,
}

impl QuarantinedRow {
    /// Oldest first.
    pub(super) fn all(data_dir: &Path) -> anyhow::Result<Vec<Self>> {
        let mut found = Vec::new();
        for kind in [LogKind::Mail, LogKind::Event] {
            let log = logs::name(kind);
            let dir = data_dir.join("spool").join(log);
            if !dir.is_dir() {
                continue;
            }
            let paths = std::fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path()));
            let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
            paths.retain(|path| path.extension().is_some_and(|e| e == "bad"));
            paths.sort();
            found.extend(paths.iter().map(|path| Self {
                section: "quarantined",
                log,
                file: path.display().to_string(),
                // Somebody may remove it just now.
                bytes: path.metadata().map_or(0, |m| m.len()),
            }));
        }
        Ok(found)
    }

    pub(super) fn text(&self) -> String {
        format!(
            "quarantined   {}: damaged, and nothing in it lives; remove it when you have looked at it",
            self.file
        )
    }
}
