//! A clean Debian 12 in a folder, with what the README presupposes: some packages, a Rust toolchain, a clone of the repository. The
//! Debian is made once; a newcomer gets a copy of it. Knows no namespace.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{
    group::Group,
    host_settings::{Hidden, HostSettings},
    output::Running,
};
use crate::{debian, workspace};

/// What any Debian that is installed has and the smallest one lacks: without it no registry is believed.
const INSTALLED: &str = "ca-certificates";
/// What rustup's installer puts beside itself; each is rustup under another name.
const OF_RUSTUP: [&str; 7] = ["cargo", "rustc", "rustdoc", "rustfmt", "cargo-fmt", "cargo-clippy", "clippy-driver"];
/// A mirror far away, on a slow machine.
const MADE_WITHIN: Duration = Duration::from_secs(60 * 60);
const COPIED_WITHIN: Duration = Duration::from_secs(10 * 60);
/// How a copy's folder is called; those that are there at the start are of runs that were killed.
const COPY: &str = "machine-";

/// The toolchain of this host that a newcomer gets.
pub struct Toolchain {
    pub name: String,
    pub folder: PathBuf,
    rustup: PathBuf,
}

impl Toolchain {
    /// The one that the repository asks for.
    ///
    /// # Errors
    /// It is not from rustup.
    pub fn find() -> Result<Self> {
        let rustc =
            workspace::output_of(Command::new("rustup").args(["which", "rustc"]).current_dir(workspace::root()));
        let rustc = PathBuf::from(rustc.context("rustup finds no rustc; a newcomer's toolchain is from rustup")?);
        let folder = rustc.ancestors().nth(2).context("a rustc in a toolchain")?;
        let name = folder.file_name().context("a toolchain with a name")?.to_string_lossy().into_owned();
        let rustup = workspace::output_of(Command::new("sh").args(["-c", "command -v rustup"]));
        let rustup = fs::canonicalize(rustup.context("rustup is not in PATH")?)?;
        Ok(Self { name, folder: folder.to_owned(), rustup })
    }

    /// Puts there what `rustup-init` does, but for the toolchain itself, which is mounted.
    fn install(&self, home: &Path) -> Result<()> {
        let bin = home.join(".cargo/bin");
        fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
        fs::copy(&self.rustup, bin.join("rustup")).with_context(|| format!("cannot copy {}", self.rustup.display()))?;
        for name in OF_RUSTUP {
            symlink("rustup", bin.join(name))?;
        }
        let settings = format!("version = \"12\"\nprofile = \"default\"\ndefault_toolchain = \"{}\"\n", self.name);
        fs::create_dir_all(home.join(".rustup/toolchains").join(&self.name))?;
        fs::write(home.join(".rustup/settings.toml"), settings)?;
        Ok(())
    }
}

/// A copy of a clean Debian, gone when dropped.
pub struct Copy(TempDir);

impl Copy {
    /// Copies it, and puts the toolchain and the clone in.
    ///
    /// # Errors
    /// There is no room, or nothing to clone.
    pub fn make(clean: &Path, toolchain: &Toolchain, hidden: &Hidden) -> Result<Self> {
        let folder = clean.parent().context("a folder that it is kept in")?;
        remove_left(folder)?;
        let copy = Self(tempfile::Builder::new().prefix(COPY).tempdir_in(folder).context("cannot make a folder")?);
        let mut command = Command::new("cp");
        command.args(["--archive", "--reflink=auto"]).arg(clean).arg(copy.root());
        Running::start(&mut command, "cp", hidden)?.wait(COPIED_WITHIN)?;
        toolchain.install(&copy.root().join("root"))?;
        Ok(copy)
    }

    pub fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    /// Clones what is committed.
    ///
    /// # Errors
    /// git fails.
    pub fn clone_repository(&self, to: &str, hidden: &Hidden) -> Result<()> {
        let mut git = git();
        let clone = self.root().join(to.trim_start_matches('/'));
        git.args(["clone", "--quiet", "--no-hardlinks"]).arg(workspace::root()).arg(clone);
        Running::start(&mut git, "git clone", hidden)?.wait(COPIED_WITHIN)?;
        Ok(())
    }
}

/// The clean Debian, made from Debian's mirror in some minutes if it is not there or has other packages.
///
/// # Errors
/// Not root, or the mirror does not answer.
pub fn clean(folder: &Path, packages: &[&str], settings: &HostSettings, group: &Group) -> Result<PathBuf> {
    let packages = [&[INSTALLED], packages].concat().join(",");
    debian::kept(folder, "debian12", &packages, |tree| {
        let mut command = mmdebstrap(&packages, tree, settings, group);
        Running::start(&mut command, "mmdebstrap", &settings.hidden)?.wait(MADE_WITHIN)?;
        Ok(())
    })
}

/// Of mirrors as this host has them; what says which these are does not stay in it.
fn mmdebstrap(packages: &str, target: &Path, settings: &HostSettings, group: &Group) -> Command {
    // It mounts folders of this host while it works, and killed it leaves children.
    let mut command = group.command_with_own_mounts("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", &format!("--include={packages}")]);
    // As apt installs what a newcomer names.
    command.arg("--aptopt=APT::Install-Recommends \"true\"");
    command.arg(format!("--aptopt={}", settings.apt_options().display()));
    command.arg(debian::UNFLUSHED);
    command.arg(
        "--customize-hook=cd \"$1/etc\" && rm -f apt/apt.conf.d/99mmdebstrap dpkg/dpkg.cfg.d/99mmdebstrap resolv.conf",
    );
    if !settings.sources().is_empty() {
        command.arg("--customize-hook=rm -rf \"$1\"/etc/apt/sources.list \"$1\"/etc/apt/sources.list.d/*");
    }
    command.arg(debian::RELEASE).arg(target).args(settings.sources());
    command
}

/// git in this repository, whoever owns it.
pub fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(workspace::root());
    git.envs([("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")]);
    git
}

fn remove_left(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(COPY) {
            debian::remove(&entry.path())?;
        }
    }
    Ok(())
}
