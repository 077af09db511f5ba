//! Names the services that the kernel programs have met: by control group, by Postgres cluster, else by executable.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use procfs::process::Process;

use crate::model::{
    event::ServiceSeen,
    service::{KERNEL, name_from_cgroup, postgres_cluster, postgres_data_directory},
};

/// The unit of the agent's packages.
const OWN_UNIT: &str = "steth.service";
/// How deep below the root of a hierarchy groups are looked for; systemd and container runtimes use up to ten levels.
const MAX_DEPTH: usize = 16;

/// Finds names; remembers the paths of control groups.
#[derive(Debug)]
pub struct KernelServices {
    proc: PathBuf,
    unified: Option<PathBuf>,
    pids: Option<PathBuf>,
    paths: HashMap<(bool, u64), String>,
    /// Base name of this process' executable.
    executable: Option<String>,
}

impl KernelServices {
    /// Names by what procfs and the control group file systems say.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        let (unified, pids) = hierarchies();
        // An upgrade may unlink it later.
        let executable = std::env::current_exe().ok();
        let executable =
            executable.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Self { proc: proc.into(), unified, pids, paths: HashMap::new(), executable }
    }

    /// The name of a service.
    pub fn name(&mut self, service: &ServiceSeen) -> Arc<str> {
        if let Some(name) = self.cgroup_path(service).and_then(name_from_cgroup) {
            return name.into();
        }
        match service.cluster_pid {
            Some(postmaster) => self.cluster(postmaster, &service.executable).into(),
            None if service.executable.is_empty() => KERNEL.into(),
            None => service.executable.as_str().into(),
        }
    }

    /// Whether it is that of this process: of its control group, and of its executable or of the agent's unit. What only bears
    /// its name is not.
    pub fn is_own(&mut self, service: &ServiceSeen) -> bool {
        let is_executable = self.executable.as_ref() == Some(&service.executable);
        let Some(path) = self.cgroup_path(service).map(str::to_owned) else { return false };
        // Nearly all that are met are not, and need no further look.
        if !is_executable && name_from_cgroup(&path).as_deref() != Some(OWN_UNIT) {
            return false;
        }
        let is_version = |hierarchy: u32, controllers: &[String]| match service.cgroup_v1 {
            true => controllers.iter().any(|controller| controller == "pids"),
            false => hierarchy == 0,
        };
        let groups = Process::myself().and_then(|process| process.cgroups()).map(|groups| groups.0).unwrap_or_default();
        let own = groups.into_iter().find(|group| is_version(group.hierarchy, &group.controllers));
        own.is_some_and(|own| own.pathname == path)
    }

    fn cluster(&self, postmaster: u32, executable: &str) -> String {
        let Ok(process) = Process::new_with_root(self.proc.join(postmaster.to_string())) else {
            return executable.to_owned();
        };
        let arguments = process.cmdline().unwrap_or_default();
        let given = postgres_data_directory(arguments.iter().map(String::as_str)).filter(|path| path.starts_with('/'));
        match given.map(PathBuf::from).or_else(|| process.cwd().ok()) {
            Some(directory) => postgres_cluster(&directory.to_string_lossy()),
            None => executable.to_owned(),
        }
    }

    /// The group's path below its hierarchy's root. The number of a group is its directory's inode number.
    pub fn cgroup_path(&mut self, service: &ServiceSeen) -> Option<&str> {
        let key = (service.cgroup_v1, service.cgroup);
        if !self.paths.contains_key(&key) {
            let root = if service.cgroup_v1 { &self.pids } else { &self.unified };
            let path = root.as_deref().and_then(|root| find(root, service.cgroup)).unwrap_or_default();
            if path.is_empty() {
                return None;
            }
            self.paths.insert(key, path);
        }
        self.paths.get(&key).map(String::as_str)
    }
}

/// Where the unified hierarchy and that of the `pids` controller are mounted.
fn hierarchies() -> (Option<PathBuf>, Option<PathBuf>) {
    let mounts = Process::myself().and_then(|process| process.mountinfo()).map(|mounts| mounts.0).unwrap_or_default();
    let unified = mounts.iter().find(|mount| mount.fs_type == "cgroup2").map(|mount| mount.mount_point.clone());
    let pids = mounts
        .iter()
        .find(|mount| mount.fs_type == "cgroup" && mount.super_options.contains_key("pids"))
        .map(|mount| mount.mount_point.clone());
    (unified, pids)
}

fn find(root: &Path, inode: u64) -> Option<String> {
    if fs::metadata(root).is_ok_and(|attributes| attributes.ino() == inode) {
        return Some("/".into());
    }
    let mut folders = vec![(root.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        // A group that is gone by now was not the one.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if entry.ino() == inode {
                let below = path.strip_prefix(root).ok()?;
                return Some(format!("/{}", below.display()));
            }
            if depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_in_its_group_is_the_agents_own() {
        let mut services = KernelServices::new("/proc");
        let groups = Process::myself().unwrap().cgroups().unwrap().0;
        let Some(own) = groups.iter().find(|group| group.hierarchy == 0) else {
            return println!("skipped: there is no unified hierarchy here");
        };
        let name = std::env::current_exe().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let mut seen = |cgroup: u64, path: &str, executable: &str| {
            services.paths.insert((false, cgroup), path.to_owned());
            let executable = executable.to_owned();
            services.is_own(&ServiceSeen { number: 1, cgroup, cgroup_v1: false, executable, cluster_pid: None })
        };
        assert!(seen(1, &own.pathname, &name));
        assert!(!seen(1, &own.pathname, "sh"));
        assert!(!seen(2, "/user.slice/evil.scope", &name));
        // Who runs a program of this name, or makes a group of this name, is seen.
        assert!(!seen(3, "/user.slice/user@1000.service/app.slice/steth.service", "steth"));
    }

    #[test]
    fn a_group_is_found_by_its_number_at_any_depth() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("system.slice/nginx.service/inner");
        fs::create_dir_all(&deep).unwrap();
        let inode = fs::metadata(&deep).unwrap().ino();
        assert_eq!(find(root.path(), inode).as_deref(), Some("/system.slice/nginx.service/inner"));
        assert_eq!(find(root.path(), u64::MAX), None);
    }
}
