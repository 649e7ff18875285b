//! A file of JSON lines, rotated and compressed.
//!
//! Promises: a line that was written is durable before the cursor passes it; a line half written when the power went is cut
//! off at the next start, and the last whole one says what the file has, so an event is in the files once, however the node ended. A
//! file that was rotated is whole, plain or compressed, at every moment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Batch;
use crate::clock::{UnixMs, wall_unix_ms};
use crate::config::{Compression, SinkFile};

pub(super) struct JsonFile {
    config: SinkFile,
    file: File,
    len: u64,
    /// When its first line was written, about.
    begun: UnixMs,
    /// Of its last line.
    last: Option<u64>,
    buffer: Vec<u8>,
    /// It was renamed, and what follows it could not be begun: nothing more may be written to it.
    is_aside: bool,
}

/// What is read of a line.
#[derive(Deserialize)]
struct Id {
    id: u64,
}

impl JsonFile {
    /// Blocks.
    pub(super) fn open(config: &SinkFile) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", config.path.display()))
        };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&config.path)
            .map_err(named)?;
        let len = cut(&mut file).map_err(named)?;
        let last = match last_id(&mut file, len).map_err(named)? {
            // A file that was rotated at once before the end.
            None => newest(&config.path).map_err(named)?,
            last => last,
        };
        let opened = Self {
            config: config.clone(),
            file,
            len,
            begun: wall_unix_ms(),
            last,
            buffer: Vec::new(),
            is_aside: false,
        };
        opened.tidy().map_err(named)?;
        Ok(opened)
    }

    /// Of the last event that it has.
    pub(super) fn last_id(&self) -> Option<u64> {
        self.last
    }

    /// What it has is of another log.
    pub(super) fn goes_on_from_nothing(&mut self) {
        self.last = None;
    }

    pub(super) fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if self.is_aside {
            self.begin()?;
        }
        self.buffer.clear();
        let mut last = self.last;
        for line in &batch.lines {
            // What it has from a try that failed halfway.
            if last.is_none_or(|last| line.id > last) {
                self.buffer.extend_from_slice(&line.json);
                self.buffer.push(b'\n');
                last = Some(line.id);
            }
        }
        if let Err(error) = self.append() {
            // Whatever part of it came is taken back, so that the next try begins at a line.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.last = last;
        if self.len >= self.config.rotate_size {
            self.rotate()?;
        }
        Ok(())
    }

    fn append(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()?;
        self.len += self.buffer.len() as u64;
        Ok(())
    }

    pub(super) fn rest(&mut self, now: UnixMs) -> io::Result<()> {
        let Some(every) = self.config.rotate_every else {
            return Ok(());
        };
        let is_due = now.saturating_sub(self.begun) >= every.as_millis() as u64;
        match is_due && self.len > 0 {
            true => self.rotate(),
            false => Ok(()),
        }
    }

    /// Begins a new file; the old one is named by its last event.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(last) = self.last else { return Ok(()) };
        let aside = sibling(&self.config.path, &format!("{last:016}.jsonl"));
        if !self.is_aside {
            fs::rename(&self.config.path, &aside)?;
            self.is_aside = true;
        }
        self.begin()
    }

    fn begin(&mut self) -> io::Result<()> {
        self.file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&self.config.path)?;
        sync_dir(&self.config.path)?;
        (self.len, self.begun, self.is_aside) = (0, wall_unix_ms(), false);
        self.tidy()
    }

    /// Compresses what was rotated, and removes what is too much.
    fn tidy(&self) -> io::Result<()> {
        let mut rotated = rotated(&self.config.path)?;
        for path in &mut rotated {
            let is_plain = path.extension().is_some_and(|e| e == "jsonl");
            if is_plain && self.config.compression != Compression::None {
                *path = compress(path, self.config.compression)?;
            }
        }
        // Of one that was being removed after its compression, both are there.
        let surplus = rotated.len().saturating_sub(self.config.keep);
        for path in &rotated[..surplus] {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Cuts off what is behind the last end of line; the length that is left.
fn cut(file: &mut File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let mut end = len;
    let mut piece = vec![0; PIECE];
    while end > 0 {
        let from = end.saturating_sub(PIECE as u64);
        let piece = &mut piece[..(end - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(piece)?;
        if let Some(index) = memchr::memrchr(b'\n', piece) {
            end = from + index as u64 + 1;
            break;
        }
        end = from;
    }
    if end < len {
        file.set_len(end)?;
        file.sync_data()?;
    }
    Ok(end)
}

/// Of the last line of a file that ends with one.
fn last_id(file: &mut File, len: u64) -> io::Result<Option<u64>> {
    let from = len.saturating_sub(LINE_MAX);
    let mut tail = vec![0; (len - from) as usize];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut tail)?;
    let line = tail.strip_suffix(b"\n").unwrap_or(&tail);
    let begin = memchr::memrchr(b'\n', line).map_or(0, |index| index + 1);
    let id = serde_json::from_slice::<Id>(&line[begin..]);
    Ok(id.ok().map(|id| id.id))
}

/// The last event of the newest file that was rotated, which its name tells.
fn newest(path: &Path) -> io::Result<Option<u64>> {
    let all = rotated(path)?;
    let name = all.last().and_then(|path| path.file_name()?.to_str());
    let digits = name.and_then(|name| {
        let end = name.find(".jsonl")?;
        name.get(end.checked_sub(DIGITS)?..end)
    });
    Ok(digits.and_then(|digits| digits.parse().ok()))
}

/// Oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let stem = stem(path);
    let dir = parent(path);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&*stem)) else {
            continue;
        };
        let Some((digits, suffix)) = rest
            .strip_prefix('-')
            .and_then(|rest| rest.split_at_checked(DIGITS))
        else {
            continue;
        };
        if digits.bytes().all(|b| b.is_ascii_digit())
            && [".jsonl", ".jsonl.zst", ".jsonl.gz"].contains(&suffix)
        {
            found.push(dir.join(&name));
        }
    }
    found.sort();
    Ok(found)
}

