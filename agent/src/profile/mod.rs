//! Profiles: from files of code to unwind tables, from addresses to names, from stacks to the formats that people read.

pub mod code;
pub mod format;
pub mod mappings;
pub mod symbols;
pub mod unwind;
