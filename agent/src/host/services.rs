//! Names processes from procfs alone: cgroup, executable, and for PostgreSQL the cluster. The kernel's own book
//! of services is kept elsewhere; this one serves where that is missing.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use procfs::process::{Process, Stat};

use super::Patience;
use crate::model::service::{
    KERNEL, Services, is_postgres, name_from_cgroups, name_from_executable, postgres_cluster, postgres_data_directory,
};

/// A name holds for as long as the process had been known when it was looked up, but no longer than this: names
/// change early in a life (exec, systemd moving the process), hardly ever later.
const LONGEST_TRUST: Duration = Duration::from_secs(60);

/// A name that was just looked up for the first time holds at least this long.
const SHORTEST_TRUST: Duration = Duration::from_millis(500);

/// Processes that were not asked for in this time are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// How far up postmaster is looked for. A backend is its child; more levels are only for safety.
const MAX_ANCESTORS: usize = 8;

/// PF_KTHREAD in the flags of `/proc/PID/stat` (include/linux/sched.h).
pub(super) const KERNEL_THREAD: u32 = 0x0020_0000;

/// Names processes by what procfs says of them.
pub struct ProcServices {
    proc: PathBuf,
    known: HashMap<(i32, u64), Known>,
    swept: Instant,
    patience: Patience,
}

struct Known {
    service: Arc<str>,
    first_seen: Instant,
    looked_up: Instant,
    asked: Instant,
}

impl ProcServices {
    /// Names the processes of the procfs that is mounted there.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), known: HashMap::new(), swept: Instant::now(), patience: Patience::default() }
    }

    fn name(&mut self, pid: i32, start_ticks: u64) -> Option<String> {
        let folder = self.proc.join(pid.to_string());
        let process = Process::new_with_root(folder.clone()).ok()?;
        if let Some(name) = fs::read_to_string(folder.join("cgroup")).ok().and_then(|text| name_from_cgroups(&text)) {
            return Some(name);
        }
        if let Some(executable) = executable(&process) {
            if is_postgres(&executable) {
                return self.cluster(process, &executable);
            }
            return Some(executable);
        }
        // No executable: a kernel thread, a zombie, or one that this user may not look into.
        let stat = process.stat().ok().filter(|stat| stat.starttime == start_ticks)?;
        Some(if is_kernel_thread(&stat) { KERNEL.to_owned() } else { stat.comm })
    }

    /// The name of the cluster that a server process belongs to: that of its postmaster, which is the topmost
    /// ancestor with the same executable. None if that does not answer.
    fn cluster(&mut self, process: Process, name: &str) -> Option<String> {
        let mut postmaster = process;
        for _ in 0..MAX_ANCESTORS {
            let parent = postmaster
                .stat()
                .ok()
                .and_then(|stat| Process::new_with_root(self.proc.join(stat.ppid.to_string())).ok());
            match parent.filter(|parent| executable(parent).as_deref() == Some(name)) {
                Some(parent) => postmaster = parent,
                None => break,
            }
        }
        let asked = postmaster.pid.unsigned_abs();
        let say = move || (postmaster.cmdline().unwrap_or_default(), postmaster.cwd().ok());
        let (arguments, cwd) = self.patience.ask(asked, say)?;
        let given = postgres_data_directory(arguments.iter().map(String::as_str)).filter(|path| path.starts_with('/'));
        // A server's working directory is its data directory, however the path was given.
        Some(match given.map(PathBuf::from).or(cwd) {
            Some(directory) => postgres_cluster(&directory.to_string_lossy()),
            None => name.to_owned(),
        })
    }

    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) > FORGET_AFTER {
            self.swept = now;
            self.known.retain(|_, known| now.duration_since(known.asked) <= FORGET_AFTER);
        }
    }
}

impl Services for ProcServices {
    fn service_of(&mut self, pid: i32, start_ticks: u64) -> Option<Arc<str>> {
        let now = Instant::now();
        self.sweep(now);
        let key = (pid, start_ticks);
        if let Some(known) = self.known.get_mut(&key) {
            known.asked = now;
            let trust = known.looked_up.duration_since(known.first_seen).clamp(SHORTEST_TRUST, LONGEST_TRUST);
            if now.duration_since(known.looked_up) < trust {
                return Some(Arc::clone(&known.service));
            }
        }
        let name = self.name(pid, start_ticks);
        match (self.known.get_mut(&key), name) {
            (Some(known), name) => {
                known.looked_up = now;
                // A process on its way out has no executable any more; it keeps its name.
                if let Some(name) = name.filter(|name| **name != *known.service) {
                    known.service = name.into();
                }
                Some(Arc::clone(&known.service))
            }
            (None, Some(name)) => {
                let service: Arc<str> = name.into();
                let known = Known { service: Arc::clone(&service), first_seen: now, looked_up: now, asked: now };
                self.known.insert(key, known);
                Some(service)
            }
            (None, None) => None,
        }
    }
}

