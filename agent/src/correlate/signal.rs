//! Which series are kept, and how each becomes one number a window. One row for each signal; series are found by their catalog
//! name, so that a signal whose series are missing is just not there.

/// One kind of figure that is kept for each service, or for the host.
#[derive(Debug)]
pub struct Signal {
    /// Its name in findings.
    pub name: &'static str,
    /// What it is, in words that a sentence can begin with.
    pub said: &'static str,
    /// Metrics that are added up.
    pub metrics: &'static [&'static str],
    /// Metrics that the sum is divided by.
    pub over: &'static [&'static str],
    /// How a window's figure is made.
    pub reading: Reading,
    /// Only series with one of these values of a label; none: all.
    pub only: Option<(&'static str, &'static [&'static str])>,
    /// Label that tells several apart.
    pub part: Option<&'static str>,
    /// Whose it is.
    pub whose: Whose,
    /// What it is good for.
    pub task: Task,
    /// Its unit.
    pub unit: &'static str,
    /// The smallest difference that matters, in its unit.
    pub least: f64,
}

/// How a window's figure is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Counters: gain in a second.
    Rate,
    /// Counters that count time of one thing: the part of a second in which they did not.
    Rest,
    /// Counters: gain of the ones for each of the others.
    PerGain,
    /// Gauges: their sum.
    Level,
    /// Gauges: the sum of the ones over that of the others.
    Ratio,
    /// Histograms: their mean.
    Mean,
    /// Histograms: their 95th percentile, of at least [`LEAST_OF_TAIL`].
    Tail,
    /// Histograms: how many in a second.
    Count,
    /// Histograms: seconds in a second.
    Time,
}

/// Fewer durations than that in a window have no 95th percentile to speak of.
pub const LEAST_OF_TAIL: u64 = 20;

/// Whose a signal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A service's, by this label.
    Service(&'static str),
    /// The host's.
    Host,
}

/// What a signal is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Someone waits longer, or gets errors: a change is a finding.
    Symptom,
    /// The same, of services that accept no connections: others also wait for callers who have nothing to ask.
    CallersSymptom,
    /// A use of a resource: a change is a finding if it is large.
    Use,
    /// Tells more about others.
    Evidence,
}

const SERVICE: Whose = Whose::Service("service");
const GROUP: Whose = Whose::Service("groupname");

const BASE: Signal = Signal {
    name: "",
    said: "",
    metrics: &[],
    over: &[],
    reading: Reading::Rate,
    only: None,
    part: None,
    whose: SERVICE,
    task: Task::Evidence,
    unit: "",
    least: 0.0,
};

