//! Whose mail it is: addresses compared as a person means them.

use std::borrow::Cow;

use crate::mail::{AddressError, Domain, Mailbox, MessageId};

/// What is to be erased.
#[derive(Clone, PartialEq, Eq)]
pub enum Who {
    Recipient(Address),
    /// By the reverse-path.
    Sender(Address),
    Message(MessageId),
}

/// A mailbox that others are compared with. No `Debug`: it is to be forgotten.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    domain: Domain,
    /// Without quotes; folded unless `exact`.
    local_part: String,
    exact: bool,
}

impl Address {
    /// `exact`: upper and lower case are different in the local-part.
    pub fn parse(text: &str, exact: bool) -> Result<Self, AddressError> {
        let text = text.trim();
        let bare = text.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
        let mailbox = Mailbox::parse(bare.unwrap_or(text), true)?;
        Ok(Self {
            domain: mailbox.domain().clone(),
            local_part: plain(mailbox.local_part(), exact).into_owned(),
            exact,
        })
    }

    /// Whether `path`, as the spool has it, is this mailbox.
    pub(super) fn is(&self, path: &str) -> bool {
        let Some((local_part, domain)) = path.rsplit_once('@') else {
            return false;
        };
        let same_domain = match domain.is_ascii() && !domain.starts_with('[') {
            true => domain.eq_ignore_ascii_case(self.domain.as_str()),
            false => Domain::parse(domain).is_ok_and(|domain| domain == self.domain),
        };
        // RFC 5321 §2.4 wants case kept in the local-part. Hardly any host tells two mailboxes apart by it, and who asks to
        // be forgotten does not know how others wrote the address.
        same_domain && plain(local_part, self.exact) == self.local_part
    }
}

/// RFC 5321 §4.1.2: `"a"` and `a` are the same local-part, and so are `"\a"` and `"a"`.
fn plain(local_part: &str, exact: bool) -> Cow<'_, str> {
    let quoted = local_part
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let text = match quoted {
        None => Cow::Borrowed(local_part),
        Some(quoted) => {
            let mut plain = String::with_capacity(quoted.len());
            let mut escaped = false;
            for c in quoted.chars() {
                escaped = c == '\\' && !escaped;
                if !escaped {
                    plain.push(c);
                }
            }
            Cow::Owned(plain)
        }
    };
    let is_folded = exact || !text.chars().any(|c| c.is_uppercase());
    match is_folded {
        true => text,
        false => Cow::Owned(text.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_however_it_was_written() {
        for (wanted, path, folded, exact) in [
            ("ann@example.com", "ann@example.com", true, true),
            ("ann@example.com", "Ann@Example.COM", true, false),
            ("<Ann@example.com>", "Ann@EXAMPLE.com", true, true),
            ("ann@example.com", "\"a\\nn\"@example.com", true, true),
            ("\"an n\"@example.com", "\"AN N\"@example.com", true, false),
            (
                "\"a\\\\b\"@example.com",
                "\"a\\\\b\"@example.com",
                true,
                true,
            ),
            (
                "jürgen@bücher.example",
                "JÜRGEN@xn--bcher-kva.example",
                true,
                false,
            ),
            (
                "jürgen@xn--bcher-kva.example",
                "jürgen@Bücher.example",
                true,
                true,
            ),
            ("a@[192.0.2.1]", "A@[192.0.2.1]", true, false),
            ("ann@example.com", "joann@example.com", false, false),
            ("ann@example.com", "ann@mail.example.com", false, false),
            ("ann@example.com", "ann+shop@example.com", false, false),
            ("ann@example.com", "", false, false),
            ("ann@example.com", "postmaster", false, false),
        ] {
            assert_eq!(
                Address::parse(wanted, false).unwrap().is(path),
                folded,
                "{wanted} {path}"
            );
            assert_eq!(
                Address::parse(wanted, true).unwrap().is(path),
                exact,
                "{wanted} {path}"
            );
        }
        for wrong in ["", "ann", "@example.com", "ann@", "ann@exa mple.com"] {
            assert!(Address::parse(wrong, false).is_err(), "{wrong}");
        }
    }
}
