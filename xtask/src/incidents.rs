//! `cargo xtask incidents`: incidents that are made on purpose, the cause that is named first for each, and what is found while
//! nothing happens.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    build::{self, Profile},
    setup::{self, Purpose},
    workspace,
};

/// Which incidents, and how long nothing happens.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask incidents\n  cargo xtask incidents --only held-out --quiet 0\n  cargo xtask \
                  incidents --only quiet --quiet 30"
)]
pub struct Arguments {
    /// One of the tables; both if none is said
    #[arg(long)]
    only: Option<Table>,
    /// Minutes of the quiet time; windows are a second long, so that one minute is what ten are otherwise
    #[arg(long, default_value_t = 10)]
    quiet: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Table {
    /// Those that weights and thresholds were chosen with
    Everyday,
    /// Those that were held out when weights were chosen
    HeldOut,
    /// None: only the quiet time
    Quiet,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::install_missing(Purpose::Test)?;
    let binary = build::steth(Profile::Release)?;
    let mut cargo = workspace::cargo();
    cargo.env("STETH_BIN", binary).args(["run", "--quiet", "--package", "steth-tests", "--example", "incidents", "--"]);
    cargo.arg(arguments.quiet.to_string());
    cargo.args(arguments.only.map(|table| match table {
        Table::Everyday => "everyday",
        Table::HeldOut => "held-out",
        Table::Quiet => "quiet",
    }));
    workspace::complete(&mut cargo)
}
