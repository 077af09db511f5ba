//! `steth token`: makes tokens, with which an agent is asked that has `http.tokens`.

use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, Outcome, terminal};
use crate::config::tokens::{self, Role};

/// What there is to do with tokens.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token: print it, and the line that admits whoever has it
    New(New),
}

/// What `steth token new` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth token new --role viewer --name prometheus >token 2>line
  steth token new --role admin --name me

The token goes to standard output, and is shown this once; the line goes to standard error and belongs into the file that
http.tokens names. Then reload the agent: systemctl reload steth.")]
pub struct New {
    /// What whoever has it may do
    #[arg(long, value_enum)]
    role: Named,
    /// Whose it is, as the audit log shows it [default: the role]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// A role, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Named {
    /// Reads metrics, profiles and findings, without the text of statements
    Viewer,
    /// Reads statements, acknowledges and silences alerts
    Operator,
    /// Changes settings
    Admin,
}

/// Makes a token.
///
/// # Errors
/// When the name is none, or the system has no chance to give.
pub fn run(command: &Command) -> Outcome {
    let Command::New(New { role, name }) = command;
    let role = match role {
        Named::Viewer => Role::Viewer,
        Named::Operator => Role::Operator,
        Named::Admin => Role::Admin,
    };
    let name = name.as_deref().unwrap_or(role.name());
    tokens::check_name(name).map_err(|why| Failure::usage(format!("--name {name:?}: {why}")))?;
    let token = tokens::fresh().map_err(|error| Failure::failed(format!("cannot read /dev/urandom: {error}")))?;
    terminal::talk(&tokens::line(name, role, &token));
    terminal::result(&format!("{token}\n"))
}
