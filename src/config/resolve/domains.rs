//! `[[domain]]` and `[dkim]`: what may stand in From, and what signs. Key files are read later, by who signs.

use std::collections::HashMap;

use super::Context;
use super::listeners::on_line;
use crate::config::raw::{RawConfig, RawDkim};
use crate::config::source::{At, Located};
use crate::config::{DeclaredDomain, KeyFile, PlatformKeys, Signing};
use crate::mail::{Domain, is_selector};

impl Context<'_> {
    pub(super) fn domains(&mut self, raw: &RawConfig) -> Vec<DeclaredDomain> {
        let mut seen: HashMap<Domain, At> = HashMap::new();
        let mut domains = Vec::new();
        for raw in raw.domain.as_deref().unwrap_or_default() {
            let dkim = self.key_files(raw.dkim.as_deref().unwrap_or_default());
            let Some(name) = self.required(&raw.name, &raw.at, "name") else {
                continue;
            };
            let Some(domain) = self.domain_name(name) else {
                continue;
            };
            if let Some(first) = seen.insert(domain.clone(), name.at.clone()) {
                self.problem(
                    &name.at,
                    format!(
                        "the domain `{domain}` is already declared{}",
                        on_line(&first)
                    ),
                );
            }
            domains.push(DeclaredDomain { name: domain, dkim });
        }
        domains
    }

    pub(super) fn signing(&mut self, raw: &RawConfig) -> Signing {
        let section = &raw.dkim;
        let keys = self.key_files(section.keys.as_deref().unwrap_or_default());
        let domain = section.domain.as_ref();
        let domain = domain.and_then(|name| self.domain_name(name));
        if section.domain.is_some() && section.keys.as_ref().is_none_or(|keys| keys.is_empty()) {
            self.problem(
                &section.at.child("domain"),
                "signs nothing without keys: keys = [{ selector = \"ph1\", key_file = \"FILE\" }]",
            );
        }
        if section.domain.is_none() && !keys.is_empty() {
            let advice = "sign in the name of a domain: domain = \"mail.example.com\"";
            self.problem(&section.at.child("keys"), advice);
        }
        Signing {
            ed25519: section.ed25519.as_ref().is_some_and(|asked| asked.value),
            platform: domain
                .filter(|_| !keys.is_empty())
                .map(|domain| PlatformKeys { domain, keys }),
        }
    }

    fn domain_name(&mut self, name: &Located<String>) -> Option<Domain> {
        match Domain::parse(name) {
            Ok(domain) if domain.literal().is_none() => Some(domain),
            _ => {
                let problem = format!("`{}` is no domain; write it as example.com", name.value);
                self.problem(&name.at, problem);
                None
            }
        }
    }

    fn key_files(&mut self, raw: &[Located<RawDkim>]) -> Vec<KeyFile> {
        let mut seen: HashMap<String, At> = HashMap::new();
        let mut files = Vec::new();
        for key in raw {
            let selector = self.required(&key.selector, &key.at, "selector").cloned();
            let file = self.required(&key.key_file, &key.at, "key_file").cloned();
            let (Some(selector), Some(file)) = (selector, file) else {
                continue;
            };
            if !is_selector(&selector) {
                let problem = format!("`{}` is no selector; write it as ph1", selector.value);
                self.problem(&selector.at, problem);
            }
            if let Some(first) = seen.insert(selector.value.clone(), selector.at.clone()) {
                self.problem(
                    &selector.at,
                    format!(
                        "the selector `{}` is already that of another key of the domain{}",
                        selector.value,
                        on_line(&first)
                    ),
                );
            }
            files.push(KeyFile {
                path: self.path(&file),
                selector: selector.value,
            });
        }
        files
    }
}
