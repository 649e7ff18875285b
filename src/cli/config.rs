//! `posthaste config`: check, show, reference.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, Found, output};
use crate::config::{Config, reference};
use crate::node::Node;

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Read a configuration file as `serve` would and report every problem.
    #[command(
        after_help = "Example:\n  posthaste config check /etc/posthaste.toml && systemctl reload posthaste"
    )]
    Check {
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
    },
    /// Print the configuration with every default filled in, without secrets.
    #[command(
        after_help = "Examples:\n  posthaste config show /etc/posthaste.toml\n  posthaste config show                 what a node without a configuration does"
    )]
    Show {
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Print what every key means.
    #[command(after_help = "Example:\n  posthaste config reference | less")]
    Reference,
}

impl ConfigCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Check { file, config } => {
                let Some(file) = file.or(config) else {
                    return Err(Failure::usage(
                        "name the file to check: posthaste config check FILE",
                    ));
                };
                let config = load(&file, None)?;
                for warning in &config.warnings {
                    eprintln!("{}: warning: {warning}", file.display());
                }
                let warnings = Node::check(&config)
                    .map_err(|error| Failure::new(error.exit_code(), error.to_string()))?;
                for warning in warnings {
                    eprintln!("{}: warning: {warning}", file.display());
                }
                let (pools, servers) = (config.pools.len(), config.servers.len());
                let listeners = config.smtp.len();
                output::line(format!(
                    "{}: good ({listeners} submission listeners, {pools} pools, {servers} servers)",
                    file.display()
                ))?;
            }
            Self::Show {
                file,
                config,
                data_dir,
            } => {
                let config = match file.or(config) {
                    Some(file) => load(&file, data_dir.as_deref())?,
                    None => Config::development(data_dir.as_deref()),
                };
                output::write_all(config.show().as_bytes())?;
            }
            Self::Reference => output::write_all(reference::print().as_bytes())?,
        }
        Ok(Found::All)
    }
}

pub(super) fn load(
    file: &std::path::Path,
    data_dir: Option<&std::path::Path>,
) -> Result<Config, Failure> {
    Config::load(file, data_dir).map_err(|error| Failure::config(error.to_string()))
}
