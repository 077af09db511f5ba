//! Metrics of the host and of its processes. Names, units, labels and help are those of node_exporter 1.5 and
//! process-exporter, so that existing dashboards work; where the two are untyped, see [`Field`].

use super::Chapter;
use crate::model::metric::Metric;

/// A metric whose value is found in the kernel's tables under a name of its own.
///
/// node_exporter leaves the fields of `/proc/vmstat`, `/proc/net/snmp` and `/proc/net/netstat` untyped; here they
/// are gauges: our exposition knows no untyped metric, and a counter's name would have to end in `_total`.
#[derive(Debug)]
pub struct Field {
    /// The section of the kernel's table; empty where there are none.
    pub group: &'static str,
    /// The name within the section, or the file that holds the value.
    pub source: &'static str,
    /// The metric.
    pub metric: Metric,
}

/// The host and its processes.
pub static HOST: Chapter = Chapter {
    title: "Host and processes",
    source: "`/proc` and `/sys`, under the names of node_exporter and process-exporter",
    metrics: || all().collect(),
};

/// Every metric of this catalog.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    let fields = [MEMORY, NETWORK_CLASS, SOCKETS, SOCKET_BYTES, NETSTAT, VMSTAT];
    ROWS.iter().copied().chain(fields.into_iter().flatten().map(|field| &field.metric))
}

