//! Profiles: from files of code to unwind tables, from addresses to names, from stacks to the formats that people read.

pub mod build;
pub mod code;
pub mod format;
pub mod gather;
pub mod mappings;
pub mod merge;
pub mod python;
pub mod room;
pub mod symbols;
pub mod unwind;
