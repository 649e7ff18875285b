//! `domain check` fetches the policy of MTA-STS as hosts do, and says which of the usual mistakes it holds.

use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::dns::Dns;
use crate::support::node::TestNode;
use crate::support::process::posthaste;

const DOMAIN: &str = "shop.test";
const HOST: &str = "mta-sts.shop.test";
/// Of our own, since it has to be port 443.
const ADDRESS: &str = "127.44.3.1";
const URL: &str = "https://mta-sts.shop.test/.well-known/mta-sts.txt";
const POLICY: &str = "version: STSv1\r\nmode: enforce\r\nmx: *.shop.test\r\nmax_age: 1209600\r\n";

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A web server that says what the test wants, by the certificate that it wants.
#[derive(Clone)]
struct Web {
    answer: Arc<Mutex<Vec<u8>>>,
    identity: Arc<Mutex<Option<TlsAcceptor>>>,
    /// Heads of requests.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    async fn start(listener: TcpListener) -> Self {
        let web = Self {
            answer: Arc::default(),
            identity: Arc::default(),
            asked: Arc::default(),
        };
        let serving = web.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        web
    }

    async fn serve(self, stream: tokio::net::TcpStream) {
        let identity = self.identity.lock().unwrap().clone();
        let Ok(mut stream) = identity.unwrap().accept(stream).await else {
            return;
        };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(octet) => head.push(octet),
                Err(_) => return,
            }
        }
        self.asked
            .lock()
            .unwrap()
            .push(String::from_utf8(head).unwrap());
        let answer = self.answer.lock().unwrap().clone();
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    }

    /// Its answer from now on.
    fn says(&self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        *self.answer.lock().unwrap() = answer.into();
    }

    fn serves(&self, policy: &str) {
        self.says(
            "200 OK",
            "Content-Type: text/plain; charset=utf-8\r\n",
            policy,
        );
    }

    fn shows(&self, issuer: &Issuer, name: &str, days: (i32, i32)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (
            rcgen::date_time_ymd(days.0, 1, 1),
            rcgen::date_time_ymd(days.1, 1, 1),
        );
        let certificate = params.signed_by(&key, issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        *self.identity.lock().unwrap() = Some(TlsAcceptor::from(Arc::new(config)));
    }
}

fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_fetched_over_verified_tls_and_each_mistake_in_it_is_named() {
    let Ok(listener) = TcpListener::bind((ADDRESS, 443)).await else {
        return eprintln!("skipped: nobody but root may listen on port 443");
    };
    let (web, issuer) = (Web::start(listener).await, authority());
    let dns = Dns::start().await;
    let dir = tempfile::TempDir::new().unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, issuer.pem()).unwrap();
    let config = format!(
        "[dns]\nservers = [\"{}\"]\n[tls]\nca_file = \"{}\"\n[delivery]\nallow_networks = [\"127.44.0.0/16\"]\n",
        dns.address,
        roots.display()
    );
    let node = TestNode::with_source("ip = \"192.0.2.10\"", &config).await;
    let place = node.dir.path();
    posthaste(place, &format!("domain add {DOMAIN}"))
        .await
        .expect(0);
    dns.mx(DOMAIN, 10, "mx1.shop.test");
    dns.mx(DOMAIN, 20, "mx2.shop.test");
    dns.a("mx1.shop.test", "198.51.100.5");
    dns.a("mx2.shop.test", "198.51.100.6");
    dns.txt(&format!("_mta-sts.{DOMAIN}"), "v=STSv1; id=20261128;");
    dns.txt(
        &format!("_smtp._tls.{DOMAIN}"),
        "v=TLSRPTv1; rua=mailto:d@shop.test",
    );
    dns.a(HOST, ADDRESS);
    // What is said of the policy, and with which advice.
    let check = async || -> Vec<(String, String, String)> {
        let said = posthaste(place, &format!("domain check {DOMAIN} --json")).await;
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows = said.json();
        let of_policy = rows
            .iter()
            .filter(|row| row["id"].as_str().unwrap().starts_with("mta_sts"))
            .filter(|row| !row["about"].as_str().unwrap().contains("pm-bounces"));
        of_policy
            .map(|row| {
                (
                    text(row, "id"),
                    text(row, "level"),
                    text(row, "found") + " / " + &text(row, "advice"),
                )
            })
            .collect()
    };
    let one = async |id: &str, level: &str, says: &str| {
        let said = check().await;
        assert!(
            said.len() == 1 && said[0].0 == id && said[0].1 == level && said[0].2.contains(says),
            "wanted {id} {level} {says}: {said:#?}"
        );
    };

    let good = (2020, 2040);
    web.shows(&issuer, HOST, good);
    web.serves(POLICY);
    one("mta_sts_ok", "ok", "mode: enforce").await;
    let head = web.asked.lock().unwrap()[0].to_ascii_lowercase();
    assert!(
        head.starts_with("get /.well-known/mta-sts.txt http/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("host: {HOST}\r\n")), "{head}");
    let shown = posthaste(place, &format!("domain check {DOMAIN}"))
        .await
        .stdout;
    assert!(shown.contains(URL), "{shown}");
    web.serves(&POLICY.replace("\r\n", "\n"));
    one("mta_sts_ok", "ok", "").await;

    for (from, to, id, level, says) in [
        (
            "STSv1",
            "STSv2",
            "mta_sts_policy_syntax",
            "error",
            "version: STSv1",
        ),
        (
            "mode: enforce",
            "mode: on",
            "mta_sts_policy_syntax",
            "error",
            "enforce, testing and none",
        ),
        (
            "max_age: 1209600",
            "",
            "mta_sts_policy_syntax",
            "error",
            "max_age",
        ),
        (
            "mx: *.shop.test\r\n",
            "",
            "mta_sts_policy_syntax",
            "error",
            "names no host",
        ),
        (
            "*.shop.test",
            "mx2.shop.test",
            "mta_sts_mx",
            "error",
            "mx1.shop.test not named",
        ),
        (
            "enforce",
            "testing",
            "mta_sts_testing",
            "warn",
            "mode: enforce",
        ),
        ("enforce", "none", "mta_sts_off", "ok", "no policy"),
        ("1209600", "3600", "mta_sts_max_age", "warn", "weeks"),
        ("1209600", "99999999", "mta_sts_max_age", "warn", "a year"),
    ] {
        web.serves(&POLICY.replace(from, to));
        one(id, level, says).await;
    }
    web.says("200 OK", "Content-Type: text/html\r\n", POLICY);
    one("mta_sts_type", "error", "text/html").await;
    web.says("200 OK", "", POLICY);
    one("mta_sts_type", "error", "no content type").await;
    web.says("404 Not Found", "Content-Type: text/plain\r\n", "none");
    one("mta_sts_status", "error", "status 404").await;
    // Followed by nobody, not even to where a good one is.
    let before = web.asked.lock().unwrap().len();
    web.says("301 Moved", &format!("Location: {URL}\r\n"), "");
    one("mta_sts_status", "error", "do not follow redirects").await;
    assert_eq!(web.asked.lock().unwrap().len(), before + 1);
    web.serves(&format!("{POLICY}{}", "x: y\r\n".repeat(20_000)));
    one("mta_sts_policy_syntax", "error", "more than 65536 octets").await;
    // No end, no HTTP: no answer.
    *web.answer.lock().unwrap() = b"220 mx1.shop.test ESMTP\r\n".to_vec();
    one("mta_sts_unknown", "unknown", "no answer").await;
    *web.answer.lock().unwrap() =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9999\r\n\r\nversion"
            .to_vec();
    one("mta_sts_unknown", "unknown", "broke off").await;

    // Certificates of another name, of yesterday, of nobody.
    web.serves(POLICY);
    for (issuer, name, years, says) in [
        (&issuer, "other.shop.test", good, "not valid for name"),
        (&issuer, HOST, (2020, 2021), "expired"),
        (&authority(), HOST, good, "invalid peer certificate"),
    ] {
        web.shows(issuer, name, years);
        one("mta_sts_certificate", "error", says).await;
    }
    web.shows(&issuer, HOST, good);
    // Whatever the name leads to, networks that nobody has allowed are not spoken to.
    let before = web.asked.lock().unwrap().len();
    for address in ["127.45.0.1", "10.1.2.3", "169.254.169.254"] {
        dns.remove(HOST);
        dns.a(HOST, address);
        one("mta_sts_private", "unknown", address).await;
    }
    dns.a(HOST, ADDRESS);
    one("mta_sts_ok", "ok", "").await;
    assert_eq!(web.asked.lock().unwrap().len(), before + 1);
    // Nobody listens there.
    dns.remove(HOST);
    dns.a(HOST, "127.44.3.2");
    one("mta_sts_unknown", "unknown", "refused").await;
    node.node.stop().await;
}
