//! MIME as far as it has to be understood without being rewritten: types, parameters, and where a multipart is cut.

/// The value of a Content-Type field (RFC 2045 §5.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaType {
    /// Both in lower case; empty where the field has no such form.
    pub kind: String,
    pub subtype: String,
    parameters: String,
}

impl MediaType {
    /// Of the field's value, unfolded.
    pub fn of(value: &str) -> Self {
        let (kind, rest) = token(value);
        let subtype = rest.trim_start().strip_prefix('/').map(token);
        let (subtype, rest) = subtype.unwrap_or_default();
        Self {
            kind: kind.to_ascii_lowercase(),
            subtype: subtype.to_ascii_lowercase(),
            parameters: rest.to_owned(),
        }
    }

    /// Unquoted. The first one of that name, as most readers take it.
    pub fn parameter(&self, name: &str) -> Option<String> {
        parameter(&self.parameters, name)
    }

    pub fn boundary(&self) -> Option<String> {
        self.parameter("boundary").filter(|b| !b.is_empty())
    }
}

/// A token (RFC 2045 §5.1) behind white space and comments, and what follows it.
pub fn token(text: &str) -> (&str, &str) {
    let text = behind_comments(text);
    let is_special = |c: char| c.is_ascii_whitespace() || "()<>@,;:\\\"/[]?=".contains(c);
    let end = text.find(is_special).unwrap_or(text.len());
    (&text[..end], behind_comments(&text[end..]))
}

/// Without white space and comments in front (RFC 5322 §3.2.2).
fn behind_comments(text: &str) -> &str {
    let mut rest = text.trim_start();
    while rest.starts_with('(') {
        let mut depth = 0_usize;
        let mut escaped = false;
        let end = rest.find(|c: char| {
            match c {
                _ if escaped => {
                    escaped = false;
                    return false;
                }
                '\\' => escaped = true,
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        rest = end.map_or("", |end| rest[end + 1..].trim_start());
    }
    rest
}

/// The value of a parameter, unquoted. The first one of that name, as most readers take it.
fn parameter(mut text: &str, name: &str) -> Option<String> {
    loop {
        text = behind_comments(text).strip_prefix(';')?;
        let (key, rest) = token(text);
        let Some(rest) = rest.strip_prefix('=') else {
            // A stray semicolon.
            text = rest;
            continue;
        };
        let rest = behind_comments(rest);
        let (value, behind) = match rest.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let (value, behind) = bare(rest);
                (value.to_owned(), behind)
            }
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        text = behind;
    }
}

/// A value that is not quoted, and should be where it holds specials: up to the next parameter.
fn bare(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c == ';' || c.is_ascii_whitespace());
    let (value, rest) = text.split_at(end.unwrap_or(text.len()));
    (value, rest)
}

/// The rest of a quoted string, and what follows it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((place, c)) = chars.next() {
        match c {
            '"' => return (value, &text[place + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// A delimiter line (RFC 2046 §5.1.1), with its own line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delimiter {
    pub start: usize,
    pub end: usize,
    /// The last one.
    pub closes: bool,
}

/// The delimiter lines of a body, in order.
pub struct Delimiters<'b> {
    body: &'b [u8],
    dashed: Vec<u8>,
    from: usize,
}

impl<'b> Delimiters<'b> {
    pub fn new(body: &'b [u8], boundary: &str) -> Self {
        Self {
            body,
            // A boundary ends in no blank, whatever its quotes hold.
            dashed: [b"--", boundary.trim_end().as_bytes()].concat(),
            from: 0,
        }
    }
}

impl Iterator for Delimiters<'_> {
    type Item = Delimiter;

    fn next(&mut self) -> Option<Delimiter> {
        loop {
            let rest = self.body.get(self.from..)?;
            let start = self.from + memchr::memmem::find(rest, &self.dashed)?;
            let behind = start + self.dashed.len();
            self.from = behind;
            if start > 0 && self.body[start - 1] != b'\n' {
                continue;
            }
            let line = &self.body[behind..];
            let line_end = memchr::memchr(b'\n', line).map_or(line.len(), |place| place + 1);
            let line = &line[..line_end];
            let (closes, padding) = match line.strip_prefix(b"--") {
                Some(padding) => (true, padding),
                None => (false, line),
            };
            if padding.iter().all(u8::is_ascii_whitespace) {
                let end = behind + line_end;
                self.from = end;
                return Some(Delimiter { start, end, closes });
            }
        }
    }
}
