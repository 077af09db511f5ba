//! Where the fields lie that the kernel programs read in the kernel's own structures. The agent finds them in the running
//! kernel's BTF and sets them as read-only globals before the programs are loaded.

use crate::record::record;

/// A field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// What a field is read for. Where a kernel lacks one, what needs its part does not run, and the rest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Finding out which service a task belongs to.
    Service,
    /// The way from a descriptor to its socket.
    Descriptor,
    /// Which file code is mapped from.
    Code,
    /// What kind of socket it is.
    Socket,
    /// The addresses of a TCP connection.
    Peer,
    /// The figures that the kernel keeps of a TCP connection.
    Tcp,
    /// Drops of a listener; the program that reads them does without.
    Drops,
    /// Which file the code of a process comes from.
    Mapping,
    /// Threads that leave a CPU or come back.
    Switch,
    /// How a thread is numbered where it runs.
    Namespace,
    /// What a thread is, and how long it was in run queues.
    Wall,
    /// Whether it waits for a device; who reads it does without.
    Device,
    /// How a process ended.
    Exit,
    /// Whether the kernel ended it for lack of memory; who reads it does without.
    Victim,
    /// What a process does with a signal.
    Signal,
}

/// A field of a kernel structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The structure.
    pub structure: &'static str,
    /// The member, or a path to it with dots.
    pub path: &'static str,
    /// What it is read for.
    pub part: Part,
}

