//! What the host says about itself in `/proc` and `/sys`: CPU, memory, descriptors, load, pressure, disks, network,
//! file systems, and its processes by service. Knows nothing of probes; reads, never writes.
//!
//! [`Reader`] gives node_exporter's metrics, [`Processes`] process-exporter's. Both are read once a window and keep
//! only what makes their counters monotonic. The procfs crate parses wherever it has the file and all of its
//! fields; where a file is parsed by hand, the file's module says why.
//!
//! Nothing here reads what is slow per core (`scaling_cur_freq` waits for each core's answer).

pub mod code;
mod cpu;
mod disk;
mod fd;
mod files;
mod filesystem;
mod kernel_services;
mod load;
mod memory;
mod memory_limit;
mod netstat;
mod network;
mod patience;
mod postgres_settings;
mod pressure;
pub mod process_status;
mod processes;
mod schedstat;
mod services;
mod sockets;
mod stat;
mod system;
mod vmstat;

use std::{
    io,
    path::{Path, PathBuf},
    ptr,
};

pub use kernel_services::KernelServices;
pub use patience::Patience;
pub use postgres_settings::{max_connections, server_version};
pub use processes::Processes;
pub use services::ProcServices;
pub use sockets::{socket_holders, unix_inodes};

use self::files::Files;
use crate::model::{metric::Metric, snapshot::Series};

/// What to read, and from where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The families that are on.
    pub families: Vec<Family>,
    /// Where procfs is mounted.
    pub proc: PathBuf,
    /// Where sysfs is mounted.
    pub sys: PathBuf,
    /// Where udev keeps what it knows of devices.
    pub udev: PathBuf,
}

impl Default for Options {
    /// Everything, from where it is on every host.
    fn default() -> Self {
        Self { families: Family::ALL.to_vec(), proc: "/proc".into(), sys: "/sys".into(), udev: "/run/udev/data".into() }
    }
}

/// One group of metrics that is switched on or off as a whole: node_exporter's collectors, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `node_cpu_*`
    Cpu,
    /// `node_disk_*`
    Diskstats,
    /// `node_entropy_*`
    Entropy,
    /// `node_filefd_*`
    Filefd,
    /// `node_filesystem_*`
    Filesystem,
    /// `node_load*`
    Loadavg,
    /// `node_memory_*`
    Meminfo,
    /// `node_network_*`: state and properties of the interfaces
    Netclass,
    /// `node_network_*`: traffic
    Netdev,
    /// `node_netstat_*`
    Netstat,
    /// `node_pressure_*`
    Pressure,
    /// `node_schedstat_*`
    Schedstat,
    /// `node_sockstat_*`
    Sockstat,
    /// `node_intr_total`, `node_context_switches_total`, `node_forks_total`, `node_boot_time_seconds`, `node_procs_*`
    Stat,
    /// `node_time_*`
    Time,
    /// `node_uname_info`
    Uname,
    /// `node_vmstat_*`
    Vmstat,
}

impl Family {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Cpu,
        Self::Diskstats,
        Self::Entropy,
        Self::Filefd,
        Self::Filesystem,
        Self::Loadavg,
        Self::Meminfo,
        Self::Netclass,
        Self::Netdev,
        Self::Netstat,
        Self::Pressure,
        Self::Schedstat,
        Self::Sockstat,
        Self::Stat,
        Self::Time,
        Self::Uname,
        Self::Vmstat,
    ];

    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Diskstats => "diskstats",
            Self::Entropy => "entropy",
            Self::Filefd => "filefd",
            Self::Filesystem => "filesystem",
            Self::Loadavg => "loadavg",
            Self::Meminfo => "meminfo",
            Self::Netclass => "netclass",
            Self::Netdev => "netdev",
            Self::Netstat => "netstat",
            Self::Pressure => "pressure",
            Self::Schedstat => "schedstat",
            Self::Sockstat => "sockstat",
            Self::Stat => "stat",
            Self::Time => "time",
            Self::Uname => "uname",
            Self::Vmstat => "vmstat",
        }
    }

    /// The family of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|family| family.name() == name)
    }
}

