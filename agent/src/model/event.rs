//! What `ingest` takes from the kernel, decoded: the cells of one moment, and single records. Stages downstream know only
//! this.

use std::net::IpAddr;

use steth_probes::{
    cell::{CellKey, CounterKind, Family, HistogramKind, Loss, Role},
    histogram::Histogram,
};

/// The kernel's cells at one moment. Counts are totals since the programs were loaded.
#[derive(Debug, Default)]
pub struct Reading {
    /// Histogram cells, each the sum over CPUs; buckets wrap.
    pub histograms: Vec<(HistogramKind, CellKey, Histogram)>,
    /// Counter cells.
    pub counters: Vec<(CounterKind, CellKey, u64)>,
    /// What was not counted.
    pub losses: Vec<(Loss, u64)>,
    /// Services that were met.
    pub services: Vec<ServiceSeen>,
    /// Peers that were met.
    pub peers: Vec<PeerSeen>,
    /// Sockets that are open.
    pub connections: Vec<ConnectionSeen>,
    /// Entries that could not be decoded.
    pub malformed: u64,
}

/// Where the processes of a Postgres cluster note what they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends {
    /// Address, in each of them, of the pointer to its own entry.
    pub entry_address: u64,
    /// Offset in the entry of the pointer to the statement's text.
    pub text_offset: u32,
    /// Bytes that there is room for, with the closing zero.
    pub text_len: u32,
}

/// A service that the kernel has met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSeen {
    /// The number that its cells bear.
    pub number: u32,
    /// Number of its control group.
    pub cgroup: u64,
    /// Whether that is one of the `pids` controller of a version 1 hierarchy.
    pub cgroup_v1: bool,
    /// Base name of the executable; empty for a kernel thread.
    pub executable: String,
    /// For a Postgres server its postmaster's process number.
    pub cluster_pid: Option<u32>,
}

/// A peer that the kernel has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSeen {
    /// The number that cells bear.
    pub number: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its port, if it was called.
    pub port: Option<u16>,
}

/// A socket that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSeen {
    /// Number of the socket's inode; 0 if no call through a descriptor was seen.
    pub inode: u64,
    /// Number of its service; 0 if unknown.
    pub service: u32,
    /// Number of its peer; 0 if unknown.
    pub peer: u32,
    /// Local port.
    pub port: u16,
    /// Address family.
    pub family: Family,
    /// State as in the kernel's `enum tcp_state`; `None` if it is no TCP socket.
    pub tcp_state: Option<u8>,
    /// Bytes received that are in no cell yet.
    pub received_bytes: u64,
    /// Bytes sent that are in no cell yet.
    pub sent_bytes: u64,
    /// What is known of a Postgres conversation on it.
    pub postgres: Option<PostgresSeen>,
}

/// A Postgres conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostgresSeen {
    /// Which end the process is; unknown where it is encrypted.
    pub role: Option<Role>,
    /// Number of the database; 0 if unknown.
    pub database: u32,
    /// What it is doing.
    pub state: PostgresState,
}

/// What a Postgres connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PostgresState {
    /// A cycle is under way.
    Active,
    /// Nothing is.
    Idle,
    /// Nothing is, but a transaction is open.
    IdleInTransaction,
    /// It is encrypted: nothing can be read.
    EncryptedUnseen,
}

/// One decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The text behind a statement's number, as it was on the wire. Only `postgres` may look at it.
    Statement {
        /// The number.
        statement: u32,
        /// The text, or its beginning.
        text: Vec<u8>,
        /// Whether it is only the beginning.
        cut: bool,
    },
    /// The name behind a database's number.
    Database {
        /// The number.
        database: u32,
        /// The name.
        name: String,
    },
    /// A number for cycles of several different statements.
    Batch {
        /// The number.
        statement: u32,
        /// What tells it from other batches.
        hash: u64,
    },
    /// A process began to run an executable.
    Exec {
        /// The process.
        pid: u32,
        /// Its service now.
        service: u32,
    },
    /// A process mapped a file of code that nobody has looked at.
    Mapped {
        /// The process.
        pid: u32,
    },
}
