//! Installs bpf-linker. It must know the bitcode of the compiler that feeds it: the one built here has LLVM 22, as
//! Rust 1.95 to 1.97 have.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{bpf_toolchain::find_linker, workspace};

/// The release that steth is built with; a newer one is as good.
const VERSION: (u32, u32, u32) = (0, 13, 0);

/// Whether a bpf-linker that is new enough can be called.
pub fn is_there() -> bool {
    find_linker()
        .and_then(|linker| workspace::output_of(Command::new(linker).arg("--version")))
        .and_then(|text| version_in(&text))
        .is_some_and(|version| version >= VERSION)
}

/// Builds it into cargo's own bin directory.
///
/// # Errors
/// LLVM 22 is not there, or the build fails.
pub fn install() -> Result<()> {
    let llvm_config = "llvm-config-22";
    let prefix = workspace::output_of(Command::new(llvm_config).arg("--prefix"))
        .map(PathBuf::from)
        .with_context(|| format!("{llvm_config} does not run; install LLVM 22 (Debian: llvm-22-dev)"))?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([prefix.join("bin")].into_iter().chain(env::split_paths(&path)))
        .context("PATH cannot take LLVM's directory")?;
    let (major, minor, patch) = VERSION;
    let version = format!("{major}.{minor}.{patch}");
    workspace::complete(
        workspace::cargo()
            .args(["install", "bpf-linker", "--version", &version, "--locked", "--force"])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", &prefix)
            .env("LLVM_SYS_221_PREFIX", &prefix)
            .env("PATH", path),
    )
}

/// The version in `bpf-linker 0.13.0`.
fn version_in(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.splitn(3, '.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn versions_compare_as_numbers_and_nonsense_is_none() {
        assert!(version_in("bpf-linker 0.13.0") < version_in("bpf-linker 0.100.2"));
        assert_eq!(version_in("bpf-linker"), None);
        assert_eq!(version_in("bpf-linker 0.13"), None);
    }
}
