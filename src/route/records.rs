//! What a domain's owner has published: the records that prove something to us.
//!
//! Deliberately without a cache: who has just published a record and asks again is not told what was before. The name
//! servers are those of delivery.

use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::mx::{Lookup, host_name, query};
use super::{RouterError, resolver};
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
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
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
            Err(_) => Err(format!(
                "no answer within {} seconds",
                limits::DNS_PROOF.as_secs()
            )),
        }
    }
}
