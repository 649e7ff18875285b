//! Links in HTML and in text, and whether they can be followed.
//!
//! A scanner of tags and attributes, not a parser of documents: it finds what a reader's program would follow, in one pass, and builds
//! nothing. What it overlooks in broken HTML is not judged.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::addresses::shown;
use super::lint::Level;

/// Values of `href` and `src`, with character references for `&` resolved.
pub(super) fn of_html(page: &str) -> impl Iterator<Item = Cow<'_, str>> {
    Tags {
        rest: page,
        tag: "",
    }
}

struct Tags<'p> {
    rest: &'p str,
    /// What is left of the current tag.
    tag: &'p str,
}

impl<'p> Iterator for Tags<'p> {
    type Item = Cow<'p, str>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some((name, value, rest)) = attribute(self.tag) {
                self.tag = rest;
                if name.eq_ignore_ascii_case("href") || name.eq_ignore_ascii_case("src") {
                    return Some(match value.contains("&amp;") {
                        true => value.replace("&amp;", "&").into(),
                        false => value.into(),
                    });
                }
            }
            let (_, after) = self.rest.split_once('<')?;
            if let Some(comment) = after.strip_prefix("!--") {
                self.rest = comment.split_once("-->").map_or("", |(_, rest)| rest);
                continue;
            }
            let end = end_of_tag(after);
            let (tag, rest) = after.split_at(end);
            let is_name = |c: char| c.is_ascii_alphanumeric();
            self.tag = tag.trim_start_matches(is_name);
            // A name space or a base address is no link that anybody follows.
            if !tag.starts_with(is_name) {
                self.tag = "";
            }
            self.rest = rest;
        }
    }
}

/// Where the tag's `>` is, outside of quotes; where no quote ends, the next one.
fn end_of_tag(text: &str) -> usize {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '>') => return at,
            // One that begins before another has ended: the quotes were wrong.
            (Some(_), '<') => return at,
            _ => {}
        }
    }
    text.len()
}

/// The next attribute of a tag: name, value, rest.
fn attribute(tag: &str) -> Option<(&str, &str, &str)> {
    let tag = tag.trim_start_matches(|c: char| c.is_whitespace() || c == '/' || c == '=');
    if tag.is_empty() {
        return None;
    }
    let end = tag.find(|c: char| c.is_whitespace() || c == '=' || c == '/');
    let (name, rest) = tag.split_at(end.unwrap_or(tag.len()));
    let Some(value) = rest.trim_start().strip_prefix('=') else {
        return Some((name, "", rest));
    };
    let value = value.trim_start();
    let quoted = value.strip_prefix(['"', '\'']);
    Some(match quoted {
        Some(inside) => {
            let quote = &value[..1];
            let (value, rest) = inside.split_once(quote).unwrap_or((inside, ""));
            (name, value, rest)
        }
        None => {
            let end = value.find(char::is_whitespace).unwrap_or(value.len());
            (name, &value[..end], &value[end..])
        }
    })
}

/// Words that begin as a link does, as programs that show text make them one.
pub(super) fn of_text(text: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"');
    let starts = text.match_indices("http").filter(move |(at, _)| {
        let rest = &text.as_bytes()[*at..];
        rest.starts_with(b"http:/") || rest.starts_with(b"https:/")
    });
    let mut from = 0;
    starts.filter_map(move |(at, _)| {
        // Within one that was told.
        if at < from {
            return None;
        }
        let word = &text[at..];
        let word = &word[..word.find(ends).unwrap_or(word.len())];
        from = at + word.len();
        Some(word.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '}', '\'']))
    })
}

