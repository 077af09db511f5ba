//! What is kept of each socket that is followed: whose it is, its addresses, when it became ready, what was counted.

use crate::{cell::kinds, record::record};

record! {
    /// A socket under observation, keyed by the address of its `struct sock`. That address is used again after the
    /// socket is gone, so `inode` tells whether it is still the same one.
    pub struct Connection {
        /// Number of the socket's inode; 0 while no call through a descriptor has been seen.
        pub inode: u64,
        /// When the connection was begun or first seen.
        pub opened_ns: u64,
        /// When the handshake of an incoming connection ended; 0 once accepted.
        pub established_ns: u64,
        /// Since when data is ready that nobody has read; 0 if none.
        pub ready_ns: u64,
        /// When round-trip time and bytes were last put into cells.
        pub sampled_ns: u64,
        /// Bytes that the process read and that are in no cell yet.
        pub received_bytes: u64,
        /// Bytes that the process wrote and that are in no cell yet.
        pub sent_bytes: u64,
        /// Bytes that were put into cells, received.
        pub received_counted: u64,
        /// Bytes that were put into cells, sent.
        pub sent_counted: u64,
        /// Since when it is known to be Postgres and encrypted, or bytes have gone through it since then; 0 if it is not.
        pub encrypted_ns: u64,
        /// Service of the process, 0 while unknown.
        pub service: u32,
        /// Number of the peer, 0 for "other" or none.
        pub peer: u32,
        /// Local port.
        pub port: u16,
        /// A [`crate::cell::Family`].
        pub family: u8,
        /// State as in the kernel's `enum tcp_state`; 0 if not TCP.
        pub tcp_state: u8,
        /// 1 if the peer began the connection.
        pub incoming: u8,
        /// How many reads and writes have been looked at for a protocol since the last sample.
        pub looks: u8,
        /// A [`Protocol`].
        pub protocol: u8,
        /// 1 if it was followed from its beginning.
        pub complete: u8,
        /// For a listener, what the kernel counted as dropped when last looked at.
        pub dropped_seen: u32,
        /// The pass over all open files that met it last, or that came before it was met.
        pub pass: u32,
        /// Of an encrypted Postgres connection a [`crate::tls::Unseen`].
        pub unseen: u8,
        /// 1: it was counted as one of which nothing is seen.
        pub unseen_counted: u8,
        /// 1: Postgres was spoken on it, so it is worth more than a few looks whether that goes on.
        pub was_postgres: u8,
        /// 1: bytes have gone through it since it is encrypted.
        pub encrypted_talks: u8,
        /// The process that began to connect, or accepted; 0 if that was not seen.
        pub pid: u32,
    }
}

impl Connection {
    /// Whether the next read or write is looked at for a protocol.
    #[inline(always)]
    pub fn is_worth_a_look(&self) -> bool {
        self.looks < LOOKS || self.was_postgres != 0
    }
}

kinds! {
    /// What is spoken on a connection.
    pub enum Protocol {
        /// Not known (yet).
        Unknown = 0,
        /// Postgres, or what looks like it so far: its state stands in the map of wires.
        Postgres = 1,
        /// Postgres behind TLS or GSS encryption, of which nothing was read so far.
        PostgresEncrypted = 2,
        /// TLS whose plaintext is seen; what is spoken behind it is not known (yet).
        Tls = 3,
        /// Postgres behind TLS, seen in plaintext: its state stands in the map of wires.
        PostgresTls = 4,
    }
}

/// Place of the number of the current pass over all open files among the numbers that the kernel programs keep.
pub const PASS_NUMBER: u32 = 12;
/// Reads and writes that are looked at for a protocol in each sampling interval, where Postgres was not spoken before.
pub const LOOKS: u8 = 16;
/// How often a busy connection's round-trip time is sampled and its bytes are put into cells.
pub const SAMPLE_NS: u64 = 1_000_000_000;

record! {
    /// What tells peers apart.
    #[derive(PartialEq, Eq, Hash)]
    pub struct PeerKey {
        /// Address in network order; IPv4 as IPv4-mapped IPv6.
        pub address: [u8; 16],
        /// Port of a peer that was called, 0 for one that called.
        pub port: u16,
        /// Spare.
        pub _pad: [u8; 2],
    }
}

/// States of the kernel's `enum` in `include/net/tcp_states.h`.
pub mod tcp_state {
    /// Open.
    pub const ESTABLISHED: u8 = 1;
    /// Waiting for the answer to a connect.
    pub const SYN_SENT: u8 = 2;
    /// Handshake of an incoming connection under way.
    pub const SYN_RECV: u8 = 3;
    /// Gone.
    pub const CLOSE: u8 = 7;
    /// Waiting for connections.
    pub const LISTEN: u8 = 10;
}
