//! The work space of a walk over the Postgres wire protocol, one for each CPU.

use steth_probes::{
    message::{Number, Query, Repeated, StatementText},
    postgres::{NAME_LEN, TEXT_LEN, WireEntry},
    record::Plain,
    shape::Shape,
    wall::Split,
};

/// Bytes of user memory that are fetched at a time.
pub const WINDOW: usize = 256;
const TEXT: usize = TEXT_LEN as usize;

/// Names a prepared statement or a portal of one connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PreparedKey {
    pub names: u64,
    pub name: u64,
}

/// Work space of one CPU.
#[repr(C)]
pub struct Scratch {
    pub wire: WireEntry,
    pub walk: Walk,
    pub window: [u8; WINDOW],
    pub text: TextRecord,
    pub noted: Noted,
    pub name: NameRecord,
    pub query: Query,
    pub repeated: Repeated,
    pub split: Split,
}

/// Work space of a walk behind TLS.
#[repr(C)]
pub struct TlsScratch {
    /// How many hold it or ask for it.
    pub claims: u64,
    pub scratch: Scratch,
}

#[repr(C)]
pub struct TextRecord {
    pub head: StatementText,
    pub text: [u8; TEXT],
}

#[repr(C)]
pub struct NameRecord {
    pub head: Number,
    pub name: [u8; NAME_LEN],
}

/// Where the look at a noted statement stands.
#[repr(C)]
pub struct Noted {
    pub shape: Shape,
    pub at: u32,
    /// Where the statement begins, behind white space.
    pub begins_at: u32,
    pub length: u32,
    pub _pad: u32,
}

/// Where a walk stands. All of it lies in the work space and not on the stack: what the verifier reads from there it takes
/// for unknown, and so one pass over a step covers all of them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Walk {
    /// The socket's address.
    pub sock: u64,
    /// Address of the next byte.
    pub address: u64,
    /// Address of the next buffer's `struct iovec`.
    pub vector: u64,
    /// When the bytes began to move, and when the call ended.
    pub begun_ns: u64,
    pub ended_ns: u64,
    /// Cycles that were put off.
    pub put_off: u64,
    /// Where the current statement's text began in this buffer, and how much of it came before.
    pub text_address: u64,
    pub text_offset: u32,
    /// Bytes left in this buffer, and after it.
    pub left: u32,
    pub beyond: u32,
    /// Where the next byte stands in the window, and how much of that is filled.
    pub window_at: u32,
    pub window_len: u32,
    /// Buffers left.
    pub vector_left: u32,
    pub service: u32,
    /// 1: the process reads these bytes.
    pub reads: u32,
    pub role: u32,
    /// 1: these bytes go towards the server.
    pub up: u32,
    /// How it ended: all bytes walked, or not to be understood.
    pub finished: u32,
    pub broken: u32,
    /// 1: other programs may interrupt this one and add to the same cells.
    pub shared: u32,
    /// What the connection's protocol is while nothing is known of it, and once it is Postgres: a `Protocol`.
    pub unknown: u32,
    pub postgres: u32,
    /// 1: the stream is over, and these are the [last words](steth_probes::postgres::last_words).
    pub over: u32,
}

// SAFETY: integers only, without a gap.
unsafe impl Plain for Walk {}