/// Something that could not be read; all else was.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// This kernel, or this configuration of it, does not have the file. Not an error, but the family is missing.
    #[error("this kernel has no {}", .path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("cannot read {}: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The contents are not what the kernel's documentation says.
    #[error("cannot understand {}: {what}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was not understood.
        what: String,
    },
    /// A mounted file system has not answered in time, mostly a network file system whose server is gone. It is
    /// asked again once it has answered.
    #[error("the file system at {mountpoint} does not answer; its node_filesystem_device_error is 1 until it does")]
    MountSilent {
        /// Where it is mounted.
        mountpoint: String,
    },
    /// Not asked: too many file systems do not answer, and each of them holds a thread.
    #[error("file systems not asked: {count}, because {silent} others do not answer")]
    MountsNotAsked {
        /// How many were left out.
        count: usize,
        /// How many are silent.
        silent: usize,
    },
    /// Some processes' files are closed to this user.
    #[error("processes that could not be read fully: {count} (permission denied; {})", denied_advice(*.is_root))]
    ProcessesDenied {
        /// How many.
        count: usize,
        /// Whether root was denied.
        is_root: bool,
    },
}

fn denied_advice(is_root: bool) -> &'static str {
    match is_root {
        // Such as a process that has no right to look at another's (ptrace(2), "Ptrace access mode checking").
        true => "to root as well: a capability is missing, such as CAP_SYS_PTRACE, or a security module forbids it",
        false => "run as root or with CAP_SYS_PTRACE",
    }
}

/// Reads the host's own metrics.
pub struct Reader {
    families: Vec<Family>,
    files: Files,
    cpu: cpu::Cpu,
    disks: disk::Disks,
    filesystems: filesystem::FileSystems,
    series_count: usize,
}

impl Reader {
    /// A reader that has not read anything yet.
    pub fn new(options: Options) -> Self {
        Self {
            files: Files::new(options.proc, options.sys),
            cpu: cpu::Cpu::default(),
            disks: disk::Disks::new(options.udev),
            filesystems: filesystem::FileSystems::default(),
            families: options.families,
            series_count: 0,
        }
    }

    /// Reads all families that are on: their series, those of one metric together, and what could not be read.
    ///
    /// Takes about a millisecond of CPU on a small host. File systems that do not answer keep it waiting for a quarter
    /// of a second, once each time that one falls silent.
    pub fn read(&mut self) -> (Vec<Series>, Vec<Problem>) {
        let mut out = Vec::with_capacity(self.series_count);
        let mut problems = Vec::new();
        if self.on(Family::Cpu) || self.on(Family::Stat) {
            note(&mut problems, self.read_stat(&mut out));
        }
        for family in self.families.clone() {
            let files = &mut self.files;
            let result = match family {
                // Both come from one file, read above.
                Family::Cpu | Family::Stat => Ok(()),
                Family::Diskstats => self.disks.read(files, &mut out),
                Family::Entropy => system::read_entropy(files, &mut out),
                Family::Filefd => fd::read(files, &mut out),
                Family::Filesystem => self.filesystems.read(files, &mut out, &mut problems),
                Family::Loadavg => load::read(files, &mut out),
                Family::Meminfo => memory::read(files, &mut out),
                Family::Netclass => network::read_class(files, &mut out),
                Family::Netdev => network::read_traffic(files, &mut out),
                Family::Netstat => netstat::read(files, &mut out),
                Family::Pressure => pressure::read(files, &mut out),
                Family::Schedstat => schedstat::read(files, &mut out),
                Family::Sockstat => sockets::read(files, &mut out),
                Family::Time => system::read_time(files, &mut out),
                Family::Uname => system::read_uname(&mut out),
                Family::Vmstat => vmstat::read(files, &mut out),
            };
            note(&mut problems, result);
        }
        self.series_count = out.len();
        group(&mut out);
        (out, problems)
    }

