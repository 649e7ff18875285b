//! Small files of operators' orders: whole before a change or whole after it, whatever fails.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces a file. `Ok`: it is on stable storage under its name. `Err`: the old one is there, but for a disk that failed after
/// the new one had its name. Blocks.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
