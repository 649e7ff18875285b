//! `[webhooks]`: whom hooks may call, and how often it is tried.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Cidr;
use crate::limits;
use crate::mail::networks::is_private;

/// `[webhooks]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhooks {
    /// Networks that hooks may lead to whatever they are, by http and on any port too.
    pub allow_networks: Vec<Cidr>,
    /// http elsewhere than there.
    pub allow_http: bool,
    /// Whether a hook is called once for each trigger before it is taken.
    pub verify: bool,
    /// Waits before the retries of bounces and complaints, and of everything else.
    pub bounce_retries: Arc<[Duration]>,
    pub event_retries: Arc<[Duration]>,
    pub retry_on: RetryOn,
    /// Requests under way to one hook.
    pub concurrency: usize,
    /// From the look-up of its name to the end of the answer, redirects included.
    pub timeout: Duration,
    /// A hook that has not taken anything for so long, though it was tried, is called no more.
    pub stop_after: Duration,
}

/// Which failures are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// Everything but 403 and 410.
    All,
    /// 408, 429, 5xx, and no answer.
    ServerErrors,
}

impl RetryOn {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::ServerErrors => "server-errors",
        }
    }
}

impl Default for Webhooks {
    fn default() -> Self {
        let minutes = |list: &[u64]| list.iter().map(|m| Duration::from_secs(m * 60)).collect();
        Self {
            allow_networks: Vec::new(),
            allow_http: false,
            verify: false,
            bounce_retries: minutes(&[1, 5, 10, 10, 10, 15, 30, 60, 120, 360]),
            event_retries: minutes(&[1, 5, 15, 1, 5, 10, 10, 10, 15]),
            retry_on: RetryOn::All,
            concurrency: limits::WEBHOOK_REQUESTS,
            timeout: limits::WEBHOOK_REQUEST,
            stop_after: limits::WEBHOOK_STOP_AFTER,
        }
    }
}

impl Webhooks {
    /// Of whom nobody knows yet what they permit.
    pub fn anywhere() -> Self {
        Self {
            allow_networks: Cidr::every(),
            ..Self::default()
        }
    }

    /// Whether a hook may lead to this address (threats-and-faults §2.2); else why not, to follow `the hook`.
    pub fn permits(&self, is_https: bool, port: u16, address: IpAddr) -> Result<(), String> {
        let address = address.to_canonical();
        if self.allow_networks.iter().any(|n| n.contains(address)) {
            return Ok(());
        }
        if is_private(address) {
            return Err(format!(
                "leads to {address}, an internal address that [webhooks] allow_networks does not name"
            ));
        }
        self.permits_outside(is_https, port)
    }

    /// The same before the name is looked up: what no address can make good.
    pub fn permits_name(&self, is_https: bool, port: u16) -> Result<(), String> {
        match self.allow_networks.is_empty() {
            true => self.permits_outside(is_https, port),
            false => Ok(()),
        }
    }

    fn permits_outside(&self, is_https: bool, port: u16) -> Result<(), String> {
        if !is_https && !self.allow_http {
            return Err(
                "must begin with https:// unless [webhooks] allow_http is set or allow_networks names where it leads"
                    .into(),
            );
        }
        match PORTS.contains(&port) {
            true => Ok(()),
            false => Err(format!(
                "names port {port}; 443, 80 and 8443 may be used, others where [webhooks] allow_networks leads"
            )),
        }
    }
}

/// Of strangers: what else listens there is not ours to speak to.
const PORTS: [u16; 3] = [443, 80, 8443];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_leads_to_public_addresses_by_https_or_where_it_is_allowed() {
        let check = |webhooks: &Webhooks, is_https, port, address: &str, permitted| {
            let found = webhooks.permits(is_https, port, address.parse().unwrap());
            assert_eq!(found.is_ok(), permitted, "{address}:{port}: {found:?}");
        };
        let strict = Webhooks::default();
        check(&strict, true, 443, "1.1.1.1", true);
        check(&strict, true, 8443, "2001:db8::1", true);
        check(&strict, false, 80, "1.1.1.1", false);
        check(&strict, true, 22, "1.1.1.1", false);
        for private in [
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "::ffff:10.0.0.1",
            "fd00::1",
        ] {
            check(&strict, true, 443, private, false);
        }
        let open = Webhooks {
            allow_networks: vec!["10.0.0.0/8".parse().unwrap()],
            allow_http: true,
            ..Webhooks::default()
        };
        check(&open, false, 3000, "10.1.2.3", true);
        check(&open, false, 3000, "::ffff:10.1.2.3", true);
        check(&open, false, 80, "1.1.1.1", true);
        check(&open, false, 3000, "1.1.1.1", false);
        check(&open, true, 443, "127.0.0.1", false);
    }
}