    fn on(&self, family: Family) -> bool {
        self.families.contains(&family)
    }

    fn read_stat(&mut self, out: &mut Vec<Series>) -> Result<(), Problem> {
        let (cpu, stat) = (self.on(Family::Cpu), self.on(Family::Stat));
        let kernel = stat::read(&mut self.files)?;
        if stat {
            stat::push_totals(&kernel, out);
        }
        if cpu {
            self.cpu.push(&kernel.cpus, &mut self.files, out);
        }
        Ok(())
    }
}

/// Brings the series of one metric together, as a snapshot has them. The order of metrics is that of their
/// addresses: any order will do, and this one is the cheapest.
fn group(out: &mut [Series]) {
    out.sort_by_key(|series| ptr::from_ref(series.metric).addr());
}

fn note(problems: &mut Vec<Problem>, result: Result<(), Problem>) {
    problems.extend(result.err());
}

/// Adds one series.
fn push(out: &mut Vec<Series>, metric: &'static Metric, labels: &[&str], value: f64) {
    out.push(Series::number(metric, labels.iter().map(|label| (*label).to_owned()).collect(), value));
}

/// What procfs could not parse, as a problem with that file.
fn malformed(path: &Path, error: impl ToString) -> Problem {
    Problem::Malformed { path: path.to_owned(), what: error.to_string() }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::model::snapshot::Value;

    /// Series as people read them, `name{label="value"} number`, in the order given.
    pub(crate) fn values(series: &[Series]) -> Vec<String> {
        series.iter().map(value).collect()
    }

    fn value(series: &Series) -> String {
        let Value::Number(number) = series.value else { panic!("{} is no number", series.metric.name) };
        let labels: Vec<String> =
            series.metric.labels.iter().zip(&series.labels).map(|(name, value)| format!("{name}={value:?}")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        format!("{}{labels} {number}", series.metric.name)
    }

    #[test]
    fn every_family_is_found_by_its_name() {
        for family in Family::ALL {
            assert_eq!(Family::from_name(family.name()), Some(*family));
        }
        assert_eq!(Family::from_name("cpufreq"), None);
    }

    #[test]
    fn series_of_one_metric_stand_together() {
        let (series, _) = Reader::new(Options::default()).read();
        let mut seen = BTreeSet::new();
        for group in series.chunk_by(|a, b| ptr::eq(a.metric, b.metric)) {
            assert!(seen.insert(group[0].metric.name), "{} is in two places", group[0].metric.name);
        }
        assert!(seen.len() > 100, "only {} metrics", seen.len());
    }

    #[test]
    fn no_series_is_given_twice() {
        let (series, _) = Reader::new(Options::default()).read();
        let mut seen = BTreeSet::new();
        for series in &series {
            assert!(seen.insert((series.metric.name, series.labels.clone())), "{}", value(series));
        }
    }

    #[test]
    fn a_family_that_is_off_is_not_read() {
        let options = Options { families: vec![Family::Loadavg], ..Options::default() };
        let (series, problems) = Reader::new(options).read();
        assert!(series.iter().all(|series| series.metric.name.starts_with("node_load")), "{:?}", values(&series));
        assert_eq!((series.len(), problems.len()), (3, 0));
    }

    #[test]
    fn what_is_missing_costs_only_itself() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("loadavg"), "0.5 0.25 0.125 1/74 100\n").unwrap();
        let options = Options {
            proc: root.path().into(),
            sys: root.path().into(),
            udev: root.path().into(),
            families: vec![Family::Meminfo, Family::Loadavg, Family::Cpu, Family::Vmstat],
        };
        let (series, problems) = Reader::new(options).read();
        assert_eq!(series.len(), 3);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().all(|problem| matches!(problem, Problem::Absent { .. })));
    }
}
