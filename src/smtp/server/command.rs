//! One command line, parsed once. Everything malformed is refused here, with its reply, so that the session decides only
//! about order and permission.
//!
//! It is strict where leniency has been abused (control characters, parameters, sizes) and lenient where old clients are
//! harmless (case, spaces behind a colon or at the end of a line).

use std::net::IpAddr;

use crate::mail::{Domain, Reply};
use crate::smtp::reply;

/// A command; texts are those of the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Helo(&'a str),
    Ehlo(&'a str),
    /// Path between the angle brackets, and the text of the parameters.
    Mail(&'a str, &'a str),
    Rcpt(&'a str, &'a str),
    Data,
    Bdat {
        size: u64,
        last: bool,
    },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
    StartTls,
    Auth {
        mechanism: &'a str,
        initial: Option<&'a str>,
    },
    Xclient(Xclient),
}

/// Why a line is not a command, and what follows from it.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Say so and go on.
    Reply(Reply),
    /// Say so and close: what follows cannot be understood.
    Close(Reply),
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// What XCLIENT says about the client (Postfix XCLIENT_README). `None`: not mentioned or unavailable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xclient {
    pub name: Option<String>,
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub extended: Option<bool>,
    pub helo: Option<String>,
    pub login: Option<String>,
}

/// Parses a line without its CRLF.
pub fn parse(line: &[u8]) -> Result<Command<'_>, Refusal> {
    // RFC 5321 §4.1.1: white space before the CRLF is tolerated. Not `trim_ascii_end`, which would take a CR along.
    let mut line = line;
    while let Some((b' ' | b'\t', shorter)) = line.split_last() {
        line = shorter;
    }
    // threats-and-faults §2.1: a line ends at CRLF only; CR, LF, NUL and other controls elsewhere are refused, never split at.
    if line.iter().any(|&b| b < 0x20 || b == 0x7f) {
        return Err(reply::BAD_LINE.into());
    }
    let line = std::str::from_utf8(line).map_err(|_| reply::BAD_LINE)?;
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim_matches(' ');
    let Some((_, verb)) = VERBS.iter().find(|(t, _)| verb.eq_ignore_ascii_case(t)) else {
        return Err(reply::UNRECOGNIZED.into());
    };
    let bare = |command| match rest {
        "" => Ok(command),
        _ => Err(reply::NO_ARGUMENTS.into()),
    };
    match verb {
        Verb::Helo => hello_name(rest).map(Command::Helo),
        Verb::Ehlo => hello_name(rest).map(Command::Ehlo),
        Verb::Mail => {
            let (path, parameters) = path(rest, "FROM:", reply::BAD_REVERSE_PATH)?;
            Ok(Command::Mail(path, parameters))
        }
        Verb::Rcpt => {
            let (path, parameters) = path(rest, "TO:", reply::BAD_FORWARD_PATH)?;
            Ok(Command::Rcpt(path, parameters))
        }
        Verb::Data => bare(Command::Data),
        Verb::Bdat => bdat(rest),
        Verb::Rset => bare(Command::Rset),
        Verb::Quit => bare(Command::Quit),
        // RFC 5321 §4.1.1.9: the argument of NOOP is ignored.
        Verb::Noop => Ok(Command::Noop),
        Verb::Help => Ok(Command::Help),
        Verb::Vrfy if rest.is_empty() => Err(reply::BAD_ARGUMENTS.into()),
        Verb::Vrfy => Ok(Command::Vrfy),
        Verb::StartTls => bare(Command::StartTls),
        Verb::Auth => auth(rest),
        Verb::Xclient => xclient(rest).map(Command::Xclient),
        Verb::NotImplemented => Err(reply::NOT_IMPLEMENTED.into()),
        // threats-and-faults §2.1: a browser was led here; nothing of what follows is meant for us.
        Verb::Http => Err(Refusal::Close(reply::NOT_SMTP)),
    }
}

/// Whether an unfinished or over-long line is one of AUTH, which may be longer than others (RFC 4954 §4).
pub fn begins_auth(line: &[u8]) -> bool {
    line.get(..5)
        .is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "))
}

#[derive(Clone, Copy)]
enum Verb {
    Helo,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
    StartTls,
    Auth,
    Xclient,
    NotImplemented,
    Http,
}