fn executable(process: &Process) -> Option<String> {
    let path = process.exe().ok()?;
    name_from_executable(&path.to_string_lossy()).map(str::to_owned)
}

pub(super) fn is_kernel_thread(stat: &Stat) -> bool {
    stat.flags & KERNEL_THREAD != 0
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path};

    use super::*;

    /// A made-up process in a made-up procfs.
    fn process(root: &Path, pid: i32, parent: i32, executable: Option<&str>, cgroup: &str, arguments: &str) {
        let folder = root.join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup"), cgroup).unwrap();
        fs::write(folder.join("cmdline"), arguments.replace(' ', "\0")).unwrap();
        let flags = if executable.is_none() { KERNEL_THREAD } else { 0 };
        let zeros = "0 ".repeat(40);
        let stat = format!("{pid} (name {pid}) S {parent} 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 77 {zeros}\n");
        fs::write(folder.join("stat"), stat).unwrap();
        if let Some(executable) = executable {
            symlink(executable, folder.join("exe")).unwrap();
        }
        symlink("/srv/pg/data", folder.join("cwd")).unwrap();
    }

    fn name(root: &Path, pid: i32) -> Option<String> {
        ProcServices::new(root).service_of(pid, 77).map(|name| name.to_string())
    }

    #[test]
    fn the_unit_comes_before_the_executable() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 10, 1, Some("/usr/sbin/nginx"), "0::/system.slice/nginx.service\n", "nginx");
        process(root.path(), 11, 1, Some("/usr/sbin/nginx (deleted)"), "0::/\n", "nginx");
        assert_eq!(name(root.path(), 10).as_deref(), Some("nginx.service"));
        assert_eq!(name(root.path(), 11).as_deref(), Some("nginx"));
    }

    #[test]
    fn kernel_threads_share_one_name() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 2, 0, None, "0::/\n", "");
        assert_eq!(name(root.path(), 2).as_deref(), Some(KERNEL));
    }

    #[test]
    fn a_backend_is_named_by_its_postmasters_cluster() {
        let root = tempfile::tempdir().unwrap();
        let postgres = Some("/usr/lib/postgresql/15/bin/postgres");
        process(root.path(), 1, 0, Some("/sbin/init"), "0::/\n", "init");
        process(root.path(), 20, 1, postgres, "0::/\n", "postgres -D /var/lib/postgresql/15/main");
        process(root.path(), 21, 20, postgres, "0::/\n", "postgres: bob shop idle");
        process(root.path(), 30, 1, postgres, "0::/\n", "postgres -D relative");
        process(root.path(), 31, 30, postgres, "0::/system.slice/postgresql@15-main.service\n", "postgres: x");
        assert_eq!(name(root.path(), 20).as_deref(), Some("postgres:15/main"));
        assert_eq!(name(root.path(), 21).as_deref(), Some("postgres:15/main"));
        assert_eq!(name(root.path(), 30).as_deref(), Some("postgres:pg/data"));
        assert_eq!(name(root.path(), 31).as_deref(), Some("postgresql@15-main.service"));
    }

    #[test]
    fn a_process_that_is_gone_has_no_name_and_one_that_goes_keeps_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(name(root.path(), 40), None);
        process(root.path(), 40, 1, Some("/bin/sh"), "0::/\n", "sh");
        let mut services = ProcServices::new(root.path());
        let first = services.service_of(40, 77).unwrap();
        fs::remove_dir_all(root.path().join("40")).unwrap();
        services.known.values_mut().for_each(|known| known.looked_up -= LONGEST_TRUST);
        assert_eq!(services.service_of(40, 77), Some(first));
    }

    #[test]
    fn a_name_that_exec_changed_is_found_out() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 50, 1, Some("/bin/sh"), "0::/\n", "sh");
        let mut services = ProcServices::new(root.path());
        assert_eq!(services.service_of(50, 77).as_deref(), Some("sh"));
        fs::remove_file(root.path().join("50/exe")).unwrap();
        symlink("/usr/bin/psql", root.path().join("50/exe")).unwrap();
        services.known.values_mut().for_each(|known| known.looked_up -= SHORTEST_TRUST);
        assert_eq!(services.service_of(50, 77).as_deref(), Some("psql"));
    }

    #[test]
    fn processes_that_nobody_asks_for_are_forgotten() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 60, 1, Some("/bin/sh"), "0::/\n", "sh");
        let mut services = ProcServices::new(root.path());
        services.service_of(60, 77).unwrap();
        let later = Instant::now() + 2 * FORGET_AFTER;
        services.sweep(later);
        assert!(services.known.is_empty());
    }
}
