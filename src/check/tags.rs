//! `name=value; name=value`: the form of DKIM keys (RFC 6376 §3.2), DMARC, MTA-STS and TLS-RPT records.

/// A record's tags in their order. `Err`: what is wrong, in a sentence.
pub(super) struct Tags<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Tags<'a> {
    pub(super) fn parse(record: &'a str) -> Result<Self, String> {
        let mut tags: Vec<(&str, &str)> = Vec::new();
        let mut parts = record.split(';').peekable();
        while let Some(part) = parts.next() {
            let part = part.trim_matches(WHITE);
            if part.is_empty() {
                // One semicolon may end the record; anywhere else something is missing.
                if parts.peek().is_none() && !tags.is_empty() {
                    break;
                }
                return Err("there is a semicolon with nothing before it".into());
            }
            let Some((name, value)) = part.split_once('=') else {
                return Err(format!("`{}` has no `=`", super::shown(part)));
            };
            let (name, value) = (name.trim_matches(WHITE), value.trim_matches(WHITE));
            let sound = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            if name.is_empty()
                || !name.bytes().all(sound)
                || !name.starts_with(|c: char| c.is_ascii_alphabetic())
            {
                return Err(format!("`{}` is no name of a tag", super::shown(name)));
            }
            if tags.iter().any(|(other, _)| *other == name) {
                return Err(format!("the tag `{name}` stands there twice"));
            }
            tags.push((name, value));
        }
        Ok(Self(tags))
    }

    pub(super) fn first(&self) -> Option<(&'a str, &'a str)> {
        self.0.first().copied()
    }

    pub(super) fn of(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| *value)
    }

    /// Without white space, which may stand anywhere in base64 and in lists.
    pub(super) fn compact(&self, name: &str) -> Option<String> {
        let value = self.of(name)?;
        Some(value.chars().filter(|c| !WHITE.contains(c)).collect())
    }
}

/// RFC 6376 §2.8: FWS in the parts of a record.
const WHITE: &[char] = &[' ', '\t', '\r', '\n'];
