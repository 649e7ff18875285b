//! What one mail transaction says: the data that the session collects and that `accept` gets.

use std::net::IpAddr;
use std::time::Duration;

use crate::mail::{BodyType, DsnRecipient, DsnReturn, ForwardPath, Hold, ReversePath};

/// The client, as far as the driver knows it.
#[derive(Clone, Debug)]
pub struct Client {
    pub address: IpAddr,
    pub port: u16,
    /// Its address is that of a trusted network: it may send without AUTH.
    pub trusted: bool,
    /// Its address may use XCLIENT.
    pub xclient: bool,
}

/// One mail transaction, complete but for its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub reverse_path: ReversePath,
    pub recipients: Vec<Recipient>,
    /// RFC 1870: what the client says the size is. Not to be trusted.
    pub declared_size: Option<u64>,
    pub body: BodyType,
    pub smtputf8: bool,
    /// RFC 3461 §4.4, in xtext.
    pub envelope_id: Option<String>,
    pub ret: Option<DsnReturn>,
    /// RFC 4865.
    pub hold: Option<Hold>,
    /// RFC 2852, mode R.
    pub deliver_by: Option<Duration>,
}

/// One RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    pub path: ForwardPath,
    pub dsn: DsnRecipient,
}

/// An envelope and how it came: what a `Received` field tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    pub envelope: Envelope,
    pub client_address: IpAddr,
    pub client_port: u16,
    /// Only from XCLIENT; we do not look names up.
    pub client_name: Option<String>,
    pub helo: String,
    /// RFC 3848 and RFC 6531 §4.3.
    pub protocol: &'static str,
    /// Version and cipher suite.
    pub tls: Option<String>,
}

/// What was found in content while it passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentFacts {
    pub octets: u64,
    pub eight_bit: bool,
}
