//! Routes against a name server in process.

use std::collections::HashMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Mutex;

use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use super::*;
use crate::config::{DomainPattern, Host, RouteHost, RouteTarget};

/// Answers from a table; names under `servfail.test` fail and names under `silent.test` get no answer.
#[derive(Default)]
struct Zone {
    records: HashMap<(String, RecordType), Vec<RData>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Zone {
    fn add(&mut self, name: &str, data: RData) {
        let key = (format!("{name}."), data.record_type());
        self.records.entry(key).or_default().push(data);
    }

    fn answer(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        if name.ends_with("servfail.test.") {
            return (ResponseCode::ServFail, Vec::new());
        }
        let alias = (name.to_owned(), RecordType::CNAME);
        let direct = self.records.get(&(name.to_owned(), kind));
        let found = direct.or_else(|| self.records.get(&alias));
        let owner = Name::from_ascii(name).unwrap();
        let ttl = match name {
            _ if name.starts_with("ttl0.") => 0,
            _ if name.starts_with("ttlmax.") => u32::MAX,
            _ => 300,
        };
        let record = |data: &RData| Record::from_rdata(owner.clone(), ttl, data.clone());
        match found {
            Some(data) => (ResponseCode::NoError, data.iter().map(record).collect()),
            None if self.records.keys().any(|(n, _)| n == name) => {
                (ResponseCode::NoError, Vec::new())
            }
            None => (ResponseCode::NXDomain, Vec::new()),
        }
    }
}

impl RequestHandler for Zone {
    fn handle_request<'a, 'b, 'f, R, T>(
        &'a self,
        request: &'b Request,
        mut response: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'f>>
    where
        R: ResponseHandler + 'f,
        T: Time + 'f,
        'a: 'f,
        'b: 'f,
    {
        Box::pin(async move {
            let query = request.request_info().unwrap().query;
            let name = query.name().to_string().to_ascii_lowercase();
            let kind = query.query_type();
            self.asked.lock().unwrap().push(format!("{name} {kind}"));
            let metadata = Metadata::response_from_request(&request.metadata);
            if name.ends_with("silent.test.") {
                return ResponseInfo::from(Header {
                    metadata,
                    counts: HeaderCounts::default(),
                });
            }
            if name.ends_with("lame.test.") {
                // Whoever has it delegated says no, or where else to ask.
                return lame(&name, request, response).await;
            }
            let (code, answers) = self.answer(&name, kind);
            let mut metadata = metadata;
            metadata.response_code = code;
            metadata.recursion_available = true;
            let root = Name::from_ascii("test.").unwrap();
            let soa = RData::SOA(SOA::new(root.clone(), root.clone(), 1, 60, 60, 60, 60));
            let soa = [Record::from_rdata(root, 60, soa)];
            let soa: &[Record] = if answers.is_empty() { &soa } else { &[] };
            let builder = MessageResponseBuilder::from_message_request(request);
            let none: [&Record; 0] = [];
            let message = builder.build(metadata, answers.iter(), none, soa.iter(), none);
            response.send_response(message).await.unwrap()
        })
    }
}

async fn lame<R: ResponseHandler>(name: &str, request: &Request, mut to: R) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    let root = Name::from_ascii("test.").unwrap();
    let elsewhere = RData::NS(NS(Name::from_ascii("ns.elsewhere.test.").unwrap()));
    let referral = [Record::from_rdata(root, 60, elsewhere)];
    let authority: &[Record] = match name.starts_with("refused.") {
        true => {
            metadata.response_code = ResponseCode::Refused;
            &[]
        }
        false => &referral,
    };
    let none: [&Record; 0] = [];
    let builder = MessageResponseBuilder::from_message_request(request);
    let message = builder.build(metadata, none, authority.iter(), none, none);
    to.send_response(message).await.unwrap()
}

struct Dns {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    /// Keeps the server alive.
    _server: hickory_server::Server<Zone>,
}

fn a(text: &str) -> RData {
    RData::A(A(text.parse().unwrap()))
}

