//! `posthaste trace`: the live SMTP dialogue of deliveries. Asks the running daemon, which goes on telling.

use std::io::{self, Write};

use clap::Args;

use super::client::{AdminClient, percent};
use super::output::printable;
use super::{Failure, Found, Place, output};
use crate::http::wire::TraceLine;

/// Watch deliveries speak SMTP, live, without content. Ends with Ctrl-C.
///
/// Several filters must all match. A dialogue is known by domain and message while their transactions are under way; its
/// first lines follow then.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  posthaste trace --domain example.org\n  posthaste trace --host google.com --source tx-1\n  posthaste trace --message 019a1f0e-7b1c-7d30-8a4e-5f6b7c8d9e0f --json"
)]
pub(super) struct Trace {
    #[command(flatten)]
    place: Place,
    /// Only transactions with a recipient in this domain.
    #[arg(long)]
    domain: Option<String>,
    /// Only sessions with this remote host: its name, a domain above it, or its address.
    #[arg(long)]
    host: Option<String>,
    /// Only sessions from this egress source.
    #[arg(long)]
    source: Option<String>,
    /// Only transactions with this message.
    #[arg(long, value_name = "ID")]
    message: Option<String>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Trace {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let client = AdminClient::new(&self.place.data_dir()?)?;
        // Nobody has to read it.
        let following = || drop(writeln!(io::stderr(), "following; Ctrl-C ends it"));
        client.follow(&self.path(), following, |line: TraceLine| match self.json {
            true => output::json(&line),
            false => output::line(text(&line)),
        })?;
        Err(Failure::unreachable("the daemon stops"))
    }

    fn path(&self) -> String {
        let given = [
            ("domain", &self.domain),
            ("host", &self.host),
            ("source", &self.source),
            ("message", &self.message),
        ];
        let given = given.into_iter();
        let given = given.filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let pairs: Vec<_> = given
            .map(|(key, value)| format!("{key}={}", percent(value)))
            .collect();
        format!("/admin/v1/trace?{}", pairs.join("&"))
    }
}

/// `12:34:56.789 17 s1 mx.example.com 192.0.2.1:25 > EHLO mta.example.org`
fn text(line: &TraceLine) -> String {
    let time = line.at.split_once('T').map_or(&*line.at, |(_, time)| time);
    let mark = match line.voice.as_str() {
        "client" => '>',
        "host" => '<',
        _ => '*',
    };
    let (Some(session), Some(source), Some(host), Some(remote)) =
        (line.session, &line.source, &line.host, &line.remote)
    else {
        return printable(&format!("{time} {mark} {}", line.text));
    };
    printable(&format!(
        "{time} {session} {source} {host} {remote} {mark} {}",
        line.text
    ))
}
