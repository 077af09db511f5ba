//! `cargo xtask lint`: clippy over all user-space crates and their tests, and the rules of deny.toml. The kernel programs are left out: no
//! clippy comes with the compiler that builds them.

use anyhow::Result;

use crate::{deny, workspace};

pub fn run() -> Result<()> {
    deny::run(&deny::Arguments { advisories: false })?;
    let mut cargo = workspace::cargo();
    cargo.args(["clippy", "--workspace", "--exclude", "steth-ebpf", "--all-targets", "--", "-D", "warnings"]);
    workspace::complete(&mut cargo)
}
