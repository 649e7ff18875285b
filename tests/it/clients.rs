//! Clients that we did not write: swaks, Python's smtplib, nodemailer, Postfix's smtp-source. `scripts/test` installs them.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::node::TestNode;
use crate::support::remote_host::{RemoteHost, Taken};
use crate::support::within;

const TOKEN: &str = "app-secret-token";

/// A node with a plain, a STARTTLS and an implicit-TLS listener, none of them trusting anybody.
struct Fixture {
    node: TestNode,
    host: RemoteHost,
}

impl Fixture {
    async fn start() -> Self {
        let host = RemoteHost::start().await;
        let node = TestNode::with_tls(&format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            host.address
        ))
        .await;
        Self { node, host }
    }

    fn plain(&self) -> u16 {
        self.node.node.smtp_addresses()[1].port()
    }

    fn starttls(&self) -> u16 {
        self.node.node.smtp_addresses()[2].port()
    }

    fn implicit(&self) -> u16 {
        self.node.node.smtp_addresses()[3].port()
    }

    async fn stop(self) -> Vec<Taken> {
        self.node.node.stop().await;
        self.host.taken()
    }
}

async fn run(what: &str, command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within(what, output)
        .await
        .unwrap_or_else(|e| panic!("{what}: {e}; scripts/test installs what the tests need"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed: {text}");
    text
}

fn body(taken: &Taken) -> &[u8] {
    let end = taken
        .content
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .unwrap()
        + 4;
    &taken.content[end..]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaks_authenticates_by_every_mechanism_over_every_listener() {
    let fixture = Fixture::start().await;
    let mut sent = 0;
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
        for (port, tls) in [
            (fixture.plain(), None),
            (fixture.starttls(), Some("--tls")),
            (fixture.implicit(), Some("--tls-on-connect")),
        ] {
            let mut swaks = Command::new("swaks");
            swaks.args([
                "--server",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--ehlo",
                "swaks.test",
            ]);
            swaks.args([
                "--from",
                "ada@example.com",
                "--to",
                "bo@example.org",
                "--header",
                &format!("Subject: {mechanism} {tls:?}"),
            ]);
            swaks.args([
                "--auth",
                mechanism,
                "--auth-user",
                TOKEN,
                "--auth-password",
                TOKEN,
                "--body",
                "first\n.second\n\nlast",
            ]);
            swaks.args(tls);
            run("swaks", &mut swaks).await;
            sent += 1;
        }
    }
    fixture.host.wait_for(sent).await;
    for taken in fixture.stop().await {
        assert!(
            body(&taken).starts_with(b"first\r\n.second\r\n\r\nlast\r\n"),
            "{}",
            String::from_utf8_lossy(body(&taken))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_relays_without_credentials() {
    let fixture = Fixture::start().await;
    let mut client =
        crate::support::client::Client::connect(fixture.node.node.smtp_addresses()[1]).await;
    client.command("MAIL FROM:<a@example.com>", 250).await;
    let text = client.command("RCPT TO:<b@example.org>", 530).await;
    assert!(text.starts_with("5.7.0"), "{text}");
    assert!(fixture.stop().await.is_empty());
}

const SMTPLIB: &str = r#"
import smtplib, ssl, sys, email.policy
from email.message import EmailMessage
plain, starttls, implicit, token = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
context = ssl._create_unverified_context()
raw = b"From: ada@example.com\r\nSubject: 8-bit\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\ngr\xc3\xbc\xc3\x9fe \xf0\x9f\x93\xac\r\n"
def session(client, mechanism):
    client.ehlo("python.test")
    client.user = client.password = token
    method = {"plain": client.auth_plain, "login": client.auth_login, "cram-md5": client.auth_cram_md5}[mechanism]
    client.auth(mechanism.upper(), method)
    return client
# PLAIN on loopback in clear, 8-bit content declared.
c = session(smtplib.SMTP("127.0.0.1", plain), "plain")
c.sendmail("ada@example.com", ["b@example.org"], raw, mail_options=["BODY=8BITMIME"])
c.quit()
# STARTTLS, then LOGIN; SMTPUTF8 addresses.
c = smtplib.SMTP("127.0.0.1", starttls); c.ehlo("python.test"); c.starttls(context=context)
c = session(c, "login")
m = EmailMessage(policy=email.policy.SMTPUTF8); m["From"] = "ada@example.com"; m["To"] = "jürgen@bücher.example"; m["Subject"] = "Grüße"
m.set_content("utf8 body\n")
c.send_message(m)
c.quit()
# Implicit TLS, CRAM-MD5, a hundred recipients over twenty domains, two messages on one connection.
c = session(smtplib.SMTP_SSL("127.0.0.1", implicit, context=context), "cram-md5")
for _ in range(2):
    refused = c.sendmail("ada@example.com", [f"r{n}@d{n % 20}.example.org" for n in range(100)], raw)
    assert refused == {}, refused
c.quit()
# BDAT, which smtplib does not know, by hand over its socket.
c = session(smtplib.SMTP("127.0.0.1", plain), "plain")
assert c.has_extn("chunking") and c.has_extn("smtputf8") and c.has_extn("pipelining") and c.has_extn("dsn")
c.docmd("MAIL FROM:<ada@example.com> BODY=8BITMIME RET=HDRS ENVID=x+2By"); c.docmd("RCPT TO:<b@example.org> NOTIFY=FAILURE ORCPT=rfc822;b@example.org")
half = len(raw) // 2
c.send(b"BDAT %d\r\n" % half + raw[:half]); code, text = c.getreply(); assert code == 250, text
c.send(b"BDAT %d LAST\r\n" % (len(raw) - half) + raw[half:]); code, text = c.getreply(); assert code == 250, text
c.quit()
# A wrong password.
c = smtplib.SMTP("127.0.0.1", plain); c.ehlo()
try:
    c.login("nobody", "wrong"); sys.exit("logged in with a wrong password")
except smtplib.SMTPAuthenticationError as e:
    assert e.smtp_code == 535, e
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_smtplib_sends_8_bit_smtputf8_many_recipients_and_bdat() {
    let fixture = Fixture::start().await;
    let ports = [fixture.plain(), fixture.starttls(), fixture.implicit()].map(|p| p.to_string());
    run(
        "python3",
        Command::new("python3")
            .args(["-c", SMTPLIB])
            .args(ports)
            .arg(TOKEN),
    )
    .await;
    fixture.node.events_of("delivered", 1 + 1 + 200 + 1).await;
    let taken = fixture.stop().await;
    let utf8 = taken.iter().find(|t| t.mail.contains("SMTPUTF8")).unwrap();
    assert!(body(utf8).ends_with(b"utf8 body\r\n"));
    assert!(
        utf8.recipients[0].starts_with("jürgen@"),
        "{:?}",
        utf8.recipients
    );
    let eight_bit = "grüße 📬\r\n".as_bytes();
    assert!(
        taken
            .iter()
            .filter(|t| !t.mail.contains("SMTPUTF8"))
            .all(|t| body(t) == eight_bit)
    );
    let recipients: usize = taken.iter().map(|t| t.recipients.len()).sum();
    assert_eq!(recipients, 203);
}

const NODEMAILER: &str = r#"
const nodemailer = require("nodemailer");
const [plain, starttls, implicit, token] = process.argv.slice(1);
const auth = (method) => ({ user: token, pass: token });
const common = { host: "127.0.0.1", name: "node.test", tls: { rejectUnauthorized: false } };
const transports = [
  { ...common, port: +plain, ignoreTLS: true, authMethod: "CRAM-MD5", auth: auth() },
  { ...common, port: +starttls, requireTLS: true, authMethod: "LOGIN", auth: auth() },
  { ...common, port: +implicit, secure: true, authMethod: "PLAIN", auth: auth(), pool: true },
];
(async () => {
  for (const options of transports) {
    const transport = nodemailer.createTransport(options);
    for (let n = 0; n < 3; n++) {
      const info = await transport.sendMail({
        from: "Ada <ada@example.com>", to: "bo@example.org", cc: "cy@example.net", subject: "Grüße " + n,
        text: ".dot\nzażółć\n", html: "<p>zażółć</p>", attachments: [{ filename: "a.bin", content: Buffer.alloc(100000, n) }],
        headers: { "X-PM-Tag": "welcome", "X-PM-Metadata-order": "7" },
      });
      if (!/^250 2\.0\.0 OK [0-9a-f-]{36}$/.test(info.response)) throw new Error(info.response);
    }
    transport.close();
  }
  // 20 MB of content.
  const transport = nodemailer.createTransport(transports[0]);
  await transport.sendMail({ from: "ada@example.com", to: "bo@example.org", subject: "big", raw: Buffer.concat([
    Buffer.from("From: ada@example.com\r\nSubject: big\r\n\r\n"), Buffer.alloc(20000000, "0123456789abcdef0123456789abcdef\r\n")]) ,
    envelope: { from: "ada@example.com", to: ["big@example.org"] } });
  transport.close();
})().catch((error) => { console.error(error); process.exit(1); });
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodemailer_sends_over_every_listener_and_twenty_megabytes() {
    let fixture = Fixture::start().await;
    let ports = [fixture.plain(), fixture.starttls(), fixture.implicit()].map(|p| p.to_string());
    let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    run(
        "node",
        Command::new("node")
            .current_dir(clients)
            .args(["-e", NODEMAILER])
            .args(ports)
            .arg(TOKEN),
    )
    .await;
    fixture.node.events_of("delivered", 9 * 2 + 1).await;
    let taken = fixture.stop().await;
    let big = taken
        .iter()
        .find(|t| t.recipients == ["big@example.org"])
        .unwrap();
    let expected: Vec<u8> = b"0123456789abcdef0123456789abcdef\r\n"
        .iter()
        .copied()
        .cycle()
        .take(20_000_000)
        .collect();
    assert!(
        body(big).starts_with(&expected[..19_999_000]),
        "20 MB arrived changed"
    );
    for small in taken.iter().filter(|t| t.recipients != ["big@example.org"]) {
        let header_len = small.content.len() - body(small).len();
        let header = String::from_utf8_lossy(&small.content[..header_len]).to_lowercase();
        assert!(
            header.contains("\r\nx-pm-tag: welcome\r\n") && !header.contains("metadata"),
            "{header}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smtp_source_is_relayed_to_smtp_sink_completely() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sink_address = listener.local_addr().unwrap();
    drop(listener);
    let mut sink = Command::new("smtp-sink");
    // smtp-sink refuses to run as root without a user to become.
    let sink = sink
        .args(["-u", "nobody", &sink_address.to_string(), "100"])
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .spawn();
    let _sink = sink.expect("smtp-sink; scripts/test installs what the tests need");
    let node = TestNode::routed_to(sink_address).await;
    let address = node.smtp().to_string();
    let load = [
        "-s",
        "5",
        "-m",
        "500",
        "-l",
        "10240",
        "-d",
        "-f",
        "a@example.com",
        "-t",
        "b@example.org",
        &address,
    ];
    run("smtp-source", Command::new("smtp-source").args(load)).await;
    let delivered = node.events_of("delivered", 500).await;
    let distinct: std::collections::HashSet<_> = delivered.iter().map(|e| &e.message_id).collect();
    assert_eq!(distinct.len(), 500);
    node.node.stop().await;
}
