//! A world that answers what the test says: DNS records, and a letter box.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::account::outside::{Answer, Telling};
use crate::account::{KeyNews, Notice, Outside};
use crate::mail::Domain;

#[derive(Default)]
pub(in crate::http) struct FakeOutside {
    texts: Mutex<HashMap<String, String>>,
    aliases: Mutex<HashMap<String, String>>,
    trouble: Mutex<Option<String>>,
    posted: Mutex<Vec<Notice>>,
    told: Mutex<Vec<String>>,
}

impl FakeOutside {
    pub(in crate::http) fn publish(&self, name: &str, text: &str) {
        self.texts.lock().unwrap().insert(name.into(), text.into());
    }

    pub(in crate::http) fn withdraw(&self, name: &str) {
        self.texts.lock().unwrap().remove(name);
    }

    pub(in crate::http) fn alias_to(&self, name: &str, target: &str) {
        let mut aliases = self.aliases.lock().unwrap();
        aliases.insert(name.into(), target.into());
    }

    /// Nothing works any more, for this reason; or it does again.
    pub(in crate::http) fn fail(&self, why: Option<&str>) {
        *self.trouble.lock().unwrap() = why.map(str::to_owned);
    }

    pub(in crate::http) fn posted(&self) -> Vec<Notice> {
        self.posted.lock().unwrap().clone()
    }

    /// What became of keys: `Paused shop.example SELECTOR`.
    pub(in crate::http) fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    fn works(&self) -> Result<(), String> {
        self.trouble.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Outside for FakeOutside {
    fn texts(&self, name: String) -> Answer<'_, Vec<String>> {
        let found = self.texts.lock().unwrap().get(&name).cloned();
        let answer = self.works().map(|()| found.into_iter().collect());
        Box::pin(async move { answer })
    }

    fn alias(&self, name: String) -> Answer<'_, Option<Domain>> {
        let found = self.aliases.lock().unwrap().get(&name).cloned();
        let target = found.map(|target| Domain::parse(&target).unwrap());
        let answer = self.works().map(|()| target);
        Box::pin(async move { answer })
    }

    /// Where a text says so.
    fn spf_permits(&self, domain: String) -> Answer<'_, bool> {
        let found = self.texts.lock().unwrap().get(&domain).cloned();
        let permits = found.is_some_and(|text| text.starts_with("v=spf1"));
        let answer = self.works().map(|()| permits);
        Box::pin(async move { answer })
    }

    fn tell<'a>(&'a self, news: KeyNews<'a>) -> Telling<'a> {
        let told = format!("{:?} {} {}", news.fact, news.domain, news.selector);
        self.told.lock().unwrap().push(told);
        Box::pin(async {})
    }

    fn post(&self, notice: Notice) -> Answer<'_, ()> {
        let answer = self.works();
        if answer.is_ok() {
            self.posted.lock().unwrap().push(notice);
        }
        Box::pin(async move { answer })
    }
}
