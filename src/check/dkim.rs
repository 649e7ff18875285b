//! DKIM key records (RFC 6376 §3.6.1, RFC 8463), each against the record that we want.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::book::{Book, Kind, Said};
use super::domain::{KeyRole, KeyWanted};
use super::tags::Tags;
use super::{Finding, Level, shown_all, unknown};

/// Every finding about one key; the first says whether it may be signed with.
pub(super) fn judge(book: &Book, key: &KeyWanted, show: &str) -> Vec<Finding> {
    let about = format!("TXT {}", key.host);
    let wanted = key.record.as_str();
    book.expect(&key.host, Kind::Cname);
    let said = book.texts(&key.host);
    let alias = book.alias(&key.host);
    let finding = |what, found: &str, advice: String| {
        Finding::new(what, about.as_str(), wanted, found, advice)
    };
    let texts = match said {
        Said::Values(texts) => texts,
        Said::Failed(why) => return vec![unknown("dkim_unknown", about, wanted, &why)],
        Said::Nothing | Said::NoSuchName => {
            return vec![match (key.role, alias) {
                (_, Said::Values(targets)) => finding(
                    ("dkim_dangling", level_of(key.role)),
                    &format!("a CNAME to {}, which has no TXT record", targets[0]),
                    format!(
                        "Publish the record at {}, or replace the CNAME by it.",
                        targets[0]
                    ),
                ),
                (KeyRole::Pending, _) => finding(
                    ("dkim_pending", Level::Warn),
                    "nothing",
                    format!(
                        "Publish it as `{show}` prints it; the key signs once `posthaste domain verify` has found it."
                    ),
                ),
                (KeyRole::Active, _) => finding(
                    ("dkim_missing", Level::Error),
                    "nothing",
                    format!(
                        "Publish it as `{show}` prints it: mail signed with this key fails everywhere."
                    ),
                ),
            }];
        }
    };
    let by_alias = match &alias {
        Said::Values(targets) => Some(format!("by a CNAME to {}", targets[0])),
        _ => None,
    };
    // RFC 6376 §3.6.2.2: several records are undefined. Those that say they are something else are left out.
    let keys: Vec<&String> = texts.iter().filter(|text| may_be_key(text)).collect();
    let [text] = keys[..] else {
        let found = shown_all(texts.iter().map(String::as_str));
        return vec![match keys.is_empty() {
            true => finding(
                ("dkim_syntax", level_of(key.role)),
                &found,
                format!("Replace what stands there by the record that `{show}` prints."),
            ),
            false => finding(
                ("dkim_several", level_of(key.role)),
                &found,
                "Leave one TXT record at this name: with several, hosts take any of them.".into(),
            ),
        }];
    };
    let tags = match Tags::parse(text) {
        Ok(tags) => tags,
        Err(why) => {
            return vec![finding(
                ("dkim_syntax", level_of(key.role)),
                text,
                format!("Mend the record, in which {why}; `{show}` prints it as it should be."),
            )];
        }
    };
    let mut findings = vec![published(key, text, &tags, by_alias, show)];
    if findings[0].level == Level::Ok {
        findings.extend(flags(key, text, &tags));
    }
    findings
}

fn level_of(role: KeyRole) -> Level {
    match role {
        KeyRole::Pending => Level::Warn,
        KeyRole::Active => Level::Error,
    }
}

fn may_be_key(text: &str) -> bool {
    let text = text.trim_start();
    !["v=spf1", "v=DMARC1", "v=STSv1", "v=TLSRPTv1"]
        .iter()
        .any(|other| text.starts_with(other))
}

