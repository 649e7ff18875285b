//! The header section of a message (RFC 5322 §2.2), as ranges over the octets that the client sent.
//!
//! Nothing is rewritten here: a section tells which fields there are and where, so that the caller can leave some out and
//! put others in front, and every other octet stays as it was. Linear, without recursion, without copies.

use std::ops::Range;

/// One field: `octets` covers name, colon, value and every CRLF of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub octets: Range<usize>,
    name: Range<usize>,
    value: Range<usize>,
}

/// The fields of a section in order, over the octets that were given to [`Section::parse`].
#[derive(Debug)]
pub struct Section<'a> {
    octets: &'a [u8],
    fields: Vec<Field>,
    end: usize,
}

/// Why a header section cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("more than {0} header fields")]
    TooManyFields(usize),
    #[error("a header field is longer than {0} octets")]
    FieldTooLong(usize),
}

/// Where the header section ends, its empty line included; `None` while no empty line has come. `searched` octets are known
/// to hold no end (pass the length of the previous call).
pub fn section_end(octets: &[u8], searched: usize) -> Option<usize> {
    if octets.starts_with(b"\r\n") {
        return Some(2);
    }
    let from = searched.saturating_sub(3);
    memchr::memmem::find(octets.get(from..)?, b"\r\n\r\n").map(|place| from + place + 4)
}

impl<'a> Section<'a> {
    /// Reads the fields at the start of `octets`, up to the empty line or the first line that is no field. RFC 5322 has no
    /// content without fields, but a body alone is what some programs send: its section is empty.
    pub fn parse(
        octets: &'a [u8],
        fields_max: usize,
        field_octets_max: usize,
    ) -> Result<Self, HeaderError> {
        let mut fields: Vec<Field> = Vec::with_capacity(16);
        let mut start = 0;
        while start < octets.len() {
            let line_end =
                memchr::memchr(b'\n', &octets[start..]).map_or(octets.len(), |n| start + n + 1);
            let line = &octets[start..line_end];
            if line == b"\r\n" {
                return Ok(Self {
                    octets,
                    fields,
                    end: line_end,
                });
            }
            let is_fold = matches!(line.first(), Some(b' ' | b'\t'));
            match fields.last_mut() {
                Some(last) if is_fold => {
                    last.octets.end = line_end;
                    last.value.end = line_end;
                }
                _ => match field_name_len(line) {
                    Some(_) if fields.len() == fields_max => {
                        return Err(HeaderError::TooManyFields(fields_max));
                    }
                    Some((name_len, colon)) => fields.push(Field {
                        octets: start..line_end,
                        name: start..start + name_len,
                        value: start + colon + 1..line_end,
                    }),
                    None => break,
                },
            }
            if fields
                .last()
                .is_some_and(|f| f.octets.len() > field_octets_max)
            {
                return Err(HeaderError::FieldTooLong(field_octets_max));
            }
            start = line_end;
        }
        Ok(Self {
            octets,
            fields,
            end: start,
        })
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Where the body (or the first line that is no field) begins.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Whether the empty line that separates header section and body is there.
    pub fn is_terminated(&self) -> bool {
        self.octets[..self.end].ends_with(b"\r\n\r\n") || &self.octets[..self.end] == b"\r\n"
    }

    pub fn name(&self, field: &Field) -> &'a [u8] {
        &self.octets[field.name.clone()]
    }

    /// All of a field, its line ends included.
    pub fn octets_of(&self, field: &Field) -> &'a [u8] {
        &self.octets[field.octets.clone()]
    }

    pub fn is_named(&self, field: &Field, name: &str) -> bool {
        self.name(field).eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value unfolded (RFC 5322 §2.2.3) and trimmed; octets that are not UTF-8 become U+FFFD.
    pub fn value(&self, field: &Field) -> String {
        let raw = &self.octets[field.value.clone()];
        let text = String::from_utf8_lossy(raw);
        let unfolded: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        unfolded.trim_matches([' ', '\t']).to_owned()
    }

    pub fn named<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Field> {
        self.fields.iter().filter(move |f| self.is_named(f, name))
    }

    /// The value of the first field of that name.
    pub fn first(&self, name: &str) -> Option<String> {
        self.named(name).next().map(|f| self.value(f))
    }
}

