//! Installs Debian packages without side effects: no service is started or left enabled, no PostgreSQL cluster is
//! created, no question is asked. Does not know what the packages are for.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::requirements::command;
use crate::workspace;

/// Lists older than this may name versions that the mirrors no longer have.
const LISTS_FRESH: Duration = Duration::from_secs(24 * 60 * 60);
const LISTS: &str = "/var/lib/apt/lists";
/// Asked by `invoke-rc.d` and `deb-systemd-invoke` before they start anything; 101 is "no".
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# Put here by `cargo xtask setup` of steth for the time of one apt-get; may be removed.\nexit 101\n";
/// Read by postgresql-common when the first server package is configured.
const NO_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/steth-setup.conf";
const NO_CLUSTER_TEXT: &str = "# Put here by `cargo xtask setup` of steth for the time of one apt-get; may be removed.\ncreate_main_cluster = false\n";
/// Services that packages of the list enable at boot.
const SERVICES: [&str; 4] = ["pgbouncer", "prometheus", "prometheus-node-exporter", "prometheus-alertmanager"];

/// Installs packages with what they depend on, not what they recommend.
///
/// # Errors
/// Not Debian, not root, or apt-get fails.
pub fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "));
    if !command("apt-get") {
        bail!("this machine has no apt-get; install by its own means what Debian 12 has as: {}", packages.join(" "));
    }
    if workspace::output_of(Command::new("id").arg("-u")).as_deref() != Some("0") {
        bail!("installing packages needs root; as root: {by_hand}");
    }

    let _policy = TemporaryFile::place(POLICY, POLICY_TEXT, 0o755)?;
    let _no_cluster = TemporaryFile::place(NO_CLUSTER, NO_CLUSTER_TEXT, 0o644)?;
    if lists_are_stale() || !all_have_candidates(packages) {
        workspace::complete(apt_get().arg("update"))?;
    }
    let mut install = apt_get();
    // What is there already stays as it is.
    install.args(["install", "--yes", "--no-install-recommends", "--no-upgrade"]).args(packages);
    if workspace::complete(&mut install).is_err() {
        eprintln!("once more, with fresh package lists");
        workspace::complete(apt_get().arg("update"))?;
        workspace::complete(&mut install)?;
    }
    for service in SERVICES.into_iter().filter(|service| packages.contains(service) && command("systemctl")) {
        // Installed for its program: the machine's owner did not ask for a service at each boot.
        if let Err(error) = workspace::complete(Command::new("systemctl").args(["disable", "--quiet", service])) {
            eprintln!("{error:#}; {service} will start at the next boot, unless you disable it");
        }
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"])
        .args(["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        // Results go to stdout, and a package is none.
        .stdout(io::stderr());
    command
}

fn lists_are_stale() -> bool {
    let newest = fs::read_dir(LISTS)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("_dists_"))
        .filter_map(|entry| entry.metadata().ok()?.modified().ok())
        .max();
    newest.is_none_or(|newest| newest.elapsed().is_ok_and(|age| age > LISTS_FRESH))
}

fn all_have_candidates(packages: &[&str]) -> bool {
    let known = workspace::output_of(Command::new("apt-cache").arg("policy").args(packages)).unwrap_or_default();
    let candidates = known.lines().filter(|line| line.contains("Candidate:") && !line.contains("(none)")).count();
    candidates == packages.len()
}

/// A file that goes when the value does. One that somebody else put there stays as it is.
struct TemporaryFile {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl TemporaryFile {
    fn place(path: &str, text: &str, mode: u32) -> Result<Option<Self>> {
        let path = Path::new(path);
        // One of an interrupted run reads the same, and is taken over.
        if path.exists() && fs::read_to_string(path).ok().as_deref() != Some(text) {
            return Ok(None);
        }
        let parents = path.ancestors().skip(1).take_while(|dir| !dir.exists());
        let mut file = Self { path: path.to_owned(), made: parents.map(Path::to_owned).collect() };
        file.made.reverse();
        for dir in &file.made {
            fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        fs::write(path, text)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(file))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("cannot remove {}: {error}; remove it by hand", self.path.display());
        }
        for dir in self.made.iter().rev() {
            // Not empty once a package has put something there.
            let _ = fs::remove_dir(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_file_goes_with_its_directories_and_never_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        let shown = path.to_str().unwrap();

        let file = TemporaryFile::place(shown, "ours", 0o755).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        drop(file);
        assert!(!dir.path().join("a").exists());

        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "theirs").unwrap();
        drop(TemporaryFile::place(shown, "ours", 0o755).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");

        fs::write(&path, "ours").unwrap();
        drop(TemporaryFile::place(shown, "ours", 0o755).unwrap());
        assert!(!path.exists());
    }
}
