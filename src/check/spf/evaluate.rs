//! check_host() of RFC 7208 §4, over a book of answers.

use std::net::IpAddr;

use super::expand::Values;
use super::record::{DomainSpec, Mechanism, Qualifier, SpfRecord};
use crate::check::book::{Book, Said};
use crate::check::names;

/// Who connects, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub ip: IpAddr,
    pub helo: &'a str,
    pub local_part: &'a str,
    /// Of the reverse-path; of a null one, the EHLO name (§2.4).
    pub domain: &'a str,
}

/// §2.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    None,
    Neutral,
    Pass,
    Fail,
    SoftFail,
    TempError,
    PermError,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Neutral => "neutral",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// Why there is no verdict on the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Of *temperror*.
    Dns {
        why: String,
    },
    Several {
        domain: String,
    },
    Syntax {
        domain: String,
        term: String,
    },
    /// A record that is included, or redirected to, is not there.
    NoTarget {
        domain: String,
        target: String,
    },
    Loop {
        domain: String,
    },
    Lookups,
    VoidLookups,
    Exchanges {
        domain: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    /// The term that decided, and whose.
    pub matched: Option<String>,
    pub trouble: Option<Trouble>,
    /// Terms that asked the DNS.
    pub lookups: usize,
}

/// What a record does to whomever it does not know: every term read, and none matching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Terms that ask the DNS; counting stops soon above what is allowed.
    pub lookups: usize,
    /// Answers without records.
    pub voids: usize,
    /// The term that lets every address in.
    pub allows_all: Option<String>,
    /// A term that asks for the client's name (§5.5: not to be used).
    pub ptr: Option<String>,
    /// The record ends without `all` and without `redirect`.
    pub no_end: bool,
}

pub fn evaluate(book: &Book, client: &Client<'_>) -> Verdict {
    let mut run = Run::new(book, client);
    let outcome = run.check_host(client.domain);
    let outcome = outcome.unwrap_or_else(|stop| stop);
    Verdict {
        outcome,
        matched: run.matched,
        trouble: run.trouble,
        lookups: run.lookups,
    }
}

/// `Err`: the record cannot be read to its end, and why.
pub fn survey(book: &Book, client: &Client<'_>) -> Result<Survey, Trouble> {
    let mut run = Run::new(book, client);
    run.survey = Some(Survey::default());
    let _ = run.check_host(client.domain);
    match run.trouble {
        None | Some(Trouble::Lookups) => Ok(Survey {
            lookups: run.lookups,
            voids: run.voids,
            ..run.survey.unwrap_or_default()
        }),
        Some(trouble) => Err(trouble),
    }
}

struct Run<'a> {
    book: &'a Book,
    client: Client<'a>,
    lookups: usize,
    voids: usize,
    /// Domains whose records are being read, outermost first, those that redirected among them.
    stack: Vec<String>,
    /// Includes that are open.
    includes: usize,
    /// Whether all includes on the way here count for *pass*.
    passing: bool,
    matched: Option<String>,
    trouble: Option<Trouble>,
    survey: Option<Survey>,
}

/// `Err`: evaluation ends here, as a whole.
type Step<T> = Result<T, Outcome>;

impl<'a> Run<'a> {
    fn new(book: &'a Book, client: &Client<'a>) -> Self {
        Self {
            book,
            client: Client {
                // §5: an IPv4 address in an IPv6 one is what it is.
                ip: client.ip.to_canonical(),
                ..*client
            },
            lookups: 0,
            voids: 0,
            stack: Vec::new(),
            includes: 0,
            passing: true,
            matched: None,
            trouble: None,
            survey: None,
        }
    }

    fn check_host(&mut self, domain: &str) -> Step<Outcome> {
        // §4.3: what is no domain name, or a single label, has no record.
        let Some(domain) = names::askable(domain).filter(|name| name.contains('.')) else {
            return Ok(Outcome::None);
        };
        if self.stack.contains(&domain) {
            // Whatever brought us here would do so again until the limit is reached.
            return Err(self.permerror(Trouble::Loop { domain }));
        }
        let texts = match self.book.texts(&domain) {
            Said::Values(texts) => texts,
            Said::Nothing | Said::NoSuchName => return Ok(Outcome::None),
            Said::Failed(why) => return Err(self.temperror(why)),
        };
        let mut records = texts.iter().filter(|text| super::is_record(text));
        let Some(text) = records.next() else {
            return Ok(Outcome::None);
        };
        if records.next().is_some() {
            return Err(self.permerror(Trouble::Several { domain }));
        }
        let record = match SpfRecord::parse(text) {
            Ok(record) => record,
            Err(term) => {
                let term = crate::check::shown(term);
                return Err(self.permerror(Trouble::Syntax { domain, term }));
            }
        };
        self.stack.push(domain.clone());
        let outcome = self.read(&record, &domain);
        self.stack.pop();
        outcome
    }

