//! Judgements over a world whose DNS is a table.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use super::*;

/// A DNS. Names that it does not hold do not exist.
#[derive(Default)]
pub(super) struct World {
    records: HashMap<Question, Vec<Record>>,
    failing: Vec<String>,
    asked: RefCell<Vec<Question>>,
}

impl World {
    pub(super) fn txt(&mut self, name: &str, text: &str) {
        self.add(name, Kind::Txt, Record::Text(text.into()));
    }

    pub(super) fn a(&mut self, name: &str, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        let kind = if address.is_ipv4() {
            Kind::A
        } else {
            Kind::Aaaa
        };
        self.add(name, kind, Record::Address(address));
    }

    pub(super) fn mx(&mut self, name: &str, preference: u16, host: &str) {
        self.add(name, Kind::Mx, Record::Exchange(preference, host.into()));
    }

    pub(super) fn cname(&mut self, name: &str, target: &str) {
        self.add(name, Kind::Cname, Record::Name(target.into()));
    }

    pub(super) fn ptr(&mut self, address: &str, name: &str) {
        let owner = names::reverse(address.parse().unwrap());
        self.add(&owner, Kind::Ptr, Record::Name(name.into()));
    }

    pub(super) fn fail(&mut self, name: &str) {
        self.failing.push(name.into());
    }

    fn add(&mut self, name: &str, kind: Kind, record: Record) {
        let name = name.to_owned();
        self.records
            .entry(Question { name, kind })
            .or_default()
            .push(record);
    }

    pub(super) fn asked(&self) -> Vec<Question> {
        self.asked.borrow().clone()
    }

    /// Aliases are followed, as a resolver does.
    fn answer(&self, question: &Question) -> Answer {
        let mut name = question.name.clone();
        for _ in 0..8 {
            if self.failing.contains(&name) {
                return Answer::Failed("SERVFAIL".into());
            }
            let at = |kind| {
                self.records.get(&Question {
                    name: name.clone(),
                    kind,
                })
            };
            if let Some(records) = at(question.kind) {
                return Answer::Found(records.clone());
            }
            match at(Kind::Cname).map(|records| &records[0]) {
                Some(Record::Name(target)) => name = target.clone(),
                _ if self.records.keys().any(|held| held.name == name) => return Answer::Nothing,
                _ => return Answer::NoSuchName,
            }
        }
        Answer::Failed("a chain of aliases without end".into())
    }

    pub(super) fn settle<T>(&self, judge: impl Fn(&Book) -> T) -> T {
        let mut book = Book::default();
        loop {
            match settle(&mut book, &judge) {
                Ok(judged) => return judged,
                Err(missing) => {
                    for question in missing {
                        let answer = self.answer(&question);
                        self.asked.borrow_mut().push(question.clone());
                        book.put(question, answer);
                    }
                }
            }
        }
    }
}
