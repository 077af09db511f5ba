//! The command line: one file per subcommand, thin: parse, call, print. Exit codes are made here and nowhere else.

mod agent;
pub mod alerts;
pub mod config;
mod dashboard;
pub mod docs;
pub mod doctor;
pub mod explain;
pub mod flame;
mod instance;
mod logging;
mod pages;
mod past;
mod privileges;
mod reach;
pub mod run;
mod service_manager;
mod signals;
mod terminal;
pub mod token;
pub mod top;
pub mod trace;

use std::{ffi::OsString, fmt, path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::{Complaints, Config, Given};

/// A stethoscope for Linux hosts: how long syscalls, TCP connections, sockets and Postgres queries take, and why.
#[derive(Debug, Parser)]
#[command(name = "steth", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent until it is told to stop
    Run(run::Arguments),
    /// Tell what this kernel, user and machine allow, and what became of every probe
    Doctor(doctor::Arguments),
    /// Draw where CPU time and waiting time go
    Flame(Box<flame::Arguments>),
    /// Show what host and services do right now
    Top(top::Arguments),
    /// Say why a service was slow, with evidence
    Explain(explain::Arguments),
    /// List alerts, acknowledge them, silence some, try rules
    Alerts(alerts::Arguments),
    /// Show what happens as it happens, one line each
    #[command(subcommand)]
    Trace(trace::Command),
    /// Work with configuration files
    #[command(subcommand)]
    Config(config::Command),
    /// Make tokens, with which an agent is asked
    #[command(subcommand)]
    Token(token::Command),
    /// Write reference documents from the catalogs
    #[command(subcommand, hide = true)]
    Docs(docs::Command),
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a needed privilege or kernel feature is missing.";

/// Reads the configuration from a file, the environment and flags (flag, key, value).
fn configuration(file: Option<&Path>, flags: Vec<(&'static str, &'static str, String)>) -> Result<Config, Complaints> {
    // What is no UTF-8 becomes text that no key accepts, and so is reported and not skipped.
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    Config::load(&Given { file, environment, flags })
}

/// What a subcommand comes to.
pub type Outcome = Result<(), Failure>;

/// Why a subcommand did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    exit: u8,
    message: String,
}

impl Failure {
    /// It failed.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self { exit: 1, message: message.to_string() }
    }

    /// It was asked wrongly, or configured wrongly.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { exit: 2, message: message.to_string() }
    }

    /// A privilege or kernel feature is missing.
    pub fn missing(message: impl fmt::Display) -> Self {
        Self { exit: 3, message: message.to_string() }
    }
}

/// Says what failed, if anything, and makes it an exit code.
pub fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                terminal::talk(&format!("steth: {}", failure.message));
            }
            ExitCode::from(failure.exit)
        }
    }
}