/// All signals.
pub static SIGNALS: &[Signal] = &[
    // Postgres.
    Signal {
        name: "postgres_latency",
        said: "its Postgres queries took",
        metrics: &["steth_postgres_query_duration_seconds"],
        reading: Reading::Mean,
        part: Some("role"),
        task: Task::Symptom,
        unit: "s",
        least: 0.001,
        ..BASE
    },
    Signal {
        name: "postgres_latency_p95",
        said: "the slowest 5 % of its Postgres queries took at least",
        metrics: &["steth_postgres_query_duration_seconds"],
        reading: Reading::Tail,
        part: Some("role"),
        task: Task::Symptom,
        unit: "s",
        least: 0.002,
        ..BASE
    },
    Signal {
        name: "postgres_queries",
        said: "its Postgres queries came at",
        metrics: &["steth_postgres_query_duration_seconds"],
        reading: Reading::Count,
        part: Some("role"),
        unit: "/s",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "postgres_errors",
        said: "its Postgres errors came at",
        metrics: &["steth_postgres_errors_total"],
        part: Some("role"),
        task: Task::Symptom,
        unit: "/s",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "postgres_active",
        said: "its Postgres queries under way were",
        metrics: &["steth_postgres_connections"],
        only: Some(("state", &["active"])),
        reading: Reading::Level,
        part: Some("role"),
        task: Task::Symptom,
        unit: "queries",
        least: 4.0,
        ..BASE
    },
    Signal {
        name: "postgres_oldest_wait",
        said: "its oldest transaction that waits for its client has waited",
        metrics: &["steth_postgres_idle_in_transaction_oldest_seconds"],
        reading: Reading::Level,
        part: Some("role"),
        unit: "s",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "postgres_connections",
        said: "its Postgres connections were",
        metrics: &["steth_postgres_connections"],
        reading: Reading::Level,
        part: Some("role"),
        unit: "connections",
        least: 5.0,
        ..BASE
    },
    Signal {
        name: "postgres_max_connections",
        said: "the Postgres server allows",
        metrics: &["steth_postgres_max_connections"],
        reading: Reading::Level,
        unit: "connections",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "postgres_pool_size",
        said: "its pool holds",
        metrics: &["steth_postgres_pool_size"],
        reading: Reading::Level,
        unit: "connections",
        least: 1.0,
        ..BASE
    },
    postgres_wall("postgres_lock_wait", "its Postgres queries waited for locks", &["lock"]),
    postgres_wall("postgres_disk_wait", "its Postgres queries waited for disks", &["disk"]),
    postgres_wall("postgres_run_queue_wait", "its Postgres queries waited in run queues", &["run_queue"]),
    // Network.
    Signal {
        name: "tcp_connect",
        said: "its TCP connects took",
        metrics: &["steth_tcp_connect_duration_seconds"],
        only: Some(("outcome", &["established"])),
        reading: Reading::Mean,
        part: Some("peer"),
        task: Task::Symptom,
        unit: "s",
        least: 0.005,
        ..BASE
    },
    Signal {
        name: "tcp_connect_failed",
        said: "its TCP connects failed at",
        metrics: &["steth_tcp_connect_duration_seconds"],
        only: Some(("outcome", &["refused", "timed_out", "unreachable"])),
        reading: Reading::Count,
        task: Task::Symptom,
        unit: "/s",
        least: 0.5,
        ..BASE
    },
    Signal {
        name: "tcp_accept_queue",
        said: "connections waited until it accepted them",
        metrics: &["steth_tcp_accept_queue_duration_seconds"],
        reading: Reading::Mean,
        task: Task::Symptom,
        unit: "s",
        least: 0.005,
        ..BASE
    },
    Signal {
        name: "tcp_listen_overflows",
        said: "connections to it were dropped at",
        metrics: &["steth_tcp_listen_overflows_total"],
        task: Task::Symptom,
        unit: "/s",
        least: 0.5,
        ..BASE
    },
    Signal {
        name: "tcp_round_trip",
        said: "its TCP round trips took",
        metrics: &["steth_tcp_rtt_seconds"],
        reading: Reading::Mean,
        task: Task::Symptom,
        unit: "s",
        least: 0.005,
        ..BASE
    },
    Signal {
        name: "tcp_retransmits",
        said: "its TCP segments were sent again at",
        metrics: &["steth_tcp_retransmits_total"],
        task: Task::Symptom,
        unit: "/s",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "tcp_bytes",
        said: "it exchanged",
        metrics: &["steth_tcp_bytes_total"],
        part: Some("peer"),
        unit: "B/s",
        least: 10_000.0,
        ..BASE
    },
    Signal {
        name: "tcp_listening",
        said: "it listens on",
        metrics: &["steth_tcp_connections"],
        only: Some(("state", &["listen"])),
        reading: Reading::Level,
        unit: "sockets",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "socket_read",
        said: "its reads from sockets took",
        metrics: &["steth_socket_read_duration_seconds"],
        reading: Reading::Mean,
        task: Task::CallersSymptom,
        unit: "s",
        least: 0.002,
        ..BASE
    },
    Signal {
        name: "socket_pickup",
        said: "data waited until it was read",
        metrics: &["steth_socket_pickup_delay_seconds"],
        reading: Reading::Mean,
        task: Task::Symptom,
        unit: "s",
        least: 0.002,
        ..BASE
    },
    // System calls.
    Signal {
        name: "disk_sync",
        said: "its fsyncs took",
        metrics: &["steth_syscall_duration_seconds"],
        only: Some(("syscall", &["fsync", "fdatasync", "sync_file_range", "msync"])),
        reading: Reading::Mean,
        task: Task::Symptom,
        unit: "s",
        least: 0.005,
        ..BASE
    },
    Signal {
        name: "disk_calls",
        said: "its reads and writes of files took",
        metrics: &["steth_syscall_duration_seconds"],
        only: Some(("syscall", &["pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2"])),
        reading: Reading::Mean,
        task: Task::Symptom,
        unit: "s",
        least: 0.002,
        ..BASE
    },
    Signal {
        name: "lock_wait",
        said: "its threads waited for locks",
        metrics: &["steth_syscall_duration_seconds"],
        only: Some(("syscall", &["futex"])),
        reading: Reading::Time,
        unit: "s/s",
        least: 0.1,
        ..BASE
    },
    // Where the wall time of threads goes.
    wall("run_queue_wait", "its threads waited in run queues", &["run_queue"], Task::Symptom),
    wall("disk_wait", "its threads waited for disks", &["disk"], Task::Symptom),
    wall("wall_lock", "its threads waited for locks", &["lock"], Task::Evidence),
    wall("wall_network", "its threads waited for the network", &["network"], Task::Evidence),
    wall("wall_sleep", "its threads slept", &["sleep"], Task::Evidence),
    // What services use.
    Signal {
        name: "cpu",
        said: "its CPU use was",
        metrics: &["namedprocess_namegroup_cpu_seconds_total"],
        whose: GROUP,
        task: Task::Use,
        unit: "cores",
        least: 0.4,
        ..BASE
    },
    Signal {
        name: "memory",
        said: "its resident memory was",
        metrics: &["namedprocess_namegroup_memory_bytes"],
        only: Some(("memtype", &["resident"])),
        reading: Reading::Level,
        whose: GROUP,
        unit: "B",
        least: 64e6,
        ..BASE
    },
    Signal {
        name: "memory_limit",
        said: "its memory is limited to",
        metrics: &["steth_service_memory_limit_bytes"],
        reading: Reading::Level,
        unit: "B",
        least: 1e6,
        ..BASE
    },
    Signal {
        name: "major_faults",
        said: "its major page faults came at",
        metrics: &["namedprocess_namegroup_major_page_faults_total"],
        whose: GROUP,
        unit: "/s",
        least: 20.0,
        ..BASE
    },
    Signal {
        name: "open_files",
        said: "its open files were",
        metrics: &["namedprocess_namegroup_open_filedesc"],
        reading: Reading::Level,
        whose: GROUP,
        unit: "files",
        least: 20.0,
        ..BASE
    },
    Signal {
        name: "open_files_ratio",
        said: "its process closest to the limit of open files had used",
        metrics: &["namedprocess_namegroup_worst_fd_ratio"],
        reading: Reading::Level,
        whose: GROUP,
        unit: "ratio",
        least: 0.01,
        ..BASE
    },
    Signal {
        name: "processes",
        said: "its processes were",
        metrics: &["namedprocess_namegroup_num_procs"],
        reading: Reading::Level,
        whose: GROUP,
        unit: "processes",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "started",
        said: "its oldest process began at",
        metrics: &["namedprocess_namegroup_oldest_start_time_seconds"],
        reading: Reading::Level,
        whose: GROUP,
        unit: "s",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "disk_bytes",
        said: "it read and wrote",
        metrics: &["namedprocess_namegroup_read_bytes_total", "namedprocess_namegroup_write_bytes_total"],
        whose: GROUP,
        unit: "B/s",
        least: 1e6,
        ..BASE
    },
    Signal {
        name: "preempted",
        said: "its threads were made to give way at",
        metrics: &["namedprocess_namegroup_context_switches_total"],
        only: Some(("ctxswitchtype", &["nonvoluntary"])),
        whose: GROUP,
        unit: "/s",
        least: 20.0,
        ..BASE
    },
    // What the host has left.
    Signal {
        name: "core_busy",
        said: "the core was busy to",
        metrics: &["node_cpu_seconds_total"],
        only: Some(("mode", &["idle", "iowait"])),
        reading: Reading::Rest,
        part: Some("cpu"),
        whose: Whose::Host,
        unit: "ratio",
        least: 0.1,
        ..BASE
    },
    Signal {
        name: "core_waited_for",
        said: "tasks waited for the core",
        metrics: &["node_schedstat_waiting_seconds_total"],
        part: Some("cpu"),
        whose: Whose::Host,
        unit: "s/s",
        least: 0.1,
        ..BASE
    },
    Signal {
        name: "cpu_pressure",
        said: "something waited for a core",
        metrics: &["node_pressure_cpu_waiting_seconds_total"],
        whose: Whose::Host,
        unit: "ratio",
        least: 0.1,
        ..BASE
    },
    Signal {
        name: "io_pressure",
        said: "something waited for a disk",
        metrics: &["node_pressure_io_waiting_seconds_total"],
        whose: Whose::Host,
        unit: "ratio",
        least: 0.1,
        ..BASE
    },
    Signal {
        name: "memory_pressure",
        said: "something waited for memory",
        metrics: &["node_pressure_memory_waiting_seconds_total"],
        whose: Whose::Host,
        unit: "ratio",
        least: 0.05,
        ..BASE
    },
    Signal {
        name: "memory_available",
        said: "the memory available was",
        metrics: &["node_memory_MemAvailable_bytes"],
        over: &["node_memory_MemTotal_bytes"],
        reading: Reading::Ratio,
        whose: Whose::Host,
        unit: "ratio",
        least: 0.05,
        ..BASE
    },
    Signal {
        name: "memory_available_bytes",
        said: "the memory available was",
        metrics: &["node_memory_MemAvailable_bytes"],
        reading: Reading::Level,
        whose: Whose::Host,
        unit: "B",
        least: 64e6,
        ..BASE
    },
    Signal {
        name: "oom_kills",
        said: "the kernel killed processes for lack of memory at",
        metrics: &["node_vmstat_oom_kill"],
        whose: Whose::Host,
        unit: "/s",
        least: 0.01,
        ..BASE
    },
    Signal {
        name: "disk_busy",
        said: "the disk was busy to",
        metrics: &["node_disk_io_time_seconds_total"],
        part: Some("device"),
        whose: Whose::Host,
        unit: "ratio",
        least: 0.1,
        ..BASE
    },
    Signal {
        name: "disk_queue",
        said: "requests under way on the disk were",
        metrics: &["node_disk_io_time_weighted_seconds_total"],
        part: Some("device"),
        whose: Whose::Host,
        unit: "requests",
        least: 1.0,
        ..BASE
    },
    Signal {
        name: "disk_latency",
        said: "requests to the disk took",
        metrics: &["node_disk_read_time_seconds_total", "node_disk_write_time_seconds_total"],
        over: &["node_disk_reads_completed_total", "node_disk_writes_completed_total"],
        reading: Reading::PerGain,
        part: Some("device"),
        whose: Whose::Host,
        unit: "s",
        least: 0.005,
        ..BASE
    },
    Signal {
        name: "host_open_files",
        said: "open files of the host were",
        metrics: &["node_filefd_allocated"],
        over: &["node_filefd_maximum"],
        reading: Reading::Ratio,
        whose: Whose::Host,
        unit: "ratio",
        least: 0.01,
        ..BASE
    },
    Signal {
        name: "network_busy",
        said: "the interface moved",
        metrics: &["node_network_receive_bytes_total", "node_network_transmit_bytes_total"],
        part: Some("device"),
        whose: Whose::Host,
        unit: "B/s",
        least: 1e6,
        ..BASE
    },
    Signal {
        name: "network_speed",
        said: "the interface can move",
        metrics: &["node_network_speed_bytes"],
        reading: Reading::Level,
        part: Some("device"),
        whose: Whose::Host,
        unit: "B/s",
        least: 1e6,
        ..BASE
    },
];

