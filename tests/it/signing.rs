//! DKIM: what arrives from a domain whose record is published verifies, by a verifier that we did not write.

use std::collections::BTreeSet;

use crate::accounts::Fixture;
use crate::official_clients::run;
use crate::sending::numbered;
use crate::support::client::auth_plain;
use crate::support::dns::Dns;
use crate::support::remote_host::Taken;

/// Contents that signers get wrong, each with its number.
fn awkward() -> Vec<Vec<u8>> {
    let long = "x".repeat(2_000) + "\r\n";
    let bodies: [&[u8]; 10] = [
        b"",
        b"\r\n",
        b"\r\n\r\n\r\n",
        b"plain\r\n",
        b"trailing blanks \t\r\n  leading\r\n\r\n\r\n",
        b".\r\n..\r\n.dot\r\n",
        b"\tonly\twhite  space\t \r\n \r\n",
        "Grüße, 日本\r\n".as_bytes(),
        long.as_bytes(),
        b"--b\r\nContent-Type: text/plain\r\n\r\nnested\r\n--b--\r\n",
    ];
    let heads = [
        "Subject: plain\r\n",
        "Subject: folded\r\n over\r\n\t lines\r\n",
        "subject:   spaces   within   \r\nComments: one\r\nComments: two\r\n",
        "Subject:\r\nTo: a@example.org,\r\n b@example.org\r\nX-Empty:\r\n",
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=b\r\nList-Unsubscribe: <mailto:u@example.org>\r\n",
    ];
    let all = heads
        .iter()
        .flat_map(|head| bodies.iter().map(move |body| (head, body)));
    let from = "From: \"Orders,  Shop\"\r\n <orders@declared.example>\r\n";
    all.enumerate()
        .map(|(number, (head, body))| {
            let head = format!("{head}{from}X-Number: smtp-{number}\r\n\r\n");
            [head.as_bytes(), body].concat()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_of_a_domain_whose_record_is_published_verifies() {
    let dns = Dns::start().await;
    let fixture = Fixture::start(&format!("[dns]\nservers = [\"{}\"]\n", dns.address)).await;
    fixture.made("server create shop").await;
    let token = fixture.made("token create shop").await;
    let token = token["token"].as_str().unwrap().to_owned();
    let domain = fixture.made("domain add declared.example").await;
    assert!(domain["dkim_pending"].is_object(), "{domain}");
    let key = &domain["dkim_pending"];
    let (host, text) = (key["name"].as_str().unwrap(), key["text"].as_str().unwrap());
    dns.txt(host, text);
    dns.cname("pm-bounces.declared.example", "mta.test");
    fixture.run("domain verify declared.example", 0).await;

    let url = format!("http://{}", fixture.node.node.http_address());
    run(&["python3", "corpus.py", "send", &url, &token]).await;
    let mut client = fixture.client().await;
    client.command(&auth_plain(&token), 235).await;
    let contents = awkward();
    for content in &contents {
        // RFC 5321 §4.5.2.
        let text = String::from_utf8(content.clone()).unwrap();
        let stuffed = text.replace("\r\n.", "\r\n..");
        let sent = client.try_submit("b@example.org", stuffed.as_bytes());
        let (code, said) = sent.await.unwrap();
        assert_eq!(code, 250, "{said}");
    }
    // Ten megabytes, from content records.
    let head = b"From: orders@declared.example\r\nSubject: long\r\nX-Number: long\r\n\r\n";
    let long = [
        &head[..],
        &b"0123456789abcdef 0123456789\r\n".repeat(370_000),
    ]
    .concat();
    let (code, said) = client.try_submit("b@example.org", &long).await.unwrap();
    assert_eq!(code, 250, "{said}");

    let wanted = 240 + contents.len() + 1;
    let all = |taken: &[Taken]| {
        let numbers: BTreeSet<String> = taken.iter().map(|t| numbered(&t.content)).collect();
        numbers.len() == wanted
    };
    let taken = fixture.host.taken_until("all that was signed", all).await;
    let directory = tempfile::tempdir().unwrap();
    for one in &taken {
        std::fs::write(directory.path().join(numbered(&one.content)), &one.content).unwrap();
    }
    let directory = directory.path().to_str().unwrap();
    run(&["python3", "dkim_check.py", directory, host, text]).await;
    fixture.stop().await;
}
