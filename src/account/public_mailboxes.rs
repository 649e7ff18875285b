//! Domains at which anybody can have a mailbox: nobody who sends through us owns one, and their owners' DMARC policies have
//! mail in their name refused (reference §2.3, code 503). The list is `public_mailboxes.txt`: data, to be extended.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::mail::Domain;

/// Whether it is such a domain, or lies below one.
pub(super) fn is_public(domain: &Domain) -> bool {
    let mut rest = domain.as_str();
    loop {
        if LIST.contains(rest) {
            return true;
        }
        match rest.split_once('.') {
            Some((_, parent)) => rest = parent,
            None => return false,
        }
    }
}

static LIST: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    let lines = include_str!("public_mailboxes.txt").lines();
    let domains = lines.map(|line| line.split('#').next().unwrap_or_default().trim());
    domains.filter(|domain| !domain.is_empty()).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sound_and_holds_whom_everybody_knows() {
        assert!(LIST.len() > 200, "{}", LIST.len());
        for listed in LIST.iter() {
            let domain = Domain::parse(listed).unwrap();
            assert_eq!(domain.as_str(), *listed);
            assert!(listed.contains('.'), "{listed}");
        }
        let check = |text: &str, public: bool| {
            assert_eq!(is_public(&Domain::parse(text).unwrap()), public, "{text}");
        };
        check("gmail.com", true);
        check("GMail.com", true);
        check("mail.yahoo.co.jp", true);
        check("notgmail.com", false);
        check("gmail.com.example", false);
        check("example.com", false);
    }
}
