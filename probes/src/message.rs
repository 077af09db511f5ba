//! The records that go through the ring buffer: only what is rare. Each begins with a [`Header`]; text follows it.

use crate::{
    cell::kinds,
    record::record,
    wall::{STATES, Split},
};

kinds! {
    /// What a record tells.
    pub enum Kind {
        /// A piece of a statement's text.
        StatementText = 1,
        /// The name behind the number of a database or user.
        DatabaseName = 2,
        /// The number of a cycle that held several different statements.
        Batch = 3,
        /// A process began to run an executable.
        Exec = 4,
        /// A process mapped a file that may hold code which nobody has looked at yet.
        Mapped = 5,
        /// A Postgres cycle that is told one by one.
        Query = 6,
        /// A statement came again and again in one burst.
        Repeated = 7,
        /// A parallel worker of Postgres has ended.
        Worker = 8,
        /// A process ended by a signal, or got one that asks it to read its configuration again.
        Signal = 9,
        /// A system call that is traced has ended.
        Call = 10,
        /// Something that is traced happened to a TCP connection.
        Tcp = 11,
        /// A process began to run an executable, with its arguments, because that is traced.
        Execution = 12,
    }
}

kinds! {
    /// What happened to a TCP connection.
    pub enum TcpEvent {
        /// The peer accepted it.
        Connected = 0,
        /// The peer answered with a reset.
        Refused = 1,
        /// Nobody answered.
        TimedOut = 2,
        /// The network said that there is no way.
        Unreachable = 3,
        /// The process gave up connecting.
        Aborted = 4,
        /// The process accepted it.
        Accepted = 5,
        /// It was closed.
        Closed = 6,
        /// A segment was sent again.
        Retransmitted = 7,
        /// It was broken off from this end.
        ResetSent = 8,
        /// The peer broke it off.
        ResetReceived = 9,
    }
}

/// Bytes of a process' arguments that are told.
pub const ARGUMENTS: usize = 512;

record! {
    /// A system call has ended. Its head tells when.
    pub struct Call {
        /// Head.
        pub header: Header,
        /// How long it took.
        pub ns: u64,
        /// What it returned.
        pub result: i64,
        /// Its number.
        pub syscall: u32,
        /// Service of the process.
        pub service: u32,
        /// The process.
        pub pid: u32,
        /// Its thread.
        pub tid: u32,
        /// The thread's name, filled with zeros.
        pub thread: [u8; 16],
    }
}

record! {
    /// Something happened to a TCP connection. Its head tells when.
    pub struct Tcp {
        /// Head.
        pub header: Header,
        /// How long the connect took, the wait in the accept queue, or the connection's life; 0 for the others.
        pub ns: u64,
        /// Bytes received so far, as far as they were seen.
        pub received_bytes: u64,
        /// Bytes sent so far, as far as they were seen.
        pub sent_bytes: u64,
        /// Service of the process.
        pub service: u32,
        /// Number of the peer.
        pub peer: u32,
        /// The process that connected or accepted; 0 if that was not seen.
        pub pid: u32,
        /// Local port; 0 if unknown.
        pub port: u16,
        /// A [`TcpEvent`].
        pub event: u8,
        /// A [`crate::cell::Family`]; 255 if unknown.
        pub family: u8,
    }
}

record! {
    /// A process began to run an executable. Its head tells when, and how much of the arguments is known.
    pub struct Execution {
        /// Head.
        pub header: Header,
        /// The process.
        pub pid: u32,
        /// Who started it.
        pub parent: u32,
        /// Its user.
        pub uid: u32,
        /// Service that it belongs to now.
        pub service: u32,
        /// Bytes that its arguments have.
        pub whole: u64,
        /// The arguments, each with a zero behind it.
        pub arguments: [u8; ARGUMENTS],
    }
}

record! {
    /// The head of every record.
    pub struct Header {
        /// A [`Kind`].
        pub kind: u32,
        /// Bytes of text after the record's fixed part.
        pub text_len: u32,
        /// When, by the monotonic clock.
        pub at_ns: u64,
    }
}

record! {
    /// A piece of a statement's text; the bytes follow. Text that lay in one buffer comes in one piece.
    pub struct StatementText {
        /// Head.
        pub header: Header,
        /// What tells the streams apart that pieces belong to.
        pub stream: u64,
        /// The statement's number; 0 while its text is not complete.
        pub statement: u32,
        /// Where in the text this piece begins.
        pub offset: u32,
        /// 1: the statement was longer than what is looked at.
        pub cut: u32,
        /// Spare.
        pub _pad: u32,
    }
}

