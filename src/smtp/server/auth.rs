//! The exchanges of AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), without knowing who may come in.
//!
//! Base64 is strict, `*` cancels, and nothing but UTF-8 without control characters is a name or a password: what reaches
//! the account look-up is sound.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What the client claims. Never shown: `Debug` keeps the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// `digest` is 32 lower-case hex digits: HMAC-MD5 of the challenge with the password as key.
    CramMd5 {
        user: String,
        challenge: String,
        digest: String,
    },
}

impl Credentials {
    pub fn user(&self) -> &str {
        match self {
            Self::Password { user, .. } | Self::CramMd5 { user, .. } => user,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { .. } => f.write_str("Password"),
            Self::CramMd5 { .. } => f.write_str("CramMd5"),
        }
    }
}

/// What EHLO announces.
pub const MECHANISMS: &str = "PLAIN LOGIN CRAM-MD5";

/// A mechanism that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
    CramMd5,
}

impl Mechanism {
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "PLAIN" => Some(Self::Plain),
            "LOGIN" => Some(Self::Login),
            "CRAM-MD5" => Some(Self::CramMd5),
            _ => None,
        }
    }
}

/// An exchange that waits for the client's next line.
#[derive(Debug, PartialEq, Eq)]
pub enum Exchange {
    Plain,
    LoginUser,
    LoginPassword { user: String },
    CramMd5 { challenge: String },
}

/// What one line led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Ask on.
    Ask(Exchange),
    Done(Credentials),
    Malformed,
    Cancelled,
}

impl Exchange {
    /// CRAM-MD5 with a fresh challenge (RFC 2195 §2: random and never used again).
    pub fn cram_md5(random: [u8; 16], hostname: &str) -> Self {
        let mut challenge = String::with_capacity(40 + hostname.len());
        challenge.push('<');
        for octet in random {
            challenge.push_str(&format!("{octet:02x}"));
        }
        challenge.push('@');
        challenge.push_str(hostname);
        challenge.push('>');
        Self::CramMd5 { challenge }
    }

    /// The 334 line that asks for the client's next one.
    pub fn prompt(&self) -> String {
        match self {
            Self::Plain => "334 \r\n".to_owned(),
            // What every server sends: base64 of `Username:` and `Password:`.
            Self::LoginUser => "334 VXNlcm5hbWU6\r\n".to_owned(),
            Self::LoginPassword { .. } => "334 UGFzc3dvcmQ6\r\n".to_owned(),
            Self::CramMd5 { challenge } => format!("334 {}\r\n", STANDARD.encode(challenge)),
        }
    }

    /// Takes the client's line, without CRLF.
    pub fn respond(self, line: &[u8]) -> Progress {
        // RFC 4954 §4: a single asterisk cancels.
        if line == b"*" {
            return Progress::Cancelled;
        }
        self.take(line).unwrap_or(Progress::Malformed)
    }

    /// Takes the initial response of the AUTH command; `=` is the empty one.
    pub fn respond_initial(self, text: &str) -> Progress {
        let line = if text == "=" { "" } else { text };
        self.take(line.as_bytes()).unwrap_or(Progress::Malformed)
    }

    fn take(self, line: &[u8]) -> Option<Progress> {
        let octets = STANDARD.decode(line).ok()?;
        let text = String::from_utf8(octets).ok()?;
        match self {
            Self::Plain => plain(&text).map(Progress::Done),
            Self::LoginUser => {
                let user = checked(&text)?;
                Some(Progress::Ask(Self::LoginPassword { user }))
            }
            Self::LoginPassword { user } => {
                let password = checked(&text)?;
                Some(Progress::Done(Credentials::Password { user, password }))
            }
            Self::CramMd5 { challenge } => cram_md5(&text, challenge).map(Progress::Done),
        }
    }
}

