//! Networks that strangers must not lead us into: their MX record or hook URL is no permission to speak to our own hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The list of threats-and-faults §2.2, and what else embeds an IPv4 address or was meant for a site.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    match address.octets() {
        [0 | 10 | 127, ..]
        | [169, 254, ..]
        | [192, 168, ..]
        // 6to4 relays (RFC 7526 took them back).
        | [192, 88, 99, _]
        | [192, 0, 0, _]
        | [198, 18..=19, ..]
        | [224..=255, ..] => true,
        [100, second, ..] => (64..128).contains(&second),
        [172, second, ..] => (16..32).contains(&second),
        _ => false,
    }
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_private_v4(mapped);
    }
    match address.segments() {
        // ::/96: unspecified, loopback, and the deprecated form that embeds IPv4.
        [0, 0, 0, 0, 0, 0, ..] => true,
        // NAT64, 6to4, Teredo and SIIT (RFC 2765 §2.1) embed any IPv4 address.
        [0x64, 0xff9b, ..] | [0x2002, ..] | [0x2001, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => true,
        // RFC 6666: discarded on the way.
        [0x100, 0, 0, 0, ..] => true,
        // Unique local; link local and, after it, site local (RFC 3879 took it back); multicast.
        [first, ..] => matches!(first, 0xfc00..=0xfdff | 0xfe80..=0xfeff | 0xff00..=0xffff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_special_networks_are_told_from_the_public() {
        let check = |text: &str, private| {
            assert_eq!(is_private(text.parse().unwrap()), private, "{text}");
        };
        for text in [
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.31.255.255",
            "192.0.0.9",
            "192.88.99.1",
            "192.168.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:10.0.0.1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:a00:1::",
            "2001:0:a00:1::1",
            "::ffff:0:10.0.0.1",
            "100::1",
            "fec0::1",
            "febf::1",
        ] {
            check(text, true);
        }
        for text in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.2.1",
            "198.17.0.1",
            "223.255.255.255",
            "2001:db8::1",
            "2001:4860::8888",
            "100:0:0:1::1",
            "::ffff:1.1.1.1",
        ] {
            check(text, false);
        }
    }
}
