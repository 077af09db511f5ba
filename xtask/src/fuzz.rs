//! `cargo xtask fuzz`: the tests that make up their input, for as long as one likes. Knows where they are, not what they try.

use std::{num::NonZero, thread};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    workspace,
};

/// How long.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask fuzz\n  cargo xtask fuzz --minutes 60")]
pub struct Arguments {
    /// How long in all, without the build
    #[arg(long, default_value_t = 5)]
    minutes: u64,
}

/// What holds such tests, and how many: they begin with `fuzz_`.
const TARGETS: &[(&[&str], u64)] = &[
    (&["--package", "steth-probes", "--test", "postgres"], 4),
    (&["--package", "steth", "--lib"], 4),
    (&["--package", "steth-tests", "--test", "faults_http"], 1),
];

pub fn run(arguments: &Arguments) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let tests: u64 = TARGETS.iter().map(|(_, tests)| tests).sum();
    let seconds = (arguments.minutes * 60 * threads / tests).max(1);
    eprintln!("{tests} tests, {seconds} s each, {threads} at a time; a failure shows the smallest input that fails");
    let steth = build::steth(Profile::Release)?;
    for (target, _) in TARGETS {
        let mut cargo = workspace::cargo();
        cargo.args(["test", "--release"]).args(*target).env("STETH_FUZZ_SECONDS", seconds.to_string());
        cargo.env("STETH_BIN", &steth);
        cargo.args(["--", "fuzz_", "--show-output"]).arg(format!("--test-threads={threads}"));
        if !cargo.status()?.success() {
            bail!("failed: {}", workspace::command_line(&cargo));
        }
    }
    Ok(())
}
