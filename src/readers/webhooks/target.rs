//! Where hooks lead and what they want, as the account settings have it: webhooks, and the hook URLs of servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use siphasher::sip128::{Hasher128, SipHasher24};
use url::Url;

use super::payload::Wish;
use crate::account::snapshot::Snapshot;
use crate::account::{BasicAuth, ServerInfo, Triggers, WebhookInfo, signing_key};
use crate::clock::UnixMs;

/// A hook to be called.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) key: String,
    pub(super) server: Arc<str>,
    /// Its server stands in the configuration file, and may come back if it goes.
    pub(super) is_declared: bool,
    pub(super) url: Url,
    headers: HeaderMap,
    signing: Option<hmac::Key>,
    pub(super) wish: Arc<Wish>,
    /// `None`, of a hook URL set before times were kept: it begins when it is first seen.
    pub(super) created: Option<UnixMs>,
    /// What of the settings it was made from.
    pub(super) seen: Seen,
}

/// Equal: nothing has changed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    wish: Wish,
    webhook: Option<Arc<WebhookInfo>>,
    url: String,
}

impl Target {
    /// Of a webhook; `None`: what is stored of it is no URL.
    pub(super) fn of(server: &ServerInfo, webhook: &Arc<WebhookInfo>) -> Option<Self> {
        let call = &webhook.call;
        let wish = Wish {
            server: server.id,
            stream: Some(Arc::clone(&webhook.stream)),
            triggers: webhook.triggers,
            smtp_api_errors: server.attributes.enable_smtp_api_error_hooks,
        };
        let url = Url::parse(&call.url).ok()?;
        let mut headers = common(&url, call.auth.as_ref());
        for field in &call.headers {
            let name = field.name.parse::<HeaderName>();
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&field.value)) {
                // Our own of these two give way.
                match name == AUTHORIZATION || name == USER_AGENT {
                    true => drop(headers.insert(name, value)),
                    false => drop(headers.append(name, value)),
                }
            }
        }
        let signing = call.signing_secret.as_deref().and_then(signing_key);
        Some(Self {
            key: webhook.id.to_string(),
            server: Arc::clone(&server.name),
            is_declared: server.declared,
            url,
            headers,
            signing: signing.map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)),
            created: Some(webhook.created),
            seen: Seen {
                wish: wish.clone(),
                webhook: Some(Arc::clone(webhook)),
                url: call.url.clone(),
            },
            wish: Arc::new(wish),
        })
    }

    /// Of a hook URL of the server itself (reference §7.2): for all its streams, beside its webhooks.
    fn of_server(
        server: &ServerInfo,
        name: &str,
        (text, since): (&str, UnixMs),
        triggers: Triggers,
    ) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let wish = Wish {
            server: server.id,
            stream: None,
            triggers,
            smtp_api_errors: server.attributes.enable_smtp_api_error_hooks,
        };
        Some(Self {
            key: format!("s{}-{name}", server.id),
            server: Arc::clone(&server.name),
            is_declared: server.declared,
            headers: common(&url, None),
            signing: None,
            created: (since > 0).then_some(since),
            seen: Seen {
                wish: wish.clone(),
                webhook: None,
                url: text.to_owned(),
            },
            wish: Arc::new(wish),
            url,
        })
    }

    /// The header fields of one request.
    pub(super) fn headers(
        &self,
        position: u64,
        retries_left: usize,
        now: UnixMs,
        body: &[u8],
    ) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert(TRACE_ID, ascii(self.trace(position)));
        headers.insert(EVENT_ID, position.into());
        headers.insert(RETRIES_REMAINING, retries_left.into());
        if let Some(key) = &self.signing {
            // The event's, so that retries and duplicates have the same.
            let id = format!("evt_{position}");
            let seconds = (now / 1000).to_string();
            let mut signed = hmac::Context::with_key(key);
            for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
                signed.update(part);
            }
            let signature = BASE64_STANDARD.encode(signed.sign());
            headers.insert(WEBHOOK_ID, ascii(id));
            headers.insert(WEBHOOK_TIMESTAMP, ascii(seconds));
            headers.insert(WEBHOOK_SIGNATURE, ascii(format!("v1,{signature}")));
        }
        headers
    }

    /// The same for every attempt of one event.
    fn trace(&self, position: u64) -> String {
        use std::hash::Hasher;
        let mut hasher = SipHasher24::new();
        hasher.write(self.key.as_bytes());
        hasher.write(&position.to_le_bytes());
        let bytes = hasher.finish128().as_bytes();
        let uuid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
        uuid.as_hyphenated().to_string()
    }
}

/// Every hook that is to be called, by its key.
pub(super) fn all(snapshot: &Snapshot) -> BTreeMap<String, Arc<Target>> {
    let mut found = BTreeMap::new();
    for server in snapshot.servers() {
        let own = &server.attributes;
        // Before complaints had a trigger of their own they came as bounces.
        let bounces = Triggers {
            bounce: true,
            bounce_content: own.include_bounce_content_in_hook,
            spam_complaint: true,
            spam_complaint_content: own.include_bounce_content_in_hook,
            ..Triggers::default()
        };
        let deliveries = Triggers {
            delivery: true,
            ..Triggers::default()
        };
        let of_server = [
            (
                "bounce",
                (own.bounce_hook_url.as_str(), own.bounce_hook_since),
                bounces,
            ),
            (
                "delivery",
                (own.delivery_hook_url.as_str(), own.delivery_hook_since),
                deliveries,
            ),
        ];
        let of_server = of_server
            .into_iter()
            .filter_map(|(name, url, triggers)| Target::of_server(server, name, url, triggers));
        let webhooks = server.webhooks.iter();
        let targets = webhooks.filter_map(|webhook| Target::of(server, webhook));
        for target in targets.chain(of_server) {
            found.insert(target.key.clone(), Arc::new(target));
        }
    }
    found
}

fn common(url: &Url, auth: Option<&BasicAuth>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, AGENT);
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    let in_url = (!url.username().is_empty() || url.password().is_some()).then(|| BasicAuth {
        username: decoded(url.username()),
        password: decoded(url.password().unwrap_or_default()),
    });
    if let Some(auth) = auth.or(in_url.as_ref()) {
        let pair = BASE64_STANDARD.encode(format!("{}:{}", auth.username, auth.password));
        let mut value = ascii(format!("Basic {pair}"));
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

/// Of digits, letters and signs only.
fn ascii(text: String) -> HeaderValue {
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

pub(super) const AGENT: HeaderValue = HeaderValue::from_static("Posthaste");
/// What says something of the event, and nothing that a customer sets (`account` refuses these names).
pub(super) const OURS: [HeaderName; 6] = [
    TRACE_ID,
    EVENT_ID,
    RETRIES_REMAINING,
    WEBHOOK_ID,
    WEBHOOK_TIMESTAMP,
    WEBHOOK_SIGNATURE,
];
const TRACE_ID: HeaderName = HeaderName::from_static("x-pm-webhook-trace-id");
const EVENT_ID: HeaderName = HeaderName::from_static("x-pm-webhook-event-id");
const RETRIES_REMAINING: HeaderName = HeaderName::from_static("x-pm-retries-remaining");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