/// In the order of how often they come.
const VERBS: &[(&str, Verb)] = &[
    ("MAIL", Verb::Mail),
    ("RCPT", Verb::Rcpt),
    ("DATA", Verb::Data),
    ("BDAT", Verb::Bdat),
    ("EHLO", Verb::Ehlo),
    ("QUIT", Verb::Quit),
    ("RSET", Verb::Rset),
    ("NOOP", Verb::Noop),
    ("AUTH", Verb::Auth),
    ("STARTTLS", Verb::StartTls),
    ("HELO", Verb::Helo),
    ("VRFY", Verb::Vrfy),
    ("HELP", Verb::Help),
    ("XCLIENT", Verb::Xclient),
    ("EXPN", Verb::NotImplemented),
    ("ETRN", Verb::NotImplemented),
    ("TURN", Verb::NotImplemented),
    ("SEND", Verb::NotImplemented),
    ("SOML", Verb::NotImplemented),
    ("SAML", Verb::NotImplemented),
    ("BURL", Verb::NotImplemented),
    ("GET", Verb::Http),
    ("POST", Verb::Http),
    ("PUT", Verb::Http),
    ("HEAD", Verb::Http),
    ("CONNECT", Verb::Http),
    ("OPTIONS", Verb::Http),
];

/// RFC 5321 §4.1.4 forbids refusing a name that merely does not fit the client. Characters that would break the comment of a
/// `Received` field are refused all the same.
fn hello_name(text: &str) -> Result<&str, Refusal> {
    let sound =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if (1..=HELLO_OCTETS_MAX).contains(&text.len()) && text.bytes().all(sound) {
        Ok(text)
    } else {
        Err(reply::BAD_HELLO.into())
    }
}

/// `FROM:<path> parameters`. Spaces behind the colon are common and harmless; a path without brackets is refused.
fn path<'a>(text: &'a str, keyword: &str, bad: Reply) -> Result<(&'a str, &'a str), Refusal> {
    match text.get(..keyword.len()) {
        Some(found) if found.eq_ignore_ascii_case(keyword) => {}
        _ => return Err(reply::BAD_ARGUMENTS.into()),
    }
    let text = text
        .get(keyword.len()..)
        .unwrap_or_default()
        .trim_start_matches(' ');
    let split = text
        .strip_prefix('<')
        .and_then(|inner| inner.split_at_checked(closing_bracket(inner)?));
    let Some((path, rest)) = split else {
        return Err(bad.into());
    };
    match rest.strip_prefix('>') {
        Some("") => Ok((path, "")),
        Some(parameters) if parameters.starts_with(' ') => Ok((path, parameters.trim_matches(' '))),
        _ => Err(bad.into()),
    }
}

/// The `>` that is not within a quoted-string (RFC 5321 §4.1.2).
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (place, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(place),
            _ => {}
        }
    }
    None
}

/// RFC 3030 §2. Without a readable count the octets behind the line cannot be told from commands: refuse and close.
fn bdat(text: &str) -> Result<Command<'_>, Refusal> {
    let mut words = text.split_ascii_whitespace();
    let size = words.next().and_then(decimal);
    let last = match words.next() {
        None => Some(false),
        Some(word) if word.eq_ignore_ascii_case("LAST") => Some(true),
        Some(_) => None,
    };
    match (size, last, words.next()) {
        (Some(size), Some(last), None) => Ok(Command::Bdat { size, last }),
        _ => Err(Refusal::Close(reply::BAD_ARGUMENTS)),
    }
}

/// Digits only; `None` on overflow.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// RFC 4954 §4.
fn auth(text: &str) -> Result<Command<'_>, Refusal> {
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism, initial }),
        _ => Err(reply::BAD_ARGUMENTS.into()),
    }
}

fn xclient(text: &str) -> Result<Xclient, Refusal> {
    let bad = || Refusal::Reply(reply::BAD_ARGUMENTS);
    let mut found = Xclient::default();
    if text.is_empty() {
        return Err(bad());
    }
    for attribute in text.split_ascii_whitespace() {
        let (name, value) = attribute.split_once('=').ok_or_else(bad)?;
        let value = super::parameters::decode_xtext(value).ok_or_else(bad)?;
        let unavailable = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"]
            .iter()
            .any(|word| word.eq_ignore_ascii_case(&value));
        let given = (!unavailable && !value.is_empty()).then_some(value);
        match name.to_ascii_uppercase().as_str() {
            "NAME" => found.name = given.map(host_name).transpose()?,
            "ADDR" => found.address = given.map(|v| address(&v).ok_or_else(bad)).transpose()?,
            "PORT" => found.port = given.map(|v| v.parse().map_err(|_| bad())).transpose()?,
            "PROTO" => {
                found.extended = match given.map(|v| v.to_ascii_uppercase()).as_deref() {
                    None => None,
                    Some("SMTP") => Some(false),
                    Some("ESMTP") => Some(true),
                    Some(_) => return Err(bad()),
                }
            }
            "HELO" => found.helo = given.map(host_name).transpose()?,
            "LOGIN" => found.login = given,
            _ => return Err(bad()),
        }
    }
    Ok(found)
}

fn host_name(text: String) -> Result<String, Refusal> {
    hello_name(&text)
        .map(str::to_owned)
        .map_err(|_| reply::BAD_ARGUMENTS.into())
}

