//! `cargo xtask build`: kernel and user parts. How the kernel part is compiled is known to `bpf_toolchain`, and
//! when to `agent/build.rs`.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;

use crate::{bpf_toolchain::BpfToolchain, workspace};

/// What to build.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask build\n  cargo xtask build --debug")]
pub struct Arguments {
    /// Optimised, the default
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Quicker to build, slower to run; the kernel programs are optimised all the same
    #[arg(long)]
    debug: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let binary = steth(if arguments.debug { Profile::Debug } else { Profile::Release })?;
    println!("{}", binary.display());
    Ok(())
}

/// A profile of cargo.
#[derive(Clone, Copy)]
pub enum Profile {
    Debug,
    Release,
}

/// Builds the agent and returns its path.
///
/// # Errors
/// A compiler or linker is missing, or the build fails.
pub fn steth(profile: Profile) -> Result<PathBuf> {
    let toolchain = BpfToolchain::find().map_err(|missing| anyhow!("{missing}"))?;
    eprintln!("kernel programs by {toolchain}; linked by {}", toolchain.linker.display());
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "steth"]);
    let directory = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    workspace::complete(&mut cargo)?;
    workspace::steth_binary(directory)
}
