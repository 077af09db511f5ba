//! `cargo xtask lint`: clippy over all user-space crates and their tests. The kernel programs are left out: no
//! clippy comes with the compiler that builds them.

use anyhow::Result;

use crate::workspace;

pub fn run() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["clippy", "--workspace", "--exclude", "steth-ebpf", "--all-targets", "--", "-D", "warnings"]);
    workspace::complete(&mut cargo)
}
