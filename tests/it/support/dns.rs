//! A name server that answers from a table which a test can change while it runs.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, CNAME, MX, PTR, SOA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

type Records = HashMap<(String, RecordType), Vec<RData>>;

pub struct Dns {
    pub address: SocketAddr,
    zone: Zone,
    /// Lives as long as this.
    _server: hickory_server::Server<Zone>,
}

/// Names that it does not hold do not exist; while it fails it says SERVFAIL to everything.
#[derive(Clone, Default)]
struct Zone {
    records: Arc<Mutex<Records>>,
    failing: Arc<Mutex<bool>>,
    /// Names for which it fails.
    sick: Arc<Mutex<HashSet<String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dns {
    pub async fn start() -> Self {
        let zone = Zone::default();
        let (socket, listener) = both_sockets().await;
        let address = socket.local_addr().unwrap();
        let mut server = hickory_server::Server::new(zone.clone());
        server.register_socket(socket);
        server.register_listener(listener, Duration::from_secs(5), 64);
        Self {
            address,
            zone,
            _server: server,
        }
    }

    pub fn mx(&self, domain: &str, preference: u16, host: &str) {
        let host = Name::from_ascii(format!("{host}.")).unwrap();
        self.zone.add(domain, RData::MX(MX::new(preference, host)));
    }

    /// RFC 7505.
    pub fn null_mx(&self, domain: &str) {
        self.zone.add(domain, RData::MX(MX::new(0, Name::root())));
    }

    pub fn a(&self, name: &str, address: &str) {
        self.zone.add(name, RData::A(A(address.parse().unwrap())));
    }

    /// In strings of 255 octets, as a record holds them.
    pub fn txt(&self, name: &str, text: &str) {
        let strings = text.as_bytes().chunks(255);
        let strings = strings.map(|part| String::from_utf8(part.to_vec()).unwrap());
        self.zone.add(name, RData::TXT(TXT::new(strings.collect())));
    }

    pub fn cname(&self, name: &str, target: &str) {
        let target = Name::from_ascii(format!("{target}.")).unwrap();
        self.zone.add(name, RData::CNAME(CNAME(target)));
    }

    /// Where the name of an IPv4 address stands.
    pub fn ptr(&self, address: &str, name: &str) {
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        self.zone.add(&reverse(address), RData::PTR(PTR(name)));
    }

    /// All records of a name.
    pub fn remove(&self, name: &str) {
        let name = format!("{name}.");
        self.zone
            .records
            .lock()
            .unwrap()
            .retain(|(held, _), _| *held != name);
    }

    /// SERVFAIL for this name alone, until it is removed from there.
    pub fn fail_for(&self, name: &str, failing: bool) {
        let mut sick = self.zone.sick.lock().unwrap();
        let name = format!("{name}.");
        match failing {
            true => drop(sick.insert(name)),
            false => drop(sick.remove(&name)),
        }
    }

    /// How often it was asked about names that end so.
    pub fn asked(&self, ending: &str) -> usize {
        let asked = self.zone.asked.lock().unwrap();
        let ending = format!("{ending}.");
        asked.iter().filter(|name| name.ends_with(&ending)).count()
    }

    pub fn fail(&self, failing: bool) {
        *self.zone.failing.lock().unwrap() = failing;
    }
}

impl Zone {
    fn add(&self, name: &str, data: RData) {
        let key = (format!("{name}."), data.record_type());
        self.records
            .lock()
            .unwrap()
            .entry(key)
            .or_default()
            .push(data);
    }

    fn answer(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        self.asked.lock().unwrap().push(name.to_owned());
        if *self.failing.lock().unwrap() || self.sick.lock().unwrap().contains(name) {
            return (ResponseCode::ServFail, Vec::new());
        }
        let records = self.records.lock().unwrap();
        let owner = Name::from_ascii(name).unwrap();
        match records.get(&(name.to_owned(), kind)) {
            Some(data) => {
                let record = |data: &RData| Record::from_rdata(owner.clone(), 300, data.clone());
                (ResponseCode::NoError, data.iter().map(record).collect())
            }
            // As a recursive name server, that far; a chain without end is left to whoever asks.
            None if kind != RecordType::CNAME
                && let Some([alias @ RData::CNAME(target)]) = records
                    .get(&(name.to_owned(), RecordType::CNAME))
                    .map(Vec::as_slice) =>
            {
                let mut answer = vec![Record::from_rdata(owner.clone(), 300, alias.clone())];
                let target = target.0.to_string();
                if let Some(data) = records.get(&(target.clone(), kind)) {
                    let at = Name::from_ascii(target).unwrap();
                    let record = |data: &RData| Record::from_rdata(at.clone(), 300, data.clone());
                    answer.extend(data.iter().map(record));
                }
                (ResponseCode::NoError, answer)
            }
            None if records.keys().any(|(held, _)| held == name) => {
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
            let (code, answers) = self.answer(
                &query.name().to_string().to_ascii_lowercase(),
                query.query_type(),
            );
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.response_code = code;
            metadata.recursion_available = true;
            let root = Name::from_ascii("test.").unwrap();
            let soa = RData::SOA(SOA::new(root.clone(), root.clone(), 1, 60, 60, 60, 60));
            let soa = [Record::from_rdata(root, 60, soa)];
            let soa: &[Record] = if answers.is_empty() { &soa } else { &[] };
            let none: [&Record; 0] = [];
            let builder = MessageResponseBuilder::from_message_request(request);
            response
                .send_response(builder.build(metadata, answers.iter(), none, soa.iter(), none))
                .await
                .unwrap()
        })
    }
}

fn reverse(address: &str) -> String {
    let mut octets: Vec<&str> = address.split('.').collect();
    octets.reverse();
    format!("{}.in-addr.arpa", octets.join("."))
}

/// One port for UDP and TCP: another test may hold the TCP one, then it takes another pair.
async fn both_sockets() -> (tokio::net::UdpSocket, tokio::net::TcpListener) {
    loop {
        let socket = tokio::net::UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        if let Ok(listener) = tokio::net::TcpListener::bind(socket.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
}
