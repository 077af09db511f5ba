//! What the kernel programs measure (`steth_…`): system calls, TCP, sockets, Postgres, and what was lost of them.

use super::Chapter;
use crate::model::metric::{
    Bounds::{Coarse, Fine},
    Metric,
};

/// Time in system calls.
pub static SYSCALL_DURATION: Metric = Metric::histogram(
    "steth_syscall_duration_seconds",
    "Time in a system call, from entry to return. kind is wait for calls that wait by their nature (epoll_wait, futex, \
     nanosleep, accept and the like), work for all others.",
    &["service", "syscall", "kind"],
    Coarse,
);
/// Failed system calls.
pub static SYSCALL_ERRORS: Metric = Metric::counter(
    "steth_syscall_errors_total",
    "System calls that returned an error.",
    &["service", "syscall", "errno"],
);

/// System calls.
pub static SYSCALLS: Chapter = Chapter {
    title: "System calls",
    source: "BTF tracepoints `sys_enter` and `sys_exit`",
    metrics: || vec![&SYSCALL_DURATION, &SYSCALL_ERRORS],
};

/// Connects.
pub static TCP_CONNECT: Metric = Metric::histogram(
    "steth_tcp_connect_duration_seconds",
    "From the start of a TCP connect to its end. outcome is established, refused, timed_out, unreachable or aborted.",
    &["service", "peer", "outcome"],
    Coarse,
);
/// Accept queue.
pub static TCP_ACCEPT_QUEUE: Metric = Metric::histogram(
    "steth_tcp_accept_queue_duration_seconds",
    "From the end of the handshake of an incoming connection until the process accepted it.",
    &["service", "port"],
    Coarse,
);
/// Round trips.
pub static TCP_RTT: Metric = Metric::histogram(
    "steth_tcp_rtt_seconds",
    "Smoothed round-trip time of TCP connections, sampled once a second while one is busy, and at its end.",
    &["service", "peer"],
    Coarse,
);
/// Retransmits.
pub static TCP_RETRANSMITS: Metric =
    Metric::counter("steth_tcp_retransmits_total", "TCP segments that were sent again.", &["service", "peer"]);
/// Resets.
pub static TCP_RESETS: Metric = Metric::counter(
    "steth_tcp_resets_total",
    "TCP resets. direction is sent or received; service is other where the kernel has no socket for one, such as for a \
     closed port.",
    &["service", "peer", "direction"],
);
/// Bytes.
pub static TCP_BYTES: Metric = Metric::counter(
    "steth_tcp_bytes_total",
    "Payload bytes of TCP connections. direction is sent or received.",
    &["service", "peer", "direction"],
);
/// Open connections.
pub static TCP_CONNECTIONS: Metric = Metric::gauge(
    "steth_tcp_connections",
    "Open TCP sockets by state, as the kernel names them in lower case. A connection that no process has accepted yet \
     is of service other.",
    &["service", "state"],
);
/// Lifetimes.
pub static TCP_LIFETIME: Metric = Metric::histogram(
    "steth_tcp_connection_duration_seconds",
    "From the start of a TCP connection, or from when it was first seen, until it was closed.",
    &["service", "peer"],
    Coarse,
);
/// Listen queue overflows.
pub static TCP_LISTEN_OVERFLOWS: Metric = Metric::counter(
    "steth_tcp_listen_overflows_total",
    "Incoming TCP connections that a listener dropped, mostly because its accept queue was full.",
    &["service", "port"],
);

/// TCP.
pub static TCP: Chapter = Chapter {
    title: "TCP connections",
    source: "BTF tracepoints `inet_sock_set_state`, `tcp_retransmit_skb`, `tcp_send_reset`, `tcp_receive_reset`, and the \
             kernel's `tcp_sock`",
    metrics: || {
        vec![
            &TCP_CONNECT,
            &TCP_ACCEPT_QUEUE,
            &TCP_RTT,
            &TCP_RETRANSMITS,
            &TCP_RESETS,
            &TCP_BYTES,
            &TCP_CONNECTIONS,
            &TCP_LIFETIME,
            &TCP_LISTEN_OVERFLOWS,
        ]
    },
};

