//! `steth config`: looks at configuration files.

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};

use super::{Failure, Outcome, terminal};
use crate::{
    config::{Complaints, Config, Given, alerts::AlertFile},
    pipeline,
};

/// The subcommands of `steth config`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether a configuration file, or one of rules for alerts, is valid, or list everything that is not
    #[command(after_help = "\
Examples:
  steth config check /etc/steth/steth.toml
  steth config check my-alerts.toml
  steth config check --files new.toml && cp new.toml /etc/steth/steth.toml && systemctl reload steth")]
    Check(CheckArguments),
}

/// What `steth config check` takes.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Read the tokens and certificates that it names as well, as a reload does
    #[arg(long)]
    files: bool,
    /// The file
    file: PathBuf,
}

/// Reads the file alone, without environment and flags.
///
/// # Errors
/// When the file is not valid.
pub fn check(arguments: &CheckArguments) -> Outcome {
    let file = &arguments.file;
    let read = match fs::read_to_string(file).ok().filter(|text| has_rules(text)) {
        Some(rules) => AlertFile::parse(file, &rules).map(|_| None).map_err(Complaints),
        None => Config::load(&Given { file: Some(file), ..Given::default() }).and_then(Config::whole).map(Some),
    };
    match read {
        Ok(config) => {
            if let Some(config) = config.filter(|_| arguments.files) {
                pipeline::admits(&config)
                    .map_err(|error| Failure::usage(format!("{} is valid, but {error}", file.display())))?;
            }
            terminal::result(&format!("{}: valid\n", file.display()))
        }
        Err(complaints) => {
            terminal::result(&format!("{complaints}\n"))?;
            Err(Failure::usage(format!("{} is not valid: {} to correct", file.display(), complaints.0.len())))
        }
    }
}

/// Whether it is a file of `alerts.files`. One that is no TOML at all is looked at as a configuration.
fn has_rules(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|all| all.contains_key("rule") || all.contains_key("channel"))
}
