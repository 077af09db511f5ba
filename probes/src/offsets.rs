//! Where the fields lie that the kernel programs read in the kernel's own structures. The agent finds them in the running
//! kernel's BTF and sets them as read-only globals before the programs are loaded.

use crate::record::record;

/// A field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Declares [`Offsets`] together with the table that says which structure and member each field comes from.
macro_rules! offsets {
    ( $( $(#[$meta:meta])* $field:ident : $structure:literal . $member:literal, )+ ) => {
        record! {
            /// Byte offsets in kernel structures; [`ABSENT`] where the kernel has no such member.
            pub struct Offsets { $( $(#[$meta])* pub $field: u32, )+ }
        }

        /// Structure and member (a path with dots) of each field of [`Offsets`], in order.
        pub const MEMBERS: &[(&str, &str)] = &[ $( ($structure, $member), )+ ];

        impl Offsets {
            /// Builds the table from offsets in the order of [`MEMBERS`]; `None` if their number differs.
            pub fn from_slice(offsets: &[u32]) -> Option<Self> {
                let mut offsets = offsets.iter().copied();
                let all = Self { $( $field: offsets.next()?, )+ };
                offsets.next().is_none().then_some(all)
            }
        }
    };
}

offsets! {
    /// The thread group's leader.
    task_group_leader: "task_struct"."group_leader",
    /// Process number.
    task_tgid: "task_struct"."tgid",
    /// Parent process.
    task_real_parent: "task_struct"."real_parent",
    /// Address space.
    task_mm: "task_struct"."mm",
    /// Open files.
    task_files: "task_struct"."files",
    /// Control groups.
    task_cgroups: "task_struct"."cgroups",
    /// Executable.
    mm_exe_file: "mm_struct"."exe_file",
    /// Its name in the directory.
    file_dentry: "file"."f_path.dentry",
    /// Inode.
    file_inode: "file"."f_inode",
    /// What the file stands for: for a socket its `struct socket`.
    file_private: "file"."private_data",
    /// Name bytes.
    dentry_name: "dentry"."d_name.name",
    /// Kind and permissions.
    inode_mode: "inode"."i_mode",
    /// Number.
    inode_number: "inode"."i_ino",
    /// File system.
    inode_super: "inode"."i_sb",
    /// Its device.
    super_device: "super_block"."s_dev",
    /// Table of descriptors.
    files_table: "files_struct"."fdt",
    /// Number of slots in it.
    table_size: "fdtable"."max_fds",
    /// The slots.
    table_slots: "fdtable"."fd",
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
    /// The protocol-independent half.
    socket_sock: "socket"."sk",
    /// Address family.
    sock_family: "sock"."__sk_common.skc_family",
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
    /// State.
    sock_state: "sock"."__sk_common.skc_state",
    /// IPPROTO number.
    sock_protocol: "sock"."sk_protocol",
    /// Last error.
    sock_error: "sock"."sk_err",
    /// Which halves are closed.
    sock_shutdown: "sock"."sk_shutdown",
    /// Packets dropped, for a listener connections.
    sock_drops: "sock"."sk_drops",
    /// Smoothed round-trip time in microseconds, times eight.
    tcp_srtt: "tcp_sock"."srtt_us",
    /// Payload bytes received.
    tcp_bytes_received: "tcp_sock"."bytes_received",
    /// Payload bytes sent, with those sent again.
    tcp_bytes_sent: "tcp_sock"."bytes_sent",
    /// Payload bytes sent again.
    tcp_bytes_resent: "tcp_sock"."bytes_retrans",
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
        /// Index of the `pids` controller in `css_set.subsys`, or [`ABSENT`].
        pub pids_controller: u32,
        /// Histogram cells that there is room for.
        pub histograms: u32,
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