record! {
    /// A Postgres cycle with everything that is known of it. Its head tells when it ended.
    pub struct Query {
        /// Head.
        pub header: Header,
        /// When its first byte went out (client) or came in (server), by the monotonic clock.
        pub begun_ns: u64,
        /// From then to ReadyForQuery.
        pub duration_ns: u64,
        /// From then to the first byte of the reply.
        pub first_byte_ns: u64,
        /// Tells its connection from all others.
        pub connection: u64,
        /// Its statement, or the number of its batch.
        pub statement: u32,
        /// How many statements it held, as far as a byte can count.
        pub statements: u32,
        /// Rows that they returned or changed.
        pub rows: u32,
        /// The error that it ended with, packed by [`crate::postgres::push_sqlstate`]; 0 if none.
        pub sqlstate: u32,
        /// Service of the process.
        pub service: u32,
        /// Number of the database's name.
        pub database: u32,
        /// Number of the user's name.
        pub user: u32,
        /// Number of the peer.
        pub peer: u32,
        /// The process that was seen.
        pub pid: u32,
        /// Its thread.
        pub tid: u32,
        /// Local port.
        pub port: u16,
        /// A [`crate::cell::Role`].
        pub role: u8,
        /// A [`crate::cell::Family`].
        pub family: u8,
        /// Transaction state after it: `I`, `T` or `E`.
        pub transaction: u8,
        /// Why it is told: bits of [`crate::watch`].
        pub why: u8,
        /// What part of its duration the wait event lasted, in 65,535ths.
        pub event_share: u16,
        /// The wait event of Postgres with the most time; 0 if none.
        pub event: u32,
        /// What its duration was spent with, in 65,535ths by [`crate::wall::WallState`]; all zero if that was not looked at.
        pub wall: [u16; STATES],
        /// Spare.
        pub _pad: [u8; 4],
    }
}

impl Query {
    /// Puts in what it spent. The parts are rounded down.
    #[inline(always)]
    pub fn tell_split(&mut self, split: &Split) {
        let share = |ns: u64| ns.wrapping_mul(u16::MAX as u64).checked_div(self.duration_ns).unwrap_or(0) as u16;
        (self.event_share, self.event) = (share(split.event_ns), split.event);
        for (part, ns) in self.wall.iter_mut().zip(split.ns) {
            *part = share(ns);
        }
    }
}

record! {
    /// A statement that came again and again in one transaction, or in requests that followed each other closely. Told at a
    /// threshold, whenever the count has doubled since, and at the end of the burst.
    pub struct Repeated {
        /// Head.
        pub header: Header,
        /// When the burst began, by the monotonic clock.
        pub begun_ns: u64,
        /// Time in the cycles of this statement.
        pub busy_ns: u64,
        /// Tells its connection from all others.
        pub connection: u64,
        /// The statement.
        pub statement: u32,
        /// How often it came so far.
        pub count: u32,
        /// Service of the process.
        pub service: u32,
        /// Number of the database's name.
        pub database: u32,
        /// Number of the user's name.
        pub user: u32,
        /// Number of the peer.
        pub peer: u32,
        /// The process that was seen.
        pub pid: u32,
        /// A [`crate::cell::Role`].
        pub role: u8,
        /// 1: the burst has ended.
        pub ended: u8,
        /// Spare.
        pub _pad: [u8; 2],
    }
}

record! {
    /// A parallel worker of Postgres has ended. Its head tells when.
    pub struct Worker {
        /// Head.
        pub header: Header,
        /// When it was first seen to be one, by the monotonic clock.
        pub begun_ns: u64,
        /// Service of the process.
        pub service: u32,
        /// The process.
        pub pid: u32,
        /// The process that it worked for, by the number that this knows itself by.
        pub leader: u32,
        /// Spare.
        pub _pad: u32,
        /// What it spent.
        pub split: Split,
    }
}

record! {
    /// A process ended by a signal, or got one.
    pub struct Signal {
        /// Head.
        pub header: Header,
        /// The process.
        pub pid: u32,
        /// Service that it belongs to; 0 if unknown.
        pub service: u32,
        /// The signal.
        pub signal: u32,
        /// 1: it ended by it.
        pub ended: u32,
        /// 1: the kernel ended it for lack of memory.
        pub out_of_memory: u32,
        /// Spare.
        pub _pad: [u8; 4],
    }
}

record! {
    /// A number that stands for the name of a database or user, which follows, or for a batch, whose hash `hash` is.
    pub struct Number {
        /// Head.
        pub header: Header,
        /// Hash of what the number stands for.
        pub hash: u64,
        /// The number.
        pub number: u32,
        /// Spare.
        pub _pad: u32,
    }
}

record! {
    /// A process began to run an executable, or mapped one.
    pub struct Exec {
        /// Head.
        pub header: Header,
        /// Process number in the initial namespace.
        pub pid: u32,
        /// Service that it belongs to now.
        pub service: u32,
    }
}
