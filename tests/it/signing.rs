//! DKIM: what arrives verifies, by verifiers that we did not write; keys come and go with their records.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::accounts::Fixture;
use crate::official_clients::run;
use crate::sending::numbered;
use crate::support::client::{Client, auth_plain, message};
use crate::support::dns::Dns;
use crate::support::node::TestNode;
use crate::support::remote_host::{Answer, RemoteHost, Stage, Taken};

const PLATFORM_KEY: &[u8] = include_bytes!("../../src/sign/testdata/ed25519.pem");
const OLD_KEY: &[u8] = include_bytes!("../../src/sign/testdata/rsa2048.pkcs1.pem");

const WEAK_KEY: &[u8] = include_bytes!("../../src/sign/testdata/rsa1024.pkcs8.pem");

/// Contents that signers get wrong, without their X-Number.
fn awkward() -> Vec<Vec<u8>> {
    let long = "x".repeat(2_000) + "\r\n";
    let longest = "y".repeat(65_000) + "\r\n\r\nz\r\n";
    let bodies: [&[u8]; 18] = [
        b"",
        b"\r\n",
        b"\r\n\r\n\r\n",
        b"plain\r\n",
        b"trailing blanks \t\r\n  leading\r\n\r\n\r\n",
        b".\r\n..\r\n.dot\r\n",
        b"\tonly\twhite  space\t \r\n \r\n",
        "Grüße, 日本\r\n".as_bytes(),
        b"latin \xe4\xf6\xfc \xff\xfe\r\n",
        long.as_bytes(),
        longest.as_bytes(),
        b"--b\r\nContent-Type: text/plain\r\n\r\nnested\r\n--b--\r\n",
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nFrom: x@example.net\r\nDKIM-Signature: v=1; a=rsa-sha256; b=AAAA\r\n\r\n--b--\r\n.\r\n--b--",
        b"no end",
        b"blanks at the end \t",
        b" \t ",
        b"line\r\n \t",
        b"dots\r\n..",
    ];
    let heads: [&[u8]; 8] = [
        b"Subject: plain\r\n",
        b"Subject: folded\r\n over\r\n\t lines\r\n",
        b"subject:   spaces   within   \r\nComments: one\r\nComments: two\r\n",
        b"Subject:\r\nTo: a@example.org,\r\n b@example.org\r\nX-Empty:\r\n",
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=b\r\nList-Unsubscribe: <mailto:u@example.org>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        b"SUBJECT: one\r\nReferences: <a@b>\r\n <c@d>\r\n\t<e@f>\r\nList-Unsubscribe: <mailto:u@example.org>\r\nList-Unsubscribe: <mailto:v@example.org>\r\nFEEDBACK-ID: a:b\r\nFeedback-ID:  c:d\r\n",
        "Subject: Grüße aus 東京\r\nTo: \"Jürgen\" <j@example.org>\r\n".as_bytes(),
        b"Subject:\ttabs\t\tand  \t blanks\t\r\nKeywords: one,\r\n \t two\r\nDate: Mon, 02 Mar 2026 14:15:12 +0000 (UTC)\r\n",
    ];
    let all = heads
        .iter()
        .flat_map(|head| bodies.iter().map(move |body| (head, body)));
    let from = b"From: \"Orders,  Shop\"\r\n <orders@shop.test>\r\n";
    all.map(|(head, body)| [head, &from[..], b"\r\n", body].concat())
        .collect()
}

fn numbered_as(number: &str, content: &[u8]) -> Vec<u8> {
    [format!("X-Number: {number}\r\n").as_bytes(), content].concat()
}

/// To one recipient at a host that takes DATA and one at a host that takes BDAT.
async fn submit_to_both(client: &mut Client, content: &[u8]) {
    client
        .command("MAIL FROM:<sender@example.com> BODY=8BITMIME SMTPUTF8", 250)
        .await;
    client.command("RCPT TO:<b@example.org>", 250).await;
    client.command("RCPT TO:<b@chunking.test>", 250).await;
    let chunk = format!("BDAT {} LAST\r\n", content.len());
    client.send(&[chunk.as_bytes(), content].concat()).await;
    client.expect(250).await;
}

