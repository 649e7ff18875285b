//! A policy of MTA-STS, as its file says it (RFC 8461 §3.2).

/// What a domain wants of those who send to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) mode: Mode,
    pub(super) max_age_seconds: u64,
    /// Names and patterns, in lower case; of mode none there may be none.
    pub(super) hosts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Enforce,
    Testing,
    None,
}

impl Policy {
    /// `Err`: what is wrong, in a sentence without its end.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut version, mut mode, mut max_age, mut hosts) = (None, None, None, Vec::new());
        // Lines end with CRLF or LF.
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let Some((key, value)) = line.split_once(':') else {
                return Err(format!("the line `{}` has no colon", super::shown(line)));
            };
            let (key, value) = (key.trim(), value.trim());
            // Of a key that is there twice the first counts; those that nobody knows do not matter.
            match key {
                "version" => version = version.or(Some(value)),
                "mode" => mode = mode.or(Some(value)),
                "max_age" => max_age = max_age.or(Some(value)),
                "mx" => hosts.push(host(value)?),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err("it has no line `version: STSv1`".into());
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err("its `mode:` is none of enforce, testing and none".into()),
        };
        let digits = |text: &&str| (1..=10).contains(&text.len());
        let max_age = max_age.filter(digits).and_then(|text| text.parse().ok());
        let Some(max_age_seconds) = max_age else {
            return Err("its `max_age:` is no number of seconds".into());
        };
        if hosts.is_empty() && mode != Mode::None {
            return Err("it names no host: `mx:` is missing".into());
        }
        Ok(Self {
            mode,
            max_age_seconds,
            hosts,
        })
    }

    /// RFC 8461 §4.1: a pattern stands for exactly one label.
    pub(super) fn names(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.hosts
            .iter()
            .any(|pattern| match pattern.strip_prefix("*.") {
                Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
                None => *pattern == host,
            })
    }
}

fn host(value: &str) -> Result<String, String> {
    let value = value
        .strip_suffix('.')
        .unwrap_or(value)
        .to_ascii_lowercase();
    let name = value.strip_prefix("*.").unwrap_or(&value);
    let sound = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    match name.len() <= 253 && name.split('.').all(sound) {
        true => Ok(value),
        false => Err(format!("`mx: {}` is no host", super::shown(&value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_the_rfc_has_it_and_what_is_wrong_is_named() {
        // RFC 8461 §3.2.
        let text = "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmx: backupmx.example.com\r\nmax_age: 604800\r\n";
        let policy = Policy::parse(text).unwrap();
        assert_eq!(
            (policy.mode, policy.max_age_seconds),
            (Mode::Enforce, 604_800)
        );
        for (host, named) in [
            ("mail.example.com", true),
            ("MAIL.example.com", true),
            ("a.example.net", true),
            ("a.b.example.net", false),
            ("example.net", false),
            ("mail.example.com.evil.test", false),
        ] {
            assert_eq!(policy.names(host), named, "{host}");
        }
        assert_eq!(
            Policy::parse(&text.replace("\r\n", "\n")).as_ref(),
            Ok(&policy)
        );
        assert_eq!(
            Policy::parse(&format!("{text}mode: none\nnew: x")).as_ref(),
            Ok(&policy)
        );
        assert_eq!(
            Policy::parse("version:STSv1\nmode:none\nmax_age:0")
                .unwrap()
                .mode,
            Mode::None
        );
        for (from, to, said) in [
            ("version: STSv1", "version: STSv2", "version"),
            ("mode: enforce", "mode: report", "mode"),
            ("mode: enforce\r\n", "", "mode"),
            ("604800", "a week", "max_age"),
            ("604800", "99999999999", "max_age"),
            ("604800", "-1", "max_age"),
            ("*.example.net", "*", "no host"),
            ("*.example.net", "a.*.example.net", "no host"),
            ("mode: enforce", "mode enforce", "no colon"),
            (text, "", "version"),
            (text, "<html><body>404: not found</body></html>", "version"),
        ] {
            let wrong = Policy::parse(&text.replace(from, to)).unwrap_err();
            assert!(wrong.contains(said), "{to}: {wrong}");
        }
        let nobody = Policy::parse("version: STSv1\nmode: testing\nmax_age: 5");
        assert!(nobody.unwrap_err().contains("mx"));
    }
}
