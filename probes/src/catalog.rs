//! All probes: their hooks, what users lose without them, and which feature they serve.

use crate::offsets::Part;

/// What can be switched on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Who did it; needed by all others.
    Identity,
    /// System calls, and through them sockets and Postgres.
    Syscalls,
    /// TCP connections.
    Tcp,
    /// Sockets of all families.
    Sockets,
    /// Postgres; has no hook of its own.
    Postgres,
    /// Postgres behind TLS.
    Tls,
    /// What wall time is spent with.
    Wall,
    /// Profiles.
    Profiles,
}

/// One kernel program with its attach point.
#[derive(Debug)]
pub struct Probe {
    /// Name of the program.
    pub name: &'static str,
    /// The BTF tracepoint that it is attached to.
    pub tracepoint: &'static str,
    /// What it serves.
    pub feature: Feature,
    /// The Linux version that brought the tracepoint.
    pub since: &'static str,
    /// The parts of the kernel's structures that it cannot do without.
    pub needs: &'static [Part],
    /// What users lose without it.
    pub lost: &'static str,
}

impl Feature {
    /// The parts of the kernel's structures that it cannot do without.
    pub const fn needs(self) -> &'static [Part] {
        match self {
            Self::Identity | Self::Syscalls => &[Part::Service],
            Self::Sockets | Self::Postgres => &[Part::Service, Part::Descriptor, Part::Socket],
            Self::Tls => &[Part::Service, Part::Descriptor, Part::Socket, Part::Code],
            Self::Wall => &[Part::Service, Part::Descriptor, Part::Switch, Part::Wall],
            Self::Profiles => &[Part::Service, Part::Descriptor, Part::Code, Part::Mapping, Part::Switch],
            Self::Tcp => &[Part::Service, Part::Socket, Part::Peer, Part::Tcp],
        }
    }
}

/// Every probe, in the order in which they are attached: those that create state before those that read it.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "sched_process_fork",
        tracepoint: "sched_process_fork",
        feature: Feature::Identity,
        since: "2.6.28",
        needs: &[Part::Service],
        lost: "children are told apart only at their first system call",
    },
    Probe {
        name: "sched_process_exec",
        tracepoint: "sched_process_exec",
        feature: Feature::Identity,
        since: "3.4",
        needs: &[Part::Service],
        lost: "a process keeps its parent's service after exec",
    },
    Probe {
        name: "sched_process_exit",
        tracepoint: "sched_process_exit",
        feature: Feature::Identity,
        since: "2.6.28",
        needs: &[Part::Service, Part::Exit],
        lost: "crashes as events, and what parallel workers of Postgres spent",
    },
    Probe {
        name: "signal_generate",
        tracepoint: "signal_generate",
        feature: Feature::Identity,
        since: "3.5",
        needs: &[Part::Service, Part::Signal],
        lost: "reloads (SIGHUP) as events",
    },
    Probe {
        name: "sys_exit",
        tracepoint: "sys_exit",
        feature: Feature::Syscalls,
        since: "2.6.32",
        needs: &[Part::Service],
        lost: "system call times, socket operations, accept-queue delay and Postgres",
    },
    Probe {
        name: "sys_enter",
        tracepoint: "sys_enter",
        feature: Feature::Syscalls,
        since: "2.6.32",
        needs: &[Part::Service],
        lost: "system call times, socket operations, accept-queue delay and Postgres",
    },
    Probe {
        name: "inet_sock_set_state",
        tracepoint: "inet_sock_set_state",
        feature: Feature::Tcp,
        since: "4.16",
        needs: &[Part::Service, Part::Socket, Part::Peer, Part::Tcp],
        lost: "TCP connect times, states and lifetimes",
    },
    Probe {
        name: "tcp_retransmit_skb",
        tracepoint: "tcp_retransmit_skb",
        feature: Feature::Tcp,
        since: "4.16",
        needs: &[],
        lost: "TCP retransmits",
    },
    Probe {
        name: "tcp_send_reset",
        tracepoint: "tcp_send_reset",
        feature: Feature::Tcp,
        since: "4.16",
        needs: &[Part::Service, Part::Socket, Part::Peer],
        lost: "TCP resets sent",
    },
    Probe {
        name: "tcp_receive_reset",
        tracepoint: "tcp_receive_reset",
        feature: Feature::Tcp,
        since: "4.16",
        needs: &[],
        lost: "TCP resets received",
    },
    Probe {
        name: "sk_data_ready",
        tracepoint: "sk_data_ready",
        feature: Feature::Sockets,
        since: "6.3",
        needs: &[Part::Service, Part::Descriptor, Part::Socket],
        lost: "the delay from data being ready until the process reads it",
    },
    Probe {
        name: SWITCH,
        tracepoint: "sched_switch",
        feature: Feature::Wall,
        since: "5.18",
        needs: &[Part::Service],
        lost: "what wall time is spent with, and off-CPU profiles",
    },
];

/// The program that sees threads leave CPUs and come back: for wall time, and for profiles while they are taken.
pub const SWITCH: &str = "sched_switch";

/// One kernel program that is attached to functions in user space.
#[derive(Debug)]
pub struct LibraryProbe {
    /// Name of the program.
    pub name: &'static str,
    /// Whether it runs when the functions return, not when they are called.
    pub at_return: bool,
    /// The functions, as users may know them.
    pub functions: &'static [&'static str],
    /// What users lose without it.
    pub lost: &'static str,
}

/// Probes of OpenSSL, wherever it is loaded.
pub const LIBRARY_PROBES: &[LibraryProbe] = &[
    LibraryProbe {
        name: "tls_enter",
        at_return: false,
        functions: &["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex", "SSL_do_handshake"],
        lost: "Postgres behind TLS: its connections are counted as encrypted_unseen",
    },
    LibraryProbe {
        name: "tls_return",
        at_return: true,
        functions: &["SSL_read", "SSL_read_ex", "SSL_do_handshake"],
        lost: "Postgres behind TLS: its connections are counted as encrypted_unseen",
    },
    LibraryProbe {
        name: "tls_free",
        at_return: false,
        functions: &["SSL_free"],
        lost: "what stands for a closed TLS connection is forgotten only when another takes its place",
    },
];

/// One kernel program that takes samples, and comes and goes while the agent runs.
#[derive(Debug)]
pub struct ProfileProbe {
    /// Name of the program.
    pub name: &'static str,
    /// What it is attached to, as users call it.
    pub hook: &'static str,
    /// The BTF tracepoint, or none if it is a clock.
    pub tracepoint: Option<&'static str>,
    /// What users lose without it.
    pub lost: &'static str,
}

/// Probes that take samples.
pub const PROFILE_PROBES: &[ProfileProbe] = &[
    ProfileProbe {
        name: "profile_always",
        hook: "perf_event/cpu-clock",
        tracepoint: None,
        lost: "profiles of the past",
    },
    ProfileProbe { name: "profile_demand", hook: "perf_event/cpu-clock", tracepoint: None, lost: "profiles on demand" },
    ProfileProbe {
        name: "profile_return",
        hook: "tp_btf/sys_exit",
        tracepoint: Some("sys_exit"),
        lost: "the stacks of threads that wait in system calls",
    },
];

/// The names of all probes, in the same order.
pub const NAMES: &[&str] = &{
    let mut names = [""; PROBES.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = PROBES[at].name;
        at += 1;
    }
    names
};