    fn read(&mut self, record: &SpfRecord<'_>, domain: &str) -> Step<Outcome> {
        let mut all = false;
        for term in &record.terms {
            let named = || format!("`{}` of {domain}", crate::check::shown(term.text));
            let positive = term.qualifier == Qualifier::Pass && self.passing;
            if let (Some(survey), true) = (&mut self.survey, positive) {
                let everybody = matches!(
                    term.mechanism,
                    Mechanism::All | Mechanism::Ip4(_, 0) | Mechanism::Ip6(_, 0)
                );
                if everybody && !all {
                    survey.allows_all.get_or_insert_with(named);
                }
            }
            if let (Some(survey), Mechanism::Ptr(_)) = (&mut self.survey, &term.mechanism) {
                survey.ptr.get_or_insert_with(named);
            }
            let outer = std::mem::replace(&mut self.passing, positive);
            let matches = self.matches(&term.mechanism, domain);
            self.passing = outer;
            all |= term.mechanism == Mechanism::All;
            if matches? && self.survey.is_none() {
                self.matched = Some(named());
                return Ok(match term.qualifier {
                    Qualifier::Pass => Outcome::Pass,
                    Qualifier::Fail => Outcome::Fail,
                    Qualifier::SoftFail => Outcome::SoftFail,
                    Qualifier::Neutral => Outcome::Neutral,
                });
            }
        }
        let Some(target) = record.redirect.as_ref().filter(|_| !all) else {
            if let (Some(survey), 0) = (&mut self.survey, self.includes) {
                survey.no_end = !all;
            }
            return Ok(Outcome::Neutral);
        };
        self.count_lookup()?;
        let target = self.expand(target, domain);
        match self.check_host(&target)? {
            // §6.1
            Outcome::None => Err(self.no_target(domain, target)),
            outcome => Ok(outcome),
        }
    }

