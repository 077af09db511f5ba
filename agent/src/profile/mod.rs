//! Profiles: from files of code to unwind tables, from addresses to names, from stacks to the formats that people read.

pub mod code;
pub mod mappings;
pub mod python;
pub mod symbols;
