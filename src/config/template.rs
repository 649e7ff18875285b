//! The configuration that `posthaste init` writes: the first node of somebody who has read nothing.
//!
//! Promises: it is accepted as it is, and so is each line that is commented out by a `#` alone once that is taken away. What
//! keys mean is said in the words of [`super::reference`], so there is one truth.

use std::fmt::Write;
use std::net::IpAddr;

use super::reference::SECTIONS;

/// What is known of the node.
#[derive(Clone, Debug)]
pub struct Answers {
    pub hostname: String,
    pub data_dir: String,
    /// Of the transactional pool.
    pub address: IpAddr,
    /// Of the broadcast pool.
    pub broadcast: Option<IpAddr>,
    /// Whose mail is sent.
    pub domain: Option<String>,
}

/// The file.
pub fn text(answers: &Answers) -> String {
    let mut page = Page(INTRODUCTION.to_owned());
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    page.section("node", "[node]", true);
    page.key("node", "hostname", &quoted(&answers.hostname), true);
    page.key("node", "data_dir", &quoted(&answers.data_dir), true);

    page.say("Applications on this machine need no password.");
    page.section("smtp", "[[smtp]]", true);
    page.key("smtp", "bind", "\"127.0.0.1:2525\"", true);
    page.key("smtp", "trusted", TRUSTED, true);
    page.say("Applications on other machines: with TLS, and a token as user name and password (`posthaste token create app`).");
    page.line("[[smtp]]", false);
    page.line("bind = \"0.0.0.0:587\"", false);
    page.key("smtp", "tls", "\"starttls\"", false);
    page.key("smtp", "cert", "\"/etc/posthaste/cert.pem\"", false);
    page.key("smtp", "key", "\"/etc/posthaste/key.pem\"", false);

    page.section("http", "[http]", true);
    page.key("http", "bind", "\"127.0.0.1:8025\"", true);
    page.key(
        "http",
        "public_url",
        &quoted(&format!("https://{}", answers.hostname)),
        false,
    );

    page.section("pool", "[[pool]]", true);
    page.comment("This one: mail that somebody waits for, such as receipts and password resets.");
    page.line("name = \"tx\"", true);
    page.key("pool", "kind", "\"transactional\"", true);
    page.source("tx1", answers.address, &answers.hostname, true);
    page.say("Newsletters and notices to many need an address of their own, so that they never delay or harm the rest.");
    let on = answers.broadcast.is_some();
    page.line("[[pool]]", on);
    page.line("name = \"bulk\"", on);
    page.line("kind = \"broadcast\"", on);
    let address = answers
        .broadcast
        .unwrap_or_else(|| example(answers.address));
    page.source("bulk1", address, &answers.hostname, on);

    page.section("server", "[[server]]", true);
    page.key("server", "name", "\"app\"", true);
    page.key("server", "tokens", "[\"env:APP_TOKEN\"]", false);
    page.key("server", "senders", "\"any\"", false);

    page.section("domain", "[[domain]]", answers.domain.is_some());
    let name = answers.domain.as_deref().unwrap_or("example.com");
    page.key("domain", "name", &quoted(name), answers.domain.is_some());

    page.section("account", "[account]", true);
    page.key("account", "tokens", "[\"env:ACCOUNT_TOKEN\"]", false);
    let from = format!(
        "postmaster@{}",
        answers.domain.as_deref().unwrap_or(&answers.hostname)
    );
    page.key("account", "notices_from", &quoted(&from), false);

    page.section("admin", "[admin]", true);
    page.key(
        "admin",
        "metrics_from",
        "[\"127.0.0.0/8\", \"::1/128\"]",
        false,
    );

    page.section("spool", "[spool]", true);
    page.key("spool", "retention", "\"45d\"", false);
    page.key("spool", "event_retention", "\"400d\"", false);
    page.key("spool", "refuse_below", "\"2GiB\"", false);

    page.section("retry", "[retry]", true);
    page.line(
        "transactional = { first = \"30s\", max = \"1h\", max_age = \"2d\" }",
        false,
    );
    page.line(
        "broadcast = { first = \"5m\", max = \"4h\", max_age = \"3d\" }",
        false,
    );
    page.say("Everything through another mail server instead of by MX:");
    page.line("[[route]]", false);
    page.line("domain = \"*\"", false);
    page.line("hosts = [\"smarthost.example.com:25\"]", false);
    page.0
}

