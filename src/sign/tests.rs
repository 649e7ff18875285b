//! What is signed verifies, by rules that are written here once more: RFC 6376 and its examples.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use super::*;

fn canonical_body(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut body, mut out) = (Body::default(), Vec::new());
    for piece in pieces {
        body.update(piece, |octets| out.extend_from_slice(octets));
    }
    body.finish(|octets| out.extend_from_slice(octets));
    out
}

#[test]
fn bodies_have_the_canonical_form_of_rfc_6376_however_they_are_cut() {
    for (body, expected) in [
        (&b""[..], &b""[..]),
        (b"\r\n", b""),
        (b" \t\r\n\r\n", b""),
        // RFC 6376 §3.4.5.
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
        (b"no end", b"no end\r\n"),
        (b"no end \t", b"no end\r\n"),
        (b".\r\n..\r\n\r\na", b".\r\n..\r\n\r\na\r\n"),
        (b"\r\n\r\n\t\ta\xe4 \r\n", b"\r\n\r\n a\xe4\r\n"),
    ] {
        assert_eq!(canonical_body(&[body]), expected, "{body:?}");
        for cut in 0..=body.len() {
            let (head, tail) = body.split_at(cut);
            assert_eq!(canonical_body(&[head, tail]), expected, "{body:?} at {cut}");
        }
    }
    let lines = b"\r\n".repeat(100_000);
    assert_eq!(canonical_body(&[b"a", &lines, b"b"]).len(), 1 + 200_000 + 3);
}

/// RFC 6376 §3.4.4 in its own words, on all of a body at once.
fn canonical_by_the_letter(body: &[u8]) -> Vec<u8> {
    let text: String = body.iter().map(|&octet| char::from(octet)).collect();
    let mut lines: Vec<String> = text
        .split("\r\n")
        .map(|line| {
            let line = line.replace('\t', " ");
            let mut line = line.trim_end_matches(' ').to_owned();
            while line.contains("  ") {
                line = line.replace("  ", " ");
            }
            line
        })
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let lines = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]);
    let text: String = lines.collect();
    text.chars().map(|c| c as u8).collect()
}

#[test]
fn any_body_in_any_pieces_has_the_form_that_the_rfc_words() {
    const PIECES: [&[u8]; 11] = [
        b"word",
        b" ",
        b"  ",
        b"\t",
        b"\r\n",
        b"\r\n\r\n",
        b"a b c\r\n",
        b"a  b\r\n",
        b"a \r\n",
        b" a\r\n",
        b"\xff",
    ];
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..20_000 {
        let body: Vec<u8> = (0..random.usize(..12))
            .flat_map(|_| PIECES[random.usize(..PIECES.len())])
            .copied()
            .collect();
        let wanted = canonical_by_the_letter(&body);
        let (first, second) = (random.usize(..=body.len()), random.usize(..=body.len()));
        let (first, second) = (first.min(second), first.max(second));
        let pieces = [&body[..first], &body[first..second], &body[second..]];
        assert_eq!(canonical_body(&[&body]), wanted, "{body:?}");
        assert_eq!(
            canonical_body(&pieces),
            wanted,
            "{body:?} at {first} and {second}"
        );
    }
}

