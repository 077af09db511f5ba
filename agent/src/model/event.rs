//! What `ingest` takes from the kernel, decoded: the cells of one moment, and single records. Stages downstream know only
//! this.

use std::net::IpAddr;

use steth_probes::{
    cell::{CellKey, CounterKind, Family, HistogramKind, Loss, Role},
    histogram::Histogram,
    message::TcpEvent,
    wall::{STATES, THREAD_STATES},
};

/// The kernel's cells at one moment. Counts are totals since the programs were loaded.
#[derive(Debug, Default)]
pub struct Reading {
    /// Histogram cells, each the sum over CPUs; buckets wrap.
    pub histograms: Vec<(HistogramKind, CellKey, Histogram)>,
    /// Counter cells.
    pub counters: Vec<(CounterKind, CellKey, u64)>,
    /// What requests of statements spent, in nanoseconds by state.
    pub statement_walls: Vec<(CellKey, [u64; STATES])>,
    /// What the threads of services spent.
    pub service_walls: Vec<(u32, [u64; THREAD_STATES])>,
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

impl Reading {
    /// Takes out what some services did; that they were met stays.
    pub fn leave_out(&mut self, is_left_out: impl Fn(u32) -> bool) {
        self.histograms.retain(|(_, key, _)| !is_left_out(key.service.into()));
        self.counters.retain(|(_, key, _)| !is_left_out(key.service.into()));
        self.statement_walls.retain(|(key, _)| !is_left_out(key.service.into()));
        self.service_walls.retain(|(service, _)| !is_left_out(*service));
        self.connections.retain(|connection| !is_left_out(connection.service));
    }
}

/// Where the processes of a Postgres cluster note what they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends {
    /// Address, in each of them, of the pointer to its own entry; 0 if unknown.
    pub entry_address: u64,
    /// Address of the pointer to what it waits for; 0 if unknown.
    pub event_address: u64,
    /// Address of the pointer to what a background worker is; 0 if unknown.
    pub worker_address: u64,
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

impl PeerSeen {
    /// The address as it is shown, with its port if it was called.
    pub fn shown(&self) -> String {
        match (self.address, self.port) {
            (address, None) => address.to_string(),
            (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        }
    }
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
    /// How long an open transaction has waited for its next request.
    pub waiting_ns: Option<u64>,
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

/// A Postgres cycle that was told one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuerySeen {
    /// When its first byte was seen, by the monotonic clock.
    pub begun_ns: u64,
    /// From then to ReadyForQuery.
    pub duration_ns: u64,
    /// From then to the first byte of the reply.
    pub first_byte_ns: u64,
    /// What tells its connection from all others.
    pub connection: u64,
    /// Its statement or batch.
    pub statement: u32,
    /// How many statements it held.
    pub statements: u32,
    /// Rows that they returned or changed.
    pub rows: u32,
    /// The error that it ended with.
    pub sqlstate: Option<[u8; 5]>,
    /// Number of the service.
    pub service: u32,
    /// Number of the database; 0 if unknown.
    pub database: u32,
    /// Number of the user; 0 if unknown.
    pub user: u32,
    /// Number of the peer; 0 if unknown or none.
    pub peer: u32,
    /// The process that was seen.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// Local port.
    pub port: u16,
    /// Which end the process is.
    pub role: Role,
    /// Address family.
    pub family: Family,
    /// Transaction state after it, as on the wire.
    pub transaction: u8,
    /// Whether it was slow.
    pub slow: bool,
    /// What its duration was spent with, in nanoseconds by state, if that was looked at.
    pub wall: Option<[u64; STATES]>,
    /// The wait event of Postgres with the most time, and how much that was.
    pub event: Option<(u32, u64)>,
}

/// Something that is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traced {
    /// A Postgres cycle.
    Query(Box<QuerySeen>),
    /// A system call.
    Call(CallSeen),
    /// What happened to a TCP connection.
    Tcp(TcpSeen),
    /// A process began to run an executable.
    Execution(ExecutionSeen),
}

impl Traced {
    /// Number of the service; 0 if unknown.
    pub fn service(&self) -> u32 {
        match self {
            Self::Query(query) => query.service,
            Self::Call(call) => call.service,
            Self::Tcp(tcp) => tcp.service,
            Self::Execution(execution) => execution.service,
        }
    }