/// Declares one static per row, documented by its name, and lists them all in `ROWS`.
macro_rules! rows {
    ($($name:ident: $kind:ident $metric:literal $labels:tt $help:literal;)*) => {
        $(#[doc = concat!("`", $metric, "`")] pub static $name: Metric = Metric::$kind($metric, $help, &$labels);)*
        static ROWS: &[&Metric] = &[$(&$name),*];
    };
}

rows! {
    CPU_SECONDS: counter "node_cpu_seconds_total" ["cpu", "mode"] "Seconds the CPUs spent in each mode.";
    CPU_GUEST_SECONDS: counter "node_cpu_guest_seconds_total" ["cpu", "mode"] "Seconds the CPUs spent in guests (VMs) for each mode.";
    CPU_CORE_THROTTLES: counter "node_cpu_core_throttles_total" ["package", "core"] "Number of times this CPU core has been throttled.";
    CPU_PACKAGE_THROTTLES: counter "node_cpu_package_throttles_total" ["package"] "Number of times this CPU package has been throttled.";

    INTERRUPTS: counter "node_intr_total" [] "Total number of interrupts serviced.";
    CONTEXT_SWITCHES: counter "node_context_switches_total" [] "Total number of context switches.";
    FORKS: counter "node_forks_total" [] "Total number of forks.";
    BOOT_TIME: gauge "node_boot_time_seconds" [] "Node boot time, in unixtime.";
    PROCS_RUNNING: gauge "node_procs_running" [] "Number of processes in runnable state.";
    PROCS_BLOCKED: gauge "node_procs_blocked" [] "Number of processes blocked waiting for I/O to complete.";

    SCHEDSTAT_RUNNING: counter "node_schedstat_running_seconds_total" ["cpu"] "Number of seconds CPU spent running a process.";
    SCHEDSTAT_WAITING: counter "node_schedstat_waiting_seconds_total" ["cpu"] "Number of seconds spent by processing waiting for this CPU.";
    SCHEDSTAT_TIMESLICES: counter "node_schedstat_timeslices_total" ["cpu"] "Number of timeslices executed by CPU.";

    FILEFD_ALLOCATED: gauge "node_filefd_allocated" [] "File descriptor statistics: allocated.";
    FILEFD_MAXIMUM: gauge "node_filefd_maximum" [] "File descriptor statistics: maximum.";

    LOAD1: gauge "node_load1" [] "1m load average.";
    LOAD5: gauge "node_load5" [] "5m load average.";
    LOAD15: gauge "node_load15" [] "15m load average.";

    PRESSURE_CPU_WAITING: counter "node_pressure_cpu_waiting_seconds_total" [] "Total time in seconds that processes have waited for CPU time";
    PRESSURE_IO_WAITING: counter "node_pressure_io_waiting_seconds_total" [] "Total time in seconds that processes have waited due to IO congestion";
    PRESSURE_IO_STALLED: counter "node_pressure_io_stalled_seconds_total" [] "Total time in seconds no process could make progress due to IO congestion";
    PRESSURE_MEMORY_WAITING: counter "node_pressure_memory_waiting_seconds_total" [] "Total time in seconds that processes have waited for memory";
    PRESSURE_MEMORY_STALLED: counter "node_pressure_memory_stalled_seconds_total" [] "Total time in seconds no process could make progress due to memory congestion";

    DISK_INFO: gauge "node_disk_info" ["device", "major", "minor", "path", "wwn", "model", "serial", "revision"] "Info of /sys/block/<block_device>.";
    DISK_FILESYSTEM_INFO: gauge "node_disk_filesystem_info" ["device", "type", "usage", "uuid", "version"] "Info about disk filesystem.";
    DISK_DEVICE_MAPPER_INFO: gauge "node_disk_device_mapper_info" ["device", "name", "uuid", "vg_name", "lv_name", "lv_layer"] "Info about disk device mapper.";
    DISK_ATA_WRITE_CACHE: gauge "node_disk_ata_write_cache" ["device"] "ATA disk has a write cache.";
    DISK_ATA_WRITE_CACHE_ENABLED: gauge "node_disk_ata_write_cache_enabled" ["device"] "ATA disk has its write cache enabled.";
    DISK_ATA_ROTATION_RATE: gauge "node_disk_ata_rotation_rate_rpm" ["device"] "ATA disk rotation rate in RPMs (0 for SSDs).";
    DISK_READS: counter "node_disk_reads_completed_total" ["device"] "The total number of reads completed successfully.";
    DISK_READS_MERGED: counter "node_disk_reads_merged_total" ["device"] "The total number of reads merged.";
    DISK_READ_BYTES: counter "node_disk_read_bytes_total" ["device"] "The total number of bytes read successfully.";
    DISK_READ_TIME: counter "node_disk_read_time_seconds_total" ["device"] "The total number of seconds spent by all reads.";
    DISK_WRITES: counter "node_disk_writes_completed_total" ["device"] "The total number of writes completed successfully.";
    DISK_WRITES_MERGED: counter "node_disk_writes_merged_total" ["device"] "The number of writes merged.";
    DISK_WRITTEN_BYTES: counter "node_disk_written_bytes_total" ["device"] "The total number of bytes written successfully.";
    DISK_WRITE_TIME: counter "node_disk_write_time_seconds_total" ["device"] "This is the total number of seconds spent by all writes.";
    DISK_IO_NOW: gauge "node_disk_io_now" ["device"] "The number of I/Os currently in progress.";
    DISK_IO_TIME: counter "node_disk_io_time_seconds_total" ["device"] "Total seconds spent doing I/Os.";
    DISK_IO_TIME_WEIGHTED: counter "node_disk_io_time_weighted_seconds_total" ["device"] "The weighted # of seconds spent doing I/Os.";
    DISK_DISCARDS: counter "node_disk_discards_completed_total" ["device"] "The total number of discards completed successfully.";
    DISK_DISCARDS_MERGED: counter "node_disk_discards_merged_total" ["device"] "The total number of discards merged.";
    DISK_DISCARDED_SECTORS: counter "node_disk_discarded_sectors_total" ["device"] "The total number of sectors discarded successfully.";
    DISK_DISCARD_TIME: counter "node_disk_discard_time_seconds_total" ["device"] "This is the total number of seconds spent by all discards.";
    DISK_FLUSHES: counter "node_disk_flush_requests_total" ["device"] "The total number of flush requests completed successfully";
    DISK_FLUSH_TIME: counter "node_disk_flush_requests_time_seconds_total" ["device"] "This is the total number of seconds spent by all flush requests.";

    NETWORK_RECEIVE_BYTES: counter "node_network_receive_bytes_total" ["device"] "Network device statistic receive_bytes.";
    NETWORK_RECEIVE_PACKETS: counter "node_network_receive_packets_total" ["device"] "Network device statistic receive_packets.";
    NETWORK_RECEIVE_ERRS: counter "node_network_receive_errs_total" ["device"] "Network device statistic receive_errs.";
    NETWORK_RECEIVE_DROP: counter "node_network_receive_drop_total" ["device"] "Network device statistic receive_drop.";
    NETWORK_RECEIVE_FIFO: counter "node_network_receive_fifo_total" ["device"] "Network device statistic receive_fifo.";
    NETWORK_RECEIVE_FRAME: counter "node_network_receive_frame_total" ["device"] "Network device statistic receive_frame.";
    NETWORK_RECEIVE_COMPRESSED: counter "node_network_receive_compressed_total" ["device"] "Network device statistic receive_compressed.";
    NETWORK_RECEIVE_MULTICAST: counter "node_network_receive_multicast_total" ["device"] "Network device statistic receive_multicast.";
    NETWORK_RECEIVE_NOHANDLER: counter "node_network_receive_nohandler_total" ["device"] "Network device statistic receive_nohandler.";
    NETWORK_TRANSMIT_BYTES: counter "node_network_transmit_bytes_total" ["device"] "Network device statistic transmit_bytes.";
    NETWORK_TRANSMIT_PACKETS: counter "node_network_transmit_packets_total" ["device"] "Network device statistic transmit_packets.";
    NETWORK_TRANSMIT_ERRS: counter "node_network_transmit_errs_total" ["device"] "Network device statistic transmit_errs.";
    NETWORK_TRANSMIT_DROP: counter "node_network_transmit_drop_total" ["device"] "Network device statistic transmit_drop.";
    NETWORK_TRANSMIT_FIFO: counter "node_network_transmit_fifo_total" ["device"] "Network device statistic transmit_fifo.";
    NETWORK_TRANSMIT_COLLS: counter "node_network_transmit_colls_total" ["device"] "Network device statistic transmit_colls.";
    NETWORK_TRANSMIT_CARRIER: counter "node_network_transmit_carrier_total" ["device"] "Network device statistic transmit_carrier.";
    NETWORK_TRANSMIT_COMPRESSED: counter "node_network_transmit_compressed_total" ["device"] "Network device statistic transmit_compressed.";
    NETWORK_UP: gauge "node_network_up" ["device"] "Value is 1 if operstate is 'up', 0 otherwise.";
    NETWORK_INFO: gauge "node_network_info" ["device", "address", "broadcast", "duplex", "operstate", "ifalias"] "Non-numeric data from /sys/class/net/<iface>, value is always 1.";
    NETWORK_SPEED: gauge "node_network_speed_bytes" ["device"] "Network device property: speed_bytes";

    FILESYSTEM_SIZE: gauge "node_filesystem_size_bytes" ["device", "mountpoint", "fstype"] "Filesystem size in bytes.";
    FILESYSTEM_FREE: gauge "node_filesystem_free_bytes" ["device", "mountpoint", "fstype"] "Filesystem free space in bytes.";
    FILESYSTEM_AVAIL: gauge "node_filesystem_avail_bytes" ["device", "mountpoint", "fstype"] "Filesystem space available to non-root users in bytes.";
    FILESYSTEM_FILES: gauge "node_filesystem_files" ["device", "mountpoint", "fstype"] "Filesystem total file nodes.";
    FILESYSTEM_FILES_FREE: gauge "node_filesystem_files_free" ["device", "mountpoint", "fstype"] "Filesystem total free file nodes.";
    FILESYSTEM_READONLY: gauge "node_filesystem_readonly" ["device", "mountpoint", "fstype"] "Filesystem read-only status.";
    FILESYSTEM_DEVICE_ERROR: gauge "node_filesystem_device_error" ["device", "mountpoint", "fstype"] "Whether an error occurred while getting statistics for the given device.";

    SOCKETS_USED: gauge "node_sockstat_sockets_used" [] "Number of IPv4 sockets in use.";

    UNAME: gauge "node_uname_info" ["sysname", "release", "version", "machine", "nodename", "domainname"] "Labeled system information as provided by the uname system call.";
    TIME: gauge "node_time_seconds" [] "System time in seconds since epoch (1970).";
    CLOCKSOURCE_AVAILABLE: gauge "node_time_clocksource_available_info" ["device", "clocksource"] "Available clocksources read from '/sys/devices/system/clocksource'.";
    CLOCKSOURCE_CURRENT: gauge "node_time_clocksource_current_info" ["device", "clocksource"] "Current clocksource read from '/sys/devices/system/clocksource'.";
    ENTROPY_AVAILABLE: gauge "node_entropy_available_bits" [] "Bits of available entropy.";
    ENTROPY_POOL_SIZE: gauge "node_entropy_pool_size_bits" [] "Bits of entropy pool.";

    PROCESS_COUNT: gauge "namedprocess_namegroup_num_procs" ["groupname"] "number of processes in this group";
    PROCESS_CPU_SECONDS: counter "namedprocess_namegroup_cpu_seconds_total" ["groupname", "mode"] "Cpu user usage in seconds";
    PROCESS_READ_BYTES: counter "namedprocess_namegroup_read_bytes_total" ["groupname"] "number of bytes read by this group";
    PROCESS_WRITE_BYTES: counter "namedprocess_namegroup_write_bytes_total" ["groupname"] "number of bytes written by this group";
    PROCESS_MAJOR_FAULTS: counter "namedprocess_namegroup_major_page_faults_total" ["groupname"] "Major page faults";
    PROCESS_MINOR_FAULTS: counter "namedprocess_namegroup_minor_page_faults_total" ["groupname"] "Minor page faults";
    PROCESS_CONTEXT_SWITCHES: counter "namedprocess_namegroup_context_switches_total" ["groupname", "ctxswitchtype"] "Context switches";
    PROCESS_MEMORY: gauge "namedprocess_namegroup_memory_bytes" ["groupname", "memtype"] "number of bytes of memory in use";
    PROCESS_OPEN_FILES: gauge "namedprocess_namegroup_open_filedesc" ["groupname"] "number of open file descriptors for this group";
    PROCESS_WORST_FILES_RATIO: gauge "namedprocess_namegroup_worst_fd_ratio" ["groupname"] "the worst (closest to 1) ratio between open fds and max fds among all procs in this group";
    PROCESS_OLDEST_START: gauge "namedprocess_namegroup_oldest_start_time_seconds" ["groupname"] "start time in seconds since 1970/01/01 of oldest process in group";
    PROCESS_THREADS: gauge "namedprocess_namegroup_num_threads" ["groupname"] "Number of threads";
    PROCESS_STATES: gauge "namedprocess_namegroup_states" ["groupname", "state"] "Number of processes in states Running, Sleeping, Waiting, Zombie, or Other";
}

macro_rules! memory {
    ($($source:literal => $name:literal,)*) => {
        /// The fields of `/proc/meminfo`, all of them up to Linux 6.18.
        pub static MEMORY: &[Field] = &[$(Field {
            group: "",
            source: $source,
            metric: Metric::gauge(
                concat!("node_memory_", $name),
                concat!("Memory information field ", $name, "."),
                &[],
            ),
        }),*];
    };
}

memory! {
    "MemTotal" => "MemTotal_bytes",
    "MemFree" => "MemFree_bytes",
    "MemAvailable" => "MemAvailable_bytes",
    "Buffers" => "Buffers_bytes",
    "Cached" => "Cached_bytes",
    "SwapCached" => "SwapCached_bytes",
    "Active" => "Active_bytes",
    "Inactive" => "Inactive_bytes",
    "Active(anon)" => "Active_anon_bytes",
    "Inactive(anon)" => "Inactive_anon_bytes",
    "Active(file)" => "Active_file_bytes",
    "Inactive(file)" => "Inactive_file_bytes",
    "Unevictable" => "Unevictable_bytes",
    "Mlocked" => "Mlocked_bytes",
    "HighTotal" => "HighTotal_bytes",
    "HighFree" => "HighFree_bytes",
    "LowTotal" => "LowTotal_bytes",
    "LowFree" => "LowFree_bytes",
    "MmapCopy" => "MmapCopy_bytes",
    "SwapTotal" => "SwapTotal_bytes",
    "SwapFree" => "SwapFree_bytes",
    "Zswap" => "Zswap_bytes",
    "Zswapped" => "Zswapped_bytes",
    "Dirty" => "Dirty_bytes",
    "Writeback" => "Writeback_bytes",
    "AnonPages" => "AnonPages_bytes",
    "Mapped" => "Mapped_bytes",
    "Shmem" => "Shmem_bytes",
    "KReclaimable" => "KReclaimable_bytes",
    "Slab" => "Slab_bytes",
    "SReclaimable" => "SReclaimable_bytes",
    "SUnreclaim" => "SUnreclaim_bytes",
    "KernelStack" => "KernelStack_bytes",
    "ShadowCallStack" => "ShadowCallStack_bytes",
    "PageTables" => "PageTables_bytes",
    "SecPageTables" => "SecPageTables_bytes",
    "NFS_Unstable" => "NFS_Unstable_bytes",
    "Bounce" => "Bounce_bytes",
    "WritebackTmp" => "WritebackTmp_bytes",
    "CommitLimit" => "CommitLimit_bytes",
    "Committed_AS" => "Committed_AS_bytes",
    "VmallocTotal" => "VmallocTotal_bytes",
    "VmallocUsed" => "VmallocUsed_bytes",
    "VmallocChunk" => "VmallocChunk_bytes",
    "Percpu" => "Percpu_bytes",
    "EarlyMemtestBad" => "EarlyMemtestBad_bytes",
    "HardwareCorrupted" => "HardwareCorrupted_bytes",
    "AnonHugePages" => "AnonHugePages_bytes",
    "ShmemHugePages" => "ShmemHugePages_bytes",
    "ShmemPmdMapped" => "ShmemPmdMapped_bytes",
    "FileHugePages" => "FileHugePages_bytes",
    "FilePmdMapped" => "FilePmdMapped_bytes",
    "CmaTotal" => "CmaTotal_bytes",
    "CmaFree" => "CmaFree_bytes",
    "Unaccepted" => "Unaccepted_bytes",
    "Balloon" => "Balloon_bytes",
    "GPUActive" => "GPUActive_bytes",
    "GPUReclaim" => "GPUReclaim_bytes",
    "HugePages_Total" => "HugePages_Total",
    "HugePages_Free" => "HugePages_Free",
    "HugePages_Rsvd" => "HugePages_Rsvd",
    "HugePages_Surp" => "HugePages_Surp",
    "Hugepagesize" => "Hugepagesize_bytes",
    "Hugetlb" => "Hugetlb_bytes",
    "DirectMap4k" => "DirectMap4k_bytes",
    "DirectMap64k" => "DirectMap64k_bytes",
    "DirectMap2M" => "DirectMap2M_bytes",
    "DirectMap4M" => "DirectMap4M_bytes",
    "DirectMap1M" => "DirectMap1M_bytes",
    "DirectMap1G" => "DirectMap1G_bytes",
    "DirectMap2G" => "DirectMap2G_bytes",
}

macro_rules! network_class {
    ($($file:literal => $kind:ident $name:literal,)*) => {
        /// The numbers in `/sys/class/net/<device>`, by file.
        pub static NETWORK_CLASS: &[Field] = &[$(Field {
            group: "",
            source: $file,
            metric: Metric::$kind(
                concat!("node_network_", $name),
                concat!("Network device property: ", $name),
                &["device"],
            ),
        }),*];
    };
}

network_class! {
    "addr_assign_type" => gauge "address_assign_type",
    "carrier" => gauge "carrier",
    "carrier_changes" => counter "carrier_changes_total",
    "carrier_up_count" => counter "carrier_up_changes_total",
    "carrier_down_count" => counter "carrier_down_changes_total",
    "dev_id" => gauge "device_id",
    "dormant" => gauge "dormant",
    "flags" => gauge "flags",
    "ifindex" => gauge "iface_id",
    "iflink" => gauge "iface_link",
    "link_mode" => gauge "iface_link_mode",
    "mtu" => gauge "mtu_bytes",
    "name_assign_type" => gauge "name_assign_type",
    "netdev_group" => gauge "net_dev_group",
    "tx_queue_len" => gauge "transmit_queue_length",
    "type" => gauge "protocol_type",
}

/// One field of `/proc/net/sockstat` or `sockstat6`.
macro_rules! socket {
    ($group:literal, $source:literal, $name:literal) => {
        Field {
            group: $group,
            source: $source,
            metric: Metric::gauge(
                concat!("node_sockstat_", $group, "_", $name),
                concat!("Number of ", $group, " sockets in state ", $name, "."),
                &[],
            ),
        }
    };
}

/// The fields of `/proc/net/sockstat` and `/proc/net/sockstat6`.
pub static SOCKETS: &[Field] = &[
    socket!("TCP", "inuse", "inuse"),
    socket!("TCP", "orphan", "orphan"),
    socket!("TCP", "tw", "tw"),
    socket!("TCP", "alloc", "alloc"),
    socket!("TCP", "mem", "mem"),
    socket!("UDP", "inuse", "inuse"),
    socket!("UDP", "mem", "mem"),
    socket!("UDPLITE", "inuse", "inuse"),
    socket!("RAW", "inuse", "inuse"),
    socket!("FRAG", "inuse", "inuse"),
    socket!("FRAG", "memory", "memory"),
    socket!("TCP6", "inuse", "inuse"),
    socket!("UDP6", "inuse", "inuse"),
    socket!("UDPLITE6", "inuse", "inuse"),
    socket!("RAW6", "inuse", "inuse"),
    socket!("FRAG6", "inuse", "inuse"),
    socket!("FRAG6", "memory", "memory"),
];

/// The fields of `/proc/net/sockstat` that count pages, as bytes.
pub static SOCKET_BYTES: &[Field] = &[socket!("TCP", "mem", "mem_bytes"), socket!("UDP", "mem", "mem_bytes")];

macro_rules! netstat {
    ($($group:ident: $($source:ident)*;)*) => {
        /// The fields of `/proc/net/snmp`, `snmp6` and `netstat` that node_exporter shows by default.
        pub static NETSTAT: &[Field] = &[$($(Field {
            group: stringify!($group),
            source: stringify!($source),
            metric: Metric::gauge(
                concat!("node_netstat_", stringify!($group), "_", stringify!($source)),
                concat!("Statistic ", stringify!($group), stringify!($source), "."),
                &[],
            ),
        }),*),*];
    };
}

netstat! {
    Ip: Forwarding;
    IpExt: InOctets OutOctets;
    Ip6: InOctets OutOctets;
    Icmp: InMsgs OutMsgs InErrors;
    Icmp6: InMsgs OutMsgs InErrors;
    Tcp: ActiveOpens PassiveOpens CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts;
    TcpExt: ListenOverflows ListenDrops SyncookiesSent SyncookiesRecv SyncookiesFailed TCPSynRetrans TCPTimeouts;
    Udp: InDatagrams OutDatagrams NoPorts InErrors RcvbufErrors SndbufErrors;
    Udp6: InDatagrams OutDatagrams NoPorts InErrors RcvbufErrors SndbufErrors;
    UdpLite: InErrors;
    UdpLite6: InErrors;
}

macro_rules! vmstat {
    ($($source:ident)*) => {
        /// The fields of `/proc/vmstat` that node_exporter shows by default.
        pub static VMSTAT: &[Field] = &[$(Field {
            group: "",
            source: stringify!($source),
            metric: Metric::gauge(
                concat!("node_vmstat_", stringify!($source)),
                concat!("/proc/vmstat information field ", stringify!($source), "."),
                &[],
            ),
        }),*];
    };
}

vmstat! { oom_kill pgfault pgmajfault pgpgin pgpgout pswpin pswpout }

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::metric::Kind;

    #[test]
    fn every_name_is_used_once() {
        let mut names = BTreeSet::new();
        for metric in all() {
            assert!(names.insert(metric.name), "{} stands twice", metric.name);
        }
    }

    #[test]
    fn counters_and_only_counters_end_in_total() {
        for metric in all() {
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
        }
    }
}
