//! How far a sink is: one small file, `DATA_DIR/sinks/<name>.cursor`, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(super) struct Cursor {
    path: PathBuf,
}

impl Cursor {
    /// And where it was, if it was anywhere.
    pub(super) fn open(data_dir: &Path, name: &str) -> io::Result<(Self, Option<u64>)> {
        let dir = data_dir.join("sinks");
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{name}.cursor"));
        let found = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().parse().map_err(|_| {
                let text = format!(
                    "{} is not the position of an event; move it away to let the sink begin anew",
                    path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok((Self { path }, found))
    }

    /// Blocks until it is durable.
    pub(super) fn store(&self, position: u64) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        writeln!(file, "{position}")?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}
