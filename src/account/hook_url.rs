//! URLs that hooks may have. What a name resolves to is judged when the hook is called; an address is judged here.

use url::{Host, Url};

use crate::config::Webhooks;
use crate::mail::Domain;

/// The URL, or what is wrong with it, to follow `the URL`.
pub fn parse(text: &str, rules: &Webhooks) -> Result<Url, String> {
    if text.len() > OCTETS_MAX {
        return Err("is too long".into());
    }
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return Err("is not valid".into());
    }
    let url = Url::parse(text).map_err(|_| "is not valid")?;
    let is_https = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err("must begin with https:// or http://".into()),
    };
    let port = url.port_or_known_default().unwrap_or_default();
    match url.host() {
        // The parser knows every way to write one: `http://2130706433/`, `http://0x7f.1/`.
        Some(Host::Ipv4(address)) => rules.permits(is_https, port, address.into())?,
        Some(Host::Ipv6(address)) => rules.permits(is_https, port, address.into())?,
        Some(Host::Domain(name)) => {
            if let Some(address) = local(name) {
                rules.permits(is_https, port, address)?;
            } else if Domain::parse(name).is_err() {
                return Err("has no valid host".into());
            }
            rules.permits_name(is_https, port)?;
        }
        None => return Err("has no valid host".into()),
    }
    Ok(url)
}

/// RFC 6761 §6.3: `localhost` and what is below it is this machine, whatever name servers say.
pub fn local(name: &str) -> Option<std::net::IpAddr> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_local = name == "localhost" || name.ends_with(".localhost");
    is_local.then(|| std::net::Ipv4Addr::LOCALHOST.into())
}

const OCTETS_MAX: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_leads_inside_is_refused_however_it_is_written() {
        let strict = Webhooks::default();
        for (text, expected) in [
            ("https://hooks.example.com/in?key=1", None),
            ("https://user:pass@hooks.example.com:8443/in", None),
            ("https://[2001:db8::1]/", None),
            (
                "http://hooks.example.com/",
                Some("must begin with https://"),
            ),
            ("https://hooks.example.com:22/", Some("names port 22")),
            ("ftp://hooks.example.com/", Some("must begin with")),
            ("hooks.example.com", Some("is not valid")),
            ("https://", Some("is not valid")),
            ("https://hooks.example.com/\r\nX: 1", Some("is not valid")),
            ("https://127.0.0.1/", Some("internal")),
            ("https://2130706433/", Some("internal")),
            ("https://0x7f.1/", Some("internal")),
            ("https://[::ffff:10.0.0.1]/", Some("internal")),
            ("https://169.254.169.254/latest/meta-data", Some("internal")),
            ("https://LOCALHOST/", Some("internal")),
            ("https://a.localhost./", Some("internal")),
        ] {
            let found = parse(text, &strict).err();
            let is_as_expected = match (&found, expected) {
                (None, None) => true,
                (Some(found), Some(expected)) => found.contains(expected),
                _ => false,
            };
            assert!(is_as_expected, "{text}: {found:?}");
        }
        let open = Webhooks {
            allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
            ..strict
        };
        for text in [
            "http://localhost:3000/",
            "http://127.0.0.1:9/",
            "http://app.example.com:3000/",
        ] {
            assert!(parse(text, &open).is_ok(), "{text}");
        }
        assert!(parse("http://10.0.0.1/", &open).is_err());
    }
}
