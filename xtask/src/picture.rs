//! `cargo xtask picture`: the README's and the tour's pictures of real output, taken anew.

use anyhow::Result;

use crate::{
    build::{self, Profile},
    setup::{self, Purpose},
    workspace,
};

pub fn run() -> Result<()> {
    setup::install_missing(Purpose::Test)?;
    let binary = build::steth(Profile::Release)?;
    let mut cargo = workspace::cargo();
    cargo.env("STETH_BIN", binary).args(["run", "--package", "steth-tests", "--example", "picture"]);
    workspace::complete(&mut cargo)
}