/// Reads.
pub static SOCKET_READ: Metric = Metric::histogram(
    "steth_socket_read_duration_seconds",
    "Time in a call that read from a socket (read, readv, recvfrom, recvmsg), waiting included. family is inet, inet6 or \
     unix.",
    &["service", "family"],
    Coarse,
);
/// Writes.
pub static SOCKET_WRITE: Metric = Metric::histogram(
    "steth_socket_write_duration_seconds",
    "Time in a call that wrote to a socket (write, writev, sendto, sendmsg). family is inet, inet6 or unix.",
    &["service", "family"],
    Coarse,
);
/// Pick-up.
pub static SOCKET_PICKUP: Metric = Metric::histogram(
    "steth_socket_pickup_delay_seconds",
    "From data being ready on a socket until the process had read it (Linux 6.3). family is inet, inet6 or unix.",
    &["service", "family"],
    Coarse,
);

/// Sockets.
pub static SOCKETS: Chapter = Chapter {
    title: "Socket operations",
    source: "the system call programs, and BTF tracepoint `sk_data_ready`",
    metrics: || vec![&SOCKET_READ, &SOCKET_WRITE, &SOCKET_PICKUP],
};

/// Queries.
pub static POSTGRES_QUERY: Metric = Metric::histogram(
    "steth_postgres_query_duration_seconds",
    "A Postgres query cycle from the first byte of the request to ReadyForQuery. query is the statement's fingerprint, \
     unknown where its text was never seen; a cycle of several different statements is operation BATCH.",
    &["service", "role", "database", "operation", "query"],
    Fine,
);
/// First bytes.
pub static POSTGRES_FIRST_BYTE: Metric = Metric::histogram(
    "steth_postgres_first_byte_seconds",
    "A Postgres query cycle from the first byte of the request to the first byte of the reply.",
    &["service", "role", "database", "operation", "query"],
    Fine,
);
/// Statements.
pub static POSTGRES_STATEMENTS: Metric = Metric::counter(
    "steth_postgres_statements_total",
    "Postgres statements that ended well (CommandComplete). One cycle may hold many.",
    &["service", "role", "database", "operation", "query"],
);
/// Rows.
pub static POSTGRES_ROWS: Metric = Metric::counter(
    "steth_postgres_rows_total",
    "Rows that Postgres statements returned or changed, as CommandComplete tells.",
    &["service", "role", "database", "operation", "query"],
);
/// Errors.
pub static POSTGRES_ERRORS: Metric = Metric::counter(
    "steth_postgres_errors_total",
    "Errors that Postgres servers reported. 08006 also stands for queries whose connection broke off before their answer.",
    &["service", "role", "database", "sqlstate"],
);
/// Transactions.
pub static POSTGRES_TRANSACTIONS: Metric = Metric::counter(
    "steth_postgres_transactions_total",
    "Postgres transactions that ended, those of a single cycle included. outcome is commit or rollback.",
    &["service", "role", "database", "outcome"],
);
/// Duration of transactions.
pub static POSTGRES_TRANSACTION: Metric = Metric::histogram(
    "steth_postgres_transaction_duration_seconds",
    "A Postgres transaction from the first byte of its first cycle to the end of its last.",
    &["service", "role", "database"],
    Fine,
);
/// Connections.
pub static POSTGRES_CONNECTIONS: Metric = Metric::gauge(
    "steth_postgres_connections",
    "Postgres connections by state: active, idle, idle_in_transaction, or encrypted_unseen.",
    &["service", "role", "database", "state"],
);
/// Encrypted connections.
pub static POSTGRES_UNSEEN: Metric = Metric::counter(
    "steth_postgres_encrypted_unseen_total",
    "Encrypted Postgres connections of which nothing was seen, counted after a second or at their end. reason is \
     no_openssl (encrypted by something else, such as rustls, Go or Java), memory_bio (the process sends OpenSSL's records \
     itself), gss, disabled (probes.tls = false), or older (TLS that began before the agent, not through OpenSSL, to port \
     5432: nobody saw whether it is Postgres).",
    &["service", "reason"],
);
/// Waits in transactions.
pub static POSTGRES_WAIT: Metric = Metric::histogram(
    "steth_postgres_idle_in_transaction_seconds",
    "How long an open Postgres transaction waited for its next request: the client had the say. The sum is the time that \
     transactions were open for nothing.",
    &["service", "role", "database"],
    Fine,
);
/// Waits under way.
pub static POSTGRES_WAITING: Metric = Metric::gauge(
    "steth_postgres_idle_in_transaction_oldest_seconds",
    "How long the transaction that has waited longest for its next request has waited so far.",
    &["service", "role", "database"],
);
/// Logins.
pub static POSTGRES_CONNECT: Metric = Metric::histogram(
    "steth_postgres_connection_setup_seconds",
    "Setting up a Postgres connection: from the first byte of the start-up packet (or a request for encryption that was \
     turned down before it) to the first ReadyForQuery.",
    &["service", "role", "database"],
    Fine,
);
/// Refused logins.
pub static POSTGRES_LOGIN_FAILURES: Metric = Metric::counter(
    "steth_postgres_login_failures_total",
    "Postgres connections that were refused with an error before the first ReadyForQuery.",
    &["service", "role", "database", "sqlstate"],
);
/// Bound of a server.
pub static POSTGRES_MAX_CONNECTIONS: Metric = Metric::gauge(
    "steth_postgres_max_connections",
    "max_connections of a Postgres server on this host, as its command line and configuration files have it. Absent where \
     they cannot be read.",
    &["service"],
);
/// Bound of a pool.
pub static POSTGRES_POOL_SIZE: Metric = Metric::gauge(
    "steth_postgres_pool_size",
    "How many Postgres connections a service may keep, as postgres.pools has it.",
    &["service"],
);
/// Repetitions.
pub static POSTGRES_N_PLUS_ONE: Metric = Metric::counter(
    "steth_postgres_n_plus_one_total",
    "Transactions and bursts of requests in which one statement came at least postgres.n_plus_one times.",
    &["service", "role", "database", "query"],
);
/// Statement texts.
pub static POSTGRES_QUERY_INFO: Metric = Metric::gauge(
    "steth_postgres_query_info",
    "Always 1; a short summary (operation and tables) of the statement behind a fingerprint. Literals never get here.",
    &["query", "summary"],
);