#[test]
fn fields_have_the_canonical_form_of_rfc_6376() {
    for (octets, expected) in [
        (&b"A: X"[..], "a:X"),
        (b"B : Y\t\r\n\tZ  ", "b:Y Z"),
        (b"Subject:", "subject:"),
        (b"Subject: \r\n\t\r\n a", "subject:a"),
    ] {
        let mut out = Vec::new();
        field(octets, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

const CONTENT: &[u8] = b"From: a@example.com\r\nTo: b@x\r\nTo:  c@x\r\n\r\nHello\r\n";

fn key(selector: &str, whole: &WholeKey) -> Arc<SigningKey> {
    let domain = Domain::parse("example.com").unwrap();
    let private = Some(whole.private.clone());
    let key = SigningKey::new(domain, selector.into(), whole.algorithm, private);
    Arc::new(key)
}

/// Signs [`CONTENT`] octet for octet; one field for each key.
fn signed(keys: &[Arc<SigningKey>]) -> Vec<String> {
    let mut unsigned = Unsigned::default();
    for octet in CONTENT {
        unsigned.update(&[*octet]);
    }
    let fields = String::from_utf8(unsigned.sign(keys, 1_000).unwrap()).unwrap();
    assert!(fields.lines().all(|line| line.len() <= 100), "{fields}");
    let fields = fields
        .split_inclusive("\r\n")
        .fold(Vec::new(), |mut all, line| {
            match line.starts_with("DKIM-Signature") {
                true => all.push(line.to_owned()),
                false => all.last_mut().unwrap().push_str(line),
            }
            all
        });
    assert_eq!(fields.len(), keys.len());
    fields
}

/// By RFC 6376 §3.7 and RFC 8463 §3, from the public half as it is published.
fn verify(text: &str, whole: &WholeKey) {
    let (head, signature) = text.split_once("\tb=").unwrap();
    let mut input = b"from:a@example.com\r\nto:c@x\r\nto:b@x\r\n".to_vec();
    field(format!("{head}\tb=").as_bytes(), &mut input);
    let signature: String = signature.split_whitespace().collect();
    let signature = BASE64_STANDARD.decode(signature).unwrap();
    let public = BASE64_STANDARD.decode(&whole.public).unwrap();
    let verified = match whole.algorithm {
        Algorithm::Rsa => {
            let short = &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
            UnparsedPublicKey::new(short, public).verify(&input, &signature)
        }
        Algorithm::Ed25519 => {
            let hash = digest::digest(&SHA256, &input);
            UnparsedPublicKey::new(&ED25519, public).verify(hash.as_ref(), &signature)
        }
    };
    verified.unwrap_or_else(|_| panic!("{text}"));
}

#[test]
fn a_signature_of_each_key_verifies_and_covers_each_field_once_more_than_it_occurs() {
    let (rsa, short) = (
        WholeKey::generate(Algorithm::Rsa).unwrap(),
        WholeKey::generate(Algorithm::Ed25519).unwrap(),
    );
    let fields = signed(&[key("ph1", &rsa), key("ph2", &short)]);
    for (text, whole, algorithm) in [
        (&fields[0], &rsa, "a=rsa-sha256; "),
        (&fields[1], &short, "a=ed25519-sha256; "),
    ] {
        assert!(text.contains(algorithm), "{text}");
        assert!(text.contains("From:From:To:To:To:Cc:Subject"), "{text}");
        let valid = limits::SIGNATURE_VALID.as_secs();
        assert!(text.contains(&format!("t=1000; x={}", 1_000 + valid)));
        verify(text, whole);
    }
    // Alone, each is what it is beside the other.
    assert_eq!(signed(&[key("ph2", &short)])[0], fields[1]);
}

#[test]
fn keys_made_elsewhere_sign_and_what_cannot_is_refused_in_words() {
    for (pem, algorithm, bits) in [
        (
            &include_bytes!("testdata/rsa2048.pkcs1.pem")[..],
            Algorithm::Rsa,
            2048,
        ),
        (
            include_bytes!("testdata/rsa1024.pkcs1.pem"),
            Algorithm::Rsa,
            1024,
        ),
        (
            include_bytes!("testdata/rsa1024.pkcs8.pem"),
            Algorithm::Rsa,
            1024,
        ),
        (
            include_bytes!("testdata/ed25519.pem"),
            Algorithm::Ed25519,
            256,
        ),
    ] {
        let whole = WholeKey::from_pem(pem).unwrap();
        assert_eq!((whole.algorithm, whole.bits), (algorithm, bits));
        assert_eq!(whole.is_weak(), bits == 1024);
        verify(&signed(&[key("s", &whole)])[0], &whole);
    }
    let pkcs1 = WholeKey::from_pem(include_bytes!("testdata/rsa1024.pkcs1.pem")).unwrap();
    let pkcs8 = WholeKey::from_pem(include_bytes!("testdata/rsa1024.pkcs8.pem")).unwrap();
    assert_eq!(pkcs1.public, pkcs8.public);
    for (pem, fault) in [
        (
            &include_bytes!("testdata/rsa768.pem")[..],
            KeyFault::Short(768),
        ),
        (include_bytes!("testdata/p256.pem"), KeyFault::Kind),
        (
            include_bytes!("testdata/encrypted.pem"),
            KeyFault::Encrypted,
        ),
        (
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            KeyFault::NoPem,
        ),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            KeyFault::Kind,
        ),
        (b"", KeyFault::NoPem),
    ] {
        assert_eq!(WholeKey::from_pem(pem).err(), Some(fault));
    }
}

#[test]
fn a_key_that_cannot_be_opened_or_read_is_an_error_and_no_unsigned_mail() {
    let good = key("good", &WholeKey::generate(Algorithm::Ed25519).unwrap());
    let sign = |private: Option<&str>, algorithm| {
        let private = private.map(|text| Zeroizing::new(text.to_owned()));
        let domain = Domain::parse("example.com").unwrap();
        let bad = Arc::new(SigningKey::new(domain, "bad".into(), algorithm, private));
        let refused = Unsigned::default().sign(&[Arc::clone(&good), bad], 0);
        refused.unwrap_err().to_string()
    };
    let sealed = sign(None, Algorithm::Rsa);
    assert!(
        sealed.contains("key bad of example.com: it cannot be opened"),
        "{sealed}"
    );
    for algorithm in Algorithm::ALL {
        let broken = sign(Some("AAAA"), algorithm);
        assert!(broken.ends_with("no key in PKCS#8"), "{broken}");
    }
}

#[test]
fn only_a_single_address_has_a_domain_that_signs() {
    let domain = |header: &str| from_domain(header.as_bytes()).map(|d| d.as_str().to_owned());
    let found = domain("Subject: x\r\nFrom: Ada\r\n <ada@Example.com>\r\n\r\n");
    assert_eq!(found.as_deref(), Some("example.com"));
    assert_eq!(domain("From: a@x.example, b@y.example\r\n\r\n"), None);
    assert_eq!(
        domain("From: a@x.example\r\nFrom: a@x.example\r\n\r\n"),
        None
    );
    assert_eq!(domain("Subject: x\r\n\r\n"), None);
}