/// Octets of the name, and the place of the colon. RFC 5322 §4.5 (obsolete syntax) allows white space between them.
fn field_name_len(line: &[u8]) -> Option<(usize, usize)> {
    let colon = memchr::memchr(b':', line)?;
    let name_len = line[..colon]
        .iter()
        .rposition(|b| !matches!(b, b' ' | b'\t'))?
        + 1;
    let sound = line[..name_len].iter().all(|b| (0x21..=0x7e).contains(b));
    sound.then_some((name_len, colon))
}

/// The addr-specs of an address-list field value (RFC 5322 §3.4), in order: display names, comments and group names are
/// passed over. Malformed parts give malformed texts, which [`super::Mailbox::parse`] refuses.
pub fn addr_specs(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut angled: Option<String> = None;
    let mut comment_depth = 0_usize;
    let mut quoted = false;
    let mut chars = value.chars();
    let mut finish = |current: &mut String, angled: &mut Option<String>| {
        let bare = std::mem::take(current);
        let spec = angled.take().unwrap_or(bare);
        let spec = spec.trim();
        if !spec.is_empty() {
            found.push(spec.to_owned());
        }
    };
    let mut in_angle = false;
    while let Some(c) = chars.next() {
        let target = if in_angle {
            angled.get_or_insert_default()
        } else {
            &mut current
        };
        match c {
            '\\' if quoted || comment_depth > 0 => {
                let escaped = chars.next();
                if comment_depth == 0 {
                    target.push(c);
                    target.extend(escaped);
                }
            }
            '"' if comment_depth == 0 => {
                quoted = !quoted;
                target.push(c);
            }
            _ if quoted => target.push(c),
            '(' => comment_depth += 1,
            ')' => comment_depth = comment_depth.saturating_sub(1),
            _ if comment_depth > 0 => {}
            '<' => {
                in_angle = true;
                angled = Some(String::new());
            }
            '>' => in_angle = false,
            ',' | ';' if !in_angle => finish(&mut current, &mut angled),
            // A group's display name ends here.
            ':' if !in_angle => current.clear(),
            _ => target.push(c),
        }
    }
    finish(&mut current, &mut angled);
    found
}

/// Why a From field does not name the one mailbox that sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOneMailbox {
    None,
    Several,
    /// Its display name, not in quotes, is an address and not the same one: some readers take the first for the sender.
    Ambiguous(String),
}

/// The addr-spec of a From field that holds exactly one mailbox (RFC 5322 §3.6.2 allows a list; we do not), and no group
/// (RFC 6854 §4 advises against them).
pub fn only_mailbox(value: &str) -> Result<String, NotOneMailbox> {
    let specs = addr_specs(value);
    let [spec] = specs.as_slice() else {
        return Err(match specs.is_empty() {
            true => NotOneMailbox::None,
            false => NotOneMailbox::Several,
        });
    };
    let bare = outside_quotes(value);
    // `<a@x> <b@y>`, `team: a@x;`, and what never ends.
    if bare.matches('<').count() > 1 || bare.contains([':', ';', ',']) {
        return Err(NotOneMailbox::Several);
    }
    if let Some((display, rest)) = bare.split_once('<') {
        let after = rest.split_once('>').map_or("", |(_, after)| after);
        let claimed = [display.trim(), after.trim()];
        let other = claimed
            .iter()
            .find(|text| text.contains('@') && !text.eq_ignore_ascii_case(spec));
        if let Some(other) = other {
            return Err(NotOneMailbox::Ambiguous((*other).to_owned()));
        }
    }
    Ok(spec.clone())
}

