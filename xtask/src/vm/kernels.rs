//! Debian's kernels: downloaded and unpacked, never installed. The lists of packages are the command's own, so those of the host
//! stay as they are and need not be Debian 12's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// One kernel that is tried.
#[derive(Debug)]
pub struct Kernel {
    pub version: &'static str,
    /// The package that depends on the newest of its kind.
    meta: &'static str,
}

/// All of them.
pub const KERNELS: [Kernel; 2] = [
    Kernel { version: "6.1", meta: "linux-image-cloud-amd64" },
    Kernel { version: "6.12", meta: "linux-image-6.12-cloud-amd64" },
];

/// What is needed of one.
pub struct Files {
    pub image: PathBuf,
    pub modules: PathBuf,
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads a kernel, if it is not there.
///
/// # Errors
/// The mirror cannot be reached, or does not have it.
pub fn get(kernel: &Kernel, folder: &Path) -> Result<Files> {
    let unpacked = folder.join(format!("kernel-{}", kernel.version));
    if !unpacked.exists() {
        let apt = Apt::new(folder)?;
        let depends = workspace::output_of(apt.command("apt-cache").args(["depends", kernel.meta])).unwrap_or_default();
        let Some(package) = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")) else {
            bail!("the mirror has no {}", kernel.meta);
        };
        let packages = folder.join(format!("packages-{}", kernel.version));
        fs::create_dir_all(&packages)?;
        workspace::complete(apt.command("apt-get").args(["download", package]).current_dir(&packages))?;
        let package = only_file(&packages)?;
        let parts = folder.join(format!("kernel-{}.part", kernel.version));
        workspace::complete(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&parts))?;
        fs::rename(&parts, &unpacked)?;
        fs::remove_dir_all(&packages)?;
    }
    let boot = fs::read_dir(unpacked.join("boot"))?.flatten().map(|entry| entry.path());
    let is_image = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    let image = boot.into_iter().find(is_image).context("the package has no kernel")?;
    Ok(Files { image, modules: only_file(&unpacked.join("lib/modules"))? })
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let first = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
    Ok(first.path())
}

/// apt with lists of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        let own = folder.join("apt");
        for name in ["lists/partial", "cache/archives/partial", "sources.d"] {
            fs::create_dir_all(own.join(name))?;
        }
        let sources = own.join("sources.list");
        let suites = [("debian", "bookworm"), ("debian", "bookworm-updates"), ("debian-security", "bookworm-security")];
        let lines = suites.map(|(archive, suite)| {
            format!("deb [signed-by={KEYRING}] http://deb.debian.org/{archive} {suite} main\n")
        });
        fs::write(&sources, lines.concat())?;
        let set = |key: &str, path: PathBuf| format!("{key}={}", path.display());
        let apt = Self {
            options: vec![
                set("Dir::Etc::SourceList", sources),
                set("Dir::Etc::SourceParts", own.join("sources.d")),
                set("Dir::State::Lists", own.join("lists")),
                set("Dir::Cache", own.join("cache")),
                "APT::Architecture=amd64".to_owned(),
                // What is downloaded lies in a folder that only its owner may enter.
                "APT::Sandbox::User=root".to_owned(),
            ],
        };
        workspace::complete(apt.command("apt-get").args(["--quiet", "update"]).stdout(std::io::stderr()))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}
