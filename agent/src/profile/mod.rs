//! Profiles: from files of code to unwind tables, from addresses to names, from stacks to the formats that people read.

pub mod unwind;
