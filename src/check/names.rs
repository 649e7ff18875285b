//! Names, as far as judging them needs it.

use std::net::IpAddr;

/// A name as it is asked for. `None`: such a name cannot be in the DNS (RFC 1035 §2.3.4).
pub(super) fn askable(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let sound = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic())
    };
    (name.len() <= 253 && name.split('.').all(sound)).then(|| name.to_ascii_lowercase())
}

/// Where the PTR of an address stands (RFC 1035 §3.5, RFC 3596 §2.5).
pub(super) fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(_) => format!("{}.in-addr.arpa", reversed(address)),
        IpAddr::V6(_) => format!("{}.ip6.arpa", reversed(address)),
    }
}

/// Octets, or nibbles, last first and with dots: as lists are asked too (RFC 5782 §2.1, §2.4).
pub(super) fn reversed(address: IpAddr) -> String {
    let parts: Vec<String> = match address {
        IpAddr::V4(v4) => v4.octets().iter().rev().map(u8::to_string).collect(),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev();
            let nibbles = nibbles.flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect()
        }
    };
    parts.join(".")
}

/// The organisational domain (RFC 7489 §3.2): one label below the public suffix. A public suffix is its own.
pub(super) fn organisational(domain: &str) -> &str {
    psl::domain_str(domain).unwrap_or(domain)
}

pub(super) fn is_below_or_same(name: &str, parent: &str) -> bool {
    match name.strip_suffix(parent) {
        Some("") => true,
        Some(rest) => rest.ends_with('.'),
        None => false,
    }
}

/// Whether a name is such as providers give to the addresses of customers: by far the most hosts that refuse a name refuse
/// these. Two of an IPv4 address's octets in the name, or one of the usual words.
pub(super) fn is_generic(name: &str, address: IpAddr) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    // The words say something of a host only below the domain that somebody registered.
    let own = name.len() - organisational(name).len();
    let host = &name[..own];
    let words: Vec<&str> = host
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .collect();
    if words.iter().any(|word| GENERIC_WORDS.contains(word)) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => {
            let octets: Vec<String> = v4.octets().iter().map(u8::to_string).collect();
            let numbers = host.split(|c: char| !c.is_ascii_digit());
            let numbers: Vec<&str> = numbers.map(|n| n.trim_start_matches('0')).collect();
            let padded: String = v4.octets().iter().map(|o| format!("{o:03}")).collect();
            let hex: String = v4.octets().iter().map(|o| format!("{o:02x}")).collect();
            let is_in = |octet: &String| numbers.contains(&octet.as_str());
            let distinct: std::collections::BTreeSet<&String> = octets.iter().collect();
            let occurring = distinct.iter().filter(|octet| is_in(octet)).count();
            occurring >= 3.min(distinct.len()).max(2)
                || host.contains(&padded)
                || labels.iter().any(|label| label.contains(&hex))
        }
        IpAddr::V6(v6) => {
            let groups = v6.segments().map(|g| format!("{g:x}"));
            let joined = groups.join("-");
            let full: String = v6.segments().iter().map(|g| format!("{g:04x}")).collect();
            host.contains(&joined) || host.replace(['-', '.'], "").contains(&full)
        }
    }
}

/// Seen by nobody else: private, shared, loopback, link-local. Addresses for documentation count as public.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                // RFC 6598, RFC 2544.
                || (a == 100 && b & 0xc0 == 64)
                || (a == 198 && b & 0xfe == 18)
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
        }
    }
}

const GENERIC_WORDS: &[&str] = &[
    "adsl",
    "cable",
    "customer",
    "customers",
    "dhcp",
    "dial",
    "dialin",
    "dialup",
    "dip",
    "dsl",
    "dyn",
    "dynamic",
    "pool",
    "pools",
    "ppp",
    "pppoe",
    "unassigned",
    "vdsl",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_providers_for_their_customers_are_told_from_names_of_hosts() {
        for (name, address) in [
            ("host-203-0-113-7.isp.example", "203.0.113.7"),
            ("7.113.0.203.static.isp.example", "203.0.113.7"),
            ("ip203000113007.isp.example", "203.0.113.7"),
            ("cb007107.isp.example", "203.0.113.7"),
            ("dyn-12.isp.example", "203.0.113.7"),
            ("p4.pool.isp.example", "203.0.113.7"),
            ("2001-db8-0-0-0-0-0-7.isp.example", "2001:db8::7"),
        ] {
            assert!(is_generic(name, address.parse().unwrap()), "{name}");
        }
        for (name, address) in [
            ("mta7.example.com", "203.0.113.7"),
            ("mx-113.example.com", "203.0.113.7"),
            ("mail.dynamic.com", "203.0.113.7"),
            ("out113-7.mail.example.com", "203.0.113.7"),
            ("static.example.com", "203.0.113.7"),
            ("mta1.example.com", "1.1.1.1"),
            ("m1.example.com", "2001:db8::1"),
        ] {
            assert!(!is_generic(name, address.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn reverse_names_are_those_of_the_rfcs() {
        let of = |text: &str| reverse(text.parse().unwrap());
        assert_eq!(of("192.0.2.10"), "10.2.0.192.in-addr.arpa");
        assert_eq!(
            of("2001:db8::1"),
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }
}