const fn wall(name: &'static str, said: &'static str, states: &'static [&'static str], task: Task) -> Signal {
    let only = Some(("state", states));
    Signal { name, said, metrics: &["steth_service_wall_seconds_total"], only, task, unit: "s/s", least: 0.1, ..BASE }
}

const fn postgres_wall(name: &'static str, said: &'static str, states: &'static [&'static str]) -> Signal {
    let part = Some("role");
    Signal { metrics: &["steth_postgres_wall_seconds_total"], part, ..wall(name, said, states, Task::Symptom) }
}

/// The place of a signal among [`SIGNALS`].
pub fn signal(name: &str) -> usize {
    SIGNALS.iter().position(|signal| signal.name == name).unwrap_or_else(|| unreachable!("there is no signal {name}"))
}

impl Signal {
    /// Whether a gain that was never counted before is one from nothing: what the agent itself counts begins with it.
    pub fn begins_at_zero(&self) -> bool {
        self.metrics.iter().all(|metric| !metric.starts_with("node_"))
    }

    /// Whether no series means that nothing happened.
    pub fn rests_at_zero(&self) -> bool {
        matches!(self.reading, Reading::Rate | Reading::Count | Reading::Time | Reading::Level)
            && self.begins_at_zero()
            && self.task == Task::Symptom
    }