/// `192.0.2.1` or `IPV6:2001:db8::1`.
fn address(text: &str) -> Option<IpAddr> {
    match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPV6:") => Domain::parse(&format!("[{text}]"))
            .ok()
            .and_then(|d| d.literal()),
        _ => text.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// RFC 5321 §4.5.3.1.2.
const HELLO_OCTETS_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Result<Command<'_>, Refusal>) {
        assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
    }

    fn refused(line: &str, reply: Reply) {
        check(line, Err(Refusal::Reply(reply)));
    }

    #[test]
    fn commands_are_read_in_any_case_and_with_spaces_at_their_end() {
        check("data", Ok(Command::Data));
        check("DaTa  ", Ok(Command::Data));
        check("QUIT\t", Ok(Command::Quit));
        check("NOOP anything", Ok(Command::Noop));
        check("ehlo [127.0.0.1]", Ok(Command::Ehlo("[127.0.0.1]")));
        check(
            "mail from:<a@b.example> SIZE=1",
            Ok(Command::Mail("a@b.example", "SIZE=1")),
        );
        check("MAIL FROM: <>", Ok(Command::Mail("", "")));
        check(
            "RCPT TO:<\"a>b\"@c.example>",
            Ok(Command::Rcpt("\"a>b\"@c.example", "")),
        );
        check(
            "BDAT 10 last",
            Ok(Command::Bdat {
                size: 10,
                last: true,
            }),
        );
        check(
            "AUTH PLAIN =",
            Ok(Command::Auth {
                mechanism: "PLAIN",
                initial: Some("="),
            }),
        );
    }

    #[test]
    fn control_characters_are_refused_and_never_split_a_line() {
        for line in [
            "NOOP\rRSET",
            "NOOP\nRSET",
            "NOOP\0",
            "NO\u{1}OP",
            "NOOP\u{7f}",
            "\tNOOP",
            "NOOP\r",
            "NOOP \n",
        ] {
            refused(line, reply::BAD_LINE);
        }
        assert_eq!(parse(b"NOOP \xff"), Err(reply::BAD_LINE.into()));
    }

    #[test]
    fn malformed_arguments_are_refused() {
        refused("DATA now", reply::NO_ARGUMENTS);
        refused("STARTTLS now", reply::NO_ARGUMENTS);
        refused("EHLO", reply::BAD_HELLO);
        refused("EHLO a(b", reply::BAD_HELLO);
        refused("MAIL TO:<a@b.example>", reply::BAD_ARGUMENTS);
        refused("MAIL FROM:a@b.example", reply::BAD_REVERSE_PATH);
        refused("RCPT TO:<a@b.example", reply::BAD_FORWARD_PATH);
        refused("RCPT TO:<a@b.example>x", reply::BAD_FORWARD_PATH);
        refused("RCPT TO:<\"a@b.example>", reply::BAD_FORWARD_PATH);
        refused("VRFY", reply::BAD_ARGUMENTS);
        refused("AUTH", reply::BAD_ARGUMENTS);
        refused("AUTH PLAIN a b", reply::BAD_ARGUMENTS);
        refused("EXPN list", reply::NOT_IMPLEMENTED);
        refused("HELLO x", reply::UNRECOGNIZED);
        refused("", reply::UNRECOGNIZED);
    }

    #[test]
    fn a_chunk_without_a_readable_size_closes() {
        for line in [
            "BDAT",
            "BDAT -1",
            "BDAT +1",
            "BDAT 1x",
            "BDAT 18446744073709551616",
            "BDAT 1 FIRST",
            "BDAT 1 LAST x",
        ] {
            check(line, Err(Refusal::Close(reply::BAD_ARGUMENTS)));
        }
    }

    #[test]
    fn other_protocols_are_sent_away() {
        for line in ["GET / HTTP/1.1", "POST / HTTP/1.1", "CONNECT x:25 HTTP/1.0"] {
            check(line, Err(Refusal::Close(reply::NOT_SMTP)));
        }
    }

    #[test]
    fn xclient_names_the_client() {
        let found = parse(
            b"XCLIENT NAME=a.example ADDR=IPV6:2001:db8::1 PORT=1 PROTO=ESMTP HELO=[UNAVAILABLE] LOGIN=a+2Bb",
        );
        let expected = Xclient {
            name: Some("a.example".into()),
            address: Some("2001:db8::1".parse().unwrap()),
            port: Some(1),
            extended: Some(true),
            helo: None,
            login: Some("a+b".into()),
        };
        assert_eq!(found, Ok(Command::Xclient(expected)));
        refused("XCLIENT", reply::BAD_ARGUMENTS);
        refused("XCLIENT COLOUR=red", reply::BAD_ARGUMENTS);
        refused("XCLIENT ADDR=here", reply::BAD_ARGUMENTS);
        refused("XCLIENT PORT=70000", reply::BAD_ARGUMENTS);
        refused("XCLIENT HELO=a+0Ab", reply::BAD_ARGUMENTS);
    }
}