fn write_key(dir: &Path, name: &str, pem: &[u8], mode: u32) {
    let path = dir.join(name);
    std::fs::write(&path, pem).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A node whose mail goes to one host that takes DATA and one that takes BDAT.
async fn start(dns: &Dns, extra: &str, keys: &Path) -> (Fixture, RemoteHost) {
    let host = RemoteHost::start().await;
    let chunking = RemoteHost::scripted(|stage, _, _| match stage {
        Stage::Ehlo => Answer::Lines(
            [
                "250-remote.test",
                "250-8BITMIME",
                "250-SMTPUTF8",
                "250-PIPELINING",
                "250 CHUNKING",
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        _ => Answer::Usual,
    });
    let chunking = chunking.await;
    let config = format!(
        "[[route]]\ndomain = \"chunking.test\"\nhosts = [\"{}\"]\n[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\ntrusted = []\n[dns]\nservers = [\"{}\"]\n{}",
        chunking.address,
        host.address,
        dns.address,
        extra.replace("KEYS", keys.to_str().unwrap()),
    );
    let node = TestNode::with(&config).await;
    (Fixture { node, host }, chunking)
}

async fn client_of(fixture: &Fixture) -> (Client, String) {
    fixture.made("server create shop").await;
    let token = fixture.made("token create shop").await;
    let token = token["token"].as_str().unwrap().to_owned();
    let mut client = fixture.client().await;
    client.command(&auth_plain(&token), 235).await;
    (client, token)
}

fn publish(dns: &Dns, keys: &Value) -> Value {
    let mut records = json!({});
    for key in keys.as_array().unwrap() {
        let record = &key["record"];
        let (name, text) = (record["name"].as_str(), record["text"].as_str());
        dns.txt(name.unwrap(), text.unwrap());
        records[name.unwrap()] = text.unwrap().into();
    }
    records
}

fn signatures(taken: &Taken) -> Vec<String> {
    let text = String::from_utf8_lossy(&taken.content).into_owned();
    let head = text.split("\r\n\r\n").next().unwrap();
    let unfolded = head.replace("\r\n\t", " ").replace("\r\n ", " ");
    let fields = unfolded.split("\r\n");
    fields
        .filter(|field| field.starts_with("DKIM-Signature:"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn awkward_mail_verifies_with_every_key_over_data_and_bdat() {
    let dns = Dns::start().await;
    let keys = tempfile::tempdir().unwrap();
    write_key(keys.path(), "platform.pem", PLATFORM_KEY, 0o600);
    write_key(keys.path(), "old.pem", OLD_KEY, 0o600);
    let extra = "[dkim]\ndomain = \"esp.test\"\nkeys = [{ selector = \"all\", key_file = \"KEYS/platform.pem\" }]\n[[domain]]\nname = \"declared.example\"\ndkim = [{ selector = \"r\", key_file = \"KEYS/old.pem\" }, { selector = \"e\", key_file = \"KEYS/platform.pem\" }]\n";
    let (fixture, chunking) = start(&dns, extra, keys.path()).await;
    let (mut client, token) = client_of(&fixture).await;
    let domain = fixture
        .made("domain add shop.test --ed25519 --return-path none")
        .await;
    let declared = fixture.made("domain show declared.example").await;
    let mut records = publish(&dns, &domain["dkim_keys"]);
    let more = publish(&dns, &declared["dkim_keys"]);
    let more = more.as_object().unwrap().clone();
    records.as_object_mut().unwrap().extend(more);
    let said = fixture.run("dkim ls --json", 0).await;
    let listed: Vec<Value> = said
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(listed.len(), 5);
    let of_platform = listed.iter().find(|key| key["platform"] == true).unwrap();
    assert_eq!(of_platform["state"], "active");
    let platform = publish(&dns, &json!([of_platform]));
    let more = platform.as_object().unwrap().clone();
    records.as_object_mut().unwrap().extend(more);
    fixture.run("domain verify shop.test", 0).await;

    let url = format!("http://{}", fixture.node.node.http_address());
    run(&["python3", "corpus.py", "send", &url, &token]).await;
    let mut contents = awkward();
    // Header sections alone, and ten megabytes, from content records.
    contents.push(b"From: orders@shop.test\r\nSubject: no body\r\n".to_vec());
    let local = "From: Gr\u{fc}\u{df}e <gr\u{fc}\u{df}e@shop.test>\r\nSubject: SMTPUTF8\r\n\r\n\u{1f600}\r\n";
    contents.push(local.as_bytes().to_vec());
    let head = b"From: orders@shop.test\r\nSubject: long\r\n\r\n";
    let long = b"0123456789abcdef 0123456789 \r\n".repeat(350_000);
    contents.push([&head[..], &long, b"end \t"].concat());
    for (number, content) in contents.iter().enumerate() {
        let content = numbered_as(&format!("smtp-{number}"), content);
        submit_to_both(&mut client, &content).await;
    }
    let count = |taken: &[Taken]| {
        let numbers: BTreeSet<String> = taken.iter().map(|t| numbered(&t.content)).collect();
        numbers.len()
    };
    let wanted = contents.len();
    let by_data = fixture
        .host
        .taken_until("all by DATA", |taken| count(taken) == wanted + 240);
    let by_data = by_data.await;
    let by_bdat = chunking
        .taken_until("all by BDAT", |taken| count(taken) == wanted)
        .await;
    // One signing for both recipients.
    for one in &by_bdat {
        let same = |other: &&Taken| numbered(&other.content) == numbered(&one.content);
        let other = by_data.iter().find(same).unwrap();
        assert_eq!(signatures(other), signatures(one));
        assert_eq!(other.content, one.content, "the same octets either way");
    }
    for taken in [&by_data, &by_bdat] {
        let directory = tempfile::tempdir().unwrap();
        for one in taken {
            let path = directory.path().join(numbered(&one.content));
            std::fs::write(path, &one.content).unwrap();
        }
        let path = directory.path().to_str().unwrap();
        for check in ["dkim_check.py", "opendkim_check.py"] {
            run(&["python3", check, path, &records.to_string(), "3"]).await;
        }
    }
    fixture.stop().await;
}

/// The selectors that the next message to arrive is signed with.
async fn signed_with(client: &mut Client, host: &RemoteHost) -> Vec<String> {
    let before = host.taken().len();
    client.command("RSET", 250).await;
    let content = message("s", "body");
    let text = String::from_utf8(content).unwrap();
    let text = format!("From: orders@shop.test\r\n{}", without_from(&text));
    let (code, said) = client
        .try_submit("b@example.org", text.as_bytes())
        .await
        .unwrap();
    assert_eq!(code, 250, "{said}");
    let taken = host.wait_for(before + 1).await;
    let selector = |field: &String| {
        let tag = field.split("; ").map(|tag| tag.trim());
        let tag = tag
            .flat_map(|tag| tag.split(' '))
            .find_map(|tag| tag.strip_prefix("s="));
        tag.unwrap().trim_end_matches(';').to_owned()
    };
    signatures(taken.last().unwrap())
        .iter()
        .map(selector)
        .collect()
}

fn without_from(text: &str) -> String {
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("From:")).collect()
}

fn key_of<'v>(domain: &'v Value, state: &str) -> &'v Value {
    let keys = domain["dkim_keys"].as_array().unwrap();
    let found = keys.iter().find(|key| key["state"] == state);
    found.unwrap_or_else(|| panic!("no {state} key in {domain}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_verified_rotated_paused_restored_imported_and_revoked() {
    let dns = Dns::start().await;
    let keys = tempfile::tempdir().unwrap();
    let (fixture, _chunking) = start(&dns, "", keys.path()).await;
    let (mut client, _) = client_of(&fixture).await;
    let domain = fixture
        .made("domain add shop.test --return-path none")
        .await;
    let first = key_of(&domain, "pending")["selector"]
        .as_str()
        .unwrap()
        .to_owned();
    publish(&dns, &domain["dkim_keys"]);
    fixture.run("domain verify shop.test", 0).await;
    assert_eq!(
        signed_with(&mut client, &fixture.host).await,
        [first.as_str()]
    );

    // Rotation: the old one signs until the new one's record is there.
    let rotated = fixture.made("dkim rotate shop.test").await;
    let pending = key_of(&rotated, "pending").clone();
    let second = pending["selector"].as_str().unwrap().to_owned();
    fixture.run("domain verify shop.test", 1).await;
    assert_eq!(
        signed_with(&mut client, &fixture.host).await,
        [first.as_str()]
    );
    publish(&dns, &json!([pending]));
    fixture.run("domain verify shop.test", 0).await;
    assert_eq!(
        signed_with(&mut client, &fixture.host).await,
        [second.as_str()]
    );
    let shown = fixture.made("domain show shop.test").await;
    let old = key_of(&shown, "revoked");
    assert_eq!(old["selector"], first);
    assert!(old["keep_published_until"].is_string() && shown["dkim_revoked_removable"] == false);

    // A record that is gone, or another's, or revoked pauses its key; no answer does not.
    let host = pending["record"]["name"].as_str().unwrap();
    dns.fail(true);
    fixture.run("domain verify shop.test", 69).await;
    assert_eq!(
        signed_with(&mut client, &fixture.host).await,
        [second.as_str()]
    );
    dns.fail(false);
    for other in [None, Some("v=DKIM1; p="), Some("k=rsa; p=AAAA")] {
        dns.remove(host);
        if let Some(text) = other {
            dns.txt(host, text);
        }
        let said = fixture.run("domain verify shop.test", 1).await;
        assert!(said.contains("so that key does not sign"), "{said}");
        assert!(signed_with(&mut client, &fixture.host).await.is_empty());
        let shown = fixture.run("domain show shop.test", 0).await;
        assert!(shown.contains("paused"), "{shown}");
        dns.remove(host);
        publish(&dns, &json!([pending]));
        fixture.run("domain verify shop.test", 0).await;
        assert_eq!(
            signed_with(&mut client, &fixture.host).await,
            [second.as_str()]
        );
    }
    let told = fixture.node.events_of("dkim_paused", 3).await;
    assert!(
        told[2].detail.contains("the key there is another one"),
        "{:?}",
        told[2]
    );
    fixture.node.events_of("dkim_resumed", 3).await;
    let tail = fixture.run("events tail --no-follow --json", 0).await;
    let event = tail
        .lines()
        .find(|line| line.contains("dkim_paused"))
        .unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!(
        (&event["domain"], &event["selector"]),
        (&"shop.test".into(), &(*second).into())
    );
    assert!(event["message_id"].is_null());

    // A key from elsewhere.
    write_key(keys.path(), "old.pem", OLD_KEY, 0o644);
    let file = keys.path().join("old.pem");
    let import = format!(
        "dkim import shop.test --selector moved --key {}",
        file.display()
    );
    let refused = fixture.run(&import, 2).await;
    assert!(
        refused.contains(&format!("run: chmod 600 {}", file.display())),
        "{refused}"
    );
    write_key(keys.path(), "old.pem", OLD_KEY, 0o600);
    let imported = fixture.made(&import).await;
    publish(&dns, &json!([key_of(&imported, "pending")]));
    fixture.run("domain verify shop.test", 0).await;
    assert_eq!(signed_with(&mut client, &fixture.host).await, ["moved"]);
    fixture.run(&import, 1).await;
    let revoked = fixture.run("dkim revoke shop.test moved", 0).await;
    assert!(
        revoked.contains("no other key of the domain signs now"),
        "{revoked}"
    );
    assert!(signed_with(&mut client, &fixture.host).await.is_empty());
    let added = fixture.made("dkim add shop.test --algorithm ed25519").await;
    let pending = key_of(&added, "pending");
    assert_eq!(pending["algorithm"], "ed25519");
    publish(&dns, &json!([pending]));
    fixture.run("domain verify shop.test", 0).await;
    assert_eq!(
        signed_with(&mut client, &fixture.host).await,
        [pending["selector"].as_str().unwrap()]
    );
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_checked_with_its_keys_and_weak_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let keyed = "[[domain]]\nname = \"shop.test\"\ndkim = [{ selector = \"ph1\", key_file = \"key.pem\" }]\n";
    crate::support::node::write_config(dir.path(), keyed);
    let check = async || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.args(["config", "check", "posthaste.toml"]);
        let output = command.current_dir(dir.path()).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    write_key(dir.path(), "key.pem", OLD_KEY, 0o600);
    assert_eq!(check().await, (Some(0), String::new()));
    write_key(dir.path(), "key.pem", WEAK_KEY, 0o600);
    let (code, said) = check().await;
    assert_eq!(code, Some(0));
    let weak = "posthaste.toml: warning: the DKIM key ph1 of shop.test is weak: it has 1024 bits";
    assert!(said.starts_with(weak), "{said}");
    write_key(dir.path(), "key.pem", OLD_KEY, 0o604);
    let (code, said) = check().await;
    assert!(
        code == Some(78) && said.contains("run: chmod 600"),
        "{said}"
    );
    let keyless = "[dkim]\ndomain = \"esp.test\"\n";
    crate::support::node::write_config(dir.path(), keyless);
    let (code, said) = check().await;
    assert!(
        code == Some(78) && said.contains("signs nothing without keys"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_configuration_are_taken_at_a_reload_and_refused_when_others_can_read_them() {
    let dns = Dns::start().await;
    let keys = tempfile::tempdir().unwrap();
    write_key(keys.path(), "old.pem", OLD_KEY, 0o600);
    let declared = "[[domain]]\nname = \"shop.test\"\n";
    let (fixture, _chunking) = start(&dns, declared, keys.path()).await;
    let (mut client, _) = client_of(&fixture).await;
    assert!(signed_with(&mut client, &fixture.host).await.is_empty());
    let path = keys.path().join("old.pem");
    let with_key = format!(
        "{declared}dkim = [{{ selector = \"ph1\", key_file = \"{}\" }}]\n",
        path.display()
    );
    let edit = |config: String| config.replace(declared, &with_key);
    let reloaded = fixture.node.reload(edit).await;
    reloaded.unwrap();
    assert_eq!(signed_with(&mut client, &fixture.host).await, ["ph1"]);
    write_key(keys.path(), "old.pem", OLD_KEY, 0o640);
    let refused = fixture.node.reload(edit).await.unwrap_err();
    assert!(refused.to_string().contains("run: chmod 600"), "{refused}");
    assert_eq!(signed_with(&mut client, &fixture.host).await, ["ph1"]);
    // Looked for when somebody asks: there is no record.
    fixture.run("domain verify shop.test", 1).await;
    assert!(signed_with(&mut client, &fixture.host).await.is_empty());
    let shown = fixture.made("domain show shop.test").await;
    assert_eq!(shown["may_send"], true);
    publish(&dns, &json!([key_of(&shown, "paused")]));
    fixture.run("domain verify shop.test", 0).await;
    assert_eq!(signed_with(&mut client, &fixture.host).await, ["ph1"]);
    fixture.run("dkim rotate shop.test", 1).await;
    fixture.stop().await;
}
