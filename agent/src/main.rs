//! The `steth` program: parses the command line and calls the library.

use std::process::ExitCode;

use clap::Parser;
use steth::{
    cli::{self, Cli, Command},
    heap::Heap,
};

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(arguments) => cli::run::run(&arguments),
        Command::Doctor(arguments) => cli::doctor::run(&arguments),
        Command::Flame(arguments) => cli::flame::flame(&arguments),
        Command::Top(arguments) => cli::top::top(&arguments),
        Command::Explain(arguments) => cli::explain::explain(&arguments),
        Command::Alerts(arguments) => cli::alerts::alerts(&arguments),
        Command::Trace(command) => cli::trace::trace(command),
        Command::Config(cli::config::Command::Check(arguments)) => cli::config::check(&arguments),
        Command::Token(command) => cli::token::run(&command),
        Command::Docs(cli::docs::Command::Metrics) => cli::docs::metrics(),
        Command::Docs(cli::docs::Command::Config) => cli::docs::config(),
        Command::Docs(cli::docs::Command::Dashboard) => cli::docs::dashboard(),
        Command::Docs(cli::docs::Command::Rules) => cli::docs::rules(),
        Command::Docs(cli::docs::Command::Man { folder }) => cli::docs::man(&folder),
        Command::Docs(cli::docs::Command::Completions { shell }) => cli::docs::completions(shell),
    };
    cli::finish(outcome)
}