/// The compressed file, durable before the plain one goes.
fn compress(path: &Path, how: Compression) -> io::Result<PathBuf> {
    let suffix = match how {
        Compression::Zstd => ".zst",
        Compression::Gzip => ".gz",
        Compression::None => return Ok(path.to_owned()),
    };
    let named = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (done, temporary) = (named(suffix), named(".tmp"));
    let mut plain = BufReader::new(File::open(path)?);
    let out = BufWriter::new(File::create(&temporary)?);
    let mut out = match how {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            io::copy(&mut plain, &mut encoder)?;
            encoder.finish()?
        }
        _ => {
            let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
            io::copy(&mut plain, &mut encoder)?;
            encoder.finish()?
        }
    };
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(&temporary, &done)?;
    sync_dir(&done)?;
    fs::remove_file(path)?;
    Ok(done)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// `events` of `events.jsonl`.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".jsonl").unwrap_or(&name).to_owned()
}

/// `events-REST` beside `events.jsonl`.
fn sibling(path: &Path, rest: &str) -> PathBuf {
    parent(path).join(format!("{}-{rest}", stem(path)))
}

const PIECE: usize = 64 << 10;
/// More than a line can have.
const LINE_MAX: u64 = 1 << 20;
const DIGITS: usize = 16;
const ZSTD_LEVEL: i32 = 3;

#[cfg(test)]
mod tests {
    use super::super::Line;
    use super::*;

    #[test]
    fn a_file_that_is_aside_gets_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let config = SinkFile {
            path: dir.path().join("events.jsonl"),
            rotate_size: u64::MAX,
            rotate_every: None,
            keep: 9,
            compression: Compression::None,
        };
        let batch = |id: u64| Batch {
            lines: vec![Line::only_id(id)],
            ..Batch::default()
        };
        let mut file = JsonFile::open(&config).unwrap();
        file.write(&batch(7)).unwrap();
        // The next file cannot be begun: its directory is gone for a moment.
        let aside = sibling(&config.path, "0000000000000007.jsonl");
        let elsewhere = dir.path().with_extension("elsewhere");
        fs::rename(&config.path, &aside).unwrap();
        file.is_aside = true;
        fs::rename(dir.path(), &elsewhere).unwrap();
        file.write(&batch(8)).unwrap_err();
        file.rotate().unwrap_err();
        fs::rename(&elsewhere, dir.path()).unwrap();
        file.write(&batch(8)).unwrap();
        assert_eq!(fs::read(&aside).unwrap(), b"{\"id\":7}\n");
        assert_eq!(fs::read(&config.path).unwrap(), b"{\"id\":8}\n");
        file.write(&batch(9)).unwrap();
        file.rotate().unwrap();
        drop(file);
        assert_eq!(JsonFile::open(&config).unwrap().last_id(), Some(9));
    }
}
