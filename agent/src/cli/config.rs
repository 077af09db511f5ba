//! `steth config`: looks at configuration files.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, Outcome, terminal};
use crate::config::{Config, Given};

/// The subcommands of `steth config`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether a configuration file is valid, or list everything that is not
    #[command(after_help = "\
Examples:
  steth config check /etc/steth/steth.toml
  steth config check new.toml && cp new.toml /etc/steth/steth.toml && systemctl reload steth")]
    Check(CheckArguments),
}

/// What `steth config check` takes.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The file
    file: PathBuf,
}

/// Reads the file alone, without environment and flags.
///
/// # Errors
/// When the file is not valid.
pub fn check(arguments: &CheckArguments) -> Outcome {
    let given = Given { file: Some(&arguments.file), ..Given::default() };
    match Config::load(&given) {
        Ok(_) => terminal::result(&format!("{}: valid\n", arguments.file.display())),
        Err(complaints) => {
            terminal::result(&format!("{complaints}\n"))?;
            Err(Failure::usage(format!("{} is not valid: {} to correct", arguments.file.display(), complaints.0.len())))
        }
    }
}
