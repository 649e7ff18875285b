//! `[[shaping]]`: the operator's rules and those of the shipped `shaping.toml`.

use std::path::PathBuf;

use super::Context;
use crate::config::raw::{RawConfig, RawShaping, RawShapingFile};
use crate::config::shaping::{PathLimits, Provider, ProviderId, Rule, SHIPPED_RULE};
use crate::config::source::{Located, Reader};
use crate::config::{Delivery, Pool, Shaping};
use crate::limits;

/// The shipped limits of providers, with those of `[delivery]` for everybody else.
pub(in crate::config) fn shipped(delivery: &Delivery) -> Shaping {
    let mut context = Context {
        base: PathBuf::new(),
        environment: &|_| None,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let (mut providers, mut rules) = (Vec::new(), Vec::new());
    let mut reader = Reader::new(SHIPPED);
    let file: Option<RawShapingFile> = reader.read();
    let entries = file.as_ref().and_then(|file| file.shaping.as_deref());
    for raw in entries.unwrap_or_default() {
        rules.extend(context.shaping_rule(raw, &mut providers, &[], true));
    }
    Shaping::new(base(delivery), providers, rules)
}

fn base(delivery: &Delivery) -> PathLimits {
    PathLimits::plain(
        delivery.connections_per_site as u32,
        delivery.messages_per_connection,
        limits::RECIPIENTS_PER_TRANSACTION as u32,
    )
}

impl Context<'_> {
    pub(super) fn shaping(
        &mut self,
        raw: &RawConfig,
        delivery: &Delivery,
        pools: &[Pool],
    ) -> Shaping {
        let Shaping {
            mut providers,
            mut rules,
            base,
        } = shipped(delivery);
        let declared = raw.shaping.as_deref().unwrap_or_default();
        for raw in declared {
            if rules.len() == limits::SHAPING_RULES_MAX {
                let max = limits::SHAPING_RULES_MAX;
                self.problem(&raw.at, format!("more than {max} rules of shaping"));
                break;
            }
            rules.extend(self.shaping_rule(raw, &mut providers, pools, false));
        }
        Shaping::new(base, providers, rules)
    }

    fn shaping_rule(
        &mut self,
        raw: &Located<RawShaping>,
        providers: &mut Vec<Provider>,
        pools: &[Pool],
        shipped: bool,
    ) -> Option<Rule> {
        let provider = match (&raw.provider, &raw.mx) {
            (Some(name), mx) => Some(self.provider(name, mx.as_deref(), providers)?),
            (None, Some(_)) => {
                self.problem(
                    &raw.at.child("mx"),
                    "names no provider; add provider = \"NAME\" so that explanations can name it",
                );
                return None;
            }
            (None, None) => None,
        };
        if let Some(name) = &raw.pool
            && !pools.iter().any(|pool| pool.name == name.value)
        {
            let advice = format!("no [[pool]] is named `{}`", name.value);
            self.problem(&name.at, advice);
        }
        let mut sources = pools.iter().flat_map(|pool| &pool.sources);
        if let Some(name) = &raw.source
            && !sources.any(|source| *source.name == *name.value)
        {
            let advice = format!("no source of a [[pool]] is named `{}`", name.value);
            self.problem(&name.at, advice);
        }
        self.judge_whole(raw);
        let mut number = |value: &Option<Located<u64>>, max: u64| {
            let value = value.as_ref()?;
            Some(self.number(&Some(value.clone()), max, 1..=max) as u32)
        };
        let rule = Rule {
            provider,
            pool: raw.pool.as_ref().map(|name| name.value.clone()),
            source: raw.source.as_ref().map(|name| name.value.clone()),
            name: match &raw.provider {
                Some(name) if shipped => format!("{SHIPPED_RULE} `{}`", name.value).into(),
                _ => format!("[[shaping]] on line {}", raw.at.line).into(),
            },
            defines: raw.mx.is_some(),
            connections: number(&raw.connections, 1_000),
            messages_per_connection: number(&raw.messages_per_connection, 1_000_000),
            recipients_per_message: number(
                &raw.recipients_per_message,
                limits::RECIPIENTS_PER_TRANSACTION as u64,
            ),
            messages_per_hour: number(&raw.messages_per_hour, 1_000_000_000),
            messages_per_day: number(&raw.messages_per_day, 1_000_000_000),
            message_rate: raw.message_rate.as_ref().map(|rate| rate.value),
            connection_rate: raw.connection_rate.as_ref().map(|rate| rate.value),
            whole: raw.whole_provider.as_ref().is_some_and(|whole| whole.value),
        };
        Some(rule)
    }

    fn judge_whole(&mut self, raw: &RawShaping) {
        let Some(whole) = raw.whole_provider.as_ref().filter(|whole| whole.value) else {
            return;
        };
        if raw.provider.is_none() {
            self.problem(&whole.at, "names no provider; add provider = \"NAME\"");
        }
        for (value, key) in [
            (&raw.messages_per_connection, "messages_per_connection"),
            (&raw.recipients_per_message, "recipients_per_message"),
        ] {
            if let Some(value) = value {
                let advice = format!(
                    "{key} does not add up over sites; put it into an entry without whole_provider"
                );
                self.problem(&value.at, advice);
            }
        }
    }

    fn provider(
        &mut self,
        name: &Located<String>,
        mx: Option<&[Located<String>]>,
        providers: &mut Vec<Provider>,
    ) -> Option<ProviderId> {
        let known = providers.iter().position(|p| *p.name == *name.value);
        match (known, mx) {
            (Some(index), None) => Some(ProviderId(index as u16)),
            (Some(_), Some(_)) => {
                self.problem(
                    &name.at,
                    format!(
                        "provider `{}` is known already; leave out mx to change its limits, or take another name",
                        name.value
                    ),
                );
                None
            }
            (None, None) => {
                self.problem(
                    &name.at,
                    format!(
                        "provider `{}` is not known; say which hosts are its with mx = [\"example.com\"]",
                        name.value
                    ),
                );
                None
            }
            (None, Some(mx)) => {
                let suffix = |mx: &Located<String>| mx.trim_start_matches('.').to_ascii_lowercase();
                providers.push(Provider {
                    name: name.value.as_str().into(),
                    mx: mx.iter().map(suffix).filter(|mx| !mx.is_empty()).collect(),
                });
                Some(ProviderId(providers.len() as u16 - 1))
            }
        }
    }
}

const SHIPPED: &str = include_str!("../shaping.toml");
