//! How a cell is named: which figure it holds, of which service, under which labels.
//! Knows neither how a figure is measured nor how it is shown.

use crate::record::record;

record! {
    /// The name of one cell. What `sub`, `a` and `b` mean depends on `kind`; unused ones are zero.
    #[derive(PartialEq, Eq, Hash)]
    pub struct CellKey {
        /// A [`HistogramKind`] or [`CounterKind`], depending on the map.
        pub kind: u8,
        /// A small second label, such as an outcome or a direction.
        pub sub: u8,
        /// Number of the service, 0 for "other".
        pub service: u16,
        /// First label.
        pub a: u32,
        /// Second label.
        pub b: u32,
    }
}

/// Declares an enum that travels as a byte, with a checked conversion back.
macro_rules! kinds {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $value:literal, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $( $(#[$variant_meta])* $variant = $value, )+ }

        impl $name {
            /// All variants.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The variant with this number, if there is one.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $( $value => Some(Self::$variant), )+
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use kinds;

kinds! {
    /// What a histogram cell measures.
    pub enum HistogramKind {
        /// Time in one system call; `a` is its number.
        Syscall = 1,
        /// From the start of a TCP connect to its end; `sub` is a [`ConnectOutcome`], `a` the peer.
        TcpConnect = 2,
        /// From the end of the handshake until the process accepted; `a` is the local port.
        TcpAcceptQueue = 3,
        /// Smoothed round-trip time; `a` is the peer.
        TcpRtt = 4,
        /// From the start of a TCP connection until it was closed; `a` is the peer.
        TcpLifetime = 5,
        /// Time in a call that reads from a socket; `sub` is a [`Family`].
        SocketRead = 6,
        /// Time in a call that writes to a socket; `sub` is a [`Family`].
        SocketWrite = 7,
        /// From data being ready until the process read it; `sub` is a [`Family`].
        SocketPickup = 8,
        /// A Postgres cycle from its first byte to ReadyForQuery; `sub` is a [`Role`], `a` the database, `b` the statement.
        PostgresQuery = 9,
        /// A Postgres cycle from its first byte to the first byte of the reply; labels as `PostgresQuery`.
        PostgresFirstByte = 10,
        /// A transaction from its first cycle's first byte to its last one's end; `sub` is a [`Role`], `a` the database,
        /// `b` a [`TransactionOutcome`].
        PostgresTransaction = 11,
        /// A transaction's wait for its next cycle; `sub` is a [`Role`], `a` the database.
        PostgresWait = 12,
        /// From the first byte of a start-up packet to the first ReadyForQuery; `sub` is a [`Role`], `a` the database.
        PostgresConnect = 13,
        /// A wait in a run queue.
        RunQueue = 14,
    }
}

kinds! {
    /// What a counter cell counts.
    pub enum CounterKind {
        /// System calls that failed; `a` is the call, `b` the error number.
        SyscallError = 1,
        /// TCP segments sent again; `a` is the peer.
        TcpRetransmit = 2,
        /// TCP resets; `sub` is a [`Direction`], `a` the peer.
        TcpReset = 3,
        /// Payload bytes; `sub` is a [`Direction`], `a` the peer.
        TcpBytes = 4,
        /// Connection attempts that a listener dropped; `a` is the local port.
        TcpListenDrop = 5,
        /// Errors; `sub` is a [`Role`], `a` the database, `b` the SQLSTATE packed by [`crate::postgres::push_sqlstate`].
        PostgresError = 6,
        /// Encrypted Postgres connections of which nothing is seen; `sub` is a [`crate::tls::Unseen`].
        PostgresUnseen = 7,
        /// Cycles that ended with an error; `sub` is a [`Role`], `a` the database, `b` the statement.
        PostgresFailed = 8,
        /// Errors before the first ReadyForQuery; labels as `PostgresError`.
        PostgresLoginFailure = 9,
        /// Bursts in which a statement came as often as is worth telling; labels as `PostgresFailed`.
        PostgresRepeat = 10,
    }
}

kinds! {
    /// What has room of its own among cells, so that a flood of one leaves some for the others. Whoever has used up its
    /// room takes of what is common to all.
    pub enum Share {
        /// System calls and socket operations.
        Calls = 0,
        /// TCP.
        Tcp = 1,
        /// Postgres.
        Postgres = 2,
    }
}

impl Share {
    /// Whose room a histogram cell of this [`HistogramKind`] takes.
    #[inline(always)]
    pub const fn of_histogram(kind: u8) -> Self {
        const CONNECT: u8 = HistogramKind::TcpConnect as u8;
        const LIFETIME: u8 = HistogramKind::TcpLifetime as u8;
        const QUERY: u8 = HistogramKind::PostgresQuery as u8;
        const SETUP: u8 = HistogramKind::PostgresConnect as u8;
        match kind {
            CONNECT..=LIFETIME => Self::Tcp,
            QUERY..=SETUP => Self::Postgres,
            _ => Self::Calls,
        }
    }

    /// Whose room a counter cell of this [`CounterKind`] takes.
    #[inline(always)]
    pub const fn of_counter(kind: u8) -> Self {
        const RETRANSMIT: u8 = CounterKind::TcpRetransmit as u8;
        const LISTEN_DROP: u8 = CounterKind::TcpListenDrop as u8;
        const ERROR: u8 = CounterKind::PostgresError as u8;
        const REPEAT: u8 = CounterKind::PostgresRepeat as u8;
        match kind {
            RETRANSMIT..=LISTEN_DROP => Self::Tcp,
            ERROR..=REPEAT => Self::Postgres,
            _ => Self::Calls,
        }
    }
}

kinds! {
    /// How a TCP connect ended.
    pub enum ConnectOutcome {
        /// The handshake was completed.
        Established = 0,
        /// The peer answered with a reset.
        Refused = 1,
        /// Nobody answered.
        TimedOut = 2,
        /// The network said that there is no way.
        Unreachable = 3,
        /// The process gave up.
        Aborted = 4,
    }
}

kinds! {
    /// Address family of a socket.
    pub enum Family {
        /// IPv4.
        Inet = 0,
        /// IPv6.
        Inet6 = 1,
        /// Unix domain.
        Unix = 2,
    }
}

kinds! {
    /// Which way something went, seen from this host's process.
    pub enum Direction {
        /// Towards the process.
        Received = 0,
        /// Away from the process.
        Sent = 1,
    }
}

kinds! {
    /// Which end of a Postgres connection the observed process is.
    pub enum Role {
        /// It answers: a backend.
        Server = 0,
        /// It asks.
        Client = 1,
    }
}

kinds! {
    /// How a Postgres transaction ended.
    pub enum TransactionOutcome {
        /// Committed.
        Commit = 0,
        /// Rolled back.
        Rollback = 1,
    }
}

kinds! {
    /// Why something was not counted. Each has its own counter, exported as `steth_cells_full_total` or
    /// `steth_records_lost_total`.
    pub enum Loss {
        /// No room for another service: it goes under "other".
        ServicesFull = 0,
        /// No room for another histogram cell.
        HistogramsFull = 1,
        /// No room for another counter cell: it is counted with all labels "other".
        CountersFull = 2,
        /// No room for another peer: it goes under "other".
        PeersFull = 3,
        /// No room for another socket.
        ConnectionsFull = 4,
        /// A task's state could not be created.
        TaskStateFailed = 5,
        /// The ring buffer had no room for a record.
        RingFull = 6,
        /// A byte of a process' memory could not be read (paged out or unmapped).
        UserMemoryUnreadable = 7,
        /// A statement was longer than what is copied.
        StatementCut = 8,
        /// No room for another statement or name: it goes under "other".
        NamesFull = 9,
        /// More statements were under way on one connection than are followed.
        PipelineTooDeep = 10,
        /// A Postgres connection went out of step and was given up until it is recognised anew.
        PostgresOutOfStep = 11,
        /// One read or write held more messages than are walked.
        TooManyMessages = 12,
        /// No room for another prepared statement.
        PreparedFull = 13,
        /// A Postgres conversation was forgotten for lack of room, and is found anew.
        ConversationForgotten = 14,
        /// No room for another name of a database or user: it stays unknown.
        DatabasesFull = 15,
        /// A socket in use was forgotten for lack of room, and is met anew.
        SocketForgotten = 16,
        /// As many walks behind TLS as there is room for were interrupted on one CPU.
        TlsWalksFull = 17,
        /// No room for another `SSL` of OpenSSL.
        SslsFull = 18,
        /// A slow or failed cycle was not told because its service had too many of them.
        QueriesSuppressed = 19,
        /// The ring buffer had no room for a traced cycle.
        TraceFull = 20,
        /// The ring buffer had no room for a sample.
        SamplesFull = 21,
        /// No room for another file of code: its frames are shown by address.
        UnwindFilesFull = 22,
        /// No room for the wall split of another statement: it goes under "other".
        WallsFull = 23,
        /// A Postgres cycle was under way on a socket whose end was found too late to tell more of it.
        CycleEndUnseen = 24,
    }
}

/// Number of [`Loss`] counters.
pub const LOSSES: u32 = Loss::ALL.len() as u32;

const _: () = assert!(size_of::<CellKey>() == 12);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_way_through_a_byte() {
        for kind in HistogramKind::ALL {
            assert_eq!(HistogramKind::from_u8(*kind as u8), Some(*kind));
        }
        for kind in CounterKind::ALL {
            assert_eq!(CounterKind::from_u8(*kind as u8), Some(*kind));
        }
        for share in Share::ALL {
            assert_eq!(Share::from_u8(*share as u8), Some(*share));
        }
        assert_eq!(HistogramKind::from_u8(0), None);
        assert_eq!(Loss::from_u8(LOSSES as u8), None);
    }

    #[test]
    fn every_kind_takes_the_room_of_what_it_belongs_to() {
        for kind in HistogramKind::ALL {
            let name = format!("{kind:?}");
            let share = Share::of_histogram(*kind as u8);
            let own = ["Tcp", "Postgres"].into_iter().find(|prefix| name.starts_with(prefix)).unwrap_or("Calls");
            assert_eq!(format!("{share:?}"), own, "{name}");
        }
        for kind in CounterKind::ALL {
            let name = format!("{kind:?}");
            let share = Share::of_counter(*kind as u8);
            let own = ["Tcp", "Postgres"].into_iter().find(|prefix| name.starts_with(prefix)).unwrap_or("Calls");
            assert_eq!(format!("{share:?}"), own, "{name}");
        }
    }
}
