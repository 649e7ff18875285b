//! Content before and after, as other readers see it.

use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;

use super::*;

fn to_seven_bit(content: &[u8]) -> Result<Vec<u8>, NotSevenBit> {
    super::to_seven_bit(content, 50)
}

/// What a reader makes of a message: the type, name and octets of every part, in order.
fn read(content: &[u8]) -> Vec<(String, String, Vec<u8>)> {
    let message = MessageParser::new().parse(content).unwrap();
    let parts = message.parts.iter().map(|part| {
        let kind = part.content_type().map_or_else(
            || "text/plain".into(),
            |t| format!("{}/{}", t.ctype(), t.subtype().unwrap_or_default()),
        );
        let octets = match &part.body {
            PartType::Multipart(parts) => format!("{} parts", parts.len()).into_bytes(),
            PartType::Message(nested) => read_nested(nested.raw_message()),
            _ => part.contents().to_vec(),
        };
        (
            kind,
            part.attachment_name().unwrap_or_default().to_owned(),
            octets,
        )
    });
    parts.collect()
}

fn read_nested(content: &[u8]) -> Vec<u8> {
    format!("{:?}", read(content)).into_bytes()
}

fn leaf(head: &str, body: &[u8]) -> Vec<u8> {
    [head.as_bytes(), b"\r\n", body].concat()
}

const TEXT: &str = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";

fn check(content: &[u8], expected: &str) {
    let made = to_seven_bit(content).unwrap();
    assert_eq!(String::from_utf8_lossy(&made), expected);
    assert_eq!(to_seven_bit(&made).unwrap(), made);
}

fn refused(content: &str, why: NotSevenBit) {
    assert_eq!(to_seven_bit(content.as_bytes()), Err(why), "{content}");
}

#[test]
fn ascii_is_not_touched() {
    for content in ["", "\r\n", "Subject: a\r\n\r\nbody", "no header\r\nat all"] {
        check(content.as_bytes(), content);
    }
}

#[test]
fn text_becomes_quoted_printable_and_nothing_but_its_encoding_changes() {
    check(
        &leaf(
            "Subject:  x\r\n y\r\nMIME-Version: 1.0\r\ncontent-transfer-ENCODING: 8bit\r\nContent-Type: text/plain;\r\n charset=utf-8\r\nX: z\r\n",
            "Grüße = 1 \r\n.\r\n\tend\t\r\n".as_bytes(),
        ),
        "Subject:  x\r\n y\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain;\r\n charset=utf-8\r\nX: z\r\n\r\nGr=C3=BC=C3=9Fe =3D 1=20\r\n.\r\n\tend=09\r\n",
    );
}

#[test]
fn what_is_mostly_8_bit_becomes_base64() {
    check(
        &leaf(TEXT, "日本語\r\n".as_bytes()),
        &format!("{}\r\n5pel5pys6KqeDQo=\r\n", TEXT.replace("8bit", "base64")),
    );
}

#[test]
fn what_says_nothing_of_itself_is_given_a_type_and_a_version() {
    check(
        "Subject: a\r\n\r\nein Gruß an alle\r\n".as_bytes(),
        "Subject: a\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nein Gru=C3=9F an alle\r\n",
    );
    check(
        b"\r\nlatin \xe9 and more",
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nlatin =E9 and more",
    );
}

/// A message with everything that has a rule of its own.
const NESTED: &str = "From: a@example.com\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: multipart/mixed (a comment); boundary=\"=_a b\"\r\n\r\nPreambül\r\n--=_a b\r\nContent-Type: multipart/alternative; boundary=in\r\n\r\n--in\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGruß an alle Leser\r\n--in  \r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>plain</p>\r\n--in--\r\n\r\n--=_a b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: forwarded\r\nContent-Type: text/plain; charset=utf-8\r\nMIME-Version: 1.0\r\n\r\nhöchst erfreulich\r\n--=_a b\r\nContent-Type: application/octet-stream; name=x\r\nContent-Disposition: attachment; filename=\"x.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAwQ=\r\n--=_a b\r\n\r\n\u{fc}ber alles andere\r\n--=_a b--\r\nEpilög\r\n";

