//! The commands. Each file is one group; this one parses and turns results into exit codes (DESIGN §5).
//!
//! Inspection (`spool`, `events`, `audit`) reads the data directory through `spool-format` and needs no daemon. What acts
//! on mail or watches it (`queue`, `source`, `trace`) asks the running daemon over its admin socket. Accounts (`server`, `stream`, `token`, `account`) ask
//! the daemon, or the store itself while no daemon holds it; `domain` and `sender` ask the daemon.

mod account;
mod audit;
mod check;
mod client;
mod config;
mod events;
mod filter;
mod init;
mod logs;
mod output;
mod queue;
mod readers;
mod rules;
mod serve;
mod source;
mod spool;
mod suppression;
mod trace;

#[cfg(test)]
pub(crate) use audit::prove;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// A self-hosted outbound mail platform: durable spool, SMTP submission, delivery.
#[derive(Parser)]
#[command(
    name = "posthaste",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    /// Run the node. Without --config: a development node whose mail goes to its own sink, never to the world.
    Serve(serve::Serve),
    /// Check, show or document the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look into the spool, whether the daemon runs or not.
    #[command(subcommand)]
    Spool(spool::SpoolCommand),
    /// See and steer what waits, in the running daemon.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// See and steer the addresses that mail leaves from, in the running daemon.
    #[command(subcommand)]
    Source(source::SourceCommand),
    Trace(trace::Trace),
    /// Read the event log.
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// What is made of the event log: how far that is, and to have it made again.
    #[command(subcommand)]
    Readers(readers::ReadersCommand),
    /// What remote hosts' replies mean: the rules, tried on what hosts have said.
    #[command(subcommand)]
    Rules(rules::RulesCommand),
    /// Prove from the logs that every accepted recipient has one outcome or still lives.
    Audit(audit::Audit),
    /// Servers: the tenants.
    #[command(subcommand)]
    Server(account::ServerCommand),
    /// Message streams of servers.
    #[command(subcommand)]
    Stream(account::StreamCommand),
    /// Tokens: of servers, for SMTP only, of the account.
    #[command(subcommand)]
    Token(account::TokenCommand),
    /// Domains that may stand in From.
    #[command(subcommand)]
    Domain(account::DomainCommand),
    /// Keys that sign mail.
    #[command(subcommand)]
    Dkim(account::DkimCommand),
    /// Single addresses that may stand in From.
    #[command(subcommand)]
    Sender(account::SenderCommand),
    /// Webhooks: who is told over HTTP what becomes of mail.
    #[command(subcommand)]
    Webhook(account::WebhookCommand),
    /// Suppressions: to whom streams do not send.
    #[command(subcommand)]
    Suppression(suppression::SuppressionCommand),
    /// The account store itself.
    #[command(subcommand)]
    Account(account::AccountCommand),
}

/// Which node a command means.
#[derive(Args, Clone, Debug, Default)]
struct Place {
    /// The daemon's configuration file; its data directory is taken.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory [default: that of --config, ./posthaste-data if there is one, else /var/lib/posthaste]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    fn data_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        if let Some(file) = &self.config {
            return crate::config::data_dir_in(file).map_err(|e| Failure::config(e.to_string()));
        }
        let here = Path::new("posthaste-data");
        Ok(if here.is_dir() {
            here.into()
        } else {
            "/var/lib/posthaste".into()
        })
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // Help and errors both go where clap says; a closed pipe changes nothing.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match dispatch(cli.command) {
        Ok(Found::All) => ExitCode::SUCCESS,
        Ok(Found::Finding) => ExitCode::from(FINDING),
        Err(failure) if failure.closed_pipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("posthaste: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(command: Command) -> Result<Found, Failure> {
    match command {
        Command::Init(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Spool(command) => command.run(),
        Command::Queue(command) => command.run(),
        Command::Source(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Events(command) => command.run(),
        Command::Readers(command) => command.run(),
        Command::Rules(command) => command.run(),
        Command::Audit(command) => command.run(),
        Command::Server(command) => command.run(),
        Command::Stream(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Domain(command) => command.run(),
        Command::Dkim(command) => command.run(),
        Command::Sender(command) => command.run(),
        Command::Webhook(command) => command.run(),
        Command::Suppression(command) => command.run(),
        Command::Account(command) => command.run(),
    }
}

/// How a command that was carried out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// As asked; exit code 0.
    All,
    /// Damage, an offender, or nothing that matched; exit code 1.
    Finding,
}

/// Why a command was not carried out: a sentence and the exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
    /// Whoever read our output has gone: not an error.
    closed_pipe: bool,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            closed_pipe: false,
        }
    }

    fn finding(message: impl Into<String>) -> Self {
        Self::new(FINDING, message)
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    fn unreachable(message: impl Into<String>) -> Self {
        Self::new(UNREACHABLE, message)
    }

    fn data_dir(message: impl Into<String>) -> Self {
        Self::new(DATA_DIR, message)
    }

    fn disk(message: impl Into<String>) -> Self {
        Self::new(DISK, message)
    }

    fn config(message: impl Into<String>) -> Self {
        Self::new(CONFIG, message)
    }
}

/// Writing output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        let failure = Self::disk(format!("the output cannot be written: {error}"));
        Self {
            closed_pipe,
            ..failure
        }
    }
}

/// Reading the data directory failed: the disk where it is an error of input, else the directory is not what it should be.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<output::Unwritten>() {
            Ok(output::Unwritten(error)) => return error.into(),
            Err(error) => error,
        };
        let io = error.chain().find_map(|e| e.downcast_ref::<io::Error>());
        let code = match io.map(io::Error::kind) {
            Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) | None => DATA_DIR,
            Some(_) => DISK,
        };
        Self::new(code, format!("{error:#}"))
    }
}

const FINDING: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 69;
const DATA_DIR: u8 = 73;
const DISK: u8 = 74;
const CONFIG: u8 = 78;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_how_it_is_used() {
        use clap::CommandFactory;
        fn leaves(command: &clap::Command, path: &str, without: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            for below in command.get_subcommands() {
                leaves(below, &path, without);
            }
            let help = command.get_after_help().or(command.get_after_long_help());
            let help = help.map(ToString::to_string);
            let example = help
                .is_some_and(|help| help.contains("Example") && help.contains(path.trim_start()));
            if !command.has_subcommands() && !example {
                without.push(path);
            }
        }
        let mut without = Vec::new();
        leaves(&Cli::command(), "", &mut without);
        assert_eq!(without, Vec::<String>::new());
    }

    #[test]
    fn the_data_directory_is_the_one_named_else_that_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("posthaste.toml");
        // The environment of the command line lacks the daemon's secrets.
        std::fs::write(
            &file,
            "[node]\ndata_dir = \"data\"\n[account]\ntokens = [\"env:NOT_SET_HERE\"]\n",
        )
        .unwrap();
        let mut place = Place {
            config: Some(file),
            data_dir: None,
        };
        assert_eq!(place.data_dir().unwrap(), dir.path().join("data"));
        place.data_dir = Some("/other".into());
        assert_eq!(place.data_dir().unwrap(), Path::new("/other"));
        place = Place {
            config: Some("/nowhere.toml".into()),
            data_dir: None,
        };
        assert_eq!(place.data_dir().unwrap_err().code, CONFIG);
    }
}