/// Whether it is the key that we sign with.
fn published(
    key: &KeyWanted,
    text: &str,
    tags: &Tags<'_>,
    by_alias: Option<String>,
    show: &str,
) -> Finding {
    let about = format!("TXT {}", key.host);
    let level = level_of(key.role);
    let bad = |id, advice: String| {
        Finding::new(
            (id, level),
            about.as_str(),
            key.record.as_str(),
            text,
            advice,
        )
    };
    // RFC 6376 §3.6.1: `v=` comes first where it is given at all.
    let version = tags.of("v");
    if version.is_some_and(|v| v != "DKIM1")
        || (version.is_some() && tags.first().map(|t| t.0) != Some("v"))
    {
        return bad(
            "dkim_syntax",
            "Begin the record with `v=DKIM1`, or leave `v=` out.".into(),
        );
    }
    let Some(public) = tags.compact("p") else {
        return bad(
            "dkim_syntax",
            format!("Add the tag `p=` as `{show}` prints it."),
        );
    };
    if public.is_empty() {
        return bad(
            "dkim_revoked",
            "Publish the key again, or rotate to a new one: an empty `p=` revokes it (RFC 6376)."
                .into(),
        );
    }
    let ours = Tags::parse(&key.record).ok();
    let tag_of_ours = |name: &str| ours.as_ref().and_then(|tags| tags.compact(name));
    let kind = tags.of("k").unwrap_or("rsa");
    let kind_of_ours = tag_of_ours("k").unwrap_or_else(|| "rsa".into());
    if kind != kind_of_ours {
        return bad(
            "dkim_wrong_type",
            format!("Change `k=` to {kind_of_ours}: the key is of that kind."),
        );
    }
    if tag_of_ours("p").is_none_or(|ours| ours != public) {
        let advice = match BASE64_STANDARD.decode(&public) {
            Ok(_) => format!(
                "Replace it by the record that `{show}` prints: this is another key, or part of ours."
            ),
            Err(_) => {
                format!("Replace it by the record that `{show}` prints: its `p=` is damaged.")
            }
        };
        return bad("dkim_wrong_key", advice);
    }
    // RFC 6376 §3.6.1: a list of hashes that may be used; ours is SHA-256.
    if tags
        .compact("h")
        .is_some_and(|h| !h.split(':').any(|h| h == "sha256"))
    {
        return bad(
            "dkim_hash",
            "Leave `h=` out, or name sha256 in it: signatures use that.".into(),
        );
    }
    if tags
        .compact("s")
        .is_some_and(|s| !s.split(':').any(|s| s == "*" || s == "email"))
    {
        return bad(
            "dkim_service",
            "Leave `s=` out: this key is not for mail as it stands.".into(),
        );
    }
    match by_alias {
        None => Finding::new(("dkim_ok", Level::Ok), about, key.record.as_str(), text, ""),
        Some(alias) => Finding::new(
            ("dkim_alias", Level::Ok),
            about,
            key.record.as_str(),
            format!("{alias}: {text}"),
            "",
        ),
    }
}

/// What is to be said of a key that is ours.
fn flags(key: &KeyWanted, text: &str, tags: &Tags<'_>) -> Vec<Finding> {
    let about = format!("TXT {}", key.host);
    let mut findings = Vec::new();
    let flags = tags.compact("t").unwrap_or_default();
    if flags.split(':').any(|flag| flag == "y") {
        findings.push(Finding::new(
            ("dkim_test_mode", Level::Warn),
            about.as_str(),
            "no t=y",
            text,
            "Take `t=y` out: it tells hosts to treat signed mail as if it were not signed (RFC 6376).",
        ));
    }
    let bits = tags
        .compact("p")
        .filter(|_| tags.of("k").unwrap_or("rsa") == "rsa")
        .and_then(|p| rsa_bits(&BASE64_STANDARD.decode(p).ok()?));
    if let Some(bits @ 0..=2_047) = bits {
        // RFC 8301 §3.2: verifiers do not take less than 1024 bits, and signers should use 2048.
        let level = if bits < 1_024 {
            Level::Error
        } else {
            Level::Warn
        };
        findings.push(Finding::new(
            ("dkim_weak_key", level),
            about.as_str(),
            "an RSA key of at least 2048 bits",
            format!("{bits} bits"),
            "Rotate to a key of 2048 bits.",
        ));
    }
    findings
}

/// Of a SubjectPublicKeyInfo, or of a bare RSAPublicKey as some tools publish it. `None`: it is neither.
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let (inside, _) = element(der, 0x30)?;
    let key = match element(inside, 0x30) {
        Some((_, rest)) => {
            let (bits, _) = element(rest, 0x03)?;
            // The number of unused bits comes first.
            element(bits.get(1..)?, 0x30)?.0
        }
        None => inside,
    };
    let (modulus, _) = element(key, 0x02)?;
    let zeros = modulus.iter().take_while(|octet| **octet == 0).count();
    let modulus = &modulus[zeros..];
    let first = modulus.first()?;
    Some(modulus.len() * 8 - first.leading_zeros() as usize)
}

/// The contents of a DER element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, short], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            let length = octets.iter().fold(0, |n, o| n << 8 | usize::from(*o));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;

    #[test]
    fn the_size_of_a_key_is_read_from_its_record() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        assert_eq!(rsa_bits(der.as_ref()), Some(2_048));
        assert_eq!(rsa_bits(pair.public_key().as_ref()), Some(2_048));
        for cut in 0..der.as_ref().len() {
            assert_eq!(rsa_bits(&der.as_ref()[..cut]), None);
        }
    }
}
