//! Limits of a path: how much one source may send to one site, by whose rule.
//!
//! A *provider* is a group of sites, known by the suffixes of their MX hosts' names. Rules set single limits; of all rules
//! that match a path the most particular one that names a limit sets it: rules for a provider beat general ones, those for
//! a source or pool beat both, and of equals the later one wins. Each limit remembers its rule, to be explained.

use std::fmt;
use std::sync::Arc;

use super::Rate;

/// All rules, those of `shaping.toml` and the operator's, in the order in which they override one another.
#[derive(Clone, Debug)]
pub struct Shaping {
    pub(super) providers: Vec<Provider>,
    pub(super) rules: Vec<Rule>,
    pub(super) base: PathLimits,
}

/// An index into the providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProviderId(pub u16);

#[derive(Clone, Debug)]
pub(super) struct Provider {
    pub(super) name: Arc<str>,
    /// Lower case, without a leading dot.
    pub(super) mx: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    pub(super) provider: Option<ProviderId>,
    pub(super) pool: Option<String>,
    pub(super) source: Option<String>,
    /// Where it stands, for people.
    pub(super) name: Arc<str>,
    /// Its provider is first named here.
    pub(super) defines: bool,
    pub(super) connections: Option<u32>,
    pub(super) messages_per_connection: Option<u32>,
    pub(super) recipients_per_message: Option<u32>,
    pub(super) message_rate: Option<Rate>,
    pub(super) connection_rate: Option<Rate>,
    pub(super) messages_per_hour: Option<u32>,
    pub(super) messages_per_day: Option<u32>,
    /// Its limits count over all sites of the provider.
    pub(super) whole: bool,
}

/// A limit and the rule that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<T> {
    pub value: T,
    pub rule: Arc<str>,
}

/// What holds for one source at one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathLimits {
    pub connections: Set<u32>,
    pub messages_per_connection: Set<u32>,
    pub recipients_per_message: Set<u32>,
    pub message_rate: Option<Set<Rate>>,
    pub connection_rate: Option<Set<Rate>>,
    pub messages_per_hour: Option<Set<u32>>,
    pub messages_per_day: Option<Set<u32>>,
    /// What the source may do at all sites of the provider together: connections, rates and volumes of these.
    pub whole: Option<Arc<PathLimits>>,
}

impl PathLimits {
    /// Limits that no rule has touched.
    pub fn plain(connections: u32, messages_per_connection: u32, recipients: u32) -> Self {
        Self {
            connections: set(connections, "[delivery] connections_per_site"),
            messages_per_connection: set(
                messages_per_connection,
                "[delivery] messages_per_connection",
            ),
            recipients_per_message: set(recipients, "default"),
            message_rate: None,
            connection_rate: None,
            messages_per_hour: None,
            messages_per_day: None,
            whole: None,
        }
    }

    /// Nothing is limited.
    fn none() -> Self {
        Self::plain(u32::MAX, u32::MAX, u32::MAX)
    }

    /// Something besides the number of connections has to be counted.
    pub fn is_paced(&self) -> bool {
        self.message_rate.is_some()
            || self.connection_rate.is_some()
            || self.messages_per_hour.is_some()
            || self.messages_per_day.is_some()
    }

    fn apply(&mut self, rule: &Rule) {
        fn put<T: Copy>(limit: &mut Set<T>, value: Option<T>, rule: &Arc<str>) {
            if let Some(value) = value {
                let rule = Arc::clone(rule);
                *limit = Set { value, rule };
            }
        }
        fn put_some<T: Copy>(limit: &mut Option<Set<T>>, value: Option<T>, rule: &Arc<str>) {
            if let Some(value) = value {
                let rule = Arc::clone(rule);
                *limit = Some(Set { value, rule });
            }
        }
        let name = &rule.name;
        put(&mut self.connections, rule.connections, name);
        let messages = rule.messages_per_connection;
        put(&mut self.messages_per_connection, messages, name);
        let recipients = rule.recipients_per_message;
        put(&mut self.recipients_per_message, recipients, name);
        put_some(&mut self.message_rate, rule.message_rate, name);
        put_some(&mut self.connection_rate, rule.connection_rate, name);
        put_some(&mut self.messages_per_hour, rule.messages_per_hour, name);
        put_some(&mut self.messages_per_day, rule.messages_per_day, name);
    }
}

impl Shaping {
    /// Without providers or rules.
    pub fn plain(base: PathLimits) -> Self {
        Self {
            providers: Vec::new(),
            rules: Vec::new(),
            base,
        }
    }

    pub(super) fn new(base: PathLimits, providers: Vec<Provider>, mut rules: Vec<Rule>) -> Self {
        // Stable: of equals the order of the files counts.
        rules.sort_by_key(|rule| {
            let of_source = rule.pool.is_some() || rule.source.is_some();
            (of_source, rule.provider.is_some())
        });
        Self {
            providers,
            rules,
            base,
        }
    }

