//! A host without 8BITMIME: 8-bit content reaches it re-encoded and signed as it left, or bounces with the reason.

use std::collections::BTreeSet;

use crate::accounts::Fixture;
use crate::official_clients::run;
use crate::sending::numbered;
use crate::support::client::auth_plain;
use crate::support::dns::Dns;
use crate::support::node::TestNode;
use crate::support::remote_host::{Answer, RemoteHost, Stage, Taken};

/// Offers everything but 8BITMIME.
async fn seven_bit_host() -> RemoteHost {
    RemoteHost::scripted(|stage, _, _| match stage {
        Stage::Ehlo => Answer::Lines(vec![
            "250-remote.test".into(),
            "250-PIPELINING".into(),
            "250 SIZE 100000000".into(),
        ]),
        _ => Answer::Usual,
    })
    .await
}

/// Header sections and bodies, each with each.
fn corpus() -> Vec<Vec<u8>> {
    let dots = "Grüße\r\n.\r\n..\r\n.ü\r\n \t\r\nend \r\n";
    let long = "ü ".repeat(5_000) + "\r\n" + &"x".repeat(900) + "é\r\n";
    let bodies: [&[u8]; 9] = [
        "Grüße\r\n".as_bytes(),
        "日本語のメール\r\n二行目\r\n".as_bytes(),
        dots.as_bytes(),
        long.as_bytes(),
        "= =3D =\r\n100 % é=\r\n".as_bytes(),
        b"latin \xe9\xe8\xff\r\n",
        "trailing lines ü\r\n\r\n\r\n".as_bytes(),
        "From me\r\n>From you ß\r\n".as_bytes(),
        b"\x01\x7f\xc3\xbc\tcontrol\r\n",
    ];
    let heads = [
        "",
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n",
        "Content-Transfer-Encoding: binary (folded\r\n comment)\r\nMIME-Version: 1.0\r\nContent-Type: text/html;\r\n\tcharset=\"iso-8859-1\"\r\n",
        "MIME-Version: 1.0\r\nContent-Type: application/json\r\n",
    ];
    let mut contents = Vec::new();
    for head in heads {
        for body in bodies {
            contents.push([head.as_bytes(), b"\r\n", body].concat());
        }
    }
    let head = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n";
    for body in bodies {
        let outer = format!(
            "{head}Content-Type: multipart/mixed; boundary=\"o u\"\r\n\r\nThis is MIME.\r\n--o u\r\n"
        );
        let nested = [
            outer.as_bytes(),
            b"Content-Type: multipart/alternative; boundary=in\r\n\r\n--in\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
            body,
            b"\r\n--in\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>=C3=BC</p>\r\n--in--\r\n\r\n--o u\r\nContent-Type: message/rfc822\r\n\r\nSubject: forwarded\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
            body,
            b"\r\n--o u\r\nContent-Type: image/png; name=a.png\r\nContent-Disposition: attachment; filename=a.png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--o u--\r\n",
        ];
        contents.push(nested.concat());
    }
    let numbered = |(number, content): (usize, &Vec<u8>)| {
        let head = format!(
            "From: orders@declared.example\r\nSubject: number\r\n {number}\r\nX-Number: {number}\r\n"
        );
        [head.as_bytes(), content].concat()
    };
    contents.iter().enumerate().map(numbered).collect()
}

/// RFC 5321 §4.5.2.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    let mut line_starts = true;
    for &b in content {
        if line_starts && b == b'.' {
            out.push(b'.');
        }
        out.push(b);
        line_starts = b == b'\n';
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_in_seven_bits_reads_as_it_was_written_and_its_signature_verifies() {
    let dns = Dns::start().await;
    let host = seven_bit_host().await;
    let config = format!(
        "[dns]\nservers = [\"{}\"]\n[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\ntrusted = []\n",
        dns.address, host.address
    );
    let node = TestNode::with(&config).await;
    let fixture = Fixture { node, host };
    fixture.made("server create shop").await;
    let token = fixture.made("token create shop").await;
    let token = token["token"].as_str().unwrap().to_owned();
    let domain = fixture.made("domain add declared.example").await;
    let key = &domain["dkim_pending"];
    let (record, text) = (key["name"].as_str().unwrap(), key["text"].as_str().unwrap());
    dns.txt(record, text);
    dns.cname("pm-bounces.declared.example", "mta.test");
    fixture.run("domain verify declared.example", 0).await;

    let mut contents = corpus();
    // From content records.
    let head = b"From: orders@declared.example\r\nSubject: long\r\nX-Number: long\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n";
    let line = "eine lange Zeile mit Grüßen\r\n".as_bytes();
    contents.push([&head[..], &line.repeat(100_000)].concat());
    let sent = tempfile::tempdir().unwrap();
    let mut client = fixture.client().await;
    client.command(&auth_plain(&token), 235).await;
    for content in &contents {
        std::fs::write(sent.path().join(numbered(content)), content).unwrap();
        let tried = client.try_submit("b@example.org", &stuffed(content)).await;
        let (code, said) = tried.unwrap();
        assert_eq!(code, 250, "{said}");
    }
    let all = |taken: &[Taken]| {
        let numbers: BTreeSet<String> = taken.iter().map(|t| numbered(&t.content)).collect();
        numbers.len() == contents.len()
    };
    let taken = fixture.host.taken_until("all that was sent", all).await;
    let received = tempfile::tempdir().unwrap();
    for one in &taken {
        assert!(!one.mail.contains("BODY="), "{}", one.mail);
        std::fs::write(received.path().join(numbered(&one.content)), &one.content).unwrap();
    }
    let (sent, received) = (sent.path().to_str(), received.path().to_str().unwrap());
    run(&["python3", "seven_bit_check.py", sent.unwrap(), received]).await;
    let records = serde_json::json!({ record: text }).to_string();
    for check in ["dkim_check.py", "opendkim_check.py"] {
        run(&["python3", check, received, &records, "1"]).await;
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_re_encoded_bounces_with_the_reason_and_ascii_leaves_whatever_was_declared()
{
    let host = seven_bit_host().await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    let signed = "From: a@example.com\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nGruß\r\n--b--\r\n";
    client.submit(&["b@a.test"], signed.as_bytes()).await;
    let bounced = node.events_of("bounced", 1).await;
    assert_eq!(
        bounced[0].detail,
        "5.6.3 the content is 8-bit, the remote host does not offer 8BITMIME, and it cannot be re-encoded: a signed part is 8-bit, and would not verify any more"
    );
    assert_eq!(bounced[0].cause, "content-policy");
    client
        .command("MAIL FROM:<a@example.com> BODY=8BITMIME", 250)
        .await;
    client.command("RCPT TO:<b@a.test>", 250).await;
    client.command("DATA", 354).await;
    client.send(b"From: a@example.com\r\n\r\nplain\r\n").await;
    client.command(".", 250).await;
    node.events_of("delivered", 1).await;
    node.node.stop().await;
}