/// What is wrong with a link; `inline` are the ids of the message's parts.
pub(super) fn judge(link: &str, inline: &BTreeSet<&str>) -> Option<(Level, &'static str, String)> {
    let link = link.trim();
    let malformed = |why: &str| {
        let text = format!("The link '{}' {why}.", shown(link));
        Some((Level::Error, "malformed-link", text))
    };
    // Reported as what they are.
    if ["{{", "{%", "<%", "${"]
        .iter()
        .any(|mark| link.contains(mark))
    {
        return None;
    }
    if link.is_empty() {
        return Some((
            Level::Warning,
            "malformed-link",
            "A link leads nowhere: it is empty.".into(),
        ));
    }
    if link.starts_with('#') {
        return None;
    }
    let Some((scheme, rest)) = link.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
        return malformed("has no scheme, such as https:, and leads nowhere from a mail");
    };
    match scheme.to_ascii_lowercase().as_str() {
        scheme @ ("http" | "https") => {
            if !rest.starts_with("//") {
                return malformed("has no // behind its scheme");
            }
            if rest.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
                return malformed("has a space, a backslash or a control character in it");
            }
            let Ok(parsed) = url::Url::parse(link) else {
                return malformed("cannot be read");
            };
            let private = match parsed.host() {
                None => return malformed("names no host"),
                Some(url::Host::Domain(name)) => !name.trim_end_matches('.').contains('.'),
                Some(url::Host::Ipv4(ip)) => crate::mail::networks::is_private(ip.into()),
                Some(url::Host::Ipv6(ip)) => crate::mail::networks::is_private(ip.into()),
            };
            if private {
                return malformed("leads into a private network");
            }
            (scheme == "http").then(|| {
                let text = format!(
                    "The link '{}' is not encrypted: https: is expected.",
                    shown(link)
                );
                (Level::Notice, "insecure-link", text)
            })
        }
        "mailto" if !rest.contains('@') && !rest.starts_with('?') => malformed("names no mailbox"),
        "cid" if !inline.contains(rest) => {
            let text = format!("Nothing in the message is '{}'.", shown(link));
            Some((Level::Error, "broken-inline", text))
        }
        "javascript" | "vbscript" | "file" => {
            malformed("has a scheme that programs for mail do not follow")
        }
        _ => None,
    }
}

/// RFC 3986 §3.1.
fn is_scheme(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_where_a_reader_would_follow_them() {
        let page = r#"<!-- <a href="no"> --><A HREF = 'https://a.example/?x=1&amp;y=2' class=x><img alt="a > b" src=cid:logo />
            <a href=/rel title='"'>text href="no"</a><link data-href="no" href=""><a href="unended"#;
        let found: Vec<_> = of_html(page).collect();
        assert_eq!(
            found,
            [
                "https://a.example/?x=1&y=2",
                "cid:logo",
                "/rel",
                "",
                "unended"
            ]
        );
        let text = "See https://a.example/x. (http://b.example), <https://c.example/?q=http://d.example> http:/e httpx";
        let found: Vec<_> = of_text(text).collect();
        assert_eq!(
            found,
            [
                "https://a.example/x",
                "http://b.example",
                "https://c.example/?q=http://d.example",
                "http:/e"
            ]
        );
    }

    #[test]
    fn each_link_is_judged() {
        let inline = BTreeSet::from(["logo"]);
        for good in [
            "https://example.com",
            "HTTPS://example.com/a?b#c",
            "mailto:a@example.com",
            "mailto:?subject=x",
            "tel:+15",
            "#top",
            "cid:logo",
            "myapp://open",
            "https://[2001:4860::8888]/",
            "https://{{host}}/",
        ] {
            assert_eq!(judge(good, &inline), None, "{good}");
        }
        for (link, level, rule) in [
            ("http://example.com", Level::Notice, "insecure-link"),
            ("", Level::Warning, "malformed-link"),
            ("www.example.com", Level::Error, "malformed-link"),
            ("/path", Level::Error, "malformed-link"),
            ("//example.com/x", Level::Error, "malformed-link"),
            ("https:example.com", Level::Error, "malformed-link"),
            ("https:/example.com", Level::Error, "malformed-link"),
            ("https://", Level::Error, "malformed-link"),
            ("https://exa mple.com", Level::Error, "malformed-link"),
            ("https://example.com\\x", Level::Error, "malformed-link"),
            ("https://example.com:port/", Level::Error, "malformed-link"),
            ("https://localhost/x", Level::Error, "malformed-link"),
            ("https://10.0.0.1/x", Level::Error, "malformed-link"),
            ("javascript:alert(1)", Level::Error, "malformed-link"),
            ("mailto:ada", Level::Error, "malformed-link"),
            ("cid:other", Level::Error, "broken-inline"),
        ] {
            let found = judge(link, &inline).map(|(level, rule, _)| (level, rule));
            assert_eq!(found, Some((level, rule)), "{link}");
        }
    }
}