    /// A query for Prometheus that shows it.
    pub fn query(&self, service: &str, part: &str) -> String {
        let mut labels = Vec::new();
        if let Whose::Service(label) = self.whose {
            labels.push(format!("{label}={service:?}"));
        }
        if let Some(label) = self.part.filter(|_| !part.is_empty()) {
            labels.push(format!("{label}={part:?}"));
        }
        match self.only {
            Some((label, [value])) => labels.push(format!("{label}={value:?}")),
            Some((label, values)) => labels.push(format!("{label}=~\"{}\"", values.join("|"))),
            None => {}
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let sum = |metrics: &[&str], suffix: &str, counts: bool| {
            let one = |metric: &&str| {
                let series = format!("{metric}{suffix}{labels}");
                if counts { format!("sum(rate({series}[1m]))") } else { format!("sum({series})") }
            };
            metrics.iter().map(one).collect::<Vec<_>>().join(" + ")
        };
        match self.reading {
            Reading::Rate => sum(self.metrics, "", true),
            Reading::Rest => format!("1 - {}", sum(self.metrics, "", true)),
            Reading::PerGain => format!("({}) / ({})", sum(self.metrics, "", true), sum(self.over, "", true)),
            Reading::Level => sum(self.metrics, "", false),
            Reading::Ratio => format!("{} / {}", sum(self.metrics, "", false), sum(self.over, "", false)),
            Reading::Mean => format!("{} / {}", sum(self.metrics, "_sum", true), sum(self.metrics, "_count", true)),
            Reading::Count => sum(self.metrics, "_count", true),
            Reading::Time => sum(self.metrics, "_sum", true),
            Reading::Tail => {
                let metric = self.metrics.first().copied().unwrap_or_default();
                format!("histogram_quantile(0.95, sum by (le) (rate({metric}_bucket{labels}[1m])))")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        catalog::CHAPTERS,
        metric::{Kind, Metric},
    };

    /// Metrics of the wall split, which another stage of work brings.
    const NOT_YET: &[&str] = &["steth_service_wall_seconds_total", "steth_postgres_wall_seconds_total"];

    fn metrics() -> Vec<&'static Metric> {
        CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)()).collect()
    }

