//! Names the services that the kernel programs have met: by control group, by Postgres cluster, else by executable.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use procfs::process::{MountInfo, Process};
use steth_probes::limits;

use super::Patience;
use crate::model::{
    event::ServiceSeen,
    service::{KERNEL, name_from_cgroup, postgres_cluster, postgres_data_directory},
};

/// The unit of the agent's packages.
const OWN_UNIT: &str = "steth.service";
/// How deep below the root of a hierarchy groups are looked for; systemd and container runtimes use up to ten levels.
const MAX_DEPTH: usize = 16;

/// Groups whose paths are remembered.
const MOST_PATHS: usize = 4_096;

/// Finds names; remembers the paths of control groups.
#[derive(Debug)]
pub struct KernelServices {
    proc: PathBuf,
    unified: Option<Hierarchy>,
    pids: Option<Hierarchy>,
    paths: HashMap<(bool, u64), String>,
    /// Base name of this process' executable.
    executable: Option<&'static str>,
    /// Of what a process says of itself.
    patience: Patience,
}

/// Where control groups are mounted.
#[derive(Debug)]
struct Hierarchy {
    folder: PathBuf,
    /// Which group is seen there; in a container it may be its own.
    top: String,
}

impl Hierarchy {
    /// A group's path below the folder, from the one that `/proc/PID/cgroup` tells.
    fn below<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.top.trim_end_matches('/'))?;
        if rest.is_empty() { Some("/") } else { rest.starts_with('/').then_some(rest) }
    }
}

/// Base name of this process' executable, as the kernel programs cut it; as it was at the first look, since an upgrade may unlink it.
fn own_executable() -> Option<&'static str> {
    static OWN: OnceLock<Option<String>> = OnceLock::new();
    let own = OWN.get_or_init(|| {
        let executable = std::env::current_exe().ok()?;
        let name = executable.file_name()?.to_string_lossy();
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        Some(name.get(..name.floor_char_boundary(limits::EXE_LEN - 1))?.to_owned())
    });
    own.as_deref()
}

impl KernelServices {
    /// Names by what procfs and the control group file systems say.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        let (unified, pids) = hierarchies();
        Self {
            proc: proc.into(),
            unified,
            pids,
            paths: HashMap::new(),
            executable: own_executable(),
            patience: Patience::default(),
        }
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
        let is_executable = self.executable == Some(&*service.executable);
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
        let hierarchy = self.hierarchy(service.cgroup_v1);
        own.zip(hierarchy).is_some_and(|(own, hierarchy)| hierarchy.below(&own.pathname) == Some(&path))
    }

    fn cluster(&mut self, postmaster: u32, executable: &str) -> String {
        let folder = self.proc.join(postmaster.to_string());
        let directory = move || {
            let process = Process::new_with_root(folder).ok()?;
            let arguments = process.cmdline().unwrap_or_default();
            let given = postgres_data_directory(arguments.iter().map(String::as_str));
            given.filter(|path| path.starts_with('/')).map(PathBuf::from).or_else(|| process.cwd().ok())
        };
        match self.patience.ask(postmaster, directory).flatten() {
            Some(directory) => postgres_cluster(&directory.to_string_lossy()),
            None => executable.to_owned(),
        }
    }

    fn hierarchy(&self, version_1: bool) -> Option<&Hierarchy> {
        if version_1 { self.pids.as_ref() } else { self.unified.as_ref() }
    }

    /// The group's path below its hierarchy's root. The number of a group is its directory's inode number.
    pub fn cgroup_path(&mut self, service: &ServiceSeen) -> Option<&str> {
        let key = (service.cgroup_v1, service.cgroup);
        if !self.paths.contains_key(&key) {
            let hierarchy = self.hierarchy(service.cgroup_v1);
            let path = hierarchy.and_then(|it| find(&it.folder, service.cgroup)).unwrap_or_default();
            if path.is_empty() {
                return None;
            }
            // Groups come and go; those that are still there are found again.
            if self.paths.len() >= MOST_PATHS {
                self.paths.clear();
            }
            self.paths.insert(key, path);
        }
        self.paths.get(&key).map(String::as_str)
    }
}

/// Where the unified hierarchy and that of the `pids` controller are mounted.
fn hierarchies() -> (Option<Hierarchy>, Option<Hierarchy>) {
    let mounts = Process::myself().and_then(|process| process.mountinfo()).map(|mounts| mounts.0).unwrap_or_default();
    let of = |mount: &MountInfo| Hierarchy { folder: mount.mount_point.clone(), top: mount.root.clone() };
    let is_pids = |mount: &&MountInfo| mount.fs_type == "cgroup" && mount.super_options.contains_key("pids");
    let unified = mounts.iter().find(|mount| mount.fs_type == "cgroup2").map(of);
    (unified, mounts.iter().find(is_pids).map(of))
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
    fn a_group_is_known_also_where_only_a_part_of_its_hierarchy_is_mounted() {
        let below = |top: &str, path: &'static str| Hierarchy { folder: PathBuf::new(), top: top.into() }.below(path);
        assert_eq!(below("/", "/system.slice/a.service"), Some("/system.slice/a.service"));
        assert_eq!(below("/", "/"), Some("/"));
        assert_eq!(below("/docker/1", "/docker/1"), Some("/"));
        assert_eq!(below("/docker/1", "/docker/1/inner"), Some("/inner"));
        assert_eq!(below("/docker/1", "/docker/12"), None);
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