/// Postgres.
pub static POSTGRES: Chapter = Chapter {
    title: "Postgres",
    source: "the wire protocol, in what processes read and write",
    metrics: || {
        vec![
            &POSTGRES_QUERY,
            &POSTGRES_FIRST_BYTE,
            &POSTGRES_STATEMENTS,
            &POSTGRES_ROWS,
            &POSTGRES_ERRORS,
            &POSTGRES_TRANSACTIONS,
            &POSTGRES_TRANSACTION,
            &POSTGRES_WAIT,
            &POSTGRES_WAITING,
            &POSTGRES_CONNECTIONS,
            &POSTGRES_UNSEEN,
            &POSTGRES_MAX_CONNECTIONS,
            &POSTGRES_POOL_SIZE,
            &POSTGRES_CONNECT,
            &POSTGRES_LOGIN_FAILURES,
            &POSTGRES_N_PLUS_ONE,
            &POSTGRES_QUERY_INFO,
        ]
    },
};

/// Wall time of requests.
pub static POSTGRES_WALL: Metric = Metric::counter(
    "steth_postgres_wall_seconds_total",
    "What the time of Postgres query cycles was spent with, at the server's end; the states of a cycle sum to its duration. \
     on_cpu, run_queue (others had the CPU), disk, lock (heavyweight, LWLock, futex), client, network, ipc, timeout, \
     activity, extension, buffer_pin, sleep, pipeline (behind earlier requests of the connection), other, or unknown.",
    &["service", "role", "database", "query", "state"],
);
/// Wall time of parallel workers.
pub static WORKER_WALL: Metric = Metric::counter(
    "steth_postgres_worker_wall_seconds_total",
    "What the time of parallel workers of Postgres queries was spent with, of those that have ended; beside the time of the query \
     cycles that they worked for, and with the same states.",
    &["service", "state"],
);
/// Wall time of services.
pub static SERVICE_WALL: Metric = Metric::counter(
    "steth_service_wall_seconds_total",
    "What the time of all threads of a service was spent with: a thread adds a second a second. on_cpu, run_queue (ready, but \
     others had the CPU), disk, lock, network (one socket), poll (epoll and its kin), sleep, other, or unknown.",
    &["service", "state"],
);
/// Run queues.
pub static RUN_QUEUE: Metric = Metric::histogram(
    "steth_runqueue_wait_seconds",
    "From when a thread was ready to run until it ran, or ran again.",
    &["service"],
    Coarse,
);

