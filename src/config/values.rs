//! The values that keys hold: sizes, durations, networks, secrets. Parsed from text, shown as text.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// So many in so much time: `10/s`, `600/m`, `5000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Never 0.
    pub count: u32,
    pub per: RateUnit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateUnit {
    Second,
    Minute,
    Hour,
}

impl Rate {
    pub fn period(&self) -> Duration {
        Duration::from_secs(match self.per {
            RateUnit::Second => 1,
            RateUnit::Minute => 60,
            RateUnit::Hour => 3_600,
        })
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no rate; write it as 10/s, 600/m or 5000/h");
        let (count, per) = text.split_once('/').ok_or_else(wrong)?;
        let per = match per {
            "s" => RateUnit::Second,
            "m" => RateUnit::Minute,
            "h" => RateUnit::Hour,
            _ => return Err(wrong()),
        };
        match count.parse() {
            Ok(count) if (1..=RATE_MAX).contains(&count) => Ok(Self { count, per }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            RateUnit::Second => "s",
            RateUnit::Minute => "m",
            RateUnit::Hour => "h",
        };
        write!(f, "{}/{per}", self.count)
    }
}

/// A network: `192.0.2.0/24`, `2001:db8::/32`, or one address. Host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// All there are.
    pub fn every() -> Vec<Self> {
        let every = |network: IpAddr| Self { network, prefix: 0 };
        vec![every([0; 4].into()), every([0; 16].into())]
    }

    /// Whether `address` lies within. An IPv4 address mapped into IPv6 counts as IPv4, as sockets report it either way.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                mask(u32::from(address).into(), self.prefix, 32) == u32::from(network).into()
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                mask(address.into(), self.prefix, 128) == u128::from(network)
            }
            _ => false,
        }
    }

    /// Prefix length 0.
    pub fn is_everyone(&self) -> bool {
        self.prefix == 0
    }

    pub fn is_loopback(&self) -> bool {
        let shortest = if self.network.is_ipv4() { 8 } else { 128 };
        self.network.is_loopback() && self.prefix >= shortest
    }
}

fn mask(address: u128, prefix: u8, width: u8) -> u128 {
    match width - prefix {
        128 => 0,
        host_bits => address >> host_bits << host_bits,
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            format!("`{text}` is no network; write it as 192.0.2.0/24 or 2001:db8::/32")
        })?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) => digits
                .parse::<u8>()
                .ok()
                .filter(|p| *p <= width)
                .ok_or_else(|| format!("`{text}`: the prefix length is 0 to {width}"))?,
        };
        let network = match address {
            IpAddr::V4(a) => IpAddr::V4((mask(u32::from(a).into(), prefix, 32) as u32).into()),
            IpAddr::V6(a) => IpAddr::V6(mask(a.into(), prefix, 128).into()),
        };
        if network != address {
            return Err(format!(
                "`{text}` has bits set behind its prefix; the network is {network}/{prefix}"
            ));
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A token. Shown only by where it came from, never by its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: String,
    origin: String,
}

impl Secret {
    /// `origin` is what may be shown: `env:NAME`, `file:PATH`.
    pub fn new(value: impl Into<String>, origin: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            origin: origin.into(),
        }
    }

    pub fn expose(&self) -> &str {
        &self.value
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.origin)
    }
}

/// Parses `64MiB`, `10kB`, `4096`. Binary and decimal units are both taken for what they say.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write a number and a unit: 512KiB, 64MiB, 2GiB");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// Parses `30s`, `500ms`, `1h30m`, `2d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is no duration; write a number and a unit: 500ms, 30s, 5m, 4h, 2d");
    let mut rest = text;
    let mut total_ms = 0u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms));
        total_ms = part
            .and_then(|p| total_ms.checked_add(p))
            .ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total_ms))
}

/// The shortest text that [`size`] reads back.
pub fn text_of_size(octets: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if octets > 0 && octets.is_multiple_of(1 << shift) {
            return format!("{}{unit}", octets >> shift);
        }
    }
    octets.to_string()
}

/// A text that [`duration`] reads back, largest units first.
pub fn text_of_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis() as u64;
    let mut text = String::new();
    for (unit_ms, unit) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
        (1, "ms"),
    ] {
        if rest >= unit_ms {
            text.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Above it a limit limits nothing.
const RATE_MAX: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_unit_that_means_what_it_says() {
        for (text, octets) in [
            ("64MiB", 64 << 20),
            ("10kB", 10_000),
            ("4096", 4096),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(size(text), Ok(octets), "{text}");
        }
        for text in ["", "MiB", "64mib", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_one_or_more_numbers_with_units() {
        for (text, ms) in [
            ("30s", 30_000),
            ("2d", 172_800_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "30", "s", "5 m", "1w", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_are_read_back_from_their_text() {
        for octets in [0, 1, 1000, 4096, 64 << 20, 2 << 30] {
            assert_eq!(size(&text_of_size(octets)), Ok(octets));
        }
        for ms in [0, 1, 1_000, 90_000, 5_400_000, 172_800_000] {
            let d = Duration::from_millis(ms);
            assert_eq!(duration(&text_of_duration(d)), Ok(d));
        }
    }

    #[test]
    fn a_network_holds_its_addresses_and_mapped_ones_count_as_ipv4() {
        let cidr: Cidr = "127.0.0.0/8".parse().unwrap();
        assert!(cidr.contains("127.1.2.3".parse().unwrap()));
        assert!(cidr.contains("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!cidr.contains("128.0.0.1".parse().unwrap()));
        assert!(!cidr.contains("::1".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()));
        let one: Cidr = "192.0.2.1".parse().unwrap();
        assert_eq!(one.to_string(), "192.0.2.1/32");
        for wrong in [
            "127.0.0.0/33",
            "127.0.0.1/8",
            "host/8",
            "127.0.0.0/",
            "::/129",
        ] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_read_and_written_alike() {
        for text in ["1/s", "600/m", "5000/h"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "10",
            "0/s",
            "-1/s",
            "10/d",
            "1.5/s",
            "1000001/s",
            "10/s ",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
