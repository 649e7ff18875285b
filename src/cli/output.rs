//! What commands print: one row type gives the table for people and the JSON line for scripts.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;

/// One entry of a listing. Its serialisation is the JSON line, its cells are the table's.
pub(super) trait Row: Serialize {
    /// Headings; one that begins with `>` heads a column of numbers.
    const COLUMNS: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

/// A listing under way. Tables get their column widths from the first rows, so that any number can be listed.
pub(super) struct Listing<R: Row> {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    waiting: Vec<Vec<String>>,
    widths: Vec<usize>,
    begun: bool,
    count: u64,
    row: std::marker::PhantomData<R>,
}

impl<R: Row> Listing<R> {
    pub(super) fn new(json: bool) -> Self {
        Self {
            out: BufWriter::new(io::stdout().lock()),
            json,
            waiting: Vec::new(),
            widths: R::COLUMNS
                .iter()
                .map(|c| c.trim_start_matches('>').chars().count())
                .collect(),
            begun: false,
            count: 0,
            row: std::marker::PhantomData,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, row: &R) -> io::Result<()> {
        self.count += 1;
        if self.json {
            serde_json::to_writer(&mut self.out, row).map_err(io::Error::from)?;
            return self.out.write_all(b"\n");
        }
        let cells: Vec<String> = row.cells().iter().map(|cell| printable(cell)).collect();
        if self.begun {
            return self.line(&cells);
        }
        self.waiting.push(cells);
        match self.waiting.len() {
            WIDTHS_FROM => self.begin(),
            _ => Ok(()),
        }
    }

    /// Shows what was pushed so far, for listings that go on.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.begin()?;
        self.out.flush()
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.begun || self.json || self.waiting.is_empty() {
            return Ok(());
        }
        self.begun = true;
        let rows = std::mem::take(&mut self.waiting);
        for (index, width) in self.widths.iter_mut().enumerate() {
            let widest = rows
                .iter()
                .map(|row| row[index].chars().count())
                .max()
                .unwrap_or(0);
            *width = (*width).max(widest.min(WIDTH_MAX));
        }
        let headings: Vec<String> = R::COLUMNS
            .iter()
            .map(|c| c.trim_start_matches('>').to_owned())
            .collect();
        self.line(&headings)?;
        rows.iter().try_for_each(|row| self.line(row))
    }

    fn line(&mut self, cells: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, width), column) in cells.iter().zip(&self.widths).zip(R::COLUMNS) {
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
            match column.starts_with('>') {
                true => line.extend([&fill, cell, "  "]),
                false => line.extend([cell, &fill, "  "]),
            }
        }
        writeln!(self.out, "{}", line.trim_end())
    }
}

/// Output that could not be written, among errors of other origin.
#[derive(Debug, thiserror::Error)]
#[error("the output cannot be written: {0}")]
pub(super) struct Unwritten(pub(super) io::Error);

/// Says on a terminal's standard error how far a long piece of work is.
pub(super) struct Progress {
    what: String,
    shown: bool,
    on: bool,
}

impl Progress {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            shown: false,
            on: io::stderr().is_terminal(),
        }
    }

    pub(super) fn at(&mut self, done: usize, of: usize) {
        if self.on && of > 1 {
            self.shown = true;
            eprint!("\r{}: {done} of {of} ", self.what);
        }
    }

    /// Where nobody knows how many there are.
    pub(super) fn counted(&mut self, done: u64) {
        if self.on {
            self.shown = true;
            eprint!("\r{}: {done} ", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r{}\r", " ".repeat(self.what.len() + 24));
        }
    }
}

/// Writes raw bytes to standard output.
pub(super) fn write_all(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// One line of text on standard output.
pub(super) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// A JSON object on its line.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value).map_err(io::Error::from)?;
    line(text)
}

/// What strangers wrote must not move the cursor: control characters become `?`, line ends ` / `.
pub(super) fn printable(text: &str) -> String {
    let one_line = text.replace("\r\n", " / ").replace('\n', " / ");
    one_line
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

const WIDTHS_FROM: usize = 500;
const WIDTH_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_strangers_do_not_reach_the_terminal() {
        assert_eq!(
            printable("250 ok\u{1b}[2J\r\nbye\u{7}"),
            "250 ok?[2J / bye?"
        );
    }
}