/// Another address of the same family, for documentation (RFC 5737, RFC 3849).
fn example(beside: IpAddr) -> IpAddr {
    match beside {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 11]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11]),
    }
}

struct Page(String);

impl Page {
    fn section(&mut self, path: &str, heading: &str, on: bool) {
        self.0.push('\n');
        let section = SECTIONS.iter().find(|section| section.path == path);
        self.comment(section.map_or("", |section| section.about));
        self.line(heading, on);
    }

    fn key(&mut self, path: &str, name: &str, value: &str, on: bool) {
        let section = SECTIONS.iter().find(|section| section.path == path);
        let key = section.and_then(|section| section.keys.iter().find(|key| key.name == name));
        self.comment(key.map_or("", |key| key.about));
        self.line(&format!("{name} = {value}"), on);
    }

    fn source(&mut self, name: &str, address: IpAddr, ehlo: &str, on: bool) {
        let source =
            format!("sources = [{{ name = \"{name}\", ip = \"{address}\", ehlo = \"{ehlo}\" }}]");
        self.line(&source, on);
    }

    fn say(&mut self, text: &str) {
        self.0.push('\n');
        self.comment(text);
    }

    /// What can be switched on has no space behind its `#`; prose has.
    fn line(&mut self, line: &str, on: bool) {
        let _ = writeln!(self.0, "{}{line}", if on { "" } else { "#" });
    }

    fn comment(&mut self, text: &str) {
        let mut line = String::from("#");
        for word in text.split_whitespace() {
            if line.len() + 1 + word.len() > WIDTH {
                let _ = writeln!(self.0, "{line}");
                line.truncate(1);
            }
            line.push(' ');
            line.push_str(word);
        }
        if line.len() > 1 {
            let _ = writeln!(self.0, "{line}");
        }
    }
}

const WIDTH: usize = 100;
const TRUSTED: &str = "[{ cidr = \"127.0.0.0/8\", server = \"app\" }]";
const INTRODUCTION: &str = "\
# Posthaste. All keys, their defaults and what they mean: posthaste config reference
# After a change: posthaste config check FILE; then SIGHUP, or a restart where the check says so.
# Lines that begin with # and no space can be switched on as they are.
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn answers() -> Answers {
        Answers {
            hostname: "mta1.example.com".to_owned(),
            data_dir: "/var/lib/posthaste".to_owned(),
            address: IpAddr::from([192, 0, 2, 10]),
            broadcast: None,
            domain: None,
        }
    }

    fn parse(text: &str) -> Config {
        // Each owner needs its own.
        let environment = |name: &str| Some(format!("{name}-0123456789abcdef"));
        Config::parse(text, Path::new("posthaste.toml"), None, &environment)
            .unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn it_is_accepted_as_it_is_and_with_everything_that_is_known() {
        let config = parse(&text(&answers()));
        assert_eq!((config.pools.len(), config.servers.len()), (1, 1));
        let config = parse(&text(&Answers {
            address: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            broadcast: Some(IpAddr::from([192, 0, 2, 12])),
            domain: Some("example.com".to_owned()),
            ..answers()
        }));
        assert_eq!(config.pools.len(), 2);
    }

    #[test]
    fn what_is_commented_out_is_accepted_when_it_is_switched_on() {
        let text = text(&answers());
        let switched = text.lines().map(|line| {
            let rest = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
            format!("{}\n", rest.unwrap_or(line))
        });
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["mta1.example.com".to_owned()]).unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        let there = dir.path().to_string_lossy().into_owned();
        let switched = switched
            .collect::<String>()
            .replace("/etc/posthaste", &there);
        let config = parse(&switched);
        assert_eq!((config.smtp.len(), config.pools.len()), (2, 2));
    }

    #[test]
    fn every_line_is_said_in_the_words_of_the_reference() {
        let text = text(&answers());
        let (hostname, retention) = (text.find("hostname ="), text.find("#retention ="));
        for at in [hostname, retention] {
            let before = text[..at.unwrap()].trim_end();
            assert!(
                before.rsplit('\n').next().unwrap().starts_with("# "),
                "{text}"
            );
        }
    }
}
