//! The programs that write packages: cargo-deb and cargo-generate-rpm, of these versions, in a folder of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::workspace;

const TOOLS: [(&str, &str, &[&str]); 2] =
    [("cargo-deb", "3.8.0", &["--no-default-features", "--features", "lzma"]), ("cargo-generate-rpm", "0.21.1", &[])];

/// Both, ready to be called.
pub struct Tools {
    bin: PathBuf,
}

/// Installs what is missing; takes some minutes the first time.
///
/// # Errors
/// When a tool cannot be built.
pub fn installed() -> Result<Tools> {
    let root = workspace::root().join("target/tools");
    for (name, version, features) in TOOLS {
        // Beside cargo's own, so that no other version of the user's is touched; cargo does nothing where it is there.
        let mut cargo = workspace::cargo();
        cargo.args(["install", name, "--version", version, "--locked", "--root"]).arg(&root).args(features);
        workspace::complete(&mut cargo)?;
    }
    Ok(Tools { bin: root.join("bin") })
}

impl Tools {
    /// Writes a .deb of the files that are named in `agent/Cargo.toml`.
    pub fn deb(&self, to: &Path, version: &str) -> Result<PathBuf> {
        let mut command = self.command("cargo-deb", to)?;
        command.args(["--no-build", "--no-strip", "--package", "steth", "--deb-version", version]);
        workspace::complete(command.arg("--output").arg(to))?;
        Ok(to.to_owned())
    }

    /// Writes an .rpm of the files that are named in `agent/Cargo.toml`, but for what is said otherwise of it, in TOML.
    pub fn rpm(&self, to: &Path, otherwise: &str) -> Result<PathBuf> {
        let mut command = self.command("cargo-generate-rpm", to)?;
        // Not Debian's find-requires, which speaks of packages of Debian; `ldd` says which versions of libraries.
        command.args(["--package", "agent", "--auto-req", "builtin", "--set-metadata", otherwise]);
        workspace::complete(command.arg("--output").arg(to))?;
        Ok(to.to_owned())
    }

    fn command(&self, name: &str, to: &Path) -> Result<Command> {
        let folder = to.parent().unwrap_or(to);
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(workspace::root());
        Ok(command)
    }
}
