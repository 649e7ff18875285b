//! What a domain's owner has published: the records that prove something to us.
//!
//! Deliberately without a cache: who has just published a record and asks again is not told what was before. The name
//! servers are those of delivery.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::mx::{Lookup, host_name, query, query_name};
use super::{RouterError, resolver};
use crate::check::{Answer, Kind, Question, Record};
use crate::limits;
use crate::mail::Domain;

/// Asks for proofs. Cheap to share.
pub struct Records {
    resolver: TokioResolver,
}

impl Records {
    /// `dns_servers` empty: the system's.
    pub fn new(dns_servers: &[SocketAddr]) -> Result<Self, RouterError> {
        let resolver = resolver(dns_servers, 0)?;
        Ok(Self { resolver })
    }

    /// The TXT records of a name, the strings of each put together (RFC 6376 §3.6.2.2). `Err`: no answer, in a sentence.
    pub async fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let found = self.ask(name, RecordType::TXT, |data| match data {
            RData::TXT(text) => Some(text_of(text)),
            _ => None,
        });
        found.await
    }

    /// Where a name's CNAME leads, if it has one.
    pub async fn alias(&self, name: &str) -> Result<Option<Domain>, String> {
        let found = self.ask(name, RecordType::CNAME, |data| match data {
            RData::CNAME(target) => Domain::parse(&host_name(&target.0)).ok(),
            _ => None,
        });
        Ok(found.await?.into_iter().next())
    }

    /// Every address of a name. `Err`: there is none, or no answer, in a sentence.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let v4 = self.ask(name, RecordType::A, |data| match data {
            RData::A(a) => Some(IpAddr::from(a.0)),
            _ => None,
        });
        let v6 = self.ask(name, RecordType::AAAA, |data| match data {
            RData::AAAA(a) => Some(IpAddr::from(a.0)),
            _ => None,
        });
        let mut found = Vec::new();
        let (v4, v6) = tokio::join!(v4, v6);
        for answer in [&v4, &v6] {
            found.extend(answer.iter().flatten());
        }
        match (found.is_empty(), v4.and(v6)) {
            (false, _) => Ok(found),
            (true, Ok(_)) => Err(format!("{name} has no address")),
            (true, Err(why)) => Err(format!("{name} cannot be looked up: {why}")),
        }
    }

    /// One question of a check.
    pub async fn look_up(&self, question: &Question) -> Answer {
        let kind = match question.kind {
            Kind::Txt => RecordType::TXT,
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Mx => RecordType::MX,
            Kind::Cname => RecordType::CNAME,
            Kind::Ptr => RecordType::PTR,
            // No question for the DNS: [`super::PolicyFiles`] has the answer.
            Kind::Policy => return Answer::Nothing,
        };
        // Label by label: SPF macros write names that no host has, with any character in them.
        let labels = question.name.split('.').map(str::as_bytes);
        let Ok(mut name) = Name::from_labels(labels) else {
            return Answer::NoSuchName;
        };
        name.set_fqdn(true);
        let answer = query_name(
            &self.resolver,
            name,
            kind,
            record_of,
            limits::CHECK_RECORDS_MAX,
        );
        match tokio::time::timeout(limits::DNS_PROOF, answer).await {
            Ok(Lookup::Found { values, .. }) => Answer::Found(values),
            Ok(Lookup::Nothing) => Answer::Nothing,
            Ok(Lookup::NoSuchName) => Answer::NoSuchName,
            Ok(Lookup::Failed(why)) => Answer::Failed(why),
            Err(_) => Answer::Failed(too_late()),
        }
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        take: impl Fn(&RData) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        let answer = query(&self.resolver, name, kind, take);
        let answer = tokio::time::timeout(limits::DNS_PROOF, answer).await;
        match answer {
            Ok(Lookup::Found { values, .. }) => Ok(values),
            Ok(Lookup::Nothing | Lookup::NoSuchName) => Ok(Vec::new()),
            Ok(Lookup::Failed(why)) => Err(why),
            Err(_) => Err(too_late()),
        }
    }
}

fn too_late() -> String {
    format!("no answer within {} seconds", limits::DNS_PROOF.as_secs())
}

fn record_of(data: &RData) -> Option<Record> {
    Some(match data {
        RData::TXT(text) => Record::Text(text_of(text)),
        RData::A(a) => Record::Address(a.0.into()),
        RData::AAAA(a) => Record::Address(a.0.into()),
        // RFC 7505: the root, as no name.
        RData::MX(mx) if mx.exchange.is_root() => Record::Exchange(mx.preference, String::new()),
        RData::MX(mx) => Record::Exchange(mx.preference, host_name(&mx.exchange)),
        RData::CNAME(target) => Record::Name(host_name(&target.0)),
        RData::PTR(target) => Record::Name(host_name(&target.0)),
        _ => return None,
    })
}

fn text_of(text: &TXT) -> String {
    String::from_utf8_lossy(&text.txt_data.concat()).into_owned()
}
