//! Which series are kept of each service and of the host. One row for each signal; series are found by their catalog name, so that a
//! signal whose series are missing is just not there.

use super::signal::{Reading, Signal, Task, Whose};

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
        name: "tcp_accepts",
        said: "connections to it came at",
        metrics: &["steth_tcp_accept_queue_duration_seconds"],
        reading: Reading::Count,
        task: Task::Use,
        unit: "/s",
        least: 5.0,
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
        least: 0.001,
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
        least: 0.001,
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
