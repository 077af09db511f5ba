//! CPython 3.13, which Debian 12 does not have: Debian 13's, with the libraries that it needs, downloaded and unpacked into a folder
//! where it runs as in a container; never installed. Knows Debian's packages, not what is tested with them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

const PACKAGES: &[&str] = &[
    "libc6",
    "libexpat1",
    "libpython3.13-minimal",
    "libpython3.13-stdlib",
    "libssl3t64",
    "python3.13-minimal",
    "zlib1g",
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where the interpreter is in the folder.
pub const PYTHON: &str = "/usr/bin/python3.13";

/// The folder, in one that outlives the test: it is made once.
///
/// # Errors
/// No mirror of Debian can be reached, or it has other packages.
pub fn root(within: &Path) -> Result<PathBuf> {
    let root = within.join("trixie-python");
    if root.join("paths").is_dir() {
        return Ok(root);
    }
    let parts = tempfile::Builder::new().prefix("trixie-").tempdir_in(within)?;
    let (apt, new) = (parts.path().join("apt"), parts.path().join("root"));
    for folder in ["lists/partial", "cache/archives/partial", "sources.d", "packages"] {
        fs::create_dir_all(apt.join(folder))?;
    }
    for folder in ["usr/lib", "usr/lib64", "usr/bin", "tmp", "paths"] {
        fs::create_dir_all(new.join(folder))?;
    }
    for folder in ["lib", "lib64", "bin"] {
        symlink(format!("usr/{folder}"), new.join(folder))?;
    }
    let sources = format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian trixie main\n");
    fs::write(apt.join("sources.list"), sources)?;
    fs::write(apt.join("status"), "")?;
    run(of_apt(&apt).arg("update"))?;
    run(of_apt(&apt).arg("download").args(PACKAGES).current_dir(apt.join("packages")))?;
    for package in fs::read_dir(apt.join("packages"))?.flatten() {
        run(Command::new("dpkg-deb").arg("--extract").arg(package.path()).arg(&new))?;
    }
    ensure!(new.join(PYTHON.trim_start_matches('/')).exists(), "Debian 13 has no {PYTHON}");
    // Another test may have been faster.
    let moved = fs::rename(&new, &root);
    if root.join("paths").is_dir() { Ok(root) } else { moved.map(|()| root).context("cannot keep it") }
}

/// With lists of its own: those of the host stay as they are.
fn of_apt(folder: &Path) -> Command {
    let mut command = Command::new("apt-get");
    for (key, path) in [
        ("Dir::Etc::SourceList", "sources.list"),
        ("Dir::Etc::SourceParts", "sources.d"),
        ("Dir::State::Lists", "lists"),
        ("Dir::State::Status", "status"),
        ("Dir::Cache", "cache"),
    ] {
        command.args(["-o", &format!("{key}={}", folder.join(path).display())]);
    }
    // What is downloaded lies in a folder that only its owner may enter.
    command.args(["-o", "APT::Sandbox::User=root", "-o", "APT::Architecture=amd64", "-o", "Acquire::Languages=none"]);
    command.args(["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "--quiet"]);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let name = format!("{:?}", command.get_program());
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
