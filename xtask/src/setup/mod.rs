//! `cargo xtask setup`: finds what is missing on this machine, says so, installs it. What is needed stands in
//! `requirements`; how a package gets here, in `apt` and `bpf_linker`.

mod apt;
mod bpf_linker;
mod requirements;

use anyhow::{Result, bail};
use clap::Args;

pub use apt::install as install_debian;
pub use requirements::{Purpose, command};
use requirements::{REQUIREMENTS, Requirement, Source};

use crate::workspace;

/// Whether to install.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask setup\n  cargo xtask setup --check")]
pub struct Arguments {
    /// Only reports; exit code 1 if something is missing
    #[arg(long)]
    check: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.check { report() } else { install_missing(Purpose::Test) }
}

fn report() -> Result<()> {
    let mut missing = 0;
    for requirement in REQUIREMENTS {
        let state = if (requirement.is_there)() { "ok     " } else { "MISSING" };
        missing += usize::from(state != "ok     ");
        println!("{state}  {:<32} {}", requirement.name, requirement.why);
    }
    if missing > 0 {
        bail!("{missing} missing; `cargo xtask setup` installs them");
    }
    Ok(())
}

/// Installs what `purpose` needs and this machine lacks; says nothing if that is nothing.
///
/// # Errors
/// Something is missing and could not be installed.
pub fn install_missing(purpose: Purpose) -> Result<()> {
    let missing = missing_for(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("setup installs:");
    for requirement in &missing {
        eprintln!("  {:<32} {} ({})", requirement.name, requirement.why, requirement.source);
    }

    let packages: Vec<&str> = missing.iter().flat_map(|requirement| requirement.source.packages()).copied().collect();
    if !packages.is_empty() {
        apt::install(&packages)?;
    }
    for requirement in &missing {
        match requirement.source {
            Source::Debian(_) => {}
            Source::Rustup(component) => {
                let mut rustup = std::process::Command::new("rustup");
                workspace::complete(rustup.args(["component", "add", component]).current_dir(workspace::root()))?;
            }
            Source::BpfLinker => bpf_linker::install()?,
        }
    }

    let left: Vec<&str> = missing_for(purpose).iter().map(|requirement| requirement.name).collect();
    if !left.is_empty() {
        bail!("installed, but still not found: {}. See: cargo xtask setup --check", left.join(", "));
    }
    eprintln!("setup done");
    Ok(())
}

fn missing_for(purpose: Purpose) -> Vec<&'static Requirement> {
    let linker_there = bpf_linker::is_there();
    REQUIREMENTS
        .iter()
        .filter(|requirement| match requirement.purpose {
            Purpose::Build => true,
            Purpose::BpfLinker => !linker_there,
            Purpose::Test => purpose == Purpose::Test,
            Purpose::Compare | Purpose::Machine => purpose == requirement.purpose,
        })
        .filter(|requirement| !(requirement.is_there)())
        .collect()
}
