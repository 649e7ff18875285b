//! Whether history was changed: digests of sealed segments (FORMAT.md §14) against what the segments hold now.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::Serialize;
use spool_format::digest::{self, Digest, Digests, Entry};
use spool_format::{LogKind, SegmentHeader};

/// A chain that somebody noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Anchor(Digest);

impl FromStr for Anchor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a chain is 64 hexadecimal digits, as an audit prints it".to_owned();
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut chain = [0; 32];
        for (byte, digits) in chain.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(chain))
    }
}

/// What is known of history.
pub(super) struct History {
    digests: Digests,
    by_segment: Rc<HashMap<(LogKind, u64), Entry>>,
    found: Rc<RefCell<Found>>,
}

#[derive(Default)]
struct Found {
    agree: u64,
    undigested: u64,
    changed: Vec<String>,
}

impl History {
    pub(super) fn read(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("spool").join("digests");
        let digests = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Digests::default(),
            file => {
                let file = file.with_context(|| format!("{} cannot be read", path.display()))?;
                match Digests::read(&file) {
                    Ok(digests) => digests,
                    Err(error) => bail!("{}: {error}", path.display()),
                }
            }
        };
        let mut by_segment = HashMap::new();
        for (entry, _) in &digests.entries {
            by_segment
                .entry((entry.log, entry.number))
                .or_insert(*entry);
        }
        Ok(Self {
            digests,
            by_segment: Rc::new(by_segment),
            found: Rc::default(),
        })
    }

    /// Takes one segment after the other.
    pub(super) fn compare(&self) -> impl FnMut(&SegmentHeader, &[u8], u64) + 'static {
        let (known, found) = (Rc::clone(&self.by_segment), Rc::clone(&self.found));
        move |header, bytes, end| {
            let mut found = found.borrow_mut();
            let Some(entry) = known.get(&(header.kind, header.number)) else {
                found.undigested += 1;
                return;
            };
            let what = match entry.is_of(header) && entry.end == end {
                false => "is another one than was written",
                true if digest::of_segment(bytes, header, end) != entry.sum => {
                    "does not hold what was written"
                }
                true => {
                    found.agree += 1;
                    return;
                }
            };
            let log = crate::cli::logs::name(header.kind);
            let number = header.number;
            found
                .changed
                .push(format!("{log} segment {number:016x} {what}"));
        }
    }

    pub(super) fn judge(self, anchor: Option<Anchor>) -> Proof {
        let found = self.found.take();
        let mut changed = found.changed;
        for place in &self.digests.broken {
            changed.push(format!(
                "entry {place} of spool/digests is damaged or does not follow from the one before"
            ));
        }
        let is_there = |Anchor(chain)| self.digests.entries.iter().any(|(_, c)| *c == chain);
        if anchor.is_some_and(|anchor| !is_there(anchor)) {
            changed.push("the chain given is not among the digests".into());
        }
        let hex = |chain: Digest| chain.iter().map(|b| format!("{b:02x}")).collect();
        Proof {
            entries: self.digests.entries.len() as u64,
            agree: found.agree,
            undigested: found.undigested,
            chain: self.digests.entries.last().map(|(_, chain)| hex(*chain)),
            changed,
        }
    }
}

/// What the digests say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Proof {
    /// All that were ever written.
    pub(in crate::cli) entries: u64,
    /// Segments that hold what was written.
    pub(in crate::cli) agree: u64,
    /// Segments that have no digest (yet).
    pub(in crate::cli) undigested: u64,
    /// Of the last entry.
    pub(in crate::cli) chain: Option<String>,
    pub(in crate::cli) changed: Vec<String>,
}

impl Proof {
    pub(super) fn holds(&self) -> bool {
        self.changed.is_empty()
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for changed in &self.changed {
            writeln!(f, "history was changed: {changed}")?;
        }
        let Self {
            agree, undigested, ..
        } = self;
        write!(
            f,
            "digests: {agree} complete segments hold what was written"
        )?;
        if *undigested > 0 {
            write!(f, ", {undigested} have none yet")?;
        }
        if let Some(chain) = &self.chain {
            write!(f, "; chain {chain}")?;
        }
        Ok(())
    }
}
