//! [`Reply`]: an SMTP reply, ours or a remote host's, as data.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use super::EnhancedStatus;

/// RFC 5321 §4.2. The text holds no CR, LF, NUL or other control character; lines are separated by `\n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub status: Option<EnhancedStatus>,
    text: Cow<'static, str>,
}

impl Reply {
    /// One of ours, with a fixed text.
    pub const fn fixed(
        code: u16,
        class: u8,
        subject: u16,
        detail: u16,
        text: &'static str,
    ) -> Self {
        Self {
            code,
            status: Some(EnhancedStatus::new(class, subject, detail)),
            text: Cow::Borrowed(text),
        }
    }

    /// A reply with any text. Control characters become `?`, so that a peer's words cannot forge log lines or replies
    /// (threats-and-faults §2.2, last row).
    pub fn new(code: u16, status: Option<EnhancedStatus>, text: &str) -> Self {
        let clean = text.chars().map(|c| {
            if c != '\n' && (c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
                '?'
            } else {
                c
            }
        });
        Self {
            code,
            status,
            text: Cow::Owned(clean.collect()),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Code, status and text, the lines separated by LF: how an event keeps it.
    pub fn to_lines(&self) -> String {
        match self.status {
            Some(status) => format!("{} {status} {}", self.code, self.text),
            None => format!("{} {}", self.code, self.text),
        }
    }

    pub fn is_positive(&self) -> bool {
        (200..400).contains(&self.code)
    }

    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// Appends the octets of the reply: every line with code and status, the last one without the hyphen.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            // Writing into a Vec cannot fail.
            let _ = write!(out, "{}{separator}", self.code);
            if let Some(status) = self.status {
                let _ = write!(out, "{status} ");
            }
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// On one line, as logs, events and the CLI show it.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        for line in self.text.split('\n') {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_two_lines_carries_code_and_status_on_both() {
        let mut out = Vec::new();
        Reply::new(
            550,
            Some(EnhancedStatus::new(5, 1, 1)),
            "no such\nuser\u{7}",
        )
        .write_to(&mut out);
        assert_eq!(out, b"550-5.1.1 no such\r\n550 5.1.1 user?\r\n");
    }

    #[test]
    fn a_reply_is_shown_on_one_line() {
        assert_eq!(Reply::fixed(250, 2, 0, 0, "OK").to_string(), "250 2.0.0 OK");
        assert_eq!(Reply::new(421, None, "a\nb").to_string(), "421 a b");
        assert_eq!(Reply::new(421, None, "a\nb").to_lines(), "421 a\nb");
    }
}
