//! What is signed verifies, by rules that are written here once more: RFC 6376 and its examples.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

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

#[test]
fn a_signature_verifies_and_covers_each_field_once_more_than_it_occurs() {
    let made = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = made.as_der().unwrap();
    let private = BASE64_STANDARD.encode(private.as_ref());
    let key = SigningKey::new(
        Domain::parse("example.com").unwrap(),
        "ph1".into(),
        Some(Zeroizing::new(private)),
    );
    let mut unsigned = Unsigned::default();
    for octet in b"From: a@example.com\r\nTo: b@x\r\nTo:  c@x\r\n\r\nHello\r\n" {
        unsigned.update(&[*octet]);
    }
    let signed = unsigned.sign(&key, 1_000).unwrap();
    let text = String::from_utf8(signed).unwrap();
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    assert!(text.contains("From:From:To:To:To:Cc:Subject"), "{text}");
    let valid = limits::SIGNATURE_VALID.as_secs();
    assert!(text.contains(&format!("t=1000; x={}", 1_000 + valid)));

    let (head, signature) = text.split_once("\tb=").unwrap();
    let mut input = b"from:a@example.com\r\nto:c@x\r\nto:b@x\r\n".to_vec();
    field(format!("{head}\tb=").as_bytes(), &mut input);
    let signature: String = signature.split_whitespace().collect();
    let public = made.public_key().as_ref();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
        .verify(&input, &BASE64_STANDARD.decode(signature).unwrap())
        .unwrap();
}

#[test]
fn a_key_that_cannot_be_opened_or_read_is_an_error_and_no_unsigned_mail() {
    let domain = || Domain::parse("example.com").unwrap();
    let sign = |key: SigningKey| Unsigned::default().sign(&key, 0).unwrap_err();
    assert_eq!(
        sign(SigningKey::new(domain(), "s".into(), None)),
        SignError::Sealed
    );
    let broken = Some(Zeroizing::new("AAAA".to_owned()));
    assert_eq!(
        sign(SigningKey::new(domain(), "s".into(), broken)),
        SignError::Form
    );
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