    fn matches(&mut self, mechanism: &Mechanism<'_>, domain: &str) -> Step<bool> {
        if !matches!(
            mechanism,
            Mechanism::All | Mechanism::Ip4(..) | Mechanism::Ip6(..)
        ) {
            self.count_lookup()?;
        }
        let target = |run: &mut Self, given: &Option<DomainSpec<'_>>| match given {
            Some(given) => run.expand(given, domain),
            None => domain.to_owned(),
        };
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, length) => Ok(self.is_in((*network).into(), *length)),
            Mechanism::Ip6(network, length) => Ok(self.is_in((*network).into(), *length)),
            Mechanism::Include(target) => {
                let target = self.expand(target, domain);
                self.includes += 1;
                let included = self.check_host(&target);
                self.includes -= 1;
                match included? {
                    // §5.2
                    Outcome::None => Err(self.no_target(domain, target)),
                    outcome => Ok(outcome == Outcome::Pass),
                }
            }
            Mechanism::A(given, lengths) => {
                let host = target(self, given);
                let addresses = self.addresses(&host)?;
                Ok(self.is_one_of(&addresses, lengths.v4, lengths.v6))
            }
            Mechanism::Mx(given, lengths) => {
                let owner = target(self, given);
                let exchanges = self.book.exchanges(&owner);
                let exchanges = self.answered(exchanges)?;
                // §4.6.4
                if exchanges.len() > NAMES_MAX {
                    return Err(self.permerror(Trouble::Exchanges { domain: owner }));
                }
                for (_, host) in &exchanges {
                    let _ = self.book.addresses_like(host, self.client.ip);
                }
                for (_, host) in &exchanges {
                    let addresses = self.addresses(host)?;
                    if self.is_one_of(&addresses, lengths.v4, lengths.v6) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Ptr(given) => {
                let parent = target(self, given).to_ascii_lowercase();
                let confirmed = self.confirmed_names();
                Ok(confirmed
                    .iter()
                    .any(|name| names::is_below_or_same(name, &parent)))
            }
            Mechanism::Exists(given) => {
                let name = self.expand(given, domain);
                // §5.7: an A record, whatever the client's family.
                let v4 = IpAddr::from([0, 0, 0, 0]);
                let addresses = self.book.addresses_like(&name, v4);
                Ok(!self.answered(addresses)?.is_empty())
            }
        }
    }

    fn is_in(&self, network: IpAddr, length: u8) -> bool {
        match (self.client.ip, network) {
            (IpAddr::V4(ip), IpAddr::V4(network)) => {
                let host_bits = 32 - u32::from(length);
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                ip.to_bits() & mask == network.to_bits() & mask
            }
            (IpAddr::V6(ip), IpAddr::V6(network)) => {
                let host_bits = 128 - u32::from(length);
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                ip.to_bits() & mask == network.to_bits() & mask
            }
            _ => false,
        }
    }

    fn is_one_of(&self, addresses: &[IpAddr], v4: u8, v6: u8) -> bool {
        addresses.iter().any(|address| {
            let length = if address.is_ipv4() { v4 } else { v6 };
            self.is_in(*address, length)
        })
    }

    fn addresses(&mut self, host: &str) -> Step<Vec<IpAddr>> {
        let addresses = self.book.addresses_like(host, self.client.ip);
        self.answered(addresses)
    }

    /// §4.6.4: answers without records are counted, however they come.
    fn answered<T>(&mut self, said: Said<T>) -> Step<Vec<T>> {
        match said {
            Said::Values(values) => Ok(values),
            Said::Failed(why) => Err(self.temperror(why)),
            Said::Nothing | Said::NoSuchName => {
                self.voids += 1;
                match self.voids > VOIDS_MAX && self.survey.is_none() {
                    true => Err(self.permerror(Trouble::VoidLookups)),
                    false => Ok(Vec::new()),
                }
            }
        }
    }

    /// §4.6.4. A survey goes on a little, so that it can say by how much.
    fn count_lookup(&mut self) -> Step<()> {
        self.lookups += 1;
        let most = match self.survey {
            None => LOOKUPS_MAX,
            Some(_) => 3 * LOOKUPS_MAX,
        };
        match self.lookups > most {
            true => Err(self.permerror(Trouble::Lookups)),
            false => Ok(()),
        }
    }

    /// §5.5: names of the client that lead back to it. One that cannot be looked up is passed over.
    fn confirmed_names(&mut self) -> Vec<String> {
        let ip = self.client.ip;
        let mut names = self.book.pointers(ip).values().unwrap_or_default();
        names.truncate(NAMES_MAX);
        for name in &names {
            let _ = self.book.addresses_like(name, ip);
        }
        names.retain(|name| {
            let addresses = self.book.addresses_like(name, ip).values();
            addresses.is_ok_and(|addresses| addresses.contains(&ip))
        });
        names
    }

    fn expand(&mut self, spec: &DomainSpec<'_>, domain: &str) -> String {
        let mut name = None;
        if spec.names_client() {
            // §7.3: this domain's own name first, then one below it, then any.
            let names = self.confirmed_names();
            let own = names.iter().find(|name| *name == domain);
            let below = || {
                names
                    .iter()
                    .find(|name| names::is_below_or_same(name, domain))
            };
            name = own.or_else(below).or(names.first()).cloned();
        }
        spec.expand(&Values {
            ip: self.client.ip,
            helo: self.client.helo,
            local_part: self.client.local_part,
            sender_domain: self.client.domain,
            domain,
            name: name.as_deref().unwrap_or("unknown"),
        })
    }

    fn no_target(&mut self, domain: &str, target: String) -> Outcome {
        let (domain, target) = (domain.to_owned(), crate::check::shown(&target));
        self.permerror(Trouble::NoTarget { domain, target })
    }

    fn permerror(&mut self, trouble: Trouble) -> Outcome {
        self.trouble = Some(trouble);
        Outcome::PermError
    }

    fn temperror(&mut self, why: String) -> Outcome {
        self.trouble = Some(Trouble::Dns { why });
        Outcome::TempError
    }
}

/// §4.6.4.
const LOOKUPS_MAX: usize = 10;
const VOIDS_MAX: usize = 2;
const NAMES_MAX: usize = 10;