/// Wall time.
pub static WALL: Chapter = Chapter {
    title: "Wall time",
    source: "BTF tracepoint `sched_switch`, the kernel's own account of run queues, and what Postgres' processes note that \
             they wait for",
    metrics: || vec![&SERVICE_WALL, &RUN_QUEUE, &POSTGRES_WALL, &WORKER_WALL],
};

/// Records.
pub static RECORDS_LOST: Metric = Metric::counter(
    "steth_records_lost_total",
    "Records that did not reach user space, or not whole, by map and reason.",
    &["map", "reason"],
);
/// Cells.
pub static CELLS_FULL: Metric = Metric::counter(
    "steth_cells_full_total",
    "Events that were not counted where they belong because a map had no room, by map and reason.",
    &["map", "reason"],
);
/// Sockets that ended.
pub static SOCKETS_ENDED: Metric = Metric::counter(
    "steth_sockets_ended_total",
    "Sockets that were found to have ended without a word from the kernel, which reports the end of TCP connections only, \
     and were forgotten.",
    &[],
);
/// Folding.
pub static SERIES_FOLDED: Metric = Metric::gauge(
    "steth_series_folded",
    "Label values that are summed under other because of the limits in the configuration, by label.",
    &["label"],
);
/// Attached probes.
pub static PROBE_ATTACHED: Metric =
    Metric::gauge("steth_probe_attached", "1 if the probe runs, 0 if it does not.", &["probe"]);
/// Runs that did not take place.
pub static PROBE_MISSED: Metric = Metric::counter(
    "steth_probe_missed_total",
    "How often a probe was left out by the kernel because it was running on that CPU already and had been interrupted: \
     events that were not counted.",
    &["probe"],
);
/// Runs.
pub static PROBE_RUNS: Metric = Metric::counter(
    "steth_probe_runs_total",
    "How often a probe ran. Counted only while kernel.bpf_stats_enabled is set, and for a twentieth of the time for [budget].",
    &["probe"],
);
/// Run time.
pub static PROBE_RUN_SECONDS: Metric = Metric::counter(
    "steth_probe_run_seconds_total",
    "How long a probe ran in all. Measured only while kernel.bpf_stats_enabled is set, and for a twentieth of the time for [budget].",
    &["probe"],
);
/// Kernel memory.
pub static KERNEL_MEMORY: Metric =
    Metric::gauge("steth_kernel_memory_bytes", "Memory that one of the agent's kernel maps takes.", &["map"]);

/// The probes themselves.
pub static PROBES: Chapter = Chapter {
    title: "Probes",
    source: "the kernel's own accounting, and the programs' loss counters",
    metrics: || {
        vec![
            &RECORDS_LOST,
            &CELLS_FULL,
            &SOCKETS_ENDED,
            &SERIES_FOLDED,
            &PROBE_ATTACHED,
            &PROBE_MISSED,
            &PROBE_RUNS,
            &PROBE_RUN_SECONDS,
            &KERNEL_MEMORY,
        ]
    },
};
