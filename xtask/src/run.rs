//! `cargo xtask run`: from a fresh clone to a running agent. Knows the order of steps, none of them.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    build::{self, Profile},
    setup::{self, Purpose},
};

/// What the agent is given.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask run\n  cargo xtask run -- --listen 127.0.0.1:9465")]
pub struct Arguments {
    /// Arguments of `steth run`
    #[arg(last = true)]
    steth: Vec<OsString>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::install_missing(Purpose::Build)?;
    let binary = build::steth(Profile::Release)?;
    // The agent takes xtask's place, so that signals and the exit code are its own.
    let error = Command::new(&binary).arg("run").args(&arguments.steth).exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}
