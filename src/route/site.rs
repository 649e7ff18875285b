//! Sites: the set of hosts that a domain's mail goes to, by name.

use std::sync::Arc;

/// Equal for equal sets of (host, port), whatever their order and preferences: a provider that lists its hosts in another
/// order for every customer is one site all the same.
pub(super) fn key<'a>(hosts: impl Iterator<Item = (&'a str, u16)>, usual_port: u16) -> Arc<str> {
    let named = hosts.map(|(name, port)| {
        if port == usual_port {
            name.to_owned()
        } else {
            format!("{name}:{port}")
        }
    });
    let mut names: Vec<String> = named.collect();
    names.sort_unstable();
    names.dedup();
    names.join(",").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_hosts_are_the_same_site_in_any_order() {
        let key = |hosts: &[(&'static str, u16)]| key(hosts.iter().copied(), 25).to_string();
        assert_eq!(key(&[("b", 25), ("a", 25)]), "a,b");
        assert_eq!(key(&[("a", 25), ("b", 25), ("a", 25)]), "a,b");
        assert_eq!(key(&[("a", 2525)]), "a:2525");
    }
}
