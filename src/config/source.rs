//! TOML text as values that know their line and key, and the problems found on the way.
//!
//! [`section!`] declares a table once: its keys, their types, and with that how it is read and which keys are unknown.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reference;

/// Why a configuration is refused: every problem that was found.
#[derive(Debug)]
pub struct ConfigError {
    pub file: PathBuf,
    pub problems: Vec<Problem>,
}

/// One problem, where it is and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 when it concerns the file as a whole.
    pub line: usize,
    /// As the reference names it: `smtp.bind`.
    pub key: String,
    pub message: String,
}

impl ConfigError {
    pub(crate) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot be read: {error}; give the right path with --config");
        Self {
            file: file.into(),
            problems: vec![Problem {
                line: 0,
                key: String::new(),
                message,
            }],
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file.display())?;
            if problem.line > 0 {
                write!(f, ":{}", problem.line)?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

/// Where a value stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) line: usize,
    pub(crate) key: String,
}

impl At {
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            line: self.line,
            key: self.key.clone(),
            message: message.into(),
        }
    }

    /// A key of the section that stands here, for what is missing in it.
    pub(crate) fn child(&self, key: &str) -> At {
        At {
            line: self.line,
            key: format!("{}.{key}", self.key),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) at: At,
}

impl<T> Deref for Located<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// An array of tables, `[[key]]`; a type of its own so that it and a list of leaves can be told apart.
#[derive(Clone, Debug)]
pub(crate) struct Tables<S>(Option<Vec<Located<S>>>);

impl<S> Deref for Tables<S> {
    type Target = Option<Vec<Located<S>>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Reads one text; collects problems.
pub(crate) struct Reader<'a> {
    text: &'a str,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            problems: Vec::new(),
        }
    }

    /// The whole text as one section. `None` when it is no TOML.
    pub(crate) fn read<S: Section>(&mut self) -> Option<S> {
        match DeTable::parse(self.text) {
            Ok(table) => Some(S::read(self, table.get_ref(), "")),
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                self.problems.push(Problem {
                    line: self.line(start),
                    key: String::new(),
                    message: format!("not valid TOML: {}", error.message().replace('\n', " ")),
                });
                None
            }
        }
    }

    fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + memchr::memchr_iter(b'\n', before).count()
    }

    fn at(&self, start: usize, path: &str, key: &str) -> At {
        At {
            line: self.line(start),
            key: join(path, key),
        }
    }

    /// Reports every key of `table` that `known` does not list.
    pub(crate) fn refuse_unknown(&mut self, table: &DeTable<'_>, path: &str, known: &[&str]) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let at = self.at(key.span().start, path, name);
            let mut message = format!("unknown key `{name}`");
            if let Some(nearest) = nearest(name, known) {
                message += &format!("; the nearest known key is `{nearest}`");
            }
            if let Some(section) = reference::section_with(name, path) {
                message += &format!(" (`{name}` is a key of {section})");
            }
            self.problems.push(at.problem(message));
        }
    }

    fn leaf<T: Leaf>(&mut self, value: &Spanned<DeValue<'_>>, at: At) -> Option<Located<T>> {
        match T::read(value.get_ref()) {
            Ok(value) => Some(Located { value, at }),
            Err(message) => {
                self.problems.push(at.problem(message));
                None
            }
        }
    }

    fn section<S: Section>(&mut self, value: &Spanned<DeValue<'_>>, at: At) -> Option<Located<S>> {
        match value.get_ref() {
            DeValue::Table(table) => {
                let value = S::read(self, table, &at.key);
                Some(Located { value, at })
            }
            other => {
                let message = format!("must be a table, not {}", described(other));
                self.problems.push(at.problem(message));
                None
            }
        }
    }

    /// The items of an array, each where it stands.
    fn items<'v, 'i>(
        &mut self,
        value: &'v Spanned<DeValue<'i>>,
        at: &At,
    ) -> Vec<(&'v Spanned<DeValue<'i>>, At)> {
        let DeValue::Array(array) = value.get_ref() else {
            let message = format!("must be a list, not {}", described(value.get_ref()));
            self.problems.push(at.problem(message));
            return Vec::new();
        };
        let placed = |item: &'v Spanned<DeValue<'i>>| {
            let line = self.line(item.span().start);
            let key = at.key.clone();
            (item, At { line, key })
        };
        array.iter().map(placed).collect()
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Table(_) => "a table".into(),
        DeValue::Array(_) => "a list".into(),
        other => format!("a value of type {}", other.type_str()),
    }
}