/// RFC 4616 §2: authorization identity, NUL, user, NUL, password. We know no identity but the user's own.
fn plain(text: &str) -> Option<Credentials> {
    let mut parts = text.split('\0');
    let (identity, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || (!identity.is_empty() && identity != user) {
        return None;
    }
    Some(Credentials::Password {
        user: checked(user)?,
        password: checked(password)?,
    })
}

fn cram_md5(text: &str, challenge: String) -> Option<Credentials> {
    let (user, digest) = text.rsplit_once(' ')?;
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if digest.len() != 32 || !digest.bytes().all(hex) {
        return None;
    }
    Some(Credentials::CramMd5 {
        user: checked(user)?,
        challenge,
        digest: digest.to_owned(),
    })
}

fn checked(text: &str) -> Option<String> {
    let sound = !text.is_empty() && !text.chars().any(char::is_control);
    sound.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Progress {
        Progress::Done(Credentials::Password {
            user: user.into(),
            password: password.into(),
        })
    }

    #[test]
    fn plain_takes_exactly_two_nul_octets() {
        let check = |text: &str, expected| {
            let line = STANDARD.encode(text);
            assert_eq!(
                Exchange::Plain.respond(line.as_bytes()),
                expected,
                "{text:?}"
            );
        };
        check("\0ada\0secret", password("ada", "secret"));
        check("ada\0ada\0secret", password("ada", "secret"));
        check("bob\0ada\0secret", Progress::Malformed);
        check("ada\0secret", Progress::Malformed);
        check("\0ada\0secret\0", Progress::Malformed);
        check("\0\0secret", Progress::Malformed);
        check("\0ada\0", Progress::Malformed);
        check("\0ada\0a\nb", Progress::Malformed);
        check("", Progress::Malformed);
    }

    #[test]
    fn base64_is_strict() {
        for line in [
            "AGFkYQBzZWNyZXQ", // no padding
            "AGFkYQBzZWNyZXR=",
            "AGFk YQBzZWNyZXQ=",
            "AGFkYQBzZWNyZXQ==",
            "-_",
        ] {
            assert_eq!(
                Exchange::Plain.respond(line.as_bytes()),
                Progress::Malformed,
                "{line}"
            );
        }
        assert_eq!(
            Exchange::Plain.respond(b"AGFkYQD/"),
            Progress::Malformed,
            "not UTF-8"
        );
        assert_eq!(
            Exchange::Plain.respond(b"AGFkYQBzZWNyZXQ="),
            password("ada", "secret")
        );
    }

    #[test]
    fn login_asks_twice_and_an_asterisk_cancels() {
        let Progress::Ask(second) = Exchange::LoginUser.respond(b"YWRh") else {
            panic!("no second question");
        };
        assert_eq!(second.prompt(), "334 UGFzc3dvcmQ6\r\n");
        assert_eq!(second.respond(b"c2VjcmV0"), password("ada", "secret"));
        assert_eq!(Exchange::LoginUser.respond(b"*"), Progress::Cancelled);
        assert_eq!(
            Exchange::LoginUser.respond_initial("="),
            Progress::Malformed
        );
    }

    #[test]
    fn cram_md5_returns_the_challenge_with_the_digest() {
        let exchange = Exchange::cram_md5([1; 16], "mta.example");
        let challenge = format!("<{}@mta.example>", "01".repeat(16));
        assert_eq!(
            exchange.prompt(),
            format!("334 {}\r\n", STANDARD.encode(&challenge))
        );
        let digest = "0123456789abcdef0123456789abcdef";
        let line = STANDARD.encode(format!("ada b {digest}"));
        assert_eq!(
            exchange.respond(line.as_bytes()),
            Progress::Done(Credentials::CramMd5 {
                user: "ada b".into(),
                challenge,
                digest: digest.into()
            })
        );
        let short = STANDARD.encode("ada 0123");
        let exchange = Exchange::cram_md5([1; 16], "mta.example");
        assert_eq!(exchange.respond(short.as_bytes()), Progress::Malformed);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let Progress::Done(credentials) = Exchange::Plain.respond(b"AGFkYQBzZWNyZXQ=") else {
            panic!("not done");
        };
        assert_eq!(format!("{credentials:?}"), "Password");
    }
}
