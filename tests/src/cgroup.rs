//! Takes a process out of its systemd unit or container, so that its service is its executable's name. Knows where
//! cgroup hierarchies are mounted (cgroups(7)), not what they control.
//!
//! Tests tell their programs apart by service; run from a login session or a CI runner's unit they would all be
//! that one.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// Moves a process to the root of every hierarchy in which it is not; its later children begin there too.
///
/// # Errors
/// Without the privilege, or in a container that does not see the roots.
pub fn leave_unit(pid: u32) -> Result<()> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if path != "/" {
            let root = root_of(controllers, &mounts).with_context(|| format!("no mount for cgroup {line}"))?;
            let procs = root.join("cgroup.procs");
            fs::write(&procs, pid.to_string()).with_context(|| format!("cannot write {}", procs.display()))?;
        }
    }
    Ok(())
}

/// A control group of the test's own, with those above it that were not there; removed when dropped.
#[derive(Debug)]
pub struct Group {
    folders: Vec<PathBuf>,
}

/// Processes that were killed leave their group a moment later.
const EMPTY: Duration = Duration::from_secs(5);

impl Group {
    /// Makes the group `path` in the hierarchy with these controllers; without controllers in that of version 2.
    ///
    /// # Errors
    /// If that hierarchy is not mounted here, or groups cannot be made in it.
    pub fn make(controllers: &str, path: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let kind = if controllers.is_empty() { "version 2" } else { controllers };
        let root = root_of(controllers, &mounts).with_context(|| format!("no control groups ({kind}) mounted"))?;
        let mut group = Self { folders: vec![root] };
        for component in path.split('/').filter(|component| !component.is_empty()) {
            let folder = group.folder().join(component);
            if let Err(error) = fs::create_dir(&folder)
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                return Err(error).with_context(|| format!("cannot make {}", folder.display()));
            }
            group.folders.push(folder);
        }
        Ok(group)
    }

    /// Makes a group whose processes read from the disk below a folder only so often a second, however fast the disk is and
    /// whoever else uses it.
    ///
    /// # Errors
    /// If there is no disk below the folder, or this kernel limits nobody.
    pub fn with_slow_disk(path: &str, folder: &Path, reads_per_second: u32) -> Result<Self> {
        let disk = disk_below(folder)?;
        // Version 1 first: where its controller is mounted, version 2 does not have it.
        let versions = [
            ("blkio", "blkio.throttle.read_iops_device", format!("{disk} {reads_per_second}")),
            ("", "io.max", format!("{disk} riops={reads_per_second}")),
        ];
        Self::limited(path, versions)
    }

    /// Makes a group whose processes have so much memory together, and then are killed.
    ///
    /// # Errors
    /// If this kernel limits nobody.
    pub fn with_memory(path: &str, bytes: u64) -> Result<Self> {
        let versions = [("memory", "memory.limit_in_bytes"), ("", "memory.max")];
        Self::limited(path, versions.map(|(controllers, file)| (controllers, file, bytes.to_string())))
    }

    /// Leaves a group with limited memory no more than what it has now.
    ///
    /// # Errors
    /// If its memory is not limited, or it has more by now and nothing of that can be taken back.
    pub fn limit_to_what_it_has(&self) -> Result<()> {
        let mut versions = [("memory.usage_in_bytes", "memory.limit_in_bytes"), ("memory.current", "memory.max")]
            .map(|files| (self.folder().join(files.0), self.folder().join(files.1)))
            .into_iter()
            .filter(|(_, limit)| limit.exists());
        let (usage, limit) = versions.next().context("the memory of this group is not limited")?;
        let bytes = fs::read_to_string(&usage)?;
        fs::write(&limit, bytes).with_context(|| format!("cannot write {}", limit.display()))
    }

    /// Makes a group with the first of these limits, each of a hierarchy, that can be set.
    fn limited(path: &str, limits: [(&str, &str, String); 2]) -> Result<Self> {
        let mut why = Vec::new();
        for (controllers, file, limit) in limits {
            let limited = Self::make(controllers, path).and_then(|group| {
                let file = group.folder().join(file);
                fs::write(&file, limit).with_context(|| format!("cannot write {}", file.display()))?;
                Ok(group)
            });
            match limited {
                Ok(group) => return Ok(group),
                Err(error) => why.push(format!("{error:#}")),
            }
        }
        bail!("{}", why.join("; "))
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// If it is gone.
    pub fn enter(&self, pid: u32) -> Result<()> {
        let procs = self.folder().join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("cannot write {}", procs.display()))
    }

    /// A command that runs inside the group: a shell enters it and becomes the program.
    pub fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = process::command("sh", None);
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]);
        command.arg(self.folder()).arg(program).args(arguments);
        command
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folders[self.folders.len() - 1]
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let own = self.folder().to_owned();
        let _ = crate::wait::poll("the end of a group", EMPTY, || Ok(fs::remove_dir(&own).is_ok().then_some(())));
        // The root cannot be removed, nor what others use as well.
        for folder in self.folders.iter().skip(1).rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Number of the whole disk that a folder lies on.
fn disk_below(folder: &Path) -> Result<String> {
    let device = fs::metadata(folder)?.dev();
    let block = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    let block = fs::canonicalize(block).with_context(|| format!("no disk below {}", folder.display()))?;
    let is_part = block.join("partition").exists();
    let disk = block.parent().filter(|_| is_part).unwrap_or(&block);
    Ok(fs::read_to_string(disk.join("dev"))?.trim().to_owned())
}

/// Where the hierarchy with these controllers is mounted; without controllers it is that of version 2.
fn root_of(controllers: &str, mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|mount| {
        let fields: Vec<&str> = mount.split(' ').collect();
        let [_, path, kind, options, ..] = fields[..] else { return None };
        let is_it = match controllers {
            "" => kind == "cgroup2",
            _ => kind == "cgroup" && controllers.split(',').all(|one| options.split(',').any(|other| other == one)),
        };
        is_it.then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Process, command};

    const MOUNTS: &str = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n\
                          cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n\
                          cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n";

    #[test]
    fn each_hierarchy_is_found_where_it_is_mounted() {
        let root = |controllers| root_of(controllers, MOUNTS).map(|path| path.display().to_string());
        assert_eq!(root("").as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(root("name=systemd").as_deref(), Some("/sys/fs/cgroup/systemd"));
        assert_eq!(root("cpu,cpuacct").as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(root("memory"), None);
    }

    #[test]
    fn a_process_leaves_its_group() {
        need_root!();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let Some(root) = root_of("", &mounts) else { skipped!("needs cgroup version 2") };
        let mut other = Process::start("cat", command("cat", None)).unwrap();
        if let Err(error) = leave_unit(other.id()) {
            skipped!("needs to leave its unit or container: {error:#}");
        }
        other.wait(Duration::from_secs(10)).unwrap();
        let group = root.join(crate::unique_name("grp"));
        if let Err(error) = fs::create_dir(&group) {
            skipped!("cannot make a cgroup: {error}");
        }
        let mut cat = Process::start("cat", command("cat", None)).unwrap();
        fs::write(group.join("cgroup.procs"), cat.id().to_string()).unwrap();
        let own = || fs::read_to_string(cat.proc_folder().join("cgroup")).unwrap();
        let before = own();
        leave_unit(cat.id()).unwrap();
        let after = own();
        cat.wait(Duration::from_secs(10)).unwrap();
        fs::remove_dir(&group).unwrap();
        assert!(before.contains("/grp-") && after.lines().all(|line| line.ends_with(":/")), "{before}{after}");
    }
}