/// Declares [`Offsets`] together with the table that says which structure and member each field comes from.
macro_rules! offsets {
    ( $( $part:ident { $( $(#[$meta:meta])* $field:ident : $structure:literal . $member:literal, )+ } )+ ) => {
        record! {
            /// Byte offsets in kernel structures; [`ABSENT`] where the kernel has no such member.
            pub struct Offsets { $( $( $(#[$meta])* pub $field: u32, )+ )+ }
        }

        /// Where each field of [`Offsets`] comes from, in order.
        pub const MEMBERS: &[Member] =
            &[ $( $( Member { structure: $structure, path: $member, part: Part::$part }, )+ )+ ];

        impl Offsets {
            /// Builds the table from offsets in the order of [`MEMBERS`]; `None` if their number differs.
            pub fn from_slice(offsets: &[u32]) -> Option<Self> {
                let mut offsets = offsets.iter().copied();
                let all = Self { $( $( $field: offsets.next()?, )+ )+ };
                offsets.next().is_none().then_some(all)
            }

            /// The offsets in the order of [`MEMBERS`].
            pub const fn to_array(&self) -> [u32; MEMBERS.len()] {
                [ $( $( self.$field, )+ )+ ]
            }
        }
    };
}

offsets! {
    // First, because every socket operation reads it: one line of the CPU's cache.
    Descriptor {
        /// Open files.
        task_files: "task_struct"."files",
        /// Inode.
        file_inode: "file"."f_inode",
        /// What the file stands for: for a socket its `struct socket`.
        file_private: "file"."private_data",
        /// Kind and permissions.
        inode_mode: "inode"."i_mode",
        /// Number.
        inode_number: "inode"."i_ino",
        /// Table of descriptors.
        files_table: "files_struct"."fdt",
        /// Number of slots in it.
        table_size: "fdtable"."max_fds",
        /// The slots.
        table_slots: "fdtable"."fd",
        /// The protocol-independent half.
        socket_sock: "socket"."sk",
    }
    Service {
        /// The thread group's leader.
        task_group_leader: "task_struct"."group_leader",
        /// Process number.
        task_tgid: "task_struct"."tgid",
        /// Parent process.
        task_real_parent: "task_struct"."real_parent",
        /// Address space.
        task_mm: "task_struct"."mm",
        /// Control groups.
        task_cgroups: "task_struct"."cgroups",
        /// Executable.
        mm_exe_file: "mm_struct"."exe_file",
        /// Where the arguments begin.
        mm_arg_start: "mm_struct"."arg_start",
        /// Where they end.
        mm_arg_end: "mm_struct"."arg_end",
        /// Its name in the directory.
        file_dentry: "file"."f_path.dentry",
        /// Name bytes.
        dentry_name: "dentry"."d_name.name",
        /// Control group in the unified hierarchy.
        cset_unified: "css_set"."dfl_cgrp",
        /// Per-controller states.
        cset_subsystems: "css_set"."subsys",
        /// Control group of a controller's state.
        css_cgroup: "cgroup_subsys_state"."cgroup",
        /// Node in the control group file system.
        cgroup_node: "cgroup"."kn",
        /// Parent-less control groups are level 0.
        cgroup_level: "cgroup"."level",
        /// Number of the node.
        node_id: "kernfs_node"."id",
    }
    Code {
        /// File system.
        inode_super: "inode"."i_sb",
        /// Its device.
        super_device: "super_block"."s_dev",
    }
    Socket {
        /// Address family.
        sock_family: "sock"."__sk_common.skc_family",
        /// IPPROTO number.
        sock_protocol: "sock"."sk_protocol",
    }
    Peer {
        /// Local port, host order.
        sock_port: "sock"."__sk_common.skc_num",
        /// Local port, network order; stays when the kernel has given the port back.
        sock_source_port: "inet_sock"."inet_sport",
        /// Remote port, network order.
        sock_peer_port: "sock"."__sk_common.skc_dport",
        /// Remote IPv4 address.
        sock_peer_v4: "sock"."__sk_common.skc_daddr",
        /// Remote IPv6 address.
        sock_peer_v6: "sock"."__sk_common.skc_v6_daddr",
    }
    Tcp {
        /// State.
        sock_state: "sock"."__sk_common.skc_state",
        /// Last error.
        sock_error: "sock"."sk_err",
        /// Which halves are closed.
        sock_shutdown: "sock"."sk_shutdown",
        /// Smoothed round-trip time in microseconds, times eight.
        tcp_srtt: "tcp_sock"."srtt_us",
        /// Payload bytes received.
        tcp_bytes_received: "tcp_sock"."bytes_received",
        /// How far bytes have come, in TCP's count of bytes.
        tcp_received: "tcp_sock"."rcv_nxt",
        /// How far its process has read, in TCP's count of bytes.
        tcp_copied: "tcp_sock"."copied_seq",
        /// Payload bytes sent, with those sent again.
        tcp_bytes_sent: "tcp_sock"."bytes_sent",
        /// Payload bytes sent again.
        tcp_bytes_resent: "tcp_sock"."bytes_retrans",
    }
    Mapping {
        /// Mappings of an address space, by address.
        mm_tree: "mm_struct"."mm_mt.ma_root",
        /// Where the kernel mapped its own page of code.
        mm_vdso: "mm_struct"."context.vdso",
        /// First address.
        mapping_start: "vm_area_struct"."vm_start",
        /// Address behind the last.
        mapping_end: "vm_area_struct"."vm_end",
        /// Place in the file, in pages.
        mapping_offset: "vm_area_struct"."vm_pgoff",
        /// What may be done with it.
        mapping_flags: "vm_area_struct"."vm_flags",
        /// The file.
        mapping_file: "vm_area_struct"."vm_file",
        /// Last addresses of a tree's ways.
        range_pivots: "maple_range_64"."pivot",
        /// The ways.
        range_slots: "maple_range_64"."slot",
        /// Last addresses of the ways of an inner node.
        gaps_pivots: "maple_arange_64"."pivot",
        /// Its ways.
        gaps_slots: "maple_arange_64"."slot",
    }
    Switch {
        /// Thread number.
        task_pid: "task_struct"."pid",
        /// Name.
        task_comm: "task_struct"."comm",
        /// Whether it runs now.
        task_on_cpu: "task_struct"."on_cpu",
        /// When it was forked, by the monotonic clock.
        task_start: "task_struct"."start_time",
        /// How long it has run, in nanoseconds.
        task_ran: "task_struct"."se.sum_exec_runtime",
    }
    Namespace {
        /// Its numbers.
        task_thread_pid: "task_struct"."thread_pid",
        /// How deep the PID namespace lies that a thread is in.
        pid_level: "pid"."level",
        /// Its number in each namespace from the first to its own; `struct upid`, 16 bytes each.
        pid_numbers: "pid"."numbers",
    }
    Wall {
        /// What kind of thread it is, as bits.
        task_flags: "task_struct"."flags",
        /// Whether it is ready to run.
        task_state: "task_struct"."__state",
        /// Time in run queues so far.
        task_queued: "task_struct"."sched_info.run_delay",
        /// When it came to a CPU last, by the clock of run queues.
        task_arrived: "task_struct"."sched_info.last_arrival",
    }
    Device {
        /// The byte with the bit for a wait for a device.
        task_device: "task_struct"."in_iowait",
    }
    Exit {
        /// As `wait` tells it.
        task_exit_code: "task_struct"."exit_code",
    }
    Victim {
        /// What the threads of a process share of signals.
        task_signal: "task_struct"."signal",
        /// The address space of one that the kernel chose to end.
        signal_victim: "signal_struct"."oom_mm",
    }
    Signal {
        /// What is done at each signal.
        task_handlers: "task_struct"."sighand",
        /// The first signal's is first, and begins with its function.
        handlers_actions: "sighand_struct"."action",
        /// Signals that wait until they are asked for.
        task_blocked: "task_struct"."blocked",
        /// Those that it held back before it waits for some of them.
        task_really_blocked: "task_struct"."real_blocked",
    }
    Drops {
        /// Packets dropped, for a listener connections.
        sock_drops: "sock"."sk_drops",
    }
}

record! {
    /// What the agent decides before load. Features that are off are removed by the verifier.
    pub struct Settings {
        /// 1: time system calls.
        pub syscalls: u32,
        /// 1: follow sockets.
        pub sockets: u32,
        /// 1: follow TCP.
        pub tcp: u32,
        /// 1: follow Postgres.
        pub postgres: u32,
        /// 1: follow Postgres behind TLS.
        pub tls: u32,
        /// 1: take samples for profiles.
        pub profiles: u32,
        /// 1: split wall time.
        pub wall: u32,
        /// The bit of [`Offsets::task_device`].
        pub device_bit: u32,
        /// Index of the `pids` controller in `css_set.subsys`, or [`ABSENT`].
        pub pids_controller: u32,
        /// Where the histogram cells end that are kept for each [`crate::cell::Share`], and behind them those that are
        /// common to all.
        pub histograms_calls: u32,
        /// As above.
        pub histograms_tcp: u32,
        /// As above.
        pub histograms_postgres: u32,
        /// Histogram cells that there is room for.
        pub histograms: u32,
        /// Counter cells that are kept for each share.
        pub counters_calls: u32,
        /// As above.
        pub counters_tcp: u32,
        /// As above.
        pub counters_postgres: u32,
        /// Counter cells that are common to all.
        pub counters_common: u32,
        /// Services that there is room for.
        pub services: u32,
        /// Peers that there is room for.
        pub peers: u32,
        /// Statements that there is room for.
        pub statements: u32,
        /// Databases that there is room for.
        pub databases: u32,
    }
}