    /// Number of the peer; 0 if unknown or none.
    pub fn peer(&self) -> u32 {
        match self {
            Self::Query(query) => query.peer,
            Self::Tcp(tcp) => tcp.peer,
            Self::Call(_) | Self::Execution(_) => 0,
        }
    }
}

/// A system call that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSeen {
    /// When it ended, by the monotonic clock.
    pub ended_ns: u64,
    /// How long it took.
    pub duration_ns: u64,
    /// What it returned.
    pub result: i64,
    /// Its number.
    pub syscall: u32,
    /// Number of the service.
    pub service: u32,
    /// The process.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// The thread's name, filled with zeros.
    pub thread: [u8; 16],
}

/// What happened to a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSeen {
    /// When, by the monotonic clock.
    pub at_ns: u64,
    /// What.
    pub event: TcpEvent,
    /// How long that took; 0 if it took no time.
    pub duration_ns: u64,
    /// Bytes received so far.
    pub received_bytes: u64,
    /// Bytes sent so far.
    pub sent_bytes: u64,
    /// Number of the service; 0 if unknown.
    pub service: u32,
    /// Number of the peer; 0 if unknown.
    pub peer: u32,
    /// The process; 0 if unknown.
    pub pid: u32,
    /// Local port; 0 if unknown.
    pub port: u16,
    /// Address family, if known.
    pub family: Option<Family>,
}

/// A process that began to run an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionSeen {
    /// When, by the monotonic clock.
    pub at_ns: u64,
    /// The process.
    pub pid: u32,
    /// Who started it.
    pub parent: u32,
    /// Number of its user.
    pub uid: u32,
    /// Number of the service.
    pub service: u32,
    /// Its arguments, as far as they are told.
    pub command: Vec<String>,
    /// Whether it has more.
    pub is_cut: bool,
}

#[cfg(test)]
impl QuerySeen {
    /// A short one of a client, for tests that change what they are about.
    pub fn any() -> Self {
        Self {
            begun_ns: 1,
            duration_ns: 1,
            first_byte_ns: 1,
            connection: 1,
            statement: 0,
            statements: 1,
            rows: 0,
            sqlstate: None,
            service: 1,
            database: 0,
            user: 0,
            peer: 0,
            pid: 1,
            tid: 1,
            port: 0,
            role: Role::Client,
            family: Family::Unix,
            transaction: b'I',
            slow: false,
            wall: None,
            event: None,
        }
    }
}

/// A parallel worker of Postgres that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSeen {
    /// When it was first seen to be one, by the monotonic clock.
    pub begun_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// Number of the service.
    pub service: u32,
    /// The process.
    pub pid: u32,
    /// The process that it worked for, by the number that this knows itself by: another than ours in a container.
    pub leader: u32,
    /// What its time was spent with, in nanoseconds by state.
    pub wall: [u64; STATES],
    /// The wait event with the most time, and how much that was.
    pub event: Option<(u32, u64)>,
}

/// A Postgres statement that came again and again in one transaction, or in requests that followed each other closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepeatSeen {
    /// When the burst began, by the monotonic clock.
    pub begun_ns: u64,
    /// When this was told.
    pub told_ns: u64,
    /// Time in the cycles of this statement.
    pub busy_ns: u64,
    /// What tells its connection from all others.
    pub connection: u64,
    /// The statement.
    pub statement: u32,
    /// How often it came so far.
    pub count: u32,
    /// Number of the service.
    pub service: u32,
    /// Number of the database; 0 if unknown.
    pub database: u32,
    /// Number of the user; 0 if unknown.
    pub user: u32,
    /// Number of the peer; 0 if unknown or none.
    pub peer: u32,
    /// The process that was seen.
    pub pid: u32,
    /// Which end it is.
    pub role: Role,
    /// Whether the burst has ended.
    pub ended: bool,
}

/// A process ended by a signal, or got one that asks it to read its configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalSeen {
    /// The process.
    pub pid: u32,
    /// Number of the service; 0 if unknown.
    pub service: u32,
    /// The signal.
    pub signal: u32,
    /// Whether it ended by it.
    pub ended: bool,
    /// Whether the kernel ended it for lack of memory.
    pub out_of_memory: bool,
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
    /// The name behind the number of a database or user.
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
    /// A Postgres cycle was slow or failed.
    Query(Box<QuerySeen>),
    /// A Postgres statement came again and again.
    Repeated(RepeatSeen),
    /// A parallel worker of Postgres has ended.
    Worker(Box<WorkerSeen>),
    /// A process ended by a signal, or got one.
    Signal(SignalSeen),
}
