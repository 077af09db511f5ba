//! `cargo xtask soak`: a day in an hour; what the agent takes must stay flat. Writes what was found to docs/benchmarks.md.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    bench,
    build::{self, Profile},
    setup::{self, Purpose},
    workspace,
};

/// How long.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask soak\n  cargo xtask soak --minutes 20")]
pub struct Arguments {
    /// How long all of it goes on; Ctrl-C ends it, and writes nothing
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

const WHAT: &str = "\
    Everything that comes and goes on a host, at a high rate and all at once: processes, services of new names, connections \
    with statements that nobody has met, libraries with OpenSSL that come and go, profiles, scrapes, and reloads, some of which \
    load all kernel programs anew. The agent does in a tenth of the time what it usually does, its budget is off, and every \
    10 s it is looked at. What it keeps is the least of twelve looks on end: what is asked for takes memory for a while, and each \
    switch of features holds old programs beside new ones. It is flat if the straight line through what it keeps from the second \
    third on (least squares) gains no more than is said.";

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::install_missing(Purpose::Test)?;
    let binary = build::steth(Profile::Release)?;
    let mut cargo = workspace::cargo();
    cargo.env("STETH_BIN", binary).args(["run", "--quiet", "--package", "steth-tests", "--example", "soak", "--"]);
    cargo.arg(arguments.minutes.to_string()).stdout(Stdio::piped());
    let child = cargo.spawn().context("cannot start cargo")?;
    let output = child.wait_with_output()?;
    let found = String::from_utf8_lossy(&output.stdout);
    print!("{found}");
    // What grows is written down as well.
    if !found.is_empty() && matches!(output.status.code(), Some(0 | GREW)) {
        let command = format!("cargo xtask soak --minutes {}", arguments.minutes);
        bench::write_section("soak", "A day in an hour", WHAT, &command, &found)?;
    }
    if !output.status.success() {
        bail!("the soak failed: {}", output.status);
    }
    Ok(())
}

/// What the example ends with if something grows.
const GREW: i32 = 3;
