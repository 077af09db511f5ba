//! `cargo xtask fmt`: one format for all sources, as rustfmt.toml has it.

use anyhow::Result;
use clap::Args;

use crate::workspace;

/// Whether to write.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask fmt\n  cargo xtask fmt --check")]
pub struct Arguments {
    /// Changes nothing; fails if something would change
    #[arg(long)]
    pub check: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["fmt", "--all"]);
    if arguments.check {
        cargo.arg("--check");
    }
    workspace::complete(&mut cargo)
}
