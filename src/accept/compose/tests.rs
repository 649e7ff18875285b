//! What is composed is read again by a parser that we did not write.

use std::borrow::Cow;

use mail_parser::{Address as Parsed, Message, MessageParser, MimeHeaders, PartType};

use super::*;

fn addressee(name: &str, address: &str) -> Addressee {
    Addressee {
        name: name.into(),
        mailbox: Mailbox::parse(address, true).unwrap(),
    }
}

fn letter() -> Letter {
    Letter {
        from: addressee("Orders", "orders@shop.example"),
        to: vec![addressee("Ada", "ada@example.com")],
        cc: Vec::new(),
        reply_to: Vec::new(),
        subject: "Your parcel".into(),
        text: Some("On its way.".into()),
        html: None,
        headers: Vec::new(),
        attachments: Vec::new(),
    }
}

fn attachment(name: &str, content_type: &str, content: &[u8], id: Option<&str>) -> Attachment {
    Attachment {
        name: name.into(),
        content_type: content_type.into(),
        content: content.to_vec(),
        content_id: id.map(Into::into),
    }
}

fn parse(octets: &[u8]) -> Message<'_> {
    MessageParser::default().parse(octets).unwrap()
}

fn people(list: Option<&Parsed<'_>>) -> Vec<(String, String)> {
    let all = list
        .map(|list| list.clone().into_list())
        .unwrap_or_default();
    let text = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned).unwrap_or_default();
    let one = |one: mail_parser::Addr<'_>| (text(one.name), text(one.address));
    all.into_iter().map(one).collect()
}

/// Types of the parts, nested: `mixed(alternative(plain, html), png)`.
fn structure(message: &Message<'_>, part: usize) -> String {
    let part = &message.parts[part];
    let subtype = part.content_type().and_then(|t| t.subtype());
    let subtype = subtype.unwrap_or("plain").to_owned();
    match &part.body {
        PartType::Multipart(children) => {
            let children = children
                .iter()
                .map(|&child| structure(message, child as usize));
            format!("{subtype}({})", children.collect::<Vec<_>>().join(", "))
        }
        _ => subtype,
    }
}

/// What must hold of every message, whatever the texts are.
fn check_shape(octets: &[u8], fields: &[&str]) {
    assert!(octets.is_ascii());
    for line in octets.split_inclusive(|&b| b == b'\n') {
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        assert!(text.len() <= LINE_MAX, "{}", String::from_utf8_lossy(text));
        assert!(!text.contains(&b'\r') && !text.contains(&b'\n') && !text.contains(&0));
    }
    let section = crate::mail::header::Section::parse(octets, 1_000, 1 << 20).unwrap();
    let names = section
        .fields()
        .iter()
        .map(|f| section.name(f).to_ascii_lowercase());
    let mut names: Vec<_> = names.map(|name| String::from_utf8(name).unwrap()).collect();
    names.sort();
    let mut wanted: Vec<_> = fields.iter().map(|f| f.to_ascii_lowercase()).collect();
    wanted.sort();
    assert_eq!(names, wanted);
}

#[test]
fn alternatives_hold_what_is_related_and_the_rest_is_mixed() {
    let check = |text: bool, html: bool, inline: bool, file: bool, expected: &str| {
        let mut letter = letter();
        letter.text = text.then(|| "text".into());
        letter.html = html.then(|| "<img src=\"cid:logo.png\">".into());
        if inline {
            letter.attachments.push(attachment(
                "logo.png",
                "image/png",
                b"\x89PNG",
                Some("logo.png"),
            ));
        }
        if file {
            letter
                .attachments
                .push(attachment("slip.pdf", "application/pdf", b"%PDF", None));
        }
        let octets = compose(letter);
        assert_eq!(structure(&parse(&octets), 0), expected);
    };
    check(true, false, false, false, "plain");
    check(false, true, false, false, "html");
    check(true, true, false, false, "alternative(plain, html)");
    check(
        true,
        true,
        true,
        false,
        "alternative(plain, related(html, png))",
    );
    check(false, true, true, false, "related(html, png)");
    check(true, false, false, true, "mixed(plain, pdf)");
    check(
        true,
        true,
        false,
        true,
        "mixed(alternative(plain, html), pdf)",
    );
    check(
        true,
        true,
        true,
        true,
        "mixed(alternative(plain, related(html, png)), pdf)",
    );
    // Nothing shows it: it is a file like others.
    check(true, false, true, false, "mixed(plain, png)");
}

