//! Unwind tables: made from files of code, kept on disk, and used on the host. The walk itself is in
//! [`steth_probes::unwind`]; the kernel's maps are filled by whoever loads it.

pub mod cache;
pub mod elf;
pub mod host;
mod rows;
mod rules;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use rows::CodeRange;
pub use table::{FileTable, Identity};

/// What is missing in a table, or that there may be mistakes in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Gap {
    /// The file has no call frame information.
    Nothing,
    /// A section cannot be read, from some place on.
    Section(String),
    /// What a function's rules are cannot be read.
    Function(String),
    /// More rows than are kept.
    TooManyRows,
    /// More work than is done for one file.
    TooMuchTime,
    /// Code that lies beyond the file's first 4 GiB.
    TooLarge,
    /// A section that is too long to be read, or compressed.
    Unread(String),
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "it has no call frame information"),
            Self::Section(why) => write!(f, "part of its call frame information cannot be read: {why}"),
            Self::Function(why) => write!(f, "what it says of some functions cannot be read: {why}"),
            Self::TooManyRows => write!(f, "it has more rules than are kept"),
            Self::TooMuchTime => write!(f, "its call frame information takes too long to read"),
            Self::TooLarge => write!(f, "code beyond its first 4 GiB is left out"),
            Self::Unread(section) => write!(f, "its section {section} is compressed or too long to be read"),
        }
    }
}