#[test]
fn each_part_is_read_as_before_and_ascii_parts_stay_octet_for_octet() {
    let made = to_seven_bit(NESTED.as_bytes()).unwrap();
    let text = String::from_utf8(made.clone()).unwrap();
    assert!(text.starts_with("From: a@example.com\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 7bit\r\nContent-Type: multipart/mixed"));
    for piece in [
        "\r\nPreamb??l\r\n--=_a b\r\n",
        "\r\n\r\nGru=C3=9F an alle Leser\r\n--in  \r\n",
        "\r\n--in  \r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>plain</p>\r\n--in--\r\n\r\n--=_a b\r\n",
        "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject: forwarded\r\n",
        "h=C3=B6chst erfreulich\r\n--=_a b\r\n",
        "base64\r\n\r\nAAECAwQ=\r\n--=_a b\r\n",
        "quoted-printable\r\n\r\n=C3=BCber alles andere\r\n--=_a b--\r\nEpil??g\r\n",
    ] {
        assert!(text.contains(piece), "{piece:?} in {text}");
    }
    assert_eq!(read(&made), read(NESTED.as_bytes()));
    assert_eq!(to_seven_bit(&made).unwrap(), made);
}

#[test]
fn what_would_be_harmed_is_refused_with_the_reason() {
    let signed =
        "Content-Type: multipart/signed; boundary=b; protocol=x\r\n\r\n--b\r\n\r\nü\r\n--b--\r\n";
    refused(signed, NotSevenBit::Signed);
    refused(
        &format!("Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n{signed}\r\n--o--\r\n"),
        NotSevenBit::Signed,
    );
    refused("Subject: ü\r\n\r\nbody", NotSevenBit::Header);
    refused(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Disposition: attachment; filename=ü\r\n\r\nx\r\n--b--\r\n",
        NotSevenBit::Header,
    );
    refused(
        "Content-Type: message/partial; number=1\r\n\r\nü",
        NotSevenBit::Fragment,
    );
    for encoding in ["base64", "Quoted-Printable", "x-uuencode"] {
        let content = format!("Content-Transfer-Encoding: {encoding}\r\n\r\nü");
        refused(&content, NotSevenBit::Encoding);
    }
    refused(
        "Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\nü",
        NotSevenBit::Ambiguous,
    );
    refused(
        "Content-Type: multipart/mixed\r\n\r\nü",
        NotSevenBit::Structure,
    );
    refused(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\nnothing but a preamble: ü",
        NotSevenBit::Structure,
    );
    let deep = "Content-Type: message/rfc822\r\n\r\n".repeat(1_000) + "\r\nü";
    refused(&deep, NotSevenBit::Depth);
}

#[test]
fn without_its_last_delimiter_a_multipart_goes_to_the_end() {
    let content = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nüber alles\r\n--b\r\n--b\r\n\r\nschön und gut\r\n";
    let made = String::from_utf8(to_seven_bit(content.as_bytes()).unwrap()).unwrap();
    assert!(made.ends_with("sch=C3=B6n und gut\r\n"), "{made}");
    assert!(made.contains("=C3=BCber alles\r\n--b\r\n--b\r\n"), "{made}");
}

#[test]
fn a_line_that_only_begins_like_a_delimiter_is_none() {
    let body = b"--in\r\n--inner\r\n --in\r\n--in \t\r\n---in\r\n--in--x\r\n--in-- \r\n--in";
    let found: Vec<_> = Delimiters::new(body, "in")
        .map(|d| (d.start, d.closes))
        .collect();
    assert_eq!(found, [(0, false), (22, false), (46, true), (55, false)]);
}

#[test]
fn boundaries_are_found_in_every_spelling_of_the_field() {
    for field in [
        "multipart/mixed; boundary=b",
        "multipart/mixed;boundary=\"b\"",
        "MULTIPART/Mixed ; charset=x; BOUNDARY = \"b\" ; more=1",
        "(one(two)) multipart/mixed(three); (four\\)) boundary=(five)b (six)",
        "multipart/mixed;; x=\"a;boundary=no\\\"\"; boundary=\"\\b\"",
        "multipart",
        "multipart/mixed",
    ] {
        let boundary = MediaType::of(field).boundary();
        let expected = field.to_lowercase().contains("boundary").then_some("b");
        assert_eq!(boundary.as_deref(), expected, "{field}");
    }
}

fn decoded(made: &[u8]) -> Vec<u8> {
    let message = MessageParser::new().parse(made).unwrap();
    message.parts[0].contents().to_vec()
}