#[test]
fn names_of_files_and_their_types_survive_and_composite_types_are_not_encoded() {
    let mut letter = letter();
    let forwarded = b"Subject: inner\r\n\r\nhello\r\n";
    letter.attachments = vec![
        attachment(
            "Jahresabschluß \"24\".pdf",
            "application/pdf; x=y",
            b"%PDF-1.7\n\0\xff",
            None,
        ),
        attachment(
            "notes.txt",
            "text/plain; charset=iso-8859-1",
            b"caf\xe9\nbare\rends \r\n",
            None,
        ),
        attachment("mail.eml", "message/rfc822", forwarded, None),
        attachment(
            "8bit.eml",
            "message/rfc822",
            b"Subject: x\n\nbare line feeds\n",
            None,
        ),
        attachment("odd", "not a type\r\nX-Evil: 1", b"x", None),
    ];
    let octets = compose(letter.clone());
    let message = parse(&octets);
    check_shape(
        &octets,
        &["From", "To", "Subject", "MIME-Version", "Content-Type"],
    );
    let kinds = message.attachments().map(|part| {
        let kind = part.content_type().unwrap();
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap())
    });
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(
        kinds,
        [
            "application/pdf",
            "text/plain",
            "application/octet-stream",
            "application/octet-stream",
            "application/octet-stream"
        ]
    );
    for (part, given) in message.attachments().zip(&letter.attachments) {
        assert_eq!(part.attachment_name(), Some(given.name.as_str()));
    }
    let parts: Vec<_> = message.attachments().collect();
    assert_eq!(parts[0].contents(), b"%PDF-1.7\n\0\xff");
    assert_eq!(parts[3].contents(), b"Subject: x\n\nbare line feeds\n");
    assert_eq!(parts[2].contents(), forwarded);
}

#[test]
fn fields_of_plain_ascii_stay_as_they_are() {
    let url = "x".repeat(300);
    let unsubscribe = format!("<https://example.com/{url}>, <mailto:u@example.com?subject=x>");
    let mut letter = letter();
    letter.headers = vec![
        ("List-Unsubscribe".into(), unsubscribe.clone()),
        (
            "References".into(),
            "<a@b.example> ".repeat(60).trim().to_owned(),
        ),
        ("X-Empty".into(), String::new()),
        ("X-Long".into(), "y".repeat(2_000)),
        ("X-Umlaut".into(), "grün ".repeat(40).trim().to_owned()),
    ];
    let octets = compose(letter.clone());
    let fields = [
        "From",
        "To",
        "Subject",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ];
    let own = letter.headers.iter().map(|(name, _)| name.as_str());
    check_shape(&octets, &fields.into_iter().chain(own).collect::<Vec<_>>());
    let section = crate::mail::header::Section::parse(&octets, 100, 1 << 20).unwrap();
    assert_eq!(
        section.first("List-Unsubscribe").as_deref(),
        Some(unsubscribe.as_str())
    );
    assert_eq!(
        section.first("References").as_ref(),
        Some(&letter.headers[1].1)
    );
    for (name, value) in &letter.headers[2..] {
        assert_eq!(&decoded(&octets, name), value, "{name}");
    }
}

/// An unstructured field without its encoded words.
fn decoded(octets: &[u8], name: &str) -> String {
    let section = crate::mail::header::Section::parse(octets, 100, 1 << 20).unwrap();
    let field = section.named(name).next().unwrap();
    let whole = String::from_utf8_lossy(&octets[field.octets.clone()]).into_owned();
    let (_, value) = whole.split_once(':').unwrap();
    let subject = format!("Subject:{value}\r\n");
    let message = MessageParser::default().parse(subject.as_bytes());
    message
        .and_then(|m| m.subject().map(str::to_owned))
        .unwrap_or_default()
}

