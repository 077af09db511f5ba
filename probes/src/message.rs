//! The records that go through the ring buffer: only what is rare. Each begins with a [`Header`]; text follows it.

use crate::{cell::kinds, record::record};

kinds! {
    /// What a record tells.
    pub enum Kind {
        /// A piece of a statement's text.
        StatementText = 1,
        /// The name behind a database's number.
        DatabaseName = 2,
        /// The number of a cycle that held several different statements.
        Batch = 3,
        /// A process began to run an executable.
        Exec = 4,
        /// A process mapped a file that may hold code which nobody has looked at yet.
        Mapped = 5,
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
    /// A number that stands for a database's name, which follows, or for a batch, whose hash `hash` is.
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