/// A table with known keys. Implemented by [`section!`].
pub(crate) trait Section: Sized {
    const KEYS: &'static [&'static str];
    fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, path: &str) -> Self;
}

/// A value without keys of its own. The error says what is expected.
pub(crate) trait Leaf: Sized {
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
}

/// What a key of a section may hold: nothing or a leaf, a list of leaves, a table, a list of tables.
pub(crate) trait Field: Sized {
    fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, path: &str, key: &str) -> Self;
}

impl<T: Leaf> Field for Option<Located<T>> {
    fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, path: &str, key: &str) -> Self {
        let value = table.get(key)?;
        let at = reader.at(value.span().start, path, key);
        reader.leaf(value, at)
    }
}

impl<T: Leaf> Field for Option<Vec<Located<T>>> {
    fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, path: &str, key: &str) -> Self {
        let value = table.get(key)?;
        let at = reader.at(value.span().start, path, key);
        let items = reader.items(value, &at);
        let leaves = items
            .into_iter()
            .filter_map(|(item, at)| reader.leaf(item, at));
        Some(leaves.collect())
    }
}

/// A table that is not there has no keys.
impl<S: Section> Field for Located<S> {
    fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, path: &str, key: &str) -> Self {
        let read = table.get(key).and_then(|value| {
            let at = reader.at(value.span().start, path, key);
            reader.section(value, at)
        });
        read.unwrap_or_else(|| Located {
            value: S::read(reader, &DeTable::new(), &join(path, key)),
            at: At {
                line: 0,
                key: join(path, key),
            },
        })
    }
}

impl<S: Section> Field for Tables<S> {
    fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, path: &str, key: &str) -> Self {
        let Some(value) = table.get(key) else {
            return Self(None);
        };
        let at = reader.at(value.span().start, path, key);
        let items = reader.items(value, &at);
        let sections = items
            .into_iter()
            .filter_map(|(item, at)| reader.section(item, at));
        Self(Some(sections.collect()))
    }
}

/// Declares a section: a struct with one field per key.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($key:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(super) struct $name { $(pub(super) $key: $type,)* }

        impl $crate::config::source::Section for $name {
            const KEYS: &'static [&'static str] = &[$($crate::config::source::key_name(stringify!($key)),)*];

            fn read(
                reader: &mut $crate::config::source::Reader<'_>,
                table: &toml::de::DeTable<'_>,
                path: &str,
            ) -> Self {
                reader.refuse_unknown(table, path, Self::KEYS);
                Self {
                    $($key: $crate::config::source::Field::read(
                        reader, table, path, $crate::config::source::key_name(stringify!($key)),
                    ),)*
                }
            }
        }
    };
}
pub(crate) use section;

/// A field named after a word of Rust (`type_`) is a key without the underscore.
pub(crate) const fn key_name(field: &'static str) -> &'static str {
    let bytes = field.as_bytes();
    match bytes.split_last() {
        Some((b'_', _)) => field.split_at(bytes.len() - 1).0,
        _ => field,
    }
}

fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .copied()
        .min_by_key(|candidate| distance(name, candidate))
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

impl Leaf for String {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) if text.is_empty() => Err("must not be empty".into()),
            DeValue::String(text) if text.chars().any(char::is_control) => {
                Err("must not hold control characters".into())
            }
            DeValue::String(text) => Ok(text.as_ref().to_owned()),
            other => Err(format!(
                "must be a text in quotes, not {}",
                described(other)
            )),
        }
    }
}

impl Leaf for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| format!("must be true or false, not {}", described(value)))
    }
}

impl Leaf for u64 {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let number = value
            .as_integer()
            .and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
        number.ok_or_else(|| format!("must be a whole number from 0, not {}", described(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_with_the_fewest_slips() {
        let known = ["hostname", "data_dir", "bind"];
        for (typed, meant) in [
            ("hostnam", "hostname"),
            ("datadir", "data_dir"),
            ("bnid", "bind"),
            ("hsotname", "hostname"),
        ] {
            assert_eq!(nearest(typed, &known), Some(meant));
        }
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("ab", "ba"), 1);
    }
}