/// Lines of octets as content may hold them.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        4 => Just(b'a'), 2 => Just(b' '), 1 => Just(b'\t'), 1 => Just(b'='), 1 => Just(b'.'),
        2 => 0x80..=0xff_u8, 1 => prop_oneof![Just(1_u8), Just(0x7f), Just(0x0b)],
    ];
    let line = prop::collection::vec(octet, 0..200);
    let ends = any::<bool>();
    (prop::collection::vec(line, 0..6), ends).prop_map(|(lines, ends)| {
        let mut text = lines.join(&b"\r\n"[..]);
        if ends {
            text.extend_from_slice(b"\r\n");
        }
        text
    })
}

const DEPTH: u32 = 3;

/// A tree of parts, as text, with a boundary for each level.
fn tree(depth: u32) -> BoxedStrategy<Vec<u8>> {
    let types = prop_oneof![
        Just(""),
        Just("Content-Type: text/plain; charset=utf-8\r\n"),
        Just("Content-Type: application/json\r\nContent-Transfer-Encoding: binary\r\n"),
        Just(
            "content-transfer-encoding: 8BIT\r\nContent-Type: text/html;\r\n charset=\"utf-8\"\r\n"
        ),
    ];
    let leaf = (types, "[a-zü=.日 \r\n]{0,120}").prop_map(|(head, text)| {
        let text = text.replace(['\r', '\n'], "\r\n");
        format!("{head}\r\n{text}").into_bytes()
    });
    if depth == 0 {
        return leaf.boxed();
    }
    let parts = prop::collection::vec(tree(depth - 1), 1..4);
    let multipart = parts.prop_map(move |parts| {
        let mut text =
            format!("Content-Type: multipart/mixed; boundary=b{depth}\r\n\r\npre\r\n").into_bytes();
        for part in parts {
            text.extend_from_slice(format!("--b{depth}\r\n").as_bytes());
            text.extend_from_slice(&part);
            text.extend_from_slice(b"\r\n");
        }
        // One that is not closed ends differently for different readers.
        text.extend_from_slice(format!("--b{depth}--\r\n").as_bytes());
        text
    });
    let message = tree(depth - 1).prop_map(|nested| {
        [
            b"Content-Type: message/rfc822\r\n\r\nSubject: n\r\n",
            &nested[..],
        ]
        .concat()
    });
    prop_oneof![1 => leaf, 3 => multipart, 1 => message].boxed()
}

/// Words that structure is made of, in any order.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "\r\n",
        "\r\n",
        "\r\n\r\n",
        "--b",
        "--b--",
        "--",
        "b",
        " ",
        "ü",
        "=",
        "Content-Type: ",
        "multipart/mixed; ",
        "boundary=b",
        "boundary=\"",
        "message/rfc822",
        "(",
        "\"",
        "\\",
        ";",
        "Content-Transfer-Encoding: ",
        "8bit",
        "base64",
        "text/plain",
        ":",
        "A: b\r\n",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_what_it_was(body in lines()) {
        let content = leaf("MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n", &body);
        let made = to_seven_bit(&content).unwrap();
        prop_assert!(made.is_ascii());
        prop_assert_eq!(decoded(&made), decoded(&content));
        if !body.is_ascii() {
            prop_assert_eq!(decoded(&made), body);
            prop_assert!(made.split(|&b| b == b'\n').all(|line| line.len() <= 77));
        }
    }

    #[test]
    fn a_tree_of_parts_is_read_as_before(tree in tree(DEPTH)) {
        let content = [b"From: a@example.com\r\nMIME-Version: 1.0\r\n", &tree[..]].concat();
        let made = to_seven_bit(&content).unwrap();
        prop_assert!(made.is_ascii());
        // mail-parser 0.11.9 panics at some messages within multiparts, whatever their encoding.
        let reads = |content: &[u8]| std::panic::catch_unwind(|| read(content)).ok();
        let (before, after) = (reads(&content), reads(&made));
        prop_assume!(before.is_some());
        prop_assert_eq!(after, before);
        prop_assert_eq!(to_seven_bit(&made).unwrap(), made);
    }

    #[test]
    fn whatever_the_structure_is_it_ends_and_gives_ascii_or_a_reason(content in soup()) {
        if let Ok(made) = to_seven_bit(&content) {
            prop_assert!(made.is_ascii());
            prop_assert_eq!(to_seven_bit(&made).unwrap(), made);
        }
    }
}
