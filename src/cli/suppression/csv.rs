//! Rows of a CSV file (RFC 4180), a line at a time.

use std::io::{self, BufRead, Write};

/// Writes a row; what needs quotes gets them.
pub(super) fn write(out: &mut impl Write, cells: &[impl AsRef<str>]) -> io::Result<()> {
    for (place, cell) in cells.iter().enumerate() {
        let (cell, comma) = (cell.as_ref(), if place > 0 { "," } else { "" });
        match cell.contains(['"', ',', '\r', '\n']) {
            true => write!(out, "{comma}\"{}\"", cell.replace('"', "\"\""))?,
            false => write!(out, "{comma}{cell}")?,
        }
    }
    out.write_all(b"\n")
}

/// Reads rows and counts lines.
pub(super) struct Reader<R> {
    from: R,
    /// Of the line that was read last, from 1.
    pub(super) line: u64,
    text: String,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            line: 0,
            text: String::new(),
        }
    }

    /// The next row that holds anything. A cell in quotes may go over lines.
    pub(super) fn row(&mut self) -> io::Result<Option<Vec<String>>> {
        loop {
            self.text.clear();
            if !self.more()? {
                return Ok(None);
            }
            while self.text.matches('"').count() % 2 == 1 {
                if self.text.len() > ROW_OCTETS_MAX || !self.more()? {
                    let text = format!("a quote is not closed before line {}", self.line);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
            let row = self.text.trim_end_matches(['\r', '\n']);
            let row = row.strip_prefix('\u{feff}').unwrap_or(row);
            if !row.is_empty() {
                return Ok(Some(split(row)));
            }
        }
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut octets = Vec::new();
        // A line without an end is no reason to take all memory.
        let read =
            io::Read::take(&mut self.from, ROW_OCTETS_MAX as u64).read_until(b'\n', &mut octets)?;
        self.line += u64::from(read > 0);
        self.text.push_str(&String::from_utf8_lossy(&octets));
        Ok(read > 0)
    }
}

fn split(row: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut chars = row.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        let last = cells.len() - 1;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cells[last].push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells[last].push(c),
        }
    }
    cells
}

const ROW_OCTETS_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let rows = [
            vec!["address", "note"],
            vec!["ada@example.com", ""],
            vec!["\"a,b\"@example.com", "said \"no\"\r\nand went"],
            vec!["", "x"],
        ];
        let mut text = Vec::new();
        for row in &rows {
            write(&mut text, row).unwrap();
        }
        let mut reader = Reader::new(text.as_slice());
        for row in &rows {
            assert_eq!(
                reader.row().unwrap().as_deref(),
                Some(&row.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>()[..])
            );
        }
        assert_eq!((reader.row().unwrap(), reader.line), (None, 5));
    }

    #[test]
    fn what_other_programs_write_is_read() {
        let text = "\u{feff}\"Email\",Reason\r\n\r\nada@example.com,\"x\"\r\nbo@example.com";
        let mut reader = Reader::new(text.as_bytes());
        assert_eq!(reader.row().unwrap().unwrap(), ["Email", "Reason"]);
        assert_eq!(reader.row().unwrap().unwrap(), ["ada@example.com", "x"]);
        assert_eq!(
            (reader.row().unwrap().unwrap(), reader.line),
            (vec!["bo@example.com".to_owned()], 4)
        );
        assert_eq!(reader.row().unwrap(), None);
        assert!(Reader::new(&b"a,\"b\nc"[..]).row().is_err());
    }
}