/// A field value without its comments and quoted strings.
fn outside_quotes(value: &str) -> String {
    let mut bare = String::new();
    let (mut quoted, mut depth) = (false, 0_usize);
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted || depth > 0 => drop(chars.next()),
            '"' if depth == 0 => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            c => bare.push(c),
        }
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &[u8] = b"From: a@example.com\r\nSubject: one\r\n two\r\nX-Empty:\r\nTo : b@example.com\r\n\r\nBody: no field\r\n";

    fn parse(octets: &[u8]) -> Section<'_> {
        Section::parse(octets, 100, 1_000).unwrap()
    }

    #[test]
    fn fields_are_found_with_their_folds_and_the_body_is_left_alone() {
        let section = parse(MAIL);
        let named: Vec<_> = section
            .fields()
            .iter()
            .map(|f| String::from_utf8_lossy(section.name(f)).into_owned())
            .collect();
        assert_eq!(named, ["From", "Subject", "X-Empty", "To"]);
        assert_eq!(section.first("subject").as_deref(), Some("one two"));
        assert_eq!(section.first("X-Empty").as_deref(), Some(""));
        assert_eq!(section.first("to").as_deref(), Some("b@example.com"));
        assert!(MAIL[section.end()..].starts_with(b"Body: no field"));
        assert!(section.is_terminated());
        assert_eq!(section_end(MAIL, 0), Some(section.end()));
    }

    #[test]
    fn the_end_is_found_however_the_octets_arrive() {
        let whole = section_end(MAIL, 0);
        for cut in 0..MAIL.len() {
            let early = section_end(&MAIL[..cut], 0);
            assert_eq!(
                early.or_else(|| section_end(MAIL, cut)),
                whole,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_line_that_is_no_field_ends_the_section() {
        let section = parse(b"From: a\r\nno field here\r\nTo: b\r\n");
        assert_eq!(
            (
                section.fields().len(),
                section.end(),
                section.is_terminated()
            ),
            (1, 9, false)
        );
        let section = parse(b" leading fold\r\n");
        assert_eq!((section.fields().len(), section.end()), (0, 0));
    }

    #[test]
    fn too_many_fields_and_too_long_ones_are_refused() {
        let many = b"A: b\r\n".repeat(101);
        assert_eq!(
            Section::parse(&many, 100, 1_000).unwrap_err(),
            HeaderError::TooManyFields(100)
        );
        let long = [b"A: ".as_slice(), &[b'x'; 1_000], b"\r\n"].concat();
        assert_eq!(
            Section::parse(&long, 100, 1_000).unwrap_err(),
            HeaderError::FieldTooLong(1_000)
        );
    }

    #[test]
    fn addr_specs_come_without_names_comments_and_groups() {
        let check =
            |value: &str, expected: &[&str]| assert_eq!(addr_specs(value), expected, "{value:?}");
        check("a@example.com", &["a@example.com"]);
        check("Ada <a@example.com>", &["a@example.com"]);
        check(
            "\"x@y, <z>\" <a@example.com>, (c@d) b@example.com",
            &["a@example.com", "b@example.com"],
        );
        check(
            "team: a@example.com, Bo <b@example.com>;",
            &["a@example.com", "b@example.com"],
        );
        check("\"a\\\"b\"@example.com", &["\"a\\\"b\"@example.com"]);
        check("evil@example.com <a@example.org>", &["a@example.org"]);
        check("", &[]);
        check("undisclosed-recipients:;", &[]);
    }

    #[test]
    fn one_mailbox_is_told_from_lists_groups_and_tricks_with_the_display_name() {
        let good = |value: &str, expected: &str| {
            assert_eq!(only_mailbox(value).as_deref(), Ok(expected), "{value:?}");
        };
        good("a@example.com", "a@example.com");
        good("Ada <a@example.com>", "a@example.com");
        good(
            "\"Lovelace, Ada; (x): <b@x>\" <a@example.com> (b@x, c@x)",
            "a@example.com",
        );
        good("A@Example.com <a@example.com>", "a@example.com");
        good("\"a:b\"@example.com", "\"a:b\"@example.com");
        let bad = |value: &str, expected: NotOneMailbox| {
            assert_eq!(only_mailbox(value), Err(expected), "{value:?}");
        };
        bad("", NotOneMailbox::None);
        bad("undisclosed:;", NotOneMailbox::None);
        for several in [
            "a@example.com, b@example.com",
            "a@example.com,",
            "team: a@example.com;",
            "<b@example.org> <a@example.com>",
        ] {
            bad(several, NotOneMailbox::Several);
        }
        let ambiguous = |value: &str, other: &str| {
            bad(value, NotOneMailbox::Ambiguous(other.to_owned()));
        };
        ambiguous("boss@bank.example <a@example.com>", "boss@bank.example");
        ambiguous("<a@example.com> boss@bank.example", "boss@bank.example");
    }
}
