//! What DKIM keys need besides the store: files that hold them, selectors, and judging a published record.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::keys::DkimKey;
use crate::clock::{UnixMs, rfc3339};
use crate::sign::WholeKey;

/// Reads a file with a private key in PEM, which only its owner may read. `Err`: a sentence that says what to do.
pub(super) fn read_key_file(path: &Path) -> Result<WholeKey, String> {
    Ok(read_key_text(path)?.1)
}

/// With its text.
pub fn read_key_text(path: &Path) -> Result<(Zeroizing<String>, WholeKey), String> {
    let shown = path.display();
    let unreadable = |error| format!("the DKIM key file {shown} cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    // Of what was opened, not of what the name leads to now.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "the DKIM key file {shown} can be read by others than its owner; run: chmod 600 {shown}"
        ));
    }
    let mut pem = Zeroizing::new(String::new());
    let mut limited = file.take(FILE_BYTES_MAX);
    limited.read_to_string(&mut pem).map_err(unreadable)?;
    let key = WholeKey::from_pem(pem.as_bytes());
    let key = key.map_err(|fault| format!("the DKIM key file {shown} cannot be used: {fault}"))?;
    Ok((pem, key))
}

/// Postmark's form: the time and `pm`, as in `20260305081851pm`.
pub(super) fn selector(now: UnixMs) -> String {
    let digits = rfc3339(now);
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    format!("{}pm", digits.get(..14).unwrap_or(&digits))
}

/// What the TXT records at a key's name say of it (RFC 6376 §3.6.1): that it is published, or what is there instead.
pub(super) fn judge(texts: &[String], key: &DkimKey) -> Result<(), &'static str> {
    if texts.iter().any(|text| publishes(text, key)) {
        return Ok(());
    }
    let keyed = texts.iter().filter_map(|text| tag(text, "p"));
    Err(match keyed.into_iter().next() {
        None if texts.is_empty() => "there is no TXT record",
        None => "the TXT record there is no DKIM key",
        Some(p) if p.is_empty() => "the key there is revoked (p= is empty)",
        Some(_) => "the key there is another one",
    })
}

/// Whether a published record is that of this key. Tags that we do not judge do not matter.
fn publishes(record: &str, key: &DkimKey) -> bool {
    let is = |name, wanted: &str| tag(record, name).is_none_or(|value| value == wanted);
    tag(record, "p").is_some_and(|p| p == key.public)
        && is("v", "DKIM1")
        // Without it: RSA.
        && tag(record, "k").as_deref().unwrap_or("rsa") == key.algorithm.as_str()
}

fn tag(record: &str, name: &str) -> Option<String> {
    record.split(';').find_map(|tag| {
        let (key, value) = tag.split_once('=')?;
        // White space may stand anywhere in it: long records are cut into lines.
        let value: String = value.split_whitespace().collect();
        (key.trim() == name).then_some(value)
    })
}

/// A key of 8,192 bits takes 6,400.
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::keys::KeyState;
    use crate::sign::Algorithm;

    fn key(algorithm: Algorithm) -> DkimKey {
        let whole = WholeKey::generate(algorithm).unwrap();
        DkimKey {
            selector: "s".into(),
            algorithm,
            bits: whole.bits,
            public: whole.public,
            state: KeyState::Active,
            since: 0,
            declared: false,
            look: None,
        }
    }

    #[test]
    fn a_key_is_found_in_its_record_however_that_is_cut_and_in_no_other() {
        let rsa = key(Algorithm::Rsa);
        let other = key(Algorithm::Rsa);
        let short = key(Algorithm::Ed25519);
        assert_eq!(short.public.len(), 44);
        let (head, tail) = rsa.public.split_at(200);
        for (key, published) in [
            (&rsa, rsa.record()),
            (&rsa, format!("v=DKIM1; k=rsa; t=s; p={}", rsa.public)),
            (&rsa, format!("v=DKIM1;p={head} \t{tail} ;")),
            (&short, short.record()),
        ] {
            assert_eq!(judge(&["x".into(), published], key), Ok(()));
        }
        for (key, published, said) in [
            (&rsa, other.record(), "another"),
            (&rsa, format!("k=rsa; p={head}"), "another"),
            (&rsa, format!("k=ed25519; p={}", rsa.public), "another"),
            (&short, format!("p={}", short.public), "another"),
            (&rsa, format!("v=spf1; p={}", rsa.public), "another"),
            (&rsa, "k=rsa; p=".to_owned(), "revoked"),
            (&rsa, rsa.public.clone(), "no DKIM key"),
            (&rsa, String::new(), "no DKIM key"),
        ] {
            let judged = judge(&[published], key).unwrap_err();
            assert!(judged.contains(said), "{judged}");
        }
        assert_eq!(judge(&[], &rsa), Err("there is no TXT record"));
    }

    #[test]
    fn a_selector_is_the_time() {
        assert_eq!(selector(1_772_698_731_000), "20260305081851pm");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        std::fs::write(&path, "no key").unwrap();
        let mode = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).unwrap();
        };
        for open in [0o640, 0o604, 0o620] {
            mode(open);
            let refused = read_key_file(&path).err().unwrap();
            let command = format!("run: chmod 600 {}", path.display());
            assert!(refused.ends_with(&command), "{refused}");
        }
        mode(0o400);
        let refused = read_key_file(&path).err().unwrap();
        assert!(refused.contains("no private key in PEM"), "{refused}");
        let missing = read_key_file(&directory.path().join("none")).err().unwrap();
        assert!(missing.contains("cannot be read"), "{missing}");
    }
}
