//! What a message is found by, as words of a full-text index; pure.
//!
//! A word is a letter for what it is, the number of the message's scope, and the value: the subject's words as they are, so that
//! beginnings of them are found; of everything else 60 bits of a hash, so that any value is one short word. Values are folded as
//! people mean them: addresses without regard to case, tags and metadata as they are.

use std::borrow::Cow;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::about::About;
use crate::limits;
use crate::mail::Mailbox;

/// What a word is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Recipient,
    From,
    Tag,
    Metadata,
}

/// The words of a message in a scope, between blanks.
pub(super) fn of(scope: i64, about: &About) -> String {
    let mut words = String::with_capacity(256);
    let mut push = |word: &str| {
        words.push_str(word);
        words.push(' ');
    };
    for recipient in about.recipients.iter().flatten() {
        push(&exact(scope, What::Recipient, &folded(&recipient.email)));
    }
    if !about.from_address.is_empty() {
        push(&exact(scope, What::From, &folded(&about.from_address)));
    }
    if !about.tag.is_empty() {
        push(&exact(scope, What::Tag, &about.tag));
    }
    for (key, value) in &about.metadata {
        push(&exact(scope, What::Metadata, &pair(key, value)));
    }
    for word in subject(scope, &about.subject) {
        push(&word);
    }
    words
}

/// A word that is found as a whole.
pub(super) fn exact(scope: i64, what: What, value: &str) -> String {
    let mut hasher = SipHasher13::new_with_key(KEY);
    hasher.write(value.as_bytes());
    let mut hash = hasher.finish();
    let letter = match what {
        What::Recipient => 'r',
        What::From => 'f',
        What::Tag => 't',
        What::Metadata => 'm',
    };
    let mut word = format!("{letter}{scope}x");
    for _ in 0..HASH_LETTERS {
        word.push(char::from(ALPHABET[(hash & 31) as usize]));
        hash >>= 5;
    }
    word
}

/// The words of a text in a subject, each at most once.
pub(super) fn subject(scope: i64, text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    let mut found: Vec<String> = Vec::new();
    for word in words.take(limits::ACTIVITY_SUBJECT_WORDS) {
        let mut said = format!("s{scope}x");
        let letters = word.chars().flat_map(char::to_lowercase);
        said.extend(letters.take(LETTERS_MAX));
        if !found.contains(&said) {
            found.push(said);
        }
    }
    found
}

/// A field of metadata. Names have no case.
pub(super) fn pair(key: &str, value: &str) -> String {
    // Neither holds a zero octet.
    format!("{}\0{value}", key.to_lowercase())
}

/// An address as it is compared. What is none is compared as text.
pub(super) fn folded(address: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"@.+-_".contains(&b);
    if address.bytes().all(plain) {
        return Cow::Borrowed(address);
    }
    match Mailbox::parse(address.trim(), true) {
        Ok(mailbox) => Cow::Owned(format!(
            "{}@{}",
            mailbox.local_part().to_lowercase(),
            mailbox.domain()
        )),
        Err(_) => Cow::Owned(address.trim().to_lowercase()),
    }
}

/// Part of the tables' format: another one needs another version.
const KEY: &[u8; 16] = b"posthaste active";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const HASH_LETTERS: usize = 12;
const LETTERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_same_in_any_case_and_everything_else_is_what_it_is() {
        let word = |what, value: &str| exact(3, what, &folded(value));
        for (one, other, same) in [
            ("ada@example.com", "Ada@EXAMPLE.com", true),
            (
                "j\u{fc}rgen@b\u{fc}cher.example",
                "J\u{dc}RGEN@xn--bcher-kva.example",
                true,
            ),
            ("ada@example.com", "adb@example.com", false),
            ("not an address", "Not an Address", true),
        ] {
            let found = word(What::Recipient, one) == word(What::Recipient, other);
            assert_eq!(found, same, "{one} {other}");
        }
        assert_ne!(word(What::From, "a@b.c"), word(What::Recipient, "a@b.c"));
        assert_ne!(exact(3, What::Tag, "a"), exact(3, What::Tag, "A"));
        assert_ne!(exact(3, What::Tag, "a"), exact(4, What::Tag, "a"));
        assert_eq!(pair("Order", "8"), pair("order", "8"));
        assert_ne!(pair("order", "8"), pair("order8", ""));
    }

    #[test]
    fn a_subject_is_words_in_lower_case() {
        assert_eq!(
            subject(12, "Re: Gr\u{dc}\u{df}e, \u{3b1}-8 re"),
            ["s12xre", "s12xgr\u{fc}\u{df}e", "s12x\u{3b1}", "s12x8"]
        );
        assert!(subject(1, " - \u{2014} ").is_empty());
        let long = "w ".repeat(10_000) + &"x".repeat(10_000);
        assert_eq!(subject(1, &long), ["s1xw"]);
        assert_eq!(subject(1, &"x".repeat(10_000))[0].len(), 3 + LETTERS_MAX);
    }
}
