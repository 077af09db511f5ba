//! A Debian in a folder: commands in it, and systemd as its first process, in namespaces of its own on this kernel. Knows no
//! package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    process::{self, Process},
    wait,
};

/// A Debian on a busy machine has started its services by then.
const BOOTED: Duration = Duration::from_secs(120);

/// What is mounted in the root `$1`: what a container has. Settings of the kernel stay as they are.
const MOUNTS: &str = r#"
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --bind "$1/proc/sys" "$1/proc/sys"
mount -o remount,bind,ro "$1/proc/sys"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for node in null zero full random urandom tty; do touch "$1/dev/$node"; mount --bind "/dev/$node" "$1/dev/$node"; done
mkdir "$1/dev/pts" "$1/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
"#;

/// A copy of a root, gone when dropped.
pub struct Machine {
    folder: TempDir,
    booted: Option<Booted>,
}

struct Booted {
    /// systemd's number, as this kernel's first namespace has it.
    init: u32,
    cgroup: PathBuf,
    _process: Process,
}

impl Machine {
    /// Copies a root, beside it.
    ///
    /// # Errors
    /// If there is no room.
    pub fn copy(root: &Path) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("machine-").tempdir_in(root.parent().context("a root of its own")?)?;
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--reflink=auto"]).arg(root).arg(folder.path().join("root"));
        if !copy.status()?.success() {
            bail!("cannot copy {}", root.display());
        }
        Ok(Self { folder, booted: None })
    }

    /// A path in it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path.trim_start_matches('/'))
    }

    /// Starts systemd in it, and waits until it has started all.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn boot(&mut self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let unified = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (place, kind) = (words.nth(1)?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        });
        let name = self.folder.path().file_name().context("a folder with a name")?;
        let cgroup = unified.context("no cgroup2 is mounted")?.join(name);
        fs::create_dir_all(&cgroup)?;
        // Shared, as on a host: systemd mounts a service's credentials in a namespace beside its own, and where `/` is private, as it
        // leaves it in a container, that mount is seen by nobody (systemd 252, src/core/execute.c, setup_credentials).
        let inner = format!(
            "{MOUNTS}\nmount -t cgroup2 cgroup2 \"$1/sys/fs/cgroup\"\ncd \"$1\"\npivot_root . .\numount -l .\n\
             mount --make-rshared /\n\
             container=steth-test exec /lib/systemd/systemd --log-target=journal --show-status=false"
        );
        let script = format!(
            "echo $$ > '{}/cgroup.procs'; exec unshare --kill-child=KILL --pid --mount --uts --ipc --net --cgroup --fork \
             sh -c '{inner}' sh \"$1\"",
            cgroup.display()
        );
        let mut command = process::command("sh", None);
        command.args(["-c", &script, "sh"]).arg(self.path(""));
        let process = Process::start("systemd", command)?;
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let init = wait::poll("systemd", BOOTED, || Ok(fs::read_to_string(&children)?.trim().parse().ok()))?;
        self.booted = Some(Booted { init, cgroup, _process: process });
        wait::poll("all services of a clean Debian", BOOTED, || {
            let state = self.run("systemctl is-system-running 2>&1 || true")?;
            Ok(matches!(state.as_str(), "running" | "degraded").then_some(()))
        })
    }

    /// What a command of a shell says, whether it fails or not.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn output(&self, command: &str) -> Result<Output> {
        let mut outer = process::command(if self.booted.is_some() { "nsenter" } else { "unshare" }, None);
        match &self.booted {
            Some(Booted { init, .. }) => {
                outer.args(["--target", &init.to_string(), "--all", "--root"]);
                // Where this process is has no name in there.
                outer.args(["bash", "-c", &format!("cd /\n{command}")]);
            }
            None => {
                let script = format!("{MOUNTS}\nexec chroot \"$1\" bash -c \"$2\"");
                outer.args(["--mount", "--pid", "--fork", "sh", "-c", &script, "sh"]).arg(self.path("")).arg(command);
            }
        }
        outer.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        outer.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").current_dir("/");
        outer.output().with_context(|| format!("cannot run in the machine: {command}"))
    }

    /// What a command of a shell says on standard output, without the space around it.
    ///
    /// # Errors
    /// If it fails; with all that it said.
    pub fn run(&self, command: &str) -> Result<String> {
        let output = self.output(command)?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!("{command}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(booted) = self.booted.take() else { return };
        let cgroup = booted.cgroup.clone();
        // Its namespace ends with it, and all that lives there.
        drop(booted);
        let emptied = wait::poll("the machine's end", Duration::from_secs(20), || Ok(remove(&cgroup).ok()));
        if let Err(error) = emptied {
            eprintln!("{error}: {} stays", cgroup.display());
        }
    }
}

/// Removes a control group with all below it; fails while a process is in one.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for inner in fs::read_dir(cgroup)? {
        let inner = inner?;
        if inner.file_type()?.is_dir() {
            remove(&inner.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