#[test]
fn a_message_to_nobody_that_is_named_says_so() {
    let mut letter = letter();
    letter.to.clear();
    let octets = compose(letter);
    assert!(
        String::from_utf8(octets)
            .unwrap()
            .contains("To: undisclosed-recipients:;\r\n")
    );
}

/// Texts of all that hurts: other scripts, line ends, quotes, encoded words, control characters, trailing blanks, long words.
fn hostile(rng: &mut fastrand::Rng, length: usize) -> String {
    const PIECES: [&str; 30] = [
        "a",
        "word ",
        " ",
        "\t",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "\"",
        "\\",
        "<",
        ">",
        "(",
        ")",
        ",",
        ";",
        ":",
        "@",
        "=?utf-8?Q?x?=",
        "=",
        "ä",
        "日本語",
        "😀",
        "\u{202e}",
        "\u{7f}",
        "\u{1}",
        ".",
        "\r\n.\r\n",
        "\r\nBcc: x@y.example\r\n",
        "--",
    ];
    let mut text = String::new();
    for _ in 0..rng.usize(0..=length) {
        text.push_str(PIECES[rng.usize(..PIECES.len())]);
        if rng.u8(..) == 0 {
            text.push_str(&"z".repeat(rng.usize(0..1_500)));
        }
    }
    text
}

/// Callers give one line where a field is.
fn on_one_line(text: &str) -> String {
    text.replace(['\r', '\n', '\0'], " ")
}

/// As people read it: line ends are one kind.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

#[test]
fn whatever_the_texts_hold_they_come_back_and_nothing_else_does() {
    for seed in 0..400 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut letter = letter();
        letter.from.name = on_one_line(&hostile(&mut rng, 8)).trim().to_owned();
        letter.subject = on_one_line(&hostile(&mut rng, 20)).trim().to_owned();
        letter.text = rng.bool().then(|| hostile(&mut rng, 200));
        letter.html = (letter.text.is_none() || rng.bool()).then(|| hostile(&mut rng, 200));
        let own = on_one_line(&hostile(&mut rng, 10)).trim().to_owned();
        letter.headers.push(("X-Own".into(), own));
        for _ in 0..rng.usize(0..4) {
            let name = on_one_line(&hostile(&mut rng, 5)).trim().to_owned();
            let types = [
                "image/png",
                "text/plain",
                "text/csv; charset=utf-8",
                "message/rfc822",
                "",
                "x\r\ny/z",
            ];
            let content = match rng.bool() {
                true => hostile(&mut rng, 300).into_bytes(),
                false => (0..rng.usize(1..500)).map(|_| rng.u8(..)).collect(),
            };
            let id = rng.bool().then(|| format!("part{}", rng.u8(..)));
            letter.attachments.push(attachment(
                &name,
                types[rng.usize(..types.len())],
                &content,
                id.as_deref(),
            ));
        }
        let octets = compose(letter.clone());
        let many =
            !letter.attachments.is_empty() || (letter.text.is_some() && letter.html.is_some());
        let mut fields = vec![
            "From",
            "To",
            "Subject",
            "X-Own",
            "MIME-Version",
            "Content-Type",
        ];
        if !many {
            fields.push("Content-Transfer-Encoding");
        }
        let shape = std::panic::catch_unwind(|| check_shape(&octets, &fields));
        assert!(
            shape.is_ok(),
            "seed {seed}:\n{}",
            String::from_utf8_lossy(&octets)
        );
        let message = parse(&octets);
        assert_eq!(
            people(message.from())[0].1,
            "orders@shop.example",
            "seed {seed}"
        );
        assert_eq!(
            people(message.to()),
            [("Ada".into(), "ada@example.com".into())],
            "seed {seed}"
        );
        for (given, body) in [
            (&letter.text, message.body_text(0)),
            (&letter.html, message.body_html(0)),
        ] {
            if let Some(given) = given {
                let found = body.map(|body| lines(&body)).unwrap_or_default();
                assert_eq!(found.trim_end(), lines(given).trim_end(), "seed {seed}");
            }
        }
    }
}