fn alias(to: &str) -> RData {
    RData::CNAME(CNAME(Name::from_ascii(format!("{to}.")).unwrap()))
}

fn aaaa(text: &str) -> RData {
    RData::AAAA(AAAA(text.parse().unwrap()))
}

fn mx(preference: u16, name: &str) -> RData {
    RData::MX(MX::new(preference, Name::from_ascii(name).unwrap()))
}

/// One port for UDP and TCP: another test may hold the TCP one, then it takes another pair.
async fn both_sockets() -> (tokio::net::UdpSocket, tokio::net::TcpListener) {
    loop {
        let any = (Ipv4Addr::LOCALHOST, 0);
        let socket = tokio::net::UdpSocket::bind(any).await.unwrap();
        if let Ok(listener) = tokio::net::TcpListener::bind(socket.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
}

async fn serve(records: &[(&str, RData)]) -> Dns {
    let mut zone = Zone::default();
    for (name, data) in records {
        zone.add(name, data.clone());
    }
    let asked = Arc::clone(&zone.asked);
    let (socket, listener) = both_sockets().await;
    let address = socket.local_addr().unwrap();
    let mut server = hickory_server::Server::new(zone);
    server.register_socket(socket);
    server.register_listener(listener, Duration::from_secs(5), 64);
    Dns {
        address,
        asked,
        _server: server,
    }
}

fn settings(dns: &Dns) -> Settings {
    Settings {
        own_names: vec![Domain::parse("mta1.test").unwrap()],
        own_sockets: Vec::new(),
        port: 25,
        allow_networks: Vec::new(),
        routes: Vec::new(),
        sink: None,
        dns_servers: vec![dns.address],
        v4: true,
        v6: true,
        clock: Clock::start(),
    }
}

async fn resolve(settings: Settings, domain: &str) -> String {
    let router = Router::new(settings).unwrap();
    shown(&router.resolve(&Domain::parse(domain).unwrap()).await)
}

fn shown(route: &Route) -> String {
    match route {
        Route::Hosts {
            site_key, hosts, ..
        } => {
            let hosts = hosts.iter().map(|h| {
                let addresses: Vec<String> = h.addresses.iter().map(ToString::to_string).collect();
                format!(
                    "{} {}:{} {}",
                    h.preference,
                    h.name,
                    h.port,
                    addresses.join("+")
                )
            });
            let hosts: Vec<String> = hosts.collect();
            format!("site {site_key}: {}", hosts.join("; "))
        }
        Route::Defer { cause } => format!("defer {}: {}", cause.class.as_str(), cause.detail),
        Route::Bounce { cause } => format!("bounce {}: {}", cause.class.as_str(), cause.detail),
    }
}

async fn check(records: &[(&str, RData)], domain: &str, expected: &str) {
    let dns = serve(records).await;
    assert_eq!(resolve(settings(&dns), domain).await, expected);
}

#[tokio::test]
async fn mail_goes_to_the_mx_hosts_by_preference_at_all_their_addresses() {
    check(
        &[
            ("to.test", mx(20, "B.mx.test.")),
            ("to.test", mx(10, "a.mx.test.")),
            ("a.mx.test", a("192.0.2.1")),
            ("a.mx.test", aaaa("2001:db8::1")),
            ("b.mx.test", a("192.0.2.2")),
        ],
        "to.test",
        "site a.mx.test,b.mx.test: 10 a.mx.test:25 2001:db8::1+192.0.2.1; 20 b.mx.test:25 192.0.2.2",
    )
    .await;
}

#[tokio::test]
async fn without_mx_the_domain_itself_is_the_host() {
    check(
        &[("to.test", a("192.0.2.1"))],
        "to.test",
        "site to.test: 0 to.test:25 192.0.2.1",
    )
    .await;
}

#[tokio::test]
async fn an_alias_is_followed() {
    check(
        &[
            (
                "to.test",
                RData::CNAME(CNAME(Name::from_ascii("real.test.").unwrap())),
            ),
            ("real.test", mx(10, "a.mx.test.")),
            ("a.mx.test", a("192.0.2.1")),
        ],
        "to.test",
        "site a.mx.test: 10 a.mx.test:25 192.0.2.1",
    )
    .await;
}

#[tokio::test]
async fn aliases_that_do_not_end_are_a_deferral_that_says_so() {
    let names: Vec<String> = (0..50).map(|i| format!("n{i}.test")).collect();
    let records: Vec<(&str, RData)> = names
        .windows(2)
        .map(|pair| (pair[0].as_str(), alias(&pair[1])))
        .chain([
            ("a.circle.test", alias("b.circle.test")),
            ("b.circle.test", alias("a.circle.test")),
            ("self.test", alias("self.test")),
            ("mx-circle.test", mx(10, "a.circle.test.")),
            ("n49.test", mx(10, "a.mx.test.")),
            ("a.mx.test", a("192.0.2.1")),
        ])
        .collect();
    let dns = serve(&records).await;
    for (domain, words) in [
        (
            "n0.test",
            "the alias n0.test leads on to more than 8 others",
        ),
        ("a.circle.test", "in a circle, by way of a.circle.test"),
        ("self.test", "in a circle, by way of self.test"),
        (
            "mx-circle.test",
            "the alias a.circle.test leads in a circle",
        ),
    ] {
        let found = resolve(settings(&dns), domain).await;
        assert!(found.starts_with("defer dns: 4.4.3 "), "{found}");
        assert!(found.contains(words), "{found}");
    }
    // As far as it is followed it leads somewhere.
    let found = resolve(settings(&dns), "n43.test").await;
    assert_eq!(found, "site a.mx.test: 10 a.mx.test:25 192.0.2.1");
}

#[tokio::test]
async fn a_dead_domain_bounces_with_the_dns_word_for_it() {
    check(
        &[],
        "to.test",
        "bounce domain-unknown: 5.1.2 the domain to.test does not exist",
    )
    .await;
    check(
        &[("to.test", mx(0, "."))],
        "to.test",
        "bounce domain-no-mail: 5.1.10 to.test has a null MX: it takes no mail",
    )
    .await;
    check(
        &[("to.test", mx(0, "gone.test."))],
        "to.test",
        "bounce dns: 5.4.4 no mail host of to.test can be reached: gone.test does not exist",
    )
    .await;
    check(
        &[("to.test", mx(10, "mta1.test.")), ("to.test", mx(20, "b.test."))],
        "to.test",
        "bounce routing-loop: 5.4.6 mail for to.test would come back to this host: its best MX is us",
    )
    .await;
}

#[tokio::test]
async fn a_dns_that_fails_is_never_the_domains_fault() {
    let dns = serve(&[("half.test", mx(10, "mx.servfail.test."))]).await;
    for domain in ["servfail.test", "half.test"] {
        let found = resolve(settings(&dns), domain).await;
        assert!(found.starts_with("defer dns: 4.4.3 "), "{found}");
    }
}

#[tokio::test]
async fn a_look_up_that_fails_is_shared_by_all_who_ask_at_that_time() {
    let dns = serve(&[]).await;
    let router = Arc::new(Router::new(settings(&dns)).unwrap());
    let domain = Domain::parse("servfail.test").unwrap();
    let asked_by = |count: usize| {
        let (router, domain) = (Arc::clone(&router), domain.clone());
        async move {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..count {
                let (router, domain) = (Arc::clone(&router), domain.clone());
                all.spawn(async move { shown(&router.resolve(&domain).await) });
            }
            all.join_all().await
        }
    };
    let first = asked_by(1).await;
    assert!(first[0].starts_with("defer dns: 4.4.3 "), "{first:?}");
    let once = dns.asked.lock().unwrap().len();
    let rest = asked_by(50).await;
    assert!(rest.iter().all(|answer| *answer == first[0]), "{rest:?}");
    let other = Router::new(settings(&dns)).unwrap();
    let before = dns.asked.lock().unwrap().len();
    assert_eq!(before, once, "nobody asked again");
    other.resolve(&domain).await;
    assert_eq!(dns.asked.lock().unwrap().len(), 2 * once);
}

#[tokio::test]
async fn one_host_that_cannot_be_looked_up_does_not_hide_the_others() {
    check(
        &[
            ("to.test", mx(10, "mx.servfail.test.")),
            ("to.test", mx(20, "b.test.")),
            ("b.test", a("192.0.2.2")),
        ],
        "to.test",
        "site b.test,mx.servfail.test: 20 b.test:25 192.0.2.2",
    )
    .await;
}

#[tokio::test]
async fn dns_does_not_lead_into_private_networks_unless_allowed() {
    let records = [
        ("to.test", mx(10, "a.test.")),
        ("a.test", a("10.1.2.3")),
        ("a.test", aaaa("::1")),
        ("lit.test", a("127.0.0.1")),
    ];
    let dns = serve(&records).await;
    let refused = "bounce dns: 5.4.4 to.test leads to where DNS may not lead: a.test has the private address ::1";
    assert_eq!(resolve(settings(&dns), "to.test").await, refused);
    let found = resolve(settings(&dns), "[127.0.0.1]").await;
    assert_eq!(found, "bounce dns: 5.4.4 [127.0.0.1] is a private address");

    let mut allowed = settings(&dns);
    allowed.allow_networks = vec!["10.0.0.0/8".parse().unwrap()];
    let found = resolve(allowed, "to.test").await;
    assert_eq!(found, "site a.test: 10 a.test:25 10.1.2.3");
}

#[tokio::test]
async fn an_address_literal_is_its_own_host() {
    let dns = serve(&[]).await;
    let found = resolve(settings(&dns), "[192.0.2.7]").await;
    assert_eq!(found, "site [192.0.2.7]: 0 192.0.2.7:25 192.0.2.7");
    let found = resolve(settings(&dns), "[IPv6:2001:db8::7]").await;
    assert_eq!(
        found,
        "site [ipv6:2001:db8::7]: 0 2001:db8::7:25 2001:db8::7"
    );
}

#[tokio::test]
async fn the_first_configured_route_that_matches_wins_and_may_be_private() {
    let dns = serve(&[("smart.test", a("127.0.0.9"))]).await;
    let domain = |text| Domain::parse(text).unwrap();
    let to = |host: Host, port| RouteTarget::Hosts(vec![RouteHost { host, port }]);
    let mut routed = settings(&dns);
    routed.sink = Some("127.0.0.1:4025".parse().unwrap());
    routed.routes = vec![
        config::Route {
            pattern: DomainPattern::Exact(domain("one.test")),
            target: to(Host::Address("127.0.0.1".parse().unwrap()), 2526),
        },
        config::Route {
            pattern: DomainPattern::Below(domain("two.test")),
            target: to(Host::Name(domain("smart.test")), 25),
        },
        config::Route {
            pattern: DomainPattern::Exact(domain("three.test")),
            target: to(Host::Name(domain("nowhere.test")), 25),
        },
        config::Route {
            pattern: DomainPattern::Any,
            target: RouteTarget::Sink,
        },
    ];
    for (name, expected) in [
        (
            "one.test",
            "site 127.0.0.1:2526: 0 127.0.0.1:2526 127.0.0.1",
        ),
        ("a.two.test", "site smart.test: 0 smart.test:25 127.0.0.9"),
        (
            "three.test",
            "defer dns: the configured route cannot be followed: nowhere.test has no address",
        ),
        (
            "two.test",
            "site built-in sink: 0 built-in sink:4025 127.0.0.1",
        ),
    ] {
        assert_eq!(resolve(routed.clone(), name).await, expected);
    }
}

#[tokio::test]
async fn answers_are_asked_for_once() {
    let dns = serve(&[("to.test", mx(10, "a.test.")), ("a.test", a("192.0.2.1"))]).await;
    let router = Router::new(settings(&dns)).unwrap();
    for name in ["to.test", "gone.test"] {
        let domain = Domain::parse(name).unwrap();
        router.resolve(&domain).await;
        let before = dns.asked.lock().unwrap().len();
        router.resolve(&domain).await;
        let asked = dns.asked.lock().unwrap().clone();
        assert_eq!(asked.len(), before, "{asked:?}");
    }
}

#[tokio::test]
async fn families_that_no_source_has_are_not_asked_for() {
    let dns = serve(&[
        ("to.test", mx(10, "a.test.")),
        ("a.test", a("192.0.2.1")),
        ("a.test", aaaa("2001:db8::1")),
    ])
    .await;
    let mut four = settings(&dns);
    four.v6 = false;
    let found = resolve(four, "to.test").await;
    assert_eq!(found, "site a.test: 10 a.test:25 192.0.2.1");
    let asked = dns.asked.lock().unwrap().clone();
    assert_eq!(asked, ["to.test. MX", "a.test. A"]);
}

#[tokio::test]
async fn more_than_fifty_mx_records_are_refused() {
    let names: Vec<String> = (0..51).map(|i| format!("mx{i}.test.")).collect();
    let records: Vec<(&str, RData)> = names.iter().map(|n| ("to.test", mx(1, n))).collect();
    check(
        &records,
        "to.test",
        "defer dns: 4.4.3 the mail hosts of to.test cannot be looked up: more than 50 MX records",
    )
    .await;
}

#[tokio::test]
async fn an_exchange_that_is_no_host_does_not_hide_the_others_and_is_named_when_there_are_none() {
    let with = |more: &'static str| {
        vec![
            ("to.test", mx(5, "192.0.2.9.")),
            ("to.test", mx(10, "gone.test.")),
            ("to.test", mx(0, ".")),
            ("empty.test", mx(0, "nowhere.test.")),
            ("to.test", mx(15, "empty.test.")),
            ("more.test", a("192.0.2.1")),
            ("to.test", mx(20, more)),
        ]
    };
    check(
        &with("more.test."),
        "to.test",
        "site 192.0.2.9,empty.test,gone.test,more.test: 20 more.test:25 192.0.2.1",
    )
    .await;
    check(
        &with("192.0.2.7."),
        "to.test",
        "bounce dns: 5.4.4 no mail host of to.test can be reached: 192.0.2.9 is an address and no name, gone.test does not exist, empty.test has no address",
    )
    .await;
}

#[tokio::test]
async fn a_private_address_beside_others_is_left_out() {
    check(
        &[
            ("to.test", mx(5, "inside.test.")),
            ("inside.test", a("127.0.0.1")),
            ("to.test", mx(10, "both.test.")),
            ("both.test", a("10.1.2.3")),
            ("both.test", a("192.0.2.1")),
        ],
        "to.test",
        "site both.test,inside.test: 10 both.test:25 192.0.2.1",
    )
    .await;
}

#[tokio::test]
async fn a_host_where_this_node_takes_mail_is_us_by_whatever_name() {
    let dns = serve(&[
        ("to.test", mx(10, "better.test.")),
        ("better.test", a("192.0.2.1")),
        ("to.test", mx(20, "disguised.test.")),
        ("disguised.test", a("127.0.0.1")),
        ("to.test", mx(30, "worse.test.")),
        ("worse.test", a("192.0.2.3")),
        ("back.test", mx(20, "disguised.test.")),
        ("back.test", mx(20, "equal.test.")),
        ("equal.test", a("192.0.2.4")),
    ])
    .await;
    let looping = "bounce routing-loop: 5.4.6 mail for back.test would come back to this host: its best MX disguised.test [127.0.0.1] is us";
    for own in ["127.0.0.1:25", "0.0.0.0:25"] {
        let mut ours = settings(&dns);
        ours.own_sockets = vec![own.parse().unwrap()];
        ours.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
        let found = resolve(ours.clone(), "to.test").await;
        assert_eq!(
            found,
            "site better.test,disguised.test,worse.test: 10 better.test:25 192.0.2.1"
        );
        assert_eq!(resolve(ours.clone(), "back.test").await, looping);
        // Another port there is another server.
        ours.port = 2525;
        let found = resolve(ours, "back.test").await;
        assert!(found.starts_with("site "), "{found}");
    }
}

#[tokio::test]
async fn a_host_in_a_family_that_no_source_has_is_a_deferral_that_says_so() {
    let dns = serve(&[
        ("to.test", mx(10, "six.test.")),
        ("six.test", aaaa("2001:db8::1")),
    ])
    .await;
    let mut four = settings(&dns);
    four.v6 = false;
    let found = resolve(four, "to.test").await;
    assert_eq!(
        found,
        "defer dns: 4.4.3 the mail hosts of to.test cannot be looked up: six.test has IPv6 addresses only, and no egress source has one"
    );
    let found = resolve(settings(&dns), "to.test").await;
    assert_eq!(found, "site six.test: 10 six.test:25 2001:db8::1");
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_comes_by_tcp_and_one_too_long_for_that_is_a_deferral() {
    let label = "x".repeat(60);
    let host = |i: usize| format!("mx{i}.{label}.{label}.test");
    for (count, expected) in [(50, "site "), (2_000, "defer dns: 4.4.3 ")] {
        let names: Vec<String> = (0..count).map(host).collect();
        let records = names.iter().flat_map(|name| {
            let exchange = ("to.test", mx(1, &format!("{name}.")));
            [exchange, (name.as_str(), a("192.0.2.1"))]
        });
        let dns = serve(&records.collect::<Vec<_>>()).await;
        let found = resolve(settings(&dns), "to.test").await;
        assert!(found.starts_with(expected), "{count}: {found}");
    }
}

#[tokio::test]
async fn a_name_server_that_is_not_in_charge_makes_mail_wait() {
    let dns = serve(&[]).await;
    for (domain, words) in [
        ("refused.lame.test", "Refused"),
        ("refers.lame.test", "refers to others"),
    ] {
        let found = resolve(settings(&dns), domain).await;
        assert!(found.starts_with("defer dns: 4.4.3 "), "{found}");
        assert!(found.contains(words), "{found}");
    }
}

#[tokio::test]
async fn a_route_is_believed_for_a_minute_at_least_and_an_hour_at_most() {
    let dns = serve(&[
        ("ttl0.test", mx(10, "ttl0.mx.test.")),
        ("ttl0.mx.test", a("192.0.2.1")),
        ("ttlmax.test", mx(10, "ttlmax.mx.test.")),
        ("ttlmax.mx.test", a("192.0.2.1")),
    ])
    .await;
    let router = Router::new(settings(&dns)).unwrap();
    for (domain, expected) in [
        ("ttl0.test", limits::ROUTE_TTL_MIN),
        ("ttlmax.test", limits::ROUTE_TTL_MAX),
    ] {
        let route = router.resolve(&Domain::parse(domain).unwrap()).await;
        let Route::Hosts { valid_for, .. } = route else {
            panic!("{route:?}")
        };
        assert_eq!(valid_for, expected, "{domain}");
    }
}

#[tokio::test]
async fn a_name_server_that_says_nothing_is_noticed_before_the_look_up_fails() {
    let dns = serve(&[("to.test", a("192.0.2.1"))]).await;
    let router = Arc::new(Router::new(settings(&dns)).unwrap());
    assert_eq!(router.silence(), None);
    let asking = Arc::clone(&router);
    let silent = Domain::parse("silent.test").unwrap();
    let mut asked = tokio::spawn(async move { asking.resolve(&silent).await });
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let noticed = async {
        while router.silence().is_none() {
            looks.tick().await;
        }
    };
    tokio::select! {
        () = noticed => {}
        route = &mut asked => panic!("{route:?}"),
    }
    assert!(router.name_servers().contains(&dns.address.to_string()));
    let route = asked.await.unwrap();
    assert!(shown(&route).starts_with("defer dns: 4.4.3 "), "{route:?}");
    // Any answer to anybody is a sign of life.
    router.resolve(&Domain::parse("to.test").unwrap()).await;
    assert_eq!(router.silence(), None);
}