    #[test]
    fn every_signal_reads_metrics_of_the_catalog_by_labels_that_they_have() {
        let all = metrics();
        for signal in SIGNALS {
            for name in signal.metrics.iter().chain(signal.over) {
                let found = all.iter().find(|metric| metric.name == *name);
                if found.is_none() && NOT_YET.contains(name) {
                    continue;
                }
                let metric = found.unwrap_or_else(|| panic!("{} reads {name}", signal.name));
                let whose = if let Whose::Service(label) = signal.whose { Some(label) } else { None };
                for label in signal.part.into_iter().chain(whose).chain(signal.only.map(|(label, _)| label)) {
                    assert!(metric.labels.contains(&label), "{} has no {label}", metric.name);
                }
                let histogram =
                    matches!(signal.reading, Reading::Mean | Reading::Tail | Reading::Count | Reading::Time);
                assert_eq!(histogram, matches!(metric.kind, Kind::Histogram(_)), "{}", signal.name);
            }
        }
    }

    #[test]
    fn names_of_signals_are_told_apart() {
        for (at, one) in SIGNALS.iter().enumerate() {
            assert_eq!(signal(one.name), at, "{} is there twice", one.name);
        }
    }

    #[test]
    fn a_query_asks_for_the_same_as_the_signal() {
        let query = |name: &str, part: &str| SIGNALS[signal(name)].query("a.service", part);
        assert_eq!(
            query("disk_calls", "").split(" / ").next().unwrap(),
            "sum(rate(steth_syscall_duration_seconds_sum{service=\"a.service\",\
             syscall=~\"pread64|pwrite64|preadv|pwritev|preadv2|pwritev2\"}[1m]))"
        );
        assert_eq!(
            query("core_busy", "1"),
            "1 - sum(rate(node_cpu_seconds_total{cpu=\"1\",mode=~\"idle|iowait\"}[1m]))"
        );
        assert_eq!(
            query("cpu", ""),
            "sum(rate(namedprocess_namegroup_cpu_seconds_total{groupname=\"a.service\"}[1m]))"
        );
    }
}
