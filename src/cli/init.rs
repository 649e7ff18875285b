//! `posthaste init`: a first configuration.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, Found, output};
use crate::config::{Config, template};
use crate::mail::Domain;

/// Write a commented configuration for a first node.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  posthaste init\n  posthaste init /etc/posthaste.toml --hostname mta1.example.com --domain example.com\n  posthaste init --ip 192.0.2.10 --broadcast-ip 192.0.2.11\n  posthaste init --print\n\nNothing is asked, and no file is overwritten."
)]
pub(super) struct Init {
    /// The file to write.
    #[arg(default_value = "posthaste.toml")]
    file: PathBuf,
    /// The node's name in DNS [default: this machine's name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// The address that transactional mail leaves from [default: this machine's]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// The address that broadcasts leave from: another one. Without it the pool is commented out.
    #[arg(long, value_name = "ADDRESS")]
    broadcast_ip: Option<IpAddr>,
    /// Where mail and accounts are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/posthaste")]
    data_dir: PathBuf,
    /// A domain that may stand in From.
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// To standard output instead of a file.
    #[arg(long, conflicts_with = "file")]
    print: bool,
}

impl Init {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let address = self.ip.or_else(own_address);
        let hostname = match &self.hostname {
            Some(name) => domain("--hostname", name)?,
            None => Config::development(None).node.hostname,
        };
        let data_dir = std::path::absolute(&self.data_dir)
            .map_err(|e| Failure::usage(format!("{}: {e}", self.data_dir.display())))?;
        let answers = template::Answers {
            hostname,
            data_dir: data_dir.to_string_lossy().into_owned(),
            address: address.unwrap_or(IpAddr::from([192, 0, 2, 10])),
            broadcast: self.broadcast_ip,
            domain: match &self.domain {
                Some(name) => Some(domain("--domain", name)?),
                None => None,
            },
        };
        let text = template::text(&answers);
        // What cannot be used is told now and not at the next command.
        Config::parse(&text, &self.file, None, &|_| None)
            .map_err(|error| Failure::usage(error.to_string()))?;
        if self.print {
            output::write_all(text.as_bytes())?;
            return Ok(Found::All);
        }
        write_new(&self.file, &text)?;
        output::write_all(self.next(&answers, address.is_some()).as_bytes())?;
        Ok(Found::All)
    }

    /// What to do now.
    fn next(&self, answers: &template::Answers, found: bool) -> String {
        let file = self.file.display();
        let address = answers.address;
        let mut next = format!("{file} is written. Next:\n");
        if !found {
            next += &format!("  * set `ip` in [[pool]]: {address} is only an example\n");
        }
        if !answers.hostname.contains('.') {
            next += &format!(
                "  * set `hostname` in [node]: other mail servers expect a full name instead of {}\n",
                answers.hostname
            );
        }
        let name = match answers.hostname.contains('.') {
            true => &answers.hostname,
            false => "that name",
        };
        next += &format!(
            "  * publish {name} with the address {address}, and have the address resolve back to it\n  \
             posthaste config check {file}\n  \
             posthaste serve --config {file}\n  \
             posthaste token create app --config {file}     a token for applications on other machines\n"
        );
        if answers.domain.is_none() {
            next += &format!(
                "  posthaste domain add example.com --config {file}   a domain to send from, and its DNS records\n"
            );
        }
        next
    }
}

fn write_new(file: &Path, text: &str) -> Result<(), Failure> {
    // It may come to hold tokens.
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o640).open(file);
    let written = opened.and_then(|mut opened| {
        opened.write_all(text.as_bytes())?;
        opened.sync_all()
    });
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::usage(format!(
            "{} is there already and stays as it is; name another file, or see `posthaste init --print`",
            file.display()
        )),
        _ => Failure::new(super::DATA_DIR, format!("{}: {error}", file.display())),
    })
}

fn domain(option: &str, name: &str) -> Result<String, Failure> {
    match Domain::parse(name) {
        Ok(domain) if domain.literal().is_none() => Ok(domain.as_str().to_owned()),
        _ => Err(Failure::usage(format!(
            "{option}: {name:?} is no domain name, such as mta1.example.com"
        ))),
    }
}

/// The address that this machine would use towards the world. Nothing is sent for that.
fn own_address() -> Option<IpAddr> {
    let towards = |from: &str, to: &str| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 25)).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_loopback() && !address.is_unspecified()).then_some(address)
    };
    // Documentation addresses (RFC 5737, RFC 3849).
    towards("0.0.0.0", "192.0.2.1").or_else(|| towards("::", "2001:db8::1"))
}
