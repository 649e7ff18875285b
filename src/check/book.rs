//! Questions for the DNS, and the answers that are known.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::limits;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Txt,
    A,
    Aaaa,
    Mx,
    Cname,
    Ptr,
    /// The policy file of MTA-STS that the host of this name serves.
    Policy,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Txt => "TXT",
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Mx => "MX",
            Self::Cname => "CNAME",
            Self::Ptr => "PTR",
            Self::Policy => "HTTPS",
        }
    }
}

/// The name in lower case, without a dot at its end, and such as can be in the DNS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    pub name: String,
    pub kind: Kind,
}

/// One record's data. Names are in lower case and without a dot at their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Its strings put together.
    Text(String),
    Address(IpAddr),
    Exchange(u16, String),
    /// Of CNAME and PTR.
    Name(String),
    Policy(Fetched),
}

/// What a web server answered to the question for a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    File {
        /// Empty: it has none.
        content_type: String,
        text: String,
    },
    /// Longer than [`limits::POLICY_BYTES_MAX`].
    TooLong,
    /// Anything but 200.
    Status { code: u16, location: Option<String> },
    /// Its certificate does not do, and why.
    Untrusted(String),
    /// It was not asked: the DNS leads to an address that is not the world's.
    Private(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At least one, at most [`limits::CHECK_RECORDS_MAX`], all of the kind that was asked for.
    Found(Vec<Record>),
    /// The name exists, without such records.
    Nothing,
    NoSuchName,
    /// No usable answer, and why.
    Failed(String),
}

/// What the DNS is known to say, and what has been asked in vain.
#[derive(Debug, Default)]
pub struct Book {
    answers: HashMap<Question, Answer>,
    missing: RefCell<BTreeSet<Question>>,
}

/// [`Answer`], as a judge reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<T> {
    /// Never empty.
    Values(Vec<T>),
    Nothing,
    NoSuchName,
    Failed(String),
}

impl<T> Said<T> {
    /// `Err`: no usable answer.
    pub(super) fn values(self) -> Result<Vec<T>, String> {
        match self {
            Self::Values(values) => Ok(values),
            Self::Nothing | Self::NoSuchName => Ok(Vec::new()),
            Self::Failed(why) => Err(why),
        }
    }
}

impl Book {
    /// What was asked in vain since the last time.
    pub fn take_missing(&mut self) -> Vec<Question> {
        self.missing.take().into_iter().collect()
    }

    pub fn put(&mut self, question: Question, answer: Answer) {
        self.answers.insert(question, answer);
    }

    pub fn has(&self, question: &Question) -> bool {
        self.answers.contains_key(question)
    }

    pub fn len(&self) -> usize {
        self.answers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Notes a question that is going to be asked, so that it goes out with those before it.
    pub(super) fn expect(&self, name: &str, kind: Kind) {
        let _: Said<()> = self.ask(name, kind, |_| None);
    }

    pub(super) fn texts(&self, name: &str) -> Said<String> {
        self.ask(name, Kind::Txt, |record| match record {
            Record::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    pub(super) fn alias(&self, name: &str) -> Said<String> {
        self.ask(name, Kind::Cname, name_of)
    }

    pub(super) fn exchanges(&self, name: &str) -> Said<(u16, String)> {
        self.ask(name, Kind::Mx, |record| match record {
            Record::Exchange(preference, host) => Some((*preference, host.clone())),
            _ => None,
        })
    }

    /// Of the family of `like`.
    pub(super) fn addresses_like(&self, name: &str, like: IpAddr) -> Said<IpAddr> {
        let kind = match like {
            IpAddr::V4(_) => Kind::A,
            IpAddr::V6(_) => Kind::Aaaa,
        };
        self.ask(name, kind, address_of)
    }

    /// Of both families.
    pub(super) fn addresses(&self, name: &str) -> Said<IpAddr> {
        let (four, six) = (
            self.ask(name, Kind::A, address_of),
            self.ask(name, Kind::Aaaa, address_of),
        );
        match (four, six) {
            (Said::Values(mut values), Said::Values(more)) => {
                values.extend(more);
                Said::Values(values)
            }
            (Said::Values(values), _) | (_, Said::Values(values)) => Said::Values(values),
            (Said::Failed(why), _) | (_, Said::Failed(why)) => Said::Failed(why),
            (Said::NoSuchName, _) | (_, Said::NoSuchName) => Said::NoSuchName,
            (Said::Nothing, Said::Nothing) => Said::Nothing,
        }
    }

    pub(super) fn pointers(&self, address: IpAddr) -> Said<String> {
        self.ask(&super::names::reverse(address), Kind::Ptr, name_of)
    }

    pub(super) fn policy_file(&self, host: &str) -> Result<Fetched, String> {
        let said = self.ask(host, Kind::Policy, |record| match record {
            Record::Policy(fetched) => Some(fetched.clone()),
            _ => None,
        });
        let first = said.values()?.into_iter().next();
        first.ok_or_else(|| "nothing was asked".to_owned())
    }

    fn ask<T>(&self, name: &str, kind: Kind, take: impl Fn(&Record) -> Option<T>) -> Said<T> {
        let Some(name) = super::names::askable(name) else {
            return Said::NoSuchName;
        };
        let question = Question { name, kind };
        match self.answers.get(&question) {
            Some(Answer::Found(records)) => {
                let values: Vec<T> = records.iter().filter_map(take).collect();
                match values.is_empty() {
                    true => Said::Nothing,
                    false => Said::Values(values),
                }
            }
            Some(Answer::Nothing) => Said::Nothing,
            Some(Answer::NoSuchName) => Said::NoSuchName,
            Some(Answer::Failed(why)) => Said::Failed(why.clone()),
            None => {
                self.missing.borrow_mut().insert(question);
                Said::Failed("not asked yet".into())
            }
        }
    }
}

fn name_of(record: &Record) -> Option<String> {
    match record {
        Record::Name(name) => Some(name.clone()),
        _ => None,
    }
}

fn address_of(record: &Record) -> Option<IpAddr> {
    match record {
        Record::Address(address) => Some(*address),
        _ => None,
    }
}

/// One step towards a judgement: it, or what has to be asked first. Past [`limits::CHECK_QUESTIONS_MAX`] answers what is
/// missing counts as failed, so that an end always comes.
pub fn settle<T>(book: &mut Book, judge: impl Fn(&Book) -> T) -> Result<T, Vec<Question>> {
    loop {
        let judged = judge(book);
        let missing = book.take_missing();
        if missing.is_empty() {
            return Ok(judged);
        }
        if book.len() + missing.len() <= limits::CHECK_QUESTIONS_MAX {
            return Err(missing);
        }
        for question in missing {
            let why = format!("more than {} questions", limits::CHECK_QUESTIONS_MAX);
            book.put(question, Answer::Failed(why));
        }
    }
}