    /// The provider of a site, by the names of its hosts: the first one of which some host is.
    pub fn provider_of<'a>(
        &self,
        hosts: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<ProviderId> {
        let is_below = |host: &str, suffix: &str| {
            let rest = host.strip_suffix(suffix);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let found = self.providers.iter().position(|provider| {
            let mut hosts = hosts.clone();
            hosts.any(|host| provider.mx.iter().any(|suffix| is_below(host, suffix)))
        })?;
        Some(ProviderId(found as u16))
    }

    /// Below which its hosts' names are, lower case; `None`: there is no such provider.
    pub fn suffixes_of(&self, provider: &str) -> Option<&[String]> {
        let found = self.providers.iter().find(|of| *of.name == *provider)?;
        Some(&found.mx)
    }

    pub fn provider_name(&self, provider: ProviderId) -> &Arc<str> {
        &self.providers[usize::from(provider.0)].name
    }

    /// The name of the provider whose host this is; empty: none that is known.
    pub fn name_of_host(&self, host: &str) -> &str {
        self.provider_of(std::iter::once(host))
            .map_or("", |provider| self.provider_name(provider))
    }

    pub fn provider_names(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().map(|provider| &*provider.name)
    }

    /// What holds for a source of a pool at sites of the provider, or of none.
    pub fn limits(&self, provider: Option<ProviderId>, pool: &str, source: &str) -> PathLimits {
        let mut limits = self.base.clone();
        let matching = self.rules.iter().filter(|rule| {
            rule.provider.is_none_or(|of| Some(of) == provider)
                && rule.pool.as_ref().is_none_or(|of| of == pool)
                && rule.source.as_ref().is_none_or(|of| of == source)
        });
        let mut whole: Option<PathLimits> = None;
        for rule in matching {
            match rule.whole {
                true => whole.get_or_insert_with(PathLimits::none).apply(rule),
                false => limits.apply(rule),
            }
        }
        limits.whole = whole.map(Arc::new);
        limits
    }

    pub(super) fn providers(&self) -> impl Iterator<Item = (ProviderId, &Provider)> {
        (0..).map(ProviderId).zip(&self.providers)
    }
}

impl Rule {
    pub(super) fn is_shipped(&self) -> bool {
        self.name.starts_with(SHIPPED_RULE)
    }

    /// What it says, as in the file.
    pub(super) fn keys(&self, shaping: &Shaping) -> Vec<(&'static str, String)> {
        fn word(text: impl fmt::Display) -> String {
            format!("{:?}", text.to_string())
        }
        let provider = self
            .provider
            .map(|id| &shaping.providers[usize::from(id.0)]);
        let is_new = |_: &&Provider| self.defines;
        let keys = [
            ("provider", provider.map(|p| word(&p.name))),
            ("mx", provider.filter(is_new).map(|p| format!("{:?}", p.mx))),
            ("pool", self.pool.as_ref().map(word)),
            ("source", self.source.as_ref().map(word)),
            ("connections", self.connections.map(|n| n.to_string())),
            (
                "messages_per_connection",
                self.messages_per_connection.map(|n| n.to_string()),
            ),
            (
                "recipients_per_message",
                self.recipients_per_message.map(|n| n.to_string()),
            ),
            ("message_rate", self.message_rate.map(word)),
            ("connection_rate", self.connection_rate.map(word)),
            (
                "messages_per_hour",
                self.messages_per_hour.map(|n| n.to_string()),
            ),
            (
                "messages_per_day",
                self.messages_per_day.map(|n| n.to_string()),
            ),
            ("whole_provider", self.whole.then(|| "true".to_owned())),
        ];
        let given = keys
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        given.collect()
    }
}

impl fmt::Display for PathLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = &self.connections;
        write!(
            f,
            "{} connections ({})",
            connections.value, connections.rule
        )?;
        let messages = &self.messages_per_connection;
        write!(
            f,
            ", {} messages a connection ({})",
            messages.value, messages.rule
        )?;
        let recipients = &self.recipients_per_message;
        write!(
            f,
            ", {} recipients a message ({})",
            recipients.value, recipients.rule
        )?;
        self.fmt_paces(f)?;
        let Some(whole) = &self.whole else {
            return Ok(());
        };
        f.write_str("; at all sites of the provider together")?;
        let connections = &whole.connections;
        if connections.value != u32::MAX {
            write!(
                f,
                ", {} connections ({})",
                connections.value, connections.rule
            )?;
        }
        whole.fmt_paces(f)
    }
}

impl PathLimits {
    fn fmt_paces(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, rate) in [
            ("messages", &self.message_rate),
            ("new connections", &self.connection_rate),
        ] {
            if let Some(rate) = rate {
                write!(f, ", {} {what} ({})", rate.value, rate.rule)?;
            }
        }
        for (time, volume) in [
            ("hour", &self.messages_per_hour),
            ("day", &self.messages_per_day),
        ] {
            if let Some(volume) = volume {
                write!(f, ", {} messages a {time} ({})", volume.value, volume.rule)?;
            }
        }
        Ok(())
    }
}

fn set<T>(value: T, rule: &str) -> Set<T> {
    let rule = rule.into();
    Set { value, rule }
}

pub(super) const SHIPPED_RULE: &str = "shipped rule";
